//! Running pods get a source again that has died and come back: the real plugin, real FUSE, containers' namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hostmount::wire::csi;
use support::container::Container;
use support::fuse::Daemon;
use support::{Node, eventually, in_namespace, mounts_beneath, tmpfs, unmount};

fn layers(target: &Path) -> usize {
    mounts_beneath(target.parent().unwrap()).iter().filter(|at| *at == target).count()
}

const FUSE: &[(&str, &str)] = &[("volume", "data"), ("subPath", "fuse"), ("propagation", "HostToContainer")];

fn fifty_deaths(node: &Node) {
    let Some(mut daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
    let pod = node.inline("p", FUSE);
    node.publish(&pod).unwrap();
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
fn fifty_deaths_and_recoveries_with_the_old_calls() {
    in_namespace(|| {
        let node = Node::start_with(&["--log-level=hostmount=debug", "--old-calls"]);
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
        node.publish(&pod).unwrap();
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
        // And the call itself heals too, where it comes first.
        node.unpublish_again(&pod);
        drop(daemon);
    });
}

#[test]
fn the_empty_directory_beneath_an_unmounted_source_is_never_given_to_a_pod() {
    in_namespace(|| {
        let node = Node::start();
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let pod = node.inline("p", FUSE);
        node.publish(&pod).unwrap();
        let container = Container::start(&node.target("p"), "rslave");
        unmount(&daemon.die());
        // Something for the plugin to wake up at, and to be done with.
        tmpfs(&node.root.join("team/late"));
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(fs::metadata(container.volume()).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
        assert_eq!(layers(&node.target("p")), 1);
        node.unpublish_again(&pod);
    });
}

/// Sets `heal` of the entry `data`.
fn set_heal(node: &Node, heal: &str) {
    let entries = fs::read_to_string(node.root.join("entries.yaml")).unwrap();
    let entries = entries.replace("{name: data,", &format!("{{name: data, heal: '{heal}',"));
    fs::write(node.root.join("entries.yaml"), entries).unwrap();
    eventually("the list is taken up", || node.log().contains("changed=1"));
}

/// Moves a directory away, or deletes it, and makes another one.
fn replace(node: &Node, source: &Path, keep: Option<&str>) {
    match keep {
        Some(name) => fs::rename(source, node.root.join("data").join(name)).unwrap(),
        None => fs::remove_dir(source).unwrap(),
    }
    fs::create_dir(source).unwrap();
    // No mount event comes of it; any will do.
    tmpfs(&node.root.join("team/late"));
    unmount(&node.root.join("team/late"));
}

const RELEASE: &str = "release";

fn release(node: &Node, propagation: &str) -> (PathBuf, csi::NodePublishVolumeRequest) {
    let source = node.root.join("data").join(RELEASE);
    fs::create_dir(&source).unwrap();
    (source, node.inline("p", &[("volume", "data"), ("subPath", RELEASE), ("propagation", propagation)]))
}

#[test]
fn a_directory_that_was_moved_away_and_replaced_is_given_to_the_pods() {
    in_namespace(|| {
        let node = Node::start();
        let (source, pod) = release(&node, "HostToContainer");
        node.publish(&pod).unwrap();
        let container = Container::start(&node.target("p"), "rslave");
        for name in ["old", "older"] {
            replace(&node, &source, Some(name));
            container.sees(&source);
            assert_eq!((layers(&node.target("p")), container.mounts()), (2, 2));
        }
        // The one that lies on top is deleted: the lowest still leads to the container.
        replace(&node, &source, None);
        container.sees(&source);
        assert_eq!((layers(&node.target("p")), container.mounts()), (2, 2));
        node.unpublish_again(&pod);
        assert!(source.exists() && node.root.join("data/old").exists());
    });
}

#[test]
fn a_directory_that_was_deleted_is_given_to_the_containers_that_start_and_by_entering_to_those_that_run() {
    in_namespace(|| {
        let node = Node::start();
        let (source, pod) = release(&node, "HostToContainer");
        node.publish(&pod).unwrap();
        let container = Container::start(&node.target("p"), "rslave");
        // The kernel mounts nothing on a deleted directory.
        replace(&node, &source, None);
        let next = || Container::start(&node.target("p"), "rslave");
        eventually("the target is replaced", || node.log().contains("healed: running pods"));
        next().sees(&source);
        assert!(fs::metadata(container.volume()).is_ok_and(|found| std::os::unix::fs::MetadataExt::nlink(&found) == 0));
        // Now also those that run: the last one that was given what is deleted next.
        set_heal(&node, "Containers");
        let container = next();
        replace(&node, &source, None);
        container.sees(&source);
        eventually("one layer", || (layers(&node.target("p")), container.mounts()) == (1, 1));
        // And it is a slave of the source as before.
        tmpfs(&source.join("later"));
        eventually("a later mount crosses", || container.mounts() == 2);
        unmount(&source.join("later"));
        eventually("and goes", || container.mounts() == 1);
        node.unpublish_again(&pod);
    });
}

#[test]
fn private_containers_are_entered_where_the_entry_allows_it() {
    in_namespace(|| {
        let node = Node::start();
        set_heal(&node, "Containers");
        let Some(mut daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let pod = node.inline("p", &[("volume", "data"), ("subPath", "fuse"), ("propagation", "None")]);
        node.publish(&pod).unwrap();
        let container = Container::start(&node.target("p"), "rprivate");
        // A container of another pod, and one that is no pod's, keep what they have.
        let other = node.inline("q", &[("volume", "data"), ("subPath", "fuse"), ("propagation", "None")]);
        node.publish(&other).unwrap();
        let both = Container::start(&node.target("q"), "rprivate");
        for _ in 0..5 {
            daemon = daemon.restart();
            container.sees(&daemon.at);
            both.sees(&daemon.at);
            // The containers come first.
            eventually("one layer", || (layers(&node.target("p")), container.mounts()) == (1, 1));
        }
        tmpfs(&daemon.at.parent().unwrap().join("sub"));
        assert_eq!(container.mounts(), 1, "it is private");
        drop((container, both));
        [pod, other].iter().for_each(|pod| node.unpublish_again(pod));
        assert!(fs::metadata(&daemon.at).is_ok());
    });
}

#[test]
fn a_source_that_dies_again_while_it_is_healed_leaves_nobody_behind() {
    in_namespace(|| {
        let node = Node::start();
        set_heal(&node, "Containers");
        let Some(mut daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let volumes = ["None", "HostToContainer"].map(|propagation| {
            let pod = propagation.to_lowercase();
            let pod = node.inline(&pod, &[("volume", "data"), ("subPath", "fuse"), ("propagation", propagation)]);
            node.publish(&pod).unwrap();
            pod
        });
        let private = Container::start(&node.target("none"), "rprivate");
        let slave = Container::start(&node.target("hosttocontainer"), "rslave");
        for pause in 20..60 {
            daemon = daemon.restart();
            // Heals begin about 30 ms after the mount, and last for some.
            std::thread::sleep(Duration::from_millis(pause));
        }
        [&private, &slave].iter().for_each(|container| container.sees(&daemon.at));
        eventually("one layer", || (layers(&node.target("none")), private.mounts()) == (1, 1));
        drop((private, slave));
        volumes.iter().for_each(|pod| node.unpublish_again(pod));
        assert!(fs::metadata(&daemon.at).is_ok());
    });
}

#[test]
fn a_container_of_nobody_keeps_what_is_stale() {
    in_namespace(|| {
        let node = Node::start();
        set_heal(&node, "Containers");
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let pod = node.inline("p", &[("volume", "data"), ("subPath", "fuse"), ("propagation", "None")]);
        node.publish(&pod).unwrap();
        let stranger = Container::start_as_stranger(&node.target("p"), "rprivate");
        let daemon = daemon.restart();
        eventually("the target is healed", || node.log().contains("healed: running pods"));
        assert!(fs::metadata(stranger.volume()).is_err());
        drop(stranger);
        node.unpublish_again(&pod);
        drop(daemon);
    });
}

#[test]
fn peers_are_healed_through_the_source_or_all_together() {
    in_namespace(|| {
        let node = Node::start();
        let Some(daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let attributes = [("volume", "data"), ("subPath", "fuse"), ("propagation", "Bidirectional")];
        let pods: Vec<_> = ["p", "q"].map(|pod| node.inline(pod, &attributes)).into();
        pods.iter().for_each(|pod| node.publish(pod).unwrap());
        let containers = ["p", "q"].map(|pod| Container::start(&node.target(pod), "rshared"));
        // The dead one is still mounted: the new one covers it, and reaches the peers of it without our doing.
        let at = daemon.die();
        let daemon = Daemon::start(&at).unwrap();
        containers.iter().for_each(|c| c.sees(&at));
        // All of it is unmounted on the node, and mounted anew.
        let at = daemon.die();
        unmount(&at);
        unmount(&at);
        let daemon = Daemon::start(&at).unwrap();
        containers.iter().for_each(|c| c.sees(&at));
        assert_eq!(mounts_beneath(&node.root.join("data")), [at.as_path()]);
        // The two share what they were healed with, so that unpublishing one takes it from the other; which gets it again.
        node.unpublish_again(&pods[0]);
        containers[1].sees(&daemon.at);
        node.unpublish_again(&pods[1]);
        assert!(fs::metadata(&daemon.at).is_ok());
        assert_eq!(mounts_beneath(&node.root.join("data")), [daemon.at.as_path()]);
    });
}

#[test]
fn what_is_not_to_be_healed_is_not() {
    in_namespace(|| {
        let node = Node::start();
        set_heal(&node, "Off");
        let Some(mut daemon) = Daemon::start(&node.root.join("data/fuse")) else { return };
        let pod = node.inline("p", FUSE);
        node.publish(&pod).unwrap();
        let container = Container::start(&node.target("p"), "rslave");
        daemon = daemon.restart();
        std::thread::sleep(Duration::from_millis(700));
        assert!(fs::metadata(container.volume()).is_err());
        assert_eq!(layers(&node.target("p")), 1);
        node.unpublish_again(&pod);
        drop(daemon);
    });
}
