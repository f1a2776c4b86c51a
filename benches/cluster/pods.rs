//! The objects of the simulated cluster.

use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use serde_json::{Value, json};

pub(crate) const DRIVER: &str = "csi.hostmount.dev";
/// Over how many namespaces the pods are spread.
const NAMESPACES: usize = 10;

pub(crate) fn node_name(node: usize) -> String {
    format!("node-{node:04}.example.internal")
}

pub(crate) fn namespaces() -> impl Iterator<Item = String> {
    (0..NAMESPACES).map(|n| format!("team-{n}"))
}

pub(crate) fn namespace(n: usize) -> String {
    format!("team-{}", n % NAMESPACES)
}

fn container(name: &str, mounts: &Value) -> Value {
    let env: Vec<Value> =
        (0..3).map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value-{n}-of-the-service")})).collect();
    json!({
        "name": name, "image": format!("registry.example.com/team/service/{name}:1.4.{}", name.len()),
        "command": ["/usr/local/bin/serve"], "args": ["--listen=:8080", "--config=/etc/service/service.yaml", "--verbose=2"],
        "env": env, "ports": [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
        "livenessProbe": {"httpGet": {"path": "/livez", "port": 8080}, "periodSeconds": 10},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 5},
        "securityContext": {"runAsNonRoot": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    })
}

fn pod(node: usize, name: &str, volumes: &[Value], mounts: &[Value]) -> Pod {
    let token = json!({"name": "kube-api-access-x7k2p", "projected": {"sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    let common = [
        json!({"name": "config", "configMap": {"name": "service"}}),
        json!({"name": "scratch", "emptyDir": {}}),
        token,
    ];
    let common_mounts = [
        json!({"name": "config", "mountPath": "/etc/service"}),
        json!({"name": "scratch", "mountPath": "/tmp"}),
        json!({"name": "kube-api-access-x7k2p", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}),
    ];
    let volumes: Vec<Value> = volumes.iter().chain(&common).cloned().collect();
    let mounts = json!(mounts.iter().chain(&common_mounts).cloned().collect::<Vec<_>>());
    let object = json!({
        "metadata": {
            "name": name, "namespace": namespace(node),
            "labels": {"app.kubernetes.io/name": "service", "app.kubernetes.io/instance": "service-production",
                "app.kubernetes.io/version": "1.4.2", "pod-template-hash": "7d4b9c6f5d"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "service-7d4b9c6f5d",
                "uid": "5b1f4d0e-7c1e-4a34-9c5a-0f6b5a0f4c11", "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "nodeName": node_name(node), "serviceAccountName": "service", "automountServiceAccountToken": false,
            "containers": [container("service", &mounts), container("proxy", &mounts)],
            "volumes": volumes,
            "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "batch", "effect": "NoSchedule"}],
        },
    });
    serde_json::from_value(object).unwrap()
}

fn mount(volume: &str, propagation: &str) -> Value {
    json!({"name": volume, "mountPath": format!("/data/{volume}"), "mountPropagation": propagation})
}

/// A pod with a volume `data` of the driver.
pub(crate) fn inline(node: usize, name: &str) -> Pod {
    let volume = json!({"name": "data", "csi": {"driver": DRIVER, "volumeAttributes": {"volume": "data"}}});
    pod(node, name, &[volume], &[mount("data", "HostToContainer")])
}

/// A pod of two claims, which differ in what they want.
pub(crate) fn claiming(node: usize, name: &str) -> Pod {
    let claim = |volume: &str, claim: &str| json!({"name": volume, "persistentVolumeClaim": {"claimName": claim}});
    pod(
        node,
        name,
        &[claim("data", &format!("{name}-data")), claim("other", "shared")],
        &[mount("data", "HostToContainer"), mount("other", "None")],
    )
}

/// The PersistentVolume of such a pod's `data`.
pub(crate) fn persistent_volume(node: usize, pod: &str) -> PersistentVolume {
    let object = json!({
        "metadata": {"name": format!("pv-{pod}")},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"],
            "claimRef": {"kind": "PersistentVolumeClaim", "namespace": namespace(node), "name": format!("{pod}-data")},
            "csi": {"driver": DRIVER, "volumeHandle": "data"},
        },
    });
    serde_json::from_value(object).unwrap()
}

/// The states that a kubelet reports of a pod, one after the other.
pub(crate) fn statuses() -> Vec<Value> {
    let condition = |kind: &str, is: bool| {
        json!({"type": kind, "status": if is { "True" } else { "False" },
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let container = |name: &str, state: Value, ready: bool| {
        json!({"name": name, "ready": ready, "restartCount": 0, "started": ready,
        "image": format!("registry.example.com/team/service/{name}:1.4.2"), "imageID": "", "state": state})
    };
    let status = |phase: &str, ready: bool, state: Value| {
        json!({"status": {
            "phase": phase, "hostIP": "10.1.2.3", "podIP": "10.244.1.17", "podIPs": [{"ip": "10.244.1.17"}],
            "startTime": "2026-01-01T00:00:00Z", "qosClass": "Burstable",
            "conditions": [condition("PodReadyToStartContainers", true), condition("Initialized", true),
                condition("Ready", ready), condition("ContainersReady", ready), condition("PodScheduled", true)],
            "containerStatuses": [container("service", state.clone(), ready), container("proxy", state, ready)],
        }})
    };
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:01Z"}});
    vec![
        status("Pending", false, json!({"waiting": {"reason": "ContainerCreating"}})),
        status("Running", false, running.clone()),
        status("Running", true, running),
    ]
}

/// What it reports of one that was told to end.
pub(crate) fn ended() -> Value {
    json!({"status": {"phase": "Succeeded", "conditions": [{"type": "Ready", "status": "False",
        "reason": "PodCompleted", "lastTransitionTime": "2026-01-01T00:00:09Z"}]}})
}
