//! Applies the command line's filters: chooses namespaces and mounts. Pure.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use model::machine::{Machine, Namespace, whereabouts};
use mounts::mountinfo::{Mount, Walk};

/// The filters. A mount must pass all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The mount that this absolute path lies on, and those at and beneath it.
    pub path: Option<PathBuf>,
    /// A pod by `NAMESPACE/NAME`, by name alone, or by uid.
    pub pod: Option<String>,
    /// The namespace of a process.
    pub pid: Option<i32>,
    /// A namespace by its inode.
    pub namespace: Option<u64>,
    /// A volume by its name in the kubelet's path.
    pub volume: Option<String>,
    /// The inode of our own namespace, in which a path is looked up unless another is given.
    pub own: Option<u64>,
}

/// A namespace that is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its index in [`Machine::namespaces`].
    pub namespace: usize,
    /// Which mounts of its table are shown, in the order of the table; none: all.
    pub mounts: Option<Vec<bool>>,
}

impl Chosen {
    /// Whether a mount is shown.
    #[must_use]
    pub fn shows(&self, mount: usize) -> bool {
        self.mounts.as_ref().is_none_or(|mounts| mounts.get(mount).copied().unwrap_or(false))
    }
}

/// What was asked for isn't there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what was asked for")]
pub enum NotFound {
    /// No namespace has this inode.
    #[error("--namespace {inode}: there is no such mount namespace{incomplete}; `lsns -t mnt` lists them")]
    Namespace { inode: u64, incomplete: Incomplete },
    /// No namespace has this process.
    #[error("--pid {pid}: no such process in the namespaces that were chosen{incomplete}")]
    Process { pid: i32, incomplete: Incomplete },
    /// No namespace is this pod's.
    #[error(
        "--pod {wanted}: no such pod: {}{incomplete}",
        .others.as_deref().unwrap_or("no namespace belongs to a pod")
    )]
    Pod { wanted: String, others: Option<String>, incomplete: Incomplete },
    /// No mount is this volume's.
    #[error(
        "--volume {volume}: no path of a kubelet ends with volumes/PLUGIN/{volume}{incomplete}; it is the volume's name \
         in the pod, or that of the PersistentVolume"
    )]
    Volume { volume: String, incomplete: Incomplete },
    /// No mount is left.
    #[error("no mount in any of these namespaces is what was asked for{incomplete}")]
    Mount { incomplete: Incomplete },
}

/// Whether something could not be read, so that it may be there all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incomplete(bool);

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { " (not everything could be read, see above)" } else { "" })
    }
}

/// Applies the filters.
///
/// # Errors
/// [`NotFound`].
pub fn choose(machine: &Machine, filter: &Filter) -> Result<Vec<Chosen>, NotFound> {
    let mut chosen: Vec<usize> = (0..machine.namespaces.len()).collect();
    let all = &machine.namespaces;
    let incomplete = Incomplete(!machine.left_out.is_empty());
    if let Some(inode) = filter.namespace {
        chosen.retain(|&n| all[n].inode == inode);
        if chosen.is_empty() {
            return Err(NotFound::Namespace { inode, incomplete });
        }
    }
    if let Some(pid) = filter.pid {
        chosen.retain(|&n| all[n].processes.iter().any(|process| process.pid == pid));
        if chosen.is_empty() {
            return Err(NotFound::Process { pid, incomplete });
        }
    }
    if let Some(wanted) = &filter.pod {
        chosen.retain(|&n| all[n].pod.as_ref().is_some_and(|pod| pod.is_called(wanted)));
        if chosen.is_empty() {
            return Err(NotFound::Pod { wanted: wanted.clone(), others: whereabouts::pods(machine), incomplete });
        }
    }
    let named = filter.namespace.is_some() || filter.pid.is_some() || filter.pod.is_some();
    let mut shown: Vec<Chosen> = chosen.into_iter().map(|namespace| Chosen { namespace, mounts: None }).collect();
    if let Some(path) = &filter.path {
        shown.retain_mut(|chosen| {
            let namespace = &all[chosen.namespace];
            let wanted = named || Some(namespace.inode) == filter.own;
            keep(chosen, at_path(namespace, path, wanted))
        });
    }
    if let Some(volume) = &filter.volume {
        let targets = volume_targets(machine, volume);
        if targets.is_empty() {
            return Err(NotFound::Volume { volume: volume.clone(), incomplete });
        }
        shown.retain_mut(|chosen| keep(chosen, of_volume(&all[chosen.namespace], volume, &targets)));
    }
    if shown.is_empty() {
        return Err(NotFound::Mount { incomplete });
    }
    Ok(shown)
}

