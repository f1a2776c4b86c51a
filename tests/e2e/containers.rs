//! What a runtime leaves of a volume's flags in containers, and that the plugin tells where nothing makes up for the rest.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Place, ROOT, SYSTEM, apply, install_with, kubectl, node, plugin_pod, until};
use crate::pods::{inline, pod, simple};
use crate::seeing::{json as tool_json, tool};

/// The allow-list in the plugin's pod.
const LIST: &str = "--config=/etc/hostmount/entries.yaml";

/// A pod whose one container, run as uid 1000, says whether it may gain privileges.
fn unprivileged(place: &Place, name: &str, volume: &Value, escalation: bool) -> Value {
    let mut container = crate::pods::container("c", "None");
    container["securityContext"] = json!({"allowPrivilegeEscalation": escalation, "runAsUser": 1000});
    pod(place, name, volume, &[container])
}

/// What containers of a pod lack of its volume, by `volumes inspect`, and the flags that the mount has.
fn inspected(place: &Place, pod: &str) -> (Vec<String>, Vec<String>) {
    let found = tool_json(&["volumes", "inspect", &format!("{}/{pod}/data", place.namespace), LIST]);
    let [container] = found[0]["Containers"].as_array().map(Vec::as_slice).unwrap_or_default() else {
        panic!("one container is expected: {found:#}");
    };
    assert_eq!((container["Name"].as_str(), container["Path"].as_str()), (Some("c"), Some("/data")), "{found:#}");
    assert_eq!(found[0]["ContainersUnknown"], Value::Null, "{found:#}");
    let texts = |all: &Value, of: fn(&Value) -> &Value| -> Vec<String> {
        all.as_array().unwrap().iter().map(|one| of(one).as_str().unwrap().to_owned()).collect()
    };
    (texts(&container["Missing"], |missing| &missing["Flag"]), texts(&container["Flags"], |flag| flag))
}

/// How many volumes lack a flag in containers, by the metric, once the plugin has looked again.
fn until_counted(flag: &str, expected: usize) {
    until(&format!("{expected} volumes lack {flag}"), Duration::from_secs(240), || {
        let at = format!("/api/v1/namespaces/{SYSTEM}/pods/{}:9809/proxy/metrics", plugin_pod());
        let line = format!("hostmount_weaker_volumes{{flag=\"{flag}\"}} {expected}");
        let text = kubectl(&["get", "--raw", &at]);
        let those: Vec<&str> = text.lines().filter(|line| line.contains("weaker_volumes")).collect();
        if those.contains(&line.as_str()) { Ok(()) } else { Err(format!("{those:?}")) }
    });
}

/// Whether `check` names the pod for this flag; with the field of the Pod to set.
fn check_names(place: &Place, pod: &str, flag: &str, field: &str) -> bool {
    // A warning is no fault, and something else on the node may be one.
    let text = tool(&["check", "--json", LIST]).unwrap_or_else(|text| text);
    let start = text.find('{').unwrap_or_else(|| panic!("{text}"));
    let report = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>().find_map(Result::ok);
    let report = report.unwrap_or_else(|| panic!("{text}"));
    let name = format!("pod {}/{pod}, container c at /data", place.namespace);
    report["items"].as_array().unwrap().iter().any(|item| {
        item["check"] == "containerFlags"
            && item["lookedAt"].as_str().unwrap().starts_with(flag)
            && item["found"].as_str().unwrap().contains(&name)
            && item["advice"].as_str().unwrap().contains(field)
    })
}

/// The runtime of tests/e2e/node/node; of another cluster, one that sets exactly the flags that it is told is supposed.
fn keeps_flags() -> bool {
    let keeps = std::env::var("HOSTMOUNT_E2E_RUNTIME").is_ok_and(|runtime| runtime == "runc-1.1");
    if keeps {
        println!("runc 1.1 keeps the target's flags: less is missing");
    }
    keeps
}

