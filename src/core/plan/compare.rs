//! Compares a mount with the wish: its directory, its relation to the source, its flags.

use mounts::MountAttrs;
use mounts::propagation::{MountPropagation, PropagationState};

use crate::{Mounted, Source, Wish};

/// The strongest relation that a copy of this mount can have to it.
#[must_use]
pub const fn strongest(source: PropagationState) -> MountPropagation {
    if source.is_shared() {
        MountPropagation::Bidirectional
    } else if source.is_slave() {
        // A copy of a slave receives the events of the slave's master, but not mounts made on the slave itself.
        MountPropagation::HostToContainer
    } else {
        MountPropagation::None
    }
}

/// The relation of a copy to the source, from their peer groups and masters.
///
/// A copy bound from a staged mount may be a slave of that mount instead of the source. `staging` is then the staged
/// mount, which must itself receive from the source.
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

/// How a mount differs from the wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// It shows another directory.
    Directory,
    /// It has another relation to the source.
    Relation {
        /// What was wished.
        wished: MountPropagation,
        /// What is there.
        found: MountPropagation,
    },
    /// It is read-only but shouldn't be, or the other way round.
    ReadOnly {
        /// Whether it should be read-only.
        wished: bool,
    },
    /// It lacks flags.
    Attrs {
        /// What was wished.
        wished: MountAttrs,
        /// What is there.
        found: MountAttrs,
    },
    /// There is no mount.
    Missing,
    /// Its directory can't be used any more.
    Gone,
}

/// Compares a mount with the wish: a mount found at the target, and each new mount.
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
