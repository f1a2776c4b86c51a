//! Every figure that is taken from the rounds: its name, what it is of, and how it is reckoned.
//!
//! Medians, ratios and rates are taken within each round, so that what disturbs the machine disturbs both sides of a
//! comparison; the figure is the median of the rounds. A 99th percentile needs more samples than a round has: it is of
//! all rounds together, and so is processor time, which the kernel tells in steps of 10 ms.

use serde::Serialize;

use crate::samples::{Burst, Round, Throughput};
use crate::stats::{Spread, number, quantile};

/// Where it is measured, as a heading says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// One caller.
    One,
    /// One caller that connects for each call.
    Fresh,
    /// Many callers.
    Many,
    /// The driver's processor time.
    Processor,
}

/// How a figure comes from the rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    /// The median of a round's samples, in µs.
    Half(fn(&Round) -> &[f64]),
    /// The 99th percentile of all rounds' samples, in µs.
    Tail(fn(&Round) -> &[f64]),
    /// The 99th percentile : the median, both of all rounds' samples.
    TailToHalf(fn(&Round) -> &[f64]),
    /// One ratio a round.
    Ratio(fn(&Round) -> Option<f64>),
    /// How many a second, in each round.
    Rate(fn(&Round) -> f64),
    /// µs for one: seconds of all rounds through a number of all rounds.
    Share(fn(&Round) -> (f64, usize)),
}

/// A figure's definition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Its name for machines.
    pub(crate) key: &'static str,
    /// Its heading.
    pub(crate) group: Group,
    /// Its name for people.
    pub(crate) what: &'static str,
    /// How it is reckoned.
    pub(crate) how: How,
}

/// A figure. The quartiles are of the rounds, where each round gives one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// The figure.
    pub(crate) value: f64,
    /// Lower quartile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) low: Option<f64>,
    /// Upper quartile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) high: Option<f64>,
}

impl Figure {
    /// A median with its quartiles.
    pub(crate) fn of(spread: Spread) -> Self {
        Self { value: spread.median, low: Some(spread.low), high: Some(spread.high) }
    }
}

const fn entry(key: &'static str, group: Group, what: &'static str, how: How) -> Entry {
    Entry { key, group, what, how }
}

fn half(samples: &[f64]) -> Option<f64> {
    quantile(samples, 50)
}

/// A call : the same system calls and an empty round trip.
fn to_floor(call: &[f64], direct: &[f64], trip: &[f64]) -> Option<f64> {
    Some(half(call)? / (half(direct)? + half(trip)?))
}

/// What the whole machine takes for a call when it does nothing else : for the same system calls and an empty round trip.
fn load_to_floor(calls: &Burst, direct: &Burst, trips: &Throughput, rate: fn(&Burst) -> f64) -> Option<f64> {
    Some(rate(calls).recip() / (rate(direct).recip() + trips.rate().recip())).filter(|ratio| ratio.is_finite())
}

