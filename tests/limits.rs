//! What the kernel allows is used up: mounts of a namespace, in the kubelet's own and in one that receives from it, and
//! descriptors. Each call says so, leaves nothing half done, and succeeds when it is repeated after room was made.
//!
//! fs.mount-max is the machine's and stays as it is: namespaces of the test's own are filled up to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Instant;

use ::kernel::namespace::Proc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use support::container::Container;
use support::fuse::Daemon;
use support::{Node, change, eventually, in_namespace, mounts_beneath, table, tmpfs, unmount};
use tonic::{Code, Status};
use wire::csi::NodePublishVolumeRequest;
use workers::PER_SOURCE;

/// How many mounts count against the limit in the calling thread's namespace.
fn count() -> u32 {
    let proc = Proc::new().unwrap();
    let listed = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap().lines().count();
    // Kernels before 6.12 have it in the table only. The namespace's own root is in neither.
    let counted = proc.thread_mount_namespace().unwrap().count();
    counted.unwrap_or_else(|_| u32::try_from(listed()).unwrap()) + 1
}

fn most() -> u32 {
    fs::read_to_string("/proc/sys/fs/mount-max").unwrap().trim().parse().unwrap()
}

/// How many single mounts a filling has, to make room by.
const SPARE: usize = 8;

/// Mounts that have nothing to do with anything, as many as fit.
struct Filling(PathBuf);

impl Filling {
    /// The place for it, which no other namespace receives from. Make it before the plugin is started: it is covered by
    /// a mount of its own there too, then.
    fn place(root: &Path) -> Self {
        let at = root.join("filling");
        tmpfs(&at);
        change(&at, MsFlags::MS_PRIVATE);
        Self(at)
    }

    /// Until the kernel says that there is no room for one more. A tree is bound into itself, so that each bind doubles
    /// it: trees of 2, 4, 8 and so on mounts, of which as many are taken as fit.
    fn fill(&self) {
        let bind = |from: &Path, to: &Path| {
            fs::create_dir(to).unwrap();
            mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        };
        let size = |n: usize| self.0.join(format!("tree{n}"));
        let mut largest = 0;
        tmpfs(&size(0));
        change(&size(0), MsFlags::MS_PRIVATE);
        for n in 0..SPARE {
            bind(&size(0), &self.0.join(format!("spare{n}"))).unwrap();
        }
        loop {
            let (tree, next) = (size(largest), size(largest + 1));
            // A tree of twice the size: one copy, and in it another.
            if bind(&tree, &next).is_err() {
                break;
            }
            change(&next, MsFlags::MS_PRIVATE | MsFlags::MS_REC);
            largest += 1;
            if bind(&tree, &next.join(format!("twice{largest}"))).is_err() {
                break;
            }
        }
        for n in (0..=largest).rev() {
            let mut copy = 0;
            loop {
                copy += 1;
                let to = self.0.join(format!("copy{n}.{copy}"));
                match bind(&size(n), &to) {
                    Ok(()) => {}
                    Err(nix::errno::Errno::ENOSPC) => break,
                    Err(errno) => panic!("{}: {errno}", to.display()),
                }
            }
        }
        assert_eq!(count(), most(), "filled");
    }

    /// Makes room for one more mount.
    fn free_one(&self) {
        let mut spare = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        let spare = spare.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("spare")).unwrap();
        unmount(&spare);
        fs::remove_dir(&spare).unwrap();
    }
}

/// What a refused call must not have changed: the mounts, the target, the note beside it.
fn state(node: &Node, path: &Path) -> (u32, usize, bool, bool) {
    let noted = |dir: &Path| {
        let dir = CString::new(dir.as_os_str().as_bytes()).unwrap();
        // SAFETY: both texts are NUL-terminated, and no value is asked for.
        #[expect(unsafe_code, reason = "no library at hand reads an extended attribute")]
        let length =
            unsafe { libc::getxattr(dir.as_ptr(), c"user.hostmount.volume".as_ptr(), std::ptr::null_mut(), 0) };
        length > 0
    };
    (count(), mounts_beneath(&node.root.join("kubelet")).len(), path.exists(), noted(path.parent().unwrap()))
}

