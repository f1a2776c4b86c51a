//! The jobs that use cases hand to mount threads: which pass each holds, which source it may hang on, and what its
//! outcome means.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use allowlist::names::{AbsPath, EntryName, SubPath, Target};
use engine::mount_error::MountError;
use engine::{AttachJob, Attached, Context};
use futures_util::FutureExt;
use plan::record::Owner;
use workers::gate::{Busy, Holder, Pass};
use workers::{Hold, Job, MountThread, Source};

use crate::error::Error;
use crate::metrics::Kept;
use crate::request::VolumeAt;
use crate::{By, Service};

/// A call waits for the plugin's own work on its volume: this many times, and this long each time.
const OWN_WAITS: u32 = 50;
const OWN_WAIT: Duration = Duration::from_millis(2);

impl Service {
    /// Runs a job on a mount thread of the caller.
    pub(crate) fn on_thread<T: Send + 'static>(
        &self,
        by: By<'_>,
        source: Source,
        hold: Hold,
        job: impl Job<Result<T, MountError>>,
    ) -> impl Future<Output = Result<T, Error>> {
        self.threads.run_call(by.runtime, by.pool, (source, hold), self.deadline, job).map(|ran| Ok(ran??))
    }

    /// Enters the gate for a call. If the plugin itself works on the volume, the call waits a while. If it were
    /// refused, the kubelet would retry only after half a second, or a minute.
    async fn enter(&self, path: &Target) -> Result<Pass, Busy> {
        let enter = || self.gate.enter(path.as_path(), Holder::Call);
        match enter() {
            Err(Busy { holder: Holder::Own, .. }) => {}
            other => return other,
        }
        // Boxed, because otherwise each call would need memory for the timer.
        Box::pin(async {
            for _ in 0..OWN_WAITS {
                tokio::time::sleep(OWN_WAIT).await;
                match enter() {
                    Err(Busy { holder: Holder::Own, .. }) => {}
                    other => return other,
                }
            }
            enter()
        })
        .await
    }

    /// A directory of an entry, as a source that a job may hang on.
    pub(crate) fn source(&self, entry: &EntryName, path: &AbsPath, sub_path: Option<&SubPath>) -> Source {
        let device = self.devices().of_entry(entry, sub_path.is_some());
        Source::directory(&path.with(sub_path), entry.as_str(), device)
    }

    /// Mounts a volume of an entry. True if the mount was made, false if it was there. A volume whose directory is dead
    /// or was deleted stays too: only healing decides what a pod is given in its place.
    pub(crate) async fn attach(&self, by: By<'_>, entry: &EntryName, job: AttachJob) -> Result<bool, Error> {
        // While a hung job may still change the target, no other call gets the path. Until the job begins to change it,
        // an unpublish still gets it.
        let hold = Hold::once_begun([Some(self.enter(&job.target).await?), None]);
        let source = self.source(entry, &job.source.entry, job.source.sub_path.as_ref());
        let attached = self.on_thread(by, source, hold, move |thread, cancelled| {
            let site = Arc::clone(&thread.site);
            let mut context = Context::new(&site, cancelled);
            let attached = engine::attach(&mut context, &mut || thread.take_slot(), &job)?;
            // Only after success. What a failed job left on its slot is cleared before the next use.
            Ok(attached.giving_back(|slot| thread.give_back(slot)))
        });
        match attached.await? {
            Attached::Made(()) => Ok(true),
            Attached::There | Attached::Kept { agrees: true } => Ok(false),
            Attached::Kept { agrees: false } => {
                tracing::warn!("the volume stays as it was published: the allow-list would give it otherwise now");
                self.metrics.kept(Kept::AllowList);
                Ok(false)
            }
        }
    }

    /// The answer to a failed call. It is success if what the call asks for is there already.
    pub(crate) async fn unless_kept(
        &self,
        by: By<'_>,
        (path, of): (Target, Option<(Owner, Option<SubPath>)>),
        error: Error,
    ) -> Result<(), Error> {
        let whose = match &error {
            Error::Denied(_) | Error::NoConfiguration(_) => Kept::AllowList,
            Error::Lookup(_) => Kept::Lookup,
            Error::NoResult(_) | Error::Mount(_) => Kept::Source,
            Error::Busy(_) => return Err(error),
        };
        // If another call holds the path, its mount doesn't count: it may still be taken back.
        let Ok(pass) = self.enter(&path).await else { return Err(error) };
        let look =
            move |thread: &mut MountThread, _: &dyn Fn() -> bool| engine::is_kept(&thread.site, &path, of.as_ref());
        // The job doesn't access the source, which may hang.
        match self.on_thread(by, Source::kept(), Hold::to_its_end([Some(pass), None]), look).await {
            Ok(true) => {
                tracing::warn!(%error, "the volume stays as it was published: it would be refused now");
                self.metrics.kept(whose);
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Unmounts what is mounted at a path of ours. With `remove` it removes the directory too.
    pub(crate) async fn detach(&self, by: By<'_>, at: &VolumeAt, remove: bool) -> Result<(), Error> {
        let hold = Hold::to_its_end([Some(self.enter(&at.path).await?), None]);
        let path = at.path.clone();
        self.on_thread(by, Source::ending(&at.id), hold, move |thread, cancelled| {
            let mut context = Context::new(&thread.site, cancelled);
            engine::detach(&mut context, &path, remove)
        })
        .await
    }
}
