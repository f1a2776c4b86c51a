//! A machine as an outline: a column for each namespace, its mounts as a tree of rows, and what is alike folded away.
//!
//! A node with 100 containers has thousands of mounts, and what people ask about are a dozen of them. So three
//! kinds of rows stand for many: the kernel's own file systems; a subtree that an earlier namespace has as well,
//! with the same relation all over (what `unshare` and service managers make); and many siblings of one kind (a kubelet's volumes).
//! Everything works without recursion: a mount table may be a chain of a million.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;

use crate::machine::{Machine, Namespace};
use crate::picture::text::{counted, shown};
use crate::tree::mountinfo::Mount;

/// Fewer siblings, with what is beneath them, are shown although another namespace has the same.
const MIRROR_FROM: usize = 3;
/// Fewer siblings of one kind are shown one by one.
const ALIKE_FROM: usize = 8;
/// File systems that show the kernel's own state, or are its plumbing.
const KERNEL: [&str; 24] = [
    "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "cpuset", "debugfs", "devpts", "devtmpfs",
    "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nfsd", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs",
    "selinuxfs", "smackfs", "sysfs", "tracefs",
];

/// A machine, made ready to be drawn.
#[derive(Debug)]
pub struct Outline<'m> {
    /// The namespaces, in the machine's order.
    pub columns: Vec<Column<'m>>,
    /// The peer groups that any mount is in or receives from, by number.
    pub groups: BTreeMap<u64, Group>,
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
            columns.push(Column { namespace, title: shown(namespace.label()), rows, first });
            first += namespace.table.mounts.len();
        }
        Self { columns, groups }
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

/// The mounts of a namespace as a tree, in which each mount is found once, however torn the table is.
struct Tree<'m> {
    mounts: &'m [Mount],
    roots: Vec<usize>,
    children: Vec<Vec<usize>>,
    /// Parents before their children.
    order: Vec<usize>,
    parent: Vec<Option<usize>>,
}

impl<'m> Tree<'m> {
    fn of(mounts: &'m [Mount]) -> Self {
        let by_id: HashMap<u64, usize> = mounts.iter().enumerate().map(|(n, mount)| (mount.id, n)).collect();
        let mut children = vec![Vec::new(); mounts.len()];
        let mut parent = vec![None; mounts.len()];
        let mut roots = Vec::new();
        for (n, mount) in mounts.iter().enumerate() {
            match by_id.get(&mount.parent).filter(|&&above| above != n && mount.parent != mount.id) {
                Some(&above) => {
                    children[above].push(n);
                    parent[n] = Some(above);
                }
                None => roots.push(n),
            }
        }
        for siblings in &mut children {
            siblings.sort_by(|&a, &b| mounts[a].mount_point.cmp(&mounts[b].mount_point));
        }
        let mut seen = vec![false; mounts.len()];
        let mut order = Vec::with_capacity(mounts.len());
        let mut waiting: Vec<usize> = roots.iter().rev().copied().collect();
        for n in 0..=mounts.len() {
            while let Some(at) = waiting.pop() {
                if !std::mem::replace(&mut seen[at], true) {
                    order.push(at);
                    waiting.extend(children[at].iter().rev());
                }
            }
            // What is left hangs on a cycle, which a torn table may hold: it is cut open here.
            if n < mounts.len() && !seen[n] {
                if let Some(above) = parent[n].take() {
                    children[above].retain(|&child| child != n);
                }
                roots.push(n);
                waiting.push(n);
            }
        }
        Self { mounts, roots, children, order, parent }
    }
}

/// What a subtree looks like: its place, what it shows, one number of each mount's propagation, and its children.
type Look<'m> = (&'m Path, (u32, u32), &'m Path, Option<u64>, Vec<usize>);

/// The subtrees of the namespaces so far, each look with a number.
#[derive(Default)]
struct Images<'m> {
    looks: HashMap<Look<'m>, usize>,
    /// The first namespace that has a subtree with this look, by peer groups.
    own: HashMap<usize, usize>,
    /// The same without regard to propagation.
    bare: HashMap<usize, usize>,
}

impl<'m> Images<'m> {
    fn number(&mut self, look: Look<'m>) -> usize {
        let next = self.looks.len();
        *self.looks.entry(look).or_insert(next)
    }

