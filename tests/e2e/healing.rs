//! Running pods get a source again that went away and came back, in the containers of the real runtime.

use std::time::{Duration, Instant};

use crate::cluster::{Place, ROOT, apply, field, node, until};
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

#[track_caller]
fn restarts(place: &Place, pod: &str) -> String {
    field(&["pod", pod, "--namespace", &place.namespace], ".status.containerStatuses[0].restartCount")
}

#[test]
fn a_source_that_is_mounted_anew_is_given_to_running_pods() {
    let place = Place::new("anew");
    node(&format!("mkdir -p {ROOT}/entered/anew"));
    place.mount("source");
    node(&format!("mount -t tmpfs e2e {ROOT}/entered/anew"));
    let sub_path = format!("{}/source", place.sub_path());
    apply(&[
        simple(&place, "slave", &inline("data", &sub_path), "HostToContainer"),
        simple(&place, "shared", &inline("data", &sub_path), "Bidirectional"),
        simple(&place, "none", &inline("data", &sub_path), "None"),
        simple(&place, "entered", &inline("entered", "anew"), "None"),
    ]);
    let pods = ["slave", "shared", "none", "entered"];
    pods.iter().for_each(|pod| place.wait_ready(pod));
    for round in ["one", "two"] {
        for at in [format!("{}/source", place.folder()), format!("{ROOT}/entered/anew")] {
            node(&format!("umount -l {at} && mount -t tmpfs e2e {at} && touch {at}/{round}"));
        }
        for pod in ["slave", "shared", "entered"] {
            println!("{pod}: healed within {:?}, kubectl included", until_seen(&place, pod, round));
            assert_eq!(restarts(&place, pod), "0");
        }
        let private = place.exec("none", "c", &format!("ls /data/{round}")).unwrap_err();
        assert!(private.contains("No such file"), "its entry does not allow to enter its container: {private}");
    }
    // What they have is live in every way.
    node(&format!(
        "mkdir {0}/source/late && mount -t tmpfs e2e {0}/source/late && touch {0}/source/late/x",
        place.folder()
    ));
    assert!(place.sees("slave", "c", "late") && place.sees("shared", "c", "late"));
    place.exec("shared", "c", "mkdir /data/mine && mount -t tmpfs mine /data/mine && touch /data/mine/x").unwrap();
    assert!(place.sees("slave", "c", "mine"), "from one pod over the node to the other");
    place.delete(&pods);
    assert_eq!(node(&format!("ls {}/source/late", place.folder())), "x\n");
    node(&format!("umount {0}/source/late {0}/source/mine; umount {ROOT}/entered/anew", place.folder()));
    place.finish();
}

#[test]
fn a_deleted_directory_is_told_to_its_pod_and_given_back() {
    let place = Place::new("deleted");
    let at = format!("{ROOT}/entered/deleted");
    node(&format!("mkdir -p {at}"));
    apply(&[simple(&place, "p", &inline("entered", "deleted"), "HostToContainer")]);
    place.wait_ready("p");
    node(&format!("rmdir {at}"));
    place.until_described("p", &["SourceDeleted", "the directory was deleted on the node"]);
    node(&format!("mkdir {at} && touch {at}/back"));
    until_seen(&place, "p", "back");
    place.until_described("p", &["SourceBack"]);
    assert_eq!(restarts(&place, "p"), "0");
    place.finish();
}
