//! What a publish and an unpublish cost, beside the same system calls made directly, and beside their targets.
//!
//! `cargo bench` starts two workers, each in a user and mount namespace of its own (so no privilege is needed and
//! nothing is left behind): one with few mounts, one with many. A worker starts the real `hostmount serve` in a
//! further mount namespace and measures one round at a time; the two take turns, and within a round so do the
//! direct calls, the empty round trip and the plugin, so that a busy machine slows all of them alike.
//!
//! `cargo bench -- --json` prints one JSON object. No figure fails the run; only what does not work does.
#![allow(clippy::disallowed_methods, reason = "plays the kubelet and builds trees, in namespaces of its own")]

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hostmount::propagation::PropagationKind;
use hostmount::site::Site;
use hostmount::sys::calls::Calls;
use hostmount::sys::mount::{self as sys_mount, Change, Unmount};
use hostmount::sys::namespace::{self, Proc};
use hostmount::sys::path;
use hostmount::sys::stat::MountAttrs;
use hostmount::volume::AbsPath;
use hostmount::wire::csi;
use hostmount::workshop::Workshop;
use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use csi::identity_client::IdentityClient;
use csi::node_client::NodeClient;
use csi::volume_capability::access_mode::Mode;
use csi::volume_capability::{AccessMode, AccessType, MountVolume};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PLUGIN: &str = env!("CARGO_BIN_EXE_hostmount");
const DRIVER: &str = "bench.hostmount.dev";
/// The first word of a worker's command line.
const WORKER: &str = "--worker";
/// How many times each call is made in a round.
const PER_ROUND: usize = 20;
/// How often the plugin's start is timed.
const STARTS: usize = 20;
/// How long anything may take before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// Directories that exist nearly everywhere and that nothing here needs: a worker covers one with a tmpfs.
const COVERABLE: [&str; 6] = ["/mnt", "/media", "/srv", "/opt", "/tmp", "/home"];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match words.as_slice() {
        [first, mounts, starts] if first == WORKER => work(mounts, starts),
        words => run(words),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("publish bench: {why}");
            ExitCode::FAILURE
        }
    }
}

/// What a worker says once it is ready.
#[derive(Serialize, Deserialize)]
struct Hello {
    mounts: usize,
    idle_kib: u64,
    start_us: Vec<f64>,
}

/// One round of samples in µs.
#[derive(Default, Serialize, Deserialize)]
struct Samples {
    probe: Vec<f64>,
    direct_publish: Vec<f64>,
    direct_unpublish: Vec<f64>,
    publish: Vec<f64>,
    unpublish: Vec<f64>,
    stage: Vec<f64>,
    unstage: Vec<f64>,
    busy_kib: u64,
}

impl Samples {
    fn add(&mut self, round: Self) {
        self.probe.extend(round.probe);
        self.direct_publish.extend(round.direct_publish);
        self.direct_unpublish.extend(round.direct_unpublish);
        self.publish.extend(round.publish);
        self.unpublish.extend(round.unpublish);
        self.stage.extend(round.stage);
        self.unstage.extend(round.unstage);
        self.busy_kib = round.busy_kib;
    }
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

// ---- the parent: two workers that take turns ----

struct Worker {
    child: Child,
    order: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn start(mounts: usize, starts: usize) -> Outcome<Self> {
        let mut child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--propagation", "private", "--"])
            .arg(std::env::current_exe()?)
            .args([WORKER, &mounts.to_string(), &starts.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("unshare (util-linux) cannot be started: {e}"))?;
        let order = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("no pipe to the worker")?);
        Ok(Self { child, order, answers })
    }

    fn answer<T: for<'a> Deserialize<'a>>(&mut self) -> Outcome<T> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(format!("a worker ended early ({})", self.child.wait()?).into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn round(&mut self) -> Outcome<Samples> {
        let mut order = self.order.as_ref().ok_or("the worker was told to end")?;
        order.write_all(b"round\n")?;
        self.answer()
    }

    fn end(mut self) -> Outcome<()> {
        self.order = None;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("a worker failed at its end ({status})").into()) }
    }
}

