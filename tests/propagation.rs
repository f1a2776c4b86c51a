//! Mount propagation on the real kernel: orders and what is read back, what crosses, and what must not be lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod kernel;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::kernel::calls::Calls;
use ::kernel::{mount, path};
use engine::AttachJob;
use kernel::seccomp::Refusal;
use kernel::{
    ALL_FLAGS, Node, Random, SourceKind, bind, files, in_namespace, in_namespace_both_ways, order, tmpfs, unmount,
};
use mounts::propagation::{MountPropagation, Propagation, PropagationKind, PropagationState};
use mounts::{Change, mountinfo};
use nix::mount::MsFlags;

/// The states of sharedsubtree.rst, section 2, with the table of section 6 ("what make-… does to each").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Shared,
    Slave,
    SharedSlave,
    Private,
    Unbindable,
}

impl State {
    const ALL: [Self; 5] = [Self::Shared, Self::Slave, Self::SharedSlave, Self::Private, Self::Unbindable];

    fn of(found: PropagationState) -> Self {
        match (found.peer_group.is_some(), found.master.is_some(), found.unbindable) {
            (true, true, false) => Self::SharedSlave,
            (true, false, false) => Self::Shared,
            (false, true, false) => Self::Slave,
            (false, false, false) => Self::Private,
            (false, false, true) => Self::Unbindable,
            _ => panic!("no such state: {found:?}"),
        }
    }

    /// The documented table. The shared mounts of these tests have a peer, so a slave of theirs has a master.
    const fn ordered(self, kind: PropagationKind) -> Self {
        match (self, kind) {
            (_, PropagationKind::Private) => Self::Private,
            (_, PropagationKind::Unbindable) => Self::Unbindable,
            (Self::Slave | Self::SharedSlave, PropagationKind::Shared) => Self::SharedSlave,
            (_, PropagationKind::Shared) => Self::Shared,
            (Self::Shared | Self::Slave | Self::SharedSlave, PropagationKind::Slave) => Self::Slave,
            (Self::Private | Self::Unbindable, PropagationKind::Slave) => self,
        }
    }
}

const PLACES: [&str; 3] = ["", "child", "child/grandchild"];

/// Three mounts, one in the other, each in the state, and each with a peer or master elsewhere.
fn tree_of(at: &Path, state: State) {
    let peer = at.with_extension("peer");
    for place in PLACES {
        tmpfs(&peer.join(place), "marker");
    }
    for place in PLACES {
        order(&peer.join(place), PropagationKind::Shared);
    }
    bind(&peer, at);
    // Outermost last: an event on a mount that is still shared would reach the peer.
    for place in PLACES.into_iter().rev() {
        let at = at.join(place);
        match state {
            State::Shared => {}
            State::Slave => order(&at, PropagationKind::Slave),
            State::SharedSlave => {
                order(&at, PropagationKind::Slave);
                order(&at, PropagationKind::Shared);
            }
            State::Private => order(&at, PropagationKind::Private),
            State::Unbindable => order(&at, PropagationKind::Unbindable),
        }
    }
}

/// With the newer calls, and with all of them refused.
const WAYS: [&str; 2] = ["new", "old"];

/// Does something in one of [`WAYS`].
fn by<T: Send>(way: &str, work: impl FnOnce(Calls) -> T + Send) -> T {
    match way {
        "new" => work(Calls::probe()),
        _ => Refusal::all().on_a_thread(|| {
            let calls = Calls::probe();
            assert_eq!(calls.missing().len(), calls.rows().len());
            work(calls)
        }),
    }
}

/// The state of each mount of the tree, read in both ways, which must agree in every detail.
fn read_back(node: &Node, at: &Path) -> Vec<State> {
    PLACES
        .iter()
        .map(|place| {
            let fd = path::open_trusted(&at.join(place)).unwrap();
            let [new, old] = WAYS.map(|way| by(way, |calls| calls.mount(&node.site.proc, &fd)).unwrap());
            assert_eq!((new.propagation, new.attrs), (old.propagation, old.attrs), "{place}");
            State::of(new.propagation)
        })
        .collect()
}

