//! What healing has to know of a volume, kept where it can't outlive the volume: an extended attribute of its directory.
//!
//! When a source dies and is unmounted, the kernel forgets which directory a volume was taken from: the mount names a
//! file system that nobody else has any more. So a publish notes it on the directory in which the kubelet has had the
//! target made, `…/kubernetes.io~csi/NAME`. The kubelet removes that directory with the volume, and the note goes
//! with it: nothing to clean up, nothing that could say what isn't so.

use std::borrow::Cow;
use std::ffi::CStr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::observe::{self, TargetPlace};
use crate::propagation::MountPropagation;
use crate::site::Site;
use crate::sys::stat::MountAttrs;
use crate::sys::{Errno, path};
use crate::volume::{AbsPath, EntryName, KubeletPath, PodIdentity, SubPath};

/// The attribute: of the user kind, which every file system with attributes has. Only root comes to the directory.
const NAME: &CStr = c"user.hostmount.volume";
/// As long as a note mostly is, in bytes.
const USUAL: usize = 512;
/// The longest one: the paths, and the rest.
const MAX: usize = (3 + GIVEN_MAX) * crate::volume::PATH_MAX;

/// What a publish asked for, whatever was granted: what another call, or another allow-list, is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Asked {
    /// The propagation, where the volume itself says one.
    pub propagation: Option<MountPropagation>,
    /// Whether the volume shall be read-only, whoever says so, except the entry.
    pub read_only: bool,
    /// Whether the Pod's volume says so (NodePublishVolumeRequest.readonly): exactly then runtimes keep it so in containers.
    pub pod_read_only: bool,
    /// The flags that the volume's mount options ask for.
    pub attrs: MountAttrs,
}

/// Whose a volume is, and what was asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The entry.
    pub entry: EntryName,
    /// The volume's id, as the kubelet calls it; none if the volume was published before ids were noted.
    pub volume_id: Option<Arc<str>>,
    /// The pod, where the kubelet tells it.
    pub pod: Option<Arc<PodIdentity>>,
    /// What was asked for.
    pub asked: Asked,
}

/// In which argument a publish differs from the one by which a volume came to its target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Argument {
    /// Another volume.
    #[error("as the volume {found:?}")]
    VolumeId {
        /// That of what is there.
        found: String,
    },
    /// Another entry, or another directory of it.
    #[error("and shows another directory, {}", directory(entry, sub_path.as_ref()))]
    Directory {
        /// The entry of what is there.
        entry: EntryName,
        /// The directory beneath it.
        sub_path: Option<SubPath>,
    },
    /// Another propagation.
    #[error("with the propagation {}, not {}", said(*found), said(*asked))]
    Propagation {
        /// What the volume says now.
        asked: Option<MountPropagation>,
        /// What it said then.
        found: Option<MountPropagation>,
    },
    /// Read-only or not.
    #[error("{}", if *.asked { "read-write, not read-only" } else { "read-only, not read-write" })]
    ReadOnly {
        /// What is asked now.
        asked: bool,
    },
    /// Read-only by the Pod's word, or another's.
    #[error("read-only {} the Pod's volume saying so", if *.asked { "without" } else { "by" })]
    PodReadOnly {
        /// What the Pod's volume says now.
        asked: bool,
    },
}

fn directory(entry: &EntryName, sub_path: Option<&SubPath>) -> String {
    sub_path.map_or_else(|| format!("the entry {entry}"), |sub| format!("{:?} of the entry {entry}", sub.to_string()))
}

fn said(propagation: Option<MountPropagation>) -> &'static str {
    propagation.map_or("that is not said (None, or what the pod asks for)", MountPropagation::name)
}

/// How a volume was published.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Note {
    /// Whose it is.
    pub owner: Owner,
    /// The entry's directory, as it was then.
    pub path: AbsPath,
    /// The directory beneath it.
    pub sub_path: Option<SubPath>,
    /// What crosses.
    pub propagation: MountPropagation,
    /// Its flags.
    pub attrs: MountAttrs,
    /// The id of the mount that the source lay on ([`crate::sys::stat::MountFacts::id`]).
    pub source_mount: u64,
    /// What healing has begun to give to running containers by entering them, until the target has it as well: no mount
    /// table tells where a killed plugin was.
    pub given: Vec<Shown>,
}

/// A directory as mount tables name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shown {
    /// Major and minor number of its file system.
    pub device: (u32, u32),
    /// Its path there.
    pub root: PathBuf,
}

/// A note as it is written, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(borrow)]
    entry: Cow<'a, str>,
    #[serde(borrow)]
    pod: Option<WrittenPod<'a>>,
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
    given: Vec<(u32, u32, Option<String>)>,
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

/// How many are kept of [`Note::given`].
const GIVEN_MAX: usize = 4;

