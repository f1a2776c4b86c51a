//! The chart, and what is made of it: rendered by Helm, held against Kubernetes' description of its API, and against
//! what the plugin itself reads of it. Whether it works on a cluster is for the e2e to say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod manifests;
mod render;
mod values;

use allowlist::config::AllowList;
use allowlist::names::AbsPath;
use clap::Parser;
use hostmount::cli::Cli;
use render::{helm, of_kind, one, template, validate};
use serde_json::{Value, json};

/// Two entries.
fn entries() -> Value {
    json!([
        {"name": "datasets", "path": "/mnt/datasets", "readOnly": true, "allow": [{"namespaces": ["*"]}]},
        {"name": "media", "path": "/mnt/media", "propagation": "HostToContainer", "missing": {"create": {"mode": "0750"}},
         "allow": [{"namespaces": ["player", "team-?"], "serviceAccounts": ["viewer"]}]},
    ])
}

/// Values that turn on all that is off by default.
fn everything() -> Value {
    json!({
        "entries": entries(), "preflight": {"enabled": true}, "commonLabels": {"team": "storage"},
        "commonAnnotations": {"owner": "storage"}, "podLabels": {"a": "b"}, "podAnnotations": {"c": "d"},
        "imagePullSecrets": [{"name": "pull"}], "affinity": {"nodeAffinity": {}}, "seLinuxOptions": {"type": "spc_t"},
        "image": {"digest": format!("sha256:{}", "0".repeat(64))}, "admin": {"address": "[::]", "port": 9000},
        "extraArgs": ["--mount-namespace=caller"], "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "serviceAccount": {"name": "someone", "annotations": {"e": "f"}}, "updateStrategy": {"maxUnavailable": "10%"},
        "openshift": {"scc": true, "csiEphemeralVolumeProfile": "restricted"},
        "networkPolicy": {"from": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]},
        "metrics": {"service": {"enabled": true, "annotations": {"g": "h"}}, "serviceMonitor": {"enabled": true},
                    "podMonitor": {"enabled": true}},
    })
}

/// What people set.
fn matrix() -> Vec<Value> {
    vec![
        json!({}),
        json!({"entries": entries()}),
        everything(),
        json!({"podLookup": "off", "events": false, "entries": entries()}),
        json!({"kubeletDir": "/var/lib/k0s/kubelet", "driverName": "two.hostmount.dev", "fullnameOverride": "two"}),
        json!({"kubeletDir": "/var/snap/microk8s/common/var/lib/kubelet", "nameOverride": "mounts"}),
        json!({"admissionPolicy": {"enabled": false}, "rbac": {"create": false}, "serviceAccount": {"create": false}}),
        json!({"entries": (0..1000).map(|n| json!({"name": format!("e{n}"), "path": format!("/mnt/e/{n}"),
               "allow": [{"namespaces": ["*"]}]})).collect::<Vec<_>>()}),
    ]
}

#[test]
fn helm_lint_has_nothing_to_say() {
    for values in matrix() {
        helm(&["lint", "--strict", "--quiet", "charts/hostmount"], &values).unwrap_or_else(|e| panic!("{values}\n{e}"));
    }
}

#[test]
fn kubernetes_would_take_every_object() {
    for values in matrix() {
        let objects = template(&values);
        validate(&objects);
        assert!(objects.len() >= 3, "{values}");
    }
}

#[test]
#[should_panic(expected = "hostMount")]
fn a_field_that_kubernetes_does_not_know_is_noticed() {
    let mut object = one(&template(&json!({})), "DaemonSet").clone();
    object["spec"]["template"]["spec"]["hostMount"] = json!(true);
    validate(&[object]);
}

