//! The tables of sharedsubtree.rst, one test each, and the rules of its prose. `tests/subtrees` tests that the kernel
//! does the same.

use std::path::Path;

use State::{Private, Shared, SharedSlave, Slave, Unbindable};
use mounts::propagation::{Propagation, PropagationKind};
use mounts::{Errno, mountinfo};
use proptest::prelude::*;

use super::{Doubt, Forest, Operation, Stop, VisibleMount};
use crate::machine::{LeftOut, Machine, Namespace};

/// The states of a mount in the document's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Shared,
    Slave,
    SharedSlave,
    Private,
    Unbindable,
}

/// A forest under test: one namespace with a private root.
struct World(Forest);

impl World {
    fn new() -> Self {
        let table = mountinfo::parse(b"1 0 0:1 / / rw - t t rw\n");
        let machine = Machine { namespaces: vec![Namespace { table, ..Namespace::default() }], ..Machine::default() };
        let mut forest = Forest::of(&machine);
        forest.vouch(0, 1, false);
        Self(forest)
    }

    fn try_in(&mut self, namespace: usize, operation: &Operation) -> Result<Option<usize>, Stop> {
        self.0.apply(namespace, operation)
    }

    fn done(&mut self, operation: &Operation) -> Option<usize> {
        self.try_in(0, operation).unwrap_or_else(|stop| panic!("{operation}: {stop}"))
    }

    fn refused(&mut self, operation: &Operation) -> Errno {
        let before = self.tables();
        match self.try_in(0, operation) {
            Err(Stop::Refused(errno)) => {
                assert_eq!(self.tables(), before, "{operation} was refused and changed something");
                errno
            }
            other => panic!("{operation}: {other:?}"),
        }
    }

    fn tables(&self) -> Vec<Vec<VisibleMount>> {
        (0..self.0.namespaces.len()).map(|namespace| self.0.visible_mounts(namespace)).collect()
    }

    fn make(&mut self, at: &str, kind: PropagationKind) {
        self.done(&Operation::Change { at: at.into(), to: Propagation::new(kind, false) });
    }

    /// Mounts a new file system in a state. A shared one gets a peer beside it, a slave gets a master.
    fn tree(&mut self, at: &str, state: State) {
        let beside = format!("{at}-beside");
        self.done(&fresh(&beside));
        if state == Private || state == Unbindable {
            self.done(&bind(&beside, at));
            if state == Unbindable {
                self.make(at, PropagationKind::Unbindable);
            }
            return;
        }
        self.make(&beside, PropagationKind::Shared);
        self.done(&bind(&beside, at));
        if state != Shared {
            self.make(at, PropagationKind::Slave);
        }
        if state == SharedSlave {
            self.make(at, PropagationKind::Shared);
        }
    }

    fn at(&self, namespace: usize, place: &str) -> VisibleMount {
        self.find(namespace, place).unwrap_or_else(|| panic!("nothing is mounted at {place} in {namespace}"))
    }

    /// The topmost mount at a mount point.
    fn find(&self, namespace: usize, place: &str) -> Option<VisibleMount> {
        self.0.visible_mounts(namespace).into_iter().rfind(|mount| mount.mount_point == Path::new(place))
    }

    fn state(&self, namespace: usize, place: &str) -> State {
        let found = self.at(namespace, place).propagation;
        match (found.peer_group.is_some(), found.master.is_some(), found.unbindable) {
            (true, false, false) => Shared,
            (true, true, false) => SharedSlave,
            (false, true, false) => Slave,
            (false, false, false) => Private,
            (false, false, true) => Unbindable,
            _ => panic!("no such state: {found:?}"),
        }
    }
}

fn fresh(at: &str) -> Operation {
    // Each mount point has its own file system.
    let minor = at.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    Operation::Mount { device: (1, minor), at: at.into() }
}

fn bind(from: &str, to: &str) -> Operation {
    Operation::Bind { from: from.into(), to: to.into(), recursive: false }
}

fn rbind(from: &str, to: &str) -> Operation {
    Operation::Bind { from: from.into(), to: to.into(), recursive: true }
}

fn moved(from: &str, to: &str) -> Operation {
    Operation::Move { from: from.into(), to: to.into() }
}

fn unmount(at: &str) -> Operation {
    Operation::Unmount { at: at.into(), lazy: false }
}

fn detach(at: &str) -> Operation {
    Operation::Unmount { at: at.into(), lazy: true }
}

