//! Heals one volume: examines it closely, then covers or replaces what is dead or gone with what the source's path
//! leads to now.
//!
//! What the volume is given is decided as if it were published now: by the allow-list in force, with what was noted of
//! the pod and its request.

use std::sync::Arc;
use std::time::SystemTime;

use allowlist::config::{AllowList, Heal, Missing};
use allowlist::names::{PodIdentity, Target, VolumeRef};
use allowlist::policy::{self, Wish};
use engine::mount_error::MountError;
use engine::observe::{self, OpenSource, SourcePath};
use engine::site::Site;
use engine::staging_area::Slot;
use engine::{AttachJob, Context, TakeSlot, record};
use mounts::mountinfo::{Mount, Table, Walk};
use mounts::propagation::MountPropagation;
use mounts::{DirId, Errno};
use plan::healing::{self, Change, Verdict};
use plan::record::{PathMounts, Record};
use plan::{Found, Mounted};

use super::notice::{NotGiven, Notice};
use super::replaced::{self, Untrusted};

/// What is known of the source of a volume that is due. It comes from a mount table that takes long to read.
#[derive(Debug, Clone)]
pub struct Looked {
    /// The id of the mount that its path led to.
    pub mount: u64,
    /// What happened to it, as far as that can be told without the volume's record.
    pub change: Change,
    /// The mounts on the path to it. None if they are too many to keep.
    pub path_mounts: Option<Arc<PathMounts>>,
    /// Why a directory that replaced another one there is not followed, if pods may have put it there.
    pub exposed: Option<Arc<Untrusted>>,
    /// What containers of renewed volumes may still have ([`Record::left`]). Set only if a directory was replaced.
    pub left: Arc<[DirId]>,
}

/// The outcome for a volume.
#[derive(Debug)]
pub enum Outcome {
    /// It is healed.
    Healed {
        /// The slot on which the new mount was put together.
        slot: Slot,
        /// Whether only containers that start from now on have it, because the mount at the target was replaced.
        renewed: bool,
    },
    /// Nothing is to be done, or not yet.
    Left(Verdict),
    /// It is due, but stays as it is. Holds the pod's notice, and the reason for the administrator.
    Refused(Notice, String),
    /// It isn't ours any more, or its entry has healing off.
    NotWanted,
}

