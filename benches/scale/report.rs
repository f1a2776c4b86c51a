//! The figures as tables for people.

use std::fmt::Write;

use serde_json::Value;

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn rows<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Every how many rows of a long list one is shown: about eleven, the first and the last among them.
fn shown(rows: &[Value]) -> impl Iterator<Item = &Value> {
    let every = rows.len().div_ceil(10).max(1);
    rows.iter().enumerate().filter(move |(n, _)| n % every == 0 || n + 1 == rows.len()).map(|(_, row)| row)
}

/// All tables.
pub(crate) fn tables(figures: &Value) -> String {
    let mut text = String::new();
    // Writing to a text can't fail.
    let _ = hold(&mut text, &figures["hold"]).and_then(|()| event(&mut text, &figures["event"]));
    text
}

fn growth(text: &mut String, title: &str, rows: &[Value], call: &str) -> std::fmt::Result {
    writeln!(text, "\n{title} [us]; direct: the same system calls without a plugin, at the same time")?;
    writeln!(text, "{:>8} {:>8} {:>8} {:>8} {:>10} {:>9}", "held", "p50", "p99", "max", "direct p50", "p50 ratio")?;
    for row in shown(rows) {
        let (p50, direct) = (number(row, &format!("/{call}/p50")), number(row, "/direct/p50"));
        writeln!(
            text,
            "{:>8} {p50:>8.0} {:>8.0} {:>8.0} {direct:>10.0} {:>9.2}",
            number(row, "/held"),
            number(row, &format!("/{call}/p99")),
            number(row, &format!("/{call}/max")),
            p50 / direct
        )?;
    }
    Ok(())
}

fn hold(text: &mut String, figures: &Value) -> std::fmt::Result {
    writeln!(text, "{} volumes on one plugin, HostToContainer, one caller", number(figures, "/volumes"))?;
    growth(text, "publish, per step of as many", rows(figures, "/growing"), "publish")?;
    growth(text, "unpublish, per step of as many", rows(figures, "/shrinking"), "unpublish")?;
    let seconds = |path| number(figures, path);
    writeln!(
        text,
        "all published in {:.1} s, all unpublished in {:.1} s, direct calls included",
        seconds("/publishedSeconds"),
        seconds("/unpublishedSeconds")
    )?;
    writeln!(text, "\nholding them (mountinfo: one reading of the node's table, by us)")?;
    writeln!(
        text,
        "{:>8} {:>9} {:>9} {:>8} {:>10} {:>10} {:>10} {:>10} {:>9} {:>9} {:>10}",
        "held",
        "RSS MiB",
        "most MiB",
        "idle %",
        "elsewhere",
        "one more",
        "scrape",
        "again",
        "stats",
        "health",
        "mountinfo"
    )?;
    writeln!(
        text,
        "{:>8} {:>9} {:>9} {:>8} {:>10} {:>10} {:>10} {:>10} {:>9} {:>9} {:>10}",
        "", "", "", "of core", "CPU us", "CPU us", "us", "us", "p50 us", "p50 us", "us"
    )?;
    for row in rows(figures, "/holding") {
        let mib = |path| number(row, path) / 1024.0;
        writeln!(
            text,
            "{:>8} {:>9.1} {:>9.1} {:>8.3} {:>10.0} {:>10.0} {:>10.0} {:>10.0} {:>9.0} {:>9.0} {:>10.0}",
            number(row, "/held"),
            mib("/residentKiB"),
            mib("/residentMostKiB"),
            number(row, "/idleCpuPercent"),
            number(row, "/mountElsewhereCpuUs"),
            number(row, "/oneMoreCpuUs"),
            number(row, "/scrapeUs"),
            number(row, "/scrapeAgainUs"),
            number(row, "/stats/p50"),
            number(row, "/health/p50"),
            number(row, "/readMountinfoUs"),
        )?;
    }
    let restart = &figures["restart"];
    let ms = |path| number(restart, path) / 1000.0;
    writeln!(
        text,
        "\nkilled and started with {} held: Probe after {:.0} ms, of which a new mount namespace takes {:.0} ms (ratio \
         {:.2}); quiet after {:.0} ms, {:.0} ms of CPU; RSS {:.1} MiB",
        number(restart, "/held"),
        ms("/untilProbeUs"),
        ms("/namespaceUs"),
        ms("/untilProbeUs") / ms("/namespaceUs"),
        ms("/untilQuietUs"),
        ms("/ranUs"),
        number(restart, "/residentKiB") / 1024.0
    )?;
    writeln!(text, "RSS after all were unpublished: {:.1} MiB", number(figures, "/residentAfterKiB") / 1024.0)
}

fn event(text: &mut String, figures: &Value) -> std::fmt::Result {
    writeln!(
        text,
        "\none event at the source for {} pods, each with a container; median of {}",
        number(figures, "/pods"),
        number(figures, "/events")
    )?;
    writeln!(
        text,
        "{:>16} {:>9} {:>9} {:>6} {:>9} {:>9} {:>6} {:>12} {:>11} {:>13}",
        "", "mount us", "direct", "ratio", "umount us", "direct", "ratio", "plugin busy", "CPU, mount", "CPU, unmount"
    )?;
    for row in rows(figures, "/of") {
        let pair = |name: &str| (number(row, &format!("/published/{name}")), number(row, &format!("/direct/{name}")));
        let ((mount, direct), (unmount, direct_unmount)) = (pair("mountUs"), pair("unmountUs"));
        writeln!(
            text,
            "{:>16} {mount:>9.0} {direct:>9.0} {:>6.2} {unmount:>9.0} {direct_unmount:>9.0} {:>6.2} {:>12.0} {:>11.0} \
             {:>13.0}",
            row["propagation"].as_str().unwrap_or_default(),
            mount / direct,
            unmount / direct_unmount,
            number(row, "/published/pluginBusyUs"),
            number(row, "/published/pluginMountCpuUs"),
            number(row, "/published/pluginUnmountCpuUs"),
        )?;
    }
    Ok(())
}
