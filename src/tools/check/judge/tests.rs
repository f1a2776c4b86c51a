//! Each fault alone, on a node that is otherwise as it should be.

use std::path::PathBuf;
use std::time::Duration;

use allowlist::config::AllowList;
use allowlist::names::AbsPath;
use model::kubelet::Process;
use mounts::propagation::PropagationState;
use node::kubelet::FoundBy;

use super::super::facts::{
    CAP_SYS_ADMIN, CAP_SYS_CHROOT, CAP_SYS_PTRACE, Directory, DirectoryState, InContainers, Kubelet, List, Own, Socket,
    Weaker,
};
use super::super::report::Verdict;
use super::*;
use crate::in_containers::NotLooked;

fn state(peer_group: Option<u64>, master: Option<u64>) -> PropagationState {
    PropagationState { peer_group, master, unbindable: false }
}

fn directory(mount: &str, propagation: PropagationState) -> Directory {
    let fs_type = Some("ext4".to_owned());
    Directory { mount_point: Some(PathBuf::from(mount)), fs_type, propagation, nested: Vec::new() }
}

fn list(entries: &str, seen: &DirectoryState) -> List {
    let kubelet = AbsPath::parse("/var/lib/kubelet").unwrap();
    let list = AllowList::parse(&format!("entries: [{entries}]"), &kubelet).unwrap();
    List::Good("/e.yaml".into(), list.iter().map(|entry| (entry.clone(), seen.clone())).collect())
}

const SHARED_ENTRY: &str = "{name: a, path: /mnt/a, propagation: Bidirectional, allow: [{namespaces: [x]}]}";

fn good() -> Facts {
    let shared = DirectoryState::Directory(directory("/", state(Some(1), None)));
    let kubelet_dir = AbsPath::parse("/var/lib/kubelet").unwrap();
    let in_kubelet = |name: &str| kubelet_dir.as_path().join(name);
    Facts {
        driver: "csi.x".to_owned(),
        timeout: Duration::from_secs(3),
        release: "6.12.1-amd64".to_owned(),
        calls: [("openat2", (5, 6)), ("mount_setattr", (5, 12)), ("statmount", (6, 8)), (MOUNT_EVENTS, (6, 15))]
            .map(|(name, since)| Row { name, since, refused: None })
            .into(),
        own: Own {
            capabilities: 1 << CAP_SYS_ADMIN | 1 << CAP_SYS_CHROOT | 1 << CAP_SYS_PTRACE,
            seccomp: true,
            confined: None,
        },
        mount_max: Some(100_000),
        kubelet: Kubelet {
            process: Process { pid: 700, name: "kubelet".to_owned(), depth: 0 },
            found_by: FoundBy::Name,
            others: Vec::new(),
            root_dir: None,
            namespace: Ok(1),
            first_namespace: Some(1),
            alone: false,
        },
        node: Ok(Node {
            mounts: 60,
            mount_allowed: Some(Ok(())),
            kubelet_dir: shared.clone(),
            notes: Some(true),
            elsewhere: Vec::new(),
            parts: vec![
                (in_kubelet("pods"), shared.clone()),
                (in_kubelet("plugins"), shared.clone()),
                (in_kubelet("plugins/csi.x"), shared.clone()),
            ],
            registry: shared.clone(),
            sockets: vec![(in_kubelet("plugins/csi.x/csi.sock"), Socket::Live)],
            containers: Ok(InContainers { volumes: 2, containers: 3, ..InContainers::default() }),
        }),
        list: list(SHARED_ENTRY, &shared),
        kubelet_dir,
    }
}

/// The items that are not as they should be, for a node with one change.
fn with(change: impl FnOnce(&mut Facts)) -> Vec<Item> {
    let mut facts = good();
    change(&mut facts);
    judge(&facts).into_iter().filter(|item| item.status != Verdict::Ok).collect()
}

fn with_node(change: impl FnOnce(&mut Node)) -> Vec<Item> {
    with(|facts| change(facts.node.as_mut().unwrap()))
}

#[track_caller]
fn only(items: &[Item], status: Verdict, check: &str, words: &str) {
    let [item] = items else { panic!("one item is expected: {items:#?}") };
    assert_eq!((item.status, item.check.as_str()), (status, check), "{item:#?}");
    let text = format!("{}: {}\n{}\n{}", item.looked_at, item.found, item.advice, item.commands.join("\n"));
    assert!(words.split('&').all(|word| text.contains(word.trim())), "{words:?} is not in: {text}");
}

