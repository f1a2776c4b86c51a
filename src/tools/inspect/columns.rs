//! The columns, named as in findmnt(8), and the cells of a mount. Pure.

use std::ffi::OsStr;
use std::fmt::Write;

use model::machine::Machine;
use mounts::mountinfo::Mount;
use text::visible;

use super::relations::{MountRef, Relations, mount_at};
use super::subtree::SubtreePropagation;

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is described in `Column::ALL`, which the help and the test of the docs print")]
pub enum Column {
    Target,
    Source,
    FsType,
    Options,
    Propagation,
    Beneath,
    Peers,
    Master,
    Slaves,
    PeerGroup,
    MasterGroup,
    Id,
    Parent,
    FsRoot,
    MajMin,
    Namespace,
    Label,
    Pod,
    Container,
    Pid,
}

/// A column that doesn't exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no column: use {}", Column::names())]
pub struct UnknownColumn {
    found: String,
}

impl Column {
    /// Each with its name and what it holds.
    pub const ALL: [(Self, &'static str, &'static str); 20] = [
        (Self::Target, "TARGET", "mount point, as seen from the namespace's root"),
        (Self::Source, "SOURCE", "what was mounted: a device, or a word"),
        (Self::FsType, "FSTYPE", "type of the file system"),
        (Self::Options, "OPTIONS", "options of the mount (findmnt's VFS-OPTIONS)"),
        (Self::Propagation, "PROPAGATION", "type with recursion: rshared if the whole subtree is; else what differs"),
        (Self::Beneath, "BENEATH", "how many mounts lie beneath"),
        (Self::Peers, "PEERS", "peer group, and its other members in all namespaces"),
        (Self::Master, "MASTER", "peer group that it receives from, and who that is"),
        (Self::Slaves, "SLAVES", "mounts that receive from it and its peers"),
        (Self::PeerGroup, "PEER-GROUP", "number of its peer group"),
        (Self::MasterGroup, "MASTER-GROUP", "number of the peer group that it receives from"),
        (Self::Id, "ID", "number of the mount"),
        (Self::Parent, "PARENT", "number of the mount that it is mounted on"),
        (Self::FsRoot, "FSROOT", "directory of the file system that is shown"),
        (Self::MajMin, "MAJ:MIN", "device"),
        (Self::Namespace, "NAMESPACE", "inode of the mount namespace"),
        (Self::Label, "LABEL", "the namespace's pod, container or first process"),
        (Self::Pod, "POD", "pod, as NAMESPACE/NAME or by uid"),
        (Self::Container, "CONTAINER", "container's name in its pod, or its id"),
        (Self::Pid, "PID", "first process of the namespace"),
    ];
    /// Those of a tree, unless told otherwise.
    pub const TREE: [Self; 5] = [Self::Target, Self::FsType, Self::Propagation, Self::Peers, Self::Master];
    /// Those of a list.
    pub const LIST: [Self; 6] = [Self::Label, Self::Target, Self::FsType, Self::Propagation, Self::Peers, Self::Master];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(column, ..)| *column == self).map_or("", |(_, name, _)| name)
    }

    fn names() -> String {
        Self::ALL.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// Whether it has numbers, which are aligned to the right.
    #[must_use]
    pub const fn is_number(self) -> bool {
        matches!(
            self,
            Self::Beneath | Self::PeerGroup | Self::MasterGroup | Self::Id | Self::Parent | Self::Namespace | Self::Pid
        )
    }

    /// Parses a list as findmnt's `-o` does: names separated by commas, in any case. After a `+`, the columns are added to the
    /// `usual` ones.
    ///
    /// # Errors
    /// [`UnknownColumn`].
    pub fn parse_list(text: &str, usual: &[Self]) -> Result<Vec<Self>, UnknownColumn> {
        let (mut columns, list) = match text.strip_prefix('+') {
            Some(list) => (usual.to_vec(), list),
            None => (Vec::new(), text),
        };
        for word in list.split(',') {
            let upper = word.trim().to_ascii_uppercase();
            let upper = if upper == "VFS-OPTIONS" { "OPTIONS" } else { &upper };
            let column = Self::ALL.iter().find(|(_, name, _)| *name == upper).map(|(column, ..)| *column);
            columns.push(column.ok_or_else(|| UnknownColumn { found: word.to_owned() })?);
        }
        Ok(columns)
    }
}

