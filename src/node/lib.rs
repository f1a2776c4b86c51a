//! Reads the mount tables of all mount namespaces of a machine, and finds the containers and pods that they belong to.
#![forbid(unsafe_code)]

pub mod gather;
pub mod kubelet;
pub mod processes;
mod read;
pub mod resolve;
