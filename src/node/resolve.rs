//! From the path that somebody writes to the one that mount tables use: symlinks followed, within a process' root.
//!
//! What is asked about need not be there yet, and the file systems on the way may be dead: so the links are read one by
//! one, a name that isn't there stays as it is, and all of it is done by a thread that isn't waited for.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kernel::namespace::Proc;

/// As many as the kernel follows (path_resolution(7)).
const LINKS: usize = 40;
/// How long a file system on the way may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Resolves an absolute path as a process sees it (our own without one), and says why it may be wrong, if so.
#[must_use]
pub fn resolve(pid: Option<i32>, path: &Path) -> (PathBuf, Option<String>) {
    let plain = walk(path, &mut |_| None);
    let (to, from) = mpsc::channel();
    let wanted = path.to_owned();
    let work = move || {
        let Ok(proc) = Proc::new() else { return };
        let root = pid.map_or_else(|| "self/root".to_owned(), |pid| format!("{pid}/root"));
        let mut read = |at: &Path| {
            let below = at.strip_prefix("/").ok()?.to_str()?;
            proc.link(&format!("{root}/{below}")).ok()
        };
        let _ = to.send(walk(&wanted, &mut read));
    };
    let started = thread::Builder::new().name("symlinks".to_owned()).spawn(work);
    let found = started.map_err(|e| e.to_string()).and_then(|_| {
        from.recv_timeout(TIMEOUT).map_err(|_| format!("a file system on the way doesn't answer within {TIMEOUT:?}"))
    });
    match found {
        Ok(path) => (path, None),
        Err(why) => (plain, Some(format!("symlinks in {path:?} are not followed: {why}"))),
    }
}

/// Follows a path, asking for each name whether it is a link.
fn walk(path: &Path, link: &mut dyn FnMut(&Path) -> Option<OsString>) -> PathBuf {
    let mut at = PathBuf::from("/");
    let mut left: Vec<OsString> = names(path);
    let mut followed = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        match link(&next) {
            Some(target) if followed < LINKS => {
                followed += 1;
                let target = Path::new(&target);
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                left.extend(names(target));
            }
            _ => at = next,
        }
    }
    at
}

/// The names of a path, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(path: &str, links: &[(&str, &str)]) -> String {
        let mut link = |at: &Path| links.iter().find(|(from, _)| Path::new(from) == at).map(|(_, to)| to.into());
        walk(Path::new(path), &mut link).into_os_string().into_string().unwrap()
    }

    #[test]
    fn links_are_followed_from_where_they_lie() {
        assert_eq!(walked("/a/b/../c", &[]), "/a/c");
        assert_eq!(walked("/run/x", &[("/run", "/var/run"), ("/var/run", "r")]), "/var/r/x");
        assert_eq!(walked("/a/up/x", &[("/a/up", "../b")]), "/b/x");
        assert_eq!(walked("/../..", &[]), "/");
        assert_eq!(walked("/loop", &[("/loop", "loop")]), "/loop");
    }

    #[test]
    fn our_own_paths_are_resolved() {
        let (path, note) = resolve(None, Path::new("/proc/self/root/../nothing-is-here/x"));
        assert_eq!((path, note), ("/nothing-is-here/x".into(), None));
    }
}
