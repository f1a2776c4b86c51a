//! The jobs of a mount thread: publish, stage, unpublish, usage and health, each from observing to verifying.
//!
//! A job runs wholly on one thread that has entered the kubelet's mount namespace, may hang in any call of a dead
//! source, and keeps no state beyond itself: what is mounted is asked of the kernel each time.
#![forbid(unsafe_code)]

pub mod apply;
mod attach;
mod condition;
mod detach;
pub mod make_source;
pub mod mount_error;
pub mod observe;
pub mod record;
pub mod shortage;
pub mod site;
pub mod staging_area;

use std::path::PathBuf;

use allowlist::names::Target;
use mounts::propagation::MountPropagation;
use mounts::{Errno, MountAttrs};
use plan::Step;
use plan::record::Owner;

use crate::apply::Run;
use crate::observe::SourcePath;
use crate::site::Site;
use crate::staging_area::Slot;

pub use attach::{attach, attach_open, is_kept};
pub use condition::{health, source_health, usage};
pub use detach::detach;

/// What to put where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachJob {
    /// The node's directory.
    pub source: SourcePath,
    /// Where it shall appear.
    pub target: Target,
    /// Where the volume was staged, if it was.
    pub staging: Option<Target>,
    /// What must cross; for staging the entry's ceiling, which is lowered to what the source can give.
    pub relation: MountPropagation,
    /// Whether `relation` may be lowered (staging).
    pub lower: bool,
    /// Flags to set.
    pub attrs: MountAttrs,
    /// Whether the volume may be published at one target only.
    pub single_writer: bool,
    /// Whether the owners of its files will be mapped by the pod's runtime (`hostUsers: false`), which not every source allows.
    pub user_namespace: bool,
    /// Whose it is, to be noted for `service::heal`; none for staging.
    pub owner: Option<Owner>,
    /// Whether this is for healing: see [`Wish::follow`].
    pub follow: bool,
}

/// What a job runs with.
pub struct Context<'a> {
    /// The node.
    pub site: &'a Site,
    /// Whether nobody waits any more.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Runs each step, in tests that make one fail.
    pub hook: Option<Hook<'a>>,
}

/// Runs a step in the place of [`Run::run`], which it is given.
pub type Hook<'a> = &'a mut (dyn FnMut(&mut dyn Run, Step) -> Result<(), Errno> + 'a);

impl<'a> Context<'a> {
    /// A job's context.
    #[must_use]
    pub const fn new(site: &'a Site, cancelled: &'a dyn Fn() -> bool) -> Self {
        Self { site, cancelled, hook: None }
    }
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("site", self.site).finish_non_exhaustive()
    }
}

/// Gives the thread's place in the staging area, or says where none can be made and why.
pub type TakeSlot<'a> = dyn FnMut() -> Result<Slot, (PathBuf, Errno)> + 'a;

/// What is done, run by a hook, if there is one.
pub(crate) struct Hooked<'h, 'a, W> {
    pub(crate) work: W,
    pub(crate) hook: Option<&'h mut Hook<'a>>,
}

impl<W: Run> Run for Hooked<'_, '_, W> {
    fn run(&mut self, step: Step) -> Result<(), Errno> {
        match &mut self.hook {
            Some(hook) => hook(&mut self.work, step),
            None => self.work.run(step),
        }
    }
}

/// What came of a job that was to make a volume appear; `S` is the slot on which it was put together.
#[derive(Debug, PartialEq, Eq)]
pub enum Attached<S = Slot> {
    /// It was made.
    Made(S),
    /// It was there, as it would be made now.
    There,
    /// This very volume was there, by what is noted of it. It was left as it is, and nothing but the kubelet's own file
    /// system was asked.
    Kept {
        /// Whether it would be made the same way now.
        agrees: bool,
    },
}

impl<S> Attached<S> {
    /// The same after the slot was given back.
    pub fn giving_back(self, give: impl FnOnce(S)) -> Attached<()> {
        match self {
            Self::Made(slot) => {
                give(slot);
                Attached::Made(())
            }
            Self::There => Attached::There,
            Self::Kept { agrees } => Attached::Kept { agrees },
        }
    }
}