impl Note {
    /// Where the source is.
    #[must_use]
    pub fn full_path(&self) -> PathBuf {
        match &self.sub_path {
            Some(sub) => self.path.as_path().join(sub.as_path()),
            None => self.path.as_path().to_owned(),
        }
    }

    /// Whether a publish asks for the volume that this is of, with the arguments with which it was published
    /// (CSI NodePublishVolume: then it is done). What the entry was, and what was granted, are no arguments.
    ///
    /// # Errors
    /// In which argument it differs.
    pub fn is_repeated_by(&self, owner: &Owner, sub_path: Option<&SubPath>) -> Result<(), Argument> {
        let was = &self.owner;
        if let (Some(found), Some(asked)) = (&was.volume_id, &owner.volume_id)
            && found != asked
        {
            return Err(Argument::VolumeId { found: found.to_string() });
        }
        if (&was.entry, self.sub_path.as_ref()) != (&owner.entry, sub_path) {
            return Err(Argument::Directory { entry: was.entry.clone(), sub_path: self.sub_path.clone() });
        }
        let (found, asked) = (was.asked, owner.asked);
        if found.propagation != asked.propagation {
            return Err(Argument::Propagation { asked: asked.propagation, found: found.propagation });
        }
        if found.read_only != asked.read_only {
            return Err(Argument::ReadOnly { asked: asked.read_only });
        }
        if found.pod_read_only != asked.pod_read_only {
            return Err(Argument::PodReadOnly { asked: asked.pod_read_only });
        }
        Ok(())
    }

    /// The same with one more that was given.
    #[must_use]
    pub fn giving(&self, shown: &Shown) -> Self {
        let mut note = self.clone();
        note.given.retain(|other| other != shown);
        note.given.insert(0, shown.clone());
        note.given.truncate(GIVEN_MAX);
        note
    }

    /// What volumes of many pods have in common: the note without what differs between those that were published the same
    /// way.
    #[must_use]
    pub fn in_common(mut self) -> Self {
        self.owner.pod = None;
        self.owner.volume_id = None;
        self.source_mount = 0;
        self.given = Vec::new();
        self
    }

