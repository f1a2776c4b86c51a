//! Hostile callers at the CSI socket: too many, too large, not root. The plugin serves the others on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::fuse::Fuse;
use support::{Node, eventually, in_namespace};
use tonic::Code;
use tonic::transport::Endpoint;
use wire::csi;
use wire::csi::node_client::NodeClient;

/// The first bytes of an HTTP/2 client: preface and an empty SETTINGS frame (RFC 9113, 3.4).
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Connects and says hello: whether the plugin answers, or closes.
fn is_let_in(stream: &mut UnixStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = stream.write_all(HELLO);
    stream.read(&mut [0; 64]).is_ok_and(|count| count > 0)
}

#[test]
fn connections_beyond_the_limit_are_closed_and_a_place_that_is_left_is_free() {
    in_namespace(|| {
        let node = Node::start_with(&["--max-connections=32", "--admin-address=127.0.0.1:0"]);
        let connect = || UnixStream::connect(node.root.join("csi.sock")).unwrap();
        let mut held = Vec::new();
        loop {
            let mut stream = connect();
            if !is_let_in(&mut stream) {
                break;
            }
            held.push(stream);
            assert!(held.len() <= 32);
        }
        // Fewer than 32 only by those that the test has made while it waited for the start.
        assert!(held.len() > 16, "{}", held.len());
        assert!(!is_let_in(&mut connect()));
        assert_eq!(node.metric("hostmount_refused_connections_total{reason=\"too_many\"}"), 2.0);
        assert!(node.log().contains("32 connections are open"), "{}", node.log());
        drop(held);
        node.until_ready(true);
        node.publish(&node.inline("p1", &[("volume", "data")])).unwrap();
    });
}

/// How many threads serve calls: one that does, and one that would.
fn call_threads(node: &Node) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", node.plugin.id())).unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.trim() == "calls").count()
}

/// A call that is alone is served by the thread that reads all calls. When its source hangs, others must not wait for it, on
/// whatever connection they come, and no deadline may have to pass first.
#[test]
fn a_lone_call_that_hangs_leaves_its_thread_and_the_others_go_on() {
    in_namespace(|| {
        let node = Node::start_with(&["--call-timeout=600"]);
        // The node's own runtime runs only while it is waited for.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let socket = Endpoint::from_shared(format!("unix://{}/csi.sock", node.root.display())).unwrap();
        let channel = runtime.block_on(socket.connect()).unwrap();
        // Each of the two threads in turn, and one that came after them.
        for name in ["fuse1", "fuse2", "fuse3"] {
            assert_eq!(call_threads(&node), 2);
            let Some(fuse) = Fuse::mount(&node.root.join("data").join(name)) else { return };
            let hung = node.inline(name, &[("volume", "data"), ("subPath", name)]);
            let mut client = NodeClient::new(channel.clone());
            let call = runtime.spawn(async move { client.node_publish_volume(hung).await });
            eventually("another thread takes over, and gets a follower", || call_threads(&node) == 3);
            for _ in 0..3 {
                let good = node.inline("good", &[("volume", "team")]);
                node.publish(&good).unwrap();
                let mut client = NodeClient::new(channel.clone());
                runtime.block_on(client.node_get_info(csi::NodeGetInfoRequest {})).unwrap();
                node.unpublish(&good).unwrap();
            }
            assert!(!call.is_finished());
            let stop = Arc::new(AtomicBool::new(false));
            let served = fuse.serve(Arc::clone(&stop));
            runtime.block_on(call).unwrap().unwrap();
            eventually("the thread that comes back ends", || call_threads(&node) == 2);
            stop.store(true, Ordering::SeqCst);
            drop(served.join().unwrap());
            // Until calls count as lone again.
            for n in 0..5 {
                let good = node.inline(&format!("{name}-{n}"), &[("volume", "team")]);
                node.publish(&good).unwrap();
            }
        }
    });
}

