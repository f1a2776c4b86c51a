//! `hostmount try` as its users run it: the real binary, real namespaces, real mounts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn hostmount(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostmount"));
    command.args(arguments).env("SHELL", "/bin/sh").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// Rows: node, pod A, pod B. Columns: before, on the node, in A, in B. Drawn from the documentation, on purpose not
/// taken from the program.
const DOCUMENTED: [(&str, [&str; 3]); 3] = [
    ("None", ["xx..", "x.x.", "x..x"]),
    ("HostToContainer", ["xx..", "xxx.", "xx.x"]),
    ("Bidirectional", ["xxxx", "xxxx", "xxxx"]),
];

#[test]
fn every_cell_is_as_documented_and_nothing_is_left() {
    let (before, start) = (mounts(), Instant::now());
    let output = hostmount(&["try", "--json"]).output().unwrap();
    assert_success(&output);
    // The promise is 2 s for a release build.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(mounts(), before, "the real mount table is untouched");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], true);
    let modes = report["modes"].as_array().unwrap();
    assert_eq!(modes.len(), 3);
    for (mode, (name, rows)) in modes.iter().zip(DOCUMENTED) {
        assert_eq!(mode["mode"], name);
        let cells = mode["cells"].as_array().unwrap();
        assert_eq!(cells.len(), 12, "{name}");
        for (place, row) in ["node", "podA", "podB"].into_iter().zip(rows) {
            for (event, wanted) in ["before", "nodeLate", "podA", "podB"].into_iter().zip(row.chars()) {
                let cell = cells.iter().find(|c| c["event"] == event && c["place"] == place);
                let cell = cell.unwrap_or_else(|| panic!("no cell {name} {event} {place}"));
                assert_eq!(cell["seen"], wanted == 'x', "{name}: the mount {event} at {place}");
                assert_eq!(cell["documented"], wanted == 'x', "{name}: the mount {event} at {place}");
            }
        }
    }
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 7, "{checks:?}");
    assert!(checks.iter().all(|c| c["wrong"].as_array().unwrap().is_empty()), "{checks:?}");
}

#[test]
fn the_kernels_flags_are_the_three_relations() {
    let output = hostmount(&["try", "--json"]).output().unwrap();
    assert_success(&output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let flags = |mode: usize| report["modes"][mode]["flags"].clone();
    let group = |flags: &Value| flags["source"].as_str().unwrap().strip_prefix("shared:").unwrap().to_owned();
    for pod in [0, 1] {
        let none = flags(0);
        assert!(!none["targets"][pod].as_str().unwrap().contains("slave"), "{none}");
        assert_eq!(none["containers"][pod], "private");
        let host = flags(1);
        let slave = format!("slave:{}", group(&host));
        assert!(host["targets"][pod].as_str().unwrap().ends_with(&slave), "{host}");
        assert!(host["containers"][pod].as_str().unwrap().starts_with("slave:"), "{host}");
        let both = flags(2);
        assert_eq!(both["targets"][pod], both["source"]);
        assert_eq!(both["containers"][pod], both["source"]);
    }
}

#[test]
fn the_table_is_for_people() {
    let output = hostmount(&["try"]).output().unwrap();
    assert_success(&output);
    let table = text(&output.stdout);
    for word in ["None", "HostToContainer", "Bidirectional", "pod B", "nothing is left"] {
        assert!(table.contains(word), "{word:?} is missing:\n{table}");
    }
    assert!(!table.contains('\x1b'), "no colours into a pipe:\n{table}");
}

#[test]
fn the_shell_is_inside_a_container_with_the_volume() {
    for mode in ["None", "HostToContainer", "Bidirectional"] {
        let mut child = hostmount(&["try", "--shell", "--mode", mode])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let script = "cat /data/before/made; echo; grep -c ' /data' /proc/self/mountinfo; ls -d /hostmount; exit 3\n";
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        // What the shell exits with isn't the result.
        assert_success(&output);
        assert_eq!(text(&output.stdout), "before\n2\n/hostmount\n", "{mode}");
        let hint = text(&output.stderr);
        assert!(hint.contains("nsenter") && hint.contains(mode), "{hint}");
    }
}

#[test]
fn a_killed_trial_takes_its_processes_along() {
    let mut child = hostmount(&["try", "--shell", "--mode", "None"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut orders = child.stdin.take().unwrap();
    orders.write_all(b"echo here\n").unwrap();
    let mut line = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    let children = |of: u32| -> BTreeSet<String> {
        let list = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
        list.split_whitespace().map(str::to_owned).collect()
    };
    let started = children(child.id());
    assert_eq!(started.len(), 3, "the plugin, pod A's shell and pod B's observer");
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let alive = || -> Vec<String> {
        let there = |pid: &&String| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
        started.iter().filter(there).cloned().collect()
    };
    while !alive().is_empty() {
        assert!(Instant::now() < deadline, "still alive: {:?}", alive());
        std::thread::sleep(Duration::from_millis(5));
    }
}
