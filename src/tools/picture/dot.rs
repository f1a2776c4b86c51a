//! The picture as a graph in the dot language, for graphviz and whatever else reads it.

use std::fmt::Write;

use model::machine::Machine;
use text::visible;

use crate::picture::layout::{Chip, Layout};
use crate::picture::outline::{Outline, What};
use crate::picture::text::dot as quoted;
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
        "// {}\ndigraph hostmount {{\n  label={};\n  rankdir=LR; nodesep=0.12; ranksep=0.4; fontname=\"sans-serif\";\n  \
         node [shape=box, style=rounded, fontname=\"monospace\", fontsize=10, height=0.25, margin=\"0.08,0.03\"];\n  \
         edge [color=gray, arrowsize=0.6];",
        summary(machine, &outline),
        quoted(&visible(&options.title)),
    );
    for (number, (card, column)) in layout.cards.iter().zip(&outline.columns).enumerate() {
        let _ = writeln!(
            out,
            "  subgraph cluster_{number} {{\n    label={}; color=gray; style=rounded;",
            quoted(&column.title)
        );
        for (at, line) in card.lines.iter().enumerate() {
            let (label, about, style) = match line.row.what {
                What::Mount(_, mount) => {
                    let chips: Vec<String> = line.chips.iter().map(|&(chip, _)| said(chip)).collect();
                    let of_type = visible(&mount.fs_type);
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
        let about =
            if wire.count > 1 { format!("{} mounts", wire.count) } else { format!("peer group {}", wire.group) };
        let kind = if wire.to_slave { "penwidth=1.2" } else { "dir=none, penwidth=2" };
        let ((a, b), (c, d)) = (wire.from, wire.to);
        let _ = writeln!(
            out,
            "  n{a}_{b} -> n{c}_{d} [color=\"{colour}\", tooltip=\"{about}\", {kind}, constraint=false];"
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::machine;

    #[test]
    fn trees_are_in_clusters_and_links_between_them() {
        let machine = machine(&[
            "1 0 0:1 / / rw shared:1 - ext4 a rw\n2 1 0:2 / /a\"b rw - t t rw\n",
            "3 0 0:1 / / rw shared:1 - ext4 a rw\n",
            "4 0 0:1 / / rw master:1 - ext4 a rw\n",
        ]);
        let text = dot(&machine, &Options::default());
        assert_eq!(text.matches("subgraph cluster_").count(), 3);
        assert!(text.contains("n0_1 [label=\"/a\\\"b\\nt\""), "{text}");
        assert!(text.contains("n0_0 -> n0_1 [arrowhead=none];"));
        assert!(text.contains("n0_0 -> n1_0 [color=\"#3b82f6\", tooltip=\"peer group 1\", dir=none"), "{text}");
        assert!(text.contains("n1_0 -> n2_0 [color=\"#3b82f6\", tooltip=\"peer group 1\", penwidth=1.2"), "{text}");
    }
}
