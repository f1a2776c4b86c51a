//! What healing knows of the volumes, and how it learns it anew: one reading of the mount table.
//!
//! Kept is little for each volume, since there may be tens of thousands: its path, and what it has in common with others
//! once for all of them. Which pod it is of is read from its record when that is to be told.
//!
//! Where a source is well, it is noted what is mounted on the way to it ([`plan::record::PathMounts`]): what an unmounting
//! uncovers later is never given. No call does that, since it takes the table.
//!
//! And the table is read only if it has changed. What shows without that is a directory which was moved or deleted: for
//! each directory, however many volumes show it, the kernel is asked for its name (`KnownVolumes::was_moved`).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use allowlist::author::AuthorText;
use allowlist::config::{AllowList, Heal};
use allowlist::names::{PodIdentity, Target};
use engine::site::Site;
use engine::{observe, record};
use kernel::statmount;
use mounts::mountinfo::{Table, Walk};
use mounts::{DirId, Errno};
use plan::healing::{self, ByPoint, Change, Now, Published, Verdict};
use plan::layout::Layout;
use plan::record::{PathMounts, Record, Shown};
use pods::events::Told;
use workers::gate::{Gate, Holder};

use super::devices::Devices;
use super::mend::Looked;
use super::replaced::{self, Untrusted};

/// How many directories are asked for their names at once; of more, each time the next ones.
const DIRECTORIES: usize = 4096;

/// A volume of ours that is published.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Its target path.
    pub path: Target,
    /// How it was published, as far as other volumes are published the same way ([`Record::in_common`]).
    pub record: Arc<Record>,
    /// What it shows.
    pub shown: Arc<Shown>,
    /// The id of the lowest mount there: with another one, it is another volume.
    pub id: u64,
    /// What was noted of the way to its source, as far as other volumes have the same.
    pub path_mounts: Option<Arc<PathMounts>>,
}

impl Volume {
    /// What its pod is told of it.
    pub(crate) fn told(&self, pod: Arc<PodIdentity>, reason: &'static str, text: AuthorText, warning: bool) -> Told {
        Told {
            target: self.path.clone(),
            entry: self.record.owner.entry.clone(),
            device: self.shown.device,
            root: self.shown.root.clone(),
            pod,
            reason,
            text,
            warning,
        }
    }
}

/// A volume that may need healing.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The volume.
    pub volume: Arc<Volume>,
    /// What is known of its source.
    pub looked: Looked,
}

/// What is known of a source, once for all volumes that were published the same way.
#[derive(Default)]
struct Source<'t> {
    now: Option<Now<'t>>,
    path_mounts: Option<Arc<PathMounts>>,
}

/// A directory that volumes show, by one of them.
#[derive(Debug)]
struct Directory {
    /// The unique id of the mount.
    mount: u64,
    shown: Arc<Shown>,
    deleted: bool,
}

/// What one reading of the table tells.
#[derive(Debug, Default)]
pub struct KnownVolumes {
    /// In the order of their paths.
    pub volumes: Arc<Vec<Arc<Volume>>>,
    /// Those that may need healing.
    pub candidates: Vec<Candidate>,
    /// The paths that volumes were taken from.
    pub(crate) sources: Arc<Sources>,
    /// The file systems that entries and volumes lie on.
    pub(crate) devices: Arc<Devices>,
    /// The allow-list by which they were judged.
    list: Option<Arc<AllowList>>,
    /// Volumes of others, in the order of their paths, with the ids of their lowest mounts.
    foreign: Vec<(PathBuf, u64)>,
    records: HashSet<Arc<Record>>,
    shown: HashSet<Arc<Shown>>,
    /// None where the kernel can't be asked for their names.
    directories: Vec<Directory>,
    /// The one to ask next.
    next: usize,
    /// Whether something could not be noted, because somebody works on the volume.
    unnoted: bool,
}

/// The paths that volumes were taken from.
#[derive(Debug, Default)]
pub(crate) struct Sources(BTreeSet<PathBuf>);

impl Sources {
    /// Whether a mount at this point covers one of them. Paths are in the order of their components, so what lies beneath
    /// a point comes right after it.
    pub(crate) fn are_covered_by(&self, point: &Path) -> bool {
        let from: (Bound<&Path>, Bound<&Path>) = (Bound::Included(point), Bound::Unbounded);
        self.0.range::<Path, _>(from).next().is_some_and(|source| source.starts_with(point))
    }
}

