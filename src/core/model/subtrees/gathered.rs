//! Builds a forest from mount tables: finds each mount's parent and the directory that it lies on.
//!
//! mountinfo prints mount points as paths from the reading process' root. The directory that a mount lies on is its
//! mount point relative to its parent's. If that fails, the mount becomes the root of a separate subtree with its mount
//! point noted. That happens when the parent isn't in the table, or when the table changed while it was read.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use mounts::mountinfo;

use super::{Forest, Mount, MountNumber, Namespace, RootParent};
use crate::machine::{self, Machine};

/// The inode number of the initial user namespace (include/uapi/linux/nsfs.h `USER_NS_INIT_INO`).
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

impl Forest {
    /// The forest of a machine. Namespaces keep their indices.
    ///
    /// Never fails. What a table doesn't show is marked, and questions about it return [`super::Unknown`].
    #[must_use]
    pub fn of(machine: &Machine) -> Self {
        let mut forest = Self { incomplete: !machine.left_out.is_empty(), ..Self::default() };
        let total = machine.namespaces.iter().map(|n| n.table.mounts.len()).sum();
        forest.mounts.reserve(total);
        forest.mounted_on.reserve(total);
        forest.by_id.reserve(total);
        for namespace in &machine.namespaces {
            forest.add(namespace);
        }
        for (number, mount) in forest.mounts.iter().enumerate() {
            let Some(mount) = mount else { continue };
            forest.next = forest.next.max(mount.id).max(mount.group.unwrap_or(0)).max(mount.master.unwrap_or(0));
            if let Some(group) = mount.group {
                forest.members.entry(group).or_default().push(number);
            }
            if let Some(master) = mount.master {
                forest.slaves.entry(master).or_default().push(number);
            }
        }
        forest.next += 1;
        forest.first_own = forest.next;
        forest.unseen = forest.slaves.keys().filter(|group| !forest.members.contains_key(group)).copied().collect();
        forest.unseen.sort_unstable();
        forest
    }

    fn add(&mut self, source: &machine::Namespace) {
        self.incomplete |= source.table.skipped > 0;
        let namespace = self.namespaces.len();
        self.namespaces.push(Namespace { user: source.user_namespace, ..Namespace::default() });
        let mounts = &source.table.mounts;
        let first = self.mounts.len();
        let numbers: HashMap<u64, MountNumber> =
            mounts.iter().enumerate().map(|(index, mount)| (mount.id, first + index)).collect();
        let unlocked = source.user_namespace == Some(INITIAL_USER_NAMESPACE);
        for mount in mounts {
            let file_system =
                if mount.root_deleted { self.dentries.lost() } else { self.dentries.file_system(mount.device) };
            let root = self.dentries.at(file_system, mount.root.as_os_str());
            self.by_id.insert(mount.id, self.mounts.len());
            self.mounts.push(Some(Mount {
                id: mount.id,
                namespace,
                parent: None,
                root,
                deleted: mount.root_deleted,
                root_unknown: is_root_unknown(mount),
                group: mount.propagation.peer_group,
                master: mount.propagation.master,
                unbindable: mount.propagation.unbindable,
                locked: unlocked.then_some(false),
                children: Vec::new(),
            }));
        }
        for (index, mount) in mounts.iter().enumerate() {
            let parent = numbers.get(&mount.parent).filter(|_| mount.parent != mount.id);
            let Some((parent, point)) = parent.and_then(|&p| Some((p, self.point(p, mounts.get(p - first)?, mount)?)))
            else {
                self.add_orphan(namespace, first + index, &mount.mount_point);
                continue;
            };
            self.set_parent(first + index, parent, point);
        }
        self.cut_circles(namespace, mounts, first);
        let root = self
            .namespaces
            .get(namespace)
            .and_then(|namespace| namespace.root)
            .and_then(|root| mounts.get(root - first));
        if root.is_some_and(|root| root.parent == root.id)
            && let Some(namespace) = self.namespaces.get_mut(namespace)
        {
            namespace.root_parent = RootParent::Nothing;
        }
    }

    /// The directory of the parent that a mount lies on, if the paths fit together.
    fn point(&mut self, parent: MountNumber, above: &mountinfo::Mount, mount: &mountinfo::Mount) -> Option<usize> {
        // Bytes suffice, since the kernel prints no redundant slash. Comparing components would take half of the total
        // time.
        let (above, path) = (above.mount_point.as_os_str().as_bytes(), mount.mount_point.as_os_str().as_bytes());
        let relative = match path.strip_prefix(if above == b"/" { &b""[..] } else { above })? {
            b"" => b"",
            rest => rest.strip_prefix(b"/")?,
        };
        let relative = Path::new(OsStr::from_bytes(relative));
        let root = self.mount(parent).root;
        Some(self.dentries.beneath(root, relative))
    }

    fn add_orphan(&mut self, namespace: usize, number: MountNumber, mount_point: &Path) {
        let Some(namespace) = self.namespaces.get_mut(namespace) else { return };
        if mount_point == Path::new("/") && namespace.root.is_none() {
            namespace.root = Some(number);
        } else {
            namespace.orphans.push((mount_point.to_owned(), number));
        }
    }

    /// Breaks cycles: in a torn table, two mounts may lie on each other. One of them becomes the root of a subtree.
    fn cut_circles(&mut self, namespace: usize, mounts: &[mountinfo::Mount], first: MountNumber) {
        let mut reached = vec![false; mounts.len()];
        let mut waiting: Vec<MountNumber> = self
            .namespaces
            .get(namespace)
            .into_iter()
            .flat_map(|h| h.root.into_iter().chain(h.orphans.iter().map(|f| f.1)))
            .collect();
        let mut candidates = mounts.iter().enumerate();
        loop {
            while let Some(number) = waiting.pop() {
                if !std::mem::replace(&mut reached[number - first], true) {
                    waiting.extend(self.mount(number).children.iter().copied());
                }
            }
            let Some((index, mount)) = candidates.find(|(index, _)| !reached[*index]) else { return };
            let number = first + index;
            self.clear_parent(number);
            self.add_orphan(namespace, number, &mount.mount_point);
            waiting.push(number);
        }
    }
}

/// Whether the root in mountinfo isn't a path from the root of the file system. NFS always prints `/` (fs/nfs/super.c
/// `nfs_show_path`). cgroup prints a path relative to the reader's cgroup namespace (cgroup_namespaces(7)), which may
/// begin with `/..`.
fn is_root_unknown(mount: &mountinfo::Mount) -> bool {
    matches!(mount.fs_type.as_str(), "nfs" | "nfs4")
        || mount.root.components().any(|part| part == Component::ParentDir)
        || mount.root.as_os_str() == OsStr::new("")
}
