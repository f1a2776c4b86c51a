//! Where the mounts are made: what every job on a mount thread needs to know of the node.

use std::sync::Arc;

use allowlist::names::AbsPath;
use kernel::calls::Calls;
use kernel::namespace::Proc;

/// The node as a mount thread sees it.
#[derive(Debug, Clone)]
pub struct Site {
    /// Our own `/proc`.
    pub proc: Arc<Proc>,
    /// The system calls that can be made.
    pub calls: Calls,
    /// The kubelet's directory: every target and staging path lies beneath it.
    pub kubelet_dir: AbsPath,
}
