//! What a driver's process takes: memory and processor time, as /proc tells.

use std::fs;

use crate::Outcome;
use crate::samples::Memory;
use crate::stats::number;

/// The clock ticks of a second in /proc/PID/stat: USER_HZ, 100 on every architecture that Linux runs containers on.
const TICKS: f64 = 100.0;

/// Reads a field of the form `Name:   123 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// The memory of a process.
pub(crate) fn memory(pid: u32) -> Outcome<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    Ok(Memory {
        resident: kib(&status, "VmRSS").ok_or("no VmRSS")?,
        proportional: kib(&rollup, "Pss").ok_or("no Pss")?,
        anonymous: kib(&rollup, "Anonymous").ok_or("no Anonymous")?,
    })
}

/// The processor time in seconds of a process, its ended threads and its ended children (proc_pid_stat(5), utime,
/// stime, cutime, cstime): a driver that runs mount(8) pays for it there. In steps of 10 ms, so it is summed up over
/// many bursts.
pub(crate) fn processor_time(pid: u32) -> Outcome<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before it may hold spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/PID/stat has no name")?;
    let ticks: usize = fields.split_whitespace().skip(11).take(4).map(str::parse::<usize>).sum::<Result<usize, _>>()?;
    Ok(number(ticks) / TICKS)
}
