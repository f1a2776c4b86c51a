//! Keeps an eye on all mount namespaces: an open mount table of each, and the kernel's events where they are to be had.
//!
//! poll(2) on an open mountinfo tells that its table has changed, and so which tables are to be read anew
//! (fs/proc_namespace.c, `mounts_poll`). That is the whole of it for those without rights, and on kernels before 6.15;
//! there, what comes and goes between two readings is missed. With fanotify each mount is named, and asked for at once.
//!
//! (A thread does that, so that reading large tables keeps no mount from being asked for while it is there.)
//!
//! An open mountinfo keeps its namespace alive, with all that is mounted there. So of each namespace one process is
//! watched too, and when the last has ended the table is closed at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use kernel::calls::Calls;
use kernel::namespace::Proc;
use model::machine::{Machine, Namespace, Process, names};
use mounts::Errno;
use mounts::mountinfo::{self, Table};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use node::gather;

use super::cut;
use super::diff::{self, Change};
use super::ledger::{Ledger, Named};
use super::namer::{Inbox, Namer};
use super::origin::{self, Told};
use crate::visit::find_kubelet;

/// Mounts come in swarms: after the first, this is waited before the tables are read; and as long as the reading took the
/// last time, so that large tables which change all the time cost half a core at most.
const SETTLE: Duration = Duration::from_millis(10);
const SETTLE_MAX: Duration = Duration::from_millis(500);
/// How often a table is read that is torn each time.
const READINGS: usize = 5;
/// For so long it is asked anew whose a namespace is: a container gets the files that tell its name while it is set up.
const SETTING_UP: Duration = Duration::from_secs(30);

/// A namespace that is watched.
#[derive(Debug)]
struct Watched {
    /// Its open mountinfo.
    table: File,
    /// A process in it; readable when that has ended. None where the kernel has no such thing.
    process: Option<OwnedFd>,
    /// Whether its table has changed since it was read.
    dirty: bool,
    /// When it was met.
    since: Instant,
}

/// What a look at the processes found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Namespaces that are new, by their places in the machine.
    pub(super) started: Vec<usize>,
    /// Namespaces that no process is in any more. Their places are others' by now.
    pub(super) ended: Vec<Namespace>,
    /// Namespaces that can't be watched though we may, by inode: EMFILE above all. Each is told once.
    pub(super) refused: Vec<(u64, Errno)>,
}

/// What a round found.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// The events: each the origin and its copies.
    pub(super) events: Vec<Vec<Told>>,
    /// How many mounts came and went before they could be asked for.
    pub(super) nameless: usize,
    /// Whether the kernel lost events.
    pub(super) lost: bool,
}

/// All namespaces that can be watched.
#[derive(Debug)]
pub(super) struct Live {
    proc: Proc,
    namer: Option<Namer>,
    /// In the same order as the machine's.
    watched: Vec<Watched>,
    machine: Machine,
    kubelet: i32,
    ledger: Ledger,
    /// Mounts that were named and left to the next round.
    named: Vec<Named>,
    settle: Duration,
    /// Processes whose namespaces we may not watch.
    closed: usize,
    /// Namespaces that can't be watched for another reason.
    refused: HashSet<u64>,
}

impl Live {
    /// Begins to watch, by polling alone if told so. Says also why there are no events, if so, and
    /// what the first scan found.
    ///
    /// # Errors
    /// That there is no usable `/proc`.
    pub(super) fn begin(poll_only: bool) -> Result<(Self, Option<Errno>, Scan), String> {
        let proc = Proc::new().map_err(|e| format!("/proc cannot be opened: {e}"))?;
        let (namer, refusal) = match Namer::start(Calls::probe()) {
            _ if poll_only => (None, None),
            Ok(namer) => (Some(namer), None),
            Err(errno) => (None, Some(errno)),
        };
        let kubelet = find_kubelet(&proc, None).0.pid;
        let mut live = Self {
            proc,
            namer,
            watched: Vec::new(),
            machine: Machine::default(),
            kubelet,
            ledger: Ledger::default(),
            named: Vec::new(),
            settle: SETTLE,
            closed: 0,
            refused: HashSet::new(),
        };
        let first = live.scan()?;
        Ok((live, refusal, first))
    }

    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// How many processes are in namespaces that we may not watch.
    pub(super) const fn closed(&self) -> usize {
        self.closed
    }

    /// Whether mounts are named by the kernel.
    pub(super) const fn by_events(&self) -> bool {
        self.namer.is_some()
    }

    /// The namespace of a process.
    pub(super) fn namespace_of(&self, pid: i32) -> Result<u64, Errno> {
        let link = self.proc.link(&format!("{pid}/ns/mnt"))?;
        names::namespace_link(&link).ok_or(Errno::ENOENT)
    }

