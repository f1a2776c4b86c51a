//! Values: what is refused, what the users are told, and the policy that is made of the entries.

use allowlist::config::AllowList;
use allowlist::names::{AbsPath, PodIdentity};
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::{Value, json};

use crate::render::{helm, objects, one, read, template};

#[test]
fn what_cannot_be_right_is_refused_with_its_place() {
    let entry = |more: Value| {
        let mut entry = json!({"name": "a", "path": "/mnt/a"});
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"entries": [entry]})
    };
    for (values, words) in [
        (json!({"imgae": {}}), &["imgae"][..]),
        (json!({"image": {"repo": "x"}}), &["image", "repo"]),
        (json!({"kubeletDir": "var/lib/kubelet"}), &["kubeletDir"]),
        (json!({"kubeletDir": "/var/lib/kubelet/"}), &["kubeletDir"]),
        (json!({"driverName": "CSI.hostmount"}), &["driverName"]),
        (json!({"podLookup": "yes"}), &["podLookup"]),
        (json!({"podLookup": false}), &["podLookup"]),
        (json!({"admin": {"port": 70000}}), &["admin", "port"]),
        (json!({"updateStrategy": {"maxUnavailable": 0}}), &["maxUnavailable"]),
        (json!({"updateStrategy": {"maxSurge": 1}}), &["maxSurge"]),
        (json!({"admissionPolicy": {"validationActions": []}}), &["validationActions"]),
        (json!({"drainTimeoutSeconds": 60}), &["terminationGracePeriodSeconds (30)", "drainTimeoutSeconds (60)"]),
        (json!({"image": {"digest": "sha256:12"}}), &["digest"]),
        (json!({"networkPolicy": {"from": ["10.0.0.0/8"]}}), &["networkPolicy", "from"]),
        (json!({"metrics": {"podMonitor": {"enabled": true}}}), &["networkPolicy.from"]),
        (json!({"entries": [{"name": "a"}]}), &["entries", "path"]),
        (entry(json!({"path": "mnt/a"})), &["entries", "path"]),
        (entry(json!({"path": "/mnt/../etc"})), &["entries", "path"]),
        (entry(json!({"propagation": "Shared"})), &["entries", "propagation"]),
        (entry(json!({"readonly": true})), &["entries", "readonly"]),
        (entry(json!({"allow": [{"namespaces": []}]})), &["entries", "namespaces"]),
        (entry(json!({"allow": [{"namespaces": ["A"]}]})), &["entries", "namespaces"]),
        (
            json!({"entries": [{"name": "a", "path": "/a"}, {"name": "a", "path": "/b"}]}),
            &["entries[1].name", "entries[0]"],
        ),
    ] {
        let said = helm(&["template", "x", "charts/hostmount"], &values).expect_err(&values.to_string());
        for word in words {
            assert!(said.contains(word), "{values}: {word:?} is not in: {said}");
        }
    }
}

/// The two schemas of the allow-list are one, so the chart takes the file as it is.
#[test]
fn the_schema_of_the_values_has_the_one_of_the_allow_list() {
    let schema: Value = serde_json::from_str(&read("charts/hostmount/values.schema.json")).unwrap();
    let own = allowlist::config::schema();
    assert_eq!(schema["properties"]["entries"], own["properties"]["entries"], "run manifests/generate");
    for file in ["docs/allow-list.example.yaml", "manifests/examples/entries.yaml"] {
        let values = objects(&read(file)).remove(0);
        let entries = values["entries"].as_array().unwrap().len();
        let made = template(&values);
        let text = one(&made, "ConfigMap")["data"]["entries.yaml"].as_str().unwrap().to_owned();
        assert_eq!(AllowList::parse(&text, &AbsPath::parse("/var/lib/kubelet").unwrap()).unwrap().len(), entries);
    }
}

#[test]
fn every_value_is_in_the_schema_and_explained() {
    let schema: Value = serde_json::from_str(&read("charts/hostmount/values.schema.json")).unwrap();
    let values = objects(&read("charts/hostmount/values.yaml")).remove(0);
    let known = schema["properties"].as_object().unwrap();
    for name in known.keys().filter(|name| *name != "global") {
        assert!(values.get(name).is_some(), "values.yaml does not have {name}");
    }
    for name in values.as_object().unwrap().keys() {
        assert!(known.contains_key(name), "the schema does not have {name}");
    }
}

