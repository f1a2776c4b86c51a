//! The kernel's mount table as plain data.

pub mod mountinfo;
