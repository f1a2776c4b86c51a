//! Random sequences of publish, unpublish, stage, unstage and heal on the real kernel, where any step fails with any
//! errno that it can give, or is the last one of a killed plugin; then the kubelet's retry comes.
//!
//! What must hold after each operation: every target shows what the model says, and the sources have what they had. What
//! must hold after each sequence: the mount table is the same, group by group, as after the same operations undisturbed;
//! and when all is unpublished, it is what it was before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod kernel;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use allowlist::config::AllowList;
use allowlist::names::{EntryName, Target, User};
use engine::mount_error::MountError;
use engine::staging_area::StagingArea;
use engine::{AttachJob, Context};
use kernel::killed::{self, Hook};
use kernel::{Node, Random, SourceKind, bind, files, in_namespace_both_ways, order, tmpfs, unmount};
use mounts::propagation::{MountPropagation, PropagationKind};
use mounts::{Errno, MountAttrs};
use plan::Step;
use plan::record::{Argument, Asked, Owner};
use service::heal::look::KnownVolumes;
use service::heal::mend;
use workers::gate::Gate;

const TARGETS: usize = 3;

/// What the calls behind a step can fail with: mkdir(2), mount(2), mount_setattr(2), move_mount(2), umount2(2), rmdir(2).
/// "Not mounted" and "no such name" are left out where they would be lies that the caller has to believe.
const fn errnos(step: Step) -> &'static [Errno] {
    use Errno::{
        EACCES, EAGAIN, EBUSY, EDQUOT, EINVAL, EIO, ELOOP, EMFILE, EMLINK, ENAMETOOLONG, ENFILE, ENOENT, ENOMEM,
        ENOSPC, ENOTCONN, ENOTDIR, ENOTEMPTY, EPERM, EROFS, ESTALE,
    };
    match step {
        Step::MakeTarget => &[EACCES, EDQUOT, EIO, EMLINK, ENOMEM, ENOSPC, EPERM, EROFS],
        Step::Bind(_) => &[
            EACCES,
            EBUSY,
            EINVAL,
            EIO,
            ELOOP,
            EMFILE,
            ENAMETOOLONG,
            ENFILE,
            ENOENT,
            ENOMEM,
            ENOSPC,
            ENOTCONN,
            ENOTDIR,
            EPERM,
            ESTALE,
        ],
        Step::Change(_) | Step::MakePrivate(_) => &[EACCES, EBUSY, EINVAL, EMFILE, ENFILE, ENOMEM, ENOSPC, EPERM],
        Step::Move | Step::MoveBeneath => {
            &[EACCES, EBUSY, EINVAL, ELOOP, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, ENOTDIR, EPERM]
        }
        Step::UnmountIdle(_) | Step::Detach(_) => &[EACCES, EAGAIN, EBUSY, EMFILE, ENOMEM, EPERM],
        Step::RemoveTarget => &[EACCES, EBUSY, EIO, ENOMEM, ENOTEMPTY, EPERM, EROFS],
        // All sources are there: tests/making.rs has those that are made.
        Step::Source(_) => &[],
    }
}

/// A source: one of the three mounts with nested ones, or the one that is a mount itself and comes back anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Kind(SourceKind),
    Leaf,
}

const SOURCES: [Source; 4] = [
    Source::Kind(SourceKind::Shared),
    Source::Kind(SourceKind::Private),
    Source::Kind(SourceKind::Slave),
    Source::Leaf,
];

impl Source {
    fn path(self, node: &Node) -> PathBuf {
        match self {
            Self::Kind(kind) => node.source(kind),
            Self::Leaf => node.base.join("leaf"),
        }
    }

    fn gives(self) -> &'static [MountPropagation] {
        match self {
            Self::Kind(kind) => kind.gives(),
            // Peers of a source that is mounted anew share their overlays: tests/heal.rs has them.
            Self::Leaf => &[MountPropagation::None, MountPropagation::HostToContainer],
        }
    }

    fn number(self) -> usize {
        SOURCES.iter().position(|&s| s == self).unwrap()
    }
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Publish {
        target: usize,
        source: Source,
        relation: MountPropagation,
    },
    Unpublish {
        target: usize,
    },
    Stage {
        source: Source,
    },
    Unstage {
        source: Source,
    },
    Heal {
        target: usize,
    },
    /// Not ours: the leaf is unmounted and mounted anew on the node.
    Renew,
}

