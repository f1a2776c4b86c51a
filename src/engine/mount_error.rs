//! Why a mount job failed, in words for the administrator: what was asked, what was found and what to do, with paths
//! and commands of the node. The pod's author reads the texts of `service::refusals`.

use std::path::PathBuf;

use allowlist::author::{AuthorText, author};
use mounts::Errno;
use mounts::propagation::{MountPropagation, PropagationState};
use plan::idmap::NotMappable;
use plan::record::Argument;
use plan::{Difference, Making, Step};
use text::{quoted, visible};

use crate::apply::Failed;
use crate::make_source::NotMade;
use crate::shortage::{self, Full, Room};

/// Why a job failed. `csi::status` turns each into a gRPC status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// The source directory isn't there.
    #[error(
        "the source directory {} does not exist: create it on the node, or set `missing: {{create: {{}}}}` for its entry",
        visible(path)
    )]
    SourceMissing {
        /// Where.
        path: PathBuf,
    },
    /// A symlink is on the way to the source.
    #[error(
        "the source path {} leads over a symlink or out of its entry: symlinks are never followed; name the real path",
        visible(path)
    )]
    SourceSymlink {
        /// Where.
        path: PathBuf,
    },
    /// The source isn't a directory.
    #[error("the source {} is not a directory: only directories can be published", visible(path))]
    SourceNotDirectory {
        /// Where.
        path: PathBuf,
    },
    /// The server of the source's file system is gone.
    #[error(
        "the source {} is dead ({errno}): its file system's server is gone; restart it on the node, the call is then retried",
        visible(path)
    )]
    SourceDead {
        /// Where.
        path: PathBuf,
        /// What the file system said.
        errno: Errno,
    },
    /// The source is missing and couldn't be made as the entry says.
    #[error("the source directory {} does not exist and is not made: {why}", path.display())]
    SourceNotMade {
        /// Where.
        path: PathBuf,
        /// Why not.
        why: NotMade,
    },
    /// The source can't be opened for another reason.
    #[error("the source {} cannot be opened: {errno}{}", visible(path), shortage::advice(*errno))]
    Source {
        /// Where.
        path: PathBuf,
        /// The kernel's error.
        errno: Errno,
    },
    /// The source's mount is private.
    #[error(
        "{asked} was asked for, but the mount that {} lies on is {found}, so no mount can cross: run `findmnt -n -o TARGET -T {} | xargs -d '\\n' mount --make-rshared` on the node, or ask for None",
        visible(path),
        quoted(path)
    )]
    SourcePrivate {
        /// Where.
        path: PathBuf,
        /// The propagation asked for.
        asked: MountPropagation,
        /// The propagation of the mount.
        found: PropagationState,
    },
    /// The source's mount is unbindable.
    #[error(
        "the mount that {} lies on is unbindable: run `findmnt -n -o TARGET -T {} | xargs -d '\\n' mount --make-private` on the node",
        visible(path),
        quoted(path)
    )]
    SourceUnbindable {
        /// Where.
        path: PathBuf,
    },
    /// The pod has a user namespace of its own, and the owners of the source's files can't be mapped into it.
    #[error(transparent)]
    SourceNotMappable(#[from] NotMappable),
    /// The directory of the target is missing.
    #[error(
        "the directory of {} does not exist: the caller has to make it (CSI: NodePublishVolume, target_path)",
        visible(path)
    )]
    TargetParentMissing {
        /// The target.
        path: PathBuf,
    },
    /// A symlink is on the way to the target.
    #[error(
        "the path {} leads over a symlink or out of the kubelet's directory: nothing is mounted or unmounted there",
        visible(path)
    )]
    TargetSymlink {
        /// The target.
        path: PathBuf,
    },
    /// Something that isn't a directory is at the target.
    #[error("{} exists and is not a directory: remove it on the node", visible(path))]
    TargetNotDirectory {
        /// The target.
        path: PathBuf,
    },
    /// The target holds files.
    #[error("{} exists and is not empty: a mount would hide its files; move them away on the node", visible(path))]
    TargetNotEmpty {
        /// The target.
        path: PathBuf,
    },
    /// The target is published already, but differs from the wish.
    #[error("{} is published already, but {}: unpublish it first", visible(path), describe(*difference))]
    TargetDiffers {
        /// The target.
        path: PathBuf,
        /// The difference.
        difference: Difference,
    },
    /// The target is published already, with other arguments.
    #[error("{} is published already, {argument}: unpublish it first", path.display())]
    OtherArguments {
        /// The target.
        path: PathBuf,
        /// The argument that differs.
        argument: Argument,
    },
    /// The target can't be used for another reason.
    #[error("{} cannot be used: {errno}{}", visible(path), shortage::advice(*errno))]
    Target {
        /// The target.
        path: PathBuf,
        /// The kernel's error.
        errno: Errno,
    },
    /// The kubelet's directory can't be opened.
    #[error("the kubelet directory {} cannot be opened in the caller's mount namespace: {errno}{}", visible(path), or_else(*errno, "; set --kubelet-dir to the kubelet's --root-dir"))]
    KubeletDir {
        /// Where.
        path: PathBuf,
        /// The kernel's error.
        errno: Errno,
    },
    /// The staging area can't be set up.
    #[error("the staging area {} cannot be mounted in the caller's mount namespace: {errno}{}", visible(path), or_else(*errno, "; the plugin needs CAP_SYS_ADMIN there"))]
    StagingArea {
        /// Where.
        path: PathBuf,
        /// The kernel's error.
        errno: Errno,
    },
    /// Nothing is mounted where a volume should be.
    #[error("no volume is published at {}", visible(path))]
    NotPublished {
        /// Where.
        path: PathBuf,
    },
    /// A single-writer volume is published elsewhere.
    #[error(
        "the volume allows a single writer and is published at {} already: unpublish it there first",
        visible(other)
    )]
    SecondWriter {
        /// Where.
        other: PathBuf,
    },
    /// A mount namespace is at `fs.mount-max`.
    #[error("{} cannot be mounted: {} ({room}): raise the sysctl fs.mount-max on the node, or have fewer volumes or fewer mounts there", visible(path), full.text())]
    TooManyMounts {
        /// Where the volume was to be mounted.
        path: PathBuf,
        /// Which namespace has no room.
        full: Full,
        /// How many mounts it has, and how many it may have.
        room: Room,
    },
    /// A step failed.
    #[error("{} failed: {}{}{}", name_of(failed.step), failed.errno, shortage::advice(failed.errno), undo_text(failed))]
    Step {
        /// The step, and the result of the undo.
        failed: Failed,
    },
    /// The new mount isn't what was planned.
    #[error("what was mounted at {} is not what was planned: {}; the next try makes it anew", visible(path), describe(*difference))]
    Drift {
        /// The target.
        path: PathBuf,
        /// The difference.
        difference: Difference,
    },
    /// The server of the volume's file system is gone.
    #[error("the volume at {} is dead ({errno}): its file system's server is gone", visible(path))]
    VolumeDead {
        /// Where.
        path: PathBuf,
        /// What the file system said.
        errno: Errno,
    },
    /// Nobody waits any more.
    #[error("the call was given up at its deadline; what it had begun was undone")]
    Cancelled,
}