#[test]
fn all_eight_types_do_what_is_documented_and_what_mount_8_does() {
    in_namespace("all_eight_types_do_what_is_documented_and_what_mount_8_does", || {
        let node = Node::new();
        let mut number = 0;
        for state in State::ALL {
            for wanted in Propagation::ALL {
                for way in ["set_propagation", "new", "old", "mount(8)"] {
                    number += 1;
                    let at = node.base.join(format!("t{number}"));
                    tree_of(&at, state);
                    assert_eq!(read_back(&node, &at), [state; 3]);
                    let root = path::open_trusted(&at).unwrap();
                    let change = Change { propagation: Some(wanted.kind), ..Change::default() };
                    match way {
                        "set_propagation" => mount::set_propagation(&root, wanted).unwrap(),
                        "new" | "old" => {
                            by(way, |calls| calls.change(&node.site.proc, &root, change, wanted.recursive)).unwrap();
                        }
                        _ => {
                            let ordered =
                                Command::new("mount").arg(format!("--make-{wanted}")).arg(&at).status().unwrap();
                            assert!(ordered.success());
                        }
                    }
                    let after = state.ordered(wanted.kind);
                    let below = if wanted.recursive { after } else { state };
                    assert_eq!(read_back(&node, &at), [after, below, below], "{state:?} {wanted} by {way}");
                    drop(root);
                    for tree in [at.clone(), at.with_extension("peer")] {
                        unmount(&tree).unwrap();
                    }
                }
            }
        }
    });
}

#[test]
fn flags_reach_every_mount_of_the_tree_in_both_ways() {
    in_namespace("flags_reach_every_mount_of_the_tree_in_both_ways", || {
        let node = Node::new();
        for way in WAYS {
            for recursive in [false, true] {
                let at = node.base.join(format!("flags-{way}-{recursive}"));
                tree_of(&at, State::Shared);
                let root = path::open_trusted(&at).unwrap();
                let change = Change { propagation: Some(PropagationKind::Private), attrs: ALL_FLAGS };
                by(way, |calls| calls.change(&node.site.proc, &root, change, recursive)).unwrap();
                for (place, set) in PLACES.into_iter().zip([true, recursive, recursive]) {
                    let fd = path::open_trusted(&at.join(place)).unwrap();
                    let found = node.site.calls.mount(&node.site.proc, &fd).unwrap();
                    assert_eq!(found.attrs == ALL_FLAGS, set, "{way} {recursive} {place:?}: {found:?}");
                }
            }
        }
    });
}

/// A remount of one mount sets and clears all of its flags at once: what the source has must not get lost.
#[test]
fn flags_of_the_source_are_kept_in_both_ways() {
    in_namespace("flags_of_the_source_are_kept_in_both_ways", || {
        const NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(libc::MS_NOSYMFOLLOW);
        let node = Node::new();
        let given = [
            (NOSYMFOLLOW, "relatime,nosymfollow"),
            (MsFlags::MS_NOATIME, "noatime"),
            (MsFlags::MS_STRICTATIME, ""),
            (MsFlags::MS_STRICTATIME | MsFlags::MS_NODIRATIME | NOSYMFOLLOW, "nodiratime,nosymfollow"),
            (MsFlags::MS_RELATIME | MsFlags::MS_NODIRATIME, "nodiratime,relatime"),
        ];
        for (number, (flags, words)) in given.into_iter().enumerate() {
            for way in WAYS {
                let at = node.base.join(format!("kept-{way}-{number}"));
                tree_of(&at, State::Shared);
                for place in PLACES {
                    let at = at.join(place);
                    std::os::unix::fs::symlink("marker", at.join("link")).unwrap();
                    let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
                    nix::mount::mount(None::<&str>, &at, None::<&str>, remount, None::<&str>).unwrap();
                }
                let root = path::open_trusted(&at).unwrap();
                let change = Change { propagation: Some(PropagationKind::Slave), attrs: ALL_FLAGS };
                by(way, |calls| calls.change(&node.site.proc, &root, change, true)).unwrap();
                for place in PLACES {
                    let at = at.join(place);
                    let followed = std::fs::read(at.join("link")).map_err(|e| e.raw_os_error());
                    let wanted =
                        if flags.contains(NOSYMFOLLOW) { Err(Some(libc::ELOOP)) } else { Ok(b"marker".into()) };
                    assert_eq!(followed, wanted, "{way} {words} {place:?}");
                    let all: Vec<_> = ["ro,nosuid,nodev,noexec", words].into_iter().filter(|w| !w.is_empty()).collect();
                    let table = node.table();
                    let found = table.mounts.iter().rfind(|mount| mount.mount_point == at).unwrap();
                    assert_eq!(found.options, all.join(","), "{way} {place:?}");
                }
            }
        }
    });
}

