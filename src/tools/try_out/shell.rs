//! `hostmount try --shell`: a shell in pod A's container, with pod B and the node within reach.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use mounts::propagation::MountPropagation;
use text::paint::Paint;

use super::error::{During, TryError};
use super::node::{Isolation, Node};
use super::observer::{self, Container};
use super::report::write_checks;
use super::scenario::Viewpoint;
use super::{Trial, colour, roles};

/// Publishes the volumes of one mode, opens the shell, and cleans up when it ends. The shell's own exit code is not
/// the result; whether something is left is.
///
/// # Errors
/// [`TryError`].
pub fn open(node: &Node, mode: MountPropagation) -> Result<bool, TryError> {
    let modes = [mode];
    let trial = Trial::begin(node, &modes)?;
    let volume = |pod| {
        let found = trial.volumes.iter().find(|volume| volume.pod == pod);
        found.ok_or_else(|| TryError::Container { pod: "nobody".to_owned(), what: "has no volume".to_owned() })
    };
    let (for_a, for_b) = (volume(Viewpoint::PodA)?, volume(Viewpoint::PodB)?);
    let mut in_b = Container::start(node, for_b.pod_name(), mode, &for_b.target)?;
    in_b.wait_ready()?;
    observer::check(mode, &for_a.target)?;
    eprint!("{}", hint(node, mode, std::process::id(), in_b.pid()));
    let stay = stay_at_interrupt()?;
    let status = roles::command(observer::command_line(node, mode, &for_a.target, &[shell()]))
        .env("HOME", "/")
        .env("PS1", format!("pod A ({mode}) \\w # "))
        .status()
        .during(|| "running the shell".to_owned())?;
    in_b.stop();
    let checks = trial.end(node, &modes)?;
    drop(stay);
    let mut text = format!("The shell ended ({status}).\n");
    // Writing to a String can't fail.
    let _ = write_checks(&mut text, &checks, &Paint { colour: colour() });
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
    Ok(checks.iter().all(super::Check::holds))
}

/// ^C and ^\ are the shell's while it runs. The handlers are lost on exec, so the shell has its defaults.
fn stay_at_interrupt() -> Result<impl Sized, TryError> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().during(|| "starting a runtime".to_owned())?;
    let signals = {
        let _inside = runtime.enter();
        [SignalKind::interrupt(), SignalKind::quit()].map(|kind| signal(kind).during(|| "catching ^C".to_owned()))
    };
    let [interrupt, quit] = signals;
    Ok((interrupt?, quit?, runtime))
}

/// The user's shell if the container shows it.
fn shell() -> OsString {
    let shown = |path: &OsString| {
        ["/usr", "/bin", "/sbin", "/nix"].iter().any(|dir| Path::new(path).starts_with(dir)) && Path::new(path).exists()
    };
    std::env::var_os("SHELL").filter(shown).unwrap_or_else(|| "/bin/sh".into())
}

fn hint(node: &Node, mode: MountPropagation, node_pid: u32, pod_b_pid: u32) -> String {
    let user = match node.isolation {
        Isolation::UserNamespace => " -U --preserve-credentials",
        Isolation::MountNamespace => "",
    };
    let source = node.source(mode);
    let source = source.display();
    let expected = match mode {
        MountPropagation::None => "none of the three sees what another one mounts",
        MountPropagation::HostToContainer => "pod A and pod B see what the node mounts, and nobody what a pod mounts",
        MountPropagation::Bidirectional => "everybody sees what anybody mounts",
    };
    format!(
        "\
You are in the container of pod A. Its volume is /data, with mountPropagation {mode}: {expected}.
  look:                            findmnt -o TARGET,FSTYPE,PROPAGATION /data; findmnt -R /data
  mount in pod A:                  mkdir -p /data/mine && mount -t tmpfs mine /data/mine
From another terminal of the same user:
  mount on the node:               nsenter -t {node_pid}{user} -m sh -c 'mkdir -p {source}/new && mount -t tmpfs new {source}/new'
  look at the node:                nsenter -t {node_pid}{user} -m findmnt -R {source}
  look at pod B:                   nsenter -t {pod_b_pid}{user} -m findmnt -R /data
`exit` unpublishes the volumes and removes everything.
"
    )
}
