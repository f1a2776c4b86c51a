//! The jobs of one mount namespace, and which thread does which: decided here, waited for elsewhere.
//!
//! No source may delay the others, even before a deadline has passed. So each gets only a few threads
//! ([`super::source`]), and its other jobs wait for those. A thread whose job takes longer than 100 ms no longer counts
//! as busy.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use super::Passes;
use super::job::Work;
use super::source::{Source, THREADS};
use super::tally::{Full, Tallies};

/// How many threads may be busy, not counting those that are [`SLOW`].
const AT_WORK: usize = 16;
/// Longer than any job takes on a file system that answers.
pub(super) const SLOW: Duration = Duration::from_millis(100);
/// A thread that began its job this recently will probably finish before another one has woken.
const JUST_BEGUN: Duration = Duration::from_micros(150);

/// A job that waits for a thread.
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) source: Source,
    pub(super) whose: Whose,
    pub(super) work: Box<dyn Work>,
}

/// Who wants a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// A call.
    Call,
    /// The plugin itself, to look after published volumes.
    Own,
}

/// A job that a thread is doing.
pub(super) struct Running {
    pub(super) source: Source,
    pub(super) whose: Whose,
    pub(super) since: Instant,
    /// Whether its caller has stopped waiting.
    pub(super) given_up: bool,
    /// Whether the leader does it ([`super::call_runtime`]). It takes no job from this queue afterwards.
    pub(super) led: bool,
    /// What nobody else may work on until the job has ended, even after its caller has gone.
    pub(super) passes: Passes,
}

/// The jobs and threads of one mount namespace.
#[derive(Default)]
pub(super) struct Queue {
    jobs: VecDeque<Pending>,
    running: BTreeMap<u64, Running>,
    /// The same jobs, counted under their bounds.
    tallies: Tallies,
    pub(super) idle: usize,
    /// Those idle threads that nobody has woken. The latest one is woken first. So with little to do the others stay
    /// idle, and end.
    pub(super) parked: Vec<Arc<Condvar>>,
    /// Threads that were started and have not entered the namespace yet. Each will take a job, as an idle one does.
    pub(super) starting: usize,
    /// Threads that are in the namespace, besides leaders.
    pub(super) alive: usize,
    /// Numbers of threads that have ended, for new ones. Each names a slot of the staging area, which stays.
    pub(super) free_numbers: Vec<usize>,
    next_number: usize,
    next_job: u64,
    pub(super) closed: bool,
}

impl Queue {
    /// A number for a new job.
    pub(super) fn number(&mut self) -> u64 {
        self.next_job += 1;
        self.next_job - 1
    }

    /// Adds a job that waits for a thread.
    pub(super) fn push(&mut self, job: Pending, now: Instant) {
        self.tallies.waits(&job.source, now);
        self.jobs.push_back(job);
    }

    /// Removes a job that no thread has taken yet.
    pub(super) fn withdraw(&mut self, id: u64, now: Instant) -> Option<Pending> {
        let at = self.jobs.iter().position(|job| job.id == id)?;
        let job = self.jobs.remove(at)?;
        self.tallies.waits_no_more(&job.source, now);
        Some(job)
    }

    /// Notes that a job runs.
    pub(super) fn begin(&mut self, id: u64, job: Running) {
        self.tallies.begins(&job.source, job.since);
        self.running.insert(id, job);
    }

    /// Notes that a job has ended. Drop what it held only once the queue is unlocked.
    pub(super) fn end(&mut self, id: u64, now: Instant) -> Option<Running> {
        let job = self.running.remove(&id)?;
        self.tallies.ends(&job.source, job.given_up, now);
        Some(job)
    }

    /// Notes that nobody waits for a running job any more. None if it isn't running.
    pub(super) fn give_up(&mut self, id: u64, now: Instant) -> Option<&mut Running> {
        let job = self.running.get_mut(&id)?;
        if !std::mem::replace(&mut job.given_up, true) {
            self.tallies.is_given_up(&job.source, now);
        }
        Some(job)
    }

