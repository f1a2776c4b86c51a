//! Decides what a publish or stage request does: nothing, the steps of an attach, or a refusal.

use mounts::Change;
use mounts::propagation::{MountPropagation, PropagationKind, PropagationState};

use crate::compare::{Difference, compare, relation, strongest};
use crate::{Found, Gone, Mounted, Origin, Source, Step, Wish};

/// What to unmount at a target before a new mount goes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clear {
    /// Nothing is mounted there.
    Nothing,
    /// All but the lowest mount. Running containers have copies of the lowest one, so only what is mounted on it
    /// reaches them.
    Layers {
        /// Whether the lowest mount is replaced too, once it is alone. It is if its directory was deleted (nothing can
        /// be mounted there), if the volume is private (what is mounted on it reaches nobody), or if it is a peer of
        /// the source (what is mounted on it reaches everybody).
        ///
        /// It is unmounted only once the new mount is beneath it. The kubelet doesn't publish a running pod's volume
        /// again, so a bare target would stay bare.
        lowest: bool,
    },
}

/// The steps that make a mount as wished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// What to unmount at the target first.
    pub clear: Clear,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// What the bind takes as its source.
    pub origin: Origin,
}

/// What to do for a publish or stage request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The mount exists as wished.
    Done,
    /// Make the mount.
    Attach(Attach),
}

/// Why a wish is refused. Each reason is one error of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The pod wants propagation, but the source's mount is private.
    SourcePrivate {
        /// The propagation asked for.
        asked: MountPropagation,
        /// The propagation of the source's mount.
        found: PropagationState,
    },
    /// The source's mount is unbindable.
    SourceUnbindable,
    /// A mount is at the target, but it differs from the wish.
    Differs(Difference),
    /// The target holds files. A mount would hide them, and an unpublish couldn't remove them.
    NotEmpty,
    /// The target isn't a directory.
    NotDirectory {
        /// Whether it is a symlink.
        symlink: bool,
    },
}

/// The relation of a staged copy: the strongest that both the entry's ceiling and the source allow.
#[must_use]
pub fn staging_relation(ceiling: MountPropagation, source: PropagationState) -> MountPropagation {
    ceiling.min(strongest(source))
}

/// The steps that publish (or stage) a source at a target.
///
/// # Errors
/// [`Refused`]. Nothing was changed.
pub fn attach(source: &Source, staging: Option<&Mounted>, target: &Found, wish: Wish) -> Result<Decision, Refused> {
    if source.mount.propagation.unbindable {
        return Err(Refused::SourceUnbindable);
    }
    if wish.relation > strongest(source.mount.propagation) {
        return Err(Refused::SourcePrivate { asked: wish.relation, found: source.mount.propagation });
    }
    // A volume made from a staged copy stays its slave, even where the copy would no longer be used.
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
            // A peer is covered only in healing, which has checked that this covers nobody else's directory.
            Err(difference) if wish.follow || difference == Difference::Gone => {
                let covered = wish.follow || wish.relation == MountPropagation::HostToContainer;
                let useless = wish.relation == MountPropagation::None || mounted.dir == Err(Gone::Deleted);
                clear = Clear::Layers { lowest: useless || !covered };
            }
            // Missing flags mean that the entry's flags have changed since. That isn't the request's fault, and an
            // error would make the kubelet tear down a running pod's volume (kubernetes#139045).
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

/// Whether a staged mount can replace the source: same directory, alive, no flags beyond the wish, and up to date. If
/// not, the source itself is bound: staging saves time and nothing depends on it.
///
/// A staged copy of a mount that isn't shared lacks what was mounted there later. A Bidirectional volume is never bound
/// from a staged copy. Nested mounts that are private at the source would become peers of the staged ones, and so
/// connect the pods without the node knowing.
fn is_linked(staging: &Mounted, source: &Source, wish: Wish) -> bool {
    staging.dir == Ok(source.dir)
        && wish.relation < MountPropagation::Bidirectional
        && source.mount.propagation.is_shared()
        && relation(staging.mount.propagation, source.mount.propagation, None) >= MountPropagation::HostToContainer
        && wish.attrs.union(source.mount.attrs).covers(staging.mount.attrs)
}

#[cfg(test)]
mod tests {
    use mounts::{DirId, Errno, MountAttrs, MountFacts};
    use proptest::prelude::*;

    use super::*;
    use crate::{MountPoint, undo};

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
                    back.contains(&Step::Detach(MountPoint::Target)), plan.steps[..done].contains(&Step::Move)
                );
            }
        }
    }
}
