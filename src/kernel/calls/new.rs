//! The operations with the newer calls.

use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use linux_raw_sys::general as raw;
use mounts::propagation::PropagationState;
use mounts::{Change, MountAttrs, MountFacts};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OpenHow, ResolveFlag, openat2};

use crate::mount;
use crate::path::{Use, flags};
use crate::stat::{AtName, DIRECTORY, DirStat, Known, Seen, directory_of, is_dead, statx};

pub(super) fn open_absolute(path: &Path, wanted: Use) -> Result<OwnedFd, Errno> {
    let plain = |relative: &Path| relative.components().all(|part| matches!(part, Component::Normal(_)));
    if !path.strip_prefix("/").is_ok_and(plain) {
        return Err(Errno::EXDEV);
    }
    resolve(AT_FDCWD, path, ResolveFlag::empty(), wanted)
}

pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    resolve(root, path, ResolveFlag::RESOLVE_BENEATH, Use::Name)
}

fn resolve(root: BorrowedFd<'_>, path: &Path, how: ResolveFlag, wanted: Use) -> Result<OwnedFd, Errno> {
    let resolve = how | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags(wanted)).resolve(resolve);
    // EAGAIN: a rename or mount somewhere raced with the check for "..". openat2(2) says to try again.
    for _ in 0..16 {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::EAGAIN)
}

pub(super) fn move_to(root: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
    move_mount(root, (parent, &name), 0)
}

pub(super) fn move_beneath(root: BorrowedFd<'_>, top: BorrowedFd<'_>) -> Result<(), Errno> {
    move_mount(root, (top, c""), raw::MOVE_MOUNT_T_EMPTY_PATH | raw::MOVE_MOUNT_BENEATH)
}

fn move_mount(root: BorrowedFd<'_>, (dir, name): (BorrowedFd<'_>, &CStr), flags: u32) -> Result<(), Errno> {
    // SAFETY: both descriptors are open, both paths NUL-terminated strings.
    let result = unsafe {
        libc::syscall(
            i64::from(raw::__NR_move_mount),
            root.as_raw_fd(),
            c"".as_ptr(),
            dir.as_raw_fd(),
            name.as_ptr(),
            raw::MOVE_MOUNT_F_EMPTY_PATH | flags,
        )
    };
    Errno::result(result).map(drop)
}

/// Why [`move_beneath`] can't be done. A kernel answers EINVAL to an unknown flag before it looks at anything else.
pub(super) fn refusal_of_beneath() -> Option<Errno> {
    // SAFETY: both paths are empty NUL-terminated strings, and -1 is no descriptor.
    let result = unsafe {
        libc::syscall(
            i64::from(raw::__NR_move_mount),
            -1,
            c"".as_ptr(),
            -1,
            c"".as_ptr(),
            raw::MOVE_MOUNT_F_EMPTY_PATH | raw::MOVE_MOUNT_T_EMPTY_PATH | raw::MOVE_MOUNT_BENEATH,
        )
    };
    (result == -1).then(Errno::last).filter(|&errno| errno != Errno::EBADF)
}

/// The flags as bits for mount_setattr(2).
const fn attr_bits(attrs: MountAttrs) -> u32 {
    let mut bits = 0;
    if attrs.read_only {
        bits |= raw::MOUNT_ATTR_RDONLY;
    }
    if attrs.nosuid {
        bits |= raw::MOUNT_ATTR_NOSUID;
    }
    if attrs.nodev {
        bits |= raw::MOUNT_ATTR_NODEV;
    }
    if attrs.noexec {
        bits |= raw::MOUNT_ATTR_NOEXEC;
    }
    bits
}

