//! Resolves a path to a mount, and a mount to its path.
//!
//! As the kernel does (path_resolution(7), fs/namei.c): after each component it enters what is mounted there, up to the
//! topmost mount. It doesn't enter what is mounted on the process' root: a path begins on the root itself, beneath it.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::dentry::{Dentry, normal};
use super::{Doubt, Forest, HomeNumber, MountNumber};

/// A resolved path.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The topmost mount there.
    pub(super) mount: MountNumber,
    /// The last directory on the path that the forest knows.
    pub(super) dentry: Dentry,
    /// The rest of the path. Empty if that directory is its end.
    pub(super) rest: PathBuf,
}

impl Forest {
    /// Resolves an absolute path without symlinks in a namespace.
    pub(super) fn lead(&self, home: HomeNumber, path: &Path) -> Result<Place, Doubt> {
        let Some(namespace) = self.homes.get(home) else { return Err(Doubt::NoNamespace(home)) };
        let path = normal(path).ok_or_else(|| Doubt::Path(path.to_owned()))?;
        let mut under = namespace.floating.iter().filter(|(place, _)| path.starts_with(place));
        let (start, way) = match (namespace.root, under.next(), under.next()) {
            (Some(root), None, _) => (root, path.as_path()),
            (None, Some((place, root)), None) => (*root, path.strip_prefix(place).unwrap_or(Path::new(""))),
            // Two subtrees contain the path. Which one covers the other can't be seen.
            _ => return Err(Doubt::Unseen(path)),
        };
        let mut place = Place { mount: start, dentry: self.mount(start).root, rest: PathBuf::new() };
        let names: Vec<&OsStr> = way
            .components()
            .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
            .collect();
        for (index, name) in names.iter().enumerate() {
            let Some(next) = self.dentries.child(place.dentry, name) else {
                place.rest = names[index..].iter().collect();
                return Ok(place);
            };
            place.dentry = next;
            self.climb(&mut place);
        }
        Ok(place)
    }

    /// Resolves a path as a mount point: unlike a path, it includes what is mounted on the process' root
    /// (fs/namespace.c `lock_mount`).
    pub(super) fn lead_to_top(&self, home: HomeNumber, path: &Path) -> Result<Place, Doubt> {
        let mut place = self.lead(home, path)?;
        if place.rest.as_os_str().is_empty() {
            self.climb(&mut place);
        }
        Ok(place)
    }

    /// Enters the mounts here, up to the topmost.
    fn climb(&self, place: &mut Place) {
        while let Some(&over) = self.on.get(&(place.mount, place.dentry)) {
            place.mount = over;
            place.dentry = self.mount(over).root;
        }
    }

    /// The mount point as processes of its namespace see it, even if it is covered. Empty for the root of a detached
    /// tree.
    pub(super) fn place(&self, number: MountNumber) -> PathBuf {
        let mut parts = Vec::new();
        let mut at = number;
        while let Some((parent, point)) = self.mount(at).parent {
            parts.push(self.dentries.relative(self.mount(parent).root, point));
            at = parent;
        }
        let home = self.homes.get(self.mount(at).home);
        let base = home.and_then(|home| home.floating.iter().find(|(_, root)| *root == at)).map(|(place, _)| place);
        let mut path = base.cloned().unwrap_or_else(|| PathBuf::from("/"));
        // Pushing an empty path would add a slash.
        path.extend(parts.iter().rev().filter(|part| !part.as_os_str().is_empty()));
        path
    }
}
