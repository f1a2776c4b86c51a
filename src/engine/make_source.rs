//! Makes a source directory that is missing. Never owns, changes or removes what it didn't make.
//!
//! Whoever may write the parent can exchange its content between any two of our calls, even a directory of root. So a
//! directory is made under a temporary name, opened, and proven to be the new one: empty, born since, and with a mode
//! that nobody else uses. Its mode and owner are set by that descriptor alone, then it gets its name. The last check is
//! that the name leads to the descriptor's directory. Anything that fails a check is refused and left as it is.
//!
//! A process killed on the way leaves an empty directory under the temporary name, which the next try removes, or a
//! directory as configured under its own name.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use allowlist::config::Missing;
use kernel::path;
use kernel::stat::{self, Ownership};
use mounts::{DirId, Errno};
use plan::{Making, Step};

use crate::RunStep;
use crate::apply::Run;
use crate::mount_error::MountError;
use crate::observe::{self, SourcePath};

/// The mode that a directory is made with. Only its owner, root, can enter it. No other program uses this mode, so no
/// other directory of root passes for a new one, however young and empty.
const NEW: u32 = 0o1500;
/// The bit that a set-group-id parent adds.
const SET_GROUP_ID: u32 = 0o2000;
/// The prefix of a temporary name.
const PREFIX: &str = ".hostmount-new.";
/// How many bytes of the name a temporary name has. With the prefix that is less than NAME_MAX (255). Two names that
/// share more only wait for each other.
const NAME_PART: usize = 200;
/// How often, and how long, to wait for another call that makes the same directory: 50 ms in all. Making one takes less
/// than 1 ms.
const WAITS: usize = 50;
const WAIT: Duration = Duration::from_millis(1);

/// Why a missing directory wasn't made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotMade {
    /// Its file system isn't known to be changed by this kernel alone.
    #[error(
        "its parent lies on a file system that others can change (FUSE or a network), so what is made there cannot be \
         told from what is put in its place: make it on the node"
    )]
    FileSystem,
    /// Its file system doesn't record when a directory was made.
    #[error(
        "its parent's file system keeps no birth times, so what is made there cannot be told from what is put in its \
         place: make it on the node"
    )]
    NoBirthTime,
    /// The directory isn't where it was made any more.
    #[error(
        "something else was put in its place while it was made; that was left as it is: see who may write its parent, \
         or make it on the node"
    )]
    Exchanged,
    /// The temporary name is taken by something that no earlier try left.
    #[error(
        "something that hostmount did not make has the name under which it is made first (.hostmount-new. and the \
         directory's own name): move that away on the node"
    )]
    InTheWay,
    /// Another call is making it.
    #[error("another call is making it: the call will be retried")]
    Busy,
}

/// The wanted attributes of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// The maker of a directory: this process's effective ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Maker {
    uid: u32,
    gid: u32,
}

/// Whether what was opened is what `maker` just made, not before `since`. (Whether it is empty is checked separately.)
fn is_new(found: &Ownership, maker: Maker, since: SystemTime) -> bool {
    found.is_dir
        && found.uid == maker.uid
        // The group may be the parent's. The mode gives group and others nothing, so an inherited access list lets
        // nobody in.
        && found.mode & !SET_GROUP_ID == NEW
        && found.born.is_some_and(|born| born >= since)
}

/// Whether a killed process may have left it under the temporary name, at whichever step.
fn is_left_over(found: &Ownership, maker: Maker, wanted: Wanted) -> bool {
    let ours = (found.uid, found.gid) == (maker.uid, maker.gid);
    let owned = (found.uid, found.gid) == (wanted.uid, wanted.gid);
    let new = found.uid == maker.uid && found.mode & !SET_GROUP_ID == NEW;
    found.is_dir && (new || (found.mode == wanted.mode && (ours || owned)))
}

/// The directories that one call has made.
#[derive(Debug, Default)]
pub struct Made {
    /// Outermost first.
    all: Vec<(OwnedFd, OsString, DirId)>,
    source: Option<DirId>,
}

