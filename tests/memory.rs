//! Memory: pairs of calls leave nothing behind, a volume that is held costs little, and the node's pods that were told
//! of take no more than what is remembered of them.
//!
//! What is compared is the plugin's anonymous memory (`RssAnon`, proc_pid_status(5)): its heap and stacks. The rest of
//! what is resident are pages of the binary, which the kernel takes back when it likes; it is printed as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

#[path = "lookup/api.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod api;
mod support;

use std::fs;
use std::time::{Duration, Instant};

use api::Api;
use serde_json::Value;
use support::{Node, eventually, in_namespace};
use wire::csi;
use wire::csi::node_client::NodeClient;

/// As many as the kubelet's and more.
const CALLERS: usize = 16;

/// malloc keeps no free blocks for each thread here: such stores fill slowly, to some MiB for all threads, and would look
/// like something that is lost.
const NO_THREAD_CACHES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");

/// Resident memory in KiB.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "printed")]
struct Memory {
    anonymous: usize,
    /// With the binary's pages.
    all: usize,
    /// The most that `all` ever was.
    peak: usize,
    threads: usize,
}

impl Memory {
    fn of(node: &Node) -> Self {
        let status = fs::read_to_string(format!("/proc/{}/status", node.plugin.id())).unwrap();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Self { anonymous: kib("RssAnon"), all: kib("VmRSS"), peak: kib("VmHWM"), threads: kib("Threads") }
    }

    /// The same, when what was going on in the background has ended and what is free was given back, which is done
    /// every 5 s.
    fn settled(node: &Node) -> Self {
        std::thread::sleep(Duration::from_secs(7));
        Self::of(node)
    }
}

/// Memory when the mount threads that had no more work have ended (after 30 s, all but one), with the stacks that they
/// have touched. How many there are depends on what else the machine does.
fn without_threads(node: &Node, idle: Memory) -> Memory {
    let start = Instant::now();
    while Memory::of(node).threads > idle.threads + 1 {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "threads without work do not end: {}",
            names_of_threads(node)
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    Memory::settled(node)
}

fn names_of_threads(node: &Node) -> String {
    let tasks = fs::read_dir(format!("/proc/{}/task", node.plugin.id())).unwrap();
    tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap().replace('\n', " ")).collect()
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Publishes and unpublishes `pairs` times, by all callers together.
fn pairs(node: &Node, pairs: usize) {
    let callers = (0..CALLERS).map(|caller| {
        let publish = node.inline(&format!("c{caller}"), &[("volume", "data"), ("propagation", "HostToContainer")]);
        let unpublish = csi::NodeUnpublishVolumeRequest {
            volume_id: publish.volume_id.clone(),
            target_path: publish.target_path.clone(),
        };
        async move {
            let mut client = NodeClient::new(node.channel());
            for n in 0..pairs / CALLERS {
                if n % 10 == 0 {
                    // The kubelet makes a connection for each call; some are enough to see what they leave.
                    client = NodeClient::new(node.channel());
                }
                client.node_publish_volume(publish.clone()).await.unwrap();
                client.node_unpublish_volume(unpublish.clone()).await.unwrap();
            }
        }
    });
    node.runtime.block_on(futures_util::future::join_all(callers));
}

/// `HOSTMOUNT_PAIRS=1000000` for as many.
#[test]
fn pairs_of_calls_leave_nothing_behind() {
    in_namespace(|| {
        let count = number("HOSTMOUNT_PAIRS", 20_000);
        let node = Node::start_with_env(&["--log-level=error"], &[NO_THREAD_CACHES]);
        let idle = Memory::settled(&node);
        pairs(&node, count / 5);
        let before = without_threads(&node, idle);
        pairs(&node, count / 5 * 4);
        let after = without_threads(&node, idle);
        println!("idle {idle:?}, after a fifth of {count} pairs {before:?}, after all {after:?}");
        // Pages of the heap may be in use in part. An allocation that is lost in each pair takes at least 32 bytes, which
        // are 500 KiB in four fifths of 20,000.
        let tolerance = 320;
        assert!(after.anonymous <= before.anonymous + tolerance, "it grew by more than {tolerance} KiB");
    });
}

/// `HOSTMOUNT_HELD=10000` for as many.
#[test]
fn a_volume_that_is_held_costs_little() {
    in_namespace(|| {
        let count = number("HOSTMOUNT_HELD", 1000);
        let args = ["--log-level=error,hostmount::serve=info", "--admin-address=127.0.0.1:0", "--probe-interval=1"];
        let node = Node::start_with_env(&args, &[NO_THREAD_CACHES]);
        pairs(&node, 160);
        let idle = Memory::settled(&node);
        let requests: Vec<_> = (0..count)
            .map(|n| {
                let request = node.inline(&format!("p{n}"), &[("volume", "data"), ("propagation", "HostToContainer")]);
                let data = node.target(&format!("p{n}")).with_file_name("vol_data.json");
                fs::write(data, r#"{"driverName": "csi.hostmount.dev"}"#).unwrap();
                request
            })
            .collect();
        let mut client = node.client();
        node.runtime.block_on(async {
            for request in requests {
                client.node_publish_volume(request).await.unwrap();
            }
        });
        // The table is read, for healing at every mount and for the count.
        eventually("they are counted", || node.metric("hostmount_mounts{at=\"target\"}") >= 1.0);
        let held = Memory::settled(&node);
        println!("idle {idle:?}, with {count} held {held:?}");
        // Of 10,000: 4 MiB; and some for the heap's pages that are only partly in use.
        let most = count * 4096 / 10_000 + 768;
        assert!(held.anonymous <= idle.anonymous + most, "they take more than {most} KiB");
    });
}

/// A pod of this node, as an API server sends it.
fn pod(number: usize) -> Value {
    let mut pod: Value = serde_json::from_str(include_str!("lookup/pod.json")).unwrap();
    pod["metadata"]["uid"] = format!("u{number}").into();
    pod["metadata"]["name"] = format!("pod-u{number}").into();
    pod
}

#[test]
fn the_node_s_pods_take_what_is_remembered_of_them() {
    in_namespace(|| {
        let api = Api::start();
        let config = std::env::temp_dir().join(format!("kubeconfig-memory-{}", std::process::id()));
        fs::write(&config, api.kubeconfig()).unwrap();
        let args = ["--pod-lookup=api", "--log-level=error,hostmount::serve=info", "--admin-address=127.0.0.1:0"];
        let node = Node::start_with_env(&args, &[("KUBECONFIG", config.to_str().unwrap()), NO_THREAD_CACHES]);
        fs::remove_file(&config).unwrap();
        let known = |count: f64| eventually("the pods are known", || node.metric("hostmount_pods_known") == count);
        // A first pod, and a list, so that what is made once is there.
        api.add(pod(0));
        api.compact();
        known(1.0);
        let idle = Memory::settled(&node);
        for _round in 0..2 {
            for number in 1..=110 {
                // Told of when it is bound to the node, and each time that its status changes.
                (0..5).for_each(|_| api.add(pod(number)));
            }
            known(111.0);
            // The watch starts anew, with a list of all.
            let lists = api.asked()["list pods"];
            api.compact();
            eventually("they are listed", || api.asked()["list pods"] > lists);
            known(111.0);
            (1..=110).for_each(|number| api.remove(&format!("u{number}")));
            known(1.0);
        }
        let after = Memory::settled(&node);
        println!("idle {idle:?}, after 2 rounds of 110 pods {after:?}");
        let most = 1024;
        assert!(after.anonymous <= idle.anonymous + most, "it is more than {most} KiB above idle");
    });
}
