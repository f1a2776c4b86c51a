//! The other processes of the trial. Each is this executable with a hidden subcommand: namespaces are entered before anything
//! else, and fork(2) without exec is not safe in Rust.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid};

use super::container::{self, ContainerArgs};
use super::error::{During, TryError};
use super::node::propagate;
use super::observer;

/// The hidden subcommand: one process of `hostmount try`.
#[derive(Debug, clap::Args)]
pub struct RoleArgs {
    /// The process to end with.
    #[arg(long)]
    parent: Option<i32>,
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// The plugin in its own mount namespace, as in a DaemonSet's pod.
    Server {
        /// The arguments of `hostmount serve`.
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// A pod's container.
    Container(ContainerArgs),
    /// What runs in a container: obeys and answers by lines.
    Observer,
}

/// Runs one of the processes. Call it before anything starts a thread.
#[must_use]
pub fn role(args: &RoleArgs) -> ExitCode {
    let error = match end_with_parent(args.parent) {
        Err(error) => error,
        Ok(()) => match &args.role {
            Role::Server { command } => serve(command),
            Role::Container(container) => container::become_container(container),
            Role::Observer => match observer::obey(Path::new(container::VOLUME)) {
                Ok(()) => return ExitCode::SUCCESS,
                Err(cause) => TryError::Step { what: "talking to the node".to_owned(), cause },
            },
        },
    };
    eprintln!("hostmount try: {error}");
    ExitCode::FAILURE
}

/// A command that runs a role and is killed when this process ends.
#[must_use]
pub(super) fn command(role_and_arguments: Vec<OsString>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["try-role", "--parent", &getpid().to_string()]).args(role_and_arguments);
    command
}

/// The command line of the plugin's role.
#[must_use]
pub(super) fn server_line(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut line: Vec<OsString> = vec!["server".into(), "--".into()];
    line.extend(arguments);
    line
}

/// The command of the observer's role inside a container. It needs no `--parent`: the parent-death signal is kept over exec.
#[must_use]
pub(super) fn observer_command() -> Vec<OsString> {
    [container::EXECUTABLE, "try-role", "observer"].map(OsString::from).to_vec()
}

fn end_with_parent(parent: Option<i32>) -> Result<(), TryError> {
    let Some(parent) = parent else { return Ok(()) };
    set_pdeathsig(Signal::SIGKILL).during(|| "asking to end with the parent".to_owned())?;
    // It may have ended before we asked.
    if getppid().as_raw() == parent {
        Ok(())
    } else {
        Err(TryError::Step { what: "starting".to_owned(), cause: io::Error::other("the parent is gone already") })
    }
}

fn serve(arguments: &[OsString]) -> TryError {
    let apart = unshare(CloneFlags::CLONE_NEWNS)
        // A pod's container gets no mount event but for the volumes that ask for them, and the plugin asks for none.
        .and_then(|()| propagate(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE));
    match apart.during(|| "giving the plugin a mount namespace".to_owned()) {
        Err(error) => error,
        Ok(()) => {
            let cause = Command::new("/proc/self/exe").arg("serve").args(arguments).exec();
            TryError::Step { what: "executing `hostmount serve`".to_owned(), cause }
        }
    }
}
