//! What has happened to others, replayed here: one test an incident, named after it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use support::fuse::Fuse;
use support::seccomp::Refusal;
use support::{Node, in_namespace, mounts_beneath, table, tmpfs};
use tonic::Code;

/// spiffe-csi#331: two restarts of the kubelet with 13 inline pods took a node from 13 mounts to 49,153.
#[test]
fn spiffe_csi_331_republishing_adds_no_mounts() {
    in_namespace(|| {
        let mut node = Node::start();
        let pods: Vec<_> = (0..13)
            .map(|n| node.inline(&format!("p{n}"), &[("volume", "data"), ("propagation", "Bidirectional")]))
            .collect();
        pods.iter().for_each(|pod| node.publish(pod).unwrap());
        let workshop = |line: &String| !line.contains("/workshop ");
        let before: Vec<_> = table().into_iter().filter(workshop).collect();
        for _ in 0..3 {
            node.kill_and_restart();
            pods.iter().for_each(|pod| node.publish(pod).unwrap());
            assert_eq!(table().into_iter().filter(workshop).collect::<Vec<_>>(), before);
        }
    });
}

/// bpfman-operator#468, talos#14216: a restart of the plugin doubled nested shared mounts until ENOSPC.
#[test]
fn bpfman_operator_468_restarts_do_not_double_nested_mounts() {
    in_namespace(|| {
        let mut node = Node::start();
        tmpfs(&node.root.join("data/sub"));
        node.stage("data").unwrap();
        let count = |node: &Node| mounts_beneath(&node.root).iter().filter(|p| !p.ends_with("workshop")).count();
        let mut last = None;
        for _ in 0..4 {
            let pod = node.persistent("p", "data", &[("propagation", "Bidirectional")]);
            node.stage("data").unwrap();
            node.publish(&pod).unwrap();
            assert_eq!(*last.get_or_insert(count(&node)), count(&node));
            node.kill_and_restart();
        }
    });
}

/// ceph-csi#4966 and csi-driver-host-path: published twice, unpublished once, then deleted recursively through the
/// mount that was left: all data lost.
#[test]
fn ceph_csi_4966_data_outlives_double_publish() {
    in_namespace(|| {
        let node = Node::start();
        tmpfs(&node.root.join("data/sub"));
        fs::write(node.root.join("data/sub/precious"), "x").unwrap();
        let pod = node.inline("p", &[("volume", "data"), ("propagation", "Bidirectional")]);
        node.publish(&pod).unwrap();
        node.publish(&pod).unwrap();
        // Somebody else's second layer, as the driver of the incident made it.
        let target = node.target("p");
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&node.root.join("data")), &target, None::<&str>, flags, None::<&str>).unwrap();
        node.unpublish(&pod).unwrap();
        assert!(!target.exists());
        assert!(node.root.join("data/marker").exists() && node.root.join("data/sub/precious").exists());
    });
}

/// spiffe-csi#158, calico#9279, kubernetes#90752: after a reboot nothing is mounted, and pods hung in Terminating.
#[test]
fn spiffe_csi_158_unpublish_of_what_is_not_there_succeeds() {
    in_namespace(|| {
        let node = Node::start();
        let pod = node.inline("p", &[("volume", "data")]);
        node.unpublish(&pod).unwrap();
        fs::create_dir(node.target("p")).unwrap();
        node.unpublish(&pod).unwrap();
        assert!(!node.target("p").exists());
        fs::remove_dir(node.target("p").parent().unwrap()).unwrap();
        node.unpublish(&pod).unwrap();
        node.unstage("data").unwrap();
    });
}

/// The worst: an unpublish of a peer target that takes the node's own nested mounts with it, and other pods'.
#[test]
fn unpublish_of_a_peer_leaves_the_nodes_nested_mounts() {
    in_namespace(|| {
        let node = Node::start();
        let (one, two) = (
            node.inline("one", &[("volume", "data"), ("propagation", "Bidirectional")]),
            node.inline("two", &[("volume", "data"), ("propagation", "Bidirectional")]),
        );
        node.publish(&one).unwrap();
        node.publish(&two).unwrap();
        tmpfs(&node.target("one").join("sub"));
        fs::write(node.target("one").join("sub/here"), "").unwrap();
        node.unpublish(&one).unwrap();
        assert!(node.root.join("data/sub/here").exists(), "the node's");
        assert!(node.target("two").join("sub/here").exists(), "the other pod's");
        node.unpublish(&two).unwrap();
        assert!(node.root.join("data/sub/here").exists());
    });
}

