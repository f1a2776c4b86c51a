//! Mounts as statmount(2) and listmount(2) report them: field by field, where mountinfo is text.
//!
//! A table that is read this way equals mountinfo's. If many mounts are slaves, it costs half as much: for each of them
//! mountinfo searches the peers of its master for one that the reader sees (`propagate_from`). Nothing here needs that.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::general as raw;
use mounts::mountinfo::{self, Table};
use mounts::propagation::PropagationState;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::namespace::Proc;

/// What mountinfo shows of a mount, without the options of the file system, which nothing here needs.
const ALL: u32 = raw::STATMOUNT_SB_BASIC
    | raw::STATMOUNT_MNT_BASIC
    | raw::STATMOUNT_MNT_ROOT
    | raw::STATMOUNT_MNT_POINT
    | raw::STATMOUNT_FS_TYPE
    | raw::STATMOUNT_FS_SUBTYPE
    | raw::STATMOUNT_SB_SOURCE;
/// The same without the mount's source.
const SELECTED: u32 = ALL & !raw::STATMOUNT_SB_SOURCE;
/// `LSMT_ROOT` as the kernel reads it: the reader's root.
const ROOT: u64 = u64::MAX;
/// How many ids to ask for at once. The kernel releases its lock in between.
const LISTED: usize = 2048;

/// After this many mounts, yield the processor: calls use several threads, each for a short time.
const BREATH: usize = 64;

/// The same items, with a yield now and then.
pub fn in_breaths<T>(all: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
    all.into_iter().enumerate().map(|(number, one)| {
        if number % BREATH == 0 {
            std::thread::yield_now();
        }
        one
    })
}

/// The answer of statmount(2), with room for its texts.
#[repr(C)]
struct Answer {
    fixed: raw::statmount,
    text: [u8; 12288],
}

impl Answer {
    fn new() -> Box<Self> {
        // SAFETY: the structure is plain integers, for which zeroes are values.
        unsafe { Box::<Self>::new_zeroed().assume_init() }
    }

    /// Asks for a mount by its unique id, in the namespace of an id. 0 is this thread's own.
    fn ask(&mut self, id: u64, namespace: u64, wanted: u32) -> Result<(), Errno> {
        let request = request(id, namespace, u64::from(wanted));
        // SAFETY: `request` outlives the call and has the size it states; the answer is as large as the size passed.
        let result = unsafe {
            let answer: *mut Self = self;
            libc::syscall(i64::from(raw::__NR_statmount), &raw const request, answer, size_of::<Self>(), 0)
        };
        Errno::result(result).map(|_| ())
    }

    fn has(&self, part: u32) -> bool {
        self.fixed.mask & u64::from(part) != 0
    }

    /// The text at an offset of the answer.
    fn text(&self, offset: u32) -> Result<&[u8], Errno> {
        let text = self.text.get(usize::try_from(offset).unwrap_or(usize::MAX)..);
        text.and_then(|text| CStr::from_bytes_until_nul(text).ok()).map(CStr::to_bytes).ok_or(Errno::EIO)
    }

    /// A mount from an answer to [`SELECTED`], with unique ids.
    fn by_unique_id(&self) -> Result<mountinfo::Mount, Errno> {
        Ok(mountinfo::Mount { id: self.fixed.mnt_id, parent: self.fixed.mnt_parent_id, ..self.mount()? })
    }

    /// A mount from an answer to [`ALL`]. If the answer lacks the source, it is empty.
    fn mount(&self) -> Result<mountinfo::Mount, Errno> {
        let fixed = &self.fixed;
        let group = |n: u64| (n != 0).then_some(n);
        let root = self.text(fixed.mnt_root)?;
        let living = root.strip_suffix(b"//deleted");
        let mut fs_type = String::from_utf8_lossy(self.text(fixed.fs_type)?).into_owned();
        if self.has(raw::STATMOUNT_FS_SUBTYPE) {
            fs_type = format!("{fs_type}.{}", String::from_utf8_lossy(self.text(fixed.fs_subtype)?));
        }
        let source = if self.has(raw::STATMOUNT_SB_SOURCE) { self.text(fixed.sb_source)? } else { b"" };
        Ok(mountinfo::Mount {
            id: u64::from(fixed.mnt_id_old),
            parent: u64::from(fixed.mnt_parent_id_old),
            device: (fixed.sb_dev_major, fixed.sb_dev_minor),
            root: OsStr::from_bytes(living.unwrap_or(root)).into(),
            root_deleted: living.is_some(),
            mount_point: OsStr::from_bytes(self.text(fixed.mnt_point)?).into(),
            options: options(fixed.mnt_attr),
            propagation: PropagationState {
                peer_group: group(fixed.mnt_peer_group),
                master: group(fixed.mnt_master),
                unbindable: fixed.mnt_propagation & libc::MS_UNBINDABLE != 0,
            },
            fs_type,
            source: OsStr::from_bytes(source).to_owned(),
        })
    }
}

