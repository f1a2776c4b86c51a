//! Attaches a tree and its propagated copies: mount, bind, move, and move_mount(2) of detached trees.
//!
//! The tables are those of sharedsubtree.rst, sections 5a to 5c; the details come from fs/namespace.c
//! `attach_recursive_mnt` and fs/pnode.c `propagate_mnt`. If something is mounted at the mount point already, the new
//! tree goes beneath it: what was there is moved onto the top of the new tree.

use std::collections::HashMap;
use std::path::Path;

use mounts::Errno;
use mounts::propagation::PropagationKind;

use super::copy::Connection;
use super::dentry::Dentry;
use super::operation::Stop;
use super::{Doubt, Forest, Mount, MountNumber, Namespace, NamespaceNumber, RootParent, Unknown};

impl Forest {
    pub(super) fn new_mount(&mut self, namespace: NamespaceNumber, device: (u32, u32), at: &Path) -> Result<(), Stop> {
        let (parent, point) = self.target(namespace, at)?;
        let file_system = self.dentries.file_system(device);
        let root = self.dentries.at(file_system, "/".as_ref());
        if self.mount(parent).root == point && self.dentries.file_system_of(point) == file_system {
            return Err(Errno::EBUSY.into());
        }
        let targets = self.targets(parent, point)?;
        let id = self.new_number();
        self.mounts.push(Some(Mount {
            id,
            namespace,
            parent: None,
            root,
            deleted: false,
            root_unknown: false,
            group: None,
            master: None,
            unbindable: false,
            locked: Some(false),
            children: Vec::new(),
        }));
        let number = self.mounts.len() - 1;
        self.by_id.insert(id, number);
        self.attach(namespace, number, parent, point, &targets);
        Ok(())
    }

    pub(super) fn bind(
        &mut self,
        namespace: NamespaceNumber,
        from: &Path,
        to: &Path,
        recursive: bool,
    ) -> Result<(), Stop> {
        let source = self.resolve(namespace, from)?;
        let (parent, point) = self.target(namespace, to)?;
        let shown = self.dentry_of(&source);
        self.can_copy(source.mount, shown, recursive)?;
        let targets = self.targets(parent, point)?;
        let copy = if recursive {
            self.copy_tree(source.mount, shown, Connection::Alike, namespace, false)
        } else {
            self.copy_one(source.mount, shown, Connection::Alike, namespace)
        };
        self.attach(namespace, copy, parent, point, &targets);
        Ok(())
    }

    /// `mount --move`.
    pub(super) fn relocate(&mut self, namespace: NamespaceNumber, from: &Path, to: &Path) -> Result<(), Stop> {
        let source = self.resolve(namespace, from)?;
        let (parent, point) = self.target(namespace, to)?;
        let number = source.mount;
        self.can_detach(number)?;
        match self.mount(number).parent {
            Some((above, _)) if self.mount(above).group.is_some() => return Err(Errno::EINVAL.into()),
            Some(_) => {}
            None => self.is_root_parent_private(namespace)?,
        }
        if !source.rest.as_os_str().is_empty() || source.dentry != self.mount(number).root {
            return Err(Errno::EINVAL.into());
        }
        let tree = self.subtree(number);
        self.can_attach(&tree, parent)?;
        if tree.contains(&parent) {
            return Err(Errno::ELOOP.into());
        }
        let targets = self.targets(parent, point)?;
        self.clear_parent(number);
        self.attach(namespace, number, parent, point, &targets);
        Ok(())
    }

    pub(super) fn open_tree(
        &mut self,
        namespace: NamespaceNumber,
        from: &Path,
        recursive: bool,
    ) -> Result<NamespaceNumber, Stop> {
        let source = self.resolve(namespace, from)?;
        let shown = self.dentry_of(&source);
        self.can_copy(source.mount, shown, recursive)?;
        let tree = self.namespaces.len();
        let user = self.namespaces.get(namespace).and_then(|namespace| namespace.user);
        self.namespaces.push(Namespace { user, detached: true, ..Namespace::default() });
        let root = if recursive {
            self.copy_tree(source.mount, shown, Connection::Alike, tree, false)
        } else {
            self.copy_one(source.mount, shown, Connection::Alike, tree)
        };
        if let Some(tree) = self.namespaces.get_mut(tree) {
            tree.root = Some(root);
        }
        Ok(tree)
    }

    /// move_mount(2) of a detached tree.
    pub(super) fn attach_tree(
        &mut self,
        namespace: NamespaceNumber,
        tree: NamespaceNumber,
        to: &Path,
    ) -> Result<(), Stop> {
        let root = self.detached(tree)?;
        let (parent, point) = self.target(namespace, to)?;
        let all = self.subtree(root);
        self.can_attach(&all, parent)?;
        let targets = self.targets(parent, point)?;
        if let Some(tree) = self.namespaces.get_mut(tree) {
            tree.root = None;
            tree.gone = true;
        }
        for one in all {
            self.mount_mut(one).namespace = namespace;
        }
        self.attach(namespace, root, parent, point, &targets);
        Ok(())
    }