impl Made {
    /// The source itself, unless somebody else made it meanwhile.
    #[must_use]
    pub fn source(&self) -> Option<DirId> {
        self.source
    }

    /// Removes them after a failure. Those in use by now stay, and so does what has taken their place.
    pub fn forget(self) {
        for (parent, name, id) in self.all.into_iter().rev() {
            if remove_if(&parent, &name, id).is_err() {
                break;
            }
        }
    }
}

/// Removes an empty directory if it is still this one.
///
/// It may be exchanged after the check. Then another empty directory of the same parent is removed. Whoever exchanged
/// them could have removed it too: both take the right to write the parent.
fn remove_if(parent: &OwnedFd, name: &OsStr, id: DirId) -> Result<(), Errno> {
    if stat::ownership(parent, Some(name))?.id != id {
        return Err(Errno::ESTALE);
    }
    path::remove_dir(parent, name).map(drop)
}

/// The directories that this process is making. A killed process makes none.
static UNDER_WAY: Mutex<Vec<(DirId, OsString)>> = Mutex::new(Vec::new());

fn under_way() -> MutexGuard<'static, Vec<(DirId, OsString)>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to make one directory. There are as many as threads that make one.
struct Turn((DirId, OsString));

impl Turn {
    fn take(parent: DirId, temporary: &OsStr) -> Option<Self> {
        let mut all = under_way();
        let this = (parent, temporary.to_owned());
        if all.contains(&this) {
            return None;
        }
        all.push(this.clone());
        Some(Self(this))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        under_way().retain(|other| *other != self.0);
    }
}

/// The system calls of making one directory.
struct Work<'a> {
    parent: &'a OwnedFd,
    name: &'a OsStr,
    temporary: OsString,
    wanted: Wanted,
    /// The new directory, once it is proven to be ours.
    new: Option<(OwnedFd, DirId)>,
}

