//! Makes a volume appear at its target: observe, decide, put together, move, verify.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use allowlist::config::Missing;
use allowlist::names::{SubPath, Target};
use kernel::stat;
use mounts::Errno;
use mounts::mountinfo;
use plan::record::{Argument, Owner, Record};
use plan::{Clear, Decision, Difference, Found, Mounted, Refused, Source, Step, Wish, idmap};

use crate::apply::{Failed, Run, Stopped, Work, run_all, take_back};
use crate::detach::{failed, take_layer, take_off};
use crate::make_source::{self, Made, NotMade};
use crate::mount_error::MountError;
use crate::observe::{self, Look, OpenSource, SourcePath, TargetPlace, target_error};
use crate::shortage::{Full, Room};
use crate::site::Site;
use crate::staging_area::Slot;
use crate::{AttachJob, Attached, Context, Hooked, TakeSlot};

/// Makes a volume appear at its target.
///
/// A volume with this id and these arguments that is already there stays, whatever allow-list and source have become. A
/// running pod has it, and failing the kubelet's repeated call would cost the pod its volume (kubernetes#139045). A
/// copy at a staging path stays too, whatever it shows. The kubelet names that path after the volume's id, and each
/// publish compares the copy with the source before using it.
///
/// The slot is taken only when something will be mounted, so a refused call makes no staging area.
///
/// # Errors
/// [`MountError`]. The mount table is then as it was before.
pub fn attach(
    context: &mut Context<'_>,
    take_slot: &mut TakeSlot<'_>,
    job: &AttachJob,
) -> Result<Attached, MountError> {
    let target = target_of(context.site, job)?;
    let found = match look(context.site, &job.target, &target)? {
        Look::Unmounted(found) => Some(found),
        Look::Mount if job.lower => return Ok(Attached::Kept { agrees: true }),
        Look::Mount => {
            let record = job.owner.as_ref().map_or(Ok(None), |_| read_record(&job.target, &target))?;
            if let (Some(record), Some(owner)) = (record, &job.owner) {
                record
                    .is_repeated_by(owner, job.source.sub_path.as_ref())
                    .map_err(|argument| other_arguments(&job.target, argument))?;
                return Ok(Attached::Kept { agrees: agrees(&record, job) });
            }
            None
        }
    };
    put(context, take_slot, job, &target, found)
}

/// Whether what a request asks for is there already. At a target: a volume recorded with this owner and sub-path. At a
/// staging path, which has no owner: any mount. Asks only the kubelet's own file system and the kernel.
///
/// # Errors
/// [`MountError`].
pub fn is_kept(site: &Site, path: &Target, of: Option<&(Owner, Option<SubPath>)>) -> Result<bool, MountError> {
    let Some(target) = observe::open_target(site, path)? else { return Ok(false) };
    if look(site, path, &target)? != Look::Mount {
        return Ok(false);
    }
    let Some((owner, sub_path)) = of else { return Ok(true) };
    let record = read_record(path, &target)?;
    Ok(record.is_some_and(|record| record.is_repeated_by(owner, sub_path.as_ref()).is_ok()))
}

fn target_of(site: &Site, job: &AttachJob) -> Result<TargetPlace, MountError> {
    observe::open_target(site, &job.target)?
        .ok_or_else(|| MountError::TargetParentMissing { path: job.target.as_path().to_owned() })
}

fn look(site: &Site, path: &Target, target: &TargetPlace) -> Result<Look, MountError> {
    observe::look(site, target).map_err(|errno| target_error(path, errno))
}

fn read_record(path: &Target, target: &TargetPlace) -> Result<Option<Record>, MountError> {
    target.record().map_err(|errno| target_error(path, errno))
}

fn other_arguments(path: &Target, argument: Argument) -> MountError {
    MountError::OtherArguments { path: path.as_path().to_owned(), argument }
}

/// Whether a publish now would make the same volume. Other flags that it has come from its entry or its mount.
fn agrees(record: &Record, job: &AttachJob) -> bool {
    record.path == job.source.entry
        && record.propagation == job.relation
        && record.attrs.read_only == job.attrs.read_only
        && record.attrs.covers(job.attrs)
}

/// Publishes or stages the source. Makes it first, if it is missing and its entry says so.
fn put(
    context: &mut Context<'_>,
    take_slot: &mut TakeSlot<'_>,
    job: &AttachJob,
    target: &TargetPlace,
    found: Option<Found>,
) -> Result<Attached, MountError> {
    let site = context.site;
    let slot = match observe::open_source(site, &job.source) {
        Err(MountError::SourceMissing { .. }) if job.source.missing != Missing::Fail => {
            let made = make_source::make(context.hook.as_deref_mut(), context.cancelled, &job.source)?;
            let result = open_made(site, &job.source, &made)
                .and_then(|open| attach_found(context, take_slot, job, (target, found), &open));
            if result.is_err() {
                made.forget();
            }
            result?
        }
        open => attach_found(context, take_slot, job, (target, found), &open?)?,
    };
    Ok(slot.map_or(Attached::There, Attached::Made))
}

