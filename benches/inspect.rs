//! What `hostmount inspect` and `hostmount explain` cost on a machine with 200 mount namespaces of 500 mounts, beside
//! findmnt and lsns on the same state, and beside their targets.
//!
//! `cargo bench --bench inspect` makes the namespaces in one of its own (and a user namespace, where it isn't root), so
//! that nothing is left behind. The commands take turns, and the figure of each is its best round: on a busy machine the
//! others measure the neighbours. Peak memory is the kernel's (getrusage(2)), of a process that has waited for this command
//! alone. No figure fails the run; `HOSTMOUNT_BENCH_NAMESPACES` (200) and `HOSTMOUNT_BENCH_MOUNTS` (500) change the state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a benchmark")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use kernel::calls::Calls;
use kernel::namespace::Proc;
use model::subtrees::Forest;
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{UsageWho, getrusage};
use node::gather;

const INSIDE: &str = "HOSTMOUNT_BENCH_INSIDE";
/// The first word of the command line of a process that measures one command.
const MEASURE: &str = "--measure";
/// Unless `HOSTMOUNT_BENCH_BINARY` names another one, to be compared with.
const HOSTMOUNT: &str = env!("CARGO_BIN_EXE_hostmount");
const ROUNDS: usize = 5;
const TARGET_SECONDS: f64 = 2.0;
const TARGET_MIB: f64 = 200.0;
const TARGET_EXPLAIN_SECONDS: f64 = 0.3;
const TARGET_PREDICT_SECONDS: f64 = 0.05;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == MEASURE) {
        return measure(&words[1..]);
    }
    if std::env::var_os(INSIDE).is_none() {
        let user: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
        let status = Command::new("unshare")
            .args(user)
            .args(["--mount", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .env(INSIDE, "1")
            .status()
            .expect("unshare (util-linux) starts");
        return if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let count = |name: &str, usual| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    run(count("HOSTMOUNT_BENCH_NAMESPACES", 200), count("HOSTMOUNT_BENCH_MOUNTS", 500));
    ExitCode::SUCCESS
}

/// Runs a command and prints its seconds and its peak memory in KiB.
fn measure(words: &[String]) -> ExitCode {
    let begun = Instant::now();
    let status =
        Command::new(&words[0]).args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    println!("{seconds} {}", getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss());
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn measured(words: &[&str]) -> (f64, f64) {
    let output = Command::new(std::env::current_exe().unwrap()).arg(MEASURE).args(words).output().unwrap();
    // lsns fails as a whole if there is one process that it may not ask.
    assert!(
        output.status.success() || !words.get(1).is_some_and(|word| ["inspect", "explain"].contains(word)),
        "{words:?}: {output:?}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let (seconds, kib) = text.trim().split_once(' ').unwrap();
    (seconds.parse().unwrap(), kib.parse::<f64>().unwrap() / 1024.0)
}

struct Namespaces(Vec<Child>);

impl Namespaces {
    /// Copies of this namespace, whose mounts are slaves, peers or private by turns.
    fn make(count: usize) -> Self {
        let kinds = ["slave", "unchanged", "private"];
        let one = |n: usize| {
            let mut child = Command::new("unshare")
                .args(["--mount", "--propagation", kinds[n % kinds.len()], "sh", "-c", "echo ready; read never"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
            child
        };
        Self((0..count).map(one).collect())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn mounts() -> usize {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

/// How long the model takes to say who sees a mount at a path, of the machine as it is: the best round, in seconds.
fn predict(path: &Path) -> f64 {
    let proc = Proc::new().unwrap();
    let machine = gather::gather(&proc, Calls::probe()).unwrap();
    let own = proc.own_mount_namespace().unwrap().inode;
    let namespace = machine.namespaces.iter().position(|namespace| namespace.inode == own).unwrap();
    let forest = Forest::of(&machine);
    let round = |_| {
        let start = Instant::now();
        let receivers = forest.receivers(namespace, path).unwrap_or_else(|unknown| unknown.known);
        assert!(receivers.len() > 1);
        start.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

fn run(namespaces: usize, mounts_each: usize) {
    let tmpfs = |at: &Path| {
        std::fs::create_dir_all(at).unwrap();
        mount(Some("bench"), at, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
    };
    let base = PathBuf::from("/mnt");
    tmpfs(&base);
    mount(None::<&str>, &base, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
    let mut n = 0;
    while mounts() < mounts_each {
        tmpfs(&base.join(format!("pods/{}/volumes/kubernetes.io~csi/{n}/mount", n / 10)));
        n += 1;
    }
    let others = Namespaces::make(namespaces.saturating_sub(1));
    println!("{namespaces} namespaces of {} mounts, and those that the machine has", mounts());

    let pids: Vec<String> =
        std::iter::once(std::process::id()).chain(others.0.iter().map(Child::id)).map(|pid| pid.to_string()).collect();
    let each = format!("for p in {}; do findmnt -N $p -o TARGET,PROPAGATION; done", pids.join(" "));
    let ours = std::env::var("HOSTMOUNT_BENCH_BINARY").unwrap_or_else(|_| HOSTMOUNT.to_owned());
    let ours = ours.as_str();
    // A mount at the first is seen in two thirds of the namespaces; the other is private, and only shown in all of them.
    let (many, few) = ("/mnt/new", "/new");
    let commands: [(&str, Vec<&str>); 9] = [
        ("inspect --json", vec![ours, "inspect", "--json"]),
        ("inspect", vec![ours, "inspect"]),
        ("inspect --all", vec![ours, "inspect", "--all"]),
        ("inspect --list", vec![ours, "inspect", "--list"]),
        ("explain, seen by many", vec![ours, "explain", many]),
        ("explain, seen by one", vec![ours, "explain", few]),
        ("explain --unmount", vec![ours, "explain", "--unmount", "/mnt/pods/0/volumes/kubernetes.io~csi/0/mount"]),
        ("findmnt -N, each namespace", vec!["sh", "-c", &each]),
        ("lsns -t mnt", vec!["lsns", "-t", "mnt"]),
    ];
    let mut best = vec![(f64::INFINITY, 0.0_f64); commands.len()];
    for _ in 0..ROUNDS {
        for ((_, words), best) in commands.iter().zip(&mut best) {
            let (seconds, mib) = measured(words);
            *best = (best.0.min(seconds), best.1.max(mib));
        }
    }
    let findmnt = best[7].0;
    println!("{:28} {:>9} {:>9} {:>16}", "", "seconds", "peak MiB", "to findmnt's time");
    for ((name, _), (seconds, mib)) in commands.iter().zip(&best) {
        println!("{name:28} {seconds:9.3} {mib:9.1} {:16.2}", seconds / findmnt);
    }
    let predicted = predict(Path::new(many));
    println!("{:28} {predicted:9.6} {:>9} {:16.6}", "predict, in this process", "", predicted / findmnt);
    println!(
        "targets: {TARGET_SECONDS} s, to predict {TARGET_PREDICT_SECONDS} s, to explain {TARGET_EXPLAIN_SECONDS} s, and {TARGET_MIB} MiB"
    );
    for ((name, words), (seconds, mib)) in commands.iter().zip(&best).take(7) {
        let target = if words.get(1) == Some(&"explain") { TARGET_EXPLAIN_SECONDS } else { TARGET_SECONDS };
        println!("  {name}: {}", if *seconds <= target && *mib <= TARGET_MIB { "met" } else { "MISSED" });
    }
    println!("  predict: {}", if predicted <= TARGET_PREDICT_SECONDS { "met" } else { "MISSED" });
}