fn unshare(propagation: Option<PropagationKind>) -> Operation {
    Operation::Unshare { propagation, user: false }
}

/// A forest with two destinations to attach to: the shared `/shared` with a peer `/shared-beside`, and the private
/// `/private`.
fn with_destinations(source: State) -> World {
    let mut world = World::new();
    world.tree("/shared", Shared);
    world.tree("/private", Private);
    world.tree("/source", source);
    world
}

#[test]
fn the_state_diagram() {
    for (state, orders) in [
        (Shared, [Shared, Slave, Private, Unbindable]),
        (Slave, [SharedSlave, Slave, Private, Unbindable]),
        (SharedSlave, [SharedSlave, Slave, Private, Unbindable]),
        (Private, [Shared, Private, Private, Unbindable]),
        (Unbindable, [Shared, Unbindable, Private, Unbindable]),
    ] {
        use PropagationKind as Kind;
        for (kind, after) in [Kind::Shared, Kind::Slave, Kind::Private, Kind::Unbindable].into_iter().zip(orders) {
            let mut world = World::new();
            world.tree("/m", state);
            world.make("/m", kind);
            assert_eq!(world.state(0, "/m"), after, "{state:?} made {kind:?}");
        }
    }
}

#[test]
fn a_shared_mount_without_peers_becomes_private_if_it_is_made_a_slave() {
    let mut world = World::new();
    world.done(&fresh("/m"));
    world.make("/m", PropagationKind::Shared);
    world.make("/m", PropagationKind::Slave);
    assert_eq!(world.state(0, "/m"), Private);
}

#[test]
fn slaves_of_a_group_that_ends_receive_from_its_master() {
    let mut world = World::new();
    world.tree("/middle", SharedSlave);
    let (middle, master) = (world.at(0, "/middle"), world.at(0, "/middle-beside"));
    world.done(&bind("/middle", "/low"));
    world.make("/low", PropagationKind::Slave);
    assert_eq!(world.at(0, "/low").propagation.master, middle.propagation.peer_group);
    world.make("/middle", PropagationKind::Private);
    assert_eq!(world.at(0, "/low").propagation.master, master.propagation.peer_group);
}

#[test]
fn the_bind_table() {
    for (source, onto_shared, onto_private) in [
        (Shared, Shared, Shared),
        (Private, Shared, Private),
        (Slave, SharedSlave, Slave),
        (SharedSlave, SharedSlave, SharedSlave),
    ] {
        let mut world = with_destinations(source);
        world.done(&bind("/source", "/shared/x"));
        world.done(&bind("/source", "/private/x"));
        assert_eq!(world.state(0, "/shared/x"), onto_shared, "{source:?} onto shared");
        assert_eq!(world.state(0, "/private/x"), onto_private, "{source:?} onto private");
        let (original, copy) = (world.at(0, "/source").propagation, world.at(0, "/shared/x").propagation);
        assert_eq!(copy.master, original.master);
        if source == Shared {
            assert_eq!(copy.peer_group, original.peer_group, "the copy is a peer of the original");
        } else if source == Private {
            assert_ne!(copy.peer_group, original.peer_group);
        }
        assert_eq!(world.at(0, "/shared-beside/x").propagation, copy, "the copy at the peer is a peer of it");
        assert!(world.find(0, "/private-beside/x").is_none());
    }
    let mut world = with_destinations(Unbindable);
    assert_eq!(world.refused(&bind("/source", "/shared/x")), Errno::EINVAL);
    assert_eq!(world.refused(&rbind("/source", "/private/x")), Errno::EINVAL);
}

#[test]
fn rbind_takes_the_tree_and_leaves_out_what_is_unbindable() {
    let mut world = with_destinations(Private);
    for (place, kind) in
        [("/source/kept", None), ("/source/kept/deep", None), ("/source/not", Some(PropagationKind::Unbindable))]
    {
        world.done(&fresh(place));
        if let Some(kind) = kind {
            world.make(place, kind);
        }
    }
    world.done(&fresh("/source/not/below"));
    world.done(&rbind("/source", "/shared/x"));
    for base in ["/shared/x", "/shared-beside/x"] {
        let at = |name: &str| world.find(0, &format!("{base}{name}"));
        assert!(at("").is_some() && at("/kept").is_some() && at("/kept/deep").is_some());
        assert!(at("/not").is_none() && at("/not/below").is_none());
    }
    world.done(&rbind("/source/kept", "/private/x"));
    assert!(world.find(0, "/private/x/deep").is_some(), "of a directory, what lies in it");
}

