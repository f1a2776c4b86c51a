//! Makes untrusted bytes safe to print. Pure.
//!
//! Mount points, sources and process names are arbitrary bytes, chosen by anyone who may mount. Printed as they are, they could
//! send commands to the terminal, or look like another path. So bytes that are not printable are shown as `\xNN`, and a
//! backslash as `\x5c`. Two different paths never look the same.
#![forbid(unsafe_code)]

pub mod cut;
pub mod paint;
pub mod table;

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

use unicode_width::UnicodeWidthStr;

/// Bytes as printable text.
#[must_use]
pub fn visible(bytes: impl AsRef<OsStr>) -> String {
    let bytes = bytes.as_ref();
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || is_hidden(c) {
                c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| escape(&mut out, byte));
            } else {
                out.push(c);
            }
        }
        chunk.invalid().iter().for_each(|&byte| escape(&mut out, byte));
    }
    out
}

fn escape(out: &mut String, byte: u8) {
    out.push_str("\\x");
    push_hex(out, byte);
}

/// Bytes as hexadecimal digits, two a byte, in lower case.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    bytes.iter().for_each(|&byte| push_hex(&mut out, byte));
    out
}

fn push_hex(out: &mut String, byte: u8) {
    // Writing to a String can't fail.
    let _ = write!(out, "{byte:02x}");
}

/// Whether a character must be escaped: control characters, line separators, joiners, characters without width and those that
/// change the writing direction, because they can make one path look like another (Unicode UAX #9, UTS #39); and characters
/// that XML 1.0 forbids.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e0fff}')
}

/// A path quoted as one word of a shell command, safe to paste. Not for use inside double quotes: there an interactive shell
/// expands `!`.
#[must_use]
pub fn quoted(path: impl AsRef<OsStr>) -> String {
    let text = visible(path);
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return text;
    }
    // Escapes need $'...', which undoes them. A shell without it (`sh` before POSIX.1-2024) reads a `$` and a text in single
    // quotes; for such a shell, the text must have no single quote of its own.
    if text.contains('\\') {
        format!("$'{}'", text.replace('\'', r"\x27"))
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The width of a text, in columns of a terminal.
#[must_use]
pub fn width(text: &str) -> usize {
    text.width()
}

/// `1 mount`, `2 mounts`.
#[must_use]
pub fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_what_shows() {
        let shown = |bytes: &[u8]| visible(OsStr::from_bytes(bytes));
        assert_eq!(shown(b"/a b"), "/a b");
        assert_eq!(shown("/größe/目录".as_bytes()), "/größe/目录");
        assert_eq!(shown(b"/a\nb\x1b[2J\xff\\"), r"/a\x0ab\x1b[2J\xff\x5c");
        assert_eq!(shown("/a\u{202e}b\u{9b}".as_bytes()), r"/a\xe2\x80\xaeb\xc2\x9b");
        assert_eq!(shown("\u{fffe}\u{feff}".as_bytes()), r"\xef\xbf\xbe\xef\xbb\xbf");
    }

    #[test]
    fn words_of_commands_are_quoted() {
        assert_eq!(quoted("/a-b.c"), "/a-b.c");
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("/a'b"), r"'/a'\''b'");
        assert_eq!(quoted("/a\nb'c"), r"$'/a\x0ab\x27c'");
        assert_eq!(quoted("/$(touch${IFS}pwned)"), "'/$(touch${IFS}pwned)'");
        assert_eq!((quoted(""), quoted("-rf")), ("''".to_owned(), "'-rf'".to_owned()));
    }

    #[test]
    fn bytes_are_written_as_digits() {
        assert_eq!(hex(b"/\xff\x00"), "2fff00");
    }

    proptest! {
        #[test]
        fn what_is_shown_names_one_path_only(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let shown = visible(OsStr::from_bytes(&bytes));
            prop_assert!(!shown.chars().any(is_hidden));
            // Undone, it is the same again.
            let mut undone = Vec::new();
            let mut rest = shown.as_bytes();
            while let Some((&byte, tail)) = rest.split_first() {
                if byte == b'\\' {
                    undone.push(u8::from_str_radix(std::str::from_utf8(&tail[1..3]).unwrap(), 16).unwrap());
                    rest = &tail[3..];
                } else {
                    undone.push(byte);
                    rest = tail;
                }
            }
            prop_assert_eq!(undone, bytes);
        }
    }
}
