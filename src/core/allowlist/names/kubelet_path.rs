//! Target and staging paths.

use std::fmt;
use std::path::Path;

use super::{AbsPath, BadName};

/// A target or staging path. It lies beneath the kubelet's directory, the only place where hostmount mounts or
/// unmounts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KubeletPath {
    /// The whole path. A single text, because a plugin may hold many of these.
    full: Box<str>,
    /// Where the relative part begins in it.
    relative_at: usize,
}

impl KubeletPath {
    /// Parses a path that must lie beneath `kubelet_dir`.
    ///
    /// # Errors
    /// [`BadName`] says what is wrong.
    pub fn parse(text: &str, kubelet_dir: &AbsPath) -> Result<Self, BadName> {
        AbsPath::check(text)?;
        // Neither path has a doubled or trailing slash.
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

    /// The pod's uid, if the path lies beneath a pod's directory: `pods/UID/…`.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&str> {
        let mut parts = self.relative().iter();
        (parts.next()? == "pods").then(|| parts.next()).flatten()?.to_str()
    }

    /// The pod's uid and the volume's name, if this is a pod's CSI volume:
    /// `pods/UID/volumes/kubernetes.io~csi/NAME/mount` (kubelet, pkg/volume/csi: getTargetPath). An inline volume has
    /// its name in the pod here, a claim the name of the bound PersistentVolume.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
