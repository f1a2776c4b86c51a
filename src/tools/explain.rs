//! `hostmount explain`: tells where a mount will be seen, and why it is not seen elsewhere.
//!
//! It reads the machine's mount tables ([`node::gather`]) and asks the model ([`model::subtrees`]). For each place that does not
//! see the mount, [`judge`] finds the missing link, and [`remedy`] tells how to make it. Nothing is mounted. File systems are
//! only asked for symlinks in the given paths.

pub mod index;
pub mod judge;
pub mod remedy;
pub mod report;

use std::ffi::OsStr;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use index::Index;
use judge::Spot;
use kernel::calls::Calls;
use kernel::namespace::Proc;
use model::machine::Machine;
use model::machine::whereabouts::{NotFound, PlaceText, Where};
use model::subtrees::{Doubt, Forest, Stop, Unknown};
use mounts::Errno;
use node::gather::{self, NoProc};
use node::resolve;
use report::Report;
use text::paint::Paint;
use text::visible;

use crate::terminal::{OutputError, colour, written};

const HELP: &str = "\
A place is a path, or WHERE:PATH; WHERE is node (process 1's namespace), a process number, pod/NAMESPACE/NAME[/CONTAINER], \
pod/NAME, or the inode of a mount namespace as lsns prints it.

  hostmount explain /mnt/media/disk
  hostmount explain /mnt/media/disk pod/demo/player:/media
  hostmount explain /data --in pod/demo/player

Exit code: 0; with two places 0 if it is seen there, 1 if not, 3 if that can't be told. 2 if it was called wrongly.";

/// The arguments of `hostmount explain`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = HELP)]
pub struct ExplainArgs {
    /// Where something is mounted. It need not be there yet.
    #[arg(value_name = "PATH")]
    from: PlaceText,
    /// Only this place: is it seen at or beneath it?
    #[arg(value_name = "TO")]
    to: Option<PlaceText>,
    /// The namespace of PATH [default: this process' own].
    #[arg(long = "in", value_name = "WHERE")]
    within: Option<Where>,
    /// Explain what unmounting the mount at PATH takes away, instead of a mount that is made there.
    #[arg(short, long)]
    unmount: bool,
    /// Print one JSON object (docs/explain.md).
    #[arg(short = 'J', long)]
    json: bool,
}