    fn encode(&self) -> Vec<u8> {
        let MountAttrs { read_only, nosuid, nodev, noexec } = self.attrs;
        let asked = self.owner.asked;
        let written = Written {
            entry: self.owner.entry.as_str().into(),
            pod: self.owner.pod.as_ref().map(|pod| WrittenPod {
                namespace: pod.namespace.as_str().into(),
                name: pod.name.as_str().into(),
                uid: pod.uid.as_str().into(),
                service_account: pod.service_account.as_str().into(),
            }),
            // Those of a note were parsed from text.
            path: self.path.as_path().to_string_lossy(),
            sub_path: self.sub_path.as_ref().map(|path| path.as_path().to_string_lossy()),
            propagation: self.propagation.name().into(),
            read_only,
            nosuid,
            nodev,
            noexec,
            source_mount: self.source_mount,
            given: self.given.iter().map(|s| (s.device.0, s.device.1, s.root.to_str().map(str::to_owned))).collect(),
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

    /// A note as it was written; none if it can't be understood.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let written: Written<'_> = serde_json::from_slice(bytes).ok()?;
        let pod = |pod: WrittenPod<'_>| PodIdentity {
            namespace: pod.namespace.into_owned(),
            name: pod.name.into_owned(),
            uid: pod.uid.into_owned(),
            service_account: pod.service_account.into_owned(),
        };
        let Written { read_only, nosuid, nodev, noexec, source_mount, given, asked, .. } = written;
        Some(Self {
            owner: Owner {
                entry: EntryName::parse(&written.entry).ok()?,
                volume_id: written.volume_id.as_deref().map(Arc::from),
                pod: written.pod.map(pod).map(Arc::new),
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
            given: given
                .into_iter()
                .filter_map(|(major, minor, root)| Some(Shown { device: (major, minor), root: root?.into() }))
                .collect(),
        })
    }

    /// Notes it beside a target. Where that can't be done the volume is good all the same; it can't be healed.
    pub fn write(&self, target: &TargetPlace) {
        if let Err(errno) = path::set_attribute(&target.parent, NAME, &self.encode()) {
            tracing::debug!(%errno, "the kubelet's file system takes no extended attributes: the volume cannot be healed");
        }
    }

    /// Takes it away from beside a target, after a publish that failed. Where that can't be done it is the kubelet's,
    /// which removes the directory, or the next publish's, which notes anew.
    pub fn forget(target: &TargetPlace) {
        if let Err(errno) = path::remove_attribute(&target.parent, NAME) {
            tracing::debug!(%errno, "the note of a volume that is not published stays");
        }
    }

    /// The note of the volume at a target path; none too where that can't be opened, as while it goes away. It asks
    /// nobody but the kubelet's own file system.
    #[must_use]
    pub fn of(site: &Site, path: &KubeletPath) -> Option<Self> {
        Self::read(&observe::open_target(site, path).ok()??).ok()?
    }

    /// The note beside a target; none if it isn't of a volume that is to be healed, or can't be understood.
    ///
    /// # Errors
    /// What getxattr(2) says.
    pub fn read(target: &TargetPlace) -> Result<Option<Self>, Errno> {
        Ok(path::attribute(&target.parent, NAME, MAX)?.as_deref().and_then(Self::parse))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of some volume.
    pub(crate) fn note() -> Note {
        Note {
            owner: Owner {
                entry: EntryName::parse("data").unwrap(),
                volume_id: None,
                pod: None,
                asked: Asked::default(),
            },
            path: AbsPath::parse("/src").unwrap(),
            sub_path: None,
            propagation: MountPropagation::HostToContainer,
            attrs: MountAttrs { nosuid: true, ..MountAttrs::default() },
            source_mount: u64::MAX,
            given: Vec::new(),
        }
    }

    #[test]
    fn a_note_survives_being_written() {
        let all = Note {
            owner: Owner {
                pod: Some(Arc::new(PodIdentity {
                    namespace: "ml".into(),
                    name: "p".into(),
                    uid: "u".into(),
                    service_account: "default".into(),
                })),
                volume_id: Some("csi-0".into()),
                asked: Asked {
                    propagation: Some(MountPropagation::Bidirectional),
                    read_only: true,
                    pod_read_only: true,
                    attrs: MountAttrs { noexec: true, ..MountAttrs::default() },
                },
                ..note().owner
            },
            sub_path: Some(SubPath::parse("a/\"b").unwrap()),
            propagation: MountPropagation::Bidirectional,
            given: vec![Shown { device: (8, 1), root: "/a b".into() }],
            ..note()
        };
        for note in [note(), all] {
            assert_eq!(Note::parse(&note.encode()), Some(note));
        }
    }

    #[test]
    fn a_repeated_publish_is_told_by_its_arguments_whatever_was_granted() {
        let asked = Asked { propagation: None, read_only: true, ..Asked::default() };
        let owner = Owner { volume_id: Some("csi-0".into()), asked, ..note().owner };
        let sub_path = SubPath::parse("a").ok();
        let there = Note { owner: owner.clone(), sub_path: sub_path.clone(), ..note() };
        let of = |there: &Note, owner: &Owner| there.is_repeated_by(owner, sub_path.as_ref());
        assert_eq!(of(&there, &owner), Ok(()));
        let granted = Note {
            path: AbsPath::parse("/elsewhere").unwrap(),
            propagation: MountPropagation::None,
            attrs: MountAttrs::default(),
            ..there.clone()
        };
        assert_eq!(of(&granted, &owner), Ok(()));
        let flags = MountAttrs { noexec: true, ..MountAttrs::default() };
        assert_eq!(of(&there, &Owner { asked: Asked { attrs: flags, ..asked }, ..owner.clone() }), Ok(()));
        let without_id = Note { owner: Owner { volume_id: None, ..owner.clone() }, ..there.clone() };
        assert_eq!(of(&without_id, &owner), Ok(()));

        let other = |owner: Owner| of(&there, &owner).unwrap_err();
        let volume_id = Some("csi-1".into());
        assert!(matches!(other(Owner { volume_id, ..owner.clone() }), Argument::VolumeId { .. }));
        let entry = EntryName::parse("other").unwrap();
        assert!(matches!(other(Owner { entry, ..owner.clone() }), Argument::Directory { .. }));
        assert!(matches!(there.is_repeated_by(&owner, None), Err(Argument::Directory { .. })));
        let propagation = Some(MountPropagation::None);
        let said = Owner { asked: Asked { propagation, ..asked }, ..owner.clone() };
        assert!(matches!(other(said), Argument::Propagation { found: None, .. }));
        let writable = Owner { asked: Asked { read_only: false, ..asked }, ..owner.clone() };
        assert_eq!(other(writable), Argument::ReadOnly { asked: false });
        let by_pod = Owner { asked: Asked { pod_read_only: true, ..asked }, ..owner };
        assert_eq!(other(by_pod), Argument::PodReadOnly { asked: true });
    }

    #[test]
    fn what_was_given_is_kept_once_and_the_latest_first() {
        let shown = |n| Shown { device: (0, n), root: "/".into() };
        let note = [1, 2, 1, 3, 4, 5].into_iter().fold(note(), |note, n| note.giving(&shown(n)));
        assert_eq!(note.given, [5, 4, 3, 1].map(shown));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Note::parse(&bytes);
        }
    }
}
