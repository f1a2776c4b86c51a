//! Finds which mount flags the driver's volumes have in running containers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use allowlist::config::Entry;
use engine::record;
use engine::site::Site;
use frontend::kubelet::VolData;
use mounts::MountAttrs;
use mounts::mountinfo::{Table, Walk};
use plan::healing::{self, Published};
use plan::record::Shown;
use pods::target_path;
use service::containers::scan::Node;
use service::containers::{Container, Sought, judge};

use super::facts::{InContainers, Weaker};
use crate::in_containers::{self, NotLooked};

/// How many volumes with missing flags are kept.
const WEAKER_MAX: usize = 1000;

/// How a volume is named in the report.
struct Name {
    entry: String,
    pod: String,
}

/// What running containers have. Looking ends at `until`.
pub(super) fn containers(
    site: &Site,
    driver: &str,
    (table, entries): (&Table, &[Arc<Entry>]),
    until: Instant,
) -> Result<InContainers, NotLooked> {
    let walk = Walk::new(table);
    let published = healing::published(table, &walk, &site.layout).into_iter();
    let volumes = published.filter_map(|at| volume(site, driver, entries, &walk, at));
    let (names, sought): (Vec<Name>, Vec<Sought>) = volumes.unzip();
    let mut found = InContainers { volumes: sought.len(), ..InContainers::default() };
    if sought.is_empty() {
        return Ok(found);
    }
    let node = Node::of(&walk, &site.layout);
    let mut seen = vec![false; sought.len()];
    let unknown = in_containers::find(site, node, &sought, until, &mut |container| {
        found.containers += 1;
        take(&mut found, &mut seen, &names, container);
    })?;
    let mut pods = BTreeMap::new();
    for ((sought, name), seen) in sought.iter().zip(&names).zip(seen) {
        if let Some(why) = unknown.of(&sought.pod, seen) {
            pods.entry(name.pod.clone()).or_insert_with(|| why.to_owned());
        }
    }
    found.unknown = pods.into_iter().collect();
    Ok(found)
}

/// A volume of the driver, from its record. None if it is another driver's, or has no record.
fn volume(
    site: &Site,
    driver: &str,
    entries: &[Arc<Entry>],
    walk: &Walk<'_>,
    Published { path, top, .. }: Published<'_>,
) -> Option<(Name, Sought)> {
    let record = record::of(site, &path)?;
    if VolData::is_of(path.as_path(), driver) == Some(false) {
        return None;
    }
    let (uid, _) = target_path::pod_volume(&path)?;
    let entry = entries.iter().find(|entry| entry.name == record.owner.entry);
    let pod = record.owner.user.pod().map_or_else(|| uid.to_owned(), |pod| format!("{}/{}", pod.namespace, pod.name));
    let shown = walk.stack(top).into_iter().map(Shown::by).collect();
    let wanted = judge::wanted(&record, entry.map(AsRef::as_ref));
    let name = Name { entry: record.owner.entry.to_string(), pod };
    Some((name, Sought { pod: uid.to_owned(), shown, wanted }))
}

/// Adds what a container has.
fn take(found: &mut InContainers, seen: &mut [bool], names: &[Name], container: Container) {
    for place in container.places {
        for number in place.volumes {
            if let Some(seen) = seen.get_mut(number) {
                *seen = true;
            }
            if let Some(name) = names.get(number)
                && place.missing != MountAttrs::default()
                && found.weaker.len() < WEAKER_MAX
            {
                found.weaker.push(Weaker {
                    entry: name.entry.clone(),
                    pod: name.pod.clone(),
                    container: container.name.clone(),
                    path: place.path.clone(),
                    missing: place.missing,
                });
            }
        }
    }
}
