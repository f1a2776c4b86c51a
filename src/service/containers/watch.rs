//! Checks the containers of a running plugin's pods periodically, and updates a metric: how many volumes lack flags
//! there.
//!
//! An expensive check is followed by a long pause, so that checks cost a bounded share of a core on any node.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use allowlist::config::AllowList;
use engine::site::Site;
use kernel::path;
use mounts::Errno;
use mounts::mountinfo::Walk;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch::Receiver;
use workers::Source;

use super::Sought;
use super::judge::{Counts, Tally, wanted};
use super::look::look;
use super::scan::{Index, Node};
use crate::Service;
use crate::heal::Volume;

/// The pause after a check, as a multiple of its CPU time: checks cost 0.02 % of a core at most. A check of 180
/// namespaces takes 20 ms, nearly all of it in the kernel.
const REST: u32 = 5000;
/// The longest pause, in intervals.
const INTERVALS_MAX: u32 = 15;
/// How long a check may take. What it has not examined by then is unknown.
const LOOK: Duration = Duration::from_secs(2);
/// How long the result is awaited.
const DEADLINE: Duration = Duration::from_secs(10);

/// Checks forever, at most once every `interval`.
pub async fn watch(service: Arc<Service>, volumes: Receiver<Arc<Vec<Arc<Volume>>>>, interval: Duration) {
    let mut rest = interval;
    loop {
        tokio::time::sleep(rest).await;
        let known = Arc::clone(&volumes.borrow());
        let Some(pool) = service.threads.latest() else { continue };
        if known.is_empty() {
            service.metrics.weaker(Counts::default());
            rest = interval;
            continue;
        }
        let list = service.list().ok();
        let looking = service.threads.run(&pool, Source::own("containers"), DEADLINE, move |thread, _| {
            let start = own_time()?;
            let counts = count(&thread.site, &known, list.as_deref())?;
            Ok::<_, Errno>((counts, own_time()?.saturating_sub(start)))
        });
        rest = interval;
        match looking.await {
            Ok(Ok((counts, took))) => {
                service.metrics.weaker(counts);
                tracing::debug!(?took, ?counts, "looked into the containers of pods");
                rest = (took * REST).clamp(interval, interval * INTERVALS_MAX);
            }
            Ok(Err(error)) => tracing::warn!(%error, "the containers of pods cannot be looked into"),
            Err(error) => tracing::warn!(%error, "the containers of pods cannot be looked into"),
        }
    }
}

/// The CPU time of the calling thread.
fn own_time() -> Result<Duration, Errno> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from)
}

/// How many of the volumes lack flags in some container.
fn count(site: &Site, volumes: &[Arc<Volume>], list: Option<&AllowList>) -> Result<Counts, Errno> {
    let sought = |volume: &Arc<Volume>| {
        let pod = site.layout.workload_of(volume.path.as_path())?;
        Some(Sought {
            pod: pod.to_owned(),
            shown: vec![volume.shown.as_ref().clone()],
            wanted: wanted(
                &volume.record,
                list.and_then(|list| list.get(&volume.record.owner.entry)).map(AsRef::as_ref),
            ),
        })
    };
    let sought: Vec<Sought> = volumes.iter().filter_map(sought).collect();
    let index = Index::new(node(site)?, &sought);
    let mut tally = Tally::new(&sought);
    let unknown = look(&site.proc, &index, Instant::now() + LOOK, &mut |container| tally.see(&container))?;
    Ok(tally.counts(&unknown))
}

/// The node, from the calling thread's mount table. The whole table isn't read if the kernel can be asked for a single
/// mount.
fn node(site: &Site) -> Result<Node, Errno> {
    let id = |path: &Path| site.calls.mount_id(&site.proc, path::open_trusted(path)?);
    let table = site.calls.ways_to(&site.proc, &[id(&site.layout.workloads)?, id(Path::new("/"))?])?;
    Node::of(&Walk::new(&table), &site.layout).ok_or(Errno::ENOENT)
}
