//! The mount threads: plain threads inside the kubelet's mount namespace, which may hang while nobody waits.
//!
//! A system call on a dead NFS server or a stopped FUSE daemon can hang for ever and can't be interrupted. tokio's
//! blocking pool is no place for that: its threads share our own mount namespace, are bounded, and are waited for at
//! shutdown. Here a caller waits no longer than its deadline. The thread then counts as stuck on its job's source
//! ([`Source`]), and other work gets another thread. `queue` decides which thread does which job; in `call_runtime` a lone
//! call's job is done by the very thread that has read the call.
//!
//! Only the job that needs a thread waits for the thread to start. The thread enters the namespace itself, and refuses
//! the job if it can't. The thread that serves calls goes on meanwhile, and the queue stays unlocked.
#![forbid(unsafe_code)]

mod call_runtime;
pub mod gate;
mod job;
mod leadership;
mod pool;
mod queue;
mod source;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::site::Site;
use engine::{shortage, staging_area};
use kernel::namespace::{self, MountNamespace};
use mounts::Errno;
use pool::work;

use crate::gate::Pass;
pub use call_runtime::{CallRuntime, Serving};
pub use job::Job;
use job::{Progress, Work};
pub use pool::{MountThread, Pool};
use queue::{Pending, Queue, Running, SLOW, Whose};
use source::Level;
pub use source::{Device, PER_DEVICE, PER_ENTRY, PER_SOURCE, Source};
use tally::Full;

/// How long a job waits for a busy thread ([`Queue::is_served`]) before it gets another one. tokio's timer is no finer.
const SERVED: Duration = Duration::from_millis(1);
/// How long a pool's first thread may take to start.
const FIRST: Duration = Duration::from_secs(5);
/// How many mount namespaces to keep: the kubelet's, our own, and some slack for restarts.
const NAMESPACES: usize = 4;
/// Mount calls need little stack. The default of 2 MiB would count against a container's limit once touched.
const STACK: usize = 256 * 1024;

/// Why a job has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoResult {
    /// The deadline passed.
    #[error(
        "no answer within {waited:?}: {source_name} does not respond; the call is given up, and undone when it returns"
    )]
    Deadline {
        /// The time waited.
        waited: Duration,
        /// The name of the job's source.
        source_name: String,
    },
    /// Too many threads hang on the same source already.
    #[error("{stuck} earlier calls still hang on {source_name}: no more are started until one returns")]
    Stuck {
        /// How many.
        stuck: usize,
        /// What hangs.
        source_name: String,
    },
    /// So many threads hang, on any sources, that none is left.
    #[error(
        "{stuck} earlier calls still hang, the most that may: no more are started until one returns; look at the servers of the \
         node's file systems"
    )]
    Exhausted {
        /// How many.
        stuck: usize,
    },
    /// No thread could enter the namespace.
    #[error("no thread could be started in the caller's mount namespace: {0}{advice}", advice = shortage::thread_advice(*.0))]
    NoThread(Errno),
    /// The job panicked before it answered.
    #[error("the job ended without an answer; see the plugin's log")]
    Lost,
}

/// The paths that nobody else may work on meanwhile.
pub(crate) type Passes = [Option<Pass>; 2];

/// Which paths a job locks, and how long.
#[derive(Debug)]
pub struct Hold {
    passes: Passes,
    /// Whether the job may change something from the start.
    at_once: bool,
}

impl Hold {
    /// Locks nothing.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { passes: [None, None], at_once: true }
    }

    /// Locks until the job has ended, even if its caller has gone.
    #[must_use]
    pub const fn to_its_end(passes: Passes) -> Self {
        Self { passes, at_once: true }
    }

    /// The same, but if the caller goes before the job has asked whether it may begin, the lock ends at once: the job
    /// never begins. So a hung source doesn't keep a volume from being unpublished.
    #[must_use]
    pub const fn once_begun(passes: Passes) -> Self {
        Self { passes, at_once: false }
    }
}

/// A job in the queue.
struct Submitted {
    id: u64,
    by: By,
}

/// Which thread does a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The leader of the call runtime.
    Leader,
    /// A thread that already works for its source ([`Queue::is_served`]).
    Busy,
    /// Another one.
    Another,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All mount threads, by namespace. There is usually one namespace: the kubelet's.
#[derive(Debug)]
pub struct Threads {
    site: Arc<Site>,
    /// Oldest first.
    pools: Mutex<Vec<Arc<Pool>>>,
    /// The pool of the latest node call.
    caller: Mutex<Option<Arc<Pool>>>,
}

impl Threads {
    /// No threads yet. They are started when there is work.
    #[must_use]
    pub fn new(site: Site) -> Self {
        Self { site: Arc::new(site), pools: Mutex::default(), caller: Mutex::default() }
    }

