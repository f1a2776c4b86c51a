//! New namespaces and new roots: unshare(2), unshare(1) and pivot_root(2).

use std::path::Path;

use mounts::Errno;
use mounts::propagation::PropagationKind;

use super::copy::Connection;
use super::operation::Stop;
use super::{Above, Doubt, Forest, Home, HomeNumber};

impl Forest {
    /// unshare(1): makes a new namespace with copies of all mounts (fs/namespace.c `copy_mnt_ns`), then changes their
    /// propagation. Mounts that are made slave or private are peers for a moment, which has no visible effect.
    pub(super) fn unshare(
        &mut self,
        home: HomeNumber,
        propagation: Option<PropagationKind>,
        user: bool,
    ) -> Result<HomeNumber, Stop> {
        let Some(original) = self.homes.get(home) else { return Err(Doubt::NoNamespace(home).into()) };
        let Some(root) = original.root.filter(|_| original.floating.is_empty()) else {
            return Err(Doubt::Unseen("/".into()).into());
        };
        if user && self.on.contains_key(&(root, self.mount(root).root)) {
            // The kernel regards a process with another root than its namespace's as chrooted (kernel/user_namespace.c
            // `create_user_ns`).
            return Err(Errno::EPERM.into());
        }
        let (above, owner) = (original.above, original.user);
        let copy = self.homes.len();
        let owner = if user { Some(self.new_number()) } else { owner };
        self.homes.push(Home { above, user: owner, ..Home::default() });
        let (shown, locked) = (self.mount(root).root, self.mount(root).locked);
        let connection = if user { Connection::Slave { shared: false } } else { Connection::Alike };
        let top = self.copy_tree(root, shown, connection, copy, true);
        self.mount_mut(top).locked = locked;
        if user {
            for one in self.subtree(top) {
                self.mount_mut(one).locked = Some(true);
            }
        }
        if let Some(home) = self.homes.get_mut(copy) {
            home.root = Some(top);
        }
        if let Some(kind) = propagation {
            for one in self.subtree(top) {
                self.relate(one, kind);
            }
        }
        Ok(copy)
    }

    /// pivot_root(2): moves two mounts at once, without propagation.
    pub(super) fn pivot_root(&mut self, home: HomeNumber, new_root: &Path, put_old: &Path) -> Result<(), Stop> {
        let new = self.lead(home, new_root)?;
        let (onto, point) = self.target(home, put_old)?;
        let Some(root) = self.homes.get(home).and_then(|home| home.root) else {
            return Err(Doubt::Unseen("/".into()).into());
        };
        let shared = |number: usize| self.mount(number).group.is_some();
        if shared(onto) || self.mount(new.mount).parent.is_some_and(|(parent, _)| shared(parent)) {
            return Err(Errno::EINVAL.into());
        }
        if self.homes.get(home).is_some_and(|home| home.above == Above::Unseen) {
            return Err(Doubt::Above(home).into());
        }
        self.is_free(new.mount)?;
        if new.mount == root || onto == root {
            return Err(Errno::EBUSY.into());
        }
        let is_root = new.rest.as_os_str().is_empty() && new.dentry == self.mount(new.mount).root;
        self.is_above_private(home)?;
        if !is_root || !self.subtree(new.mount).contains(&onto) {
            return Err(Errno::EINVAL.into());
        }
        self.take_off(new.mount);
        self.hang(root, onto, point);
        let locked = self.mount_mut(root).locked.replace(false);
        self.mount_mut(new.mount).locked = locked;
        if let Some(home) = self.homes.get_mut(home) {
            home.root = Some(new.mount);
        }
        Ok(())
    }
}
