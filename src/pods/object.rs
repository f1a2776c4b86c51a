//! The part of a Pod, and of a PersistentVolume, that matters here, read from the API server's JSON without the rest.
//!
//! A whole Pod is a hundred times as much: what it runs with, its status, and the history of its fields
//! (`managedFields`) as a tree for each writer. Nothing of that is looked at, so nothing of it is built: it would only
//! leave the allocator, on every node, with the memory that one page of a list had needed.
//!
//! What is absent, null or unknown counts as with the types of k8s-openapi, whose metadata this has as well; the tests
//! decode by both.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, Metadata, NamespaceResourceScope, Resource};
use serde::de::{Deserialize, Deserializer};

/// The annotation of a mirror pod: the uid by which the kubelet knows its static pod, which isn't that of the object.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

/// A Pod (core/v1): who it is, its volumes, and how its containers mount them.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
pub struct Pod {
    /// Name, namespace, uid and resourceVersion, and of the annotations that of a mirror pod.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// What it runs.
    pub(super) spec: Option<PodSpec>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) service_account_name: Option<String>,
    pub(super) host_users: Option<bool>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) volumes: Vec<Volume>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) containers: Vec<Container>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) init_containers: Vec<Container>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) ephemeral_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Volume {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) name: String,
    pub(super) csi: Option<CsiSource>,
    pub(super) persistent_volume_claim: Option<ClaimSource>,
    /// Of a generic ephemeral volume only that it is one matters.
    pub(super) ephemeral: Option<Something>,
}

/// An object that is there, whatever is in it.
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

/// A PersistentVolume (core/v1): which claim it is bound to.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
pub struct PersistentVolume {
    /// As [`Pod::metadata`].
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
    /// The name of the claim in `namespace` that it is bound to, or set aside for.
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

/// Go writes an empty list or text as null, or not at all.
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
mod tests {
    use k8s_openapi::api::core::v1 as whole;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn metadata_of(meta: &ObjectMeta) -> ObjectMeta {
        let mirror = meta.annotations.as_ref().and_then(|a| a.get(MIRROR));
        ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            annotations: mirror.map(|uid| [(MIRROR.to_owned(), uid.clone())].into()),
            ..ObjectMeta::default()
        }
    }

    fn mounts(of: Option<&Vec<whole::VolumeMount>>) -> Container {
        let mount = |m: &whole::VolumeMount| VolumeMount {
            name: m.name.clone(),
            mount_propagation: m.mount_propagation.clone(),
        };
        Container { volume_mounts: of.into_iter().flatten().map(mount).collect() }
    }

    /// What of a whole Pod is to be read, by the names that k8s-openapi has for it.
    fn part_of(pod: &whole::Pod) -> Pod {
        let volume = |v: &whole::Volume| Volume {
            name: v.name.clone(),
            csi: v.csi.as_ref().map(|csi| CsiSource { driver: csi.driver.clone() }),
            persistent_volume_claim: v
                .persistent_volume_claim
                .as_ref()
                .map(|claim| ClaimSource { claim_name: claim.claim_name.clone() }),
            ephemeral: v.ephemeral.as_ref().map(|_| Something {}),
        };
        let spec = pod.spec.as_ref().map(|spec| PodSpec {
            service_account_name: spec.service_account_name.clone(),
            host_users: spec.host_users,
            volumes: spec.volumes.iter().flatten().map(volume).collect(),
            containers: spec.containers.iter().map(|c| mounts(c.volume_mounts.as_ref())).collect(),
            init_containers: spec.init_containers.iter().flatten().map(|c| mounts(c.volume_mounts.as_ref())).collect(),
            ephemeral_containers: spec
                .ephemeral_containers
                .iter()
                .flatten()
                .map(|c| mounts(c.volume_mounts.as_ref()))
                .collect(),
        });
        Pod { metadata: metadata_of(&pod.metadata), spec }
    }

    #[track_caller]
    fn same_part(object: &str) -> Pod {
        let whole: whole::Pod = serde_json::from_str(object).unwrap();
        let part: Pod = serde_json::from_str(object).unwrap();
        assert_eq!(part, part_of(&whole), "{object}");
        part
    }

