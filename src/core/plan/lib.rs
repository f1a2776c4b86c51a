//! Decides, from what is there and what is wanted, which steps make a volume appear or vanish. Pure: no calls.
//!
//! One sequence serves staging and publishing: bind the source onto a slot of the private staging area
//! (`engine::staging_area`), give the copy its propagation and flags there, move it to its place. Each step is atomic in
//! the kernel and the copy receives mount events from the first one on, so no event of the source is lost; and the
//! node never sees a copy with the wrong propagation, which matters because changing it after the attach doesn't
//! reach the copies that the attach has already propagated to other namespaces.
#![forbid(unsafe_code)]

pub mod idmap;
pub mod layout;

use mounts::propagation::{MountPropagation, PropagationKind, PropagationState};
use mounts::{Change, DirId, Errno, MountAttrs, MountFacts};

/// The source as it was found: the directory and the mount it lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The directory.
    pub dir: DirId,
    /// The mount that it lies on.
    pub mount: MountFacts,
}

/// A mount found at a target or staging path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mounted {
    /// The directory that it shows, or why that can't be used any more.
    pub dir: Result<DirId, Gone>,
    /// The mount.
    pub mount: MountFacts,
}

/// Why a mounted directory is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The server of its file system is gone.
    Dead(Errno),
    /// The directory was deleted.
    Deleted,
}

/// What was found at a target or staging path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No such name; its parent exists.
    Nothing,
    /// A directory on which nothing is mounted.
    Directory {
        /// Whether it holds nothing.
        empty: bool,
    },
    /// Something that isn't a directory.
    Other {
        /// Whether it is a symlink.
        symlink: bool,
    },
    /// A mount.
    Mount(Mounted),
}

/// What the volume shall be at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// What must cross between the source and the place.
    pub relation: MountPropagation,
    /// Flags to set on every mount of the copy.
    pub attrs: MountAttrs,
    /// Whether a mount that shows another directory, or a dead one, is covered by a new one (healing), not refused.
    pub follow: bool,
}

/// What a bind is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The node's directory.
    Source,
    /// The staged copy of it, which is a mount of its own and so cheaper to bind.
    Staging,
}

/// A place where mounts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The target or staging path of the request.
    Target,
    /// The thread's slot of the staging area.
    Slot,
}

/// One step of making a source directory that is missing (`engine::make_source`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Making {
    /// Make the directory, under a temporary name.
    Directory,
    /// Give it its mode.
    Mode,
    /// Give it its owner.
    Owner,
    /// Give it its name.
    Name,
    /// Remove it from its temporary name.
    Remove,
}

/// One step: one system call that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make the target directory.
    MakeTarget,
    /// Bind the origin with its subtree onto the slot.
    Bind(Origin),
    /// Change the copy on the slot, with its subtree.
    Change(Change),
    /// Move the copy to the target.
    Move,
    /// Move the copy beneath the one mount at the target, which is unmounted afterwards.
    MoveBeneath,
    /// Unmount the top mount there if nothing is beneath it or in use.
    UnmountIdle(Place),
    /// Make the top mount there and its subtree private, so that unmounting it reaches nobody else.
    MakePrivate(Place),
    /// Unmount the top mount there with its subtree.
    Detach(Place),
    /// Remove the empty target directory.
    RemoveTarget,
    /// Make a source directory that is missing.
    Source(Making),
}

/// What has to be unmounted at a target before a new mount goes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clear {
    /// Nothing is mounted there.
    Nothing,
    /// Everything but the lowest mount. That one is what running containers have a copy of: what is mounted on it
    /// reaches them, and nothing else can.
    Layers {
        /// Whether, once it is alone, it is replaced too: nothing can be mounted on a directory that was deleted,
        /// nothing that is mounted on a private volume reaches anybody, and what is mounted on a peer of the source
        /// reaches everybody. It goes when the new one is beneath it, never
        /// before: the kubelet doesn't publish a running pod's volume again, so a target left bare stays so.
        lowest: bool,
    },
}

