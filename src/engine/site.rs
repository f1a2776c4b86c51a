//! The node, as every job on a mount thread needs to know it.

use std::sync::Arc;

use kernel::calls::Calls;
use kernel::namespace::Proc;
use plan::layout::Layout;

/// The node as a mount thread sees it.
#[derive(Debug, Clone)]
pub struct Site {
    /// Our own `/proc`.
    pub proc: Arc<Proc>,
    /// The system calls of this kernel.
    pub calls: Calls,
    /// Where volumes lie.
    pub layout: Arc<Layout>,
}
