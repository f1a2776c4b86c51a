//! What a pod wants is looked up: the real plugin, real mounts, and an API server that the test has in hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

#[path = "lookup/api.rs"]
mod api;
mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use api::Api;
use hostmount::propagation::MountPropagation;
use hostmount::tree::mountinfo;
use hostmount::wire::csi;
use serde_json::{Value, json};
use support::{Node, eventually, in_namespace};
use tonic::Code;

const ALL: [&str; 3] = ["None", "HostToContainer", "Bidirectional"];

fn node_with(api: &Api, timeout: &str) -> Node {
    let config = std::env::temp_dir().join(format!("kubeconfig-{}", std::process::id()));
    fs::write(&config, api.kubeconfig()).unwrap();
    let args = ["--pod-lookup=api", "--lookup-timeout", timeout, "--admin-address=127.0.0.1:0"];
    Node::start_with_env(&args, &[("KUBECONFIG", config.to_str().unwrap())])
}

fn started() -> (Api, Node) {
    let api = Api::start();
    let node = node_with(&api, "2");
    eventually("the pods are known", || node.get("/readyz").0 == 200);
    (api, node)
}

fn mounts(volume: &str, propagation: &str) -> Value {
    json!([{"name": volume, "mountPath": "/x", "mountPropagation": propagation}])
}

fn pod(uid: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": format!("pod-{uid}"), "namespace": "ml", "uid": uid, "resourceVersion": "1"},
    })
}

/// A pod with one inline volume, `v` as in [`Node::target`].
fn inline_pod(uid: &str, propagation: &str) -> Value {
    pod(
        uid,
        &json!({
            "volumes": [{"name": "v", "csi": {"driver": "csi.hostmount.dev"}}],
            "containers": [{"name": "c", "volumeMounts": mounts("v", propagation)}],
        }),
    )
}

/// What can cross between the entry `data` and a target, by the kernel's own word.
fn relation(target: &Path) -> MountPropagation {
    let table = mountinfo::parse(&fs::read("/proc/self/mountinfo").unwrap());
    let at = |path: &Path| table.mounts.iter().rfind(|m| m.mount_point == path).unwrap().propagation;
    let (source, target) = (at(Path::new("/mnt")), at(target));
    if target.peer_group == source.peer_group {
        MountPropagation::Bidirectional
    } else if target.master == source.peer_group {
        MountPropagation::HostToContainer
    } else {
        MountPropagation::None
    }
}

#[track_caller]
fn gets(node: &Node, request: &csi::NodePublishVolumeRequest, propagation: &str) {
    node.publish(request).unwrap();
    assert_eq!(relation(Path::new(&request.target_path)).name(), propagation);
}

#[test]
fn a_volume_that_does_not_say_gets_what_the_pod_asks_for() {
    in_namespace(|| {
        let (api, node) = started();
        for propagation in ALL {
            api.add(inline_pod(propagation, propagation));
            gets(&node, &node.inline(propagation, &[("volume", "data")]), propagation);
        }
        // One that says gets that, and needs no pod.
        gets(&node, &node.inline("unknown", &[("volume", "data"), ("propagation", "Bidirectional")]), "Bidirectional");
        assert_eq!(api.asked().get("get PersistentVolume"), None);
        // Only this node's pods, only from the watch cache (no limit, version 0), one list and one watch from there on:
        // what other ways cost is in docs/scale.md.
        let list = "fieldSelector=spec.nodeName%3Dn1&resourceVersion=0&resourceVersionMatch=NotOlderThan";
        let watch =
            "watch=true&timeoutSeconds=290&fieldSelector=spec.nodeName%3Dn1&allowWatchBookmarks=true&resourceVersion=0";
        assert_eq!(api.questions().iter().map(|q| q.trim_start_matches('&')).collect::<Vec<_>>(), [list, watch]);
        assert_eq!(node.metric("hostmount_pod_lookup_duration_seconds_count{outcome=\"found\"}"), 3.0);
    });
}

#[test]
fn a_pod_that_is_not_known_yet_is_waited_for_but_not_for_ever() {
    in_namespace(|| {
        let (api, node) = started();
        let request = node.inline("late", &[("volume", "data")]);
        let later = api.clone();
        let adding = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            later.add(inline_pod("late", "HostToContainer"));
        });
        gets(&node, &request, "HostToContainer");
        adding.join().unwrap();

        let start = Instant::now();
        let never = node.inline("never", &[("volume", "data")]);
        node.refused(&never, Code::Unavailable, &["ml/pod-never", "uid never", "within 2s", "will be retried"]);
        assert!(start.elapsed() < Duration::from_secs(20));
        assert_eq!(node.metric("hostmount_pod_lookup_duration_seconds_count{outcome=\"failed\"}"), 1.0);
    });
}

