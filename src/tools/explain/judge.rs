//! Which places see a mount or an unmount, and which missing link keeps it from each other place that shows the same
//! directory. Pure.
//!
//! The model tells which places see it ([`Forest::receivers`]). For each other place the missing link is found by following
//! masters, from the mount that shows the directory there upwards. A mount has at most one master, so there is only one such
//! path, and one missing link.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use model::subtrees::{Doubt, Forest, Hop, Receiver, Showing, Stop};

use super::index::Index;

/// A place: a path in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The namespace, by its index in [`model::machine::Machine::namespaces`].
    pub namespace: usize,
    /// The path, absolute and without symlinks.
    pub path: PathBuf,
}

/// What happens at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Something is mounted.
    Mount,
    /// What is mounted there is unmounted.
    Unmount {
        /// That mount.
        mount: u64,
        /// How many other mounts, in all namespaces, are unmounted because they are on the listed ones.
        beneath: usize,
    },
}

/// The effects of an event at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What happens.
    pub event: Event,
    /// The mount on which it happens, by its id in mountinfo.
    pub origin: u64,
    /// The places that see it, first the place itself. For an unmount: the mounts that are unmounted.
    pub seen: Vec<Affected>,
    /// Other places that show the same directory and do not see the event.
    pub stopped: Vec<Stopped>,
    /// The namespaces that don't show the directory at all.
    pub absent: Vec<usize>,
    /// Why the answer may be incomplete.
    pub doubts: Vec<Doubt>,
}

/// A place where the mount appears or disappears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affected {
    /// Where.
    pub receiver: Receiver,
    /// The mount that hides it there, if one does.
    pub covered: Option<u64>,
}

/// A place that does not see the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The place.
    pub at: Showing,
    /// The mounts from there upwards, each the master of the one before, up to the first that does not see the event.
    pub trail: Vec<u64>,
    /// The missing link.
    pub link: MissingLink,
}

/// A missing link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MissingLink {
    /// The mount on which the event happens is private: it passes nothing on.
    OriginPrivate,
    /// The mount on which the event happens is a slave only: it receives, and passes nothing on.
    OriginSlave {
        /// The peer group that it receives from.
        master: u64,
    },
    /// The event's mount is a slave of the place's: events do not pass from slaves to masters.
    Upwards {
        /// The mount that would have to pass it up.
        slave: u64,
        /// The peer group above it.
        master: u64,
    },
    /// The mount at the upper end of the trail is private: it receives nothing.
    Private {
        /// That mount.
        mount: u64,
    },
    /// The mount at the upper end of the trail is in a peer group that has no master, and isn't that of the event.
    Apart {
        /// That mount.
        mount: u64,
        /// Its peer group.
        group: u64,
    },
    /// For an unmount: the mount is a bind mount of the unmounted one, on another parent. An unmount follows the propagation of
    /// the parents, not the copies of the mount.
    Bound {
        /// That mount.
        mount: u64,
    },
    /// For an unmount: the mount stays, although its parent receives the event, because other mounts are on it or a user
    /// namespace has locked it.
    VolumeCount {
        /// That mount.
        mount: u64,
    },
    /// The master of the mount at the upper end of the trail can't be seen.
    Unseen {
        /// That mount.
        mount: u64,
        /// The peer group of which no mount was seen.
        master: u64,
    },
}

/// Explains where a mount at `spot` would be seen.
///
/// # Errors
/// The place is unknown, or nothing can be mounted there.
pub fn explain(index: &Index<'_>, forest: &Forest, namespaces: usize, spot: &Spot) -> Result<Explanation, Doubt> {
    let showing = forest.showing(spot.namespace, &spot.path)?;
    let (receivers, doubts) = match forest.receivers(spot.namespace, &spot.path) {
        Ok(receivers) => (receivers, Vec::new()),
        Err(unknown) => (unknown.known, unknown.doubts),
    };
    let origin = match (receivers.first(), doubts.first()) {
        (Some(first), _) => first.mount,
        (None, Some(doubt)) => return Err(doubt.clone()),
        (None, None) => return Err(Doubt::Unseen(spot.path.clone())),
    };
    let reached: HashSet<u64> = receivers.iter().map(|receiver| receiver.mount).collect();
    let shown: HashSet<usize> = showing.iter().map(|s| s.namespace).collect();
    // What nobody sees because something lies over it is of no interest.
    let others = showing.into_iter().filter(|s| !reached.contains(&s.mount) && s.covered.is_none());
    let stopped = others.map(|at| stop(index, origin, at)).collect();
    let seen =
        receivers.into_iter().map(|receiver| Affected { covered: forest.covered(&receiver), receiver }).collect();
    let absent = (0..namespaces).filter(|namespace| !shown.contains(namespace)).collect();
    Ok(Explanation { event: Event::Mount, origin, seen, stopped, absent, doubts })
}

