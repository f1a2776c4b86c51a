//! The members and slaves of each peer group, across all namespaces. Pure.
//!
//! Group numbers are the same in all namespaces. A master group without a known member has its members in namespaces that we
//! can't see.

use std::collections::HashMap;

use model::machine::Machine;
use mounts::mountinfo::Mount;

/// A mount of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MountRef {
    /// Its namespace, by index in [`Machine::namespaces`].
    pub namespace: usize,
    /// Its index in the namespace's table.
    pub mount: usize,
}

/// The peer groups of a machine.
#[derive(Debug, Default)]
pub struct Relations {
    members: HashMap<u64, Vec<MountRef>>,
    slaves: HashMap<u64, Vec<MountRef>>,
}

impl Relations {
    /// The peer groups of a machine.
    #[must_use]
    pub fn of(machine: &Machine) -> Self {
        let mut relations = Self::default();
        for (namespace, of) in machine.namespaces.iter().enumerate() {
            for (mount, found) in of.table.mounts.iter().enumerate() {
                let place = MountRef { namespace, mount };
                if let Some(group) = found.propagation.peer_group {
                    relations.members.entry(group).or_default().push(place);
                }
                if let Some(group) = found.propagation.master {
                    relations.slaves.entry(group).or_default().push(place);
                }
            }
        }
        relations
    }

    /// The mounts that are peers in a group, by namespace.
    #[must_use]
    pub fn members(&self, group: u64) -> &[MountRef] {
        self.members.get(&group).map_or(&[], Vec::as_slice)
    }

    /// The mounts that receive from a group, by namespace.
    #[must_use]
    pub fn slaves(&self, group: u64) -> &[MountRef] {
        self.slaves.get(&group).map_or(&[], Vec::as_slice)
    }
}

/// The mount that is referred to.
#[must_use]
pub fn mount_at(machine: &Machine, place: MountRef) -> Option<&Mount> {
    machine.namespaces.get(place.namespace)?.table.mounts.get(place.mount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::machine::Namespace;
    use mounts::mountinfo;

    #[test]
    fn groups_are_followed_across_namespaces() {
        let of = |text: &str| Namespace { table: mountinfo::parse(text.as_bytes()), ..Namespace::default() };
        let machine = Machine {
            namespaces: vec![
                of("1 0 0:1 / / rw shared:7 - t t rw\n2 1 0:2 / /a rw shared:8 - t t rw\n"),
                of("5 0 0:1 / / rw shared:7 master:9 - t t rw\n6 5 0:2 / /b rw master:8 - t t rw\n"),
            ],
            left_out: vec![],
        };
        let relations = Relations::of(&machine);
        let place = |namespace, mount| MountRef { namespace, mount };
        assert_eq!(relations.members(7), [place(0, 0), place(1, 0)]);
        assert_eq!(relations.slaves(8), [place(1, 1)]);
        assert_eq!((relations.members(9), relations.slaves(7)), (&[][..], &[][..]));
        assert_eq!(mount_at(&machine, place(1, 1)).map(|mount| mount.id), Some(6));
        assert_eq!(mount_at(&machine, place(7, 1)), None);
    }
}
