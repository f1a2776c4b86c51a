//! The suites of propagation and of healing, once with each call refused that has a fall-back: by seccomp, so that nothing
//! of ours decides what is refused. As an older kernel says it (ENOSYS); with `HOSTMOUNT_FULL=1` also as a container
//! runtime's profile says it (EPERM), and the sequences as well.
//!
//! The suites take what is refused from the environment, and see for themselves that it is (`support/seccomp.rs`):
//! `HOSTMOUNT_REFUSED=move_mount=EPERM cargo test --test heal` is one of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

#[path = "support/seccomp.rs"]
mod seccomp;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use mounts::Errno;
use seccomp::{Call, REFUSED, Refusal};

const SUITES: [&str; 2] = ["propagation", "heal"];
const MORE_SUITES: [&str; 1] = ["sequences"];
/// How many tests of a suite run at once: mostly they wait for the plugin to look.
const WAITING: &str = "6";
/// Tests of the suites that have all calls refused themselves.
const ALREADY: &str = "without_the_newer_calls";

#[test]
fn without_openat2() {
    without(Call::Openat2);
}

#[test]
fn without_move_mount() {
    without(Call::MoveMount);
}

#[test]
fn without_moves_beneath_a_mount() {
    without(Call::MoveMountBeneath);
}

#[test]
fn without_mount_setattr() {
    without(Call::MountSetattr);
}

#[test]
fn without_statmount() {
    without(Call::Statmount);
}

fn without(call: Call) {
    assert!(Refusal::of_environment().is_none(), "{REFUSED} is for the suites");
    SUITES.iter().for_each(|suite| passes(suite, &Refusal::of(call, Errno::ENOSYS)));
    if std::env::var_os("HOSTMOUNT_FULL").is_none() {
        let more = MORE_SUITES.join(", ");
        return println!("SKIPPED: EPERM, and {more}: they take long; HOSTMOUNT_FULL=1 runs them");
    }
    MORE_SUITES.iter().for_each(|suite| passes(suite, &Refusal::of(call, Errno::ENOSYS)));
    SUITES.iter().chain(&MORE_SUITES).for_each(|suite| passes(suite, &Refusal::of(call, Errno::EPERM)));
}

/// Runs a suite with a call refused.
fn passes(suite: &str, refusal: &Refusal) {
    let program = &built()[suite];
    let start = Instant::now();
    let output = Command::new(program)
        .args(["--nocapture", "--test-threads", WAITING, "--skip", ALREADY])
        .env(REFUSED, refusal.to_string())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{suite}, {refusal}:\n{text}");
    // What the suite's own processes and the plugins have said at their start.
    let told: Vec<&str> = text.lines().filter(|line| line.contains("system calls")).collect();
    told.iter().for_each(|line| refusal.is_told_by(line));
    assert!(told.len() > 3, "{suite}, {refusal}: nobody has seen that:\n{text}");
    let result = text.lines().rfind(|line| line.starts_with("test result: ok")).expect("a result");
    println!("{refusal}: {suite}: seen by {} processes, in {:?}: {result}", told.len(), start.elapsed());
}

/// The programs of the suites, built like this one: mostly they are already.
fn built() -> &'static BTreeMap<String, PathBuf> {
    static BUILT: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let own = std::env::current_exe().unwrap();
        // .../PROFILE/deps/refused-HASH
        let profile = match own.ancestors().nth(2).and_then(|dir| dir.file_name()?.to_str()) {
            Some("debug") | None => "dev",
            Some(other) => other,
        };
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit());
        cargo.args(["test", "--no-run", "--locked", "--message-format=json", "--profile", profile]);
        cargo.args(SUITES.iter().chain(&MORE_SUITES).flat_map(|suite| ["--test", suite]));
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "the suites can't be built");
        let messages = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let program = |line: &[u8]| {
            let message: serde_json::Value = serde_json::from_slice(line).unwrap();
            let name = message["target"]["name"].as_str()?.to_owned();
            let is_test = message["profile"]["test"] == true;
            is_test.then_some(())?;
            Some((name, message["executable"].as_str()?.into()))
        };
        messages.filter_map(program).collect()
    })
}
