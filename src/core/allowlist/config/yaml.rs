//! Parses YAML text into a tree with a position at every node.
//!
//! The tree is built from the parser's events, not by `saphyr`'s loader. That one stops at the first duplicate key,
//! expands aliases, and recurses as deep as the text demands. Here all keys are kept, aliases are left for the decoder
//! to refuse, and the depth is limited.

use std::borrow::Cow;

use saphyr::Scalar;
use saphyr_parser::{Event, Marker, Parser, Tag};

use super::Fault;

/// Twice the depth of a correct file.
const DEPTH_MAX: usize = 16;

/// A position in the file. Both numbers count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Position {
    fn of(mark: Marker) -> Self {
        Self { line: mark.line(), column: mark.col() + 1 }
    }

    fn fault(self, message: String) -> Fault {
        Fault { line: self.line, column: self.column, field: String::new(), message }
    }
}

/// A value of the file.
#[derive(Debug)]
pub(super) struct Node<'t> {
    pub(super) position: Position,
    pub(super) data: Data<'t>,
}

#[derive(Debug)]
pub(super) enum Data<'t> {
    /// A scalar, and its text.
    Scalar(Scalar<'t>, Cow<'t, str>),
    List(Vec<Node<'t>>),
    /// In the file's order, with duplicate keys.
    Map(Vec<(Node<'t>, Node<'t>)>),
    /// An alias, `*name`.
    Alias,
    /// A value with a tag that has no meaning here or doesn't fit the value.
    Tagged(String),
}

enum Open<'t> {
    List(Vec<Node<'t>>),
    Map(Vec<(Node<'t>, Node<'t>)>, Option<Node<'t>>),
}

/// Parses a text with one document.
pub(super) fn read(text: &str) -> Result<Node<'_>, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new_from_str(text);
    let mut open: Vec<(Position, Option<String>, Open<'_>)> = Vec::new();
    let mut root = None;
    while let Some(event) = parser.next_event() {
        let (event, span) =
            event.map_err(|e| Position::of(*e.marker()).fault(format!("is not valid YAML: {}", e.info())))?;
        let position = Position::of(span.start);
        let done = match event {
            Event::DocumentStart(_) if root.is_some() => {
                let message = "a second document starts here: put all entries into one, and remove the \"---\"";
                return Err(position.fault(message.to_owned()));
            }
            Event::SequenceStart(_, tag) => {
                open.push((position, foreign(tag.as_deref()), Open::List(Vec::new())));
                None
            }
            Event::MappingStart(_, tag) => {
                open.push((position, foreign(tag.as_deref()), Open::Map(Vec::new(), None)));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(close),
            Event::Alias(_) => Some(Node { position, data: Data::Alias }),
            Event::Scalar(text, style, _, tag) => {
                let tag_text = foreign(tag.as_deref());
                let value = Scalar::parse_from_cow_and_metadata(text.clone(), style, tag.as_ref());
                let data = match (tag_text, value, tag) {
                    (Some(tag), ..) => Data::Tagged(tag),
                    (None, Some(value), _) => Data::Scalar(value, text),
                    (None, None, tag) => Data::Tagged(tag.map(|t| t.to_string()).unwrap_or_default()),
                };
                Some(Node { position, data })
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                None
            }
        };
        if open.len() > DEPTH_MAX {
            return Err(position.fault(format!("is nested over {DEPTH_MAX} levels deep, which no field is: remove it")));
        }
        let Some(node) = done else { continue };
        match open.last_mut() {
            None => root = Some(node),
            Some((_, _, Open::List(items))) => items.push(node),
            Some((_, _, Open::Map(pairs, key))) => match key.take() {
                None => *key = Some(node),
                Some(key) => pairs.push((key, node)),
            },
        }
    }
    match root {
        Some(Node { data: Data::Scalar(Scalar::Null, _), position }) => Err(empty(position)),
        Some(root) => Ok(root),
        None => Err(empty(Position { line: 1, column: 1 })),
    }
}

fn empty(position: Position) -> Fault {
    position.fault("the file is empty: list entries, or write \"entries: []\" to refuse every volume".to_owned())
}

fn close<'t>((position, tag, open): (Position, Option<String>, Open<'t>)) -> Node<'t> {
    let data = match (tag, open) {
        (Some(tag), _) => Data::Tagged(tag),
        (None, Open::List(items)) => Data::List(items),
        (None, Open::Map(pairs, _)) => Data::Map(pairs),
    };
    Node { position, data }
}

/// The tag, unless it belongs to YAML's core schema.
fn foreign(tag: Option<&Tag>) -> Option<String> {
    tag.filter(|t| !t.is_yaml_core_schema()).map(ToString::to_string)
}

impl Node<'_> {
    /// The value as JSON, to compare the decoder with the schema.
    #[cfg(test)]
    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::{Value, json};
        match &self.data {
            Data::Scalar(Scalar::Null, _) => Value::Null,
            Data::Scalar(Scalar::Boolean(b), _) => json!(b),
            Data::Scalar(Scalar::Integer(i), _) => json!(i),
            Data::Scalar(Scalar::FloatingPoint(f), _) => json!(f.into_inner()),
            Data::Scalar(Scalar::String(s), _) => json!(s),
            Data::List(items) => items.iter().map(Node::to_json).collect(),
            Data::Map(pairs) => pairs
                .iter()
                .map(|(key, value)| (key.to_json().as_str().unwrap_or("?").to_owned(), value.to_json()))
                .collect(),
            Data::Alias | Data::Tagged(_) => Value::Null,
        }
    }
}
