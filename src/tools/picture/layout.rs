//! Where everything of an outline is drawn: cards, lines and the wires between them, in whole pixels.
//!
//! Widths of text are taken from the advance of common monospaced fonts, since nothing here can measure a font. Shared by the
//! formats that draw by themselves; the page lays itself out, as its rows come and go.

use std::collections::BTreeMap;

use mounts::propagation::PropagationState;
use text::{visible, width};

use crate::picture::legend::Legend;
use crate::picture::outline::{Outline, Relation, Row, What, Why};
use crate::picture::text::{fitted, heading_width, text_width};

/// Height of a line.
pub const LINE: usize = 22;
/// Height of a card's heading.
pub const HEAD: usize = 64;
/// Left and right of what is in a card.
pub const PAD: usize = 12;
/// How much deeper a child stands than its parent.
pub const INDENT: usize = 14;
/// Between a line's mark and its label.
pub const MARK: usize = 16;
/// Around everything.
pub const MARGIN: usize = 24;
/// Between two cards, where the wires run.
const GUTTER: usize = 68;
/// From the lowest card to the legend, and from the left edge to it.
const LEGEND: (usize, usize) = (16, MARGIN + 6);
/// Size of the text under a card's title.
pub const NOTE: usize = 11;
/// The radius of a wire's corner.
pub const CORNER: usize = 7;
/// Deeper rows are drawn no further to the right.
const DEEPEST: usize = 10;
const CARD: (usize, usize) = (200, 430);

/// A drawing of an outline.
#[derive(Debug)]
pub struct Layout<'o, 'm> {
    /// Width and height of all of it.
    pub size: (usize, usize),
    /// A card for each column.
    pub cards: Vec<Card<'o, 'm>>,
    /// What links the lines.
    pub wires: Vec<Wire>,
    /// What the signs mean.
    pub legend: Legend,
    /// The legend's upper left corner.
    pub legend_at: (usize, usize),
}

/// A namespace, drawn as a card.
#[derive(Debug)]
pub struct Card<'o, 'm> {
    /// Its left edge.
    pub x: usize,
    /// Its width.
    pub width: usize,
    /// Its height; its top is [`MARGIN`].
    pub height: usize,
    /// What stands under its title.
    pub notes: [String; 2],
    /// The rows that no fold hides.
    pub lines: Vec<Line<'o, 'm>>,
}

/// A row that is drawn.
#[derive(Debug)]
pub struct Line<'o, 'm> {
    /// The row.
    pub row: &'o Row<'m>,
    /// The line that it hangs on, above it in the card.
    pub parent: Option<usize>,
    /// Its mark's centre.
    pub x: usize,
    /// Its middle.
    pub y: usize,
    /// How many columns of text its label may take.
    pub room: usize,
    /// How many mounts are folded into it; 0 for a mount.
    pub folded: usize,
    /// What stands before the chips: the file system's type, unless the card's notes say it for all.
    pub note: String,
    /// What stands at its end, and each one's width.
    pub chips: Vec<(Chip, usize)>,
}

/// A small label at the end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chip {
    /// The peer group that the mount is in.
    Peers(u64),
    /// The peer group that it receives from.
    Master(u64),
    /// It can't be bound.
    Unbindable,
}

/// A line is the pair of its card's number and its own.
pub type At = (usize, usize);

/// What links two lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// The group, if it stands for one.
    pub group: u64,
    /// Its colour.
    pub colour: usize,
    /// Where it starts; a master's end of a master's wire.
    pub from: At,
    /// Where it ends.
    pub to: At,
    /// Whether it leads from a peer group to a slave; else it links peers.
    pub to_slave: bool,
    /// For how many it stands.
    pub count: usize,
    /// The way around the cards that lie between its ends; none if there are none.
    pub around: Option<Lane>,
}

/// A way beneath cards. Wires that leave the same line for the same group share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// How far down it runs.
    pub y: usize,
    /// Its number, of those that run beside it.
    pub number: usize,
}

/// The width of monospaced text of 12 pixels.
const fn wide(columns: usize) -> usize {
    (columns * 73).div_ceil(10)
}

/// The width of monospaced text of 10 pixels.
pub const fn wide_small(columns: usize) -> usize {
    (columns * 61).div_ceil(10)
}

impl Chip {
    /// Those of a mount.
    #[must_use]
    pub fn of(state: PropagationState) -> Vec<Self> {
        let peers = state.peer_group.map(Self::Peers);
        let unbindable = state.unbindable.then_some(Self::Unbindable);
        peers.into_iter().chain(state.master.map(Self::Master)).chain(unbindable).collect()
    }

