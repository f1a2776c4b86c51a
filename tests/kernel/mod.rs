//! A small node in a mount namespace of its own, for tests that call the library on the real kernel, as any user.
#![allow(dead_code, reason = "each test binary uses its part of it")]

#[allow(clippy::duplicate_mod, reason = "two tests use both helpers")]
#[path = "../support/disk.rs"]
pub(crate) mod disk;
pub(crate) mod killed;
#[allow(clippy::duplicate_mod, reason = "two tests use both helpers")]
#[path = "../support/seccomp.rs"]
pub(crate) mod seccomp;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ::kernel::calls::Calls;
use ::kernel::namespace::{self, Proc};
use allowlist::config::Missing;
use allowlist::names::{AbsPath, Target};
use engine::mount_error::MountError;
use engine::observe::SourcePath;
use engine::site::Site;
use engine::staging_area::StagingArea;
use engine::{AttachJob, Attached, Context};
use frontend::kubelet;
use killed::Hook;
use mounts::MountAttrs;
use mounts::mountinfo::{self, Mount, Table};
use mounts::propagation::{MountPropagation, PropagationKind};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use seccomp::{REFUSED, Refusal};

/// The driver's name on the test node.
pub(crate) const DRIVER: &str = "test.hostmount";
/// Set in the process that runs inside the namespaces.
const INSIDE: &str = "HOSTMOUNT_NS";

/// Runs the body of the test `name` in a user and mount namespace of its own, on a prepared mount thread.
pub(crate) fn in_namespace(name: &str, body: fn()) {
    in_namespace_under(&[Refusal::of_environment()], name, body);
}

/// The same once with the newer calls and once with all of them refused; but only once if the environment says which are.
pub(crate) fn in_namespace_both_ways(name: &str, body: fn()) {
    match Refusal::of_environment() {
        given if given.is_none() => in_namespace_under(&[given, Refusal::all()], name, body),
        given => in_namespace_under(&[given], name, body),
    }
}

fn in_namespace_under(refusals: &[Refusal], name: &str, body: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        let calls = Calls::probe();
        println!("{name}: system calls: {calls}");
        Refusal::of_environment().is_told_by(&calls.to_string());
        return on_mount_thread(body);
    }
    for refusal in refusals {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "--propagation", "private", "--"])
            .arg(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(INSIDE, "1")
            .env(REFUSED, refusal.to_string());
        refusal.put_on(&mut command);
        let status = command.status().expect("unshare(1) of util-linux");
        assert!(status.success(), "{name}, {refusal}: {status}");
    }
}

