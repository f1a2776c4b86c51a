//! Mount tables by statmount(2) and by mountinfo on a real kernel: whichever way is there, the machine is the same one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ::kernel::calls::Calls;
use ::kernel::namespace::Proc;
use model::machine::{Machine, Namespace};
use mounts::Errno;
use mounts::mountinfo::{self, Mount, Table};
use nix::mount::{MsFlags, mount};
use node::gather;
use support::seccomp::Refusal;
use support::{change, in_namespace, in_namespace_as_root, tmpfs};

const MARKS: [&[u8]; 4] = [b"new\nline", b"\xff\xfe", b"back\\040slash and #space\t", b"odd//deleted"];

/// A process in a mount namespace of its own, which ends with this.
struct Other(Child);

impl Other {
    fn start(propagation: &str, script: &str) -> Self {
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", propagation, "sh", "-ec", &format!("{script}\necho ready\nread never")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn of<'m>(&self, machine: &'m Machine) -> &'m Namespace {
        let pid = i32::try_from(self.0.id()).unwrap();
        let is_in = |namespace: &&Namespace| namespace.processes.iter().any(|process| process.pid == pid);
        machine.namespaces.iter().find(is_in).unwrap()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn remount(at: &Path, flags: MsFlags) {
    mount(None::<&str>, at, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags, None::<&str>).unwrap();
}

/// Mounts of every kind that a table tells apart, at /mnt. The file is what keeps a FUSE file system alive.
fn mounts() -> Option<fs::File> {
    let mnt = Path::new("/mnt");
    tmpfs(mnt);
    change(mnt, MsFlags::MS_SHARED);
    let bind = |from: &Path, to: &Path| {
        fs::create_dir_all(to).unwrap();
        mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    };
    for name in MARKS {
        let name = std::ffi::OsStr::from_bytes(name);
        let at = mnt.join(name);
        tmpfs(&at);
        fs::create_dir_all(at.join(name)).unwrap();
        bind(&at.join(name), &mnt.join("bound").join(name));
    }
    fs::create_dir(mnt.join("dir")).unwrap();
    bind(&mnt.join("dir"), &mnt.join("of-deleted"));
    fs::remove_dir(mnt.join("dir")).unwrap();
    fs::write(mnt.join("file"), "").unwrap();
    fs::write(mnt.join("on"), "").unwrap();
    mount(Some(&mnt.join("file")), &mnt.join("on"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    // Stacked, and a child that is covered.
    tmpfs(&mnt.join("stack"));
    tmpfs(&mnt.join("stack/child"));
    tmpfs(&mnt.join("stack"));
    tmpfs(&mnt.join("stack"));
    // A slave that is shared too, a slave, and one that may not be bound.
    for (name, flags) in [("both", &[MsFlags::MS_SLAVE, MsFlags::MS_SHARED][..]), ("slave", &[MsFlags::MS_SLAVE])] {
        bind(mnt, &mnt.join(name));
        flags.iter().for_each(|&flag| change(&mnt.join(name), flag));
    }
    tmpfs(&mnt.join("unbindable"));
    change(&mnt.join("unbindable"), MsFlags::MS_UNBINDABLE);
    let odd = [
        MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME,
        MsFlags::MS_STRICTATIME | MsFlags::from_bits_retain(libc::MS_NOSYMFOLLOW),
    ];
    for (n, flags) in odd.into_iter().enumerate() {
        let at = mnt.join(format!("flags{n}"));
        tmpfs(&at);
        remount(&at, flags);
    }
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
    fs::create_dir(mnt.join("fuse")).unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    mount(Some("od d"), &mnt.join("fuse"), Some("fuse.o dd"), MsFlags::empty(), Some(options.as_str())).unwrap();
    Some(device)
}

/// Whether a kernel that is newer than it must be (6.13) tells tables by statmount(2); said if not.
fn told<T>(read: Result<T, Errno>) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(errno @ (Errno::ENOSYS | Errno::EPERM | Errno::EOPNOTSUPP)) => {
            println!("SKIPPED: statmount(2) does not tell all of a mount here ({errno})");
            None
        }
        Err(errno) => panic!("{errno}"),
    }
}

/// The table of our own namespace by both ways.
fn both() -> Option<(Table, Table)> {
    let work = || {
        let proc = Proc::new().unwrap();
        let own = proc.own_mount_namespace().unwrap();
        let (by_calls, changed) = told(Calls::probe().table_of(&proc, &own))?;
        assert!(!changed);
        Some((by_calls, mountinfo::parse(&proc.mountinfo().unwrap())))
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

#[test]
fn a_table_by_statmount_is_the_one_that_mountinfo_shows() {
    in_namespace(|| {
        let fuse = mounts();
        let Some((by_calls, by_text)) = both() else { return };
        for (one, other) in by_calls.mounts.iter().zip(&by_text.mounts) {
            assert_eq!(one, other);
        }
        assert_eq!(by_calls, by_text);
        // What it was made for is in it.
        let has = |what: &str, is: &dyn Fn(&Mount) -> bool| assert!(by_calls.mounts.iter().any(is), "{what}");
        for name in MARKS {
            let root = [b"/", name].concat();
            has("the name", &|m| m.root.as_os_str().as_bytes() == root || name.ends_with(b"//deleted"));
        }
        has("a deleted root", &|m| m.root_deleted && m.root == Path::new("/dir"));
        has("a shared slave", &|m| m.propagation.master.is_some() && m.propagation.peer_group.is_some());
        has("a slave", &|m| m.propagation.master.is_some() && m.propagation.peer_group.is_none());
        has("an unbindable one", &|m| m.propagation.unbindable);
        has("options", &|m| m.options == "ro,nosuid,nodev,noexec,relatime");
        has("no access times", &|m| m.options == "rw,noatime,nodiratime");
        has("strict times", &|m| m.options == "rw,nosymfollow");
        if fuse.is_some() {
            has("a subtype", &|m| m.fs_type == "fuse.o dd" && m.source == "od d");
        }
        assert_eq!(by_calls.mounts.iter().filter(|m| m.mount_point == Path::new("/mnt/stack")).count(), 3);
    });
}

#[test]
fn more_mounts_than_are_listed_at_once_are_all_told() {
    in_namespace(|| {
        let mnt = Path::new("/mnt");
        tmpfs(mnt);
        // More than twice what one call lists.
        for n in 0..4200 {
            let at = mnt.join(n.to_string());
            fs::create_dir(&at).unwrap();
            mount(Some(mnt), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        }
        let Some((by_calls, by_text)) = both() else { return };
        assert!(by_calls.mounts.len() > 4200);
        assert!(by_calls == by_text);
    });
}

#[test]
fn a_mount_that_comes_while_a_table_is_read_is_noticed() {
    in_namespace(|| {
        let mnt = Path::new("/mnt");
        tmpfs(mnt);
        (0..50).for_each(|n| tmpfs(&mnt.join(n.to_string())));
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    tmpfs(&mnt.join("comes"));
                    support::unmount(&mnt.join("comes"));
                }
            });
            let work = || {
                let proc = Proc::new().unwrap();
                let (calls, own) = (Calls::probe(), proc.own_mount_namespace().unwrap());
                (0..10_000).find_map(|_| match told(calls.table_of(&proc, &own)) {
                    Some((_, changed)) => changed.then_some(true),
                    None => Some(false),
                })
            };
            let noticed = scope.spawn(work).join();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(noticed.unwrap().is_some());
        });
    });
}

