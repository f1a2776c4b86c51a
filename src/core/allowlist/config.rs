//! The allow-list: which directories of the node pods may ask for, by name, and under which conditions.
//!
//! [`AllowList::parse`] turns the file's text into valid values, or into a list of all its faults.
//! `service::config_store` reads the files. One table (`config/shape.rs`) says what may be written in the file. Both
//! the decoder and the [`schema`] use it, so they can't disagree.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use mounts::MountAttrs;
use mounts::propagation::MountPropagation;

use crate::names::{AbsPath, EntryName};

mod decode;
mod pattern;
mod schema;
mod shape;
mod yaml;

pub use pattern::{BadPattern, Pattern};
pub use schema::schema;

/// The largest file that is accepted, in bytes: the limit of a ConfigMap.
pub const SIZE_MAX: usize = 1 << 20;

/// What to do if the directory of an entry doesn't exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// Refuse the volume.
    Fail,
    /// Create the directory.
    Create {
        /// Permission bits, `0..=0o7777`.
        mode: u32,
        /// The owner.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

/// What to do with a read-only volume that asks for propagation. Read-only is a flag of each mount, so a mount that
/// propagates into the volume later is writable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadOnlyPropagation {
    /// Refuse the volume.
    Refuse,
    /// Mount it, with a warning.
    Warn,
}

/// The mount flags that an entry sets on its volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MountFlags {
    /// Set-user-id bits have no effect.
    pub nosuid: bool,
    /// Device nodes can't be opened.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
}

impl MountFlags {
    /// The flags as the kernel has them, together with read-only.
    #[must_use]
    pub const fn attrs(self, read_only: bool) -> MountAttrs {
        let Self { nosuid, nodev, noexec } = self;
        MountAttrs { read_only, nosuid, nodev, noexec }
    }
}

/// Whether volumes are healed: they get their directory again when its file system comes back or the directory is
/// replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Heal {
    /// They are: running containers if the volume propagates, others when they restart.
    #[default]
    On,
    /// They aren't.
    Off,
}

/// Who may use an entry: pods whose namespace matches one of the patterns, and whose service account does too.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Patterns for namespaces; never empty.
    pub namespaces: Vec<Pattern>,
    /// Patterns for service accounts; never empty.
    pub service_accounts: Vec<Pattern>,
}

/// A directory of the node that pods may ask for by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The name that pods use.
    pub name: EntryName,
    /// The directory on the node.
    pub path: AbsPath,
    /// The strongest propagation that a pod may ask for.
    pub ceiling: MountPropagation,
    /// Whether all its volumes are read-only.
    pub read_only: bool,
    /// The mount flags of its volumes.
    pub flags: MountFlags,
    /// Whether pods may ask for directories beneath it (sub-paths).
    pub sub_paths: bool,
    /// What to do if the directory doesn't exist.
    pub missing: Missing,
    /// What to do if a volume is read-only and asks for propagation.
    pub read_only_propagation: ReadOnlyPropagation,
    /// Whether its volumes are healed.
    pub heal: Heal,
    /// Entries whose directories may contain this one's or lie beneath it.
    pub overlaps: Vec<EntryName>,
    /// Who may use it. Empty: nobody.
    pub allow: Vec<Rule>,
}

/// The entries of a valid file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowList {
    entries: BTreeMap<EntryName, Arc<Entry>>,
}

impl AllowList {
    /// Parses a file's text. No entry may overlap `kubelet_dir`, which holds other pods' volumes and secrets.
    ///
    /// # Errors
    /// All faults of the file, in the order of its lines; only the first thousand and the number of the others, if
    /// there are more. A text that isn't YAML has one fault.
    pub fn parse(text: &str, kubelet_dir: &AbsPath) -> Result<Self, Faults> {
        let entries = decode::decode(text, kubelet_dir)?;
        Ok(Self { entries: entries.into_iter().map(|e| (e.name.clone(), Arc::new(e))).collect() })
    }

