//! Finds the volumes and checks their health. Runs in the child process.
//!
//! One mount thread reads the mount table and the records. Then all sources are checked in parallel, each through one of its
//! volumes, so that together they take one time-out at most.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use allowlist::config::{AllowList, Missing};
use allowlist::names::{Target, VolumeRef};
use engine::mount_error::MountError;
use engine::observe::{self, SourcePath};
use engine::record;
use engine::site::Site;
use frontend::kubelet::VolData;
use futures_util::future::join_all;
use k8s_openapi::jiff::Timestamp;
use kernel::stat;
use mounts::Errno;
use mounts::mountinfo::{self, Table, Walk};
use node::kubelet;
use plan::Gone;
use plan::healing::{self, Change, Now, Published, Verdict};
use plan::record::{Record, Shown};
use pods::target_path;
use service::config_store;
use service::containers::judge::{self, Flag};
use service::containers::scan::{Node, PLACES_MAX};
use service::containers::{self, Sought, Unknown};
use service::heal::mend::{self, Unwanted};
use service::heal::{look as healing_look, replaced};
use service::source_health::SourceHealth;
use workers::{NoResult, Source};

use super::VolumesError;
use super::model::{self, Healing, Heals, Health, InContainer, Kind, Layer, Pod, PublishedVolume, Shows};
use crate::in_containers::{self, NotLooked};
use crate::visit::{Visit, VisitArgs};

/// A volume, and what is needed to check its health.
struct Found {
    volume: PublishedVolume,
    path: Target,
    shown: Shown,
    source: Option<SourcePath>,
    sought: Sought,
}

/// Finds the volumes of the driver. With `sources`, checks their sources too.
///
/// # Errors
/// [`VolumesError`].
pub(super) fn gather(
    asked: &VisitArgs,
    sources: bool,
    config: Option<&Path>,
) -> Result<Vec<PublishedVolume>, VolumesError> {
    let list = config.map(|path| {
        let bytes = config_store::read(path).map_err(|why| VolumesError::Unreadable(path.to_owned(), why))?;
        AllowList::parse_bytes(&bytes, &asked.kubelet_dir).map_err(|e| VolumesError::Faulty(path.to_owned(), e))
    });
    let list = list.transpose()?;
    let threads = asked.threads()?;
    let proc = &threads.site().proc;
    let (kubelet, ..) = kubelet::find(proc, asked.pid);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(VolumesError::Runtime)?;
    let namespace = proc.mount_namespace(kubelet.pid);
    let entered = namespace.and_then(|namespace| runtime.block_on(Visit::enter(&threads, namespace, asked.timeout)));
    let visit = entered.map_err(|errno| VolumesError::Enter { pid: kubelet.pid, name: kubelet.name.clone(), errno })?;
    let all = runtime.block_on(async {
        let driver = asked.driver_name.clone();
        let read =
            visit.look(Source::own("the kubelet's directory"), move |site| read(site, &driver, list.as_ref())).await;
        let (node, mut found) = read?.map_err(VolumesError::Mountinfo)?;
        if sources {
            in_containers(&visit, node, &mut found, asked.timeout).await;
        }
        Ok(ask_all(&visit, found, sources).await)
    });
    // Hung threads are left to the end of the process.
    runtime.shutdown_background();
    all
}

/// The volumes of the driver in the mount namespace of the calling thread, and what is needed to recognise containers.
fn read(site: &Site, driver: &str, list: Option<&AllowList>) -> Result<(Option<Node>, Vec<Found>), Errno> {
    let table = mountinfo::parse(&site.proc.mountinfo()?);
    let walk = Walk::new(&table);
    // With the ids that are noted, which mountinfo doesn't show.
    let healing = healing_look::table(site)?;
    let healing = (&healing, &Walk::new(&healing));
    let published = healing::published(&table, &walk, &site.layout).into_iter();
    let found = published.filter_map(|at| volume(site, driver, list, ((&table, &walk), healing), at)).collect();
    Ok((Node::of(&walk, &site.layout), found))
}

/// Adds where running containers have the volumes, and with which flags.
async fn in_containers(visit: &Visit<'_>, node: Option<Node>, found: &mut [Found], timeout: Duration) {
    let sought: Vec<Sought> = found.iter().map(|found| found.sought.clone()).collect();
    let looking = visit.look(Source::own("containers"), move |site| {
        let mut places: Vec<Vec<InContainer>> = vec![Vec::new(); sought.len()];
        let until = in_containers::until(timeout);
        let unknown = in_containers::find(site, node, &sought, until, &mut |container| {
            let containers::Container { pid, name, places: seen, .. } = container;
            for place in seen {
                for number in place.volumes {
                    if let Some(known) = places.get_mut(number).filter(|known| known.len() < PLACES_MAX) {
                        known.push(InContainer {
                            name: name.clone(),
                            pid,
                            path: place.path.clone(),
                            flags: Flag::of(place.attrs).collect(),
                            missing: Flag::of(place.missing).map(missing).collect(),
                        });
                    }
                }
            }
        });
        unknown.map(|unknown| (places, unknown))
    });
    let looked = looking.await.map_err(NotLooked::from).flatten();
    let (places, unknown) = match looked {
        Ok((places, unknown)) => (places, unknown),
        Err(why) => (Vec::new(), Unknown { rest: Some(why.to_string()), ..Unknown::default() }),
    };
    let places = places.into_iter().chain(std::iter::repeat_with(Vec::new));
    for (Found { volume, sought, .. }, places) in found.iter_mut().zip(places) {
        volume.containers_unknown = unknown.of(&sought.pod, !places.is_empty()).map(str::to_owned);
        volume.containers = Some(places);
    }
}

