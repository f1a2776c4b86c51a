//! Counts the jobs that run, hang and wait under each bound, and decides whether there is room for another.

use std::time::{Duration, Instant};

use super::source::{Bound, Level, Source};

/// Jobs count as hanging if none returns for this long. A slow file system returns one now and then.
pub(super) const HANGS: Duration = Duration::from_secs(1);

/// The jobs that are counted under one bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tally {
    at_work: usize,
    /// Those that nobody waits for any more.
    given_up: usize,
    waiting: usize,
    /// When the youngest running job began.
    begun: Instant,
}

/// A bound that leaves no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) level: Level,
    /// How many jobs hang.
    pub(super) hanging: usize,
}

/// The jobs under every bound, sorted by the bounds' keys. There are mostly few, and none needs its own allocation.
#[derive(Debug, Default)]
pub(super) struct Tallies(Vec<(u64, Tally)>);

impl Tallies {
    fn of(&self, bound: &Bound) -> Option<&Tally> {
        self.0.binary_search_by_key(&bound.key, |(key, _)| *key).ok().map(|at| &self.0[at].1)
    }

    fn change(&mut self, source: &Source, now: Instant, change: impl Fn(&mut Tally)) {
        for bound in source.bounds() {
            let at = match self.0.binary_search_by_key(&bound.key, |(key, _)| *key) {
                Ok(at) => at,
                Err(at) => {
                    self.0.insert(at, (bound.key, Tally { at_work: 0, given_up: 0, waiting: 0, begun: now }));
                    at
                }
            };
            let (_, tally) = &mut self.0[at];
            change(tally);
            if tally.at_work + tally.waiting == 0 {
                self.0.remove(at);
            }
        }
    }

    pub(super) fn waits(&mut self, source: &Source, now: Instant) {
        self.change(source, now, |tally| tally.waiting += 1);
    }

    pub(super) fn waits_no_more(&mut self, source: &Source, now: Instant) {
        self.change(source, now, |tally| tally.waiting = tally.waiting.saturating_sub(1));
    }

    pub(super) fn begins(&mut self, source: &Source, now: Instant) {
        self.change(source, now, |tally| {
            tally.at_work += 1;
            tally.begun = now;
        });
    }

    pub(super) fn is_given_up(&mut self, source: &Source, now: Instant) {
        self.change(source, now, |tally| tally.given_up += 1);
    }

    pub(super) fn ends(&mut self, source: &Source, given_up: bool, now: Instant) {
        self.change(source, now, |tally| {
            tally.at_work = tally.at_work.saturating_sub(1);
            tally.given_up = tally.given_up.saturating_sub(usize::from(given_up));
        });
    }

    /// Whether a job may run now, beside `more` others under each of its bounds.
    pub(super) fn has_room(&self, source: &Source, more: impl Fn(&Bound) -> usize) -> bool {
        source.bounds().all(|bound| self.of(bound).map_or(0, |tally| tally.at_work) + more(bound) < bound.most)
    }

    /// Whether a job may wait for a thread. It may not if every thread that it could get hangs: because they were given
    /// up, or because none has returned lately and enough others wait already. `counted` of those are the job itself.
    pub(super) fn admits(&self, source: &Source, counted: usize, now: Instant) -> Result<(), Full> {
        if self.0.is_empty() {
            return Ok(());
        }
        for bound in source.bounds() {
            let Some(tally) = self.of(bound).filter(|tally| tally.at_work >= bound.most) else { continue };
            let silent = now.saturating_duration_since(tally.begun) >= HANGS;
            if tally.given_up >= bound.most || (silent && tally.waiting.saturating_sub(counted) >= bound.waiting) {
                return Err(Full { level: bound.level, hanging: tally.at_work });
            }
        }
        Ok(())
    }

    /// Whether nothing is known to hang under the source's bounds, and there are enough threads.
    pub(super) fn is_well(&self, source: &Source) -> bool {
        self.0.is_empty()
            || source.bounds().all(|bound| match self.of(bound) {
                None => true,
                Some(tally) if bound.level == Level::Everything => tally.at_work < bound.most,
                Some(tally) => tally.given_up == 0,
            })
    }

    /// How many threads hang on the source itself, and how many on its file system.
    pub(super) fn given_up(&self, source: &Source) -> (usize, usize) {
        let at = |level| {
            let bound = source.bounds().find(|bound| bound.level == level);
            bound.and_then(|bound| self.of(bound)).map_or(0, |tally| tally.given_up)
        };
        (at(Level::Name), at(Level::Device))
    }

