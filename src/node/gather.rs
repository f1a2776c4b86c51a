//! Reads all mount namespaces of the machine: which process or pod uses each, and what is mounted in it.
//!
//! Namespaces are found by their processes, by threads with a namespace of their own, and by the kernel's list. The
//! list also has those that only a descriptor or a bind mount keeps alive. It is read by the ioctls of Linux 6.12:
//! listns(2) of 6.19 lists no others, and a container's seccomp profile may refuse it.
//!
//! Nothing here accesses a mounted file system. /proc answers from the kernel's memory, so a dead NFS server delays
//! nothing. The one exception, the kubelet's log directory, is read by a thread that isn't waited for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use kernel::calls::Calls;
use kernel::namespace::{MountNamespace, Proc};
use model::kubelet;
use model::machine::{Container, LeftOut, Machine, Namespace, Pod, Process, UNKNOWN, names};
use mounts::Errno;

use crate::processes::{Processes, first_at_root, namespace_of};
use crate::read::{self, Found, Read};

/// The initial namespaces (include/linux/proc_ns.h).
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// The most threads that read tables.
const READERS: usize = 4;
/// One more thread for this many namespaces.
const WORTH_A_READER: usize = 8;
/// How long the kubelet's log directories may take to answer.
const LOGS_TIMEOUT: Duration = Duration::from_secs(1);

/// `/proc` can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("/proc can't be read ({0}): mount it, or run on the node")]
pub struct NoProc(pub Errno);

/// Reads all mount namespaces. The result doesn't depend on which system calls exist.
///
/// # Errors
/// That there is no usable `/proc`. All else that can't be read is in [`Machine::left_out`].
pub fn gather(proc: &Proc, calls: Calls) -> Result<Machine, NoProc> {
    let pids = proc.processes().map_err(NoProc)?;
    let mut left_out = Vec::new();
    let mut processes = Processes::of(proc, &pids);
    let (list, refusal) = list(proc);
    let is_known = |n: &MountNamespace| processes.by_namespace.contains_key(&n.inode);
    let without: Vec<MountNamespace> = list.into_iter().filter(|n| !is_known(n)).collect();
    if refusal.is_some() || !without.is_empty() {
        // Somebody keeps them, and it may be a thread: only now are all threads worth asking.
        add_threads(proc, &mut processes);
    }
    let mut namespaces = Vec::new();
    for result in read_all(proc, calls, to_read(proc, processes.by_namespace, without)) {
        match result {
            Ok((pids, inode, read)) => {
                left_out.extend(read.left_out);
                let (user_namespace, table) = (read.user_namespace, read.table);
                let processes = pids.into_iter().map(|pid| process(proc, pid)).collect();
                namespaces.push(Namespace { inode, user_namespace, processes, table, ..Namespace::default() });
            }
            Err(why) => left_out.push(why),
        }
    }
    let nameless = add_closed(proc, &processes.closed, &mut namespaces);
    for namespace in &mut namespaces {
        namespace.processes.sort_by_key(|process| process.pid);
        name(proc, namespace);
    }
    namespaces.sort_by_key(|n| {
        let first = n.processes.first().map(|process| process.pid);
        (first.is_none(), first != Some(1), first, n.inode)
    });
    name_pods(&mut namespaces, &mut left_out);
    left_out.extend(limits(proc, &pids, nameless, refusal));
    left_out.extend(unread_bound(&namespaces));
    Ok(Machine { namespaces, left_out })
}

/// Threads that are in another namespace than their process, in place of the process.
fn add_threads(proc: &Proc, processes: &mut Processes) {
    let own: Vec<(i32, u64)> =
        processes.by_namespace.iter().flat_map(|(&inode, pids)| pids.iter().map(move |&pid| (pid, inode))).collect();
    for (pid, inode) in own {
        for thread in proc.names(&format!("{pid}/task")).unwrap_or_default() {
            let Some(thread) = thread.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            if thread != pid
                && let Ok(other) = namespace_of(proc, thread)
                && other != inode
            {
                processes.add(other, thread);
            }
        }
    }
    processes.by_namespace.values_mut().for_each(|pids| pids.sort_unstable());
}

/// What is to be read: the namespaces of processes, then those without any, unless a thread was found in them.
fn to_read(proc: &Proc, by_namespace: BTreeMap<u64, Vec<i32>>, without: Vec<MountNamespace>) -> Vec<Found> {
    let own = proc.own_mount_namespace().ok().map(|own| own.inode);
    let without: Vec<Found> = without
        .into_iter()
        .filter(|n| !by_namespace.contains_key(&n.inode))
        .map(|held| Found { inode: held.inode, pids: Vec::new(), at_root: None, doubtful: false, held: Some(held) })
        .collect();
    let found = by_namespace.into_iter().map(|(inode, pids)| {
        let at_root = first_at_root(proc, &pids);
        Found { inode, pids, at_root, doubtful: own == Some(inode), held: None }
    });
    found.chain(without).collect()
}

