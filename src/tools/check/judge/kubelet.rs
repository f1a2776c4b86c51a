//! Judges what was found of the kubelet: its process, its mount namespace, its directories.

use std::path::Path;

use mounts::Errno;
use node::kubelet::FoundBy;
use text::quoted;

use super::super::facts::{CAP_SYS_PTRACE, Directory, DirectoryState, Facts, Node, Socket};
use super::super::report::{Item, Section};
use super::{on_node, refused_by, version};

const HERE: Section = Section::Kubelet;
/// The longest path of a unix socket, in bytes (unix(7), `sun_path` without its NUL).
const SOCKET_PATH_MAX: usize = 107;

pub(super) fn judge(facts: &Facts, items: &mut Vec<Item>) {
    items.push(process(facts));
    items.push(namespace(facts));
    let Ok(node) = &facts.node else {
        let why = "not looked at, because the mount namespace could not be entered";
        items.push(Item::skipped(HERE, "kubeletDir", facts.kubelet_dir.to_string(), why));
        return;
    };
    items.push(directory(facts, node));
    items.extend(root_dir(facts));
    if matches!(node.kubelet_dir, DirectoryState::Directory(_)) {
        shared(facts, node, items);
        items.extend(node.notes.map(|can| notes(facts, node, can)));
        registry(facts, node, items);
        sockets(node, items);
    }
    items.extend(socket_path(facts));
}

fn process(facts: &Facts) -> Item {
    let kubelet = &facts.kubelet;
    let (pid, name) = (kubelet.process.pid, kubelet.process.name.as_str());
    let found = |how: &str| format!("process {pid} ({name}){how}");
    match kubelet.found_by {
        FoundBy::Pid if name.is_empty() => {
            Item::fault(HERE, "kubeletProcess", format!("--pid {pid}"), "there is no such process")
                .advise("name the kubelet's")
                .run("pgrep -l 'kubelet|k3s'")
        }
        FoundBy::Pid => Item::ok(HERE, "kubeletProcess", format!("--pid {pid}"), found("")),
        FoundBy::Name if kubelet.others.is_empty() => Item::ok(HERE, "kubeletProcess", "kubelet", found("")),
        FoundBy::Name => {
            let others: Vec<String> = kubelet.others.iter().map(ToString::to_string).collect();
            let more = format!(" was taken, but {} could be it as well", others.join(", "));
            Item::warning(HERE, "kubeletProcess", "kubelet", found(&more))
                .advise("name the one that is meant: --pid PID")
        }
        FoundBy::Default if kubelet.alone => {
            let what = "no process of the node can be seen: this container has a PID namespace of its own";
            Item::fault(HERE, "kubeletProcess", "kubelet", what).advise(
                "set hostPID: true for the pod: the plugin needs it too, to find the mount namespace of who calls",
            )
        }
        FoundBy::Default => {
            let what = format!("no process of root has a kubelet's name; {} stands in for it", found(""));
            Item::warning(HERE, "kubeletProcess", "kubelet", what)
                .advise("start the kubelet, or name its process: --pid PID; in a pod, set hostPID: true")
        }
    }
}

fn namespace(facts: &Facts) -> Item {
    let looked_at = format!("mount namespace of process {}", facts.kubelet.process.pid);
    let refused = match (facts.kubelet.namespace, facts.node.as_ref().err()) {
        (Err(errno), _) => (errno, "can't be opened"),
        (Ok(_), Some(&errno)) => (errno, "can't be entered"),
        (Ok(inode), None) => {
            let first = match facts.kubelet.first_namespace {
                Some(first) if first == inode => ", that of process 1",
                Some(_) => ", another than that of process 1",
                None => "",
            };
            return Item::ok(HERE, "kubeletNamespace", looked_at, format!("mnt:[{inode}]{first}; a thread entered it"));
        }
    };
    let (errno, what) = refused;
    let item = Item::fault(HERE, "kubeletNamespace", looked_at, format!("{what}: {errno:?}"));
    match errno {
        Errno::ENOENT | Errno::ESRCH => {
            item.advise("the process has ended: run the check again, or name another with --pid PID")
        }
        Errno::EACCES if !facts.own.holds(CAP_SYS_PTRACE) => {
            item.advise("without CAP_SYS_PTRACE no other process can be looked into: see the capabilities above")
        }
        Errno::EACCES => item.advise(format!(
            "the kernel does not let this process look into that one; {}: run the check as root of the node, and set \
             appArmorProfile: {{type: Unconfined}} for the container",
            refused_by(facts, errno).0
        )),
        _ => {
            let (why, advice) = refused_by(facts, errno);
            item.advise(format!("{why}: {advice}; setns(2) needs CAP_SYS_ADMIN and CAP_SYS_CHROOT"))
        }
    }
}

