//! Looks at a machine: the mount tables of all its mount namespaces, and whose these are.
#![forbid(unsafe_code)]

pub mod gather;
mod read;
pub mod resolve;
