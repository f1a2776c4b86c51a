//! What users copy: the README's quick start word by word, the manifests without Helm, every example.

use std::time::Duration;

use crate::cluster::{
    Place, SYSTEM, apply, hand_on_the_node, kubectl, node, run, try_kubectl, uninstall, until,
    until_nothing_is_mounted, until_registered,
};
use crate::hands::{OnlyTheNode, node_at, nodes};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/examples");

/// The directories of the examples' entries go, and what is mounted there; on all nodes, because one is a DaemonSet.
fn clean_nodes() {
    let script = "for at in /mnt/media /mnt/shared /mnt/datasets; do
           findmnt --noheadings --list --output TARGET | grep \"^$at/\" | sort -r | xargs -r -n 1 umount
           rm -rf $at
         done";
    nodes().iter().for_each(|name| drop(node_at(name, script)));
}

/// The blocks of commands in a section of a Markdown text.
fn commands(text: &str, section: &str) -> Vec<String> {
    let section = text.split(&format!("\n## {section}\n")).nth(1).expect("the section").split("\n## ").next().unwrap();
    section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_quick_start_of_the_readme_works_word_by_word() {
    hand_on_the_node();
    let _only = OnlyTheNode::new();
    let _ = try_kubectl(&["delete", "namespace", "demo", "--ignore-not-found"]);
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let blocks = commands(&text, "On Kubernetes");
    let mut last = String::new();
    for block in &blocks {
        last = if block.starts_with("# On the node") {
            node(&block.replace("sudo ", ""))
        } else if block.starts_with("# The image") {
            // Done already, with the same script, by whoever started these tests.
            continue;
        } else {
            run("bash", &["-euc", block], None).unwrap_or_else(|e| panic!("{block}\n{e}"))
        };
    }
    assert!(blocks.len() >= 4, "{blocks:?}");
    assert_eq!(last, "hello\n", "the pod sees the mount that the node made after it had started");
    kubectl(&["delete", "namespace", "demo", "--timeout=2m"]);
    until_nothing_is_mounted();
    clean_nodes();
}

#[test]
fn it_installs_without_helm_and_every_example_works() {
    let place = Place::new("plain");
    let _only = OnlyTheNode::new();
    uninstall();
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/hostmount.yaml");
    kubectl(&["apply", "--filename", manifests]);
    let entries = std::fs::read_to_string(format!("{EXAMPLES}/entries.yaml")).unwrap();
    apply(&[serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hostmount-entries", "namespace": SYSTEM},
        "data": {"entries.yaml": entries},
    })]);
    until_registered();
    let _ = try_kubectl(&["create", "namespace", "demo"]);
    node("mkdir -p /mnt/datasets/2024 && echo data > /mnt/datasets/2024/file");
    for file in std::fs::read_dir(EXAMPLES).unwrap().map(|file| file.unwrap().path()) {
        if file.file_name().is_some_and(|name| name != "entries.yaml") {
            kubectl(&["apply", "--filename", file.to_str().unwrap()]);
        }
    }
    until("all pods of the examples are ready", Duration::from_secs(120), || {
        let args = ["wait", "--namespace", "demo", "pod", "--all", "--for=condition=Ready", "--timeout=30s"];
        let pods = try_kubectl(&["get", "pods", "--namespace", "demo", "--output=name"])?;
        if pods.lines().count() < 10 {
            return Err(pods);
        }
        let why = |e| format!("{e}\n{}", kubectl(&["get", "events", "--namespace", "demo"]));
        try_kubectl(&args).map(drop).map_err(why)
    });
    let says = |of: &str, script: &str| try_kubectl(&["exec", "--namespace", "demo", of, "--", "sh", "-c", script]);
    assert_eq!(says("pod/inline", "cat /data/file").unwrap(), "data\n");
    assert_eq!(says("pod/persistent", "cat /data/file").unwrap(), "data\n");
    node("mkdir -p /mnt/media/disk && mount -t tmpfs disk /mnt/media/disk && touch /mnt/media/disk/x");
    assert_eq!(says("deployment/autofs", "ls /media/disk").unwrap(), "x\n");
    assert_eq!(says("pod/host-to-container", "ls /media/disk").unwrap(), "x\n");
    assert_eq!(says("pod/none", "ls /media/disk").unwrap(), "");
    let from_producer = |of: &str| {
        until("what the producer has mounted is there", Duration::from_secs(60), || {
            match says(of, "cat /shared/tree/hello") {
                Ok(said) if said == "from the producer\n" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    for of in ["deployment/consumers", "pod/bidirectional"] {
        from_producer(of);
    }
    // A producer that is replaced takes its mount along, and the next one's arrives in the same consumers.
    kubectl(&["delete", "pod", "--namespace", "demo", "--selector=app=producer", "--timeout=90s"]);
    from_producer("deployment/consumers");

    kubectl(&["delete", "namespace", "demo", "--timeout=3m"]);
    kubectl(&["delete", "persistentvolume", "datasets-2024"]);
    until_nothing_is_mounted();
    clean_nodes();
    for name in nodes() {
        let left = node_at(name, "cat /proc/self/mountinfo");
        assert!(!left.contains("/mnt/shared"), "{name}: {left}");
    }
    kubectl(&["delete", "--filename", manifests, "--timeout=2m"]);
    kubectl(&["delete", "namespace", &place.namespace, "--timeout=2m"]);
}
