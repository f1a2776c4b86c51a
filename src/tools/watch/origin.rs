//! Groups changes into events: a mount and its copies, and how each copy got there. Pure.
//!
//! Copies are recognised by how the kernel makes them (fs/pnode.c, `propagate_mnt`): all are mounted on the same directory of the
//! same file system, on parents that are peers or slaves of the original's parent, and show the same. This is read from the
//! tables after the event (for an unmount, before it), not predicted. Two things can't be told: among peers, the original is
//! known only from the kernel's unique ids; and a mount from a namespace that we can't see has no origin.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use model::machine::Machine;
use mounts::mountinfo::{Mount, Table};

use super::diff::{Change, ChangeKind};

/// A relation along which an event is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// Between peers of this group.
    Peer(u64),
    /// From this peer group to a slave of it.
    Slave(u64),
}

/// A mount point in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPointIn {
    /// The namespace, by its index in [`Machine::namespaces`].
    pub namespace: usize,
    /// The mount point there.
    pub path: PathBuf,
}

/// A step back towards the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Along which relation.
    pub link: Link,
    /// From which copy. None: the group's mounts do not show the directory and only pass the event on.
    pub from: Option<MountPointIn>,
}

/// The cause of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It was mounted here.
    Made,
    /// It was mounted here or at another peer of this group; the tables are the same in both cases.
    MadeAmongPeers(u64),
    /// It was mounted here, or came from this peer group, whose mounts we can't see.
    MadeOrUnseen(u64),
    /// It came from the origin. The steps lead back to it.
    Came(Vec<Step>),
}

/// A change with its cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CausedChange {
    /// The change.
    pub change: Change,
    /// Its cause.
    pub cause: Cause,
}

/// A changed mount, with the peer group and master of its parent.
#[derive(Debug)]
struct Member {
    change: Change,
    group: Option<u64>,
    master: Option<u64>,
}

/// What copies of one mount have in common: the directory that they are mounted on, and what they show.
type Key = (bool, (u32, u32), PathBuf, (u32, u32), PathBuf);

/// The peer groups of the machine.
#[derive(Debug, Default)]
struct Groups {
    /// The groups with a known member, and their master group. All members have the same.
    seen: HashMap<u64, Option<u64>>,
}

impl Groups {
    fn add(&mut self, table: &Table) {
        for mount in &table.mounts {
            if let Some(group) = mount.propagation.peer_group {
                self.seen.insert(group, mount.propagation.master);
            }
        }
    }
}

/// The changes of a round as events. Each event begins with its origin, if known. `before` has the earlier tables of the
/// namespaces that have changed, `machine` all current ones.
#[must_use]
pub fn events(machine: &Machine, before: &HashMap<usize, Table>, changes: Vec<Change>) -> Vec<Vec<CausedChange>> {
    let mut groups = Groups::default();
    let mut parents: HashMap<(bool, usize, u64), &Mount> = HashMap::new();
    for (index, table) in before {
        groups.add(table);
        parents.extend(table.mounts.iter().map(|m| ((false, *index, m.id), m)));
    }
    for (index, namespace) in machine.namespaces.iter().enumerate() {
        groups.add(&namespace.table);
        if before.contains_key(&index) || changes.iter().any(|change| change.namespace == index) {
            parents.extend(namespace.table.mounts.iter().map(|m| ((true, index, m.id), m)));
        }
    }
    let mut together: Vec<Vec<Member>> = Vec::new();
    let mut by_key: HashMap<Key, usize> = HashMap::new();
    for change in changes {
        let goes = change.kind == ChangeKind::Unmounted;
        let find = |now| parents.get(&(now, change.namespace, change.mount.parent));
        // What went lay on what there was before; what came lies on what there is now.
        let parent = if goes { find(false).or_else(|| find(true)) } else { find(true).or_else(|| find(false)) };
        let parent = parent.filter(|parent| parent.id != change.mount.id);
        let key = parent.and_then(|parent| {
            let on = parent.shown_at(&change.mount.mount_point)?;
            Some((goes, parent.device, on, change.mount.device, change.mount.root.clone()))
        });
        let (group, master) = parent.map_or((None, None), |p| (p.propagation.peer_group, p.propagation.master));
        let member = Member { change, group, master };
        let next = together.len();
        let at = key.map_or(next, |key| *by_key.entry(key).or_insert(next));
        match together.get_mut(at) {
            Some(all) => all.push(member),
            None => together.push(vec![member]),
        }
    }
    together.into_iter().flat_map(|members| split(&groups, members)).collect()
}

/// The nearest group above a change in which the event was seen too, as the groups on the way to it.
enum Above {
    /// This one.
    Group(Vec<u64>),
    /// There is none.
    None,
    /// It may have come from this one.
    Unseen(u64),
}

