//! Cuts texts that are too long, with a mark where something is missing. Pure.

use std::borrow::Cow;

use crate::width;

/// What a length is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Columns of a terminal.
    Columns,
    /// Characters (Unicode scalar values).
    Characters,
}

impl Unit {
    fn count(self, text: &str) -> usize {
        match self {
            Self::Columns => width(text),
            Self::Characters => text.chars().count(),
        }
    }

    fn count_one(self, c: char) -> usize {
        self.count(c.encode_utf8(&mut [0; 4]))
    }
}

/// How a text is cut: to which length, at which end, and with which mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    unit: Unit,
    most: usize,
    tail: usize,
    mark: &'static str,
}

impl Cut {
    /// To a number of columns of a terminal. The end is cut off, and `…` put there.
    #[must_use]
    pub const fn columns(most: usize) -> Self {
        Self { unit: Unit::Columns, most, tail: 0, mark: "…" }
    }

    /// To a number of characters. The end is cut off, and `...` put there.
    #[must_use]
    pub const fn characters(most: usize) -> Self {
        Self { unit: Unit::Characters, most, tail: 0, mark: "..." }
    }

    /// Keeps the last `tail` columns or characters: what is cut out lies before them.
    #[must_use]
    pub const fn keeping_end(self, tail: usize) -> Self {
        Self { tail, ..self }
    }

    /// With another mark. It counts towards the length.
    #[must_use]
    pub const fn mark(self, mark: &'static str) -> Self {
        Self { mark, ..self }
    }

    /// The text, cut if it is too long. The mark is always put in, even if the length leaves no room for it.
    #[must_use]
    pub fn apply(self, text: &str) -> Cow<'_, str> {
        if self.unit.count(text) <= self.most {
            return Cow::Borrowed(text);
        }
        let room = self.most.saturating_sub(self.unit.count(self.mark));
        let tail = self.tail.min(room);
        let fitting = |room: usize, used: &mut usize, c: char| {
            *used += self.unit.count_one(c);
            (*used <= room).then_some(c.len_utf8())
        };
        let head: usize = text.chars().scan(0, |used, c| fitting(room - tail, used, c)).sum();
        let end: usize = text.chars().rev().scan(0, |used, c| fitting(tail, used, c)).sum();
        let mut out = text[..head].to_owned();
        out.push_str(self.mark);
        out.push_str(&text[(text.len() - end).max(head)..]);
        Cow::Owned(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn columns_are_counted_not_characters() {
        assert_eq!(Cut::columns(9).apply("/mnt/data"), "/mnt/data");
        assert_eq!(Cut::columns(6).apply("/mnt/data"), "/mnt/…");
        assert_eq!(Cut::columns(5).apply("目录目录"), "目录…");
        assert_eq!(Cut::columns(1).mark("~").apply("abc"), "~");
        assert_eq!(Cut::columns(0).apply("abc"), "…");
    }

    #[test]
    fn the_end_is_kept_if_told() {
        assert_eq!(Cut::columns(13).keeping_end(8).apply("/var/lib/kubelet/pods"), "/var…let/pods");
        assert_eq!(Cut::columns(5).keeping_end(2).apply("漢漢漢漢"), "漢…漢");
        assert_eq!(Cut::columns(4).keeping_end(9).apply("abcdefg"), "…efg");
    }

    #[test]
    fn characters_are_counted_for_logs_and_messages() {
        assert_eq!(Cut::characters(5).apply("ääääää"), "ää...");
        assert_eq!(Cut::characters(5).apply("äääää"), "äääää");
        assert_eq!(Cut::characters(2).mark("").apply("äöü"), "äö");
    }

    proptest! {
        #[test]
        fn nothing_is_longer_than_it_may_be(text: String, most in 1_usize..40, tail in 0_usize..40) {
            prop_assert!(width(&Cut::columns(most).keeping_end(tail).apply(&text)) <= most);
            prop_assert!(Cut::characters(most + 3).keeping_end(tail).apply(&text).chars().count() <= most + 3);
        }
    }
}
