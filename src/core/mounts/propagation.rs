//! The propagation types of a mount: the kernel's, `mount(8)`'s, and Kubernetes'.
//!
//! Three vocabularies describe the same thing and are easily confused, so each has its own type:
//!
//! - [`Propagation`] is a *change*, as `mount(8)` names it (`mount --make-rslave`).
//! - [`PropagationState`] is what the kernel *reports* of one mount. It is never recursive; a mount can be shared and
//!   slave at once.
//! - [`MountPropagation`] is what a pod *asks for*.
//!
//! Sources: mount_namespaces(7), mount(8), Documentation/filesystems/sharedsubtree.rst, and
//! `volumeMounts[].mountPropagation` of the Kubernetes API.

use std::fmt;
use std::str::FromStr;

/// The four propagation types (sharedsubtree.rst, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PropagationKind {
    /// Neither sends nor receives mount events.
    Private,
    /// Member of a peer group: sends events to its peers and receives theirs.
    Shared,
    /// Receives events from its master's peer group and sends none back.
    Slave,
    /// Private, and can't be the source of a bind mount.
    Unbindable,
}

/// A change of propagation as `mount(8)` names it: a type, for one mount or for its whole subtree.
///
/// `mount(8)` has eight names: four types, each with a recursive form. (Lists of six or seven leave out `unbindable`,
/// or are Docker's.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Propagation {
    /// The new type of the mount.
    pub kind: PropagationKind,
    /// Whether every mount beneath it changes too (`MS_REC`, `AT_RECURSIVE`).
    pub recursive: bool,
}

impl Propagation {
    /// All eight, non-recursive ones first, in the order of `mount(8)`.
    pub const ALL: [Self; 8] = [
        Self::new(PropagationKind::Shared, false),
        Self::new(PropagationKind::Slave, false),
        Self::new(PropagationKind::Private, false),
        Self::new(PropagationKind::Unbindable, false),
        Self::new(PropagationKind::Shared, true),
        Self::new(PropagationKind::Slave, true),
        Self::new(PropagationKind::Private, true),
        Self::new(PropagationKind::Unbindable, true),
    ];

    /// A change to `kind`, recursive or not.
    #[must_use]
    pub const fn new(kind: PropagationKind, recursive: bool) -> Self {
        Self { kind, recursive }
    }

    /// The name in `mount(8)`, without `--make-`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.kind, self.recursive) {
            (PropagationKind::Private, false) => "private",
            (PropagationKind::Private, true) => "rprivate",
            (PropagationKind::Shared, false) => "shared",
            (PropagationKind::Shared, true) => "rshared",
            (PropagationKind::Slave, false) => "slave",
            (PropagationKind::Slave, true) => "rslave",
            (PropagationKind::Unbindable, false) => "unbindable",
            (PropagationKind::Unbindable, true) => "runbindable",
        }
    }
}

impl fmt::Display for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that isn't a propagation type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a propagation type: use one of {expected}")]
pub struct UnknownPropagation {
    found: String,
    /// The accepted words.
    pub expected: &'static str,
}

impl FromStr for Propagation {
    type Err = UnknownPropagation;

    /// Parses `mount(8)`'s word, with or without the prefix `--make-`.
    fn from_str(word: &str) -> Result<Self, UnknownPropagation> {
        let bare = word.strip_prefix("--make-").unwrap_or(word);
        Self::ALL.into_iter().find(|p| p.name() == bare).ok_or_else(|| UnknownPropagation {
            found: word.to_owned(),
            expected: "shared, slave, private, unbindable, rshared, rslave, rprivate, runbindable",
        })
    }
}

/// What the kernel reports of one mount: the optional fields of mountinfo (proc_pid_mountinfo(5)), or `mnt_peer_group`
/// and `mnt_master` of statmount(2).
///
/// The kernel keeps no "recursive" state. A subtree is rshared if every mount in it is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PropagationState {
    /// The mount's peer group (`shared:N`), if it is shared.
    pub peer_group: Option<u64>,
    /// The peer group of its master (`master:N`), if it is a slave.
    pub master: Option<u64>,
    /// Whether it can't be bind mounted.
    pub unbindable: bool,
}

