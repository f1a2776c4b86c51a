//! Load: sixteen callers on two hundred volumes, with mounts coming and going under the sources and the allow-list
//! reloading. Nothing is refused that isn't meant to be, and nothing leaks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use support::{Node, eventually, in_namespace, table};
use tonic::Code;
use wire::csi;

const CALLERS: usize = 16;
const VOLUMES: usize = 200;

/// What the plugin holds.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "printed")]
struct Figures {
    mounts: usize,
    descriptors: usize,
    threads: usize,
    resident_kib: usize,
}

impl Figures {
    fn of(node: &Node) -> Self {
        let proc = PathBuf::from(format!("/proc/{}", node.plugin.id()));
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
        };
        Self {
            mounts: table().len(),
            descriptors: fs::read_dir(proc.join("fd")).unwrap().count(),
            threads: number("Threads"),
            resident_kib: number("VmRSS"),
        }
    }
}

/// Random enough: what matters is that callers differ.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

/// Mounts and unmounts beneath the source, and on it, until told to stop. How often.
fn churn(data: &Path, stop: &AtomicBool) -> usize {
    let mut times = 0;
    let places: Vec<PathBuf> = (0..8).map(|n| data.join(format!("churn{n}"))).collect();
    places.iter().for_each(|place| fs::create_dir_all(place).unwrap());
    while !stop.load(Ordering::Relaxed) {
        for place in &places {
            mount(Some("churn"), place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
        for place in &places {
            umount2(place, MntFlags::MNT_DETACH).unwrap();
        }
        times += places.len();
    }
    times
}

/// Changes an entry that no volume is of, and every tenth time breaks the file.
fn reload(file: &Path, stop: &AtomicBool) -> usize {
    let good = fs::read_to_string(file).unwrap();
    let mut times = 0;
    while !stop.load(Ordering::Relaxed) {
        times += 1;
        let extra = format!("  - {{name: extra, path: /mnt/extra{times}}}\n");
        let text = if times % 10 == 0 { "entries: [".to_owned() } else { format!("{good}{extra}") };
        let next = file.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::rename(&next, file).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    fs::write(file, good).unwrap();
    times
}

#[test]
fn sixteen_callers_on_two_hundred_volumes_leave_nothing_behind() {
    in_namespace(|| {
        let seconds = std::env::var("HOSTMOUNT_LOAD_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
        let node = Node::start_with(&[
            "--admin-address=127.0.0.1:0",
            "--probe-interval=1",
            "--log-level=error,hostmount::serve=info",
        ]);
        let mounts = || -> Vec<_> {
            support::mounts_beneath(&node.root).into_iter().filter(|at| !at.ends_with("workshop")).collect()
        };
        let at_first = mounts();
        let propagations = ["None", "HostToContainer", "Bidirectional"];
        let volumes: Arc<Vec<_>> = Arc::new(
            (0..VOLUMES)
                .map(|n| {
                    let mut attributes = vec![("volume", "data"), ("propagation", propagations[n % 3])];
                    if n % 4 == 0 {
                        attributes.push(("subPath", "sub"));
                    }
                    node.inline(&format!("p{n}"), &attributes)
                })
                .collect(),
        );
        let stop = Arc::new(AtomicBool::new(false));
        let churning = {
            let (stop, data) = (Arc::clone(&stop), node.root.join("data"));
            std::thread::spawn(move || churn(&data, &stop))
        };
        let reloading = {
            let (stop, file) = (Arc::clone(&stop), node.root.join("entries.yaml"));
            std::thread::spawn(move || reload(&file, &stop))
        };
        let run = |seconds: u64, seed: u64| {
            let until = Instant::now() + Duration::from_secs(seconds);
            let callers = (0..CALLERS).map(|caller| {
                let (client, volumes) = (node.client(), Arc::clone(&volumes));
                async move {
                    let mut random = Random(seed * 1000 + u64::try_from(caller).unwrap());
                    let mut answers: HashMap<(&str, Code), usize> = HashMap::new();
                    while Instant::now() < until {
                        // Most of the time one's own, so that calls succeed; sometimes anybody's.
                        let own = random.below(VOLUMES / CALLERS) * CALLERS + caller;
                        let volume = if random.below(8) == 0 { random.below(VOLUMES) } else { own };
                        let volume = &volumes[volume % VOLUMES];
                        let mut client = client.clone();
                        let (what, answer) = match random.below(9) {
                            0..=3 => ("publish", client.node_publish_volume(volume.clone()).await.map(drop)),
                            4..=6 => {
                                let request = csi::NodeUnpublishVolumeRequest {
                                    volume_id: volume.volume_id.clone(),
                                    target_path: volume.target_path.clone(),
                                };
                                ("unpublish", client.node_unpublish_volume(request).await.map(drop))
                            }
                            7 => {
                                let request = csi::NodeGetVolumeStatsRequest {
                                    volume_id: volume.volume_id.clone(),
                                    volume_path: volume.target_path.clone(),
                                    ..Default::default()
                                };
                                ("stats", client.node_get_volume_stats(request).await.map(drop))
                            }
                            _ => {
                                let request = csi::NodeGetVolumeHealthRequest {
                                    volume_id: volume.volume_id.clone(),
                                    volume_publish_path: volume.target_path.clone(),
                                    ..Default::default()
                                };
                                ("health", client.node_get_volume_health(request).await.map(drop))
                            }
                        };
                        let code = answer.as_ref().map_or_else(tonic::Status::code, |()| Code::Ok);
                        let specified = match what {
                            // ABORTED: somebody else's call for the same volume is under way.
                            "publish" | "unpublish" => matches!(code, Code::Ok | Code::Aborted),
                            _ => matches!(code, Code::Ok | Code::NotFound),
                        };
                        assert!(specified, "{what}: {answer:?}");
                        *answers.entry((what, code)).or_default() += 1;
                    }
                    answers
                }
            });
            let mut all: HashMap<(&str, Code), usize> = HashMap::new();
            for answers in node.runtime.block_on(futures_util::future::join_all(callers)) {
                answers.into_iter().for_each(|(what, count)| *all.entry(what).or_default() += count);
            }
            all
        };
        let unpublish_all = || volumes.iter().for_each(|volume| node.unpublish(volume).unwrap());
        // Once round, so that threads, buffers and the workshop are there.
        run(seconds / 10 + 1, 1);
        unpublish_all();
        let before = Figures::of(&node);
        let answers = run(seconds, 2);
        unpublish_all();
        stop.store(true, Ordering::Relaxed);
        let (churned, reloaded) = (churning.join().unwrap(), reloading.join().unwrap());
        let data = node.root.join("data");
        assert_eq!(mounts(), at_first, "mounts were left, or lost");
        assert!((0..3).all(|n| data.join(format!("churn{n}")).exists()));
        eventually("the connections are closed", || Figures::of(&node).descriptors <= before.descriptors + 2);
        let after = Figures::of(&node);
        let calls: usize = answers.values().sum();
        println!("{seconds} s, {calls} calls: {answers:?}");
        println!("{churned} mounts came and went under the source, {reloaded} allow-lists");
        println!("before: {before:?}\nafter:  {after:?}");
        let count = |what, code| answers.get(&(what, code)).copied().unwrap_or(0);
        assert!(count("publish", Code::Ok) > 100 && count("unpublish", Code::Ok) > 100, "{answers:?}");
        assert!(after.threads <= before.threads + 16, "threads");
        // Counted in MiB: the allocator keeps some of what was in use at once, and no more with time.
        assert!(after.resident_kib < before.resident_kib + 8 * 1024, "memory");
        assert_eq!(node.metric("hostmount_stuck_threads"), 0.0);
    });
}
