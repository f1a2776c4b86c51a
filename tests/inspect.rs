//! `hostmount inspect` on a real kernel: namespaces with and without processes, what hangs together, what may not be
//! read, and names that are no text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{change, in_namespace, in_namespace_as_root, tmpfs, unmount};

const UID: &str = "28c6b84f-4b17-4bac-9ca4-c7c794ebfefc";

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostmount"));
    command.arg("inspect").args(args).env("LC_ALL", "C.UTF-8");
    command
}

#[track_caller]
fn succeeded(output: Output) -> Output {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[track_caller]
fn json_of(output: Output) -> Value {
    let document: Value = serde_json::from_slice(&succeeded(output).stdout).unwrap();
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/inspect.schema.json");
    let schema: Value = serde_json::from_str(&fs::read_to_string(schema).unwrap()).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    if let Some(fault) = validator.iter_errors(&document).next() {
        panic!("{}: {fault}", fault.instance_path());
    }
    document
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    json_of(command(&[args, &["--json"]].concat()).output().unwrap())
}

#[track_caller]
fn text(args: &[&str]) -> String {
    String::from_utf8(succeeded(command(args).output().unwrap()).stdout).unwrap()
}

fn namespace_of(pid: u32) -> u64 {
    let link = fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    link.to_str().unwrap().trim_start_matches("mnt:[").trim_end_matches(']').parse().unwrap()
}

/// The namespace of an inode in a document.
#[track_caller]
fn namespace(document: &Value, inode: u64) -> &Value {
    let all = document["namespaces"].as_array().unwrap();
    all.iter().find(|n| n["inode"] == inode).unwrap_or_else(|| panic!("no mnt:[{inode}]: {}", document["leftOut"]))
}

#[track_caller]
fn mount_of<'d>(namespace: &'d Value, target: &str) -> &'d Value {
    let all = namespace["mounts"].as_array().unwrap();
    all.iter().rfind(|mount| mount["target"] == target).unwrap_or_else(|| panic!("nothing at {target}: {namespace:#}"))
}

fn left_out(document: &Value) -> String {
    document["leftOut"].to_string()
}

/// A process in a mount namespace of its own that has run a script there, and stays.
struct Other(Child);

impl Other {
    fn start(propagation: &str, script: &str) -> Self {
        Self::run(&["--mount", "--propagation", propagation, "sh", "-ec"], script)
    }

