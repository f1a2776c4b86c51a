//! The model of shared subtrees: the mount trees of several namespaces, their peer groups and masters, and what each
//! operation makes of them, as pure data.
//!
//! It answers what no single mount table can: who sees a mount that is made at a path ([`Forest::receivers`]), and what
//! all namespaces look like after an operation ([`Forest::apply`]). The rules are those of
//! Documentation/filesystems/sharedsubtree.rst and mount_namespaces(7); where these are silent, of fs/namespace.c and
//! fs/pnode.c of Linux 6.18. `tests/subtrees.rs` runs random sequences of operations on the model and on the kernel
//! and compares what both have after each step.
//!
//! What can't be told from what was seen is [`Unknown`], with the reason; nothing is guessed.

mod attach;
mod copy;
mod dentry;
mod detach;
mod gathered;
mod namespace;
mod operation;
mod receivers;
mod relation;
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

/// Mounts of several namespaces and how they are connected.
#[derive(Debug, Clone, Default)]
pub struct Forest {
    dentries: Dentries,
    /// Never shortened, so that a number stays that of its mount; None where one has gone.
    mounts: Vec<Option<Mount>>,
    homes: Vec<Home>,
    /// Which mount lies on a directory of a mount: the kernel's mount hash table.
    on: HashMap<(MountNumber, Dentry), MountNumber>,
    /// The members of each peer group.
    members: HashMap<u64, Vec<MountNumber>>,
    /// The mounts that receive from each peer group.
    slaves: HashMap<u64, Vec<MountNumber>>,
    /// Where a mount with some id is.
    by_id: HashMap<u64, MountNumber>,
    /// The next id and the next group that nobody has.
    next: u64,
    /// The first group that the model itself has made: of such a group it knows every member.
    first_own: u64,
    /// The groups that mounts receive from, and of which no mount was seen.
    unseen: Vec<u64>,
    /// Whether something was left out when the machine was looked at.
    incomplete: bool,
}

/// A mount in a [`Forest`].
type MountNumber = usize;
/// A mount namespace of a [`Forest`] or a detached tree (open_tree(2)).
type HomeNumber = usize;

#[derive(Debug, Clone)]
struct Mount {
    /// As in mountinfo; of mounts that the model has made, a number that no other has.
    id: u64,
    home: HomeNumber,
    /// The mount and directory that it lies on. None: the root of what can be seen of its home.
    parent: Option<(MountNumber, Dentry)>,
    /// What it shows.
    root: Dentry,
    /// Its root was deleted: the kernel mounts nothing on it any more (fs/namespace.c `get_mountpoint`).
    deleted: bool,
    /// mountinfo doesn't tell what it shows, because its file system prints something else than a path from its root.
    untold: bool,
    /// The peer group, if it is shared.
    group: Option<u64>,
    /// The peer group that it receives from, if it is a slave.
    master: Option<u64>,
    unbindable: bool,
    /// Whether it may be unmounted or moved alone (mount_namespaces(7)). None: can't be told.
    locked: Option<bool>,
    /// In the order in which they came.
    children: Vec<MountNumber>,
}

#[derive(Debug, Clone, Default)]
struct Home {
    /// The namespace's root as its processes see it, or the root of a detached tree.
    root: Option<MountNumber>,
    /// The roots of subtrees of which the parent can't be seen, with their places.
    floating: Vec<(PathBuf, MountNumber)>,
    /// What the root lies on.
    above: Above,
    /// The user namespace that owns it. None: can't be told.
    user: Option<u64>,
    /// Whether it is a detached tree.
    detached: bool,
    /// Whether it has ended, or the tree is no longer detached.
    gone: bool,
}

/// What the root of a namespace lies on: usually a mount of rootfs that no process can see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Above {
    /// There is something, and mountinfo doesn't tell whether it is shared.
    #[default]
    Unseen,
    /// Something that isn't shared.
    Private,
    /// Nothing: it can't be moved.
    Nothing,
}

/// A mount as the processes of its namespace see it: what of a [`Forest`] mountinfo would print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub id: u64,
    /// The id of the mount that it lies on; None: nothing that can be seen.
    pub parent: Option<u64>,
    /// Its mount point.
    pub place: PathBuf,
    /// Which file system it shows: the same number for the same one.
    pub file_system: usize,
    /// The directory of the file system that it shows.
    pub root: PathBuf,
    /// Its peer group, master and bindability.
    pub propagation: PropagationState,
}

