//! A container that is controlled through pipes: the process in it, which makes mounts and checks for them, and the node's end.
//! A line is a command (`mount NAME`, `sees NAME`, `flags`) or a response (`ok ...` or `error ...`).

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use mounts::propagation::MountPropagation;

use super::container::ContainerArgs;
use super::error::{During, TryError};
use super::node::Node;
use super::scenario::{Event, runtime_check};
use super::{look, roles};

/// Runs in the container: executes the commands from standard input until it ends.
///
/// # Errors
/// Standard input or output fails. A failed command is a response.
pub fn obey(volume: &Path) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "ok ready")?;
    for line in io::stdin().lock().lines() {
        match answer(volume, &line?) {
            Ok(text) => writeln!(out, "ok {text}")?,
            Err(error) => writeln!(out, "error {error}")?,
        }
        out.flush()?;
    }
    Ok(())
}

fn answer(volume: &Path, order: &str) -> io::Result<String> {
    match order.split_once(' ').unwrap_or((order, "")) {
        ("mount", name) => look::make(volume, name).map(|()| String::new()),
        ("sees", name) => look::sees(volume, name).map(|seen| seen.to_string()),
        ("flags", "") => look::flags(volume).map(|state| state.to_string()),
        _ => Err(io::Error::other(format!("unknown order {order:?}"))),
    }
}

/// A running container of a pod.
#[derive(Debug)]
pub struct Container {
    pod: String,
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Container {
    /// Starts a container with an observer, unless a runtime would refuse. Does not wait until it is ready.
    ///
    /// # Errors
    /// [`TryError::RuntimeRefuses`], or what starting a process says.
    pub fn start(node: &Node, pod: String, mode: MountPropagation, volume: &Path) -> Result<Self, TryError> {
        check(mode, volume)?;
        let line = command_line(node, mode, volume, &roles::observer_command());
        let mut child = roles::command(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Apart from the terminal's ^C: that ends the parent, and this with it.
            .process_group(0)
            .spawn()
            .during(|| format!("starting the container of {pod}"))?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let Some(answers) = answers.map(BufReader::new) else {
            return Err(TryError::Container { pod, what: "has no output".to_owned() });
        };
        Ok(Self { pod, child, orders, answers })
    }

    /// The pid of the container's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the observer runs.
    ///
    /// # Errors
    /// If it never does.
    pub fn wait_ready(&mut self) -> Result<(), TryError> {
        self.read().map(drop)
    }

    /// Makes the mount of an event.
    ///
    /// # Errors
    /// What the observer says.
    pub fn make(&mut self, event: Event) -> Result<(), TryError> {
        self.ask(&format!("mount {}", event.directory())).map(drop)
    }

    /// Whether the mount of an event is there.
    ///
    /// # Errors
    /// What the observer says.
    pub fn sees(&mut self, event: Event) -> Result<bool, TryError> {
        Ok(self.ask(&format!("sees {}", event.directory()))? == "true")
    }

    /// The kernel's flags of the volume.
    ///
    /// # Errors
    /// What the observer says.
    pub fn flags(&mut self) -> Result<String, TryError> {
        self.ask("flags")
    }

    /// Stops the container and waits for it.
    pub fn stop(mut self) {
        self.end();
    }

    fn ask(&mut self, order: &str) -> Result<String, TryError> {
        if let Some(orders) = &mut self.orders {
            writeln!(orders, "{order}").during(|| format!("asking the container of {}", self.pod))?;
        }
        self.read()
    }

    fn read(&mut self) -> Result<String, TryError> {
        let mut line = String::new();
        self.answers.read_line(&mut line).during(|| format!("listening to the container of {}", self.pod))?;
        let wrong = |what: String| TryError::Container { pod: self.pod.clone(), what };
        match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
            ("ok", answer) => Ok(answer.to_owned()),
            ("error", error) => Err(wrong(format!("says: {error}"))),
            ("", _) => Err(wrong("ended".to_owned())),
            _ => Err(wrong(format!("says {line:?}, which means nothing"))),
        }
    }

    fn end(&mut self) {
        // An observer ends with its orders, but a hanging one must not keep us.
        drop(self.orders.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.end();
    }
}

/// The runtime's check of a volume before it starts a container with it.
///
/// # Errors
/// [`TryError::RuntimeRefuses`].
pub fn check(mode: MountPropagation, volume: &Path) -> Result<(), TryError> {
    let found = look::flags(volume).during(|| "looking at the target path".to_owned())?;
    runtime_check(mode, found).map_err(|wanted| TryError::RuntimeRefuses {
        mode,
        target: volume.to_owned(),
        found,
        wanted,
    })
}

/// The command line of a container's role.
#[must_use]
pub fn command_line(
    node: &Node,
    mode: MountPropagation,
    volume: &Path,
    command: &[std::ffi::OsString],
) -> Vec<std::ffi::OsString> {
    ContainerArgs::command_line(&node.containers_dir(), volume, mode, &node.executable, command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_answered_and_nonsense_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(answer(dir.path(), "sees nothing").unwrap(), "false");
        assert!(answer(dir.path(), "flags").is_err(), "not a mount");
        assert!(answer(dir.path(), "dance").is_err());
        assert!(answer(dir.path(), "flags please").is_err());
    }

    #[test]
    fn a_file_without_a_mount_is_a_contradiction() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("x")).unwrap();
        std::fs::write(dir.path().join("x/made"), "x").unwrap();
        assert!(answer(dir.path(), "sees x").is_err());
    }
}
