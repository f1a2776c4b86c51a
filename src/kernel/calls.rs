//! The calls that a kernel may lack: each operation with the newer call, and without it.
//!
//! The choice is made once, at start ([`Calls::probe`]), and nowhere else. Users of an operation of [`Calls`] can't
//! tell which call is behind it. `calls/new.rs` and `super::statmount` have the newer way, `calls/old.rs` has the
//! other.
//!
//! A kernel that lacks a call says ENOSYS. Container runtimes with an older seccomp profile say ENOSYS or EPERM for the
//! same call on a newer kernel. So each call is tried with arguments that it must refuse: any other error means that it
//! is there. Seen on a real node: statmount(2) refused by an otherwise current profile.

mod new;
mod old;

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use linux_raw_sys::general as raw;
use mounts::mountinfo::{Mount, Table};
use mounts::{Change, MountFacts};
use nix::errno::Errno;

use super::mount_events::{MountEvents, MountGroup};
use super::namespace::{self, MountNamespace, Proc};
use super::path::Use;
use super::stat::{AtName, Known, Opened, Seen};
use super::statmount;

/// How an operation is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// With the newer call.
    New,
    /// Without it: the kernel or a seccomp profile refuses it with this error.
    Old(Errno),
}

/// A call that has a fall-back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// The first Linux that has it.
    pub since: (u32, u32),
    /// Why it can't be made, if so. ENOSYS or EPERM; EINVAL for a flag that the kernel doesn't know.
    pub refused: Option<Errno>,
}

/// For each call that has a fall-back, which of the two is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    /// openat2(2), Linux 5.6. Else: the path is walked component by component with `O_NOFOLLOW`.
    openat2: Way,
    /// move_mount(2), Linux 5.2. Else: mount(2) with `MS_MOVE`.
    move_mount: Way,
    /// move_mount(2) with `MOVE_MOUNT_BENEATH`, Linux 6.5. Else: the old mount is unmounted before the new one comes.
    move_mount_beneath: Way,
    /// mount_setattr(2), Linux 5.12. Else: mount(2) for the propagation, and a remount of each mount of the tree
    /// for the flags.
    mount_setattr: Way,
    /// statmount(2) and listmount(2) with `STATX_MNT_ID_UNIQUE`, Linux 6.8. Else: mountinfo is read and searched. That
    /// takes time in proportion to the number of mounts, and its ids are reused.
    statmount: Way,
}

impl Calls {
    /// Probes the kernel.
    #[must_use]
    pub fn probe() -> Self {
        let way = |refused: Option<Errno>| refused.map_or(Way::New, Way::Old);
        Self {
            openat2: way(refusal(raw::__NR_openat2)),
            move_mount: way(refusal(raw::__NR_move_mount)),
            move_mount_beneath: way(new::refusal_of_beneath()),
            mount_setattr: way(refusal(raw::__NR_mount_setattr)),
            statmount: way(refusal(raw::__NR_statmount).or_else(|| refusal(raw::__NR_listmount))),
        }
    }

    /// The table, for people. They can act on the reason of a refusal.
    #[must_use]
    pub const fn rows(self) -> [Row; 5] {
        const fn row(name: &'static str, since: (u32, u32), way: Way) -> Row {
            let refused = match way {
                Way::New => None,
                Way::Old(why) => Some(why),
            };
            Row { name, since, refused }
        }
        [
            row("openat2", (5, 6), self.openat2),
            row("move_mount", (5, 2), self.move_mount),
            row("MOVE_MOUNT_BENEATH", (6, 5), self.move_mount_beneath),
            row("mount_setattr", (5, 12), self.mount_setattr),
            row("statmount", (6, 8), self.statmount),
        ]
    }

    /// The calls that are missing, by name.
    #[must_use]
    pub fn missing(self) -> Vec<&'static str> {
        self.rows().into_iter().filter(|row| row.refused.is_some()).map(|row| row.name).collect()
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.missing();
        if missing.is_empty() { f.write_str("all there") } else { write!(f, "fall-back for {}", missing.join(", ")) }
    }
}

/// Makes the call with a bad descriptor, null pointers and sizes of zero. Each call refuses that without effect.
fn refusal(number: u32) -> Option<Errno> {
    // SAFETY: every pointer argument is null and every size zero; the calls probed here check both before use.
    let result = unsafe { libc::syscall(i64::from(number), -1, 0, 0, 0, 0) };
    (result == -1).then(Errno::last).filter(|errno| matches!(errno, Errno::ENOSYS | Errno::EPERM))
}

