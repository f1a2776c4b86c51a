//! The machine as one JSON object, serialized as a stream; its schema is docs/inspect.schema.json. Pure.
//!
//! Paths are as in `json_bytes`. The members and slaves of peer groups are in a list of their own: repeated with each mount,
//! the size would grow with the square of the number of mounts.

use std::collections::BTreeSet;

use model::machine::{Container, LeftOut, Namespace, Pod, Process, UNKNOWN, names};
use mounts::mountinfo::Mount;
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

use super::columns::View;
use super::relations::{MountRef, mount_at};
use super::select::Chosen;
use super::subtree::{self, PropagationType, SubtreePropagation};
use crate::json_bytes::{Hex, Lossy};
use crate::mount_tree;

/// The object that `hostmount inspect --json` prints. Version 1 only ever gains fields.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<'v> {
    version: u32,
    namespaces: Namespaces<'v>,
    groups: Groups<'v>,
    left_out: Vec<Left<'v>>,
}

impl<'v> Document<'v> {
    /// The object for the chosen namespaces and mounts.
    #[must_use]
    pub fn of(view: &'v View<'v>, chosen: &'v [Chosen]) -> Self {
        let left_out = view.machine.left_out.iter().map(|LeftOut { what, why }| Left { what, why }).collect();
        Self { version: 1, namespaces: Namespaces { view, chosen }, groups: Groups { view, chosen }, left_out }
    }
}

#[derive(Debug, Serialize)]
struct Left<'v> {
    what: &'v str,
    why: &'v str,
}

#[derive(Debug)]
struct Namespaces<'v> {
    view: &'v View<'v>,
    chosen: &'v [Chosen],
}

impl Serialize for Namespaces<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.chosen.iter().map(|chosen| OneNamespace::of(self.view, chosen)))
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OneNamespace<'v> {
    inode: Option<u64>,
    label: &'v str,
    user_namespace: Option<u64>,
    processes: Vec<OneProcess<'v>>,
    container: Option<OneContainer<'v>>,
    pod: Option<OnePod<'v>>,
    kept_by: Vec<Member<'v>>,
    mounts: Mounts<'v>,
}

#[derive(Debug, Serialize)]
struct OneProcess<'v> {
    pid: i32,
    name: &'v str,
}

#[derive(Debug, Serialize)]
struct OneContainer<'v> {
    id: Option<&'v str>,
    name: Option<&'v str>,
}

#[derive(Debug, Serialize)]
struct OnePod<'v> {
    uid: &'v str,
    namespace: Option<&'v str>,
    name: Option<&'v str>,
}

impl<'v> OneNamespace<'v> {
    fn of(view: &'v View<'v>, chosen: &'v Chosen) -> Self {
        let namespace = &view.machine.namespaces[chosen.namespace];
        Self {
            inode: known(namespace.inode),
            label: &view.labels[chosen.namespace],
            user_namespace: namespace.user_namespace,
            processes: namespace.processes.iter().map(|Process { pid, name }| OneProcess { pid: *pid, name }).collect(),
            container: namespace
                .container
                .as_ref()
                .map(|Container { id, name }| OneContainer { id: id.as_deref(), name: name.as_deref() }),
            pod: namespace.pod.as_ref().map(|Pod { uid, name }| OnePod {
                uid,
                namespace: name.as_ref().map(|(namespace, _)| namespace.as_str()),
                name: name.as_ref().map(|(_, name)| name.as_str()),
            }),
            kept_by: if namespace.processes.is_empty() { keepers(view, namespace) } else { Vec::new() },
            mounts: Mounts { namespace, chosen },
        }
    }
}

fn known(inode: u64) -> Option<u64> {
    (inode != UNKNOWN).then_some(inode)
}

fn keepers<'v>(view: &'v View<'v>, of: &Namespace) -> Vec<Member<'v>> {
    let mut found = Vec::new();
    for (index, namespace) in view.machine.namespaces.iter().enumerate() {
        for (mount, at) in namespace.table.mounts.iter().enumerate() {
            if names::kept_namespace(&at.fs_type, &at.root) == Some(of.inode) {
                found.extend(Member::at(view, MountRef { namespace: index, mount }));
            }
        }
    }
    found
}

