//! One mount table as a tree of numbers, whatever state the table is in.

use std::collections::HashMap;

use mounts::mountinfo::Mount;

/// The mounts of a namespace as a tree, in which each mount is found once, however torn the table is.
pub(super) struct Tree<'m> {
    pub(super) mounts: &'m [Mount],
    pub(super) roots: Vec<usize>,
    /// Of each mount, by path.
    pub(super) children: Vec<Vec<usize>>,
    /// Parents before their children.
    pub(super) order: Vec<usize>,
    pub(super) parent: Vec<Option<usize>>,
}

impl<'m> Tree<'m> {
    pub(super) fn of(mounts: &'m [Mount]) -> Self {
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
