//! Decides which flags a volume should have in a container, which are missing, and what in the Pod makes up for them.
//! Pure.

use allowlist::config::Entry;
use mounts::MountAttrs;
use plan::record::Record;
use serde::{Deserialize, Serialize};

use super::{Container, Sought, Unknown};

/// A mount flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Flag {
    /// Nothing can be written.
    #[serde(rename = "ro")]
    ReadOnly,
    /// Set-user-id and set-group-id bits and file capabilities have no effect.
    #[serde(rename = "nosuid")]
    Nosuid,
    /// Device nodes can't be opened.
    #[serde(rename = "nodev")]
    Nodev,
    /// Nothing can be executed.
    #[serde(rename = "noexec")]
    Noexec,
}

impl Flag {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ReadOnly, Self::Nosuid, Self::Nodev, Self::Noexec];

    /// Its name in mount(8).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "ro",
            Self::Nosuid => "nosuid",
            Self::Nodev => "nodev",
            Self::Noexec => "noexec",
        }
    }

    /// Whether it is set in these flags.
    #[must_use]
    pub const fn is_in(self, attrs: MountAttrs) -> bool {
        match self {
            Self::ReadOnly => attrs.read_only,
            Self::Nosuid => attrs.nosuid,
            Self::Nodev => attrs.nodev,
            Self::Noexec => attrs.noexec,
        }
    }

    /// The flags that are set in these.
    pub fn of(attrs: MountAttrs) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |flag| flag.is_in(attrs))
    }

    /// What a container without this flag can do. Completes the sentence "the container can ...".
    #[must_use]
    pub const fn danger(self) -> &'static str {
        match self {
            Self::ReadOnly => "write to the node's directory",
            Self::Nosuid => "gain what set-user-id programs and file capabilities in the directory give",
            Self::Nodev => "open device nodes in the directory",
            Self::Noexec => "execute what is in the directory",
        }
    }

    /// The field of the Pod that has the same effect as the flag.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::ReadOnly => {
                "set readOnly: true in the Pod's volume (volumes[].csi or volumes[].persistentVolumeClaim) and create the \
                 pod anew"
            }
            Self::Nosuid => "set securityContext.allowPrivilegeEscalation: false for the container",
            Self::Nodev => "remove securityContext.privileged: true and the capabilities ALL from the container",
            Self::Noexec => {
                "no field of the Pod does it: where it matters, keep programs out of the directory, or use a runtime that \
                 keeps noexec (docs/allow-list.md)"
            }
        }
    }
}

/// The flags that a volume should have: those that its entry has now, and those that the volume itself asked for. If
/// the entry is gone, those that were granted.
#[must_use]
pub fn wanted(record: &Record, entry: Option<&Entry>) -> MountAttrs {
    let asked = record.owner.asked;
    let Some(entry) = entry else { return record.attrs };
    entry.flags.attrs(entry.read_only || asked.read_only).union(asked.attrs)
}

/// What confines a process besides the flags of its mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confinement {
    /// No program can give it more privileges (`NoNewPrivs`). This has the effect of nosuid. The Pod sets it by
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privileges: bool,
    /// The runtime's filter keeps it from devices. This has the effect of nodev. Every container that isn't
    /// `privileged` has it.
    pub device_filter: bool,
}

impl Confinement {
    /// Reads the confinement of a process from its status file (proc_pid_status(5)). `all` are the kernel's
    /// capabilities.
    ///
    /// Device filters can't be read in the same way for both versions of control groups. But Kubernetes removes the
    /// filter only from privileged containers, and only these have all capabilities. A container that asks for all of
    /// them by name is an exception: it counts as privileged.
    #[must_use]
    pub fn of(status: &str, all: u64) -> Option<Self> {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let bounding = u64::from_str_radix(field("CapBnd:")?, 16).ok()?;
        Some(Self { no_new_privileges: field("NoNewPrivs:")? == "1", device_filter: bounding & all != all })
    }

    /// The confinement that both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            no_new_privileges: self.no_new_privileges && other.no_new_privileges,
            device_filter: self.device_filter && other.device_filter,
        }
    }

    /// The flags that it makes up for.
    #[must_use]
    pub const fn instead_of(self) -> MountAttrs {
        MountAttrs { read_only: false, nosuid: self.no_new_privileges, nodev: self.device_filter, noexec: false }
    }
}

/// All capabilities up to `last`, as bits.
#[must_use]
pub const fn capabilities_up_to(last: u32) -> u64 {
    match last {
        0..63 => (1 << (last + 1)) - 1,
        _ => u64::MAX,
    }
}

/// How many volumes lack flags in some container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// For each of [`Flag::ALL`], in that order.
    pub weaker: [usize; 4],
    /// Volumes whose state is unknown.
    pub unknown: usize,
}

/// Adds up the missing flags of containers.
#[derive(Debug)]
pub struct Tally<'v> {
    sought: &'v [Sought],
    /// For each sought volume, the flags that it lacks; none if it was not found.
    found: Vec<Option<MountAttrs>>,
}

