//! Finds the volumes that show another directory than their source's path does now: from the mount table, pure.
//!
//! Nothing is asked of any file system here, so nothing can hang, and what it costs is one reading of the table,
//! however many volumes there are and whatever state they are in.

use std::path::{Path, PathBuf};

use crate::held::is_target;
use crate::note::Note;
use crate::propagation::MountPropagation;
use crate::tree::mountinfo::{Mount, Table, Walk};
use crate::volume::{AbsPath, KubeletPath};

/// Whether a volume shall be given the directory that its source's path leads to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has it.
    Same,
    /// It may, by a mount on the one that it has.
    Follow,
    /// It may, but what it has was deleted, and the kernel mounts nothing on a deleted directory: its mount has to be
    /// replaced, which containers that run don't see.
    Replace,
    /// The path leads to something that was there all the time, such as the empty directory beneath a file system that
    /// is unmounted: pods must never be given that.
    Wait,
    /// Its peer group has members other than pods' volumes. A mount on it would cover those too, and what is mounted
    /// over the source on the node reaches it by itself.
    PeersElsewhere,
}

/// A place where a pod's CSI volume is mounted.
#[derive(Debug, Clone)]
pub struct Published<'t> {
    /// Its target path.
    pub path: KubeletPath,
    /// What is seen there.
    pub top: &'t Mount,
    /// The one that was published: with another one there, it is another volume. Healing mounts on it.
    pub lowest: &'t Mount,
}

/// Pods' CSI volumes, of whatever driver, in the order of their paths. One whose path the kubelet can't have made, or that
/// is covered by a mount on a directory above it, isn't among them.
#[must_use]
pub fn published<'t>(table: &Table, walk: &Walk<'t>, kubelet_dir: &AbsPath) -> Vec<Published<'t>> {
    let targets = targets(table, kubelet_dir.as_path()).into_iter();
    let found = targets.filter_map(|target| {
        let path = KubeletPath::parse(target.to_str()?, kubelet_dir).ok()?;
        let top = walk.mount_at(target).filter(|top| top.mount_point == target)?;
        Some(Published { path, top, lowest: walk.lowest(top) })
    });
    found.collect()
}

/// The mounts of pods' CSI volumes, of whatever driver: their paths, each once.
#[must_use]
pub fn targets<'t>(table: &'t Table, kubelet_dir: &Path) -> Vec<&'t Path> {
    let points = table.mounts.iter().map(|m| m.mount_point.as_path());
    let mut points: Vec<&Path> = points.filter(|at| is_target(kubelet_dir, at)).collect();
    points.sort_unstable();
    points.dedup();
    points
}

/// What a source's path leads to now.
#[derive(Debug, Clone)]
pub struct Now<'t> {
    mount: &'t Mount,
    /// The directory of the mount's file system.
    shown: PathBuf,
}

impl<'t> Now<'t> {
    /// Where this path leads to; none if no mount shows it.
    #[must_use]
    pub fn at(walk: &Walk<'t>, source: &Path) -> Option<Self> {
        let mount = walk.mount_at(source)?;
        Some(Self { mount, shown: mount.shown_at(source)? })
    }
}