    /// Its text.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::Peers(group) | Self::Master(group) => group.to_string(),
            Self::Unbindable => "unbindable".to_owned(),
        }
    }

    fn width(self) -> usize {
        let arrow = if matches!(self, Self::Master(_)) { 9 } else { 0 };
        wide_small(width(&self.text())) + 12 + arrow
    }
}

/// How far to the right a wire reaches that links two lines at one card's right edge, by its control points.
#[must_use]
pub fn bulge(y1: usize, y2: usize) -> usize {
    16 + (y1.abs_diff(y2) / 5).min(40)
}

impl<'o, 'm> Layout<'o, 'm> {
    /// Lays out an outline.
    #[must_use]
    pub fn of(outline: &'o Outline<'m>) -> Self {
        let mut cards = Vec::with_capacity(outline.columns.len());
        let mounts = outline.columns.iter().map(|column| column.namespace.table.mounts.len()).sum();
        let mut place: Vec<At> = vec![(0, 0); mounts];
        let mut x = MARGIN;
        for (number, column) in outline.columns.iter().enumerate() {
            let one_type = column.one_type();
            let notes = column.notes(one_type);
            let lines = lines(&column.rows, x, number, &mut place, one_type.is_none());
            let needed = lines.iter().map(|line| needed(line, x)).max().unwrap_or(0);
            let noted = notes.iter().map(|note| text_width(note, NOTE)).max().unwrap_or(0);
            let heading = heading_width(&column.title).max(noted) + 2 * PAD;
            let mut card = Card {
                x,
                width: needed.max(heading).clamp(CARD.0, CARD.1),
                height: HEAD + lines.len() * LINE + 10,
                notes,
                lines,
            };
            for line in &mut card.lines {
                let end = needed_end(line);
                line.room = (x + card.width).saturating_sub(line.x + MARK - 4 + end) * 10 / 73;
            }
            x += card.width + GUTTER;
            cards.push(card);
        }
        let mut wires = wires(outline, &cards, &place);
        lead_around(&mut wires, &cards);
        let lowest = wires.iter().filter_map(|wire| wire.around).map(|lane| lane.y).max().unwrap_or(0);
        let lowest = cards.iter().map(|card| card.height + MARGIN).max().unwrap_or(HEAD).max(lowest);
        let width = x.saturating_sub(GUTTER) + MARGIN.max(loops(&wires, &cards));
        let room = width.saturating_sub(LEGEND.1 + MARGIN);
        let legend = Legend::of(cards.iter().flat_map(|card| &card.lines), &wires, outline.left_out, room);
        let size =
            (width.max(LEGEND.1 + legend.size.0 + MARGIN), lowest + LEGEND.0 + legend.size.1 + MARGIN - LEGEND.0 / 2);
        Self { size, wires, cards, legend, legend_at: (LEGEND.1, lowest + LEGEND.0) }
    }
}

/// How far the loops at the last card's right edge reach beyond it.
fn loops(wires: &[Wire], cards: &[Card<'_, '_>]) -> usize {
    let Some(last) = cards.len().checked_sub(1) else { return 0 };
    let y = |at: At| cards[last].lines.get(at.1).map_or(0, |line| line.y);
    let at_last = wires.iter().filter(|wire| wire.from.0 == last && wire.to.0 == last);
    // A cubic curve comes three quarters of the way to control points that lie beside each other.
    at_last.map(|wire| bulge(y(wire.from), y(wire.to)) * 3 / 4 + 8).max().unwrap_or(0)
}

/// What the end of a line takes: note, chips and padding.
fn needed_end(line: &Line<'_, '_>) -> usize {
    let note = width(&line.note);
    let note = if note > 0 { wide_small(note) + 10 } else { 0 };
    note + line.chips.iter().map(|(_, wide)| wide + 4).sum::<usize>() + PAD
}

fn needed(line: &Line<'_, '_>, x: usize) -> usize {
    line.x - x + MARK - 4 + wide(width(&line.row.label)) + 8 + needed_end(line)
}

