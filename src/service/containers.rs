//! Compares the mount flags that volumes have in running containers with those that were granted.
//!
//! The kubelet's target has every flag of the entry. But the runtime makes the container's mount, and runtimes remove
//! flags (docs/allow-list.md has a table). So the mount tables of the pods' own processes are read. Missing flags are
//! reported by `volumes inspect`, by `check`, and by a metric ([`watch`]).
//!
//! Tenants shape those tables. So they are read as a stream and within bounds ([`look`]), and no path in them is
//! walked. What is beyond a bound is unknown, never good. Only reports depend on them.
//!
//! A volume's mount in a container is known by its device and the directory that it shows ([`scan`]). The pod is known
//! by the files that the kubelet mounts into each of its containers from `pods/UID` (kubelet_pods.go, makeMounts): no
//! tenant can mount from that path on the kubelet's own file system.

pub mod judge;
pub mod look;
pub mod scan;
pub mod watch;

use std::collections::BTreeMap;

use mounts::MountAttrs;
use plan::record::Shown;

/// A volume to find in containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sought {
    /// The uid of its pod.
    pub pod: String,
    /// What its target shows, in every layer there.
    pub shown: Vec<Shown>,
    /// The flags that it should have ([`judge::wanted`]).
    pub wanted: MountAttrs,
}

/// The mount of a volume in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The volumes that it shows, as indices into the sought ones. There are several if volumes of the pod show the
    /// same directory.
    pub volumes: Vec<usize>,
    /// Where it is mounted in the container: printable, and cut if it is long.
    pub path: String,
    /// Its flags there.
    pub attrs: MountAttrs,
    /// The flags that it should have and that nothing else in the container makes up for.
    pub missing: MountAttrs,
}

/// A container, or another mount namespace of a pod, that has volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// One of its processes.
    pub pid: i32,
    /// The pod's uid.
    pub pod: String,
    /// Its name in the pod, if the kubelet's files tell it. Printable.
    pub name: Option<String>,
    /// The volumes in it.
    pub places: Vec<Place>,
}

/// What could not be examined.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unknown {
    /// The affected pods by uid, and why.
    pub pods: BTreeMap<String, String>,
    /// Why other namespaces were not examined, of pods that aren't known.
    pub rest: Option<String>,
}

impl Unknown {
    /// Why the state of a pod's volumes is unknown, if it is. A volume `found` in some container is known.
    #[must_use]
    pub fn of(&self, pod: &str, found: bool) -> Option<&str> {
        self.pods.get(pod).or(self.rest.as_ref().filter(|_| !found)).map(String::as_str)
    }
}
