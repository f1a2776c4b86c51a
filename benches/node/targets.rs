//! What the figures should be, and whether they are.

use serde::Serialize;

use crate::report::{DriverFacts, Report};

/// A figure that has a target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Target {
    /// Which figure.
    pub(crate) what: String,
    /// What was measured.
    pub(crate) value: f64,
    /// What it should be.
    pub(crate) limit: f64,
    /// Whether the limit is the least, or the most.
    pub(crate) least: bool,
    /// Whether it is so.
    pub(crate) met: bool,
}

impl Target {
    fn at_most(what: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { what: what.into(), value, limit, least: false, met: value <= limit }
    }

    fn at_least(what: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { what: what.into(), value, limit, least: true, met: value >= limit }
    }
}

const MIB: u64 = 1 << 20;

fn mib(bytes: u64) -> f64 {
    // Thousandths of a MiB fit into 32 bits up to 4 TiB.
    f64::from(u32::try_from(bytes * 1000 / MIB).unwrap_or(u32::MAX)) / 1000.0
}

/// How many times the publishes a second of a peer ours should be, with so many volumes held. None if no target says.
fn times(peer: &str, held: usize) -> Option<f64> {
    match (peer, held) {
        ("csi.spiffe.io", 0) => Some(10.0),
        ("hostpath.csi.k8s.io", 0) | ("csi.spiffe.io" | "hostpath.csi.k8s.io", 5000..) => Some(100.0),
        _ => None,
    }
}

/// Everything that has a target and was measured.
pub(crate) fn judge(report: &Report) -> Vec<Target> {
    let mut all = Vec::new();
    if let Some(column) = report.alone(0, 0) {
        for (key, what, limit) in [
            ("publishToFloor", "publish : direct calls + Probe, p50, 1 caller", 1.5),
            ("unpublishToFloor", "unpublish : direct calls + Probe, p50, 1 caller", 1.5),
            ("publishTail", "publish, p99 : p50, 1 caller", 5.0),
            ("unpublishTail", "unpublish, p99 : p50, 1 caller", 5.0),
            ("manyPublishTail", "publish, p99 : p50, many callers", 5.0),
            ("manyUnpublishTail", "unpublish, p99 : p50, many callers", 5.0),
        ] {
            all.extend(column.figures.get(key).map(|figure| Target::at_most(what, figure.value, limit)));
        }
    }
    for growth in report.growth.iter().filter(|growth| growth.crowd == 0 && growth.held >= 10_000) {
        for (key, call) in [("publish", "publish"), ("unpublish", "unpublish")] {
            let what = format!("{call} with {} held : with none, p50, 1 caller", growth.held);
            all.extend(growth.figures.get(key).map(|figure| Target::at_most(what, figure.value, 1.2)));
        }
    }
    if let Some(ours) = report.drivers.first() {
        let DriverFacts { binary_bytes, idle, start_ms, .. } = ours;
        all.push(Target::at_most("resident memory, idle, MiB", mib(idle.resident * 1024), 8.0));
        let most = report.columns.iter().filter(|column| column.driver == ours.name && column.held >= 10_000);
        let most = most
            .map(|column| (column.held, column.memory.resident.max(column.memory_after.resident)))
            .max_by_key(|&(_, resident)| resident);
        if let Some((held, resident)) = most {
            let what = format!("resident memory with {held} held, MiB");
            all.push(Target::at_most(what, mib(resident * 1024), 12.0));
        }
        all.push(Target::at_most("size of the binary, MiB", mib(*binary_bytes), 10.0));
        all.extend(start_ms.map(|start| Target::at_most("start to first good Probe, median, ms", start.value, 20.0)));
    }
    for advantage in &report.advantages {
        let figure = advantage.figures.get("publishRate");
        all.extend(figure.zip(times(&advantage.peer, advantage.held)).map(|(figure, limit)| {
            let what =
                format!("publishes a second, {} callers, {} held : {}", report.callers, advantage.held, advantage.peer);
            Target::at_least(what, figure.value, limit)
        }));
    }
    all
}
