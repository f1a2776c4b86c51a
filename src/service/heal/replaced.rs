//! Decides whether a directory that replaced another one may be followed: only if nobody but root can have put it
//! there.
//!
//! Whoever may write a directory may rename what lies in it, and put another directory there. Pods run as root, so root
//! as the owner proves nothing where a pod may write a directory above. So two conditions must hold. No pod has such a
//! directory by an entry or a volume ([`exposed`]). And nobody but root may write one on the node
//! ([`only_root_writes`]). If either can't be determined, the directory is not followed.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use allowlist::config::{AllowList, Entry};
use allowlist::names::EntryName;
use engine::observe::OpenSource;
use engine::site::Site;
use kernel::path::{self, Permissions};
use kernel::stat::{self, Freshness};
use mounts::mountinfo::{Mount, Table, Walk};
use mounts::propagation::MountPropagation;
use mounts::{DirId, Errno};
use plan::healing::Now;
use plan::layout::Layout;

/// File systems whose owners and modes tell who may write: only those of this kernel. The server of any other one may
/// do as it likes.
const LOCAL: [&str; 10] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "tmpfs", "ramfs"];
/// Local too. But what lies in it also lies in another file system, by which an entry may show it.
const OVERLAY: &str = "overlay";

/// Why a directory that replaced another one is not followed. The text is for the administrator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// Pods may write a directory above it.
    #[error("pods may write a directory above it: the entry {0} shows that, and is not read-only")]
    Entry(EntryName),
    /// A pod has a directory above it, writable.
    #[error("a pod may write a directory above it, which is mounted at {}", .0.display())]
    Volume(PathBuf),
    /// A user other than root may write a directory above it.
    #[error("{} may be written by others than root: {why}", at.display())]
    Writable {
        /// The directory.
        at: PathBuf,
        /// What permits it.
        why: &'static str,
    },
    /// Running containers may still have a directory above it, which a renewed volume showed before.
    #[error("containers of a renewed volume may still have {}: restart them", at.display())]
    Left {
        /// The directory.
        at: PathBuf,
    },
    /// Its own file system, or one above it, doesn't tell who may write.
    #[error("{} is on a file system of the type {fs_type}, whose owners and modes do not tell who may write it", at.display())]
    FileSystem {
        /// Where.
        at: PathBuf,
        /// Its type.
        fs_type: String,
    },
    /// A directory above it can't be examined.
    #[error("{} cannot be looked at: {errno}", at.display())]
    Unknown {
        /// The directory.
        at: PathBuf,
        /// The kernel's error.
        errno: Errno,
    },
    /// Something was renamed or mounted during the examination.
    #[error("the way to it has changed while it was looked at")]
    Changed,
}

