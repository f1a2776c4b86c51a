//! The kubelet of the trial: makes and removes the directories that the kubelet does and calls the plugin over its
//! socket. It runs in the node's mount namespace, which is how the plugin knows where to mount.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use csi::identity_client::IdentityClient;
use csi::node_client::NodeClient;
use csi::volume_capability::access_mode::Mode;
use csi::volume_capability::{AccessMode, AccessType, MountVolume};
use mounts::propagation::MountPropagation;
use text::hex;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};
use wire::csi;

use super::error::{During, TryError};
use super::node::{DRIVER, Node};
use super::scenario::{Viewpoint, entry};
use super::server::{PAUSE, Server};

/// The time-out for the plugin's start.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// The time-out of a call. The real kubelet waits two minutes.
const CALL_WITHIN: Duration = Duration::from_secs(10);

/// A pod's volume.
#[derive(Debug)]
pub struct TrialVolume {
    /// What the pod asks for.
    pub mode: MountPropagation,
    /// Which pod: A's volume is persistent, B's is inline.
    pub pod: Viewpoint,
    id: String,
    uid: String,
    staging: Option<PathBuf>,
    /// The target path.
    pub target: PathBuf,
}

impl TrialVolume {
    /// The volume of a pod that asks for `mode`.
    #[must_use]
    pub fn new(node: &Node, mode: MountPropagation, pod: Viewpoint) -> Self {
        let uid = format!("pod-{}-{}", entry(mode), pod.word());
        let (id, name, staging) = if pod == Viewpoint::PodA {
            let handle = entry(mode);
            (handle.to_owned(), format!("pv-{handle}"), Some(staging_dir(node, handle)))
        } else {
            (format!("csi-{}", hex(uid.as_bytes())), "data".to_owned(), None)
        };
        let target = pod_dir(node, &uid).join("volumes/kubernetes.io~csi").join(name).join("mount");
        Self { mode, pod, id, uid, staging, target }
    }

    /// The pod's name.
    #[must_use]
    pub fn pod_name(&self) -> String {
        format!("{} ({})", self.pod.name(), self.mode)
    }

