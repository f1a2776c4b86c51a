//! Makes one moment of tables that were read one after the other, while mounts go on. Pure.
//!
//! The kernel makes a mount and all its copies under one lock (fs/namespace.c, `namespace_sem`). So when all tables have
//! been read and then those again that have changed meanwhile, an event of which any part was seen at the first reading
//! is whole at the second. One of which no part was seen at the first may be cut in two; it is left to the next round, as
//! if it had not been seen yet.

use std::collections::HashMap;

use super::diff::{Kind, is_same};
use super::ledger::Named;
use super::origin::Told;
use crate::machine::Machine;
use crate::tree::mountinfo::Table;

/// Takes out of `events` those that may be cut in two, and out of the machine's tables what they have changed. `first` has
/// the first readings, `before` the tables before them. Gives back the names of mounts that are left to the next round.
pub fn leave(
    machine: &mut Machine,
    before: &HashMap<usize, Table>,
    first: &HashMap<usize, Table>,
    events: &mut Vec<Vec<Told>>,
) -> Vec<Named> {
    let was_seen = |told: &Told| {
        let change = &told.change;
        // What the first reading had under its number, if that namespace was read then.
        let there = first.get(&change.namespace).map(|t| t.mounts.iter().find(|m| is_same(m, &change.mount)));
        match (&change.kind, there) {
            (Kind::Brief, _) => true,
            (Kind::Mounted, Some(found)) => found.is_some(),
            (Kind::Unmounted, Some(found)) => found.is_none(),
            (Kind::Moved { .. }, Some(found)) => found.is_some_and(|m| m.mount_point == change.mount.mount_point),
            (_, None) => false,
        }
    };
    let mut names = Vec::new();
    events.retain(|event| {
        if event.iter().any(was_seen) || !can_be_undone(machine, before, event) {
            return true;
        }
        for told in event {
            undo(machine, before, told);
            if let Some(unique) = told.change.unique {
                names.push(Named { namespace: told.change.namespace, unique, mount: told.change.mount.clone() });
            }
        }
        false
    });
    names
}

/// Whether the tables can be put back: not where the kernel has given a number anew.
fn can_be_undone(machine: &Machine, before: &HashMap<usize, Table>, event: &[Told]) -> bool {
    event.iter().all(|told| {
        let Some(table) = machine.namespaces.get(told.change.namespace).map(|n| &n.table) else { return false };
        let now = table.mounts.iter().filter(|m| m.id == told.change.mount.id).count();
        let was =
            before.get(&told.change.namespace).is_some_and(|t| t.mounts.iter().any(|m| m.id == told.change.mount.id));
        match told.change.kind {
            Kind::Mounted => now == 1 && !was,
            Kind::Unmounted => now == 0 && was,
            Kind::Moved { .. } => now == 1 && was,
            Kind::Brief => false,
        }
    })
}

fn undo(machine: &mut Machine, before: &HashMap<usize, Table>, told: &Told) {
    let Some(namespace) = machine.namespaces.get_mut(told.change.namespace) else { return };
    let mounts = &mut namespace.table.mounts;
    let id = told.change.mount.id;
    let was = before.get(&told.change.namespace).and_then(|t| t.mounts.iter().find(|m| m.id == id));
    match (mounts.iter().position(|m| m.id == id), was) {
        (Some(at), Some(was)) => mounts[at] = was.clone(),
        (Some(at), None) => drop(mounts.remove(at)),
        (None, Some(was)) => mounts.push(was.clone()),
        (None, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Namespace;
    use crate::tree::mountinfo::parse;
    use crate::watch::{diff, origin};

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
