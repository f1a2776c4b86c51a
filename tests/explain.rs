//! `hostmount explain` on a real kernel: what it says will happen is compared with what then happens.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::mount::{MsFlags, mount};
use serde_json::Value;
use support::container::Container;
use support::{Node, in_namespace, in_namespace_as_root, tmpfs, unmount};

fn explain(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostmount"));
    command.arg("explain").args(args).output().unwrap()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    let output = explain(&[args, &["--json"]].concat());
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// A process in a mount namespace of its own.
struct Other(Child);

impl Other {
    fn start(propagation: &str, script: &str) -> Self {
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", propagation, "sh", "-c"])
            .arg(format!("{script}\necho started; exec sleep 1000"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "started\n");
        Self(child)
    }

    /// The mount points of its namespace.
    fn mounts(&self) -> Vec<String> {
        let table = fs::read(format!("/proc/{}/mountinfo", self.0.id())).unwrap();
        let table = mounts::mountinfo::parse(&table);
        table.mounts.iter().map(|m| m.mount_point.to_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn order(at: &str, flag: MsFlags) {
    mount(None::<&str>, at, None::<&str>, flag, None::<&str>).unwrap();
}

/// The paths of a list, by process.
fn places(list: &Value) -> BTreeMap<u64, BTreeSet<String>> {
    let mut found: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for one in list.as_array().unwrap() {
        let place = one["path"].as_str().unwrap().to_owned();
        found.entry(one["pid"].as_u64().unwrap_or(0)).or_default().insert(place);
    }
    found
}

#[test]
fn what_is_foretold_happens_and_what_is_not_does_not() {
    in_namespace(|| foretell(false));
}

/// In another user namespace than the first it can't be seen which mounts are locked, so that it can't be told.
#[test]
fn an_unmount_is_foretold_too() {
    in_namespace_as_root(|| foretell(true));
}

fn foretell(with_unmount: bool) {
    tmpfs(Path::new("/mnt"));
    order("/mnt", MsFlags::MS_SHARED);
    fs::create_dir_all("/mnt/a/new").unwrap();
    fs::create_dir_all("/mnt/other").unwrap();
    let others = [
        Other::start("unchanged", ""),
        Other::start("slave", ""),
        Other::start("private", ""),
        Other::start(
            "slave",
            "mount --make-shared /mnt && mount --bind /mnt/a /mnt/other && mount --make-private /mnt",
        ),
        Other::start("slave", "mount --bind /mnt/a /mnt/other && mount -t tmpfs over /mnt/a"),
    ];
    let told = json(&["/mnt/a/new"]);
    let (seen, not) = (places(&told["seen"]), places(&told["notSeen"]));
    let before: Vec<Vec<String>> = others.iter().map(Other::mounts).collect();
    mount(Some("new"), "/mnt/a/new", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let mut appeared = 0;
    for (other, before) in others.iter().zip(&before) {
        let mut new = other.mounts();
        for old in before {
            let at = new.iter().position(|place| place == old).unwrap();
            new.remove(at);
        }
        let pid = u64::from(other.0.id());
        let new: BTreeSet<String> = new.into_iter().collect();
        assert_eq!(seen.get(&pid).cloned().unwrap_or_default(), new, "{told:#}");
        assert!(not.get(&pid).is_none_or(|not| not.is_disjoint(&new)), "{told:#}");
        appeared += new.len();
    }
    assert!(appeared >= 5, "{seen:?}");
    // The private one, and nothing else of these, shows the directory without seeing it.
    let private = u64::from(others[2].0.id());
    let entry = told["notSeen"].as_array().unwrap().iter().find(|one| one["pid"] == private).unwrap();
    assert_eq!((&entry["path"], &entry["link"]["kind"]), (&"/mnt/a/new".into(), &"private".into()));
    if !with_unmount {
        let refused = explain(&["/mnt/a/new", "--unmount"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("is locked"), "{refused:?}");
        return;
    }
    // And the same of its end.
    let told = json(&["/mnt/a/new", "--unmount"]);
    assert_eq!(told["event"]["kind"], "unmount");
    let gone = places(&told["seen"]);
    let before: Vec<Vec<String>> = others.iter().map(Other::mounts).collect();
    unmount(Path::new("/mnt/a/new"));
    for (other, before) in others.iter().zip(before) {
        let after = other.mounts();
        let lost: BTreeSet<String> = before.into_iter().filter(|place| !after.contains(place)).collect();
        assert_eq!(gone.get(&u64::from(other.0.id())).cloned().unwrap_or_default(), lost, "{told:#}");
    }
}

#[test]
fn a_pair_is_answered_by_the_exit_code() {
    in_namespace(|| {
        tmpfs(Path::new("/mnt"));
        order("/mnt", MsFlags::MS_SHARED);
        let (slave, private) = (Other::start("slave", ""), Other::start("private", ""));
        let code = |args: &[&str]| explain(args).status.code();
        let place = |other: &Other, path: &str| format!("{}:{path}", other.0.id());
        assert_eq!(code(&["/mnt/x", &place(&slave, "/mnt")]), Some(0));
        assert_eq!(code(&["/mnt/x", &place(&private, "/mnt")]), Some(1));
        assert_eq!(code(&["/mnt/x", &place(&slave, "/mnt/y")]), Some(1));
        // The other way round nothing comes.
        let slave_pid = slave.0.id().to_string();
        assert_eq!(code(&["/mnt/x", &format!("{}:/mnt", std::process::id()), "--in", &slave_pid]), Some(1));
        let text = String::from_utf8(explain(&["/mnt/x", "--in", &slave_pid]).stdout).unwrap();
        assert!(text.contains("is a slave of peer group"), "{text}");
        let text = String::from_utf8(explain(&["/mnt/x", &place(&private, "/mnt")]).stdout).unwrap();
        assert!(text.contains("is private: it receives nothing") && text.contains("unshare --mount"), "{text}");
        // A symlink on the way, and one in the other's namespace.
        std::os::unix::fs::symlink("/mnt", "/mnt/link").unwrap();
        let told = json(&["/mnt/link/x", &place(&slave, "/mnt/link")]);
        assert_eq!((&told["from"]["path"], &told["to"]["path"]), (&"/mnt/x".into(), &"/mnt".into()));
    });
}

#[test]
fn what_is_asked_wrongly_is_said() {
    in_namespace(|| {
        let fails = |args: &[&str], code: i32, words: &str| {
            let output = explain(args);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
            assert!(text.contains(words), "{args:?}: {text}");
        };
        fails(&["relative"], 2, "write an absolute path");
        fails(&["pods/x:/y"], 2, "names no namespace");
        fails(&["/x", "--in", "pod/no-such"], 1, "no namespace belongs to a pod \"no-such\"");
        fails(&["4190000:/x"], 1, "there is no process 4190000");
        fails(&["1:/x", "--in", "1"], 1, "given twice");
        fails(&["/proc/no-mount-point-here", "--unmount"], 1, "is not a mount point");
    });
}

#[test]
fn of_a_volume_the_hop_and_the_field_of_the_pod_are_named() {
    in_namespace(|| {
        let node = Node::start();
        let publish = |pod: &str, propagation: &str| {
            let request = node.inline(pod, &[("volume", "data"), ("propagation", propagation)]);
            node.publish(&request).unwrap();
            Container::start(&node.target(pod), if propagation == "None" { "rprivate" } else { "rslave" })
        };
        let (p, q) = ("28c6b84f-4b17-4bac-9ca4-c7c794ebfefc", "5a0f8e6c-52b5-4c0e-8f8e-1f3f4d2c9a10");
        let (slave, none) = (publish(p, "HostToContainer"), publish(q, "None"));
        let source = node.root.join("data/late");
        let told = json(&[source.to_str().unwrap()]);
        let of = |list: &Value, uid: &str| {
            let all = list.as_array().unwrap().iter();
            all.filter(|one| one["label"].as_str().unwrap().contains(uid)).cloned().collect::<Vec<_>>()
        };
        // These containers have the node's directory as well.
        let at_volume =
            |all: Vec<Value>| all.into_iter().filter(|one| one["path"] == "/mnt/secret/late").collect::<Vec<_>>();
        let seen = at_volume(of(&told["seen"], p));
        assert_eq!(seen.len(), 1, "{told:#}");
        assert!(seen[0]["label"].as_str().unwrap().ends_with(", app"), "{told:#}");
        assert!(at_volume(of(&told["seen"], q)).is_empty(), "{told:#}");
        let not = at_volume(of(&told["notSeen"], q));
        assert_eq!(not.len(), 1, "{told:#}");
        assert_eq!(not[0]["link"]["kind"], "private", "the container's own mount is rprivate: {told:#}");
        assert!(
            not[0]["change"].as_str().unwrap().contains(
                "container app, volumeMounts[] with mountPath /mnt/secret: mountPropagation: HostToContainer"
            )
        );
        // The kernel agrees.
        tmpfs(&source);
        assert_eq!((slave.mounts(), none.mounts()), (2, 1));
    });
}
