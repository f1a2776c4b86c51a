//! Which propagation a pod wants of a volume: read from the Pod object, pure.
//!
//! The kubelet tells a driver who the pod is, never the `mountPropagation` of its containers, and names the volume
//! only by the path: an inline volume by its name in the pod, a claim by the name of the PersistentVolume that is
//! bound to it. Which claim that is doesn't matter as long as all the pod's claims want the same.

pub mod object;

use crate::propagation::MountPropagation;
use object::{Container, MIRROR, Pod, VolumeMount};

/// Where a volume of a pod comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// From a CSI driver of this name, inline.
    Inline(String),
    /// From the claim of this name.
    Claim(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PodVolume {
    name: String,
    source: Source,
    /// The strongest that a container asks for, ephemeral ones too.
    wish: MountPropagation,
}

/// What of a Pod matters here. A pod's volumes and mounts can't be changed but for added ephemeral containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodVolumes {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The service account that it runs as.
    pub service_account: String,
    /// The uid by which the kubelet knows it: it is part of the paths of its volumes.
    pub uid: String,
    volumes: Vec<PodVolume>,
}

/// The answer for a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This is wanted.
    Wish(MountPropagation),
    /// It depends on which of the pod's claims the PersistentVolume is bound to.
    DependsOnClaim,
    /// The pod has no such volume.
    NoVolume,
}

/// What a mount asks for. Nothing said is None (Pod API, VolumeMount.mountPropagation); so is a value that this
/// version doesn't know, which the API server doesn't let through either.
fn asked(mount: &VolumeMount) -> MountPropagation {
    let said = mount.mount_propagation.as_deref();
    MountPropagation::ALL.into_iter().find(|p| Some(p.name()) == said).unwrap_or_default()
}

impl PodVolumes {
    /// Reads a pod. None for one without name or uid, which the API server does not have.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let meta = &pod.metadata;
        let name = meta.name.clone()?;
        let mirrored = meta.annotations.as_ref().and_then(|a| a.get(MIRROR)).cloned();
        // A container that joins a running pod can't change the volume that the pod has: see `Note::is_repeated_by`.
        let containers: [&[Container]; 3] = [&spec.containers, &spec.init_containers, &spec.ephemeral_containers];
        let strongest = |volume: &str| {
            let mounts = containers.into_iter().flatten().flat_map(|container| &container.volume_mounts);
            mounts.filter(|m| m.name == volume).map(asked).max().unwrap_or_default()
        };
        let volumes = spec.volumes.iter().filter_map(|volume| {
            let source = match volume {
                _ if volume.csi.is_some() => Source::Inline(volume.csi.as_ref()?.driver.clone()),
                _ if volume.ephemeral.is_some() => Source::Claim(format!("{name}-{}", volume.name)),
                _ => Source::Claim(volume.persistent_volume_claim.as_ref()?.claim_name.clone()),
            };
            Some(PodVolume { name: volume.name.clone(), source, wish: strongest(&volume.name) })
        });
        Some(Self {
            namespace: meta.namespace.clone()?,
            uid: mirrored.or_else(|| meta.uid.clone())?,
            service_account: spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned()),
            volumes: volumes.collect(),
            name,
        })
    }

    /// What it wants of the inline volume `name` of `driver`.
    #[must_use]
    pub fn inline(&self, driver: &str, name: &str) -> Answer {
        let is = |v: &&PodVolume| v.name == name && matches!(&v.source, Source::Inline(d) if d == driver);
        self.volumes.iter().find(is).map_or(Answer::NoVolume, |v| Answer::Wish(v.wish))
    }

    /// What it wants of a claimed volume, of which it is not known by which claim.
    #[must_use]
    pub fn any_claim(&self) -> Answer {
        // Two volumes of one claim are published once, for both.
        let wishes: Vec<MountPropagation> = self.claims().filter_map(|claim| self.wish_of(claim)).collect();
        match wishes.split_first() {
            None => Answer::NoVolume,
            Some((first, others)) if others.iter().all(|w| w == first) => Answer::Wish(*first),
            Some(_) => Answer::DependsOnClaim,
        }
    }

    /// What it wants of the volume that it claims by `claim`.
    #[must_use]
    pub fn claim(&self, claim: &str) -> Answer {
        self.wish_of(claim).map_or(Answer::NoVolume, Answer::Wish)
    }

    fn claims(&self) -> impl Iterator<Item = &str> {
        self.volumes.iter().filter_map(|v| match &v.source {
            Source::Claim(claim) => Some(claim.as_str()),
            Source::Inline(_) => None,
        })
    }

    fn wish_of(&self, claim: &str) -> Option<MountPropagation> {
        let is = |v: &&PodVolume| matches!(&v.source, Source::Claim(c) if c == claim);
        self.volumes.iter().filter(is).map(|v| v.wish).max()
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
        assert_eq!(pod.inline("d", "a"), Answer::Wish(Bidirectional));
        assert_eq!(pod.inline("d", "b"), Answer::Wish(Bidirectional));
        assert_eq!(pod.inline("d", "c"), Answer::Wish(Nothing));
        assert_eq!(pod.inline("d", "other"), Answer::NoVolume);
        assert_eq!(pod.inline("d", "none"), Answer::NoVolume);
        assert_eq!(pod.any_claim(), Answer::NoVolume);
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
        assert_eq!(same.any_claim(), Answer::Wish(HostToContainer));
        let differ = volumes("None");
        assert_eq!(differ.any_claim(), Answer::DependsOnClaim);
        assert_eq!(differ.claim("ca"), Answer::Wish(HostToContainer));
        assert_eq!(differ.claim("p-b"), Answer::Wish(Nothing));
        assert_eq!(differ.claim("b"), Answer::NoVolume);
        assert_eq!(differ.service_account, "reader");
    }

    #[test]
    fn a_mirror_pod_goes_by_the_uid_of_its_static_pod() {
        let object = json!({
            "metadata": {"name": "p", "namespace": "kube-system", "uid": "of-the-object",
                "annotations": {"kubernetes.io/config.mirror": "of-the-kubelet"}},
            "spec": {"containers": []},
        });
        let pod = PodVolumes::of(&serde_json::from_value(object).unwrap()).unwrap();
        assert_eq!(pod.uid, "of-the-kubelet");
    }
}
