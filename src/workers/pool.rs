//! The threads of one mount namespace. Each takes a job, does it and waits for the next.
//!
//! All of them are alike, and so is who leads ([`super::lead`]) while it does a job: each has a place of its own in the staging area.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::site::Site;
use engine::staging_area::{Slot, StagingArea};
use kernel::calls::Calls;
use kernel::mount_events::MountEvents;
use kernel::namespace::{self, MountNamespace};
use mounts::Errno;

use super::job::Work;
use super::lock;
use super::queue::{LINGER, Queue};
use super::source::{PER_SOURCE, Source};

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
        let mut staging_area = lock(&self.pool.staging_area);
        let open = match staging_area.take() {
            Some(open) => open,
            None => StagingArea::open(&self.site)?,
        };
        let slot = open.slot(&self.site, self.number).map_err(|errno| (self.site.layout.staging_area(), errno));
        *staging_area = Some(open);
        slot
    }

    /// Gives the slot back, empty, for the next job. A slot that isn't given back is cleared before its next use.
    pub fn give_back(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// A thread with its own number, which has yet to enter the pool's namespace.
    pub(super) const fn new(site: Arc<Site>, pool: Arc<Pool>, number: usize) -> Self {
        Self { site, number, slot: None, pool }
    }

    /// The calling thread, once it is in a pool's namespace.
    pub(super) fn join(site: &Arc<Site>, pool: &Arc<Pool>) -> Result<Self, Errno> {
        namespace::enter(&site.proc, &pool.namespace)?;
        let number = lock(&pool.queue).take_number();
        Ok(Self::new(Arc::clone(site), Arc::clone(pool), number))
    }

    /// Gives its place in the pool back.
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

/// The threads of one mount namespace.
#[derive(Debug)]
pub struct Pool {
    pub(super) namespace: MountNamespace,
    pub(super) queue: Mutex<Queue>,
    pub(super) staging_area: Mutex<Option<StagingArea>>,
}

impl Pool {
    /// Events of mounts attached in the namespace.
    ///
    /// # Errors
    /// As [`Calls::mount_events`].
    pub fn mount_events(&self, calls: Calls) -> Result<MountEvents, Errno> {
        calls.mount_events(&self.namespace)
    }

    /// Takes down that a call has begun to come on a connection.
    pub fn called_on(&self, connection: u64) {
        lock(&self.queue).called_on(connection, Instant::now());
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

/// Waits awake for a job, but not for long: where one comes at once, that a thread sleeps and is woken costs both sides more than to
/// look. Others who run on this processor go first.
fn linger<'a>(pool: &'a Pool, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
    queue.idle += 1;
    queue.awake += 1;
    let until = Instant::now() + LINGER;
    while !queue.has_jobs() && !queue.closed && Instant::now() < until {
        drop(queue);
        std::thread::yield_now();
        queue = lock(&pool.queue);
    }
    queue.idle -= 1;
    queue.awake -= 1;
    queue
}

/// The loop of a thread: take a job, run it, wait for the next.
pub(super) fn work(thread: &mut MountThread) {
    let pool = Arc::clone(&thread.pool);
    let woken = Arc::new(Condvar::new());
    let mut queue = lock(&pool.queue);
    // Whether it has had work, and not yet waited awake for more.
    let mut stay = false;
    loop {
        if let Some((id, mut work)) = queue.take(Instant::now()) {
            drop(queue);
            thread.run(&mut *work);
            // Before it is told: the next call of who hears of it would find this one beside it, and not be alone.
            pool.ended(id);
            work.tell();
            queue = lock(&pool.queue);
            stay = true;
            continue;
        }
        if queue.closed {
            break;
        }
        if std::mem::take(&mut stay) && queue.has_company() && queue.awake == 0 {
            queue = linger(&pool, queue);
            continue;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Pending, Whose};
    use crate::{NoResult, Threads};
    use allowlist::names::AbsPath;
    use kernel::namespace::Proc;
    use plan::layout::{Layout, Part};

    /// Notes how many jobs run when its result is reported.
    struct Counts(Arc<Pool>, std::sync::mpsc::Sender<usize>);

    impl Work for Counts {
        fn run(&mut self, thread: &mut MountThread) {
            self.1.send(lock(&thread.pool.queue).running()).unwrap();
        }

        fn refuse(&mut self, why: NoResult) {
            unreachable!("{why}");
        }

        fn tell(self: Box<Self>) {
            self.1.send(lock(&self.0.queue).running()).unwrap();
        }
    }

    #[test]
    fn a_job_whose_end_is_told_runs_no_more() {
        let layout = Layout {
            base: AbsPath::parse("/base").unwrap(),
            staging_area: vec!["area".to_owned()],
            target: vec![Part::Workload],
            staging: Vec::new(),
            workloads: "/base".into(),
            files: Vec::new(),
            not_published: Vec::new(),
            copies: None,
        };
        let (proc, layout) = (Arc::new(Proc::new().unwrap()), Arc::new(layout));
        let threads = Threads::new(Site { proc, calls: Calls::probe(), layout });
        let site = threads.site();
        let pool = threads.pool(site.proc.own_mount_namespace().unwrap());
        let (send, counts) = std::sync::mpsc::channel();
        let job = Box::new(Counts(Arc::clone(&pool), send));
        let mut queue = lock(&pool.queue);
        queue.push(Pending { id: 1, source: Source::own("s"), whose: Whose::Call, work: job }, Instant::now());
        queue.alive = 1;
        queue.closed = true;
        drop(queue);
        work(&mut MountThread::new(Arc::clone(site), pool, 0));
        assert_eq!(counts.iter().collect::<Vec<_>>(), [1, 0]);
    }
}
