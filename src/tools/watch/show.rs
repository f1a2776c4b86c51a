//! Prints events: as text lines, or as JSON lines (docs/watch.md). Pure.

use std::path::PathBuf;

use model::machine::{Machine, Namespace};
use serde_json::{Map, Value, json};
use text::visible;

use super::diff::{Change, ChangeKind};
use super::origin::{Cause, CausedChange, Link, MountPointIn, Step};
use crate::json_bytes;

/// The filters. A change must pass all of them.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Namespaces by inode; each is to be met.
    pub inodes: Vec<u64>,
    /// A pod by `NAMESPACE/NAME`, by name alone, or by uid.
    pub pod: Option<String>,
    /// A mount point, and those beneath.
    pub path: Option<PathBuf>,
}

impl Filter {
    /// Whether a namespace passes.
    #[must_use]
    pub fn passes(&self, namespace: &Namespace) -> bool {
        let is_pod = |wanted: &String| namespace.pod.as_ref().is_some_and(|pod| pod.is_called(wanted));
        self.inodes.iter().all(|inode| *inode == namespace.inode) && self.pod.as_ref().is_none_or(is_pod)
    }

    /// Whether a change in it passes.
    #[must_use]
    pub fn passes_change(&self, namespace: &Namespace, change: &Change) -> bool {
        let from = match &change.kind {
            ChangeKind::Moved { from } => Some(from),
            _ => None,
        };
        let is_beneath = |path: &PathBuf| {
            change.mount.mount_point.starts_with(path) || from.is_some_and(|from| from.starts_with(path))
        };
        self.path.as_ref().is_none_or(is_beneath) && self.passes(namespace)
    }
}

fn label(machine: &Machine, namespace: usize) -> String {
    machine.namespaces.get(namespace).map_or_else(|| "?".to_owned(), name)
}

/// The printable name of a namespace.
#[must_use]
pub fn name(namespace: &Namespace) -> String {
    visible(namespace.label())
}

/// A change as one line, without its time.
#[must_use]
pub fn line(machine: &Machine, told: &CausedChange) -> String {
    let CausedChange { change: Change { namespace, kind, mount, .. }, cause } = told;
    let (sign, note) = match kind {
        ChangeKind::Mounted => ("+", String::new()),
        ChangeKind::Unmounted => ("-", String::new()),
        ChangeKind::Moved { from } => (">", format!("  (it was {})", visible(from.as_os_str()))),
        ChangeKind::Brief => ("*", "  (it came and went)".to_owned()),
    };
    let at = visible(mount.mount_point.as_os_str());
    let (fs_type, place) = (visible(&mount.fs_type), label(machine, *namespace));
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
                if let Some(MountPointIn { namespace, path }) = from {
                    text.push_str(&format!(" <- {} in {}", visible(path.as_os_str()), label(machine, *namespace)));
                }
            }
            text
        }
    }
}

/// A namespace as JSON.
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

/// A change as JSON, without its time. A mount and its copies have the same `event` number.
#[must_use]
pub fn json(machine: &Machine, told: &CausedChange, event: u64) -> Map<String, Value> {
    let CausedChange { change: Change { namespace, kind, mount, unique }, cause } = told;
    let (kind, from) = match kind {
        ChangeKind::Mounted => ("mount", None),
        ChangeKind::Unmounted => ("unmount", None),
        ChangeKind::Moved { from } => ("move", Some(from.as_os_str())),
        ChangeKind::Brief => ("brief", None),
    };
    let (word, group) = match cause {
        Cause::Made => ("made", None),
        Cause::MadeAmongPeers(group) => ("madeAmongPeers", Some(*group)),
        Cause::MadeOrUnseen(group) => ("madeOrUnseen", Some(*group)),
        Cause::Came(_) => ("came", None),
    };
    let steps: &[Step] = if let Cause::Came(steps) = cause { steps } else { &[] };
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    put("type", kind.into());
    put("event", event.into());
    put("namespace", machine.namespaces.get(*namespace).map_or(Value::Null, namespace_json));
    put("fsType", mount.fs_type.as_str().into());
    put("device", format!("{}:{}", mount.device.0, mount.device.1).into());
    put("id", mount.id.into());
    put("uniqueId", (*unique).into());
    put("parent", mount.parent.into());
    put("peerGroup", mount.propagation.peer_group.into());
    put("master", mount.propagation.master.into());
    put("cause", word.into());
    put("group", group.into());
    put("way", steps.iter().map(|step| step_json(machine, step)).collect());
    json_bytes::put(&mut object, "path", mount.mount_point.as_os_str());
    json_bytes::put(&mut object, "source", &mount.source);
    json_bytes::put(&mut object, "root", mount.root.as_os_str());
    match from {
        Some(from) => json_bytes::put(&mut object, "from", from),
        None => drop(object.insert("from".to_owned(), Value::Null)),
    }
    object
}

