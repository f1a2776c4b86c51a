//! The Node service over its real socket, with real mounts, as the kubelet calls it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptest::prelude::*;
use support::fuse::Fuse;
use support::seccomp::Refusal;
use support::{Node, capability, in_namespace, mounts_beneath, table, tmpfs, unmount};
use tonic::Code;
use wire::csi;

fn sees(at: &Path, name: &str) -> bool {
    at.join(name).join("here").exists()
}

fn mount_marked(at: &Path) {
    tmpfs(at);
    fs::write(at.join("here"), "").unwrap();
}

/// What crosses, for each propagation, between the source and the target, after a mount on either side.
fn what_crosses(refusal: &Refusal, staged: bool) {
    let node = Node::start_refusing(refusal, &[]);
    let data = node.root.join("data");
    for dir in ["before", "late", "inside"] {
        fs::create_dir_all(data.join(dir)).unwrap();
    }
    mount_marked(&data.join("before"));
    let untouched = table();
    for (wish, source_to_target, target_to_source) in
        [("None", false, false), ("HostToContainer", true, false), ("Bidirectional", true, true)]
    {
        if staged {
            node.stage("data").unwrap();
            node.stage("data").unwrap();
        }
        let request = if staged {
            node.persistent("p1", "data", &[("propagation", wish)])
        } else {
            node.inline("p1", &[("volume", "data"), ("propagation", wish)])
        };
        node.publish(&request).unwrap();
        node.publish(&request).unwrap();
        let target = node.target("p1");
        assert_eq!(fs::read_to_string(target.join("marker")).unwrap(), "data");
        assert!(sees(&target, "before"), "{wish}");
        mount_marked(&data.join("late"));
        assert_eq!(sees(&target, "late"), source_to_target, "{wish}");
        mount_marked(&target.join("inside"));
        assert_eq!(sees(&data, "inside"), target_to_source, "{wish}");
        node.unpublish(&request).unwrap();
        node.unpublish(&request).unwrap();
        assert!(!target.exists());
        if staged {
            node.unstage("data").unwrap();
            node.unstage("data").unwrap();
        }
        assert!(sees(&data, "before") && sees(&data, "late"), "{wish}: the source keeps its mounts");
        assert_eq!(sees(&data, "inside"), target_to_source, "{wish}");
        unmount(&data.join("late"));
        if target_to_source {
            unmount(&data.join("inside"));
        }
        let workshop = |line: &String| !line.contains("/workshop ");
        assert_eq!(
            table().into_iter().filter(workshop).collect::<Vec<_>>(),
            untouched.iter().cloned().collect::<Vec<_>>()
        );
    }
}

#[test]
fn inline_volumes_let_cross_what_they_should() {
    in_namespace(|| what_crosses(&Refusal::NONE, false));
}

#[test]
fn staged_volumes_let_cross_what_they_should() {
    in_namespace(|| what_crosses(&Refusal::NONE, true));
}

#[test]
fn the_fall_backs_for_old_kernels_do_the_same() {
    in_namespace(|| what_crosses(&Refusal::all(), false));
}

#[test]
fn read_only_holds_for_nested_mounts_too_with_and_without_the_newer_calls() {
    in_namespace(|| {
        for refusal in [Refusal::NONE, Refusal::all()] {
            let node = Node::start_refusing(&refusal, &[]);
            mount_marked(&node.root.join("flat/x"));
            let mut request = node.inline("p1", &[("volume", "flat")]);
            request.readonly = true;
            node.publish(&request).unwrap();
            let target = node.target("p1");
            for at in ["new", "x/new"] {
                let error = fs::write(target.join(at), "").unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{at} {refusal}");
            }
            let options = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let of_target: Vec<_> = options.lines().filter(|l| l.contains("/pods/p1/")).collect();
            assert_eq!(of_target.len(), 2);
            assert!(of_target.iter().all(|l| l.contains("ro,nosuid,nodev")), "{of_target:?}");
            assert!(fs::write(node.root.join("flat/x/new"), "").is_ok(), "the source stays writable");
            node.unpublish(&request).unwrap();
            drop(node);
            unmount(Path::new("/mnt"));
        }
    });
}

