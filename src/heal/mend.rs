//! Heals one volume: looks again, closely, and covers what is dead or gone with what the source's path leads to now.

use crate::config::{AllowList, Heal, Missing};
use crate::engine::{self, AttachJob, Context, MountError, TakeSlot};
use crate::note::{Note, Shown};
use crate::observe::{self, SourcePath};
use crate::plan::Found;
use crate::tree::mountinfo::{self, Walk};
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
    let table = mountinfo::parse(&site.proc.mountinfo().map_err(fail)?);
    let same_mount = Some(source.source.mount.id == note.source_mount);
    let walk = Walk::new(&table);
    let verdict = find::judge((&table, &walk), kubelet_dir, (path.as_path(), &note), same_mount);
    if !matches!(verdict, Verdict::Follow | Verdict::Replace) {
        return Ok(Outcome::Left(verdict));
    }
    let (mut entered, mut failures) = (0, Vec::new());
    if heal == Heal::Containers
        && let Some(top) = walk.mount_at(path.as_path())
    {
        let place = note.full_path();
        let now = walk.mount_at(&place).and_then(|m| Some(Shown { device: m.device, root: m.shown_at(&place)? }));
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
    let attached = engine::attach(context, take_slot, &job)?;
    Note { source_mount: source.source.mount.id, given: Vec::new(), ..note }.write(&target);
    Ok(match attached {
        Some(slot) => Outcome::Healed { slot, entered, failures },
        None => Outcome::Left(Verdict::Same),
    })
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
        owner: Some(note.owner.clone()),
        follow: true,
    };
    (same && allowed).then(|| (job(), entry.heal))
}
