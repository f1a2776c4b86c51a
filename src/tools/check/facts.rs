//! What `hostmount check` found, as plain data: no verdict yet.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use allowlist::config::{Entry, Faults};
use allowlist::names::AbsPath;
use kernel::calls::Row;
use model::kubelet::Process;
use mounts::propagation::PropagationState;
use mounts::{Errno, MountAttrs};

/// `CAP_CHOWN` (linux/capability.h).
pub const CAP_CHOWN: u32 = 0;
/// `CAP_SYS_CHROOT`.
pub const CAP_SYS_CHROOT: u32 = 18;
/// `CAP_SYS_PTRACE`.
pub const CAP_SYS_PTRACE: u32 = 19;
/// `CAP_SYS_ADMIN`.
pub const CAP_SYS_ADMIN: u32 = 21;

/// Everything that was found.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The driver's name.
    pub driver: String,
    /// The kubelet's directory, as it was named.
    pub kubelet_dir: AbsPath,
    /// How long each directory had to answer.
    pub patience: Duration,
    /// The kernel's release.
    pub release: String,
    /// The newer system calls.
    pub calls: Vec<Row>,
    /// What we ourselves may do.
    pub own: Own,
    /// The most mounts that a mount namespace may have (`fs.mount-max`).
    pub mount_max: Option<u64>,
    /// Whose mount namespace was looked at.
    pub kubelet: Kubelet,
    /// What was seen in it, or why it couldn't be entered.
    pub node: Result<Node, Errno>,
    /// The allow-list.
    pub list: List,
}

/// What this process may do (proc_pid_status(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    /// The effective capabilities, as bits.
    pub capabilities: u64,
    /// Whether a seccomp filter decides on our system calls.
    pub seccomp: bool,
    /// The security module's name for us, such as AppArmor's `docker-default (enforce)`.
    pub confined: Option<String>,
}

impl Own {
    /// Whether a capability is held.
    #[must_use]
    pub const fn holds(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }
}

/// How the kubelet's process was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// It was named.
    Pid,
    /// It has the kubelet's name.
    Name,
    /// Nobody has: the first process stands in.
    Default,
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
    /// Whether process 1 is ourselves, so that we see no process of the node.
    pub alone: bool,
}

/// What was seen in the kubelet's mount namespace.
#[derive(Debug, Clone)]
pub struct Node {
    /// How many mounts it has.
    pub mounts: u64,
    /// Whether mount(2) is let through there; unknown where the kubelet's directory can't be opened.
    pub mount_allowed: Option<Result<(), Errno>>,
    /// The kubelet's directory.
    pub kubelet_dir: Seen,
    /// Directories of other distributions' kubelets that are there.
    pub elsewhere: Vec<PathBuf>,
    /// `pods`, `plugins` and `plugins/DRIVER` in it, which may be mounts of their own.
    pub parts: Vec<(PathBuf, Seen)>,
    /// `plugins_registry` in it.
    pub registry: Seen,
    /// The plugin's sockets that are there.
    pub sockets: Vec<(PathBuf, Socket)>,
    /// What running containers have of the volumes, or why that isn't known.
    pub containers: Result<InContainers, String>,
}

/// What running containers have of the volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InContainers {
    /// How many volumes are published.
    pub volumes: usize,
    /// In how many containers they were found.
    pub containers: usize,
    /// Where one lacks a flag; at most 1000 of them.
    pub weaker: Vec<Weaker>,
    /// The pods of volumes of which it isn't known, each once, and why.
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

/// What is where a socket of the plugin would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// Somebody answers.
    Live,
    /// Nobody does.
    Stale,
    /// It is something else.
    SomethingElse,
}

/// What a directory turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A directory that answers.
    Directory(Directory),
    /// Nothing.
    Missing,
    /// The way leads over a symlink; where to.
    Symlink(Option<PathBuf>),
    /// A file or the like.
    NotADirectory,
    /// On a file system that has lost its server.
    Dead(Errno),
    /// Not to be opened.
    Refused(Errno),
    /// It didn't answer in time.
    Hung,
    /// It wasn't looked at.
    Unknown,
}

/// A directory that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Where the mount that it lies on is mounted.
    pub mount_point: Option<PathBuf>,
    /// That file system's type.
    pub fs_type: Option<String>,
    /// How that mount propagates.
    pub propagation: PropagationState,
    /// The mounts beneath the directory.
    pub nested: Vec<(PathBuf, PropagationState)>,
}

/// The allow-list.
#[derive(Debug, Clone)]
pub enum List {
    /// None was named.
    NotNamed,
    /// It can't be read: why, with its path.
    Unreadable(PathBuf, String),
    /// It has faults.
    Faulty(PathBuf, Faults),
    /// Its entries and their directories.
    Good(PathBuf, Vec<(Arc<Entry>, Seen)>),
}
