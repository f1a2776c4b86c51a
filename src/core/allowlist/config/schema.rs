//! The JSON Schema of the allow-list, generated from the decoder's table.

use serde_json::{Map, Value, json};

use super::shape::{Absent, FILE, Field, ID_MAX, Shape};

/// The JSON Schema (draft 2020-12) of the allow-list file.
///
/// A schema can't check that names are unique, that paths don't overlap and that references have a target. Only
/// [`super::AllowList::parse`] does.
#[must_use]
pub fn schema() -> Value {
    let mut root = object(FILE);
    root.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    root.insert("title".to_owned(), json!("hostmount allow-list"));
    root.insert("description".to_owned(), json!("The directories of a node that pods may have, and on what terms."));
    Value::Object(root)
}

fn object(fields: &[Field]) -> Map<String, Value> {
    let required: Vec<&str> = fields.iter().filter(|f| matches!(f.absent, Absent::Fault)).map(|f| f.name).collect();
    let properties: Map<String, Value> = fields.iter().map(|f| (f.name.to_owned(), field(f))).collect();
    let mut object = Map::new();
    object.insert("type".to_owned(), json!("object"));
    object.insert("properties".to_owned(), Value::Object(properties));
    object.insert("additionalProperties".to_owned(), json!(false));
    if !required.is_empty() {
        object.insert("required".to_owned(), json!(required));
    }
    object
}

fn field(field: &Field) -> Value {
    let mut value = shape(&field.shape);
    value.insert("description".to_owned(), json!(field.about));
    let default = match field.absent {
        Absent::Fault => return Value::Object(value),
        Absent::Flag(flag) => json!(flag),
        Absent::Id(id) => json!(id),
        Absent::Text(text) => json!(text),
        Absent::Texts(texts) => json!(texts),
    };
    value.insert("default".to_owned(), default);
    Value::Object(value)
}

