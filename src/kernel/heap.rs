//! The heap's settings: glibc's malloc is told to keep little of what is freed.
//!
//! By default it makes up to eight heaps for each processor, one for each thread that comes while the others are in
//! use, each with its own remains; and what a large block once took, it takes from the heap ever after instead of
//! from the kernel, so that a burst stays resident for good. A plugin whose threads wait for the kernel most of the
//! time gains nothing from that, on every node.

use libc::c_int;

/// How many heaps there may be. Two, so that a thread rarely waits for another's allocation.
const HEAPS: c_int = 2;
/// From how many bytes on a block is the kernel's, given back when it is freed; and how many free bytes at the end of a
/// heap are kept. To set them is to end malloc's raising them by itself (mallopt(3)).
const LARGE: c_int = 128 * 1024;

/// Sets that up. It is to be called before threads are started; settings that the allocator doesn't know are left out.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, HEAPS), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, LARGE)]
    {
        // SAFETY: the call takes two integers and locks the allocator's state.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives whatever is free to the kernel, also from the midst of the heaps: for after a burst. It takes some 0.1 ms for
/// each MiB.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes an integer, locks each heap in turn, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
