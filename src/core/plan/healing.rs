//! Finds the volumes that show another directory than their source's path does now: from the mount table, pure.
//!
//! Nothing is asked of any file system here, so nothing can hang, and what it costs is one reading of the table,
//! however many volumes there are and whatever state they are in.

use std::path::{Path, PathBuf};

use allowlist::names::Target;
use mounts::mountinfo::{Mount, Table, Walk};
use mounts::propagation::MountPropagation;

use crate::layout::Layout;
use crate::record::{PathMounts, Record};

/// Whether a volume shall be given the directory that its source's path leads to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has it.
    Same,
    /// It may.
    Due(Change),
    /// The path leads to something that was there all the time, such as the empty directory beneath a file system that
    /// is unmounted, or of which that can't be told: pods must never be given that.
    Wait,
    /// Its peer group has members other than pods' volumes. A mount on it would cover those too, and what is mounted
    /// over the source on the node reaches it by itself.
    PeersElsewhere,
}

/// What has happened to a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A file system of the same type was mounted there since.
    Mounted,
    /// On the mount on which it lay, another directory has its name now. Who may write the directories above it can do
    /// that, so it has to be asked who that is (`service::heal::replaced`).
    Replaced,
}

/// A place where a pod's CSI volume is mounted.
#[derive(Debug, Clone)]
pub struct Published<'t> {
    /// Its target path.
    pub path: Target,
    /// What is seen there.
    pub top: &'t Mount,
    /// The one that was published: with another one there, it is another volume. Healing mounts on it.
    pub lowest: &'t Mount,
}

/// Pods' CSI volumes, of whatever driver, in the order of their paths. One whose path the kubelet can't have made, or that
/// is covered by a mount on a directory above it, isn't among them.
#[must_use]
pub fn published<'t>(table: &Table, walk: &Walk<'t>, layout: &Layout) -> Vec<Published<'t>> {
    let targets = targets(table, layout).into_iter();
    let found = targets.filter_map(|target| {
        let path = Target::parse(target.to_str()?, &layout.base).ok()?;
        let top = walk.mount_at(target).filter(|top| top.mount_point == target)?;
        Some(Published { path, top, lowest: walk.lowest(top) })
    });
    found.collect()
}

/// The mounts of pods' CSI volumes, of whatever driver: their paths, each once.
#[must_use]
pub fn targets<'t>(table: &'t Table, layout: &Layout) -> Vec<&'t Path> {
    let points = table.mounts.iter().map(|m| m.mount_point.as_path());
    let mut points: Vec<&Path> = points.filter(|at| layout.is_target(at)).collect();
    points.sort_unstable();
    points.dedup();
    points
}

/// What a source's path leads to now.
#[derive(Debug, Clone)]
pub struct Now<'t> {
    /// The mount.
    pub mount: &'t Mount,
    /// The directory of the mount's file system.
    pub shown: PathBuf,
}

impl<'t> Now<'t> {
    /// Where this path leads to; none if no mount shows it.
    #[must_use]
    pub fn at(walk: &Walk<'t>, source: &Path) -> Option<Self> {
        let mount = walk.mount_at(source)?;
        Some(Self { mount, shown: mount.shown_at(source)? })
    }
}

