//! The form of the log. What may not be logged is kept out where log lines are made: no request is ever logged whole, and
//! the crate `wire` prints no values of maps that may hold secrets.

use std::io::{self, IsTerminal};

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging can't be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The value of `--log-level` is no filter.
    #[error("--log-level {filter:?}: {error}; write error, warn, info or debug")]
    Filter {
        /// The value.
        filter: String,
        /// What is wrong with it.
        error: ParseError,
    },
    /// Logging was started already.
    #[error(transparent)]
    Started(#[from] TryInitError),
}

/// Starts logging to standard error. `filter` is a level, or levels by module,
/// such as `info,hostmount_pods::lookup=debug`.
///
/// # Errors
/// [`TelemetryError`].
pub fn start(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    // What kube logs as an error of its own, `lookup` tells once, with what it means.
    let quiet = if ["error", "warn", "info"].contains(&filter) { ",kube_client=off,kube_runtime=off" } else { "" };
    let filter: Targets = format!("{filter}{quiet}")
        .parse()
        .map_err(|error| TelemetryError::Filter { filter: filter.to_owned(), error })?;
    let log = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    let log = match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => log.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(log).try_init()?;
    Ok(())
}
