//! The nodes of the cluster, and a hand on each: a privileged pod that runs scripts as the node's root.

use std::sync::{Once, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{SYSTEM, apply, busybox, kubectl, try_kubectl, until};

/// The namespace of the hands.
const AGENT: &str = "hostmount-e2e-agent";

/// The names of all nodes, and of those that take pods which tolerate no taint.
fn names() -> &'static (Vec<String>, Vec<String>) {
    static NAMES: OnceLock<(Vec<String>, Vec<String>)> = OnceLock::new();
    NAMES.get_or_init(|| {
        let list: Value = serde_json::from_str(&kubectl(&["get", "nodes", "--output=json"])).unwrap();
        let items = list["items"].as_array().unwrap();
        let name = |node: &Value| node["metadata"]["name"].as_str().unwrap().to_owned();
        // The cluster's own marks come and go: a node that is ready may have the one of the time before for a moment.
        let passing = |taint: &Value| taint["key"].as_str().is_some_and(|key| key.starts_with("node.kubernetes.io/"));
        let free =
            items.iter().filter(|node| node["spec"]["taints"].as_array().is_none_or(|all| all.iter().all(passing)));
        (items.iter().map(name).collect(), free.map(name).collect())
    })
}

pub(crate) fn nodes() -> &'static [String] {
    &names().0
}

/// Two nodes that take pods; `None`, said aloud, where there are fewer and `HOSTMOUNT_E2E_SEVERAL` doesn't forbid it.
pub(crate) fn two_workers() -> Option<(&'static str, &'static str)> {
    let free = &names().1;
    if let [first, second, ..] = &free[..] {
        return Some((first, second));
    }
    assert!(std::env::var("HOSTMOUNT_E2E_SEVERAL").is_err(), "two nodes that take pods are expected: {:?}", names());
    println!("SKIPPED: it takes two nodes that take pods, and this cluster has {}: tests/e2e/kind/run", free.len());
    None
}

/// The node of all tests that need just one: `HOSTMOUNT_E2E_NODE`, or the first that takes pods.
pub(crate) fn the_node() -> &'static str {
    static NODE: OnceLock<String> = OnceLock::new();
    NODE.get_or_init(|| {
        let named = std::env::var("HOSTMOUNT_E2E_NODE").ok();
        named.or_else(|| names().1.first().cloned()).expect("a node that takes pods")
    })
}

/// Runs a command of `HOSTMOUNT_E2E_...` with a node's name as its last word.
#[track_caller]
pub(crate) fn command_on(variable: &str, node: &str) {
    let command = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: README.md beside"));
    let done = std::process::Command::new("sh").args(["-c", &format!("{command} {node}")]).output().unwrap();
    assert!(done.status.success(), "{command} {node}: {done:?}");
}

/// Runs a script of a node's own shell in the node's mount namespace.
pub(crate) fn try_node_at(node: &str, script: &str) -> Result<String, String> {
    let enter = ["nsenter", "--target", "1", "--mount", "--", "sh", "-ec", script];
    let exec = ["exec", "--namespace", AGENT, &agent(node), "--"];
    try_kubectl(&[&exec[..], &enter[..]].concat())
}

#[track_caller]
pub(crate) fn node_at(node: &str, script: &str) -> String {
    try_node_at(node, script).unwrap_or_else(|e| panic!("on the node {node}: {script}\n{e}"))
}

pub(crate) fn try_node(script: &str) -> Result<String, String> {
    try_node_at(the_node(), script)
}

#[track_caller]
pub(crate) fn node(script: &str) -> String {
    node_at(the_node(), script)
}

fn agent(node: &str) -> String {
    format!("agent-{node}")
}

/// What all tests need, once: the hands, and a namespace for the plugin.
#[track_caller]
pub(crate) fn hand_on_the_node() {
    static ONCE: Once = Once::new();
    ONCE.call_once_force(|_| {
        let privileged = json!({"pod-security.kubernetes.io/enforce": "privileged"});
        for name in [AGENT, SYSTEM] {
            apply(&[
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": privileged}}),
            ]);
        }
        // Without it no pod is admitted, and it takes the controller manager a moment.
        until("the service account of the hands", Duration::from_secs(60), || {
            try_kubectl(&["get", "serviceaccount", "default", "--namespace", AGENT]).map(drop)
        });
        let pods: Vec<Value> = nodes().iter().map(|node| hand(node)).collect();
        apply(&pods);
        kubectl(&["wait", "--namespace", AGENT, "pod", "--all", "--for=condition=Ready", "--timeout=2m"]);
    });
    for node in nodes() {
        until("the hand on the node", Duration::from_secs(60), || try_node_at(node, "true").map(drop));
    }
}

fn hand(node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": agent(node), "namespace": AGENT, "labels": {"app": AGENT}},
        "spec": {
            // Past the scheduler: a hand is wherever there is a kubelet.
            "nodeName": node, "hostPID": true, "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "agent", "image": busybox(), "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "1000000"], "securityContext": {"privileged": true},
            }],
        },
    })
}

/// Takes a node out of service, but not the hand on it.
#[track_caller]
pub(crate) fn drain(node: &str) {
    let but_the_hand = format!("--pod-selector=app!={AGENT}");
    let args = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=2m"];
    kubectl(&[&args[..], &[&but_the_hand]].concat());
}

/// While it lives, pods that say nothing of nodes land on the node of the tests.
pub(crate) struct OnlyTheNode(Vec<&'static String>);

impl OnlyTheNode {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let others: Vec<_> = names().1.iter().filter(|name| *name != the_node()).collect();
        others.iter().for_each(|other| drop(kubectl(&["cordon", other])));
        Self(others)
    }
}

impl Drop for OnlyTheNode {
    fn drop(&mut self) {
        for other in &self.0 {
            let _ = try_kubectl(&["uncordon", other]);
        }
    }
}
