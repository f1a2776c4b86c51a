//! What the services share: the plugin's names, allow-list, gate and threads, and how a call is told of.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tonic::{Code, Request, Response, Status};
use tracing::Instrument;
use tracing::field::Empty;

use crate::author::{AuthorText, ForAuthor, KnownText, author};
use crate::config::AllowList;
use crate::config::reload::ConfigStore;
use crate::csi::caller::{Caller, MountNamespaceOf};
use crate::csi::door::Door;
use crate::csi::request::{SUB_PATH, VOLUME};
use crate::csi::status::{CallError, code, status};
use crate::gate::Gate;
use crate::heal::Devices;
use crate::held::{Counter, Held};
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::registration::Registration;
use crate::sys::Errno;
use crate::threads::{Crew, NoResult, Source, Threads};

/// How long counting the mounted volumes may take; 50,000 mounts are read in 0.1 s.
const COUNT_DEADLINE: Duration = Duration::from_secs(2);

/// A running plugin.
#[derive(Debug)]
pub struct Plugin {
    /// The driver's name (CSIDriver.metadata.name).
    pub driver: String,
    /// The node's name.
    pub node_id: String,
    /// How long a call may take.
    pub deadline: Duration,
    /// In whose namespace mounts are made.
    pub whose: MountNamespaceOf,
    /// The allow-list.
    pub store: ConfigStore,
    /// One call at a time for each path.
    pub gate: Gate,
    /// Who may connect.
    pub door: Door,
    /// The mount threads.
    pub threads: Threads,
    /// The file systems that entries and volumes lie on, as far as they are known.
    pub devices: RwLock<Arc<Devices>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Counts the mounted volumes.
    pub counter: Arc<Counter>,
    /// The calls under way.
    pub under_way: UnderWay,
    /// The look-up of pods, if it was asked for.
    pub lookup: Option<Arc<Lookup>>,
    /// The registration with the kubelet, if it was asked for.
    pub registration: Option<Arc<Registration>>,
}

/// How many calls are under way: what a stopping plugin waits for.
#[derive(Debug, Clone, Default)]
pub struct UnderWay(Arc<()>);

impl UnderWay {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        // Each call holds a clone, also one that is dropped half-way.
        Arc::strong_count(&self.0) - 1
    }
}

/// What the log says of a call besides its outcome.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The call.
    pub rpc: &'static str,
    /// The volume.
    pub volume: &'a str,
    /// The pod, as namespace/name, if the request says.
    pub pod: Option<&'a str>,
    /// What the volume's author has written into it, if the request says.
    pub attributes: Option<&'a HashMap<String, String>>,
}

impl Subject<'_> {
    /// Which volume of the author's it is, and by which word the administrator finds the log line of a refusal with this text.
    fn about(&self, text: &AuthorText, node: &str) -> (AuthorText, String) {
        // The same for a call that is repeated, so that the kubelet adds up its events; and made only of what the author reads
        // anyway, so that it tells nothing else.
        let mut hasher = DefaultHasher::new();
        (self.rpc, self.volume, self.pod, text).hash(&mut hasher);
        let reference = format!("{:08x}", hasher.finish() >> 32);
        let given = |name| self.attributes.and_then(|all| all.get(name)).map(|value| KnownText::new(value));
        let volume = match (given(VOLUME), given(SUB_PATH)) {
            (Some(entry), None) => author!["entry ", entry, "; "],
            (Some(entry), Some(sub_path)) => author!["entry ", entry, ", subPath ", sub_path, "; "],
            (None, _) if self.volume.is_empty() => author![""],
            (None, _) => author!["volume ", KnownText::new(self.volume), "; "],
        };
        let (node, word) = (KnownText::new(node), KnownText::new(&reference));
        (
            author![volume, "for the administrator of node ", node, ": reference ", word, " in hostmount's log"],
            reference,
        )
    }
}

impl Plugin {
    /// The allow-list in force.
    ///
    /// # Errors
    /// Why there is none.
    pub fn list(&self) -> Result<Arc<AllowList>, String> {
        self.store.current().ok_or_else(|| self.store.stats().last_error.unwrap_or_default())
    }

    /// Why the plugin can't mount now, if it can't. This is what Probe answers: the kubelet and the API server are
    /// left out, because a caller of Probe may be waiting to register the plugin.
    ///
    /// # Errors
    /// What is missing.
    pub fn able(&self) -> Result<(), String> {
        self.list()?;
        self.has_threads()?;
        self.has_workers()
    }

