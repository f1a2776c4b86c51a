//! Who receives an event of which mount, for all mounts at once and without saying it N² times.
//!
//! The answers are those of [`Forest::receivers`]. Mounts of one peer group that show the same directory have the same
//! receivers, in the same relation of groups; they are one [`Class`], and one of them is asked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::machine::Machine;
use crate::subtrees::{Forest, Hop, Receiver};
use crate::tree::mountinfo::Mount;

/// Of so many directories beneath a mount's root it is asked who receives an event there.
const PARTS: usize = 48;

/// Who receives what, of a machine. Mounts are numbered through all namespaces.
#[derive(Debug, Default)]
pub struct Reach {
    /// The different answers.
    pub classes: Vec<Class>,
    /// Each mount's class. None: nobody but the mount itself.
    pub of: Vec<Option<usize>>,
    /// For each mount, the id of the one that covers it, so that no path leads to it.
    pub covered: Vec<Option<u64>>,
    /// The ways that events take.
    pub ways: Vec<Vec<Link>>,
}

/// The answer for some mounts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Who receives an event at the mount's root directory, with the number of the way: the mounts of the class too,
    /// which receive each other's events.
    pub receivers: Vec<(usize, usize)>,
    /// Who receives only what happens at or beneath a directory, by the path from the mount's root on.
    pub parts: Vec<(PathBuf, Vec<(usize, usize)>)>,
    /// How many such directories were not asked about.
    pub more_parts: usize,
    /// Why this may not be all.
    pub doubt: Option<String>,
}

/// A step of an event from group to group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// To another member of the group.
    Peer(u64),
    /// To a slave of the group.
    Slave(u64),
}

impl Reach {
    /// Asks the forest, which must be that of the machine.
    #[must_use]
    pub fn of(machine: &Machine, forest: &Forest) -> Self {
        let mounts: Vec<(usize, &Mount)> = machine
            .namespaces
            .iter()
            .enumerate()
            .flat_map(|(namespace, of)| of.table.mounts.iter().map(move |mount| (namespace, mount)))
            .collect();
        let mut reach = Self { of: vec![None; mounts.len()], ..Self::default() };
        reach.covered = mounts.iter().map(|&(namespace, mount)| covering(forest, namespace, mount)).collect();
        let mut numbers = HashMap::with_capacity(mounts.len());
        for (n, &(namespace, mount)) in mounts.iter().enumerate() {
            numbers.entry((namespace, mount.id)).or_insert(n);
        }
        let mut asker = Asker { forest, numbers, links: Links::of(&mounts), mounts: &mounts, ways: HashMap::new() };
        let mut alike: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (n, &(namespace, mount)) in mounts.iter().enumerate() {
            // A table that was torn while it was read may name a mount twice.
            if asker.numbers.get(&(namespace, mount.id)) != Some(&n) {
                continue;
            }
            // A private mount is only like itself, and a deleted directory, which has no name, as well.
            let alone = (mount.propagation.peer_group.is_none() || mount.root_deleted).then_some(n);
            let key = (mount.propagation.peer_group, mount.device, &mount.root, alone);
            alike.entry(key).or_default().push(n);
        }
        for members in alike.into_values() {
            // One to which a path leads, if there is any.
            let Some(&one) = members.iter().find(|&&n| reach.covered[n].is_none()).or(members.first()) else {
                continue;
            };
            let class = asker.class(one, reach.covered[one].is_some());
            let nobody =
                class.receivers.iter().all(|&(n, _)| n == one) && class.parts.is_empty() && class.doubt.is_none();
            if !nobody {
                members.iter().for_each(|&n| reach.of[n] = Some(reach.classes.len()));
                reach.classes.push(class);
            }
        }
        let mut ways: Vec<(Vec<Link>, usize)> = asker.ways.into_iter().collect();
        ways.sort_by_key(|(_, number)| *number);
        reach.ways = ways.into_iter().map(|(way, _)| way).collect();
        reach
    }
}

