//! YAML becomes an allow-list, or a list of everything that is wrong with it.
//!
//! serde stops at the first fault; an operator who edits a ConfigMap wants them all, with their lines. So the file
//! is read into a tree whose nodes know their lines, and walked by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::{AllowList, Entry, Fault, Faults, IfMissing, Pattern, ReadOnlyPropagation, Rule, SIZE_MAX};
use crate::propagation::MountPropagation;
use crate::sys::stat::MountAttrs;
use crate::volume::{AbsPath, EntryName};

/// The fields of an entry, in the order of the reference.
pub const ENTRY_FIELDS: [&str; 12] = [
    "name",
    "path",
    "propagation",
    "readOnly",
    "nosuid",
    "nodev",
    "noexec",
    "subPaths",
    "missing",
    "readOnlyPropagation",
    "overlaps",
    "allow",
];
/// The fields of a rule in `allow`.
pub const RULE_FIELDS: [&str; 2] = ["namespaces", "serviceAccounts"];
/// The fields of `missing.create`.
pub const CREATE_FIELDS: [&str; 3] = ["mode", "uid", "gid"];

type Node<'a> = MarkedYaml<'a>;

struct Walk<'k> {
    faults: Vec<Fault>,
    kubelet_dir: &'k AbsPath,
}

/// A node with the name of its field.
struct At<'n, 'a> {
    node: &'n Node<'a>,
    field: String,
}

impl<'n, 'a> At<'n, 'a> {
    fn line(&self) -> usize {
        self.node.span.start.line()
    }

    fn kind(&self) -> String {
        match &self.node.data {
            YamlData::Mapping(_) => "a mapping".to_owned(),
            YamlData::Sequence(_) => "a list".to_owned(),
            YamlData::Value(Scalar::Null) => "nothing".to_owned(),
            YamlData::Value(Scalar::Boolean(b)) => format!("the boolean {b}"),
            YamlData::Value(Scalar::Integer(n)) => format!("the number {n}"),
            YamlData::Value(Scalar::FloatingPoint(n)) => format!("the number {n}"),
            YamlData::Value(Scalar::String(s)) => format!("the text {s:?}"),
            _ => "something else".to_owned(),
        }
    }
}

/// The fields of a mapping by name, the unknown ones already reported.
struct Fields<'n, 'a> {
    line: usize,
    field: String,
    found: BTreeMap<&'n str, &'n Node<'a>>,
}

impl<'n, 'a> Fields<'n, 'a> {
    fn get(&self, name: &str) -> Option<At<'n, 'a>> {
        let node = self.found.get(name)?;
        let field = if self.field.is_empty() { name.to_owned() } else { format!("{}.{name}", self.field) };
        Some(At { node, field })
    }
}

/// Reads an allow-list.
///
/// # Errors
/// Every fault of the file at once.
pub fn decode(text: &str, kubelet_dir: &AbsPath) -> Result<AllowList, Faults> {
    let whole = |line, message: String| Faults(vec![Fault { line, field: String::new(), message }]);
    if text.len() > SIZE_MAX {
        return Err(whole(1, format!("the file has {} bytes, over the limit of {SIZE_MAX}", text.len())));
    }
    let documents =
        Node::load_from_str(text).map_err(|e| whole(e.marker().line(), format!("this is not YAML: {}", e.info())))?;
    let [document] = documents.as_slice() else {
        return Err(whole(1, format!("{} YAML documents were found: write one, with `entries:`", documents.len())));
    };
    let mut walk = Walk { faults: Vec::new(), kubelet_dir };
    let entries = walk.document(&At { node: document, field: String::new() });
    let Walk { mut faults, .. } = walk;
    if faults.is_empty() {
        Ok(AllowList { entries: entries.into_iter().map(|e| (e.name.clone(), Arc::new(e))).collect() })
    } else {
        faults.sort();
        Err(Faults(faults))
    }
}