#[test]
fn the_move_table() {
    for (source, onto_shared, onto_private) in [
        (Shared, Some(Shared), Shared),
        (Private, Some(Shared), Private),
        (Slave, Some(SharedSlave), Slave),
        (SharedSlave, Some(SharedSlave), SharedSlave),
        (Unbindable, None, Unbindable),
    ] {
        let mut world = with_destinations(source);
        world.done(&moved("/source", "/private/x"));
        assert_eq!(world.state(0, "/private/x"), onto_private, "{source:?} onto private");
        assert!(world.find(0, "/source").is_none());
        match onto_shared {
            Some(after) => {
                world.done(&moved("/private/x", "/shared/x"));
                assert_eq!(world.state(0, "/shared/x"), after, "{source:?} onto shared");
                assert_eq!(world.state(0, "/shared-beside/x"), after);
                assert_eq!(world.refused(&moved("/shared/x", "/y")), Errno::EINVAL, "its parent is shared");
            }
            None => assert_eq!(world.refused(&moved("/private/x", "/shared/x")), Errno::EINVAL),
        }
    }
}

#[test]
fn what_can_not_be_moved() {
    let mut world = with_destinations(Private);
    world.done(&fresh("/source/below"));
    assert_eq!(world.refused(&moved("/source", "/source/below")), Errno::ELOOP);
    assert_eq!(world.refused(&moved("/source/dir", "/x")), Errno::EINVAL, "not the root of a mount");
    world.make("/source/below", PropagationKind::Unbindable);
    assert_eq!(world.refused(&moved("/source", "/shared/x")), Errno::EINVAL, "an unbindable mount beneath");
}

#[test]
fn a_new_mount_goes_to_peers_and_slaves_and_the_slaves_of_slaves() {
    let mut world = World::new();
    world.tree("/m", SharedSlave);
    world.done(&bind("/m", "/low"));
    world.make("/low", PropagationKind::Slave);
    world.done(&fresh("/m-beside/x"));
    assert_eq!(world.state(0, "/m-beside/x"), Shared);
    assert_eq!(world.state(0, "/m/x"), SharedSlave);
    assert_eq!(world.state(0, "/low/x"), Slave);
    let group = |place: &str| world.at(0, place).propagation.peer_group;
    assert_eq!(world.at(0, "/m/x").propagation.master, group("/m-beside/x"));
    assert_eq!(world.at(0, "/low/x").propagation.master, group("/m/x"));
    world.done(&fresh("/low/y"));
    assert!(world.find(0, "/m/y").is_none() && world.find(0, "/m-beside/y").is_none(), "nothing goes up");
}

#[test]
fn a_slave_of_what_got_no_copy_is_a_slave_of_what_did() {
    let mut world = World::new();
    world.tree("/top", Shared);
    world.done(&bind("/top/narrow", "/middle"));
    world.make("/middle", PropagationKind::Slave);
    world.make("/middle", PropagationKind::Shared);
    // A slave of the middle mount that shows more than it: bound as a peer of the top, then made a slave of the
    // middle's group.
    let narrow = world.at(0, "/middle").propagation;
    world.done(&bind("/top", "/wide"));
    let number = world.0.by_id[&world.at(0, "/wide").id];
    world.0.set_group(number, None);
    world.0.set_master(number, narrow.peer_group);
    world.done(&fresh("/top/x"));
    assert_eq!(world.at(0, "/wide/x").propagation.master, world.at(0, "/top/x").propagation.peer_group);
}

#[test]
fn what_arrives_where_something_is_mounted_is_tucked_beneath_it() {
    let mut world = World::new();
    world.tree("/m", Slave);
    world.done(&fresh("/m/x"));
    let there = world.at(0, "/m/x");
    world.done(&fresh("/m-beside/x"));
    let now = world.at(0, "/m/x");
    assert_eq!(now.id, there.id, "what was there is still on top");
    let below = world.0.visible_mounts(0).into_iter().find(|mount| Some(mount.id) == now.parent).unwrap();
    assert_eq!(below.file_system, world.at(0, "/m-beside/x").file_system);
    world.done(&unmount("/m-beside/x"));
    let after = world.at(0, "/m/x");
    assert_eq!((after.id, after.parent), (there.id, there.parent), "it slides down again");
}

