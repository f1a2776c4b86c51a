//! What a publish and an unpublish over the real socket cost, beside their floor: the same system calls done
//! directly, plus an empty round trip on the same socket. All in one run, in turns, so that whatever else the machine
//! does weighs on all alike. Prints figures beside their targets; exits with 1 only if something doesn't work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a benchmark")]
#![allow(clippy::disallowed_methods, reason = "plays the node")]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hostmount::config::Missing;
use hostmount::observe::{self, SourcePath};
use hostmount::propagation::PropagationKind;
use hostmount::site::Site;
use hostmount::sys::calls::Calls;
use hostmount::sys::mount::{self, Change, Unmount};
use hostmount::sys::namespace::{Proc, enter};
use hostmount::sys::path;
use hostmount::sys::stat::MountAttrs;
use hostmount::volume::{AbsPath, KubeletPath};
use hostmount::wire::csi;
use hostmount::wire::csi::identity_client::IdentityClient;
use hostmount::wire::csi::node_client::NodeClient;
use hostmount::workshop::Workshop;
use nix::mount::MsFlags;
use tonic::transport::{Channel, Endpoint};

const INSIDE: &str = "HOSTMOUNT_BENCH_INSIDE";
const ROUNDS: usize = 20;
const PAIRS: usize = 50;
const TARGET: &str = "/mnt/kubelet/pods/p/volumes/kubernetes.io~csi/v/mount";

fn main() {
    if std::env::var_os(INSIDE).is_none() {
        let status = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .status()
            .expect("unshare (util-linux) starts");
        assert!(status.success(), "{status}");
        return;
    }
    let json = std::env::args().any(|a| a == "--json");
    let figures = measure();
    if json {
        let map: serde_json::Map<_, _> = figures
            .iter()
            .map(|f| (f.key.to_owned(), serde_json::json!({"value": f.value, "target": f.target})))
            .collect();
        println!("{}", serde_json::Value::Object(map));
        return;
    }
    println!("{:<58}{:>12}  target", "", "measured");
    for figure in figures {
        let target = figure.target.map_or_else(String::new, |t| format!("at most {t}"));
        println!("{:<58}{:>12.2}  {target}", format!("{} ({})", figure.name, figure.unit), figure.value);
    }
}

struct Figure {
    key: &'static str,
    name: String,
    unit: &'static str,
    value: f64,
    target: Option<f64>,
}

