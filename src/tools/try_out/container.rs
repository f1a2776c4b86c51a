//! Starts a container as runc does for containerd, with all steps that matter to a volume: a mount namespace, the root's
//! propagation, a root file system, the volume bound with the pod's propagation, pivot_root, exec.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mounts::propagation::{MountPropagation, PropagationKind};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir, pivot_root};

use super::error::{During, TryError};
use super::look;
use super::node::propagate;

/// Where a container has its volume.
pub const VOLUME: &str = "/data";
/// Where a container has this executable.
pub const EXECUTABLE: &str = "/hostmount";
/// The directories of the node's root file system that a container shows: enough for a shell and the mount tools.
const SHOWN: [&str; 11] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "nix", "proc", "dev"];

/// The arguments of a container.
#[derive(Debug, clap::Args)]
pub struct ContainerArgs {
    /// The directory that becomes its root, a private mount.
    #[arg(long)]
    root: PathBuf,
    /// The volume's target path on the node.
    #[arg(long)]
    volume: PathBuf,
    /// The pod's mountPropagation.
    #[arg(long)]
    propagation: MountPropagation,
    /// This executable, by its path on the node.
    #[arg(long)]
    executable: PathBuf,
    /// What to run in it.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl ContainerArgs {
    /// The same as a command line.
    #[must_use]
    pub fn command_line(
        root: &Path,
        volume: &Path,
        propagation: MountPropagation,
        executable: &Path,
        command: &[OsString],
    ) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec!["container".into()];
        for (name, value) in [
            ("--root", root.as_os_str()),
            ("--volume", volume.as_os_str()),
            ("--propagation", propagation.name().as_ref()),
            ("--executable", executable.as_os_str()),
        ] {
            line.extend([name.into(), value.to_owned()]);
        }
        line.push("--".into());
        line.extend_from_slice(command);
        line
    }
}

/// Turns the calling process, which must be single-threaded, into the container. Returns only on failure.
pub fn become_container(args: &ContainerArgs) -> TryError {
    let prepared = enter(args);
    let (program, rest) = match (prepared, args.command.split_first()) {
        (Err(error), _) => return error,
        (Ok(()), Some(split)) => split,
        (Ok(()), None) => {
            return TryError::Container { pod: args.volume.display().to_string(), what: "has no command".to_owned() };
        }
    };
    let cause = Command::new(program).args(rest).exec();
    TryError::Step { what: format!("executing {} in the container", program.display()), cause }
}

fn enter(args: &ContainerArgs) -> Result<(), TryError> {
    unshare(CloneFlags::CLONE_NEWNS).during(|| "creating the container's mount namespace".to_owned())?;
    // containerd asks for rshared when a volume is Bidirectional, or the volume would be the node's slave before it
    // is bound; else runc's default is rslave.
    let whole = match args.propagation {
        MountPropagation::Bidirectional => MsFlags::MS_SHARED,
        MountPropagation::None | MountPropagation::HostToContainer => MsFlags::MS_SLAVE,
    };
    propagate(Path::new("/"), MsFlags::MS_REC | whole).during(|| "setting the propagation of /".to_owned())?;
    // What the new root is mounted on must not be shared: the root would appear on the node, and pivot_root(2)
    // refuses it.
    propagate(&args.root, MsFlags::MS_PRIVATE).during(|| format!("making {} private", args.root.display()))?;
    let root = &args.root;
    look::tmpfs(root, "mode=0755").during(|| "mounting the root file system".to_owned())?;
    for name in SHOWN {
        show(name, root).during(|| format!("putting /{name} into the container"))?;
    }
    let executable = root.join(EXECUTABLE.trim_start_matches('/'));
    put_executable(&args.executable, &executable).during(|| "putting hostmount into the container".to_owned())?;
    let data = root.join(VOLUME.trim_start_matches('/'));
    fs::create_dir(root.join("tmp")).and_then(|()| fs::create_dir(&data)).during(|| "making directories".to_owned())?;
    bind(&args.volume, &data).during(|| format!("binding {}", args.volume.display()))?;
    let order = match args.propagation.propagation().kind {
        PropagationKind::Private | PropagationKind::Unbindable => MsFlags::MS_PRIVATE,
        PropagationKind::Slave => MsFlags::MS_SLAVE,
        PropagationKind::Shared => MsFlags::MS_SHARED,
    };
    propagate(&data, MsFlags::MS_REC | order).during(|| format!("making {VOLUME} {}", args.propagation))?;
    pivot(root).during(|| "changing the root".to_owned())
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    // Recursive, always: part of what is inherited by a user namespace can't be had without what is mounted on it.
    Ok(mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}

/// Shows a directory of the node's root in the container's, a symlink as a symlink.
fn show(name: &str, root: &Path) -> io::Result<()> {
    let (from, to) = (Path::new("/").join(name), root.join(name));
    match fs::symlink_metadata(&from) {
        Ok(found) if found.is_symlink() => symlink(fs::read_link(&from)?, to),
        Ok(found) if found.is_dir() => fs::create_dir(&to).and_then(|()| bind(&from, &to)),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Binds the executable, or copies it if its path no longer exists.
fn put_executable(from: &Path, to: &Path) -> io::Result<()> {
    File::create(to)?;
    bind(from, to).or_else(|_| fs::copy("/proc/self/exe", to).map(drop))
}

fn pivot(root: &Path) -> io::Result<()> {
    let directory = |path: &Path| open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let (old, new) = (directory(Path::new("/"))?, directory(root)?);
    fchdir(&new)?;
    pivot_root(".", ".")?;
    fchdir(&old)?;
    // The old root is taken away here only: its peers on the node must not hear of it.
    propagate(Path::new("."), MsFlags::MS_REC | MsFlags::MS_SLAVE)?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}