#[test]
fn names_and_labels_are_consistent() {
    for values in matrix() {
        let objects = template(&values);
        let daemon = one(&objects, "DaemonSet");
        let (selector, labels) =
            (&daemon["spec"]["selector"]["matchLabels"], &daemon["spec"]["template"]["metadata"]["labels"]);
        for (key, value) in selector.as_object().unwrap() {
            assert_eq!(labels[key], *value);
        }
        assert_eq!(selector.as_object().unwrap().len(), 2, "what is added later can't be selected by: {selector}");
        let config = one(&objects, "ConfigMap");
        let volumes = daemon["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
        assert!(volumes.iter().any(|v| v["configMap"]["name"] == config["metadata"]["name"]));
        for service in of_kind(&objects, "Service").iter().chain(&of_kind(&objects, "ServiceMonitor")) {
            let of = service["spec"]["selector"].get("matchLabels").unwrap_or(&service["spec"]["selector"]);
            assert_eq!(of, selector);
        }
        for object in &objects {
            assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/instance"], "hostmount", "{object}");
        }
    }
}

#[test]
fn the_plugin_may_do_what_it_does_and_nothing_else() {
    let objects = template(&everything());
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["get"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ]);
    assert_eq!(one(&objects, "ClusterRole")["rules"], rules);
    assert!(of_kind(&objects, "Role").is_empty());
    let binding = one(&objects, "ClusterRoleBinding");
    assert_eq!(binding["subjects"][0]["name"], "someone");
    assert_eq!(one(&objects, "ServiceAccount")["metadata"]["name"], "someone");
    assert_eq!(one(&objects, "DaemonSet")["spec"]["template"]["spec"]["serviceAccountName"], "someone");

    let objects = template(&json!({"podLookup": "off"}));
    assert_eq!(one(&objects, "ClusterRole")["rules"], json!([rules[2]]));
    let objects = template(&json!({"events": false}));
    assert_eq!(one(&objects, "ClusterRole")["rules"], json!([rules[0], rules[1]]));

    // Without either it asks nothing of the API server, and has no token.
    let objects = template(&json!({"podLookup": "off", "events": false}));
    assert!(of_kind(&objects, "ClusterRole").is_empty() && of_kind(&objects, "ClusterRoleBinding").is_empty());
    assert_eq!(one(&objects, "DaemonSet")["spec"]["template"]["spec"]["automountServiceAccountToken"], false);
}

#[test]
fn the_containers_have_only_what_they_need_of_the_node() {
    for values in matrix() {
        let objects = template(&values);
        let driver = values["driverName"].as_str().unwrap_or("csi.hostmount.dev");
        let kubelet = values["kubeletDir"].as_str().unwrap_or("/var/lib/kubelet");
        let pod = &one(&objects, "DaemonSet")["spec"]["template"]["spec"];
        let paths: Vec<&str> =
            pod["volumes"].as_array().unwrap().iter().filter_map(|v| v["hostPath"]["path"].as_str()).collect();
        assert_eq!(paths, [format!("{kubelet}/plugins/{driver}"), format!("{kubelet}/plugins_registry")]);
        assert!(pod["hostNetwork"].is_null() && pod["hostIPC"].is_null());
        let init = pod["initContainers"].as_array().cloned().unwrap_or_default();
        for container in pod["containers"].as_array().unwrap().iter().chain(&init) {
            let security = &container["securityContext"];
            assert_eq!(security["privileged"], false);
            let capabilities = json!({"drop": ["ALL"], "add": ["SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE"]});
            assert_eq!(security["capabilities"], capabilities);
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
            assert_eq!(security["readOnlyRootFilesystem"], true);
            for mount in container["volumeMounts"].as_array().unwrap() {
                assert!(mount["mountPropagation"].is_null(), "{mount}");
                assert!(mount["subPath"].is_null(), "a file mounted by subPath never changes: {mount}");
            }
        }
    }
}

