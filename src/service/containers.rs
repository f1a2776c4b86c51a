//! What running containers really have of their volumes: the flags of the mounts there, held against those that were
//! granted.
//!
//! The kubelet's target has each flag of the entry. What a container has is made by its runtime, and runtimes take flags
//! off (docs/allow-list.md has a table). So the mount tables of the pods' own processes are read, and what is weaker there
//! is named: by `volumes inspect`, by `check`, and by a metric ([`watch`]).
//!
//! Those tables are shaped by tenants. They are read as a stream and within bounds ([`look`]), no path in them is walked,
//! and what is beyond a bound is unknown, never well. Nothing but a report depends on them.
//!
//! A volume's mount in a container is known by what it shows, its device and the directory there ([`scan`]); the pod,
//! by the files that the kubelet mounts into each of its containers from `pods/UID` (kubelet_pods.go, makeMounts), whose
//! way on the kubelet's own file system no tenant can take.

pub mod judge;
pub mod look;
pub mod scan;
pub mod watch;

use std::collections::BTreeMap;

use mounts::MountAttrs;
use plan::record::Shown;

/// A volume that is looked for in containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sought {
    /// The uid of its pod.
    pub pod: String,
    /// What its target shows, in every layer there.
    pub shown: Vec<Shown>,
    /// The flags that it shall have ([`judge::wanted`]).
    pub wanted: MountAttrs,
}

/// The mount of a volume in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The volumes that it shows, by their numbers among those that were looked for: more than one if several of the pod
    /// show one directory.
    pub volumes: Vec<usize>,
    /// Where it is mounted in the container; fit to be printed, and cut if it is long.
    pub path: String,
    /// Its flags there.
    pub attrs: MountAttrs,
    /// The flags that it should have, and that nothing else in the container makes up for.
    pub missing: MountAttrs,
}

/// A container, or another mount namespace of a pod, with volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// One of its processes.
    pub pid: i32,
    /// The pod's uid.
    pub pod: String,
    /// Its name in the pod, if the kubelet's files tell it; fit to be printed.
    pub name: Option<String>,
    /// The volumes in it.
    pub places: Vec<Place>,
}

/// What could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unknown {
    /// The pods that it concerns, by uid, and why.
    pub pods: BTreeMap<String, String>,
    /// Why others weren't looked at, of which it isn't known whose they are.
    pub rest: Option<String>,
}

impl Unknown {
    /// Why it isn't known how the volumes of a pod are, if it isn't; one that was found in some container is known.
    #[must_use]
    pub fn of(&self, pod: &str, found: bool) -> Option<&str> {
        self.pods.get(pod).or(self.rest.as_ref().filter(|_| !found)).map(String::as_str)
    }
}
