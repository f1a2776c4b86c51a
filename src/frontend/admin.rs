//! Serves `/metrics`, `/healthz` and `/readyz` on a thread and runtime of its own, so that they answer even if
//! everything else hangs.
//!
//! The port has no password, and whoever reaches it may flood it. So everything has a limit: the number of open
//! connections, the time of each for its request and in total, and the size of a request. Each connection serves one
//! request. If there are too many, the oldest one of the address with the most is closed, not the new one: the
//! kubelet's probes come from an address of their own.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use service::health::{self, Told};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::csi::plugin::Plugin;
use crate::registration::State;

/// The maximum number of open connections. The kubelet's three probes and a few metrics scrapers need fewer than ten.
pub const CONNECTIONS: usize = 64;
/// Time limit for a connection to send its request: as long as a kubelet waits for its probe at most.
pub const QUESTION: Duration = Duration::from_secs(5);
/// Time limit for a connection in total. Counting the volumes takes 2 s at most.
pub const WHOLE: Duration = Duration::from_secs(10);
/// The maximum size of a request in bytes, and its maximum number of header fields. 8 KiB is the least that hyper
/// accepts.
const QUESTION_MAX: usize = 8 * 1024;
const FIELDS_MAX: usize = 64;
/// Wait after a failed accept: if descriptors have run out, an immediate retry would fail too.
const AGAIN: Duration = Duration::from_millis(50);

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers requests.
struct Admin {
    plugin: Arc<Plugin>,
    told: Told,
}

type Answer = Response<Full<Bytes>>;

fn say(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
}

impl Admin {
    async fn answer(&self, method: &Method, path: &str) -> Answer {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return say(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered\n");
        }
        match path {
            "/metrics" => self.metrics().await,
            "/healthz" => self.state(health::health).await,
            "/readyz" => self.state(health::readiness).await,
            _ => say(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /healthz and /readyz\n"),
        }
    }

    async fn metrics(&self) -> Answer {
        let Plugin { service, admission, registration, .. } = &*self.plugin;
        service.count_held().await;
        let (strangers, too_many) = admission.refusals();
        service.metrics.refused_connections(strangers, too_many);
        if let Some(registration) = registration {
            let (registered, refused) = registration.counts();
            service.metrics.registration(registered, refused, registration.state() == State::Registered);
        }
        match service.metrics.text(service) {
            Ok(text) => say(StatusCode::OK, METRICS, text),
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written");
                say(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the metrics cannot be written\n")
            }
        }
    }

    async fn state(&self, of: fn(&[health::Finding]) -> (bool, String)) -> Answer {
        let mut findings = health::look(&self.plugin.service).await;
        findings.extend(self.plugin.registration.iter().flat_map(|registration| registration.findings()));
        self.told.tell(&findings);
        let (good, text) = of(&findings);
        say(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, TEXT, text)
    }
}

/// Serves one connection: one request, one answer.
async fn converse(admin: Arc<Admin>, stream: TcpStream) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(admin.answer(request.method(), request.uri().path()).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(QUESTION)
        .max_buf_size(QUESTION_MAX)
        .max_headers(FIELDS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    // If the request is invalid, or the client disconnects, nobody needs to know.
    let _ = tokio::time::timeout(WHOLE, connection).await;
}

/// The open connections, in the order of their arrival.
#[derive(Default)]
struct Open {
    tasks: JoinSet<()>,
    all: Vec<(IpAddr, AbortHandle)>,
}

impl Open {
    /// Waits until one has ended. Waits forever if there is none.
    async fn ended(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return std::future::pending().await,
        };
        self.all.retain(|(_, task)| task.id() != id);
    }

    /// Adds a connection. If there are too many, another one is closed.
    async fn take(&mut self, admin: &Arc<Admin>, (stream, from): (TcpStream, SocketAddr)) {
        while self.all.len() >= CONNECTIONS {
            let addresses: Vec<IpAddr> = self.all.iter().map(|(address, _)| *address).collect();
            if let Some((_, task)) = to_close(&addresses).and_then(|at| self.all.get(at)) {
                task.abort();
            }
            self.ended().await;
        }
        let task = self.tasks.spawn(converse(Arc::clone(admin), stream));
        self.all.push((from.ip().to_canonical(), task));
    }
}

/// The connection to close: the oldest one of the address that has the most. If several addresses do, the oldest one of
/// all theirs.
fn to_close(open: &[IpAddr]) -> Option<usize> {
    let count = |address: &IpAddr| open.iter().filter(|other| *other == address).count();
    let most = open.iter().map(count).max()?;
    open.iter().position(|address| count(address) == most)
}

/// Serves forever.
async fn serve(listener: TcpListener, admin: &Arc<Admin>) {
    let mut open = Open::default();
    loop {
        tokio::select! {
            biased;
            () = open.ended() => {}
            accepted = listener.accept() => match accepted {
                Ok(accepted) => open.take(admin, accepted).await,
                Err(_) => tokio::time::sleep(AGAIN).await,
            },
        }
    }
}

/// Binds the address and serves it until the process ends. Returns the bound address with its port.
///
/// # Errors
/// The address can't be bound, or the thread can't be started.
pub fn start(address: SocketAddr, plugin: Arc<Plugin>) -> io::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // tokio lets 1024 connections wait to be accepted, the standard library 128. A probe beyond the limit waits a
    // second.
    let listener = runtime
        .block_on(TcpListener::bind(address))
        .map_err(|e| io::Error::new(e.kind(), format!("the admin address {address} cannot be bound: {e}")))?;
    let bound = listener.local_addr()?;
    let admin = Arc::new(Admin { plugin, told: Told::default() });
    std::thread::Builder::new().name("admin".to_owned()).stack_size(512 * 1024).spawn(move || {
        runtime.block_on(serve(listener, &admin));
    })?;
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_floods_loses_connections_and_a_probe_loses_none() {
        let at = |n: u8| IpAddr::from([10, 0, 0, n]);
        assert_eq!(to_close(&[]), None);
        assert_eq!(to_close(&[at(1), at(2), at(2), at(2)]), Some(1), "the oldest of the one that has most");
        assert_eq!(to_close(&[at(1), at(2), at(3)]), Some(0), "the oldest of all where none has more");
        let mut open = vec![at(9)];
        for _ in 0..10_000 {
            open.push(at(2));
            if open.len() > CONNECTIONS {
                open.remove(to_close(&open).unwrap());
            }
        }
        assert_eq!((open.len(), open[0]), (CONNECTIONS, at(9)));
    }
}
