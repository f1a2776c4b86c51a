//! The texts for the pod's author where a volume could not be mounted.
#![expect(clippy::disallowed_methods, reason = "names of Kubernetes objects that are the author's own")]

use ::mounts::propagation::MountPropagation;
use allowlist::author::{AuthorText, KnownText, author};
use engine::apply::Failed;
use engine::make_source::NotMade;
use engine::mount_error::{MountError, describe, name_of};
use plan::idmap::NotMappable;
use plan::record::Argument;

use super::{ASK, ForAuthor, lacks};

impl ForAuthor for NotMappable {
    fn for_author(&self) -> AuthorText {
        let found = match self {
            Self::FileSystem(fs_type) => {
                author![
                    "which it cannot on the file system ",
                    KnownText::new(fs_type),
                    ": take a directory on another one"
                ]
            }
            Self::Mapped => author!["which are mapped on the node already: take a directory of an ordinary mount"],
            Self::Mounts(count) => author![
                "and other file systems are mounted in the volume's directory (",
                *count,
                " of them), whose files would belong to nobody there (65534): take a directory without mounts in it"
            ],
        };
        author![
            "the pod has hostUsers: false, so its runtime has to map the owners of the volume's files, ",
            found,
            ", or remove hostUsers: false from the pod"
        ]
    }
}

impl ForAuthor for NotMade {
    fn for_author(&self) -> AuthorText {
        match self {
            Self::FileSystem => {
                author!["its file system is not one on which that can be done safely; ", ASK, " to make it"]
            }
            Self::NoBirthTime => author!["its file system keeps no birth times; ", ASK, " to make it"],
            Self::Exchanged => {
                author!["something else was put in its place meanwhile, which was left as it is; ", ASK, " to make it"]
            }
            Self::InTheWay => author!["something else has its temporary name; ", ASK, " to move that away"],
            Self::Busy => author!["another call is making it: the call will be retried"],
        }
    }
}

impl ForAuthor for Argument {
    /// Completes the sentence "the volume is published already, ...".
    fn for_author(&self) -> AuthorText {
        let said = |propagation: Option<MountPropagation>| {
            propagation.map_or("that is not said (None, or what the pod asks for)", MountPropagation::name)
        };
        match self {
            Self::VolumeId { found } => author!["as the volume ", KnownText::new(found)],
            // This author must not learn whose volume it is.
            Self::Pod { found: _ } => author!["for another pod"],
            Self::User { found: _ } => author!["for somebody else"],
            Self::Directory { entry, sub_path: None } => author!["and shows another directory, the entry ", *entry],
            Self::Directory { entry, sub_path: Some(sub_path) } => {
                author!["and shows another directory, ", *sub_path, " of the entry ", *entry]
            }
            Self::Propagation { asked, found } => {
                author!["with the propagation ", said(*found), ", not ", said(*asked)]
            }
            Self::ReadOnly { asked } => {
                author![if *asked { "read-write, not read-only" } else { "read-only, not read-write" }]
            }
            Self::PodReadOnly { asked: true } => author!["read-only without the Pod's volume saying so"],
            Self::PodReadOnly { asked: false } => author!["read-only by the Pod's volume saying so"],
        }
    }
}

impl ForAuthor for MountError {
    fn for_author(&self) -> AuthorText {
        match self {
            Self::SourceMissing { path: _ } => author![
                "the volume's directory does not exist on the node: correct the volume, or ",
                ASK,
                " to create it"
            ],
            Self::SourceSymlink { path: _ } => author![
                "the way to the volume's directory leads over a symlink or out of its entry: symlinks are never followed; name \
                 the real path, or ",
                ASK
            ],
            Self::SourceNotDirectory { path: _ } => {
                author!["what the volume names on the node is not a directory: only directories can be published"]
            }
            Self::SourceDead { path: _, errno } => author![
                "the file system of the volume's directory is dead (",
                *errno,
                "): its server is gone; ",
                ASK,
                " to restart it, the call is then retried"
            ],
            Self::Source { path: _, errno } => {
                author!["the volume's directory cannot be opened: ", *errno, lacks(*errno), "; ", ASK]
            }
            Self::SourcePrivate { path: _, asked, found: _ } => author![
                *asked,
                " was asked for, but the mount that the volume's directory lies on is not shared, so no mount can \
                 cross: ask for None, or ",
                ASK,
                " to make it shared"
            ],
            Self::SourceUnbindable { path: _ } => {
                author!["the mount that the volume's directory lies on is unbindable: ", ASK, " to change that"]
            }
            Self::SourceNotMade { path: _, why } => {
                author!["the volume's directory does not exist on the node and is not made: ", why.for_author()]
            }
            Self::OtherArguments { path: _, argument } => author![
                "the volume is published for this pod already, ",
                argument.for_author(),
                ": it has to be unpublished first"
            ],
            Self::SourceNotMappable(why) => why.for_author(),
            Self::TargetParentMissing { path: _ } => author![
                "the directory in which the volume is to be mounted does not exist: the caller has to make it (CSI: \
                 NodePublishVolume, target_path)"
            ],
            Self::TargetSymlink { path: _ } => author![
                "the kubelet's path of the volume leads over a symlink or out of its directory: nothing is mounted or \
                 unmounted there; ",
                ASK
            ],
            Self::TargetNotDirectory { path: _ } => {
                author!["what stands where the volume is to be mounted is not a directory: ", ASK, " to remove it"]
            }
            Self::TargetNotEmpty { path: _ } => author![
                "where the volume is to be mounted is a directory that is not empty, whose files a mount would hide: ",
                ASK,
                " to move them away"
            ],
            Self::TargetDiffers { path: _, difference } => author![
                "the volume is published for this pod already, but ",
                describe(*difference),
                ": it has to be unpublished first"
            ],
            Self::Target { path: _, errno } => {
                author![
                    "the place where the volume is to be mounted cannot be used: ",
                    *errno,
                    lacks(*errno),
                    "; ",
                    ASK
                ]
            }
            Self::KubeletDir { path: _, errno } => {
                author!["the kubelet's directory cannot be opened: ", *errno, lacks(*errno), "; ", ASK]
            }
            Self::StagingArea { path: _, errno } => {
                author!["hostmount cannot prepare a mount: ", *errno, lacks(*errno), "; ", ASK]
            }
            Self::NotPublished { path: _ } => author!["no volume is published there"],
            Self::SecondWriter { other: _ } => author![
                "the volume allows a single writer and is published at another place of the node already: end the other pod \
                 that has it"
            ],
            Self::TooManyMounts { path: _, full: _, room: _ } => author![
                "the volume cannot be mounted: a mount namespace of the node has as many mounts as it may; ",
                ASK,
                ", or have fewer volumes or fewer mounts in them"
            ],
            Self::Step { failed: Failed { step, errno, undo } } => author![
                name_of(*step),
                " failed: ",
                *errno,
                lacks(*errno),
                match undo {
                    Ok(()) => author!["; "],
                    Err((step, errno)) => author!["; undoing it, ", name_of(*step), " failed too: ", *errno, "; "],
                },
                ASK
            ],
            Self::Drift { path: _, difference } => {
                author![
                    "what was mounted is not what was planned: ",
                    describe(*difference),
                    "; the next try makes it anew"
                ]
            }
            Self::VolumeDead { path: _, errno } => author![
                "the volume is dead (",
                *errno,
                "): the server of its file system is gone; ",
                ASK,
                " to restart it"
            ],
            Self::Cancelled => author!["the call was given up at its deadline; what it had begun was undone"],
        }
    }
}
