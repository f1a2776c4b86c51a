//! What the CSI services share, and how a call is counted and logged.
#![expect(
    clippy::disallowed_methods,
    reason = "what the author has written into the request, and the node that the pod runs on"
)]

use std::collections::HashMap;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use allowlist::author::{AuthorText, KnownText, author};
use allowlist::names::AbsPath;
use futures_util::FutureExt;
use service::Service;
use service::refusals::ForAuthor;
use text::cut::Cut;
use tonic::{Code, Request, Response, Status};
use tracing::Instrument;
use tracing::field::Empty;
use workers::Pool;

use super::admission::Admission;
use super::caller::Caller;
use super::request::{SUB_PATH, VOLUME};
use super::status::{CallError, code, name, status};
use crate::registration::Registration;

/// How much of a volume's id is logged. The caller has given it.
const LOGGED: Cut = Cut::characters(200).mark("");

/// A plugin as the kubelet sees it.
#[derive(Debug)]
pub struct Plugin {
    /// The use cases.
    pub service: Arc<Service>,
    /// Decides who may connect.
    pub admission: Admission,
    /// The calls under way.
    pub under_way: UnderWay,
    /// The registration with the kubelet, if it was asked for.
    pub registration: Option<Arc<Registration>>,
}

/// The number of calls under way. A stopping plugin waits for them.
#[derive(Debug, Clone, Default)]
pub struct UnderWay(Arc<()>);

impl UnderWay {
    /// How many calls are under way.
    #[must_use]
    pub fn count(&self) -> usize {
        // Each call holds a clone, even one that is dropped half-way.
        Arc::strong_count(&self.0) - 1
    }
}

/// What the log tells of a call besides its outcome.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The call.
    pub rpc: &'static str,
    /// The volume.
    pub volume: &'a str,
    /// The pod, as namespace/name, if the request tells it.
    pub pod: Option<&'a str>,
    /// The volume attributes that the volume's author has written, if the request has them.
    pub attributes: Option<&'a HashMap<String, String>>,
}

impl Subject<'_> {
    /// Names the volume to its author. Also makes the word by which the administrator finds the log line of a refusal
    /// with this text.
    fn about(&self, text: &AuthorText, node: &str) -> (AuthorText, String) {
        // The word is the same for a repeated call, so that the kubelet aggregates its events. It is made only of what
        // the author reads anyway, so it reveals nothing else.
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
    /// The kubelet's directory. Every path of a call lies beneath it.
    #[must_use]
    pub fn kubelet_dir(&self) -> &AbsPath {
        &self.service.threads.site().layout.base
    }

    /// The mount threads for a node call's caller, which is from then on taken for the kubelet. A process that only
    /// connects, like `hostmount check` in a mount namespace of its own, is not.
    ///
    /// # Errors
    /// [`CallError::Caller`].
    pub fn pool_of<T>(&self, request: &Request<T>) -> Result<Arc<Pool>, CallError> {
        let pool = request.extensions().get().map_or(Err("the connection does not know its caller"), Caller::pool);
        let pool = pool.map_err(|why| CallError::Caller(why.to_owned()))?;
        self.service.threads.called_by(&pool);
        Ok(pool)
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
        let volume = &*LOGGED.apply(volume);
        let span = tracing::info_span!("call", rpc, volume, pod, outcome = Empty, duration_us = Empty);
        let under_way = self.under_way.clone();
        let start = Instant::now();
        let told = move |result: Result<T, CallError>| {
            drop(under_way);
            let took = start.elapsed();
            let outcome = result.as_ref().map_or_else(code, |_| Code::Ok);
            self.service.metrics.call(rpc, name(outcome), took);
            let span = tracing::Span::current();
            span.record("outcome", tracing::field::debug(outcome));
            span.record("duration_us", u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            match result {
                Ok(answer) => {
                    tracing::info!("done");
                    Ok(Response::new(answer))
                }
                Err(error) => {
                    let (about, reference) = subject.about(&error.for_author(), &self.service.node_id);
                    tracing::warn!(reference, %error, "refused");
                    Err(status(&error, &about))
                }
            }
        };
        work.map(told).instrument(span)
    }
}
