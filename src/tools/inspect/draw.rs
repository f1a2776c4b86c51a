//! Mounts as text: a tree for each namespace, or one list. Pure.

use std::ffi::OsStr;

use model::machine::{Namespace, UNKNOWN, names};
use text::cut::Cut;
use text::paint::Paint;
use text::table::{self, Columns};
use text::{plural, visible};

use super::columns::{Column, View};
use super::fold::{self, Fold};
use super::relations::MountRef;
use super::select::Chosen;
use super::subtree::{self, PropagationType, SubtreePropagation};
use crate::mount_tree::{self, Row};

/// How many levels of a tree are drawn. Mounts may be stacked a hundred thousand deep.
const DEEPEST: usize = 24;
/// How many processes a heading names.
const NAMED_PROCESSES: usize = 3;
/// The smallest width to which a column is shrunk.
const NARROWEST: usize = 12;
/// Blanks between two columns.
const GAP: usize = 2;

/// The appearance of the output.
#[derive(Debug, Clone)]
pub struct Style {
    /// The columns.
    pub columns: Vec<Column>,
    /// The width of the terminal. None: lines are not cut.
    pub width: Option<usize>,
    /// No characters but ASCII for lines and marks.
    pub ascii: bool,
    /// Colours and bold.
    pub colour: bool,
    /// Headings over the columns.
    pub headings: bool,
}

impl Style {
    fn paint(&self, code: &str, text: &str) -> String {
        Paint { colour: self.colour }.with(code, text)
    }

    /// The mark where a text is cut.
    const fn mark(&self) -> &'static str {
        if self.ascii { "~" } else { "…" }
    }

    fn fitted(&self, text: &str) -> String {
        self.width.map_or_else(|| text.into(), |width| Cut::columns(width).mark(self.mark()).apply(text)).into_owned()
    }
}

/// A mount that is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    mount: usize,
    /// How many drawn mounts lie above it.
    depth: usize,
    /// Whether it is the last one beneath its parent.
    last: bool,
}

/// The rows that are shown, each beneath the nearest one above it that is shown.
fn lines(rows: &[Row], shows: impl Fn(usize) -> bool) -> Vec<Line> {
    let mut above: Vec<usize> = Vec::new();
    let mut lines: Vec<Line> = Vec::new();
    for row in rows.iter().filter(|row| shows(row.mount)) {
        while above.last().is_some_and(|&depth| depth >= row.depth) {
            above.pop();
        }
        lines.push(Line { mount: row.mount, depth: above.len(), last: true });
        above.push(row.depth);
    }
    // From behind: at which depths a later sibling has been seen.
    let mut later: Vec<bool> = Vec::new();
    for line in lines.iter_mut().rev() {
        later.truncate(line.depth + 1);
        later.resize(line.depth + 1, false);
        line.last = !std::mem::replace(&mut later[line.depth], true);
    }
    lines
}

/// The tree lines in front of each mount.
fn branches(lines: &[Line], ascii: bool) -> Vec<String> {
    let [pass, none, fork, end] = if ascii { ["| ", "  ", "|-", "`-"] } else { ["│ ", "  ", "├─", "└─"] };
    let mut more: Vec<bool> = Vec::new();
    lines
        .iter()
        .map(|line| {
            more.truncate(line.depth);
            let levels = more.iter().skip(1).take(DEEPEST);
            let mut out: String = levels.map(|&more| if more { pass } else { none }).collect();
            if line.depth > DEEPEST {
                out += &format!("({} deep) ", line.depth);
            } else if line.depth > 0 {
                out += if line.last { end } else { fork };
            }
            more.push(!line.last);
            out
        })
        .collect()
}