/// The mount namespaces that the kernel lists, including ours, and the error that ended the list.
fn list(proc: &Proc) -> (Vec<MountNamespace>, Option<Errno>) {
    let mut found = Vec::new();
    for backwards in [false, true] {
        let mut at = match proc.own_mount_namespace() {
            Ok(own) => own,
            Err(errno) => return (found, Some(errno)),
        };
        loop {
            match at.neighbour(backwards) {
                Ok(Some(next)) => found.push(std::mem::replace(&mut at, next)),
                Ok(None) => break,
                Err(errno) => return (found, Some(errno)),
            }
        }
        found.push(at);
    }
    (found, None)
}

/// Reads namespaces on a few threads, which enter some of them. Results are in the given order.
#[expect(clippy::type_complexity, reason = "what is known of each, and what was read")]
fn read_all(proc: &Proc, calls: Calls, found: Vec<Found>) -> Vec<Result<(Vec<i32>, u64, Read), LeftOut>> {
    let count = found.len();
    let readers = thread::available_parallelism().map_or(1, usize::from).min(READERS).min(count / WORTH_A_READER + 1);
    let queue = Mutex::new(found.into_iter().enumerate());
    let (to, from) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..readers {
            let (queue, to) = (&queue, to.clone());
            let work = move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((place, found)) = next else { break };
                    let (pids, inode) = (found.pids.clone(), found.inode);
                    let _ = to.send((place, read::read(proc, calls, found).map(|read| (pids, inode, read))));
                }
            };
            // If a thread can't start, the others do its share. If none can, the result is empty.
            let _ = thread::Builder::new().name("mount tables".to_owned()).spawn_scoped(scope, work);
        }
        drop(to);
        let mut results: Vec<_> = from.iter().collect();
        results.sort_by_key(|(place, _)| *place);
        results.into_iter().map(|(_, result)| result).collect()
    })
}

/// The process with this pid.
#[must_use]
pub fn process(proc: &Proc, pid: i32) -> Process {
    let name = proc.read(&format!("{pid}/comm")).unwrap_or_default();
    Process { pid, name: String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned() }
}

/// Assigns processes whose namespace link we may not read to namespaces, by their mount tables, which everybody may
/// read. Mount ids are unique on the machine, and a mount is in one namespace. Returns how many processes are in
/// namespaces whose inode isn't known.
fn add_closed(proc: &Proc, closed: &[i32], namespaces: &mut Vec<Namespace>) -> usize {
    /// Enough for a line with the longest paths, and what the kernel returns at once.
    const FIRST: usize = 4096;
    if closed.is_empty() {
        return 0;
    }
    let mut owner: HashMap<u64, usize> = HashMap::new();
    for (index, namespace) in namespaces.iter().enumerate() {
        owner.extend(namespace.table.mounts.iter().map(|mount| (mount.id, index)));
    }
    for &pid in closed {
        let path = format!("{pid}/mountinfo");
        let Ok(first) = proc.read_start(&path, FIRST) else { continue };
        let id = first.split(|b| *b == b' ').next().and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        let Some(id) = id else { continue };
        if let Some(&index) = owner.get::<u64>(&id) {
            namespaces[index].processes.push(process(proc, pid));
            continue;
        }
        let Ok((table, _)) = read::stable(|| read::mountinfo(proc, &path)) else { continue };
        let known = table.mounts.iter().find_map(|mount| owner.get(&mount.id).copied());
        let index = known.unwrap_or_else(|| {
            namespaces.push(Namespace { inode: UNKNOWN, ..Namespace::default() });
            namespaces.len() - 1
        });
        owner.extend(table.mounts.iter().map(|mount| (mount.id, index)));
        let namespace = &mut namespaces[index];
        namespace.processes.push(process(proc, pid));
        // One of the processes is chrooted: keep the larger table.
        if table.mounts.len() > namespace.table.mounts.len() {
            namespace.table = table;
        }
    }
    namespaces.iter().filter(|namespace| namespace.inode == UNKNOWN).map(|namespace| namespace.processes.len()).sum()
}

/// Finds container and pod of namespaces whose processes and tables are known. `kubelets` are processes that see the
/// kubelet's log directory, which has the pods' names.
pub fn name_all(proc: &Proc, namespaces: &mut [Namespace], kubelets: Vec<i32>) {
    namespaces.iter_mut().for_each(|namespace| name(proc, namespace));
    if namespaces.iter().any(|namespace| namespace.pod.is_some()) {
        let (known, _) = logs(kubelets);
        for pod in namespaces.iter_mut().filter_map(|namespace| namespace.pod.as_mut()) {
            pod.name = known.get(&pod.uid).cloned();
        }
    }
}

/// Finds the container and pod of a namespace.
fn name(proc: &Proc, namespace: &mut Namespace) {
    let Some(first) = namespace.processes.first() else { return };
    let group = proc.read(&format!("{}/cgroup", first.pid)).unwrap_or_default();
    let group = names::group(&String::from_utf8_lossy(&group));
    let files = names::kubelet_files(&namespace.table);
    // Process 1 of the machine is in no container. Inside a container, our own cgroup reads `/`.
    namespace.container = (group.container.is_some() || files.container.is_some())
        .then_some(Container { id: group.container, name: files.container });
    namespace.pod = files.pod.or(group.pod).map(|uid| Pod { uid, name: None });
}

