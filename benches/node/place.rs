//! The node that a driver works on: a tmpfs over some directory, with the kubelet's tree, a source and other mounts.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::Outcome;

/// Directories that exist nearly everywhere and that nothing here needs.
const COVERABLE: [&str; 6] = ["/mnt", "/media", "/srv", "/opt", "/home", "/tmp"];

/// A node. Its mounts go away with it, whatever is still mounted beneath them.
#[derive(Debug)]
pub(crate) struct Place {
    root: PathBuf,
    crowd: bool,
}

impl Place {
    /// Covers a directory of the calling process' mount namespace: `at`, or one that none of `needed` lies in.
    pub(crate) fn build(at: Option<&Path>, needed: &[&Path]) -> Outcome<Self> {
        let free = |place: &PathBuf| place.is_dir() && !needed.iter().any(|path| path.starts_with(place));
        let root = match at {
            Some(at) => at.to_owned(),
            None => COVERABLE.into_iter().map(PathBuf::from).find(free).ok_or("no directory to cover with the node")?,
        };
        tmpfs(&root, MsFlags::MS_SHARED)?;
        let place = Self { root, crowd: false };
        for dir in [place.kubelet(), place.source(), place.root.join("crowd")] {
            fs::create_dir_all(dir)?;
        }
        // What the volume is taken from is a shared mount of its own, as the root of a node's disk is.
        tmpfs(&place.source(), MsFlags::MS_SHARED)?;
        Ok(place)
    }

    /// The kubelet's directory.
    pub(crate) fn kubelet(&self) -> PathBuf {
        self.root.join("kubelet")
    }

    /// What hostmount and the direct calls publish.
    pub(crate) fn source(&self) -> PathBuf {
        self.root.join("srv/data")
    }

    /// A file of the node's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The pod whose volume a number names, for one that plays a role. As long as the kubelet's.
    pub(crate) fn pod(role: Role, number: usize) -> String {
        let role = match role {
            Role::Driver => "0b0f7a0e",
            Role::Direct => "1c1f8b1f",
        };
        format!("{role}-6f0c-4b6e-9d1a-{number:012x}")
    }

    /// The directory that a pod's target lies in, which the kubelet makes.
    pub(crate) fn target_parent(&self, pod: &str) -> Outcome<PathBuf> {
        let parent = self.kubelet().join("pods").join(pod).join("volumes/kubernetes.io~csi/data");
        fs::create_dir_all(&parent)?;
        Ok(parent)
    }

    /// The directory of a staged volume: made, without the last part.
    pub(crate) fn staging(&self, driver: &str, volume: &str) -> Outcome<PathBuf> {
        let parent = self.kubelet().join("plugins/kubernetes.io/csi").join(driver).join(volume);
        fs::create_dir_all(&parent)?;
        Ok(parent.join("globalmount"))
    }

    /// Makes mounts that have nothing to do with any volume.
    pub(crate) fn add_crowd(&mut self, mounts: usize) -> Outcome<()> {
        let crowd = self.root.join("crowd");
        tmpfs(&crowd, MsFlags::MS_PRIVATE)?;
        self.crowd = true;
        for number in 0..mounts {
            let dir = crowd.join(number.to_string());
            fs::create_dir(&dir)?;
            mount(Some(&dir), &dir, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        }
        Ok(())
    }
}

/// Who publishes a volume.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    /// A driver.
    Driver,
    /// The bench itself, by system calls.
    Direct,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.crowd {
            // With all that is mounted on it; if it can't be, the namespace's end takes it along.
            let _ = umount2(&self.root.join("crowd"), MntFlags::MNT_DETACH);
        }
        let _ = umount2(&self.source(), MntFlags::MNT_DETACH);
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
    }
}

fn tmpfs(at: &Path, propagation: MsFlags) -> Outcome<()> {
    let what = |e| format!("mounting a tmpfs on {}: {e}", at.display());
    mount(Some("bench"), at, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).map_err(what)?;
    mount(None::<&str>, at, None::<&str>, propagation, None::<&str>).map_err(what)?;
    Ok(())
}
