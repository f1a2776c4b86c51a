//! Who a pod is, and who reads what of its refusals.

use std::time::Duration;

use serde_json::json;

use crate::cluster::{Place, apply, busybox, field, kubectl, node, plugin_log, until};
use crate::faults::restart_kubelet;
use crate::pods::{inline, simple};

/// Anybody who may create pods may write the annotation of a mirror pod, and into it the uid of any pod. The kubelet soon deletes
/// a mirror of no static pod; the end of the one must not be taken for that of the other.
#[test]
fn a_mirror_annotation_takes_nothing_from_the_pod_whose_uid_it_names() {
    let place = Place::new("mirror");
    apply(&[simple(&place, "victim", &inline("data", place.sub_path()), "HostToContainer")]);
    place.wait_ready("victim");
    let of = |path| field(&["pod", "victim", "--namespace", &place.namespace], path);
    let (uid, on) = (of(".metadata.uid"), of(".spec.nodeName"));
    apply(&[json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "thief", "namespace": place.namespace, "annotations": {"kubernetes.io/config.mirror": uid},
        },
        "spec": {
            "nodeName": on, "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": busybox(), "command": ["sleep", "1000000"]}],
        },
    })]);
    let claim = format!("{}/thief", place.namespace);
    until("the claim is logged", Duration::from_secs(60), || {
        let log = plugin_log();
        let told = |line: &str| line.contains("kubernetes.io/config.mirror") && line.contains(&claim);
        if log.lines().any(told) { Ok(()) } else { Err(log) }
    });
    // The kubelet publishes all volumes again when it starts, and has done so when a pod that came last runs.
    restart_kubelet();
    apply(&[simple(&place, "after", &inline("data", place.sub_path()), "None")]);
    place.wait_ready("after");
    let victim = format!("pod=\"{}/victim\"", place.namespace);
    let log = plugin_log();
    let calls: Vec<&str> = log.lines().filter(|line| line.contains(&victim)).collect();
    assert!(calls.iter().all(|line| line.contains("outcome=Ok")), "{calls:#?}");
    place.mount("late");
    assert!(place.sees("victim", "c", "late"));
    place.finish();
}

#[test]
fn an_event_names_the_volume_and_a_log_line_and_no_path_of_the_node() {
    let place = Place::new("readers");
    node(&format!("ln -s /etc {}/link", place.folder()));
    let sub_path = format!("{}/link", place.sub_path());
    apply(&[simple(&place, "p", &inline("data", &sub_path), "None")]);
    place.until_described(
        "p",
        &["symlink", "entry \"data\"", &sub_path, "ask the administrator of the node", "reference"],
    );
    let text = kubectl(&["describe", "pod", "p", "--namespace", &place.namespace]);
    assert!(!text.contains(&place.folder()) && !text.contains("/mnt/hostmount-e2e"), "{text}");
    let reference = text.split("reference \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a reference");
    let log = plugin_log();
    let line = log.lines().find(|line| line.contains(reference)).expect("the line that it refers to");
    assert!(line.contains(&format!("{}/link", place.folder())), "{line}");
    place.finish();
}
