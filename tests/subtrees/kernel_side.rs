//! The kernel's side: namespaces that a single thread holds by descriptor and enters in turn, and operations by their
//! system calls.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use ::kernel::calls::Calls;
use ::kernel::namespace::{self, MountNamespace, Proc};
use ::kernel::{mount as calls, path};
use model::machine::{Machine, Namespace};
use model::subtrees::{Operation, VisibleMount};
use mounts::Errno;
use mounts::mountinfo::{self, Table};
use mounts::propagation::{Propagation, PropagationKind};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, makedev};
use nix::unistd::{chroot, fchdir, pivot_root};

/// The directories that every file system of the tests has.
pub(crate) const DIRS: [&str; 14] =
    ["a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/a/b", "a/b/a", "a/b/b", "b/a/a", "b/a/b", "b/b/a", "b/b/b"];
/// What the root file system has besides, for unshare(1) to be found.
const USR: &str = "usr";

/// What a slot of a sequence holds.
enum Slot {
    /// A namespace, and what its processes have as their root: setns(2) would take what is mounted on it.
    Namespace(MountNamespace, OwnedFd),
    Tree(OwnedFd),
    Gone,
}

pub(crate) struct Kernel {
    proc: Arc<Proc>,
    slots: Vec<Slot>,
    /// The namespaces of other user namespaces than ours.
    foreign: HashSet<usize>,
}

fn tmpfs(proc: &Proc, at: &Path) -> Result<(), Errno> {
    let table = || mountinfo::parse(&proc.mountinfo().unwrap()).mounts;
    let before: HashSet<(u32, u32)> = table().iter().map(|m| m.device).collect();
    mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=0755"))?;
    // A copy of it may have been propagated to a place above, so that the path leads elsewhere now.
    let places: Vec<_> = table().into_iter().filter(|m| !before.contains(&m.device)).collect();
    let shown = places.iter().find(|m| {
        fs::metadata(&m.mount_point).is_ok_and(|found| found.dev() == makedev(m.device.0.into(), m.device.1.into()))
    });
    if let Some(shown) = shown {
        for dir in DIRS {
            fs::create_dir(shown.mount_point.join(dir)).unwrap();
        }
    }
    Ok(())
}

/// Makes the namespace that every sequence begins with a copy of: a root with directories, and /usr in it.
pub(crate) fn pristine() -> (Arc<Proc>, MountNamespace) {
    let proc = Arc::new(Proc::new().unwrap());
    let base = Path::new("/tmp");
    tmpfs(&proc, base).unwrap();
    let none = None::<&str>;
    fs::create_dir(base.join(USR)).unwrap();
    mount(Some("/usr"), &base.join(USR), none, MsFlags::MS_BIND | MsFlags::MS_REC, none).unwrap();
    for link in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{link}"), base.join(link)).unwrap();
    }
    pivot_root(base, &base.join("a")).unwrap();
    umount2("/a", MntFlags::MNT_DETACH).unwrap();
    let namespace = proc.thread_mount_namespace().unwrap();
    (proc, namespace)
}

/// The calling thread's root.
fn root() -> OwnedFd {
    open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
}

impl Kernel {
    /// A copy of the pristine namespace as the first slot.
    pub(crate) fn new(proc: &Arc<Proc>, pristine: &MountNamespace) -> Self {
        namespace::enter(proc, pristine).unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let first = proc.thread_mount_namespace().unwrap();
        Self { proc: Arc::clone(proc), slots: vec![Slot::Namespace(first, root())], foreign: HashSet::new() }
    }

    fn enter(&self, slot: usize) {
        let Some(Slot::Namespace(namespace, root)) = self.slots.get(slot) else {
            panic!("slot {slot} is no namespace")
        };
        namespace::enter(&self.proc, namespace).unwrap();
        fchdir(root).unwrap();
        chroot(".").unwrap();
    }

