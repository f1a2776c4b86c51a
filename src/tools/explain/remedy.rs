//! Describes the missing link, and how to make it: a command, or a field of the Pod. Pure.
//!
//! The kernel links mounts when they are copied. Later, no command makes a private mount the slave or peer of another
//! (move_mount(2) with `MOVE_MOUNT_SET_GROUP`, Linux 5.15, is for restoring checkpoints). So a remedy always names the copy
//! that must be recreated.

use std::path::Path;

use model::machine::{Machine, Namespace};
use mounts::mountinfo::Mount;
use text::{quoted, visible};

use super::index::Index;
use super::judge::{MissingLink, Stopped};

/// The missing link, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The missing link.
    pub missing: String,
    /// What to do.
    pub remedy: String,
}

/// What the kubelet's path of a pod's volume says: `.../pods/UID/volumes/PLUGIN/NAME`, of a CSI volume with `/mount` at
/// its end (kubelet, pkg/volume/csi `getTargetPath`).
fn volume_of_target(path: &Path) -> Option<&str> {
    let names: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    match names.as_slice() {
        [.., "pods", _, "volumes", "kubernetes.io~csi", name, "mount"] | [.., "pods", _, "volumes", _, name] => {
            Some(name)
        }
        _ => None,
    }
}

/// A mount as people find it: its mount point, and where.
fn named(machine: &Machine, index: &Index<'_>, id: u64) -> String {
    match index.get(id) {
        Some((number, mount)) => {
            let label = machine.namespaces.get(number).map(Namespace::label).unwrap_or_default();
            let place = visible(mount.mount_point.as_os_str());
            match volume_of_target(&mount.mount_point) {
                Some(volume) => format!("{place} ({label}: target of volume {})", visible(volume)),
                None => format!("{place} ({label})"),
            }
        }
        None => format!("mount {id}"),
    }
}

/// A command to run in a mount namespace.
fn in_namespace(namespace: &Namespace, command: &str) -> String {
    match namespace.processes.first() {
        Some(first) if first.pid == 1 => command.to_owned(),
        Some(first) => format!("nsenter --target {} --mount -- {command}", first.pid),
        None => format!("{command} (in mnt:[{}])", namespace.inode),
    }
}

/// Describes the missing link and the remedy.
#[must_use]
pub fn advise(machine: &Machine, index: &Index<'_>, origin: u64, stopped: &Stopped) -> Advice {
    let name = |id| named(machine, index, id);
    let missing = match stopped.link {
        MissingLink::OriginPrivate => format!("{} is private: it passes nothing on", name(origin)),
        MissingLink::OriginSlave { master } => {
            format!("{} is a slave (of {master}) and not shared: it receives, and passes nothing on", name(origin))
        }
        MissingLink::Upwards { slave, master } => {
            format!("{} is a slave of peer group {master}: events go down to it, and not up", name(slave))
        }
        MissingLink::Private { mount } => format!("{} is private: it receives nothing", name(mount)),
        MissingLink::Apart { mount, group } => {
            format!(
                "{} is in peer group {group}, which has no master: it isn't linked with {}",
                name(mount),
                name(origin)
            )
        }
        MissingLink::Bound { mount } => {
            format!(
                "{} was bound from it: an unmount goes along what mounts lie on, not along their copies",
                name(mount)
            )
        }
        MissingLink::VolumeCount { mount } => {
            format!("{} has other mounts inside it, or is locked by a user namespace", name(mount))
        }
        MissingLink::Unseen { mount, master } => {
            format!("{} receives from peer group {master}, of which no mount could be seen", name(mount))
        }
    };
    let remedy = match stopped.link {
        MissingLink::OriginPrivate | MissingLink::OriginSlave { .. } => share(machine, index, origin),
        MissingLink::Upwards { slave, master } => upwards(machine, index, slave, master),
        MissingLink::Private { mount } | MissingLink::Apart { mount, .. } => receive(machine, index, origin, mount),
        MissingLink::Bound { mount } => let_go(machine, index, mount),
        MissingLink::VolumeCount { mount } => {
            let there = there(machine, index, mount);
            there.map_or_else(String::new, |(namespace, at)| {
                in_namespace(namespace, &format!("umount --recursive {}", quoted(&at.mount_point)))
            })
        }
        MissingLink::Unseen { .. } => "run it as root on the node, so that all namespaces can be read".to_owned(),
    };
    Advice { missing, remedy }
}

fn there<'m>(machine: &'m Machine, index: &Index<'m>, id: u64) -> Option<(&'m Namespace, &'m Mount)> {
    let (number, mount) = index.get(id)?;
    Some((machine.namespaces.get(number)?, mount))
}

/// The field of a container in a Pod.
fn field(namespace: &Namespace, mount: &Mount, value: &str) -> String {
    let container = namespace.container.as_ref().and_then(|container| container.name.as_deref());
    let container = container.map_or_else(String::new, |name| format!("container {name}, "));
    let place = visible(mount.mount_point.as_os_str());
    format!(
        "in the Pod, {container}volumeMounts[] with mountPath {place}: mountPropagation: {value}; create the pod anew"
    )
}

