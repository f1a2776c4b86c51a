//! What healing knows of the volumes, and how one reading of the mount table updates it.
//!
//! There may be tens of thousands of volumes, so little is kept for each: its path. What volumes have in common is kept
//! once for all of them. The pod is read from the volume's record when an event is due.
//!
//! Where a source is well, the mounts on the path to it are noted ([`plan::record::PathMounts`]). What a later unmount
//! uncovers is then never given to a pod. Calls don't note them, because that needs the mount table.
//!
//! The table is read only if it has changed. A directory can be moved or deleted without such a change. So for each
//! directory, however many volumes show it, the kernel is asked for its name (`KnownVolumes::was_moved`).

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

/// The most directories that are asked for their names at once. If there are more, each check takes the next ones.
const DIRECTORIES: usize = 4096;

/// A published volume of this driver.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Its target path.
    pub path: Target,
    /// How it was published: the part that it has in common with other volumes ([`Record::in_common`]).
    pub record: Arc<Record>,
    /// What it shows.
    pub shown: Arc<Shown>,
    /// The id of the lowest mount there. If it changes, it is another volume.
    pub id: u64,
    /// The noted mounts on the path to its source. Volumes with the same ones share them.
    pub path_mounts: Option<Arc<PathMounts>>,
}

impl Volume {
    /// The event for its pod.
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

/// What is known of a source. All volumes that were published the same way share it.
#[derive(Default)]
struct Source<'t> {
    now: Option<Now<'t>>,
    path_mounts: Option<Arc<PathMounts>>,
}

/// A directory that volumes show, examined through the mount of one of them.
#[derive(Debug)]
struct Directory {
    /// The unique id of that mount.
    mount: u64,
    shown: Arc<Shown>,
    deleted: bool,
}

/// The result of reading the table once.
#[derive(Debug, Default)]
pub struct KnownVolumes {
    /// Sorted by path.
    pub volumes: Arc<Vec<Arc<Volume>>>,
    /// Those that may need healing.
    pub candidates: Vec<Candidate>,
    /// The paths of the sources.
    pub(crate) sources: Arc<Sources>,
    /// The file systems that entries and volumes lie on.
    pub(crate) devices: Arc<Devices>,
    /// The allow-list by which the volumes were judged.
    list: Option<Arc<AllowList>>,
    /// Volumes of other drivers, sorted by path, with the ids of their lowest mounts.
    foreign: Vec<(PathBuf, u64)>,
    records: HashSet<Arc<Record>>,
    shown: HashSet<Arc<Shown>>,
    /// Empty where the kernel can't be asked for their names.
    directories: Vec<Directory>,
    /// The index of the directory to ask next.
    next: usize,
    /// Whether a note is missing, because a call or job worked on the volume.
    unnoted: bool,
}

/// The paths of the sources.
#[derive(Debug, Default)]
pub(crate) struct Sources(BTreeSet<PathBuf>);

impl Sources {
    /// Whether a mount at this point covers one of the paths. Paths are ordered by their components, so what lies
    /// beneath a point comes right after it.
    pub(crate) fn are_covered_by(&self, point: &Path) -> bool {
        let from: (Bound<&Path>, Bound<&Path>) = (Bound::Included(point), Bound::Unbounded);
        self.0.range::<Path, _>(from).next().is_some_and(|source| source.starts_with(point))
    }
}

/// What new mounts may concern, judged by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Concerns {
    /// They are over the source of a known volume.
    pub(crate) sources: bool,
    /// They are where volumes are published.
    pub(crate) volumes: bool,
    /// They are outside of the kubelet's directory, so perhaps over the source of a volume that isn't known yet.
    pub(crate) others: bool,
}

impl Concerns {
    /// Adds a mount at this point.
    pub(crate) fn see(&mut self, layout: &Layout, sources: &Sources, point: &Path) {
        self.sources |= sources.are_covered_by(point);
        self.volumes |= layout.is_target(point);
        self.others |= !point.starts_with(layout.base.as_path());
    }
}

/// The element of `all` that equals `value`. If there is none, `value` is added.
fn one_of<T: std::hash::Hash + Eq>(all: &mut HashSet<Arc<T>>, value: T) -> Arc<T> {
    if let Some(same) = all.get(&value) {
        return Arc::clone(same);
    }
    let new = Arc::new(value);
    all.insert(Arc::clone(&new));
    new
}

