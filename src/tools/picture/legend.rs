//! The legend: the signs that are in a drawing, in as many lines as its width needs.

use text::plural;

use crate::picture::layout::wires::Wire;
use crate::picture::layout::{LINE, Line};
use crate::picture::outline::What;
use crate::picture::text::text_width;

/// Size of the legend's text.
const SIZE: usize = 11;
/// From the left edge of a sign to its text.
const SIGN: usize = 16;
/// How much wider the sign of two is.
const SECOND: usize = 9;
/// Between one entry and the next.
const GAP: usize = 18;

/// The signs before a line's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// A member of a peer group.
    Shared,
    /// Receives from a peer group.
    Slave,
    /// Both.
    SharedSlave,
    /// Neither.
    Private,
    /// Neither, and can't be bound.
    Unbindable,
    /// A fold.
    Folded,
}

impl Sign {
    /// That of a line.
    #[must_use]
    pub const fn of(what: What<'_>) -> Self {
        let What::Mount(_, mount) = what else { return Self::Folded };
        let state = mount.propagation;
        match (state.peer_group, state.master) {
            (Some(_), None) => Self::Shared,
            (None, Some(_)) => Self::Slave,
            (Some(_), Some(_)) => Self::SharedSlave,
            (None, None) if state.unbindable => Self::Unbindable,
            (None, None) => Self::Private,
        }
    }

    /// From its left edge to its text, and to the middle of its last mark.
    #[must_use]
    pub const fn widths(self) -> (usize, usize) {
        let more = if matches!(self, Self::SharedSlave) { SECOND } else { 0 };
        (SIGN + more, 5 + more)
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Shared => "shared, with its peer group",
            Self::Slave => "slave, with its master",
            Self::SharedSlave => "shared and slave",
            Self::Private => "private",
            Self::Unbindable => "unbindable",
            Self::Folded => "folded",
        }
    }
}

/// An entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its sign; none before a sentence.
    pub sign: Option<Sign>,
    /// Its text.
    pub text: String,
    /// Its left edge and its middle, from the legend's corner.
    pub at: (usize, usize),
}

/// A legend.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Legend {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Width and height of all of it.
    pub size: (usize, usize),
}

impl Legend {
    /// The legend for lines and wires; `left_out` things could not be read. It is as wide as its longest entry, or at most
    /// `width`.
    #[must_use]
    pub fn of<'l, 'm: 'l>(
        lines: impl Iterator<Item = &'l Line<'l, 'm>>,
        wires: &[Wire],
        left_out: usize,
        width: usize,
    ) -> Self {
        let mut signs: Vec<Sign> = lines.map(|line| Sign::of(line.row.what)).collect();
        signs.sort_unstable();
        signs.dedup();
        let mut sentences: Vec<String> = Vec::new();
        if wires.iter().any(|wire| !wire.to_slave) {
            sentences.push("Lines: an event on one reaches the others.".to_owned());
        }
        if wires.iter().any(|wire| wire.to_slave) {
            sentences.push("Arrows: events pass this way only.".to_owned());
        }
        if left_out > 0 {
            sentences.push(format!("{} could not be read.", plural(left_out, "thing")));
        }
        let signs: Vec<_> = signs.into_iter().map(|sign| (Some(sign), sign.meaning().to_owned())).collect();
        let sentences: Vec<_> = sentences.into_iter().map(|sentence| (None, sentence)).collect();
        let mut legend = Self::default();
        let (mut x, mut y) = (0, 0);
        for entries in [signs, sentences] {
            for (sign, text) in entries {
                let wide = text_width(&text, SIZE) + sign.map_or(0, |sign| sign.widths().0);
                if x == 0 || x + wide > width {
                    (x, y) = (0, y + LINE);
                }
                legend.entries.push(Entry { sign, text, at: (x, y - LINE / 2) });
                legend.size = (legend.size.0.max(x + wide), y);
                x += wide + GAP;
            }
            x = 0;
        }
        legend
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::layout::Layout;
    use crate::picture::outline::Outline;
    use crate::picture::tests::machine;

    fn legend(tables: &[&str], width: usize) -> Legend {
        let machine = machine(tables);
        let outline = Outline::of(&machine, false);
        let layout = Layout::of(&outline);
        Legend::of(layout.cards.iter().flat_map(|card| &card.lines), &layout.wires, 2, width)
    }

    #[test]
    fn only_what_is_drawn_is_explained() {
        let texts = |tables: &[&str]| -> Vec<String> {
            legend(tables, 900).entries.into_iter().map(|entry| entry.text).collect()
        };
        assert_eq!(texts(&["1 0 0:1 / / rw - t t rw\n"]), ["private", "2 things could not be read."]);
        let linked = texts(&["1 0 0:1 / / rw shared:1 - t t rw\n", "2 0 0:1 / / rw master:1 - t t rw\n"]);
        assert_eq!(
            linked,
            [
                "shared, with its peer group",
                "slave, with its master",
                "Arrows: events pass this way only.",
                "2 things could not be read."
            ]
        );
    }

    #[test]
    fn it_takes_as_many_lines_as_it_needs() {
        let tables =
            ["1 0 0:1 / / rw shared:1 - t t rw\n2 1 0:2 / /a rw - t t rw\n3 1 0:2 / /b rw unbindable - t t rw\n"];
        assert_eq!(legend(&tables, 900).size.1, 2 * LINE, "the sentences begin a line");
        for width in [0, 200, 280, 400, 900] {
            let legend = legend(&tables, width);
            let widest = legend.entries.iter().map(|entry| text_width(&entry.text, SIZE) + SIGN).max().unwrap();
            assert!(legend.size.0 <= width.max(widest), "{width}: {legend:?}");
            assert!(legend.entries.iter().all(|entry| entry.at.1 < legend.size.1));
        }
        assert_eq!(legend(&tables, 0).size.1, 4 * LINE);
    }
}
