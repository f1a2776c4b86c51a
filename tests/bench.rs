//! The pure parts of `cargo bench --bench node`: order statistics, figures, targets, tables, the picture. A benchmark without
//! a harness runs no tests, so its files are included here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../benches/node/chart.rs"]
mod chart;
#[path = "../benches/node/figures.rs"]
mod figures;
#[path = "../benches/node/report.rs"]
mod report;
#[path = "../benches/node/samples.rs"]
mod samples;
#[path = "../benches/node/stats.rs"]
mod stats;
#[path = "../benches/node/table.rs"]
mod table;
#[path = "../benches/node/targets.rs"]
mod targets;

use std::collections::BTreeSet;

use chart::Line;
use figures::{CATALOGUE, Entry, Figure};
use report::{DriverFacts, Measured, Report};
use samples::{Burst, Memory, Round, Throughput};
use stats::{Spread, quantile};

fn entry(key: &str) -> &'static Entry {
    CATALOGUE.iter().find(|entry| entry.key == key).unwrap()
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9 * b.abs().max(1.0)
}

/// A round in which all takes `slow` times as long as on a quiet machine; the driver `times` as long as the floor.
fn round(slow: f64, times: f64) -> Round {
    let calls = |us: f64| vec![us * slow; 20];
    let burst = |seconds: f64| Burst {
        publish: calls(100.0),
        unpublish: calls(100.0),
        publish_took: seconds * slow,
        unpublish_took: seconds * slow,
        publish_cpu: 0.01,
        unpublish_cpu: 0.02,
    };
    Round {
        probe: calls(30.0),
        direct_publish: calls(20.0),
        direct_unpublish: calls(70.0),
        publish: calls(50.0 * times),
        unpublish: calls(100.0 * times),
        solo: burst(0.02),
        many: burst(0.001 * times),
        direct_solo: burst(0.001),
        direct_many: burst(0.001),
        probes: Throughput { count: 20, took: 0.001 * slow },
        pairs: Throughput { count: 20, took: 0.002 * slow * times },
        direct_pairs: Throughput { count: 20, took: 0.002 * slow },
        ..Round::default()
    }
}

fn measured(driver: &str, held: usize, rounds: Vec<Round>) -> Measured {
    let memory = Memory { resident: 9 * 1024, proportional: 8 * 1024, anonymous: 2 * 1024 };
    Measured { driver: driver.to_owned(), held, crowd: 0, fill_seconds: 1.5, memory, memory_after: memory, rounds }
}

/// hostmount at the floor with nothing held and 1.5 times as slow with 10,000; a peer 50 times as slow.
fn run() -> Report {
    let driver = |name: &str| DriverFacts {
        name: name.to_owned(),
        binary_bytes: 11 << 20,
        idle: Memory { resident: 7 * 1024, proportional: 7 * 1024, anonymous: 1024 },
        start_ms: Some(Figure { value: 12.0, low: None, high: None }),
    };
    let mut report = Report {
        kernel: "6.18".to_owned(),
        processors: 2,
        rounds: 3,
        callers: 16,
        drivers: vec![driver("bench.hostmount.dev"), driver("csi.spiffe.io")],
        image_bytes: Some(1 << 20),
        skipped: vec!["the peers with 10,000 held".to_owned()],
        ..Report::default()
    };
    let rounds = |times: f64| [1.0, 3.0, 9.0].map(|slow| round(slow, times)).to_vec();
    report.add_alone(&[
        measured("bench.hostmount.dev", 0, rounds(1.0)),
        measured("bench.hostmount.dev", 10_000, rounds(1.5)),
    ]);
    for held in [0, 5000] {
        let ours = measured("bench.hostmount.dev", held, rounds(1.0));
        report.add_beside(&ours, &[measured("csi.spiffe.io", held, rounds(50.0))]);
    }
    report.judge();
    report
}

#[test]
fn a_quantile_is_the_nearest_rank() {
    let samples = [15.0, 20.0, 35.0, 40.0, 50.0];
    let at = |percent| quantile(&samples, percent);
    assert_eq!(
        [at(0), at(5), at(30), at(40), at(50), at(100)].map(Option::unwrap),
        [15.0, 15.0, 20.0, 20.0, 35.0, 50.0]
    );
    assert_eq!(quantile(&[], 50), None);
    let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
    assert_eq!(quantile(&hundred, 99), Some(99.0));
    assert_eq!(quantile(&hundred, 50), Some(50.0));
}

