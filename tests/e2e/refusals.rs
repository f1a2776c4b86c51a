//! Who may not: with the words that a user reads.

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
