//! The request for the node's pods, cheap enough that all nodes of a large cluster can make it at once.
//!
//! An API server has all pods in its watch cache, indexed by node. That index answers only one kind of request: a LIST
//! with `resourceVersion=0` ("any version"), as the kubelet makes.
//!
//! - A LIST without it costs a round trip to etcd.
//! - A LIST with a limit makes servers before 1.34 read *all* pods of the cluster from etcd. Later servers walk all of
//!   them from the second page on.
//! - A WATCH that sends the state first (`sendInitialEvents`, "streaming list") walks all pods too.
//!
//! `cargo bench --bench cluster` measures the costs; docs/scale.md has the figures.
//!
//! Any version is good enough. What a pod wants of a volume can't change while the pod lives, and its uid is never
//! reused. Nobody asks for a listed pod that is gone, and a missing one arrives by the watch.

use std::future::ready;

use futures_util::{Stream, StreamExt};
use kube::runtime::utils::{Backoff, StreamBackoff};
use kube::runtime::watcher::{self, DefaultBackoff, Event};

/// The request: all pods of `node` in one answer from the watch cache, then their changes.
#[must_use]
pub fn pods_of(node: &str) -> watcher::Config {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}")).any_semantic();
    // The cache doesn't page its answer, and with a limit kube leaves out `resourceVersion=0` (kube-core,
    // `ListParams`). The default page size would silently make this the expensive request.
    watcher::Config { page_size: None, ..config }
}

/// Adds a back-off after failures to the events of a watcher: 0.8 s at first, 30 s at last, and up to twice that at
/// random, so that nodes that lost the same server don't return at the same time.
pub(super) fn with_backoff<K: Send + 'static>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    with(events, DefaultBackoff::default())
}

/// Leaves out `Init`, which a watcher sends before it has asked. A back-off takes it for a success and starts again, so
/// each failing node would ask about once a second for ever.
fn with<K: Send + 'static>(
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

    /// Never waits, and records the longest run of failures without a success.
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
        runtime.block_on(with(futures_util::stream::iter(events), backoff).for_each(|_| ready(())));
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
