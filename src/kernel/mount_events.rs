//! Events of mount namespaces: which mounts were attached (fanotify), or only that something changed (poll).
//!
//! fanotify(7) names each mount since Linux 6.15. So on a node where pods come and go all day, only the few mounts that
//! matter wake us, and the table isn't read for the rest. Without it (an older kernel, a seccomp profile, a user
//! namespace), poll(2) on mountinfo reports each change, but not which (fs/proc_namespace.c).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;

use super::namespace::{MountNamespace, Proc};
use super::readiness::register;

// include/uapi/linux/fanotify.h of Linux 6.15, which our crates don't have yet.
const FAN_REPORT_MNT: u32 = 0x4000;
const FAN_MARK_MNTNS: u32 = 0x110;
const FAN_MNT_ATTACH: u64 = 0x0100_0000;
const FAN_Q_OVERFLOW: u64 = 0x4000;
const FAN_EVENT_INFO_TYPE_MNT: u8 = 7;
/// `struct fanotify_event_metadata`: its size and the offsets of its fields, in bytes.
const METADATA: usize = 24;
const MASK: usize = 8;
/// `struct fanotify_event_info_mnt`: a header of type, padding and length, then the id, aligned to its size.
const INFO_HEADER: usize = 4;
const INFO_ID: usize = 8;

/// A fanotify(7) group that reports each mount attached in any of its namespaces. It keeps no namespace alive.
#[derive(Debug)]
pub struct MountGroup(OwnedFd);

impl MountGroup {
    /// A group without namespaces. The kernel queues at most `fs.fanotify.max_queued_events` of its events.
    ///
    /// # Errors
    /// EINVAL: a kernel before 6.15. EPERM: the kernel, or a seccomp profile, allows it only with `CAP_SYS_ADMIN` in
    /// the first user namespace. EMFILE: the user has `fs.fanotify.max_user_groups` groups already.
    pub(super) fn new() -> Result<Self, Errno> {
        let flags = FAN_REPORT_MNT | libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
        // SAFETY: the call takes two integers.
        let group = unsafe { libc::fanotify_init(flags, 0) };
        let group = Errno::result(group)?;
        // SAFETY: the call has just made this descriptor, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(group) }))
    }

    /// Adds a namespace.
    ///
    /// # Errors
    /// What fanotify_mark(2) says.
    pub fn add(&self, namespace: &MountNamespace) -> Result<(), Errno> {
        let mark = libc::FAN_MARK_ADD | FAN_MARK_MNTNS;
        // SAFETY: both descriptors are open, and a null path means the second descriptor itself.
        let marked = unsafe {
            libc::fanotify_mark(self.0.as_raw_fd(), mark, FAN_MNT_ATTACH, namespace.as_raw_fd(), std::ptr::null())
        };
        Errno::result(marked).map(drop)
    }

    /// The events since the last call, in the kernel's order. Never waits.
    ///
    /// # Errors
    /// What read(2) says.
    pub fn read(&self) -> Result<Attached, Errno> {
        let mut all = Attached::default();
        let mut buffer = [0; 16384];
        loop {
            let length = match nix::unistd::read(&self.0, &mut buffer) {
                Err(Errno::EAGAIN) | Ok(0) => return Ok(all),
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            match parse(&buffer[..length]) {
                Changed::Attached(ids) => all.ids.extend(ids),
                Changed::Unknown => all.lost = true,
            }
        }
    }
}

impl AsRawFd for MountGroup {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for MountGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A mount table that can tell whether it has changed.
#[derive(Debug)]
pub struct WatchedTable(OwnedFd);

impl WatchedTable {
    /// The table of the calling thread's namespace, whichever thread asks it later.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn of_thread(proc: &Proc) -> Result<Self, Errno> {
        proc.open("thread-self/mountinfo").map(Self)
    }

    /// Whether anything was mounted, moved or unmounted since the last call, or since it was opened. The cost doesn't
    /// depend on the number of mounts (fs/proc_namespace.c `mounts_poll`).
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn has_changed(&self) -> Result<bool, Errno> {
        Ok(poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLPRI)], PollTimeout::ZERO)? != 0)
    }
}

impl AsFd for WatchedTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for WatchedTable {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// Mounts that were attached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attached {
    /// Their unique ids ([`super::calls::Calls::points_of`]).
    pub ids: Vec<u64>,
    /// Whether events were lost.
    pub lost: bool,
}

/// Reports changes of a mount namespace.
///
/// It doesn't listen between two waits. So publishing a thousand volumes wakes us now and then, not a thousand times.
#[derive(Debug)]
pub enum MountEvents {
    /// By fanotify.
    Named(Arc<MountGroup>),
    /// By poll on mountinfo.
    Unnamed(Polled),
}

