//! The kubelet repeats its publishes when it starts: a running pod keeps what it has, and its containers come back.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Place, field, install_with, node, plugin_log, try_apply, try_kubectl, until, until_registered};
use crate::faults::restart_kubelet;
use crate::pods::{inline, simple};

/// An entry is lowered, then taken out of the list; each time the kubelet restarts, and the container of a pod that has
/// had the volume before is killed. It starts again, with its volume.
#[test]
fn a_container_comes_back_after_the_entry_was_lowered_or_removed_and_the_kubelet_restarted() {
    let place = Place::new("repeats");
    let entry = |propagation: &str| {
        json!({
            "name": "lowered", "path": "/mnt/hostmount-e2e/lowered", "missing": {"create": {}},
            "propagation": propagation, "allow": [{"namespaces": ["e2e-*"]}],
        })
    };
    let set = ["admissionPolicy.enabled=false"];
    let of = ["--namespace", place.namespace.as_str()];
    let changes: [(&str, Vec<Value>); 2] = [("allows None at most", vec![entry("None")]), ("does not have", vec![])];
    for (why, changed) in changes {
        install_with(&[entry("HostToContainer")], &set);
        until("the pod has the entry's volume", Duration::from_secs(180), || {
            try_apply(&[simple(&place, "p", &inline("lowered", ""), "HostToContainer")])?;
            try_kubectl(&[&["wait", "pod/p", "--for=condition=Ready", "--timeout=1s"], &of[..]].concat()).map(drop)
        });
        node("touch /mnt/hostmount-e2e/lowered/here");
        let restarts = || {
            let pod = [&["pod", "p"], &of[..]].concat();
            field(&pod, ".status.containerStatuses[0].restartCount").parse::<u32>().unwrap()
        };
        let before = restarts();
        install_with(&changed, &set);
        // The kubelet asks again when it starts, and brings the changed ConfigMap in its own time.
        until("the volume stays although it would be refused", Duration::from_secs(180), || {
            restart_kubelet();
            until_registered();
            let log = plugin_log();
            let stays = |line: &str| line.contains("stays as it was published") && line.contains(why);
            if log.lines().any(stays) { Ok(()) } else { Err(log) }
        });
        place.exec("p", "c", "kill 1").unwrap();
        until("the container is started again", Duration::from_secs(120), || {
            if restarts() == before {
                return Err("not yet".to_owned());
            }
            place.exec("p", "c", "ls /data").and_then(|seen| if seen == "here\n" { Ok(()) } else { Err(seen) })
        });
        place.delete(&["p"]);
    }
    place.finish();
}
