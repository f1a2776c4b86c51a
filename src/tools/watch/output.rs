//! Standard output of a program that runs until a signal. A reader that is slow or has gone must not keep it from exiting.

use std::io::{Stdout, stdout};
use std::os::fd::AsFd;

use mounts::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What a pipe that poll(2) calls writable takes without waiting (`PIPE_BUF`, pipe(7)).
const AT_ONCE: usize = 4096;

/// Why writing ends.
#[derive(Debug)]
pub(super) enum Ended {
    /// By a signal, or because the reader has gone.
    CausedChange,
    /// By an error.
    Failed(Errno),
}

/// Standard output, and the signals that end the program.
#[derive(Debug)]
pub(super) struct Output {
    signals: SignalFd,
    stdout: Stdout,
}

impl Output {
    /// Blocks SIGINT, SIGTERM and SIGHUP, and receives them here. Call it before any thread is started.
    ///
    /// # Errors
    /// What signalfd(2) says.
    pub(super) fn new() -> Result<Self, Errno> {
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { signals, stdout: stdout() })
    }

    /// Descriptors that become ready when the program must end: the signals, and standard output, for which poll(2) reports an
    /// error when the reader of the pipe has gone.
    pub(super) fn descriptors(&self) -> [PollFd<'_>; 2] {
        [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN), PollFd::new(self.stdout.as_fd(), PollFlags::empty())]
    }

    /// Writes all bytes, however slow the reader is.
    ///
    /// # Errors
    /// [`Ended`].
    pub(super) fn write(&self, mut bytes: &[u8]) -> Result<(), Ended> {
        while !bytes.is_empty() {
            let mut fds = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.stdout.as_fd(), PollFlags::POLLOUT),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Ended::Failed(errno)),
            }
            let said = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::empty());
            if !said(&fds[0]).is_empty() {
                return Err(Ended::CausedChange);
            }
            if said(&fds[1]).is_empty() {
                continue;
            }
            match nix::unistd::write(&self.stdout, &bytes[..bytes.len().min(AT_ONCE)]) {
                Ok(length) => bytes = &bytes[length..],
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::EPIPE) => return Err(Ended::CausedChange),
                Err(errno) => return Err(Ended::Failed(errno)),
            }
        }
        Ok(())
    }
}