impl Walk<'_> {
    fn fault(&mut self, line: usize, field: &str, message: String) {
        self.faults.push(Fault { line, field: field.to_owned(), message });
    }

    fn wrong_kind(&mut self, at: &At<'_, '_>, wanted: &str) {
        self.fault(at.line(), &at.field, format!("{} was found: write {wanted}", at.kind()));
    }

    fn mapping<'n, 'a>(&mut self, at: &At<'n, 'a>, known: &[&str]) -> Option<Fields<'n, 'a>> {
        let YamlData::Mapping(map) = &at.node.data else {
            self.wrong_kind(at, &format!("a mapping with {}", known.join(", ")));
            return None;
        };
        let mut found = BTreeMap::new();
        for (key, value) in map {
            let line = key.span.start.line();
            match key.data.as_str() {
                Some(name) if known.contains(&name) => {
                    found.insert(name, value);
                }
                Some(name) => {
                    let near = known.iter().find(|k| k.eq_ignore_ascii_case(name) || near(k, name));
                    let hint = near.map_or_else(
                        || format!("{} are known", known.join(", ")),
                        |near| format!("did you mean {near}?"),
                    );
                    let field = if at.field.is_empty() { name.to_owned() } else { format!("{}.{name}", at.field) };
                    self.fault(line, &field, format!("unknown field; {hint}"));
                }
                None => self.fault(line, &at.field, "a field's name must be text".to_owned()),
            }
        }
        Some(Fields { line: at.line(), field: at.field.clone(), found })
    }

    fn list<'n, 'a>(&mut self, at: &At<'n, 'a>, of: &str) -> Vec<At<'n, 'a>> {
        let YamlData::Sequence(items) = &at.node.data else {
            self.wrong_kind(at, &format!("a list of {of}"));
            return Vec::new();
        };
        items.iter().enumerate().map(|(n, node)| At { node, field: format!("{}[{n}]", at.field) }).collect()
    }

    fn text<'n>(&mut self, at: &At<'n, '_>) -> Option<&'n str> {
        if let YamlData::Value(Scalar::String(text)) = &at.node.data {
            return Some(text);
        }
        let advice = match &at.node.data {
            YamlData::Value(Scalar::Null) => "text",
            YamlData::Value(_) => "text, in quotes",
            _ => "text",
        };
        self.wrong_kind(at, advice);
        None
    }

    fn boolean(&mut self, fields: &Fields<'_, '_>, name: &str, default: bool) -> bool {
        let Some(at) = fields.get(name) else { return default };
        if let YamlData::Value(Scalar::Boolean(b)) = at.node.data {
            return b;
        }
        self.wrong_kind(&at, "true or false");
        default
    }

    fn id(&mut self, fields: &Fields<'_, '_>, name: &str) -> u32 {
        let Some(at) = fields.get(name) else { return 0 };
        match at.node.data {
            // u32::MAX means "leave it" to chown(2).
            YamlData::Value(Scalar::Integer(n)) if n < i64::from(u32::MAX) => {
                if let Ok(id) = u32::try_from(n) {
                    return id;
                }
            }
            _ => {}
        }
        self.wrong_kind(&at, "a number from 0 to 4294967294");
        0
    }

    fn required<'n, 'a>(&mut self, fields: &Fields<'n, 'a>, name: &str) -> Option<At<'n, 'a>> {
        let at = fields.get(name);
        if at.is_none() {
            let field = if fields.field.is_empty() { name.to_owned() } else { format!("{}.{name}", fields.field) };
            self.fault(fields.line, &field, "is required and was not found".to_owned());
        }
        at
    }

    fn parsed<T, E: std::fmt::Display>(
        &mut self,
        at: Option<At<'_, '_>>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let at = at?;
        let text = self.text(&at)?;
        parse(text).map_err(|e| self.fault(at.line(), &at.field, format!("{text:?} {e}"))).ok()
    }

    fn document(&mut self, at: &At<'_, '_>) -> Vec<Entry> {
        let Some(fields) = self.mapping(at, &["entries"]) else { return Vec::new() };
        let Some(list) = self.required(&fields, "entries") else { return Vec::new() };
        let items = self.list(&list, "entries");
        let mut entries: Vec<(usize, String, Entry)> = Vec::new();
        for item in items {
            if let Some(entry) = self.entry(&item) {
                entries.push((item.line(), item.field, entry));
            }
        }
        self.together(&entries);
        entries.into_iter().map(|(_, _, entry)| entry).collect()
    }

    fn entry(&mut self, at: &At<'_, '_>) -> Option<Entry> {
        let fields = self.mapping(at, &ENTRY_FIELDS)?;
        let name = self.required(&fields, "name");
        let name = self.parsed(name, EntryName::parse);
        let path = self.required(&fields, "path");
        let path = self.path(path);
        let ceiling = match fields.get("propagation") {
            None => MountPropagation::None,
            some => self
                .parsed(some, |text| {
                    text.parse::<MountPropagation>().map_err(|_| {
                        "is not a propagation: use None, HostToContainer or Bidirectional (or rprivate, rslave, rshared)"
                    })
                })
                .unwrap_or_default(),
        };
        let attrs = MountAttrs {
            read_only: self.boolean(&fields, "readOnly", false),
            nosuid: self.boolean(&fields, "nosuid", true),
            nodev: self.boolean(&fields, "nodev", true),
            noexec: self.boolean(&fields, "noexec", false),
        };
        let sub_paths = self.boolean(&fields, "subPaths", false);
        let missing = fields.get("missing").map_or(IfMissing::Fail, |at| self.missing(&at));
        let read_only_propagation = self
            .parsed(fields.get("readOnlyPropagation"), |text| match text {
                "refuse" => Ok(ReadOnlyPropagation::Refuse),
                "warn" => Ok(ReadOnlyPropagation::Warn),
                _ => Err("is unknown: write refuse or warn"),
            })
            .unwrap_or(ReadOnlyPropagation::Refuse);
        let overlaps = fields.get("overlaps").map_or_else(Vec::new, |at| self.list(&at, "entry names"));
        let overlaps = overlaps.into_iter().filter_map(|at| self.parsed(Some(at), EntryName::parse)).collect();
        let rules = fields.get("allow").map_or_else(Vec::new, |at| self.list(&at, "rules"));
        let allow = rules.iter().filter_map(|at| self.rule(at)).collect();
        let (name, path) = (name?, path?);
        Some(Entry { name, path, ceiling, attrs, sub_paths, missing, read_only_propagation, overlaps, allow })
    }

    fn path(&mut self, at: Option<At<'_, '_>>) -> Option<AbsPath> {
        let (line, field) = at.as_ref().map(|at| (at.line(), at.field.clone()))?;
        let path = self.parsed(at, AbsPath::parse)?;
        if path.overlaps(self.kubelet_dir) {
            let message = format!(
                "{:?} contains or lies in the kubelet directory {}, which would bind the pods' volumes into pods: \
                 name a directory outside of it",
                path.to_string(),
                self.kubelet_dir
            );
            self.fault(line, &field, message);
        }
        Some(path)
    }

    fn missing(&mut self, at: &At<'_, '_>) -> IfMissing {
        let advice = "fail, or {create: {mode: \"0755\", uid: 0, gid: 0}}";
        match &at.node.data {
            YamlData::Value(Scalar::String(text)) if text == "fail" => IfMissing::Fail,
            YamlData::Mapping(_) => {
                let Some(fields) = self.mapping(at, &["create"]) else { return IfMissing::Fail };
                let Some(create) = self.required(&fields, "create") else { return IfMissing::Fail };
                let Some(fields) = self.mapping(&create, &CREATE_FIELDS) else { return IfMissing::Fail };
                let mode = self.parsed(fields.get("mode"), |text| {
                    u32::from_str_radix(text, 8)
                        .ok()
                        .filter(|mode| *mode <= 0o7777)
                        .ok_or("is not a mode: write an octal number from 0000 to 7777, in quotes")
                });
                let (uid, gid) = (self.id(&fields, "uid"), self.id(&fields, "gid"));
                IfMissing::Create { mode: mode.unwrap_or(0o755), uid, gid }
            }
            _ => {
                self.wrong_kind(at, advice);
                IfMissing::Fail
            }
        }
    }

    fn rule(&mut self, at: &At<'_, '_>) -> Option<Rule> {
        let fields = self.mapping(at, &RULE_FIELDS)?;
        let namespaces = self.required(&fields, "namespaces").map_or_else(Vec::new, |at| self.patterns(&at));
        let service_accounts =
            fields.get("serviceAccounts").map_or_else(|| vec![Pattern::new("*")], |at| self.patterns(&at));
        Some(Rule { namespaces, service_accounts })
    }

    fn patterns(&mut self, at: &At<'_, '_>) -> Vec<Pattern> {
        let items = self.list(at, "names or patterns");
        if items.is_empty() && matches!(at.node.data, YamlData::Sequence(_)) {
            let message = "is empty, so the rule lets nobody pass: name somebody, or leave the rule out".to_owned();
            self.fault(at.line(), &at.field, message);
        }
        let parse = |text: &str| {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.*?".contains(c);
            let fits = !text.is_empty() && text.len() <= 253 && text.chars().all(allowed);
            fits.then(|| Pattern::new(text)).ok_or("is no name or pattern: use a-z, 0-9, '-', '.', '*' and '?'")
        };
        items.into_iter().filter_map(|at| self.parsed(Some(at), parse)).collect()
    }

    /// What can only be said of all entries together.
    fn together(&mut self, entries: &[(usize, String, Entry)]) {
        for (n, (line, field, entry)) in entries.iter().enumerate() {
            for (at, name) in entry.overlaps.iter().enumerate() {
                if !entries.iter().any(|(_, _, other)| other.name == *name) {
                    self.fault(*line, &format!("{field}.overlaps[{at}]"), format!("there is no entry {name}"));
                }
            }
            for (_, earlier_field, earlier) in &entries[..n] {
                if earlier.name == entry.name {
                    let message = format!("{} is the name of {earlier_field} too: names must differ", entry.name);
                    self.fault(*line, &format!("{field}.name"), message);
                }
                let said = entry.overlaps.contains(&earlier.name) || earlier.overlaps.contains(&entry.name);
                if earlier.path.overlaps(&entry.path) && !said {
                    let message = format!(
                        "{} and {} of {earlier_field} ({}) overlap: if that is meant, write overlaps: [{}]",
                        entry.path, earlier.path, earlier.name, earlier.name
                    );
                    self.fault(*line, &format!("{field}.path"), message);
                }
            }
        }
    }
}