/// The steps to a wish, and what the result must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// What of that which is mounted at the target has to go first.
    pub clear: Clear,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// What the bind is taken from.
    pub origin: Origin,
}

/// What to do for a publish or stage request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is there already, as wished.
    Done,
    /// Make it.
    Attach(Attach),
}

/// Why a wish can't be met. Each becomes one error of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The source's mount passes nothing on, but something shall cross.
    SourcePrivate {
        /// What was asked.
        asked: MountPropagation,
        /// What the mount is.
        found: PropagationState,
    },
    /// The source's mount can't be bound.
    SourceUnbindable,
    /// The target is there, but differs from what is wished.
    Differs(Difference),
    /// The target holds files, which a mount would hide and an unpublish could never remove.
    NotEmpty,
    /// The target isn't a directory.
    NotDirectory {
        /// Whether it is a symlink.
        symlink: bool,
    },
}

/// In what a mount differs from the wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Another directory.
    Directory,
    /// Another relation to the source.
    Relation {
        /// What was wished.
        wished: MountPropagation,
        /// What is there.
        found: MountPropagation,
    },
    /// Read-only or not.
    ReadOnly {
        /// What was wished.
        wished: bool,
    },
    /// Flags that should be set and aren't.
    Attrs {
        /// What was wished.
        wished: MountAttrs,
        /// What is there.
        found: MountAttrs,
    },
    /// No mount at all.
    Missing,
    /// The mounted directory is of no use.
    Gone,
}

/// The strongest relation that a copy of this mount can have to it.
#[must_use]
pub const fn strongest(source: PropagationState) -> MountPropagation {
    if source.is_shared() {
        MountPropagation::Bidirectional
    } else if source.is_slave() {
        // What happens at its master still reaches every copy; what happens at the mount itself doesn't.
        MountPropagation::HostToContainer
    } else {
        MountPropagation::None
    }
}

/// What crosses between the source and a copy of it, read from the kernel's groups.
///
/// A copy bound from staging may be the staged mount's slave rather than the source's own; `staging` is then that
/// mount, and must itself receive from the source.
#[must_use]
pub fn relation(
    copy: PropagationState,
    source: PropagationState,
    staging: Option<PropagationState>,
) -> MountPropagation {
    let same = |a: Option<u64>, b: Option<u64>| a.is_some() && a == b;
    if same(copy.peer_group, source.peer_group) {
        return MountPropagation::Bidirectional;
    }
    let of_source = same(copy.master, source.peer_group) || (!source.is_shared() && same(copy.master, source.master));
    let of_staging = staging.is_some_and(|s| same(copy.master, s.peer_group));
    if of_source || of_staging { MountPropagation::HostToContainer } else { MountPropagation::None }
}

/// The relation that a staged copy gets: the strongest that any publish of the entry may need and the source can give.
#[must_use]
pub fn staging_relation(ceiling: MountPropagation, source: PropagationState) -> MountPropagation {
    ceiling.min(strongest(source))
}