#[test]
fn flags_that_the_runtime_takes_off_are_named_with_the_field_that_makes_up_for_them() {
    let place = Place::new("containers");
    let volume = inline("data", place.sub_path());
    apply(&[unprivileged(&place, "weak", &volume, true), unprivileged(&place, "confined", &volume, false)]);
    ["weak", "confined"].iter().for_each(|pod| place.wait_ready(pod));
    let taken_off = !keeps_flags();
    let (missing, flags) = inspected(&place, "weak");
    assert_eq!(
        (missing.contains(&"nosuid".to_owned()), flags.is_empty()),
        (taken_off, taken_off),
        "{missing:?} {flags:?}"
    );
    assert_eq!(missing.len(), usize::from(taken_off), "the device filter makes up for nodev: {missing:?}");
    let (missing, flags) = inspected(&place, "confined");
    assert_eq!((missing.len(), flags.is_empty()), (0, taken_off), "{missing:?} {flags:?}");
    let field = "allowPrivilegeEscalation: false";
    assert_eq!(check_names(&place, "weak", "nosuid", field), taken_off);
    assert!(!check_names(&place, "confined", "nosuid", field));
    until_counted("nosuid", usize::from(taken_off));
    until_counted("nodev", 0);
    place.finish();
}

/// As of volumes that were published when less was asked for: they stay, and are counted.
#[test]
fn a_volume_whose_entry_became_read_only_is_named_where_containers_still_write() {
    let place = Place::new("became");
    let entry = |read_only: bool| {
        json!({
            "name": "became", "path": format!("{ROOT}/became"), "missing": {"create": {}}, "readOnly": read_only,
            "allow": [{"namespaces": ["e2e-*"]}],
        })
    };
    install_with(&[entry(false)], &["admissionPolicy.enabled=false"]);
    apply(&[simple(&place, "writer", &inline("became", ""), "None")]);
    place.wait_ready("writer");
    assert!(!inspected(&place, "writer").0.contains(&"ro".to_owned()));
    install_with(&[entry(true)], &["admissionPolicy.enabled=false"]);
    until("the new list is in force", Duration::from_secs(60), || {
        if check_names(&place, "writer", "ro", "readOnly: true") { Ok(()) } else { Err("not named".to_owned()) }
    });
    place.exec("writer", "c", "echo x > /data/written").unwrap();
    assert!(inspected(&place, "writer").0.contains(&"ro".to_owned()));
    // `check` has connected to the socket from the mount namespace of the plugin's pod. That is no reason to look for
    // volumes there: the kubelet's is where it is still looked.
    until_counted("ro", 1);
    place.delete(&["writer"]);
    node(&format!("rm -r {ROOT}/became"));
    place.finish();
}

/// A program that ends with its effective user id, modulo 256: two system calls, for a container without a libc.
fn program() -> Vec<u8> {
    let (machine, code): (u16, &[u8]) = if cfg!(target_arch = "aarch64") {
        // movz x8, #175 (geteuid); svc #0; movz x8, #93 (exit); svc #0
        (183, &[0xe8, 0x15, 0x80, 0xd2, 1, 0, 0, 0xd4, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4])
    } else {
        // mov eax, 107 (geteuid); syscall; mov edi, eax; mov eax, 60 (exit); syscall
        (62, &[0xb8, 107, 0, 0, 0, 0x0f, 5, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 5])
    };
    let (base, headers) = (0x40_0000_u64, 64 + 56_u64);
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2_u16, machine].iter().flat_map(|n| n.to_le_bytes()));
    elf.extend(1_u32.to_le_bytes());
    elf.extend([base + headers, 64, 0].iter().flat_map(|n| n.to_le_bytes()));
    elf.extend(0_u32.to_le_bytes());
    elf.extend([64_u16, 56, 1, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    // One segment, to be read and executed.
    let size = headers + code.len() as u64;
    elf.extend([1_u32, 5].iter().flat_map(|n| n.to_le_bytes()));
    elf.extend([0, base, base, size, size, 0x1000].iter().flat_map(|n| n.to_le_bytes()));
    elf.extend(code);
    elf
}

#[test]
fn a_set_user_id_program_gives_nothing_where_the_pod_allows_no_escalation() {
    let place = Place::new("suid");
    let octal: String = program().iter().map(|byte| format!("\\{byte:03o}")).collect();
    let at = format!("{}/euid", place.folder());
    node(&format!("printf '{octal}' > {at} && chmod 4755 {at}"));
    let volume = inline("data", place.sub_path());
    apply(&[unprivileged(&place, "may", &volume, true), unprivileged(&place, "may-not", &volume, false)]);
    ["may", "may-not"].iter().for_each(|pod| place.wait_ready(pod));
    let uid = |pod: &str| place.exec(pod, "c", "code=0; /data/euid || code=$?; echo $code").unwrap().trim().to_owned();
    let own = (1000 % 256).to_string();
    assert_eq!(uid("may-not"), own);
    // This is what docs/allow-list.md says: nosuid is the runtime's to keep.
    assert_eq!(uid("may"), if keeps_flags() { own } else { "0".to_owned() });
    place.finish();
}