/// Whom new mounts concern, by where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Concerns {
    /// Over the source of a volume that is known.
    pub(crate) sources: bool,
    /// Where volumes are published.
    pub(crate) volumes: bool,
    /// Outside of the kubelet's directory: over the source of a volume that isn't known yet, perhaps.
    pub(crate) others: bool,
}

impl Concerns {
    /// Takes one down.
    pub(crate) fn see(&mut self, layout: &Layout, sources: &Sources, point: &Path) {
        self.sources |= sources.are_covered_by(point);
        self.volumes |= layout.is_target(point);
        self.others |= !point.starts_with(layout.base.as_path());
    }
}

/// The one of `all` that is equal to `value`, or else `value`, which is then one of them.
fn one_of<T: std::hash::Hash + Eq>(all: &mut HashSet<Arc<T>>, value: T) -> Arc<T> {
    if let Some(same) = all.get(&value) {
        return Arc::clone(same);
    }
    let new = Arc::new(value);
    all.insert(Arc::clone(&new));
    new
}

impl KnownVolumes {
    /// Reads the table, in the mount namespace of the calling thread. What was known of volumes that are still there is
    /// kept. What is noted beside one is noted with a pass of `gate`.
    ///
    /// # Errors
    /// What reading the table says.
    pub fn read(site: &Site, gate: &Gate, list: &Arc<AllowList>, known: Self) -> Result<Self, Errno> {
        let layout = &site.layout;
        let table = table(site)?;
        let walk = Walk::new(&table);
        let Self { volumes: before, foreign, mut records, mut shown, next, .. } = known;
        let (mut before, mut foreign) = (before.iter().peekable(), foreign.into_iter().peekable());
        let mut known = Self { list: Some(Arc::clone(list)), next, ..Self::default() };
        let mut directories: HashMap<(Arc<Shown>, bool), u64> = HashMap::new();
        let by_point = ByPoint::of(&table, layout);
        let mut sources: HashMap<*const Record, Source<'_>> = HashMap::new();
        let mut volumes = Vec::new();
        for Published { path, top, lowest } in statmount::in_breaths(healing::published(&table, &walk, layout)) {
            let target = path.as_path();
            // All three are in the order of their paths.
            while before.next_if(|volume| volume.path.as_path() < target).is_some() {}
            while foreign.next_if(|(other, _)| other.as_path() < target).is_some() {}
            let same = before.next_if(|volume| volume.path.as_path() == target && volume.id == lowest.id);
            if same.is_none()
                && let Some(other) = foreign.next_if(|(other, id)| other.as_path() == target && *id == lowest.id)
            {
                known.foreign.push(other);
                continue;
            }
            let shows = |shown: &Shown| shown.device == top.device && shown.root == top.root;
            let mut volume = match same {
                Some(same) if shows(&same.shown) => Arc::clone(same),
                same => {
                    let found = match same {
                        Some(same) => Some((Arc::clone(&same.record), same.path_mounts.clone())),
                        // One that goes away in between is none of ours any more.
                        None => {
                            // Takes as long as many that are known.
                            std::thread::yield_now();
                            record::of(site, &path).map(|record| {
                                let path_mounts = record.path_mounts.clone();
                                (one_of(&mut records, record.in_common()), path_mounts)
                            })
                        }
                    };
                    let Some((record, path_mounts)) = found else {
                        known.foreign.push((target.to_owned(), lowest.id));
                        continue;
                    };
                    let shown = one_of(&mut shown, Shown::by(top));
                    Arc::new(Volume { path, record, shown, id: lowest.id, path_mounts })
                }
            };
            // Once for all that were published the same way; it is the same record, too.
            let source = sources.entry(Arc::as_ptr(&volume.record)).or_insert_with(|| {
                let path = volume.record.full_path();
                let now = Now::at(&walk, &path);
                let path_mounts = now.as_ref().and_then(|now| by_point.on_the_way(&path, now.mount)).map(Arc::new);
                Source { now, path_mounts }
            });
            let verdict = source.now.as_ref().map_or(Verdict::Wait, |now| {
                healing::judge_top((&table, &walk), layout, (top, volume.record.propagation), now, None)
            });
            match verdict {
                // Only of one that is well: else this would be how it is without its source.
                Verdict::Same if !is_noted(volume.path_mounts.as_deref(), source.path_mounts.as_deref()) => {
                    if note_path_mounts((site, gate), &volume, source) {
                        let noted = Volume { path_mounts: source.path_mounts.clone(), ..(*volume).clone() };
                        volume = Arc::new(noted);
                    } else {
                        known.unnoted = true;
                    }
                }
                Verdict::Due(change) if wants_healing(list, &volume.record) => {
                    let Some(now) = &source.now else { continue };
                    let path_mounts = source.path_mounts.clone();
                    let (mount, exposed, left) = (now.mount.id, None, Arc::default());
                    let looked = Looked { mount, change, path_mounts, exposed, left };
                    known.candidates.push(Candidate { volume: Arc::clone(&volume), looked });
                }
                _ => {}
            }
            if table.unique_ids {
                directories.entry((Arc::clone(&volume.shown), top.root_deleted)).or_insert(top.id);
            }
            volumes.push(volume);
        }
        volumes.shrink_to_fit();
        known.volumes = Arc::new(volumes);
        known.ask_who_may_have_replaced(site, list)?;
        known.devices = Arc::new(Devices::of((&table, &walk), list, layout, &known.volumes));
        let directory = |((shown, deleted), mount)| Directory { mount, shown, deleted };
        known.directories = directories.into_iter().map(directory).collect();
        // What only volumes had that are gone by now.
        drop((before, foreign));
        records.retain(|record| Arc::strong_count(record) > 1);
        shown.retain(|shown| Arc::strong_count(shown) > 1);
        known.sources = Arc::new(Sources(records.iter().map(|record| record.full_path()).collect()));
        (known.records, known.shown) = (records, shown);
        Ok(known)
    }

