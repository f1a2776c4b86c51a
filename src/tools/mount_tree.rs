//! The mounts of a table as a tree. Pure.

use std::collections::HashMap;

use mounts::mountinfo::Table;

/// A mount in the tree of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its index in [`Table::mounts`].
    pub mount: usize,
    /// Its depth: 0 for a root.
    pub depth: usize,
    /// The end of its subtree: the rows after it, up to this index (exclusive), are beneath it.
    pub end: usize,
}

/// The mounts of a table in depth-first order, siblings sorted by mount point. Each mount is listed once, even if the table is
/// torn and parents are missing or form a cycle.
#[must_use]
pub fn rows(table: &Table) -> Vec<Row> {
    let mounts = &table.mounts;
    let mut by_id: HashMap<u64, usize> = HashMap::with_capacity(mounts.len());
    for (index, mount) in mounts.iter().enumerate() {
        by_id.entry(mount.id).or_insert(index);
    }
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut tops = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        match by_id.get(&mount.parent) {
            Some(&parent) if parent != index && mount.id != mount.parent => {
                children.entry(parent).or_default().push(index);
            }
            _ => tops.push(index),
        }
    }
    let by_place = |list: &mut Vec<usize>| list.sort_by(|&a, &b| mounts[b].mount_point.cmp(&mounts[a].mount_point));
    by_place(&mut tops);
    children.values_mut().for_each(by_place);

    let mut rows: Vec<Row> = Vec::with_capacity(mounts.len());
    let mut seen = vec![false; mounts.len()];
    let mut walk = |waiting: &mut Vec<(usize, usize)>| {
        while let Some((mount, depth)) = waiting.pop() {
            if std::mem::replace(&mut seen[mount], true) {
                continue;
            }
            rows.push(Row { mount, depth, end: 0 });
            waiting.extend(children.remove(&mount).unwrap_or_default().into_iter().map(|child| (child, depth + 1)));
        }
    };
    walk(&mut tops.into_iter().map(|top| (top, 0)).collect());
    // What is left hangs on circles.
    for mount in 0..mounts.len() {
        walk(&mut vec![(mount, 0)]);
    }

    let mut open: Vec<usize> = Vec::new();
    for at in 0..rows.len() {
        while let Some(&above) = open.last()
            && rows[above].depth >= rows[at].depth
        {
            rows[above].end = at;
            open.pop();
        }
        open.push(at);
    }
    let end = rows.len();
    open.into_iter().for_each(|at| rows[at].end = end);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use mounts::mountinfo;

    #[test]
    fn circles_and_orphans_are_in_the_tree_once() {
        let torn = "1 2 0:1 / / rw - t t rw\n2 1 0:2 / /a rw - t t rw\n3 77 0:3 / /b rw - t t rw\n\
                    3 1 0:3 / /c rw - t t rw\n9 9 0:9 / /d rw - t t rw\n";
        let mut mounts: Vec<usize> = rows(&mountinfo::parse(torn.as_bytes())).iter().map(|row| row.mount).collect();
        mounts.sort_unstable();
        assert_eq!(mounts, [0, 1, 2, 3, 4]);
        assert_eq!(rows(&Table::default()), []);
    }
}
