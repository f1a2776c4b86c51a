//! The only place where gRPC statuses are made: one exhaustive match from an error to the code that CSI requires.
//!
//! The codes are CSI's ("Error Scheme" and the tables of each call). Where CSI doesn't name one: A source that is dead
//! or hangs is a temporary state of the node: UNAVAILABLE or DEADLINE_EXCEEDED, which the kubelet retries. Whatever the
//! node has run out of is RESOURCE_EXHAUSTED, in any call. A source or target that an administrator has to change is
//! FAILED_PRECONDITION.
#![expect(clippy::disallowed_methods, reason = "the one place where statuses are made")]

use allowlist::author::{AuthorText, author};
use allowlist::policy::Denied;
use engine::apply::Failed;
use engine::make_source::NotMade;
use engine::mount_error::MountError;
use engine::shortage::is_shortage;
use mounts::Errno;
use pods::lookup::LookupError;
use service::error::Error;
use service::refusals::{ASK, ForAuthor};
use tonic::{Code, Status};
use workers::NoResult;

use super::request::BadRequest;

/// Why a call failed. The error's own text is for the administrator. The pod's author reads that of [`ForAuthor`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The message is invalid.
    #[error(transparent)]
    Request(#[from] BadRequest),
    /// The caller's mount namespace can't be found.
    #[error("{0}")]
    Caller(String),
    /// The use case failed.
    #[error(transparent)]
    Service(#[from] Error),
}

impl ForAuthor for CallError {
    fn for_author(&self) -> AuthorText {
        match self {
            Self::Request(error) => error.for_author(),
            Self::Caller(_) => author!["hostmount cannot tell who has called it: ", ASK],
            Self::Service(error) => error.for_author(),
        }
    }
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
        CallError::Service(error) => code_of(error),
        CallError::Caller(_) => Code::FailedPrecondition,
    }
}

const fn code_of(error: &Error) -> Code {
    match error {
        Error::Denied(denied) => match denied {
            Denied::UnknownEntry { .. } => Code::NotFound,
            Denied::NotPermitted { .. } => Code::PermissionDenied,
            Denied::SubPathsOff { .. }
            | Denied::AboveCeiling { .. }
            | Denied::UserNamespacePropagation { .. }
            | Denied::ReadOnlyPropagation { .. }
            | Denied::PodNotReadOnly { .. } => Code::FailedPrecondition,
        },
        Error::Busy(_) => Code::Aborted,
        Error::NoResult(none) => match none {
            NoResult::Deadline { .. } => Code::DeadlineExceeded,
            NoResult::Stuck { .. } => Code::Aborted,
            NoResult::Exhausted { .. } => Code::ResourceExhausted,
            NoResult::NoThread(errno) if matches!(errno, Errno::EAGAIN) || is_shortage(*errno) => {
                Code::ResourceExhausted
            }
            NoResult::NoThread(_) => Code::Unavailable,
            NoResult::Lost => Code::Internal,
        },
        Error::Mount(mount) => match mount {
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
            | MountError::StagingArea { errno, .. }
            // If the step couldn't be undone, it is more than a shortage.
            | MountError::Step { failed: Failed { errno, undo: Ok(()), .. } }
                if is_shortage(*errno) =>
            {
                Code::ResourceExhausted
            }
            MountError::Cancelled => Code::DeadlineExceeded,
            MountError::Source { .. }
            | MountError::Target { .. }
            | MountError::KubeletDir { .. }
            | MountError::StagingArea { .. }
            | MountError::Step { .. }
            | MountError::Drift { .. } => Code::Internal,
        },
        Error::Lookup(lookup) => match lookup {
            LookupError::NotAPodVolume { .. } => Code::InvalidArgument,
            LookupError::NoPodInfo => Code::FailedPrecondition,
            LookupError::OtherPod { .. } | LookupError::OtherAccount { .. } => Code::PermissionDenied,
            LookupError::PodUnseen { .. } | LookupError::NoVolume { .. } | LookupError::PersistentVolume { .. } => {
                Code::Unavailable
            }
        },
        Error::NoConfiguration(_) => Code::Unavailable,
    }
}

/// A code's name, as in tonic.
#[must_use]
pub const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "Ok",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// The status for an error. Its message is the text for the pod's author, who reads it in the pod's events. `about`
/// follows in parentheses: the volume, and where the administrator finds more.
#[must_use]
pub fn status(error: &CallError, about: &AuthorText) -> Status {
    Status::new(code(error), String::from(author![error.for_author(), " (", *about, ")"]))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use plan::{MountPoint, Origin, Step};

    fn step(errno: Errno, undo: Result<(), (Step, Errno)>) -> Error {
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
                MountError::StagingArea { path: path(), errno }.into(),
                step(errno, Ok(())),
                Error::NoResult(NoResult::NoThread(errno)),
            ];
            for error in met {
                assert_eq!(code_of(&error), Code::ResourceExhausted, "{error}");
                assert!(error.to_string().contains(engine::shortage::advice(errno)), "{error}");
            }
            let left = step(errno, Err((Step::Detach(MountPoint::Slot), Errno::EBUSY)));
            assert_eq!(code_of(&left), Code::Internal, "{left}");
        }
        assert_eq!(code_of(&Error::NoResult(NoResult::NoThread(Errno::EAGAIN))), Code::ResourceExhausted);
        assert_eq!(code_of(&Error::NoResult(NoResult::NoThread(Errno::EPERM))), Code::Unavailable);
        assert_eq!(code_of(&MountError::Source { path: path(), errno: Errno::EACCES }.into()), Code::Internal);
    }
}
