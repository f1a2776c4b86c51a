//! The report, as text and as JSON: what was checked, what was found, and what to do.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use text::paint::Paint;

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It could not be checked.
    Skipped,
    /// It works, but not well, or perhaps not as intended.
    Warning,
    /// Volumes will fail.
    Fault,
}

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Section {
    /// The kernel and this process's rights.
    Node,
    /// The kubelet's process, mount namespace and directories.
    Kubelet,
    /// The file of entries.
    AllowList,
    /// The directories of the entries.
    Entries,
    /// What running containers have of the volumes.
    Containers,
}

impl Section {
    const ALL: [Self; 5] = [Self::Node, Self::Kubelet, Self::AllowList, Self::Entries, Self::Containers];

    const fn title(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Kubelet => "Kubelet",
            Self::AllowList => "Allow-list",
            Self::Entries => "Entries",
            Self::Containers => "Containers",
        }
    }
}

/// One check and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// What it is about.
    pub section: Section,
    /// The name of the check; docs/check.md lists them.
    pub check: String,
    /// The entry's name, where it is about one.
    pub entry: Option<String>,
    /// The result.
    pub status: Verdict,
    /// What was looked at.
    pub looked_at: String,
    /// What was found. Completes the sentence "LOOKED AT: ...".
    pub found: String,
    /// What to do; empty if nothing.
    pub advice: String,
    /// The commands that do it.
    pub commands: Vec<String>,
}

impl Item {
    /// An item that is as it should be.
    #[must_use]
    pub fn ok(section: Section, check: &str, looked_at: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(section, check, Verdict::Ok, looked_at.into(), found.into())
    }

    /// An item that could not be looked at.
    #[must_use]
    pub fn skipped(section: Section, check: &str, looked_at: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(section, check, Verdict::Skipped, looked_at.into(), found.into())
    }

    /// An item with a warning.
    #[must_use]
    pub fn warning(section: Section, check: &str, looked_at: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(section, check, Verdict::Warning, looked_at.into(), found.into())
    }

    /// An item that makes volumes fail.
    #[must_use]
    pub fn fault(section: Section, check: &str, looked_at: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(section, check, Verdict::Fault, looked_at.into(), found.into())
    }

    fn new(section: Section, check: &str, status: Verdict, looked_at: String, found: String) -> Self {
        let (check, advice) = (check.to_owned(), String::new());
        Self { section, check, entry: None, status, looked_at, found, advice, commands: Vec::new() }
    }

    /// Adds advice.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// Adds a command.
    #[must_use]
    pub fn run(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }
}

/// Whose mount namespace was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeletProcess {
    /// The process.
    pub pid: i32,
    /// Its command's name; empty if there is no such process.
    pub name: String,
}

/// The whole report: the JSON object that `hostmount check --json` prints. Version 1 only ever gains fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The version of this shape: 1.
    pub version: u32,
    /// Whether there is no fault. The exit code is 0 if so, else 1.
    pub ok: bool,
    /// How many items are faults.
    pub faults: usize,
    /// How many are warnings.
    pub warnings: usize,
    /// How many could not be looked at.
    pub skipped: usize,
    /// The driver's name.
    pub driver: String,
    /// The kernel's release.
    pub kernel: String,
    /// The process whose mount namespace was looked at.
    pub kubelet: KubeletProcess,
    /// Every item, in the order of its section.
    pub items: Vec<Item>,
}

impl Report {
    /// A report of its items.
    #[must_use]
    pub fn new(driver: &str, kernel: &str, kubelet: KubeletProcess, items: Vec<Item>) -> Self {
        let count = |status| items.iter().filter(|item| item.status == status).count();
        let faults = count(Verdict::Fault);
        Self {
            version: 1,
            ok: faults == 0,
            faults,
            warnings: count(Verdict::Warning),
            skipped: count(Verdict::Skipped),
            driver: driver.to_owned(),
            kernel: kernel.to_owned(),
            kubelet,
            items,
        }
    }

    /// The report for a terminal.
    #[must_use]
    pub fn text(&self, colour: bool) -> String {
        let paint = Paint { colour };
        let mut out = format!("hostmount check: {} on Linux {}\n", self.driver, self.kernel);
        for section in Section::ALL {
            let items: Vec<&Item> = self.items.iter().filter(|item| item.section == section).collect();
            if !items.is_empty() {
                // Writing to a String can't fail.
                let _ = writeln!(out, "\n{}", paint.with("1", section.title()));
                items.into_iter().for_each(|item| write_item(&mut out, item, paint));
            }
        }
        let _ = writeln!(out, "\n{}", self.verdict(paint));
        out
    }

