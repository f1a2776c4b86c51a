//! Prints what happened: lines for people, JSON lines for programs (docs/watch.md). Pure.

use std::path::Path;

use serde_json::{Value, json};

use super::diff::{Change, Kind};
use super::origin::{Cause, Link, Place, Step, Told};
use crate::inspect::text::visible;
use crate::machine::{Machine, Namespace};

/// What is to be told.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Namespaces by inode. Empty: all.
    pub namespaces: Vec<u64>,
    /// Pods by `NAMESPACE/NAME`, name or uid. Empty: all.
    pub pods: Vec<String>,
    /// Mount points, and those beneath. Empty: all.
    pub paths: Vec<std::path::PathBuf>,
}

impl Filter {
    /// Whether a namespace is meant.
    #[must_use]
    pub fn passes(&self, namespace: &Namespace) -> bool {
        let is_pod = |wanted: &String| {
            namespace.pod.as_ref().is_some_and(|pod| {
                pod.uid == *wanted
                    || pod.name.as_ref().is_some_and(|(_, name)| name == wanted)
                    || pod.to_string() == *wanted
            })
        };
        (self.namespaces.is_empty() || self.namespaces.contains(&namespace.inode))
            && (self.pods.is_empty() || self.pods.iter().any(is_pod))
    }

    /// Whether a change in it is meant.
    #[must_use]
    pub fn passes_change(&self, namespace: &Namespace, change: &Change) -> bool {
        let from = match &change.kind {
            Kind::Moved { from } => Some(from.as_path()),
            _ => None,
        };
        let is_beneath = |at: &Path| self.paths.iter().any(|path| at.starts_with(path));
        let meant = self.paths.is_empty() || is_beneath(&change.mount.mount_point) || from.is_some_and(is_beneath);
        meant && self.passes(namespace)
    }
}

fn label(machine: &Machine, namespace: usize) -> String {
    machine.namespaces.get(namespace).map_or_else(|| "?".to_owned(), name)
}

/// What people call a namespace, with nothing in it that could write to a terminal.
#[must_use]
pub fn name(namespace: &Namespace) -> String {
    visible(namespace.label().as_ref())
}

/// A change as one line, without its time.
#[must_use]
pub fn line(machine: &Machine, told: &Told) -> String {
    let Told { change: Change { namespace, kind, mount, .. }, cause } = told;
    let (sign, note) = match kind {
        Kind::Mounted => ("+", String::new()),
        Kind::Unmounted => ("-", String::new()),
        Kind::Moved { from } => (">", format!("  (it was {})", visible(from.as_os_str()))),
        Kind::Brief => ("*", "  (it came and went)".to_owned()),
    };
    let at = visible(mount.mount_point.as_os_str());
    let (fs_type, place) = (visible(mount.fs_type.as_ref()), label(machine, *namespace));
    format!("{sign} {at}  {fs_type}  in {place}{note}{}", way(machine, cause))
}

fn way(machine: &Machine, cause: &Cause) -> String {
    match cause {
        Cause::Made => String::new(),
        Cause::MadeAmongPeers(group) => format!("  (here, or at a peer in {group})"),
        Cause::MadeOrUnseen(group) => format!("  (here, or it came from {group}, of which nothing is to be seen)"),
        Cause::Came(steps) => {
            let mut text = String::from(" ");
            for Step { link, from } in steps {
                text.push_str(&match link {
                    Link::Peer(group) => format!(" <- peer in {group}"),
                    Link::Slave(group) => format!(" <- slave of {group}"),
                });
                if let Some(Place { namespace, path }) = from {
                    text.push_str(&format!(" <- {} in {}", visible(path.as_os_str()), label(machine, *namespace)));
                }
            }
            text
        }
    }
}

/// A namespace, for programs.
#[must_use]
pub fn namespace_json(namespace: &Namespace) -> Value {
    json!({
        "inode": namespace.inode,
        "label": name(namespace),
        "pid": namespace.processes.first().map(|process| process.pid),
        "container": namespace.container.as_ref().map(|container| json!({"id": container.id, "name": container.name})),
        "pod": namespace.pod.as_ref().map(|pod| json!({
            "uid": pod.uid,
            "namespace": pod.name.as_ref().map(|(namespace, _)| namespace),
            "name": pod.name.as_ref().map(|(_, name)| name),
        })),
    })
}

