//! A node in namespaces of its own: the kubelet's directory, a source, and the real plugin.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use csi::identity_client::IdentityClient;
use csi::volume_capability::access_mode::Mode;
use csi::volume_capability::{AccessMode, AccessType, MountVolume};
use nix::mount::{MsFlags, mount};
use tonic::transport::{Channel, Endpoint};
use wire::csi;

use crate::{Outcome, ran};

/// Unless `HOSTMOUNT_BENCH_BINARY` names another one, to be compared with.
const PLUGIN: &str = env!("CARGO_BIN_EXE_hostmount");
pub(crate) const DRIVER: &str = "scale.hostmount.dev";
/// How long anything may take before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// A plugin that used no processor for this long has done what it had to.
const QUIET: Duration = Duration::from_millis(800);
/// Directories that exist nearly everywhere and that nothing here needs: one is covered with the node.
const COVERABLE: [&str; 6] = ["/mnt", "/media", "/srv", "/opt", "/tmp", "/home"];
/// Mounts that are there besides the volumes, with room to spare.
const BESIDES: usize = 256;

/// How many volumes of those asked for the kernel's limit lets be published: each is one mount in the kubelet's
/// namespace and one in the plugin's, which receives it, and fs.mount-max holds for each of the two.
pub(crate) fn as_many_as_fit(asked: usize) -> Outcome<usize> {
    let most: usize = fs::read_to_string("/proc/sys/fs/mount-max")?.trim().parse()?;
    let here = fs::read_to_string("/proc/self/mountinfo")?.lines().count();
    let room = most.saturating_sub(here + BESIDES);
    if asked > room {
        eprintln!("{room} volumes, not {asked}: fs.mount-max is {most} for each namespace, of which {here} are used");
    }
    Ok(asked.min(room))
}

/// Kills the plugin when the part fails.
pub(crate) struct Plugin(Child);

