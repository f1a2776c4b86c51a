//! The first pass over a file: compares its tree with the table of what may be written.
//!
//! Reports wrong types and words, and unknown, missing and duplicate fields, all at once. It suggests the word that was
//! meant, if one is close.

use std::collections::HashMap;
use std::fmt::Write;

use saphyr::Scalar;

use super::{Quoted, Sink};
use crate::config::shape::{Absent, Field, ID_MAX, Shape};
use crate::config::yaml::{Data, Node, Position};

/// Compares a value and everything in it with their shapes.
pub(super) fn check(node: &Node<'_>, shape: &Shape, position: Position, path: &str, sink: &mut Sink) {
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
                check(item, of, item.position, &format!("{path}[{i}]"), sink);
            }
            match max {
                _ if items.len() < *min => Some(format!("is empty: it needs {min} item at least")),
                Some(max) if items.len() > *max => Some(format!("has {} items, over the limit of {max}", items.len())),
                _ => None,
            }
        }
        (Shape::Object(fields) | Shape::WordOr(_, fields), Data::Map(pairs)) => {
            check_fields(pairs, fields, position, path, sink);
            None
        }
        _ => Some(mismatch(node, shape)),
    };
    if let Some(message) = wrong {
        sink.push(position, path, message);
    }
}

fn check_fields(pairs: &[(Node<'_>, Node<'_>)], fields: &[Field], position: Position, path: &str, sink: &mut Sink) {
    let mut seen: HashMap<&str, Position> = HashMap::new();
    for (key, value) in pairs {
        let Data::Scalar(_, name) = &key.data else {
            sink.push(
                key.position,
                path,
                "has a key that is not a plain word: every key is the name of a field".to_owned(),
            );
            continue;
        };
        let below = join(path, name);
        if let Some(first) = seen.insert(name, key.position) {
            sink.push(
                key.position,
                &below,
                format!("is given a second time, after line {}: keep one of them", first.line),
            );
        }
        match fields.iter().find(|f| f.name == name.as_ref()) {
            Some(field) => check(value, &field.shape, value_position(key, value), &below, sink),
            None => {
                let mut message = "is not a field".to_owned();
                match meant(name, fields.iter().map(|f| f.name)) {
                    hint if hint.is_empty() => {
                        let _ =
                            write!(message, ": remove it; the fields here are {}", list(fields.iter().map(|f| f.name)));
                    }
                    hint => message.push_str(&hint),
                }
                sink.push(key.position, &below, message);
            }
        }
    }
    for field in fields.iter().filter(|f| matches!(f.absent, Absent::Fault) && !seen.contains_key(f.name)) {
        let about = field.about.split([':', '.']).next().unwrap_or_default();
        sink.push(position, &join(path, field.name), format!("is missing: add it ({about})"));
    }
}

/// Where to look for a field's value: at the value if it begins on the key's line, else at the key.
pub(super) fn value_position(key: &Node<'_>, value: &Node<'_>) -> Position {
    let is_null = matches!(value.data, Data::Scalar(Scalar::Null, _));
    if value.position.line == key.position.line && !is_null { value.position } else { key.position }
}

/// The path of a field, given the path of its mapping.
pub(super) fn join(path: &str, name: &str) -> String {
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

/// The message for a value of the wrong shape: what was found, what it must be, and how to correct it if that is clear.
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
pub(super) fn meant<'a>(found: &str, words: impl Iterator<Item = &'a str>) -> String {
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

/// How many letters to change, add or remove to turn one word into the other.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!((distance("", "abc"), distance("abc", "abc"), distance("kitten", "sitting")), (3, 0, 3));
    }
}
