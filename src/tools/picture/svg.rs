//! The picture as a self-contained SVG, light or dark like the reader's desktop.

use std::cmp::Ordering;
use std::fmt::Write;

use model::machine::Machine;
use text::visible;

use crate::picture::layout::wires::{Lane, Wire, bulge};
use crate::picture::layout::{CORNER, Card, Chip, HEAD, Layout, Line, MARGIN, MARK, NOTE, PAD};
use crate::picture::legend::Sign;
use crate::picture::outline::{Column, Outline, What};
use crate::picture::text::{fitted, fitted_heading, fitted_text, xml};
use crate::picture::{COLOURS, Options, summary, told};

const STYLE: &str = concat!(include_str!("palette.css"), include_str!("svg.css"));

/// Draws a machine.
#[must_use]
pub fn svg(machine: &Machine, options: &Options) -> String {
    let outline = Outline::of(machine, options.all);
    let layout = Layout::of(&outline);
    let (width, height) = layout.size;
    let mut out = String::new();
    // Writing to a String can't fail: so it is with each `write!` in this file.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"hostmount\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"hostmount-title hostmount-desc\">\n\
         <title id=\"hostmount-title\">{}</title>\n<desc id=\"hostmount-desc\">{}</desc>\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{width}\" height=\"{height}\" rx=\"10\"/>",
        xml(&visible(&options.title)),
        xml(&described(machine, &outline)),
    );
    out.push_str("<g class=\"wires\">\n");
    for wire in &layout.wires {
        draw_wire(&mut out, wire, &layout);
    }
    out.push_str("</g>\n");
    for (card, column) in layout.cards.iter().zip(&outline.columns) {
        draw_card(&mut out, card, column, &outline);
    }
    draw_ends(&mut out, &layout);
    draw_legend(&mut out, &layout);
    out.push_str("</svg>\n");
    out
}

/// The picture as text, for screen readers.
fn described(machine: &Machine, outline: &Outline<'_>) -> String {
    let names: Vec<&str> = outline.columns.iter().take(12).map(|column| column.title.as_str()).collect();
    let more = outline.columns.len().saturating_sub(names.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "{} Each is a column with its mounts as a tree: {}{more}. Lines link the mounts of one peer group, arrows lead \
         from a peer group to its slaves.",
        summary(machine, outline),
        names.join("; ")
    )
}

fn draw_card(out: &mut String, card: &Card<'_, '_>, column: &Column<'_>, outline: &Outline<'_>) {
    let (x, width, height) = (card.x, card.width, card.height);
    let _ = writeln!(
        out,
        "<g class=\"card\">\n<rect class=\"card-paper\" x=\"{x}\" y=\"{MARGIN}\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>\n\
         <path class=\"card-rule\" d=\"M{x} {y}h{width}\"/>\n\
         <text class=\"card-title\" x=\"{left}\" y=\"{title}\">{}</text>",
        xml(&fitted_heading(&column.title, width - 2 * PAD)),
        y = MARGIN + HEAD - 6,
        left = x + PAD,
        title = MARGIN + 20,
    );
    for (n, note) in card.notes.iter().enumerate() {
        let (left, y, note) = (x + PAD, MARGIN + 36 + n * 14, xml(&fitted_text(note, NOTE, width - 2 * PAD)));
        let _ = writeln!(out, "<text class=\"card-note\" x=\"{left}\" y=\"{y}\">{note}</text>");
    }
    let guides: String = card.lines.iter().filter_map(|line| guide(line, &card.lines)).collect();
    let _ = writeln!(out, "<path class=\"guide\" d=\"{guides}\"/>");
    for line in &card.lines {
        draw_line(out, line, card, outline);
    }
    out.push_str("</g>\n");
}

/// The tree line from the parent's line.
fn guide(line: &Line<'_, '_>, lines: &[Line<'_, '_>]) -> Option<String> {
    let parent = lines.get(line.parent?)?;
    let across = (line.x - 7).saturating_sub(parent.x);
    Some(format!("M{} {}V{}h{across}", parent.x, parent.y + 7, line.y))
}

