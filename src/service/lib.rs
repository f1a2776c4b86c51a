//! The use cases, in plain types: what is done for a volume, independent of caller and protocol.
#![forbid(unsafe_code)]

mod condition;
pub mod config_store;
pub mod containers;
pub mod error;
#[cfg(test)]
#[path = "../core/plan/fixture.rs"]
mod fixture;
pub mod heal;
pub mod health;
mod jobs;
pub mod metrics;
mod publish;
pub mod refusals;
pub mod request;
pub mod source_health;
mod stage;
pub mod volume_count;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use allowlist::config::AllowList;
use mounts::Errno;
use pods::lookup::Lookup;
use workers::gate::Gate;
use workers::{CallRuntime, NoResult, Pool, Source, Threads};

use crate::config_store::ConfigStore;
use crate::error::{Error, NotReady};
use crate::heal::Devices;
use crate::metrics::Metrics;
use crate::volume_count::{Counter, VolumeCount};

/// Time limit for counting the mounted volumes. Reading 50,000 mounts takes 0.1 s.
const COUNT_DEADLINE: Duration = Duration::from_secs(2);

/// The mount namespace in which mounts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// That of the calling process.
    Callers,
    /// Our own.
    Own,
}

/// The caller of a use case.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    /// The mount threads in the caller's namespace.
    pub pool: &'a Arc<Pool>,
    /// The runtime that serves the call.
    pub runtime: Option<&'a CallRuntime>,
}

/// What all use cases share.
#[derive(Debug)]
pub struct Service {
    /// The driver's name.
    pub driver: String,
    /// The node's name.
    pub node_id: String,
    /// Time limit of a job.
    pub deadline: Duration,
    /// The namespace in which mounts are made.
    pub namespace: Namespace,
    /// The allow-list.
    pub store: ConfigStore,
    /// The gate: one call at a time for each path.
    pub gate: Gate,
    /// The mount threads.
    pub threads: Threads,
    /// The known file systems that entries and volumes lie on.
    pub devices: RwLock<Arc<Devices>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Counts the mounted volumes.
    pub counter: Arc<Counter>,
    /// The look-up of pods, if it is enabled.
    pub lookup: Option<Arc<Lookup>>,
}

impl Service {
    /// The allow-list in force.
    ///
    /// # Errors
    /// [`Error::NoConfiguration`].
    pub fn list(&self) -> Result<Arc<AllowList>, Error> {
        let why = || Error::NoConfiguration(self.store.stats().last_error.unwrap_or_default());
        self.store.current().ok_or_else(why)
    }

    /// Whether volumes can be mounted now. Callers and the API server are not checked, because the caller may be
    /// waiting to register the plugin.
    ///
    /// # Errors
    /// What is missing.
    pub async fn able(&self) -> Result<(), NotReady> {
        self.list().map_err(NotReady::AllowList)?;
        self.has_threads().await?;
        self.has_workers()
    }

    /// Whether there is a thread in the mount namespace where mounts are made.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn has_threads(&self) -> Result<(), NotReady> {
        let proc = &self.threads.site().proc;
        // The kubelet's namespace is known after its first call. Until then, PID 1's is the best guess. An unprivileged
        // plugin (`hostmount try`) may not enter that one.
        let namespace = match self.namespace {
            Namespace::Callers => proc.mount_namespace(1).or_else(|_| proc.own_mount_namespace()),
            Namespace::Own => proc.own_mount_namespace(),
        };
        let pool = self.threads.pool(namespace.map_err(NotReady::Namespace)?);
        self.threads.warm(&pool).await.map_err(NotReady::Threads)
    }

    /// Whether threads are left that don't hang.
    ///
    /// # Errors
    /// How many threads hang.
    pub fn has_workers(&self) -> Result<(), NotReady> {
        self.threads.exhausted().map_or(Ok(()), |stuck| Err(NotReady::Threads(NoResult::Exhausted { stuck })))
    }

    /// Counts the mounted volumes, and updates their metric. If that fails, the metric stays as it was. None if no
    /// thread is free in time, or if nobody has called yet.
    pub async fn count_held(&self) -> Option<VolumeCount> {
        let pool = self.threads.latest()?;
        let counter = Arc::clone(&self.counter);
        let counting = self
            .threads
            .run(&pool, Source::own("metrics"), COUNT_DEADLINE, move |thread, _| counter.count(&thread.site));
        match counting.await {
            // The thread that is counting now updates the metric.
            Ok(Err(Errno::EAGAIN)) => return None,
            Ok(Ok(held)) => {
                self.metrics.held(held);
                return Some(held);
            }
            Ok(Err(error)) => tracing::warn!(%error, "the mounted volumes cannot be counted"),
            Err(error) => tracing::warn!(%error, "the mounted volumes cannot be counted"),
        }
        None
    }

    /// The known file systems that entries and volumes lie on.
    #[must_use]
    pub fn devices(&self) -> Arc<Devices> {
        Arc::clone(&self.devices.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the file systems that entries and volumes lie on.
    pub fn lie_on(&self, devices: Arc<Devices>) {
        *self.devices.write().unwrap_or_else(PoisonError::into_inner) = devices;
    }
}