#[test]
fn the_same_target_with_other_arguments_already_exists() {
    in_namespace(|| {
        let node = Node::start();
        let first = node.inline("p1", &[("volume", "data"), ("propagation", "HostToContainer")]);
        node.publish(&first).unwrap();
        let other = |attributes: &[(&str, &str)]| node.inline("p1", attributes);
        node.refused(&other(&[("volume", "data")]), Code::AlreadyExists, &["HostToContainer", "None"]);
        node.refused(&other(&[("volume", "team")]), Code::AlreadyExists, &["another directory"]);
        let mut read_only = first.clone();
        read_only.volume_context.insert("propagation".into(), "None".into());
        read_only.readonly = true;
        node.refused(&read_only, Code::AlreadyExists, &[]);
        node.publish(&first).unwrap();
    });
}

#[test]
fn bad_requests_are_refused_and_change_nothing() {
    in_namespace(|| {
        let node = Node::start();
        let good = || node.inline("p1", &[("volume", "data")]);
        let bad = |words: &[&str], change: &dyn Fn(&mut csi::NodePublishVolumeRequest)| {
            let mut request = good();
            change(&mut request);
            node.refused(&request, Code::InvalidArgument, words);
        };
        bad(&["volume_id is required"], &|r| r.volume_id.clear());
        bad(&["target_path is required"], &|r| r.target_path.clear());
        bad(&["volume_capability is required"], &|r| r.volume_capability = None);
        bad(&["access_mode"], &|r| r.volume_capability.as_mut().unwrap().access_mode = None);
        bad(&["UNKNOWN"], &|r| r.volume_capability = capability(0));
        bad(&["99"], &|r| r.volume_capability = capability(99));
        bad(&["block"], &|r| {
            r.volume_capability.as_mut().unwrap().access_type =
                Some(csi::volume_capability::AccessType::Block(csi::volume_capability::BlockVolume {}));
        });
        let set = |key: &'static str, value: &str| {
            let value = value.to_owned();
            move |r: &mut csi::NodePublishVolumeRequest| {
                r.volume_context.insert(key.to_owned(), value.clone());
            }
        };
        bad(&["\"colour\" is unknown"], &set("colour", "red"));
        bad(&["propagation", "slave"], &set("propagation", "slave"));
        bad(&["readOnly", "neither"], &set("readOnly", "yes"));
        for path in ["../secret", "sub/../../secret", "/secret", "sub//x", "./sub", "a\0b", "a\nb", ""] {
            bad(&["subPath"], &set("subPath", path));
        }
        bad(&["over the limit"], &set("subPath", &"x/".repeat(3000)));
        bad(&["volume"], &set("volume", "../data"));
        bad(&["pod uid"], &set("csi.storage.k8s.io/pod.uid", "another"));
        let kubelet = node.root.join("kubelet");
        for target in
            ["relative/path", "/mnt/secret/x", "/mnt/kubelet", "/mnt/kubelet/../secret/x", "/mnt/kubelet/a\0b"]
        {
            bad(&["target_path"], &|r| r.target_path = target.to_owned());
        }
        bad(&["target_path"], &|r| r.target_path = format!("{}/{}", kubelet.display(), "x".repeat(300)));
        for handle in ["data/..", "data/../secret", "/mnt/secret", "data//x", "Data", ".."] {
            let request = node.persistent("p1", handle, &[]);
            node.refused(&request, Code::InvalidArgument, &["volume_id"]);
        }
        let mut staged = node.persistent("p1", "data", &[]);
        staged.staging_target_path = "/mnt/secret".into();
        node.refused(&staged, Code::InvalidArgument, &["staging_target_path"]);
        staged.staging_target_path.clear();
        node.refused(&staged, Code::FailedPrecondition, &["NodeStageVolume"]);
    });
}

