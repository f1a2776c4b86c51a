//! Self-healing: when a source comes back, running pods get it without a restart.
//!
//! A pod that has a FUSE mount itself as its volume keeps ENOTCONN when the daemon dies, even after a new daemon has
//! mounted the same place: the pod holds the old mount. But a mount made *on* the volume at its target path crosses
//! into the running containers, because those are slaves or peers of it. So healing mounts a fresh copy of the source
//! on top there. It first removes the copy of an earlier healing, so there is never more than one. Private containers
//! receive nothing, and nothing can be mounted on a deleted directory. In both cases healing replaces the mount at the
//! target, for containers that start from now on. It never enters the mount namespaces of containers, because their
//! tenants shape them.
//!
//! No polling grows with the number of pods. The kernel reports mounts ([`kernel::mount_events`]). If one covers a
//! source, or is a volume that we don't know yet, the mount table is read once. It tells which volumes show something
//! else than their source's path does now ([`plan::healing`]), and only those are looked at ([`mend`]). A directory can
//! be replaced without any mount, and so without a mount event. So every 15 s the kernel is asked for the name of each
//! directory that volumes show. If one has changed, or if anything was mounted meanwhile, the table is read ([`look`]).

mod devices;
mod failures;
pub mod look;
pub mod mend;
pub mod notice;
pub mod replaced;

pub use devices::Devices;
pub use look::Volume;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use allowlist::config::AllowList;
use engine::Context;
use engine::mount_error::MountError;
use failures::{Failures, Tried};
use kernel::heap;
use kernel::mount_events::{Changed, MountEvents, WatchedTable};
use look::{Candidate, Concerns, KnownVolumes, Sources};
use mend::Outcome;
use mounts::Errno;
use mounts::propagation::MountPropagation;
use notice::Notice;
use plan::record::{Record, Shown};
use pods::events::Events;
use tokio::sync::watch::Sender;
use workers::gate::Holder;
use workers::{Hold, MountThread, NoResult, Pool, Source};

use crate::Service;
use crate::refusals::ForAuthor;

/// Interval of the checks for changes of the mount table or a directory that no event reported.
const LOOK: Duration = Duration::from_secs(15);
/// Mounts come in bursts. This long after the first mount, all of them are handled together.
const SETTLE: Duration = Duration::from_millis(30);
/// After each reading of the table comes a pause of this many times its duration, at most [`REST_MAX`]. So a node that
/// mounts all the time costs a bounded share of a core.
const REST: u32 = 20;
const REST_MAX: Duration = Duration::from_millis(700);
/// A reading of the table for a new volume is delayed by at least this time, so that it covers other new ones too. It
/// is not delayed if something happens that may concern the volume.
const NEWCOMERS: Duration = Duration::from_secs(1);
/// After this many checks without a change, the table is read anyway.
const LOOKS_MAX: u32 = 20;
/// While a table of this many volumes is read, it takes megabytes of memory.
const MANY: usize = 1000;
/// Time limit for reading the table.
const TABLE_DEADLINE: Duration = Duration::from_secs(10);

/// Why no volume can be healed now, or why one can't.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The allow-list, a worker, or a mount operation failed.
    #[error(transparent)]
    Service(#[from] crate::error::Error),
    /// The mount table can't be read.
    #[error("mountinfo: {0}")]
    Table(Errno),
    /// Mount events can't be received.
    #[error("mount events: {0}")]
    Events(io::Error),
}

impl From<NoResult> for Error {
    fn from(error: NoResult) -> Self {
        Self::Service(error.into())
    }
}

impl From<MountError> for Error {
    fn from(error: MountError) -> Self {
        Self::Service(error.into())
    }
}

/// Publishes the list of volumes to its receivers.
type Volumes = Sender<Arc<Vec<Arc<Volume>>>>;