#[test]
fn a_ratio_is_taken_within_its_round_and_only_where_both_sides_were_measured() {
    let above = [Some(2.0), Some(30.0), None, Some(5.0), Some(1.0)];
    let below = [Some(1.0), Some(10.0), Some(1.0), None, Some(0.0)];
    // 2 and 3; a division by zero is no ratio.
    assert_eq!(Spread::of_ratios(&above, &below), Some(Spread { median: 2.0, low: 2.0, high: 3.0 }));
    assert_eq!(Spread::of_ratios(&[None], &[Some(1.0)]), None);
}

#[test]
fn a_disturbed_round_moves_times_but_no_ratios() {
    let rounds = [1.0, 3.0, 9.0].map(|slow| round(slow, 1.2));
    let ratio = entry("publishToFloor").of(&rounds).unwrap();
    assert!(near(ratio.value, 1.2) && near(ratio.low.unwrap(), 1.2) && near(ratio.high.unwrap(), 1.2), "{ratio:?}");
    let time = entry("publish").of(&rounds).unwrap();
    assert!(near(time.value, 180.0) && near(time.low.unwrap(), 60.0) && near(time.high.unwrap(), 540.0), "{time:?}");
    assert!(near(entry("publishTail").of(&rounds).unwrap().value, 3.0));
    // 0.01 s for 20 publishes in each round.
    assert!(near(entry("publishCpu").of(&rounds).unwrap().value, 500.0));
    assert_eq!(entry("stage").of(&rounds), None, "this driver stages nothing");
}

#[test]
fn an_advantage_above_one_means_that_ours_is_better() {
    let (ours, theirs) = ([round(1.0, 1.0), round(2.0, 1.0)], [round(1.0, 10.0), round(2.0, 10.0)]);
    for key in ["publish", "unpublish", "publishRate", "pairRate"] {
        let advantage = entry(key).advantage(&ours, &theirs).unwrap();
        assert!(near(advantage.median, 10.0), "{key}: {advantage:?}");
    }
    assert_eq!(entry("publishToFloor").advantage(&ours, &theirs), None);
}

#[test]
fn each_figure_has_a_name_of_its_own() {
    let keys: BTreeSet<_> = CATALOGUE.iter().map(|entry| entry.key).collect();
    assert_eq!(keys.len(), CATALOGUE.len());
}

#[test]
fn targets_are_met_or_missed_as_measured() {
    let report = run();
    let of = |what: &str| {
        let found: Vec<_> = report.targets.iter().filter(|target| target.what.starts_with(what)).collect();
        assert_eq!(found.len(), 1, "{what}: {:?}", report.targets);
        found[0].clone()
    };
    assert!(of("publish : direct calls + Probe").met);
    let growth = of("publish with 10000 held");
    assert!(!growth.met && near(growth.value, 1.5), "{growth:?}");
    assert!(of("resident memory, idle").met && of("resident memory with 10000 held").met);
    assert!(!of("size of the binary").met && of("start to first good Probe").met);
    // 50 times as many: enough with nothing held, not with 5,000.
    assert!(of("publishes a second, 16 callers, 0 held").met);
    let many = of("publishes a second, 16 callers, 5000 held");
    assert!(many.least && !many.met && near(many.limit, 100.0), "{many:?}");
    let mut other = report.clone();
    other.advantages.iter_mut().for_each(|advantage| "some.other.driver".clone_into(&mut advantage.peer));
    other.judge();
    assert_eq!(other.targets.len(), report.targets.len() - 2, "an unknown driver has no targets");
}

