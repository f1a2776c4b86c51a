//! The operations on mounts, and the model's effect for each.

use std::fmt;
use std::path::{Path, PathBuf};

use mounts::Errno;
use mounts::propagation::{Propagation, PropagationKind};
use text::quoted;

use super::walk::ResolvedPath;
use super::{Doubt, Forest, MountNumber, NamespaceNumber, Unknown};

/// Something that a process does to the mounts of its namespace. Paths are absolute, have no symlinks and lead to
/// directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Mounts a file system: mount(2).
    Mount {
        /// Its device: an unused one, or that of a file system that is mounted already.
        device: (u32, u32),
        /// The mount point.
        at: PathBuf,
    },
    /// Mounts a directory at a second mount point: mount(2) with `MS_BIND`.
    Bind {
        /// The directory to show.
        from: PathBuf,
        /// The mount point.
        to: PathBuf,
        /// Whether the mounts beneath it are bound too (`MS_REC`).
        recursive: bool,
    },
    /// Moves a mount with all beneath it: mount(2) with `MS_MOVE`.
    Move {
        /// The mount point.
        from: PathBuf,
        /// The new mount point.
        to: PathBuf,
    },
    /// Unmounts the topmost mount at a path: umount2(2). The model assumes that none of its files is in use.
    Unmount {
        /// The mount point.
        at: PathBuf,
        /// Whether all mounts beneath it go too, at once (`MNT_DETACH`).
        lazy: bool,
    },
    /// Changes the propagation of the topmost mount at a path: mount(2) with one of four flags.
    Change {
        /// The mount point.
        at: PathBuf,
        /// The new propagation.
        to: Propagation,
    },
    /// Makes a new namespace with copies of all mounts: unshare(2), and then what unshare(1) does.
    Unshare {
        /// The propagation that the copies get, recursively from the root. None: unchanged.
        propagation: Option<PropagationKind>,
        /// Whether the user namespace is new too. Then the copies become slaves and are locked (mount_namespaces(7)).
        user: bool,
    },
    /// Makes a mount the root: pivot_root(2).
    PivotRoot {
        /// The mount point of the mount that becomes the root.
        new_root: PathBuf,
        /// Where the present root goes: a directory beneath the new one.
        put_old: PathBuf,
    },
    /// Copies a directory into a detached tree: open_tree(2) with `OPEN_TREE_CLONE`.
    OpenTree {
        /// The directory to copy.
        from: PathBuf,
        /// Whether the mounts beneath it are copied too (`AT_RECURSIVE`).
        recursive: bool,
    },
    /// Attaches a detached tree: move_mount(2).
    Attach {
        /// The tree, by the number that [`Forest::apply`] returned for it.
        tree: usize,
        /// The mount point.
        to: PathBuf,
    },
    /// Closes a detached tree without attaching it: close(2).
    Close {
        /// The tree.
        tree: usize,
    },
    /// Ends the namespace: its last process exits and nothing else keeps it.
    End,
}

/// Why an operation isn't done. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The kernel refuses it.
    #[error("the kernel refuses it: {0}")]
    Refused(Errno),
    /// The model can't tell what the kernel would do.
    #[error("unknown: {0}")]
    Unknown(#[from] Unknown),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

impl From<Doubt> for Stop {
    fn from(doubt: Doubt) -> Self {
        Self::Unknown(doubt.into())
    }
}

impl Forest {
    /// Does what the kernel does when a process of the namespace calls the operation. Returns the number of a new
    /// namespace or detached tree; both are numbered alike.
    ///
    /// # Errors
    /// [`Stop::Refused`] with the errno of the system call, or [`Stop::Unknown`]. Nothing was changed.
    pub fn apply(&mut self, namespace: usize, operation: &Operation) -> Result<Option<usize>, Stop> {
        match self.namespaces.get(namespace) {
            Some(namespace) if !namespace.detached && !namespace.gone => {}
            _ => return Err(Doubt::NoNamespace(namespace).into()),
        }
        match operation {
            Operation::Mount { device, at } => self.new_mount(namespace, *device, at).map(|()| None),
            Operation::Bind { from, to, recursive } => self.bind(namespace, from, to, *recursive).map(|()| None),
            Operation::Move { from, to } => self.relocate(namespace, from, to).map(|()| None),
            Operation::Unmount { at, lazy } => self.unmount(namespace, at, *lazy).map(|()| None),
            Operation::Change { at, to } => self.change(namespace, at, *to).map(|()| None),
            Operation::Unshare { propagation, user } => self.unshare(namespace, *propagation, *user).map(Some),
            Operation::PivotRoot { new_root, put_old } => self.pivot_root(namespace, new_root, put_old).map(|()| None),
            Operation::OpenTree { from, recursive } => self.open_tree(namespace, from, *recursive).map(Some),
            Operation::Attach { tree, to } => self.attach_tree(namespace, *tree, to).map(|()| None),
            Operation::Close { tree } => self.close(*tree).map(|()| None),
            Operation::End => {
                self.end(namespace);
                Ok(None)
            }
        }
    }

    /// The mount whose root is at this path.
    pub(super) fn mount_point(&self, namespace: NamespaceNumber, path: &Path) -> Result<MountNumber, Stop> {
        let resolved = self.resolve(namespace, path)?;
        let is_root = resolved.rest.as_os_str().is_empty() && resolved.dentry == self.mount(resolved.mount).root;
        if is_root { Ok(resolved.mount) } else { Err(Errno::EINVAL.into()) }
    }

    /// The mount and directory at a path, if something can be mounted there.
    pub(super) fn target(&mut self, namespace: NamespaceNumber, path: &Path) -> Result<(MountNumber, usize), Stop> {
        let resolved = self.resolve_mount_point(namespace, path)?;
        let mount = self.mount(resolved.mount);
        if mount.deleted {
            return Err(Doubt::Deleted(mount.id).into());
        }
        Ok((resolved.mount, self.dentry_of(&resolved)))
    }

    /// The directory at the end of a path. Adds it if needed.
    pub(super) fn dentry_of(&mut self, resolved: &ResolvedPath) -> usize {
        self.dentries.beneath(resolved.dentry, &resolved.rest)
    }
}

impl fmt::Display for Operation {
    /// The command for it: mount(8), unshare(1) or another.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount { at, .. } => write!(f, "mount -t tmpfs none {}", quoted(at)),
            Self::Bind { from, to, recursive } => {
                let option = if *recursive { "--rbind" } else { "--bind" };
                write!(f, "mount {option} {} {}", quoted(from), quoted(to))
            }
            Self::Move { from, to } => write!(f, "mount --move {} {}", quoted(from), quoted(to)),
            Self::Unmount { at, lazy } => write!(f, "umount {}{}", if *lazy { "-l " } else { "" }, quoted(at)),
            Self::Change { at, to } => write!(f, "mount --make-{to} {}", quoted(at)),
            Self::Unshare { propagation, user } => {
                let kind = propagation.map_or("unchanged", |kind| Propagation::new(kind, false).name());
                write!(f, "unshare {}--mount --propagation {kind}", if *user { "--user " } else { "" })
            }
            Self::PivotRoot { new_root, put_old } => {
                write!(f, "pivot_root {} {}", quoted(new_root), quoted(put_old))
            }
            Self::OpenTree { from, recursive } => {
                write!(f, "open_tree {}{}", if *recursive { "AT_RECURSIVE " } else { "" }, quoted(from))
            }
            Self::Attach { tree, to } => write!(f, "move_mount tree {tree} {}", quoted(to)),
            Self::Close { tree } => write!(f, "close tree {tree}"),
            Self::End => f.write_str("exit"),
        }
    }
}
