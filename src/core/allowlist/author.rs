//! Text that the author of a pod may read: only pieces that the author knows. Pure.
//!
//! The messages of gRPC statuses end up in pod events, which everybody who creates pods can read. A path of the node in
//! them would tell tenants what exists beside their own files, and anyone may create a pod to ask. So each refusal has
//! two texts. `Display`, with paths and commands, is for the administrator and goes to the log. An [`AuthorText`] is
//! for statuses and events, which are made of nothing else. It takes [`Known`] pieces only; a path or a text of unknown
//! origin isn't one:
//!
//! ```
//! use hostmount_allowlist::author::AuthorText;
//! let tried = 3_usize;
//! assert_eq!(AuthorText::of(&[&"tried ", &tried, &" times"]).as_str(), "tried 3 times");
//! ```
//!
//! ```compile_fail
//! use hostmount_allowlist::author::AuthorText;
//! let tried = std::path::PathBuf::from("/srv/data");
//! AuthorText::of(&[&"tried ", &tried, &" times"]);
//! ```
#![expect(clippy::disallowed_methods, reason = "it makes pieces of names that authors give")]

use std::fmt::{self, Write};
use std::time::Duration;

use mounts::propagation::MountPropagation;
use mounts::{Errno, MountAttrs};
use text::cut::Cut;

use crate::names::{EntryName, PodIdentity, SubPath};

/// How much of a text that others have written is shown.
const SHOWN: Cut = Cut::characters(120);

/// A text that the author of a pod may read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AuthorText(String);

impl AuthorText {
    /// Joins the pieces.
    #[must_use]
    pub fn of(pieces: &[&dyn Known]) -> Self {
        let mut text = String::new();
        pieces.iter().for_each(|piece| piece.write(&mut text));
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AuthorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<AuthorText> for String {
    fn from(text: AuthorText) -> Self {
        text.0
    }
}

/// A text that the author wrote or can read in their own objects: a volume's attributes, the names of pods, volumes,
/// nodes and service accounts. `clippy.toml` bans [`KnownText::new`], so each use has to state why the author knows it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KnownText(String);

impl KnownText {
    /// Takes a text, cut to a readable length.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(SHOWN.apply(text).into_owned())
    }
}

impl fmt::Debug for KnownText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for KnownText {
    /// Quoted, because it comes from outside.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

mod sealed {
    /// Sealed: no other module can implement [`Known`](super::Known).
    pub trait Piece {
        /// Appends it to a text.
        fn write(&self, text: &mut String);
    }
}

/// What the author of a pod knows or may know. All such types are listed in this file.
pub trait Known: sealed::Piece {}

impl<T: sealed::Piece> Known for T {}

macro_rules! known {
    ($format:literal: $($type:ty),+) => {
        $(impl sealed::Piece for $type {
            fn write(&self, text: &mut String) {
                // Writing to a String can't fail.
                let _ = write!(text, $format, self);
            }
        })+
    };
}

// A literal in this program's source.
known!("{}": &'static str);
known!("{}": AuthorText, KnownText, EntryName, PodIdentity, MountPropagation, Errno, i32, u32, usize);
known!("{:?}": Duration, MountAttrs);

impl sealed::Piece for SubPath {
    fn write(&self, text: &mut String) {
        let _ = write!(text, "{}", KnownText::new(&self.to_string()));
    }
}

/// Makes an [`AuthorText`](crate::author::AuthorText) of its pieces.
#[macro_export]
macro_rules! author_text {
    ($($piece:expr),+ $(,)?) => { $crate::author::AuthorText::of(&[$(&$piece),+]) };
}
pub use author_text as author;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_written_is_quoted_and_cut() {
        let text = |text: &str| author!["is ", KnownText::new(text)].to_string();
        assert_eq!(text("a \"b\"\n"), r#"is "a \"b\"\n""#);
        let long = text(&"ä".repeat(121));
        assert!(long.ends_with("ää...\"") && long.chars().count() == 125, "{long}");
        assert_eq!(text(&"ä".repeat(120)).chars().count(), 125);
    }
}
