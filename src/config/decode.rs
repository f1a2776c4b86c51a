//! The tree of a file to entries, with every fault on the way.
//!
//! Two passes. The first compares the tree with the table of what may be written: types, words, unknown, missing
//! and doubled fields. The second reads values, for which the table's types have already been complained about if
//! they don't hold, parses them into types of their own, and compares entries with each other.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};

use saphyr::Scalar;

use super::shape::{Absent, FILE, Field, ID_MAX, Shape};
use super::yaml::{self, Data, Node, Place};
use super::{Entry, Fault, Faults, Heal, Missing, MountFlags, Pattern, ReadOnlyPropagation, Rule, SIZE_MAX};
use crate::propagation::MountPropagation;
use crate::volume::{AbsPath, EntryName};

/// The most faults that are reported: who has more has a file of another kind.
const FAULTS_MAX: usize = 1000;

/// Reads a file's text.
pub(super) fn decode(text: &str, kubelet_dir: &AbsPath) -> Result<Vec<Entry>, Faults> {
    if text.len() > SIZE_MAX {
        let message = format!("the file has {} bytes, over the limit of {SIZE_MAX}: list fewer entries", text.len());
        return Err(Faults(vec![Fault { line: 1, column: 1, field: String::new(), message }]));
    }
    let root = yaml::read(text).map_err(|fault| Faults(vec![fault]))?;
    let mut sink = Sink(Vec::new());
    check(&root, &Shape::Object(FILE), root.place, "", &mut sink);
    let file = View { node: &root, fields: FILE, path: String::new() };
    let drafts: Vec<Draft<'_>> =
        file.objects("entries").map(|view| Draft::read(view, kubelet_dir, &mut sink)).collect();
    compare(&drafts, &mut sink);
    if sink.0.is_empty() {
        Ok(drafts.into_iter().filter_map(|d| d.entry).collect())
    } else {
        sink.0.sort_by_key(|f| (f.line, f.column));
        let more = sink.0.split_off(sink.0.len().min(FAULTS_MAX));
        if let Some(next) = more.first() {
            sink.0.push(Fault { field: String::new(), message: format!("{} faults more", more.len()), ..next.clone() });
        }
        Err(Faults(sink.0))
    }
}

struct Sink(Vec<Fault>);

impl Sink {
    fn push(&mut self, place: Place, field: &str, message: String) {
        self.0.push(Fault { line: place.line, column: place.column, field: field.to_owned(), message });
    }
}

/// A text from the file, for a message: quoted, and cut if it is long.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(80) {
            Some((end, _)) => write!(f, "{:?}...", self.0.get(..end).unwrap_or_default()),
            None => write!(f, "{:?}", self.0),
        }
    }
}

// ---- first pass: the shape ----

fn check(node: &Node<'_>, shape: &Shape, place: Place, path: &str, sink: &mut Sink) {
    let wrong = match (shape, &node.data) {
        (Shape::Text { .. }, Data::Scalar(Scalar::String(_), _))
        | (Shape::Flag, Data::Scalar(Scalar::Boolean(_), _)) => None,
        (Shape::Id, Data::Scalar(Scalar::Integer(id), _)) if (0..=i64::from(ID_MAX)).contains(id) => None,
        (Shape::Word(words) | Shape::WordOr(words, _), Data::Scalar(Scalar::String(found), _)) => {
            (!words.contains(&found.as_ref())).then(|| {
                format!("is {}, but must be {}{}", Quoted(found), expected(shape), meant(found, words.iter().copied()))
            })
        }
        (Shape::List { of, min, max }, Data::List(items)) => {
            for (i, item) in items.iter().enumerate() {
                check(item, of, item.place, &format!("{path}[{i}]"), sink);
            }
            match max {
                _ if items.len() < *min => Some(format!("is empty: it needs {min} item at least")),
                Some(max) if items.len() > *max => Some(format!("has {} items, over the limit of {max}", items.len())),
                _ => None,
            }
        }
        (Shape::Object(fields) | Shape::WordOr(_, fields), Data::Map(pairs)) => {
            check_fields(pairs, fields, place, path, sink);
            None
        }
        _ => Some(mismatch(node, shape)),
    };
    if let Some(message) = wrong {
        sink.push(place, path, message);
    }
}

