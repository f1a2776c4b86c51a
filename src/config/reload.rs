//! Keeps the allow-list current: a changed file is taken up while running, a bad one is refused and the last good
//! one stays in force.
//!
//! A ConfigMap volume changes by the rename of a symlink (`..data`) in the file's directory, an editor renames a new
//! file over the old one: so it is the *directory* that is watched, and what counts is whether the text differs.
//! Besides, the file is read every [`REREAD`], for file systems that tell no events.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{AllowList, SIZE_MAX};
use crate::volume::AbsPath;

/// How often the file is read without an event.
pub const REREAD: Duration = Duration::from_secs(30);

/// What is in force, and how the last look at the file went.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The allow-list in force. None until a good one was read.
    pub list: Option<Arc<AllowList>>,
    /// Why the file as it is now isn't in force, if it isn't.
    pub refused: Option<String>,
    /// How many times a file was taken up.
    pub loads: u64,
    /// How many times one was refused.
    pub refusals: u64,
    text: Option<Vec<u8>>,
}

/// The allow-list of a running plugin.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    kubelet_dir: AbsPath,
    state: RwLock<State>,
    wake: EventFd,
}

impl Store {
    /// Reads the file and starts to watch it. A bad or missing file is no error: it is reported, and taken up once
    /// it is good.
    ///
    /// # Errors
    /// If inotify or a thread can't be had.
    pub fn start(path: &Path, kubelet_dir: &AbsPath) -> io::Result<Arc<Self>> {
        let store = Arc::new(Self {
            path: path.to_owned(),
            kubelet_dir: kubelet_dir.clone(),
            state: RwLock::default(),
            wake: EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        });
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // Watched first, read then: a change in between is seen.
        let mut watched = HashSet::new();
        store.watch(&inotify, &mut watched);
        store.read();
        let weak = Arc::downgrade(&store);
        std::thread::Builder::new().name("allow-list".to_owned()).stack_size(512 * 1024).spawn(move || {
            while let Some(store) = weak.upgrade() {
                store.wait(&inotify);
                store.watch(&inotify, &mut watched);
                store.read();
            }
        })?;
        Ok(store)
    }

    /// What is in force now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The allow-list in force.
    ///
    /// # Errors
    /// Why there is none.
    pub fn list(&self) -> Result<Arc<AllowList>, String> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.list.clone().ok_or_else(|| state.refused.clone().unwrap_or_default())
    }

    /// Reads the file soon, as after SIGHUP.
    pub fn reload(&self) {
        // It fails only if the counter is full, and then the thread is awake.
        let _ = self.wake.write(1);
    }

    fn wait(&self, inotify: &Inotify) {
        let mut fds =
            [PollFd::new(inotify.as_fd(), PollFlags::POLLIN), PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(REREAD).unwrap_or(PollTimeout::MAX);
        // Whatever ends the wait, the file is read next.
        let _ = poll(&mut fds, timeout);
        let _ = self.wake.read();
        while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
    }

    /// Watches the directory that the file is named in, and the one that it lies in after symlinks.
    fn watch(&self, inotify: &Inotify, watched: &mut HashSet<PathBuf>) {
        let real = std::fs::canonicalize(&self.path).ok();
        let directories = [Some(self.path.as_path()), real.as_deref()];
        let now: HashSet<PathBuf> =
            directories.into_iter().flatten().filter_map(Path::parent).map(Path::to_owned).collect();
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF;
        for directory in &now {
            // A directory that isn't there is looked for again at the next re-read; adding twice is no harm.
            if inotify.add_watch(directory, flags).is_err() {
                watched.remove(directory);
            }
        }
        *watched = now;
    }

    fn read(&self) {
        let text = std::fs::metadata(&self.path).and_then(|file| {
            if file.len() > SIZE_MAX as u64 {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("over the limit of {SIZE_MAX} bytes")));
            }
            std::fs::read(&self.path)
        });
        let parsed = match &text {
            Ok(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => AllowList::parse(text, &self.kubelet_dir).map_err(|faults| faults.to_string()),
                Err(e) => Err(format!("the file is not UTF-8: {e}")),
            },
            Err(e) => Err(format!("the file cannot be read: {e}")),
        };
        let text = text.ok();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match parsed {
            Ok(_) if state.text == text && state.refused.is_none() => {}
            Ok(list) => {
                tracing::info!(path = %self.path.display(), entries = list.len(), "allow-list taken up");
                state.list = Some(Arc::new(list));
                state.refused = None;
                state.loads += 1;
            }
            Err(why) => {
                let why = format!("{}: {why}", self.path.display());
                if state.refused.as_ref() != Some(&why) {
                    let stays =
                        if state.list.is_some() { "the last good one stays in force" } else { "none is in force" };
                    tracing::error!("allow-list refused, {stays}: {why}");
                    state.refused = Some(why);
                    state.refusals += 1;
                }
            }
        }
        state.text = text;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Instant;

    use super::*;

    fn start(path: &Path) -> Arc<Store> {
        Store::start(path, &AbsPath::parse("/var/lib/kubelet").unwrap()).unwrap()
    }

    fn text(name: &str) -> String {
        format!("entries: [{{name: {name}, path: /x}}]")
    }

    /// Waits for a state, well below the time after which the file is read without an event.
    fn until(store: &Store, what: &str, reached: impl Fn(&State) -> bool) {
        let start = Instant::now();
        while !reached(&store.state()) {
            assert!(start.elapsed() < REREAD / 2, "not reached: {what}; {:?}", store.state());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn name(state: &State) -> Option<String> {
        state.list.as_ref().and_then(|l| l.iter().next().map(|e| e.name.to_string()))
    }

    #[test]
    fn a_configmap_swap_is_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        for version in ["one", "two"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("entries.yaml"), text(version)).unwrap();
        }
        symlink("one", at("..data")).unwrap();
        symlink("..data/entries.yaml", at("entries.yaml")).unwrap();
        let store = start(&at("entries.yaml"));
        assert_eq!(name(&store.state()).as_deref(), Some("one"));
        symlink("two", at("..tmp")).unwrap();
        std::fs::rename(at("..tmp"), at("..data")).unwrap();
        until(&store, "two", |s| name(s).as_deref() == Some("two"));
    }

    #[test]
    fn a_bad_file_is_refused_and_the_last_good_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entries.yaml");
        let store = start(&path);
        assert!(store.list().unwrap_err().contains("cannot be read"));
        std::fs::write(&path, text("good")).unwrap();
        until(&store, "first", |s| name(s).as_deref() == Some("good") && s.refused.is_none());
        std::fs::write(dir.path().join("new"), "entries: [{name: good}]").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        until(&store, "refusal", |s| s.refused.as_ref().is_some_and(|r| r.contains("entries[0].path")));
        assert_eq!(name(&store.state()).as_deref(), Some("good"));
        std::fs::write(&path, text("better")).unwrap();
        until(&store, "recovery", |s| name(s).as_deref() == Some("better") && s.refused.is_none());
        assert!(store.state().loads == 2 && store.state().refusals >= 2);
    }

    #[test]
    fn a_file_by_symlink_into_another_directory_is_watched_there() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(other.path().join("real"), text("one")).unwrap();
        symlink(other.path().join("real"), dir.path().join("entries.yaml")).unwrap();
        let store = start(&dir.path().join("entries.yaml"));
        std::fs::write(other.path().join("real"), text("two")).unwrap();
        until(&store, "two", |s| name(s).as_deref() == Some("two"));
    }
}
