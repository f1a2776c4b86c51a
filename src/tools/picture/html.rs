//! The picture as one self-contained HTML page: no network, no font, no library.
//!
//! The page is static; its script builds the columns from data that is embedded as JSON, and sets text as text only.
//! The receivers of events are computed beforehand by the model ([`Reach`]); the script only looks them up.

use std::collections::{BTreeMap, HashMap};

use model::machine::Machine;
use mounts::mountinfo::Mount;
use serde_json::{Value, json};
use text::visible;

use crate::picture::outline::{Outline, Relation, What, Why};
use crate::picture::reach::{Link, Reach, Receivers};
use crate::picture::text::{json_in_html, xml};
use crate::picture::{COLOURS, Options, summary};

/// The page's parts. The style of the colours is that of the SVG.
const STYLE: &str = concat!(include_str!("palette.css"), include_str!("page.css"));
const SCRIPT: &str = include_str!("page.js");
const BODY: &str = include_str!("page.html");
/// The SHA-256 of style and script, for the page's Content-Security-Policy: no other style or script takes effect.
/// `tests/picture.rs` checks them.
const STYLE_HASH: &str = "g93/f2AuMUU4fvlPqnMYOlVuyvYA8i43TL4nVfc7/Vo=";
const SCRIPT_HASH: &str = "pakIbzKkyDwqLxVkohdQxoawNvgcc8+Vz0SFLBFmXzM=";
/// How many processes of a namespace are named.
const PROCESSES: usize = 40;

/// The page of a part of a machine. Receivers are computed for the whole machine.
#[must_use]
pub fn html(shown_part: &Machine, whole: &Machine, options: &Options) -> String {
    let outline = Outline::of(shown_part, options.all);
    let reach = Reach::of(shown_part, whole);
    let data = json_in_html(&data(shown_part, whole, &outline, &reach, options).to_string());
    let title = xml(&visible(&options.title));
    // In one pass: what is put in may hold anything, the next mark too.
    let mut out = String::with_capacity(BODY.len() + STYLE.len() + SCRIPT.len() + data.len());
    for (at, part) in BODY.split('@').enumerate() {
        out.push_str(match part {
            "TITLE" if at % 2 == 1 => &title,
            "STYLE" if at % 2 == 1 => STYLE,
            "SCRIPT" if at % 2 == 1 => SCRIPT,
            "STYLE-HASH" if at % 2 == 1 => STYLE_HASH,
            "SCRIPT-HASH" if at % 2 == 1 => SCRIPT_HASH,
            "DATA" if at % 2 == 1 => &data,
            text => text,
        });
    }
    out
}

/// Interned texts.
#[derive(Default)]
struct Texts {
    numbers: HashMap<String, usize>,
    all: Vec<String>,
}

impl Texts {
    fn number(&mut self, text: String) -> usize {
        if let Some(&number) = self.numbers.get(&text) {
            return number;
        }
        self.all.push(text.clone());
        self.numbers.insert(text, self.all.len() - 1);
        self.all.len() - 1
    }
}

/// The script's data. The comments in the script describe the arrays.
fn data(machine: &Machine, whole: &Machine, outline: &Outline<'_>, reach: &Reach, options: &Options) -> Value {
    let mut texts = Texts::default();
    let namespaces: Vec<Value> = outline
        .columns
        .iter()
        .map(|column| {
            let rows: Vec<Value> = column
                .rows
                .iter()
                .map(|row| {
                    let label = texts.number(row.label.clone());
                    match row.what {
                        What::Mount(number, _) => json!([row.depth, label, number]),
                        What::Fold(why) => fold(row.depth, label, why),
                    }
                })
                .collect();
            let processes = &column.namespace.processes;
            let named: Vec<String> =
                processes.iter().take(PROCESSES).map(|p| format!("{} ({})", visible(&p.name), p.pid)).collect();
            json!({
                "title": column.title, "note": column.notes(None).join(" · "), "rows": rows, "processes": named,
                "moreProcesses": processes.len().saturating_sub(PROCESSES),
            })
        })
        .collect();
    let all = machine.namespaces.iter().flat_map(|namespace| &namespace.table.mounts);
    let mounts: Vec<Value> = all
        .enumerate()
        .map(|(number, mount)| {
            let mut text = |of: String| texts.number(of);
            json!([
                mount.id,
                text(visible(&mount.mount_point)),
                text(shown_root(mount)),
                text(visible(&mount.fs_type)),
                text(visible(&mount.source)),
                text(visible(&mount.options)),
                mount.propagation.peer_group.unwrap_or(0),
                mount.propagation.master.unwrap_or(0),
                u8::from(mount.propagation.unbindable),
                reach.of.get(number).copied().flatten().map_or(-1, |class| i64::try_from(class).unwrap_or(-1)),
                reach.covered.get(number).copied().flatten().unwrap_or(0),
            ])
        })
        .collect();
    let flat = |all: &Receivers| -> Vec<usize> { all.shown.iter().flat_map(|&(mount, way)| [mount, way]).collect() };
    let classes: Vec<Value> = reach
        .classes
        .iter()
        .map(|class| {
            let parts: Vec<Value> =
                class.parts.iter().map(|(below, all)| json!([visible(below), flat(all), all.others])).collect();
            let others = class.receivers.others;
            json!([flat(&class.receivers), parts, class.more_parts, class.doubt.as_ref().map(visible), others])
        })
        .collect();
    let ways: Vec<Vec<Value>> = reach
        .ways
        .iter()
        .map(|way| {
            let step = |link: &Link| match link {
                Link::Peer(group) => json!([0, group]),
                Link::Slave(group) => json!([1, group]),
            };
            way.iter().map(step).collect()
        })
        .collect();
    let groups: Vec<Value> = sizes(whole, outline)
        .into_iter()
        .map(|(group, [members, slaves])| {
            let colour = outline.groups.get(&group).and_then(|of| of.colour).map(|colour| colour % COLOURS);
            json!([group, colour, members, slaves])
        })
        .collect();
    let left_out: Vec<Value> =
        machine.left_out.iter().map(|left| json!([visible(&left.what), visible(&left.why)])).collect();
    json!({
        "title": visible(&options.title), "summary": summary(machine, outline), "leftOut": left_out,
        "namespaces": namespaces, "mounts": mounts, "classes": classes, "ways": ways, "groups": groups, "texts": texts.all,
    })
}

