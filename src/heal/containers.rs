//! Heals a volume inside running containers that no mount reaches from outside: by entering their mount namespaces.
//!
//! A private container receives no mounts, and on a directory that was deleted the kernel mounts nothing at all, so an
//! overlay at the target helps neither. Here the new copy is put *beneath* the stale one in the container
//! (`MOVE_MOUNT_BENEATH`, Linux 6.5), which is then unmounted: at no instant does the container see the empty
//! directory that its runtime made for the volume. Only for entries that allow it by name, because this changes what
//! a container was started with.
//!
//! Which namespaces are a pod's is told by the mounts in them: the kubelet gives each container a file of
//! `pods/UID/containers` (its termination log; kubelet_pods.go, makeMounts). No name of a control group has to be guessed.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::note::{Note, Shown};
use crate::observe::OpenSource;
use crate::propagation::PropagationKind;
use crate::site::Site;
use crate::sys::calls::Calls;
use crate::sys::mount::{self, Change, Unmount};
use crate::sys::namespace::{self, MountNamespace};
use crate::sys::stat::{self, MountAttrs};
use crate::sys::{Errno, path};
use crate::tree::mountinfo::{self, Mount, Table, Walk};

/// How often a copy is taken anew because something was mounted or unmounted beneath the source meanwhile: a tree that
/// is not attached yet gets no mount events.
const TRIES: usize = 5;
/// As of the mount threads.
const STACK: usize = 256 * 1024;

/// What running containers may still show, and must not any more.
#[derive(Debug)]
pub struct Stale<'t> {
    top: &'t Mount,
    given: &'t [Shown],
    /// What the source's path leads to now.
    now: Shown,
    /// Peer groups of the mounts at the target, if what is mounted there will reach their members and slaves.
    reached: HashSet<u64>,
    /// The device and directory of what the kubelet keeps for the pod's containers.
    files: ((u32, u32), PathBuf),
}

/// A stale volume in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its id in mountinfo.
    id: u64,
    /// Where it is mounted in the container.
    mount_point: PathBuf,
    /// The directory beneath the source that it shows, for a container with a `subPath`.
    below: PathBuf,
    /// The propagation that the runtime has given it.
    propagation: Option<PropagationKind>,
    /// Its flags, such as `readOnly` of the container alone.
    attrs: MountAttrs,
}

impl<'t> Stale<'t> {
    /// Of the volume at `target`, whose top mount is `top`, where `now` is what it shall show; `covered` says whether a new mount will be put on it.
    /// None if the target is not a pod's, or if another volume of the pod shows the same directory: the two could not
    /// be told from each other in a container.
    #[must_use]
    pub fn of(
        (table, walk): (&'t Table, &Walk<'t>),
        kubelet_dir: &Path,
        (target, top): (&Path, &'t Mount),
        (note, now): (&'t Note, Shown),
        covered: bool,
    ) -> Option<Self> {
        let pod = target.strip_prefix(kubelet_dir).ok()?.iter().take(2).collect::<PathBuf>();
        let pod = kubelet_dir.join(pod);
        let same = |m: &Mount| m.device == top.device && m.root == top.root && m.root_deleted == top.root_deleted;
        if table.mounts.iter().any(|m| same(m) && m.mount_point != target && m.mount_point.starts_with(&pod)) {
            return None;
        }
        let on = walk.mount_at(kubelet_dir)?;
        let files = (on.device, on.shown_at(&pod.join("containers"))?);
        let here = table.mounts.iter().filter(|m| covered && m.mount_point == target);
        let reached = here.filter_map(|m| m.propagation.peer_group).collect();
        Some(Self { top, given: &note.given, now, reached, files })
    }

    /// Whether this is the mount table of one of the pod's containers.
    fn is_of_pod(&self, table: &Table) -> bool {
        table.mounts.iter().any(|m| m.device == self.files.0 && m.root.starts_with(&self.files.1))
    }

    /// Which directory beneath the volume a mount shows, if it shows the volume as it must not be any more.
    fn below<'m>(&self, mount: &'m Mount) -> Option<&'m Path> {
        let beneath = |root: &Path| mount.root.strip_prefix(root).ok();
        if mount.device == self.now.device && !mount.root_deleted && beneath(&self.now.root).is_some() {
            return None;
        }
        if mount.device == self.top.device
            && let Some(below) = beneath(&self.top.root)
            && (mount.root_deleted == self.top.root_deleted || !below.as_os_str().is_empty())
        {
            return Some(below);
        }
        self.given.iter().filter(|given| given.device == mount.device).find_map(|given| beneath(&given.root))
    }