    /// Parses a file's bytes, as [`AllowList::parse`] does its text.
    pub fn parse_bytes(bytes: &[u8], kubelet_dir: &AbsPath) -> Result<Self, Faults> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(text, kubelet_dir),
            Err(e) => {
                let before = bytes.get(..e.valid_up_to()).unwrap_or_default();
                let line = 1 + before.iter().filter(|b| **b == b'\n').count();
                let column = 1 + before.iter().rev().take_while(|b| **b != b'\n').count();
                let message = "the file is not UTF-8 text: save it in that encoding".to_owned();
                Err(Faults(vec![Fault { line, column, field: String::new(), message }]))
            }
        }
    }

    /// The entry with this name.
    #[must_use]
    pub fn get(&self, name: &EntryName) -> Option<&Arc<Entry>> {
        self.entries.get(name)
    }

    /// All entries, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries, so that every volume is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What changes from this list to `new`.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Changes {
        let mut changes = Changes::default();
        for entry in new.iter() {
            match self.get(&entry.name) {
                None => changes.added.push(entry.name.clone()),
                Some(old) if old != entry => changes.changed.push(entry.name.clone()),
                Some(_) => {}
            }
        }
        changes.removed = self.iter().map(|e| &e.name).filter(|n| new.get(n).is_none()).cloned().collect();
        changes
    }
}

/// The difference between two allow-lists, as names of entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Only in the new list.
    pub added: Vec<EntryName>,
    /// Only in the old list.
    pub removed: Vec<EntryName>,
    /// In both lists, but different.
    pub changed: Vec<EntryName>,
}

/// A fault in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, counted from 1.
    pub line: usize,
    /// The character in the line, counted from 1.
    pub column: usize,
    /// The field, as in `entries[2].allow[0].namespaces`. Empty: the whole file.
    pub field: String,
    /// What was found and what to do.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "line {}: {}", self.line, self.message),
            field => write!(f, "line {}, {field}: {}", self.line, self.message),
        }
    }
}

/// All faults of the file, in the order of its lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    /// One line for each fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AllowList, Faults> {
        AllowList::parse(text, &AbsPath::parse("/var/lib/kubelet").unwrap())
    }

    #[test]
    fn the_example_of_the_documentation_has_no_faults() {
        let list = parse(include_str!("../../../docs/allow-list.example.yaml")).unwrap_or_else(|e| panic!("{e}"));
        assert!(list.len() >= 3);
        assert!(list.iter().all(|e| !e.allow.is_empty()), "an example that nobody may use helps nobody");
    }

    #[test]
    fn the_reference_names_every_field() {
        let page = include_str!("../../../docs/allow-list.md");
        let tables = [shape::FILE, shape::ENTRY, shape::RULE, shape::MISSING, shape::CREATE];
        for field in tables.into_iter().flatten() {
            assert!(page.contains(&format!("`{}`", field.name)), "docs/allow-list.md lacks {}", field.name);
        }
    }

    #[test]
    fn changes_are_told_apart() {
        let old =
            parse("entries: [{name: a, path: /mnt/a}, {name: b, path: /mnt/b}, {name: c, path: /mnt/c}]").unwrap();
        let new =
            parse("entries: [{name: d, path: /mnt/d}, {name: b, path: /mnt/x}, {name: c, path: /mnt/c}]").unwrap();
        let name = |n| vec![EntryName::parse(n).unwrap()];
        assert_eq!(old.changes(&new), Changes { added: name("d"), removed: name("a"), changed: name("b") });
        assert_eq!(new.changes(&new), Changes::default());
    }

    #[test]
    fn bytes_that_are_no_text_are_one_fault_with_a_line() {
        let kubelet = AbsPath::parse("/var/lib/kubelet").unwrap();
        let faults = AllowList::parse_bytes(b"entries:\n- nam\xffe", &kubelet).unwrap_err();
        assert_eq!((faults.0.len(), faults.0[0].line, faults.0[0].column), (1, 2, 6));
        assert!(AllowList::parse_bytes(b"entries: []", &kubelet).unwrap().is_empty());
    }
}