/// The numbers of members and slaves in the whole machine, for each peer group that is shown.
fn sizes(whole: &Machine, outline: &Outline<'_>) -> BTreeMap<u64, [usize; 2]> {
    let mut sizes: BTreeMap<u64, [usize; 2]> = outline.groups.keys().map(|&group| (group, [0; 2])).collect();
    for mount in whole.namespaces.iter().flat_map(|namespace| &namespace.table.mounts) {
        for (place, group) in [mount.propagation.peer_group, mount.propagation.master].into_iter().enumerate() {
            if let Some(size) = group.and_then(|group| sizes.get_mut(&group)) {
                size[place] += 1;
            }
        }
    }
    sizes
}

fn shown_root(mount: &Mount) -> String {
    format!("{}{}", visible(&mount.root), if mount.root_deleted { " (deleted)" } else { "" })
}

fn fold(depth: usize, label: usize, why: Why) -> Value {
    match why {
        Why::Kernel => json!([depth, label, -1, "kernel"]),
        Why::Alike => json!([depth, label, -1, "alike"]),
        Why::Mirror(of, Relation::Peers) => json!([depth, label, -1, "peers", of]),
        Why::Mirror(of, Relation::Slaves) => json!([depth, label, -1, "slaves", of]),
        Why::Mirror(of, Relation::Copies) => json!([depth, label, -1, "copies", of]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::machine;
    use model::machine::LeftOut;

    fn data_of(page: &str) -> Value {
        let begin = "<script type=\"application/json\" id=\"data\">";
        let at = page.find(begin).unwrap() + begin.len();
        let end = at + page[at..].find("</script>").unwrap();
        serde_json::from_str(&page[at..end]).unwrap()
    }

    #[test]
    fn what_is_embedded_stays_data() {
        let evil = "</script><script>x()</script><!--@SCRIPT@@DATA@";
        let mut machine = machine(&["1 0 0:1 / /</script><!-- rw,</script> shared:1 - </script> </script> rw\n"]);
        machine.namespaces[0].processes[0].name = evil.to_owned();
        machine.namespaces[0].processes[0].pid = 9;
        machine.left_out.push(LeftOut { what: evil.to_owned(), why: "why".to_owned() });
        let options = Options { title: evil.to_owned(), all: false };
        let page = html(&machine, &machine, &options);
        assert_eq!(page.matches("<script").count(), 2, "the data and the script");
        assert_eq!(page.matches("</script").count(), 2);
        assert_eq!(page.matches("<!--").count(), 0);
        let data = data_of(&page);
        assert_eq!(data["title"], evil);
        assert_eq!(data["leftOut"][0][0], evil);
        assert_eq!(data["namespaces"][0]["title"], format!("{evil} (9)"));
        assert!(data["texts"].as_array().unwrap().iter().any(|text| text == "/</script><!--"));
    }

    #[test]
    fn the_page_asks_for_nothing() {
        let page = html(&Machine::default(), &Machine::default(), &Options::default());
        for outside in ["http://", "https://", "src=", "href=", "@import", "url("] {
            let found = page.replace("http://www.w3.org/2000/svg", "").contains(outside);
            assert!(!found, "{outside}");
        }
        assert!(page.contains("default-src 'none'"));
        for mark in ["@TITLE@", "@STYLE@", "@SCRIPT@", "@DATA@"] {
            assert!(!page.contains(mark), "{mark}");
        }
    }

    #[test]
    fn texts_are_kept_once() {
        let machine = machine(&["1 0 0:1 / / rw - ext4 ext4 rw\n2 1 0:1 / / rw - ext4 ext4 rw\n"]);
        let data = data_of(&html(&machine, &machine, &Options::default()));
        let texts: Vec<&str> = data["texts"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(texts, ["/", "/ (on top)", "ext4", "rw"]);
    }
}