/// The rows that are seen, and the line at which each mount is.
fn lines<'o, 'm>(rows: &'o [Row<'m>], x: usize, card: usize, place: &mut [At], with_types: bool) -> Vec<Line<'o, 'm>> {
    let mut lines: Vec<Line<'o, 'm>> = Vec::new();
    // The lines from the root to the last one.
    let mut way: Vec<usize> = Vec::new();
    let mut fold: Option<usize> = None;
    for row in rows {
        if fold.is_some_and(|depth| row.depth > depth) {
            if let (What::Mount(number, _), Some(last)) = (row.what, lines.last_mut()) {
                last.folded += 1;
                place[number] = (card, way.last().copied().unwrap_or(0));
            }
            continue;
        }
        let at = lines.len();
        let (note, chips) = match row.what {
            What::Mount(number, mount) => {
                place[number] = (card, at);
                let note = if with_types { fitted(&visible(&mount.fs_type), 14) } else { String::new() };
                (note, Chip::of(mount.propagation))
            }
            What::Fold(_) => (String::new(), Vec::new()),
        };
        fold = matches!(row.what, What::Fold(_)).then_some(row.depth);
        way.truncate(row.depth);
        lines.push(Line {
            row,
            parent: way.last().copied(),
            x: x + PAD + 5 + row.depth.min(DEEPEST) * INDENT,
            y: MARGIN + HEAD + at * LINE + LINE / 2,
            room: 0,
            folded: 0,
            note,
            chips: chips.into_iter().map(|chip| (chip, chip.width())).collect(),
        });
        way.push(at);
    }
    lines
}

/// The wires: peers are linked one to the next; a slave is linked with the member of its master that is nearest. What
/// is folded as another namespace's image has one wire from that one's root, whatever it stands for.
///
/// All peers of a group are equal (an event on one reaches all), so that a chain says as much as all pairs would.
fn wires(outline: &Outline<'_>, cards: &[Card<'_, '_>], place: &[At]) -> Vec<Wire> {
    let relation = |at: At| match cards.get(at.0)?.lines.get(at.1)?.row.what {
        What::Fold(Why::Mirror(_, relation)) => Some(relation),
        What::Fold(_) | What::Mount(..) => None,
    };
    let mut wires: Vec<Wire> = Vec::new();
    for (&number, group) in &outline.groups {
        let Some(colour) = group.colour else { continue };
        let at = |mounts: &[usize], but: Relation| -> Vec<At> {
            mounts.iter().map(|&mount| place[mount]).filter(|&at| relation(at) != Some(but)).collect()
        };
        let mut members = at(&group.members, Relation::Peers);
        members.sort_unstable();
        members.dedup();
        let wire = |from, to, to_slave| Wire { group: number, colour, from, to, to_slave, count: 1, around: None };
        wires.extend(members.windows(2).map(|pair| wire(pair[0], pair[1], false)));
        for to in at(&group.slaves, Relation::Slaves) {
            let next = members.partition_point(|&member| member <= to);
            let around = [next.checked_sub(1), Some(next)];
            let near = around.iter().flatten().filter_map(|&n| members.get(n).copied());
            if let Some(from) = near.min_by_key(|from| from.0.abs_diff(to.0)).filter(|&from| from != to) {
                wires.push(wire(from, to, true));
            }
        }
    }
    // One wire for many between the same two lines: folded ones, mostly.
    wires.sort_by_key(|wire| (wire.from, wire.to, wire.to_slave, wire.group));
    wires.dedup_by(|next, kept| {
        let same = (next.from, next.to, next.to_slave) == (kept.from, kept.to, kept.to_slave);
        if same {
            kept.count += next.count;
        }
        same
    });
    for (number, card) in cards.iter().enumerate() {
        for (at, line) in card.lines.iter().enumerate() {
            if let What::Fold(Why::Mirror(of, relation @ (Relation::Peers | Relation::Slaves))) = line.row.what {
                let to_slave = relation == Relation::Slaves;
                wires.push(Wire {
                    group: 0,
                    colour: 0,
                    from: (of, 0),
                    to: (number, at),
                    to_slave,
                    count: line.folded.max(2),
                    around: None,
                });
            }
        }
    }
    wires
}

