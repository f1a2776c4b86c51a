//! Makes a mount in a volume, and checks for one: on the node and in containers.

use std::path::Path;
use std::{fs, io};

use mounts::mountinfo::{self, Table};
use mounts::propagation::PropagationState;
use nix::mount::{MsFlags, mount};

/// A file in each mount, which distinguishes it from the empty directory beneath.
const MARKER: &str = "made";

/// The calling process' mount table.
///
/// # Errors
/// What reading `/proc` says.
pub fn table() -> io::Result<Table> {
    Ok(mountinfo::parse(&fs::read("/proc/self/mountinfo")?))
}

/// Mounts a small tmpfs.
///
/// # Errors
/// What mount(2) says.
pub fn tmpfs(at: &Path, options: &str) -> io::Result<()> {
    mount(Some("hostmount-try"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).map_err(Into::into)
}

/// Mounts a tmpfs on the directory `name` of a volume, with a file in it.
///
/// # Errors
/// What mount(2) or writing the file says.
pub fn make(volume: &Path, name: &str) -> io::Result<()> {
    let place = volume.join(name);
    tmpfs(&place, "mode=0755,size=64k")?;
    fs::write(place.join(MARKER), name)
}

/// Whether the mount `name` is there, by the kernel's table and by the file in it.
///
/// # Errors
/// If the two contradict each other.
pub fn sees(volume: &Path, name: &str) -> io::Result<bool> {
    let place = volume.join(name);
    let listed = table()?.mounts.iter().any(|m| m.mount_point == place);
    let marked = fs::read(place.join(MARKER)).is_ok_and(|text| text == name.as_bytes());
    if listed == marked {
        Ok(listed)
    } else {
        Err(io::Error::other(format!(
            "{} is listed as a mount: {listed}; its file is there: {marked}",
            place.display()
        )))
    }
}

/// The kernel's flags of the mount at a path: of the topmost, if several are stacked.
///
/// # Errors
/// If nothing is mounted there.
pub fn flags(at: &Path) -> io::Result<PropagationState> {
    let found = table()?.mounts.iter().rev().find(|m| m.mount_point == at).map(|m| m.propagation);
    found.ok_or_else(|| io::Error::other(format!("nothing is mounted at {}", at.display())))
}
