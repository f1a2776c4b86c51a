//! Gathers the facts. Nothing is changed, and everything has a time-out.

use std::path::Path;
use std::sync::Arc;

use allowlist::config::{AllowList, Entry};
use allowlist::names::AbsPath;
use engine::site::Site;
use futures_util::StreamExt;
use kernel::calls::Row;
use kernel::namespace::Proc;
use model::kubelet;
use mounts::Errno;
use mounts::mountinfo::{self, Table};
use node::processes::text;
use service::config_store;
use workers::{Source, Threads};

use super::facts::{DirectoryState, Facts, InContainers, Kubelet, List, MOUNT_EVENTS, Node, Own};
use super::{CheckError, containers, look};
use crate::in_containers::{self, NotLooked};
use crate::visit::{Visit, VisitArgs};

/// How many directories are looked at in parallel, so that the time-outs of hung ones do not add up. Fewer than there may be
/// mount threads.
const AT_ONCE: usize = 8;

/// Gathers all facts.
///
/// # Errors
/// [`CheckError`].
pub(super) fn gather(config: Option<&Path>, asked: &VisitArgs) -> Result<Facts, CheckError> {
    let threads = asked.threads()?;
    let proc = Arc::clone(&threads.site().proc);
    let list = read_list(config, &asked.kubelet_dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(CheckError::Runtime)?;
    let (kubelet, visit) = runtime.block_on(enter(&proc, &threads, asked));
    let (node, list) = match visit {
        Err(errno) => (Err(errno), list),
        Ok(visit) => {
            let look = Look { visit, asked };
            runtime.block_on(async { look.all(list).await })
        }
    };
    // Hung threads are left to the end of the process.
    runtime.shutdown_background();
    Ok(Facts {
        driver: asked.driver_name.clone(),
        kubelet_dir: asked.kubelet_dir.clone(),
        timeout: asked.timeout,
        release: text(&proc, "sys/kernel/osrelease"),
        calls: calls(&threads),
        own: own(&proc),
        mount_max: text(&proc, "sys/fs/mount-max").parse().ok(),
        kubelet,
        node,
        list,
    })
}

/// The calls that have a fall-back, and what has one beside them.
fn calls(threads: &Threads) -> Vec<Row> {
    let calls = threads.site().calls;
    let events = Row { name: MOUNT_EVENTS, since: (6, 15), refused: calls.mount_group().err() };
    calls.rows().into_iter().chain([events]).collect()
}

fn own(proc: &Proc) -> Own {
    let status = text(proc, "self/status");
    let confined = ["self/attr/apparmor/current", "self/attr/current"]
        .iter()
        .map(|path| text(proc, path).trim_end_matches('\0').to_owned())
        .find(|name| !name.is_empty() && name != "unconfined");
    Own {
        capabilities: kubelet::field(&status, "CapEff").and_then(|b| u64::from_str_radix(b, 16).ok()).unwrap_or(0),
        seccomp: kubelet::field(&status, "Seccomp") == Some("2"),
        confined,
    }
}

/// Finds the kubelet and starts a first thread in its mount namespace.
async fn enter<'a>(proc: &Proc, threads: &'a Threads, asked: &VisitArgs) -> (Kubelet, Result<Visit<'a>, Errno>) {
    let (process, found_by, others) = node::kubelet::find(proc, asked.pid);
    let command_line = proc.read(&format!("{}/cmdline", process.pid)).unwrap_or_default();
    let namespace = proc.mount_namespace(process.pid);
    let kubelet = Kubelet {
        found_by,
        others,
        root_dir: kubelet::root_dir(&command_line),
        namespace: namespace.as_ref().map(|n| n.inode).map_err(|&e| e),
        first_namespace: proc.mount_namespace(1).ok().map(|n| n.inode),
        alone: std::process::id() == 1 || std::os::unix::process::parent_id() == 1 && is_us(proc, 1),
        process,
    };
    let visit = match namespace {
        Ok(namespace) => Visit::enter(threads, namespace, asked.timeout).await,
        Err(errno) => Err(errno),
    };
    (kubelet, visit)
}

/// Whether a process runs our own executable.
fn is_us(proc: &Proc, pid: i32) -> bool {
    text(proc, &format!("{pid}/comm")) == text(proc, "self/comm")
}

fn read_list(path: Option<&Path>, kubelet_dir: &AbsPath) -> List {
    let Some(path) = path else { return List::NotNamed };
    match config_store::read(path) {
        Err(why) => List::Unreadable(path.to_owned(), why),
        Ok(bytes) => match AllowList::parse_bytes(&bytes, kubelet_dir) {
            Err(faults) => List::Faulty(path.to_owned(), faults),
            Ok(list) => List::Good(
                path.to_owned(),
                list.iter().map(|entry| (Arc::clone(entry), DirectoryState::Unknown)).collect(),
            ),
        },
    }
}

/// Looks into the kubelet's mount namespace.
struct Look<'a> {
    visit: Visit<'a>,
    asked: &'a VisitArgs,
}