/// Runs something on a thread that has entered this process' own mount namespace.
pub(crate) fn on_mount_thread(body: impl FnOnce() + Send + 'static) {
    let proc = Proc::new().unwrap();
    let namespace = proc.own_mount_namespace().unwrap();
    let thread = std::thread::spawn(move || {
        namespace::enter(&proc, &namespace).unwrap();
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn tmpfs(at: &Path, marker: &str) {
    std::fs::create_dir_all(at).unwrap();
    mount(Some("test"), at, Some("tmpfs"), MsFlags::empty(), Some("size=256k,mode=0755")).unwrap();
    std::fs::write(at.join(marker), marker).unwrap();
}

pub(crate) fn bind(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).unwrap();
}

pub(crate) fn order(at: &Path, kind: PropagationKind) {
    let flag = match kind {
        PropagationKind::Private => MsFlags::MS_PRIVATE,
        PropagationKind::Shared => MsFlags::MS_SHARED,
        PropagationKind::Slave => MsFlags::MS_SLAVE,
        PropagationKind::Unbindable => MsFlags::MS_UNBINDABLE,
    };
    mount(None::<&str>, at, None::<&str>, flag, None::<&str>).unwrap();
}

pub(crate) fn unmount(at: &Path) -> nix::Result<()> {
    umount2(at, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
}

/// Every file seen beneath a directory, relative to it. Directories don't count: only what is *in* a mount tells it
/// from the directory that it covers.
pub(crate) fn files(at: &Path) -> BTreeSet<PathBuf> {
    fn walk(at: &Path, base: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(at).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, base, found);
            } else {
                found.insert(path.strip_prefix(base).unwrap().to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(at, at, &mut found);
    found
}

/// What the source's mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceKind {
    Shared,
    Private,
    Slave,
}

impl SourceKind {
    pub(crate) const ALL: [Self; 3] = [Self::Shared, Self::Private, Self::Slave];

    /// Written down here from sharedsubtree.rst, not taken from the program.
    pub(crate) const fn gives(self) -> &'static [MountPropagation] {
        match self {
            Self::Shared => &MountPropagation::ALL,
            Self::Slave => &[MountPropagation::None, MountPropagation::HostToContainer],
            Self::Private => &[MountPropagation::None],
        }
    }
}

/// The node: a shared kubelet directory, and a source mount of each kind with nested mounts.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) site: Site,
    pub(crate) base: PathBuf,
}

pub(crate) const ALL_FLAGS: MountAttrs = MountAttrs { read_only: true, nosuid: true, nodev: true, noexec: true };
pub(crate) const NO_FLAGS: MountAttrs = MountAttrs { read_only: false, nosuid: false, nodev: false, noexec: false };

impl Node {
    /// Sets it up at a new temporary directory of this namespace.
    pub(crate) fn new() -> Self {
        let base = PathBuf::from("/tmp");
        tmpfs(&base, "base");
        let base = base.join("node");
        let node = Self::at(&base);
        let kubelet = base.join("kubelet");
        tmpfs(&kubelet, "kubelet");
        disk::instead_of_tmpfs(&kubelet);
        std::fs::write(kubelet.join("kubelet"), "kubelet").unwrap();
        order(&kubelet, PropagationKind::Shared);
        std::fs::create_dir_all(kubelet.join("pods")).unwrap();
        std::fs::create_dir_all(kubelet.join("plugins")).unwrap();
        for kind in SourceKind::ALL {
            node.make_source(kind);
        }
        node
    }

    /// The node that another process has set up.
    pub(crate) fn at(base: &Path) -> Self {
        let kubelet_dir = AbsPath::parse(base.join("kubelet").to_str().unwrap()).unwrap();
        let layout = Arc::new(kubelet::layout(&kubelet_dir, DRIVER));
        let site = Site { proc: Arc::new(Proc::new().unwrap()), calls: Calls::probe(), layout };
        Self { site, base: base.to_owned() }
    }

    fn make_source(&self, kind: SourceKind) {
        let top = self.base.join(format!("{kind:?}"));
        match kind {
            SourceKind::Slave => {
                let master = self.base.join("master");
                tmpfs(&master, "top");
                order(&master, PropagationKind::Shared);
                bind(&master, &top);
                order(&top, PropagationKind::Slave);
            }
            SourceKind::Shared | SourceKind::Private => {
                tmpfs(&top, "top");
                if kind == SourceKind::Shared {
                    order(&top, PropagationKind::Shared);
                }
            }
        }
        let dir = self.source(kind);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("in-{kind:?}")), "").unwrap();
        tmpfs(&dir.join("nested"), "marker");
        tmpfs(&dir.join("nested/deep"), "marker");
        tmpfs(&dir.join("nested2"), "marker2");
    }

    /// The directory to publish; it lies *in* a mount and is not its root.
    pub(crate) fn source(&self, kind: SourceKind) -> PathBuf {
        self.base.join(format!("{kind:?}")).join("dir")
    }

    pub(crate) fn kubelet_path(&self, relative: &str) -> Target {
        let full = self.base.join("kubelet").join(relative);
        Target::parse(full.to_str().unwrap(), &self.site.layout.base).unwrap()
    }

    pub(crate) fn target(&self, name: &str) -> Target {
        self.kubelet_path(&format!("pods/{name}"))
    }

    pub(crate) fn staging(&self, name: &str) -> Target {
        self.kubelet_path(&format!("plugins/{name}"))
    }

    pub(crate) fn job(&self, source: &Path, target: Target, relation: MountPropagation) -> AttachJob {
        AttachJob {
            source: SourcePath {
                entry: AbsPath::parse(source.to_str().unwrap()).unwrap(),
                sub_path: None,
                missing: Missing::Fail,
            },
            target,
            staging: None,
            relation,
            lower: false,
            attrs: NO_FLAGS,
            single_writer: false,
            user_namespace: false,
            owner: None,
            follow: false,
        }
    }

    /// `ceiling`: the strongest relation that the entry allows.
    pub(crate) fn stage_job(&self, source: &Path, staging: Target, ceiling: MountPropagation) -> AttachJob {
        AttachJob { lower: true, ..self.job(source, staging, ceiling) }
    }

    pub(crate) fn attach(&self, workshop: &StagingArea, job: &AttachJob) -> Result<bool, MountError> {
        self.attach_with(workshop, job, &mut |run, step| run.run(step))
    }

    pub(crate) fn attach_with(
        &self,
        workshop: &StagingArea,
        job: &AttachJob,
        hook: Hook<'_>,
    ) -> Result<bool, MountError> {
        let mut take = || Ok(workshop.slot(&self.site, 0).unwrap());
        let made =
            engine::attach(&mut Context { site: &self.site, cancelled: &|| false, hook: Some(hook) }, &mut take, job)?;
        Ok(matches!(made, Attached::Made(_)))
    }

    pub(crate) fn detach(&self, path: &Target, remove: bool) -> Result<(), MountError> {
        self.detach_with(path, remove, &mut |run, step| run.run(step))
    }

    pub(crate) fn detach_with(&self, path: &Target, remove: bool, hook: Hook<'_>) -> Result<(), MountError> {
        engine::detach(&mut Context { site: &self.site, cancelled: &|| false, hook: Some(hook) }, path, remove)
    }

    pub(crate) fn workshop(&self) -> StagingArea {
        StagingArea::open(&self.site).unwrap()
    }

    pub(crate) fn table(&self) -> Table {
        mountinfo::parse(&self.site.proc.mountinfo().unwrap())
    }

    /// The mounts of the test, one line each: place, what it shows, flags, and propagation, with groups and
    /// devices renamed in order of appearance, so that two equal trees print equally.
    pub(crate) fn tree(&self) -> Vec<String> {
        canonical(&self.table(), &self.base)
    }
}

