//! What a node can run out of: which errors mean that, what is found then, and what to do about it.
//!
//! Each becomes RESOURCE_EXHAUSTED in `frontend::csi::status`. The request is valid, and the kubelet's retry succeeds
//! once there is room.

use std::fmt;

use mounts::Errno;

use crate::site::Site;

/// Whether an error means a shortage, which the node's administrator can end by adding or freeing something.
#[must_use]
pub const fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSPC | Errno::EDQUOT | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE)
}

/// What to do about a shortage, to append to the error. Empty for other errors.
#[must_use]
pub const fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOSPC | Errno::EDQUOT => {
            "; the file system has no space, inodes or quota left: free some there, the call is then retried"
        }
        Errno::ENOMEM => {
            "; the kernel gets no memory for it: raise the plugin's memory limit, or free memory on the node"
        }
        Errno::EMFILE => {
            "; the plugin has as many descriptors open as it may: raise its limit (RLIMIT_NOFILE), or lower \
             --max-connections"
        }
        Errno::ENFILE => "; the node has as many files open as it may: raise the sysctl fs.file-max",
        _ => "",
    }
}

/// What to do if a mount thread can't be started.
#[must_use]
pub const fn thread_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::EAGAIN => {
            "; the plugin has as many threads as it may: raise the limit of its control group (pids.max) or user"
        }
        errno if is_shortage(errno) => advice(errno),
        _ => "; the plugin needs CAP_SYS_ADMIN, CAP_SYS_CHROOT and CAP_SYS_PTRACE, and hostPID",
    }
}

/// Which mount namespace has no room for a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The kubelet's, in which the volume is put together.
    Callers,
    /// Another one in which the volume appears, because it shares what is mounted beneath the kubelet's directory. The
    /// kernel counts the copies there (fs/pnode.c `propagate_one`, fs/namespace.c `count_mounts`).
    Receivers,
}

impl Full {
    /// The namespace that is full, as a part of a sentence.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Callers => "the kubelet's mount namespace has no room for it and what is mounted beneath its source",
            Self::Receivers => {
                "another mount namespace, which receives what is mounted in the kubelet's directory, has no room for \
                 its copy of it"
            }
        }
    }
}

/// How many mounts the caller's namespace has, and how many the kernel allows in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// How many it has. Linux 6.12 and later tell that without a list.
    pub mounts: Option<u32>,
    /// The sysctl fs.mount-max.
    pub most: Option<u32>,
}

impl Room {
    /// For the calling thread's namespace. What can't be found out is left out, since this is only for messages.
    #[must_use]
    pub fn now(site: &Site) -> Self {
        let most = site.proc.read("sys/fs/mount-max").ok();
        let told = site.proc.thread_mount_namespace().and_then(|namespace| namespace.count());
        Self {
            // The kernel leaves out the namespace's own root (fs/namespace.c `copy_ns_info_to_user`), but it counts.
            mounts: told.map(|mounts| mounts.saturating_add(1)).ok(),
            most: most.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok()),
        }
    }

    /// Whether the namespace is known to have no room for another mount.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.mounts.zip(self.most).is_some_and(|(mounts, most)| mounts >= most)
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mounts {
            Some(mounts) => write!(f, "the kubelet's has {mounts} mounts")?,
            None => f.write_str("the kubelet's mounts were not counted")?,
        }
        match self.most {
            Some(most) => write!(f, ", and each may have {most}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shortage_has_its_advice() {
        for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE] {
            assert!(is_shortage(errno) && advice(errno).starts_with("; "), "{errno}");
            assert_eq!(thread_advice(errno), advice(errno));
        }
        assert!(!is_shortage(Errno::EPERM) && advice(Errno::EPERM).is_empty());
        assert!(thread_advice(Errno::EAGAIN).contains("pids.max") && thread_advice(Errno::EPERM).contains("CAP_"));
    }

    #[test]
    fn room_is_told_as_far_as_it_is_known() {
        let room = Room { mounts: Some(99_999), most: Some(100_000) };
        assert_eq!(room.to_string(), "the kubelet's has 99999 mounts, and each may have 100000");
        assert_eq!(Room::default().to_string(), "the kubelet's mounts were not counted");
    }
}
