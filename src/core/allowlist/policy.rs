//! Decides whether a pod may have a directory, and under which conditions. Pure: allow-list and wish in, grant or
//! refusal out.
//!
//! A refusal names entries and fields of the allow-list. It never has a path of the node, nor an entry that the pod
//! didn't name itself. `service::refusals` has the part that the pod's author reads.

mod denied;

use std::sync::Arc;

use mounts::MountAttrs;
use mounts::propagation::MountPropagation;

use crate::config::{AllowList, Entry, MountFlags, Pattern, ReadOnlyPropagation};
use crate::names::{PodIdentity, SubPath, VolumeKind, VolumeRef};
pub use denied::{Denied, read_only_advice};

/// What a volume asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct Wish {
    /// The entry and the directory beneath it.
    pub volume: VolumeRef,
    /// The propagation. None: as [`MountPropagation::None`].
    pub propagation: Option<MountPropagation>,
    /// Whether the volume is asked for read-only, by anything but the entry.
    pub read_only: bool,
    /// Whether the Pod asks for read-only (NodePublishVolumeRequest.readonly).
    pub pod_read_only: bool,
    /// How the pod has the volume.
    pub kind: VolumeKind,
    /// Whether the pod has its own user namespace (`hostUsers: false`), as far as known.
    pub user_namespace: bool,
    /// The pod, if the request names one.
    pub pod: Option<Arc<PodIdentity>>,
    /// Whether the request is for a pod. Then the pod must be allowed to use the entry, and must ask for read-only
    /// itself where the volume is. Staging is for a node, so it skips both checks; the publish of the same volume makes
    /// them.
    pub check_user: bool,
}

/// The conditions under which a volume may be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The directory beneath it.
    pub sub_path: Option<SubPath>,
    /// The propagation asked for; never above the entry's ceiling.
    pub propagation: MountPropagation,
    /// Whether the volume is read-only, because the pod or the entry says so.
    pub read_only: bool,
    /// The entry's mount flags.
    pub flags: MountFlags,
    /// Whether the pod's runtime maps the owners of the volume's files. Not every source allows that.
    pub user_namespace: bool,
    /// A warning for the pod's owner and the log, although the volume is granted.
    pub warning: Option<String>,
}

impl Grant {
    /// The flags of the volume's mount: the entry's, and those asked for.
    #[must_use]
    pub const fn attrs(&self, asked: MountAttrs) -> MountAttrs {
        self.flags.attrs(self.read_only).union(asked)
    }
}

impl Entry {
    /// Whether the pod may use the entry. An unknown pod needs a rule whose namespaces and service accounts both have
    /// `*`, since nothing else can match it.
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

/// The entry of a wish, if the wish may have it at all. Doesn't look at propagation or read-only.
///
/// # Errors
/// The first of [`Denied::UnknownEntry`], [`Denied::NotPermitted`], [`Denied::SubPathsOff`]. A pod without permission
/// learns only that the entry exists.
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
    use crate::names::{AbsPath, EntryName};

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

    /// As if the Pod asked for read-only.
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