struct Server {
    child: Child,
    start: Duration,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tmpfs(at: &str) {
    fs::create_dir_all(at).unwrap();
    nix::mount::mount(Some("t"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

fn channel(runtime: &tokio::runtime::Runtime) -> Channel {
    let _inside = runtime.enter();
    Endpoint::from_static("unix:///mnt/csi.sock").connect_lazy()
}

fn serve(runtime: &tokio::runtime::Runtime) -> Server {
    let begin = Instant::now();
    let child = Command::new(env!("CARGO_BIN_EXE_hostmount"))
        .args(["serve", "--node-id=n", "--endpoint=unix:///mnt/csi.sock", "--config=/mnt/entries.yaml"])
        .args(["--kubelet-dir=/mnt/kubelet", "--log-level=warn"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut server = Server { child, start: Duration::ZERO };
    loop {
        let probe = runtime.block_on(IdentityClient::new(channel(runtime)).probe(csi::ProbeRequest {}));
        if probe.is_ok_and(|p| p.into_inner().ready == Some(true)) {
            server.start = begin.elapsed();
            return server;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "the server does not get ready");
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() * 99 / 100]
}

fn micros(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64() * 1e6
}

fn request() -> csi::NodePublishVolumeRequest {
    let attributes = [("volume", "data"), ("propagation", "HostToContainer"), ("csi.storage.k8s.io/ephemeral", "true")];
    csi::NodePublishVolumeRequest {
        volume_id: "csi-0".into(),
        target_path: TARGET.into(),
        volume_capability: Some(csi::VolumeCapability {
            access_mode: Some(csi::volume_capability::AccessMode { mode: 7 }),
            access_type: Some(csi::volume_capability::AccessType::Mount(Default::default())),
        }),
        volume_context: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect::<HashMap<_, _>>(),
        ..Default::default()
    }
}

/// The same system calls without anything around them: one pair, in microseconds.
fn direct(site: &Site, workshop: &Workshop) -> (f64, f64) {
    let source = SourcePath { entry: AbsPath::parse("/mnt/data").unwrap(), sub_path: None, missing: Missing::Fail };
    let target = KubeletPath::parse(TARGET, &site.kubelet_dir).unwrap();
    let slot = workshop.slot(site, 99).unwrap();
    let name = OsStr::new("mount");
    let publish = micros(|| {
        let open = observe::open_source(site, &source).unwrap();
        let place = observe::open_target(site, &target).unwrap().unwrap();
        path::make_dir(&place.parent, name, 0o750).unwrap();
        mount::bind_recursive(&open.fd, path::open_child(&slot.parent, &slot.name).unwrap()).unwrap();
        let change = Change {
            propagation: Some(PropagationKind::Slave),
            attrs: MountAttrs { nosuid: true, nodev: true, ..MountAttrs::default() },
        };
        let copy = path::open_child(&slot.parent, &slot.name).unwrap();
        mount::change(&site.proc, site.calls, &copy, change, true).unwrap();
        mount::move_to(site.calls, &copy, path::open_child(&place.parent, name).unwrap()).unwrap();
        observe::find(site, &place).unwrap();
    });
    let unpublish = micros(|| {
        let place = observe::open_target(site, &target).unwrap().unwrap();
        mount::unmount(&place.parent, name, Unmount::IfIdle).unwrap();
        path::remove_dir(&place.parent, name).unwrap();
    });
    (publish, unpublish)
}

#[derive(Default)]
struct Samples {
    publish: Vec<f64>,
    unpublish: Vec<f64>,
    probe: Vec<f64>,
    direct_publish: Vec<f64>,
    direct_unpublish: Vec<f64>,
}

fn round(
    runtime: &tokio::runtime::Runtime,
    node: &mut NodeClient<Channel>,
    identity: &mut IdentityClient<Channel>,
    directly: &std::sync::mpsc::SyncSender<std::sync::mpsc::Sender<(f64, f64)>>,
    samples: &mut Samples,
) {
    let publish = request();
    let unpublish = csi::NodeUnpublishVolumeRequest { volume_id: "csi-0".into(), target_path: TARGET.into() };
    for _ in 0..PAIRS {
        samples.probe.push(micros(|| drop(runtime.block_on(identity.probe(csi::ProbeRequest {})).unwrap())));
        let message = publish.clone();
        samples.publish.push(micros(|| drop(runtime.block_on(node.node_publish_volume(message)).unwrap())));
        let message = unpublish.clone();
        samples.unpublish.push(micros(|| drop(runtime.block_on(node.node_unpublish_volume(message)).unwrap())));
        let (send, receive) = std::sync::mpsc::channel();
        directly.send(send).unwrap();
        let (one, other) = receive.recv().unwrap();
        samples.direct_publish.push(one);
        samples.direct_unpublish.push(other);
    }
}

fn resident(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn measure() -> Vec<Figure> {
    tmpfs("/mnt");
    nix::mount::mount(None::<&str>, "/mnt", None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
    tmpfs("/mnt/data");
    fs::create_dir_all(Path::new(TARGET).parent().unwrap()).unwrap();
    let entries = "entries: [{name: data, path: /mnt/data, propagation: Bidirectional, allow: [{namespaces: ['*']}]}]";
    fs::write("/mnt/entries.yaml", entries).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let starts: Vec<f64> = (0..9).map(|_| serve(&runtime).start.as_secs_f64() * 1e3).collect();
    let server = serve(&runtime);
    std::thread::sleep(Duration::from_millis(200));
    let idle = resident(server.child.id());

    let (directly, asked) = std::sync::mpsc::sync_channel::<std::sync::mpsc::Sender<(f64, f64)>>(1);
    let direct_thread = std::thread::Builder::new().name("direct".into()).spawn(move || {
        let site = Site {
            proc: Arc::new(Proc::new().unwrap()),
            calls: Calls::probe(),
            kubelet_dir: AbsPath::parse("/mnt/kubelet").unwrap(),
        };
        enter(&site.proc, &site.proc.own_mount_namespace().unwrap()).unwrap();
        let workshop = Workshop::open(&site, "floor").unwrap();
        for answer in asked {
            answer.send(direct(&site, &workshop)).unwrap();
        }
        workshop.close(&site).unwrap();
    });
    let (mut node, mut identity) = (NodeClient::new(channel(&runtime)), IdentityClient::new(channel(&runtime)));
    round(&runtime, &mut node, &mut identity, &directly, &mut Samples::default());
    let (mut few, mut many) = (Samples::default(), Samples::default());
    for _ in 0..ROUNDS {
        round(&runtime, &mut node, &mut identity, &directly, &mut few);
    }
    fill(10_000);
    for _ in 0..ROUNDS {
        round(&runtime, &mut node, &mut identity, &directly, &mut many);
    }
    let after = resident(server.child.id());
    drop(directly);
    direct_thread.unwrap().join().unwrap();
    let size = fs::metadata(env!("CARGO_BIN_EXE_hostmount")).unwrap().len();
    #[allow(clippy::cast_precision_loss, reason = "a file of a few MiB")]
    let size = size as f64 / 1024.0 / 1024.0;

    let figure = |key, name: &str, unit, value, target| Figure { key, name: name.to_owned(), unit, value, target };
    let m = |values: &Vec<f64>| median(values.clone());
    let floor = |s: &Samples| (m(&s.direct_publish) + m(&s.probe), m(&s.direct_unpublish) + m(&s.probe));
    let ((publish_floor, unpublish_floor), both) = (floor(&few), m(&few.publish) + m(&few.unpublish));
    vec![
        figure("probe_us", "Probe, an empty round trip", "µs", m(&few.probe), None),
        figure("publish_floor_us", "floor of a publish: system calls + Probe", "µs", publish_floor, None),
        figure("unpublish_floor_us", "floor of an unpublish", "µs", unpublish_floor, None),
        figure("publish_us", "publish, median", "µs", m(&few.publish), None),
        figure("publish_p99_us", "publish, 99th percentile", "µs", p99(few.publish.clone()), None),
        figure("unpublish_us", "unpublish, median", "µs", m(&few.unpublish), None),
        figure("unpublish_p99_us", "unpublish, 99th percentile", "µs", p99(few.unpublish.clone()), None),
        figure("publish_ratio", "publish : floor", "ratio", m(&few.publish) / publish_floor, Some(2.0)),
        figure("unpublish_ratio", "unpublish : floor", "ratio", m(&few.unpublish) / unpublish_floor, Some(2.0)),
        figure(
            "mounts_ratio",
            "publish + unpublish with 10,000 mounts : with few",
            "ratio",
            (m(&many.publish) + m(&many.unpublish)) / both,
            Some(1.3),
        ),
        figure("idle_mib", "resident, idle", "MiB", idle, Some(10.0)),
        figure("after_mib", "resident, after the run", "MiB", after, None),
        figure("start_ms", "start to first good Probe, median", "ms", median(starts), Some(50.0)),
        figure("binary_mib", "the binary", "MiB", size, Some(12.0)),
    ]
}

/// Mounts that have nothing to do with the volume.
fn fill(count: usize) {
    tmpfs("/mnt/other");
    nix::mount::mount(None::<&str>, "/mnt/other", None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let from = PathBuf::from("/mnt/other/from");
    fs::create_dir(&from).unwrap();
    for n in 0..count {
        let at = format!("/mnt/other/{n}");
        fs::create_dir(&at).unwrap();
        nix::mount::mount(Some(&from), at.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
}