fn above(groups: &Groups, with_members: &HashSet<u64>, member: &Member) -> Above {
    let mut steps = Vec::new();
    let mut master = member.master;
    while let Some(group) = master {
        // A cycle is no state of the kernel's, but tables are read one after the other.
        if steps.contains(&group) {
            break;
        }
        steps.push(group);
        if with_members.contains(&group) {
            return Above::Group(steps);
        }
        match groups.seen.get(&group) {
            Some(next) => master = *next,
            None => return Above::Unseen(group),
        }
    }
    Above::None
}

/// Splits changes at the same directory that show the same into one event for each origin.
fn split(groups: &Groups, members: Vec<Member>) -> Vec<Vec<CausedChange>> {
    let mut by_group: HashMap<u64, Vec<usize>> = HashMap::new();
    for (index, member) in members.iter().enumerate() {
        if let Some(group) = member.group {
            by_group.entry(group).or_default().push(index);
        }
    }
    // The one of a group that passes the event on, as far as can be told: the first that there was.
    let first = |all: &[usize]| {
        let known = all.iter().all(|&index| members[index].change.unique.is_some());
        let first = all.iter().copied().min_by_key(|&index| if known { members[index].change.unique } else { None });
        (first, known)
    };
    let with_members: HashSet<u64> = by_group.keys().copied().collect();
    let above: Vec<Above> = members.iter().map(|member| above(groups, &with_members, member)).collect();
    let place = |index: usize| {
        let Change { namespace, mount, .. } = &members[index].change;
        MountPointIn { namespace: *namespace, path: mount.mount_point.clone() }
    };
    let mut events: Vec<(usize, Vec<(usize, Cause)>)> = Vec::new();
    let mut causes: Vec<(usize, usize, Cause)> = Vec::new();
    for index in 0..members.len() {
        let mut steps = Vec::new();
        let mut at = index;
        // From group to group up to the first; each is left once.
        let mut left = HashSet::new();
        while let Above::Group(way) = &above[at] {
            let Some((&last, between)) = way.split_last().filter(|(last, _)| left.insert(**last)) else { break };
            let Some(from) = by_group.get(&last).and_then(|all| first(all).0) else { break };
            steps.extend(between.iter().map(|&group| Step { link: Link::Slave(group), from: None }));
            steps.push(Step { link: Link::Slave(last), from: Some(place(from)) });
            at = from;
        }
        let peers = members[at].group.and_then(|group| Some((group, by_group.get(&group)?)));
        let (origin, certain) = peers.map_or((Some(at), true), |(_, all)| first(all));
        let origin = origin.unwrap_or(at);
        let cause = match (&above[at], peers) {
            _ if !steps.is_empty() => Cause::Came(steps),
            (_, Some((group, _))) if origin != index => {
                Cause::Came(vec![Step { link: Link::Peer(group), from: Some(place(origin)) }])
            }
            (Above::Unseen(group), _) => Cause::MadeOrUnseen(*group),
            (_, Some((group, all))) if all.len() > 1 && !certain => Cause::MadeAmongPeers(group),
            _ => Cause::Made,
        };
        causes.push((origin, index, cause));
    }
    for (origin, index, cause) in causes {
        match events.iter_mut().find(|(of, _)| *of == origin) {
            Some((_, all)) => all.push((index, cause)),
            None => events.push((origin, vec![(index, cause)])),
        }
    }
    let mut changes: Vec<Option<Change>> = members.into_iter().map(|member| Some(member.change)).collect();
    let told = |(origin, mut all): (usize, Vec<(usize, Cause)>)| {
        all.sort_by_key(|(index, _)| *index != origin);
        let told =
            all.into_iter().filter_map(|(index, cause)| Some(CausedChange { change: changes[index].take()?, cause }));
        told.collect()
    };
    events.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::diff;
    use model::machine::Namespace;
    use mounts::mountinfo::parse;

    fn machine(tables: &[&[&str]]) -> Machine {
        let namespaces = tables
            .iter()
            .map(|lines| {
                // id, parent, device, root, mount point, optional fields with commas.
                let line = |line: &&str| {
                    let f: Vec<&str> = line.split(' ').collect();
                    let relations = f.get(5).map_or(String::new(), |r| format!("{} ", r.replace(',', " ")));
                    format!("{} {} 0:{} {} {} rw {relations}- tmpfs t rw\n", f[0], f[1], f[2], f[3], f[4])
                };
                let table = parse(lines.iter().map(line).collect::<String>().as_bytes());
                assert_eq!(table.skipped, 0);
                Namespace { table, ..Namespace::default() }
            })
            .collect();
        Machine { namespaces, left_out: Vec::new() }
    }

    /// The events between two states, as text. `unique` numbers the mounts by their ids.
    fn told(before: &[&[&str]], after: &[&[&str]], unique: &[u64]) -> Vec<Vec<String>> {
        let (before, after) = (machine(before), machine(after));
        let mut changes = Vec::new();
        let mut old = HashMap::new();
        for (index, (was, is)) in before.namespaces.iter().zip(&after.namespaces).enumerate() {
            changes.extend(diff::tables(index, &was.table, &is.table));
            old.insert(index, was.table.clone());
        }
        for change in &mut changes {
            change.unique = unique.iter().position(|id| *id == change.mount.id).and_then(|n| u64::try_from(n).ok());
        }
        let place = |p: &MountPointIn| format!("{}@{}", p.path.display(), p.namespace);
        let text = |told: CausedChange| {
            let at = place(&MountPointIn { namespace: told.change.namespace, path: told.change.mount.mount_point });
            match told.cause {
                Cause::Made => at,
                Cause::MadeAmongPeers(group) => format!("{at} or peers {group}"),
                Cause::MadeOrUnseen(group) => format!("{at} or unseen {group}"),
                Cause::Came(steps) => {
                    let steps = steps
                        .iter()
                        .map(|step| format!(" < {:?} {}", step.link, step.from.as_ref().map_or("-".to_owned(), place)));
                    at + &steps.collect::<String>()
                }
            }
        };
        events(&after, &old, changes).into_iter().map(|event| event.into_iter().map(text).collect()).collect()
    }

    const NODE: &str = "1 0 1 / / shared:1";

    #[test]
    fn a_copy_at_a_slave_names_the_mount_that_it_came_from() {
        let pod = "11 0 1 /media /media master:1";
        let after: [&[&str]; 2] = [&[NODE, "2 1 2 / /media/disk shared:5"], &[pod, "12 11 2 / /media/disk master:5"]];
        let events = told(&[&[NODE], &[pod]], &after, &[]);
        assert_eq!(events, [["/media/disk@0", "/media/disk@1 < Slave(1) /media/disk@0"]]);
        // And when it goes.
        assert_eq!(told(&after, &[&[NODE], &[pod]], &[]), events);
    }

    #[test]
    fn among_peers_the_origin_shows_in_the_unique_ids_only() {
        let other = "11 0 1 / / shared:1";
        let after: [&[&str]; 2] = [&[NODE, "2 1 2 / /a shared:5"], &[other, "12 11 2 / /a shared:5"]];
        let before: [&[&str]; 2] = [&[NODE], &[other]];
        assert_eq!(told(&before, &after, &[]), [["/a@0 or peers 1", "/a@1 < Peer(1) /a@0"]]);
        assert_eq!(told(&before, &after, &[2, 12]), [["/a@0", "/a@1 < Peer(1) /a@0"]]);
        assert_eq!(told(&before, &after, &[12, 2]), [["/a@1", "/a@0 < Peer(1) /a@1"]]);
    }

    #[test]
    fn the_way_leads_over_every_copy_and_over_mounts_that_only_pass_on() {
        // 0 → 1, which is shared itself, → 2; and 3 is a slave of 9, whose mount in 1 doesn't hold the directory.
        let (one, two) = ("11 0 1 / / shared:7,master:1", "21 0 1 / / master:7");
        let (narrow, three) = ("15 11 1 /narrow /narrow shared:9,master:1", "31 0 1 / / master:9");
        let before: [&[&str]; 4] = [&[NODE], &[one, narrow], &[two], &[three]];
        let after: [&[&str]; 4] = [
            &[NODE, "2 1 2 / /a shared:50"],
            &[one, narrow, "12 11 2 / /a shared:51,master:50"],
            &[two, "22 21 2 / /a master:51"],
            &[three, "32 31 2 / /a master:50"],
        ];
        assert_eq!(
            told(&before, &after, &[]),
            [[
                "/a@0",
                "/a@1 < Slave(1) /a@0",
                "/a@2 < Slave(7) /a@1 < Slave(1) /a@0",
                "/a@3 < Slave(9) - < Slave(1) /a@0"
            ]]
        );
    }

    #[test]
    fn what_was_made_at_a_slave_has_no_way_and_what_came_from_the_unseen_is_said_to_be_perhaps_from_there() {
        let pod = "11 0 1 / / master:1";
        let after: [&[&str]; 2] = [&[NODE], &[pod, "12 11 2 / /a"]];
        assert_eq!(told(&[&[NODE], &[pod]], &after, &[]), [["/a@1"]]);
        assert_eq!(told(&[&[pod]], &[&[pod, "12 11 2 / /a"]], &[]), [["/a@0 or unseen 1"]]);
    }

    #[test]
    fn equal_mounts_at_other_places_are_other_events() {
        let private = "11 0 1 / /";
        let before: [&[&str]; 2] = [&[NODE], &[private]];
        let after: [&[&str]; 2] = [&[NODE, "2 1 2 / /a", "3 1 2 / /b"], &[private, "12 11 2 / /a"]];
        assert_eq!(told(&before, &after, &[]), [["/a@0"], ["/a@1"], ["/b@0"]]);
        // One on the other, of the same directory: each has its own copies.
        let pod = "11 0 1 / / master:1";
        let after: [&[&str]; 2] = [
            &[NODE, "2 1 1 /a /a shared:1", "3 2 1 /a /a shared:1"],
            &[pod, "12 11 1 /a /a master:1", "13 12 1 /a /a master:1"],
        ];
        let all = told(&[&[NODE], &[pod]], &after, &[2, 3, 12, 13]);
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 4, "{all:?}");
    }
}
