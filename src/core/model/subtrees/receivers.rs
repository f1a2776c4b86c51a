//! Predicts who sees a mount that is made at a path.
//!
//! The rule (sharedsubtree.rst, section 5; fs/pnode.c `propagate_mnt`): a mount made on a shared mount appears also on
//! its peers and their slaves. A slave that is also shared passes it on to its own peers and their slaves. A mount
//! whose root doesn't contain the directory gets nothing (`need_secondary`), but passes the event on.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};

use super::dentry::Dentry;
use super::walk::ResolvedPath;
use super::{Doubt, Forest, MountNumber, Unknown};

/// A mount that receives a mount event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// The namespace that it is in, by its index in the machine.
    pub namespace: usize,
    /// Its id in mountinfo.
    pub mount: u64,
    /// Where the new mount appears, as processes of that namespace name it. It may be covered: see [`Forest::covered`].
    pub place: PathBuf,
    /// How the event gets there from the mount on which it happens. Empty for that mount itself.
    pub via: Vec<Hop>,
}

/// A step of an event from mount to mount, by their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hop {
    /// To a peer.
    Peer {
        /// The peer group.
        group: u64,
        /// The sending mount.
        from: u64,
        /// The receiving mount.
        to: u64,
    },
    /// To a slave.
    Slave {
        /// The master's peer group.
        master: u64,
        /// The sending mount.
        from: u64,
        /// The receiving mount.
        to: u64,
    },
}

/// A mount that an event reaches, and how.
#[derive(Debug, Clone)]
pub(super) struct Reached {
    pub(super) mount: MountNumber,
    /// The previous mount, as an index, and the step from there. None for the event's own mount.
    pub(super) via: Option<(usize, Hop)>,
}

impl Forest {
    /// Who sees a mount made at `path` in a namespace: first that namespace, then the others in the order in which the
    /// event reaches them.
    ///
    /// # Errors
    /// The snapshot doesn't show who sees it. [`Unknown`] lists the receivers that are certain.
    pub fn receivers(&self, namespace: usize, path: &Path) -> Result<Vec<Receiver>, Unknown> {
        let resolved = self.resolve_mount_point(namespace, path)?;
        self.receivers_at(&resolved)
    }

    /// The receivers of an event at this directory.
    pub(super) fn receivers_at(&self, resolved: &ResolvedPath) -> Result<Vec<Receiver>, Unknown> {
        let source = self.mount(resolved.mount);
        if source.deleted {
            return Err(Doubt::Deleted(source.id).into());
        }
        let reached = self.reach(resolved.mount);
        let mut doubts = Vec::new();
        let mut known = Vec::new();
        for (index, one) in reached.iter().enumerate() {
            let mount = self.mount(one.mount);
            if self.namespaces.get(mount.namespace).is_none_or(|namespace| namespace.detached) {
                continue;
            }
            if index > 0 && (mount.root_unknown || source.root_unknown) {
                doubts.push(Doubt::RootUnknown(mount.id));
                continue;
            }
            if !self.dentries.contains(mount.root, resolved.dentry) {
                continue;
            }
            let mut at = self.path_of(one.mount);
            at.extend(
                [self.dentries.relative(mount.root, resolved.dentry), resolved.rest.as_path()]
                    .iter()
                    .filter(|p| !p.as_os_str().is_empty()),
            );
            known.push(Receiver {
                namespace: mount.namespace,
                mount: mount.id,
                place: at,
                via: self.hops(&reached, index),
            });
        }
        self.unseen_links(resolved.mount, resolved.dentry, &reached, &mut doubts);
        if doubts.is_empty() { Ok(known) } else { Err(Unknown { known, doubts }) }
    }

    /// The mount that covers the new mount at this receiver, if one does.
    #[must_use]
    pub fn covered(&self, receiver: &Receiver) -> Option<u64> {
        let &number = self.by_id.get(&receiver.mount)?;
        let found = self.resolve_mount_point(receiver.namespace, &receiver.place).ok()?;
        (found.mount != number).then(|| self.mount(found.mount).id)
    }

    /// Every mount that an event on a mount reaches, that one first, nearest first. Includes mounts that only pass it
    /// on.
    pub(super) fn reach(&self, from: MountNumber) -> Vec<Reached> {
        let mut reached = vec![Reached { mount: from, via: None }];
        let mut seen_groups = HashSet::new();
        let mut seen = HashSet::from([from]);
        // Groups to pass the event on in, each with the mount at which it was entered.
        let mut entered: VecDeque<(u64, usize)> = VecDeque::new();
        if let Some(group) = self.mount(from).group {
            seen_groups.insert(group);
            entered.push_back((group, 0));
        }
        while let Some((group, entry)) = entered.pop_front() {
            let from = self.mount(reached[entry].mount).id;
            for &peer in self.members.get(&group).map_or(&[][..], Vec::as_slice) {
                if seen.insert(peer) {
                    let hop = Hop::Peer { group, from, to: self.mount(peer).id };
                    reached.push(Reached { mount: peer, via: Some((entry, hop)) });
                }
            }
            for &slave in self.slaves.get(&group).map_or(&[][..], Vec::as_slice) {
                let mount = self.mount(slave);
                if seen.insert(slave) {
                    let hop = Hop::Slave { master: group, from, to: mount.id };
                    reached.push(Reached { mount: slave, via: Some((entry, hop)) });
                    if let Some(own) = mount.group
                        && seen_groups.insert(own)
                    {
                        entered.push_back((own, reached.len() - 1));
                    }
                }
            }
        }
        reached
    }