#[derive(Debug)]
struct Mounts<'v> {
    namespace: &'v Namespace,
    chosen: &'v Chosen,
}

impl Serialize for Mounts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let table = &self.namespace.table;
        let rows = mount_tree::rows(table);
        let told = subtree::tell(table, &rows);
        let mut list = serializer.serialize_seq(None)?;
        for row in rows.iter().filter(|row| self.chosen.shows(row.mount)) {
            let told = &told[row.mount];
            let first = told.first_different.map(|first| table.mounts[first].id);
            list.serialize_element(&OneMount::of(&table.mounts[row.mount], told, first))?;
        }
        list.end()
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OneMount<'v> {
    id: u64,
    parent: u64,
    target: Lossy<'v>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_hex: Option<Hex<'v>>,
    source: Lossy<'v>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_hex: Option<Hex<'v>>,
    fs_type: &'v str,
    root: Lossy<'v>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_hex: Option<Hex<'v>>,
    root_deleted: bool,
    device: String,
    options: &'v str,
    peer_group: Option<u64>,
    master: Option<u64>,
    propagation: Propagation,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Propagation {
    r#type: &'static str,
    kind: &'static str,
    mixed: bool,
    first_different: Option<u64>,
    beneath: Beneath,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Beneath {
    total: usize,
    private: usize,
    unbindable: usize,
    slave: usize,
    shared: usize,
    shared_and_slave: usize,
}

impl<'v> OneMount<'v> {
    fn of(mount: &'v Mount, told: &SubtreePropagation, first_different: Option<u64>) -> Self {
        let count = |kind: PropagationType| told.counts[kind as usize];
        let (target, source, root) = (mount.mount_point.as_os_str(), mount.source.as_os_str(), mount.root.as_os_str());
        Self {
            id: mount.id,
            parent: mount.parent,
            target: Lossy(target),
            target_hex: Hex::of(target),
            source: Lossy(source),
            source_hex: Hex::of(source),
            fs_type: &mount.fs_type,
            root: Lossy(root),
            root_hex: Hex::of(root),
            root_deleted: mount.root_deleted,
            device: format!("{}:{}", mount.device.0, mount.device.1),
            options: &mount.options,
            peer_group: mount.propagation.peer_group,
            master: mount.propagation.master,
            propagation: Propagation {
                r#type: told.word(),
                kind: told.kind.name(),
                mixed: told.is_mixed(),
                first_different,
                beneath: Beneath {
                    total: told.beneath,
                    private: count(PropagationType::Private),
                    unbindable: count(PropagationType::Unbindable),
                    slave: count(PropagationType::Slave),
                    shared: count(PropagationType::Shared),
                    shared_and_slave: count(PropagationType::SharedAndSlave),
                },
            },
        }
    }
}

#[derive(Debug)]
struct Groups<'v> {
    view: &'v View<'v>,
    chosen: &'v [Chosen],
}

impl Serialize for Groups<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut groups = BTreeSet::new();
        for chosen in self.chosen {
            let mounts = &self.view.machine.namespaces[chosen.namespace].table.mounts;
            for (_, mount) in mounts.iter().enumerate().filter(|(n, _)| chosen.shows(*n)) {
                groups.extend(mount.propagation.peer_group);
                groups.extend(mount.propagation.master);
            }
        }
        let relations = &self.view.relations;
        let places = |places: &[MountRef]| places.iter().filter_map(|place| Member::at(self.view, *place)).collect();
        serializer.collect_seq(groups.into_iter().map(|id| Group {
            id,
            members: places(relations.members(id)),
            slaves: places(relations.slaves(id)),
        }))
    }
}

#[derive(Debug, Serialize)]
struct Group<'v> {
    id: u64,
    members: Vec<Member<'v>>,
    slaves: Vec<Member<'v>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Member<'v> {
    namespace: Option<u64>,
    label: &'v str,
    mount: u64,
    target: Lossy<'v>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_hex: Option<Hex<'v>>,
}

