//! Looks at a machine: the mount tables of all its mount namespaces, and whose these are.
#![forbid(unsafe_code)]

pub mod gather;
pub mod kubelet;
pub mod processes;
mod read;
pub mod resolve;
