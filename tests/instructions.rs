//! What a call costs the plugin in instructions and allocations, counted by callgrind and held against
//! `tests/counts/calls.tsv`: more than 10 % growth fails, unless the figure is changed with a reason.
//!
//! A count doesn't depend on how busy the machine is. Counted is everything that a call makes the plugin do, from its
//! socket to the answer: tokio, h2, tonic, request, policy, gate, mount thread, plan, steps, verification, log line. Not
//! counted are the kernel, and healing and looking after volumes, whose work is done at times of its own. Each call is
//! counted alone, many times; the middle one counts, less what asking for the count costs.
//!
//! Valgrind of Debian 12 knows none of openat2, move_mount, mount_setattr and statmount, and of later ones each version
//! knows others; so all are refused (`support/seccomp.rs`) and the fall-backs are taken, which differ in `kernel` only. They
//! read mountinfo: the caller's mount namespace has three mounts, whatever the machine has. And it is the build of the tests
//! that is counted, since an optimised one would be made for this alone, which takes minutes: what is too much in one is too
//! much in the other.
//! `cargo test --release --test instructions -- --nocapture` prints the figures of an optimised build, without
//! comparing them.
//!
//!     HOSTMOUNT_UPDATE=1 cargo test --test instructions
//!
//! writes the figures that have changed, and leaves their reasons to be written by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use frontend::csi::node::Node;
use frontend::csi::server;
use frontend::socket;
use hostmount::cli::{self, Cli};
use hostmount::{serve, telemetry};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pivot_root};
use support::seccomp::Refusal;
use support::{capability, in_namespace, tmpfs};
use tokio::signal::unix::{SignalKind, signal};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use wire::csi;
use wire::csi::identity_client::IdentityClient;
use wire::csi::node_client::NodeClient;
use wire::csi::node_server::Node as _;
use workers::CallRuntime;

const FIGURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/counts/calls.tsv");
/// How much a figure may grow, in percent.
const GROWTH: u64 = 10;
/// How often each call is counted, after [`WARM`] times that aren't.
const TIMES: usize = 9;
const WARM: usize = 3;
/// Says which part a process plays that the test starts.
const ROLE: &str = "HOSTMOUNT_COUNTED";
/// What the counted plugin and its caller see of each other: the caller's root, and in the test's own namespace this.
const SHARED: &str = "/mnt";
const PATIENCE: Duration = Duration::from_secs(120);

/// What one call costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Cost {
    instructions: u64,
    allocations: u64,
}

// ---- the figures ----

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Figure {
    call: String,
    cost: Cost,
    reason: String,
}

fn parse(text: &str) -> Vec<Figure> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("call\t"));
    let figure = |line: &str| {
        let [call, instructions, allocations, reason] = line.splitn(4, '\t').collect::<Vec<_>>()[..] else {
            panic!("{FIGURES}: not four fields: {line:?}")
        };
        let cost = Cost { instructions: instructions.parse().unwrap(), allocations: allocations.parse().unwrap() };
        Figure { call: call.to_owned(), cost, reason: reason.trim().to_owned() }
    };
    lines.map(figure).collect()
}

/// The file anew: what hasn't changed by more than is allowed stays, so that it can't creep up a little each time.
fn renewed(text: &str, measured: &BTreeMap<String, Cost>) -> String {
    let mut new: String =
        text.lines().take_while(|line| line.starts_with('#')).fold(String::new(), |all, line| all + line + "\n");
    new += "call\tinstructions\tallocations\treason\n";
    let old = parse(text);
    for (call, cost) in measured {
        let kept = old.iter().find(|f| f.call == *call).filter(|f| !grown(f.cost, *cost) && !grown(*cost, f.cost));
        let (cost, reason) = kept.map_or((*cost, ""), |f| (f.cost, f.reason.as_str()));
        writeln!(new, "{call}\t{}\t{}\t{reason}", cost.instructions, cost.allocations).unwrap();
    }
    new
}

fn grown(from: Cost, to: Cost) -> bool {
    let more = |from: u64, to: u64| to * 100 > from * (100 + GROWTH);
    more(from.instructions, to.instructions) || more(from.allocations, to.allocations)
}

/// What is wrong with the figures, given what was measured.
fn faults(figures: &[Figure], measured: &BTreeMap<String, Cost>) -> Vec<String> {
    let mut faults = Vec::new();
    for (call, cost) in measured {
        match figures.iter().find(|f| f.call == *call) {
            None => faults.push(format!("{call}: no figure")),
            Some(f) if f.reason.is_empty() => faults.push(format!("{call}: the figure has no reason")),
            Some(f) if grown(f.cost, *cost) => {
                faults.push(format!("{call}: {cost:?}, more than {GROWTH} % above {:?}", f.cost));
            }
            Some(_) => {}
        }
    }
    faults.extend(
        figures.iter().filter(|f| !measured.contains_key(&f.call)).map(|f| format!("{}: not measured", f.call)),
    );
    faults
}

