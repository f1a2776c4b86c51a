//! Running pods get a source again that has died and come back, and nothing else: the real plugin, real FUSE, containers'
//! namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mounts::mountinfo;
use nix::mount::{MsFlags, mount};
use support::container::Container;
use support::fuse::Daemon;
use support::seccomp::Refusal;
use support::{Node, eventually, in_namespace, mounts_beneath, tmpfs, unmount};
use wire::csi;

fn layers(target: &Path) -> usize {
    mounts_beneath(target.parent().unwrap()).iter().filter(|at| *at == target).count()
}

/// Which directory a path leads to; none if that is dead.
fn id(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino())).ok()
}

/// A change of the allow-list, when the plugin has taken it up.
fn edit(node: &Node, change: impl FnOnce(&str) -> String) {
    let path = node.root.join("entries.yaml");
    let taken_up = || node.log().matches("changed=").count();
    let (before, entries) = (taken_up(), fs::read_to_string(&path).unwrap());
    let changed = change(&entries);
    assert_ne!(changed, entries);
    fs::write(path, changed).unwrap();
    eventually("the list is taken up", || taken_up() > before);
}

/// A volume of an entry of its own, whose file system is mounted anew: when it has that, the plugin has looked at all volumes
/// since.
struct Witness {
    at: PathBuf,
    target: PathBuf,
}

impl Witness {
    fn new(node: &Node) -> Self {
        let at = node.root.join("witness");
        tmpfs(&at);
        edit(node, |entries| {
            format!(
                "{entries}  - {{name: witness, path: {}, propagation: HostToContainer, allow: [{{namespaces: ['*']}}]}}\n",
                at.display()
            )
        });
        node.publish_noted(&node.inline("w", &[("volume", "witness"), ("propagation", "HostToContainer")]));
        Self { at, target: node.target("w") }
    }

    fn has_it_look(&self) {
        unmount(&self.at);
        tmpfs(&self.at);
        eventually("the witness is healed", || id(&self.target) == id(&self.at));
    }

    /// Twice: what the first look has begun may end after this volume has its new file system.
    fn sees_that_it_was_looked(&self) {
        self.has_it_look();
        self.has_it_look();
    }
}

const FUSE: &[(&str, &str)] = &[("volume", "data"), ("subPath", "fuse"), ("propagation", "HostToContainer")];

fn fifty_deaths(node: &Node) {
    let Some(mut daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
    let pod = node.inline("p", FUSE);
    node.publish_noted(&pod);
    let container = Container::start(&node.target("p"), "rslave");
    container.sees(&daemon.at);
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        daemon = daemon.restart();
        let back = Instant::now();
        container.sees(&daemon.at);
        slowest = slowest.max(back.elapsed());
    }
    println!("50 recoveries, the slowest took {slowest:?}");
    assert_eq!((layers(&node.target("p")), container.mounts()), (2, 2), "the first one, and the live one on it");
    drop(container);
    node.unpublish_again(&pod);
    assert!(!node.target("p").exists());
    assert_eq!(mounts_beneath(&node.root.join("data")), [daemon.at.clone()], "the source is left alone");
    drop(daemon);
}

#[test]
fn fifty_deaths_and_recoveries_leave_one_live_layer() {
    in_namespace(|| {
        let node = Node::start_with(&["--log-level=hostmount=debug"]);
        fifty_deaths(&node);
        let log = node.log();
        if !log.contains("mount events by fanotify") {
            assert!(log.contains("the mount table is polled"), "{log}");
            println!(
                "SKIPPED in part: fanotify has no mount events here, which takes Linux 6.15: the table was polled"
            );
        }
    });
}

/// As on an older kernel, where the mount table is polled.
#[test]
fn fifty_deaths_and_recoveries_without_the_newer_calls() {
    in_namespace(|| {
        let node = Node::start_refusing(&Refusal::all(), &["--log-level=hostmount=debug"]);
        fifty_deaths(&node);
        assert!(!node.log().contains("mount events by fanotify"));
    });
}

