//! Decides whether a pod may have what it asks for, and with which flags. Pure.

use std::sync::Arc;

use crate::config::{AllowList, Entry, ReadOnlyPropagation};
use crate::propagation::MountPropagation;
use crate::sys::stat::MountAttrs;
use crate::volume::{EntryName, PodIdentity, SubPath, VolumeRef};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask<'a> {
    /// The directory.
    pub volume: &'a VolumeRef,
    /// What must cross; nothing, if the volume doesn't say.
    pub propagation: Option<MountPropagation>,
    /// Flags asked for.
    pub attrs: MountAttrs,
    /// The pod, if the kubelet says.
    pub pod: Option<&'a PodIdentity>,
}

/// What is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The entry.
    pub entry: Arc<Entry>,
    /// What shall cross.
    pub propagation: MountPropagation,
    /// The entry's flags and those asked for.
    pub attrs: MountAttrs,
    /// Something that the log should say about it.
    pub warning: Option<String>,
}

/// Why it isn't granted. The texts go to the pod's events, so they name the entry and never its path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no such entry.
    #[error("the allow-list has no entry {name:?}: name one that it has, or ask an administrator to add it")]
    UnknownEntry {
        /// The name.
        name: String,
    },
    /// The entry isn't for this pod.
    #[error("entry {entry:?} may not be used by {who}: an administrator can add a rule to its `allow`{hint}")]
    NotPermitted {
        /// The entry.
        entry: String,
        /// The pod's namespace and service account, or that they aren't known.
        who: String,
        /// What else may be wrong.
        hint: &'static str,
    },
    /// The entry is for its own directory only.
    #[error(
        "sub-path {sub_path:?} of entry {entry:?} was asked for, but the entry has `subPaths: false`: use the entry itself, or ask an administrator to set it"
    )]
    SubPathsOff {
        /// The entry.
        entry: String,
        /// What was asked for.
        sub_path: String,
    },
    /// More should cross than the entry allows.
    #[error(
        "propagation {asked} was asked for, but entry {entry:?} allows at most {ceiling}: ask for less, or ask an administrator to raise its `propagation`"
    )]
    AboveCeiling {
        /// The entry.
        entry: String,
        /// What was asked for.
        asked: MountPropagation,
        /// What is allowed.
        ceiling: MountPropagation,
    },
    /// Read-only and propagation don't go together for this entry.
    #[error(
        "entry {entry:?} would be read-only with propagation {asked}, but mounts that cross later are not read-only: use propagation None, or ask an administrator to set `readOnlyPropagation: warn`"
    )]
    ReadOnlyPropagation {
        /// The entry.
        entry: String,
        /// What was asked for.
        asked: MountPropagation,
    },
}

/// The entry of a volume, if there is one and it may be named this way. All that staging needs: a staged volume is
/// nobody's yet, and the kubelet says nothing of a pod.
///
/// # Errors
/// [`Denied::UnknownEntry`], [`Denied::SubPathsOff`].
pub fn find<'l>(list: &'l AllowList, volume: &VolumeRef) -> Result<&'l Arc<Entry>, Denied> {
    let entry = entry(list, &volume.entry)?;
    check_sub_path(entry, volume.sub_path.as_ref())?;
    Ok(entry)
}

fn entry<'l>(list: &'l AllowList, name: &EntryName) -> Result<&'l Arc<Entry>, Denied> {
    list.get(name).ok_or_else(|| Denied::UnknownEntry { name: name.to_string() })
}

fn check_sub_path(entry: &Entry, sub_path: Option<&SubPath>) -> Result<(), Denied> {
    match sub_path {
        Some(sub) if !entry.sub_paths => {
            Err(Denied::SubPathsOff { entry: entry.name.to_string(), sub_path: sub.to_string() })
        }
        _ => Ok(()),
    }
}