/// Names the pods, from the directories in which the kubelet keeps their logs.
fn name_pods(namespaces: &mut [Namespace], left_out: &mut Vec<LeftOut>) {
    if namespaces.iter().all(|namespace| namespace.pod.is_none()) {
        return;
    }
    let kubelets: Vec<i32> = namespaces
        .iter()
        .flat_map(|namespace| &namespace.processes)
        .filter(|process| process.pid == 1 || kubelet::NAMES.contains(&process.name.as_str()))
        .map(|process| process.pid)
        .collect();
    let (known, refusals) = logs(kubelets);
    for pod in namespaces.iter_mut().filter_map(|namespace| namespace.pod.as_mut()) {
        pod.name = known.get(&pod.uid).cloned();
    }
    let unnamed: HashSet<&str> = namespaces
        .iter()
        .filter_map(|namespace| namespace.pod.as_ref())
        .filter(|pod| pod.name.is_none())
        .map(|pod| pod.uid.as_str())
        .collect();
    if let (false, Some(why)) = (unnamed.is_empty(), refusals) {
        left_out.push(LeftOut {
            what: format!("the names of {} pods", unnamed.len()),
            why: format!("/var/log/pods of the node can't be read ({why})"),
        });
    }
}

/// The pods in the kubelets' log directories, by uid, and why a directory could not be read.
fn logs(kubelets: Vec<i32>) -> (HashMap<String, (String, String)>, Option<String>) {
    let (to, from) = mpsc::channel();
    let work = move || {
        let Ok(proc) = Proc::new() else { return };
        for pid in kubelets {
            let _ = to.send(proc.names(&format!("{pid}/root/var/log/pods")));
        }
    };
    let started = thread::Builder::new().name("pod logs".to_owned()).spawn(work);
    let mut why = started.err().map(|error| error.to_string());
    let mut known = HashMap::new();
    loop {
        match from.recv_timeout(LOGS_TIMEOUT) {
            Ok(Ok(directories)) => {
                let pods = directories.iter().filter_map(|name: &OsString| names::log_directory(name));
                known.extend(pods.filter_map(|pod| Some((pod.uid, pod.name?))));
            }
            Ok(Err(errno)) => why = Some(errno.to_string()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return (known, Some(format!("no answer within {LOGS_TIMEOUT:?}")));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return (known, why),
        }
    }
}

/// What can't be seen without more rights or a newer kernel.
fn limits(proc: &Proc, pids: &[i32], nameless: usize, refusal: Option<Errno>) -> Vec<LeftOut> {
    let mut limits = Vec::new();
    let mut say = |what: String, why: &str| limits.push(LeftOut { what, why: why.to_owned() });
    let is = |link: &str, first: &str| proc.link(link).is_ok_and(|text| text == first);
    if !pids.contains(&1) {
        say("processes of other users".to_owned(), "/proc hides them (hidepid): run it as root");
    }
    if !is("self/ns/pid", FIRST_PID_NAMESPACE) {
        say(
            "processes outside of this PID namespace".to_owned(),
            "run it on the node itself, or in a pod with hostPID: true",
        );
    }
    if nameless > 0 {
        say(
            format!("the inodes of the mount namespaces of {nameless} processes, and what lies outside of their roots"),
            "they may not be traced by us: run it as root (CAP_SYS_PTRACE). Their mount tables could be read all the \
             same, and tell which of them share a namespace",
        );
    }
    match refusal {
        Some(Errno::ENOTTY | Errno::EINVAL) => {
            say("namespaces that no process is in".to_owned(), "Linux lists them since 6.12");
        }
        Some(errno) => say(
            "namespaces that no process is in".to_owned(),
            &format!("the kernel lists them to root in the first user namespace only ({errno})"),
        ),
        None if !is("self/ns/user", FIRST_USER_NAMESPACE) || nameless > 0 => say(
            "namespaces that no process is in, of other users".to_owned(),
            "the kernel lists those only that we administer: run it as root in the first user namespace",
        ),
        None => {}
    }
    limits
}

/// Namespaces that a bind mount keeps alive and that were found in no other way.
fn unread_bound(namespaces: &[Namespace]) -> Vec<LeftOut> {
    let mut known: HashSet<u64> = namespaces.iter().map(|namespace| namespace.inode).collect();
    let mut unread = Vec::new();
    for namespace in namespaces {
        for mount in &namespace.table.mounts {
            let Some(inode) = names::kept_namespace(&mount.fs_type, &mount.root) else { continue };
            if known.insert(inode) {
                let place = mount.mount_point.display();
                unread.push(LeftOut {
                    what: format!("mnt:[{inode}], which is kept by a bind mount at {place:?} in {}", namespace.label()),
                    why: "nothing else leads to it: as root, nsenter --mount=FILE hostmount inspect".to_owned(),
                });
            }
        }
    }
    unread
}
