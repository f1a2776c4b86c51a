//! The receivers of each mount's events, for all mounts, in less than N² space.
//!
//! They are computed by [`Forest::receivers`]. Mounts of one peer group that show the same directory have the same receivers.
//! They are one [`Class`], which is computed once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use model::machine::{Machine, Namespace};
use model::subtrees::{Forest, Hop, Receiver};
use mounts::mountinfo::Mount;

/// How many directories beneath a mount's root are computed.
const PARTS: usize = 48;

/// The receivers of all shown mounts. Mounts are numbered across all namespaces.
#[derive(Debug, Default)]
pub struct Reach {
    /// The classes.
    pub classes: Vec<Class>,
    /// Each mount's class. None: it has no other receivers.
    pub of: Vec<Option<usize>>,
    /// For each mount, the id of the mount that hides it.
    pub covered: Vec<Option<u64>>,
    /// The paths of events, as steps from group to group.
    pub ways: Vec<Vec<Link>>,
}

/// The shown receivers, each with the number of its path; and how many are not shown.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Receivers {
    /// Those that are shown.
    pub shown: Vec<(usize, usize)>,
    /// How many others there are.
    pub others: usize,
}

/// The receivers for some mounts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// The receivers of an event at the mount's root directory. They include the mounts of the class themselves.
    pub receivers: Receivers,
    /// The receivers of events at or beneath a directory only, by the path from the mount's root.
    pub parts: Vec<(PathBuf, Receivers)>,
    /// How many directories were not computed.
    pub more_parts: usize,
    /// Why this may be incomplete.
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
    /// Computes the receivers of the shown mounts. The whole machine is needed: an event may pass through mounts that are not
    /// shown.
    #[must_use]
    pub fn of(shown: &Machine, whole: &Machine) -> Self {
        let forest = &Forest::of(whole);
        let mounts = numbered(whole);
        let shown_as = shown_as(shown, whole, &mounts);
        let count = shown.namespaces.iter().map(|namespace| namespace.table.mounts.len()).sum();
        let mut reach = Self { of: vec![None; count], covered: vec![None; count], ..Self::default() };
        let mut covered = vec![None; mounts.len()];
        for (n, &(namespace, mount)) in mounts.iter().enumerate() {
            if let Some(number) = shown_as[n] {
                covered[n] = covering(forest, namespace, mount);
                reach.covered[number] = covered[n];
            }
        }
        let mut numbers = HashMap::with_capacity(mounts.len());
        for (n, &(namespace, mount)) in mounts.iter().enumerate() {
            numbers.entry((namespace, mount.id)).or_insert(n);
        }
        let links = Links::of(&mounts);
        let mut asker = Asker { forest, numbers, links, mounts: &mounts, shown_as: &shown_as, ways: HashMap::new() };
        let mut alike: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (n, &(namespace, mount)) in mounts.iter().enumerate() {
            // A table that was torn while it was read may name a mount twice.
            if shown_as[n].is_none() || asker.numbers.get(&(namespace, mount.id)) != Some(&n) {
                continue;
            }
            // A private mount is only like itself, and a deleted directory, which has no name, as well.
            let alone = (mount.propagation.peer_group.is_none() || mount.root_deleted).then_some(n);
            let key = (mount.propagation.peer_group, mount.device, &mount.root, alone);
            alike.entry(key).or_default().push(n);
        }
        for members in alike.into_values() {
            // One to which a path leads, if there is any.
            let Some(&one) = members.iter().find(|&&n| covered[n].is_none()).or(members.first()) else {
                continue;
            };
            let class = asker.class(one, covered[one].is_some());
            let alone = class.receivers.others == 0
                && class.receivers.shown.iter().all(|&(number, _)| Some(number) == shown_as[one]);
            if !(alone && class.parts.is_empty() && class.doubt.is_none()) {
                for number in members.iter().filter_map(|&n| shown_as[n]) {
                    reach.of[number] = Some(reach.classes.len());
                }
                reach.classes.push(class);
            }
        }
        let mut ways: Vec<(Vec<Link>, usize)> = asker.ways.into_iter().collect();
        ways.sort_by_key(|(_, number)| *number);
        reach.ways = ways.into_iter().map(|(way, _)| way).collect();
        reach
    }
}

/// All mounts, each with the number of its namespace.
fn numbered(machine: &Machine) -> Vec<(usize, &Mount)> {
    let with = |(number, of): (usize, &'_ Namespace)| (number, of.table.mounts.len());
    let namespaces = machine.namespaces.iter().enumerate().map(with);
    let numbers = namespaces.flat_map(|(number, mounts)| std::iter::repeat_n(number, mounts));
    numbers.zip(machine.namespaces.iter().flat_map(|namespace| &namespace.table.mounts)).collect()
}

/// For each mount of the whole machine, its number among the shown ones, which are in the same order.
fn shown_as(shown: &Machine, whole: &Machine, mounts: &[(usize, &Mount)]) -> Vec<Option<usize>> {
    let mut numbers = vec![None; mounts.len()];
    let (mut next, mut first) = (0, 0);
    let mut namespaces = whole.namespaces.iter();
    for part in &shown.namespaces {
        // The mounts of the namespaces before it, and of its own.
        let mut all = 0..0;
        let is_same = |of: &Namespace| {
            let one = part.table.mounts.first().map(|mount| mount.id);
            (of.inode, &of.processes) == (part.inode, &part.processes)
                && one.is_none_or(|one| of.table.mounts.iter().any(|mount| mount.id == one))
        };
        for of in namespaces.by_ref() {
            all = first..first + of.table.mounts.len();
            first = all.end;
            if is_same(of) {
                break;
            }
            all.start = all.end;
        }
        for mount in &part.table.mounts {
            if let Some(n) = all.find(|&n| mounts[n].1.id == mount.id) {
                numbers[n] = Some(next);
            }
            next += 1;
        }
    }
    numbers
}

fn covering(forest: &Forest, namespace: usize, mount: &Mount) -> Option<u64> {
    let place = mount.mount_point.clone();
    forest.covered(&Receiver { namespace, mount: mount.id, place, via: Vec::new() })
}

/// The mounts of each peer group, and the groups and slaves that it passes events on to.
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
    shown_as: &'a [Option<usize>],
    ways: HashMap<Vec<Link>, usize>,
}

