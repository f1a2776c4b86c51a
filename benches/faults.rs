//! What faults and waiting cost: healthy volumes beside hung ones, an idle plugin with a thousand volumes, recoveries.
//!
//! `cargo bench --bench faults` runs it in a user and mount namespace of its own. The rounds with hung sources and those
//! without take turns, and the callers of the sources that may hang call in both, so that the two differ in nothing else.
//! No figure fails the run; `HOSTMOUNT_BENCH_SECONDS` (10) is the length of each part.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a benchmark")]

#[path = "scale/ran.rs"]
mod ran;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::Node;
use support::container::Container;
use support::fuse::{Daemon, Fuse};
use wire::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest};

const INSIDE: &str = "HOSTMOUNT_BENCH_INSIDE";
/// Sources that may hang.
const HANGING: usize = 8;
/// Alternations of rounds without and with hung sources.
const ROUNDS: usize = 5;
/// Volumes of the idle plugin, on this many sources.
const VOLUMES: usize = 1000;
const SOURCES: usize = 20;
const RECOVERIES: usize = 50;

fn main() {
    if std::env::var_os(INSIDE).is_none() {
        let status = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .env(INSIDE, "1")
            .status()
            .expect("unshare (util-linux) starts");
        std::process::exit(status.code().unwrap_or(1));
    }
    let seconds = std::env::var("HOSTMOUNT_BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(10);
    isolation(Duration::from_secs(seconds));
    support::unmount(Path::new("/mnt"));
    idle(Duration::from_secs(seconds * 3));
    support::unmount(Path::new("/mnt"));
    recoveries();
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

fn sorted(mut samples: Vec<f64>) -> Vec<f64> {
    samples.sort_by(f64::total_cmp);
    samples
}

fn unpublish_of(request: &NodePublishVolumeRequest) -> NodeUnpublishVolumeRequest {
    NodeUnpublishVolumeRequest { volume_id: request.volume_id.clone(), target_path: request.target_path.clone() }
}

/// Two callers publish and unpublish healthy volumes; eight call for sources that hang, or don't.
fn isolation(part: Duration) {
    let node = Node::start_with(&["--call-timeout=2", "--log-level=error"]);
    let Some(mut fuses) =
        (0..HANGING).map(|n| Fuse::mount(&node.root.join(format!("data/f{n}")))).collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let healthy: Vec<_> = (0..2).map(|n| node.inline(&format!("h{n}"), &[("volume", "team")])).collect();
    let hanging: Vec<_> = (0..HANGING)
        .map(|n| node.inline(&format!("f{n}"), &[("volume", "data"), ("subPath", &format!("f{n}"))]))
        .collect();
    let round = |length: Duration| {
        let stop = Arc::new(AtomicBool::new(false));
        let others = hanging.iter().map(|request| {
            let (mut client, stop, request) = (node.client(), Arc::clone(&stop), request.clone());
            async move {
                while !stop.load(Ordering::Relaxed) {
                    // As often as a kubelet that retries would; what comes of it is no matter here.
                    let _ = client.node_publish_volume(request.clone()).await;
                    let _ = client.node_unpublish_volume(unpublish_of(&request)).await;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        });
        let measured = healthy.iter().map(|request| {
            let (mut client, stop) = (node.client(), Arc::clone(&stop));
            async move {
                let mut samples = Vec::new();
                // Those that hang have to hang first.
                tokio::time::sleep(Duration::from_millis(200)).await;
                let start = Instant::now();
                while start.elapsed() < length {
                    let call = Instant::now();
                    client.node_publish_volume(request.clone()).await.unwrap();
                    samples.push(call.elapsed().as_secs_f64() * 1e6);
                    client.node_unpublish_volume(unpublish_of(request)).await.unwrap();
                }
                stop.store(true, Ordering::Relaxed);
                samples
            }
        });
        let all = futures_util::future::join(
            futures_util::future::join_all(measured),
            futures_util::future::join_all(others),
        );
        node.runtime.block_on(all).0.concat()
    };
    let length = part / u32::try_from(ROUNDS).unwrap();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let served: Vec<_> = fuses.drain(..).map(|fuse| fuse.serve(Arc::clone(&stop))).collect();
        without.extend(round(length));
        stop.store(true, Ordering::SeqCst);
        fuses.extend(served.into_iter().map(|thread| thread.join().unwrap()));
        with.extend(round(length));
    }
    let (without, with) = (sorted(without), sorted(with));
    println!("publish of healthy volumes, 2 callers, beside {HANGING} others [µs]");
    println!("{:<18} {:>8} {:>8} {:>8}", "", "calls", "p50", "p99");
    for (name, samples) in [("0 sources hang", &without), ("8 sources hang", &with)] {
        println!("{name:<18} {:>8} {:>8.0} {:>8.0}", samples.len(), percentile(samples, 50), percentile(samples, 99));
    }
    println!(
        "{:<18} {:>8} {:>8.2} {:>8.2}  (p99 at most 1.2)\n",
        "ratio",
        "",
        percentile(&with, 50) / percentile(&without, 50),
        percentile(&with, 99) / percentile(&without, 99)
    );
}

fn idle(part: Duration) {
    let node = Node::start_with(&["--log-level=error", "--admin-address=127.0.0.1:0"]);
    let measure = || {
        std::thread::sleep(Duration::from_secs(2));
        let (start, before) = (Instant::now(), ran::by(node.plugin.id()).unwrap());
        std::thread::sleep(part);
        (ran::by(node.plugin.id()).unwrap() - before).as_secs_f64() * 100.0 / start.elapsed().as_secs_f64()
    };
    // Someone has to have called, or nothing is watched.
    let first = node.inline("first", &[("volume", "data")]);
    node.publish(&first).unwrap();
    let few = measure();
    for n in 0..SOURCES {
        fs::create_dir_all(node.root.join(format!("data/s{n}"))).unwrap();
    }
    let mut client = node.client();
    for n in 0..VOLUMES {
        let source = format!("s{}", n % SOURCES);
        let attributes = [("volume", "data"), ("subPath", source.as_str()), ("propagation", "HostToContainer")];
        let request = node.inline(&format!("v{n}"), &attributes);
        node.runtime.block_on(client.node_publish_volume(request)).unwrap();
    }
    let many = measure();
    println!("CPU of the idle plugin over {part:?} [% of a core]");
    println!("{:>6} published   {few:.4}", 1);
    println!("{VOLUMES:>6} published   {many:.4}  (at most 0.1)\n");
}

fn recoveries() {
    let node = Node::start_with(&["--log-level=error"]);
    let Some(mut daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
    let attributes = [("volume", "data"), ("subPath", "fuse"), ("propagation", "HostToContainer")];
    node.publish_noted(&node.inline("p", &attributes));
    let container = Container::start(&node.target("p"), "rslave");
    let id = |path: PathBuf| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let mut samples = Vec::new();
    for _ in 0..RECOVERIES {
        daemon = daemon.restart();
        let back = Instant::now();
        let wanted = id(daemon.at.clone());
        while wanted.is_none() || id(container.volume()) != wanted {
            std::thread::sleep(Duration::from_millis(1));
        }
        samples.push(back.elapsed().as_secs_f64() * 1e3);
    }
    let samples = sorted(samples);
    println!("from the source's remount to the running container, {RECOVERIES} times [ms]");
    println!(
        "p50 {:.0}  p99 {:.0}  slowest {:.0}  (at most 1000)",
        percentile(&samples, 50),
        percentile(&samples, 99),
        percentile(&samples, 100)
    );
}
