//! What a pod wants is looked up: the real plugin, real mounts, and an API server that the test has in hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

#[path = "lookup/api.rs"]
mod api;
mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use api::Api;
use mounts::mountinfo;
use mounts::propagation::MountPropagation;
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use support::{Node, capability, eventually, in_namespace, tmpfs, unmount};
use tonic::Code;
use wire::csi;

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
        // One that says gets that, whatever its containers ask for.
        api.add(inline_pod("says", "None"));
        gets(&node, &node.inline("says", &[("volume", "data"), ("propagation", "Bidirectional")]), "Bidirectional");
        assert_eq!(api.asked().get("get PersistentVolume"), None);
        // Only this node's pods, only from the watch cache (no limit, version 0), one list and one watch from there on:
        // what other ways cost is in docs/scale.md.
        let list = "fieldSelector=spec.nodeName%3Dn1&resourceVersion=0&resourceVersionMatch=NotOlderThan";
        let watch =
            "watch=true&timeoutSeconds=290&fieldSelector=spec.nodeName%3Dn1&allowWatchBookmarks=true&resourceVersion=0";
        assert_eq!(api.questions().iter().map(|q| q.trim_start_matches('&')).collect::<Vec<_>>(), [list, watch]);
        assert_eq!(node.metric("hostmount_pod_lookup_duration_seconds_count{outcome=\"found\"}"), 4.0);
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
        let status = node.refused(&never, Code::Unavailable, &["ml/pod-never", "within 2s", "will be retried"]);
        node.logged(&status, &["(uid never)"]);
        assert!(start.elapsed() < Duration::from_secs(20));
        assert_eq!(node.metric("hostmount_pod_lookup_duration_seconds_count{outcome=\"failed\"}"), 1.0);
    });
}

