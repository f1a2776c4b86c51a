//! `hostmount volumes` on a real kernel: what a real plugin has published, how it is, dead and hung sources too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::fs;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::fuse::{Daemon, Fuse};
use support::seccomp::Refusal;
use support::{Node, eventually, in_namespace, mounts_beneath, table, tmpfs, unmount};

/// `hostmount volumes` on a node whose kubelet is this test.
fn volumes(node: &Node, args: &[&str]) -> Output {
    volumes_refusing(&Refusal::NONE, node, args)
}

fn volumes_refusing(refusal: &Refusal, node: &Node, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostmount"));
    refusal.put_on(&mut command);
    command.args(["volumes", args[0], "--pid", &std::process::id().to_string()]).args(&args[1..]);
    command.env("HOSTMOUNT_KUBELET_DIR", node.root.join("kubelet")).output().unwrap()
}

fn text(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What `inspect` says of volumes that are there.
fn inspect(node: &Node, args: &[&str]) -> Vec<Value> {
    let output = volumes(node, &[&["inspect"], args].concat());
    serde_json::from_str(&text(&output)).unwrap()
}

fn strings(values: &[Value], pointer: &str) -> Vec<String> {
    values.iter().map(|v| v.pointer(pointer).and_then(Value::as_str).unwrap_or("null").to_owned()).collect()
}

#[test]
fn published_volumes_are_listed_and_inspected_and_nothing_is_changed() {
    in_namespace(|| {
        let node = Node::start();
        assert_eq!(text(&volumes(&node, &["ls"])).lines().count(), 1, "the header alone");
        let a = node.inline("a", &[("volume", "data"), ("subPath", "sub"), ("propagation", "HostToContainer")]);
        let b = node.inline("b", &[("volume", "data"), ("propagation", "Bidirectional")]);
        let c = node.inline("c", &[("volume", "team")]);
        [&a, &b, &c].into_iter().for_each(|pod| node.publish(pod).unwrap());
        let before = table();

        let listed = text(&volumes(&node, &["ls", "--no-trunc"]));
        let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["VOLUME", "NAME", "ENTRY", "POD", "PROPAGATION", "AGE", "HEALTH", "TARGET"]);
        let target = a.target_path.as_str();
        assert_eq!(
            [&lines[1][..4], &lines[1][5..]].concat(),
            ["v", "data", "ml/pod-a", "HostToContainer", "Live", target]
        );
        assert!(lines[1][4].ends_with('s') && lines[1][4].len() < 4, "published just now: {}", lines[1][4]);
        assert_eq!(lines.len(), 4);
        assert!(text(&volumes(&node, &["ls"])).contains("/mnt/kubelet/p…"), "shortened");

        assert_eq!(text(&volumes(&node, &["ls", "-q"])), "ml/pod-a/v\nml/pod-b/v\nml/pod-c/v\n");
        let filtered = |filter: &[&str]| text(&volumes(&node, &[&["ls", "--quiet"], filter].concat()));
        assert_eq!(filtered(&["--filter", "entry=data", "-f", "propagation=Bidirectional"]), "ml/pod-b/v\n");
        assert_eq!(filtered(&["-f", "pod=pod-a", "-f", "pod=ml/pod-c"]), "ml/pod-a/v\nml/pod-c/v\n");
        assert_eq!(filtered(&["-f", "driver=other"]), "");
        assert_eq!(volumes(&node, &["ls", "-f", "x=y"]).status.code(), Some(2), "called wrongly");

        let json = text(&volumes(&node, &["ls", "--format", "json"]));
        let json: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(strings(&json, "/Mountpoint")[0], target);

        let config = node.root.join("entries.yaml").display().to_string();
        let one = &inspect(&node, &["ml/pod-a/v", "--config", &config])[0];
        for (pointer, expected) in [
            ("/Name", "v"),
            ("/Driver", "csi.hostmount.dev"),
            ("/Mountpoint", target),
            ("/Pod/UID", "a"),
            ("/Pod/ServiceAccount", "default"),
            ("/Entry", "data"),
            ("/EntryPath", "/mnt/data"),
            ("/SubPath", "sub"),
            ("/Source", "/mnt/data/sub"),
            ("/Propagation", "HostToContainer"),
            ("/Options/type", "none"),
            ("/Options/device", "/mnt/data/sub"),
            ("/Health/Status", "Live"),
            ("/SourceHealth/Status", "Live"),
            ("/Shows", "Source"),
            ("/Healing/Status", "On"),
        ] {
            assert_eq!(one.pointer(pointer).and_then(Value::as_str), Some(expected), "{pointer}: {one:#}");
        }
        assert!(one["Options"]["o"].as_str().unwrap().starts_with("rbind,rslave"), "{one:#}");
        // What the kernel says of the mount.
        let mounted = mounts::mountinfo::parse(&fs::read("/proc/self/mountinfo").unwrap());
        let mounted = mounted.mounts.iter().find(|m| m.mount_point == node.target("a")).unwrap();
        let layers = one["Layers"].as_array().unwrap();
        assert_eq!((layers.len(), layers[0]["ID"].as_u64()), (1, Some(mounted.id)));
        assert_eq!(layers[0]["PeerGroup"].as_u64(), mounted.propagation.peer_group);
        assert_eq!(layers[0]["Master"].as_u64(), mounted.propagation.master);
        assert!(mounted.propagation.is_slave(), "else this says nothing");
        assert_eq!(inspect(&node, &["ml/pod-a/v"])[0]["Healing"], Value::Null, "nobody told the allow-list");

        // All that are called so, each once; and those that are not are told.
        assert_eq!(strings(&inspect(&node, &["v", target]), "/Pod/UID"), ["a", "b", "c"]);
        let output = volumes(&node, &["inspect", "nobody", "ml/pod-c/v"]);
        assert_eq!(output.status.code(), Some(1));
        let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(strings(&found, "/Pod/UID"), ["c"]);
        assert!(String::from_utf8_lossy(&output.stderr).contains("no such volume: nobody"), "{output:?}");
        let output = volumes(&node, &["inspect", "--timeout=1", "--", "--sources"]);
        assert_eq!((output.status.code(), output.stdout), (Some(1), b"[]\n".to_vec()), "a name is no option");

        let by_fall_backs = volumes_refusing(&Refusal::all(), &node, &["ls", "-q"]);
        assert_eq!(text(&by_fall_backs).lines().count(), 3, "by the fall-backs too");
        assert_eq!(table(), before);
        node.unpublish(&a).unwrap();
        assert_eq!(text(&volumes(&node, &["ls", "-q"])), "ml/pod-b/v\nml/pod-c/v\n");
    });
}