/// Whether pods may write a directory above the one that a source's path leads to now. They may by an entry of the
/// allow-list that is not read-only, by a volume of any driver, or by what is mounted in a volume. The decision goes by
/// what mounts show, not by their paths, so `table` must be the whole one.
#[must_use]
pub fn exposed(
    (table, walk): (&Table, &Walk<'_>),
    list: &AllowList,
    layout: &Layout,
    now: &Now<'_>,
) -> Option<Untrusted> {
    // The root of a mount has no name by which it could be replaced.
    let parent = now.shown.parent()?;
    let shows = |device, root: &Path| device == now.mount.device && parent.starts_with(root);
    let mount_shows = |mount: &Mount| shows(mount.device, &mount.root);
    // Mounts that propagate into a read-only volume may be writable.
    let writable = |entry: &&Arc<Entry>| !entry.read_only || entry.ceiling > MountPropagation::None;
    let entry = list.iter().filter(writable).find(|entry| {
        let at = entry.path.as_path();
        Now::at(walk, at).is_some_and(|now| shows(now.mount.device, &now.shown))
            // Each volume of the entry brings the mounts beneath it.
            || table.mounts.iter().any(|mount| mount.mount_point.starts_with(at) && mount_shows(mount))
    });
    if let Some(entry) = entry {
        return Some(Untrusted::Entry(entry.name.clone()));
    }
    let pods = &layout.workloads;
    let volume = table
        .mounts
        .iter()
        .find(|mount| mount.mount_point.starts_with(pods) && !mount.attrs().read_only && mount_shows(mount));
    volume.map(|mount| Untrusted::Volume(mount.mount_point.clone()))
}

/// Checks that nobody but root may write any directory from `/` to the parent of the source at `place`, and returns the
/// parent. Nor may one of them be among those that containers of renewed volumes may still have (`left`). Works in the
/// mount namespace of the calling thread, with mount ids as the site's calls tell them; `walk` has the paths to the
/// source. Follows no symlink, and asks only file systems that answer without a server.
///
/// # Errors
/// [`Untrusted`].
pub fn only_root_writes(site: &Site, walk: &Walk<'_>, place: &Path, left: &[DirId]) -> Result<OwnedFd, Untrusted> {
    let (Some(own), Some(parent)) = (walk.mount_at(place), place.parent()) else { return Err(Untrusted::Changed) };
    let mut way: Vec<&Path> = parent.ancestors().collect();
    way.reverse();
    let mounts = way.iter().map(|at| {
        let mount = walk.mount_at(at).ok_or(Untrusted::Changed)?;
        let fs_type = || mount.fs_type.clone();
        let local = is_local(mount, own.id);
        if local { Ok(mount.id) } else { Err(Untrusted::FileSystem { at: (*at).to_owned(), fs_type: fs_type() }) }
    });
    let mounts: Vec<u64> = mounts.collect::<Result<_, _>>()?;
    let mut open: Option<OwnedFd> = None;
    for (at, mount) in way.into_iter().zip(mounts) {
        let unknown = |errno| Untrusted::Unknown { at: at.to_owned(), errno };
        let dir = match (&open, at.file_name()) {
            (Some(above), Some(name)) => path::open_child(above, name),
            _ => path::open_trusted(Path::new("/")),
        };
        let dir = dir.map_err(unknown)?;
        if site.calls.mount_id(&site.proc, &dir).map_err(unknown)? != mount {
            return Err(Untrusted::Changed);
        }
        let found = stat::directory(&dir, Freshness::Live).map_err(unknown)?;
        if left.contains(&found.id) {
            return Err(Untrusted::Left { at: at.to_owned() });
        }
        let permissions = path::permissions(&dir).map_err(unknown)?;
        if let Some(why) = writable_by(&permissions) {
            return Err(Untrusted::Writable { at: at.to_owned(), why });
        }
        open = Some(dir);
    }
    open.ok_or(Untrusted::Changed)
}

/// Checks that the source's name in `parent`, where only root can change it, leads to the directory that is open.
///
/// # Errors
/// [`Untrusted`].
pub fn leads_to(site: &Site, parent: &OwnedFd, place: &Path, source: &OpenSource) -> Result<(), Untrusted> {
    let unknown = |errno| Untrusted::Unknown { at: place.to_owned(), errno };
    let leads = path::open_child(parent, place.file_name().unwrap_or_default()).map_err(unknown)?;
    let found = stat::directory(&leads, Freshness::Live).map_err(unknown)?;
    let mount = site.calls.mount_id(&site.proc, &leads).map_err(unknown)?;
    let same = (found.id, mount) == (source.source.dir, source.source.mount.id);
    if same { Ok(()) } else { Err(Untrusted::Changed) }
}

/// Whether owners and modes on a mount tell who may write; `own` is the id of the source's mount.
fn is_local(mount: &Mount, own: u64) -> bool {
    let known = LOCAL.contains(&mount.fs_type.as_str()) || (mount.fs_type == OVERLAY && mount.id != own);
    // An idmapped mount shows other owners than the file system has.
    known && !mount.options.split(',').any(|option| option == "idmapped")
}

/// Which users other than root may write a directory. None if there are none.
fn writable_by(permissions: &Permissions) -> Option<&'static str> {
    match permissions {
        Permissions { owner, .. } if *owner != 0 => Some("it is not root's"),
        Permissions { mode, .. } if mode & 0o020 != 0 => Some("by its group, or by whom its ACL names"),
        Permissions { mode, .. } if mode & 0o002 != 0 => Some("by everybody"),
        Permissions { acl: Some(acl), .. } if acl_names_a_writer(acl) => Some("its ACL names somebody"),
        Permissions { .. } => None,
    }
}

