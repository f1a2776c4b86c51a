//! Leaves out of a namespace's tree what another namespace has too. A hundred containers and services differ from the node by a
//! few mounts each, and those are of interest. Pure.

use std::collections::HashMap;
use std::path::Path;

use mounts::mountinfo::{Mount, Table};
use text::plural;

/// The fewest mounts that are folded.
const WORTH_IT: usize = 3;

/// Which mounts of a table are the same in another one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fold {
    /// Which mounts are folded, in the order of the table.
    pub folded: Vec<bool>,
    /// How many of those are peers of their counterparts.
    pub peers: usize,
    /// How many are slaves of them.
    pub slaves: usize,
    /// How many have a counterpart that passes nothing to them.
    pub apart: usize,
    /// How many mounts of the other table have no counterpart.
    pub missing: usize,
}

/// Compares a table with that of another namespace. A mount is the same if the same directory of the same file system is
/// mounted at the same mount point with the same options.
#[must_use]
pub fn fold(base: &Table, table: &Table) -> Fold {
    type Key<'t> = (&'t Path, (u32, u32), &'t Path, &'t str);
    fn key(mount: &Mount) -> Key<'_> {
        (&mount.mount_point, mount.device, &mount.root, &mount.options)
    }
    let mut counterparts: HashMap<Key<'_>, Vec<&Mount>> = HashMap::with_capacity(base.mounts.len());
    for mount in base.mounts.iter().rev() {
        counterparts.entry(key(mount)).or_default().push(mount);
    }
    let mut fold = Fold { missing: base.mounts.len(), ..Fold::default() };
    for mount in &table.mounts {
        // Each counterpart is one mount's: the same may be mounted twice at one place.
        let counterpart = counterparts.get_mut(&key(mount)).and_then(Vec::pop);
        fold.folded.push(counterpart.is_some());
        let Some(counterpart) = counterpart else { continue };
        fold.missing -= 1;
        let group = counterpart.propagation.peer_group;
        if group.is_some() && group == mount.propagation.peer_group {
            fold.peers += 1;
        } else if group.is_some() && group == mount.propagation.master {
            fold.slaves += 1;
        } else {
            fold.apart += 1;
        }
    }
    fold
}

impl Fold {
    /// Whether there is enough to fold.
    #[must_use]
    pub fn is_worth_it(&self) -> bool {
        self.peers + self.slaves + self.apart >= WORTH_IT
    }

    /// What was folded, in words; `label` is the other namespace's.
    #[must_use]
    pub fn note(&self, label: &str) -> String {
        let count = self.peers + self.slaves + self.apart;
        let parts: Vec<String> =
            [(self.peers, "peers of those"), (self.slaves, "slaves of those"), (self.apart, "apart")]
                .into_iter()
                .filter(|(n, _)| *n > 0)
                .map(|(n, what)| if n == count { format!("all {what}") } else { format!("{n} {what}") })
                .collect();
        // A container that shares a few mounts isn't a node that lacks the others.
        let missing = if self.missing > 0 && self.missing <= count {
            format!("; {} of there not here", plural(self.missing, "mount"))
        } else {
            String::new()
        };
        format!("{} as in {label} ({}){missing}", plural(count, "mount"), parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mounts::mountinfo;

    #[test]
    fn what_is_the_same_is_counted_by_how_it_hangs_together() {
        let parse = |text: &str| mountinfo::parse(text.as_bytes());
        let base = parse(
            "1 0 8:1 / / rw shared:1 - t t rw\n2 1 0:2 / /a rw shared:2 - t t rw\n3 1 0:3 / /b rw - t t rw\n\
             4 1 0:4 / /c rw shared:4 - t t rw\n5 1 0:5 / /d rw shared:5 - t t rw\n",
        );
        let other = parse(
            "11 0 8:1 / / rw shared:1 - t t rw\n12 11 0:2 / /a rw master:2 - t t rw\n13 11 0:3 / /b rw - t t rw\n\
             14 11 0:4 / /c ro master:4 - t t rw\n16 11 0:6 / /tmp rw - t t rw\n17 11 0:3 / /b rw - t t rw\n",
        );
        let fold = fold(&base, &other);
        assert_eq!(fold.folded, [true, true, true, false, false, false], "read-only, another, mounted twice");
        assert_eq!((fold.peers, fold.slaves, fold.apart, fold.missing), (1, 1, 1, 2));
        assert!(fold.is_worth_it());
        let note = fold.note("node");
        assert_eq!(
            note,
            "3 mounts as in node (1 peers of those, 1 slaves of those, 1 apart); 2 mounts of there not here"
        );
        let same = super::fold(&base, &base);
        assert_eq!(same.note("node"), "5 mounts as in node (4 peers of those, 1 apart)");
    }
}