/// As words, for the process that gets killed.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish { target, source, relation } => write!(f, "publish {target} {} {relation}", source.number()),
            Self::Unpublish { target } => write!(f, "unpublish {target}"),
            Self::Stage { source } => write!(f, "stage {}", source.number()),
            Self::Unstage { source } => write!(f, "unstage {}", source.number()),
            Self::Heal { target } => write!(f, "heal {target}"),
            Self::Renew => write!(f, "renew"),
        }
    }
}

impl FromStr for Op {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let (what, number, relation) = (words.next(), words.next(), words.next());
        let number: usize = number.unwrap_or("0").parse().map_err(|_| ())?;
        let source = SOURCES[number % SOURCES.len()];
        Ok(match what {
            Some("publish") => {
                let source: usize = relation.unwrap().parse().unwrap();
                let relation = words.next().unwrap().parse().map_err(|_| ())?;
                Self::Publish { target: number, source: SOURCES[source], relation }
            }
            Some("unpublish") => Self::Unpublish { target: number },
            Some("stage") => Self::Stage { source },
            Some("unstage") => Self::Unstage { source },
            Some("heal") => Self::Heal { target: number },
            _ => return Err(()),
        })
    }
}

/// What holds for a whole sequence.
#[derive(Debug, Clone, Copy)]
struct Setting {
    /// Whether the kubelet names the staging path with every publish.
    staged: bool,
    ceiling: MountPropagation,
}

/// The node with its leaf, and the allow-list that healing looks at.
struct World {
    node: Node,
    list: Arc<AllowList>,
    setting: Setting,
}

impl World {
    fn new(node: Node, setting: Setting) -> Self {
        let entries: String = SOURCES
            .iter()
            .map(|s| {
                format!(
                    "  - {{name: s{}, path: {}, propagation: Bidirectional, allow: [{{namespaces: ['*']}}]}}\n",
                    s.number(),
                    s.path(&node).display()
                )
            })
            .collect();
        let list = AllowList::parse(&format!("entries:\n{entries}"), &node.site.layout.base).unwrap();
        Self { node, list: Arc::new(list), setting }
    }

    /// As healing looks at all volumes when something was mounted.
    fn look(&self) -> KnownVolumes {
        KnownVolumes::read(&self.node.site, &Gate::default(), &self.list, KnownVolumes::default()).unwrap()
    }

    fn target(&self, target: usize) -> Target {
        let path = self.node.kubelet_path(&format!("pods/u{target}/volumes/kubernetes.io~csi/v/mount"));
        std::fs::create_dir_all(path.as_path().parent().unwrap()).unwrap();
        path
    }

    fn staging(&self, source: Source) -> Target {
        self.node.staging(&format!("s{}", source.number()))
    }

    fn publish_job(&self, target: usize, source: Source, relation: MountPropagation) -> AttachJob {
        let job = self.node.job(&source.path(&self.node), self.target(target), relation);
        let asked = Asked { propagation: Some(relation), ..Asked::default() };
        let entry = EntryName::parse(&format!("s{}", source.number())).unwrap();
        AttachJob {
            staging: self.setting.staged.then(|| self.staging(source)),
            owner: Some(Owner { entry, volume_id: None, user: User::Unknown, asked }),
            ..job
        }
    }

    /// Runs an operation with a hook around each of its steps. Whether it has made something, where that can be told.
    fn run(&self, workshop: &StagingArea, op: Op, hook: Hook<'_>) -> Result<Option<bool>, MountError> {
        let node = &self.node;
        match op {
            Op::Publish { target, source, relation } => {
                node.attach_with(workshop, &self.publish_job(target, source, relation), hook).map(Some)
            }
            Op::Unpublish { target } => node.detach_with(&self.target(target), true, hook).map(|()| None),
            Op::Stage { source } => {
                let job = node.stage_job(&source.path(node), self.staging(source), self.setting.ceiling);
                node.attach_with(workshop, &job, hook).map(Some)
            }
            Op::Unstage { source } => node.detach_with(&self.staging(source), false, hook).map(|()| None),
            Op::Heal { target } => {
                let mut context = Context { site: &node.site, cancelled: &|| false, hook: Some(hook) };
                let mut take = || Ok(workshop.slot(&node.site, 0).unwrap());
                let (target, book) = (self.target(target), self.look());
                let Some(due) = book.candidates.iter().find(|due| due.volume.path == target) else { return Ok(None) };
                mend::mend(&mut context, &mut take, &self.list, (&target, &due.looked)).map(|_| None)
            }
            Op::Renew => unreachable!("that is the node's to do"),
        }
    }

