//! Mount namespaces: finds the caller's, and moves a thread into it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
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
    /// ENOENT: it isn't mounted.
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

    /// The calling thread's mount table as the kernel prints it (proc_pid_mountinfo(5)). Costs about 2 µs a mount, too
    /// much for every request.
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

    /// At most the first `max` bytes of a file beneath `/proc`.
    ///
    /// # Errors
    /// What open(2) and read(2) say.
    pub fn read_start(&self, path: &str, max: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; max];
        let length = File::from(self.open(path)?).read(&mut bytes).map_err(|e| errno_of(&e))?;
        bytes.truncate(length);
        Ok(bytes)
    }

    /// A mount table, and whether something was mounted or unmounted while it was read.
    ///
    /// The kernel gives out a table in pieces of a page and releases its lock in between. So a table that changes
    /// meanwhile may be torn. poll(2) tells whether it has changed since it was opened (proc_pid_mounts(5)).
    ///
    /// # Errors
    /// ENOENT, ESRCH, EINVAL: the process has ended. Else what open(2) and read(2) say.
    pub fn table(&self, path: &str) -> Result<(Vec<u8>, bool), Errno> {
        let mut file = File::from(self.open(path)?);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| errno_of(&e))?;
        let mut watched = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        let changed = poll(&mut watched, PollTimeout::ZERO)? != 0;
        Ok((bytes, changed))
    }

    /// The target of a symbolic link beneath `/proc`. A link to a file is not followed, so no file system is asked.
    ///
    /// # Errors
    /// What readlink(2) says; EACCES for the links of a process that we may not trace.
    pub fn link(&self, path: &str) -> Result<OsString, Errno> {
        readlinkat(&self.0, path)
    }

    /// The names in a directory beneath `/proc`. `PID/root/...` is a directory as that process sees it.
    ///
    /// # Errors
    /// What open(2) and getdents(2) say.
    pub fn names(&self, path: &str) -> Result<Vec<OsString>, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut names = Vec::new();
        for entry in Dir::openat(&self.0, path, flags, Mode::empty())?.iter() {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// A descriptor of a process. It becomes readable when the process ends (pidfd_open(2), Linux 5.3).
    ///
    /// # Errors
    /// ESRCH: no process has that number. ENOSYS: the kernel is older.
    pub fn process(pid: i32) -> Result<OwnedFd, Errno> {
        // SAFETY: the call takes two integers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0) };
        let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
        // SAFETY: the call has just made this descriptor, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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

/// An open mount namespace. It lives, with its mounts, as long as this is held.
#[derive(Debug)]
pub struct MountNamespace {
    fd: OwnedFd,
    /// The namespace's inode on nsfs: identifies it, unique while it is held.
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

    /// The inode of the user namespace that owns it (`NS_GET_USERNS`, ioctl_ns(2)).
    ///
    /// # Errors
    /// EPERM: that user namespace is neither ours nor beneath ours.
    pub fn user_namespace(&self) -> Result<u64, Errno> {
        let owner = self.ask(libc::NS_GET_USERNS, std::ptr::null_mut())?;
        Ok(fstat(&owner)?.st_ino)
    }

    /// How many mounts it has, including those that no path leads to (`NS_MNT_GET_INFO`, Linux 6.12).
    ///
    /// # Errors
    /// ENOTTY: the kernel is older.
    pub fn count(&self) -> Result<u32, Errno> {
        self.info().map(|info| info.nr_mounts)
    }

    /// Its id for statmount(2), which is never reused (`NS_MNT_GET_INFO`, Linux 6.12).
    ///
    /// # Errors
    /// ENOTTY: the kernel is older.
    pub fn id(&self) -> Result<u64, Errno> {
        self.info().map(|info| info.mnt_ns_id)
    }

    fn info(&self) -> Result<libc::mnt_ns_info, Errno> {
        let mut info = libc::mnt_ns_info { size: 0, nr_mounts: 0, mnt_ns_id: 0 };
        // SAFETY: the descriptor is open and `info` has the size that the request's number states.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::NS_MNT_GET_INFO, &raw mut info) };
        Errno::result(result).map(|_| info)
    }

    /// The next mount namespace by time of creation, whoever holds it (`NS_MNT_GET_NEXT`, Linux 6.12). With
    /// `backwards`, the previous one. Those that we have no `CAP_SYS_ADMIN` over are skipped.
    ///
    /// # Errors
    /// ENOTTY: the kernel is older. EPERM: later kernels want `CAP_SYS_ADMIN` in the first user namespace.
    pub fn neighbour(&self, backwards: bool) -> Result<Option<Self>, Errno> {
        let mut info = libc::mnt_ns_info { size: 0, nr_mounts: 0, mnt_ns_id: 0 };
        let request = if backwards { libc::NS_MNT_GET_PREV } else { libc::NS_MNT_GET_NEXT };
        match self.ask(request, &raw mut info) {
            Ok(fd) => Self::of(fd).map(Some),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Makes a request that is answered by a descriptor. `info` is null for requests without an argument.
    fn ask(&self, request: libc::Ioctl, info: *mut libc::mnt_ns_info) -> Result<OwnedFd, Errno> {
        // SAFETY: the descriptor is open; `info` is what the callers above pass: a live structure of the size that
        // the request's number states, or null for the request that has no argument.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), request, info) };
        let fd = Errno::result(result)?;
        // SAFETY: the call has just made this descriptor, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// The mount namespace of the process at the other end of a unix socket, and its pid.
///
/// `SO_PEERCRED` has the pid of connect(2). By now the process may be gone and its number reused. `SO_PEERPIDFD` (Linux
/// 6.5) rules that out: if the process is alive after its namespace was opened by number, the number was its own.
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

/// Moves only the calling thread into a mount namespace, and its working directory to our own `/proc/self/fd`.
///
/// `CLONE_FS` is unshared first: setns(2) refuses a thread that shares its root and working directory.
///
/// # Errors
/// EPERM: `CAP_SYS_ADMIN` or `CAP_SYS_CHROOT` is missing.
pub fn enter(proc: &Proc, namespace: &MountNamespace) -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_FS)?;
    setns(&namespace.fd, CloneFlags::CLONE_NEWNS)?;
    fchdir(proc.open("self/fd")?)
}

/// The path of a descriptor, for calls that take only paths; see the contract of [`crate`]. It borrows the descriptor,
/// because the path is valid only while that is open.
pub(super) fn fd_path(fd: BorrowedFd<'_>) -> String {
    fd.as_raw_fd().to_string()
}

/// The errno behind an I/O error.
fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
