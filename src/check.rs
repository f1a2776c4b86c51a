//! `hostmount check`: would volumes work on this node? For an administrator, before or after the plugin is installed.
//!
//! Facts are gathered as plain data ([`facts`], by `gather` and `look`), judged by a pure function ([`judge`]) and
//! printed ([`report`]).
//!
//! A thread that waits for a FUSE server which has taken its request can't even be killed, and a process with such a
//! thread never ends. So all looking is done by a child, whose report is read from a pipe and whose end nobody waits
//! for.

pub mod facts;
mod gather;
pub mod judge;
pub mod kubelet;
mod look;
pub mod report;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use crate::serve::check_driver;
use crate::try_out::colour;
use crate::volume::AbsPath;
use report::{KubeletProcess, Report};

const HELP: &str = "\
Run it as root on the node, or in the plugin's pod: kubectl exec POD -- /hostmount check. Nothing is changed.

Exit code: 0 if there is no fault; 1 if there is; 2 if it was called wrongly.";

/// What `hostmount check` is told.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = HELP)]
pub struct CheckArgs {
    /// The allow-list, whose entries are then checked too.
    #[arg(long, env = "HOSTMOUNT_CONFIG")]
    config: Option<PathBuf>,
    /// The kubelet's --root-dir, as the kubelet sees it.
    #[arg(long, env = "HOSTMOUNT_KUBELET_DIR", default_value = "/var/lib/kubelet", value_parser = kubelet_dir)]
    kubelet_dir: AbsPath,
    /// The driver's name, as in CSIDriver.metadata.name.
    #[arg(long, env = "HOSTMOUNT_DRIVER_NAME", default_value = "csi.hostmount.dev", value_parser = driver_name)]
    driver_name: String,
    /// The kubelet's process [default: the one that is called so, else process 1].
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// How many seconds a directory may take to answer.
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = patience)]
    timeout: Duration,
    /// Print one JSON object instead of the table (docs/check.md).
    #[arg(long)]
    json: bool,
    /// Do as if the kernel had none of the newer mount calls.
    #[arg(long, hide = true)]
    old_calls: bool,
    /// Be the child: look, and print the report on one line.
    #[arg(long, hide = true)]
    look: bool,
}

/// What is asked of the node.
#[derive(Debug)]
struct Asked {
    config: Option<PathBuf>,
    kubelet_dir: AbsPath,
    driver: String,
    pid: Option<i32>,
    patience: Duration,
    old_calls: bool,
}

fn kubelet_dir(text: &str) -> Result<AbsPath, String> {
    AbsPath::parse(text).map_err(|e| format!("it {e}"))
}

fn driver_name(text: &str) -> Result<String, String> {
    check_driver(text).map(|()| text.to_owned())
}

fn patience(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "it is not a number".to_owned())?;
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero());
    time.ok_or_else(|| "it is no time: write seconds above 0".to_owned())
}

/// Runs `hostmount check`.
///
/// # Errors
/// What keeps it from looking at all.
pub fn run(args: &CheckArgs) -> Result<ExitCode, String> {
    if args.look {
        return look(args).map(|()| ExitCode::SUCCESS);
    }
    let report = ask_child()?;
    let text = if args.json {
        serde_json::to_string_pretty(&report).map_err(|e| e.to_string())? + "\n"
    } else {
        report.text(colour())
    };
    // A reader that has gone away changes nothing about the result.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The child's part.
fn look(args: &CheckArgs) -> Result<(), String> {
    let asked = Asked {
        config: args.config.clone(),
        kubelet_dir: args.kubelet_dir.clone(),
        driver: args.driver_name.clone(),
        pid: args.pid,
        patience: args.timeout,
        old_calls: args.old_calls,
    };
    let facts = gather::gather(&asked)?;
    let process = &facts.kubelet.process;
    let kubelet = KubeletProcess { pid: process.pid, name: process.name.clone() };
    let report = Report::new(&facts.driver, &facts.release, kubelet, judge::judge(&facts));
    let line = serde_json::to_string(&report).map_err(|e| e.to_string())?;
    writeln!(std::io::stdout().lock(), "{line}").map_err(|e| e.to_string())
}

/// Has a child look, with the same arguments.
fn ask_child() -> Result<Report, String> {
    let failed = |e: &dyn std::fmt::Display| format!("the check cannot be run: {e}");
    // By its name in /proc, which works too where the file was replaced meanwhile.
    let mut child = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .arg("--look")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed(&e))?;
    let output = child.stdout.take().ok_or("the check cannot be run: no pipe")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).map_err(|e| failed(&e))?;
    if line.is_empty() {
        // It has said why; and as it looked at nothing, it ends.
        let status = child.wait().map_err(|e| failed(&e))?;
        return Err(format!("the check could not be carried through ({status})"));
    }
    serde_json::from_str(&line).map_err(|e| failed(&e))
}
