//! A snapshot of all mount namespaces of a machine: which process, container or pod uses each, and what is mounted in
//! it. Plain data.
//!
//! All commands that show, explain or predict mounts work on this data. So they can be tested without rights, kernel or
//! cluster. Mount ids and peer groups are the kernel's numbers and are the same in all namespaces, so they connect the
//! tables (fs/namespace.c `mnt_alloc_id`, fs/pnode.c `mnt_alloc_group_id`).

pub mod names;
pub mod whereabouts;

use std::fmt;

use mounts::mountinfo::Table;

use crate::kubelet;

/// The inode of a namespace whose link in /proc we may not read.
pub const UNKNOWN: u64 = 0;

/// A snapshot of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// The mount namespaces: first that of process 1, then by lowest pid, then those without processes.
    pub namespaces: Vec<Namespace>,
    /// What could not be read.
    pub left_out: Vec<LeftOut>,
}

/// A mount namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its inode number on nsfs, as `lsns` and `readlink /proc/PID/ns/mnt` print it. [`UNKNOWN`] if we may not read it.
    pub inode: u64,
    /// The inode number of the user namespace that owns it, if known.
    pub user_namespace: Option<u64>,
    /// The processes in it, by pid. Empty: a bind mount of it or a descriptor keeps it alive.
    pub processes: Vec<Process>,
    /// The container that its processes are in, if any.
    pub container: Option<Container>,
    /// The pod that its processes are in, if any.
    pub pod: Option<Pod>,
    /// What is mounted in it, as seen from its root.
    pub table: Table,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its pid in our PID namespace.
    pub pid: i32,
    /// Its name (`/proc/PID/comm`). Bytes that aren't UTF-8 are replaced.
    pub name: String,
}

/// A container, as its runtime names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id for it, if the processes' cgroup shows one.
    pub id: Option<String>,
    /// Its name in its pod, if known.
    pub name: Option<String>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its uid, from the processes' cgroup or the kubelet's paths.
    pub uid: String,
    /// Its namespace and name, if known.
    pub name: Option<(String, String)>,
}

/// Something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// What, in words.
    pub what: String,
    /// Why, and what to do about it.
    pub why: String,
}

impl fmt::Display for Pod {
    /// `namespace/name`, as `kubectl` users write it, or the uid if the name isn't known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some((namespace, name)) => write!(f, "{namespace}/{name}"),
            None => write!(f, "{}", self.uid),
        }
    }
}

impl Namespace {
    /// The name to show: pod and container, or the container, or the kubelet if it is in this namespace, or the first
    /// process.
    #[must_use]
    pub fn label(&self) -> String {
        let kubelet = self.processes.iter().find(|process| kubelet::NAMES.contains(&process.name.as_str()));
        let known = kubelet.or(self.processes.first());
        let process = || known.map(|process| format!("{} ({})", process.name, process.pid));
        match (&self.pod, &self.container) {
            (Some(pod), Some(Container { name: Some(name), .. })) => format!("pod {pod}, {name}"),
            (Some(pod), _) => format!("pod {pod}, {}", process().unwrap_or_else(|| "no process".to_owned())),
            (None, Some(Container { name: Some(name), .. })) => format!("container {name}"),
            (None, Some(Container { id: Some(id), .. })) => format!("container {}", id.get(..12).unwrap_or(id)),
            (None, _) if self.processes.first().is_some_and(|first| first.pid == 1) => "node".to_owned(),
            (None, _) => process().unwrap_or_else(|| format!("mnt:[{}]", self.inode)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_called_by_what_is_known_of_it() {
        let process = |pid| Process { pid, name: "bash".to_owned() };
        let of = |processes| Namespace { inode: 4_026_532_000, processes, ..Namespace::default() };
        assert_eq!(of(vec![]).label(), "mnt:[4026532000]");
        assert_eq!(of(vec![process(1), process(7)]).label(), "node");
        assert_eq!(of(vec![process(7)]).label(), "bash (7)");
        let kubelet = Process { pid: 9, name: "kubelet".to_owned() };
        assert_eq!(of(vec![process(7), kubelet]).label(), "kubelet (9)");
        let container =
            |name: Option<&str>| Container { id: Some("0123456789abcdef".into()), name: name.map(Into::into) };
        let pod = |name| Pod { uid: "u-1".into(), name };
        let inside = Namespace { container: Some(container(None)), ..of(vec![process(7)]) };
        assert_eq!(inside.label(), "container 0123456789ab");
        let named = Namespace { pod: Some(pod(Some(("ml".into(), "train".into())))), ..inside.clone() };
        assert_eq!(named.label(), "pod ml/train, bash (7)");
        let both = Namespace { container: Some(container(Some("main"))), pod: Some(pod(None)), ..inside };
        assert_eq!(both.label(), "pod u-1, main");
    }
}
