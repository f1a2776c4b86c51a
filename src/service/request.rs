//! What can be asked of the service, in plain types.

use std::sync::Arc;

use allowlist::names::{Target, User, VolumeKind, VolumeRef};
use plan::record::Asked;

/// A volume to be staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Which directory.
    pub volume: VolumeRef,
    /// Where.
    pub staging: Target,
}

/// A volume to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The volume's id.
    pub id: Arc<str>,
    /// Which directory.
    pub volume: VolumeRef,
    /// Where.
    pub target: Target,
    /// Where it was staged; inline volumes aren't.
    pub staging: Option<Target>,
    /// What was asked for.
    pub asked: Asked,
    /// Whether one target at most may have it.
    pub single_writer: bool,
    /// Who uses it.
    pub user: User,
    /// Whether the volume is written in the pod itself.
    pub inline: bool,
}

/// A path of a volume that was staged or published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeAt {
    /// The volume's id, for log and answer.
    pub id: String,
    /// Where.
    pub path: Target,
}

impl Publish {
    /// How the pod has the volume, as far as the request tells.
    #[must_use]
    pub const fn kind(&self) -> VolumeKind {
        if self.inline { VolumeKind::Inline } else { VolumeKind::ClaimOrGenericEphemeral }
    }
}