fn covering(forest: &Forest, namespace: usize, mount: &Mount) -> Option<u64> {
    let place = mount.mount_point.clone();
    forest.covered(&Receiver { namespace, mount: mount.id, place, via: Vec::new() })
}

/// The mounts of the peer groups, and what each group passes events on to.
struct Links {
    members: HashMap<u64, Vec<usize>>,
    slaves: HashMap<u64, Vec<usize>>,
}

impl Links {
    fn of(mounts: &[(usize, &Mount)]) -> Self {
        let mut links = Self { members: HashMap::new(), slaves: HashMap::new() };
        for (n, (_, mount)) in mounts.iter().enumerate() {
            if let Some(group) = mount.propagation.peer_group {
                links.members.entry(group).or_default().push(n);
            }
            if let Some(master) = mount.propagation.master {
                links.slaves.entry(master).or_default().push(n);
            }
        }
        links
    }
}

struct Asker<'a, 'm> {
    forest: &'a Forest,
    mounts: &'a [(usize, &'m Mount)],
    numbers: HashMap<(usize, u64), usize>,
    links: Links,
    ways: HashMap<Vec<Link>, usize>,
}

impl Asker<'_, '_> {
    fn class(&mut self, one: usize, covered: bool) -> Class {
        let (namespace, mount) = self.mounts[one];
        if covered {
            let doubt = "no path leads to it: another mount covers it".to_owned();
            return Class { receivers: vec![], doubt: Some(doubt), ..Class::default() };
        }
        let (receivers, doubt) = self.ask(one, namespace, &mount.mount_point);
        let mut class = Class { receivers, doubt, ..Class::default() };
        let whole: HashSet<usize> = class.receivers.iter().map(|&(n, _)| n).collect();
        let roots = self.roots_beneath(one);
        class.more_parts = roots.len().saturating_sub(PARTS);
        for below in roots.into_iter().take(PARTS) {
            let (mut receivers, _) = self.ask(one, namespace, &mount.mount_point.join(&below));
            receivers.retain(|(n, _)| !whole.contains(n));
            if !receivers.is_empty() {
                class.parts.push((below, receivers));
            }
        }
        class
    }

    /// Who receives a mount made at a path, which must lead to the mount `one`; else nobody.
    fn ask(&mut self, one: usize, namespace: usize, path: &Path) -> (Vec<(usize, usize)>, Option<String>) {
        let (known, doubt) = match self.forest.receivers(namespace, path) {
            Ok(known) => (known, None),
            Err(unknown) => (unknown.known.clone(), Some(unknown.to_string())),
        };
        if known.first().is_some_and(|first| first.mount != self.mounts[one].1.id) {
            return (Vec::new(), doubt);
        }
        let group = self.mounts[one].1.propagation.peer_group;
        let mut found = Vec::with_capacity(known.len());
        for receiver in known {
            let Some(&number) = self.numbers.get(&(receiver.namespace, receiver.mount)) else { continue };
            let mut way: Vec<Link> = receiver
                .via
                .iter()
                .map(|hop| match *hop {
                    Hop::Peer { group, .. } => Link::Peer(group),
                    Hop::Slave { master, .. } => Link::Slave(master),
                })
                .collect();
            if way.is_empty() {
                // To the others of its class it is a peer as they are to it.
                way.extend(group.map(Link::Peer));
            }
            let next = self.ways.len();
            found.push((number, *self.ways.entry(way).or_insert(next)));
        }
        (found, doubt)
    }