#[test]
fn the_same_file_system_is_not_mounted_twice_on_the_same_root() {
    let mut world = World::new();
    world.done(&fresh("/m"));
    assert_eq!(world.refused(&fresh("/m")), Errno::EBUSY);
    world.done(&fresh("/m/below"));
}

#[test]
fn an_unmount_goes_where_the_mount_went_but_not_to_what_has_others_in_it() {
    let mut world = World::new();
    world.tree("/m", Slave);
    world.done(&fresh("/m-beside/x"));
    world.done(&unmount("/m-beside/x"));
    assert!(world.find(0, "/m/x").is_none());
    world.done(&fresh("/m-beside/x"));
    world.done(&fresh("/m/x/own"));
    assert_eq!(world.refused(&unmount("/m/x")), Errno::EBUSY);
    world.done(&unmount("/m-beside/x"));
    assert!(world.find(0, "/m/x").is_some() && world.find(0, "/m/x/own").is_some());
    assert_eq!(world.refused(&unmount("/m/x/dir")), Errno::EINVAL);
    world.done(&detach("/m/x"));
    assert!(world.find(0, "/m/x/own").is_none());
}

#[test]
fn a_lazy_unmount_takes_the_tree_everywhere() {
    let mut world = World::new();
    world.tree("/m", Shared);
    world.done(&fresh("/m/x"));
    world.done(&fresh("/m/x/deep"));
    assert!(world.find(0, "/m-beside/x/deep").is_some());
    world.done(&detach("/m-beside/x"));
    assert!(world.find(0, "/m/x").is_none() && world.find(0, "/m/x/deep").is_none());
}

#[test]
fn a_new_namespace_holds_peers_of_all_that_is_shared_and_unshare_makes_them_something() {
    use PropagationKind as Kind;
    for (ordered, [shared, slave, private]) in [
        (None, [Shared, Slave, Private]),
        (Some(Kind::Private), [Private, Private, Private]),
        (Some(Kind::Slave), [Slave, Slave, Private]),
        (Some(Kind::Shared), [Shared, SharedSlave, Shared]),
    ] {
        let mut world = World::new();
        for (place, state) in [("/shared", Shared), ("/slave", Slave), ("/private", Private)] {
            world.tree(place, state);
        }
        let group = world.at(0, "/shared").propagation.peer_group;
        let new = world.done(&unshare(ordered)).unwrap();
        assert_eq!(
            [world.state(new, "/shared"), world.state(new, "/slave"), world.state(new, "/private")],
            [shared, slave, private],
            "{ordered:?}"
        );
        let copy = world.at(new, "/shared").propagation;
        match ordered {
            None | Some(Kind::Shared) => assert_eq!(copy.peer_group, group),
            Some(Kind::Slave) => assert_eq!(copy.master, group),
            _ => {}
        }
        world.done(&fresh("/shared/x"));
        assert_eq!(world.find(new, "/shared/x").is_some(), ordered != Some(Kind::Private));
        world.try_in(new, &Operation::End).unwrap();
        assert!(world.find(0, "/shared/x").is_some(), "the end of a namespace propagates nowhere");
        assert!(matches!(world.try_in(new, &fresh("/y")), Err(Stop::Unknown(_))), "it is gone");
    }
}

#[test]
fn another_user_namespace_gets_slaves_that_are_locked() {
    let mut world = World::new();
    world.tree("/m", Shared);
    world.done(&fresh("/m/x"));
    let new = world.done(&Operation::Unshare { propagation: None, user: true }).unwrap();
    assert_eq!(world.state(new, "/m"), Slave);
    let refused = |world: &mut World, operation: &Operation| world.try_in(new, operation).unwrap_err();
    assert_eq!(refused(&mut world, &detach("/m/x")), Errno::EINVAL.into());
    assert_eq!(refused(&mut world, &moved("/m/x", "/y")), Errno::EINVAL.into());
    assert_eq!(refused(&mut world, &bind("/m", "/y")), Errno::EINVAL.into(), "it would show what /m/x hides");
    world.try_in(new, &rbind("/m", "/y")).unwrap();
    world.done(&rbind("/m", "/m/tree"));
    assert_eq!(
        refused(&mut world, &detach("/m/tree/x")),
        Errno::EINVAL.into(),
        "what comes along is locked to its parent"
    );
    world.try_in(new, &detach("/m/tree")).unwrap();
    world.done(&detach("/m/x"));
    assert!(world.find(new, "/m/x").is_none(), "who mounted it may unmount it");
}