/// The steps that publish (or stage) a source at a target.
///
/// # Errors
/// [`Refused`], before anything was changed.
pub fn attach(source: &Source, staging: Option<&Mounted>, target: &Found, wish: Wish) -> Result<Decision, Refused> {
    if source.mount.propagation.unbindable {
        return Err(Refused::SourceUnbindable);
    }
    if wish.relation > strongest(source.mount.propagation) {
        return Err(Refused::SourcePrivate { asked: wish.relation, found: source.mount.propagation });
    }
    // A volume made from a staged copy stays its slave, also where the copy wouldn't be used any more.
    let kin = staging.filter(|s| {
        s.dir == Ok(source.dir)
            && relation(s.mount.propagation, source.mount.propagation, None) >= MountPropagation::HostToContainer
    });
    let staging = staging.filter(|s| is_linked(s, source, wish));
    let mut steps = Vec::with_capacity(4);
    let mut clear = Clear::Nothing;
    match target {
        Found::Nothing => steps.push(Step::MakeTarget),
        Found::Directory { empty: true } => {}
        Found::Directory { empty: false } => return Err(Refused::NotEmpty),
        Found::Other { symlink } => return Err(Refused::NotDirectory { symlink: *symlink }),
        Found::Mount(mounted) => match compare(source, kin, mounted, wish) {
            Ok(()) => return Ok(Decision::Done),
            // A peer is covered only when healing has seen that it covers nobody else's directory.
            Err(difference) if wish.follow || difference == Difference::Gone => {
                let covered = wish.follow || wish.relation == MountPropagation::HostToContainer;
                let useless = wish.relation == MountPropagation::None || mounted.dir == Err(Gone::Deleted);
                clear = Clear::Layers { lowest: useless || !covered };
            }
            // Missing flags mean that the entry's flags were changed in between, which is no fault of the request:
            // failing it would make the kubelet tear down a running pod's volume (kubernetes#139045).
            Err(Difference::Attrs { .. }) => return Ok(Decision::Done),
            Err(difference) => return Err(Refused::Differs(difference)),
        },
    }
    let origin = if staging.is_some() { Origin::Staging } else { Origin::Source };
    let propagation = match wish.relation {
        MountPropagation::None => Some(PropagationKind::Private),
        MountPropagation::HostToContainer => Some(PropagationKind::Slave),
        MountPropagation::Bidirectional => None,
    };
    let change = Change { propagation, attrs: wish.attrs };
    steps.push(Step::Bind(origin));
    if change != Change::default() {
        steps.push(Step::Change(change));
    }
    steps.push(if clear == (Clear::Layers { lowest: true }) { Step::MoveBeneath } else { Step::Move });
    Ok(Decision::Attach(Attach { clear, steps, origin }))
}

/// Whether a staged mount can stand in for the source: same directory, alive, no stronger flags than wished, and
/// up to date. If not, the publish is taken from the source itself: staging saves time, nothing depends on it.
///
/// A staged copy of a mount that isn't shared misses what was mounted there since. And a Bidirectional volume is never
/// taken from it: nested mounts that are private at the source would become peers of the staged ones, and so link
/// the pods with each other behind the node's back.
fn is_linked(staging: &Mounted, source: &Source, wish: Wish) -> bool {
    staging.dir == Ok(source.dir)
        && wish.relation < MountPropagation::Bidirectional
        && source.mount.propagation.is_shared()
        && relation(staging.mount.propagation, source.mount.propagation, None) >= MountPropagation::HostToContainer
        && wish.attrs.union(source.mount.attrs).covers(staging.mount.attrs)
}

/// Compares a mount with the wish: of a target found, and of every target after it was made.
///
/// # Errors
/// The first [`Difference`].
pub fn compare(source: &Source, staging: Option<&Mounted>, found: &Mounted, wish: Wish) -> Result<(), Difference> {
    match found.dir {
        Err(_) => return Err(Difference::Gone),
        Ok(dir) if dir != source.dir => return Err(Difference::Directory),
        Ok(_) => {}
    }
    let staging = staging.map(|s| s.mount.propagation);
    let related = relation(found.mount.propagation, source.mount.propagation, staging);
    if related != wish.relation {
        return Err(Difference::Relation { wished: wish.relation, found: related });
    }
    let read_only = wish.attrs.read_only || source.mount.attrs.read_only;
    if found.mount.attrs.read_only != read_only {
        return Err(Difference::ReadOnly { wished: read_only });
    }
    if !found.mount.attrs.covers(wish.attrs) {
        return Err(Difference::Attrs { wished: wish.attrs, found: found.mount.attrs });
    }
    Ok(())
}

