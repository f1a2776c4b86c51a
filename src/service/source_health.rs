//! Checks the sources of published volumes periodically, and reports when one has died, hangs, was deleted, or is back.
//!
//! A file system doesn't report that its server is gone, so it must be asked. Each source is asked once per interval,
//! through one of its volumes, however many pods have it. While an earlier call still hangs on a source, it is not
//! asked again. Only *changes* are reported, each once: in the log for the source, by a metric, and as an event on
//! every pod that has it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use allowlist::author::author;
use engine::mount_error::MountError;
use engine::record;
use futures_util::StreamExt;
use mounts::Errno;
use plan::Gone;
use plan::record::Shown;
use pods::events::{Events, Told};
use tokio::sync::watch::Receiver;
use workers::{NoResult, Pool, Source};

use crate::Service;
use crate::heal::Volume;
use crate::heal::notice::RESTART;
use crate::refusals::ForAuthor;

/// How long a source may take to answer. Most answer within microseconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum number of sources that are asked in one interval. If there are more, each interval asks the next ones.
const EACH_TIME: usize = 64;
/// How many sources are asked in parallel.
const AT_ONCE: usize = 4;
/// How long reading the records of volumes on the kubelet's own file system may take.
const RECORDS: Duration = Duration::from_secs(60);

/// The health of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceHealth {
    /// It answers.
    #[default]
    Live,
    /// The server of its file system is gone.
    Dead(Errno),
    /// It does not answer at all.
    Hung,
    /// The directory was deleted.
    Deleted,
}

impl SourceHealth {
    /// The reason of an event, as one word.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Live => "SourceBack",
            Self::Dead(_) => "SourceDead",
            Self::Hung => "SourceHung",
            Self::Deleted => "SourceDeleted",
        }
    }

    /// A sentence that also tells what the administrator should do.
    #[must_use]
    pub fn message(self) -> String {
        match self {
            Self::Live => "the volume's directory on the node is there again".to_owned(),
            Self::Dead(errno) => format!("the file system's server is gone ({errno}): restart it on the node"),
            Self::Hung => "the file system does not answer: look at its server on the node".to_owned(),
            Self::Deleted => {
                "the directory was deleted on the node; a pod started now gets the one that is there now, \
                              if any"
                    .to_owned()
            }
        }
    }
}

impl From<Option<Gone>> for SourceHealth {
    fn from(gone: Option<Gone>) -> Self {
        match gone {
            None => Self::Live,
            Some(Gone::Dead(errno)) => Self::Dead(errno),
            Some(Gone::Deleted) => Self::Deleted,
        }
    }
}

/// The known problems of volumes, by target path.
#[derive(Debug, Default)]
struct Known(HashMap<PathBuf, SourceHealth>);

impl Known {
    /// Notes the health of a volume. True if it has changed.
    fn changes(&mut self, target: &Path, now: SourceHealth) -> bool {
        let before = match now {
            SourceHealth::Live if self.0.is_empty() => None,
            SourceHealth::Live => self.0.remove(target),
            _ => self.0.insert(target.to_owned(), now),
        };
        before.unwrap_or_default() != now
    }

    /// Forgets volumes that are gone. `volumes` is sorted by path.
    fn keep(&mut self, volumes: &[Arc<Volume>]) {
        self.0.retain(|path, _| volumes.binary_search_by(|volume| volume.path.as_path().cmp(path)).is_ok());
    }

    fn counts(&self) -> HashMap<&'static str, usize> {
        let mut counts = HashMap::new();
        for health in self.0.values() {
            *counts.entry(health.reason()).or_default() += 1;
        }
        counts
    }
}

/// Volumes that show the same directory, and so have the same health.
type Group = Arc<Vec<Arc<Volume>>>;

/// Groups the volumes by what they show. `volumes` is sorted by path. So are the members of each group, and groups are
/// sorted by their first member.
fn groups(volumes: &[Arc<Volume>]) -> Vec<Group> {
    let mut groups: Vec<Vec<Arc<Volume>>> = Vec::new();
    let mut known: HashMap<&Shown, usize> = HashMap::new();
    for volume in volumes {
        let at = *known.entry(&volume.shown).or_insert(groups.len());
        if at == groups.len() {
            groups.push(Vec::new());
        }
        groups[at].push(Arc::clone(volume));
    }
    groups.into_iter().map(Arc::new).collect()
}

