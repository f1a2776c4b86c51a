//! The model of shared subtrees against the kernel: random sequences of operations in several namespaces, on both, and
//! after each step both must have the same mounts at the same places, connected in the same way.
//!
//! `HOSTMOUNT_SEED` repeats a run, `HOSTMOUNT_SEQUENCES` sets the number of sequences. A difference is shrunk to a
//! sequence of which no step can be left out, and printed as commands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

#[path = "../kernel/mod.rs"]
mod kernel;
mod kernel_side;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::kernel::namespace::{MountNamespace, Proc};
use kernel::{Random, in_namespace};
use kernel_side::{DIRS, Kernel, pristine, seen};
use model::machine::Machine;
use model::subtrees::{Forest, Operation, Stop, VisibleMount};
use mounts::mountinfo::Mount;
use mounts::propagation::{Propagation, PropagationKind};

const SEQUENCES: usize = 3000;
/// On a machine that does other things as well, as many sequences as go into this time; but at least so many.
const TIME: Duration = Duration::from_secs(50);
const AT_LEAST: usize = 2000;
const STEPS: usize = 16;
const NAMESPACES: usize = 4;
/// With more mounts in all namespaces, no further ones are made.
const MOUNTS: usize = 50;

/// An operation, and the slot of the namespace in which it is ordered.
#[derive(Debug, Clone)]
struct Step {
    slot: usize,
    operation: Operation,
}

/// How often what happened.
#[derive(Debug, Default)]
struct Tally {
    steps: usize,
    refused: usize,
    unknown: usize,
    predictions: usize,
    /// Predictions from tables that said that they may not be all.
    doubted: usize,
    receivers: usize,
    by_kind: HashMap<&'static str, (usize, usize)>,
}

struct Pair {
    kernel: Kernel,
    /// The kernel's tables after the last step.
    tables: Machine,
    model: Forest,
    devices: u32,
}

impl Pair {
    fn new(proc: &Arc<Proc>, pristine: &MountNamespace) -> Self {
        let kernel = Kernel::new(proc, pristine);
        let tables = kernel.machine();
        let mut model = Forest::of(&tables);
        // A root that took the place of one which was inherited from another user namespace is locked as that was.
        model.vouch(0, 1, true);
        Self { kernel, tables, model, devices: 0 }
    }

    /// Does it on both. `Ok(false)`: the model doesn't know, so that nothing further can be compared.
    fn step(&mut self, step: &Step, tally: &mut Tally) -> Result<bool, String> {
        if !self.kernel.namespaces().contains(&step.slot) || !self.kernel.is_there(step.slot, &step.operation) {
            return Ok(true);
        }
        // Binding a shared tree into itself a few times ends at fs.mount-max, 100,000.
        let grows = !matches!(step.operation, Operation::Unmount { .. } | Operation::Change { .. } | Operation::End);
        if grows && mounts(&self.tables).count() > MOUNTS {
            return Ok(true);
        }
        tally.steps += 1;
        let predicted = match &step.operation {
            Operation::Mount { at, .. } => {
                Some((predict(&self.tables, step.slot, at), self.model.receivers(step.slot, at)))
            }
            _ => None,
        };
        let modelled = self.model.apply(step.slot, &step.operation);
        let happened = self.kernel.apply(step.slot, &step.operation);
        let kind = tally.by_kind.entry(name(&step.operation)).or_default();
        kind.0 += 1;
        match (&modelled, &happened) {
            (Err(Stop::Unknown(_)), _) => {
                tally.unknown += 1;
                return Ok(false);
            }
            (Ok(_), Ok(())) => {}
            (Err(Stop::Refused(expected)), Err(errno)) if expected == errno => {
                tally.refused += 1;
                kind.1 += 1;
            }
            _ => return Err(format!("the model says {modelled:?}, the kernel {happened:?}")),
        }
        let before = std::mem::replace(&mut self.tables, self.kernel.machine());
        let (theirs, ours) = (self.kernel_tables(), self.model_tables());
        if theirs != ours {
            let mut text = String::new();
            let (kernel, model): (BTreeSet<_>, BTreeSet<_>) = (theirs.lines().collect(), ours.lines().collect());
            for line in kernel.difference(&model) {
                writeln!(text, "  kernel only: {line}").unwrap();
            }
            for line in model.difference(&kernel) {
                writeln!(text, "  model only:  {line}").unwrap();
            }
            return Err(format!("after it:\n{text}kernel:\n{theirs}model:\n{ours}"));
        }
        if let (Some((of_tables, of_model)), Ok(())) = (predicted, &happened) {
            let arrived = self.arrived(&before);
            tally.predictions += 1;
            tally.receivers += arrived.len();
            tally.doubted += usize::from(!of_tables.1);
            let holds = if of_tables.1 { of_tables.0 == arrived } else { of_tables.0.is_subset(&arrived) };
            if !holds {
                return Err(format!("receivers said {of_tables:?}, it arrived at {arrived:?}"));
            }
            // The model has seen everything happen and has no excuse. Its mounts have other ids than the kernel's.
            let places: BTreeSet<_> = arrived.into_iter().map(|(slot, _, place)| (slot, place)).collect();
            let said = of_model.map(|all| all.into_iter().map(|r| (r.namespace, r.place)).collect::<BTreeSet<_>>());
            if said.as_ref() != Ok(&places) {
                return Err(format!("the model's receivers are {said:?}, it arrived at {places:?}"));
            }
        }
        Ok(true)
    }