fn check_fields(pairs: &[(Node<'_>, Node<'_>)], fields: &[Field], place: Place, path: &str, sink: &mut Sink) {
    let mut seen: HashMap<&str, Place> = HashMap::new();
    for (key, value) in pairs {
        let Data::Scalar(_, name) = &key.data else {
            sink.push(
                key.place,
                path,
                "has a key that is not a plain word: every key is the name of a field".to_owned(),
            );
            continue;
        };
        let below = join(path, name);
        if let Some(first) = seen.insert(name, key.place) {
            sink.push(
                key.place,
                &below,
                format!("is given a second time, after line {}: keep one of them", first.line),
            );
        }
        match fields.iter().find(|f| f.name == name.as_ref()) {
            Some(field) => check(value, &field.shape, value_place(key, value), &below, sink),
            None => {
                let mut message = "is not a field".to_owned();
                match meant(name, fields.iter().map(|f| f.name)) {
                    hint if hint.is_empty() => {
                        let _ =
                            write!(message, ": remove it; the fields here are {}", list(fields.iter().map(|f| f.name)));
                    }
                    hint => message.push_str(&hint),
                }
                sink.push(key.place, &below, message);
            }
        }
    }
    for field in fields.iter().filter(|f| matches!(f.absent, Absent::Fault) && !seen.contains_key(f.name)) {
        let about = field.about.split([':', '.']).next().unwrap_or_default();
        sink.push(place, &join(path, field.name), format!("is missing: add it ({about})"));
    }
}

/// Where to look for a field's value: at the value if it begins on the key's line, at the key if not.
fn value_place(key: &Node<'_>, value: &Node<'_>) -> Place {
    let is_null = matches!(value.data, Data::Scalar(Scalar::Null, _));
    if value.place.line == key.place.line && !is_null { value.place } else { key.place }
}

fn join(path: &str, name: &str) -> String {
    let plain =
        !name.is_empty() && name.len() <= 40 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    let name = if plain { name.to_owned() } else { Quoted(name).to_string() };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

fn expected(shape: &Shape) -> String {
    match shape {
        Shape::Text { .. } => "a string".to_owned(),
        Shape::Word(words) => format!("one of {}", list(words.iter().copied())),
        Shape::Flag => "true or false".to_owned(),
        Shape::Id => format!("a whole number from 0 to {ID_MAX}"),
        Shape::List { .. } => "a list".to_owned(),
        Shape::Object(fields) => format!("a mapping with the fields {}", list(fields.iter().map(|f| f.name))),
        Shape::WordOr(words, fields) => {
            format!("{}, or a mapping with {}", list(words.iter().copied()), list(fields.iter().map(|f| f.name)))
        }
    }
}

/// What was found instead of the shape, what it must be, and how to get there where that is plain.
fn mismatch(node: &Node<'_>, shape: &Shape) -> String {
    let expected = expected(shape);
    let (found, text) = match &node.data {
        Data::Alias => return format!("is an alias, which is not taken: write out the value, {expected}"),
        Data::Tagged(tag) => {
            return format!("has the tag {}, which does not fit: remove it and write {expected}", Quoted(tag));
        }
        Data::Scalar(Scalar::Null, _) => return format!("has no value: give it {expected}, or remove it"),
        Data::List(_) => ("is a list".to_owned(), None),
        Data::Map(_) => ("is a mapping".to_owned(), None),
        Data::Scalar(Scalar::String(text), _) => (format!("is the string {}", Quoted(text)), Some(text)),
        Data::Scalar(Scalar::Boolean(_), text) => (format!("is the boolean {text}"), Some(text)),
        Data::Scalar(_, text) => (format!("is the number {text}"), Some(text)),
    };
    let advice = match (shape, &node.data, text) {
        (Shape::Text { .. }, _, Some(text)) => format!(": quote it, {}", Quoted(text)),
        (Shape::Flag | Shape::Id, Data::Scalar(Scalar::String(_), _), Some(text))
            if text.parse::<bool>().is_ok() || text.parse::<u32>().is_ok() =>
        {
            ": remove the quotes".to_owned()
        }
        (Shape::List { of: Shape::Text { .. }, .. }, Data::Scalar(Scalar::String(_), _), Some(text)) => {
            format!(": write [{}]", Quoted(text))
        }
        (Shape::List { .. }, Data::Map(_), _) => ": begin each item with \"- \"".to_owned(),
        _ => String::new(),
    };
    format!("{found}, but must be {expected}{advice}")
}

/// `: did you mean "x"?`, if one of the words is close.
fn meant<'a>(found: &str, words: impl Iterator<Item = &'a str>) -> String {
    let plain = |s: &str| s.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    if found.len() > 64 {
        return String::new();
    }
    let found = plain(found);
    words
        .map(|w| (distance(&found, &plain(w)), w))
        .min()
        .filter(|(d, w)| *d <= 2 && *d * 3 <= w.len())
        .map(|(_, w)| format!(": did you mean {w:?}?"))
        .unwrap_or_default()
}

