//! What takes more than one node: a plugin on each, pods where their volumes are, nodes that go and come back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{
    DRIVER, Place, ROOT, SYSTEM, apply, driver_mounts_at, field, install, install_with, kubectl, plugin_pod_at,
    try_kubectl, uninstall, until, until_nothing_is_mounted, until_registered, volume_mounts_at,
};
use crate::hands::{command_on, drain, node_at, nodes, try_node_at, two_workers};
use crate::lifecycle::nothing_is_left;
use crate::pods::{HOSTNAME, claim, inline, on, persistent, simple};

/// A mount of one node's on a directory of the test's folder there.
#[track_caller]
fn mount_at(place: &Place, node: &str, directory: &str) {
    let at = format!("{}/{directory}", place.folder());
    node_at(node, &format!("mkdir -p {at} && mount -t tmpfs e2e {at} && touch {at}/x"));
}

#[track_caller]
fn status(place: &Place, pod: &str, path: &str) -> String {
    field(&["pod", pod, "--namespace", &place.namespace], path)
}

fn name_on(node: &str) -> String {
    format!("on-{node}")
}

/// A pod on each node, of the control plane too.
#[track_caller]
fn one_on_each(place: &Place) {
    let make = |node: &String| {
        node_at(node, &format!("mkdir -p {}", place.folder()));
        on(node, simple(place, &name_on(node), &inline("data", place.sub_path()), "HostToContainer"))
    };
    apply(&nodes().iter().map(make).collect::<Vec<_>>());
    nodes().iter().for_each(|node| place.wait_ready(&name_on(node)));
}

#[test]
fn the_plugin_is_ready_on_every_node_and_serves_a_pod_on_each() {
    if two_workers().is_none() {
        return;
    }
    let place = Place::new("each");
    let daemonset = |path| field(&["daemonset", "hostmount", "--namespace", SYSTEM], path);
    assert_eq!(daemonset(".status.desiredNumberScheduled"), nodes().len().to_string());
    assert_eq!(daemonset(".status.numberReady"), nodes().len().to_string());
    for node in nodes() {
        plugin_pod_at(node);
        let id = format!(".spec.drivers[?(@.name==\"{DRIVER}\")].nodeID");
        assert_eq!(field(&["csinode", node], &id), *node);
    }
    one_on_each(&place);
    for node in nodes() {
        mount_at(&place, node, "later");
        assert!(place.sees(&name_on(node), "c", "later"), "{node}");
    }
    nodes().iter().for_each(|node| place.delete(&[&name_on(node)]));
    place.finish();
}

/// In the pod and by one claim that pods of two nodes share: each has its own node's directory, and that node's mounts.
#[test]
fn what_is_mounted_on_one_node_is_seen_there_and_on_no_other() {
    let Some((one, other)) = two_workers() else { return };
    let place = Place::new("apart");
    apply(&persistent(&place, "e2e-apart", &format!("data/{}", place.sub_path())));
    let kinds = [("inline", inline("data", place.sub_path())), ("claim", claim("e2e-apart"))];
    for node in [one, other] {
        node_at(node, &format!("mkdir -p {0}/by-pod && echo {node} > {0}/name", place.folder()));
        let pods = kinds.iter().flat_map(|(kind, volume)| {
            ["HostToContainer", "Bidirectional"].map(|propagation| {
                let name = format!("{kind}-{}-{node}", propagation.to_lowercase());
                on(node, simple(&place, &name, volume, propagation))
            })
        });
        apply(&pods.collect::<Vec<_>>());
    }
    for (kind, _) in &kinds {
        let pods = |node: &str| ["hosttocontainer", "bidirectional"].map(|which| format!("{kind}-{which}-{node}"));
        for node in [one, other] {
            for pod in pods(node) {
                place.wait_ready(&pod);
                assert_eq!(place.exec(&pod, "c", "cat /data/name").unwrap(), format!("{node}\n"));
            }
        }
        mount_at(&place, one, "by-node");
        place.exec(&pods(one)[1], "c", "mount -t tmpfs by-pod /data/by-pod && touch /data/by-pod/x").unwrap();
        for directory in ["by-node", "by-pod"] {
            assert!(pods(one).iter().all(|pod| place.sees(pod, "c", directory)), "{kind}: {directory} on {one}");
            assert!(!pods(other).iter().any(|pod| place.sees(pod, "c", directory)), "{kind}: {directory} on {other}");
            let there = format!("{}/{directory}/x", place.folder());
            node_at(one, &format!("[ -e {there} ]"));
            node_at(other, &format!("[ ! -e {there} ]"));
            node_at(one, &format!("umount {}/{directory}", place.folder()));
        }
    }
    kubectl(&["delete", "pod", "--all", "--namespace", &place.namespace, "--timeout=2m"]);
    place.finish();
    kubectl(&["delete", "persistentvolume", "e2e-apart"]);
}

