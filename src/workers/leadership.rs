//! Which thread leads, and when another one takes over. Pure: [`super::call_runtime`] does it.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::Pool;
use super::queue::Pending;

/// How long the leader may be away before the follower takes over: several times what a job takes.
pub(super) const AWAY_LIMIT: Duration = Duration::from_millis(1);
/// A job for the leader, with the pool in whose namespace it is done.
pub(super) type Given = (Arc<Pool>, Pending);

/// The state that the leader and the follower share.
#[derive(Default)]
pub(super) struct Leadership {
    /// The number of the current leader. The first one has 0.
    leader: u64,
    /// Since when the leader has been away from the runtime.
    away: Option<Instant>,
    /// The leader's next job.
    pub(super) job: Option<Given>,
    /// Wakes the leader, which waits in the runtime, when there is a job or serving ends.
    pub(super) waker: Option<Waker>,
    /// Whether there is a follower. Without one, the leader does nothing that may hang.
    pub(super) followed: bool,
    /// Whether the alarm is set, so that the follower will check.
    alarm_set: bool,
    pub(super) ended: bool,
}

impl std::fmt::Debug for Leadership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leadership").field("leader", &self.leader).field("away", &self.away).finish_non_exhaustive()
    }
}

/// What the follower does after a check.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// It sleeps until the next alarm.
    Sleep,
    /// It checks again after [`AWAY_LIMIT`]: the leader has just left.
    Again,
    /// It becomes the leader of this number, and starts a follower. That counts as being there: if it can't be started,
    /// [`Leadership::followed`] must be set to false.
    Lead(u64),
    /// Serving has ended.
    End,
}

/// What a leader does when it has come back from a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Returned {
    /// It still leads.
    Leads,
    /// Another thread leads and has no follower: it becomes that.
    Follows,
    /// There are a leader and a follower: it ends.
    Ends,
}

impl Leadership {
    /// The follower checks on the leader.
    pub(super) fn check(&mut self, now: Instant) -> Check {
        self.alarm_set = false;
        match self.away {
            _ if self.ended => Check::End,
            None => Check::Sleep,
            Some(since) if now.saturating_duration_since(since) < AWAY_LIMIT => {
                self.alarm_set = true;
                Check::Again
            }
            Some(_) => {
                self.leader += 1;
                self.away = None;
                Check::Lead(self.leader)
            }
        }
    }

    /// The leader leaves the runtime for a job. Returns whether the alarm must be set.
    pub(super) fn leave(&mut self, now: Instant) -> bool {
        self.away = Some(now);
        !std::mem::replace(&mut self.alarm_set, true)
    }

    /// The leader of this number comes back.
    pub(super) fn come_back(&mut self, leader: u64) -> Returned {
        if self.leader == leader {
            self.away = None;
            return Returned::Leads;
        }
        // The new leader may have failed to start one.
        if std::mem::replace(&mut self.followed, true) { Returned::Ends } else { Returned::Follows }
    }

    /// Gives the leader a job. Returns the job if the leader can't take one.
    pub(super) fn give(&mut self, job: Given) -> Option<Given> {
        if self.job.is_some() || !self.followed || self.ended {
            return Some(job);
        }
        self.job = Some(job);
        None
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now) + Duration::from_micros(micros)
    }

    #[test]
    fn a_leader_that_stays_away_is_replaced() {
        let mut state = Leadership { followed: true, ..Leadership::default() };
        assert!(state.leave(at(0)), "the follower sleeps");
        assert_eq!(state.come_back(0), Returned::Leads);
        assert!(!state.leave(at(4800)), "the alarm is set already");
        assert_eq!(state.check(at(5000)), Check::Again);
        assert_eq!(state.check(at(6000)), Check::Lead(1));
        assert!(state.followed && state.away.is_none());
        assert_eq!(state.come_back(0), Returned::Ends, "a follower is being started: a second one would never end");
        state.followed = false;
        assert_eq!(state.come_back(0), Returned::Follows, "it could not be started");
        assert_eq!(state.come_back(0), Returned::Ends);
        assert_eq!(state.come_back(1), Returned::Leads);
    }

    #[test]
    fn a_follower_sleeps_while_the_leader_is_in_the_runtime() {
        let mut state = Leadership { followed: true, ..Leadership::default() };
        assert!(state.leave(at(0)) && state.come_back(0) == Returned::Leads);
        assert_eq!(state.check(at(5000)), Check::Sleep);
        assert!(state.leave(at(6000)), "the alarm must be set again");
        state.ended = true;
        assert_eq!(state.check(at(9000)), Check::End);
    }
}
