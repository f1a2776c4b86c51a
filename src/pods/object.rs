//! Decodes the needed part of a Pod and of a PersistentVolume from the API server's JSON.
//!
//! A whole Pod is a hundred times larger: its containers' settings, its status, and the history of its fields
//! (`managedFields`) as a tree for each writer. None of that is used, so none of it is built. Otherwise the allocator
//! of every node would keep the memory that one page of a list took.
//!
//! Absent, null and unknown fields are treated as k8s-openapi does, whose metadata type is used too. The tests decode
//! with both.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, Metadata, NamespaceResourceScope, Resource};
use serde::de::{Deserialize, Deserializer};

/// A mirror pod's annotation with the uid by which the kubelet knows the static pod. The object's own uid is another
/// one.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

/// The needed part of a Pod (core/v1): its identity, its volumes, and how its containers mount them.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
pub struct Pod {
    /// Name, namespace, uid, resourceVersion, and the mirror pod's annotation.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Its volumes and containers.
    pub(super) spec: Option<PodSpec>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) service_account_name: Option<String>,
    pub(super) host_users: Option<bool>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) volumes: Vec<PodVolume>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) containers: Vec<Container>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) init_containers: Vec<Container>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) ephemeral_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodVolume {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) name: String,
    pub(super) csi: Option<CsiSource>,
    pub(super) persistent_volume_claim: Option<ClaimSource>,
    /// Present for a generic ephemeral volume. Its content doesn't matter.
    pub(super) ephemeral: Option<Something>,
}

/// An object whose content is ignored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
pub(super) struct Something {}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
pub(super) struct CsiSource {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) driver: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClaimSource {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) claim_name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) volume_mounts: Vec<VolumeMount>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VolumeMount {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) name: String,
    pub(super) mount_propagation: Option<String>,
}

/// The needed part of a PersistentVolume (core/v1): the claim that it is bound to.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
pub struct PersistentVolume {
    /// Like [`Pod::metadata`].
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    spec: Option<PersistentVolumeSpec>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct PersistentVolumeSpec {
    claim_ref: Option<ClaimRef>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
struct ClaimRef {
    namespace: Option<String>,
    name: Option<String>,
}

impl PersistentVolume {
    /// The name of the claim that it is bound to or reserved for, if that claim is in `namespace`.
    #[must_use]
    pub fn claim_in(&self, namespace: &str) -> Option<&str> {
        let claim = self.spec.as_ref()?.claim_ref.as_ref()?;
        claim.name.as_deref().filter(|_| claim.namespace.as_deref() == Some(namespace))
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    annotations: Option<Annotations>,
}

#[derive(serde::Deserialize)]
struct Annotations {
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<String>,
}

fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let Some(meta) = Option::<Meta>::deserialize(from)? else { return Ok(ObjectMeta::default()) };
    let Meta { name, namespace, uid, resource_version, annotations } = meta;
    let mirror = annotations.and_then(|annotations| annotations.mirror);
    let annotations = mirror.map(|uid| [(MIRROR.to_owned(), uid)].into());
    Ok(ObjectMeta { name, namespace, uid, resource_version, annotations, ..ObjectMeta::default() })
}

/// Go writes an empty list or string as null, or leaves it out.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

impl Resource for Pod {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "Pod";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "pods";
    type Scope = NamespaceResourceScope;
}

impl Metadata for Pod {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Resource for PersistentVolume {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "PersistentVolume";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "persistentvolumes";
    type Scope = ClusterResourceScope;
}

impl Metadata for PersistentVolume {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests;
