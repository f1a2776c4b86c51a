//! Reads the tree: opens source and target without following a symlink, and says what is there.
//!
//! Everything is resolved once, into descriptors that stay open for the whole request, so that what was looked at is
//! what gets mounted.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::config::Missing;
use crate::mount_error::MountError;
use crate::plan::{Found, Gone, Mounted, Source};
use crate::site::Site;
use crate::sys::Errno;
use crate::sys::path::{self, Use};
use crate::sys::stat::{self, AtName, Seen};
use crate::volume::{AbsPath, KubeletPath, SubPath};

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
    made: Vec<(OwnedFd, OsString)>,
}

impl OpenSource {
    /// Takes back the directories that opening it has made, after a failure; those in use by now stay.
    pub fn forget_made(self) {
        for (parent, name) in self.made.into_iter().rev() {
            if path::remove_dir(parent, &name).is_err() {
                break;
            }
        }
    }
}

fn source_error(place: &Path, errno: Errno) -> MountError {
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
    let full = wanted.full();
    let fail = |errno| source_error(&full, errno);
    let mut made = Vec::new();
    let root = || path::open_trusted(Path::new("/"));
    let below = wanted.entry.as_path().strip_prefix("/").unwrap_or(Path::new("."));
    let entry = path::open_absolute(site.calls, wanted.entry.as_path(), Use::Name);
    let opened = or_make(entry, root, below, wanted.missing, &mut made).and_then(|entry| match &wanted.sub_path {
        Some(sub) => {
            let beneath = path::open_beneath(site.calls, &entry, sub.as_path());
            or_make(beneath, || Ok(entry), sub.as_path(), wanted.missing, &mut made)
        }
        None => Ok(entry),
    });
    let read = opened.and_then(|fd| {
        let Seen { dir, mount } = stat::seen(&site.proc, site.calls, &fd)?;
        Ok((fd, Source { dir: dir?.id, mount }))
    });
    match read {
        Ok((fd, source)) => Ok(OpenSource { fd, source, made }),
        Err(errno) => {
            for (parent, name) in made.into_iter().rev() {
                // Only what is still empty goes, and what is in use is somebody's: nothing to report.
                let _ = path::remove_dir(parent, &name);
            }
            Err(fail(errno))
        }
    }
}

/// What was opened, or, if it isn't there and the entry says so, made beneath a root.
fn or_make(
    opened: Result<OwnedFd, Errno>,
    root: impl FnOnce() -> Result<OwnedFd, Errno>,
    relative: &Path,
    missing: Missing,
    made: &mut Vec<(OwnedFd, OsString)>,
) -> Result<OwnedFd, Errno> {
    let (Err(Errno::ENOENT), Missing::Create { mode, uid, gid }) = (&opened, missing) else { return opened };
    let mut at = root()?;
    for name in relative {
        at = match path::open_child(&at, name) {
            Err(Errno::ENOENT) => {
                if path::make_dir(&at, name, mode)? {
                    made.push((at.try_clone().map_err(|_| Errno::EMFILE)?, name.to_owned()));
                    path::set_owner(&at, name, mode, uid, gid)?;
                }
                path::open_child(&at, name)?
            }
            other => other?,
        };
    }
    Ok(at)
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
    let kubelet = path::open_trusted(site.kubelet_dir.as_path())
        .map_err(|errno| MountError::KubeletDir { path: site.kubelet_dir.as_path().to_owned(), errno })?;
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
    let fd = match path::open_child(&place.parent, &place.name) {
        Ok(fd) => fd,
        Err(Errno::ENOENT) => return Ok((Found::Nothing, None)),
        Err(Errno::ELOOP) => return Ok((Found::Other { symlink: true }, None)),
        Err(Errno::ENOTDIR) => return Ok((Found::Other { symlink: false }, None)),
        Err(e) => return Err(e),
    };
    let id = |fd: &OwnedFd| stat::mount_id(&site.proc, site.calls, fd);
    if id(&fd)? == id(&place.parent)? {
        return Ok((found_directory(place)?, Some(fd)));
    }
    let seen = stat::seen(&site.proc, site.calls, &fd)?;
    Ok((Found::Mount(mounted(seen)), Some(fd)))
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