    /// The node.
    #[must_use]
    pub fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// The pool of a namespace.
    #[must_use]
    pub fn pool(&self, namespace: MountNamespace) -> Arc<Pool> {
        let mut pools = lock(&self.pools);
        // The inode can't be reused while the pool holds the namespace open.
        if let Some(at) = pools.iter().position(|c| c.namespace.inode == namespace.inode) {
            return Arc::clone(&pools[at]);
        }
        if pools.len() == NAMESPACES {
            // A kubelet may get a new namespace with each restart. The old ones, with all mounts in them, must not be
            // kept alive. A namespace's staging area goes with it.
            let oldest = pools.remove(0);
            lock(&oldest.queue).close();
        }
        pools.push(Arc::new(Pool::new(namespace, namespace::enter)));
        Arc::clone(&pools[pools.len() - 1])
    }

    /// Notes which pool the latest node call came from.
    pub fn called_by(&self, pool: &Arc<Pool>) {
        let mut caller = lock(&self.caller);
        if caller.as_ref().is_none_or(|known| !Arc::ptr_eq(known, pool)) {
            *caller = Some(Arc::clone(pool));
        }
    }

    /// The pool of the latest node call, which is the kubelet's. Before the first call, the pool of the first namespace
    /// seen. (The kubelet makes a call as soon as the plugin registers.)
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Pool>> {
        lock(&self.caller).clone().or_else(|| lock(&self.pools).first().cloned())
    }

