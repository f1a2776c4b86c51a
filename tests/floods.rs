//! Floods: what many callers at once, or strangers on the network, must not take from the others. Named after what was seen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use frontend::admin::CONNECTIONS;
use futures_util::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::fuse::Fuse;
use support::{Node, eventually, in_namespace, mounts_beneath};
use tonic::Code;
use wire::csi::NodePublishVolumeRequest;
use workers::PER_ENTRY;

fn threads(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/task", node.plugin.id())).unwrap().count()
}

fn descriptors(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.plugin.id())).unwrap().count()
}

fn resident_kib(node: &Node) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", node.plugin.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Publishes all at once, each on a connection of its own, as the kubelet does. How often each code came.
fn publish_at_once(node: &Node, requests: &[NodePublishVolumeRequest]) -> BTreeMap<String, usize> {
    let calls =
        requests.iter().map(|request| {
            let mut client = node.client();
            async move {
                client.node_publish_volume(request.clone()).await.map_or_else(|status| status.code(), |_| Code::Ok)
            }
        });
    let mut counts = BTreeMap::new();
    for code in node.runtime.block_on(join_all(calls)) {
        *counts.entry(format!("{code:?}")).or_default() += 1;
    }
    counts
}

/// 600 inline volumes of one pod's author, each with a sub-path of its own, on a FUSE that was stopped: all 512 threads hung, and
/// every publish and unpublish on the node was DEADLINE_EXCEEDED.
#[test]
fn six_hundred_sub_paths_of_a_stopped_fuse_take_nothing_from_the_others() {
    in_namespace(|| {
        let node = Node::start_with(&["--call-timeout=3", "--admin-address=127.0.0.1:0"]);
        let Some(fuse) = Fuse::mount(&node.root.join("data/fuse")) else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let served = fuse.serve(Arc::clone(&stop));
        let on_fuse = |pod: String| {
            let sub_path = format!("fuse/{pod}");
            node.inline(&pod, &[("volume", "data"), ("subPath", &sub_path)])
        };
        let before: Vec<_> = (0..20).map(|n| on_fuse(format!("before{n}"))).collect();
        before.iter().for_each(|pod| node.publish(pod).unwrap());
        let healthy = node.inline("healthy", &[("volume", "team")]);
        node.publish(&healthy).unwrap();
        let other = node.inline("other", &[("volume", "made")]);
        stop.store(true, Ordering::SeqCst);
        let fuse = served.join().unwrap();

        let threads_before = threads(&node);
        let flood: Vec<_> = (0..600).map(|n| on_fuse(format!("flood{n}"))).collect();
        let codes = publish_at_once(&node, &flood);
        println!("600 at once: {codes:?}; {} threads, before {threads_before}", threads(&node));
        assert!(!codes.contains_key("Ok") && codes["Aborted"] > 400, "{codes:?}");
        // And as often as the kubelet tries again.
        for _ in 0..3 {
            let codes = publish_at_once(&node, &flood[..100]);
            assert_eq!(codes, BTreeMap::from([("Aborted".to_owned(), 100)]));
        }
        let stuck = node.metric("hostmount_stuck_threads");
        assert!((1.0..=8.0).contains(&stuck), "{stuck}");
        // Those of the entry, of the question whether a volume is there already, and the quick ones that are idle for a while: all far
        // fewer than calls.
        assert!(threads(&node) <= threads_before + 40, "{} threads, before {threads_before}", threads(&node));
        assert_eq!(node.get("/healthz"), (200, "degraded: sources\n".to_owned()));
        assert_eq!(node.get("/readyz"), (200, "ok\n".to_owned()));

        assert_eq!(node.health(&healthy).unwrap(), None, "what hangs is another file system");
        node.publish(&other).unwrap();
        node.unpublish(&healthy).unwrap();
        node.publish(&healthy).unwrap();
        // Whatever the volume lies on, and whether its publish hangs at this moment or not.
        before.iter().chain(&flood).for_each(|pod| node.unpublish(pod).unwrap());
        assert!(before.iter().chain(&flood).all(|pod| !fs::exists(&pod.target_path).unwrap()));

        let stop = Arc::new(AtomicBool::new(false));
        let served = fuse.serve(Arc::clone(&stop));
        eventually("the threads are back", || node.metric("hostmount_stuck_threads") == 0.0);
        assert!(
            flood.iter().all(|pod| !fs::exists(&pod.target_path).unwrap()),
            "what was given up was not begun later"
        );
        let targets = mounts_beneath(&node.root.join("kubelet/pods"));
        assert_eq!(targets.len(), 2, "{targets:?}");
        assert_eq!(publish_at_once(&node, &flood[..50]), BTreeMap::from([("Ok".to_owned(), 50)]));
        flood[..50].iter().for_each(|pod| node.unpublish(pod).unwrap());
        assert_eq!(node.get("/healthz"), (200, "ok\n".to_owned()));
        stop.store(true, Ordering::SeqCst);
        drop(served.join().unwrap());
    });
}