pub(crate) fn canonical(table: &Table, base: &Path) -> Vec<String> {
    let mut mounts: Vec<&Mount> = table.mounts.iter().filter(|m| m.mount_point.starts_with(base)).collect();
    mounts.sort_by_key(|m| &m.mount_point);
    let mut names: HashMap<u64, usize> = HashMap::new();
    let mut devices: HashMap<(u32, u32), usize> = HashMap::new();
    mounts
        .iter()
        .map(|m| {
            let mut group = |g: Option<u64>| {
                g.map_or_else(String::new, |g| {
                    let next = names.len();
                    names.entry(g).or_insert(next).to_string()
                })
            };
            let (peers, master) = (group(m.propagation.peer_group), group(m.propagation.master));
            let next = devices.len();
            let device = *devices.entry(m.device).or_insert(next);
            format!(
                "{} device={device} {} {} peers={peers} master={master} unbindable={}",
                m.mount_point.display(),
                m.root.display(),
                m.options,
                m.propagation.unbindable,
            )
        })
        .collect()
}

/// A small, good enough generator (splitmix64): a failure is repeated with the seed that it prints.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    pub(crate) fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// `HOSTMOUNT_SEED`, or the time.
    pub(crate) fn seed() -> u64 {
        std::env::var("HOSTMOUNT_SEED")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |t| u64::from(t.subsec_nanos()) ^ t.as_secs()))
    }
}
