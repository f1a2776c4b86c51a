//! A record as it is written, as JSON.

use std::borrow::Cow;
use std::sync::Arc;

use allowlist::names::{AbsPath, EntryName, PodIdentity, SubPath, User};
use mounts::{DirId, MountAttrs};
use serde::{Deserialize, Serialize};

use super::{Asked, Owner, PathMounts, Record};

/// As long as a record mostly is, in bytes.
const USUAL: usize = 512;

/// A record as it is written, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(borrow)]
    entry: Cow<'a, str>,
    #[serde(borrow)]
    pod: Option<WrittenPod<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    sub_path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    propagation: Cow<'a, str>,
    read_only: bool,
    nosuid: bool,
    nodev: bool,
    noexec: bool,
    source_mount: u64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    path_mounts: Option<WrittenPathMounts<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renewed: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left: Vec<(u32, u32, u64)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    user_namespace: bool,
    #[serde(borrow, default)]
    volume_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    asked: WrittenAsked<'a>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
struct WrittenAsked<'a> {
    #[serde(borrow)]
    propagation: Option<Cow<'a, str>>,
    read_only: bool,
    pod_read_only: bool,
    nosuid: bool,
    nodev: bool,
    noexec: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenPathMounts<'a> {
    top: u64,
    newest: u64,
    /// Eight hexadecimal digits each.
    #[serde(borrow)]
    beneath: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenPod<'a> {
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    service_account: Cow<'a, str>,
}

impl Record {
    /// The record as it is written.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let MountAttrs { read_only, nosuid, nodev, noexec } = self.attrs;
        let asked = self.owner.asked;
        let written = Written {
            entry: self.owner.entry.as_str().into(),
            pod: self.owner.user.pod().map(|pod| WrittenPod {
                namespace: pod.namespace.as_str().into(),
                name: pod.name.as_str().into(),
                uid: pod.uid.as_str().into(),
                service_account: pod.service_account.as_str().into(),
            }),
            user: match &self.owner.user {
                User::Named(name) => Some(Cow::Borrowed(name)),
                User::Unknown | User::Pod(_) => None,
            },
            // Those of a record were parsed from text.
            path: self.path.as_path().to_string_lossy(),
            sub_path: self.sub_path.as_ref().map(|path| path.as_path().to_string_lossy()),
            propagation: self.propagation.name().into(),
            read_only,
            nosuid,
            nodev,
            noexec,
            source_mount: self.source_mount,
            path_mounts: self.path_mounts.as_ref().map(|mounts| WrittenPathMounts {
                top: mounts.top,
                newest: mounts.newest,
                beneath: mounts.beneath.iter().map(|hash| format!("{hash:08x}")).collect::<String>().into(),
            }),
            renewed: self.renewed,
            left: self.left.iter().map(|DirId { device, inode }| (device.0, device.1, *inode)).collect(),
            user_namespace: self.user_namespace,
            volume_id: self.owner.volume_id.as_deref().map(Cow::Borrowed),
            asked: WrittenAsked {
                propagation: asked.propagation.map(|propagation| propagation.name().into()),
                read_only: asked.read_only,
                pod_read_only: asked.pod_read_only,
                nosuid: asked.attrs.nosuid,
                nodev: asked.attrs.nodev,
                noexec: asked.attrs.noexec,
            },
        };
        let mut text = Vec::with_capacity(USUAL);
        match serde_json::to_writer(&mut text, &written) {
            Ok(()) => text,
            // Text and numbers can be written.
            Err(_) => Vec::new(),
        }
    }

    /// A record as it was written; none if it can't be understood.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let written: Written<'_> = serde_json::from_slice(bytes).ok()?;
        let pod = |pod: WrittenPod<'_>| PodIdentity {
            namespace: pod.namespace.into_owned(),
            name: pod.name.into_owned(),
            uid: pod.uid.into_owned(),
            service_account: pod.service_account.into_owned(),
        };
        let path_mounts = |written: WrittenPathMounts<'_>| {
            let digits = |four: &[u8]| u32::from_str_radix(std::str::from_utf8(four).ok()?, 16).ok();
            let beneath = written.beneath.as_bytes().chunks(8).map(digits).collect::<Option<_>>()?;
            Some(Arc::new(PathMounts { top: written.top, newest: written.newest, beneath }))
        };
        let Written { read_only, nosuid, nodev, noexec, source_mount, renewed, left, user_namespace, asked, .. } =
            written;
        Some(Self {
            owner: Owner {
                entry: EntryName::parse(&written.entry).ok()?,
                volume_id: written.volume_id.as_deref().map(Arc::from),
                user: match (written.pod, written.user) {
                    (Some(of), _) => User::Pod(Arc::new(pod(of))),
                    (None, Some(name)) => User::Named(name.into()),
                    (None, None) => User::Unknown,
                },
                asked: Asked {
                    propagation: asked.propagation.as_deref().map(str::parse).transpose().ok()?,
                    read_only: asked.read_only,
                    pod_read_only: asked.pod_read_only,
                    attrs: MountAttrs {
                        read_only: false,
                        nosuid: asked.nosuid,
                        nodev: asked.nodev,
                        noexec: asked.noexec,
                    },
                },
            },
            path: AbsPath::parse(&written.path).ok()?,
            sub_path: written.sub_path.as_deref().map(SubPath::parse).transpose().ok()?,
            propagation: written.propagation.parse().ok()?,
            attrs: MountAttrs { read_only, nosuid, nodev, noexec },
            source_mount,
            path_mounts: written.path_mounts.and_then(path_mounts),
            renewed,
            left: left.into_iter().map(|(major, minor, inode)| DirId { device: (major, minor), inode }).collect(),
            user_namespace,
        })
    }
}
