//! The directory and mount behind a descriptor: identity, liveness, propagation, flags.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use mounts::{DirId, MountFacts};
use nix::errno::Errno;

use super::namespace::Proc;

/// What has to be known of a directory before it is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirStat {
    /// Its identity.
    pub id: DirId,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Whether it was deleted (no link leads to it any more).
    pub deleted: bool,
}

/// How fresh a stat must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Ask the file system itself. A dead one answers ENOTCONN or ESTALE, a hung one not at all.
    Live,
    /// Take what the kernel has. Never waits, and works on a dead file system.
    Cached,
}

pub(super) fn statx(fd: BorrowedFd<'_>, name: &CStr, flags: i32, mask: u32) -> Result<libc::statx, Errno> {
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `fd` is open, `name` is NUL-terminated, and `buffer` has the size of the structure that statx fills.
    let result = unsafe { libc::statx(fd.as_raw_fd(), name.as_ptr(), flags, mask, buffer.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: the structure is plain integers, was zeroed, and the call succeeded.
    Ok(unsafe { buffer.assume_init() })
}

pub(super) const DIRECTORY: u32 = libc::STATX_TYPE | libc::STATX_INO | libc::STATX_NLINK;

pub(super) fn directory_of(found: &libc::statx) -> DirStat {
    DirStat {
        id: DirId { device: (found.stx_dev_major, found.stx_dev_minor), inode: found.stx_ino },
        is_dir: u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFDIR,
        deleted: found.stx_nlink == 0,
    }
}

/// The directory behind a descriptor.
///
/// # Errors
/// ENOTCONN, ESTALE, EIO, EHOSTDOWN: the file system is dead ([`is_dead`]). With [`Freshness::Live`] it may hang.
pub fn directory(fd: impl AsFd, freshness: Freshness) -> Result<DirStat, Errno> {
    let sync = match freshness {
        Freshness::Live => libc::AT_STATX_FORCE_SYNC,
        Freshness::Cached => libc::AT_STATX_DONT_SYNC,
    };
    let found = statx(fd.as_fd(), c"", libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT | sync, DIRECTORY)?;
    Ok(directory_of(&found))
}

/// What a directory's file system says of it now, or that the file system is dead; and the mount that it lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The directory.
    pub dir: Result<DirStat, Errno>,
    /// The mount.
    pub mount: MountFacts,
}

/// What is at a name in a directory, without a descriptor of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtName {
    /// A directory on which nothing is mounted.
    Directory,
    /// Something else on which nothing is mounted.
    Other {
        /// Whether it is a symlink.
        symlink: bool,
    },
    /// A mount.
    Mount(Seen),
}

/// What is at a name in a directory, opened if it is a directory.
#[derive(Debug)]
pub enum Opened {
    /// A directory on which nothing is mounted.
    Directory(OwnedFd),
    /// Something else.
    Other {
        /// Whether it is a symlink.
        symlink: bool,
    },
    /// A mount, by its root.
    Mount(OwnedFd),
}

/// What is at a name, as the kernel knows it without asking the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// A mount.
    Mount,
    /// A directory on which nothing is mounted.
    Directory,
    /// Something else on which nothing is mounted.
    Other {
        /// Whether it is a symlink.
        symlink: bool,
    },
}

/// When the directory behind a descriptor was made, if its file system records that. Takes what the kernel has.
///
/// # Errors
/// What statx(2) says.
pub fn birth_time(fd: impl AsFd) -> Result<Option<SystemTime>, Errno> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC;
    let found = statx(fd.as_fd(), c"", flags, libc::STATX_BTIME)?;
    Ok(birth_of(&found))
}

/// The owner of a directory, and when it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// The directory.
    pub id: DirId,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Permissions, with set-user-id, set-group-id and sticky bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was made, if its file system records that.
    pub born: Option<SystemTime>,
}

