//! What a pod is told about healing, and why it is not given what its source's path leads to now. Pure.

use allowlist::author::{AuthorText, author};
use allowlist::names::EntryName;
use allowlist::policy::Denied;

use crate::refusals::ForAuthor;

/// What has to be done for containers to see a renewed volume.
pub(crate) const RESTART: &str = "containers that were started before must be restarted to see it";

/// Why a pod may not have the source of its volume any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotGiven {
    /// The allow-list no longer grants it to the pod.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The entry has another directory.
    #[error("{}", self.for_author())]
    OtherDirectory(EntryName),
    /// Others would receive what the volume is given.
    #[error("{}", self.for_author())]
    SharedWithOthers,
}

impl ForAuthor for NotGiven {
    fn for_author(&self) -> AuthorText {
        match self {
            Self::Denied(denied) => denied.for_author(),
            Self::OtherDirectory(entry) => {
                author!["the entry ", *entry, " has another directory since the volume was published"]
            }
            Self::SharedWithOthers => {
                author!["it shares its mounts with volumes of other pods, which may not all be given the same now"]
            }
        }
    }
}

/// What a pod is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The volume has the source again, for containers that start from now on.
    Renewed,
    /// The source is back, but the pod may not have it any more.
    NotGiven(NotGiven),
    /// Another directory is where the source was, and users other than root may have put it there.
    NotFollowed,
}

impl Notice {
    /// The reason of the event, as one word.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Renewed => "VolumeRenewed",
            Self::NotGiven(_) => "SourceNotPermitted",
            Self::NotFollowed => "SourceReplaced",
        }
    }
}

impl ForAuthor for Notice {
    fn for_author(&self) -> AuthorText {
        match self {
            Self::Renewed => author!["the source is back and the volume was renewed: ", RESTART],
            Self::NotGiven(why) => {
                author!["the source is back, but the volume keeps what it had: ", why.for_author()]
            }
            Self::NotFollowed => author![
                "another directory took the place of the volume's, and nothing proves that the node's administrator has put it \
                 there, so the volume keeps what it had: ask the administrator; a pod started now gets the one that is there now"
            ],
        }
    }
}
