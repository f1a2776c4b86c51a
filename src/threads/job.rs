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

/// What comes of a job. It is closed without an answer if the job has panicked.
pub(super) type Answer<T> = oneshot::Receiver<Result<T, NoResult>>;

struct Posted<T, F> {
    job: Option<F>,
    result: Option<Result<T, NoResult>>,
    given_up: Arc<AtomicBool>,
    send: oneshot::Sender<Result<T, NoResult>>,
}

/// A job to be given to a thread, and where its answer comes. The job is told by its second argument once `given_up` is set.
pub(super) fn post<T, F>(job: F, given_up: &Arc<AtomicBool>) -> (Box<dyn Work>, Answer<T>)
where
    T: Send + 'static,
    F: FnOnce(&mut MountThread, &dyn Fn() -> bool) -> T + Send + 'static,
{
    let (send, receive) = oneshot::channel();
    (Box::new(Posted { job: Some(job), result: None, given_up: Arc::clone(given_up), send }), receive)
}

impl<T, F> Work for Posted<T, F>
where
    T: Send,
    F: FnOnce(&mut MountThread, &dyn Fn() -> bool) -> T + Send,
{
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
