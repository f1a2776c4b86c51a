//! The parent: starts the workers, has them take turns, and writes down what they say.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;

use crate::args::Args;
use crate::driver::{Peer, Subject};
use crate::figures::Figure;
use crate::report::{DriverFacts, Measured, Report};
use crate::samples::Round;
use crate::stats::Spread;
use crate::worker::{Hello, Job, Order, Size, VolumeCount};
use crate::{Outcome, PLUGIN, WORKER, chart, table};

/// A worker as its parent sees it.
struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    hello: Hello,
    crowd: usize,
}

impl Worker {
    /// Starts one. hostmount's gets a mount namespace; without privileges a user namespace as well.
    fn start(job: &Job, privileged: bool) -> Outcome<Self> {
        let exe = std::env::current_exe()?;
        let mut command = match &job.subject {
            Subject::Peer(_) => Command::new(exe),
            Subject::Hostmount(_) => {
                let mut command = Command::new("unshare");
                if !privileged {
                    command.args(["--user", "--map-root-user"]);
                }
                command.args(["--mount", "--propagation", "private", "--"]).arg(exe);
                command
            }
        };
        let mut child = command
            .args([WORKER, &serde_json::to_string(job)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{} cannot be started: {e}", command.get_program().display()))?;
        let orders = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().ok_or("no pipe to the worker")?);
        let hello = answer(&mut answers, &mut child)?;
        Ok(Self { child, orders, answers, hello, crowd: job.crowd })
    }

    fn ask<T: for<'a> Deserialize<'a>>(&mut self, order: Order) -> Outcome<T> {
        let mut line = serde_json::to_string(&order)?;
        line.push('\n');
        self.orders.as_ref().ok_or("the worker was told to end")?.write_all(line.as_bytes())?;
        answer(&mut self.answers, &mut self.child)
    }

    fn hold(&mut self, volumes: usize) -> Outcome<VolumeCount> {
        progress(&format!("{}: publishing until it holds {}", self.hello.name, table::grouped(volumes)));
        self.ask(Order::Hold(volumes))
    }

    fn end(mut self) -> Outcome<()> {
        self.orders = None;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("a worker failed at its end ({status})").into()) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Without orders it ends by itself, and cleans up.
        self.orders = None;
        let _ = self.child.wait();
    }
}

fn answer<T: for<'a> Deserialize<'a>>(answers: &mut impl BufRead, child: &mut Child) -> Outcome<T> {
    let mut line = String::new();
    if answers.read_line(&mut line)? == 0 {
        return Err(format!("a worker ended early ({})", child.wait()?).into());
    }
    Ok(serde_json::from_str(&line)?)
}

/// For who waits, beside the result.
fn progress(what: &str) {
    eprintln!("bench: {what}");
}

/// What a run consists of.
struct Plan {
    held: Vec<usize>,
    crowd: usize,
    rounds: usize,
    starts: usize,
    size: Size,
}

impl Plan {
    fn of(args: &Args) -> Self {
        let full = Size { single: 60, fresh: 5, solo: 64, each: 64 };
        let (held, crowd, rounds, starts, size) = if args.bench {
            (vec![0, 1000, 10_000], 10_000, 40, 20, full)
        } else {
            (vec![0, 50], 100, 2, 2, Size { single: 2, fresh: 2, solo: 4, each: 2 })
        };
        let mut held = args.held.clone().unwrap_or(held);
        held.push(0);
        held.sort_unstable();
        held.dedup();
        Self { held, crowd: args.crowd.unwrap_or(crowd), rounds: args.rounds.unwrap_or(rounds), starts, size }
    }
}