    fn mount_leaf(&self, generation: usize) {
        let leaf = Source::Leaf.path(&self.node);
        tmpfs(&leaf, &format!("leaf-{generation}"));
        order(&leaf, PropagationKind::Shared);
    }

    fn contents(&self) -> Vec<BTreeSet<PathBuf>> {
        SOURCES.iter().map(|s| files(&s.path(&self.node))).collect()
    }

    /// Where nothing can be put beneath a mount, a heal that ends halfway may leave the target bare. Then the kubelet's
    /// next call publishes it, with the flags of the entry, as a heal would have given them.
    fn publish_if_bare(&self, workshop: &StagingArea, target: usize, model: &Model) {
        let at = self.target(target);
        let is_bare = !self.node.table().mounts.iter().any(|mount| mount.mount_point == at.as_path());
        if let Some(Published { source, relation, .. }) = model.targets[target].filter(|_| is_bare) {
            assert!(self.node.site.calls.missing().contains(&"MOVE_MOUNT_BENEATH"), "{at} is bare");
            let attrs = MountAttrs { nosuid: true, nodev: true, ..MountAttrs::default() };
            let job = AttachJob { attrs, ..self.publish_job(target, source, relation) };
            assert_eq!(self.node.attach(workshop, &job), Ok(true));
        }
    }

