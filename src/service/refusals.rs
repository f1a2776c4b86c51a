//! The text of each refusal for the pod's author. There is one exhaustive match for each error, so a new one has to be
//! decided on here.
#![expect(clippy::disallowed_methods, reason = "names of Kubernetes objects that are the author's own")]

mod mounts;

use ::mounts::Errno;
use allowlist::author::{AuthorText, KnownText, author};
use allowlist::names::{BadName, PodIdentity};
use allowlist::policy::{Denied, read_only_advice};
use pods::lookup::LookupError;
use workers::NoResult;
use workers::gate::Busy;

use crate::error::Error;
use crate::source_health::SourceHealth;

/// An error that has a text for the pod's author, besides the one for the administrator.
pub trait ForAuthor {
    /// What happened, what the author can do, and whom to ask.
    fn for_author(&self) -> AuthorText;
}

/// Whom to ask for what only the node's administrator can do.
pub const ASK: &str = "ask the administrator of the node";

impl ForAuthor for Error {
    fn for_author(&self) -> AuthorText {
        match self {
            Self::Denied(error) => error.for_author(),
            Self::Busy(error) => error.for_author(),
            Self::NoResult(error) => error.for_author(),
            Self::Mount(error) => error.for_author(),
            Self::Lookup(error) => error.for_author(),
            Self::NoConfiguration(_) => {
                author![
                    "no allow-list is in force on the node, so it gives no volumes: ",
                    ASK,
                    "; the call is then retried"
                ]
            }
        }
    }
}

impl ForAuthor for BadName {
    /// Completes the sentence "FIELD VALUE ...".
    fn for_author(&self) -> AuthorText {
        match self {
            Self::Empty => author!["is empty"],
            Self::TooLong { len, max } => author!["has ", *len, " bytes, over the limit of ", *max],
            Self::Control(_) => author!["contains a control character"],
            Self::Relative => author!["is not an absolute path"],
            Self::Absolute => author!["is an absolute path, but must be relative to its entry"],
            Self::Component(_) => author![
                "contains an empty component, \"..\" or \".\": write the path out, without doubled or trailing slashes"
            ],
            Self::EntryName => {
                author!["is not an entry name: use a-z, 0-9, '-' and '.', starting and ending with a letter or digit"]
            }
            Self::Outside(_) => author!["is not beneath the kubelet's directory"],
        }
    }
}

fn account(pod: &PodIdentity) -> AuthorText {
    author!["pod ", *pod, " with the service account ", KnownText::new(&pod.service_account)]
}

impl ForAuthor for Denied {
    fn for_author(&self) -> AuthorText {
        match self {
            Self::UnknownEntry { name } => author![
                "the volume names the entry ",
                *name,
                ", which the node's allow-list does not have: correct the \
                 volume, or ",
                ASK,
                " to add an entry of that name"
            ],
            Self::NotPermitted { entry, pod: Some(pod) } => author![
                account(pod),
                " may not use the entry ",
                *entry,
                ": no item of its allow matches; ",
                ASK,
                " to permit it"
            ],
            Self::NotPermitted { entry, pod: None } => author![
                "the request for the entry ",
                *entry,
                " does not say which pod it is for, so nobody can be permitted: ",
                ASK,
                " to set podInfoOnMount: true on the CSIDriver object"
            ],
            Self::SubPathsOff { entry, sub_path } => author![
                "the volume asks for the directory ",
                *sub_path,
                " beneath the entry ",
                *entry,
                ", whose subPaths is false: ask for ",
                *entry,
                " alone, or ",
                ASK,
                " to set subPaths: true on the entry"
            ],
            Self::AboveCeiling { entry, asked, ceiling } => author![
                "the volume asks for the propagation ",
                *asked,
                ", but the entry ",
                *entry,
                " allows ",
                *ceiling,
                " at most: ask for ",
                *ceiling,
                ", or ",
                ASK,
                " to raise propagation on the entry"
            ],
            Self::UserNamespacePropagation { entry, asked } => author![
                "the volume asks for the propagation ",
                *asked,
                " of the entry ",
                *entry,
                ", but the pod has hostUsers: false, and files of a mount that propagates into it would belong to nobody there \
                 (65534): set mountPropagation: None, or remove hostUsers: false from the pod"
            ],
            Self::PodNotReadOnly { entry, by_entry, kind } => {
                let who = if *by_entry {
                    author!["the entry ", *entry, " is read-only"]
                } else {
                    author![
                        "the volume of the entry ",
                        *entry,
                        " is read-only by its attributes, access mode or mount options"
                    ]
                };
                author![who, ", ", read_only_advice(*kind)]
            }
            Self::ReadOnlyPropagation { entry, asked, by_entry } => {
                let (who, undo) = if *by_entry {
                    ("the entry is read-only", "")
                } else {
                    ("the volume is read-only", "ask for it without readOnly, ")
                };
                author![
                    "the volume asks for the propagation ",
                    *asked,
                    " of the entry ",
                    *entry,
                    ", but ",
                    who,
                    ", and a mount that propagates into it later would be writable: ask for the propagation None, ",
                    undo,
                    "or ",
                    ASK,
                    " to accept that by readOnlyPropagation: warn on the entry"
                ]
            }
        }
    }
}

