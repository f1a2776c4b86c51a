//! `/metrics`, `/healthz` and `/readyz`, on a thread and runtime of their own: they answer while all else hangs.
//!
//! The port has no password, and whoever reaches it may flood it. So everything has a bound: how many connections are open, how long
//! each may take to ask and altogether, how much of a question is read; and a connection asks once. When there are too many, the
//! oldest of the address that has the most is closed, not the one that comes: the kubelet's probes come from an address of their own.

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

/// How many connections may be open: the kubelet's three probes and a few that read metrics need fewer than ten.
pub const CONNECTIONS: usize = 64;
/// How long a connection may take to ask, as a kubelet waits for its probe at most.
pub const QUESTION: Duration = Duration::from_secs(5);
/// How long it may take altogether. Counting the volumes takes 2 s at most.
pub const WHOLE: Duration = Duration::from_secs(10);
/// How many bytes of a question are read, and how many fields. 8 KiB is the least that hyper takes.
const QUESTION_MAX: usize = 8 * 1024;
const FIELDS_MAX: usize = 64;
/// How long to wait when there are no descriptors: it will still be so at once.
const AGAIN: Duration = Duration::from_millis(50);

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What answers.
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
            "/healthz" => self.state(health::health),
            "/readyz" => self.state(health::readiness),
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

    fn state(&self, of: fn(&[health::Finding]) -> (bool, String)) -> Answer {
        let mut findings = health::look(&self.plugin.service);
        findings.extend(self.plugin.registration.iter().flat_map(|registration| registration.findings()));
        self.told.tell(&findings);
        let (good, text) = of(&findings);
        say(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, TEXT, text)
    }
}

/// Serves one connection: one question, one answer.
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
    // Who asks nonsense, or goes away, is nobody to tell.
    let _ = tokio::time::timeout(WHOLE, connection).await;
}

/// The connections that are open, in the order in which they came.
#[derive(Default)]
struct Open {
    tasks: JoinSet<()>,
    all: Vec<(IpAddr, AbortHandle)>,
}

impl Open {
    /// Waits until one has ended; for ever if there is none.
    async fn ended(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return std::future::pending().await,
        };
        self.all.retain(|(_, task)| task.id() != id);
    }

    /// Takes in another one. If there are too many, one goes for it.
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

/// Which connection goes: the oldest of the address that has the most, of several such the one that came first.
fn to_close(open: &[IpAddr]) -> Option<usize> {
    let count = |address: &IpAddr| open.iter().filter(|other| *other == address).count();
    let most = open.iter().map(count).max()?;
    open.iter().position(|address| count(address) == most)
}

/// Serves for ever.
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

/// Binds the address and serves it until the process ends. Says which port it got.
///
/// # Errors
/// If the address can't be bound or the thread not be had.
pub fn start(address: SocketAddr, plugin: Arc<Plugin>) -> io::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // tokio has the kernel keep 1024 that wait to be accepted, where the standard library has 128: a probe beyond them waits a second.
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