    /// Takes all volumes away.
    fn clear(&self) {
        for target in 0..TARGETS {
            self.node.detach(&self.target(target), true).unwrap();
        }
        for source in SOURCES {
            self.node.detach(&self.staging(source), true).unwrap();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Published {
    source: Source,
    relation: MountPropagation,
    generation: usize,
}

/// Why a publish is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    SourcePrivate,
    Directory,
    Propagation,
}

/// What must be so.
#[derive(Debug, Clone, Default)]
struct Model {
    targets: [Option<Published>; TARGETS],
    staged: [Option<usize>; SOURCES.len()],
    leaf: usize,
}

impl Model {
    fn generation(&self, source: Source) -> usize {
        if source == Source::Leaf { self.leaf } else { 0 }
    }

    /// Does what an operation does; what it must answer: whether something is made, or why it is refused.
    fn answer(&mut self, op: Op) -> Result<Option<bool>, Why> {
        match op {
            Op::Publish { target, source, relation } => {
                let asked = Published { source, relation, generation: self.generation(source) };
                match self.targets[target] {
                    None if !source.gives().contains(&relation) => Err(Why::SourcePrivate),
                    None => {
                        self.targets[target] = Some(asked);
                        Ok(Some(true))
                    }
                    Some(there) if there.source != source => Err(Why::Directory),
                    Some(there) if there.relation != relation => Err(Why::Propagation),
                    // What it shows by now, it goes on to show: a pod has it.
                    Some(_) => Ok(Some(false)),
                }
            }
            Op::Unpublish { target } => {
                self.targets[target] = None;
                Ok(None)
            }
            Op::Stage { source } => {
                let now = self.generation(source);
                match self.staged[source.number()] {
                    Some(_) => Ok(Some(false)),
                    None => {
                        self.staged[source.number()] = Some(now);
                        Ok(Some(true))
                    }
                }
            }
            Op::Unstage { source } => {
                self.staged[source.number()] = None;
                Ok(None)
            }
            Op::Heal { target } => {
                let leaf = self.leaf;
                if let Some(there) = &mut self.targets[target]
                    && there.source == Source::Leaf
                {
                    there.generation = leaf;
                }
                Ok(None)
            }
            Op::Renew => {
                self.leaf += 1;
                Ok(None)
            }
        }
    }

    fn shown(&self, target: usize, contents: &[BTreeSet<PathBuf>]) -> BTreeSet<PathBuf> {
        match self.targets[target] {
            None => BTreeSet::new(),
            Some(Published { source: Source::Leaf, generation, .. }) => [format!("leaf-{generation}").into()].into(),
            Some(Published { source, .. }) => contents[source.number()].clone(),
        }
    }
}

fn random_op(random: &mut Random) -> Op {
    let target = random.below(TARGETS);
    let source = random.pick(&SOURCES);
    match random.below(12) {
        0..=4 => {
            // Mostly what can be had.
            let all = if random.below(8) == 0 { &MountPropagation::ALL[..2] } else { source.gives() };
            Op::Publish { target, source, relation: random.pick(all) }
        }
        5 | 6 => Op::Unpublish { target },
        7 => Op::Stage { source },
        8 => Op::Unstage { source },
        9 | 10 => Op::Heal { target },
        _ => Op::Renew,
    }
}

/// How an operation is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    None,
    /// The n-th step fails with one of its errnos.
    Fault {
        step: usize,
        errno: usize,
    },
    /// The plugin is killed before the n-th step, or at its end.
    Kill {
        step: usize,
    },
}

/// How much was tried.
#[derive(Debug, Default)]
struct Count {
    operations: usize,
    faults: usize,
    kills: usize,
}

/// One sequence. `disturb` says how each operation is disturbed.
fn sequence(
    world: &World,
    workshop: &mut Option<StagingArea>,
    ops: &[Op],
    disturb: &mut dyn FnMut() -> Disturbance,
    what: &str,
    count: &mut Count,
) -> Vec<String> {
    let node = &world.node;
    let mut model = Model::default();
    world.mount_leaf(0);
    let mut contents = world.contents();
    let mut log = Vec::new();
    for &op in ops {
        count.operations += 1;
        if op == Op::Renew {
            unmount(&Source::Leaf.path(node)).unwrap();
            world.mount_leaf(model.leaf + 1);
            contents = world.contents();
        }
        let wanted = model.answer(op);
        let disturbance = disturb();
        log.push(format!("{op} {disturbance:?}"));
        let say = || format!("{what} {:?}\n{log:#?}", world.setting);
        let mut hit = false;
        let before = node.tree();
        let mut got = match disturbance {
            _ if op == Op::Renew => Ok(None),
            Disturbance::None => world.run(workshop.as_ref().unwrap(), op, &mut |run, step| run.run(step)),
            Disturbance::Fault { step: at, errno } => {
                let mut steps = 0;
                world.run(workshop.as_ref().unwrap(), op, &mut |run, step| {
                    steps += 1;
                    if steps != at + 1 {
                        return run.run(step);
                    }
                    hit = true;
                    let all = errnos(step);
                    Err(all[errno % all.len()])
                })
            }
            Disturbance::Kill { step } => {
                workshop.take().unwrap().close(&node.site).unwrap();
                hit = killed(world, op, step);
                assert_eq!(world.contents(), contents, "killed: {}", say());
                *workshop = Some(node.workshop());
                world.run(workshop.as_ref().unwrap(), op, &mut |run, step| run.run(step))
            }
        };
        match disturbance {
            Disturbance::Fault { .. } if hit => {
                count.faults += 1;
                assert_eq!(world.contents(), contents, "after a fault: {}", say());
                if got.is_err() && matches!(op, Op::Publish { .. } | Op::Stage { .. }) {
                    assert_eq!(node.tree(), before, "nothing is left of what failed: {}", say());
                }
                if got.is_err() {
                    got = world.run(workshop.as_ref().unwrap(), op, &mut |run, step| run.run(step));
                }
            }
            Disturbance::Kill { .. } if hit => {
                count.kills += 1;
                // What was killed after its last step has made it already.
                if got == Ok(Some(false)) {
                    got = wanted.map_err(|_| MountError::Cancelled);
                }
            }
            _ => {}
        }
        let got = got.map_err(|error| match error {
            MountError::OtherArguments { argument: Argument::Directory { .. }, .. } => Why::Directory,
            MountError::OtherArguments { argument: Argument::Propagation { .. }, .. } => Why::Propagation,
            MountError::SourcePrivate { .. } => Why::SourcePrivate,
            other => panic!("{other}: {}", say()),
        });
        assert_eq!(got, wanted, "{}", say());
        if let Op::Heal { target } = op
            && hit
        {
            world.publish_if_bare(workshop.as_ref().unwrap(), target, &model);
        }
        // Notes what is mounted on the ways to the sources, as the plugin does soon after a publish.
        if matches!(op, Op::Publish { .. }) {
            drop(world.look());
        }
        assert_eq!(world.contents(), contents, "{}", say());
        for target in 0..TARGETS {
            let seen = files(world.target(target).as_path());
            assert_eq!(seen, model.shown(target, &contents), "target {target} shows the wrong files: {}", say());
        }
    }
    // The slot is emptied before its next use.
    drop(workshop.as_ref().unwrap().slot(&node.site, 0).unwrap());
    let tree = node.tree();
    world.clear();
    unmount(&Source::Leaf.path(node)).unwrap();
    tree
}

/// Runs an operation in a process of its own, which is killed before step `die` or at its end.
fn killed(world: &World, op: Op, die: usize) -> bool {
    let Setting { staged, ceiling } = world.setting;
    let order = format!("{}|{staged}|{ceiling}|{op}", world.node.base.display());
    killed::at(die, "sequence_child", &order, &op.to_string());
    true
}

/// Not a test: the plugin that gets killed. Does nothing unless it is told what to do.
#[test]
fn sequence_child() {
    killed::child(|order, step| {
        let words: Vec<&str> = order.split('|').collect();
        let [base, staged, ceiling, op] = words[..] else { panic!("{order}") };
        let setting = Setting { staged: staged == "true", ceiling: ceiling.parse().unwrap() };
        let world = World::new(Node::at(Path::new(base)), setting);
        let workshop = world.node.workshop();
        let _ = world.run(&workshop, op.parse().unwrap(), step);
    });
}

/// `HOSTMOUNT_SEQUENCES` times as many percent.
fn scaled(count: usize) -> usize {
    let percent = std::env::var("HOSTMOUNT_SEQUENCES").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    (count * percent / 100).max(1)
}

fn run_all(sequences: usize, disturb: fn(&mut Random) -> Disturbance) -> Count {
    let seed = Random::seed();
    println!("HOSTMOUNT_SEED={seed}");
    let mut random = Random(seed);
    let mut world = World::new(Node::new(), Setting { staged: false, ceiling: MountPropagation::Bidirectional });
    // Somebody else's, which nobody may touch.
    tmpfs(&world.node.base.join("kubelet/foreign"), "foreign");
    bind(&world.node.base.join("kubelet/foreign"), &world.node.base.join("kubelet/pods/foreign"));
    world.clear();
    let mut workshop = Some(world.node.workshop());
    let empty = world.node.tree();
    let mut count = Count::default();
    for sequence_number in 0..scaled(sequences) {
        world.setting = Setting { staged: random.below(2) == 0, ceiling: random.pick(&MountPropagation::ALL) };
        let ops: Vec<Op> = (0..2 + random.below(6)).map(|_| random_op(&mut random)).collect();
        let what = format!("HOSTMOUNT_SEED={seed} sequence {sequence_number}");
        let tree = sequence(&world, &mut workshop, &ops, &mut || disturb(&mut random), &what, &mut count);
        assert_eq!(world.node.tree(), empty, "{what}: {ops:?}");
        let mut uncounted = Count::default();
        let undisturbed = sequence(&world, &mut workshop, &ops, &mut || Disturbance::None, &what, &mut uncounted);
        assert_eq!(tree, undisturbed, "{what} {:?}: {ops:?}", world.setting);
        assert_eq!(world.node.tree(), empty, "{what}: {ops:?}");
    }
    println!("{} sequences: {count:?}", scaled(sequences));
    count
}

#[test]
fn twenty_thousand_sequences_with_failing_steps_match_the_model() {
    in_namespace_both_ways("twenty_thousand_sequences_with_failing_steps_match_the_model", || {
        let count = run_all(10_000, |random| match random.below(2) {
            0 => Disturbance::Fault { step: random.below(5), errno: random.below(60) },
            _ => Disturbance::None,
        });
        assert!(count.faults > scaled(5_000), "{count:?}");
    });
}

#[test]
fn five_thousand_sequences_with_a_killed_plugin_match_the_model() {
    in_namespace_both_ways("five_thousand_sequences_with_a_killed_plugin_match_the_model", || {
        let count = run_all(2_500, |random| match random.below(3) {
            0 => Disturbance::Kill { step: random.below(6) },
            _ => Disturbance::None,
        });
        assert!(count.kills > scaled(1_500), "{count:?}");
    });
}