/// Heals the volume at `path`, if it needs healing and the pod may have it. Also returns the volume's pod, as far as it
/// is noted.
///
/// # Errors
/// [`MountError`]. The volume is then as it was, or has fewer dead layers.
pub fn mend(
    context: &mut Context<'_>,
    take_slot: &mut TakeSlot<'_>,
    list: &AllowList,
    (path, looked): (&Target, &Looked),
) -> Result<(Outcome, Option<Arc<PodIdentity>>), MountError> {
    let site = context.site;
    let fail = |errno| MountError::Target { path: path.as_path().to_owned(), errno };
    let nobody = |outcome| Ok((outcome, None));
    let Some(target) = observe::open_target(site, path)? else { return nobody(Outcome::NotWanted) };
    let Some(record) = target.record().map_err(fail)? else { return nobody(Outcome::NotWanted) };
    let pod = record.owner.user.pod().cloned();
    let job = match wanted(list, path, &record) {
        Err(Unwanted::Off) => return nobody(Outcome::NotWanted),
        job => job,
    };
    let Found::Mount(mounted) = observe::find(site, &target).map_err(fail)? else {
        return nobody(Outcome::Left(Verdict::Wait));
    };
    let source = observe::open_source(site, &source_of(&record))?;
    if mounted.dir == Ok(source.source.dir) {
        // It got that with a peer that was healed. Without statmount, what lies on the way to the source is noted only if
        // the record names the mount that is there now.
        let source_mount = source.source.mount.id;
        if record.source_mount != source_mount {
            target.replace_record(Record { source_mount, ..record });
        }
        return nobody(Outcome::Left(Verdict::Same));
    }
    let table = table(site, (&mounted, &source), record.propagation).map_err(fail)?;
    let walk = Walk::new(&table);
    // The volume is given what is open. So the path must lead to that in this table too, and the earlier look must have
    // seen the same. If not, something is being mounted or unmounted there, and its event causes the next look.
    let place = record.full_path();
    let opened = source.source.mount.id;
    let seen = looked.mount == opened && walk.mount_at(&place).is_some_and(|mount| mount.id == opened);
    let Some(top) = walk.mount_at(path.as_path()).filter(|_| seen) else {
        return nobody(Outcome::Left(Verdict::Wait));
    };
    let verdict = healing::judge((&table, &walk), &site.layout, (path.as_path(), &record));
    let Verdict::Due(change) = verdict else { return nobody(Outcome::Left(verdict)) };
    if change != looked.change {
        return nobody(Outcome::Left(Verdict::Wait));
    }
    let peers = || peers_are_given_the_same(site, (&table, &walk), (list, top), &record);
    let job = match job.and_then(|job| peers().map(|()| job)) {
        Ok(job) => job,
        Err(Unwanted::Off) => return nobody(Outcome::NotWanted),
        Err(Unwanted::NotGiven(why)) => {
            let text = why.to_string();
            return Ok((Outcome::Refused(Notice::NotGiven(why), text), pod));
        }
    };
    if change == Change::Replaced {
        let trusted = match &looked.exposed {
            Some(why) => Err(why.to_string()),
            None if record.left.len() >= Record::LEFT_MAX => Err(format!(
                "it was replaced {} times already since its pod was started: restart the pod",
                Record::LEFT_MAX
            )),
            None => replaced::only_root_writes(site, &walk, &place, &looked.left)
                .and_then(|parent| replaced::leads_to(site, &parent, &place, &source))
                .map_err(|why| why.to_string()),
        };
        if let Err(why) = trusted {
            return Ok((Outcome::Refused(Notice::NotFollowed, why), pod));
        }
    }
    // Opening the source may have hung. From here on mounts are changed.
    if (context.cancelled)() {
        return Err(MountError::Cancelled);
    }
    // Noted before the change: if the plugin is killed right after it, nothing could tell any more.
    let renewed = record.propagation == MountPropagation::None || walk.lowest(top).root_deleted;
    let mut noted = record.clone();
    // A process that has the old directory open, or has its mount, still has it.
    let left = mounted.dir.ok().filter(|_| change == Change::Replaced);
    noted.left.extend(left);
    if renewed {
        noted.renewed = SystemTime::UNIX_EPOCH.elapsed().ok().map(|since| since.as_secs());
    }
    let marked = renewed || left.is_some();
    if marked {
        target.set_record(&noted);
    }
    let attached = engine::attach_open(context, take_slot, &job, &target, &source);
    match &attached {
        Ok(slot) => {
            let renewed = if slot.is_some() { noted.renewed } else { record.renewed };
            let path_mounts = looked.path_mounts.clone();
            target.replace_record(Record { source_mount: opened, attrs: job.attrs, path_mounts, renewed, ..noted });
        }
        Err(_) if marked => {
            target.set_record(&record);
        }
        Err(_) => {}
    }
    let outcome = match attached? {
        Some(slot) => Outcome::Healed { slot, renewed },
        None => Outcome::Left(Verdict::Same),
    };
    Ok((outcome, pod))
}

/// The part of the mount table that judging a volume takes: the paths to the volume and to its source. If the volume
/// has peers, it is the whole table. With a thousand volumes to heal that makes a difference.
fn table(
    site: &Site,
    (mounted, source): (&Mounted, &OpenSource),
    propagation: MountPropagation,
) -> Result<Table, Errno> {
    if propagation == MountPropagation::Bidirectional {
        return site.calls.table(&site.proc, &mut |_| true);
    }
    site.calls.ways_to(&site.proc, &[mounted.mount.id, source.source.mount.id])
}

/// Checks that all peers of this volume may have what it is given, with the same flags, because they receive it too.
fn peers_are_given_the_same(
    site: &Site,
    (table, walk): (&Table, &Walk<'_>),
    (list, top): (&AllowList, &Mount),
    record: &Record,
) -> Result<(), Unwanted> {
    if record.propagation != MountPropagation::Bidirectional {
        return Ok(());
    }
    let groups: Vec<u64> = walk.stack(top).iter().filter_map(|mount| mount.propagation.peer_group).collect();
    let is_peer = |mount: &&Mount| mount.propagation.peer_group.is_some_and(|group| groups.contains(&group));
    let mut flags = None;
    for mount in table.mounts.iter().filter(is_peer) {
        // `healing::judge` checks peers that are no volumes of ours.
        let path = mount.mount_point.to_str().and_then(|at| Target::parse(at, &site.layout.base).ok());
        let Some((path, record)) = path.and_then(|path| record::of(site, &path).map(|record| (path, record))) else {
            continue;
        };
        let attrs = wanted(list, &path, &record).map(|job| job.attrs);
        if !attrs.is_ok_and(|attrs| *flags.get_or_insert(attrs) == attrs) {
            return Err(Unwanted::NotGiven(NotGiven::SharedWithOthers));
        }
    }
    Ok(())
}

/// Why a volume is not healed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unwanted {
    /// Its entry has healing off.
    Off,
    /// The pod may not have it any more.
    NotGiven(NotGiven),
}

fn source_of(record: &Record) -> SourcePath {
    SourcePath { entry: record.path.clone(), sub_path: record.sub_path.clone(), missing: Missing::Fail }
}

