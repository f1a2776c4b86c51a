//! The names of a volume as types that can't be wrong: entry, sub-path, volume reference, paths beneath the kubelet.
//!
//! Strings arrive from whoever may create a pod. Each is parsed once, here, into a type whose values are harmless
//! by construction: no `..`, no absolute path where a relative one belongs, no NUL, nothing over the kernel's
//! limits. What is left to the kernel is what only it can decide, symlinks and races (`kernel`). A call passes an
//! entry's name and path from hand to hand, so a copy of them asks for no memory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest path the kernel takes in one call, in bytes with the closing NUL (`PATH_MAX`, linux/limits.h).
pub const PATH_MAX: usize = 4096;
/// The longest single component of a path, in bytes (`NAME_MAX`, linux/limits.h).
pub const NAME_MAX: usize = 255;
/// The longest volume handle and node id that CSI allows, in bytes (CSI section "Size Limits": 128 unless a field
/// says otherwise; `volume_id` of our making may be a path, which the section allows up to 4 KiB for paths).
pub const HANDLE_MAX: usize = 4096;

/// Why a name or path is not acceptable. The text completes the sentence "FIELD VALUE ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing was given.
    #[error("is empty")]
    Empty,
    /// Longer than the limit, in bytes.
    #[error("has {len} bytes, over the limit of {max}")]
    TooLong {
        /// Bytes found.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A NUL, line break or other control character.
    #[error("contains the control character {0:?}")]
    Control(char),
    /// A relative path where an absolute one belongs.
    #[error("is not an absolute path")]
    Relative,
    /// An absolute path where a relative one belongs.
    #[error("is an absolute path, but must be relative to its entry")]
    Absolute,
    /// A component that walks or hides: `..`, `.`, or an empty one.
    #[error("contains the component {0:?}: write the path out, without \"..\", \".\" or doubled slashes")]
    Component(String),
    /// Not an entry name.
    #[error("is not an entry name: use a-z, 0-9, '-' and '.', starting and ending with a letter or digit")]
    EntryName,
    /// Outside the directory that the kubelet owns.
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

/// The name of an entry of the allow-list: what a pod may say instead of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryName(Arc<str>);

impl EntryName {
    /// Parses a name: lower-case letters, digits, `-` and `.`, as of a Kubernetes object (RFC 1123), at most 63 bytes.
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

    /// The name as text.
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

/// A directory beneath an entry, as plain components joined by single slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SubPath(Arc<str>);

impl SubPath {
    /// Parses a relative path of plain components.
    ///
    /// # Errors
    /// [`BadName`] says what is wrong; trailing and doubled slashes are refused, not cleaned: the same directory
    /// must not have two names.
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

/// Which directory a volume is: an entry of the allow-list, or a directory beneath one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VolumeRef {
    /// The entry.
    pub entry: EntryName,
    /// The directory beneath it, or the entry's own.
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

/// An absolute path of plain components: of an entry, or of the kubelet's directory.
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

    /// Whether one of the two contains the other, or they are the same, by name alone.
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

/// A target or staging path: beneath the kubelet's directory, which is the only place where we mount or unmount.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KubeletPath {
    /// One text, since a plugin may hold many.
    full: Box<str>,
    /// Where in it the relative path begins.
    relative_at: usize,
}

impl KubeletPath {
    /// Parses a path that must lie beneath `kubelet_dir`.
    ///
    /// # Errors
    /// [`BadName`] says what is wrong.
    pub fn parse(text: &str, kubelet_dir: &AbsPath) -> Result<Self, BadName> {
        AbsPath::check(text)?;
        // Both have no doubled and no trailing slash.
        match Path::new(text).strip_prefix(kubelet_dir.as_path()) {
            Ok(relative) if !relative.as_os_str().is_empty() => {
                Ok(Self { relative_at: text.len() - relative.as_os_str().len(), full: text.into() })
            }
            _ => Err(BadName::Outside(kubelet_dir.as_path().to_owned())),
        }
    }

    /// The whole path, as the kubelet gave it.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&*self.full)
    }

    /// The path relative to the kubelet's directory; never empty.
    #[must_use]
    pub fn relative(&self) -> &Path {
        Path::new(&self.full[self.relative_at..])
    }

    /// The pod's uid, where the path is a pod's: `pods/UID/…`.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&str> {
        let mut parts = self.relative().iter();
        (parts.next()? == "pods").then(|| parts.next()).flatten()?.to_str()
    }

    /// The pod's uid and the volume's name, where the path is that of a pod's CSI volume,
    /// `pods/UID/volumes/kubernetes.io~csi/NAME/mount` (kubelet, pkg/volume/csi: getTargetPath). Of an inline volume
    /// the name is that in the pod, of a claim that of the bound PersistentVolume.
    #[must_use]
    pub fn pod_volume(&self) -> Option<(&str, &str)> {
        let parts: Vec<&str> = self.relative().iter().map(|part| part.to_str()).collect::<Option<_>>()?;
        match parts[..] {
            ["pods", uid, "volumes", "kubernetes.io~csi", name, "mount"] => Some((uid, name)),
            _ => None,
        }
    }
}

