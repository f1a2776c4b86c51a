//! Runs steps, and undoes them if one fails.
//!
//! [`Work`] makes the one system call that a step stands for. The steps that make a missing source are in
//! [`crate::make_source`]. Tests wrap it, to let the n-th step fail or to end the process after it, on the real kernel.

use std::os::fd::OwnedFd;

use kernel::mount::{self, Unmount};
use kernel::path;
use mounts::propagation::PropagationKind;
use mounts::{Change, Errno};
use plan::{MountPoint, Origin, Step, undo};

use crate::observe::TargetPlace;
use crate::site::Site;
use crate::staging_area::Slot;

/// Runs one step.
pub trait Run {
    /// Runs the step.
    ///
    /// # Errors
    /// The kernel's error. Nothing was changed then.
    fn run(&mut self, step: Step) -> Result<(), Errno>;
}

/// The descriptors that the steps of one request work on.
#[derive(Debug)]
pub struct Work<'a> {
    /// The node.
    pub site: &'a Site,
    /// The source, for requests that bind.
    pub source: Option<&'a OwnedFd>,
    /// The root of the staged copy, if there is one.
    pub staging: Option<&'a OwnedFd>,
    /// The slot, for requests that bind.
    pub slot: Option<&'a Slot>,
    /// The target.
    pub target: &'a TargetPlace,
    /// The root of the copy on the slot, once a step has opened it.
    pub copy: Option<OwnedFd>,
}

impl Work<'_> {
    /// The copy that the bind made on the slot. It is opened once, so a mount made over it meanwhile is moved with it.
    fn copy(&mut self) -> Result<OwnedFd, Errno> {
        self.copy.take().map_or_else(|| self.top(MountPoint::Slot), Ok)
    }

    fn top(&self, place: MountPoint) -> Result<OwnedFd, Errno> {
        match place {
            MountPoint::Target => path::open_child(&self.target.parent, &self.target.name),
            MountPoint::Slot => {
                let slot = self.slot.ok_or(Errno::EINVAL)?;
                path::open_child(&slot.parent, &slot.name)
            }
        }
    }

    fn unmount(&mut self, place: MountPoint, how: Unmount) -> Result<(), Errno> {
        // An open descriptor of the copy would keep the mount busy.
        self.copy = None;
        match place {
            MountPoint::Target => mount::unmount(&self.target.parent, &self.target.name, how),
            MountPoint::Slot => {
                let slot = self.slot.ok_or(Errno::EINVAL)?;
                mount::unmount(&slot.parent, &slot.name, how)
            }
        }
    }
}

impl Run for Work<'_> {
    fn run(&mut self, step: Step) -> Result<(), Errno> {
        let Site { proc, calls, .. } = self.site;
        match step {
            Step::MakeTarget => path::make_dir(&self.target.parent, &self.target.name, 0o750).map(drop),
            Step::RemoveTarget => path::remove_dir(&self.target.parent, &self.target.name).map(drop),
            Step::Bind(origin) => {
                let from = match origin {
                    Origin::Source => self.source,
                    Origin::Staging => self.staging,
                };
                self.copy = None;
                let ground = &self.slot.ok_or(Errno::EINVAL)?.ground;
                // A bound copy can be used and unmounted only by a descriptor of it, so one must be free.
                drop(ground.try_clone().map_err(|e| e.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw))?);
                mount::bind_recursive(from.ok_or(Errno::EINVAL)?, ground)
            }
            Step::Change(change) => {
                let copy = self.copy()?;
                calls.change(proc, &copy, change, true)?;
                self.copy = Some(copy);
                Ok(())
            }
            Step::Move => calls.move_to(self.copy()?, &self.target.parent, &self.target.name),
            Step::MoveBeneath => calls.move_beneath(self.copy()?, self.top(MountPoint::Target)?),
            Step::UnmountIdle(place) => self.unmount(place, Unmount::IfIdle),
            Step::MakePrivate(place) => {
                let private = Change { propagation: Some(PropagationKind::Private), ..Change::default() };
                calls.change(proc, self.top(place)?, private, true)
            }
            Step::Detach(place) => self.unmount(place, Unmount::Detach),
            // `make_source` makes these, before there is a source to bind.
            Step::Source(_) => Err(Errno::EINVAL),
        }
    }
}

/// A step that failed, and the result of undoing those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The step.
    pub step: Step,
    /// The step's error.
    pub errno: Errno,
    /// The first undo step that failed, and its error.
    pub undo: Result<(), (Step, Errno)>,
}

/// Why a run of steps stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// A step failed.
    Failed(Failed),
    /// Nobody waits for the result any more. All steps were undone.
    Cancelled,
}

/// Runs steps in order. If one fails, or `cancelled` is true before one, the steps done so far are undone.
///
/// # Errors
/// [`Stopped`].
pub fn run_all(run: &mut dyn Run, steps: &[Step], cancelled: &dyn Fn() -> bool) -> Result<(), Stopped> {
    for (n, &step) in steps.iter().enumerate() {
        if cancelled() {
            // The next look at the target shows whether the undo succeeded. There is nobody to tell.
            let _ = take_back(run, &steps[..n]);
            return Err(Stopped::Cancelled);
        }
        if let Err(errno) = run.run(step) {
            return Err(Stopped::Failed(Failed { step, errno, undo: take_back(run, &steps[..n]) }));
        }
    }
    Ok(())
}

/// Undoes steps that were done. It goes on after a failure, as far as possible, and reports the first one.
///
/// A tree that couldn't be made private stays: unmounting it would unmount the node's own nested mounts too. On a slot,
/// the next use of the slot tries again. At a target, the next call for it does.
///
/// # Errors
/// The first undo step that failed, and the kernel's error.
pub fn take_back(run: &mut dyn Run, done: &[Step]) -> Result<(), (Step, Errno)> {
    let mut first = Ok(());
    let mut linked = None;
    for step in undo(done) {
        if matches!(step, Step::Detach(place) if linked == Some(place)) {
            continue;
        }
        if let Err(errno) = run.run(step) {
            first = first.and(Err((step, errno)));
            if let Step::MakePrivate(place) = step {
                linked = Some(place);
            }
        }
    }
    first
}
