//! The hostmount binary: parse, dispatch, exit code.

use std::process::ExitCode;

use allowlist::config::{AllowList, schema};
use allowlist::names::AbsPath;
use clap::Parser;
use hostmount::cli::{Cli, Command};
use hostmount::{serve, telemetry};
use tools::{check, explain, inspect, try_out, volumes, watch};

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

fn run(cli: Cli) -> Result<ExitCode, String> {
    match cli.command {
        Command::Try(args) => return Ok(try_out::run(&args)),
        Command::TryRole(args) => return Ok(try_out::role(&args)),
        Command::Check(args) => return check::run(&args),
        Command::Volumes(args) => return volumes::run(&args),
        Command::Inspect(args) => return inspect::run(&args),
        Command::Explain(args) => return explain::run(&args),
        Command::Watch(args) => return watch::run(&args),
        Command::Serve(args) => {
            telemetry::start(&cli.log_level, cli.log_format)?;
            serve::run(&args)?;
        }
        Command::Validate { file, kubelet_dir } => {
            let text = std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            let kubelet_dir = AbsPath::parse(&kubelet_dir).map_err(|e| format!("--kubelet-dir {kubelet_dir:?} {e}"))?;
            let list = AllowList::parse_bytes(&text, &kubelet_dir).map_err(|e| format!("{}:\n{e}", file.display()))?;
            println!("{}: {} entries, no fault", file.display(), list.len());
        }
        Command::Schema => println!("{:#}", schema()),
    }
    Ok(ExitCode::SUCCESS)
}