/// CVE-2021-25741, csi-driver-host-path#644, CVE-2026-3864: a directory is swapped for a symlink between the check
/// and the mount.
#[test]
fn cve_2021_25741_a_swapped_symlink_never_escapes() {
    in_namespace(|| {
        for refusal in [Refusal::NONE, Refusal::all()] {
            let node = Node::start_refusing(&refusal, &["--log-level=error"]);
            let data = node.root.join("data");
            fs::create_dir(data.join("swap")).unwrap();
            let stop = Arc::new(AtomicBool::new(false));
            let swapping = {
                let (stop, data) = (Arc::clone(&stop), data.clone());
                std::thread::Builder::new().name("swap".into()).spawn(move || {
                    let mut swaps = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        fs::rename(data.join("swap"), data.join("aside")).unwrap();
                        std::os::unix::fs::symlink("/mnt/secret", data.join("swap")).unwrap();
                        fs::remove_file(data.join("swap")).unwrap();
                        fs::rename(data.join("aside"), data.join("swap")).unwrap();
                        swaps += 1;
                    }
                    swaps
                })
            };
            let pod = node.inline("p", &[("volume", "data"), ("subPath", "swap")]);
            let start = Instant::now();
            let (mut tries, mut published) = (0_u32, 0);
            let mut client = node.client();
            // 10 s and 10,000 tries at least, of the two together.
            while start.elapsed() < Duration::from_secs(5) || tries < 5_000 {
                tries += 1;
                if node.runtime.block_on(client.node_publish_volume(pod.clone())).is_ok() {
                    published += 1;
                    assert!(!node.target("p").join("marker").exists(), "escaped to the secret");
                    node.unpublish(&pod).unwrap();
                }
            }
            stop.store(true, Ordering::Relaxed);
            let swaps = swapping.unwrap().join().unwrap();
            println!("0 escapes in {tries} tries ({published} published) during {swaps} swaps {refusal:?}");
            assert!(published > 10 && tries > published && swaps > 100, "{tries} {published} {swaps}");
            drop(node);
            support::unmount(Path::new("/mnt"));
        }
    });
}

/// CVE-2023-2878: service account tokens in the log.
#[test]
fn cve_2023_2878_no_token_and_no_secret_in_the_log() {
    in_namespace(|| {
        for format in ["text", "json"] {
            let node = Node::start_with(&["--log-level=trace", "--log-format", format]);
            let mut pod = node.inline("p", &[("volume", "data")]);
            let tokens = "csi.storage.k8s.io/serviceAccount.tokens".to_owned();
            pod.volume_context.insert(tokens, "{\"\":{\"token\":\"hunter2\"}}".into());
            pod.secrets.insert("password".into(), "hunter2".into());
            pod.publish_context.insert("key".into(), "hunter2".into());
            node.publish(&pod).unwrap();
            pod.readonly = true;
            node.publish(&pod).unwrap_err();
            pod.volume_context.insert("unknown".into(), "hunter2".into());
            node.publish(&pod).unwrap_err();
            let log = node.log();
            assert!(log.contains("NodePublishVolume") && log.contains("ml/pod-p") && log.contains("csi-p"), "{log}");
            assert!(log.contains("duration_us") && log.contains("AlreadyExists"), "{log}");
            assert!(!log.contains("hunter2"), "{log}");
            drop(node);
            support::unmount(Path::new("/mnt"));
        }
    });
}