fn directory(facts: &Facts, node: &Node) -> Item {
    let looked_at = facts.kubelet_dir.to_string();
    let found = match &node.kubelet_dir {
        DirectoryState::Directory(_) => {
            return Item::ok(HERE, "kubeletDir", looked_at, "the kubelet's directory is there");
        }
        DirectoryState::Missing => "is not there".to_owned(),
        DirectoryState::NotADirectory => "is not a directory".to_owned(),
        DirectoryState::Symlink(_) => "leads over a symlink".to_owned(),
        DirectoryState::Dead(errno) | DirectoryState::Refused(errno) => format!("can't be opened: {errno:?}"),
        DirectoryState::Hung => format!("did not answer within {:?}", facts.timeout),
        DirectoryState::Unknown => "could not be looked at".to_owned(),
    };
    let item = Item::fault(HERE, "kubeletDir", looked_at, found);
    match node.elsewhere.first() {
        Some(other) => item.advise(format!("set --kubelet-dir {} (in the chart: kubeletDir)", quoted(other))),
        None => item
            .advise("set --kubelet-dir (in the chart: kubeletDir) to the kubelet's --root-dir")
            .run(format!("tr '\\0' '\\n' < /proc/{}/cmdline | grep -A1 root-dir", facts.kubelet.process.pid)),
    }
}

fn root_dir(facts: &Facts) -> Option<Item> {
    let said = facts.kubelet.root_dir.as_ref()?;
    let looked_at = "--root-dir of the kubelet's command line";
    // A trailing slash is the same directory.
    if Path::new(said) == facts.kubelet_dir.as_path() {
        return Some(Item::ok(HERE, "kubeletRootDir", looked_at, said));
    }
    let found = format!("is {said}, but --kubelet-dir is {}", facts.kubelet_dir);
    let advice = format!("set --kubelet-dir {} (in the chart: kubeletDir)", quoted(Path::new(said)));
    Some(Item::fault(HERE, "kubeletRootDir", looked_at, found).advise(advice))
}

/// Mounts beneath the kubelet's directory must reach the container runtime, wherever that lives, so each mount that
/// its parts lie on must be shared. One item for each mount.
fn shared(facts: &Facts, node: &Node, items: &mut Vec<Item>) {
    let root = (facts.kubelet_dir.as_path().to_owned(), node.kubelet_dir.clone());
    let mut seen: Vec<&Path> = Vec::new();
    for (path, found) in std::iter::once(&root).chain(&node.parts) {
        match found {
            DirectoryState::Directory(directory) => {
                let mount = directory.mount_point.as_deref().unwrap_or(path);
                if !seen.contains(&mount) {
                    seen.push(mount);
                    items.push(shared_mount(facts, path, mount, directory));
                }
            }
            DirectoryState::Dead(_)
            | DirectoryState::Refused(_)
            | DirectoryState::Hung
            | DirectoryState::NotADirectory
            | DirectoryState::Symlink(_) => {
                let found = "is not a directory that can be used";
                items.push(
                    Item::fault(HERE, "kubeletShared", path.display().to_string(), found)
                        .advise("mend or unmount it: the kubelet and the plugin need it"),
                );
            }
            // The kubelet and the plugin make theirs as they start.
            DirectoryState::Missing | DirectoryState::Unknown => {}
        }
    }
}

fn shared_mount(facts: &Facts, path: &Path, mount: &Path, directory: &Directory) -> Item {
    let looked_at = format!("{} (on the mount {})", path.display(), mount.display());
    let state = directory.propagation;
    if state.is_shared() {
        return Item::ok(HERE, "kubeletShared", looked_at, format!("is {state}: mounts below it reach the pods"));
    }
    Item::fault(HERE, "kubeletShared", looked_at, format!("is {state}: mounts below it may not reach the pods"))
        .advise("make it shared, now and at boot, before the kubelet and the container runtime start")
        .run(on_node(facts, &format!("mount --make-shared {}", quoted(mount))))
}

/// The first Linux whose tmpfs keeps attributes of the user kind.
const TMPFS_KEEPS: (u32, u32) = (6, 6);

