//! Directories by descriptor: opened without following a symlink, made, removed.
//!
//! A path that a stranger can write to may change between any two uses (CVE-2021-25741 and the like). So every path is
//! resolved once, into a descriptor, and all that follows uses the descriptor.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use super::namespace::fd_path;

/// What a directory is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// To name it and what lies in it. Its file system needn't answer.
    Name,
    /// To set its attributes too, which then needs no second path. Only with openat2(2). Else as [`Use::Name`].
    Attributes,
}

pub(super) fn flags(wanted: Use) -> OFlag {
    let access = match wanted {
        Use::Name => OFlag::O_PATH,
        Use::Attributes => OFlag::O_RDONLY,
    };
    // O_DIRECTORY also triggers an automount point. Plain O_PATH would open the empty directory beneath it.
    access | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC
}

/// Opens a directory that the administrator named, following symlinks.
///
/// # Errors
/// What open(2) says.
pub fn open_trusted(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, flags(Use::Name), Mode::empty())
}

/// Opens one directory in another, not following a symlink.
///
/// # Errors
/// ELOOP if it is a symlink; ENOENT, ENOTDIR as usual.
pub fn open_child(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    match openat(&parent, name, flags(Use::Name) | OFlag::O_NOFOLLOW, Mode::empty()) {
        // With O_DIRECTORY a symlink is reported as "not a directory". The message should tell the two apart.
        Err(Errno::ENOTDIR) => {
            let any = openat(&parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
            let mode = nix::sys::stat::fstat(&any)?.st_mode;
            Err(if mode & libc::S_IFMT == libc::S_IFLNK { Errno::ELOOP } else { Errno::ENOTDIR })
        }
        other => other,
    }
}

/// Makes a directory. `Ok(false)` if the name exists.
///
/// # Errors
/// What mkdir(2) says, except EEXIST.
pub fn make_dir(parent: impl AsFd, name: &OsStr, mode: u32) -> Result<bool, Errno> {
    match mkdirat(parent, name, Mode::from_bits_truncate(mode)) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Opens one directory in another, not following a symlink, to read it and to change its attributes.
///
/// # Errors
/// ENOTDIR also for a symlink. Else as [`open_child`], and EACCES.
pub fn open_to_change(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, flags(Use::Attributes) | OFlag::O_NOFOLLOW, Mode::empty())
}

/// Sets a directory's mode, whatever the umask. If a parent's set-group-id bit gave the directory another group,
/// chmod(2) would drop that bit from the new mode. So the group is set to ours before.
///
/// # Errors
/// What chown(2) and chmod(2) say.
pub fn set_mode(dir: impl AsFd, mode: u32) -> Result<(), Errno> {
    fchown(&dir, None, Some(Gid::effective()))?;
    fchmod(dir, Mode::from_bits_truncate(mode))
}

/// Sets a directory's owner.
///
/// # Errors
/// What chown(2) says.
pub fn set_owner(dir: impl AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
    fchown(dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// The owner of a directory that this process makes: its effective user and group.
#[must_use]
pub fn own_ids() -> (u32, u32) {
    (Uid::effective().as_raw(), Gid::effective().as_raw())
}

/// Renames something in a directory, to a name that doesn't exist.
///
/// # Errors
/// EEXIST: the name exists. Else what renameat2(2) says.
pub fn rename_new(parent: impl AsFd, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
    let text = |name: &OsStr| CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL);
    let (from, to, dir) = (text(from)?, text(to)?, parent.as_fd().as_raw_fd());
    // SAFETY: both names are NUL-terminated and outlive the call, and `dir` is open.
    let result =
        unsafe { libc::syscall(libc::SYS_renameat2, dir, from.as_ptr(), dir, to.as_ptr(), libc::RENAME_NOREPLACE) };
    Errno::result(result).map(drop)
}

/// Removes an empty directory. `Ok(false)` if there is none. Removes never more than one directory, and no content.
///
/// # Errors
/// ENOTEMPTY, EBUSY (something is mounted there), ENOTDIR.
pub fn remove_dir(parent: impl AsFd, name: &OsStr) -> Result<bool, Errno> {
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether a directory has no entries.
///
/// # Errors
/// What opening and reading the directory says.
pub fn is_empty(parent: impl AsFd, name: &OsStr) -> Result<bool, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut dir = Dir::openat(parent, name, flags, Mode::empty())?;
    for entry in dir.iter() {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sets an extended attribute of a directory (xattr(7)), replacing any older one.
///
/// # Errors
/// ENOTSUP: the file system has none. Else what setxattr(2) says.
pub fn set_attribute(dir: impl AsFd, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    let fd = dir.as_fd().as_raw_fd();
    // SAFETY: name is a NUL-terminated string, and `value` is as long as the length passed.
    let result = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    match Errno::result(result) {
        // fsetxattr(2) doesn't accept an O_PATH descriptor.
        Err(Errno::EBADF) => {}
        result => return result.map(drop),
    }
    let path = CString::new(fd_path(dir.as_fd())).map_err(|_| Errno::EINVAL)?;
    // SAFETY: as above, with a NUL-terminated path.
    let result = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

/// The usual size of an attribute, in bytes. malloc keeps free lists for blocks of this size.
const USUAL_ATTRIBUTE: usize = 1000;

/// An extended attribute of a directory. None if it has no such attribute.
///
/// # Errors
/// ERANGE: it is longer than `max` bytes. Else what getxattr(2) says.
pub fn attribute(dir: impl AsFd, name: &CStr, max: usize) -> Result<Option<Vec<u8>>, Errno> {
    let path = CString::new(fd_path(dir.as_fd())).map_err(|_| Errno::EINVAL)?;
    let mut size = max.min(USUAL_ATTRIBUTE);
    loop {
        let mut value = vec![0; size];
        // SAFETY: path and name are NUL-terminated, and `value` has room for the length passed.
        let found = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        match Errno::result(found) {
            Ok(length) => {
                value.truncate(usize::try_from(length).unwrap_or(0));
                return Ok(Some(value));
            }
            Err(Errno::ERANGE) if size < max => size = max,
            Err(Errno::ENODATA | Errno::ENOTSUP) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether a directory's file system has attributes of a name's kind. It is asked for the attribute, and nothing is changed.
///
/// # Errors
/// What getxattr(2) says.
pub fn has_attributes(dir: impl AsFd, name: &CStr) -> Result<bool, Errno> {
    let path = CString::new(fd_path(dir.as_fd())).map_err(|_| Errno::EINVAL)?;
    // SAFETY: path and name are NUL-terminated, and nothing is written to a value of length zero.
    let found = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) };
    match Errno::result(found) {
        Ok(_) | Err(Errno::ENODATA) => Ok(true),
        Err(Errno::ENOTSUP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Who may write a directory, as its file system says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Its owner.
    pub owner: u32,
    /// Its mode, with the file type bits.
    pub mode: u32,
    /// Its access ACL, encoded as on disk (acl(5)), if it has one.
    pub acl: Option<Vec<u8>>,
}

/// The longest attribute that Linux has (xattr(7)).
const ATTRIBUTE_MAX: usize = 1 << 16;

/// Reads who may write a directory.
///
/// # Errors
/// What fstat(2) and getxattr(2) say.
pub fn permissions(dir: impl AsFd) -> Result<Permissions, Errno> {
    let found = nix::sys::stat::fstat(&dir)?;
    let acl = attribute(&dir, c"system.posix_acl_access", ATTRIBUTE_MAX)?;
    Ok(Permissions { owner: found.st_uid, mode: found.st_mode, acl })
}

/// Removes an extended attribute of a directory, if it exists.
///
/// # Errors
/// What removexattr(2) says.
pub fn remove_attribute(dir: impl AsFd, name: &CStr) -> Result<(), Errno> {
    let path = CString::new(fd_path(dir.as_fd())).map_err(|_| Errno::EINVAL)?;
    // SAFETY: path and name are NUL-terminated.
    let result = unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ENODATA | Errno::ENOTSUP) => Ok(()),
        Err(errno) => Err(errno),
    }
}
