//! The result of a run: plain data, as `--json` writes it.
//!
//! | Field | |
//! |---|---|
//! | `kernel`, `processors` | of the machine |
//! | `rounds`, `callers` | how often was measured, and how many callers many are |
//! | `others` | mounts that every namespace has besides |
//! | `drivers[]` | `name`, `binaryBytes`, `idle` (memory), `startMs` (hostmount's only: start to first good Probe) |
//! | `imageBytes` | of the archive given with `--image` |
//! | `columns[]` | one for each driver and number of volumes: `driver`, `beside` (measured in turn with the peers, or with hostmount at other numbers), `held`, `crowd` (unrelated mounts in the namespace), `fillSeconds`, `memory` (a second after the last was published), `memoryAfter` (a second after all rounds), `figures` |
//! | `growth[]` | `held` and `crowd`, and each figure there : with nothing held, round by round |
//! | `advantages[]` | `peer`, `held`, and how many times as good hostmount is by each figure, round by round: the peer's time : ours, our rate : the peer's |
//! | `targets[]` | `what`, `value`, `limit`, `least` (whether the limit is the least, or the most), `met` |
//! | `skipped[]` | what wasn't measured, and why |
//!
//! `figures` are by the keys of the catalogue (`figures.rs`), each `value` and, where each round gives one, the quartiles
//! `low` and `high`; times in µs, rates a second. `memory` is in KiB: `resident`, `proportional`, `anonymous`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::chart::Line;
use crate::figures::{CATALOGUE, Figure};
use crate::samples::{Memory, Round};
use crate::stats::Spread;
use crate::targets::{self, Target};

/// A whole run.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) kernel: String,
    pub(crate) processors: usize,
    pub(crate) rounds: usize,
    pub(crate) callers: usize,
    pub(crate) others: usize,
    pub(crate) drivers: Vec<DriverFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image_bytes: Option<u64>,
    pub(crate) columns: Vec<Column>,
    pub(crate) growth: Vec<Growth>,
    pub(crate) advantages: Vec<Advantage>,
    pub(crate) targets: Vec<Target>,
    pub(crate) skipped: Vec<String>,
}

/// What doesn't depend on how much is held.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DriverFacts {
    pub(crate) name: String,
    pub(crate) binary_bytes: u64,
    pub(crate) idle: Memory,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_ms: Option<Figure>,
}

/// A driver with a number of volumes held.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Column {
    pub(crate) driver: String,
    pub(crate) beside: Beside,
    pub(crate) held: usize,
    pub(crate) crowd: usize,
    pub(crate) fill_seconds: f64,
    pub(crate) memory: Memory,
    pub(crate) memory_after: Memory,
    pub(crate) figures: BTreeMap<&'static str, Figure>,
}

/// What took turns with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Beside {
    /// hostmount with other numbers of volumes.
    Itself,
    /// The other drivers, with the same number.
    Peers,
}

/// hostmount with something held : with nothing held.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Growth {
    pub(crate) held: usize,
    pub(crate) crowd: usize,
    pub(crate) figures: BTreeMap<&'static str, Figure>,
}

/// hostmount beside a peer.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Advantage {
    pub(crate) peer: String,
    pub(crate) held: usize,
    pub(crate) figures: BTreeMap<&'static str, Figure>,
}

/// What was measured for a column.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) driver: String,
    pub(crate) held: usize,
    pub(crate) crowd: usize,
    pub(crate) fill_seconds: f64,
    pub(crate) memory: Memory,
    pub(crate) memory_after: Memory,
    pub(crate) rounds: Vec<Round>,
}

impl Measured {
    fn column(&self, beside: Beside) -> Column {
        Column {
            driver: self.driver.clone(),
            beside,
            held: self.held,
            crowd: self.crowd,
            fill_seconds: self.fill_seconds,
            memory: self.memory,
            memory_after: self.memory_after,
            figures: CATALOGUE.iter().filter_map(|entry| Some((entry.key, entry.of(&self.rounds)?))).collect(),
        }
    }
}

fn spreads(of: impl Fn(&crate::figures::Entry) -> Option<Spread>) -> BTreeMap<&'static str, Figure> {
    CATALOGUE.iter().filter_map(|entry| Some((entry.key, Figure::of(of(entry)?)))).collect()
}

impl Report {
    /// Adds hostmount with all numbers of volumes, which took turns. The first is with nothing held.
    pub(crate) fn add_alone(&mut self, all: &[Measured]) {
        let Some(first) = all.first() else { return };
        self.columns.extend(all.iter().map(|one| one.column(Beside::Itself)));
        self.growth.extend(all.iter().skip(1).map(|one| Growth {
            held: one.held,
            crowd: one.crowd,
            figures: spreads(|entry| entry.ratio(&one.rounds, &first.rounds)),
        }));
    }

    /// Adds hostmount and the peers with one number of volumes, which took turns.
    pub(crate) fn add_beside(&mut self, ours: &Measured, peers: &[Measured]) {
        self.columns.push(ours.column(Beside::Peers));
        for peer in peers {
            self.columns.push(peer.column(Beside::Peers));
            self.advantages.push(Advantage {
                peer: peer.driver.clone(),
                held: peer.held,
                figures: spreads(
                    |entry| {
                        if entry.is_direct() { None } else { entry.advantage(&ours.rounds, &peer.rounds) }
                    },
                ),
            });
        }
    }

    /// Holds what is there against the targets.
    pub(crate) fn judge(&mut self) {
        self.targets = targets::judge(self);
    }

    /// hostmount with so many volumes and other mounts, measured in turn with itself.
    pub(crate) fn alone(&self, held: usize, crowd: usize) -> Option<&Column> {
        self.columns
            .iter()
            .find(|column| column.beside == Beside::Itself && column.held == held && column.crowd == crowd)
    }

    /// The picture's lines: publish and unpublish of the floor, hostmount and the peers over the volumes held. hostmount
    /// and the floor are those of the peers' rounds, as far as there are any.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let Some(ours) = self.drivers.first().map(|driver| driver.name.as_str()) else { return Vec::new() };
        let mut lines = Vec::new();
        let floor = std::iter::once(("system calls + Probe", ours));
        let others = self.drivers.iter().skip(1).map(|driver| (driver.name.as_str(), driver.name.as_str()));
        for (colour, (name, driver)) in floor.chain([("hostmount", ours)]).chain(others).enumerate() {
            for (call, direct) in [("publish", "directPublish"), ("unpublish", "directUnpublish")] {
                let us = |column: &Column| {
                    let value = |key: &str| column.figures.get(key).map(|figure| figure.value);
                    if colour == 0 { Some(value(direct)? + value("probe")?) } else { value(call) }
                };
                let mut points = BTreeMap::new();
                // Those beside the peers come later, and take the place of those without.
                for column in self.columns.iter().filter(|column| column.driver == driver && column.crowd == 0) {
                    points.extend(us(column).map(|us| (column.held, us)));
                }
                let name = format!("{call}: {name}");
                lines.push(Line { name, colour, dashed: call == "unpublish", points: points.into_iter().collect() });
            }
        }
        lines
    }
}
