//! The record of a volume: whose it is, how it was published, and what healing has to know of its source.
//!
//! When a source dies and is unmounted, the kernel forgets which directory a volume was taken from: the mount names a
//! file system that nobody else has any more. So a publish keeps it (`engine::record` says where).

mod written;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use allowlist::names::{AbsPath, EntryName, PodIdentity, SubPath, User, VolumeKind};
use mounts::mountinfo::Mount;
use mounts::propagation::MountPropagation;
use mounts::{DirId, MountAttrs};

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
    /// Who uses it.
    pub user: User,
    /// What was asked for.
    pub asked: Asked,
}

impl Owner {
    /// How the pod has the volume, as far as its id tells: the kubelet calls one that is written in the pod `csi-` and a hash
    /// (pkg/volume/csi/csi_mounter.go, `makeVolumeHandle`).
    #[must_use]
    pub fn kind(&self) -> VolumeKind {
        let hash = self.volume_id.as_deref().and_then(|id| id.strip_prefix("csi-"));
        match hash {
            Some(hash) if hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => VolumeKind::Inline,
            _ => VolumeKind::ClaimOrGenericEphemeral,
        }
    }
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
    /// Another pod.
    #[error("for the pod {found}")]
    Pod {
        /// That of what is there.
        found: Arc<PodIdentity>,
    },
    /// Somebody else, whom the front-end names.
    #[error("for {found:?}")]
    User {
        /// That of what is there.
        found: Arc<str>,
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
pub struct Record {
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
    /// The id of the mount that the source lay on ([`mounts::MountFacts::id`]).
    pub source_mount: u64,
    /// What was mounted on the way to the source when it was last seen well; none until that was looked at, and where
    /// it is too much to be kept.
    pub path_mounts: Option<Arc<PathMounts>>,
    /// When healing has replaced the mount at the target, in seconds since 1970: containers that were started before have
    /// the one that was there, and get this one when they are started again.
    pub renewed: Option<u64>,
    /// The directories that it has shown before healing gave it others. Containers that run may still have them, open or mounted.
    pub left: Vec<DirId>,
    /// Whether its pod has a user namespace of its own, for which not every source can be mapped.
    pub user_namespace: bool,
}

/// What was mounted at a source's path and on the directories above it, when the source was well. All but the uppermost
/// may come to light when something is unmounted there, and must never be given to anybody for that.
///
/// Kept are hashes: two that are the same make something new look old, which is then not given. So what counts is that
/// equal things have equal hashes, in each version of the program.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathMounts {
    /// The id of the mount that the path led to.
    pub top: u64,
    /// The greatest id of all mounts then; 0 where the kernel reuses ids, so that they tell nothing (before Linux 6.8).
    pub newest: u64,
    /// Of the others, what [`hash`](Self::hash) makes of each; sorted, each once.
    pub beneath: Vec<u32>,
}

impl PathMounts {
    /// The most that are kept: ext4 has 4 KiB for all attributes of a directory (ext4(5)).
    pub const MAX: usize = 64;

    /// Of the file system's device and the directory of it that a mount shows. FNV-1a, folded.
    #[must_use]
    pub fn hash(device: (u32, u32), root: &Path) -> u32 {
        let numbers = [device.0, device.1].into_iter().flat_map(u32::to_le_bytes);
        let all = numbers.chain(root.as_os_str().as_encoded_bytes().iter().copied());
        let hash =
            all.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
        u32::from_le_bytes([a ^ e, b ^ f, c ^ g, d ^ h])
    }

    /// Whether a mount may be given to the volume: it was made since, or is the very one that the path led to then. Device and
    /// root must say so, and its id where ids are not reused.
    #[must_use]
    pub fn may_be_given(&self, id: u64, device: (u32, u32), root: &Path) -> bool {
        self.beneath.binary_search(&Self::hash(device, root)).is_err()
            && (self.newest == 0 || id > self.newest || id == self.top)
    }

    /// Whether the same is mounted there.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        self.top == other.top && self.beneath == other.beneath
    }
}

/// A directory as mount tables name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shown {
    /// Major and minor number of its file system.
    pub device: (u32, u32),
    /// Its path there.
    pub root: PathBuf,
}

impl Shown {
    /// What a mount shows.
    #[must_use]
    pub fn by(mount: &Mount) -> Self {
        Self { device: mount.device, root: mount.root.clone() }
    }
}

impl Record {
    /// How many directories are kept of [`Record::left`]. A volume whose directory was replaced so often is not given another.
    pub const LEFT_MAX: usize = 16;