/// So many file systems hang that no thread is left: that is told, volumes end all the same, and all comes back.
#[test]
fn readiness_closes_while_all_threads_hang_and_volumes_still_end() {
    in_namespace(|| {
        let node = Node::start_with(&["--call-timeout=4", "--admin-address=127.0.0.1:0"]);
        let healthy: Vec<_> = (0..100).map(|n| node.inline(&format!("healthy{n}"), &[("volume", "team")])).collect();
        healthy.iter().for_each(|pod| node.publish(pod).unwrap());
        node.stage("data").unwrap();
        const ENTRIES: usize = 70;
        let mut list = fs::read_to_string(node.root.join("entries.yaml")).unwrap();
        let mut fuses = Vec::new();
        for n in 0..ENTRIES {
            let at = node.root.join(format!("hang{n}"));
            // Nobody serves it: whoever opens anything there hangs.
            let Some(fuse) = Fuse::mount(&at) else { return };
            fuses.push(fuse);
            let at = at.display();
            writeln!(list, "  - {{name: hang{n}, path: {at}, subPaths: true, allow: [{{namespaces: ['*']}}]}}")
                .unwrap();
        }
        let entries = node.metric("hostmount_allow_list_entries");
        fs::write(node.root.join("entries.yaml"), list).unwrap();
        eventually("the entries are known", || node.metric("hostmount_allow_list_entries") == entries + 70.0);
        let flood: Vec<_> = (0..ENTRIES * PER_ENTRY)
            .map(|n| {
                let (entry, sub_path) = (format!("hang{}", n % ENTRIES), format!("s{}", n / ENTRIES % 2));
                node.inline(&format!("flood{n}"), &[("volume", &entry), ("subPath", &sub_path)])
            })
            .collect();
        assert_eq!(node.get("/readyz").0, 200);
        eventually("no thread is left", || {
            let codes = publish_at_once(&node, &flood);
            assert!(!codes.contains_key("Ok"), "{codes:?}");
            println!("{codes:?}, {} threads", threads(&node));
            node.get("/readyz") == (503, "not ready: workers\n".to_owned())
        });
        assert_eq!(node.get("/healthz"), (200, "degraded: workers\ndegraded: sources\n".to_owned()));
        assert_eq!(node.ready(), Some(false));
        assert!(node.log().contains("part=\"workers\""), "{}", node.log());
        node.refused(&node.inline("more", &[("volume", "team")]), Code::ResourceExhausted, &["448", "hang"]);
        // What the kubelet repeats after a restart isn't lost to its pod.
        node.publish(&healthy[0]).unwrap();
        healthy.iter().for_each(|pod| node.unpublish(pod).unwrap());
        node.unstage("data").unwrap();
        assert!(threads(&node) <= 512 + 10, "{} threads", threads(&node));
        assert!(node.metric("hostmount_stuck_threads") <= 448.0);
        drop(fuses);
        eventually("there are threads again", || node.get("/readyz").0 == 200 && node.ready() == Some(true));
        healthy.iter().for_each(|pod| node.publish(pod).unwrap());
        assert!(flood.iter().all(|pod| !fs::exists(&pod.target_path).unwrap()));
    });
}

/// The state of the plugin as asked from an address of the loopback network, on a connection of its own.
fn healthz_from(node: &Node, admin: SocketAddr, address: [u8; 4]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    node.runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((IpAddr::from(address), 0).into()).unwrap();
        let mut stream = socket.connect(admin).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    })
}

fn admin_address(node: &Node) -> SocketAddr {
    let log = node.log();
    let line = log.lines().rfind(|line| line.contains("admin server")).unwrap();
    line.split("address=").nth(1).unwrap().trim().parse().unwrap()
}

/// What the plugin may hold more for a flood: 64 connections with two buffers of 8 KiB, and what the allocator keeps.
const FLOOD_KIB: usize = 6 * 1024;

