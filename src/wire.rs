//! The generated types and services of `proto/`, and what must be added to them by hand.

use std::fmt;

/// Package `csi.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::needless_pass_by_value,
    clippy::semicolon_if_nothing_returned,
    reason = "generated"
)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// Package `pluginregistration`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::needless_pass_by_value,
    clippy::semicolon_if_nothing_returned,
    reason = "generated"
)]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// The compiled descriptors of both packages, an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The names of a map's keys. Values may be secrets (`secrets`) or tokens
/// (`csi.storage.k8s.io/serviceAccount.tokens` in the volume context; CVE-2023-2878).
fn keys(map: &std::collections::HashMap<String, String>) -> Vec<&String> {
    let mut keys: Vec<_> = map.keys().collect();
    keys.sort();
    keys
}

impl fmt::Debug for csi::NodeStageVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeStageVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("staging_target_path", &self.staging_target_path)
            .field("volume_capability", &self.volume_capability)
            .field("volume_context", &keys(&self.volume_context))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for csi::NodePublishVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodePublishVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("staging_target_path", &self.staging_target_path)
            .field("target_path", &self.target_path)
            .field("volume_capability", &self.volume_capability)
            .field("readonly", &self.readonly)
            .field("volume_context", &keys(&self.volume_context))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::csi;

    #[test]
    fn no_secret_and_no_token_is_printed() {
        let map = |key: &str| HashMap::from([(key.to_owned(), "hunter2".to_owned())]);
        let publish = csi::NodePublishVolumeRequest {
            secrets: map("password"),
            publish_context: map("p"),
            volume_context: map("csi.storage.k8s.io/serviceAccount.tokens"),
            ..Default::default()
        };
        let stage = csi::NodeStageVolumeRequest {
            secrets: map("password"),
            publish_context: map("p"),
            volume_context: map("token"),
            ..Default::default()
        };
        let text = format!("{publish:?} {stage:?}");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("serviceAccount.tokens"), "{text}");
    }
}
