//! The errors of the use cases.

use allowlist::policy::Denied;
use engine::mount_error::MountError;
use mounts::Errno;
use pods::lookup::LookupError;
use workers::NoResult;
use workers::gate::Busy;

/// Why a use case failed. The error's own text is for the administrator. The pod's author reads that of
/// [`ForAuthor`](crate::refusals::ForAuthor).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The allow-list denies it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Another call holds the path.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The mount thread gave no answer.
    #[error(transparent)]
    NoResult(#[from] NoResult),
    /// A mount operation failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The pod's wish is unknown.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// No allow-list could be read yet.
    #[error("no allow-list is in force: {0}")]
    NoConfiguration(String),
}

/// Why no volume can be mounted now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// No allow-list could be read yet.
    #[error(transparent)]
    AllowList(Error),
    /// The mount namespace for the mounts can't be found.
    #[error("no mount namespace: {0}")]
    Namespace(Errno),
    /// No thread could enter that namespace, or all threads hang.
    #[error(transparent)]
    Threads(NoResult),
}
