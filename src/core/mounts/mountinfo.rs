//! Parses `/proc/PID/mountinfo`: bytes in, mounts out. Lines that can't be parsed are counted.
//!
//! A mount point may hold any byte but NUL (proc_pid_mountinfo(5), fs/proc_namespace.c). The parsers in existing crates
//! leave `\040` escapes in the paths or hold lines as text, so this is our own.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::MountAttrs;
use crate::propagation::PropagationState;

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id in mountinfo. The kernel reuses these ids.
    pub id: u64,
    /// The id of the mount that it is mounted on.
    pub parent: u64,
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// The directory of the file system that the mount shows, without the suffix `//deleted`.
    pub root: PathBuf,
    /// Whether that directory has been deleted.
    pub root_deleted: bool,
    /// The mount point, as seen from the reading process' root.
    pub mount_point: PathBuf,
    /// Per-mount options, comma-separated.
    pub options: String,
    /// Peer group, master and bindability.
    pub propagation: PropagationState,
    /// The file system's type.
    pub fs_type: String,
    /// What was mounted: a device, or any word.
    pub source: OsString,
}

/// A mount table as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The mounts, in the kernel's order.
    pub mounts: Vec<Mount>,
    /// How many lines were left out because they could not be parsed.
    pub skipped: usize,
    /// Whether the mounts' ids are the unique ones, which no other mount ever gets. Those of mountinfo are given again.
    pub unique_ids: bool,
}

impl Table {
    /// Every mount beneath the mount `id`, parents before children.
    #[must_use]
    pub fn beneath(&self, id: u64) -> Vec<&Mount> {
        let mut children: HashMap<u64, Vec<&Mount>> = HashMap::new();
        for mount in &self.mounts {
            if mount.id != mount.parent {
                children.entry(mount.parent).or_default().push(mount);
            }
        }
        let mut found = Vec::new();
        let mut waiting = vec![id];
        while let Some(parent) = waiting.pop() {
            // `remove`: each parent is needed once, and a torn table may hold a cycle.
            for child in children.remove(&parent).unwrap_or_default() {
                waiting.push(child.id);
                found.push(child);
            }
        }
        found
    }

    /// Whether the table changed while it was read, and how that shows: an id appears twice, or the parents of some
    /// mounts are missing.
    ///
    /// One missing parent is normal. It is the mount beneath the root of the table. For a process whose root is an
    /// ordinary directory (chroot(2)), it is the mount that this directory lies on.
    #[must_use]
    pub fn tear(&self) -> Option<Tear> {
        let ids: HashSet<u64> = self.mounts.iter().map(|m| m.id).collect();
        if ids.len() < self.mounts.len() {
            return Some(Tear::Twice);
        }
        let mut missing = self.mounts.iter().map(|m| m.parent).filter(|parent| !ids.contains(parent));
        let first = missing.next();
        missing.any(|parent| Some(parent) != first).then_some(Tear::Orphans)
    }

    /// Every mount that shows the directory at `path`, which lies on the mount `id`.
    pub fn bound_from(&self, id: u64, path: &Path) -> impl Iterator<Item = &Mount> {
        let shown = self.mounts.iter().find(|m| m.id == id).and_then(|m| Some((m.device, m.shown_at(path)?)));
        self.mounts.iter().filter(move |m| {
            m.id != id
                && !m.root_deleted
                && shown.as_ref().is_some_and(|(dev, root)| *dev == m.device && *root == m.root)
        })
    }
}

/// Why a table can't be a snapshot of the namespace at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tear {
    /// A mount is listed twice.
    Twice,
    /// The parents of some mounts are not listed.
    Orphans,
}

/// Resolves paths to mounts in one table, by the kernel's rules.
#[derive(Debug)]
pub struct Walk<'t> {
    root: Option<&'t Mount>,
    /// The mount on each (mount, mount point). A hash map, because a kubelet's directory has thousands of child mounts.
    /// Keyed by the bytes of the mount point: mountinfo writes each path in one form only, and hashing its components
    /// takes several times as long.
    children: HashMap<(u64, &'t [u8]), &'t Mount>,
    by_id: HashMap<u64, &'t Mount>,
}

impl<'t> Walk<'t> {
    /// Indexes a table, for many look-ups.
    #[must_use]
    pub fn new(table: &'t Table) -> Self {
        let by_id: HashMap<u64, &Mount> = table.mounts.iter().map(|m| (m.id, m)).collect();
        let mut children = HashMap::with_capacity(by_id.len());
        let mut root = None;
        for mount in &table.mounts {
            if mount.id != mount.parent && by_id.contains_key(&mount.parent) {
                children.insert((mount.parent, mount.mount_point.as_os_str().as_encoded_bytes()), mount);
            } else if mount.mount_point == Path::new("/") {
                root = root.or(Some(mount));
            }
        }
        Self { root, children, by_id }
    }