    fn run(how: &[&str], script: &str) -> Self {
        let script = format!("{script}\necho ready\nread never");
        let mut child =
            Command::new("unshare").args(how).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn namespace(&self) -> u64 {
        namespace_of(self.pid())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bind(from: &Path, to: &Path) {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

/// The inode of a namespace that has run a script and that nothing but a bind mount keeps.
///
/// Linux lets a namespace be mounted only in one with a lower id (fs/namespace.c, `mnt_ns_loop`), and since 6.18 each
/// processor gives ids out of a batch of its own: on one of them, the processor our own namespace was made on at the
/// latest, a new one's is higher.
fn kept_by_a_bind(script: &str, at: &Path) -> u64 {
    let myself = Pid::from_raw(0);
    let allowed = sched_getaffinity(myself).unwrap();
    for cpu in (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap()) {
        let mut one = CpuSet::new();
        one.set(cpu).unwrap();
        sched_setaffinity(myself, &one).unwrap();
        let other = Other::start("private", script);
        sched_setaffinity(myself, &allowed).unwrap();
        let from = format!("/proc/{}/ns/mnt", other.pid());
        match mount(Some(from.as_str()), at, None::<&str>, MsFlags::MS_BIND, None::<&str>) {
            Ok(()) => return other.namespace(),
            Err(errno) => assert_eq!(errno, nix::errno::Errno::EINVAL),
        }
    }
    panic!("no processor gives a namespace that may be mounted here");
}

/// A tmpfs at /mnt, shared, with one beneath it.
fn mnt() -> PathBuf {
    let mnt = PathBuf::from("/mnt");
    tmpfs(&mnt);
    change(&mnt, MsFlags::MS_SHARED);
    tmpfs(&mnt.join("a"));
    mnt
}

#[test]
fn peers_and_masters_are_followed_across_namespaces() {
    in_namespace(|| {
        mnt();
        let own = namespace_of(std::process::id());
        let [peer, slave, private] = ["unchanged", "slave", "private"].map(|how| Other::start(how, ":"));
        let document = json(&[]);
        let here = mount_of(namespace(&document, own), "/mnt");
        let group = here["peerGroup"].as_u64().unwrap();
        let of = |other: &Other| mount_of(namespace(&document, other.namespace()), "/mnt");
        assert_eq!((&of(&peer)["peerGroup"], &of(&peer)["master"]), (&json!(group), &Value::Null));
        assert_eq!((&of(&slave)["peerGroup"], &of(&slave)["master"]), (&Value::Null, &json!(group)));
        assert_eq!((&of(&private)["peerGroup"], &of(&private)["master"]), (&Value::Null, &Value::Null));
        let told = document["groups"].as_array().unwrap().iter().find(|g| g["id"] == group).unwrap();
        let namespaces = |list: &str| -> BTreeSet<u64> {
            told[list].as_array().unwrap().iter().map(|member| member["namespace"].as_u64().unwrap()).collect()
        };
        assert_eq!(namespaces("members"), BTreeSet::from([own, peer.namespace()]));
        assert_eq!(namespaces("slaves"), BTreeSet::from([slave.namespace()]));

        let inode = slave.namespace().to_string();
        let cell = text(&["--namespace", &inode, "-o", "TARGET,MASTER", "--raw", "--noheadings", "/mnt"]);
        let master = cell.lines().find(|line| line.starts_with("/mnt ")).unwrap();
        assert!(master.starts_with(&format!(r"/mnt {group}\x20=\x20/mnt\x20in\x20")), "{master}");
        let pid = peer.pid().to_string();
        assert!(text(&["--pid", &pid, "-o", "PEERS", "-u"]).contains(&format!("{group}: /mnt in ")));

        // The tree shows of a copy only what differs, and what it is told to.
        let folded = text(&["--namespace", &inode]);
        assert!(folded.contains("/mnt/a"), "where it is the only one, all of it: {folded}");
        let all = text(&[]);
        assert!(all.contains(" mounts as in "), "{all}");
        assert!(text(&["--all"]).lines().count() > all.lines().count());
    });
}

#[test]
fn the_picture_of_a_path_shows_also_where_it_is_linked_to_at_other_paths() {
    in_namespace(|| {
        mnt();
        let elsewhere = Other::start(
            "slave",
            "mount -t tmpfs other /tmp; mkdir /tmp/elsewhere; mount --rbind /mnt /tmp/elsewhere; umount -l /mnt",
        );
        let _copy = Other::start("private", "umount -l /mnt; mount -t tmpfs apart /mnt");
        let group = mount_of(namespace(&json(&[]), namespace_of(std::process::id())), "/mnt")["peerGroup"].to_string();
        let tree = text(&["/mnt", "-o", "TARGET,SOURCE"]);
        assert!(!tree.contains("/tmp/elsewhere") && tree.contains("apart"), "{tree}");
        let dot = text(&["/mnt", "--format", "dot"]);
        assert!(dot.contains("/tmp/elsewhere: / of "), "{dot}");
        // Its colour depends on how many groups other namespaces of the machine have.
        let arrow = format!(", tooltip=\"peer group {group}\", penwidth=1.2");
        assert!(dot.contains(&arrow), "{dot}");
        // As seen from there.
        let inode = elsewhere.namespace().to_string();
        let svg = text(&["--namespace", &inode, "/tmp/elsewhere", "--format", "svg"]);
        assert!(svg.contains("<title>/mnt/a: / of ") && !svg.contains("apart"), "{svg}");
        // The page knows how many members and slaves a group has, of which but one slave is shown.
        let page = text(&["--namespace", &inode, "--format", "html"]);
        assert!(page.contains(&format!("[{group},null,1,1]")), "{page}");
    });
}

#[test]
fn the_types_are_those_of_findmnt_and_recursion_is_told_right() {
    in_namespace(|| {
        let mnt = mnt();
        for name in ["unbindable", "both", "slave"] {
            tmpfs(&mnt.join(name));
        }
        for name in ["master", "master2"] {
            tmpfs(&mnt.join(name));
            change(&mnt.join(name), MsFlags::MS_SHARED);
        }
        bind(&mnt.join("master"), &mnt.join("slave"));
        bind(&mnt.join("master2"), &mnt.join("both"));
        for (name, flag) in [
            ("slave", MsFlags::MS_SLAVE),
            ("both", MsFlags::MS_SLAVE),
            ("both", MsFlags::MS_SHARED),
            ("unbindable", MsFlags::MS_UNBINDABLE),
            ("a", MsFlags::MS_PRIVATE),
        ] {
            change(&mnt.join(name), flag);
        }
        let own = namespace_of(std::process::id());
        let document = json(&[]);
        let here = namespace(&document, own);

        let output = Command::new("findmnt").args(["-J", "-l", "-o", "ID,PROPAGATION"]).output().unwrap();
        let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
        let theirs: BTreeMap<u64, String> = theirs["filesystems"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| (mount["id"].as_u64().unwrap(), mount["propagation"].as_str().unwrap().to_owned()))
            .collect();
        let ours: BTreeMap<u64, String> = here["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| {
                let word = match mount["propagation"]["kind"].as_str().unwrap() {
                    "shared and slave" => "shared,slave",
                    "slave" => "private,slave",
                    "unbindable" => "private,unbindable",
                    other => other,
                };
                (mount["id"].as_u64().unwrap(), word.to_owned())
            })
            .collect();
        assert_eq!(ours, theirs, "what findmnt says of each mount alone");

        let kind = |name: &str| mount_of(here, name)["propagation"]["type"].as_str().unwrap().to_owned();
        for (target, expected) in [
            ("/mnt", "shared"),
            ("/mnt/a", "rprivate"),
            ("/mnt/unbindable", "runbindable"),
            ("/mnt/both", "rshared and rslave"),
            ("/mnt/slave", "rslave"),
            ("/mnt/master", "rshared"),
        ] {
            assert_eq!(kind(target), expected, "{target}");
        }
        // /mnt/slave and /mnt/both lie on tmpfs of the same place, which are shared, as all made in /mnt is.
        let beneath = &mount_of(here, "/mnt")["propagation"]["beneath"];
        assert_eq!((&beneath["private"], &beneath["unbindable"], &beneath["slave"]), (&json!(1), &json!(1), &json!(1)));
        let shown = text(&["/mnt", "-o", "PROPAGATION", "-n", "--list"]);
        assert!(shown.contains("shared; beneath 1 private, 1 unbindable, 1 slave of 8\n"), "{shown}");

        // And it is true: the order that the word stands for changes nothing.
        change(&mnt, MsFlags::MS_SHARED | MsFlags::MS_REC);
        let document = json(&["/mnt"]);
        let mount = mount_of(namespace(&document, own), "/mnt");
        assert_eq!(mount["propagation"]["type"], "rshared");
        assert_eq!(mount["propagation"]["mixed"], false);
    });
}

#[test]
fn a_namespace_is_read_from_its_root_though_its_processes_are_chrooted() {
    in_namespace(|| {
        let mnt = mnt();
        let script = "mkdir /mnt/root; mount --rbind / /mnt/root; \
                      exec chroot /mnt/root sh -c 'echo ready; read never'";
        let other = Other::start("private", script);
        let seen = fs::read_to_string(format!("/proc/{}/mountinfo", other.pid())).unwrap();
        let document = json(&[]);
        let there = namespace(&document, other.namespace());
        assert!(there["mounts"].as_array().unwrap().len() > seen.lines().count());
        // Beneath the root of the process both would be /mnt/a.
        mount_of(there, "/mnt/root/mnt/a");
        mount_of(there, "/mnt/a");
        assert!(!left_out(&document).contains(&other.namespace().to_string()), "{}", left_out(&document));

        // Who may not enter it sees what the process sees, and that this is not all.
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", env!("CARGO_BIN_EXE_hostmount"), "inspect", "--json"])
            .output()
            .unwrap();
        let document = json_of(output);
        let all = document["namespaces"].as_array().unwrap();
        let pid = other.pid();
        let of_process = |n: &&Value| n["processes"].as_array().unwrap().iter().any(|process| process["pid"] == pid);
        let there = all.iter().find(of_process).unwrap();
        assert_eq!(there["inode"], Value::Null);
        assert_eq!(there["mounts"].as_array().unwrap().len(), seen.lines().count());
        assert!(left_out(&document).contains("outside of their roots"), "{}", left_out(&document));
        drop(mnt);
    });
}

#[test]
fn without_rights_it_says_so_and_goes_on() {
    in_namespace(|| {
        mnt();
        let other = Other::start(
            "private",
            "mkdir /mnt/here; mount -t tmpfs t /mnt/here; exec 3<&0; cat <&3 >/dev/null 2>&1 &",
        );
        // A user namespace beneath ours may trace nobody in ours.
        let run = |args: &[&str]| {
            let how = ["--user", "--map-root-user", env!("CARGO_BIN_EXE_hostmount"), "inspect"];
            succeeded(Command::new("unshare").args(how).args(args).output().unwrap())
        };
        let document = json_of(run(&["--json"]));
        let all = document["namespaces"].as_array().unwrap();
        let pid = other.pid();
        let with = |n: &&Value| n["processes"].as_array().unwrap().iter().any(|process| process["pid"] == pid);
        let there: Vec<&Value> = all.iter().filter(with).collect();
        assert_eq!(there.len(), 1);
        mount_of(there[0], "/mnt/here");
        assert_eq!(there[0]["processes"].as_array().unwrap().len(), 2, "its processes are found to share it");
        assert!(left_out(&document).contains("CAP_SYS_PTRACE"), "{}", left_out(&document));

        let output = run(&["--pid", &pid.to_string()]);
        assert!(String::from_utf8_lossy(&output.stderr).contains("hostmount: left out: "));
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains("mnt:[?]") && shown.contains("/mnt/here"), "{shown}");
    });
}

#[test]
fn a_namespace_that_only_a_bind_mount_keeps_is_told_of() {
    in_namespace(|| {
        let mnt = mnt();
        fs::write(mnt.join("kept"), "").unwrap();
        change(&mnt, MsFlags::MS_PRIVATE);
        let inode = kept_by_a_bind(":", &mnt.join("kept"));
        let document = json(&[]);
        let known = document["namespaces"].as_array().unwrap().iter().any(|n| n["inode"] == inode);
        let told = left_out(&document);
        assert!(known || told.contains(&format!("mnt:[{inode}], which is kept by a bind mount")), "{told}");
        assert!(known || told.contains("no process is in"), "{told}");
    });
}

#[test]
fn root_reads_also_namespaces_without_processes() {
    in_namespace_as_root(|| {
        let mnt = mnt();
        fs::write(mnt.join("kept"), "").unwrap();
        change(&mnt, MsFlags::MS_PRIVATE);
        let bound = kept_by_a_bind("mkdir -p /mnt/inside; mount -t tmpfs t /mnt/inside", &mnt.join("kept"));
        let other = Other::start("private", "mkdir /mnt/inside2; mount -t tmpfs t /mnt/inside2");
        let held = other.namespace();
        let descriptor = fs::File::open(format!("/proc/{}/ns/mnt", other.pid())).unwrap();
        drop(other);
        let document = json(&[]);
        if left_out(&document).contains("Linux lists them since 6.12") {
            println!("SKIPPED: this kernel lists no namespaces");
            return;
        }
        let there = namespace(&document, bound);
        assert_eq!(there["processes"], json!([]));
        mount_of(there, "/mnt/inside");
        assert_eq!(there["keptBy"][0]["target"], "/mnt/kept");
        mount_of(namespace(&document, held), "/mnt/inside2");
        let shown = text(&["--namespace", &format!("mnt:[{bound}]")]);
        assert!(shown.contains("no process · kept by a bind mount at /mnt/kept in "), "{shown}");
        drop(descriptor);
    });
}

#[test]
fn a_thread_with_a_namespace_of_its_own_is_found() {
    in_namespace(|| {
        let (ready, wait) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS | nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let link = fs::read_link("/proc/thread-self/ns/mnt").unwrap();
            let inode = link.to_str().unwrap().trim_start_matches("mnt:[").trim_end_matches(']').parse::<u64>();
            ready.send((nix::unistd::gettid().as_raw(), inode.unwrap())).unwrap();
            let _ = ended.recv();
        });
        let (tid, inode) = wait.recv().unwrap();
        let document = json(&[]);
        let found = &namespace(&document, inode)["processes"];
        assert_eq!(found.as_array().unwrap().len(), 1);
        assert_eq!(found[0]["pid"], tid);
        drop(end);
        thread.join().unwrap();
    });
}

