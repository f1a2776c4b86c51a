//! `hostmount watch`: prints mounts and unmounts in every mount namespace as they happen, and how each got there.
//!
//! `live` watches the namespaces. All else is pure: [`diff`] finds the changes, [`ledger`] compares them with the kernel's
//! events, [`origin`] groups changes into events and finds where each came from, [`cut`] delays events that may be incomplete,
//! and [`show`] prints them.

pub mod cut;
pub mod diff;
pub mod error;
pub mod ledger;
mod live;
mod namer;
pub mod origin;
mod output;
pub mod show;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use error::WatchError;
use k8s_openapi::jiff::Timestamp;
use live::{Live, Round, Scan};
use model::machine::Namespace;
use mounts::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use output::{Ended, Output};
use serde_json::{Map, Value, json};
use show::Filter;

use crate::inspect::{Within, absolute};
use crate::options;

const HELP: &str = "\
Lines begin with + (mounted), - (unmounted), > (moved), * (came and went at once), ++ and -- (a mount namespace came or \
went), ! (something was missed). What is told on stderr is how it watches and what it cannot see.

As root in the first user namespace it watches all, and the kernel (6.15 and later) names each mount; otherwise mount \
tables are compared. Nothing is changed. It ends with SIGINT or SIGTERM, or when nobody reads its output any more.

Exit code: 0; 1 if nothing can be watched; 2 if it was called wrongly.";

/// The arguments of `hostmount watch`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = HELP)]
pub struct WatchArgs {
    /// Only mounts at this path and beneath, as seen in their namespace.
    path: Option<PathBuf>,
    #[command(flatten)]
    within: Within,
    /// One JSON object a line (docs/watch.md).
    #[arg(short = 'J', long)]
    json: bool,
    /// The times in front of the lines.
    #[arg(long, value_enum, default_value_t, conflicts_with = "json")]
    time: Time,
    /// How many seconds pass between two looks whether there are new namespaces.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = options::interval)]
    interval: Duration,
    /// Compare mount tables, as if the kernel did not name mounts.
    #[arg(long)]
    poll: bool,
}

/// The times in front of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Time {
    /// Hours, minutes and seconds in UTC.
    #[default]
    Clock,
    /// Date and time, RFC 3339, in UTC.
    Rfc3339,
    /// Seconds since 1970.
    Unix,
    /// Seconds since it began to watch.
    Delta,
    /// None.
    None,
}

/// Runs `hostmount watch`.
///
/// # Errors
/// [`WatchError`].
pub fn run(args: &WatchArgs) -> Result<ExitCode, WatchError> {
    let path = args.path.as_deref().map(absolute).transpose()?;
    // Two descriptors for each namespace.
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let output = Output::new().map_err(WatchError::Signals)?;
    let (live, refusal, first) = Live::begin(args.poll)?;
    let of_process = args.within.pid.map(|pid| live.namespace_of(pid).map_err(|errno| WatchError::Pid { pid, errno }));
    let inodes = of_process.transpose()?.into_iter().chain(args.within.namespace).collect();
    let mut watch = Watch {
        filter: Filter { inodes, pod: args.within.pod.clone(), path },
        live,
        output,
        json: args.json,
        time: args.time,
        begun: Instant::now(),
        event: 0,
    };
    watch.introduce(refusal);
    match watch.go(args.interval, &first) {
        Ok(never) => match never {},
        Err(Stop::Ended) => Ok(ExitCode::SUCCESS),
        Err(Stop::Failed(why)) => Err(why),
    }
}

/// Why it stops.
enum Stop {
    /// By a signal, or because the reader of the output has gone.
    Ended,
    /// By an error.
    Failed(WatchError),
}

impl From<Ended> for Stop {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::CausedChange => Self::Ended,
            Ended::Failed(errno) => Self::Failed(WatchError::Output(errno)),
        }
    }
}

struct Watch {
    filter: Filter,
    live: Live,
    output: Output,
    json: bool,
    time: Time,
    begun: Instant,
    /// The number of the last event.
    event: u64,
}

impl Watch {
    /// Prints to stderr how it watches and what it can't see.
    fn introduce(&self, refusal: Option<Errno>) {
        let count = self.live.machine().namespaces.len();
        let how = match (self.live.by_events(), refusal) {
            (true, _) => "the kernel names each mount".to_owned(),
            (false, None) => "their tables are compared, so what comes and goes at once is not seen".to_owned(),
            (false, Some(errno)) => format!(
                "their tables are compared, so what comes and goes at once is not seen (the kernel names mounts since \
                 Linux 6.15, to root in the first user namespace: {errno})"
            ),
        };
        eprintln!("hostmount: watching {count} mount namespaces: {how}");
        if self.live.closed() > 0 {
            eprintln!(
                "hostmount: not seen: the namespaces of {} processes, which may not be traced by us: run it as root",
                self.live.closed()
            );
        }
    }

