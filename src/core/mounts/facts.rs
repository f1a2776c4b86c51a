//! What identifies a directory, the flags of a mount, and what to change of a mount.

use crate::propagation::{PropagationKind, PropagationState};

/// The identity of a directory: device and inode. Two descriptors with the same identity show the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DirId {
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// The inode's number.
    pub inode: u64,
}

/// The per-mount flags that hostmount sets (`MOUNT_ATTR_*` of mount_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[expect(clippy::struct_excessive_bools, reason = "the kernel's flags are independent bits")]
pub struct MountAttrs {
    /// Nothing can be written through this mount.
    pub read_only: bool,
    /// Set-user-ID bits are ignored.
    pub nosuid: bool,
    /// Device nodes can't be opened.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
}

impl MountAttrs {
    /// Whether every flag of `other` is set here too.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        (self.read_only || !other.read_only)
            && (self.nosuid || !other.nosuid)
            && (self.nodev || !other.nodev)
            && (self.noexec || !other.noexec)
    }

    /// The flags set in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            read_only: self.read_only || other.read_only,
            nosuid: self.nosuid || other.nosuid,
            nodev: self.nodev || other.nodev,
            noexec: self.noexec || other.noexec,
        }
    }

    /// The flags set in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self {
            read_only: self.read_only && other.read_only,
            nosuid: self.nosuid && other.nosuid,
            nodev: self.nodev && other.nodev,
            noexec: self.noexec && other.noexec,
        }
    }

    /// The flags that `other` doesn't have.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self {
            read_only: self.read_only && !other.read_only,
            nosuid: self.nosuid && !other.nosuid,
            nodev: self.nodev && !other.nodev,
            noexec: self.noexec && !other.noexec,
        }
    }
}

/// What the kernel reports of one mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountFacts {
    /// The mount's id: the unique id where statmount(2) exists, else mountinfo's. Compare it only with ids found in the
    /// same run of the program.
    pub id: u64,
    /// Its propagation.
    pub propagation: PropagationState,
    /// Its flags.
    pub attrs: MountAttrs,
}

/// What to change on a mount: its propagation, and flags to add. No flag is ever removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// The new propagation. None: leave it.
    pub propagation: Option<PropagationKind>,
    /// Flags to add.
    pub attrs: MountAttrs,
}
