//! Helm at work, and its objects as JSON, held against the OpenAPI description of Kubernetes.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Value, json};

/// A path of the repository.
pub(crate) fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(here(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Runs `helm ARGS --values VALUES` in the repository: what it printed, or what it complained of.
pub(crate) fn helm(args: &[&str], values: &Value) -> Result<String, String> {
    let mut child = Command::new("helm")
        .args(args)
        .arg("--values=-")
        .current_dir(here("."))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("helm: {e}: go install helm.sh/helm/v4/cmd/helm@v4.3.1, and put it on the PATH"));
    child.stdin.take().unwrap().write_all(values.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr) + &text(&output.stdout)) }
}

/// The objects that the chart makes of values.
pub(crate) fn template(values: &Value) -> Vec<Value> {
    let text = helm(&["template", "hostmount", "charts/hostmount", "--namespace", "hostmount-system"], values);
    objects(&text.unwrap_or_else(|e| panic!("{values}\n{e}")))
}

pub(crate) fn of_kind<'v>(objects: &'v [Value], kind: &str) -> Vec<&'v Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The one object of a kind.
#[track_caller]
pub(crate) fn one<'v>(objects: &'v [Value], kind: &str) -> &'v Value {
    let found = of_kind(objects, kind);
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

/// The documents of a YAML text.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    let documents = Yaml::load_from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    documents.iter().map(to_json).filter(|value| !value.is_null()).collect()
}

fn to_json(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(flag)) => json!(flag),
        Yaml::Value(Scalar::Integer(number)) => json!(number),
        Yaml::Value(Scalar::FloatingPoint(number)) => json!(number.into_inner()),
        Yaml::Value(Scalar::String(text)) => json!(text),
        Yaml::Sequence(items) => items.iter().map(to_json).collect(),
        Yaml::Mapping(pairs) => {
            pairs.iter().map(|(key, value)| (key.as_str().unwrap().to_owned(), to_json(value))).collect()
        }
        other => panic!("what is {other:?}?"),
    }
}

/// Kubernetes' own description of its API, of the version that the e2e runs, from the cache of Go's modules.
static OPENAPI: LazyLock<PathBuf> = LazyLock::new(|| {
    let module = Command::new("go")
        .args(["mod", "download", "-json", "k8s.io/kubernetes"])
        .current_dir(here("tests/e2e/node/kubernetes"))
        .output()
        .unwrap_or_else(|e| panic!("go: {e}: it brings the API's description (https://go.dev/dl)"));
    assert!(module.status.success(), "{}", String::from_utf8_lossy(&module.stdout));
    let about: Value = serde_json::from_slice(&module.stdout).unwrap();
    Path::new(about["Dir"].as_str().unwrap()).join("api/openapi-spec/v3")
});

/// A field that a schema doesn't name is a mistake here, as in `kubectl --validate=strict`.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.contains_key("properties") && !map.contains_key("additionalProperties") {
                map.insert("additionalProperties".to_owned(), json!(false));
            }
            map.values_mut().for_each(close);
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

fn validator(version: &str, kind: &str) -> jsonschema::Validator {
    let file = match version.split_once('/') {
        Some((group, version)) => format!("apis__{group}__{version}_openapi.json"),
        None => format!("api__{version}_openapi.json"),
    };
    let text = std::fs::read_to_string(OPENAPI.join(&file)).unwrap_or_else(|e| panic!("{version} {kind}: {file}: {e}"));
    let mut openapi: Value = serde_json::from_str(&text).unwrap();
    close(&mut openapi["components"]["schemas"]);
    let schemas = openapi["components"]["schemas"].as_object().unwrap();
    let suffix = format!(".{}.{kind}", version.rsplit('/').next().unwrap());
    let name = schemas.keys().find(|name| name.ends_with(&suffix)).unwrap_or_else(|| panic!("no {suffix} in {file}"));
    let root = json!({"$ref": format!("#/components/schemas/{name}"), "components": openapi["components"]});
    jsonschema::draft202012::new(&root).unwrap()
}

/// Every object is what Kubernetes takes. Those of the Prometheus operator are none of Kubernetes', and are left out.
#[track_caller]
pub(crate) fn validate(objects: &[Value]) {
    thread_local! {
        static KNOWN: std::cell::RefCell<HashMap<String, jsonschema::Validator>> = std::cell::RefCell::default();
    }
    for object in objects {
        let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        if version.starts_with("monitoring.coreos.com/") {
            continue;
        }
        KNOWN.with_borrow_mut(|known| {
            let validator = known.entry(format!("{version} {kind}")).or_insert_with(|| validator(version, kind));
            let faults: Vec<String> =
                validator.iter_errors(object).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert!(faults.is_empty(), "{kind} {}: {faults:#?}", object["metadata"]["name"]);
        });
    }
}
