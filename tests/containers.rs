//! What running containers have of their volumes, on a real kernel: flags that a runtime has taken off are told, and tables
//! that an attacker has shaped neither hide others nor cost much.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::seccomp::Refusal;
use support::{Node, eventually, in_namespace, tmpfs};
use wire::csi::NodePublishVolumeRequest;

/// A container as a runtime makes it: with a root of its own, the kubelet's file and a volume.
struct Container(Child);

/// Its root is made in a tmpfs; the volume is bound to /data with the options $2, as runc 1.2 does it.
const RUNTIME: &str = r#"
set -e
root=/mnt/secret; mount -t tmpfs root $root; cd $root
mkdir usr proc data old tmp; touch log
for d in bin sbin lib lib64; do
  if [ -L /$d ]; then ln -s usr/$d $d; elif [ -d /$d ]; then mkdir $d; mount --rbind /$d $d; fi
done
mount --rbind /usr usr; mount --rbind /proc proc
mount --bind "$3" log; mount --rbind "$1" data; mount -o "remount,bind,$2" data
pivot_root . old; cd /; umount -l /old
eval "$4"
echo started
exec $5 sleep 1000
"#;
/// All flags taken off; mount(8) would keep those that are not named.
const OFF: &str = "rw,suid,dev,exec";
/// `allowPrivilegeEscalation: false`, and not privileged.
const CONFINED: &str = "setpriv --no-new-privs --bounding-set=-sys_rawio";

impl Container {
    fn start(node: &Node, pod: &str, options: &str, more: &str, by: &str) -> Self {
        let log = node.root.join(format!("kubelet/pods/{pod}/containers/app/0"));
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "").unwrap();
        let mut process = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                RUNTIME,
                "sh",
                node.target(pod).to_str().unwrap(),
            ])
            .args([options, log.to_str().unwrap(), more, by])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(process.stdout.take().unwrap()), &mut line).unwrap();
        assert_eq!(line, "started\n", "the container's script ended");
        Self(process)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A volume of the entry `flat`, which is read-only and nosuid and nodev; the Pod's volume says readOnly.
fn read_only(node: &Node, pod: &str) -> NodePublishVolumeRequest {
    let request = NodePublishVolumeRequest { readonly: true, ..node.inline(pod, &[("volume", "flat")]) };
    node.publish(&request).unwrap();
    request
}