    /// Whether a job may wait for a thread, or go on waiting. If not, what hangs.
    pub(super) fn admits(&self, source: &Source, waits: bool, now: Instant) -> Result<(), Full> {
        self.tallies.admits(source, usize::from(waits), now)
    }

    /// The source of a job that no thread has taken yet.
    pub(super) fn waits(&self, id: u64) -> Option<&Source> {
        self.jobs.iter().find(|job| job.id == id).map(|job| &job.source)
    }

    /// How many threads are known to hang on a source, and how many on its file system.
    pub(super) fn given_up(&self, source: &Source) -> (usize, usize) {
        self.tallies.given_up(source)
    }

    /// The sources of all running jobs that nobody waits for any more.
    pub(super) fn hanging(&self) -> impl Iterator<Item = &Source> {
        self.running.values().filter(|running| running.given_up).map(|running| &running.source)
    }

    /// How many jobs run.
    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    pub(super) fn has_jobs(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// How many threads hang, if all are taken, or all but those reserved for ending volumes.
    pub(super) fn exhausted(&self, now: Instant) -> Option<usize> {
        let slow = |running: &Running| now.saturating_duration_since(running.since) >= super::tally::HANGS;
        let all = self.running.len();
        let whole = all >= THREADS && self.running.values().all(slow);
        if whole { Some(all) } else { self.tallies.exhausted(now) }
    }

    /// Whether a thread that works for the source will soon take its next job. Then no second thread is woken: the
    /// kernel has one lock for all mounts, so the two would only wait for each other. Jobs for other sources don't
    /// wait. Neither do unpublishes, whose sources all differ: they sleep meanwhile (synchronize_rcu in
    /// `namespace_unlock`, fs/namespace.c), so many can run at once.
    pub(super) fn is_served(&self, source: &Source, now: Instant) -> bool {
        let just_begun = |since| now.saturating_duration_since(since) < JUST_BEGUN;
        self.running.values().any(|job| job.source.key() == source.key() && !job.led && just_begun(job.since))
    }

    /// Whether the leader is to do a call's job that comes now: no other call is under way, and nothing hangs that the
    /// job may meet.
    pub(super) fn is_for_leader(&self, source: &Source) -> bool {
        let waits = self.jobs.iter().any(|job| job.whose == Whose::Call);
        let runs = self.running.values().any(|running| running.whose == Whose::Call && !running.given_up);
        !waits && !runs && self.tallies.is_well(source) && !self.has_all_threads()
    }

    /// A number for a new thread, which counts as starting from now on.
    pub(super) fn expect_thread(&mut self) -> usize {
        self.starting += 1;
        self.take_number()
    }

    /// A free number for a thread.
    pub(super) fn take_number(&mut self) -> usize {
        self.free_numbers.pop().unwrap_or_else(|| {
            self.next_number += 1;
            self.next_number - 1
        })
    }

    /// Takes the first job whose source has a thread free. From now on it runs.
    pub(super) fn take(&mut self, now: Instant) -> Option<(u64, Box<dyn Work>)> {
        let at = self.jobs.iter().position(|job| self.tallies.has_room(&job.source, |_| 0))?;
        let Pending { id, source, whose, work } = self.jobs.remove(at)?;
        self.tallies.waits_no_more(&source, now);
        self.begin(id, Running { source, whose, since: now, given_up: false, led: false, passes: Passes::default() });
        Some((id, work))
    }

    /// An idle thread to wake, if there is one and a job waits.
    pub(super) fn next_to_wake(&mut self) -> Option<Arc<Condvar>> {
        if self.has_jobs() { self.parked.pop() } else { None }
    }

    /// Lets the threads end once they have no more work.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for thread in self.parked.drain(..) {
            thread.notify_one();
        }
    }

    /// Removes a thread from those that wait to be woken. Returns whether it was there, so that nobody has woken it.
    pub(super) fn unpark(&mut self, thread: &Arc<Condvar>) -> bool {
        let at = self.parked.iter().position(|parked| Arc::ptr_eq(parked, thread));
        at.map(|at| self.parked.remove(at)).is_some()
    }

    /// Whether a waiting job could run, as far as its source is concerned.
    pub(super) fn has_room(&self, source: &Source) -> bool {
        self.tallies.has_room(source, |_| 0)
    }

    /// Whether there are as many threads as there may be. A leader that does a job counts.
    fn has_all_threads(&self) -> bool {
        let leaders = self.running.values().filter(|running| running.led).count();
        self.alive + self.starting + leaders >= THREADS
    }

    /// Whether there is a job that no thread will take at once.
    pub(super) fn wants_thread(&self) -> bool {
        let free = self.idle + self.starting;
        if self.jobs.len() <= free || self.has_all_threads() {
            return false;
        }
        let quick = self.running.values().filter(|running| running.since.elapsed() < SLOW).count();
        if quick + self.starting >= AT_WORK {
            return false;
        }
        // The jobs that free threads will take count too.
        let mut taken: HashMap<u64, usize> = HashMap::new();
        let mut may_run = 0;
        for job in &self.jobs {
            if !self.tallies.has_room(&job.source, |bound| taken.get(&bound.key).copied().unwrap_or(0)) {
                continue;
            }
            may_run += 1;
            if may_run > free {
                return true;
            }
            for bound in job.source.bounds() {
                *taken.entry(bound.key).or_default() += 1;
            }
        }
        false
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
    use crate::job::post;
    use crate::source::PER_SOURCE;

    /// Running jobs, by source, age in milliseconds and whether they were given up; and waiting jobs.
    fn queue(running: &[(&str, u64, bool)], pending: &[&str]) -> Queue {
        let (now, mut queue) = (Instant::now(), Queue::default());
        for (&(source, millis, given_up), id) in running.iter().zip(0..) {
            let since = now.checked_sub(Duration::from_millis(millis)).unwrap_or(now);
            queue.begin(id, self::running(source, since));
            if given_up {
                queue.give_up(id, now).unwrap();
            }
        }
        pending.iter().zip(100..).for_each(|(&source, id)| queue.push(self::pending(id, source), now));
        queue
    }

    fn running(source: &str, since: Instant) -> Running {
        let passes = Passes::default();
        Running { source: Source::own(source), whose: Whose::Call, since, given_up: false, led: false, passes }
    }

    fn pending(id: u64, source: &str) -> Pending {
        let (work, _) = post(|_, _| (), &Arc::default());
        Pending { id, source: Source::own(source), whose: Whose::Call, work }
    }

    fn take(queue: &mut Queue) -> Option<u64> {
        queue.take(Instant::now()).map(|(id, _)| id)
    }

    #[test]
    fn a_source_gets_a_few_threads_and_the_others_pass_by() {
        let mut queue = queue(&[("a", 0, false); PER_SOURCE], &["a", "a", "b"]);
        assert!(queue.wants_thread());
        assert_eq!(take(&mut queue), Some(102));
        assert!(!queue.wants_thread());
        assert!(take(&mut queue).is_none());
        queue.end(0, Instant::now()).unwrap();
        assert_eq!(take(&mut queue), Some(100));
    }

    #[test]
    fn slow_threads_do_not_count_but_all_together_do() {
        let names: Vec<String> = (0..AT_WORK).map(|n| n.to_string()).collect();
        let busy = |millis| names.iter().map(|name| (name.as_str(), millis, false)).collect::<Vec<_>>();
        assert!(!queue(&busy(0), &["x"]).wants_thread());
        assert!(queue(&busy(200), &["x"]).wants_thread());
        assert!(!Queue { idle: 1, ..queue(&busy(200), &["x"]) }.wants_thread());
        assert!(!Queue { alive: THREADS, ..queue(&busy(200), &["x"]) }.wants_thread());
        assert!(!Queue { alive: THREADS - 1, starting: 1, ..queue(&busy(200), &["x", "y"]) }.wants_thread());
        let mut with_leader = Queue { alive: THREADS - 1, ..queue(&busy(200), &["x"]) };
        assert!(with_leader.wants_thread());
        with_leader.begin(99, Running { led: true, ..running("led", Instant::now()) });
        assert!(!with_leader.wants_thread());
    }

    #[test]
    fn a_thread_that_starts_takes_a_job_as_an_idle_one_does() {
        let mut queue = queue(&[], &["a", "b"]);
        for expected in 0..2 {
            assert!(queue.wants_thread());
            assert_eq!(queue.expect_thread(), expected);
        }
        assert!(!queue.wants_thread(), "both are on their way");
        let names: Vec<String> = (0..AT_WORK).map(|n| n.to_string()).collect();
        let many = names.iter().map(String::as_str).collect::<Vec<_>>();
        let mut queue = self::queue(&[("a", 0, false)], &many);
        let started = std::iter::repeat_with(|| queue.wants_thread().then(|| queue.expect_thread())).take(99).flatten();
        assert_eq!(started.count(), AT_WORK - 1, "they will be at work");
    }

    #[test]
    fn an_unpublish_is_done_where_no_other_job_gets_a_thread() {
        let names: Vec<String> = (0..THREADS - 64).map(|n| n.to_string()).collect();
        let busy: Vec<_> = names.iter().map(|name| (name.as_str(), 2000, true)).collect();
        let mut queue = Queue { alive: names.len(), ..queue(&busy, &["x"]) };
        assert!(!queue.wants_thread() && take(&mut queue).is_none());
        let later = Instant::now();
        assert_eq!(queue.exhausted(later), Some(names.len()));
        queue.push(Pending { source: Source::ending("v"), ..pending(7, "") }, later);
        assert!(queue.wants_thread());
        assert_eq!(take(&mut queue), Some(7));
        queue.end(0, later).unwrap();
        assert_eq!((take(&mut queue), queue.exhausted(later)), (Some(100), None));
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
        let is_served = |source, now| queue.is_served(&Source::own(source), now);
        assert!(is_served("a", now));
        assert!(!is_served("a", now + JUST_BEGUN), "it may hang by now");
        assert!(!is_served("b", now), "it may hang");
        assert!(!is_served("c", now), "nobody waits for another's source");
        let led = Queue { running: [(0, Running { led: true, ..running("a", now) })].into(), ..Queue::default() };
        assert!(!led.is_served(&Source::own("a"), now), "the leader goes on with the calls");
    }

    #[test]
    fn the_leader_does_only_what_comes_alone() {
        let (mut queue, now) = (queue(&[("hung", 9999, true)], &[]), Instant::now());
        let alone = |queue: &Queue| queue.is_for_leader(&Source::own("x"));
        queue.push(Pending { whose: Whose::Own, ..pending(0, "mount table") }, now);
        assert!(alone(&queue), "neither the plugin's own jobs nor those that were given up count");
        queue.push(pending(1, "a"), now);
        assert!(!alone(&queue));
        queue.withdraw(1, now).unwrap();
        assert!(alone(&queue));
        queue.begin(7, running("a", now));
        assert!(!alone(&queue));
    }

    /// Each job that hangs would take a leader with it.
    #[test]
    fn the_leader_does_nothing_on_what_hangs() {
        let directory = |sub| Source::directory(std::path::Path::new(sub), "e", None);
        let mut queue = Queue::default();
        assert!(queue.is_for_leader(&directory("/e/a")));
        queue.begin(0, Running { source: directory("/e/a"), led: true, ..running("", Instant::now()) });
        queue.give_up(0, Instant::now()).unwrap();
        assert!(!queue.is_for_leader(&directory("/e/b")));
        assert!(queue.is_for_leader(&Source::directory(std::path::Path::new("/f"), "f", None)));
        queue.end(0, Instant::now()).unwrap();
        assert!(queue.is_for_leader(&directory("/e/b")) && queue.running() == 0);
    }

    #[test]
    fn threads_that_nobody_waits_for_are_stuck() {
        let queue = queue(&[("a", 0, true), ("a", 0, false), ("b", 0, true)], &[]);
        assert_eq!((queue.given_up(&Source::own("a")), queue.given_up(&Source::own("c"))), ((1, 0), (0, 0)));
        let names: Vec<&str> = queue.hanging().map(|source| &*source.name).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
