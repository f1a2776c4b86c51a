//! The propagation type of each mount, for its whole subtree. Pure.
//!
//! The kernel has no recursive propagation type, so tools that show single mounts can't tell shared from rshared. Here a mount is
//! `rshared` if it and every mount beneath it is shared. If some are not, it is `shared`, and the differences are listed. So the
//! plain word means that the subtree is mixed; a mount without others beneath it has the recursive word. Time is linear in the
//! size of the table.

use mounts::mountinfo::Table;
use mounts::propagation::PropagationState;

use crate::mount_tree::Row;

/// The propagation type of one mount (sharedsubtree.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PropagationType {
    /// Passes nothing on and receives nothing.
    Private,
    /// Private, and can't be bound.
    Unbindable,
    /// Receives from its master, passes nothing back.
    Slave,
    /// Passes on to its peers and receives theirs.
    Shared,
    /// Receives from its master and passes on to its peers.
    SharedAndSlave,
}

impl PropagationType {
    /// All five, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Private, Self::Unbindable, Self::Slave, Self::Shared, Self::SharedAndSlave];

    /// The kind of a mount.
    #[must_use]
    pub const fn of(state: &PropagationState) -> Self {
        match (state.is_shared(), state.is_slave(), state.unbindable) {
            (true, true, _) => Self::SharedAndSlave,
            (true, false, _) => Self::Shared,
            (false, true, _) => Self::Slave,
            (false, false, true) => Self::Unbindable,
            (false, false, false) => Self::Private,
        }
    }

    /// The word of mount(8); "shared and slave" for both at once.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Unbindable => "unbindable",
            Self::Slave => "slave",
            Self::Shared => "shared",
            Self::SharedAndSlave => "shared and slave",
        }
    }

    /// Whether a mount of this type, beneath one of the type `top`, has the same type. A mount that is both shared and slave
    /// counts as shared, not as slave.
    #[must_use]
    pub const fn agrees_with(self, top: Self) -> bool {
        self as usize == top as usize || matches!((top, self), (Self::Shared, Self::SharedAndSlave))
    }
}

/// The propagation of a mount and of the mounts beneath it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubtreePropagation {
    /// The mount itself.
    pub kind: PropagationType,
    /// How many mounts lie beneath it.
    pub beneath: usize,
    /// How many of those are of each kind, in the order of [`PropagationType::ALL`].
    pub counts: [usize; 5],
    /// The first of those with another type, by its index in the table; none if there is none.
    pub first_different: Option<usize>,
    /// For a mount that is shared and slave: whether everything beneath is at least shared.
    shared_throughout: bool,
}

impl SubtreePropagation {
    /// The word of mount(8): the recursive one if the whole subtree has this type.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        let recursive = self.first_different.is_none();
        match (self.kind, recursive) {
            (PropagationType::Private, true) => "rprivate",
            (PropagationType::Unbindable, true) => "runbindable",
            (PropagationType::Slave, true) => "rslave",
            (PropagationType::Shared, true) => "rshared",
            (PropagationType::SharedAndSlave, true) => "rshared and rslave",
            (PropagationType::SharedAndSlave, false) if self.shared_throughout => "rshared and slave",
            (kind, false) => kind.name(),
        }
    }

    /// Whether something beneath differs.
    #[must_use]
    pub const fn is_mixed(&self) -> bool {
        self.first_different.is_some()
    }

    /// What differs beneath, such as `1 private, 2 slave of 31`; empty if nothing does.
    #[must_use]
    pub fn note(&self) -> String {
        if !self.is_mixed() {
            return String::new();
        }
        let differing =
            PropagationType::ALL.iter().zip(self.counts).filter(|(kind, n)| *n > 0 && !kind.agrees_with(self.kind));
        let parts: Vec<String> = differing.map(|(kind, n)| format!("{n} {}", kind.name())).collect();
        format!("{} of {}", parts.join(", "), self.beneath)
    }
}

