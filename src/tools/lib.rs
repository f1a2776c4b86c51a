//! The commands for people: inspect, explain, watch, volumes, check and try.
#![forbid(unsafe_code)]

pub mod check;
pub mod explain;
mod in_containers;
pub mod inspect;
mod json_bytes;
pub mod mount_tree;
mod options;
pub mod picture;
mod terminal;
#[expect(clippy::disallowed_methods, reason = "plays kubelet and container runtime, in namespaces of its own")]
pub mod try_out;
pub mod visit;
pub mod volumes;
pub mod watch;
