//! Looks up what the pod of a volume wants, in a watch of this node's pods. A publish makes no request to the API
//! server.
//!
//! The kubelet learns of a pod by such a watch too. So when it calls, our watch has the pod already, or gets it in a
//! moment, and a look-up waits for it up to its deadline. Five hundred pods that start at once cost no request. If the
//! API server is away, that matters only for pods that it hasn't sent yet.
//!
//! A Pod doesn't say which of its claims a PersistentVolume is bound to. Only if its claims want different things is
//! the PersistentVolume requested.
//!
//! The kubelet names the pod in the volume context (`podInfoOnMount`) by namespace, name and uid; [`KnownPods`](crate::known::KnownPods) finds
//! it by all three. Without that, nothing is looked up and nothing is published: users could write these values
//! themselves.

pub mod asking;
mod error;
mod watched;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use allowlist::names::{PodIdentity, Target};
use futures_util::StreamExt;
use kube::runtime::watcher::watcher;
use kube::{Api, Client};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::target_path;

pub use error::LookupError;
use watched::Pods;

use crate::known::Found;
use crate::object::{PersistentVolume, Pod};
use crate::{PodVolumes, PodWish, WishResult};

/// Counts look-ups and requests.
pub trait Count: Send + Sync {
    /// A look-up of a pod ended.
    fn looked_up(&self, found: bool, took: Duration);
    /// A PersistentVolume was requested.
    fn asked_for_persistent_volume(&self);
}

/// Looks up the pods of this node.
pub struct Lookup {
    client: Client,
    /// The runtime that makes requests. A call is served in the kubelet's mount namespace, where our token and the API
    /// server's certificate don't exist.
    runtime: Handle,
    driver: String,
    node: String,
    deadline: Duration,
    metrics: Arc<dyn Count>,
    pods: RwLock<Pods>,
    /// Notified whenever `pods` changes.
    changed: watch::Sender<()>,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("node", &self.node).field("driver", &self.driver).finish_non_exhaustive()
    }
}

