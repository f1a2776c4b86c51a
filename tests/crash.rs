//! Every operation, with every step of it failing or being the last one that a killed plugin made, on the real kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod kernel;

use std::cell::Cell;
use std::path::Path;

use allowlist::config::Missing;
use engine::mount_error::MountError;
use engine::observe::SourcePath;
use engine::staging_area::StagingArea;
use engine::{AttachJob, Attached, Context};
use kernel::killed::{self, Hook};
use kernel::{ALL_FLAGS, NO_FLAGS, Node, SourceKind, files, in_namespace, in_namespace_both_ways};
use mounts::propagation::MountPropagation;
use mounts::{Errno, MountAttrs};
use plan::Step;

const ERRNOS: [Errno; 6] = [Errno::EPERM, Errno::EINVAL, Errno::ENOMEM, Errno::ENOSPC, Errno::EBUSY, Errno::EIO];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Stage,
    Publish,
    Unpublish,
    Unstage,
}

/// One operation in one setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    op: Op,
    kind: SourceKind,
    relation: MountPropagation,
    staged: bool,
    /// With which the source is staged.
    ceiling: MountPropagation,
    attrs: MountAttrs,
    target_exists: bool,
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for kind in SourceKind::ALL {
        for target_exists in [false, true] {
            let base = Case {
                op: Op::Stage,
                kind,
                relation: MountPropagation::None,
                staged: true,
                ceiling: MountPropagation::Bidirectional,
                attrs: NO_FLAGS,
                target_exists,
            };
            for ceiling in MountPropagation::ALL {
                let base = Case { ceiling, ..base };
                all.extend([base, Case { op: Op::Unstage, ..base }]);
            }
            for &relation in kind.gives() {
                for staged in [false, true] {
                    for attrs in [NO_FLAGS, ALL_FLAGS] {
                        // The usual one, and the one that makes a volume the slave of the staged copy.
                        let ceiling = if target_exists { MountPropagation::HostToContainer } else { base.ceiling };
                        let base = Case { relation, staged, ceiling, attrs, ..base };
                        all.extend([Case { op: Op::Publish, ..base }, Case { op: Op::Unpublish, ..base }]);
                    }
                }
            }
        }
    }
    all
}

impl Case {
    fn stage_job(&self, node: &Node) -> AttachJob {
        node.stage_job(&node.source(self.kind), node.staging("staged"), self.ceiling)
    }

    fn publish_job(&self, node: &Node) -> AttachJob {
        let job = node.job(&node.source(self.kind), node.target("target"), self.relation);
        AttachJob { attrs: self.attrs, staging: self.staged.then(|| node.staging("staged")), ..job }
    }

    /// What has to be there before the operation.
    fn prepare(&self, node: &Node, workshop: &StagingArea) {
        if self.target_exists {
            let place = if self.op == Op::Stage { node.staging("staged") } else { node.target("target") };
            std::fs::create_dir_all(place.as_path()).unwrap();
        }
        if self.op == Op::Unstage || (self.staged && self.op != Op::Stage) {
            assert_eq!(node.attach(workshop, &self.stage_job(node)), Ok(true));
        }
        if self.op == Op::Unpublish {
            assert_eq!(node.attach(workshop, &self.publish_job(node)), Ok(true));
        }
    }

    fn is_attach(&self) -> bool {
        matches!(self.op, Op::Stage | Op::Publish)
    }

    fn run(&self, node: &Node, workshop: &StagingArea, hook: Hook<'_>) -> Result<(), MountError> {
        match self.op {
            Op::Stage => node.attach_with(workshop, &self.stage_job(node), hook).map(drop),
            Op::Publish => node.attach_with(workshop, &self.publish_job(node), hook).map(drop),
            Op::Unpublish => node.detach_with(&node.target("target"), true, hook),
            Op::Unstage => node.detach_with(&node.staging("staged"), false, hook),
        }
    }

    /// Takes away what is there, however far it got.
    fn finish(node: &Node) {
        node.detach(&node.target("target"), true).unwrap();
        node.detach(&node.staging("staged"), true).unwrap();
    }

