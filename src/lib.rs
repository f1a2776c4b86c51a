//! hostmount: a Kubernetes CSI node plugin that gives pods directories of their node by bind mount, with exactly
//! the mount propagation that the pod asked for.

pub mod admin;
pub mod apply;
pub mod cli;
pub mod config;
pub mod csi;
pub mod engine;
pub mod gate;
pub mod metrics;
pub mod observe;
pub mod plan;
pub mod plugin;
pub mod policy;
pub mod propagation;
pub mod serve;
pub mod site;
pub mod socket;
#[expect(unsafe_code, reason = "the fence: the one place for system calls that no library has")]
pub mod sys;
pub mod telemetry;
pub mod threads;
pub mod tree;
pub mod try_out;
pub mod volume;
pub mod wire;
pub mod workshop;
