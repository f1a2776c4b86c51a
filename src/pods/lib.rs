//! What a pod wants of a volume, read from the Pod object: the propagation, and what else of the pod the volume depends
//! on. Pure.
//!
//! The kubelet tells a driver who the pod is, but not the `mountPropagation` of its containers. It names the volume
//! only by its path: an inline volume by its name in the pod, a claimed one by the name of the PersistentVolume. Which
//! claim is bound to that doesn't matter as long as all the pod's claims want the same.
#![forbid(unsafe_code)]

pub mod client;
pub mod events;
pub mod known;
pub mod lookup;
pub mod object;
pub mod target_path;

use std::fmt;

use allowlist::names::VolumeKind;
use mounts::propagation::MountPropagation;
use object::{Container, MIRROR, Pod, VolumeMount};

/// What a pod wants of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodWish {
    /// The strongest propagation of all containers, including ephemeral ones. A container that joins a running pod
    /// can't change the pod's volume: see `Record::is_repeated_by`.
    pub propagation: MountPropagation,
    /// How the pod has the volume.
    pub kind: VolumeKind,
    /// Whether the pod has its own user namespace (`hostUsers: false`).
    pub user_namespace: bool,
}

/// Where a pod's volume comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// An inline volume of the CSI driver with this name.
    Inline(String),
    /// The claim with this name.
    Claim(String),
}

impl PodWish {
    /// Whether both want the same propagation.
    fn agrees(self, other: Self) -> bool {
        self.propagation == other.propagation
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PodVolume {
    name: String,
    source: Source,
    /// With the strongest propagation of all containers, including ephemeral ones.
    wish: PodWish,
}

/// The part of a Pod that matters here. A pod's volumes and mounts never change, except for added ephemeral containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodVolumes {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's service account.
    pub service_account: String,
    /// The object's own uid.
    pub uid: String,
    /// For a mirror pod, its static pod's uid, from the annotation. The kubelet knows the pod by that uid, and the
    /// volumes' paths contain it.
    pub mirror_of: Option<String>,
    volumes: Vec<PodVolume>,
}

/// What a pod wants of one of its volumes, as far as the Pod tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WishResult {
    /// This is what it wants.
    Wish(PodWish),
    /// It depends on which of the pod's claims the PersistentVolume is bound to.
    DependsOnClaim,
    /// The pod has no such volume.
    NoVolume,
}

/// The stronger of both in each field, for a volume that is one of the two.
fn stronger(a: PodWish, b: PodWish) -> PodWish {
    PodWish {
        propagation: a.propagation.max(b.propagation),
        kind: a.kind.or(b.kind),
        user_namespace: a.user_namespace || b.user_namespace,
    }
}

/// The propagation that a mount asks for. An absent value is None (Pod API, VolumeMount.mountPropagation). So is a
/// value that isn't known here, which the API server refuses anyway.
fn asked(mount: &VolumeMount) -> MountPropagation {
    let said = mount.mount_propagation.as_deref();
    MountPropagation::ALL.into_iter().find(|p| Some(p.name()) == said).unwrap_or_default()
}

