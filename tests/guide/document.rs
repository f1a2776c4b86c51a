//! The guide as sections of parts: what is run and what it prints, pictures, and text.

use std::fmt::Write as _;

/// The whole text.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// What comes before the first section.
    head: String,
    pub(crate) sections: Vec<Section>,
}

/// From one `##` to the next.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) parts: Vec<Part>,
}

/// A piece of a section.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    /// A block of commands, and the block with their output, empty if they print nothing. Or of functions that the
    /// following sections need as well.
    Run { commands: String, output: String, defines: bool },
    /// A picture: its alternative text, which is also its title, and its file in docs/.
    Picture { title: String, file: String },
    /// Lines of text, or a block that isn't run.
    Other(String),
}

impl Document {
    /// # Errors
    /// A block of a kind that nobody checks, or a block that doesn't end.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut document = Self { head: String::new(), sections: Vec::new() };
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some(title) = line.strip_prefix("## ") {
                document.sections.push(Section { title: title.to_owned(), parts: Vec::new() });
                continue;
            }
            let Some(section) = document.sections.last_mut() else {
                if line.starts_with("```") {
                    return Err("a block before the first section is run nowhere".to_owned());
                }
                let _ = writeln!(document.head, "{line}");
                continue;
            };
            let parts = &mut section.parts;
            if let Some(kind) = line.strip_prefix("```") {
                let mut body = String::new();
                loop {
                    match lines.next() {
                        Some("```") => break,
                        Some(line) => writeln!(body, "{line}").unwrap(),
                        None => return Err(format!("{}: a block that doesn't end", section.title)),
                    }
                }
                match (kind, parts.as_mut_slice()) {
                    ("sh" | "sh define", _) => {
                        parts.push(Part::Run { commands: body, output: String::new(), defines: kind != "sh" });
                    }
                    ("text", [.., Part::Run { output, .. }, Part::Other(space)])
                        if space.trim().is_empty() && output.is_empty() =>
                    {
                        *output = body;
                        parts.pop();
                    }
                    ("yaml", _) => parts.push(Part::Other(format!("```yaml\n{body}```\n"))),
                    _ => {
                        return Err(format!(
                            "{}: a block of kind {kind:?} that nobody checks: use sh, text right after it, or yaml",
                            section.title
                        ));
                    }
                }
                continue;
            }
            let picture = line.strip_prefix("![").and_then(|rest| rest.strip_suffix(')')?.split_once("]("));
            if let Some((title, file)) = picture {
                parts.push(Part::Picture { title: title.to_owned(), file: file.to_owned() });
                continue;
            }
            match parts.last_mut() {
                Some(Part::Other(text)) if !text.starts_with("```") => writeln!(text, "{line}").unwrap(),
                _ => parts.push(Part::Other(format!("{line}\n"))),
            }
        }
        if document.sections.is_empty() {
            return Err("it has no section".to_owned());
        }
        Ok(document)
    }

    /// As Markdown again.
    pub(crate) fn text(&self) -> String {
        let mut text = self.head.clone();
        for section in &self.sections {
            writeln!(text, "## {}", section.title).unwrap();
            for part in &section.parts {
                match part {
                    Part::Run { commands, output, defines } => {
                        let kind = if *defines { "sh define" } else { "sh" };
                        write!(text, "```{kind}\n{commands}```\n").unwrap();
                        if output.is_empty() { Ok(()) } else { write!(text, "\n```text\n{output}```\n") }
                    }
                    Part::Picture { title, file } => writeln!(text, "![{title}]({file})"),
                    Part::Other(other) => write!(text, "{other}"),
                }
                .unwrap();
            }
        }
        text
    }

    /// What is typed before the commands of a section: the first section's, and the functions of those between.
    pub(crate) fn before(&self, section: usize) -> Vec<String> {
        let before = self.sections.iter().take(section).enumerate();
        let parts = before.flat_map(|(n, section)| section.parts.iter().map(move |part| (n, part)));
        parts
            .filter_map(|(n, part)| match part {
                Part::Run { commands, defines, .. } if n == 0 || *defines => Some(commands.clone()),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn pictures(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().flat_map(|section| &section.parts).filter_map(|part| match part {
            Part::Picture { file, .. } => Some(file.as_str()),
            _ => None,
        })
    }

    /// The bodies of the blocks of a kind that isn't run.
    pub(crate) fn blocks(&self, kind: &str) -> impl Iterator<Item = String> {
        let fence = format!("```{kind}\n");
        self.sections.iter().flat_map(|section| &section.parts).filter_map(move |part| match part {
            Part::Other(text) => Some(text.strip_prefix(fence.as_str())?.strip_suffix("```\n")?.to_owned()),
            _ => None,
        })
    }
}

/// The anchor that GitHub gives a heading.
pub(crate) fn anchor(title: &str) -> String {
    let kept =
        title.to_lowercase().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c)).collect::<String>();
    kept.replace(' ', "-")
}

#[test]
fn a_document_is_written_as_it_was_read_and_what_nobody_checks_is_refused() {
    let text = "# T\n\n## A b\n\nText.\n\n```sh\nls\n```\n\n```text\nx\n```\n\n![P](a/b.svg)\n\n```yaml\na: 1\n```\n\n## C\n\n```sh define\n:\n```\n\n## D\n";
    let document = Document::parse(text).unwrap();
    assert_eq!(document.text(), text);
    assert_eq!(document.pictures().collect::<Vec<_>>(), ["a/b.svg"]);
    assert_eq!(document.blocks("yaml").collect::<Vec<_>>(), ["a: 1\n"]);
    assert_eq!(document.before(1), ["ls\n"]);
    assert_eq!(document.before(2), ["ls\n", ":\n"]);
    for bad in [
        "## A\n```console\nls\n```\n",
        "## A\n```text\nx\n```\n",
        "## A\n```sh\nls\n",
        "```sh\nls\n```\n## A\n",
        "# A\n",
    ] {
        assert!(Document::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(anchor("Bind, rbind: who's who?"), "bind-rbind-whos-who");
}