impl fmt::Display for KubeletPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

/// How a pod has a volume: by which kind of volume source of the Pod API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VolumeKind {
    /// Written in the Pod (`csi`).
    Inline,
    /// By a claim (`persistentVolumeClaim`).
    Claim,
    /// By a claim that is made with the pod (`ephemeral`).
    GenericEphemeral,
    /// One of the two before; it isn't known which.
    ClaimOrGenericEphemeral,
}

impl VolumeKind {
    /// What is known of a volume that is this or that.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self == other { self } else { Self::ClaimOrGenericEphemeral }
    }
}

/// Not the name of a driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--driver-name {0:?} is not a domain name of at most 63 letters, digits, '-' and '.'")]
pub struct BadDriverName(pub String);

/// A driver's name: a domain name of at most 63 bytes (CSI, GetPluginInfoResponse.name), as the option --driver-name gives it.
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

/// Who a volume is for, as the kubelet tells with `podInfoOnMount`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodIdentity {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The service account that it runs as.
    pub service_account: String,
}

impl fmt::Display for PodIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
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
    fn targets_lie_strictly_beneath_the_kubelet() {
        let dir = AbsPath::parse("/var/lib/kubelet").unwrap();
        let target = KubeletPath::parse("/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/v/mount", &dir).unwrap();
        assert_eq!(target.relative(), Path::new("pods/u-1/volumes/kubernetes.io~csi/v/mount"));
        assert_eq!(target.pod_uid(), Some("u-1"));
        assert_eq!(target.pod_volume(), Some(("u-1", "v")));
        for bad in [
            "/var/lib/kubelet",
            "/var/lib/kubelet/",
            "/var/lib/kubelet2/x",
            "/etc",
            "some/path",
            "",
            "/var/lib/kubelet/../../../etc",
            "/var/lib/kubelet/pods/./x",
            "//var/lib/kubelet/x",
        ] {
            assert!(KubeletPath::parse(bad, &dir).is_err(), "{bad:?}");
        }
        assert_eq!(KubeletPath::parse("/var/lib/kubelet/plugins/x", &dir).unwrap().pod_uid(), None);
        for other in ["plugins/x", "pods/u/volumes/kubernetes.io~csi/v", "pods/u/volumes/kubernetes.io~nfs/v/mount"] {
            let other = KubeletPath::parse(&format!("/var/lib/kubelet/{other}"), &dir).unwrap();
            assert_eq!(other.pod_volume(), None);
        }
    }

    #[test]
    fn overlap_is_by_whole_components() {
        let p = |s| AbsPath::parse(s).unwrap();
        assert!(p("/a/b").overlaps(&p("/a")) && p("/").overlaps(&p("/a")) && p("/a").overlaps(&p("/a")));
        assert!(!p("/a/b").overlaps(&p("/a/bc")));
    }
}
