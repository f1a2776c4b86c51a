//! Where the kubelet has CSI volumes mounted.

use allowlist::names::AbsPath;
use plan::layout::{Layout, Part};

/// The layout of a driver's volumes in a kubelet's directory (kubelet, pkg/volume/csi: `getTargetPath`,
/// `makeDeviceMountPath`).
#[must_use]
pub fn layout(kubelet_dir: &AbsPath, driver: &str) -> Layout {
    let csi = [Part::is("volumes"), Part::is("kubernetes.io~csi"), Part::Any, Part::is("mount")];
    let staging = ["plugins", "kubernetes.io", "csi", driver].map(Part::is);
    Layout {
        base: kubelet_dir.clone(),
        // The name stays the same in all versions, so that what an older version has left there is removed.
        staging_area: ["plugins", driver, "workshop"].map(str::to_owned).into(),
        target: [Part::is("pods"), Part::Workload].into_iter().chain(csi).collect(),
        staging: staging.into_iter().chain([Part::Any, Part::is("globalmount")]).collect(),
        workloads: kubelet_dir.as_path().join("pods"),
        files: vec![
            vec![Part::Workload, Part::is("etc-hosts")],
            vec![Part::Workload, Part::is("containers"), Part::Container, Part::Any],
        ],
        not_published: vec!["plugins".into()],
        copies: Some("volume-subpaths".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use plan::layout::At;

    use super::*;

    #[test]
    fn places_are_told_by_their_paths() {
        let layout = layout(&AbsPath::parse("/k").unwrap(), "d");
        let volume = "/k/pods/u/volumes/kubernetes.io~csi/v/mount";
        for (path, at) in [
            (volume, Some(At::Target)),
            ("/k/pods/u/volumes/kubernetes.io~csi/v/mount/nested", Some(At::InTarget)),
            ("/k/pods/u/volumes/kubernetes.io~csi/v/mount/nested/deeper", Some(At::InTarget)),
            ("/k/plugins/kubernetes.io/csi/d/0123/globalmount", Some(At::Staging)),
            ("/k/plugins/kubernetes.io/csi/other/0123/globalmount", None),
            ("/k/pods/u/volumes/kubernetes.io~nfs/v/mount", None),
            ("/k/pods/u/volumes/kubernetes.io~nfs/v/mount/x", None),
            ("/elsewhere/pods/u/volumes/kubernetes.io~csi/v/mount", None),
            ("/k", None),
            ("/", None),
        ] {
            assert_eq!(layout.at(Path::new(path)), at, "{path}");
        }
        assert_eq!(layout.workload_of(Path::new(volume)), Some("u"));
        assert_eq!(layout.staging_area(), Path::new("/k/plugins/d/workshop"));
    }

    #[test]
    fn a_container_s_own_copy_and_a_staged_one_are_no_publications() {
        let layout = layout(&AbsPath::parse("/k").unwrap(), "d");
        for (path, published) in [
            ("/k/pods/u/volumes/kubernetes.io~csi/v/mount", true),
            ("/k/pods/u/volume-subpaths/v/c/0", false),
            ("/k/plugins/kubernetes.io/csi/d/0123/globalmount", false),
        ] {
            assert_eq!(layout.is_publication(Path::new(path)), published, "{path}");
        }
    }
}
