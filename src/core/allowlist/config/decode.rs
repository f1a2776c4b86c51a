//! Decodes the YAML tree of a file into entries, and collects all its faults.
//!
//! Two passes. The first ([`conform`]) compares the tree with the table of what may be written: types, words, and
//! unknown, missing or duplicate fields. The second parses values into their own types and compares entries with each
//! other. It skips values of the wrong type, which the first pass has reported.

mod conform;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;

use conform::{check, join, meant, value_position};
use mounts::propagation::MountPropagation;
use saphyr::Scalar;
use text::cut::Cut;

use super::shape::{Absent, FILE, Field, Shape};
use super::yaml::{self, Data, Node, Position};
use super::{Entry, Fault, Faults, Heal, Missing, MountFlags, Pattern, ReadOnlyPropagation, Rule, SIZE_MAX};
use crate::names::{AbsPath, BadName, EntryName};

/// The most faults that are reported. A file with more isn't an allow-list.
const FAULTS_MAX: usize = 1000;

/// Parses and decodes a file's text.
pub(super) fn decode(text: &str, kubelet_dir: &AbsPath) -> Result<Vec<Entry>, Faults> {
    if text.len() > SIZE_MAX {
        let message = format!("the file has {} bytes, over the limit of {SIZE_MAX}: list fewer entries", text.len());
        return Err(Faults(vec![Fault { line: 1, column: 1, field: String::new(), message }]));
    }
    let root = yaml::read(text).map_err(|fault| Faults(vec![fault]))?;
    let mut sink = Sink(Vec::new());
    check(&root, &Shape::Object(FILE), root.position, "", &mut sink);
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
    fn push(&mut self, position: Position, field: &str, message: String) {
        self.0.push(Fault { line: position.line, column: position.column, field: field.to_owned(), message });
    }
}

/// How much of a text from the file is shown in a message.
const SHOWN: Cut = Cut::characters(80).mark("");

/// A text from the file, for a message: quoted, and cut if it is long.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = SHOWN.apply(self.0);
        write!(f, "{shown:?}{}", if shown.len() < self.0.len() { "..." } else { "" })
    }
}