/// Whether a pod may have a volume, and how.
///
/// Who may comes first: to anybody else, an entry's other properties are none of their business.
///
/// # Errors
/// [`Denied`].
pub fn decide(list: &AllowList, ask: &Ask<'_>) -> Result<Grant, Denied> {
    let entry = entry(list, &ask.volume.entry)?;
    let name = || entry.name.to_string();
    if !entry.allow.iter().any(|rule| rule.permits(ask.pod)) {
        let (who, hint) = match ask.pod {
            Some(pod) => (format!("service account {:?} in namespace {:?}", pod.service_account, pod.namespace), ""),
            None => (
                "a pod that the request does not name".to_owned(),
                "; so that requests name the pod, the CSIDriver object needs `podInfoOnMount: true`",
            ),
        };
        return Err(Denied::NotPermitted { entry: name(), who, hint });
    }
    check_sub_path(entry, ask.volume.sub_path.as_ref())?;
    let propagation = ask.propagation.unwrap_or_default();
    if propagation > entry.ceiling {
        return Err(Denied::AboveCeiling { entry: name(), asked: propagation, ceiling: entry.ceiling });
    }
    let attrs = entry.attrs.union(ask.attrs);
    let mut warning = None;
    if attrs.read_only && propagation > MountPropagation::None {
        match entry.read_only_propagation {
            ReadOnlyPropagation::Refuse => {
                return Err(Denied::ReadOnlyPropagation { entry: name(), asked: propagation });
            }
            ReadOnlyPropagation::Warn => {
                warning = Some(format!(
                    "entry {:?} is published read-only with {propagation}: mounts that cross later keep flags of their own",
                    name()
                ));
            }
        }
    }
    Ok(Grant { entry: Arc::clone(entry), propagation, attrs, warning })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::AbsPath;

    fn list() -> AllowList {
        let text = "entries:
  - {name: data, path: /secret/place, propagation: HostToContainer, subPaths: true, allow: [{namespaces: [ml]}]}
  - {name: flat, path: /flat, readOnly: true, propagation: HostToContainer, allow: [{namespaces: ['*']}]}
  - {name: warned, path: /w, readOnly: true, propagation: HostToContainer, readOnlyPropagation: warn, allow: [{namespaces: ['*']}]}
  - {name: nobody, path: /n}";
        AllowList::parse(text, &AbsPath::parse("/var/lib/kubelet").unwrap()).unwrap()
    }

    fn ask(handle: &str, propagation: Option<MountPropagation>, namespace: Option<&str>) -> Result<Grant, Denied> {
        let pod = namespace.map(|n| PodIdentity {
            namespace: n.into(),
            name: "p".into(),
            uid: "u".into(),
            service_account: "default".into(),
        });
        let volume = VolumeRef::parse_handle(handle).unwrap();
        decide(&list(), &Ask { volume: &volume, propagation, attrs: MountAttrs::default(), pod: pod.as_ref() })
    }

    #[test]
    fn who_may_gets_what_the_entry_gives() {
        let grant = ask("data/a", Some(MountPropagation::HostToContainer), Some("ml")).unwrap();
        assert_eq!(grant.propagation, MountPropagation::HostToContainer);
        assert!(grant.attrs.nosuid && grant.attrs.nodev && !grant.attrs.read_only);
        assert_eq!(ask("data", None, Some("ml")).unwrap().propagation, MountPropagation::None);
    }

    #[test]
    fn who_may_not_is_told_the_entry_and_not_its_path() {
        for namespace in [Some("other"), None] {
            let denied = ask("data", None, namespace).unwrap_err().to_string();
            assert!(denied.contains("\"data\"") && !denied.contains("/secret"), "{denied}");
        }
        assert!(matches!(ask("nobody", None, Some("ml")), Err(Denied::NotPermitted { .. })));
        assert!(ask("data", None, None).unwrap_err().to_string().contains("podInfoOnMount"));
    }

    #[test]
    fn limits_of_the_entry_hold() {
        assert!(matches!(ask("gone", None, Some("ml")), Err(Denied::UnknownEntry { .. })));
        assert!(matches!(ask("flat/x", None, None), Err(Denied::SubPathsOff { .. })));
        let above = ask("data", Some(MountPropagation::Bidirectional), Some("ml")).unwrap_err().to_string();
        assert!(above.contains("Bidirectional") && above.contains("HostToContainer"), "{above}");
    }

    #[test]
    fn read_only_with_propagation_is_refused_or_warned_about() {
        let wish = Some(MountPropagation::HostToContainer);
        assert!(matches!(ask("flat", wish, None), Err(Denied::ReadOnlyPropagation { .. })));
        assert!(ask("flat", None, None).unwrap().attrs.read_only);
        assert!(ask("warned", wish, None).unwrap().warning.is_some());
    }
}
