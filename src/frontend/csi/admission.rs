//! Who may connect to the CSI socket, and how many at once.
//!
//! The socket's mode admits only its owner, but a mode can be changed and a descriptor passed on. So the kernel is
//! asked for each caller's uid (unix(7), SO_PEERCRED). A caller that is not permitted gets no answer: the connection is
//! closed.
//!
//! The kubelet opens a connection for each call. So a limit on connections also limits calls, descriptors, and what a
//! caller that only connects can use up. The kubelet sees a refused connection as UNAVAILABLE, and retries in half a
//! second. Without the limit, the descriptors could run out, and `accept` would fail over and over.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Root's uid, as seen inside its user namespace.
const ROOT: u32 = 0;

/// Admits callers or refuses them.
#[derive(Debug)]
pub struct Admission {
    permits: Arc<Semaphore>,
    limit: usize,
    strangers: AtomicU64,
    too_many: AtomicU64,
}

/// The permit of a connection. Dropping it lets another connection in.
#[derive(Debug)]
pub struct Permit {
    _permit: OwnedSemaphorePermit,
}

/// Why a caller was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It isn't root.
    NotRoot {
        /// Its uid. None if the kernel doesn't tell.
        uid: Option<u32>,
    },
    /// The maximum number of connections are open.
    TooMany {
        /// The maximum.
        limit: usize,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRoot { uid: Some(uid) } => {
                write!(f, "the caller runs as uid {uid}: only root may call; look who has changed the socket's mode")
            }
            Self::NotRoot { uid: None } => f.write_str("the caller's uid is unknown: only root may call"),
            Self::TooMany { limit } => write!(
                f,
                "{limit} connections are open, the most there may be: look who holds them, or raise --max-connections"
            ),
        }
    }
}

impl Admission {
    /// Admits at most `limit` connections at once.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let permits = Arc::new(Semaphore::new(limit));
        Self { permits, limit, strangers: AtomicU64::new(0), too_many: AtomicU64::new(0) }
    }

    /// A permit for the caller of a new connection.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn admit(&self, stream: &UnixStream) -> Result<Permit, Refusal> {
        self.admit_uid(stream.peer_cred().ok().map(|caller| caller.uid()))
    }

    fn admit_uid(&self, uid: Option<u32>) -> Result<Permit, Refusal> {
        if uid != Some(ROOT) {
            self.strangers.fetch_add(1, Ordering::Relaxed);
            return Err(Refusal::NotRoot { uid });
        }
        Arc::clone(&self.permits).try_acquire_owned().map(|permit| Permit { _permit: permit }).map_err(|_| {
            self.too_many.fetch_add(1, Ordering::Relaxed);
            Refusal::TooMany { limit: self.limit }
        })
    }

    /// How many callers were refused: those that aren't root, and those over the limit.
    #[must_use]
    pub fn refusals(&self) -> (u64, u64) {
        (self.strangers.load(Ordering::Relaxed), self.too_many.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_comes_in_and_not_too_many_of_it() {
        let admission = Admission::new(2);
        for uid in [Some(1000), Some(65534), None] {
            assert_eq!(admission.admit_uid(uid).unwrap_err(), Refusal::NotRoot { uid });
        }
        let (_first, second) = (admission.admit_uid(Some(0)).unwrap(), admission.admit_uid(Some(0)).unwrap());
        assert_eq!(admission.admit_uid(Some(0)).unwrap_err(), Refusal::TooMany { limit: 2 });
        drop(second);
        assert!(admission.admit_uid(Some(0)).is_ok(), "a permit that was given back is free");
        assert_eq!(admission.refusals(), (3, 1));
    }
}