fn draw_line(out: &mut String, line: &Line<'_, '_>, card: &Card<'_, '_>, outline: &Outline<'_>) {
    let (y, right) = (line.y, card.x + card.width - PAD);
    let title = match line.row.what {
        What::Mount(_, mount) => told(mount),
        What::Fold(_) => line.row.label.clone(),
    };
    let _ = write!(out, "<g><title>{}</title>", xml(&title));
    draw_mark(out, line, outline);
    let kind = if matches!(line.row.what, What::Fold(_)) { "label fold" } else { "label" };
    let _ = write!(
        out,
        "<text class=\"{kind}\" x=\"{}\" y=\"{}\">{}</text>",
        line.x + MARK - 4,
        y + 4,
        xml(&fitted(&line.row.label, line.room))
    );
    let mut end = right;
    for &(chip, wide) in line.chips.iter().rev() {
        end -= wide;
        draw_chip(out, chip, wide, (end, y), outline);
        end -= 4;
    }
    if !line.note.is_empty() {
        let _ = write!(out, "<text class=\"note\" x=\"{}\" y=\"{}\">{}</text>", end - 2, y + 4, xml(&line.note));
    }
    out.push_str("</g>\n");
}

/// The CSS class with the colour of a group; none for groups that link nothing.
fn colour(group: u64, outline: &Outline<'_>) -> String {
    match outline.groups.get(&group).and_then(|group| group.colour) {
        Some(colour) => format!("c{}", colour % COLOURS),
        None => "alone".to_owned(),
    }
}

fn draw_mark(out: &mut String, line: &Line<'_, '_>, outline: &Outline<'_>) {
    let (x, y) = (line.x, line.y);
    let What::Mount(_, mount) = line.row.what else {
        let _ = write!(out, "<path class=\"mark-fold\" d=\"M{} {}v8m-4-4h8\"/>", x, y - 4);
        return;
    };
    let state = mount.propagation;
    match (state.peer_group, state.master) {
        (Some(group), None) => {
            let _ = write!(out, "<circle class=\"fill {}\" cx=\"{x}\" cy=\"{y}\" r=\"4.5\"/>", colour(group, outline));
        }
        (Some(group), Some(master)) => {
            let _ = write!(
                out,
                "<circle class=\"fill {}\" cx=\"{x}\" cy=\"{y}\" r=\"4.5\"/><path class=\"fill {}\" d=\"M{} {}l7 4-7 4z\"/>",
                colour(group, outline),
                colour(master, outline),
                x - 11,
                y - 4
            );
        }
        (None, Some(master)) => {
            let _ = write!(
                out,
                "<path class=\"fill {}\" d=\"M{} {}l8 4.5-8 4.5z\"/>",
                colour(master, outline),
                x - 4,
                y - 4
            );
        }
        (None, None) if state.unbindable => {
            let _ = write!(
                out,
                "<circle class=\"mark-private\" cx=\"{x}\" cy=\"{y}\" r=\"4\"/><path class=\"mark-private\" d=\"M{} {}l6-6\"/>",
                x - 3,
                y + 3
            );
        }
        (None, None) => {
            let _ = write!(out, "<circle class=\"mark-private\" cx=\"{x}\" cy=\"{y}\" r=\"4\"/>");
        }
    }
}

fn draw_chip(out: &mut String, chip: Chip, wide: usize, (x, y): (usize, usize), outline: &Outline<'_>) {
    let (kind, group, arrow) = match chip {
        Chip::Peers(group) => ("chip", Some(group), 0),
        Chip::Master(group) => ("chip master", Some(group), 9),
        Chip::Unbindable => ("chip master", None, 0),
    };
    let colour = group.map_or("alone".to_owned(), |group| colour(group, outline));
    let text = chip.text();
    let _ = write!(
        out,
        "<g class=\"{kind} {colour}\"><rect x=\"{x}\" y=\"{}\" width=\"{wide}\" height=\"15\" rx=\"7.5\"/>\
         <text x=\"{}\" y=\"{}\">{text}</text>",
        y - 8,
        x + 6 + arrow,
        y + 3,
    );
    if arrow > 0 {
        let _ = write!(out, "<path d=\"M{} {}l6 3.5-6 3.5z\"/>", x + 6, y - 4);
    }
    out.push_str("</g>");
}

