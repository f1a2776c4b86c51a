//! Reads the state: opens source and target without following a symlink, and says what is there.
//!
//! Each path is resolved once, into a descriptor that stays open for the whole request. So what was checked is what
//! gets mounted.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use allowlist::config::Missing;
use allowlist::names::{AbsPath, SubPath, Target};
use kernel::path::{self, Use};
use kernel::stat::{self, AtName, Known, Opened, Seen};
use mounts::Errno;
use plan::{Found, Gone, Mounted, Source};

use crate::mount_error::MountError;
use crate::site::Site;

/// A directory of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePath {
    /// The entry's directory.
    pub entry: AbsPath,
    /// The directory beneath it.
    pub sub_path: Option<SubPath>,
    /// What to do if it is missing.
    pub missing: Missing,
}

impl SourcePath {
    /// The whole path.
    #[must_use]
    pub fn full(&self) -> PathBuf {
        self.entry.with(self.sub_path.as_ref())
    }
}

/// An open source.
#[derive(Debug)]
pub struct OpenSource {
    /// The directory.
    pub fd: OwnedFd,
    /// What it is.
    pub source: Source,
}

/// The error for a source that couldn't be opened or made.
pub fn source_error(place: &Path, errno: Errno) -> MountError {
    let path = place.to_owned();
    match errno {
        Errno::ENOENT => MountError::SourceMissing { path },
        Errno::ELOOP | Errno::EXDEV => MountError::SourceSymlink { path },
        Errno::ENOTDIR => MountError::SourceNotDirectory { path },
        e if stat::is_dead(e) => MountError::SourceDead { path, errno },
        _ => MountError::Source { path, errno },
    }
}

/// Opens the source beneath its entry and reads what it is.
///
/// # Errors
/// The `Source…` variants of [`MountError`].
pub fn open_source(site: &Site, wanted: &SourcePath) -> Result<OpenSource, MountError> {
    let open = || {
        let entry = site.calls.open_absolute(wanted.entry.as_path(), Use::Name)?;
        let fd = match &wanted.sub_path {
            Some(sub) => site.calls.open_beneath(&entry, sub.as_path())?,
            None => entry,
        };
        let Seen { dir, mount } = site.calls.seen(&site.proc, &fd)?;
        Ok(OpenSource { fd, source: Source { dir: dir?.id, mount } })
    };
    open().map_err(|errno| source_error(&wanted.full(), errno))
}

/// A target or staging path with its parent open.
#[derive(Debug)]
pub struct TargetPlace {
    /// The directory that it lies in.
    pub parent: OwnedFd,
    /// Its name there.
    pub name: OsString,
}

/// Opens the directory that a target lies in. `None` if it is missing.
///
/// # Errors
/// The `Target…` variants of [`MountError`].
pub fn open_target(site: &Site, target: &Target) -> Result<Option<TargetPlace>, MountError> {
    let fail = |errno| match errno {
        Errno::ELOOP | Errno::EXDEV => MountError::TargetSymlink { path: target.as_path().to_owned() },
        _ => target_error(target, errno),
    };
    let (Some(parent), Some(name)) = (target.relative().parent(), target.relative().file_name()) else {
        return Err(fail(Errno::EINVAL));
    };
    // One call is enough if no symlink leads to the kubelet's directory, the only place where one is allowed. If it
    // fails, the two calls below succeed or find out why.
    if let Some(Ok(parent)) = target.as_path().parent().map(|whole| site.calls.open_absolute(whole, Use::Attributes)) {
        return Ok(Some(TargetPlace { parent, name: name.to_owned() }));
    }
    let kubelet = path::open_trusted(site.layout.base.as_path())
        .map_err(|errno| MountError::KubeletDir { path: site.layout.base.as_path().to_owned(), errno })?;
    let parent = if parent.as_os_str().is_empty() {
        kubelet
    } else {
        match site.calls.open_beneath(&kubelet, parent) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            other => other.map_err(fail)?,
        }
    };
    Ok(Some(TargetPlace { parent, name: name.to_owned() }))
}

/// The error for a target that couldn't be examined.
pub(crate) fn target_error(target: &Target, errno: Errno) -> MountError {
    MountError::Target { path: target.as_path().to_owned(), errno }
}

/// What is at a target, as far as that is known without asking the file system mounted there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A mount.
    Mount,
    /// No mount.
    Unmounted(Found),
}

/// Whether something is mounted at a target, and if not, what is there. Asks only the kubelet's own file system and the
/// kernel, so it can't hang on a volume.
///
/// # Errors
/// The kernel's error.
pub fn look(site: &Site, place: &TargetPlace) -> Result<Look, Errno> {
    Ok(match site.calls.at_name_as_known(&site.proc, &place.parent, &place.name) {
        Ok(Known::Mount) => Look::Mount,
        // Only a mount can answer that.
        Err(errno) if stat::is_dead(errno) => Look::Mount,
        Ok(Known::Directory) => Look::Unmounted(found_directory(place)?),
        Ok(Known::Other { symlink }) => Look::Unmounted(Found::Other { symlink }),
        Err(Errno::ENOENT) => Look::Unmounted(Found::Nothing),
        Err(errno) => return Err(errno),
    })
}

/// What is at a target now.
///
/// # Errors
/// The kernel's error.
pub fn find(site: &Site, place: &TargetPlace) -> Result<Found, Errno> {
    match site.calls.at_name(&site.proc, &place.parent, &place.name) {
        Ok(AtName::Mount(seen)) => Ok(Found::Mount(mounted(seen))),
        Ok(AtName::Directory) => found_directory(place),
        Ok(AtName::Other { symlink }) => Ok(Found::Other { symlink }),
        Err(Errno::ENOENT) => Ok(Found::Nothing),
        Err(errno) => Err(errno),
    }
}

/// What is at a target now, with a descriptor if it is a directory.
///
/// # Errors
/// The kernel's error.
pub fn find_open(site: &Site, place: &TargetPlace) -> Result<(Found, Option<OwnedFd>), Errno> {
    Ok(match site.calls.open_name(&site.proc, &place.parent, &place.name) {
        Ok(Opened::Mount(fd)) => (Found::Mount(mounted(site.calls.seen(&site.proc, &fd)?)), Some(fd)),
        Ok(Opened::Directory(fd)) => (found_directory(place)?, Some(fd)),
        Ok(Opened::Other { symlink }) => (Found::Other { symlink }, None),
        Err(Errno::ENOENT) => (Found::Nothing, None),
        Err(errno) => return Err(errno),
    })
}

fn found_directory(place: &TargetPlace) -> Result<Found, Errno> {
    Ok(Found::Directory { empty: path::is_empty(&place.parent, OsStr::new(&place.name))? })
}

/// The mount whose root was seen.
fn mounted(Seen { dir, mount }: Seen) -> Mounted {
    let dir = match dir {
        Ok(dir) if dir.deleted => Err(Gone::Deleted),
        Ok(dir) => Ok(dir.id),
        Err(errno) => Err(Gone::Dead(errno)),
    };
    Mounted { dir, mount }
}
