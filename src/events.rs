//! Kubernetes events on pods: what `kubectl describe pod` shows whoever wonders why the application fails.
//!
//! An event's name is made of what it says, so that a restarted plugin which sees the same again doesn't repeat it: the
//! API server has it already, for the hour that it keeps events.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::heal::Volume;
use crate::vitals::Vital;
use crate::volume::PodIdentity;

/// How many requests are under way at once.
const AT_ONCE: usize = 4;
/// What an event's note may have, in characters (the API server's limit is 1024 bytes).
const NOTE_MAX: usize = 800;

/// Tells pods what happens to their volumes.
#[derive(Clone)]
pub struct Events {
    client: Client,
    driver: String,
    node: String,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("driver", &self.driver).finish_non_exhaustive()
    }
}

impl Events {
    /// Events of this driver on this node.
    #[must_use]
    pub fn new(client: Client, driver: &str, node: &str) -> Self {
        Self { client, driver: driver.to_owned(), node: node.to_owned() }
    }

    /// One event for each volume, on its pod. What can't be told is logged: nothing else depends on it.
    pub async fn tell(&self, volumes: &[(Arc<Volume>, PodIdentity)], vital: Vital) {
        let requests: Vec<(String, Event)> =
            volumes.iter().map(|(volume, pod)| (pod.namespace.clone(), self.event(volume, pod, vital))).collect();
        let failures: Vec<kube::Error> = futures_util::stream::iter(requests)
            .map(|(namespace, event)| async move {
                let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
                api.create(&PostParams::default(), &event).await
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(|created| std::future::ready(created.err()))
            .filter(|error| std::future::ready(!matches!(error, kube::Error::Api(status) if status.code == 409)))
            .collect()
            .await;
        if let Some(error) = failures.first() {
            tracing::warn!(%error, count = failures.len(), reason = vital.reason(), "pods could not be told by events");
        }
    }

    fn event(&self, volume: &Volume, pod: &PodIdentity, vital: Vital) -> Event {
        let mut hasher = DefaultHasher::new();
        (volume.path.as_path(), vital.reason(), volume.shown.device, &volume.shown.root).hash(&mut hasher);
        let name: String = pod.name.chars().take(200).collect();
        let of = volume.path.pod_volume().map_or_else(String::new, |(_, name)| format!(" {name}"));
        let note = format!("volume{of} (entry {}): {}", volume.note.owner.entry, vital.message());
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
            reason: Some(vital.reason().to_owned()),
            type_: Some(if vital == Vital::Live { "Normal" } else { "Warning" }.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            }),
            note: Some(note.chars().take(NOTE_MAX).collect()),
            ..Event::default()
        }
    }
}