#[test]
fn pivot_root_changes_places() {
    let mut world = World::new();
    world.tree("/new", Private);
    let (old, new) = (world.at(0, "/").id, world.at(0, "/new").id);
    let pivot =
        |new_root: &str, put_old: &str| Operation::PivotRoot { new_root: new_root.into(), put_old: put_old.into() };
    assert_eq!(world.refused(&pivot("/new", "/elsewhere")), Errno::EBUSY, "on the root's own mount");
    assert_eq!(world.refused(&pivot("/new/dir", "/new/old")), Errno::EINVAL);
    assert_eq!(world.refused(&pivot("/new", "/new-beside/old")), Errno::EINVAL, "not beneath the new root");
    world.done(&pivot("/new", "/new/old"));
    assert_eq!((world.at(0, "/").id, world.at(0, "/old").id), (new, old));
    assert!(world.find(0, "/old/new-beside").is_some());
    world.make("/", PropagationKind::Shared);
    world.done(&fresh("/old/next"));
    assert_eq!(world.refused(&pivot("/old/next", "/")), Errno::EINVAL, "shared");
}

#[test]
fn a_detached_tree_receives_nothing_and_is_a_peer_when_it_is_attached() {
    let mut world = World::new();
    world.tree("/m", Shared);
    world.done(&fresh("/m/x"));
    let open = |from: &str, recursive| Operation::OpenTree { from: from.into(), recursive };
    let tree = world.done(&open("/m", true)).unwrap();
    let alone = world.done(&open("/m", false)).unwrap();
    world.done(&fresh("/m/y"));
    world.done(&Operation::Attach { tree, to: "/t".into() });
    assert!(world.find(0, "/t/x").is_some() && world.find(0, "/t/y").is_none());
    assert_eq!(world.at(0, "/t").propagation, world.at(0, "/m").propagation);
    world.done(&fresh("/m/z"));
    assert!(world.find(0, "/t/z").is_some(), "from now on it does");
    world.done(&Operation::Close { tree: alone });
    for gone in [Operation::Attach { tree, to: "/u".into() }, Operation::Close { tree: alone }] {
        assert!(matches!(world.try_in(0, &gone), Err(Stop::Unknown(_))));
    }
    world.make("/m", PropagationKind::Unbindable);
    assert_eq!(world.refused(&open("/m", true)), Errno::EINVAL);
}

#[test]
fn what_mountinfo_does_not_tell_is_unknown() {
    let table = || mountinfo::parse(b"1 0 0:1 / / rw shared:1 - t t rw\n2 1 0:1 /a /m rw master:1 - t t rw\n");
    let machine = |left_out: &[LeftOut], user_namespace| Machine {
        namespaces: vec![Namespace { table: table(), user_namespace, ..Namespace::default() }],
        left_out: left_out.to_vec(),
    };
    let doubts = |forest: &Forest, operation: &Operation| match forest.clone().apply(0, operation) {
        Err(Stop::Unknown(unknown)) => unknown.doubts,
        other => panic!("{operation}: {other:?}"),
    };
    let stranger = Forest::of(&machine(&[], None));
    assert_eq!(doubts(&stranger, &detach("/m")), [Doubt::Locked(2)]);
    assert_eq!(doubts(&stranger, &moved("/m", "/n")), [Doubt::Locked(2)]);
    assert_eq!(doubts(&stranger, &bind("/", "/n")), [Doubt::Locked(2)]);
    let known = Forest::of(&machine(&[], Some(0xEFFF_FFFD)));
    assert!(known.clone().apply(0, &detach("/m")).is_ok(), "nothing is locked in the initial user namespace");
    let pivot = Operation::PivotRoot { new_root: "/m".into(), put_old: "/m/old".into() };
    assert_eq!(known.clone().apply(0, &pivot), Err(Errno::EINVAL.into()), "the parent of /m is shared");
    let make = |kind| Operation::Change { at: "/".into(), to: Propagation::new(kind, false) };
    assert!(known.clone().apply(0, &make(PropagationKind::Slave)).is_ok());
    let left_out = [LeftOut { what: "a process".into(), why: "no right".into() }];
    let partly = Forest::of(&machine(&left_out, Some(0xEFFF_FFFD)));
    assert_eq!(doubts(&partly, &make(PropagationKind::Slave)), [Doubt::Members(1)], "it may have a peer there");
    assert!(partly.clone().apply(0, &make(PropagationKind::Shared)).is_ok());
    assert_eq!(doubts(&partly, &detach("/")), [Doubt::Root(1)]);
}