/// How many letters to change, add or remove to get from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (y, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let change = corner + usize::from(x != y);
            corner = *cell;
            left = change.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

// ---- second pass: the values ----

/// A mapping of which the fields are known. What isn't as the table says reads as if it weren't there.
struct View<'n, 't> {
    node: &'n Node<'t>,
    fields: &'static [Field],
    path: String,
}

impl<'n, 't> View<'n, 't> {
    fn pair(&self, name: &str) -> Option<&'n (Node<'t>, Node<'t>)> {
        let Data::Map(pairs) = &self.node.data else { return None };
        pairs.iter().find(|(key, _)| matches!(&key.data, Data::Scalar(_, text) if text == name))
    }

    fn absent(&self, name: &str) -> Absent {
        self.fields.iter().find(|f| f.name == name).map_or(Absent::Fault, |f| f.absent)
    }

    fn at(&self, name: &str) -> (Place, String) {
        let place = self.pair(name).map_or(self.node.place, |(key, value)| value_place(key, value));
        (place, join(&self.path, name))
    }

    fn text(&self, name: &str) -> Option<&'n str> {
        match (self.pair(name), self.absent(name)) {
            (Some((_, value)), _) => string(value),
            (None, Absent::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn flag(&self, name: &str) -> bool {
        match (self.pair(name), self.absent(name)) {
            (Some((_, Node { data: Data::Scalar(Scalar::Boolean(flag), _), .. })), _) => *flag,
            (_, Absent::Flag(flag)) => flag,
            _ => false,
        }
    }

    fn id(&self, name: &str) -> u32 {
        match (self.pair(name), self.absent(name)) {
            (Some((_, Node { data: Data::Scalar(Scalar::Integer(id), _), .. })), _) => {
                u32::try_from(*id).unwrap_or_default()
            }
            (_, Absent::Id(id)) => id,
            _ => 0,
        }
    }

    fn items(&self, name: &str) -> &'n [Node<'t>] {
        match self.pair(name) {
            Some((_, Node { data: Data::List(items), .. })) => items,
            _ => &[],
        }
    }

    /// The strings of a list, each with its place and path.
    fn texts(&self, name: &str) -> impl Iterator<Item = (&'n str, Place, String)> {
        let path = join(&self.path, name);
        let absent = match (self.pair(name), self.absent(name)) {
            (None, Absent::Texts(texts)) => texts,
            _ => &[],
        };
        let place = self.node.place;
        let absent = absent.iter().map(move |text| (*text, place, String::new()));
        let given = self.items(name).iter().enumerate();
        given.filter_map(move |(i, item)| Some((string(item)?, item.place, format!("{path}[{i}]")))).chain(absent)
    }

    /// The mappings of a list.
    fn objects(&self, name: &str) -> impl Iterator<Item = View<'n, 't>> {
        let path = join(&self.path, name);
        let fields = self.fields.iter().find(|f| f.name == name).map_or(&[][..], |f| inner(&f.shape));
        let items = self.items(name).iter().enumerate();
        items.map(move |(i, node)| View { node, fields, path: format!("{path}[{i}]") })
    }

    /// The mapping that a field is.
    fn object(&self, name: &str) -> Option<View<'n, 't>> {
        let (_, node) = self.pair(name).filter(|(_, value)| matches!(value.data, Data::Map(_)))?;
        let fields = self.fields.iter().find(|f| f.name == name).map_or(&[][..], |f| inner(&f.shape));
        Some(View { node, fields, path: join(&self.path, name) })
    }

    /// A string parsed into a type; a fault if it can't be.
    fn parse<T, E: fmt::Display>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
        sink: &mut Sink,
    ) -> Option<T> {
        let text = self.text(name)?;
        let (place, path) = self.at(name);
        parse(text).map_err(|e| sink.push(place, &path, format!("{} {e}", Quoted(text)))).ok()
    }

    /// A list of strings parsed into a type; a fault for each that can't be.
    fn parse_all<T, E: fmt::Display>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
        sink: &mut Sink,
    ) -> Vec<T> {
        self.texts(name)
            .filter_map(|(text, place, path)| {
                parse(text).map_err(|e| sink.push(place, &path, format!("{} {e}", Quoted(text)))).ok()
            })
            .collect()
    }
}

