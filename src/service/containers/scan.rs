//! Finds volumes in the mount table of one namespace, line by line. Pure.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use mounts::MountAttrs;
use mounts::mountinfo::{self, Mount, Walk};
use plan::layout::Layout;
use plan::record::Shown;

use super::Sought;

/// The maximum number of lines that are read of a table.
pub const LINES_MAX: usize = 10_000;
/// The maximum length of a line, in bytes: four strings of a path's maximum length, each byte escaped by four.
pub const LINE_MAX: usize = 64 << 10;
/// The maximum number of volume mounts in one namespace. No known container has so many.
pub const PLACES_MAX: usize = 256;
/// The maximum number of pods whose files are found in one namespace. A container has the files of one pod.
const PODS_MAX: usize = 4;
/// The maximum length of a path or name in output, in bytes. Tenants choose these.
const SHOWN_MAX: usize = 256;

/// What must be known of the node to interpret a container's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where volumes lie, and which files tell a container's pod.
    pub layout: Arc<Layout>,
    /// The directory that holds those files.
    pub workloads: Shown,
    /// The node's root directory. A namespace with the same root is a copy of the node's, as services have.
    pub root: Shown,
}

impl Node {
    /// Read from the paths to both directories in a mount table. None if the table has no root.
    #[must_use]
    pub fn of(walk: &Walk<'_>, layout: &Arc<Layout>) -> Option<Self> {
        let shown = |path: &Path| {
            let mount = walk.mount_at(path)?;
            Some(Shown { device: mount.device, root: mount.shown_at(path)? })
        };
        Some(Self { layout: Arc::clone(layout), workloads: shown(&layout.workloads)?, root: shown(Path::new("/"))? })
    }
}

/// Directories of one file system, numbered.
#[derive(Debug, Default)]
struct Directories<'v> {
    numbers: HashMap<&'v Path, usize>,
    /// The maximum length of their paths, in bytes. A tenant's path may have many thousand ancestors; longer ones are
    /// skipped.
    longest: usize,
}

/// The sought volumes, indexed so that a line is matched against thousands of them at once.
#[derive(Debug)]
pub struct Index<'v> {
    node: Node,
    /// Numbers of the directories that volumes show, by device.
    shown: HashMap<(u32, u32), Directories<'v>>,
    /// By pod: its volumes, and the numbers of what they show.
    pods: HashMap<&'v str, Vec<(usize, Vec<usize>)>>,
    sought: &'v [Sought],
}

impl<'v> Index<'v> {
    /// An index of these volumes.
    #[must_use]
    pub fn new(node: Node, sought: &'v [Sought]) -> Self {
        let mut shown: HashMap<(u32, u32), Directories<'_>> = HashMap::new();
        let mut pods: HashMap<&str, Vec<(usize, Vec<usize>)>> = HashMap::new();
        let mut next = 0;
        for (number, volume) in sought.iter().enumerate() {
            let mut shows = Vec::with_capacity(volume.shown.len());
            for one in &volume.shown {
                let directories = shown.entry(one.device).or_default();
                directories.longest = directories.longest.max(one.root.as_os_str().len());
                shows.push(*directories.numbers.entry(&one.root).or_insert_with(|| {
                    next += 1;
                    next
                }));
            }
            pods.entry(&volume.pod).or_default().push((number, shows));
        }
        Self { node, shown, pods, sought }
    }
}

/// Why the rest of a table is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The namespace is a copy of the node's own, and no container's.
    OfNode,
    /// It exceeds a bound, described in words.
    Beyond(&'static str),
}

/// A mount that may show a volume.
#[derive(Debug)]
struct Row {
    /// The numbers of what it shows, as in the index.
    shown: Vec<usize>,
    path: String,
    attrs: MountAttrs,
}

/// A mount of volumes in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The indices of the volumes.
    pub volumes: Vec<usize>,
    /// Where it is mounted. Printable.
    pub path: String,
    /// Its flags.
    pub attrs: MountAttrs,
    /// The flags that all these volumes should have. If two volumes of a pod show the same directory, nothing tells
    /// which of them a mount is.
    pub wanted: MountAttrs,
}

/// A pod's files in a namespace, and the volumes of that pod there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfPod {
    /// The pod's uid.
    pub pod: String,
    /// The container's name. Printable.
    pub container: Option<String>,
    /// Its volumes.
    pub seen: Vec<Seen>,
}

/// The state of reading a table.
#[derive(Debug)]
pub struct Scan<'i> {
    index: &'i Index<'i>,
    lines: usize,
    rows: Vec<Row>,
    pods: Vec<(String, Option<String>)>,
}

impl<'i> Scan<'i> {
    /// A scan before the first line.
    #[must_use]
    pub const fn new(index: &'i Index<'i>) -> Self {
        Self { index, lines: 0, rows: Vec::new(), pods: Vec::new() }
    }

