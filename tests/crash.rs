//! Faults and crashes in the middle: the n-th step fails, or the plugin is killed after it, on the real kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hostmount::apply::Run;
use hostmount::config::Missing;
use hostmount::engine::{self, AttachJob, Context, MountError};
use hostmount::observe::SourcePath;
use hostmount::plan::Step;
use hostmount::propagation::MountPropagation;
use hostmount::site::Site;
use hostmount::sys::Errno;
use hostmount::sys::calls::Calls;
use hostmount::sys::namespace::{Proc, enter};
use hostmount::sys::stat::MountAttrs;
use hostmount::volume::{AbsPath, KubeletPath};
use hostmount::workshop::Workshop;
use nix::mount::MsFlags;
use nix::sys::signal::{Signal, raise};
use support::{change, in_namespace, mounts_beneath, table, tmpfs};

const ROOT: &str = "/mnt";
const CHILD: &str = "HOSTMOUNT_TEST_CRASH";

fn site(calls: Calls) -> Site {
    Site { proc: Arc::new(Proc::new().unwrap()), calls, kubelet_dir: AbsPath::parse("/mnt/kubelet").unwrap() }
}

/// A source with nested mounts on a shared node, and the kubelet's directories.
fn node() {
    tmpfs(Path::new(ROOT));
    change(Path::new(ROOT), MsFlags::MS_SHARED | MsFlags::MS_REC);
    fs::create_dir_all("/mnt/source/nested").unwrap();
    tmpfs(Path::new("/mnt/source/nested"));
    fs::create_dir("/mnt/source/nested/deep").unwrap();
    tmpfs(Path::new("/mnt/source/nested/deep"));
    fs::write("/mnt/source/nested/deep/here", "").unwrap();
    fs::create_dir_all("/mnt/kubelet/pods/p").unwrap();
    fs::create_dir_all("/mnt/kubelet/plugins/h").unwrap();
}

fn job(operation: &str, relation: MountPropagation) -> AttachJob {
    let path = |p: &str| KubeletPath::parse(p, &AbsPath::parse("/mnt/kubelet").unwrap()).unwrap();
    let staging = path("/mnt/kubelet/plugins/h/globalmount");
    let stage = operation == "stage";
    AttachJob {
        source: SourcePath { entry: AbsPath::parse("/mnt/source").unwrap(), sub_path: None, missing: Missing::Fail },
        target: if stage { staging.clone() } else { path("/mnt/kubelet/pods/p/mount") },
        staging: (operation == "publish-staged").then_some(staging),
        relation,
        lower: stage,
        attrs: MountAttrs { nosuid: true, nodev: true, ..MountAttrs::default() },
        single_writer: false,
    }
}

/// Runs an operation as a plugin that has just started does, on a thread in this process' mount namespace. `step` is
/// called for each step, with its number.
fn run(
    operation: &str,
    relation: MountPropagation,
    calls: Calls,
    step: impl FnMut(usize, &mut dyn Run, Step) -> Result<(), Errno> + Send,
) -> Result<usize, MountError> {
    let mut step = step;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, move || {
            let site = site(calls);
            enter(&site.proc, &site.proc.own_mount_namespace().unwrap()).unwrap();
            let mut count = 0;
            let mut counted = |run: &mut dyn Run, what: Step| {
                count += 1;
                step(count - 1, run, what)
            };
            let mut context = Context { site: &site, cancelled: &|| false, step: &mut counted };
            let mut workshop: Option<Workshop> = None;
            let result = if let Some(of) = operation.strip_prefix("un-") {
                engine::detach(&mut context, &job(of, relation).target, true)
            } else {
                let mut take = || {
                    let open = workshop.insert(Workshop::open(&site, "driver")?);
                    open.slot(&site, 0).map_err(|e| (PathBuf::new(), e))
                };
                engine::attach(&mut context, &mut take, &job(operation, relation)).map(drop)
            };
            if let Some(workshop) = workshop {
                workshop.close(&site).unwrap();
            }
            result.map(|()| count)
        });
        thread.unwrap().join().unwrap()
    })
}

fn plainly(operation: &str, relation: MountPropagation) -> usize {
    run(operation, relation, Calls::ALL, |_, run, step| run.run(step)).unwrap()
}

/// Everything mounted on the node without what changes with each mount: ids.
fn shape() -> Vec<String> {
    let mut lines: Vec<_> = table().iter().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect();
    lines.sort();
    lines
}