fn run(words: &[String]) -> Outcome<()> {
    let json = words.iter().any(|word| word == "--json");
    // `cargo test --benches` only wants to know whether it works.
    let full = words.iter().any(|word| word == "--bench");
    let (many, rounds, starts) = if full { (10_000, 100, STARTS) } else { (100, 2, 2) };
    let mut workers = [Worker::start(10, starts)?, Worker::start(many, 0)?];
    let mut hello = Vec::new();
    for worker in &mut workers {
        hello.push(worker.answer::<Hello>()?);
    }
    let mut samples = [Samples::default(), Samples::default()];
    // The first round warms up: threads, workshop, caches.
    for round in 0..=rounds {
        for (worker, samples) in workers.iter_mut().zip(&mut samples) {
            let measured = worker.round()?;
            if round > 0 {
                samples.add(measured);
            }
        }
    }
    for worker in workers {
        worker.end()?;
    }
    let [few_hello, many_hello] = hello.try_into().map_err(|_| "two workers")?;
    let [few, many] = samples;
    let table = table(&few_hello, &many_hello, few, many, fs::metadata(PLUGIN)?.len());
    if json {
        println!("{}", Value::Object(table.iter().map(|row| (row.key.to_owned(), row.json())).collect()));
    } else {
        println!("{rounds} rounds of {PER_ROUND} of each call");
        println!("direct: the same system calls without a plugin; floor: direct and an empty round trip (Probe)\n");
        for row in &table {
            println!("{row}");
        }
    }
    Ok(())
}

/// A line of the result.
struct Row {
    key: &'static str,
    what: &'static str,
    value: f64,
    tail: Option<f64>,
    unit: &'static str,
    target: Option<f64>,
}

impl Row {
    const fn of(key: &'static str, what: &'static str, value: f64, unit: &'static str) -> Self {
        Self { key, what, value, tail: None, unit, target: None }
    }

    const fn at_most(self, target: f64) -> Self {
        Self { target: Some(target), ..self }
    }

    fn json(&self) -> Value {
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        let mut fields = serde_json::Map::new();
        fields.insert("value".to_owned(), json!(round(self.value)));
        fields.insert("unit".to_owned(), json!(self.unit));
        if let Some(tail) = self.tail {
            fields.insert("p99".to_owned(), json!(round(tail)));
        }
        if let Some(target) = self.target {
            fields.insert("target".to_owned(), json!(target));
            fields.insert("met".to_owned(), json!(self.value <= target));
        }
        Value::Object(fields)
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.unit == "us" || self.key.starts_with("mounts") { 0 } else { 2 };
        write!(f, "{:<46} {:>8.digits$} {:<4}", self.what, self.value, self.unit)?;
        if let Some(tail) = self.tail {
            write!(f, " p99 {tail:>7.0} us")?;
        }
        if let Some(target) = self.target {
            let verdict = if self.value <= target { "met" } else { "MISSED" };
            write!(f, " target <= {target} {verdict}")?;
        }
        Ok(())
    }
}

/// The value below which `percent` of the samples lie.
fn quantile(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() * percent / 100).copied().unwrap_or(f64::NAN)
}

fn timed(key: &'static str, what: &'static str, samples: &mut [f64]) -> Row {
    Row { tail: Some(quantile(samples, 99)), ..Row::of(key, what, quantile(samples, 50), "us") }
}

fn mib(bytes: u64) -> f64 {
    // Thousandths of a MiB fit into 32 bits up to 4 TiB.
    f64::from(u32::try_from(bytes * 1000 / (1 << 20)).unwrap_or(u32::MAX)) / 1000.0
}

