//! Running pods get a source again that went away and came back, in the containers of the real runtime.

use std::time::{Duration, Instant};

use crate::cluster::{Place, ROOT, SYSTEM, apply, field, kubectl, node, plugin_pod, until};
use crate::pods::{inline, simple};

/// Waits until a container sees a file of its volume. How long it took.
#[track_caller]
fn until_seen(place: &Place, pod: &str, file: &str) -> Duration {
    let begun = Instant::now();
    until(&format!("{pod} sees {file}"), Duration::from_secs(60), || {
        place.exec(pod, "c", &format!("ls /data/{file}")).map(drop)
    });
    begun.elapsed()
}

/// Waits until the plugin has noted what is mounted on the way to the pod's source: before it has, nothing of another mount is
/// given.
#[track_caller]
fn until_noted(place: &Place, pod: &str) {
    let name = format!("{}/{pod}/data", place.namespace);
    until(&format!("the way to the source of {pod} is noted"), Duration::from_secs(60), || {
        let of = ["exec", "--namespace", SYSTEM, &plugin_pod(), "--"];
        let volumes = kubectl(&[&of[..], &["/hostmount", "volumes", "inspect", &name]].concat());
        if volumes.contains("\"PathMountsNoted\": true") { Ok(()) } else { Err(volumes) }
    });
}

#[track_caller]
fn has(place: &Place, pod: &str, file: &str) -> bool {
    let answer = place.exec(pod, "c", &format!("if [ -e /data/{file} ]; then echo yes; else echo no; fi"));
    answer.unwrap_or_else(|e| panic!("{e}")).trim() == "yes"
}

#[track_caller]
fn restarts(place: &Place, pod: &str) -> String {
    field(&["pod", pod, "--namespace", &place.namespace], ".status.containerStatuses[0].restartCount")
}

/// Ends a container; the kubelet starts it again in the same pod.
#[track_caller]
fn restart(place: &Place, pod: &str) {
    let before = restarts(place, pod);
    // The shell that it is carries this command, too: what comes of it says nothing.
    let _ = place.exec(pod, "c", "kill 1");
    until(&format!("{pod} is started again"), Duration::from_secs(120), || {
        if restarts(place, pod) == before { Err(before.clone()) } else { Ok(()) }
    });
    place.wait_ready(pod);
}

#[test]
fn a_source_that_is_mounted_anew_is_given_to_running_pods() {
    let place = Place::new("anew");
    place.mount("source");
    let sub_path = format!("{}/source", place.sub_path());
    let at = format!("{}/source", place.folder());
    apply(&[
        simple(&place, "slave", &inline("data", &sub_path), "HostToContainer"),
        simple(&place, "shared", &inline("data", &sub_path), "Bidirectional"),
        simple(&place, "none", &inline("data", &sub_path), "None"),
    ]);
    let pods = ["slave", "shared", "none"];
    pods.iter().for_each(|pod| place.wait_ready(pod));
    pods.iter().for_each(|pod| until_noted(&place, pod));
    for round in ["one", "two"] {
        node(&format!("umount -l {at} && mount -t tmpfs e2e {at} && touch {at}/{round}"));
        for pod in ["slave", "shared"] {
            println!("{pod}: healed within {:?}, kubectl included", until_seen(&place, pod, round));
            assert_eq!(restarts(&place, pod), "0");
        }
        // No mount reaches a private container; its volume is renewed for the next one.
        place.until_described("none", &["VolumeRenewed", "must be restarted"]);
        let private = place.exec("none", "c", &format!("ls /data/{round}")).unwrap_err();
        assert!(private.contains("No such file"), "{private}");
        restart(&place, "none");
        assert!(has(&place, "none", round));
    }
    // What they have is live in every way.
    node(&format!("mkdir {at}/late && mount -t tmpfs e2e {at}/late && touch {at}/late/x"));
    assert!(place.sees("slave", "c", "late") && place.sees("shared", "c", "late"));
    place.exec("shared", "c", "mkdir /data/mine && mount -t tmpfs mine /data/mine && touch /data/mine/x").unwrap();
    assert!(place.sees("slave", "c", "mine"), "from one pod over the node to the other");
    place.delete(&pods);
    assert_eq!(node(&format!("ls {at}/late")), "x\n");
    node(&format!("umount {at}/late {at}/mine"));
    place.finish();
}

/// The container of a pod without propagation could not start for ever after its source had died and come back.
#[test]
fn a_container_without_propagation_starts_again_after_its_source_was_away() {
    let place = Place::new("away");
    place.mount("source");
    let (at, sub_path) = (format!("{}/source", place.folder()), format!("{}/source", place.sub_path()));
    apply(&[simple(&place, "p", &inline("data", &sub_path), "None")]);
    place.wait_ready("p");
    until_noted(&place, "p");
    node(&format!("umount -l {at} && mount -t tmpfs e2e {at} && touch {at}/back"));
    place.until_described("p", &["VolumeRenewed"]);
    restart(&place, "p");
    assert!(has(&place, "p", "back"));
    place.delete(&["p"]);
    place.finish();
}

#[test]
fn a_deleted_directory_is_told_to_its_pod_and_given_to_the_next_container() {
    let place = Place::new("deleted");
    let at = format!("{ROOT}/swapped");
    node(&format!("mkdir -p {at}"));
    apply(&[simple(&place, "p", &inline("swapped", ""), "HostToContainer")]);
    place.wait_ready("p");
    node(&format!("rmdir {at}"));
    place.until_described("p", &["SourceDeleted", "the directory was deleted on the node"]);
    node(&format!("mkdir {at} && touch {at}/back"));
    place.until_described("p", &["VolumeRenewed", "must be restarted"]);
    restart(&place, "p");
    assert!(has(&place, "p", "back"));
    place.delete(&["p"]);
    node(&format!("rm {at}/back"));
    place.finish();
}

/// A tenant with the directory above moves another's directory away and puts one of its own there.
#[test]
fn a_directory_that_a_tenant_has_put_in_the_place_of_anothers_is_told_and_not_given() {
    let place = Place::new("tenant");
    node(&format!("mkdir -p {0}/b && chmod 700 {0}/b && touch {0}/b/mine", place.folder()));
    let b = format!("{}/b", place.sub_path());
    apply(&[
        simple(&place, "a", &inline("data", place.sub_path()), "HostToContainer"),
        simple(&place, "b", &inline("data", &b), "HostToContainer"),
    ]);
    let pods = ["a", "b"];
    pods.iter().for_each(|pod| place.wait_ready(pod));
    place.exec("a", "c", "mv /data/b /data/old && mkdir /data/b && touch /data/b/trap").unwrap();
    place.until_described("b", &["SourceReplaced"]);
    assert!(has(&place, "b", "mine") && !has(&place, "b", "trap"));
    place.delete(&pods);
    place.finish();
}