/// The ends of a wire.
struct Ends {
    from: (usize, usize),
    to: (usize, usize),
    /// Whether it enters from the left.
    rightwards: bool,
}

fn ends(wire: &Wire, layout: &Layout<'_, '_>) -> Option<Ends> {
    let (from, to) = (layout.cards.get(wire.from.0)?, layout.cards.get(wire.to.0)?);
    let (from_y, to_y) = (from.lines.get(wire.from.1)?.y, to.lines.get(wire.to.1)?.y);
    // Within a card it is a loop at the right.
    let (rightwards, leftwards) = (wire.from.0 < wire.to.0, wire.from.0 > wire.to.0);
    let from_x = if leftwards { from.x } else { from.x + from.width };
    let to_x = if rightwards { to.x } else { to.x + to.width };
    Some(Ends { from: (from_x, from_y), to: (to_x, to_y), rightwards })
}

fn draw_wire(out: &mut String, wire: &Wire, layout: &Layout<'_, '_>) {
    let Some(Ends { from: (x1, y1), to: (x2, y2), .. }) = ends(wire, layout) else { return };
    let kind = if wire.to_slave { "wire to-slave" } else { "wire" };
    let many = if wire.count > 1 { " many" } else { "" };
    let way = match wire.around {
        Some(lane) => around((x1, y1), (x2, y2), lane),
        None => beside((x1, y1), (x2, y2)),
    };
    let colour = if wire.count > 1 { "bundle".to_owned() } else { format!("c{}", wire.colour % COLOURS) };
    let what = match (wire.to_slave, wire.count) {
        (true, 1) => format!("slave of peer group {}", wire.group),
        (false, 1) => format!("peers in group {}", wire.group),
        (true, count) => format!("{count} slaves of {count} mounts"),
        (false, count) => format!("{count} pairs of peers"),
    };
    let _ = writeln!(out, "<path class=\"{kind} {colour}{many}\" d=\"{way}\"><title>{what}</title></path>");
}

/// Between cards that stand side by side; or, where both ends are at the same edge, a loop at the right of it.
fn beside((x1, y1): (usize, usize), (x2, y2): (usize, usize)) -> String {
    let (pull, bulge) = ((x1.abs_diff(x2) / 2).min(140), bulge(y1, y2));
    let (c1, c2) = match x1.cmp(&x2) {
        Ordering::Less => (x1 + pull, x2 - pull),
        Ordering::Greater => (x1 - pull, x2 + pull),
        Ordering::Equal => (x1 + bulge, x2 + bulge),
    };
    format!("M{x1} {y1}C{c1} {y1} {c2} {y2} {x2} {y2}")
}

/// Out into the gap beside the card, down, across, up and in, with round corners.
fn around((x1, y1): (usize, usize), (x2, y2): (usize, usize), lane: Lane) -> String {
    let (r, down, shift) = (CORNER, lane.y, lane.number % 6 * 4);
    let (leave, enter) = (16 + shift, 20 + shift);
    // The places before and after each corner, by the direction in which it goes.
    let rightwards = x1 < x2;
    let on = |x: usize, by: usize| if rightwards { x + by } else { x - by };
    let back = |x: usize, by: usize| if rightwards { x - by } else { x + by };
    let (a, b) = (on(x1, leave), back(x2, enter));
    format!(
        "M{x1} {y1}H{}Q{a} {y1} {a} {}V{}Q{a} {down} {} {down}H{}Q{b} {down} {b} {}V{}Q{b} {y2} {} {y2}H{x2}",
        back(a, r),
        y1 + r,
        down - r,
        on(a, r),
        back(b, r),
        down - r,
        y2 + r,
        on(b, r),
    )
}