#[test]
fn a_thousand_connections_that_say_nothing_or_nonsense_hold_up_nobody() {
    in_namespace(|| {
        let node = Node::start_with(&["--max-connections=2000"]);
        let connect = || UnixStream::connect(node.root.join("csi.sock")).unwrap();
        let silent: Vec<UnixStream> = (0..500).map(|_| connect()).collect();
        for seed in 0..500_u32 {
            // xorshift: bytes without meaning, the same ones each time.
            let mut state = seed.wrapping_mul(2_654_435_761) | 1;
            let bytes: Vec<u8> = (0..256)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 17;
                    state ^= state << 5;
                    state.to_le_bytes()[0]
                })
                .collect();
            let mut stream = connect();
            let _ = stream.write_all(if seed % 2 == 0 { HELLO } else { b"" });
            let _ = stream.write_all(&bytes);
        }
        let request = node.inline("p1", &[("volume", "data")]);
        node.publish(&request).unwrap();
        node.unpublish(&request).unwrap();
        drop(silent);
        assert_eq!(node.ready(), Some(true));
    });
}

#[test]
fn a_message_that_is_too_large_is_refused_and_the_next_one_served() {
    in_namespace(|| {
        let node = Node::start();
        let good = node.inline("p1", &[("volume", "data")]);
        let mut large = good.clone();
        large.volume_context.insert("x".into(), "x".repeat(2 << 20));
        let status = node.publish(&large).unwrap_err();
        assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
        let mut many = good.clone();
        many.volume_context.extend((0..50_000).map(|n| (format!("k{n}"), String::new())));
        assert_eq!(node.publish(&many).unwrap_err().code(), Code::InvalidArgument);
        node.publish(&good).unwrap();
    });
}

#[test]
fn calls_in_the_thousands_on_one_connection_are_all_answered() {
    in_namespace(|| {
        let node = Node::start();
        let client = node.client();
        let answers = node.runtime.block_on(async {
            let calls = (0..2000).map(|_| {
                let mut client = client.clone();
                async move { client.node_get_info(csi::NodeGetInfoRequest {}).await.map(drop) }
            });
            futures_util::future::join_all(calls).await
        });
        assert_eq!(answers.len(), 2000);
        let failed: Vec<_> = answers.iter().filter(|answer| answer.is_err()).collect();
        assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed[0]);
    });
}

/// A caller with another uid, by a socket that somebody has opened to everybody.
#[test]
fn a_caller_that_is_not_root_is_closed_out() {
    const CALLER: &str = "HOSTMOUNT_TEST_CALLER";
    if let Ok(socket) = std::env::var(CALLER) {
        let said = if is_let_in(&mut UnixStream::connect(socket).unwrap()) { "LET IN" } else { "CLOSED OUT" };
        return println!("{said}");
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: it needs root, to run a caller with another uid");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let socket = directory.path().join("csi.sock");
    let entries = directory.path().join("entries.yaml");
    std::fs::write(&entries, "entries: []\n").unwrap();
    // Without a user namespace of its own: in one, there may be no other uid.
    let mut plugin = Command::new("unshare")
        .args(["--mount", "--propagation", "private", env!("CARGO_BIN_EXE_hostmount")])
        .args(["serve", "--node-id=n", "--mount-namespace=own"])
        .arg(format!("--kubelet-dir={}", directory.path().display()))
        .arg(format!("--endpoint=unix://{}", socket.display()))
        .arg(format!("--config={}", entries.display()))
        .spawn()
        .unwrap();
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    // Where any uid may execute it.
    let program = directory.path().join("caller");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let call_as = |uid: &str| {
        let output = Command::new("setpriv")
            .args([&format!("--reuid={uid}"), "--clear-groups"])
            .arg(&program)
            .args(["a_caller_that_is_not_root_is_closed_out", "--exact", "--nocapture"])
            .env(CALLER, &socket)
            .output()
            .expect("setpriv (util-linux) starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (stranger, root) = (call_as("65534"), call_as("0"));
    plugin.kill().unwrap();
    plugin.wait().unwrap();
    assert!(stranger.contains("CLOSED OUT"), "{stranger}");
    assert!(root.contains("LET IN"), "{root}");
}
