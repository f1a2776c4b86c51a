//! The floor: the system calls of a publish and an unpublish, made directly, on one thread and on many at once.
//!
//! Mount operations take a lock that is the whole kernel's (namespace_sem), so many threads are not many times as fast
//! as one: what the kernel itself can do with them is measured, not assumed.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use allowlist::names::AbsPath;
use engine::site::Site;
use engine::staging_area::{Slot, StagingArea};
use kernel::calls::Calls;
use kernel::mount::{self, Unmount};
use kernel::namespace::{self, Proc};
use kernel::path;
use mounts::propagation::PropagationKind;
use mounts::{Change, MountAttrs};

use crate::place::{Place, Role};
use crate::samples::{Burst, Throughput};
use crate::{Outcome, micros};

/// The name of each target in its directory.
const NAME: &str = "mount";

/// All threads' common ground.
pub(crate) struct Direct {
    site: Site,
    slots: Vec<Slot>,
    /// Keeps the workshop open.
    _workshop: StagingArea,
    root: OwnedFd,
    kubelet: OwnedFd,
    source: PathBuf,
    parents: Vec<PathBuf>,
}

impl Direct {
    /// Prepares for `threads` threads and `targets` targets. The calling thread becomes one that can publish.
    pub(crate) fn new(place: &Place, threads: usize, targets: usize) -> Outcome<Self> {
        let proc = Proc::new()?;
        enter_own(&proc)?;
        let kubelet = place.kubelet();
        let kubelet_dir =
            AbsPath::parse(&kubelet.to_string_lossy()).map_err(|e| format!("{} {e}", kubelet.display()))?;
        let layout = Arc::new(frontend::kubelet::layout(&kubelet_dir, "direct.hostmount.dev"));
        let site = Site { proc: Arc::new(proc), calls: Calls::probe(), layout };
        let workshop = StagingArea::open(&site).map_err(|(at, e)| format!("{}: {e}", at.display()))?;
        let slots = (0..threads).map(|number| workshop.slot(&site, number)).collect::<Result<Vec<_>, _>>()?;
        let beneath = |number| -> Outcome<PathBuf> {
            let parent = place.target_parent(&Place::pod(Role::Direct, number))?;
            Ok(parent.strip_prefix(&kubelet)?.to_owned())
        };
        Ok(Self {
            slots,
            _workshop: workshop,
            root: path::open_trusted(Path::new("/"))?,
            kubelet: path::open_trusted(&kubelet)?,
            source: place.source().strip_prefix("/")?.to_owned(),
            parents: (0..targets).map(beneath).collect::<Outcome<_>>()?,
            site,
        })
    }

    /// Puts the source at a target by way of a thread's slot. What it took, in µs.
    fn publish(&self, thread: usize, target: usize) -> Outcome<f64> {
        let calls = self.site.calls;
        let (slot, parent) = (self.slot(thread)?, self.parent(target)?);
        let ground = path::open_child(&slot.parent, &slot.name)?;
        let name = OsStr::new(NAME);
        let slave = Change { propagation: Some(PropagationKind::Slave), attrs: MountAttrs::default() };

        let begin = Instant::now();
        let parent = calls.open_beneath(&self.kubelet, parent)?;
        let source = calls.open_beneath(&self.root, &self.source)?;
        path::make_dir(&parent, name, 0o750)?;
        mount::bind_recursive(&source, &ground)?;
        let copy = path::open_child(&slot.parent, &slot.name)?;
        calls.change(&self.site.proc, &copy, slave, true)?;
        calls.move_to(&copy, &parent, name)?;
        drop((copy, source, parent));
        Ok(micros(begin))
    }

    /// Takes it away again. What it took, in µs.
    fn unpublish(&self, target: usize) -> Outcome<f64> {
        let (parent, name) = (self.parent(target)?, OsStr::new(NAME));
        let begin = Instant::now();
        let parent = self.site.calls.open_beneath(&self.kubelet, parent)?;
        mount::unmount(&parent, name, Unmount::IfIdle)?;
        path::remove_dir(&parent, name)?;
        drop(parent);
        Ok(micros(begin))
    }

    fn slot(&self, thread: usize) -> Outcome<&Slot> {
        Ok(self.slots.get(thread).ok_or("more threads than were prepared for")?)
    }

    fn parent(&self, target: usize) -> Outcome<&Path> {
        Ok(self.parents.get(target).ok_or("more targets than were prepared for")?)
    }

    /// A publish and an unpublish on the calling thread, in µs.
    pub(crate) fn pair(&self) -> Outcome<(f64, f64)> {
        Ok((self.publish(0, 0)?, self.unpublish(0)?))
    }

    /// `each` volumes on each of some threads.
    pub(crate) fn burst(&self, threads: usize, each: usize) -> Outcome<Burst> {
        let targets = |thread: usize| thread * each..(thread + 1) * each;
        let (publish, publish_took) =
            self.at_once(threads, |thread| targets(thread).map(|target| self.publish(thread, target)).collect())?;
        let (unpublish, unpublish_took) =
            self.at_once(threads, |thread| targets(thread).map(|target| self.unpublish(target)).collect())?;
        Ok(Burst { publish, unpublish, publish_took, unpublish_took, ..Burst::default() })
    }

    /// Each thread publishes and unpublishes its own volume `each` times.
    pub(crate) fn pairs(&self, threads: usize, each: usize) -> Outcome<Throughput> {
        let (times, took) = self.at_once(threads, |thread| {
            (0..each).map(|_| Ok(self.publish(thread, thread)? + self.unpublish(thread)?)).collect()
        })?;
        Ok(Throughput { count: times.len(), took })
    }

    /// Runs `work` on that many threads, which begin together: what each call took in µs, and all together in seconds.
    fn at_once(&self, threads: usize, work: impl Fn(usize) -> Outcome<Vec<f64>> + Sync) -> Outcome<(Vec<f64>, f64)> {
        let start = Barrier::new(threads);
        let one = |thread| -> Outcome<(Instant, Vec<f64>, Instant)> {
            let entered = enter_own(&self.site.proc);
            start.wait();
            entered?;
            let begin = Instant::now();
            Ok((begin, work(thread)?, Instant::now()))
        };
        let ended: Vec<_> = std::thread::scope(|scope| {
            let one = &one;
            let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
            running
                .into_iter()
                .map(|thread| thread.join().map_err(|_| "a thread of the direct calls panicked"))
                .collect()
        });
        let mut times = Vec::new();
        let mut span: Option<(Instant, Instant)> = None;
        for thread in ended {
            let (begin, taken, end) = thread??;
            times.extend(taken);
            span = Some(span.map_or((begin, end), |(first, last)| (first.min(begin), last.max(end))));
        }
        let (first, last) = span.ok_or("no thread")?;
        Ok((times, (last - first).as_secs_f64()))
    }
}

/// Makes the calling thread one for mount calls: they find descriptors by way of its working directory.
fn enter_own(proc: &Proc) -> Outcome<()> {
    namespace::enter(proc, &proc.thread_mount_namespace()?)?;
    Ok(())
}
