//! What one round measures, as a worker sends it. Times of single calls in µs, all others in seconds.

use serde::{Deserialize, Serialize};

use crate::stats::number;

/// One round in one worker.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Round {
    /// An empty round trip on the kept connection.
    pub(crate) probe: Vec<f64>,
    /// The system calls of a publish, made directly.
    pub(crate) direct_publish: Vec<f64>,
    /// The system calls of an unpublish, made directly.
    pub(crate) direct_unpublish: Vec<f64>,
    /// NodePublishVolume, one caller.
    pub(crate) publish: Vec<f64>,
    /// NodeUnpublishVolume, one caller.
    pub(crate) unpublish: Vec<f64>,
    /// NodeStageVolume; empty where the driver doesn't stage.
    pub(crate) stage: Vec<f64>,
    /// NodeUnstageVolume; likewise.
    pub(crate) unstage: Vec<f64>,
    /// A connection made for one Probe.
    pub(crate) fresh_probe: Vec<f64>,
    /// A connection made for one NodePublishVolume.
    pub(crate) fresh_publish: Vec<f64>,
    /// A connection made for one NodeUnpublishVolume.
    pub(crate) fresh_unpublish: Vec<f64>,
    /// Calls without a pause by one caller.
    pub(crate) solo: Burst,
    /// Calls without a pause by many callers.
    pub(crate) many: Burst,
    /// The direct calls without a pause on one thread.
    pub(crate) direct_solo: Burst,
    /// The direct calls without a pause on as many threads as there are callers.
    pub(crate) direct_many: Burst,
    /// Empty round trips, many callers.
    pub(crate) probes: Throughput,
    /// Publish and unpublish in turn, many callers.
    pub(crate) pairs: Throughput,
    /// The same by direct calls.
    pub(crate) direct_pairs: Throughput,
}

/// Volumes published by some callers at once, and after the last of them unpublished likewise.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Burst {
    /// Of each publish.
    pub(crate) publish: Vec<f64>,
    /// Of each unpublish.
    pub(crate) unpublish: Vec<f64>,
    /// From the first publish's begin to the last one's end.
    pub(crate) publish_took: f64,
    /// From the first unpublish's begin to the last one's end.
    pub(crate) unpublish_took: f64,
    /// What the driver's process and its children used of the processors meanwhile.
    pub(crate) publish_cpu: f64,
    /// The same of the unpublishes.
    pub(crate) unpublish_cpu: f64,
}

impl Burst {
    /// Publishes a second.
    pub(crate) fn publish_rate(&self) -> f64 {
        number(self.publish.len()) / self.publish_took
    }

    /// Unpublishes a second.
    pub(crate) fn unpublish_rate(&self) -> f64 {
        number(self.unpublish.len()) / self.unpublish_took
    }
}

/// What many callers do over and over, each without a pause.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Throughput {
    /// How often all of them together.
    pub(crate) count: usize,
    /// From the first one's begin to the last one's end.
    pub(crate) took: f64,
}

impl Throughput {
    /// How often a second.
    pub(crate) fn rate(&self) -> f64 {
        number(self.count) / self.took
    }
}

/// What a process has in memory, in KiB (proc_pid_status(5), proc_pid_smaps(5)).
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Resident, shared pages included.
    pub(crate) resident: u64,
    /// Proportional: a page that n processes share counts a n-th.
    pub(crate) proportional: u64,
    /// Anonymous: heap and stacks, what the process can't share.
    pub(crate) anonymous: u64,
}
