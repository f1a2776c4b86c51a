//! Pictures of a machine's mount namespaces: from plain data to the text of an SVG, a dot graph or a page.
//!
//! Each namespace is a column, its mounts a tree in it; peer groups and masters link them across. [`outline`] decides
//! what is shown and what is folded away, [`layout`] where it is drawn, [`legend`] what the signs mean, and [`svg()`],
//! [`dot()`] and [`html()`] write it down. All of it is pure. What mount tables hold is chosen by whoever may mount something
//! and is treated as hostile ([`text`]).

pub mod dot;
pub mod html;
pub mod layout;
pub mod legend;
pub mod outline;
pub mod reach;
pub mod svg;
pub mod text;

pub use dot::dot;
pub use html::html;
pub use svg::svg;

use ::text::{plural, visible};
use model::machine::Machine;
use mounts::mountinfo::Mount;

use crate::picture::outline::Outline;

/// How many colours the styles have for peer groups. Numbers tell groups of the same colour apart.
pub(crate) const COLOURS: usize = 10;

/// The options of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Its title.
    pub title: String,
    /// Whether every mount is shown and nothing is folded.
    pub all: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { title: "Mount namespaces and how mounts propagate between them".to_owned(), all: false }
    }
}

/// The numbers of namespaces and mounts, as a sentence.
fn summary(machine: &Machine, outline: &Outline<'_>) -> String {
    let mounts = machine.namespaces.iter().map(|namespace| namespace.table.mounts.len()).sum();
    let linked = outline.groups.values().filter(|group| group.colour.is_some()).count();
    let verb = if linked == 1 { "links" } else { "link" };
    format!(
        "{}, {}, {} that {verb} mounts.",
        plural(machine.namespaces.len(), "mount namespace"),
        plural(mounts, "mount"),
        plural(linked, "peer group"),
    )
}

/// Everything about a mount, in one line.
fn told(mount: &Mount) -> String {
    let root = if mount.root_deleted { " (deleted)" } else { "" };
    format!(
        "{}: {} of {} ({}){root}, {}, {}, mount {}",
        visible(&mount.mount_point),
        visible(&mount.root),
        visible(&mount.source),
        visible(&mount.fs_type),
        visible(&mount.options),
        mount.propagation,
        mount.id,
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use model::machine::{Namespace, Process};
    use mounts::mountinfo;

    /// A machine of one namespace for each mountinfo.
    pub(crate) fn machine(tables: &[&str]) -> Machine {
        let namespace = |(number, table): (usize, &&str)| Namespace {
            inode: 7,
            processes: vec![Process { pid: i32::try_from(number).unwrap() + 1, name: format!("p{number}") }],
            table: mountinfo::parse(table.as_bytes()),
            ..Namespace::default()
        };
        Machine { namespaces: tables.iter().enumerate().map(namespace).collect(), left_out: vec![] }
    }

    #[test]
    fn what_is_said_of_a_mount_and_of_all() {
        let machine = machine(&[
            "1 0 0:1 /x//deleted / rw,noexec shared:3 - ext4 /dev/s\\040a rw\n",
            "2 0 0:1 / / rw master:3 - ext4 a rw\n",
        ]);
        let mount = &machine.namespaces[0].table.mounts[0];
        assert_eq!(told(mount), "/: /x of /dev/s a (ext4) (deleted), rw,noexec, shared:3, mount 1");
        let outline = Outline::of(&machine, false);
        assert_eq!(summary(&machine, &outline), "2 mount namespaces, 2 mounts, 1 peer group that links mounts.");
    }
}