#[test]
fn without_an_api_server_nothing_is_guessed_and_what_needs_none_works() {
    in_namespace(|| {
        let api = Api::start();
        api.down(true);
        let node = node_with(&api, "0.2");
        api.add(inline_pod("p", "HostToContainer"));
        let request = node.inline("p", &[("volume", "data")]);
        eventually("the failure is known", || node.get("/readyz").1.contains("the server is down"));
        node.refused(&request, Code::Unavailable, &["ml/pod-p", "the server is down"]);
        let says = node.inline("says", &[("volume", "data"), ("propagation", "HostToContainer")]);
        gets(&node, &says, "HostToContainer");
        assert!(node.get("/healthz").1.contains("the server is down"));
        assert_eq!(node.metric("hostmount_pod_watch_good"), 0.0);

        api.down(false);
        eventually("the pods are known", || node.get("/readyz").0 == 200);
        gets(&node, &request, "HostToContainer");
        assert_eq!(node.metric("hostmount_pod_watch_good"), 1.0);

        // What happens while the watch is down is made up for.
        api.down(true);
        api.forget_silently("p");
        eventually("the failure is known", || node.metric("hostmount_pod_watch_good") == 0.0);
        api.add(inline_pod("q", "Bidirectional"));
        api.down(false);
        eventually("the pods are known", || node.metric("hostmount_pod_watch_good") == 1.0);
        eventually("the new one is known", || node.publish(&node.inline("q", &[("volume", "data")])).is_ok());
        assert_eq!(node.metric("hostmount_pods_known"), 1.0);
    });
}

#[test]
fn the_ceiling_and_the_list_of_users_hold_for_looked_up_volumes() {
    in_namespace(|| {
        let (api, node) = started();
        api.add(inline_pod("p", "Bidirectional"));
        let above = node.inline("p", &[("volume", "team")]);
        node.refused(&above, Code::FailedPrecondition, &["Bidirectional", "team allows None at most"]);
        // Who may not is told at once, although the pod is not known.
        let mut other = node.inline("u", &[("volume", "team")]);
        other.volume_context.extend(node.pod_info("u", "web"));
        let start = Instant::now();
        let status = node.refused(&other, Code::PermissionDenied, &["web/pod-u", "the entry team"]);
        assert!(start.elapsed() < Duration::from_secs(2) && !status.message().contains("/mnt"), "{status:?}");
        // A volume context that claims to be of somebody else.
        let mut forged = node.inline("p", &[("volume", "data")]);
        forged.volume_context.insert("csi.storage.k8s.io/pod.name".into(), "pod-q".into());
        node.refused(&forged, Code::PermissionDenied, &["ml/pod-q", "ml/pod-p", "podInfoOnMount"]);
        let mut forged = node.inline("p", &[("volume", "data")]);
        forged.volume_context.insert("csi.storage.k8s.io/serviceAccount.name".into(), "admin".into());
        node.refused(&forged, Code::PermissionDenied, &["\"admin\"", "\"default\""]);
    });
}

