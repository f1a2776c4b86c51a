//! Dead, hung and deleted sources are told of: once a change, in the log, by a metric and as events on the pods.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

#[path = "lookup/api.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod api;
mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use api::Api;
use serde_json::Value;
use support::fuse::{Daemon, Fuse};
use support::{Node, eventually, in_namespace};
use wire::csi::NodePublishVolumeRequest;

const FUSE: &[(&str, &str)] = &[("volume", "data"), ("subPath", "fuse"), ("propagation", "HostToContainer")];
const ARGS: [&str; 4] = ["--probe-interval=0.1", "--events", "--admin-address=127.0.0.1:0", "--call-timeout=0.5"];

fn start() -> (Api, Node) {
    let api = Api::start();
    let config = tempfile::NamedTempFile::new().unwrap();
    let (_, config) = config.keep().unwrap();
    fs::write(&config, api.kubeconfig()).unwrap();
    let node = Node::start_with_env(&ARGS, &[("KUBECONFIG", config.to_str().unwrap())]);
    (api, node)
}

fn publish(node: &Node, pods: &[&str]) -> Vec<NodePublishVolumeRequest> {
    let pods: Vec<_> = pods.iter().map(|pod| node.inline(pod, FUSE)).collect();
    pods.iter().for_each(|pod| node.publish(pod).unwrap());
    pods
}

fn unhealthy(node: &Node, reason: &str) -> f64 {
    node.metric(&format!("hostmount_unhealthy_volumes{{reason=\"{reason}\"}}"))
}

/// (pod, reason) of each event.
fn told(api: &Api) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut told: Vec<_> =
        api.created().iter().map(|event| (text(&event["regarding"]["name"]), text(&event["reason"]))).collect();
    told.sort();
    told
}

fn of(pods: &[&str], reason: &str) -> Vec<(String, String)> {
    pods.iter().map(|pod| (format!("pod-{pod}"), reason.to_owned())).collect()
}

/// Proves that all sources are looked at again after this is called: another one dies, and is told of.
fn looked_at_again(node: &Node, name: &str) {
    let daemon = Daemon::start(&node.root.join("data").join(name)).unwrap();
    let before = unhealthy(node, "SourceDead");
    let pod = node.inline(name, &[("volume", "data"), ("subPath", name), ("propagation", "HostToContainer")]);
    node.publish(&pod).unwrap();
    let at = daemon.die();
    eventually("its death is seen", || unhealthy(node, "SourceDead") == before + 1.0);
    node.unpublish(&pod).unwrap();
    support::unmount(&at);
    eventually("it is forgotten", || unhealthy(node, "SourceDead") == before);
}

fn lines(node: &Node, reason: &str) -> usize {
    node.log().lines().filter(|line| line.contains(&format!("reason=\"{reason}\""))).count()
}

#[test]
fn a_source_that_dies_and_comes_back_is_told_of_once_each() {
    in_namespace(|| {
        let (api, node) = start();
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let pods = publish(&node, &["p", "q"]);
        let at = daemon.die();
        eventually("two volumes are unwell", || unhealthy(&node, "SourceDead") == 2.0);
        eventually("both pods are told", || told(&api) == of(&["p", "q"], "SourceDead"));
        let event = api.created().remove(0);
        assert_eq!((event["type"].as_str(), event["regarding"]["kind"].as_str()), (Some("Warning"), Some("Pod")));
        let note = event["note"].as_str().unwrap();
        assert!(note.contains("volume \"v\" (entry data)") && note.contains("ENOTCONN"), "{event}");
        assert!(!note.contains("/mnt") && note.contains("ask the administrator"), "{event}");
        assert_eq!(node.health(&pods[0]).unwrap(), Some((2, "SourceDead".into())));
        // Some looks later, it is still one line and one event a pod, beside those of the sources that show the looks.
        let others = ["r", "s", "t"];
        others.iter().for_each(|name| looked_at_again(&node, name));
        eventually("all are told", || api.created().len() >= 5);
        assert_eq!((lines(&node, "SourceDead"), told(&api)), (4, of(&["p", "q", "r", "s", "t"], "SourceDead")));
        support::unmount(&at);
        let daemon = Daemon::start(&at).unwrap();
        eventually("they are well", || unhealthy(&node, "SourceDead") == 0.0);
        eventually("both pods are told", || api.created().len() == 7);
        assert_eq!((lines(&node, "SourceDead"), lines(&node, "SourceBack")), (4, 1), "{}", node.log());
        pods.iter().for_each(|pod| node.unpublish(pod).unwrap());
        drop(daemon);
    });
}

