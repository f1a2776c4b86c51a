//! A machine as an outline: a column for each namespace, with its mounts as a tree of rows. Similar mounts are folded into one
//! row.
//!
//! A node with 100 containers has thousands of mounts, of which a dozen are of interest. So three kinds of mounts are folded:
//! the kernel's own file systems; a subtree that an earlier namespace has too, if all its mounts have the same relation to the
//! originals (as `unshare` and service managers make it); and many similar siblings (a kubelet's volumes). Nothing here is
//! recursive: a mount table may be a chain of a million.

mod images;
mod rows;
mod tree;

use std::collections::BTreeMap;

use images::Images;
use model::machine::{Machine, Namespace, UNKNOWN};
use mounts::mountinfo::Mount;
use rows::Builder;
use text::{plural, visible};
use tree::Tree;

/// The outline of a machine.
#[derive(Debug)]
pub struct Outline<'m> {
    /// The namespaces, in the machine's order.
    pub columns: Vec<Column<'m>>,
    /// All peer groups, by number.
    pub groups: BTreeMap<u64, Group>,
    /// How many things could not be read.
    pub left_out: usize,
}

/// A namespace.
#[derive(Debug)]
pub struct Column<'m> {
    /// Its data.
    pub namespace: &'m Namespace,
    /// Its name.
    pub title: String,
    /// Its rows from top to bottom. The children of a row follow it, one level deeper.
    pub rows: Vec<Row<'m>>,
    /// The number of its first mount. Mounts are numbered across all namespaces.
    pub first: usize,
}

/// A line in a column.
#[derive(Debug)]
pub struct Row<'m> {
    /// Its depth; 0 for the root.
    pub depth: usize,
    /// Its label: the path from its parent's mount point.
    pub label: String,
    /// What it stands for.
    pub what: What<'m>,
}

/// What a row stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'m> {
    /// A mount, and its number among those of all namespaces.
    Mount(usize, &'m Mount),
    /// A fold of all deeper rows that follow.
    Fold(Why),
}

/// Why mounts are folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// They are the kernel's own file systems.
    Kernel,
    /// The namespace of this number has the same mounts at the same mount points.
    Mirror(usize, Relation),
    /// They are siblings of one type and propagation.
    Alike,
}

/// How the mounts of one subtree relate to those of its image in another namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relation {
    /// Each is a peer of its image, where that is shared.
    Peers,
    /// Each is a slave of its image's peer group, where that is shared.
    Slaves,
    /// None is linked to anything.
    Copies,
}

/// A peer group. Members and slaves are numbers of mounts among those of all namespaces.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The mounts that are peers of each other.
    pub members: Vec<usize>,
    /// The mounts that receive from it.
    pub slaves: Vec<usize>,
    /// The number of its colour; none for a group that links nothing.
    pub colour: Option<usize>,
}

impl<'m> Outline<'m> {
    /// The outline; with `all`, nothing is folded.
    #[must_use]
    pub fn of(machine: &'m Machine, all: bool) -> Self {
        let groups = groups(machine);
        let mut images = Images::default();
        let mut columns: Vec<Column<'m>> = Vec::new();
        let mut first = 0;
        for (number, namespace) in machine.namespaces.iter().enumerate() {
            let tree = Tree::of(&namespace.table);
            let mirrors = if all { Vec::new() } else { images.enter(number, &tree, &groups) };
            let title = |of: usize| columns.get(of).map_or("", |column: &Column<'_>| column.title.as_str());
            let rows = Builder { tree: &tree, mirrors: &mirrors, first, title: &title }.rows(all);
            columns.push(Column { namespace, title: visible(namespace.label()), rows, first });
            first += namespace.table.mounts.len();
        }
        Self { columns, groups, left_out: machine.left_out.len() }
    }
}

impl Column<'_> {
    /// The type of its file systems, if it is the same for all.
    #[must_use]
    pub fn one_type(&self) -> Option<&str> {
        let mut types = self.namespace.table.mounts.iter().map(|mount| mount.fs_type.as_str());
        let first = types.next()?;
        types.all(|other| other == first).then_some(first)
    }