#[test]
fn names_that_are_no_text_are_shown_harmlessly_and_told_losslessly() {
    in_namespace(|| {
        let mnt = mnt();
        let names: [&[u8]; 4] = [b"new\nline", b"esc\x1b[2J\x07", b"\xff\xfe", b"back\\slash and space"];
        for name in names {
            tmpfs(&mnt.join(std::ffi::OsStr::from_bytes(name)));
        }
        let document = json(&["/mnt"]);
        let own = namespace_of(std::process::id());
        let told: BTreeSet<Vec<u8>> = namespace(&document, own)["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| match mount["targetHex"].as_str() {
                Some(hex) => {
                    let digits: Vec<u8> = hex.bytes().collect();
                    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
                    digits.chunks(2).map(byte).collect()
                }
                None => mount["target"].as_str().unwrap().as_bytes().to_vec(),
            })
            .collect();
        for name in names {
            assert!(told.contains(&[b"/mnt/", name].concat()), "{name:?}");
        }
        for form in [&["/mnt"][..], &["/mnt", "--list"], &["/mnt", "--raw"]] {
            let shown = text(form);
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
            assert!(shown.contains(r"/mnt/new\x0aline") && shown.contains(r"/mnt/\xff\xfe"), "{shown}");
        }
        for line in text(&["/mnt", "--raw"]).lines() {
            assert_eq!(line.split(' ').count(), 6, "{line:?}");
        }
    });
}

