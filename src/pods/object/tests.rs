//! Both decoders read the same: this one and k8s-openapi's.

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
    let mount =
        |m: &whole::VolumeMount| VolumeMount { name: m.name.clone(), mount_propagation: m.mount_propagation.clone() };
    Container { volume_mounts: of.into_iter().flatten().map(mount).collect() }
}

/// The needed part of k8s-openapi's Pod.
fn part_of(pod: &whole::Pod) -> Pod {
    let volume = |v: &whole::Volume| PodVolume {
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

/// A Pod as the API server of Kubernetes 1.33 sends it, with all that server and kubelet add.
const POD: &str = include_str!("../../../tests/lookup/pod.json");

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

/// Some of the fields, in any order, each with one of its values.
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