impl Asker<'_, '_> {
    fn class(&mut self, one: usize, covered: bool) -> Class {
        let (namespace, mount) = self.mounts[one];
        if covered {
            let doubt = "no path leads to it: another mount covers it".to_owned();
            return Class { doubt: Some(doubt), ..Class::default() };
        }
        let (receivers, doubt) = self.ask(one, namespace, &mount.mount_point);
        let whole: HashSet<usize> = receivers.iter().map(|&(n, _)| n).collect();
        let mut class = Class { receivers: self.visible(&receivers), doubt, ..Class::default() };
        let roots = self.roots_beneath(one);
        class.more_parts = roots.len().saturating_sub(PARTS);
        for below in roots.into_iter().take(PARTS) {
            let (mut receivers, _) = self.ask(one, namespace, &mount.mount_point.join(&below));
            receivers.retain(|(n, _)| !whole.contains(n));
            if !receivers.is_empty() {
                class.parts.push((below, self.visible(&receivers)));
            }
        }
        class
    }

    /// Of mounts numbered through the whole machine, those that are shown.
    fn visible(&self, all: &[(usize, usize)]) -> Receivers {
        let shown: Vec<(usize, usize)> = all.iter().filter_map(|&(n, way)| Some((self.shown_as[n]?, way))).collect();
        Receivers { others: all.len() - shown.len(), shown }
    }

    /// The receivers of a mount made at a path. None if the path is not on the mount `one`.
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
        Reach::of(&machine, &machine)
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
            reach.classes[class].receivers.shown.iter().map(|&(n, way)| (n, reach.ways[way].as_slice())).collect()
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
            class.receivers.shown.iter().map(|r| r.0).collect::<Vec<_>>(),
            [0],
            "an event at its root is received by nobody else"
        );
        let parts: Vec<(&Path, Vec<usize>)> =
            class.parts.iter().map(|(path, all)| (path.as_path(), all.shown.iter().map(|r| r.0).collect())).collect();
        assert_eq!(parts, [(Path::new("srv/data"), vec![2]), (Path::new("srv/data/x"), vec![3, 2])]);
        // The deeper one passes everything on to who shows more.
        let deeper = &reach.classes[reach.of[3].unwrap()];
        assert_eq!(deeper.receivers.shown.iter().map(|r| r.0).collect::<BTreeSet<_>>(), BTreeSet::from([0, 2, 3]));
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
    fn what_is_not_shown_passes_events_on_and_is_counted() {
        let whole = machine(&[
            "1 0 0:9 / / rw - t t rw\n2 1 0:1 / /srv rw shared:1 - t t rw\n3 1 0:1 / /too rw shared:1 - t t rw\n",
            "4 0 0:9 / / rw - t t rw\n5 4 0:1 / /relay rw shared:2 master:1 - t t rw\n",
            "6 0 0:9 / / rw - t t rw\n7 6 0:1 / /data rw master:2 - t t rw\n8 6 0:1 /a /a rw master:1 - t t rw\n",
        ]);
        let mut shown = whole.clone();
        shown.namespaces.remove(1);
        for namespace in &mut shown.namespaces {
            namespace.table.mounts.retain(|mount| [2, 7].contains(&mount.id));
        }
        let reach = Reach::of(&shown, &whole);
        let class = &reach.classes[reach.of[0].unwrap()];
        let way: &[Link] = &reach.ways[class.receivers.shown[1].1];
        assert_eq!((class.receivers.shown[1].0, way), (1, &[Link::Slave(1), Link::Slave(2)][..]));
        assert_eq!(class.receivers.others, 2, "/too and /relay");
        assert_eq!(class.doubt, None);
        assert_eq!(class.parts, [(PathBuf::from("a"), Receivers { shown: vec![], others: 1 })]);
        // What nobody receives that is shown, but somebody else.
        shown.namespaces.truncate(1);
        let reach = Reach::of(&shown, &whole);
        let class = &reach.classes[reach.of[0].unwrap()];
        assert_eq!((class.receivers.shown.len(), class.receivers.others), (1, 3));
    }

    #[test]
    fn a_mount_that_a_torn_table_names_twice_is_one() {
        let line = "1 0 0:1 / / rw shared:1 - t t rw\n";
        let reach = reach(&[&line.repeat(2), "2 0 0:1 / / rw master:1 - t t rw\n"]);
        assert_eq!(reach.of[1], None);
    }
}