#[test]
fn a_deleted_root_is_told_from_a_directory_of_that_name() {
    in_namespace(|| {
        let mnt = mnt();
        for name in ["dir", "at", "odd", "odd//deleted", "at2"] {
            fs::create_dir_all(mnt.join(name)).unwrap();
        }
        bind(&mnt.join("dir"), &mnt.join("at"));
        bind(&mnt.join("odd/deleted"), &mnt.join("at2"));
        fs::remove_dir(mnt.join("dir")).unwrap();
        let document = json(&["/mnt"]);
        let here = namespace(&document, namespace_of(std::process::id()));
        let told = |target: &str| {
            let mount = mount_of(here, target);
            (mount["root"].as_str().unwrap().to_owned(), mount["rootDeleted"].as_bool().unwrap())
        };
        assert_eq!(told("/mnt/at"), ("/dir".to_owned(), true));
        assert_eq!(told("/mnt/at2"), ("/odd/deleted".to_owned(), false));
        assert!(text(&["/mnt", "-o", "+FSROOT"]).contains(" /dir//deleted\n"));
    });
}

#[test]
fn a_pod_is_named_by_the_kubelets_files_and_logs() {
    in_namespace(|| {
        let mnt = mnt();
        // A kubelet is told by its name; it sees the logs of its pods.
        let shell = fs::read_link("/bin/sh").map_or_else(|_| PathBuf::from("/bin/sh"), |to| Path::new("/bin").join(to));
        fs::copy(shell, mnt.join("kubelet")).unwrap();
        let logs = format!("/var/log/pods/ml_train-0_{UID}");
        let script =
            format!("mount -t tmpfs t /var/log; mkdir -p {logs}; exec /mnt/kubelet -c 'echo ready; read never'");
        let kubelet = Other::start("private", &script);
        let target = format!("/mnt/k/pods/{UID}/volumes/kubernetes.io~csi/data/mount");
        let files = format!("/mnt/k/pods/{UID}");
        fs::create_dir_all(&target).unwrap();
        fs::create_dir_all(format!("{files}/containers/main")).unwrap();
        for file in ["etc-hosts", "containers/main/abcd"] {
            fs::write(format!("{files}/{file}"), "").unwrap();
        }
        tmpfs(&mnt.join("source"));
        bind(&mnt.join("source"), Path::new(&target));
        let script = format!(
            "mkdir /mnt/c /mnt/c/data; touch /mnt/c/hosts /mnt/c/log; mount --bind {files}/etc-hosts /mnt/c/hosts; \
             mount --bind {files}/containers/main/abcd /mnt/c/log; mount --bind {target} /mnt/c/data; \
             umount {target}; umount /mnt/source"
        );
        let container = Other::start("private", &script);
        let document = json(&["--pod", "ml/train-0"]);
        assert_eq!(document["namespaces"].as_array().unwrap().len(), 1, "{document:#}");
        let there = namespace(&document, container.namespace());
        assert_eq!(there["pod"], json!({"uid": UID, "namespace": "ml", "name": "train-0"}));
        assert!(there["label"].as_str().unwrap().starts_with("pod ml/train-0, "));
        assert_eq!(json(&["--pod", UID])["namespaces"], document["namespaces"]);

        // Its volume, where the kubelet has mounted it and in the container.
        let document = json(&["--volume", "data"]);
        let targets = |inode| -> Vec<&str> {
            let mounts = namespace(&document, inode)["mounts"].as_array().unwrap().iter();
            mounts.map(|mount| mount["target"].as_str().unwrap()).collect()
        };
        assert_eq!(targets(namespace_of(std::process::id())), [target.as_str()]);
        assert_eq!(targets(container.namespace()), ["/mnt/c/data"]);

        let wrong = command(&["--pod", "ml/nobody"]).output().unwrap();
        assert_eq!(wrong.status.code(), Some(1));
        let message = String::from_utf8_lossy(&wrong.stderr).into_owned();
        // Which pods there are is cut where the machine runs many.
        let known = message.contains("ml/train-0") || message.contains(" more");
        assert!(message.contains("--pod ml/nobody: no such pod: there are ") && known, "{message}");
        drop(kubelet);
    });
}

