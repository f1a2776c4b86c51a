//! Target and staging paths.

use std::fmt;
use std::path::Path;

use super::{AbsPath, BadName};

/// A target or staging path. It lies beneath the base directory of its layout, the only place where hostmount mounts
/// or unmounts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The whole path. A single text, because a plugin may hold many of these.
    full: Box<str>,
    /// Where the relative part begins in it.
    relative_at: usize,
}

impl Target {
    /// Parses a path that must lie beneath `base`.
    ///
    /// # Errors
    /// [`BadName`] says what is wrong.
    pub fn parse(text: &str, base: &AbsPath) -> Result<Self, BadName> {
        AbsPath::check(text)?;
        // Neither path has a doubled or trailing slash.
        match Path::new(text).strip_prefix(base.as_path()) {
            Ok(relative) if !relative.as_os_str().is_empty() => {
                Ok(Self { relative_at: text.len() - relative.as_os_str().len(), full: text.into() })
            }
            _ => Err(BadName::Outside(base.as_path().to_owned())),
        }
    }

    /// The whole path, as the front-end gave it.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&*self.full)
    }

    /// The path relative to the base directory; never empty.
    #[must_use]
    pub fn relative(&self) -> &Path {
        Path::new(&self.full[self.relative_at..])
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_lie_strictly_beneath_their_base() {
        let dir = AbsPath::parse("/var/lib/kubelet").unwrap();
        let target = Target::parse("/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/v/mount", &dir).unwrap();
        assert_eq!(target.relative(), Path::new("pods/u-1/volumes/kubernetes.io~csi/v/mount"));
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
            assert!(Target::parse(bad, &dir).is_err(), "{bad:?}");
        }
    }
}