impl<'v> Member<'v> {
    fn at(view: &'v View<'v>, place: MountRef) -> Option<Self> {
        let mount = mount_at(view.machine, place)?;
        let target = mount.mount_point.as_os_str();
        Some(Self {
            namespace: known(view.machine.namespaces.get(place.namespace)?.inode),
            label: view.labels.get(place.namespace)?,
            mount: mount.id,
            target: Lossy(target),
            target_hex: Hex::of(target),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use model::machine::Machine;
    use mounts::mountinfo;

    fn document(text: &[u8], mounts: Option<Vec<bool>>) -> Value {
        let namespace = Namespace {
            inode: 10,
            processes: vec![Process { pid: 7, name: "sh".into() }],
            pod: Some(Pod { uid: "u".into(), name: Some(("ml".into(), "train".into())) }),
            container: Some(Container { id: Some("c".into()), name: None }),
            table: mountinfo::parse(text),
            ..Namespace::default()
        };
        let kept = Namespace { table: mountinfo::parse(b"8 0 0:9 / / rw shared:1 - t t rw\n"), ..Namespace::default() };
        let kept = Namespace { inode: 30, ..kept };
        let unknown = Namespace { inode: UNKNOWN, processes: namespace.processes.clone(), ..kept.clone() };
        let left_out = vec![LeftOut { what: "x".into(), why: "y".into() }];
        let machine = Machine { namespaces: vec![namespace, kept, unknown], left_out };
        let view = View::new(&machine, 1);
        let mut chosen: Vec<Chosen> = (0..3).map(|namespace| Chosen { namespace, mounts: None }).collect();
        chosen[0].mounts = mounts;
        serde_json::to_value(Document::of(&view, &chosen)).unwrap()
    }

    const TEXT: &[u8] = b"1 0 8:1 / / rw shared:1 master:5 - ext4 /dev/sda1 rw\n\
        2 1 0:2 /\xff//deleted /a\\012\xfe ro - t t rw\n3 1 0:5 mnt:[30] /n rw - nsfs nsfs rw\n";

    #[test]
    fn it_has_its_documented_shape() {
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/inspect.schema.json");
        let schema: Value = serde_json::from_str(&std::fs::read_to_string(schema).unwrap()).unwrap();
        jsonschema::draft202012::meta::validate(&schema).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let document = document(TEXT, None);
        let faults: Vec<String> =
            validator.iter_errors(&document).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(faults.is_empty(), "{faults:#?}\n{document:#}");
        // The schema knows each member: an unknown one is a fault.
        for pointer in
            ["", "/namespaces/0", "/namespaces/0/mounts/0", "/namespaces/0/mounts/0/propagation", "/groups/0"]
        {
            let mut more = document.clone();
            more.pointer_mut(pointer).unwrap()["later"] = json!(1);
            assert!(!validator.is_valid(&more), "{pointer}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_told_losslessly() {
        let document = document(TEXT, None);
        let mounts = &document["namespaces"][0]["mounts"];
        assert_eq!(mounts[0].get("targetHex"), None);
        assert_eq!(mounts[1]["target"], "/a\n\u{fffd}");
        assert_eq!(mounts[1]["targetHex"], "2f610afe");
        assert_eq!((&mounts[1]["rootHex"], &mounts[1]["rootDeleted"]), (&json!("2fff"), &json!(true)));
    }

    #[test]
    fn groups_are_told_once_with_all_their_members() {
        let document = document(TEXT, Some(vec![true, false, false]));
        assert_eq!(document["namespaces"][0]["mounts"].as_array().unwrap().len(), 1);
        let member = |namespace: Value, label, mount| json!({"namespace": namespace, "label": label, "mount": mount, "target": "/"});
        let label = "pod ml/train, sh (7)";
        assert_eq!(
            document["groups"],
            json!([
                {"id": 1, "slaves": [], "members": [
                    member(json!(10), label, 1), member(json!(30), "mnt:[30]", 8), member(Value::Null, "sh (7)", 8)]},
                {"id": 5, "members": [], "slaves": [member(json!(10), label, 1)]},
            ])
        );
        assert_eq!(document["namespaces"][1]["keptBy"][0]["target"], "/n");
        assert_eq!(document["namespaces"][2]["inode"], Value::Null);
        let propagation = &document["namespaces"][0]["mounts"][0]["propagation"];
        assert_eq!(propagation["type"], "shared and slave");
        assert_eq!((&propagation["mixed"], &propagation["firstDifferent"]), (&json!(true), &json!(2)));
        assert_eq!(document["leftOut"], json!([{"what": "x", "why": "y"}]));
    }
}