#[track_caller]
fn is_bounded(node: &Node, (descriptors_before, resident_before): (usize, usize)) {
    let (descriptors, resident) = (descriptors(node), resident_kib(node));
    println!("{descriptors} descriptors, before {descriptors_before}; {resident} KiB, before {resident_before}");
    assert!(
        descriptors <= descriptors_before + CONNECTIONS + 8,
        "{descriptors} descriptors, before {descriptors_before}"
    );
    assert!(resident <= resident_before + FLOOD_KIB, "{resident} KiB, before {resident_before}");
}

/// 338 connections with an unfinished header of 384 KiB each killed the plugin in its 128 MiB; 15,000 that said nothing took 277 MiB.
#[test]
fn unfinished_headers_and_half_open_connections_take_a_bounded_memory() {
    in_namespace(|| {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let node = Node::start_with(&["--admin-address=127.0.0.1:0"]);
        let admin = admin_address(&node);
        let good = |answer: &str| answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok\n");
        for _ in 0..3 {
            assert!(good(&healthz_from(&node, admin, [127, 0, 0, 2])));
        }
        let before = (descriptors(&node), resident_kib(&node));

        let header = [b"GET /healthz HTTP/1.1\r\nX-Long: ".to_vec(), vec![b'a'; 384 * 1024]].concat();
        let headers: Vec<_> = (0..338)
            .map(|n| {
                let mut stream = TcpStream::connect(admin).unwrap();
                // What is too long is refused while it is sent.
                stream.set_nonblocking(true).unwrap();
                let _ = stream.write(&header);
                if n % 50 == 0 {
                    assert!(good(&healthz_from(&node, admin, [127, 0, 0, 2])), "during the flood");
                }
                stream
            })
            .collect();
        is_bounded(&node, before);
        assert!(good(&healthz_from(&node, admin, [127, 0, 0, 2])));
        drop(headers);

        let count = usize::try_from(hard).unwrap_or(usize::MAX).saturating_sub(200).min(15_000);
        let half_open: Vec<_> = (0..count)
            .map(|n| {
                let mut stream = TcpStream::connect(admin).unwrap();
                stream.write_all(b"GET /hea").unwrap_or_default();
                if n % 1000 == 0 {
                    assert!(good(&healthz_from(&node, admin, [127, 0, 0, 2])), "during the flood");
                    is_bounded(&node, before);
                }
                stream
            })
            .collect();
        println!("{count} half-open connections");
        is_bounded(&node, before);
        // From the same address too: the oldest of the flood goes for it.
        assert_eq!(node.get("/healthz"), (200, "ok\n".to_owned()));
        assert!(good(&healthz_from(&node, admin, [127, 0, 0, 2])));
        drop(half_open);
        // Other parts of the plugin open a few when they start.
        eventually("the descriptors are closed", || {
            println!("{} descriptors at the end", descriptors(&node));
            descriptors(&node) <= before.0 + CONNECTIONS / 4
        });
        assert_eq!(node.get("/healthz"), (200, "ok\n".to_owned()));
    });
}

/// One that asks nothing, or not to its end, is closed; a long question is refused, and a second one on a connection isn't heard.
#[test]
fn a_connection_asks_once_and_in_time() {
    in_namespace(|| {
        let node = Node::start_with(&["--admin-address=127.0.0.1:0"]);
        let admin = admin_address(&node);
        let said = |question: &[u8]| {
            let mut stream = TcpStream::connect(admin).unwrap();
            stream.write_all(question).unwrap();
            let mut answer = Vec::new();
            // Ends when the plugin has closed it: nothing here does.
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8(answer).unwrap()
        };
        for silent in ["", "GET /healthz HTTP/1.1\r\nHost: x\r\n"] {
            let answer = said(silent.as_bytes());
            assert!(!answer.contains("200 OK"), "{answer}");
        }
        let twice = said(&b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2));
        assert_eq!(twice.matches("HTTP/1.1 200 OK").count(), 1, "{twice}");
        let fields = "X: y\r\n".repeat(65);
        let many = said(format!("GET /healthz HTTP/1.1\r\n{fields}\r\n").as_bytes());
        assert!(many.starts_with("HTTP/1.1 431"), "{many}");
        assert!(said(b"POST /healthz HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert_eq!(node.get("/nothing").0, 404);
        assert_eq!(node.get("/readyz"), (200, "ok\n".to_owned()));
    });
}
