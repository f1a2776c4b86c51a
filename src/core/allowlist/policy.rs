//! May this pod have this directory, and on what terms? Pure: the allow-list and a wish in, a grant or a reason out.
//!
//! The reasons name entries and fields of the allow-list, but never a path of the node, nor any entry that the pod didn't name itself.
//! What of them the pod's author reads is in `service::refusals`.

use std::sync::Arc;

use mounts::MountAttrs;
use mounts::propagation::MountPropagation;

use crate::config::{AllowList, Entry, MountFlags, Pattern, ReadOnlyPropagation};
use crate::names::{EntryName, PodIdentity, SubPath, VolumeKind, VolumeRef};

/// What a volume asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct Wish {
    /// The entry and the directory beneath it.
    pub volume: VolumeRef,
    /// The propagation; none asked for is [`MountPropagation::None`].
    pub propagation: Option<MountPropagation>,
    /// Whether the volume is to be read-only, whoever says so, except the entry.
    pub read_only: bool,
    /// Whether the Pod says so (NodePublishVolumeRequest.readonly).
    pub pod_read_only: bool,
    /// How the pod has the volume.
    pub kind: VolumeKind,
    /// Whether the pod has a user namespace of its own (`hostUsers: false`), as far as that is known.
    pub user_namespace: bool,
    /// The pod, if the request says.
    pub pod: Option<Arc<PodIdentity>>,
    /// Whether it is for a pod: then the pod must be allowed to use the entry, and what it can't have is refused. Not so
    /// for staging, which is for a node rather than a pod; publishing the same volume then asks.
    pub check_user: bool,
}

/// The terms on which a volume may be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The directory beneath it.
    pub sub_path: Option<SubPath>,
    /// The propagation: what was asked for, never above the entry's ceiling.
    pub propagation: MountPropagation,
    /// Whether the volume is read-only, because the pod or the entry says so.
    pub read_only: bool,
    /// The mount flags.
    pub flags: MountFlags,
    /// Whether the pod's runtime maps the owners of the volume's files, which not every source allows.
    pub user_namespace: bool,
    /// What the pod's owner and the log should be told although the volume is granted.
    pub warning: Option<String>,
}

impl Grant {
    /// The flags of the volume's mount: those that the entry gives, and what else was asked for.
    #[must_use]
    pub const fn attrs(&self, asked: MountAttrs) -> MountAttrs {
        self.flags.attrs(self.read_only).union(asked)
    }
}

/// Why a volume is refused: what was asked for, what was found, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The allow-list has no such entry.
    #[error(
        "the volume names the entry {name}, which the node's allow-list does not have: correct the volume, or add an \
         entry of that name to the allow-list"
    )]
    UnknownEntry {
        /// The name asked for.
        name: EntryName,
    },
    /// No item of the entry's `allow` matches the pod.
    #[error("{}", not_permitted(entry, pod.as_deref()))]
    NotPermitted {
        /// The entry asked for.
        entry: EntryName,
        /// The pod, if the request says.
        pod: Option<Arc<PodIdentity>>,
    },
    /// The entry has no sub-paths.
    #[error(
        "the volume asks for the directory {:?} beneath the entry {entry}, whose subPaths is false: ask for \
         {entry} alone, or set subPaths: true on the entry",
        sub_path.to_string()
    )]
    SubPathsOff {
        /// The entry asked for.
        entry: EntryName,
        /// The directory asked for.
        sub_path: SubPath,
    },
    /// More propagation than the entry's ceiling.
    #[error(
        "the volume asks for the propagation {asked}, but the entry {entry} allows {ceiling} at most: ask for \
         {ceiling}, or raise propagation on the entry"
    )]
    AboveCeiling {
        /// The entry asked for.
        entry: EntryName,
        /// The propagation asked for.
        asked: MountPropagation,
        /// The most that the entry gives.
        ceiling: MountPropagation,
    },
    /// Propagation into a pod with a user namespace of its own.
    #[error(
        "the volume asks for the propagation {asked} of the entry {entry}, but the pod has hostUsers: false, and files of a \
         mount that propagates into it would belong to nobody there (65534): set mountPropagation: None, or remove \
         hostUsers: false from the pod"
    )]
    UserNamespacePropagation {
        /// The entry asked for.
        entry: EntryName,
        /// The propagation asked for.
        asked: MountPropagation,
    },
    /// Propagation into a read-only volume.
    #[error("{}", read_only_propagation(entry, *asked, *by_entry))]
    ReadOnlyPropagation {
        /// The entry asked for.
        entry: EntryName,
        /// The propagation asked for.
        asked: MountPropagation,
        /// Whether the entry says read-only, so that the pod can't do without.
        by_entry: bool,
    },
    /// The volume is read-only, but the Pod doesn't say so. Container runtimes (runc since 1.2, crun) give a mount in a
    /// container exactly the flags that the kubelet orders, and it orders `ro` only where the Pod says so.
    #[error("{}", pod_not_read_only(entry, *by_entry, *kind))]
    PodNotReadOnly {
        /// The entry asked for.
        entry: EntryName,
        /// Whether the entry says read-only; else attribute, access mode or mount options of the volume do.
        by_entry: bool,
        /// How the pod has the volume.
        kind: VolumeKind,
    },
}

