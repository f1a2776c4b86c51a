//! Which volumes of ours are mounted now, asked of the kernel's mount table and of what the kubelet wrote beside them.
//!
//! The kubelet keeps `vol_data.json` next to the target directory of every CSI volume (pkg/volume/csi), with the
//! driver's name in it. So nothing has to be remembered here, and a restarted plugin knows as much as before.

use std::path::{Path, PathBuf};

use crate::site::Site;
use crate::sys::Errno;
use crate::tree::mountinfo::{self, Table};

/// How many volumes are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
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
    matches!(place(kubelet_dir, mount_point), Some(Place::Target { .. }))
}

/// Each place once, however many layers are mounted there.
fn places(table: &Table, kubelet_dir: &Path) -> Vec<Place> {
    let mut points: Vec<&Path> = table.mounts.iter().map(|m| m.mount_point.as_path()).collect();
    points.sort_unstable();
    points.dedup();
    points.into_iter().filter_map(|point| place(kubelet_dir, point)).collect()
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

/// Counts the driver's volumes in the mount namespace of the calling thread.
///
/// # Errors
/// If the mount table can't be read.
pub fn count(site: &Site, driver: &str) -> Result<Held, Errno> {
    let table = mountinfo::parse(&site.proc.mountinfo()?);
    let mut held = Held::default();
    for place in places(&table, site.kubelet_dir.as_path()) {
        match place {
            Place::Target { data } if Written::read(&data).is_some_and(|w| w.driver == driver) => held.published += 1,
            Place::Staging { driver: of } if of == Path::new(driver) => held.staged += 1,
            _ => {}
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_by_their_paths_and_counted_once() {
        let line = |id: u32, at: &str| format!("{id} 1 0:5 / {at} rw - tmpfs x rw\n");
        let text: String = [
            "/k/pods/u/volumes/kubernetes.io~csi/v/mount",
            "/k/pods/u/volumes/kubernetes.io~csi/v/mount",
            "/k/pods/u/volumes/kubernetes.io~csi/v/mount/nested",
            "/k/pods/u/volumes/kubernetes.io~nfs/v/mount",
            "/k/plugins/kubernetes.io/csi/d/0123/globalmount",
            "/elsewhere/pods/u/volumes/kubernetes.io~csi/v/mount",
        ]
        .iter()
        .zip(2..)
        .map(|(at, id)| line(id, at))
        .collect();
        let found = places(&mountinfo::parse(text.as_bytes()), Path::new("/k"));
        let data = PathBuf::from("/k/pods/u/volumes/kubernetes.io~csi/v/vol_data.json");
        assert_eq!(found, [Place::Staging { driver: "d".into() }, Place::Target { data }]);
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
