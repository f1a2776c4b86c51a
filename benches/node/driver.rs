//! The driver under measurement: hostmount, started here, or a peer that the caller has started; and its volumes.
//!
//! Both are treated alike: one process, in the mount namespace in which its worker works too, called by the same client
//! for volumes of the same form. A peer's namespace is that of the process that listens on its socket (unix(7),
//! SO_PEERCRED).

use std::collections::HashMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kernel::namespace::{self, Proc};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::client::{Client, ready};
use crate::place::{Place, Role};
use crate::volume::Volume;
use crate::{Outcome, PATIENCE, micros};

/// hostmount's name here.
const DRIVER: &str = "bench.hostmount.dev";

/// Who is measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Subject {
    /// The plugin of this package, by its executable.
    Hostmount(PathBuf),
    /// Another driver.
    Peer(Peer),
}

/// What the command line tells of a peer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// Its socket.
    pub(crate) socket: PathBuf,
    /// What it wants in the volume context.
    pub(crate) context: HashMap<String, String>,
    /// The directory to cover in its mount namespace.
    pub(crate) dir: Option<PathBuf>,
    /// Whether its volumes are made by CreateVolume and staged, instead of being inline volumes of pods.
    pub(crate) create: bool,
    /// Whether it wants its volumes asked for read-only.
    pub(crate) read_only: bool,
}

/// A running driver.
pub(crate) struct Driver {
    subject: Subject,
    /// The socket to call it by.
    pub(crate) socket: PathBuf,
    /// Its process.
    pub(crate) pid: u32,
    plugin: Option<Plugin>,
}

/// Kills the plugin when the worker fails.
struct Plugin(Child);

impl Drop for Plugin {
    fn drop(&mut self) {
        // It has ended already if it was stopped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Plugin {
    fn alive(&mut self) -> Outcome<()> {
        match self.0.try_wait()? {
            Some(status) => Err(format!("the plugin ended early ({status})").into()),
            None => Ok(()),
        }
    }

    /// Asks it to end, so that its workshop is closed as on a real node. The runtime has to turn meanwhile: the
    /// plugin waits until our end of the connection has read that it goes away.
    async fn stop(mut self) -> Outcome<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                return if status.success() { Ok(()) } else { Err(format!("the plugin ended with {status}").into()) };
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err("the plugin does not end on SIGTERM".into())
    }
}

impl Peer {
    /// Moves the calling thread into the mount namespace of the peer; gives its process. To be called before any other
    /// thread is started: those then live there too.
    pub(crate) fn enter(&self) -> Outcome<u32> {
        let what = |e: &dyn std::fmt::Display| format!("the peer at {}: {e}", self.socket.display());
        let stream = UnixStream::connect(&self.socket).map_err(|e| what(&e))?;
        let proc = Proc::new()?;
        let (namespace, pid) = namespace::of_peer(&proc, &stream).map_err(|e| what(&e))?;
        // That of pid 1, and of the kernel's threads, where a container's pid 1 isn't the machine's. Who may look at neither
        // has no rights to enter the machine's own either.
        let machine = [1, 2].map(|pid| proc.mount_namespace(pid).ok().map(|namespace| namespace.inode));
        if machine.contains(&Some(namespace.inode)) {
            return Err(what(
                &"it runs in the machine's own mount namespace, where nothing is mounted for a bench: start \
                it with `unshare --mount --propagation private`",
            )
            .into());
        }
        namespace::enter(&proc, &namespace)
            .map_err(|e| what(&format!("its mount namespace cannot be entered: {e}")))?;
        Ok(u32::try_from(pid)?)
    }
}

impl Driver {
    /// A peer that runs already.
    pub(crate) fn peer(peer: &Peer, pid: u32) -> Self {
        Self { subject: Subject::Peer(peer.clone()), socket: peer.socket.clone(), pid, plugin: None }
    }

    /// Starts hostmount on a node.
    pub(crate) fn hostmount(exe: &Path, place: &Place) -> Outcome<Self> {
        let config = place.file("entries.yaml");
        fs::write(
            &config,
            format!(
                "entries:\n  - name: data\n    path: {}\n    propagation: Bidirectional\n    \
                 allow: [{{namespaces: [\"*\"], serviceAccounts: [\"*\"]}}]\n",
                place.source().display()
            ),
        )?;
        Self::start(exe, place, &config, DRIVER)
    }

