//! What a pod is told of healing, in words for its author: no path of the node is in them. Pure.

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Notice {
    /// The volume has the source again, for containers that start from now on.
    Renewed,
    /// The source is back, and the pod may not have it any more, for this reason.
    Denied(String),
    /// Another directory is where the source was, and others than root may have put it there.
    NotFollowed,
}

/// What containers have to do to see a volume that was renewed.
pub(crate) const RESTART: &str = "containers that were started before must be restarted to see it";

impl Notice {
    /// In one word, as machines know it.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Renewed => "VolumeRenewed",
            Self::Denied(_) => "SourceNotPermitted",
            Self::NotFollowed => "SourceReplaced",
        }
    }

    /// What has happened and what to do.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Renewed => format!("the source is back and the volume was renewed: {RESTART}"),
            Self::Denied(why) => format!("the source is back, but the volume keeps what it had: {why}"),
            Self::NotFollowed => {
                "another directory took the place of the volume's, and nothing proves that the node's \
                                  administrator has put it there, so the volume keeps what it had: ask the \
                                  administrator; a pod started now gets the one that is there now"
                    .to_owned()
            }
        }
    }
}
