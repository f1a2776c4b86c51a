//! `hostmount explain`: who will see a mount that is made here, and what keeps it from the others.
//!
//! It looks at the machine as it is now ([`node::gather`]), asks the model ([`model::subtrees`]), and names for
//! each place that doesn't see it the one link that is missing ([`judge`]) and what would make it ([`remedy`]). Nothing is
//! mounted, and no file system is asked anything but for symlinks in the paths that were given.

pub mod index;
pub mod judge;
pub mod remedy;
pub mod report;

use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::mem::ManuallyDrop;
use std::process::ExitCode;
use std::thread;

use index::Index;
use judge::Spot;
use kernel::calls::Calls;
use kernel::namespace::Proc;
use model::machine::Machine;
use model::machine::whereabouts::{PlaceText, Where};
use model::subtrees::{Forest, Stop};
use mounts::Errno;
use node::{gather, resolve};
use report::Report;
use text::paint::Paint;
use text::visible;

use crate::try_out::colour;

const HELP: &str = "\
A place is a path, or WHERE:PATH; WHERE is node (process 1's namespace), a process number, pod/NAMESPACE/NAME[/CONTAINER], \
pod/NAME, or the inode of a mount namespace as lsns prints it.

  hostmount explain /mnt/media/disk
  hostmount explain /mnt/media/disk pod/demo/player:/media
  hostmount explain /data --in pod/demo/player

Exit code: 0; with two places 0 if it is seen there, 1 if not, 3 if that can't be told. 2 if it was called wrongly.";

/// What `hostmount explain` is told.
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

/// Runs `hostmount explain`.
///
/// # Errors
/// That nothing can be read at all, or that a place isn't there.
pub fn run(args: &ExplainArgs) -> Result<ExitCode, String> {
    if args.within.is_some() && args.from.namespace.is_some() {
        return Err("the namespace of PATH is given twice: leave out --in, or what is before the path".to_owned());
    }
    let proc = Proc::new().map_err(|e| format!("/proc can't be opened ({e})"))?;
    // The process ends with this: to give a hundred thousand mounts back one by one would only take time.
    let machine = ManuallyDrop::new(gather::gather(&proc, Calls::probe())?);
    let note = |text: &str| eprintln!("hostmount: {}", visible(OsStr::new(text)));
    if !args.json {
        machine.left_out.iter().for_each(|left| note(&format!("left out: {}: {}", left.what, left.why)));
    }
    let own = proc.own_mount_namespace().map_err(|e| format!("our own mount namespace can't be told ({e})"))?.inode;
    let spot = |place: &PlaceText, within: Option<&Where>| -> Result<Spot, String> {
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
        judge::explain_unmount(&index, &forest, count, &from).map_err(|stop| no_unmount(&from, &stop))?
    } else {
        judge::explain(&index, &forest, count, &from).map_err(|doubt| doubt.to_string())?
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
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("the output can't be written: {error}")),
        // A reader that has gone away has seen what it wanted.
        _ => Ok(code),
    }
}

/// The model and the index, at the same time: each goes through all mounts.
fn model(machine: &Machine) -> (Forest, Index<'_>) {
    thread::scope(|scope| {
        let index = thread::Builder::new().name("index".to_owned()).spawn_scoped(scope, || Index::new(machine));
        let forest = Forest::of(machine);
        let index = index.ok().and_then(|index| index.join().ok());
        (forest, index.unwrap_or_else(|| Index::new(machine)))
    })
}

fn no_unmount(spot: &Spot, stop: &Stop) -> String {
    let path = visible(spot.path.as_os_str());
    match stop {
        Stop::Refused(Errno::EINVAL) => {
            format!(
                "{path} is not a mount point there, or may not be unmounted alone (EINVAL): `hostmount inspect {path}`"
            )
        }
        Stop::Refused(errno) => format!("{path} can't be unmounted: {errno}"),
        Stop::Unknown(unknown) => format!("what unmounting {path} does can't be told: {unknown}"),
    }
}

/// A process whose symlinks are those of a namespace; none where it is ours.
fn process_of(machine: &Machine, namespace: usize, own: u64) -> Option<i32> {
    let namespace = machine.namespaces.get(namespace).filter(|namespace| namespace.inode != own)?;
    namespace.processes.first().map(|process| process.pid)
}
