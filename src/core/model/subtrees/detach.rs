//! Unmounts a tree and its propagated copies, and ends namespaces and detached trees.
//!
//! Source: sharedsubtree.rst, section 5d; the details come from fs/pnode.c `propagate_umount` as of Linux 6.17 and
//! Documentation/filesystems/propagate_umount.txt. An unmount propagates to the same directory of every mount that
//! receives from the parent. A receiver's mount stays if something else is mounted strictly inside it, or if its
//! removal would show something that a user namespace has locked. What is mounted on the root of a removed mount moves
//! down to its mount point.

use std::collections::HashSet;
use std::path::Path;

use mounts::Errno;
use mounts::propagation::PropagationKind;

use super::operation::Stop;
use super::{Doubt, Forest, MountNumber, NamespaceNumber, Unknown};

impl Forest {
    pub(super) fn unmount(&mut self, namespace: NamespaceNumber, at: &Path, lazy: bool) -> Result<(), Stop> {
        let number = self.mount_point(namespace, at)?;
        let Some((parent, point)) = self.mount(number).parent else {
            return Err(Doubt::Root(self.mount(number).id).into());
        };
        self.can_detach(number)?;
        if !lazy && !self.mount(number).children.is_empty() {
            return Err(Errno::EBUSY.into());
        }
        let ordered = self.subtree(number);
        let reached = self.reach(parent);
        let mut doubts = Vec::new();
        if let Some(root_unknown) = reached.iter().skip(1).find(|one| self.mount(one.mount).root_unknown) {
            doubts.push(Doubt::RootUnknown(self.mount(root_unknown.mount).id));
        }
        self.unseen_links(parent, point, &reached, &mut doubts);
        if !doubts.is_empty() {
            return Err(Unknown { known: Vec::new(), doubts }.into());
        }
        // The directly unmounted mount hides nothing any more, so its copies are unlocked (`propagate_mount_unlock`).
        let unlocked: HashSet<MountNumber> =
            reached.iter().skip(1).filter_map(|one| self.mounted_on.get(&(one.mount, point))).copied().collect();
        let going = self.also_going(&ordered, &unlocked)?;
        let all: Vec<MountNumber> = ordered.iter().chain(&going).copied().collect();
        self.can_leave(&all, false)?;
        for number in unlocked {
            self.mount_mut(number).locked = Some(false);
        }
        self.slide_down(&going, &all.iter().copied().collect());
        self.remove(&all);
        Ok(())
    }

    /// The copies that are unmounted along with this tree.
    fn also_going(&self, ordered: &[MountNumber], unlocked: &HashSet<MountNumber>) -> Result<Vec<MountNumber>, Doubt> {
        let ordered_set: HashSet<MountNumber> = ordered.iter().copied().collect();
        let mut going = Vec::new();
        let mut set = ordered_set.clone();
        for &one in ordered {
            let Some((parent, point)) = self.mount(one).parent else { continue };
            for reached in self.reach(parent).iter().skip(1) {
                if let Some(&same) = self.mounted_on.get(&(reached.mount, point))
                    && set.insert(same)
                {
                    going.push(same);
                }
            }
        }
        self.keep_what_would_shift(&mut going, &mut set);
        // Keep locked mounts whose parent stays, until no more are found.
        loop {
            let before = going.len();
            let mut doubt = None;
            going.retain(|&one| {
                let mount = self.mount(one);
                let parent_stays = mount.parent.is_none_or(|(parent, _)| !set.contains(&parent));
                let locked = if unlocked.contains(&one) { Some(false) } else { mount.locked };
                if parent_stays && locked.is_none() {
                    doubt = Some(Doubt::Locked(mount.id));
                }
                let stays = parent_stays && locked == Some(true);
                if stays {
                    set.remove(&one);
                }
                !stays
            });
            if let Some(doubt) = doubt {
                return Err(doubt);
            }
            if going.len() == before {
                return Ok(going);
            }
        }
    }

    /// Keeps each mount that has something staying strictly inside: beneath it, but not stacked on its root.
    fn keep_what_would_shift(&self, going: &mut Vec<MountNumber>, set: &mut HashSet<MountNumber>) {
        loop {
            // All mounts that have something staying beneath them.
            let mut holds: HashSet<MountNumber> = HashSet::new();
            for &one in going.iter() {
                if self.mount(one).children.iter().any(|child| !set.contains(child)) {
                    let mut at = one;
                    while set.contains(&at) && holds.insert(at) {
                        let Some((parent, _)) = self.mount(at).parent else { break };
                        at = parent;
                    }
                }
            }
            let before = going.len();
            let kept: Vec<MountNumber> = going
                .iter()
                .copied()
                .filter(|&one| {
                    let mount = self.mount(one);
                    mount.children.iter().any(|&child| {
                        let inside = self.mount(child).parent.is_some_and(|(_, point)| point != mount.root);
                        inside && (!set.contains(&child) || holds.contains(&child))
                    })
                })
                .collect();
            for one in kept {
                set.remove(&one);
            }
            going.retain(|one| set.contains(one));
            if going.len() == before {
                return;
            }
        }
    }

    /// Moves what stays on the root of a removed mount down to where the lowest removed mount lay.
    fn slide_down(&mut self, going: &[MountNumber], set: &HashSet<MountNumber>) {
        for &one in going {
            let root = self.mount(one).root;
            let Some(&over) = self.mounted_on.get(&(one, root)).filter(|over| !set.contains(over)) else { continue };
            let mut at = one;
            while let Some((parent, point)) = self.mount(at).parent {
                if !set.contains(&parent) {
                    self.clear_parent(over);
                    // Clear the mount point of the lowest removed mount now, since it is reused here.
                    self.clear_parent(at);
                    self.set_parent(over, parent, point);
                    break;
                }
                at = parent;
            }
        }
    }

    pub(super) fn close(&mut self, tree: NamespaceNumber) -> Result<(), Stop> {
        let root = self.detached(tree)?;
        let all = self.subtree(root);
        self.can_leave(&all, false)?;
        self.remove(&all);
        if let Some(tree) = self.namespaces.get_mut(tree) {
            tree.root = None;
            tree.gone = true;
        }
        Ok(())
    }

    /// Ends a namespace: unmounts all of it, without propagation (fs/namespace.c `put_mnt_ns`).
    pub(super) fn end(&mut self, namespace: NamespaceNumber) {
        let Some(namespace) = self.namespaces.get_mut(namespace) else { return };
        let roots: Vec<MountNumber> =
            namespace.root.take().into_iter().chain(namespace.orphans.drain(..).map(|(_, root)| root)).collect();
        namespace.gone = true;
        for root in roots {
            let all = self.subtree(root);
            self.remove(&all);
        }
    }

    fn remove(&mut self, all: &[MountNumber]) {
        for &number in all {
            self.change_one(number, PropagationKind::Private);
            self.clear_parent(number);
        }
        for &number in all {
            let id = self.mount(number).id;
            self.by_id.remove(&id);
            if let Some(slot) = self.mounts.get_mut(number) {
                *slot = None;
            }
        }
    }
}
