//! What several tests need: a record of some volume.

use allowlist::names::{AbsPath, EntryName};
use engine::record::{Asked, Owner, Record};
use mounts::MountAttrs;
use mounts::propagation::MountPropagation;

/// Of some volume.
pub(crate) fn record() -> Record {
    Record {
        owner: Owner { entry: EntryName::parse("data").unwrap(), volume_id: None, pod: None, asked: Asked::default() },
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