#[test]
fn the_allow_list_and_the_node_say_no_in_their_own_codes() {
    in_namespace(|| {
        let node = Node::start();
        let ask = |attributes: &[(&str, &str)]| node.inline("p1", attributes);
        node.refused(&ask(&[("volume", "nothere")]), Code::NotFound, &["nothere"]);
        let mut stranger = ask(&[("volume", "team")]);
        stranger.volume_context.insert("csi.storage.k8s.io/pod.namespace".into(), "other".into());
        node.refused(&stranger, Code::PermissionDenied, &["team"]);
        stranger.volume_context.retain(|k, _| !k.contains("pod."));
        node.refused(&stranger, Code::PermissionDenied, &["podInfoOnMount"]);
        node.refused(&ask(&[("volume", "team"), ("subPath", "x")]), Code::FailedPrecondition, &["subPaths"]);
        let above = [("volume", "team"), ("propagation", "Bidirectional")];
        node.refused(&ask(&above), Code::FailedPrecondition, &["Bidirectional", "None"]);
        let read_only = [("volume", "flat"), ("propagation", "HostToContainer")];
        node.refused(&ask(&read_only), Code::FailedPrecondition, &["readOnlyPropagation"]);
        let refused = |attributes: &[(&str, &str)], code, words: &[&str], logged: &[&str]| {
            let status = node.refused(&ask(attributes), code, words);
            node.logged(&status, logged);
        };
        let gone = ["does not exist", "entry \"gone\"", "ask the administrator", "node \"n1\""];
        refused(&[("volume", "gone")], Code::NotFound, &gone, &["/mnt/gone does not exist", "ml/pod-p1"]);
        let file = [("volume", "file")];
        refused(&file, Code::FailedPrecondition, &["not a directory"], &["/mnt/file"]);
        refused(&[("volume", "link")], Code::FailedPrecondition, &["symlink"], &["/mnt/link"]);
        let link = [("volume", "data"), ("subPath", "link")];
        refused(&link, Code::FailedPrecondition, &["symlink", "subPath \"link\""], &["/mnt/data/link"]);
        for wish in ["HostToContainer", "Bidirectional"] {
            let private = [("volume", "private"), ("propagation", wish)];
            let command = "`findmnt -n -o TARGET -T /mnt/private | xargs -d '\\n' mount --make-rshared`";
            refused(&private, Code::FailedPrecondition, &[wish, "not shared"], &[command]);
        }
        refused(&[("volume", "unbindable")], Code::FailedPrecondition, &["unbindable"], &["mount --make-private"]);
        let mut warned = ask(&[("volume", "warned"), ("propagation", "HostToContainer")]);
        warned.readonly = true;
        node.publish(&warned).unwrap();
        assert!(node.log().contains("writable unless they are read-only"));
        node.unpublish(&warned).unwrap();
    });
}

/// Who may create pods chooses the sub-path, and the administrator pastes what the log says.
#[test]
fn a_command_for_the_administrator_runs_nothing_that_a_sub_path_says() {
    in_namespace(|| {
        let node = Node::start();
        for name in ["$(touch${IFS}pwned)", "a'$(touch${IFS}pwned)'b", "`touch pwned`; touch pwned", "\"!!\" \\ -x"] {
            let at = node.root.join("data").join(name);
            tmpfs(&at);
            support::change(&at, nix::mount::MsFlags::MS_PRIVATE);
            let asked = [("volume", "data"), ("subPath", name), ("propagation", "HostToContainer")];
            let request = node.inline("p1", &asked);
            let status = node.refused(&request, Code::FailedPrecondition, &["not shared"]);
            node.logged(&status, &["run `findmnt"]);
            let log = node.log();
            let line = log.lines().rfind(|line| line.contains("run `findmnt")).unwrap();
            let (command, _) = line.split_once("run `").unwrap().1.split_once("` on the node").unwrap();
            for shell in ["sh", "bash"] {
                support::change(&at, nix::mount::MsFlags::MS_PRIVATE);
                let ran = Command::new(shell).args(["-c", command]).current_dir(&node.root).status().unwrap();
                let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
                let is_shared = text.lines().last().unwrap().contains(" shared:");
                assert!(!node.root.join("pwned").exists(), "{shell}: {command}");
                // What is no plain text is undone by some shells only.
                assert!(name.contains('\\') || (ran.success() && is_shared), "{shell}: {command}\n{text}");
            }
            unmount(&at);
        }
    });
}

