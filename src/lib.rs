//! hostmount: a Kubernetes CSI node plugin that gives pods directories of their node by bind mount, with exactly
//! the mount propagation that the pod asked for.
pub mod config;
pub mod policy;
pub mod propagation;
pub mod volume;
