//! Finds what was mounted, unmounted and moved between two readings of a mount table. Pure.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use mounts::mountinfo::{Mount, Table};

/// What happened to a mount.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It was mounted.
    Mounted,
    /// It was unmounted.
    Unmounted,
    /// It was moved. (Or a directory of its path was renamed.)
    Moved {
        /// Where it was.
        from: PathBuf,
    },
    /// It was mounted and unmounted between two readings.
    Brief,
}

/// A change of one mount in one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The namespace, by its index in [`model::machine::Machine::namespaces`].
    pub namespace: usize,
    /// What happened.
    pub kind: ChangeKind,
    /// The mount, as last seen.
    pub mount: Mount,
    /// The kernel's unique id of the mount, if known. Unique ids increase with time.
    pub unique: Option<u64>,
}

/// Whether two entries with the same id are the same mount. The kernel reuses ids.
#[must_use]
pub fn is_same(one: &Mount, other: &Mount) -> bool {
    one.id == other.id
        && one.device == other.device
        && one.fs_type == other.fs_type
        // A directory that is deleted keeps its path; one that is renamed doesn't, which is rare enough.
        && one.root == other.root
}

/// The changes between two readings of a namespace's table: first unmounts, latest mount first; then mounts and moves, in the
/// order of the table.
#[must_use]
pub fn tables(namespace: usize, before: &Table, after: &Table) -> Vec<Change> {
    let (old, new) = (by_id(before), by_id(after));
    let change = |kind, mount: &Mount| Change { namespace, kind, mount: mount.clone(), unique: None };
    let gone = before.mounts.iter().rev().filter(|m| new.get(&m.id).is_none_or(|now| !is_same(m, now)));
    let mut changes: Vec<Change> = gone.map(|mount| change(ChangeKind::Unmounted, mount)).collect();
    for mount in &after.mounts {
        match old.get(&mount.id).filter(|was| is_same(was, mount)) {
            None => changes.push(change(ChangeKind::Mounted, mount)),
            Some(was) if place(was, &old) != place(mount, &new) => {
                changes.push(change(ChangeKind::Moved { from: was.mount_point.clone() }, mount));
            }
            Some(_) => {}
        }
    }
    changes
}

fn by_id(table: &Table) -> HashMap<u64, &Mount> {
    table.mounts.iter().map(|mount| (mount.id, mount)).collect()
}

/// The position of a mount on its parent. A mount on a moved mount keeps it, and is not moved itself. The parent's id is not
/// enough: a mount may be inserted in between (beneath another, or on the root that pivot_root changes).
fn place<'a>(mount: &'a Mount, all: &HashMap<u64, &'a Mount>) -> (u64, &'a Path) {
    let whole = mount.mount_point.as_path();
    let parent = all.get(&mount.parent).filter(|parent| parent.id != mount.id);
    (mount.parent, parent.and_then(|parent| whole.strip_prefix(&parent.mount_point).ok()).unwrap_or(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mounts::mountinfo::parse;

    /// Each line: id, parent, device, root, mount point.
    pub(crate) fn table(lines: &[&str]) -> Table {
        let text: String = lines
            .iter()
            .map(|line| {
                let f: Vec<&str> = line.split(' ').collect();
                format!("{} {} 0:{} {} {} rw - tmpfs t rw\n", f[0], f[1], f[2], f[3], f[4])
            })
            .collect();
        let table = parse(text.as_bytes());
        assert_eq!((table.mounts.len(), table.skipped), (lines.len(), 0));
        table
    }

    fn changes(before: &[&str], after: &[&str]) -> Vec<String> {
        let all = tables(0, &table(before), &table(after)).into_iter();
        all.map(|change| {
            let at = change.mount.mount_point.display().to_string();
            match change.kind {
                ChangeKind::Mounted => format!("+ {at}"),
                ChangeKind::Unmounted => format!("- {at}"),
                ChangeKind::Moved { from } => format!("> {at} from {}", from.display()),
                ChangeKind::Brief => format!("* {at}"),
            }
        })
        .collect()
    }

    const ROOT: &str = "1 0 1 / /";

    #[test]
    fn mounts_and_unmounts_are_told_children_going_before_their_parents() {
        assert_eq!(changes(&[ROOT], &[ROOT]), [""; 0]);
        let two = [ROOT, "2 1 2 / /a", "3 2 3 / /a/b"];
        assert_eq!(changes(&[ROOT], &two), ["+ /a", "+ /a/b"]);
        assert_eq!(changes(&two, &[ROOT]), ["- /a/b", "- /a"]);
    }

    #[test]
    fn an_id_that_was_given_anew_is_another_mount() {
        for other in ["2 1 9 / /a", "2 1 2 /x /a"] {
            assert_eq!(changes(&[ROOT, "2 1 2 / /a"], &[ROOT, other]), ["- /a", "+ /a"], "{other}");
        }
    }

    #[test]
    fn a_moved_mount_is_told_and_those_on_it_are_not() {
        let before = [ROOT, "2 1 2 / /a", "3 2 3 / /a/b", "4 1 4 / /c"];
        let after = [ROOT, "2 4 2 / /c/d", "3 2 3 / /c/d/b", "4 1 4 / /c"];
        assert_eq!(changes(&before, &after), ["> /c/d from /a"]);
        // pivot_root(2): the new root was /new, the old one is /new/old.
        let before = ["1 0 1 / /", "2 1 2 / /new", "3 1 3 / /proc"];
        let after = ["1 2 1 / /old", "2 0 2 / /", "3 1 3 / /old/proc"];
        assert_eq!(changes(&before, &after), ["> /old from /", "> / from /new"]);
    }
}