impl fmt::Display for PodVolumes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl PodVolumes {
    /// Reads a pod. None if it has no name or uid, which never happens with an API server.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let meta = &pod.metadata;
        let name = meta.name.clone()?;
        let containers: [&[Container]; 3] = [&spec.containers, &spec.init_containers, &spec.ephemeral_containers];
        let strongest = |volume: &str| {
            let mounts = containers.into_iter().flatten().flat_map(|container| &container.volume_mounts);
            mounts.filter(|m| m.name == volume).map(asked).max().unwrap_or_default()
        };
        let volumes = spec.volumes.iter().filter_map(|volume| {
            let (source, kind) = match volume {
                _ if volume.csi.is_some() => (Source::Inline(volume.csi.as_ref()?.driver.clone()), VolumeKind::Inline),
                _ if volume.ephemeral.is_some() => {
                    (Source::Claim(format!("{name}-{}", volume.name)), VolumeKind::GenericEphemeral)
                }
                _ => (Source::Claim(volume.persistent_volume_claim.as_ref()?.claim_name.clone()), VolumeKind::Claim),
            };
            let wish = PodWish {
                propagation: strongest(&volume.name),
                kind,
                // Absent means true (Pod API, PodSpec.hostUsers).
                user_namespace: spec.host_users == Some(false),
            };
            Some(PodVolume { name: volume.name.clone(), source, wish })
        });
        Some(Self {
            namespace: meta.namespace.clone()?,
            uid: meta.uid.clone()?,
            mirror_of: meta.annotations.as_ref().and_then(|annotations| annotations.get(MIRROR)).cloned(),
            service_account: spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned()),
            volumes: volumes.collect(),
            name,
        })
    }

    /// What the pod wants of the inline volume `name` of `driver`.
    #[must_use]
    pub fn inline(&self, driver: &str, name: &str) -> WishResult {
        let is = |v: &&PodVolume| v.name == name && matches!(&v.source, Source::Inline(d) if d == driver);
        self.volumes.iter().find(is).map_or(WishResult::NoVolume, |v| WishResult::Wish(v.wish))
    }

    /// What the pod wants of a claimed volume, if the claim isn't known.
    #[must_use]
    pub fn any_claim(&self) -> WishResult {
        // Two volumes with one claim are published once, for both.
        let wishes: Vec<PodWish> = self.claims().filter_map(|claim| self.wish_of(claim)).collect();
        match wishes.split_first() {
            Some((first, others)) if !others.iter().all(|w| w.agrees(*first)) => WishResult::DependsOnClaim,
            _ => wishes.into_iter().reduce(stronger).map_or(WishResult::NoVolume, WishResult::Wish),
        }
    }

    /// Like [`Self::any_claim`], for a volume that sets its own propagation: then the claim doesn't matter.
    #[must_use]
    pub fn all_claims(&self) -> WishResult {
        self.claims()
            .filter_map(|claim| self.wish_of(claim))
            .reduce(stronger)
            .map_or(WishResult::NoVolume, WishResult::Wish)
    }

    /// What the pod wants of the volume with the claim `claim`.
    #[must_use]
    pub fn claim(&self, claim: &str) -> WishResult {
        self.wish_of(claim).map_or(WishResult::NoVolume, WishResult::Wish)
    }

    fn claims(&self) -> impl Iterator<Item = &str> {
        self.volumes.iter().filter_map(|v| match &v.source {
            Source::Claim(claim) => Some(claim.as_str()),
            Source::Inline(_) => None,
        })
    }

    fn wish_of(&self, claim: &str) -> Option<PodWish> {
        let is = |v: &&PodVolume| matches!(&v.source, Source::Claim(c) if c == claim);
        self.volumes.iter().filter(is).map(|v| v.wish).reduce(stronger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MountPropagation::{Bidirectional, HostToContainer, None as Nothing};
    use serde_json::json;

    fn pod(spec: &serde_json::Value) -> PodVolumes {
        let object = json!({"metadata": {"name": "p", "namespace": "ml", "uid": "u-1"}, "spec": spec});
        PodVolumes::of(&serde_json::from_value(object).unwrap()).unwrap()
    }

    fn mount(volume: &str, propagation: &str) -> serde_json::Value {
        json!({"name": volume, "mountPath": "/x", "mountPropagation": propagation})
    }

    fn wish(propagation: MountPropagation, kind: VolumeKind) -> WishResult {
        WishResult::Wish(PodWish { propagation, kind, user_namespace: false })
    }

    #[test]
    fn the_strongest_of_all_containers_counts() {
        let inline = json!([{"name": "a", "csi": {"driver": "d"}}, {"name": "b", "csi": {"driver": "d"}},
            {"name": "c", "csi": {"driver": "d"}}, {"name": "other", "csi": {"driver": "x"}}]);
        let pod = pod(&json!({
            "volumes": inline,
            "containers": [
                {"name": "1", "volumeMounts": [mount("a", "None"), {"name": "b", "mountPath": "/x"}]},
                {"name": "2", "volumeMounts": [mount("a", "HostToContainer"), mount("other", "Bidirectional")]},
            ],
            "initContainers": [{"name": "3", "volumeMounts": [mount("b", "Bidirectional")]}],
            "ephemeralContainers": [{"name": "4", "volumeMounts": [mount("a", "Bidirectional")]}],
        }));
        assert_eq!(pod.inline("d", "a"), wish(Bidirectional, VolumeKind::Inline));
        assert_eq!(pod.inline("d", "b"), wish(Bidirectional, VolumeKind::Inline));
        assert_eq!(pod.inline("d", "c"), wish(Nothing, VolumeKind::Inline));
        assert_eq!(pod.inline("d", "other"), WishResult::NoVolume);
        assert_eq!(pod.inline("d", "none"), WishResult::NoVolume);
        assert_eq!(pod.any_claim(), WishResult::NoVolume);
        assert_eq!(pod.service_account, "default");
    }

    #[test]
    fn claims_are_told_apart_only_where_they_differ() {
        let volumes = |second: &str| {
            pod(&json!({
                "serviceAccountName": "reader",
                "volumes": [
                    {"name": "a", "persistentVolumeClaim": {"claimName": "ca"}},
                    {"name": "a2", "persistentVolumeClaim": {"claimName": "ca"}},
                    {"name": "b", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
                    {"name": "inline", "csi": {"driver": "d"}},
                    {"name": "empty", "emptyDir": {}},
                ],
                "containers": [{"name": "1", "volumeMounts":
                    [mount("a2", "HostToContainer"), mount("b", second), mount("inline", "Bidirectional")]}],
            }))
        };
        let same = volumes("HostToContainer");
        assert_eq!(same.any_claim(), wish(HostToContainer, VolumeKind::ClaimOrGenericEphemeral));
        assert_eq!(same.all_claims(), same.any_claim());
        let differ = volumes("None");
        assert_eq!(differ.any_claim(), WishResult::DependsOnClaim);
        assert_eq!(differ.all_claims(), same.any_claim());
        assert_eq!(differ.claim("ca"), wish(HostToContainer, VolumeKind::Claim));
        assert_eq!(differ.claim("p-b"), wish(Nothing, VolumeKind::GenericEphemeral));
        assert_eq!(differ.claim("b"), WishResult::NoVolume);
        assert_eq!(differ.service_account, "reader");
    }

    #[test]
    fn only_a_pod_that_says_so_has_a_user_namespace() {
        for (said, expected) in [(json!(false), true), (json!(true), false), (json!(null), false)] {
            let pod =
                pod(&json!({"hostUsers": said, "volumes": [{"name": "a", "csi": {"driver": "d"}}], "containers": []}));
            let WishResult::Wish(wish) = pod.inline("d", "a") else { panic!("{pod:?}") };
            assert_eq!(wish.user_namespace, expected, "{said}");
        }
    }
}