/// The propagation of each mount of a table, in the order of the table. `rows` must be of the same table.
#[must_use]
pub fn tell(table: &Table, rows: &[Row]) -> Vec<SubtreePropagation> {
    let kinds: Vec<PropagationType> =
        rows.iter().map(|row| PropagationType::of(&table.mounts[row.mount].propagation)).collect();
    // How many of each kind there are up to each row.
    let mut sums = Vec::with_capacity(rows.len() + 1);
    let mut sum = [0_usize; 5];
    sums.push(sum);
    for kind in &kinds {
        sum[*kind as usize] += 1;
        sums.push(sum);
    }
    // The next row that doesn't agree with each kind, seen from behind.
    let mut next = [usize::MAX; 5];
    let mut told = vec![None; table.mounts.len()];
    for (at, row) in rows.iter().enumerate().rev() {
        let kind = kinds[at];
        let different = next[kind as usize];
        let counts = std::array::from_fn(|kind| sums[row.end][kind] - sums[at + 1][kind]);
        told[row.mount] = Some(SubtreePropagation {
            kind,
            beneath: row.end - at - 1,
            counts,
            first_different: (different < row.end).then(|| rows[different].mount),
            shared_throughout: next[PropagationType::Shared as usize] >= row.end,
        });
        for top in PropagationType::ALL {
            if !kind.agrees_with(top) {
                next[top as usize] = at;
            }
        }
    }
    told.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mount_tree::rows;
    use mounts::mountinfo;

    fn table(lines: &[(u64, u64, &str, &str)]) -> Table {
        let text: String = lines
            .iter()
            .map(|(id, parent, at, fields)| format!("{id} {parent} 0:{id} / {at} rw {fields} - t t rw\n"))
            .collect();
        let table = mountinfo::parse(text.replace("  ", " ").as_bytes());
        assert_eq!(table.skipped, 0);
        table
    }

    fn words(table: &Table) -> Vec<(&str, String)> {
        let rows = rows(table);
        tell(table, &rows).iter().map(|told| (told.word(), told.note())).collect()
    }

    #[test]
    fn rshared_is_said_of_a_wholly_shared_subtree_only() {
        let all = table(&[(1, 0, "/", "shared:1"), (2, 1, "/a", "shared:2"), (3, 2, "/a/b", "shared:3 master:1")]);
        assert_eq!(words(&all)[0], ("rshared", String::new()));
        assert_eq!(words(&all)[2], ("rshared and rslave", String::new()), "what has nothing beneath is recursive");
        let mixed = table(&[
            (1, 0, "/", "shared:1"),
            (2, 1, "/a", "shared:2"),
            (3, 2, "/a/b", ""),
            (4, 1, "/c", "master:9"),
            (5, 4, "/c/d", "master:9"),
        ]);
        assert_eq!(
            words(&mixed),
            [
                ("shared", "1 private, 2 slave of 4".to_owned()),
                ("shared", "1 private of 1".to_owned()),
                ("rprivate", String::new()),
                ("rslave", String::new()),
                ("rslave", String::new()),
            ]
        );
    }

    #[test]
    fn every_type_has_its_name() {
        let both = |beneath: &str| {
            let table = table(&[(1, 0, "/", "shared:1 master:2"), (2, 1, "/a", beneath)]);
            words(&table)[0].0.to_owned()
        };
        assert_eq!(both("shared:3 master:4"), "rshared and rslave");
        assert_eq!(both("shared:3"), "rshared and slave");
        assert_eq!(both("master:4"), "shared and slave");
        assert_eq!(both(""), "shared and slave");
        let under = |top: &str, beneath: &str| {
            let table = table(&[(1, 0, "/", top), (2, 1, "/a", beneath)]);
            words(&table)[0].0.to_owned()
        };
        assert_eq!(under("unbindable", "unbindable"), "runbindable");
        assert_eq!(under("unbindable", ""), "unbindable");
        assert_eq!(under("", "unbindable"), "private");
        assert_eq!(under("", ""), "rprivate");
        assert_eq!(under("master:1", "shared:3 master:1"), "slave", "it passes on what a mere slave would not");
    }

    #[test]
    fn a_long_chain_takes_no_longer_than_a_flat_table() {
        const COUNT: u64 = 200_000;
        let text: String = (1..=COUNT)
            .map(|id| {
                let field = if id == COUNT { "" } else { "shared:1 " };
                format!("{id} {} 0:1 / /a rw {field}- t t rw\n", id - 1)
            })
            .collect();
        let table = mountinfo::parse(text.as_bytes());
        let begun = std::time::Instant::now();
        let told = tell(&table, &rows(&table));
        assert_eq!((told[0].word(), told[0].note()), ("shared", format!("1 private of {}", COUNT - 1)));
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    /// A table of random parents and kinds.
    fn any_table() -> impl Strategy<Value = Table> {
        proptest::collection::vec((0..12_u64, 0..5_usize), 0..24).prop_map(|mounts| {
            let fields = ["", "unbindable", "master:1", "shared:1", "shared:1 master:2"];
            let lines: Vec<(u64, u64, String, &str)> = (1..)
                .zip(mounts)
                .map(|(id, (parent, kind))| (id, parent, format!("/{}", id % 5), fields[kind]))
                .collect();
            table(&lines.iter().map(|(id, parent, at, f)| (*id, *parent, at.as_str(), *f)).collect::<Vec<_>>())
        })
    }

    proptest! {
        /// Against the definition, asked of every mount beneath.
        #[test]
        fn it_is_what_the_definition_says(table in any_table()) {
            let rows = rows(&table);
            prop_assert_eq!(rows.len(), table.mounts.len());
            let told = tell(&table, &rows);
            for (at, row) in rows.iter().enumerate() {
                let of = |row: &Row| PropagationType::of(&table.mounts[row.mount].propagation);
                let beneath: Vec<PropagationType> = rows[at + 1..].iter().take_while(|r| r.depth > row.depth).map(of).collect();
                let told = told[row.mount];
                prop_assert_eq!(told.beneath, beneath.len());
                let top = told.kind;
                let is = |kind: &PropagationType| *kind == top || top == PropagationType::Shared && *kind == PropagationType::SharedAndSlave;
                let recursive = beneath.iter().all(is);
                let all_shared = beneath.iter().all(|kind| matches!(kind, PropagationType::Shared | PropagationType::SharedAndSlave));
                let word = match (top, recursive) {
                    (PropagationType::SharedAndSlave, true) => "rshared and rslave".to_owned(),
                    (PropagationType::SharedAndSlave, false) if all_shared => "rshared and slave".to_owned(),
                    (_, true) => format!("r{}", top.name()),
                    (_, false) => top.name().to_owned(),
                };
                prop_assert_eq!(told.word(), word);
                prop_assert_eq!(told.is_mixed(), !recursive);
                prop_assert_eq!(told.counts.iter().sum::<usize>(), beneath.len());
            }
        }
    }
}