#[test]
fn a_good_node_has_no_fault_and_says_what_was_looked_at() {
    assert_eq!(with(|_| ()), []);
    let checks: Vec<String> = judge(&good()).into_iter().map(|item| item.check).collect();
    let expected = [
        "kernelCalls",
        "capabilities",
        "mountCall",
        "mountMax",
        "kubeletProcess",
        "kubeletNamespace",
        "kubeletDir",
        "kubeletShared",
        "attributes",
        "registrationDir",
        "pluginDir",
        "sockets",
        "allowList",
        "source",
        "containerFlags",
    ];
    assert_eq!(checks, expected);
}

#[test]
fn a_missing_call_is_told_with_its_reason() {
    let lacking = |name: &str, errno, release: &str| {
        let mut facts = good();
        release.clone_into(&mut facts.release);
        facts.calls.iter_mut().filter(|call| call.name == name).for_each(|call| call.refused = Some(errno));
        judge(&facts).into_iter().find(|item| item.looked_at.ends_with(name)).unwrap()
    };
    let old = lacking("mount_setattr", Errno::ENOSYS, "5.10.0");
    assert_eq!(old.status, Verdict::Warning);
    assert!(old.found.contains("older than 5.12"), "{old:?}");
    let filtered = lacking("openat2", Errno::EPERM, "6.12.1");
    assert_eq!(filtered.status, Verdict::Ok, "nothing is lost by this fall-back");
    assert!(filtered.found.contains("seccomp profile refuses it"), "{filtered:?}");
    let unnamed = |errno, release| lacking(MOUNT_EVENTS, errno, release).found;
    assert!(unnamed(Errno::EINVAL, "6.12.1").contains("older than 6.15"));
    assert!(unnamed(Errno::EPERM, "6.18.1").contains("root of this user namespace is not the node's"));
    let items = with(|facts| facts.node.as_mut().unwrap().mounts = 6_000);
    assert_eq!(items, [], "{items:?}");
    let items = with(|facts| {
        facts.calls[3].refused = Some(Errno::EINVAL);
        facts.node.as_mut().unwrap().mounts = 6_000;
    });
    only(&items, Verdict::Warning, "kernelCalls", "the whole table is read & run Linux 6.15");
    let items = with(|facts| {
        facts.release = "6.18.1".to_owned();
        facts.calls[2..].iter_mut().for_each(|call| call.refused = Some(Errno::ENOSYS));
        facts.node.as_mut().unwrap().mounts = 6_000;
    });
    let [statmount, events] = items.as_slice() else { panic!("{items:?}") };
    assert!(statmount.found.contains("a seccomp profile refuses it"), "{statmount:?}");
    assert!(events.found.contains("of no use without statmount"), "{events:?}");
}

#[test]
fn a_kubelets_directory_without_attributes_costs_healing() {
    let on_tmpfs = |release: &str| {
        with(|facts| {
            release.clone_into(&mut facts.release);
            let node = facts.node.as_mut().unwrap();
            node.notes = Some(false);
            let DirectoryState::Directory(pods) = &mut node.parts[0].1 else { panic!() };
            pods.fs_type = Some("tmpfs".to_owned());
        })
    };
    only(
        &on_tmpfs("6.1.0"),
        Verdict::Warning,
        "attributes",
        "/var/lib/kubelet/pods & tmpfs has no & none is healed & or run Linux 6.6 or newer",
    );
    assert!(!on_tmpfs("6.12.0")[0].advice.contains("6.6"));
    assert_eq!(with_node(|node| node.notes = None), [], "what can't be asked isn't told");
}

#[test]
fn what_we_may_not_do_is_a_fault() {
    let items = with(|facts| facts.own.capabilities = 1 << CAP_SYS_ADMIN);
    only(
        &items,
        Verdict::Fault,
        "capabilities",
        "CAP_SYS_CHROOT, CAP_SYS_PTRACE not held & add: [SYS_CHROOT, SYS_PTRACE]",
    );
    let items = with(|facts| {
        facts.node.as_mut().unwrap().mount_allowed = Some(Err(Errno::EACCES));
        facts.own.confined = Some("cri-containerd.apparmor.d (enforce)".to_owned());
    });
    only(&items, Verdict::Fault, "mountCall", "EACCES & cri-containerd & appArmorProfile: {type: Unconfined}");
    only(&with_node(|node| node.mounts = 99_000), Verdict::Fault, "mountMax", "99 % & sysctl -w fs.mount-max=200000");
    only(&with_node(|node| node.mounts = 60_000), Verdict::Warning, "mountMax", "60 %");
}