    fn verdict(&self, paint: Paint) -> String {
        let ok = self.items.iter().filter(|item| item.status == Verdict::Ok).count();
        let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let mut parts = vec![plural(self.faults, "fault"), plural(self.warnings, "warning"), format!("{ok} ok")];
        if self.skipped > 0 {
            parts.push(format!("{} not looked at", self.skipped));
        }
        let status = if self.ok { Verdict::Ok } else { Verdict::Fault };
        let end = if self.ok { "." } else { ": volumes will fail until the faults are mended." };
        painted(paint, status, &format!("{}{end}", parts.join(", ")))
    }
}

/// The column at which text begins, and the one before which lines are broken.
const TEXT: usize = 10;
const WIDTH: usize = 110;

const fn word(status: Verdict) -> &'static str {
    match status {
        Verdict::Ok => "ok",
        Verdict::Skipped => "-",
        Verdict::Warning => "warning",
        Verdict::Fault => "FAULT",
    }
}

fn write_item(out: &mut String, item: &Item, paint: Paint) {
    let entry = item.entry.as_ref().map_or(String::new(), |name| format!("{name}: "));
    let text = format!("{entry}{}: {}", item.looked_at, item.found);
    let word = word(item.status);
    let _ = write!(out, "{}{:2$}", painted(paint, item.status, word), "", TEXT - word.len());
    write_wrapped(out, &text, TEXT);
    if !item.advice.is_empty() {
        let _ = write!(out, "{:TEXT$}→ ", "");
        write_wrapped(out, &item.advice, TEXT + 2);
    }
    for command in &item.commands {
        // Never broken: it is to be copied.
        let _ = writeln!(out, "{:1$}{command}", "", TEXT + 4);
    }
}

/// Writes a text, indented by `indent` columns, with line breaks between words.
fn write_wrapped(out: &mut String, text: &str, indent: usize) {
    let mut column = indent;
    for (n, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        if n > 0 && column + 1 + length > WIDTH {
            let _ = write!(out, "\n{:indent$}{word}", "");
            column = indent + length;
        } else {
            let space = if n > 0 { " " } else { "" };
            let _ = write!(out, "{space}{word}");
            column += space.len() + length;
        }
    }
    out.push('\n');
}

fn painted(paint: Paint, status: Verdict, text: &str) -> String {
    let code = match status {
        Verdict::Ok => "32",
        Verdict::Skipped => "2",
        Verdict::Warning => "1;33",
        Verdict::Fault => "1;31",
    };
    paint.with(code, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let long = Item::fault(Section::Kubelet, "kubeletShared", "/var/lib/kubelet", "is private ".repeat(20).trim());
        let items = vec![
            Item::ok(Section::Node, "kernelCalls", "kernel calls", "all there"),
            long.advise("make it shared").run(format!("mount {}", "x ".repeat(80))),
            Item::skipped(Section::AllowList, "allowList", "allow-list", "none was named"),
        ];
        Report::new("csi.x", "6.18", KubeletProcess { pid: 7, name: "kubelet".to_owned() }, items)
    }

    #[test]
    fn a_fault_decides_and_a_warning_does_not() {
        assert!(!report().ok);
        let only = |item| Report::new("d", "k", KubeletProcess { pid: 1, name: String::new() }, vec![item]);
        assert!(only(Item::warning(Section::Node, "x", "a", "b")).ok);
        assert!(only(Item::skipped(Section::Node, "x", "a", "b")).ok);
    }

    #[test]
    fn lines_are_broken_but_commands_are_not() {
        let text = report().text(false);
        assert!(!text.contains('\x1b') && report().text(true).contains("\x1b[1;31mFAULT"));
        let (commands, others): (Vec<&str>, Vec<&str>) = text.lines().partition(|l| l.contains("mount x"));
        assert_eq!(commands.len(), 1);
        assert!(others.iter().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.contains("\nok        kernel calls: all there\n"), "{text}");
        assert!(text.contains("1 fault, 0 warnings, 1 ok, 1 not looked at: volumes"), "{text}");
    }

    #[test]
    fn the_json_has_its_documented_shape_and_comes_back() {
        let report = report();
        let value = serde_json::to_value(&report).unwrap();
        let expected = serde_json::json!({
            "section": "node", "check": "kernelCalls", "entry": null, "status": "ok", "lookedAt": "kernel calls",
            "found": "all there", "advice": "", "commands": [],
        });
        assert_eq!(value["items"][0], expected);
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        let documented = ["driver", "faults", "items", "kernel", "kubelet", "ok", "skipped", "version", "warnings"];
        assert_eq!(keys, documented);
        assert_eq!(value["kubelet"], serde_json::json!({"pid": 7, "name": "kubelet"}));
        assert_eq!(serde_json::from_value::<Report>(value).unwrap(), report);
    }
}