impl<'v> Tally<'v> {
    /// A tally of no container yet.
    #[must_use]
    pub fn new(sought: &'v [Sought]) -> Self {
        Self { sought, found: vec![None; sought.len()] }
    }

    /// Adds a container.
    pub fn see(&mut self, container: &Container) {
        for place in &container.places {
            for &volume in &place.volumes {
                if let Some(known) = self.found.get_mut(volume) {
                    *known = Some(known.unwrap_or_default().union(place.missing));
                }
            }
        }
    }

    /// The counts, together with what could not be examined.
    #[must_use]
    pub fn counts(&self, unknown: &Unknown) -> Counts {
        let mut counts = Counts::default();
        for (found, sought) in self.found.iter().zip(self.sought) {
            counts.unknown += usize::from(unknown.of(&sought.pod, found.is_some()).is_some());
            for (count, flag) in counts.weaker.iter_mut().zip(Flag::ALL) {
                *count += usize::from(flag.is_in(found.unwrap_or_default()));
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::containers::Place;
    use crate::fixture::record;
    use allowlist::config::AllowList;
    use allowlist::names::AbsPath;
    use plan::record::{Asked, Owner, Record};

    const NONE: MountAttrs = MountAttrs { read_only: false, nosuid: false, nodev: false, noexec: false };
    const RO: MountAttrs = MountAttrs { read_only: true, ..NONE };
    const NOSUID: MountAttrs = MountAttrs { nosuid: true, ..NONE };

    fn entry(more: &str) -> Arc<Entry> {
        let text = format!("entries: [{{name: data, path: /src, {more}}}]");
        let list = AllowList::parse(&text, &AbsPath::parse("/k").unwrap()).unwrap();
        Arc::clone(list.iter().next().unwrap())
    }

    #[test]
    fn a_volume_shall_have_what_its_entry_has_now_and_what_it_asked_for() {
        let granted = Record { attrs: RO.union(NOSUID), ..record() };
        let bare = entry("nosuid: false, nodev: false");
        assert_eq!(wanted(&granted, None), RO.union(NOSUID), "nobody else knows");
        assert_eq!(wanted(&granted, Some(&bare)), NONE, "the administrator wants it no longer");
        assert_eq!(wanted(&record(), Some(&entry("readOnly: true, nodev: false"))), RO.union(NOSUID));
        let asked = Asked { read_only: true, attrs: MountAttrs { noexec: true, ..NONE }, ..Asked::default() };
        let asking = Record { owner: Owner { asked, ..record().owner }, ..record() };
        assert_eq!(wanted(&asking, Some(&bare)), MountAttrs { noexec: true, ..RO });
    }

    #[test]
    fn what_makes_up_for_a_flag_is_read_from_the_kernels_words_alone() {
        let all = capabilities_up_to(40);
        assert_eq!((all, capabilities_up_to(63)), (0x1ff_ffff_ffff, u64::MAX));
        let of = |text: &str| Confinement::of(text, all);
        let confined = |no_new_privileges, device_filter| Some(Confinement { no_new_privileges, device_filter });
        assert_eq!(of("Name:\tx\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\n"), confined(true, true));
        assert_eq!(of("CapBnd:\t000001ffffffffff\nNoNewPrivs:\t0\n"), confined(false, false));
        // The kernel escapes the line break in a name (fs/proc/array.c, proc_task_name).
        let forged = "Name:\tx\\nNoNewPrivs:\t1\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t0\n";
        assert_eq!(of(forged), confined(false, false));
        assert_eq!(of("CapBnd:\t0\n"), None);
    }

    #[test]
    fn a_volume_is_counted_once_for_each_flag_however_many_containers_lack_it() {
        let sought = ["a", "b", "c", "d"].map(|pod| Sought { pod: pod.into(), shown: Vec::new(), wanted: RO });
        let mut tally = Tally::new(&sought);
        let see = |tally: &mut Tally<'_>, volumes: &[usize], missing| {
            let place = Place { volumes: volumes.into(), path: "/x".into(), attrs: NONE, missing };
            tally.see(&Container { pid: 1, pod: "a".into(), name: None, places: vec![place.clone(), place] });
        };
        see(&mut tally, &[0], RO);
        see(&mut tally, &[0, 1], NOSUID);
        see(&mut tally, &[2], NONE);
        see(&mut tally, &[9], NONE);
        let counts = |unknown: &Unknown| tally.counts(unknown);
        assert_eq!(counts(&Unknown::default()), Counts { weaker: [1, 2, 0, 0], unknown: 0 });
        let pod = Unknown { pods: [("c".to_owned(), "why".to_owned())].into(), rest: None };
        assert_eq!(counts(&pod).unknown, 1);
        let rest = Unknown { rest: Some("why".into()), ..Unknown::default() };
        assert_eq!(counts(&rest).unknown, 1, "the others were found");
    }
}
