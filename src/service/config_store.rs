//! The allow-list in force, reloaded whenever its file changes.
//!
//! One thread reads the file: at the start, at an inotify(7) event, on request ([`ConfigStore::reload`]), and every
//! half minute for file systems without events. It watches directories instead of the file, because the file is rarely
//! written to: editors rename a new one over it, and the kubelet swaps the symlink `..data` beside it. A file with
//! faults changes only [`ReloadStats`]: the last good list stays.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use allowlist::config::{AllowList, SIZE_MAX};
use allowlist::names::AbsPath;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// What metrics and health report about the allow-list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReloadStats {
    /// How often a file without faults was loaded, the first time included.
    pub loads_ok: u64,
    /// How often a file was refused, or could not be read.
    pub loads_refused: u64,
    /// Whether there is a list in force. It may be older than the file: see `last_error`.
    pub serving: bool,
    /// How many entries the list in force has.
    pub entries: usize,
    /// When the list in force was loaded.
    pub loaded_at: Option<SystemTime>,
    /// Why the current file was refused. None if it is in force.
    pub last_error: Option<String>,
    /// When it was refused.
    pub refused_at: Option<SystemTime>,
}

#[derive(Debug, Default)]
struct State {
    list: Option<Arc<AllowList>>,
    stats: ReloadStats,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    kubelet_dir: AbsPath,
    state: RwLock<State>,
    /// Written to in order to wake the thread, after one of the flags is set.
    wake: EventFd,
    stop: AtomicBool,
    again: AtomicBool,
}

/// How long the thread waits.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// For an event. After that it reads the file without one.
    poll: Duration,
    /// For silence after an event, because writers take several steps.
    settle: Duration,
    /// For silence altogether, even if events keep coming.
    settle_max: Duration,
}

const PACE: Pace =
    Pace { poll: Duration::from_secs(30), settle: Duration::from_millis(50), settle_max: Duration::from_secs(1) };

/// The allow-list in force, and the thread that keeps it current. Dropping it ends the thread.
#[derive(Debug)]
pub struct ConfigStore {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl ConfigStore {
    /// Reads the file, and keeps watching it. A file that is absent or has faults is no error here. There is then no
    /// list ([`ConfigStore::current`]) until the file is corrected.
    ///
    /// # Errors
    /// The thread, or the descriptor that wakes it, can't be created.
    pub fn start(path: impl Into<PathBuf>, kubelet_dir: AbsPath) -> io::Result<Self> {
        Self::start_at(path.into(), kubelet_dir, PACE)
    }

    fn start_at(path: PathBuf, kubelet_dir: AbsPath, pace: Pace) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (stop, again) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { path, kubelet_dir, state: RwLock::default(), wake, stop, again });
        let mut watcher = Watcher::new(Arc::clone(&shared), pace);
        watcher.load(false);
        let thread = std::thread::Builder::new().name("allow-list".to_owned()).spawn(move || watcher.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The list in force, from the last file without faults. None if there was no such file yet.
    #[must_use]
    pub fn current(&self) -> Option<Arc<AllowList>> {
        self.shared.read().list.clone()
    }

    /// The results of reading the file.
    #[must_use]
    pub fn stats(&self) -> ReloadStats {
        self.shared.read().stats.clone()
    }

    /// Makes the thread read the file again soon, even if it seems unchanged, and log the outcome. Returns at once.
    pub fn reload(&self) {
        self.shared.again.store(true, Ordering::Release);
        self.shared.wake_up();
    }
}

impl Drop for ConfigStore {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake_up();
        if let Some(thread) = self.thread.take() {
            // An error is a panic of the thread, which has been reported.
            let _ = thread.join();
        }
    }
}

impl Shared {
    // Nothing can panic half-way through a change with the lock held. So the state is complete even if the lock is
    // poisoned.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_up(&self) {
        // The only possible error is a full counter, which wakes the thread too.
        let _ = self.wake.write(1);
    }
}

/// A file's content when it was last read, or why there is none.
type Content = Result<Vec<u8>, String>;

struct Watcher {
    shared: Arc<Shared>,
    pace: Pace,
    /// None if the kernel provides none. The file is then read every half minute.
    inotify: Option<Inotify>,
    watched: Vec<WatchDescriptor>,
    last: Option<Content>,
}

