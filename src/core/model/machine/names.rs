//! Finds the container and pod of a mount namespace, from cgroups and from the kubelet's paths. Pure.
//!
//! A cgroup's path holds the runtime's container id and the pod's uid; the form depends on runtime and cgroup driver.
//! The files that the kubelet mounts into each container have the pod's uid and the container's name in their paths.
//! The kubelet's log directories have the pod's name. Nothing is guessed from host names or command lines.

use std::ffi::OsStr;
use std::path::{Component, Path};

use mounts::mountinfo::Table;

use super::Pod;

/// The container and pod in a cgroup's path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// The runtime's container id.
    pub container: Option<String>,
    /// The pod's uid.
    pub pod: Option<String>,
}

/// The pod and container in the paths of the kubelet's files in a container's mount table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeletFiles {
    /// The pod's uid.
    pub pod: Option<String>,
    /// The container's name in its pod.
    pub container: Option<String>,
}

/// Parses `/proc/PID/cgroup`: a line `NUMBER:CONTROLLERS:PATH` for each hierarchy; with cgroup v2 a single line
/// (cgroups(7)). The first line with a container or pod counts: all lines name the same.
#[must_use]
pub fn group(file: &str) -> Group {
    file.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .map(group_of_path)
        .find(|group| group.container.is_some() || group.pod.is_some())
        .unwrap_or_default()
}

/// The innermost container and pod in a cgroup's path. Innermost, because a node may itself be a container.
fn group_of_path(path: &str) -> Group {
    let mut group = Group::default();
    let mut in_kubernetes = false;
    for part in path.split('/') {
        in_kubernetes |= part.contains("kubepods");
        // runc with the cgroupfs driver but a systemd-style cgroup name: `SLICE:PREFIX:ID`.
        for part in part.split(':') {
            if let Some(uid) = pod_of_part(part, in_kubernetes) {
                group = Group { container: None, pod: Some(uid) };
            } else if let Some(id) = container_of_part(part) {
                group.container = Some(id.to_owned());
            }
        }
    }
    group
}

/// The container whose cgroup this is: `ID`, or `PREFIX-ID.scope` with the runtime's prefix (cri-containerd, crio,
/// docker, libpod, nerdctl). All ids have 64 hexadecimal digits. The cgroups of Podman's and CRI-O's monitors (conmon)
/// bear their container's id too, but the monitors aren't in the container.
fn container_of_part(part: &str) -> Option<&str> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let (prefix, id) = name.rsplit_once('-').unwrap_or(("", name));
    let is_id = id.len() == 64 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (is_id && !prefix.ends_with("conmon")).then_some(id)
}

/// The pod whose cgroup this is. The cgroupfs driver names it `podUID`, the systemd driver `kubepods-QOS-podUID.slice`.
/// A slice's name can't hold a `-` of the uid, so it has `_` there (kubelet, pkg/kubelet/cm: cgroup_manager_linux.go).
fn pod_of_part(part: &str, in_kubernetes: bool) -> Option<String> {
    if !in_kubernetes {
        return None;
    }
    let uid = match part.strip_suffix(".slice") {
        Some(name) => name.rsplit_once("-pod")?.1.replace('_', "-"),
        None => part.strip_prefix("pod")?.to_owned(),
    };
    is_uid(&uid).then_some(uid)
}