fn step_json(machine: &Machine, Step { link, from }: &Step) -> Value {
    let (link, group) = match link {
        Link::Peer(group) => ("peer", *group),
        Link::Slave(group) => ("slave", *group),
    };
    let from = from.as_ref().map(|MountPointIn { namespace, path }| {
        let mut place = Map::new();
        place.insert("namespace".to_owned(), machine.namespaces.get(*namespace).map_or(Value::Null, namespace_json));
        json_bytes::put(&mut place, "path", path.as_os_str());
        Value::Object(place)
    });
    json!({"link": link, "group": group, "from": from})
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use model::machine::{Container, Pod, Process};
    use mounts::mountinfo::parse;

    fn machine() -> Machine {
        let node =
            Namespace { inode: 1, processes: vec![Process { pid: 1, name: "init".into() }], ..Namespace::default() };
        let pod = Namespace {
            inode: 2,
            processes: vec![Process { pid: 9, name: "sh".into() }],
            container: Some(Container { id: Some("0123456789abcdef".into()), name: Some("main".into()) }),
            pod: Some(Pod { uid: "u-1".into(), name: Some(("demo".into(), "x".into())) }),
            ..Namespace::default()
        };
        Machine { namespaces: vec![node, pod], left_out: Vec::new() }
    }

    fn told(namespace: usize, kind: ChangeKind, cause: Cause) -> CausedChange {
        let mount = parse(b"5 1 0:9 / /media/a\\012b rw shared:7 - tmpfs t rw\n").mounts.remove(0);
        CausedChange { change: Change { namespace, kind, mount, unique: None }, cause }
    }

    fn came() -> Cause {
        let from = Some(MountPointIn { namespace: 0, path: "/mnt/a".into() });
        Cause::Came(vec![Step { link: Link::Slave(3), from: None }, Step { link: Link::Slave(42), from }])
    }

    #[test]
    fn every_change_is_one_line() {
        let machine = machine();
        let line = |namespace, kind, cause| line(&machine, &told(namespace, kind, cause));
        assert_eq!(line(0, ChangeKind::Mounted, Cause::Made), r"+ /media/a\x0ab  tmpfs  in node");
        assert_eq!(
            line(1, ChangeKind::Unmounted, came()),
            r"- /media/a\x0ab  tmpfs  in pod demo/x, main  <- slave of 3 <- slave of 42 <- /mnt/a in node"
        );
        assert_eq!(
            line(0, ChangeKind::Moved { from: "/b".into() }, Cause::MadeAmongPeers(7)),
            r"> /media/a\x0ab  tmpfs  in node  (it was /b)  (here, or at a peer in 7)"
        );
        assert!(line(0, ChangeKind::Brief, Cause::MadeOrUnseen(7)).ends_with("of which nothing is to be seen)"));
    }

    #[test]
    fn programs_get_the_same() {
        let value = Value::Object(json(&machine(), &told(1, ChangeKind::Mounted, came()), 5));
        assert_eq!((value["type"].as_str(), value["event"].as_u64()), (Some("mount"), Some(5)));
        assert_eq!((value["path"].as_str(), value.get("pathHex")), (Some("/media/a\nb"), None));
        assert_eq!(value["namespace"]["pod"]["name"], "x");
        assert_eq!((value["cause"].as_str(), value["way"][1]["group"].as_u64()), (Some("came"), Some(42)));
        assert_eq!(value["way"][1]["from"]["namespace"]["label"], "node");
        assert!(!value.to_string().contains('\n'));
        let from = ChangeKind::Moved { from: OsStr::from_bytes(b"/\xff").into() };
        let value = Value::Object(json(&machine(), &told(0, from, Cause::MadeAmongPeers(7)), 5));
        assert_eq!((value["from"].as_str(), value["fromHex"].as_str()), (Some("/\u{fffd}"), Some("2fff")));
        assert_eq!((value["cause"].as_str(), value["group"].as_u64()), (Some("madeAmongPeers"), Some(7)));
    }

    #[test]
    fn filters_are_of_namespaces_pods_and_paths() {
        let machine = machine();
        let change = told(1, ChangeKind::Moved { from: "/b/c".into() }, Cause::Made).change;
        let passes = |filter: &Filter| filter.passes_change(&machine.namespaces[1], &change);
        let of = |pod: Option<&str>, inodes: &[u64], path: Option<&str>| Filter {
            inodes: inodes.to_vec(),
            pod: pod.map(str::to_owned),
            path: path.map(Into::into),
        };
        for filter in [
            of(None, &[], None),
            of(Some("demo/x"), &[2, 2], Some("/media")),
            of(Some("x"), &[], Some("/b")),
            of(Some("u-1"), &[], None),
        ] {
            assert!(passes(&filter), "{filter:?}");
        }
        for filter in [of(Some("demo/y"), &[], None), of(None, &[2, 1], None), of(None, &[], Some("/med"))] {
            assert!(!passes(&filter), "{filter:?}");
        }
    }
}
