//! The staging area: a small private tmpfs in the kubelet's mount namespace, on which each volume is put together.
//!
//! A copy of the source must get its propagation *before* it is attached beneath the kubelet's shared directory. It
//! must be attached *somewhere* from the start, because a detached tree misses mount events. So it is attached to a
//! private, unbindable mount of our own: nothing propagates out of it, and no recursive bind of the node's tree
//! includes it. What a killed plugin left there goes away as a whole when the next one opens the staging area.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use kernel::mount::{self, Unmount};
use kernel::path;
use mounts::propagation::{Propagation, PropagationKind};
use mounts::{Change, Errno};

use crate::site::Site;

/// An open staging area.
#[derive(Debug)]
pub struct StagingArea {
    /// Its name in `parent`.
    name: OsString,
    /// The directory that holds its mount point.
    parent: OwnedFd,
    root: Arc<OwnedFd>,
}

/// Where a volume is put together: a directory of the staging area that belongs to one thread.
#[derive(Debug)]
pub struct Slot {
    /// The staging area's root. All slots share one descriptor, however many threads there are.
    pub parent: Arc<OwnedFd>,
    /// The slot's name in the staging area.
    pub name: OsString,
    /// The directory itself, beneath whatever is mounted on it.
    pub ground: OwnedFd,
}

impl StagingArea {
    /// Removes what is left of an earlier one and mounts a new one, in the calling thread's mount namespace.
    ///
    /// # Errors
    /// The kernel's error, with the path.
    pub fn open(site: &Site) -> Result<Self, (PathBuf, Errno)> {
        Self::open_at(site).map_err(|errno| (site.layout.staging_area(), errno))
    }

    fn open_at(site: &Site) -> Result<Self, Errno> {
        let (name, above) = site.layout.staging_area.split_last().ok_or(Errno::EINVAL)?;
        let name = OsString::from(name);
        let mut parent = path::open_trusted(site.layout.base.as_path())?;
        for name in above {
            path::make_dir(&parent, OsStr::new(name), 0o750)?;
            parent = path::open_child(&parent, OsStr::new(name))?;
        }
        clear(site, &parent, &name)?;
        path::make_dir(&parent, &name, 0o700)?;
        mount::small_tmpfs(path::open_child(&parent, &name)?)?;
        let root = path::open_child(&parent, &name)?;
        mount::set_propagation(&root, Propagation::new(PropagationKind::Unbindable, false))?;
        Ok(Self { name, parent, root: Arc::new(root) })
    }

    /// The empty slot of this number.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn slot(&self, site: &Site, number: usize) -> Result<Slot, Errno> {
        let name = OsString::from(number.to_string());
        if !path::make_dir(&self.root, &name, 0o700)? {
            clear(site, &self.root, &name)?;
        }
        let ground = path::open_child(&self.root, &name)?;
        Ok(Slot { parent: Arc::clone(&self.root), name, ground })
    }

    /// Unmounts it, with all that is in it.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn close(&self, site: &Site) -> Result<(), Errno> {
        clear(site, &self.parent, &self.name)?;
        path::remove_dir(&self.parent, &self.name).map(drop)
    }
}

/// Unmounts everything at a name. Each tree is made private first, so that nothing propagates.
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

/// Removes the staging area's parent directory, if it is ours and empty.
pub fn remove_parent(site: &Site) {
    // The first directory beneath the base is not ours.
    let [_, .., _, _] = site.layout.staging_area.as_slice() else { return };
    let area = site.layout.staging_area();
    let Some((parent, ours)) = area.parent().and_then(|ours| Some((ours.parent()?, ours.file_name()?))) else { return };
    // It may be in use, or may never have existed. Nothing depends on this.
    let _ = path::open_trusted(parent).and_then(|parent| path::remove_dir(&parent, ours));
}
