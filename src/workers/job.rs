//! A job between the call that wants it and the thread that does it.
//!
//! Doing a job and sending its result are two steps. In between the job is counted as ended, so that the caller's next
//! job never finds it running. And the leader ([`super::call_runtime`]) sends the result inside the runtime, where that
//! wakes the call without a system call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::oneshot;

use super::{MountThread, NoResult};

/// A job, as a mount thread gets it.
pub(super) trait Work: Send {
    /// Does it.
    fn run(&mut self, thread: &mut MountThread);
    /// Answers with a reason instead of doing the job.
    fn refuse(&mut self, why: NoResult);
    /// Sends the result to the caller, if it still waits.
    fn tell(self: Box<Self>);
}

/// The progress of a job, shared by its thread and its caller.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU8);

/// The job may have changed something.
const BEGUN: u8 = 1;
/// Nobody waits for the job any more.
const GIVEN_UP: u8 = 2;

impl Progress {
    /// The progress of a job that may change something from the start.
    pub(super) const fn begun() -> Self {
        Self(AtomicU8::new(BEGUN))
    }

    /// The job is about to change something. Returns whether it must not, because nobody waits any more.
    pub(super) fn begin(&self) -> bool {
        self.0.fetch_or(BEGUN, Ordering::SeqCst) & GIVEN_UP != 0
    }

    /// Nobody waits any more. Returns whether the job may have changed something and may go on. If not, it never will.
    pub(super) fn give_up(&self) -> bool {
        self.0.fetch_or(GIVEN_UP, Ordering::SeqCst) & BEGUN != 0
    }
}

/// Work for a mount thread. Before it changes anything, it must call its second argument: if that returns true, nobody
/// waits any more and it must change nothing.
pub trait Job<T>: FnOnce(&mut MountThread, &dyn Fn() -> bool) -> T + Send + 'static {}

impl<T, F: FnOnce(&mut MountThread, &dyn Fn() -> bool) -> T + Send + 'static> Job<T> for F {}

/// The result of a job. The channel is closed without an answer if the job panicked.
pub(super) type Answer<T> = oneshot::Receiver<Result<T, NoResult>>;

struct Posted<T, F> {
    job: Option<F>,
    result: Option<Result<T, NoResult>>,
    progress: Arc<Progress>,
    send: oneshot::Sender<Result<T, NoResult>>,
}

/// A job for a thread, and the receiver of its answer. `progress` is the job's progress.
pub(super) fn post<T: Send + 'static>(job: impl Job<T>, progress: &Arc<Progress>) -> (Box<dyn Work>, Answer<T>) {
    let (send, receive) = oneshot::channel();
    (Box::new(Posted { job: Some(job), result: None, progress: Arc::clone(progress), send }), receive)
}

impl<T: Send, F: Job<T>> Work for Posted<T, F> {
    fn run(&mut self, thread: &mut MountThread) {
        let Self { job, progress, .. } = self;
        let cancelled = || progress.begin();
        self.result = job.take().map(|job| Ok(job(thread, &cancelled)));
    }

    fn refuse(&mut self, why: NoResult) {
        self.result = Some(Err(why));
    }

    fn tell(self: Box<Self>) {
        let Self { result, send, .. } = *self;
        if let Some(result) = result {
            // If the deadline has passed, the receiver is gone and nobody wants the result.
            let _ = send.send(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_is_given_up_before_it_begins_changes_nothing() {
        let early = Progress::default();
        assert!(!early.give_up(), "what it holds can be let go");
        assert!(early.begin(), "it must not begin");
        let late = Progress::default();
        assert!(!late.begin());
        assert!(late.give_up(), "it may be at work still");
        assert!(late.begin(), "and has to stop");
        assert!(Progress::begun().give_up());
    }
}
