//! Everything that can go wrong in a use case.

use allowlist::policy::Denied;
use engine::mount_error::MountError;
use pods::lookup::LookupError;
use workers::NoResult;
use workers::gate::Busy;

/// Why something was not done. Its own text is for the administrator; the pod's author reads that of
/// [`ForAuthor`](crate::refusals::ForAuthor).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The allow-list says no.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Another call is under way.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The mount thread gave no answer.
    #[error(transparent)]
    NoResult(#[from] NoResult),
    /// The mounts.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// It isn't known what the pod wants.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// No allow-list could be read yet.
    #[error("no allow-list is in force: {0}")]
    NoConfiguration(String),
}