    fn is_as_wished(&self, node: &Node) {
        let target = match self.op {
            Op::Stage => node.staging("staged"),
            Op::Publish => node.target("target"),
            Op::Unpublish => return assert!(!node.target("target").as_path().exists()),
            Op::Unstage => return assert_eq!(files(node.staging("staged").as_path()).len(), 0),
        };
        assert_eq!(files(target.as_path()), files(&node.source(self.kind)), "{self:?}");
    }
}

/// The steps of an undisturbed run and the tree after it.
fn undisturbed(case: &Case, node: &Node, workshop: &StagingArea) -> (Vec<Step>, Vec<String>) {
    let mut steps = Vec::new();
    case.prepare(node, workshop);
    case.run(node, workshop, &mut |run, step| {
        steps.push(step);
        run.run(step)
    })
    .unwrap();
    case.is_as_wished(node);
    let tree = node.tree();
    Case::finish(node);
    (steps, tree)
}

fn all_sources(node: &Node) -> Vec<std::collections::BTreeSet<std::path::PathBuf>> {
    SourceKind::ALL.map(|kind| files(&node.source(kind))).into()
}

#[test]
fn a_failed_step_leaves_everything_as_it_was_and_the_next_call_succeeds() {
    in_namespace_both_ways("a_failed_step_leaves_everything_as_it_was_and_the_next_call_succeeds", || {
        let node = Node::new();
        let initial = node.tree();
        let sources = all_sources(&node);
        assert!(sources.iter().all(|files| files.len() == 4), "{sources:?}");
        let workshop = node.workshop();
        let empty = node.tree();
        let mut tried = 0;
        for case in cases() {
            let (steps, wanted) = undisturbed(&case, &node, &workshop);
            assert_eq!(node.tree(), empty, "{case:?}: after an undisturbed run");
            for (n, step) in steps.iter().enumerate() {
                // How many steps in a row fail: with two, an undo step fails as well.
                for (errno, fail) in ERRNOS.map(|errno| (errno, 1)).into_iter().chain([(Errno::EMFILE, 2)]) {
                    // Flags change one argument of one step: two errors are enough with them.
                    if case.attrs != NO_FLAGS && !matches!(errno, Errno::EPERM | Errno::EMFILE) {
                        continue;
                    }
                    let what = || format!("{case:?}: {errno} x {fail} at step {n} {step:?}");
                    case.prepare(&node, &workshop);
                    let (tree, existed) = (node.tree(), node.target("target").as_path().exists());
                    let mut count = 0;
                    let result = case.run(&node, &workshop, &mut |run, step| {
                        count += 1;
                        if (n + 1..=n + fail).contains(&count) { Err(errno) } else { run.run(step) }
                    });
                    assert_eq!(all_sources(&node), sources, "{}", what());
                    if case.is_attach() {
                        assert!(result.is_err(), "{}", what());
                        if fail == 1 {
                            assert_eq!(node.tree(), tree, "{}", what());
                            if case.op == Op::Publish {
                                assert_eq!(node.target("target").as_path().exists(), existed, "{}", what());
                            }
                        }
                    }
                    let again = case.run(&node, &workshop, &mut |run, step| run.run(step));
                    assert_eq!(again, Ok(()), "{}", what());
                    case.is_as_wished(&node);
                    // The slot is emptied before its next use.
                    drop(workshop.slot(&node.site, 0).unwrap());
                    assert_eq!(node.tree(), wanted, "{}", what());
                    Case::finish(&node);
                    assert_eq!(node.tree(), empty, "{}", what());
                    assert_eq!(all_sources(&node), sources, "{}", what());
                    tried += 1;
                }
            }
        }
        workshop.close(&node.site).unwrap();
        assert_eq!(node.tree(), initial);
        println!("{tried} faults");
        assert!(tried > 500, "{tried}");
    });
}

/// Not a test: the plugin that gets killed. Does nothing unless it is told which case.
#[test]
fn crash_child() {
    killed::child(|order, step| {
        let (base, case) = order.split_once(' ').unwrap();
        let case = cases()[case.parse::<usize>().unwrap()];
        let node = Node::at(Path::new(base));
        let workshop = node.workshop();
        let _ = case.run(&node, &workshop, step);
    });
}