/// Whatever makes a volume read-only for us: container runtimes take it off unless the Pod says so itself.
#[test]
fn a_read_only_volume_whose_pod_does_not_say_so_is_refused_with_the_line_to_add() {
    in_namespace(|| {
        let node = Node::start();
        let inline = |attributes: &[(&str, &str)]| node.inline("p1", attributes);
        let claimed = |mode: i32, options: &[&str], attributes: &[(&str, &str)]| {
            let mut request = node.persistent("p1", "data", attributes);
            request.volume_capability = capability(mode);
            let access = request.volume_capability.as_mut().unwrap().access_type.as_mut().unwrap();
            let csi::volume_capability::AccessType::Mount(mount) = access else { unreachable!() };
            mount.mount_flags = options.iter().map(|option| (*option).to_owned()).collect();
            request
        };
        node.stage("data").unwrap();
        let (line, claim_s) = ("csi.readOnly: true", "persistentVolumeClaim.readOnly: true");
        let mut by_entry = node.persistent("p1", "flat", &[]);
        by_entry.staging_target_path = node.staging().to_str().unwrap().to_owned();
        for (mut request, words) in [
            (inline(&[("volume", "flat")]), [line, "the entry flat is read-only"]),
            (inline(&[("volume", "data"), ("readOnly", "true")]), [line, "the volume of the entry data is read-only"]),
            (by_entry, [claim_s, "the entry flat is read-only"]),
            (claimed(2, &[], &[]), [claim_s, "access mode"]),
            (claimed(3, &[], &[]), [claim_s, "access mode"]),
            (claimed(7, &["nosuid", "ro"], &[]), [claim_s, "mount options"]),
            (claimed(7, &[], &[("readOnly", "true")]), [claim_s, "generic ephemeral volume"]),
        ] {
            let status = node.refused(&request, Code::FailedPrecondition, &words);
            assert!(!status.message().contains("/mnt"), "{}", status.message());
            // The same with the line: it is published, and can't be written.
            request.readonly = true;
            node.publish(&request).unwrap();
            let error = fs::write(node.target("p1").join("new"), "").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{request:?}");
            node.unpublish(&request).unwrap();
        }
    });
}

#[test]
fn a_target_that_is_not_ours_to_use_is_left_alone() {
    in_namespace(|| {
        let node = Node::start();
        let request = node.inline("p1", &[("volume", "data")]);
        let target = node.target("p1");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("precious"), "x").unwrap();
        node.refused(&request, Code::FailedPrecondition, &["not empty"]);
        assert_eq!(node.unpublish(&request).unwrap_err().code(), Code::FailedPrecondition);
        assert!(target.join("precious").exists());
        let mut through_link = node.inline("p2", &[("volume", "data")]);
        std::os::unix::fs::symlink(node.root.join("secret"), node.root.join("kubelet/pods/l")).unwrap();
        through_link.volume_context.insert("csi.storage.k8s.io/pod.uid".into(), "l".into());
        through_link.target_path = "/mnt/kubelet/pods/l/mount".into();
        node.refused(&through_link, Code::FailedPrecondition, &["symlink"]);
        assert!(node.unpublish(&through_link).is_err());
        through_link.target_path = "/mnt/kubelet/pods/none/at/all/mount".into();
        through_link.volume_context.insert("csi.storage.k8s.io/pod.uid".into(), "none".into());
        node.refused(&through_link, Code::FailedPrecondition, &["does not exist"]);
    });
}

