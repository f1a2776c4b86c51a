//! Registration over its real socket; the test plays the kubelet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Node, eventually, in_namespace};
use tonic::transport::Endpoint;
use wire::registration::registration_client::RegistrationClient;
use wire::registration::{InfoRequest, PluginInfo, RegistrationStatus};

const ARGS: [&str; 2] = ["--registration-dir=/mnt/kubelet/plugins_registry", "--admin-address=127.0.0.1:0"];
const REGISTRY: &str = "/mnt/kubelet/plugins_registry";

fn socket(name: &str) -> PathBuf {
    Path::new(REGISTRY).join(format!("csi.hostmount.dev@reg{name}.sock"))
}

fn sockets() -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(REGISTRY).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The kubelet's two calls, the second with its verdict.
fn register(node: &Node, path: &Path, verdict: Result<(), &str>) -> PluginInfo {
    node.runtime.block_on(async {
        // As the kubelet's client does it: the authority is the path, escaped (grpc-go, encodeAuthority).
        let authority = path.to_str().unwrap().replace('/', "%2F");
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
        let endpoint = endpoint.origin(format!("http://{authority}").parse().unwrap());
        let channel = endpoint.connect().await.unwrap();
        let mut client = RegistrationClient::new(channel);
        let info = client.get_info(InfoRequest {}).await.unwrap().into_inner();
        let error = verdict.err().unwrap_or_default().to_owned();
        client
            .notify_registration_status(RegistrationStatus { plugin_registered: verdict.is_ok(), error })
            .await
            .unwrap();
        info
    })
}

#[test]
fn readiness_follows_the_kubelet_s_verdict() {
    in_namespace(|| {
        let node = Node::start_with(&ARGS);
        eventually("a socket", || socket("").exists());
        let unready = (503, "not ready: registration\n".to_owned());
        assert_eq!(node.get("/readyz"), unready);
        assert!(node.log().contains("has not registered"), "{}", node.log());
        assert_eq!(fs::metadata(socket("")).unwrap().permissions().mode() & 0o777, 0o600);

        let info = register(&node, &socket(""), Ok(()));
        assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "csi.hostmount.dev"));
        assert_eq!(info.endpoint, "/mnt/kubelet/plugins/csi.hostmount.dev/csi.sock");
        assert_eq!(info.supported_versions, ["1.0.0"]);
        assert_eq!(node.get("/readyz"), (200, "ok\n".to_owned()));
        assert_eq!(node.get("/healthz"), (200, "ok\n".to_owned()));
        assert_eq!(node.metric("hostmount_registered"), 1.0);

        register(&node, &socket(""), Err("no such driver"));
        assert_eq!(node.get("/readyz"), unready);
        assert!(node.log().contains("the kubelet refused to register the plugin: no such driver"), "{}", node.log());
        // Not a reason to restart: the volumes that are there go on working.
        assert_eq!(node.get("/healthz").0, 200);
        assert_eq!(node.metric("hostmount_registered"), 0.0);
        assert_eq!(node.metric("hostmount_refused_registrations_total"), 1.0);

        // A kubelet that was restarted asks again on the same socket.
        register(&node, &socket(""), Ok(()));
        assert_eq!(node.get("/readyz").0, 200);
        assert_eq!(node.metric("hostmount_registrations_total"), 2.0);
    });
}

#[test]
fn a_vanished_socket_comes_back_and_is_not_registered_until_the_kubelet_says_so() {
    in_namespace(|| {
        let node = Node::start_with(&ARGS);
        eventually("a socket", || socket("").exists());
        register(&node, &socket(""), Ok(()));
        fs::remove_file(socket("")).unwrap();
        eventually("a new socket", || socket("").exists());
        assert_eq!(node.get("/readyz").0, 503);
        register(&node, &socket(""), Ok(()));
        assert_eq!(node.get("/readyz").0, 200);
    });
}