fn missing(flag: Flag) -> model::Missing {
    model::Missing { flag, advice: flag.advice().to_owned() }
}

/// One volume; none if it is another driver's. The driver's name is in the file that the kubelet wrote beside the volume, or
/// else in the record.
fn volume(
    site: &Site,
    driver: &str,
    list: Option<&AllowList>,
    (whole, by): ((&Table, &Walk<'_>), (&Table, &Walk<'_>)),
    at: Published<'_>,
) -> Option<Found> {
    let Published { path, top, .. } = at;
    let (_, walk) = whole;
    let record = record::of(site, &path);
    let written = VolData::beside(path.as_path());
    match &written {
        Some(written) if written.driver != driver => return None,
        None if record.is_none() => return None,
        _ => {}
    }
    let (uid, name) = target_path::pod_volume(&path)?;
    let pod = record.as_ref().and_then(|record| record.owner.user.pod().map(AsRef::as_ref));
    let inline = written.as_ref().and_then(|written| written.inline);
    // A claim's handle names the entry, also without a record.
    let handle = written.filter(|_| inline == Some(false)).and_then(|w| VolumeRef::parse_handle(&w.handle?).ok());
    let entry = record.as_ref().map(|record| record.owner.entry.to_string());
    let sub_path = record.as_ref().map(|record| record.sub_path.as_ref().map(ToString::to_string));
    let source = record.as_ref().map(|record| record.full_path().to_string_lossy().into_owned());
    let verdict = record.as_ref().map(|record| healing::judge(by, &site.layout, (path.as_path(), record)));
    let healing = list.map(|list| healing((site, list), &path, record.as_ref().zip(verdict), (whole, by)));
    let renewed = record.as_ref().and_then(|record| record.renewed).and_then(|at| i64::try_from(at).ok());
    let renewed = renewed.and_then(|at| Timestamp::from_second(at).ok());
    let volume = PublishedVolume {
        name: name.to_owned(),
        driver: driver.to_owned(),
        mountpoint: path.to_string(),
        scope: "local".to_owned(),
        created_at: created(site, &path).map(|time| time.to_string()),
        pod: Pod {
            uid: uid.to_owned(),
            namespace: pod.map(|pod| pod.namespace.clone()),
            name: pod.map(|pod| pod.name.clone()),
            service_account: pod.map(|pod| pod.service_account.clone()),
        },
        kind: inline.map(|inline| if inline { Kind::Inline } else { Kind::Persistent }),
        entry: entry.or_else(|| handle.as_ref().map(|handle| handle.entry.to_string())),
        entry_path: record.as_ref().map(|record| record.path.to_string()),
        sub_path: sub_path.unwrap_or_else(|| handle?.sub_path.as_ref().map(ToString::to_string)),
        source,
        propagation: record.as_ref().map(|record| record.propagation.name().to_owned()),
        options: record.as_ref().map(options).unwrap_or_default(),
        noted: record.is_some(),
        path_mounts_noted: record.as_ref().is_some_and(|record| record.path_mounts.is_some()),
        layers: walk.stack(top).into_iter().map(Layer::from).collect(),
        health: Health::unknown("it was not asked"),
        source_health: None,
        shows: verdict.map(Shows::from),
        renewed_at: renewed.map(|time| time.to_string()),
        healing,
        containers: None,
        containers_unknown: None,
    };
    let of_entry = record.as_ref().and_then(|record| list?.get(&record.owner.entry));
    let sought = Sought {
        pod: uid.to_owned(),
        shown: walk.stack(top).into_iter().map(Shown::by).collect(),
        wanted: record.as_ref().map(|record| judge::wanted(record, of_entry.map(AsRef::as_ref))).unwrap_or_default(),
    };
    let source =
        record.map(|record| SourcePath { entry: record.path, sub_path: record.sub_path, missing: Missing::Fail });
    Some(Found { volume, shown: Shown::by(top), path, source, sought })
}