/// openat2(2).
impl Calls {
    /// Opens a directory by its absolute path, following no symlink. Mounts are crossed.
    ///
    /// # Errors
    /// ELOOP: a component is a symlink. EXDEV: the path isn't absolute and plain. ENOENT, ENOTDIR as usual.
    pub fn open_absolute(self, path: &Path, wanted: Use) -> Result<OwnedFd, Errno> {
        match self.openat2 {
            Way::New => new::open_absolute(path, wanted),
            Way::Old(_) => old::open_absolute(path),
        }
    }

    /// Opens a directory beneath another, following neither symlinks nor `..` out of it. Mounts are crossed.
    ///
    /// # Errors
    /// ELOOP: a component is a symlink. EXDEV: the path leads out. ENOENT, ENOTDIR as usual.
    pub fn open_beneath(self, root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
        match self.openat2 {
            Way::New => new::open_beneath(root.as_fd(), path),
            Way::Old(_) => old::open_beneath(root.as_fd(), path),
        }
    }
}

/// move_mount(2).
impl Calls {
    /// Moves the mount whose root is `root` onto what is at a name in a directory. Follows no symlink.
    ///
    /// # Errors
    /// EINVAL: the mount's parent is shared, `root` is no mount, or the target is no directory. ELOOP: the target lies
    /// in the mount. A symlink is EINVAL with move_mount(2) and ELOOP without. ENOENT: the name doesn't exist.
    pub fn move_to(self, root: impl AsFd, parent: impl AsFd, name: &OsStr) -> Result<(), Errno> {
        match self.move_mount {
            Way::New => new::move_to(root.as_fd(), parent.as_fd(), name),
            Way::Old(_) => old::move_to(root.as_fd(), parent.as_fd(), name),
        }
    }

    /// Replaces a mount by another. `beneath` must put the new one beneath the old one ([`Calls::move_beneath`]), so
    /// that something is always mounted there. If the kernel can't do that, `bare` must unmount the old one first. A
    /// process that is killed in between leaves the place bare.
    pub fn replace<T: ?Sized, R>(
        self,
        with: &mut T,
        beneath: impl FnOnce(&mut T) -> R,
        bare: impl FnOnce(&mut T) -> R,
    ) -> R {
        match self.move_mount_beneath {
            Way::New => beneath(with),
            Way::Old(_) => bare(with),
        }
    }

    /// Puts a mount beneath the one whose root is `top`, so that it shows when that is unmounted. This has no
    /// fall-back: see [`Calls::replace`].
    ///
    /// # Errors
    /// EINVAL: `top` is no mount's root or is locked, or its parent mount is shared. Else why this kernel can't do it.
    pub fn move_beneath(self, root: impl AsFd, top: impl AsFd) -> Result<(), Errno> {
        match self.move_mount_beneath {
            Way::New => new::move_beneath(root.as_fd(), top.as_fd()),
            Way::Old(why) => Err(why),
        }
    }
}

/// mount_setattr(2).
impl Calls {
    /// Changes the mount with the root `root`. With `recursive`, every mount beneath it too.
    ///
    /// With mount_setattr(2) that is one atomic step. Without, the propagation is one step and the flags are one step
    /// per mount, so a mount that arrives in between may lack them. That is why the call is preferred.
    ///
    /// # Errors
    /// EINVAL: `root` is not the root of a mount. EPERM: a flag is locked by a user namespace.
    pub fn change(self, proc: &Proc, root: impl AsFd, change: Change, recursive: bool) -> Result<(), Errno> {
        match self.mount_setattr {
            Way::New => new::change(root.as_fd(), change, recursive),
            Way::Old(_) => old::change(proc, root.as_fd(), change, recursive),
        }
    }
}

/// statmount(2): one mount.
impl Calls {
    /// The id of the mount that a descriptor lies on: the unique one, or mountinfo's.
    ///
    /// # Errors
    /// What the kernel says. None is usual for an open descriptor.
    pub fn mount_id(self, proc: &Proc, fd: impl AsFd) -> Result<u64, Errno> {
        match self.statmount {
            Way::New => new::mount_id(fd.as_fd()),
            Way::Old(_) => super::stat::mountinfo_id(proc, fd),
        }
    }