/// Judges the volume at `target`.
#[must_use]
pub fn judge((table, walk): (&Table, &Walk<'_>), layout: &Layout, (target, record): (&Path, &Record)) -> Verdict {
    let Some(top) = walk.mount_at(target).filter(|m| m.mount_point == target) else { return Verdict::Wait };
    let Some(now) = Now::at(walk, &record.full_path()) else { return Verdict::Wait };
    judge_top((table, walk), layout, (top, record.propagation), &now, Some(record))
}

/// As [`judge`], where what is seen at the target and what its source's path leads to were found before. Without the record
/// of just this volume, it is due also where only that could tell that it must not be.
#[must_use]
pub fn judge_top(
    (table, walk): (&Table, &Walk<'_>),
    layout: &Layout,
    (top, propagation): (&Mount, MountPropagation),
    Now { mount: now, shown }: &Now<'_>,
    record: Option<&Record>,
) -> Verdict {
    let shown = shown.as_path();
    let same_directory = top.root == shown && top.device == now.device;
    if same_directory && !top.root_deleted {
        return Verdict::Same;
    }
    let path_mounts =
        |record: &Record, says: &dyn Fn(&PathMounts) -> bool| record.path_mounts.as_deref().is_some_and(says);
    let change = if top.device == now.device {
        let was_top = |mounts: &PathMounts| mounts.top == now.id;
        let same_mount = |record: &Record| record.source_mount == now.id || path_mounts(record, &was_top);
        record.is_none_or(same_mount).then_some(Change::Replaced)
    } else {
        // Its id may be that of the one that is gone, where ids are reused.
        let may_be_given = |mounts: &PathMounts| mounts.may_be_given(now.id, now.device, &now.root);
        // Of one that was deleted it isn't known whether the same name is the same directory: a tenant may have made it anew.
        let alike = top.fs_type == now.fs_type && top.root == shown && !top.root_deleted;
        (alike && record.is_none_or(|record| path_mounts(record, &may_be_given))).then_some(Change::Mounted)
    };
    let Some(change) = change else { return Verdict::Wait };
    let covers_others = |mount: &Mount| {
        mount.propagation.peer_group.is_some_and(|group| {
            table.mounts.iter().any(|m| m.propagation.peer_group == Some(group) && !layout.is_target(&m.mount_point))
        })
    };
    // On a deleted directory nothing is mounted, so nobody is covered.
    let lowest = walk.lowest(top);
    if propagation == MountPropagation::Bidirectional
        && !lowest.root_deleted
        && [top, lowest].into_iter().any(covers_others)
    {
        return Verdict::PeersElsewhere;
    }
    Verdict::Due(change)
}

/// The mounts of a table that may lie on the way to a source, found by where they are.
#[derive(Debug)]
pub struct ByPoint<'t> {
    /// In the order of their mount points.
    mounts: Vec<&'t Mount>,
    /// The greatest id, where ids are not reused.
    newest: u64,
}

impl<'t> ByPoint<'t> {
    /// Of a table. No source lies in the kubelet's directory (the allow-list has no
    /// such), where most mounts are.
    #[must_use]
    pub fn of(table: &'t Table, layout: &Layout) -> Self {
        let mut mounts: Vec<&Mount> =
            table.mounts.iter().filter(|mount| !mount.mount_point.starts_with(layout.base.as_path())).collect();
        mounts.sort_unstable_by_key(|mount| point(mount));
        let newest = table.mounts.iter().map(|mount| mount.id).max().filter(|_| table.unique_ids).unwrap_or(0);
        Self { mounts, newest }
    }

    /// What is mounted on the way to a source's path, which leads to the mount `top`. None if it is more than can be kept.
    #[must_use]
    pub fn on_the_way(&self, source: &Path, top: &Mount) -> Option<PathMounts> {
        let mut beneath = Vec::new();
        for above in source.ancestors() {
            let at = above.as_os_str().as_encoded_bytes();
            let from = self.mounts.partition_point(|mount| point(mount) < at);
            let here = self.mounts[from..].iter().take_while(|mount| point(mount) == at);
            let others = here.filter(|mount| mount.id != top.id);
            beneath.extend(others.take(PathMounts::MAX + 1).map(|mount| PathMounts::hash(mount.device, &mount.root)));
        }
        beneath.sort_unstable();
        beneath.dedup();
        (beneath.len() <= PathMounts::MAX).then_some(PathMounts { top: top.id, newest: self.newest, beneath })
    }
}

/// A mount point as bytes: its text has one form only.
fn point(mount: &Mount) -> &[u8] {
    mount.mount_point.as_os_str().as_encoded_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use mounts::mountinfo::parse;

    const TARGET: &str = "/k/pods/u/volumes/kubernetes.io~csi/v/mount";

    fn unique(table: Table) -> Table {
        Table { unique_ids: true, ..table }
    }

    /// Each line: id, parent, device, root, mount point, group, type.
    fn table(lines: &[&str]) -> Table {
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
        table
    }

    /// The record of a volume of `/src` that was looked at in this table, where ids are not reused.
    fn noted(propagation: MountPropagation, lines: &[&str]) -> Record {
        let table = table(lines);
        let walk = Walk::new(&table);
        let top = walk.mount_at(Path::new("/src")).unwrap();
        let mounts =
            ByPoint::of(&unique(table.clone()), &crate::fixture::layout()).on_the_way(Path::new("/src"), top).unwrap();
        let path_mounts = Some(Arc::new(mounts));
        Record { propagation, source_mount: top.id, path_mounts, ..crate::fixture::record() }
    }

    fn judged(lines: &[&str], record: &Record) -> Verdict {
        let table = table(lines);
        judge((&table, &Walk::new(&table)), &crate::fixture::layout(), (Path::new(TARGET), record))
    }

    const NODE: &str = "1 0 1 / / shared:1 ext4";
    const SLAVE: MountPropagation = MountPropagation::HostToContainer;
    const MOUNTED: Verdict = Verdict::Due(Change::Mounted);
    const REPLACED: Verdict = Verdict::Due(Change::Replaced);

    #[test]
    fn a_file_system_that_was_mounted_anew_is_followed_and_the_directory_beneath_it_is_not() {
        let (source, target) = ("2 1 7 / /src shared:2 fuse.x", "9 1 7 / TARGET shared:9 fuse.x");
        let record = noted(SLAVE, &[NODE, source, target]);
        let judged = |lines: &[&str]| judged(lines, &record);
        assert_eq!(judged(&[NODE, source, target]), Verdict::Same);
        assert_eq!(judged(&[NODE, target]), Verdict::Wait);
        assert_eq!(judged(&[NODE, target, "10 1 8 / /src shared:2 fuse.x"]), MOUNTED);
        assert_eq!(judged(&[NODE, target, "10 1 8 / /src shared:2 tmpfs"]), Verdict::Wait);
        assert_eq!(judged(&[NODE, target, "10 1 8 /other /src shared:2 fuse.x"]), Verdict::Wait);
        assert_eq!(judged(&[NODE, target, "8 1 8 / /src shared:2 fuse.x"]), Verdict::Wait, "it was moved there");
        // What counts is what lies on top.
        let healed = "10 9 8 / TARGET shared:10 fuse.x";
        assert_eq!(judged(&[NODE, target, healed, "11 1 8 / /src shared:2 fuse.x"]), Verdict::Same);
    }

    #[test]
    fn a_directory_that_was_deleted_before_its_file_system_was_mounted_anew_is_not_taken_for_the_one_of_its_name() {
        let target = "9 1 7 /b//deleted TARGET shared:9 fuse.x";
        let record = noted(SLAVE, &[NODE, "2 1 7 /b /src shared:2 fuse.x", "9 1 7 /b TARGET shared:9 fuse.x"]);
        assert_eq!(judged(&[NODE, target, "10 1 8 /b /src shared:2 fuse.x"], &record), Verdict::Wait);
        let alive = "9 1 7 /b TARGET shared:9 fuse.x";
        assert_eq!(judged(&[NODE, alive, "10 1 8 /b /src shared:2 fuse.x"], &record), MOUNTED);
    }

    #[test]
    fn what_lay_beneath_is_never_followed_whatever_covered_it() {
        let target = "9 1 7 / TARGET shared:9 fuse.x";
        // Stacked; covered by a mount on a directory above; a bind of another directory of the same file system.
        let beneath = "2 1 6 / /src shared:2 fuse.x";
        let record = noted(SLAVE, &[NODE, beneath, "3 2 7 / /src shared:2 fuse.x", target]);
        assert_eq!(judged(&[NODE, target, beneath], &record), Verdict::Wait);
        assert_eq!(
            judged(&[NODE, target, "20 1 6 / /src shared:2 fuse.x"], &record),
            Verdict::Wait,
            "mounted once more"
        );
        let deep = ["2 1 3 / /src shared:2 tmpfs", "3 2 6 / /src/a shared:3 fuse.x", "4 2 2 / /src shared:4 ext4"];
        let (below, up) = (Path::new("/src/a"), "5 4 7 / /src/a shared:5 fuse.x");
        let all = table(&[NODE, deep[0], deep[1], deep[2], up, target]);
        let walk = Walk::new(&all);
        let top = walk.mount_at(below).unwrap();
        assert_eq!(top.id, 5);
        let mounts = ByPoint::of(&unique(all.clone()), &crate::fixture::layout()).on_the_way(below, top).unwrap();
        assert!(!mounts.may_be_given(20, (0, 6), Path::new("/")) && mounts.may_be_given(20, (0, 8), Path::new("/")));
        let bound = "2 1 1 /disk/src /src shared:2 ext4";
        let record = noted(SLAVE, &[NODE, bound, "9 1 1 /disk/src TARGET shared:9 ext4"]);
        assert_eq!(judged(&[NODE, "9 1 1 /disk/src TARGET shared:9 ext4"], &record), Verdict::Wait);
    }

    #[test]
    fn nothing_is_followed_to_another_mount_until_the_way_was_noted() {
        let target = "9 1 7 / TARGET shared:9 fuse.x";
        let lines = [NODE, target, "10 1 8 / /src shared:2 fuse.x"];
        let record = noted(SLAVE, &[NODE, "2 1 7 / /src shared:2 fuse.x", target]);
        assert_eq!(judged(&lines, &record), MOUNTED);
        assert_eq!(judged(&lines, &Record { path_mounts: None, ..record }), Verdict::Wait);
    }

    #[test]
    fn the_number_of_a_file_system_that_is_gone_tells_nothing_of_the_next_that_has_it() {
        // The one that the path led to doesn't lie beneath itself.
        let record = noted(SLAVE, &[NODE, "2 1 7 / /src shared:2 fuse.x"]);
        assert_eq!(
            judged(&[NODE, "9 1 6 / TARGET shared:9 fuse.x", "10 1 7 / /src shared:2 fuse.x"], &record),
            MOUNTED
        );
    }

    #[test]
    fn a_way_with_too_many_mounts_is_not_noted() {
        let stack = |count: usize| -> Option<usize> {
            let lines: Vec<String> = (2..2 + count).map(|n| format!("{n} {} {n} / /src - tmpfs", n - 1)).collect();
            let lines: Vec<&str> = [NODE].into_iter().chain(lines.iter().map(String::as_str)).collect();
            let table = table(&lines);
            let top = Walk::new(&table).mount_at(Path::new("/src"))?;
            Some(ByPoint::of(&table, &crate::fixture::layout()).on_the_way(Path::new("/src"), top)?.beneath.len())
        };
        assert_eq!(stack(1), Some(1));
        assert_eq!(stack(PathMounts::MAX), Some(PathMounts::MAX));
        assert_eq!(stack(PathMounts::MAX + 1), None);
    }

    #[test]
    fn a_directory_that_was_replaced_is_told_apart_from_one_that_was_uncovered() {
        let (deleted, renamed) = ("9 1 1 /src//deleted TARGET shared:9 ext4", "9 1 1 /old TARGET shared:9 ext4");
        let here = noted(SLAVE, &[NODE]);
        let elsewhere = noted(SLAVE, &[NODE, "2 1 1 /disk/src /src shared:2 ext4"]);
        for target in [deleted, renamed] {
            assert_eq!(judged(&[NODE, target], &here), REPLACED);
            assert_eq!(judged(&[NODE, target], &elsewhere), Verdict::Wait);
            let all = table(&[NODE, target]);
            let walk = Walk::new(&all);
            let now = Now::at(&walk, Path::new("/src")).unwrap();
            let told = judge_top((&all, &walk), &crate::fixture::layout(), (&all.mounts[1], SLAVE), &now, None);
            assert_eq!(told, REPLACED, "it has to be looked at");
        }
    }

    #[test]
    fn peers_are_covered_only_if_all_are_volumes() {
        let (target, dead) = ("9 1 7 / TARGET shared:2 fuse.x", "2 1 7 / /elsewhere shared:2 fuse.x");
        let fresh = "10 1 8 / /src shared:3 fuse.x";
        let record = noted(MountPropagation::Bidirectional, &[NODE, "3 1 7 / /src shared:2 fuse.x", target]);
        assert_eq!(judged(&[NODE, target, dead, fresh], &record), Verdict::PeersElsewhere);
        assert_eq!(judged(&[NODE, target, fresh], &record), MOUNTED);
        let other = "8 1 7 / /k/pods/w/volumes/kubernetes.io~csi/v/mount shared:2 fuse.x";
        assert_eq!(judged(&[NODE, target, other, fresh], &record), MOUNTED);
    }
}
