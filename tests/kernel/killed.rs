//! A plugin that is killed before one of its steps, or after the last one: a process of its own.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::getpid;

use super::on_mount_thread;

pub(crate) use engine::Hook;

/// The step to be killed before, and the order, in the process that gets killed.
const ORDER: &str = "HOSTMOUNT_KILLED";

/// Has the test `child` of this binary carry out an order, and sees it killed before step `die` or at its end.
pub(crate) fn at(die: usize, child: &str, order: &str, what: &str) {
    // Not by its path, which the node's tmpfs may cover.
    let status = Command::new("/proc/self/exe")
        .args([child, "--exact"])
        .env(ORDER, format!("{die}|{order}"))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9), "{what}: {status}");
}

/// What such a test does: nothing, unless it was given an order.
pub(crate) fn child(work: fn(&str, Hook<'_>)) {
    let Ok(given) = std::env::var(ORDER) else { return };
    on_mount_thread(move || {
        let (die, order) = given.split_once('|').unwrap();
        let (mut done, die): (usize, usize) = (0, die.parse().unwrap());
        work(order, &mut |run, step| {
            if done == die {
                kill(getpid(), Signal::SIGKILL).unwrap();
            }
            done += 1;
            run.run(step)
        });
        // After the last step.
        kill(getpid(), Signal::SIGKILL).unwrap();
    });
}