fn request(id: u64, namespace: u64, param: u64) -> raw::mnt_id_req {
    raw::mnt_id_req {
        // Kernels 6.8 and 6.9 know no namespace field.
        size: if namespace == 0 { raw::MNT_ID_REQ_SIZE_VER0 } else { raw::MNT_ID_REQ_SIZE_VER1 },
        spare: 0,
        mnt_id: id,
        param,
        mnt_ns_id: namespace,
    }
}

/// The per-mount options in the words and the order of mountinfo (fs/proc_namespace.c `show_mnt_opts`).
fn options(attributes: u64) -> String {
    let has = |flag: u32| attributes & u64::from(flag) != 0;
    let mut options = String::from(if has(raw::MOUNT_ATTR_RDONLY) { "ro" } else { "rw" });
    let words = [
        (has(raw::MOUNT_ATTR_NOSUID), ",nosuid"),
        (has(raw::MOUNT_ATTR_NODEV), ",nodev"),
        (has(raw::MOUNT_ATTR_NOEXEC), ",noexec"),
        (has(raw::MOUNT_ATTR_NOATIME), ",noatime"),
        (has(raw::MOUNT_ATTR_NODIRATIME), ",nodiratime"),
        // Its bits are 0: neither of the others is set (mount_setattr(2)).
        (!has(raw::MOUNT_ATTR__ATIME), ",relatime"),
        (has(raw::MOUNT_ATTR_NOSYMFOLLOW), ",nosymfollow"),
        (has(raw::MOUNT_ATTR_IDMAP), ",idmapped"),
    ];
    words.into_iter().filter(|(set, _)| *set).for_each(|(_, word)| options.push_str(word));
    options
}

/// A mount by its unique id, as mountinfo would show it to a process at the root of its namespace. `namespace` is the
/// namespace's id ([`super::namespace::MountNamespace::id`]; Linux 6.12). Linux 6.13 and later tell the source.
///
/// # Errors
/// ENOENT: it isn't in that namespace (any more). EPERM: no `CAP_SYS_ADMIN` over it.
pub(super) fn mount_in(id: u64, namespace: u64) -> Result<mountinfo::Mount, Errno> {
    let mut answer = Answer::new();
    answer.ask(id, namespace, ALL)?;
    answer.mount()
}

/// The directory that a mount shows, as mountinfo names it, and whether it was deleted. The mount is given by its
/// unique id. No file system is asked.
///
/// # Errors
/// ENOENT: the mount isn't in this thread's namespace (any more).
pub(super) fn root(id: u64) -> Result<(PathBuf, bool), Errno> {
    let mut answer = Answer::new();
    answer.ask(id, 0, raw::STATMOUNT_MNT_ROOT)?;
    let root = answer.text(answer.fixed.mnt_root)?;
    let living = root.strip_suffix(b"//deleted");
    Ok((PathBuf::from(OsStr::from_bytes(living.unwrap_or(root))), living.is_some()))
}

/// The mount points of the calling thread's namespace, one after the other.
///
/// # Errors
/// What listmount(2) and statmount(2) say. A mount that goes away meanwhile is left out.
pub(super) fn points(see: &mut dyn FnMut(&Path)) -> Result<(), Errno> {
    points_of(&list()?, see)
}