/// Whether two words differ by one letter too few, too many, or wrong.
fn near(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let same_start = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let same_end = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let longest = a.len().max(b.len());
    longest > 2 && longest - a.len().min(b.len()) <= 1 && same_start + same_end + 1 >= longest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<AllowList, Faults> {
        AllowList::parse(text, &AbsPath::parse("/var/lib/kubelet").unwrap())
    }

    fn faults(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_example_is_without_fault() {
        let list = parse(include_str!("../../docs/allow-list.example.yaml")).unwrap_or_else(|e| panic!("{e}"));
        let datasets = list.get(&EntryName::parse("datasets").unwrap()).unwrap();
        assert!(datasets.attrs.read_only && datasets.attrs.nosuid && datasets.sub_paths);
        assert_eq!(datasets.ceiling, MountPropagation::HostToContainer);
    }

    #[test]
    fn defaults_are_the_safe_ones() {
        let list = parse("entries: [{name: a, path: /a}]").unwrap();
        let entry = list.iter().next().unwrap();
        assert_eq!(
            **entry,
            Entry {
                name: EntryName::parse("a").unwrap(),
                path: AbsPath::parse("/a").unwrap(),
                ceiling: MountPropagation::None,
                attrs: MountAttrs { read_only: false, nosuid: true, nodev: true, noexec: false },
                sub_paths: false,
                missing: IfMissing::Fail,
                read_only_propagation: ReadOnlyPropagation::Refuse,
                overlaps: vec![],
                allow: vec![],
            }
        );
    }

    #[test]
    fn all_faults_come_at_once_with_line_and_field() {
        let text = "\
entries:
  - name: Data
    path: mnt/data
    propagaton: None
    readOnly: yes please
  - path: /var/lib/kubelet/pods
    missing: {create: {mode: 0755, uid: -1, gid: 5}}
    allow:
      - namespaces: []
        serviceAccounts: [5]
      - {}
  - {name: a, path: /a, overlaps: [gone], readOnlyPropagation: maybe}
  - {name: a, path: /a/b}
  - {name: c, path: /a/../c, propagation: slave}
extra: 1
";
        let found = faults(text);
        for expected in [
            "line 2, entries[0].name: \"Data\" is not an entry name",
            "line 3, entries[0].path: \"mnt/data\" is not an absolute path",
            "line 4, entries[0].propagaton: unknown field; did you mean propagation?",
            "line 5, entries[0].readOnly: the text \"yes please\" was found: write true or false",
            "line 6, entries[1].name: is required",
            "line 6, entries[1].path: \"/var/lib/kubelet/pods\" contains or lies in the kubelet directory",
            "line 7, entries[1].missing.create.mode: the number",
            "line 7, entries[1].missing.create.uid: the number -1 was found",
            "line 9, entries[1].allow[0].namespaces: is empty",
            "line 10, entries[1].allow[0].serviceAccounts[0]: the number 5 was found: write text, in quotes",
            "line 11, entries[1].allow[1].namespaces: is required",
            "line 12, entries[2].overlaps[0]: there is no entry gone",
            "line 12, entries[2].readOnlyPropagation: \"maybe\" is unknown",
            "line 13, entries[3].name: a is the name of entries[2] too",
            "line 13, entries[3].path: /a/b and /a of entries[2] (a) overlap",
            "line 14, entries[4].path: \"/a/../c\" contains the component",
            "line 14, entries[4].propagation: \"slave\" is not a propagation",
            "line 15, extra: unknown field",
        ] {
            assert!(found.lines().any(|l| l.starts_with(expected)), "missing: {expected}\nin:\n{found}");
        }
        assert_eq!(found.lines().count(), 18, "{found}");
    }

    #[test]
    fn what_is_no_allow_list_is_said_to_be_none() {
        for (text, expected) in [
            ("", "0 YAML documents"),
            ("---\nentries: []\n---\nentries: []\n", "2 YAML documents"),
            ("entries: [", "this is not YAML"),
            ("- a", "write a mapping"),
            ("entries: 5", "write a list"),
            ("entries: []\nentries: []", "duplicated key"),
            ("{}", "entries: is required"),
        ] {
            assert!(faults(text).contains(expected), "{text:?}: {}", faults(text));
        }
        assert!(faults(&" ".repeat(SIZE_MAX + 1)).contains("over the limit"));
        assert!(parse("entries: []").unwrap().is_empty());
    }

    #[test]
    fn overlap_may_be_said_on_either_side() {
        for text in [
            "entries: [{name: a, path: /a, overlaps: [b]}, {name: b, path: /a/b}]",
            "entries: [{name: a, path: /a}, {name: b, path: /a/b, overlaps: [a]}]",
        ] {
            assert_eq!(parse(text).unwrap().len(), 2);
        }
        assert!(faults("entries: [{name: root, path: /}]").contains("kubelet directory"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(entries|name|path|allow|[-:{}\\[\\]&*!|>'\"%@ \n]|[a-z]|\\PC){0,60}") {
            let _ = parse(&text);
        }
    }
}
