//! Missing source directories: made as configured, and nothing else is ever owned, whoever exchanges what meanwhile and
//! wherever the plugin is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod kernel;
mod support;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use allowlist::config::Missing;
use engine::AttachJob;
use engine::make_source::NotMade;
use engine::mount_error::MountError;
use engine::observe::SourcePath;
use kernel::{Node, killed, on_mount_thread};
use mounts::Errno;
use mounts::propagation::MountPropagation;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use plan::{Making, Step};
use support::fuse::Daemon;
use tonic::Code;

/// The mode that the entry gives: anybody's. Whatever gets it was given away.
const MODE: u32 = 0o777;

fn job(node: &Node, source: &Path) -> AttachJob {
    let job = node.job(source, node.target("target"), MountPropagation::None);
    let missing = Missing::Create { mode: MODE, uid: 0, gid: 0 };
    AttachJob { source: SourcePath { missing, ..job.source.clone() }, ..job }
}

/// Where directories are made, and how many are.
fn parent(node: &Node) -> PathBuf {
    node.base.join("Shared/parent")
}

fn names(at: &Path) -> BTreeSet<OsString> {
    fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

fn mode(at: &Path) -> u32 {
    fs::metadata(at).unwrap().permissions().mode() & 0o7777
}

fn exchange(one: &Path, other: &Path) -> bool {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).is_ok()
}

/// A private directory of root in a parent that somebody else may write.
struct Victim {
    fd: File,
    at: PathBuf,
}

impl Victim {
    fn new(parent: &Path) -> Self {
        let at = parent.join("victim");
        fs::create_dir(&at).unwrap();
        fs::set_permissions(&at, Permissions::from_mode(0o700)).unwrap();
        Self { fd: File::open(&at).unwrap(), at }
    }

    #[track_caller]
    fn is_untouched(&self, what: &str) {
        let now = self.fd.metadata().unwrap();
        assert_eq!((now.mode() & 0o7777, now.uid(), now.gid()), (0o700, 0, 0), "{what}");
    }

    /// Whoever may exchange it may remove it as well while it is empty, and may have us do it.
    fn is_removed(&self) -> bool {
        self.fd.metadata().unwrap().nlink() == 0
    }

    /// Everything in the parent but the victim goes, and that gets its name back, as an administrator would do it.
    fn tidy(&self) {
        let inode = self.fd.metadata().unwrap().ino();
        let parent = self.at.parent().unwrap();
        let is_victim = |path: &Path| fs::symlink_metadata(path).unwrap().ino() == inode;
        for name in names(parent) {
            let path = parent.join(name);
            if !is_victim(&path) {
                fs::remove_dir(&path).unwrap();
            }
        }
        for name in names(parent) {
            fs::rename(parent.join(name), &self.at).unwrap();
        }
    }
}

fn with_parent(node: &Node) -> PathBuf {
    let parent = parent(node);
    fs::create_dir(&parent).unwrap();
    parent
}

#[test]
fn what_is_exchanged_between_any_two_calls_is_never_owned_and_never_published() {
    kernel::in_namespace("what_is_exchanged_between_any_two_calls_is_never_owned_and_never_published", || {
        let node = Node::new();
        let workshop = node.workshop();
        let parent = with_parent(&node);
        let victim = Victim::new(&parent);
        let empty = node.tree();
        let (made, temporary) = (parent.join("made"), parent.join(".hostmount-new.made"));
        let job = job(&node, &made);
        let mut refused = 0;
        for place in [&temporary, &made] {
            for at in [Making::Directory, Making::Mode, Making::Name] {
                for before in [true, false] {
                    let what = format!("{place:?} {at:?} before={before}");
                    let mut exchanged = false;
                    let result = node.attach_with(&workshop, &job, &mut |run, step| {
                        let now = step == Step::Source(at);
                        if now && before {
                            exchanged |= exchange(&victim.at, place);
                        }
                        let done = run.run(step);
                        if now && !before {
                            exchanged |= exchange(&victim.at, place);
                        }
                        done
                    });
                    victim.is_untouched(&what);
                    assert!(!victim.is_removed(), "{what}");
                    match (&result, exchanged) {
                        (Ok(true), false) => {
                            assert_eq!(mode(&made), MODE, "{what}");
                            node.detach(&job.target, true).unwrap();
                        }
                        (Err(MountError::SourceNotMade { why, .. }), true) => {
                            assert_eq!(*why, NotMade::Exchanged, "{what}");
                            refused += 1;
                        }
                        other => panic!("{what}: {other:?}"),
                    }
                    assert_eq!(node.tree(), empty, "{what}");
                    victim.tidy();
                }
            }
        }
        // After each of the calls that something is named by: made, changed (twice, before and after), and named.
        assert!(refused >= 5, "{refused}");
    });
}

