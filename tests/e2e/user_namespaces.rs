//! Pods with `hostUsers: false`: what works whole is given, the rest is refused with words.

use serde_json::{Value, json};

use crate::cluster::{Place, apply, field, install_with, node, try_kubectl};
use crate::pods::{inline, simple};

/// Why this cluster has no pods with user namespaces, if it hasn't: kubelet, runtime and kernel must all have them.
fn missing(place: &Place) -> Option<String> {
    apply(&[with_users(simple(place, "probe", &json!({"name": "data", "emptyDir": {}}), "None"))]);
    let of = ["--namespace", place.namespace.as_str()];
    if field(&[&["pod", "probe"][..], &of].concat(), ".spec.hostUsers") != "false" {
        return Some("the API server drops spec.hostUsers".to_owned());
    }
    let wait = ["wait", "pod/probe", "--for=condition=Ready", "--timeout=60s"];
    let failed = try_kubectl(&[&wait[..], &of].concat()).err()?;
    let events =
        ["get", "events", "--field-selector=involvedObject.name=probe", "--output=jsonpath={.items[*].message}"];
    Some(format!("{failed}: {}", try_kubectl(&[&events[..], &of].concat()).unwrap_or_else(|e| e)))
}

fn with_users(mut pod: Value) -> Value {
    pod["spec"]["hostUsers"] = false.into();
    pod
}

#[test]
fn a_pod_with_a_user_namespace_has_its_own_ids_and_is_refused_what_cannot_be_mapped() {
    let place = Place::new("users");
    if let Some(why) = missing(&place) {
        place.finish();
        return println!("SKIPPED: no pod with hostUsers: false starts here: {why}");
    }
    let volume = inline("data", place.sub_path());
    node(&format!("touch {0}/of-1000 && chown 1000:1001 {0}/of-1000", place.folder()));
    apply(&[with_users(simple(&place, "none", &volume, "None"))]);
    place.wait_ready("none");
    let inside = place.exec("none", "c", "awk '{print $2}' /proc/self/uid_map; touch /data/new; stat -c %u:%g /data/*");
    let inside = inside.unwrap();
    let (mapped_to, owners) = inside.split_once('\n').unwrap();
    assert_ne!(mapped_to.trim(), "0", "the pod has a user namespace");
    assert_eq!(owners, "0:0\n0:0\n1000:1001\n", "marker, new, of-1000");
    assert_eq!(node(&format!("stat -c %u:%g {0}/new {0}/of-1000", place.folder())), "0:0\n1000:1001\n");
    place.delete(&["none"]);

    install_with(&[], &["admissionPolicy.enabled=false"]);
    for propagation in ["HostToContainer", "Bidirectional"] {
        let name = propagation.to_lowercase();
        apply(&[with_users(simple(&place, &name, &volume, propagation))]);
        place
            .until_described(&name, &["FailedPrecondition", propagation, "hostUsers: false", "mountPropagation: None"]);
    }
    // What is mounted in it would be nobody's.
    place.mount("inside");
    apply(&[with_users(simple(&place, "nested", &volume, "None"))]);
    place.until_described("nested", &["FailedPrecondition", "hostUsers: false", "65534"]);
    // It starts as soon as nothing is mounted there, without anybody's doing.
    place.unmount("inside");
    place.wait_ready("nested");
    place.finish();
}
