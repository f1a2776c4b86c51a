//! Heals one volume: looks again, closely, and covers what is dead or gone with what the source's path leads to now.

use crate::config::{AllowList, Heal, Missing};
use crate::engine::{self, AttachJob, Context, TakeSlot};
use crate::mount_error::MountError;
use crate::note::{Note, Shown};
use crate::observe::{self, OpenSource, SourcePath};
use crate::plan::{Found, Mounted};
use crate::propagation::MountPropagation;
use crate::site::Site;
use crate::sys::calls::Calls;
use crate::sys::{Errno, stat, statmount};
use crate::tree::mountinfo::{self, Table, Walk};
use crate::volume::KubeletPath;
use crate::workshop::Slot;

use super::containers::{self, Stale};
use super::find::{self, Verdict};

/// What came of a volume.
#[derive(Debug)]
pub enum Outcome {
    /// It is healed.
    Healed {
        /// On which the new mount was put together.
        slot: Slot,
        /// How many places in containers were replaced.
        entered: usize,
        /// What could not be replaced in containers, in words.
        failures: Vec<String>,
    },
    /// Nothing is to be done, or not yet.
    Left(Verdict),
    /// Its entry is gone, was changed to another directory or a lower ceiling, or doesn't want it to be healed.
    NotWanted,
}

/// Heals the volume at `path`, if it needs it and its entry wants it.
///
/// Containers come before the target: as long as the target shows what is stale, the next look comes back to them. What
/// some of them were given meanwhile is noted, for it may be stale by then too.
///
/// # Errors
/// [`MountError`]; then the volume is as it was, or has fewer layers of what is dead.
pub fn mend(
    context: &mut Context<'_>,
    take_slot: &mut TakeSlot<'_>,
    list: &AllowList,
    path: &KubeletPath,
) -> Result<Outcome, MountError> {
    let site = context.site;
    let kubelet_dir = site.kubelet_dir.as_path();
    let fail = |errno| MountError::Target { path: path.as_path().to_owned(), errno };
    let Some(target) = observe::open_target(site, path)? else { return Ok(Outcome::NotWanted) };
    let Some(note) = Note::read(&target).map_err(fail)? else { return Ok(Outcome::NotWanted) };
    let Some((job, heal)) = wanted(list, path, &note) else { return Ok(Outcome::NotWanted) };
    let Found::Mount(mounted) = observe::find(site, &target).map_err(fail)? else {
        return Ok(Outcome::Left(Verdict::Wait));
    };
    let source = observe::open_source(site, &job.source)?;
    if mounted.dir == Ok(source.source.dir) {
        return Ok(Outcome::Left(Verdict::Same));
    }
    let (table, opened) = table(site, (&mounted, &source), note.propagation, heal).map_err(fail)?;
    let same_mount = Some(source.source.mount.id == note.source_mount);
    let walk = Walk::new(&table);
    // What is open is what will be given, so it must be what the path leads to in this table too. If not, somebody mounts
    // or unmounts there just now, and the event of that asks for the next look.
    let place = note.full_path();
    let Some(now) = walk.mount_at(&place).filter(|m| m.id == opened) else {
        return Ok(Outcome::Left(Verdict::Wait));
    };
    let verdict = find::judge((&table, &walk), kubelet_dir, (path.as_path(), &note), same_mount);
    if !matches!(verdict, Verdict::Follow | Verdict::Replace) {
        return Ok(Outcome::Left(verdict));
    }
    // Opening the source may have hung; from here on something is changed.
    if (context.cancelled)() {
        return Err(MountError::Cancelled);
    }
    let (mut entered, mut failures) = (0, Vec::new());
    if heal == Heal::Containers
        && let Some(top) = walk.mount_at(path.as_path())
    {
        let now = now.shown_at(&place).map(|root| Shown { device: now.device, root });
        let stale = now.and_then(|now| {
            note.giving(&now).write(&target);
            let covered = verdict == Verdict::Follow;
            Stale::of((&table, &walk), kubelet_dir, (path.as_path(), top), (&note, now), covered)
        });
        match stale {
            Some(stale) => (entered, failures) = containers::replace(site, &stale, &source),
            None => failures.push(
                "another volume of the pod shows the same directory, so containers cannot be entered for this one"
                    .to_owned(),
            ),
        }
    }
    let attached = engine::attach_open(context, take_slot, &job, &target, &source)?;
    Note { source_mount: source.source.mount.id, given: Vec::new(), ..note }.write(&target);
    Ok(match attached {
        Some(slot) => Outcome::Healed { slot, entered, failures },
        None => Outcome::Left(Verdict::Same),
    })
}

/// As much of the mount table as judging a volume takes, and the id in it of the mount that the open source lies on: the ways to the volume and to its source. Where others are asked for, its
/// peers or what containers show, it is the whole one. With a thousand volumes to heal it makes a difference.
fn table(
    site: &Site,
    (mounted, source): (&Mounted, &OpenSource),
    propagation: MountPropagation,
    heal: Heal,
) -> Result<(Table, u64), Errno> {
    if site.calls.statmount && propagation != MountPropagation::Bidirectional && heal != Heal::Containers {
        let opened = source.source.mount.id;
        return Ok((statmount::ways_to(&[mounted.mount.id, opened])?, opened));
    }
    let opened = stat::mount_id(&site.proc, Calls::NONE, &source.fd)?;
    Ok((mountinfo::parse(&site.proc.mountinfo()?), opened))
}

/// How a volume is to be healed, if its entry wants that.
pub(crate) fn wanted(list: &AllowList, path: &KubeletPath, note: &Note) -> Option<(AttachJob, Heal)> {
    let entry = list.get(&note.owner.entry)?;
    let same = entry.path == note.path && (entry.sub_paths || note.sub_path.is_none());
    let allowed = entry.heal.wants(note.propagation) && entry.ceiling >= note.propagation;
    let job = || AttachJob {
        source: SourcePath { entry: note.path.clone(), sub_path: note.sub_path.clone(), missing: Missing::Fail },
        target: path.clone(),
        staging: None,
        relation: note.propagation,
        lower: false,
        attrs: note.attrs,
        single_writer: false,
        // The source is of the same type as before, and what is mounted in it meanwhile shows nobody's files at worst.
        user_namespace: false,
        owner: Some(note.owner.clone()),
        follow: true,
    };
    (same && allowed).then(|| (job(), entry.heal))
}
