//! New namespaces and new roots: unshare(2), unshare(1) and pivot_root(2).

use std::path::Path;

use mounts::Errno;
use mounts::propagation::PropagationKind;

use super::copy::Connection;
use super::operation::Stop;
use super::{Doubt, Forest, Namespace, NamespaceNumber, RootParent};

impl Forest {
    /// unshare(1): makes a new namespace with copies of all mounts (fs/namespace.c `copy_mnt_ns`), then changes their
    /// propagation. Mounts that are made slave or private are peers for a moment, which has no visible effect.
    pub(super) fn unshare(
        &mut self,
        namespace: NamespaceNumber,
        propagation: Option<PropagationKind>,
        user: bool,
    ) -> Result<NamespaceNumber, Stop> {
        let Some(original) = self.namespaces.get(namespace) else { return Err(Doubt::NoNamespace(namespace).into()) };
        let Some(root) = original.root.filter(|_| original.orphans.is_empty()) else {
            return Err(Doubt::Unseen("/".into()).into());
        };
        if user && self.mounted_on.contains_key(&(root, self.mount(root).root)) {
            // The kernel regards a process with another root than its namespace's as chrooted (kernel/user_namespace.c
            // `create_user_ns`).
            return Err(Errno::EPERM.into());
        }
        let (root_parent, owner) = (original.root_parent, original.user);
        let copy = self.namespaces.len();
        let owner = if user { Some(self.new_number()) } else { owner };
        self.namespaces.push(Namespace { root_parent, user: owner, ..Namespace::default() });
        let (shown, locked) = (self.mount(root).root, self.mount(root).locked);
        let connection = if user { Connection::Slave { shared: false } } else { Connection::Alike };
        let top = self.copy_tree(root, shown, connection, copy, true);
        self.mount_mut(top).locked = locked;
        if user {
            for one in self.subtree(top) {
                self.mount_mut(one).locked = Some(true);
            }
        }
        if let Some(namespace) = self.namespaces.get_mut(copy) {
            namespace.root = Some(top);
        }
        if let Some(kind) = propagation {
            for one in self.subtree(top) {
                self.change_one(one, kind);
            }
        }
        Ok(copy)
    }

    /// pivot_root(2): moves two mounts at once, without propagation.
    pub(super) fn pivot_root(
        &mut self,
        namespace: NamespaceNumber,
        new_root: &Path,
        put_old: &Path,
    ) -> Result<(), Stop> {
        let new = self.resolve(namespace, new_root)?;
        let (onto, point) = self.target(namespace, put_old)?;
        let Some(root) = self.namespaces.get(namespace).and_then(|namespace| namespace.root) else {
            return Err(Doubt::Unseen("/".into()).into());
        };
        let shared = |number: usize| self.mount(number).group.is_some();
        if shared(onto) || self.mount(new.mount).parent.is_some_and(|(parent, _)| shared(parent)) {
            return Err(Errno::EINVAL.into());
        }
        if self.namespaces.get(namespace).is_some_and(|namespace| namespace.root_parent == RootParent::Unseen) {
            return Err(Doubt::RootParent(namespace).into());
        }
        self.can_detach(new.mount)?;
        if new.mount == root || onto == root {
            return Err(Errno::EBUSY.into());
        }
        let is_root = new.rest.as_os_str().is_empty() && new.dentry == self.mount(new.mount).root;
        self.is_root_parent_private(namespace)?;
        if !is_root || !self.subtree(new.mount).contains(&onto) {
            return Err(Errno::EINVAL.into());
        }
        self.clear_parent(new.mount);
        self.set_parent(root, onto, point);
        let locked = self.mount_mut(root).locked.replace(false);
        self.mount_mut(new.mount).locked = locked;
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.root = Some(new.mount);
        }
        Ok(())
    }
}
