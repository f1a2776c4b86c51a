//! The only maker of gRPC statuses: one exhaustive match from what went wrong to the code that CSI wants for it.
//!
//! The codes are CSI's ("Error Scheme" and the tables of each call). Where those are silent: a source that is dead
//! or hangs is a state of the node that passes, UNAVAILABLE or DEADLINE_EXCEEDED, which the kubelet retries; what the
//! node has run out of is RESOURCE_EXHAUSTED, whichever call it was that met it; a source or target that an
//! administrator has to change is FAILED_PRECONDITION.

use tonic::{Code, Status};

use super::request::BadRequest;
use crate::apply::Failed;
use crate::author::{AuthorText, ForAuthor, author};
use crate::gate::Busy;
use crate::lookup::LookupError;
use crate::make_source::NotMade;
use crate::mount_error::MountError;
use crate::policy::Denied;
use crate::shortage::is_shortage;
use crate::sys::Errno;
use crate::threads::NoResult;

/// Everything that can go wrong in a call. Its own text is for the administrator; the pod's author reads that of [`ForAuthor`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The message.
    #[error(transparent)]
    Request(#[from] BadRequest),
    /// The allow-list says no.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Another call is under way.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The mount thread gave no answer.
    #[error(transparent)]
    NoResult(#[from] NoResult),
    /// The mounts.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// It isn't known what the pod wants.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// No allow-list could be read yet.
    #[error("no allow-list is in force: {0}")]
    NoConfiguration(String),
    /// The caller's mount namespace can't be found.
    #[error("{0}")]
    Caller(String),
}

/// The code for an error.
#[must_use]
pub const fn code(error: &CallError) -> Code {
    match error {
        CallError::Request(bad) => match bad {
            BadRequest::Missing(_)
            | BadRequest::Name { .. }
            | BadRequest::Path { .. }
            | BadRequest::Value { .. }
            | BadRequest::Block
            | BadRequest::UnknownAttribute { .. }
            | BadRequest::PodUid { .. } => Code::InvalidArgument,
            BadRequest::NotStaged => Code::FailedPrecondition,
        },
        CallError::Denied(denied) => match denied {
            Denied::UnknownEntry { .. } => Code::NotFound,
            Denied::NotPermitted { .. } => Code::PermissionDenied,
            Denied::SubPathsOff { .. }
            | Denied::AboveCeiling { .. }
            | Denied::UserNamespacePropagation { .. }
            | Denied::ReadOnlyPropagation { .. }
            | Denied::PodNotReadOnly { .. } => Code::FailedPrecondition,
        },
        CallError::Busy(_) => Code::Aborted,
        CallError::NoResult(none) => match none {
            NoResult::Deadline { .. } => Code::DeadlineExceeded,
            NoResult::Stuck { .. } => Code::Aborted,
            NoResult::Exhausted { .. } => Code::ResourceExhausted,
            NoResult::NoThread(errno) if matches!(errno, Errno::EAGAIN) || is_shortage(*errno) => {
                Code::ResourceExhausted
            }
            NoResult::NoThread(_) => Code::Unavailable,
            NoResult::Lost => Code::Internal,
        },
        CallError::Mount(mount) => match mount {
            MountError::SourceMissing { .. } | MountError::NotPublished { .. } => Code::NotFound,
            MountError::SourceSymlink { .. }
            | MountError::SourceNotDirectory { .. }
            | MountError::SourcePrivate { .. }
            | MountError::SourceUnbindable { .. }
            | MountError::SourceNotMappable(_)
            | MountError::TargetParentMissing { .. }
            | MountError::TargetSymlink { .. }
            | MountError::TargetNotDirectory { .. }
            | MountError::TargetNotEmpty { .. }
            | MountError::SecondWriter { .. } => Code::FailedPrecondition,
            MountError::SourceNotMade { why: NotMade::Busy, .. } => Code::Aborted,
            MountError::SourceNotMade { .. } => Code::FailedPrecondition,
            MountError::TargetDiffers { .. } | MountError::OtherArguments { .. } => Code::AlreadyExists,
            MountError::SourceDead { .. } | MountError::VolumeDead { .. } => Code::Unavailable,
            MountError::TooManyMounts { .. } => Code::ResourceExhausted,
            MountError::Source { errno, .. }
            | MountError::Target { errno, .. }
            | MountError::KubeletDir { errno, .. }
            | MountError::Workshop { errno, .. }
            // One that couldn't be taken back is more than a shortage.
            | MountError::Step { failed: Failed { errno, undo: Ok(()), .. } }
                if is_shortage(*errno) =>
            {
                Code::ResourceExhausted
            }
            MountError::Cancelled => Code::DeadlineExceeded,
            MountError::Source { .. }
            | MountError::Target { .. }
            | MountError::KubeletDir { .. }
            | MountError::Workshop { .. }
            | MountError::Step { .. }
            | MountError::Drift { .. } => Code::Internal,
        },
        CallError::Lookup(lookup) => match lookup {
            LookupError::NotAPodVolume { .. } => Code::InvalidArgument,
            LookupError::NoPodInfo => Code::FailedPrecondition,
            LookupError::OtherPod { .. } | LookupError::OtherAccount { .. } => Code::PermissionDenied,
            LookupError::PodUnseen { .. } | LookupError::NoVolume { .. } | LookupError::PersistentVolume { .. } => {
                Code::Unavailable
            }
        },
        CallError::NoConfiguration(_) => Code::Unavailable,
        CallError::Caller(_) => Code::FailedPrecondition,
    }
}

/// The status for an error: its code, and as its message what the pod's author reads in the pod's events; behind that, in
/// parentheses, `about`: which volume it is of, and where the administrator finds more.
#[must_use]
pub fn status(error: &CallError, about: &AuthorText) -> Status {
    Status::new(code(error), String::from(author![error.for_author(), " (", *about, ")"]))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::plan::{Origin, Place, Step};

    fn step(errno: Errno, undo: Result<(), (Step, Errno)>) -> CallError {
        MountError::Step { failed: Failed { step: Step::Bind(Origin::Source), errno, undo } }.into()
    }

    #[test]
    fn what_has_run_out_is_told_as_that_wherever_it_was_met() {
        let path = || PathBuf::from("/x");
        for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE] {
            let met = [
                MountError::Source { path: path(), errno }.into(),
                MountError::Target { path: path(), errno }.into(),
                MountError::KubeletDir { path: path(), errno }.into(),
                MountError::Workshop { path: path(), errno }.into(),
                step(errno, Ok(())),
                CallError::NoResult(NoResult::NoThread(errno)),
            ];
            for error in met {
                assert_eq!(code(&error), Code::ResourceExhausted, "{error}");
                assert!(error.to_string().contains(crate::shortage::advice(errno)), "{error}");
            }
            let left = step(errno, Err((Step::Detach(Place::Slot), Errno::EBUSY)));
            assert_eq!(code(&left), Code::Internal, "{left}");
        }
        assert_eq!(code(&CallError::NoResult(NoResult::NoThread(Errno::EAGAIN))), Code::ResourceExhausted);
        assert_eq!(code(&CallError::NoResult(NoResult::NoThread(Errno::EPERM))), Code::Unavailable);
        assert_eq!(code(&MountError::Source { path: path(), errno: Errno::EACCES }.into()), Code::Internal);
    }
}