impl Watcher {
    fn new(shared: Arc<Shared>, pace: Pace) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .inspect_err(|error| {
                tracing::warn!(%error, "inotify is not to be had: changes of the allow-list are found by looking");
            })
            .ok();
        Self { shared, pace, inotify, watched: Vec::new(), last: None }
    }

    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            let event = self.wait(self.pace.poll);
            let began = Instant::now();
            while event && began.elapsed() < self.pace.settle_max && self.wait(self.pace.settle) {}
            if self.shared.stop.load(Ordering::Acquire) {
                return;
            }
            let again = self.shared.again.swap(false, Ordering::AcqRel);
            self.load(again);
        }
    }

    /// Waits for an event or a request, and consumes all that are pending. False if the time passed without one.
    fn wait(&self, time: Duration) -> bool {
        let mut fds = vec![PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.inotify.as_ref().map(|i| PollFd::new(i.as_fd(), PollFlags::POLLIN)));
        let woken = match poll(&mut fds, PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)) {
            Ok(ready) => ready > 0,
            Err(Errno::EINTR) => true,
            Err(error) => {
                tracing::error!(%error, "waiting for changes of the allow-list failed");
                std::thread::sleep(time);
                false
            }
        };
        // Which file has changed doesn't matter: reading and comparing ours costs less than a mistake about links.
        let _ = self.shared.wake.read();
        while self.inotify.as_ref().is_some_and(|i| i.read_events().is_ok_and(|events| !events.is_empty())) {}
        woken
    }

    /// Reads the file, and loads it if it has changed or `again` is set.
    fn load(&mut self, again: bool) {
        // Watch first, then read: a change in between is then an event.
        self.watch();
        let content = read(&self.shared.path);
        if !again && self.last.as_ref() == Some(&content) {
            return;
        }
        let parsed = match &content {
            Ok(bytes) => AllowList::parse_bytes(bytes, &self.shared.kubelet_dir)
                .map_err(|faults| faults.0.iter().map(ToString::to_string).collect::<Vec<_>>()),
            Err(error) => Err(vec![error.clone()]),
        };
        self.last = Some(content);
        match parsed {
            Ok(list) => self.take_up(list),
            Err(faults) => self.refuse(&faults),
        }
    }

    fn take_up(&self, list: AllowList) {
        let list = Arc::new(list);
        let mut state = self.shared.write();
        let changes = state.list.as_deref().unwrap_or(&AllowList::default()).changes(&list);
        let stats = &mut state.stats;
        stats.loads_ok += 1;
        stats.serving = true;
        stats.entries = list.len();
        stats.loaded_at = Some(SystemTime::now());
        (stats.last_error, stats.refused_at) = (None, None);
        let entries = stats.entries;
        state.list = Some(list);
        drop(state);
        tracing::info!(
            path = %self.shared.path.display(),
            entries,
            added = changes.added.len(),
            removed = changes.removed.len(),
            changed = changes.changed.len(),
            "allow-list taken up"
        );
    }

    fn refuse(&self, faults: &[String]) {
        let mut state = self.shared.write();
        state.stats.loads_refused += 1;
        state.stats.last_error = Some(faults.join("\n"));
        state.stats.refused_at = Some(SystemTime::now());
        let serving = state.stats.serving;
        drop(state);
        let path = self.shared.path.display();
        let stays =
            if serving { "the last good one stays in force" } else { "every volume is refused until it is put right" };
        tracing::error!(%path, faults = faults.len(), "allow-list refused: {stays}");
        for fault in faults {
            tracing::error!(%path, "allow-list: {fault}");
        }
    }

    /// Watches the directory of the path and, if the path is a symlink, the directory of the file that it leads to.
    fn watch(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let path = &self.shared.path;
        let real = std::fs::canonicalize(path).ok();
        let mut watched = Vec::new();
        for directory in [Some(directory_of(path)), real.as_deref().map(directory_of)].into_iter().flatten() {
            let mask = AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_MOVE
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_MOVE_SELF
                | AddWatchFlags::IN_ONLYDIR;
            // If the directory is missing, reading the file fails too, and that is reported.
            watched.extend(inotify.add_watch(directory, mask));
        }
        for old in self.watched.iter().filter(|old| !watched.contains(old)) {
            // An error means that the directory is gone, and its watch with it.
            let _ = inotify.rm_watch(*old);
        }
        self.watched = watched;
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// The file's bytes, at most one more than allowed.
pub fn read(path: &Path) -> Content {
    let said = |what: &str, error: &dyn std::fmt::Display| format!("{}: {what}: {error}", path.display());
    // Without O_NONBLOCK, opening a FIFO would wait forever for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|e| said("can't be opened", &e))?;
    if !file.metadata().map_err(|e| said("can't be examined", &e))?.is_file() {
        return Err(said("can't be read", &"it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(SIZE_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(|e| said("can't be read", &e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    const ONE: &str = "entries: [{name: a, path: /mnt/a}]";
    const TWO: &str = "entries: [{name: a, path: /mnt/a}, {name: b, path: /mnt/b}]";
    const BAD: &str = "entries:\n- {name: a, path: mnt}\n- {name: B, path: /mnt/b}";
    /// No reads without an event: these tests see only what inotify reported.
    const EVENTS_ONLY: Pace = Pace { poll: Duration::from_secs(3600), ..PACE };

    fn store(path: &Path, pace: Pace) -> ConfigStore {
        ConfigStore::start_at(path.to_owned(), AbsPath::parse("/var/lib/kubelet").unwrap(), pace).unwrap()
    }

    #[track_caller]
    fn wait_for(store: &ConfigStore, what: impl Fn(&ReloadStats) -> bool) -> ReloadStats {
        let began = Instant::now();
        loop {
            let stats = store.stats();
            if what(&stats) {
                return stats;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "still {stats:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn rename_over(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[test]
    fn a_good_file_is_in_force_at_once() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("list.yaml");
        fs::write(&path, TWO).unwrap();
        let store = store(&path, EVENTS_ONLY);
        assert_eq!(store.current().unwrap().len(), 2);
        let stats = store.stats();
        assert!(stats.serving && stats.last_error.is_none() && stats.loaded_at.is_some());
        assert_eq!((stats.loads_ok, stats.loads_refused, stats.entries), (1, 0, 2));
    }

    #[test]
    fn an_absent_file_is_waited_for() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("list.yaml");
        let store = store(&path, EVENTS_ONLY);
        let stats = store.stats();
        assert!(store.current().is_none() && !stats.serving && stats.refused_at.is_some());
        assert!(stats.last_error.unwrap().contains("list.yaml: can't be opened"));
        fs::write(&path, ONE).unwrap();
        wait_for(&store, |s| s.serving);
        assert_eq!(store.current().unwrap().len(), 1);
    }

    #[test]
    fn bad_then_good_the_last_good_one_stays() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("list.yaml");
        fs::write(&path, TWO).unwrap();
        let store = store(&path, EVENTS_ONLY);
        rename_over(&path, BAD);
        let stats = wait_for(&store, |s| s.loads_refused == 1);
        let error = stats.last_error.unwrap();
        assert!(error.contains("line 2, entries[0].path") && error.contains("line 3, entries[1].name"), "{error}");
        assert!(stats.serving && stats.entries == 2);
        assert_eq!(store.current().unwrap().len(), 2);
        rename_over(&path, ONE);
        let stats = wait_for(&store, |s| s.loads_ok == 2);
        assert_eq!((stats.last_error, stats.refused_at, stats.entries), (None, None, 1));
        fs::remove_file(&path).unwrap();
        wait_for(&store, |s| s.loads_refused == 2);
        assert_eq!(store.current().unwrap().len(), 1);
    }

    #[test]
    fn a_file_written_in_place_is_taken_up() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("list.yaml");
        fs::write(&path, ONE).unwrap();
        let store = store(&path, EVENTS_ONLY);
        fs::write(&path, TWO).unwrap();
        wait_for(&store, |s| s.entries == 2);
    }

    #[test]
    fn a_config_map_is_swapped_by_its_data_link() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("list.yaml");
        let publish = |version: &str, text: &str| {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("list.yaml"), text).unwrap();
            symlink(version, dir.path().join("..data_tmp")).unwrap();
            fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        };
        publish("..2026_1", ONE);
        symlink("..data/list.yaml", &path).unwrap();
        let store = store(&path, EVENTS_ONLY);
        assert_eq!(store.current().unwrap().len(), 1);
        publish("..2026_2", TWO);
        fs::remove_file(dir.path().join("..2026_1/list.yaml")).unwrap();
        fs::remove_dir(dir.path().join("..2026_1")).unwrap();
        wait_for(&store, |s| s.entries == 2);
        publish("..2026_3", BAD);
        wait_for(&store, |s| s.last_error.is_some());
        publish("..2026_4", ONE);
        wait_for(&store, |s| s.entries == 1 && s.last_error.is_none());
    }

    #[test]
    fn the_target_of_a_link_is_watched_where_it_is() {
        let (dir, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (path, real) = (dir.path().join("list.yaml"), elsewhere.path().join("real.yaml"));
        fs::write(&real, ONE).unwrap();
        symlink(&real, &path).unwrap();
        let store = store(&path, EVENTS_ONLY);
        rename_over(&real, TWO);
        wait_for(&store, |s| s.entries == 2);
    }

    #[test]
    fn without_events_the_file_is_looked_at() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("not-yet").join("list.yaml");
        let store = store(&path, Pace { poll: Duration::from_millis(20), ..PACE });
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, TWO).unwrap();
        let stats = wait_for(&store, |s| s.serving);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(store.stats(), stats, "an unchanged file must change nothing");
    }

    #[test]
    fn a_reload_on_demand_reads_even_the_same_file() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("list.yaml");
        fs::write(&path, ONE).unwrap();
        let store = store(&path, EVENTS_ONLY);
        store.reload();
        wait_for(&store, |s| s.loads_ok == 2);
    }

    #[test]
    fn what_is_no_file_is_refused_and_does_not_hang() {
        let dir = TempDir::new().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [fifo.as_path(), dir.path()] {
            assert!(store(path, EVENTS_ONLY).stats().last_error.unwrap().contains("not a regular file"));
        }
        let big = dir.path().join("big.yaml");
        fs::write(&big, vec![b'#'; SIZE_MAX + 100]).unwrap();
        assert!(store(&big, EVENTS_ONLY).stats().last_error.unwrap().contains("over the limit"));
    }
}
