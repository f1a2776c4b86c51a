//! What a publish and an unpublish cost: the bare system calls, hostmount over its socket, and any other CSI driver, in
//! one run, side by side.
//!
//! `cargo bench --bench node` starts workers (`worker`), each in a mount namespace of its own with one driver in it
//! (`driver`) on a node made for it (`place`). hostmount has one worker for each number of volumes held; a peer, which
//! the caller has started, has one, and is measured with one number after the other. The workers take turns, round by
//! round, and within a round so do the direct calls (`direct`), the empty round trip and the driver, so that a busy
//! machine slows all of them alike. VolumeCount means: published by that driver beforehand, and kept. What is measured and how
//! is told in `figures`, what it should be in `targets`, the JSON in `report`; `--help` tells how to name a peer.
//!
//! Every driver has the same terms. It runs in the mount namespace in which its volumes are mounted, with nothing else
//! of weight in it; its targets lie on the same kind of file system, a shared tmpfs, in directories of the kubelet's
//! form; the same client calls it with the same messages, but for what it wants in the volume context. The direct calls
//! stand in each of these namespaces, so a driver is also comparable with what the kernel takes there.
//!
//! A burst, of which the rates and processor times are, holds its own volumes besides: up to 1,024 for a fast driver,
//! one for each caller for a slow one, of which less is done in a round.
//!
//! No figure fails the run; only what does not work does. Without `--bench`, as `cargo test --benches` calls it, the
//! run is small and its figures mean nothing.
#![allow(clippy::disallowed_methods, reason = "plays the kubelet and builds trees, in namespaces of its own")]

mod args;
mod chart;
mod client;
mod direct;
mod driver;
mod figures;
mod kept;
mod parent;
mod place;
mod process;
mod report;
mod samples;
mod stats;
mod table;
mod targets;
mod volume;
mod worker;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PLUGIN: &str = env!("CARGO_BIN_EXE_hostmount");
/// The first word of a worker's command line.
const WORKER: &str = "--worker";
/// How long a single call may take before it counts as broken: what the kubelet waits.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match words.as_slice() {
        [first, job] if first == WORKER => worker::work(job),
        _ => args::Args::read().and_then(|(args, peers)| parent::run(&args, &peers)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("node bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
