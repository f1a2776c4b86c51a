//! A model of shared subtrees: the mount trees of several namespaces, their peer groups and masters, and how each
//! operation changes them. Pure data.
//!
//! The model answers what no single mount table can: who sees a mount made at a path ([`Forest::receivers`]), and what
//! all namespaces look like after an operation ([`Forest::apply`]). The rules come from
//! Documentation/filesystems/sharedsubtree.rst and mount_namespaces(7), and where these are silent, from fs/namespace.c
//! and fs/pnode.c of Linux 6.18. `tests/subtrees` runs random sequences of operations on the model and on the kernel
//! and compares both after each step.
//!
//! What the snapshot doesn't show is [`Unknown`], with the reason. Nothing is guessed.

mod attach;
mod change;
mod copy;
mod dentry;
mod detach;
mod gathered;
mod namespace;
mod operation;
mod receivers;
mod showing;
mod unmounting;
mod walk;

use std::collections::HashMap;
use std::path::PathBuf;

use dentry::{Dentries, Dentry};
pub use operation::{Operation, Stop};
pub use receivers::{Hop, Receiver};
pub use showing::Showing;
pub use unmounting::Unmounting;

use mounts::propagation::PropagationState;

/// The mounts of several namespaces, and how they are connected.
#[derive(Debug, Clone, Default)]
pub struct Forest {
    dentries: Dentries,
    /// By mount number. Never shortened, so each mount keeps its number; None: the mount is gone.
    mounts: Vec<Option<Mount>>,
    namespaces: Vec<Namespace>,
    /// The mount on each (mount, directory): the kernel's mount hash table.
    mounted_on: HashMap<(MountNumber, Dentry), MountNumber>,
    /// The members of each peer group.
    members: HashMap<u64, Vec<MountNumber>>,
    /// The slaves of each peer group.
    slaves: HashMap<u64, Vec<MountNumber>>,
    /// The mount with each id.
    by_id: HashMap<u64, MountNumber>,
    /// The next free id or group.
    next: u64,
    /// The first group that the model itself has made. The model knows every member of its own groups.
    first_own: u64,
    /// Groups that have slaves but no known member.
    unseen: Vec<u64>,
    /// Whether the snapshot of the machine lacks something.
    incomplete: bool,
}

/// The number of a mount in a [`Forest`].
type MountNumber = usize;
/// The number of a mount namespace in a [`Forest`]. A detached tree (open_tree(2)) has one too.
type NamespaceNumber = usize;

#[derive(Debug, Clone)]
struct Mount {
    /// The id in mountinfo. A mount that the model has made has an id of its own.
    id: u64,
    namespace: NamespaceNumber,
    /// The mount and directory that it lies on. None: it is the root of a tree, as far as can be seen.
    parent: Option<(MountNumber, Dentry)>,
    /// The directory that it shows.
    root: Dentry,
    /// Whether its root was deleted. The kernel mounts nothing on such a mount (fs/namespace.c `get_mountpoint`).
    deleted: bool,
    /// Whether its root can't be known, because its file system prints something other than a path in mountinfo.
    root_unknown: bool,
    /// The peer group, if it is shared.
    group: Option<u64>,
    /// The master's peer group, if it is a slave.
    master: Option<u64>,
    unbindable: bool,
    /// Whether it is locked, so that it can't be unmounted or moved alone (mount_namespaces(7)). None: unknown.
    locked: Option<bool>,
    /// In the order in which they were attached.
    children: Vec<MountNumber>,
}

#[derive(Debug, Clone, Default)]
struct Namespace {
    /// The root as the namespace's processes see it, or the root of the detached tree.
    root: Option<MountNumber>,
    /// The roots of subtrees whose parent mount can't be seen, with their mount points.
    orphans: Vec<(PathBuf, MountNumber)>,
    /// What the root lies on.
    root_parent: RootParent,
    /// The user namespace that owns it. None: unknown.
    user: Option<u64>,
    /// Whether it is a detached tree.
    detached: bool,
    /// Whether the namespace has ended, or the detached tree was attached or closed.
    gone: bool,
}

/// What the root of a namespace lies on: usually a mount of rootfs, which no process can see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum RootParent {
    /// Some mount. mountinfo doesn't tell whether it is shared.
    #[default]
    Unseen,
    /// A mount that isn't shared.
    Private,
    /// Nothing. The root can't be moved.
    Nothing,
}

/// A mount as its namespace's mountinfo would print it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisibleMount {
    /// Its id.
    pub id: u64,
    /// The id of the mount that it lies on. None: that mount can't be seen.
    pub parent: Option<u64>,
    /// Its mount point.
    pub mount_point: PathBuf,
    /// A number for its file system: equal for the same file system.
    pub file_system: usize,
    /// The directory of the file system that it shows.
    pub root: PathBuf,
    /// Its peer group, master and bindability.
    pub propagation: PropagationState,
}