#[test]
fn what_a_killed_plugin_has_left_is_taken_over_under_its_name() {
    in_namespace(|| {
        let mut node = Node::start_with(&ARGS);
        eventually("a socket", || socket("").exists());
        kill(Pid::from_raw(i32::try_from(node.plugin.id()).unwrap()), Signal::SIGKILL).unwrap();
        node.plugin.wait().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        for stale in [socket("-7"), Path::new(REGISTRY).join("other.dev@reg.sock")] {
            drop(UnixListener::bind(stale).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _live = UnixListener::bind(socket("-9x")).unwrap();
        node.kill_and_restart();
        // The youngest is what the kubelet knows; another driver's is none of our business, nor what only looks alike.
        let wanted = ["csi.hostmount.dev@reg-7.sock", "csi.hostmount.dev@reg-9x.sock", "other.dev@reg.sock"];
        eventually("one socket of ours", || sockets() == wanted);
        register(&node, &socket("-7"), Ok(()));
        assert_eq!(node.get("/readyz").0, 200);
    });
}

#[test]
fn a_kubelet_that_backs_off_from_one_socket_is_offered_another() {
    in_namespace(|| {
        let node = Node::start_with(&ARGS);
        eventually("a socket", || socket("").exists());
        eventually("a socket of another name, and that one only", || sockets() == ["csi.hostmount.dev@reg-1.sock"]);
        register(&node, &socket("-1"), Err("try later"));
        eventually("a third name", || sockets() == ["csi.hostmount.dev@reg-2.sock"]);
        register(&node, &socket("-2"), Ok(()));
        std::thread::sleep(std::time::Duration::from_secs(6));
        assert_eq!(sockets(), ["csi.hostmount.dev@reg-2.sock"], "a registration that works keeps its name");
        assert_eq!(node.get("/readyz").0, 200);
    });
}

#[test]
fn the_kubelet_sees_the_socket_and_nothing_else_and_none_is_left_at_the_end() {
    in_namespace(|| {
        let mut node = Node::start_with(&ARGS);
        let seen = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        seen.add_watch(REGISTRY, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO).unwrap();
        eventually("a socket", || socket("").exists());
        fs::remove_file(socket("")).unwrap();
        eventually("a new socket", || socket("").exists());
        assert!(fs::symlink_metadata(socket("")).unwrap().file_type().is_socket());
        let names: Vec<_> = seen.read_events().unwrap().into_iter().filter_map(|e| e.name).collect();
        let own = socket("").file_name().unwrap().to_owned();
        assert!(names.contains(&own), "{names:?}");
        assert!(names.iter().all(|name| *name == own), "{names:?}");
        kill(Pid::from_raw(i32::try_from(node.plugin.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(node.plugin.wait().unwrap().success());
        assert_eq!(sockets(), [""; 0]);
        assert!(!node.root.join("csi.sock").exists());
    });
}

#[test]
fn a_plugin_that_ends_leaves_no_directory_among_the_kubelets() {
    in_namespace(|| {
        let mut node = Node::start();
        node.publish(&node.inline("p1", &[("volume", "data")])).unwrap();
        let data = node.target("p1").with_file_name("vol_data.json");
        fs::write(data, "{\"driverName\":\"csi.hostmount.dev\"}").unwrap();
        let own = node.root.join("kubelet/plugins/csi.hostmount.dev");
        assert!(own.join("workshop").exists());
        kill(Pid::from_raw(i32::try_from(node.plugin.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(node.plugin.wait().unwrap().success());
        assert!(!own.exists() && own.parent().unwrap().exists());
        // What a pod holds stays, and it says so.
        assert!(node.target("p1").join("marker").exists());
        assert!(node.log().contains("volumes stay mounted"), "{}", node.log());
    });
}

#[test]
fn a_directory_that_was_deleted_comes_back_or_asks_for_a_restart() {
    in_namespace(|| {
        let mut node = Node::start_with(&["--registration-dir=/mnt/held", "--admin-address=127.0.0.1:0"]);
        eventually("no directory, no socket", || {
            node.get("/readyz").1.contains("not ready: registration\n") && node.log().contains("cannot find the plugin")
        });
        fs::create_dir("/mnt/held").unwrap();
        eventually("a socket", || fs::read_dir("/mnt/held").unwrap().next().is_some());
        assert_eq!(node.get("/healthz").0, 200);
        // As in a container: what is there is a bind mount, which leads to the deleted directory for ever.
        mount(Some(REGISTRY), "/mnt/held", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        node.kill_and_restart();
        eventually("a socket", || socket("").exists());
        fs::remove_dir_all(REGISTRY).unwrap();
        eventually("a restart is asked for", || node.get("/healthz").0 == 503);
        let (_, text) = node.get("/healthz");
        assert!(text.contains("failed: registration-directory\n"), "{text}");
        assert!(node.log().contains("it was deleted; a restart finds the one that is there now"), "{}", node.log());
    });
}