#[test]
fn an_attacker_who_exchanges_as_fast_as_he_can_gets_nothing_that_was_not_made_for_him() {
    kernel::in_namespace("an_attacker_who_exchanges_as_fast_as_he_can_gets_nothing_that_was_not_made_for_him", || {
        let node = Node::new();
        let workshop = node.workshop();
        let parent = with_parent(&node);
        let mut victim = Victim::new(&parent);
        let place = victim.at.clone();
        let (made, temporary) = (parent.join("made"), parent.join(".hostmount-new.made"));
        let job = job(&node, &made);
        // What the attacker is to do, and how often he did it: None ends him. Who holds it keeps him from it.
        let attack = Mutex::new((Some(false), 0_u64));
        let (mut refused, mut given, mut removed) = (0, 0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for with in [&temporary, &made].into_iter().cycle() {
                    let mut now = attack.lock().unwrap();
                    match now.0 {
                        None => break,
                        Some(true) => now.1 += u64::from(exchange(&place, with)),
                        Some(false) => {}
                    }
                    drop(now);
                    std::hint::spin_loop();
                }
            });
            for round in 0..500 {
                attack.lock().unwrap().0 = Some(true);
                let result = node.attach(&workshop, &job);
                let mut now = attack.lock().unwrap();
                now.0 = Some(false);
                victim.is_untouched(&format!("round {round}: {result:?}"));
                if result.is_ok() {
                    given += 1;
                    let shown = fs::metadata(job.target.as_path()).unwrap();
                    assert_ne!(shown.ino(), victim.fd.metadata().unwrap().ino(), "round {round}: the victim is given");
                    node.detach(&job.target, true).unwrap();
                } else {
                    refused += 1;
                }
                victim.tidy();
                if victim.is_removed() {
                    removed += 1;
                    victim = Victim::new(&parent);
                }
            }
            attack.lock().unwrap().0 = None;
        });
        let exchanges = attack.into_inner().unwrap().1;
        // How often he comes in between depends on the machine: what he does there is tried by the test before.
        println!("500 rounds: {exchanges} exchanges, {refused} refused, {given} given, {removed} removed");
        assert!(exchanges > 0 && given + refused == 500);
    });
}

/// The steps of making two directories, one in the other, and publishing the inner one.
fn steps(node: &Node) -> Vec<Step> {
    let workshop = node.workshop();
    let mut steps = Vec::new();
    let job = job(node, &parent(node).join("one/two"));
    node.attach_with(&workshop, &job, &mut |run, step| {
        steps.push(step);
        run.run(step)
    })
    .unwrap();
    node.detach(&job.target, true).unwrap();
    workshop.close(&node.site).unwrap();
    fs::remove_dir(parent(node).join("one/two")).unwrap();
    fs::remove_dir(parent(node).join("one")).unwrap();
    steps
}

fn is_as_configured(node: &Node, job: &AttachJob, what: &str) {
    let parent = parent(node);
    assert_eq!(names(&parent), BTreeSet::from(["one".into()]), "{what}");
    assert_eq!(names(&parent.join("one")), BTreeSet::from(["two".into()]), "{what}");
    for made in ["one", "one/two"] {
        assert_eq!(mode(&parent.join(made)), MODE, "{what}: {made}");
    }
    fs::write(parent.join("one/two/seen"), "").unwrap();
    assert!(job.target.as_path().join("seen").exists(), "{what}");
    fs::remove_file(parent.join("one/two/seen")).unwrap();
}

fn take_away(node: &Node, job: &AttachJob) {
    node.detach(&job.target, true).unwrap();
    fs::remove_dir(parent(node).join("one/two")).unwrap();
    fs::remove_dir(parent(node).join("one")).unwrap();
}

