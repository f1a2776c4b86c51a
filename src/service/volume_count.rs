//! Counts the mounted volumes of this driver, from the kernel's mount table and from what the front-end has beside each
//! target. Nothing has to be remembered here, so a restarted plugin knows as much as before.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Mutex;

use engine::site::Site;
use kernel::mount_events::WatchedTable;
use mounts::Errno;
use plan::layout::At;

/// How many volumes are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeCount {
    /// At target paths.
    pub published: usize,
    /// At staging paths.
    pub staged: usize,
}

/// A hash of the path. Two paths with the same hash would be counted as one volume. With 2^64 values that won't happen.
fn short(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// Whether the volume at a target is ours, according to what the front-end has beside it. None if that can't be read.
pub type IsOurs = dyn Fn(&Path) -> Option<bool> + Send + Sync;

/// Counts our volumes. It keeps what is known from the last time: the table is read only if it has changed, and what
/// the kubelet wrote of a volume is read once.
pub struct Counter {
    is_ours: Box<IsOurs>,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    /// The inode of the mount namespace, and the namespace's table.
    watched: Option<(u64, WatchedTable)>,
    held: VolumeCount,
    /// Whether each volume is this driver's, by its [`short`] path.
    targets: HashMap<u64, bool>,
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Counter {
    /// A counter that has counted nothing yet.
    #[must_use]
    pub fn new(is_ours: impl Fn(&Path) -> Option<bool> + Send + Sync + 'static) -> Self {
        Self { is_ours: Box::new(is_ours), last: Mutex::default() }
    }

    /// The count of our volumes in the mount namespace of the calling thread.
    ///
    /// # Errors
    /// EAGAIN if another thread is counting. Otherwise the error of reading the mount table.
    pub fn count(&self, site: &Site) -> Result<VolumeCount, Errno> {
        use std::sync::TryLockError;
        let mut last = match self.last.try_lock() {
            Ok(last) => last,
            Err(TryLockError::Poisoned(last)) => last.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Errno::EAGAIN),
        };
        let namespace = site.proc.thread_mount_namespace()?.inode;
        if let Some((inode, table)) = &last.watched
            && *inode == namespace
            && !table.has_changed()?
        {
            return Ok(last.held);
        }
        // The watch is opened before the table is read, so that the next call sees changes in between.
        last.watched = Some((namespace, WatchedTable::of_thread(&site.proc)?));
        match self.read(site, &last.targets) {
            Ok((held, targets)) => {
                (last.held, last.targets) = (held, targets);
                Ok(held)
            }
            Err(errno) => {
                last.watched = None;
                Err(errno)
            }
        }
    }

    fn read(&self, site: &Site, known: &HashMap<u64, bool>) -> Result<(VolumeCount, HashMap<u64, bool>), Errno> {
        let (mut held, mut targets) = (VolumeCount::default(), HashMap::with_capacity(known.len()));
        let mut staged = std::collections::HashSet::new();
        // Each place counts once, however many layers are mounted there.
        let mut see = |point: &Path| match site.layout.at(point) {
            Some(At::Target) => {
                let short = short(point);
                if targets.contains_key(&short) {
                    return;
                }
                let ours = known.get(&short).copied().or_else(|| (self.is_ours)(point));
                held.published += usize::from(ours == Some(true));
                // If it can't be read, its pod is just being removed or created.
                if let Some(ours) = ours {
                    targets.insert(short, ours);
                }
            }
            Some(At::Staging) => held.staged += usize::from(staged.insert(short(point))),
            _ => {}
        };
        site.calls.points(&site.proc, &mut see)?;
        Ok((held, targets))
    }
}
