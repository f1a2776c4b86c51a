//! What goes wrong on a node: the plugin is killed, the kubelet restarts, the power fails.

use std::time::Duration;

use crate::cluster::{
    Place, apply, field, install_with, kubectl, node, plugin_log, try_kubectl, try_node, until, until_registered,
    volume_mounts,
};
use crate::hands::{command_on, the_node};
use crate::pods::{inline, simple};

/// A pod starts, which shows that kubelet and plugin work together; and goes.
#[track_caller]
fn canary(place: &Place) {
    apply(&[simple(place, "canary", &inline("data", place.sub_path()), "HostToContainer")]);
    place.wait_ready("canary");
    place.delete(&["canary"]);
}

#[test]
fn a_killed_plugin_takes_nothing_from_running_pods_and_comes_back() {
    let place = Place::new("killed");
    apply(&[simple(&place, "old", &inline("data", place.sub_path()), "HostToContainer")]);
    place.wait_ready("old");
    let pod = crate::cluster::plugin_pod();
    let of = ["pod", &pod, "--namespace", crate::cluster::SYSTEM];
    let restarts = || field(&of, ".status.containerStatuses[0].restartCount").parse::<u32>().unwrap();
    let before = restarts();
    node("kill -9 $(pidof hostmount)");
    place.mount("while-dead");
    assert!(place.sees("old", "c", "while-dead"), "propagation is the kernel's work");
    until("the container is started again", Duration::from_secs(60), || {
        if restarts() > before { Ok(()) } else { Err(format!("{} restarts", restarts())) }
    });
    until_registered();
    canary(&place);
    place.mount("afterwards");
    assert!(place.sees("old", "c", "afterwards"));
    place.finish();
}

