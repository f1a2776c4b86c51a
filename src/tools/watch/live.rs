//! Watches all mount namespaces: an open mount table of each, and the kernel's mount events where available.
//!
//! poll(2) on an open mountinfo tells that the table has changed and must be read again (fs/proc_namespace.c, `mounts_poll`).
//! Without privileges, and before Linux 6.15, this is all there is: mounts that come and go between two readings are missed. With
//! fanotify the kernel reports each mount, and a separate thread queries it at once, while large tables are being read.
//!
//! An open mountinfo keeps its namespace and all its mounts alive. So one process of each namespace is watched too, and the table
//! is closed as soon as the last process has ended.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use kernel::calls::Calls;
use kernel::namespace::Proc;
use model::machine::{Machine, Namespace, Process};
use mounts::Errno;
use mounts::mountinfo::{self, Table};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use node::processes::{self, Processes, first_at_root};
use node::{gather, kubelet};

use super::cut;
use super::diff::{self, Change};
use super::error::WatchError;
use super::ledger::{Ledger, Named};
use super::namer::{Inbox, Namer};
use super::origin::{self, CausedChange};

/// The wait between the first change and reading the tables, because mounts often come in groups. It is at least as long as the
/// last reading took, so that large tables that change all the time cost half a core at most.
const SETTLE: Duration = Duration::from_millis(10);
const SETTLE_MAX: Duration = Duration::from_millis(500);
/// How often a torn table is read again.
const READINGS: usize = 5;
/// How long the owner of a new namespace is looked up again: the files that tell a container's name are mounted during its
/// set-up.
const SETTING_UP: Duration = Duration::from_secs(30);

/// A namespace that is watched.
#[derive(Debug)]
struct Watched {
    /// Its open mountinfo.
    table: File,
    /// A pidfd of a process in it, readable when that has ended. None if the kernel has no pidfds.
    process: Option<OwnedFd>,
    /// Whether its table has changed since it was read.
    dirty: bool,
    /// When it was found.
    since: Instant,
}

/// The result of a scan of the processes.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// New namespaces, by their index in the machine.
    pub(super) started: Vec<usize>,
    /// Namespaces whose last process has ended. They are no longer in the machine.
    pub(super) ended: Vec<Namespace>,
    /// Namespaces that can't be watched although that is permitted, by inode; mostly EMFILE. Each is reported once.
    pub(super) refused: Vec<(u64, Errno)>,
}

/// The result of a round.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// The events: each the origin and its copies.
    pub(super) events: Vec<Vec<CausedChange>>,
    /// How many mounts came and went before they could be queried.
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
    /// Reported mounts that are left to the next round.
    named: Vec<Named>,
    settle: Duration,
    /// Processes whose namespaces we may not watch.
    closed: usize,
    /// Namespaces that can't be watched for another reason.
    refused: HashSet<u64>,
}

impl Live {
    /// Starts watching, with `poll_only` without the kernel's events. Returns also why there are no events, if there are none,
    /// and the first scan.
    ///
    /// # Errors
    /// `/proc` can't be opened or read.
    pub(super) fn begin(poll_only: bool) -> Result<(Self, Option<Errno>, Scan), WatchError> {
        let proc = Proc::new().map_err(WatchError::OpenProc)?;
        let (namer, refusal) = match Namer::start(Calls::probe()) {
            _ if poll_only => (None, None),
            Ok(namer) => (Some(namer), None),
            Err(errno) => (None, Some(errno)),
        };
        let kubelet = kubelet::find(&proc, None).0.pid;
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

    /// Whether the kernel reports mounts.
    pub(super) const fn by_events(&self) -> bool {
        self.namer.is_some()
    }

    /// The namespace of a process.
    pub(super) fn namespace_of(&self, pid: i32) -> Result<u64, Errno> {
        processes::namespace_of(&self.proc, pid)
    }

    /// Finds new and ended namespaces.
    ///
    /// # Errors
    /// That `/proc` can't be read.
    pub(super) fn scan(&mut self) -> Result<Scan, WatchError> {
        let pids = self.proc.processes().map_err(WatchError::ReadProc)?;
        let Processes { by_namespace: mut found, closed } = Processes::of(&self.proc, &pids);
        self.closed = closed.len();
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

    /// Updates what is known of a namespace's processes.
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
        let pid = first_at_root(&self.proc, pids).or_else(|| pids.first().copied()).ok_or(Errno::ESRCH)?;
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

    /// The descriptors to poll.
    pub(super) fn descriptors(&self) -> Vec<PollFd<'_>> {
        let named = self.namer.iter().map(|namer| PollFd::new(namer.came.as_fd(), PollFlags::POLLIN));
        let tables = self.watched.iter().map(|w| PollFd::new(w.table.as_fd(), PollFlags::POLLPRI));
        let processes = self.watched.iter().filter_map(|w| w.process.as_ref());
        named.chain(tables).chain(processes.map(|process| PollFd::new(process.as_fd(), PollFlags::POLLIN))).collect()
    }

    /// Takes the result of poll(2) for these descriptors. Returns whether a watched process has ended, and whether a table has
    /// changed or a mount was reported.
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
