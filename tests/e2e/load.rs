//! As many pods as a node has, at once.

use std::time::{Duration, Instant};

use crate::cluster::{Place, apply, field, kubectl, node, try_kubectl, until, until_nothing_is_mounted, volume_mounts};
use crate::hands::the_node;
use crate::pods::{inline, simple};

/// What the kubelet allows by default.
const PODS: usize = 110;

/// Threads, open descriptors and resident KiB.
fn held_by_plugin() -> (u64, u64, u64) {
    let said = node(
        "p=$(pidof hostmount); grep -E '^(Threads|VmRSS):' /proc/$p/status | tr -dc '0-9\\n'; ls /proc/$p/fd | wc -l",
    );
    let numbers: Vec<u64> = said.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let [resident, threads, descriptors] = numbers[..] else { panic!("{said}") };
    (threads, descriptors, resident)
}

#[test]
fn a_full_node_of_pods_starts_and_stops_at_once() {
    let place = Place::new("full");
    place.mount("nested");
    let allowed: usize = field(&["node", the_node()], ".status.allocatable.pods").parse().unwrap();
    let here = format!("--field-selector=spec.nodeName={}", the_node());
    let running = kubectl(&["get", "pods", "--all-namespaces", "--output=name", &here]).lines().count();
    let count = PODS.min(allowed - running);
    let volume = inline("data", place.sub_path());
    let propagation = ["None", "HostToContainer", "Bidirectional"];
    let pods: Vec<_> =
        (0..count).map(|n| simple(&place, &format!("p{n}"), &volume, propagation[n % propagation.len()])).collect();
    let before = node("cat /proc/self/mountinfo").lines().filter(|line| line.contains("hostmount-e2e")).count();
    let idle = held_by_plugin();
    let mut figures = Vec::new();
    for round in 1..=2 {
        let begun = Instant::now();
        apply(&pods);
        let of = ["--namespace", place.namespace.as_str()];
        kubectl(&[&of[..], &["wait", "pod", "--all", "--for=condition=Ready", "--timeout=10m"]].concat());
        println!("round {round}: {count} pods ready after {:?}", begun.elapsed());
        assert_eq!(volume_mounts().len(), 2 * count, "a mount and the nested one for each");
        for n in 0..6 {
            assert!(place.sees(&format!("p{n}"), "c", "nested"), "p{n}");
        }
        place.mount("later");
        for n in 0..6 {
            assert_eq!(place.sees(&format!("p{n}"), "c", "later"), n % 3 > 0, "p{n}");
        }
        let begun = Instant::now();
        kubectl(&[&of[..], &["delete", "pod", "--all", "--wait=false"]].concat());
        until("all pods are gone", Duration::from_secs(600), || {
            let left = try_kubectl(&[&of[..], &["get", "pods", "--output=name"]].concat())?.lines().count();
            if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
        });
        println!("round {round}: gone after {:?}", begun.elapsed());
        until_nothing_is_mounted();
        place.unmount("later");
        figures.push(held_by_plugin());
    }
    println!("the plugin's threads, descriptors and KiB before, and after each round: {idle:?} {figures:?}");
    // Threads without work end after half a minute, and connections are just being closed: what stays is a leak.
    let mut now = figures[1];
    until("the plugin has as few threads and descriptors as before", Duration::from_secs(90), || {
        if now.0 <= idle.0 + 2 && now.1 <= idle.1 + 4 {
            return Ok(());
        }
        now = held_by_plugin();
        // One that is closed while they are listed makes ls fail.
        Err(format!("{idle:?}, now {now:?}, of {}", node("ls -l /proc/$(pidof hostmount)/fd 2>&1 || true")))
    });
    assert!(figures[1].2 <= 32 << 10, "more memory than the chart requests for it: {figures:?}");
    let after = node("cat /proc/self/mountinfo").lines().filter(|line| line.contains("hostmount-e2e")).count();
    assert_eq!(after, before, "the node's own mounts");
    place.finish();
}