/// One pod after the other on a node, each with its volume, until it is told to end. How many there were.
fn come_and_go(place: &Place, node: &str, over: &std::sync::atomic::AtomicBool) -> usize {
    let mut count = 0;
    // One more after the end: it has met the new plugin for sure.
    loop {
        let last = over.load(std::sync::atomic::Ordering::SeqCst);
        let name = format!("p{count}-{node}");
        apply(&[on(node, simple(place, &name, &inline("data", place.sub_path()), "HostToContainer"))]);
        place.wait_ready(&name);
        assert!(place.sees(&name, "c", "mounted"), "{name}");
        place.delete(&[&name]);
        count += 1;
        if last {
            return count;
        }
    }
}

#[test]
fn pods_start_and_stop_on_all_nodes_while_the_plugin_is_replaced_on_one_after_the_other() {
    if two_workers().is_none() {
        return;
    }
    let place = Place::new("rolling");
    nodes().iter().for_each(|node| mount_at(&place, node, "mounted"));
    one_on_each(&place);
    let plugins = || nodes().iter().map(|node| plugin_pod_at(node)).collect::<Vec<_>>();
    let old = plugins();
    let over = std::sync::atomic::AtomicBool::new(false);
    let counts = std::thread::scope(|scope| {
        let loops: Vec<_> = nodes().iter().map(|node| scope.spawn(|| come_and_go(&place, node, &over))).collect();
        // Twice, so that there is more than a moment to be met.
        let rolled = std::panic::catch_unwind(|| {
            for round in ["one", "two"] {
                install_with(&[], &[&format!("podAnnotations.round={round}")]);
            }
        });
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        let counts: Vec<_> = loops.into_iter().map(|one| one.join().expect("no pod fails")).collect();
        rolled.expect("the upgrade");
        counts
    });
    println!("pods that came and went during two upgrades, by node: {counts:?}");
    assert!(counts.iter().all(|count| *count > 1), "{counts:?}");
    assert!(plugins().iter().all(|pod| !old.contains(pod)), "every plugin was replaced");
    for node in nodes() {
        let pod = name_on(node);
        assert_eq!(status(&place, &pod, ".status.containerStatuses[0].restartCount"), "0");
        mount_at(&place, node, "later");
        assert!(place.sees(&pod, "c", "mounted") && place.sees(&pod, "c", "later"), "{pod}");
        place.delete(&[&pod]);
        assert_eq!(volume_mounts_at(node), Vec::<String>::new(), "{node}");
    }
    place.finish();
}

