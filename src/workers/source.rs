//! What a job works on and may hang on, and how many threads that may take. Plain data.
//!
//! A file system hangs as a whole, however many of its directories are in use. So a job is counted under several
//! bounds. One is its directory, so that a hung one doesn't stop the others of its entry. One is its entry, if its file
//! system isn't certain (a sub-path may lead anywhere). One is the file system's device, if known. One is all that may
//! hang together. The end of a volume asks its source nothing, and has reserved threads.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::{Arc, LazyLock};

/// The device of a file system, as major and minor number.
pub type Device = (u32, u32);

/// The most threads, whatever hangs.
pub(super) const THREADS: usize = 512;
/// How many of them are reserved for ending volumes.
const FOR_ENDING: usize = 64;
/// How many threads may work for one directory, or for one of the plugin's own purposes.
pub const PER_SOURCE: usize = 4;
/// How many may work for one entry.
pub const PER_ENTRY: usize = 8;
/// How many may work for the published volumes of one file system.
pub const PER_DEVICE: usize = 32;
/// How many may work for directories that probably lie on one file system: a third of all. A mount that was just made
/// isn't known yet, so what hangs on it is counted for the file system beneath.
pub(super) const PER_THOUGHT: usize = 160;

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Level {
    /// A directory, a volume that ends, or a purpose.
    Name,
    Entry,
    Device,
    /// A file system on which directories probably lie: something else may be mounted there since. So what certainly
    /// lies on it is counted separately, and many more may hang.
    Thought,
    /// All but the ends of volumes.
    Everything,
}

/// One of the bounds of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) level: Level,
    /// A hash of what is counted. Two things with the same hash would be counted as one; of 2^64 none will.
    pub(super) key: u64,
    /// How many jobs may run.
    pub(super) most: usize,
    /// How many may wait while those that run hang.
    pub(super) waiting: usize,
}

impl Bound {
    fn new(level: Level, what: impl std::hash::Hash) -> Self {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let (most, waiting) = match level {
            Level::Name => (PER_SOURCE, PER_SOURCE),
            Level::Entry => (PER_ENTRY, PER_ENTRY),
            Level::Device => (PER_DEVICE, PER_DEVICE),
            Level::Thought => (PER_THOUGHT, PER_DEVICE),
            Level::Everything => (THREADS - FOR_ENDING, FOR_ENDING),
        };
        // There is only one such bound.
        let key = if level == Level::Everything { 0 } else { KEYS.hash_one((level, what)) };
        Self { level, key, most, waiting }
    }

    pub(super) fn everything() -> Self {
        Self::new(Level::Everything, ())
    }
}

/// What a job works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// For the log and for errors.
    pub(super) name: Arc<str>,
    entry: Option<Arc<str>>,
    bounds: [Option<Bound>; 4],
}

impl Source {
    /// The kind keeps equal names of different kinds apart: a volume can have any name.
    fn new(kind: &str, name: &str, more: [Option<Bound>; 3]) -> Self {
        let [first, second, third] = more;
        let own = Bound::new(Level::Name, (kind, name));
        Self { name: name.into(), entry: None, bounds: [Some(own), first, second, third] }
    }

    fn of_entry(path: &Path, entry: Option<&str>, bounds: [Option<Bound>; 2]) -> Self {
        let [first, second] = bounds;
        let new = Self::new("directory", &path.to_string_lossy(), [first, second, Some(Bound::everything())]);
        Self { entry: entry.map(Into::into), ..new }
    }

    /// A directory beneath an entry, found by its path. The device is the one that it probably lies on.
    #[must_use]
    pub fn directory(path: &Path, entry: &str, device: Option<Device>) -> Self {
        let device = device.map(|device| Bound::new(Level::Thought, device));
        Self::of_entry(path, Some(entry), [Some(Bound::new(Level::Entry, entry)), device])
    }

    /// A published volume, which was taken from a path. If the mount table gave its device, that is certain. The volume
    /// is then counted for the device and not for its entry, whose other directories may work.
    #[must_use]
    pub fn published(path: &Path, entry: Option<&str>, device: Option<Device>) -> Self {
        let by = match (device, entry) {
            (Some(device), _) => Some(Bound::new(Level::Device, device)),
            (None, Some(entry)) => Some(Bound::new(Level::Entry, entry)),
            (None, None) => None,
        };
        Self::of_entry(path, entry, [by, None])
    }

    /// The end of a volume: its unpublish or unstage.
    #[must_use]
    pub fn ending(volume: &str) -> Self {
        Self::new("volume", volume, [None; 3])
    }

    /// The check whether a volume is there already. It asks only the kubelet's own file system, and refusing it may
    /// cost a pod its volume. So it has no bound but its own.
    #[must_use]
    pub fn kept() -> Self {
        Self::new("purpose", "kept", [None; 3])
    }

    /// One of the plugin's own purposes, on the node's own file systems.
    #[must_use]
    pub fn own(purpose: &str) -> Self {
        Self::new("purpose", purpose, [Some(Bound::everything()), None, None])
    }

    pub(super) fn bounds(&self) -> impl Iterator<Item = &Bound> {
        self.bounds.iter().flatten()
    }

    /// The key of its own bound, not of those that it shares with others.
    pub(super) fn key(&self) -> Option<u64> {
        self.bounds().next().map(|bound| bound.key)
    }

    /// The name of what hangs when a bound is reached.
    pub(super) fn hanging(&self, level: Level) -> String {
        match (level, &self.entry) {
            (Level::Entry, Some(entry)) => format!("directories of the entry {entry}"),
            (Level::Device | Level::Thought, _) => format!("the file system of {}", self.name),
            _ => self.name.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(one: &Source, other: &Source) -> Vec<Level> {
        one.bounds().filter(|bound| other.bounds().any(|theirs| theirs == *bound)).map(|bound| bound.level).collect()
    }

    #[test]
    fn what_hangs_together_is_counted_together() {
        use Level::{Device, Entry, Everything, Name, Thought};
        let at = |path: &str, entry, device| Source::directory(Path::new(path), entry, device);
        let one = at("/d/a", "d", Some((0, 7)));
        assert_eq!(shared(&one, &at("/d/a", "d", Some((0, 7)))), [Name, Entry, Thought, Everything]);
        assert_eq!(shared(&one, &at("/d/b", "d", None)), [Entry, Everything]);
        assert_eq!(shared(&one, &at("/e", "e", Some((0, 7)))), [Thought, Everything]);
        assert_eq!(shared(&one, &at("/e", "e", Some((7, 0)))), [Everything]);
        let volume = |device| Source::published(Path::new("/d/b"), Some("d"), device);
        assert_eq!(shared(&one, &volume(Some((0, 7)))), [Everything], "on that it lies for certain");
        assert_eq!(shared(&volume(Some((0, 7))), &volume(Some((0, 7)))), [Name, Device, Everything]);
        assert_eq!(shared(&one, &volume(Some((0, 8)))), [Everything], "its entry may hang elsewhere");
        assert_eq!(shared(&one, &volume(None)), [Entry, Everything]);
        assert_eq!(shared(&one, &Source::own("records")), [Everything]);
        assert_eq!(shared(&one, &Source::ending("/d/b")), []);
        assert_eq!(shared(&one, &Source::kept()), []);
        assert_eq!(shared(&Source::own("/d/a"), &Source::ending("/d/a")), []);
    }

    #[test]
    fn what_ends_volumes_has_threads_of_its_own() {
        assert_eq!(Bound::everything().most + FOR_ENDING, THREADS);
        assert!(Source::ending("v").bounds().all(|bound| bound.level == Level::Name));
    }
}