/// What the kubelet wrote beside a target says whose it is, whether it has a note or not.
#[test]
fn volumes_of_other_drivers_are_left_out_and_ours_without_a_note_are_not() {
    in_namespace(|| {
        let node = Node::start();
        let pod = node.inline("ours", &[("volume", "data")]);
        node.publish(&pod).unwrap();
        let write = |uid: &str, driver: &str, handle: &str, mode: &str| {
            let data = serde_json::json!({"driverName": driver, "volumeHandle": handle, "volumeLifecycleMode": mode});
            fs::write(node.target(uid).with_file_name("vol_data.json"), data.to_string()).unwrap();
        };
        let bind = |uid: &str| {
            fs::create_dir_all(node.target(uid)).unwrap();
            tmpfs(&node.target(uid));
        };
        let listed = || text(&volumes(&node, &["ls", "-q"]));
        bind("stranger");
        assert_eq!(listed(), "ml/pod-ours/v\n", "nothing says that it is ours");
        write("stranger", "csi.other.dev", "data/x", "Persistent");
        assert_eq!(listed(), "ml/pod-ours/v\n");
        bind("bare");
        write("bare", "csi.hostmount.dev", "data/a/b", "Persistent");
        assert_eq!(listed(), format!("{}\nml/pod-ours/v\n", node.target("bare").display()));
        let bare = &inspect(&node, &[node.target("bare").to_str().unwrap()])[0];
        assert_eq!((bare["Entry"].as_str(), bare["SubPath"].as_str()), (Some("data"), Some("a/b")), "{bare:#}");
        assert_eq!((bare["Noted"].as_bool(), bare["Kind"].as_str()), (Some(false), Some("Persistent")));
        assert_eq!((bare["Health"]["Status"].as_str(), &bare["Propagation"]), (Some("Live"), &Value::Null));
        // With a note, but the kubelet says that another instance of the plugin has published it.
        write("ours", "csi.second.dev", "csi-0", "Ephemeral");
        assert_eq!(listed(), format!("{}\n", node.target("bare").display()));
        assert_eq!(text(&volumes(&node, &["ls", "-q", "--driver-name=csi.second.dev"])), "ml/pod-ours/v\n");
    });
}