/// The mount points of the mounts with these unique ids, seen from the calling thread's root. A mount that isn't in its
/// namespace (any more) is left out.
///
/// # Errors
/// What statmount(2) says.
pub(super) fn points_of(ids: &[u64], see: &mut dyn FnMut(&Path)) -> Result<(), Errno> {
    let mut answer = Answer::new();
    for &id in ids {
        match answer.ask(id, 0, raw::STATMOUNT_MNT_POINT) {
            Ok(()) => see(Path::new(OsStr::from_bytes(answer.text(answer.fixed.mnt_point)?))),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The mounts of the calling thread's namespace at the wanted mount points, in mountinfo's order. Unlike mountinfo, it
/// has unique ids, also for parents, and lacks the sources.
///
/// # Errors
/// As [`points`].
pub(super) fn select(wanted: &mut dyn FnMut(&Path) -> bool) -> Result<Table, Errno> {
    let mut table = Table { unique_ids: true, ..Table::default() };
    let mut answer = Answer::new();
    for id in in_breaths(list()?) {
        match answer.ask(id, 0, SELECTED) {
            Ok(()) if wanted(Path::new(OsStr::from_bytes(answer.text(answer.fixed.mnt_point)?))) => {
                table.mounts.push(answer.by_unique_id()?);
            }
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(table)
}

/// The mounts with these unique ids and their parent mounts, up to the calling thread's root: all that a walk to them
/// passes. The fields are as in [`select`].
///
/// # Errors
/// ENOENT: one of them isn't in this thread's namespace (any more).
pub(super) fn ways_to(ids: &[u64]) -> Result<Table, Errno> {
    let mut table = Table { unique_ids: true, ..Table::default() };
    let mut answer = Answer::new();
    for &id in ids {
        let mut at = id;
        while table.mounts.iter().all(|mount| mount.id != at) {
            answer.ask(at, 0, SELECTED)?;
            let mount = answer.by_unique_id()?;
            // No walk passes the root's parent.
            let (parent, top) = (mount.parent, mount.mount_point == Path::new("/"));
            table.mounts.push(mount);
            if top {
                break;
            }
            at = parent;
        }
    }
    Ok(table)
}

/// The calling thread's mount table, equal to what [`Proc::table`] and [`mountinfo::parse`] make of its mountinfo, and
/// whether something was mounted or unmounted while it was read. That can happen: each mount takes one call, and the
/// kernel releases its lock in between.
///
/// # Errors
/// EOPNOTSUPP: the source of a mount is missing, because the kernel is older than 6.13 or the mount has none. ENOSYS,
/// EPERM: the calls can't be made at all. Else what open(2) and poll(2) say.
pub(super) fn table(proc: &Proc) -> Result<(Table, bool), Errno> {
    // Opened for poll(2), which tells of later changes. It is not read.
    let watched = File::from(proc.open("thread-self/mountinfo")?);
    let mut table = Table::default();
    let mut gone = false;
    let mut answer = Answer::new();
    let ids = list()?;
    table.mounts.reserve(ids.len());
    for id in ids {
        match answer.ask(id, 0, ALL) {
            Ok(()) if answer.has(raw::STATMOUNT_SB_SOURCE) => table.mounts.push(answer.mount()?),
            Ok(()) => return Err(Errno::EOPNOTSUPP),
            Err(Errno::ENOENT) => gone = true,
            Err(errno) => return Err(errno),
        }
    }
    let changed = poll(&mut [PollFd::new(watched.as_fd(), PollFlags::POLLPRI)], PollTimeout::ZERO)? != 0;
    Ok((table, changed || gone))
}

/// The unique ids of the mounts beneath the calling thread's root, itself included, in mountinfo's order (listmount(2),
/// Linux 6.8).
fn list() -> Result<Vec<u64>, Errno> {
    let mut ids = Vec::new();
    let mut batch = [0_u64; LISTED];
    loop {
        let request = request(ROOT, 0, ids.last().copied().unwrap_or(0));
        // SAFETY: `request` outlives the call and has the size it states; `batch` has room for the count passed.
        let result =
            unsafe { libc::syscall(i64::from(raw::__NR_listmount), &raw const request, batch.as_mut_ptr(), LISTED, 0) };
        let count = usize::try_from(Errno::result(result)?).map_err(|_| Errno::EIO)?;
        ids.extend(batch.iter().take(count));
        if count < LISTED {
            return Ok(ids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_the_words_of_mountinfo() {
        assert_eq!(options(0), "rw,relatime");
        assert_eq!(options(u64::from(raw::MOUNT_ATTR_STRICTATIME)), "rw");
        let flags = raw::MOUNT_ATTR_RDONLY | raw::MOUNT_ATTR_NOSUID | raw::MOUNT_ATTR_NODEV | raw::MOUNT_ATTR_NOEXEC;
        let flags = flags | raw::MOUNT_ATTR_NOATIME | raw::MOUNT_ATTR_NODIRATIME;
        assert_eq!(options(u64::from(flags)), "ro,nosuid,nodev,noexec,noatime,nodiratime");
        assert_eq!(
            options(u64::from(raw::MOUNT_ATTR_NOSYMFOLLOW | raw::MOUNT_ATTR_IDMAP)),
            "rw,relatime,nosymfollow,idmapped"
        );
    }
}