/// Opens the source that was made by its path, and checks that the path leads to it.
fn open_made(site: &Site, source: &SourcePath, made: &Made) -> Result<OpenSource, MountError> {
    let open = observe::open_source(site, source)?;
    if made.source().is_some_and(|id| id != open.source.dir) {
        return Err(MountError::SourceNotMade { path: source.full(), why: NotMade::Exchanged });
    }
    Ok(open)
}

/// As [`attach`], with a source that is already open. So the directory that was checked is the one that is mounted.
///
/// # Errors
/// As [`attach`].
pub fn attach_open(
    context: &mut Context<'_>,
    take_slot: &mut TakeSlot<'_>,
    job: &AttachJob,
    target: &TargetPlace,
    open: &OpenSource,
) -> Result<Option<Slot>, MountError> {
    attach_found(context, take_slot, job, (target, None), open)
}

/// As [`attach_open`], with what was found at the target, if that was read already and is no mount.
fn attach_found(
    context: &mut Context<'_>,
    take_slot: &mut TakeSlot<'_>,
    job: &AttachJob,
    (target, looked): (&TargetPlace, Option<Found>),
    open: &OpenSource,
) -> Result<Option<Slot>, MountError> {
    let site = context.site;
    let source = &open.source;
    let place = || job.target.as_path().to_owned();
    let relation =
        if job.lower { plan::staging_relation(job.relation, source.mount.propagation) } else { job.relation };
    let wish = Wish { relation, attrs: job.attrs, follow: job.follow };
    let staging = find_staging(site, job)?;
    let staged = staging.as_ref().map(|(mounted, _)| mounted);
    let decide = |found: &Found| plan::attach(source, staged, found, wish).map_err(|refused| refusal(refused, job));
    let find = || {
        let found = observe::find(site, target).map_err(|errno| target_error(&job.target, errno))?;
        decide(&found)
    };
    let Decision::Attach(attach) = looked.map_or_else(find, |found| decide(&found))? else { return Ok(None) };
    // Opening the source may have hung. What follows makes changes.
    if (context.cancelled)() {
        return Err(MountError::Cancelled);
    }
    if job.single_writer
        && let Some(other) = other_writer(site, open, job)?
    {
        return Err(MountError::SecondWriter { other });
    }
    if job.user_namespace {
        can_be_mapped(site, open, job)?;
    }
    let slot = take_slot().map_err(|(path, errno)| match Room::now(site) {
        room if errno == Errno::ENOSPC && room.is_full() => {
            MountError::TooManyMounts { path: place(), full: Full::Callers, room }
        }
        _ => MountError::StagingArea { path, errno },
    })?;
    let work = Work {
        site,
        source: Some(&open.fd),
        staging: staging.as_ref().map(|(_, root)| root),
        slot: Some(&slot),
        target,
        copy: None,
    };
    let mut run = Hooked { work, hook: context.hook.as_mut() };
    let attach = match attach.clear {
        Clear::Nothing => attach,
        // A layer below may already be as wished: healing a peer reaches the targets of its peers too.
        Clear::Layers { .. } => loop {
            match find()? {
                Decision::Done => return Ok(Some(slot)),
                Decision::Attach(attach) => {
                    if take_layer(site, target, &mut run)? {
                        continue;
                    }
                    break attach;
                }
            }
        },
    };
    let noted = job.owner.as_ref().filter(|_| !job.follow).map(|owner| {
        // A mount that will be covered stays there if this fails. Its record is put back then.
        let before = (attach.clear != Clear::Nothing).then(|| target.record().ok().flatten()).flatten();
        target.set_record(&record(job, owner, source));
        before
    });
    let stopped = |why| stopped(site, job.target.as_path(), why);
    let made = match attach.steps.split_last() {
        Some((Step::MoveBeneath, made)) => replace(site, target, &mut run, (made, context.cancelled), &stopped),
        _ => run_all(&mut run, &attach.steps, context.cancelled).map_err(stopped),
    };
    let checked = made.and_then(|()| {
        let checked = match observe::find(site, target) {
            Ok(Found::Mount(made)) => plan::compare(source, staged, &made, wish),
            _ => Err(Difference::Missing),
        };
        checked.map_err(|difference| match take_back(&mut run, &attach.steps) {
            Ok(()) => MountError::Drift { path: place(), difference },
            Err(why) => failed(why),
        })
    });
    if let (Err(_), Some(before)) = (&checked, noted) {
        match before {
            Some(before) => {
                target.set_record(&before);
            }
            None => target.forget_record(),
        }
    }
    checked.map(|()| Some(slot))
}

/// The mount namespace that was full, if that is why a step failed and the undo succeeded. The bind goes onto our
/// private staging area, which propagates to nobody. The move propagates to all that share the kubelet's directory.
const fn full(failed: &Failed) -> Option<Full> {
    match (failed.step, failed.errno, failed.undo) {
        (Step::Bind(_), Errno::ENOSPC, Ok(())) => Some(Full::Callers),
        (Step::Move | Step::MoveBeneath, Errno::ENOSPC, Ok(())) => Some(Full::Receivers),
        _ => None,
    }
}

