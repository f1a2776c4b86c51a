//! Escapes and cuts text from mount tables for SVG, HTML and dot.
//!
//! A mount point is any bytes but NUL, chosen by anyone who may mount. It may have `</script>`, a line break, an incomplete
//! character, or one that changes the writing direction. So it is first made printable ([`text::visible`]), and then escaped for
//! the format.

use text::cut::Cut;
use text::width;

/// Escapes a text for text and quoted attributes of XML and HTML.
#[must_use]
pub fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Escapes JSON for a `<script>` element, where `</script` and `<!--` have a meaning.
#[must_use]
pub fn json_in_html(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// A quoted label of the dot language. Graphviz reads a backslash as an escape, and `&` as the beginning of an HTML entity.
#[must_use]
pub fn dot(text: &str) -> String {
    format!("\"{}\"", text.replace('&', "&amp;").replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn cells(c: char) -> usize {
    width(c.encode_utf8(&mut [0; 4]))
}

/// The text cut to `room` columns. The middle is cut out, because the end of a path tells most.
#[must_use]
pub fn fitted(text: &str, room: usize) -> String {
    Cut::columns(room).keeping_end(room.saturating_sub(1) * 2 / 3).apply(text).into_owned()
}

/// The approximate width of a text in a bold proportional font of 14 pixels, in pixels. Rather too much than too little.
#[must_use]
pub fn heading_width(text: &str) -> usize {
    let wide = |c: char| match c {
        ' ' | '.' | ',' | ':' | ';' | '\'' | '!' | '|' | 'i' | 'j' | 'l' | 'I' | '/' | '(' | ')' | '[' | ']' => 6,
        'f' | 'r' | 't' | '-' => 7,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '<' | '>' | '+' | '=' | '…' => 15,
        c => 10 * cells(c),
    };
    text.chars().map(wide).sum()
}

/// The width of letters that are not bold, in per cent of bold ones.
const LIGHTER: usize = 88;

/// The approximate width of a text in a proportional font of `size` pixels that is not bold, in pixels.
#[must_use]
pub fn text_width(text: &str, size: usize) -> usize {
    (heading_width(text) * size * LIGHTER).div_ceil(14 * 100)
}

/// The text cut to a number of pixels, as [`heading_width`] counts.
#[must_use]
pub fn fitted_heading(text: &str, pixels: usize) -> String {
    let mut room = width(text);
    loop {
        let short = fitted(text, room);
        let over = heading_width(&short).saturating_sub(pixels);
        if over == 0 || room == 0 {
            return short;
        }
        room = room.min(width(&short)).saturating_sub((over / 15).max(1));
    }
}

/// The text cut to a number of pixels, as [`text_width`] counts.
#[must_use]
pub fn fitted_text(text: &str, size: usize, pixels: usize) -> String {
    fitted_heading(text, pixels * 14 * 100 / (size * LIGHTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_its_escapes() {
        assert_eq!(xml("<a b='\"&'>"), "&lt;a b=&#39;&quot;&amp;&#39;&gt;");
        assert_eq!(json_in_html("\"</script><!--&\""), "\"\\u003c/script\\u003e\\u003c!--\\u0026\"");
        assert_eq!(dot("a\"b\\N&lt;"), "\"a\\\"b\\\\N&amp;lt;\"");
    }

    #[test]
    fn a_long_text_keeps_its_begin_and_its_end() {
        assert_eq!(fitted("/short", 6), "/short");
        assert_eq!(fitted("/var/lib/kubelet/pods", 13), "/var…let/pods");
        assert_eq!(fitted("abc", 0), "…");
    }
}
