//! The runtime in which calls are served. One thread leads: it drives the runtime, and does the job of a lone call itself.
//!
//! Handing a job to another thread and its result back takes two wake-ups. On a virtual machine each takes 5 to 50 µs,
//! more than the job. So there are a leader and a follower (Schmidt et al., "Leader/Followers", 2000). The leader reads
//! and answers calls. For a call that is alone it leaves the runtime, does the job, and comes back with the result.
//! Nothing of the runtime is on its stack meanwhile. If it stays away because a file system hangs, the follower drives
//! the runtime instead; then the job is like any other job that hangs. If several calls are under way, mount threads do
//! their jobs side by side.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use engine::site::Site;
use mounts::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::job::Work;
use super::leadership::{AWAY_LIMIT, Check, Given, Leadership, Returned};
use super::queue::Pending;
use super::{MountThread, NoResult, Pool, lock};

/// When the follower checks on the leader, after that has left for a job. One check serves all jobs that begin before it.
const ALARM: Duration = Duration::from_millis(5);
/// A follower that could not be started is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// Calls are read and answered on this stack, with all of HTTP/2. Only touched pages count.
const STACK: usize = 1024 * 1024;

/// The runtime in which calls are served, and the threads that drive it.
#[derive(Debug)]
pub struct CallRuntime {
    site: Arc<Site>,
    handle: Handle,
    /// None once serving has ended.
    runtime: Mutex<Option<Arc<Runtime>>>,
    leadership: Mutex<Leadership>,
    /// The follower checks on the leader when it expires.
    alarm: TimerFd,
    /// Notified when a follower has become the leader.
    taken_over: Notify,
}

/// Keeps the runtime running. When this is dropped, so is everything in the runtime. A leader that hangs is left to the
/// end of the process.
#[derive(Debug)]
pub struct Serving(Arc<CallRuntime>);

impl Serving {
    /// The runtime.
    #[must_use]
    pub fn runtime(&self) -> Arc<CallRuntime> {
        Arc::clone(&self.0)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let calls = &self.0;
        let mut state = lock(&calls.leadership);
        state.ended = true;
        let left = state.job.take();
        state.wake();
        drop(state);
        drop(left);
        calls.alarm_in(Duration::from_nanos(1));
        let runtime = lock(&calls.runtime).take();
        release(runtime);
    }
}

/// The role of a thread.
#[derive(Debug, Clone, Copy)]
enum Role {
    Leader(u64),
    Follower,
}

