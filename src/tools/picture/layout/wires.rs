//! The wires of a drawing: the lines that they link, and their paths around the cards in between.

use std::collections::BTreeMap;

use super::{CORNER, Card, MARGIN};
use crate::picture::outline::{Outline, Relation, What, Why};

/// A line, as the index of its card and its index in it.
pub type At = (usize, usize);

/// A wire between two lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// The peer group, if the wire is for a single one.
    pub group: u64,
    /// Its colour.
    pub colour: usize,
    /// Where it starts: at the master, if it leads to a slave.
    pub from: At,
    /// Where it ends.
    pub to: At,
    /// Whether it leads from a peer group to a slave. Else it links peers.
    pub to_slave: bool,
    /// How many links it stands for.
    pub count: usize,
    /// The lane around the cards between its ends, if there are any.
    pub around: Option<Lane>,
}

/// A path beneath cards. Wires from the same line for the same group share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// Its vertical position.
    pub y: usize,
    /// Its number among parallel lanes.
    pub number: usize,
}

/// The distance of the control points of a wire between two lines of one card, from the card's right edge.
#[must_use]
pub fn bulge(y1: usize, y2: usize) -> usize {
    16 + (y1.abs_diff(y2) / 5).min(40)
}

/// How far the loops at the last card extend beyond its right edge.
pub(super) fn loops(wires: &[Wire], cards: &[Card<'_, '_>]) -> usize {
    let Some(last) = cards.len().checked_sub(1) else { return 0 };
    let y = |at: At| cards[last].lines.get(at.1).map_or(0, |line| line.y);
    let at_last = wires.iter().filter(|wire| wire.from.0 == last && wire.to.0 == last);
    // A cubic curve comes three quarters of the way to control points that lie beside each other.
    at_last.map(|wire| bulge(y(wire.from), y(wire.to)) * 3 / 4 + 8).max().unwrap_or(0)
}

/// The wires. Peers are linked in a chain: an event on one reaches all, so a wire for each pair would tell no more. A slave is
/// linked to the nearest member of its master group. Mounts that are folded as copies of another namespace have one wire from
/// that namespace's root.
pub(super) fn of(outline: &Outline<'_>, cards: &[Card<'_, '_>], place: &[At]) -> Vec<Wire> {
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

/// Routes wires between cards that are not adjacent around the cards in between. A wire that passed behind a card would seem to
/// begin there.
pub(super) fn lead_around(wires: &mut [Wire], cards: &[Card<'_, '_>]) {
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
    use super::super::Layout;
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
}
