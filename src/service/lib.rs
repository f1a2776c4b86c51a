//! The use cases, in plain types: what is done for a volume, whoever asks for it by whatever protocol.
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
use workers::{Lead, NoResult, Pool, Source, Threads};

use crate::config_store::ConfigStore;
use crate::error::Error;
use crate::heal::Devices;
use crate::metrics::Metrics;
use crate::volume_count::{Counter, VolumeCount};

/// How long counting the mounted volumes may take; 50,000 mounts are read in 0.1 s.
const COUNT_DEADLINE: Duration = Duration::from_secs(2);

/// In whose mount namespace the mounts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Of the process that calls.
    Callers,
    /// Our own.
    Own,
}

/// By whom a use case is asked for.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    /// The mount threads in its namespace.
    pub pool: &'a Arc<Pool>,
    /// In whose runtime it is served.
    pub lead: Option<&'a Lead>,
}

/// What all use cases share.
#[derive(Debug)]
pub struct Service {
    /// The driver's name.
    pub driver: String,
    /// The node's name.
    pub node_id: String,
    /// How long a job may take.
    pub deadline: Duration,
    /// In whose namespace mounts are made.
    pub namespace: Namespace,
    /// The allow-list.
    pub store: ConfigStore,
    /// One call at a time for each path.
    pub gate: Gate,
    /// The mount threads.
    pub threads: Threads,
    /// The file systems that entries and volumes lie on, as far as they are known.
    pub devices: RwLock<Arc<Devices>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Counts the mounted volumes.
    pub counter: Arc<Counter>,
    /// The look-up of pods, if it was asked for.
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

    /// Why nothing can be mounted now, if so. The callers and the API server are left out, because who asks may be waiting to
    /// register the plugin.
    ///
    /// # Errors
    /// What is missing.
    pub fn able(&self) -> Result<(), String> {
        self.list().map_err(|e| e.to_string())?;
        self.has_threads()?;
        self.has_workers()
    }

    /// Whether there is a thread in the mount namespace where mounts are made.
    ///
    /// # Errors
    /// Why there is none.
    pub fn has_threads(&self) -> Result<(), String> {
        let proc = &self.threads.site().proc;
        // The kubelet's namespace is known from its first call on; before, that of PID 1 is the best guess, which an
        // unprivileged plugin (`hostmount try`) may not enter.
        let namespace = match self.namespace {
            Namespace::Callers => proc.mount_namespace(1).or_else(|_| proc.own_mount_namespace()),
            Namespace::Own => proc.own_mount_namespace(),
        };
        let pool = namespace.map(|n| self.threads.pool(n)).map_err(|e| format!("no mount namespace: {e}"))?;
        self.threads.warm(&pool).map_err(|e| e.to_string())
    }

    /// Whether threads are left that don't hang.
    ///
    /// # Errors
    /// How many do.
    pub fn has_workers(&self) -> Result<(), String> {
        self.threads.exhausted().map_or(Ok(()), |stuck| Err(NoResult::Exhausted { stuck }.to_string()))
    }

    /// Counts the mounted volumes, for the metrics too, whose count stays as it was if that fails.
    /// None, if a thread is not to be had in time, or nobody has called yet.
    pub async fn count_held(&self) -> Option<VolumeCount> {
        let pool = self.threads.latest()?;
        let counter = Arc::clone(&self.counter);
        let counting = self
            .threads
            .run(&pool, Source::own("metrics"), COUNT_DEADLINE, move |thread, _| counter.count(&thread.site));
        match counting.await {
            // The one that counts now takes it down.
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

    /// The file systems that entries and volumes lie on, as they are known now.
    #[must_use]
    pub fn devices(&self) -> Arc<Devices> {
        Arc::clone(&self.devices.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes down which file systems entries and volumes lie on.
    pub fn lie_on(&self, devices: Arc<Devices>) {
        *self.devices.write().unwrap_or_else(PoisonError::into_inner) = devices;
    }
}
