//! Directories of file systems, each with a number. They stand for the dentries in the kernel's mount code.
//!
//! A mount shows a directory of a file system and lies on a directory of another mount. Comparing numbers instead of
//! paths makes two operations independent of path length: looking up a mount point, and asking whether a root contains
//! a directory (`is_subdir` of fs/dcache.c).

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// A directory (or file) of a file system.
pub(super) type Dentry = usize;

#[derive(Debug, Clone)]
struct Known {
    /// Its file system: an index into [`Dentries::within`].
    file_system: usize,
    /// None: it is a root, or lies in no directory, as a namespace file of nsfs.
    parent: Option<Dentry>,
    /// Its path from the root of the file system.
    path: Arc<OsStr>,
}

/// All roots and mount points of the forest's mounts, and all directories that contain them.
#[derive(Debug, Clone, Default)]
pub(super) struct Dentries {
    known: Vec<Known>,
    file_systems: HashMap<(u32, u32), usize>,
    /// By file system, then by path.
    within: Vec<HashMap<Arc<OsStr>, Dentry>>,
}

impl Dentries {
    /// The file system on a device.
    pub(super) fn file_system(&mut self, device: (u32, u32)) -> usize {
        let next = self.within.len();
        let number = *self.file_systems.entry(device).or_insert(next);
        if number == next {
            self.within.push(HashMap::new());
        }
        number
    }

    /// A new file system for a deleted directory. Nothing that has a name can lie in it.
    pub(super) fn lost(&mut self) -> usize {
        self.within.push(HashMap::new());
        self.within.len() - 1
    }

    /// The directory at a path of a file system; the path has no `.` or `..`. Adds it if needed.
    pub(super) fn at(&mut self, file_system: usize, path: &OsStr) -> Dentry {
        if let Some(&dentry) = self.within[file_system].get(path) {
            return dentry;
        }
        let bytes = path.as_bytes();
        let parent = match bytes.iter().rposition(|&b| b == b'/') {
            _ if bytes == b"/" => None,
            Some(0) => Some(self.at(file_system, OsStr::new("/"))),
            Some(slash) => Some(self.at(file_system, OsStr::from_bytes(&bytes[..slash]))),
            None => None,
        };
        let path: Arc<OsStr> = Arc::from(path);
        self.known.push(Known { file_system, parent, path: Arc::clone(&path) });
        let dentry = self.known.len() - 1;
        self.within[file_system].insert(path, dentry);
        dentry
    }

    /// The directory at a path relative to another directory. Adds it if needed.
    pub(super) fn beneath(&mut self, base: Dentry, relative: &Path) -> Dentry {
        if relative.as_os_str().is_empty() {
            return base;
        }
        let path = joined(&self.known[base].path, relative.as_os_str());
        self.at(self.known[base].file_system, &path)
    }

    /// The directory of this name in another, if it is known.
    pub(super) fn child(&self, base: Dentry, name: &OsStr) -> Option<Dentry> {
        let known = &self.known[base];
        self.within[known.file_system].get(joined(&known.path, name).as_os_str()).copied()
    }

    /// Whether `dentry` is `top` or lies beneath it.
    pub(super) fn contains(&self, top: Dentry, dentry: Dentry) -> bool {
        let mut at = dentry;
        loop {
            if at == top {
                return true;
            }
            match self.known[at].parent {
                Some(parent) => at = parent,
                None => return false,
            }
        }
    }

    /// The file system of a directory.
    pub(super) fn file_system_of(&self, dentry: Dentry) -> usize {
        self.known[dentry].file_system
    }

    /// Its path from the root of its file system.
    pub(super) fn path(&self, dentry: Dentry) -> &Path {
        Path::new(&*self.known[dentry].path)
    }

    /// The path from `top` to `dentry`, which must lie beneath it. Empty if they are the same.
    pub(super) fn relative(&self, top: Dentry, dentry: Dentry) -> &Path {
        let (top, path) = (self.path(top).as_os_str(), self.path(dentry).as_os_str());
        let skipped = if top == "/" { 1 } else { top.len() + 1 };
        Path::new(OsStr::from_bytes(path.as_bytes().get(skipped..).unwrap_or_default()))
    }
}

fn joined(base: &OsStr, relative: &OsStr) -> OsString {
    let mut path = Vec::with_capacity(base.len() + 1 + relative.len());
    path.extend_from_slice(base.as_bytes());
    if base != "/" {
        path.push(b'/');
    }
    path.extend_from_slice(relative.as_bytes());
    OsString::from_vec(path)
}

/// A path without redundant slashes and `.`: `//a/` becomes `/a`. None: it isn't absolute or has `..` in it, and only
/// the file system could tell where that leads.
pub(super) fn normal(path: &Path) -> Option<PathBuf> {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    (path.is_absolute() && plain).then(|| path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_contain_what_lies_in_them() {
        let mut all = Dentries::default();
        let (one, two) = (all.file_system((0, 1)), all.file_system((0, 2)));
        let deep = all.at(one, OsStr::new("/a/b/c"));
        let upper = all.at(one, OsStr::new("/a"));
        let root = all.at(one, OsStr::new("/"));
        assert!(all.contains(upper, deep) && all.contains(root, deep) && all.contains(deep, deep));
        assert!(!all.contains(deep, upper));
        let like = all.at(one, OsStr::new("/ab"));
        assert!(!all.contains(upper, like), "a name that begins alike is another name");
        let other = all.at(two, OsStr::new("/a"));
        assert!(!all.contains(other, deep), "other file system");
        assert_eq!(all.relative(upper, deep), Path::new("b/c"));
        assert_eq!(all.relative(root, deep), Path::new("a/b/c"));
        assert_eq!(all.relative(deep, deep), Path::new(""));
        assert_eq!(all.beneath(upper, Path::new("b/c")), deep);
        assert_eq!(all.child(root, OsStr::new("a")), Some(upper));
        assert_eq!(all.child(root, OsStr::new("z")), None);
    }

    #[test]
    fn what_was_deleted_contains_only_itself() {
        let mut all = Dentries::default();
        let one = all.file_system((0, 1));
        let there = all.at(one, OsStr::new("/a/b"));
        let lost = all.lost();
        let gone = all.at(lost, OsStr::new("/a"));
        assert!(!all.contains(gone, there) && !all.contains(there, gone));
        let namespace = all.at(one, OsStr::new("mnt:[4026531840]"));
        assert!(all.contains(namespace, namespace));
    }

    #[test]
    fn only_paths_that_say_where_they_lead_are_normal() {
        assert_eq!(normal(Path::new("//a//b/./c/")), Some("/a/b/c".into()));
        assert_eq!(normal(Path::new("/")), Some("/".into()));
        assert_eq!(normal(Path::new("/a/../b")), None);
        assert_eq!(normal(Path::new("a")), None);
    }
}