impl ForAuthor for Busy {
    fn for_author(&self) -> AuthorText {
        let Self { path: _, holder: _ } = self;
        author!["another call for this volume of the pod is under way: it is tried again when that has ended"]
    }
}

impl ForAuthor for NoResult {
    fn for_author(&self) -> AuthorText {
        match self {
            Self::Deadline { waited, source_name: _ } => author![
                "no answer within ",
                *waited,
                ": the file system of the volume's directory does not respond; the call is given \
                 up, undone when it returns, and retried; ",
                ASK,
                " to look at its server"
            ],
            Self::Stuck { stuck, source_name: _ } => author![
                *stuck,
                " earlier calls still hang on the file system of the volume's directory: no more are started until one \
                 returns; ",
                ASK,
                " to look at its server"
            ],
            Self::Exhausted { stuck } => author![
                *stuck,
                " earlier calls still hang on file systems of the node, the most that may: no more are started until one \
                 returns; ",
                ASK,
                " to look at their servers"
            ],
            Self::NoThread(errno) => {
                author!["no thread could be started for the call: ", *errno, lacks(*errno), "; ", ASK]
            }
            Self::Lost => author!["the job ended without an answer, by a fault of hostmount: ", ASK],
        }
    }
}

/// What has run out, as the end of an error text. Empty if the error is no shortage.
const fn lacks(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOSPC | Errno::EDQUOT => "; the file system has no space, inodes or quota left",
        Errno::ENOMEM => "; the node has no memory left for it",
        Errno::EMFILE => "; hostmount has as many files open as it may",
        Errno::ENFILE => "; the node has as many files open as it may",
        _ => "",
    }
}

impl ForAuthor for LookupError {
    fn for_author(&self) -> AuthorText {
        match self {
            Self::NotAPodVolume { path: _ } => {
                author!["target_path is not the path of a pod's volume, so no pod can be looked up"]
            }
            Self::NoPodInfo => author![
                "the request does not say which pod it is for, and without that no volume is given: ",
                ASK,
                " to set podInfoOnMount: true on the CSIDriver object"
            ],
            Self::PodUnseen { pod, waited, why: _ } => author![
                "the API server did not tell of the pod ",
                **pod,
                " within ",
                *waited,
                "; the call will be retried"
            ],
            Self::OtherPod { pod, is: _ } => author![
                "the request is for the pod ",
                **pod,
                ", but its uid is that of another pod: leave out the annotation \
                 kubernetes.io/config.mirror and the volume attributes that the kubelet sets, or ",
                ASK
            ],
            Self::OtherAccount { pod, is: _ } => author![
                "the request is for the ",
                account(pod),
                ", but the pod runs as another one: leave out the volume attributes \
                 that the kubelet sets, or ",
                ASK
            ],
            Self::NoVolume { pod, volume } => author![
                "the pod ",
                KnownText::new(pod),
                " has no volume that could be ",
                KnownText::new(volume),
                ": the call will be retried"
            ],
            Self::PersistentVolume { pod, volume, why: _ } => author![
                "the claims of the pod ",
                KnownText::new(pod),
                " ask for different propagations, and the PersistentVolume ",
                KnownText::new(volume),
                " cannot be read to tell which claim it is; the call will be retried, or set its \
                 volumeAttributes.propagation"
            ],
        }
    }
}

impl ForAuthor for SourceHealth {
    fn for_author(&self) -> AuthorText {
        match self {
            Self::Live => author!["the volume's directory on the node is there again"],
            Self::Dead(errno) => author!["the file system's server is gone (", *errno, "): ", ASK, " to restart it"],
            Self::Hung => author!["the file system does not answer: ", ASK, " to look at its server"],
            Self::Deleted => author![
                "the directory was deleted on the node; a pod started now gets the one that is there now, if any"
            ],
        }
    }
}
