//! The cluster: kubectl, helm, a shell on the node, and a folder of the node for each test.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub(crate) use crate::hands::{hand_on_the_node, node, try_node};
use crate::hands::{node_at, nodes, the_node};

pub(crate) const DRIVER: &str = "csi.hostmount.dev";
/// The label of a test's objects, with its name.
const LABEL: &str = "hostmount-e2e";
/// Where the release lives.
pub(crate) const SYSTEM: &str = "hostmount-system";
/// The directory of the node with the directories of the entries.
pub(crate) const ROOT: &str = "/mnt/hostmount-e2e";

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// The image of the pods: one with a shell, `mount` and `sleep`.
pub(crate) fn busybox() -> String {
    setting("HOSTMOUNT_E2E_BUSYBOX", "busybox:1.37")
}

/// The image of the plugin.
fn image() -> String {
    setting("HOSTMOUNT_E2E_IMAGE", concat!("localhost/hostmount:", env!("CARGO_PKG_VERSION")))
}

pub(crate) fn kubelet_dir() -> String {
    setting("HOSTMOUNT_E2E_KUBELET_DIR", "/var/lib/kubelet")
}

/// Runs a program; what it printed, or that with its errors.
pub(crate) fn run(program: &str, args: &[&str], input: Option<&str>) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} cannot be started: {e}; README.md says what the e2e needs"));
    if let Some(input) = input {
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!(
            "{program} {}: {}\n{text}{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

pub(crate) fn try_kubectl(args: &[&str]) -> Result<String, String> {
    run("kubectl", args, None)
}

#[track_caller]
pub(crate) fn kubectl(args: &[&str]) -> String {
    try_kubectl(args).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn try_apply(objects: &[Value]) -> Result<String, String> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    run("kubectl", &["apply", "--filename=-"], Some(&list.to_string()))
}

#[track_caller]
pub(crate) fn apply(objects: &[Value]) {
    try_apply(objects).unwrap_or_else(|e| panic!("{e}"));
}

/// One field of an object.
#[track_caller]
pub(crate) fn field(args: &[&str], path: &str) -> String {
    let output = format!("jsonpath={{{path}}}");
    kubectl(&[&["get"], args, &["--output", &output]].concat())
}

/// Asks until the answer is yes.
#[track_caller]
pub(crate) fn until(what: &str, patience: Duration, mut look: impl FnMut() -> Result<(), String>) {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(()) => return,
            Err(why) if begun.elapsed() > patience => panic!("{what}: not within {patience:?}: {why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// The mount points beneath the kubelet's directory that are the driver's: volumes, staged ones, and its workshop.
#[track_caller]
pub(crate) fn driver_mounts() -> Vec<String> {
    driver_mounts_at(the_node())
}

#[track_caller]
pub(crate) fn driver_mounts_at(node: &str) -> Vec<String> {
    let table = node_at(node, "cat /proc/self/mountinfo");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| {
        point.starts_with(&kubelet_dir()) && (point.contains("/kubernetes.io~csi/") || point.contains(DRIVER))
    });
    points.map(str::to_owned).collect()
}

/// The mount points of volumes, of staged ones too, and of what is mounted in them.
#[track_caller]
pub(crate) fn volume_mounts() -> Vec<String> {
    volume_mounts_at(the_node())
}

#[track_caller]
pub(crate) fn volume_mounts_at(node: &str) -> Vec<String> {
    let workshop = format!("{}/plugins/{DRIVER}/workshop", kubelet_dir());
    let mut mounts = driver_mounts_at(node);
    mounts.retain(|point| *point != workshop);
    mounts
}

/// No volume of the driver is mounted on any node: after a while, because the kubelet takes its time.
#[track_caller]
pub(crate) fn until_nothing_is_mounted() {
    for node in nodes() {
        until("no volume is mounted", Duration::from_secs(60), || {
            let left = volume_mounts_at(node);
            if left.is_empty() { Ok(()) } else { Err(format!("{node}: {left:?}")) }
        });
    }
}

/// The allow-list of all tests.
fn entries() -> Value {
    let everybody = json!([{"namespaces": ["e2e-*"]}]);
    let entry = |name: &str, propagation: &str| {
        json!({
            "name": name, "path": format!("{ROOT}/{name}"), "propagation": propagation, "subPaths": true,
            "missing": {"create": {}}, "allow": everybody,
        })
    };
    let mut read_only = entry("read-only", "None");
    read_only["readOnly"] = json!(true);
    let mut team = entry("team", "None");
    team["allow"] = json!([{"namespaces": ["another-team"]}]);
    // Its directory itself is replaced: above it, no pod may write.
    let mut swapped = entry("swapped", "Bidirectional");
    swapped["subPaths"] = json!(false);
    json!([entry("data", "Bidirectional"), entry("plain", "None"), read_only, team, swapped])
}

/// A release of the chart with the entries of all tests and some values more, as `helm upgrade --install` makes it.
#[track_caller]
pub(crate) fn install_with(extra_entries: &[Value], set: &[&str]) {
    let mut entries = entries();
    entries.as_array_mut().unwrap().extend_from_slice(extra_entries);
    let image = image();
    let (repository, tag) = image.rsplit_once(':').expect("HOSTMOUNT_E2E_IMAGE is NAME:TAG");
    let values = json!({
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "kubeletDir": kubelet_dir(), "entries": entries, "readinessProbe": {"periodSeconds": 1},
        "preflight": {"enabled": true},
    });
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/hostmount");
    let mut args = vec!["upgrade", "--install", "hostmount", chart.to_str().unwrap(), "--namespace", SYSTEM];
    args.extend(["--create-namespace", "--wait", "--timeout=3m", "--values=-"]);
    for value in set {
        args.extend(["--set", value]);
    }
    run("helm", &args, Some(&values.to_string())).unwrap_or_else(|e| panic!("{e}\n{}", describe_plugin()));
    until_registered();
}

fn describe_plugin() -> String {
    let mut text = String::new();
    for args in [&["describe", "pod"][..], &["logs", "daemonset/hostmount", "--all-containers", "--tail=50"]] {
        let said = try_kubectl(&[&["--namespace", SYSTEM], args].concat()).unwrap_or_else(|e| e);
        let _ = writeln!(text, "{said}");
    }
    text
}

pub(crate) fn install() {
    install_with(&[], &[]);
}

#[track_caller]
pub(crate) fn uninstall() {
    run("helm", &["uninstall", "hostmount", "--namespace", SYSTEM, "--wait"], None).unwrap_or_else(|e| panic!("{e}"));
    until("the plugin's pod is gone", Duration::from_secs(60), || {
        let left = kubectl(&["get", "pods", "--namespace", SYSTEM, "--output=name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// The plugin's pod on the node.
#[track_caller]
pub(crate) fn plugin_pod() -> String {
    plugin_pod_at(the_node())
}

#[track_caller]
pub(crate) fn plugin_pod_at(node: &str) -> String {
    let on = format!("--field-selector=spec.nodeName={node}");
    let of = ["pods", "--namespace", SYSTEM, "--selector=app.kubernetes.io/name=hostmount", &on];
    field(&of, ".items[0].metadata.name")
}

/// All that the plugin on the node has logged since it started.
#[track_caller]
pub(crate) fn plugin_log() -> String {
    kubectl(&["logs", &plugin_pod(), "--namespace", SYSTEM, "--tail=-1"])
}

/// The kubelets of all nodes know the driver, and the plugins know that they do.
#[track_caller]
pub(crate) fn until_registered() {
    until("the driver is registered", Duration::from_secs(90), || {
        let list: Value = serde_json::from_str(&try_kubectl(&["get", "csinodes", "--output=json"])?).unwrap();
        let knows = |node: &&Value| {
            node["spec"]["drivers"].as_array().is_some_and(|drivers| drivers.iter().any(|one| one["name"] == DRIVER))
        };
        let known = list["items"].as_array().unwrap().iter().filter(knows).count();
        let ready = field(&["daemonset", "hostmount", "--namespace", SYSTEM], ".status.numberReady");
        let all = nodes().len();
        let found = format!("of {all} nodes, {known} know it by their CSINode; ready pods: {ready}");
        if known == all && ready == all.to_string() { Ok(()) } else { Err(found) }
    });
}

/// A test's own namespace and folder on the node. Both are gone when it ends well.
pub(crate) struct Place {
    pub(crate) namespace: String,
    name: String,
}

impl Place {
    /// With the plugin installed.
    #[track_caller]
    pub(crate) fn new(name: &str) -> Self {
        hand_on_the_node();
        install();
        let namespace = format!("e2e-{name}");
        let place = Self { namespace, name: name.to_owned() };
        // What tests have left that ended in the middle, this or another.
        let label = format!("--selector={LABEL}");
        kubectl(&["delete", "namespace,persistentvolume", &label, "--ignore-not-found", "--timeout=3m"]);
        place.clear();
        apply(&[json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.namespace, "labels": place.labels()},
        })]);
        node(&format!("mkdir -p {0} && echo {name} > {0}/marker", place.folder()));
        until("the service account", Duration::from_secs(30), || {
            try_kubectl(&["get", "serviceaccount", "default", "--namespace", &place.namespace]).map(drop)
        });
        place
    }

    /// What tells the objects of the test that are in no namespace.
    pub(crate) fn labels(&self) -> Value {
        json!({LABEL: self.name})
    }

    /// The folder, and what is mounted in it, goes from all nodes.
    #[track_caller]
    fn clear(&self) {
        let folder = self.folder();
        let mounts = format!("findmnt --noheadings --list --output TARGET | grep '^{folder}/' | sort -r");
        nodes()
            .iter()
            .for_each(|node| drop(node_at(node, &format!("{mounts} | xargs -r -n 1 umount; rm -rf {folder}"))));
    }

    /// The folder on the node, beneath the entry `data`.
    pub(crate) fn folder(&self) -> String {
        format!("{ROOT}/data/{}", self.name)
    }

    /// The folder as a sub-path of the entry.
    pub(crate) fn sub_path(&self) -> &str {
        &self.name
    }

    /// A mount of the node's on a directory of the folder, with a file `x` in it.
    #[track_caller]
    pub(crate) fn mount(&self, directory: &str) {
        let at = format!("{}/{directory}", self.folder());
        node(&format!("mkdir -p {at} && mount -t tmpfs e2e {at} && touch {at}/x"));
    }

    #[track_caller]
    pub(crate) fn unmount(&self, directory: &str) {
        node(&format!("umount {}/{directory}", self.folder()));
    }

    #[track_caller]
    pub(crate) fn wait_ready(&self, pod: &str) {
        let (pod, of) = (format!("pod/{pod}"), ["--namespace", self.namespace.as_str()]);
        let wait = ["wait", &pod, "--for=condition=Ready", "--timeout=90s"];
        if let Err(e) = try_kubectl(&[&of[..], &wait[..]].concat()) {
            let said = try_kubectl(&[&of[..], &["describe", &pod]].concat());
            panic!("{e}\n{}", said.unwrap_or_else(|e| e));
        }
    }

    pub(crate) fn exec(&self, pod: &str, container: &str, script: &str) -> Result<String, String> {
        let of = ["exec", "--namespace", &self.namespace, pod, "--container", container];
        try_kubectl(&[&of[..], &["--", "sh", "-ec", script]].concat())
    }

    /// Whether a container sees the mount that [`Self::mount`] made in a directory.
    pub(crate) fn sees(&self, pod: &str, container: &str, directory: &str) -> bool {
        let answer =
            self.exec(pod, container, &format!("if [ -e /data/{directory}/x ]; then echo yes; else echo no; fi"));
        answer.unwrap_or_else(|e| panic!("{e}")).trim() == "yes"
    }

    /// Deletes pods and waits until they are gone.
    #[track_caller]
    pub(crate) fn delete(&self, pods: &[&str]) {
        let args = ["delete", "--namespace", &self.namespace, "--timeout=90s", "pod"];
        kubectl(&[&args[..], pods].concat());
    }

    /// What `kubectl describe` says of a pod, once it says some words.
    #[track_caller]
    pub(crate) fn until_described(&self, pod: &str, words: &[&str]) {
        until(&format!("kubectl describe pod {pod}"), Duration::from_secs(60), || {
            let text = kubectl(&["describe", "pod", pod, "--namespace", &self.namespace]);
            match words.iter().find(|word| !text.contains(**word)) {
                None => Ok(()),
                Some(word) => Err(format!("{word:?} is not in:\n{text}")),
            }
        });
    }

    /// Ends the test: pods and claims go, no volume is mounted on any node, and the folders go with what is mounted in them.
    #[track_caller]
    pub(crate) fn finish(self) {
        kubectl(&["delete", "namespace", &self.namespace, "--timeout=3m"]);
        until_nothing_is_mounted();
        self.clear();
    }
}