/// A machine, with its peer groups and the names of its namespaces.
#[derive(Debug)]
pub struct View<'m> {
    /// The machine.
    pub machine: &'m Machine,
    /// Its peer groups.
    pub relations: Relations,
    /// The printable names of its namespaces.
    pub labels: Vec<String>,
    /// How many peers, masters or slaves are named in a cell.
    pub named: usize,
}

impl<'m> View<'m> {
    /// The view of a machine. A cell names at most `named` mounts.
    #[must_use]
    pub fn new(machine: &'m Machine, named: usize) -> Self {
        let labels = machine.namespaces.iter().map(|n| visible(OsStr::new(&n.label()))).collect();
        Self { machine, relations: Relations::of(machine), labels, named }
    }

    /// The printable cell of a mount in a column.
    #[must_use]
    pub fn cell(&self, column: Column, place: MountRef, mount: &Mount, told: &SubtreePropagation) -> String {
        let number = |n: Option<u64>| n.map_or_else(String::new, |n| n.to_string());
        let namespace = &self.machine.namespaces[place.namespace];
        let text = |text: &str| visible(OsStr::new(text));
        match column {
            Column::Target => visible(mount.mount_point.as_os_str()),
            Column::Source => visible(&mount.source),
            Column::FsType => text(&mount.fs_type),
            Column::Options => text(&mount.options),
            Column::Propagation if told.is_mixed() => format!("{}; beneath {}", told.word(), told.note()),
            Column::Propagation => told.word().to_owned(),
            Column::Beneath => told.beneath.to_string(),
            Column::Peers => mount.propagation.peer_group.map_or_else(String::new, |group| {
                let others = self.relations.members(group).iter().filter(|peer| **peer != place);
                format!("{group}: {}", self.places(others, place.namespace, "no other"))
            }),
            Column::Master => {
                mount.propagation.master.map_or_else(String::new, |group| match self.relations.members(group) {
                    [] => format!("{group}: not in any namespace that could be read"),
                    members => format!("{group} = {}", self.places(members.iter(), place.namespace, "")),
                })
            }
            Column::Slaves => mount.propagation.peer_group.map_or_else(String::new, |group| {
                self.places(self.relations.slaves(group).iter(), place.namespace, "")
            }),
            Column::PeerGroup => number(mount.propagation.peer_group),
            Column::MasterGroup => number(mount.propagation.master),
            Column::Id => mount.id.to_string(),
            Column::Parent => mount.parent.to_string(),
            Column::FsRoot => {
                let deleted = if mount.root_deleted { "//deleted" } else { "" };
                visible(mount.root.as_os_str()) + deleted
            }
            Column::MajMin => format!("{}:{}", mount.device.0, mount.device.1),
            Column::Namespace => number(Some(namespace.inode).filter(|inode| *inode != model::machine::UNKNOWN)),
            Column::Label => self.labels[place.namespace].clone(),
            Column::Pod => namespace.pod.as_ref().map_or_else(String::new, |pod| text(&pod.to_string())),
            Column::Container => namespace
                .container
                .as_ref()
                .and_then(|container| container.name.as_ref().or(container.id.as_ref()))
                .map_or_else(String::new, |name| text(name)),
            Column::Pid => namespace.processes.first().map_or_else(String::new, |first| first.pid.to_string()),
        }
    }