/// Heals the volumes of a plugin, forever, in the mount namespace that the kubelet called from last. Sends the volumes
/// to `volumes`, in the order of their paths, and tells pods by events what happened to their volumes.
pub async fn watch(service: Arc<Service>, volumes: Volumes, events: Option<Events>) {
    let failures = Arc::new(Failures::default());
    loop {
        let Some(pool) = service.threads.latest() else {
            tokio::time::sleep(SETTLE * 10).await;
            continue;
        };
        if let Err(error) = watch_namespace(&service, &pool, &failures, (&volumes, &events)).await {
            tracing::warn!(%error, "volumes cannot be healed now; trying again");
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Heals the volumes of one mount namespace until the kubelet calls from another one.
async fn watch_namespace(
    service: &Arc<Service>,
    pool: &Arc<Pool>,
    failures: &Arc<Failures>,
    (volumes, pods): (&Volumes, &Option<Events>),
) -> Result<(), Error> {
    let events = events(service, pool).await?;
    let watched = watched(service, pool).await?;
    let mut known = KnownVolumes::default();
    loop {
        let start = Instant::now();
        // A change during the reading of the table counts as a later change.
        watched.has_changed().map_err(Error::Table)?;
        known = read(service, pool, known).await?;
        volumes.send_replace(Arc::clone(&known.volumes));
        service.lie_on(Arc::clone(&known.devices));
        let took = start.elapsed();
        failures.keep(&known);
        let list = known.list();
        for group in groups(std::mem::take(&mut known.candidates)) {
            let (service, pool, failures) = (Arc::clone(service), Arc::clone(pool), Arc::clone(failures));
            let (list, pods) = (list.clone(), pods.clone());
            // Nothing awaits this task: a source that hangs must not delay the others. The task holds its passes.
            tokio::spawn(async move {
                let mut again: Option<Duration> = None;
                for candidate in group {
                    let outcome = heal(&service, &pool, &candidate, list.as_ref()).await;
                    let then = failures.take(candidate.volume.path.as_path(), outcome.as_ref());
                    again = again.into_iter().chain(then.again).min();
                    tell(&service, &candidate.volume, (outcome, then.tell), pods.as_ref());
                }
                if let Some(delay) = again {
                    tokio::time::sleep(delay).await;
                    failures.again.notify_one();
                }
            });
        }
        tokio::time::sleep((took * REST).min(REST_MAX)).await;
        let newcomers_at = start + (took * REST).clamp(NEWCOMERS, LOOK);
        for look in 1.. {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = failures.again.notified() => break,
                mattered = until_it_matters(service, pool, &events, (&known.sources, newcomers_at)) => {
                    mattered?;
                    break;
                }
            }
            // If the kubelet calls from another namespace, this one may never change again.
            let elsewhere = !is_latest(service, pool);
            let changed = watched.has_changed().map_err(Error::Table)?;
            if elsewhere || changed || look == LOOKS_MAX || !known.is_by(&service.list()?) {
                break;
            }
            let moved;
            (known, moved) = was_moved(service, pool, known).await?;
            if moved {
                break;
            }
        }
        if !is_latest(service, pool) {
            return Ok(());
        }
    }
}

/// Whether this namespace is the one that the kubelet called from last.
fn is_latest(service: &Service, pool: &Arc<Pool>) -> bool {
    service.threads.latest().is_some_and(|latest| Arc::ptr_eq(&latest, pool))
}

/// Groups candidates. Groups are healed in parallel, the volumes of a group one after the other.
///
/// A mount made on one peer appears on all its peers, so these need none of their own. A second mount would cover the
/// first one. That is a peer of the source, so the source would be covered too.
fn groups(candidates: Vec<Candidate>) -> Vec<Vec<Candidate>> {
    let mut groups = Vec::new();
    let mut peers: HashMap<Arc<Shown>, Vec<Candidate>> = HashMap::new();
    for candidate in candidates {
        if is_peer(&candidate.volume.record) {
            peers.entry(Arc::clone(&candidate.volume.shown)).or_default().push(candidate);
        } else {
            groups.push(vec![candidate]);
        }
    }
    groups.extend(peers.into_values());
    groups
}

/// The mount events of the namespace: by fanotify, or else by polling the mount table.
async fn events(service: &Service, pool: &Arc<Pool>) -> Result<MountEvents, Error> {
    match pool.mount_events(service.threads.site().calls) {
        Ok(events) => {
            tracing::debug!("mount events by fanotify");
            return Ok(events);
        }
        Err(errno) => tracing::debug!(%errno, "the mount table is polled: no events by fanotify"),
    }
    let opening = service
        .threads
        .run(pool, Source::own("mount table"), TABLE_DEADLINE, |thread, _| MountEvents::unnamed(&thread.site.proc));
    opening.await?.map_err(Error::Table)
}

/// The namespace's mount table, opened for checks whether it has changed.
async fn watched(service: &Service, pool: &Arc<Pool>) -> Result<WatchedTable, Error> {
    let opening = service
        .threads
        .run(pool, Source::own("mount table"), TABLE_DEADLINE, |thread, _| WatchedTable::of_thread(&thread.site.proc));
    opening.await?.map_err(Error::Table)
}

/// Waits until something is mounted over a source, or until a volume is published. In the second case it waits at least
/// until `newcomers_at`, unless something is mounted that may be over the new volume's source.
async fn until_it_matters(
    service: &Service,
    pool: &Arc<Pool>,
    events: &MountEvents,
    (sources, newcomers_at): (&Arc<Sources>, Instant),
) -> Result<(), Error> {
    let mut newcomers = false;
    loop {
        let next = if newcomers {
            let Ok(next) = tokio::time::timeout_at(newcomers_at.into(), events.next(SETTLE)).await else {
                return Ok(());
            };
            next
        } else {
            events.next(SETTLE).await
        };
        let Changed::Attached(ids) = next.map_err(Error::Events)? else {
            return Ok(());
        };
        let sources = Arc::clone(sources);
        let looking = service.threads.run(pool, Source::own("mount table"), TABLE_DEADLINE, move |thread, _| {
            let mut seen = Concerns::default();
            // A mount that is gone by now doesn't matter.
            let site = &thread.site;
            site.calls.points_of(&ids, &mut |point| seen.see(&site.layout, &sources, point))?;
            Ok::<_, Errno>(seen)
        });
        // If the mounts can't be examined, they may matter.
        let Ok(seen) = looking.await? else { return Ok(()) };
        newcomers |= seen.volumes;
        if seen.sources || (newcomers && seen.others) {
            return Ok(());
        }
    }
}

fn is_peer(record: &Record) -> bool {
    record.propagation == MountPropagation::Bidirectional
}

async fn read(service: &Service, pool: &Arc<Pool>, known: KnownVolumes) -> Result<KnownVolumes, Error> {
    let (list, gate) = (service.list()?, service.gate.clone());
    let reading = service.threads.run(pool, Source::own("mount table"), TABLE_DEADLINE, move |thread, _| {
        let known = KnownVolumes::read(&thread.site, &gate, &list, known);
        if known.as_ref().is_ok_and(|known| known.volumes.len() >= MANY) {
            heap::give_back();
        }
        known
    });
    reading.await?.map_err(Error::Table)
}

/// Whether a directory that volumes show was moved or deleted.
async fn was_moved(
    service: &Service,
    pool: &Arc<Pool>,
    mut known: KnownVolumes,
) -> Result<(KnownVolumes, bool), Error> {
    let looking = service.threads.run(pool, Source::own("mount table"), TABLE_DEADLINE, move |thread, _| {
        let moved = known.was_moved(&thread.site);
        (known, moved)
    });
    Ok(looking.await?)
}

/// Heals one volume, on a thread that may hang. Does nothing unless the allow-list is still the one by which the volume
/// became a candidate (`by`).
async fn heal(
    service: &Service,
    pool: &Arc<Pool>,
    Candidate { volume, looked }: &Candidate,
    by: Option<&Arc<AllowList>>,
) -> Result<Tried, Error> {
    let Volume { path, record, shown, .. } = &**volume;
    let list = service.list()?;
    // Another list may show other directories to pods. The next reading of the table goes by that list.
    if !by.is_some_and(|by| Arc::ptr_eq(by, &list)) {
        return Ok(Tried::Busy);
    }
    // A call publishes or unpublishes it now.
    let Ok(pass) = service.gate.enter(path.as_path(), Holder::Own) else { return Ok(Tried::Busy) };
    // A job that ran out of time may still be at work on a peer. No target path has this form.
    let peers = format!("peers that show {}:{}:{}", shown.device.0, shown.device.1, shown.root.display());
    let alone = is_peer(record).then(|| service.gate.enter(Path::new(&peers), Holder::Own)).transpose();
    let Ok(alone) = alone else { return Ok(Tried::Busy) };
    let (at, looked) = (path.clone(), looked.clone());
    // The job opens what the path leads to now. That may be on another device than what the volume shows.
    let source = service.source(&record.owner.entry, &record.path, record.sub_path.as_ref());
    let hold = Hold::once_begun([Some(pass), alone]);
    let start = Instant::now();
    let mend = move |thread: &mut MountThread, cancelled: &dyn Fn() -> bool| {
        let site = Arc::clone(&thread.site);
        let mut context = Context::new(&site, cancelled);
        let (outcome, pod) = mend::mend(&mut context, &mut || thread.take_slot(), &list, (&at, &looked))?;
        Ok::<_, MountError>(match outcome {
            Outcome::Healed { slot, renewed } => {
                thread.give_back(slot);
                Tried::Healed { renewed, took: start.elapsed(), pod }
            }
            Outcome::Refused(notice, why) => Tried::Refused { notice, why, pod },
            Outcome::Left(_) | Outcome::NotWanted => Tried::Settled,
        })
    };
    let mending = service.threads.run_call(None, pool, (source, hold), service.deadline, mend);
    mending.await?.map_err(Error::from)
}

/// Reports the outcome for a volume: metrics, the log and its pod. An outcome that was reported before is not reported
/// again.
fn tell(service: &Service, volume: &Arc<Volume>, (outcome, told): (Result<Tried, Error>, bool), pods: Option<&Events>) {
    let (target_path, entry) = (volume.path.as_path().display(), volume.record.owner.entry.as_str());
    let (notice, pod) = match outcome {
        Ok(Tried::Settled | Tried::Busy) => return,
        Ok(Tried::Healed { renewed, took, pod }) => {
            service.metrics.healed("healed");
            let what = if renewed {
                "healed: containers that start from now on have the source again"
            } else {
                "healed: running pods have the source again"
            };
            tracing::info!(%target_path, entry, ?took, "{what}");
            (renewed.then_some(Notice::Renewed), pod)
        }
        Ok(Tried::Refused { notice, why, pod }) if told => {
            service.metrics.healed("refused");
            let reason = notice.reason();
            tracing::warn!(%target_path, entry, reason, why, "a volume is left as it is, although its source is there");
            (Some(notice), pod)
        }
        Ok(Tried::Refused { .. }) => return,
        Err(error) => {
            service.metrics.healed("failed");
            if told {
                tracing::warn!(%target_path, entry, %error, "a volume could not be healed");
            }
            return;
        }
    };
    if let (Some(events), Some(notice), Some(pod)) = (pods.cloned(), notice, pod) {
        let told = volume.told(pod, notice.reason(), notice.for_author(), true);
        // An unreachable API server must not hold up healing.
        tokio::spawn(async move { events.tell(vec![told]).await });
    }
}
