//! Looks which volumes running containers have, and with which mount flags.

use std::time::{Duration, Instant};

use engine::site::Site;
use mounts::Errno;
use service::containers::look::look;
use service::containers::scan::{Index, Node};
use service::containers::{Container, Sought, Unknown};
use workers::NoResult;

/// How much of the time-out is used for looking. The rest is for returning the result.
const USED: f32 = 0.8;

/// Why the containers' mounts are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLooked {
    /// The kubelet's directory is on none of the mounts.
    #[error("the kubelet's directory was not found in the mount table")]
    NoKubeletDir,
    /// `/proc` can't be read.
    #[error("/proc cannot be read: {0}")]
    Proc(Errno),
    /// The time-out passed.
    #[error("they could not be looked into in time")]
    Late,
    /// The mount thread has no result.
    #[error(transparent)]
    NoResult(#[from] NoResult),
}

/// The time at which looking must end, if the result is due after `timeout`.
pub(crate) fn until(timeout: Duration) -> Instant {
    Instant::now() + timeout.mul_f32(USED)
}

/// Calls `see` for each container that has one of these volumes. Returns what could not be looked into.
///
/// # Errors
/// If nothing could be looked into.
pub(crate) fn find(
    site: &Site,
    node: Option<Node>,
    sought: &[Sought],
    until: Instant,
    see: &mut dyn FnMut(Container),
) -> Result<Unknown, NotLooked> {
    let node = node.ok_or(NotLooked::NoKubeletDir)?;
    look(&site.proc, &Index::new(node, sought), until, see).map_err(NotLooked::Proc)
}