fn table(few_hello: &Hello, many_hello: &Hello, mut few: Samples, mut many: Samples, size: u64) -> Vec<Row> {
    let mut start = few_hello.start_us.clone();
    let probe = timed("probe", "empty round trip (Probe)", &mut few.probe);
    let direct_publish = timed("directPublish", "publish, direct", &mut few.direct_publish);
    let direct_unpublish = timed("directUnpublish", "unpublish, direct", &mut few.direct_unpublish);
    let publish = timed("publish", "NodePublishVolume", &mut few.publish);
    let unpublish = timed("unpublish", "NodeUnpublishVolume", &mut few.unpublish);
    let many_publish = timed("publishMany", "NodePublishVolume, many mounts", &mut many.publish);
    let many_unpublish = timed("unpublishMany", "NodeUnpublishVolume, many mounts", &mut many.unpublish);
    let many_floor = quantile(&mut many.direct_publish, 50) + quantile(&mut many.direct_unpublish, 50);
    let direct = direct_publish.value + direct_unpublish.value;
    let floor = direct + 2.0 * probe.value;
    let pair = publish.value + unpublish.value;
    let many_pair = many_publish.value + many_unpublish.value;
    let count = |mounts: usize| f64::from(u32::try_from(mounts).unwrap_or(u32::MAX));
    vec![
        Row::of("mountsFew", "mounts in the namespace, few", count(few_hello.mounts), ""),
        Row::of("mountsMany", "mounts in the namespace, many", count(many_hello.mounts), ""),
        probe,
        direct_publish,
        direct_unpublish,
        publish,
        unpublish,
        timed("stage", "NodeStageVolume", &mut few.stage),
        timed("unstage", "NodeUnstageVolume", &mut few.unstage),
        many_publish,
        many_unpublish,
        Row::of("floorPair", "floor of a pair: direct and two round trips", floor, "us"),
        Row::of("pair", "pair: publish and unpublish", pair, "us"),
        Row::of("pairToFloor", "pair : floor", pair / floor, "").at_most(2.0),
        Row::of("manyToFew", "pair with many mounts : with few", many_pair / pair, "").at_most(1.3),
        Row::of("directManyToFew", "direct with many mounts : with few", many_floor / direct, ""),
        Row::of("idleMemory", "resident memory, idle", mib(few_hello.idle_kib * 1024), "MiB").at_most(10.0),
        Row::of("busyMemory", "resident memory, after all rounds", mib(few.busy_kib * 1024), "MiB"),
        Row::of("binarySize", "size of the binary", mib(size), "MiB").at_most(12.0),
        Row::of("start", "start to first good Probe", quantile(&mut start, 50) / 1000.0, "ms").at_most(50.0),
    ]
}

// ---- a worker: a node of its own, with the plugin on it ----

/// Kills the plugin when the worker fails.
struct Plugin(Child);

impl Plugin {
    /// Asks it to end, so that its workshop is closed as on a real node. The runtime has to turn meanwhile: the
    /// plugin waits until our end of the connection has read that it goes away.
    async fn stop(mut self) -> Outcome<()> {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(self.0.id())?),
            nix::sys::signal::Signal::SIGTERM,
        )?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                return if status.success() { Ok(()) } else { Err(format!("the plugin ended with {status}").into()) };
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err("the plugin does not end on SIGTERM".into())
    }

    fn resident_kib(&self) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        // It has ended already if it was stopped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Node {
    root: PathBuf,
}

impl Node {
    fn build() -> Outcome<Self> {
        let root = COVERABLE
            .into_iter()
            .map(PathBuf::from)
            .find(|place| place.is_dir() && !Path::new(PLUGIN).starts_with(place))
            .ok_or("no directory to cover with the node")?;
        let node = Self { root };
        tmpfs(&node.root, MsFlags::MS_SHARED)?;
        for dir in [node.kubelet(), node.source(), node.crowd(), node.target(), node.staging(), node.direct_parent()] {
            fs::create_dir_all(dir)?;
        }
        // What the volume is taken from is a shared mount of its own, as the root of a node's disk is.
        tmpfs(&node.source(), MsFlags::MS_SHARED)?;
        tmpfs(&node.crowd(), MsFlags::MS_PRIVATE)?;
        fs::remove_dir(node.target())?;
        fs::write(
            node.config(),
            format!(
                "entries:\n  - name: data\n    path: {}\n    propagation: Bidirectional\n    \
                 allow: [{{namespaces: [\"*\"], serviceAccounts: [\"*\"]}}]\n",
                node.source().display()
            ),
        )?;
        Ok(node)
    }

