//! The requests to the service, in plain types.

use std::sync::Arc;

use allowlist::names::{Target, User, VolumeKind, VolumeRef};
use plan::record::Asked;

/// A request to stage a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The directory.
    pub volume: VolumeRef,
    /// The staging path.
    pub staging: Target,
}

/// A request to publish a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The volume's id.
    pub id: Arc<str>,
    /// The directory.
    pub volume: VolumeRef,
    /// The target path.
    pub target: Target,
    /// The staging path. None for inline volumes, which aren't staged.
    pub staging: Option<Target>,
    /// The propagation and flags asked for.
    pub asked: Asked,
    /// Whether at most one target may have it.
    pub single_writer: bool,
    /// The user of the volume, such as its pod.
    pub user: User,
    /// Whether the volume is defined in the Pod itself.
    pub inline: bool,
}

/// A path at which a volume was staged or published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeAt {
    /// The volume's id, for log and answer.
    pub id: String,
    /// The target or staging path.
    pub path: Target,
}

impl Publish {
    /// How the pod has the volume, as far as the request tells.
    #[must_use]
    pub const fn kind(&self) -> VolumeKind {
        if self.inline { VolumeKind::Inline } else { VolumeKind::ClaimOrGenericEphemeral }
    }
}
