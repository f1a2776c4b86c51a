//! Machines made up for tests: a node as systemd, containerd and a kubelet leave it, and one whose every word is hostile.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use model::machine::{Container, LeftOut, Machine, Namespace, Pod, Process};
use mounts::mountinfo::{Mount, Table};
use mounts::propagation::PropagationState;

/// Gives out the numbers that are one for the whole machine.
pub(crate) struct Maker {
    id: u64,
    group: u64,
    device: u32,
}

/// How a mount is linked.
#[derive(Clone, Copy)]
pub(crate) enum Link {
    Private,
    /// In a peer group of its own.
    Shared,
    Peer(u64),
    Slave(u64),
    /// A slave, and shared in a group of its own.
    SharedSlave(u64),
    Unbindable,
}

impl Maker {
    pub(crate) fn new() -> Self {
        Self { id: 20, group: 0, device: 30 }
    }

    /// Adds a mount beneath the one that its path leads to.
    pub(crate) fn mount(&mut self, table: &mut Table, at: &str, fs_type: &str, link: Link) -> Mount {
        self.device += 1;
        let device = (0, self.device);
        self.bind(table, at, (device, "/"), fs_type, link)
    }

    /// Adds a mount of a directory of a file system.
    pub(crate) fn bind(
        &mut self,
        table: &mut Table,
        at: &str,
        (device, root): ((u32, u32), &str),
        fs_type: &str,
        link: Link,
    ) -> Mount {
        self.id += 1;
        let point = PathBuf::from(at);
        let above = table.mounts.iter().filter(|m| point.starts_with(&m.mount_point));
        let parent = above.max_by_key(|m| (m.mount_point.components().count(), m.id)).map_or(1, |m| m.id);
        let mut own = || {
            self.group += 1;
            Some(self.group)
        };
        let (peer_group, master, unbindable) = match link {
            Link::Private => (None, None, false),
            Link::Shared => (own(), None, false),
            Link::Peer(group) => (Some(group), None, false),
            Link::Slave(group) => (None, Some(group), false),
            Link::SharedSlave(group) => (own(), Some(group), false),
            Link::Unbindable => (None, None, true),
        };
        let source = if fs_type == "ext4" { "/dev/nvme0n1p2" } else { fs_type };
        let mount = Mount {
            id: self.id,
            parent,
            device,
            root: root.into(),
            root_deleted: false,
            mount_point: point,
            options: "rw,relatime".into(),
            propagation: PropagationState { peer_group, master, unbindable },
            fs_type: fs_type.into(),
            source: source.into(),
        };
        table.mounts.push(mount.clone());
        mount
    }

    /// What unshare(1) makes of a table: `--propagation slave`, or `unchanged`.
    pub(crate) fn unshared(&mut self, table: &Table, slave: bool) -> Table {
        let first = self.id + 1;
        let number = |id: u64| table.mounts.iter().position(|m| m.id == id).map(|at| first + at as u64);
        let mut copy = table.clone();
        for (at, mount) in copy.mounts.iter_mut().enumerate() {
            mount.id = first + at as u64;
            mount.parent = number(mount.parent).unwrap_or(1);
            if slave {
                let state = &mut mount.propagation;
                state.master = state.peer_group.take().or(state.master);
            }
        }
        self.id += table.mounts.len() as u64;
        copy
    }

    /// `/proc`, `/sys` and `/dev` as a container has them: nothing is linked.
    fn kernel_of_container(&mut self, table: &mut Table) {
        for (at, fs_type) in [
            ("/proc", "proc"),
            ("/dev", "tmpfs"),
            ("/dev/pts", "devpts"),
            ("/dev/mqueue", "mqueue"),
            ("/dev/shm", "tmpfs"),
            ("/sys", "sysfs"),
            ("/sys/fs/cgroup", "cgroup2"),
            ("/proc/bus", "proc"),
            ("/proc/fs", "proc"),
            ("/proc/irq", "proc"),
            ("/proc/sys", "proc"),
            ("/proc/sysrq-trigger", "proc"),
            ("/proc/acpi", "tmpfs"),
            ("/proc/kcore", "tmpfs"),
            ("/proc/keys", "tmpfs"),
            ("/proc/timer_list", "tmpfs"),
            ("/proc/scsi", "tmpfs"),
            ("/sys/firmware", "tmpfs"),
        ] {
            self.mount(table, at, fs_type, Link::Private);
        }
    }
}

