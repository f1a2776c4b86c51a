//! The mount namespaces of a machine, whose they are and what is mounted in them: one look at all of it, as plain data.
//!
//! Everything that shows, explains or predicts works on this, so that it needs no rights, no kernel and no cluster to be
//! tested. Mount ids and peer groups are the kernel's own numbers, which are the same in all namespaces: that is what
//! ties the tables together (fs/namespace.c `mnt_alloc_id`, fs/pnode.c `mnt_alloc_group_id`).

pub mod names;
pub mod whereabouts;

use std::fmt;

use mounts::mountinfo::Table;

use crate::kubelet;

/// The inode of a namespace whose name we may not ask for.
pub const UNKNOWN: u64 = 0;

/// What one look found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// The mount namespaces: that of process 1 first, then by their lowest process, then those without any.
    pub namespaces: Vec<Namespace>,
    /// What could not be read.
    pub left_out: Vec<LeftOut>,
}

/// A mount namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its inode number on nsfs, by which `lsns` and `readlink /proc/PID/ns/mnt` name it; [`UNKNOWN`] where we may not ask.
    pub inode: u64,
    /// The inode number of the user namespace that owns it, where it can be told.
    pub user_namespace: Option<u64>,
    /// The processes in it, by number. None: something else keeps it, such as a bind mount of it or a descriptor.
    pub processes: Vec<Process>,
    /// The container whose it is, if its processes are in one.
    pub container: Option<Container>,
    /// The pod whose it is, if its processes are in one.
    pub pod: Option<Pod>,
    /// What is mounted in it, as seen from its root.
    pub table: Table,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number in our PID namespace.
    pub pid: i32,
    /// Its name (`/proc/PID/comm`), with what is no UTF-8 replaced.
    pub name: String,
}

/// A container, as its runtime names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id of it, from the processes' cgroup, where that tells it.
    pub id: Option<String>,
    /// Its name in its pod, where it can be told.
    pub name: Option<String>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its uid, from the processes' cgroup or the kubelet's paths.
    pub uid: String,
    /// Its namespace and name, where they can be told.
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
    /// `namespace/name`, as `kubectl` users write it; the uid if that is all that is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some((namespace, name)) => write!(f, "{namespace}/{name}"),
            None => write!(f, "{}", self.uid),
        }
    }
}

impl Namespace {
    /// What people call it: the pod and container, the container, the kubelet if it has one of its own, or the first
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
