//! How the node's pods are asked for: so that all nodes of a large cluster can ask at once.
//!
//! An API server holds all pods in its watch cache, with an index by node, and only one kind of question is answered by
//! that index: a LIST with `resourceVersion=0` ("any version"), as a kubelet asks. A LIST without it costs a round
//! through etcd; with a limit, servers before 1.34 read *all* pods of the cluster out of etcd for it, and later ones walk
//! all of them from the second page on. A WATCH that sends the state first (`sendInitialEvents`, "streaming list") walks
//! all pods too. What that comes to is measured by `cargo bench --bench cluster`; docs/scale.md has the figures.
//!
//! Any version is good enough. What a pod wants of a volume can't change while the pod lives, and its uid is never
//! given twice: a pod that is listed although it is gone is asked for by nobody, and one that is missing comes by the watch.

use std::future::ready;

use futures_util::{Stream, StreamExt};
use kube::runtime::utils::{Backoff, StreamBackoff};
use kube::runtime::watcher::{self, DefaultBackoff, Event};

/// The question: all pods of `node`, in one answer from the watch cache, then their changes.
#[must_use]
pub fn pods_of(node: &str) -> watcher::Config {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}")).any_semantic();
    // The cache doesn't divide its answer, and kube leaves out `resourceVersion=0` where there is a limit (kube-core,
    // `ListParams`): the default page size would quietly make it the expensive question.
    watcher::Config { page_size: None, ..config }
}

/// The events of a watcher, which waits after failures: 0.8 s at first, at last 30 s, and up to twice that by chance, so
/// that the nodes that lost one server don't come back at one time.
pub(super) fn patient<K: Send + 'static>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    patient_by(events, DefaultBackoff::default())
}

/// A watcher says `Init` before it has asked, not when it was answered. To a back-off that is a success, after which it
/// begins anew: each failing node would ask about once a second for ever. So that word is left out.
fn patient_by<K: Send + 'static>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    backoff: impl Backoff,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    StreamBackoff::new(events.filter(|event| ready(!matches!(event, Ok(Event::Init)))), backoff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Waits for no time, and takes down the longest run of failures without a success.
    struct Counting<'a> {
        run: usize,
        longest: &'a AtomicUsize,
    }

    impl Iterator for Counting<'_> {
        type Item = Duration;
        fn next(&mut self) -> Option<Duration> {
            self.run += 1;
            self.longest.fetch_max(self.run, Ordering::Relaxed);
            Some(Duration::ZERO)
        }
    }

    impl Backoff for Counting<'_> {
        fn reset(&mut self) {
            self.run = 0;
        }
    }

    fn longest_run(events: Vec<watcher::Result<Event<()>>>) -> usize {
        let longest = AtomicUsize::new(0);
        let backoff = Counting { run: 0, longest: &longest };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(patient_by(futures_util::stream::iter(events), backoff).for_each(|_| ready(())));
        longest.load(Ordering::Relaxed)
    }

    #[test]
    fn a_list_that_fails_again_is_waited_for_longer() {
        let failure = || Err(watcher::Error::NoResourceVersion);
        assert_eq!(longest_run((0..5).flat_map(|_| [Ok(Event::Init), failure()]).collect()), 5);
        // An answer is a success.
        let between = [Ok(Event::Init), failure(), Ok(Event::Init), Ok(Event::InitDone), failure()];
        assert_eq!(longest_run(between.into()), 1);
    }

    #[test]
    fn the_question_has_no_limit() {
        let config = pods_of("n1");
        assert_eq!((config.page_size, config.list_semantic), (None, watcher::ListSemantic::Any));
        assert_eq!(config.field_selector.as_deref(), Some("spec.nodeName=n1"));
    }
}
