//! Removes a volume from its target.

use allowlist::names::Target;
use kernel::stat;
use mounts::Errno;
use mounts::mountinfo::{self, Table};
use plan::{MountPoint, Step};

use crate::apply::{Failed, Run, Work};
use crate::mount_error::MountError;
use crate::observe::{self, TargetPlace};
use crate::site::Site;
use crate::{Context, Hooked};

/// Unmounts every layer at a volume's target, then removes the directory if `remove` is set. (The kubelet itself
/// removes a staging directory.) Idempotent. Asks a dead file system nothing.
///
/// # Errors
/// [`MountError`]. The call can be repeated.
pub fn detach(context: &mut Context<'_>, path: &Target, remove: bool) -> Result<(), MountError> {
    let site = context.site;
    let Some(target) = observe::open_target(site, path)? else { return Ok(()) };
    let work = Work { site, source: None, staging: None, slot: None, target: &target, copy: None };
    let mut run = Hooked { work, hook: context.hook.as_mut() };
    if !remove {
        return clear(site, &target, &mut run);
    }
    loop {
        let unmounted = take_off(site, &target, &mut run).map_err(failed)?;
        match run.run(Step::RemoveTarget) {
            Ok(()) => return Ok(()),
            // There is another layer. Checking for one each time would cost every volume a call.
            Err(Errno::EBUSY) if unmounted => {}
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                return Err(MountError::TargetNotEmpty { path: path.as_path().to_owned() });
            }
            Err(Errno::ENOTDIR) => return Err(MountError::TargetNotDirectory { path: path.as_path().to_owned() }),
            Err(errno) => return Err(failed((Step::RemoveTarget, errno))),
        }
    }
}

/// Unmounts every layer at a target.
fn clear(site: &Site, target: &TargetPlace, run: &mut dyn Run) -> Result<(), MountError> {
    while take_off(site, target, run).map_err(failed)? {}
    Ok(())
}

/// Unmounts the top layer at a target, unless it is the only one. Returns whether it unmounted one.
pub(crate) fn take_layer(site: &Site, target: &TargetPlace, run: &mut dyn Run) -> Result<bool, MountError> {
    let fail = |errno| failed((Step::UnmountIdle(MountPoint::Target), errno));
    let (table, id) = top_and_below(site, target).map_err(fail)?;
    let point = |id| table.mounts.iter().find(|m| m.id == id).map(|m| (&m.mount_point, m.parent));
    let stacked = point(id).is_some_and(|(at, parent)| point(parent).is_some_and(|(below, _)| at == below));
    Ok(stacked && take_off(site, target, run).map_err(failed)?)
}

pub(crate) fn failed((step, errno): (Step, Errno)) -> MountError {
    MountError::Step { failed: Failed { step, errno, undo: Ok(()) } }
}

/// Unmounts the top layer at a target, with its nested mounts. Returns whether there was one.
pub(crate) fn take_off(site: &Site, target: &TargetPlace, run: &mut dyn Run) -> Result<bool, (Step, Errno)> {
    let gone = |errno| matches!(errno, Errno::EINVAL | Errno::ENOENT);
    let idle = Step::UnmountIdle(MountPoint::Target);
    match run.run(idle) {
        Ok(()) => return Ok(true),
        Err(errno) if gone(errno) => return Ok(false),
        Err(Errno::EBUSY) => {}
        Err(errno) => return Err((idle, errno)),
    }
    let (table, id) = table_and_top(site, target).map_err(|errno| (idle, errno))?;
    for step in plan::detach_steps(&table, id) {
        match run.run(step) {
            Ok(()) => {}
            // Somebody else unmounted it, and may have left a layer beneath. Only the kernel knows.
            Err(errno) if gone(errno) => match run.run(idle) {
                Ok(()) => return Ok(true),
                Err(now) if gone(now) => return Ok(false),
                Err(_) => return Err((step, errno)),
            },
            Err(errno) => return Err((step, errno)),
        }
    }
    Ok(true)
}

/// The top mount at a target with the mounts it lies on, and its id.
fn top_and_below(site: &Site, target: &TargetPlace) -> Result<(Table, u64), Errno> {
    let top = kernel::path::open_child(&target.parent, &target.name)?;
    let id = site.calls.mount_id(&site.proc, &top)?;
    Ok((site.calls.ways_to(&site.proc, &[id])?, id))
}

/// The mount table, and the id of the top mount at a target.
fn table_and_top(site: &Site, target: &TargetPlace) -> Result<(Table, u64), Errno> {
    let top = kernel::path::open_child(&target.parent, &target.name)?;
    let id = stat::mountinfo_id(&site.proc, &top)?;
    Ok((mountinfo::parse(&site.proc.mountinfo()?), id))
}