impl KnownVolumes {
    /// Reads the table, in the mount namespace of the calling thread. Keeps what was known of volumes that are still
    /// there. Changes a volume's record only with a pass of `gate`.
    ///
    /// # Errors
    /// The error of reading the table.
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
            // All three are sorted by path.
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
                        // A volume that disappears meanwhile counts as a foreign one.
                        None => {
                            // Reading a record takes as long as handling many known volumes.
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
            // Computed once for all volumes that were published the same way: they share the record.
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
                // Only if the volume is well. Otherwise this would note the state without the source.
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
        // Drop what only volumes had that are gone by now.
        drop((before, foreign));
        records.retain(|record| Arc::strong_count(record) > 1);
        shown.retain(|shown| Arc::strong_count(shown) > 1);
        known.sources = Arc::new(Sources(records.iter().map(|record| record.full_path()).collect()));
        (known.records, known.shown) = (records, shown);
        Ok(known)
    }

    /// Notes the reasons against following the new directory, for each candidate whose directory was replaced.
    fn ask_who_may_have_replaced(&mut self, site: &Site, list: &AllowList) -> Result<(), Errno> {
        let is_replaced = |candidate: &&mut Candidate| candidate.looked.change == Change::Replaced;
        let mut due = self.candidates.iter_mut().filter(is_replaced).peekable();
        if due.peek().is_none() {
            return Ok(());
        }
        // This needs the mounts inside volumes too: of a volume whose entry is gone, nothing else may tell. It is read
        // once for all candidates.
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

    /// The allow-list by which the volumes were judged. None before the first reading.
    pub(crate) fn list(&self) -> Option<Arc<AllowList>> {
        self.list.clone()
    }

    /// Whether there is a volume at this path.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.volumes.binary_search_by(|volume| volume.path.as_path().cmp(path)).is_ok()
    }

    /// Whether this holds as far as allow-list and notes go: the list is the one it was read with, nothing is left to
    /// note, and the kernel can be asked for the names of the directories.
    pub(crate) fn is_by(&self, list: &Arc<AllowList>) -> bool {
        !self.unnoted
            && self.list.as_ref().is_some_and(|by| Arc::ptr_eq(by, list))
            && self.directories.is_empty() == self.volumes.is_empty()
    }

    /// Whether a directory that volumes show was moved or deleted since the table was read. Checks those whose turn it
    /// is.
    pub(crate) fn was_moved(&mut self, site: &Site) -> bool {
        let count = self.directories.len().min(DIRECTORIES);
        let from = self.next;
        self.next = from.wrapping_add(count);
        (from..from + count).any(|n| {
            let Directory { mount, shown, deleted } = &self.directories[n % self.directories.len()];
            // If the mount is gone, the table has changed.
            let now = site.calls.root(*mount).and_then(Result::ok);
            now.is_some_and(|(root, gone)| root != shown.root || gone != *deleted)
        })
    }
}

/// Whether a volume that is due is examined closely. What may be given, and to whom, is decided then.
fn wants_healing(list: &AllowList, record: &Record) -> bool {
    list.get(&record.owner.entry).is_none_or(|entry| entry.heal == Heal::On)
}

/// Whether the noted mounts on the path to a source are still the same.
fn is_noted(noted: Option<&PathMounts>, now: Option<&PathMounts>) -> bool {
    match (noted, now) {
        (Some(noted), Some(now)) => noted.is_as(now),
        (noted, now) => noted.is_none() && now.is_none(),
    }
}

/// Writes into a volume's record which mounts are now on the path to its source. If there are too many, it removes the
/// old note, which no longer holds. False while a call or job works on the volume.
fn note_path_mounts((site, gate): (&Site, &Gate), volume: &Volume, source: &Source<'_>) -> bool {
    let Ok(_pass) = gate.enter(volume.path.as_path(), Holder::Own) else { return false };
    let Ok(Some(place)) = observe::open_target(site, &volume.path) else { return true };
    let Ok(Some(record)) = place.record() else { return true };
    // Since the table was read, the volume may have been published anew, from a source with more mounts on its path.
    let same = site.calls.root(volume.id).map_or_else(
        || source.now.as_ref().is_some_and(|now| now.mount.id == record.source_mount),
        |root| root.is_ok(),
    );
    if record.clone().in_common() == *volume.record {
        // If that can't be told, no note is kept: the volume is not given what is on another mount.
        let path_mounts = source.path_mounts.clone().filter(|_| same);
        place.replace_record(Record { path_mounts, ..record });
    }
    true
}

/// The directories that renewed volumes showed before. Their running containers still have them, whatever their names
/// are now.
fn left(site: &Site, volumes: &[Arc<Volume>]) -> Vec<DirId> {
    let records = statmount::in_breaths(volumes).filter_map(|volume| record::of(site, &volume.path));
    records.flat_map(|record| record.left).collect()
}

/// The complete mount table.
pub fn whole_table(site: &Site) -> Result<Table, Errno> {
    site.calls.table(&site.proc, &mut |_| true)
}

/// The mount table by which volumes are judged. It leaves out the mounts inside volumes, because their number grows
/// with that of the volumes.
///
/// # Errors
/// The error of reading it.
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
