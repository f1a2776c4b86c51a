//! The mount threads: plain threads inside the kubelet's mount namespace, which may hang without anybody waiting.
//!
//! A system call on a dead NFS server or a stopped FUSE daemon can hang for ever and can't be interrupted. tokio's
//! blocking pool is no place for that: its threads share our own mount namespace, are bounded, and are waited for at
//! shutdown. Here a caller waits until its deadline and no longer; the thread is then counted as stuck under the
//! name of the source that it works for, other work gets another thread, and a source that holds
//! [`STUCK_PER_SOURCE`] threads gets no more.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::site::Site;
use crate::sys::Errno;
use crate::sys::namespace::{self, MountNamespace};
use crate::workshop::{self, Slot, Workshop};

/// How many threads may hang on one source before its calls are turned away at once.
pub const STUCK_PER_SOURCE: usize = 4;
/// How many threads may be at work, not counting stuck ones.
const AT_WORK: usize = 16;
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
    #[error(
        "no thread could be started in the caller's mount namespace: {0}; the plugin needs CAP_SYS_ADMIN, CAP_SYS_CHROOT and CAP_SYS_PTRACE, and hostPID"
    )]
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
}

type Job = Box<dyn FnOnce(&mut MountThread) + Send>;

/// The threads of one mount namespace.
#[derive(Debug)]
pub struct Crew {
    namespace: MountNamespace,
    driver: String,
    queue: Mutex<Queue>,
    work_came: Condvar,
    workshop: Mutex<Option<Workshop>>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    /// Threads that exist.
    alive: usize,
    /// Of those, the ones whose caller has given up.
    stuck: HashMap<String, usize>,
    next_number: usize,
    closed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("alive", &self.alive).field("stuck", &self.stuck).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All mount threads, by namespace. There is usually one: the kubelet's.
#[derive(Debug)]
pub struct Threads {
    site: Arc<Site>,
    driver: String,
    /// Oldest first.
    crews: Mutex<Vec<Arc<Crew>>>,
}

impl Threads {
    /// No threads yet; they start with the work.
    #[must_use]
    pub fn new(site: Site, driver: &str) -> Self {
        Self { site: Arc::new(site), driver: driver.to_owned(), crews: Mutex::default() }
    }

    /// The node.
    #[must_use]
    pub fn site(&self) -> &Site {
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
            lock(&oldest.queue).closed = true;
            oldest.work_came.notify_all();
        }
        crews.push(Arc::new(Crew {
            namespace,
            driver: self.driver.clone(),
            queue: Mutex::default(),
            work_came: Condvar::new(),
            workshop: Mutex::default(),
        }));
        Arc::clone(&crews[crews.len() - 1])
    }

