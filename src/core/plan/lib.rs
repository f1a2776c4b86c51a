//! Decides which steps publish, stage or unpublish a volume, from what was found and what is wished. Pure: no calls.
//!
//! One sequence serves staging and publishing: bind the source onto a slot of the private staging area
//! (`engine::staging_area`), set propagation and flags of the copy there, move it to the target. Each step is atomic in
//! the kernel, and the copy receives mount events from the first step on, so no event of the source is lost. The node
//! never sees a copy with the wrong propagation. That matters because an attach propagates copies to other namespaces,
//! and a later change doesn't reach them.
#![forbid(unsafe_code)]

mod compare;
mod decide;
mod found;
#[cfg(test)]
extern crate self as plan;

#[cfg(test)]
mod fixture;
pub mod healing;
pub mod idmap;
pub mod layout;
pub mod record;
mod steps;

pub use compare::{Difference, compare, relation, strongest};
pub use decide::{Attach, Clear, Decision, Refused, attach, staging_relation};
pub use found::{Found, Gone, Mounted, Source, Wish};
pub use steps::{Making, MountPoint, Origin, Step, detach_steps, undo};
