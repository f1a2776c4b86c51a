//! The processes of `/proc`, and which mount namespace each is in.

use std::collections::BTreeMap;

use kernel::namespace::Proc;
use model::machine::names::namespace_link;
use mounts::Errno;

/// The processes by mount namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processes {
    /// The processes of each namespace, by its inode, in the order of their numbers.
    pub by_namespace: BTreeMap<u64, Vec<i32>>,
    /// Processes whose namespace we may not ask for (ptrace(2), access mode checking).
    pub closed: Vec<i32>,
}

impl Processes {
    /// Asks for the namespace of each of these processes.
    #[must_use]
    pub fn of(proc: &Proc, pids: &[i32]) -> Self {
        let mut processes = Self::default();
        for &pid in pids {
            match namespace_of(proc, pid) {
                Ok(inode) => processes.add(inode, pid),
                Err(Errno::EACCES | Errno::EPERM) => processes.closed.push(pid),
                // It has ended, or is a zombie, which is in no namespace any more.
                Err(_) => {}
            }
        }
        processes
    }

    /// Adds a process, or a thread, to a namespace.
    pub fn add(&mut self, inode: u64, pid: i32) {
        self.by_namespace.entry(inode).or_default().push(pid);
    }
}

/// The inode of the mount namespace of a process or thread.
///
/// # Errors
/// ENOENT: it has ended. EACCES: we may not ask.
pub fn namespace_of(proc: &Proc, pid: i32) -> Result<u64, Errno> {
    namespace_link(&proc.link(&format!("{pid}/ns/mnt"))?).ok_or(Errno::ENOENT)
}

/// The first of these processes whose root is its namespace's, as far as we can tell.
#[must_use]
pub fn first_at_root(proc: &Proc, pids: &[i32]) -> Option<i32> {
    pids.iter().copied().find(|pid| proc.link(&format!("{pid}/root")).is_ok_and(|root| root == "/"))
}

/// A file beneath `/proc` as text, without white space at its ends; empty if it can't be read.
#[must_use]
pub fn text(proc: &Proc, path: &str) -> String {
    String::from_utf8_lossy(&proc.read(path).unwrap_or_default()).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_in_our_own_namespace() {
        let proc = Proc::new().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let inode = proc.own_mount_namespace().unwrap().inode;
        assert_eq!(namespace_of(&proc, own), Ok(inode));
        let found = Processes::of(&proc, &[own, i32::MAX]);
        assert_eq!(found, Processes { by_namespace: [(inode, vec![own])].into(), closed: Vec::new() });
        assert_eq!(first_at_root(&proc, &[i32::MAX, own]), Some(own));
        assert_eq!((text(&proc, "self/comm").is_empty(), text(&proc, "none").as_str()), (false, ""));
    }
}
