//! Reads the mount namespaces of pods through /proc, and changes nothing. /proc answers from the kernel's memory.
//!
//! Tenants shape everything here: the number of namespaces, the number of mounts in each, the length of a line. So all
//! of it is bounded, and what is beyond a bound is [`Unknown`].

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::time::Instant;

use kernel::namespace::Proc;
use model::machine::names::namespace_link;
use mounts::{Errno, MountAttrs};

use super::judge::{Confinement, capabilities_up_to};
use super::scan::{Index, LINE_MAX, OfPod, Scan, Seen, Stop};
use super::{Container, Place, Unknown};

/// The most namespaces that are examined: many times the pods of a node.
const NAMESPACES_MAX: usize = 4096;
/// The most processes of a namespace that are asked for their confinement: those with the lowest pids.
const PROCESSES_MAX: usize = 64;
/// The most processes of a namespace that are asked for the mount table until one sees a pod's files: the first may
/// have another root.
const READERS_MAX: usize = 4;
/// The last capability of Linux 5.9 and later, for kernels that don't tell theirs.
const LAST_CAPABILITY: u32 = 40;

/// A mount namespace, and its processes with the lowest pids.
struct Namespace {
    inode: u64,
    processes: Vec<i32>,
}

/// Passes to `see` each container that has volumes, until the time `until`. Returns what could not be examined.
///
/// # Errors
/// The error of reading /proc itself.
pub fn look(proc: &Proc, index: &Index<'_>, until: Instant, see: &mut dyn FnMut(Container)) -> Result<Unknown, Errno> {
    let (namespaces, rest) = namespaces(proc)?;
    let mut unknown = Unknown { rest, ..Unknown::default() };
    let mut buffer = vec![0; LINE_MAX];
    let last = proc.read_start("sys/kernel/cap_last_cap", 16).ok();
    let last = last.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok()).unwrap_or(LAST_CAPABILITY);
    let all = capabilities_up_to(last);
    for (n, namespace) in namespaces.iter().enumerate() {
        if Instant::now() >= until {
            unknown.rest = Some(format!("{} mount namespaces could not be looked into in time", namespaces.len() - n));
            break;
        }
        let Some((pid, of_pods)) = read(proc, index, namespace, until, &mut buffer, &mut unknown) else { continue };
        // The same for each mount of the namespace.
        let mut confined = None;
        let mut instead = || confined.get_or_insert_with(|| confinement(proc, namespace, all)).instead_of();
        for OfPod { pod, container: name, seen } in of_pods {
            let place = |Seen { volumes, path, attrs, wanted }| {
                let missing = wanted.without(attrs);
                let missing = if missing == MountAttrs::default() { missing } else { missing.without(instead()) };
                Place { volumes, path, attrs, missing }
            };
            let places: Vec<Place> = seen.into_iter().map(place).collect();
            if !places.is_empty() {
                see(Container { pid, pod, name, places });
            }
        }
    }
    Ok(unknown)
}

/// The mount namespaces of all processes except ours and the calling thread's, that of the oldest process first. Also
/// returns why others may be missing.
fn namespaces(proc: &Proc) -> Result<(Vec<Namespace>, Option<String>), Errno> {
    let own = [proc.own_mount_namespace()?.inode, proc.thread_mount_namespace()?.inode];
    let mut numbers: HashMap<u64, usize> = HashMap::new();
    let mut found: Vec<Namespace> = Vec::new();
    let (mut refused, mut too_many) = (0_usize, false);
    for pid in proc.processes()? {
        let inode = match proc.link(&format!("{pid}/ns/mnt")) {
            Ok(link) => namespace_link(&link),
            Err(Errno::EACCES | Errno::EPERM) => {
                refused += 1;
                None
            }
            // The process has ended.
            Err(_) => None,
        };
        let Some(inode) = inode.filter(|inode| !own.contains(inode)) else { continue };
        if let Some(namespace) = numbers.get(&inode).and_then(|&number| found.get_mut(number)) {
            if namespace.processes.len() < PROCESSES_MAX {
                namespace.processes.push(pid);
            }
        } else if found.len() == NAMESPACES_MAX {
            too_many = true;
        } else {
            numbers.insert(inode, found.len());
            found.push(Namespace { inode, processes: vec![pid] });
        }
    }
    let rest = if refused > 0 {
        Some(format!("{refused} processes may not be looked into: run it as root on the node, with CAP_SYS_PTRACE"))
    } else {
        too_many.then(|| format!("there are more than {NAMESPACES_MAX} mount namespaces"))
    };
    Ok((found, rest))
}

