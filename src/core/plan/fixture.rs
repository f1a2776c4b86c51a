//! What several tests need: a record of some volume.

use allowlist::names::{AbsPath, EntryName, User};
use mounts::MountAttrs;
use mounts::propagation::MountPropagation;
use plan::layout::{Layout, Part};
use plan::record::{Asked, Owner, Record};

/// Of some volume.
pub(crate) fn record() -> Record {
    Record {
        owner: Owner {
            entry: EntryName::parse("data").unwrap(),
            volume_id: None,
            user: User::Unknown,
            asked: Asked::default(),
        },
        path: AbsPath::parse("/src").unwrap(),
        sub_path: None,
        propagation: MountPropagation::HostToContainer,
        attrs: MountAttrs { nosuid: true, ..MountAttrs::default() },
        source_mount: u64::MAX,
        path_mounts: None,
        renewed: None,
        left: Vec::new(),
        user_namespace: false,
    }
}

/// The kubelet's, of the directory `/k`.
pub(crate) fn layout() -> Layout {
    let (pods, volumes, csi) = (Part::is("pods"), Part::is("volumes"), Part::is("kubernetes.io~csi"));
    Layout {
        base: AbsPath::parse("/k").unwrap(),
        staging_area: ["plugins", "csi.hostmount.dev", "workshop"].map(str::to_owned).into(),
        target: vec![pods, Part::Workload, volumes, csi, Part::Any, Part::is("mount")],
        staging: ["plugins", "kubernetes.io", "csi", "csi.hostmount.dev"]
            .map(Part::is)
            .into_iter()
            .chain([Part::Any, Part::is("globalmount")])
            .collect(),
        workloads: "/k/pods".into(),
        files: vec![
            vec![Part::Workload, Part::is("etc-hosts")],
            vec![Part::Workload, Part::is("containers"), Part::Container, Part::Any],
        ],
        not_published: vec!["plugins".into()],
        copies: Some("volume-subpaths".to_owned()),
    }
}