#[test]
fn a_restarted_plugin_heals_what_an_earlier_one_published() {
    in_namespace(|| {
        let mut node = Node::start();
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let pod = node.inline("p", FUSE);
        node.publish_noted(&pod);
        let container = Container::start(&node.target("p"), "rslave");
        let at = daemon.die();
        unmount(&at);
        node.kill_and_restart();
        assert!(fs::metadata(container.volume()).is_err());
        let daemon = Daemon::start(&at).unwrap();
        container.sees(&daemon.at);
        // The kubelet's repeated call finds it as it should be.
        node.publish(&pod).unwrap();
        assert_eq!(layers(&node.target("p")), 2);
        node.unpublish_again(&pod);
        drop(daemon);
    });
}

#[test]
fn the_empty_directory_beneath_an_unmounted_source_is_never_given_to_a_pod() {
    in_namespace(|| {
        let node = Node::start();
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let witness = Witness::new(&node);
        let pod = node.inline("p", FUSE);
        node.publish_noted(&pod);
        let container = Container::start(&node.target("p"), "rslave");
        unmount(&daemon.die());
        witness.sees_that_it_was_looked();
        assert_eq!(fs::metadata(container.volume()).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
        assert_eq!(layers(&node.target("p")), 1);
        node.unpublish_again(&pod);
    });
}

/// Takes away what lies on top at `at`: the volume keeps what it had, also with a plugin that starts while it is so. What
/// `anew` mounts there afterwards is given.
fn keeps_what_it_had(node: &mut Node, witness: &Witness, at: &Path, anew: impl FnOnce()) {
    let pod = node.inline("p", &[("volume", "data"), ("subPath", "at"), ("propagation", "HostToContainer")]);
    node.publish_noted(&pod);
    let container = Container::start(&node.target("p"), "rslave");
    let before = id(&container.volume());
    assert_eq!(before, id(at));
    unmount(at);
    witness.sees_that_it_was_looked();
    assert_eq!((id(&container.volume()), layers(&node.target("p"))), (before, 1));
    node.kill_and_restart();
    // Whoever calls first tells a plugin which namespace is the kubelet's.
    node.publish_noted(&node.inline("q", &[("volume", "team")]));
    witness.sees_that_it_was_looked();
    assert_eq!((id(&container.volume()), layers(&node.target("p"))), (before, 1));
    assert_ne!(id(at), before, "else this says nothing");
    anew();
    container.sees(at);
    node.unpublish_again(&pod);
}

#[test]
fn a_file_system_that_lay_beneath_the_source_is_never_given_to_a_pod() {
    in_namespace(|| {
        let mut node = Node::start();
        let witness = Witness::new(&node);
        let at = node.root.join("data/at");
        tmpfs(&at);
        tmpfs(&at);
        keeps_what_it_had(&mut node, &witness, &at, || tmpfs(&at));
    });
}

#[test]
fn a_directory_that_a_bind_mount_has_covered_is_never_given_to_a_pod() {
    in_namespace(|| {
        let mut node = Node::start();
        let witness = Witness::new(&node);
        let at = node.root.join("data/at");
        fs::create_dir(&at).unwrap();
        // Of the same name in its file system as the one that it covers.
        let bind = |disk: &Path| {
            tmpfs(disk);
            let from = disk.join("data/at");
            fs::create_dir_all(&from).unwrap();
            mount(Some(&from), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        };
        let [first, second] = ["disk2", "disk3"].map(|disk| node.root.join(disk));
        bind(&first);
        keeps_what_it_had(&mut node, &witness, &at, || bind(&second));
    });
}

/// An entry whose directory nobody but root can replace.
const RELEASE: &str = "releases/current";

/// None, with the reason printed, where the root of the machine belongs to nobody whom the test's user namespace knows.
fn release(node: &Node, propagation: &str) -> Option<(PathBuf, csi::NodePublishVolumeRequest)> {
    if fs::metadata("/").unwrap().uid() != 0 {
        println!("SKIPPED: / is not root's as seen from here, so that no directory can be followed: run it as root");
        return None;
    }
    // A tmpfs may be written by everybody.
    fs::set_permissions(&node.root, fs::Permissions::from_mode(0o755)).unwrap();
    let source = node.root.join(RELEASE);
    fs::create_dir_all(&source).unwrap();
    edit(node, |entries| {
        format!(
            "{entries}  - {{name: release, path: {}, propagation: HostToContainer, allow: [{{namespaces: ['*']}}]}}\n",
            source.display()
        )
    });
    Some((source, node.inline("p", &[("volume", "release"), ("propagation", propagation)])))
}

/// Moves a directory away, or deletes it, and makes another one.
fn replace(node: &Node, source: &Path, keep: Option<&str>) {
    match keep {
        Some(name) => fs::rename(source, source.with_file_name(name)).unwrap(),
        None => fs::remove_dir(source).unwrap(),
    }
    fs::create_dir(source).unwrap();
    // No mount event comes of it; any will do.
    tmpfs(&node.root.join("team/late"));
    unmount(&node.root.join("team/late"));
}

fn a_replaced_directory_is_given(node: &Node) {
    let Some((source, pod)) = release(node, "HostToContainer") else { return };
    node.publish(&pod).unwrap();
    let container = Container::start(&node.target("p"), "rslave");
    for name in ["old", "older"] {
        replace(node, &source, Some(name));
        container.sees(&source);
        assert_eq!((layers(&node.target("p")), container.mounts()), (2, 2));
    }
    // The one that lies on top is deleted: the lowest still leads to the container.
    replace(node, &source, None);
    container.sees(&source);
    assert_eq!((layers(&node.target("p")), container.mounts()), (2, 2));
    node.unpublish_again(&pod);
    assert!(source.exists() && source.with_file_name("old").exists());
}

#[test]
fn a_directory_that_only_root_can_have_replaced_is_given_to_the_pods() {
    in_namespace(|| a_replaced_directory_is_given(&Node::start()));
}

#[test]
fn a_directory_that_only_root_can_have_replaced_is_given_to_the_pods_without_the_newer_calls() {
    in_namespace(|| a_replaced_directory_is_given(&Node::start_refusing(&Refusal::all(), &[])));
}

#[test]
fn a_directory_that_was_deleted_is_given_to_the_containers_that_start() {
    in_namespace(|| {
        let node = Node::start();
        let Some((source, pod)) = release(&node, "HostToContainer") else { return };
        node.publish(&pod).unwrap();
        let container = Container::start(&node.target("p"), "rslave");
        // The kernel mounts nothing on a deleted directory.
        replace(&node, &source, None);
        eventually("the target is replaced", || node.log().contains("healed: containers that start from now on"));
        let next = Container::start(&node.target("p"), "rslave");
        next.sees(&source);
        assert!(fs::metadata(container.volume()).is_ok_and(|found| found.nlink() == 0));
        assert_eq!(layers(&node.target("p")), 1);
        // And it is a slave of the source as before.
        tmpfs(&source.join("later"));
        eventually("a later mount crosses", || next.mounts() == 2);
        unmount(&source.join("later"));
        eventually("and goes", || next.mounts() == 1);
        node.unpublish_again(&pod);
    });
}

/// A volume keeps what it had, and that is told, whether the directory that it was taken from is moved away or deleted.
fn is_not_followed(node: &Node, source: &Path, attributes: &[(&str, &str)], words: &str) {
    for keep in [Some("old"), None] {
        let name = format!("p{}", node.log().len());
        let pod = node.inline(&name, &[&[("propagation", "HostToContainer")], attributes].concat());
        let target = PathBuf::from(&pod.target_path);
        node.publish(&pod).unwrap();
        let before = id(&target);
        assert_eq!(before, id(source));
        let container = Container::start(&target, "rslave");
        replace(node, source, keep);
        let is_told = |line: &str| line.contains(&name) && line.contains("SourceReplaced") && line.contains(words);
        eventually(&format!("it is told: {words}"), || node.log().lines().any(is_told));
        assert_eq!((id(&target), id(&container.volume()), layers(&target)), (before, before, 1));
        node.unpublish_again(&pod);
    }
}

#[test]
fn a_directory_that_a_tenant_has_put_in_the_place_of_anothers_is_not_followed() {
    in_namespace(|| {
        let node = Node::start();
        let Some(_) = release(&node, "HostToContainer") else { return };
        let source = node.root.join("data/b");
        fs::create_dir(&source).unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o700)).unwrap();
        is_not_followed(&node, &source, &[("volume", "data"), ("subPath", "b")], "the entry data shows that");
    });
}