/// The volumes that pods have in a namespace, and the pid by which they were found. None if the namespace is no pod's,
/// has ended, or is beyond a bound. The last is noted in `unknown`.
fn read(
    proc: &Proc,
    index: &Index<'_>,
    namespace: &Namespace,
    until: Instant,
    buffer: &mut [u8],
    unknown: &mut Unknown,
) -> Option<(i32, Vec<OfPod>)> {
    for &pid in namespace.processes.iter().take(READERS_MAX) {
        let Ok(file) = proc.open(&format!("{pid}/mountinfo")) else { continue };
        let mut scan = Scan::new(index);
        let stopped = lines(File::from(file), until, buffer, &mut |line| scan.line(line));
        // The pid may belong to another process by now.
        let is_in =
            || proc.link(&format!("{pid}/ns/mnt")).is_ok_and(|link| namespace_link(&link) == Some(namespace.inode));
        match stopped {
            Err(_) => {}
            Ok(_) if !is_in() => {}
            Ok(Some(Stop::OfNode)) => return None,
            Ok(Some(Stop::Beyond(why))) => {
                let why = format!("the mount namespace of process {pid} is not looked into: {why}");
                let pods: Vec<String> = scan.pods().map(str::to_owned).collect();
                if pods.is_empty() {
                    unknown.rest = Some(why.clone());
                }
                unknown.pods.extend(pods.into_iter().map(|pod| (pod, why.clone())));
                return None;
            }
            Ok(None) => {
                let of_pods = scan.end();
                if !of_pods.is_empty() {
                    return Some((pid, of_pods));
                }
            }
        }
    }
    None
}

/// What confines all processes of a namespace that answer. Nothing, if none answers.
fn confinement(proc: &Proc, namespace: &Namespace, all: u64) -> Confinement {
    let nothing = Confinement { no_new_privileges: false, device_filter: false };
    let of = |pid: &i32| Confinement::of(&String::from_utf8_lossy(&proc.read(&format!("{pid}/status")).ok()?), all);
    namespace.processes.iter().filter_map(of).reduce(Confinement::and).unwrap_or(nothing)
}

