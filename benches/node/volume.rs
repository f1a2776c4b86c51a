//! A volume as its caller names it, and the requests about it.

use std::collections::HashMap;

use csi::volume_capability::access_mode::Mode;
use csi::volume_capability::{AccessMode, AccessType, MountVolume};
use wire::csi;

/// What a caller knows of a volume.
#[derive(Debug, Clone)]
pub(crate) struct Volume {
    /// volume_id.
    pub(crate) id: String,
    /// target_path.
    pub(crate) target: String,
    /// staging_target_path; empty for an inline volume.
    pub(crate) staging: String,
    /// volume_context.
    pub(crate) context: HashMap<String, String>,
    /// readonly.
    pub(crate) read_only: bool,
}

impl Volume {
    /// A directory that more than one pod of the node may have.
    pub(crate) fn capability() -> Option<csi::VolumeCapability> {
        Some(csi::VolumeCapability {
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        })
    }

    /// What the kubelet adds to the context of a pod's volume (CSIDriver.spec.podInfoOnMount).
    pub(crate) fn of_pod(pod: &str, inline: bool) -> HashMap<String, String> {
        [
            ("csi.storage.k8s.io/pod.name", "bench"),
            ("csi.storage.k8s.io/pod.namespace", "default"),
            ("csi.storage.k8s.io/pod.uid", pod),
            ("csi.storage.k8s.io/serviceAccount.name", "default"),
            ("csi.storage.k8s.io/ephemeral", if inline { "true" } else { "false" }),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// NodePublishVolume.
    pub(crate) fn publish(&self) -> csi::NodePublishVolumeRequest {
        csi::NodePublishVolumeRequest {
            volume_id: self.id.clone(),
            target_path: self.target.clone(),
            staging_target_path: self.staging.clone(),
            volume_capability: Self::capability(),
            readonly: self.read_only,
            volume_context: self.context.clone(),
            ..Default::default()
        }
    }

    /// NodeUnpublishVolume.
    pub(crate) fn unpublish(&self) -> csi::NodeUnpublishVolumeRequest {
        csi::NodeUnpublishVolumeRequest { volume_id: self.id.clone(), target_path: self.target.clone() }
    }

    /// NodeStageVolume.
    pub(crate) fn stage(&self) -> csi::NodeStageVolumeRequest {
        csi::NodeStageVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path: self.staging.clone(),
            volume_capability: Self::capability(),
            volume_context: self.context.clone(),
            ..Default::default()
        }
    }

    /// NodeUnstageVolume.
    pub(crate) fn unstage(&self) -> csi::NodeUnstageVolumeRequest {
        csi::NodeUnstageVolumeRequest { volume_id: self.id.clone(), staging_target_path: self.staging.clone() }
    }
}