fn process(pid: i32, name: &str) -> Process {
    Process { pid, name: name.into() }
}

fn group(mount: &Mount) -> u64 {
    mount.propagation.peer_group.unwrap()
}

/// A node with `namespaces` mount namespaces of about `mounts` mounts each: the node itself, two services that systemd
/// gave namespaces of their own, and containers.
pub(crate) fn node(namespaces: usize, mounts: usize) -> Machine {
    let mut maker = Maker::new();
    let mut host = Table::default();
    let root = maker.mount(&mut host, "/", "ext4", Link::Shared);
    for (at, fs_type) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev", "devtmpfs"),
        ("/run", "tmpfs"),
        ("/sys/kernel/security", "securityfs"),
        ("/dev/shm", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/sys/fs/cgroup", "cgroup2"),
        ("/sys/fs/pstore", "pstore"),
        ("/sys/firmware/efi/efivars", "efivarfs"),
        ("/sys/fs/bpf", "bpf"),
        ("/proc/sys/fs/binfmt_misc", "autofs"),
        ("/dev/hugepages", "hugetlbfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys/kernel/debug", "debugfs"),
        ("/sys/kernel/tracing", "tracefs"),
        ("/sys/kernel/config", "configfs"),
        ("/sys/fs/fuse/connections", "fusectl"),
        ("/boot", "ext4"),
        ("/boot/efi", "vfat"),
        ("/run/lock", "tmpfs"),
        ("/run/user/1000", "tmpfs"),
    ] {
        maker.mount(&mut host, at, fs_type, Link::Shared);
    }
    let data = maker.mount(&mut host, "/srv/data", "xfs", Link::Shared);
    let sets = maker.mount(&mut host, "/srv/data/sets", "fuse.juicefs", Link::Shared);
    let kubelet =
        maker.bind(&mut host, "/var/lib/kubelet", (root.device, "/var/lib/kubelet"), "ext4", Link::Peer(group(&root)));
    maker.mount(&mut host, "/srv/scratch", "xfs", Link::Unbindable);
    maker.mount(&mut host, "/srv/private", "xfs", Link::Private);
    let mut made = vec![];
    let names = ["train", "notebook", "ingest", "juicefs-csi", "prometheus", "serve"];
    let mut inode = 4_026_532_100;
    for number in 0..namespaces.saturating_sub(3) {
        let name = names[number % names.len()];
        let uid = format!("8f2c{number:04}-63d1-4be0-9d7b-3a0c5ee0{number:04}");
        let volume = |what: &str| format!("/var/lib/kubelet/pods/{uid}/volumes/{what}");
        let rootfs = format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{number:012x}/rootfs");
        let overlay = maker.mount(&mut host, &rootfs, "overlay", Link::Shared);
        let token = volume("kubernetes.io~projected/kube-api-access");
        let token = maker.mount(&mut host, &token, "tmpfs", Link::Shared);
        let link = [Link::Slave(group(&data)), Link::Peer(group(&data)), Link::Private][number % 3];
        let published = match link {
            Link::Slave(master) => Link::SharedSlave(master),
            Link::Private => Link::Shared,
            other => other,
        };
        let target = volume("kubernetes.io~csi/data/mount");
        let target = maker.bind(&mut host, &target, (data.device, "/"), "xfs", published);

        let mut table = Table::default();
        maker.bind(&mut table, "/", (overlay.device, "/"), "overlay", Link::Slave(group(&overlay)));
        maker.kernel_of_container(&mut table);
        for (at, file) in [
            ("/etc/hosts", "etc-hosts"),
            ("/dev/termination-log", "containers/main/0"),
            ("/etc/hostname", "hostname"),
            ("/etc/resolv.conf", "resolv.conf"),
        ] {
            let from = format!("/var/lib/kubelet/pods/{uid}/{file}");
            maker.bind(&mut table, at, (root.device, &from), "ext4", Link::Private);
        }
        maker.bind(
            &mut table,
            "/var/run/secrets/kubernetes.io/serviceaccount",
            (token.device, "/"),
            "tmpfs",
            Link::Private,
        );
        let inside = match link {
            Link::Slave(_) => Link::Slave(group(&target)),
            Link::Private => Link::Private,
            other => other,
        };
        maker.bind(&mut table, "/data", (data.device, "/"), "xfs", inside);
        if !matches!(link, Link::Private) {
            maker.bind(&mut table, "/data/sets", (sets.device, "/"), "fuse.juicefs", Link::Slave(group(&sets)));
        }
        if name == "juicefs-csi" {
            maker.bind(
                &mut table,
                "/var/lib/kubelet",
                (root.device, "/var/lib/kubelet"),
                "ext4",
                Link::Peer(group(&kubelet)),
            );
        }
        for extra in 0.. {
            if table.mounts.len() >= mounts {
                break;
            }
            let kind = [("config", "tmpfs"), ("cache", "xfs"), ("models", "fuse.s3fs")][extra % 3];
            let at = format!("/opt/{}/{:02}", kind.0, extra / 3);
            let link = if kind.0 == "models" { Link::Shared } else { Link::Private };
            maker.mount(&mut table, &at, kind.1, link);
        }
        inode += 3;
        let pid = 2000 + i32::try_from(number).unwrap() * 17;
        made.push(Namespace {
            inode,
            processes: vec![process(pid, name), process(pid + 4, "sh")],
            container: Some(Container { id: Some(format!("{number:064x}")), name: Some("main".into()) }),
            pod: Some(Pod { uid, name: Some(("ml".into(), format!("{name}-{number}"))) }),
            table,
            ..Namespace::default()
        });
    }
    for extra in 0.. {
        if host.mounts.len() >= mounts {
            break;
        }
        maker.mount(&mut host, &format!("/srv/disks/{extra:02}"), "xfs", Link::Shared);
    }
    // Last, since what was mounted on the node later has come to them as well.
    let slave = maker.unshared(&host, true);
    made.insert(0, Namespace { processes: vec![process(411, "systemd-udevd")], table: slave, ..Namespace::default() });
    let mut timesyncd = maker.unshared(&host, true);
    maker.mount(&mut timesyncd, "/var/tmp", "tmpfs", Link::Private);
    maker.mount(&mut timesyncd, "/home", "tmpfs", Link::Private);
    maker.mount(&mut timesyncd, "/run/credentials/systemd-timesyncd.service", "ramfs", Link::Private);
    made.insert(
        0,
        Namespace { processes: vec![process(598, "systemd-timesyn")], table: timesyncd, ..Namespace::default() },
    );
    let processes = vec![
        process(1, "systemd"),
        process(310, "systemd-journal"),
        process(702, "kubelet"),
        process(688, "containerd"),
    ];
    made.insert(0, Namespace { inode: 4_026_531_841, processes, table: host, ..Namespace::default() });
    made.truncate(namespaces);
    Machine { namespaces: made, left_out: vec![] }
}

