//! A picture of cost over the number of volumes held: SVG that stands for itself, light or dark as its reader's desktop is.
//!
//! Both axes are logarithmic, because drivers differ by factors and not by amounts; nothing held has a place of its own left of
//! the axis' break. Each line carries its name at its end, so that it is read without a legend and without its colour.

use std::fmt::Write;

use tools::picture::text::xml;

use crate::stats::number;
use crate::table::grouped;

/// A line of the picture.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// What it shows.
    pub(crate) name: String,
    /// Which of the colours: one for each driver.
    pub(crate) colour: usize,
    /// Whether it is dashed: publish and unpublish of a driver have one colour.
    pub(crate) dashed: bool,
    /// Volumes held, and µs.
    pub(crate) points: Vec<(usize, f64)>,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 640.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 412.0;
/// How far nothing held stands from the axis' begin.
const BREAK: f64 = 70.0;
/// The least distance between two names.
const LEADING: f64 = 15.0;

const STYLE: &str = "\
.cost{--paper:#f4f6f8;--ink:#1c2430;--dim:#5c6776;--grid:#d5dae1;color-scheme:light dark;\
font-family:system-ui,-apple-system,\"Segoe UI\",Roboto,\"DejaVu Sans\",sans-serif}\
.cost .c0{color:#5c6776}.cost .c1{color:#2563eb}.cost .c2{color:#c2410c}.cost .c3{color:#15803d}.cost .c4{color:#7c3aed}\
@media (prefers-color-scheme:dark){\
.cost{--paper:#12161c;--ink:#e6eaf0;--dim:#98a3b3;--grid:#323b48}\
.cost .c0{color:#98a3b3}.cost .c1{color:#6ea8fe}.cost .c2{color:#fb923c}.cost .c3{color:#4ade80}.cost .c4{color:#b79bff}}\
.cost .paper{fill:var(--paper)}.cost .head{font-size:16px;font-weight:600;fill:var(--ink)}\
.cost .note,.cost .tick,.cost .axis{font-size:12px;fill:var(--dim)}.cost .axis{font-size:13px}\
.cost .grid{stroke:var(--grid);fill:none}.cost .line{fill:none;stroke:currentColor;stroke-width:2.2}\
.cost .dashed{stroke-dasharray:6 4}.cost .lead{fill:none;stroke:currentColor;opacity:.5}\
.cost circle{fill:currentColor}.cost .name{font-size:12.5px;fill:currentColor}";

/// A time with its unit.
pub(crate) fn time(us: f64) -> String {
    if us < 9.95 {
        format!("{us:.1} µs")
    } else if us < 1_000.0 {
        format!("{us:.0} µs")
    } else if us < 10_000.0 {
        format!("{:.1} ms", us / 1e3)
    } else if us < 1e6 {
        format!("{:.0} ms", us / 1e3)
    } else {
        format!("{:.1} s", us / 1e6)
    }
}

/// What is where.
struct Scale {
    /// The least and the largest power of ten of the times.
    y: (f64, f64),
    /// The logarithms of the least and the largest number above 0.
    x: (f64, f64),
}

impl Scale {
    fn of(lines: &[Line]) -> Option<Self> {
        let points = || lines.iter().flat_map(|line| &line.points);
        let times = || points().map(|point| point.1).filter(|us| *us > 0.0);
        let least = times().reduce(f64::min)?;
        let most = times().reduce(f64::max)?;
        let (low, high) = (least.log10().floor(), most.log10().ceil());
        let helds = || points().map(|point| point.0).filter(|held| *held > 0);
        let x = (
            helds().min().map_or(0.0, |held| number(held).log10()),
            helds().max().map_or(1.0, |held| number(held).log10()),
        );
        Some(Self { y: (low, high.max(low + 1.0)), x })
    }

    fn x(&self, held: usize) -> f64 {
        let (first, last) = self.x;
        match held {
            0 => LEFT + BREAK / 4.0,
            _ if last > first => {
                LEFT + BREAK + (number(held).log10() - first) / (last - first) * (RIGHT - LEFT - BREAK)
            }
            _ => RIGHT,
        }
    }

    fn y(&self, us: f64) -> f64 {
        let (low, high) = self.y;
        BOTTOM - (us.log10() - low) / (high - low) * (BOTTOM - TOP)
    }
}

