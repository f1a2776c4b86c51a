//! hostmount: a Kubernetes CSI node plugin that gives pods directories of their node by bind mount, with exactly
//! the mount propagation that the pod asked for.
//!
//! A call passes, in this order: [`csi::request`] reads the message, [`lookup`] knows what the pod ([`pod`]) asks for,
//! [`policy`] asks the allow-list ([`config`]),
//! [`gate`] lets one call at a time at a path, [`threads`] takes it into the caller's mount namespace, where
//! [`engine`] has [`observe`] read the tree, [`plan`] decide and [`apply`] run the steps; [`csi::status`] says how it
//! went. [`sys`] makes the system calls. The pure parts, [`plan`], [`policy`], [`pod`], [`config`], [`propagation`],
//! [`volume`] and [`tree`], do no I/O and know neither gRPC nor threads.

pub mod admin;
pub mod apply;
pub mod author;
pub mod check;
pub mod cli;
pub mod config;
pub mod containers;
pub mod csi;
pub mod engine;
pub mod events;
pub mod explain;
pub mod gate;
pub mod heal;
pub mod health;
pub mod held;
pub mod idmap;
pub mod inspect;
pub mod lookup;
pub mod machine;
pub mod make_source;
pub mod metrics;
pub mod mount_error;
pub mod note;
pub mod observe;
pub mod paint;
pub mod picture;
pub mod plan;
pub mod plugin;
pub mod pod;
pub mod policy;
pub mod propagation;
pub mod registration;
pub mod serve;
pub mod shortage;
pub mod site;
pub mod socket;
pub mod subtrees;
#[expect(unsafe_code, reason = "the fence: the one place for system calls that no library has")]
#[expect(clippy::disallowed_methods, reason = "the fence: what is banned elsewhere is done here")]
pub mod sys;
pub mod telemetry;
pub mod text;
pub mod threads;
pub mod tree;
#[expect(clippy::disallowed_methods, reason = "plays kubelet and container runtime, in namespaces of its own")]
pub mod try_out;
pub mod visit;
pub mod vitals;
pub mod volume;
pub mod volumes;
pub mod watch;
pub mod wire;
pub mod workshop;
