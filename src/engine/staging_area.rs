//! The staging area: a small private tmpfs in the kubelet's mount namespace on which each volume is put together.
//!
//! A copy of the source must get its propagation *before* it is attached beneath the kubelet's shared directory, and
//! must be attached *somewhere* from the start, because a detached tree misses mount events. A private, unbindable
//! mount of our own is that somewhere: nothing propagates out of it, and no recursive bind of the node's tree picks
//! it up. What a killed plugin left there goes away as a whole when the next one opens the staging area.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::mount::{self, Unmount};
use kernel::path;
use mounts::propagation::{Propagation, PropagationKind};
use mounts::{Change, Errno};

use crate::site::Site;

/// The directory's name beneath the plugin's own.
pub const NAME: &str = "workshop";

/// An open staging area.
#[derive(Debug)]
pub struct StagingArea {
    /// The directory that it is mounted on lies in here.
    parent: OwnedFd,
    root: Arc<OwnedFd>,
    place: PathBuf,
}

/// Where a volume is put together: a directory of the staging area that belongs to one thread.
#[derive(Debug)]
pub struct Slot {
    /// The staging area's root: one descriptor for all slots, however many threads there are.
    pub parent: Arc<OwnedFd>,
    /// The slot's name in it.
    pub name: OsString,
    /// The directory of that name, beneath whatever is mounted on it.
    pub ground: OwnedFd,
}

impl StagingArea {
    /// Clears away what is left of an earlier one and mounts a new one, in the calling thread's mount namespace.
    ///
    /// # Errors
    /// What the kernel says, with the path.
    pub fn open(site: &Site, driver: &str) -> Result<Self, (PathBuf, Errno)> {
        let place = site.kubelet_dir.as_path().join("plugins").join(driver).join(NAME);
        Self::open_at(site, driver).map_err(|errno| (place.clone(), errno)).map(|(parent, root)| Self {
            parent,
            root: Arc::new(root),
            place,
        })
    }

    fn open_at(site: &Site, driver: &str) -> Result<(OwnedFd, OwnedFd), Errno> {
        let mut parent = path::open_trusted(site.kubelet_dir.as_path())?;
        for name in ["plugins", driver] {
            path::make_dir(&parent, OsStr::new(name), 0o750)?;
            parent = path::open_child(&parent, OsStr::new(name))?;
        }
        clear(site, &parent, OsStr::new(NAME))?;
        path::make_dir(&parent, OsStr::new(NAME), 0o700)?;
        mount::small_tmpfs(path::open_child(&parent, OsStr::new(NAME))?)?;
        let root = path::open_child(&parent, OsStr::new(NAME))?;
        mount::set_propagation(&root, Propagation::new(PropagationKind::Unbindable, false))?;
        Ok((parent, root))
    }

    /// A slot of its own for each number, empty.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn slot(&self, site: &Site, number: usize) -> Result<Slot, Errno> {
        let name = OsString::from(number.to_string());
        if !path::make_dir(&self.root, &name, 0o700)? {
            clear(site, &self.root, &name)?;
        }
        let ground = path::open_child(&self.root, &name)?;
        Ok(Slot { parent: Arc::clone(&self.root), name, ground })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Unmounts it, with whatever is still in it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn close(self, site: &Site) -> Result<(), Errno> {
        clear(site, &self.parent, OsStr::new(NAME))?;
        path::remove_dir(&self.parent, OsStr::new(NAME)).map(drop)
    }
}

/// Unmounts everything at a name, so that nothing of it reaches anybody's peers.
fn clear(site: &Site, parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    loop {
        let top = match path::open_child(parent, name) {
            Err(Errno::ENOENT) => return Ok(()),
            other => other?,
        };
        if site.calls.mount_id(&site.proc, &top)? == site.calls.mount_id(&site.proc, parent)? {
            return Ok(());
        }
        let private = Change { propagation: Some(PropagationKind::Private), ..Change::default() };
        site.calls.change(&site.proc, &top, private, true)?;
        mount::unmount(parent, name, Unmount::Detach)?;
    }
}

/// Removes the driver's directory among the kubelet's plugins, if it is empty.
pub fn remove_driver_dir(site: &Site, driver: &str) {
    let plugins = site.kubelet_dir.as_path().join("plugins");
    // It may be in use, or never have been: nothing depends on it.
    let _ = path::open_trusted(&plugins).and_then(|parent| path::remove_dir(&parent, OsStr::new(driver)));
}
