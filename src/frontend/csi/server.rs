//! Serves CSI on a socket: one accept loop, limits for everything that is open, and a shutdown that lets calls finish.

use std::future::Future;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use wire::csi::identity_server::IdentityServer;
use wire::csi::node_server::NodeServer;
use workers::CallRuntime;

use super::caller::Caller;
use super::connection::Connection;
use super::plugin::Plugin;
use super::{identity, node};
use crate::socket::Socket;

/// The maximum size of a message, in bytes. A request is a few paths and the pod's names. Tokens are the largest part.
const MESSAGE_MAX: usize = 1 << 20;

/// The maximum number of concurrent calls on one connection. Further calls wait. The kubelet makes one. Clients assume
/// 100 until they are told (RFC 9113, 6.5.2 recommends no less). A lower number would refuse calls that were sent
/// before.
const CALLS_MAX: u32 = 128;

/// How often a stopping plugin checks for calls under way, and how long it gives answers to be sent.
const SETTLE: Duration = Duration::from_millis(50);

/// Why the plugin can't serve any longer.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The threads for calls can't be started.
    #[error("no threads: {0}")]
    Threads(std::io::Error),
    /// The socket can't be served.
    #[error(transparent)]
    Listener(std::io::Error),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    /// The task that serves has ended.
    #[error(transparent)]
    Task(#[from] tokio::task::JoinError),
}

/// Serves a plugin on a listening socket until `stop`. Then it lets the calls under way finish within `drain`, and
/// removes the socket and what the mount threads made for themselves.
///
/// # Errors
/// [`ServerError`].
pub async fn serve(
    plugin: Arc<Plugin>,
    (listener, socket): (UnixListener, Socket),
    stop: impl Future<Output = ()> + Send,
    drain: Duration,
) -> Result<(), ServerError> {
    let serving = CallRuntime::start(Arc::clone(plugin.service.threads.site())).map_err(ServerError::Threads)?;
    let runtime = serving.runtime();
    let (stopping, stopped) = oneshot::channel::<()>();
    let transport = transport(Arc::clone(&plugin), Arc::clone(&runtime), listener, stopped.map(drop));
    let transport = runtime.handle().spawn(transport);
    let under_way = plugin.under_way.clone();
    // A client that keeps its connection open without reading it delays the end of the transport. It must not delay
    // ours.
    let drained = async move {
        stop.await;
        // The transport may have ended by itself. Then its own result counts.
        let _ = stopping.send(());
        let until = Instant::now() + drain;
        tokio::time::sleep(SETTLE).await;
        while under_way.count() > 1 && Instant::now() < until {
            tokio::time::sleep(SETTLE).await;
        }
        let left = under_way.count() - 1;
        if left > 0 {
            tracing::warn!(calls = left, ?drain, "calls under way did not end in time and are given up");
        }
    };
    let result = tokio::select! {
        ended = transport => ended.unwrap_or_else(|error| Err(error.into())),
        () = drained => Ok(()),
    };
    drop(serving);
    drop(socket);
    plugin.service.threads.close().await;
    result
}

/// Accepts connections and answers calls until `stop`.
async fn transport(
    plugin: Arc<Plugin>,
    runtime: Arc<CallRuntime>,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let listener = tokio::net::UnixListener::from_std(listener).map_err(ServerError::Listener)?;
    let accepting = Arc::clone(&plugin);
    let incoming = UnixListenerStream::new(listener)
        .then(|accepted| async {
            if accepted.is_err() {
                // Descriptors or memory have run out. An immediate retry would fail too.
                tokio::time::sleep(SETTLE).await;
            }
            accepted
        })
        .filter_map(move |accepted| match accepted {
            Ok(stream) => match accepting.admission.admit(&stream) {
                Ok(permit) => {
                    let caller = Caller::of(&stream, &accepting.service.threads, accepting.service.namespace);
                    Some(Connection::new(stream, caller, permit))
                }
                Err(refusal) => {
                    tracing::warn!(%refusal, "connection closed");
                    None
                }
            },
            Err(error) => Some(Err(error)),
        });
    let identity = IdentityServer::new(identity::Identity(Arc::clone(&plugin))).max_decoding_message_size(MESSAGE_MAX);
    let node = NodeServer::new(node::Node { plugin, runtime }).max_decoding_message_size(MESSAGE_MAX);
    let server = Server::builder().max_concurrent_streams(CALLS_MAX).add_service(identity).add_service(node);
    Ok(server.serve_with_incoming_shutdown(incoming, stop).await?)
}