impl CallRuntime {
    /// Starts a leader and a follower.
    ///
    /// # Errors
    /// No thread, or no descriptor.
    pub fn start(site: Arc<Site>) -> io::Result<Serving> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        // From here on: if a thread can't be started, the one before it ends.
        let serving = Serving(Arc::new(Self {
            site,
            handle: runtime.handle().clone(),
            runtime: Mutex::new(Some(Arc::new(runtime))),
            leadership: Mutex::default(),
            alarm: TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?,
            taken_over: Notify::new(),
        }));
        let calls = &serving.0;
        calls.start_as(Role::Leader(0))?;
        calls.start_as(Role::Follower)?;
        lock(&calls.leadership).followed = true;
        Ok(serving)
    }

    /// The tokio runtime.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Gives the leader a job. Returns the job if the leader can't take one.
    pub(super) fn give(&self, pool: &Arc<Pool>, pending: Pending) -> Option<Pending> {
        let mut state = lock(&self.leadership);
        let back = state.give((Arc::clone(pool), pending));
        if back.is_none() {
            state.wake();
        }
        back.map(|(_, pending)| pending)
    }

    /// Completes when a follower becomes the leader, from this call on.
    pub(super) fn taken_over(&self) -> Notified<'_> {
        self.taken_over.notified()
    }

    fn alarm_in(&self, time: Duration) {
        let set = self.alarm.set(Expiration::OneShot(TimeSpec::from(time)), TimerSetTimeFlags::empty());
        if let Err(errno) = set {
            tracing::warn!(%errno, "no thread would take over if the one that serves calls hung");
        }
    }

    fn runtime(&self) -> Option<Arc<Runtime>> {
        lock(&self.runtime).clone()
    }

    /// Starts a thread in a role.
    fn start_as(self: &Arc<Self>, role: Role) -> io::Result<()> {
        let calls = Arc::clone(self);
        let play = move || {
            let mut role = Some(role);
            while let Some(now) = role {
                role = match now {
                    Role::Leader(number) => calls.lead(number),
                    Role::Follower => calls.follow(),
                };
            }
        };
        let main = || {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(play)).is_err() {
                // No thread would serve calls any more. The kubelet restarts the plugin's container.
                std::process::abort();
            }
        };
        std::thread::Builder::new().name("calls".to_owned()).stack_size(STACK).spawn(main).map(drop)
    }

    /// Starts a follower as soon as the machine has a thread for it. The leader that was replaced is no help: it may
    /// have come back, and ended, while the start was failing.
    fn start_follower_later(self: &Arc<Self>) {
        let calls = Arc::clone(self);
        self.handle.spawn(async move {
            loop {
                tokio::time::sleep(RETRY).await;
                // It counts as being there from now on, so that a leader that comes back doesn't become a second one.
                if std::mem::replace(&mut lock(&calls.leadership).followed, true) {
                    return;
                }
                if calls.start_as(Role::Follower).is_ok() {
                    return tracing::info!("a thread can take over again if the one that serves calls hangs");
                }
                lock(&calls.leadership).followed = false;
            }
        });
    }

    /// Waits until the leader stays away too long. None: serving has ended.
    fn follow(self: &Arc<Self>) -> Option<Role> {
        loop {
            match self.alarm.wait() {
                Ok(()) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    lock(&self.leadership).followed = false;
                    tracing::warn!(%errno, "no thread can take over if the one that serves calls hangs");
                    return None;
                }
            }
            let step = lock(&self.leadership).check(Instant::now());
            match step {
                Check::Sleep => {}
                Check::Again => self.alarm_in(AWAY_LIMIT),
                Check::End => return None,
                Check::Lead(number) => {
                    if let Err(error) = self.start_as(Role::Follower) {
                        lock(&self.leadership).followed = false;
                        tracing::warn!(%error, "no thread can take over if the one that serves calls hangs");
                        self.start_follower_later();
                    }
                    self.taken_over.notify_waiters();
                    return Some(Role::Leader(number));
                }
            }
        }
    }

    /// Drives the runtime, and leaves it for each job that is given. None: the thread isn't needed any more.
    fn lead(&self, number: u64) -> Option<Role> {
        let mut thread = None;
        let mut done = None;
        let mut next = None;
        while let Some(runtime) = self.runtime() {
            let job = runtime.block_on(self.next(done.take()));
            // Not held while away, so that serving can end meanwhile.
            release(Some(runtime));
            let Some((pool, pending)) = job else { break };
            let work = self.run(&mut thread, &pool, pending);
            let returned = lock(&self.leadership).come_back(number);
            if returned == Returned::Leads {
                done = Some(work);
                continue;
            }
            work.tell();
            next = (returned == Returned::Follows).then_some(Role::Follower);
            break;
        }
        if let Some(thread) = thread {
            thread.leave();
        }
        next
    }

    /// Sends the result of the last job, and waits in the runtime for the next. None: serving has ended.
    ///
    /// The result is sent in here because that wakes the call without a system call.
    fn next(&self, mut done: Option<Box<dyn Work>>) -> impl Future<Output = Option<Given>> {
        poll_fn(move |cx| {
            if let Some(done) = done.take() {
                done.tell();
            }
            let mut state = lock(&self.leadership);
            if state.ended {
                return Poll::Ready(None);
            }
            let Some(job) = state.job.take() else {
                if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    state.waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            };
            let alarm = state.leave(Instant::now());
            drop(state);
            if alarm {
                self.alarm_in(ALARM);
            }
            Poll::Ready(Some(job))
        })
    }

    /// Does a job in its caller's mount namespace. Its result is still to be sent.
    fn run(&self, own: &mut Option<MountThread>, pool: &Arc<Pool>, pending: Pending) -> Box<dyn Work> {
        let Pending { id, mut work, .. } = pending;
        match self.thread_of(own, pool) {
            Ok(thread) => thread.run(&mut *work),
            Err(errno) => work.refuse(NoResult::NoThread(errno)),
        }
        pool.ended(id);
        work
    }

    /// The calling thread as a mount thread of the pool. It joins the pool if it isn't in it.
    fn thread_of<'a>(&self, own: &'a mut Option<MountThread>, pool: &Arc<Pool>) -> Result<&'a mut MountThread, Errno> {
        let thread = match own.take() {
            Some(thread) if Arc::ptr_eq(&thread.pool, pool) => thread,
            before => {
                if let Some(before) = before {
                    before.leave();
                }
                MountThread::join(&self.site, pool)?
            }
        };
        Ok(own.insert(thread))
    }
}

/// Releases the runtime. The last thread to do so shuts it down, without waiting for anything.
fn release(runtime: Option<Arc<Runtime>>) {
    if let Some(runtime) = runtime.and_then(Arc::into_inner) {
        runtime.shutdown_background();
    }
}