#[test]
fn operations_are_named_as_the_commands_that_do_them() {
    assert_eq!(rbind("/a", "/b").to_string(), "mount --rbind /a /b");
    assert_eq!(detach("/a").to_string(), "umount -l /a");
    assert_eq!(unshare(None).to_string(), "unshare --mount --propagation unchanged");
    let change = Operation::Change { at: "/a".into(), to: Propagation::new(PropagationKind::Slave, true) };
    assert_eq!(change.to_string(), "mount --make-rslave /a");
}

/// A line of an impossible table: random ids, parents and groups. So there are cycles, duplicates and paths that don't
/// fit together.
fn torn_line() -> impl Strategy<Value = String> {
    let place = prop::sample::select(vec!["/", "/a", "/a/b", "/b", "/b/a"]);
    let root = prop::sample::select(vec!["/", "/a", "/a/b", "/a//deleted", "/../x", "mnt:[1]"]);
    let relation = prop::sample::select(vec![
        "",
        "shared:1 ",
        "shared:2 ",
        "master:1 ",
        "shared:1 master:2 ",
        "master:3 ",
        "unbindable ",
    ]);
    let kind = prop::sample::select(vec!["t", "nfs4"]);
    (0u64..9, 0u64..9, 1u32..3, root, place, relation, kind).prop_map(
        |(id, parent, device, root, place, relation, kind)| {
            format!("{id} {parent} 0:{device} {root} {place} rw {relation}- {kind} t rw\n")
        },
    )
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let path = || prop::sample::select(vec!["/", "/a", "/a/b", "/b", "/b/a", "/c", "/a/../b", "a"]);
    prop_oneof![
        (1u32..4, path()).prop_map(|(minor, at)| Operation::Mount { device: (0, minor), at: at.into() }),
        (path(), path(), any::<bool>()).prop_map(|(from, to, recursive)| Operation::Bind {
            from: from.into(),
            to: to.into(),
            recursive
        }),
        (path(), path()).prop_map(|(from, to)| moved(from, to)),
        (path(), any::<bool>()).prop_map(|(at, lazy)| Operation::Unmount { at: at.into(), lazy }),
        (path(), prop::sample::select(Propagation::ALL.to_vec()))
            .prop_map(|(at, to)| Operation::Change { at: at.into(), to }),
        any::<bool>().prop_map(|user| Operation::Unshare { propagation: None, user }),
        (path(), path()).prop_map(|(new_root, put_old)| Operation::PivotRoot {
            new_root: new_root.into(),
            put_old: put_old.into()
        }),
        (path(), any::<bool>()).prop_map(|(from, recursive)| Operation::OpenTree { from: from.into(), recursive }),
        (0usize..6, path()).prop_map(|(tree, to)| Operation::Attach { tree, to: to.into() }),
        (0usize..6).prop_map(|tree| Operation::Close { tree }),
        Just(Operation::End),
    ]
}

proptest! {
    /// Any table: no panic and no endless loop. What is refused or unknown changes nothing.
    #[test]
    fn torn_tables_stop_nothing(
        tables in prop::collection::vec(prop::collection::vec(torn_line(), 0..10), 1..3),
        operations in prop::collection::vec((0usize..4, any_operation()), 0..8),
        vouched in any::<bool>(),
    ) {
        let namespaces = tables
            .iter()
            .map(|lines| Namespace { table: mountinfo::parse(lines.concat().as_bytes()), ..Namespace::default() })
            .collect();
        let mut world = World(Forest::of(&Machine { namespaces, left_out: Vec::new() }));
        if vouched {
            world.0.vouch(0, 1, false);
        }
        for (namespace, operation) in &operations {
            let before = world.tables();
            if world.try_in(*namespace, operation).is_err() {
                prop_assert_eq!(&world.tables(), &before, "{}", operation);
            }
            for path in ["/", "/a/b/c", "/b"] {
                let known = world.0.receivers(*namespace, Path::new(path)).unwrap_or_else(|unknown| unknown.known);
                for receiver in known {
                    let _ = world.0.covered(&receiver);
                }
            }
        }
    }
}
