//! The steps of a plan, how they are undone, and how a volume with nested mounts is unmounted.

use std::collections::HashSet;

use mounts::Change;
use mounts::mountinfo::{Mount, Table};

/// What a bind is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The node's directory.
    Source,
    /// The staged copy of the source: a mount of its own, so cheaper to bind.
    Staging,
}

/// Where the mount is that a step works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountPoint {
    /// The target or staging path of the request.
    Target,
    /// The thread's slot in the staging area.
    Slot,
}

/// One step of making a missing source directory (`engine::make_source`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Making {
    /// Make the directory under a temporary name.
    Directory,
    /// Set its mode.
    Mode,
    /// Set its owner.
    Owner,
    /// Rename it to its final name.
    Name,
    /// Remove the directory with the temporary name.
    Remove,
}

/// One step: one system call that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make the target directory.
    MakeTarget,
    /// Bind the origin with its subtree to the slot.
    Bind(Origin),
    /// Change the copy in the slot, with its subtree.
    Change(Change),
    /// Move the copy to the target.
    Move,
    /// Move the copy beneath the single mount at the target, which is then unmounted.
    MoveBeneath,
    /// Unmount the top mount, if nothing is mounted beneath it and it isn't in use.
    UnmountIdle(MountPoint),
    /// Make the top mount and its subtree private, so that unmounting it propagates to nobody.
    MakePrivate(MountPoint),
    /// Unmount the top mount with its subtree.
    Detach(MountPoint),
    /// Remove the empty target directory.
    RemoveTarget,
    /// Make a missing source directory.
    Source(Making),
}

/// The steps that undo `done` after a failure.
#[must_use]
pub fn undo(done: &[Step]) -> Vec<Step> {
    let mut steps = Vec::new();
    if done.contains(&Step::MoveBeneath) {
        // The copy can't be reached beneath the old mount, and the old mount is useless: leave both.
        return steps;
    }
    let mount_point = if done.contains(&Step::Move) { MountPoint::Target } else { MountPoint::Slot };
    if done.iter().any(|s| matches!(s, Step::Bind(_))) {
        steps.extend([Step::MakePrivate(mount_point), Step::Detach(mount_point)]);
    }
    if done.contains(&Step::MakeTarget) {
        steps.push(Step::RemoveTarget);
    }
    steps
}

/// The steps that unmount a volume with nested mounts, given the whole mount table of its namespace.
///
/// The tree is made private first if unmounting it would propagate to another mount of this namespace. That may be a
/// peer, such as the node's own directory, or a slave, such as a volume published from this staged copy.
///
/// Otherwise it must *not* be made private. Copies in other namespaces (a CSI driver's container that mounts the
/// kubelet's directory) are unmounted only by propagation.
#[must_use]
pub fn detach_steps(table: &Table, mount: u64) -> Vec<Step> {
    let group = |m: &Mount| m.propagation.peer_group;
    let Some(top) = table.mounts.iter().find(|m| m.id == mount) else {
        return vec![Step::MakePrivate(MountPoint::Target), Step::Detach(MountPoint::Target)];
    };
    let mut ours = vec![top];
    ours.extend(table.beneath(mount));
    let groups: HashSet<u64> = ours.iter().filter_map(|m| group(m)).collect();
    let ids: HashSet<u64> = ours.iter().map(|m| m.id).collect();
    let receives =
        |m: &Mount| [m.propagation.peer_group, m.propagation.master].into_iter().flatten().any(|g| groups.contains(&g));
    if table.mounts.iter().any(|m| !ids.contains(&m.id) && receives(m)) {
        vec![Step::MakePrivate(MountPoint::Target), Step::Detach(MountPoint::Target)]
    } else {
        vec![Step::Detach(MountPoint::Target)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mounts::mountinfo;

    #[test]
    fn nested_mounts_of_a_peer_are_made_private_before_they_go() {
        let table = mountinfo::parse(
            b"1 0 0:1 / / rw shared:1 - t t rw\n\
              10 1 0:2 / /src rw shared:7 - t t rw\n\
              11 10 0:3 / /src/n rw shared:8 - t t rw\n\
              20 1 0:2 / /peer rw shared:7 - t t rw\n\
              21 20 0:3 / /peer/n rw shared:8 - t t rw\n\
              30 1 0:2 / /slave rw shared:9 master:7 - t t rw\n\
              31 30 0:3 / /slave/n rw shared:10 master:8 - t t rw\n",
        );
        let detach = Step::Detach(MountPoint::Target);
        assert_eq!(detach_steps(&table, 20), [Step::MakePrivate(MountPoint::Target), detach]);
        assert_eq!(detach_steps(&table, 30), [detach]);
        // 40 is a volume published from the staged copy 30, so a slave of 30.
        let mut published = table.clone();
        published.mounts.extend(mountinfo::parse(b"40 1 0:2 / /published rw shared:11 master:9 - t t rw\n").mounts);
        assert_eq!(detach_steps(&published, 30), [Step::MakePrivate(MountPoint::Target), detach]);
    }
}
