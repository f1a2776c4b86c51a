//! The seat of who leads: who has it, since when it is empty, and who takes it. Decided here, done by [`super::lead`].

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::Pool;
use super::queue::Pending;

/// Who is away for longer than this is not waited for. It is several times what a job takes.
pub(super) const PATIENCE: Duration = Duration::from_millis(1);
/// A job for the leader, with the namespace to do it in.
pub(super) type Given = (Arc<Pool>, Pending);

/// The leader's place.
#[derive(Default)]
pub(super) struct Seat {
    /// Which leader it is, counted from the first.
    leader: u64,
    /// Since when it has been outside of the runtime.
    away: Option<Instant>,
    /// What it is to do next.
    pub(super) job: Option<Given>,
    /// Tells the leader, which waits inside the runtime, of a job or of the end.
    pub(super) waker: Option<Waker>,
    /// Whether there is a follower. Without one, the leader does nothing that may hang.
    pub(super) followed: bool,
    /// Whether the follower will look without being asked to.
    alarmed: bool,
    pub(super) ended: bool,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat").field("leader", &self.leader).field("away", &self.away).finish_non_exhaustive()
    }
}

/// What the follower does after a look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It sleeps until it is called.
    Sleep,
    /// It looks again, after [`PATIENCE`]: the leader has just left.
    Again,
    /// It takes the seat, as this leader.
    Lead(u64),
    /// Serving has ended.
    End,
}

/// What becomes of a leader that has come back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Back {
    /// The seat is still its own.
    Leads,
    /// Another one leads, whom nobody follows.
    Follows,
    /// There are a leader and a follower.
    IsLeftOver,
}

impl Seat {
    pub(super) fn look(&mut self, now: Instant) -> Look {
        self.alarmed = false;
        match self.away {
            _ if self.ended => Look::End,
            None => Look::Sleep,
            Some(since) if now.saturating_duration_since(since) < PATIENCE => {
                self.alarmed = true;
                Look::Again
            }
            Some(_) => {
                self.leader += 1;
                self.away = None;
                self.followed = false;
                Look::Lead(self.leader)
            }
        }
    }

    /// The leader leaves for a job. Whether the follower must be told to look.
    pub(super) fn leave(&mut self, now: Instant) -> bool {
        self.away = Some(now);
        !std::mem::replace(&mut self.alarmed, true)
    }

    /// A leader comes back.
    pub(super) fn come_back(&mut self, leader: u64) -> Back {
        if self.leader == leader {
            self.away = None;
            return Back::Leads;
        }
        // No thread could be started for it, it may be.
        if std::mem::replace(&mut self.followed, true) { Back::IsLeftOver } else { Back::Follows }
    }

    /// Gives the leader a job, or the job back if it can't take one.
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
    fn a_leader_that_stays_away_loses_its_seat() {
        let mut seat = Seat { followed: true, ..Seat::default() };
        assert!(seat.leave(at(0)), "the follower sleeps");
        assert_eq!(seat.come_back(0), Back::Leads);
        assert!(!seat.leave(at(4800)), "the follower will look already");
        assert_eq!(seat.look(at(5000)), Look::Again);
        assert_eq!(seat.look(at(6000)), Look::Lead(1));
        assert!(!seat.followed && seat.away.is_none());
        assert_eq!(seat.come_back(0), Back::Follows, "no other thread has come yet");
        assert_eq!(seat.come_back(0), Back::IsLeftOver);
        assert_eq!(seat.come_back(1), Back::Leads);
    }

    #[test]
    fn a_follower_sleeps_while_the_leader_is_there() {
        let mut seat = Seat { followed: true, ..Seat::default() };
        assert!(seat.leave(at(0)) && seat.come_back(0) == Back::Leads);
        assert_eq!(seat.look(at(5000)), Look::Sleep);
        assert!(seat.leave(at(6000)), "it must be told again");
        seat.ended = true;
        assert_eq!(seat.look(at(9000)), Look::End);
    }
}
