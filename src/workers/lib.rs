//! The mount threads: plain threads inside the kubelet's mount namespace, which may hang without anybody waiting.
//!
//! A system call on a dead NFS server or a stopped FUSE daemon can hang for ever and can't be interrupted. tokio's
//! blocking pool is no place for that: its threads share our own mount namespace, are bounded, and are waited for at
//! shutdown. Here a caller waits until its deadline and no longer; the thread is then counted as stuck on what it works for
//! ([`Source`]), and other work gets another thread. Which job gets which thread is decided by `queue`; `lead` has a call that
//! is alone done by the very thread that has read it.
#![forbid(unsafe_code)]

mod crew;
pub mod gate;
mod job;
mod lead;
mod queue;
mod seat;
mod source;
mod tally;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crew::work;
use engine::site::Site;
use engine::{shortage, workshop};
use kernel::namespace::{self, MountNamespace};
use mounts::Errno;

use crate::gate::Pass;
pub use crew::{Crew, MountThread};
pub use job::Job;
use job::{Progress, Work};
pub use lead::{Lead, Serving};
use queue::{Pending, Queue, Running, SLOW, Whose};
use source::Level;
pub use source::{Device, PER_DEVICE, PER_ENTRY, PER_SOURCE, Source};
use tally::Full;

/// How long a job that was left to a thread at work ([`Queue::is_served`]) waits before it gets another one. tokio's clock knows no less.
const SERVED: Duration = Duration::from_millis(1);
/// How many mount namespaces are kept: the kubelet's, our own, and some slack for restarts.
const NAMESPACES: usize = 4;
/// The mount calls need little stack; the default of 2 MiB would count against a container's limit once touched.
const STACK: usize = 256 * 1024;

/// Why a job has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoResult {
    /// The deadline passed.
    #[error(
        "no answer within {waited:?}: {source_name} does not respond; the call is given up, and undone when it returns"
    )]
    Deadline {
        /// How long it was waited.
        waited: Duration,
        /// What the job works for.
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
    /// So many threads hang, on whatever it is, that none is left.
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
    /// The job ended without an answer, by a panic.
    #[error("the job ended without an answer; see the plugin's log")]
    Lost,
}

/// What nobody else may work on meanwhile.
pub(crate) type Passes = [Option<Pass>; 2];

/// What a job keeps others from, and how long.
#[derive(Debug)]
pub struct Hold {
    passes: Passes,
    /// Whether it may change something from its first instant.
    at_once: bool,
}

impl Hold {
    /// Nothing.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { passes: [None, None], at_once: true }
    }

    /// Until it has ended, also if its caller has gone.
    #[must_use]
    pub const fn to_its_end(passes: Passes) -> Self {
        Self { passes, at_once: true }
    }

    /// The same, but if its caller goes before the job has asked whether it may begin, others may at once: it never will. So a
    /// source that hangs doesn't keep a volume from being unpublished.
    #[must_use]
    pub const fn once_begun(passes: Passes) -> Self {
        Self { passes, at_once: false }
    }
}

/// A job that was taken in.
struct Submitted {
    id: u64,
    by: By,
}

/// Who does a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Who leads.
    Leader,
    /// A thread that is at work for its source already ([`Queue::is_served`]).
    Server,
    /// Another one.
    Another,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes a thread, once the queue is unlocked: it would wait for that at once.
fn wake(queue: MutexGuard<'_, Queue>, thread: Option<Arc<Condvar>>) {
    drop(queue);
    if let Some(thread) = thread {
        thread.notify_one();
    }
}

/// All mount threads, by namespace. There is usually one: the kubelet's.
#[derive(Debug)]
pub struct Threads {
    site: Arc<Site>,
    driver: String,
    /// Oldest first.
    crews: Mutex<Vec<Arc<Crew>>>,
    /// The crew of whoever made the latest node call.
    caller: Mutex<Option<Arc<Crew>>>,
}

impl Threads {
    /// No threads yet; they start with the work.
    #[must_use]
    pub fn new(site: Site, driver: &str) -> Self {
        Self { site: Arc::new(site), driver: driver.to_owned(), crews: Mutex::default(), caller: Mutex::default() }
    }

    /// The node.
    #[must_use]
    pub fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// The crew of a namespace.
    #[must_use]
    pub fn crew(&self, namespace: MountNamespace) -> Arc<Crew> {
        let mut crews = lock(&self.crews);
        // The inode can't be reused while the crew holds the namespace open.
        if let Some(at) = crews.iter().position(|c| c.namespace.inode == namespace.inode) {
            return Arc::clone(&crews[at]);
        }
        if crews.len() == NAMESPACES {
            // A kubelet that gets a new namespace with each restart must not keep the old ones, and all that is
            // mounted there, alive. Its workshop goes with the namespace.
            let oldest = crews.remove(0);
            lock(&oldest.queue).close();
        }
        crews.push(Arc::new(Crew {
            namespace,
            driver: self.driver.clone(),
            queue: Mutex::default(),
            workshop: Mutex::default(),
        }));
        Arc::clone(&crews[crews.len() - 1])
    }

