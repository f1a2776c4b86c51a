//! Matches the kernel's mount events with the changes of the tables, so that nothing is lost silently. Pure.
//!
//! Two readings of a table do not show a mount that came and went in between, nor one that was replaced by another with the same
//! id. fanotify reports each attached mount, and each report must match a change. The kernel queues a report a moment after the
//! table shows the mount (fs/namespace.c, `namespace_unlock`). So a change without a report waits for it.

use std::collections::HashMap;

use model::machine::Machine;
use mounts::mountinfo::{Mount, Table};

use super::diff::{Change, ChangeKind, is_same};

/// For how many rounds a change waits for its report.
const LATE: u64 = 16;

/// A mount that the kernel reported, as it was when it was queried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its namespace, by inode.
    pub namespace: u64,
    /// Its unique id.
    pub unique: u64,
    /// The mount.
    pub mount: Mount,
}

/// The changes that wait for their reports.
#[derive(Debug, Default)]
pub struct Ledger {
    round: u64,
    /// Mounts that were told of and whose events have not come yet, by inode of the namespace and id; since which round.
    early: HashMap<(u64, u64), (Mount, u64)>,
}

impl Ledger {
    /// Adds unique ids to the changes of a round, and the changes that the tables do not show. `before` has the earlier tables of
    /// the namespaces that have changed, `machine` all current ones. `named` were reported before the tables were read, `late`
    /// afterwards. Returns those of `late` that match no change; they are for the next round.
    #[must_use]
    pub fn explain(
        &mut self,
        machine: &Machine,
        before: &HashMap<usize, Table>,
        (named, late): (Vec<Named>, Vec<Named>),
        changes: &mut Vec<Change>,
    ) -> Vec<Named> {
        self.round += 1;
        let round = self.round;
        self.early.retain(|_, (_, since)| *since + LATE > round);
        let arrived = |kind: &ChangeKind| matches!(kind, ChangeKind::Mounted | ChangeKind::Moved { .. });
        let mut came: HashMap<(usize, u64), usize> = HashMap::new();
        for (index, change) in changes.iter().enumerate().filter(|(_, change)| arrived(&change.kind)) {
            came.insert((change.namespace, change.mount.id), index);
        }
        let places: HashMap<u64, usize> = machine.namespaces.iter().enumerate().map(|(at, n)| (n.inode, at)).collect();
        fn by_id(table: &Table) -> HashMap<u64, &Mount> {
            table.mounts.iter().map(|mount| (mount.id, mount)).collect()
        }
        let mut now: HashMap<usize, HashMap<u64, &Mount>> = HashMap::new();
        let mut old: HashMap<usize, HashMap<u64, &Mount>> = HashMap::new();
        let mut more = Vec::new();
        let mut left = Vec::new();
        // The last event of an id is that of the mount which is there.
        let all = named.into_iter().map(|named| (false, named)).chain(late.into_iter().map(|named| (true, named)));
        for (is_late, Named { namespace: inode, unique, mount }) in all.rev() {
            // Of one that has ended meanwhile nobody wants to know.
            let Some(&namespace) = places.get(&inode) else { continue };
            let change = came.get(&(namespace, mount.id)).and_then(|&index| changes.get_mut(index));
            if let Some(change) = change
                && change.unique.is_none()
                && is_same(&change.mount, &mount)
            {
                change.unique = Some(unique);
                continue;
            }
            if let std::collections::hash_map::Entry::Occupied(early) = self.early.entry((inode, mount.id))
                && is_same(&early.get().0, &mount)
            {
                early.remove();
                continue;
            }
            if is_late {
                left.push(Named { namespace: inode, unique, mount });
                continue;
            }
            let there = now.entry(namespace).or_insert_with(|| by_id(&machine.namespaces[namespace].table));
            let known = before.get(&namespace).is_none_or(|table| {
                old.entry(namespace).or_insert_with(|| by_id(table)).get(&mount.id).is_some_and(|m| is_same(m, &mount))
            });
            let same = there.get(&mount.id).is_some_and(|there| is_same(there, &mount));
            let change = |kind| Change { namespace, kind, mount: mount.clone(), unique: Some(unique) };
            if same && known && !came.contains_key(&(namespace, mount.id)) {
                came.insert((namespace, mount.id), usize::MAX);
                more.push(change(ChangeKind::Mounted));
                more.push(Change { unique: None, ..change(ChangeKind::Unmounted) });
            } else {
                more.push(change(ChangeKind::Brief));
            }
        }
        for change in changes.iter().filter(|change| arrived(&change.kind) && change.unique.is_none()) {
            let inode = machine.namespaces.get(change.namespace).map_or(0, |n| n.inode);
            self.early.insert((inode, change.mount.id), (change.mount.clone(), round));
        }
        more.reverse();
        changes.extend(more);
        left.reverse();
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::diff;
    use model::machine::Namespace;
    use mounts::mountinfo::parse;

    struct Watch {
        ledger: Ledger,
        machine: Machine,
    }

    fn table(lines: &[&str]) -> Table {
        let text: String = lines
            .iter()
            .map(|at| {
                let (id, at) = at.split_once(' ').unwrap();
                format!("{id} 0 0:{id} / {at} rw - tmpfs t rw\n")
            })
            .collect();
        parse(text.as_bytes())
    }

    impl Watch {
        fn new(lines: &[&str]) -> Self {
            let namespace = Namespace { inode: 7, table: table(lines), ..Namespace::default() };
            Self { ledger: Ledger::default(), machine: Machine { namespaces: vec![namespace], left_out: vec![] } }
        }

        /// A round in which the table became this and these were named: unique id, id and place.
        fn round(&mut self, lines: &[&str], named: &[(u64, &str)]) -> Vec<String> {
            self.round_with_late(lines, named, &[]).0
        }

        /// The same with names that came after the table was read. Also which of those are left.
        fn round_with_late(
            &mut self,
            lines: &[&str],
            named: &[(u64, &str)],
            late: &[(u64, &str)],
        ) -> (Vec<String>, Vec<u64>) {
            let before = std::mem::replace(&mut self.machine.namespaces[0].table, table(lines));
            let mut changes = diff::tables(0, &before, &self.machine.namespaces[0].table);
            let of = |names: &[(u64, &str)]| {
                let name = |&(unique, line): &(u64, &str)| Named {
                    namespace: 7,
                    unique,
                    mount: table(&[line]).mounts.remove(0),
                };
                names.iter().map(name).collect()
            };
            let before = HashMap::from([(0, before)]);
            let left = self.ledger.explain(&self.machine, &before, (of(named), of(late)), &mut changes);
            let changes = changes
                .into_iter()
                .map(|c| {
                    let sign = match c.kind {
                        ChangeKind::Mounted => "+",
                        ChangeKind::Unmounted => "-",
                        ChangeKind::Moved { .. } => ">",
                        ChangeKind::Brief => "*",
                    };
                    let unique = c.unique.map(|u| format!(" {u}")).unwrap_or_default();
                    format!("{sign} {}{unique}", c.mount.mount_point.display())
                })
                .collect();
            (changes, left.into_iter().map(|named| named.unique).collect())
        }
    }

    #[test]
    fn what_came_and_went_is_told() {
        let mut watch = Watch::new(&["1 /"]);
        assert_eq!(watch.round(&["1 /"], &[(50, "9 /x"), (51, "9 /x")]), ["* /x 50", "* /x 51"]);
        assert_eq!(watch.round(&["1 /", "9 /x"], &[(52, "9 /x"), (53, "9 /x")]), ["+ /x 53", "* /x 52"]);
    }

    #[test]
    fn a_mount_that_was_replaced_by_one_like_it_is_told() {
        let mut watch = Watch::new(&["1 /", "9 /x"]);
        assert_eq!(watch.round(&["1 /", "9 /x"], &[(50, "9 /x")]), ["- /x", "+ /x 50"]);
    }

    #[test]
    fn what_was_mounted_after_the_table_was_read_is_left_to_the_next_round() {
        let mut watch = Watch::new(&["1 /", "8 /y"]);
        let late = [(50, "9 /x"), (51, "10 /z"), (52, "8 /y")];
        let (told, left) = watch.round_with_late(&["1 /", "8 /y", "10 /z"], &[], &late);
        assert_eq!((told, left), (vec!["+ /z 51".to_owned()], vec![50, 52]));
        let left = [(50, "9 /x"), (52, "8 /y")];
        assert_eq!(watch.round(&["1 /", "8 /y", "9 /x", "10 /z"], &left), ["+ /x 50", "- /y", "+ /y 52"]);
    }

    #[test]
    fn an_event_may_come_after_its_mount_was_seen() {
        let mut watch = Watch::new(&["1 /"]);
        assert_eq!(watch.round(&["1 /", "9 /x"], &[]), ["+ /x"]);
        assert_eq!(watch.round(&["1 /", "9 /x"], &[(50, "9 /x")]), [""; 0], "it was told");
        assert_eq!(watch.round(&["1 /", "9 /x"], &[(51, "9 /x")]), ["- /x", "+ /x 51"], "this is another one");
        assert_eq!(watch.round(&["1 /"], &[]), ["- /x"]);
    }
}