    /// Runs a job on a thread of the pool and waits for it until the deadline. `source` is what it may hang on.
    ///
    /// # Errors
    /// [`NoResult`].
    pub fn run<T: Send + 'static>(
        &self,
        pool: &Arc<Pool>,
        source: Source,
        deadline: Duration,
        job: impl Job<T>,
    ) -> impl Future<Output = Result<T, NoResult>> {
        self.run_call(None, pool, (source, Hold::nothing()), deadline, job)
    }

    /// As [`Threads::run`], and locks paths meanwhile. If the call is alone in its runtime, the runtime's leader does
    /// the job.
    ///
    /// # Errors
    /// [`NoResult`].
    pub fn run_call<T: Send + 'static>(
        &self,
        runtime: Option<&CallRuntime>,
        pool: &Arc<Pool>,
        (source, hold): (Source, Hold),
        deadline: Duration,
        job: impl Job<T>,
    ) -> impl Future<Output = Result<T, NoResult>> {
        let progress = Arc::new(if hold.at_once { Progress::begun() } else { Progress::default() });
        // Boxed before the first await, so that this future and all that await it are smaller.
        let (work, mut answer) = job::post(job, &progress);
        async move {
            let until = Instant::now() + deadline;
            let taken_over = runtime.map(CallRuntime::taken_over);
            let name = Arc::clone(&source.name);
            let Submitted { id, by } = self.submit(runtime, pool, source, work)?;
            // Dropped at the deadline, and also when the caller hangs up and the whole call is dropped.
            let mut waiter = Waiter { pool, source: &name, id, progress, passes: hold.passes, waiting: true };
            let mut came = None;
            if let (By::Leader, Some(taken_over)) = (by, taken_over) {
                // While the leader is away, no timer of the runtime expires. And a timer costs a system call.
                tokio::select! {
                    biased;
                    answer = &mut answer => came = Some(answer),
                    () = taken_over => {}
                }
            }
            let mut look_after = if by == By::Busy { SERVED } else { SLOW };
            while came.is_none() {
                let left = until.saturating_duration_since(Instant::now());
                match tokio::time::timeout(left.min(look_after), &mut answer).await {
                    Ok(answer) => came = Some(answer),
                    Err(_) if until <= Instant::now() => break,
                    // Busy threads may be slow by now: then the job gets one of its own. Or all hang: then it fails.
                    Err(_) => self.see_to(pool, id)?,
                }
                look_after = SLOW;
            }
            waiter.waiting = came.is_none();
            drop(waiter);
            match came {
                Some(Ok(result)) => result,
                Some(Err(_)) => Err(NoResult::Lost),
                None => Err(NoResult::Deadline { waited: deadline, source_name: name.to_string() }),
            }
        }
    }

    fn submit(
        &self,
        runtime: Option<&CallRuntime>,
        pool: &Arc<Pool>,
        source: Source,
        work: Box<dyn Work>,
    ) -> Result<Submitted, NoResult> {
        let mut queue = lock(&pool.queue);
        let since = Instant::now();
        queue.admits(&source, false, since).map_err(|full| refused(&source, full))?;
        let id = queue.number();
        let whose = if runtime.is_some() { Whose::Call } else { Whose::Own };
        let mut pending = Pending { id, source, whose, work };
        if let Some(runtime) = runtime
            && queue.is_for_leader(&pending.source)
        {
            let source = pending.source.clone();
            match runtime.give(pool, pending) {
                None => {
                    let passes = Passes::default();
                    queue.begin(id, Running { source, whose, since, given_up: false, led: true, passes });
                    return Ok(Submitted { id, by: By::Leader });
                }
                Some(back) => pending = back,
            }
        }
        let by = if queue.is_served(&pending.source, since) { By::Busy } else { By::Another };
        queue.push(pending, since);
        if by == By::Another {
            self.get_thread(pool, queue, id);
        }
        Ok(Submitted { id, by })
    }

    /// Gets a waiting job a thread of its own, if it may have one. Fails if every thread that it may have hangs.
    fn see_to(&self, pool: &Arc<Pool>, id: u64) -> Result<(), NoResult> {
        let queue = lock(&pool.queue);
        let Some(source) = queue.waits(id) else { return Ok(()) };
        queue.admits(source, true, Instant::now()).map_err(|full| refused(source, full))?;
        if queue.has_room(source) {
            self.get_thread(pool, queue, id);
        }
        Ok(())
    }

    /// Gets a thread for a waiting job: wakes an idle one, and starts a new one if there are too few.
    fn get_thread(&self, pool: &Arc<Pool>, mut queue: MutexGuard<'_, Queue>, job: u64) {
        let number = queue.wants_thread().then(|| queue.expect_thread());
        let idle = queue.next_to_wake();
        // Woken while the queue is locked, the thread would wait for the lock at once.
        drop(queue);
        if let Some(thread) = idle {
            thread.notify_one();
        }
        if let Some(number) = number {
            self.start(pool, number, job);
        }
    }

    /// Starts a thread that the queue expects. If it can't start or can't enter the namespace, the job that it was
    /// started for is refused. Other jobs that counted on it try again after [`SLOW`].
    fn start(&self, pool: &Arc<Pool>, number: usize, job: u64) {
        let mut thread = MountThread::new(Arc::clone(&self.site), Arc::clone(pool), number);
        let main = move || match (thread.pool.enter)(&thread.site.proc, &thread.pool.namespace) {
            Ok(()) => work(&mut thread),
            Err(errno) => thread.pool.start_failed(number, job, errno),
        };
        let started = std::thread::Builder::new().name(format!("mount-{number}")).stack_size(STACK).spawn(main);
        if let Err(error) = started {
            pool.start_failed(number, job, error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw));
        }
    }

    /// Makes sure that the pool has a thread.
    ///
    /// # Errors
    /// [`NoResult`], mostly [`NoResult::NoThread`].
    pub async fn warm(&self, pool: &Arc<Pool>) -> Result<(), NoResult> {
        if lock(&pool.queue).alive > 0 {
            return Ok(());
        }
        self.run(pool, Source::own("first thread"), FIRST, |_, _| ()).await
    }

    /// How many threads hang, by source.
    #[must_use]
    pub fn stuck(&self) -> HashMap<String, usize> {
        let mut all = HashMap::new();
        for pool in lock(&self.pools).iter() {
            for source in lock(&pool.queue).hanging() {
                *all.entry(source.name.to_string()).or_default() += 1;
            }
        }
        all
    }

    /// How many threads hang, if so many that only volumes can be ended.
    #[must_use]
    pub fn exhausted(&self) -> Option<usize> {
        let pool = self.latest()?;
        let now = Instant::now();
        lock(&pool.queue).exhausted(now)
    }

    /// Unmounts the staging areas, removes their parent directory if it is empty, and lets the idle threads end. Hung
    /// threads are left until the process ends.
    pub async fn close(&self) {
        let pools = lock(&self.pools).clone();
        for pool in pools {
            let close = move |thread: &mut MountThread, _: &dyn Fn() -> bool| {
                let closed = thread.pool.take_staging_area().map_or(Ok(()), |area| area.close(&thread.site));
                // The chart's hostPath makes it, but nobody in Kubernetes would remove it.
                staging_area::remove_parent(&thread.site);
                closed
            };
            if let Ok(Err(errno)) = self.run(&pool, Source::own("staging area"), Duration::from_secs(5), close).await {
                let path = self.site.layout.staging_area();
                tracing::warn!(path = %path.display(), %errno, "the staging area could not be unmounted");
            }
            lock(&pool.queue).close();
        }
    }
}

/// Why a job is refused.
fn refused(source: &Source, Full { level, hanging }: Full) -> NoResult {
    match level {
        Level::Everything => NoResult::Exhausted { stuck: hanging },
        _ => NoResult::Stuck { stuck: hanging, source_name: source.hanging(level) },
    }
}

/// A caller that waits for its job. If it goes before the job has ended, the job is told and its thread counts as
/// stuck. A job without a thread is dropped, with what it holds.
struct Waiter<'a> {
    pool: &'a Pool,
    source: &'a str,
    id: u64,
    progress: Arc<Progress>,
    passes: Passes,
    waiting: bool,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if !self.waiting {
            return;
        }
        let now = Instant::now();
        let mut queue = lock(&self.pool.queue);
        let may_go_on = self.progress.give_up();
        if let Some(running) = queue.give_up(self.id, now) {
            if may_go_on {
                running.passes = std::mem::take(&mut self.passes);
            }
            tracing::warn!(source = self.source, "a mount thread is still at work for a call that was given up");
        }
        let dropped = queue.withdraw(self.id, now);
        drop(queue);
        // Dropped without the lock: the job may hold anything that its caller gave it.
        drop(dropped);
    }
}
