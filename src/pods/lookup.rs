//! What the pod of a volume wants, from a watch of this node's pods: no request to the API server for a publish.
//!
//! The kubelet itself hears of a pod by such a watch, so when it calls, ours has the pod already or in a moment; a
//! look-up waits for that moment up to its deadline. Five hundred pods that start at once cost no request at all, and
//! an API server that is away matters only for pods that it hasn't told us of yet. The one thing a Pod doesn't say is
//! which of its claims a PersistentVolume is bound to: where its claims differ in what they want, the
//! PersistentVolume is asked for, one request.
//!
//! Who the pod is, the kubelet says in the volume context (`podInfoOnMount`), by namespace, name and uid; [`KnownPods`] finds it by all
//! three. Without that nothing is looked up, and nothing published: users could write it themselves.

pub mod asking;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use allowlist::names::{KubeletPath, PodIdentity};
use futures_util::StreamExt;
use kube::runtime::watcher::{Event, watcher};
use kube::{Api, Client};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::known::{Claim, Found, KnownPods};
use crate::object::{PersistentVolume, Pod};
use crate::{Answer, PodVolumes, PodWish};

/// A watch that goes on from where it was says nothing until a pod changes. So a failure is over when it isn't followed by
/// another one in this time, which is longer than two tries are apart: a minute at most, and half of one to connect.
const FAILURE: Duration = Duration::from_secs(120);

/// Why it isn't known what a pod wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The target path isn't that of a pod's volume.
    #[error("{path} is not the path of a pod's volume, so no pod can be looked up: the kubelet has no such paths")]
    NotAPodVolume {
        /// The target path.
        path: KubeletPath,
    },
    /// The request doesn't say which pod it is for.
    #[error(
        "the request does not say which pod it is for, and without that no pod can be looked up: set podInfoOnMount: true \
         on the CSIDriver object"
    )]
    NoPodInfo,
    /// The pod hasn't come by the watch.
    #[error(
        "the API server did not tell of the pod {pod} (uid {}) within {waited:?}: {why}; the call will be retried",
        pod.uid
    )]
    PodUnseen {
        /// The pod.
        pod: Arc<PodIdentity>,
        /// How long it was waited for.
        waited: Duration,
        /// What there is instead, or what is wrong with the watch.
        why: String,
    },
    /// The uid is another pod's.
    #[error(
        "the request is for the pod {pod} with the uid {}, but that is the uid of the pod {is}: one of the two claims \
         what isn't its own; look at both, and whether podInfoOnMount is true on the CSIDriver object",
        pod.uid
    )]
    OtherPod {
        /// Who the request says.
        pod: Arc<PodIdentity>,
        /// Whose uid it is.
        is: String,
    },
    /// The pod runs as another service account than the request says.
    #[error(
        "the request says that the pod {pod} runs as the service account {:?}, but the API server says {is:?}: the kubelet does \
         not write so; set podInfoOnMount: true on the CSIDriver object, so that it does",
        pod.service_account
    )]
    OtherAccount {
        /// Who the request says.
        pod: Arc<PodIdentity>,
        /// As whom it runs.
        is: String,
    },
    /// The pod hasn't this volume.
    #[error("the pod {pod} has no volume that could be {volume:?}: the call will be retried")]
    NoVolume {
        /// The pod.
        pod: String,
        /// The volume's name in the target path.
        volume: String,
    },
    /// The PersistentVolume can't be read.
    #[error(
        "the claims of the pod {pod} ask for different propagations, and the PersistentVolume {volume} cannot be \
         read to tell which claim it is: {why}; the call will be retried, or set its volumeAttributes.propagation"
    )]
    PersistentVolume {
        /// The pod.
        pod: String,
        /// The PersistentVolume.
        volume: String,
        /// What is wrong.
        why: String,
    },
}

#[derive(Default)]
struct Pods {
    known: KnownPods,
    /// Those of a list that is being received.
    arriving: KnownPods,
    synced: bool,
    /// What went wrong last, and when.
    error: Option<(String, Instant)>,
}

impl Pods {
    fn take(&mut self, event: Event<Pod>) {
        self.error = None;
        let read = |pod: &Pod| PodVolumes::of(pod).map(Arc::new);
        match event {
            Event::Apply(pod) => {
                if let Some(pod) = read(&pod) {
                    self.learn(&pod);
                }
            }
            Event::Delete(pod) => {
                if let Some(pod) = read(&pod) {
                    self.known.remove(&pod);
                }
            }
            // Left out by `asking`; a list that didn't come to its end is forgotten with its error.
            Event::Init => {}
            // What a pod wants doesn't become wrong by waiting for the rest of the list.
            Event::InitApply(pod) => {
                if let Some(pod) = read(&pod) {
                    self.learn(&pod);
                    // What there is to say of it was said just now.
                    self.arriving.insert(&pod);
                }
            }
            Event::InitDone => {
                self.known = std::mem::take(&mut self.arriving);
                self.synced = true;
            }
        }
    }

    fn learn(&mut self, pod: &Arc<PodVolumes>) {
        for Claim { uid, mirror, other } in self.known.insert(pod) {
            tracing::warn!(
                uid, pod = %mirror, of = %other,
                "a pod says by the annotation kubernetes.io/config.mirror that it has the uid of another one, and is not \
                 taken for it: look who has made it"
            );
        }
    }

    fn fail(&mut self, error: String, now: Instant) {
        self.error = Some((error, now));
        self.arriving = KnownPods::default();
    }

