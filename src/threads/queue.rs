//! What the mount threads of one namespace have to do, and which of them does it: decided here, waited for elsewhere.
//!
//! No source may keep the others waiting, also before any deadline has passed: each gets [`PER_SOURCE`] threads and no
//! more, the rest of its jobs wait for those; and a thread whose job takes longer than 100 ms is not counted among
//! those at work any more.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use super::job::Work;

/// How many threads may be at work for one source. When all of them hang, its calls are turned away at once.
pub const PER_SOURCE: usize = 4;
/// How many threads may be at work, not counting those that are [`SLOW`].
const AT_WORK: usize = 16;
/// Longer than a job ever takes on a file system that answers.
pub(super) const SLOW: Duration = Duration::from_millis(100);
/// A thread that has begun its job this lately is likely to be through with it before another one has woken.
const JUST_BEGUN: Duration = Duration::from_micros(150);
/// Calls that are served one after the other come as close as this; a caller that connects for each is slower.
const TOGETHER: Duration = Duration::from_micros(200);
/// How long a thread that has nothing to do stays awake where there are several callers. Only one does at a time.
pub(super) const LINGER: Duration = Duration::from_micros(100);
/// After so many calls in a row that had no other beside them, there is one caller, it seems.
const COMPANY: u32 = 4;
/// How many threads there may be, whatever hangs.
const THREADS: usize = 512;

/// A job that waits for a thread.
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) source: Arc<str>,
    pub(super) whose: Whose,
    pub(super) work: Box<dyn Work>,
}

/// Why there is a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// A call asks for it.
    Call,
    /// The plugin itself looks after what it has published.
    Own,
}

/// A job that a thread works on.
pub(super) struct Running {
    pub(super) source: Arc<str>,
    pub(super) whose: Whose,
    pub(super) since: Instant,
    /// Whether its caller waits no more.
    pub(super) given_up: bool,
    /// Whether the leader does it ([`super::lead`]), who takes no other one from here when it is through.
    pub(super) led: bool,
}

/// The jobs and threads of one mount namespace.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) jobs: VecDeque<Pending>,
    pub(super) running: BTreeMap<u64, Running>,
    pub(super) idle: usize,
    /// Those of the idle ones that nobody has woken. The one that came last is woken first, so that with little to do
    /// the others have nothing to do for long, and end.
    pub(super) parked: Vec<Arc<Condvar>>,
    /// How many of the idle ones look for a job themselves for a moment, and need not be woken.
    pub(super) awake: usize,
    /// Threads that exist.
    pub(super) alive: usize,
    /// Numbers of threads that have ended, for new ones: each names a slot of the workshop, which stays.
    pub(super) free_numbers: Vec<usize>,
    next_number: usize,
    pub(super) next_job: u64,
    /// For how many more calls it is assumed that there are several callers.
    company: u32,
    /// The connection of the call before, and when that came.
    last: Option<(u64, Instant)>,
    pub(super) closed: bool,
}

impl Queue {
    fn at_work(&self, source: &str) -> usize {
        self.running.values().filter(|running| *running.source == *source).count()
    }

    /// How many threads hang on a source.
    pub(super) fn stuck(&self, source: &str) -> usize {
        self.running.values().filter(|running| running.given_up && *running.source == *source).count()
    }

    /// Whether a thread that works for the source will come to its next job in a moment. Then no second one is woken: the two
    /// would only wait for one another, because the kernel has one lock for all mounts. Jobs for other sources don't wait, and
    /// neither do unpublishes, each of which has a name of its own: they sleep meanwhile (synchronize_rcu in
    /// `namespace_unlock`, fs/namespace.c), and many can do so at once.
    pub(super) fn is_served(&self, source: &str, now: Instant) -> bool {
        let just_begun = |since| now.saturating_duration_since(since) < JUST_BEGUN;
        self.running.values().any(|running| *running.source == *source && !running.led && just_begun(running.since))
    }