#[test]
fn a_source_that_hangs_or_died_is_told_and_holds_up_no_other() {
    in_namespace(|| {
        let node = Node::start();
        let mut pods = Vec::new();
        let mut servers = Vec::new();
        for n in 0..6 {
            let Some(fuse) = Fuse::mount(&node.root.join(format!("data/hung{n}"))) else { return };
            let stop = Arc::new(AtomicBool::new(false));
            servers.push((fuse.serve(Arc::clone(&stop)), stop));
            let name = format!("hung{n}");
            pods.push(node.inline(&name, &[("volume", "data"), ("subPath", &name)]));
        }
        let Some(daemon) = Daemon::start(&node.root.join("data/dead")) else { return };
        pods.push(node.inline("dead", &[("volume", "data"), ("subPath", "dead")]));
        pods.push(node.inline("live", &[("volume", "data"), ("subPath", "sub")]));
        pods.iter().for_each(|pod| node.publish(pod).unwrap());

        let silent: Vec<Fuse> = servers
            .into_iter()
            .map(|(server, stop)| {
                stop.store(true, Ordering::SeqCst);
                server.join().unwrap()
            })
            .collect();
        daemon.die();
        let begun = Instant::now();
        let output = text(&volumes(&node, &["ls", "--format=json", "--timeout=1"]));
        let took = begun.elapsed();
        // One time-out, not one for each; the rest is what a slow machine may need.
        assert!(took < Duration::from_secs(4), "six hung sources took {took:?}");
        let listed: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let health: Vec<String> = listed
            .iter()
            .map(|v| format!("{} {}", v["Pod"]["UID"].as_str().unwrap(), v["Health"]["Status"].as_str().unwrap()))
            .collect();
        assert_eq!(
            health,
            [
                "dead Dead",
                "hung0 Hung",
                "hung1 Hung",
                "hung2 Hung",
                "hung3 Hung",
                "hung4 Hung",
                "hung5 Hung",
                "live Live"
            ]
        );
        let dead = &inspect(&node, &["ml/pod-dead/v", "--timeout=1"])[0];
        assert_eq!(dead["SourceHealth"]["Status"], "Dead", "{dead:#}");
        assert!(dead["Health"]["Message"].as_str().unwrap().contains("ENOTCONN"), "{dead:#}");
        assert_eq!(text(&volumes(&node, &["ls", "-q", "-f", "health=dead", "--timeout=1"])), "ml/pod-dead/v\n");
        drop(silent);
    });
}

#[test]
fn what_healing_put_on_a_volume_is_shown() {
    in_namespace(|| {
        let node = Node::start();
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let pod = node.inline("p", &[("volume", "data"), ("subPath", "fuse"), ("propagation", "HostToContainer")]);
        node.publish_noted(&pod);
        let at = daemon.die();
        unmount(&at);
        let gone = &inspect(&node, &["v"])[0];
        assert_eq!(
            (gone["Shows"].as_str(), gone["Health"]["Status"].as_str()),
            (Some("Other"), Some("Dead")),
            "{gone:#}"
        );
        assert_eq!(gone["SourceHealth"]["Status"], "Live", "the directory beneath is there: {gone:#}");
        let daemon = Daemon::start(&at).unwrap();
        let layers = || mounts_beneath(node.target("p").parent().unwrap()).len();
        eventually("it is healed", || layers() == 2);
        let healed = || inspect(&node, &["v"])[0].clone();
        eventually("it lives", || healed()["Health"]["Status"] == "Live");
        let healed = healed();
        assert_eq!(healed["Layers"].as_array().unwrap().len(), 2, "{healed:#}");
        assert_eq!(healed["Shows"], "Source");
        drop(daemon);
    });
}

#[test]
fn volumes_whose_containers_have_to_be_restarted_and_those_that_are_not_followed_are_shown() {
    in_namespace(|| {
        let node = Node::start();
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        fs::create_dir(node.root.join("data/b")).unwrap();
        let renewed = node.inline("p", &[("volume", "data"), ("subPath", "fuse")]);
        let replaced = node.inline("q", &[("volume", "data"), ("subPath", "b")]);
        [&renewed, &replaced].into_iter().for_each(|pod| node.publish_noted(pod));
        let config = node.root.join("entries.yaml").display().to_string();
        let shown = |name: &str| inspect(&node, &[name, "--config", &config])[0].clone();
        assert_eq!(
            (&shown("ml/pod-p/v")["RenewedAt"], &shown("ml/pod-p/v")["PathMountsNoted"]),
            (&Value::Null, &true.into())
        );
        let daemon = daemon.restart();
        fs::rename(node.root.join("data/b"), node.root.join("data/old")).unwrap();
        fs::create_dir(node.root.join("data/b")).unwrap();
        eventually("it is renewed", || node.log().contains("healed: containers that start from now on"));
        let p = shown("ml/pod-p/v");
        assert!(p["RenewedAt"].as_str().is_some_and(|at| at.ends_with('Z')), "{p:#}");
        assert_eq!((p["Shows"].as_str(), p["Healing"]["Status"].as_str()), (Some("Source"), Some("On")), "{p:#}");
        let listed = text(&volumes(&node, &["ls"]));
        assert_eq!(listed.matches("Live (renewed)").count(), 1, "{listed}");
        let q = shown("ml/pod-q/v");
        assert_eq!(
            (q["Shows"].as_str(), q["Healing"]["Status"].as_str()),
            (Some("Replaced"), Some("Refused")),
            "{q:#}"
        );
        assert!(q["Healing"]["Message"].as_str().unwrap().contains("the entry data shows that"), "{q:#}");
        drop(daemon);
    });
}

#[test]
fn without_rights_or_a_kubelet_it_says_why() {
    in_namespace(|| {
        let node = Node::start();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostmount"));
        let output = command.args(["volumes", "ls", "--pid=2147483647"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(why.contains("process 2147483647") && why.contains("--pid"), "{why}");
        let output = volumes(&node, &["inspect", "v", "--config=/nowhere"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere"), "{output:?}");
    });
}
