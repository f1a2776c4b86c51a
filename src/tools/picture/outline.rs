//! A machine as an outline: a column for each namespace, its mounts as a tree of rows, and what is alike folded away.
//!
//! A node with 100 containers has thousands of mounts, and what people ask about are a dozen of them. So three
//! kinds of rows stand for many: the kernel's own file systems; a subtree that an earlier namespace has as well,
//! with the same relation all over (what `unshare` and service managers make); and many siblings of one kind (a kubelet's volumes).
//! Everything works without recursion: a mount table may be a chain of a million.

mod images;
mod tree;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;

use images::{Image, Images};
use model::machine::{Machine, Namespace, UNKNOWN};
use mounts::mountinfo::Mount;
use text::{plural, visible};
use tree::Tree;

/// Fewer siblings, with what is beneath them, are shown although another namespace has the same.
const MIRROR_FROM: usize = 3;
/// Fewer siblings of one kind are shown one by one.
const ALIKE_FROM: usize = 8;
/// File systems that show the kernel's own state, or are its plumbing.
const KERNEL: [&str; 24] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "cpuset",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nfsd",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];

/// A machine, made ready to be drawn.
#[derive(Debug)]
pub struct Outline<'m> {
    /// The namespaces, in the machine's order.
    pub columns: Vec<Column<'m>>,
    /// The peer groups that any mount is in or receives from, by number.
    pub groups: BTreeMap<u64, Group>,
    /// How many things could not be read.
    pub left_out: usize,
}

/// A namespace.
#[derive(Debug)]
pub struct Column<'m> {
    /// Its data.
    pub namespace: &'m Namespace,
    /// What people call it.
    pub title: String,
    /// Its rows from top to bottom; what is beneath a row follows it, one deeper.
    pub rows: Vec<Row<'m>>,
    /// The number of its first mount, when the mounts of all namespaces are counted through.
    pub first: usize,
}

/// A line in a column.
#[derive(Debug)]
pub struct Row<'m> {
    /// How deep it stands; 0 for the root.
    pub depth: usize,
    /// What it is called: the path from its parent's mount point on.
    pub label: String,
    /// What it stands for.
    pub what: What<'m>,
}

/// What a row stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'m> {
    /// A mount, and its number among those of all namespaces.
    Mount(usize, &'m Mount),
    /// All the mounts in the rows that follow deeper than this one.
    Fold(Why),
}

/// Why mounts are folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// They are the kernel's own file systems.
    Kernel,
    /// The namespace of that number has the same ones at the same places.
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
    /// The number of its colour, counted up; none for a group of one mount that nobody receives from.
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
            let tree = Tree::of(&namespace.table.mounts);
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
    /// The type of the file systems, if it is one for all of them.
    #[must_use]
    pub fn one_type(&self) -> Option<&str> {
        let mut types = self.namespace.table.mounts.iter().map(|mount| mount.fs_type.as_str());
        let first = types.next()?;
        types.all(|other| other == first).then_some(first)
    }

    /// What stands under its title: how much is in it, with the type of the mounts if that is given; and which
    /// namespace it is.
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

/// Whether a mount is the kernel's own: by its type, or as part of what container runtimes lay into `/proc`, `/sys` and `/dev`.
fn is_kernel(mount: &Mount) -> bool {
    KERNEL.contains(&mount.fs_type.as_str())
        || ["/proc", "/sys", "/dev"].iter().any(|at| mount.mount_point.starts_with(at))
}

/// Makes the rows of one namespace.
struct Builder<'t, 'm> {
    tree: &'t Tree<'m>,
    mirrors: &'t [Option<Image>],
    first: usize,
    title: &'t dyn Fn(usize) -> &'t str,
}

enum Task {
    Siblings(Vec<usize>, usize, bool),
    Mount(usize, usize, bool),
    Fold(Why, String, Vec<usize>, usize),
}

