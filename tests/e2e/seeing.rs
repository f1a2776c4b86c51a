//! inspect, explain and volumes in the plugin's pod, beside pods of a real runtime.

use serde_json::Value;

use crate::cluster::{DRIVER, Place, SYSTEM, apply, node, plugin_pod, try_kubectl};
use crate::pods::{container, inline, pod, simple};

/// Runs the plugin's binary in its pod.
pub(crate) fn tool(args: &[&str]) -> Result<String, String> {
    let plugin = plugin_pod();
    let exec = ["exec", "--namespace", SYSTEM, plugin.as_str(), "--", "/hostmount"];
    try_kubectl(&[&exec[..], args].concat())
}

pub(crate) fn json(args: &[&str]) -> Value {
    let text = tool(args).unwrap_or_else(|e| panic!("{args:?}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}\n{text}"))
}

/// The places of a list that are in a container of a pod, at a path.
fn at<'v>(list: &'v Value, label: &str, path: &str) -> Option<&'v Value> {
    list.as_array().unwrap().iter().find(|one| one["label"] == label && one["path"] == path)
}

#[test]
fn the_tools_name_pods_and_containers_and_foretell_what_they_see() {
    let place = Place::new("seeing");
    let volume = inline("data", place.sub_path());
    apply(&[
        simple(&place, "none", &volume, "None"),
        pod(&place, "slave", &volume, &[container("one", "HostToContainer"), container("two", "None")]),
    ]);
    ["none", "slave"].iter().for_each(|pod| place.wait_ready(pod));
    let late = format!("{}/late", place.folder());
    let label = |pod: &str, container: &str| format!("pod {}/{pod}, {container}", place.namespace);

    let told = json(&["explain", &late, "--in", "node", "--json"]);
    assert!(at(&told["seen"], &label("slave", "one"), "/data/late").is_some(), "{told:#}");
    for (pod, container) in [("none", "c"), ("slave", "two")] {
        let not = at(&told["notSeen"], &label(pod, container), "/data/late");
        let not = not.unwrap_or_else(|| panic!("{pod}/{container}: {told:#}"));
        let change = not["change"].as_str().unwrap();
        assert!(change.contains("mountPropagation: HostToContainer"), "{change}");
    }
    place.mount("late");
    assert!(place.sees("slave", "one", "late"));
    assert!(!place.sees("slave", "two", "late") && !place.sees("none", "c", "late"));

    let to = format!("pod/{}/slave/one:/data", place.namespace);
    tool(&["explain", &format!("node:{late}"), &to]).unwrap();
    let to = format!("pod/{}/none:/data", place.namespace);
    let text = tool(&["explain", &format!("node:{late}"), &to]).unwrap_err();
    assert!(text.contains("exit code 1"), "{text}");

    let text = tool(&["inspect", "--pod", &format!("{}/slave", place.namespace)]).unwrap();
    assert!(text.contains(&label("slave", "one")) && text.contains("/data"), "{text}");
    let names = tool(&["volumes", "ls", "--quiet"]).unwrap();
    let name = format!("{}/slave/data", place.namespace);
    assert!(names.lines().any(|line| line == name), "{names}");
    let volumes = json(&["volumes", "inspect", &name]);
    assert_eq!(
        (&volumes[0]["Driver"], &volumes[0]["Propagation"], &volumes[0]["Health"]["Status"]),
        (&DRIVER.into(), &"HostToContainer".into(), &"Live".into()),
        "{volumes:#}"
    );
    node(&format!("umount {late}"));
    place.finish();
}
