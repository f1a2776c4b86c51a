//! The manifests that users copy say what the driver needs and understands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::HashMap;

use hostmount::csi::request::{Publish, Stage};
use hostmount::propagation::MountPropagation;
use hostmount::volume::AbsPath;
use hostmount::wire::csi;
use saphyr::{LoadableYamlNode, Yaml};

fn documents(path: &str) -> Vec<Yaml<'static>> {
    let text = std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    Yaml::load_from_str(Box::leak(text.into_boxed_str())).unwrap()
}

fn attributes(source: &Yaml<'_>) -> HashMap<String, String> {
    let given = source["volumeAttributes"].as_mapping().unwrap();
    given.iter().map(|(k, v)| (k.as_str().unwrap().to_owned(), v.as_str().unwrap().to_owned())).collect()
}

fn kubelet_dir() -> AbsPath {
    AbsPath::parse("/var/lib/kubelet").unwrap()
}

fn capability() -> Option<csi::VolumeCapability> {
    Some(csi::VolumeCapability {
        access_mode: Some(csi::volume_capability::AccessMode { mode: 3 }),
        access_type: Some(csi::volume_capability::AccessType::Mount(csi::volume_capability::MountVolume::default())),
    })
}

#[test]
fn the_csidriver_object_is_what_the_driver_needs() {
    let object = documents("manifests/csidriver.yaml").remove(0);
    let spec = &object["spec"];
    assert_eq!(object["metadata"]["name"].as_str(), Some("csi.hostmount.dev"));
    assert_eq!(spec["attachRequired"].as_bool(), Some(false));
    assert_eq!(spec["podInfoOnMount"].as_bool(), Some(true));
    assert_eq!(spec["fsGroupPolicy"].as_str(), Some("None"));
    assert_eq!(spec["requiresRepublish"].as_bool(), Some(false));
    let modes: Vec<_> =
        spec["volumeLifecycleModes"].as_sequence().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
    assert_eq!(modes, ["Persistent", "Ephemeral"]);
}

#[test]
fn the_chart_and_the_manifest_say_the_same_of_the_driver() {
    let read = |path| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let chart =
        read("charts/hostmount/templates/csidriver.yaml").replace("{{ .Values.driverName }}", "csi.hostmount.dev");
    let manifest: String = read("manifests/csidriver.yaml")
        .lines()
        .filter(|l| !l.trim_start().starts_with('#'))
        .map(|l| format!("{l}\n"))
        .collect();
    assert_eq!(chart, manifest);
}

#[test]
fn the_inline_example_is_understood() {
    let pod = documents("manifests/examples/inline.yaml").remove(0);
    let source = &pod["spec"]["volumes"][0]["csi"];
    let mut context = attributes(source);
    context.insert("csi.storage.k8s.io/ephemeral".into(), "true".into());
    let request = csi::NodePublishVolumeRequest {
        volume_id: "csi-0123".into(),
        target_path: "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/data/mount".into(),
        volume_capability: capability(),
        volume_context: context,
        ..Default::default()
    };
    let read = Publish::read(&request, &kubelet_dir()).unwrap();
    assert_eq!(read.volume.to_string(), "datasets/imagenet");
    assert_eq!(read.propagation, Some(MountPropagation::HostToContainer));
}

#[test]
fn the_persistent_example_is_understood() {
    let volume = documents("manifests/examples/persistent.yaml").remove(0);
    let source = &volume["spec"]["csi"];
    let request = csi::NodeStageVolumeRequest {
        volume_id: source["volumeHandle"].as_str().unwrap().into(),
        staging_target_path: "/var/lib/kubelet/plugins/kubernetes.io/csi/csi.hostmount.dev/h/globalmount".into(),
        volume_capability: capability(),
        volume_context: attributes(source),
        ..Default::default()
    };
    assert_eq!(Stage::read(&request, &kubelet_dir()).unwrap().volume.to_string(), "datasets/imagenet");
}