#[test]
fn the_kubelets_process_must_be_the_one_that_is_meant() {
    let items = with(|facts| facts.kubelet.others = vec![900]);
    only(&items, Verdict::Warning, "kubeletProcess", "900 could be it as well & --pid");
    let items = with(|facts| {
        facts.kubelet.found_by = FoundBy::Default;
        facts.kubelet.alone = true;
    });
    only(&items, Verdict::Fault, "kubeletProcess", "hostPID: true");
    let items = with(|facts| facts.kubelet.root_dir = Some("/data/kubelet".to_owned()));
    only(&items, Verdict::Fault, "kubeletRootDir", "is /data/kubelet, but --kubelet-dir is /var/lib/kubelet");
}

#[test]
fn a_namespace_that_cannot_be_entered_leaves_the_rest_unseen_not_guessed() {
    let items = with(|facts| facts.node = Err(Errno::EPERM));
    let found: Vec<_> = items.iter().map(|item| (item.check.as_str(), item.status)).collect();
    let expected =
        [("kubeletNamespace", Verdict::Fault), ("kubeletDir", Verdict::Skipped), ("source", Verdict::Skipped)];
    assert_eq!(found, expected);
}

#[test]
fn the_kubelets_directory_must_be_there_and_shared() {
    let items = with_node(|node| {
        node.kubelet_dir = DirectoryState::Missing;
        node.elsewhere = vec!["/var/lib/k0s/kubelet".into()];
    });
    only(&items, Verdict::Fault, "kubeletDir", "is not there & --kubelet-dir /var/lib/k0s/kubelet");
    let private = DirectoryState::Directory(directory("/var/lib/kubelet/pods", state(None, None)));
    let items = with_node(|node| node.parts[0].1 = private);
    only(&items, Verdict::Fault, "kubeletShared", "is private & mount --make-shared /var/lib/kubelet/pods");
    only(
        &with_node(|node| node.registry = DirectoryState::Missing),
        Verdict::Fault,
        "registrationDir",
        "start the kubelet",
    );
    let socket = |socket| with_node(move |node| node.sockets[0].1 = socket);
    only(
        &socket(Socket::Stale),
        Verdict::Warning,
        "sockets",
        "nobody answers & rm /var/lib/kubelet/plugins/csi.x/csi.sock",
    );
    only(&socket(Socket::SomethingElse), Verdict::Fault, "sockets", "not a socket");
}

#[test]
fn a_kubelet_in_another_namespace_gets_commands_that_enter_it() {
    let items = with(|facts| {
        facts.kubelet.first_namespace = Some(2);
        facts.node.as_mut().unwrap().kubelet_dir = DirectoryState::Directory(directory("/kubelet", state(None, None)));
    });
    only(&items, Verdict::Fault, "kubeletShared", "nsenter --target 700 --mount -- mount --make-shared /kubelet");
}

#[test]
fn a_long_name_of_the_driver_leaves_no_room_for_the_socket() {
    let items = with(|facts| {
        facts.driver = format!("csi.{}", "x".repeat(59));
        facts.kubelet_dir = AbsPath::parse("/var/snap/microk8s/common/var/lib/kubelet").unwrap();
    });
    only(&items, Verdict::Fault, "socketPath", "107 at most & shorter --driver-name");
}

#[test]
fn an_allow_list_that_gives_nothing_is_told() {
    let of = |list| with(|facts| facts.list = list);
    only(&of(List::NotNamed), Verdict::Skipped, "allowList", "--config FILE");
    let why = "No such file".to_owned();
    only(&of(List::Unreadable("/e.yaml".into(), why)), Verdict::Fault, "allowList", "/e.yaml: No such file");
    let kubelet = AbsPath::parse("/var/lib/kubelet").unwrap();
    let faults = AllowList::parse("entries: [{name: A, path: b}]", &kubelet).unwrap_err();
    assert_eq!(of(List::Faulty("/e.yaml".into(), faults)).len(), 2);
    only(&of(list("", &DirectoryState::Unknown)), Verdict::Warning, "allowList", "has no entries");
    let shared = DirectoryState::Directory(directory("/", state(Some(1), None)));
    only(&of(list("{name: a, path: /mnt/a}", &shared)), Verdict::Warning, "allow", "no pod may use the entry");
}