    fn hops(&self, reached: &[Reached], index: usize) -> Vec<Hop> {
        let mut hops = Vec::new();
        let mut at = index;
        while let Some((before, hop)) = reached[at].via {
            hops.push(hop);
            at = before;
        }
        hops.reverse();
        hops
    }

    /// Adds a doubt for each mount that may receive the event through mounts that can't be seen: it shows the
    /// directory, and is a slave of a group without any known member. A group above the event's mount is no such doubt:
    /// events don't go up to a master.
    pub(super) fn unseen_links(&self, from: MountNumber, at: Dentry, reached: &[Reached], doubts: &mut Vec<Doubt>) {
        if self.unseen.is_empty() {
            return;
        }
        let source = self.mount(from);
        if source.group.is_none() {
            return;
        }
        let mut above = HashSet::new();
        let mut master = source.master;
        while let Some(group) = master
            && above.insert(group)
        {
            master = self.members.get(&group).and_then(|all| all.first()).and_then(|&one| self.mount(one).master);
        }
        let seen: HashSet<MountNumber> = reached.iter().map(|r| r.mount).collect();
        for &group in self.unseen.iter().filter(|group| !above.contains(group)) {
            let concerned = self
                .slaves
                .get(&group)
                .into_iter()
                .flatten()
                .find(|&&slave| !seen.contains(&slave) && self.dentries.contains(self.mount(slave).root, at));
            if let Some(&slave) = concerned {
                doubts.push(Doubt::MasterUnseen { mount: self.mount(slave).id, group });
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::machine::{LeftOut, Machine, Namespace};
    use mounts::mountinfo;

    /// A machine with one namespace for each table.
    pub(crate) fn machine(tables: &[&str]) -> Machine {
        let namespaces = tables
            .iter()
            .map(|text| Namespace { table: mountinfo::parse(text.as_bytes()), ..Namespace::default() })
            .collect();
        Machine { namespaces, left_out: Vec::new() }
    }

    fn seen_by(forest: &Forest, namespace: usize, path: &str) -> Vec<(usize, String)> {
        let all = forest.receivers(namespace, Path::new(path)).unwrap();
        all.into_iter().map(|r| (r.namespace, r.place.to_str().unwrap().to_owned())).collect()
    }

    #[test]
    fn a_private_mount_keeps_the_event_for_itself() {
        let forest = Forest::of(&machine(&["1 0 0:1 / / rw - t t rw\n", "2 0 0:1 / / rw - t t rw\n"]));
        assert_eq!(seen_by(&forest, 0, "/a/b"), [(0, "/a/b".into())]);
    }

    #[test]
    fn peers_receive_at_their_own_places_and_only_within_their_root() {
        let forest = Forest::of(&machine(&[
            "1 0 0:1 / / rw shared:1 - t t rw\n2 1 0:1 /a /mnt rw shared:1 - t t rw\n",
            "3 0 0:2 / / rw - t t rw\n4 3 0:1 /a/b /x/y rw shared:1 - t t rw\n5 3 0:1 /other /o rw shared:1 - t t rw\n",
        ]));
        assert_eq!(seen_by(&forest, 0, "/a/b/c"), [(0, "/a/b/c".into()), (0, "/mnt/b/c".into()), (1, "/x/y/c".into())]);
        assert_eq!(seen_by(&forest, 0, "/a/z"), [(0, "/a/z".into()), (0, "/mnt/z".into())]);
        assert_eq!(seen_by(&forest, 1, "/x/y"), [(1, "/x/y".into()), (0, "/a/b".into()), (0, "/mnt/b".into()),]);
    }

    #[test]
    fn slaves_receive_pass_on_to_their_peers_and_give_nothing_back() {
        let forest = Forest::of(&machine(&[
            "1 0 0:1 / / rw shared:1 - t t rw\n",
            "2 0 0:1 / / rw shared:2 master:1 - t t rw\n",
            "3 0 0:1 / / rw shared:2 master:1 - t t rw\n",
            "4 0 0:1 / / rw master:2 - t t rw\n",
        ]));
        let namespaces = |from| seen_by(&forest, from, "/a").into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(namespaces(0), [0, 1, 2, 3]);
        assert_eq!(namespaces(1), [1, 2, 3]);
        assert_eq!(namespaces(3), [3]);
        let all = forest.receivers(0, Path::new("/a")).unwrap();
        assert_eq!(all[3].via, [Hop::Slave { master: 1, from: 1, to: 2 }, Hop::Slave { master: 2, from: 2, to: 4 }]);
    }

    #[test]
    fn a_mount_that_shows_something_else_passes_on_what_it_does_not_get() {
        let forest = Forest::of(&machine(&[
            "1 0 0:1 / / rw shared:1 - t t rw\n2 1 0:1 /narrow /n rw shared:2 master:1 - t t rw\n\
             3 1 0:1 / /wide rw master:2 - t t rw\n",
        ]));
        assert_eq!(seen_by(&forest, 0, "/a"), [(0, "/a".into()), (0, "/wide/a".into())]);
    }

    #[test]
    fn the_mount_at_the_path_counts_not_the_one_beneath() {
        let forest = Forest::of(&machine(&[
            "1 0 0:1 / / rw shared:1 - t t rw\n2 1 0:2 / /a rw - t t rw\n",
            "3 0 0:1 / / rw shared:1 - t t rw\n",
        ]));
        assert_eq!(seen_by(&forest, 0, "/a/b"), [(0, "/a/b".into())], "on the private mount 2");
        let up = forest.receivers(1, Path::new("/a")).unwrap();
        assert_eq!(up[1].place, Path::new("/a"));
        assert_eq!(forest.covered(&up[1]), Some(2), "it arrives beneath mount 2");
        assert_eq!(forest.covered(&up[0]), None);
    }

    #[test]
    fn a_mount_over_the_root_is_where_a_path_ends_not_where_it_begins() {
        let forest = Forest::of(&machine(&["1 0 0:1 / / rw - t t rw\n2 1 0:2 / / rw shared:9 - t t rw\n"]));
        let at = |path: &str| forest.receivers(0, Path::new(path)).unwrap()[0].mount;
        assert_eq!((at("/"), at("/a")), (2, 1));
    }

    #[test]
    fn what_cannot_be_told_is_unknown() {
        let doubts = |tables: &[&str], path: &str| {
            Forest::of(&machine(tables)).receivers(0, Path::new(path)).unwrap_err().doubts
        };
        let plain = "1 0 0:1 / / rw shared:1 - t t rw\n";
        assert_eq!(doubts(&[plain], "a"), [Doubt::Path("a".into())]);
        assert_eq!(doubts(&[plain], "/a/../b"), [Doubt::Path("/a/../b".into())]);
        assert_eq!(doubts(&[], "/a"), [Doubt::NoNamespace(0)]);
        assert_eq!(doubts(&["1 0 0:1 / /x rw - t t rw\n"], "/a"), [Doubt::Unseen("/a".into())]);
        assert_eq!(doubts(&["1 0 0:1 /d//deleted / rw - t t rw\n"], "/a"), [Doubt::Deleted(1)]);
        let nfs = "1 0 0:1 / / rw shared:1 - nfs4 t rw\n2 1 0:1 / /b rw shared:1 - nfs4 t rw\n";
        let unknown = Forest::of(&machine(&[nfs])).receivers(0, Path::new("/a")).unwrap_err();
        assert_eq!(unknown.doubts, [Doubt::RootUnknown(2)]);
        assert_eq!(unknown.known.len(), 1);
        let hidden = "1 0 0:1 / / rw shared:1 - t t rw\n2 1 0:1 /a /b rw shared:3 master:2 - t t rw\n";
        assert_eq!(doubts(&[hidden], "/a/x"), [Doubt::MasterUnseen { mount: 2, group: 2 }]);
        let elsewhere = Forest::of(&machine(&[hidden])).receivers(0, Path::new("/z")).unwrap();
        assert_eq!(elsewhere.len(), 1, "mount 2 could not show it in any case");
        let upward = "1 0 0:1 / / rw shared:1 master:2 - t t rw\n2 1 0:1 / /b rw master:2 - t t rw\n";
        let sure = Forest::of(&machine(&[upward])).receivers(0, Path::new("/a")).unwrap();
        assert_eq!(sure.len(), 1, "group 2 is above: events don't go up, so its other slaves get nothing");
    }

    #[test]
    fn a_deleted_root_holds_nothing_that_is_still_there() {
        let forest =
            Forest::of(&machine(&["1 0 0:1 / / rw shared:1 - t t rw\n2 1 0:1 /d//deleted /b rw shared:1 - t t rw\n"]));
        assert_eq!(seen_by(&forest, 0, "/d/x"), [(0, "/d/x".into())], "/d was made anew");
    }

    #[test]
    fn torn_tables_make_no_circles_and_no_panic() {
        let forest = Forest::of(&machine(&[
            "1 0 0:1 / / rw shared:1 - t t rw\n2 3 0:1 / /b rw shared:1 - t t rw\n3 2 0:1 / /b rw - t t rw\n\
             4 1 0:1 / /c rw - t t rw\n5 4 0:1 / /elsewhere rw - t t rw\n1 0 0:1 / / rw shared:1 - t t rw\n7 7 0:1 / /s rw - t t rw\n",
        ]));
        let _ = forest.receivers(0, Path::new("/a"));
        let _ = forest.receivers(0, Path::new("/elsewhere/a"));
        let partly = Machine { left_out: vec![LeftOut { what: "x".into(), why: "y".into() }], ..Machine::default() };
        assert!(Forest::of(&partly).receivers(0, Path::new("/")).is_err());
    }
}
