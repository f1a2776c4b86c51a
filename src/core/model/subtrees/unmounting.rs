//! Predicts what an unmount removes, and where.

use std::collections::HashSet;
use std::path::Path;

use super::operation::{Operation, Stop};
use super::walk::ResolvedPath;
use super::{Doubt, Forest, Receiver, Showing};

/// The effect of an unmount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmounting {
    /// The mount that is unmounted, by its id in mountinfo.
    pub mount: u64,
    /// The mount that it lies on. The event happens there.
    pub under: u64,
    /// Every mount that is removed, including this one.
    pub gone: HashSet<u64>,
    /// The receivers of the event, as for a mount made there.
    pub receivers: Vec<Receiver>,
    /// Every path that shows the directory which the mount lies on.
    pub showing: Vec<Showing>,
}

impl Forest {
    /// What unmounting (`umount --lazy`) the topmost mount at a path would remove.
    ///
    /// # Errors
    /// [`Stop::Refused`] with EINVAL: nothing is mounted there, or the mount is locked. [`Stop::Unknown`].
    pub fn unmounting(&self, namespace: usize, path: &Path) -> Result<Unmounting, Stop> {
        let number = self.mount_point(namespace, path)?;
        let mount = self.mount(number);
        let Some((parent, point)) = mount.parent else { return Err(Doubt::Root(mount.id).into()) };
        let resolved = ResolvedPath { mount: parent, dentry: point, rest: Path::new("").to_owned() };
        let receivers = self.receivers_at(&resolved)?;
        let mut after = self.clone();
        after.apply(namespace, &Operation::Unmount { at: path.to_owned(), lazy: true })?;
        let before = self.mounts.iter().enumerate();
        let gone = before
            .filter(|(number, mount)| mount.is_some() && after.mounts.get(*number).is_none_or(Option::is_none))
            .filter_map(|(_, mount)| mount.as_ref().map(|mount| mount.id));
        Ok(Unmounting {
            mount: mount.id,
            under: self.mount(parent).id,
            gone: gone.collect(),
            receivers,
            showing: self.showing_at(&resolved),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::receivers::tests::machine;
    use super::*;
    use crate::machine::Machine;
    use mounts::Errno;

    /// In the initial user namespace, where nothing is locked.
    fn forest(tables: &[&str]) -> Forest {
        let mut machine: Machine = machine(tables);
        machine.namespaces.iter_mut().for_each(|namespace| namespace.user_namespace = Some(0xEFFF_FFFD));
        Forest::of(&machine)
    }

    #[test]
    fn what_lies_on_receivers_goes_and_what_was_bound_stays() {
        let forest = forest(&[
            "1 0 0:1 / / rw shared:1 - t t rw\n2 1 0:2 / /a rw shared:2 - t t rw\n5 2 0:3 / /a/in rw - t t rw\n",
            "3 0 0:1 / / rw master:1 - t t rw\n4 3 0:2 / /a rw master:2 - t t rw\n6 3 0:2 / /bound rw - t t rw\n",
        ]);
        let found = forest.unmounting(0, Path::new("/a")).unwrap();
        assert_eq!((found.mount, found.under), (2, 1));
        assert_eq!(found.gone, HashSet::from([2, 4, 5]));
        assert_eq!(found.receivers.len(), 2);
        assert_eq!(found.showing.iter().map(|s| s.mount).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn what_is_no_mount_is_not_unmounted() {
        let forest = forest(&["1 0 0:1 / / rw - t t rw\n"]);
        assert_eq!(forest.unmounting(0, Path::new("/a")), Err(Stop::Refused(Errno::EINVAL)));
        assert!(matches!(forest.unmounting(0, Path::new("/")), Err(Stop::Unknown(_))));
    }
}