    /// The root of a detached tree.
    pub(super) fn detached(&self, tree: NamespaceNumber) -> Result<MountNumber, Doubt> {
        self.namespaces
            .get(tree)
            .filter(|namespace| namespace.detached)
            .and_then(|namespace| namespace.root)
            .ok_or(Doubt::NoNamespace(tree))
    }

    /// Refuses to put a tree with unbindable mounts on a shared mount: they can't be copied for the receivers.
    fn can_attach(&self, tree: &[MountNumber], parent: MountNumber) -> Result<(), Errno> {
        let refused = self.mount(parent).group.is_some() && tree.iter().any(|&one| self.mount(one).unbindable);
        if refused { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Refuses to move or unmount a locked mount: that would show what it hides (mount_namespaces(7)).
    pub(super) fn can_detach(&self, number: MountNumber) -> Result<(), Stop> {
        match self.mount(number).locked {
            Some(false) => Ok(()),
            Some(true) => Err(Errno::EINVAL.into()),
            None => Err(Doubt::Locked(self.mount(number).id).into()),
        }
    }

    /// Refuses to move the root of a namespace if what it lies on, which no process sees, is shared.
    pub(super) fn is_root_parent_private(&self, namespace: NamespaceNumber) -> Result<(), Stop> {
        match self.namespaces.get(namespace).map(|namespace| namespace.root_parent) {
            Some(RootParent::Private) => Ok(()),
            Some(RootParent::Nothing) => Err(Errno::EINVAL.into()),
            _ => Err(Doubt::RootParent(namespace).into()),
        }
    }

    /// The other mounts that receive a copy of a tree attached at this directory, nearest first.
    fn targets(&self, parent: MountNumber, point: Dentry) -> Result<Vec<MountNumber>, Unknown> {
        let mut doubts = Vec::new();
        let source = self.mount(parent);
        if source.group.is_none() {
            return Ok(Vec::new());
        }
        let reached = self.reach(parent);
        let mut targets = Vec::new();
        for one in reached.iter().skip(1) {
            let mount = self.mount(one.mount);
            if self.namespaces.get(mount.namespace).is_none_or(|namespace| namespace.detached) {
                continue;
            }
            if mount.root_unknown || source.root_unknown {
                doubts.push(Doubt::RootUnknown(mount.id));
            } else if self.dentries.contains(mount.root, point) {
                targets.push(one.mount);
            }
        }
        self.unseen_links(parent, point, &reached, &mut doubts);
        if doubts.is_empty() { Ok(targets) } else { Err(Unknown { known: Vec::new(), doubts }) }
    }

    /// Attaches a tree without a parent, and copies of it to all receivers. `namespace` is the caller's.
    fn attach(
        &mut self,
        namespace: NamespaceNumber,
        tree: MountNumber,
        parent: MountNumber,
        point: Dentry,
        targets: &[MountNumber],
    ) {
        let mut arriving = vec![(tree, parent)];
        if let Some(group) = self.mount(parent).group {
            // In a moved tree there may be receivers: note their groups before the move makes the tree shared.
            let groups: Vec<Option<u64>> = targets.iter().map(|&target| self.mount(target).group).collect();
            for one in self.subtree(tree) {
                self.change_one(one, PropagationKind::Shared);
            }
            // For each group that has received a copy, its first copy. Later copies in that group become peers of it.
            let mut copies = HashMap::from([(group, tree)]);
            for (&target, own) in targets.iter().zip(groups) {
                let namespace = self.mount(target).namespace;
                let peer = own.and_then(|own| copies.get(&own)).copied();
                let (original, connection) = match peer {
                    Some(peer) => (peer, Connection::Alike),
                    None => {
                        (self.nearest(target, &copies).unwrap_or(tree), Connection::Slave { shared: own.is_some() })
                    }
                };
                let root = self.mount(original).root;
                let copy = self.copy_tree(original, root, connection, namespace, false);
                if let Some(own) = own {
                    copies.entry(own).or_insert(copy);
                }
                arriving.push((copy, target));
            }
        }
        let user = self.namespaces.get(namespace).and_then(|namespace| namespace.user);
        for (copy, onto) in arriving {
            let theirs = self.namespaces.get(self.mount(onto).namespace).and_then(|namespace| namespace.user);
            if theirs.is_none() || theirs != user {
                let locked = (theirs.is_some() && user.is_some()).then_some(true);
                for one in self.subtree(copy).into_iter().skip(1) {
                    self.mount_mut(one).locked = locked;
                }
            }
            if let Some(&there) = self.mounted_on.get(&(onto, point)) {
                let top = self.top(copy);
                let root = self.mount(top).root;
                self.clear_parent(there);
                self.set_parent(there, top, root);
            }
            self.set_parent(copy, onto, point);
        }
    }

    /// The copy that the nearest master above this mount has received.
    fn nearest(&self, target: MountNumber, copies: &HashMap<u64, MountNumber>) -> Option<MountNumber> {
        let mut master = self.mount(target).master;
        // At most one step for each group: a torn table may have a cycle.
        for _ in 0..=self.members.len() {
            let group = master?;
            if let Some(&copy) = copies.get(&group) {
                return Some(copy);
            }
            master = self.members.get(&group).and_then(|all| all.first()).and_then(|&one| self.mount(one).master);
        }
        None
    }
}