    /// What is wrong now.
    fn error(&self, now: Instant) -> Option<&str> {
        let (error, at) = self.error.as_ref()?;
        (now.saturating_duration_since(*at) < FAILURE).then_some(error)
    }
}

/// Counts what look-ups come to.
pub trait Count: Send + Sync {
    /// A look-up of a pod ended.
    fn looked_up(&self, found: bool, took: Duration);
    /// A PersistentVolume was asked for.
    fn asked_for_persistent_volume(&self);
}

/// The pods of this node.
pub struct Lookup {
    client: Client,
    /// Where requests are made. A call is served in the kubelet's mount namespace, in which the files that name us to the API server
    /// aren't, nor those of its certificate.
    around: Handle,
    driver: String,
    node: String,
    deadline: Duration,
    metrics: Arc<dyn Count>,
    pods: RwLock<Pods>,
    /// Told of whenever `pods` changes.
    changed: watch::Sender<()>,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("node", &self.node).field("driver", &self.driver).finish_non_exhaustive()
    }
}

impl Lookup {
    /// Looks up pods of `node` by `client`, for at most `deadline` each. Requests are made in the current runtime.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn new(client: Client, driver: &str, node: &str, deadline: Duration, metrics: Arc<dyn Count>) -> Self {
        let (changed, _) = watch::channel(());
        let (driver, node, around) = (driver.to_owned(), node.to_owned(), Handle::current());
        Self { client, around, driver, node, deadline, metrics, pods: RwLock::default(), changed }
    }

    // Nothing can panic with the lock held half-way through a change, so a poisoned lock's state is whole.
    fn pods(&self) -> RwLockReadGuard<'_, Pods> {
        self.pods.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Pods)) {
        change(&mut self.pods.write().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_replace(());
    }

    /// Watches the pods of the node, for ever.
    pub async fn watch(self: Arc<Self>) {
        let config = asking::pods_of(&self.node);
        asking::patient(watcher(Api::<Pod>::all(self.client.clone()), config))
            .for_each(|event| {
                match event {
                    Ok(event) => self.change(|pods| pods.take(event)),
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

    /// What is wrong with the watch now.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.pods().error(Instant::now()).map(str::to_owned)
    }

    /// How many pods are known.
    #[must_use]
    pub fn known(&self) -> usize {
        self.pods().known.count()
    }

    /// What `pod`, as the kubelet names it, wants of the volume whose target path this is. Both have the same uid.
    ///
    /// # Errors
    /// [`LookupError`], at the deadline at the latest.
    pub async fn wish(
        &self,
        target: &KubeletPath,
        inline: bool,
        pod: &Arc<PodIdentity>,
    ) -> Result<PodWish, LookupError> {
        self.timed(self.find(target, inline, pod, PodVolumes::any_claim)).await
    }

    /// The same of a volume that says its propagation itself. Then it doesn't matter by which claim the pod has it, and
    /// no request is made.
    ///
    /// # Errors
    /// [`LookupError`], at the deadline at the latest.
    pub async fn pod(
        &self,
        target: &KubeletPath,
        inline: bool,
        pod: &Arc<PodIdentity>,
    ) -> Result<PodWish, LookupError> {
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
        target: &KubeletPath,
        inline: bool,
        said: &Arc<PodIdentity>,
        of_claims: fn(&PodVolumes) -> Answer,
    ) -> Result<PodWish, LookupError> {
        let (_, volume) = target.pod_volume().ok_or_else(|| LookupError::NotAPodVolume { path: target.clone() })?;
        let pod = self.arrival(said).await?;
        if said.service_account != pod.service_account {
            return Err(LookupError::OtherAccount { pod: Arc::clone(said), is: pod.service_account.clone() });
        }
        let answer = match if inline { pod.inline(&self.driver, volume) } else { of_claims(&pod) } {
            Answer::DependsOnClaim => pod.claim(&self.claim_of(volume, &pod).await?),
            answer => answer,
        };
        match answer {
            Answer::Wish(wish) => Ok(wish),
            _ => Err(LookupError::NoVolume { pod: pod.to_string(), volume: volume.to_owned() }),
        }
    }

    /// The pod, as soon as it has come.
    async fn arrival(&self, said: &Arc<PodIdentity>) -> Result<Arc<PodVolumes>, LookupError> {
        let mut changed = self.changed.subscribe();
        let coming = async {
            loop {
                let found = self.pods().known.find(said);
                // One of the same name may still come, or go, until the watch is where the kubelet's is.
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
        let asking = AbortOnDropHandle::new(self.around.spawn(async move { volumes.get(&name).await }));
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

/// An error with its causes, which kube's own texts leave out or repeat.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |e| e.source()) {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref() {
            // What the API server itself says; the rest is the same once more.
            texts.push(format!("{} ({})", status.message, status.code));
            break;
        }
        let text = cause.to_string();
        // Some texts contain their cause's.
        let own = cause.source().map_or(text.as_str(), |inner| {
            text.strip_suffix(&inner.to_string()).map_or(text.as_str(), |own| own.trim_end_matches(": "))
        });
        texts.push(own.to_owned());
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_without_another_one_is_over() {
        let (mut pods, start) = (Pods::default(), Instant::now());
        pods.fail("refused".to_owned(), start);
        assert_eq!(pods.error(start + FAILURE / 2), Some("refused"));
        assert_eq!(pods.error(start + FAILURE), None);
        pods.fail("refused".to_owned(), start + FAILURE);
        assert!(pods.error(start + FAILURE).is_some());
        pods.take(Event::InitDone);
        assert_eq!(pods.error(start + FAILURE), None);
    }
}
