//! Reports how full a volume is, and whether its source is alive.

use std::path::Path;

use allowlist::author::AuthorText;
use allowlist::config::Missing;
use allowlist::names::{Target, VolumeRef};
use allowlist::policy::{self, Grant};
use engine::mount_error::MountError;
use engine::observe::SourcePath;
use engine::record;
use engine::site::Site;
use kernel::stat::Usage;
use plan::Gone;
use workers::{Hold, MountThread, NoResult, Source};

use crate::error::Error;
use crate::refusals::ForAuthor;
use crate::request::VolumeAt;
use crate::source_health::SourceHealth;
use crate::stage::for_the_node;
use crate::{By, Service};

/// The source name for jobs that access only the kubelet's own file system.
fn records() -> Source {
    Source::own("records")
}

impl Service {
    /// The usage of a volume's file system (CSI, NodeGetVolumeStats).
    ///
    /// # Errors
    /// [`Error`].
    pub async fn stats(&self, by: By<'_>, at: &VolumeAt) -> Result<Usage, Error> {
        self.look(by, at, engine::usage).await
    }

    /// Whether a published or staged volume is alive (CSI, NodeGetVolumeHealth). A file system that doesn't answer is a
    /// result, not an error.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn health(&self, by: By<'_>, at: &VolumeAt) -> Result<(SourceHealth, AuthorText), Error> {
        told(self.look(by, at, engine::health).await)
    }

    /// Whether the source of a volume is alive, wherever it is published.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn source_health(&self, by: By<'_>, volume: VolumeRef) -> Result<(SourceHealth, AuthorText), Error> {
        let Grant { entry, sub_path, .. } = policy::decide(&*self.list()?, &for_the_node(volume))?;
        let source = SourcePath { entry: entry.path.clone(), sub_path, missing: Missing::Fail };
        let on = self.source(&entry.name, &source.entry, source.sub_path.as_ref());
        let look = move |thread: &mut MountThread, _: &dyn Fn() -> bool| engine::source_health(&thread.site, &source);
        told(self.on_thread(by, on, Hold::nothing(), look).await)
    }

    async fn look<T: Send + 'static>(
        &self,
        by: By<'_>,
        at: &VolumeAt,
        look: fn(&Site, &Target) -> Result<T, MountError>,
    ) -> Result<T, Error> {
        // The record names the volume's source. Hung jobs are counted there, however many volumes it has.
        let path = at.path.clone();
        let noted = move |thread: &mut MountThread, _: &dyn Fn() -> bool| Ok(record::of(&thread.site, &path));
        let record = self.on_thread(by, records(), Hold::nothing(), noted).await?;
        let device = self.devices().of_volume(&at.path);
        let source = match record {
            Some(record) => Source::published(&record.full_path(), Some(record.owner.entry.as_str()), device),
            None => Source::published(Path::new(&at.id), None, device),
        };
        let path = at.path.clone();
        self.on_thread(by, source, Hold::nothing(), move |thread, _| look(&thread.site, &path)).await
    }
}

fn told(looked: Result<Option<Gone>, Error>) -> Result<(SourceHealth, AuthorText), Error> {
    match looked {
        Ok(gone) => Ok((SourceHealth::from(gone), SourceHealth::from(gone).for_author())),
        Err(Error::NoResult(hung @ (NoResult::Deadline { .. } | NoResult::Stuck { .. }))) => {
            Ok((SourceHealth::Hung, hung.for_author()))
        }
        Err(error) => Err(error),
    }
}
