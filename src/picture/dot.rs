//! The picture as a graph in the dot language, for graphviz and whatever else reads it.

use std::fmt::Write;

use crate::machine::Machine;
use crate::picture::layout::{Chip, Layout};
use crate::picture::outline::{Outline, What};
use crate::picture::text::{dot as quoted, shown};
use crate::picture::{COLOURS, Options, summary, told};

/// For a white and for a black ground alike.
const PALETTE: [&str; COLOURS] =
    ["#3b82f6", "#ea580c", "#16a34a", "#8b5cf6", "#db2777", "#0d9488", "#ca8a04", "#dc2626", "#0284c7", "#65a30d"];

/// Writes a machine as a graph: a cluster for each namespace, an edge from each mount to what is mounted on it, an
/// undirected one between peers, and one from a peer group to each slave.
#[must_use]
pub fn dot(machine: &Machine, options: &Options) -> String {
    let outline = Outline::of(machine, options.all);
    let layout = Layout::of(&outline);
    let mut out = String::new();
    // Writing to a String can't fail: so it is with each `write!` in this file.
    let _ = writeln!(
        out,
        "// {}\ndigraph hostmount {{\n  label={};\n  rankdir=LR; newrank=true; nodesep=0.12; ranksep=0.4; fontname=\"sans-serif\";\n  \
         node [shape=box, style=rounded, fontname=\"monospace\", fontsize=10, height=0.25, margin=\"0.08,0.03\"];\n  \
         edge [fontname=\"sans-serif\", fontsize=9, color=gray, arrowsize=0.6];",
        summary(machine, &outline),
        quoted(&shown(&options.title)),
    );
    for (number, (card, column)) in layout.cards.iter().zip(&outline.columns).enumerate() {
        let _ = writeln!(out, "  subgraph cluster_{number} {{\n    label={}; color=gray; style=rounded;", quoted(&column.title));
        for (at, line) in card.lines.iter().enumerate() {
            let (label, about, style) = match line.row.what {
                What::Mount(_, mount) => {
                    let chips: Vec<String> = line.chips.iter().map(|&(chip, _)| said(chip)).collect();
                    let of_type = shown(&mount.fs_type);
                    (format!("{}\n{of_type} {}", line.row.label, chips.join(" ")), told(mount), "")
                }
                What::Fold(_) => (line.row.label.clone(), line.row.label.clone(), ", style=\"rounded,dashed\""),
            };
            let _ = writeln!(
                out,
                "    n{number}_{at} [label={}, tooltip={}{style}];",
                quoted(label.trim_end()),
                quoted(&about)
            );
            if let Some(parent) = line.parent {
                let _ = writeln!(out, "    n{number}_{parent} -> n{number}_{at} [arrowhead=none];");
            }
        }
        let _ = writeln!(out, "  }}");
    }
    for wire in &layout.wires {
        let colour = if wire.count > 1 { "gray40" } else { PALETTE[wire.colour % COLOURS] };
        let label = if wire.count > 1 { format!("{} ×", wire.count) } else { wire.group.to_string() };
        let kind = if wire.to_slave { "penwidth=1.2" } else { "dir=none, penwidth=2" };
        let ((a, b), (c, d)) = (wire.from, wire.to);
        let _ = writeln!(
            out,
            "  n{a}_{b} -> n{c}_{d} [color=\"{colour}\", fontcolor=\"{colour}\", label=\"{label}\", {kind}, constraint=false];"
        );
    }
    out.push_str("}\n");
    out
}

fn said(chip: Chip) -> String {
    match chip {
        Chip::Peers(group) => format!("shared:{group}"),
        Chip::Master(group) => format!("master:{group}"),
        Chip::Unbindable => "unbindable".to_owned(),
    }
}
