//! The messages and services of `proto/` as Rust types, and their descriptors.
//!
//! build.rs generates everything in [`csi`] and [`registration`]. Written by hand is only the `Debug` of messages that
//! may hold credentials:
//!
//! - `secrets` is shown as a count.
//! - `volume_context` and `publish_context` are shown as keys without values. The kubelet puts tokens of the pod's
//!   service account there (`csi.storage.k8s.io/serviceAccount.tokens`), and our log can't judge what other drivers put
//!   there.
//! - Mount options are shown without their values, for the same reason.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;

/// CSI 1.13.0 (`proto/csi.proto`): messages, and for each service a client, a server and the trait to implement. A
/// method without an implementation answers UNIMPLEMENTED.
#[allow(missing_docs, unused_qualifications, clippy::all, reason = "generated")]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// The kubelet's registration of plugins, v1 (`proto/pluginregistration.proto`).
#[allow(missing_docs, unused_qualifications, clippy::all, reason = "generated")]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// Both files and their imports, compiled: an encoded `google.protobuf.FileDescriptorSet` without source positions.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// Shows a map as its number of entries.
struct Count<'a>(&'a HashMap<String, String>);

impl fmt::Debug for Count<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} redacted>", self.0.len())
    }
}

/// Shows a map as its keys, in order.
struct Keys<'a>(&'a HashMap<String, String>);

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut keys: Vec<_> = self.0.keys().collect();
        keys.sort_unstable();
        f.debug_map().entries(keys.into_iter().map(|key| (key, format_args!("<redacted>")))).finish()
    }
}

/// Shows mount options without their values.
struct Options<'a>(&'a [String]);

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |option: &'_ String| match option.split_once('=') {
            Some((name, _)) => format!("{name}=<redacted>"),
            None => option.clone(),
        };
        f.debug_list().entries(self.0.iter().map(shown)).finish()
    }
}

/// Shows a field as it is.
struct Plain<'a, T>(&'a T);

impl<T: fmt::Debug> fmt::Debug for Plain<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Implements `Debug` for messages, with a wrapper for each field. All fields must be named: a new field doesn't
/// compile until somebody decides how it is shown.
macro_rules! redacting_debug {
    ($($message:path { $($field:ident: $show:ident),+ $(,)? })+) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Self { $($field),+ } = self;
                let name = stringify!($message).rsplit("::").next().unwrap_or_default();
                f.debug_struct(name.trim())$(.field(stringify!($field), &$show($field)))+.finish()
            }
        }
    )+};
}

redacting_debug! {
    csi::volume_capability::MountVolume { fs_type: Plain, mount_flags: Options, volume_mount_group: Plain }

    // Node.
    csi::NodeStageVolumeRequest {
        volume_id: Plain,
        publish_context: Keys,
        staging_target_path: Plain,
        volume_capability: Plain,
        secrets: Count,
        volume_context: Keys,
    }
    csi::NodePublishVolumeRequest {
        volume_id: Plain,
        publish_context: Keys,
        staging_target_path: Plain,
        target_path: Plain,
        volume_capability: Plain,
        readonly: Plain,
        secrets: Count,
        volume_context: Keys,
    }
    csi::NodeGetStorageHealthRequest { secrets: Count }
    csi::NodeExpandVolumeRequest {
        volume_id: Plain,
        volume_path: Plain,
        capacity_range: Plain,
        staging_target_path: Plain,
        volume_capability: Plain,
        secrets: Count,
    }

    // Controller: volumes.
    csi::Volume {
        capacity_bytes: Plain,
        volume_id: Plain,
        volume_context: Keys,
        content_source: Plain,
        accessible_topology: Plain,
    }
    csi::CreateVolumeRequest {
        name: Plain,
        capacity_range: Plain,
        volume_capabilities: Plain,
        parameters: Plain,
        secrets: Count,
        volume_content_source: Plain,
        accessibility_requirements: Plain,
        mutable_parameters: Plain,
    }
    csi::DeleteVolumeRequest { volume_id: Plain, secrets: Count }
    csi::ControllerPublishVolumeRequest {
        volume_id: Plain,
        node_id: Plain,
        volume_capability: Plain,
        readonly: Plain,
        secrets: Count,
        volume_context: Keys,
    }
    csi::ControllerPublishVolumeResponse { publish_context: Keys }
    csi::ControllerUnpublishVolumeRequest { volume_id: Plain, node_id: Plain, secrets: Count }
    csi::ValidateVolumeCapabilitiesRequest {
        volume_id: Plain,
        volume_context: Keys,
        volume_capabilities: Plain,
        parameters: Plain,
        secrets: Count,
        mutable_parameters: Plain,
    }
    csi::validate_volume_capabilities_response::Confirmed {
        volume_context: Keys,
        volume_capabilities: Plain,
        parameters: Plain,
        mutable_parameters: Plain,
    }
    csi::ControllerListVolumeHealthRequest { max_entries: Plain, starting_token: Plain, secrets: Count }
    csi::ControllerGetVolumeHealthRequest { volume_id: Plain, secrets: Count }
    csi::ControllerModifyVolumeRequest { volume_id: Plain, secrets: Count, mutable_parameters: Plain }
    csi::ControllerExpandVolumeRequest {
        volume_id: Plain,
        capacity_range: Plain,
        secrets: Count,
        volume_capability: Plain,
    }

    // Controller and GroupController: snapshots.
    csi::CreateSnapshotRequest {
        source_volume_id: Plain,
        name: Plain,
        secrets: Count,
        parameters: Plain,
        accessibility_requirements: Plain,
    }
    csi::DeleteSnapshotRequest { snapshot_id: Plain, secrets: Count }
    csi::ListSnapshotsRequest {
        max_entries: Plain,
        starting_token: Plain,
        source_volume_id: Plain,
        snapshot_id: Plain,
        secrets: Count,
    }
    csi::GetSnapshotRequest { snapshot_id: Plain, secrets: Count }
    csi::CreateVolumeGroupSnapshotRequest {
        name: Plain,
        source_volume_ids: Plain,
        secrets: Count,
        parameters: Plain,
    }
    csi::DeleteVolumeGroupSnapshotRequest { group_snapshot_id: Plain, snapshot_ids: Plain, secrets: Count }
    csi::GetVolumeGroupSnapshotRequest { group_snapshot_id: Plain, snapshot_ids: Plain, secrets: Count }

    // SnapshotMetadata.
    csi::GetMetadataAllocatedRequest {
        snapshot_id: Plain,
        starting_offset: Plain,
        max_results: Plain,
        secrets: Count,
    }
    csi::GetMetadataDeltaRequest {
        base_snapshot_id: Plain,
        target_snapshot_id: Plain,
        starting_offset: Plain,
        max_results: Plain,
        secrets: Count,
    }
}
