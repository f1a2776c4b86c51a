//! The admin server: what it tells, and that it answers while mounting does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::fuse::Fuse;
use support::{Node, eventually, in_namespace};

const ADMIN: [&str; 3] = ["--admin-address=127.0.0.1:0", "--call-timeout", "1"];

/// The kubelet keeps this beside each target directory.
fn vol_data(node: &Node, pod: &str, driver: &str) {
    let data = node.target(pod).with_file_name("vol_data.json");
    fs::create_dir_all(data.parent().unwrap()).unwrap();
    fs::write(data, format!("{{\"driverName\":\"{driver}\"}}")).unwrap();
}

#[test]
fn calls_publishes_and_held_volumes_are_counted() {
    in_namespace(|| {
        let mut node = Node::start_with(&ADMIN);
        node.stage("data").unwrap();
        for (pod, propagation) in [("p1", "None"), ("p2", "HostToContainer"), ("p3", "HostToContainer")] {
            vol_data(&node, pod, "csi.hostmount.dev");
            let request = node.persistent(pod, "data", &[("propagation", propagation)]);
            node.publish(&request).unwrap();
            // The same again is no new volume.
            node.publish(&request).unwrap();
        }
        vol_data(&node, "p4", "another.dev");
        node.publish(&node.inline("p4", &[("volume", "data")])).unwrap();
        node.publish(&node.inline("p5", &[("volume", "nothing")])).unwrap_err();

        assert_eq!(node.metric("hostmount_publishes_total{propagation=\"None\"}"), 2.0);
        assert_eq!(node.metric("hostmount_publishes_total{propagation=\"HostToContainer\"}"), 2.0);
        assert_eq!(node.metric("hostmount_rpc_total{rpc=\"NodePublishVolume\",code=\"Ok\"}"), 7.0);
        assert_eq!(node.metric("hostmount_rpc_total{rpc=\"NodePublishVolume\",code=\"NotFound\"}"), 1.0);
        assert_eq!(node.metric("hostmount_rpc_duration_seconds_count{rpc=\"NodePublishVolume\"}"), 8.0);
        assert_eq!(node.metric("hostmount_mounts{at=\"target\"}"), 3.0);
        assert_eq!(node.metric("hostmount_mounts{at=\"staging\"}"), 1.0);
        assert_eq!(node.metric("hostmount_allow_list_good"), 1.0);
        let (_, text) = node.get("/metrics");
        assert!(text.contains("hostmount_build_info{version=\"0.1.0\",driver=\"csi.hostmount.dev\"} 1"), "{text}");
        assert!(text.ends_with("# EOF\n"));

        // A restarted plugin knows what is held, from the kernel.
        node.unpublish(&node.persistent("p3", "data", &[])).unwrap();
        node.kill_and_restart();
        assert_eq!(node.metric("hostmount_mounts{at=\"target\"}"), 2.0);
    });
}

#[test]
fn a_refused_allow_list_is_told_and_is_no_reason_to_restart() {
    in_namespace(|| {
        let node = Node::start_with(&ADMIN);
        assert_eq!(node.get("/healthz"), (200, "ok\n".to_owned()));
        assert_eq!(node.get("/readyz"), (200, "ok\n".to_owned()));
        assert_eq!(node.get("/nothing").0, 404);
        fs::write(node.root.join("entries.yaml"), "entries: [{name: BAD}]").unwrap();
        eventually("the fault is told", || node.get("/healthz") == (200, "degraded: allow-list\n".to_owned()));
        assert!(node.log().contains("part=\"allow-list\"") && node.log().contains("entries[0].name"), "{}", node.log());
        assert_eq!(node.get("/readyz").0, 200);
        assert_eq!(node.metric("hostmount_allow_list_good"), 0.0);
        assert_eq!(node.metric("hostmount_allow_list_refusals_total"), 1.0);
    });
}

/// The kubelet's liveness probe must not kill a plugin for a dead file server.
#[test]
fn it_answers_while_mount_threads_hang() {
    in_namespace(|| {
        let node = Node::start_with(&ADMIN);
        let Some(fuse) = Fuse::mount(&node.root.join("data/fuse")) else { return };
        // Nobody serves it: whoever opens it hangs.
        for n in 0..5 {
            node.publish(&node.inline(&format!("p{n}"), &[("volume", "data"), ("subPath", "fuse")])).unwrap_err();
        }
        let start = Instant::now();
        assert_eq!(node.get("/healthz").0, 200);
        assert_eq!(node.get("/readyz").0, 200);
        assert_eq!(node.metric("hostmount_stuck_threads"), 4.0);
        // Which part, and no path: that is for the log.
        assert_eq!(node.get("/healthz").1, "degraded: sources\n");
        let told = |log: &str| log.matches("mount threads hang: 4 on /mnt/data/fuse").count();
        assert_eq!(told(&node.log()), 1, "{}", node.log());
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
        drop(fuse);
        eventually("the threads are back", || node.metric("hostmount_stuck_threads") == 0.0);
    });
}
