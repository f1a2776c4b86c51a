//! `/metrics`, `/healthz` and `/readyz`, on a thread and runtime of their own: they answer while all else hangs.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::plugin::Plugin;

async fn metrics(State(plugin): State<Arc<Plugin>>) -> impl IntoResponse {
    plugin.count_held().await;
    match plugin.metrics.text(&plugin) {
        Ok(text) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        ),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], e.to_string()),
    }
}

/// Whether the process is worth keeping. A refused allow-list and the like are told, but no reason to restart: the
/// last good one works. The one thing that a restart mends is a registration directory that was deleted.
async fn healthz(State(plugin): State<Arc<Plugin>>) -> impl IntoResponse {
    let mut text = String::new();
    let mut code = StatusCode::OK;
    if plugin.registration.as_ref().is_some_and(|r| r.directory_deleted()) {
        code = StatusCode::SERVICE_UNAVAILABLE;
        text += "failed: the registration directory was deleted; a restart finds the one that is there now\n";
    }
    if let Some(why) = plugin.store.stats().last_error {
        text += &format!("degraded: allow-list refused: {why}\n");
    }
    if let Some(why) = plugin.lookup.as_ref().and_then(|lookup| lookup.error()) {
        text += &format!("degraded: watching the node's pods fails: {why}\n");
    }
    if let Some(why) = plugin.registration.as_ref().and_then(|r| r.state().ready().err()) {
        text += &format!("degraded: {why}\n");
    }
    let mut stuck: Vec<_> = plugin.threads.stuck().into_iter().collect();
    stuck.sort();
    for (source, count) in stuck {
        text += &format!("degraded: {count} mount threads hang on {source}\n");
    }
    if text.is_empty() {
        text = "ok\n".to_owned();
    }
    (code, text)
}

async fn readyz(State(plugin): State<Arc<Plugin>>) -> impl IntoResponse {
    match plugin.ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

/// Binds the address and serves it until the process ends. Says which port it got.
///
/// # Errors
/// If the address can't be bound or the thread not be had.
pub fn start(address: SocketAddr, plugin: Arc<Plugin>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .map_err(|e| io::Error::new(e.kind(), format!("the admin address {address} cannot be bound: {e}")))?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(plugin);
    std::thread::Builder::new().name("admin".to_owned()).stack_size(512 * 1024).spawn(move || {
        runtime.block_on(async {
            let served = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => axum::serve(listener, routes).await,
                Err(e) => Err(e),
            };
            if let Err(error) = served {
                tracing::error!(%error, "the admin server ended");
            }
        });
    })?;
    Ok(bound)
}
