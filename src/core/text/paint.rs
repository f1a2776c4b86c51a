//! Colours for a reader at a terminal. Pure.

/// Colours, where the reader is a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    /// Whether to use them.
    pub colour: bool,
}

impl Paint {
    /// With a code of ECMA-48, 8.3.117 (SGR). An empty text stays empty.
    #[must_use]
    pub fn with(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// In the colour of what is well.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.with("1;32", text)
    }

    /// In the colour of what is wrong.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }
}