    pub(crate) fn namespaces(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|&slot| matches!(self.slots[slot], Slot::Namespace(..))).collect()
    }

    pub(crate) fn trees(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|&slot| matches!(self.slots[slot], Slot::Tree(_))).collect()
    }

    fn table(&self, slot: usize) -> Table {
        self.enter(slot);
        mountinfo::parse(&self.proc.mountinfo().unwrap())
    }

    /// All namespaces, as a look at the machine finds them. Slots that are none have empty tables.
    pub(crate) fn machine(&self) -> Machine {
        let of = |slot| match &self.slots[slot] {
            Slot::Namespace(..) => Namespace { table: self.table(slot), ..Namespace::default() },
            _ => Namespace::default(),
        };
        Machine { namespaces: (0..self.slots.len()).map(of).collect(), left_out: Vec::new() }
    }

    /// Whether all directories that an operation names are there, so that it can be ordered at all.
    pub(crate) fn is_there(&self, slot: usize, operation: &Operation) -> bool {
        self.enter(slot);
        let there = |path: &PathBuf| path.is_dir();
        match operation {
            Operation::Mount { at, .. } | Operation::Unmount { at, .. } | Operation::Change { at, .. } => there(at),
            Operation::Bind { from, to, .. } | Operation::Move { from, to } => there(from) && there(to),
            Operation::PivotRoot { new_root, put_old } => there(new_root) && there(put_old),
            Operation::OpenTree { from, .. } => there(from),
            Operation::Attach { tree, to } => there(to) && matches!(self.slots.get(*tree), Some(Slot::Tree(_))),
            Operation::Close { tree } => matches!(self.slots.get(*tree), Some(Slot::Tree(_))),
            Operation::Unshare { user: true, .. } => {
                Path::new("/usr/bin/unshare").exists() && Path::new("/bin/sh").exists()
            }
            // unshare(2) gives the new namespace to the caller's user namespace, and we are in the first.
            Operation::Unshare { .. } => !self.foreign.contains(&slot),
            Operation::End => self.namespaces().len() > 1,
        }
    }

    /// Does it. What it makes gets the next slot, as in the model.
    pub(crate) fn apply(&mut self, slot: usize, operation: &Operation) -> Result<(), Errno> {
        self.enter(slot);
        let none = None::<&str>;
        match operation {
            Operation::Mount { at, .. } => tmpfs(&self.proc, at),
            Operation::Bind { from, to, recursive } => {
                let flags = if *recursive { MsFlags::MS_BIND | MsFlags::MS_REC } else { MsFlags::MS_BIND };
                mount(Some(from), to, none, flags, none)
            }
            Operation::Move { from, to } => mount(Some(from), to, none, MsFlags::MS_MOVE, none),
            Operation::Unmount { at, lazy } => {
                umount2(at, if *lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() })
            }
            Operation::Change { at, to } => change(at, *to),
            Operation::Unshare { propagation, user } => {
                let made = if *user { self.in_user_namespace()? } else { self.unshared() };
                if *user {
                    self.foreign.insert(self.slots.len());
                }
                self.slots.push(made);
                self.enter(self.slots.len() - 1);
                propagation.map_or(Ok(()), |kind| change(Path::new("/"), Propagation::new(kind, true)))
            }
            Operation::PivotRoot { new_root, put_old } => {
                pivot_root(new_root, put_old)?;
                let Slot::Namespace(_, kept) = &mut self.slots[slot] else { panic!("slot {slot}") };
                *kept = root();
                Ok(())
            }
            Operation::OpenTree { from, recursive } => {
                let tree = calls::copy_tree(path::open_trusted(from).unwrap(), *recursive)?;
                self.slots.push(Slot::Tree(tree));
                Ok(())
            }
            Operation::Attach { tree, to } => {
                let Slot::Tree(fd) = &self.slots[*tree] else { panic!("slot {tree} is no tree") };
                let (parent, name) = (to.parent().unwrap(), to.file_name().unwrap());
                Calls::probe().move_to(fd, path::open_trusted(parent).unwrap(), name)?;
                self.slots[*tree] = Slot::Gone;
                Ok(())
            }
            Operation::Close { tree } => {
                self.slots[*tree] = Slot::Gone;
                Ok(())
            }
            Operation::End => {
                // Not to be in it when the last descriptor goes.
                self.enter(*self.namespaces().iter().find(|&&other| other != slot).unwrap());
                self.slots[slot] = Slot::Gone;
                Ok(())
            }
        }
    }

    fn unshared(&self) -> Slot {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        Slot::Namespace(self.proc.thread_mount_namespace().unwrap(), root())
    }

    /// A new namespace in a new user namespace, which only a process with one thread can make for itself. We are its
    /// user namespace's owner, and may enter the mount namespace without it.
    fn in_user_namespace(&self) -> Result<Slot, Errno> {
        let mut child = Command::new("/usr/bin/unshare")
            .args(["--user", "--mount", "--propagation", "unchanged", "/bin/sh", "-c", "echo ready; read end"])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let said = child.wait_with_output().unwrap().stderr;
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains("Operation not permitted"), "{said}");
            return Err(Errno::EPERM);
        }
        assert_eq!(line, "ready\n");
        let pid = i32::try_from(child.id()).unwrap();
        let made = self.proc.mount_namespace(pid).unwrap();
        let root = self.proc.open(&format!("{pid}/root")).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        Ok(Slot::Namespace(made, root))
    }
}

fn change(at: &Path, to: Propagation) -> Result<(), Errno> {
    let kind = match to.kind {
        PropagationKind::Private => MsFlags::MS_PRIVATE,
        PropagationKind::Shared => MsFlags::MS_SHARED,
        PropagationKind::Slave => MsFlags::MS_SLAVE,
        PropagationKind::Unbindable => MsFlags::MS_UNBINDABLE,
    };
    let recursive = if to.recursive { MsFlags::MS_REC } else { MsFlags::empty() };
    mount(None::<&str>, at, None::<&str>, kind | recursive, None::<&str>)
}

/// A kernel's table in the model's words, with the device's number as the file system.
pub(crate) fn seen(table: &Table) -> Vec<VisibleMount> {
    let ids: HashMap<u64, ()> = table.mounts.iter().map(|m| (m.id, ())).collect();
    table
        .mounts
        .iter()
        .map(|m| VisibleMount {
            id: m.id,
            parent: ids.contains_key(&m.parent).then_some(m.parent),
            mount_point: m.mount_point.clone(),
            file_system: usize::try_from(m.device.0).unwrap() << 32 | usize::try_from(m.device.1).unwrap(),
            root: m.root.clone(),
            propagation: m.propagation,
        })
        .collect()
}
