//! Compares the node before and after the trial.

use std::path::{Path, PathBuf};
use std::{fs, io};

use mounts::propagation::MountPropagation;
use serde::Serialize;

use super::look;
use super::node::Node;

/// A condition that must hold at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What must hold, as a sentence.
    pub what: String,
    /// What is wrong; empty if it holds.
    pub wrong: Vec<String>,
}

impl Check {
    /// A check that holds if nothing is `wrong`.
    #[must_use]
    pub fn new(what: impl Into<String>, wrong: Vec<String>) -> Self {
        Self { what: what.into(), wrong }
    }

    /// Whether it holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.wrong.is_empty()
    }
}

/// A state of the node: what is mounted, and what is in the kubelet's directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Mount points with their mount ids. Without what is mounted inside the sources: that is the workload's, not
    /// ours.
    mounts: Vec<(PathBuf, u64)>,
    /// Every path beneath the kubelet's directory.
    paths: Vec<PathBuf>,
}

impl Snapshot {
    /// Takes the current state of the node.
    ///
    /// # Errors
    /// What reading the mount table or the kubelet's directory says.
    pub fn take(node: &Node) -> io::Result<Self> {
        let mounts = look::table()?.mounts.into_iter();
        let mut mounts: Vec<_> =
            mounts.filter(|m| !node.is_in_source(&m.mount_point)).map(|m| (m.mount_point, m.id)).collect();
        mounts.sort();
        let mut paths = Vec::new();
        list(&node.kubelet_dir(), &mut paths)?;
        // Made for the plugin before it starts, taken away by it when it ends. What is in it counts.
        let own = node.plugin_dir();
        paths.retain(|path| *path != own);
        paths.sort();
        Ok(Self { mounts, paths })
    }

    /// The mounts that were added or removed since.
    #[must_use]
    pub fn mounts_since(&self, before: &Self) -> Vec<String> {
        let place = |(path, _): &(PathBuf, u64)| path.display().to_string();
        difference(&before.mounts, &self.mounts, place, "is mounted", "is no longer mounted")
    }

    /// The paths beneath the kubelet's directory that were added or removed since.
    #[must_use]
    pub fn paths_since(&self, before: &Self) -> Vec<String> {
        difference(&before.paths, &self.paths, |path| path.display().to_string(), "exists", "is gone")
    }
}

fn difference<T: PartialEq>(
    before: &[T],
    after: &[T],
    name: impl Fn(&T) -> String,
    more: &str,
    less: &str,
) -> Vec<String> {
    let new = after.iter().filter(|item| !before.contains(item)).map(|item| format!("{} {more}", name(item)));
    let lost = before.iter().filter(|item| !after.contains(item)).map(|item| format!("{} {less}", name(item)));
    new.chain(lost).collect()
}

fn list(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), found)?;
        }
        found.push(entry.path());
    }
    Ok(())
}

/// The names of the mounts inside a mode's source, with their mount ids.
///
/// # Errors
/// What reading the mount table says.
pub fn source_mounts(node: &Node, mode: MountPropagation) -> io::Result<Vec<(PathBuf, u64)>> {
    let source = node.source(mode);
    let beneath =
        |path: &Path| path.strip_prefix(&source).ok().filter(|rest| *rest != Path::new("")).map(Path::to_owned);
    Ok(look::table()?.mounts.iter().filter_map(|m| Some((beneath(&m.mount_point)?, m.id))).collect())
}

/// The check that a source has the same mounts as before, by mount id.
#[must_use]
pub fn source_kept(mode: MountPropagation, before: &[(PathBuf, u64)], after: &[(PathBuf, u64)]) -> Check {
    let place = |(path, _): &(PathBuf, u64)| path.display().to_string();
    let names: Vec<String> = before.iter().map(place).collect();
    let what = format!("the source of {mode} kept its mounts ({})", names.join(", "));
    Check::new(what, difference(before, after, place, "was mounted", "was unmounted"))
}

/// The check that targets don't exist any more.
#[must_use]
pub fn targets_gone<'a>(targets: impl Iterator<Item = &'a Path>) -> Check {
    let mut count = 0;
    let there = targets.inspect(|_| count += 1).filter(|path| fs::symlink_metadata(path).is_ok());
    let wrong: Vec<String> = there.map(|path| format!("{} exists", path.display())).collect();
    Check::new(format!("all {count} target directories are gone"), wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_mount_and_a_left_one_are_named() {
        let mount = |name: &str, id| (PathBuf::from(name), id);
        let before = [mount("before", 1), mount("node-late", 2)];
        assert!(source_kept(MountPropagation::None, &before, &before).holds());
        let check = source_kept(MountPropagation::None, &before, &before[..1]);
        assert_eq!(check.wrong, ["node-late was unmounted"]);
        let swapped = [mount("before", 1), mount("node-late", 3)];
        assert_eq!(source_kept(MountPropagation::None, &before, &swapped).wrong.len(), 2);

        let old = Snapshot { mounts: vec![mount("/", 1)], paths: vec!["/k/a".into()] };
        let new = Snapshot { mounts: vec![mount("/", 1), mount("/k/t", 9)], paths: Vec::new() };
        assert_eq!(new.mounts_since(&old), ["/k/t is mounted"]);
        assert_eq!(new.paths_since(&old), ["/k/a is gone"]);
        assert!(old.mounts_since(&old).is_empty() && old.paths_since(&old).is_empty());
    }

    #[test]
    fn a_target_that_exists_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let check = targets_gone([dir.path(), gone.as_path()].into_iter());
        assert_eq!((check.what.as_str(), check.wrong.len()), ("all 2 target directories are gone", 1));
    }
}
