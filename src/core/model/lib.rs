//! The mounts of a whole machine, and a model of mount propagation. The model tells who receives a mount, and what
//! every namespace looks like after an operation. Plain data in, plain data out.
#![forbid(unsafe_code)]

pub mod kubelet;
pub mod machine;
pub mod subtrees;