#[test]
fn a_missing_source_is_made_and_taken_back_after_a_failure() {
    in_namespace(|| {
        let node = Node::start();
        let mut request = node.inline("p1", &[("volume", "made")]);
        let target = node.target("p1");
        fs::write(&target, "in the way").unwrap();
        node.refused(&request, Code::FailedPrecondition, &["not a directory"]);
        assert!(!node.root.join("made").exists());
        fs::remove_file(&target).unwrap();
        request.volume_context.insert("propagation".into(), "Bidirectional".into());
        node.publish(&request).unwrap();
        let mode = fs::metadata(node.root.join("made/deep")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o711);
        node.unpublish(&request).unwrap();
        assert!(node.root.join("made/deep").exists());
    });
}

#[test]
fn a_single_writer_has_one_target() {
    in_namespace(|| {
        let node = Node::start();
        node.stage("data").unwrap();
        let single = |pod: &str| {
            let mut request = node.persistent(pod, "data", &[]);
            request.volume_capability = capability(6);
            request
        };
        node.publish(&single("p1")).unwrap();
        node.publish(&single("p1")).unwrap();
        let status = node.refused(&single("p2"), Code::FailedPrecondition, &["single writer"]);
        node.logged(&status, &["/pods/p1/"]);
        node.unpublish(&single("p1")).unwrap();
        node.publish(&single("p2")).unwrap();
    });
}

/// A caller may stage wherever it likes beneath the kubelet's directory; csi-sanity does.
#[test]
fn a_staged_copy_is_no_second_writer() {
    in_namespace(|| {
        let node = Node::start();
        let staging = node.root.join("kubelet/elsewhere");
        fs::create_dir_all(&staging).unwrap();
        let mut request = node.persistent("p1", "data", &[]);
        request.staging_target_path = staging.to_str().unwrap().to_owned();
        request.volume_capability = capability(6);
        let stage = csi::NodeStageVolumeRequest {
            volume_id: "data".into(),
            staging_target_path: request.staging_target_path.clone(),
            volume_capability: capability(6),
            ..Default::default()
        };
        let mut client = node.client();
        node.runtime.block_on(client.node_stage_volume(stage)).unwrap();
        node.publish(&request).unwrap();
        let mut second = node.persistent("p2", "data", &[]);
        second.staging_target_path = request.staging_target_path.clone();
        second.volume_capability = capability(6);
        let status = node.refused(&second, Code::FailedPrecondition, &["single writer"]);
        node.logged(&status, &["/pods/p1/"]);
    });
}

