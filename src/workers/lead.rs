//! Who serves the calls: one thread at a time, which does a lone call's job itself, and another that takes over when it hangs.
//!
//! To hand a job to another thread and to hear of its end takes two wake-ups, and where that thread sleeps on another
//! processor they take longer than the job: 5 to 50 µs each on virtual machines. So there are a leader and a follower
//! (Schmidt et al., "Leader/Followers", 2000). The leader drives the runtime in which calls are read and answered. For a call
//! that is alone it leaves the runtime, does the job, and comes back with the result. Nothing that belongs to the runtime is
//! on its stack meanwhile, so if it stays away, because a file system hangs, the follower drives the runtime in its
//! stead, after [`ALARM`]; then all goes on as with any job that hangs. What comes while several calls are under way is
//! done by the other mount threads, side by side.

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
use super::queue::Pending;
use super::seat::{Back, Given, Look, PATIENCE, Seat};
use super::{MountThread, NoResult, Pool, lock};

/// When the follower looks whether the leader is away, after it has left. One look serves all jobs that begin before it.
const ALARM: Duration = Duration::from_millis(5);
/// A call is read and answered on this, with all of HTTP/2; only what is touched counts.
const STACK: usize = 1024 * 1024;

/// The runtime in which calls are served, and who drives it.
#[derive(Debug)]
pub struct Lead {
    site: Arc<Site>,
    handle: Handle,
    /// None once serving has ended.
    runtime: Mutex<Option<Arc<Runtime>>>,
    seat: Mutex<Seat>,
    alarm: TimerFd,
    taken_over: Notify,
}

/// Keeps calls being served. When this goes, all that is under way in the runtime is dropped; a leader that hangs is left to the end
/// of the process.
#[derive(Debug)]
pub struct Serving(Arc<Lead>);

impl Serving {
    /// For those who are served.
    #[must_use]
    pub fn share(&self) -> Arc<Lead> {
        Arc::clone(&self.0)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let lead = &self.0;
        let mut seat = lock(&lead.seat);
        seat.ended = true;
        let left = seat.job.take();
        seat.wake();
        drop(seat);
        drop(left);
        lead.alarm_in(Duration::from_nanos(1));
        let runtime = lock(&lead.runtime).take();
        put_down(runtime);
    }
}

/// What a thread does.
#[derive(Debug, Clone, Copy)]
enum Role {
    Leader(u64),
    Follower,
}