#[test]
fn a_claim_is_asked_for_only_where_the_pod_s_claims_differ() {
    in_namespace(|| {
        let (api, node) = started();
        let claims = |uid: &str, second: &str| {
            pod(
                uid,
                &json!({
                    "volumes": [
                        {"name": "a", "persistentVolumeClaim": {"claimName": "ca"}},
                        {"name": "b", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
                    ],
                    "containers": [
                        {"name": "1", "volumeMounts": mounts("a", "HostToContainer")},
                        {"name": "2", "volumeMounts": mounts("b", second)},
                    ],
                }),
            )
        };
        node.stage("data").unwrap();
        api.add(claims("same", "HostToContainer"));
        gets(&node, &node.persistent("same", "data", &[]), "HostToContainer");
        assert_eq!(api.asked().get("get PersistentVolume"), None);

        api.add(claims("differ", "Bidirectional"));
        let request = node.persistent("differ", "data", &[]);
        node.refused(&request, Code::Unavailable, &["PersistentVolume v", "ml/pod-differ", "NotFound"]);
        api.bind("v", "web", "ca");
        node.refused(&request, Code::Unavailable, &["not bound to a claim of the pod's namespace"]);
        api.bind("v", "ml", "another");
        node.refused(&request, Code::Unavailable, &["no volume that could be \"v\""]);
        api.bind("v", "ml", "ca");
        gets(&node, &request, "HostToContainer");
        node.unpublish(&request).unwrap();
        // A generic ephemeral volume's claim is named after pod and volume.
        api.bind("v", "ml", "pod-differ-b");
        gets(&node, &request, "Bidirectional");
        assert_eq!(node.metric("hostmount_persistent_volume_requests_total"), 5.0);
    });
}

#[test]
fn an_inline_volume_is_not_taken_for_a_claim_of_the_same_name() {
    in_namespace(|| {
        let (api, node) = started();
        api.add(pod(
            "p",
            &json!({
                "volumes": [
                    {"name": "v", "csi": {"driver": "csi.hostmount.dev"}},
                    {"name": "claimed", "persistentVolumeClaim": {"claimName": "c"}},
                    {"name": "w", "csi": {"driver": "another.dev"}},
                ],
                "containers": [{"name": "1", "volumeMounts": [
                    {"name": "v", "mountPath": "/v", "mountPropagation": "HostToContainer"},
                    {"name": "claimed", "mountPath": "/c", "mountPropagation": "Bidirectional"},
                ]}],
            }),
        ));
        node.stage("data").unwrap();
        let inline = node.inline("p", &[("volume", "data")]);
        gets(&node, &inline, "HostToContainer");
        node.unpublish(&inline).unwrap();
        gets(&node, &node.persistent("p", "data", &[]), "Bidirectional");
    });
}

#[test]
fn a_container_that_joins_a_running_pod_does_not_cost_it_its_volume() {
    in_namespace(|| {
        let (api, node) = started();
        let with_debugger = |uid: &str| {
            let mut pod = inline_pod(uid, "HostToContainer");
            pod["spec"]["ephemeralContainers"] =
                json!([{"name": "debug", "volumeMounts": mounts("v", "Bidirectional")}]);
            pod
        };
        api.add(inline_pod("p", "HostToContainer"));
        let request = node.inline("p", &[("volume", "data")]);
        gets(&node, &request, "HostToContainer");
        api.add(with_debugger("p"));
        // Known as soon as a pod that was added after it is.
        api.add(inline_pod("after", "None"));
        gets(&node, &node.inline("after", &[("volume", "data")]), "None");
        gets(&node, &request, "HostToContainer");
        // Published anew, as after a reboot, the debugger counts.
        node.unpublish(&request).unwrap();
        gets(&node, &request, "Bidirectional");
    });
}

/// The kubelet repeats its calls after a restart, also while the API server is away.
#[test]
fn a_volume_stays_while_the_api_server_is_away() {
    in_namespace(|| {
        let (api, mut node) = started();
        api.add(inline_pod("p", "HostToContainer"));
        let request = node.inline("p", &[("volume", "data")]);
        gets(&node, &request, "HostToContainer");
        api.down(true);
        node.kill_and_restart();
        gets(&node, &request, "HostToContainer");
        assert_eq!(node.metric("hostmount_kept_volumes_total{reason=\"pod_lookup\"}"), 1.0);
        node.refused(&node.inline("q", &[("volume", "data")]), Code::Unavailable, &["ml/pod-q"]);
    });
}

#[test]
fn a_static_pod_is_found_by_its_mirror() {
    in_namespace(|| {
        let (api, node) = started();
        let mut mirror = inline_pod("p", "Bidirectional");
        mirror["metadata"]["uid"] = json!("of-the-mirror");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "p"});
        api.add(mirror);
        gets(&node, &node.inline("p", &[("volume", "data")]), "Bidirectional");
    });
}

/// 500 pods of one node, started at once: inline volumes, claims that agree, and claims that differ.
#[test]
fn five_hundred_pods_at_once_cost_at_most_one_request_each() {
    in_namespace(|| {
        let (api, node) = started();
        node.stage("data").unwrap();
        let before: usize = api.asked().values().sum();
        let mut requests = Vec::new();
        for n in 0..500 {
            let uid = format!("u{n}");
            let propagation = ALL[n % 3];
            let volume = format!("pv-{n}");
            let spec = match n % 5 {
                0..=2 => None,
                3 => Some(json!({
                    "volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": format!("c{n}")}}],
                    "containers": [{"name": "1", "volumeMounts": mounts("a", propagation)}],
                })),
                _ => Some(json!({
                    "volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": format!("c{n}")}},
                        {"name": "db", "persistentVolumeClaim": {"claimName": "db"}}],
                    "containers": [{"name": "1", "volumeMounts": mounts("a", propagation)}],
                })),
            };
            let mut request = match &spec {
                None => node.inline(&uid, &[("volume", "data")]),
                Some(_) => node.persistent(&uid, "data", &[]),
            };
            if spec.is_some() {
                let target = request.target_path.replace("~csi/v/", &format!("~csi/{volume}/"));
                fs::create_dir_all(Path::new(&target).parent().unwrap()).unwrap();
                request.target_path = target;
                api.bind(&volume, "ml", &format!("c{n}"));
            }
            api.add(spec.map_or_else(|| inline_pod(&uid, propagation), |spec| pod(&uid, &spec)));
            requests.push((request, propagation));
        }
        let channel = node.channel();
        let start = Instant::now();
        node.runtime.block_on(async {
            let calls: Vec<_> = requests
                .iter()
                .map(|(request, _)| {
                    let mut client = csi::node_client::NodeClient::new(channel.clone());
                    let request = request.clone();
                    tokio::spawn(async move { client.node_publish_volume(request).await })
                })
                .collect();
            for call in calls {
                call.await.unwrap().unwrap();
            }
        });
        let took = start.elapsed();
        for (request, propagation) in &requests {
            assert_eq!(relation(Path::new(&request.target_path)).name(), *propagation, "{}", request.target_path);
        }
        let asked: usize = api.asked().values().sum::<usize>() - before;
        println!("500 publishes in {took:?}, {asked} requests to the API server: {:?}", api.asked());
        assert!(asked <= 500, "{asked} requests");
        // Only the pods whose claims differ: of every five one, a third of which want None from both.
        assert_eq!(asked, (0..500).filter(|n| n % 5 == 4 && n % 3 != 0).count());
    });
}
