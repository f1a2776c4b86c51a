//! A worker: one driver on a node of its own, measured on the parent's orders.
//!
//! It lives in the driver's mount namespace, so the mounts there are the driver's, the direct calls' and its own. It
//! reads an order a line from its standard input and writes an answer a line to its standard output, both JSON.

use std::io::Write;
use std::time::{Duration, Instant};

use kernel::namespace::Proc;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::direct::Direct;
use crate::driver::{Driver, Subject};
use crate::place::Place;
use crate::samples::{Memory, Round};
use crate::stats::number;
use crate::volume::Volume;
use crate::{Outcome, process};

/// One call in so many is made beforehand, and not counted.
const WARM: usize = 4;

/// What takes turns, call by call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// An empty round trip.
    Probe,
    /// The direct calls of a publish and an unpublish.
    Direct,
    /// A publish and an unpublish.
    Publish,
    /// The same with staging.
    Stage,
}

/// In which order: each part comes right after each other one equally often (a Williams design). What comes before matters: after
/// mount calls of its own the client is out of the habit of calling, and finds its caches cold and the driver asleep.
const TURNS: [[Part; 4]; 4] = {
    use Part::{Direct, Probe, Publish, Stage};
    [
        [Probe, Direct, Stage, Publish],
        [Direct, Publish, Probe, Stage],
        [Publish, Stage, Direct, Probe],
        [Stage, Probe, Publish, Direct],
    ]
};

/// What a worker is started with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Who is measured.
    pub(crate) subject: Subject,
    /// Mounts in the namespace that have nothing to do with any volume.
    pub(crate) crowd: usize,
    /// Mounts that every namespace has besides.
    pub(crate) others: usize,
    /// How many callers many are.
    pub(crate) callers: usize,
    /// How often the start is timed.
    pub(crate) starts: usize,
    /// How much a round does.
    pub(crate) size: Size,
    /// How many seconds getting to a number of held volumes may take.
    pub(crate) fill_seconds: u64,
}

/// How much a round does at most; a slow driver does less, see [`Size::BUDGET`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Size {
    /// Single calls of each kind by one caller.
    pub(crate) single: usize,
    /// Pairs with a connection for each call.
    pub(crate) fresh: usize,
    /// Volumes of one caller's burst.
    pub(crate) solo: usize,
    /// Volumes of each of many callers in their burst, and pairs of each.
    pub(crate) each: usize,
}

impl Size {
    /// How many seconds each part of a round should take at most.
    const BUDGET: f64 = 0.3;

    /// What fits into the budget if a pair of calls takes so many seconds. Never less than two of what takes turns.
    fn fitting(self, pair: f64, callers: usize) -> Self {
        let fits = |most: usize, pair: f64| {
            (1..=most).rev().find(|&count| number(count) * pair <= Self::BUDGET).unwrap_or(1).max(most.min(2))
        };
        let all = pair * number(callers);
        Self {
            single: fits(self.single, pair),
            fresh: fits(self.fresh, pair),
            solo: fits(self.solo, pair),
            each: (1..=self.each).rev().find(|&count| number(count) * all <= Self::BUDGET * 2.0).unwrap_or(1),
        }
    }
}

/// What the parent asks for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Hold this many volumes.
    Hold(usize),
    /// Measure a round.
    Round,
}

/// The first answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The driver's name.
    pub(crate) name: String,
    /// The mount namespace's inode.
    pub(crate) namespace: u64,
    /// Before the first call but Probe.
    pub(crate) idle: Memory,
    /// From start to first good Probe, in ms, each.
    pub(crate) starts: Vec<f64>,
    /// Of the executable, in bytes.
    pub(crate) binary: u64,
}

/// The answer to [`Order::Hold`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VolumeCount {
    /// How many are held now.
    pub(crate) volumes: usize,
    /// What it took in seconds.
    pub(crate) took: f64,
    /// The driver's memory, a second later.
    pub(crate) memory: Memory,
}

struct Worker {
    job: Job,
    place: Place,
    driver: Driver,
    client: Client,
    direct: Direct,
    /// Published and unpublished in each round.
    pool: Vec<Volume>,
    /// Staged and unstaged in each round.
    to_stage: Option<Volume>,
    held: Vec<Volume>,
    /// What fits into a round with this many held.
    size: Option<Size>,
}

/// Works off a job, which is JSON.
pub(crate) fn work(job: &str) -> Outcome<()> {
    let job: Job = serde_json::from_str(job)?;
    let (place, mut driver) = match &job.subject {
        Subject::Hostmount(exe) => {
            let place = Place::build(None, &[exe])?;
            let driver = Driver::hostmount(exe, &place)?;
            (place, driver)
        }
        Subject::Peer(peer) => {
            let pid = peer.enter()?;
            let exe = std::fs::read_link(format!("/proc/{pid}/exe"))?;
            (Place::build(peer.dir.as_deref(), &[&peer.socket, &exe])?, Driver::peer(peer, pid))
        }
    };
    let socket = driver.socket.clone();
    let client = Client::connect(&socket, job.callers, || driver.alive())?;
    let hello = Hello {
        name: client.name()?,
        namespace: Proc::new()?.thread_mount_namespace()?.inode,
        idle: process::memory(driver.pid)?,
        starts: driver.time_starts(&place, job.starts)?,
        binary: driver.binary_size()?,
    };
    let pool = job.callers * job.size.each.max(job.size.solo.div_ceil(job.callers));
    let mut worker = Worker {
        direct: Direct::new(&place, job.callers, pool)?,
        pool: (0..pool).map(|number| driver.volume(&place, &client, number)).collect::<Outcome<_>>()?,
        to_stage: driver.to_stage(&place, &client)?,
        held: Vec::new(),
        size: None,
        job,
        place,
        driver,
        client,
    };
    // After the plugin's start, and private: they are in the kubelet's namespace only.
    worker.place.add_crowd(worker.job.crowd + worker.job.others)?;
    std::thread::sleep(Duration::from_millis(200));
    say(&hello)?;
    for order in std::io::stdin().lines() {
        match serde_json::from_str(&order?)? {
            Order::Hold(volumes) => say(&worker.hold(volumes)?)?,
            Order::Round => say(&worker.round()?)?,
        }
    }
    worker.end()
}