fn source_is_whole() {
    let nested = ["/mnt/source/nested", "/mnt/source/nested/deep"].map(PathBuf::from);
    assert_eq!(mounts_beneath(Path::new("/mnt/source")), nested);
    assert!(Path::new("/mnt/source/nested/deep/here").exists());
}

/// What must be there before an operation can be done.
fn prepare(operation: &str, relation: MountPropagation) {
    if operation.ends_with("publish-staged") {
        plainly("stage", MountPropagation::Bidirectional);
    }
    if let Some(of) = operation.strip_prefix("un-") {
        plainly(of, relation);
    }
}

fn clean_up(operation: &str, relation: MountPropagation) {
    plainly(&format!("un-{}", operation.trim_start_matches("un-")), relation);
    plainly("un-stage", relation);
}

const OPERATIONS: [&str; 5] = ["publish", "publish-staged", "stage", "un-publish", "un-stage"];
const ERRNOS: [Errno; 6] = [Errno::EPERM, Errno::ENOMEM, Errno::ENOSPC, Errno::EIO, Errno::ENOTDIR, Errno::EMFILE];

#[test]
fn a_failing_step_is_undone_and_the_retry_succeeds() {
    in_namespace(|| {
        node();
        let mut faults = 0;
        for calls in [Calls::ALL, Calls::NONE] {
            for operation in OPERATIONS {
                for relation in MountPropagation::ALL {
                    let mut n = 0;
                    loop {
                        let initial = shape();
                        prepare(operation, relation);
                        let (before, target) = (shape(), Path::new("/mnt/kubelet/pods/p/mount").exists());
                        let errno = ERRNOS[n % ERRNOS.len()];
                        let failing =
                            |at: usize, run: &mut dyn Run, step| if at == n { Err(errno) } else { run.run(step) };
                        let result = run(operation, relation, calls, failing);
                        source_is_whole();
                        if result.is_err() {
                            faults += 1;
                            if !operation.starts_with("un-") {
                                assert_eq!(shape(), before, "{operation} {relation} step {n}");
                                assert_eq!(Path::new("/mnt/kubelet/pods/p/mount").exists(), target);
                            }
                            run(operation, relation, calls, |_, run, step| run.run(step)).unwrap();
                        }
                        source_is_whole();
                        clean_up(operation, relation);
                        assert_eq!(shape(), initial, "{operation} {relation} step {n}");
                        if result.is_ok() {
                            break;
                        }
                        n += 1;
                    }
                }
            }
        }
        println!("{faults} faults");
        assert!(faults > 80, "{faults}");
    });
}

#[test]
fn a_kill_after_any_step_is_finished_by_the_retry() {
    if let Ok(what) = std::env::var(CHILD) {
        let [operation, relation, last] = what.split(' ').collect::<Vec<_>>()[..] else { panic!("{what}") };
        let last: usize = last.parse().unwrap();
        let result = run(operation, relation.parse().unwrap(), Calls::ALL, |at, run, step| {
            let result = run.run(step);
            if at == last {
                raise(Signal::SIGKILL).unwrap();
            }
            result
        });
        result.unwrap();
        return;
    }
    in_namespace(|| {
        node();
        let mut kills = 0;
        for operation in OPERATIONS {
            for relation in MountPropagation::ALL {
                let initial = shape();
                prepare(operation, relation);
                plainly(operation, relation);
                let undisturbed = shape();
                clean_up(operation, relation);
                for n in 0.. {
                    prepare(operation, relation);
                    let status = Command::new(std::env::current_exe().unwrap())
                        .args(["a_kill_after_any_step_is_finished_by_the_retry", "--exact", "--test-threads=1"])
                        .env(CHILD, format!("{operation} {relation} {n}"))
                        .output()
                        .unwrap()
                        .status;
                    source_is_whole();
                    plainly(operation, relation);
                    // An empty workshop may be left where the retry had nothing to mount; it is looked at below.
                    let retried: Vec<_> = shape().into_iter().filter(|l| !l.contains("/workshop ")).collect();
                    assert_eq!(retried, undisturbed, "{operation} {relation}, killed after step {n}");
                    clean_up(operation, relation);
                    // What a killed plugin leaves in its workshop goes when the next one opens it, so that is done
                    // once here where the retry itself had nothing to mount.
                    plainly("publish", MountPropagation::None);
                    plainly("un-publish", MountPropagation::None);
                    source_is_whole();
                    assert_eq!(shape(), initial, "{operation} {relation}, killed after step {n}");
                    if status.success() {
                        break;
                    }
                    kills += 1;
                }
            }
        }
        println!("{kills} kills");
        assert!(kills > 40, "{kills}");
    });
}