/// Why the model can't answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// There is no such namespace in what was looked at.
    #[error("there is no namespace number {0} in what was looked at")]
    NoNamespace(usize),
    /// The path is relative or has `..` in it.
    #[error("{0:?} is not an absolute path without `..`: resolve it first")]
    Path(PathBuf),
    /// The path leads to a mount that the processes of the namespace can't see whole, so that it isn't in their table.
    #[error(
        "{0:?} lies on a mount that is not in the namespace's table, because its root lies outside of what its processes see"
    )]
    Unseen(PathBuf),
    /// The directory that the mount shows was deleted; the kernel mounts nothing there.
    #[error(
        "the directory that mount {0} shows has been deleted, and the kernel mounts nothing there: make it anew and mount it again"
    )]
    Deleted(u64),
    /// The file system doesn't say in mountinfo which of its directories a mount shows.
    #[error("the file system of mount {0} does not tell which of its directories the mount shows")]
    Untold(u64),
    /// mountinfo doesn't tell whether a mount is locked by a user namespace.
    #[error("it can't be seen whether mount {0} is locked, as mounts that came from another user namespace are")]
    Locked(u64),
    /// It can't be seen what the namespace's root lies on.
    #[error("it can't be seen whether what the root of namespace number {0} lies on is shared")]
    Above(usize),
    /// The mount is the root of its namespace.
    #[error("mount {0} is the root of its namespace, which is made read-only or kept instead of being unmounted")]
    Root(u64),
    /// The peer group may have members that were not seen.
    #[error("peer group {0} may have members that were not seen: look with more rights")]
    Members(u64),
    /// Mounts that may be concerned receive from a peer group of which no mount was seen.
    #[error("mount {mount} receives from peer group {group}, of which no mount was seen: look with more rights")]
    MasterUnseen {
        /// The mount that receives.
        mount: u64,
        /// The group.
        group: u64,
    },
}

/// What the model doesn't know, and what it does know all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .doubts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Unknown {
    /// The receivers that are certain.
    pub known: Vec<Receiver>,
    /// The reasons why this may not be all. Never empty.
    pub doubts: Vec<Doubt>,
}

impl From<Doubt> for Unknown {
    fn from(doubt: Doubt) -> Self {
        Self { known: Vec::new(), doubts: vec![doubt] }
    }
}

impl Forest {
    /// Takes the caller's word for what mountinfo doesn't tell of a namespace that the caller has made itself: that no
    /// mount in it is locked but, if so said, the root; that what the root lies on isn't shared; and which of the
    /// namespaces have the same owner (the same `user`).
    pub fn vouch(&mut self, namespace: usize, user: u64, root_locked: bool) {
        for mount in self.mounts.iter_mut().flatten().filter(|mount| mount.home == namespace) {
            mount.locked = Some(false);
        }
        if let Some(home) = self.homes.get_mut(namespace) {
            home.user = Some(user);
            if home.above == Above::Unseen {
                home.above = Above::Private;
            }
            if let Some(root) = home.root {
                self.mount_mut(root).locked = Some(root_locked);
            }
        }
    }

    /// What is mounted in a namespace or detached tree, parents before children.
    #[must_use]
    pub fn seen(&self, home: usize) -> Vec<Seen> {
        let Some(found) = self.homes.get(home) else { return Vec::new() };
        let roots = found.root.iter().chain(found.floating.iter().map(|(_, root)| root));
        let describe = |number: MountNumber| {
            let mount = self.mount(number);
            Seen {
                id: mount.id,
                parent: mount.parent.map(|(parent, _)| self.mount(parent).id),
                place: self.place(number),
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

    /// A mount that is there. The numbers that the model keeps are always those of mounts that are.
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

    /// A mount and all beneath it, parents before children.
    fn subtree(&self, number: MountNumber) -> Vec<MountNumber> {
        let mut found = Vec::new();
        let mut waiting = vec![number];
        while let Some(one) = waiting.pop() {
            found.push(one);
            waiting.extend(self.mount(one).children.iter().rev());
        }
        found
    }

    /// The topmost of what is mounted on the root of a mount, or itself.
    fn top(&self, number: MountNumber) -> MountNumber {
        let mut at = number;
        while let Some(&over) = self.on.get(&(at, self.mount(at).root)) {
            at = over;
        }
        at
    }

    /// Puts a mount that hangs nowhere onto a directory of another.
    fn hang(&mut self, number: MountNumber, parent: MountNumber, point: Dentry) {
        self.mount_mut(number).parent = Some((parent, point));
        self.mount_mut(parent).children.push(number);
        self.on.insert((parent, point), number);
    }

    /// Takes a mount from where it lies.
    fn take_off(&mut self, number: MountNumber) {
        let Some((parent, point)) = self.mount_mut(number).parent.take() else { return };
        self.mount_mut(parent).children.retain(|&child| child != number);
        self.on.remove(&(parent, point));
    }
}

#[cfg(test)]
mod tests;