impl Lead {
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
            seat: Mutex::default(),
            alarm: TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?,
            taken_over: Notify::new(),
        }));
        let lead = &serving.0;
        lead.start_as(Role::Leader(0))?;
        lead.start_as(Role::Follower)?;
        lock(&lead.seat).followed = true;
        Ok(serving)
    }

    /// The runtime that is driven.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Gives the leader a job, or the job back if it can't take one.
    pub(super) fn give(&self, pool: &Arc<Pool>, pending: Pending) -> Option<Pending> {
        let mut seat = lock(&self.seat);
        let back = seat.give((Arc::clone(pool), pending));
        if back.is_none() {
            seat.wake();
        }
        back.map(|(_, pending)| pending)
    }

    /// Waits until a leader that has stayed away loses its seat, from this call on.
    pub(super) fn taken_over(&self) -> Notified<'_> {
        self.taken_over.notified()
    }

    fn alarm_in(&self, time: Duration) {
        let set = self.alarm.set(Expiration::OneShot(TimeSpec::from(time)), TimerSetTimeFlags::empty());
        if let Err(errno) = set {
            tracing::warn!(%errno, "nobody looks after the thread that serves calls");
        }
    }

    fn runtime(&self) -> Option<Arc<Runtime>> {
        lock(&self.runtime).clone()
    }

    /// Starts a thread in a role.
    fn start_as(self: &Arc<Self>, role: Role) -> io::Result<()> {
        let lead = Arc::clone(self);
        let life = move || {
            let mut role = Some(role);
            while let Some(now) = role {
                role = match now {
                    Role::Leader(number) => lead.lead(number),
                    Role::Follower => lead.follow(),
                };
            }
        };
        let live = || {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(life)).is_err() {
                // Nobody would serve calls any more. Whoever has started the plugin starts it again.
                std::process::abort();
            }
        };
        std::thread::Builder::new().name("calls".to_owned()).stack_size(STACK).spawn(live).map(drop)
    }

    /// Waits until the leader stays away. None: serving has ended.
    fn follow(self: &Arc<Self>) -> Option<Role> {
        loop {
            match self.alarm.wait() {
                Ok(()) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    lock(&self.seat).followed = false;
                    tracing::warn!(%errno, "the thread that serves calls goes without a follower");
                    return None;
                }
            }
            let mut seat = lock(&self.seat);
            match seat.look(Instant::now()) {
                Look::Sleep => {}
                Look::Again => self.alarm_in(PATIENCE),
                Look::End => return None,
                Look::Lead(number) => {
                    match self.start_as(Role::Follower) {
                        Ok(()) => seat.followed = true,
                        Err(error) => {
                            tracing::warn!(%error, "the thread that serves calls goes without a follower");
                        }
                    }
                    drop(seat);
                    self.taken_over.notify_waiters();
                    return Some(Role::Leader(number));
                }
            }
        }
    }

    /// Drives the runtime, and leaves it for each job that is given. None: it isn't needed any more.
    fn lead(&self, number: u64) -> Option<Role> {
        let mut hand = None;
        let mut done = None;
        let mut next = None;
        while let Some(runtime) = self.runtime() {
            let job = runtime.block_on(self.next(done.take()));
            // Not held while away, so that serving can end meanwhile.
            put_down(Some(runtime));
            let Some((pool, pending)) = job else { break };
            let work = self.serve(&mut hand, &pool, pending);
            let back = lock(&self.seat).come_back(number);
            if back == Back::Leads {
                done = Some(work);
                continue;
            }
            work.tell();
            next = (back == Back::Follows).then_some(Role::Follower);
            break;
        }
        if let Some(thread) = hand {
            thread.leave();
        }
        next
    }

    /// The next job, after what came of the last one was told. None: serving has ended.
    fn next(&self, mut done: Option<Box<dyn Work>>) -> impl Future<Output = Option<Given>> {
        poll_fn(move |cx| {
            if let Some(done) = done.take() {
                done.tell();
            }
            let mut seat = lock(&self.seat);
            if seat.ended {
                return Poll::Ready(None);
            }
            let Some(job) = seat.job.take() else {
                if !seat.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    seat.waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            };
            let alarm = seat.leave(Instant::now());
            drop(seat);
            if alarm {
                self.alarm_in(ALARM);
            }
            Poll::Ready(Some(job))
        })
    }

    /// Does a job, in its caller's mount namespace. What came of it is still to be told.
    fn serve(&self, hand: &mut Option<MountThread>, pool: &Arc<Pool>, pending: Pending) -> Box<dyn Work> {
        let Pending { id, mut work, .. } = pending;
        match self.thread_of(hand, pool) {
            Ok(thread) => thread.run(&mut *work),
            Err(errno) => work.refuse(NoResult::NoThread(errno)),
        }
        pool.ended(id);
        work
    }

    /// The calling thread as one of a pool, which it joins if it is of another one or of none.
    fn thread_of<'a>(&self, hand: &'a mut Option<MountThread>, pool: &Arc<Pool>) -> Result<&'a mut MountThread, Errno> {
        let thread = match hand.take() {
            Some(thread) if Arc::ptr_eq(&thread.pool, pool) => thread,
            before => {
                if let Some(before) = before {
                    before.leave();
                }
                MountThread::join(&self.site, pool)?
            }
        };
        Ok(hand.insert(thread))
    }
}

/// Lets go of the runtime. Who does so last ends it, which may not wait for anything.
fn put_down(runtime: Option<Arc<Runtime>>) {
    if let Some(runtime) = runtime.and_then(Arc::into_inner) {
        runtime.shutdown_background();
    }
}