    /// The volumes to replace in a namespace: those that lie on top at their place.
    #[must_use]
    pub fn places(&self, table: &Table) -> Vec<Place> {
        if !self.is_of_pod(table) {
            return Vec::new();
        }
        let walk = Walk::new(table);
        let mut found = Vec::new();
        for mount in &table.mounts {
            let Some(below) = self.below(mount) else { continue };
            let whole = below.as_os_str().is_empty();
            let linked = [mount.propagation.peer_group, mount.propagation.master].into_iter().flatten();
            if (whole && linked.into_iter().any(|group| self.reached.contains(&group)))
                || walk.mount_at(&mount.mount_point).map(|m| m.id) != Some(mount.id)
            {
                continue;
            }
            found.push(Place {
                id: mount.id,
                mount_point: mount.mount_point.clone(),
                below: below.to_owned(),
                propagation: match mount.propagation {
                    p if p.is_shared() && !p.is_slave() => None,
                    p if p.is_slave() => Some(PropagationKind::Slave),
                    _ => Some(PropagationKind::Private),
                },
                attrs: mount.attrs(),
            });
        }
        found
    }
}

/// Replaces what is stale in every container of the pod. How many places were replaced, and what failed, in words.
pub fn replace(site: &Site, stale: &Stale<'_>, source: &OpenSource) -> (usize, Vec<String>) {
    let mut replaced = 0;
    let mut failures = Vec::new();
    for (pid, namespace, table) in namespaces(site) {
        for place in stale.places(&table) {
            match replace_one(site, &namespace, &place, source) {
                Ok(()) => replaced += 1,
                Err(errno) => failures.push(format!(
                    "{} in the container of process {pid} cannot be replaced: {errno}{}",
                    place.mount_point.display(),
                    if errno == Errno::EINVAL { "; entering containers needs Linux 6.5" } else { "" },
                )),
            }
        }
    }
    (replaced, failures)
}

/// Each mount namespace but the caller's and our own, with one of its processes. Those that end meanwhile are left out.
fn namespaces(site: &Site) -> Vec<(i32, MountNamespace, Table)> {
    let proc = &site.proc;
    let mut known: HashSet<u64> = [proc.own_mount_namespace(), proc.thread_mount_namespace()]
        .into_iter()
        .filter_map(|namespace| Some(namespace.ok()?.inode))
        .collect();
    let mut found = HashMap::new();
    for pid in proc.processes().unwrap_or_default() {
        let Ok(namespace) = proc.mount_namespace(pid) else { continue };
        if known.contains(&namespace.inode) {
            continue;
        }
        let Ok(table) = proc.read(&format!("{pid}/mountinfo")) else { continue };
        known.insert(namespace.inode);
        found.insert(namespace.inode, (pid, namespace, mountinfo::parse(&table)));
    }
    found.into_values().collect()
}

fn replace_one(site: &Site, namespace: &MountNamespace, place: &Place, source: &OpenSource) -> Result<(), Errno> {
    let from = if place.below.as_os_str().is_empty() {
        source.fd.try_clone().map_err(|_| Errno::EMFILE)?
    } else {
        path::open_beneath(site.calls, &source.fd, &place.below)?
    };
    let mut id = place.id;
    for _ in 0..TRIES {
        let before = nested(site, &from)?;
        let copy = mount::copy_tree(&from, true)?;
        let change = Change { propagation: place.propagation, attrs: place.attrs };
        if change != Change::default() {
            mount::change(&site.proc, site.calls, &copy, change, true)?;
        }
        id = inside(site, namespace, || swap(site, place, id, &copy))?;
        if place.propagation == Some(PropagationKind::Private) || nested(site, &from)? == before {
            return Ok(());
        }
    }
    Err(Errno::EAGAIN)
}

/// The mounts beneath a directory's mount, by number.
fn nested(site: &Site, at: impl AsFd) -> Result<Vec<u64>, Errno> {
    let id = stat::mount_id(&site.proc, Calls::NONE, at)?;
    let table = mountinfo::parse(&site.proc.mountinfo()?);
    Ok(table.beneath(id).iter().map(|m| m.id).collect())
}

/// Runs in another mount namespace, on a thread of its own that ends with it: a mount thread belongs to the kubelet's.
fn inside<T: Send>(
    site: &Site,
    namespace: &MountNamespace,
    work: impl FnOnce() -> Result<T, Errno> + Send,
) -> Result<T, Errno> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount-container".to_owned()).stack_size(STACK);
        let entered = thread.spawn_scoped(scope, || namespace::enter(&site.proc, namespace).and_then(|()| work()));
        entered.map_err(|_| Errno::EAGAIN)?.join().unwrap_or(Err(Errno::ECANCELED))
    })
}