    /// Compares each subtree of a namespace with those before it; gives which one it is the image of, for each mount.
    fn enter(
        &mut self,
        namespace: usize,
        tree: &Tree<'m>,
        groups: &BTreeMap<u64, Group>,
    ) -> Vec<Option<(usize, Relation, usize)>> {
        #[derive(Clone, Default)]
        struct Seen {
            own: usize,
            master: usize,
            bare: usize,
            /// Mounts in the subtree.
            size: usize,
            any_peers: bool,
            any_master: bool,
        }
        let mut seen = vec![Seen::default(); tree.mounts.len()];
        for &n in tree.order.iter().rev() {
            let mount = &tree.mounts[n];
            let (group, master) = (mount.propagation.peer_group, mount.propagation.master);
            let children = &tree.children[n];
            let mut look = |tag, of: fn(&Seen) -> usize| {
                let beneath = children.iter().map(|&child| of(&seen[child])).collect();
                self.number((&mount.mount_point, mount.device, &mount.root, tag, beneath))
            };
            let (own, from, bare) =
                (look(group, |s| s.own), look(master, |s| s.master), look(None, |s| s.bare));
            let alone = |group| groups.get(&group).is_none_or(|group: &Group| group.colour.is_none());
            seen[n] = Seen {
                own,
                master: from,
                bare,
                size: 1 + children.iter().map(|&child| seen[child].size).sum::<usize>(),
                any_peers: group.is_some_and(|g| !alone(g)) || children.iter().any(|&child| seen[child].any_peers),
                any_master: master.is_some() || children.iter().any(|&child| seen[child].any_master),
            };
        }
        let found = seen
            .iter()
            .map(|s| {
                let linked = s.any_peers || s.any_master;
                let peers = self.own.get(&s.own).filter(|_| s.any_peers && !s.any_master).map(|&of| (of, Relation::Peers));
                let slaves = self.own.get(&s.master).filter(|_| s.any_master).map(|&of| (of, Relation::Slaves));
                let copies = self.bare.get(&s.bare).filter(|_| !linked).map(|&of| (of, Relation::Copies));
                let (of, relation) = peers.or(slaves).or(copies)?;
                Some((of, relation, s.size))
            })
            .collect();
        for s in &seen {
            self.own.entry(s.own).or_insert(namespace);
            self.bare.entry(s.bare).or_insert(namespace);
        }
        found
    }
}

/// Whether a mount is the kernel's own: by its type, or as part of what container runtimes lay into `/proc`, `/sys` and `/dev`.
fn is_kernel(mount: &Mount) -> bool {
    KERNEL.contains(&mount.fs_type.as_str()) || ["/proc", "/sys", "/dev"].iter().any(|at| mount.mount_point.starts_with(at))
}

/// Makes the rows of one namespace.
struct Builder<'t, 'm> {
    tree: &'t Tree<'m>,
    mirrors: &'t [Option<(usize, Relation, usize)>],
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
            if let Some(&Some((of, relation, size))) = self.mirrors.get(n) {
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
                with.0.sort_by_key(|&n| siblings.iter().position(|&sibling| sibling == n));
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
                let label = format!("{}: {}", counted(count, "kernel mount"), names.join(" "));
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
            format!("{} (on top)", shown(point.file_name().unwrap_or(point.as_os_str())))
        } else if below.components().count() + 1 == point.components().count() {
            shown(point)
        } else {
            shown(below)
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
        let mut names: Vec<String> = one.iter().take(begin).map(shown).collect();
        names.push("*".to_owned());
        names.extend(one.iter().skip(one.len() - end).map(shown));
        let root = mounts.first().is_some_and(|&n| self.label(n).starts_with('/')) && names.first().is_some_and(|n| n != "/");
        format!("{}{}", if root { "/" } else { "" }, names.join("/").replacen("//", "/", 1))
    }
}

fn mirror_label(size: usize, title: &str, relation: Relation) -> String {
    let relation = match relation {
        Relation::Peers => "peers of them",
        Relation::Slaves => "slaves of them",
        Relation::Copies => "not linked",
    };
    format!("{} as in {title}, {relation}", counted(size, "mount"))
}
