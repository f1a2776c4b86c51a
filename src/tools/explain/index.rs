//! Finds the mounts of a machine by id, by peer group, and by parent and mount point. Pure.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;

use model::machine::Machine;
use mounts::mountinfo::Mount;

/// The mounts of a machine by id, and the peer groups.
#[derive(Debug)]
pub struct Index<'m> {
    mounts: HashMap<u64, (usize, &'m Mount)>,
    members: HashMap<u64, Vec<u64>>,
    /// Mounts by parent and mount point. Paths are hashed as bytes, which is several times faster than by components; the
    /// kernel writes no redundant slashes.
    on: HashMap<(u64, &'m OsStr), u64>,
}

impl<'m> Index<'m> {
    /// Indexes a machine.
    #[must_use]
    pub fn new(machine: &'m Machine) -> Self {
        let total = machine.namespaces.iter().map(|namespace| namespace.table.mounts.len()).sum();
        let (mounts, on) = (HashMap::with_capacity(total), HashMap::with_capacity(total));
        let mut index = Self { mounts, members: HashMap::new(), on };
        for (number, namespace) in machine.namespaces.iter().enumerate() {
            for mount in &namespace.table.mounts {
                index.mounts.insert(mount.id, (number, mount));
                index.on.insert((mount.parent, mount.mount_point.as_os_str()), mount.id);
                if let Some(group) = mount.propagation.peer_group {
                    index.members.entry(group).or_default().push(mount.id);
                }
            }
        }
        index
    }

    /// A mount and the namespace that it is in.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<(usize, &'m Mount)> {
        self.mounts.get(&id).copied()
    }

    /// The mount on a parent at a mount point.
    #[must_use]
    pub fn on(&self, parent: u64, place: &Path) -> Option<u64> {
        self.on.get(&(parent, place.as_os_str())).copied()
    }

    /// The mounts of a peer group, in the order of the namespaces.
    #[must_use]
    pub fn members(&self, group: u64) -> &[u64] {
        self.members.get(&group).map_or(&[], Vec::as_slice)
    }

    /// Every other mount that shows the same directory as a mount, with its namespace, in the order of the namespaces.
    pub(super) fn copies(&self, id: u64) -> Vec<(usize, &'m Mount)> {
        let Some((_, of)) = self.get(id) else { return Vec::new() };
        let same = |mount: &Mount| mount.id != id && mount.device == of.device && mount.root == of.root;
        let mut copies: Vec<_> =
            self.mounts.values().copied().filter(|(_, m)| same(m) && m.root_deleted == of.root_deleted).collect();
        copies.sort_by_key(|(namespace, mount)| (*namespace, mount.id));
        copies
    }

    /// The peer groups that a mount receives from, the nearest first, each with the mount that is its slave.
    pub(super) fn above(&self, id: u64) -> Vec<(u64, u64)> {
        let mut groups: Vec<(u64, u64)> = Vec::new();
        let mut at = id;
        while let Some(master) = self.get(at).and_then(|(_, mount)| mount.propagation.master)
            && groups.iter().all(|(group, _)| *group != master)
        {
            groups.push((master, at));
            let Some(&next) = self.members(master).first() else { break };
            at = next;
        }
        groups
    }
}