fn shape(of: &Shape) -> Map<String, Value> {
    let pairs: Vec<(&str, Value)> = match of {
        Shape::Text { pattern, max } => {
            vec![("type", json!("string")), ("pattern", json!(pattern)), ("maxLength", json!(max))]
        }
        Shape::Word(words) => vec![("enum", json!(words))],
        Shape::Flag => vec![("type", json!("boolean"))],
        Shape::Id => vec![("type", json!("integer")), ("minimum", json!(0)), ("maximum", json!(ID_MAX))],
        Shape::List { of, min, max } => {
            let mut list = vec![("type", json!("array")), ("items", Value::Object(shape(of)))];
            if *min > 0 {
                list.push(("minItems", json!(min)));
            }
            list.extend(max.map(|max| ("maxItems", json!(max))));
            list
        }
        Shape::Object(fields) => return object(fields),
        Shape::WordOr(words, fields) => vec![("oneOf", json!([{ "enum": words }, object(fields)]))],
    };
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AllowList, yaml};
    use crate::names::AbsPath;

    #[test]
    fn the_file_in_the_repository_is_the_generated_one() {
        let text = include_str!("../../../../docs/allow-list.schema.json");
        let file: Value = serde_json::from_str(text).unwrap_or_default();
        assert_eq!(
            file,
            schema(),
            "docs/allow-list.schema.json is out of date: cargo run -- schema > docs/allow-list.schema.json\n{:#}",
            schema()
        );
    }

    #[test]
    fn it_is_a_schema() {
        jsonschema::draft202012::meta::validate(&schema()).unwrap();
    }

    /// Schema and decoder accept the same files, as far as a schema can check.
    #[test]
    fn schema_and_decoder_agree() {
        let entry = |rest: &str| format!("entries: [{{name: a, path: /mnt/a, {rest}}}]");
        let rule = |rest: &str| entry(&format!("allow: [{{{rest}}}]"));
        let create = |rest: &str| entry(&format!("missing: {{create: {{{rest}}}}}"));
        let mut good: Vec<String> =
            ["entries: []", "entries: [{name: a, path: /mnt/a}]", "{\"entries\": []}"].map(Into::into).into();
        good.extend([include_str!("../../../../docs/allow-list.example.yaml").to_owned()]);
        good.extend(super::super::shape::PROPAGATION.iter().map(|w| entry(&format!("propagation: {w}"))));
        good.extend(["readOnly: true", "nosuid: false", "missing: fail", "overlaps: []", "allow: []"].map(entry));
        good.extend(["mode: '0700'", "mode: '2775', uid: 0, gid: 4294967294", "mode: '07777'", ""].map(create));
        good.extend(["namespaces: ['*']", "namespaces: [a, 'b-?'], serviceAccounts: [x.y]"].map(rule));
        good.extend(["/mnt/..a", "/mnt/a.", "/mnt/...", "/a/é"].map(|p| format!("entries: [{{name: a, path: {p}}}]")));
        good.extend(["a", "a.b-c", "0"].map(|n| format!("entries: [{{name: '{n}', path: /mnt/a}}]")));

        let mut bad: Vec<String> =
            ["{}", "entries:", "[]", "5", "entries: {}", "entries: [1]", "entries: []\nmore: 1"].map(Into::into).into();
        bad.extend(["entries: [{name: a}]", "entries: [{path: /mnt/a}]", "entries: [{}]"].map(Into::into));
        bad.extend(["propagation: slave", "propagation: none", "propagation:", "propagation: [None]"].map(entry));
        bad.extend(["readOnly: yes", "readOnly: 1", "readOnly: 'true'", "read_only: true", "nodev:"].map(entry));
        bad.extend(["missing: create", "missing: {}", "missing: {create: }", "missing: {fail: {}}"].map(entry));
        bad.extend(
            [
                "mode: 755",
                "mode: '0o755'",
                "mode: '888'",
                "mode: '75'",
                "uid: -1",
                "gid: 4294967295",
                "uid: a",
                "uid: 1.5",
                "umask: 1",
            ]
            .map(create),
        );
        bad.extend(
            [
                "namespaces: []",
                "",
                "serviceAccounts: [a]",
                "namespaces: a",
                "namespaces: ['']",
                "namespaces: [A]",
                "namespaces: [5]",
                "namespaces: [a], serviceAccounts: []",
            ]
            .map(rule),
        );
        bad.extend(["overlaps: b", "overlaps: [B]", "allow: {}", "allow: ['*']", "readOnlyPropagation: no"].map(entry));
        bad.extend(
            ["/", "mnt", "/mnt/", "//mnt", "/mnt/../a", "/mnt/.", "/.", "''", "5", "\"/mnt/\\n\"", "\"/mnt/\\x80\""]
                .map(|p| format!("entries: [{{name: a, path: {p}}}]")),
        );
        bad.extend(
            ["A", "-a", "a-", "''", "5", "a/b", "a b"].map(|n| format!("entries: [{{name: {n}, path: /mnt/a}}]")),
        );
        bad.push(format!("entries: [{{name: {}, path: /mnt/a}}]", "a".repeat(64)));
        bad.push(format!(
            "entries: [{}]",
            (0..1001).map(|i| format!("{{name: e{i}, path: /mnt/{i}}},")).collect::<String>()
        ));

        let validator = jsonschema::draft202012::new(&schema()).unwrap();
        let kubelet = AbsPath::parse("/var/lib/kubelet").unwrap();
        for (text, expected) in good.iter().map(|t| (t, true)).chain(bad.iter().map(|t| (t, false))) {
            let decoded = AllowList::parse(text, &kubelet);
            assert_eq!(decoded.is_ok(), expected, "decoder on {text}: {decoded:?}");
            let json = yaml::read(text).unwrap().to_json();
            assert_eq!(validator.is_valid(&json), expected, "schema on {text}: {:?}", validator.validate(&json));
        }
    }
}
