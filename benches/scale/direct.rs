//! The system calls of a publish and an unpublish without a plugin, on a thread prepared like a mount thread.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use allowlist::names::AbsPath;
use engine::site::Site;
use engine::staging_area::StagingArea;
use kernel::calls::Calls;
use kernel::mount::{self, Unmount};
use kernel::namespace::{self, Proc};
use kernel::path;
use mounts::propagation::PropagationKind;
use mounts::{Change, MountAttrs};

use crate::Outcome;
use crate::node::text;

/// What to do at a target, whose parent is there.
pub(crate) enum Order {
    /// Publish the source, as a slave of it or as a peer.
    Publish { source: PathBuf, target: PathBuf, slave: bool },
    /// Take it away again.
    Unpublish { target: PathBuf },
}

/// The thread. Each order is answered by how long it took, in µs.
pub(crate) struct Direct {
    orders: SyncSender<Order>,
    done: Receiver<Outcome<f64>>,
}

impl Direct {
    pub(crate) fn start(kubelet: &Path) -> Self {
        let (orders, coming) = sync_channel::<Order>(1);
        let (answer, done) = sync_channel(1);
        let kubelet = kubelet.to_owned();
        std::thread::spawn(move || {
            let mut calls = DirectCalls::new(&kubelet);
            for order in coming {
                let took = match &mut calls {
                    Ok(calls) => calls.run(&order),
                    Err(why) => Err(why.to_string().into()),
                };
                if answer.send(took).is_err() {
                    break;
                }
            }
        });
        Self { orders, done }
    }

    pub(crate) fn run(&self, order: Order) -> Outcome<f64> {
        self.orders.send(order)?;
        self.done.recv()?
    }
}

struct DirectCalls {
    site: Site,
    workshop: StagingArea,
    root: OwnedFd,
    kubelet: OwnedFd,
    kubelet_path: PathBuf,
}

impl DirectCalls {
    fn new(kubelet: &Path) -> Outcome<Self> {
        let proc = Proc::new()?;
        namespace::enter(&proc, &proc.own_mount_namespace()?)?;
        let kubelet_dir = AbsPath::parse(&text(kubelet)).map_err(|e| format!("{} {e}", kubelet.display()))?;
        let layout = Arc::new(frontend::kubelet::layout(&kubelet_dir, "direct.hostmount.dev"));
        let site = Site { proc: Arc::new(proc), calls: Calls::probe(), layout };
        let workshop = StagingArea::open(&site).map_err(|(at, e)| format!("{}: {e}", at.display()))?;
        Ok(Self {
            workshop,
            root: path::open_trusted(Path::new("/"))?,
            kubelet: path::open_trusted(kubelet)?,
            kubelet_path: kubelet.to_owned(),
            site,
        })
    }

    fn parent_of(&self, target: &Path) -> Outcome<PathBuf> {
        let parent = target.parent().ok_or("a target without a parent")?;
        Ok(parent.strip_prefix(&self.kubelet_path)?.to_owned())
    }

    fn run(&mut self, order: &Order) -> Outcome<f64> {
        let calls = self.site.calls;
        let name = OsStr::new("mount");
        match order {
            Order::Publish { source, target, slave } => {
                let slot = self.workshop.slot(&self.site, 0)?;
                let ground = path::open_child(&slot.parent, &slot.name)?;
                let parent = self.parent_of(target)?;
                let source = source.strip_prefix("/")?;
                let begin = Instant::now();
                let parent = calls.open_beneath(&self.kubelet, &parent)?;
                let source = calls.open_beneath(&self.root, source)?;
                path::make_dir(&parent, name, 0o750)?;
                mount::bind_recursive(&source, &ground)?;
                let copy = path::open_child(&slot.parent, &slot.name)?;
                if *slave {
                    let change = Change { propagation: Some(PropagationKind::Slave), attrs: MountAttrs::default() };
                    calls.change(&self.site.proc, &copy, change, true)?;
                }
                calls.move_to(&copy, &parent, name)?;
                drop((copy, source, parent));
                Ok(begin.elapsed().as_secs_f64() * 1e6)
            }
            Order::Unpublish { target } => {
                let parent = self.parent_of(target)?;
                let begin = Instant::now();
                let parent = calls.open_beneath(&self.kubelet, &parent)?;
                mount::unmount(&parent, name, Unmount::IfIdle)?;
                path::remove_dir(&parent, name)?;
                drop(parent);
                Ok(begin.elapsed().as_secs_f64() * 1e6)
            }
        }
    }
}