/// A mapping with known fields. A value that doesn't fit the table reads as absent.
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

    fn at(&self, name: &str) -> (Position, String) {
        let position = self.pair(name).map_or(self.node.position, |(key, value)| value_position(key, value));
        (position, join(&self.path, name))
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

    /// The strings of a list, each with its position and path.
    fn texts(&self, name: &str) -> impl Iterator<Item = (&'n str, Position, String)> {
        let path = join(&self.path, name);
        let absent = match (self.pair(name), self.absent(name)) {
            (None, Absent::Texts(texts)) => texts,
            _ => &[],
        };
        let position = self.node.position;
        let absent = absent.iter().map(move |text| (*text, position, String::new()));
        let given = self.items(name).iter().enumerate();
        given.filter_map(move |(i, item)| Some((string(item)?, item.position, format!("{path}[{i}]")))).chain(absent)
    }

    /// The mappings of a list.
    fn objects(&self, name: &str) -> impl Iterator<Item = View<'n, 't>> {
        let path = join(&self.path, name);
        let fields = self.fields.iter().find(|f| f.name == name).map_or(&[][..], |f| inner(&f.shape));
        let items = self.items(name).iter().enumerate();
        items.map(move |(i, node)| View { node, fields, path: format!("{path}[{i}]") })
    }

    /// The mapping in a field.
    fn object(&self, name: &str) -> Option<View<'n, 't>> {
        let (_, node) = self.pair(name).filter(|(_, value)| matches!(value.data, Data::Map(_)))?;
        let fields = self.fields.iter().find(|f| f.name == name).map_or(&[][..], |f| inner(&f.shape));
        Some(View { node, fields, path: join(&self.path, name) })
    }

    /// Parses a string into a type, or reports a fault.
    fn parse<T, E: fmt::Display>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
        sink: &mut Sink,
    ) -> Option<T> {
        let text = self.text(name)?;
        let (position, path) = self.at(name);
        parse(text).map_err(|e| sink.push(position, &path, format!("{} {e}", Quoted(text)))).ok()
    }

    /// Parses each string of a list into a type, or reports a fault.
    fn parse_all<T, E: fmt::Display>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
        sink: &mut Sink,
    ) -> Vec<T> {
        self.texts(name)
            .filter_map(|(text, position, path)| {
                parse(text).map_err(|e| sink.push(position, &path, format!("{} {e}", Quoted(text)))).ok()
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

/// An entry as far as it could be read, with what the comparison with other entries needs.
struct Draft<'n> {
    entry: Option<Entry>,
    /// As written, even if it isn't a valid name: one bad name isn't reported again where it is referred to.
    name: Option<(&'n str, Position)>,
    path: Option<(AbsPath, Position)>,
    overlaps: Vec<(&'n str, Position, String)>,
    at: String,
}

impl<'n> Draft<'n> {
    fn read(view: View<'n, '_>, kubelet_dir: &AbsPath, sink: &mut Sink) -> Self {
        let name = view.parse("name", EntryName::parse, sink);
        let path = view.parse("path", |text| entry_path(text, kubelet_dir), sink);
        // The first pass has reported an unknown word, and the entry is dropped.
        let ceiling = view.text("propagation").and_then(|word| word.parse::<MountPropagation>().ok());
        let read_only_propagation = match view.text("readOnlyPropagation") {
            Some("warn") => ReadOnlyPropagation::Warn,
            _ => ReadOnlyPropagation::Refuse,
        };
        let heal = if view.text("heal") == Some("Off") { Heal::Off } else { Heal::On };
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

/// Why an entry can't have a path. The text completes the sentence "PATH ...".
#[derive(Debug, thiserror::Error)]
enum BadEntryPath {
    #[error(transparent)]
    Path(#[from] BadName),
    #[error("is the root of the node: name a directory beneath it")]
    Root,
    #[error(
        "contains or lies in the kubelet's directory {0}, where other pods' volumes and secrets are: name a directory \
         outside of it"
    )]
    Kubelet(AbsPath),
}

fn entry_path(text: &str, kubelet_dir: &AbsPath) -> Result<AbsPath, BadEntryPath> {
    let path = AbsPath::parse(text)?;
    if path.as_path().parent().is_none() {
        return Err(BadEntryPath::Root);
    }
    if path.overlaps(kubelet_dir) {
        return Err(BadEntryPath::Kubelet(kubelet_dir.clone()));
    }
    Ok(path)
}

fn parse_mode(text: &str) -> Result<u32, &'static str> {
    let digits = (3..=5).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777);
    mode.filter(|_| text.len() < 5 || text.starts_with('0'))
        .ok_or("is not a mode: write three or four octal digits in quotes, such as \"0755\"")
}

/// Finds faults between entries: duplicate names, references to unknown entries, and overlaps that `overlaps` doesn't
/// name.
fn compare(drafts: &[Draft<'_>], sink: &mut Sink) {
    let mut names: HashMap<&str, (&str, Position)> = HashMap::new();
    for draft in drafts {
        let Some((name, position)) = draft.name else { continue };
        if let Some((first, line)) = names.get(name).map(|(at, first)| (at, first.line)) {
            let message =
                format!("{} is the name of {first} on line {line} too: give each a name of its own", Quoted(name));
            sink.push(position, &format!("{}.name", draft.at), message);
        } else {
            names.insert(name, (&draft.at, position));
        }
    }
    for draft in drafts {
        for (name, position, path) in &draft.overlaps {
            if draft.name.is_some_and(|(own, _)| own == *name) {
                sink.push(*position, path, format!("{} is this entry itself: remove it", Quoted(name)));
            } else if !names.contains_key(name) {
                let hint = meant(name, names.keys().copied());
                let advice = if hint.is_empty() { ": correct or remove it" } else { &hint };
                sink.push(*position, path, format!("{} is not the name of an entry{advice}", Quoted(name)));
            }
        }
    }
    let spoken: Vec<HashSet<&str>> = drafts.iter().map(|d| d.overlaps.iter().map(|(n, ..)| *n).collect()).collect();
    let speaks =
        |by: usize, of: &Draft<'_>| of.name.is_some_and(|(name, _)| spoken.get(by).is_some_and(|s| s.contains(name)));
    for (i, later) in drafts.iter().enumerate() {
        let Some((path, position)) = &later.path else { continue };
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
                sink.push(*position, &format!("{}.path", later.at), message);
            }
        }
    }
}