/// Kills the kubelet, and waits for the next one.
#[track_caller]
pub(crate) fn restart_kubelet() {
    let old = node("pidof kubelet");
    // A moment later: it is the kubelet that carries this command.
    node(&format!("(sleep 0.5; kill {}) > /dev/null 2>&1 < /dev/null &", old.trim()));
    until("another kubelet", Duration::from_secs(60), || match try_node("pidof kubelet") {
        Ok(new) if new != old => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// spiffe-csi#331: a kubelet that restarts publishes inline volumes again; drivers that stack a mount each time double
/// the mounts of the node until it dies.
#[test]
fn spiffe_csi_331_three_kubelet_restarts_with_13_inline_pods_change_no_mount() {
    let place = Place::new("kubelet");
    let names: Vec<String> = (0..13).map(|n| format!("p{n}")).collect();
    let propagation = ["None", "HostToContainer", "Bidirectional"];
    place.mount("nested");
    let volume = inline("data", place.sub_path());
    let objects: Vec<_> =
        names.iter().zip(propagation.iter().cycle()).map(|(n, p)| simple(&place, n, &volume, p)).collect();
    apply(&objects);
    names.iter().for_each(|name| place.wait_ready(name));
    let before = volume_mounts();
    assert!(before.len() >= 26, "13 volumes with a nested mount each: {before:?}");
    for _ in 0..3 {
        restart_kubelet();
        // It has worked through all pods when one that came last runs.
        canary(&place);
        until_registered();
        assert_eq!(volume_mounts(), before);
    }
    names.iter().for_each(|name| assert!(place.sees(name, "c", "nested"), "{name}"));
    place.finish();
}

/// kubernetes#139045: a publish that is repeated for a running pod and fails makes the kubelet take the volume away, or
/// leave it stale. Here the entry is taken from everybody while the pod runs, and the kubelet restarts.
#[test]
fn kubernetes_139045_a_repeated_publish_that_would_be_refused_leaves_the_pod_its_volume() {
    let place = Place::new("republish");
    let entry = |namespaces: &str| {
        serde_json::json!({
            "name": "changing", "path": "/mnt/hostmount-e2e/changing", "missing": {"create": {}},
            "propagation": "HostToContainer", "allow": [{"namespaces": [namespaces]}],
        })
    };
    install_with(&[entry("e2e-*")], &["admissionPolicy.enabled=false"]);
    until("the pod with the new entry", Duration::from_secs(180), || {
        crate::cluster::try_apply(&[simple(&place, "p", &inline("changing", ""), "HostToContainer")])?;
        try_kubectl(&["wait", "pod/p", "--for=condition=Ready", "--timeout=1s", "--namespace", &place.namespace])
            .map(drop)
    });
    node("touch /mnt/hostmount-e2e/changing/here");
    install_with(&[entry("nobody")], &["admissionPolicy.enabled=false"]);
    // The kubelet asks again when it starts, and brings the changed ConfigMap in its own time.
    until("the plugin refuses it", Duration::from_secs(180), || {
        restart_kubelet();
        until_registered();
        let log = plugin_log();
        if log.contains("may not use the entry changing") { Ok(()) } else { Err(log) }
    });
    // Several tries later the pod has what it had, and it is alive.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(place.exec("p", "c", "ls /data").unwrap(), "here\n");
    node(
        "mkdir /mnt/hostmount-e2e/changing/late && mount -t tmpfs e2e /mnt/hostmount-e2e/changing/late && touch /mnt/hostmount-e2e/changing/late/x",
    );
    assert!(place.sees("p", "c", "late"));
    node("umount /mnt/hostmount-e2e/changing/late");
    // And it can end.
    place.delete(&["p"]);
    place.finish();
}

/// runc#5192: a container that asks for rslave gets a private mount, and nobody says so.
#[test]
fn runc_5192_the_container_really_is_a_slave() {
    let place = Place::new("slave");
    apply(&[simple(&place, "p", &inline("data", place.sub_path()), "HostToContainer")]);
    place.wait_ready("p");
    let table = place.exec("p", "c", "cat /proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(4) == Some("/data")).expect("a volume at /data");
    assert!(line.contains(" master:"), "{line}");
    place.mount("late");
    assert!(place.sees("p", "c", "late"));
    place.finish();
}

/// node-driver-registrar#206, spiffe-csi#158: after a reboot, a socket that nobody serves keeps the kubelet in its
/// back-off, and what was mounted isn't any more.
#[test]
fn node_driver_registrar_206_after_a_reboot_the_pods_come_back_with_their_volumes() {
    if std::env::var("HOSTMOUNT_E2E_REBOOT").is_err() {
        println!("SKIPPED: HOSTMOUNT_E2E_REBOOT names no command that reboots the node");
        return;
    }
    let place = Place::new("reboot");
    // Without a sub-path: what is on the node's /mnt is lost too, and the entry's directory made again.
    apply(&[
        simple(&place, "inline", &inline("data", ""), "HostToContainer"),
        simple(&place, "none", &inline("data", ""), "None"),
    ]);
    place.wait_ready("inline");
    place.wait_ready("none");
    let restarts = |pod| {
        let of = ["pod", pod, "--namespace", &place.namespace];
        field(&of, ".status.containerStatuses[0].restartCount").parse::<u32>().unwrap()
    };
    let before = restarts("inline");
    command_on("HOSTMOUNT_E2E_REBOOT", the_node());
    until("the hand on the node", Duration::from_secs(120), || try_node("true").map(drop));
    until("the pod runs again", Duration::from_secs(120), || {
        let ready = try_kubectl(&[
            "wait",
            "pod/inline",
            "pod/none",
            "--for=condition=Ready",
            "--timeout=1s",
            "--namespace",
            &place.namespace,
        ]);
        if restarts("inline") > before && restarts("none") > before {
            ready.map(drop)
        } else {
            Err("not yet".to_owned())
        }
    });
    until_registered();
    node(
        "mkdir -p /mnt/hostmount-e2e/data/later && mount -t tmpfs e2e /mnt/hostmount-e2e/data/later && touch /mnt/hostmount-e2e/data/later/x",
    );
    assert!(place.sees("inline", "c", "later"), "it has a volume, and a live one");
    assert!(!place.sees("none", "c", "later"));
    node("umount /mnt/hostmount-e2e/data/later && rmdir /mnt/hostmount-e2e/data/later");
    place.finish();
}

#[test]
fn a_changed_configuration_is_taken_up_and_running_pods_keep_theirs() {
    let place = Place::new("changed");
    apply(&[simple(&place, "old", &inline("data", place.sub_path()), "HostToContainer")]);
    place.wait_ready("old");
    let plugin = crate::cluster::plugin_pod();
    let extra = serde_json::json!({
        "name": "new", "path": "/mnt/hostmount-e2e/new", "missing": {"create": {}},
        "allow": [{"namespaces": ["e2e-changed"]}],
    });
    install_with(&[extra], &[]);
    // The kubelet brings a changed ConfigMap into the pod in its own time, and asks again for the volume.
    until("the policy knows the entry", Duration::from_secs(60), || {
        crate::cluster::try_apply(&[simple(&place, "new", &inline("new", ""), "None")]).map(drop)
    });
    until("the pod with the new entry", Duration::from_secs(180), || {
        try_kubectl(&["wait", "pod/new", "--for=condition=Ready", "--timeout=1s", "--namespace", &place.namespace])
            .map(drop)
    });
    assert_eq!(crate::cluster::plugin_pod(), plugin, "no pod of the plugin is replaced for it");
    place.mount("later");
    assert!(place.sees("old", "c", "later"));
    kubectl(&["delete", "pod", "new", "--namespace", &place.namespace]);
    place.finish();
}
