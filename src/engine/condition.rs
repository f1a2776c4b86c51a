//! How full a published volume is, and whether its directory is alive.

use std::os::fd::OwnedFd;

use allowlist::names::Target;
use kernel::stat::{self, Usage};
use mounts::Errno;
use plan::{Found, Gone, Mounted};

use crate::mount_error::MountError;
use crate::observe::{self, SourcePath, target_error};
use crate::site::Site;

fn published(site: &Site, path: &Target) -> Result<(Mounted, OwnedFd), MountError> {
    let not_published = || MountError::NotPublished { path: path.as_path().to_owned() };
    let target = observe::open_target(site, path)?.ok_or_else(not_published)?;
    match observe::find_open(site, &target) {
        Ok((Found::Mount(mounted), Some(root))) => Ok((mounted, root)),
        // It was unpublished meanwhile: the descriptor's mount is in no namespace any more.
        Ok(_) | Err(Errno::ENOENT) => Err(not_published()),
        Err(errno) => Err(target_error(path, errno)),
    }
}

/// How full a published volume is.
///
/// # Errors
/// [`MountError::NotPublished`], [`MountError::VolumeDead`].
pub fn usage(site: &Site, path: &Target) -> Result<Usage, MountError> {
    let (mounted, root) = published(site, path)?;
    let dead = |errno| MountError::VolumeDead { path: path.as_path().to_owned(), errno };
    if let Err(Gone::Dead(errno)) = mounted.dir {
        return Err(dead(errno));
    }
    stat::usage(root).map_err(dead)
}

/// What is wrong with a volume's source, if anything.
///
/// # Errors
/// [`MountError`], except for a source that is dead or was removed.
pub fn source_health(site: &Site, source: &SourcePath) -> Result<Option<Gone>, MountError> {
    match observe::open_source(site, source) {
        Ok(_) => Ok(None),
        Err(MountError::SourceDead { errno, .. }) => Ok(Some(Gone::Dead(errno))),
        Err(MountError::SourceMissing { .. }) => Ok(Some(Gone::Deleted)),
        Err(error) => Err(error),
    }
}

/// What is wrong with a published volume, if anything.
///
/// # Errors
/// [`MountError::NotPublished`].
pub fn health(site: &Site, path: &Target) -> Result<Option<Gone>, MountError> {
    published(site, path).map(|(mounted, _)| mounted.dir.err())
}
