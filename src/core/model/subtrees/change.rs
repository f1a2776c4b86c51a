//! The four changes of propagation (sharedsubtree.rst, section 3; fs/pnode.c `change_mnt_propagation`), and their
//! effect on a mount that is removed.

use std::path::Path;

use mounts::propagation::{Propagation, PropagationKind};

use super::operation::Stop;
use super::{Doubt, Forest, MountNumber, NamespaceNumber};

impl Forest {
    pub(super) fn change(&mut self, namespace: NamespaceNumber, at: &Path, to: Propagation) -> Result<(), Stop> {
        let number = self.mount_point(namespace, at)?;
        let concerned = if to.recursive { self.subtree(number) } else { vec![number] };
        if to.kind != PropagationKind::Shared {
            self.can_leave(&concerned, to.kind == PropagationKind::Slave)?;
        }
        for one in concerned {
            self.change_one(one, to.kind);
        }
        Ok(())
    }

    /// Whether the effect of leaving the peer groups is known. It depends on whether another member stays: for the
    /// group's slaves, and for a member that becomes a slave. If the snapshot lacks something, a member may be missing
    /// from it.
    pub(super) fn can_leave(&self, leaving: &[MountNumber], as_slave: bool) -> Result<(), Doubt> {
        if !self.incomplete {
            return Ok(());
        }
        for &number in leaving {
            let mount = self.mount(number);
            let Some(group) = mount.group.filter(|&group| group < self.first_own) else { continue };
            let matters = as_slave || self.slaves.get(&group).is_some_and(|all| !all.is_empty());
            let stays = self.members.get(&group).into_iter().flatten().any(|member| !leaving.contains(member));
            if matters && !stays {
                return Err(Doubt::Members(group));
            }
        }
        Ok(())
    }

    /// Changes one mount.
    pub(super) fn change_one(&mut self, number: MountNumber, kind: PropagationKind) {
        if kind == PropagationKind::Shared {
            if self.mount(number).group.is_none() {
                let group = self.new_number();
                self.set_group(number, Some(group));
            }
            self.mount_mut(number).unbindable = false;
            return;
        }
        let mut master = self.mount(number).master;
        if let Some(group) = self.mount(number).group {
            self.set_group(number, None);
            if self.members.get(&group).is_some_and(|all| !all.is_empty()) {
                // It can become a slave of the remaining members.
                master = Some(group);
            } else {
                // The group has no members any more: its slaves become slaves of its own master.
                for slave in self.slaves.remove(&group).unwrap_or_default() {
                    self.mount_mut(slave).master = None;
                    self.set_master(slave, master);
                }
            }
        }
        match kind {
            PropagationKind::Slave => self.set_master(number, master),
            _ => {
                self.set_master(number, None);
                self.mount_mut(number).unbindable = kind == PropagationKind::Unbindable;
            }
        }
    }

    pub(super) fn set_group(&mut self, number: MountNumber, group: Option<u64>) {
        let before = std::mem::replace(&mut self.mount_mut(number).group, group);
        if let Some(all) = before.and_then(|before| self.members.get_mut(&before)) {
            all.retain(|&one| one != number);
        }
        if let Some(group) = group {
            self.members.entry(group).or_default().push(number);
        }
    }

    pub(super) fn set_master(&mut self, number: MountNumber, master: Option<u64>) {
        let before = std::mem::replace(&mut self.mount_mut(number).master, master);
        if let Some(all) = before.and_then(|before| self.slaves.get_mut(&before)) {
            all.retain(|&one| one != number);
        }
        if let Some(master) = master {
            self.slaves.entry(master).or_default().push(number);
        }
    }
}
