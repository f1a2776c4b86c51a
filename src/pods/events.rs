//! Kubernetes events on pods: `kubectl describe pod` shows them to whoever wonders why the application fails.
//!
//! An event's name is a hash of its content. So a restarted plugin that finds the same again doesn't repeat the event:
//! the API server keeps it for an hour and refuses the same name.
//!
//! A file server that dies may have volumes on every node of the cluster, and each node informs all its pods. So a node
//! makes a few events at once and then one each second. That bounds what 5,000 nodes write (docs/scale.md).
#![expect(clippy::disallowed_methods, reason = "the volume's name in the author's own Pod")]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use allowlist::author::{AuthorText, KnownText, author};
use allowlist::names::{EntryName, PodIdentity, Target};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::target_path;

/// How many requests are in flight at once.
const AT_ONCE: usize = 4;
/// How many events a node makes at once, if it made none for [`INTERVAL`] times this number.
const BURST: u32 = 10;
/// The time for each further event.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long informing the pods of one change may take: enough for a full node (110 pods by default).
const TIMEOUT: Duration = Duration::from_secs(180);
/// The longest note of an event, in characters (the API server's limit is 1024 bytes).
const NOTE_MAX: usize = 800;

/// When the next event may be made: [`BURST`] at once, then one every [`INTERVAL`].
#[derive(Debug, Default)]
struct Pace {
    /// When the events so far would have been made at one every [`INTERVAL`].
    even: Option<Instant>,
}

impl Pace {
    /// How long the next event must wait.
    fn wait(&mut self, now: Instant) -> Duration {
        let even = self.even.map_or(now, |even| even.max(now)) + INTERVAL;
        self.even = Some(even);
        even.duration_since(now).saturating_sub(INTERVAL * BURST)
    }
}

/// The content of an event: what a pod is told about one of its volumes.
#[derive(Debug, Clone)]
pub struct Told {
    /// The volume's target path.
    pub target: Target,
    /// The volume's entry.
    pub entry: EntryName,
    /// Major and minor number of the file system that the volume shows.
    pub device: (u32, u32),
    /// The directory of that file system.
    pub root: PathBuf,
    /// The volume's pod.
    pub pod: Arc<PodIdentity>,
    /// What happened, in one word.
    pub reason: &'static str,
    /// What happened and what to do.
    pub text: AuthorText,
    /// Whether somebody should act.
    pub warning: bool,
}

/// Makes events on pods.
#[derive(Clone)]
pub struct Events {
    client: Client,
    driver: String,
    node: String,
    pace: Arc<Mutex<Pace>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("driver", &self.driver).finish_non_exhaustive()
    }
}

impl Events {
    /// Makes events for this driver on this node.
    #[must_use]
    pub fn new(client: Client, driver: &str, node: &str) -> Self {
        Self { client, driver: driver.to_owned(), node: node.to_owned(), pace: Arc::default() }
    }

    /// Makes one event for each, on its pod, at the node's pace. An event that fails, or isn't made within three
    /// minutes, is logged: nothing else depends on it.
    pub async fn tell(&self, all: Vec<Told>) {
        let reason = all.first().map(|told| told.reason);
        let requests: Vec<(String, Event)> =
            all.iter().map(|told| (told.pod.namespace.clone(), self.event(told))).collect();
        let until = Instant::now() + TIMEOUT;
        let failures: Vec<String> = futures_util::stream::iter(requests)
            .map(|(namespace, event)| async move {
                let left = until.saturating_duration_since(Instant::now());
                match tokio::time::timeout(left, self.create(&namespace, &event)).await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some(format!("no time is left of {TIMEOUT:?}")),
                }
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        if let Some(error) = failures.first() {
            tracing::warn!(error, count = failures.len(), reason, "pods could not be told by events");
        }
    }

    /// Makes an event when its turn comes. An existing one is fine.
    async fn create(&self, namespace: &str, event: &Event) -> Result<(), kube::Error> {
        let wait = self.pace.lock().unwrap_or_else(PoisonError::into_inner).wait(Instant::now());
        tokio::time::sleep(wait).await;
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        match api.create(&PostParams::default(), event).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            created => created.map(|_| ()),
        }
    }

    fn event(&self, told: &Told) -> Event {
        let Told { target, entry, device, root, pod, reason, text, warning } = told;
        let mut hasher = DefaultHasher::new();
        (target.as_path(), reason, text, device, root).hash(&mut hasher);
        let name: String = pod.name.chars().take(200).collect();
        let note = note(target, entry, text);
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:016x}", hasher.finish())),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            reporting_controller: Some(self.driver.clone()),
            reporting_instance: Some(self.node.chars().take(128).collect()),
            action: Some("LookAtVolume".to_owned()),
            reason: Some((*reason).to_owned()),
            type_: Some(if *warning { "Warning" } else { "Normal" }.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            }),
            note: Some(note.as_str().chars().take(NOTE_MAX).collect()),
            ..Event::default()
        }
    }
}

/// The text of an event.
fn note(target: &Target, entry: &EntryName, text: &AuthorText) -> AuthorText {
    match target_path::pod_volume(target) {
        Some((_, name)) => author!["volume ", KnownText::new(name), " (entry ", *entry, "): ", *text],
        None => author!["volume of the entry ", *entry, ": ", *text],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_at_once_then_one_a_second() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut waits = |at: u64, count: usize| -> Vec<u64> {
            let now = start + Duration::from_secs(at);
            (0..count).map(|_| pace.wait(now).as_secs()).collect()
        };
        assert_eq!(waits(0, 12), [[0; 10].as_slice(), &[1, 2]].concat());
        // Two seconds later those two are made, and the next has to wait for one second.
        assert_eq!(waits(2, 2), [1, 2]);
        // After a pause, as many at once as before.
        assert_eq!(waits(100, 11), [[0; 10].as_slice(), &[1]].concat());
    }

    #[test]
    fn a_full_node_is_told_in_time() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let last = (0..110).map(|_| pace.wait(now)).max();
        assert!(last.is_some_and(|last| last < TIMEOUT / 3 * 2), "{last:?}");
    }
}
