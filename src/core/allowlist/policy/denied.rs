//! The reasons to refuse a volume, as text for the administrator.

use std::sync::Arc;

use mounts::propagation::MountPropagation;

use crate::names::{EntryName, PodIdentity, SubPath, VolumeKind};

/// Why a volume is refused: what was asked for, what was found, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The allow-list has no such entry.
    #[error(
        "the volume names the entry {name}, which the node's allow-list does not have: correct the volume, or add an \
         entry of that name to the allow-list"
    )]
    UnknownEntry {
        /// The name asked for.
        name: EntryName,
    },
    /// No item of the entry's `allow` matches the pod.
    #[error("{}", not_permitted(entry, pod.as_deref()))]
    NotPermitted {
        /// The entry asked for.
        entry: EntryName,
        /// The pod, if the request names one.
        pod: Option<Arc<PodIdentity>>,
    },
    /// The entry doesn't allow sub-paths.
    #[error(
        "the volume asks for the directory {:?} beneath the entry {entry}, whose subPaths is false: ask for \
         {entry} alone, or set subPaths: true on the entry",
        sub_path.to_string()
    )]
    SubPathsOff {
        /// The entry asked for.
        entry: EntryName,
        /// The directory asked for.
        sub_path: SubPath,
    },
    /// The propagation is above the entry's ceiling.
    #[error(
        "the volume asks for the propagation {asked}, but the entry {entry} allows {ceiling} at most: ask for \
         {ceiling}, or raise propagation on the entry"
    )]
    AboveCeiling {
        /// The entry asked for.
        entry: EntryName,
        /// The propagation asked for.
        asked: MountPropagation,
        /// The entry's ceiling.
        ceiling: MountPropagation,
    },
    /// The volume propagates into a pod that has its own user namespace.
    #[error(
        "the volume asks for the propagation {asked} of the entry {entry}, but the pod has hostUsers: false, and files of a \
         mount that propagates into it would belong to nobody there (65534): set mountPropagation: None, or remove \
         hostUsers: false from the pod"
    )]
    UserNamespacePropagation {
        /// The entry asked for.
        entry: EntryName,
        /// The propagation asked for.
        asked: MountPropagation,
    },
    /// A read-only volume asks for propagation.
    #[error("{}", read_only_propagation(entry, *asked, *by_entry))]
    ReadOnlyPropagation {
        /// The entry asked for.
        entry: EntryName,
        /// The propagation asked for.
        asked: MountPropagation,
        /// Whether the entry makes the volume read-only, so that the pod can't change it.
        by_entry: bool,
    },
    /// The volume is read-only, but the Pod doesn't say so. Container runtimes (runc since 1.2, crun) set exactly the
    /// flags that the kubelet orders, and the kubelet orders `ro` only if the Pod says read-only.
    #[error("{}", pod_not_read_only(entry, *by_entry, *kind))]
    PodNotReadOnly {
        /// The entry asked for.
        entry: EntryName,
        /// Whether the entry makes it read-only; else an attribute, the access mode or the mount options of the volume
        /// do.
        by_entry: bool,
        /// How the pod has the volume.
        kind: VolumeKind,
    },
}

fn not_permitted(entry: &EntryName, pod: Option<&PodIdentity>) -> String {
    match pod {
        Some(pod) => format!(
            "pod {pod} with the service account {:?} may not use the entry {entry}: no item of its allow matches; to permit it, add an item to the \
             entry's allow whose namespaces and serviceAccounts match the two",
            pod.service_account
        ),
        None => format!(
            "the request for the entry {entry} does not say which pod it is for, so nobody can be permitted: set \
             podInfoOnMount: true on the CSIDriver object (or, to let everybody use the entry, allow namespaces \
             [\"*\"] and serviceAccounts [\"*\"])"
        ),
    }
}

fn read_only_propagation(entry: &EntryName, asked: MountPropagation, by_entry: bool) -> String {
    let (who, undo) = if by_entry {
        ("the entry is read-only", "")
    } else {
        ("the volume is read-only", "ask for it without readOnly, ")
    };
    format!(
        "the volume asks for the propagation {asked} of the entry {entry}, but {who}, and a mount that propagates \
         into it later would be writable: ask for the propagation None, {undo}or set readOnlyPropagation: warn on \
         the entry to accept that"
    )
}

fn pod_not_read_only(entry: &EntryName, by_entry: bool, kind: VolumeKind) -> String {
    let who = if by_entry {
        format!("the entry {entry} is read-only")
    } else {
        format!("the volume of the entry {entry} is read-only by its attributes, access mode or mount options")
    };
    format!("{who}, {}", read_only_advice(kind))
}

/// What is wrong with a pod whose volume is read-only although the Pod doesn't say so, and the line to add.
#[must_use]
pub const fn read_only_advice(kind: VolumeKind) -> &'static str {
    match kind {
        VolumeKind::Inline => {
            "but the Pod does not say so, and containers could write to it: set csi.readOnly: true on the pod's volume"
        }
        VolumeKind::Claim => {
            "but the Pod does not say so, and containers could write to it: set persistentVolumeClaim.readOnly: true on the \
             pod's volume"
        }
        VolumeKind::GenericEphemeral => {
            "but a generic ephemeral volume cannot say so in the Pod, and containers could write to it: take an inline \
             volume with csi.readOnly: true, or a claim with persistentVolumeClaim.readOnly: true"
        }
        VolumeKind::ClaimOrGenericEphemeral => {
            "but the Pod does not say so, and containers could write to it: set persistentVolumeClaim.readOnly: true on the \
             pod's volume (if it is a generic ephemeral volume, which cannot say so, take a claim or an inline volume \
             instead)"
        }
    }
}