#[test]
fn processes_and_mounts_that_come_and_go_meanwhile_are_survived() {
    in_namespace(|| {
        let mnt = mnt();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let vanishing = || Command::new("unshare").args(["--mount", "true"]).spawn().unwrap();
                    for mut child in [vanishing(), vanishing(), vanishing()] {
                        child.wait().unwrap();
                    }
                }
            });
            scope.spawn(|| {
                let deep: Vec<PathBuf> = (0..40).map(|n| mnt.join(format!("a/{n}/x"))).collect();
                while !stop.load(Ordering::Relaxed) {
                    for at in &deep {
                        tmpfs(at.parent().unwrap());
                        tmpfs(at);
                    }
                    for at in &deep {
                        unmount(at.parent().unwrap());
                    }
                }
            });
            let own = namespace_of(std::process::id());
            let runs = std::panic::catch_unwind(|| {
                for _ in 0..30 {
                    let document = json(&[]);
                    let here = namespace(&document, own);
                    let mounts = here["mounts"].as_array().unwrap();
                    let ids: BTreeSet<u64> = mounts.iter().map(|mount| mount["id"].as_u64().unwrap()).collect();
                    let orphans: BTreeSet<u64> = mounts
                        .iter()
                        .map(|mount| mount["parent"].as_u64().unwrap())
                        .filter(|parent| !ids.contains(parent))
                        .collect();
                    let whole = ids.len() == mounts.len() && orphans.len() <= 1;
                    assert!(whole || left_out(&document).contains("its table changed"), "{orphans:?}");
                }
            });
            stop.store(true, Ordering::Relaxed);
            if let Err(panic) = runs {
                std::panic::resume_unwind(panic);
            }
        });
    });
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    in_namespace(|| {
        mnt();
        for form in ["--json", "--all", "--list"] {
            let mut child = command(&[form]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            drop(child.stdout.take());
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{form}: {}", String::from_utf8_lossy(&output.stderr));
        }
    });
}

#[test]
fn what_is_asked_wrongly_is_refused_with_the_right_words() {
    for (args, code, words) in [
        (&["-o", "SIZE"][..], 2, "\"SIZE\" is no column: use TARGET"),
        (&["--pid", "0"], 2, "--pid"),
        (&["--namespace", "x"], 2, "mnt:[NUMBER]"),
        (&["--json", "--raw"], 2, "cannot be used with"),
        (&["/a/../b"], 1, "without"),
        (&["--pid", "2147483647"], 1, "--pid 2147483647"),
        (&["--volume", "no-such-volume"], 1, "volumes/PLUGIN/no-such-volume"),
    ] {
        let output = command(args).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
        assert!(message.contains(words), "{args:?}: {message}");
        assert!(output.stdout.is_empty());
    }
}
