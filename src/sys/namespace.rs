//! Mount namespaces: whose it is that calls us, and how a thread gets into it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::fchdir;

/// Our own `/proc`, opened before any thread leaves our mount namespace.
#[derive(Debug)]
pub struct Proc(OwnedFd);

impl Proc {
    /// Opens `/proc`.
    ///
    /// # Errors
    /// ENOENT where it isn't mounted.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self(open("/proc", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    /// Opens a file beneath `/proc` for reading.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn open(&self, path: &str) -> Result<OwnedFd, Errno> {
        openat(&self.0, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
    }

    /// The calling thread's mount table as the kernel prints it (proc_pid_mountinfo(5)). Costs about 2 µs a mount:
    /// not for the path of a request.
    ///
    /// # Errors
    /// What open(2) and read(2) say.
    pub fn mountinfo(&self) -> Result<Vec<u8>, Errno> {
        self.read("thread-self/mountinfo")
    }

    /// The content of a file beneath `/proc`.
    ///
    /// # Errors
    /// What open(2) and read(2) say.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::new();
        File::from(self.open(path)?).read_to_end(&mut bytes).map_err(|e| errno_of(&e))?;
        Ok(bytes)
    }

    /// The processes of our PID namespace, by number.
    ///
    /// # Errors
    /// What reading the directory says.
    pub fn processes(&self) -> Result<Vec<i32>, Errno> {
        let mut all = Vec::new();
        for entry in Dir::openat(&self.0, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?.iter() {
            all.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()));
        }
        all.sort_unstable();
        Ok(all)
    }

    /// The mount namespace of a process.
    ///
    /// # Errors
    /// ENOENT: no such process in our PID namespace. EACCES: we may not trace it (ptrace(2), access mode checking).
    pub fn mount_namespace(&self, pid: i32) -> Result<MountNamespace, Errno> {
        MountNamespace::of(self.open(&format!("{pid}/ns/mnt"))?)
    }

    /// The mount namespace of the calling thread.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn thread_mount_namespace(&self) -> Result<MountNamespace, Errno> {
        MountNamespace::of(self.open("thread-self/ns/mnt")?)
    }

    /// The mount namespace of this process.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn own_mount_namespace(&self) -> Result<MountNamespace, Errno> {
        MountNamespace::of(self.open("self/ns/mnt")?)
    }
}

/// An open mount namespace. It stays alive, with its mounts, as long as this is held.
#[derive(Debug)]
pub struct MountNamespace {
    fd: OwnedFd,
    /// The namespace's inode on nsfs: its name, unique while it is held.
    pub inode: u64,
}

impl AsRawFd for MountNamespace {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

impl MountNamespace {
    fn of(fd: OwnedFd) -> Result<Self, Errno> {
        let inode = fstat(&fd)?.st_ino;
        Ok(Self { fd, inode })
    }
}

/// The mount namespace of the process at the other end of a unix socket, and its pid.
///
/// The pid in `SO_PEERCRED` is that of connect(2); by now the process may be gone and its number somebody else's.
/// With `SO_PEERPIDFD` (Linux 6.5) that is excluded: if the process is alive after its namespace was opened by
/// number, the number was its own.
///
/// # Errors
/// ESRCH: the peer isn't in our PID namespace (its pid reads 0), or has ended. Else as [`Proc::mount_namespace`].
pub fn of_peer(proc: &Proc, socket: impl AsFd) -> Result<(MountNamespace, i32), Errno> {
    let socket = socket.as_fd();
    let pid = getsockopt(&socket, sockopt::PeerCredentials)?.pid();
    if pid == 0 {
        return Err(Errno::ESRCH);
    }
    let pidfd = getsockopt(&socket, sockopt::PeerPidfd).ok();
    let namespace = proc.mount_namespace(pid).map_err(|e| if e == Errno::ENOENT { Errno::ESRCH } else { e })?;
    if let Some(pidfd) = pidfd {
        // A pidfd becomes readable when its process ends (pidfd_open(2)).
        let mut watched = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut watched, PollTimeout::ZERO)? != 0 {
            return Err(Errno::ESRCH);
        }
    }
    Ok((namespace, pid))
}

/// Moves the calling thread, and it alone, into a mount namespace, and its working directory onto our own `/proc`.
///
/// `CLONE_FS` is unshared first: setns(2) refuses a thread that shares its root and working directory.
///
/// # Errors
/// EPERM: `CAP_SYS_ADMIN` or `CAP_SYS_CHROOT` is missing.
pub fn enter(proc: &Proc, namespace: &MountNamespace) -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_FS)?;
    setns(&namespace.fd, CloneFlags::CLONE_NEWNS)?;
    fchdir(&proc.0)
}

/// The path of a descriptor for calls that know only paths; see the contract of [`crate::sys`]. Only borrowed: the
/// path names nothing any more once the descriptor is closed.
pub(super) fn fd_path(fd: BorrowedFd<'_>) -> String {
    format!("self/fd/{}", fd.as_raw_fd())
}

/// The errno behind an I/O error.
fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
