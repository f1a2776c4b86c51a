//! Reads the mount table of one namespace, as seen from its root.
//!
//! mountinfo shows a process the mounts beneath its own root, with paths from that root. So there are three ways, in
//! this order:
//!
//! - Read the mountinfo of a process whose root is the namespace's.
//! - If there is none, enter the namespace with a thread, whose root then is the namespace's (setns(2)).
//! - If that isn't allowed, take the largest part that a process sees, and report it.
//!
//! statmount(2) comes first if it tells the same and the namespace may be entered: it costs half.

use kernel::calls::Calls;
use kernel::namespace::{self, MountNamespace, Proc};
use model::machine::{LeftOut, UNKNOWN};
use mounts::Errno;
use mounts::mountinfo::{Table, parse};

use crate::processes::namespace_of;

/// How often a table is read if it changes each time.
const READINGS: usize = 5;

/// A namespace to be read.
#[derive(Debug)]
pub(super) struct Found {
    /// Its inode.
    pub(super) inode: u64,
    /// The pids of the processes (and threads) in it, in ascending order.
    pub(super) pids: Vec<i32>,
    /// The first of them whose root is the namespace's root.
    pub(super) at_root: Option<i32>,
    /// Whether a thread should enter it even if a process seems to be at its root. It is our own namespace, and a path
    /// seen from our own root proves nothing.
    pub(super) doubtful: bool,
    /// The namespace itself, if it is open already.
    pub(super) held: Option<MountNamespace>,
}

/// What was read of a namespace.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) table: Table,
    pub(super) user_namespace: Option<u64>,
    pub(super) left_out: Vec<LeftOut>,
}

/// Reads a namespace. The calling thread may stay in it afterwards, so it must be used for nothing else.
///
/// # Errors
/// Why it can't be read.
pub(super) fn read(proc: &Proc, calls: Calls, mut found: Found) -> Result<Read, LeftOut> {
    let inode = found.inode;
    let held = found.held.take().or_else(|| hold(proc, &found));
    let user_namespace = held.as_ref().and_then(|held| held.user_namespace().ok());
    let finish = |(table, torn): (Table, bool)| {
        let mut left_out = Vec::new();
        if torn {
            left_out.push(LeftOut {
                what: format!("mounts of mnt:[{inode}], perhaps"),
                why: format!("its table changed during each of {READINGS} readings: run it again"),
            });
        }
        if table.skipped > 0 {
            left_out.push(LeftOut {
                what: format!("{} lines of the mount table of mnt:[{inode}]", table.skipped),
                why: "they could not be understood: please report them".to_owned(),
            });
        }
        Read { table, user_namespace, left_out }
    };
    // Whatever the error, mountinfo is asked next, and says more about it.
    if let Some(held) = &held
        && let Ok(read) = stable(|| calls.table_of(proc, held))
    {
        return Ok(finish(read));
    }
    if !found.doubtful
        && let Some(read) = by_process(proc, &found)
    {
        return Ok(finish(read));
    }
    let entered = held.as_ref().map_or(Err(Errno::ESRCH), |held| by_entering(proc, held));
    let errno = match entered {
        Ok(read) => return Ok(finish(read)),
        Err(errno) => errno,
    };
    if let Some(read) = by_process(proc, &found) {
        return Ok(finish(read));
    }
    let whole = held.as_ref().and_then(|held| held.count().ok());
    let Some((pid, read)) = largest_part(proc, &found) else {
        return Err(match found.pids.first() {
            Some(pid) => LeftOut {
                what: format!("mnt:[{inode}], the namespace of process {pid}"),
                why: format!("it ended while it was read ({errno})"),
            },
            None => LeftOut {
                what: format!("mnt:[{inode}], which no process is in"),
                why: format!("it can't be entered ({errno}): run it as root in the first user namespace"),
            },
        });
    };
    let seen = read.0.mounts.len();
    let mut read = finish(read);
    let of = whole.map_or_else(String::new, |whole| format!(" of {whole}"));
    read.left_out.push(LeftOut {
        what: format!("mounts of mnt:[{inode}] outside of the root of process {pid}: it sees {seen}{of}"),
        why: format!("all its processes are chrooted, and it can't be entered ({errno}): run it as root"),
    });
    Ok(read)
}

/// Opens the namespace by one of its processes.
fn hold(proc: &Proc, found: &Found) -> Option<MountNamespace> {
    let by = |pid: &i32| proc.mount_namespace(*pid).ok().filter(|namespace| namespace.inode == found.inode);
    found.at_root.iter().chain(&found.pids).find_map(by)
}

fn by_process(proc: &Proc, found: &Found) -> Option<(Table, bool)> {
    let pid = found.at_root?;
    let read = stable(|| mountinfo(proc, &format!("{pid}/mountinfo"))).ok()?;
    // The pid may belong to another process by now. A root that was left behind by an unmount sees nothing.
    (is_in(proc, pid, found.inode) && has_root(&read.0)).then_some(read)
}

fn by_entering(proc: &Proc, held: &MountNamespace) -> Result<(Table, bool), Errno> {
    namespace::enter(proc, held)?;
    stable(|| mountinfo(proc, "thread-self/mountinfo"))
}

fn largest_part(proc: &Proc, found: &Found) -> Option<(i32, (Table, bool))> {
    /// Chrooted processes see similar parts, and a table may be large.
    const ASKED: usize = 16;
    let parts = found.pids.iter().take(ASKED).filter_map(|&pid| {
        let read = stable(|| mountinfo(proc, &format!("{pid}/mountinfo"))).ok()?;
        is_in(proc, pid, found.inode).then_some((pid, read))
    });
    parts.max_by_key(|(pid, (table, _))| (table.mounts.len(), std::cmp::Reverse(*pid)))
}

fn is_in(proc: &Proc, pid: i32, inode: u64) -> bool {
    inode == UNKNOWN || namespace_of(proc, pid) == Ok(inode)
}

fn has_root(table: &Table) -> bool {
    table.mounts.iter().any(|mount| mount.mount_point.as_os_str() == "/")
}

/// The mountinfo of a process, and whether it changed while it was read.
///
/// # Errors
/// Those of [`Proc::table`].
pub(super) fn mountinfo(proc: &Proc, path: &str) -> Result<(Table, bool), Errno> {
    proc.table(path).map(|(bytes, changed)| (parse(&bytes), changed))
}

/// Reads a table until it doesn't change while it is read, and returns whether the last reading is torn.
///
/// # Errors
/// Those of `read`.
pub(super) fn stable(mut read: impl FnMut() -> Result<(Table, bool), Errno>) -> Result<(Table, bool), Errno> {
    let mut last = (Table::default(), false);
    for _ in 0..READINGS {
        let (table, changed) = read()?;
        let torn = table.tear().is_some();
        // A change need not tear the table: if it changes each time, the last one that looks whole is good enough.
        if !torn && !changed {
            return Ok((table, false));
        }
        if !torn || last.0.mounts.is_empty() {
            last = (table, torn);
        }
    }
    Ok(last)
}
