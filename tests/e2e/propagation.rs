//! Who sees which mount: as Kubernetes documents it, for volumes in the pod and by claims.

use serde_json::{Value, json};

use crate::cluster::{Place, apply, kubectl, node};
use crate::pods::{claim, container, inline, persistent, pod, simple};

/// POD/CONTAINER, and whether it sees mounts made on the node or by a pod after it has started.
const VIEWERS: [(&str, &str, bool); 5] = [
    ("none", "c", false),
    ("slave", "c", true),
    ("mixed", "none", false),
    ("mixed", "slave", true),
    ("mixed", "shared", true),
];

fn everybody(place: &Place, directory: &str, expected: impl Fn(bool) -> bool) {
    for (pod, container, late) in VIEWERS {
        let sees = place.sees(pod, container, directory);
        assert_eq!(sees, expected(late), "{pod}/{container} and the mount on {directory}");
    }
}

fn as_documented(place: &Place, volume: &Value) {
    place.mount("before");
    node(&format!("mkdir -p {0}/after {0}/by-pod", place.folder()));
    let mixed =
        [container("none", "None"), container("slave", "HostToContainer"), container("shared", "Bidirectional")];
    apply(&[
        simple(place, "none", volume, "None"),
        simple(place, "slave", volume, "HostToContainer"),
        pod(place, "mixed", volume, &mixed),
    ]);
    for pod in ["none", "slave", "mixed"] {
        place.wait_ready(pod);
    }
    everybody(place, "before", |_| true);

    place.mount("after");
    everybody(place, "after", |late| late);
    place.exec("mixed", "shared", "mount -t tmpfs by-pod /data/by-pod && touch /data/by-pod/x").unwrap();
    everybody(place, "by-pod", |late| late);
    assert_eq!(node(&format!("ls {}/by-pod", place.folder())), "x\n", "the node sees what the pod has mounted");

    place.unmount("after");
    everybody(place, "after", |_| false);
    place.unmount("before");
    // Who took it along when it started keeps its own copy.
    everybody(place, "before", |late| !late);

    // The ends of the pods take nothing from the node, nor from one another.
    place.mount("before");
    place.delete(&["mixed"]);
    assert!(place.sees("slave", "c", "by-pod") && place.sees("slave", "c", "before"));
    place.delete(&["none", "slave"]);
    for directory in ["before", "by-pod"] {
        assert_eq!(node(&format!("ls {}/{directory}", place.folder())), "x\n", "{directory} on the node");
    }
}

#[test]
fn volumes_in_the_pod_propagate_as_documented() {
    let place = Place::new("inline");
    as_documented(&place, &inline("data", place.sub_path()));
    place.finish();
}

#[test]
fn volumes_by_a_claim_propagate_as_documented() {
    let place = Place::new("claim");
    apply(&persistent(&place, "e2e-claim", &format!("data/{}", place.sub_path())));
    as_documented(&place, &claim("e2e-claim"));
    place.finish();
    kubectl(&["delete", "persistentvolume", "e2e-claim"]);
}

#[test]
fn a_sub_path_of_the_kubelet_works() {
    let place = Place::new("sub-path");
    node(&format!("mkdir -p {0}/inner && echo deep > {0}/inner/file", place.folder()));
    let mut object = simple(&place, "p", &inline("data", place.sub_path()), "HostToContainer");
    object["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = "inner".into();
    apply(&[object]);
    place.wait_ready("p");
    assert_eq!(place.exec("p", "c", "cat /data/file").unwrap(), "deep\n");
    node(&format!(
        "mkdir {0}/inner/later && mount -t tmpfs e2e {0}/inner/later && touch {0}/inner/later/x",
        place.folder()
    ));
    assert!(place.sees("p", "c", "later"), "mounts below the sub-path cross");
    // The kubelet unmounts what it has bound for the sub-path alone, and can't while something is mounted in it
    // (ARCHITECTURE.md, Known limits): its pods end when that is gone, whatever the kind of the volume.
    place.unmount("inner/later");
    place.finish();
}

/// By the entry, by the Pod alone, and by a PersistentVolume's mount option, access mode and attribute: runtimes differ in what
/// they keep of the flags that they find, and all keep what the Pod says.
#[test]
fn a_read_only_volume_cannot_be_written_and_the_node_s_directory_can() {
    let place = Place::new("read-only");
    let said = |mut volume: Value| {
        let source = if volume["csi"].is_null() { "persistentVolumeClaim" } else { "csi" };
        volume[source]["readOnly"] = true.into();
        volume
    };
    let mut by_attribute = inline("data", place.sub_path());
    by_attribute["csi"]["volumeAttributes"]["readOnly"] = "true".into();
    let by_claim = |name: &str, pointer: &str, value: Value| {
        let mut objects = persistent(&place, name, &format!("data/{}", place.sub_path()));
        let (at, last) = pointer.rsplit_once('/').unwrap();
        objects[0].pointer_mut(at).unwrap()[last] = value;
        if last == "accessModes" {
            objects[1]["spec"][last] = objects[0]["spec"][last].clone();
        }
        apply(&objects);
        said(claim(name))
    };
    let objects = [
        ("entry", said(inline("read-only", ""))),
        ("volume", said(inline("data", place.sub_path()))),
        ("attribute", said(by_attribute)),
        ("e2e-ro-option", by_claim("e2e-ro-option", "/spec/mountOptions", json!(["ro"]))),
        ("e2e-ro-mode", by_claim("e2e-ro-mode", "/spec/accessModes", json!(["ReadOnlyMany"]))),
        ("e2e-ro-attribute", by_claim("e2e-ro-attribute", "/spec/csi/volumeAttributes", json!({"readOnly": "true"}))),
    ];
    for (name, volume) in &objects {
        apply(&[simple(&place, name, volume, "None")]);
    }
    for (name, _) in &objects {
        place.wait_ready(name);
        let refused = place.exec(name, "c", "touch /data/new").unwrap_err();
        assert!(refused.contains("Read-only file system"), "{name}: {refused}");
        let options = place.exec(name, "c", "awk '$5 == \"/data\" {print $6}' /proc/self/mountinfo").unwrap();
        assert!(options.split([',', '\n']).any(|option| option == "ro"), "{name}: {options}");
    }
    node(&format!("touch {}/new", place.folder()));
    place.finish();
    for name in ["e2e-ro-option", "e2e-ro-mode", "e2e-ro-attribute"] {
        kubectl(&["delete", "persistentvolume", name]);
    }
}