#[test]
fn without_an_api_server_nothing_is_guessed() {
    in_namespace(|| {
        let api = Api::start();
        api.down(true);
        let node = node_with(&api, "0.2");
        api.add(inline_pod("p", "HostToContainer"));
        let request = node.inline("p", &[("volume", "data")]);
        eventually("the failure is known", || {
            node.get("/readyz") == (503, "not ready: pod-lookup\n".to_owned())
                && node.log().contains("the server is down")
        });
        let status = node.refused(&request, Code::Unavailable, &["ml/pod-p"]);
        node.logged(&status, &["the server is down"]);
        // Nor of a volume that says its propagation: more depends on the pod than that.
        let says = node.inline("says", &[("volume", "data"), ("propagation", "HostToContainer")]);
        let status = node.refused(&says, Code::Unavailable, &["ml/pod-says"]);
        node.logged(&status, &["the server is down"]);
        assert_eq!(node.get("/healthz"), (200, "degraded: pod-lookup\n".to_owned()));
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
        assert!(start.elapsed() < Duration::from_secs(2), "{status:?}");
        // A volume context that claims to be of somebody else.
        let mut forged = node.inline("p", &[("volume", "data")]);
        forged.volume_context.insert("csi.storage.k8s.io/pod.name".into(), "pod-q".into());
        let status = node.refused(&forged, Code::PermissionDenied, &["ml/pod-q"]);
        node.logged(&status, &["ml/pod-q", "ml/pod-p"]);
        let mut forged = node.inline("p", &[("volume", "data")]);
        forged.volume_context.insert("csi.storage.k8s.io/serviceAccount.name".into(), "admin".into());
        let status = node.refused(&forged, Code::PermissionDenied, &["\"admin\""]);
        node.logged(&status, &["\"admin\"", "\"default\""]);
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
        let status = node.refused(&request, Code::Unavailable, &["PersistentVolume \"v\"", "ml/pod-differ"]);
        node.logged(&status, &["NotFound"]);
        api.bind("v", "web", "ca");
        let status = node.refused(&request, Code::Unavailable, &["PersistentVolume \"v\""]);
        node.logged(&status, &["not bound to a claim of the pod's namespace"]);
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

/// A pod of this name, with one inline volume.
fn named(mut pod: Value, namespace: &str, name: &str) -> Value {
    pod["metadata"]["namespace"] = json!(namespace);
    pod["metadata"]["name"] = json!(name);
    pod
}

/// The mirror of a static pod, or what says to be one.
fn mirror_of(uid: &str, mut pod: Value) -> Value {
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": uid});
    pod
}

fn called(mut request: csi::NodePublishVolumeRequest, namespace: &str, name: &str) -> csi::NodePublishVolumeRequest {
    request.volume_context.insert("csi.storage.k8s.io/pod.namespace".into(), namespace.to_owned());
    request.volume_context.insert("csi.storage.k8s.io/pod.name".into(), name.to_owned());
    request
}

/// What the API server has told so far is known: a pod that is added now is.
fn all_is_known(api: &Api, node: &Node, uid: &str) {
    api.add(inline_pod(uid, "None"));
    gets(node, &node.inline(uid, &[("volume", "data")]), "None");
}

#[test]
fn a_static_pod_is_found_by_its_mirror() {
    in_namespace(|| {
        let (api, node) = started();
        api.add(mirror_of("p", named(inline_pod("of-the-mirror", "Bidirectional"), "ml", "pod-p")));
        gets(&node, &node.inline("p", &[("volume", "data")]), "Bidirectional");
    });
}

#[test]
fn a_mirror_annotation_does_not_take_the_place_of_the_pod_whose_uid_it_names() {
    in_namespace(|| {
        let (api, node) = started();
        let thief = || mirror_of("victim", named(inline_pod("of-the-thief", "Bidirectional"), "evil", "thief"));
        let request = node.inline("victim", &[("volume", "data")]);
        // It comes first, and again.
        api.add(thief());
        api.add(inline_pod("victim", "HostToContainer"));
        gets(&node, &request, "HostToContainer");
        api.add(thief());
        all_is_known(&api, &node, "a");
        node.unpublish(&request).unwrap();
        gets(&node, &request, "HostToContainer");
        let told = node.log();
        let told: Vec<&str> = told.lines().filter(|line| line.contains("kubernetes.io/config.mirror")).collect();
        assert!(told.len() == 1 && told[0].contains("evil/thief") && told[0].contains("ml/pod-victim"), "{told:?}");
        // Its own claim is refused, and named.
        let claimed = called(node.inline("victim", &[("volume", "data")]), "evil", "thief");
        let status = node.refused(&claimed, Code::PermissionDenied, &["evil/thief"]);
        node.logged(&status, &["evil/thief", "ml/pod-victim"]);
        // After its end the victim is known as before.
        api.remove("of-the-thief");
        all_is_known(&api, &node, "b");
        node.unpublish(&request).unwrap();
        gets(&node, &request, "HostToContainer");
        assert_eq!(node.metric("hostmount_pods_known"), 3.0);
    });
}

#[test]
fn a_false_mirror_of_a_static_pod_changes_nothing_for_the_true_one() {
    in_namespace(|| {
        let (api, node) = started();
        api.add(mirror_of("p", named(inline_pod("false", "Bidirectional"), "evil", "pod-p")));
        api.add(mirror_of("p", named(inline_pod("true", "HostToContainer"), "ml", "pod-p")));
        let request = node.inline("p", &[("volume", "data")]);
        gets(&node, &request, "HostToContainer");
        api.remove("false");
        all_is_known(&api, &node, "a");
        node.unpublish(&request).unwrap();
        gets(&node, &request, "HostToContainer");
    });
}

#[test]
fn a_pod_made_anew_with_the_same_name_is_not_taken_for_the_old_one() {
    in_namespace(|| {
        let (api, node) = started();
        let db = |uid: &str, propagation: &str| named(inline_pod(uid, propagation), "ml", "db-0");
        let request = |uid: &str| called(node.inline(uid, &[("volume", "data")]), "ml", "db-0");
        api.add(db("old", "Bidirectional"));
        gets(&node, &request("old"), "Bidirectional");
        // The old one's end is told after the new one's beginning, and takes nothing from it.
        api.add(db("new", "HostToContainer"));
        api.remove("old");
        all_is_known(&api, &node, "a");
        gets(&node, &request("new"), "HostToContainer");
        // Of the old one nothing is published any more: until its deadline, and no longer.
        node.unpublish(&request("old")).unwrap();
        let status = node.refused(&request("old"), Code::Unavailable, &["ml/db-0"]);
        node.logged(&status, &["(uid old)", "has the uid new"]);
        node.unpublish(&request("old")).unwrap();
        assert!(!node.target("old").exists());
        assert_eq!(relation(&node.target("new")), MountPropagation::HostToContainer);
    });
}

#[test]
fn where_pods_are_looked_up_a_request_without_pod_info_is_refused() {
    in_namespace(|| {
        let (api, node) = started();
        api.add(inline_pod("p", "HostToContainer"));
        all_is_known(&api, &node, "a");
        for propagation in [&[][..], &[("propagation", "HostToContainer")]] {
            for key in ["name", "namespace", "uid"] {
                let mut request = node.inline("p", &[&[("volume", "data")], propagation].concat());
                request.volume_context.remove(&format!("csi.storage.k8s.io/pod.{key}"));
                let status = node.refused(&request, Code::FailedPrecondition, &["which pod", "podInfoOnMount"]);
                node.logged(&status, &["podInfoOnMount"]);
            }
        }
        gets(&node, &node.inline("p", &[("volume", "data")]), "HostToContainer");
    });
}

#[test]
fn a_generic_ephemeral_volume_that_would_be_read_only_is_refused_by_name() {
    in_namespace(|| {
        let (api, node) = started();
        let with = |uid: &str, volumes: &Value| {
            let mounts: Vec<_> = (0..volumes.as_array().unwrap().len())
                .map(|n| json!({"name": format!("v{n}"), "mountPath": format!("/{n}")}))
                .collect();
            let containers = json!([{"name": "c", "volumeMounts": mounts}]);
            api.add(pod(uid, &json!({"volumes": volumes, "containers": containers})));
            let mut request = node.persistent(uid, "data", &[("readOnly", "true")]);
            request.volume_capability = capability(3);
            request
        };
        node.stage("data").unwrap();
        let template = json!({"name": "v0", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
        let claim = |name: &str| json!({"name": name, "persistentVolumeClaim": {"claimName": "c"}});
        let ephemeral = with("ephemeral", &json!([template]));
        let status = node.refused(&ephemeral, Code::FailedPrecondition, &["a generic ephemeral volume cannot say so"]);
        assert!(!status.message().contains("set persistentVolumeClaim"), "{}", status.message());
        let claimed = with("claimed", &json!([claim("v0")]));
        let words = ["set persistentVolumeClaim.readOnly: true on the pod's volume"];
        let status = node.refused(&claimed, Code::FailedPrecondition, &words);
        assert!(!status.message().contains("ephemeral"), "{}", status.message());
        let either = with("either", &json!([template, claim("v1")]));
        node.refused(&either, Code::FailedPrecondition, &[words[0], "if it is a generic ephemeral volume"]);
        assert_eq!(api.asked().get("get PersistentVolume"), None);
    });
}

/// `hostUsers: false`: the runtime maps the owners of the files of the volume's top mount, and of no other.
#[test]
fn a_pod_with_a_user_namespace_is_refused_what_its_runtime_cannot_map() {
    in_namespace(|| {
        let (api, node) = started();
        let add = |uid: &str, propagation: &str| {
            let mut pod = inline_pod(uid, propagation);
            pod["spec"]["hostUsers"] = json!(false);
            api.add(pod);
        };
        for propagation in ["HostToContainer", "Bidirectional"] {
            add(propagation, propagation);
            let request = node.inline(propagation, &[("volume", "data")]);
            node.refused(
                &request,
                Code::FailedPrecondition,
                &[propagation, "hostUsers: false", "mountPropagation: None"],
            );
        }
        // The attribute is no way around.
        add("p", "None");
        let says = node.inline("p", &[("volume", "data"), ("propagation", "HostToContainer")]);
        node.refused(&says, Code::FailedPrecondition, &["HostToContainer", "hostUsers: false"]);

        let request = node.inline("p", &[("volume", "data"), ("subPath", "sub")]);
        gets(&node, &request, "None");
        gets(&node, &request, "None");
        node.unpublish(&request).unwrap();

        // What is mounted in the directory.
        let inside = node.root.join("data/sub/a/b");
        tmpfs(&inside);
        let status = node.refused(&request, Code::FailedPrecondition, &["(1 of them)", "65534", "hostUsers: false"]);
        assert!(!status.message().contains("/mnt"), "{}", status.message());
        // Others may have it so, and beside it there is nothing to map.
        api.add(inline_pod("ordinary", "None"));
        let ordinary = node.inline("ordinary", &[("volume", "data"), ("subPath", "sub")]);
        node.publish(&ordinary).unwrap();
        node.unpublish(&ordinary).unwrap();
        unmount(&inside);
        gets(&node, &request, "None");
        node.unpublish(&request).unwrap();

        // A file system that can't be mapped.
        let at = node.root.join("data/sub");
        mount(Some("r"), &at, Some("ramfs"), MsFlags::empty(), None::<&str>).unwrap();
        let words = ["the file system \"ramfs\"", "hostUsers: false"];
        let status = node.refused(&request, Code::FailedPrecondition, &words);
        node.logged(&status, &["take a directory on", "ext4"]);
        unmount(&at);
        gets(&node, &request, "None");
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
