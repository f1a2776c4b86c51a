//! What was found on the node, and what is wished there.

use mounts::propagation::MountPropagation;
use mounts::{DirId, Errno, MountAttrs, MountFacts};

/// A source that was opened: the directory and its mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The directory.
    pub dir: DirId,
    /// The mount that it lies on.
    pub mount: MountFacts,
}

/// A mount found at a target or staging path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mounted {
    /// The directory that it shows, or why that directory can't be used any more.
    pub dir: Result<DirId, Gone>,
    /// The mount.
    pub mount: MountFacts,
}

/// Why a mounted directory can't be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The server of its file system is dead.
    Dead(Errno),
    /// The directory was deleted.
    Deleted,
}

/// What was found at a target or staging path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing has this name; the parent directory exists.
    Nothing,
    /// A directory without a mount on it.
    Directory {
        /// Whether the directory is empty.
        empty: bool,
    },
    /// Something other than a directory.
    Other {
        /// Whether it is a symlink.
        symlink: bool,
    },
    /// A mount.
    Mount(Mounted),
}

/// What is wished of the mount at a target or staging path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Which mounts cross between the source and the target.
    pub relation: MountPropagation,
    /// Flags to set on every mount of the copy.
    pub attrs: MountAttrs,
    /// Whether a mount that shows another or a dead directory is covered by a new mount (healing) instead of refused.
    pub follow: bool,
}
