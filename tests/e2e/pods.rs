//! The objects that users write.

use serde_json::{Value, json};

use crate::cluster::{DRIVER, Place, busybox};
use crate::hands::the_node;

/// The label that every node has of its name.
pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";

/// A volume in the pod itself.
pub(crate) fn inline(entry: &str, sub_path: &str) -> Value {
    let mut attributes = json!({"volume": entry});
    if !sub_path.is_empty() {
        attributes["subPath"] = json!(sub_path);
    }
    json!({"name": "data", "csi": {"driver": DRIVER, "volumeAttributes": attributes}})
}

/// A volume by a claim.
pub(crate) fn claim(name: &str) -> Value {
    json!({"name": "data", "persistentVolumeClaim": {"claimName": name}})
}

/// A persistent volume of a handle, and a claim in the test's namespace that is bound to it. Both of one name.
pub(crate) fn persistent(place: &Place, name: &str, handle: &str) -> [Value; 2] {
    let size = json!({"storage": "1Mi"});
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name, "labels": place.labels()},
        "spec": {
            "capacity": size, "accessModes": ["ReadWriteMany"], "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain", "csi": {"driver": DRIVER, "volumeHandle": handle},
            "claimRef": {"namespace": place.namespace, "name": name},
        },
    });
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": place.namespace},
        "spec": {
            "accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": name,
            "resources": {"requests": size},
        },
    });
    [volume, claim]
}

/// A container that has the volume at /data and sleeps. One with Bidirectional must be privileged.
pub(crate) fn container(name: &str, propagation: &str) -> Value {
    json!({
        "name": name, "image": busybox(), "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "trap exit TERM; sleep 1000000 & wait"],
        "securityContext": {"privileged": propagation == "Bidirectional"},
        "volumeMounts": [{"name": "data", "mountPath": "/data", "mountPropagation": propagation}],
    })
}

/// A pod on the node of the tests.
pub(crate) fn pod(place: &Place, name: &str, volume: &Value, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": place.namespace},
        "spec": {
            "terminationGracePeriodSeconds": 1, "enableServiceLinks": false, "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}], "nodeSelector": {HOSTNAME: the_node()},
            "volumes": [volume], "containers": containers,
        },
    })
}

/// The same pod on another node.
pub(crate) fn on(node: &str, mut pod: Value) -> Value {
    pod["spec"]["nodeSelector"] = json!({HOSTNAME: node});
    pod
}

/// A pod of one container `c`.
pub(crate) fn simple(place: &Place, name: &str, volume: &Value, propagation: &str) -> Value {
    pod(place, name, volume, &[container("c", propagation)])
}