/// A namespace's tree, with a heading. Mounts that are the same in the namespace `base` are only counted.
#[must_use]
pub fn tree(view: &View<'_>, chosen: &Chosen, base: Option<usize>, style: &Style) -> String {
    let namespace = &view.machine.namespaces[chosen.namespace];
    let table = &namespace.table;
    let rows = mount_tree::rows(table);
    let told = subtree::tell(table, &rows);
    let base = base.filter(|base| *base != chosen.namespace);
    let folded: Option<(usize, Fold)> = base
        .map(|base| (base, fold::fold(&view.machine.namespaces[base].table, table)))
        .filter(|(_, fold)| fold.is_worth_it());
    let hidden = |mount: usize| folded.as_ref().is_some_and(|(_, fold)| fold.folded[mount]);
    let lines = lines(&rows, |mount| chosen.shows(mount) && !hidden(mount));
    let branches = branches(&lines, style.ascii);

    let mut out = heading(view, chosen.namespace, style);
    if !lines.is_empty() {
        let cells = lines.iter().zip(&branches).map(|(line, branch)| {
            let place = MountRef { namespace: chosen.namespace, mount: line.mount };
            row(view, place, &told[line.mount], &style.columns, branch)
        });
        out += &grid(&cells.collect::<Vec<_>>(), style);
    }
    if let Some((base, fold)) = folded {
        let note = format!("+ {}", fold.note(&view.labels[base]));
        out += &style.paint("2", &style.fitted(&note));
        out.push('\n');
    }
    out
}

/// One list of the mounts of all namespaces. With `raw`, columns are separated by one space, cells have no spaces, and `-` is
/// an empty cell.
#[must_use]
pub fn list(view: &View<'_>, chosen: &[Chosen], style: &Style, raw: bool) -> String {
    let mut cells = Vec::new();
    for chosen in chosen {
        let table = &view.machine.namespaces[chosen.namespace].table;
        let rows = mount_tree::rows(table);
        let told = subtree::tell(table, &rows);
        for shown in rows.iter().filter(|row| chosen.shows(row.mount)) {
            let place = MountRef { namespace: chosen.namespace, mount: shown.mount };
            cells.push(row(view, place, &told[shown.mount], &style.columns, ""));
        }
    }
    if !raw {
        return grid(&cells, style);
    }
    let heading = style.headings.then(|| style.columns.iter().map(|column| column.name().to_owned()).collect());
    let mut out = String::new();
    for line in heading.iter().chain(cells.iter().map(|(cells, _)| cells)) {
        let raw = |cell: &String| match cell.as_str() {
            "" => "-".to_owned(),
            "-" => r"\x2d".to_owned(),
            cell => cell.replace(' ', r"\x20"),
        };
        out += &line.iter().map(raw).collect::<Vec<_>>().join(" ");
        out.push('\n');
    }
    out
}