    /// The crew of the namespace that was met last, which is the kubelet's once it has called.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Crew>> {
        lock(&self.crews).last().cloned()
    }

    /// Runs a job on a thread of the crew and waits for it, but not past the deadline. `source_name` says in the
    /// log and in errors what the job may hang on.
    ///
    /// The job is told by its second argument when nobody waits for it any more.
    ///
    /// # Errors
    /// [`NoResult`].
    pub async fn run<T, F>(
        &self,
        crew: &Arc<Crew>,
        source_name: &str,
        deadline: Duration,
        job: F,
    ) -> Result<T, NoResult>
    where
        T: Send + 'static,
        F: FnOnce(&mut MountThread, &dyn Fn() -> bool) -> T + Send + 'static,
    {
        let (send, receive) = oneshot::channel();
        let given_up = Arc::new(AtomicBool::new(false));
        let running = Arc::new(AtomicBool::new(false));
        let name = source_name.to_owned();
        let work: Job = {
            let (given_up, running, name) = (Arc::clone(&given_up), Arc::clone(&running), name.clone());
            Box::new(move |thread| {
                let crew = Arc::clone(&thread.crew);
                running.store(true, Ordering::SeqCst);
                let cancelled = || given_up.load(Ordering::SeqCst);
                if !cancelled() {
                    // The receiver is gone if the deadline has passed; then nobody wants the result.
                    let _ = send.send(job(thread, &cancelled));
                }
                // Under the queue's lock, so that a caller which gives up this instant either counts this thread as
                // stuck and is seen here, or finds the job ended.
                let mut queue = lock(&crew.queue);
                if running.swap(false, Ordering::SeqCst)
                    && cancelled()
                    && let Some(stuck) = queue.stuck.get_mut(&name)
                {
                    *stuck -= 1;
                    if *stuck == 0 {
                        queue.stuck.remove(&name);
                    }
                }
            })
        };
        self.submit(crew, &name, work)?;
        // Dropped at the deadline, but also when the caller hangs up and the whole call is dropped.
        let mut waiter = Waiter { crew, name: &name, given_up, running, waiting: true };
        let answer = tokio::time::timeout(deadline, receive).await;
        waiter.waiting = answer.is_err();
        drop(waiter);
        match answer {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(NoResult::Lost),
            Err(_) => Err(NoResult::Deadline { waited: deadline, source_name: name }),
        }
    }

    fn submit(&self, crew: &Arc<Crew>, name: &str, job: Job) -> Result<(), NoResult> {
        let mut queue = lock(&crew.queue);
        if let Some(&stuck) = queue.stuck.get(name)
            && stuck >= STUCK_PER_SOURCE
        {
            return Err(NoResult::Stuck { stuck, source_name: name.to_owned() });
        }
        let stuck: usize = queue.stuck.values().sum();
        let needed = queue.idle <= queue.jobs.len() && queue.alive < AT_WORK + stuck;
        if needed {
            self.start(crew, &mut queue)?;
        }
        queue.jobs.push_back(job);
        drop(queue);
        crew.work_came.notify_one();
        Ok(())
    }

    /// Starts a thread and waits until it is in the namespace, so that a namespace which can't be entered is an
    /// error of this call and no job is lost.
    fn start(&self, crew: &Arc<Crew>, queue: &mut Queue) -> Result<(), NoResult> {
        let (entered, wait) = std::sync::mpsc::sync_channel(1);
        let number = queue.next_number;
        let mut thread = MountThread { site: Arc::clone(&self.site), number, slot: None, crew: Arc::clone(crew) };
        std::thread::Builder::new()
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
            .map_err(|e| NoResult::NoThread(e.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw)))?;
        wait.recv().unwrap_or(Err(Errno::ECANCELED)).map_err(NoResult::NoThread)?;
        queue.next_number += 1;
        queue.alive += 1;
        Ok(())
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
            for (name, count) in &lock(&crew.queue).stuck {
                *all.entry(name.clone()).or_default() += count;
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
            lock(&crew.queue).closed = true;
            crew.work_came.notify_all();
        }
    }
}

/// A caller that waits for its job. If it goes away before the job has ended, the job is told, and its thread counts
/// as stuck.
struct Waiter<'a> {
    crew: &'a Crew,
    name: &'a str,
    given_up: Arc<AtomicBool>,
    running: Arc<AtomicBool>,
    waiting: bool,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if !self.waiting {
            return;
        }
        let mut queue = lock(&self.crew.queue);
        self.given_up.store(true, Ordering::SeqCst);
        if self.running.load(Ordering::SeqCst) {
            *queue.stuck.entry(self.name.to_owned()).or_default() += 1;
            tracing::warn!(source = self.name, "a mount thread is still at work for a call that was given up");
        }
    }
}

/// A thread's life: take a job, run it, wait for the next.
fn work(thread: &mut MountThread) {
    let crew = Arc::clone(&thread.crew);
    let mut queue = lock(&crew.queue);
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            drop(queue);
            // A panic in a job must not take the thread's place in the count with it.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(thread))).is_err() {
                thread.slot = None;
            }
            queue = lock(&crew.queue);
            continue;
        }
        if queue.closed {
            break;
        }
        queue.idle += 1;
        let (after, waited) = crew.work_came.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
        queue = after;
        queue.idle -= 1;
        if waited.timed_out() && queue.jobs.is_empty() && queue.alive > 1 {
            break;
        }
    }
    queue.alive -= 1;
}
