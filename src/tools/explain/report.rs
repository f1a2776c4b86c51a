//! The explanation as text and as JSON. Pure.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;

use model::machine::{LeftOut, Machine, Namespace};
use model::subtrees::Hop;
use serde_json::{Value, json};
use text::paint::Paint;
use text::table::Columns;
use text::{plural, visible};

use super::index::Index;
use super::judge::{Affected, Event, Explanation, MissingLink, Pair, Spot, Stopped};
use super::remedy::{Advice, advise};
use crate::json_bytes;

/// How many of the namespaces that do not show the directory are named.
const NAMED: usize = 5;

/// A report.
#[derive(Debug)]
pub struct Report<'r> {
    /// The machine.
    pub machine: &'r Machine,
    /// Its mounts by id.
    pub index: &'r Index<'r>,
    /// The given place.
    pub from: &'r Spot,
    /// The effects of the event there.
    pub explanation: &'r Explanation,
    /// The second place, if given, and the effects there.
    pub pair: Option<(&'r Spot, Pair)>,
}

impl Report<'_> {
    fn label(&self, namespace: usize) -> String {
        let label = self.machine.namespaces.get(namespace).map(Namespace::label).unwrap_or_default();
        visible(OsStr::new(&label))
    }

    fn seen(&self) -> &[Affected] {
        self.pair.as_ref().map_or(&self.explanation.seen, |(_, pair)| &pair.seen)
    }

    fn stopped(&self) -> &[Stopped] {
        self.pair.as_ref().map_or(&self.explanation.stopped, |(_, pair)| &pair.stopped)
    }

    /// The report as text.
    #[must_use]
    pub fn text(&self, paint: &Paint) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = self.write(&mut out, paint);
        out
    }

    fn write(&self, out: &mut String, paint: &Paint) -> std::fmt::Result {
        let (seen, stopped) = (self.seen(), self.stopped());
        let state = self.index.get(self.explanation.origin).map(|(_, mount)| {
            format!("on the mount at {}, {}", visible(mount.mount_point.as_os_str()), mount.propagation)
        });
        let from = visible(self.from.path.as_os_str());
        let words = Words::of(self.explanation.event);
        write!(out, "{} {from} in {}", words.what, self.label(self.from.namespace))?;
        if let Some(state) = state {
            write!(out, " ({state})")?;
        }
        match &self.pair {
            None => write!(out, " {} {}", words.is, plural(seen.len(), "place"))?,
            Some((to, _)) => {
                let is = if seen.iter().any(|one| one.covered.is_none()) { words.is } else { words.is_not };
                write!(out, " {is} {} in {}", visible(to.path.as_os_str()), self.label(to.namespace))?;
            }
        }
        match self.explanation.event {
            Event::Unmount { beneath, .. } if beneath > 0 => {
                writeln!(out, ", and with it {}:", plural(beneath, "mount that lies on it"))?;
            }
            _ => writeln!(out, ":")?,
        }
        let rows: Vec<[String; 3]> = seen.iter().map(|one| self.seen_row(one)).collect();
        let columns = Columns::of(&rows, 2);
        for (row, one) in rows.iter().zip(seen) {
            let mark = if one.covered.is_none() { paint.good("✓") } else { paint.bad("✗") };
            write!(out, "  {mark} ")?;
            columns.plain_line(out, row);
        }
        if !stopped.is_empty() && self.pair.is_none() {
            let (count, verb) =
                (plural(stopped.len(), "other place"), if stopped.len() == 1 { "shows" } else { "show" });
            writeln!(out, "\n{} {count} that {verb} {}:", words.elsewhere, words.shown)?;
        }
        for (advice, all) in self.advised(stopped) {
            for one in all {
                let place = visible(one.at.place.as_os_str());
                writeln!(out, "  {} {}  {place}", paint.bad("✗"), self.label(one.at.namespace))?;
            }
            writeln!(out, "      why     {}", advice.missing)?;
            writeln!(out, "      change  {}", advice.remedy)?;
        }
        if let Some((to, _)) = &self.pair
            && seen.is_empty()
            && stopped.is_empty()
        {
            let to_text = visible(to.path.as_os_str());
            writeln!(out, "  {} nothing at or beneath {to_text} there shows the directory {from}", paint.bad("✗"))?;
            if self.explanation.event == Event::Mount {
                writeln!(out, "      change  mount it there first: a volume, or a bind mount of it")?;
            }
        }
        let absent = &self.explanation.absent;
        if self.pair.is_none() && !absent.is_empty() {
            let mut names: Vec<String> = absent.iter().take(NAMED).map(|&n| self.label(n)).collect();
            if absent.len() > NAMED {
                names.push(format!("{} more", absent.len() - NAMED));
            }
            let verb = if absent.len() == 1 { "does" } else { "do" };
            let count = plural(absent.len(), "namespace");
            writeln!(out, "\n{count} {verb} not show {} at all: {}.", words.shown, names.join("; "))?;
        }
        for doubt in &self.explanation.doubts {
            writeln!(out, "\nThis may not be all: {}.", visible(OsStr::new(&doubt.to_string())))?;
        }
        Ok(())
    }

    /// Namespace, place, and how the event gets there.
    fn seen_row(&self, one: &Affected) -> [String; 3] {
        let receiver = &one.receiver;
        let way: Vec<String> = receiver.via.iter().map(|hop| self.hop(receiver.namespace, hop)).collect();
        let mut way = if way.is_empty() { "here".to_owned() } else { way.join(" → ") };
        if let Some(cover) = one.covered {
            let place = self.index.get(cover).map(|(_, mount)| visible(mount.mount_point.as_os_str()));
            let _ = write!(way, "; it comes beneath the mount at {}, which hides it", place.unwrap_or_default());
        }
        [self.label(receiver.namespace), visible(receiver.place.as_os_str()), way]
    }

    fn hop(&self, namespace: usize, hop: &Hop) -> String {
        let (word, group, to) = match *hop {
            Hop::Peer { group, to, .. } => ("peer", group, to),
            Hop::Slave { master, to, .. } => ("slave", master, to),
        };
        let (at, mount) = match self.index.get(to) {
            Some((at, mount)) => (at, visible(mount.mount_point.as_os_str())),
            None => (namespace, format!("mount {to}")),
        };
        let of = if at == namespace { String::new() } else { format!(" in {}", self.label(at)) };
        format!("{word} of {group}: {mount}{of}")
    }

    /// Groups places with the same advice, in the order of the first place of each.
    fn advised<'s>(&self, stopped: &'s [Stopped]) -> Vec<(Advice, Vec<&'s Stopped>)> {
        let mut groups: Vec<(Advice, Vec<&Stopped>)> = Vec::new();
        let mut known: BTreeMap<(String, String), usize> = BTreeMap::new();
        for one in stopped {
            let advice = advise(self.machine, self.index, self.explanation.origin, one);
            let key = (advice.missing.clone(), advice.remedy.clone());
            let at = *known.entry(key).or_insert_with(|| {
                groups.push((advice, Vec::new()));
                groups.len() - 1
            });
            groups[at].1.push(one);
        }
        groups
    }

    /// The report as JSON; docs/explain.md describes the fields.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut value = json!({
            "version": 1,
            "event": match self.explanation.event {
                Event::Mount => json!({"kind": "mount"}),
                Event::Unmount { mount, beneath } => json!({"kind": "unmount", "mount": mount, "beneath": beneath}),
            },
            "from": self.place(self.from.namespace, &self.from.path, self.explanation.origin),
            "seen": self.seen().iter().map(|one| self.seen_json(one)).collect::<Value>(),
            "notSeen": self.stopped().iter().map(|one| self.stopped_json(one)).collect::<Value>(),
            "absent": self.explanation.absent.iter().map(|&n| self.namespace(n)).collect::<Value>(),
            "doubts": self.explanation.doubts.iter().map(ToString::to_string).collect::<Value>(),
            "leftOut": self.machine.left_out.iter().map(|LeftOut { what, why }| json!({"what": what, "why": why}))
                .collect::<Value>(),
        });
        if let Some((to, _)) = &self.pair {
            let mut place = self.namespace(to.namespace);
            add_path(&mut place, &to.path);
            value["to"] = place;
        }
        value
    }

    fn namespace(&self, namespace: usize) -> Value {
        let found = self.machine.namespaces.get(namespace);
        json!({
            "namespace": found.map(|n| n.inode),
            "label": found.map(Namespace::label),
            "pid": found.and_then(|n| n.processes.first()).map(|process| process.pid),
        })
    }

    fn place(&self, namespace: usize, path: &Path, mount: u64) -> Value {
        let mut value = self.namespace(namespace);
        add_path(&mut value, path);
        value["mount"] = json!(mount);
        value
    }

    fn seen_json(&self, one: &Affected) -> Value {
        let receiver = &one.receiver;
        let mut value = self.place(receiver.namespace, &receiver.place, receiver.mount);
        let via = receiver.via.iter().map(|hop| match *hop {
            Hop::Peer { group, from, to } => json!({"relation": "peer", "group": group, "from": from, "to": to}),
            Hop::Slave { master, from, to } => json!({"relation": "slave", "group": master, "from": from, "to": to}),
        });
        value["via"] = via.collect();
        value["coveredBy"] = json!(one.covered);
        value
    }

    fn stopped_json(&self, one: &Stopped) -> Value {
        let Advice { missing, remedy } = advise(self.machine, self.index, self.explanation.origin, one);
        let mut value = self.place(one.at.namespace, &one.at.place, one.at.mount);
        value["trail"] = json!(one.trail);
        value["link"] = match one.link {
            MissingLink::OriginPrivate => json!({"kind": "originPrivate", "mount": self.explanation.origin}),
            MissingLink::OriginSlave { master } => {
                json!({"kind": "originSlave", "mount": self.explanation.origin, "group": master})
            }
            MissingLink::Upwards { slave, master } => json!({"kind": "upwards", "mount": slave, "group": master}),
            MissingLink::Private { mount } => json!({"kind": "private", "mount": mount}),
            MissingLink::Apart { mount, group } => json!({"kind": "apart", "mount": mount, "group": group}),
            MissingLink::Bound { mount } => json!({"kind": "bound", "mount": mount}),
            MissingLink::VolumeCount { mount } => json!({"kind": "held", "mount": mount}),
            MissingLink::Unseen { mount, master } => json!({"kind": "unseen", "mount": mount, "group": master}),
        };
        value["why"] = json!(missing);
        value["change"] = json!(remedy);
        value
    }
}

