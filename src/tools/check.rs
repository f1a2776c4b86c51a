//! `hostmount check`: tells an administrator whether volumes would work on this node, before or after installation.
//!
//! `gather` and `look` collect [`facts`] as plain data, [`judge`] is a pure function of them, and [`report`] prints the
//! result. A child process looks, in the kubelet's mount namespace ([`crate::visit`]).

mod containers;
pub mod facts;
mod gather;
pub mod judge;
mod look;
pub mod report;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use report::{KubeletProcess, Report};

use crate::terminal::{colour, print};
use crate::visit::{VisitArgs, VisitError, ask_child};

const HELP: &str = "\
Run it as root on the node, or in the plugin's pod: kubectl exec POD -- /hostmount check. Nothing is changed.

Exit code: 0 if there is no fault; 1 if there is; 2 if it was called wrongly.";

/// The arguments of `hostmount check`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = HELP)]
pub struct CheckArgs {
    /// The allow-list, whose entries are then checked too.
    #[arg(long, env = "HOSTMOUNT_CONFIG")]
    config: Option<PathBuf>,
    /// Where to look.
    #[command(flatten)]
    visit: VisitArgs,
    /// Print one JSON object instead of the table (docs/check.md).
    #[arg(long)]
    json: bool,
    /// Be the child: look, and print the report on one line.
    #[arg(long, hide = true)]
    look: bool,
}

/// Why `hostmount check` can't check anything.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The node can't be looked at.
    #[error(transparent)]
    Visit(#[from] VisitError),
    /// There are no threads.
    #[error(transparent)]
    Runtime(io::Error),
    /// The report can't be written.
    #[error(transparent)]
    Report(io::Error),
}

/// Runs `hostmount check`.
///
/// # Errors
/// [`CheckError`].
pub fn run(args: &CheckArgs) -> Result<ExitCode, CheckError> {
    if args.look {
        return look(args).map(|()| ExitCode::SUCCESS);
    }
    let report: Report = ask_child("the check", std::env::args_os().skip(1).chain(["--look".into()]))?;
    let text = if args.json {
        serde_json::to_string_pretty(&report).map_err(|error| CheckError::Report(error.into()))? + "\n"
    } else {
        report.text(colour())
    };
    print(&text);
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the child process does.
fn look(args: &CheckArgs) -> Result<(), CheckError> {
    let facts = gather::gather(args.config.as_deref(), &args.visit)?;
    let process = &facts.kubelet.process;
    let kubelet = KubeletProcess { pid: process.pid, name: process.name.clone() };
    let report = Report::new(&facts.driver, &facts.release, kubelet, judge::judge(&facts));
    let line = serde_json::to_string(&report).map_err(|error| CheckError::Report(error.into()))?;
    writeln!(io::stdout().lock(), "{line}").map_err(CheckError::Report)
}