    fn context(&self) -> HashMap<String, String> {
        let mut context: HashMap<String, String> = [
            ("propagation", self.mode.name()),
            ("csi.storage.k8s.io/pod.name", self.pod.word()),
            ("csi.storage.k8s.io/pod.namespace", "default"),
            ("csi.storage.k8s.io/pod.uid", &self.uid),
            ("csi.storage.k8s.io/serviceAccount.name", "default"),
            ("csi.storage.k8s.io/ephemeral", if self.staging.is_some() { "false" } else { "true" }),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        if self.staging.is_none() {
            context.insert("volume".to_owned(), entry(self.mode).to_owned());
        }
        context
    }

    fn capability(&self) -> csi::VolumeCapability {
        let mode = if self.staging.is_some() { Mode::SingleNodeMultiWriter } else { Mode::SingleNodeWriter };
        csi::VolumeCapability {
            access_mode: Some(AccessMode { mode: mode.into() }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        }
    }
}

fn pod_dir(node: &Node, uid: &str) -> PathBuf {
    node.kubelet_dir().join("pods").join(uid)
}

/// The staging directory. The real kubelet uses a hash of the handle; any unique name will do.
fn staging_dir(node: &Node, handle: &str) -> PathBuf {
    node.kubelet_dir().join("plugins/kubernetes.io/csi").join(DRIVER).join(hex(handle.as_bytes())).join("globalmount")
}

/// The kubelet.
#[derive(Debug)]
pub struct Kubelet {
    runtime: Runtime,
    client: NodeClient<Channel>,
}

impl Kubelet {
    /// Connects to the plugin as soon as it is ready.
    ///
    /// # Errors
    /// [`TryError::Plugin`] if it ends or takes too long.
    pub fn connect(node: &Node, server: &mut Server) -> Result<Self, TryError> {
        let runtime = Builder::new_current_thread().enable_all().build().during(|| "starting a runtime".to_owned())?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", node.socket().display()))
            .map_err(|error| TryError::Plugin(format!("has no usable socket: {error}")))?
            .timeout(CALL_WITHIN);
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(channel) = runtime.block_on(ready(&endpoint)) {
                return Ok(Self { runtime, client: NodeClient::new(channel) });
            }
            server.check_alive()?;
            if Instant::now() > deadline {
                return Err(TryError::Plugin(format!("was not ready within {} s", READY_WITHIN.as_secs())));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Stages the volume if it is a persistent one, and publishes it.
    ///
    /// # Errors
    /// [`TryError::Rpc`] with what the plugin said.
    pub fn publish(&mut self, volume: &TrialVolume) -> Result<(), TryError> {
        if let Some(staging) = &volume.staging {
            make_dirs(staging)?;
            let request = csi::NodeStageVolumeRequest {
                volume_id: volume.id.clone(),
                staging_target_path: text(staging),
                volume_capability: Some(volume.capability()),
                ..Default::default()
            };
            let answer = self.runtime.block_on(self.client.node_stage_volume(request));
            answer.map_err(|status| rpc("NodeStageVolume", volume, status))?;
        }
        if let Some(parent) = volume.target.parent() {
            make_dirs(parent)?;
        }
        let request = csi::NodePublishVolumeRequest {
            volume_id: volume.id.clone(),
            staging_target_path: volume.staging.as_deref().map(text).unwrap_or_default(),
            target_path: text(&volume.target),
            volume_capability: Some(volume.capability()),
            volume_context: volume.context(),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.client.node_publish_volume(request));
        answer.map(drop).map_err(|status| rpc("NodePublishVolume", volume, status))
    }

    /// Unpublishes the volume, and unstages it if it was staged.
    ///
    /// # Errors
    /// [`TryError::Rpc`] with what the plugin said.
    pub fn unpublish(&mut self, volume: &TrialVolume) -> Result<(), TryError> {
        let request =
            csi::NodeUnpublishVolumeRequest { volume_id: volume.id.clone(), target_path: text(&volume.target) };
        let answer = self.runtime.block_on(self.client.node_unpublish_volume(request));
        answer.map_err(|status| rpc("NodeUnpublishVolume", volume, status))?;
        if let Some(staging) = &volume.staging {
            let request =
                csi::NodeUnstageVolumeRequest { volume_id: volume.id.clone(), staging_target_path: text(staging) };
            let answer = self.runtime.block_on(self.client.node_unstage_volume(request));
            answer.map_err(|status| rpc("NodeUnstageVolume", volume, status))?;
        }
        Ok(())
    }

    /// Removes the directories that the kubelet made, if they are empty.
    pub fn tidy(&self, node: &Node, volume: &TrialVolume) {
        remove_empty(volume.target.parent(), &node.kubelet_dir().join("pods"));
        remove_empty(volume.staging.as_deref(), &node.kubelet_dir().join("plugins"));
    }
}

async fn ready(endpoint: &Endpoint) -> Option<Channel> {
    let channel = endpoint.connect().await.ok()?;
    let answer = IdentityClient::new(channel.clone()).probe(csi::ProbeRequest {}).await.ok()?;
    // Absent means ready, says CSI.
    answer.into_inner().ready.unwrap_or(true).then_some(channel)
}

fn rpc(call: &'static str, volume: &TrialVolume, status: tonic::Status) -> TryError {
    TryError::Rpc { call, volume: volume.id.clone(), status: Box::new(status) }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn make_dirs(dir: &Path) -> Result<(), TryError> {
    fs::create_dir_all(dir).during(|| format!("creating {}", dir.display()))
}

fn remove_empty(from: Option<&Path>, up_to: &Path) {
    for dir in from.into_iter().flat_map(Path::ancestors).take_while(|dir| *dir != up_to) {
        if fs::remove_dir(dir).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_directories_are_removed_and_none_above() {
        let top = tempfile::tempdir().unwrap();
        let deep = top.path().join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        fs::write(top.path().join("a/file"), "").unwrap();
        remove_empty(Some(&deep), top.path());
        assert!(!top.path().join("a/b").exists() && top.path().join("a/file").exists());
        fs::remove_file(top.path().join("a/file")).unwrap();
        remove_empty(Some(&top.path().join("a")), top.path());
        assert!(!top.path().join("a").exists() && top.path().exists());
    }
}