fn say(answer: &impl Serialize) -> Outcome<()> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    std::io::stdout().write_all(line.as_bytes())?;
    Ok(())
}

impl Worker {
    /// Publishes or unpublishes until so many are held, or the time is over.
    fn hold(&mut self, volumes: usize) -> Outcome<VolumeCount> {
        let begin = Instant::now();
        let deadline = begin + Duration::from_secs(self.job.fill_seconds);
        self.size = None;
        // Few at a time for a slow driver, so that the deadline is met.
        let step = self.job.callers * 4;
        while self.held.len() < volumes && Instant::now() < deadline {
            let first = self.held.len();
            let next = (first..volumes.min(first + step))
                .map(|number| self.driver.volume(&self.place, &self.client, self.pool.len() + number))
                .collect::<Outcome<Vec<_>>>()?;
            self.client.publish(&next)?;
            self.held.extend(next);
        }
        while self.held.len() > volumes {
            let last = self.held.split_off(volumes.max(self.held.len().saturating_sub(step)));
            self.client.unpublish(&last)?;
            last.iter().try_for_each(|volume| self.driver.discard(&self.client, volume))?;
        }
        let took = begin.elapsed().as_secs_f64();
        // What follows a publish in the background has then settled.
        std::thread::sleep(Duration::from_secs(1));
        Ok(VolumeCount { volumes: self.held.len(), took, memory: process::memory(self.driver.pid)? })
    }

    /// Measures everything once. The parts that are compared take turns, call by call.
    fn round(&mut self) -> Outcome<Round> {
        let first = self.pool.first().ok_or("no volumes")?;
        let callers = self.job.callers;
        let size = match self.size {
            Some(size) => size,
            None => {
                let begin = Instant::now();
                self.client.pair(first)?;
                self.job.size.fitting(begin.elapsed().as_secs_f64(), callers)
            }
        };
        self.size = Some(size);
        let mut round = Round::default();
        // The other workers had their turns meanwhile: what they have put out of the processor's caches comes back first.
        for _ in 0..size.single.div_ceil(WARM) {
            self.client.probe()?;
            self.direct.pair()?;
            self.client.pair(first)?;
        }
        for number in 0..self.job.size.single {
            for part in TURNS[number % TURNS.len()] {
                match part {
                    Part::Probe => round.probe.push(self.client.probe()?),
                    Part::Direct => {
                        let (publish, unpublish) = self.direct.pair()?;
                        round.direct_publish.push(publish);
                        round.direct_unpublish.push(unpublish);
                    }
                    // What is compared with a slow driver is measured as often as always.
                    Part::Publish | Part::Stage if number >= size.single => {}
                    Part::Publish => {
                        let (publish, unpublish) = self.client.pair(first)?;
                        round.publish.push(publish);
                        round.unpublish.push(unpublish);
                    }
                    Part::Stage => {
                        if let Some(volume) = &self.to_stage {
                            round.stage.push(self.client.stage(volume)?);
                            round.unstage.push(self.client.unstage(volume)?);
                        }
                    }
                }
            }
        }
        for _ in 0..size.fresh {
            self.client.fresh(first, &mut round)?;
        }
        let pool = |count: usize| self.pool.get(..count).ok_or("fewer volumes than a burst takes");
        round.solo = self.client.burst(1, pool(size.solo)?, self.driver.pid)?;
        round.direct_solo = self.direct.burst(1, self.job.size.solo)?;
        round.many = self.client.burst(callers, pool(callers * size.each)?, self.driver.pid)?;
        round.direct_many = self.direct.burst(callers, self.job.size.each)?;
        round.probes = self.client.probes(self.job.size.each)?;
        round.pairs = self.client.pairs(&self.pool, size.each)?;
        round.direct_pairs = self.direct.pairs(callers, self.job.size.each)?;
        Ok(round)
    }

    /// Leaves a peer as it was found; hostmount ends, and its namespace with it.
    fn end(mut self) -> Outcome<()> {
        if matches!(self.job.subject, Subject::Peer(_)) {
            self.job.fill_seconds = u64::from(u32::MAX);
            self.hold(0)?;
            self.pool.iter().try_for_each(|volume| self.driver.discard(&self.client, volume))?;
            if let Some(volume) = &self.to_stage {
                // It is unstaged between rounds.
                self.client.stage(volume)?;
                self.driver.discard(&self.client, volume)?;
            }
        }
        drop(self.direct);
        let runtime = self.client.close();
        self.driver.stop(&runtime)
    }
}