#[test]
fn a_killed_plugin_leaves_nothing_that_the_next_one_does_not_mend() {
    in_namespace_both_ways("a_killed_plugin_leaves_nothing_that_the_next_one_does_not_mend", || {
        let node = Node::new();
        let (initial, sources) = (node.tree(), all_sources(&node));
        let mut tried = 0;
        for (number, case) in cases().into_iter().enumerate() {
            let workshop = node.workshop();
            let (steps, wanted) = undisturbed(&case, &node, &workshop);
            workshop.close(&node.site).unwrap();
            assert_eq!(node.tree(), initial, "{case:?}");
            for die in 0..=steps.len() {
                let what = || format!("{case:?}: killed after {die} of {steps:?}");
                let workshop = node.workshop();
                case.prepare(&node, &workshop);
                workshop.close(&node.site).unwrap();
                killed::at(die, "crash_child", &format!("{} {number}", node.base.display()), &what());
                assert_eq!(all_sources(&node), sources, "{}", what());
                let workshop = node.workshop();
                case.run(&node, &workshop, &mut |run, step| run.run(step))
                    .unwrap_or_else(|e| panic!("{}: {e}", what()));
                case.is_as_wished(&node);
                assert_eq!(node.tree(), wanted, "{}", what());
                Case::finish(&node);
                workshop.close(&node.site).unwrap();
                assert_eq!(node.tree(), initial, "{}", what());
                assert_eq!(all_sources(&node), sources, "{}", what());
                tried += 1;
            }
        }
        println!("{tried} crashes");
        assert!(tried > 100, "{tried}");
    });
}

#[test]
fn a_deleted_source_is_replaced_and_a_made_one_forgotten_whatever_fails() {
    in_namespace_both_ways("a_deleted_source_is_replaced_and_a_made_one_forgotten_whatever_fails", || {
        let node = Node::new();
        let workshop = node.workshop();
        let empty = node.tree();
        let entry = node.base.join("Shared");
        let (source, target) = (entry.join("gone/sub"), node.target("target"));
        let missing = Missing::Create { mode: 0o700, uid: 0, gid: 0 };
        for relation in MountPropagation::ALL {
            let job = node.job(&source, target.clone(), relation);
            let job = AttachJob { source: SourcePath { missing, ..job.source.clone() }, ..job };
            // Steps of clearing the target: one; of attaching: at most three.
            for n in 1..=4 {
                for errno in ERRNOS {
                    let what = format!("{relation}: {errno} at step {n}");
                    assert_eq!(node.attach(&workshop, &job), Ok(true), "{what}");
                    std::fs::remove_dir_all(entry.join("gone")).unwrap();
                    let (mut count, mut hit) = (0, None);
                    let result = node.attach_with(&workshop, &job, &mut |run, step| {
                        count += 1;
                        if count == n {
                            hit = Some(step);
                            return Err(errno);
                        }
                        run.run(step)
                    });
                    match (hit, &result) {
                        (None, Ok(true)) => {}
                        // Busy is no failure of the first try, and not mounted is what was wanted.
                        (Some(Step::UnmountIdle(_)), _) if matches!(errno, Errno::EBUSY | Errno::EINVAL) => {}
                        // The new one is beneath the old one by then, and in use.
                        (Some(Step::UnmountIdle(_)), Err(_)) if relation == MountPropagation::HostToContainer => {
                            assert!(source.exists(), "{what}: {result:?}");
                        }
                        (Some(_), Err(_)) => assert!(!entry.join("gone").exists(), "{what}: {result:?}"),
                        _ => panic!("{what}: {hit:?} {result:?}"),
                    }
                    let again = node.attach(&workshop, &job);
                    assert_eq!(again, Ok(result.is_err()), "{what}: after {result:?}");
                    std::fs::write(source.join("seen"), "").unwrap();
                    assert!(target.as_path().join("seen").exists(), "{what}");
                    node.detach(&target, true).unwrap();
                    assert_eq!(node.tree(), empty, "{what}");
                    std::fs::remove_dir_all(entry.join("gone")).unwrap();
                }
            }
        }
    });
}

