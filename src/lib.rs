//! hostmount: a Kubernetes CSI node plugin that gives pods directories of their node by bind mount, with exactly
//! the mount propagation that the pod asked for. ARCHITECTURE.md tells the rooms, which are crates.
#![forbid(unsafe_code)]

pub mod cli;
pub mod serve;
pub mod telemetry;
