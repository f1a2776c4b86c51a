//! Self-healing: when a source comes back, running pods get it without a restart.
//!
//! A volume that was taken from a FUSE mount itself stays ENOTCONN when the daemon dies, also after a new one has
//! mounted the same place: the pod holds the old mount. But a mount made *on* the volume at its target path crosses into
//! the running containers, because those are slaves or peers of it. So a fresh copy of the source is put on top there,
//! after whatever an earlier healing had put there was taken away: there is never more than one. Private containers
//! receive nothing, and on a deleted directory nothing can be mounted: there the mount at the target is replaced, for
//! containers that start from now on. Mount namespaces of containers are never entered: their tenants shape them.
//!
//! Nothing is polled that grows with the number of pods. The kernel tells of mounts ([`kernel::mount_events`]); if one
//! covers a source, or is a volume that we don't know yet, one reading of the mount table tells which volumes show
//! something else than their source's path does now ([`plan::healing`]), and only those are looked at ([`mend`]). Directories can
//! be replaced without any mount, which no mount event tells: every 15 s the kernel is asked for the name of each that
//! volumes show, and the table is read if one has changed, or if anything was mounted meanwhile ([`look`]).

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

/// How often it is looked whether the mount table or a directory has changed that no event told of.
const LOOK: Duration = Duration::from_secs(15);
/// Mounts come in swarms; the first of them is answered after this, with the others.
const SETTLE: Duration = Duration::from_millis(30);
/// A reading that took long is followed by a rest of this many times its length, so that a node that mounts all the time
/// pays a bounded share of a core; but no longer than [`REST_MAX`].
const REST: u32 = 20;
const REST_MAX: Duration = Duration::from_millis(700);
/// How long a new volume waits at least until it is read about, with those that come meanwhile, if nothing happens that may
/// concern it.
const NEWCOMERS: Duration = Duration::from_secs(1);
/// After so many looks at which nothing had changed the table is read all the same.
const LOOKS_MAX: u32 = 20;
/// A table of so many volumes takes megabytes for the moment in which it is read.
const MANY: usize = 1000;
/// How long reading the table may take.
const TABLE_DEADLINE: Duration = Duration::from_secs(10);

/// Why volumes cannot be healed now, or one of them not.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The allow-list, a worker, or the mounts.
    #[error(transparent)]
    Service(#[from] crate::error::Error),
    /// The mount table.
    #[error("mountinfo: {0}")]
    Table(Errno),
    /// What tells of mounts.
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

/// Who is told which volumes there are.
type Volumes = Sender<Arc<Vec<Arc<Volume>>>>;

/// Heals the volumes of a plugin, for ever, in the mount namespace that the kubelet called from last. Tells `volumes`
/// which there are, in the order of their paths, and pods what becomes of theirs.
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

/// Until the kubelet calls from another namespace.
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
        // What changes while the table is read is a change since.
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
            // Nobody waits for it: one whose source hangs must not hold up the others. It holds its passes.
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
            // In another namespace nothing may ever change.
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

/// Whether the kubelet still calls from this namespace.
fn is_latest(service: &Service, pool: &Arc<Pool>) -> bool {
    service.threads.latest().is_some_and(|latest| Arc::ptr_eq(&latest, pool))
}

/// What is healed side by side, each group one after the other.
///
/// A mount on one peer appears on the others too, and they need no other: a second one would cover that of the first,
/// which is a peer of the source, and so the source itself.
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

/// Changes of the namespace's mounts, as closely as they are to be had.
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

/// The namespace's table, to be asked whether it has changed.
async fn watched(service: &Service, pool: &Arc<Pool>) -> Result<WatchedTable, Error> {
    let opening = service
        .threads
        .run(pool, Source::own("mount table"), TABLE_DEADLINE, |thread, _| WatchedTable::of_thread(&thread.site.proc));
    opening.await?.map_err(Error::Table)
}

/// Until something was mounted over a source; or a volume was published, but then not before `newcomers_at`, unless
/// something was mounted that may be over its source: one that nothing happens to can wait.
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
            // One that is gone by now mattered to nobody.
            let site = &thread.site;
            site.calls.points_of(&ids, &mut |point| seen.see(&site.layout, &sources, point))?;
            Ok::<_, Errno>(seen)
        });
        // What can't be asked about may matter.
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

/// Whether a directory of the volumes was moved or deleted.
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

/// Heals one volume, on a thread that may hang, by the allow-list that the look at it went by.
async fn heal(
    service: &Service,
    pool: &Arc<Pool>,
    Candidate { volume, looked }: &Candidate,
    by: Option<&Arc<AllowList>>,
) -> Result<Tried, Error> {
    let Volume { path, record, shown, .. } = &**volume;
    let list = service.list()?;
    // Another list may show other directories to pods: the next look goes by that.
    if !by.is_some_and(|by| Arc::ptr_eq(by, &list)) {
        return Ok(Tried::Busy);
    }
    // Somebody publishes or unpublishes it now.
    let Ok(pass) = service.gate.enter(path.as_path(), Holder::Own) else { return Ok(Tried::Busy) };
    // One that was given up may still be at work. No target is called like that.
    let peers = format!("peers that show {}:{}:{}", shown.device.0, shown.device.1, shown.root.display());
    let alone = is_peer(record).then(|| service.gate.enter(Path::new(&peers), Holder::Own)).transpose();
    let Ok(alone) = alone else { return Ok(Tried::Busy) };
    let (at, looked) = (path.clone(), looked.clone());
    // What it opens is what the path leads to now: that may be on another device than what the volume shows.
    let (entry, beneath) = (&record.owner.entry, record.sub_path.is_some());
    let source = Source::directory(&record.full_path(), entry.as_str(), service.devices().of_entry(entry, beneath));
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
    let mending = service.threads.run_by(None, pool, (source, hold), service.deadline, mend);
    mending.await?.map_err(Error::from)
}

/// Tells what came of a volume: metrics, the log and its pod. What was so before is not told again.
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
        // An API server that is away must not keep us from healing.
        tokio::spawn(async move { events.tell(vec![told]).await });
    }
}