fn string<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    match &node.data {
        Data::Scalar(Scalar::String(text), _) => Some(text),
        _ => None,
    }
}

fn inner(shape: &'static Shape) -> &'static [Field] {
    match shape {
        Shape::Object(fields) | Shape::WordOr(_, fields) => fields,
        Shape::List { of, .. } => inner(of),
        Shape::Text { .. } | Shape::Word(_) | Shape::Flag | Shape::Id => &[],
    }
}

/// An entry as far as it could be read, and what comparing it with the others takes.
struct Draft<'n> {
    entry: Option<Entry>,
    /// As written, even if it is no name: so that one bad name isn't reported again wherever it is mentioned.
    name: Option<(&'n str, Place)>,
    path: Option<(AbsPath, Place)>,
    overlaps: Vec<(&'n str, Place, String)>,
    at: String,
}

impl<'n> Draft<'n> {
    fn read(view: View<'n, '_>, kubelet_dir: &AbsPath, sink: &mut Sink) -> Self {
        let name = view.parse("name", EntryName::parse, sink);
        let path = view.parse("path", |text| entry_path(text, kubelet_dir), sink);
        // A word that is none has been reported with all that are, and the entry is dropped.
        let ceiling = view.text("propagation").and_then(|word| word.parse::<MountPropagation>().ok());
        let read_only_propagation = match view.text("readOnlyPropagation") {
            Some("warn") => ReadOnlyPropagation::Warn,
            _ => ReadOnlyPropagation::Refuse,
        };
        let heal = match view.text("heal") {
            Some("Off") => Heal::Off,
            Some("Containers") => Heal::Containers,
            _ => Heal::Propagating,
        };
        let missing = match view.object("missing").and_then(|m| m.object("create")) {
            None => Some(Missing::Fail),
            Some(create) => create.parse("mode", parse_mode, sink).map(|mode| Missing::Create {
                mode,
                uid: create.id("uid"),
                gid: create.id("gid"),
            }),
        };
        let overlaps = view.parse_all("overlaps", EntryName::parse, sink);
        let mut allow = Vec::new();
        for rule in view.objects("allow") {
            let namespaces = rule.parse_all("namespaces", Pattern::parse, sink);
            let service_accounts = rule.parse_all("serviceAccounts", Pattern::parse, sink);
            allow.push(Rule { namespaces, service_accounts });
        }
        let flags = MountFlags { nosuid: view.flag("nosuid"), nodev: view.flag("nodev"), noexec: view.flag("noexec") };
        let (read_only, sub_paths) = (view.flag("readOnly"), view.flag("subPaths"));
        let written = view.pair("name").and_then(|(_, value)| match &value.data {
            Data::Scalar(_, text) => Some((text.as_ref(), view.at("name").0)),
            _ => None,
        });
        Self {
            name: written,
            path: path.clone().map(|p| (p, view.at("path").0)),
            overlaps: view.texts("overlaps").collect(),
            at: view.path,
            entry: name.zip(path).zip(ceiling).zip(missing).map(|(((name, path), ceiling), missing)| Entry {
                name,
                path,
                ceiling,
                read_only,
                flags,
                sub_paths,
                missing,
                read_only_propagation,
                heal,
                overlaps,
                allow,
            }),
        }
    }
}

fn entry_path(text: &str, kubelet_dir: &AbsPath) -> Result<AbsPath, String> {
    let path = AbsPath::parse(text).map_err(|e| e.to_string())?;
    if path.as_path().parent().is_none() {
        return Err("is the root of the node: name a directory beneath it".to_owned());
    }
    if path.overlaps(kubelet_dir) {
        return Err(format!(
            "contains or lies in the kubelet's directory {kubelet_dir}, where other pods' volumes and secrets are: \
             name a directory outside of it"
        ));
    }
    Ok(path)
}

fn parse_mode(text: &str) -> Result<u32, &'static str> {
    let digits = (3..=5).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777);
    mode.filter(|_| text.len() < 5 || text.starts_with('0'))
        .ok_or("is not a mode: write three or four octal digits in quotes, such as \"0755\"")
}

