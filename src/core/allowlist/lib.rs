//! Who may have which directory, and how: names, the allow-list, the policy, and what the author of a pod may read of a refusal.
#![forbid(unsafe_code)]

pub mod author;
pub mod config;
pub mod names;
pub mod policy;