/// Whether a volume would be healed. `whole` is the whole mount table, `walk` belongs to the one with unique mount ids.
fn healing(
    (site, list): (&Site, &AllowList),
    path: &Target,
    noted: Option<(&Record, Verdict)>,
    (whole, (_, walk)): ((&Table, &Walk<'_>), (&Table, &Walk<'_>)),
) -> Healing {
    let told = |status, message: String| Healing { status, message };
    let Some((record, verdict)) = noted else { return told(Heals::Off, "no record was found beside it".to_owned()) };
    match mend::wanted(list, path, record) {
        Err(Unwanted::Off) => return told(Heals::Off, "heal is Off for its entry".to_owned()),
        Err(Unwanted::NotGiven(why)) => return told(Heals::Refused, why.to_string()),
        Ok(_) => {}
    }
    let place = record.full_path();
    if verdict == Verdict::Due(Change::Replaced)
        && let Some(now) = Now::at(walk, &place)
    {
        let exposed = replaced::exposed(whole, list, &site.layout, &now);
        let why = exposed.or_else(|| replaced::only_root_writes(site, walk, &place, &[]).err());
        if let Some(why) = why {
            return told(Heals::Refused, format!("another directory took its place, and is not followed: {why}"));
        }
    }
    told(Heals::On, String::new())
}

/// When the kubelet made the volume's directory, just before the publish. The volume itself is not asked: its file system may
/// be dead.
fn created(site: &Site, path: &Target) -> Option<Timestamp> {
    let place = observe::open_target(site, path).ok()??;
    let born = stat::birth_time(&place.parent).ok()??;
    let second = i64::try_from(born.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs()).ok()?;
    Timestamp::from_second(second).ok()
}

fn options(record: &Record) -> BTreeMap<String, String> {
    let words = ["rbind", record.propagation.propagation().name()].into_iter();
    let words: Vec<&str> = words.chain(Flag::of(record.attrs).map(Flag::name)).collect();
    BTreeMap::from([
        ("type".to_owned(), "none".to_owned()),
        ("device".to_owned(), record.full_path().to_string_lossy().into_owned()),
        ("o".to_owned(), words.join(",")),
    ])
}

/// Checks the health of all in parallel.
async fn ask_all(visit: &Visit<'_>, mut found: Vec<Found>, sources: bool) -> Vec<PublishedVolume> {
    // Those that show the same live and die together.
    let mut shown: HashMap<&Shown, &Found> = HashMap::new();
    let mut paths: HashMap<PathBuf, &SourcePath> = HashMap::new();
    for volume in &found {
        shown.entry(&volume.shown).or_insert(volume);
        if let Some(source) = volume.source.as_ref().filter(|_| sources) {
            paths.entry(source.full()).or_insert(source);
        }
    }
    let of_volumes = join_all(shown.into_iter().map(|(shown, first)| async {
        let path = first.path.clone();
        let name = PathBuf::from(format!("{}:{}:{}", shown.device.0, shown.device.1, shown.root.display()));
        let on = Source::published(&name, None, Some(shown.device));
        (shown.clone(), ask(visit, on, move |site| engine::health(site, &path)).await)
    }));
    let of_sources = join_all(paths.into_iter().map(|(path, source)| async {
        let (on, source) = (Source::directory(&path, &source.entry.to_string(), None), source.clone());
        (path, ask(visit, on, move |site| engine::source_health(site, &source)).await)
    }));
    let (of_volumes, of_sources) = futures_util::join!(of_volumes, of_sources);
    let of_volumes: HashMap<Shown, Health> = of_volumes.into_iter().collect();
    let of_sources: HashMap<PathBuf, Health> = of_sources.into_iter().collect();
    for Found { volume, shown, source, .. } in &mut found {
        if let Some(health) = of_volumes.get(shown) {
            volume.health = health.clone();
        }
        volume.source_health = source.as_ref().and_then(|source| of_sources.get(&source.full()).cloned());
    }
    found.into_iter().map(|found| found.volume).collect()
}

async fn ask(
    visit: &Visit<'_>,
    on: Source,
    question: impl FnOnce(&Site) -> Result<Option<Gone>, MountError> + Send + 'static,
) -> Health {
    let begun = Arc::new(AtomicBool::new(false));
    let begins = Arc::clone(&begun);
    let asking = visit.look(on, move |site| {
        begins.store(true, Ordering::SeqCst);
        question(site)
    });
    match asking.await {
        Ok(Ok(gone)) => SourceHealth::from(gone).into(),
        Ok(Err(MountError::Target { errno, .. } | MountError::Source { errno, .. })) => refused(errno),
        Ok(Err(error)) => Health::unknown(error.to_string()),
        // As many as may ask hang on the same.
        Err(NoResult::Stuck { .. }) => SourceHealth::Hung.into(),
        Err(NoResult::Deadline { .. }) if begun.load(Ordering::SeqCst) => SourceHealth::Hung.into(),
        Err(NoResult::Deadline { .. }) => Health::unknown("so many others hang that it was not asked in time"),
        Err(error) => Health::unknown(error.to_string()),
    }
}

/// The health of a volume whose check failed with this error.
fn refused(errno: Errno) -> Health {
    if stat::is_dead(errno) { SourceHealth::Dead(errno).into() } else { Health::unknown(errno.to_string()) }
}
