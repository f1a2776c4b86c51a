//! Defines and documents every metric.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use mounts::propagation::MountPropagation;
use pods::lookup::Count;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::Service;
use crate::containers::judge::{Counts, Flag};
use crate::volume_count::VolumeCount;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    rpc: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rpc {
    rpc: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Mounted {
    at: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Propagation {
    propagation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MountFlag {
    flag: &'static str,
}

/// Why a volume that is published again would be refused or made differently now. It stays as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The allow-list would refuse it or give it otherwise.
    AllowList,
    /// The look-up of its pod fails.
    Lookup,
    /// The job on its source fails.
    Source,
}

/// The metrics of a service.
pub struct Metrics {
    registry: Registry,
    calls: Family<Call, Counter>,
    durations: Family<Rpc, Histogram, fn() -> Histogram>,
    publishes: Family<Propagation, Counter>,
    kept: Family<Reason, Counter>,
    list_good: Gauge,
    list_entries: Gauge,
    list_loads: Counter,
    list_refusals: Counter<u64, AtomicU64>,
    stuck: Gauge,
    lookups: Family<Outcome, Histogram, fn() -> Histogram>,
    persistent_volumes: Counter,
    pods_known: Gauge,
    pod_watch_good: Gauge,
    registered: Gauge,
    registrations: Counter,
    refused_registrations: Counter,
    mounts: Family<Mounted, Gauge>,
    refused_connections: Family<Reason, Counter>,
    heals: Family<Outcome, Counter>,
    unhealthy: Family<Reason, Gauge>,
    weaker: Family<MountFlag, Gauge>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn durations() -> Histogram {
    // From 50 µs, about the minimum of a publish, to 26 s, more than any healthy file system takes.
    Histogram::new((0..20).map(|n| 5e-5 * f64::from(1_u32 << n)))
}

impl Metrics {
    /// All metrics, at zero.
    #[must_use]
    pub fn new(driver: &str) -> Self {
        let mut root = Registry::default();
        let registry = root.sub_registry_with_prefix("hostmount");
        let build = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("driver", driver.to_owned())];
        registry.register("build", "Version and name of the driver", Info::new(build));
        let metrics = Self {
            registry: Registry::default(),
            calls: Family::default(),
            durations: Family::new_with_constructor(durations as fn() -> Histogram),
            publishes: Family::default(),
            kept: Family::default(),
            list_good: Gauge::default(),
            list_entries: Gauge::default(),
            list_loads: Counter::default(),
            list_refusals: Counter::default(),
            stuck: Gauge::default(),
            lookups: Family::new_with_constructor(durations as fn() -> Histogram),
            persistent_volumes: Counter::default(),
            pods_known: Gauge::default(),
            pod_watch_good: Gauge::default(),
            registered: Gauge::default(),
            registrations: Counter::default(),
            refused_registrations: Counter::default(),
            mounts: Family::default(),
            refused_connections: Family::default(),
            heals: Family::default(),
            unhealthy: Family::default(),
            weaker: Family::default(),
        };
        registry.register("rpc", "CSI calls, by call and gRPC code", metrics.calls.clone());
        registry.register_with_unit(
            "rpc_duration",
            "How long CSI calls took",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register("publishes", "Volumes newly published, by propagation", metrics.publishes.clone());
        let kept = "Volumes published or staged again that stay as they were, by what would refuse them or give them otherwise now";
        registry.register("kept_volumes", kept, metrics.kept.clone());
        let good = "Whether the allow-list file as it is now is in force (1), or was refused (0)";
        registry.register("allow_list_good", good, metrics.list_good.clone());
        registry.register("allow_list_entries", "Entries of the allow-list in force", metrics.list_entries.clone());
        registry.register("allow_list_loads", "Allow-lists taken up", metrics.list_loads.clone());
        registry.register("allow_list_refusals", "Allow-lists refused", metrics.list_refusals.clone());
        registry.register("stuck_threads", "Mount threads that hang in a call on a source", metrics.stuck.clone());
        let held = "Volumes of this driver that are mounted now, published to pods or staged";
        registry.register("mounts", held, metrics.mounts.clone());
        registry.register("registered", "Whether the kubelet has registered the plugin", metrics.registered.clone());
        let times = "How often the kubelet has registered the plugin";
        registry.register("registrations", times, metrics.registrations.clone());
        let refusals = "How often the kubelet has refused to register the plugin";
        registry.register("refused_registrations", refusals, metrics.refused_registrations.clone());
        let refused = "Connections to the CSI socket that were closed at once";
        registry.register("refused_connections", refused, metrics.refused_connections.clone());
        let heals = "Running pods' volumes whose source came back, by whether they were given it (failed: each try; refused: each time that it is told)";
        registry.register("heals", heals, metrics.heals.clone());
        let unhealthy = "Published volumes whose source is dead, hangs or was deleted, as it was looked at last";
        registry.register("unhealthy_volumes", unhealthy, metrics.unhealthy.clone());
        let weaker = "Published volumes that lack a mount flag in a running container, or of which that is unknown";
        registry.register("weaker_volumes", weaker, metrics.weaker.clone());
        let looked = "How long it took to learn what a pod wants";
        registry.register_with_unit("pod_lookup_duration", looked, Unit::Seconds, metrics.lookups.clone());
        let asked = "PersistentVolumes asked for, because a pod's claims want different propagations";
        registry.register("persistent_volume_requests", asked, metrics.persistent_volumes.clone());
        registry.register("pods_known", "Pods of the node, as its pod watch knows them", metrics.pods_known.clone());
        let watching = "Whether the pod watch works (1), or fails or was not asked for (0)";
        registry.register("pod_watch_good", watching, metrics.pod_watch_good.clone());
        Self { registry: root, ..metrics }
    }

    /// Counts a call, by its name and the name of its code.
    pub fn call(&self, rpc: &'static str, code: &'static str, took: Duration) {
        self.calls.get_or_create(&Call { rpc, code }).inc();
        self.durations.get_or_create(&Rpc { rpc }).observe(took.as_secs_f64());
    }

    /// Counts a volume that was newly published.
    pub fn published(&self, propagation: MountPropagation) {
        self.publishes.get_or_create(&Propagation { propagation: propagation.name() }).inc();
    }

    /// Counts a volume that was published or staged again and stays as it was, although something has changed.
    pub fn kept(&self, whose: Kept) {
        let reason = match whose {
            Kept::AllowList => "allow_list",
            Kept::Lookup => "pod_lookup",
            Kept::Source => "source",
        };
        self.kept.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a volume that was `healed`, failed to heal (`failed`), or stays as it is (`refused`).
    pub fn healed(&self, outcome: &'static str) {
        self.heals.get_or_create(&Outcome { outcome }).inc();
    }

    /// Sets how many volumes are unhealthy, by reason. A reason that isn't named has none.
    pub fn unhealthy(&self, counts: &HashMap<&'static str, usize>) {
        for reason in ["SourceDead", "SourceHung", "SourceDeleted"] {
            let count = counts.get(reason).copied().unwrap_or(0);
            self.unhealthy.get_or_create(&Reason { reason }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Sets how many volumes lack flags in containers, by flag.
    pub fn weaker(&self, counts: Counts) {
        let all = Flag::ALL.map(Flag::name).into_iter().zip(counts.weaker).chain([("unknown", counts.unknown)]);
        for (flag, count) in all {
            self.weaker.get_or_create(&MountFlag { flag }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Sets how many volumes are mounted.
    pub fn held(&self, held: VolumeCount) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.mounts.get_or_create(&Mounted { at: "target" }).set(count(held.published));
        self.mounts.get_or_create(&Mounted { at: "staging" }).set(count(held.staged));
    }

    /// Sets how many connections were refused so far: those of callers who may not connect, and those over the limit.
    pub fn refused_connections(&self, strangers: u64, too_many: u64) {
        for (reason, count) in [("not_root", strangers), ("too_many", too_many)] {
            let counter = self.refused_connections.get_or_create(&Reason { reason });
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }

    /// Sets how often the kubelet has registered and refused the plugin so far, and whether it is registered now.
    pub fn registration(&self, registered: u64, refused: u64, is_registered: bool) {
        self.registrations.inc_by(registered.saturating_sub(self.registrations.get()));
        self.refused_registrations.inc_by(refused.saturating_sub(self.refused_registrations.get()));
        self.registered.set(i64::from(is_registered));
    }

    /// The metrics as text, with the current state of the service.
    ///
    /// # Errors
    /// A value can't be written as text.
    pub fn text(&self, service: &Service) -> Result<String, fmt::Error> {
        let state = service.store.stats();
        self.list_good.set(i64::from(state.serving && state.last_error.is_none()));
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.list_entries.set(count(state.entries));
        self.list_loads.inc_by(state.loads_ok.saturating_sub(self.list_loads.get()));
        self.list_refusals.inc_by(state.loads_refused.saturating_sub(self.list_refusals.get()));
        self.stuck.set(count(service.threads.stuck().values().sum()));
        if let Some(lookup) = &service.lookup {
            self.pods_known.set(count(lookup.known()));
            self.pod_watch_good.set(i64::from(lookup.ready().is_ok() && lookup.error().is_none()));
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Count for Metrics {
    fn looked_up(&self, found: bool, took: Duration) {
        let outcome = if found { "found" } else { "failed" };
        self.lookups.get_or_create(&Outcome { outcome }).observe(took.as_secs_f64());
    }

    fn asked_for_persistent_volume(&self) {
        self.persistent_volumes.inc();
    }
}
