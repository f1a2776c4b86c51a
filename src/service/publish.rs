//! Publishes a volume: mounts it at a pod's target path.

use std::sync::Arc;

use allowlist::names::{PodIdentity, User};
use allowlist::policy::{self, Grant, Wish};
use engine::AttachJob;
use engine::observe::SourcePath;
use plan::record::{Asked, Owner};
use pods::PodWish;
use pods::lookup::{Lookup, LookupError};

use crate::error::Error;
use crate::request::Publish;
use crate::{By, Service};

impl Service {
    /// Publishes a volume (CSI, NodePublishVolume). A volume of this id and with these arguments that is there already
    /// stays as it is, whatever it would get now.
    ///
    /// # Errors
    /// [`Error`]; then nothing was changed.
    pub async fn publish(&self, by: By<'_>, asked: &Publish) -> Result<(), Error> {
        match self.publish_new(by, asked).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let of = Some((owner(asked), asked.volume.sub_path.clone()));
                Box::pin(self.unless_kept(by, (asked.target.clone(), of), error)).await
            }
        }
    }

    async fn publish_new(&self, by: By<'_>, asked: &Publish) -> Result<(), Error> {
        let wish = match (&self.lookup, &asked.user) {
            (Some(_), User::Unknown) => return Err(LookupError::NoPodInfo.into()),
            (Some(lookup), User::Pod(pod)) => {
                // Boxed, because otherwise each call would need memory for a look-up, even where there is none.
                Box::pin(self.wished(lookup, (asked, pod))).await?
            }
            (Some(_), User::Named(_)) | (None, _) => wish(asked),
        };
        let grant = policy::decide(&*self.list()?, &wish)?;
        if let Some(warning) = &grant.warning {
            tracing::warn!(warning);
        }
        if self.attach(by, &grant.entry.name, job(asked, &grant)).await? {
            self.metrics.published(grant.propagation);
        }
        Ok(())
    }

    /// What the pod wants of a volume, from its Pod object.
    ///
    /// Looked up even for a volume that states its propagation: only the API server tells what else of the pod the
    /// volume depends on.
    async fn wished(&self, lookup: &Lookup, (asked, pod): (&Publish, &Arc<PodIdentity>)) -> Result<Wish, Error> {
        let least = wish(asked);
        // If the pod may not use the entry at all, the call is refused at once, whatever the pod wants.
        policy::entry(&*self.list()?, &least)?;
        let found = match asked.asked.propagation {
            Some(_) => lookup.pod(&asked.target, asked.inline, pod).await?,
            None => lookup.wish(&asked.target, asked.inline, pod).await?,
        };
        tracing::debug!(?found, "the pod's wish");
        let PodWish { propagation, kind, user_namespace } = found;
        Ok(Wish { propagation: least.propagation.or(Some(propagation)), kind, user_namespace, ..least })
    }
}

/// What a publish asks for, as far as the request tells.
fn wish(asked: &Publish) -> Wish {
    let Asked { propagation, read_only, pod_read_only, .. } = asked.asked;
    Wish {
        volume: asked.volume.clone(),
        propagation,
        read_only,
        pod_read_only,
        kind: asked.kind(),
        user_namespace: false,
        pod: asked.user.pod().cloned(),
        check_user: true,
    }
}

fn job(asked: &Publish, grant: &Grant) -> AttachJob {
    let Grant { entry, sub_path, propagation, user_namespace, .. } = grant;
    AttachJob {
        source: SourcePath { entry: entry.path.clone(), sub_path: sub_path.clone(), missing: entry.missing },
        target: asked.target.clone(),
        staging: asked.staging.clone(),
        relation: *propagation,
        lower: false,
        attrs: grant.attrs(asked.asked.attrs),
        single_writer: asked.single_writer,
        user_namespace: *user_namespace,
        owner: Some(owner(asked)),
        follow: false,
    }
}

fn owner(asked: &Publish) -> Owner {
    Owner {
        entry: asked.volume.entry.clone(),
        volume_id: Some(Arc::clone(&asked.id)),
        user: asked.user.clone(),
        asked: asked.asked,
    }
}