/// Where names stand that belong to some heights: in their order, none over another, as near as that allows.
pub(crate) fn apart(heights: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..heights.len()).collect();
    order.sort_by(|&a, &b| heights[a].total_cmp(&heights[b]));
    let mut placed = heights.to_vec();
    let mut least = f64::NEG_INFINITY;
    for &at in &order {
        placed[at] = placed[at].max(least);
        least = placed[at] + LEADING;
    }
    // What was pushed out below goes back up, and pushes in turn.
    let mut most = BOTTOM + 4.0;
    for &at in order.iter().rev() {
        placed[at] = placed[at].min(most);
        most = placed[at] - LEADING;
    }
    placed
}

/// Draws the lines. None if there is nothing to draw.
pub(crate) fn svg(title: &str, note: &str, lines: &[Line]) -> Option<String> {
    let scale = Scale::of(lines)?;
    let mut out = String::new();
    // Writing to a String can't fail: so it is with each `write!` in this file.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"cost\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"cost-title cost-desc\">\n\
         <title id=\"cost-title\">{}</title>\n<desc id=\"cost-desc\">{}</desc>\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"10\"/>\n\
         <text class=\"head\" x=\"20\" y=\"28\">{}</text>\n<text class=\"note\" x=\"20\" y=\"47\">{}</text>",
        xml(title),
        xml(&described(lines)),
        xml(title),
        xml(note),
    );
    axes(&mut out, &scale, lines);
    let ends: Vec<f64> = lines.iter().map(|line| line.points.last().map_or(TOP, |point| scale.y(point.1))).collect();
    for ((line, end), at) in lines.iter().zip(&ends).zip(apart(&ends)) {
        draw(&mut out, &scale, line, *end, at);
    }
    out.push_str("</svg>\n");
    Some(out)
}

/// The picture in words, for who doesn't see it.
fn described(lines: &[Line]) -> String {
    let told = |line: &Line| {
        let points: Vec<String> =
            line.points.iter().map(|&(held, us)| format!("{} at {} held", time(us), grouped(held))).collect();
        format!("{}: {}.", line.name, points.join(", "))
    };
    lines.iter().map(told).collect::<Vec<_>>().join(" ")
}

fn axes(out: &mut String, scale: &Scale, lines: &[Line]) {
    let (low, high) = scale.y;
    let mut power = low;
    while power <= high + 0.5 {
        let us = 10_f64.powf(power);
        let y = scale.y(us);
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/><text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            if us < 1e3 {
                format!("{us:.0} µs")
            } else if us < 1e6 {
                format!("{:.0} ms", us / 1e3)
            } else {
                format!("{:.0} s", us / 1e6)
            },
        );
        power += 1.0;
    }
    let mut helds: Vec<usize> = lines.iter().flat_map(|line| line.points.iter().map(|point| point.0)).collect();
    helds.sort_unstable();
    helds.dedup();
    for held in helds {
        let x = scale.x(held);
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{x:.1} {BOTTOM}v6\"/><text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            BOTTOM + 21.0,
            grouped(held),
        );
    }
    let at = LEFT + BREAK * 0.62;
    let _ = writeln!(
        out,
        "<path class=\"grid\" d=\"M{:.1} {:.1}l4 -10M{:.1} {:.1}l4 -10\"/>\n\
         <text class=\"axis\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">volumes held (logarithmic)</text>\n\
         <text class=\"axis\" text-anchor=\"middle\" transform=\"translate(18 {:.1}) rotate(-90)\">median of a call (logarithmic)</text>",
        at,
        BOTTOM + 5.0,
        at + 5.0,
        BOTTOM + 5.0,
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 45.0,
        f64::midpoint(TOP, BOTTOM),
    );
}

fn draw(out: &mut String, scale: &Scale, line: &Line, end: f64, name_at: f64) {
    let mut path = String::new();
    for (at, &(held, us)) in line.points.iter().enumerate() {
        let _ = write!(path, "{}{:.1} {:.1}", if at == 0 { 'M' } else { 'L' }, scale.x(held), scale.y(us));
    }
    let dashed = if line.dashed { " dashed" } else { "" };
    let _ = writeln!(out, "<g class=\"c{}\">\n<path class=\"line{dashed}\" d=\"{path}\"/>", line.colour.min(4));
    for &(held, us) in &line.points {
        let _ = writeln!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.2\"><title>{}, {} held: {}</title></circle>",
            scale.x(held),
            scale.y(us),
            xml(&line.name),
            grouped(held),
            time(us),
        );
    }
    let last = line.points.last().map_or(RIGHT, |point| scale.x(point.0));
    let _ = writeln!(
        out,
        "<path class=\"lead\" d=\"M{:.1} {end:.1}L{:.1} {name_at:.1}\"/><text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n</g>",
        last + 4.0,
        RIGHT + 12.0,
        RIGHT + 15.0,
        name_at + 4.0,
        xml(&line.name),
    );
}