impl fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Run for Work<'_> {
    fn run(&mut self, step: Step) -> Result<(), Errno> {
        let new = self.new.as_ref().ok_or(Errno::EINVAL);
        match step {
            Step::Source(Making::Directory) => match path::make_dir(self.parent, &self.temporary, NEW)? {
                true => Ok(()),
                false => Err(Errno::EEXIST),
            },
            Step::Source(Making::Mode) => path::set_mode(&new?.0, self.wanted.mode),
            Step::Source(Making::Owner) => path::set_owner(&new?.0, self.wanted.uid, self.wanted.gid),
            Step::Source(Making::Name) => path::rename_new(self.parent, &self.temporary, self.name),
            Step::Source(Making::Remove) => remove_if(self.parent, &self.temporary, new?.1),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// Why one directory couldn't be made.
enum Fault {
    NotMade(NotMade),
    Errno(Errno),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<NotMade> for Fault {
    fn from(why: NotMade) -> Self {
        Self::NotMade(why)
    }
}

/// Makes the missing directories on the way to a source, if its entry says so.
///
/// # Errors
/// The `Source…` variants of [`MountError`]. What was made was removed again.
pub fn make(
    hook: Option<&mut RunStep<'_>>,
    cancelled: &dyn Fn() -> bool,
    source: &SourcePath,
) -> Result<Made, MountError> {
    let mut itself = |work: &mut dyn Run, step| work.run(step);
    let run: &mut RunStep<'_> = match hook {
        Some(hook) => hook,
        None => &mut itself,
    };
    let full = source.full();
    let Missing::Create { mode, uid, gid } = source.missing else {
        return Err(MountError::SourceMissing { path: full });
    };
    let mut made = Made::default();
    let wanted = Wanted { mode, uid, gid };
    let error = match make_all(run, cancelled, &full, wanted, &mut made) {
        Ok(()) => return Ok(made),
        Err(None) => MountError::Cancelled,
        Err(Some(Fault::NotMade(why))) => MountError::SourceNotMade { path: full, why },
        Err(Some(Fault::Errno(errno))) => observe::source_error(&full, errno),
    };
    made.forget();
    Err(error)
}

/// Makes every missing directory of the path. `Err(None)`: nobody waits any more.
fn make_all(
    run: &mut RunStep<'_>,
    cancelled: &dyn Fn() -> bool,
    full: &Path,
    wanted: Wanted,
    made: &mut Made,
) -> Result<(), Option<Fault>> {
    let mut at = path::open_trusted(Path::new("/")).map_err(Fault::Errno)?;
    for name in full.strip_prefix("/").unwrap_or(full) {
        if cancelled() {
            return Err(None);
        }
        made.source = None;
        at = match path::open_child(&at, name) {
            Err(Errno::ENOENT) => {
                let (next, id) = make_one(run, &at, name, wanted)?;
                made.source = id;
                made.all.extend(id.map(|id| (at, name.to_owned(), id)));
                next
            }
            other => other.map_err(Fault::Errno)?,
        };
    }
    Ok(())
}

/// Makes one directory and opens it by its name. Returns its identity too, unless somebody else made it meanwhile.
fn make_one(
    run: &mut RunStep<'_>,
    parent: &OwnedFd,
    name: &OsStr,
    wanted: Wanted,
) -> Result<(OwnedFd, Option<DirId>), Fault> {
    let around = stat::ownership(parent, None)?;
    let mut temporary = PREFIX.as_bytes().to_owned();
    temporary.extend(name.as_bytes().iter().take(NAME_PART));
    let temporary = OsString::from_vec(temporary);
    let mut turn = Turn::take(around.id, &temporary);
    for _ in 0..WAITS {
        if turn.is_some() {
            break;
        }
        std::thread::sleep(WAIT);
        turn = Turn::take(around.id, &temporary);
    }
    let _turn = turn.ok_or(NotMade::Busy)?;
    match path::open_child(parent, name) {
        Err(Errno::ENOENT) => {}
        // The call that was waited for made it.
        other => return Ok((other?, None)),
    }
    if !stat::is_local(parent)? {
        return Err(NotMade::FileSystem.into());
    }
    if around.born.is_none() {
        return Err(NotMade::NoBirthTime.into());
    }
    let (uid, gid) = path::own_ids();
    let maker = Maker { uid, gid };
    let mut work = Work { parent, name, temporary, wanted, new: None };
    let since = begin(run, &mut work, maker)?;
    let Some(id) = prove(&mut work, maker, since)? else { return Err(NotMade::Exchanged.into()) };
    match finish(run, &mut work, maker) {
        Ok(()) => {}
        Err(errno) => {
            // If it can't be removed now, the next try does that.
            let _ = run(&mut work, Step::Source(Making::Remove));
            return match errno {
                // Somebody else made it meanwhile: treat it as if it had always been there.
                Errno::EEXIST => Ok((path::open_child(parent, name)?, None)),
                errno => Err(errno.into()),
            };
        }
    }
    let named = path::open_child(parent, name);
    match named {
        Ok(named) if stat::ownership(&named, None)?.id == id => Ok((named, Some(id))),
        _ => Err(NotMade::Exchanged.into()),
    }
}

/// Makes the directory under its temporary name, after removing what a killed process left there. Returns a time before
/// it was made.
fn begin(run: &mut RunStep<'_>, work: &mut Work<'_>, maker: Maker) -> Result<SystemTime, Fault> {
    for _ in 0..2 {
        let since = stat::now_as_dated()?;
        match run(work, Step::Source(Making::Directory)) {
            Ok(()) => return Ok(since),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        match stat::ownership(work.parent, Some(&work.temporary)) {
            Ok(found) if is_left_over(&found, maker, work.wanted) => {
                match remove_if(work.parent, &work.temporary, found.id) {
                    Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::EBUSY | Errno::ESTALE) => break,
                    other => other?,
                }
            }
            Ok(_) => break,
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(NotMade::InTheWay.into())
}

/// Opens the directory and checks that it is the one we made. None if it isn't: then it isn't ours to remove.
fn prove(work: &mut Work<'_>, maker: Maker, since: SystemTime) -> Result<Option<DirId>, Errno> {
    let fd = match path::open_to_change(work.parent, &work.temporary) {
        Ok(fd) => fd,
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let found = stat::ownership(&fd, None)?;
    if !is_new(&found, maker, since) || !path::is_empty(&fd, OsStr::new("."))? {
        return Ok(None);
    }
    work.new = Some((fd, found.id));
    Ok(Some(found.id))
}

/// Sets mode, owner and name of the directory. The mode comes first: once the owner is set, we don't own it.
fn finish(run: &mut RunStep<'_>, work: &mut Work<'_>, maker: Maker) -> Result<(), Errno> {
    let Wanted { mode, uid, gid } = work.wanted;
    // An inherited access list would let in others than the mode says, as soon as the mode widens the list's mask. It
    // would also be inherited further.
    if let Some((fd, _)) = &work.new {
        path::remove_attribute(fd, c"system.posix_acl_access")?;
        path::remove_attribute(fd, c"system.posix_acl_default")?;
    }
    run(work, Step::Source(Making::Mode))?;
    if (uid, gid) != (maker.uid, maker.gid) {
        run(work, Step::Source(Making::Owner))?;
    }
    let now = work.new.as_ref().map(|(fd, _)| stat::ownership(fd, None)).ok_or(Errno::EINVAL)??;
    if (now.mode, now.uid, now.gid) != (mode, uid, gid) {
        return Err(Errno::EPERM);
    }
    run(work, Step::Source(Making::Name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAKER: Maker = Maker { uid: 0, gid: 0 };
    const WANTED: Wanted = Wanted { mode: 0o2770, uid: 1000, gid: 16 };

    fn since() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000)
    }

    fn new() -> Ownership {
        let id = DirId { device: (0, 1), inode: 2 };
        Ownership { id, is_dir: true, mode: NEW, uid: 0, gid: 0, born: Some(since()) }
    }

    #[test]
    fn what_was_just_made_is_told_from_every_other_directory() {
        let of_parents_group = Ownership { mode: NEW | SET_GROUP_ID, gid: 7, ..new() };
        for made in [new(), of_parents_group] {
            assert!(is_new(&made, MAKER, since()), "{made:?}");
        }
        let before = since() - Duration::from_nanos(1);
        for other in [
            Ownership { born: Some(before), ..new() },
            Ownership { born: None, ..new() },
            Ownership { mode: 0o700, ..new() },
            Ownership { mode: 0o1700, ..new() },
            Ownership { mode: 0o1510, ..new() },
            Ownership { uid: 1000, ..new() },
            Ownership { is_dir: false, ..new() },
        ] {
            assert!(!is_new(&other, MAKER, since()), "{other:?}");
        }
    }

    #[test]
    fn what_a_killed_process_has_left_is_told_at_each_step() {
        let configured = Ownership { mode: WANTED.mode, uid: WANTED.uid, gid: WANTED.gid, ..new() };
        let steps = [
            new(),
            Ownership { mode: NEW | SET_GROUP_ID, gid: 7, ..new() },
            Ownership { mode: WANTED.mode, ..new() },
            configured,
        ];
        for left in steps {
            assert!(is_left_over(&left, MAKER, WANTED), "{left:?}");
        }
        for other in [
            Ownership { mode: 0o700, ..new() },
            Ownership { mode: 0o770, ..configured },
            Ownership { uid: 1001, ..configured },
            Ownership { is_dir: false, ..new() },
        ] {
            assert!(!is_left_over(&other, MAKER, WANTED), "{other:?}");
        }
    }

    #[test]
    fn one_directory_is_made_by_one_call_at_a_time() {
        let parent = DirId { device: (9, 9), inode: 77 };
        let turn = Turn::take(parent, OsStr::new("a"));
        assert!(turn.is_some() && Turn::take(parent, OsStr::new("a")).is_none());
        assert!(Turn::take(parent, OsStr::new("b")).is_some());
        drop(turn);
        assert!(Turn::take(parent, OsStr::new("a")).is_some());
    }
}