#[test]
fn a_step_that_fails_takes_back_what_was_made_and_the_next_try_makes_it() {
    kernel::in_namespace("a_step_that_fails_takes_back_what_was_made_and_the_next_try_makes_it", || {
        let node = Node::new();
        let parent = with_parent(&node);
        let steps = steps(&node);
        assert_eq!(steps.iter().filter(|step| matches!(step, Step::Source(_))).count(), 6, "{steps:?}");
        let workshop = node.workshop();
        let empty = node.tree();
        let job = job(&node, &parent.join("one/two"));
        for (n, step) in steps.iter().enumerate() {
            for (errno, fail) in [(Errno::EPERM, 1), (Errno::ENOSPC, 1), (Errno::EIO, 2)] {
                let what = format!("{errno} x {fail} at {n} {step:?}");
                let mut count = 0;
                let result = node.attach_with(&workshop, &job, &mut |run, step| {
                    count += 1;
                    if (n + 1..=n + fail).contains(&count) { Err(errno) } else { run.run(step) }
                });
                assert!(result.is_err(), "{what}");
                if fail == 1 {
                    assert_eq!(names(&parent), BTreeSet::new(), "{what}");
                    assert_eq!(node.tree(), empty, "{what}");
                }
                assert_eq!(node.attach(&workshop, &job), Ok(true), "{what}");
                is_as_configured(&node, &job, &what);
                take_away(&node, &job);
            }
        }
    });
}

/// Not a test: the plugin that gets killed. Does nothing unless it is told where.
#[test]
fn making_crash_child() {
    killed::child(|base, step| {
        let node = Node::at(Path::new(base));
        let workshop = node.workshop();
        let _ = node.attach_with(&workshop, &job(&node, &parent(&node).join("one/two")), step);
    });
}

#[test]
fn a_plugin_that_is_killed_while_it_makes_a_source_leaves_what_the_retry_finishes_as_configured() {
    let name = "a_plugin_that_is_killed_while_it_makes_a_source_leaves_what_the_retry_finishes_as_configured";
    kernel::in_namespace(name, || {
        let node = Node::new();
        let parent = with_parent(&node);
        let steps = steps(&node);
        for die in 0..=steps.len() {
            let what = format!("killed after {die} of {steps:?}");
            killed::at(die, "making_crash_child", node.base.to_str().unwrap(), &what);
            let workshop = node.workshop();
            let job = job(&node, &parent.join("one/two"));
            node.attach(&workshop, &job).unwrap_or_else(|e| panic!("{what}: {e}"));
            is_as_configured(&node, &job, &what);
            take_away(&node, &job);
            workshop.close(&node.site).unwrap();
        }
    });
}

#[test]
fn what_others_have_under_the_temporary_name_is_left() {
    kernel::in_namespace("what_others_have_under_the_temporary_name_is_left", || {
        let node = Node::new();
        let workshop = node.workshop();
        let parent = with_parent(&node);
        let temporary = parent.join(".hostmount-new.made");
        let job = job(&node, &parent.join("made"));
        let in_the_way = |what: &str| match node.attach(&workshop, &job) {
            Err(MountError::SourceNotMade { why: NotMade::InTheWay, .. }) => {
                assert!(temporary.symlink_metadata().is_ok(), "{what}");
            }
            other => panic!("{what}: {other:?}"),
        };
        fs::create_dir(&temporary).unwrap();
        fs::set_permissions(&temporary, Permissions::from_mode(0o700)).unwrap();
        in_the_way("a private directory of root");
        fs::set_permissions(&temporary, Permissions::from_mode(MODE)).unwrap();
        fs::write(temporary.join("file"), "").unwrap();
        in_the_way("one that is in use");
        fs::remove_dir_all(&temporary).unwrap();
        std::os::unix::fs::symlink("/", &temporary).unwrap();
        in_the_way("a symlink");
        fs::remove_file(&temporary).unwrap();
        assert_eq!(node.attach(&workshop, &job), Ok(true));
    });
}

