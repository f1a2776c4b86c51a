//! The mount calls that every kernel has: bind, set a propagation, unmount, each on descriptors. Calls with a fall-back
//! are in [`super::calls`].

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use linux_raw_sys::general as raw;
use mounts::propagation::{Propagation, PropagationKind};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::namespace::fd_path;

pub(super) const NO_PATH: Option<&str> = None;

pub(super) const fn flags_of(kind: PropagationKind) -> MsFlags {
    match kind {
        PropagationKind::Private => MsFlags::MS_PRIVATE,
        PropagationKind::Shared => MsFlags::MS_SHARED,
        PropagationKind::Slave => MsFlags::MS_SLAVE,
        PropagationKind::Unbindable => MsFlags::MS_UNBINDABLE,
    }
}

/// Binds a directory with all mounts beneath it onto another directory, in one atomic step.
///
/// This uses the old call on purpose. open_tree(2) would make the same copy *detached*. A detached tree receives no
/// mount events until it is attached, so a mount made on the source in between would be missing for ever.
///
/// # Errors
/// EINVAL: the source is unbindable or not in this namespace. ENOSPC: the namespace is at `fs.mount-max`.
pub fn bind_recursive(source: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    mount(
        Some(fd_path(source.as_fd()).as_str()),
        fd_path(target.as_fd()).as_str(),
        NO_PATH,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NO_PATH,
    )
}

/// A copy of a directory, attached nowhere (open_tree(2), Linux 5.2). With `recursive`, it has all mounts beneath too.
/// It receives no mount events until it is attached. If it is dropped before, it is unmounted.
///
/// # Errors
/// EINVAL: the directory's mount is unbindable or not in this namespace, or the copy would omit mounts locked on it.
pub fn copy_tree(of: impl AsFd, recursive: bool) -> Result<OwnedFd, Errno> {
    let at = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = raw::OPEN_TREE_CLONE | raw::OPEN_TREE_CLOEXEC | u32::try_from(at).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `of` is open, the path is an empty NUL-terminated string.
    let result = unsafe { libc::syscall(i64::from(raw::__NR_open_tree), of.as_fd().as_raw_fd(), c"".as_ptr(), flags) };
    let fd = i32::try_from(Errno::result(result)?).map_err(|_| Errno::EMFILE)?;
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets one propagation type, with the old call: `mount --make-…`.
///
/// # Errors
/// EINVAL: `root` is not the root of a mount.
pub fn set_propagation(root: impl AsFd, order: Propagation) -> Result<(), Errno> {
    let recursive = if order.recursive { MsFlags::MS_REC } else { MsFlags::empty() };
    mount(NO_PATH, fd_path(root.as_fd()).as_str(), NO_PATH, flags_of(order.kind) | recursive, NO_PATH)
}

/// Checks whether mount(2) is allowed at a directory, and changes nothing. It asks for shared and private at once: that
/// passes the security modules and the check for `CAP_SYS_ADMIN`, and is then refused as invalid.
///
/// # Errors
/// EPERM: no `CAP_SYS_ADMIN`, or a seccomp profile. EACCES: AppArmor or SELinux.
pub fn is_allowed(at: impl AsFd) -> Result<(), Errno> {
    match mount(NO_PATH, fd_path(at.as_fd()).as_str(), NO_PATH, MsFlags::MS_SHARED | MsFlags::MS_PRIVATE, NO_PATH) {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        other => other,
    }
}

/// How to unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// Only if nothing is mounted beneath it and nothing is in use.
    IfIdle,
    /// At once, with everything beneath. What is in use stays usable until it is closed.
    Detach,
}

/// Unmounts the topmost mount at a name in a directory. Follows no symlink and asks no file system.
///
/// # Errors
/// EINVAL: nothing is mounted there. ENOENT: the name doesn't exist. EBUSY with [`Unmount::IfIdle`].
pub fn unmount(parent: impl AsFd, name: &OsStr, how: Unmount) -> Result<(), Errno> {
    let path = Path::new(&fd_path(parent.as_fd())).join(name);
    let detach = match how {
        Unmount::IfIdle => MntFlags::empty(),
        Unmount::Detach => MntFlags::MNT_DETACH,
    };
    umount2(&path, MntFlags::UMOUNT_NOFOLLOW | detach)
}

/// Mounts an empty tmpfs of 64 KiB, readable by root only, onto a directory.
///
/// # Errors
/// What mount(2) says.
pub fn small_tmpfs(target: impl AsFd) -> Result<(), Errno> {
    mount(
        Some("hostmount"),
        fd_path(target.as_fd()).as_str(),
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("size=64k,mode=0700"),
    )
}