/// Leads the wires between cards that don't stand side by side around those between: a line that vanished behind a card
/// and came out again would seem to begin there.
fn lead_around(wires: &mut [Wire], cards: &[Card<'_, '_>]) {
    // Per line and group: how far it reaches, and how deep it must go.
    let mut buses: BTreeMap<(At, u64, bool), (usize, usize, usize)> = BTreeMap::new();
    let key = |wire: &Wire| (wire.from, wire.group, wire.from.0 < wire.to.0);
    let y = |at: At| cards.get(at.0).and_then(|card| card.lines.get(at.1)).map_or(0, |line| line.y);
    for wire in wires.iter().filter(|wire| wire.from.0.abs_diff(wire.to.0) > 1) {
        let (left, right) = (wire.from.0.min(wire.to.0), wire.from.0.max(wire.to.0));
        let between = cards.iter().take(right).skip(left + 1).map(|card| MARGIN + card.height + 10).max();
        let depth = between.unwrap_or(0).max(y(wire.from) + 2 * CORNER).max(y(wire.to) + 2 * CORNER);
        let bus = buses.entry(key(wire)).or_insert((left, right, depth));
        *bus = (bus.0.min(left), bus.1.max(right), bus.2.max(depth));
    }
    // To each the first number that is free between its ends.
    let mut taken: Vec<Vec<(usize, usize)>> = Vec::new();
    let mut lanes = BTreeMap::new();
    for (key, (left, right, depth)) in buses {
        let free = |lane: &Vec<(usize, usize)>| lane.iter().all(|&(l, r)| r <= left || right <= l);
        let number = taken.iter().position(free).unwrap_or(taken.len());
        if number == taken.len() {
            taken.push(Vec::new());
        }
        taken[number].push((left, right));
        lanes.insert(key, Lane { y: depth + number * 6, number });
    }
    for wire in wires.iter_mut().filter(|wire| wire.from.0.abs_diff(wire.to.0) > 1) {
        wire.around = lanes.get(&key(wire)).copied();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::machine;

    fn links(outline: &Outline<'_>) -> Vec<(At, At, bool, usize)> {
        Layout::of(outline).wires.iter().map(|wire| (wire.from, wire.to, wire.to_slave, wire.count)).collect()
    }

    #[test]
    fn peers_are_chained_and_slaves_hang_on_the_nearest() {
        let machine = machine(&[
            "1 0 0:1 / / rw shared:1 - t t rw\n2 1 0:1 / /a rw shared:1 - t t rw\n",
            "3 0 0:1 / / rw shared:1 - t t rw\n",
            "4 0 0:1 / / rw master:1 - t t rw\n",
        ]);
        let outline = Outline::of(&machine, false);
        let expected = [((0, 0), (0, 1), false, 1), ((0, 1), (1, 0), false, 1), ((1, 0), (2, 0), true, 1)];
        assert_eq!(links(&outline), expected);
    }

    #[test]
    fn what_is_folded_shares_a_wire() {
        let table = |base: u64, link: &str| {
            let mut text = format!("{base} 0 0:1 / / rw - t t rw\n");
            for n in 1..=4 {
                text += &format!("{} {base} 0:{n} / /{n} rw {link}:{n} - t t rw\n", base + n);
            }
            text
        };
        let machine = machine(&[&table(10, "shared"), &table(20, "master")]);
        assert_eq!(links(&Outline::of(&machine, false)), [((0, 0), (1, 1), true, 4)]);
        assert_eq!(links(&Outline::of(&machine, true)).len(), 4);
    }

    #[test]
    fn wires_go_around_the_cards_between_and_share_their_way() {
        let one = "0 0:1 / / rw shared:1 - t t rw\n";
        let slave = "0 0:1 / / rw master:1 - t t rw\n";
        let tall: String = (30..40).map(|n| format!("{n} 3 0:{n} / /{n} rw - t{n} t rw\n")).collect();
        let tables = [
            format!("1 {one}"),
            format!("2 {slave}"),
            format!("3 0 0:1 / / rw - t t rw\n{tall}"),
            format!("4 {slave}"),
            format!("5 {slave}"),
        ];
        let machine = machine(&tables.each_ref().map(String::as_str));
        let outline = Outline::of(&machine, false);
        let layout = Layout::of(&outline);
        let around: Vec<Option<Lane>> = layout.wires.iter().map(|wire| wire.around).collect();
        let deep = layout.cards[2].height + MARGIN + 10;
        assert_eq!(around, [None, Some(Lane { y: deep, number: 0 }), Some(Lane { y: deep, number: 0 })]);
        assert!(layout.legend_at.1 > deep);
    }

    #[test]
    fn lines_lie_in_their_card_and_cards_beside_each_other() {
        let long = format!(
            "1 0 0:1 / / rw shared:123456789 master:12345678 - t t rw\n2 1 0:1 / /{} rw - fuse.very-long-type t rw\n",
            "x".repeat(300)
        );
        let machine = machine(&[&long, "", &long]);
        let outline = Outline::of(&machine, false);
        let layout = Layout::of(&outline);
        for pair in layout.cards.windows(2) {
            assert!(pair[0].x + pair[0].width + 40 < pair[1].x);
        }
        let last = layout.cards.last().unwrap();
        assert!(last.x + last.width + MARGIN <= layout.size.0);
        for card in &layout.cards {
            assert!(card.width <= CARD.1);
            assert!(card.lines.iter().all(|line| line.y < MARGIN + card.height && line.room >= 10));
        }
    }
}
