//! Whether a container runtime can map the owners of a volume's files, as pods with `hostUsers: false` need. Pure.
//!
//! Such a pod has its own user namespace, which the node's users aren't part of. The kubelet makes the runtime mount
//! each volume id-mapped (mount_setattr(2), `MOUNT_ATTR_IDMAP`). Runtimes map the top mount only, so files of nested
//! mounts belong to nobody (65534) in the pod. If the top mount can't be mapped, no container starts, and the error
//! names neither volume nor reason.
//!
//! The kernel can't be asked beforehand. It wants a user namespace with a mapping, and writing one takes `CAP_SETUID`
//! and `CAP_SETFCAP` (user_namespaces(7)), which the plugin lacks. Without a mapping every file system answers EINVAL.

use std::path::Path;

use mounts::mountinfo::Table;

/// The file systems whose mounts can be mapped (`FS_ALLOW_IDMAP` in Linux 6.18, and ZFS 2.2). FUSE is left out on
/// purpose: the kernel has the flag, but it counts only if the FUSE server asked for it, which can't be seen.
const MAPPABLE: [&str; 13] =
    ["bcachefs", "btrfs", "ceph", "erofs", "ext4", "f2fs", "msdos", "ntfs3", "squashfs", "tmpfs", "vfat", "xfs", "zfs"];

/// Why the owners of a volume's files can't be mapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMappable {
    /// The file system doesn't allow it.
    #[error(
        "the pod has hostUsers: false, so its runtime has to map the owners of the volume's files, which it cannot on the \
         file system {0:?}: take a directory on {list}, or remove hostUsers: false from the pod",
        list = MAPPABLE.join(", ")
    )]
    FileSystem(String),
    /// The mount is id-mapped already.
    #[error(
        "the pod has hostUsers: false, so its runtime has to map the owners of the volume's files, which are mapped on the \
         node already (X-mount.idmap): take a directory of an ordinary mount, or remove hostUsers: false from the pod"
    )]
    Mapped,
    /// The volume has nested mounts.
    #[error(
        "the pod has hostUsers: false, and other file systems are mounted in the volume's directory ({0} of them): their \
         files would belong to nobody (65534) in the pod, as runtimes map the owners of the volume's own file system \
         only; take a directory without mounts in it, or remove hostUsers: false from the pod"
    )]
    Mounts(usize),
}

/// Whether the directory `source` on the mount `id` can be given to a pod with `hostUsers: false`. None: the table
/// doesn't have that mount, as when it changed while it was read.
#[must_use]
pub fn judge(table: &Table, id: u64, source: &Path) -> Option<Result<(), NotMappable>> {
    let mount = table.mounts.iter().find(|m| m.id == id)?;
    // `fuse.sshfs`: the type, then a subtype that the FUSE server chose.
    let fs_type = mount.fs_type.split('.').next().unwrap_or_default();
    let inside = || table.mounts.iter().filter(|m| m.parent == id && m.id != id && m.mount_point.starts_with(source));
    Some(if !MAPPABLE.contains(&fs_type) {
        Err(NotMappable::FileSystem(fs_type.to_owned()))
    } else if mount.options.split(',').any(|option| option == "idmapped") {
        Err(NotMappable::Mapped)
    } else {
        match inside().count() {
            0 => Ok(()),
            mounts => Err(NotMappable::Mounts(mounts)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mounts::mountinfo;

    const TABLE: &[u8] = b"\
20 1 8:1 / / rw - ext4 /dev/a rw\n\
21 20 8:2 / /disk rw,relatime - xfs /dev/b rw\n\
22 21 8:3 / /disk/in\\040it/deep ro - tmpfs t rw\n\
23 22 8:3 / /disk/in\\040it/deep/er ro - tmpfs t rw\n\
24 20 0:9 / /fuse rw - fuse.sshfs a:/b rw\n\
25 20 0:8 / /mapped rw,idmapped - tmpfs t rw\n\
26 20 0:7 / /share rw - nfs4 a:/b rw\n";

    fn at(id: u64, source: &str) -> Option<Result<(), NotMappable>> {
        judge(&mountinfo::parse(TABLE), id, Path::new(source))
    }

    #[test]
    fn a_directory_of_a_mappable_file_system_without_mounts_in_it_is_taken() {
        assert_eq!(at(21, "/disk/other"), Some(Ok(())));
        assert_eq!(at(21, "/disk/in"), Some(Ok(())), "a part of a name is no directory");
        assert_eq!(at(22, "/disk/in it/deep/empty"), Some(Ok(())));
        assert_eq!(at(20, "/srv"), Some(Ok(())));
    }

    #[test]
    fn what_cannot_be_mapped_is_refused_by_name() {
        let refused = |id, source| at(id, source).unwrap().unwrap_err();
        assert_eq!(refused(24, "/fuse"), NotMappable::FileSystem("fuse".into()));
        assert_eq!(refused(26, "/share/x"), NotMappable::FileSystem("nfs4".into()));
        assert!(refused(26, "/share/x").to_string().contains("\"nfs4\": take a directory on bcachefs, btrfs"));
        assert_eq!(refused(25, "/mapped"), NotMappable::Mapped);
        for source in ["/disk", "/disk/in it", "/disk/in it/deep"] {
            assert_eq!(refused(21, source), NotMappable::Mounts(1), "{source}");
        }
        assert_eq!(refused(20, "/"), NotMappable::Mounts(4));
    }

    #[test]
    fn of_a_mount_that_the_table_lacks_nothing_is_said() {
        assert_eq!(at(99, "/disk"), None);
    }
}
