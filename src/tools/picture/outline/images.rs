//! Finds subtrees that an earlier namespace has too, with the same relation for each mount.
//!
//! Equal subtrees get the same number, which is made of the root's properties and the children's numbers. So two subtrees are
//! compared by their numbers, and the whole machine in one pass.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::tree::Tree;
use super::{Group, Relation};

/// The properties of a subtree: mount point, device, root directory, one group number, and its children's numbers.
type Look<'m> = (&'m Path, (u32, u32), &'m Path, Option<u64>, Vec<usize>);

/// A subtree that is equal to one of an earlier namespace.
#[derive(Clone, Copy)]
pub(super) struct Image {
    /// Which namespace.
    pub(super) of: usize,
    /// How each of its mounts is linked with its image.
    pub(super) relation: Relation,
    /// How many mounts it has.
    pub(super) size: usize,
}

/// The subtrees of the namespaces so far, each look with a number.
#[derive(Default)]
pub(super) struct Images<'m> {
    looks: HashMap<Look<'m>, usize>,
    /// The first namespace that has a subtree with this look, by peer groups.
    own: HashMap<usize, usize>,
    /// The same without regard to propagation.
    bare: HashMap<usize, usize>,
}

impl<'m> Images<'m> {
    fn number(&mut self, look: Look<'m>) -> usize {
        let next = self.looks.len();
        *self.looks.entry(look).or_insert(next)
    }

    /// Compares each subtree of a namespace with those before it; gives which one it is the image of, for each mount.
    pub(super) fn enter(
        &mut self,
        namespace: usize,
        tree: &Tree<'m>,
        groups: &BTreeMap<u64, Group>,
    ) -> Vec<Option<Image>> {
        #[derive(Clone, Default)]
        struct Subtree {
            own: usize,
            master: usize,
            bare: usize,
            /// Mounts in the subtree.
            size: usize,
            any_peers: bool,
            any_master: bool,
        }
        let mut seen = vec![Subtree::default(); tree.mounts.len()];
        for &n in tree.order.iter().rev() {
            let mount = &tree.mounts[n];
            let (group, master) = (mount.propagation.peer_group, mount.propagation.master);
            let children = &tree.children[n];
            let mut look = |tag, of: fn(&Subtree) -> usize| {
                let beneath = children.iter().map(|&child| of(&seen[child])).collect();
                self.number((&mount.mount_point, mount.device, &mount.root, tag, beneath))
            };
            let (own, from, bare) = (look(group, |s| s.own), look(master, |s| s.master), look(None, |s| s.bare));
            let alone = |group| groups.get(&group).is_none_or(|group: &Group| group.colour.is_none());
            seen[n] = Subtree {
                own,
                master: from,
                bare,
                size: 1 + children.iter().map(|&child| seen[child].size).sum::<usize>(),
                any_peers: group.is_some_and(|g| !alone(g)) || children.iter().any(|&child| seen[child].any_peers),
                any_master: master.is_some() || children.iter().any(|&child| seen[child].any_master),
            };
        }
        let found = seen
            .iter()
            .map(|s| {
                let linked = s.any_peers || s.any_master;
                let peers =
                    self.own.get(&s.own).filter(|_| s.any_peers && !s.any_master).map(|&of| (of, Relation::Peers));
                let slaves = self.own.get(&s.master).filter(|_| s.any_master).map(|&of| (of, Relation::Slaves));
                let copies = self.bare.get(&s.bare).filter(|_| !linked).map(|&of| (of, Relation::Copies));
                let (of, relation) = peers.or(slaves).or(copies)?;
                Some(Image { of, relation, size: s.size })
            })
            .collect();
        for s in &seen {
            self.own.entry(s.own).or_insert(namespace);
            self.bare.entry(s.bare).or_insert(namespace);
        }
        found
    }
}