    /// The two lines under its title: its numbers of mounts (with their type, if given) and processes; and its inode.
    #[must_use]
    pub fn notes(&self, fs_type: Option<&str>) -> [String; 2] {
        let table = &self.namespace.table;
        let of = fs_type.map_or_else(String::new, |fs_type| format!(" of {}", visible(fs_type)));
        let processes = match self.namespace.processes.len() {
            0 => "no process".to_owned(),
            1 => "1 process".to_owned(),
            many => format!("{many} processes"),
        };
        let inode = match self.namespace.inode {
            UNKNOWN => "?".to_owned(),
            inode => inode.to_string(),
        };
        let skipped = match table.skipped {
            0 => String::new(),
            lines => format!(" · {} not read", plural(lines, "line")),
        };
        [format!("{}{of} · {processes}", plural(table.mounts.len(), "mount")), format!("mnt:[{inode}]{skipped}")]
    }
}

/// All peer groups, each with its members and slaves.
fn groups(machine: &Machine) -> BTreeMap<u64, Group> {
    let mut groups: BTreeMap<u64, Group> = BTreeMap::new();
    for (number, mount) in machine.namespaces.iter().flat_map(|n| &n.table.mounts).enumerate() {
        if let Some(group) = mount.propagation.peer_group {
            groups.entry(group).or_default().members.push(number);
        }
        if let Some(master) = mount.propagation.master {
            groups.entry(master).or_default().slaves.push(number);
        }
    }
    let linked = groups.values_mut().filter(|group| group.members.len() + group.slaves.len() > 1);
    for (colour, group) in linked.enumerate() {
        group.colour = Some(colour);
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::picture::tests::machine;
    use mounts::mountinfo::Table;

    /// Each row as its label, indented by its depth.
    fn lines(column: &Column<'_>) -> Vec<String> {
        column.rows.iter().map(|row| format!("{}{}", " ".repeat(row.depth), row.label)).collect()
    }

    const NODE: &str = "\
1 0 0:1 / / rw shared:1 - ext4 a rw
2 1 0:2 / /proc rw shared:2 - proc proc rw
3 1 0:3 / /sys rw shared:3 - sysfs sysfs rw
4 3 0:4 / /sys/fs/cgroup rw shared:4 - cgroup2 c rw
5 1 0:5 / /srv/data rw shared:5 - xfs b rw
6 5 0:6 / /srv/data/in/sets rw - fuse.x b rw
7 6 0:7 / /srv/data/in/sets rw - tmpfs b rw
";

    #[test]
    fn mounts_stand_in_a_tree_and_the_kernels_are_folded() {
        let machine = machine(&[NODE]);
        let outline = Outline::of(&machine, false);
        let folded = [
            "/",
            " /srv/data",
            "  in/sets",
            "   sets (on top)",
            " 3 kernel mounts: /proc /sys",
            "  /proc",
            "  /sys",
            "   fs/cgroup",
        ];
        assert_eq!(lines(&outline.columns[0]), folded);
        assert_eq!(outline.columns[0].rows[4].what, What::Fold(Why::Kernel));
        let all = Outline::of(&machine, true);
        assert_eq!(
            lines(&all.columns[0]),
            ["/", " /proc", " /srv/data", "  in/sets", "   sets (on top)", " /sys", "  fs/cgroup"]
        );
    }

    #[test]
    fn what_another_namespace_has_as_well_is_folded_with_its_relation() {
        // As unshare(1) leaves a copy: slaves where it was shared; and one mount more.
        let slaves: String = NODE
            .replace("shared", "master")
            .lines()
            .map(|line| {
                let (id, rest) = line.split_once(' ').unwrap();
                let (parent, rest) = rest.split_once(' ').unwrap();
                format!("1{id} 1{parent} {rest}\n")
            })
            .collect();
        let more = format!("{slaves}19 11 0:9 / /home rw - tmpfs t rw\n");
        let peers = slaves.replace("master", "shared");
        let machine = machine(&[NODE, &slaves, &more, &peers]);
        let outline = Outline::of(&machine, false);
        assert_eq!(lines(&outline.columns[1])[..2], ["/", " 6 mounts as in node, slaves of them"]);
        assert_eq!(outline.columns[1].rows[1].what, What::Fold(Why::Mirror(0, Relation::Slaves)));
        assert_eq!(lines(&outline.columns[2])[..3], ["/", " /home", " 6 mounts as in node, slaves of them"]);
        assert_eq!(outline.columns[3].rows[1].what, What::Fold(Why::Mirror(0, Relation::Peers)));
        assert_eq!(outline.columns[2].first, 14);
        // A mount that is linked with something else than its image isn't the same.
        let other = machine_with(&machine, 1, |mount| mount.id == 15, Some(77));
        let outline = Outline::of(&other, false);
        assert!(lines(&outline.columns[1]).contains(&" /srv/data".to_owned()), "{:?}", lines(&outline.columns[1]));
    }

    fn machine_with(machine: &Machine, namespace: usize, which: fn(&Mount) -> bool, master: Option<u64>) -> Machine {
        let mut machine = machine.clone();
        let mounts = machine.namespaces[namespace].table.mounts.iter_mut();
        mounts.filter(|mount| which(mount)).for_each(|mount| mount.propagation.master = master);
        machine
    }

    #[test]
    fn many_siblings_of_a_kind_are_one_row() {
        let mut text = "1 0 0:1 / / rw - ext4 a rw\n".to_owned();
        for n in 0..9 {
            text += &format!("{} 1 0:2{n} / /pods/{n}/volumes/data rw shared:{n}1 - xfs a rw\n", 10 + n);
        }
        text += "30 1 0:30 / /pods/9/volumes/data rw - xfs a rw\n";
        let machine = machine(&[&text]);
        let outline = Outline::of(&machine, false);
        assert_eq!(lines(&outline.columns[0])[..2], ["/", " 9 × /pods/*/volumes/data"]);
        assert_eq!(lines(&outline.columns[0])[11..], [" /pods/9/volumes/data"], "private is another kind");
    }

    #[test]
    fn only_groups_that_link_have_a_colour() {
        let machine = machine(&[
            "1 0 0:1 / / rw shared:9 - t t rw\n2 1 0:1 / /a rw shared:8 master:3 - t t rw\n",
            "3 0 0:1 / / rw master:8 - t t rw\n",
        ]);
        let outline = Outline::of(&machine, false);
        assert_eq!(outline.groups[&8], Group { members: vec![1], slaves: vec![2], colour: Some(0) });
        assert_eq!((outline.groups[&9].colour, outline.groups[&3].colour), (None, None));
    }

    #[test]
    fn a_chain_of_many_needs_no_stack() {
        let mut text = String::new();
        for n in 0..20_000 {
            text += &format!("{} {n} 0:1 / / rw - t t rw\n", n + 1);
        }
        let machine = machine(&[&text]);
        assert_eq!(Outline::of(&machine, false).columns[0].rows.len(), 20_000);
    }

    proptest! {
        #[test]
        fn every_mount_stands_in_the_outline_once_however_torn_its_table(
            tables in proptest::collection::vec(
                proptest::collection::vec((1_u64..9, 0_u64..9, 0_usize..6, 0_usize..4, proptest::option::of(1_u64..4)), 0..14), 1..4),
            all: bool,
        ) {
            let mut machine = machine(&vec![""; tables.len()]);
            for (namespace, rows) in machine.namespaces.iter_mut().zip(&tables) {
                let mounts = rows.iter().map(|&(id, parent, point, fs_type, group)| {
                    let line = format!("{id} {parent} 0:1 / / rw - {} t rw\n", ["xfs", "proc", "tmpfs", "ext4"][fs_type]);
                    let mut mount = mounts::mountinfo::parse(line.as_bytes()).mounts.remove(0);
                    mount.mount_point = ["/", "/a", "/a/b", "/dev", "/a/c/d", "/e"][point].into();
                    mount.propagation.peer_group = group;
                    mount
                });
                namespace.table = Table { mounts: mounts.collect(), ..Table::default() };
            }
            let outline = Outline::of(&machine, all);
            let mut seen = Vec::new();
            for column in &outline.columns {
                let mut depth = 0;
                for row in &column.rows {
                    prop_assert!(row.depth <= depth);
                    depth = row.depth + 1;
                    if let What::Mount(number, mount) = row.what {
                        seen.push(number);
                        prop_assert_eq!(mount, &column.namespace.table.mounts[number - column.first]);
                    } else {
                        prop_assert!(!all);
                    }
                }
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..tables.iter().map(Vec::len).sum()).collect::<Vec<_>>());
        }
    }
}