    /// Looks which namespaces there are.
    ///
    /// # Errors
    /// That `/proc` can't be read.
    pub(super) fn scan(&mut self) -> Result<Scan, String> {
        let mut found: BTreeMap<u64, Vec<i32>> = BTreeMap::new();
        self.closed = 0;
        for pid in self.proc.processes().map_err(|e| format!("/proc cannot be read: {e}"))? {
            match self.proc.link(&format!("{pid}/ns/mnt")) {
                Ok(link) => {
                    if let Some(inode) = names::namespace_link(&link) {
                        found.entry(inode).or_default().push(pid);
                    }
                }
                Err(Errno::EACCES | Errno::EPERM) => self.closed += 1,
                // It has ended.
                Err(_) => {}
            }
        }
        let mut scan = Scan::default();
        for index in (0..self.watched.len()).rev() {
            let Some(pids) = found.remove(&self.machine.namespaces[index].inode) else {
                self.watched.remove(index);
                let ended = self.machine.namespaces.remove(index);
                if let Some(namer) = &self.namer {
                    namer.forget(ended.inode);
                }
                scan.ended.push(ended);
                continue;
            };
            self.keep(index, &pids);
        }
        scan.ended.reverse();
        // That of process 1 first, as elsewhere.
        let mut new: Vec<(u64, Vec<i32>)> = found.into_iter().collect();
        new.sort_by_key(|(_, pids)| pids.first().copied());
        let from = self.watched.len();
        for (inode, pids) in new {
            match self.add(inode, &pids) {
                Ok(()) => {}
                Err(Errno::EACCES | Errno::EPERM) => self.closed += pids.len(),
                // It has ended meanwhile.
                Err(Errno::ENOENT | Errno::ESRCH | Errno::EINVAL) => {}
                Err(errno) if self.refused.insert(inode) => scan.refused.push((inode, errno)),
                Err(_) => {}
            }
        }
        let kubelets = vec![1, self.kubelet];
        gather::name_all(&self.proc, &mut self.machine.namespaces[from..], kubelets);
        scan.started = (from..self.watched.len()).collect();
        Ok(scan)
    }

    /// Brings up to date what is known of a namespace's processes.
    fn keep(&mut self, index: usize, pids: &[i32]) {
        let (watched, namespace) = (&mut self.watched[index], &mut self.machine.namespaces[index]);
        if namespace.processes.iter().map(|process| process.pid).ne(pids.iter().copied()) {
            let mut known: HashMap<i32, Process> = namespace.processes.drain(..).map(|p| (p.pid, p)).collect();
            let process = |&pid: &i32| known.remove(&pid).unwrap_or_else(|| gather::process(&self.proc, pid));
            namespace.processes = pids.iter().map(process).collect();
        }
        if watched.process.as_ref().is_none_or(|process| is_ready(process, PollFlags::POLLIN)) {
            watched.process = pids.iter().find_map(|&pid| Proc::process(pid).ok());
        }
        let is_named = namespace.pod.as_ref().is_some_and(|pod| pod.name.is_some())
            && namespace.container.as_ref().is_some_and(|container| container.name.is_some());
        if !is_named && watched.since.elapsed() < SETTING_UP {
            let known = (namespace.container.take(), namespace.pod.take());
            gather::name_all(&self.proc, std::slice::from_mut(namespace), vec![1, self.kubelet]);
            if namespace.pod.is_none() && namespace.container.is_none() {
                (namespace.container, namespace.pod) = known;
            }
        }
    }

    fn add(&mut self, inode: u64, pids: &[i32]) -> Result<(), Errno> {
        let is_at_root = |pid: &i32| self.proc.link(&format!("{pid}/root")).is_ok_and(|root| root == "/");
        let pid = pids.iter().copied().find(is_at_root).or_else(|| pids.first().copied()).ok_or(Errno::ESRCH)?;
        let process = Proc::process(pid).ok();
        let namespace = self.proc.mount_namespace(pid)?;
        let table = File::from(self.proc.open(&format!("{pid}/mountinfo"))?);
        // The number may have been given to another process meanwhile.
        if namespace.inode != inode || self.namespace_of(pid)? != inode {
            return Err(Errno::ESRCH);
        }
        // Before the table is read, so that nothing is missed in between.
        if let Some(namer) = &self.namer {
            namer.add(&namespace)?;
        }
        let mut watched = Watched { table, process, dirty: false, since: Instant::now() };
        let table = watched.read()?;
        self.watched.push(watched);
        let processes = pids.iter().map(|&pid| gather::process(&self.proc, pid)).collect();
        self.machine.namespaces.push(Namespace { inode, processes, table, ..Namespace::default() });
        Ok(())
    }

