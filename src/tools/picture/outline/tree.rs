//! One mount table as a tree of indices.

use mounts::mountinfo::{Mount, Table};

use crate::mount_tree::{Row, rows};

/// The mounts of a namespace as a tree. Each mount is in it once, even if the table is torn.
pub(super) struct Tree<'m> {
    pub(super) mounts: &'m [Mount],
    pub(super) roots: Vec<usize>,
    /// The children of each mount, sorted by path.
    pub(super) children: Vec<Vec<usize>>,
    /// Parents before their children.
    pub(super) order: Vec<usize>,
    pub(super) parent: Vec<Option<usize>>,
}

impl<'m> Tree<'m> {
    pub(super) fn of(table: &'m Table) -> Self {
        let mounts = &table.mounts;
        let mut children = vec![Vec::new(); mounts.len()];
        let mut parent = vec![None; mounts.len()];
        let (mut roots, mut order) = (Vec::new(), Vec::with_capacity(mounts.len()));
        // The mounts from a root to the last one.
        let mut above: Vec<usize> = Vec::new();
        for Row { mount, depth, .. } in rows(table) {
            above.truncate(depth);
            match above.last() {
                Some(&last) => {
                    parent[mount] = Some(last);
                    children[last].push(mount);
                }
                None => roots.push(mount),
            }
            above.push(mount);
            order.push(mount);
        }
        roots.sort_unstable();
        for siblings in &mut children {
            siblings.sort_by_key(|&n: &usize| (&mounts[n].mount_point, n));
        }
        Self { mounts, roots, children, order, parent }
    }
}