/// All figures, in the order in which they are shown.
pub(crate) const CATALOGUE: &[Entry] = &[
    entry("probe", Group::One, "Probe, p50", How::Half(|r| &r.probe)),
    entry("directPublish", Group::One, "direct calls of a publish, p50", How::Half(|r| &r.direct_publish)),
    entry("directUnpublish", Group::One, "direct calls of an unpublish, p50", How::Half(|r| &r.direct_unpublish)),
    entry("publish", Group::One, "NodePublishVolume, p50", How::Half(|r| &r.publish)),
    entry("publishP99", Group::One, "NodePublishVolume, p99", How::Tail(|r| &r.publish)),
    entry("unpublish", Group::One, "NodeUnpublishVolume, p50", How::Half(|r| &r.unpublish)),
    entry("unpublishP99", Group::One, "NodeUnpublishVolume, p99", How::Tail(|r| &r.unpublish)),
    entry("stage", Group::One, "NodeStageVolume, p50", How::Half(|r| &r.stage)),
    entry("stageP99", Group::One, "NodeStageVolume, p99", How::Tail(|r| &r.stage)),
    entry("unstage", Group::One, "NodeUnstageVolume, p50", How::Half(|r| &r.unstage)),
    entry("unstageP99", Group::One, "NodeUnstageVolume, p99", How::Tail(|r| &r.unstage)),
    entry(
        "publishToFloor",
        Group::One,
        "publish : direct calls + Probe",
        How::Ratio(|r| to_floor(&r.publish, &r.direct_publish, &r.probe)),
    ),
    entry(
        "unpublishToFloor",
        Group::One,
        "unpublish : direct calls + Probe",
        How::Ratio(|r| to_floor(&r.unpublish, &r.direct_unpublish, &r.probe)),
    ),
    entry("publishTail", Group::One, "publish, p99 : p50", How::TailToHalf(|r| &r.publish)),
    entry("unpublishTail", Group::One, "unpublish, p99 : p50", How::TailToHalf(|r| &r.unpublish)),
    entry("directPublishTail", Group::One, "direct publish, p99 : p50", How::TailToHalf(|r| &r.direct_publish)),
    entry("soloPublishRate", Group::One, "publishes a second", How::Rate(|r| r.solo.publish_rate())),
    entry("soloUnpublishRate", Group::One, "unpublishes a second", How::Rate(|r| r.solo.unpublish_rate())),
    entry(
        "directSoloPublishRate",
        Group::One,
        "direct publishes a second",
        How::Rate(|r| r.direct_solo.publish_rate()),
    ),
    entry("freshProbe", Group::Fresh, "Probe, p50", How::Half(|r| &r.fresh_probe)),
    entry("freshPublish", Group::Fresh, "NodePublishVolume, p50", How::Half(|r| &r.fresh_publish)),
    entry("freshUnpublish", Group::Fresh, "NodeUnpublishVolume, p50", How::Half(|r| &r.fresh_unpublish)),
    entry(
        "freshPublishToFloor",
        Group::Fresh,
        "publish : direct calls + such a Probe",
        How::Ratio(|r| to_floor(&r.fresh_publish, &r.direct_publish, &r.fresh_probe)),
    ),
    entry(
        "freshUnpublishToFloor",
        Group::Fresh,
        "unpublish : direct calls + such a Probe",
        How::Ratio(|r| to_floor(&r.fresh_unpublish, &r.direct_unpublish, &r.fresh_probe)),
    ),
    entry("manyPublish", Group::Many, "NodePublishVolume, p50", How::Half(|r| &r.many.publish)),
    entry("manyPublishP99", Group::Many, "NodePublishVolume, p99", How::Tail(|r| &r.many.publish)),
    entry("manyUnpublish", Group::Many, "NodeUnpublishVolume, p50", How::Half(|r| &r.many.unpublish)),
    entry("manyUnpublishP99", Group::Many, "NodeUnpublishVolume, p99", How::Tail(|r| &r.many.unpublish)),
    entry("manyPublishTail", Group::Many, "publish, p99 : p50", How::TailToHalf(|r| &r.many.publish)),
    entry("manyUnpublishTail", Group::Many, "unpublish, p99 : p50", How::TailToHalf(|r| &r.many.unpublish)),
    entry("publishRate", Group::Many, "publishes a second", How::Rate(|r| r.many.publish_rate())),
    entry("unpublishRate", Group::Many, "unpublishes a second", How::Rate(|r| r.many.unpublish_rate())),
    entry("probeRate", Group::Many, "Probes a second", How::Rate(|r| r.probes.rate())),
    entry("pairRate", Group::Many, "pairs a second", How::Rate(|r| r.pairs.rate())),
    entry("directPublishRate", Group::Many, "direct publishes a second", How::Rate(|r| r.direct_many.publish_rate())),
    entry(
        "directUnpublishRate",
        Group::Many,
        "direct unpublishes a second",
        How::Rate(|r| r.direct_many.unpublish_rate()),
    ),
    entry("directPairRate", Group::Many, "direct pairs a second", How::Rate(|r| r.direct_pairs.rate())),
    entry(
        "publishLoadToFloor",
        Group::Many,
        "a publish's time : direct calls + Probe",
        How::Ratio(|r| load_to_floor(&r.many, &r.direct_many, &r.probes, Burst::publish_rate)),
    ),
    entry(
        "unpublishLoadToFloor",
        Group::Many,
        "an unpublish's time : direct calls + Probe",
        How::Ratio(|r| load_to_floor(&r.many, &r.direct_many, &r.probes, Burst::unpublish_rate)),
    ),
    entry(
        "pairRateToDirect",
        Group::Many,
        "pairs a second : direct",
        How::Ratio(|r| Some(r.pairs.rate() / r.direct_pairs.rate())),
    ),
    entry(
        "soloPublishCpu",
        Group::Processor,
        "for a publish, 1 caller",
        How::Share(|r| (r.solo.publish_cpu, r.solo.publish.len())),
    ),
    entry(
        "soloUnpublishCpu",
        Group::Processor,
        "for an unpublish, 1 caller",
        How::Share(|r| (r.solo.unpublish_cpu, r.solo.unpublish.len())),
    ),
    entry(
        "publishCpu",
        Group::Processor,
        "for a publish, many callers",
        How::Share(|r| (r.many.publish_cpu, r.many.publish.len())),
    ),
    entry(
        "unpublishCpu",
        Group::Processor,
        "for an unpublish, many callers",
        How::Share(|r| (r.many.unpublish_cpu, r.many.unpublish.len())),
    ),
];

