//! Patterns for namespaces and service accounts.

use std::fmt;

/// The longest name of a Kubernetes object in bytes (RFC 1123 subdomain). A longer pattern can't match.
pub(super) const PATTERN_MAX: usize = 253;

/// A pattern that must match a whole name. `*` matches any run of characters, even none; `?` matches one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(String);

/// Why a pattern is refused. The text completes the sentence "FIELD VALUE ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// It is empty.
    #[error("is empty: write \"*\" for everyone, or leave the item out for no one")]
    Empty,
    /// It is longer than any name.
    #[error("has {len} bytes, but no name has more than {PATTERN_MAX}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// No name contains this character, so the pattern would never match and nobody would notice.
    #[error("contains {0:?}, which no namespace or service account does: use a-z, 0-9, '-', '.', '*' and '?'")]
    Never(char),
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`BadPattern`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        if text.is_empty() {
            return Err(BadPattern::Empty);
        }
        if text.len() > PATTERN_MAX {
            return Err(BadPattern::TooLong { len: text.len() });
        }
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.*?".contains(c);
        match text.chars().find(|c| !known(*c)) {
            Some(c) => Err(BadPattern::Never(c)),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The pattern's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern is exactly `*`, the only one that also matches an unknown pod.
    #[must_use]
    pub fn is_anyone(&self) -> bool {
        self.0 == "*"
    }

    /// Whether the whole `name` matches.
    ///
    /// Backtracking to the last star is enough: if the text after a later star can't match, a longer match of an
    /// earlier star doesn't help. So the work is at most the product of the two lengths.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.chars(), name.chars());
        let mut star = None;
        loop {
            let (mut next_pattern, mut next_rest) = (pattern.clone(), rest.clone());
            match (next_pattern.next(), next_rest.next()) {
                (None, None) => return true,
                (Some('*'), _) => {
                    star = Some((next_pattern.clone(), rest.clone()));
                    pattern = next_pattern;
                }
                (Some(p), Some(c)) if p == '?' || p == c => (pattern, rest) = (next_pattern, next_rest),
                _ => {
                    let Some((after, taken)) = &mut star else { return false };
                    if taken.next().is_none() {
                        return false;
                    }
                    (pattern, rest) = (after.clone(), taken.clone());
                }
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn oracle(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (['*', p @ ..], _) => (0..=name.len()).any(|n| oracle(p, &name[n..])),
            (['?', p @ ..], [_, n @ ..]) => oracle(p, n),
            ([a, p @ ..], [b, n @ ..]) => a == b && oracle(p, n),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn matching_agrees_with_trying_everything(pattern in "[ab*?]{1,8}", name in "[abé]{0,10}") {
            let (p, n): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
            prop_assert_eq!(Pattern::parse(&pattern).unwrap().matches(&name), oracle(&p, &n));
        }
    }

    #[test]
    fn the_whole_name_must_match() {
        let matches = |p: &str, n: &str| Pattern::parse(p).unwrap().matches(n);
        assert!(matches("team-*", "team-a") && matches("team-*", "team-") && matches("*", ""));
        assert!(!matches("team-*", "my-team-a") && !matches("team", "team-a") && !matches("team-?", "team-"));
        assert!(matches("*-prod-*", "eu-prod-prod-1") && !matches("*-prod", "prod"));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = Pattern::parse(&"a*".repeat(120)).unwrap();
        assert!(!pattern.matches(&("a".repeat(5000) + "b?").replace('a', "ab").repeat(2).replace("ab", "b")));
        assert!(pattern.matches(&"a".repeat(5000)));
    }

    #[test]
    fn patterns_that_never_match_are_refused() {
        assert_eq!(Pattern::parse(""), Err(BadPattern::Empty));
        assert_eq!(Pattern::parse("Team-*"), Err(BadPattern::Never('T')));
        assert_eq!(Pattern::parse("team-[ab]"), Err(BadPattern::Never('[')));
        assert_eq!(Pattern::parse(&"a".repeat(254)), Err(BadPattern::TooLong { len: 254 }));
        assert!(Pattern::parse(&"a".repeat(253)).is_ok());
        assert!(Pattern::parse("*").unwrap().is_anyone() && !Pattern::parse("**").unwrap().is_anyone());
    }
}