    fn kubelet(&self) -> PathBuf {
        self.root.join("kubelet")
    }

    fn source(&self) -> PathBuf {
        self.root.join("srv/data")
    }

    fn crowd(&self) -> PathBuf {
        self.root.join("crowd")
    }

    fn config(&self) -> PathBuf {
        self.root.join("entries.yaml")
    }

    fn target(&self) -> PathBuf {
        self.kubelet().join("pods/0b0f7a0e/volumes/kubernetes.io~csi/data/mount")
    }

    fn staging(&self) -> PathBuf {
        self.kubelet().join("plugins/kubernetes.io/csi").join(DRIVER).join("4f1c/globalmount")
    }

    /// The directory that the direct calls' target lies in, as deep as that of the plugin.
    fn direct_parent(&self) -> PathBuf {
        self.kubelet().join("pods/1c1f8b1f/volumes/kubernetes.io~csi/data")
    }

    /// Mounts that have nothing to do with the volume.
    fn add_crowd(&self, mounts: usize) -> Outcome<()> {
        for number in 0..mounts {
            let dir = self.crowd().join(number.to_string());
            fs::create_dir(&dir)?;
            mount(Some(&dir), &dir, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        }
        Ok(())
    }

    fn socket(&self, driver: &str) -> PathBuf {
        self.kubelet().join("plugins").join(driver).join("csi.sock")
    }

    /// Starts a plugin: in a mount namespace of its own as its container has, or, to time its start, without.
    fn plugin(&self, driver: &str, apart: bool) -> Outcome<Plugin> {
        let socket = self.socket(driver);
        fs::create_dir_all(socket.parent().ok_or("a socket without a directory")?)?;
        let mut command = Command::new(if apart { "unshare" } else { PLUGIN });
        if apart {
            command.args(["--mount", "--propagation", "slave", "--", PLUGIN]);
        }
        command
            .args(["serve", "--log-level", "warn", "--node-id", "bench", "--driver-name", driver])
            .arg("--endpoint")
            .arg(format!("unix://{}", socket.display()))
            .arg("--config")
            .arg(self.config())
            .arg("--kubelet-dir")
            .arg(self.kubelet())
            .stdin(Stdio::null())
            // Standard output carries the worker's answers.
            .stdout(Stdio::null());
        Ok(Plugin(command.spawn()?))
    }

    /// A connection to a plugin, as soon as it answers a Probe well.
    async fn connect(&self, driver: &str, plugin: &mut Plugin) -> Outcome<Channel> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket(driver).display()))?.timeout(PATIENCE);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(channel) = endpoint.connect().await
                && let Ok(answer) = IdentityClient::new(channel.clone()).probe(csi::ProbeRequest {}).await
                && answer.into_inner().ready.unwrap_or(true)
            {
                return Ok(channel);
            }
            if let Some(status) = plugin.0.try_wait()? {
                return Err(format!("the plugin ended early ({status})").into());
            }
            if Instant::now() > deadline {
                return Err("the plugin does not get ready".into());
            }
            sleep(Duration::from_micros(200));
        }
    }

    fn time_start(&self, runtime: &Runtime, number: usize) -> Outcome<f64> {
        let driver = format!("start{number}.{DRIVER}");
        let begin = Instant::now();
        let mut plugin = self.plugin(&driver, false)?;
        let channel = runtime.block_on(self.connect(&driver, &mut plugin))?;
        let took = micros(begin);
        drop(channel);
        runtime.block_on(plugin.stop())?;
        Ok(took)
    }
}