    /// As an API server of Kubernetes 1.33 sends it, with everything that it and the kubelet put in.
    const POD: &str = include_str!("../../tests/lookup/pod.json");

    #[test]
    fn a_pod_as_the_api_server_sends_it_is_read_as_by_k8s_openapi() {
        let pod = same_part(POD);
        assert_eq!(pod.metadata.name.as_deref(), Some("trainer-0"));
        assert_eq!(pod.metadata.managed_fields, None);
        let spec = pod.spec.unwrap();
        assert_eq!(spec.service_account_name.as_deref(), Some("trainer"));
        let names: Vec<&str> = spec.volumes.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["datasets", "checkpoints", "scratch", "settings", "kube-api-access-7x2mq"]);
        assert_eq!(spec.volumes[0].csi, Some(CsiSource { driver: "csi.hostmount.dev".into() }));
        assert!(spec.volumes[2].ephemeral.is_some());
        assert_eq!(spec.containers[0].volume_mounts[0].mount_propagation.as_deref(), Some("HostToContainer"));
        assert_eq!((spec.containers.len(), spec.init_containers.len(), spec.ephemeral_containers.len()), (2, 1, 1));
    }

    #[test]
    fn what_is_missing_null_or_unknown_is_as_with_k8s_openapi() {
        for object in [
            json!({}),
            json!({"metadata": null, "spec": null, "status": null}),
            json!({"metadata": {}, "spec": {}}),
            json!({"spec": {"hostUsers": null, "containers": []}}),
            json!({"spec": {"hostUsers": false}}),
            json!({"metadata": {"annotations": null, "name": null, "uid": "u"}, "spec": {"containers": null}}),
            json!({"metadata": {"annotations": {}}, "spec": {"volumes": null, "containers": [], "initContainers": []}}),
            json!({"spec": {"volumes": [{}, {"name": null, "csi": {}}, {"persistentVolumeClaim": {"claimName": null}}]}}),
            json!({"spec": {"volumes": [{"csi": null, "ephemeral": null, "emptyDir": {}}, {"ephemeral": {}}]}}),
            json!({"spec": {"containers": [{}, {"volumeMounts": null}, {"volumeMounts": [{}, {"mountPropagation": null}]}]}}),
            json!({"kind": "Pod", "apiVersion": "v1", "new": [1, {}], "spec": {"new": {"volumes": []}, "containers": []}}),
        ] {
            same_part(&object.to_string());
        }
    }

    #[test]
    fn a_text_where_a_list_belongs_is_an_error_as_with_k8s_openapi() {
        for object in [
            json!([]),
            json!({"spec": {"containers": "x"}}),
            json!({"spec": {"volumes": [1]}}),
            json!({"metadata": {"uid": 1}}),
            json!({"spec": {"hostUsers": "false"}}),
            json!({"spec": {"containers": [{"volumeMounts": [{"name": 1}]}]}}),
        ] {
            let text = object.to_string();
            assert!(serde_json::from_str::<whole::Pod>(&text).is_err(), "{text}");
            assert!(serde_json::from_str::<Pod>(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn where_they_are_asked_for_is_the_same() {
        fn at<K: Resource>() -> [&'static str; 5] {
            [K::API_VERSION, K::GROUP, K::KIND, K::VERSION, K::URL_PATH_SEGMENT]
        }
        assert_eq!(at::<Pod>(), at::<whole::Pod>());
        assert_eq!(at::<PersistentVolume>(), at::<whole::PersistentVolume>());
    }

    #[test]
    fn a_persistent_volume_tells_its_claim_only_in_the_claim_s_namespace() {
        let object = json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": "v", "uid": "u", "resourceVersion": "7", "finalizers": ["kubernetes.io/pv-protection"]},
            "spec": {"capacity": {"storage": "1Gi"}, "csi": {"driver": "d", "volumeHandle": "h"},
                "claimRef": {"kind": "PersistentVolumeClaim", "namespace": "ml", "name": "c", "uid": "x"}},
            "status": {"phase": "Bound"},
        });
        let whole: whole::PersistentVolume = serde_json::from_value(object.clone()).unwrap();
        let part: PersistentVolume = serde_json::from_value(object).unwrap();
        assert_eq!(part.metadata, metadata_of(&whole.metadata));
        assert_eq!((part.claim_in("ml"), part.claim_in("web")), (Some("c"), None));
        for object in [json!({}), json!({"spec": {}}), json!({"spec": {"claimRef": {"name": "c"}}})] {
            let part: PersistentVolume = serde_json::from_value(object).unwrap();
            assert_eq!((part.claim_in("ml"), part.claim_in("")), (None, None));
        }
    }

    fn text() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            "[a-z\"\\\\é\n]{0,6}".prop_map(Value::from),
            Just(json!("HostToContainer")),
            Just(json!("Bidirectional"))
        ]
    }

    /// Some of the fields, each with one of its values, in any order.
    fn object(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
        let one = |(name, value): (&'static str, BoxedStrategy<Value>)| proptest::option::of((Just(name), value));
        fields
            .into_iter()
            .map(one)
            .collect::<Vec<_>>()
            .prop_map(|some| some.into_iter().flatten().map(|(name, value)| (name.to_owned(), value)).collect())
            .boxed()
    }

    fn list(of: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
        prop_oneof![1 => Just(Value::Null), 6 => proptest::collection::vec(of, 0..4).prop_map(Value::from)].boxed()
    }

    fn pods() -> BoxedStrategy<Value> {
        let text = || text().boxed();
        let extra = || Just(json!({"name": "x", "volumes": [{"csi": 1}], "volumeMounts": [true]})).boxed();
        let history = json!([{"manager": "kubelet", "operation": "Update", "apiVersion": "v1",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:name": {}}}, "subresource": "status"}]);
        let annotation = "[a-z]{0,4}".prop_map(Value::from).boxed();
        let metadata = object(vec![
            ("name", text()),
            ("namespace", text()),
            ("uid", text()),
            ("resourceVersion", text()),
            ("annotations", object(vec![("a", annotation.clone()), (MIRROR, annotation)])),
            ("labels", Just(json!({"uid": "y"})).boxed()),
            ("managedFields", Just(history).boxed()),
            ("extra", extra()),
        ]);
        let mount = object(vec![
            ("name", text()),
            ("mountPropagation", text()),
            ("mountPath", text()),
            ("readOnly", Just(json!(true)).boxed()),
            ("extra", extra()),
        ]);
        let container = || object(vec![("name", text()), ("volumeMounts", list(mount.clone())), ("extra", extra())]);
        let claim = json!({"volumeClaimTemplate": {"metadata": {"name": "z"}, "spec": {"volumeName": "w"}}});
        let volume = object(vec![
            ("name", text()),
            ("csi", object(vec![("driver", text()), ("volumeAttributes", Just(json!({"driver": "n"})).boxed())])),
            ("persistentVolumeClaim", object(vec![("claimName", text()), ("readOnly", Just(json!(false)).boxed())])),
            ("ephemeral", prop_oneof![Just(Value::Null), Just(json!({})), Just(claim)].boxed()),
            ("emptyDir", Just(json!({"medium": "Memory"})).boxed()),
            ("extra", extra()),
        ]);
        let spec = object(vec![
            ("serviceAccountName", text()),
            ("hostUsers", prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from)].boxed()),
            ("volumes", list(volume)),
            ("containers", list(container())),
            ("initContainers", list(container())),
            ("ephemeralContainers", list(container())),
            ("nodeName", text()),
            ("extra", extra()),
        ]);
        let status = json!({"phase": "Running", "containerStatuses": [{"name": "c", "volumeMounts": [{"name": "v"}]}]});
        object(vec![("metadata", metadata), ("spec", spec), ("status", Just(status).boxed()), ("extra", extra())])
    }

    proptest! {
        #[test]
        fn any_pod_is_read_as_by_k8s_openapi(object in pods()) {
            let whole: whole::Pod = serde_json::from_value(object.clone()).unwrap();
            let part: Pod = serde_json::from_str(&object.to_string()).unwrap();
            prop_assert_eq!(part, part_of(&whole));
        }
    }
}