/// The policy lets a pod have an entry exactly if the plugin does: patterns are regular expressions in the one, and
/// matched by hand in the other.
#[test]
fn the_policy_and_the_plugin_agree_on_who_may() {
    use proptest::prelude::Rng as _;
    let seed: [u8; 32] = std::array::from_fn(|n| u8::try_from(n).unwrap());
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut pick = |from: &[&str]| from[random.next_u32() as usize % from.len()].to_owned();
    let (parts, names) =
        (["a", "b", "ab", "-", ".", "*", "?", "a"], ["a", "b", "ab", "a.b", "a-b", "axb", "abab", "b-a"]);
    let mut entries = Vec::new();
    for n in 0..300 {
        let mut pattern = || (0..3).map(|_| pick(&parts)).collect::<String>();
        let rule = json!({"namespaces": [pattern(), pattern()], "serviceAccounts": [pattern()]});
        let other = json!({"namespaces": [pattern()]});
        let allow = [json!([]), json!([rule]), json!([rule, other])][n % 3].clone();
        let mut entry = json!({"name": format!("e{n}"), "path": format!("/mnt/e/{n}"), "allow": allow});
        if n % 5 < 2 {
            entry["readOnly"] = json!(n % 5 == 1);
        }
        entries.push(entry);
    }
    let made = template(&json!({"entries": entries}));
    let text = one(&made, "ConfigMap")["data"]["entries.yaml"].as_str().unwrap().to_owned();
    let list = AllowList::parse(&text, &AbsPath::parse("/var/lib/kubelet").unwrap()).unwrap();
    let variables = one(&made, "ValidatingAdmissionPolicy")["spec"]["variables"].as_array().unwrap();
    let tables: String =
        variables.iter().filter(|v| v["name"] != "entries").map(|v| v["expression"].as_str().unwrap()).collect();
    let (mut yes, mut no, mut read_only) = (0, 0, 0);
    for entry in list.iter() {
        let after = tables.split(&format!("\"{}\": {{", entry.name)).nth(1).unwrap();
        let said = after.split("\"readOnly\": \"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(said == "true", entry.read_only, "{entry:?}");
        read_only += usize::from(entry.read_only);
        let who = after.split("\"who\": \"").nth(1).unwrap().split('"').next().unwrap();
        let who = regex::Regex::new(who).unwrap();
        for namespace in names.iter().filter(|name| !name.contains('.')) {
            for account in names {
                let (name, uid) = (String::new(), String::new());
                let (namespace, service_account) = ((*namespace).to_owned(), account.to_owned());
                let asked = format!("{namespace}/{service_account}");
                let pod = PodIdentity { namespace, name, uid, service_account };
                let permitted = entry.permits(Some(&pod));
                assert_eq!(who.is_match(&asked), permitted, "{asked} and {entry:?}: {who}");
                if permitted { yes += 1 } else { no += 1 }
            }
        }
    }
    assert!(yes > 100 && no > 100, "{yes} may, {no} may not");
    assert_eq!(read_only, 60);
}

#[test]
fn the_notes_tell_the_next_command() {
    let notes = |values: &Value| {
        let args = ["install", "--dry-run=client", "mine", "charts/hostmount", "--namespace", "here"];
        let text = helm(&args, values).unwrap();
        text.split("NOTES:").nth(1).unwrap().to_owned()
    };
    let empty = notes(&json!({}));
    assert!(empty.contains("kubectl rollout status daemonset/mine-hostmount --namespace here"), "{empty}");
    assert!(empty.contains("hostmount check") && empty.contains("the allow-list is empty"), "{empty}");
    let some = notes(&json!({"entries": [{"name": "media", "path": "/mnt/media", "propagation": "Bidirectional"}]}));
    assert!(some.contains("media (Bidirectional)") && some.contains("volumeAttributes: {volume: media}"), "{some}");
    let read_only = notes(&json!({"entries": [{"name": "media", "path": "/mnt/media", "readOnly": true}]}));
    assert!(
        read_only.contains("           readOnly: true\n           volumeAttributes: {volume: media}"),
        "{read_only}"
    );
    assert!(!some.contains("readOnly: true"), "{some}");
    assert!(some.contains("Uninstalling takes nothing from running pods"), "{some}");
}
