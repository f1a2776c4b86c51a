//! The same publish and stage again, as the kubelet repeats them all after a restart, whatever has changed meanwhile:
//! what a running pod has it keeps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod kernel;
mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::kernel::path as sys_path;
use kernel::on_mount_thread;
use nix::mount::MsFlags;
use support::fuse::{Daemon, Fuse};
use support::{Node, change, eventually, in_namespace, mounts_beneath, table, tmpfs, unmount};
use tonic::Code;
use wire::csi;

const ADMIN: &[&str] = &["--admin-address=127.0.0.1:0"];

/// A line of the allow-list, and what it is replaced by.
fn rewrite(node: &Node, name: &str, line: &str) {
    let config = node.root.join("entries.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let of_entry = format!("{{name: {name},");
    let new: Vec<&str> = text.lines().map(|old| if old.contains(&of_entry) { line } else { old }).collect();
    fs::write(config, new.join("\n") + "\n").unwrap();
}

/// All mounts but those of the workshop.
fn mounts() -> Vec<String> {
    table().into_iter().filter(|line| !line.contains("/workshop ")).collect()
}

/// The publish is repeated, is done, and changes nothing.
#[track_caller]
fn stays(node: &Node, request: &csi::NodePublishVolumeRequest) {
    let before = mounts();
    node.publish(request).unwrap_or_else(|status| panic!("{status:?}\n{}", node.log()));
    assert_eq!(mounts(), before);
}

fn kept(node: &Node, reason: &str) -> f64 {
    node.metric(&format!("hostmount_kept_volumes_total{{reason=\"{reason}\"}}"))
}

/// An inline volume of `data` is published; the entry changes, and the plugin restarts; then it is published again.
#[track_caller]
fn keeps_after(line: &str, why: &str) {
    let mut node = Node::start_with(ADMIN);
    let request = node.inline("p", &[("volume", "data"), ("propagation", "HostToContainer")]);
    node.publish(&request).unwrap();
    rewrite(&node, "data", line);
    node.kill_and_restart();
    assert_eq!(kept(&node, "allow_list"), 0.0);
    stays(&node, &request);
    assert_eq!(fs::read_to_string(node.target("p").join("marker")).unwrap(), "data");
    assert_eq!(kept(&node, "allow_list"), 1.0);
    assert!(node.log().contains("stays as it was published") && node.log().contains(why), "{}", node.log());
    node.unpublish(&request).unwrap();
    assert!(!node.target("p").exists());
    // For a volume that isn't there the list says what it says.
    let other = node.inline("q", &[("volume", "data"), ("propagation", "HostToContainer")]);
    match node.publish(&other) {
        Ok(()) => assert!(why.contains("otherwise"), "{why}"),
        Err(status) => assert!(status.message().contains(why), "{status:?}"),
    }
    drop(node);
    unmount(Path::new("/mnt"));
}

#[test]
fn a_volume_stays_when_its_entry_is_gone_or_taken_from_its_pod() {
    in_namespace(|| {
        keeps_after("", "does not have");
        keeps_after("  - {name: data, path: /mnt/data, propagation: HostToContainer}", "may not use the entry");
    });
}

#[test]
fn a_volume_stays_when_the_ceiling_of_its_entry_is_lowered() {
    in_namespace(|| {
        keeps_after("  - {name: data, path: /mnt/data, allow: [{namespaces: ['*']}]}", "allows None at most");
    });
}

#[test]
fn a_volume_stays_when_its_entry_becomes_read_only() {
    in_namespace(|| {
        let entry = "  - {name: data, path: /mnt/data, propagation: HostToContainer, readOnly: true, \
                     readOnlyPropagation: warn, allow: [{namespaces: ['*']}]}";
        // Whether by the allow-list or by the plugin's answer to it: it would be given otherwise now, or not at all.
        let mut node = Node::start_with(ADMIN);
        let request = node.inline("p", &[("volume", "data"), ("propagation", "HostToContainer")]);
        node.publish(&request).unwrap();
        rewrite(&node, "data", entry);
        node.kill_and_restart();
        stays(&node, &request);
        assert_eq!(kept(&node, "allow_list"), 1.0);
        fs::write(node.target("p").join("written"), "").unwrap();
    });
}

#[test]
fn a_volume_stays_when_its_entry_names_another_directory() {
    in_namespace(|| {
        let entry = "  - {name: data, path: /mnt/secret, propagation: HostToContainer, allow: [{namespaces: ['*']}]}";
        keeps_after(entry, "otherwise");
    });
}

#[test]
fn a_volume_stays_while_no_allow_list_can_be_read() {
    in_namespace(|| {
        let mut node = Node::start_with(ADMIN);
        let request = node.inline("p", &[("volume", "data")]);
        node.publish(&request).unwrap();
        fs::write(node.root.join("entries.yaml"), "entries: 5").unwrap();
        node.kill_and_restart_unready();
        stays(&node, &request);
        node.refused(&node.inline("q", &[("volume", "data")]), Code::Unavailable, &["allow-list"]);
        assert_eq!(kept(&node, "allow_list"), 1.0);
    });
}

#[test]
fn a_volume_stays_when_its_source_becomes_private_or_read_only() {
    in_namespace(|| {
        let node = Node::start_with(ADMIN);
        let source = node.root.join("private");
        change(&source, MsFlags::MS_SHARED);
        let request = node.inline("p", &[("volume", "private"), ("propagation", "Bidirectional")]);
        node.publish(&request).unwrap();
        change(&source, MsFlags::MS_PRIVATE);
        stays(&node, &request);
        node.refused(
            &node.inline("q", &[("volume", "private"), ("propagation", "Bidirectional")]),
            Code::FailedPrecondition,
            &["Bidirectional"],
        );
        change(&source, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY);
        stays(&node, &request);
        fs::write(node.target("p").join("written"), "").unwrap();
    });
}

#[test]
fn a_volume_of_none_stays_when_something_is_mounted_on_its_source() {
    in_namespace(|| {
        let node = Node::start_with(ADMIN);
        let request = node.inline("p", &[("volume", "data")]);
        node.publish(&request).unwrap();
        tmpfs(&node.root.join("data"));
        stays(&node, &request);
        assert_eq!(fs::read_to_string(node.target("p").join("marker")).unwrap(), "data");
    });
}

#[test]
fn a_volume_stays_when_its_source_is_moved_away_or_deleted() {
    in_namespace(|| {
        let node = Node::start_with(ADMIN);
        for (pod, delete) in [("p", false), ("q", true)] {
            let sub = node.root.join("data/volume");
            fs::create_dir(&sub).unwrap();
            for propagation in ["None", "HostToContainer", "Bidirectional"] {
                let pod = format!("{pod}{propagation}");
                let attributes = [("volume", "data"), ("subPath", "volume"), ("propagation", propagation)];
                node.publish(&node.inline(&pod, &attributes)).unwrap();
            }
            fs::rename(&sub, node.root.join("data/away")).unwrap();
            if delete {
                fs::remove_dir(node.root.join("data/away")).unwrap();
            }
            for propagation in ["None", "HostToContainer", "Bidirectional"] {
                let pod = format!("{pod}{propagation}");
                let attributes = [("volume", "data"), ("subPath", "volume"), ("propagation", propagation)];
                let request = node.inline(&pod, &attributes);
                stays(&node, &request);
                node.unpublish(&request).unwrap();
            }
        }
        assert_eq!(kept(&node, "source"), 0.0, "nobody asks it: {}", node.log());
    });
}

/// Nobody who repeats a publish waits for a source that hangs, however many others do; and the pod can end.
#[test]
fn a_volume_whose_source_hangs_stays_and_can_be_unpublished() {
    in_namespace(|| {
        let node = Node::start_with(&["--call-timeout=0.3"]);
        let Some(fuse) = Fuse::mount(&node.root.join("data/fuse")) else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let served = fuse.serve(Arc::clone(&stop));
        let attributes = [("volume", "data"), ("subPath", "fuse")];
        let hung = node.inline("p", &attributes);
        node.publish(&hung).unwrap();
        stop.store(true, Ordering::SeqCst);
        let fuse = served.join().unwrap();
        stays(&node, &hung);
        let codes: Vec<Code> =
            (0..6).map(|n| node.publish(&node.inline(&format!("h{n}"), &attributes)).unwrap_err().code()).collect();
        assert!(codes.contains(&Code::Aborted), "all threads of the source hang: {codes:?}");
        stays(&node, &hung);
        node.unpublish(&hung).unwrap();
        assert!(!node.target("p").exists());
        drop(fuse);
    });
}

/// What a pod is given in the place of what is dead is for healing alone to decide: a repetition gave the directory that an unmounted source
/// uncovers, what a tenant had put there, and what the allow-list gives no more, also with `heal: Off`.
#[test]
fn a_repeated_publish_gives_a_dead_volume_nothing() {
    in_namespace(|| {
        for propagation in ["None", "HostToContainer", "Bidirectional"] {
            let node = Node::start();
            rewrite_heal_off(&node);
            let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
            let attributes = [("volume", "data"), ("subPath", "fuse"), ("propagation", propagation)];
            let request = node.inline("p", &attributes);
            node.publish(&request).unwrap();
            let at = daemon.die();
            stays(&node, &request);
            // The directory beneath is there now.
            unmount(&at);
            fs::write(at.join("of-the-node"), "").unwrap();
            stays(&node, &request);
            assert!(!node.target("p").join("of-the-node").exists());
            assert_eq!(node.health(&request).unwrap(), Some((2, "SourceDead".into())));
            fs::remove_file(at.join("of-the-node")).unwrap();
            let _again = Daemon::start(&at).unwrap();
            stays(&node, &request);
            assert_eq!(node.health(&request).unwrap(), Some((2, "SourceDead".into())), "heal is Off");
            node.unpublish_again(&request);
            drop(node);
            unmount(Path::new("/mnt"));
        }
    });
}

fn rewrite_heal_off(node: &Node) {
    let list = node.root.join("entries.yaml");
    let text = fs::read_to_string(&list).unwrap();
    fs::write(&list, text.replacen("{name: data,", "{name: data, heal: 'Off',", 1)).unwrap();
    eventually("the list is taken up", || node.log().contains("changed=1"));
}

#[test]
fn a_staged_volume_stays_when_its_entry_is_gone_or_changed() {
    in_namespace(|| {
        let entries = [
            "",
            "  - {name: data, path: /mnt/data, allow: [{namespaces: ['*']}]}",
            "  - {name: data, path: /mnt/nowhere, propagation: Bidirectional, allow: [{namespaces: ['*']}]}",
        ];
        for entry in entries {
            let mut node = Node::start_with(ADMIN);
            let request = node.persistent("p", "data", &[("propagation", "HostToContainer")]);
            node.stage("data").unwrap();
            node.publish(&request).unwrap();
            rewrite(&node, "data", entry);
            node.kill_and_restart();
            let before = mounts();
            node.stage("data").unwrap_or_else(|status| panic!("{entry}: {status}"));
            assert_eq!(mounts(), before, "{entry}");
            stays(&node, &request);
            node.unpublish(&request).unwrap();
            node.unstage("data").unwrap();
            assert!(mounts_beneath(&node.staging()).is_empty());
            // What isn't staged is asked for.
            let again = node.stage("data");
            assert_eq!(again.is_ok(), entry.contains("/mnt/data"), "{entry}: {again:?}");
            drop(node);
            unmount(Path::new("/mnt"));
        }
    });
}

#[test]
fn other_arguments_already_exist_and_what_the_entry_is_is_none() {
    in_namespace(|| {
        let node = Node::start();
        let attributes = [("volume", "data"), ("subPath", "sub"), ("propagation", "HostToContainer")];
        let first = node.inline("p", &attributes);
        node.publish(&first).unwrap();
        let other = |words: &[&str], change: &dyn Fn(&mut csi::NodePublishVolumeRequest)| {
            let mut request = first.clone();
            change(&mut request);
            node.refused(&request, Code::AlreadyExists, words);
        };
        let set = |key: &'static str, value: &'static str| {
            move |r: &mut csi::NodePublishVolumeRequest| {
                r.volume_context.insert(key.to_owned(), value.to_owned());
            }
        };
        other(&["the volume \"csi-p\""], &|r| r.volume_id = "csi-q".into());
        other(&["another directory", "\"sub\" of the entry data"], &|r| {
            set("volume", "private")(r);
            r.volume_context.remove("subPath");
        });
        other(&["another directory", "\"sub\""], &set("subPath", "other"));
        other(&["another directory"], &|r| drop(r.volume_context.remove("subPath")));
        other(&["HostToContainer, not None"], &set("propagation", "None"));
        other(&["HostToContainer, not that is not said"], &|r| drop(r.volume_context.remove("propagation")));
        stays(&node, &first);
    });
}

/// The kubelet's directory may be on a file system without extended attributes.
#[test]
fn a_volume_without_a_note_is_compared_with_its_source() {
    in_namespace(|| {
        let mut node = Node::start();
        let request = node.inline("p", &[("volume", "data")]);
        node.publish(&request).unwrap();
        let beside = node.target("p").parent().unwrap().to_owned();
        on_mount_thread(move || {
            let beside = sys_path::open_trusted(&beside).unwrap();
            sys_path::remove_attribute(&beside, c"user.hostmount.volume").unwrap();
        });
        stays(&node, &request);
        let other = node.inline("p", &[("volume", "data"), ("subPath", "sub")]);
        node.refused(&other, Code::AlreadyExists, &["another directory"]);
        rewrite(&node, "data", "");
        node.kill_and_restart();
        node.refused(&request, Code::NotFound, &["data"]);
    });
}

#[test]
fn what_is_noted_and_not_mounted_is_not_there() {
    in_namespace(|| {
        let mut node = Node::start();
        let request = node.inline("p", &[("volume", "data")]);
        node.publish(&request).unwrap();
        unmount(&node.target("p"));
        rewrite(&node, "data", "");
        node.kill_and_restart();
        node.refused(&request, Code::NotFound, &["data"]);
    });
}