/// Why the model can't give an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The snapshot has no such namespace.
    #[error("there is no namespace number {0} in what was looked at")]
    NoNamespace(usize),
    /// The path is relative or has `..` in it.
    #[error("{0:?} is not an absolute path without `..`: resolve it first")]
    Path(PathBuf),
    /// The path leads to a mount whose root lies outside of what the namespace's processes see. Such a mount isn't in
    /// their table.
    #[error(
        "{0:?} lies on a mount that is not in the namespace's table, because its root lies outside of what its processes see"
    )]
    Unseen(PathBuf),
    /// The directory that the mount shows was deleted. The kernel mounts nothing there.
    #[error(
        "the directory that mount {0} shows has been deleted, and the kernel mounts nothing there: make it anew and mount it again"
    )]
    Deleted(u64),
    /// mountinfo doesn't tell which directory of its file system the mount shows.
    #[error("the file system of mount {0} does not tell which of its directories the mount shows")]
    RootUnknown(u64),
    /// mountinfo doesn't tell whether a user namespace has locked the mount.
    #[error("it can't be seen whether mount {0} is locked, as mounts that came from another user namespace are")]
    Locked(u64),
    /// What the namespace's root lies on can't be seen.
    #[error("it can't be seen whether what the root of namespace number {0} lies on is shared")]
    RootParent(usize),
    /// The mount is the root of its namespace.
    #[error("mount {0} is the root of its namespace, which is made read-only or kept instead of being unmounted")]
    Root(u64),
    /// The peer group may have members that can't be seen.
    #[error("peer group {0} may have members that were not seen: look with more rights")]
    Members(u64),
    /// A mount that may be affected is a slave of a peer group without any known member.
    #[error("mount {mount} receives from peer group {group}, of which no mount was seen: look with more rights")]
    MasterUnseen {
        /// The slave.
        mount: u64,
        /// The peer group.
        group: u64,
    },
}

/// An answer that may be incomplete, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .doubts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Unknown {
    /// The receivers that are certain.
    pub known: Vec<Receiver>,
    /// Why there may be more. Never empty.
    pub doubts: Vec<Doubt>,
}

impl From<Doubt> for Unknown {
    fn from(doubt: Doubt) -> Self {
        Self { known: Vec::new(), doubts: vec![doubt] }
    }
}

impl Forest {
    /// States what mountinfo doesn't show of a namespace that the caller has made itself: no mount in it is locked,
    /// except the root if `root_locked`; what the root lies on isn't shared; and namespaces with the same `user` have
    /// the same owner.
    pub fn vouch(&mut self, namespace: usize, user: u64, root_locked: bool) {
        for mount in self.mounts.iter_mut().flatten().filter(|mount| mount.namespace == namespace) {
            mount.locked = Some(false);
        }
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.user = Some(user);
            if namespace.root_parent == RootParent::Unseen {
                namespace.root_parent = RootParent::Private;
            }
            if let Some(root) = namespace.root {
                self.mount_mut(root).locked = Some(root_locked);
            }
        }
    }

    /// The mounts in a namespace or detached tree, parents before children.
    #[must_use]
    pub fn visible_mounts(&self, namespace: usize) -> Vec<VisibleMount> {
        let Some(found) = self.namespaces.get(namespace) else { return Vec::new() };
        let roots = found.root.iter().chain(found.orphans.iter().map(|(_, root)| root));
        let describe = |number: MountNumber| {
            let mount = self.mount(number);
            VisibleMount {
                id: mount.id,
                parent: mount.parent.map(|(parent, _)| self.mount(parent).id),
                mount_point: self.path_of(number),
                file_system: self.dentries.file_system_of(mount.root),
                root: self.dentries.path(mount.root).to_owned(),
                propagation: PropagationState {
                    peer_group: mount.group,
                    master: mount.master,
                    unbindable: mount.unbindable,
                },
            }
        };
        roots.flat_map(|&root| self.subtree(root)).map(describe).collect()
    }

    /// The mount with this number. The model keeps numbers of existing mounts only.
    fn mount(&self, number: MountNumber) -> &Mount {
        match self.mounts.get(number) {
            Some(Some(mount)) => mount,
            _ => unreachable!("mount number {number} is kept but gone"),
        }
    }

    fn mount_mut(&mut self, number: MountNumber) -> &mut Mount {
        match self.mounts.get_mut(number) {
            Some(Some(mount)) => mount,
            _ => unreachable!("mount number {number} is kept but gone"),
        }
    }

    fn new_number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// The mount and all mounts beneath it, parents before children.
    fn subtree(&self, number: MountNumber) -> Vec<MountNumber> {
        let mut found = Vec::new();
        let mut waiting = vec![number];
        while let Some(one) = waiting.pop() {
            found.push(one);
            waiting.extend(self.mount(one).children.iter().rev());
        }
        found
    }

    /// The topmost mount stacked on the root of this one, or this one.
    fn top(&self, number: MountNumber) -> MountNumber {
        let mut at = number;
        while let Some(&over) = self.mounted_on.get(&(at, self.mount(at).root)) {
            at = over;
        }
        at
    }

    /// Puts a mount without a parent on a directory of another mount.
    fn set_parent(&mut self, number: MountNumber, parent: MountNumber, point: Dentry) {
        self.mount_mut(number).parent = Some((parent, point));
        self.mount_mut(parent).children.push(number);
        self.mounted_on.insert((parent, point), number);
    }

    /// Removes a mount from its parent.
    fn clear_parent(&mut self, number: MountNumber) {
        let Some((parent, point)) = self.mount_mut(number).parent.take() else { return };
        self.mount_mut(parent).children.retain(|&child| child != number);
        self.mounted_on.remove(&(parent, point));
    }
}

#[cfg(test)]
mod tests;
