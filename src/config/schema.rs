//! The JSON Schema of the allow-list, for editors and for Helm. It says the shape; what spans several entries
//! (unique names, overlaps, the kubelet's directory) only [`super::decode`] can say.

use serde_json::{Value, json};

/// The schema, JSON Schema draft 2020-12.
#[must_use]
pub fn schema() -> Value {
    let name = json!({
        "type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        "description": "What pods call the entry."
    });
    let patterns = |what: &str| {
        json!({
            "type": "array", "minItems": 1, "description": what,
            "items": {"type": "string", "maxLength": 253, "pattern": "^[-a-z0-9.*?]+$"}
        })
    };
    let flag = |default: bool, what: &str| json!({"type": "boolean", "default": default, "description": what});
    let id = json!({"type": "integer", "minimum": 0, "maximum": 4_294_967_294_u64, "default": 0});
    let rule = json!({
        "type": "object", "additionalProperties": false, "required": ["namespaces"],
        "properties": {
            "namespaces": patterns("Namespaces; * stands for any run of characters, ? for any one."),
            "serviceAccounts": patterns("Service accounts in them; all if left out.")
        }
    });
    let create = json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "mode": {"type": "string", "pattern": "^[0-7]{1,4}$", "default": "0755"},
            "uid": id, "gid": id
        }
    });
    let entry = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "path"],
        "properties": {
            "name": name,
            "path": {
                "type": "string", "maxLength": 4095, "pattern": "^/",
                "description": "The directory on the node: absolute, without symlinks, outside the kubelet's directory."
            },
            "propagation": {
                "enum": ["None", "HostToContainer", "Bidirectional", "rprivate", "rslave", "rshared"],
                "default": "None", "description": "The strongest propagation that a pod may ask for."
            },
            "readOnly": flag(false, "Every volume of the entry is read-only."),
            "nosuid": flag(true, "Set-user-ID bits are ignored."),
            "nodev": flag(true, "Device nodes are inert."),
            "noexec": flag(false, "Nothing can be executed."),
            "subPaths": flag(false, "Directories beneath the path may be named."),
            "missing": {
                "description": "What to do if the directory isn't there.", "default": "fail",
                "oneOf": [
                    {"const": "fail"},
                    {
                        "type": "object", "additionalProperties": false, "required": ["create"],
                        "properties": {"create": create}
                    }
                ]
            },
            "readOnlyPropagation": {
                "enum": ["refuse", "warn"], "default": "refuse",
                "description": "A mount that crosses into a read-only volume later is not read-only itself."
            },
            "overlaps": {
                "type": "array", "items": name,
                "description": "Entries whose path may contain this one's or lie in it."
            },
            "allow": {"type": "array", "items": rule, "description": "Who may use the entry; nobody if left out."}
        }
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hostmount allow-list",
        "type": "object", "additionalProperties": false, "required": ["entries"],
        "properties": {"entries": {"type": "array", "items": entry}}
    })
}

/// The schema as the text of its file.
#[must_use]
pub fn text() -> String {
    format!("{:#}\n", schema())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::decode::{CREATE_FIELDS, ENTRY_FIELDS, RULE_FIELDS};
    use super::*;

    #[test]
    fn the_file_is_the_one_that_is_generated() {
        assert_eq!(
            include_str!("../../docs/allow-list.schema.json"),
            text(),
            "write it anew: cargo run -- schema > docs/allow-list.schema.json"
        );
    }

    #[test]
    fn the_schema_knows_the_fields_that_the_decoder_knows() {
        let schema = schema();
        let keys = |pointer: &str| -> BTreeSet<String> {
            schema.pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect()
        };
        let set = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<BTreeSet<_>>();
        let entry = "/properties/entries/items/properties";
        assert_eq!(keys(entry), set(&ENTRY_FIELDS));
        assert_eq!(keys(&format!("{entry}/allow/items/properties")), set(&RULE_FIELDS));
        assert_eq!(keys(&format!("{entry}/missing/oneOf/1/properties/create/properties")), set(&CREATE_FIELDS));
    }
}