/// The machine reduced to what is shown.
#[must_use]
pub fn only(machine: &Machine, chosen: &[Chosen]) -> Machine {
    let namespaces = chosen.iter().filter_map(|chosen| {
        let mut namespace = machine.namespaces.get(chosen.namespace)?.clone();
        let mut number = 0..;
        namespace.table.mounts.retain(|_| number.next().is_some_and(|number| chosen.shows(number)));
        Some(namespace)
    });
    Machine { namespaces: namespaces.collect(), left_out: machine.left_out.clone() }
}

/// Reduces what is shown of a namespace. Returns whether anything is left.
fn keep(chosen: &mut Chosen, mounts: Vec<bool>) -> bool {
    let mounts: Vec<bool> = mounts.into_iter().enumerate().map(|(n, keep)| keep && chosen.shows(n)).collect();
    let any = mounts.contains(&true);
    chosen.mounts = Some(mounts);
    any
}

/// The mounts at and beneath a path. If there are any, or if the namespace is `wanted` anyway, also the mount that the path is
/// on.
fn at_path(namespace: &Namespace, path: &Path, wanted: bool) -> Vec<bool> {
    let mounts = &namespace.table.mounts;
    let mut keep: Vec<bool> = mounts.iter().map(|mount| mount.mount_point.starts_with(path)).collect();
    if (wanted || keep.contains(&true))
        && let Some(on) = Walk::new(&namespace.table).mount_at(path)
    {
        mounts.iter().zip(&mut keep).for_each(|(mount, keep)| *keep |= mount.id == on.id);
    }
    keep
}

/// The pod's uid, if a path is the kubelet's of a pod's volume: `.../pods/UID/volumes/PLUGIN/NAME`, of a CSI volume with
/// `/mount` at its end (kubelet, pkg/volume/csi: getTargetPath).
#[must_use]
pub fn volume_of_path<'a>(path: &'a Path, name: &str) -> Option<&'a str> {
    let mut parts = path.iter().rev();
    let mut last = parts.next()?;
    if last == "mount" && path.parent().is_some_and(|parent| parent.ends_with(name)) {
        last = parts.next()?;
    }
    let _plugin = parts.next()?;
    let is_volume = last == name && parts.next()? == "volumes";
    let uid = parts.next()?.to_str()?;
    (is_volume && parts.next()? == "pods").then_some(uid)
}

/// What is mounted for a volume: the pod's uid, and the device and directory that are shown.
type Target = (String, (u32, u32), PathBuf);

fn volume_targets(machine: &Machine, name: &str) -> HashSet<Target> {
    let mounts = machine.namespaces.iter().flat_map(|namespace| &namespace.table.mounts);
    mounts.filter_map(|m| Some((volume_of_path(&m.mount_point, name)?.to_owned(), m.device, m.root.clone()))).collect()
}