    /// Where a file system is mounted that wasn't anywhere before.
    fn arrived(&self, before: &Machine) -> BTreeSet<(usize, u64, PathBuf)> {
        let known: BTreeSet<_> = mounts(before).map(|(_, m)| m.device).collect();
        mounts(&self.tables)
            .filter(|(_, m)| !known.contains(&m.device))
            .map(|(slot, m)| (slot, m.parent, m.mount_point.clone()))
            .collect()
    }

    fn kernel_tables(&self) -> String {
        let slots = self.kernel.namespaces();
        canonical(slots.into_iter().map(|slot| (slot, seen(&self.tables.namespaces[slot].table))))
    }

    fn model_tables(&self) -> String {
        canonical(self.kernel.namespaces().into_iter().map(|slot| (slot, self.model.visible_mounts(slot))))
    }
}

fn mounts(machine: &Machine) -> impl Iterator<Item = (usize, &Mount)> {
    machine.namespaces.iter().enumerate().flat_map(|(slot, n)| n.table.mounts.iter().map(move |m| (slot, m)))
}

/// Who will see a mount at a path, from a look at the kernel's tables alone: namespace, mount that receives it, place.
/// And whether that is all: mounts may receive from a group of which the only members are in a detached tree, which is in
/// no table.
fn predict(machine: &Machine, slot: usize, at: &Path) -> (BTreeSet<(usize, u64, PathBuf)>, bool) {
    let (receivers, all) = match Forest::of(machine).receivers(slot, at) {
        Ok(receivers) => (receivers, true),
        Err(unknown) => (unknown.known, false),
    };
    assert!(receivers[0].via.is_empty() && receivers[1..].iter().all(|r| !r.via.is_empty()));
    let named: BTreeSet<_> = receivers.iter().map(|r| (r.namespace, r.mount, r.place.clone())).collect();
    assert_eq!(named.len(), receivers.len(), "a receiver is named once");
    (named, all)
}

fn name(operation: &Operation) -> &'static str {
    match operation {
        Operation::Mount { .. } => "mount",
        Operation::Bind { recursive: false, .. } => "bind",
        Operation::Bind { .. } => "rbind",
        Operation::Move { .. } => "move",
        Operation::Unmount { lazy: false, .. } => "umount",
        Operation::Unmount { .. } => "umount -l",
        Operation::Change { .. } => "make",
        Operation::Unshare { user: false, .. } => "unshare",
        Operation::Unshare { .. } => "unshare --user",
        Operation::PivotRoot { .. } => "pivot_root",
        Operation::OpenTree { .. } => "open_tree",
        Operation::Attach { .. } => "move_mount",
        Operation::Close { .. } => "close",
        Operation::End => "end",
    }
}

