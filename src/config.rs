//! The allow-list: which directories of the node may be used, how, and by whom. Pure data; read by
//! [`decode`], kept current by [`reload`].

pub mod decode;
pub mod reload;
pub mod schema;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::propagation::MountPropagation;
use crate::sys::stat::MountAttrs;
use crate::volume::{AbsPath, EntryName, PodIdentity};

pub use crate::observe::IfMissing;

/// The largest allow-list that is read, in bytes: that of a ConfigMap.
pub const SIZE_MAX: usize = 1 << 20;

/// What to do when a read-only volume is asked for with propagation: a mount that crosses later keeps flags of its
/// own and may be writable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnlyPropagation {
    /// Refuse the volume.
    Refuse,
    /// Publish it and say so in the log.
    Warn,
}

/// A name with `*` for any run of characters and `?` for any one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern as it was written.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether the pattern lets everything pass, known or not.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0 == "*"
    }

    /// Whether a name fits, in time proportional to the product of the lengths at worst.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name): (Vec<char>, Vec<char>) = (self.0.chars().collect(), name.chars().collect());
        let (mut p, mut n) = (0, 0);
        // Where the last star stood, and how much of the name it has swallowed.
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(&c) if c == '?' || c == name[n] => {
                    p += 1;
                    n += 1;
                }
                _ => {
                    let Some((at, swallowed)) = star else { return false };
                    star = Some((at, swallowed + 1));
                    p = at + 1;
                    n = swallowed + 1;
                }
            }
        }
        pattern[p..].iter().all(|&c| c == '*')
    }
}

/// Who may use an entry: any of these service accounts in any of these namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The namespaces.
    pub namespaces: Vec<Pattern>,
    /// The service accounts.
    pub service_accounts: Vec<Pattern>,
}

impl Rule {
    /// Whether the rule lets a pod pass. A pod of which nothing is known passes only a rule for everybody.
    #[must_use]
    pub fn permits(&self, pod: Option<&PodIdentity>) -> bool {
        let fits = |patterns: &[Pattern], name: Option<&str>| {
            patterns.iter().any(|p| name.map_or_else(|| p.is_any(), |name| p.matches(name)))
        };
        fits(&self.namespaces, pod.map(|p| p.namespace.as_str()))
            && fits(&self.service_accounts, pod.map(|p| p.service_account.as_str()))
    }
}

/// One directory of the node that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What pods call it.
    pub name: EntryName,
    /// Where it is.
    pub path: AbsPath,
    /// The strongest propagation that may be asked for.
    pub ceiling: MountPropagation,
    /// Flags that every volume of it gets.
    pub attrs: MountAttrs,
    /// Whether directories beneath it may be named.
    pub sub_paths: bool,
    /// What to do if the directory isn't there.
    pub missing: IfMissing,
    /// What to do for read-only volumes with propagation.
    pub read_only_propagation: ReadOnlyPropagation,
    /// Entries whose directory may contain this one's or lie in it.
    pub overlaps: Vec<EntryName>,
    /// Who may use it. Empty: nobody.
    pub allow: Vec<Rule>,
}

/// All entries, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    entries: BTreeMap<EntryName, Arc<Entry>>,
}

impl AllowList {
    /// Reads an allow-list. `kubelet_dir` is what no entry may contain or lie in.
    ///
    /// # Errors
    /// Every fault of the file at once.
    pub fn parse(text: &str, kubelet_dir: &AbsPath) -> Result<Self, Faults> {
        decode::decode(text, kubelet_dir)
    }

    /// The entry of a name.
    #[must_use]
    pub fn get(&self, name: &EntryName) -> Option<&Arc<Entry>> {
        self.entries.get(name)
    }

    /// All entries, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// One fault of an allow-list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The line, counted from 1.
    pub line: usize,
    /// The field, as `entries[2].allow[0].namespaces`.
    pub field: String,
    /// What was found and what to do.
    pub message: String,
}

/// All faults of an allow-list, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Fault { line, field, message }) in self.0.iter().enumerate() {
            let (end, space) = (if n == 0 { "" } else { "\n" }, if field.is_empty() { "" } else { ", " });
            write!(f, "{end}line {line}{space}{field}: {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches_slowly(pattern: &[char], name: &[char]) -> bool {
        match (pattern.first(), name.first()) {
            (None, None) => true,
            (Some('*'), _) => {
                matches_slowly(&pattern[1..], name) || (!name.is_empty() && matches_slowly(pattern, &name[1..]))
            }
            (Some(p), Some(n)) if *p == '?' || p == n => matches_slowly(&pattern[1..], &name[1..]),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_the_definition_says(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            prop_assert_eq!(Pattern::new(&pattern).matches(&name), matches_slowly(&chars(&pattern), &chars(&name)));
        }
    }

    #[test]
    fn an_unknown_pod_passes_only_a_rule_for_everybody() {
        let rule =
            |n: &str, s: &str| Rule { namespaces: vec![Pattern::new(n)], service_accounts: vec![Pattern::new(s)] };
        assert!(rule("*", "*").permits(None));
        assert!(!rule("team-*", "*").permits(None) && !rule("*", "default").permits(None));
        let pod = PodIdentity {
            namespace: "team-a".into(),
            name: "p".into(),
            uid: "u".into(),
            service_account: "default".into(),
        };
        assert!(rule("team-*", "default").permits(Some(&pod)));
        assert!(!rule("team", "*").permits(Some(&pod)) && !rule("*", "builder").permits(Some(&pod)));
    }
}
