//! The pod of a volume, and how the pod has it.

use std::fmt;
use std::sync::Arc;

/// How a pod has a volume: the volume source in the Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VolumeKind {
    /// Defined in the Pod (`csi`).
    Inline,
    /// By a claim (`persistentVolumeClaim`).
    Claim,
    /// By a claim that is created with the pod (`ephemeral`).
    GenericEphemeral,
    /// One of the two claims; which one isn't known.
    ClaimOrGenericEphemeral,
}

impl VolumeKind {
    /// The kind of a volume that is one of these two.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self == other { self } else { Self::ClaimOrGenericEphemeral }
    }
}

/// The pod of a volume, as the kubelet tells it with `podInfoOnMount`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodIdentity {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The service account that it runs as.
    pub service_account: String,
}

impl fmt::Display for PodIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Who uses a volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum User {
    /// The front-end doesn't say.
    #[default]
    Unknown,
    /// A pod.
    Pod(Arc<PodIdentity>),
    /// What another front-end knows by this name.
    Named(Arc<str>),
}

impl User {
    /// The pod, if it is one.
    #[must_use]
    pub const fn pod(&self) -> Option<&Arc<PodIdentity>> {
        match self {
            Self::Pod(pod) => Some(pod),
            Self::Unknown | Self::Named(_) => None,
        }
    }
}
