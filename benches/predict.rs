//! What a prediction over 100,000 mounts costs: building the forest from mount tables, and asking it.
//!
//! `cargo bench --bench predict`. The machine is made up: a node and 199 namespaces of 500 mounts each, once as slaves of
//! the node's, as containers with `rslave` are, and once as peers of it. No figure fails the run; the target is printed
//! beside it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark")]

use std::path::Path;
use std::time::Instant;

use model::machine::{Machine, Namespace};
use model::subtrees::{Forest, Operation};
use mounts::mountinfo;
use mounts::propagation::{Propagation, PropagationKind};

const NAMESPACES: usize = 200;
const MOUNTS: usize = 500;
const ROUNDS: usize = 20;

#[derive(Debug, Clone, Copy)]
enum Copies {
    Slaves,
    Peers,
}

/// The tables as the kernel would print them; reading them is not counted.
fn machine(copies: Copies) -> Machine {
    let mut namespaces = Vec::new();
    for number in 0..NAMESPACES {
        let first = 1 + number * MOUNTS;
        let mut text = String::new();
        for index in 0..MOUNTS {
            let (id, parent) = (first + index, if index == 0 { 0 } else { first + index % 7 * usize::from(index > 7) });
            let point = match index {
                0 => "/".to_owned(),
                1..=7 => format!("/m{index}"),
                _ if index % 7 == 0 => {
                    format!("/var/lib/kubelet/pods/{index:036x}/volumes/kubernetes.io~csi/data/mount")
                }
                _ => format!("/m{}/lib/kubelet/pods/{index:036x}/volumes/kubernetes.io~csi/data/mount", index % 7),
            };
            let relation = match (number, copies) {
                (0, _) | (_, Copies::Peers) => format!("shared:{}", index + 1),
                (_, Copies::Slaves) => format!("master:{}", index + 1),
            };
            text += &format!("{id} {parent} 0:{} / {point} rw,relatime {relation} - tmpfs none rw\n", 100 + index);
        }
        namespaces.push(Namespace { table: mountinfo::parse(text.as_bytes()), ..Namespace::default() });
    }
    Machine { namespaces, left_out: Vec::new() }
}

/// Runs it several times; the best and the median in milliseconds.
fn timed<T>(mut what: impl FnMut() -> T) -> (f64, f64) {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(what());
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[0], times[ROUNDS / 2])
}

fn main() {
    println!("{NAMESPACES} namespaces of {MOUNTS} mounts; milliseconds, best and median of {ROUNDS}");
    println!("target of a prediction: 50");
    for copies in [Copies::Slaves, Copies::Peers] {
        let machine = machine(copies);
        let forest = Forest::of(&machine);
        let path = Path::new("/m3/lib/kubelet/new");
        let receivers = forest.receivers(0, path).unwrap().len();
        assert_eq!(receivers, NAMESPACES, "the mount is seen in each");
        let row = |what: &str, (best, median): (f64, f64)| println!("{copies:?}: {what:<44} {best:9.3} {median:9.3}");
        row("build the forest", timed(|| Forest::of(&machine)));
        row(&format!("predict a mount with {receivers} receivers"), timed(|| forest.receivers(0, path).unwrap()));
        let mut at = forest.clone();
        let mut device = 1_000_000;
        let mut mount = || {
            device += 1;
            at.apply(0, &Operation::Mount { device: (0, device), at: path.into() }).unwrap()
        };
        row("the model makes that mount", timed(&mut mount));
        let mut unmount = || at.apply(0, &Operation::Unmount { at: path.into(), lazy: true });
        row("the model takes it away", timed(&mut unmount));
        let slave = Propagation::new(PropagationKind::Slave, true);
        row(
            "the model makes 500 mounts slaves",
            timed(|| at.apply(1, &Operation::Change { at: "/".into(), to: slave })),
        );
    }
    let one = machine_of_one_group();
    let forest = Forest::of(&one);
    let path = Path::new("/new");
    let (best, median) = timed(|| forest.receivers(0, path).unwrap());
    println!(
        "One group of all: predict a mount with {} receivers {best:9.3} {median:9.3}",
        forest.receivers(0, path).unwrap().len()
    );
}

/// The worst that there can be: 100,000 mounts, and each receives.
fn machine_of_one_group() -> Machine {
    let mut text = String::from("1 0 0:1 / / rw shared:1 - tmpfs none rw\n");
    for id in 2..=NAMESPACES * MOUNTS {
        text += &format!("{id} 1 0:1 / /m{id} rw shared:1 - tmpfs none rw\n");
    }
    let namespace = Namespace { table: mountinfo::parse(text.as_bytes()), ..Namespace::default() };
    Machine { namespaces: vec![namespace], left_out: Vec::new() }
}
