//! `hostmount inspect`: shows every mount namespace of the machine, its owner, and how mounts propagate between them.
//!
//! [`node::gather`] reads the mount tables. All else is pure: [`select`] and [`linked`] choose the mounts, [`subtree`] finds the
//! propagation of whole subtrees, [`relations`] the members and slaves of peer groups. [`columns`] has the cells, [`draw`]
//! prints a tree (in which [`fold`] leaves out what is as on the node) or a list, and [`json`] an object.

pub mod columns;
pub mod draw;
pub mod fold;
pub mod json;
pub mod linked;
pub mod relations;
pub mod select;
pub mod subtree;

use std::ffi::OsStr;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use columns::{Column, View};
use draw::Style;
use kernel::calls::Calls;
use kernel::namespace::Proc;
use mounts::Errno;
use node::gather::{self, NoProc};
use select::{Chosen, Filter, NotFound};

use crate::terminal::{self, OutputError};
use crate::{options, picture};

/// How many peers or masters a cell names without --notruncate.
const NAMED: usize = 2;

const HELP: &str = "\
As root it sees all namespaces; otherwise it says on stderr what it could not read, and goes on. Nothing is changed, and \
no mounted file system is asked anything.

In the tree, mounts that a namespace has as the first one shown are only counted; --all shows them.

Columns: TARGET, SOURCE, FSTYPE, OPTIONS, PROPAGATION, BENEATH, PEERS, MASTER, SLAVES, PEER-GROUP, MASTER-GROUP, ID, \
PARENT, FSROOT, MAJ:MIN, NAMESPACE, LABEL, POD, CONTAINER, PID.

Exit code: 0, also if not all could be read; 1 if what was asked for isn't there; 2 if it was called wrongly.";

/// Selects mount namespaces: the options that `inspect` and `watch` share.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Within {
    /// Only the namespaces of a pod: NAMESPACE/NAME, NAME, or its uid.
    #[arg(long)]
    pub(crate) pod: Option<String>,
    /// Only the namespace of a process.
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) pid: Option<i32>,
    /// Only this namespace: its inode, as in `lsns -t mnt`, or mnt:[INODE].
    #[arg(long, value_name = "INODE", value_parser = options::inode)]
    pub(crate) namespace: Option<u64>,
}

/// The arguments of `hostmount inspect`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = HELP)]
pub struct InspectArgs {
    /// Only the mount that this path lies on, and those beneath: in the namespaces that have some there, and in our own.
    path: Option<PathBuf>,
    #[command(flatten)]
    within: Within,
    /// Only a volume, at the kubelet and in its pods: its name in the pod, or that of its PersistentVolume.
    #[arg(long, value_name = "NAME")]
    volume: Option<String>,
    /// The columns, with commas between them; with a + in front, further ones.
    #[arg(short = 'o', long, value_name = "COLUMNS", allow_hyphen_values = true)]
    output: Option<String>,
    /// The form of it: a tree for each namespace; one list; the list for scripts (one space between columns, none within, -
    /// for nothing); one JSON object (docs/inspect.md, docs/inspect.schema.json); a picture, of which html is a page to
    /// look around in. A picture of a PATH shows also what that is linked to in all namespaces.
    #[arg(short, long, value_enum, default_value_t, conflicts_with_all = ["list", "raw", "json"])]
    format: Format,
    /// --format list
    #[arg(short, long)]
    list: bool,
    /// --format raw
    #[arg(short, long, conflicts_with = "list")]
    raw: bool,
    /// --format json
    #[arg(short = 'J', long, conflicts_with_all = ["list", "raw", "output"])]
    json: bool,
    /// Show also the mounts that are as in the first namespace.
    #[arg(short = 'A', long)]
    all: bool,
    /// No headings over the columns.
    #[arg(short, long)]
    noheadings: bool,
    /// Cut nothing to the terminal's width, and name every peer.
    #[arg(short = 'u', long)]
    notruncate: bool,
    /// Draw with ASCII characters, whatever the locale is.
    #[arg(short, long)]
    ascii: bool,
}

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Format {
    #[default]
    Tree,
    List,
    Raw,
    Json,
    Svg,
    Dot,
    Html,
}

impl InspectArgs {
    const fn form(&self) -> Format {
        match (self.list, self.raw, self.json) {
            (true, _, _) => Format::List,
            (_, true, _) => Format::Raw,
            (_, _, true) => Format::Json,
            _ => self.format,
        }
    }
}

