//! Keeps the record of a volume where it can't outlive the volume: in an extended attribute of its directory.
//!
//! A publish writes it on the directory in which the target lies (the kubelet's `…/kubernetes.io~csi/NAME`). The kubelet removes
//! that directory with the volume, and the record goes with it: nothing to clean up, nothing that could say what isn't so.

use std::ffi::CStr;

use allowlist::names::Target;
use kernel::path;
use mounts::Errno;
use plan::record::Record;

use crate::observe::{self, TargetPlace};
use crate::site::Site;

/// The attribute: of the user kind, which every file system with attributes has. Only root comes to the directory.
const NAME: &CStr = c"user.hostmount.volume";
/// The longest one: the paths, and the rest.
const MAX: usize = 4 * allowlist::names::PATH_MAX;

impl TargetPlace {
    /// Records a volume beside its target; whether that could be done. Where not, the volume is good all the same; it can't be
    /// healed.
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

    /// The same in the place of an earlier record, of which nothing may stay: where there is no room for all of it, without what is
    /// mounted on the way to the source, and else not at all.
    pub fn replace_record(&self, record: Record) {
        if !self.set_record(&record) && !self.set_record(&Record { path_mounts: None, ..record }) {
            self.forget_record();
        }
    }

    /// Takes the record away, after a publish that failed. Where that can't be done it is the kubelet's, which removes the
    /// directory, or the next publish's, which records anew.
    pub fn forget_record(&self) {
        if let Err(errno) = path::remove_attribute(&self.parent, NAME) {
            tracing::debug!(%errno, "the record of a volume that is not published stays");
        }
    }

    /// The record beside a target; none if it isn't of a volume that is to be healed, or can't be understood.
    ///
    /// # Errors
    /// What getxattr(2) says.
    pub fn record(&self) -> Result<Option<Record>, Errno> {
        Ok(path::attribute(&self.parent, NAME, MAX)?.as_deref().and_then(Record::parse))
    }
}

/// The record of the volume at a target path; none too where that can't be opened, as while it goes away. It asks
/// nobody but the kubelet's own file system.
#[must_use]
pub fn of(site: &Site, path: &Target) -> Option<Record> {
    observe::open_target(site, path).ok()??.record().ok()?
}
