//! The file systems that entries and volumes lie on, from the last reading of the mount table. Hung jobs are counted by
//! them.
//!
//! A call can't ask the file system itself, because that may hang. It can't read the table either: that takes longer
//! than the call.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use allowlist::config::AllowList;
use allowlist::names::{EntryName, Target};
use mounts::mountinfo::{Table, Walk};
use plan::layout::Layout;
use workers::Device;

use super::Volume;

/// The file systems of entries and volumes.
#[derive(Debug, Default)]
pub struct Devices {
    entries: HashMap<EntryName, Entry>,
    /// Sorted by path.
    volumes: Arc<Vec<Arc<Volume>>>,
}

/// The file system of an entry's own directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    device: Device,
    /// Whether other file systems are mounted beneath it.
    nested: bool,
}

/// A path as bytes: comparing bytes is faster, and there may be 100,000 mounts.
fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

impl Devices {
    /// The file systems according to a mount table.
    pub(super) fn of(
        (table, walk): (&Table, &Walk<'_>),
        list: &AllowList,
        layout: &Layout,
        volumes: &Arc<Vec<Arc<Volume>>>,
    ) -> Self {
        let paths: HashSet<&[u8]> = list.iter().map(|entry| bytes(entry.path.as_path())).collect();
        let shortest = paths.iter().map(|path| path.len()).min().unwrap_or(usize::MAX);
        let in_kubelet = |point: &[u8]| {
            point.strip_prefix(bytes(layout.base.as_path())).is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        let mut nested: HashSet<&[u8]> = HashSet::new();
        for mount in &table.mounts {
            let point = bytes(&mount.mount_point);
            // Most mounts of a table lie in the kubelet's directory, and no entry does.
            if point.len() > shortest && !in_kubelet(point) {
                let parts = point.iter().enumerate().skip(shortest).filter(|(_, byte)| **byte == b'/');
                nested.extend(parts.filter_map(|(at, _)| paths.get(&point[..at])));
            }
        }
        let entry = |path: &Path| {
            let device = walk.mount_at(path)?.device;
            Some(Entry { device, nested: path == Path::new("/") || nested.contains(bytes(path)) })
        };
        let entries = list.iter().filter_map(|e| Some((e.name.clone(), entry(e.path.as_path())?))).collect();
        Self { entries, volumes: Arc::clone(volumes) }
    }

    /// The device of an entry's directory, or of a directory `beneath` it. None for one beneath it if other file
    /// systems are mounted there.
    #[must_use]
    pub fn of_entry(&self, entry: &EntryName, beneath: bool) -> Option<Device> {
        self.entries.get(entry).filter(|entry| !(beneath && entry.nested)).map(|entry| entry.device)
    }

    /// The device of what a published volume shows.
    #[must_use]
    pub fn of_volume(&self, target: &Target) -> Option<Device> {
        let at = self.volumes.binary_search_by(|volume| volume.path.as_path().cmp(target.as_path())).ok()?;
        Some(self.volumes[at].shown.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allowlist::names::AbsPath;
    use mounts::mountinfo;

    #[test]
    fn an_entrys_file_system_is_told_by_the_table_alone() {
        let table = mountinfo::parse(
            b"1 0 8:1 / / rw - ext4 d rw\n2 1 0:40 / /nfs rw - nfs4 s rw\n3 1 0:41 / /data/fuse rw - fuse f rw\n\
              4 1 0:42 / /k/pods/u/volumes/kubernetes.io~csi/v/mount rw - fuse f rw\n",
        );
        let text = "entries: [{name: data, path: /data}, {name: nfs, path: /nfs/a}, \
                    {name: fuse, path: /data/fuse, overlaps: [data]}]";
        let list = AllowList::parse(text, &AbsPath::parse("/k").unwrap()).unwrap();
        let devices = Devices::of((&table, &Walk::new(&table)), &list, &crate::fixture::layout(), &Arc::default());
        let of = |name, beneath| devices.of_entry(&EntryName::parse(name).unwrap(), beneath);
        assert_eq!((of("data", false), of("data", true)), (Some((8, 1)), None), "who knows where its sub-paths lie");
        assert_eq!((of("nfs", false), of("nfs", true)), (Some((0, 40)), Some((0, 40))));
        assert_eq!((of("fuse", true), of("other", false)), (Some((0, 41)), None));
        let target = |path| Target::parse(path, &AbsPath::parse("/k").unwrap()).unwrap();
        assert_eq!(devices.of_volume(&target("/k/pods/u/volumes/kubernetes.io~csi/v/mount")), None);
    }
}
