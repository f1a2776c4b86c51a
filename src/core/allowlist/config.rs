//! The allow-list: which directories of the node exist for pods at all, by name, and on what terms.
//!
//! [`AllowList::parse`] turns the text of the file into values that can't be wrong, or into every fault of it at
//! once. Files are read by `service::config_store`. What may be written in the file stands in one table
//! (`config/shape.rs`), from which both the decoder and the [`schema`] are made, so that they can't disagree.

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

/// The largest file that is read, in bytes: as much as a ConfigMap can hold.
pub const SIZE_MAX: usize = 1 << 20;

/// What to do if the directory of an entry doesn't exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// Refuse the volume.
    Fail,
    /// Make the directory.
    Create {
        /// Permission bits, `0..=0o7777`.
        mode: u32,
        /// The owner.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

/// What to do with a read-only volume for which propagation is asked: a mount that arrives in it later is
/// writable whatever the volume is, because read-only is a property of each mount of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadOnlyPropagation {
    /// Refuse the volume.
    Refuse,
    /// Mount it, and say so.
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
    /// With these and read-only or not, as the kernel has them.
    #[must_use]
    pub const fn attrs(self, read_only: bool) -> MountAttrs {
        let Self { nosuid, nodev, noexec } = self;
        MountAttrs { read_only, nosuid, nodev, noexec }
    }
}

/// Whether volumes get a directory again that comes back after its file system has died, or was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Heal {
    /// They do: running containers where the volume propagates, others when they are started again.
    #[default]
    On,
    /// They don't.
    Off,
}

/// Who may use an entry: pods whose namespace and service account each match one of the patterns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Patterns of namespaces; never empty.
    pub namespaces: Vec<Pattern>,
    /// Patterns of service accounts; never empty.
    pub service_accounts: Vec<Pattern>,
}

/// One directory of the node that pods may ask for by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// What pods call it.
    pub name: EntryName,
    /// The directory on the node.
    pub path: AbsPath,
    /// The strongest propagation that a pod may ask for.
    pub ceiling: MountPropagation,
    /// Whether every volume of it is read-only.
    pub read_only: bool,
    /// The mount flags of its volumes.
    pub flags: MountFlags,
    /// Whether pods may ask for directories beneath it.
    pub sub_paths: bool,
    /// What to do if the directory doesn't exist.
    pub missing: Missing,
    /// What to do if a volume is read-only and asks for propagation.
    pub read_only_propagation: ReadOnlyPropagation,
    /// Whether volumes get the directory again when it comes back.
    pub heal: Heal,
    /// The entries whose directories may contain this one's or lie in it.
    pub overlaps: Vec<EntryName>,
    /// Who may use it; nobody if empty.
    pub allow: Vec<Rule>,
}

/// The entries of a file without faults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowList {
    entries: BTreeMap<EntryName, Arc<Entry>>,
}

impl AllowList {
    /// Reads a file's text. No entry may touch `kubelet_dir`, where other pods' volumes and secrets are.
    ///
    /// # Errors
    /// Every fault of the file, in the order of its lines (of more than a thousand, the first thousand and how many
    /// more there are). A text that isn't YAML has one.
    pub fn parse(text: &str, kubelet_dir: &AbsPath) -> Result<Self, Faults> {
        let entries = decode::decode(text, kubelet_dir)?;
        Ok(Self { entries: entries.into_iter().map(|e| (e.name.clone(), Arc::new(e))).collect() })
    }

    /// Reads a file's bytes, as [`AllowList::parse`] its text.
    ///
    /// # Errors
    /// Those of [`AllowList::parse`], or one fault if the bytes aren't UTF-8.
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

    /// The entry of that name.
    #[must_use]
    pub fn get(&self, name: &EntryName) -> Option<&Arc<Entry>> {
        self.entries.get(name)
    }

    /// Every entry, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none, so that every volume is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is different in `new`.
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
    /// In the new one only.
    pub added: Vec<EntryName>,
    /// In the old one only.
    pub removed: Vec<EntryName>,
    /// In both, but not the same.
    pub changed: Vec<EntryName>,
}

/// One thing that is wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, counted from 1.
    pub line: usize,
    /// The character of the line, counted from 1.
    pub column: usize,
    /// The field, as in `entries[2].allow[0].namespaces`; empty if it is the file as a whole.
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

/// Everything that is wrong in the file, in the order of its lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    /// One fault a line.
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
