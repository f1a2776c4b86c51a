//! Finds the caller of a connection: the mount threads for the calling process.
//!
//! The caller is found once, when the connection is accepted, not at each request: only then is it certainly still
//! there.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kernel::namespace;
use mounts::Errno;
use service::Namespace;
use workers::{Pool, Threads};

/// The caller of a connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The connection's number.
    connection: u64,
    /// The caller's mount threads, or why there are none.
    pool: Result<Arc<Pool>, String>,
}

impl Caller {
    /// A caller that has no mount threads.
    #[cfg(test)]
    pub(super) fn nobody() -> Self {
        Self { connection: 0, pool: Err("nobody".to_owned()) }
    }

    /// Finds the caller of a connection.
    #[must_use]
    pub fn of(stream: impl AsFd, threads: &Threads, whose: Namespace) -> Self {
        let proc = &threads.site().proc;
        let found = match whose {
            Namespace::Callers => namespace::of_peer(proc, stream).map(|(namespace, _)| namespace),
            Namespace::Own => proc.own_mount_namespace(),
        };
        static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
        let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let pool = found.map(|namespace| threads.pool(namespace)).map_err(|errno| {
            let why = match errno {
                Errno::ESRCH => "it has ended, or is in a PID namespace that this one does not contain: run the plugin with hostPID: true",
                Errno::EACCES | Errno::EPERM => "it may not be traced: the plugin needs CAP_SYS_PTRACE",
                _ => "see /proc/PID/ns/mnt",
            };
            format!("the mount namespace of the calling process cannot be found ({errno}): {why}; or start it with --mount-namespace own")
        });
        Self { connection, pool }
    }

    /// Notes that a call has begun to arrive, by its path. Only the two calls that ask nothing of the kernel have no
    /// job for a mount thread.
    pub fn calls(&self, path: &str) {
        let has_job = !path.ends_with("/NodeGetCapabilities") && !path.ends_with("/NodeGetInfo");
        if has_job && let Ok(pool) = &self.pool {
            pool.called_on(self.connection);
        }
    }

    /// The mount threads for a call of this caller.
    ///
    /// # Errors
    /// Why there are none.
    pub fn pool(&self) -> Result<Arc<Pool>, &str> {
        self.pool.as_ref().map(Arc::clone).map_err(String::as_str)
    }
}