fn notes(facts: &Facts, node: &Node, can: bool) -> Item {
    let pods = facts.kubelet_dir.as_path().join("pods");
    let in_pods = node.parts.iter().find(|(path, _)| *path == pods).map(|(_, seen)| seen);
    let (path, seen) = match in_pods {
        Some(DirectoryState::Directory(seen)) => (pods.as_path(), Some(seen)),
        _ => match &node.kubelet_dir {
            DirectoryState::Directory(seen) => (facts.kubelet_dir.as_path(), Some(seen)),
            _ => (facts.kubelet_dir.as_path(), None),
        },
    };
    let fs_type = seen.and_then(|seen| seen.fs_type.as_deref()).unwrap_or("its file system");
    let looked_at = format!("attributes in {}", path.display());
    if can {
        return Item::ok(HERE, "attributes", looked_at, format!("{fs_type} keeps what is noted of each volume"));
    }
    let found = format!(
        "{fs_type} has no extended attributes of the kind user, in which is noted what a volume shows: volumes work, but none is \
         healed when its source has died and come back, and one whose entry was taken off the allow-list is lost to its pod if the \
         kubelet asks for it again"
    );
    let too_old = fs_type == "tmpfs" && version(&facts.release).is_some_and(|found| found < TMPFS_KEEPS);
    let newer = if too_old { ", or run Linux 6.6 or newer, whose tmpfs has them" } else { "" };
    Item::warning(HERE, "attributes", looked_at, found)
        .advise(format!("put the kubelet's directory on a disk with ext4, XFS or Btrfs{newer}"))
}

fn registry(facts: &Facts, node: &Node, items: &mut Vec<Item>) {
    let path = facts.kubelet_dir.as_path().join("plugins_registry");
    let looked_at = path.display().to_string();
    items.push(match &node.registry {
        DirectoryState::Directory(_) => {
            Item::ok(HERE, "registrationDir", looked_at, "the kubelet looks for plugins here")
        }
        DirectoryState::Missing => {
            Item::fault(HERE, "registrationDir", looked_at, "is not there: the kubelet makes it as it starts")
                .advise("start the kubelet; if it runs, --kubelet-dir is not its --root-dir")
        }
        _ => Item::fault(HERE, "registrationDir", looked_at, "is not a directory that can be used")
            .advise("move away what is there and restart the kubelet"),
    });
    let own = facts.kubelet_dir.as_path().join("plugins").join(&facts.driver);
    let looked_at = own.display().to_string();
    match node.parts.iter().find(|(path, _)| *path == own).map(|(_, seen)| seen) {
        Some(DirectoryState::Missing) => {
            items.push(Item::ok(HERE, "pluginDir", looked_at, "is not there yet: it is made as the plugin starts"));
        }
        Some(DirectoryState::Directory(_)) => items.push(Item::ok(HERE, "pluginDir", looked_at, "is there")),
        // What else it may be, `shared` has told.
        _ => {}
    }
}

fn sockets(node: &Node, items: &mut Vec<Item>) {
    for (path, socket) in &node.sockets {
        let looked_at = path.display().to_string();
        items.push(match socket {
            Socket::Live => Item::ok(HERE, "sockets", looked_at, "the plugin answers"),
            Socket::Stale => Item::warning(HERE, "sockets", looked_at, "nobody answers on this socket")
                .advise("a plugin that starts replaces it; if none is to start here any more, remove it, or the kubelet keeps trying")
                .run(format!("rm {}", quoted(path))),
            Socket::SomethingElse => {
                Item::fault(HERE, "sockets", looked_at, "is not a socket, so the plugin can't make its own here")
                    .advise("move it away")
                    .run(format!("mv {0} {0}.old", quoted(path)))
            }
        });
    }
}

/// The kubelet calls the plugin by these paths.
fn socket_path(facts: &Facts) -> Option<Item> {
    let (root, driver) = (&facts.kubelet_dir, &facts.driver);
    let paths = [format!("{root}/plugins/{driver}/csi.sock"), format!("{root}/plugins_registry/{driver}@reg.sock")];
    let longest = paths.into_iter().max_by_key(String::len)?;
    (longest.len() > SOCKET_PATH_MAX).then(|| {
        let found = format!("has {} bytes; a socket's path has {SOCKET_PATH_MAX} at most", longest.len());
        Item::fault(HERE, "socketPath", longest, found).advise("choose a shorter --driver-name")
    })
}
