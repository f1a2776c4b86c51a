//! Reads `vol_data.json`, which the kubelet writes beside each CSI volume's target (pkg/volume/csi).
//!
//! The driver's name is in it. So nothing has to be remembered here, and a restarted plugin knows as much as before.

use std::path::Path;

/// The content of `vol_data.json` beside a CSI volume's target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolData {
    /// The driver's name.
    pub driver: String,
    /// The volume's handle. The kubelet makes up an inline volume's.
    pub handle: Option<String>,
    /// Whether the volume is inline in its pod's specification (`volumeLifecycleMode` is `Ephemeral`).
    pub inline: Option<bool>,
}

impl VolData {
    /// Reads the data beside a target. None if it can't be read. Then the volume's pod is being removed.
    #[must_use]
    pub fn beside(target: &Path) -> Option<Self> {
        Self::read(&target.with_file_name("vol_data.json"))
    }

    /// Whether the volume at a target is of this driver. None if the data can't be read.
    #[must_use]
    pub fn is_of(target: &Path, driver: &str) -> Option<bool> {
        Some(Self::beside(target)?.driver == driver)
    }

    fn read(data: &Path) -> Option<Self> {
        let data: serde_json::Value = serde_json::from_slice(&std::fs::read(data).ok()?).ok()?;
        let text = |name: &str| data[name].as_str();
        Some(Self {
            driver: text("driverName")?.to_owned(),
            handle: text("volumeHandle").map(str::to_owned),
            inline: text("volumeLifecycleMode").map(|mode| mode == "Ephemeral"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_what_the_kubelet_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("vol_data.json");
        assert_eq!(VolData::read(&data), None);
        std::fs::write(&data, r#"{"driverName": "d", "volumeHandle": "h", "volumeLifecycleMode": "Persistent"}"#)
            .unwrap();
        let written = VolData { driver: "d".into(), handle: Some("h".into()), inline: Some(false) };
        assert_eq!(VolData::beside(&dir.path().join("mount")), Some(written));
        std::fs::write(&data, "{").unwrap();
        assert_eq!(VolData::read(&data), None);
    }
}