    /// Mounts by path and namespace, those of the namespace `here` first; `none` if there are none.
    fn places<'p>(&self, places: impl Iterator<Item = &'p MountRef> + Clone, here: usize, none: &str) -> String {
        let ordered =
            places.clone().filter(|p| p.namespace == here).chain(places.clone().filter(|p| p.namespace != here));
        let mut out = String::new();
        let mut named = 0;
        for place in ordered.take(self.named) {
            let Some(mount) = mount_at(self.machine, *place) else { continue };
            let between = if named > 0 { "; " } else { "" };
            named += 1;
            // Writing to a String can't fail.
            let _ = write!(out, "{between}{}{}", visible(mount.mount_point.as_os_str()), self.whereabouts(place, here));
        }
        let more = places.count().saturating_sub(named);
        if more > 0 {
            let _ = write!(out, "; and {more} more");
        }
        if out.is_empty() { none.to_owned() } else { out }
    }

    fn whereabouts(&self, place: &MountRef, here: usize) -> String {
        match self.labels.get(place.namespace).map(String::as_str) {
            _ if place.namespace == here => String::new(),
            Some("node") => " on the node".to_owned(),
            Some(label) => format!(" in {label}"),
            None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::subtree;
    use model::machine::{Namespace, Pod, Process};
    use mounts::mountinfo;

    fn machine() -> Machine {
        let of = |pid, pod, text: &str| Namespace {
            inode: 4_026_531_000 + u64::from(pid),
            processes: vec![Process { pid: i32::try_from(pid).unwrap(), name: "sh\x1b".into() }],
            pod,
            table: mountinfo::parse(text.as_bytes()),
            ..Namespace::default()
        };
        let pod = Pod { uid: "u".into(), name: Some(("ml".into(), "train".into())) };
        Machine {
            namespaces: vec![
                of(
                    1_u32,
                    None,
                    "1 0 8:1 / / rw shared:7 - ext4 /dev/sda1 rw\n2 1 8:1 /x//deleted /a\\012b rw shared:7 - ext4 d rw\n",
                ),
                of(
                    70,
                    Some(pod),
                    "5 0 0:9 / / rw master:7 - overlay o rw\n6 5 0:8 / /m ro shared:9 master:42 - t t rw\n",
                ),
                of(80, None, "9 0 0:9 / / rw master:7 - overlay o rw\n"),
            ],
            left_out: vec![],
        }
    }

    fn cell(named: usize, (namespace, mount): (usize, usize), column: &str) -> String {
        let machine = machine();
        let view = View::new(&machine, named);
        let table = &machine.namespaces[namespace].table;
        let told = subtree::tell(table, &crate::mount_tree::rows(table))[mount];
        let column = Column::parse_list(column, &[]).unwrap()[0];
        view.cell(column, MountRef { namespace, mount }, &table.mounts[mount], &told)
    }

    #[test]
    fn peers_and_masters_are_named_where_they_are() {
        assert_eq!(cell(2, (0, 0), "peers"), r"7: /a\x0ab");
        assert_eq!(cell(2, (0, 0), "slaves"), r"/ in pod ml/train, sh\x1b (70); / in sh\x1b (80)");
        assert_eq!(cell(1, (0, 0), "slaves"), r"/ in pod ml/train, sh\x1b (70); and 1 more");
        assert_eq!(cell(1, (1, 0), "master"), "7 = / on the node; and 1 more");
        assert_eq!(cell(1, (1, 1), "master"), "42: not in any namespace that could be read");
        assert_eq!(cell(1, (1, 1), "peers"), "9: no other");
        assert_eq!(cell(1, (1, 0), "peers"), "");
    }

    #[test]
    fn the_plain_columns_are_findmnts() {
        for (column, expected) in [
            ("target", r"/a\x0ab"),
            ("FSROOT", "/x//deleted"),
            ("maj:min", "8:1"),
            ("id", "2"),
            ("parent", "1"),
            ("fstype", "ext4"),
            ("vfs-options", "rw"),
            ("propagation", "rshared"),
            ("namespace", "4026531001"),
            ("label", "node"),
            ("pid", "1"),
        ] {
            assert_eq!(cell(1, (0, 1), column), expected, "{column}");
        }
        assert_eq!(cell(1, (1, 0), "propagation"), "slave; beneath 1 shared and slave of 1");
        assert_eq!(cell(1, (1, 0), "pod"), "ml/train");
    }

    #[test]
    fn lists_of_columns_replace_or_append() {
        let parse = |text| Column::parse_list(text, &Column::TREE);
        assert_eq!(parse("id,Target").unwrap(), [Column::Id, Column::Target]);
        assert_eq!(parse("+id").unwrap(), [&Column::TREE[..], &[Column::Id]].concat());
        let message = parse("id,size").unwrap_err().to_string();
        assert!(message.contains("\"size\"") && message.contains("PROPAGATION"), "{message}");
        assert!(parse("").is_err());
    }
}
