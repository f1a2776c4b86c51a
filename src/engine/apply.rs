//! Runs steps, and takes them back if one fails.
//!
//! [`Work`] makes the one system call that a step stands for; those that make a missing source are
//! [`crate::make_source`]'s.
//! Tests wrap it to let the n-th step fail or to end the process after it, on the real kernel.

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
    /// Does it.
    ///
    /// # Errors
    /// What the kernel says; then nothing was changed.
    fn run(&mut self, step: Step) -> Result<(), Errno>;
}

/// The descriptors of one request, on which steps are made.
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
    /// The copy that the bind has made on the slot. Opened once: what else is mounted over it meanwhile goes with it.
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
        // An open descriptor of it would keep it busy.
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
                // What is bound can be used, and taken away again, only by a descriptor of it: there must be one to spare.
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
            // Made by `make_source`, before there is a source to bind.
            Step::Source(_) => Err(Errno::EINVAL),
        }
    }
}

/// A step that failed, and how taking back the ones before it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The step.
    pub step: Step,
    /// What the kernel said.
    pub errno: Errno,
    /// What the kernel said of an undo step, if one failed too.
    pub undo: Result<(), (Step, Errno)>,
}

/// Why a run of steps stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// A step failed.
    Failed(Failed),
    /// Nobody waits for the result any more; all was taken back.
    Cancelled,
}

/// Runs steps in order. On failure, or if `cancelled` says so before a step, what was done is undone.
///
/// # Errors
/// [`Stopped`].
pub fn run_all(run: &mut dyn Run, steps: &[Step], cancelled: &dyn Fn() -> bool) -> Result<(), Stopped> {
    for (n, &step) in steps.iter().enumerate() {
        if cancelled() {
            // Whether the undo went well shows in the next look at the target; there is nobody to tell.
            let _ = take_back(run, &steps[..n]);
            return Err(Stopped::Cancelled);
        }
        if let Err(errno) = run.run(step) {
            return Err(Stopped::Failed(Failed { step, errno, undo: take_back(run, &steps[..n]) }));
        }
    }
    Ok(())
}

/// Undoes steps that were done; what can be undone after a failure is, and the first failure is reported.
///
/// A tree that couldn't be made private is left where it is: unmounting it would unmount the node's own nested mounts
/// with it. On a slot, the next use of the slot tries again; at a target, the next call for it.
///
/// # Errors
/// The undo step that failed, with what the kernel said.
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