fn tool(node: &Node, args: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostmount"));
    command.args(args).args(["--pid", &std::process::id().to_string()]);
    command.env("HOSTMOUNT_KUBELET_DIR", node.root.join("kubelet"));
    let output = command.env("HOSTMOUNT_CONFIG", node.root.join("entries.yaml")).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// For each container with the pod's volume: its name, path, and what it lacks.
fn inspected(node: &Node, pod: &str) -> Vec<(String, String, Vec<String>)> {
    let found = tool(node, &["volumes", "inspect", &format!("ml/pod-{pod}/v")]);
    let text = |value: &Value| value.as_str().unwrap_or("null").to_owned();
    let missing = |c: &Value| c["Missing"].as_array().unwrap().iter().map(|m| text(&m["Flag"])).collect();
    let all = found[0]["Containers"].as_array().unwrap_or_else(|| panic!("{found:#}"));
    let mut all: Vec<_> = all.iter().map(|c| (text(&c["Name"]), text(&c["Path"]), missing(c))).collect();
    all.sort();
    all
}

/// What `check` warns of, by flag: where.
fn warned(node: &Node) -> Vec<String> {
    let report = tool(node, &["check", "--json"]);
    let of_flags = |item: &&Value| item["check"] == "containerFlags" && item["status"] == "warning";
    let text = |item: &Value| format!("{} {}", item["lookedAt"].as_str().unwrap(), item["found"].as_str().unwrap());
    report["items"].as_array().unwrap().iter().filter(of_flags).map(text).collect()
}

fn weaker(node: &Node) -> [f64; 4] {
    ["ro", "nosuid", "nodev", "noexec"].map(|flag| node.metric(&format!("hostmount_weaker_volumes{{flag=\"{flag}\"}}")))
}

const OFTEN: [&str; 3] = ["--admin-address=127.0.0.1:0", "--probe-interval=0.05", "--call-timeout=10"];

#[test]
fn flags_that_a_runtime_has_taken_off_are_told_by_inspect_check_and_metric() {
    in_namespace(|| {
        let node = Node::start_with(&OFTEN);
        let request = read_only(&node, "a");
        let keeps = Container::start(&node, "a", "ro,nosuid,nodev", "", "");
        assert_eq!(inspected(&node, "a"), [("app".to_owned(), "/data".to_owned(), vec![])]);
        assert_eq!(warned(&node), Vec::<String>::new());
        let weak = Container::start(&node, "a", OFF, "", "");
        let told = |missing: &[&str]| -> (String, String, Vec<String>) {
            ("app".into(), "/data".into(), missing.iter().map(|&m| m.to_owned()).collect())
        };
        assert_eq!(inspected(&node, "a"), [told(&[]), told(&["ro", "nosuid", "nodev"])]);
        let named = warned(&node);
        for (item, flag) in named.iter().zip(["ro ", "nosuid ", "nodev "]) {
            assert!(
                item.starts_with(flag) && item.contains("pod ml/pod-a, container app at /data (entry flat)"),
                "{item}"
            );
        }
        assert_eq!(named.len(), 3, "{named:#?}");
        eventually("the metric counts the volume", || weaker(&node) == [1.0, 1.0, 1.0, 0.0]);
        drop((keeps, weak));
        eventually("no container, nothing weaker", || weaker(&node) == [0.0; 4]);

        // What makes up for nosuid and nodev counts; nothing makes up for ro.
        let confined = Container::start(&node, "a", OFF, "", CONFINED);
        assert_eq!(inspected(&node, "a"), [told(&["ro"])]);
        eventually("the metric counts ro alone", || weaker(&node) == [1.0, 0.0, 0.0, 0.0]);
        // The pod of another volume, for the metric to show that it was looked at again.
        read_only(&node, "b");
        let other = Container::start(&node, "b", OFF, "", "");
        eventually("both", || weaker(&node) == [2.0, 1.0, 1.0, 0.0]);
        drop((confined, other));
        node.unpublish(&request).unwrap();
        eventually("the first is gone", || weaker(&node) == [0.0; 4]);
    });
}

#[test]
fn a_container_with_a_sub_path_or_an_odd_name_is_told_and_nothing_odd_is_printed() {
    in_namespace(|| {
        let node = Node::start();
        read_only(&node, "a");
        let more =
            r#"at="$(printf '/tmp/\033[31m\342\200\256x')"; mkdir "$at"; mount --bind /data/x "$at"; umount -l /data"#;
        let _container = Container::start(&node, "a", OFF, more, CONFINED);
        let found = inspected(&node, "a");
        assert_eq!(found, [("app".to_owned(), r"/tmp/\x1b[31m\xe2\x80\xaex".to_owned(), vec!["ro".to_owned()])]);
    });
}

/// Two volumes of a pod show one directory, and nothing tells which of them a mount in the container is.
#[test]
fn of_two_volumes_that_show_one_directory_only_what_both_shall_have_is_missed() {
    in_namespace(|| {
        let node = Node::start();
        let first = node.inline("a", &[("volume", "team")]);
        node.publish(&first).unwrap();
        let target = node.root.join("kubelet/pods/a/volumes/kubernetes.io~csi/w/mount");
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let mut second = NodePublishVolumeRequest { readonly: true, ..first.clone() };
        second.target_path = target.to_str().unwrap().to_owned();
        second.volume_id = "csi-w".to_owned();
        node.publish(&second).unwrap();
        let _container = Container::start(&node, "a", OFF, "", "");
        assert_eq!(inspected(&node, "a")[0].2, ["nosuid", "nodev"]);
    });
}

#[test]
fn an_attackers_table_is_unknown_and_hides_nobody_elses() {
    in_namespace(|| {
        let node = Node::start_with(&OFTEN);
        read_only(&node, "victim");
        read_only(&node, "tenant");
        // 16,384 mounts of its volume; and what looks like the victim's file, on a file system of its own.
        let forged =
            "mkdir -p /tmp/kubelet/pods/victim/containers/forged; touch /tmp/kubelet/pods/victim/containers/forged/0";
        let many = "mount --make-rprivate /; mount -t tmpfs t /tmp; for n in $(seq 14); do mkdir -p /tmp/$n; mount --rbind /tmp /tmp/$n; done";
        let bind = "touch /tmp/f; mount --bind /tmp/kubelet/pods/victim/containers/forged/0 /tmp/f";
        let forger =
            Container::start(&node, "tenant", OFF, &format!("mount -t tmpfs t /tmp; {forged}; {bind}"), CONFINED);
        let crowded = Container::start(&node, "tenant", OFF, many, CONFINED);
        let lines = fs::read_to_string(format!("/proc/{}/mountinfo", crowded.0.id())).unwrap().lines().count();
        assert!(lines > 10_000, "{lines} mounts");
        let _victim = Container::start(&node, "victim", OFF, "", CONFINED);

        assert_eq!(inspected(&node, "victim"), [("app".into(), "/data".into(), vec!["ro".to_owned()])]);
        assert_eq!(inspected(&node, "tenant").len(), 1, "what was read of the other is not believed");
        let why = tool(&node, &["volumes", "inspect", "ml/pod-tenant/v"])[0]["ContainersUnknown"].clone();
        assert!(why.as_str().is_some_and(|why| why.contains("more than 10,000 mounts")), "{why}");
        let unknown = "hostmount_weaker_volumes{flag=\"unknown\"}";
        eventually("both are weaker, and the tenant's is not known of all", || {
            weaker(&node) == [2.0, 0.0, 0.0, 0.0] && node.metric(unknown) > 0.0
        });
        drop(forger);
        drop(crowded);
        assert!(Path::new("/mnt/flat/marker").exists());
    });
}

/// Where the process that only connects finds the socket.
const STRANGER: &str = "HOSTMOUNT_TEST_STRANGER";

/// As `hostmount check` does in the plugin's pod, whose mount namespace isn't the kubelet's.
#[test]
fn whoever_only_connects_is_not_taken_for_the_kubelet() {
    if let Some(socket) = std::env::var_os(STRANGER) {
        let _connection = std::os::unix::net::UnixStream::connect(socket).unwrap();
        println!("\nconnected");
        std::thread::sleep(std::time::Duration::from_secs(600));
        return;
    }
    in_namespace(|| {
        // Without names of mounts each one wakes the plugin, as where a seccomp profile doesn't know statmount(2).
        let node = Node::start_refusing(&Refusal::all(), &OFTEN);
        read_only(&node, "a");
        let container = Container::start(&node, "a", OFF, "", "");
        eventually("the metric counts the volume", || weaker(&node) == [1.0, 1.0, 1.0, 0.0]);
        let mut stranger = Command::new("unshare")
            // There are no volumes in its namespace, as in the plugin's pod.
            .args(["--mount", "--propagation", "private", "sh", "-c", r#"umount -l "$0" && exec "$@""#])
            .arg(node.target("a"))
            .arg(std::env::current_exe().unwrap())
            .args(["whoever_only_connects_is_not_taken_for_the_kubelet", "--exact", "--nocapture"])
            .env(STRANGER, node.root.join("csi.sock"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(stranger.stdout.take().unwrap()));
        assert!(lines.map_while(Result::ok).any(|line| line == "connected"));
        // Woken by this mount, the plugin asks in whose namespace it is to look for volumes; a further count shows that.
        tmpfs(&node.root.join("elsewhere"));
        drop(container);
        eventually("no container, nothing weaker", || weaker(&node) == [0.0; 4]);
        read_only(&node, "b");
        let _container = Container::start(&node, "b", OFF, "", "");
        eventually("a volume that is new in the kubelet's namespace is known", || {
            weaker(&node) == [1.0, 1.0, 1.0, 0.0]
        });
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    });
}
