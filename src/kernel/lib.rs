//! Every system call about mounts, paths and namespaces, and all `unsafe` of the program.
//!
//! Nothing here decides anything: a function is one call with types on it, or its fall-back (see [`calls`]). `plan`
//! decides what to call in which order, and `engine::apply` does it.
//!
//! **Contract.** Callers pass file descriptors instead of paths wherever a stranger could swap the path in between. If
//! the kernel has only a path-based call, the path is the descriptor's number, relative to the working directory.
//! [`namespace::enter`] sets that to *our own* `/proc/self/fd`: after `setns(2)` the node's `/proc` may belong to a PID
//! namespace in which `self` doesn't resolve, and each step of a path through `/proc` costs as much as a small system
//! call. So only a thread that [`namespace::enter`] has prepared may call the functions of [`mount`].
//!
//! **Safety.** The `unsafe` blocks are raw system calls whose pointers refer to live, correctly sized locals. Each
//! block says so. No function of this module takes a raw pointer or a raw descriptor.

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