#[test]
fn an_unstage_that_finds_its_mount_gone_looks_what_is_left() {
    in_namespace("an_unstage_that_finds_its_mount_gone_looks_what_is_left", || {
        let node = Node::new();
        let workshop = node.workshop();
        let empty = node.tree();
        let target = node.target("target");
        let job = node.job(&node.base.join("Shared"), target.clone(), MountPropagation::Bidirectional);
        assert_eq!(node.attach(&workshop, &job), Ok(true));
        // What is nested keeps it busy, so that it is made private first.
        let mut hit = None;
        let result = node.detach_with(&target, false, &mut |run, step| match (step, hit) {
            (Step::MakePrivate(_), None) => {
                hit = Some(step);
                Err(Errno::EINVAL)
            }
            _ => run.run(step),
        });
        assert!(hit.is_some(), "nothing was nested");
        assert!(result.is_err(), "it is mounted still");
        node.detach(&target, true).unwrap();
        assert_eq!(node.tree(), empty);
    });
}

#[test]
fn a_symlink_that_takes_the_targets_place_is_not_followed() {
    in_namespace_both_ways("a_symlink_that_takes_the_targets_place_is_not_followed", || {
        let node = Node::new();
        let workshop = node.workshop();
        let elsewhere = node.base.join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        let target = node.target("target");
        let empty = node.tree();
        let old = node.site.calls.missing().contains(&"move_mount");
        let said = if old { Errno::ELOOP } else { Errno::EINVAL };
        for relation in MountPropagation::ALL {
            let job = node.job(&node.base.join("Shared"), target.clone(), relation);
            let result = node.attach_with(&workshop, &job, &mut |run, step| {
                if step == Step::Move {
                    std::fs::remove_dir(target.as_path()).unwrap();
                    std::os::unix::fs::symlink(&elsewhere, target.as_path()).unwrap();
                }
                run.run(step)
            });
            let Err(MountError::Step { failed }) = result else { panic!("{relation}: {result:?}") };
            assert_eq!((failed.step, failed.errno), (Step::Move, said), "{relation}");
            assert_eq!(node.tree(), empty, "{relation}");
            assert!(files(&elsewhere).is_empty(), "{relation}");
            // Whoever put it there has it still.
            std::fs::remove_file(target.as_path()).unwrap();
        }
    });
}

#[test]
fn a_call_that_nobody_waits_for_is_undone_at_every_step() {
    in_namespace_both_ways("a_call_that_nobody_waits_for_is_undone_at_every_step", || {
        let node = Node::new();
        let workshop = node.workshop();
        let sources = all_sources(&node);
        for case in cases().into_iter().filter(Case::is_attach) {
            case.prepare(&node, &workshop);
            let (tree, existed) = (node.tree(), node.target("target").as_path().exists());
            let job = if case.op == Op::Stage { case.stage_job(&node) } else { case.publish_job(&node) };
            for patience in 0.. {
                let asked = Cell::new(0);
                let cancelled = || {
                    asked.set(asked.get() + 1);
                    asked.get() > patience
                };
                let result = engine::attach(
                    &mut Context::new(&node.site, &cancelled),
                    &mut || Ok(workshop.slot(&node.site, 0).unwrap()),
                    &job,
                );
                let result = result.map(|attached| matches!(attached, Attached::Made(_)));
                assert_eq!(all_sources(&node), sources, "{case:?} after {patience}");
                if result == Ok(true) {
                    assert!(patience >= 2, "{case:?}");
                    break;
                }
                assert_eq!(result, Err(MountError::Cancelled), "{case:?} after {patience}");
                assert_eq!(node.tree(), tree, "{case:?} after {patience}");
                if case.op == Op::Publish {
                    assert_eq!(node.target("target").as_path().exists(), existed, "{case:?} after {patience}");
                }
            }
            case.is_as_wished(&node);
            Case::finish(&node);
        }
    });
}
