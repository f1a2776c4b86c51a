//! Text out of mount tables, made fit to be seen and to be embedded.
//!
//! A mount point is any bytes but NUL, chosen by whoever may mount: it may hold `</script>`, a line break, half a character
//! or a mark that turns the writing direction of what follows. So it is first made visible ([`text::visible`]), in a way that
//! keeps two different names different, and then escaped for where it is put.

use text::cut::Cut;
use text::width;

/// For the text and the quoted attributes of XML and HTML.
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

/// JSON for a `<script>` of HTML, whose text ends at the first `</script` or may open a comment, whatever the JSON means.
#[must_use]
pub fn json_in_html(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// A quoted string of the dot language, for labels: there a backslash begins an escape, and graphviz reads `&` as the
/// begin of an HTML entity.
#[must_use]
pub fn dot(text: &str) -> String {
    format!("\"{}\"", text.replace('&', "&amp;").replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn cells(c: char) -> usize {
    width(c.encode_utf8(&mut [0; 4]))
}

/// The text in at most `room` columns. The middle is cut out: a path tells most at its end and something at its beginning.
#[must_use]
pub fn fitted(text: &str, room: usize) -> String {
    Cut::columns(room).keeping_end(room.saturating_sub(1) * 2 / 3).apply(text).into_owned()
}

/// About how many pixels a text takes in a bold proportional font of 14 pixels; rather too many than too few.
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

/// How wide the letters of a proportional font are that is not bold, in hundredths of a bold one's.
const LIGHTER: usize = 88;

/// About how many pixels a text takes in a proportional font of `size` pixels, which is lighter than a heading's.
#[must_use]
pub fn text_width(text: &str, size: usize) -> usize {
    (heading_width(text) * size * LIGHTER).div_ceil(14 * 100)
}

/// The text in at most `pixels`, as [`heading_width`] counts.
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

/// The text in at most `pixels`, as [`text_width`] counts.
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
