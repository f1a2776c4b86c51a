//! A connection that knows its caller: the mount threads of the process at the other end.
//!
//! It is found once, when the connection is accepted and the caller is certainly there, not at each request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;

use super::door::Place;
use crate::sys::{Errno, namespace};
use crate::threads::{Crew, Threads};

/// In whose mount namespace the mounts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum MountNamespaceOf {
    /// Of the process that calls: the kubelet.
    #[default]
    Caller,
    /// The plugin's own. The kubelet then sees the mounts only if its directory is shared with the plugin's.
    Own,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The connection's number.
    connection: u64,
    /// The caller's mount threads, or why there are none.
    crew: Result<Arc<Crew>, String>,
}

impl Caller {
    /// Who is at the other end.
    #[must_use]
    pub fn of(stream: &UnixStream, threads: &Threads, whose: MountNamespaceOf) -> Self {
        let proc = &threads.site().proc;
        let found = match whose {
            MountNamespaceOf::Caller => namespace::of_peer(proc, stream).map(|(namespace, _)| namespace),
            MountNamespaceOf::Own => proc.own_mount_namespace(),
        };
        static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
        let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let crew = found.map(|namespace| threads.crew_of_caller(namespace)).map_err(|errno| {
            let why = match errno {
                Errno::ESRCH => "it has ended, or is in a PID namespace that this one does not contain: run the plugin with hostPID: true",
                Errno::EACCES | Errno::EPERM => "it may not be traced: the plugin needs CAP_SYS_PTRACE",
                _ => "see /proc/PID/ns/mnt",
            };
            format!("the mount namespace of the calling process cannot be found ({errno}): {why}; or start it with --mount-namespace own")
        });
        Self { connection, crew }
    }

    /// Takes down that a call has begun to come, by its path: only the two that ask nothing of the kernel have no job for a mount
    /// thread.
    pub fn calls(&self, path: &str) {
        let has_job = !path.ends_with("/NodeGetCapabilities") && !path.ends_with("/NodeGetInfo");
        if has_job && let Ok(crew) = &self.crew {
            crew.called_on(self.connection);
        }
    }

    /// The mount threads for a call of this caller.
    ///
    /// # Errors
    /// Why there are none.
    pub fn crew(&self) -> Result<Arc<Crew>, &str> {
        self.crew.as_ref().map(Arc::clone).map_err(String::as_str)
    }
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    caller: Caller,
    _place: Place,
}

impl Connection {
    /// A connection, its caller, and its place among the connections.
    #[must_use]
    pub const fn new(stream: UnixStream, caller: Caller, place: Place) -> Self {
        Self { stream, caller, _place: place }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