/// Where a mount is made or looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Master,
    Source,
    Target(usize),
}

/// Kubernetes' rule, as its documentation has it: who sees what happens at a place, besides the place itself.
/// `linked`: whether the mount at the source passes its events on.
fn crosses(from: At, to: At, kind: SourceKind, relations: &[MountPropagation]) -> bool {
    let receives = |t: usize| relations[t] != MountPropagation::None;
    let gives = |t: usize| relations[t] == MountPropagation::Bidirectional;
    match (from, to) {
        _ if from == to => true,
        (At::Master, At::Source) => kind == SourceKind::Slave,
        (At::Master, At::Target(t)) => kind == SourceKind::Slave && receives(t),
        (_, At::Master) => false,
        (At::Source, At::Target(t)) => kind == SourceKind::Shared && receives(t),
        (At::Target(t), At::Source) => kind == SourceKind::Shared && gives(t),
        (At::Target(from), At::Target(to)) => kind == SourceKind::Shared && gives(from) && receives(to),
        (At::Source, At::Source) => unreachable!("equal"),
    }
}

#[test]
fn what_crosses_is_what_kubernetes_documents() {
    in_namespace_both_ways("what_crosses_is_what_kubernetes_documents", || {
        let seed = Random::seed();
        println!("HOSTMOUNT_SEED={seed}");
        let mut random = Random(seed);
        let node = Node::new();
        let workshop = node.workshop();
        for kind in SourceKind::ALL {
            for slot in ["x0", "x1", "x2"] {
                std::fs::create_dir(node.source(kind).join(slot)).unwrap();
            }
        }
        let empty = node.tree();
        let start = Instant::now();
        for round in 0..300 {
            if round > 20 && start.elapsed() > Duration::from_secs(8) {
                println!("{round} rounds");
                break;
            }
            let kind = random.pick(&SourceKind::ALL);
            let source = node.source(kind);
            // A nested mount of its own kind: the rule holds for it by itself, since the pod's copy of it is related
            // to it, and not to the mount around it.
            let nested_kind = random.pick(&[
                PropagationKind::Shared,
                PropagationKind::Private,
                PropagationKind::Slave,
                PropagationKind::Unbindable,
            ]);
            let nested = source.join("late-nested");
            tmpfs(&nested, "nested-marker");
            std::fs::create_dir(nested.join("x")).unwrap();
            order(&nested, nested_kind);
            let relations: Vec<_> = (0..3).map(|_| random.pick(kind.gives())).collect();
            let paths: Vec<_> = (0..relations.len()).map(|t| node.target(&format!("c{t}"))).collect();
            let staging = (random.below(2) == 0).then(|| node.staging("staged"));
            let ceiling = random.pick(&MountPropagation::ALL);
            if let Some(staging) = &staging {
                assert_eq!(node.attach(&workshop, &node.stage_job(&source, staging.clone(), ceiling)), Ok(true));
            }
            for (target, &relation) in paths.iter().zip(&relations) {
                let job = AttachJob { staging: staging.clone(), ..node.job(&source, target.clone(), relation) };
                assert_eq!(node.attach(&workshop, &job), Ok(true), "seed {seed}");
                let mut wanted = files(&source);
                if nested_kind == PropagationKind::Unbindable {
                    // The kernel leaves it out of a bind: documented.
                    wanted.remove(Path::new("late-nested/nested-marker"));
                }
                assert_eq!(files(target.as_path()), wanted, "seed {seed}");
            }
            let mut places = vec![At::Source];
            places.extend((0..relations.len()).map(At::Target));
            if kind == SourceKind::Slave {
                places.push(At::Master);
            }
            let dir = |at: At| match at {
                At::Master => node.base.join("master/dir"),
                At::Source => source.clone(),
                At::Target(t) => paths[t].as_path().to_owned(),
            };
            // Slot by slot, who shall see it.
            let mut seen: BTreeMap<&str, BTreeSet<At>> = BTreeMap::new();
            let mut log =
                vec![format!("{kind:?} {relations:?} nested {nested_kind:?} staged {} {ceiling}", staging.is_some())];
            for _ in 0..12 {
                let slot = random.pick(&["x0", "x1", "x2", "late-nested/x"]);
                let rule = match (slot, nested_kind) {
                    ("late-nested/x", PropagationKind::Shared) => SourceKind::Shared,
                    ("late-nested/x", _) => SourceKind::Private,
                    _ => kind,
                };
                let from = random.pick(&places);
                let there = seen.entry(slot).or_default();
                let reached = places.iter().filter(|&&to| crosses(from, to, rule, &relations));
                if !dir(from).join(slot).is_dir() {
                    continue;
                }
                if there.is_empty() {
                    log.push(format!("mount {slot} at {from:?}"));
                    tmpfs(&dir(from).join(slot), "late");
                    there.extend(reached);
                } else if there.contains(&from) {
                    log.push(format!("unmount {slot} at {from:?}"));
                    unmount(&dir(from).join(slot)).unwrap();
                    for to in reached {
                        there.remove(to);
                    }
                } else {
                    continue;
                }
                for (slot, wanted) in &seen {
                    let found: BTreeSet<At> =
                        places.iter().copied().filter(|&at| dir(at).join(slot).join("late").exists()).collect();
                    assert_eq!(&found, wanted, "seed {seed}: who sees {slot}\n{log:#?}");
                }
            }
            let before = files(&source);
            for path in &paths {
                node.detach(path, true).unwrap();
                assert!(!path.as_path().exists());
                assert_eq!(files(&source), before, "seed {seed}: the node lost a mount to an unpublish\n{log:#?}");
            }
            if let Some(staging) = &staging {
                node.detach(staging, true).unwrap();
                assert_eq!(files(&source), before, "seed {seed}: the node lost a mount to an unstage\n{log:#?}");
            }
            // A slave's own mounts lie over what its master has passed on.
            for place in places.into_iter().filter(|at| !matches!(at, At::Target(_))) {
                for slot in ["x0", "x1", "x2", "late-nested/x", "late-nested"] {
                    while unmount(&dir(place).join(slot)).is_ok() {}
                }
            }
            assert_eq!(node.tree(), empty, "seed {seed}: {log:#?}");
        }
    });
}

