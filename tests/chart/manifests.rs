//! What users copy: the chart without Helm, and the examples.

use std::collections::HashMap;
use std::sync::Arc;

use allowlist::config::AllowList;
use allowlist::names::{AbsPath, PodIdentity, VolumeKind};
use allowlist::policy::{Wish, decide};
use frontend::csi::request;
use mounts::propagation::MountPropagation;
use serde_json::{Value, json};
use service::request::Publish;
use wire::csi;
use wire::csi::volume_capability::access_mode::Mode;

use crate::render::{here, objects, of_kind, read, template, validate};

fn kubelet_dir() -> AbsPath {
    AbsPath::parse("/var/lib/kubelet").unwrap()
}

/// Without what only Helm cares for.
fn plain(mut object: Value) -> Value {
    let templates = ["/metadata/labels", "/spec/template/metadata/labels"];
    for labels in templates {
        if let Some(labels) = object.pointer_mut(labels).and_then(Value::as_object_mut) {
            labels.remove("helm.sh/chart");
            labels.remove("app.kubernetes.io/managed-by");
        }
    }
    object
}

#[test]
fn the_manifest_is_the_chart() {
    let mut made: Vec<Value> =
        template(&json!({"admissionPolicy": {"enabled": false}})).into_iter().map(plain).collect();
    let mut manifest = objects(&read("manifests/hostmount.yaml"));
    validate(&manifest);
    let namespace = manifest.remove(0);
    assert_eq!((&namespace["kind"], &namespace["metadata"]["name"]), (&json!("Namespace"), &json!("hostmount-system")));
    let by_name = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
    made.sort_by_key(by_name);
    manifest.sort_by_key(by_name);
    assert_eq!(manifest, made, "run manifests/generate");
}

/// Every example, with its file's name.
fn examples() -> Vec<(String, Vec<Value>)> {
    let files = std::fs::read_dir(here("manifests/examples")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<_> = names
        .filter(|name| name != "entries.yaml")
        .map(|name| (name.clone(), objects(&read(&format!("manifests/examples/{name}")))))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// The pods that an example makes, also by way of a controller.
fn pods(objects: &[Value]) -> Vec<Value> {
    let of = |object: &Value| match object["kind"].as_str().unwrap() {
        "Pod" => Some(object["spec"].clone()),
        "Deployment" | "DaemonSet" => Some(object["spec"]["template"]["spec"].clone()),
        _ => None,
    };
    objects.iter().filter_map(of).collect()
}

fn context(source: &Value, more: &[(&str, &str)]) -> HashMap<String, String> {
    let given = source["volumeAttributes"].as_object().cloned().unwrap_or_default();
    let own = given.into_iter().map(|(key, value)| (key, value.as_str().unwrap().to_owned()));
    own.chain(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))).collect()
}

fn capability(mode: Mode) -> Option<csi::VolumeCapability> {
    Some(csi::VolumeCapability {
        access_mode: Some(csi::volume_capability::AccessMode { mode: mode.into() }),
        access_type: Some(csi::volume_capability::AccessType::Mount(csi::volume_capability::MountVolume::default())),
    })
}

/// The kubelet's request for a volume written in a pod.
fn published(source: &Value, account: &str) -> Publish {
    let pod = [
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.namespace", "demo"),
        ("csi.storage.k8s.io/pod.name", "p"),
        ("csi.storage.k8s.io/pod.uid", "u"),
        ("csi.storage.k8s.io/serviceAccount.name", account),
    ];
    let request = csi::NodePublishVolumeRequest {
        volume_id: "csi-0123".into(),
        target_path: "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/data/mount".into(),
        // What the kubelet says of every volume written in a pod.
        volume_capability: capability(Mode::SingleNodeWriter),
        volume_context: context(source, &pod),
        readonly: source["readOnly"].as_bool().unwrap_or(false),
        ..Default::default()
    };
    request::publish(&request, &kubelet_dir()).unwrap()
}

#[test]
fn kubernetes_and_the_allow_list_take_every_example() {
    let list = AllowList::parse(&read("manifests/examples/entries.yaml"), &kubelet_dir()).unwrap();
    let mut seen = Vec::new();
    for (file, objects) in examples() {
        validate(&objects);
        for object in &objects {
            let namespace = object["metadata"]["namespace"].as_str();
            assert!(object["kind"] == "PersistentVolume" || namespace == Some("demo"), "{file}");
        }
        for pod in pods(&objects) {
            let account = pod["serviceAccountName"].as_str().unwrap_or("default");
            let accounts = of_kind(&objects, "ServiceAccount");
            assert!(account == "default" || accounts.iter().any(|a| a["metadata"]["name"] == account), "{file}");
            let mount = &pod["containers"][0]["volumeMounts"][0];
            let propagation = mount["mountPropagation"].as_str().unwrap_or("None").parse::<MountPropagation>().unwrap();
            for volume in pod["volumes"].as_array().unwrap().iter().filter(|volume| !volume["csi"].is_null()) {
                let request = published(&volume["csi"], account);
                assert_eq!(request.asked.propagation, None, "{file}: nobody should name it twice");
                let wish = Wish {
                    volume: request.volume,
                    propagation: Some(propagation),
                    read_only: request.asked.read_only,
                    pod_read_only: request.asked.pod_read_only,
                    kind: VolumeKind::Inline,
                    user_namespace: false,
                    pod: Some(Arc::new(PodIdentity {
                        namespace: "demo".into(),
                        name: "p".into(),
                        uid: "u".into(),
                        service_account: account.into(),
                    })),
                    check_user: true,
                };
                decide(&list, &wish).unwrap_or_else(|e| panic!("{file}: {e}"));
                seen.push(propagation);
            }
        }
        for volume in of_kind(&objects, "PersistentVolume") {
            let request = csi::NodeStageVolumeRequest {
                volume_id: volume["spec"]["csi"]["volumeHandle"].as_str().unwrap().into(),
                staging_target_path: "/var/lib/kubelet/plugins/kubernetes.io/csi/csi.hostmount.dev/h/globalmount"
                    .into(),
                volume_capability: capability(Mode::MultiNodeReaderOnly),
                volume_context: context(&volume["spec"]["csi"], &[]),
                ..Default::default()
            };
            let read = request::stage(&request, &kubelet_dir()).unwrap();
            assert!(list.get(&read.volume.entry).is_some(), "{file}");
        }
    }
    for propagation in [MountPropagation::None, MountPropagation::HostToContainer, MountPropagation::Bidirectional] {
        assert!(seen.contains(&propagation), "no example with {propagation}");
    }
}
