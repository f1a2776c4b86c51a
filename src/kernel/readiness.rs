//! Being told by the runtime when a descriptor can be read or written, whatever it is of.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the current runtime watch a descriptor, which must not block, for `interest` alone.
///
/// # Errors
/// What epoll_ctl(2) says. EPERM: it is a file or a directory.
pub fn register<T: AsFd + AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor is owned by what is registered, is never replaced in it, and is closed after it is
    // taken off, by AsyncFd's own drop.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}