#[test]
fn a_volume_shows_what_was_mounted_since_it_was_staged() {
    in_namespace("a_volume_shows_what_was_mounted_since_it_was_staged", || {
        let node = Node::new();
        let workshop = node.workshop();
        let (staging, target) = (node.staging("staged"), node.target("target"));
        for kind in SourceKind::ALL {
            let source = node.source(kind);
            let nested = if kind == SourceKind::Shared { "nested/since" } else { "since" };
            for place in ["since", nested] {
                std::fs::create_dir_all(source.join(place)).unwrap();
            }
            for (&relation, ceiling) in kind.gives().iter().flat_map(|r| MountPropagation::ALL.map(|c| (r, c))) {
                assert_eq!(node.attach(&workshop, &node.stage_job(&source, staging.clone(), ceiling)), Ok(true));
                for place in ["since", nested] {
                    tmpfs(&source.join(place), "late");
                }
                let job = node.job(&source, target.clone(), relation);
                assert_eq!(node.attach(&workshop, &AttachJob { staging: Some(staging.clone()), ..job }), Ok(true));
                assert_eq!(files(target.as_path()), files(&source), "{kind:?} {relation} staged {ceiling}");
                node.detach(&target, true).unwrap();
                node.detach(&staging, true).unwrap();
                for place in ["since", nested] {
                    unmount(&source.join(place)).unwrap();
                }
            }
        }
    });
}