fn tmpfs(at: &Path, propagation: MsFlags) -> Outcome<()> {
    let what = |e| format!("mounting a tmpfs on {}: {e}", at.display());
    mount(Some("bench"), at, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).map_err(what)?;
    mount(None::<&str>, at, None::<&str>, propagation, None::<&str>).map_err(what)?;
    Ok(())
}

fn work(mounts: &str, starts: &str) -> Outcome<()> {
    let (mounts, starts): (usize, usize) = (mounts.parse()?, starts.parse()?);
    let node = Node::build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let start_us = (0..starts).map(|number| node.time_start(&runtime, number)).collect::<Outcome<Vec<f64>>>()?;
    let mut plugin = node.plugin(DRIVER, true)?;
    let channel = runtime.block_on(node.connect(DRIVER, &mut plugin))?;
    let direct = Direct::start(&node)?;
    // After the plugin's start, and private: they are in the kubelet's namespace only.
    node.add_crowd(mounts)?;
    sleep(Duration::from_millis(200));
    let hello = Hello { mounts: count_mounts()?, idle_kib: plugin.resident_kib()?, start_us };
    say(&hello)?;
    for order in std::io::stdin().lines() {
        order?;
        let mut samples = Samples::default();
        direct.round(&mut samples)?;
        runtime.block_on(calls(&node, &channel, &mut samples))?;
        samples.busy_kib = plugin.resident_kib()?;
        say(&samples)?;
    }
    drop(channel);
    drop(direct);
    runtime.block_on(plugin.stop())
}

fn count_mounts() -> Outcome<usize> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().count())
}

fn say(answer: &impl Serialize) -> Outcome<()> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    std::io::stdout().write_all(line.as_bytes())?;
    Ok(())
}

// ---- the plugin's side of a round ----

