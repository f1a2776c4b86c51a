//! Which volumes of ours are mounted now, asked of the kernel's mount table and of what the kubelet wrote beside them.
//!
//! The kubelet keeps `vol_data.json` next to the target directory of every CSI volume (pkg/volume/csi), with the
//! driver's name in it. So nothing has to be remembered here, and a restarted plugin knows as much as before.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use engine::site::Site;
use kernel::mount_events::WatchedTable;
use mounts::Errno;

/// How many volumes are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeCount {
    /// At target paths.
    pub published: usize,
    /// At staging paths.
    pub staged: usize,
}

/// A mount that may be a volume of some driver, by where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Of a pod; the driver's name stands in this file.
    Target { data: PathBuf },
    /// Of a node; the driver's name is in the path.
    Staging { driver: PathBuf },
}

fn place(kubelet_dir: &Path, mount_point: &Path) -> Option<Place> {
    let parts: Vec<&str> =
        mount_point.strip_prefix(kubelet_dir).ok()?.iter().map(|part| part.to_str()).collect::<Option<_>>()?;
    match parts[..] {
        ["pods", _, "volumes", "kubernetes.io~csi", _, "mount"] => {
            Some(Place::Target { data: mount_point.with_file_name("vol_data.json") })
        }
        ["plugins", "kubernetes.io", "csi", driver, _, "globalmount"] => Some(Place::Staging { driver: driver.into() }),
        _ => None,
    }
}

/// Whether this is where a CSI volume of a pod is mounted.
#[must_use]
pub fn is_target(kubelet_dir: &Path, mount_point: &Path) -> bool {
    beneath_target(kubelet_dir, mount_point) == Some(false)
}

/// Whether this lies beneath where a CSI volume of a pod is mounted.
#[must_use]
pub fn is_in_target(kubelet_dir: &Path, mount_point: &Path) -> bool {
    beneath_target(kubelet_dir, mount_point) == Some(true)
}

/// Whether there is more to a path than that of a pod's CSI volume; none if it doesn't lead to one.
fn beneath_target(kubelet_dir: &Path, mount_point: &Path) -> Option<bool> {
    let mut parts = mount_point.strip_prefix(kubelet_dir).ok()?.iter().map(std::ffi::OsStr::as_encoded_bytes);
    for wanted in [Some("pods"), None, Some("volumes"), Some("kubernetes.io~csi"), None, Some("mount")] {
        let part = parts.next()?;
        if wanted.is_some_and(|wanted| wanted.as_bytes() != part) {
            return None;
        }
    }
    Some(parts.next().is_some())
}

/// The path, short. Two that are the same in it would be counted as one volume; of 2^64 none will be.
fn short(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// What the kubelet wrote beside a CSI volume's target (`vol_data.json`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The driver's name.
    pub driver: String,
    /// The volume's handle: of an inline volume, one that the kubelet made up.
    pub handle: Option<String>,
    /// Whether the volume is inline in its pod's specification (`volumeLifecycleMode` is `Ephemeral`).
    pub inline: Option<bool>,
}

impl Written {
    /// What stands beside a target. None if it can't be read: such a volume is of a pod that goes away.
    #[must_use]
    pub fn beside(target: &Path) -> Option<Self> {
        Self::read(&target.with_file_name("vol_data.json"))
    }

    fn read(data: &Path) -> Option<Self> {
        let data: serde_json::Value = serde_json::from_slice(&std::fs::read(data).ok()?).ok()?;
        let text = |name: &str| data[name].as_str();
        Some(Self {
            driver: text("driverName")?.to_owned(),
            handle: text("volumeHandle").map(str::to_owned),
            inline: text("volumeLifecycleMode").map(|mode| mode == "Ephemeral"),
        })
    }
}

/// Counts the volumes of a driver. What is known from the last time is kept: the table is read only if it has changed, and
/// what the kubelet wrote of a volume is read once.
#[derive(Debug)]
pub struct Counter {
    driver: String,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    /// The mount namespace, by its inode, and its table.
    watched: Option<(u64, WatchedTable)>,
    held: VolumeCount,
    /// By the [`short`] paths of all volumes, whether they are the driver's.
    targets: HashMap<u64, bool>,
}

impl Counter {
    /// None is counted yet.
    #[must_use]
    pub fn new(driver: &str) -> Self {
        Self { driver: driver.to_owned(), last: Mutex::default() }
    }

    /// The driver's volumes in the mount namespace of the calling thread.
    ///
    /// # Errors
    /// EAGAIN: another thread counts them. Else what reading the mount table says.
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
        // Opened before it is read: what changes meanwhile is seen the next time.
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
        let kubelet_dir = site.kubelet_dir.as_path();
        let (mut held, mut targets) = (VolumeCount::default(), HashMap::with_capacity(known.len()));
        let mut staged = std::collections::HashSet::new();
        // Each place once, however many layers are mounted there.
        let mut see = |point: &Path| match place(kubelet_dir, point) {
            Some(Place::Target { data }) => {
                let short = short(point);
                if targets.contains_key(&short) {
                    return;
                }
                let ours = known.get(&short).copied().or_else(|| Some(Written::read(&data)?.driver == self.driver));
                held.published += usize::from(ours == Some(true));
                // What can't be read is of a pod that goes away, or comes.
                if let Some(ours) = ours {
                    targets.insert(short, ours);
                }
            }
            Some(Place::Staging { driver }) if driver == Path::new(&self.driver) => {
                held.staged += usize::from(staged.insert(short(point)));
            }
            _ => {}
        };
        site.calls.points(&site.proc, &mut see)?;
        Ok((held, targets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_by_their_paths() {
        let at = |path: &str| place(Path::new("/k"), Path::new(path));
        let data = PathBuf::from("/k/pods/u/volumes/kubernetes.io~csi/v/vol_data.json");
        assert_eq!(at("/k/pods/u/volumes/kubernetes.io~csi/v/mount"), Some(Place::Target { data }));
        let staging = at("/k/plugins/kubernetes.io/csi/d/0123/globalmount");
        assert_eq!(staging, Some(Place::Staging { driver: "d".into() }));
        for other in [
            "/k/pods/u/volumes/kubernetes.io~csi/v/mount/nested",
            "/k/pods/u/volumes/kubernetes.io~nfs/v/mount",
            "/elsewhere/pods/u/volumes/kubernetes.io~csi/v/mount",
        ] {
            assert_eq!(at(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_mounted_in_a_volume_is_told_from_the_volume() {
        let inside = |path: &str| is_in_target(Path::new("/k"), Path::new(path));
        assert!(inside("/k/pods/u/volumes/kubernetes.io~csi/v/mount/nested"));
        assert!(inside("/k/pods/u/volumes/kubernetes.io~csi/v/mount/nested/deeper"));
        for other in
            ["/k/pods/u/volumes/kubernetes.io~csi/v/mount", "/k/pods/u/volumes/kubernetes.io~nfs/v/mount/x", "/k", "/"]
        {
            assert!(!inside(other), "{other}");
        }
    }

    #[test]
    fn the_driver_is_what_the_kubelet_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("vol_data.json");
        assert_eq!(Written::read(&data), None);
        std::fs::write(&data, r#"{"driverName": "d", "volumeHandle": "h", "volumeLifecycleMode": "Persistent"}"#)
            .unwrap();
        let written = Written { driver: "d".into(), handle: Some("h".into()), inline: Some(false) };
        assert_eq!(Written::beside(&dir.path().join("mount")), Some(written));
        std::fs::write(&data, "{").unwrap();
        assert_eq!(Written::read(&data), None);
    }
}
