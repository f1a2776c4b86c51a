//! What the kubelet's target paths tell of a pod's volume.

use allowlist::names::Target;

/// The pod's uid, if the path lies beneath a pod's directory: `pods/UID/…`.
#[must_use]
pub fn pod_uid(target: &Target) -> Option<&str> {
    let mut parts = target.relative().iter();
    (parts.next()? == "pods").then(|| parts.next()).flatten()?.to_str()
}

/// The pod's uid and the volume's name, if this is a pod's CSI volume:
/// `pods/UID/volumes/kubernetes.io~csi/NAME/mount` (kubelet, pkg/volume/csi: getTargetPath). An inline volume has
/// its name in the pod here, a claim the name of the bound PersistentVolume.
#[must_use]
pub fn pod_volume(target: &Target) -> Option<(&str, &str)> {
    let parts: Vec<&str> = target.relative().iter().map(|part| part.to_str()).collect::<Option<_>>()?;
    match parts[..] {
        ["pods", uid, "volumes", "kubernetes.io~csi", name, "mount"] => Some((uid, name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use allowlist::names::AbsPath;

    use super::*;

    #[test]
    fn a_target_path_names_pod_and_volume() {
        let target = |relative: &str| {
            Target::parse(&format!("/var/lib/kubelet/{relative}"), &AbsPath::parse("/var/lib/kubelet").unwrap())
                .unwrap()
        };
        let volume = target("pods/u-1/volumes/kubernetes.io~csi/v/mount");
        assert_eq!((pod_uid(&volume), pod_volume(&volume)), (Some("u-1"), Some(("u-1", "v"))));
        assert_eq!(pod_uid(&target("plugins/x")), None);
        for other in ["plugins/x", "pods/u/volumes/kubernetes.io~csi/v", "pods/u/volumes/kubernetes.io~nfs/v/mount"] {
            assert_eq!(pod_volume(&target(other)), None);
        }
    }
}