/// Two open tables. Registering one with epoll(7) polls it, which clears its change; the other one still reports that.
#[derive(Debug)]
pub struct Polled {
    bell: Arc<WatchedTable>,
    table: WatchedTable,
    /// A change that was seen but not yet reported.
    due: AtomicBool,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Mounts were attached, with these unique ids ([`super::calls::Calls::points_of`]).
    Attached(Vec<u64>),
    /// Something changed.
    Unknown,
}

impl MountEvents {
    /// Events of attached mounts, by id.
    pub(super) fn named(group: MountGroup, namespace: &MountNamespace) -> Result<Self, Errno> {
        group.add(namespace)?;
        Ok(Self::Named(Arc::new(group)))
    }

    /// Changes of any kind in the calling thread's namespace.
    ///
    /// # Errors
    /// As [`WatchedTable::of_thread`].
    pub fn unnamed(proc: &Proc) -> Result<Self, Errno> {
        let (bell, table) = (Arc::new(WatchedTable::of_thread(proc)?), WatchedTable::of_thread(proc)?);
        Ok(Self::Unnamed(Polled { bell, table, due: AtomicBool::new(false) }))
    }

    /// The next change, with all that follow within `settle`: many mounts at once are one change. Dropping the future
    /// loses nothing. It panics outside a tokio runtime.
    ///
    /// # Errors
    /// What epoll_ctl(2), epoll_wait(2) and read(2) say.
    pub async fn next(&self, settle: Duration) -> io::Result<Changed> {
        match self {
            Self::Unnamed(Polled { bell, table, due }) => {
                let bell = register(Arc::clone(bell), Interest::PRIORITY)?;
                if table.has_changed()? {
                    due.store(true, Ordering::Relaxed);
                }
                if !due.load(Ordering::Relaxed) {
                    bell.ready(Interest::PRIORITY).await?.retain_ready();
                    due.store(true, Ordering::Relaxed);
                }
                drop(bell);
                tokio::time::sleep(settle).await;
                table.has_changed()?;
                due.store(false, Ordering::Relaxed);
                Ok(Changed::Unknown)
            }
            Self::Named(group) => loop {
                register(Arc::clone(group), Interest::READABLE)?.readable().await?.retain_ready();
                tokio::time::sleep(settle).await;
                match group.read()? {
                    Attached { lost: true, .. } => return Ok(Changed::Unknown),
                    Attached { ids, .. } if !ids.is_empty() => return Ok(Changed::Attached(ids)),
                    Attached { .. } => {}
                }
            },
        }
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The mounts that a buffer of events names. [`Changed::Unknown`] if events were lost or can't be parsed.
fn parse(mut bytes: &[u8]) -> Changed {
    let mut ids = Vec::new();
    while !bytes.is_empty() {
        let length = number(bytes, 0).map_or(0, u32::from_ne_bytes) as usize;
        let (Some(mask), Some(event)) = (number(bytes, MASK).map(u64::from_ne_bytes), bytes.get(..length)) else {
            return Changed::Unknown;
        };
        if length < METADATA || mask & FAN_Q_OVERFLOW != 0 {
            return Changed::Unknown;
        }
        let mut info = &event[METADATA..];
        while let Some(length) = number(info, 2).map(|n| usize::from(u16::from_ne_bytes(n))) {
            if length < INFO_HEADER || length > info.len() {
                return Changed::Unknown;
            }
            if info[0] == FAN_EVENT_INFO_TYPE_MNT
                && let Some(id) = number(info, INFO_ID).map(u64::from_ne_bytes)
            {
                ids.push(id);
            }
            info = &info[length..];
        }
        bytes = &bytes[length..];
    }
    Changed::Attached(ids)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(mask: u64, id: u64) -> Vec<u8> {
        let mut bytes = 40_u32.to_ne_bytes().to_vec();
        bytes.extend([3, 0, 24, 0]);
        bytes.extend(mask.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend([FAN_EVENT_INFO_TYPE_MNT, 0]);
        bytes.extend(16_u16.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(id.to_ne_bytes());
        bytes
    }

    #[test]
    fn events_name_mounts_and_lost_ones_are_said() {
        assert_eq!(
            parse(&[event(FAN_MNT_ATTACH, 7), event(FAN_MNT_ATTACH, 8)].concat()),
            Changed::Attached(vec![7, 8])
        );
        assert_eq!(parse(&[event(FAN_MNT_ATTACH, 7), event(FAN_Q_OVERFLOW, 0)].concat()), Changed::Unknown);
        assert_eq!(parse(&event(FAN_MNT_ATTACH, 7)[..30]), Changed::Unknown);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
