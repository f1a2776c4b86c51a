//! Resolves a path to a mount, and a mount to its path.
//!
//! As the kernel does (path_resolution(7), fs/namei.c): after each component it enters what is mounted there, up to the
//! topmost mount. It doesn't enter what is mounted on the process' root: a path begins on the root itself, beneath it.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::dentry::{Dentry, normal};
use super::{Doubt, Forest, MountNumber, NamespaceNumber};

/// A resolved path.
#[derive(Debug, Clone)]
pub(super) struct ResolvedPath {
    /// The topmost mount there.
    pub(super) mount: MountNumber,
    /// The last directory on the path that the forest knows.
    pub(super) dentry: Dentry,
    /// The rest of the path. Empty if that directory is its end.
    pub(super) rest: PathBuf,
}

impl Forest {
    /// Resolves an absolute path without symlinks in a namespace.
    pub(super) fn resolve(&self, namespace: NamespaceNumber, path: &Path) -> Result<ResolvedPath, Doubt> {
        let Some(found) = self.namespaces.get(namespace) else { return Err(Doubt::NoNamespace(namespace)) };
        let path = normal(path).ok_or_else(|| Doubt::Path(path.to_owned()))?;
        let mut under = found.orphans.iter().filter(|(point, _)| path.starts_with(point));
        let (start, way) = match (found.root, under.next(), under.next()) {
            (Some(root), None, _) => (root, path.as_path()),
            (None, Some((point, root)), None) => (*root, path.strip_prefix(point).unwrap_or(Path::new(""))),
            // Two subtrees contain the path. Which one covers the other can't be seen.
            _ => return Err(Doubt::Unseen(path)),
        };
        let mut resolved = ResolvedPath { mount: start, dentry: self.mount(start).root, rest: PathBuf::new() };
        let names: Vec<&OsStr> = way
            .components()
            .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
            .collect();
        for (index, name) in names.iter().enumerate() {
            let Some(next) = self.dentries.child(resolved.dentry, name) else {
                resolved.rest = names[index..].iter().collect();
                return Ok(resolved);
            };
            resolved.dentry = next;
            self.enter_mounts(&mut resolved);
        }
        Ok(resolved)
    }

    /// Resolves a path as a mount point: unlike a path, it includes what is mounted on the process' root
    /// (fs/namespace.c `lock_mount`).
    pub(super) fn resolve_mount_point(&self, namespace: NamespaceNumber, path: &Path) -> Result<ResolvedPath, Doubt> {
        let mut resolved = self.resolve(namespace, path)?;
        if resolved.rest.as_os_str().is_empty() {
            self.enter_mounts(&mut resolved);
        }
        Ok(resolved)
    }

    /// Enters the mounts here, up to the topmost.
    fn enter_mounts(&self, resolved: &mut ResolvedPath) {
        while let Some(&over) = self.mounted_on.get(&(resolved.mount, resolved.dentry)) {
            resolved.mount = over;
            resolved.dentry = self.mount(over).root;
        }
    }

    /// The mount point as processes of its namespace see it, even if it is covered. Empty for the root of a detached
    /// tree.
    pub(super) fn path_of(&self, number: MountNumber) -> PathBuf {
        let mut parts = Vec::new();
        let mut at = number;
        while let Some((parent, point)) = self.mount(at).parent {
            parts.push(self.dentries.relative(self.mount(parent).root, point));
            at = parent;
        }
        let namespace = self.namespaces.get(self.mount(at).namespace);
        let base = namespace
            .and_then(|namespace| namespace.orphans.iter().find(|(_, root)| *root == at))
            .map(|(point, _)| point);
        let mut path = base.cloned().unwrap_or_else(|| PathBuf::from("/"));
        // Pushing an empty path would add a slash.
        path.extend(parts.iter().rev().filter(|part| !part.as_os_str().is_empty()));
        path
    }
}
