//! Which of the newer system calls this kernel and this seccomp profile let us make; found once, at start.
//!
//! A kernel that lacks a call says ENOSYS; container runtimes with an older seccomp profile say ENOSYS or EPERM for
//! the very same call on a newer kernel. Each call is therefore tried with arguments that it must refuse: any error
//! but those two means that it is there. Seen on a real node: statmount(2) refused by an otherwise current profile.

use std::fmt;

use linux_raw_sys::general as raw;
use nix::errno::Errno;

/// The calls that have a fall-back, and whether they can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one independent fact per system call")]
pub struct Calls {
    /// openat2(2), Linux 5.6. Else: the path is walked component by component with `O_NOFOLLOW`.
    pub openat2: bool,
    /// move_mount(2), Linux 5.2. Else: mount(2) with `MS_MOVE`.
    pub move_mount: bool,
    /// mount_setattr(2), Linux 5.12. Else: mount(2) for the propagation, and a remount of each mount of the tree
    /// for the flags.
    pub mount_setattr: bool,
    /// statmount(2) and listmount(2) with `STATX_MNT_ID_UNIQUE`, Linux 6.8. Else: mountinfo is read and searched, which
    /// costs time in proportion to the number of mounts.
    pub statmount: bool,
}

impl Calls {
    /// Every call is there.
    pub const ALL: Self = Self { openat2: true, move_mount: true, mount_setattr: true, statmount: true };
    /// No call is there: what a kernel of 2018 has.
    pub const NONE: Self = Self { openat2: false, move_mount: false, mount_setattr: false, statmount: false };

    /// Asks the kernel.
    #[must_use]
    pub fn probe() -> Self {
        Self {
            openat2: refusal(raw::__NR_openat2).is_none(),
            move_mount: refusal(raw::__NR_move_mount).is_none(),
            mount_setattr: refusal(raw::__NR_mount_setattr).is_none(),
            statmount: refusal(raw::__NR_statmount).is_none() && refusal(raw::__NR_listmount).is_none(),
        }
    }

    /// The calls that are missing, by name.
    #[must_use]
    pub fn missing(self) -> Vec<&'static str> {
        [
            (self.openat2, "openat2"),
            (self.move_mount, "move_mount"),
            (self.mount_setattr, "mount_setattr"),
            (self.statmount, "statmount"),
        ]
        .into_iter()
        .filter_map(|(there, name)| (!there).then_some(name))
        .collect()
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.missing();
        if missing.is_empty() { f.write_str("all there") } else { write!(f, "fall-back for {}", missing.join(", ")) }
    }
}

/// Each call that has a fall-back: its name, the Linux that brought it, and why it can't be made, if so: ENOSYS or
/// EPERM. [`Calls::probe`] for people, who can do something about the reason.
#[must_use]
pub fn refusals() -> [(&'static str, (u32, u32), Option<Errno>); 4] {
    [
        ("openat2", (5, 6), refusal(raw::__NR_openat2)),
        ("move_mount", (5, 2), refusal(raw::__NR_move_mount)),
        ("mount_setattr", (5, 12), refusal(raw::__NR_mount_setattr)),
        ("statmount", (6, 8), refusal(raw::__NR_statmount).or_else(|| refusal(raw::__NR_listmount))),
    ]
}

/// Makes the call with a bad descriptor, null pointers and sizes of zero, which each of them refuses without effect.
fn refusal(number: u32) -> Option<Errno> {
    // SAFETY: every pointer argument is null and every size zero; the calls probed here check both before use.
    let result = unsafe { libc::syscall(i64::from(number), -1, 0, 0, 0, 0) };
    (result == -1).then(Errno::last).filter(|errno| matches!(errno, Errno::ENOSYS | Errno::EPERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_calls_are_named() {
        assert_eq!(Calls::ALL.to_string(), "all there");
        assert_eq!(Calls::NONE.missing(), ["openat2", "move_mount", "mount_setattr", "statmount"]);
        assert_eq!(Calls { statmount: false, ..Calls::ALL }.to_string(), "fall-back for statmount");
    }

    #[test]
    fn both_ways_of_asking_agree() {
        let missing: Vec<_> =
            refusals().into_iter().filter_map(|(name, _, why)| why.is_some().then_some(name)).collect();
        assert_eq!(missing, Calls::probe().missing());
    }

    #[test]
    fn an_unknown_number_is_not_there() {
        assert_eq!(refusal(100_000), Some(Errno::ENOSYS));
    }
}
