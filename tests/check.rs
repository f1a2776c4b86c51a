//! `hostmount check` on a real kernel: a good node, each fault of a source, a source that hangs; nothing is changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::fs;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mounts::Errno;
use nix::mount::MsFlags;
use serde_json::Value;
use support::fuse::Fuse;
use support::seccomp::{Call, Refusal};
use support::{Node, change, in_namespace, table, tmpfs};

/// The check of a node whose kubelet is this test.
fn check(node: &Node, config: &str, args: &[&str]) -> Output {
    check_refusing(&Refusal::NONE, node, config, args)
}

fn check_refusing(refusal: &Refusal, node: &Node, config: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostmount"));
    refusal.put_on(&mut command);
    command.args(["check", "--config", config]).args(args).env("HOSTMOUNT_KUBELET_DIR", node.root.join("kubelet"));
    if !args.iter().any(|arg| arg.starts_with("--pid")) {
        command.args(["--pid", &std::process::id().to_string()]);
    }
    command.output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// `CHECK STATUS` of each item of an entry, or of all items that belong to none.
fn items(report: &Value, entry: Option<&str>) -> Vec<String> {
    let of_entry = |item: &&Value| item["entry"].as_str() == entry;
    let all = report["items"].as_array().unwrap().iter();
    all.filter(of_entry)
        .map(|item| format!("{} {}", item["check"].as_str().unwrap(), item["status"].as_str().unwrap()))
        .collect()
}

fn good_list(node: &Node) -> String {
    let file = node.root.join("good.yaml");
    let entries = "entries: [{name: data, path: /mnt/data, propagation: Bidirectional, allow: [{namespaces: ['*']}]}]";
    fs::write(&file, entries).unwrap();
    file.display().to_string()
}

#[test]
fn a_good_node_passes_and_nothing_is_changed() {
    in_namespace(|| {
        let node = Node::start();
        let config = good_list(&node);
        let before = table();
        let output = check(&node, &config, &["--json"]);
        let report = json(&output);
        assert_eq!(output.status.code(), Some(0), "{report:#}");
        assert_eq!((report["ok"].as_bool(), report["faults"].as_u64()), (Some(true), Some(0)));
        assert_eq!(items(&report, Some("data")), ["source ok"]);
        for found in [
            "kernelCalls ok",
            "kubeletNamespace ok",
            "kubeletDir ok",
            "mountCall ok",
            "attributes ok",
            "registrationDir ok",
        ] {
            assert!(items(&report, None).iter().any(|item| item == found), "{found}: {report:#}");
        }
        let text = String::from_utf8(check(&node, &config, &[]).stdout).unwrap();
        assert!(text.contains("data: /mnt/data (on the mount /mnt, "), "{text}");
        assert!(text.contains("): is there and alive, shared:"), "{text}");
        assert!(text.contains("\n0 faults, "), "{text}");

        let old = json(&check_refusing(&Refusal::all(), &node, &config, &["--json"]));
        assert_eq!(items(&old, Some("data")), ["source ok"], "the fall-backs find the same");
        assert!(items(&old, None).iter().any(|item| item == "kernelCalls warning"), "{old:#}");
        for call in Call::ALL {
            let one = json(&check_refusing(&Refusal::of(call, Errno::EPERM), &node, &config, &["--json"]));
            let looked_at = format!("kernel call {}", call.name());
            let of_call = one["items"].as_array().unwrap().iter().find(|item| item["lookedAt"] == *looked_at);
            let found = of_call.and_then(|item| item["found"].as_str()).unwrap_or_else(|| panic!("{one:#}"));
            let why = ["answers EPERM: a seccomp profile refuses it", "this Linux is older than"];
            assert!(why.iter().any(|why| found.contains(why)), "{found}");
        }
        assert_eq!(table(), before);
    });
}

#[test]
fn each_fault_of_a_source_is_found() {
    in_namespace(|| {
        let node = Node::start();
        let config = node.root.join("entries.yaml").display().to_string();
        let output = check(&node, &config, &["--json"]);
        let report = json(&output);
        assert_eq!(output.status.code(), Some(1));
        for (entry, expected) in [
            ("data", ["source ok"]),
            ("gone", ["source fault"]),
            ("file", ["source fault"]),
            ("link", ["source fault"]),
            ("made", ["source ok"]),
            ("private", ["shared fault"]),
            ("unbindable", ["bindable fault"]),
        ] {
            assert_eq!(items(&report, Some(entry)), expected, "{entry}: {report:#}");
        }
        assert!(!node.root.join("made").exists(), "the check makes no directory");

        // What it advises for the private one mends it.
        let of_private = |report: &Value| {
            let all = report["items"].as_array().unwrap();
            all.iter().find(|item| item["entry"] == "private").unwrap().clone()
        };
        let command = of_private(&report)["commands"][0].as_str().unwrap().to_owned();
        // It may be written for a shell in the namespace of process 1; we are in the kubelet's.
        let command = command.split(" -- ").last().unwrap().to_owned();
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
        let report = json(&check(&node, &config, &["--json"]));
        assert_eq!(of_private(&report)["status"], "ok", "{report:#}");
    });
}

#[test]
fn faults_of_the_kubelets_directory_and_of_the_list_are_found() {
    in_namespace(|| {
        let node = Node::start();
        let config = good_list(&node);
        tmpfs(&node.root.join("kubelet/pods"));
        change(&node.root.join("kubelet/pods"), MsFlags::MS_PRIVATE);
        let report = json(&check(&node, &config, &["--json"]));
        assert!(items(&report, None).contains(&"kubeletShared fault".to_owned()), "{report:#}");
        let report = json(&check(&node, &config, &["--json", "--kubelet-dir=/mnt/nowhere"]));
        assert!(items(&report, None).contains(&"kubeletDir fault".to_owned()), "{report:#}");

        fs::write(&config, "entries: [{name: A, path: b}]").unwrap();
        let output = check(&node, &config, &["--json"]);
        let faults = items(&json(&output), None).iter().filter(|item| *item == "allowList fault").count();
        assert_eq!((faults, output.status.code()), (2, Some(1)), "every fault of the file");

        let none = check(&node, &config, &["--pid=0"]);
        assert_eq!(none.status.code(), Some(2), "called wrongly");
        let gone = json(&check(&node, &config, &["--json", "--pid=2147483647"]));
        assert!(items(&gone, None).contains(&"kubeletProcess fault".to_owned()), "{gone:#}");
    });
}

#[test]
fn a_source_that_hangs_or_died_is_named_and_the_check_ends() {
    in_namespace(|| {
        let node = Node::start();
        let file = node.root.join("fuse.yaml");
        let allow = "allow: [{namespaces: ['*']}]";
        let entries =
            format!("entries: [{{name: fs, path: /mnt/fs, {allow}}}, {{name: data, path: /mnt/data, {allow}}}]");
        fs::write(&file, entries).unwrap();
        let config = file.display().to_string();
        let Some(fuse) = Fuse::mount(&node.root.join("fs")) else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let server = fuse.serve(Arc::clone(&stop));
        assert_eq!(items(&json(&check(&node, &config, &["--json"])), Some("fs")), ["source ok"]);

        // Stopped: requests stay unanswered, and the thread that asks can't be killed.
        stop.store(true, Ordering::SeqCst);
        let silent = server.join().unwrap();
        let begun = Instant::now();
        let output = check(&node, &config, &["--json", "--timeout=0.5"]);
        assert!(begun.elapsed() < Duration::from_secs(20), "the check ends");
        let report = json(&output);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(items(&report, Some("fs")), ["source fault"]);
        assert_eq!(items(&report, Some("data")), ["source ok"], "the others are looked at all the same");
        assert!(report.to_string().contains("did not answer within 500ms"), "{report:#}");

        drop(silent);
        let report = json(&check(&node, &config, &["--json"]));
        assert!(report.to_string().contains("is dead (ENOTCONN)"), "{report:#}");
    });
}
