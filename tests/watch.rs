//! `hostmount watch` on a real kernel: every mount told once, with the way on which it came; how it ends; what it keeps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::{change, eventually, in_namespace, in_namespace_as_root, tmpfs};

const PATIENCE: Duration = Duration::from_secs(30);
const BY_EVENTS: &[&str] = &[];
const BY_TABLES: &[&str] = &["--poll"];

/// A running `hostmount watch --json`.
struct Watch {
    process: Child,
    lines: Receiver<Value>,
    by_events: bool,
}

impl Watch {
    fn start(args: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_hostmount"))
            .args(["watch", "--json", "--interval=0.05"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines() {
                let value: Value = serde_json::from_str(&line.unwrap()).unwrap();
                if send.send(value).is_err() {
                    break;
                }
            }
        });
        let mut watch = Self { process, lines, by_events: false };
        let first = watch.next();
        assert_eq!(first["type"], "watching", "{first}");
        watch.by_events = first["byEvents"].as_bool().unwrap();
        watch
    }

    /// The same where the kernel names mounts; none, with the reason printed, where it doesn't.
    fn start_by_events(args: &[&str]) -> Option<Self> {
        let watch = Self::start(args);
        if watch.by_events {
            return Some(watch);
        }
        println!("SKIPPED: the kernel names no mounts here, which takes Linux 6.15 and the right to be told");
        None
    }

    #[track_caller]
    fn next(&self) -> Value {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    /// What comes until nothing has come for a while.
    fn until_quiet(&self) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_millis(1500)) {
                Ok(value) => all.push(value),
                Err(RecvTimeoutError::Timeout) => return all,
                Err(RecvTimeoutError::Disconnected) => panic!("it ended"),
            }
        }
    }

    /// The next changes of mounts, as many as these, as text: `SIGN PATH in self|other CAUSE`.
    #[track_caller]
    fn changes(&self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        while all.len() < count {
            let value = self.next();
            if value.get("path").is_some() {
                all.push(text(&value));
            }
        }
        all
    }

    /// Ends it as its user would.
    fn end(&mut self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap()), signal).unwrap();
        assert_eq!(exit_code(&mut self.process), Some(0));
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How a process ends, which it must do soon.
#[track_caller]
fn exit_code(process: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status.code();
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it doesn't end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn own_namespace() -> u64 {
    static OWN: OnceLock<u64> = OnceLock::new();
    *OWN.get_or_init(|| fs::metadata("/proc/self/ns/mnt").unwrap().ino())
}

fn place(value: &Value) -> String {
    let own = value["namespace"]["inode"].as_u64().unwrap() == own_namespace();
    format!("{} in {}", value["path"].as_str().unwrap(), if own { "self" } else { "other" })
}

fn text(value: &Value) -> String {
    let steps = value["way"].as_array().unwrap().iter();
    let way: String =
        steps.map(|step| format!(" <- {} <- {}", step["link"].as_str().unwrap(), place(&step["from"]))).collect();
    format!("{} {} {}{way}", value["type"].as_str().unwrap(), place(value), value["cause"].as_str().unwrap())
}

/// Another mount namespace, in which a shell does what it is told.
struct Other {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
}