#[test]
fn no_mount_event_of_the_source_is_lost_while_it_is_published() {
    in_namespace_both_ways("no_mount_event_of_the_source_is_lost_while_it_is_published", || {
        let node = Node::new();
        let workshop = node.workshop();
        let source = node.source(SourceKind::Shared);
        let churned = source.join("churned");
        std::fs::create_dir(&churned).unwrap();
        let initial = node.tree();
        let (quiet, stop, events) =
            (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let churn = {
            let (quiet, stop, events, at) =
                (Arc::clone(&quiet), Arc::clone(&stop), Arc::clone(&events), churned.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let _quiet = quiet.lock().unwrap();
                    if events.load(Ordering::SeqCst) % 2 == 1 {
                        unmount(&at).unwrap();
                    } else {
                        tmpfs(&at, "churn");
                    }
                    events.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        // Comes back after the next event; the one after that is then under way.
        let next_event = || {
            let seen = events.load(Ordering::SeqCst);
            while events.load(Ordering::SeqCst) == seen {
                assert!(!churn.is_finished(), "the churning thread has failed");
                std::thread::yield_now();
            }
        };
        let (start, mut published, mut with) = (Instant::now(), 0, 0);
        // With one processor the two threads take turns of some milliseconds each: that takes longer.
        while start.elapsed() < Duration::from_secs(2) || published <= 20 && start.elapsed() < Duration::from_secs(60) {
            let relation =
                if published % 2 == 0 { MountPropagation::HostToContainer } else { MountPropagation::Bidirectional };
            let target = node.target("churn");
            // An event between every two steps; and, in the other half, two.
            let attached =
                node.attach_with(&workshop, &node.job(&source, target.clone(), relation), &mut |run, step| {
                    next_event();
                    if published % 4 < 2 {
                        next_event();
                    }
                    run.run(step)
                });
            assert_eq!(attached, Ok(true));
            {
                let _quiet = quiet.lock().unwrap();
                let (there, here) = (files(&source), files(target.as_path()));
                assert_eq!(there, here, "after publish {published} as {relation}");
                with += i32::from(there.contains(Path::new("churned/churn")));
            }
            node.detach(&target, true).unwrap();
            published += 1;
        }
        stop.store(true, Ordering::SeqCst);
        churn.join().unwrap();
        let events = events.load(Ordering::SeqCst);
        println!("{published} publishes, {with} ended with the mount there, {events} events");
        assert!(published > 20 && events > 100, "{published} publishes, {events} events");
        while unmount(&churned).is_ok() {}
        drop(workshop.slot(&node.site, 0).unwrap());
        assert_eq!(node.tree(), initial);
    });
}

/// A process with a mount namespace of its own whose mounts are the peers of ours: a CSI driver's container.
#[derive(Debug)]
struct Other(Child);

impl Other {
    fn start() -> Self {
        let child =
            Command::new("unshare").args(["--mount", "--propagation", "unchanged", "sleep", "60"]).spawn().unwrap();
        let other = Self(child);
        let ours = std::fs::read_link("/proc/thread-self/ns/mnt").unwrap();
        let start = Instant::now();
        while std::fs::read_link(format!("/proc/{}/ns/mnt", other.0.id())).unwrap() == ours {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
        other
    }

    fn beneath(&self, at: &Path) -> Vec<PathBuf> {
        let table = mountinfo::parse(&std::fs::read(format!("/proc/{}/mountinfo", self.0.id())).unwrap());
        table.mounts.into_iter().map(|m| m.mount_point).filter(|p| p.starts_with(at)).collect()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn another_namespace_keeps_no_copy_of_an_unpublished_volume() {
    in_namespace_both_ways("another_namespace_keeps_no_copy_of_an_unpublished_volume", || {
        let node = Node::new();
        let workshop = node.workshop();
        let target = node.target("target");
        for kind in SourceKind::ALL {
            let source = node.source(kind);
            for &relation in kind.gives() {
                for (started_first, remove) in [(true, true), (true, false), (false, true), (false, false)] {
                    let what = format!("{kind:?} {relation} other first: {started_first}, remove: {remove}");
                    let early = started_first.then(Other::start);
                    let before = files(&source);
                    assert_eq!(node.attach(&workshop, &node.job(&source, target.clone(), relation)), Ok(true));
                    let other = early.unwrap_or_else(Other::start);
                    assert_eq!(other.beneath(target.as_path()).len(), 4, "{what}: the other namespace sees it");
                    let theirs = other.beneath(&source);
                    assert_eq!(theirs.len(), 3, "{what}");
                    node.detach(&target, remove).unwrap();
                    assert_eq!(files(&source), before, "{what}: the node's own nested mounts");
                    assert_eq!(other.beneath(&source), theirs, "{what}: the other's view of them");
                    // Removing the directory takes what is mounted on it in *every* namespace with it (rmdir(2)
                    // since Linux 3.18), so only what stays (a staging directory, until the kubelet removes it)
                    // can keep a copy: that of a peer of the node's directory, whose nested mounts must stay.
                    if remove || relation != MountPropagation::Bidirectional {
                        let left = other.beneath(target.as_path());
                        assert_eq!(left, Vec::<PathBuf>::new(), "{what}: left in the other namespace");
                    }
                    node.detach(&target, true).unwrap();
                }
            }
        }
    });
}
