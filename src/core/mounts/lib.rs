//! Mounts as plain data: propagation, flags, identity of directories, the mount table. No I/O.
#![forbid(unsafe_code)]

mod facts;
pub mod mountinfo;
pub mod propagation;

pub use facts::{Change, DirId, MountAttrs, MountFacts};
pub use nix::errno::Errno;