    /// Takes down, for each candidate whose directory was replaced, what tells against following the one that took its place.
    fn ask_who_may_have_replaced(&mut self, site: &Site, list: &AllowList) -> Result<(), Errno> {
        let is_replaced = |candidate: &&mut Candidate| candidate.looked.change == Change::Replaced;
        let mut due = self.candidates.iter_mut().filter(is_replaced).peekable();
        if due.peek().is_none() {
            return Ok(());
        }
        // Also what is mounted in volumes: of volumes whose entry is gone nothing else may tell. It is read once for all of them.
        let whole = whole_table(site)?;
        let walk = Walk::new(&whole);
        let left: Arc<[DirId]> = left(site, &self.volumes).into();
        let mut known: HashMap<*const Record, Option<Arc<Untrusted>>> = HashMap::new();
        for Candidate { volume, looked } in due {
            let ask = || match Now::at(&walk, &volume.record.full_path()) {
                Some(now) => replaced::exposed((&whole, &walk), list, &site.layout, &now),
                None => Some(Untrusted::Changed),
            };
            let exposed = known.entry(Arc::as_ptr(&volume.record)).or_insert_with(|| ask().map(Arc::new));
            looked.exposed.clone_from(exposed);
            looked.left = Arc::clone(&left);
        }
        Ok(())
    }

    /// The allow-list by which they were judged; none before the first reading.
    pub(crate) fn list(&self) -> Option<Arc<AllowList>> {
        self.list.clone()
    }

    /// Whether this volume is one of them.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.volumes.binary_search_by(|volume| volume.path.as_path().cmp(path)).is_ok()
    }

    /// Whether it holds, as far as mounts and the allow-list go: both are as they were when it was read, and how the
    /// directories are called can be asked.
    pub(crate) fn is_by(&self, list: &Arc<AllowList>) -> bool {
        !self.unnoted
            && self.list.as_ref().is_some_and(|by| Arc::ptr_eq(by, list))
            && self.directories.is_empty() == self.volumes.is_empty()
    }

    /// Whether a directory that volumes show was moved or deleted since the table was read, of those whose turn it is.
    pub(crate) fn was_moved(&mut self, site: &Site) -> bool {
        let count = self.directories.len().min(DIRECTORIES);
        let from = self.next;
        self.next = from.wrapping_add(count);
        (from..from + count).any(|n| {
            let Directory { mount, shown, deleted } = &self.directories[n % self.directories.len()];
            // One that is gone has changed the table.
            let now = site.calls.root(*mount).and_then(Result::ok);
            now.is_some_and(|(root, gone)| root != shown.root || gone != *deleted)
        })
    }
}

