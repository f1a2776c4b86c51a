//! A report as tables for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::figures::{CATALOGUE, Entry, Figure, Group};
use crate::report::{Beside, Column, Report};
use crate::samples::Memory;
use crate::targets::Target;

/// How wide the names of the figures are.
const NAME: usize = 44;
/// How wide a column is.
const WIDE: usize = 26;

/// Thousands apart.
pub(crate) fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number with as many digits as it deserves.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn cell(figure: Option<&Figure>) -> String {
    figure.map_or_else(
        || "-".to_owned(),
        |figure| match (figure.low, figure.high) {
            (Some(low), Some(high)) => format!("{} ({}..{})", shown(figure.value), shown(low), shown(high)),
            _ => shown(figure.value),
        },
    )
}

fn line(out: &mut String, name: &str, cells: impl IntoIterator<Item = String>) {
    // Writing to a String can't fail: so it is with each `write!` in this file.
    let _ = write!(out, "{name:<NAME$}");
    for cell in cells {
        let _ = write!(out, "{cell:>WIDE$}");
    }
    out.push('\n');
}

const fn heading(group: Group) -> &'static str {
    match group {
        Group::One => "one caller, one kept connection",
        Group::Fresh => "one caller, a connection for each call, as the kubelet does it",
        Group::Many => "many callers, a kept connection each",
        Group::Processor => "processor time of the driver, its children included",
    }
}

/// All figures that at least one of the columns has.
fn figures(out: &mut String, columns: &[&BTreeMap<&'static str, Figure>], unit: impl Fn(&Entry) -> &'static str) {
    let mut last = None;
    for entry in CATALOGUE.iter().filter(|entry| columns.iter().any(|column| column.contains_key(entry.key))) {
        if last != Some(entry.group) {
            let _ = writeln!(out, " {}", heading(entry.group));
            last = Some(entry.group);
        }
        let unit = unit(entry);
        let name = if unit.is_empty() { format!("  {}", entry.what) } else { format!("  {}, {unit}", entry.what) };
        line(out, &name, columns.iter().map(|column| cell(column.get(entry.key))));
    }
}

fn name_of(column: &Column) -> String {
    if column.crowd > 0 {
        return format!("{} other mounts", grouped(column.crowd));
    }
    format!("{} held", grouped(column.held))
}

fn memory(out: &mut String, all: &[Memory]) {
    let row = |name, part: fn(&Memory) -> u64| (name, all.iter().map(move |memory| part(memory).to_string()));
    for (name, cells) in [
        row("  resident (VmRSS), KiB", |memory| memory.resident),
        row("  proportional (Pss), KiB", |memory| memory.proportional),
        row("  anonymous, KiB", |memory| memory.anonymous),
    ] {
        line(out, name, cells);
    }
}

fn columns(out: &mut String, all: &[&Column], heads: impl Fn(&Column) -> String) {
    line(out, "", all.iter().map(|column| heads(column)));
    let of: Vec<_> = all.iter().map(|column| &column.figures).collect();
    figures(out, &of, Entry::unit);
    out.push_str(" memory of the driver, a second after the last was published\n");
    memory(out, &all.iter().map(|column| column.memory).collect::<Vec<_>>());
    out.push_str(" memory of the driver, a second after all rounds\n");
    memory(out, &all.iter().map(|column| column.memory_after).collect::<Vec<_>>());
    line(out, "  to publish what is held, s", all.iter().map(|column| shown(column.fill_seconds)));
}

fn target(out: &mut String, target: &Target) {
    let sign = if target.least { ">=" } else { "<=" };
    let verdict = if target.met { "met" } else { "MISSED" };
    let _ = writeln!(out, "  {:<62}{:>9}  {sign} {:<6}{verdict}", target.what, shown(target.value), target.limit);
}

/// The whole report.
pub(crate) fn text(report: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} rounds on Linux {} with {} processors; many callers are {}.\n\
         Figures are the median of the rounds, with their quartiles (a..b); p99 and processor time are of all rounds.\n\
         direct: the same system calls without a driver, in the same namespace and rounds.\n",
        report.rounds, report.kernel, report.processors, report.callers
    );
    if report.others > 0 {
        let _ = writeln!(
            out,
            "In every namespace are {} other mounts, as on a node that runs pods.\n",
            grouped(report.others)
        );
    }
    let alone: Vec<_> = report.columns.iter().filter(|column| column.beside == Beside::Itself).collect();
    if !alone.is_empty() {
        out.push_str("hostmount, with volumes held\n");
        columns(&mut out, &alone, name_of);
    }
    if !report.growth.is_empty() {
        out.push_str("\nhostmount: what it costs with volumes held : with none, round by round\n");
        let named = |held: usize, crowd: usize| {
            if crowd > 0 { format!("{} other mounts", grouped(crowd)) } else { format!("{} held", grouped(held)) }
        };
        line(&mut out, "", report.growth.iter().map(|growth| named(growth.held, growth.crowd)));
        figures(&mut out, &report.growth.iter().map(|growth| &growth.figures).collect::<Vec<_>>(), |_| "");
    }
    let mut helds: Vec<usize> = report.advantages.iter().map(|advantage| advantage.held).collect();
    helds.dedup();
    for held in helds {
        let _ = writeln!(out, "\nside by side, {} held", grouped(held));
        let side: Vec<_> =
            report.columns.iter().filter(|column| column.beside == Beside::Peers && column.held == held).collect();
        columns(&mut out, &side, |column| column.driver.clone());
        let _ = writeln!(out, "\nhow many times as good hostmount is, {} held, round by round", grouped(held));
        let ratios: Vec<_> = report.advantages.iter().filter(|advantage| advantage.held == held).collect();
        line(&mut out, "", ratios.iter().map(|ratio| ratio.peer.clone()));
        figures(&mut out, &ratios.iter().map(|ratio| &ratio.figures).collect::<Vec<_>>(), |_| "");
    }
    out.push_str("\ndrivers\n");
    line(&mut out, "", report.drivers.iter().map(|driver| driver.name.clone()));
    line(&mut out, "  binary, KiB", report.drivers.iter().map(|driver| (driver.binary_bytes / 1024).to_string()));
    line(
        &mut out,
        "  start to first good Probe, ms",
        report.drivers.iter().map(|driver| cell(driver.start_ms.as_ref())),
    );
    out.push_str(" memory, idle\n");
    memory(&mut out, &report.drivers.iter().map(|driver| driver.idle).collect::<Vec<_>>());
    if let Some(bytes) = report.image_bytes {
        let _ = writeln!(out, "  image archive, KiB{:>26}", bytes / 1024);
    }
    out.push_str("\ntargets\n");
    for one in &report.targets {
        target(&mut out, one);
    }
    for why in &report.skipped {
        let _ = writeln!(out, "\nSKIPPED: {why}");
    }
    out
}