#[test]
fn a_directory_is_not_followed_where_an_entry_shows_its_parent_by_another_path() {
    in_namespace(|| {
        let node = Node::start();
        let Some((source, _)) = release(&node, "HostToContainer") else { return };
        let at = node.root.join("team/in");
        fs::create_dir(&at).unwrap();
        mount(source.parent(), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        is_not_followed(&node, &source, &[("volume", "release")], "the entry team shows that");
    });
}

#[test]
fn a_directory_is_not_followed_where_a_pod_has_its_parent() {
    in_namespace(|| {
        let node = Node::start();
        let Some((source, _)) = release(&node, "HostToContainer") else { return };
        let parent = source.parent().unwrap().display().to_string();
        edit(&node, |entries| {
            format!(
                "{entries}  - {{name: above, path: {parent}, overlaps: [release], allow: [{{namespaces: ['*']}}]}}\n"
            )
        });
        node.publish(&node.inline("a", &[("volume", "above")])).unwrap();
        // It was given to a pod, whatever the allow-list says since.
        edit(&node, |entries| entries.replace("name: above,", "name: above, readOnly: true,"));
        is_not_followed(&node, &source, &[("volume", "release")], "which is mounted at /mnt/kubelet/pods/a/");
    });
}

/// Of a volume whose entry is gone nothing else tells that a pod has it.
#[test]
fn a_directory_is_not_followed_where_a_pod_has_its_parent_as_a_mount_in_its_volume() {
    in_namespace(|| {
        let node = Node::start();
        let Some((source, _)) = release(&node, "HostToContainer") else { return };
        let parent = source.parent().unwrap();
        let nested = node.root.join("team/nested");
        fs::create_dir(&nested).unwrap();
        mount(Some(parent), &nested, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        node.publish(&node.inline("a", &[("volume", "team")])).unwrap();
        unmount(&nested);
        edit(&node, |entries| {
            entries.lines().filter(|line| !line.contains("name: team,")).map(|l| format!("{l}\n")).collect()
        });
        is_not_followed(&node, &source, &[("volume", "release")], "/mount/nested");
    });
}

/// Its running containers have the directory that it showed before, wherever that is called by now, and no table tells so.
#[test]
fn a_directory_is_not_followed_where_containers_of_a_renewed_volume_have_one_above() {
    in_namespace(|| {
        let node = Node::start();
        let Some((source, _)) = release(&node, "HostToContainer") else { return };
        let releases = source.parent().unwrap().to_owned();
        let (first, kept) = (releases.join("first"), releases.join("kept"));
        fs::create_dir_all(first.join("b")).unwrap();
        let at = first.display().to_string();
        edit(&node, |entries| {
            let allow = "allow: [{namespaces: ['*']}]";
            format!(
                "{entries}  - {{name: first, path: {at}, {allow}}}\n  - {{name: deep, path: {}, propagation: HostToContainer, {allow}}}\n",
                kept.join("b").display()
            )
        });
        node.publish_noted(&node.inline("a", &[("volume", "first"), ("propagation", "None")]));
        fs::rename(&first, &kept).unwrap();
        fs::create_dir(&first).unwrap();
        eventually("it is renewed", || node.log().contains("healed: containers that start from now on"));
        edit(&node, |entries| {
            entries.lines().filter(|line| !line.contains("name: first,")).map(|l| format!("{l}\n")).collect()
        });
        is_not_followed(&node, &kept.join("b"), &[("volume", "deep")], "containers of a renewed volume may still have");
    });
}

#[test]
fn a_directory_is_not_followed_where_others_than_root_may_write_one_above() {
    in_namespace(|| {
        let node = Node::start();
        let Some((source, _)) = release(&node, "HostToContainer") else { return };
        fs::set_permissions(source.parent().unwrap(), fs::Permissions::from_mode(0o775)).unwrap();
        is_not_followed(
            &node,
            &source,
            &[("volume", "release")],
            "/mnt/releases may be written by others than root: by its group",
        );
        fs::set_permissions(source.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        // As an ordinary tmpfs is.
        fs::set_permissions(&node.root, fs::Permissions::from_mode(0o1777)).unwrap();
        fs::rename(source.with_file_name("old"), source.with_file_name("older")).unwrap();
        is_not_followed(&node, &source, &[("volume", "release")], "/mnt may be written by others than root");
    });
}

#[test]
fn a_private_volume_is_renewed_for_the_containers_that_start() {
    in_namespace(|| {
        let node = Node::start();
        let Some(mut daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let pod = node.inline("p", &[("volume", "data"), ("subPath", "fuse"), ("propagation", "None")]);
        node.publish_noted(&pod);
        let running = Container::start(&node.target("p"), "rprivate");
        for round in 1..=5 {
            daemon = daemon.restart();
            let renewed = || node.log().matches("healed: containers that start from now on").count();
            eventually("the target is renewed", || renewed() == round);
            let restarted = Container::start(&node.target("p"), "rprivate");
            restarted.sees(&daemon.at);
            assert_eq!((layers(&node.target("p")), restarted.mounts()), (1, 1));
            // Nobody enters its namespace.
            assert_eq!(fs::metadata(running.volume()).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
            assert_eq!(running.mounts(), 1);
        }
        tmpfs(&daemon.at.parent().unwrap().join("sub"));
        drop(running);
        // The kubelet's repeated call finds it as it should be.
        node.publish(&pod).unwrap();
        node.unpublish_again(&pod);
        assert!(fs::metadata(&daemon.at).is_ok());
    });
}

#[test]
fn a_source_that_dies_again_while_it_is_healed_leaves_nobody_behind() {
    in_namespace(|| {
        let node = Node::start();
        let Some(mut daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let volumes = ["None", "HostToContainer"].map(|propagation| {
            let pod = propagation.to_lowercase();
            let pod = node.inline(&pod, &[("volume", "data"), ("subPath", "fuse"), ("propagation", propagation)]);
            node.publish_noted(&pod);
            pod
        });
        let slave = Container::start(&node.target("hosttocontainer"), "rslave");
        for pause in 20..60 {
            daemon = daemon.restart();
            // Heals begin about 30 ms after the mount, and last for some.
            std::thread::sleep(Duration::from_millis(pause));
        }
        slave.sees(&daemon.at);
        eventually("the private one is renewed", || id(&node.target("none")) == id(&daemon.at));
        assert_eq!(layers(&node.target("none")), 1);
        Container::start(&node.target("none"), "rprivate").sees(&daemon.at);
        drop(slave);
        volumes.iter().for_each(|pod| node.unpublish_again(pod));
        assert!(fs::metadata(&daemon.at).is_ok());
    });
}

#[test]
fn peers_are_healed_through_the_source_or_all_together() {
    in_namespace(|| {
        let node = Node::start();
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let attributes = [("volume", "data"), ("subPath", "fuse"), ("propagation", "Bidirectional")];
        let pods: Vec<_> = ["p", "q"].map(|pod| node.inline(pod, &attributes)).into();
        pods.iter().for_each(|pod| node.publish_noted(pod));
        let containers = ["p", "q"].map(|pod| Container::start(&node.target(pod), "rshared"));
        // The dead one is still mounted: the new one covers it, and reaches the peers of it without our doing.
        let at = daemon.die();
        let daemon = Daemon::start(&at).unwrap();
        containers.iter().for_each(|c| c.sees(&at));
        // All of it is unmounted on the node, and mounted anew.
        let at = daemon.die();
        unmount(&at);
        unmount(&at);
        let noted = node.noted(&pods[1]);
        let daemon = Daemon::start(&at).unwrap();
        containers.iter().for_each(|c| c.sees(&at));
        assert_eq!(mounts_beneath(&node.root.join("data")), [at.as_path()]);
        // That they are well is noted: what is noted must not keep the second one from getting the same mount again.
        if node.log().contains("calls=all there") {
            eventually("the new way to the source is noted", || node.noted(&pods[1]) != noted);
        } else {
            println!(
                "SKIPPED in part: where mount ids are given again, it is not noted of a peer that it is well again"
            );
        }
        // The two share what they were healed with, so that unpublishing one takes it from the other; which gets it again.
        node.unpublish_again(&pods[0]);
        containers[1].sees(&daemon.at);
        node.unpublish_again(&pods[1]);
        assert!(fs::metadata(&daemon.at).is_ok());
        assert_eq!(mounts_beneath(&node.root.join("data")), [daemon.at.as_path()]);
    });
}

/// Waits until it is told that a volume is left as it is, for this reason.
fn is_refused(node: &Node, words: &str) {
    let told = |line: &str| line.contains("SourceNotPermitted") && line.contains(words);
    eventually(words, || node.log().lines().any(told));
}

fn attributes(target: &Path) -> mounts::MountAttrs {
    let table = mountinfo::parse(&fs::read("/proc/self/mountinfo").unwrap());
    table.mounts.iter().rfind(|mount| mount.mount_point == target).unwrap().attrs()
}

#[test]
fn what_is_given_is_what_the_pod_may_have_now() {
    in_namespace(|| {
        let node = Node::start();
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let witness = Witness::new(&node);
        let pod = node.inline("p", FUSE);
        node.publish_noted(&pod);
        let container = Container::start(&node.target("p"), "rslave");
        let dead = |container: &Container| {
            assert_eq!(fs::metadata(container.volume()).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
            assert_eq!(layers(&node.target("p")), 1);
        };
        let before = fs::read_to_string(node.root.join("entries.yaml")).unwrap();
        let data = before.lines().find(|line| line.contains("name: data,")).unwrap();
        let edit_data = |from: &str, to: &str| edit(&node, |_| before.replace(data, &data.replace(from, to)));
        // Moved to another namespace while the source is away.
        edit_data("namespaces: ['*']", "namespaces: [others]");
        let daemon = daemon.restart();
        is_refused(&node, "may not use the entry data");
        for (from, to, words) in [
            ("path: /mnt/data", "path: /mnt/data, readOnly: true", "read-only"),
            ("propagation: Bidirectional", "propagation: None", "allows None at most"),
            ("subPaths: true", "subPaths: false", "subPaths is false"),
            ("path: /mnt/data", "path: /mnt/another", "another directory"),
            ("name: data", "name: data2", "does not have"),
        ] {
            edit_data(from, to);
            witness.has_it_look();
            is_refused(&node, words);
        }
        dead(&container);
        // With the flags that the entry has by now.
        assert!(!attributes(&node.target("p")).noexec);
        edit_data("path: /mnt/data", "path: /mnt/data, noexec: true");
        container.sees(&daemon.at);
        assert!(attributes(&node.target("p")).noexec);
        node.unpublish_again(&pod);
        drop(daemon);
    });
}

#[test]
fn peers_of_a_pod_that_may_not_have_it_any_more_are_not_healed_with_it() {
    in_namespace(|| {
        let node = Node::start();
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let attributes = [("volume", "data"), ("subPath", "fuse"), ("propagation", "Bidirectional")];
        let mut pods = ["p", "q"].map(|pod| node.inline(pod, &attributes));
        pods[1].volume_context.extend(node.pod_info("q", "others"));
        pods.iter().for_each(|pod| node.publish_noted(pod));
        let containers = ["p", "q"].map(|pod| Container::start(&node.target(pod), "rshared"));
        edit(&node, |entries| entries.replacen("namespaces: ['*']", "namespaces: [ml]", 1));
        let daemon = daemon.restart();
        is_refused(&node, "may not use the entry data");
        is_refused(&node, "shares its mounts with volumes of other pods");
        for container in &containers {
            assert_eq!(fs::metadata(container.volume()).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
        }
        node.unpublish_again(&pods[1]);
        containers[0].sees(&daemon.at);
        node.unpublish_again(&pods[0]);
        drop(daemon);
    });
}

#[test]
fn a_volume_whose_entry_says_off_is_not_healed() {
    in_namespace(|| {
        let node = Node::start();
        let witness = Witness::new(&node);
        edit(&node, |entries| entries.replace("{name: data,", "{name: data, heal: 'Off',"));
        let Some(mut daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let pod = node.inline("p", FUSE);
        node.publish_noted(&pod);
        let container = Container::start(&node.target("p"), "rslave");
        daemon = daemon.restart();
        witness.sees_that_it_was_looked();
        assert!(fs::metadata(container.volume()).is_err());
        assert_eq!(layers(&node.target("p")), 1);
        node.unpublish_again(&pod);
        drop(daemon);
    });
}