#[test]
fn growth_and_a_missing_reason_are_faults_and_small_changes_are_not_written() {
    let text = "# about\ncall\tinstructions\tallocations\treason\na\t1000\t10\tfirst\nb\t1000\t10\tfirst\n";
    let cost = |instructions, allocations| Cost { instructions, allocations };
    let measured = |a, b| BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
    assert_eq!(faults(&parse(text), &measured(cost(1100, 11), cost(500, 0))), [""; 0]);
    let more = measured(cost(1101, 10), cost(1000, 12));
    assert_eq!(faults(&parse(text), &more).len(), 2);
    assert_eq!(renewed(text, &measured(cost(1100, 11), cost(950, 10))), text);
    let new = renewed(text, &more);
    assert_eq!(new, text.replace("1000\t10\tfirst\nb\t1000\t10\tfirst", "1101\t10\t\nb\t1000\t12\t"));
    assert_eq!(faults(&parse(&new), &more), ["a: the figure has no reason", "b: the figure has no reason"]);
    assert_eq!(faults(&parse(text), &BTreeMap::new()), ["a: not measured", "b: not measured"]);
}

/// Whatever a call waits for is room that each call takes, and is moved about, before it has done anything: with a look-up of the
/// pod inside a publish it was 13 KiB.
#[test]
fn a_call_carries_little_along() {
    let config = tempfile::NamedTempFile::new().unwrap();
    fs::write(&config, "entries: []").unwrap();
    let config = format!("--config={}", config.path().display());
    let cli = Cli::parse_from(["hostmount", "serve", "--node-id=n", &config]);
    let cli::Command::Serve(args) = cli.command else { panic!("serve") };
    let plugin = Arc::new(serve::plugin(&args, serve::service(&args).unwrap()));
    let serving = CallRuntime::start(Arc::clone(plugin.service.threads.site())).unwrap();
    let node = Node { plugin, runtime: serving.runtime() };
    let publish = node.node_publish_volume(Request::new(csi::NodePublishVolumeRequest::default()));
    let unpublish = node.node_unpublish_volume(Request::new(csi::NodeUnpublishVolumeRequest::default()));
    let sizes = [size_of_val(&*publish), size_of_val(&*unpublish)];
    println!("bytes of a publish and an unpublish: {sizes:?}");
    assert!(sizes[0] <= 3072 && sizes[1] <= 1536, "{sizes:?}");
}

#[test]
fn a_call_costs_what_is_written_down() {
    in_namespace(|| {
        let version = Command::new("valgrind").arg("--version").output();
        let version = version.expect("valgrind is missing: apt-get install valgrind").stdout;
        let shared = Path::new(SHARED);
        tmpfs(shared);
        for name in ["old", "out", "data", "kubelet/plugins", "kubelet/pods"] {
            fs::create_dir_all(shared.join(name)).unwrap();
        }
        let entries = "entries: [{name: data, path: /data, propagation: Bidirectional, allow: [{namespaces: ['*']}]}]";
        fs::write(shared.join("entries.yaml"), entries).unwrap();
        let mut plugin = played("served", "valgrind", |command| {
            command.args(["--tool=callgrind", "--compress-strings=no", "--dump-before=*this_part_ends*"]);
            command.arg(format!("--callgrind-out-file={SHARED}/out/part")).arg(std::env::current_exe().unwrap());
            Refusal::all().put_on(command);
        });
        let mut caller = played("caller", "unshare", |command| {
            command.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe().unwrap());
            command.env("HOSTMOUNT_COUNTED_PID", plugin.id().to_string());
        });
        let called = caller.wait().unwrap();
        kill(pid(plugin.id()), Signal::SIGTERM).unwrap();
        plugin.wait().unwrap();
        let log = || {
            fs::read_to_string(shared.join("served.log")).unwrap()
                + &fs::read_to_string(shared.join("caller.log")).unwrap()
        };
        assert!(called.success(), "{}", log());
        let measured = costs(&fs::read_to_string(shared.join("costs")).unwrap());
        println!("{}", String::from_utf8_lossy(&version).trim());
        println!("{:>12} {:>12}", "instructions", "allocations");
        measured.iter().for_each(|(call, c)| println!("{:>12} {:>12}  {call}", c.instructions, c.allocations));
        if !cfg!(debug_assertions) || !cfg!(target_arch = "x86_64") {
            return println!("SKIPPED: the comparison; the figures are those of the tests' build for x86_64");
        }
        let text = fs::read_to_string(FIGURES).unwrap_or_default();
        if std::env::var_os("HOSTMOUNT_UPDATE").is_some() {
            return fs::write(FIGURES, renewed(&text, &measured)).unwrap();
        }
        let faults = faults(&parse(&text), &measured);
        assert!(
            faults.is_empty(),
            "{}\nMake it cheaper; or HOSTMOUNT_UPDATE=1 cargo test --test instructions, and write into {FIGURES} why it has to cost that",
            faults.join("\n")
        );
    });
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap())
}