impl Entry {
    /// What the figure is counted in.
    pub(crate) const fn unit(&self) -> &'static str {
        match self.how {
            How::Half(_) | How::Tail(_) | How::Share(_) => "us",
            How::TailToHalf(_) | How::Ratio(_) => "",
            How::Rate(_) => "/s",
        }
    }

    /// The figure of some rounds, none if they have no samples of it.
    pub(crate) fn of(&self, rounds: &[Round]) -> Option<Figure> {
        let pooled = |samples: fn(&Round) -> &[f64]| -> Vec<f64> {
            rounds.iter().flat_map(|round| samples(round).iter().copied()).collect()
        };
        let alone = |value| Figure { value, low: None, high: None };
        match self.how {
            How::Tail(samples) => quantile(&pooled(samples), 99).map(alone),
            How::TailToHalf(samples) => {
                let all = pooled(samples);
                Some(alone(quantile(&all, 99)? / half(&all)?))
            }
            How::Half(_) | How::Ratio(_) | How::Rate(_) => {
                Spread::of(rounds.iter().filter_map(|round| self.of_round(round))).map(Figure::of)
            }
            How::Share(share) => {
                let (seconds, count) = rounds
                    .iter()
                    .map(share)
                    .fold((0.0, 0), |(seconds, count), (more, number)| (seconds + more, count + number));
                (count > 0).then(|| alone(seconds * 1e6 / number(count)))
            }
        }
    }

    /// What a single round gives.
    pub(crate) fn of_round(&self, round: &Round) -> Option<f64> {
        match self.how {
            How::Half(samples) => half(samples(round)),
            How::Ratio(ratio) => ratio(round),
            How::Rate(rate) => Some(rate(round)).filter(|rate| rate.is_finite()),
            How::Tail(_) | How::TailToHalf(_) | How::Share(_) => None,
        }
    }

    /// The figure in some rounds : in the same rounds of another. None for figures that are ratios themselves.
    pub(crate) fn ratio(&self, above: &[Round], below: &[Round]) -> Option<Spread> {
        let series = |rounds: &[Round]| rounds.iter().map(|round| self.of_round(round)).collect::<Vec<_>>();
        match self.how {
            How::Half(_) | How::Rate(_) => Spread::of_ratios(&series(above), &series(below)),
            How::Tail(_) | How::TailToHalf(_) | How::Ratio(_) | How::Share(_) => None,
        }
    }

    /// How many times as good another driver's rounds are made by ours: its time : ours, our rate : its.
    pub(crate) fn advantage(&self, ours: &[Round], theirs: &[Round]) -> Option<Spread> {
        match self.how {
            How::Rate(_) => self.ratio(ours, theirs),
            _ => self.ratio(theirs, ours),
        }
    }

    /// Whether it is of the direct calls, which are the same whatever driver they stand beside.
    pub(crate) fn is_direct(&self) -> bool {
        self.key.starts_with("direct")
    }
}
