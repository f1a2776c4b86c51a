//! A job between the call that wants it done and the thread that does it.
//!
//! What is done and telling of it are two steps, because who leads ([`super::lead`]) does the first outside of the runtime
//! and the second inside it: there the call that waits is woken without a system call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use super::{MountThread, NoResult};

/// What a mount thread is given to do.
pub(super) trait Work: Send {
    /// Does it.
    fn run(&mut self, thread: &mut MountThread);
    /// Says instead why it can't be done.
    fn refuse(&mut self, why: NoResult);
    /// Tells who waits what came of it. Who has given up is told nothing.
    fn tell(self: Box<Self>);
}

/// What is to be done on a mount thread. It is told by its second argument when nobody waits for it any more.
pub trait Job<T>: FnOnce(&mut MountThread, &dyn Fn() -> bool) -> T + Send + 'static {}

impl<T, F: FnOnce(&mut MountThread, &dyn Fn() -> bool) -> T + Send + 'static> Job<T> for F {}

/// What comes of a job. It is closed without an answer if the job has panicked.
pub(super) type Answer<T> = oneshot::Receiver<Result<T, NoResult>>;

struct Posted<T, F> {
    job: Option<F>,
    result: Option<Result<T, NoResult>>,
    given_up: Arc<AtomicBool>,
    send: oneshot::Sender<Result<T, NoResult>>,
}

/// A job to be given to a thread, and where its answer comes. Nobody waits for it any more once `given_up` is set.
pub(super) fn post<T: Send + 'static>(job: impl Job<T>, given_up: &Arc<AtomicBool>) -> (Box<dyn Work>, Answer<T>) {
    let (send, receive) = oneshot::channel();
    (Box::new(Posted { job: Some(job), result: None, given_up: Arc::clone(given_up), send }), receive)
}

impl<T: Send, F: Job<T>> Work for Posted<T, F> {
    fn run(&mut self, thread: &mut MountThread) {
        let Self { job, given_up, .. } = self;
        let cancelled = || given_up.load(Ordering::SeqCst);
        self.result = job.take().map(|job| Ok(job(thread, &cancelled)));
    }

    fn refuse(&mut self, why: NoResult) {
        self.result = Some(Err(why));
    }

    fn tell(self: Box<Self>) {
        let Self { result, send, .. } = *self;
        if let Some(result) = result {
            // The receiver is gone if the deadline has passed; then nobody wants the result.
            let _ = send.send(result);
        }
    }
}