/// Whether this is a pod's uid: a UUID, or for a static pod a hash of its manifest (32 digits).
fn is_uid(text: &str) -> bool {
    matches!(text.len(), 32 | 36) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// The pod and container of a container's mount table. The kubelet mounts `pods/UID/etc-hosts` into each container, and
/// for the termination message a file `pods/UID/containers/NAME/HASH` (kubelet_pods.go, makeMounts). A table with such
/// mounts of several pods, such as the node's, has no result.
#[must_use]
pub fn kubelet_files(table: &Table) -> KubeletFiles {
    let mut found = KubeletFiles::default();
    for mount in &table.mounts {
        let Some((uid, container)) = kubelet_file(&mount.root) else { continue };
        if found.pod.as_deref().is_some_and(|known| known != uid) {
            return KubeletFiles::default();
        }
        found.pod.get_or_insert_with(|| uid.to_owned());
        if let Some(name) = container {
            found.container.get_or_insert_with(|| name.to_owned());
        }
    }
    found
}

fn kubelet_file(root: &Path) -> Option<(&str, Option<&str>)> {
    // Most mounts are none of the kubelet's: reject them cheaply.
    if root.as_os_str().len() < 40 {
        return None;
    }
    let mut parts = root.components().rev().map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    let last = parts.next()??;
    let second = parts.next()??;
    if last == "etc-hosts" {
        return (is_uid(second) && parts.next()?? == "pods").then_some((second, None));
    }
    if parts.next()?? != "containers" {
        return None;
    }
    let uid = parts.next()??;
    (is_uid(uid) && parts.next()?? == "pods").then_some((uid, Some(second)))
}

/// The pod of a directory in `/var/log/pods`, which is named `NAMESPACE_NAME_UID` (kubelet, kuberuntime:
/// BuildPodLogsDirectory). None of the three can contain a `_`.
#[must_use]
pub fn log_directory(name: &OsStr) -> Option<Pod> {
    let mut parts = name.to_str()?.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || namespace.is_empty() || name.is_empty() || !is_uid(uid) {
        return None;
    }
    Some(Pod { uid: uid.to_owned(), name: Some((namespace.to_owned(), name.to_owned())) })
}

/// The inode of the namespace that a mount of nsfs keeps alive: its root is `mnt:[INODE]` (nsfs's d_dname).
#[must_use]
pub fn kept_namespace(fs_type: &str, root: &Path) -> Option<u64> {
    if fs_type == "nsfs" { namespace_link(root.as_os_str()) } else { None }
}

/// The inode in a link of `/proc/PID/ns`: `mnt:[INODE]`.
#[must_use]
pub fn namespace_link(text: &OsStr) -> Option<u64> {
    text.to_str()?.strip_prefix("mnt:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use mounts::mountinfo;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "28c6b84f-4b17-4bac-9ca4-c7c794ebfefc";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";

    fn found(path: &str) -> (Option<String>, Option<String>) {
        let path = path.replace("ID", ID).replace("UUU", UID).replace("U_U", &UID.replace('-', "_"));
        let group = group(&format!("0::{path}\n"));
        (group.container, group.pod)
    }

    #[test]
    fn every_runtime_and_driver_names_its_containers() {
        for path in [
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_U.slice/cri-containerd-ID.scope",
            "/kubepods.slice/kubepods-podU_U.slice/crio-ID.scope",
            "/kubepods.slice/kubepods-podU_U.slice/crio-ID.scope/container",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_U.slice/docker-ID.scope/init.scope",
            "/kubepods/besteffort/podUUU/ID",
            "/kubepods/podUUU/ID",
            "/system.slice/containerd.service/kubepods-burstable-podU_U.slice:cri-containerd:ID",
            "/../../kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU_U.slice/cri-containerd-ID.scope",
        ] {
            assert_eq!(found(path), (Some(ID.into()), Some(UID.into())), "{path}");
        }
        for path in [
            "/system.slice/docker-ID.scope",
            "/docker/ID",
            "/machine.slice/libpod-ID.scope",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            "/libpod_parent/libpod-ID",
        ] {
            assert_eq!(found(path), (Some(ID.into()), None), "{path}");
        }
        for path in [
            "/",
            "/init.scope",
            "/system.slice/kubelet.service",
            "/machine.slice/libpod-conmon-ID.scope",
            "/kubepods.slice/kubepods-podX.slice",
            "/podUUU/x",
            "/user.slice/pod-tools.slice",
            "/docker/0123",
        ] {
            assert_eq!(found(path), (None, None), "{path}");
        }
    }

    #[test]
    fn the_innermost_counts_where_a_node_is_a_container() {
        let outer = "f".repeat(64);
        let path = format!("/docker/{outer}/kubelet/kubepods/burstable/podUUU/ID");
        assert_eq!(found(&path), (Some(ID.into()), Some(UID.into())));
        assert_eq!(found(&format!("/docker/{outer}/init.scope")), (Some(outer.clone()), None));
        assert_eq!(found(&format!("/docker/{outer}/kubepods/podUUU")), (None, Some(UID.into())), "no container of it");
        assert_eq!(found(&format!("/kubepods/pod{STATIC}/ID")), (Some(ID.into()), Some(STATIC.into())));
    }

    #[test]
    fn with_the_old_hierarchies_the_line_that_names_one_counts() {
        let file = format!("12:pids:/user.slice\n11:cpu,cpuacct:/kubepods/pod{UID}/{ID}\n1:name=systemd:/\n0::/x\n");
        assert_eq!(group(&file), Group { container: Some(ID.into()), pod: Some(UID.into()) });
        assert_eq!(group("garbage\n\n1:2\n"), Group::default());
    }

    #[test]
    fn the_kubelets_files_name_pod_and_container() {
        let line = |id: u32, root: &str, at: &str| format!("{id} 1 8:1 {root} {at} rw - ext4 /dev/sda1 rw\n");
        let hosts = line(2, &format!("/var/lib/kubelet/pods/{UID}/etc-hosts"), "/etc/hosts");
        let message = line(3, &format!("/pods/{UID}/containers/main/3f2a"), "/dev/termination-log");
        let of = |text: &str| kubelet_files(&mountinfo::parse(text.as_bytes()));
        assert_eq!(of(&hosts), KubeletFiles { pod: Some(UID.into()), container: None });
        assert_eq!(
            of(&format!("{hosts}{message}")),
            KubeletFiles { pod: Some(UID.into()), container: Some("main".into()) }
        );
        let other = line(4, &format!("/pods/{STATIC}/etc-hosts"), "/x");
        assert_eq!(of(&format!("{hosts}{other}")), KubeletFiles::default(), "two pods: it is a node");
        for root in
            [format!("/pods/{UID}/volumes/v"), format!("/x/{UID}/etc-hosts"), "/pods/not-a-uid/etc-hosts".into()]
        {
            assert_eq!(of(&line(5, &root, "/x")), KubeletFiles::default(), "{root}");
        }
    }

    #[test]
    fn directories_of_logs_name_pods() {
        let name = format!("ml_train-0_{UID}");
        let pod = log_directory(OsStr::new(&name)).unwrap();
        assert_eq!((pod.uid.as_str(), pod.to_string().as_str()), (UID, "ml/train-0"));
        for bad in ["", "a_b", "a_b_c", "a_b_c_d", &format!("_x_{UID}"), &format!("{name}_x")] {
            assert_eq!(log_directory(OsStr::new(bad)), None, "{bad}");
        }
    }

    #[test]
    fn namespaces_are_told_by_their_links() {
        assert_eq!(namespace_link(OsStr::new("mnt:[4026531841]")), Some(4_026_531_841));
        assert_eq!(kept_namespace("nsfs", Path::new("mnt:[7]")), Some(7));
        assert_eq!(kept_namespace("nsfs", Path::new("net:[7]")), None);
        assert_eq!(kept_namespace("tmpfs", Path::new("mnt:[7]")), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,300}") {
            let _ = group(&text);
            let _ = group(&format!("0::/kubepods/{text}"));
            let _ = log_directory(OsStr::new(&text));
            let _ = namespace_link(OsStr::new(&text));
        }
    }
}