/// The ends of the wires, drawn over the cards' edges: a dot at a peer, an arrowhead at a slave.
fn draw_ends(out: &mut String, layout: &Layout<'_, '_>) {
    out.push_str("<g class=\"ends\">\n");
    for wire in &layout.wires {
        let Some(Ends { from, to: (x, y), rightwards }) = ends(wire, layout) else { continue };
        let colour = if wire.count > 1 { "bundle".to_owned() } else { format!("c{}", wire.colour % COLOURS) };
        let _ = write!(out, "<circle class=\"fill {colour}\" cx=\"{}\" cy=\"{}\" r=\"2.5\"/>", from.0, from.1);
        let _ = match (wire.to_slave, rightwards) {
            (false, _) => writeln!(out, "<circle class=\"fill {colour}\" cx=\"{x}\" cy=\"{y}\" r=\"2.5\"/>"),
            (true, true) => writeln!(out, "<path class=\"fill {colour}\" d=\"M{} {}l9 4.5-9 4.5z\"/>", x - 8, y - 4),
            (true, false) => writeln!(out, "<path class=\"fill {colour}\" d=\"M{} {}l-9 4.5 9 4.5z\"/>", x + 8, y - 4),
        };
    }
    out.push_str("</g>\n");
}

fn draw_legend(out: &mut String, layout: &Layout<'_, '_>) {
    let (left, top) = layout.legend_at;
    out.push_str("<g class=\"legend\">\n");
    for entry in &layout.legend.entries {
        // Around the middle of the mark.
        let mark = match entry.sign {
            Some(Sign::Shared) => "<circle class=\"fill c0\" r=\"4.5\"/>",
            Some(Sign::Slave) => "<path class=\"fill c1\" d=\"M-4-4.5l8 4.5-8 4.5z\"/>",
            Some(Sign::SharedSlave) => {
                "<path class=\"fill c1\" d=\"M-13-4l7 4-7 4z\"/><circle class=\"fill c0\" r=\"4.5\"/>"
            }
            Some(Sign::Private) => "<circle class=\"mark-private\" r=\"4\"/>",
            Some(Sign::Unbindable) => {
                "<circle class=\"mark-private\" r=\"4\"/><path class=\"mark-private\" d=\"M-3 3l6-6\"/>"
            }
            Some(Sign::Folded) => "<path class=\"mark-fold\" d=\"M0-4v8m-4-4h8\"/>",
            None => "",
        };
        let (indent, middle) = entry.sign.map_or((0, 0), Sign::widths);
        let (x, y, text) = (left + entry.at.0 + middle, top + entry.at.1, xml(&entry.text));
        let _ = writeln!(
            out,
            "<g transform=\"translate({x} {y})\">{mark}<text x=\"{}\" y=\"4\">{text}</text></g>",
            indent - middle
        );
    }
    out.push_str("</g>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::machine;

    #[test]
    fn it_tells_what_it_is_and_escapes_what_it_shows() {
        let machine = machine(&[
            "1 0 0:1 / / rw shared:1 - ext4 a rw\n2 1 0:1 / /<script>\\012\" rw master:9 - t<x>& t rw\n",
            "3 0 0:1 / / rw shared:1 - ext4 a rw\n",
        ]);
        let text = svg(&machine, &Options { title: "A & B".to_owned(), all: false });
        assert!(text.contains("<title id=\"hostmount-title\">A &amp; B</title>"));
        assert!(text.contains("2 mount namespaces, 3 mounts, 1 peer group that links mounts."), "{text}");
        assert!(text.contains("/&lt;script&gt;\\x0a&quot;") && text.contains("t&lt;x&gt;&amp;"), "{text}");
        assert!(!text.contains("<script") && !text.contains("href"));
        assert_eq!(text.matches("class=\"wire c0\"").count(), 1);
        assert!(text.contains("prefers-color-scheme"));
    }

    #[test]
    fn nothing_at_all_is_a_picture_too() {
        let text = svg(&Machine::default(), &Options::default());
        assert!(text.contains("0 mount namespaces") && text.ends_with("</svg>\n"));
    }
}