    /// Where the source is.
    #[must_use]
    pub fn full_path(&self) -> PathBuf {
        self.path.with(self.sub_path.as_ref())
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
        match (&was.user, &owner.user) {
            // Who isn't said can't differ.
            (User::Unknown, _) | (_, User::Unknown) => {}
            (User::Pod(found), User::Pod(asked))
                if (&found.namespace, &found.name, &found.uid) == (&asked.namespace, &asked.name, &asked.uid) => {}
            (User::Pod(found), _) => return Err(Argument::Pod { found: Arc::clone(found) }),
            (User::Named(found), User::Named(asked)) if found == asked => {}
            (User::Named(found), _) => return Err(Argument::User { found: Arc::clone(found) }),
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

    /// What volumes of many pods have in common: the record without what differs between those that were published the same
    /// way.
    #[must_use]
    pub fn in_common(mut self) -> Self {
        self.owner.user = User::Unknown;
        self.owner.volume_id = None;
        self.source_mount = 0;
        self.path_mounts = None;
        self.renewed = None;
        self.left = Vec::new();
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::record;

    #[test]
    fn a_record_survives_being_written() {
        let all = Record {
            owner: Owner {
                user: User::Pod(Arc::new(PodIdentity {
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
                ..record().owner
            },
            sub_path: Some(SubPath::parse("a/\"b").unwrap()),
            propagation: MountPropagation::Bidirectional,
            path_mounts: Some(Arc::new(PathMounts { top: u64::MAX, newest: 7, beneath: vec![0, 0xfff, u32::MAX] })),
            renewed: Some(1_800_000_000),
            left: vec![DirId { device: (8, 1), inode: u64::MAX }],
            user_namespace: true,
            ..record()
        };
        for record in [record(), all] {
            assert_eq!(Record::parse(&record.encode()), Some(record));
        }
    }

    #[test]
    fn a_repeated_publish_is_told_by_its_arguments_whatever_was_granted() {
        let asked = Asked { propagation: None, read_only: true, ..Asked::default() };
        let owner = Owner { volume_id: Some("csi-0".into()), asked, ..record().owner };
        let sub_path = SubPath::parse("a").ok();
        let there = Record { owner: owner.clone(), sub_path: sub_path.clone(), ..record() };
        let of = |there: &Record, owner: &Owner| there.is_repeated_by(owner, sub_path.as_ref());
        assert_eq!(of(&there, &owner), Ok(()));
        let granted = Record {
            path: AbsPath::parse("/elsewhere").unwrap(),
            propagation: MountPropagation::None,
            attrs: MountAttrs::default(),
            ..there.clone()
        };
        assert_eq!(of(&granted, &owner), Ok(()));
        let flags = MountAttrs { noexec: true, ..MountAttrs::default() };
        assert_eq!(of(&there, &Owner { asked: Asked { attrs: flags, ..asked }, ..owner.clone() }), Ok(()));
        let without_id = Record { owner: Owner { volume_id: None, ..owner.clone() }, ..there.clone() };
        assert_eq!(of(&without_id, &owner), Ok(()));

        let other = |owner: Owner| of(&there, &owner).unwrap_err();
        let volume_id = Some("csi-1".into());
        assert!(matches!(other(Owner { volume_id, ..owner.clone() }), Argument::VolumeId { .. }));
        let pod = |uid: &str| {
            let (namespace, name, account) = ("ml".to_owned(), "p".to_owned(), "default".to_owned());
            User::Pod(Arc::new(PodIdentity { namespace, name, uid: uid.to_owned(), service_account: account }))
        };
        let of_pod = Record { owner: Owner { user: pod("u"), ..owner.clone() }, ..there.clone() };
        assert_eq!(of(&of_pod, &Owner { user: pod("u"), ..owner.clone() }), Ok(()));
        let claimed = Owner { user: pod("v"), ..owner.clone() };
        assert!(matches!(of(&of_pod, &claimed), Err(Argument::Pod { .. })), "nobody else's call is a repetition");
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
    fn as_much_as_is_kept_of_the_way_to_a_source_fits_beside_the_rest() {
        let full = PathMounts { top: u64::MAX, newest: u64::MAX, beneath: vec![u32::MAX; PathMounts::MAX] };
        let full = Record { path_mounts: Some(Arc::new(full)), ..record() };
        assert!(full.encode().len() < 1200, "{}", full.encode().len());
    }

    /// Computed apart from the program.
    const HASH: u32 = 0x0bb7_665f;

    #[test]
    fn what_a_mount_shows_has_the_hash_that_earlier_versions_have_recorded() {
        assert_eq!(PathMounts::hash((8, 17), Path::new("/srv/data")), HASH);
        assert_ne!(PathMounts::hash((8, 18), Path::new("/srv/data")), HASH);
        assert_ne!(PathMounts::hash((8, 17), Path::new("/srv/dat")), HASH);
    }

    #[test]
    fn a_mount_is_given_only_if_what_it_shows_and_its_id_both_say_so() {
        let root = Path::new("/");
        let noted = PathMounts { top: 5, newest: 9, beneath: vec![PathMounts::hash((0, 7), root)] };
        assert!(noted.may_be_given(10, (0, 8), root));
        assert!(!noted.may_be_given(10, (0, 7), root), "it lay beneath");
        assert!(!noted.may_be_given(9, (0, 8), root), "it was mounted somewhere");
        assert!(noted.may_be_given(5, (0, 8), root), "the volume had it, and lost it with a peer that was unpublished");
        let reused = PathMounts { newest: 0, ..noted };
        assert!(reused.may_be_given(3, (0, 8), root) && !reused.may_be_given(3, (0, 7), root));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::parse(&bytes);
        }
    }
}