    /// The mount that an absolute path without symlinks leads to: the topmost, if several are stacked there.
    #[must_use]
    pub fn mount_at(&self, path: &Path) -> Option<&'t Mount> {
        let mut at = self.root?;
        // `as_path` drops a trailing slash.
        let ancestors = path.components().as_path().ancestors();
        let mut way: Vec<&[u8]> = ancestors.map(|point| point.as_os_str().as_encoded_bytes()).collect();
        way.reverse();
        // A torn table may hold a cycle.
        for _ in 0..=self.by_id.len() {
            // The first mount point on the way. A mount stacked on the root of `at` comes first.
            match way.iter().find_map(|&point| self.children.get(&(at.id, point))) {
                Some(mount) => at = mount,
                None => return Some(at),
            }
        }
        None
    }

    /// The mounts stacked at the mount point of `top`, the lowest first; `top` is the last.
    #[must_use]
    pub fn stack(&self, top: &'t Mount) -> Vec<&'t Mount> {
        let mut stack = vec![top];
        let mut at = top;
        // A torn table may hold a cycle.
        while let Some(below) = self.by_id.get(&at.parent).filter(|_| stack.len() < self.by_id.len()) {
            if below.id == at.id || below.mount_point != at.mount_point {
                break;
            }
            stack.push(below);
            at = below;
        }
        stack.reverse();
        stack
    }

    /// The lowest of the mounts stacked at the mount point of `top`.
    #[must_use]
    pub fn lowest(&self, top: &'t Mount) -> &'t Mount {
        self.stack(top).first().copied().unwrap_or(top)
    }
}

impl Mount {
    /// Read-only, nosuid, nodev and noexec, from the options.
    #[must_use]
    pub fn attrs(&self) -> MountAttrs {
        let has = |flag: &str| self.options.split(',').any(|o| o == flag);
        MountAttrs { read_only: has("ro"), nosuid: has("nosuid"), nodev: has("nodev"), noexec: has("noexec") }
    }

    /// The directory of the file system that the mount shows at `path`. None: the path isn't beneath the mount point.
    #[must_use]
    pub fn shown_at(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.mount_point).ok()?;
        // `join` with an empty path would add a slash.
        Some(if below.as_os_str().is_empty() { self.root.clone() } else { self.root.join(below) })
    }
}

/// Parses a whole mountinfo file.
#[must_use]
pub fn parse(bytes: &[u8]) -> Table {
    let mut table = Table::default();
    for line in bytes.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
        match parse_line(line) {
            Some(mount) => table.mounts.push(mount),
            None => table.skipped += 1,
        }
    }
    table
}

/// The mount with this id, from a whole mountinfo file. Other lines aren't parsed.
#[must_use]
pub fn parse_one(bytes: &[u8], id: u64) -> Option<Mount> {
    let of = |line: &&[u8]| line.split(|&b| b == b' ').next().and_then(number) == Some(id);
    bytes.split(|&b| b == b'\n').filter(of).find_map(parse_line)
}

/// Parses one line, without its line break. None: it can't be parsed.
#[must_use]
pub fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mut root = unescape(fields.next()?);
    let mount_point = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    let mut propagation = PropagationState::default();
    loop {
        let field = fields.next()?;
        match field {
            b"-" => break,
            b"unbindable" => propagation.unbindable = true,
            _ if field.starts_with(b"shared:") => propagation.peer_group = Some(number(&field[7..])?),
            _ if field.starts_with(b"master:") => propagation.master = Some(number(&field[7..])?),
            // propagate_from:N, and whatever a later kernel adds.
            _ => {}
        }
    }
    // The kernel escapes the type too: a FUSE daemon may choose any.
    let fs_type = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    let source = OsString::from_vec(unescape(fields.next()?));
    let root_deleted = root.ends_with(b"//deleted");
    if root_deleted {
        root.truncate(root.len() - b"//deleted".len());
    }
    Some(Mount {
        id,
        parent,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: PathBuf::from(OsString::from_vec(root)),
        root_deleted,
        mount_point,
        options,
        propagation,
        fs_type,
        source,
    })
}