    /// Whether there is a thread in the mount namespace where mounts are made.
    ///
    /// # Errors
    /// Why there is none.
    pub fn has_threads(&self) -> Result<(), String> {
        let proc = &self.threads.site().proc;
        // The kubelet's namespace is known from its first call on; before, that of PID 1 is the best guess, which an
        // unprivileged plugin (`hostmount try`) may not enter.
        let namespace = match self.whose {
            MountNamespaceOf::Caller => proc.mount_namespace(1).or_else(|_| proc.own_mount_namespace()),
            MountNamespaceOf::Own => proc.own_mount_namespace(),
        };
        let crew = namespace.map(|n| self.threads.crew(n)).map_err(|e| format!("no mount namespace: {e}"))?;
        self.threads.warm(&crew).map_err(|e| e.to_string())
    }

    /// Whether threads are left that don't hang.
    ///
    /// # Errors
    /// How many do.
    pub fn has_workers(&self) -> Result<(), String> {
        self.threads.exhausted().map_or(Ok(()), |stuck| Err(NoResult::Exhausted { stuck }.to_string()))
    }

    /// Counts the mounted volumes, for the metrics too, whose count stays as it was if that fails.
    /// None, if a thread is not to be had in time, or nobody has called yet.
    pub async fn count_held(&self) -> Option<Held> {
        let crew = self.threads.latest()?;
        let counter = Arc::clone(&self.counter);
        let counting = self
            .threads
            .run(&crew, Source::own("metrics"), COUNT_DEADLINE, move |thread, _| counter.count(&thread.site));
        match counting.await {
            // The one that counts now takes it down.
            Ok(Err(Errno::EAGAIN)) => return None,
            Ok(Ok(held)) => {
                self.metrics.held(held);
                return Some(held);
            }
            Ok(Err(error)) => tracing::warn!(%error, "the mounted volumes cannot be counted"),
            Err(error) => tracing::warn!(%error, "the mounted volumes cannot be counted"),
        }
        None
    }

    /// The file systems that entries and volumes lie on, as they are known now.
    #[must_use]
    pub fn devices(&self) -> Arc<Devices> {
        Arc::clone(&self.devices.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes down which file systems entries and volumes lie on.
    pub fn lie_on(&self, devices: Arc<Devices>) {
        *self.devices.write().unwrap_or_else(PoisonError::into_inner) = devices;
    }

    /// The mount threads of a node call's caller, which is then taken for the kubelet: whoever only connects, as `hostmount
    /// check` does in a mount namespace of its own, is not.
    ///
    /// # Errors
    /// [`CallError::Caller`].
    pub fn crew_of<T>(&self, request: &Request<T>) -> Result<Arc<Crew>, CallError> {
        let crew = request.extensions().get().map_or(Err("the connection does not know its caller"), Caller::crew);
        let crew = crew.map_err(|why| CallError::Caller(why.to_owned()))?;
        self.threads.called_by(&crew);
        Ok(crew)
    }

    /// Runs a call inside its span, counts it, and turns its error into a status.
    ///
    /// # Errors
    /// The status of the call's error.
    pub fn call<T, F>(&self, subject: Subject<'_>, work: F) -> impl Future<Output = Result<Response<T>, Status>>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let Subject { rpc, volume, pod, .. } = subject;
        let volume = cut(volume, 200);
        let span = tracing::info_span!("call", rpc, volume, pod, outcome = Empty, duration_us = Empty);
        let under_way = self.under_way.clone();
        let start = Instant::now();
        let told = move |result: Result<T, CallError>| {
            drop(under_way);
            let took = start.elapsed();
            let outcome = result.as_ref().map_or_else(code, |_| Code::Ok);
            self.metrics.call(rpc, outcome, took);
            let span = tracing::Span::current();
            span.record("outcome", tracing::field::debug(outcome));
            span.record("duration_us", u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            match result {
                Ok(answer) => {
                    tracing::info!("done");
                    Ok(Response::new(answer))
                }
                Err(error) => {
                    let (about, reference) = subject.about(&error.for_author(), &self.node_id);
                    tracing::warn!(reference, %error, "refused");
                    Err(status(&error, &about))
                }
            }
        };
        work.map(told).instrument(span)
    }
}

/// The first `most` characters of a text that a caller has given, for the log.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).map_or(text, |(at, _)| &text[..at])
}