    /// A call that comes on another connection than the one just before: there is more than one caller.
    pub(super) fn called_on(&mut self, connection: u64, now: Instant) {
        let before = self.last.replace((connection, now));
        if before.is_some_and(|(other, then)| other != connection && now.saturating_duration_since(then) < TOGETHER) {
            self.company = COMPANY;
        }
    }

    /// Whether a call's job that comes now is alone, and calls were so lately. If not, it is taken down.
    pub(super) fn comes_alone(&mut self) -> bool {
        let pending = self.jobs.iter().any(|job| job.whose == Whose::Call);
        if pending || self.running.values().any(|running| running.whose == Whose::Call && !running.given_up) {
            self.company = COMPANY;
        } else if self.company > 0 {
            self.company -= 1;
        } else {
            return true;
        }
        false
    }

    /// A number for a new thread.
    pub(super) fn take_number(&mut self) -> usize {
        self.free_numbers.pop().unwrap_or_else(|| {
            self.next_number += 1;
            self.next_number - 1
        })
    }

    /// The first job whose source has a thread to spare.
    pub(super) fn take(&mut self) -> Option<Pending> {
        let at = self.jobs.iter().position(|job| self.at_work(&job.source) < PER_SOURCE)?;
        self.jobs.remove(at)
    }

    /// An idle thread to be woken, if there is one and no other is awake.
    pub(super) fn next_to_wake(&mut self) -> Option<Arc<Condvar>> {
        if self.jobs.len() > self.awake { self.parked.pop() } else { None }
    }

    /// Whether there were several callers lately, so that the next job is likely to come before a thread that has nothing to do
    /// would have slept and been woken.
    pub(super) const fn has_company(&self) -> bool {
        self.company > 0
    }

