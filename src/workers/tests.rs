//! Threads that start, that can't start, and jobs that end.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use allowlist::names::AbsPath;
use engine::site::Site;
use futures_util::FutureExt;
use kernel::calls::Calls;
use kernel::namespace::{MountNamespace, Proc};
use mounts::Errno;
use plan::layout::{Layout, Part};

use crate::job::{self, Work};
use crate::pool::{MountThread, Pool, work};
use crate::queue::{Pending, SLOW, Whose};
use crate::{NoResult, Source, Threads, lock};

/// Threads, and a pool of our own namespace whose threads enter it by `enter`.
fn threads(enter: fn(&Proc, &MountNamespace) -> Result<(), Errno>) -> (Threads, Arc<Pool>) {
    let layout = Layout {
        base: AbsPath::parse("/base").unwrap(),
        staging_area: vec!["area".to_owned()],
        target: vec![Part::Workload],
        staging: Vec::new(),
        workloads: "/base".into(),
        files: Vec::new(),
        not_published: Vec::new(),
        copies: None,
    };
    let proc = Arc::new(Proc::new().unwrap());
    let pool = Pool::new(proc.own_mount_namespace().unwrap(), enter);
    (Threads::new(Site { proc, calls: Calls::probe(), layout: Arc::new(layout) }), Arc::new(pool))
}

/// Probe and every call once waited together for a thread that a busy machine was slow to start.
#[tokio::test]
async fn nobody_waits_for_a_thread_to_start_but_its_job() {
    static CLOSED: Mutex<()> = Mutex::new(());
    let (threads, pool) = threads(|_, _| {
        drop(lock(&CLOSED));
        Ok(())
    });
    let closed = lock(&CLOSED);
    let job = |name| Box::pin(threads.run(&pool, Source::own(name), SLOW * 100, |_, _| std::thread::current().id()));
    let (mut one, mut other, mut probe) = (job("one"), job("other"), Box::pin(threads.warm(&pool)));
    assert!((&mut one).now_or_never().is_none() && (&mut other).now_or_never().is_none());
    assert!((&mut probe).now_or_never().is_none());
    let counts = pool.queue.try_lock().map(|queue| (queue.starting, queue.alive)).expect("the queue is unlocked");
    assert_eq!(counts, (3, 0), "each has a thread that starts");
    drop(closed);
    assert_ne!(one.await.unwrap(), std::thread::current().id());
    assert_eq!((other.await.is_ok(), probe.await), (true, Ok(())));
}

#[tokio::test]
async fn a_thread_that_cannot_start_is_the_error_of_its_job() {
    let (threads, pool) = threads(|_, _| Err(Errno::EPERM));
    let no_thread = NoResult::NoThread(Errno::EPERM);
    for _ in 0..2 {
        let ran = threads.run(&pool, Source::own("s"), SLOW * 100, |_, _| ()).await;
        assert_eq!((ran.as_ref(), threads.warm(&pool).await.as_ref()), (Err(&no_thread), Err(&no_thread)));
    }
    let mut queue = lock(&pool.queue);
    assert!(!queue.has_jobs() && !queue.wants_thread());
    assert_eq!((queue.starting, queue.alive, queue.expect_thread()), (0, 0, 0), "the number is free again");
}

#[tokio::test]
async fn a_job_that_another_thread_has_taken_is_not_refused() {
    let (threads, pool) = threads(|_, _| Err(Errno::EPERM));
    let (posted, answer) = job::post(|_, _| 7, &Arc::default());
    let (number, mut taken) = {
        let mut queue = lock(&pool.queue);
        queue.push(Pending { id: 1, source: Source::own("s"), whose: Whose::Call, work: posted }, Instant::now());
        (queue.expect_thread(), queue.take(Instant::now()).unwrap().1)
    };
    pool.start_failed(number, 1, Errno::EPERM);
    MountThread::new(Arc::clone(threads.site()), pool, 1).run(&mut *taken);
    taken.tell();
    assert_eq!(answer.await, Ok(Ok(7)));
}

/// Notes how many jobs run when it runs, and when its result is sent.
struct Counts(Arc<Pool>, std::sync::mpsc::Sender<usize>);

impl Work for Counts {
    fn run(&mut self, thread: &mut MountThread) {
        self.1.send(lock(&thread.pool.queue).running()).unwrap();
    }

    fn refuse(&mut self, why: NoResult) {
        unreachable!("{why}");
    }

    fn tell(self: Box<Self>) {
        self.1.send(lock(&self.0.queue).running()).unwrap();
    }
}

#[test]
fn a_job_whose_result_is_sent_runs_no_more() {
    let (threads, pool) = threads(|_, _| Ok(()));
    let (send, counts) = std::sync::mpsc::channel();
    let job = Box::new(Counts(Arc::clone(&pool), send));
    let mut queue = lock(&pool.queue);
    queue.push(Pending { id: 1, source: Source::own("s"), whose: Whose::Call, work: job }, Instant::now());
    queue.starting = 1;
    queue.closed = true;
    drop(queue);
    work(&mut MountThread::new(Arc::clone(threads.site()), pool, 0));
    assert_eq!(counts.iter().collect::<Vec<_>>(), [1, 0]);
}