/// Passes one line after the other to `see`, from a buffer of the maximum length of a line. Stops when `see` does, or
/// at the time `until`. Returns why it stopped before the end.
///
/// # Errors
/// The error of reading.
fn lines(
    mut from: impl Read,
    until: Instant,
    buffer: &mut [u8],
    see: &mut dyn FnMut(&[u8]) -> Result<(), Stop>,
) -> std::io::Result<Option<Stop>> {
    let mut filled = 0;
    loop {
        if Instant::now() >= until {
            return Ok(Some(Stop::Beyond("it could not be read in time")));
        }
        let Some(free) = buffer.get_mut(filled..).filter(|free| !free.is_empty()) else {
            return Ok(Some(Stop::Beyond("a line of its table is longer than 64 KiB")));
        };
        let read = from.read(free)?;
        filled += read;
        let known = buffer.get(..filled).unwrap_or_default();
        let mut rest = known;
        while let Some(end) = rest.iter().position(|&b| b == b'\n') {
            let (line, tail) = rest.split_at(end);
            if let Err(stop) = see(line) {
                return Ok(Some(stop));
            }
            rest = tail.get(1..).unwrap_or_default();
        }
        let left = rest.len();
        if read == 0 {
            // The kernel terminates each line.
            return Ok(None);
        }
        buffer.copy_within(filled - left..filled, 0);
        filled = left;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::containers::Sought;
    use crate::containers::scan::Node;
    use plan::record::Shown;

    /// Returns bytes as the kernel does, a page at a time, and counts them.
    struct Table<F: FnMut(usize) -> Option<Vec<u8>>> {
        line: F,
        number: usize,
        left: Vec<u8>,
        given: usize,
    }

    impl<F: FnMut(usize) -> Option<Vec<u8>>> Read for Table<F> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            while self.left.is_empty() {
                let Some(line) = (self.line)(self.number) else { return Ok(0) };
                self.left = line;
                self.number += 1;
            }
            let count = into.len().min(4096).min(self.left.len());
            into[..count].copy_from_slice(&self.left[..count]);
            self.left.drain(..count);
            self.given += count;
            Ok(count)
        }
    }

    fn sought() -> Vec<Sought> {
        let attrs = MountAttrs { read_only: true, ..MountAttrs::default() };
        vec![Sought { pod: "u".into(), shown: vec![Shown { device: (0, 7), root: "/src".into() }], wanted: attrs }]
    }

    fn index(sought: &[Sought]) -> Index<'_> {
        let node = Node {
            layout: crate::fixture::layout().into(),
            workloads: Shown { device: (8, 1), root: "/k/pods".into() },
            root: Shown { device: (8, 1), root: "/".into() },
        };
        Index::new(node, sought)
    }

    /// What stopped it, how many bytes were read, and what was found of which pods.
    fn read_all(line: impl FnMut(usize) -> Option<Vec<u8>>) -> (Option<Stop>, usize, Vec<(String, usize)>) {
        let sought = sought();
        let index = index(&sought);
        let mut scan = Scan::new(&index);
        let mut table = Table { line, number: 0, left: Vec::new(), given: 0 };
        let until = Instant::now() + Duration::from_secs(600);
        let mut buffer = vec![0; LINE_MAX];
        let stop = lines(&mut table, until, &mut buffer, &mut |line| scan.line(line)).unwrap();
        assert_eq!(buffer.len(), LINE_MAX, "it does not grow");
        let found = scan.end().into_iter().map(|of_pod| (of_pod.pod, of_pod.seen.len())).collect();
        (stop, table.given, found)
    }

    const START: [&str; 3] = [
        "1 0 0:5 / / rw - overlay x rw\n",
        "2 1 8:1 /k/pods/u/containers/app/1 /dev/termination-log rw - ext4 x rw\n",
        "3 1 0:7 /src /data rw,relatime master:4 - xfs x rw\n",
    ];

    #[test]
    fn of_65_000_mounts_ten_thousand_are_read_and_the_rest_is_unknown() {
        let (stop, given, found) = read_all(|n| match n {
            0..3 => Some(START[n].into()),
            3..65_000 => Some(format!("{n} 1 0:9 /{n} /x/{n} rw - tmpfs t rw\n").into()),
            _ => None,
        });
        assert_eq!(stop, Some(Stop::Beyond("it has more than 10,000 mounts")));
        assert_eq!(found, [("u".to_owned(), 1)]);
        assert!(given < 10_100 * 50, "{given} bytes were read");
    }

    #[test]
    fn a_line_of_a_mebibyte_is_not_held_in_memory() {
        let (stop, given, found) = read_all(|n| match n {
            0..3 => Some(START[n].into()),
            3 => Some([b"4 1 0:9 / /x rw - overlay x ".as_slice(), &vec![b'l'; 1 << 20], b"\n"].concat()),
            _ => None,
        });
        assert_eq!(stop, Some(Stop::Beyond("a line of its table is longer than 64 KiB")));
        assert_eq!(found, [("u".to_owned(), 1)]);
        assert!(given <= 2 * LINE_MAX, "{given} bytes were read");
    }

    #[test]
    fn a_table_that_ends_in_time_is_read_to_its_end_and_a_late_one_is_unknown() {
        let long = format!("4 1 0:9 / /{} rw - tmpfs t rw\n", "x".repeat(LINE_MAX - 200));
        let table = |n: usize| START.get(n).map(|&line| line.into()).or_else(|| (n < 9).then(|| long.clone().into()));
        assert_eq!(read_all(table), (None, START.concat().len() + 6 * long.len(), vec![("u".to_owned(), 1)]));
        let mut buffer = vec![0; 100];
        let late = lines(b"x\n".as_slice(), Instant::now(), &mut buffer, &mut |_| Ok(())).unwrap();
        assert_eq!(late, Some(Stop::Beyond("it could not be read in time")));
    }
}