    /// Handles one line, without its line break.
    ///
    /// # Errors
    /// [`Stop`]: the rest of the table is skipped.
    pub fn line(&mut self, line: &[u8]) -> Result<(), Stop> {
        self.lines += 1;
        if self.lines > LINES_MAX {
            return Err(Stop::Beyond("it has more than 10,000 mounts"));
        }
        let Index { node, shown: known, .. } = self.index;
        let is_known = |device: &(u32, u32)| *device == node.workloads.device || known.contains_key(device);
        // The first line is the root, on which everything else is mounted.
        if self.lines > 1 && !mountinfo::device_of_line(line).as_ref().is_some_and(is_known) {
            return Ok(());
        }
        let Some(mount) = mountinfo::parse_line(line) else { return Ok(()) };
        if self.lines == 1 && mount.mount_point == Path::new("/") && node.root == Shown::by(&mount) {
            return Err(Stop::OfNode);
        }
        if let Some((pod, container)) = owner(node, &mount) {
            self.note_pod(pod, container);
        }
        let shown = self.shown_by(&mount);
        if shown.is_empty() {
            return Ok(());
        }
        if self.rows.len() == PLACES_MAX {
            return Err(Stop::Beyond("it has more than 256 mounts that may be volumes"));
        }
        self.rows.push(Row { shown, path: printable(mount.mount_point.as_os_str()), attrs: mount.attrs() });
        Ok(())
    }

    fn note_pod(&mut self, pod: &str, container: Option<&OsStr>) {
        let container = container.map(printable);
        if let Some((_, name)) = self.pods.iter_mut().find(|(known, _)| known == pod) {
            *name = name.take().or(container);
        } else if self.pods.len() < PODS_MAX {
            self.pods.push((pod.to_owned(), container));
        }
    }

    /// The numbers of what volumes show, where this mount shows the same or a directory beneath it, as with a
    /// container's `subPath`.
    fn shown_by(&self, mount: &Mount) -> Vec<usize> {
        let Some(Directories { numbers, longest }) = self.index.shown.get(&mount.device) else { return Vec::new() };
        let ancestors = mount.root.ancestors().skip_while(|root| root.as_os_str().len() > *longest);
        ancestors.filter_map(|root| numbers.get(root).copied()).collect()
    }

    /// The pods whose files were found.
    pub fn pods(&self) -> impl Iterator<Item = &str> {
        self.pods.iter().map(|(pod, _)| pod.as_str())
    }

    /// The volumes that were found for each of those pods.
    #[must_use]
    pub fn end(self) -> Vec<OfPod> {
        let Self { index, rows, pods, .. } = self;
        let of_pod = |(pod, container): (String, Option<String>)| {
            let volumes = index.pods.get(pod.as_str()).map(Vec::as_slice).unwrap_or_default();
            let seen = rows.iter().filter_map(|row| {
                let shows = |shown: &[usize]| row.shown.iter().any(|number| shown.contains(number));
                let volumes: Vec<usize> =
                    volumes.iter().filter(|(_, shown)| shows(shown)).map(|(number, _)| *number).collect();
                let wanted = volumes.iter().filter_map(|&number| index.sought.get(number)).map(|v| v.wanted);
                let wanted = wanted.reduce(MountAttrs::intersection)?;
                Some(Seen { volumes, path: row.path.clone(), attrs: row.attrs, wanted })
            });
            OfPod { seen: seen.collect(), pod, container }
        };
        pods.into_iter().map(of_pod).collect()
    }
}

/// The pod and container of the file that a mount shows.
fn owner<'m>(node: &Node, mount: &'m Mount) -> Option<(&'m str, Option<&'m OsStr>)> {
    let file = (mount.device == node.workloads.device).then(|| mount.root.strip_prefix(&node.workloads.root).ok())?;
    node.layout.owner_of_file(file?)
}