impl<'m> Builder<'_, 'm> {
    fn rows(&self, all: bool) -> Vec<Row<'m>> {
        let kernel = self.wholly_kernel();
        let mut rows = Vec::with_capacity(self.tree.mounts.len());
        let mut tasks = vec![Task::Siblings(self.tree.roots.clone(), 0, !all)];
        while let Some(task) = tasks.pop() {
            match task {
                Task::Siblings(mounts, depth, false) => {
                    tasks.extend(mounts.into_iter().rev().map(|n| Task::Mount(n, depth, false)));
                }
                Task::Siblings(mounts, depth, true) => {
                    tasks.extend(self.folded(&mounts, depth, &kernel).into_iter().rev());
                }
                Task::Mount(n, depth, folding) => {
                    let mount = &self.tree.mounts[n];
                    rows.push(Row { depth, label: self.label(n), what: What::Mount(self.first + n, mount) });
                    tasks.push(Task::Siblings(self.tree.children[n].clone(), depth + 1, folding));
                }
                Task::Fold(why, label, mounts, depth) => {
                    rows.push(Row { depth, label, what: What::Fold(why) });
                    tasks.push(Task::Siblings(mounts, depth + 1, false));
                }
            }
        }
        rows
    }

    /// For each mount, how many mounts its subtree has if all of them are the kernel's; else 0.
    fn wholly_kernel(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.tree.mounts.len()];
        for &n in self.tree.order.iter().rev() {
            let children = &self.tree.children[n];
            if is_kernel(&self.tree.mounts[n]) && children.iter().all(|&child| sizes[child] > 0) {
                sizes[n] = 1 + children.iter().map(|&child| sizes[child]).sum::<usize>();
            }
        }
        sizes
    }

    /// What is done with the children of one mount.
    fn folded(&self, siblings: &[usize], depth: usize, kernel: &[usize]) -> Vec<Task> {
        let mut mirrors: BTreeMap<(usize, Relation), (Vec<usize>, usize)> = BTreeMap::new();
        for &n in siblings.iter().filter(|_| depth > 0) {
            if let Some(&Some(Image { of, relation, size })) = self.mirrors.get(n) {
                let (images, count) = mirrors.entry((of, relation)).or_default();
                images.push(n);
                *count += size;
            }
        }
        // What isn't linked stays beside what is, if it is as in the same namespace.
        let linked: Vec<(usize, Relation)> = mirrors.keys().copied().filter(|key| key.1 != Relation::Copies).collect();
        for key in linked {
            if let Some((images, count)) = mirrors.remove(&(key.0, Relation::Copies))
                && let Some(with) = mirrors.get_mut(&key)
            {
                with.0.extend(images);
                with.0.sort_by_key(|&n| &self.tree.mounts[n].mount_point);
                with.1 += count;
            }
        }
        mirrors.retain(|_, (_, count)| *count >= MIRROR_FROM);
        let mirrored: HashSet<usize> = mirrors.values().flat_map(|(images, _)| images).copied().collect();
        let (kernels, others): (Vec<usize>, Vec<usize>) =
            siblings.iter().filter(|n| !mirrored.contains(n)).partition(|&&n| kernel[n] > 0);
        let mut kinds: HashMap<_, Vec<usize>> = HashMap::new();
        for &n in &others {
            kinds.entry(self.kind(n)).or_default().push(n);
        }
        let mut tasks = Vec::new();
        for &n in &others {
            match kinds.get(&self.kind(n)).filter(|alike| alike.len() >= ALIKE_FROM) {
                None => tasks.push(Task::Mount(n, depth, true)),
                // At the place of the first one.
                Some(alike) if alike[0] == n => {
                    let label = format!("{} × {}", alike.len(), self.pattern(alike));
                    tasks.push(Task::Fold(Why::Alike, label, alike.clone(), depth));
                }
                Some(_) => {}
            }
        }
        for ((of, relation), (images, count)) in mirrors {
            let label = mirror_label(count, (self.title)(of), relation);
            tasks.push(Task::Fold(Why::Mirror(of, relation), label, images, depth));
        }
        match kernels.as_slice() {
            [] => {}
            [one] if kernel[*one] == 1 => tasks.push(Task::Mount(*one, depth, true)),
            several => {
                let count = several.iter().map(|&n| kernel[n]).sum();
                let names: Vec<String> = several.iter().map(|&n| self.label(n)).collect();
                let label = format!("{}: {}", plural(count, "kernel mount"), names.join(" "));
                tasks.push(Task::Fold(Why::Kernel, label, kernels, depth));
            }
        }
        tasks
    }

    /// Siblings of which these are equal count as alike.
    fn kind(&self, n: usize) -> (&'m str, bool, bool, bool, usize, Option<&'m OsStr>) {
        let mount = &self.tree.mounts[n];
        let state = mount.propagation;
        let mut names = self.below_parent(n).iter();
        let depth = names.clone().count();
        (mount.fs_type.as_str(), state.is_shared(), state.is_slave(), state.unbindable, depth, names.next())
    }

    fn below_parent(&self, n: usize) -> &'m Path {
        let point = &self.tree.mounts[n].mount_point;
        let parent = self.tree.parent[n].map(|above| &self.tree.mounts[above].mount_point);
        parent.and_then(|parent| point.strip_prefix(parent).ok()).unwrap_or(point)
    }

    /// The path from the parent's mount point on; beneath `/`, it is absolute.
    fn label(&self, n: usize) -> String {
        let point = &self.tree.mounts[n].mount_point;
        let below = self.below_parent(n);
        if below.as_os_str().is_empty() {
            format!("{} (on top)", visible(point.file_name().unwrap_or(point.as_os_str())))
        } else if below.components().count() + 1 == point.components().count() {
            visible(point)
        } else {
            visible(below)
        }
    }

    /// What the paths of siblings have in common at both ends, in whole names, with `*` between.
    fn pattern(&self, mounts: &[usize]) -> String {
        let paths: Vec<Vec<&OsStr>> = mounts.iter().map(|&n| self.below_parent(n).iter().collect()).collect();
        let [one, others @ ..] = paths.as_slice() else { return String::new() };
        let same = |a: &mut dyn Iterator<Item = (&&OsStr, &&OsStr)>| a.take_while(|(a, b)| a == b).count();
        let begin = others.iter().map(|other| same(&mut one.iter().zip(other))).min().unwrap_or(0);
        let end = others.iter().map(|other| same(&mut one.iter().rev().zip(other.iter().rev()))).min().unwrap_or(0);
        let end = end.min(one.len().saturating_sub(begin + 1));
        let mut names: Vec<String> = one.iter().take(begin).map(visible).collect();
        names.push("*".to_owned());
        names.extend(one.iter().skip(one.len() - end).map(visible));
        let root =
            mounts.first().is_some_and(|&n| self.label(n).starts_with('/')) && names.first().is_some_and(|n| n != "/");
        format!("{}{}", if root { "/" } else { "" }, names.join("/").replacen("//", "/", 1))
    }
}

fn mirror_label(size: usize, title: &str, relation: Relation) -> String {
    let relation = match relation {
        Relation::Peers => "peers of them",
        Relation::Slaves => "slaves of them",
        Relation::Copies => "not linked",
    };
    format!("{} as in {title}, {relation}", plural(size, "mount"))
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