fn not_permitted(entry: &EntryName, pod: Option<&PodIdentity>) -> String {
    match pod {
        Some(pod) => format!(
            "pod {pod} with the service account {:?} may not use the entry {entry}: no item of its allow matches; to permit it, add an item to the \
             entry's allow whose namespaces and serviceAccounts match the two",
            pod.service_account
        ),
        None => format!(
            "the request for the entry {entry} does not say which pod it is for, so nobody can be permitted: set \
             podInfoOnMount: true on the CSIDriver object (or, to let everybody use the entry, allow namespaces \
             [\"*\"] and serviceAccounts [\"*\"])"
        ),
    }
}

fn read_only_propagation(entry: &EntryName, asked: MountPropagation, by_entry: bool) -> String {
    let (who, undo) = if by_entry {
        ("the entry is read-only", "")
    } else {
        ("the volume is read-only", "ask for it without readOnly, ")
    };
    format!(
        "the volume asks for the propagation {asked} of the entry {entry}, but {who}, and a mount that propagates \
         into it later would be writable: ask for the propagation None, {undo}or set readOnlyPropagation: warn on \
         the entry to accept that"
    )
}

fn pod_not_read_only(entry: &EntryName, by_entry: bool, kind: VolumeKind) -> String {
    let who = if by_entry {
        format!("the entry {entry} is read-only")
    } else {
        format!("the volume of the entry {entry} is read-only by its attributes, access mode or mount options")
    };
    format!("{who}, {}", read_only_advice(kind))
}

/// What is wrong with a pod whose volume is read-only although the Pod doesn't say so, and the line to add.
#[must_use]
pub const fn read_only_advice(kind: VolumeKind) -> &'static str {
    match kind {
        VolumeKind::Inline => {
            "but the Pod does not say so, and containers could write to it: set csi.readOnly: true on the pod's volume"
        }
        VolumeKind::Claim => {
            "but the Pod does not say so, and containers could write to it: set persistentVolumeClaim.readOnly: true on the \
             pod's volume"
        }
        VolumeKind::GenericEphemeral => {
            "but a generic ephemeral volume cannot say so in the Pod, and containers could write to it: take an inline \
             volume with csi.readOnly: true, or a claim with persistentVolumeClaim.readOnly: true"
        }
        VolumeKind::ClaimOrGenericEphemeral => {
            "but the Pod does not say so, and containers could write to it: set persistentVolumeClaim.readOnly: true on the \
             pod's volume (if it is a generic ephemeral volume, which cannot say so, take a claim or an inline volume \
             instead)"
        }
    }
}

impl Entry {
    /// Whether the pod may use the entry. Of an unknown pod nothing can be matched, so it needs a rule for anyone:
    /// `*` for namespace and service account, written so.
    #[must_use]
    pub fn permits(&self, pod: Option<&PodIdentity>) -> bool {
        let matches = |patterns: &[Pattern], name: Option<&str>| {
            patterns.iter().any(|p| name.map_or_else(|| p.is_anyone(), |name| p.matches(name)))
        };
        self.allow.iter().any(|rule| {
            matches(&rule.namespaces, pod.map(|p| p.namespace.as_str()))
                && matches(&rule.service_accounts, pod.map(|p| p.service_account.as_str()))
        })
    }
}

