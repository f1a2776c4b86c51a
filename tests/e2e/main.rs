//! The plugin as its users meet it: installed by Helm on a real cluster, called by a real kubelet for real pods.
//!
//! Any cluster that KUBECONFIG names will do, if it has a node that takes pods, and the images (README.md beside says how
//! to get one). Tests run one after the other (`--test-threads=1`): they share the nodes and the release.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod cluster;
mod containers;
mod examples;
mod faults;
mod hands;
mod healing;
mod identity;
mod lifecycle;
mod load;
mod nodes;
mod pods;
mod propagation;
mod refusals;
mod repeats;
mod seeing;
mod user_namespaces;