/// Text that breaks out of whatever forgets to escape it, and bytes that are no text.
pub(crate) const HOSTILE: [&[u8]; 10] = [
    b"</script><script>window.broken=1</script>",
    b"\"><img src=x onerror=window.broken=1>",
    b"'\"&amp;&lt;<!--]]>-->",
    b"line\nbreak\r\ttab",
    "\u{202e}txt.exe\u{2066}\u{200b}".as_bytes(),
    b"\xff\xfe\x80 not UTF-8",
    b"back\\slash \\N \\\" {a|b} ;",
    b"\x1b[31mred\x07\x00".trim_ascii_end(),
    "\u{2028}\u{2029}\u{fffe}\u{feff}漢字 é ".as_bytes(),
    b"${x}`a` %s {{b}} javascript:window.broken=1",
];

/// A machine whose every text is one of [`HOSTILE`], with a table that has a cycle and the same id twice.
pub(crate) fn hostile() -> Machine {
    let mut maker = Maker::new();
    let text = |at: usize| OsString::from_vec(HOSTILE[at % HOSTILE.len()].to_vec());
    let lossy = |at: usize| text(at).to_string_lossy().into_owned();
    let namespace = |maker: &mut Maker, number: usize| {
        let mut table = Table { skipped: 3, ..Table::default() };
        let root = maker.mount(&mut table, "/", "ext4", Link::Shared);
        for at in 0..HOSTILE.len() {
            let mut mount = maker.mount(
                &mut table,
                "/x",
                "tmpfs",
                if number == 0 { Link::Shared } else { Link::Slave(at as u64 + 2) },
            );
            table.mounts.pop();
            mount.mount_point = PathBuf::from("/").join(text(at));
            mount.parent = root.id;
            mount.root = PathBuf::from("/").join(text(at + 1));
            mount.source = text(at + 2);
            mount.fs_type = lossy(at + 3);
            mount.options = lossy(at + 4);
            mount.root_deleted = at == 4;
            table.mounts.push(mount);
        }
        Namespace {
            inode: 7 + number as u64,
            processes: vec![process(100, &lossy(number))],
            container: Some(Container { id: Some(lossy(number + 1)), name: None }),
            pod: (number > 2).then(|| Pod { uid: lossy(number), name: Some((lossy(number + 2), lossy(number + 3))) }),
            table,
            ..Namespace::default()
        }
    };
    let mut namespaces: Vec<Namespace> = (0..5).map(|number| namespace(&mut maker, number)).collect();
    let torn = &mut namespaces[4].table.mounts;
    let ids = (torn[1].id, torn[2].id);
    torn[1].parent = ids.1;
    torn[2].parent = ids.0;
    let again = torn[3].clone();
    torn.push(again);
    let left_out = vec![LeftOut { what: lossy(0), why: lossy(1) }];
    namespaces.push(Namespace::default());
    Machine { namespaces, left_out }
}

