//! Standard output, and the terminal that it may be.

use std::io::{self, ErrorKind, IsTerminal, Write};

/// Standard output can't be written.
#[derive(Debug, thiserror::Error)]
#[error("the output can't be written: {0}")]
pub struct OutputError(#[source] io::Error);

/// Whether to print in colour: to a terminal, unless its user doesn't want it.
pub(crate) fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether the locale's characters are UTF-8: the first of these variables that is set counts (locale(7)).
pub(crate) fn is_utf8() -> bool {
    let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Prints a text. Errors are ignored: they change nothing about the result, which is the exit code.
pub(crate) fn print(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// The result of writing to standard output. A reader that has gone away has seen what it wanted.
///
/// # Errors
/// Any other error of writing.
pub(crate) fn written(result: io::Result<()>) -> Result<(), OutputError> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(OutputError(error)),
        _ => Ok(()),
    }
}
