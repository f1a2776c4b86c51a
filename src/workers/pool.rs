//! The threads of one mount namespace. Each takes a job, does it and waits for the next.
//!
//! All of them are alike, and so is the leader of the call runtime while it does a job. Each has a place of its own in
//! the staging area.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::site::Site;
use engine::staging_area::{Slot, StagingArea};
use kernel::calls::Calls;
use kernel::mount_events::MountEvents;
use kernel::namespace::{self, MountNamespace, Proc};
use mounts::Errno;

use super::job::Work;
use super::queue::{Pending, Queue};
use super::source::{PER_SOURCE, Source};
use super::{NoResult, lock};

/// A thread without work ends after this time, unless it is the last.
const IDLE: Duration = Duration::from_secs(30);

/// The thread of a job, which the job gets.
#[derive(Debug)]
pub struct MountThread {
    /// The node.
    pub site: Arc<Site>,
    number: usize,
    slot: Option<Slot>,
    pub(super) pool: Arc<Pool>,
}

impl MountThread {
    /// The thread's slot in the staging area, which is mounted if it isn't yet.
    ///
    /// # Errors
    /// Where the staging area can't be made, and why.
    pub fn take_slot(&mut self) -> Result<Slot, (PathBuf, Errno)> {
        if let Some(slot) = self.slot.take() {
            return Ok(slot);
        }
        let area = self.pool.staging_area(&self.site)?;
        area.slot(&self.site, self.number).map_err(|errno| (self.site.layout.staging_area(), errno))
    }

    /// Gives the slot back, empty, for the next job. A slot that isn't given back is cleared before its next use.
    pub fn give_back(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// A thread with its own number, which has yet to enter the pool's namespace.
    pub(super) const fn new(site: Arc<Site>, pool: Arc<Pool>, number: usize) -> Self {
        Self { site, number, slot: None, pool }
    }

    /// The calling thread, which enters the pool's namespace.
    pub(super) fn join(site: &Arc<Site>, pool: &Arc<Pool>) -> Result<Self, Errno> {
        namespace::enter(&site.proc, &pool.namespace)?;
        let number = lock(&pool.queue).take_number();
        Ok(Self::new(Arc::clone(site), Arc::clone(pool), number))
    }

    /// Leaves the pool. Its number is free again.
    pub(super) fn leave(self) {
        lock(&self.pool.queue).free_numbers.push(self.number);
    }

    /// Does a job. A panic in the job doesn't end the thread.
    pub(super) fn run(&mut self, work: &mut dyn Work) {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work.run(self))).is_err() {
            self.slot = None;
        }
    }
}

/// The staging area of a pool.
#[derive(Debug, Default)]
enum Area {
    /// It is not mounted.
    #[default]
    Closed,
    /// A thread is mounting it, and the others wait for that thread.
    Opening,
    Open(Arc<StagingArea>),
}

/// The threads of one mount namespace.
#[derive(Debug)]
pub struct Pool {
    pub(super) namespace: MountNamespace,
    pub(super) queue: Mutex<Queue>,
    area: Mutex<Area>,
    /// Told when the area is no longer `Opening`.
    opened: Condvar,
    /// How a thread enters the namespace.
    pub(super) enter: fn(&Proc, &MountNamespace) -> Result<(), Errno>,
}

impl Pool {
    /// A pool without threads, whose threads will enter the namespace by `enter`.
    pub(super) fn new(namespace: MountNamespace, enter: fn(&Proc, &MountNamespace) -> Result<(), Errno>) -> Self {
        Self { namespace, queue: Mutex::default(), area: Mutex::default(), opened: Condvar::new(), enter }
    }

    /// The staging area. It is mounted, without a lock, by the first thread that needs it.
    fn staging_area(&self, site: &Site) -> Result<Arc<StagingArea>, (PathBuf, Errno)> {
        let mut area = lock(&self.area);
        loop {
            match &*area {
                Area::Open(open) => return Ok(Arc::clone(open)),
                Area::Opening => area = self.opened.wait(area).unwrap_or_else(PoisonError::into_inner),
                Area::Closed => break,
            }
        }
        *area = Area::Opening;
        drop(area);
        let mut opening = Opening { pool: self, opened: None };
        let open = Arc::new(StagingArea::open(site)?);
        opening.opened = Some(Arc::clone(&open));
        Ok(open)
    }

    /// Takes the staging area away if it is mounted, to unmount it.
    pub(super) fn take_staging_area(&self) -> Option<Arc<StagingArea>> {
        let mut area = lock(&self.area);
        match std::mem::take(&mut *area) {
            Area::Open(open) => Some(open),
            other => {
                *area = other;
                None
            }
        }
    }

    /// Notes that a thread could not start, and refuses the job that it was started for, unless another thread has
    /// taken that job.
    pub(super) fn start_failed(&self, number: usize, job: u64, why: Errno) {
        let mut queue = lock(&self.queue);
        queue.starting -= 1;
        queue.free_numbers.push(number);
        let waits = queue.withdraw(job, Instant::now());
        drop(queue);
        if let Some(Pending { mut work, .. }) = waits {
            work.refuse(NoResult::NoThread(why));
            work.tell();
        }
    }

    /// Events of mounts attached in the namespace.
    ///
    /// # Errors
    /// As [`Calls::mount_events`].
    pub fn mount_events(&self, calls: Calls) -> Result<MountEvents, Errno> {
        calls.mount_events(&self.namespace)
    }

    /// Notes that a job has ended.
    pub(super) fn ended(&self, id: u64) {
        let ended = lock(&self.queue).end(id, Instant::now());
        // What the job held is dropped here, with the queue unlocked.
        drop(ended);
    }

    /// Whether a source hangs: an abandoned job still runs for it, or as many on its file system as may hang on one
    /// directory.
    #[must_use]
    pub fn hangs_on(&self, source: &Source) -> bool {
        let (directory, file_system) = lock(&self.queue).given_up(source);
        directory > 0 || file_system >= PER_SOURCE
    }
}

/// A thread mounts the staging area. However that ends, the others no longer wait.
struct Opening<'a> {
    pool: &'a Pool,
    opened: Option<Arc<StagingArea>>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        *lock(&self.pool.area) = self.opened.take().map_or(Area::Closed, Area::Open);
        self.pool.opened.notify_all();
    }
}

/// The loop of a thread, once it is in the namespace: take a job, run it, wait for the next.
pub(super) fn work(thread: &mut MountThread) {
    let pool = Arc::clone(&thread.pool);
    let woken = Arc::new(Condvar::new());
    let mut queue = lock(&pool.queue);
    queue.starting -= 1;
    queue.alive += 1;
    loop {
        if let Some((id, mut work)) = queue.take(Instant::now()) {
            drop(queue);
            thread.run(&mut *work);
            // Before its result is sent: the caller's next job must not find this one running.
            pool.ended(id);
            work.tell();
            queue = lock(&pool.queue);
            continue;
        }
        if queue.closed {
            break;
        }
        queue.idle += 1;
        queue.parked.push(Arc::clone(&woken));
        let (after, waited) = woken.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
        queue = after;
        queue.idle -= 1;
        if queue.unpark(&woken) && waited.timed_out() && !queue.has_jobs() && queue.alive > 1 {
            break;
        }
    }
    queue.alive -= 1;
    queue.free_numbers.push(thread.number);
}
