//! The mount calls: bind, change, move, unmount, each on descriptors.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use linux_raw_sys::general as raw;
use mounts::propagation::{Propagation, PropagationKind};
use mounts::{Change, MountAttrs, mountinfo};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::calls::Calls;
use super::namespace::{Proc, fd_path};
use super::stat;

const NO_PATH: Option<&str> = None;

const fn flags_of(kind: PropagationKind) -> MsFlags {
    match kind {
        PropagationKind::Private => MsFlags::MS_PRIVATE,
        PropagationKind::Shared => MsFlags::MS_SHARED,
        PropagationKind::Slave => MsFlags::MS_SLAVE,
        PropagationKind::Unbindable => MsFlags::MS_UNBINDABLE,
    }
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

/// Binds a directory with all mounts beneath it onto another directory, in one atomic step.
///
/// The old call on purpose: open_tree(2) would make the same copy *detached*, and a detached tree receives no
/// mount events until it is attached, so that a mount made on the source in between would be missing for ever.
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

/// A copy of a directory, with `recursive` also of all mounts beneath it, attached nowhere (open_tree(2), Linux 5.2). It
/// receives no mount events until it is attached, and goes away when it is dropped before that.
///
/// # Errors
/// EINVAL: the directory's mount is unbindable or not in this namespace, or what is locked on it would be left out.
pub fn copy_tree(of: impl AsFd, recursive: bool) -> Result<OwnedFd, Errno> {
    let at = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = raw::OPEN_TREE_CLONE | raw::OPEN_TREE_CLOEXEC | u32::try_from(at).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `of` is open, the path is an empty NUL-terminated string.
    let result = unsafe { libc::syscall(i64::from(raw::__NR_open_tree), of.as_fd().as_raw_fd(), c"".as_ptr(), flags) };
    let fd = i32::try_from(Errno::result(result)?).map_err(|_| Errno::EMFILE)?;
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Changes the mount that `root` is the root of, and with `recursive` every mount beneath it.
///
/// With mount_setattr(2) that is one atomic step. Without, propagation is one step and the flags are one step a
/// mount, so a mount that arrives in between may lack them: that is why the call is preferred.
///
/// # Errors
/// EINVAL: `root` is not the root of a mount. EPERM: a flag is locked by a user namespace.
pub fn change(proc: &Proc, calls: Calls, root: impl AsFd, change: Change, recursive: bool) -> Result<(), Errno> {
    let root = root.as_fd();
    if calls.mount_setattr {
        let attributes = raw::mount_attr {
            attr_set: u64::from(attr_bits(change.attrs)),
            attr_clr: 0,
            propagation: change.propagation.map_or(0, |kind| flags_of(kind).bits()),
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
        return Errno::result(result).map(drop);
    }
    if let Some(kind) = change.propagation {
        set_propagation(root, Propagation { kind, recursive })?;
    }
    if change.attrs != MountAttrs::default() {
        remount_each(proc, root, change.attrs, recursive)?;
    }
    Ok(())
}

/// Orders one propagation type, with the old call: `mount --make-…`.
///
/// # Errors
/// EINVAL: `root` is not the root of a mount.
pub fn set_propagation(root: impl AsFd, order: Propagation) -> Result<(), Errno> {
    let recursive = if order.recursive { MsFlags::MS_REC } else { MsFlags::empty() };
    mount(NO_PATH, fd_path(root.as_fd()).as_str(), NO_PATH, flags_of(order.kind) | recursive, NO_PATH)
}

/// Asks whether mount(2) would be let through at a directory, and changes nothing: an order to make it shared and
/// private at once passes the security modules and the check for `CAP_SYS_ADMIN`, and is then refused as nonsense.
///
/// # Errors
/// EPERM: no `CAP_SYS_ADMIN`, or a seccomp profile. EACCES: AppArmor or SELinux.
pub fn is_allowed(at: impl AsFd) -> Result<(), Errno> {
    match mount(NO_PATH, fd_path(at.as_fd()).as_str(), NO_PATH, MsFlags::MS_SHARED | MsFlags::MS_PRIVATE, NO_PATH) {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        other => other,
    }
}

/// Adds flags mount by mount. A bind remount replaces all flags of a mount, so its present ones are named again.
fn remount_each(proc: &Proc, root: impl AsFd, attrs: MountAttrs, recursive: bool) -> Result<(), Errno> {
    let id = stat::mount_id(proc, Calls::NONE, &root)?;
    let table = mountinfo::parse(&proc.mountinfo()?);
    let Some(top) = table.mounts.iter().find(|m| m.id == id) else { return Err(Errno::EINVAL) };
    let remount = |path: &str, options: &str| {
        let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        for (name, flag) in [
            ("ro", MsFlags::MS_RDONLY),
            ("nosuid", MsFlags::MS_NOSUID),
            ("nodev", MsFlags::MS_NODEV),
            ("noexec", MsFlags::MS_NOEXEC),
            ("noatime", MsFlags::MS_NOATIME),
            ("nodiratime", MsFlags::MS_NODIRATIME),
            ("relatime", MsFlags::MS_RELATIME),
        ] {
            flags.set(flag, options.split(',').any(|o| o == name));
        }
        for (wanted, flag) in [
            (attrs.read_only, MsFlags::MS_RDONLY),
            (attrs.nosuid, MsFlags::MS_NOSUID),
            (attrs.nodev, MsFlags::MS_NODEV),
            (attrs.noexec, MsFlags::MS_NOEXEC),
        ] {
            if wanted {
                flags |= flag;
            }
        }
        mount(NO_PATH, path, NO_PATH, flags, NO_PATH)
    };
    remount(&fd_path(root.as_fd()), &top.options)?;
    if recursive {
        for below in table.beneath(top.id) {
            // Relative to the root's descriptor, so that nobody can swap the way there; a mount covered by another
            // can't be reached by path, and can't be seen by the pod either.
            let Ok(relative) = below.mount_point.strip_prefix(&top.mount_point) else { continue };
            let fd = super::path::open_beneath(Calls::NONE, &root, relative)?;
            if stat::mount_id(proc, Calls::NONE, &fd)? == below.id {
                remount(&fd_path(fd.as_fd()), &below.options)?;
            }
        }
    }
    Ok(())
}

/// Moves the mount whose root is `root` onto what a name in a directory leads to. A symlink there isn't followed.
///
/// # Errors
/// EINVAL: the mount's parent is shared, or `root` is no mount, or the target no directory. ELOOP: the target lies in it. A
/// symlink is told as EINVAL by move_mount(2), and as ELOOP where there is none. ENOENT: there is no such name.
pub fn move_to(calls: Calls, root: impl AsFd, parent: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    if calls.move_mount {
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
        return move_mount(root.as_fd(), (parent.as_fd(), &name), 0);
    }
    let target = super::path::open_child(parent, name)?;
    mount(Some(fd_path(root.as_fd()).as_str()), fd_path(target.as_fd()).as_str(), NO_PATH, MsFlags::MS_MOVE, NO_PATH)
}

/// Puts a mount beneath the one whose root is `top`, so that it shows when that is unmounted (Linux 6.5).
///
/// # Errors
/// EINVAL: the kernel is older, `top` is no mount's root, is locked, or what it is mounted on is shared.
pub fn move_beneath(root: impl AsFd, top: impl AsFd) -> Result<(), Errno> {
    move_mount(root.as_fd(), (top.as_fd(), c""), raw::MOVE_MOUNT_T_EMPTY_PATH | raw::MOVE_MOUNT_BENEATH)
}

/// Whether this kernel has [`move_beneath`]. It says EINVAL to a flag that it doesn't know, before it looks at anything.
#[must_use]
pub fn can_move_beneath() -> bool {
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
    result == -1 && Errno::last() == Errno::EBADF
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

/// How to unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// Only if nothing is mounted beneath and nothing in use.
    IfIdle,
    /// At once, with everything beneath; what is in use ends when it is let go.
    Detach,
}

/// Unmounts the topmost mount at a name in a directory, not following a symlink and asking the file system nothing.
///
/// # Errors
/// EINVAL: nothing is mounted there. ENOENT: there is no such name. EBUSY with [`Unmount::IfIdle`].
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
