//! Looks into the kubelet's mount namespace, for commands that only read.
//!
//! A thread that waits for a hung FUSE server can't be killed, and its process can't exit. So a child process does the looking
//! ([`ask_child`]). The parent reads its report from a pipe and does not wait for it to exit. The child looks on mount
//! threads, so that a source that hangs does not block the others.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use allowlist::names::AbsPath;
use engine::site::Site;
use kernel::calls::Calls;
use kernel::namespace::{MountNamespace, Proc};
use mounts::Errno;
use serde::de::DeserializeOwned;
use workers::{NoResult, Pool, Source, Threads};

use crate::options::{driver_name, kubelet_dir, timeout};

/// Where to look, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct VisitArgs {
    /// The kubelet's --root-dir, as the kubelet sees it.
    #[arg(long, env = "HOSTMOUNT_KUBELET_DIR", default_value = "/var/lib/kubelet", value_parser = kubelet_dir)]
    pub kubelet_dir: AbsPath,
    /// The driver's name, as in CSIDriver.metadata.name.
    #[arg(long, env = "HOSTMOUNT_DRIVER_NAME", default_value = "csi.hostmount.dev", value_parser = driver_name)]
    pub driver_name: String,
    /// The kubelet's process [default: the one that is called so, else process 1].
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
    /// How many seconds a directory may take to answer.
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = timeout)]
    pub timeout: Duration,
}

/// Why the node can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// There is no `/proc`.
    #[error("/proc cannot be opened: {0}")]
    Proc(Errno),
    /// The child can't be started or understood.
    #[error("{name} cannot be run: {error}")]
    Run {
        /// What the child does.
        name: &'static str,
        /// What went wrong.
        error: io::Error,
    },
    /// The child exited without a report; it has printed the reason on standard error.
    #[error("{name} could not be carried through ({status})")]
    Ended {
        /// What the child does.
        name: &'static str,
        /// Its exit status.
        status: ExitStatus,
    },
}

impl VisitArgs {
    /// The same options as command-line arguments, for a child.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec![
            format!("--kubelet-dir={}", self.kubelet_dir).into(),
            format!("--driver-name={}", self.driver_name).into(),
            format!("--timeout={}", self.timeout.as_secs_f64()).into(),
        ];
        all.extend(self.pid.map(|pid| format!("--pid={pid}").into()));
        all
    }

    /// Mount threads for the node. None is started yet.
    ///
    /// # Errors
    /// [`VisitError::Proc`].
    pub fn threads(&self) -> Result<Threads, VisitError> {
        let proc = Arc::new(Proc::new().map_err(VisitError::Proc)?);
        let site = Site {
            proc,
            calls: Calls::probe(),
            layout: Arc::new(frontend::kubelet::layout(&self.kubelet_dir, &self.driver_name)),
        };
        Ok(Threads::new(site))
    }
}

/// One mount namespace, and a time-out for each look into it.
#[derive(Debug)]
pub struct Visit<'a> {
    threads: &'a Threads,
    pool: Arc<Pool>,
    timeout: Duration,
}

impl<'a> Visit<'a> {
    /// Starts a first thread in a mount namespace.
    ///
    /// # Errors
    /// What setns(2) says: EPERM if `CAP_SYS_ADMIN` or `CAP_SYS_CHROOT` is missing.
    pub async fn enter(threads: &'a Threads, namespace: MountNamespace, timeout: Duration) -> Result<Self, Errno> {
        let pool = threads.pool(namespace);
        match threads.warm(&pool).await {
            Ok(()) => Ok(Self { threads, pool, timeout }),
            Err(NoResult::NoThread(errno)) => Err(errno),
            Err(_) => Err(Errno::ECANCELED),
        }
    }

    /// Runs `work` on a mount thread. `what` is the source that it may hang on.
    ///
    /// # Errors
    /// [`NoResult`], most likely a time-out.
    pub async fn look<T: Send + 'static>(
        &self,
        what: Source,
        work: impl FnOnce(&Site) -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        self.threads.run(&self.pool, what, self.timeout, move |thread, _| work(&thread.site)).await
    }
}

/// Runs this program again with other arguments, and reads its report: one line of JSON. `name` says in errors what was run.
///
/// # Errors
/// [`VisitError::Run`] and [`VisitError::Ended`].
pub fn ask_child<T: DeserializeOwned>(
    name: &'static str,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<T, VisitError> {
    let failed = |error| VisitError::Run { name, error };
    // By its name in /proc, which works too where the file was replaced meanwhile.
    let mut child = Command::new("/proc/self/exe")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let output = child.stdout.take().ok_or_else(|| failed(io::Error::other("no pipe")))?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).map_err(failed)?;
    if line.is_empty() {
        // It has said why; and as it looked at nothing, it ends.
        let status = child.wait().map_err(failed)?;
        return Err(VisitError::Ended { name, status });
    }
    serde_json::from_str(&line).map_err(|error| failed(error.into()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        visit: VisitArgs,
    }

    #[test]
    fn a_child_is_told_the_same() {
        for given in [vec!["x"], vec!["x", "--kubelet-dir=/k d", "--driver-name=d.x", "--timeout=0.25", "--pid=7"]] {
            let first = Line::parse_from(given).visit;
            let arguments = [OsString::from("x")].into_iter().chain(first.arguments());
            let second = Line::parse_from(arguments).visit;
            assert_eq!(format!("{first:?}"), format!("{second:?}"));
        }
    }
}
