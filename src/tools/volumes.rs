//! `hostmount volumes`: lists the volumes that are published on this node, like `docker volume`.
//!
//! They are found by the mount table and the records beside the targets, without the plugin or the API server. A child process
//! looks, in the kubelet's mount namespace ([`crate::visit`]). The rest is pure: [`choose`] selects volumes, [`show`] prints
//! them.

pub mod choose;
mod gather;
pub mod model;
pub mod show;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use allowlist::config::Faults;
use choose::Filter;
use clap::{Args, Subcommand};
use k8s_openapi::jiff::Timestamp;
use model::PublishedVolume;
use mounts::Errno;
use show::Format;
use workers::NoResult;

use crate::terminal::print;
use crate::visit::{VisitArgs, VisitError, ask_child};

const HELP: &str = "\
Run it as root on the node, or in the plugin's pod: kubectl exec POD -- /hostmount volumes ls. Nothing is changed.

Exit code: 0; 1 if a named volume isn't there, or nothing could be looked at; 2 if it was called wrongly.";

/// The arguments of `hostmount volumes`.
#[derive(Debug, Clone, Args)]
#[command(after_help = HELP)]
pub struct VolumesArgs {
    #[command(subcommand)]
    command: VolumesCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum VolumesCommand {
    /// List the volumes that are published on this node.
    #[command(visible_alias = "list", after_help = HELP)]
    Ls(LsArgs),
    /// Print all that is known of volumes, as JSON.
    #[command(after_help = HELP)]
    Inspect(InspectArgs),
    /// Be the child: look, and print what there is on one line.
    #[command(hide = true)]
    Look(LookArgs),
}

#[derive(Debug, Clone, Args)]
struct LsArgs {
    /// Print names only, one a line, each of which `inspect` understands.
    #[arg(short, long)]
    quiet: bool,
    /// Print those volumes only: name, entry, pod, namespace, propagation, health or driver. Values of one key are
    /// alternatives; keys are all to be met.
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    /// How to print: a table, or one JSON object a line (docs/volumes.md).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Do not shorten what is long.
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    visit: VisitArgs,
}

#[derive(Debug, Clone, Args)]
struct InspectArgs {
    /// The volume's name, `NAMESPACE/POD/VOLUME`, or its target path; all that are called so are printed.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// The allow-list, which says whether a volume is to be healed.
    #[arg(long, env = "HOSTMOUNT_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    visit: VisitArgs,
}

#[derive(Debug, Clone, Args)]
struct LookArgs {
    /// Look at the sources too, not only at the volumes.
    #[arg(long)]
    sources: bool,
    /// The allow-list.
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    visit: VisitArgs,
}

/// Why `hostmount volumes` can't list anything.
#[derive(Debug, thiserror::Error)]
pub enum VolumesError {
    /// The node can't be looked at.
    #[error(transparent)]
    Visit(#[from] VisitError),
    /// The allow-list can't be read: why.
    #[error("the allow-list {path} cannot be used: {why}", path = .0.display(), why = .1)]
    Unreadable(PathBuf, String),
    /// The allow-list has faults.
    #[error("the allow-list {path} cannot be used: {why}", path = .0.display(), why = .1)]
    Faulty(PathBuf, Faults),
    /// The kubelet's mount namespace can't be entered.
    #[error(
        "the mount namespace of process {pid} ({name}) cannot be entered: {errno}; run it as root on the node, or in the \
         plugin's pod, and name the kubelet with --pid if that is not it"
    )]
    Enter {
        /// The process that was taken for the kubelet.
        pid: i32,
        /// Its name.
        name: String,
        /// What the kernel says.
        errno: Errno,
    },
    /// There are no threads.
    #[error(transparent)]
    Runtime(io::Error),
    /// The mount thread has no result.
    #[error(transparent)]
    NoResult(#[from] NoResult),
    /// The kubelet's mount table can't be read.
    #[error("mountinfo cannot be read: {0}")]
    Mountinfo(Errno),
    /// The report can't be written.
    #[error(transparent)]
    Report(#[from] io::Error),
}

/// Runs `hostmount volumes`.
///
/// # Errors
/// [`VolumesError`].
pub fn run(args: &VolumesArgs) -> Result<ExitCode, VolumesError> {
    match &args.command {
        VolumesCommand::Ls(args) => {
            let mut volumes = look(&args.visit, &[])?;
            volumes.retain(|volume| choose::passes(volume, &args.filter));
            let text = if args.quiet {
                show::names(&volumes)
            } else {
                match args.format {
                    Format::Table => show::table(&volumes, Timestamp::now(), args.no_trunc),
                    Format::Json => show::lines(&volumes).map_err(io::Error::from)?,
                }
            };
            print(&text);
            Ok(ExitCode::SUCCESS)
        }
        VolumesCommand::Inspect(args) => {
            let mut extra = vec!["--sources".into()];
            if let Some(config) = &args.config {
                extra.push("--config".into());
                extra.push(config.into());
            }
            let volumes = look(&args.visit, &extra)?;
            let (chosen, missing) = choose::named(&volumes, &args.names);
            print(&(serde_json::to_string_pretty(&chosen).map_err(io::Error::from)? + "\n"));
            for name in &missing {
                eprintln!("hostmount: no such volume: {name}: `hostmount volumes ls` lists those that are published");
            }
            Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        VolumesCommand::Look(args) => {
            let found = gather::gather(&args.visit, args.sources, args.config.as_deref())?;
            let line = serde_json::to_string(&found).map_err(io::Error::from)?;
            writeln!(io::stdout().lock(), "{line}")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn look(visit: &VisitArgs, extra: &[std::ffi::OsString]) -> Result<Vec<PublishedVolume>, VisitError> {
    let command = ["volumes", "look"].map(Into::into).into_iter();
    ask_child("the look at the volumes", command.chain(visit.arguments()).chain(extra.iter().cloned()))
}