/// The job that heals a volume: it is attached as it would be published now.
pub fn wanted(list: &AllowList, path: &Target, record: &Record) -> Result<AttachJob, Unwanted> {
    let owner = &record.owner;
    if list.get(&owner.entry).is_some_and(|entry| entry.heal == Heal::Off) {
        return Err(Unwanted::Off);
    }
    let wish = Wish {
        volume: VolumeRef { entry: owner.entry.clone(), sub_path: record.sub_path.clone() },
        propagation: Some(record.propagation),
        read_only: owner.asked.read_only,
        pod_read_only: owner.asked.pod_read_only,
        kind: owner.kind(),
        user_namespace: record.user_namespace,
        pod: owner.user.pod().cloned(),
        check_user: true,
    };
    let grant = policy::decide(list, &wish).map_err(|denied| Unwanted::NotGiven(denied.into()))?;
    if grant.entry.path != record.path {
        return Err(Unwanted::NotGiven(NotGiven::OtherDirectory(owner.entry.clone())));
    }
    Ok(AttachJob {
        source: source_of(record),
        target: path.clone(),
        staging: None,
        relation: grant.propagation,
        lower: false,
        attrs: grant.attrs(owner.asked.attrs),
        single_writer: false,
        user_namespace: grant.user_namespace,
        owner: Some(owner.clone()),
        follow: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusals::ForAuthor;
    use allowlist::names::{AbsPath, User};
    use mounts::MountAttrs;
    use plan::record::{Asked, Owner};

    /// The flags that a volume of the entry `data`, of a pod in the namespace `ml`, would be given by such an entry.
    fn given(entry: &str, record: &Record) -> Result<MountAttrs, Unwanted> {
        let kubelet = AbsPath::parse("/k").unwrap();
        let list = AllowList::parse(&format!("entries: [{entry}]"), &kubelet).unwrap_or_else(|e| panic!("{e}"));
        let path = Target::parse("/k/pods/u/volumes/kubernetes.io~csi/v/mount", &kubelet).unwrap();
        wanted(&list, &path, record).map(|job| job.attrs)
    }

    #[test]
    fn what_is_given_is_what_a_publish_would_be_given_now() {
        let pod = PodIdentity {
            namespace: "ml".into(),
            name: "p".into(),
            uid: "u".into(),
            service_account: "default".into(),
        };
        let owner = Owner { user: User::Pod(Arc::new(pod)), ..crate::fixture::record().owner };
        let record = Record { owner, ..crate::fixture::record() };
        let entry = |more: &str| format!("{{name: data, path: /src, propagation: HostToContainer{more}}}");
        let allow = ", allow: [{namespaces: [ml]}]";
        let flags = MountAttrs { nosuid: true, nodev: true, ..MountAttrs::default() };
        assert_eq!(given(&entry(allow), &record), Ok(flags));
        assert_eq!(given(&entry(&format!("{allow}, heal: 'Off'")), &record), Err(Unwanted::Off));
        let denied = |entry: &str, word: &str| match given(entry, &record) {
            Err(Unwanted::NotGiven(why)) => {
                let text = why.for_author();
                assert!(text.as_str().contains(word) && !text.as_str().contains("/src"), "{text}");
            }
            other => panic!("{entry}: {other:?}"),
        };
        denied(&entry(", allow: [{namespaces: [other]}]"), "may not use");
        denied(&entry(""), "may not use");
        denied("{name: other, path: /src}", "does not have");
        denied(&entry(allow).replace("HostToContainer", "None"), "allows None at most");
        denied(&entry(&format!("{allow}, readOnly: true")), "read-only");
        denied(&entry(allow).replace("/src", "/another"), "another directory");
        let mapped = Record { user_namespace: true, ..record.clone() };
        let refused = given(&entry(allow), &mapped);
        assert!(matches!(refused, Err(Unwanted::NotGiven(NotGiven::Denied(_)))), "hostUsers: false: {refused:?}");
        // The flags that the entry has now, and those that the volume asked for.
        let asked = Asked { attrs: MountAttrs { noexec: true, ..MountAttrs::default() }, ..Asked::default() };
        let record = Record { owner: Owner { asked, ..record.owner.clone() }, ..record };
        let all = MountAttrs { noexec: true, ..flags };
        assert_eq!(given(&entry(allow), &record), Ok(all));
        assert_eq!(given(&entry(&format!("{allow}, nosuid: false, nodev: false")), &record), Ok(asked.attrs));
        // Read-only, because the volume asked for it.
        let asked = Asked { read_only: true, pod_read_only: true, ..Asked::default() };
        let record =
            Record { owner: Owner { asked, ..record.owner.clone() }, propagation: MountPropagation::None, ..record };
        assert_eq!(given(&entry(allow), &record), Ok(MountAttrs { read_only: true, ..flags }));
    }
}
