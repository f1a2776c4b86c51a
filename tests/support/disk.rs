//! A file system that keeps what the plugin notes beside its volumes, for a node's directories.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kernel::path::set_attribute;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A directory on a disk, for kernels whose tmpfs keeps no attributes. tests/kernels/run sets it.
const DISK: &str = "HOSTMOUNT_TEST_DISK";

/// Where a tmpfs is mounted, it stays if it keeps attributes of the kind `user`, as it does since Linux 6.6. On an older
/// kernel an empty directory of a disk takes its place: the kubelet's own is on a disk as well.
pub(crate) fn instead_of_tmpfs(at: &Path) {
    let tried = at.join("attributes");
    fs::create_dir(&tried).unwrap();
    let set = set_attribute(File::open(&tried).unwrap(), c"user.hostmount.test", b"");
    fs::remove_dir(&tried).unwrap();
    let Err(errno) = set else { return };
    assert_eq!(errno, Errno::ENOTSUP, "attributes on a tmpfs");
    let lack = "tmpfs keeps no attributes here, which takes Linux 6.6";
    let disk = std::env::var_os(DISK).unwrap_or_else(|| panic!("{lack}: {DISK} has to name a directory on a disk"));
    println!("{lack}: the node's directories are on {}", disk.display());
    umount2(at, MntFlags::MNT_DETACH).unwrap();
    let own = tempfile::tempdir_in(&disk).unwrap().keep();
    fs::set_permissions(&own, Permissions::from_mode(0o1777)).unwrap();
    mount(Some(&own), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}