/// Pods that may move do so when the node is drained; the others come back with the node, to volumes that live.
#[test]
fn a_node_that_is_drained_and_stopped_and_comes_back_serves_its_pods_again() {
    let Some((stays, goes)) = two_workers() else { return };
    if std::env::var("HOSTMOUNT_E2E_NODE_STOP").is_err() {
        println!("SKIPPED: HOSTMOUNT_E2E_NODE_STOP and _START name no commands that stop and start a node");
        return;
    }
    let place = Place::new("drained");
    for node in [stays, goes] {
        node_at(node, &format!("mkdir -p {}", place.folder()));
    }
    apply(&persistent(&place, "e2e-drained", &format!("data/{}", place.sub_path())));
    let volume = inline("data", place.sub_path());
    // Where it likes; the node that goes is liked best.
    let mut moves = on(goes, simple(&place, "moves", &volume, "HostToContainer"));
    let pod = &mut moves["spec"];
    pod["tolerations"] = json!([]);
    pod["nodeSelector"] = Value::Null;
    let term = json!({"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [goes]}]});
    pod["affinity"] = json!({"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": term}],
    }});
    let template = json!({"metadata": {"labels": {"app": "moves"}}, "spec": pod.take()});
    let selector = json!({"matchLabels": {"app": "moves"}});
    apply(&[
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "moves", "namespace": place.namespace},
            "spec": {"replicas": 1, "selector": selector, "template": template},
        }),
        on(stays, simple(&place, "neighbour", &volume, "HostToContainer")),
    ]);
    place.wait_ready("neighbour");
    let until_moved = |to: &str| {
        until(&format!("the deployment's pod is ready on {to}"), Duration::from_secs(90), || {
            let of = ["pods", "--namespace", &place.namespace, "--selector=app=moves"];
            let ready = field(&of, ".items[*].status.containerStatuses[*].ready");
            let on = field(&of, ".items[*].spec.nodeName");
            if on == to && ready == "true" { Ok(()) } else { Err(format!("on {on}, ready: {ready}")) }
        });
    };
    until_moved(goes);
    drain(goes);
    until_moved(stays);
    until("the drained node has no volume", Duration::from_secs(60), || {
        let left = volume_mounts_at(goes);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });

    // They tolerate what a drained and a lost node is marked with, and wait for it.
    let waiting = [
        on(goes, simple(&place, "inline", &volume, "HostToContainer")),
        on(goes, simple(&place, "claim", &claim("e2e-drained"), "Bidirectional")),
    ];
    apply(&waiting);
    let uid = |pod: &str| status(&place, pod, ".metadata.uid");
    let restarts = |pod: &str| status(&place, pod, ".status.containerStatuses[0].restartCount").parse::<u32>().unwrap();
    let before = ["inline", "claim"].map(|pod| {
        place.wait_ready(pod);
        (uid(pod), restarts(pod))
    });
    command_on("HOSTMOUNT_E2E_NODE_STOP", goes);
    kubectl(&["wait", &format!("node/{goes}"), "--for=condition=Ready=Unknown", "--timeout=3m"]);
    let begun = Instant::now();
    command_on("HOSTMOUNT_E2E_NODE_START", goes);
    kubectl(&["wait", &format!("node/{goes}"), "--for=condition=Ready", "--timeout=3m"]);
    println!("the node is ready {:?} after its start", begun.elapsed());
    kubectl(&["uncordon", goes]);
    for (pod, (uid_before, restarts_before)) in ["inline", "claim"].into_iter().zip(before) {
        until(&format!("{pod} runs again"), Duration::from_secs(180), || {
            let ready = status(&place, pod, ".status.conditions[?(@.type==\"Ready\")].status");
            let now = restarts(pod);
            if now > restarts_before && ready == "True" {
                Ok(())
            } else {
                Err(format!("{now} restarts, ready: {ready}"))
            }
        });
        assert_eq!(uid(pod), uid_before, "it is the same pod");
    }
    println!("its pods run again {:?} after its start", begun.elapsed());
    until("the hand on the node", Duration::from_secs(60), || try_node_at(goes, "true").map(drop));
    until_registered();
    for (node, pods) in [(goes, &["inline", "claim"][..]), (stays, &["neighbour"])] {
        mount_at(&place, node, "later");
        pods.iter().for_each(|pod| assert!(place.sees(pod, "c", "later"), "{pod}"));
    }
    assert_eq!(restarts("neighbour"), 0);
    apply(&[on(goes, simple(&place, "new", &volume, "HostToContainer"))]);
    place.wait_ready("new");
    assert!(place.sees("new", "c", "later"));
    kubectl(&["delete", "deployment", "moves", "--namespace", &place.namespace]);
    kubectl(&["delete", "pod", "--all", "--namespace", &place.namespace, "--timeout=2m"]);
    place.finish();
    kubectl(&["delete", "persistentvolume", "e2e-drained"]);
}