/// The entry of a wish, if it may be had at all, whatever the pod says of the volume.
///
/// # Errors
/// The first of [`Denied::UnknownEntry`], [`Denied::NotPermitted`], [`Denied::SubPathsOff`]. What a pod without permission
/// learns is that the entry exists, and nothing else of it.
pub fn entry<'l>(list: &'l AllowList, wish: &Wish) -> Result<&'l Arc<Entry>, Denied> {
    let name = || wish.volume.entry.clone();
    let entry = list.get(&wish.volume.entry).ok_or_else(|| Denied::UnknownEntry { name: name() })?;
    if wish.check_user && !entry.permits(wish.pod.as_deref()) {
        return Err(Denied::NotPermitted { entry: name(), pod: wish.pod.clone() });
    }
    if let Some(sub_path) = wish.volume.sub_path.as_ref().filter(|_| !entry.sub_paths) {
        return Err(Denied::SubPathsOff { entry: name(), sub_path: sub_path.clone() });
    }
    Ok(entry)
}

/// Decides on a wish.
///
/// # Errors
/// The first reason to refuse it, in the order of [`Denied`].
pub fn decide(list: &AllowList, wish: &Wish) -> Result<Grant, Denied> {
    let entry = entry(list, wish)?;
    let name = || entry.name.clone();
    let propagation = wish.propagation.unwrap_or_default();
    if propagation > entry.ceiling {
        return Err(Denied::AboveCeiling { entry: name(), asked: propagation, ceiling: entry.ceiling });
    }
    if wish.user_namespace && propagation != MountPropagation::None {
        return Err(Denied::UserNamespacePropagation { entry: name(), asked: propagation });
    }
    let read_only = wish.read_only || entry.read_only;
    let warning = match entry.read_only_propagation {
        _ if !read_only || propagation == MountPropagation::None => None,
        ReadOnlyPropagation::Refuse => {
            return Err(Denied::ReadOnlyPropagation { entry: name(), asked: propagation, by_entry: entry.read_only });
        }
        ReadOnlyPropagation::Warn => Some(format!(
            "the volume of the entry {} is read-only, but mounts that propagate into it later ({propagation}) are \
             writable unless they are read-only themselves",
            entry.name
        )),
    };
    if wish.check_user && read_only && !wish.pod_read_only {
        return Err(Denied::PodNotReadOnly { entry: name(), by_entry: entry.read_only, kind: wish.kind });
    }
    Ok(Grant {
        entry: Arc::clone(entry),
        sub_path: wish.volume.sub_path.clone(),
        propagation,
        read_only,
        flags: entry.flags,
        user_namespace: wish.user_namespace,
        warning,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::AbsPath;

    fn list() -> AllowList {
        let text = "
entries:
  - {name: open, path: /secret/open, subPaths: true, propagation: Bidirectional, allow: [{namespaces: ['*']}]}
  - {name: team, path: /secret/team, propagation: HostToContainer, noexec: true,
     allow: [{namespaces: ['team-*'], serviceAccounts: [reader, 'w?']}, {namespaces: [ml]}]}
  - {name: nobody, path: /secret/nobody}
  - {name: ro, path: /secret/ro, readOnly: true, propagation: HostToContainer, allow: [{namespaces: ['*']}]}
  - {name: warn, path: /secret/warn, propagation: HostToContainer, readOnlyPropagation: warn,
     allow: [{namespaces: ['*']}]}
  - {name: half, path: /secret/half, allow: [{namespaces: ['*'], serviceAccounts: ['**']}]}
";
        AllowList::parse(text, &AbsPath::parse("/var/lib/kubelet").unwrap()).unwrap_or_else(|e| panic!("{e}"))
    }

    fn pod(namespace: &str, service_account: &str) -> Option<Arc<PodIdentity>> {
        let (name, uid) = ("p".to_owned(), "u".to_owned());
        let (namespace, service_account) = (namespace.to_owned(), service_account.to_owned());
        Some(Arc::new(PodIdentity { namespace, name, uid, service_account }))
    }

    fn wish(handle: &str, pod: Option<Arc<PodIdentity>>) -> Wish {
        let volume = VolumeRef::parse_handle(handle).unwrap();
        let kind = VolumeKind::Inline;
        Wish {
            volume,
            propagation: None,
            read_only: false,
            pod_read_only: false,
            kind,
            user_namespace: false,
            pod,
            check_user: true,
        }
    }

    /// As a Pod asks for it that says read-only.
    fn said(wish: Wish) -> Wish {
        Wish { read_only: true, pod_read_only: true, ..wish }
    }

    fn permitted(handle: &str, pod: Option<Arc<PodIdentity>>) -> bool {
        match decide(&list(), &wish(handle, pod)) {
            Ok(_) => true,
            Err(Denied::NotPermitted { .. }) => false,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn one_rule_must_match_both_namespace_and_account() {
        assert!(permitted("team", pod("team-a", "reader")) && permitted("team", pod("team-a", "w1")));
        assert!(permitted("team", pod("ml", "anything")));
        assert!(!permitted("team", pod("team-a", "default")) && !permitted("team", pod("mlx", "reader")));
        assert!(!permitted("nobody", pod("kube-system", "default")));
    }

    #[test]
    fn without_a_pod_only_a_rule_for_anyone_matches() {
        assert!(permitted("open", None));
        assert!(!permitted("team", None) && !permitted("nobody", None) && !permitted("half", None));
        assert!(permitted("half", pod("a", "b")));
        let message = decide(&list(), &wish("team", None)).unwrap_err().to_string();
        assert!(message.contains("podInfoOnMount: true"), "{message}");
    }

    #[test]
    fn staging_asks_for_everything_but_the_user() {
        let staging = |handle| decide(&list(), &Wish { check_user: false, ..wish(handle, None) });
        assert!(staging("nobody").is_ok());
        assert!(matches!(staging("nobody/sub"), Err(Denied::SubPathsOff { .. })));
        assert!(matches!(staging("none"), Err(Denied::UnknownEntry { .. })));
    }

    #[test]
    fn the_grant_has_the_wish_and_the_entry() {
        let asked = Wish { propagation: Some(MountPropagation::Bidirectional), ..wish("open/a/b", None) };
        let grant = decide(&list(), &asked).unwrap();
        assert_eq!(grant.sub_path.unwrap().to_string(), "a/b");
        assert_eq!((grant.propagation, grant.read_only), (MountPropagation::Bidirectional, false));
        assert_eq!(grant.flags, MountFlags { nosuid: true, nodev: true, noexec: false });
        let grant = decide(&list(), &said(wish("ro", None))).unwrap();
        assert_eq!((grant.propagation, grant.read_only, grant.warning), (MountPropagation::None, true, None));
        assert!(decide(&list(), &wish("team", pod("ml", "x"))).unwrap().flags.noexec);
        let grant = decide(&list(), &said(wish("open", None))).unwrap();
        assert!(grant.read_only && grant.warning.is_none());
    }

    #[test]
    fn propagation_stops_at_the_ceiling() {
        let ask = |handle, p| decide(&list(), &Wish { propagation: Some(p), ..wish(handle, pod("ml", "x")) });
        assert!(ask("team", MountPropagation::HostToContainer).is_ok());
        let denied = ask("team", MountPropagation::Bidirectional).unwrap_err();
        assert!(matches!(denied, Denied::AboveCeiling { ceiling: MountPropagation::HostToContainer, .. }));
        assert!(denied.to_string().contains("Bidirectional") && denied.to_string().contains("HostToContainer at most"));
    }

    #[test]
    fn read_only_and_propagation_are_refused_or_told() {
        let ask = |handle, read_only| {
            let propagation = Some(MountPropagation::HostToContainer);
            decide(&list(), &Wish { propagation, read_only, pod_read_only: read_only, ..wish(handle, None) })
        };
        let by_entry = ask("ro", false).unwrap_err();
        assert!(matches!(by_entry, Denied::ReadOnlyPropagation { by_entry: true, .. }));
        assert!(!by_entry.to_string().contains("without readOnly"), "{by_entry}");
        let by_pod = ask("open", true).unwrap_err();
        assert!(by_pod.to_string().contains("without readOnly"), "{by_pod}");
        assert!(ask("warn", true).unwrap().warning.unwrap().contains("warn"));
        assert!(ask("warn", false).unwrap().warning.is_none());
    }

    #[test]
    fn read_only_is_refused_where_the_pod_does_not_say_it_with_the_line_to_add() {
        let every = [
            (VolumeKind::Inline, "set csi.readOnly: true"),
            (VolumeKind::Claim, "set persistentVolumeClaim.readOnly: true"),
            (VolumeKind::GenericEphemeral, "a generic ephemeral volume cannot say so"),
            (VolumeKind::ClaimOrGenericEphemeral, "generic ephemeral volume, which cannot say so"),
        ];
        for (kind, line) in every {
            for (handle, read_only, by_entry) in [("ro", false, true), ("ro", true, true), ("open", true, false)] {
                let denied = decide(&list(), &Wish { kind, read_only, ..wish(handle, None) }).unwrap_err();
                assert_eq!(denied, Denied::PodNotReadOnly { entry: EntryName::parse(handle).unwrap(), by_entry, kind });
                assert!(denied.to_string().contains(line), "{denied}");
                let grant = decide(&list(), &Wish { kind, ..said(wish(handle, None)) }).unwrap();
                assert!(grant.read_only, "{kind:?}");
                // Staging is for no pod.
                let stage = Wish { kind, read_only, check_user: false, ..wish(handle, None) };
                assert!(decide(&list(), &stage).unwrap().read_only);
            }
            assert!(!decide(&list(), &Wish { kind, ..wish("open", None) }).unwrap().read_only);
        }
    }

    #[test]
    fn a_pod_with_a_user_namespace_gets_no_propagation() {
        let ask = |propagation| {
            decide(&list(), &Wish { propagation: Some(propagation), user_namespace: true, ..wish("open", None) })
        };
        assert!(ask(MountPropagation::None).unwrap().user_namespace);
        for asked in [MountPropagation::HostToContainer, MountPropagation::Bidirectional] {
            let denied = ask(asked).unwrap_err();
            assert!(matches!(denied, Denied::UserNamespacePropagation { .. }), "{denied}");
            assert!(denied.to_string().contains(asked.name()) && denied.to_string().contains("hostUsers: false"));
        }
    }

    #[test]
    fn the_reasons_come_in_order_and_never_show_a_path() {
        let all_wrong = |handle, pod| {
            let propagation = Some(MountPropagation::Bidirectional);
            decide(&list(), &Wish { propagation, read_only: true, ..wish(handle, pod) }).unwrap_err()
        };
        let unsaid = Wish { read_only: true, ..wish("open", None) };
        let mapped =
            Wish { propagation: Some(MountPropagation::HostToContainer), user_namespace: true, ..unsaid.clone() };
        let reasons = [
            all_wrong("none/sub", None),
            all_wrong("team/sub", pod("x", "y")),
            all_wrong("team/sub", None),
            all_wrong("team/sub", pod("ml", "y")),
            all_wrong("team", pod("ml", "y")),
            decide(&list(), &mapped).unwrap_err(),
            all_wrong("open", None),
            decide(&list(), &unsaid).unwrap_err(),
        ];
        assert!(matches!(
            &reasons,
            [
                Denied::UnknownEntry { .. },
                Denied::NotPermitted { pod: Some(_), .. },
                Denied::NotPermitted { pod: None, .. },
                Denied::SubPathsOff { .. },
                Denied::AboveCeiling { .. },
                Denied::UserNamespacePropagation { .. },
                Denied::ReadOnlyPropagation { .. },
                Denied::PodNotReadOnly { .. },
            ]
        ));
        for reason in reasons {
            assert!(!reason.to_string().contains("/secret"), "{reason}");
        }
    }
}