/// A change, for programs, without its time. `event` is the same number for a mount and its copies.
#[must_use]
pub fn json(machine: &Machine, told: &Told, event: u64) -> Value {
    let Told { change: Change { namespace, kind, mount, unique }, cause } = told;
    let (kind, from) = match kind {
        Kind::Mounted => ("mount", None),
        Kind::Unmounted => ("unmount", None),
        Kind::Moved { from } => ("move", Some(visible(from.as_os_str()))),
        Kind::Brief => ("brief", None),
    };
    let group = |at: &Cause| match at {
        Cause::MadeAmongPeers(group) => ("madeAmongPeers", Some(*group)),
        Cause::MadeOrUnseen(group) => ("madeOrUnseen", Some(*group)),
        Cause::Made => ("made", None),
        Cause::Came(_) => ("came", None),
    };
    let (word, group) = group(cause);
    let steps: &[Step] = if let Cause::Came(steps) = cause { steps } else { &[] };
    let step = |Step { link, from }: &Step| {
        let (link, group) = match link {
            Link::Peer(group) => ("peer", group),
            Link::Slave(group) => ("slave", group),
        };
        let from = from.as_ref().map(|Place { namespace, path }| {
            json!({"namespace": machine.namespaces.get(*namespace).map(namespace_json), "path": visible(path.as_os_str())})
        });
        json!({"link": link, "group": group, "from": from})
    };
    json!({
        "type": kind,
        "event": event,
        "namespace": machine.namespaces.get(*namespace).map(namespace_json),
        "path": visible(mount.mount_point.as_os_str()),
        "from": from,
        "fsType": mount.fs_type,
        "source": visible(&mount.source),
        "root": visible(mount.root.as_os_str()),
        "device": format!("{}:{}", mount.device.0, mount.device.1),
        "id": mount.id,
        "uniqueId": unique,
        "parent": mount.parent,
        "peerGroup": mount.propagation.peer_group,
        "master": mount.propagation.master,
        "cause": word,
        "group": group,
        "way": steps.iter().map(step).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Container, Pod, Process};
    use crate::tree::mountinfo::parse;

    fn machine() -> Machine {
        let node = Namespace {
            inode: 1,
            processes: vec![Process { pid: 1, name: "init".into() }],
            ..Namespace::default()
        };
        let pod = Namespace {
            inode: 2,
            processes: vec![Process { pid: 9, name: "sh".into() }],
            container: Some(Container { id: "0123456789abcdef".into(), name: Some("main".into()) }),
            pod: Some(Pod { uid: "u-1".into(), name: Some(("demo".into(), "x".into())) }),
            ..Namespace::default()
        };
        Machine { namespaces: vec![node, pod], left_out: Vec::new() }
    }

    fn told(namespace: usize, kind: Kind, cause: Cause) -> Told {
        let mount = parse(b"5 1 0:9 / /media/a\\012b rw shared:7 - tmpfs t rw\n").mounts.remove(0);
        Told { change: Change { namespace, kind, mount, unique: None }, cause }
    }

    fn came() -> Cause {
        let from = Some(Place { namespace: 0, path: "/mnt/a".into() });
        Cause::Came(vec![Step { link: Link::Slave(3), from: None }, Step { link: Link::Slave(42), from }])
    }

    #[test]
    fn every_change_is_one_line() {
        let machine = machine();
        let line = |namespace, kind, cause| line(&machine, &told(namespace, kind, cause));
        assert_eq!(line(0, Kind::Mounted, Cause::Made), r"+ /media/a\x0ab  tmpfs  in node");
        assert_eq!(
            line(1, Kind::Unmounted, came()),
            r"- /media/a\x0ab  tmpfs  in pod demo/x, main  <- slave of 3 <- slave of 42 <- /mnt/a in node"
        );
        assert_eq!(
            line(0, Kind::Moved { from: "/b".into() }, Cause::MadeAmongPeers(7)),
            r"> /media/a\x0ab  tmpfs  in node  (it was /b)  (here, or at a peer in 7)"
        );
        assert!(line(0, Kind::Brief, Cause::MadeOrUnseen(7)).ends_with("of which nothing is to be seen)"));
    }

    #[test]
    fn programs_get_the_same() {
        let value = json(&machine(), &told(1, Kind::Mounted, came()), 5);
        assert_eq!((value["type"].as_str(), value["event"].as_u64()), (Some("mount"), Some(5)));
        assert_eq!(value["namespace"]["pod"]["name"], "x");
        assert_eq!((value["cause"].as_str(), value["way"][1]["group"].as_u64()), (Some("came"), Some(42)));
        assert_eq!(value["way"][1]["from"]["namespace"]["label"], "node");
        assert!(!value.to_string().contains('\n'));
    }

    #[test]
    fn filters_are_of_namespaces_pods_and_paths() {
        let machine = machine();
        let change = told(1, Kind::Moved { from: "/b/c".into() }, Cause::Made).change;
        let passes = |filter: &Filter| filter.passes_change(&machine.namespaces[1], &change);
        let of = |pods: &[&str], namespaces: &[u64], paths: &[&str]| Filter {
            namespaces: namespaces.to_vec(),
            pods: pods.iter().map(|&p| p.to_owned()).collect(),
            paths: paths.iter().map(Into::into).collect(),
        };
        for filter in
            [of(&[], &[], &[]), of(&["demo/x"], &[2], &["/media"]), of(&["y", "x"], &[], &["/b"]), of(&["u-1"], &[], &[])]
        {
            assert!(passes(&filter), "{filter:?}");
        }
        for filter in [of(&["demo/y"], &[], &[]), of(&[], &[1], &[]), of(&[], &[], &["/med", "/c"])] {
            assert!(!passes(&filter), "{filter:?}");
        }
    }
}
