//! The release: installed, upgraded and rolled back under load, uninstalled while volumes are in use.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::cluster::{
    DRIVER, Place, SYSTEM, apply, driver_mounts, install, install_with, kubectl, kubelet_dir, plugin_pod, try_kubectl,
    uninstall, until, until_nothing_is_mounted, volume_mounts,
};
use crate::hands::{node_at, nodes};
use crate::pods::{inline, simple};

#[test]
fn an_installed_plugin_passes_its_own_check_and_has_no_right_too_many() {
    let place = Place::new("installed");
    let args = ["exec", "--namespace", SYSTEM, &plugin_pod(), "--container=hostmount", "--", "/hostmount", "check"];
    let said = kubectl(&[&args[..], &["--config=/etc/hostmount/entries.yaml"]].concat());
    assert!(said.contains("0 faults"), "{said}");
    // What the account may do beyond what every account may.
    let rights = |account: &str| {
        let account = format!("--as=system:serviceaccount:{account}");
        let list = kubectl(&["auth", "can-i", "--list", &account, "--no-headers"]);
        list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<BTreeSet<_>>()
    };
    let (ours, everybody) = (rights(&format!("{SYSTEM}:hostmount")), rights(&format!("{SYSTEM}:default")));
    let more: Vec<&str> = ours.difference(&everybody).map(String::as_str).collect();
    assert_eq!(
        more,
        ["events.events.k8s.io [] [] [create]", "persistentvolumes [] [] [get]", "pods [] [] [list watch]"]
    );
    place.finish();
}

#[test]
fn pods_start_and_stop_while_the_daemonset_is_upgraded_and_rolled_back() {
    let place = Place::new("upgrade");
    place.mount("nested");
    let volume = inline("data", place.sub_path());
    let some = |from: usize| (from..from + 8).map(|n| format!("p{n}")).collect::<Vec<_>>();
    let start = |names: &[String]| {
        apply(&names.iter().map(|name| simple(&place, name, &volume, "HostToContainer")).collect::<Vec<_>>());
    };
    let first = some(0);
    start(&first);
    first.iter().for_each(|name| place.wait_ready(name));
    let old = plugin_pod();
    let (second, third) = (some(8), some(16));
    std::thread::scope(|scope| {
        let rollout = scope.spawn(|| install_with(&[], &["podAnnotations.round=two"]));
        start(&second);
        let gone: Vec<&str> = first.iter().take(4).map(String::as_str).collect();
        place.delete(&gone);
        rollout.join().unwrap();
    });
    assert_ne!(plugin_pod(), old, "the pod was replaced");
    std::thread::scope(|scope| {
        let rollback = scope.spawn(|| {
            let done = std::process::Command::new("helm")
                .args(["rollback", "hostmount", "--namespace", SYSTEM, "--wait", "--timeout=2m"])
                .output()
                .unwrap();
            assert!(done.status.success(), "{done:?}");
        });
        start(&third);
        rollback.join().unwrap();
    });
    let all = first.iter().skip(4).chain(&second).chain(&third);
    for name in all {
        place.wait_ready(name);
        assert!(place.sees(name, "c", "nested"), "{name}");
    }
    // One mount and the nested one for each pod, no more.
    assert_eq!(volume_mounts().len(), 2 * 20);
    place.finish();
}

#[test]
fn uninstalling_leaves_running_pods_their_volumes_and_nothing_else() {
    let place = Place::new("uninstall");
    place.mount("nested");
    apply(&[simple(&place, "p", &inline("data", place.sub_path()), "HostToContainer")]);
    place.wait_ready("p");
    let held = volume_mounts();
    uninstall();
    assert_eq!(driver_mounts(), held, "the pod's mounts, and none else");
    place.mount("later");
    assert!(place.sees("p", "c", "nested") && place.sees("p", "c", "later"));
    nothing_is_left();

    // A pod can't end without a plugin, and ends with the next one.
    let of = ["--namespace", place.namespace.as_str()];
    kubectl(&[&of[..], &["delete", "pod", "p", "--wait=false"]].concat());
    install();
    until("the pod ends", Duration::from_secs(120), || match try_kubectl(&[&of[..], &["get", "pod", "p"]].concat()) {
        Ok(still) => Err(still),
        Err(_) => Ok(()),
    });
    until_nothing_is_mounted();
    place.finish();
    uninstall();
    nothing_is_left();
    assert!(driver_mounts().is_empty());
}

/// No object of the cluster, no custom resource, no socket and no directory of any node.
#[track_caller]
pub(crate) fn nothing_is_left() {
    let kinds = "csidrivers,clusterroles,clusterrolebindings,validatingadmissionpolicies,\
                 validatingadmissionpolicybindings,customresourcedefinitions";
    let objects = kubectl(&["get", kinds, "--output=name"]);
    assert!(!objects.contains("hostmount"), "{objects}");
    let inside = kubectl(&["get", "all,configmaps,serviceaccounts,secrets", "--namespace", SYSTEM, "--output=name"]);
    assert!(!inside.contains("hostmount"), "{inside}");
    for node in nodes() {
        let files = node_at(node, &format!("find {0}/plugins {0}/plugins_registry -name '*{DRIVER}*'", kubelet_dir()));
        // The kubelet's own: it keeps a directory for staged volumes of each driver it has known.
        let ours: Vec<&str> = files.lines().filter(|line| !line.contains("/plugins/kubernetes.io/")).collect();
        assert!(ours.is_empty(), "{node}: {ours:?}");
    }
}

/// Takes one capability after the other from the container: either it doesn't become ready, or it can't mount.
#[test]
fn every_capability_of_the_container_is_necessary() {
    let place = Place::new("capabilities");
    let all = ["SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE"];
    let works_with = |capabilities: &[&str]| {
        let path = "/spec/template/spec/containers/0/securityContext/capabilities/add";
        let patch = json!([{"op": "replace", "path": path, "value": capabilities}]).to_string();
        let of = ["--namespace", SYSTEM];
        kubectl(&[&of[..], &["patch", "daemonset", "hostmount", "--type=json", "--patch", &patch]].concat());
        let patience = format!("--timeout={}s", 25 * nodes().len());
        let rollout = ["rollout", "status", "daemonset/hostmount", &patience];
        try_kubectl(&[&of[..], &rollout[..]].concat())?;
        apply(&[simple(&place, "canary", &inline("data", place.sub_path()), "HostToContainer")]);
        let wait = ["wait", "--namespace", &place.namespace, "pod/canary", "--for=condition=Ready", "--timeout=15s"];
        let ready = try_kubectl(&wait).map(drop);
        place.delete(&["canary"]);
        ready
    };
    for without in all {
        let rest: Vec<&str> = all.into_iter().filter(|name| *name != without).collect();
        let why = works_with(&rest).expect_err(without);
        println!("without {without}: {}", why.lines().last().unwrap_or_default());
    }
    works_with(&all).unwrap();
    // Helm's apply leaves alone what somebody else has written.
    uninstall();
    install();
    place.finish();
}