/// Runs everything that the command line asks for.
pub(crate) fn run(args: &Args, peers: &[Peer]) -> Outcome<()> {
    let plan = Plan::of(args);
    let mut report = Report {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        processors: std::thread::available_parallelism()?.get(),
        rounds: plan.rounds,
        callers: args.callers,
        others: args.others,
        image_bytes: args.image.as_ref().map(fs::metadata).transpose()?.map(|image| image.len()),
        ..Report::default()
    };
    let job = Job {
        subject: Subject::Hostmount(fs::canonicalize(args.plugin.as_deref().unwrap_or(Path::new(PLUGIN)))?),
        crowd: 0,
        others: args.others,
        callers: args.callers,
        starts: 0,
        size: plan.size,
        fill_seconds: args.fill_seconds,
    };
    let privileged = !peers.is_empty();
    let mut ours = Vec::new();
    for number in 0..plan.held.len() {
        let starts = if number == 0 { plan.starts } else { 0 };
        ours.push(Worker::start(&Job { starts, ..job.clone() }, privileged)?);
    }
    let mut others = Vec::new();
    for peer in peers {
        let worker = Worker::start(&Job { subject: Subject::Peer(peer.clone()), ..job.clone() }, privileged)?;
        if let Some(other) = others.iter().find(|other: &&Worker| other.hello.namespace == worker.hello.namespace) {
            return Err(format!(
                "{} and {} run in one mount namespace, where what one holds would cost the other: start each with \
                 `unshare --mount --propagation private`",
                other.hello.name, worker.hello.name
            )
            .into());
        }
        others.push(worker);
    }
    report.drivers = ours.iter().take(1).chain(&others).map(|worker| facts(&worker.hello)).collect();

    alone(&plan, &job, privileged, &mut ours, &mut report)?;
    if !others.is_empty() {
        beside(&plan, args.peer_held_max, &mut ours, &mut others, &mut report)?;
    }
    // Before the volumes are taken away again, which takes a peer minutes.
    report.judge();
    print!("{}", table::text(&report));
    if let Some(file) = &args.json {
        fs::write(file, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    if let Some(file) = &args.svg {
        fs::write(file, picture(&report).ok_or("nothing was measured that could be drawn")?)?;
    }
    for worker in ours.into_iter().chain(others) {
        progress(&format!("{}: ending", worker.hello.name));
        worker.end()?;
    }
    Ok(())
}

fn facts(hello: &Hello) -> DriverFacts {
    DriverFacts {
        name: hello.name.clone(),
        binary_bytes: hello.binary,
        idle: hello.idle,
        start_ms: Spread::of(hello.starts.iter().copied()).map(Figure::of),
    }
}

/// Has workers take turns; what each has measured. The first round warms up: threads, workshop, caches.
fn measure(count: usize, workers: &mut [&mut Worker], holding: &[VolumeCount]) -> Outcome<Vec<Measured>> {
    let mut all = vec![Vec::new(); workers.len()];
    for number in 0..=count {
        for (worker, rounds) in workers.iter_mut().zip(&mut all) {
            let round: Round = worker.ask(Order::Round)?;
            if number > 0 {
                rounds.push(round);
            }
        }
    }
    let mut measured = Vec::new();
    for ((worker, held), rounds) in workers.iter_mut().zip(holding).zip(all) {
        let after: VolumeCount = worker.ask(Order::Hold(held.volumes))?;
        measured.push(Measured {
            driver: worker.hello.name.clone(),
            held: held.volumes,
            crowd: worker.crowd,
            fill_seconds: held.took,
            memory: held.memory,
            memory_after: after.memory,
            rounds,
        });
    }
    Ok(measured)
}

/// hostmount with all numbers of volumes, and among many other mounts.
fn alone(plan: &Plan, job: &Job, privileged: bool, ours: &mut [Worker], report: &mut Report) -> Outcome<()> {
    let mut holding = Vec::new();
    for (worker, &volumes) in ours.iter_mut().zip(&plan.held) {
        let held = worker.hold(volumes)?;
        if held.volumes < volumes {
            return Err(
                format!("hostmount holds {} of {volumes} volumes only: raise --fill-seconds", held.volumes).into()
            );
        }
        holding.push(held);
    }
    let mut crowd = None;
    if plan.crowd > 0 {
        let mut worker = Worker::start(&Job { crowd: plan.crowd, ..job.clone() }, privileged)?;
        holding.push(worker.hold(0)?);
        crowd = Some(worker);
    }
    progress("hostmount: measuring");
    let mut all: Vec<&mut Worker> = ours.iter_mut().chain(&mut crowd).collect();
    report.add_alone(&measure(plan.rounds, &mut all, &holding)?);
    crowd.map_or(Ok(()), Worker::end)
}

/// hostmount and the peers, with one number of volumes after the other.
fn beside(plan: &Plan, most: usize, ours: &mut [Worker], others: &mut [Worker], report: &mut Report) -> Outcome<()> {
    // A peer that was too slow stays out of the larger numbers.
    let mut slow = vec![false; others.len()];
    for (own, &volumes) in ours.iter_mut().zip(&plan.held) {
        if volumes > most {
            report.skipped.push(format!(
                "the peers with {} held: --peer-held-max is {}",
                table::grouped(volumes),
                table::grouped(most)
            ));
            continue;
        }
        let (mut all, mut holding) = (vec![], vec![]);
        let held = own.hold(volumes)?;
        all.push(own);
        holding.push(held);
        for (peer, slow) in others.iter_mut().zip(&mut slow).filter(|(_, slow)| !**slow) {
            let held = peer.hold(volumes)?;
            if held.volumes < volumes {
                *slow = true;
                report.skipped.push(format!(
                    "{} with {} held: after {:.0} s it held {}; --fill-seconds allows more",
                    peer.hello.name,
                    table::grouped(volumes),
                    held.took,
                    table::grouped(held.volumes)
                ));
                continue;
            }
            all.push(peer);
            holding.push(held);
        }
        progress(&format!("measuring side by side with {} held", table::grouped(volumes)));
        let mut columns = measure(plan.rounds, &mut all, &holding)?;
        let peers = columns.split_off(1);
        columns.iter().for_each(|ours| report.add_beside(ours, &peers));
    }
    Ok(())
}

/// The cost over the number of volumes held.
fn picture(report: &Report) -> Option<String> {
    let others = if report.others > 0 { format!("{} other mounts; ", report.others) } else { String::new() };
    let note = format!(
        "one caller, kept connection; {others}{} rounds on Linux {} with {} processors; solid: publish, dashed: unpublish",
        report.rounds, report.kernel, report.processors
    );
    chart::svg("What a volume costs while others are held", &note, &report.lines())
}
