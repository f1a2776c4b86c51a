//! The jobs of a mount thread: publish, stage, unpublish, usage and health, each from observing to verifying.
//!
//! A job runs on one thread that has entered the kubelet's mount namespace. It may hang in any call on a dead source.
//! It keeps no state: each job asks the kernel what is mounted.
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

/// A request to publish or stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachJob {
    /// The node's directory.
    pub source: SourcePath,
    /// Where it is to appear.
    pub target: Target,
    /// The staging path, if the volume was staged.
    pub staging: Option<Target>,
    /// What must cross. For staging, the entry's ceiling, which is lowered to what the source can give.
    pub relation: MountPropagation,
    /// Whether `relation` may be lowered (staging).
    pub lower: bool,
    /// Flags to set.
    pub attrs: MountAttrs,
    /// Whether the volume may be published at one target only.
    pub single_writer: bool,
    /// Whether the pod's runtime will map the owners of the files (`hostUsers: false`). Not every source allows that.
    pub user_namespace: bool,
    /// The owner, recorded for `service::heal`. None for staging.
    pub owner: Option<Owner>,
    /// Whether this is for healing: see [`plan::Wish::follow`].
    pub follow: bool,
}

/// What a job runs with.
pub struct Context<'a> {
    /// The node.
    pub site: &'a Site,
    /// Whether nobody waits for the result any more.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Runs each step. Tests use it to make one fail.
    pub hook: Option<Hook<'a>>,
}

/// What runs a step: it is given what would run it.
pub type RunStep<'a> = dyn FnMut(&mut dyn Run, Step) -> Result<(), Errno> + 'a;

/// A test's own [`RunStep`], in the place of [`Run::run`].
pub type Hook<'a> = &'a mut RunStep<'a>;

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

/// Gives the thread's slot in the staging area, or the path where none can be made, and why.
pub type TakeSlot<'a> = dyn FnMut() -> Result<Slot, (PathBuf, Errno)> + 'a;

/// Runs steps, through a hook if there is one.
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

/// The result of a job that publishes or stages. `S` is the slot on which the volume was put together.
#[derive(Debug, PartialEq, Eq)]
pub enum Attached<S = Slot> {
    /// It was made.
    Made(S),
    /// It was there already, as it would be made now.
    There,
    /// The record says that this very volume was there. It was left as it is, and only the kubelet's own file system
    /// was asked.
    Kept {
        /// Whether a publish now would make it the same way.
        agrees: bool,
    },
}

impl<S> Attached<S> {
    /// The same, after giving the slot back.
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
