//! Finds the kubelet's process.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use kernel::namespace::Proc;
use model::kubelet::{self, Process};

use crate::processes::text;

/// How the kubelet's process was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// By the number that was given.
    Pid,
    /// By its name.
    Name,
    /// No process has the kubelet's name: process 1 is taken instead.
    Default,
}

/// The kubelet's process, how it was found, and others that might be meant.
#[must_use]
pub fn find(proc: &Proc, pid: Option<i32>) -> (Process, FoundBy, Vec<i32>) {
    if let Some(pid) = pid {
        return (process(proc, pid), FoundBy::Pid, Vec::new());
    }
    // Processes of root that have a kubelet's name.
    let of_root = |pid: i32| {
        proc.open(&pid.to_string()).is_ok_and(|fd| File::from(fd).metadata().is_ok_and(|stat| stat.uid() == 0))
    };
    let all = proc.processes().unwrap_or_default().into_iter().map(|pid| process(proc, pid));
    let candidates: Vec<Process> =
        all.filter(|p| kubelet::NAMES.contains(&p.name.as_str()) && of_root(p.pid)).collect();
    match kubelet::choose(&candidates) {
        Some((chosen, others)) => (chosen.clone(), FoundBy::Name, others),
        None => (process(proc, 1), FoundBy::Default, Vec::new()),
    }
}

fn process(proc: &Proc, pid: i32) -> Process {
    let depth = kubelet::depth(&text(proc, &format!("{pid}/status")));
    Process { pid, name: text(proc, &format!("{pid}/comm")), depth }
}