    /// Lets the threads end when they have nothing more to do.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for thread in self.parked.drain(..) {
            thread.notify_one();
        }
    }

    /// Takes a thread off those that wait to be woken. Whether it was one of them, so that nobody has woken it.
    pub(super) fn unpark(&mut self, thread: &Arc<Condvar>) -> bool {
        let at = self.parked.iter().position(|parked| Arc::ptr_eq(parked, thread));
        at.map(|at| self.parked.remove(at)).is_some()
    }

    /// Whether there is work that no thread will come to at once.
    pub(super) fn wants_thread(&self) -> bool {
        if self.jobs.len() <= self.idle || self.alive >= THREADS {
            return false;
        }
        let mut at_work: HashMap<&str, usize> = HashMap::new();
        let mut quick = 0;
        for running in self.running.values() {
            *at_work.entry(&running.source).or_default() += 1;
            quick += usize::from(running.since.elapsed() < SLOW);
        }
        let may_run = self.jobs.iter().filter(|job| {
            let count = at_work.entry(&job.source).or_default();
            *count += 1;
            *count <= PER_SOURCE
        });
        may_run.count() > self.idle && quick < AT_WORK
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("alive", &self.alive)
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::job::post;

    fn queue(running: &[(&str, u64, bool)], pending: &[&str]) -> Queue {
        let now = Instant::now();
        let running = running.iter().zip(0..).map(|(&(source, millis, given_up), id)| {
            let since = now.checked_sub(Duration::from_millis(millis)).unwrap_or(now);
            (id, Running { given_up, ..self::running(source, since) })
        });
        let jobs = pending.iter().zip(100..).map(|(&source, id)| self::pending(id, source));
        Queue { running: running.collect(), jobs: jobs.collect(), ..Queue::default() }
    }

    fn running(source: &str, since: Instant) -> Running {
        Running { source: source.into(), whose: Whose::Call, since, given_up: false, led: false }
    }

    fn pending(id: u64, source: &str) -> Pending {
        let (work, _) = post(|_, _| (), &Arc::default());
        Pending { id, source: source.into(), whose: Whose::Call, work }
    }

    #[test]
    fn a_source_gets_a_few_threads_and_the_others_pass_by() {
        let mut queue = queue(&[("a", 0, false); PER_SOURCE], &["a", "a", "b"]);
        assert!(queue.wants_thread());
        assert_eq!(queue.take().map(|job| job.id), Some(102));
        assert!(!queue.wants_thread());
        assert!(queue.take().is_none());
        queue.running.remove(&0);
        assert_eq!(queue.take().map(|job| job.id), Some(100));
    }

    #[test]
    fn slow_threads_do_not_count_but_all_together_do() {
        let names: Vec<String> = (0..AT_WORK).map(|n| n.to_string()).collect();
        let busy = |millis| names.iter().map(|name| (name.as_str(), millis, false)).collect::<Vec<_>>();
        assert!(!queue(&busy(0), &["x"]).wants_thread());
        assert!(queue(&busy(200), &["x"]).wants_thread());
        assert!(!Queue { idle: 1, ..queue(&busy(200), &["x"]) }.wants_thread());
        assert!(!Queue { alive: THREADS, ..queue(&busy(200), &["x"]) }.wants_thread());
    }

    #[test]
    fn the_thread_that_parked_last_is_woken_first() {
        let threads: Vec<Arc<Condvar>> = (0..3).map(|_| Arc::default()).collect();
        let mut queue = Queue { parked: threads.clone(), ..queue(&[], &["a"]) };
        assert!(queue.next_to_wake().is_some_and(|thread| Arc::ptr_eq(&thread, &threads[2])));
        assert!(!queue.unpark(&threads[2]), "it was woken");
        assert!(queue.unpark(&threads[0]), "it slept on");
        queue.close();
        assert!(!queue.unpark(&threads[1]), "the end wakes all");
    }

    #[test]
    fn a_job_is_left_to_a_thread_that_has_just_begun_for_its_source() {
        let queue = queue(&[("a", 0, false), ("b", 200, false)], &[]);
        let now = queue.running[&0].since;
        assert!(queue.is_served("a", now));
        assert!(!queue.is_served("a", now + JUST_BEGUN), "it may hang by now");
        assert!(!queue.is_served("b", now), "it may hang");
        assert!(!queue.is_served("c", now), "nobody waits for another's source");
        let led = Queue { running: [(0, Running { led: true, ..running("a", now) })].into(), ..Queue::default() };
        assert!(!led.is_served("a", now), "the leader goes on with the calls");
    }

    #[test]
    fn a_thread_is_woken_for_what_those_awake_do_not_take() {
        let parked = || vec![Arc::default(); 2];
        let wakes = |awake, jobs: &[&str]| {
            Queue { parked: parked(), awake, idle: 2 + awake, ..queue(&[], jobs) }.next_to_wake().is_some()
        };
        assert!(wakes(0, &["a"]));
        assert!(!wakes(1, &["a"]), "it looks by itself");
        assert!(wakes(1, &["a", "b"]));
    }

    #[test]
    fn a_call_is_alone_until_another_one_is_beside_it_and_again_after_some() {
        let mut queue = queue(&[("hung", 9999, true)], &[]);
        queue.jobs.push_back(Pending { whose: Whose::Own, ..pending(0, "mount table") });
        assert!(queue.comes_alone(), "neither the plugin's own nor those that were given up count");
        queue.jobs.push_back(pending(1, "a"));
        assert!(!queue.comes_alone() && queue.has_company());
        queue.jobs.clear();
        let alone: Vec<bool> = (0..6).map(|_| queue.comes_alone()).collect();
        assert_eq!(alone, [false, false, false, false, true, true]);
        queue.running.insert(7, Running { given_up: false, ..running("a", Instant::now()) });
        assert!(!queue.comes_alone());
    }

    #[test]
    fn calls_on_two_connections_at_one_time_are_company() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        for (connection, after, company) in
            [(1, Duration::ZERO, false), (1, TOGETHER / 2, false), (2, TOGETHER * 2, false), (3, TOGETHER * 2, true)]
        {
            queue.called_on(connection, start + after);
            assert_eq!(queue.has_company(), company, "{connection} after {after:?}");
        }
    }

    #[test]
    fn threads_that_nobody_waits_for_are_stuck() {
        let queue = queue(&[("a", 0, true), ("a", 0, false), ("b", 0, true)], &[]);
        assert_eq!((queue.stuck("a"), queue.at_work("a"), queue.stuck("c")), (1, 2, 0));
    }
}
