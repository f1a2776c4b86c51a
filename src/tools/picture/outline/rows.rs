//! The rows of one namespace: which mounts get a row of their own, and which are folded into one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;

use mounts::mountinfo::Mount;
use text::{plural, visible};

use super::images::Image;
use super::tree::Tree;
use super::{Relation, Row, What, Why};

/// The fewest mounts that are folded because another namespace has the same.
const MIRROR_FROM: usize = 3;
/// The fewest similar siblings that are folded.
const ALIKE_FROM: usize = 8;
/// File systems that show the kernel's own state.
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

/// Whether a mount is the kernel's own, by its type, or one of those that container runtimes make in `/proc`, `/sys` and `/dev`.
fn is_kernel(mount: &Mount) -> bool {
    KERNEL.contains(&mount.fs_type.as_str())
        || ["/proc", "/sys", "/dev"].iter().any(|at| mount.mount_point.starts_with(at))
}

/// Makes the rows of one namespace.
pub(super) struct Builder<'t, 'm> {
    pub(super) tree: &'t Tree<'m>,
    pub(super) mirrors: &'t [Option<Image>],
    pub(super) first: usize,
    pub(super) title: &'t dyn Fn(usize) -> &'t str,
}

enum Task {
    Siblings(Vec<usize>, usize, bool),
    Mount(usize, usize, bool),
    Fold(Why, String, Vec<usize>, usize),
}

impl<'m> Builder<'_, 'm> {
    pub(super) fn rows(&self, all: bool) -> Vec<Row<'m>> {
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

    /// For each mount, the size of its subtree if all mounts in it are the kernel's; else 0.
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

    /// Folds the children of one mount.
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

    /// The properties in which similar siblings are equal.
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

    /// The path from the parent's mount point; absolute if the parent is `/`.
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

    /// The names that the paths of siblings have in common at both ends, with `*` in between.
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