impl Plugin {
    pub(crate) fn kill(mut self) -> Outcome<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// A field of `/proc/PID/status` in KiB: VmRSS, VmHWM.
    pub(crate) fn memory(&self, field: &str) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field of status")?;
        Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
    }

    /// What its threads have run, those that have ended too, in µs.
    pub(crate) fn ran(&self) -> Outcome<f64> {
        Ok(ran::by(self.0.id())?.as_secs_f64() * 1e6)
    }

    /// Waits until it is quiet. How long it was busy and how much it ran meanwhile, in µs, since `ran_before`.
    pub(crate) fn until_quiet(&self, since: Instant, ran_before: f64) -> Outcome<(f64, f64)> {
        let (mut last, mut at) = (ran_before, since);
        loop {
            std::thread::sleep(Duration::from_millis(5));
            let now = self.ran()?;
            // Runtimes tick now and then without having anything to do.
            if now - last > 100.0 {
                (last, at) = (now, Instant::now());
            } else if at.elapsed() > QUIET {
                return Ok((at.duration_since(since).as_secs_f64() * 1e6, (now - ran_before).max(0.0)));
            }
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        // It has ended already if it was killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The node.
pub(crate) struct Node {
    pub(crate) root: PathBuf,
}

impl Node {
    pub(crate) fn build() -> Outcome<Self> {
        let root = COVERABLE
            .into_iter()
            .map(PathBuf::from)
            .find(|place| place.is_dir() && !Path::new(PLUGIN).starts_with(place))
            .ok_or("no directory to cover with the node")?;
        let node = Self { root };
        tmpfs(&node.root, MsFlags::MS_SHARED)?;
        for dir in [node.kubelet(), node.source(), node.root.join("elsewhere")] {
            fs::create_dir_all(dir)?;
        }
        // What volumes are taken from is a shared mount of its own, as the root of a node's disk is.
        tmpfs(&node.source(), MsFlags::MS_SHARED)?;
        fs::write(node.root.join("vol_data.json"), format!("{{\"driverName\": \"{DRIVER}\"}}"))?;
        fs::write(
            node.root.join("entries.yaml"),
            format!(
                "entries:\n  - name: data\n    path: {}\n    subPaths: true\n    propagation: Bidirectional\n    \
                 allow: [{{namespaces: [\"*\"], serviceAccounts: [\"*\"]}}]\n",
                node.source().display()
            ),
        )?;
        Ok(node)
    }

    pub(crate) fn kubelet(&self) -> PathBuf {
        self.root.join("kubelet")
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The target of a pod's volume. A pod's uid has 36 characters.
    pub(crate) fn target(&self, pod: usize) -> PathBuf {
        self.kubelet().join(format!("pods/0b0f7a0e-0000-4000-8000-{pod:012}/volumes/kubernetes.io~csi/data/mount"))
    }

    /// What the kubelet does before a publish: it makes the target's parent, and writes whose the volume is.
    pub(crate) fn prepare(&self, pod: usize) -> Outcome<()> {
        let target = self.target(pod);
        let parent = target.parent().ok_or("a target without a parent")?;
        fs::create_dir_all(parent)?;
        match fs::hard_link(self.root.join("vol_data.json"), parent.join("vol_data.json")) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e.into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn publish(&self, pod: usize, attributes: &[(&str, &str)]) -> csi::NodePublishVolumeRequest {
        let uid = format!("0b0f7a0e-0000-4000-8000-{pod:012}");
        let info = [
            ("csi.storage.k8s.io/pod.name", "scale"),
            ("csi.storage.k8s.io/pod.namespace", "default"),
            ("csi.storage.k8s.io/pod.uid", uid.as_str()),
            ("csi.storage.k8s.io/serviceAccount.name", "default"),
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("volume", "data"),
        ];
        let context: HashMap<String, String> =
            info.iter().chain(attributes).map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        csi::NodePublishVolumeRequest {
            volume_id: format!("csi-{pod}"),
            target_path: text(&self.target(pod)),
            volume_capability: Some(csi::VolumeCapability {
                access_mode: Some(AccessMode { mode: Mode::SingleNodeMultiWriter.into() }),
                access_type: Some(AccessType::Mount(MountVolume::default())),
            }),
            volume_context: context,
            ..Default::default()
        }
    }

    pub(crate) fn unpublish(&self, pod: usize) -> csi::NodeUnpublishVolumeRequest {
        csi::NodeUnpublishVolumeRequest { volume_id: format!("csi-{pod}"), target_path: text(&self.target(pod)) }
    }

    fn socket(&self) -> PathBuf {
        self.kubelet().join("plugins").join(DRIVER).join("csi.sock")
    }

    fn log(&self) -> PathBuf {
        self.root.join("plugin.log")
    }

    /// Starts a plugin in a mount namespace of its own, as its container has.
    pub(crate) fn plugin(&self) -> Outcome<Plugin> {
        fs::create_dir_all(self.socket().parent().ok_or("a socket without a directory")?)?;
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "--"])
            .arg(std::env::var_os("HOSTMOUNT_BENCH_BINARY").unwrap_or_else(|| PLUGIN.into()))
            .args(["serve", "--log-level", "warn,hostmount::serve=info", "--node-id", "scale", "--driver-name", DRIVER])
            .args(["--admin-address", "127.0.0.1:0", "--endpoint"])
            .arg(format!("unix://{}", self.socket().display()))
            .arg("--config")
            .arg(self.root.join("entries.yaml"))
            .arg("--kubelet-dir")
            .arg(self.kubelet())
            .stdin(Stdio::null())
            // Standard output carries the figures.
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.log())?)
            .spawn()?;
        Ok(Plugin(child))
    }

    /// A connection to a plugin, as soon as it answers a Probe well.
    pub(crate) async fn connect(&self, plugin: &mut Plugin) -> Outcome<Channel> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket().display()))?.timeout(PATIENCE);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(channel) = endpoint.connect().await
                && let Ok(answer) = IdentityClient::new(channel.clone()).probe(csi::ProbeRequest {}).await
                && answer.into_inner().ready.unwrap_or(true)
            {
                return Ok(channel);
            }
            if let Some(status) = plugin.0.try_wait()? {
                return Err(format!("the plugin ended early ({status}): {}", fs::read_to_string(self.log())?).into());
            }
            if Instant::now() > deadline {
                return Err("the plugin does not get ready".into());
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    /// Reads `/metrics`. How long that took, in µs, and how many volumes it says are published.
    pub(crate) fn scrape(&self) -> Outcome<(f64, u64)> {
        use std::io::{Read, Write};
        let log = fs::read_to_string(self.log())?;
        let address = log.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
        let begin = Instant::now();
        let mut stream = std::net::TcpStream::connect(address.ok_or("the log names no admin address")?)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let took = begin.elapsed().as_secs_f64() * 1e6;
        let line = answer.lines().find_map(|line| line.strip_prefix("hostmount_mounts{at=\"target\"} "));
        Ok((took, line.map_or(Ok(0), |count| count.trim().parse())?))
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

pub(crate) fn tmpfs(at: &Path, propagation: MsFlags) -> Outcome<()> {
    let what = |e| format!("mounting a tmpfs on {}: {e}", at.display());
    // Some directories for each of many pods.
    mount(Some("scale"), at, Some("tmpfs"), MsFlags::empty(), Some("mode=0755,nr_inodes=0")).map_err(what)?;
    mount(None::<&str>, at, None::<&str>, propagation, None::<&str>).map_err(what)?;
    Ok(())
}
