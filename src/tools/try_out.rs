//! `hostmount try`: mounts from a node's directory into containers, without Kubernetes and without root.
//!
//! The plugin is real: this executable's `serve`, behind its unix socket. The containers are made as a runtime makes them. Only
//! the node, on a tmpfs, and the kubelet are simulated.
//! ```text
//! hostmount try          the node's user and mount namespace; the kubelet
//! ├─ hostmount serve     a mount namespace of its own, as in a DaemonSet's pod
//! └─ observer, sh ...    a mount namespace and a root of their own each: pod A and pod B of every mode
//! ```
//! Reading order: [`scenario`] (what should happen), [`node`], [`server`], [`kubelet`], [`container`], [`observer`],
//! [`leftovers`], [`report`]; [`roles`] are the processes, [`look`] is what all of them do, [`shell`] is `--shell`.

pub mod container;
pub mod error;
pub mod kubelet;
pub mod leftovers;
pub mod look;
pub mod node;
pub mod observer;
pub mod report;
pub mod roles;
pub mod scenario;
pub mod server;
pub mod shell;

use std::process::ExitCode;
use std::time::Instant;

use error::{During, TryError};
use kubelet::{Kubelet, TrialVolume};
use leftovers::{Check, Snapshot, source_kept, source_mounts, targets_gone};
use mounts::propagation::MountPropagation;
use node::Node;
use observer::Container;
use report::{Flags, ModeReport, Report};
pub use roles::{RoleArgs, role};
use scenario::{Cell, DOCUMENTATION, Event, Viewpoint};
use server::Server;

use crate::terminal::{colour, print};

/// The exit code if the trial could not be completed.
const COULD_NOT_TRY: u8 = 2;

const HELP: &str = "\
In namespaces of its own it starts the plugin, publishes volumes for six pods, starts their containers, makes mounts \
on the node and in the pods, and compares who sees them with what Kubernetes documents. Nothing outside of the \
namespaces is touched.

Exit code: 0 if all is as documented; 1 if something differs or is left over; 2 if it could not be tried.";

/// The arguments of `hostmount try`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct TryArgs {
    /// Print one JSON object instead of the table
    #[arg(long, conflicts_with = "shell")]
    json: bool,
    /// Open a shell in a container that has a volume, with hints of what to try
    #[arg(long)]
    shell: bool,
    /// The propagation that the shell's pod asks for: None, HostToContainer or Bidirectional
    #[arg(long, value_name = "MODE", default_value_t = MountPropagation::HostToContainer, requires = "shell")]
    mode: MountPropagation,
}

/// Runs `hostmount try`. Call it before anything starts a thread: a user namespace takes single-threaded processes
/// only (unshare(2)).
#[must_use]
pub fn run(args: &TryArgs) -> ExitCode {
    let started = Instant::now();
    let node = match Node::build() {
        Ok(node) => node,
        Err(error) => return give_up(&error, ""),
    };
    let result = if args.shell { shell::open(&node, args.mode) } else { survey(&node, started, args.json) };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => give_up(&error, &server::log(&node)),
    }
}

fn give_up(error: &TryError, log: &str) -> ExitCode {
    eprintln!("hostmount try: {error}");
    if !log.is_empty() {
        eprintln!("what `hostmount serve` wrote:\n{log}");
    }
    ExitCode::from(COULD_NOT_TRY)
}

/// Everything that runs while volumes are published. Dropping it ends its processes.
struct Trial {
    before: Snapshot,
    server: Server,
    kubelet: Kubelet,
    volumes: Vec<TrialVolume>,
}

impl Trial {
    /// Starts the plugin and publishes a volume for each pod of each mode.
    fn begin(node: &Node, modes: &[MountPropagation]) -> Result<Self, TryError> {
        let before = Snapshot::take(node).during(|| "looking at the node".to_owned())?;
        let mut server = Server::start(node)?;
        for &mode in modes {
            look::make(&node.source(mode), Event::Before.directory()).during(|| "mounting on the node".to_owned())?;
        }
        let mut kubelet = Kubelet::connect(node, &mut server)?;
        let pods = modes.iter().flat_map(|&mode| Viewpoint::PODS.map(|pod| TrialVolume::new(node, mode, pod)));
        let volumes: Vec<TrialVolume> = pods.collect();
        for volume in &volumes {
            kubelet.publish(volume)?;
        }
        Ok(Self { before, server, kubelet, volumes })
    }

