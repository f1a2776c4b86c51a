//! A visit to the kubelet's mount namespace, for commands that look at the node and change nothing.
//!
//! A thread that waits for a FUSE server which has taken its request can't even be killed, and a process with such a
//! thread never ends. So all looking is done by a child ([`ask_child`]), whose report is read from a pipe and for whose
//! end nobody waits; and in it on mount threads, so that one source that hangs holds up no other.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use allowlist::names::{AbsPath, check_driver};
use engine::site::Site;
use kernel::calls::Calls;
use kernel::namespace::{MountNamespace, Proc};
use model::kubelet::{self, Process};
use mounts::Errno;
use nix::sys::stat::fstat;
use serde::de::DeserializeOwned;
use workers::{NoResult, Pool, Source, Threads};

use crate::check::facts::FoundBy;

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
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = patience)]
    pub timeout: Duration,
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

impl VisitArgs {
    /// The same as arguments, for a child.
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

    /// The node, and no mount threads yet.
    ///
    /// # Errors
    /// If there is no `/proc`, in a sentence.
    pub fn threads(&self) -> Result<Threads, String> {
        let proc = Arc::new(Proc::new().map_err(|e| format!("/proc cannot be opened: {e}"))?);
        let site = Site { proc, calls: Calls::probe(), kubelet_dir: self.kubelet_dir.clone() };
        Ok(Threads::new(site, &self.driver_name))
    }
}

/// The kubelet's process, how it was found, and others that might be meant.
#[must_use]
pub fn find_kubelet(proc: &Proc, pid: Option<i32>) -> (Process, FoundBy, Vec<i32>) {
    if let Some(pid) = pid {
        return (process(proc, pid), FoundBy::Pid, Vec::new());
    }
    // Those of root that have a kubelet's name.
    let of_root = |pid: i32| proc.open(&pid.to_string()).and_then(fstat).is_ok_and(|stat| stat.st_uid == 0);
    let all = proc.processes().unwrap_or_default().into_iter().map(|pid| process(proc, pid));
    let candidates: Vec<Process> =
        all.filter(|p| kubelet::NAMES.contains(&p.name.as_str()) && of_root(p.pid)).collect();
    match kubelet::choose(&candidates) {
        Some((chosen, others)) => (chosen.clone(), FoundBy::Name, others),
        None => (process(proc, 1), FoundBy::Default, Vec::new()),
    }
}

fn process(proc: &Proc, pid: i32) -> Process {
    let depth = kubelet::depth(&text(proc, &format!("{pid}/status")));
    Process { pid, name: text(proc, &format!("{pid}/comm")), depth }
}

/// A file beneath `/proc` as text; empty if it can't be read.
pub(crate) fn text(proc: &Proc, path: &str) -> String {
    String::from_utf8_lossy(&proc.read(path).unwrap_or_default()).trim().to_owned()
}

/// Looks that are taken in one mount namespace, none of them for longer than it may take.
#[derive(Debug)]
pub struct Visit<'a> {
    threads: &'a Threads,
    pool: Arc<Pool>,
    patience: Duration,
}

impl<'a> Visit<'a> {
    /// Gets a first thread into a mount namespace.
    ///
    /// # Errors
    /// What setns(2) says: EPERM if `CAP_SYS_ADMIN` or `CAP_SYS_CHROOT` is missing.
    pub fn enter(threads: &'a Threads, namespace: MountNamespace, patience: Duration) -> Result<Self, Errno> {
        let pool = threads.pool(namespace);
        match threads.warm(&pool) {
            Ok(()) => Ok(Self { threads, pool, patience }),
            Err(NoResult::NoThread(errno)) => Err(errno),
            Err(_) => Err(Errno::ECANCELED),
        }
    }

    /// Takes a look on a mount thread. `what` is what it may hang on.
    ///
    /// # Errors
    /// [`NoResult`]: above all, that it didn't come back in time.
    pub async fn look<T: Send + 'static>(
        &self,
        what: Source,
        work: impl FnOnce(&Site) -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        self.threads.run(&self.pool, what, self.patience, move |thread, _| work(&thread.site)).await
    }
}

/// Has a child look: this program with other arguments, which prints its report as JSON on one line. `name` is how the
/// look is called in errors.
///
/// # Errors
/// What kept it from looking, in a sentence.
pub fn ask_child<T: DeserializeOwned>(name: &str, arguments: impl IntoIterator<Item = OsString>) -> Result<T, String> {
    let failed = |e: &dyn std::fmt::Display| format!("{name} cannot be run: {e}");
    // By its name in /proc, which works too where the file was replaced meanwhile.
    let mut child = Command::new("/proc/self/exe")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed(&e))?;
    let output = child.stdout.take().ok_or_else(|| failed(&"no pipe"))?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).map_err(|e| failed(&e))?;
    if line.is_empty() {
        // It has said why; and as it looked at nothing, it ends.
        let status = child.wait().map_err(|e| failed(&e))?;
        return Err(format!("{name} could not be carried through ({status})"));
    }
    serde_json::from_str(&line).map_err(|e| failed(&e))
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