    /// How many jobs hold all threads but those reserved for ending volumes, and don't return. None if one is free.
    pub(super) fn exhausted(&self, now: Instant) -> Option<usize> {
        let bound = Bound::everything();
        let tally = self.of(&bound)?;
        let silent = now.saturating_duration_since(tally.begun) >= HANGS;
        (tally.at_work >= bound.most && silent).then_some(tally.at_work)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::source::{PER_DEVICE, PER_ENTRY, PER_SOURCE, PER_THOUGHT};

    fn at(entry: usize, sub: usize, device: Option<u32>) -> Source {
        Source::directory(Path::new(&format!("/{entry}/{sub}")), &format!("e{entry}"), device.map(|minor| (0, minor)))
    }

    /// Running jobs that began at `now`.
    fn busy(sources: impl IntoIterator<Item = Source>, now: Instant) -> Tallies {
        let mut tallies = Tallies::default();
        sources.into_iter().for_each(|source| tallies.begins(&source, now));
        tallies
    }

    fn room(tallies: &Tallies, source: &Source) -> bool {
        tallies.has_room(source, |_| 0)
    }

    /// 600 sub-paths of one stopped file system took all threads of the node.
    #[test]
    fn many_directories_of_one_entry_get_no_more_threads_than_the_entry() {
        let now = Instant::now();
        let mut tallies = Tallies::default();
        let mut begun = 0;
        for sub in 0..600 {
            let source = at(0, sub, None);
            if room(&tallies, &source) {
                tallies.begins(&source, now);
                begun += 1;
            }
        }
        assert_eq!(begun, PER_ENTRY);
        assert!(room(&tallies, &at(1, 0, None)) && room(&tallies, &Source::ending("v")));
    }

    #[test]
    fn one_hung_directory_leaves_the_others_of_its_entry_room() {
        let tallies = busy((0..PER_SOURCE).map(|_| at(0, 0, None)), Instant::now());
        assert!(!room(&tallies, &at(0, 0, None)));
        assert!(room(&tallies, &at(0, 1, None)));
    }

    #[test]
    fn fifty_entries_on_one_server_get_no_more_threads_than_it() {
        let now = Instant::now();
        let mut tallies = Tallies::default();
        let mut begun = 0;
        for n in 0..500 {
            let source = at(n % 50, n, Some(7));
            if room(&tallies, &source) {
                tallies.begins(&source, now);
                begun += 1;
            }
        }
        assert_eq!(begun, PER_THOUGHT);
        assert!(!room(&tallies, &at(99, 0, Some(7))) && room(&tallies, &at(99, 0, Some(8))));
        // Something else may be mounted there since, and hang. A volume that certainly lies on it may work.
        let volume = |n: usize| Source::published(Path::new(&format!("/x{n}")), Some("x"), Some((0, 7)));
        assert!(room(&tallies, &volume(0)));
        let begun = (0..100).filter(|n| {
            let may = room(&tallies, &volume(*n));
            if may {
                tallies.begins(&volume(*n), now);
            }
            may
        });
        assert_eq!(begun.count(), PER_DEVICE);
    }

    #[test]
    fn whatever_hangs_volumes_can_end() {
        let now = Instant::now();
        let most = Bound::everything().most;
        let tallies = busy((0..most).map(|n| at(n, n, None)), now);
        assert_eq!((tallies.exhausted(now), tallies.exhausted(now + HANGS)), (None, Some(most)));
        assert!(!room(&tallies, &at(9999, 0, None)) && !room(&tallies, &Source::own("records")));
        assert!(room(&tallies, &Source::ending("v")));
        let full = tallies.admits(&at(9999, 0, None), 0, now + HANGS);
        assert_eq!(full, Ok(()), "some may wait");
        let mut tallies = tallies;
        (0..64).for_each(|n| tallies.waits(&at(10_000 + n, 0, None), now));
        let full = tallies.admits(&at(9999, 0, None), 0, now + HANGS);
        assert_eq!(full, Err(Full { level: Level::Everything, hanging: most }));
        assert_eq!(tallies.admits(&Source::ending("v"), 0, now + HANGS), Ok(()));
    }

    #[test]
    fn as_many_wait_for_what_hangs_as_may_hang() {
        let now = Instant::now();
        let mut tallies = busy((0..PER_ENTRY).map(|sub| at(0, sub, None)), now);
        for sub in 0..600 {
            assert_eq!(tallies.admits(&at(0, 100 + sub, None), 0, now), Ok(()), "they have just begun");
            tallies.waits(&at(0, 100 + sub, None), now);
        }
        let later = now + HANGS;
        // Each checks again while it waits.
        let refused = (0..600).filter(|sub| {
            let source = at(0, 100 + sub, None);
            let refused = tallies.admits(&source, 1, later).is_err();
            if refused {
                tallies.waits_no_more(&source, later);
            }
            refused
        });
        assert_eq!(refused.count(), 600 - PER_ENTRY);
        let full = Full { level: Level::Entry, hanging: PER_ENTRY };
        assert_eq!(tallies.admits(&at(0, 9999, None), 0, later), Err(full));
        assert_eq!(tallies.admits(&at(1, 0, None), 0, later), Ok(()));
        // One returns: there is room, and jobs that begin now are waited for again.
        tallies.ends(&at(0, 0, None), false, later);
        assert_eq!(tallies.admits(&at(0, 9999, None), 0, later), Ok(()));
        tallies.begins(&at(0, 9998, None), later);
        assert_eq!(tallies.admits(&at(0, 9999, None), 0, later), Ok(()));
    }

    #[test]
    fn nobody_waits_for_threads_that_were_given_up() {
        let now = Instant::now();
        let source = at(0, 0, None);
        let mut tallies = busy((0..PER_SOURCE).map(|_| source.clone()), now);
        assert_eq!(tallies.given_up(&source), (0, 0));
        (0..PER_SOURCE).for_each(|_| tallies.is_given_up(&source, now));
        assert_eq!(tallies.admits(&source, 0, now), Err(Full { level: Level::Name, hanging: PER_SOURCE }));
        assert_eq!(tallies.given_up(&source), (PER_SOURCE, 0));
        (0..PER_SOURCE).for_each(|_| tallies.ends(&source, true, now));
        assert!(tallies.0.is_empty(), "nothing is kept of what has ended");
    }
}