/// The device of the mount in this line. The rest of the line isn't parsed.
#[must_use]
pub fn device_of_line(line: &[u8]) -> Option<(u32, u32)> {
    let device = std::str::from_utf8(line.split(|&b| b == b' ').nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Decodes the kernel's octal escapes (`\040` for a space). Anything that isn't one stays as it is.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'\\' && tail.len() >= 3 && tail[..3].iter().all(|d| (b'0'..=b'7').contains(d)) && tail[0] <= b'3' {
            out.push((tail[0] - b'0') * 64 + (tail[1] - b'0') * 8 + (tail[2] - b'0'));
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &[u8] = b"\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
40 22 0:35 / /a\\040b rw,nosuid shared:7 master:1 propagate_from:2 later:9 - tmpfs tmp\\011fs rw\n\
41 40 0:36 /x//deleted /a\\040b/c ro unbindable - fuse.x none rw\n\
garbage\n";

    #[test]
    fn one_mount_is_the_same_as_among_all() {
        let text = b"1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n12 1 0:5 / /a\\040b ro master:1 - tmpfs t rw\n";
        let all = parse(text).mounts;
        assert_eq!([1, 12, 2].map(|id| parse_one(text, id)), [Some(all[0].clone()), Some(all[1].clone()), None]);
    }

    #[test]
    fn lines_become_mounts_and_garbage_is_counted() {
        let table = parse(SAMPLE);
        assert_eq!((table.mounts.len(), table.skipped), (3, 1));
        let second = &table.mounts[1];
        assert_eq!(second.mount_point, Path::new("/a b"));
        assert_eq!(second.source, "tmp\tfs");
        assert_eq!(second.propagation, PropagationState { peer_group: Some(7), master: Some(1), unbindable: false });
        let third = &table.mounts[2];
        assert!(third.root_deleted && third.propagation.unbindable);
        assert_eq!(third.root, Path::new("/x"));
    }

    #[test]
    fn beneath_lists_descendants_once() {
        let table = parse(SAMPLE);
        let ids: Vec<u64> = table.beneath(22).iter().map(|m| m.id).collect();
        assert_eq!(ids, [40, 41]);
        let looped = parse(b"1 2 0:1 / / rw - t t rw\n2 1 0:1 / / rw - t t rw\n");
        assert_eq!(looped.beneath(1).len(), 2);
    }

    #[test]
    fn a_path_is_walked_over_mounts_that_are_stacked_and_covered() {
        let table = parse(
            b"1 0 0:1 / / rw - t t rw\n\
              9 1 0:2 / /a rw - t t rw\n\
              3 9 0:3 / /a/b rw - t t rw\n\
              4 9 0:4 /x /a rw - t t rw\n\
              5 4 0:5 / /a/b rw - t t rw\n\
              6 5 0:6 / /a/b rw - t t rw\n",
        );
        let walk = Walk::new(&table);
        let at = |path| walk.mount_at(Path::new(path)).map(|m| m.id);
        assert_eq!(at("/"), Some(1));
        assert_eq!(at("/ab"), Some(1));
        assert_eq!(at("/a/c"), Some(4));
        assert_eq!(at("/a/b/d"), Some(6), "3 is covered by 4, 5 by 6");
        assert_eq!(walk.lowest(&table.mounts[5]).id, 5);
        assert_eq!(table.mounts[3].shown_at(Path::new("/a/c")), Some("/x/c".into()));
        let looped = parse(b"1 0 0:1 / / rw - t t rw\n2 3 0:1 / / rw - t t rw\n3 2 0:1 / / rw - t t rw\n");
        assert_eq!(Walk::new(&looped).mount_at(Path::new("/x")).map(|m| m.id), Some(1));
    }

    #[test]
    fn a_torn_table_is_told_from_a_chrooted_one() {
        let tear = |text: &str| parse(text.as_bytes()).tear();
        assert_eq!(tear(""), None);
        assert_eq!(tear("2 1 0:1 / / rw - t t rw\n3 2 0:1 / /a rw - t t rw\n"), None);
        // The process' root is a plain directory: the mounts in it have one parent that isn't listed.
        assert_eq!(tear("5 2 0:1 / /a rw - t t rw\n6 2 0:1 / /b rw - t t rw\n"), None);
        assert_eq!(tear("2 1 0:1 / / rw - t t rw\n3 9 0:1 / /a rw - t t rw\n"), Some(Tear::Orphans));
        assert_eq!(tear("2 1 0:1 / / rw - t t rw\n2 1 0:1 / / rw - t t rw\n"), Some(Tear::Twice));
    }

    #[test]
    fn a_million_mounts_are_parsed() {
        let mut text = String::from("1 0 0:1 / / rw shared:1 - tmpfs t rw\n");
        for id in 2..=1_000_000 {
            use std::fmt::Write;
            writeln!(text, "{id} 1 0:1 /a\\040b /mnt/{id} rw,relatime shared:{id} master:1 - tmpfs t rw").unwrap();
        }
        // With a quadratic parser this test would not end.
        let table = parse(text.as_bytes());
        assert_eq!((table.mounts.len(), table.skipped, table.tear()), (1_000_000, 0, None));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the kernel's own text is what the parser is for")]
    fn this_process_table_is_understood_whole() {
        let table = parse(&std::fs::read("/proc/self/mountinfo").unwrap());
        assert!(!table.mounts.is_empty());
        assert_eq!(table.skipped, 0);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_name_survives_the_kernels_escaping(name in proptest::collection::vec(1u8.., 1..40)) {
            let mut escaped = Vec::new();
            for &b in &name {
                if matches!(b, b' ' | b'\t' | b'\n' | b'\\' | b'#') {
                    escaped.extend(format!("\\{b:03o}").bytes());
                } else {
                    escaped.push(b);
                }
            }
            prop_assert_eq!(unescape(&escaped), name);
        }
    }
}
