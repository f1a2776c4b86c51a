//! The names of volumes, the allow-list, the policy that grants or refuses a volume, and the text that a pod's author may
//! read of a refusal.
#![forbid(unsafe_code)]

pub mod author;
pub mod config;
pub mod names;
pub mod policy;