/// A parent hands down its group and an access list; the directory is as configured all the same.
#[test]
fn a_parent_with_set_group_id_and_a_default_access_list_changes_nothing() {
    support::in_namespace_as_root(|| {
        let node = support::Node::start();
        let parent = node.root.join("made");
        fs::create_dir(&parent).unwrap();
        std::os::unix::fs::chown(&parent, None, Some(1234)).unwrap();
        fs::set_permissions(&parent, Permissions::from_mode(0o2775)).unwrap();
        // As posix_acl_xattr(5) has it: version 2, then tag, permissions and id of each item.
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in
            [(1_u16, 7_u16, u32::MAX), (2, 7, 1000), (4, 5, u32::MAX), (0x10, 7, u32::MAX), (0x20, 5, u32::MAX)]
        {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        ::kernel::path::set_attribute(File::open(&parent).unwrap(), c"system.posix_acl_default", &list).unwrap();
        for (owner, mode) in [("uid: 1000, gid: 16, mode: '2770'", 0o2770), ("uid: 0, gid: 0, mode: '0711'", 0o711)] {
            let entry = format!(
                "entries:\n  - {{name: made, path: /mnt/made/deep, missing: {{create: {{{owner}}}}}, allow: [{{namespaces: ['*']}}]}}\n"
            );
            fs::write(node.root.join("entries.yaml"), entry).unwrap();
            let request = node.inline("p", &[("volume", "made")]);
            support::eventually("it is published by the new list", || {
                node.publish(&request).is_ok() && self::mode(&parent.join("deep")) == mode || {
                    let _ = node.unpublish(&request);
                    let _ = fs::remove_dir(parent.join("deep"));
                    false
                }
            });
            let made = fs::metadata(parent.join("deep")).unwrap();
            let wanted = if mode == 0o2770 { (1000, 16) } else { (0, 0) };
            assert_eq!((made.uid(), made.gid()), wanted);
            assert_eq!(names(&parent), BTreeSet::from(["deep".into()]));
            // Whom the parent's list names is let in no more than the mode says.
            let deep = parent.join("deep");
            on_mount_thread(move || {
                for list in [c"system.posix_acl_access", c"system.posix_acl_default"] {
                    assert_eq!(::kernel::path::attribute(File::open(&deep).unwrap(), list, 4096), Ok(None));
                }
            });
            node.unpublish(&request).unwrap();
            fs::remove_dir(parent.join("deep")).unwrap();
        }
    });
}

/// There nobody but its server knows what a name leads to.
#[test]
fn nothing_is_made_on_fuse_or_where_the_file_system_is_not_known() {
    support::in_namespace(|| {
        let node = support::Node::start();
        let at = node.root.join("made");
        let request = node.inline("p", &[("volume", "made")]);
        fs::create_dir(&at).unwrap();
        nix::mount::mount(Some("t"), &at, Some("ramfs"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
        let status = node.refused(&request, Code::FailedPrecondition, &["not made"]);
        node.logged(&status, &["FUSE or a network"]);
        assert_eq!(names(&at), BTreeSet::new());
        support::unmount(&at);
        let Some(_daemon) = Daemon::start(&at) else { return };
        let status = node.refused(&request, Code::FailedPrecondition, &["not made"]);
        node.logged(&status, &["FUSE or a network"]);
        support::unmount(&at);
        fs::remove_dir(&at).unwrap();
        node.publish(&request).unwrap();
    });
}

/// Pods that start together and share a volume that is missing.
#[test]
fn calls_that_make_the_same_directory_at_once_all_get_it() {
    support::in_namespace(|| {
        let node = support::Node::start();
        for round in 0..30 {
            let requests: Vec<_> =
                (0..8).map(|n| node.inline(&format!("p{round}-{n}"), &[("volume", "made")])).collect();
            let calls = requests.iter().map(|request| {
                let mut client = node.client();
                let request = request.clone();
                async move { client.node_publish_volume(request).await.map(drop) }
            });
            let results = node.runtime.block_on(futures_util::future::join_all(calls));
            for result in &results {
                assert!(result.as_ref().map_or_else(|e| e.code() == Code::Aborted, |()| true), "{result:?}");
            }
            assert!(results.iter().any(Result::is_ok), "{results:?}");
            assert_eq!(names(&node.root.join("made")), BTreeSet::from(["deep".into()]));
            for request in &requests {
                node.publish(request).unwrap();
                node.unpublish(request).unwrap();
            }
            fs::remove_dir(node.root.join("made/deep")).unwrap();
            fs::remove_dir(node.root.join("made")).unwrap();
        }
    });
}