/// The three lines of README: a node, and a pod that gets what the node mounts, and one that gives as well.
pub(crate) fn small() -> Machine {
    let mut maker = Maker::new();
    let mut host = Table::default();
    maker.mount(&mut host, "/", "ext4", Link::Shared);
    maker.mount(&mut host, "/proc", "proc", Link::Shared);
    maker.mount(&mut host, "/sys", "sysfs", Link::Shared);
    let data = maker.mount(&mut host, "/srv/data", "xfs", Link::Shared);
    let sets = maker.mount(&mut host, "/srv/data/sets", "fuse.juicefs", Link::Shared);
    maker.mount(&mut host, "/srv/scratch", "xfs", Link::Private);
    let mut namespaces = vec![Namespace {
        inode: 4_026_531_841,
        processes: vec![process(1, "systemd")],
        table: host,
        ..Namespace::default()
    }];
    for (number, (name, link, nested)) in [
        ("reader", Link::Slave(group(&data)), Link::Slave(group(&sets))),
        ("writer", Link::Peer(group(&data)), Link::Peer(group(&sets))),
        ("alone", Link::Private, Link::Private),
    ]
    .into_iter()
    .enumerate()
    {
        let mut table = Table::default();
        maker.mount(&mut table, "/", "overlay", Link::Private);
        maker.kernel_of_container(&mut table);
        maker.bind(&mut table, "/data", (data.device, "/"), "xfs", link);
        maker.bind(&mut table, "/data/sets", (sets.device, "/"), "fuse.juicefs", nested);
        namespaces.push(Namespace {
            inode: 4_026_532_300 + number as u64,
            processes: vec![process(2000, name)],
            container: Some(Container { id: Some(format!("{number:064x}")), name: Some("main".into()) }),
            pod: Some(Pod { uid: String::new(), name: Some(("ml".into(), name.into())) }),
            table,
            ..Namespace::default()
        });
    }
    Machine { namespaces, left_out: vec![] }
}