/// fluid#3444, ceph-csi#2634, #6418: the FUSE server dies; an unpublish that stats first never ends, stats hang.
#[test]
fn fluid_3444_a_dead_fuse_is_told_apart_and_unpublished() {
    in_namespace(|| {
        let node = Node::start();
        let at = node.root.join("data/fuse");
        let Some(fuse) = Fuse::mount(&at) else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let served = fuse.serve(Arc::clone(&stop));
        let pod = node.inline("p", &[("volume", "data"), ("subPath", "fuse"), ("propagation", "HostToContainer")]);
        node.publish(&pod).unwrap();
        assert_eq!(node.health(&pod).unwrap(), None);
        stop.store(true, Ordering::SeqCst);
        drop(served.join().unwrap());
        assert_eq!(node.health(&pod).unwrap(), Some((2, "SourceDead".into())));
        assert_eq!(node.stats("csi-p", &pod.target_path).unwrap_err().code(), Code::Unavailable);
        let other = node.inline("q", &[("volume", "data"), ("subPath", "fuse")]);
        let status = node.refused(&other, Code::Unavailable, &["dead", "ENOTCONN"]);
        node.logged(&status, &["/mnt/data"]);
        node.unpublish(&pod).unwrap();
        assert!(!node.target("p").exists());
        assert_eq!(mounts_beneath(&node.root.join("data")), [at], "the dead source itself is the node's to unmount");
    });
}

/// The same with a server that is stopped, not dead: a call ends at its deadline, others don't wait for it, and the
/// volume can be unpublished.
#[test]
fn ceph_csi_2634_a_hung_fuse_holds_up_nobody_else() {
    in_namespace(|| {
        let node = Node::start_with(&["--call-timeout=0.3"]);
        let Some(fuse) = Fuse::mount(&node.root.join("data/fuse")) else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let served = fuse.serve(Arc::clone(&stop));
        let hung = node.inline("p", &[("volume", "data"), ("subPath", "fuse")]);
        node.publish(&hung).unwrap();
        stop.store(true, Ordering::SeqCst);
        let fuse = served.join().unwrap();
        let codes: Vec<Code> = (0..6)
            .map(|n| {
                let start = Instant::now();
                let pod = node.inline(&format!("h{n}"), &[("volume", "data"), ("subPath", "fuse")]);
                let code = node.publish(&pod).unwrap_err().code();
                assert!(start.elapsed() < Duration::from_secs(5));
                code
            })
            .collect();
        assert_eq!(codes[0], Code::DeadlineExceeded);
        assert_eq!(codes[5], Code::Aborted, "threads that hang on one source are bounded: {codes:?}");
        assert_eq!(node.stats("csi-p", &hung.target_path).unwrap_err().code(), Code::Aborted);
        assert_eq!(node.health(&hung).unwrap(), Some((2, "SourceHung".into())));
        let healthy = node.inline("q", &[("volume", "team")]);
        node.publish(&healthy).unwrap();
        node.unpublish(&healthy).unwrap();
        node.unpublish(&hung).unwrap();
        assert!(!node.target("p").exists());
        node.until_ready(true);
        drop(fuse);
    });
}

/// kubernetes#103754: a mount table that is read while mounts come and go lacks some, and volumes are taken for gone.
#[test]
fn kubernetes_103754_no_volume_is_lost_from_a_table_that_changes_while_it_is_read() {
    in_namespace(|| {
        let node = Node::start_with(&["--admin-address=127.0.0.1:0"]);
        let pods: Vec<_> = (0..50).map(|n| node.inline(&format!("p{n}"), &[("volume", "data")])).collect();
        for pod in &pods {
            node.publish(pod).unwrap();
            let data = Path::new(&pod.target_path).with_file_name("vol_data.json");
            fs::write(data, "{\"driverName\":\"csi.hostmount.dev\"}").unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let times = Arc::new(AtomicUsize::new(0));
        let churning = {
            let (stop, times, at) = (Arc::clone(&stop), Arc::clone(&times), node.root.join("team"));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for n in 0..20 {
                        tmpfs(&at.join(n.to_string()));
                    }
                    (0..20).for_each(|n| support::unmount(&at.join(n.to_string())));
                    times.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let held = "hostmount_mounts{at=\"target\"}";
        support::eventually("they are counted", || node.metric(held) == 50.0);
        // As many readings, and as many changes meanwhile, however the machine shares its processors out.
        let (before, mut readings) = (times.load(Ordering::Relaxed), 0);
        while readings < 300 || times.load(Ordering::Relaxed) < before + 10 {
            assert_eq!(node.metric(held), 50.0);
            readings += 1;
        }
        stop.store(true, Ordering::Relaxed);
        churning.join().unwrap();
        println!("{readings} readings during {} times 40 changes", times.load(Ordering::Relaxed) - before);
    });
}