fn threads(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/task", node.plugin.id())).unwrap().count()
}

/// Is refused for want of room, in the log in these words, and leaves nothing, however often it is repeated.
#[track_caller]
fn exhausted(node: &Node, path: &Path, words: &[&str], call: &dyn Fn() -> Result<(), Status>) {
    let before = (state(node, path), table());
    let threads_before = threads(node);
    for _ in 0..10 {
        let status = call().expect_err("it should be refused");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.message().contains("as many mounts as it may"), "{status:?}");
        node.logged(&status, words);
    }
    println!("{}", call().unwrap_err().message());
    // Some may be started beside the one of the calls, where that was at work; none for each call.
    assert!(threads(node) <= threads_before + PER_SOURCE, "{} threads, before {threads_before}", threads(node));
    assert!(state(node, path) == before.0, "{:?}, before {:?}", state(node, path), before.0);
    assert!(table() == before.1, "the mount table has changed");
}

fn follows(node: &Node, pod: &str) -> NodePublishVolumeRequest {
    node.inline(pod, &[("volume", "data"), ("propagation", "HostToContainer")])
}

#[test]
fn a_full_namespace_refuses_volumes_and_takes_them_again_once_there_is_room() {
    in_namespace(|| {
        let node = Node::start();
        let filling = Filling::place(&node.root);
        let most_text = most().to_string();
        let words = ["the kubelet's mount namespace has no room", "fs.mount-max", most_text.as_str()];
        // The workshop has to be made first, for which there is no room either.
        filling.fill();
        fs::create_dir_all(node.staging()).unwrap();
        let pods: Vec<_> = ["a", "b", "c"].map(|pod| follows(&node, pod)).into();
        let targets: Vec<_> = pods.iter().map(|pod| PathBuf::from(&pod.target_path)).collect();
        exhausted(&node, &targets[0], &words, &|| node.publish(&pods[0]));
        filling.free_one();
        // Room for the workshop, which is made now, and not for the volume.
        node.publish(&pods[0]).unwrap_err();
        assert_eq!(count(), most());
        exhausted(&node, &targets[0], &words, &|| node.publish(&pods[0]));
        assert!(!node.log().contains("still at work"), "{}", node.log());
        filling.free_one();
        node.publish(&pods[0]).unwrap();
        assert_eq!(count(), most());
        assert_eq!(fs::read_to_string(targets[0].join("marker")).unwrap(), "data");
        // The kubelet's repeated call needs no room, and a volume of another propagation is the same fault as ever.
        node.publish(&pods[0]).unwrap();
        let other = node.inline("a", &[("volume", "data"), ("propagation", "None")]);
        assert_eq!(node.publish(&other).unwrap_err().code(), Code::AlreadyExists);
        exhausted(&node, &targets[1], &words, &|| node.publish(&pods[1]));
        exhausted(&node, &node.staging(), &words, &|| node.stage("data"));
        // Whoever goes makes room, also when all is full.
        node.unpublish(&pods[0]).unwrap();
        assert!(!targets[0].exists());
        node.stage("data").unwrap();
        exhausted(&node, &targets[1], &words, &|| node.publish(&pods[1]));
        node.unstage("data").unwrap();
        node.publish(&pods[1]).unwrap();
        // A volume with mounts in it needs room for all of them, and gets none of them otherwise.
        node.unpublish(&pods[1]).unwrap();
        tmpfs(&node.root.join("data/sub"));
        filling.free_one();
        exhausted(&node, &targets[2], &words, &|| node.publish(&pods[2]));
        filling.free_one();
        node.publish(&pods[2]).unwrap();
        assert_eq!(mounts_beneath(&targets[2]).len(), 1);
        node.unpublish(&pods[2]).unwrap();
    });
}