type Cells = (Vec<String>, &'static str);

/// A mount's cells, and the colour of its propagation.
fn row(view: &View<'_>, place: MountRef, told: &SubtreePropagation, columns: &[Column], branch: &str) -> Cells {
    let mount = &view.machine.namespaces[place.namespace].table.mounts[place.mount];
    let cells = columns.iter().map(|&column| {
        let cell = view.cell(column, place, mount, told);
        if column == Column::Target { branch.to_owned() + &cell } else { cell }
    });
    let colour = match told.kind {
        _ if told.is_mixed() => "33",
        PropagationType::Private => "2",
        PropagationType::Unbindable => "35",
        PropagationType::Slave => "36",
        PropagationType::Shared => "32",
        PropagationType::SharedAndSlave => "34",
    };
    (cells.collect(), colour)
}

fn grid(rows: &[Cells], style: &Style) -> String {
    let heads: Vec<String> = style.columns.iter().map(|column| column.name().to_owned()).collect();
    let columns = style.columns.iter().map(|column| table::Column { width: 0, right: column.is_number() });
    let mut columns = Columns::new(columns, GAP).mark(style.mark());
    let heads = style.headings.then_some(heads);
    heads.iter().chain(rows.iter().map(|(cells, _)| cells)).for_each(|cells| columns.widen(cells));
    if let Some(terminal) = style.width {
        columns.shrink(terminal, NARROWEST);
    }
    let mut out = String::new();
    if let Some(heads) = &heads {
        columns.line(&mut out, heads, |_, text| style.paint("1", text));
    }
    for (cells, colour) in rows {
        columns.line(&mut out, cells, |at, text| match style.columns[at] {
            Column::Propagation => style.paint(colour, text),
            _ => text.to_owned(),
        });
    }
    out
}

/// A namespace's heading: its name, its inode, and its processes or the bind mount that keeps it.
fn heading(view: &View<'_>, index: usize, style: &Style) -> String {
    let namespace = &view.machine.namespaces[index];
    let label = &view.labels[index];
    let dot = if style.ascii { " - " } else { " · " };
    let mut parts = Vec::new();
    match namespace.inode {
        UNKNOWN => parts.push("mnt:[?]".to_owned()),
        inode if *label != format!("mnt:[{inode}]") => parts.push(format!("mnt:[{inode}]")),
        _ => {}
    }
    parts.push(plural(namespace.table.mounts.len(), "mount"));
    parts.push(processes(namespace));
    if let Some(id) = namespace.container.as_ref().and_then(|container| container.id.as_ref())
        && !label.starts_with("container ")
    {
        parts.push(format!("container {}", visible(OsStr::new(id.get(..12).unwrap_or(id)))));
    }
    if namespace.processes.is_empty() {
        parts.extend(keepers(view, namespace));
    }
    let plain = format!("{label}{dot}{}", parts.join(dot));
    let fitted = style.fitted(&plain);
    let painted = match fitted.strip_prefix(label.as_str()) {
        Some(rest) => style.paint("1;4", label) + &style.paint("2", rest),
        None => style.paint("1;4", &fitted),
    };
    painted + "\n"
}

fn processes(namespace: &Namespace) -> String {
    let all = &namespace.processes;
    let named: Vec<String> = all
        .iter()
        .take(NAMED_PROCESSES)
        .map(|process| format!("{} ({})", visible(OsStr::new(&process.name)), process.pid))
        .collect();
    match all.len() {
        0 => "no process".to_owned(),
        count if count > named.len() => format!("{} and {} more processes", named.join(", "), count - named.len()),
        _ => named.join(", "),
    }
}

/// The bind mounts that keep a namespace without processes.
fn keepers(view: &View<'_>, namespace: &Namespace) -> Option<String> {
    view.machine.namespaces.iter().zip(&view.labels).find_map(|(other, label)| {
        let keeper = other
            .table
            .mounts
            .iter()
            .find(|mount| names::kept_namespace(&mount.fs_type, &mount.root) == Some(namespace.inode))?;
        Some(format!("kept by a bind mount at {} in {label}", visible(keeper.mount_point.as_os_str())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::machine::{Container, Machine, Process};
    use mounts::mountinfo;

    fn style() -> Style {
        Style { columns: Column::TREE.to_vec(), width: None, ascii: false, colour: false, headings: true }
    }

    fn machine() -> Machine {
        let of = |inode, pids: &[i32], text: &str| Namespace {
            inode,
            processes: pids.iter().map(|&pid| Process { pid, name: format!("p{pid}") }).collect(),
            table: mountinfo::parse(text.as_bytes()),
            ..Namespace::default()
        };
        Machine {
            namespaces: vec![
                of(
                    10,
                    &[1, 2, 3, 4, 5],
                    "1 0 8:1 / / rw shared:1 - ext4 d rw\n3 1 0:3 / /b rw shared:3 - t t rw\n\
                     2 1 0:2 / /a rw shared:2 - t t rw\n4 2 0:4 / /a/x rw - t t rw\n\
                     5 1 0:5 mnt:[30] /n rw - nsfs nsfs rw\n",
                ),
                of(
                    20,
                    &[7],
                    "11 0 8:1 / / rw master:1 - ext4 d rw\n12 11 0:2 / /a rw master:2 - t t rw\n\
                     13 11 0:3 / /b rw master:3 - t t rw\n14 11 0:9 / /tmp rw - t t rw\n",
                ),
                of(30, &[], "21 0 8:1 / / rw - ext4 d rw\n"),
            ],
            left_out: vec![],
        }
    }

    fn all(namespace: usize) -> Chosen {
        Chosen { namespace, mounts: None }
    }

    #[test]
    fn a_tree_shows_what_lies_beneath_what() {
        let machine = machine();
        let view = View::new(&machine, 2);
        let text = tree(&view, &all(0), None, &style());
        assert_eq!(
            text,
            "node · mnt:[10] · 5 mounts · p1 (1), p2 (2), p3 (3) and 2 more processes\n\
             TARGET    FSTYPE  PROPAGATION                     PEERS        MASTER\n\
             /         ext4    shared; beneath 2 private of 4  1: no other\n\
             ├─/a      t       shared; beneath 1 private of 1  2: no other\n\
             │ └─/a/x  t       rprivate\n\
             ├─/b      t       rshared                         3: no other\n\
             └─/n      nsfs    rprivate\n"
        );
        let ascii = tree(&view, &all(0), None, &Style { ascii: true, ..style() });
        assert!(ascii.is_ascii() && ascii.contains("\n|-/a") && ascii.contains("\n| `-/a/x"), "{ascii}");
    }

    #[test]
    fn what_is_as_on_the_node_is_only_counted() {
        let machine = machine();
        let view = View::new(&machine, 2);
        let text = tree(&view, &all(1), Some(0), &style());
        assert!(text.contains("\n/tmp ") && !text.contains("/a"), "{text}");
        assert!(text.ends_with("+ 3 mounts as in node (all slaves of those); 2 mounts of there not here\n"), "{text}");
        assert!(tree(&view, &all(1), None, &style()).contains("├─/a"));
        let nobody = tree(&view, &all(2), Some(0), &style());
        assert!(
            nobody.starts_with("mnt:[30] · 1 mount · no process · kept by a bind mount at /n in node\n"),
            "{nobody}"
        );
    }

    #[test]
    fn mounts_that_are_not_shown_leave_no_gap() {
        let machine = machine();
        let view = View::new(&machine, 2);
        let some = Chosen { namespace: 0, mounts: Some(vec![true, false, false, true, false]) };
        let text = tree(&view, &some, None, &style());
        assert!(text.contains("\n/  ") && text.contains("\n└─/a/x"), "{text}");
    }

    #[test]
    fn lines_fit_the_terminal_and_colours_take_no_room() {
        let machine = machine();
        let view = View::new(&machine, 2);
        let narrow = Style { width: Some(60), ..style() };
        let text = tree(&view, &all(0), None, &narrow);
        assert!(text.lines().all(|line| text::width(line) <= 60), "{text}");
        assert!(text.contains('…'));
        let coloured = tree(&view, &all(0), None, &Style { colour: true, ..narrow });
        let mut plain = String::new();
        let mut inside = false;
        for c in coloured.chars() {
            match c {
                '\x1b' => inside = true,
                'm' if inside => inside = false,
                _ if !inside => plain.push(c),
                _ => {}
            }
        }
        let trimmed = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(trimmed(&plain), trimmed(&text));
    }

    #[test]
    fn a_list_can_be_cut_into_words() {
        let mut machine = machine();
        machine.namespaces[1].container = Some(Container { id: Some("c".repeat(64)), name: None });
        machine.namespaces[1].table = mountinfo::parse(b"1 0 8:1 / /a\\040b rw - t - rw\n");
        let view = View::new(&machine, 2);
        let columns = Column::parse_list("label,target,source,peers", &[]).unwrap();
        let raw = list(&view, &[all(1)], &Style { columns, ..style() }, true);
        assert_eq!(raw, "LABEL TARGET SOURCE PEERS\ncontainer\\x20cccccccccccc /a\\x20b \\x2d -\n");
        let flat = list(&view, &[all(0), all(2)], &Style { headings: false, ..style() }, false);
        assert_eq!(flat.lines().count(), 6);
    }

    #[test]
    fn a_hundred_thousand_stacked_mounts_are_drawn_in_time() {
        let text: String = (1..=100_000).map(|id| format!("{id} {} 0:1 / /a rw - t t rw\n", id - 1)).collect();
        let table = mountinfo::parse(text.as_bytes());
        let machine = Machine { namespaces: vec![Namespace { table, ..Namespace::default() }], left_out: vec![] };
        let begun = std::time::Instant::now();
        let text = tree(&View::new(&machine, 2), &all(0), None, &style());
        assert_eq!(text.lines().count(), 100_002);
        assert!(text.contains("(99999 deep) /a"));
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
    }
}