    /// What the kernel says of the mount that a descriptor lies on.
    ///
    /// # Errors
    /// ENOENT if the mount isn't in this thread's namespace (any more).
    pub fn mount(self, proc: &Proc, fd: impl AsFd) -> Result<MountFacts, Errno> {
        match self.statmount {
            Way::New => new::mount(fd.as_fd()),
            Way::Old(_) => old::mount(proc, fd.as_fd()),
        }
    }

    /// The directory and mount that a descriptor leads to.
    ///
    /// # Errors
    /// ENOENT: the mount isn't in this thread's namespace (any more). Else what the file system says. If that is dead,
    /// it is no error but part of the answer. It may hang.
    pub fn seen(self, proc: &Proc, fd: impl AsFd) -> Result<Seen, Errno> {
        match self.statmount {
            Way::New => new::seen(fd.as_fd()),
            Way::Old(_) => old::seen(proc, fd.as_fd()),
        }
    }

    /// Opens a name in a directory. Follows no symlink, and asks no file system that may be mounted there.
    ///
    /// # Errors
    /// ENOENT: the name doesn't exist. Else what openat(2) says.
    pub fn open_name(self, proc: &Proc, parent: impl AsFd, name: &OsStr) -> Result<Opened, Errno> {
        let parent = parent.as_fd();
        let fd = match super::path::open_child(parent, name) {
            Ok(fd) => fd,
            Err(Errno::ELOOP) => return Ok(Opened::Other { symlink: true }),
            Err(Errno::ENOTDIR) => return Ok(Opened::Other { symlink: false }),
            Err(errno) => return Err(errno),
        };
        let is_mount = self.mount_id(proc, &fd)? != self.mount_id(proc, parent)?;
        Ok(if is_mount { Opened::Mount(fd) } else { Opened::Directory(fd) })
    }

    /// What is at a name in a directory. Follows no symlink.
    ///
    /// # Errors
    /// ENOENT: the name doesn't exist. Else as [`Calls::seen`].
    pub fn at_name(self, proc: &Proc, parent: impl AsFd, name: &OsStr) -> Result<AtName, Errno> {
        match self.statmount {
            Way::New => new::at_name(parent.as_fd(), name),
            Way::Old(_) => Ok(match self.open_name(proc, parent, name)? {
                Opened::Directory(_) => AtName::Directory,
                Opened::Other { symlink } => AtName::Other { symlink },
                Opened::Mount(fd) => AtName::Mount(self.seen(proc, fd)?),
            }),
        }
    }

    /// What is at a name in a directory. Follows no symlink, and doesn't ask the file system that may be mounted there,
    /// since it may be dead or hang.
    ///
    /// # Errors
    /// ENOENT: the name doesn't exist. Else what statx(2) or openat(2) says.
    pub fn at_name_as_known(self, proc: &Proc, parent: impl AsFd, name: &OsStr) -> Result<Known, Errno> {
        match self.statmount {
            Way::New => new::at_name_as_known(parent.as_fd(), name),
            Way::Old(_) => Ok(match self.open_name(proc, parent, name)? {
                Opened::Directory(_) => Known::Directory,
                Opened::Other { symlink } => Known::Other { symlink },
                Opened::Mount(_) => Known::Mount,
            }),
        }
    }

    /// The directory that a mount of the calling thread's namespace shows, as mountinfo names it, and whether it was
    /// deleted. The mount is given by its unique id. No file system is asked. None if ids aren't unique: the id may be
    /// another mount's by now.
    ///
    /// # Errors
    /// ENOENT: the mount isn't in this thread's namespace (any more).
    pub fn root(self, id: u64) -> Option<Result<(PathBuf, bool), Errno>> {
        match self.statmount {
            Way::New => Some(statmount::root(id)),
            Way::Old(_) => None,
        }
    }

    /// A mount by its unique id, as mountinfo would show it to a process at the root of its namespace. `namespace` is
    /// the namespace's id ([`MountNamespace::id`]; Linux 6.12). Linux 6.13 and later tell the source.
    ///
    /// # Errors
    /// ENOENT: it isn't in that namespace (any more). EPERM: no `CAP_SYS_ADMIN` over it. Else why it can't be asked.
    pub fn mount_in(self, id: u64, namespace: u64) -> Result<Mount, Errno> {
        match self.statmount {
            Way::New => statmount::mount_in(id, namespace),
            Way::Old(why) => Err(why),
        }
    }
}

