//! The mounts of a whole machine as one forest, and a model of what the kernel does to it: who receives a mount, and what
//! every namespace has after an operation. Plain data in, plain data out.
#![forbid(unsafe_code)]

pub mod kubelet;
pub mod machine;
pub mod subtrees;