/// Faults between entries: names given twice, references to nothing, and overlaps that nobody spoke of.
fn compare(drafts: &[Draft<'_>], sink: &mut Sink) {
    let mut names: HashMap<&str, (&str, Place)> = HashMap::new();
    for draft in drafts {
        let Some((name, place)) = draft.name else { continue };
        if let Some((first, line)) = names.get(name).map(|(at, first)| (at, first.line)) {
            let message =
                format!("{} is the name of {first} on line {line} too: give each a name of its own", Quoted(name));
            sink.push(place, &format!("{}.name", draft.at), message);
        } else {
            names.insert(name, (&draft.at, place));
        }
    }
    for draft in drafts {
        for (name, place, path) in &draft.overlaps {
            if draft.name.is_some_and(|(own, _)| own == *name) {
                sink.push(*place, path, format!("{} is this entry itself: remove it", Quoted(name)));
            } else if !names.contains_key(name) {
                let hint = meant(name, names.keys().copied());
                let advice = if hint.is_empty() { ": correct or remove it" } else { &hint };
                sink.push(*place, path, format!("{} is not the name of an entry{advice}", Quoted(name)));
            }
        }
    }
    let spoken: Vec<HashSet<&str>> = drafts.iter().map(|d| d.overlaps.iter().map(|(n, ..)| *n).collect()).collect();
    let speaks =
        |by: usize, of: &Draft<'_>| of.name.is_some_and(|(name, _)| spoken.get(by).is_some_and(|s| s.contains(name)));
    for (i, later) in drafts.iter().enumerate() {
        let Some((path, place)) = &later.path else { continue };
        for (j, earlier) in drafts.iter().enumerate().take(i) {
            let Some((other, first)) = &earlier.path else { continue };
            if path.overlaps(other) && !speaks(i, earlier) && !speaks(j, later) {
                let how = if path == other {
                    "is the path"
                } else if path.as_path().starts_with(other.as_path()) {
                    "lies in the path"
                } else {
                    "contains the path"
                };
                let name = earlier.name.map_or("its name", |(name, _)| name);
                let message = format!(
                    "{path} {how} of {} on line {}: choose another directory or, if it is meant, add {} to overlaps",
                    earlier.at,
                    first.line,
                    Quoted(name)
                );
                sink.push(*place, &format!("{}.path", later.at), message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kubelet() -> AbsPath {
        AbsPath::parse("/var/lib/kubelet").unwrap()
    }

    fn faults(text: &str) -> Vec<String> {
        decode(text, &kubelet()).unwrap_err().0.iter().map(ToString::to_string).collect()
    }

    fn one(text: &str) -> String {
        let mut faults = faults(text);
        assert_eq!(faults.len(), 1, "{faults:#?}");
        faults.remove(0)
    }

    #[test]
    fn an_entry_has_what_the_file_says() {
        let text = r#"
entries:
  - name: data.sets-1
    path: /mnt/data
    propagation: rslave
    readOnly: true
    nosuid: false
    nodev: false
    noexec: true
    subPaths: true
    missing: {create: {mode: "2770", uid: 1000, gid: 0x10}}
    readOnlyPropagation: warn
    heal: Off
    overlaps: [inner]
    allow:
      - namespaces: ["team-*", ml]
      - {namespaces: [a], serviceAccounts: [b, c]}
  - name: inner
    path: /mnt/data/inner
"#;
        let entries = decode(text, &kubelet()).unwrap_or_else(|e| panic!("{e}"));
        let pattern = |p| Pattern::parse(p).unwrap();
        let full = Entry {
            name: EntryName::parse("data.sets-1").unwrap(),
            path: AbsPath::parse("/mnt/data").unwrap(),
            ceiling: MountPropagation::HostToContainer,
            read_only: true,
            flags: MountFlags { nosuid: false, nodev: false, noexec: true },
            sub_paths: true,
            missing: Missing::Create { mode: 0o2770, uid: 1000, gid: 16 },
            read_only_propagation: ReadOnlyPropagation::Warn,
            heal: Heal::Off,
            overlaps: vec![EntryName::parse("inner").unwrap()],
            allow: vec![
                Rule { namespaces: vec![pattern("team-*"), pattern("ml")], service_accounts: vec![pattern("*")] },
                Rule { namespaces: vec![pattern("a")], service_accounts: vec![pattern("b"), pattern("c")] },
            ],
        };
        let bare = Entry {
            name: EntryName::parse("inner").unwrap(),
            path: AbsPath::parse("/mnt/data/inner").unwrap(),
            ceiling: MountPropagation::None,
            read_only: false,
            flags: MountFlags { nosuid: true, nodev: true, noexec: false },
            sub_paths: false,
            missing: Missing::Fail,
            read_only_propagation: ReadOnlyPropagation::Refuse,
            heal: Heal::Propagating,
            overlaps: vec![],
            allow: vec![],
        };
        assert_eq!(entries, [full, bare]);
        let created = decode("entries: [{name: a, path: /a, missing: {create: {}}}]", &kubelet()).unwrap();
        assert_eq!(created[0].missing, Missing::Create { mode: 0o755, uid: 0, gid: 0 });
    }

    #[test]
    fn every_fault_of_a_file_is_reported_with_its_line() {
        let text = r#"# line 1
entries:
  - name: 5
    path: mnt/data
    readonly: true
    nosuid: yes
  - name: b
    path: /mnt/b
    path: /mnt/b2
    propagation: slave
    missing: {create: {mode: 0755, uid: -1}}
    overlaps: [c, nosuch]
    allow:
      - serviceAccounts: []
      - namespaces: team
      - namespaces: ["Team-*"]
        serviceAccount: x
  - name: b
    path:
      /mnt/b/inner
  - path: /var/lib
    noexec:
  - name: root
    path: /
    overlaps: [root]
    readOnlyPropagation: Warn
    allow: {namespaces: [a]}
  - just-a-name
more: 1
"#;
        let faults = decode(text, &kubelet()).unwrap_err();
        let found: Vec<(usize, &str)> = faults.0.iter().map(|f| (f.line, f.field.as_str())).collect();
        assert_eq!(
            found,
            [
                (3, "entries[0].name"),
                (4, "entries[0].path"),
                (5, "entries[0].readonly"),
                (6, "entries[0].nosuid"),
                (9, "entries[1].path"),
                (10, "entries[1].propagation"),
                (11, "entries[1].missing.create.mode"),
                (11, "entries[1].missing.create.uid"),
                (12, "entries[1].overlaps[0]"),
                (12, "entries[1].overlaps[1]"),
                (14, "entries[1].allow[0].namespaces"),
                (14, "entries[1].allow[0].serviceAccounts"),
                (15, "entries[1].allow[1].namespaces"),
                (16, "entries[1].allow[2].namespaces[0]"),
                (17, "entries[1].allow[2].serviceAccount"),
                (18, "entries[2].name"),
                (19, "entries[2].path"),
                (21, "entries[3].name"),
                (21, "entries[3].path"),
                (22, "entries[3].noexec"),
                (24, "entries[4].path"),
                (25, "entries[4].overlaps[0]"),
                (26, "entries[4].readOnlyPropagation"),
                (27, "entries[4].allow"),
                (28, "entries[5]"),
                (29, "more"),
            ],
            "{faults}"
        );
        assert_eq!(faults.to_string().lines().count(), faults.0.len());
        assert_eq!((faults.0[0].column, faults.0[1].column), (11, 11));
        for part in [
            "line 3, entries[0].name: is the number 5, but must be a string: quote it, \"5\"",
            "line 4, entries[0].path: \"mnt/data\" is not an absolute path",
            "line 5, entries[0].readonly: is not a field: did you mean \"readOnly\"?",
            "line 6, entries[0].nosuid: is the string \"yes\", but must be true or false",
            "line 9, entries[1].path: is given a second time, after line 8: keep one of them",
            "line 10, entries[1].propagation: is \"slave\", but must be one of None, ",
            "mode: is the number 0755, but must be a string: quote it, \"0755\"",
            "uid: is the number -1, but must be a whole number from 0 to 4294967294",
            "\"nosuch\" is not the name of an entry: correct or remove it",
            "\"root\" is this entry itself: remove it",
            "allow[0].namespaces: is missing: add it (",
            "allow[0].serviceAccounts: is empty: it needs 1 item at least",
            "is the string \"team\", but must be a list: write [\"team\"]",
            "\"Team-*\" contains 'T', which no namespace",
            "serviceAccount: is not a field: did you mean \"serviceAccounts\"?",
            "\"b\" is the name of entries[1] on line 7 too",
            "/mnt/b/inner lies in the path of entries[1] on line 8: choose another directory or",
            "if it is meant, add \"b\" to overlaps",
            "line 21, entries[3].name: is missing: add it (What pods call the directory)",
            "\"/var/lib\" contains or lies in the kubelet's directory /var/lib/kubelet",
            "noexec: has no value: give it true or false, or remove it",
            "\"/\" is the root of the node",
            "is \"Warn\", but must be one of refuse, warn: did you mean \"warn\"?",
            "allow: is a mapping, but must be a list: begin each item with \"- \"",
            "entries[5]: is the string \"just-a-name\", but must be a mapping with the fields name, path, ",
            "line 29, more: is not a field: remove it; the fields here are entries",
        ] {
            assert!(faults.to_string().contains(part), "lacks {part}:\n{faults}");
        }
    }

    #[test]
    fn a_file_that_is_no_list_is_one_fault() {
        for text in ["", "# nothing\n", "---\n", "null", "\u{feff}"] {
            assert!(one(text).contains("the file is empty"), "{text:?}: {}", one(text));
        }
        assert!(one("entries: []\n---\nentries: []\n").starts_with("line 2: a second document"));
        assert!(one("entries:\n  - name: 'a\n").contains("is not valid YAML"));
        assert!(one("entries:\n  - name: a\n path: b\n").starts_with("line 3: is not valid YAML"));
        assert!(one("- name: a").starts_with("line 1: is a list, but must be a mapping with the fields entries"));
        assert!(one("hello").starts_with("line 1: is the string \"hello\""));
        assert!(one(&"#".repeat(SIZE_MAX + 1)).contains("over the limit of 1048576"));
        assert!(decode("\u{feff}---\r\nentries: []\r\n...\r\n", &kubelet()).unwrap().is_empty());
    }

    #[test]
    fn aliases_and_tags_are_not_expanded() {
        let bomb = "a: &a [x]\nb: &b [*a, *a]\nentries: [*b, {name: !!int x, path: !secret /mnt}]\n? [k]\n: v\n";
        let faults = faults(bomb);
        assert!(
            faults.contains(&"line 4: has a key that is not a plain word: every key is the name of a field".to_owned())
        );
        assert!(faults.iter().any(|f| f.starts_with("line 3, entries[0]: is an alias, which is not taken: write out")));
        assert!(faults.iter().any(|f| f.starts_with("line 3, entries[1].name: has the tag ")), "{faults:#?}");
        assert!(
            faults.iter().any(|f| f.starts_with("line 3, entries[1].path: has the tag \"!secret\"")),
            "{faults:#?}"
        );
        let merge = "entries:\n- &x {name: a, path: /mnt/a}\n- <<: *x\n  name: b\n  path: /mnt/b\n";
        assert!(one(merge).starts_with("line 3, entries[1].\"<<\": is not a field"));
        assert!(decode("entries: !!seq [{name: !!str a, path: /a}]", &kubelet()).is_ok());
    }

    #[test]
    fn depth_has_a_limit() {
        for text in ["[".repeat(5000), "- ".repeat(200_000), "a:\n".repeat(10) + &"{a: ".repeat(100), "? ".repeat(5000)]
        {
            assert_eq!(decode(&text, &kubelet()).unwrap_err().0.len(), 1);
        }
        assert!(one(&"- ".repeat(200_000)).contains("levels deep"));
    }

    #[test]
    fn overlaps_need_to_be_said_by_either_entry() {
        let two = |a: &str, b: &str| format!("entries:\n- {{name: a, path: {a}}}\n- {{name: b, path: {b}}}\n");
        assert!(one(&two("/mnt/x", "/mnt/x")).contains("/mnt/x is the path of entries[0] on line 2"));
        assert!(one(&two("/mnt/x/y", "/mnt/x")).contains("/mnt/x contains the path of entries[0]"));
        assert!(decode(&two("/mnt/x", "/mnt/xy"), &kubelet()).is_ok());
        assert!(decode(&two("/mnt/x, overlaps: [b]", "/mnt/x/y"), &kubelet()).is_ok());
        assert!(decode(&two("/mnt/x", "/mnt/x/y, overlaps: [a]"), &kubelet()).is_ok());
        let bad_name = "entries: [{name: A_, path: /mnt/x}, {name: b, path: /mnt/x/y, overlaps: [A_]}]";
        assert_eq!(faults(bad_name).len(), 2, "of the name and its mention, not of the overlap");
        assert!(one(&two("/mnt/x", "/var/lib/kubelet/pods")).contains("kubelet's directory"));
    }

    #[test]
    fn many_entries_take_no_long_time() {
        let entries: String = (0..1000).map(|i| format!("- {{name: e{i}, path: /mnt/e{i}}}\n")).collect();
        let began = std::time::Instant::now();
        assert_eq!(decode(&format!("entries:\n{entries}"), &kubelet()).unwrap().len(), 1000);
        let many = faults(&("entries:\n".to_owned() + &"- x\n".repeat(200_000)));
        assert_eq!((many.len(), many[1000].as_str()), (1001, "line 1001: 199001 faults more"));
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    }

    #[test]
    fn words_of_propagation_are_all_of_them() {
        let words: HashSet<MountPropagation> =
            super::super::shape::PROPAGATION.iter().map(|w| w.parse().unwrap()).collect();
        assert_eq!(words, HashSet::from(MountPropagation::ALL));
        assert_eq!(super::super::shape::PROPAGATION.len(), 2 * words.len());
    }

    #[test]
    fn distances() {
        assert_eq!((distance("", "abc"), distance("abc", "abc"), distance("kitten", "sitting")), (3, 0, 3));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = decode(&text, &kubelet());
        }

        #[test]
        fn no_text_like_yaml_makes_it_panic(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "entries", "name", "path", "missing", "create", "mode", "allow", "namespaces", ":", ": ", "- ", "\n",
                    "\n  ", "\n    ", "[", "]", "{", "}", ",", "*a", "&a ", "!!int ", "!x ", "'", "\"", "|", ">", "? ",
                    "---\n", "...\n", "#", "5", "~", "true", "/mnt/a", "%", "\t", "\r\n", "é", "\0", "<<", "\u{feff}",
                ]),
                0..60,
            )
        ) {
            if let Err(faults) = decode(&parts.concat(), &kubelet()) {
                prop_assert!(!faults.0.is_empty() && faults.0.iter().all(|f| f.line > 0 && f.column > 0));
            }
        }
    }
}