/// The tables as text in which equal trees are equal: a mount is named by the places on the way to it from the root,
/// which no two mounts have in common; file systems and groups by the order in which they appear.
fn canonical(tables: impl Iterator<Item = (usize, Vec<VisibleMount>)>) -> String {
    let mut rows: Vec<(usize, Vec<PathBuf>, VisibleMount)> = Vec::new();
    for (slot, table) in tables {
        let by_id: HashMap<u64, &VisibleMount> = table.iter().map(|m| (m.id, m)).collect();
        for mount in &table {
            let mut way = vec![mount.mount_point.clone()];
            let mut at = mount;
            while let Some(parent) = at.parent {
                at = by_id[&parent];
                way.push(at.mount_point.clone());
            }
            way.reverse();
            rows.push((slot, way, mount.clone()));
        }
    }
    rows.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let mut systems: HashMap<usize, usize> = HashMap::new();
    let mut groups: HashMap<u64, usize> = HashMap::new();
    let mut text = String::new();
    for (slot, way, mount) in rows {
        let next = systems.len();
        let system = *systems.entry(mount.file_system).or_insert(next);
        let mut group = |number: Option<u64>| match number {
            Some(number) => {
                let next = groups.len();
                groups.entry(number).or_insert(next).to_string()
            }
            None => "-".to_owned(),
        };
        let (peers, master) = (group(mount.propagation.peer_group), group(mount.propagation.master));
        let unbindable = if mount.propagation.unbindable { " unbindable" } else { "" };
        let way: Vec<_> = way.iter().map(|p| p.display().to_string()).collect();
        writeln!(
            text,
            "{slot} {} fs{system}:{} shared:{peers} master:{master}{unbindable}",
            way.join(">"),
            mount.root.display()
        )
        .unwrap();
    }
    text
}

/// How a sequence begins, last step first, so that there is something to go wrong: all shared and more namespaces; a
/// chain of slaves that are shared; or a tree of mounts that another user namespace has got locked.
fn beginning(random: &mut Random) -> Vec<Step> {
    let kinds = [None, None, Some(PropagationKind::Shared), Some(PropagationKind::Slave)];
    let unshare = |slot, propagation, user| Step { slot, operation: Operation::Unshare { propagation, user } };
    let shared = |slot| {
        let to = Propagation::new(PropagationKind::Shared, true);
        Step { slot, operation: Operation::Change { at: "/".into(), to } }
    };
    let mount = |slot, at: &str| Step { slot, operation: Operation::Mount { device: (0, 2_000_000), at: at.into() } };
    let slave = Some(PropagationKind::Slave);
    let mut steps = match random.below(8) {
        0 => Vec::new(),
        1..5 => vec![
            shared(0),
            unshare(0, random.pick(&kinds), false),
            unshare(random.below(2), random.pick(&kinds), false),
        ],
        5 | 6 => vec![
            shared(0),
            unshare(0, slave, false),
            shared(1),
            unshare(1, slave, false),
            shared(2),
            unshare(2, slave, false),
        ],
        _ => {
            let (outer, inner) = random.pick(&[("/a", "/a/b"), ("/b", "/b/a")]);
            let bound = Operation::Bind { from: outer.into(), to: "/b/b".into(), recursive: true };
            vec![
                shared(0),
                mount(0, outer),
                Step { slot: 0, operation: Operation::Mount { device: (0, 2_000_001), at: inner.into() } },
                unshare(0, random.pick(&kinds), true),
                Step { slot: random.below(2), operation: bound },
            ]
        }
    };
    steps.reverse();
    steps
}

