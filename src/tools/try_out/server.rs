//! The plugin of the trial: the real `hostmount serve` in a mount namespace of its own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::{During, TryError};
use super::node::{DRIVER, Node};
use super::roles;

/// How long the plugin may take to end after SIGTERM.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How often a process is asked whether it has ended.
pub(super) const PAUSE: Duration = Duration::from_millis(3);

/// A running plugin.
#[derive(Debug)]
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts it. It isn't ready yet.
    ///
    /// # Errors
    /// What starting a process says.
    pub fn start(node: &Node) -> Result<Self, TryError> {
        let log = File::create(node.log()).during(|| "creating the plugin's log".to_owned())?;
        let mut endpoint = OsString::from("unix://");
        endpoint.push(node.socket());
        let arguments: Vec<OsString> = vec![
            "--endpoint".into(),
            endpoint,
            "--config".into(),
            node.config().into(),
            "--node-id".into(),
            "try".into(),
            "--kubelet-dir".into(),
            node.kubelet_dir().into(),
            "--driver-name".into(),
            DRIVER.into(),
            "--mount-namespace".into(),
            "caller".into(),
            "--log-level".into(),
            "warn".into(),
        ];
        let mut command = roles::command(roles::server_line(arguments));
        // What is set for a real plugin is none of the trial's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"HOSTMOUNT_")) {
            command.env_remove(name);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // The log is a file here, and printed only in an error.
            .env("NO_COLOR", "1")
            .process_group(0)
            .spawn()
            .during(|| "starting `hostmount serve`".to_owned())?;
        Ok(Self { child })
    }

    /// Fails if the plugin has ended.
    ///
    /// # Errors
    /// [`TryError::Plugin`] with its status.
    pub fn check_alive(&mut self) -> Result<(), TryError> {
        match self.child.try_wait().during(|| "waiting for `hostmount serve`".to_owned())? {
            Some(status) => Err(TryError::Plugin(format!("ended early ({status})"))),
            None => Ok(()),
        }
    }

    /// Ends it with SIGTERM. `None` if it didn't end in time and had to be killed.
    ///
    /// # Errors
    /// What waiting says.
    pub fn stop(mut self) -> Result<Option<ExitStatus>, TryError> {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // ESRCH can't be: the child hasn't been waited for.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP_WITHIN;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().during(|| "waiting for `hostmount serve`".to_owned())? {
                return Ok(Some(status));
            }
            sleep(PAUSE);
        }
        Ok(None)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the plugin has written, for an error's sake.
#[must_use]
pub fn log(node: &Node) -> String {
    fs::read_to_string(node.log()).unwrap_or_default()
}