#[test]
fn a_full_namespace_that_receives_the_volume_refuses_it_too() {
    in_namespace(|| {
        let node = Node::start();
        let filling = Filling::place(&node.root);
        node.publish(&follows(&node, "first")).unwrap();
        let (end, ended) = mpsc::channel::<()>();
        let (full, filled) = mpsc::channel();
        let place = filling.0.clone();
        // It shares the kubelet's directory, as a CSI driver's container does that mounts it Bidirectional.
        let other = std::thread::Builder::new().name("other".to_owned()).spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            Filling(place).fill();
            full.send(()).unwrap();
            // It ends with its thread.
            ended.recv().unwrap_err();
        });
        filled.recv().expect("the other namespace is filled");
        fs::create_dir_all(node.staging()).unwrap();
        let pod = follows(&node, "next");
        let target = PathBuf::from(&pod.target_path);
        let words = ["another mount namespace", "receives", "fs.mount-max"];
        exhausted(&node, &target, &words, &|| node.publish(&pod));
        exhausted(&node, &node.staging(), &words, &|| node.stage("data"));
        let apart = node.inline("apart", &[("volume", "data"), ("propagation", "None")]);
        exhausted(&node, Path::new(&apart.target_path), &words, &|| node.publish(&apart));
        drop(end);
        other.unwrap().join().unwrap();
        // The kernel takes a namespace apart after its last process has ended.
        eventually("there is room again", || node.publish(&pod).is_ok());
        node.publish(&apart).unwrap();
        node.stage("data").unwrap();
    });
}

#[test]
fn healing_without_room_is_told_once_tried_seldom_and_done_when_there_is_room() {
    in_namespace(|| {
        let node = Node::start_with(&["--admin-address=127.0.0.1:0"]);
        let filling = Filling::place(&node.root);
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let attributes = [("volume", "data"), ("subPath", "fuse"), ("propagation", "HostToContainer")];
        let pod = node.inline("p", &attributes);
        node.publish_noted(&pod);
        let container = Container::start(&node.target("p"), "rslave");
        let at = daemon.die();
        unmount(&at);
        filling.fill();
        filling.free_one();
        let daemon = Daemon::start(&at).unwrap();
        assert_eq!(count(), most());
        eventually("it is tried", || node.log().contains("could not be healed"));
        let failed = || node.metric("hostmount_heals_total{outcome=\"failed\"}");
        let (before, start) = (failed(), Instant::now());
        eventually("it is tried again", || failed() >= before + 4.0);
        // After 0.2, 0.4, 0.8, 1.6 ... s: at most so often in that time, however slow the machine.
        let (tried, seconds) = (failed() - before, start.elapsed().as_secs_f64());
        assert!(tried <= (seconds / 0.2 + 1.0).log2() + 1.0, "tried {tried} times in {seconds} s");
        assert_eq!(node.log().matches("could not be healed").count(), 1, "{}", node.log());
        assert!(node.log().contains("fs.mount-max"));
        filling.free_one();
        container.sees(&daemon.at);
        node.unpublish_again(&pod);
        assert_eq!(mounts_beneath(&node.root.join("data")), [at], "the source is left alone");
    });
}

#[test]
fn without_descriptors_a_call_is_refused_and_a_repeated_one_succeeds() {
    in_namespace(|| {
        let node = Node::start();
        let pod = follows(&node, "p");
        let target = PathBuf::from(&pod.target_path);
        let mut client = node.client();
        // A thread and the workshop are there.
        let first = follows(&node, "first");
        node.runtime.block_on(client.node_publish_volume(first)).unwrap();
        let open = || fs::read_dir(format!("/proc/{}/fd", node.plugin.id())).unwrap().count();
        let limit = |most: &str| {
            let id = node.plugin.id().to_string();
            let done = Command::new("prlimit").args(["--pid", &id, &format!("--nofile={most}:")]).status().unwrap();
            assert!(done.success(), "prlimit (util-linux)");
        };
        limit(&open().to_string());
        let before = (table(), target.exists());
        let status = node.runtime.block_on(client.node_publish_volume(pod.clone())).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.message().contains("as many files open as it may"), "{status:?}");
        node.logged(&status, &["RLIMIT_NOFILE"]);
        println!("{}", status.message());
        assert!(before == (table(), target.exists()));
        // A connection more is none that is answered, and does no harm.
        drop(UnixStream::connect(node.root.join("csi.sock")).unwrap());
        limit("1024");
        node.runtime.block_on(client.node_publish_volume(pod.clone())).unwrap();
        node.unpublish(&pod).unwrap();
    });
}