/// Whether a volume that is due is looked at closely: what may be given, and to whom, is asked then.
fn wants_healing(list: &AllowList, record: &Record) -> bool {
    list.get(&record.owner.entry).is_none_or(|entry| entry.heal == Heal::On)
}

/// Whether what was noted of the way to a source is so still.
fn is_noted(noted: Option<&PathMounts>, now: Option<&PathMounts>) -> bool {
    match (noted, now) {
        (Some(noted), Some(now)) => noted.is_as(now),
        (noted, now) => noted.is_none() && now.is_none(),
    }
}

/// Notes beside a volume what is mounted on the way to its source now; nothing where that is too much, since what was noted
/// isn't so any more. False while somebody works on the volume.
fn note_path_mounts((site, gate): (&Site, &Gate), volume: &Volume, source: &Source<'_>) -> bool {
    let Ok(_pass) = gate.enter(volume.path.as_path(), Holder::Own) else { return false };
    let Ok(Some(place)) = observe::open_target(site, &volume.path) else { return true };
    let Ok(Some(record)) = place.record() else { return true };
    // Since the table was read it may have been published anew, from a source with more on the way to it.
    let same = site.calls.root(volume.id).map_or_else(
        || source.now.as_ref().is_some_and(|now| now.mount.id == record.source_mount),
        |root| root.is_ok(),
    );
    if record.clone().in_common() == *volume.record {
        // Of which it can't be told, nothing is kept: it isn't given what is on another mount.
        let path_mounts = source.path_mounts.clone().filter(|_| same);
        place.replace_record(Record { path_mounts, ..record });
    }
    true
}

/// The directories that renewed volumes have shown before. Their running containers have them still, wherever they are called by now.
fn left(site: &Site, volumes: &[Arc<Volume>]) -> Vec<DirId> {
    let records = statmount::in_breaths(volumes).filter_map(|volume| record::of(site, &volume.path));
    records.flat_map(|record| record.left).collect()
}

/// The mount table with all that there is.
pub fn whole_table(site: &Site) -> Result<Table, Errno> {
    site.calls.table(&site.proc, &mut |_| true)
}

/// The mount table by which volumes are judged, without what is mounted in volumes: there is as much of it as there are
/// volumes.
///
/// # Errors
/// What reading it says.
pub fn table(site: &Site) -> Result<Table, Errno> {
    site.calls.table(&site.proc, &mut |point| !site.layout.is_in_target(point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_matters_by_where_it_is() {
        let sources = Sources(["/data/sets"].map(PathBuf::from).into());
        let (nothing, others) = (Concerns::default(), Concerns { others: true, ..Concerns::default() });
        for (point, seen) in [
            ("/data/sets", Concerns { sources: true, ..others }),
            ("/data", Concerns { sources: true, ..others }),
            ("/run/containerd/x", others),
            ("/k2", others),
            ("/k/pods/u/volumes/kubernetes.io~csi/v/mount", Concerns { volumes: true, ..nothing }),
            ("/k/pods/u/volumes/kubernetes.io~csi/v/mount/nested", nothing),
            ("/k/plugins/csi.hostmount.dev/workshop/0", nothing),
        ] {
            let mut found = nothing;
            found.see(&crate::fixture::layout(), &sources, Path::new(point));
            assert_eq!(found, seen, "{point}");
        }
    }

    #[test]
    fn what_covers_a_source_is_found_among_many() {
        let sources = Sources(["/a/b", "/a/b-c", "/a/b/c/d", "/x"].map(PathBuf::from).into());
        for (point, covers) in [
            ("/", true),
            ("/a", true),
            ("/a/b", true),
            ("/a/b/c", true),
            ("/a/b/c/d", true),
            ("/a/b/c/d/e", false),
            ("/a/b-", false),
            ("/a/b-c", true),
            ("/a/c", false),
            ("/x/y", false),
            ("/z", false),
        ] {
            assert_eq!(sources.are_covered_by(Path::new(point)), covers, "{point}");
        }
        assert!(!Sources::default().are_covered_by(Path::new("/")));
    }
}