impl Lookup {
    /// Looks up pods of `node` through `client`, for at most `deadline` each. Requests are made on the current runtime.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn new(client: Client, driver: &str, node: &str, deadline: Duration, metrics: Arc<dyn Count>) -> Self {
        let (changed, _) = watch::channel(());
        let (driver, node, runtime) = (driver.to_owned(), node.to_owned(), Handle::current());
        Self { client, runtime, driver, node, deadline, metrics, pods: RwLock::default(), changed }
    }

    // No change can panic halfway, so the state behind a poisoned lock is valid.
    fn pods(&self) -> RwLockReadGuard<'_, Pods> {
        self.pods.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Pods)) {
        change(&mut self.pods.write().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_replace(());
    }

    /// Watches the node's pods, for ever.
    pub async fn watch(self: Arc<Self>) {
        let config = asking::pods_of(&self.node);
        asking::with_backoff(watcher(Api::<Pod>::all(self.client.clone()), config))
            .for_each(|event| {
                match event {
                    Ok(event) => self.change(|pods| pods.apply(event)),
                    Err(error) => {
                        let error = chain(&error);
                        if self.error().is_none() {
                            tracing::warn!(error, "watching the node's pods fails; trying again");
                        }
                        self.change(|pods| pods.fail(error, Instant::now()));
                    }
                }
                std::future::ready(())
            })
            .await;
    }

    /// Whether the node's pods are known.
    ///
    /// # Errors
    /// Why they are not.
    pub fn ready(&self) -> Result<(), String> {
        let pods = self.pods();
        if pods.synced {
            return Ok(());
        }
        let why = pods.error(Instant::now()).unwrap_or("the API server has not answered yet");
        Err(format!("the node's pods are not known: {why}"))
    }

    /// The failure of the watch, unless it is over.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.pods().error(Instant::now()).map(str::to_owned)
    }

    /// How many pods are known.
    #[must_use]
    pub fn known(&self) -> usize {
        self.pods().known.count()
    }

    /// What `pod`, as the kubelet names it, wants of the volume at `target`. Both have the same uid.
    ///
    /// # Errors
    /// [`LookupError`], at the latest at the deadline.
    pub async fn wish(&self, target: &Target, inline: bool, pod: &Arc<PodIdentity>) -> Result<PodWish, LookupError> {
        self.timed(self.find(target, inline, pod, PodVolumes::any_claim)).await
    }

    /// Like [`Self::wish`], for a volume that sets its own propagation. Then the claim doesn't matter and no request is
    /// made.
    ///
    /// # Errors
    /// [`LookupError`], at the latest at the deadline.
    pub async fn pod(&self, target: &Target, inline: bool, pod: &Arc<PodIdentity>) -> Result<PodWish, LookupError> {
        self.timed(self.find(target, inline, pod, PodVolumes::all_claims)).await
    }

    async fn timed(&self, find: impl Future<Output = Result<PodWish, LookupError>>) -> Result<PodWish, LookupError> {
        let start = Instant::now();
        let result = find.await;
        self.metrics.looked_up(result.is_ok(), start.elapsed());
        result
    }

    async fn find(
        &self,
        target: &Target,
        inline: bool,
        said: &Arc<PodIdentity>,
        of_claims: fn(&PodVolumes) -> WishResult,
    ) -> Result<PodWish, LookupError> {
        let (_, volume) =
            target_path::pod_volume(target).ok_or_else(|| LookupError::NotAPodVolume { path: target.clone() })?;
        let pod = self.wait_for(said).await?;
        if said.service_account != pod.service_account {
            return Err(LookupError::OtherAccount { pod: Arc::clone(said), is: pod.service_account.clone() });
        }
        let answer = match if inline { pod.inline(&self.driver, volume) } else { of_claims(&pod) } {
            WishResult::DependsOnClaim => pod.claim(&self.claim_of(volume, &pod).await?),
            answer => answer,
        };
        match answer {
            WishResult::Wish(wish) => Ok(wish),
            _ => Err(LookupError::NoVolume { pod: pod.to_string(), volume: volume.to_owned() }),
        }
    }

    /// Waits for the pod.
    async fn wait_for(&self, said: &Arc<PodIdentity>) -> Result<Arc<PodVolumes>, LookupError> {
        let mut changed = self.changed.subscribe();
        let coming = async {
            loop {
                let found = self.pods().known.find(said);
                // Another pod of this name may still arrive or go, until the watch has caught up with the kubelet's.
                if found != Found::Missing {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        };
        match self.within(coming).await.flatten() {
            Some(Found::Pod(pod)) => Ok(pod),
            Some(Found::Another(is)) => Err(LookupError::OtherPod { pod: Arc::clone(said), is: is.to_string() }),
            Some(Found::Missing) | None => {
                Err(LookupError::PodUnseen { pod: Arc::clone(said), waited: self.deadline, why: self.why_unseen(said) })
            }
        }
    }

    /// Why a pod isn't known.
    fn why_unseen(&self, pod: &PodIdentity) -> String {
        if let Some(error) = self.error() {
            return format!("watching pods fails: {error}");
        }
        if let Err(why) = self.ready() {
            return why;
        }
        match self.pods().known.uid_of(&pod.namespace, &pod.name) {
            Some(uid) => format!("the one that it has of that name has the uid {uid}"),
            None => "it does not have it".to_owned(),
        }
    }

    /// The name of the claim that a PersistentVolume is bound to, in the pod's namespace.
    async fn claim_of(&self, volume: &str, pod: &PodVolumes) -> Result<String, LookupError> {
        let fail = |why: String| LookupError::PersistentVolume { pod: pod.to_string(), volume: volume.to_owned(), why };
        self.metrics.asked_for_persistent_volume();
        let (volumes, name) = (Api::<PersistentVolume>::all(self.client.clone()), volume.to_owned());
        let asking = AbortOnDropHandle::new(self.runtime.spawn(async move { volumes.get(&name).await }));
        let asked = self.within(asking).await;
        let found = asked.ok_or_else(|| fail(format!("no answer within {:?}", self.deadline)))?;
        let found = found.map_err(|e| fail(e.to_string()))?.map_err(|e| fail(chain(&e)))?;
        let claim = found.claim_in(&pod.namespace).map(str::to_owned);
        claim.ok_or_else(|| fail("it is not bound to a claim of the pod's namespace".to_owned()))
    }

    async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(self.deadline, work).await.ok()
    }
}

/// An error with its causes. kube's own texts leave some out and repeat others.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |e| e.source()) {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref() {
            // The API server's own text; the remaining causes repeat it.
            texts.push(format!("{} ({})", status.message, status.code));
            break;
        }
        let text = cause.to_string();
        // Some texts contain their cause's text.
        let own = cause.source().map_or(text.as_str(), |inner| {
            text.strip_suffix(&inner.to_string()).map_or(text.as_str(), |own| own.trim_end_matches(": "))
        });
        texts.push(own.to_owned());
    }
    texts.join(": ")
}