/// A string that a tenant chose, escaped and cut.
fn printable(name: &OsStr) -> String {
    let bytes = name.as_bytes();
    match bytes.get(..SHOWN_MAX) {
        Some(start) if bytes.len() > SHOWN_MAX => text::visible(OsStr::from_bytes(start)) + "…",
        _ => text::visible(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: MountAttrs = MountAttrs { read_only: false, nosuid: false, nodev: false, noexec: false };
    const RO: MountAttrs = MountAttrs { read_only: true, ..NONE };
    const NOEXEC: MountAttrs = MountAttrs { noexec: true, ..NONE };

    fn volume(pod: &str, minor: u32, root: &str, wanted: MountAttrs) -> Sought {
        Sought { pod: pod.into(), shown: vec![Shown { device: (0, minor), root: root.into() }], wanted }
    }

    fn node() -> Node {
        let shown = |root: &str| Shown { device: (8, 1), root: root.into() };
        Node { layout: crate::fixture::layout().into(), workloads: shown("/k/pods"), root: shown("/") }
    }

    fn scan(sought: &[Sought], table: &str) -> Result<Vec<OfPod>, Stop> {
        let index = Index::new(node(), sought);
        let mut scan = Scan::new(&index);
        table.lines().try_for_each(|line| scan.line(line.as_bytes()))?;
        Ok(scan.end())
    }

    /// Path, volumes and flags of what is found in a container of the pod `u` with these mounts.
    fn seen(sought: &[Sought], more: &str) -> Vec<(String, Vec<usize>, MountAttrs)> {
        let table = format!("{ROOT}{LOG}{more}");
        let of_pods = scan(sought, &table).unwrap();
        assert_eq!((of_pods.len(), of_pods[0].pod.as_str(), of_pods[0].container.as_deref()), (1, "u", Some("app")));
        of_pods.into_iter().flat_map(|of_pod| of_pod.seen).map(|s| (s.path, s.volumes, s.wanted)).collect()
    }

    const ROOT: &str = "1 0 0:5 / / rw - overlay x rw\n";
    const LOG: &str = "2 1 8:1 /k/pods/u/containers/app/1 /dev/termination-log rw - ext4 x rw\n";

    #[test]
    fn a_volume_is_known_by_what_it_shows_and_only_in_its_own_pod() {
        let sought = [volume("u", 7, "/src", RO), volume("w", 7, "/src", NOEXEC), volume("u", 8, "/", NOEXEC)];
        let whole = "3 1 0:7 /src /data ro - xfs x rw\n";
        assert_eq!(seen(&sought, whole), [("/data".into(), vec![0], RO)]);
        assert_eq!(seen(&sought, "3 1 0:7 /src/sub /part rw - xfs x rw\n"), [("/part".into(), vec![0], RO)]);
        for other in
            ["3 1 0:7 /srcx /x rw - xfs x rw\n", "3 1 0:6 /src /x rw - xfs x rw\n", "3 1 0:7 / /x rw - xfs x rw\n"]
        {
            assert_eq!(seen(&sought, other), []);
        }
        assert_eq!(seen(&sought, "3 1 0:8 /any/thing /x rw - xfs x rw\n"), [("/x".into(), vec![2], NOEXEC)]);
        assert_eq!(scan(&sought, &format!("{ROOT}{whole}")), Ok(vec![]), "nothing tells whose it is");
        // The order of lines doesn't matter.
        let late = scan(&sought, &format!("{ROOT}{whole}{LOG}")).unwrap();
        assert_eq!(late[0].seen.len(), 1);
    }

    #[test]
    fn of_volumes_that_show_the_same_what_all_shall_have_is_wanted() {
        let sought = [volume("u", 7, "/src", RO.union(NOEXEC)), volume("u", 7, "/src", NOEXEC)];
        assert_eq!(seen(&sought, "3 1 0:7 /src /x rw - xfs x rw\n"), [("/x".into(), vec![0, 1], NOEXEC)]);
    }

    #[test]
    fn files_that_only_look_like_the_kubelets_name_no_pod() {
        let sought = [volume("u", 7, "/src", RO)];
        for (device, root) in [
            ("0:9", "/k/pods/u/containers/app/1"),
            ("8:1", "/k/pods/t/volumes/kubernetes.io~empty-dir/e/k/pods/u/containers/app/1"),
            ("8:1", "/k/pods/u/volumes/kubernetes.io~empty-dir/e"),
            ("8:1", "/k/pods/u/containers"),
            ("8:1", "/k/pods/u/containers/app/1/more"),
            ("8:1", "/x/k/pods/u/etc-hosts"),
            ("8:1", "/k/pods/etc-hosts"),
        ] {
            let table = format!("{ROOT}2 1 {device} {root} /f rw - ext4 x rw\n3 1 0:7 /src /data rw - xfs x rw\n");
            assert_eq!(scan(&sought, &table), Ok(vec![]), "{device} {root}");
        }
        let hosts =
            format!("{ROOT}2 1 8:1 /k/pods/u/etc-hosts /etc/hosts rw - ext4 x rw\n3 1 0:7 /src /data rw - xfs x rw\n");
        let found = scan(&sought, &hosts).unwrap();
        assert_eq!((found[0].pod.as_str(), &found[0].container, found[0].seen.len()), ("u", &None, 1));
    }

    #[test]
    fn a_copy_of_the_nodes_table_is_left_at_once_and_a_crowd_of_volumes_is_unknown() {
        let sought = [volume("u", 7, "/src", RO)];
        assert_eq!(scan(&sought, "1 0 8:1 / / rw - ext4 x rw\n"), Err(Stop::OfNode));
        let crowd: String = (0..=PLACES_MAX).map(|n| format!("{n} 1 0:7 /src /{n} rw - xfs x rw\n")).collect();
        assert!(matches!(scan(&sought, &format!("{ROOT}{LOG}{crowd}")), Err(Stop::Beyond(_))));
    }

    #[test]
    fn what_a_tenant_chose_is_printed_escaped_and_short() {
        let sought = [volume("u", 7, "/src", RO)];
        let row = format!("3 1 0:7 /src /\u{1b}[2J{} rw - xfs x rw\n", "x".repeat(5000));
        let path = &seen(&sought, &row)[0].0;
        assert!(path.starts_with(r"/\x1b[2Jxx") && path.ends_with("x…") && path.len() < 300, "{path}");
        // As deep as a line can be.
        let deep = format!("3 1 0:7 {} /x rw - xfs x rw\n", "/a".repeat(30_000));
        for _ in 0..100 {
            assert_eq!(seen(&sought, &deep), []);
        }
    }
}