    /// The roots, of mounts that an event may come to, that lie beneath the root of `one`: by the path from there on.
    fn roots_beneath(&self, one: usize) -> BTreeSet<PathBuf> {
        let mount = self.mounts[one].1;
        let mut groups: Vec<u64> = mount.propagation.peer_group.into_iter().collect();
        let mut seen: HashSet<u64> = groups.iter().copied().collect();
        let mut roots = BTreeSet::new();
        while let Some(group) = groups.pop() {
            let all = [self.links.members.get(&group), self.links.slaves.get(&group)];
            for &n in all.into_iter().flatten().flatten() {
                let other = self.mounts[n].1;
                if other.device == mount.device
                    && !other.root_deleted
                    && let Ok(below) = other.root.strip_prefix(&mount.root)
                    && !below.as_os_str().is_empty()
                {
                    roots.insert(below.to_owned());
                }
                groups.extend(other.propagation.peer_group.filter(|&group| seen.insert(group)));
            }
        }
        roots
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::machine;

    fn reach(tables: &[&str]) -> Reach {
        let machine = machine(tables);
        Reach::of(&machine, &Forest::of(&machine))
    }

    #[test]
    fn peers_that_show_the_same_are_one_class() {
        let reach = reach(&[
            "1 0 0:1 / / rw shared:1 - t t rw\n2 1 0:1 / /a rw shared:1 - t t rw\n3 1 0:2 / /b rw - t t rw\n",
            "4 0 0:1 / / rw shared:2 master:1 - t t rw\n",
            "5 0 0:1 / / rw master:2 - t t rw\n",
        ]);
        assert_eq!(reach.of, [Some(0), Some(0), None, Some(1), None]);
        let way = |class: usize| -> Vec<(usize, &[Link])> {
            reach.classes[class].receivers.iter().map(|&(n, way)| (n, reach.ways[way].as_slice())).collect()
        };
        use Link::{Peer, Slave};
        assert_eq!(way(0), [(0, &[Peer(1)][..]), (1, &[Peer(1)]), (3, &[Slave(1)]), (4, &[Slave(1), Slave(2)])]);
        assert_eq!(way(1), [(3, &[Peer(2)][..]), (4, &[Slave(2)])]);
    }

    #[test]
    fn who_shows_a_part_receives_what_happens_there() {
        let reach = reach(&[
            "1 0 0:1 / / rw shared:1 - t t rw\n",
            "2 0 0:9 / / rw - t t rw\n3 2 0:1 /srv/data /data rw master:1 - t t rw\n4 2 0:1 /srv/data/x /x rw shared:1 - t t rw\n",
        ]);
        let class = &reach.classes[reach.of[0].unwrap()];
        assert_eq!(
            class.receivers.iter().map(|r| r.0).collect::<Vec<_>>(),
            [0],
            "an event at its root is received by nobody else"
        );
        let parts: Vec<(&Path, Vec<usize>)> =
            class.parts.iter().map(|(path, all)| (path.as_path(), all.iter().map(|r| r.0).collect())).collect();
        assert_eq!(parts, [(Path::new("srv/data"), vec![2]), (Path::new("srv/data/x"), vec![3, 2])]);
        // The deeper one passes everything on to who shows more.
        let deeper = &reach.classes[reach.of[3].unwrap()];
        assert_eq!(deeper.receivers.iter().map(|r| r.0).collect::<BTreeSet<_>>(), BTreeSet::from([0, 2, 3]));
    }

    #[test]
    fn what_is_covered_and_what_is_not_known_is_said() {
        let reach = reach(&[
            "1 0 0:1 / / rw - t t rw\n2 1 0:2 / /a rw shared:2 - t t rw\n3 2 0:3 / /a rw shared:3 - t t rw\n",
            "4 0 0:1 / / rw - t t rw\n5 4 0:3 / /a rw master:99 - t t rw\n6 4 0:3 /gone//deleted /b rw shared:3 - t t rw\n",
        ]);
        assert_eq!(reach.covered, [None, Some(3), None, None, None, None]);
        let doubt = |n: usize| reach.of[n].and_then(|class| reach.classes[class].doubt.as_deref()).unwrap_or_default();
        assert!(doubt(1).contains("no path leads to it"));
        assert!(doubt(2).contains("peer group 99, of which no mount was seen"), "{}", doubt(2));
        assert!(doubt(5).contains("deleted"), "{}", doubt(5));
    }

    #[test]
    fn a_mount_that_a_torn_table_names_twice_is_one() {
        let line = "1 0 0:1 / / rw shared:1 - t t rw\n";
        let reach = reach(&[&line.repeat(2), "2 0 0:1 / / rw master:1 - t t rw\n"]);
        assert_eq!(reach.of[1], None);
    }
}
