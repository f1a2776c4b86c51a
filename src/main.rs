//! The hostmount binary.

use std::process::ExitCode;

use clap::Parser;
use hostmount::try_out;

#[derive(Parser)]
#[command(name = "hostmount", version, about)]
enum Cli {
    Try(try_out::TryArgs),
    #[command(hide = true)]
    TryRole(try_out::RoleArgs),
}

fn main() -> ExitCode {
    match Cli::parse() {
        Cli::Try(args) => try_out::run(&args),
        Cli::TryRole(args) => try_out::role(&args),
    }
}
