//! The machine as a session sees it, carried to the test as text, and made small enough for a picture.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use ::kernel::calls::Calls;
use ::kernel::namespace::Proc;
use model::machine::{Machine, Namespace, Process};
use mounts::mountinfo::{self, Mount};
use node::gather;
use serde_json::{Value, json};

/// Where the guide's examples are mounted.
const LAB: &str = "/tmp/lab";
/// A line of JSON follows.
const MARK: &str = "machine: ";

/// Gathers, as the tool does.
pub(crate) fn look() -> String {
    let machine = gather::gather(&Proc::new().unwrap(), Calls::probe()).unwrap();
    let namespaces: Vec<Value> = machine
        .namespaces
        .iter()
        .map(|namespace| {
            let mounts: Vec<String> = namespace.table.mounts.iter().map(line).collect();
            // The first one names it; the others come and go while the machine is looked at.
            let first = namespace.processes.first().map(|process| (process.pid, process.name.clone()));
            json!({"inode": namespace.inode, "first": first, "mounts": mounts})
        })
        .collect();
    format!("\n{MARK}{}\n", Value::Array(namespaces))
}

/// A mount as a line of mountinfo.
fn line(mount: &Mount) -> String {
    let state = mount.propagation;
    let mut fields = String::new();
    for (name, group) in [("shared", state.peer_group), ("master", state.master)] {
        fields += &group.map_or_else(String::new, |group| format!(" {name}:{group}"));
    }
    if state.unbindable {
        fields += " unbindable";
    }
    let escaped = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\\', "\\134").replace(' ', "\\040");
    let Mount { id, parent, device, options, fs_type, .. } = mount;
    let (root, point) = (escaped(mount.root.as_os_str().as_bytes()), escaped(mount.mount_point.as_os_str().as_bytes()));
    let source = escaped(mount.source.as_bytes());
    format!("{id} {parent} {}:{} {root} {point} {options}{fields} - {fs_type} {source} rw", device.0, device.1)
}

/// The machine that [`look`] has printed.
pub(crate) fn read(printed: &str) -> Result<Machine, String> {
    let line = printed.lines().find_map(|line| line.strip_prefix(MARK)).ok_or("the machine wasn't seen")?;
    let value: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let namespaces = value.as_array().unwrap().iter().map(|namespace| {
        let lines: Vec<&str> = namespace["mounts"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
        let table = mountinfo::parse(lines.join("\n").as_bytes());
        assert_eq!((table.skipped, table.mounts.len()), (0, lines.len()), "{lines:#?}");
        let first: Option<(i32, String)> = serde_json::from_value(namespace["first"].clone()).unwrap();
        let processes = first.into_iter().map(|(pid, name)| Process { pid, name }).collect();
        Namespace { inode: namespace["inode"].as_u64().unwrap(), processes, table, ..Namespace::default() }
    });
    Ok(Machine { namespaces: namespaces.collect(), left_out: Vec::new() })
}

/// What the examples are about: of a namespace that has the laboratory, what is mounted there; of one that has another
/// root, that root and what the laboratory's file systems are. In an order that doesn't depend on mount ids, which are reused.
pub(crate) fn of_lab(mut machine: Machine) -> Machine {
    let lab = machine.namespaces.iter().flat_map(|n| &n.table.mounts).filter(|m| m.mount_point.starts_with(LAB));
    let lab: HashSet<(u32, u32)> = lab.map(|mount| mount.device).collect();
    machine.namespaces.retain_mut(|namespace| {
        let mounts = &mut namespace.table.mounts;
        if mounts.iter().any(|mount| mount.mount_point == Path::new(LAB)) {
            mounts.retain(|mount| mount.mount_point.starts_with(LAB));
        } else {
            mounts.retain(|mount| mount.mount_point == Path::new("/") || lab.contains(&mount.device));
        }
        let depth = |mount: &Mount| {
            let mut at = mount;
            let mut depth = 0;
            while let Some(parent) = mounts.iter().find(|other| other.id == at.parent && depth < mounts.len()) {
                at = parent;
                depth += 1;
            }
            depth
        };
        let mut keyed: Vec<_> = mounts.iter().map(|m| ((m.mount_point.clone(), depth(m)), m.clone())).collect();
        keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
        *mounts = keyed.into_iter().map(|(_, mount)| mount).collect();
        !mounts.is_empty()
    });
    machine
}

#[test]
fn a_scene_is_the_laboratory_and_other_roots_in_a_stable_order() {
    let namespace =
        |inode, text: &str| Namespace { inode, table: mountinfo::parse(text.as_bytes()), ..Namespace::default() };
    let machine = Machine {
        namespaces: vec![
            namespace(
                1,
                "1 0 8:1 / / rw - ext4 d rw\n5 1 0:3 / /tmp/lab/a rw master:7 - tmpfs t rw\n2 1 0:2 / /tmp/lab rw shared:3 - tmpfs t rw\n",
            ),
            namespace(2, "9 8 0:2 /root / rw unbindable - tmpfs t rw\n11 9 0:9 / /proc rw - proc p rw\n"),
        ],
        left_out: vec![],
    };
    let points = |machine: &Machine| -> Vec<Vec<u64>> {
        machine.namespaces.iter().map(|n| n.table.mounts.iter().map(|m| m.id).collect()).collect()
    };
    assert_eq!(points(&of_lab(machine.clone())), [vec![2, 5], vec![9]]);
    for mount in machine.namespaces.iter().flat_map(|namespace| &namespace.table.mounts) {
        assert_eq!(mountinfo::parse(line(mount).as_bytes()).mounts, std::slice::from_ref(mount));
    }
}
