//! The mount threads: plain threads inside the kubelet's mount namespace, which may hang without anybody waiting.
//!
//! A system call on a dead NFS server or a stopped FUSE daemon can hang for ever and can't be interrupted. tokio's
//! blocking pool is no place for that: its threads share our own mount namespace, are bounded, and are waited for at
//! shutdown. Here a caller waits until its deadline and no longer; the thread is then counted as stuck under the
//! name of the source that it works for, and other work gets another thread. Which job gets which thread is decided by
//! `queue`; `lead` has a call that is alone done by the very thread that has read it.

mod crew;
mod job;
mod lead;
mod queue;
mod seat;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::shortage;
use crate::site::Site;
use crate::sys::Errno;
use crate::sys::namespace::{self, MountNamespace};
use crate::workshop;
use crew::work;
pub use crew::{Crew, MountThread};
pub use job::Job;
use job::Work;
pub use lead::{Lead, Serving};
pub use queue::PER_SOURCE;
use queue::{Pending, Queue, Running, SLOW, Whose};

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
        /// What the jobs work for.
        source_name: String,
    },
    /// No thread could enter the namespace.
    #[error("no thread could be started in the caller's mount namespace: {0}{advice}", advice = shortage::thread_advice(*.0))]
    NoThread(Errno),
    /// The job ended without an answer, by a panic.
    #[error("the job ended without an answer; see the plugin's log")]
    Lost,
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
    /// The crew of whoever called last.
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

    /// The crew of a caller's namespace.
    #[must_use]
    pub fn crew_of_caller(&self, namespace: MountNamespace) -> Arc<Crew> {
        let crew = self.crew(namespace);
        *lock(&self.caller) = Some(Arc::clone(&crew));
        crew
    }

    /// The crew of whoever called last, which is the kubelet; before the first call, that of the namespace that was met
    /// last.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Crew>> {
        lock(&self.caller).clone().or_else(|| lock(&self.crews).last().cloned())
    }

    /// Runs a job on a thread of the crew and waits for it, but not past the deadline. `source_name` says in the
    /// log and in errors what the job may hang on.
    ///
    /// # Errors
    /// [`NoResult`].
    pub fn run<T: Send + 'static>(
        &self,
        crew: &Arc<Crew>,
        source_name: &str,
        deadline: Duration,
        job: impl Job<T>,
    ) -> impl Future<Output = Result<T, NoResult>> {
        self.run_by(None, crew, source_name, deadline, job)
    }

    /// As [`Threads::run`]. For a call that is served in the runtime of `lead`, whoever leads does the job if the call is alone.
    ///
    /// # Errors
    /// [`NoResult`].
    pub fn run_by<T: Send + 'static>(
        &self,
        lead: Option<&Lead>,
        crew: &Arc<Crew>,
        source_name: &str,
        deadline: Duration,
        job: impl Job<T>,
    ) -> impl Future<Output = Result<T, NoResult>> {
        let given_up = Arc::default();
        // Boxed before anything is waited for: what waits for it, and all that waits for that, is the smaller by it.
        let (work, mut answer) = job::post(job, &given_up);
        async move {
            let source: Arc<str> = source_name.into();
            let until = Instant::now() + deadline;
            let late = lead.map(Lead::taken_over);
            let Submitted { id, by } = self.submit(lead, crew, Arc::clone(&source), work)?;
            // Dropped at the deadline, but also when the caller hangs up and the whole call is dropped.
            let mut waiter = Waiter { crew, source: &source, id, given_up, waiting: true };
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
                    // Threads that were busy when the job came may be slow by now, so that it gets one of its own.
                    Err(_) => self.see_to(crew, id)?,
                }
                look_after = SLOW;
            }
            waiter.waiting = came.is_none();
            drop(waiter);
            match came {
                Some(Ok(result)) => result,
                Some(Err(_)) => Err(NoResult::Lost),
                None => Err(NoResult::Deadline { waited: deadline, source_name: source_name.to_owned() }),
            }
        }
    }

    fn submit(
        &self,
        lead: Option<&Lead>,
        crew: &Arc<Crew>,
        source: Arc<str>,
        work: Box<dyn Work>,
    ) -> Result<Submitted, NoResult> {
        let mut queue = lock(&crew.queue);
        let stuck = queue.stuck(&source);
        if stuck >= PER_SOURCE {
            return Err(NoResult::Stuck { stuck, source_name: source.to_string() });
        }
        let id = queue.next_job;
        queue.next_job += 1;
        let since = Instant::now();
        let whose = if lead.is_some() { Whose::Call } else { Whose::Own };
        let mut pending = Pending { id, source: Arc::clone(&source), whose, work };
        if let Some(lead) = lead
            && queue.comes_alone()
            && stuck == 0
        {
            match lead.give(crew, pending) {
                Ok(()) => {
                    queue.running.insert(id, Running { source, whose, since, given_up: false, led: true });
                    return Ok(Submitted { id, by: By::Leader });
                }
                Err(back) => pending = back,
            }
        }
        let served = queue.is_served(&source, since);
        queue.jobs.push_back(pending);
        if served {
            return Ok(Submitted { id, by: By::Server });
        }
        if queue.wants_thread()
            && let Err(error) = self.start(crew, &mut queue)
        {
            queue.jobs.pop_back();
            return Err(error);
        }
        let idle = queue.next_to_wake();
        wake(queue, idle);
        Ok(Submitted { id, by: By::Another })
    }

    /// Gets a job that still waits for a thread one of its own, if it may have one.
    fn see_to(&self, crew: &Arc<Crew>, id: u64) -> Result<(), NoResult> {
        let mut queue = lock(&crew.queue);
        if queue.wants_thread() {
            self.start(crew, &mut queue)?;
        }
        let waits = queue.jobs.iter().any(|job| job.id == id);
        let idle = if waits { queue.next_to_wake() } else { None };
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
            for running in lock(&crew.queue).running.values().filter(|running| running.given_up) {
                *all.entry(running.source.to_string()).or_default() += 1;
            }
        }
        all
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
            if let Ok(Err((place, errno))) = self.run(&crew, "workshop", Duration::from_secs(5), close).await {
                tracing::warn!(path = %place.display(), %errno, "the workshop could not be unmounted");
            }
            lock(&crew.queue).close();
        }
    }
}

/// A caller that waits for its job. If it goes away before the job has ended, the job is told, and its thread counts
/// as stuck; one that has no thread yet is dropped, with what it holds.
struct Waiter<'a> {
    crew: &'a Crew,
    source: &'a str,
    id: u64,
    given_up: Arc<AtomicBool>,
    waiting: bool,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if !self.waiting {
            return;
        }
        let mut queue = lock(&self.crew.queue);
        self.given_up.store(true, Ordering::SeqCst);
        if let Some(running) = queue.running.get_mut(&self.id) {
            running.given_up = true;
            tracing::warn!(source = self.source, "a mount thread is still at work for a call that was given up");
        }
        let at = queue.jobs.iter().position(|job| job.id == self.id);
        let dropped = at.and_then(|at| queue.jobs.remove(at));
        drop(queue);
        // Not under the lock: it may hold whatever its caller has given it.
        drop(dropped);
    }
}
