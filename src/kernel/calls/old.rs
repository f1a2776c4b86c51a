//! The operations without the newer calls, for the oldest kernel and the strictest seccomp profile.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use mounts::mountinfo::{self, Table};
use mounts::propagation::Propagation;
use mounts::{Change, MountAttrs, MountFacts};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount as mount_2};

use crate::mount::{NO_PATH, set_propagation};
use crate::namespace::{Proc, fd_path};
use crate::path::{open_child, open_trusted};
use crate::stat::{Freshness, Seen, directory, is_dead, mountinfo_id};

pub(super) fn open_absolute(path: &Path) -> Result<OwnedFd, Errno> {
    let relative = path.strip_prefix("/").map_err(|_| Errno::EXDEV)?;
    open_beneath(open_trusted(Path::new("/"))?.as_fd(), relative)
}

/// Walks the path name by name.
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Errno::EXDEV);
    }
    let mut at = root.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
    for name in path {
        at = open_child(&at, name)?;
    }
    Ok(at)
}

/// A move of mount(2) goes onto the topmost mount there, as with the newer call.
pub(super) fn move_to(root: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let target = open_child(parent, name)?;
    mount_2(Some(fd_path(root).as_str()), fd_path(target.as_fd()).as_str(), NO_PATH, MsFlags::MS_MOVE, NO_PATH)
}

pub(super) fn change(proc: &Proc, root: BorrowedFd<'_>, change: Change, recursive: bool) -> Result<(), Errno> {
    if let Some(kind) = change.propagation {
        set_propagation(root, Propagation { kind, recursive })?;
    }
    if change.attrs != MountAttrs::default() {
        remount_each(proc, root, change.attrs, recursive)?;
    }
    Ok(())
}

/// Adds flags mount by mount.
fn remount_each(proc: &Proc, root: BorrowedFd<'_>, attrs: MountAttrs, recursive: bool) -> Result<(), Errno> {
    let id = mountinfo_id(proc, root)?;
    let table = mountinfo::parse(&proc.mountinfo()?);
    let Some(top) = table.mounts.iter().find(|m| m.id == id) else { return Err(Errno::EINVAL) };
    let remount = |fd: BorrowedFd<'_>, options: &str| {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags_of_options(options) | flags_of(attrs);
        mount_2(NO_PATH, fd_path(fd).as_str(), NO_PATH, flags, NO_PATH)
    };
    remount(root, &top.options)?;
    if recursive {
        for below in table.beneath(top.id) {
            // The path is relative to the root's descriptor, so nobody can swap the way there. A mount covered by
            // another can't be reached by path, but the pod can't see it either.
            let Ok(relative) = below.mount_point.strip_prefix(&top.mount_point) else { continue };
            let fd = open_beneath(root, relative)?;
            if mountinfo_id(proc, &fd)? == below.id {
                remount(fd.as_fd(), &below.options)?;
            }
        }
    }
    Ok(())
}

/// `MS_NOSYMFOLLOW` of Linux 5.10, which nix doesn't name.
const MS_NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(libc::MS_NOSYMFOLLOW);

fn flags_of(attrs: MountAttrs) -> MsFlags {
    let mut flags = MsFlags::empty();
    flags.set(MsFlags::MS_RDONLY, attrs.read_only);
    flags.set(MsFlags::MS_NOSUID, attrs.nosuid);
    flags.set(MsFlags::MS_NODEV, attrs.nodev);
    flags.set(MsFlags::MS_NOEXEC, attrs.noexec);
    flags
}

/// All flags that a bind remount sets or clears (`MNT_USER_SETTABLE_MASK`), from the words of mountinfo
/// (fs/proc_namespace.c `show_mnt_opts`). A flag that isn't given again is lost, or EPERM if a user namespace has
/// locked it. The access time mode is always given, because one of its flags alone changes the others. For a mount that
/// keeps all access times, mountinfo says nothing.
fn flags_of_options(options: &str) -> MsFlags {
    let has = |word: &str| options.split(',').any(|option| option == word);
    let mut flags = MsFlags::empty();
    for (word, flag) in [
        ("ro", MsFlags::MS_RDONLY),
        ("nosuid", MsFlags::MS_NOSUID),
        ("nodev", MsFlags::MS_NODEV),
        ("noexec", MsFlags::MS_NOEXEC),
        ("noatime", MsFlags::MS_NOATIME),
        ("nodiratime", MsFlags::MS_NODIRATIME),
        ("relatime", MsFlags::MS_RELATIME),
        ("nosymfollow", MS_NOSYMFOLLOW),
    ] {
        flags.set(flag, has(word));
    }
    flags.set(MsFlags::MS_STRICTATIME, !has("noatime") && !has("relatime"));
    flags
}

pub(super) fn mount(proc: &Proc, fd: BorrowedFd<'_>) -> Result<MountFacts, Errno> {
    let id = mountinfo_id(proc, fd)?;
    let found = mountinfo::parse_one(&proc.mountinfo()?, id).ok_or(Errno::ENOENT)?;
    Ok(MountFacts { id, propagation: found.propagation, attrs: found.attrs() })
}

pub(super) fn seen(proc: &Proc, fd: BorrowedFd<'_>) -> Result<Seen, Errno> {
    let mount = mount(proc, fd)?;
    match directory(fd, Freshness::Live) {
        Err(errno) if !is_dead(errno) => Err(errno),
        dir => Ok(Seen { dir, mount }),
    }
}

pub(super) fn table(proc: &Proc, wanted: &mut dyn FnMut(&Path) -> bool) -> Result<Table, Errno> {
    let mut table = mountinfo::parse(&proc.mountinfo()?);
    table.mounts.retain(|mount| wanted(&mount.mount_point));
    Ok(table)
}

pub(super) fn points(proc: &Proc, see: &mut dyn FnMut(&Path)) -> Result<(), Errno> {
    mountinfo::parse(&proc.mountinfo()?).mounts.iter().for_each(|mount| see(&mount.mount_point));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remount_names_all_flags_again() {
        assert_eq!(flags_of_options("rw,relatime"), MsFlags::MS_RELATIME);
        assert_eq!(flags_of_options("rw"), MsFlags::MS_STRICTATIME);
        assert_eq!(flags_of_options("rw,nodiratime"), MsFlags::MS_STRICTATIME | MsFlags::MS_NODIRATIME);
        assert_eq!(
            flags_of_options("ro,nosuid,nodev,noexec,noatime,nosymfollow,idmapped"),
            MsFlags::MS_RDONLY
                | MsFlags::MS_NOSUID
                | MsFlags::MS_NODEV
                | MsFlags::MS_NOEXEC
                | MsFlags::MS_NOATIME
                | MS_NOSYMFOLLOW
        );
    }
}
