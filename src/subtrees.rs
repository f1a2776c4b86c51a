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

mod dentry;
mod gathered;
mod receivers;
mod walk;

use std::collections::HashMap;
use std::path::PathBuf;

use dentry::{Dentries, Dentry};
pub use receivers::{Hop, Receiver};

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
    #[expect(dead_code, reason = "for the operations")]
    unbindable: bool,
    /// Whether it may be unmounted or moved alone (mount_namespaces(7)). None: can't be told.
    #[expect(dead_code, reason = "for the operations")]
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
    /// A mount that is there. The numbers that the model keeps are always those of mounts that are.
    fn mount(&self, number: MountNumber) -> &Mount {
        match self.mounts.get(number) {
            Some(Some(mount)) => mount,
            _ => unreachable!("mount number {number} is kept but gone"),
        }
    }
}
