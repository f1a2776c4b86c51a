//! What the log looks like. What may not be in it is seen to where it is made: no request is ever logged whole, and
//! `wire` prints no values of maps that may hold secrets.

use std::io::{self, IsTerminal};

use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error. `filter` is a level, or levels by module,
/// such as `info,hostmount::lookup=debug`.
///
/// # Errors
/// If the filter isn't one, or logging was started already.
pub fn start(filter: &str, format: LogFormat) -> Result<(), String> {
    // What kube logs as an error of its own, `lookup` tells once, with what it means.
    let quiet = if ["error", "warn", "info"].contains(&filter) { ",kube_client=off,kube_runtime=off" } else { "" };
    let filter: Targets = format!("{filter}{quiet}")
        .parse()
        .map_err(|e| format!("--log-level {filter:?}: {e}; write error, warn, info or debug"))?;
    let log = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    let log = match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => log.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(log).try_init().map_err(|e| e.to_string())
}
