//! The real automounter on the real autofs: its tree reaches pods, is triggered before it is bound, and heals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use support::container::Container;
use support::seccomp::Refusal;
use support::{Node, eventually, in_namespace_as_root};

/// One at a time: automount(8) keeps a named pipe in /run, called after the place of its tree.
static ALONE: Mutex<()> = Mutex::new(());

/// automount(8) with a tree in which `repo` is a tmpfs.
struct Automount {
    daemon: Child,
    at: PathBuf,
}

impl Automount {
    fn start(node: &Node) -> Option<Self> {
        let at = node.root.join("data/auto");
        let file = |name: &str| node.root.join(name).to_str().unwrap().to_owned();
        fs::write(file("auto.map"), "repo -fstype=tmpfs :tmpfs\n").unwrap();
        fs::write(file("auto.master"), format!("{} {} --timeout=300\n", at.display(), file("auto.map"))).unwrap();
        let log = fs::OpenOptions::new().create(true).append(true).open(file("auto.log")).unwrap();
        let started = Command::new("automount")
            .args(["--foreground", "--verbose", "--pid-file", &file("auto.pid"), &file("auto.master")])
            // The automounter's own process group sees what is beneath autofs, and triggers nothing.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let Ok(daemon) = started else {
            println!("SKIPPED: automount cannot be started: apt-get install autofs");
            return None;
        };
        let (log, wanted) = (file("auto.log"), at.clone());
        let automount = Self { daemon, at };
        eventually("autofs is mounted", || {
            assert!(!fs::read_to_string(&log).unwrap().contains("failed"), "{}", fs::read_to_string(&log).unwrap());
            fs_type(&wanted).as_deref() == Some("autofs")
        });
        Some(automount)
    }

    /// Ends, and takes its tree off the node.
    fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.daemon.id()).unwrap());
        // As a stop of the service does; SIGTERM leaves what is in use.
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.daemon.wait().unwrap();
    }
}

/// The type of the file system that is mounted last at a path.
fn fs_type(at: &Path) -> Option<String> {
    let table = mounts::mountinfo::parse(&fs::read("/proc/self/mountinfo").unwrap());
    table.mounts.into_iter().rfind(|m| m.mount_point == at).map(|m| m.fs_type)
}

const AUTO: [(&str, &str); 2] = [("volume", "data"), ("subPath", "auto")];

/// cvmfs-csi#44: what the automounter mounts when a pod walks into its tree has to reach the pod; without propagation the
/// pod's access ends in ELOOP, after the automounter has mounted in vain.
#[test]
fn cvmfs_csi_44_an_automounters_tree_works_with_propagation_and_only_so() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    in_namespace_as_root(|| {
        let node = Node::start();
        let Some(automount) = Automount::start(&node) else { return };
        let slave = node.inline("p", &[&AUTO[..], &[("propagation", "HostToContainer")]].concat());
        let private = node.inline("q", &AUTO);
        node.publish(&slave).unwrap();
        node.publish(&private).unwrap();
        let slave_container = Container::start(&node.target("p"), "rslave");
        let private_container = Container::start(&node.target("q"), "rprivate");
        let error = fs::read_dir(private_container.volume().join("repo")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{error}");
        assert_eq!(fs::read_dir(slave_container.volume().join("repo")).unwrap().count(), 0);
        fs::write(automount.at.join("repo/software"), "").unwrap();
        assert!(slave_container.volume().join("repo/software").exists());
        drop((slave_container, private_container));
        node.unpublish(&slave).unwrap();
        node.unpublish(&private).unwrap();
        assert!(automount.at.join("repo/software").exists(), "the node's own is left alone");
        automount.stop();
    });
}

/// kubernetes#110973: a place that the automounter has not mounted yet is bound as the empty directory beneath.
#[test]
fn kubernetes_110973_an_untriggered_place_is_mounted_before_it_is_bound() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    in_namespace_as_root(|| {
        for refusal in [Refusal::NONE, Refusal::all()] {
            let node = Node::start_refusing(&refusal, &[]);
            let Some(automount) = Automount::start(&node) else { return };
            assert_eq!(fs_type(&automount.at.join("repo")), None);
            let pod = node.inline("p", &[("volume", "data"), ("subPath", "auto/repo")]);
            node.publish(&pod).unwrap();
            assert_eq!(fs_type(&node.target("p")).as_deref(), Some("tmpfs"), "{refusal}");
            fs::write(automount.at.join("repo/software"), "").unwrap();
            assert!(node.target("p").join("software").exists());
            node.unpublish(&pod).unwrap();
            automount.stop();
            drop(node);
            support::unmount(Path::new("/mnt"));
        }
    });
}

/// A restarted automounter mounts its tree anew; pods held the old one for ever.
#[test]
fn a_restarted_automounter_is_given_to_running_pods() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    in_namespace_as_root(|| {
        let node = Node::start();
        let Some(automount) = Automount::start(&node) else { return };
        let pod = node.inline("p", &[&AUTO[..], &[("propagation", "HostToContainer")]].concat());
        node.publish_noted(&pod);
        let container = Container::start(&node.target("p"), "rslave");
        assert!(fs::read_dir(container.volume().join("repo")).is_ok());
        automount.stop();
        support::mounts_beneath(&node.root.join("data")).iter().rev().for_each(|left| support::unmount(left));
        let Some(automount) = Automount::start(&node) else { return };
        eventually("the pod has the new tree", || {
            let _ = fs::read_dir(container.volume().join("repo"));
            let seen = fs::write(automount.at.join("repo/new"), "").is_ok();
            seen && container.volume().join("repo/new").exists()
        });
        drop(container);
        node.unpublish(&pod).unwrap();
        automount.stop();
    });
}