/// The volume's mounts at the kubelet's path with what lies beneath; and in containers of the pods that have it, the
/// mounts that show the same directory.
fn of_volume(namespace: &Namespace, name: &str, targets: &HashSet<Target>) -> Vec<bool> {
    let table = &namespace.table;
    let uid = namespace.pod.as_ref().map(|pod| &pod.uid);
    let shows = |mount: &Mount| {
        volume_of_path(&mount.mount_point, name).is_some()
            || uid.is_some_and(|uid| targets.contains(&(uid.clone(), mount.device, mount.root.clone())))
    };
    let tops: Vec<&Path> =
        table.mounts.iter().filter(|mount| shows(mount)).map(|mount| mount.mount_point.as_path()).collect();
    let tops: HashSet<&Path> = tops.into_iter().collect();
    table.mounts.iter().map(|m| !tops.is_empty() && m.mount_point.ancestors().any(|at| tops.contains(at))).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use model::machine::{LeftOut, Pod, Process};
    use mounts::mountinfo;

    const VOLUME: &str = "/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/data/mount";

    fn machine() -> Machine {
        let of = |inode, pid, pod: Option<Pod>, text: &str| Namespace {
            inode,
            pod,
            processes: vec![Process { pid, name: "p".into() }],
            table: mountinfo::parse(text.as_bytes()),
            ..Namespace::default()
        };
        let node = format!(
            "1 0 8:1 / / rw - ext4 d rw\n2 1 0:2 / /mnt rw - t t rw\n3 2 0:3 / /mnt/a rw - t t rw\n\
             4 1 0:2 /d {VOLUME} rw - t t rw\n5 4 0:5 / {VOLUME}/x rw - t t rw\n6 1 0:6 / /mnt2 rw - t t rw\n"
        );
        let pod = Pod { uid: "u-1".into(), name: Some(("ml".into(), "train".into())) };
        let other = Pod { uid: "u-2".into(), name: None };
        Machine {
            namespaces: vec![
                of(10, 1, None, &node),
                of(20, 7, Some(pod), "11 0 0:9 / / rw - t t rw\n12 11 0:2 /d /data rw - t t rw\n"),
                of(30, 8, Some(other), "21 0 0:9 / / rw - t t rw\n22 21 0:2 /d /data rw - t t rw\n"),
            ],
            left_out: vec![],
        }
    }

    /// `INODE: MOUNT MOUNT`.
    fn chosen(filter: &Filter) -> Vec<String> {
        let machine = machine();
        listed(&machine, &choose(&machine, filter).unwrap())
    }

    pub(in super::super) fn listed(machine: &Machine, chosen: &[Chosen]) -> Vec<String> {
        let ids = |chosen: &Chosen| {
            let mounts = &machine.namespaces[chosen.namespace].table.mounts;
            let shown = mounts.iter().enumerate().filter(|(n, _)| chosen.shows(*n));
            shown.map(|(_, mount)| mount.id.to_string()).collect::<Vec<_>>().join(" ")
        };
        chosen.iter().map(|c| format!("{}: {}", machine.namespaces[c.namespace].inode, ids(c))).collect()
    }

    pub(in super::super) fn none() -> Filter {
        Filter { own: Some(10), ..Filter::default() }
    }

    #[test]
    fn a_path_is_the_mount_it_lies_on_and_what_is_beneath() {
        let at = |path: &str| chosen(&Filter { path: Some(path.into()), ..none() });
        assert_eq!(at("/mnt"), ["10: 2 3"]);
        assert_eq!(at("/mnt/b"), ["10: 2"], "where nothing is beneath, other namespaces don't come up");
        assert_eq!(at("/data"), ["10: 1", "20: 12", "30: 22"]);
        let there = Filter { path: Some("/nothing".into()), pid: Some(7), ..none() };
        assert_eq!(chosen(&there), ["20: 11"]);
    }

    #[test]
    fn namespaces_are_chosen_by_pod_process_and_inode() {
        for wanted in ["ml/train", "train", "u-1"] {
            assert_eq!(chosen(&Filter { pod: Some(wanted.into()), ..none() }), ["20: 11 12"], "{wanted}");
        }
        assert_eq!(chosen(&Filter { pid: Some(8), ..none() }), ["30: 21 22"]);
        assert_eq!(chosen(&Filter { namespace: Some(20), ..none() }), ["20: 11 12"]);
        assert_eq!(chosen(&none()).len(), 3);
    }

    #[test]
    fn a_volume_is_found_at_the_kubelet_and_in_its_pods() {
        let volume = Filter { volume: Some("data".into()), ..none() };
        assert_eq!(chosen(&volume), ["10: 4 5", "20: 12"], "pod u-2 shows the same directory, but hasn't this volume");
        assert_eq!(chosen(&Filter { pod: Some("u-1".into()), ..volume }), ["20: 12"]);
        for (path, name, uid) in [
            (VOLUME, "data", Some("u-1")),
            ("/var/lib/kubelet/pods/u/volumes/kubernetes.io~nfs/share", "share", Some("u")),
            ("/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/mount/mount", "mount", Some("u")),
            ("/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/data/mount/x", "data", None),
            (VOLUME, "mount", None),
            ("/", "x", None),
        ] {
            assert_eq!(volume_of_path(Path::new(path), name), uid, "{path} {name}");
        }
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        let refusal = |filter: &Filter| choose(&machine(), filter).unwrap_err().to_string();
        let message = refusal(&Filter { pod: Some("ml/tarin".into()), ..none() });
        assert!(message.contains("there are ml/train, u-2"), "{message}");
        assert!(refusal(&Filter { pid: Some(99), ..none() }).contains("--pid 99"));
        assert!(refusal(&Filter { namespace: Some(99), ..none() }).contains("lsns"));
        assert!(refusal(&Filter { volume: Some("x".into()), ..none() }).contains("volumes/PLUGIN/x"));
        let mut partly = machine();
        partly.left_out.push(LeftOut { what: "x".into(), why: "y".into() });
        let message = choose(&partly, &Filter { pid: Some(99), ..none() }).unwrap_err().to_string();
        assert!(message.contains("not everything could be read"), "{message}");
    }
}
