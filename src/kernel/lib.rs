//! The fence: every system call about mounts, paths and namespaces, and all `unsafe` of the crate.
//!
//! Nothing here decides anything: a function is one call (or its fall-back, see [`calls`]), with types on it.
//! What to call in which order is decided by `plan` and done by `engine::apply`.
//!
//! **Contract.** Callers pass file descriptors instead of paths wherever a stranger could swap the path in between.
//! Where the kernel has only a path-based call, the path is the descriptor's number, relative to the thread's working
//! directory, which [`namespace::enter`] puts on *our own* `/proc/self/fd`: after `setns(2)` the node's `/proc` may belong
//! to a PID namespace in which `self` doesn't resolve; and each step of a path through `/proc` costs the kernel as much as
//! a small system call. So the functions of [`mount`] may be called only on a thread that [`namespace::enter`] has prepared.
//!
//! **Safety.** The `unsafe` blocks are raw system calls whose pointers refer to live, correctly sized locals;
//! each says so where it stands. No function of this module takes a raw pointer or a raw descriptor.

#![expect(unsafe_code, reason = "the fence: the one place for system calls that no library has")]
#![expect(clippy::disallowed_methods, reason = "the fence: what is banned elsewhere is done here")]

pub mod calls;
pub mod heap;
pub mod mount;
pub mod mount_events;
pub mod namespace;
pub mod path;
pub mod readiness;
pub mod stat;
pub mod statmount;