fn stopped(site: &Site, place: &Path, why: Stopped) -> MountError {
    match why {
        Stopped::Cancelled => MountError::Cancelled,
        Stopped::Failed(failed) => match full(&failed) {
            Some(full) => MountError::TooManyMounts { path: place.to_owned(), full, room: Room::now(site) },
            None => MountError::Step { failed },
        },
    }
}

/// Makes a copy by the steps in `made`, moves it beneath the only mount at a target, and unmounts that one.
///
/// Before Linux 6.5 nothing can be moved beneath a mount. The old mount is then unmounted just before the move. A
/// process that is killed between the two leaves the target bare.
fn replace(
    site: &Site,
    target: &TargetPlace,
    run: &mut dyn Run,
    (made, cancelled): (&[Step], &dyn Fn() -> bool),
    stopped: &dyn Fn(Stopped) -> MountError,
) -> Result<(), MountError> {
    run_all(run, made, cancelled).map_err(stopped)?;
    let step = |run: &mut dyn Run, step| run.run(step).map_err(|errno| (step, errno));
    let replaced = site.calls.replace(
        run,
        |run| step(run, Step::MoveBeneath),
        |run| take_off(site, target, run).and_then(|_| step(run, Step::Move)),
    );
    if let Err((step, errno)) = replaced {
        return Err(stopped(Stopped::Failed(Failed { step, errno, undo: take_back(run, made) })));
    }
    while take_layer(site, target, run)? {}
    Ok(())
}

fn record(job: &AttachJob, owner: &Owner, source: &Source) -> Record {
    Record {
        owner: owner.clone(),
        path: job.source.entry.clone(),
        sub_path: job.source.sub_path.clone(),
        propagation: job.relation,
        attrs: job.attrs,
        source_mount: source.mount.id,
        path_mounts: None,
        renewed: None,
        left: Vec::new(),
        user_namespace: job.user_namespace,
    }
}

fn refusal(refused: Refused, job: &AttachJob) -> MountError {
    let source = job.source.full();
    let target = job.target.as_path().to_owned();
    match refused {
        Refused::SourcePrivate { asked, found } => MountError::SourcePrivate { path: source, asked, found },
        Refused::SourceUnbindable => MountError::SourceUnbindable { path: source },
        Refused::Differs(difference) => MountError::TargetDiffers { path: target, difference },
        Refused::NotEmpty => MountError::TargetNotEmpty { path: target },
        Refused::NotDirectory { symlink: true } => MountError::TargetSymlink { path: target },
        Refused::NotDirectory { symlink: false } => MountError::TargetNotDirectory { path: target },
    }
}

/// The staged copy, if there is one. Without one, the source itself is bound; that is no error.
fn find_staging(site: &Site, job: &AttachJob) -> Result<Option<(Mounted, OwnedFd)>, MountError> {
    let Some(path) = &job.staging else { return Ok(None) };
    let Some(place) = observe::open_target(site, path)? else { return Ok(None) };
    match observe::find_open(site, &place) {
        Ok((Found::Mount(mounted), Some(root))) => Ok(Some((mounted, root))),
        Ok(_) => Ok(None),
        Err(errno) => Err(target_error(path, errno)),
    }
}

/// Another target where the source's directory is published. The staged copy doesn't count, wherever the caller put it.
/// Reads the whole mount table, the only such list. Only single-writer volumes pay for that.
fn other_writer(site: &Site, open: &OpenSource, job: &AttachJob) -> Result<Option<PathBuf>, MountError> {
    let fail = |errno| MountError::Source { path: job.source.full(), errno };
    let table = mountinfo::parse(&site.proc.mountinfo().map_err(fail)?);
    let id = stat::mountinfo_id(&site.proc, &open.fd).map_err(fail)?;
    Ok(table
        .bound_from(id, &job.source.full())
        .map(|m| &m.mount_point)
        .find(|point| {
            point.as_path() != job.target.as_path()
                && job.staging.as_ref().is_none_or(|staging| point.as_path() != staging.as_path())
                && site.layout.is_publication(point)
        })
        .cloned())
}

/// Checks that the pod's runtime can map the owners of the source's files. Reads the whole mount table, the only list
/// of nested mounts that every kernel has. Only volumes of pods with `hostUsers: false` pay for that.
fn can_be_mapped(site: &Site, open: &OpenSource, job: &AttachJob) -> Result<(), MountError> {
    let fail = |errno| MountError::Source { path: job.source.full(), errno };
    let table = mountinfo::parse(&site.proc.mountinfo().map_err(fail)?);
    let id = stat::mountinfo_id(&site.proc, &open.fd).map_err(fail)?;
    // The mount is missing if it was unmounted meanwhile or the table was torn. The kubelet's retry settles it.
    Ok(idmap::judge(&table, id, &job.source.full()).ok_or_else(|| fail(Errno::ESTALE))??)
}
