//! Who may not: with the words that a user reads.

use serde_json::json;

use crate::cluster::{Place, apply, install_with, kubectl, try_apply};
use crate::pods::{claim, inline, persistent, simple};

/// The admission policy refuses the pod itself; it needs a moment to be in force.
#[test]
fn the_admission_policy_refuses_pods_with_words() {
    let place = Place::new("policy");
    for (entry, propagation, words) in [
        ("team", "None", &["e2e-policy", "may not use the entry team"][..]),
        ("plain", "HostToContainer", &["HostToContainer", "plain", "allows None at most"]),
        ("nothing", "None", &["the entry nothing", "does not have"]),
        ("read-only", "None", &["the entry read-only is read-only", "set csi.readOnly: true"]),
    ] {
        let object = simple(&place, entry, &inline(entry, ""), propagation);
        crate::cluster::until("the policy refuses", std::time::Duration::from_secs(60), || {
            match try_apply(std::slice::from_ref(&object)) {
                Err(said) if words.iter().all(|word| said.contains(word)) => Ok(()),
                Err(said) => Err(said),
                Ok(_) => {
                    place.delete(&[entry]);
                    Err("the pod was accepted".to_owned())
                }
            }
        });
    }
    // The attribute counts as the entry does, and hostUsers wherever propagation is asked for.
    let mut attribute = simple(&place, "attribute", &inline("data", place.sub_path()), "None");
    attribute["spec"]["volumes"][0]["csi"]["volumeAttributes"]["readOnly"] = "true".into();
    let said = try_apply(std::slice::from_ref(&attribute)).unwrap_err();
    assert!(said.contains("set csi.readOnly: true"), "{said}");
    attribute["spec"]["volumes"][0]["csi"]["readOnly"] = true.into();
    apply(&[attribute]);
    place.wait_ready("attribute");
    let mut users = simple(&place, "users", &inline("data", place.sub_path()), "HostToContainer");
    users["spec"]["hostUsers"] = false.into();
    let said = try_apply(&[users]).unwrap_err();
    assert!(said.contains("hostUsers: false") && said.contains("set mountPropagation: None"), "{said}");
    // Who may is let through.
    apply(&[simple(&place, "good", &inline("data", place.sub_path()), "Bidirectional")]);
    place.wait_ready("good");
    place.finish();
}

/// Without the policy, and for claims always, the plugin refuses the volume.
#[test]
fn the_plugin_refuses_volumes_and_kubectl_describe_tells_why() {
    let place = Place::new("refused");
    install_with(&[], &["admissionPolicy.enabled=false"]);
    for entry in ["team", "plain", "nothing"] {
        apply(&persistent(&place, &format!("e2e-{entry}"), entry));
    }
    for (entry, propagation, words) in [
        ("team", "None", ["PermissionDenied", "team", "e2e-refused"]),
        ("plain", "Bidirectional", ["FailedPrecondition", "Bidirectional", "None"]),
        ("nothing", "None", ["NotFound", "nothing", "entry"]),
    ] {
        let (in_pod, by_claim) = (format!("{entry}-inline"), format!("{entry}-claim"));
        apply(&[simple(&place, &in_pod, &inline(entry, ""), propagation)]);
        apply(&[simple(&place, &by_claim, &claim(&format!("e2e-{entry}")), propagation)]);
        for pod in [&in_pod, &by_claim] {
            place.until_described(pod, &words);
            let text = kubectl(&["describe", "pod", pod, "--namespace", &place.namespace]);
            assert!(!text.contains("/mnt/hostmount-e2e"), "the node's path is not for users:\n{text}");
        }
    }
    place.finish();
    for entry in ["team", "plain", "nothing"] {
        kubectl(&["delete", "persistentvolume", &format!("e2e-{entry}")]);
    }
}

/// Runtimes take read-only off where the Pod doesn't say it, so such a volume is none: the event has the line to add.
#[test]
fn a_read_only_volume_whose_pod_does_not_say_so_is_refused_with_the_line_to_add() {
    let place = Place::new("unsaid");
    install_with(&[], &["admissionPolicy.enabled=false"]);
    apply(&persistent(&place, "e2e-unsaid", "read-only"));
    let [mut volume, _] = persistent(&place, "e2e-unsaid-ephemeral", "read-only");
    // The claim of a generic ephemeral volume is named after pod and volume.
    volume["spec"]["claimRef"]["name"] = "ephemeral-data".into();
    let template = json!({"spec": {
        "accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": "e2e-unsaid-ephemeral",
        "resources": {"requests": {"storage": "1Mi"}},
    }});
    let ephemeral = json!({"name": "data", "ephemeral": {"volumeClaimTemplate": template}});
    apply(&[volume]);
    for (pod, data, line) in [
        ("inline", inline("read-only", ""), "set csi.readOnly: true"),
        ("claim", claim("e2e-unsaid"), "set persistentVolumeClaim.readOnly: true"),
        ("ephemeral", ephemeral, "a generic ephemeral volume cannot say so"),
    ] {
        apply(&[simple(&place, pod, &data, "None")]);
        place.until_described(pod, &["FailedPrecondition", "the entry read-only is read-only", line]);
        // Two volumes of one handle share the kubelet's back-off: while one fails, the other may not be tried at all.
        kubectl(&["delete", "pod", pod, "--namespace", &place.namespace, "--now"]);
    }
    place.finish();
    for name in ["e2e-unsaid", "e2e-unsaid-ephemeral"] {
        kubectl(&["delete", "persistentvolume", name]);
    }
}