#[test]
fn the_table_shows_everything_that_was_measured_and_what_was_not() {
    let text = table::text(&run());
    for part in [
        "10,000 held",
        "csi.spiffe.io",
        "NodePublishVolume, p99",
        "50.0 (50.0..50.0)",
        "resident (VmRSS), KiB",
        "MISSED",
        " met\n",
        "SKIPPED: the peers with 10,000 held",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    assert!(!text.contains("NodeStageVolume"), "nobody staged anything");
}

#[test]
fn the_fields_of_the_json_are_told() {
    let told = include_str!("../benches/node/report.rs").lines().take_while(|line| line.starts_with("//!"));
    let told = told.collect::<String>();
    let report = serde_json::to_value(run()).unwrap();
    let mut seen = 0;
    let first = |name: &str| report[name][0].clone();
    for object in
        [report.clone(), first("drivers"), first("columns"), first("growth"), first("advantages"), first("targets")]
    {
        for key in object.as_object().unwrap().keys() {
            assert!(told.contains(&format!("`{key}`")) || told.contains(&format!("`{key}[]`")), "{key} isn't told");
            seen += 1;
        }
    }
    assert!(seen > 25, "{seen}");
    assert!(near(report["columns"][0]["figures"]["publishToFloor"]["value"].as_f64().unwrap(), 1.0));
}

fn lines() -> Vec<Line> {
    let line = |name: &str, colour, points: &[(usize, f64)]| Line {
        name: name.to_owned(),
        colour,
        dashed: colour % 2 == 1,
        points: points.to_vec(),
    };
    vec![
        line("floor <&\"", 0, &[(0, 55.0), (1000, 56.0), (10_000, 58.0)]),
        line("ours", 1, &[(0, 70.0), (1000, 71.0), (10_000, 72.0)]),
        line("theirs", 2, &[(0, 1700.0), (1000, 5200.0), (5000, 21_600.0)]),
    ]
}

/// The points of a line, as they are drawn.
fn drawn(svg: &str, number: usize) -> Vec<(f64, f64)> {
    let path = svg.split("<path class=\"line").nth(number + 1).unwrap();
    let path = path.split(" d=\"M").nth(1).unwrap().split('"').next().unwrap();
    path.split('L')
        .map(|point| {
            let (x, y) = point.split_once(' ').unwrap();
            (x.parse().unwrap(), y.parse().unwrap())
        })
        .collect()
}

#[test]
fn the_picture_puts_more_volumes_to_the_right_and_more_time_higher() {
    let svg = chart::svg("Cost", "a note", &lines()).unwrap();
    let all: Vec<_> = (0..3).map(|number| drawn(&svg, number)).collect();
    for points in &all {
        assert_eq!(points.len(), 3);
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 > pair[1].1), "{points:?}");
        assert!(points.iter().all(|&(x, y)| (0.0..860.0).contains(&x) && (60.0..413.0).contains(&y)), "{points:?}");
    }
    // One factor is one distance, wherever it is.
    let (ours, theirs) = (&all[1], &all[2]);
    assert!(ours[0].1 > theirs[0].1 && near(ours[1].0, theirs[1].0));
    assert_eq!(chart::svg("Cost", "", &[]), None, "there is nothing to draw");
}

#[test]
fn the_picture_is_told_in_words_and_fits_light_and_dark() {
    let svg = chart::svg("Cost", "a note", &lines()).unwrap();
    for part in [
        "role=\"img\"",
        "<title id=\"cost-title\">Cost</title>",
        "theirs: 1.7 ms at 0 held, 5.2 ms at 1,000 held, 22 ms at 5,000 held.",
        "prefers-color-scheme:dark",
        "floor &lt;&amp;&quot;",
        ">10,000</text>",
        ">100 µs</text>",
        ">10 ms</text>",
    ] {
        assert!(svg.contains(part), "{part:?} is missing in\n{svg}");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    assert!(!svg.contains("floor <"), "names are escaped");
}

#[test]
fn names_at_the_ends_of_lines_never_lie_over_each_other() {
    let heights = [300.0, 301.0, 299.0, 410.0, 411.0, 412.0, 80.0];
    let placed = chart::apart(&heights);
    let mut order: Vec<usize> = (0..heights.len()).collect();
    order.sort_by(|&a, &b| heights[a].total_cmp(&heights[b]));
    assert!(order.windows(2).all(|pair| placed[pair[1]] - placed[pair[0]] > 14.9), "{placed:?}");
    assert!(near(placed[6], 80.0), "one that stands alone stays");
    assert!(placed.iter().all(|&y| y < 420.0), "{placed:?}");
}

#[test]
fn the_picture_has_a_pair_of_lines_for_the_floor_and_for_each_driver() {
    let lines = run().lines();
    let names: Vec<_> = lines.iter().map(|line| line.name.as_str()).collect();
    let floor = ["publish: system calls + Probe", "unpublish: system calls + Probe"];
    assert_eq!(names[..2], floor);
    assert_eq!(
        names[2..],
        ["publish: hostmount", "unpublish: hostmount", "publish: csi.spiffe.io", "unpublish: csi.spiffe.io"]
    );
    // The rounds' median took three times as long as a quiet machine.
    assert_eq!(lines[0].points, [(0, 150.0), (5000, 150.0), (10_000, 150.0)]);
    assert_eq!(lines[5].points, [(0, 15_000.0), (5000, 15_000.0)]);
    assert!(lines.iter().all(|line| line.dashed == line.name.starts_with("unpublish")));
}
