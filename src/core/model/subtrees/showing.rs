//! Finds all paths that show a directory: everywhere a mount made in it could be seen.

use std::path::{Path, PathBuf};

use super::walk::ResolvedPath;
use super::{Doubt, Forest};

/// A path that shows a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Showing {
    /// The namespace of the path, by its index in the machine.
    pub namespace: usize,
    /// The id in mountinfo of the mount that shows it.
    pub mount: u64,
    /// The path, as processes of that namespace name it.
    pub place: PathBuf,
    /// The mount that covers this path, if one does.
    pub covered: Option<u64>,
}

impl Forest {
    /// Every path that shows the directory at `path` in a namespace, including that path, in the order of the
    /// namespaces. Leaves out mounts whose root isn't known.
    ///
    /// # Errors
    /// The path leads to nothing in the snapshot.
    pub fn showing(&self, namespace: usize, path: &Path) -> Result<Vec<Showing>, Doubt> {
        Ok(self.showing_at(&self.resolve_mount_point(namespace, path)?))
    }

    pub(super) fn showing_at(&self, resolved: &ResolvedPath) -> Vec<Showing> {
        let mut all = Vec::new();
        for (number, mount) in self.mounts.iter().enumerate() {
            let Some(mount) = mount else { continue };
            let is_same = number == resolved.mount;
            if !is_same && (mount.root_unknown || mount.deleted || !self.dentries.contains(mount.root, resolved.dentry))
            {
                continue;
            }
            let mut at = self.path_of(number);
            let inside = [self.dentries.relative(mount.root, resolved.dentry), resolved.rest.as_path()];
            at.extend(inside.iter().filter(|part| !part.as_os_str().is_empty()));
            let over = self.resolve_mount_point(mount.namespace, &at).ok().filter(|found| found.mount != number);
            let covered = over.map(|found| self.mount(found.mount).id);
            all.push(Showing { namespace: mount.namespace, mount: mount.id, place: at, covered });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::receivers::tests::machine;
    use super::*;

    #[test]
    fn a_directory_is_shown_by_mounts_whose_root_contains_it_whether_or_not_they_hang_together() {
        let forest = Forest::of(&machine(&[
            "1 0 0:1 / / rw - t t rw\n2 1 0:1 /a /mnt rw - t t rw\n3 1 0:1 /other /o rw - t t rw\n",
            "4 0 0:2 / / rw - t t rw\n5 4 0:1 /a/b /x rw shared:1 - t t rw\n6 5 0:3 / /x/c rw - t t rw\n",
        ]));
        let at = |path: &str| {
            let all = forest.showing(0, Path::new(path)).unwrap();
            all.into_iter().map(|s| (s.mount, s.place.to_str().unwrap().to_owned(), s.covered)).collect::<Vec<_>>()
        };
        assert_eq!(
            at("/mnt/b/c"),
            [(1, "/a/b/c".into(), None), (2, "/mnt/b/c".into(), None), (5, "/x/c".into(), Some(6))]
        );
        assert_eq!(at("/o/z"), [(1, "/other/z".into(), None), (3, "/o/z".into(), None)]);
        assert!(forest.showing(7, Path::new("/")).is_err());
    }
}
