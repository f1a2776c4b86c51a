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
use super::{Above, Doubt, Forest, Home, HomeNumber, Mount, MountNumber, Unknown};

impl Forest {
    pub(super) fn new_mount(&mut self, home: HomeNumber, device: (u32, u32), at: &Path) -> Result<(), Stop> {
        let (parent, point) = self.target(home, at)?;
        let file_system = self.dentries.file_system(device);
        let root = self.dentries.at(file_system, "/".as_ref());
        if self.mount(parent).root == point && self.dentries.file_system_of(point) == file_system {
            return Err(Errno::EBUSY.into());
        }
        let targets = self.targets(parent, point)?;
        let id = self.new_number();
        self.mounts.push(Some(Mount {
            id,
            home,
            parent: None,
            root,
            deleted: false,
            untold: false,
            group: None,
            master: None,
            unbindable: false,
            locked: Some(false),
            children: Vec::new(),
        }));
        let number = self.mounts.len() - 1;
        self.by_id.insert(id, number);
        self.attach(home, number, parent, point, &targets);
        Ok(())
    }

    pub(super) fn bind(&mut self, home: HomeNumber, from: &Path, to: &Path, recursive: bool) -> Result<(), Stop> {
        let source = self.lead(home, from)?;
        let (parent, point) = self.target(home, to)?;
        let shown = self.known(&source);
        self.can_copy(source.mount, shown, recursive)?;
        let targets = self.targets(parent, point)?;
        let copy = if recursive {
            self.copy_tree(source.mount, shown, Connection::Alike, home, false)
        } else {
            self.copy_one(source.mount, shown, Connection::Alike, home)
        };
        self.attach(home, copy, parent, point, &targets);
        Ok(())
    }

    /// `mount --move`.
    pub(super) fn relocate(&mut self, home: HomeNumber, from: &Path, to: &Path) -> Result<(), Stop> {
        let source = self.lead(home, from)?;
        let (parent, point) = self.target(home, to)?;
        let number = source.mount;
        self.is_free(number)?;
        match self.mount(number).parent {
            Some((above, _)) if self.mount(above).group.is_some() => return Err(Errno::EINVAL.into()),
            Some(_) => {}
            None => self.is_above_private(home)?,
        }
        if !source.rest.as_os_str().is_empty() || source.dentry != self.mount(number).root {
            return Err(Errno::EINVAL.into());
        }
        let tree = self.subtree(number);
        self.fits(&tree, parent)?;
        if tree.contains(&parent) {
            return Err(Errno::ELOOP.into());
        }
        let targets = self.targets(parent, point)?;
        self.take_off(number);
        self.attach(home, number, parent, point, &targets);
        Ok(())
    }

    pub(super) fn open_tree(&mut self, home: HomeNumber, from: &Path, recursive: bool) -> Result<HomeNumber, Stop> {
        let source = self.lead(home, from)?;
        let shown = self.known(&source);
        self.can_copy(source.mount, shown, recursive)?;
        let tree = self.homes.len();
        let user = self.homes.get(home).and_then(|home| home.user);
        self.homes.push(Home { user, detached: true, ..Home::default() });
        let root = if recursive {
            self.copy_tree(source.mount, shown, Connection::Alike, tree, false)
        } else {
            self.copy_one(source.mount, shown, Connection::Alike, tree)
        };
        if let Some(tree) = self.homes.get_mut(tree) {
            tree.root = Some(root);
        }
        Ok(tree)
    }

    /// move_mount(2) of a detached tree.
    pub(super) fn attach_tree(&mut self, home: HomeNumber, tree: HomeNumber, to: &Path) -> Result<(), Stop> {
        let root = self.detached(tree)?;
        let (parent, point) = self.target(home, to)?;
        let all = self.subtree(root);
        self.fits(&all, parent)?;
        let targets = self.targets(parent, point)?;
        if let Some(tree) = self.homes.get_mut(tree) {
            tree.root = None;
            tree.gone = true;
        }
        for one in all {
            self.mount_mut(one).home = home;
        }
        self.attach(home, root, parent, point, &targets);
        Ok(())
    }

    /// The root of a detached tree.
    pub(super) fn detached(&self, tree: HomeNumber) -> Result<MountNumber, Doubt> {
        self.homes.get(tree).filter(|home| home.detached).and_then(|home| home.root).ok_or(Doubt::NoNamespace(tree))
    }

    /// Refuses to put a tree with unbindable mounts on a shared mount: they can't be copied for the receivers.
    fn fits(&self, tree: &[MountNumber], parent: MountNumber) -> Result<(), Errno> {
        let refused = self.mount(parent).group.is_some() && tree.iter().any(|&one| self.mount(one).unbindable);
        if refused { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Refuses to move or unmount a locked mount: that would show what it hides (mount_namespaces(7)).
    pub(super) fn is_free(&self, number: MountNumber) -> Result<(), Stop> {
        match self.mount(number).locked {
            Some(false) => Ok(()),
            Some(true) => Err(Errno::EINVAL.into()),
            None => Err(Doubt::Locked(self.mount(number).id).into()),
        }
    }

    /// Refuses to move the root of a namespace if what it lies on, which no process sees, is shared.
    pub(super) fn is_above_private(&self, home: HomeNumber) -> Result<(), Stop> {
        match self.homes.get(home).map(|home| home.above) {
            Some(Above::Private) => Ok(()),
            Some(Above::Nothing) => Err(Errno::EINVAL.into()),
            _ => Err(Doubt::Above(home).into()),
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
            if self.homes.get(mount.home).is_none_or(|home| home.detached) {
                continue;
            }
            if mount.untold || source.untold {
                doubts.push(Doubt::Untold(mount.id));
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
        home: HomeNumber,
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
                self.relate(one, PropagationKind::Shared);
            }
            // For each group that has received a copy, its first copy. Later copies in that group become peers of it.
            let mut copies = HashMap::from([(group, tree)]);
            for (&target, own) in targets.iter().zip(groups) {
                let home = self.mount(target).home;
                let peer = own.and_then(|own| copies.get(&own)).copied();
                let (original, connection) = match peer {
                    Some(peer) => (peer, Connection::Alike),
                    None => {
                        (self.nearest(target, &copies).unwrap_or(tree), Connection::Slave { shared: own.is_some() })
                    }
                };
                let root = self.mount(original).root;
                let copy = self.copy_tree(original, root, connection, home, false);
                if let Some(own) = own {
                    copies.entry(own).or_insert(copy);
                }
                arriving.push((copy, target));
            }
        }
        let user = self.homes.get(home).and_then(|home| home.user);
        for (copy, onto) in arriving {
            let theirs = self.homes.get(self.mount(onto).home).and_then(|home| home.user);
            if theirs.is_none() || theirs != user {
                let locked = (theirs.is_some() && user.is_some()).then_some(true);
                for one in self.subtree(copy).into_iter().skip(1) {
                    self.mount_mut(one).locked = locked;
                }
            }
            if let Some(&there) = self.on.get(&(onto, point)) {
                let top = self.top(copy);
                let root = self.mount(top).root;
                self.take_off(there);
                self.hang(there, top, root);
            }
            self.hang(copy, onto, point);
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
