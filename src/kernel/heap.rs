//! Makes glibc's malloc keep little of what is freed.
//!
//! By default it makes up to eight heaps for each processor: a new one for each thread that comes while the others are
//! in use. Each keeps unused memory. Once a large block was freed, later blocks of its size come from the heap instead
//! of the kernel, so a burst stays resident for good. The plugin's threads wait for the kernel most of the time and
//! gain nothing from that, on every node.

use libc::c_int;

/// The most heaps. Two, so that a thread rarely waits for another's allocation.
const HEAPS: c_int = 2;
/// Blocks of this many bytes or more come from the kernel, and return to it when freed. A heap keeps as many free bytes
/// at its end. Setting the two stops malloc from raising them (mallopt(3)).
const LARGE: c_int = 128 * 1024;

/// Sets this up. Call it before threads are started. Settings that the allocator doesn't know are skipped.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, HEAPS), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, LARGE)]
    {
        // SAFETY: the call takes two integers and locks the allocator's state.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Returns all free memory to the kernel, also from the middle of the heaps. Call it after a burst. It takes about
/// 0.1 ms for each MiB.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes an integer, locks each heap in turn, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