/// A volume that is on one node only, as `persistent` has it otherwise.
fn only_on(node: &str, mut objects: [Value; 2]) -> [Value; 2] {
    let term = json!({"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [node]}]});
    objects[0]["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [term]}});
    objects
}

fn anywhere(mut pod: Value) -> Value {
    pod["spec"]["nodeSelector"] = Value::Null;
    pod["spec"]["tolerations"] = json!([]);
    pod
}

#[test]
fn a_pod_lands_where_its_volume_is_and_nowhere_else() {
    let Some((one, other)) = two_workers() else { return };
    let place = Place::new("affinity");
    for node in [one, other] {
        node_at(node, &format!("mkdir -p {0} && echo {node} > {0}/name", place.folder()));
        let name = format!("e2e-{node}");
        apply(&only_on(node, persistent(&place, &name, &format!("data/{}", place.sub_path()))));
        apply(&[anywhere(simple(&place, &format!("at-{node}"), &claim(&name), "HostToContainer"))]);
    }
    for node in [one, other] {
        let pod = format!("at-{node}");
        place.wait_ready(&pod);
        assert_eq!(status(&place, &pod, ".spec.nodeName"), node);
        assert_eq!(place.exec(&pod, "c", "cat /data/name").unwrap(), format!("{node}\n"));
    }
    let elsewhere = on(other, simple(&place, "elsewhere", &claim(&format!("e2e-{one}")), "HostToContainer"));
    apply(&[elsewhere]);
    place.until_described("elsewhere", &["FailedScheduling", "node affinity"]);
    assert_eq!(status(&place, "elsewhere", ".spec.nodeName"), "");

    // A claim that waits for its first pod is given the volume of the node where that pod must be.
    apply(&[json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "e2e-waits"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
    })]);
    for node in [one, other] {
        let [mut volume, mut wanted] =
            only_on(node, persistent(&place, &format!("e2e-w-{node}"), &format!("data/{}", place.sub_path())));
        for object in [&mut volume, &mut wanted] {
            object["spec"]["storageClassName"] = json!("e2e-waits");
        }
        // Nothing binds the two but the scheduler.
        volume["spec"]["claimRef"] = Value::Null;
        wanted["spec"]["volumeName"] = Value::Null;
        wanted["metadata"]["name"] = json!(format!("waits-{node}"));
        apply(&[volume, wanted]);
    }
    for node in [other, one] {
        let pod = format!("first-{node}");
        apply(&[on(node, simple(&place, &pod, &claim(&format!("waits-{node}")), "HostToContainer"))]);
        place.wait_ready(&pod);
        let of = ["persistentvolumeclaim", &format!("waits-{node}"), "--namespace", &place.namespace];
        assert_eq!(field(&of, ".spec.volumeName"), format!("e2e-w-{node}"));
        assert_eq!(place.exec(&pod, "c", "cat /data/name").unwrap(), format!("{node}\n"));
    }
    kubectl(&["delete", "pod", "--all", "--namespace", &place.namespace, "--timeout=2m"]);
    place.finish();
    for node in [one, other] {
        kubectl(&["delete", "persistentvolume", &format!("e2e-{node}"), &format!("e2e-w-{node}")]);
    }
    kubectl(&["delete", "storageclass", "e2e-waits"]);
}

#[test]
fn uninstalling_leaves_nothing_on_any_node_but_the_volumes_of_running_pods() {
    if two_workers().is_none() {
        return;
    }
    let place = Place::new("gone");
    one_on_each(&place);
    let held: Vec<_> = nodes().iter().map(|node| volume_mounts_at(node)).collect();
    uninstall();
    nothing_is_left();
    for (node, held) in nodes().iter().zip(held) {
        assert_eq!((driver_mounts_at(node), held.len()), (held, 1), "{node}: the pod's mount, and none else");
        mount_at(&place, node, "later");
        assert!(place.sees(&name_on(node), "c", "later"), "{node}");
    }
    let all = ["pod", "--all", "--namespace", &place.namespace];
    kubectl(&[&["delete", "--wait=false"][..], &all].concat());
    install();
    kubectl(&[&["wait", "--for=delete", "--timeout=2m"][..], &all].concat());
    until_nothing_is_mounted();
    place.finish();
    uninstall();
    nothing_is_left();
    for node in nodes() {
        assert_eq!(driver_mounts_at(node), Vec::<String>::new(), "{node}");
        let table = node_at(node, "cat /proc/self/mountinfo");
        assert!(!table.contains(ROOT), "{node}: {table}");
        // What users' entries created stays; the plugin has no process.
        assert!(try_node_at(node, "pidof hostmount").is_err(), "{node}");
    }
    assert!(try_kubectl(&["get", "csidriver", DRIVER]).is_err());
}
