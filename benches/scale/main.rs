//! Scale on one node: tens of thousands of volumes on one plugin, and one event at a source for a thousand pods, beside
//! what the kernel takes for the same calls and the same mounts without a plugin, in the same run.
//!
//! `cargo bench --bench scale` runs each part in user and mount namespaces of its own, with the real `hostmount serve`; it
//! needs no privilege and leaves nothing behind. `-- --json FILE` writes the figures too; `--volumes N` and `--pods N`
//! change the size. Without `--bench` (`cargo test --benches`) it is a quick run that shows that it works. No figure
//! fails the run; only what does not work does.
#![allow(clippy::disallowed_methods, reason = "plays the kubelet and the node, in namespaces of its own")]

mod direct;
mod event;
mod hold;
mod node;
mod ran;
mod report;

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The first word of a part's command line, inside its namespaces.
const PART: &str = "--part";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match words.as_slice() {
        [first, part, size] if first == PART => run_part(part, size),
        words => run(words),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("scale bench: {why}");
            ExitCode::FAILURE
        }
    }
}

/// A part prints its figures as one line of JSON; what is meant for people goes to standard error as it comes.
fn run_part(part: &str, size: &str) -> Outcome<()> {
    let size = size.parse()?;
    let figures = match part {
        "hold" => hold::run(size)?,
        "event" => event::run(size)?,
        other => return Err(format!("no part {other}").into()),
    };
    println!("{figures}");
    Ok(())
}

fn run(words: &[String]) -> Outcome<()> {
    let value_of = |name: &str| words.iter().position(|word| word == name).and_then(|at| words.get(at + 1));
    let full = words.iter().any(|word| word == "--bench");
    let size = |name: &str, full_size: usize, quick: usize| match value_of(name) {
        Some(text) => text.parse().map_err(|e| format!("{name} {text}: {e}")),
        None => Ok(if full { full_size } else { quick }),
    };
    let volumes = node::as_many_as_fit(size("--volumes", 50_000, 300)?)?;
    let pods = size("--pods", 1000, 20)?;
    let mut figures = serde_json::Map::new();
    for (part, size) in [("hold", volumes), ("event", pods)] {
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--propagation", "private", "--"])
            .arg(std::env::current_exe()?)
            .args([PART, part, &size.to_string()])
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| format!("unshare (util-linux) cannot be started: {e}"))?;
        if !output.status.success() {
            return Err(format!("the part {part} failed ({})", output.status).into());
        }
        let text = String::from_utf8(output.stdout)?;
        figures.insert(part.to_owned(), serde_json::from_str(text.trim())?);
    }
    let figures = Value::Object(figures);
    print!("{}", report::tables(&figures));
    if let Some(path) = value_of("--json").map(PathBuf::from) {
        std::fs::write(&path, format!("{figures:#}\n")).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}
