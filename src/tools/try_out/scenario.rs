//! What is tried, and the documented results. Pure.

use mounts::propagation::{MountPropagation, PropagationState};
use serde::Serialize;

/// A place where mounts are made and looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Viewpoint {
    /// The node's directory itself.
    Node,
    /// The first pod's container. Its volume is persistent: staged, then published.
    PodA,
    /// The second pod's container. Its volume is inline.
    PodB,
}

impl Viewpoint {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Node, Self::PodA, Self::PodB];
    /// The two that are containers.
    pub const PODS: [Self; 2] = [Self::PodA, Self::PodB];

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::PodA => "pod A",
            Self::PodB => "pod B",
        }
    }

    /// The place as the end of a sentence.
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::Node => "on the node",
            Self::PodA => "in pod A",
            Self::PodB => "in pod B",
        }
    }

    /// A word for paths and uids.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::PodA => "a",
            Self::PodB => "b",
        }
    }
}

/// A mount of the trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// On the node, before any pod starts.
    Before,
    /// On the node, while the pods run.
    NodeLate,
    /// In pod A.
    PodA,
    /// In pod B.
    PodB,
}

impl Event {
    /// All four, in the order in which they happen.
    pub const ALL: [Self; 4] = [Self::Before, Self::NodeLate, Self::PodA, Self::PodB];

    /// The directory that is mounted on.
    #[must_use]
    pub const fn directory(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::NodeLate => "node-late",
            Self::PodA => "pod-a",
            Self::PodB => "pod-b",
        }
    }

    /// Where the mount is made.
    #[must_use]
    pub const fn made_at(self) -> Viewpoint {
        match self {
            Self::Before | Self::NodeLate => Viewpoint::Node,
            Self::PodA => Viewpoint::PodA,
            Self::PodB => Viewpoint::PodB,
        }
    }

    /// The event as the end of a sentence: "the mount made ...".
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::Before => "before the pods started",
            Self::NodeLate => "on the node while the pods ran",
            Self::PodA => "in pod A",
            Self::PodB => "in pod B",
        }
    }
}

/// The Kubernetes documentation that [`documented`] follows.
pub const DOCUMENTATION: &str = "https://kubernetes.io/docs/concepts/storage/volumes/#mount-propagation";

/// Whether, by Kubernetes' documentation, a mount is seen at `place` with the propagation `mode`.
#[must_use]
pub fn documented(mode: MountPropagation, event: Event, place: Viewpoint) -> bool {
    let crosses = match event {
        // The runtime binds the volume recursively.
        Event::Before => true,
        Event::NodeLate => mode >= MountPropagation::HostToContainer,
        Event::PodA | Event::PodB => mode >= MountPropagation::Bidirectional,
    };
    crosses || place == event.made_at()
}

/// One cell of the table: whether one mount was seen at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cell {
    /// Which mount: `before`, `nodeLate`, `podA` or `podB`.
    pub event: Event,
    /// Who looked: `node`, `podA` or `podB`.
    pub place: Viewpoint,
    /// Whether it was there.
    pub seen: bool,
    /// Whether it should have been.
    pub documented: bool,
}

impl Cell {
    /// The cell of an observation.
    #[must_use]
    pub fn new(mode: MountPropagation, event: Event, place: Viewpoint, seen: bool) -> Self {
        Self { event, place, seen, documented: documented(mode, event, place) }
    }

    /// Whether the observation differs from the documentation.
    #[must_use]
    pub const fn differs(&self) -> bool {
        self.seen != self.documented
    }
}

/// Whether a container runtime would bind a volume with this propagation. It refuses targets whose mount on the node does not
/// allow it.
///
/// # Errors
/// The propagation that the target must have.
pub fn runtime_check(mode: MountPropagation, target: PropagationState) -> Result<(), &'static str> {
    match mode {
        MountPropagation::HostToContainer if !target.is_shared() && !target.is_slave() => Err("shared or slave"),
        MountPropagation::Bidirectional if !target.is_shared() => Err("shared"),
        _ => Ok(()),
    }
}

/// The name of the allow-list's entry for a mode, which is also the volume's handle.
#[must_use]
pub const fn entry(mode: MountPropagation) -> &'static str {
    match mode {
        MountPropagation::None => "none",
        MountPropagation::HostToContainer => "host-to-container",
        MountPropagation::Bidirectional => "bidirectional",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expectations_are_those_of_the_documentation() {
        // Rows: node, pod A, pod B. Columns: before, on the node, in A, in B.
        let drawn = [
            (MountPropagation::None, ["xx..", "x.x.", "x..x"]),
            (MountPropagation::HostToContainer, ["xx..", "xxx.", "xx.x"]),
            (MountPropagation::Bidirectional, ["xxxx", "xxxx", "xxxx"]),
        ];
        for (mode, rows) in drawn {
            for (place, row) in Viewpoint::ALL.into_iter().zip(rows) {
                let found: String = Event::ALL
                    .into_iter()
                    .map(|event| if documented(mode, event, place) { 'x' } else { '.' })
                    .collect();
                assert_eq!(found, row, "{mode} {}", place.name());
            }
        }
    }

    #[test]
    fn a_cell_differs_both_ways() {
        let cell = |seen| Cell::new(MountPropagation::HostToContainer, Event::PodA, Viewpoint::Node, seen);
        assert!(cell(true).differs() && !cell(false).differs());
        let cell = |seen| Cell::new(MountPropagation::HostToContainer, Event::NodeLate, Viewpoint::PodB, seen);
        assert!(cell(false).differs() && !cell(true).differs());
    }

    #[test]
    fn the_runtime_refuses_what_could_not_work() {
        use MountPropagation::{Bidirectional, HostToContainer, None as Nothing};
        let private = PropagationState::default();
        let slave = PropagationState { master: Some(1), ..private };
        let shared = PropagationState { peer_group: Some(2), ..private };
        let accepted = |mode| [private, slave, shared].map(|state| runtime_check(mode, state).is_ok());
        assert_eq!(accepted(Nothing), [true, true, true]);
        assert_eq!(accepted(HostToContainer), [false, true, true]);
        assert_eq!(accepted(Bidirectional), [false, false, true]);
    }

    #[test]
    fn every_mode_has_an_entry_that_the_allow_list_takes() {
        for mode in MountPropagation::ALL {
            assert!(allowlist::names::EntryName::parse(entry(mode)).is_ok());
        }
    }
}