/// Why `hostmount inspect` shows nothing.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The path can't be used.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// There is no `/proc`.
    #[error("/proc can't be opened ({0})")]
    OpenProc(Errno),
    /// `/proc` can't be read.
    #[error(transparent)]
    Gather(#[from] NoProc),
    /// What was asked for isn't there.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// It can't be printed.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// A path that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadPath {
    /// It can't be made absolute.
    #[error("{path:?} is no path ({error})")]
    NoPath {
        /// The path, as it can be shown.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// It has `..`, which only the file system can resolve.
    #[error("{path:?}: write the path without \"..\"")]
    Upwards {
        /// The path, as it can be shown.
        path: String,
    },
}

/// Runs `hostmount inspect`.
///
/// # Errors
/// [`InspectError`].
pub fn run(args: &InspectArgs) -> Result<ExitCode, InspectError> {
    let format = args.form();
    let usual: &[Column] = if matches!(format, Format::List | Format::Raw) { &Column::LIST } else { &Column::TREE };
    let columns = args.output.as_deref().map_or_else(|| Ok(usual.to_vec()), |list| Column::parse_list(list, usual));
    let columns = match columns {
        Ok(columns) => columns,
        Err(unknown) => {
            eprintln!("hostmount: --output: {unknown}");
            return Ok(ExitCode::from(2));
        }
    };
    let path = args.path.as_deref().map(absolute).transpose()?;
    let proc = Proc::new().map_err(InspectError::OpenProc)?;
    let machine = gather::gather(&proc, Calls::probe())?;
    if format != Format::Json {
        for left_out in &machine.left_out {
            let shown = format!("{}: {}", left_out.what, left_out.why);
            eprintln!("hostmount: left out: {}", text::visible(OsStr::new(&shown)));
        }
    }
    let filter = Filter {
        path,
        pod: args.within.pod.clone(),
        pid: args.within.pid,
        namespace: args.within.namespace,
        volume: args.volume.clone(),
        own: proc.own_mount_namespace().ok().map(|own| own.inode),
    };
    let chosen = select::choose(&machine, &filter)?;
    let view = View::new(&machine, if args.notruncate { usize::MAX } else { NAMED });
    let is_terminal = io::stdout().is_terminal();
    let style = Style {
        columns,
        width: (is_terminal && !args.notruncate)
            .then(|| terminal_size::terminal_size().map(|(w, _)| w.0.into()))
            .flatten(),
        ascii: args.ascii || !terminal::is_utf8(),
        colour: terminal::colour(),
        headings: !args.noheadings,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    // A picture of a path is of all that it is linked to.
    let picture = || {
        let shown = match &filter.path {
            Some(path) => &linked::with_linked(&machine, chosen.clone(), path),
            None => &chosen,
        };
        select::only(&machine, shown)
    };
    let options = || picture::Options { all: args.all, ..picture::Options::default() };
    let written = match format {
        Format::Json => serde_json::to_writer(&mut out, &json::Document::of(&view, &chosen))
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n")),
        Format::List => out.write_all(draw::list(&view, &chosen, &style, false).as_bytes()),
        Format::Raw => out.write_all(draw::list(&view, &chosen, &style, true).as_bytes()),
        Format::Tree => trees(&mut out, &view, &chosen, &filter, args.all, &style),
        Format::Svg => out.write_all(picture::svg(&picture(), &options()).as_bytes()),
        Format::Dot => out.write_all(picture::dot(&picture(), &options()).as_bytes()),
        Format::Html => out.write_all(picture::html(&picture(), &machine, &options()).as_bytes()),
    };
    terminal::written(written.and_then(|()| out.flush()))?;
    Ok(ExitCode::SUCCESS)
}

fn trees(
    out: &mut impl Write,
    view: &View<'_>,
    chosen: &[Chosen],
    filter: &Filter,
    all: bool,
    style: &Style,
) -> io::Result<()> {
    // Where some mounts are asked for, they are to be seen.
    let folds = !all && filter.path.is_none() && filter.volume.is_none();
    let base = chosen.first().filter(|_| folds).map(|chosen| chosen.namespace);
    for (n, chosen) in chosen.iter().enumerate() {
        if n > 0 {
            out.write_all(b"\n")?;
        }
        out.write_all(draw::tree(view, chosen, base, style).as_bytes())?;
    }
    Ok(())
}

/// Makes a path absolute by its text alone. Resolving symlinks would ask file systems, which may hang.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, BadPath> {
    let shown = || text::visible(path.as_os_str());
    let whole = std::path::absolute(path).map_err(|error| BadPath::NoPath { path: shown(), error })?;
    if whole.components().any(|part| part == Component::ParentDir) {
        return Err(BadPath::Upwards { path: shown() });
    }
    // Without a slash at the end.
    Ok(whole.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_absolute_without_asking_a_file_system() {
        assert_eq!(absolute(Path::new("/a//b/./c/")).unwrap(), Path::new("/a/b/c"));
        assert!(absolute(Path::new("x")).unwrap().is_absolute());
        assert!(absolute(Path::new("/a/../b")).unwrap_err().to_string().contains("without"));
        assert!(absolute(Path::new("")).is_err());
    }

    #[test]
    fn the_help_names_every_column() {
        for (_, name, what) in Column::ALL {
            assert!(HELP.contains(name) && !what.is_empty(), "{name}");
        }
    }
}
