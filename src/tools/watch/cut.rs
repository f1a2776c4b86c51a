//! Makes a consistent snapshot of tables that were read one after the other while mounts changed. Pure.
//!
//! The kernel makes a mount and all its copies under one lock (fs/namespace.c, `namespace_sem`). Tables that change while the
//! tables are read are read a second time. An event that was partly seen at the first reading is complete at the second. An
//! event that was not seen at the first may be incomplete; it is undone, and found again in the next round.

use std::collections::{HashMap, HashSet};

use model::machine::Machine;
use mounts::mountinfo::{Mount, Table};

use super::diff::{ChangeKind, is_same};
use super::ledger::Named;
use super::origin::CausedChange;

/// Mounts by the index of their namespace and their id.
type Index<'t> = HashMap<(usize, u64), &'t Mount>;

fn index(tables: &HashMap<usize, Table>) -> Index<'_> {
    tables.iter().flat_map(|(&at, table)| table.mounts.iter().map(move |mount| ((at, mount.id), mount))).collect()
}

/// Removes the events that may be incomplete, and undoes their changes in the machine's tables. `first` has the first readings,
/// `before` the tables before them. Returns the named mounts that are left to the next round.
pub fn leave(
    machine: &mut Machine,
    before: &HashMap<usize, Table>,
    first: &HashMap<usize, Table>,
    events: &mut Vec<Vec<CausedChange>>,
) -> Vec<Named> {
    let (was, seen) = (index(before), index(first));
    let was_seen = |CausedChange { change, .. }: &CausedChange| {
        let there = seen.get(&(change.namespace, change.mount.id)).filter(|m| is_same(m, &change.mount));
        match &change.kind {
            ChangeKind::Brief => true,
            ChangeKind::Mounted => there.is_some(),
            // One that was not read then had not changed yet.
            ChangeKind::Unmounted => there.is_none() && first.contains_key(&change.namespace),
            ChangeKind::Moved { .. } => there.is_some_and(|m| m.mount_point == change.mount.mount_point),
        }
    };
    let (mut left, kept): (Vec<_>, Vec<_>) = events.drain(..).partition(|event| !event.iter().any(was_seen));
    *events = kept;
    if left.is_empty() {
        return Vec::new();
    }
    let mut now: HashMap<(usize, u64), usize> = HashMap::new();
    for (at, namespace) in machine.namespaces.iter().enumerate().filter(|(at, _)| before.contains_key(at)) {
        now.extend(namespace.table.mounts.iter().enumerate().map(|(n, mount)| ((at, mount.id), n)));
    }
    // Not where the kernel has given a number anew: such a table can't be put back.
    let can_be_undone = |CausedChange { change, .. }: &CausedChange| {
        let key = (change.namespace, change.mount.id);
        match change.kind {
            ChangeKind::Mounted => now.contains_key(&key) && !was.contains_key(&key),
            ChangeKind::Unmounted => !now.contains_key(&key) && was.contains_key(&key),
            ChangeKind::Moved { .. } => now.contains_key(&key) && was.contains_key(&key),
            ChangeKind::Brief => false,
        }
    };
    left.retain(|event| {
        let can = event.iter().all(can_be_undone);
        if !can {
            events.push(event.clone());
        }
        can
    });
    let mut names = Vec::new();
    let mut taken: HashSet<(usize, u64)> = HashSet::new();
    for CausedChange { change, .. } in left.into_iter().flatten() {
        let key = (change.namespace, change.mount.id);
        let Some(namespace) = machine.namespaces.get_mut(change.namespace) else { continue };
        match (now.get(&key), was.get(&key)) {
            (Some(&at), Some(&was)) => namespace.table.mounts[at] = was.clone(),
            (Some(_), None) => drop(taken.insert(key)),
            (None, Some(&was)) => namespace.table.mounts.push(was.clone()),
            (None, None) => {}
        }
        if let Some(unique) = change.unique {
            names.push(Named { namespace: namespace.inode, unique, mount: change.mount });
        }
    }
    for (at, namespace) in machine.namespaces.iter_mut().enumerate() {
        if taken.iter().any(|(of, _)| *of == at) {
            namespace.table.mounts.retain(|mount| !taken.contains(&(at, mount.id)));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{diff, origin};
    use model::machine::Namespace;
    use mounts::mountinfo::parse;

    fn table(ids: &[u64]) -> Table {
        let line = |id: &u64| match id {
            1 | 11 => format!("{id} 0 0:1 / / rw shared:1 - tmpfs t rw\n"),
            _ => format!("{id} {} 0:{} / /{} rw - tmpfs t rw\n", id / 10 * 10 + 1, id % 10, id % 10),
        };
        let table = parse(ids.iter().map(line).collect::<String>().as_bytes());
        assert_eq!(table.skipped, 0);
        table
    }

    /// The mounts of one round in two peers: what is told and what the tables are then.
    fn round(before: [&[u64]; 2], first: [&[u64]; 2], second: [&[u64]; 2]) -> (Vec<Vec<u64>>, Vec<Vec<u64>>, Vec<u64>) {
        let of = |tables: [&[u64]; 2]| -> HashMap<usize, Table> {
            tables.iter().map(|ids| table(ids)).enumerate().collect()
        };
        let (before, first) = (of(before), of(first));
        let mut machine = Machine::default();
        let mut changes = Vec::new();
        for (index, ids) in second.iter().enumerate() {
            changes.extend(diff::tables(index, &before[&index], &table(ids)));
            machine.namespaces.push(Namespace { table: table(ids), ..Namespace::default() });
        }
        changes.iter_mut().for_each(|change| change.unique = Some(change.mount.id + 100));
        let mut events = origin::events(&machine, &before, changes);
        let names = leave(&mut machine, &before, &first, &mut events);
        let told = events.iter().map(|event| event.iter().map(|told| told.change.mount.id).collect()).collect();
        let tables = machine.namespaces.iter().map(|n| n.table.mounts.iter().map(|m| m.id).collect()).collect();
        (told, tables, names.into_iter().map(|name| name.unique).collect())
    }

    #[test]
    fn an_event_that_is_whole_is_told_and_one_that_may_be_cut_is_left() {
        // 2 was there at the first reading of one of them; of 3, only the second reading of one has a part.
        let (told, tables, names) = round([&[1], &[11]], [&[1], &[11, 12]], [&[1, 2, 3], &[11, 12]]);
        assert_eq!(told, [[2, 12]]);
        assert_eq!(tables, [vec![1, 2], vec![11, 12]]);
        assert_eq!(names, [103]);
    }

    #[test]
    fn it_is_so_for_unmounts_too() {
        let whole: [&[u64]; 2] = [&[1, 2, 3], &[11, 12, 13]];
        let (told, tables, _) = round(whole, [&[1, 2, 3], &[11, 13]], [&[1], &[11, 13]]);
        assert_eq!(told, [[2, 12]]);
        assert_eq!(tables, [vec![1, 3], vec![11, 13]]);
    }
}