#[test]
fn a_source_must_be_there_alive_and_as_shared_as_its_ceiling() {
    let of = |entry: &str, seen| with(|facts| facts.list = list(entry, &seen));
    let bidirectional = |seen| of(SHARED_ENTRY, seen);
    only(&bidirectional(DirectoryState::Missing), Verdict::Fault, "source", "/mnt/a: is not there & mkdir -p /mnt/a");
    only(&bidirectional(DirectoryState::Hung), Verdict::Fault, "source", "did not answer within 3s");
    only(
        &bidirectional(DirectoryState::Dead(Errno::ENOTCONN)),
        Verdict::Fault,
        "source",
        "ENOTCONN & umount --lazy /mnt/a",
    );
    only(
        &bidirectional(DirectoryState::Symlink(Some("/srv/a".into()))),
        Verdict::Fault,
        "source",
        "write path: /srv/a",
    );
    only(&bidirectional(DirectoryState::Refused(Errno::EACCES)), Verdict::Fault, "source", "pass through /mnt");
    only(&bidirectional(DirectoryState::NotADirectory), Verdict::Fault, "source", "is not a directory");

    let private = || DirectoryState::Directory(directory("/", state(None, None)));
    only(&bidirectional(private()), Verdict::Fault, "shared", "allows Bidirectional & mount --rbind /mnt/a /mnt/a");
    let own_mount = DirectoryState::Directory(directory("/mnt/a", state(None, Some(3))));
    only(&bidirectional(own_mount), Verdict::Fault, "shared", "is slave:3 & mount --make-rshared /mnt/a");
    assert_eq!(of("{name: a, path: /mnt/a, allow: [{namespaces: [x]}]}", private()), [], "None needs nothing");
    let unbindable = PropagationState { unbindable: true, ..state(None, None) };
    let seen = DirectoryState::Directory(directory("/mnt/a", unbindable));
    only(&bidirectional(seen), Verdict::Fault, "bindable", "mount --make-private /mnt/a");

    let made = "{name: a, path: /mnt/a, missing: {create: {}}, allow: [{namespaces: [x]}]}";
    assert_eq!(of(made, DirectoryState::Missing), [], "the first volume makes it");
    let made = "{name: a, path: /mnt/a, missing: {create: {uid: 7}}, allow: [{namespaces: [x]}]}";
    only(
        &of(made, DirectoryState::Missing),
        Verdict::Fault,
        "source",
        "CAP_CHOWN is not held & install -d -o 7 -g 0 /mnt/a",
    );
}

#[test]
fn nested_mounts_that_pass_nothing_on_are_named() {
    let mut outer = directory("/mnt/a", state(Some(1), None));
    outer.nested = vec![
        ("/mnt/a/shared".into(), state(Some(2), None)),
        ("/mnt/a/it's".into(), state(None, None)),
        ("/mnt/a/hidden".into(), PropagationState { unbindable: true, ..state(None, None) }),
    ];
    let items = with(|facts| facts.list = list(SHARED_ENTRY, &DirectoryState::Directory(outer)));
    let words =
        r"no pod sees /mnt/a/hidden & later below /mnt/a/it's does not cross & mount --make-rshared '/mnt/a/it'\''s'";
    only(&items, Verdict::Warning, "nested", words);
}

#[test]
fn releases_are_read_as_far_as_they_are_numbers() {
    assert_eq!(version("6.18.5-amd64"), Some((6, 18)));
    assert_eq!(version("5.15"), Some((5, 15)));
    assert_eq!(version("six"), None);
}

#[test]
fn a_container_that_lacks_a_flag_is_named_with_the_field_that_makes_up_for_it() {
    use mounts::MountAttrs;
    let weaker = |pod: &str, missing| Weaker {
        entry: "data".into(),
        pod: pod.into(),
        container: Some("c".into()),
        path: "/x".into(),
        missing,
    };
    let none = MountAttrs::default();
    let (ro, nosuid) = (MountAttrs { read_only: true, ..none }, MountAttrs { nosuid: true, ..none });
    let with_containers = |found: InContainers| with_node(|node| node.containers = Ok(found));
    let found = InContainers { volumes: 9, containers: 9, ..InContainers::default() };

    let items = with_containers(InContainers { weaker: vec![weaker("ml/a", ro)], ..found.clone() });
    only(&items, Verdict::Warning, "containerFlags", "pod ml/a, container c at /x (entry data)");
    assert!(items[0].advice.contains("readOnly: true"), "{items:#?}");
    let both = (0..9).map(|n| weaker(&format!("ml/{n}"), ro.union(nosuid))).collect();
    let items = with_containers(InContainers { weaker: both, ..found.clone() });
    assert!(items.len() == 2 && items[0].found.contains("; 4 more"), "{items:#?}");
    assert!(items[1].advice.contains("allowPrivilegeEscalation: false"), "{items:#?}");

    let unknown = vec![("ml/a".to_owned(), "why".to_owned()), ("ml/b".to_owned(), "why".to_owned())];
    let items = with_containers(InContainers { unknown, ..found });
    only(&items, Verdict::Skipped, "containerFlags", "ml/a and 1 other pod: why");
    assert_eq!(with_containers(InContainers::default()), [], "no volume, no word");
    only(&with_node(|node| node.containers = Err(NotLooked::Late)), Verdict::Skipped, "containerFlags", "in time");
}