/// Checks the sources of the volumes every `interval`, forever.
pub async fn watch(
    service: Arc<Service>,
    volumes: Receiver<Arc<Vec<Arc<Volume>>>>,
    events: Option<Events>,
    interval: Duration,
) {
    let mut known = Known::default();
    let mut next = 0_usize;
    let (mut grouped, mut all) = (Arc::default(), Vec::new());
    loop {
        tokio::time::sleep(interval).await;
        let Some(pool) = service.threads.latest() else { continue };
        let volumes = Arc::clone(&volumes.borrow());
        if !Arc::ptr_eq(&volumes, &grouped) {
            known.keep(&volumes);
            all = groups(&volumes);
            grouped = volumes;
        }
        let count = all.len().min(EACH_TIME);
        let asked: Vec<Group> = (0..count).map(|n| Arc::clone(&all[next.wrapping_add(n) % all.len()])).collect();
        next = next.wrapping_add(count);
        let answers: Vec<_> = futures_util::stream::iter(asked)
            .map(|group| {
                let (service, pool) = (&service, &pool);
                async move {
                    let health = ask(service, pool, &group[0]).await;
                    (group, health)
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (group, health) in answers {
            let Some(health) = health else { continue };
            let changed: Vec<Arc<Volume>> =
                group.iter().filter(|volume| known.changes(volume.path.as_path(), health)).cloned().collect();
            if let Some(first) = changed.first() {
                tell(first, health, changed.len());
            }
            if let Some(events) = events.clone()
                && !changed.is_empty()
            {
                let (service, pool) = (Arc::clone(&service), Arc::clone(&pool));
                // An unreachable API server must not hold up the checks.
                tokio::spawn(async move { events.tell(told(&service, &pool, changed, health).await).await });
            }
        }
        service.metrics.unhealthy(&known.counts());
    }
}

/// The events for the pods of these volumes, as far as pods are noted. They are read each time, because nothing else
/// needs them.
async fn told(service: &Service, pool: &Arc<Pool>, volumes: Vec<Arc<Volume>>, health: SourceHealth) -> Vec<Told> {
    let reading = service.threads.run(pool, Source::own("records"), RECORDS, move |thread, _| {
        let told = |volume: Arc<Volume>| {
            let record = record::of(&thread.site, &volume.path)?;
            let text = match health {
                SourceHealth::Live if record.renewed.is_some() => {
                    author![health.for_author(), ", and the volume was renewed: ", RESTART]
                }
                _ => health.for_author(),
            };
            Some(volume.told(Arc::clone(record.owner.user.pod()?), health.reason(), text, health != SourceHealth::Live))
        };
        volumes.into_iter().filter_map(told).collect()
    });
    reading.await.unwrap_or_else(|error| {
        tracing::warn!(%error, "pods could not be told by events");
        Vec::new()
    })
}

fn tell(volume: &Volume, health: SourceHealth, volumes: usize) {
    let source = volume.record.full_path();
    let (source, entry, reason) = (source.display(), volume.record.owner.entry.as_str(), health.reason());
    match health {
        SourceHealth::Live => tracing::info!(%source, entry, reason, volumes, "{}", health.message()),
        _ => tracing::warn!(%source, entry, reason, volumes, "{}", health.message()),
    }
}

/// The health of a volume's source. None if it can't be determined now, for example because the volume is gone.
async fn ask(service: &Service, pool: &Arc<Pool>, volume: &Volume) -> Option<SourceHealth> {
    let entry = volume.record.owner.entry.as_str();
    let source = Source::published(&volume.record.full_path(), Some(entry), Some(volume.shown.device));
    if pool.hangs_on(&source) {
        return Some(SourceHealth::Hung);
    }
    let path = volume.path.clone();
    let asking = service.threads.run(pool, source, TIMEOUT, move |thread, _| engine::health(&thread.site, &path));
    match asking.await {
        Ok(Ok(gone)) => Some(gone.into()),
        Ok(Err(MountError::Target { errno, .. })) if kernel::stat::is_dead(errno) => Some(SourceHealth::Dead(errno)),
        Err(NoResult::Deadline { .. } | NoResult::Stuck { .. }) => Some(SourceHealth::Hung),
        Ok(Err(_)) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::record;
    use allowlist::names::{AbsPath, Target};

    fn volume(name: &str, minor: u32) -> Arc<Volume> {
        let path = Target::parse(&format!("/k/{name}"), &AbsPath::parse("/k").unwrap()).unwrap();
        let shown = Arc::new(Shown { device: (0, minor), root: "/".into() });
        Arc::new(Volume { path, record: Arc::new(record()), shown, id: 1, path_mounts: None })
    }

    #[test]
    fn a_change_is_told_once() {
        let mut known = Known::default();
        let at = Path::new("/k/a");
        let dead = SourceHealth::Dead(Errno::ENOTCONN);
        let told: Vec<bool> = [
            SourceHealth::Live,
            dead,
            dead,
            SourceHealth::Dead(Errno::ESTALE),
            SourceHealth::Hung,
            SourceHealth::Live,
            SourceHealth::Live,
        ]
        .map(|health| known.changes(at, health))
        .into();
        assert_eq!(told, [false, true, false, true, true, true, false]);
        assert!(known.changes(at, SourceHealth::Deleted));
        assert_eq!(known.counts(), HashMap::from([("SourceDeleted", 1)]));
        known.keep(&[volume("b", 1)]);
        assert_eq!(known.counts(), HashMap::new());
    }

    #[test]
    fn a_source_is_asked_once_however_many_volumes_it_has() {
        let volumes = [volume("a", 2), volume("b", 1), volume("c", 1), volume("d", 1)];
        let names: Vec<Vec<String>> =
            groups(&volumes).iter().map(|g| g.iter().map(|v| v.path.to_string()).collect()).collect();
        assert_eq!(names, [vec!["/k/a"], vec!["/k/b", "/k/c", "/k/d"]]);
    }
}