#[test]
fn stats_and_health_tell_of_the_volume() {
    in_namespace(|| {
        let node = Node::start();
        let request = node.inline("p1", &[("volume", "data"), ("subPath", "sub")]);
        node.publish(&request).unwrap();
        let usage = node.stats("csi-p1", &request.target_path).unwrap().usage;
        assert_eq!(usage.iter().map(|u| u.unit).collect::<Vec<_>>(), [1, 2]);
        assert!(usage.iter().all(|u| u.total > 0 && u.used + u.available <= u.total), "{usage:?}");
        assert_eq!(node.health(&request).unwrap(), None);
        for path in ["some/path", "/mnt/kubelet/pods/p1", "/mnt/secret", "/mnt/kubelet/pods/none/mount"] {
            assert_eq!(node.stats("csi-p1", path).unwrap_err().code(), Code::NotFound, "{path}");
        }
        assert_eq!(node.stats("", &request.target_path).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(node.stats("csi-p1", "").unwrap_err().code(), Code::InvalidArgument);
        fs::remove_file(node.root.join("data/sub/marker")).unwrap();
        fs::remove_dir(node.root.join("data/sub")).unwrap();
        assert_eq!(node.health(&request).unwrap(), Some((3, "SourceDeleted".into())));
        // The one that has its name now is given to pods that start; to this one only if healing finds that root has made it.
        fs::create_dir(node.root.join("data/sub")).unwrap();
        node.publish(&request).unwrap();
        assert_eq!(node.health(&request).unwrap(), Some((3, "SourceDeleted".into())));
        let other = node.inline("p2", &[("volume", "data"), ("subPath", "sub")]);
        node.publish(&other).unwrap();
        assert_eq!(node.health(&other).unwrap(), None);
        node.unpublish(&request).unwrap();
        node.unpublish(&other).unwrap();
    });
}

#[test]
fn what_is_offered_is_said_and_what_is_not_is_unimplemented() {
    in_namespace(|| {
        let node = Node::start();
        let mut client = node.client();
        let run = &node.runtime;
        let info = run.block_on(client.node_get_info(csi::NodeGetInfoRequest {})).unwrap().into_inner();
        assert_eq!(info.node_id, "n1");
        assert_eq!(info.accessible_topology.unwrap().segments["csi.hostmount.dev/node"], "n1");
        let offered =
            run.block_on(client.node_get_capabilities(csi::NodeGetCapabilitiesRequest {})).unwrap().into_inner();
        assert_eq!(offered.capabilities.len(), 4);
        let expand = run.block_on(client.node_expand_volume(csi::NodeExpandVolumeRequest::default()));
        assert_eq!(expand.unwrap_err().code(), Code::Unimplemented);
        let storage = run.block_on(client.node_get_storage_health(csi::NodeGetStorageHealthRequest::default()));
        assert_eq!(storage.unwrap_err().code(), Code::Unimplemented);
        let mut controller = csi::controller_client::ControllerClient::new(node.channel());
        let created = run.block_on(controller.create_volume(csi::CreateVolumeRequest::default()));
        assert_eq!(created.unwrap_err().code(), Code::Unimplemented);
    });
}

#[test]
fn the_socket_is_private_and_goes_with_the_plugin() {
    in_namespace(|| {
        let mut node = Node::start();
        let socket = node.root.join("csi.sock");
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        let request = node.inline("p1", &[("volume", "data")]);
        node.publish(&request).unwrap();
        let workshop = node.root.join("kubelet/plugins/csi.hostmount.dev/workshop");
        assert!(workshop.exists());
        let pid = i32::try_from(node.plugin.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        assert!(node.plugin.wait().unwrap().success());
        assert!(!socket.exists() && !workshop.exists());
        assert_eq!(mounts_beneath(&node.root.join("kubelet")), [node.target("p1")], "running pods keep their volume");
    });
}

/// A client that is connected and looks away is not waited for; a call that is under way is.
#[test]
fn a_stop_waits_for_calls_and_not_for_connections() {
    in_namespace(|| {
        let mut node = Node::start_with(&["--call-timeout=2", "--drain-timeout=60"]);
        let stop = |node: &mut Node| {
            let start = Instant::now();
            kill(Pid::from_raw(i32::try_from(node.plugin.id()).unwrap()), Signal::SIGTERM).unwrap();
            assert!(node.plugin.wait().unwrap().success());
            start.elapsed()
        };
        let idle = UnixStream::connect(node.root.join("csi.sock")).unwrap();
        assert!(stop(&mut node) < Duration::from_secs(30));
        drop(idle);

        node.kill_and_restart();
        let Some(fuse) = Fuse::mount(&node.root.join("data/fuse")) else { return };
        let request = node.inline("p1", &[("volume", "data"), ("subPath", "fuse")]);
        let mut client = node.client();
        let call = node.runtime.spawn(async move { client.node_publish_volume(request).await });
        let gone = node.runtime.block_on(async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let pid = Pid::from_raw(i32::try_from(node.plugin.id()).unwrap());
            kill(pid, Signal::SIGTERM).unwrap();
            call.await.unwrap().unwrap_err()
        });
        assert_eq!(gone.code(), Code::DeadlineExceeded, "{gone:?}");
        assert!(node.plugin.wait().unwrap().success());
        drop(fuse);
    });
}

#[test]
fn a_bad_allow_list_is_waited_out() {
    in_namespace(|| {
        let mut node = Node::start();
        let config = node.root.join("entries.yaml");
        let good = fs::read_to_string(&config).unwrap();
        fs::write(&config, "entries: 5").unwrap();
        node.kill_and_restart_unready();
        let request = node.inline("p1", &[("volume", "data")]);
        node.refused(&request, Code::Unavailable, &["allow-list"]);
        fs::write(&config, good).unwrap();
        node.until_ready(true);
        node.publish(&request).unwrap();
    });
}

#[test]
fn two_calls_for_one_target_make_one_mount() {
    in_namespace(|| {
        let node = Node::start();
        for n in 0..50 {
            let request = node.inline(&format!("p{n}"), &[("volume", "data")]);
            let (mut a, mut b) = (node.client(), node.client());
            let (one, two) = node.runtime.block_on(async {
                tokio::join!(a.node_publish_volume(request.clone()), b.node_publish_volume(request.clone()))
            });
            for result in [&one, &two] {
                assert!(result.as_ref().map_or_else(|e| e.code() == Code::Aborted, |_| true), "{result:?}");
            }
            assert!(one.is_ok() || two.is_ok());
            assert_eq!(mounts_beneath(&node.root.join(format!("kubelet/pods/p{n}"))).len(), 1);
        }
    });
}

/// A value for a field: a good one, or what a stranger would try.
fn field(good: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![
        12 => Just(good.to_owned()),
        1 => Just(String::new()),
        1 => prop::sample::select(vec!["..", "data/../..", "/etc", "data/link", "data/sub", "link", "private", "unbindable",
            "gone", "file", "made", "flat", "true", "None", "Bidirectional", "HostToContainer", "\0", "/mnt/kubelet",
            "/mnt/kubelet/pods/p1/volumes/kubernetes.io~csi/v/mount/marker", "/mnt/kubelet/pods/../../secret"])
            .prop_map(str::to_owned),
        1 => "\\PC{0,40}",
    ]
}

#[test]
fn random_requests_change_nothing_when_refused() {
    in_namespace(|| {
        let node = Node::start();
        let target = "/mnt/kubelet/pods/p1/volumes/kubernetes.io~csi/v/mount";
        let staging = "/mnt/kubelet/plugins/kubernetes.io/csi/csi.hostmount.dev/h/globalmount";
        let request = (
            field("data"),
            field(target),
            field(staging),
            field("data"),
            field("HostToContainer"),
            prop::option::of(field("sub")),
            (0..9i32, any::<bool>(), any::<bool>()),
        );
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases: 400,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let (refused, granted) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        runner
            .run(&request, |(id, target, staging, volume, propagation, sub, (mode, read_only, inline))| {
                let mut request = node.inline("p1", &[("propagation", &propagation)]);
                if inline {
                    request.volume_context.insert("volume".into(), volume);
                    request.volume_context.extend(sub.map(|s| ("subPath".to_owned(), s)));
                } else {
                    request.volume_context.insert("csi.storage.k8s.io/ephemeral".into(), "false".into());
                    request.staging_target_path = staging;
                }
                (request.volume_id, request.target_path, request.readonly) = (id, target, read_only);
                request.volume_capability = capability(mode);
                let before = table();
                match node.publish(&request) {
                    Ok(()) => {
                        granted.set(granted.get() + 1);
                        node.unpublish(&request).unwrap();
                    }
                    Err(status) => {
                        refused.set(refused.get() + 1);
                        prop_assert!(!matches!(status.code(), Code::Internal | Code::Unknown), "{:?}", status);
                    }
                }
                let workshop = |line: &String| !line.contains("/workshop ");
                let after: Vec<_> = table().into_iter().filter(workshop).collect();
                prop_assert_eq!(after, before.into_iter().filter(workshop).collect::<Vec<_>>());
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{e}"));
        println!("{} refused, {} granted", refused.get(), granted.get());
        assert!(refused.get() > 50 && granted.get() > 5);
        node.until_ready(true);
    });
}