/// Whether an access ACL (`system.posix_acl_access`; include/uapi/linux/posix_acl_xattr.h) lets anybody but the owner
/// write, whatever its mask is now. True for an ACL that can't be parsed.
fn acl_names_a_writer(acl: &[u8]) -> bool {
    const VERSION: u32 = 2;
    const USER_OBJ: u16 = 0x01;
    const MASK: u16 = 0x10;
    const WRITE: u16 = 0x02;
    let Some((version, entries)) = acl.split_first_chunk::<4>() else { return true };
    let (entries, rest) = entries.as_chunks::<8>();
    let writes = |[tag0, tag1, perm0, perm1, ..]: &[u8; 8]| {
        let (tag, perm) = (u16::from_le_bytes([*tag0, *tag1]), u16::from_le_bytes([*perm0, *perm1]));
        perm & WRITE != 0 && tag != USER_OBJ && tag != MASK
    };
    u32::from_le_bytes(*version) != VERSION || !rest.is_empty() || entries.iter().any(writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use allowlist::names::AbsPath;
    use mounts::mountinfo::parse;

    fn table(lines: &[&str]) -> Table {
        let table = parse(lines.join("\n").as_bytes());
        assert_eq!(table.skipped, 0, "{lines:?}");
        table
    }

    /// What exposes a directory above `/srv/parent/b`, by these entries or mounts.
    fn found(entries: &str, mounts: &[&str]) -> Option<Untrusted> {
        let lines = [&["1 0 8:1 / / rw - ext4 x rw"], mounts].concat();
        let table = table(&lines);
        let walk = Walk::new(&table);
        let list = format!("entries: [{{name: b, path: /srv/parent/b}}{entries}]");
        let list = AllowList::parse(&list, &AbsPath::parse("/k").unwrap()).unwrap_or_else(|e| panic!("{e}"));
        exposed((&table, &walk), &list, &crate::fixture::layout(), &Now::at(&walk, Path::new("/srv/parent/b")).unwrap())
    }

    #[test]
    fn an_entry_that_shows_a_directory_above_exposes_it_whatever_its_path() {
        let entry = |name: &str| Some(Untrusted::Entry(EntryName::parse(name).unwrap()));
        assert_eq!(found("", &[]), None, "its own entry shows it, and nothing above");
        for path in ["/srv/parent", "/srv"] {
            let above = format!(", {{name: a, path: {path}, overlaps: [b]}}");
            assert_eq!(found(&above, &[]), entry("a"), "{path}");
            assert_eq!(found(&above.replace("overlaps", "readOnly: true, overlaps"), &[]), None, "{path}");
            let warned = "readOnly: true, propagation: HostToContainer, overlaps";
            assert_eq!(found(&above.replace("overlaps", warned), &[]), entry("a"), "mounts in it may be written");
        }
        // By a bind mount of the directory or of one above it, at the entry or beneath it.
        let other = ", {name: a, path: /other}";
        assert_eq!(found(other, &["2 1 8:1 /elsewhere /other rw - ext4 x rw"]), None);
        assert_eq!(found(other, &["2 1 8:1 /srv /other rw - ext4 x rw"]), entry("a"));
        assert_eq!(found(other, &["2 1 8:1 /srv/parent /other/deep/in rw - ext4 x rw"]), entry("a"));
        assert_eq!(found(other, &["2 1 8:1 / /mnt rw - ext4 x rw"]), None);
    }

    #[test]
    fn a_volume_that_a_pod_has_of_a_directory_above_exposes_it() {
        let at = "/k/pods/u/volumes/kubernetes.io~csi/v/mount";
        let volume = |root: &str, options: &str| found("", &[&format!("2 1 8:1 {root} {at} {options} - ext4 x rw")]);
        assert_eq!(volume("/srv/parent", "rw"), Some(Untrusted::Volume(at.into())));
        assert_eq!(volume("/", "rw,nosuid"), Some(Untrusted::Volume(at.into())));
        assert_eq!(volume("/srv/parent", "ro"), None);
        assert_eq!(volume("/srv/parent/b", "rw"), None, "its own");
        assert_eq!(volume("/srv/par", "rw"), None);
    }

    #[test]
    fn owners_and_modes_are_believed_on_local_file_systems_only() {
        let local = |fs_type: &str, options: &str| {
            let table = table(&[&format!("1 0 8:1 / / {options} - {fs_type} x rw")]);
            [2, 1].map(|own| is_local(&table.mounts[0], own))
        };
        for fs_type in ["ext4", "xfs", "tmpfs"] {
            assert_eq!(local(fs_type, "rw"), [true, true], "{fs_type}");
            assert_eq!(local(fs_type, "rw,idmapped"), [false, false], "{fs_type}");
        }
        assert_eq!(local("overlay", "rw"), [true, false]);
        for fs_type in ["fuse", "fuseblk", "fuse.ext4", "fuse.sshfs", "nfs4", "cifs", "9p", "virtiofs", "ceph"] {
            assert_eq!(local(fs_type, "rw"), [false, false], "{fs_type}");
        }
    }

    #[test]
    fn whoever_but_root_may_write_is_found() {
        let acl = |entries: &[(u16, u16)]| -> Vec<u8> {
            let entry = |(tag, perm): &(u16, u16)| [&tag.to_le_bytes()[..], &perm.to_le_bytes()[..], &[0; 4]].concat();
            2_u32.to_le_bytes().into_iter().chain(entries.iter().flat_map(entry)).collect()
        };
        let reads = acl(&[(1, 7), (2, 5), (4, 5), (0x10, 7), (0x20, 5)]);
        let root = |mode, acl| Permissions { owner: 0, mode, acl };
        assert_eq!(writable_by(&root(0o755, None)), None);
        assert_eq!(writable_by(&root(0o755, Some(reads.clone()))), None);
        for writable in [
            Permissions { owner: 2000, ..root(0o700, None) },
            root(0o775, None),
            root(0o1777, None),
            // The mask forbids it, for now.
            root(0o755, Some(acl(&[(1, 7), (2, 7), (4, 5), (0x10, 5), (0x20, 5)]))),
            root(0o755, Some(acl(&[(1, 7), (8, 2)]))),
            root(0o755, Some(reads[..reads.len() - 1].to_vec())),
            root(0o755, Some(vec![])),
        ] {
            assert!(writable_by(&writable).is_some(), "{writable:?}");
        }
    }
}
