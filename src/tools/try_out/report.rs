//! The result, as text and as JSON.

use std::fmt::Write;

use serde::Serialize;
use text::paint::Paint;
use text::table::{Column, Columns};

use super::leftovers::Check;
use super::node::Isolation;
use super::scenario::{Cell, DOCUMENTATION, Event, Viewpoint};

/// The whole result: the object that `hostmount try --json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether every cell is as documented and every check holds. The exit code is 0 if so, else 1.
    pub ok: bool,
    /// The kernel's release.
    pub kernel: String,
    /// `userNamespace`, or `mountNamespace` for root where user namespaces are forbidden.
    pub isolation: Isolation,
    /// Where the expectations are from.
    pub documentation: &'static str,
    /// One object for each of the three propagation modes.
    pub modes: Vec<ModeReport>,
    /// The conditions after unpublishing: `{what, wrong}`; `wrong` is empty if the condition holds.
    pub checks: Vec<Check>,
    /// How long it all took.
    pub milliseconds: u64,
}

/// What was seen with one propagation mode.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModeReport {
    /// `None`, `HostToContainer` or `Bidirectional`.
    pub mode: &'static str,
    /// The kernel's flags.
    pub flags: Flags,
    /// Who saw what: each of four mounts at each of three places.
    pub cells: Vec<Cell>,
}

/// The kernel's flags of each mount from the source to the containers: `private`, `shared:GROUP`,
/// `slave:GROUP` or `shared:GROUP,slave:GROUP`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flags {
    /// Of the node's directory.
    pub source: String,
    /// Of the target paths of pod A and pod B, which the plugin made.
    pub targets: [String; 2],
    /// Of `/data` in the containers of pod A and pod B, which the runtime made of the targets.
    pub containers: [String; 2],
}

impl Report {
    /// Whether every cell is as documented and every check holds.
    #[must_use]
    pub fn judge(modes: &[ModeReport], checks: &[Check]) -> bool {
        !modes.is_empty() && modes.iter().all(|m| !m.cells.iter().any(Cell::differs)) && checks.iter().all(Check::holds)
    }

    /// The report as a JSON object.
    ///
    /// # Errors
    /// None that a report of these types can cause.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The report as tables for a terminal.
    #[must_use]
    pub fn text(&self, colour: bool) -> String {
        let paint = Paint { colour };
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = self.write(&mut out, &paint);
        out
    }

    fn write(&self, out: &mut String, paint: &Paint) -> std::fmt::Result {
        writeln!(
            out,
            "A node, the plugin and six containers, in {} of their own (Linux {}).",
            self.isolation.name(),
            self.kernel
        )?;
        writeln!(out, "Who sees a mount that was made ... (documented: {DOCUMENTATION})\n")?;
        writeln!(out, "{HEAD}")?;
        for mode in &self.modes {
            write_mode(out, mode, paint)?;
        }
        for mode in &self.modes {
            for cell in mode.cells.iter().filter(|cell| cell.differs()) {
                writeln!(out, "{}", paint.bad(&sentence(mode.mode, cell)))?;
            }
        }
        write_checks(out, &self.checks, paint)?;
        let verdict = if self.ok {
            paint.good("All as Kubernetes documents, and nothing is left.")
        } else {
            paint.bad("NOT as Kubernetes documents, or something is left: see above.")
        };
        writeln!(out, "\n{verdict} ({} ms)", self.milliseconds)
    }
}

const HEAD: &str = "\
MODE             AT     SEEN                           DOCUMENTED                     KERNEL'S FLAGS
                        before  on node  in A   in B   before  on node  in A   in B";

/// The first column of what was seen.
const FIRST_SEEN: usize = 2;

/// The columns beneath [`HEAD`], whose two lines have words that span several of them.
fn columns() -> Columns {
    let events = Event::ALL.map(width);
    let widths = [17, 7].into_iter().chain(events).chain(events).chain([usize::MAX]);
    Columns::new(widths.map(|width| Column { width, right: false }), 0)
}

fn write_mode(out: &mut String, mode: &ModeReport, paint: &Paint) -> std::fmt::Result {
    let columns = columns();
    for (index, place) in Viewpoint::ALL.into_iter().enumerate() {
        let name = if index == 0 { mode.mode } else { "" };
        let row: Vec<&Cell> = mode.cells.iter().filter(|cell| cell.place == place).collect();
        let cell = |event| row.iter().find(|cell| cell.event == event);
        let seen = |event| cell(event).map_or_else(|| "?".to_owned(), |cell| seen(cell));
        let documented = |event| cell(event).map_or("?", |cell| mark(cell.documented)).to_owned();
        let flags = match place {
            Viewpoint::Node => format!("source {}", mode.flags.source),
            Viewpoint::PodA => format!("target {} -> /data {}", mode.flags.targets[0], mode.flags.containers[0]),
            Viewpoint::PodB => format!("target {} -> /data {}", mode.flags.targets[1], mode.flags.containers[1]),
        };
        let mut cells = vec![name.to_owned(), place.name().to_owned()];
        cells.extend(Event::ALL.map(seen));
        cells.extend(Event::ALL.map(documented));
        cells.push(flags);
        let differs = Event::ALL.map(|event| cell(event).is_some_and(|cell| cell.differs()));
        let is_bad = |at: usize| at.checked_sub(FIRST_SEEN).and_then(|n| differs.get(n)) == Some(&true);
        columns.line(out, &cells, |at, text| if is_bad(at) { paint.bad(text) } else { text.to_owned() });
    }
    writeln!(out)
}