    fn start(exe: &Path, place: &Place, config: &Path, name: &str) -> Outcome<Self> {
        let socket = place.kubelet().join("plugins").join(name).join("csi.sock");
        fs::create_dir_all(socket.parent().ok_or("a socket without a directory")?)?;
        let child = Command::new(exe)
            .args(["serve", "--log-level", "warn", "--node-id", "bench", "--driver-name", name])
            .arg("--endpoint")
            .arg(format!("unix://{}", socket.display()))
            .arg("--config")
            .arg(config)
            .arg("--kubelet-dir")
            .arg(place.kubelet())
            .stdin(Stdio::null())
            // Standard output carries the worker's answers.
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { subject: Subject::Hostmount(exe.to_owned()), socket, pid: child.id(), plugin: Some(Plugin(child)) })
    }

    /// How long another of the same takes from its start to its first good Probe, in ms. None of a peer: the caller
    /// starts it.
    pub(crate) fn time_starts(&self, place: &Place, starts: usize) -> Outcome<Vec<f64>> {
        let Subject::Hostmount(exe) = &self.subject else { return Ok(Vec::new()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = place.file("entries.yaml");
        let mut all = Vec::new();
        for number in 0..starts {
            let begin = Instant::now();
            let mut driver = Self::start(exe, place, &config, &format!("start{number}.{DRIVER}"))?;
            let channel = loop {
                if let Some(channel) = runtime.block_on(ready(&driver.socket))? {
                    break channel;
                }
                driver.alive()?;
                std::thread::sleep(Duration::from_micros(200));
            };
            all.push(micros(begin) / 1000.0);
            drop(channel);
            driver.stop(&runtime)?;
        }
        Ok(all)
    }

    /// Fails with the reason if it has ended.
    pub(crate) fn alive(&mut self) -> Outcome<()> {
        self.plugin.as_mut().map_or(Ok(()), Plugin::alive)
    }

    /// Ends it, if it was started here.
    pub(crate) fn stop(self, runtime: &Runtime) -> Outcome<()> {
        self.plugin.map_or(Ok(()), |plugin| runtime.block_on(plugin.stop()))
    }

    /// The size of its executable in bytes.
    pub(crate) fn binary_size(&self) -> Outcome<u64> {
        Ok(fs::metadata(format!("/proc/{}/exe", self.pid))?.len())
    }

    /// A volume by its number, ready to be published: of a pod of its own, whose directories are made.
    pub(crate) fn volume(&self, place: &Place, client: &Client, number: usize) -> Outcome<Volume> {
        let pod = Place::pod(Role::Driver, number);
        let target = text(&place.target_parent(&pod)?.join("mount"));
        match &self.subject {
            Subject::Hostmount(_) => {
                let mut context = Volume::of_pod(&pod, true);
                for (key, value) in [("volume", "data"), ("propagation", "HostToContainer")] {
                    context.insert(key.to_owned(), value.to_owned());
                }
                let id = format!("csi-{pod}");
                Ok(Volume { id, target, staging: String::new(), context, read_only: false })
            }
            Subject::Peer(peer) => {
                let mut context = Volume::of_pod(&pod, !peer.create);
                context.extend(peer.context.clone());
                let id = format!("csi-{pod}");
                let mut volume = Volume { id, target, staging: String::new(), context, read_only: peer.read_only };
                if peer.create {
                    let made = client.create(&volume.id)?;
                    volume.context.extend(made.volume_context);
                    volume.id = made.volume_id;
                    if client.stages()? {
                        volume.staging = text(&place.staging("peer", &volume.id)?);
                        fs::create_dir_all(&volume.staging)?;
                        client.stage(&volume)?;
                    }
                }
                Ok(volume)
            }
        }
    }

    /// Undoes what [`Self::volume`] had the driver do.
    pub(crate) fn discard(&self, client: &Client, volume: &Volume) -> Outcome<()> {
        if !volume.staging.is_empty() {
            client.unstage(volume)?;
        }
        if matches!(&self.subject, Subject::Peer(peer) if peer.create) {
            client.delete(volume)?;
        }
        Ok(())
    }

    /// A volume to stage and unstage, not staged now; none if the driver stages none, or none that it was told to make.
    pub(crate) fn to_stage(&self, place: &Place, client: &Client) -> Outcome<Option<Volume>> {
        if !client.stages()? {
            return Ok(None);
        }
        match &self.subject {
            Subject::Hostmount(_) => Ok(Some(Volume {
                id: "data".to_owned(),
                target: String::new(),
                staging: text(&place.staging(DRIVER, "4f1c")?),
                context: HashMap::new(),
                read_only: false,
            })),
            Subject::Peer(peer) if peer.create => {
                let volume = self.volume(place, client, usize::MAX >> 16)?;
                client.unstage(&volume)?;
                Ok(Some(volume))
            }
            Subject::Peer(_) => Ok(None),
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
