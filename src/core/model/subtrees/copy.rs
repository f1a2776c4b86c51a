//! Copies mount trees: for binds, new namespaces, detached trees and receivers of events (fs/namespace.c `copy_tree`,
//! `clone_mnt`).

use mounts::Errno;

use super::dentry::Dentry;
use super::operation::Stop;
use super::{Doubt, Forest, Mount, MountNumber, NamespaceNumber};

/// How a copy is connected with its original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    /// A peer of a shared mount, and a slave of a slave's master.
    Alike,
    /// A slave of the original's peer group.
    Slave {
        /// Whether the copy is also shared, in a new group.
        shared: bool,
    },
}

impl Forest {
    /// Whether this directory of the mount may be copied.
    pub(super) fn can_copy(&self, number: MountNumber, dentry: Dentry, recursive: bool) -> Result<(), Stop> {
        let mount = self.mount(number);
        if mount.deleted {
            return Err(Doubt::Deleted(mount.id).into());
        }
        if mount.unbindable {
            return Err(Errno::EINVAL.into());
        }
        if !recursive {
            // A non-recursive copy would show what a locked mount hides (mount_namespaces(7)).
            let mut doubt = None;
            for child in self.children_within(number, dentry) {
                match self.mount(child).locked {
                    Some(false) => {}
                    Some(true) => return Err(Errno::EINVAL.into()),
                    None => doubt = Some(Doubt::Locked(self.mount(child).id)),
                }
            }
            return doubt.map_or(Ok(()), |doubt| Err(doubt.into()));
        }
        for child in self.children_within(number, dentry) {
            self.can_prune(child)?;
        }
        Ok(())
    }

    /// Whether an unbindable mount may be left out of a copy: not if it is locked, since that would show what it hides.
    fn can_prune(&self, number: MountNumber) -> Result<(), Stop> {
        let mount = self.mount(number);
        if mount.unbindable {
            return match mount.locked {
                Some(false) => Ok(()),
                Some(true) => Err(Errno::EPERM.into()),
                None => Err(Doubt::Locked(mount.id).into()),
            };
        }
        mount.children.iter().try_for_each(|&child| self.can_prune(child))
    }

    fn children_within(&self, number: MountNumber, dentry: Dentry) -> Vec<MountNumber> {
        let within = |child: &&MountNumber| {
            self.mount(**child).parent.is_some_and(|(_, point)| self.dentries.contains(dentry, point))
        };
        self.mount(number).children.iter().filter(within).copied().collect()
    }

    /// Copies one mount. The copy shows `dentry`.
    pub(super) fn copy_one(
        &mut self,
        number: MountNumber,
        dentry: Dentry,
        connection: Connection,
        namespace: NamespaceNumber,
    ) -> MountNumber {
        let id = self.new_number();
        let original = self.mount(number);
        let (group, master) = match connection {
            Connection::Alike => (original.group, original.master),
            Connection::Slave { shared } => (shared.then_some(id), original.group.or(original.master)),
        };
        let copy = Mount {
            id,
            namespace,
            parent: None,
            root: dentry,
            deleted: original.deleted,
            root_unknown: original.root_unknown,
            group: None,
            master: None,
            unbindable: false,
            locked: Some(false),
            children: Vec::new(),
        };
        self.mounts.push(Some(copy));
        let copy = self.mounts.len() - 1;
        self.by_id.insert(id, copy);
        self.set_group(copy, group);
        self.set_master(copy, master);
        copy
    }

    /// Copies a directory of a mount with all mounts beneath it, except unbindable ones.
    pub(super) fn copy_tree(
        &mut self,
        number: MountNumber,
        dentry: Dentry,
        connection: Connection,
        namespace: NamespaceNumber,
        unbindable_too: bool,
    ) -> MountNumber {
        let top = self.copy_one(number, dentry, connection, namespace);
        let mut waiting: Vec<(MountNumber, MountNumber)> =
            self.children_within(number, dentry).into_iter().rev().map(|child| (child, top)).collect();
        while let Some((child, above)) = waiting.pop() {
            let original = self.mount(child);
            let (root, locked) = (original.root, original.locked);
            let Some((_, point)) = original.parent else { continue };
            if original.unbindable && !unbindable_too {
                continue;
            }
            let copy = self.copy_one(child, root, connection, namespace);
            self.mount_mut(copy).locked = locked;
            self.set_parent(copy, above, point);
            waiting.extend(self.mount(child).children.iter().rev().map(|&grandchild| (grandchild, copy)));
        }
        top
    }
}