/// Writes the checks, and beneath each what is wrong.
pub fn write_checks(out: &mut String, checks: &[Check], paint: &Paint) -> std::fmt::Result {
    for check in checks {
        if check.holds() {
            writeln!(out, "{} {}", mark(true), check.what)?;
        } else {
            writeln!(out, "{}", paint.bad(&format!("✗ {}: NO", check.what)))?;
            for wrong in &check.wrong {
                writeln!(out, "    {wrong}")?;
            }
        }
    }
    Ok(())
}

const fn mark(yes: bool) -> &'static str {
    if yes { "✓" } else { "–" }
}

const fn width(event: Event) -> usize {
    match event {
        Event::Before => 8,
        Event::NodeLate => 9,
        Event::PodA | Event::PodB => 7,
    }
}

fn sentence(mode: &str, cell: &Cell) -> String {
    let (found, wanted) = if cell.seen { ("is seen", "isn't") } else { ("isn't seen", "is") };
    format!(
        "DIFFERS: {mode}: the mount made {} {found} {}; Kubernetes documents that it {wanted}.",
        cell.event.phrase(),
        cell.place.phrase()
    )
}

/// What was seen, with `!` behind it where the documentation says otherwise.
fn seen(cell: &Cell) -> String {
    format!("{}{}", mark(cell.seen), if cell.differs() { "!" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mounts::propagation::MountPropagation;

    fn report(wrong: Option<(MountPropagation, Event, Viewpoint)>) -> Report {
        let modes: Vec<ModeReport> = MountPropagation::ALL
            .into_iter()
            .map(|mode| ModeReport {
                mode: mode.name(),
                flags: Flags {
                    source: "shared:1".to_owned(),
                    targets: ["shared:2,slave:1".to_owned(), "shared:3,slave:1".to_owned()],
                    containers: ["slave:2".to_owned(), "slave:3".to_owned()],
                },
                cells: Event::ALL
                    .into_iter()
                    .flat_map(|event| Viewpoint::ALL.map(|place| (event, place)))
                    .map(|(event, place)| {
                        let right = super::super::scenario::documented(mode, event, place);
                        Cell::new(mode, event, place, right != (wrong == Some((mode, event, place))))
                    })
                    .collect(),
            })
            .collect();
        let checks = vec![Check::new("nothing is left", Vec::new())];
        Report {
            ok: Report::judge(&modes, &checks),
            kernel: "6.18".to_owned(),
            isolation: Isolation::UserNamespace,
            documentation: DOCUMENTATION,
            modes,
            checks,
            milliseconds: 7,
        }
    }

    #[test]
    fn one_differing_cell_of_any_kind_spoils_it() {
        assert!(report(None).ok);
        for mode in MountPropagation::ALL {
            for event in Event::ALL {
                for place in Viewpoint::ALL {
                    assert!(!report(Some((mode, event, place))).ok, "{mode} {event:?} {place:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_tried_and_something_left_spoil_it_too() {
        assert!(!Report::judge(&[], &[]));
        let modes = report(None).modes;
        assert!(Report::judge(&modes, &[]));
        assert!(!Report::judge(&modes, &[Check::new("x", vec!["y exists".to_owned()])]));
    }

    #[test]
    fn the_table_is_aligned_and_marks_the_differing_cell() {
        let wrong = (MountPropagation::HostToContainer, Event::NodeLate, Viewpoint::PodA);
        let (good, bad) = (report(None).text(false), report(Some(wrong)).text(false));
        let column = |text: &str| -> Vec<usize> {
            let flags =
                |l: &str| ["source ", "target "].iter().find_map(|word| l.find(word).map(|at| l[..at].chars().count()));
            text.lines().filter_map(flags).collect()
        };
        assert_eq!(column(&good).len(), 9, "{good}");
        let head = HEAD.find("KERNEL").unwrap();
        assert!(column(&good).iter().chain(&column(&bad)).all(|&at| at == head), "{good}{bad}");
        assert!(!good.contains("DIFFERS") && good.contains("nothing is left. (7 ms)"), "{good}");
        assert!(bad.contains("–!") && bad.contains("HostToContainer: the mount made on the node"), "{bad}");
        assert!(!bad.contains('\x1b') && report(Some(wrong)).text(true).contains("\x1b[1;31m"));
    }

    #[test]
    fn the_json_names_every_cell() {
        let value: serde_json::Value = serde_json::from_str(&report(None).json().unwrap()).unwrap();
        assert_eq!(value["ok"], true);
        assert_eq!(value["isolation"], "userNamespace");
        assert_eq!(value["modes"][1]["mode"], "HostToContainer");
        let cell = &value["modes"][1]["cells"][5];
        assert_eq!(cell, &serde_json::json!({"event": "nodeLate", "place": "podB", "seen": true, "documented": true}));
    }
}