/// The name of a step, as the beginning of a sentence.
#[must_use]
pub const fn name_of(step: Step) -> &'static str {
    match step {
        Step::MakeTarget => "making the target directory",
        Step::Bind(_) => "binding the source",
        Step::Change(_) => "setting propagation and flags",
        Step::Move | Step::MoveBeneath => "moving the volume to its target",
        Step::UnmountIdle(_) | Step::Detach(_) => "unmounting",
        Step::MakePrivate(_) => "making the volume private before unmounting it",
        Step::Source(Making::Directory) => "making the source directory",
        Step::Source(Making::Mode) => "setting the mode of the source directory",
        Step::Source(Making::Owner) => "setting the owner of the source directory",
        Step::Source(Making::Name) => "giving the source directory its name",
        Step::Source(Making::Remove) => "removing the source directory",
        Step::RemoveTarget => "removing the target directory",
    }
}

/// What to do about a shortage, or else the other text.
const fn or_else(errno: Errno, otherwise: &'static str) -> &'static str {
    if shortage::is_shortage(errno) { shortage::advice(errno) } else { otherwise }
}

fn undo_text(failed: &Failed) -> String {
    match failed.undo {
        Ok(()) => String::new(),
        Err((step, errno)) => format!("; undoing it, {} failed too: {errno}", name_of(step)),
    }
}

/// The difference in words, for administrator and author alike: it says nothing of the node.
#[must_use]
pub fn describe(difference: Difference) -> AuthorText {
    match difference {
        Difference::Directory => author!["it shows another directory"],
        Difference::Relation { wished, found } => author!["with propagation ", found, ", not ", wished],
        Difference::ReadOnly { wished: true } => author!["read-write, not read-only"],
        Difference::ReadOnly { wished: false } => author!["read-only, not read-write"],
        Difference::Attrs { wished, found } => author!["with the flags ", found, ", not ", wished],
        Difference::Missing => author!["nothing is mounted"],
        Difference::Gone => author!["its directory is gone"],
    }
}