/// Starts this very program as another part of the play.
fn played(role: &str, program: &str, with: impl FnOnce(&mut Command)) -> Child {
    let log = fs::File::create(Path::new(SHARED).join(role).with_extension("log")).unwrap();
    let mut command = Command::new(program);
    with(&mut command);
    command.args([role, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn plays(role: &str) -> bool {
    std::env::var_os(ROLE).is_some_and(|played| played == role)
}

// ---- the plugin, under callgrind ----

/// Where callgrind writes down what was counted since the last time. It finds the function by its name.
#[inline(never)]
fn this_part_ends(number: u64) -> u64 {
    std::hint::black_box(number)
}

/// Not a test: the plugin that is counted, put together as `hostmount serve` does it, without what looks after volumes.
#[test]
fn served() {
    if !plays("served") {
        return;
    }
    let endpoint = format!("--endpoint=unix://{SHARED}/csi.sock");
    let config = format!("--config={SHARED}/entries.yaml");
    let words = ["hostmount", "serve", "--node-id=n", "--kubelet-dir=/kubelet", &endpoint, &config];
    let cli = Cli::parse_from(words);
    let cli::Command::Serve(args) = cli.command else { panic!("serve") };
    telemetry::start(&cli.log_level, cli.log_format).unwrap();
    let plugin = Arc::new(serve::plugin(&args, serve::service(&args).unwrap()));
    let bound = socket::bind(&socket::path_of(&args.endpoint).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut parts = signal(SignalKind::user_defined1()).unwrap();
        let mut terminate = signal(SignalKind::terminate()).unwrap();
        let stop = async move {
            let mut number = 0;
            loop {
                tokio::select! {
                    _ = parts.recv() => number = this_part_ends(number) + 1,
                    _ = terminate.recv() => return,
                }
            }
        };
        server::serve(plugin, bound, stop, Duration::from_secs(5)).await.unwrap();
    });
}

// ---- the caller, in a mount namespace with next to nothing in it ----

struct Parts {
    plugin: Pid,
    count: usize,
}

impl Parts {
    /// What was counted since the last time.
    async fn next(&mut self) -> Cost {
        // What the plugin still has to do after its answer belongs to the call.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.count += 1;
        let file = PathBuf::from(format!("/out/part.{}", self.count));
        kill(self.plugin, Signal::SIGUSR1).unwrap();
        let start = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let text = fs::read_to_string(&file).unwrap_or_default();
            if let Some(total) = text.lines().rev().take(5).find_map(|line| line.strip_prefix("totals: ")) {
                let cost = Cost { instructions: total.trim().parse().unwrap(), allocations: allocations(&text) };
                if std::env::var_os("HOSTMOUNT_COUNTED_KEEP").is_none() {
                    fs::remove_file(&file).unwrap();
                }
                return cost;
            }
            assert!(start.elapsed() < PATIENCE, "callgrind writes no {}", file.display());
        }
    }
}

/// How often memory was asked for: the calls of the functions that Rust has for it, whatever the allocator.
fn allocations(profile: &str) -> u64 {
    let mut lines = profile.lines();
    let mut count = 0;
    while let Some(line) = lines.next() {
        let Some(callee) = line.strip_prefix("cfn=") else { continue };
        if ["__rust_alloc", "__rust_alloc_zeroed", "__rust_realloc"].iter().any(|name| callee.ends_with(name)) {
            let calls = lines.next().and_then(|line| line.strip_prefix("calls=")).expect("calls= after cfn=");
            count += calls.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
    }
    count
}

fn costs(text: &str) -> BTreeMap<String, Cost> {
    parse(text).into_iter().map(|figure| (figure.call, figure.cost)).collect()
}

/// Not a test: the caller.
#[test]
fn caller() {
    if !plays("caller") {
        return;
    }
    let plugin = Pid::from_raw(std::env::var("HOSTMOUNT_COUNTED_PID").unwrap().parse().unwrap());
    let none = None::<&str>;
    mount(Some(SHARED), SHARED, none, MsFlags::MS_BIND, none).unwrap();
    pivot_root(SHARED, &*format!("{SHARED}/old")).unwrap();
    umount2("/old", MntFlags::MNT_DETACH).unwrap();
    mount(Some("data"), "/data", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    mount(none, "/data", none, MsFlags::MS_SHARED, none).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::from_static("unix:///csi.sock").timeout(PATIENCE);
        let start = Instant::now();
        let channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(e) => assert!(start.elapsed() < PATIENCE, "the plugin does not come up: {e}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        // A plugin that answers has its handlers of signals.
        make("Probe", &channel).await;
        let mut parts = Parts { plugin, count: 0 };
        let mut all: BTreeMap<&str, Vec<Cost>> = BTreeMap::new();
        for time in 0..WARM + TIMES {
            for call in
                ["", "Probe", "NodePublishVolume", "NodeUnpublishVolume", "NodeStageVolume", "NodeUnstageVolume"]
            {
                make(call, &channel).await;
                let cost = parts.next().await;
                if time >= WARM {
                    all.entry(call).or_default().push(cost);
                }
            }
        }
        let mut middle = all.into_iter().map(|(call, mut costs)| {
            let spread = format!("{:?} to {:?}", costs.iter().min().unwrap(), costs.iter().max().unwrap());
            println!("{call:?}: {spread}");
            costs.sort_unstable();
            let instructions = costs[costs.len() / 2].instructions;
            costs.sort_unstable_by_key(|cost| cost.allocations);
            (call, Cost { instructions, allocations: costs[costs.len() / 2].allocations })
        });
        // The first by name is no call at all.
        let (_, nothing) = middle.next().unwrap();
        let mut text = String::new();
        for (call, cost) in middle {
            let less = |of: fn(Cost) -> u64| of(cost) - of(nothing);
            writeln!(text, "{call}\t{}\t{}\t", less(|c| c.instructions), less(|c| c.allocations)).unwrap();
        }
        fs::write("/costs", text).unwrap();
    });
}

/// Makes a call, which must succeed.
async fn make(call: &str, channel: &Channel) {
    const TARGET: &str = "/kubelet/pods/0b0f7a0e-8d5c-4b5e-9d7f-6f0a52a7c0de/volumes/kubernetes.io~csi/data/mount";
    const STAGING: &str = "/kubelet/plugins/kubernetes.io/csi/csi.hostmount.dev/4f1c/globalmount";
    let mut node = NodeClient::new(channel.clone());
    match call {
        "Probe" => {
            let answer = IdentityClient::new(channel.clone()).probe(csi::ProbeRequest {}).await.unwrap();
            assert_eq!(answer.into_inner().ready, Some(true));
        }
        "NodePublishVolume" => {
            fs::create_dir_all(Path::new(TARGET).parent().unwrap()).unwrap();
            let context = [
                ("volume", "data"),
                ("propagation", "HostToContainer"),
                ("csi.storage.k8s.io/pod.name", "counted-7d9c6b5f4-x2x9k"),
                ("csi.storage.k8s.io/pod.namespace", "default"),
                ("csi.storage.k8s.io/pod.uid", "0b0f7a0e-8d5c-4b5e-9d7f-6f0a52a7c0de"),
                ("csi.storage.k8s.io/serviceAccount.name", "default"),
                ("csi.storage.k8s.io/ephemeral", "true"),
            ];
            let request = csi::NodePublishVolumeRequest {
                volume_id: "csi-counted".to_owned(),
                target_path: TARGET.to_owned(),
                volume_capability: capability(1),
                volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
                ..Default::default()
            };
            node.node_publish_volume(request).await.unwrap();
        }
        "NodeUnpublishVolume" => {
            let target_path = TARGET.to_owned();
            let request = csi::NodeUnpublishVolumeRequest { volume_id: "csi-counted".to_owned(), target_path };
            node.node_unpublish_volume(request).await.unwrap();
            assert!(!Path::new(TARGET).exists());
        }
        "NodeStageVolume" => {
            fs::create_dir_all(STAGING).unwrap();
            let request = csi::NodeStageVolumeRequest {
                volume_id: "data".to_owned(),
                staging_target_path: STAGING.to_owned(),
                volume_capability: capability(1),
                ..Default::default()
            };
            node.node_stage_volume(request).await.unwrap();
        }
        "NodeUnstageVolume" => {
            let staging_target_path = STAGING.to_owned();
            let request = csi::NodeUnstageVolumeRequest { volume_id: "data".to_owned(), staging_target_path };
            node.node_unstage_volume(request).await.unwrap();
        }
        _ => {}
    }
}
