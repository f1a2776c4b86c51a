//! What the pod of a volume wants, from a watch of this node's pods: no request to the API server for a publish.
//!
//! The kubelet itself hears of a pod by such a watch, so when it calls, ours has the pod already or in a moment; a
//! look-up waits for that moment up to its deadline. Five hundred pods that start at once cost no request at all, and
//! an API server that is away matters only for pods that it hasn't told us of yet. The one thing a Pod doesn't say is
//! which of its claims a PersistentVolume is bound to: where its claims differ in what they want, the
//! PersistentVolume is asked for, one request.
//!
//! A pod is found by the uid in the target path, which the kubelet has made. What the volume context says of it is
//! compared: without `podInfoOnMount`, users could write it themselves.

pub mod asking;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kube::runtime::watcher::{Event, watcher};
use kube::{Api, Client};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::Metrics;
use crate::pod::object::{PersistentVolume, Pod};
use crate::pod::{Answer, PodVolumes};
use crate::propagation::MountPropagation;
use crate::volume::{KubeletPath, PodIdentity};

/// A watch that goes on from where it was says nothing until a pod changes. So a failure is over when it isn't followed by
/// another one in this time, which is longer than two tries are apart: a minute at most, and half of one to connect.
const FAILURE: Duration = Duration::from_secs(120);

/// Why it isn't known what a pod wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The target path isn't that of a pod's volume.
    #[error(
        "the volume does not say its propagation, and {path} is not the path of a pod's volume, so no pod can be \
         looked up: set the volume attribute \"propagation\""
    )]
    NotAPodVolume {
        /// The target path.
        path: KubeletPath,
    },
    /// The pod hasn't come by the watch.
    #[error("{}", unseen(pod.as_deref(), uid, *waited, why.as_deref()))]
    PodUnseen {
        /// Namespace and name, if the kubelet says.
        pod: Option<String>,
        /// The uid in the target path.
        uid: String,
        /// How long it was waited for.
        waited: Duration,
        /// What is wrong with the watch, if something is.
        why: Option<String>,
    },
    /// The pod with this uid is another than the request says.
    #[error(
        "the volume context says {said}, but target_path is of {is}: the kubelet does not write so; set \
         podInfoOnMount: true on the CSIDriver object, so that it does"
    )]
    OtherPod {
        /// What the context says.
        said: String,
        /// Whose uid it is.
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

fn unseen(pod: Option<&str>, uid: &str, waited: Duration, why: Option<&str>) -> String {
    let pod = pod.map_or_else(|| format!("with the uid {uid}"), |pod| format!("{pod} (uid {uid})"));
    let why = why.map_or_else(|| "it does not have it".to_owned(), |why| format!("watching pods fails: {why}"));
    format!(
        "the volume does not say its propagation, and the API server did not tell of the pod {pod} within \
         {waited:?}: {why}; the call will be retried, or set the volume attribute \"propagation\""
    )
}

#[derive(Default)]
struct Pods {
    by_uid: HashMap<String, Arc<PodVolumes>>,
    /// Those of a list that is being received.
    arriving: HashMap<String, Arc<PodVolumes>>,
    synced: bool,
    /// What went wrong last, and when.
    error: Option<(String, Instant)>,
}

impl Pods {
    fn take(&mut self, event: Event<Pod>) {
        self.error = None;
        let read = |pod: &Pod| PodVolumes::of(pod).map(|pod| (pod.uid.clone(), Arc::new(pod)));
        match event {
            Event::Apply(pod) => self.by_uid.extend(read(&pod)),
            Event::Delete(pod) => {
                if let Some((uid, _)) = read(&pod) {
                    self.by_uid.remove(&uid);
                }
            }
            // Left out by `asking`; a list that didn't come to its end is forgotten with its error.
            Event::Init => {}
            // What a pod wants doesn't become wrong by waiting for the rest of the list.
            Event::InitApply(pod) => {
                let pod = read(&pod);
                self.by_uid.extend(pod.clone());
                self.arriving.extend(pod);
            }
            Event::InitDone => {
                self.by_uid = std::mem::take(&mut self.arriving);
                self.synced = true;
            }
        }
    }

    fn fail(&mut self, error: String, now: Instant) {
        self.error = Some((error, now));
        self.arriving.clear();
    }

    /// What is wrong now.
    fn error(&self, now: Instant) -> Option<&str> {
        let (error, at) = self.error.as_ref()?;
        (now.saturating_duration_since(*at) < FAILURE).then_some(error)
    }
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
    metrics: Arc<Metrics>,
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
    pub fn new(client: Client, driver: &str, node: &str, deadline: Duration, metrics: Arc<Metrics>) -> Self {
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
        self.pods().by_uid.len()
    }

    /// What the pod wants of the volume whose target path this is; `said` is who it is in the volume context.
    ///
    /// # Errors
    /// [`LookupError`], at the deadline at the latest.
    pub async fn wish(
        &self,
        target: &KubeletPath,
        inline: bool,
        said: Option<&PodIdentity>,
    ) -> Result<MountPropagation, LookupError> {
        let start = Instant::now();
        let result = self.find(target, inline, said).await;
        self.metrics.looked_up(result.is_ok(), start.elapsed());
        result
    }

    async fn find(
        &self,
        target: &KubeletPath,
        inline: bool,
        said: Option<&PodIdentity>,
    ) -> Result<MountPropagation, LookupError> {
        let (uid, volume) = target.pod_volume().ok_or_else(|| LookupError::NotAPodVolume { path: target.clone() })?;
        let pod = self.arrival(uid, said).await?;
        let name = || format!("{}/{}", pod.namespace, pod.name);
        if let Some(said) = said
            && (&said.namespace, &said.name, &said.service_account) != (&pod.namespace, &pod.name, &pod.service_account)
        {
            let account = |account: &str| format!("with the service account {account:?}");
            return Err(LookupError::OtherPod {
                said: format!("pod {said} {}", account(&said.service_account)),
                is: format!("pod {} {}", name(), account(&pod.service_account)),
            });
        }
        let answer = match if inline { pod.inline(&self.driver, volume) } else { pod.any_claim() } {
            Answer::DependsOnClaim => pod.claim(&self.claim_of(volume, &pod).await?),
            answer => answer,
        };
        match answer {
            Answer::Wish(wish) => Ok(wish),
            _ => Err(LookupError::NoVolume { pod: name(), volume: volume.to_owned() }),
        }
    }

    /// The pod with this uid, as soon as it has come.
    async fn arrival(&self, uid: &str, said: Option<&PodIdentity>) -> Result<Arc<PodVolumes>, LookupError> {
        let mut changed = self.changed.subscribe();
        let coming = async {
            loop {
                if let Some(pod) = self.pods().by_uid.get(uid) {
                    return Some(Arc::clone(pod));
                }
                changed.changed().await.ok()?;
            }
        };
        self.within(coming).await.flatten().ok_or_else(|| LookupError::PodUnseen {
            pod: said.map(ToString::to_string),
            uid: uid.to_owned(),
            waited: self.deadline,
            why: self.error().or_else(|| self.ready().err()),
        })
    }

    /// The name of the claim that a PersistentVolume is bound to, in the pod's namespace.
    async fn claim_of(&self, volume: &str, pod: &PodVolumes) -> Result<String, LookupError> {
        let fail = |why: String| LookupError::PersistentVolume {
            pod: format!("{}/{}", pod.namespace, pod.name),
            volume: volume.to_owned(),
            why,
        };
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