    /// Takes down whose the latest node call was.
    pub fn called_by(&self, crew: &Arc<Crew>) {
        let mut caller = lock(&self.caller);
        if caller.as_ref().is_none_or(|known| !Arc::ptr_eq(known, crew)) {
            *caller = Some(Arc::clone(crew));
        }
    }

    /// The crew of whoever made the latest node call, which is the kubelet; before the first one, that of the namespace that
    /// was met first. (The kubelet makes one as soon as the plugin registers.)
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Crew>> {
        lock(&self.caller).clone().or_else(|| lock(&self.crews).first().cloned())
    }

    /// Runs a job on a thread of the crew and waits for it, but not past the deadline. `source` says what the job may hang on.
    ///
    /// # Errors
    /// [`NoResult`].
    pub fn run<T: Send + 'static>(
        &self,
        crew: &Arc<Crew>,
        source: Source,
        deadline: Duration,
        job: impl Job<T>,
    ) -> impl Future<Output = Result<T, NoResult>> {
        self.run_by(None, crew, (source, Hold::nothing()), deadline, job)
    }

    /// As [`Threads::run`], and keeps others from what the job changes. For a call that is served in the runtime of `lead`, whoever
    /// leads does the job if the call is alone.
    ///
    /// # Errors
    /// [`NoResult`].
    pub fn run_by<T: Send + 'static>(
        &self,
        lead: Option<&Lead>,
        crew: &Arc<Crew>,
        (source, hold): (Source, Hold),
        deadline: Duration,
        job: impl Job<T>,
    ) -> impl Future<Output = Result<T, NoResult>> {
        let progress = Arc::new(if hold.at_once { Progress::begun() } else { Progress::default() });
        // Boxed before anything is waited for: what waits for it, and all that waits for that, is the smaller by it.
        let (work, mut answer) = job::post(job, &progress);
        async move {
            let until = Instant::now() + deadline;
            let late = lead.map(Lead::taken_over);
            let name = Arc::clone(&source.name);
            let Submitted { id, by } = self.submit(lead, crew, source, work)?;
            // Dropped at the deadline, but also when the caller hangs up and the whole call is dropped.
            let mut waiter = Waiter { crew, source: &name, id, progress, passes: hold.passes, waiting: true };
            let mut came = None;
            if let (By::Leader, Some(late)) = (by, late) {
                // Nobody could tell of a deadline while the leader is away, and a timer costs a system call.
                tokio::select! {
                    biased;
                    answer = &mut answer => came = Some(answer),
                    () = late => {}
                }
            }
            let mut look_after = if by == By::Server { SERVED } else { SLOW };
            while came.is_none() {
                let left = until.saturating_duration_since(Instant::now());
                match tokio::time::timeout(left.min(look_after), &mut answer).await {
                    Ok(answer) => came = Some(answer),
                    Err(_) if until <= Instant::now() => break,
                    // Threads that were busy when the job came may be slow by now, so that it gets one of its own; or hang.
                    Err(_) => self.see_to(crew, id)?,
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
        lead: Option<&Lead>,
        crew: &Arc<Crew>,
        source: Source,
        work: Box<dyn Work>,
    ) -> Result<Submitted, NoResult> {
        let mut queue = lock(&crew.queue);
        let since = Instant::now();
        queue.admits(&source, false, since).map_err(|full| refused(&source, full))?;
        let id = queue.number();
        let whose = if lead.is_some() { Whose::Call } else { Whose::Own };
        let mut pending = Pending { id, source, whose, work };
        if let Some(lead) = lead
            && queue.is_for_leader(&pending.source)
        {
            let source = pending.source.clone();
            match lead.give(crew, pending) {
                None => {
                    let passes = Passes::default();
                    queue.begin(id, Running { source, whose, since, given_up: false, led: true, passes });
                    return Ok(Submitted { id, by: By::Leader });
                }
                Some(back) => pending = back,
            }
        }
        let served = queue.is_served(&pending.source, since);
        queue.push(pending, since);
        if served {
            return Ok(Submitted { id, by: By::Server });
        }
        if queue.wants_thread()
            && let Err(error) = self.start(crew, &mut queue)
        {
            let back = queue.withdraw(id, since);
            drop(queue);
            drop(back);
            return Err(error);
        }
        let idle = queue.next_to_wake();
        wake(queue, idle);
        Ok(Submitted { id, by: By::Another })
    }

    /// Gets a job that still waits for a thread one of its own, if it may have one. It fails if what it may have hangs.
    fn see_to(&self, crew: &Arc<Crew>, id: u64) -> Result<(), NoResult> {
        let mut queue = lock(&crew.queue);
        let Some(source) = queue.waits(id) else { return Ok(()) };
        queue.admits(source, true, Instant::now()).map_err(|full| refused(source, full))?;
        if !queue.has_room(source) {
            return Ok(());
        }
        if queue.wants_thread() {
            self.start(crew, &mut queue)?;
        }
        let idle = queue.next_to_wake();
        wake(queue, idle);
        Ok(())
    }

    /// Starts a thread and waits until it is in the namespace, so that a namespace which can't be entered is an
    /// error of this call and no job is lost.
    fn start(&self, crew: &Arc<Crew>, queue: &mut Queue) -> Result<(), NoResult> {
        let (entered, wait) = std::sync::mpsc::sync_channel(1);
        let number = queue.take_number();
        let mut thread = MountThread::new(Arc::clone(&self.site), Arc::clone(crew), number);
        let started = std::thread::Builder::new()
            .name(format!("mount-{number}"))
            .stack_size(STACK)
            .spawn(move || {
                let result = namespace::enter(&thread.site.proc, &thread.crew.namespace);
                let ok = result.is_ok();
                // The starter waits for it just below.
                let _ = entered.send(result);
                if ok {
                    work(&mut thread);
                }
            })
            .map_err(|e| e.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw))
            .and_then(|_| wait.recv().unwrap_or(Err(Errno::ECANCELED)));
        match started {
            Ok(()) => queue.alive += 1,
            Err(_) => queue.free_numbers.push(number),
        }
        started.map_err(NoResult::NoThread)
    }

    /// Makes sure that the crew has a thread.
    ///
    /// # Errors
    /// [`NoResult::NoThread`].
    pub fn warm(&self, crew: &Arc<Crew>) -> Result<(), NoResult> {
        let mut queue = lock(&crew.queue);
        if queue.alive == 0 { self.start(crew, &mut queue) } else { Ok(()) }
    }

    /// How many threads hang, by the source that they work for.
    #[must_use]
    pub fn stuck(&self) -> HashMap<String, usize> {
        let mut all = HashMap::new();
        for crew in lock(&self.crews).iter() {
            for source in lock(&crew.queue).hanging() {
                *all.entry(source.name.to_string()).or_default() += 1;
            }
        }
        all
    }

    /// How many threads hang, where they are so many that volumes can end, but nothing else can be done.
    #[must_use]
    pub fn exhausted(&self) -> Option<usize> {
        let crew = self.latest()?;
        let now = Instant::now();
        lock(&crew.queue).exhausted(now)
    }

    /// Unmounts the workshops, removes the driver's directory if nothing is left in it, and lets the idle threads end.
    /// Hung ones are left to the end of the process.
    pub async fn close(&self) {
        let crews = lock(&self.crews).clone();
        for crew in crews {
            let workshop = lock(&crew.workshop).take();
            let driver = crew.driver.clone();
            let close = move |thread: &mut MountThread, _: &dyn Fn() -> bool| {
                let closed = workshop.map_or(Ok(()), |workshop| {
                    let place = workshop.place().to_owned();
                    workshop.close(&thread.site).map_err(|errno| (place, errno))
                });
                // The chart's hostPath makes it, but Kubernetes has nobody who would remove it.
                workshop::remove_driver_dir(&thread.site, &driver);
                closed
            };
            if let Ok(Err((place, errno))) =
                self.run(&crew, Source::own("workshop"), Duration::from_secs(5), close).await
            {
                tracing::warn!(path = %place.display(), %errno, "the workshop could not be unmounted");
            }
            lock(&crew.queue).close();
        }
    }
}

/// Why a job isn't taken in.
fn refused(source: &Source, Full { level, hanging }: Full) -> NoResult {
    match level {
        Level::Everything => NoResult::Exhausted { stuck: hanging },
        _ => NoResult::Stuck { stuck: hanging, source_name: source.hanging(level) },
    }
}

/// A caller that waits for its job. If it goes away before the job has ended, the job is told, and its thread counts
/// as stuck; one that has no thread yet is dropped, with what it holds.
struct Waiter<'a> {
    crew: &'a Crew,
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
        let mut queue = lock(&self.crew.queue);
        let may_go_on = self.progress.give_up();
        if let Some(running) = queue.give_up(self.id, now) {
            if may_go_on {
                running.passes = std::mem::take(&mut self.passes);
            }
            tracing::warn!(source = self.source, "a mount thread is still at work for a call that was given up");
        }
        let dropped = queue.withdraw(self.id, now);
        drop(queue);
        // Not under the lock: it may hold whatever its caller has given it.
        drop(dropped);
    }
}