/// A step that may be worth while, in what there is now.
fn invent(random: &mut Random, pair: &Pair) -> Step {
    let slots = pair.kernel.namespaces();
    let slot = random.pick(&slots);
    let table = &pair.tables.namespaces[slot].table;
    let mut mounts: Vec<PathBuf> = table
        .mounts
        .iter()
        .map(|m| m.mount_point.clone())
        .filter(|p| p != Path::new("/") && !p.starts_with("/usr"))
        .collect();
    mounts.sort();
    let any = |random: &mut Random| Path::new("/").join(random.pick(&DIRS));
    // Mostly near the root, where the others are.
    let near = |random: &mut Random| Path::new("/").join(random.pick(&DIRS[..6]));
    let mounted = |random: &mut Random| {
        if mounts.is_empty() || random.below(12) == 0 {
            near(random)
        } else {
            mounts[random.below(mounts.len())].clone()
        }
    };
    let trees = pair.kernel.trees();
    let kind = random.below(100);
    let operation = match kind {
        0..16 => Operation::Mount {
            device: (0, 1_000_000 + pair.devices),
            at: if random.below(3) == 0 { any(random) } else { near(random) },
        },
        16..36 => {
            let from = match random.below(4) {
                0 => any(random),
                1 => PathBuf::from("/"),
                _ => mounted(random),
            };
            Operation::Bind { from, to: near(random), recursive: random.below(2) == 0 }
        }
        36..43 => Operation::Move { from: mounted(random), to: near(random) },
        43..58 => Operation::Unmount { at: mounted(random), lazy: random.below(2) == 0 },
        58..78 => {
            let at = if random.below(5) == 0 { "/".into() } else { mounted(random) };
            let kinds =
                [PropagationKind::Shared, PropagationKind::Shared, PropagationKind::Slave, PropagationKind::Private];
            let kind = if random.below(10) == 0 { PropagationKind::Unbindable } else { random.pick(&kinds) };
            Operation::Change { at, to: Propagation::new(kind, random.below(2) == 0) }
        }
        78..86 if slots.len() < NAMESPACES => {
            let kinds =
                [None, Some(PropagationKind::Private), Some(PropagationKind::Shared), Some(PropagationKind::Slave)];
            Operation::Unshare { propagation: random.pick(&kinds), user: random.below(6) == 0 }
        }
        86..89 => {
            let new_root = mounted(random);
            let put_old = if random.below(4) == 0 { any(random) } else { new_root.join(random.pick(&["a", "b", ""])) };
            Operation::PivotRoot { new_root, put_old }
        }
        89..93 => {
            let from = if random.below(3) == 0 { any(random) } else { mounted(random) };
            Operation::OpenTree { from, recursive: random.below(2) == 0 }
        }
        93..98 if !trees.is_empty() => Operation::Attach { tree: random.pick(&trees), to: near(random) },
        98 if !trees.is_empty() => Operation::Close { tree: random.pick(&trees) },
        99 => Operation::End,
        _ => Operation::Mount { device: (0, 1_000_000 + pair.devices), at: near(random) },
    };
    Step { slot, operation }
}

/// Runs given steps; the difference and the number of steps done, if there is one.
fn replay(proc: &Arc<Proc>, pristine: &MountNamespace, steps: &[Step]) -> Option<(usize, String)> {
    let mut pair = Pair::new(proc, pristine);
    let mut tally = Tally::default();
    for (index, step) in steps.iter().enumerate() {
        match pair.step(step, &mut tally) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(difference) => return Some((index, difference)),
        }
    }
    None
}

/// Leaves out steps as long as a difference remains.
fn shrink(proc: &Arc<Proc>, pristine: &MountNamespace, mut steps: Vec<Step>) -> (Vec<Step>, String) {
    let (last, mut difference) = replay(proc, pristine, &steps).expect("a difference that comes again");
    steps.truncate(last + 1);
    let mut again = true;
    while again {
        again = false;
        for index in (0..steps.len()).rev() {
            let mut fewer = steps.clone();
            fewer.remove(index);
            // What a step makes is named by its number: leaving out one that makes something needs the rest renamed.
            if let Some((last, found)) = replay(proc, pristine, &fewer) {
                fewer.truncate(last + 1);
                (steps, difference) = (fewer, found);
                again = true;
                break;
            }
        }
    }
    (steps, difference)
}