/// statmount(2) and listmount(2): tables.
impl Calls {
    /// The mounts of the calling thread's namespace at the wanted mount points, in mountinfo's order. If the kernel has
    /// unique ids, the table has these, and lacks the sources of the mounts.
    ///
    /// # Errors
    /// What listmount(2) and statmount(2) say, or reading mountinfo. A mount that goes away meanwhile is left out.
    pub fn table(self, proc: &Proc, wanted: &mut dyn FnMut(&Path) -> bool) -> Result<Table, Errno> {
        match self.statmount {
            Way::New => statmount::select(wanted),
            Way::Old(_) => old::table(proc, wanted),
        }
    }

    /// The part of that table with the mounts of these ids ([`Calls::mount_id`]) and their parent mounts, up to the
    /// calling thread's root: all that a walk to them passes.
    ///
    /// # Errors
    /// ENOENT: one of them isn't in this thread's namespace (any more).
    pub fn ways_to(self, proc: &Proc, ids: &[u64]) -> Result<Table, Errno> {
        match self.statmount {
            Way::New => statmount::ways_to(ids),
            Way::Old(_) => old::table(proc, &mut |_| true),
        }
    }

    /// The mount points of the calling thread's namespace, one after the other.
    ///
    /// # Errors
    /// As [`Calls::table`].
    pub fn points(self, proc: &Proc, see: &mut dyn FnMut(&Path)) -> Result<(), Errno> {
        match self.statmount {
            Way::New => statmount::points(see),
            Way::Old(_) => old::points(proc, see),
        }
    }

    /// The mount points of the mounts with these unique ids, seen from the calling thread's root. A mount that isn't in
    /// its namespace (any more) is left out.
    ///
    /// # Errors
    /// What statmount(2) says. Else why it can't be asked.
    pub fn points_of(self, ids: &[u64], see: &mut dyn FnMut(&Path)) -> Result<(), Errno> {
        match self.statmount {
            Way::New => statmount::points_of(ids, see),
            Way::Old(why) => Err(why),
        }
    }

    /// The table of a namespace, equal to its mountinfo, and whether something was mounted or unmounted while it was
    /// read. Afterwards the calling thread is in that namespace.
    ///
    /// # Errors
    /// EOPNOTSUPP: the source of a mount is missing, because the kernel is older than 6.13 or the mount has none. What
    /// [`namespace::enter`] says. Else why it can't be asked; then the thread is where it was.
    pub fn table_of(self, proc: &Proc, of: &MountNamespace) -> Result<(Table, bool), Errno> {
        match self.statmount {
            Way::New => namespace::enter(proc, of).and_then(|()| statmount::table(proc)),
            Way::Old(why) => Err(why),
        }
    }

    /// A group that reports the mounts attached in its namespaces, by unique id. Of use only where mounts can be looked
    /// up by that.
    ///
    /// # Errors
    /// What fanotify_init(2) says, or why mounts can't be looked up.
    pub fn mount_group(self) -> Result<MountGroup, Errno> {
        match self.statmount {
            Way::New => MountGroup::new(),
            Way::Old(why) => Err(why),
        }
    }

    /// Events of the mounts attached in one namespace, by id.
    ///
    /// # Errors
    /// As [`Calls::mount_group`] and [`MountGroup::add`].
    pub fn mount_events(self, namespace: &MountNamespace) -> Result<MountEvents, Errno> {
        self.mount_group().and_then(|group| MountEvents::named(group, namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_calls_are_named() {
        let new = Calls {
            openat2: Way::New,
            move_mount: Way::New,
            move_mount_beneath: Way::New,
            mount_setattr: Way::New,
            statmount: Way::New,
        };
        assert_eq!(new.to_string(), "all there");
        let some = Calls { move_mount_beneath: Way::Old(Errno::EINVAL), statmount: Way::Old(Errno::EPERM), ..new };
        assert_eq!(some.to_string(), "fall-back for MOVE_MOUNT_BENEATH, statmount");
        let refused = some.rows().map(|row| row.refused);
        assert_eq!(refused, [None, None, Some(Errno::EINVAL), None, Some(Errno::EPERM)]);
    }

    #[test]
    fn an_unknown_number_is_not_there() {
        assert_eq!(refusal(100_000), Some(Errno::ENOSYS));
    }
}