#[test]
fn the_update_never_has_two_plugins_on_a_node() {
    let objects = template(&everything());
    let strategy = &one(&objects, "DaemonSet")["spec"]["updateStrategy"];
    assert_eq!(*strategy, json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"}}));
}

/// The binary's own parsers read what the chart gives it.
#[test]
fn the_plugin_understands_its_arguments_and_its_allow_list() {
    for values in matrix() {
        let objects = template(&values);
        let pod = &one(&objects, "DaemonSet")["spec"]["template"]["spec"];
        let init = pod["initContainers"].as_array().cloned().unwrap_or_default();
        for container in pod["containers"].as_array().unwrap().iter().chain(&init) {
            let mut args = vec!["hostmount"];
            args.extend(container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()));
            if args[1] == "serve" {
                assert!(container["env"][0]["name"] == "NODE_NAME");
                args.push("--node-id=node");
            }
            Cli::try_parse_from(&args).unwrap_or_else(|e| panic!("{args:?}: {e}"));
        }
        let text = one(&objects, "ConfigMap")["data"]["entries.yaml"].as_str().unwrap();
        let list = AllowList::parse(text, &AbsPath::parse("/var/lib/kubelet").unwrap()).unwrap();
        assert_eq!(list.len(), values["entries"].as_array().map_or(0, Vec::len));
    }
}

#[test]
fn the_csidriver_object_is_what_the_plugin_needs() {
    let spec = json!({
        "attachRequired": false, "podInfoOnMount": true, "fsGroupPolicy": "None", "requiresRepublish": false,
        "seLinuxMount": false, "storageCapacity": false, "volumeLifecycleModes": ["Persistent", "Ephemeral"],
    });
    let objects = template(&json!({}));
    assert_eq!(one(&objects, "CSIDriver")["spec"], spec);
    let label = "security.openshift.io/csi-ephemeral-volume-profile";
    assert!(one(&objects, "CSIDriver")["metadata"]["labels"][label].is_null());
    assert_eq!(one(&template(&everything()), "CSIDriver")["metadata"]["labels"][label], "restricted");
}

/// 338 connections of a stranger killed the plugin: nobody but the kubelet reaches the port unless the values say so.
#[test]
fn the_admin_port_is_open_to_those_that_the_values_name() {
    let spec = |values: &Value| one(&template(values), "NetworkPolicy")["spec"].clone();
    let own = spec(&json!({}));
    let labels = json!({"app.kubernetes.io/name": "hostmount", "app.kubernetes.io/instance": "hostmount"});
    assert_eq!(own["podSelector"]["matchLabels"], labels);
    assert_eq!((&own["policyTypes"], &own["ingress"]), (&json!(["Ingress"]), &json!([])));
    let from = json!([{"podSelector": {"matchLabels": {"app": "prometheus"}}}]);
    assert_eq!(spec(&everything())["ingress"], json!([{"from": from, "ports": [{"port": 9000, "protocol": "TCP"}]}]));
    let off = template(&json!({"networkPolicy": {"enabled": false}}));
    assert!(of_kind(&off, "NetworkPolicy").is_empty());
    // It listens on nothing else.
    let objects = template(&everything());
    let container = &one(&objects, "DaemonSet")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["ports"].as_array().unwrap().len(), 1);
}

#[test]
fn what_is_scraped_is_what_the_plugin_serves() {
    let objects = template(&everything());
    let container = &one(&objects, "DaemonSet")["spec"]["template"]["spec"]["containers"][0];
    let port = &container["ports"][0];
    assert_eq!((port["name"].as_str(), port["containerPort"].as_i64()), (Some("metrics"), Some(9000)));
    let args = container["args"].as_array().unwrap();
    assert!(args.contains(&json!("--admin-address=[::]:9000")), "{args:?}");
    assert_eq!(one(&objects, "Service")["spec"]["ports"][0]["targetPort"], "metrics");
    for (kind, endpoints) in [("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")] {
        let endpoint = &one(&objects, kind)["spec"][endpoints][0];
        assert_eq!((&endpoint["port"], &endpoint["path"]), (&json!("metrics"), &json!("/metrics")), "{kind}");
    }
    // A monitor of services needs one; nothing of it is there unless asked for.
    let monitor = json!({"metrics": {"serviceMonitor": {"enabled": true}}, "networkPolicy": {"enabled": false}});
    let monitor = template(&monitor);
    assert_eq!(of_kind(&monitor, "Service").len(), 1);
    let none = template(&json!({}));
    assert!(["Service", "ServiceMonitor", "PodMonitor"].iter().all(|kind| of_kind(&none, kind).is_empty()));
}
