//! Terminal colours. Pure.

/// Colours texts, if the output is a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    /// Whether to use colours.
    pub colour: bool,
}

impl Paint {
    /// A text with an SGR code (ECMA-48, 8.3.117). An empty text stays empty.
    #[must_use]
    pub fn with(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A text in the colour for success.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.with("1;32", text)
    }

    /// A text in the colour for errors.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }
}