    fn go(&mut self, interval: Duration, first: &Scan) -> Result<std::convert::Infallible, Stop> {
        if self.json {
            let count = self.live.machine().namespaces.len();
            self.object(
                json!({"type": "watching", "version": 1, "namespaces": count, "byEvents": self.live.by_events()}),
            )?;
        }
        self.tell_refused(first)?;
        let mut next_scan = Instant::now() + interval;
        loop {
            let left =
                if self.live.is_due() { Duration::ZERO } else { next_scan.saturating_duration_since(Instant::now()) };
            // Rounded up: a wait of less than a millisecond would be none.
            let timeout = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
            let mut fds: Vec<PollFd<'_>> = self.output.descriptors().into_iter().collect();
            let own = fds.len();
            fds.extend(self.live.descriptors());
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Stop::Failed(WatchError::Poll(errno))),
            }
            let said: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
            if said[..own].iter().any(|events| !events.is_empty()) {
                return Err(Stop::Ended);
            }
            let (ended, changed) = self.live.take(&said[own..]);
            if changed || self.live.is_due() {
                let round = self.live.round();
                self.tell(&round)?;
            }
            // Also while mounts go on without end: a namespace that has ended must not be kept.
            if ended || next_scan <= Instant::now() {
                let scan = self.live.scan().map_err(Stop::Failed)?;
                self.tell_namespaces(&scan)?;
                next_scan = Instant::now() + interval;
            }
        }
    }

    fn tell(&mut self, round: &Round) -> Result<(), Stop> {
        if round.lost {
            let what = "the kernel has lost events: the tables were compared; what came and went meanwhile is not told";
            if self.json {
                self.object(json!({"type": "lost", "message": what}))?;
            } else {
                self.line(&format!("! {what}"))?;
            }
        }
        for event in &round.events {
            self.event += 1;
            for told in event {
                let machine = self.live.machine();
                let namespace = machine.namespaces.get(told.change.namespace);
                if !namespace.is_some_and(|namespace| self.filter.passes_change(namespace, &told.change)) {
                    continue;
                }
                if self.json {
                    let object = show::json(machine, told, self.event);
                    self.object(Value::Object(object))?;
                } else {
                    let line = show::line(machine, told);
                    self.line(&line)?;
                }
            }
        }
        if round.nameless > 0 {
            let count = round.nameless;
            if self.json {
                self.object(json!({"type": "nameless", "count": count}))?;
            } else {
                self.line(&format!("* mounts that came and went before they could be looked at: {count}"))?;
            }
        }
        Ok(())
    }

    fn tell_namespaces(&mut self, scan: &Scan) -> Result<(), Stop> {
        self.tell_refused(scan)?;
        if self.filter.path.is_some() {
            return Ok(());
        }
        let started = scan.started.iter().filter_map(|&index| self.live.machine().namespaces.get(index)).cloned();
        let started: Vec<Namespace> = started.collect();
        let all = scan.ended.iter().map(|n| (false, n)).chain(started.iter().map(|n| (true, n)));
        for (is_new, namespace) in all.filter(|(_, namespace)| self.filter.passes(namespace)) {
            let mounts = namespace.table.mounts.len();
            if self.json {
                let kind = if is_new { "namespaceCame" } else { "namespaceWent" };
                self.object(json!({"type": kind, "namespace": show::namespace_json(namespace), "mounts": mounts}))?;
            } else {
                let (inode, name) = (namespace.inode, show::name(namespace));
                self.line(&if is_new {
                    format!("++ {name}: a mount namespace came, mnt:[{inode}], with {mounts} mounts")
                } else {
                    format!("-- {name}: no process is left in mnt:[{inode}], which had {mounts} mounts")
                })?;
            }
        }
        Ok(())
    }

    fn tell_refused(&self, scan: &Scan) -> Result<(), Stop> {
        for (inode, errno) in &scan.refused {
            let why = errno.to_string();
            if self.json {
                self.object(json!({"type": "refused", "inode": inode, "message": why}))?;
            } else {
                self.line(&format!("! mnt:[{inode}] cannot be watched: {why}"))?;
            }
        }
        Ok(())
    }

    fn line(&self, text: &str) -> Result<(), Stop> {
        let now = Timestamp::now();
        let time = match self.time {
            Time::Clock => format!("{} ", now.strftime("%H:%M:%S%.3f")),
            Time::Rfc3339 => format!("{now:.6} "),
            Time::Unix => {
                let (seconds, nanoseconds) = (now.as_second(), now.subsec_nanosecond());
                format!("{seconds}.{:06} ", nanoseconds / 1000)
            }
            Time::Delta => format!("{:.6} ", self.begun.elapsed().as_secs_f64()),
            Time::None => String::new(),
        };
        Ok(self.output.write(format!("{time}{text}\n").as_bytes())?)
    }

    fn object(&self, value: Value) -> Result<(), Stop> {
        let mut object = Map::from_iter([("time".to_owned(), format!("{:.6}", Timestamp::now()).into())]);
        if let Value::Object(rest) = value {
            object.extend(rest);
        }
        Ok(self.output.write(format!("{}\n", Value::Object(object)).as_bytes())?)
    }
}