impl Look<'_> {
    async fn all(&self, list: List) -> (Result<Node, Errno>, List) {
        let table = self.run("mount table", Err(Errno::ETIMEDOUT), |site| site.proc.mountinfo()).await;
        let table = match table {
            Ok(bytes) => Arc::new(mountinfo::parse(&bytes)),
            Err(errno) => return (Err(errno), list),
        };
        let containers = self.containers(&table, &list).await;
        let node = self.node(&table, containers).await;
        let list = match list {
            List::Good(path, entries) => {
                let entries = entries.into_iter().map(|(entry, _)| self.entry(entry, Arc::clone(&table)));
                List::Good(path, futures_util::stream::iter(entries).buffered(AT_ONCE).collect().await)
            }
            other => other,
        };
        (Ok(node), list)
    }

    async fn node(&self, table: &Arc<Table>, containers: Result<InContainers, NotLooked>) -> Node {
        let root = self.asked.kubelet_dir.as_path().to_owned();
        let registry = root.join("plugins_registry");
        let plugins = root.join("plugins");
        let own = plugins.join(&self.asked.driver_name);
        let mut parts = Vec::new();
        for path in [root.join("pods"), plugins, own.clone()] {
            let seen = self.directory(&path, table).await;
            parts.push((path, seen));
        }
        let kubelet_dir = self.directory(&root, table).await;
        let at = root.clone();
        let noted_in = [root.join("pods"), root.clone()];
        let elsewhere = if kubelet_dir == DirectoryState::Missing {
            self.run("directories of kubelets", Vec::new(), |_| look::which_exist(&kubelet::DIRECTORIES)).await
        } else {
            Vec::new()
        };
        let (driver, folder) = (self.asked.driver_name.clone(), registry.clone());
        Node {
            mounts: u64::try_from(table.mounts.len()).unwrap_or(u64::MAX),
            mount_allowed: self.run("mount(2)", None, move |_| look::mount_allowed(&at)).await,
            notes: self.run("attributes", None, move |_| look::notes(&noted_in)).await,
            elsewhere,
            parts,
            registry: self.directory(&registry, table).await,
            sockets: self.run("sockets", Vec::new(), move |_| look::sockets(&folder, &own, &driver)).await,
            kubelet_dir,
            containers,
        }
    }

    async fn containers(&self, table: &Arc<Table>, list: &List) -> Result<InContainers, NotLooked> {
        let entries: Vec<Arc<Entry>> = match list {
            List::Good(_, entries) => entries.iter().map(|(entry, _)| Arc::clone(entry)).collect(),
            _ => Vec::new(),
        };
        let (table, driver) = (Arc::clone(table), self.asked.driver_name.clone());
        let until = in_containers::until(self.asked.timeout);
        self.run("containers", Err(NotLooked::Late), move |site| {
            containers::containers(site, &driver, (&table, &entries), until)
        })
        .await
    }

    async fn directory(&self, path: &Path, table: &Arc<Table>) -> DirectoryState {
        let (at, table) = (path.to_owned(), Arc::clone(table));
        self.run(&path.display().to_string(), DirectoryState::Hung, move |site| look::directory(site, &at, &table))
            .await
    }

    async fn entry(&self, entry: Arc<Entry>, table: Arc<Table>) -> (Arc<Entry>, DirectoryState) {
        let path = entry.path.clone();
        let seen =
            self.run(entry.name.as_str(), DirectoryState::Hung, move |site| look::source(site, &path, &table)).await;
        (entry, seen)
    }

    /// Runs `work` on a mount thread. The result is `otherwise` if it times out.
    async fn run<T: Send + 'static>(
        &self,
        what: &str,
        otherwise: T,
        work: impl FnOnce(&Site) -> T + Send + 'static,
    ) -> T {
        self.visit.look(Source::own(what), work).await.unwrap_or(otherwise)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn we_know_what_we_may_do() {
        let own = own(&Proc::new().unwrap());
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(status.contains(&format!("CapEff:\t{:016x}\n", own.capabilities)));
    }

    #[test]
    fn a_list_is_read_or_says_why_not() {
        let kubelet = AbsPath::parse("/var/lib/kubelet").unwrap();
        let read = |path: Option<&Path>| read_list(path, &kubelet);
        assert!(matches!(read(None), List::NotNamed));
        let dir = tempfile::tempdir().unwrap();
        let file: PathBuf = dir.path().join("entries.yaml");
        assert!(matches!(read(Some(&file)), List::Unreadable(..)));
        std::fs::write(&file, "entries: [{name: A, path: b}]").unwrap();
        assert!(matches!(read(Some(&file)), List::Faulty(_, faults) if faults.0.len() == 2));
        std::fs::write(&file, "entries: [{name: a, path: /b}]").unwrap();
        assert!(matches!(read(Some(&file)), List::Good(_, entries) if entries.len() == 1));
    }
}
