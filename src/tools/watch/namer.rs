//! Queries each mount as soon as the kernel reports it, on a thread of its own, because the mount may soon be gone.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::calls::Calls;
use kernel::mount_events::MountGroup;
use kernel::namespace::MountNamespace;
use mounts::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::ledger::Named;

/// How many mounts are kept until they are taken. After that the kernel's queue fills up, and reports the overflow.
const KEPT: usize = 100_000;

/// The reports that have come.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// The mounts, in the kernel's order.
    pub(super) named: Vec<Named>,
    /// How many were gone before they could be queried.
    pub(super) nameless: usize,
    /// Whether the kernel has lost events.
    pub(super) lost: bool,
}

#[derive(Debug)]
struct Shared {
    calls: Calls,
    group: MountGroup,
    /// The namespaces by inode and by the id for statmount(2).
    namespaces: Vec<(u64, u64)>,
    /// The index of the namespace in which the last mount was found.
    last: usize,
    inbox: Inbox,
}

/// Queries mounts on a thread.
#[derive(Debug)]
pub(super) struct Namer {
    shared: Arc<Mutex<Shared>>,
    /// Readable while the inbox has something.
    pub(super) came: Arc<EventFd>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Namer {
    /// Starts the thread, which lives as long as the process.
    ///
    /// # Errors
    /// As [`Calls::mount_group`]; EAGAIN if no thread can be started.
    pub(super) fn start(calls: Calls) -> Result<Self, Errno> {
        let group = calls.mount_group()?;
        let ready = group.as_fd().try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
        let came = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let shared = Shared { calls, group, namespaces: Vec::new(), last: 0, inbox: Inbox::default() };
        let namer = Self { shared: Arc::new(Mutex::new(shared)), came };
        let (shared, came) = (Arc::clone(&namer.shared), Arc::clone(&namer.came));
        let started =
            std::thread::Builder::new().name("mount names".to_owned()).spawn(move || work(&shared, &came, &ready));
        started.map(|_| namer).map_err(|_| Errno::EAGAIN)
    }

    /// Adds a namespace.
    ///
    /// # Errors
    /// As [`MountGroup::add`] and [`MountNamespace::id`].
    pub(super) fn add(&self, namespace: &MountNamespace) -> Result<(), Errno> {
        let mut shared = lock(&self.shared);
        let id = namespace.id()?;
        shared.namespaces.push((namespace.inode, id));
        shared.group.add(namespace)
    }

    /// Forgets one that has ended.
    pub(super) fn forget(&self, inode: u64) {
        lock(&self.shared).namespaces.retain(|(of, _)| *of != inode);
    }

    /// Takes all reports, including those that the thread has not read yet.
    pub(super) fn take(&self) -> Inbox {
        let mut shared = lock(&self.shared);
        shared.drain();
        // It may be unset already.
        let _ = self.came.read();
        std::mem::take(&mut shared.inbox)
    }
}

fn work(shared: &Mutex<Shared>, came: &EventFd, ready: &OwnedFd) {
    loop {
        match poll(&mut [PollFd::new(ready.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        let mut shared = lock(shared);
        if shared.inbox.named.len() < KEPT {
            shared.drain();
        } else {
            drop(shared);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        // Full after 2^64 of them.
        let _ = came.write(1);
    }
}

impl Shared {
    /// Reads the kernel's reports and queries each mount.
    fn drain(&mut self) {
        let Ok(attached) = self.group.read() else {
            self.inbox.lost = true;
            return;
        };
        self.inbox.lost |= attached.lost;
        for unique in attached.ids {
            let count = self.namespaces.len();
            let mut order = (0..count).map(|n| (n + self.last) % count);
            let found = order.find_map(|at| Some((at, self.calls.mount_in(unique, self.namespaces[at].1).ok()?)));
            match found {
                Some((at, mount)) => {
                    self.last = at;
                    self.inbox.named.push(Named { namespace: self.namespaces[at].0, unique, mount });
                }
                None => self.inbox.nameless += 1,
            }
        }
    }
}