impl Other {
    fn start(propagation: &str) -> Self {
        let mut process = Command::new("unshare")
            .args(["--mount", "--propagation", propagation, "sh"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut other = Self { process, orders, answers: BufReader::new(answers) };
        other.order("true");
        other
    }

    #[track_caller]
    fn order(&mut self, command: &str) {
        writeln!(self.orders, "{command} && echo done || echo failed").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "{command}");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A shared directory with some in it.
fn shared() -> PathBuf {
    shared_at("/mnt")
}

fn shared_at(root: &str) -> PathBuf {
    let root = PathBuf::from(root);
    tmpfs(&root);
    change(&root, MsFlags::MS_SHARED);
    for name in ["a", "b", "c"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    root
}

fn unmount(at: &Path) {
    umount2(at, MntFlags::empty()).unwrap();
}

fn a_mount_and_its_copies(at: &str, args: &[&str]) {
    let root = shared_at(at);
    let expect = |watch: &Watch, lines: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|line| line.replace("AT", at)).collect();
        assert_eq!(watch.changes(lines.len()), lines);
    };
    let _slave = Other::start("slave");
    let mut watch = Watch::start(args);
    tmpfs(&root.join("a"));
    expect(&watch, &["mount AT/a in self made", "mount AT/a in other came <- slave <- AT/a in self"]);
    unmount(&root.join("a"));
    expect(&watch, &["unmount AT/a in self made", "unmount AT/a in other came <- slave <- AT/a in self"]);
    // On a private mount nothing is passed on, and a mount can be moved.
    tmpfs(&root.join("b"));
    watch.changes(2);
    change(&root.join("b"), MsFlags::MS_PRIVATE);
    tmpfs(&root.join("b/from"));
    expect(&watch, &["mount AT/b/from in self made"]);
    fs::create_dir(root.join("b/to")).unwrap();
    let (from, to) = (root.join("b/from"), root.join("b/to"));
    mount(Some(&from), &to, None::<&str>, MsFlags::MS_MOVE, None::<&str>).unwrap();
    expect(&watch, &["move AT/b/to in self made"]);
    watch.end(Signal::SIGTERM);
}

#[test]
fn a_mount_and_its_copies_are_one_event_with_the_way() {
    in_namespace(|| a_mount_and_its_copies("/mnt", BY_EVENTS));
}

#[test]
fn a_mount_and_its_copies_are_one_event_with_the_way_by_tables() {
    in_namespace(|| a_mount_and_its_copies("/mnt", BY_TABLES));
}

#[test]
fn a_mount_and_its_copies_are_one_event_with_the_way_as_root() {
    in_namespace_as_root(|| {
        // Others mount too, elsewhere.
        a_mount_and_its_copies("/srv", &["/srv"]);
    });
}

#[test]
fn among_peers_the_kernels_ids_tell_who_made_it_and_tables_alone_do_not() {
    in_namespace(|| {
        let root = shared();
        let mut peer = Other::start("unchanged");
        let tables = Watch::start(BY_TABLES);
        let events = Watch::start_by_events(BY_EVENTS);
        peer.order("mount -t tmpfs x /mnt/a");
        if let Some(events) = &events {
            assert_eq!(
                events.changes(2),
                ["mount /mnt/a in other made", "mount /mnt/a in self came <- peer <- /mnt/a in other"]
            );
        }
        let by_tables = tables.changes(2);
        assert!(by_tables[0].ends_with("madeAmongPeers"), "{by_tables:?}");
        assert!(by_tables[1].contains("came <- peer <- /mnt/a in "), "{by_tables:?}");
        tmpfs(&root.join("b"));
        if let Some(events) = &events {
            assert_eq!(
                events.changes(2),
                ["mount /mnt/b in self made", "mount /mnt/b in other came <- peer <- /mnt/b in self"]
            );
        }
    });
}

/// Each mount that the kernel attached is told exactly once: as a mount, as one that came and went, or in the number of
/// those that had gone before they could be looked at.
#[test]
fn what_comes_and_goes_at_once_is_told() {
    in_namespace(|| {
        const TIMES: usize = 300;
        let root = shared();
        change(&root, MsFlags::MS_PRIVATE);
        let Some(watch) = Watch::start_by_events(&["/mnt"]) else { return };
        for n in 0..TIMES {
            tmpfs(&root.join("a"));
            unmount(&root.join("a"));
            if n % 20 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let mut told: BTreeMap<String, u64> = BTreeMap::new();
        for value in watch.until_quiet() {
            let count = value["count"].as_u64().unwrap_or(1);
            *told.entry(value["type"].as_str().unwrap().to_owned()).or_default() += count;
        }
        println!("{TIMES} mounts that came and went at once: {told:?}");
        let of = |kind: &str| told.get(kind).copied().unwrap_or(0);
        assert_eq!(of("mount"), of("unmount"), "{told:?}");
        assert_eq!(of("mount") + of("brief") + of("nameless"), u64::try_from(TIMES).unwrap(), "{told:?}");
    });
}

fn a_swarm(args: &[&str]) {
    const COUNT: usize = 10_000;
    let root = shared();
    tmpfs(&root.join("a"));
    fs::create_dir(root.join("source")).unwrap();
    let _slave = Other::start("slave");
    let watch = Watch::start(args);
    let begun = Instant::now();
    let mut expected = BTreeSet::new();
    for n in 0..COUNT {
        let at = root.join(format!("a/{n}"));
        fs::create_dir(&at).unwrap();
        mount(Some(&root.join("source")), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        expected.insert(at.to_str().unwrap().to_owned());
    }
    let mounted = begun.elapsed();
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut count = 0;
    while count < 2 * COUNT {
        let value = watch.next();
        if value["type"] != "lost" {
            let (at, whole) = (value["path"].as_str().unwrap().to_owned(), text(&value));
            let new = told.entry(whole.replace(&at, "X")).or_default().insert(at);
            assert!(new, "told twice: {value}");
            count += 1;
        }
    }
    println!("{COUNT} mounts and as many copies in {mounted:?}, all told after {:?}", begun.elapsed());
    // Not one of them was cut from its copy by reading the tables meanwhile.
    let kinds: Vec<&String> = told.keys().collect();
    assert_eq!(kinds, ["mount X in other came <- slave <- X in self", "mount X in self made"]);
    assert!(told.values().all(|all| *all == expected));
    // And all go at once.
    umount2(&root.join("a"), MntFlags::MNT_DETACH).unwrap();
    let mut gone = [0, 0];
    while gone.iter().sum::<usize>() < 2 * (COUNT + 1) {
        let value = watch.next();
        if value["type"] != "lost" {
            assert_eq!(value["type"], "unmount");
            gone[usize::from(value["namespace"]["inode"].as_u64() == Some(own_namespace()))] += 1;
        }
    }
    assert_eq!(gone, [COUNT + 1; 2]);
    assert!(watch.until_quiet().iter().all(|value| value["type"] == "lost"), "and nothing else was told");
}

#[test]
fn a_swarm_is_told_whole() {
    in_namespace(|| a_swarm(BY_EVENTS));
}

#[test]
fn a_swarm_is_told_whole_by_tables() {
    in_namespace(|| a_swarm(BY_TABLES));
}

/// The kernel's queue holds so many events and no more.
#[test]
fn lost_events_are_said_and_what_is_there_is_told_all_the_same() {
    in_namespace(|| {
        let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap_or_default();
        let limit: usize = limit.trim().parse().unwrap_or(0);
        if !(1..=50_000).contains(&limit) {
            println!("SKIPPED: the kernel's queue of events has no limit, or a large one ({limit})");
            return;
        }
        let root = shared();
        change(&root, MsFlags::MS_PRIVATE);
        tmpfs(&root.join("a"));
        let Some(watch) = Watch::start_by_events(&[]) else { return };
        let pid = Pid::from_raw(i32::try_from(watch.process.id()).unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        let count = limit + 500;
        let mut expected = BTreeSet::new();
        for n in 0..count {
            let at = root.join(format!("a/{n}"));
            fs::create_dir(&at).unwrap();
            mount(Some(&root.join("c")), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            expected.insert(at.to_str().unwrap().to_owned());
        }
        kill(pid, Signal::SIGCONT).unwrap();
        let (mut told, mut lost) = (BTreeSet::new(), 0);
        while told.len() < count {
            let value = watch.next();
            match value["type"].as_str().unwrap() {
                "lost" => lost += 1,
                "mount" => assert!(told.insert(value["path"].as_str().unwrap().to_owned()), "told twice: {value}"),
                _ => panic!("{value}"),
            }
        }
        assert_eq!((told, lost), (expected, 1));
        // And it goes on.
        tmpfs(&root.join("b"));
        assert_eq!(watch.changes(1), ["mount /mnt/b in self made"]);
    });
}

#[test]
fn namespaces_come_and_go_and_are_not_kept() {
    in_namespace(|| {
        shared();
        let mut watch = Watch::start(BY_EVENTS);
        let mut before = 0;
        for n in 0..10 {
            let mut other = Other::start("private");
            let came = watch.next();
            assert_eq!(came["type"], "namespaceCame", "{came}");
            assert_eq!(came["namespace"]["pid"].as_u64(), Some(u64::from(other.process.id())), "{came}");
            // It is watched from then on.
            other.order("mount -t tmpfs x /mnt/a");
            assert_eq!(watch.changes(1), ["mount /mnt/a in other made"]);
            drop(other);
            let went = watch.next();
            assert_eq!(
                (&went["type"], &went["namespace"]["inode"]),
                (&"namespaceWent".into(), &came["namespace"]["inode"])
            );
            if n == 0 {
                before = watch.descriptors();
            }
        }
        assert_eq!(watch.descriptors(), before, "descriptors are left");
        watch.end(Signal::SIGINT);
    });
}

/// An open mount table keeps its namespace alive, and all that is mounted there.
#[test]
fn what_only_an_ended_namespace_had_mounted_is_let_go() {
    in_namespace(|| {
        let root = shared();
        change(&root, MsFlags::MS_PRIVATE);
        let Ok(device) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
            println!("SKIPPED: /dev/fuse cannot be opened: this test needs FUSE");
            return;
        };
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("test"), &root.join("b"), Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
        let other = Other::start("private");
        let watch = Watch::start(BY_EVENTS);
        umount2(&root.join("b"), MntFlags::MNT_DETACH).unwrap();
        assert_eq!(watch.changes(1), ["unmount /mnt/b in self made"]);
        // The device tells when the file system is mounted nowhere any more (fs/fuse/dev.c, fuse_dev_poll).
        let is_gone = || {
            let mut fds = [PollFd::new(device.as_fd(), PollFlags::empty())];
            poll(&mut fds, PollTimeout::ZERO).unwrap();
            fds[0].revents().unwrap().contains(PollFlags::POLLERR)
        };
        assert!(!is_gone(), "the other namespace has it");
        drop(other);
        eventually("it is mounted nowhere", is_gone);
        assert_eq!(watch.next()["type"], "namespaceWent");
    });
}

#[test]
fn it_ends_when_nobody_reads_any_more() {
    in_namespace(|| {
        let root = shared();
        let start = |stdout: Stdio| {
            Command::new(env!("CARGO_BIN_EXE_hostmount"))
                .args(["watch", "--time=none"])
                .stdout(stdout)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let until_it_watches = |process: &mut Child| {
            let mut line = String::new();
            let mut err = BufReader::new(process.stderr.take().unwrap());
            err.read_line(&mut line).unwrap();
            assert!(line.starts_with("hostmount: watching "), "{line}");
            err
        };
        // At once, not only with the next line.
        let mut process = start(Stdio::piped());
        let _err = until_it_watches(&mut process);
        drop(process.stdout.take());
        assert_eq!(exit_code(&mut process), Some(0));

        // With a reader that doesn't read, and a full pipe.
        let mut process = start(Stdio::piped());
        let _err = until_it_watches(&mut process);
        for _ in 0..2000 {
            tmpfs(&root.join("a"));
        }
        std::thread::sleep(Duration::from_millis(500));
        kill(Pid::from_raw(i32::try_from(process.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert_eq!(exit_code(&mut process), Some(0));
        let mut text = String::new();
        process.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(text.starts_with("+ /mnt/a  tmpfs  in "), "{text}");
    });
}

#[test]
fn what_is_told_can_be_chosen() {
    in_namespace(|| {
        let root = shared();
        let other = Other::start("slave");
        let pid = other.process.id().to_string();
        let inode = own_namespace().to_string();
        let of_process = Watch::start(&["--pid", &pid]);
        let of_namespace = Watch::start(&["--namespace", &inode]);
        let of_path = Watch::start(&["/mnt/b/"]);
        let of_pod = Watch::start(&["--pod", "ml/train"]);
        tmpfs(&root.join("a"));
        tmpfs(&root.join("b"));
        let came = |at: &str| format!("mount {at} in other came <- slave <- {at} in self");
        assert_eq!(of_process.changes(2), [came("/mnt/a"), came("/mnt/b")], "the way is told all the same");
        assert_eq!(of_namespace.changes(2), ["mount /mnt/a in self made", "mount /mnt/b in self made"]);
        assert_eq!(of_path.changes(2), ["mount /mnt/b in self made".to_owned(), came("/mnt/b")]);
        assert_eq!(of_pod.until_quiet(), [Value::Null; 0]);

        let code = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_hostmount"));
            command.arg("watch").args(args).output().unwrap().status.code()
        };
        assert_eq!(code(&["--pid=2147483647"]), Some(1));
        for wrong in [&["--interval=0"][..], &["--namespace=x"], &["--json", "--time=unix"], &["--pid=0"]] {
            assert_eq!(code(wrong), Some(2), "{wrong:?}");
        }
    });
}