/// Looks at namespaces that differ in every way with all calls and with none.
fn every_namespace_is_the_same() {
    let _fuse = mounts();
    let chrooted = "mkdir /mnt/root; mount --rbind /mnt/slave /mnt/root; mount --rbind / /mnt/root; \
                    exec chroot /mnt/root sh -c 'echo ready; read never'";
    let others = [
        Other::start("unchanged", ":"),
        Other::start("slave", ":"),
        Other::start("private", "mount -t tmpfs t /mnt/stack"),
        Other::start("shared", ":"),
        Other::start("private", chrooted),
        // All processes see a part of it only, and beneath another root.
        Other::start("slave", "exec chroot /mnt/both/../.. sh -c 'cd /; echo ready; read never'"),
        Other::start(
            "private",
            "mkdir /mnt/new /mnt/new/old; mount --rbind / /mnt/new; cd /mnt/new; mkdir -p tmp/old; \
                                 pivot_root . tmp/old; exec chroot . sh -c 'echo ready; read never'",
        ),
        // Its root is covered; whoever enters comes out on top.
        Other::start(
            "private",
            "mkdir /mnt/top; mount --rbind / /mnt/top; cd /mnt/top; mount --move . /; \
                                 exec chroot . sh -c 'echo ready; read never'",
        ),
    ];
    let proc = Proc::new().unwrap();
    let gather = || gather::gather(&proc, Calls::probe()).unwrap();
    let (calls, text) = (gather(), Refusal::all().on_a_thread(gather));
    for (number, other) in others.iter().enumerate() {
        let (one, two) = (other.of(&calls), other.of(&text));
        assert!(one.table.mounts.len() > 20, "{number}");
        for (one, two) in one.table.mounts.iter().zip(&two.table.mounts) {
            assert_eq!(one, two, "{number}");
        }
        assert_eq!(one, two, "{number}");
    }
    let own = |machine: &Machine| {
        let inode = proc.own_mount_namespace().unwrap().inode;
        machine.namespaces.iter().find(|namespace| namespace.inode == inode).unwrap().clone()
    };
    assert_eq!(own(&calls), own(&text));
}

#[test]
fn every_namespace_is_the_same_by_both_ways() {
    in_namespace(every_namespace_is_the_same);
}

#[test]
fn every_namespace_is_the_same_by_both_ways_to_root() {
    in_namespace_as_root(every_namespace_is_the_same);
}