/// The words for an event.
struct Words {
    what: &'static str,
    is: &'static str,
    is_not: &'static str,
    elsewhere: &'static str,
    shown: &'static str,
}

impl Words {
    const fn of(event: Event) -> Self {
        match event {
            Event::Mount => Self {
                what: "A mount made at",
                is: "is seen at",
                is_not: "is not seen at",
                elsewhere: "It is not seen at",
                shown: "the directory",
            },
            Event::Unmount { .. } => Self {
                what: "Unmounting",
                is: "takes it from",
                is_not: "does not take it from",
                elsewhere: "It stays at",
                shown: "what is mounted there",
            },
        }
    }
}

fn add_path(value: &mut Value, path: &Path) {
    if let Value::Object(object) = value {
        json_bytes::put(object, "path", path.as_os_str());
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::explain;
    use super::super::judge::tests::machine;
    use super::*;
    use model::subtrees::Forest;

    /// As text and as JSON.
    fn reported(from: (usize, &str), to: Option<(usize, &str)>) -> (String, Value) {
        let machine = machine();
        let index = Index::new(&machine);
        let spot = |(namespace, path): (usize, &str)| Spot { namespace, path: path.into() };
        let from = spot(from);
        let explanation = explain(&index, &Forest::of(&machine), machine.namespaces.len(), &from).unwrap();
        let to = to.map(spot);
        let pair = to.as_ref().map(|to| (to, explanation.at(to)));
        let report = Report { machine: &machine, index: &index, from: &from, explanation: &explanation, pair };
        (report.text(&Paint { colour: false }), report.json())
    }

    const TARGET: &str = "/var/lib/kubelet/pods/u-slave/volumes/kubernetes.io~csi/v/mount";

    #[test]
    fn the_text_says_who_sees_it_and_why_others_do_not() {
        let text = reported((0, "/src/disk"), None).0;
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "A mount made at /src/disk in node (on the mount at /src, shared:2) is seen at 3 places:");
        assert!(lines[1].starts_with("  ✓ node ") && lines[1].ends_with("  here"), "{text}");
        let way = format!("slave of 2: {TARGET} in node → slave of 4: /data");
        assert!(lines[3].starts_with("  ✓ pod ns/slave, slave  /data/disk") && lines[3].ends_with(&way), "{text}");
        assert!(text.contains("It is not seen at 2 other places"), "{text}");
        assert!(text.contains("  ✗ pod ns/none, none  /data/disk\n      why     "), "{text}");
        assert_eq!(text.matches("      change  ").count(), 1, "the same advice is given once: {text}");
        assert!(text.contains("1 namespace does not show the directory at all: sh (40)."), "{text}");
    }

    #[test]
    fn a_pair_has_a_verdict() {
        let text = |to| reported((0, "/src/disk"), Some(to)).0;
        assert!(text((1, "/data")).contains(" is seen at /data in pod ns/slave, slave:\n"));
        assert!(text((2, "/data")).contains(" is not seen at /data in pod ns/none, none:\n"));
        assert!(text((3, "/priv")).contains("nothing at or beneath /priv there shows the directory /src/disk"));
    }

    #[test]
    fn the_json_has_the_same() {
        let value = reported((0, "/src/disk"), Some((2, "/data"))).1;
        assert_eq!(value["to"]["path"], "/data");
        assert_eq!(value["seen"], json!([]));
        assert_eq!(value["notSeen"][0]["link"], json!({"kind": "apart", "mount": 5, "group": 5}));
        assert_eq!(value["notSeen"][0]["trail"], json!([31, 5]));
        let value = reported((0, "/src/disk"), None).1;
        assert_eq!(value["seen"][2]["via"][1], json!({"relation": "slave", "group": 4, "from": 4, "to": 21}));
        assert_eq!(value["absent"][0]["label"], "sh (40)");
    }
}
