//! A published volume, as plain data and as the JSON that users get (docs/volumes.md).

use std::collections::BTreeMap;

use mounts::mountinfo::Mount;
use plan::healing::{Change, Verdict};
use serde::{Deserialize, Serialize};
use service::containers::judge::Flag;
use service::source_health::SourceHealth;

/// A volume that is published on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PublishedVolume {
    /// Its name in the target path: the volume's name in the pod, or the name of the `PersistentVolume` of a claim.
    pub name: String,
    /// The CSI driver.
    pub driver: String,
    /// Where it is mounted on the node: the target path.
    pub mountpoint: String,
    /// Always `local`: it is this node's.
    pub scope: String,
    /// When it was published (RFC 3339, UTC): the birth time of the directory that the kubelet made for it. Null if the file
    /// system stores no birth times.
    pub created_at: Option<String>,
    /// Its pod.
    pub pod: Pod,
    /// Whether it is in the pod's specification (`Inline`) or from a claim (`Persistent`), according to the kubelet.
    pub kind: Option<Kind>,
    /// The entry of the allow-list.
    pub entry: Option<String>,
    /// The entry's directory, when the volume was published.
    pub entry_path: Option<String>,
    /// The directory beneath it.
    pub sub_path: Option<String>,
    /// The source: the directory of the node that was bound.
    pub source: Option<String>,
    /// What crosses: `None`, `HostToContainer` or `Bidirectional`.
    pub propagation: Option<String>,
    /// The equivalent options of `docker volume create --opt`: `type`, `device` and `o`.
    pub options: BTreeMap<String, String>,
    /// Whether the plugin's record was found beside it. Without a record some fields are null, and the volume is not healed.
    pub noted: bool,
    /// Whether the plugin has noted since what is mounted on the way to the source: before it has, healing gives the volume
    /// nothing that is on another mount.
    pub path_mounts_noted: bool,
    /// What is mounted at the target, the lowest first: the published mount, and what healing has put on it.
    pub layers: Vec<Layer>,
    /// The health of the volume.
    pub health: Health,
    /// The health of the source; only from `inspect`.
    pub source_health: Option<Health>,
    /// Whether the volume shows the directory that is at the source's path now. Null without a record.
    pub shows: Option<Shows>,
    /// When healing last replaced what is mounted at the target (RFC 3339, UTC): containers that were started before have
    /// what was there then, and must be restarted to see this. Null if it never did.
    pub renewed_at: Option<String>,
    /// Whether it would be healed; only `inspect` knows, if told the allow-list.
    pub healing: Option<Healing>,
    /// Where running containers have it; only `inspect` looks. At most 256 for each volume.
    pub containers: Option<Vec<InContainer>>,
    /// Why some containers could not be looked into; null if all were.
    pub containers_unknown: Option<String>,
}

/// A mount of a volume in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InContainer {
    /// The container's name in its pod; null where the kubelet's files in it don't tell. What isn't printable is escaped, as
    /// in the path.
    pub name: Option<String>,
    /// One of its processes, by its number on the node.
    #[serde(rename = "PID")]
    pub pid: i32,
    /// Where the volume is mounted in it.
    pub path: String,
    /// The flags that the mount has there, of those that an entry can say.
    pub flags: Vec<Flag>,
    /// Those that it should have, and that nothing else in the container makes up for.
    pub missing: Vec<Missing>,
}

/// A flag that a volume lacks in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Missing {
    /// The flag.
    pub flag: Flag,
    /// The setting of the Pod that would have the same effect.
    pub advice: String,
}

/// The pod of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pod {
    /// Its uid.
    #[serde(rename = "UID")]
    pub uid: String,
    /// Its namespace; null if it wasn't noted.
    pub namespace: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The service account that it runs as.
    pub service_account: Option<String>,
}

/// How a pod gets a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// From the pod's specification.
    Inline,
    /// Through a claim and a `PersistentVolume`.
    Persistent,
}

/// One mount at a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Layer {
    /// Its id in mountinfo.
    #[serde(rename = "ID")]
    pub id: u64,
    /// Its peer group (`shared:N`); null if it is not shared.
    pub peer_group: Option<u64>,
    /// The peer group that it receives mounts from (`master:N`); null if it is no slave.
    pub master: Option<u64>,
    /// The file system's type.
    #[serde(rename = "FSType")]
    pub fs_type: String,
    /// Major and minor number of the file system's device.
    pub device: String,
    /// The directory of the file system that it shows; what is no UTF-8 is replaced.
    pub root: String,
    /// Whether that directory was deleted.
    pub deleted: bool,
    /// Per-mount options.
    pub options: String,
}

impl From<&Mount> for Layer {
    fn from(mount: &Mount) -> Self {
        Self {
            id: mount.id,
            peer_group: mount.propagation.peer_group,
            master: mount.propagation.master,
            fs_type: mount.fs_type.clone(),
            device: format!("{}:{}", mount.device.0, mount.device.1),
            root: mount.root.to_string_lossy().into_owned(),
            deleted: mount.root_deleted,
            options: mount.options.clone(),
        }
    }
}

/// The health of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// The health in one word.
    pub status: State,
    /// What to do, or why it isn't known.
    pub message: String,
}

/// The health of a directory, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It answers.
    Live,
    /// The server of its file system is gone.
    Dead,
    /// It did not answer in time.
    Hung,
    /// It was deleted, or isn't there.
    Deleted,
    /// It could not be asked.
    Unknown,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Live, Self::Dead, Self::Hung, Self::Deleted, Self::Unknown];

    /// The word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "Live",
            Self::Dead => "Dead",
            Self::Hung => "Hung",
            Self::Deleted => "Deleted",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<SourceHealth> for Health {
    fn from(health: SourceHealth) -> Self {
        let status = match health {
            SourceHealth::Live => return Self { status: State::Live, message: String::new() },
            SourceHealth::Dead(_) => State::Dead,
            SourceHealth::Hung => State::Hung,
            SourceHealth::Deleted => State::Deleted,
        };
        Self { status, message: health.message() }
    }
}

impl Health {
    /// It could not be asked.
    #[must_use]
    pub fn unknown(why: impl Into<String>) -> Self {
        Self { status: State::Unknown, message: why.into() }
    }
}

/// Whether a volume shows the directory that is at its source's path now ([`Verdict`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shows {
    /// Yes.
    Source,
    /// No: a file system has since been mounted at or above the source. Healing replaces the volume.
    Stale,
    /// No: another directory has taken the source's place. Healing replaces the volume if only root can have done that.
    Replaced,
    /// No, and the new directory may be unintended, such as the empty directory beneath an unmounted file system.
    Other,
    /// No, but its peers outside of pods show the same. It receives what is mounted over the source.
    PeersElsewhere,
}

impl From<Verdict> for Shows {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Same => Self::Source,
            Verdict::Due(Change::Mounted) => Self::Stale,
            Verdict::Due(Change::Replaced) => Self::Replaced,
            Verdict::Wait => Self::Other,
            Verdict::PeersElsewhere => Self::PeersElsewhere,
        }
    }
}

/// Whether a volume would be healed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healing {
    /// Whether, in one word.
    pub status: Heals,
    /// Why not.
    pub message: String,
}

/// Whether a volume would be healed, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Heals {
    /// Yes.
    On,
    /// No: healing is off for its entry, or it has no record.
    Off,
    /// No: the pod would not be given the volume now, or users other than root may have replaced the source.
    Refused,
}