/// Explains which mounts disappear if the topmost mount at `spot` is unmounted, and which stay.
///
/// # Errors
/// Nothing is mounted there, or the effect is unknown.
pub fn explain_unmount(
    index: &Index<'_>,
    forest: &Forest,
    namespaces: usize,
    spot: &Spot,
) -> Result<Explanation, Stop> {
    let found = forest.unmounting(spot.namespace, &spot.path)?;
    let (mut seen, mut stopped) = (Vec::new(), Vec::new());
    let mut known = HashSet::new();
    for receiver in found.receivers {
        let Some(mount) = index.on(receiver.mount, &receiver.place) else { continue };
        known.insert(mount);
        if found.gone.contains(&mount) {
            seen.push(Affected { receiver: Receiver { mount, ..receiver }, covered: None });
        } else {
            let at = Showing { namespace: receiver.namespace, mount, place: receiver.place, covered: None };
            stopped.push(Stopped { at, trail: vec![mount], link: MissingLink::VolumeCount { mount } });
        }
    }
    let beneath = found.gone.len() - seen.len();
    for (at, mount) in index.copies(found.mount) {
        if found.gone.contains(&mount.id) || known.contains(&mount.id) {
            continue;
        }
        let at = Showing { namespace: at, mount: mount.id, place: mount.mount_point.clone(), covered: None };
        let under = found.showing.iter().find(|s| s.mount == mount.parent && s.place == mount.mount_point);
        stopped.push(match under {
            Some(under) => Stopped { at, ..stop(index, found.under, under.clone()) },
            None => Stopped { at, trail: vec![mount.id], link: MissingLink::Bound { mount: mount.id } },
        });
    }
    let concerned: HashSet<usize> =
        seen.iter().map(|s| s.receiver.namespace).chain(stopped.iter().map(|s| s.at.namespace)).collect();
    let absent = (0..namespaces).filter(|namespace| !concerned.contains(namespace)).collect();
    let event = Event::Unmount { mount: found.mount, beneath };
    Ok(Explanation { event, origin: found.under, seen, stopped, absent, doubts: Vec::new() })
}

/// The missing link between an event on `origin` and a mount that does not see it.
fn stop(index: &Index<'_>, origin: u64, at: Showing) -> Stopped {
    let above = index.above(origin);
    let mut trail = vec![at.mount];
    let mut met = HashSet::new();
    let mut link = None;
    while link.is_none() {
        let top = trail[trail.len() - 1];
        let state = index.get(top).map(|(_, mount)| mount.propagation).unwrap_or_default();
        let upwards = state.peer_group.and_then(|group| above.iter().find(|(master, _)| *master == group));
        link = match (upwards, state.master, state.peer_group) {
            (Some(&(master, slave)), _, _) => Some(MissingLink::Upwards { slave, master }),
            (None, Some(master), _) => {
                let next = index.members(master).iter().copied().find(|_| met.insert(master));
                match (next, above.iter().find(|(group, _)| *group == master)) {
                    (Some(next), _) => {
                        trail.push(next);
                        None
                    }
                    // Of a group that both receive from nothing was seen: still, events don't go up to it.
                    (None, Some(&(master, slave))) => Some(MissingLink::Upwards { slave, master }),
                    (None, None) => Some(MissingLink::Unseen { mount: top, master }),
                }
            }
            (None, None, Some(group)) => Some(MissingLink::Apart { mount: top, group }),
            (None, None, None) => Some(MissingLink::Private { mount: top }),
        };
    }
    let origin = index.get(origin).map(|(_, mount)| mount.propagation).unwrap_or_default();
    let link = match (origin.peer_group, origin.master, link) {
        (_, _, Some(upwards @ MissingLink::Upwards { .. })) => upwards,
        (None, None, _) => MissingLink::OriginPrivate,
        (None, Some(master), _) => MissingLink::OriginSlave { master },
        (Some(_), _, Some(link)) => link,
        (Some(_), _, None) => MissingLink::OriginPrivate,
    };
    Stopped { at, trail, link }
}

