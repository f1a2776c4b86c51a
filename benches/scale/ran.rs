//! What a process has run. `benches/faults.rs` asks for it too.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// What the threads of a process have run, those that have ended too (clock_getcpuclockid(3)).
///
/// # Errors
/// ESRCH: there is no such process.
pub(crate) fn by(pid: u32) -> nix::Result<Duration> {
    Ok(clock_gettime(ClockId::pid_cpu_clock_id(Pid::from_raw(pid.cast_signed()))?)?.into())
}