pub(super) fn change(root: BorrowedFd<'_>, change: Change, recursive: bool) -> Result<(), Errno> {
    let attributes = raw::mount_attr {
        attr_set: u64::from(attr_bits(change.attrs)),
        attr_clr: 0,
        propagation: change.propagation.map_or(0, |kind| mount::flags_of(kind).bits()),
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `root` is open, the path is an empty NUL-terminated string, and `attributes` is a live structure
    // of the size passed.
    let result = unsafe {
        libc::syscall(
            i64::from(raw::__NR_mount_setattr),
            root.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<raw::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

pub(super) fn mount_id(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC;
    Ok(statx(fd, c"", flags, raw::STATX_MNT_ID_UNIQUE)?.stx_mnt_id)
}

pub(super) fn mount(fd: BorrowedFd<'_>) -> Result<MountFacts, Errno> {
    facts(mount_id(fd)?)
}

/// Takes one call for the directory and one for the mount.
pub(super) fn seen(fd: BorrowedFd<'_>) -> Result<Seen, Errno> {
    let Named { dir, mount_id, .. } = named(fd, c"")?;
    Ok(Seen { dir, mount: facts(mount_id)? })
}

pub(super) fn at_name(parent: BorrowedFd<'_>, name: &OsStr) -> Result<AtName, Errno> {
    let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
    let Named { dir, is_mount, mount_id, mode } = named(parent, &name)?;
    Ok(match mode & libc::S_IFMT {
        _ if is_mount => AtName::Mount(Seen { dir, mount: facts(mount_id)? }),
        libc::S_IFDIR => AtName::Directory,
        kind => AtName::Other { symlink: kind == libc::S_IFLNK },
    })
}

pub(super) fn at_name_as_known(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Known, Errno> {
    let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
    let flags = libc::AT_NO_AUTOMOUNT | libc::AT_SYMLINK_NOFOLLOW | libc::AT_STATX_DONT_SYNC;
    let found = statx(parent, &name, flags, libc::STATX_TYPE)?;
    Ok(match u32::from(found.stx_mode) & libc::S_IFMT {
        _ if found.stx_attributes & u64::from(raw::STATX_ATTR_MOUNT_ROOT) != 0 => Known::Mount,
        libc::S_IFDIR => Known::Directory,
        kind => Known::Other { symlink: kind == libc::S_IFLNK },
    })
}

struct Named {
    dir: Result<DirStat, Errno>,
    is_mount: bool,
    mount_id: u64,
    mode: u32,
}

/// Asks the file system. If that is dead, asks the kernel alone, which still knows the mount.
fn named(parent: BorrowedFd<'_>, name: &CStr) -> Result<Named, Errno> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT | libc::AT_SYMLINK_NOFOLLOW;
    let ask = |sync| statx(parent, name, flags | sync, DIRECTORY | raw::STATX_MNT_ID_UNIQUE);
    let (dir, found) = match ask(libc::AT_STATX_FORCE_SYNC) {
        Ok(found) => (Ok(directory_of(&found)), found),
        Err(errno) if is_dead(errno) => (Err(errno), ask(libc::AT_STATX_DONT_SYNC).map_err(|_| errno)?),
        Err(errno) => return Err(errno),
    };
    let is_mount = found.stx_attributes & u64::from(raw::STATX_ATTR_MOUNT_ROOT) != 0;
    Ok(Named { dir, is_mount, mount_id: found.stx_mnt_id, mode: found.stx_mode.into() })
}

/// The flags of `MOUNT_ATTR_*` bits, as statmount(2) gives them.
const fn attrs_of(bits: u64) -> MountAttrs {
    MountAttrs {
        read_only: bits & raw::MOUNT_ATTR_RDONLY as u64 != 0,
        nosuid: bits & raw::MOUNT_ATTR_NOSUID as u64 != 0,
        nodev: bits & raw::MOUNT_ATTR_NODEV as u64 != 0,
        noexec: bits & raw::MOUNT_ATTR_NOEXEC as u64 != 0,
    }
}

/// What statmount(2) says of a mount, in a small answer on the stack. Each publish asks for it.
fn facts(id: u64) -> Result<MountFacts, Errno> {
    let request = raw::mnt_id_req {
        // The first published size: kernels 6.8 and 6.9 know no namespace field.
        size: raw::MNT_ID_REQ_SIZE_VER0,
        spare: 0,
        mnt_id: id,
        param: u64::from(raw::STATMOUNT_MNT_BASIC),
        mnt_ns_id: 0,
    };
    let mut answer = MaybeUninit::<raw::statmount>::zeroed();
    // SAFETY: `request` outlives the call and has the size it states; `answer` is as large as the size passed.
    let result = unsafe {
        libc::syscall(
            i64::from(raw::__NR_statmount),
            &raw const request,
            answer.as_mut_ptr(),
            size_of::<raw::statmount>(),
            0,
        )
    };
    Errno::result(result)?;
    // SAFETY: the structure is plain integers, was zeroed, and the call succeeded.
    let found = unsafe { answer.assume_init() };
    let group = |n: u64| (n != 0).then_some(n);
    Ok(MountFacts {
        id,
        propagation: PropagationState {
            peer_group: group(found.mnt_peer_group),
            master: group(found.mnt_master),
            unbindable: found.mnt_propagation & libc::MS_UNBINDABLE != 0,
        },
        attrs: attrs_of(found.mnt_attr),
    })
}