/// Judges the volume at `target`. `same_mount` says, where it is known, whether the source's path still leads to the
/// mount that it led to when the volume was published; then a directory that differs has been replaced there.
#[must_use]
pub fn judge(
    (table, walk): (&Table, &Walk<'_>),
    kubelet_dir: &Path,
    (target, note): (&Path, &Note),
    same_mount: Option<bool>,
) -> Verdict {
    let Some(top) = walk.mount_at(target).filter(|m| m.mount_point == target) else { return Verdict::Wait };
    let Some(now) = Now::at(walk, &note.full_path()) else { return Verdict::Wait };
    judge_top((table, walk), kubelet_dir, (top, note.propagation), &now, same_mount)
}

/// As [`judge`], where what is seen at the target and what its source's path leads to were found before.
#[must_use]
pub fn judge_top(
    (table, walk): (&Table, &Walk<'_>),
    kubelet_dir: &Path,
    (top, propagation): (&Mount, MountPropagation),
    Now { mount: now, shown }: &Now<'_>,
    same_mount: Option<bool>,
) -> Verdict {
    let shown = shown.as_path();
    let same_directory = top.root == shown && top.device == now.device;
    if same_directory && !top.root_deleted {
        return Verdict::Same;
    }
    // A file system of the same kind at the same place: it was mounted anew.
    let anew = top.device != now.device && top.fs_type == now.fs_type && top.root == shown;
    let replaced = top.device == now.device && (same_mount.unwrap_or(true) || (top.root_deleted && top.root == shown));
    if !(anew || replaced) {
        return Verdict::Wait;
    }
    if top.root_deleted && walk.lowest(top).id == top.id {
        return Verdict::Replace;
    }
    let covers_others = |mount: &Mount| {
        mount.propagation.peer_group.is_some_and(|group| {
            table
                .mounts
                .iter()
                .any(|m| m.propagation.peer_group == Some(group) && !is_target(kubelet_dir, &m.mount_point))
        })
    };
    if propagation == MountPropagation::Bidirectional && [top, walk.lowest(top)].into_iter().any(covers_others) {
        return Verdict::PeersElsewhere;
    }
    Verdict::Follow
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::mountinfo::parse;

    const TARGET: &str = "/k/pods/u/volumes/kubernetes.io~csi/v/mount";

    fn note(propagation: MountPropagation) -> Note {
        Note { propagation, source_mount: 1, ..crate::note::tests::note() }
    }

    /// Each line: id, parent, device, root, mount point, group, type.
    fn judged(lines: &[&str], propagation: MountPropagation, same_mount: Option<bool>) -> Verdict {
        let text: String = lines
            .iter()
            .map(|line| {
                let f: Vec<&str> = line.split(' ').collect();
                let at = f[4].replace("TARGET", TARGET);
                format!("{} {} 0:{} {} {at} rw {} - {} x rw\n", f[0], f[1], f[2], f[3], f[5], f[6])
            })
            .collect();
        let table = parse(text.as_bytes());
        assert_eq!(table.skipped, 0, "{text}");
        judge((&table, &Walk::new(&table)), Path::new("/k"), (Path::new(TARGET), &note(propagation)), same_mount)
    }

    const NODE: &str = "1 0 1 / / shared:1 ext4";

    #[test]
    fn a_file_system_that_was_mounted_anew_is_followed_and_the_directory_beneath_it_is_not() {
        let slave = MountPropagation::HostToContainer;
        let target = "9 1 7 / TARGET shared:9 fuse.x";
        assert_eq!(judged(&[NODE, "2 1 7 / /src shared:2 fuse.x", target], slave, None), Verdict::Same);
        assert_eq!(judged(&[NODE, target], slave, None), Verdict::Wait);
        assert_eq!(judged(&[NODE, target, "2 1 8 / /src shared:2 fuse.x"], slave, None), Verdict::Follow);
        assert_eq!(judged(&[NODE, target, "2 1 8 / /src shared:2 tmpfs"], slave, None), Verdict::Wait);
        assert_eq!(judged(&[NODE, target, "2 1 8 /other /src shared:2 fuse.x"], slave, None), Verdict::Wait);
        // What counts is what lies on top.
        let healed = "10 9 8 / TARGET shared:10 fuse.x";
        assert_eq!(judged(&[NODE, target, healed, "2 1 8 / /src shared:2 fuse.x"], slave, None), Verdict::Same);
    }

    #[test]
    fn a_directory_that_was_replaced_is_followed_and_one_that_was_uncovered_is_not() {
        let slave = MountPropagation::HostToContainer;
        let (deleted, renamed) = ("9 1 1 /src//deleted TARGET shared:9 ext4", "9 1 1 /old TARGET shared:9 ext4");
        assert_eq!(judged(&[NODE, deleted], slave, Some(false)), Verdict::Replace);
        assert_eq!(judged(&[NODE, renamed], slave, None), Verdict::Follow, "it has to be looked at");
        assert_eq!(judged(&[NODE, renamed], slave, Some(true)), Verdict::Follow);
        assert_eq!(judged(&[NODE, renamed], slave, Some(false)), Verdict::Wait);
    }

    #[test]
    fn peers_are_covered_only_if_all_are_volumes() {
        let both = MountPropagation::Bidirectional;
        let (target, fresh) = ("9 1 7 / TARGET shared:2 fuse.x", "3 1 8 / /src shared:3 fuse.x");
        let dead = "2 1 7 / /elsewhere shared:2 fuse.x";
        assert_eq!(judged(&[NODE, target, dead, fresh], both, None), Verdict::PeersElsewhere);
        assert_eq!(judged(&[NODE, target, fresh], both, None), Verdict::Follow);
        let other = "8 1 7 / /k/pods/w/volumes/kubernetes.io~csi/v/mount shared:2 fuse.x";
        assert_eq!(judged(&[NODE, target, other, fresh], both, None), Verdict::Follow);
    }
}
