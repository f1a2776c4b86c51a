//! The positions of everything that is drawn, in whole pixels: cards, lines and the wires between them.
//!
//! Nothing here can measure a font, so text widths are those of common monospaced fonts. For SVG and dot; the HTML page has a
//! layout of its own.

pub mod wires;

use mounts::propagation::PropagationState;
use text::{visible, width};
use wires::{At, Wire, lead_around, loops};

use crate::picture::legend::Legend;
use crate::picture::outline::{Outline, Row, What};
use crate::picture::text::{fitted, heading_width, text_width};

/// Height of a line.
pub const LINE: usize = 22;
/// Height of a card's heading.
pub const HEAD: usize = 64;
/// The horizontal padding of a card.
pub const PAD: usize = 12;
/// The indentation of a child below its parent.
pub const INDENT: usize = 14;
/// The distance between a line's mark and its label.
pub const MARK: usize = 16;
/// The margin around the drawing.
pub const MARGIN: usize = 24;
/// The gap between two cards, where the wires are.
const GUTTER: usize = 68;
/// The distance of the legend from the lowest card, and from the left edge.
const LEGEND: (usize, usize) = (16, MARGIN + 6);
/// Size of the text under a card's title.
pub const NOTE: usize = 11;
/// The radius of a wire's corner.
pub const CORNER: usize = 7;
/// The greatest depth that is indented.
const DEEPEST: usize = 10;
const CARD: (usize, usize) = (200, 430);

/// A drawing of an outline.
#[derive(Debug)]
pub struct Layout<'o, 'm> {
    /// Width and height of all of it.
    pub size: (usize, usize),
    /// A card for each column.
    pub cards: Vec<Card<'o, 'm>>,
    /// The wires between lines.
    pub wires: Vec<Wire>,
    /// The legend.
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
    /// The text under its title.
    pub notes: [String; 2],
    /// The visible rows.
    pub lines: Vec<Line<'o, 'm>>,
}

/// A row that is drawn.
#[derive(Debug)]
pub struct Line<'o, 'm> {
    /// The row.
    pub row: &'o Row<'m>,
    /// Its parent's line.
    pub parent: Option<usize>,
    /// The centre of its mark.
    pub x: usize,
    /// Its vertical centre.
    pub y: usize,
    /// How many columns wide its label may be.
    pub room: usize,
    /// How many mounts are folded into it; 0 for a mount.
    pub folded: usize,
    /// The text before the chips: the file system's type, unless it is the same for the whole card.
    pub note: String,
    /// The chips at its end, each with its width.
    pub chips: Vec<(Chip, usize)>,
}

/// A small label at the end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chip {
    /// The peer group that the mount is in.
    Peers(u64),
    /// The peer group that it receives from.
    Master(u64),
    /// The mount is unbindable.
    Unbindable,
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
        let mut wires = wires::of(outline, &cards, &place);
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

/// The width of a line's end: note, chips and padding.
fn needed_end(line: &Line<'_, '_>) -> usize {
    let note = width(&line.note);
    let note = if note > 0 { wide_small(note) + 10 } else { 0 };
    note + line.chips.iter().map(|(_, wide)| wide + 4).sum::<usize>() + PAD
}

fn needed(line: &Line<'_, '_>, x: usize) -> usize {
    line.x - x + MARK - 4 + wide(width(&line.row.label)) + 8 + needed_end(line)
}

/// The visible rows as lines. Fills in `place` with the line of each mount.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::machine;

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