/// The effects of an event at one place on another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Where the mount appears, at or beneath the second place.
    pub seen: Vec<Affected>,
    /// Where the same directory is shown and the mount does not appear.
    pub stopped: Vec<Stopped>,
}

impl Explanation {
    /// The effects at or beneath one place.
    #[must_use]
    pub fn at(&self, to: &Spot) -> Pair {
        let concerns = |namespace: usize, place: &Path| namespace == to.namespace && place.starts_with(&to.path);
        Pair {
            seen: self.seen.iter().filter(|s| concerns(s.receiver.namespace, &s.receiver.place)).cloned().collect(),
            stopped: self.stopped.iter().filter(|s| concerns(s.at.namespace, &s.at.place)).cloned().collect(),
        }
    }
}

/// The mounts along which an event is passed on, including the first.
#[must_use]
pub fn way(origin: u64, via: &[Hop]) -> Vec<u64> {
    let next = via.iter().map(|hop| match hop {
        Hop::Peer { to, .. } | Hop::Slave { to, .. } => *to,
    });
    std::iter::once(origin).chain(next).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use model::machine::{Container, Machine, Namespace, Pod, Process};
    use mounts::mountinfo;

    /// The node, with `/src`, `/priv` and targets of two volumes, and containers of both pods.
    pub(in super::super) fn machine() -> Machine {
        let namespace = |pid, name: Option<&str>, text: &str| Namespace {
            inode: 4_026_532_000 + u64::try_from(pid).unwrap(),
            // The first one: nothing is locked.
            user_namespace: Some(0xEFFF_FFFD),
            processes: vec![Process { pid, name: "sh".into() }],
            pod: name.map(|name| Pod { uid: format!("u-{name}"), name: Some(("ns".into(), name.into())) }),
            container: name.map(|name| Container { id: Some("0123456789abcdef".into()), name: Some(name.into()) }),
            table: mountinfo::parse(text.as_bytes()),
        };
        let target = |name: &str| format!("/var/lib/kubelet/pods/u-{name}/volumes/kubernetes.io~csi/v/mount");
        Machine {
            namespaces: vec![
                namespace(
                    1,
                    None,
                    &format!(
                        "1 0 8:1 / / rw shared:1 - ext4 d rw\n2 1 0:2 / /src rw shared:2 - tmpfs t rw\n\
                         3 1 0:3 / /priv rw - tmpfs t rw\n4 1 0:2 / {} rw shared:4 master:2 - tmpfs t rw\n\
                         5 1 0:2 / {} rw shared:5 - tmpfs t rw\n",
                        target("slave"),
                        target("none")
                    ),
                ),
                namespace(
                    20,
                    Some("slave"),
                    "20 0 0:20 / / rw - overlay o rw\n21 20 0:2 / /data rw master:4 - tmpfs t rw\n",
                ),
                namespace(
                    30,
                    Some("none"),
                    "30 0 0:30 / / rw - overlay o rw\n31 30 0:2 / /data rw master:5 - tmpfs t rw\n",
                ),
                namespace(40, None, "40 0 8:1 / / rw - ext4 d rw\n41 40 0:3 / /priv rw - tmpfs t rw\n"),
            ],
            left_out: Vec::new(),
        }
    }

    fn explained(namespace: usize, path: &str) -> Explanation {
        let machine = machine();
        let spot = Spot { namespace, path: path.into() };
        explain(&Index::new(&machine), &Forest::of(&machine), machine.namespaces.len(), &spot).unwrap()
    }

    fn stops(explanation: &Explanation) -> Vec<(usize, &str, Vec<u64>, MissingLink)> {
        let all = explanation.stopped.iter();
        all.map(|s| (s.at.namespace, s.at.place.to_str().unwrap(), s.trail.clone(), s.link)).collect()
    }

    #[test]
    fn the_volume_that_was_bound_privately_is_the_link_and_not_the_container() {
        let found = explained(0, "/src/disk");
        let seen: Vec<_> = found.seen.iter().map(|s| (s.receiver.namespace, s.receiver.mount)).collect();
        assert_eq!(seen, [(0, 2), (0, 4), (1, 21)]);
        let apart = MissingLink::Apart { mount: 5, group: 5 };
        let target = "/var/lib/kubelet/pods/u-none/volumes/kubernetes.io~csi/v/mount/disk";
        assert_eq!(stops(&found), [(0, target, vec![5], apart), (2, "/data/disk", vec![31, 5], apart)]);
        assert_eq!(found.absent, [3]);
        assert_eq!(way(2, &found.seen[2].receiver.via), [2, 4, 21]);
    }

    #[test]
    fn a_private_origin_is_the_link_for_all() {
        let found = explained(0, "/priv/x");
        assert_eq!(found.seen.len(), 1);
        assert_eq!(stops(&found), [(3, "/priv/x", vec![41], MissingLink::OriginPrivate)]);
        assert_eq!(found.absent, [1, 2]);
    }

    #[test]
    fn events_do_not_go_up() {
        let found = explained(1, "/data/x");
        assert_eq!(found.seen.len(), 1);
        let target = "/var/lib/kubelet/pods/u-slave/volumes/kubernetes.io~csi/v/mount/x";
        let up = |master, slave| MissingLink::Upwards { slave, master };
        let found = stops(&found);
        assert_eq!(found[0], (0, "/src/x", vec![2], up(2, 4)));
        assert_eq!(found[1], (0, target, vec![4], up(4, 21)));
        assert_eq!(found[2].3, MissingLink::OriginSlave { master: 4 }, "another volume isn't above");
    }

    #[test]
    fn a_private_copy_elsewhere_is_the_link_itself() {
        let found = explained(0, "/x");
        assert_eq!(stops(&found), [(3, "/x", vec![40], MissingLink::Private { mount: 40 })]);
    }

    #[test]
    fn a_pair_is_what_of_it_concerns_one_place() {
        let found = explained(0, "/src/disk");
        let at = |namespace, path: &str| found.at(&Spot { namespace, path: path.into() });
        assert_eq!((at(1, "/data").seen.len(), at(1, "/data").stopped.len()), (1, 0));
        assert_eq!((at(2, "/data").seen.len(), at(2, "/data").stopped.len()), (0, 1));
        assert_eq!((at(2, "/data/other").seen.len(), at(2, "/data/other").stopped.len()), (0, 0));
    }

    #[test]
    fn an_unmount_takes_what_lies_on_receivers_and_leaves_what_was_bound() {
        let machine = machine();
        let index = Index::new(&machine);
        let unmounted = |path: &str| {
            let spot = Spot { namespace: 0, path: path.into() };
            explain_unmount(&index, &Forest::of(&machine), 4, &spot)
        };
        let found = unmounted("/src").unwrap();
        let gone: Vec<u64> = found.seen.iter().map(|s| s.receiver.mount).collect();
        assert_eq!((gone.as_slice(), found.origin), (&[2][..], 1));
        let stays: Vec<_> = found.stopped.iter().map(|s| (s.at.mount, s.link)).collect();
        assert_eq!(stays, [4, 5, 21, 31].map(|mount| (mount, MissingLink::Bound { mount })));
        assert_eq!(found.absent, [3]);
        // /priv of the other namespace lies on a private root.
        let found = unmounted("/priv").unwrap();
        let stays: Vec<_> = found.stopped.iter().map(|s| (s.at.mount, s.trail.clone(), s.link)).collect();
        assert_eq!(stays, [(41, vec![40], MissingLink::Private { mount: 40 })]);
        assert!(matches!(unmounted("/nothing"), Err(Stop::Refused(_))));
    }

    #[test]
    fn what_cannot_be_explained_is_an_error() {
        let machine = machine();
        let spot = Spot { namespace: 0, path: "/a/../b".into() };
        assert!(explain(&Index::new(&machine), &Forest::of(&machine), 4, &spot).is_err());
    }
}