    /// What is to be polled beside what the caller polls.
    pub(super) fn descriptors(&self) -> Vec<PollFd<'_>> {
        let named = self.namer.iter().map(|namer| PollFd::new(namer.came.as_fd(), PollFlags::POLLIN));
        let tables = self.watched.iter().map(|w| PollFd::new(w.table.as_fd(), PollFlags::POLLPRI));
        let processes = self.watched.iter().filter_map(|w| w.process.as_ref());
        named.chain(tables).chain(processes.map(|process| PollFd::new(process.as_fd(), PollFlags::POLLIN))).collect()
    }

    /// Takes down what poll(2) said of these descriptors. Whether a watched process has ended, and whether there is
    /// something to be looked at.
    pub(super) fn take(&mut self, events: &[PollFlags]) -> (bool, bool) {
        let groups = usize::from(self.namer.is_some());
        let said = |at: usize| events.get(at).is_some_and(|events| !events.is_empty());
        for (index, watched) in self.watched.iter_mut().enumerate() {
            watched.dirty |= said(groups + index);
        }
        let ended = (groups + self.watched.len()..events.len()).any(said);
        (ended, (groups > 0 && said(0)) || self.watched.iter().any(|watched| watched.dirty))
    }

    /// Reads the tables that have changed and finds out what has happened.
    pub(super) fn round(&mut self) -> Round {
        std::thread::sleep(self.settle);
        let begun = Instant::now();
        let mut before = HashMap::new();
        let Inbox { mut named, nameless, lost } = self.inbox();
        named.splice(..0, std::mem::take(&mut self.named));
        self.poll_tables();
        self.read_dirty(&mut before);
        let first: HashMap<usize, Table> =
            before.keys().map(|&index| (index, self.machine.namespaces[index].table.clone())).collect();
        self.poll_tables();
        let again = self.watched.iter().any(|watched| watched.dirty);
        if again {
            self.read_dirty(&mut before);
        }
        // What the tables show now was queued by now, or is about to be.
        let Inbox { named: late, nameless: more, lost: again_lost } = self.inbox();
        let (nameless, lost) = (nameless + more, lost || again_lost);
        let mut changes: Vec<Change> = Vec::new();
        let mut indices: Vec<usize> = before.keys().copied().collect();
        indices.sort_unstable();
        for index in indices {
            changes.extend(diff::tables(index, &before[&index], &self.machine.namespaces[index].table));
        }
        if self.by_events() {
            self.named = self.ledger.explain(&self.machine, &before, (named, late), &mut changes);
        }
        let mut events = origin::events(&self.machine, &before, changes);
        if again {
            let names = cut::leave(&mut self.machine, &before, &first, &mut events);
            self.named.splice(..0, names);
            // What was left is told in the next round, whether or not anything else happens.
            for &index in before.keys() {
                self.watched[index].dirty = true;
            }
        }
        self.settle = begun.elapsed().clamp(SETTLE, SETTLE_MAX);
        if lost {
            // The tables are compared all the same: those that have changed say so by themselves.
            self.ledger = Ledger::default();
        }
        Round { events, nameless, lost }
    }

    /// Whether another round is due at once.
    pub(super) fn is_due(&self) -> bool {
        !self.named.is_empty() || self.watched.iter().any(|watched| watched.dirty)
    }

    fn inbox(&self) -> Inbox {
        self.namer.as_ref().map(Namer::take).unwrap_or_default()
    }

    fn poll_tables(&mut self) {
        let mut fds: Vec<PollFd<'_>> =
            self.watched.iter().map(|w| PollFd::new(w.table.as_fd(), PollFlags::POLLPRI)).collect();
        if poll(&mut fds, PollTimeout::ZERO).is_err() {
            return;
        }
        let said: Vec<bool> = fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
        for (watched, said) in self.watched.iter_mut().zip(said) {
            watched.dirty |= said;
        }
    }

    fn read_dirty(&mut self, before: &mut HashMap<usize, Table>) {
        for (index, watched) in self.watched.iter_mut().enumerate().filter(|(_, watched)| watched.dirty) {
            watched.dirty = false;
            // One that can't be read keeps its table; its process is about to end.
            if let Ok(table) = watched.read() {
                let old = std::mem::replace(&mut self.machine.namespaces[index].table, table);
                before.entry(index).or_insert(old);
            }
        }
    }
}

impl Watched {
    /// Reads the table, again if it was torn by a change.
    fn read(&mut self) -> Result<Table, Errno> {
        let mut table = Table::default();
        for _ in 0..READINGS {
            let mut bytes = Vec::new();
            let read = self.table.seek(SeekFrom::Start(0)).and_then(|_| self.table.read_to_end(&mut bytes));
            read.map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
            table = mountinfo::parse(&bytes);
            let changed = is_ready(&self.table, PollFlags::POLLPRI);
            self.dirty |= changed;
            if !changed && table.tear().is_none() {
                self.dirty = false;
                break;
            }
        }
        Ok(table)
    }
}

fn is_ready(fd: impl AsFd, events: PollFlags) -> bool {
    poll(&mut [PollFd::new(fd.as_fd(), events)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