#[test]
fn a_restarted_plugin_does_not_repeat_the_event() {
    in_namespace(|| {
        let (api, mut node) = start();
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let pods = publish(&node, &["p"]);
        let at = daemon.die();
        eventually("the pod is told", || told(&api) == of(&["p"], "SourceDead"));
        node.kill_and_restart();
        eventually("it is seen again", || unhealthy(&node, "SourceDead") == 1.0);
        eventually("it was said again", || api.asked()["create event"] == 2);
        assert_eq!(api.created().len(), 1);
        // Without an API server, all else goes on.
        api.down(true);
        support::unmount(&at);
        let daemon = Daemon::start(&at).unwrap();
        eventually("it is well", || unhealthy(&node, "SourceDead") == 0.0);
        eventually("that is logged", || node.log().contains("pods could not be told by events"));
        pods.iter().for_each(|pod| node.unpublish(pod).unwrap());
        drop(daemon);
    });
}

#[test]
fn a_source_that_hangs_is_asked_by_one_thread_and_told_of() {
    in_namespace(|| {
        let (api, node) = start();
        let Some(fuse) = Fuse::mount(&node.root.join("data/fuse")) else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let served = fuse.serve(Arc::clone(&stop));
        let pods = publish(&node, &["p", "q"]);
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        let fuse = served.join().unwrap();
        eventually("two volumes hang", || unhealthy(&node, "SourceHung") == 2.0);
        eventually("both pods are told", || told(&api) == of(&["p", "q"], "SourceHung"));
        ["r", "s"].iter().for_each(|name| looked_at_again(&node, name));
        assert_eq!(node.metric("hostmount_stuck_threads"), 1.0, "one call for both, and no more while it hangs");
        // It goes on.
        let served = fuse.serve(Arc::new(AtomicBool::new(false)));
        eventually("they are well", || unhealthy(&node, "SourceHung") == 0.0);
        eventually("the thread is back", || node.metric("hostmount_stuck_threads") == 0.0);
        pods.iter().for_each(|pod| node.unpublish(pod).unwrap());
        drop(served);
    });
}

#[test]
fn a_deleted_directory_is_told_apart_from_a_dead_one() {
    in_namespace(|| {
        let (api, node) = start();
        let source = node.root.join("data/release");
        fs::create_dir(&source).unwrap();
        let pod = node.inline("p", &[("volume", "data"), ("subPath", "release")]);
        node.publish(&pod).unwrap();
        fs::remove_dir(&source).unwrap();
        eventually("it is seen", || unhealthy(&node, "SourceDeleted") == 1.0);
        eventually("the pod is told", || told(&api) == of(&["p"], "SourceDeleted"));
        node.unpublish(&pod).unwrap();
        eventually("the volume is forgotten", || unhealthy(&node, "SourceDeleted") == 0.0);
    });
}

/// A mount reaches no private container: that of a pod that runs must be started again, and is told so.
#[test]
fn the_pod_of_a_renewed_volume_is_told_to_restart_its_containers() {
    in_namespace(|| {
        let (api, node) = start();
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let pod = node.inline("p", &[("volume", "data"), ("subPath", "fuse")]);
        node.publish_noted(&pod);
        let daemon = daemon.restart();
        eventually("the pod is told", || told(&api).contains(&("pod-p".to_owned(), "VolumeRenewed".to_owned())));
        let event = api.created().into_iter().find(|event| event["reason"] == "VolumeRenewed").unwrap();
        assert_eq!(event["type"], "Warning");
        let note = event["note"].as_str().unwrap();
        assert!(note.contains("must be restarted") && !note.contains("/mnt"), "{note}");
        node.unpublish_again(&pod);
        drop(daemon);
    });
}

#[test]
fn a_pod_that_may_not_have_its_source_any_more_is_told_so_once() {
    in_namespace(|| {
        let (api, node) = start();
        let Some(mut daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let pod = node.inline("p", FUSE);
        node.publish_noted(&pod);
        let entries = fs::read_to_string(node.root.join("entries.yaml")).unwrap();
        fs::write(node.root.join("entries.yaml"), entries.replacen("namespaces: ['*']", "namespaces: [others]", 1))
            .unwrap();
        eventually("the list is taken up", || node.log().contains("changed=1"));
        let of_this = |api: &Api| told(api).iter().filter(|(_, reason)| reason == "SourceNotPermitted").count();
        daemon = daemon.restart();
        eventually("the pod is told", || of_this(&api) == 1);
        let event = api.created().into_iter().find(|event| event["reason"] == "SourceNotPermitted").unwrap();
        let note = event["note"].as_str().unwrap();
        assert!(note.contains("may not use the entry data") && !note.contains("/mnt"), "{note}");
        // Another look, which another volume shows.
        daemon = daemon.restart();
        let other = node.inline("q", &[("volume", "team")]);
        node.publish_noted(&other);
        assert_eq!((of_this(&api), lines(&node, "SourceNotPermitted")), (1, 1), "{}", node.log());
        assert_eq!(node.metric("hostmount_heals_total{outcome=\"refused\"}"), 1.0);
        node.unpublish_again(&other);
        node.unpublish_again(&pod);
        drop(daemon);
    });
}
