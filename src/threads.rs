//! The mount threads: plain threads inside the kubelet's mount namespace, which may hang without anybody waiting.
//!
//! A system call on a dead NFS server or a stopped FUSE daemon can hang for ever and can't be interrupted. tokio's
//! blocking pool is no place for that: its threads share our own mount namespace, are bounded, and are waited for at
//! shutdown. Here a caller waits until its deadline and no longer; the thread is then counted as stuck under the
//! name of the source that it works for, and other work gets another thread. Which job gets which thread is decided by
//! `queue`.

mod job;
mod lead;
mod queue;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::shortage;
use crate::site::Site;
use crate::sys::Errno;
use crate::sys::mount_events::MountEvents;
use crate::sys::namespace::{self, MountNamespace};
use crate::workshop::{self, Slot, Workshop};
use job::Work;
pub use lead::Lead;
pub use queue::PER_SOURCE;
use queue::{LINGER, Pending, Queue, Running, SLOW, Whose};

/// How long a job that was left to a thread at work ([`Queue::is_served`]) waits before it gets another one. tokio's clock knows no less.
const SERVED: Duration = Duration::from_millis(1);
/// How many mount namespaces are kept: the kubelet's, our own, and some slack for restarts.
const NAMESPACES: usize = 4;
/// A thread without work ends after this, unless it is the last.
const IDLE: Duration = Duration::from_secs(30);
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

/// What a job runs with: its thread.
#[derive(Debug)]
pub struct MountThread {
    /// The node.
    pub site: Arc<Site>,
    number: usize,
    slot: Option<Slot>,
    crew: Arc<Crew>,
}

impl MountThread {
    /// The thread's place in the workshop, which is mounted if it isn't yet.
    ///
    /// # Errors
    /// Where the workshop can't be made, and why.
    pub fn take_slot(&mut self) -> Result<Slot, (std::path::PathBuf, Errno)> {
        if let Some(slot) = self.slot.take() {
            return Ok(slot);
        }
        let mut workshop = lock(&self.crew.workshop);
        let open = match workshop.take() {
            Some(open) => open,
            None => Workshop::open(&self.site, &self.crew.driver)?,
        };
        let slot = open.slot(&self.site, self.number).map_err(|errno| (open.place().to_owned(), errno));
        *workshop = Some(open);
        slot
    }

    /// Gives the slot back, empty, for the next job. One that isn't given back is cleared before its next use.
    pub fn give_back(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// The calling thread, once it is in a crew's namespace.
    fn join(site: &Arc<Site>, crew: &Arc<Crew>) -> Result<Self, Errno> {
        namespace::enter(&site.proc, &crew.namespace)?;
        let number = lock(&crew.queue).take_number();
        Ok(Self { site: Arc::clone(site), number, slot: None, crew: Arc::clone(crew) })
    }

    /// Gives its place in the crew back.
    fn leave(self) {
        lock(&self.crew.queue).free_numbers.push(self.number);
    }

    /// Does a job. A panic in it must not take the thread with it.
    fn run(&mut self, work: &mut dyn Work) {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work.run(self))).is_err() {
            self.slot = None;
        }
    }
}

/// A job that was taken in.
struct Submitted {
    id: u64,
    /// Whether it was left to a thread that is at work for its source already ([`Queue::is_served`]).
    served: bool,
}

/// The threads of one mount namespace.
#[derive(Debug)]
pub struct Crew {
    namespace: MountNamespace,
    driver: String,
    queue: Mutex<Queue>,
    workshop: Mutex<Option<Workshop>>,
}

impl Crew {
    /// Events of mounts that are attached in the namespace.
    ///
    /// # Errors
    /// As [`MountEvents::named`].
    pub fn mount_events(&self) -> Result<MountEvents, Errno> {
        MountEvents::named(&self.namespace)
    }

    /// Takes down that a call has begun to come on a connection.
    pub fn called_on(&self, connection: u64) {
        lock(&self.queue).called_on(connection, Instant::now());
    }

    /// Takes down that a job has ended.
    fn ended(&self, id: u64) {
        lock(&self.queue).running.remove(&id);
    }

    /// Whether an earlier call that was given up still hangs on a source.
    #[must_use]
    pub fn hangs_on(&self, source: &str) -> bool {
        lock(&self.queue).stuck(source) > 0
    }
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
    /// The job is told by its second argument when nobody waits for it any more.
    ///
    /// # Errors
    /// [`NoResult`].
    pub fn run<T, F>(
        &self,
        crew: &Arc<Crew>,
        source_name: &str,
        deadline: Duration,
        job: F,
    ) -> impl Future<Output = Result<T, NoResult>>
    where
        T: Send + 'static,
        F: FnOnce(&mut MountThread, &dyn Fn() -> bool) -> T + Send + 'static,
    {
        self.run_by(None, crew, source_name, deadline, job)
    }