/// Puts a copy in the place of the mount with this id, in the thread's namespace. The new one's id.
fn swap(site: &Site, place: &Place, id: u64, copy: impl AsFd) -> Result<u64, Errno> {
    let root = path::open_trusted(Path::new("/"))?;
    let way = place.mount_point.strip_prefix("/").map_err(|_| Errno::EINVAL)?;
    let (Some(parent), Some(name)) = (way.parent(), way.file_name()) else { return Err(Errno::EINVAL) };
    let parent = if parent.as_os_str().is_empty() { root } else { path::open_beneath(site.calls, root, parent)? };
    let stale = path::open_child(&parent, name)?;
    // The container's own processes may have moved things since its table was read.
    if stat::mount_id(&site.proc, Calls::NONE, &stale)? != id {
        return Err(Errno::ESTALE);
    }
    mount::move_beneath(copy, &stale)?;
    // What is mounted on it may be a peer of what others have.
    let private = Change { propagation: Some(PropagationKind::Private), ..Change::default() };
    mount::change(&site.proc, site.calls, &stale, private, true)?;
    drop(stale);
    mount::unmount(&parent, name, Unmount::Detach)?;
    stat::mount_id(&site.proc, Calls::NONE, path::open_child(&parent, name)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::mountinfo::parse;

    const TARGET: &str = "/k/pods/u/volumes/kubernetes.io~csi/v/mount";

    fn node(more: &str) -> Table {
        parse(
            format!("1 0 0:1 / / rw shared:1 - ext4 x rw\n9 1 0:7 / {TARGET} rw shared:9 - fuse x rw\n{more}")
                .as_bytes(),
        )
    }

    fn places(node: &Table, container: &str, covered: bool) -> Vec<(u64, PathBuf)> {
        let walk = Walk::new(node);
        let given = vec![Shown { device: (0, 6), root: "/".into() }];
        let note = Note { given, ..crate::note::tests::note() };
        let now = Shown { device: (0, 8), root: "/".into() };
        let target = (Path::new(TARGET), &node.mounts[1]);
        let stale = Stale::of((node, &walk), Path::new("/k"), target, (&note, now), covered);
        let container = parse(container.as_bytes());
        assert_eq!(container.skipped, 0);
        stale.map(|s| s.places(&container)).unwrap_or_default().into_iter().map(|p| (p.id, p.below)).collect()
    }

    const LOG: &str = "2 1 0:1 /k/pods/u/containers/app/1 /dev/termination-log rw - ext4 x rw\n";
    const ROOT: &str = "1 0 0:5 / / rw - overlay x rw\n";

    #[test]
    fn only_what_no_overlay_reaches_is_replaced_and_only_in_the_pods_containers() {
        let private = format!("{ROOT}{LOG}3 1 0:7 / /data ro - fuse x rw\n");
        assert_eq!(places(&node(""), &private, true), [(3, PathBuf::new())]);
        assert_eq!(places(&node(""), &private.replace("pods/u/", "pods/w/"), true), []);
        let slave = format!("{ROOT}{LOG}3 1 0:7 / /data rw master:9 - fuse x rw\n");
        assert_eq!(places(&node(""), &slave, true), []);
        assert_eq!(places(&node(""), &slave, false), [(3, PathBuf::new())]);
        let part = format!("{ROOT}{LOG}3 1 0:7 /a /data rw master:9 - fuse x rw\n");
        assert_eq!(places(&node(""), &part, true), [(3, PathBuf::from("a"))]);
        let given_before = format!("{ROOT}{LOG}3 1 0:6 / /data rw - fuse x rw\n4 1 0:8 / /fresh rw - fuse x rw\n");
        assert_eq!(places(&node(""), &given_before, true), [(3, PathBuf::new())]);
        let covered = format!("{private}4 3 0:8 / /data rw - fuse x rw\n");
        assert_eq!(places(&node(""), &covered, true), []);
    }

    #[test]
    fn two_volumes_of_a_pod_that_show_one_directory_are_left_alone() {
        let container = format!("{ROOT}{LOG}3 1 0:7 / /data rw - fuse x rw\n");
        let other = |pod: &str| format!("10 1 0:7 / /k/pods/{pod}/volumes/kubernetes.io~csi/w/mount rw - fuse x rw\n");
        assert_eq!(places(&node(&other("u")), &container, true), []);
        assert_eq!(places(&node(&other("w")), &container, true), [(3, PathBuf::new())]);
    }
}
