//! Keeps the record of a volume in an extended attribute of its directory, where it can't outlive the volume.
//!
//! A publish writes it on the directory that holds the target (the kubelet's `…/kubernetes.io~csi/NAME`). The kubelet
//! removes that directory with the volume. So the record needs no clean-up and is never stale.

use std::ffi::CStr;
use std::os::fd::AsFd;

use allowlist::names::Target;
use kernel::path;
use mounts::Errno;
use plan::record::Record;

use crate::observe::{self, TargetPlace};
use crate::site::Site;

/// The attribute. Every file system with attributes has the user kind. Only root can reach the directory.
const NAME: &CStr = c"user.hostmount.volume";
/// The longest record: the paths, and the rest.
const MAX: usize = 4 * allowlist::names::PATH_MAX;

impl TargetPlace {
    /// Records a volume beside its target. Returns whether that succeeded. If not, the volume works all the same, but
    /// can't be healed.
    pub fn set_record(&self, record: &Record) -> bool {
        let written = path::set_attribute(&self.parent, NAME, &record.encode());
        match written {
            Ok(()) => {}
            Err(errno @ Errno::ENOTSUP) => {
                tracing::debug!(%errno, "the kubelet's file system takes no extended attributes: the volume cannot be healed");
            }
            Err(errno) => tracing::warn!(
                %errno, entry = record.owner.entry.as_str(),
                "nothing could be noted beside a volume, as where its paths are too long: it cannot be healed, and is lost to its \
                 pod if its entry goes and the kubelet asks for it again"
            ),
        }
        written.is_ok()
    }

    /// Replaces an earlier record completely. If there is no room for the new one, it is written without what is mounted
    /// on the way to the source. If there is still no room, no record is kept.
    pub fn replace_record(&self, record: Record) {
        if !self.set_record(&record) && !self.set_record(&Record { path_mounts: None, ..record }) {
            self.forget_record();
        }
    }

    /// Removes the record after a publish that failed. If that fails, the kubelet removes it with the directory, or the
    /// next publish replaces it.
    pub fn forget_record(&self) {
        if let Err(errno) = path::remove_attribute(&self.parent, NAME) {
            tracing::debug!(%errno, "the record of a volume that is not published stays");
        }
    }

    /// The record beside a target. None if it isn't of a volume to be healed, or can't be parsed.
    ///
    /// # Errors
    /// What getxattr(2) says.
    pub fn record(&self) -> Result<Option<Record>, Errno> {
        Ok(path::attribute(&self.parent, NAME, MAX)?.as_deref().and_then(Record::parse))
    }
}

/// Whether records can be kept in a directory of the kubelet's: whether its file system has attributes of that kind.
///
/// # Errors
/// What getxattr(2) says.
pub fn can_be_kept(dir: impl AsFd) -> Result<bool, Errno> {
    path::has_attributes(dir, NAME)
}

/// The record of the volume at a target path. None too if the path can't be opened, as while it is being removed. Asks
/// only the kubelet's own file system.
#[must_use]
pub fn of(site: &Site, path: &Target) -> Option<Record> {
    observe::open_target(site, path).ok()??.record().ok()?
}
