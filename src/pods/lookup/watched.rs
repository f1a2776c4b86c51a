//! The pods that the watch has sent, and what is wrong with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::runtime::watcher::Event;

use crate::PodVolumes;
use crate::known::{KnownPods, UidConflict};
use crate::object::Pod;

/// After this time without another failure, a failure is over. A watch that resumes is silent until a pod changes, so
/// silence is the only sign. Two tries are at most a minute and a half apart: one minute of back-off, and half of one
/// to connect.
const FAILURE: Duration = Duration::from_secs(120);

/// The pods of the node, as the watch has sent them.
#[derive(Default)]
pub(super) struct Pods {
    pub(super) known: KnownPods,
    /// The pods of a list that is still being received.
    arriving: KnownPods,
    pub(super) synced: bool,
    /// The last failure, and when it happened.
    error: Option<(String, Instant)>,
}

impl Pods {
    pub(super) fn apply(&mut self, event: Event<Pod>) {
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
            // [`super::asking`] leaves it out. A list that fails before its end is dropped with the error.
            Event::Init => {}
            // A pod counts before its list is complete: what it wants won't change.
            Event::InitApply(pod) => {
                if let Some(pod) = read(&pod) {
                    self.learn(&pod);
                    // Its conflicts were reported by `learn`.
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
        for UidConflict { uid, mirror, other } in self.known.insert(pod) {
            tracing::warn!(
                uid, pod = %mirror, of = %other,
                "a pod says by the annotation kubernetes.io/config.mirror that it has the uid of another one, and is not \
                 taken for it: look who has made it"
            );
        }
    }

    pub(super) fn fail(&mut self, error: String, now: Instant) {
        self.error = Some((error, now));
        self.arriving = KnownPods::default();
    }

    /// The failure, unless it is over.
    pub(super) fn error(&self, now: Instant) -> Option<&str> {
        let (error, at) = self.error.as_ref()?;
        (now.saturating_duration_since(*at) < FAILURE).then_some(error)
    }
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
        pods.apply(Event::InitDone);
        assert_eq!(pods.error(start + FAILURE), None);
    }
}
