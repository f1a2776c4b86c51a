//! Finds the caller of a connection: the mount threads for the calling process.
//!
//! The caller is found once, when the connection is accepted, not at each request: only then is it certainly still
//! there.

use std::os::fd::AsFd;
use std::sync::Arc;

use kernel::namespace;
use mounts::Errno;
use service::Namespace;
use workers::{Pool, Threads};

/// The caller of a connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The caller's mount threads, or why there are none.
    pool: Result<Arc<Pool>, String>,
}

impl Caller {
    /// A caller that has no mount threads.
    #[cfg(test)]
    pub(super) fn nobody() -> Self {
        Self { pool: Err("nobody".to_owned()) }
    }

    /// Finds the caller of a connection.
    #[must_use]
    pub fn of(stream: impl AsFd, threads: &Threads, whose: Namespace) -> Self {
        let proc = &threads.site().proc;
        let found = match whose {
            Namespace::Callers => namespace::of_peer(proc, stream).map(|(namespace, _)| namespace),
            Namespace::Own => proc.own_mount_namespace(),
        };
        let pool = found.map(|namespace| threads.pool(namespace)).map_err(|errno| {
            let why = match errno {
                Errno::ESRCH => "it has ended, or is in a PID namespace that this one does not contain: run the plugin with hostPID: true",
                Errno::EACCES | Errno::EPERM => "it may not be traced: the plugin needs CAP_SYS_PTRACE",
                _ => "see /proc/PID/ns/mnt",
            };
            format!("the mount namespace of the calling process cannot be found ({errno}): {why}; or start it with --mount-namespace own")
        });
        Self { pool }
    }

    /// The mount threads for a call of this caller.
    ///
    /// # Errors
    /// Why there are none.
    pub fn pool(&self) -> Result<Arc<Pool>, &str> {
        self.pool.as_ref().map(Arc::clone).map_err(String::as_str)
    }
}