    /// Unpublishes all, ends the plugin, and looks for what is left. The containers must have ended.
    fn end(self, node: &Node, modes: &[MountPropagation]) -> Result<Vec<Check>, TryError> {
        let Self { before, server, mut kubelet, volumes } = self;
        let sources = |when: &str| -> Result<Vec<_>, TryError> {
            modes
                .iter()
                .map(|&mode| source_mounts(node, mode).during(|| format!("looking at the sources {when}")))
                .collect()
        };
        let kept_before = sources("before")?;
        for volume in &volumes {
            kubelet.unpublish(volume)?;
        }
        let kept_after = sources("after")?;
        let mut checks: Vec<Check> = Vec::new();
        for ((&mode, old), new) in modes.iter().zip(&kept_before).zip(&kept_after) {
            checks.push(source_kept(mode, old, new));
        }
        checks.push(targets_gone(volumes.iter().map(|volume| volume.target.as_path())));
        for volume in &volumes {
            kubelet.tidy(node, volume);
        }
        // The plugin waits for its connections before it ends.
        drop(kubelet);
        let wrong = match server.stop()? {
            Some(status) if status.success() => Vec::new(),
            Some(status) => vec![format!("it ended with {status}: {}", server::log(node))],
            None => vec!["it did not end and was killed".to_owned()],
        };
        checks.push(Check::new("the plugin ended when told to (SIGTERM)", wrong));
        let after = Snapshot::take(node).during(|| "looking at the node".to_owned())?;
        checks.push(Check::new("the node's mount table is as it was", after.mounts_since(&before)));
        checks.push(Check::new("the kubelet's directory is as it was, without a socket", after.paths_since(&before)));
        Ok(checks)
    }
}

/// Runs the trial of all modes and prints the table.
fn survey(node: &Node, started: Instant, json: bool) -> Result<bool, TryError> {
    let trial = Trial::begin(node, &MountPropagation::ALL)?;
    // All are started before the first is waited for.
    let mut containers = Vec::new();
    for volume in &trial.volumes {
        containers.push(Container::start(node, volume.pod_name(), volume.mode, &volume.target)?);
    }
    for container in &mut containers {
        container.wait_ready()?;
    }
    let mut modes = Vec::new();
    for (mode, (volumes, pods)) in
        MountPropagation::ALL.into_iter().zip(trial.volumes.chunks(2).zip(containers.chunks_mut(2)))
    {
        if let ([a, b], [in_a, in_b]) = (volumes, pods) {
            modes.push(observe(node, mode, [a, b], [in_a, in_b])?);
        }
    }
    containers.into_iter().for_each(Container::stop);
    let checks = trial.end(node, &MountPropagation::ALL)?;
    let report = Report {
        ok: Report::judge(&modes, &checks),
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        isolation: node.isolation,
        documentation: DOCUMENTATION,
        modes,
        checks,
        milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    let text = if json {
        report.json().map_err(std::io::Error::from).during(|| "writing the report".to_owned())? + "\n"
    } else {
        report.text(colour())
    };
    print(&text);
    Ok(report.ok)
}

/// Makes the mounts of a mode, and checks from each viewpoint which are seen.
fn observe(
    node: &Node,
    mode: MountPropagation,
    volumes: [&TrialVolume; 2],
    [in_a, in_b]: [&mut Container; 2],
) -> Result<ModeReport, TryError> {
    let source = node.source(mode);
    look::make(&source, Event::NodeLate.directory()).during(|| "mounting on the node".to_owned())?;
    in_a.make(Event::PodA)?;
    in_b.make(Event::PodB)?;
    let mut cells = Vec::new();
    for event in Event::ALL {
        for place in Viewpoint::ALL {
            let seen = match place {
                Viewpoint::Node => {
                    look::sees(&source, event.directory()).during(|| "looking at the node".to_owned())?
                }
                Viewpoint::PodA => in_a.sees(event)?,
                Viewpoint::PodB => in_b.sees(event)?,
            };
            cells.push(Cell::new(mode, event, place, seen));
        }
    }
    let on_node = |path: &std::path::Path| -> Result<String, TryError> {
        look::flags(path).map(|state| state.to_string()).during(|| "looking at the node".to_owned())
    };
    let flags = Flags {
        source: on_node(&source)?,
        targets: [on_node(&volumes[0].target)?, on_node(&volumes[1].target)?],
        containers: [in_a.flags()?, in_b.flags()?],
    };
    Ok(ModeReport { mode: mode.name(), flags, cells })
}
