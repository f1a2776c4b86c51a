//! Stages a source: binds it once for the node, to be published from there. Also unstages and unpublishes.

use allowlist::names::{VolumeKind, VolumeRef};
use allowlist::policy::{self, Grant, Wish};
use engine::AttachJob;
use engine::observe::SourcePath;
use mounts::MountAttrs;

use crate::error::Error;
use crate::request::{Stage, VolumeAt};
use crate::{By, Service};

impl Service {
    /// Stages a volume (CSI, NodeStageVolume). A mount at its staging path stays, whatever it shows.
    ///
    /// # Errors
    /// [`Error`]; then nothing was changed.
    pub async fn stage(&self, by: By<'_>, asked: &Stage) -> Result<(), Error> {
        match self.stage_new(by, asked).await {
            Ok(()) => Ok(()),
            Err(error) => Box::pin(self.unless_kept(by, (asked.staging.clone(), None), error)).await,
        }
    }

    async fn stage_new(&self, by: By<'_>, Stage { volume, staging }: &Stage) -> Result<(), Error> {
        let list = self.list()?;
        // Staging serves every pod of the volume on this node. Whether a pod may use it is decided when it is
        // published.
        let grant = policy::decide(&list, &for_the_node(volume.clone()))?;
        let attrs = grant.attrs(MountAttrs::default());
        let Grant { entry, sub_path, .. } = grant;
        let job = AttachJob {
            source: SourcePath { entry: entry.path.clone(), sub_path, missing: entry.missing },
            target: staging.clone(),
            staging: None,
            relation: entry.ceiling,
            lower: true,
            attrs,
            single_writer: false,
            user_namespace: false,
            owner: None,
            follow: false,
        };
        self.attach(by, &entry.name, job).await.map(drop)
    }

    /// Unmounts what [`stage`](Self::stage) has mounted, and leaves the directory (CSI, NodeUnstageVolume).
    ///
    /// # Errors
    /// [`Error`].
    pub async fn unstage(&self, by: By<'_>, at: &VolumeAt) -> Result<(), Error> {
        self.detach(by, at, false).await
    }

    /// Unmounts a volume and removes its target directory (CSI, NodeUnpublishVolume).
    ///
    /// # Errors
    /// [`Error`].
    pub async fn unpublish(&self, by: By<'_>, at: &VolumeAt) -> Result<(), Error> {
        self.detach(by, at, true).await
    }
}

/// The wish for an entry on behalf of the node itself, whoever may use the entry.
pub(crate) fn for_the_node(volume: VolumeRef) -> Wish {
    Wish {
        volume,
        propagation: None,
        read_only: false,
        pod_read_only: false,
        kind: VolumeKind::ClaimOrGenericEphemeral,
        user_namespace: false,
        pod: None,
        check_user: false,
    }
}
