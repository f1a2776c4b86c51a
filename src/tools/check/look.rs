//! What is done on mount threads, in the kubelet's mount namespace.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use allowlist::config::Missing;
use allowlist::names::AbsPath;
use engine::mount_error::MountError;
use engine::observe::{self, SourcePath};
use engine::record;
use engine::site::Site;
use frontend::registration;
use kernel::stat::{self, Freshness};
use kernel::{mount, path};
use mounts::Errno;
use mounts::mountinfo::Table;
use mounts::propagation::PropagationState;

use super::facts::{Directory, DirectoryState, Socket};

/// The state of an entry's directory. It is opened as a publish does, but never created.
pub(super) fn source(site: &Site, at: &AbsPath, table: &Table) -> DirectoryState {
    let wanted = SourcePath { entry: at.clone(), sub_path: None, missing: Missing::Fail };
    match observe::open_source(site, &wanted) {
        Ok(open) => found(site, at.as_path(), &open.fd, open.source.mount.propagation, table),
        Err(MountError::SourceMissing { .. }) => DirectoryState::Missing,
        Err(MountError::SourceSymlink { .. }) => DirectoryState::Symlink(std::fs::canonicalize(at.as_path()).ok()),
        Err(MountError::SourceNotDirectory { .. }) => DirectoryState::NotADirectory,
        Err(MountError::SourceDead { errno, .. }) => DirectoryState::Dead(errno),
        Err(MountError::Source { errno, .. }) => DirectoryState::Refused(errno),
        Err(_) => DirectoryState::Unknown,
    }
}

/// The state of a directory of the kubelet. Symlinks are followed.
pub(super) fn directory(site: &Site, at: &Path, table: &Table) -> DirectoryState {
    let open = || -> Result<(OwnedFd, PropagationState), Errno> {
        let fd = path::open_trusted(at)?;
        stat::directory(&fd, Freshness::Live)?;
        let mount = site.calls.mount(&site.proc, &fd)?;
        Ok((fd, mount.propagation))
    };
    match open() {
        Ok((fd, propagation)) => found(site, at, &fd, propagation, table),
        Err(Errno::ENOENT) => DirectoryState::Missing,
        Err(Errno::ENOTDIR) => DirectoryState::NotADirectory,
        Err(errno) if stat::is_dead(errno) => DirectoryState::Dead(errno),
        Err(errno) => DirectoryState::Refused(errno),
    }
}

fn found(site: &Site, at: &Path, fd: &OwnedFd, propagation: PropagationState, table: &Table) -> DirectoryState {
    let id = stat::mountinfo_id(&site.proc, fd).ok();
    let lies_on = table.mounts.iter().find(|m| Some(m.id) == id);
    let nested = id.map(|id| table.beneath(id)).unwrap_or_default();
    DirectoryState::Directory(Directory {
        mount_point: lies_on.map(|m| m.mount_point.clone()),
        fs_type: lies_on.map(|m| m.fs_type.clone()),
        propagation,
        nested: nested
            .into_iter()
            .filter(|m| m.mount_point.starts_with(at))
            .map(|m| (m.mount_point.clone(), m.propagation))
            .collect(),
    })
}

/// Whether mount(2) is allowed at a directory.
pub(super) fn mount_allowed(at: &Path) -> Option<Result<(), Errno>> {
    path::open_trusted(at).ok().map(mount::is_allowed)
}

/// Whether what a volume shows can be noted in the first of these directories that exists.
pub(super) fn notes(directories: &[PathBuf]) -> Option<bool> {
    let dir = directories.iter().find_map(|path| path::open_trusted(path).ok())?;
    record::can_be_kept(dir).ok()
}

/// Which of these directories exist.
pub(super) fn which_exist(directories: &[&str]) -> Vec<PathBuf> {
    directories.iter().map(PathBuf::from).filter(|path| path.is_dir()).collect()
}

/// The plugin's sockets that exist: registration sockets and `csi.sock`.
pub(super) fn sockets(registry: &Path, own: &Path, driver: &str) -> Vec<(PathBuf, Socket)> {
    let entries = std::fs::read_dir(registry).into_iter().flatten().flatten();
    let is_ours = |name: &str| registration::socket_number(driver, name).is_some();
    let registrations = entries.filter(|e| e.file_name().to_str().is_some_and(is_ours)).map(|e| e.path());
    let mut all: Vec<PathBuf> = registrations.chain([own.join("csi.sock")]).collect();
    all.sort();
    all.into_iter()
        .filter_map(|path| {
            let kind = std::fs::symlink_metadata(&path).ok()?.file_type();
            let found = if !kind.is_socket() {
                Socket::SomethingElse
            } else if UnixStream::connect(&path).is_ok() {
                Socket::Live
            } else {
                Socket::Stale
            };
            Some((path, found))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_our_sockets_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let _live = UnixListener::bind(at("d.x@reg.sock")).unwrap();
        drop(UnixListener::bind(at("d.x@reg-2.sock")).unwrap());
        std::fs::write(at("csi.sock"), "").unwrap();
        for other in ["d.xy@reg.sock", "d.x@reg-a.sock", "d.x@reg.sock.new", "e@reg.sock"] {
            std::fs::write(at(other), "").unwrap();
        }
        let found = sockets(dir.path(), dir.path(), "d.x");
        let expected = [
            (at("csi.sock"), Socket::SomethingElse),
            (at("d.x@reg-2.sock"), Socket::Stale),
            (at("d.x@reg.sock"), Socket::Live),
        ];
        assert_eq!(found, expected);
    }
}