/// The owner of the directory behind a descriptor, or, with a name, of what has it in there. Follows no symlink.
///
/// # Errors
/// What statx(2) says. ENOENT: the name doesn't exist.
pub fn ownership(fd: impl AsFd, name: Option<&OsStr>) -> Result<Ownership, Errno> {
    let name = CString::new(name.map_or(&[][..], OsStr::as_bytes)).map_err(|_| Errno::EINVAL)?;
    let flags = libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT | libc::AT_SYMLINK_NOFOLLOW;
    let wanted = DIRECTORY | libc::STATX_MODE | libc::STATX_UID | libc::STATX_GID | libc::STATX_BTIME;
    let found = statx(fd.as_fd(), &name, flags, wanted)?;
    let DirStat { id, is_dir, .. } = directory_of(&found);
    let mode = u32::from(found.stx_mode) & 0o7777;
    Ok(Ownership { id, is_dir, mode, uid: found.stx_uid, gid: found.stx_gid, born: birth_of(&found) })
}

fn birth_of(found: &libc::statx) -> Option<SystemTime> {
    let since_epoch = u64::try_from(found.stx_btime.tv_sec).ok().map(|s| Duration::new(s, found.stx_btime.tv_nsec));
    let kept = found.stx_mask & libc::STATX_BTIME != 0;
    since_epoch.filter(|_| kept).and_then(|time| SystemTime::UNIX_EPOCH.checked_add(time))
}

/// The clock of file systems' timestamps: no directory made from now on has an earlier birth time.
///
/// # Errors
/// What clock_gettime(2) says.
pub fn now_as_dated() -> Result<SystemTime, Errno> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME_COARSE)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from(now)).ok_or(Errno::EOVERFLOW)
}

/// Magic numbers (linux/magic.h) of the file systems that only this kernel changes: ext2 to ext4, XFS, Btrfs, tmpfs,
/// overlayfs (new directories are in its upper layer, which is one of these), F2FS, bcachefs, ZFS.
const LOCAL: [u64; 8] =
    [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630, 0xF2F5_2010, 0xCA45_1A4E, 0x2FC1_2FC1];

/// Whether only this kernel changes the file system of a directory: no FUSE, no network.
///
/// # Errors
/// What fstatfs(2) says.
pub fn is_local(fd: impl AsFd) -> Result<bool, Errno> {
    let magic = nix::sys::statfs::fstatfs(fd)?.filesystem_type().0;
    // The type's width and sign depend on the architecture. The numbers have 32 bits.
    Ok(u64::try_from(i128::from(magic) & 0xFFFF_FFFF).is_ok_and(|magic| LOCAL.contains(&magic)))
}

/// Whether an error means that the file system's server is gone, rather than the directory missing.
#[must_use]
pub const fn is_dead(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOTCONN | Errno::ESTALE | Errno::EIO | Errno::EHOSTDOWN | Errno::ECONNABORTED | Errno::ESHUTDOWN
    )
}

/// The id that mountinfo has for the mount of a descriptor. It is reused when the mount is gone.
///
/// # Errors
/// What the kernel says. None is usual for an open descriptor.
pub fn mountinfo_id(proc: &Proc, fd: impl AsFd) -> Result<u64, Errno> {
    // fdinfo has had the id since Linux 3.15. Reading it doesn't ask the file system.
    let mut text = String::new();
    let info = proc.open(&format!("self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    File::from(info).read_to_string(&mut text).map_err(|_| Errno::EIO)?;
    text.lines().find_map(|l| l.strip_prefix("mnt_id:")).and_then(|id| id.trim().parse().ok()).ok_or(Errno::EIO)
}

/// Bytes and inodes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes: total, used, available to an ordinary user.
    pub bytes: [u64; 3],
    /// Inodes: total, used, available.
    pub inodes: [u64; 3],
}

/// How full the file system behind a descriptor is.
///
/// # Errors
/// What fstatfs(2) says. A dead file system answers ENOTCONN or ESTALE, a hung one not at all.
pub fn usage(fd: impl AsFd) -> Result<Usage, Errno> {
    let found = nix::sys::statvfs::fstatvfs(fd)?;
    let unit = found.fragment_size();
    let bytes = |blocks: u64| blocks.saturating_mul(unit);
    Ok(Usage {
        bytes: [
            bytes(found.blocks()),
            bytes(found.blocks().saturating_sub(found.blocks_free())),
            bytes(found.blocks_available()),
        ],
        inodes: [found.files(), found.files().saturating_sub(found.files_free()), found.files_available()],
    })
}
