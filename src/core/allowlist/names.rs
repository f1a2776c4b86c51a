//! The names of a volume as validated types: entry, sub-path, volume reference, paths.
//!
//! Strings come from whoever may create a pod. Each is parsed once, here. A parsed value is harmless: it has no `..`,
//! no NUL, no absolute path where a relative one belongs, and nothing over the kernel's limits. Symlinks and races are
//! left to the kernel (crate `kernel`), since only the kernel can decide about them. Cloning an entry's name or path
//! allocates nothing: a call passes them to many functions.

mod pod;
mod target;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use pod::{PodIdentity, User, VolumeKind};
pub use target::Target;

/// The longest path that the kernel takes in one call, in bytes with the final NUL (`PATH_MAX`, linux/limits.h).
pub const PATH_MAX: usize = 4096;
/// The longest component of a path, in bytes (`NAME_MAX`, linux/limits.h).
pub const NAME_MAX: usize = 255;
/// The longest volume handle and node id that CSI allows, in bytes (CSI section "Size Limits": 128 unless a field says
/// otherwise). Our `volume_id` may be a path, and for paths that section allows up to 4 KiB.
pub const HANDLE_MAX: usize = 4096;

/// Why a name or path is refused. The text completes the sentence "FIELD VALUE ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// It is empty.
    #[error("is empty")]
    Empty,
    /// It is too long.
    #[error("has {len} bytes, over the limit of {max}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// It has a NUL, line break or other control character.
    #[error("contains the control character {0:?}")]
    Control(char),
    /// It is relative, but must be absolute.
    #[error("is not an absolute path")]
    Relative,
    /// It is absolute, but must be relative.
    #[error("is an absolute path, but must be relative to its entry")]
    Absolute,
    /// It has a component that isn't a name: `..`, `.`, or an empty one.
    #[error("contains the component {0:?}: write the path out, without \"..\", \".\" or doubled slashes")]
    Component(String),
    /// It isn't an entry name.
    #[error("is not an entry name: use a-z, 0-9, '-' and '.', starting and ending with a letter or digit")]
    EntryName,
    /// It lies outside the kubelet's directory.
    #[error("is not beneath the kubelet directory {0}")]
    Outside(PathBuf),
}

fn check_text(text: &str, max: usize) -> Result<(), BadName> {
    if text.is_empty() {
        return Err(BadName::Empty);
    }
    if text.len() > max {
        return Err(BadName::TooLong { len: text.len(), max });
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(BadName::Control(c)),
        None => Ok(()),
    }
}

fn check_components(path: &str) -> Result<(), BadName> {
    for part in path.split('/') {
        if part.is_empty() || part == "." || part == ".." {
            return Err(BadName::Component(part.to_owned()));
        }
        if part.len() > NAME_MAX {
            return Err(BadName::TooLong { len: part.len(), max: NAME_MAX });
        }
    }
    Ok(())
}

/// The name of an entry of the allow-list. Pods use it instead of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryName(Arc<str>);

impl EntryName {
    /// Parses a name like a Kubernetes object's (RFC 1123): lower-case letters, digits, `-` and `.`, at most 63 bytes.
    ///
    /// # Errors
    /// [`BadName`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        check_text(text, 63)?;
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if edge(text.chars().next()) && edge(text.chars().last()) && text.chars().all(inner) {
            Ok(Self(text.into()))
        } else {
            Err(BadName::EntryName)
        }
    }

    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The path of a directory beneath an entry: plain components joined by single slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SubPath(Arc<str>);

impl SubPath {
    /// Parses a relative path of plain components.
    ///
    /// # Errors
    /// [`BadName`] says what is wrong. Trailing and doubled slashes are refused, not removed: a directory must not have
    /// two names.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        check_text(text, PATH_MAX - 1)?;
        if text.starts_with('/') {
            return Err(BadName::Absolute);
        }
        check_components(text)?;
        Ok(Self(text.into()))
    }

    /// The path, relative to its entry.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&*self.0)
    }
}

impl fmt::Display for SubPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory of a volume: an entry of the allow-list, or a directory beneath one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VolumeRef {
    /// The entry.
    pub entry: EntryName,
    /// The directory beneath the entry. None: the entry's own.
    pub sub_path: Option<SubPath>,
}