/// The steps that take back the ones in `done`, after a failure.
#[must_use]
pub fn undo(done: &[Step]) -> Vec<Step> {
    let mut steps = Vec::new();
    if done.contains(&Step::MoveBeneath) {
        // It can't be reached, and taking it away would leave nothing but what is of no use.
        return steps;
    }
    let place = if done.contains(&Step::Move) { Place::Target } else { Place::Slot };
    if done.iter().any(|s| matches!(s, Step::Bind(_))) {
        steps.extend([Step::MakePrivate(place), Step::Detach(place)]);
    }
    if done.contains(&Step::MakeTarget) {
        steps.push(Step::RemoveTarget);
    }
    steps
}

/// How a mount that has others beneath it is taken off a target, given the whole mount table of its namespace.
///
/// If another mount of this namespace is in its peer group, that may be the node's own directory, and if one is its
/// slave, a volume that was published from this staged copy: unmounting the nested mounts would then propagate to
/// it, so the tree is made private first. Otherwise it must *not* be made
/// private: the copies of it in other namespaces (a CSI driver's container that mounts the kubelet's directory)
/// go away only by that same propagation.
#[must_use]
pub fn detach_steps(table: &mounts::mountinfo::Table, mount: u64) -> Vec<Step> {
    let group = |m: &mounts::mountinfo::Mount| m.propagation.peer_group;
    let Some(top) = table.mounts.iter().find(|m| m.id == mount) else {
        return vec![Step::MakePrivate(Place::Target), Step::Detach(Place::Target)];
    };
    let mut ours = vec![top];
    ours.extend(table.beneath(mount));
    let groups: std::collections::HashSet<u64> = ours.iter().filter_map(|m| group(m)).collect();
    let ids: std::collections::HashSet<u64> = ours.iter().map(|m| m.id).collect();
    let receives = |m: &mounts::mountinfo::Mount| {
        [m.propagation.peer_group, m.propagation.master].into_iter().flatten().any(|g| groups.contains(&g))
    };
    if table.mounts.iter().any(|m| !ids.contains(&m.id) && receives(m)) {
        vec![Step::MakePrivate(Place::Target), Step::Detach(Place::Target)]
    } else {
        vec![Step::Detach(Place::Target)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use mounts::mountinfo;

    const DIR: DirId = DirId { device: (0, 40), inode: 2 };

    fn state(peer_group: Option<u64>, master: Option<u64>) -> PropagationState {
        PropagationState { peer_group, master, unbindable: false }
    }

    fn facts(propagation: PropagationState) -> MountFacts {
        MountFacts { id: 1, propagation, attrs: MountAttrs::default() }
    }

    fn source(propagation: PropagationState) -> Source {
        Source { dir: DIR, mount: facts(propagation) }
    }

    fn wish(relation: MountPropagation) -> Wish {
        Wish { relation, attrs: MountAttrs { nosuid: true, nodev: true, ..MountAttrs::default() }, follow: false }
    }

    fn steps(decision: Result<Decision, Refused>) -> Vec<Step> {
        match decision {
            Ok(Decision::Attach(attach)) => attach.steps,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_relation_gets_its_change() {
        for (relation, kind) in [
            (MountPropagation::None, Some(PropagationKind::Private)),
            (MountPropagation::HostToContainer, Some(PropagationKind::Slave)),
            (MountPropagation::Bidirectional, None),
        ] {
            let made = steps(attach(&source(state(Some(7), None)), None, &Found::Nothing, wish(relation)));
            assert_eq!(
                made,
                [
                    Step::MakeTarget,
                    Step::Bind(Origin::Source),
                    Step::Change(Change { propagation: kind, attrs: wish(relation).attrs }),
                    Step::Move
                ]
            );
        }
    }

    #[test]
    fn a_source_that_passes_nothing_on_is_refused_for_what_shall_cross() {
        for asked in [MountPropagation::HostToContainer, MountPropagation::Bidirectional] {
            let refused = attach(&source(state(None, None)), None, &Found::Nothing, wish(asked));
            assert_eq!(refused, Err(Refused::SourcePrivate { asked, found: state(None, None) }));
        }
        let slave = source(state(None, Some(3)));
        assert!(attach(&slave, None, &Found::Nothing, wish(MountPropagation::HostToContainer)).is_ok());
        assert!(attach(&slave, None, &Found::Nothing, wish(MountPropagation::Bidirectional)).is_err());
        assert!(attach(&source(state(None, None)), None, &Found::Nothing, wish(MountPropagation::None)).is_ok());
    }

    #[test]
    fn an_unbindable_source_is_refused() {
        let unbindable = PropagationState { unbindable: true, ..PropagationState::default() };
        let refused = attach(&source(unbindable), None, &Found::Nothing, wish(MountPropagation::None));
        assert_eq!(refused, Err(Refused::SourceUnbindable));
    }

    fn mounted(propagation: PropagationState, attrs: MountAttrs) -> Mounted {
        Mounted { dir: Ok(DIR), mount: MountFacts { id: 9, propagation, attrs } }
    }

    #[test]
    fn the_same_again_is_done_and_another_is_refused() {
        let source = source(state(Some(7), None));
        let there = mounted(state(Some(9), Some(7)), wish(MountPropagation::None).attrs);
        let ask = |relation, found: Mounted| attach(&source, None, &Found::Mount(found), wish(relation));
        assert_eq!(ask(MountPropagation::HostToContainer, there), Ok(Decision::Done));
        assert!(matches!(ask(MountPropagation::Bidirectional, there), Err(Refused::Differs(_))));
        let elsewhere = Mounted { dir: Ok(DirId { inode: 3, ..DIR }), ..there };
        assert_eq!(ask(MountPropagation::HostToContainer, elsewhere), Err(Refused::Differs(Difference::Directory)));
        let mut read_only = there;
        read_only.mount.attrs.read_only = true;
        assert_eq!(
            ask(MountPropagation::HostToContainer, read_only),
            Err(Refused::Differs(Difference::ReadOnly { wished: false }))
        );
        let dead = Mounted { dir: Err(Gone::Dead(Errno::ENOTCONN)), ..there };
        let clear = |decision: Result<Decision, Refused>| match decision {
            Ok(Decision::Attach(attach)) => attach.clear,
            other => panic!("{other:?}"),
        };
        assert_eq!(clear(ask(MountPropagation::HostToContainer, dead)), Clear::Layers { lowest: false });
        assert_eq!(clear(ask(MountPropagation::None, dead)), Clear::Layers { lowest: true });
        assert_eq!(clear(ask(MountPropagation::Bidirectional, dead)), Clear::Layers { lowest: true });
        for (found, relation) in
            [(dead, MountPropagation::Bidirectional), (elsewhere, MountPropagation::HostToContainer)]
        {
            let follow = Wish { follow: true, ..wish(relation) };
            assert_eq!(clear(attach(&source, None, &Found::Mount(found), follow)), Clear::Layers { lowest: false });
        }
        let fewer_flags = mounted(state(Some(9), Some(7)), MountAttrs::default());
        assert_eq!(ask(MountPropagation::HostToContainer, fewer_flags), Ok(Decision::Done));
    }

    #[test]
    fn staging_is_used_only_when_it_is_as_good_as_the_source() {
        let source = source(state(Some(7), None));
        let origin = |staging: Mounted, relation| match attach(&source, Some(&staging), &Found::Nothing, wish(relation))
        {
            Ok(Decision::Attach(a)) => a.origin,
            other => panic!("{other:?}"),
        };
        let attrs = wish(MountPropagation::None).attrs;
        let peer = mounted(state(Some(7), None), attrs);
        let slave = mounted(state(Some(8), Some(7)), attrs);
        let unlinked = mounted(state(Some(8), None), attrs);
        assert_eq!(origin(peer, MountPropagation::Bidirectional), Origin::Source);
        assert_eq!(origin(peer, MountPropagation::HostToContainer), Origin::Staging);
        assert_eq!(origin(slave, MountPropagation::HostToContainer), Origin::Staging);
        assert_eq!(origin(slave, MountPropagation::Bidirectional), Origin::Source);
        assert_eq!(origin(unlinked, MountPropagation::HostToContainer), Origin::Source);
        assert_eq!(origin(unlinked, MountPropagation::None), Origin::Source);
        let read_only = mounted(state(Some(7), None), MountAttrs { read_only: true, ..attrs });
        assert_eq!(origin(read_only, MountPropagation::None), Origin::Source);
        let dead = Mounted { dir: Err(Gone::Deleted), ..peer };
        assert_eq!(origin(dead, MountPropagation::None), Origin::Source);
    }

    #[test]
    fn nested_mounts_of_a_peer_are_made_private_before_they_go() {
        let table = mountinfo::parse(
            b"1 0 0:1 / / rw shared:1 - t t rw\n\
              10 1 0:2 / /src rw shared:7 - t t rw\n\
              11 10 0:3 / /src/n rw shared:8 - t t rw\n\
              20 1 0:2 / /peer rw shared:7 - t t rw\n\
              21 20 0:3 / /peer/n rw shared:8 - t t rw\n\
              30 1 0:2 / /slave rw shared:9 master:7 - t t rw\n\
              31 30 0:3 / /slave/n rw shared:10 master:8 - t t rw\n",
        );
        let detach = Step::Detach(Place::Target);
        assert_eq!(detach_steps(&table, 20), [Step::MakePrivate(Place::Target), detach]);
        assert_eq!(detach_steps(&table, 30), [detach]);
        // 40 is a volume that was published from the staged copy 30: it is 30's slave.
        let mut published = table.clone();
        published.mounts.extend(mountinfo::parse(b"40 1 0:2 / /published rw shared:11 master:9 - t t rw\n").mounts);
        assert_eq!(detach_steps(&published, 30), [Step::MakePrivate(Place::Target), detach]);
    }

    fn any_state() -> impl Strategy<Value = PropagationState> {
        (proptest::option::of(1u64..4), proptest::option::of(1u64..4), any::<bool>()).prop_map(|(p, m, u)| {
            PropagationState { peer_group: p, master: m, unbindable: u && p.is_none() && m.is_none() }
        })
    }

    proptest! {
        #[test]
        fn every_plan_binds_once_before_it_moves_and_can_be_undone(
            from in any_state(), at in any_state(), relation in 0usize..3, kind in 0u8..4
        ) {
            let found = match kind {
                0 => Found::Nothing,
                1 => Found::Directory { empty: true },
                2 => Found::Mount(mounted(at, MountAttrs::default())),
                _ => Found::Mount(Mounted { dir: Err(Gone::Deleted), mount: facts(at) }),
            };
            let wish = wish(MountPropagation::ALL[relation]);
            let Ok(Decision::Attach(plan)) = attach(&source(from), None, &found, wish) else { return Ok(()) };
            let bind = plan.steps.iter().position(|s| matches!(s, Step::Bind(_))).unwrap();
            let replaces = plan.clear == Clear::Layers { lowest: true };
            prop_assert_eq!(plan.steps.last(), Some(if replaces { &Step::MoveBeneath } else { &Step::Move }));
            prop_assert!(bind < plan.steps.len() - 1);
            prop_assert_eq!(plan.clear == Clear::Nothing, kind != 3);
            for done in 0..=plan.steps.len() {
                let back = undo(&plan.steps[..done]);
                prop_assert_eq!(back.contains(&Step::RemoveTarget), plan.steps[..done].contains(&Step::MakeTarget));
                prop_assert_eq!(
                    back.contains(&Step::Detach(Place::Target)), plan.steps[..done].contains(&Step::Move)
                );
            }
        }
    }
}