/// The steps as commands for a shell that runs as root in a user and mount namespace of its own.
fn script(steps: &[Step]) -> String {
    let mut text = String::from(
        "#!/bin/bash\n# unshare --user --map-root-user --mount --propagation private bash THIS\n\
         fresh() { mount -t tmpfs none $1 && mkdir -p $1/{a,b}/{a,b}/{a,b}; }\n\
         fresh /tmp; mkdir /tmp/usr; mount --rbind /usr /tmp/usr; ln -s usr/bin usr/lib usr/lib64 /tmp\n\
         cd /tmp; pivot_root . a; umount -l /a; N0=$$\n",
    );
    let mut made = 1;
    for step in steps {
        let within = format!("nsenter --mount=/proc/$N{}/ns/mnt ", step.slot);
        match &step.operation {
            Operation::Unshare { .. } => {
                writeln!(text, "{within}{} sleep inf & N{made}=$!", step.operation).unwrap();
                made += 1;
            }
            Operation::Mount { at, .. } => writeln!(text, "{within}bash -c 'fresh {}'", at.display()).unwrap(),
            Operation::OpenTree { .. } => {
                writeln!(text, "# tree {made} = {} in N{}", step.operation, step.slot).unwrap();
                made += 1;
            }
            Operation::Attach { .. } | Operation::Close { .. } => {
                writeln!(text, "# {} in N{}", step.operation, step.slot).unwrap();
            }
            Operation::End => writeln!(text, "kill $N{}", step.slot).unwrap(),
            other => writeln!(text, "{within}{other}").unwrap(),
        }
    }
    text
}

fn sequences() -> usize {
    std::env::var("HOSTMOUNT_SEQUENCES").ok().and_then(|s| s.parse().ok()).unwrap_or(SEQUENCES)
}

#[test]
fn random_sequences_go_as_on_the_kernel() {
    in_namespace("random_sequences_go_as_on_the_kernel", || {
        let seed = Random::seed();
        println!("HOSTMOUNT_SEED={seed}");
        let (proc, pristine) = pristine();
        let start = Instant::now();
        let wanted = sequences();
        let mut tally = Tally::default();
        let mut number = 0;
        while number < wanted && (number < AT_LEAST || start.elapsed() < TIME) {
            let mut random =
                Random(seed.wrapping_add(u64::try_from(number).unwrap().wrapping_mul(0x1234_5678_9ABC_DEF1)));
            let mut pair = Pair::new(&proc, &pristine);
            let mut steps = Vec::new();
            let mut begin = beginning(&mut random);
            number += 1;
            for _ in 0..STEPS {
                steps.push(begin.pop().unwrap_or_else(|| invent(&mut random, &pair)));
                pair.devices += 1;
                match pair.step(steps.last().unwrap(), &mut tally) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(_) => {
                        drop(pair);
                        let (steps, difference) = shrink(&proc, &pristine, steps);
                        panic!("sequence {number}: {difference}\n{}", script(&steps));
                    }
                }
            }
        }
        let mut kinds: Vec<_> = tally.by_kind.iter().collect();
        kinds.sort();
        println!(
            "{} sequences, {} steps ({} refused by both), {} unknown, {} predictions ({} doubted) with {} receivers, {:.1} s",
            number,
            tally.steps,
            tally.refused,
            tally.unknown,
            tally.predictions,
            tally.doubted,
            tally.receivers,
            start.elapsed().as_secs_f64()
        );
        for (kind, (all, refused)) in kinds {
            println!("  {kind}: {all}, {refused} refused");
        }
        assert!(
            tally.doubted * 50 <= tally.predictions,
            "tables may not suffice for one prediction in 50, not {tally:?}"
        );
        assert!(tally.unknown * 200 <= tally.steps, "the model may not know one step in 200, not {tally:?}");
    });
}