impl VolumeRef {
    /// Parses a persistent volume's handle: `entry` or `entry/sub/path`.
    ///
    /// # Errors
    /// [`BadName`] says what is wrong.
    pub fn parse_handle(handle: &str) -> Result<Self, BadName> {
        check_text(handle, HANDLE_MAX)?;
        let (entry, sub_path) = match handle.split_once('/') {
            Some((entry, rest)) => (
                entry,
                Some(SubPath::parse(rest).map_err(|e| match e {
                    BadName::Empty | BadName::Absolute => BadName::Component(String::new()),
                    other => other,
                })?),
            ),
            None => (handle, None),
        };
        Ok(Self { entry: EntryName::parse(entry)?, sub_path })
    }
}

impl fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sub_path {
            Some(sub) => write!(f, "{}/{sub}", self.entry),
            None => write!(f, "{}", self.entry),
        }
    }
}

/// An absolute path of plain components: an entry's, or the kubelet's directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AbsPath(Arc<Path>);

impl AbsPath {
    /// Parses an absolute path without `..`, `.`, doubled or trailing slashes. `/` itself is allowed.
    ///
    /// # Errors
    /// [`BadName`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        Self::check(text).map(|()| Self(Path::new(text).into()))
    }

    fn check(text: &str) -> Result<(), BadName> {
        check_text(text, PATH_MAX - 1)?;
        match text.strip_prefix('/') {
            None => Err(BadName::Relative),
            Some("") => Ok(()),
            Some(rest) => check_components(rest),
        }
    }

    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// A directory beneath this one, or this one itself.
    #[must_use]
    pub fn with(&self, sub_path: Option<&SubPath>) -> PathBuf {
        sub_path.map_or_else(|| self.0.to_path_buf(), |sub_path| self.0.join(sub_path.as_path()))
    }

    /// Whether one path contains the other or both are the same. Compares names only.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0) || other.0.starts_with(&self.0)
    }
}

impl fmt::Display for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())
    }
}

/// Not the name of a driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--driver-name {0:?} is not a domain name of at most 63 letters, digits, '-' and '.'")]
pub struct BadDriverName(pub String);

/// Checks a driver's name, as given by the option --driver-name: a domain name of at most 63 bytes (CSI,
/// GetPluginInfoResponse.name).
///
/// # Errors
/// What is wrong with it.
pub fn check_driver(name: &str) -> Result<(), BadDriverName> {
    let part = |p: &str| {
        !p.is_empty()
            && !p.starts_with('-')
            && !p.ends_with('-')
            && p.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if name.len() <= 63 && name.split('.').all(part) { Ok(()) } else { Err(BadDriverName(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_name_an_entry_and_a_sub_path() {
        let whole = VolumeRef::parse_handle("datasets").unwrap();
        assert_eq!((whole.entry.as_str(), whole.sub_path), ("datasets", None));
        let sub = VolumeRef::parse_handle("datasets/a/b.c").unwrap();
        assert_eq!(sub.to_string(), "datasets/a/b.c");
    }

    #[test]
    fn traversal_and_ambiguity_are_refused() {
        for handle in [
            "",
            "/",
            "/etc",
            "datasets/",
            "datasets//a",
            "datasets/..",
            "datasets/../etc",
            "datasets/a/./b",
            "..",
            "datasets/a/",
            "Datasets",
            "-a",
            "a_b",
            "data\0sets",
            "datasets/a\0b",
            "datasets/a\nb",
        ] {
            assert!(VolumeRef::parse_handle(handle).is_err(), "{handle:?}");
        }
        assert!(VolumeRef::parse_handle(&format!("d/{}", "x".repeat(256))).is_err());
        assert!(VolumeRef::parse_handle(&format!("d/{}", "x/".repeat(3000))).is_err());
        assert!(VolumeRef::parse_handle(&"x".repeat(64)).is_err());
    }

    #[test]
    fn overlap_is_by_whole_components() {
        let p = |s| AbsPath::parse(s).unwrap();
        assert!(p("/a/b").overlaps(&p("/a")) && p("/").overlaps(&p("/a")) && p("/a").overlaps(&p("/a")));
        assert!(!p("/a/b").overlaps(&p("/a/bc")));
    }
}