fn capability(mode: Mode) -> Option<csi::VolumeCapability> {
    Some(csi::VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn publish_request(node: &Node) -> csi::NodePublishVolumeRequest {
    let context: HashMap<String, String> = [
        ("volume", "data"),
        ("propagation", "HostToContainer"),
        ("csi.storage.k8s.io/pod.name", "bench"),
        ("csi.storage.k8s.io/pod.namespace", "default"),
        ("csi.storage.k8s.io/pod.uid", "0b0f7a0e"),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
        ("csi.storage.k8s.io/ephemeral", "true"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    csi::NodePublishVolumeRequest {
        volume_id: "csi-bench".to_owned(),
        target_path: text(&node.target()),
        volume_capability: capability(Mode::SingleNodeWriter),
        volume_context: context,
        ..Default::default()
    }
}

async fn calls(node: &Node, channel: &Channel, samples: &mut Samples) -> Outcome<()> {
    let mut identity = IdentityClient::new(channel.clone());
    let mut client = NodeClient::new(channel.clone());
    let publish = publish_request(node);
    let unpublish =
        csi::NodeUnpublishVolumeRequest { volume_id: publish.volume_id.clone(), target_path: text(&node.target()) };
    let stage = csi::NodeStageVolumeRequest {
        volume_id: "data".to_owned(),
        staging_target_path: text(&node.staging()),
        volume_capability: capability(Mode::SingleNodeMultiWriter),
        ..Default::default()
    };
    let unstage = csi::NodeUnstageVolumeRequest {
        volume_id: stage.volume_id.clone(),
        staging_target_path: stage.staging_target_path.clone(),
    };
    for _ in 0..PER_ROUND {
        let begin = Instant::now();
        identity.probe(csi::ProbeRequest {}).await?;
        samples.probe.push(micros(begin));

        let request = publish.clone();
        let begin = Instant::now();
        client.node_publish_volume(request).await?;
        samples.publish.push(micros(begin));

        let request = unpublish.clone();
        let begin = Instant::now();
        client.node_unpublish_volume(request).await?;
        samples.unpublish.push(micros(begin));

        let request = stage.clone();
        let begin = Instant::now();
        client.node_stage_volume(request).await?;
        samples.stage.push(micros(begin));

        let request = unstage.clone();
        let begin = Instant::now();
        client.node_unstage_volume(request).await?;
        samples.unstage.push(micros(begin));
    }
    Ok(())
}

// ---- the direct calls, on a thread prepared like a mount thread ----

type Pair = (f64, f64);

struct Direct {
    order: SyncSender<()>,
    done: Receiver<Outcome<Vec<Pair>>>,
}

impl Direct {
    fn start(node: &Node) -> Outcome<Self> {
        let (order, orders) = sync_channel::<()>(1);
        let (answer, done) = sync_channel(1);
        let (source, kubelet, parent) = (node.source(), node.kubelet(), node.direct_parent());
        std::thread::spawn(move || {
            let mut floor = DirectCalls::new(&source, &kubelet, &parent);
            for () in orders {
                let pairs = match &mut floor {
                    Ok(floor) => (0..PER_ROUND).map(|_| floor.pair()).collect(),
                    Err(why) => Err(why.to_string().into()),
                };
                if answer.send(pairs).is_err() {
                    break;
                }
            }
        });
        Ok(Self { order, done })
    }

    fn round(&self, samples: &mut Samples) -> Outcome<()> {
        self.order.send(())?;
        for (publish, unpublish) in self.done.recv()?? {
            samples.direct_publish.push(publish);
            samples.direct_unpublish.push(unpublish);
        }
        Ok(())
    }
}

struct DirectCalls {
    site: Site,
    workshop: Workshop,
    root: std::os::fd::OwnedFd,
    kubelet: std::os::fd::OwnedFd,
    source: PathBuf,
    parent: PathBuf,
}

impl DirectCalls {
    fn new(source: &Path, kubelet: &Path, parent: &Path) -> Outcome<Self> {
        let proc = Proc::new()?;
        namespace::enter(&proc, &proc.own_mount_namespace()?)?;
        let kubelet_dir = AbsPath::parse(&text(kubelet)).map_err(|e| format!("{} {e}", kubelet.display()))?;
        let site = Site { proc: Arc::new(proc), calls: Calls::probe(), kubelet_dir };
        let workshop =
            Workshop::open(&site, "direct.hostmount.dev").map_err(|(at, e)| format!("{}: {e}", at.display()))?;
        Ok(Self {
            workshop,
            root: path::open_trusted(Path::new("/"))?,
            kubelet: path::open_trusted(kubelet)?,
            source: source.strip_prefix("/")?.to_owned(),
            parent: parent.strip_prefix(kubelet)?.to_owned(),
            site,
        })
    }

    fn pair(&mut self) -> Outcome<Pair> {
        let calls = self.site.calls;
        let slot = self.workshop.slot(&self.site, 0)?;
        let ground = path::open_child(&slot.parent, &slot.name)?;
        let name = OsStr::new("mount");
        let slave = Change { propagation: Some(PropagationKind::Slave), attrs: MountAttrs::default() };

        let begin = Instant::now();
        let parent = path::open_beneath(calls, &self.kubelet, &self.parent)?;
        let source = path::open_beneath(calls, &self.root, &self.source)?;
        path::make_dir(&parent, name, 0o750)?;
        sys_mount::bind_recursive(&source, &ground)?;
        let copy = path::open_child(&slot.parent, &slot.name)?;
        sys_mount::change(&self.site.proc, calls, &copy, slave, true)?;
        sys_mount::move_to(calls, &copy, path::open_child(&parent, name)?)?;
        drop((copy, source, parent));
        let published = micros(begin);

        let begin = Instant::now();
        let parent = path::open_beneath(calls, &self.kubelet, &self.parent)?;
        sys_mount::unmount(&parent, name, Unmount::IfIdle)?;
        path::remove_dir(&parent, name)?;
        drop(parent);
        Ok((published, micros(begin)))
    }
}