    /// As [`Threads::run`], for a call that is served in the runtime of `lead`: whoever leads does the job if the call is alone.
    ///
    /// # Errors
    /// [`NoResult`].
    pub fn run_led<T, F>(
        &self,
        lead: &Lead,
        crew: &Arc<Crew>,
        source_name: &str,
        deadline: Duration,
        job: F,
    ) -> impl Future<Output = Result<T, NoResult>>
    where
        T: Send + 'static,
        F: FnOnce(&mut MountThread, &dyn Fn() -> bool) -> T + Send + 'static,
    {
        self.run_by(Some(lead), crew, source_name, deadline, job)
    }

    fn run_by<T, F>(
        &self,
        lead: Option<&Lead>,
        crew: &Arc<Crew>,
        source_name: &str,
        deadline: Duration,
        job: F,
    ) -> impl Future<Output = Result<T, NoResult>>
    where
        T: Send + 'static,
        F: FnOnce(&mut MountThread, &dyn Fn() -> bool) -> T + Send + 'static,
    {
        let given_up = Arc::default();
        // Boxed before anything is waited for: what waits for it, and all that waits for that, is the smaller by it.
        let (work, mut answer) = job::post(job, &given_up);
        async move {
            let source: Arc<str> = source_name.into();
            let until = Instant::now() + deadline;
            let Submitted { id, served } = self.submit(lead, crew, Arc::clone(&source), work)?;
            // Dropped at the deadline, but also when the caller hangs up and the whole call is dropped.
            let mut waiter = Waiter { crew, source: &source, id, given_up, waiting: true };
            let mut look_after = if served { SERVED } else { SLOW };
            let came = loop {
                let left = until.saturating_duration_since(Instant::now());
                match tokio::time::timeout(left.min(look_after), &mut answer).await {
                    Ok(came) => break Some(came),
                    Err(_) if until <= Instant::now() => break None,
                    // Threads that were busy when the job came may be slow by now, so that it gets one of its own.
                    Err(_) => self.see_to(crew, id)?,
                }
                look_after = SLOW;
            };
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
                    return Ok(Submitted { id, served: false });
                }
                Err(back) => pending = back,
            }
        }
        let served = queue.is_served(&source, since);
        queue.jobs.push_back(pending);
        if served {
            return Ok(Submitted { id, served });
        }
        if queue.wants_thread()
            && let Err(error) = self.start(crew, &mut queue)
        {
            queue.jobs.pop_back();
            return Err(error);
        }
        let idle = queue.next_to_wake();
        wake(queue, idle);
        Ok(Submitted { id, served })
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
        let mut thread = MountThread { site: Arc::clone(&self.site), number, slot: None, crew: Arc::clone(crew) };
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

/// Waits awake for a job, but not for long: where one comes at once, that a thread sleeps and is woken costs both sides more than to
/// look. Others who run on this processor go first.
fn linger<'a>(crew: &'a Crew, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
    queue.idle += 1;
    queue.awake += 1;
    let until = Instant::now() + LINGER;
    while queue.jobs.is_empty() && !queue.closed && Instant::now() < until {
        drop(queue);
        std::thread::yield_now();
        queue = lock(&crew.queue);
    }
    queue.idle -= 1;
    queue.awake -= 1;
    queue
}

/// A thread's life: take a job, run it, wait for the next.
fn work(thread: &mut MountThread) {
    let crew = Arc::clone(&thread.crew);
    let woken = Arc::new(Condvar::new());
    let mut queue = lock(&crew.queue);
    // Whether it has had work, and not yet waited awake for more.
    let mut stay = false;
    loop {
        if let Some(Pending { id, source, whose, mut work }) = queue.take() {
            let since = Instant::now();
            queue.running.insert(id, Running { source, whose, since, given_up: false, led: false });
            drop(queue);
            thread.run(&mut *work);
            work.tell();
            queue = lock(&crew.queue);
            queue.running.remove(&id);
            stay = true;
            continue;
        }
        if queue.closed {
            break;
        }
        if std::mem::take(&mut stay) && queue.has_company() && queue.awake == 0 {
            queue = linger(&crew, queue);
            continue;
        }
        queue.idle += 1;
        queue.parked.push(Arc::clone(&woken));
        let (after, waited) = woken.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
        queue = after;
        queue.idle -= 1;
        if queue.unpark(&woken) && waited.timed_out() && queue.jobs.is_empty() && queue.alive > 1 {
            break;
        }
    }
    queue.alive -= 1;
    queue.free_numbers.push(thread.number);
}
