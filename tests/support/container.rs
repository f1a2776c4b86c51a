//! A container as a runtime makes it: a mount namespace with a copy of a volume, of the propagation that was asked for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::eventually;

/// A running container with one volume.
pub(crate) struct Container {
    process: Child,
    volume: PathBuf,
}

impl Container {
    /// `propagation` is mount(8)'s word: rprivate, rslave or rshared.
    pub(crate) fn start(target: &Path, propagation: &str) -> Self {
        let volume = PathBuf::from("/mnt/secret");
        // The kubelet keeps a termination log for each container, and mounts it: by that the tools know whose it is.
        let log = target.ancestors().nth(4).unwrap().join("containers/app/0");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "").unwrap();
        let script = "mount --make-rslave / && mount --bind \"$3\" /mnt/file && mount --rbind \"$0\" \"$1\" \\
            && mount --make-\"$2\" \"$1\" && mount --make-private /mnt && umount -l \"$0\" && echo started \\
            && exec sleep 1000";
        let mut process = Command::new("unshare")
            .args(["--mount", "--propagation", "unchanged", "sh", "-c", script])
            .args([target.to_str().unwrap(), volume.to_str().unwrap(), propagation, log.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(process.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert_eq!(line, "started\n", "the container's script ended");
        Self { process, volume }
    }

    /// The volume, by a path of this namespace.
    pub(crate) fn volume(&self) -> PathBuf {
        Path::new("/proc").join(self.process.id().to_string()).join("root").join(self.volume.strip_prefix("/").unwrap())
    }

    /// What is mounted at the volume and beneath, as often as it is.
    pub(crate) fn mounts(&self) -> usize {
        let table = fs::read(format!("/proc/{}/mountinfo", self.process.id())).unwrap();
        let table = mounts::mountinfo::parse(&table);
        table.mounts.iter().filter(|m| m.mount_point.starts_with(&self.volume)).count()
    }

    /// Waits until the volume is the same directory as the node's, and lives.
    #[track_caller]
    pub(crate) fn sees(&self, source: &Path) {
        let id = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        eventually("the container has the source again", || id(source).is_some() && id(&self.volume()) == id(source));
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
