//! Finds the mounts that an event at a path may come from or go to. Pure.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use model::machine::Machine;
use mounts::mountinfo::Mount;

use super::select::Chosen;

/// Adds the mounts that the chosen ones are linked to, in all namespaces. These are the mounts of the same peer groups, of their
/// masters and slaves, and of the masters and slaves of those, as far as they show the directory at the path or a part of it.
#[must_use]
pub fn with_linked(machine: &Machine, chosen: Vec<Chosen>, path: &Path) -> Vec<Chosen> {
    let nets = Nets::of(machine);
    // Per net and device.
    let mut wanted: HashMap<(u64, (u32, u32)), Directories> = HashMap::new();
    for one in &chosen {
        let mounts = machine.namespaces.get(one.namespace).map_or(&[][..], |namespace| &namespace.table.mounts);
        for (_, mount) in mounts.iter().enumerate().filter(|(n, _)| one.shows(*n)) {
            let Some(net) = nets.of_mount(mount) else { continue };
            // Of the mount that the path lies on, only what lies at the path.
            let directory = match path.strip_prefix(&mount.mount_point) {
                Ok(rest) if !rest.as_os_str().is_empty() => mount.root.join(rest),
                _ => mount.root.clone(),
            };
            wanted.entry((net, mount.device)).or_default().add(directory);
        }
    }
    let is_linked = |mount: &Mount| {
        let directories = nets.of_mount(mount).and_then(|net| wanted.get(&(net, mount.device)));
        directories.is_some_and(|directories| directories.meet(&mount.root))
    };
    let mut all: BTreeMap<usize, Chosen> = chosen.into_iter().map(|chosen| (chosen.namespace, chosen)).collect();
    for (number, namespace) in machine.namespaces.iter().enumerate() {
        let mounts = namespace.table.mounts.iter().enumerate();
        let before = all.get(&number);
        let shown = |n: usize| before.is_some_and(|chosen| chosen.shows(n));
        let mounts: Vec<bool> = mounts.map(|(n, mount)| shown(n) || is_linked(mount)).collect();
        if mounts.contains(&true) {
            all.insert(number, Chosen { namespace: number, mounts: Some(mounts) });
        }
    }
    all.into_values().collect()
}

/// Directories of a file system.
#[derive(Default)]
struct Directories {
    all: HashSet<PathBuf>,
    /// These directories and their ancestors.
    above: HashSet<PathBuf>,
}

impl Directories {
    fn add(&mut self, directory: PathBuf) {
        self.above.extend(directory.ancestors().map(Path::to_owned));
        self.all.insert(directory);
    }

    /// Whether one of them contains this directory, or is in it.
    fn meet(&self, directory: &Path) -> bool {
        self.above.contains(directory) || directory.ancestors().any(|above| self.all.contains(above))
    }
}

/// Sets of peer groups that are linked by mounts which are slaves of one group and members of another. Each set is named by
/// one of its groups.
struct Nets(HashMap<u64, u64>);

impl Nets {
    fn of(machine: &Machine) -> Self {
        let mut ties: HashMap<u64, Vec<u64>> = HashMap::new();
        for mount in machine.namespaces.iter().flat_map(|namespace| &namespace.table.mounts) {
            let (group, master) = (mount.propagation.peer_group, mount.propagation.master);
            for group in [group, master].into_iter().flatten() {
                ties.entry(group).or_default();
            }
            if let (Some(group), Some(master)) = (group, master) {
                ties.entry(group).or_default().push(master);
                ties.entry(master).or_default().push(group);
            }
        }
        let mut nets = HashMap::new();
        for &first in ties.keys() {
            let mut groups = vec![first];
            while let Some(group) = groups.pop() {
                if let Entry::Vacant(vacant) = nets.entry(group) {
                    vacant.insert(first);
                    groups.extend(ties.get(&group).into_iter().flatten());
                }
            }
        }
        Self(nets)
    }

    fn of_mount(&self, mount: &Mount) -> Option<u64> {
        let group = mount.propagation.peer_group.or(mount.propagation.master)?;
        self.0.get(&group).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::select::tests::{listed, none};
    use super::super::select::{Filter, choose};
    use super::*;
    use model::machine::Namespace;
    use mounts::mountinfo;

    #[test]
    fn with_a_path_comes_what_it_is_linked_to() {
        let of =
            |inode, text: &str| Namespace { inode, table: mountinfo::parse(text.as_bytes()), ..Namespace::default() };
        let machine = Machine {
            namespaces: vec![
                of(
                    10,
                    "1 0 8:1 / / rw shared:1 - ext4 d rw\n2 1 0:2 / /mnt/media rw shared:2 - t t rw\n\
                     3 2 0:3 / /mnt/media/cd rw shared:3 - t t rw\n4 1 0:4 / /other rw shared:4 - t t rw\n",
                ),
                // A pod whose slave is a master of others, and which has a private one of the same file system.
                of(
                    20,
                    "11 0 0:9 / / rw - t t rw\n12 11 0:2 / /data rw shared:5 master:2 - t t rw\n\
                     13 12 0:3 / /data/cd rw master:3 - t t rw\n14 11 0:2 / /apart rw - t t rw\n",
                ),
                of(30, "21 0 0:9 / / rw - t t rw\n22 21 0:2 /films /films rw master:5 - t t rw\n"),
                // Slaves of the node's root: one shows all of it, one a part that is not asked for, one a part that is.
                of(
                    40,
                    "31 0 8:1 / / rw master:1 - ext4 d rw\n32 31 8:1 /etc /etc rw master:1 - ext4 d rw\n\
                     33 31 8:1 /mnt/new/x /x rw master:1 - ext4 d rw\n",
                ),
            ],
            left_out: vec![],
        };
        let at = |filter: &Filter| {
            let path = filter.path.clone().unwrap();
            listed(&machine, &with_linked(&machine, choose(&machine, filter).unwrap(), &path))
        };
        let path = |path: &str| Filter { path: Some(path.into()), ..none() };
        assert_eq!(at(&path("/mnt/media")), ["10: 2 3", "20: 12 13", "30: 22"]);
        assert_eq!(at(&path("/mnt/media/cd")), ["10: 3", "20: 13"]);
        assert_eq!(at(&path("/mnt/media/games")), ["10: 2", "20: 12"], "who shows another part isn't concerned");
        assert_eq!(at(&path("/mnt/new")), ["10: 1", "40: 31 33"]);
        let from_the_slave = Filter { namespace: Some(30), ..path("/films") };
        assert_eq!(at(&from_the_slave), ["10: 2", "20: 12", "30: 22"], "masters as well as slaves");
        let private = Filter { namespace: Some(20), ..path("/apart") };
        assert_eq!(at(&private), ["20: 14"]);
    }
}
