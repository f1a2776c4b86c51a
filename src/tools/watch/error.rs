//! The errors of `hostmount watch`.

use mounts::Errno;

use crate::inspect::BadPath;

/// Why `hostmount watch` can't watch.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The path can't be used.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// There is no `/proc`.
    #[error("/proc cannot be opened: {0}")]
    OpenProc(Errno),
    /// `/proc` can't be read.
    #[error("/proc cannot be read: {0}")]
    ReadProc(Errno),
    /// Signals can't be waited for.
    #[error("signals cannot be waited for: {0}")]
    Signals(Errno),
    /// The mount namespace of `--pid` can't be found.
    #[error("--pid {pid}: its mount namespace cannot be found: {errno}")]
    Pid {
        /// The process.
        pid: i32,
        /// What the kernel says.
        errno: Errno,
    },
    /// Waiting fails.
    #[error("poll(2) fails: {0}")]
    Poll(Errno),
    /// Standard output can't be written.
    #[error("the output cannot be written: {0}")]
    Output(Errno),
}
