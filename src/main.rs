//! The hostmount binary: parses the command line, runs the command, returns the exit code.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use allowlist::config::{AllowList, Faults, schema};
use allowlist::names::{AbsPath, BadName};
use clap::Parser;
use hostmount::cli::{Cli, Command};
use hostmount::serve::{self, ServeError};
use hostmount::telemetry::{self, TelemetryError};
use tools::check::{self, CheckError};
use tools::explain::{self, ExplainError};
use tools::inspect::{self, InspectError};
use tools::volumes::{self, VolumesError};
use tools::watch::error::WatchError;
use tools::{try_out, watch};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Volumes(#[from] VolumesError),
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error(transparent)]
    Explain(#[from] ExplainError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("{}: {error}", .file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{}:\n{faults}", .file.display())]
    Faulty { file: PathBuf, faults: Faults },
    #[error("--kubelet-dir {path:?} {reason}")]
    KubeletDir { path: String, reason: BadName },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("hostmount: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Try(args) => return Ok(try_out::run(&args)),
        Command::TryRole(args) => return Ok(try_out::role(&args)),
        Command::Check(args) => return Ok(check::run(&args)?),
        Command::Volumes(args) => return Ok(volumes::run(&args)?),
        Command::Inspect(args) => return Ok(inspect::run(&args)?),
        Command::Explain(args) => return Ok(explain::run(&args)?),
        Command::Watch(args) => return Ok(watch::run(&args)?),
        Command::Serve(args) => {
            telemetry::start(&cli.log_level, cli.log_format)?;
            serve::run(&args)?;
        }
        Command::Validate { file, kubelet_dir } => {
            let text = match std::fs::read(&file) {
                Ok(text) => text,
                Err(error) => return Err(Failure::Unreadable { file, error }),
            };
            let kubelet_dir =
                AbsPath::parse(&kubelet_dir).map_err(|reason| Failure::KubeletDir { path: kubelet_dir, reason })?;
            let list = match AllowList::parse_bytes(&text, &kubelet_dir) {
                Ok(list) => list,
                Err(faults) => return Err(Failure::Faulty { file, faults }),
            };
            println!("{}: {} entries, no fault", file.display(), list.len());
        }
        Command::Schema => println!("{:#}", schema()),
    }
    Ok(ExitCode::SUCCESS)
}
