//! Lets the runtime tell when any kind of descriptor can be read or written.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Makes the current runtime watch a descriptor, which must not block, for `interest` alone.
///
/// # Errors
/// What epoll_ctl(2) says. EPERM: it is a file or a directory.
pub fn register<T: AsFd + AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: what is registered owns the descriptor and never replaces it. AsyncFd's own drop deregisters it before it
    // is closed.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}
