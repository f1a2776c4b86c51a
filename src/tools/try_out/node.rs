//! The node of the trial: its own namespaces, and a shared tmpfs with the node's directories.
//!
//! The tmpfs covers an existing directory, but only in our mount namespace. So nothing must be cleaned up on the real file
//! system, even after SIGKILL: the namespaces and all their mounts end with the last process.

use std::path::{Path, PathBuf};
use std::{fs, io};

use mounts::propagation::MountPropagation;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use serde::Serialize;

use super::error::{During, TryError};
use super::look;
use super::scenario::{Event, entry};

/// The plugin's name on this node.
pub const DRIVER: &str = "try.hostmount.dev";

/// Directories that exist on most systems and are not needed here.
const COVERABLE: [&str; 7] = ["/mnt", "/media", "/srv", "/opt", "/tmp", "/home", "/var"];

/// How the node is isolated from the real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Isolation {
    /// A user namespace with a mount namespace: needs no privilege.
    UserNamespace,
    /// A mount namespace alone, because user namespaces are forbidden and we are root.
    MountNamespace,
}

impl Isolation {
    /// The words for a sentence.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserNamespace => "user and mount namespaces",
            Self::MountNamespace => "mount namespaces",
        }
    }
}

/// The node.
#[derive(Debug)]
pub struct Node {
    root: PathBuf,
    /// How it is isolated.
    pub isolation: Isolation,
    /// This executable, by a path that is valid on the node.
    pub executable: PathBuf,
}

impl Node {
    /// Moves the process into namespaces of its own and builds the node there. The process must have one thread.
    ///
    /// # Errors
    /// [`TryError`].
    pub fn build() -> Result<Self, TryError> {
        let executable = std::env::current_exe().during(|| "finding the own executable".to_owned())?;
        let isolation = isolate()?;
        let root = choose_place(&executable).ok_or(TryError::NoPlace)?;
        look::tmpfs(&root, "mode=0755").during(|| format!("mounting the node on {}", root.display()))?;
        propagate(&root, MsFlags::MS_SHARED).during(|| format!("making {} shared", root.display()))?;
        let node = Self { root, isolation, executable };
        node.furnish()?;
        Ok(node)
    }

    fn furnish(&self) -> Result<(), TryError> {
        for dir in [self.plugin_dir(), self.kubelet_dir().join("plugins_registry"), self.kubelet_dir().join("pods")] {
            make_dirs(&dir)?;
        }
        let containers = self.containers_dir();
        make_dirs(&containers)?;
        look::tmpfs(&containers, "mode=0755")
            .and_then(|()| Ok(propagate(&containers, MsFlags::MS_PRIVATE)?))
            .during(|| format!("mounting {}", containers.display()))?;
        let mut config = "entries:\n".to_owned();
        for mode in MountPropagation::ALL {
            let source = self.source(mode);
            make_dirs(&source)?;
            look::tmpfs(&source, "mode=0755")
                .and_then(|()| Ok(propagate(&source, MsFlags::MS_SHARED)?))
                .during(|| format!("mounting the source {}", source.display()))?;
            for event in Event::ALL {
                make_dirs(&source.join(event.directory()))?;
            }
            config.push_str(&entry_yaml(entry(mode), &source));
        }
        fs::write(self.config(), config).during(|| "writing the allow-list".to_owned())
    }

    /// The source of a mode's volumes: a shared mount of its own.
    #[must_use]
    pub fn source(&self, mode: MountPropagation) -> PathBuf {
        self.root.join("srv").join(entry(mode))
    }

    /// Whether a path lies in one of the sources, but isn't the source itself.
    #[must_use]
    pub fn is_in_source(&self, path: &Path) -> bool {
        path.strip_prefix(self.root.join("srv")).is_ok_and(|rest| rest.components().count() > 1)
    }

    /// The kubelet's directory.
    #[must_use]
    pub fn kubelet_dir(&self) -> PathBuf {
        self.root.join("kubelet")
    }

    /// The plugin's directory beneath it.
    #[must_use]
    pub fn plugin_dir(&self) -> PathBuf {
        self.kubelet_dir().join("plugins").join(DRIVER)
    }

    /// The plugin's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.plugin_dir().join("csi.sock")
    }

    /// The allow-list.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("hostmount.yaml")
    }

    /// What the plugin writes to its standard error.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.root.join("hostmount.log")
    }

    /// Where containers get their root file systems: a private mount.
    #[must_use]
    pub fn containers_dir(&self) -> PathBuf {
        self.root.join("containers")
    }
}

/// One entry of the allow-list. Each allows everything, so that only the pod's propagation matters.
fn entry_yaml(name: &str, path: &Path) -> String {
    format!(
        "  - name: {name}\n    path: {}\n    propagation: Bidirectional\n    \
         allow: [{{namespaces: [\"*\"], serviceAccounts: [\"*\"]}}]\n",
        serde_json::Value::from(path.to_string_lossy()),
    )
}

fn make_dirs(dir: &Path) -> Result<(), TryError> {
    fs::create_dir_all(dir).during(|| format!("creating {}", dir.display()))
}

/// Changes the propagation of the mount at a path.
pub(super) fn propagate(at: &Path, flags: MsFlags) -> Result<(), Errno> {
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>)
}

/// Creates namespaces in which we are root, and from which no mount reaches the real node.
fn isolate() -> Result<Isolation, TryError> {
    let (uid, gid) = (geteuid(), getegid());
    let isolation = match unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS) {
        Ok(()) => {
            for (file, text) in
                [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
            {
                fs::write(Path::new("/proc/self").join(file), text)
                    .map_err(|cause| TryError::Forbidden { what: "mapping the user into a user namespace", cause })?;
            }
            Isolation::UserNamespace
        }
        Err(errno) => {
            let refused = |_| TryError::Forbidden { what: "creating a user namespace", cause: errno.into() };
            if !uid.is_root() {
                return Err(refused(errno));
            }
            unshare(CloneFlags::CLONE_NEWNS).map_err(refused)?;
            Isolation::MountNamespace
        }
    };
    propagate(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE)
        .map_err(|errno| TryError::Forbidden { what: "cutting the mount namespace off", cause: errno.into() })?;
    Ok(isolation)
}

fn choose_place(executable: &Path) -> Option<PathBuf> {
    let real = |path: &str| -> io::Result<PathBuf> { fs::canonicalize(path) };
    COVERABLE
        .into_iter()
        .filter_map(|path| real(path).ok())
        .find(|place| place.is_dir() && place.parent().is_some() && !executable.starts_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_never_covered() {
        let place = choose_place(Path::new("/mnt/c/hostmount")).unwrap();
        assert!(!Path::new("/mnt/c/hostmount").starts_with(place));
    }

    #[test]
    fn the_entry_is_what_the_allow_list_takes() {
        let text = entry_yaml("none", Path::new("/mnt/a \"b\""));
        assert!(text.contains(r#"path: "/mnt/a \"b\"""#), "{text}");
    }
}
