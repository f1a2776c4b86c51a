//! What `hostmount check` found, as plain data without a verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use allowlist::config::{Entry, Faults};
use allowlist::names::AbsPath;
use kernel::calls::Row;
use model::kubelet::Process;
use mounts::propagation::PropagationState;
use mounts::{Errno, MountAttrs};
use node::kubelet::FoundBy;

use crate::in_containers::NotLooked;

/// The name of fanotify's mount events in [`Facts::calls`].
pub const MOUNT_EVENTS: &str = "mount events by fanotify";

/// `CAP_CHOWN` (linux/capability.h).
pub const CAP_CHOWN: u32 = 0;
/// `CAP_SYS_CHROOT`.
pub const CAP_SYS_CHROOT: u32 = 18;
/// `CAP_SYS_PTRACE`.
pub const CAP_SYS_PTRACE: u32 = 19;
/// `CAP_SYS_ADMIN`.
pub const CAP_SYS_ADMIN: u32 = 21;

/// All facts.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The driver's name.
    pub driver: String,
    /// The kubelet's directory, as given.
    pub kubelet_dir: AbsPath,
    /// The time-out for each directory.
    pub timeout: Duration,
    /// The kernel's release.
    pub release: String,
    /// What newer kernels have.
    pub calls: Vec<Row>,
    /// The rights of this process.
    pub own: Own,
    /// The most mounts that a mount namespace may have (`fs.mount-max`).
    pub mount_max: Option<u64>,
    /// The process whose mount namespace was looked at.
    pub kubelet: Kubelet,
    /// What was seen in it, or why it couldn't be entered.
    pub node: Result<Node, Errno>,
    /// The allow-list.
    pub list: List,
}

/// The rights of this process (proc_pid_status(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    /// The effective capabilities, as a bit set.
    pub capabilities: u64,
    /// Whether a seccomp filter is active.
    pub seccomp: bool,
    /// The profile of the security module, such as AppArmor's `docker-default (enforce)`.
    pub confined: Option<String>,
}

impl Own {
    /// Whether a capability is held.
    #[must_use]
    pub const fn holds(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }
}

/// The process whose mount namespace was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubelet {
    /// The process.
    pub process: Process,
    /// How it was found.
    pub found_by: FoundBy,
    /// Others that might be meant.
    pub others: Vec<i32>,
    /// Its `--root-dir`, if it has one on its command line.
    pub root_dir: Option<String>,
    /// Its mount namespace, by inode.
    pub namespace: Result<u64, Errno>,
    /// That of process 1.
    pub first_namespace: Option<u64>,
    /// Whether we are process 1 of a PID namespace of our own, and so can't see the node's processes.
    pub alone: bool,
}

/// What was seen in the kubelet's mount namespace.
#[derive(Debug, Clone)]
pub struct Node {
    /// How many mounts it has.
    pub mounts: u64,
    /// Whether mount(2) is allowed there. None if the kubelet's directory can't be opened.
    pub mount_allowed: Option<Result<(), Errno>>,
    /// The kubelet's directory.
    pub kubelet_dir: DirectoryState,
    /// Directories of other distributions' kubelets that exist.
    pub elsewhere: Vec<PathBuf>,
    /// Its subdirectories `pods`, `plugins` and `plugins/DRIVER`. Each may be a mount of its own.
    pub parts: Vec<(PathBuf, DirectoryState)>,
    /// Whether what a volume shows can be noted in the kubelet's directory. None if the directory can't be asked.
    pub notes: Option<bool>,
    /// `plugins_registry` in it.
    pub registry: DirectoryState,
    /// The plugin's sockets that exist.
    pub sockets: Vec<(PathBuf, Socket)>,
    /// What running containers have of the volumes, or why that isn't known.
    pub containers: Result<InContainers, NotLooked>,
}

/// What running containers have of the volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InContainers {
    /// How many volumes are published.
    pub volumes: usize,
    /// How many containers have one.
    pub containers: usize,
    /// Volumes that lack a flag in a container; at most 1000.
    pub weaker: Vec<Weaker>,
    /// Pods whose containers could not be looked into, and why.
    pub unknown: Vec<(String, String)>,
}

/// A volume in a container that lacks a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weaker {
    /// The volume's entry.
    pub entry: String,
    /// The pod, `NAMESPACE/NAME`, or its uid.
    pub pod: String,
    /// The container's name, where it is known.
    pub container: Option<String>,
    /// Where it is mounted there.
    pub path: String,
    /// What it lacks.
    pub missing: MountAttrs,
}

/// What is at the path of one of the plugin's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// A process accepts connections.
    Live,
    /// No process accepts connections.
    Stale,
    /// Not a socket.
    SomethingElse,
}

/// The state of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryState {
    /// A directory that answers.
    Directory(Directory),
    /// Nothing.
    Missing,
    /// The path has a symlink; its target.
    Symlink(Option<PathBuf>),
    /// It exists and is not a directory.
    NotADirectory,
    /// Its file system has lost its server.
    Dead(Errno),
    /// It can't be opened.
    Refused(Errno),
    /// The time-out passed.
    Hung,
    /// It wasn't looked at.
    Unknown,
}

/// A directory that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// The mount point of the mount that it is on.
    pub mount_point: Option<PathBuf>,
    /// The type of its file system.
    pub fs_type: Option<String>,
    /// The propagation of that mount.
    pub propagation: PropagationState,
    /// The mounts beneath the directory.
    pub nested: Vec<(PathBuf, PropagationState)>,
}

/// The allow-list.
#[derive(Debug, Clone)]
pub enum List {
    /// Not given.
    NotNamed,
    /// It can't be read: why, with its path.
    Unreadable(PathBuf, String),
    /// It has faults.
    Faulty(PathBuf, Faults),
    /// Its entries and their directories.
    Good(PathBuf, Vec<(Arc<Entry>, DirectoryState)>),
}
