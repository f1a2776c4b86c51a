//! Why the trial could not be completed. A difference from the documentation is a result, not an error.

use std::io;
use std::path::PathBuf;

use mounts::propagation::{MountPropagation, PropagationState};

/// What stopped the trial.
#[derive(Debug, thiserror::Error)]
pub enum TryError {
    /// This system does not allow namespaces.
    #[error("{what}: {cause}\n{ADVICE}")]
    Forbidden {
        /// What was refused.
        what: &'static str,
        /// The kernel's error.
        cause: io::Error,
    },
    /// A step failed.
    #[error("{what}: {cause}")]
    Step {
        /// What was being done.
        what: String,
        /// The error.
        cause: io::Error,
    },
    /// There is no directory to mount the trial's node on.
    #[error("no directory was found that the trial could cover in its own mount namespace: create /mnt")]
    NoPlace,
    /// The plugin exited or did not answer.
    #[error("`hostmount serve` {0}")]
    Plugin(String),
    /// An RPC failed.
    #[error("{call} of the volume {volume:?} failed: {} ({:?})", status.message(), status.code())]
    Rpc {
        /// Which.
        call: &'static str,
        /// The volume's id.
        volume: String,
        /// What the plugin said.
        status: Box<tonic::Status>,
    },
    /// A container runtime would refuse the container.
    #[error(
        "a container runtime refuses {mode} for {}: the mount is {found}, but must be {wanted}",
        target.display()
    )]
    RuntimeRefuses {
        /// What the pod asks for.
        mode: MountPropagation,
        /// The target path.
        target: PathBuf,
        /// What the driver made of it.
        found: PropagationState,
        /// What the runtime needs.
        wanted: &'static str,
    },
    /// A container answered with an error, or not at all.
    #[error("the container of {pod} {what}")]
    Container {
        /// Whose.
        pod: String,
        /// What is wrong.
        what: String,
    },
}

/// Advice for [`TryError::Forbidden`].
const ADVICE: &str = "\
hostmount try needs user namespaces, or root with CAP_SYS_ADMIN. Where they are switched off, one of these helps:
  sysctl user.max_user_namespaces=15000
  sysctl kernel.unprivileged_userns_clone=1                (Debian's kernels)
  sysctl kernel.apparmor_restrict_unprivileged_userns=0    (Ubuntu 23.10 and later)
In a container the runtime's seccomp or AppArmor profile may be what refuses them: run it outside.";

/// Adds to an error what was being done.
pub(super) trait During<T> {
    /// `what` completes the sentence "while ...".
    fn during(self, what: impl FnOnce() -> String) -> Result<T, TryError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, TryError> {
        self.map_err(|cause| TryError::Step { what: what(), cause: cause.into() })
    }
}
