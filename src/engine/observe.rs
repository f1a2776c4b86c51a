//! Reads the tree: opens source and target without following a symlink, and says what is there.
//!
//! Everything is resolved once, into descriptors that stay open for the whole request, so that what was looked at is
//! what gets mounted.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use allowlist::config::Missing;
use allowlist::names::{AbsPath, KubeletPath, SubPath};
use kernel::path::{self, Use};
use kernel::stat::{self, AtName, Known, Seen};
use mounts::Errno;
use plan::{Found, Gone, Mounted, Source};

use crate::mount_error::MountError;
use crate::site::Site;

/// Which directory of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePath {
    /// The entry's directory.
    pub entry: AbsPath,
    /// The directory beneath it.
    pub sub_path: Option<SubPath>,
    /// What to do if it isn't there.
    pub missing: Missing,
}

impl SourcePath {
    /// The whole path.
    #[must_use]
    pub fn full(&self) -> PathBuf {
        match &self.sub_path {
            Some(sub) => self.entry.as_path().join(sub.as_path()),
            None => self.entry.as_path().to_owned(),
        }
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

/// What a failure to open a source, or to make it, is to the caller.
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
        let entry = path::open_absolute(site.calls, wanted.entry.as_path(), Use::Name)?;
        let fd = match &wanted.sub_path {
            Some(sub) => path::open_beneath(site.calls, &entry, sub.as_path())?,
            None => entry,
        };
        let Seen { dir, mount } = stat::seen(&site.proc, site.calls, &fd)?;
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

/// Opens the directory that a target lies in. `None` if that isn't there.
///
/// # Errors
/// The `Target…` variants of [`MountError`].
pub fn open_target(site: &Site, target: &KubeletPath) -> Result<Option<TargetPlace>, MountError> {
    let fail = |errno| match errno {
        Errno::ELOOP | Errno::EXDEV => MountError::TargetSymlink { path: target.as_path().to_owned() },
        _ => MountError::Target { path: target.as_path().to_owned(), errno },
    };
    let (Some(parent), Some(name)) = (target.relative().parent(), target.relative().file_name()) else {
        return Err(fail(Errno::EINVAL));
    };
    // By one call, which is enough where no symlink leads to the kubelet's directory. Only there one may; so whatever else
    // comes of it is told by the two calls that know where it is.
    if site.calls.openat2
        && let Some(Ok(parent)) =
            target.as_path().parent().map(|whole| path::open_absolute(site.calls, whole, Use::Attributes))
    {
        return Ok(Some(TargetPlace { parent, name: name.to_owned() }));
    }
    let kubelet = path::open_trusted(site.layout.base.as_path())
        .map_err(|errno| MountError::KubeletDir { path: site.layout.base.as_path().to_owned(), errno })?;
    let parent = if parent.as_os_str().is_empty() {
        kubelet
    } else {
        match path::open_beneath(site.calls, &kubelet, parent) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            other => other.map_err(fail)?,
        }
    };
    Ok(Some(TargetPlace { parent, name: name.to_owned() }))
}

/// What is at a target, as far as the file system mounted there needn't be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A mount.
    Mount,
    /// No mount.
    Unmounted(Found),
}

/// Whether something is mounted at a target, and if not, what is there. It asks the kubelet's own file system and the
/// kernel, so it can't hang on a volume.
///
/// # Errors
/// What the kernel says.
pub fn look(site: &Site, place: &TargetPlace) -> Result<Look, Errno> {
    Ok(match stat::at_name_as_known(site.calls, &place.parent, &place.name) {
        Ok(Some(Known::Mount)) => Look::Mount,
        // Who says so can only be a mount.
        Err(errno) if stat::is_dead(errno) => Look::Mount,
        Ok(Some(Known::Directory)) => Look::Unmounted(found_directory(place)?),
        Ok(Some(Known::Other { symlink })) => Look::Unmounted(Found::Other { symlink }),
        Ok(None) => match open_name(site, place)? {
            Named::Unmounted(found, _) => Look::Unmounted(found),
            Named::Mount(_) => Look::Mount,
        },
        Err(Errno::ENOENT) => Look::Unmounted(Found::Nothing),
        Err(errno) => return Err(errno),
    })
}

/// What is at a target now.
///
/// # Errors
/// What the kernel says.
pub fn find(site: &Site, place: &TargetPlace) -> Result<Found, Errno> {
    match stat::at_name(site.calls, &place.parent, &place.name) {
        Ok(Some(AtName::Mount(seen))) => Ok(Found::Mount(mounted(seen))),
        Ok(Some(AtName::Directory)) => found_directory(place),
        Ok(Some(AtName::Other { symlink })) => Ok(Found::Other { symlink }),
        Ok(None) => find_open(site, place).map(|(found, _root)| found),
        Err(Errno::ENOENT) => Ok(Found::Nothing),
        Err(errno) => Err(errno),
    }
}

/// What is at a target now, and the descriptor of it where it is a directory.
///
/// # Errors
/// What the kernel says.
pub fn find_open(site: &Site, place: &TargetPlace) -> Result<(Found, Option<OwnedFd>), Errno> {
    match open_name(site, place)? {
        Named::Unmounted(found, fd) => Ok((found, fd)),
        Named::Mount(fd) => Ok((Found::Mount(mounted(stat::seen(&site.proc, site.calls, &fd)?)), Some(fd))),
    }
}

/// What has a name, opened where it is a directory.
enum Named {
    Unmounted(Found, Option<OwnedFd>),
    Mount(OwnedFd),
}

fn open_name(site: &Site, place: &TargetPlace) -> Result<Named, Errno> {
    let fd = match path::open_child(&place.parent, &place.name) {
        Ok(fd) => fd,
        Err(Errno::ENOENT) => return Ok(Named::Unmounted(Found::Nothing, None)),
        Err(Errno::ELOOP) => return Ok(Named::Unmounted(Found::Other { symlink: true }, None)),
        Err(Errno::ENOTDIR) => return Ok(Named::Unmounted(Found::Other { symlink: false }, None)),
        Err(e) => return Err(e),
    };
    let id = |fd: &OwnedFd| stat::mount_id(&site.proc, site.calls, fd);
    if id(&fd)? == id(&place.parent)? {
        return Ok(Named::Unmounted(found_directory(place)?, Some(fd)));
    }
    Ok(Named::Mount(fd))
}

fn found_directory(place: &TargetPlace) -> Result<Found, Errno> {
    Ok(Found::Directory { empty: path::is_empty(&place.parent, OsStr::new(&place.name))? })
}

/// What the mount is whose root was seen.
fn mounted(Seen { dir, mount }: Seen) -> Mounted {
    let dir = match dir {
        Ok(dir) if dir.deleted => Err(Gone::Deleted),
        Ok(dir) => Ok(dir.id),
        Err(errno) => Err(Gone::Dead(errno)),
    };
    Mounted { dir, mount }
}