impl PropagationState {
    /// Whether a mount made on this one propagates to others.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.peer_group.is_some()
    }

    /// Whether the mount receives events from a master.
    #[must_use]
    pub const fn is_slave(&self) -> bool {
        self.master.is_some()
    }

    /// Whether the mount is of this type. A mount can be shared and slave at once.
    #[must_use]
    pub const fn is(&self, kind: PropagationKind) -> bool {
        match kind {
            PropagationKind::Shared => self.is_shared(),
            PropagationKind::Slave => self.is_slave(),
            PropagationKind::Unbindable => self.unbindable,
            PropagationKind::Private => !self.is_shared() && !self.is_slave() && !self.unbindable,
        }
    }
}

impl fmt::Display for PropagationState {
    /// As `findmnt -o PROPAGATION`, but with the groups: `shared:7,slave:3`, `private`, `unbindable`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.peer_group, self.master) {
            (Some(peers), Some(master)) => write!(f, "shared:{peers},slave:{master}"),
            (Some(peers), None) => write!(f, "shared:{peers}"),
            (None, Some(master)) => write!(f, "slave:{master}"),
            (None, None) if self.unbindable => f.write_str("unbindable"),
            (None, None) => f.write_str("private"),
        }
    }
}

/// `volumeMounts[].mountPropagation` of a pod: which mounts must cross between the node's directory and the container.
///
/// Ordered by strength: each value lets everything cross that the one before it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum MountPropagation {
    /// Nothing crosses after the pod has started.
    #[default]
    None,
    /// Mounts made on the node appear in the pod.
    HostToContainer,
    /// Mounts made on the node appear in the pod. Mounts made in the pod appear on the node and in every other such
    /// pod.
    Bidirectional,
}

impl MountPropagation {
    /// All three, weakest first.
    pub const ALL: [Self; 3] = [Self::None, Self::HostToContainer, Self::Bidirectional];

    /// The name in the Kubernetes API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::HostToContainer => "HostToContainer",
            Self::Bidirectional => "Bidirectional",
        }
    }

    /// The propagation type that a container runtime gives the container's mount.
    #[must_use]
    pub const fn propagation(self) -> Propagation {
        let kind = match self {
            Self::None => PropagationKind::Private,
            Self::HostToContainer => PropagationKind::Slave,
            Self::Bidirectional => PropagationKind::Shared,
        };
        Propagation::new(kind, true)
    }
}

impl fmt::Display for MountPropagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MountPropagation {
    type Err = UnknownPropagation;

    /// Parses the name in the Kubernetes API, or `mount(8)`'s recursive word for the same.
    ///
    /// The non-recursive words (`slave`) are refused, not taken for the recursive ones. A volume is always bound with
    /// its subtree, and whoever writes `slave` may want nested mounts left out.
    fn from_str(word: &str) -> Result<Self, UnknownPropagation> {
        Self::ALL.into_iter().find(|w| w.name() == word || w.propagation().name() == word).ok_or_else(|| {
            UnknownPropagation {
                found: word.to_owned(),
                expected: "None, HostToContainer, Bidirectional (or rprivate, rslave, rshared)",
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_printing_and_parsing() {
        for p in Propagation::ALL {
            assert_eq!(p.to_string().parse::<Propagation>(), Ok(p));
            assert_eq!(format!("--make-{p}").parse::<Propagation>(), Ok(p));
        }
        for w in MountPropagation::ALL {
            assert_eq!(w.name().parse::<MountPropagation>(), Ok(w));
            assert_eq!(w.propagation().name().parse::<MountPropagation>(), Ok(w));
        }
    }

    #[test]
    fn unknown_words_are_refused_with_the_known_ones() {
        let message = "Shared".parse::<Propagation>().unwrap_err().to_string();
        assert!(message.contains("\"Shared\"") && message.contains("rshared"), "{message}");
        for word in ["slave", "shared", "private", "rslave ", "", "hosttocontainer", "unbindable"] {
            assert!(word.parse::<MountPropagation>().is_err(), "{word:?}");
        }
    }

    #[test]
    fn strength_is_the_order() {
        assert!(MountPropagation::None < MountPropagation::HostToContainer);
        assert!(MountPropagation::HostToContainer < MountPropagation::Bidirectional);
    }

    #[test]
    fn shared_and_slave_is_both_and_not_private() {
        let both = PropagationState { peer_group: Some(7), master: Some(3), unbindable: false };
        assert!(both.is(PropagationKind::Shared) && both.is(PropagationKind::Slave));
        assert!(!both.is(PropagationKind::Private));
        assert_eq!(both.to_string(), "shared:7,slave:3");
        assert!(PropagationState::default().is(PropagationKind::Private));
    }
}