/// Why `hostmount explain` can't answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The namespace of PATH is given twice.
    #[error("the namespace of PATH is given twice: leave out --in, or what is before the path")]
    NamespaceTwice,
    /// There is no `/proc`.
    #[error("/proc can't be opened ({0})")]
    OpenProc(Errno),
    /// `/proc` can't be read.
    #[error(transparent)]
    Gather(#[from] NoProc),
    /// Our own mount namespace isn't known.
    #[error("our own mount namespace can't be told ({0})")]
    OwnNamespace(Errno),
    /// A namespace isn't there.
    #[error(transparent)]
    Namespace(#[from] NotFound),
    /// The model can't tell what a mount at PATH does.
    #[error(transparent)]
    Mount(#[from] Doubt),
    /// PATH can't be unmounted, or the model can't tell what that does.
    #[error(transparent)]
    Unmount(#[from] NoUnmount),
    /// The answer can't be printed.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Why there is no answer for an unmount.
#[derive(Debug, thiserror::Error)]
pub enum NoUnmount {
    /// EINVAL: PATH is not a mount point, or is locked.
    #[error(
        "{path} is not a mount point there, or may not be unmounted alone (EINVAL): `hostmount inspect {path}`",
        path = visible(.0.as_os_str())
    )]
    Invalid(PathBuf),
    /// The kernel would refuse it.
    #[error("{path} can't be unmounted: {errno}", path = visible(.0.as_os_str()), errno = .1)]
    Refused(PathBuf, Errno),
    /// The model can't tell.
    #[error("what unmounting {path} does can't be told: {doubt}", path = visible(.0.as_os_str()), doubt = .1)]
    Unknown(PathBuf, Unknown),
}

impl NoUnmount {
    fn of(path: PathBuf, stop: Stop) -> Self {
        match stop {
            Stop::Refused(Errno::EINVAL) => Self::Invalid(path),
            Stop::Refused(errno) => Self::Refused(path, errno),
            Stop::Unknown(unknown) => Self::Unknown(path, unknown),
        }
    }
}

/// Runs `hostmount explain`.
///
/// # Errors
/// [`ExplainError`].
pub fn run(args: &ExplainArgs) -> Result<ExitCode, ExplainError> {
    if args.within.is_some() && args.from.namespace.is_some() {
        return Err(ExplainError::NamespaceTwice);
    }
    let proc = Proc::new().map_err(ExplainError::OpenProc)?;
    // The process ends with this: to give a hundred thousand mounts back one by one would only take time.
    let machine = ManuallyDrop::new(gather::gather(&proc, Calls::probe())?);
    let note = |text: &str| eprintln!("hostmount: {}", visible(OsStr::new(text)));
    if !args.json {
        machine.left_out.iter().for_each(|left| note(&format!("left out: {}: {}", left.what, left.why)));
    }
    let own = proc.own_mount_namespace().map_err(ExplainError::OwnNamespace)?.inode;
    let spot = |place: &PlaceText, within: Option<&Where>| -> Result<Spot, NotFound> {
        let namespace = match place.namespace.as_ref().or(within) {
            Some(place) => place.find(&machine)?,
            None => Where::Inode(own).find(&machine)?,
        };
        let (path, doubt) = resolve::resolve(process_of(&machine, namespace, own), &place.path);
        doubt.iter().for_each(|doubt| note(doubt));
        Ok(Spot { namespace, path })
    };
    let from = spot(&args.from, args.within.as_ref())?;
    let to = args.to.as_ref().map(|to| spot(to, None)).transpose()?;
    let (forest, index) = model(&machine);
    let (forest, index) = (ManuallyDrop::new(forest), ManuallyDrop::new(index));
    let count = machine.namespaces.len();
    let explanation = if args.unmount {
        judge::explain_unmount(&index, &forest, count, &from).map_err(|stop| NoUnmount::of(from.path.clone(), stop))?
    } else {
        judge::explain(&index, &forest, count, &from)?
    };
    let pair = to.as_ref().map(|to| (to, explanation.at(to)));
    let code = pair.as_ref().map_or(ExitCode::SUCCESS, |(_, pair)| {
        match (pair.seen.iter().any(|one| one.covered.is_none()), explanation.doubts.is_empty()) {
            (true, _) => ExitCode::SUCCESS,
            (false, true) => ExitCode::FAILURE,
            (false, false) => ExitCode::from(3),
        }
    });
    let report = Report { machine: &machine, index: &index, from: &from, explanation: &explanation, pair };
    let text = if args.json { format!("{:#}\n", report.json()) } else { report.text(&Paint { colour: colour() }) };
    written(std::io::stdout().lock().write_all(text.as_bytes()))?;
    Ok(code)
}

/// Builds the model and the index in parallel: each visits all mounts.
fn model(machine: &Machine) -> (Forest, Index<'_>) {
    thread::scope(|scope| {
        let index = thread::Builder::new().name("index".to_owned()).spawn_scoped(scope, || Index::new(machine));
        let forest = Forest::of(machine);
        let index = index.ok().and_then(|index| index.join().ok());
        (forest, index.unwrap_or_else(|| Index::new(machine)))
    })
}

/// A process of a namespace, to resolve symlinks there. None for our own namespace.
fn process_of(machine: &Machine, namespace: usize, own: u64) -> Option<i32> {
    let namespace = machine.namespaces.get(namespace).filter(|namespace| namespace.inode != own)?;
    namespace.processes.first().map(|process| process.pid)
}
