//! The plugin's unix socket. It is private from the start; a stale socket is replaced, and ours is removed at the end.

use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};

/// The maximum length of a path in bytes, without the closing NUL (unix(7), `sun_path`).
pub(crate) const PATH_MAX: usize = 107;
/// Why a socket can't be created.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The endpoint isn't `unix://` and an absolute path.
    #[error("the endpoint {0:?} is not a unix socket: write unix:///path/to/csi.sock")]
    Endpoint(String),
    /// The path is longer than the kernel allows.
    #[error("the socket path {} has {} bytes, over the limit of {}", .0.display(), .0.as_os_str().len(), PATH_MAX)]
    TooLong(PathBuf),
    /// Another process serves on it.
    #[error("another process serves on {} already: stop it first, or choose another --endpoint", .0.display())]
    InUse(PathBuf),
    /// The path exists and is not a socket.
    #[error("{} exists and is not a socket: remove it, or choose another --endpoint", .0.display())]
    NotASocket(PathBuf),
    /// A system call failed.
    #[error("the socket {} cannot be made: {error}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
}

/// A listening socket. Dropping it removes the socket's file, if that is still ours.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    inode: u64,
}

/// The path in an endpoint: `unix:///path`, `unix:/path` or the bare path.
///
/// # Errors
/// [`SocketError::Endpoint`].
pub fn path_of(endpoint: &str) -> Result<PathBuf, SocketError> {
    let path = endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
    if path.starts_with('/') { Ok(path.into()) } else { Err(SocketError::Endpoint(endpoint.to_owned())) }
}

/// Binds a socket that only its owner may connect to.
///
/// The mode is set before the socket has a name, and bind(2) applies it to the file (unix(7); net/unix, unix_bind_bsd).
/// So others can never connect. Binding under another name and renaming would work too. But the kubelet logs an error
/// for each such name in its registration directory.
///
/// # Errors
/// [`SocketError`].
pub fn bind(path: &Path) -> Result<(UnixListener, Socket), SocketError> {
    if path.as_os_str().len() > PATH_MAX {
        return Err(SocketError::TooLong(path.to_owned()));
    }
    let io = |error| SocketError::Io { path: path.to_owned(), error };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        // A stale socket refuses connections. If one accepts them, a process serves it.
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(SocketError::InUse(path.to_owned())),
        Ok(_) => std::fs::remove_file(path).map_err(io)?,
        Err(_) => {}
    }
    let make = || -> io::Result<(UnixListener, u64)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        fchmod(&fd, Mode::from_bits_truncate(0o600))?;
        nix::sys::socket::bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        let inode = std::fs::symlink_metadata(path)?.st_ino();
        nix::sys::socket::listen(&fd, Backlog::MAXCONN)?;
        Ok((UnixListener::from(fd), inode))
    };
    let (listener, inode) = make().map_err(io)?;
    Ok((listener, Socket { path: path.to_owned(), inode }))
}

/// Removes a socket that no process serves. Anything else stays.
pub fn remove_stale(path: &Path) {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        // If it can't be removed, it does no harm.
        let _ = std::fs::remove_file(path);
    }
}

impl Socket {
    /// Whether the file still exists and is the one that was bound.
    #[must_use]
    pub fn is_there(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.st_ino() == self.inode)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_there() {
            // If the file can't be removed, the next start replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_stale_socket_is_replaced_and_ours_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("csi.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (_listener, socket) = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_socket_and_a_file_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("csi.sock");
        let _first = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(SocketError::InUse(_))));
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(bind(&file), Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read(&file).unwrap(), b"x");
    }

    #[test]
    fn another_s_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("csi.sock");
        let (_listener, socket) = bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        // Keep the old inode's number in use, so that the new file can't get it.
        let _other = UnixListener::bind(dir.path().join("other")).unwrap();
        let _new = UnixListener::bind(&path).unwrap();
        let ours = std::fs::symlink_metadata(&path).unwrap().st_ino() == socket.inode;
        drop(socket);
        assert_eq!(path.exists(), !ours);
    }

    #[test]
    fn endpoints_are_unix_sockets() {
        for (endpoint, path) in [("unix:///a/b", "/a/b"), ("unix:/a/b", "/a/b"), ("/a/b", "/a/b")] {
            assert_eq!(path_of(endpoint).unwrap(), Path::new(path));
        }
        for endpoint in ["tcp://localhost:1", "unix://a/b", ""] {
            assert!(path_of(endpoint).is_err(), "{endpoint}");
        }
        let long = PathBuf::from(format!("/{}", "x".repeat(120)));
        assert!(matches!(bind(&long), Err(SocketError::TooLong(_))));
    }
}