/// How to make the event's mount pass events on.
fn share(machine: &Machine, index: &Index<'_>, origin: u64) -> String {
    let Some((namespace, mount)) = there(machine, index, origin) else { return String::new() };
    if namespace.pod.is_some() && mount.mount_point != Path::new("/") {
        return field(namespace, mount, "Bidirectional") + " (the container must be privileged)";
    }
    let command = format!("mount --make-shared {}", quoted(&mount.mount_point));
    format!("{}; then make the copies anew, for those that exist stay apart from it", in_namespace(namespace, &command))
}

fn upwards(machine: &Machine, index: &Index<'_>, slave: u64, master: u64) -> String {
    let Some((namespace, mount)) = there(machine, index, slave) else { return String::new() };
    if namespace.pod.is_some() && mount.mount_point != Path::new("/") {
        return field(namespace, mount, "Bidirectional") + " (the container must be privileged)";
    }
    // The kubelet's target is a slave of the node's directory because the pod asked for no more.
    if volume_of_target(&mount.mount_point).is_some() {
        return "in the Pod, volumeMounts[] of this volume: mountPropagation: Bidirectional; create the pod anew"
            .to_owned();
    }
    match index.members(master).iter().find_map(|&id| there(machine, index, id)) {
        Some((above, upper)) => {
            let place = visible(upper.mount_point.as_os_str());
            format!("mount beneath {place} in {} instead: from there it comes down", above.label())
        }
        None => "mount it in the namespace above instead: from there it comes down".to_owned(),
    }
}

/// How a copy goes along.
fn let_go(machine: &Machine, index: &Index<'_>, mount: u64) -> String {
    let Some((namespace, at)) = there(machine, index, mount) else { return String::new() };
    if namespace.pod.is_some() || volume_of_target(&at.mount_point).is_some() {
        return "give pods the directory that contains the mount instead of the mount itself".to_owned();
    }
    in_namespace(namespace, &format!("umount {}", quoted(&at.mount_point)))
}

/// How to make a mount receive the events of the event's mount.
fn receive(machine: &Machine, index: &Index<'_>, origin: u64, mount: u64) -> String {
    let Some((namespace, at)) = there(machine, index, mount) else { return String::new() };
    if let Some(volume) = volume_of_target(&at.mount_point) {
        return format!(
            "in the Pod, volumeMounts[] of volume {}: mountPropagation: HostToContainer (or Bidirectional); create the \
             pod anew",
            visible(volume)
        );
    }
    if namespace.pod.is_some() {
        return field(namespace, at, "HostToContainer");
    }
    if namespace.container.is_some() {
        return format!(
            "start the container anew with the mount at {} as rslave: --mount type=bind,bind-propagation=rslave,...",
            visible(at.mount_point.as_os_str())
        );
    }
    let source = there(machine, index, origin);
    match source {
        Some((from, upper)) if std::ptr::eq(from, namespace) => {
            let (place, upper) = (quoted(&at.mount_point), quoted(&upper.mount_point));
            let command = format!("umount {place} && mount --rbind {upper} {place}");
            format!("bind it anew: {}", in_namespace(namespace, &command))
        }
        _ => "start its process anew in a namespace that receives: unshare --mount --propagation slave (systemd: \
              MountFlags=slave)"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::tests::machine;
    use super::super::judge::{Spot, explain};
    use super::*;
    use model::subtrees::Forest;

    fn advice(namespace: usize, path: &str) -> Vec<Advice> {
        let machine = machine();
        let index = Index::new(&machine);
        let spot = Spot { namespace, path: path.into() };
        let found = explain(&index, &Forest::of(&machine), machine.namespaces.len(), &spot).unwrap();
        found.stopped.iter().map(|stopped| advise(&machine, &index, found.origin, stopped)).collect()
    }

    #[test]
    fn a_volume_that_was_bound_privately_is_mended_in_the_pod() {
        let all = advice(0, "/src/disk");
        assert!(all[1].missing.contains("target of volume v") && all[1].missing.contains("no master"), "{all:?}");
        assert!(all[1].remedy.contains("mountPropagation: HostToContainer"), "{all:?}");
    }

    #[test]
    fn a_container_that_only_receives_is_told_bidirectional() {
        let all = advice(1, "/data/x");
        assert!(all[1].missing.starts_with("/data (pod ns/slave, slave) is a slave of peer group 4"), "{all:?}");
        assert!(all[1].remedy.contains("container slave, volumeMounts[] with mountPath /data: mountPropagation: Bid"));
        assert!(all[0].remedy.contains("Bidirectional"), "{all:?}");
    }

    #[test]
    fn a_private_mount_of_the_node_is_shared_by_a_command() {
        let all = advice(0, "/priv/x");
        assert_eq!(all[0].missing, "/priv (node) is private: it passes nothing on");
        assert!(all[0].remedy.starts_with("mount --make-shared /priv; then"), "{all:?}");
        let all = advice(0, "/x");
        assert!(all[0].remedy.contains("unshare --mount --propagation slave"), "{all:?}");
    }

    #[test]
    fn targets_of_volumes_are_known_by_their_path() {
        let of = |path: &str| volume_of_target(Path::new(path)).map(str::to_owned);
        assert_eq!(of("/k/pods/u/volumes/kubernetes.io~csi/v/mount").as_deref(), Some("v"));
        assert_eq!(of("/k/pods/u/volumes/kubernetes.io~empty-dir/cache").as_deref(), Some("cache"));
        assert_eq!(of("/k/pods/u/volumes"), None);
    }
}
