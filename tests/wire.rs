//! `proto/` is what CSI says: every number, type and name, compared both ways with the table of CSI 1.13.0; and no
//! credential shows in `{:?}`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};
use wire::{csi, registration};

/// One line for each fact: package, kind, owner, name, number, type, label, oneof.
const TABLE: &str = include_str!("wire/csi-1.13.0.tsv");

/// What a row is about: "PACKAGE KIND OWNER.NAME".
type Subject = String;
/// What the row says about it: number, type, label, oneof.
type Facts = [String; 4];
type Rows = BTreeMap<Subject, Facts>;

fn add(rows: &mut Rows, package: &str, kind: &str, owner: &str, name: &str, facts: [&str; 4]) {
    let dot = if name.is_empty() { "" } else { "." };
    let subject = format!("{package} {kind} {owner}{dot}{name}");
    let before = rows.insert(subject.clone(), facts.map(str::to_owned));
    assert_eq!(before, None, "{subject} is there twice");
}

fn rows_of_table(table: &str) -> Rows {
    let mut lines = table.lines();
    assert_eq!(lines.next(), Some("package\tkind\towner\tname\tnumber\ttype\tlabel\toneof"));
    let mut rows = Rows::new();
    for line in lines {
        let columns: Vec<_> = line.split('\t').collect();
        let &[package, kind, owner, name, number, typ, label, oneof] = columns.as_slice() else {
            panic!("not eight columns: {line:?}");
        };
        add(&mut rows, package, kind, owner, name, [number, typ, label, oneof]);
    }
    rows
}

fn rows_of_descriptors(set: &FileDescriptorSet) -> Rows {
    let mut rows = Rows::new();
    for file in set.file.iter().filter(|file| file.package() != "google.protobuf") {
        let package = file.package();
        assert_eq!(file.syntax(), "proto3", "{package}");
        file.message_type.iter().for_each(|m| message_rows(&mut rows, package, m.name(), m));
        file.enum_type.iter().for_each(|e| enum_rows(&mut rows, package, e.name(), e));
        file.service.iter().for_each(|s| service_rows(&mut rows, package, s));
        file.extension.iter().for_each(|x| add(&mut rows, package, "extension", x.extendee(), x.name(), [""; 4]));
    }
    rows
}

fn message_rows(rows: &mut Rows, package: &str, path: &str, message: &DescriptorProto) {
    if message.field.is_empty() {
        add(rows, package, "message", path, "", [""; 4]);
    }
    for field in &message.field {
        let (typ, label) = type_and_label(package, message, field);
        let oneof = match field.oneof_index {
            Some(index) if !field.proto3_optional() => {
                format!("oneof {}", message.oneof_decl[usize::try_from(index).unwrap()].name())
            }
            _ => String::new(),
        };
        add(rows, package, "field", path, field.name(), [&field.number().to_string(), &typ, label, &oneof]);
    }
    for nested in message.nested_type.iter().filter(|m| !is_map_entry(m)) {
        message_rows(rows, package, &format!("{path}.{}", nested.name()), nested);
    }
    for nested in &message.enum_type {
        enum_rows(rows, package, &format!("{path}.{}", nested.name()), nested);
    }
    for nested in &message.extension {
        add(rows, package, "extension", path, nested.name(), [""; 4]);
    }
}

fn enum_rows(rows: &mut Rows, package: &str, path: &str, descriptor: &EnumDescriptorProto) {
    for value in &descriptor.value {
        add(rows, package, "enum", path, value.name(), [&value.number().to_string(), "", "", ""]);
    }
}

fn service_rows(rows: &mut Rows, package: &str, service: &ServiceDescriptorProto) {
    if service.method.is_empty() {
        add(rows, package, "service", service.name(), "", [""; 4]);
    }
    for method in &service.method {
        let stream = |yes| if yes { "stream " } else { "" };
        let typ = format!(
            "{}{} -> {}{}",
            stream(method.client_streaming()),
            short(package, method.input_type()),
            stream(method.server_streaming()),
            short(package, method.output_type()),
        );
        add(rows, package, "rpc", service.name(), method.name(), ["", &typ, "", ""]);
    }
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry)
}

/// A full type name as the table writes it: `.csi.v1.Volume` is `Volume` in the package csi.v1.
fn short(package: &str, name: &str) -> String {
    let name = name.strip_prefix('.').unwrap();
    name.strip_prefix(&format!("{package}.")).unwrap_or(name).to_owned()
}

fn type_and_label(package: &str, message: &DescriptorProto, field: &FieldDescriptorProto) -> (String, &'static str) {
    let named = match field.r#type() {
        Type::Message | Type::Enum => short(package, field.type_name()),
        scalar => scalar.as_str_name().strip_prefix("TYPE_").unwrap().to_lowercase(),
    };
    let entry =
        message.nested_type.iter().find(|m| is_map_entry(m) && field.type_name().ends_with(&format!(".{}", m.name())));
    match (field.label(), entry) {
        (Label::Repeated, Some(entry)) => {
            let part = |number| {
                let field = entry.field.iter().find(|f| f.number() == number).unwrap();
                type_and_label(package, entry, field).0
            };
            (format!("map<{},{}>", part(1), part(2)), "")
        }
        (Label::Repeated, None) => (named, "repeated"),
        (Label::Required, _) => (named, "required"),
        (Label::Optional, _) if field.proto3_optional() => (named, "optional"),
        (Label::Optional, _) => (named, ""),
    }
}

/// What differs, one line for each subject.
fn differences(table: &Rows, descriptors: &Rows) -> Vec<String> {
    let subjects: BTreeSet<_> = table.keys().chain(descriptors.keys()).collect();
    let difference = |subject: &String| match (table.get(subject), descriptors.get(subject)) {
        (Some(want), Some(have)) if want == have => None,
        (Some(want), Some(have)) => Some(format!("{subject}: the table has {want:?}, proto/ has {have:?}")),
        (Some(_), None) => Some(format!("{subject}: not in proto/")),
        (None, _) => Some(format!("{subject}: not in the table")),
    };
    subjects.into_iter().filter_map(difference).collect()
}

fn compiled() -> FileDescriptorSet {
    FileDescriptorSet::decode(wire::DESCRIPTORS).unwrap()
}

fn file<'a>(set: &'a mut FileDescriptorSet, package: &str) -> &'a mut FileDescriptorProto {
    set.file.iter_mut().find(|file| file.package() == package).unwrap()
}

fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
    file(set, "csi.v1").message_type.iter_mut().find(|message| message.name() == name).unwrap()
}

/// The differences after a change to the compiled descriptors.
fn after(change: impl FnOnce(&mut FileDescriptorSet)) -> Vec<String> {
    let mut set = compiled();
    change(&mut set);
    differences(&rows_of_table(TABLE), &rows_of_descriptors(&set))
}

#[test]
fn every_row_of_the_table_is_compiled_and_nothing_else() {
    let table = rows_of_table(TABLE);
    assert_eq!(table.len(), 336, "a row was lost or won: is the table still that of CSI 1.13.0?");
    let found = differences(&table, &rows_of_descriptors(&compiled()));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_wrong_tag_is_reported_and_only_that() {
    let found = after(|set| {
        let request = message(set, "NodePublishVolumeRequest");
        request.field.iter_mut().find(|f| f.name() == "target_path").unwrap().number = Some(9);
    });
    assert_eq!(
        found,
        [
            r#"csi.v1 field NodePublishVolumeRequest.target_path: the table has ["4", "string", "", ""], proto/ has ["9", "string", "", ""]"#
        ]
    );
}

/// Calls `visit` with the path of every field of these messages and of those nested in them.
fn for_each_field(
    messages: &mut [DescriptorProto],
    owner: &str,
    visit: &mut impl FnMut(String, &mut FieldDescriptorProto),
) {
    for message in messages.iter_mut().filter(|m| !is_map_entry(m)) {
        let path = format!("{owner}{}.", message.name());
        message.field.iter_mut().for_each(|field| visit(format!("{path}{}", field.name()), field));
        for_each_field(&mut message.nested_type, &path, visit);
    }
}

/// Any tag, not just the one above: each is raised by one in turn.
#[test]
fn no_wrong_tag_goes_unseen() {
    let fields_of_table = TABLE.lines().filter(|line| line.split('\t').nth(1) == Some("field")).count();
    let mut tried = 0;
    for package in ["csi.v1", "pluginregistration"] {
        for wrong in 0.. {
            let mut subject = None;
            let found = after(|set| {
                let mut index = 0;
                for_each_field(&mut file(set, package).message_type, "", &mut |path, field| {
                    if index == wrong {
                        field.number = Some(field.number() + 1);
                        subject = Some(format!("{package} field {path}: "));
                    }
                    index += 1;
                });
            });
            let Some(subject) = subject else { break };
            assert!(matches!(found.as_slice(), [one] if one.starts_with(&subject)), "{subject}{found:?}");
            tried += 1;
        }
    }
    assert_eq!(tried, fields_of_table);
}

#[test]
fn every_other_kind_of_mistake_is_reported() {
    // Types, labels, oneofs.
    let found = after(|set| message(set, "CapacityRange").field[0].set_type(Type::Uint64));
    assert!(found[0].starts_with("csi.v1 field CapacityRange.required_bytes: "), "{found:?}");
    let found = after(|set| message(set, "VolumeUsage").field[0].set_label(Label::Repeated));
    assert!(found[0].starts_with("csi.v1 field VolumeUsage.available: "), "{found:?}");
    let found = after(|set| message(set, "VolumeCapability").field[0].oneof_index = None);
    assert!(found[0].starts_with("csi.v1 field VolumeCapability.block: "), "{found:?}");
    // A map that is no map any more, and one whose values are something else.
    let found = after(|set| message(set, "Topology").nested_type[0].options = None);
    assert!(found.iter().any(|d| d.starts_with("csi.v1 field Topology.segments: ")), "{found:?}");
    let found = after(|set| message(set, "Topology").nested_type[0].field[1].set_type(Type::Bytes));
    assert!(found[0].contains("map<string,bytes>"), "{found:?}");
    // Enum values.
    let found = after(|set| message(set, "VolumeUsage").enum_type[0].value[2].number = Some(3));
    assert!(found[0].starts_with("csi.v1 enum VolumeUsage.Unit.INODES: "), "{found:?}");
    // Calls.
    let found = after(|set| {
        let services = &mut file(set, "csi.v1").service;
        let service = services.iter_mut().find(|s| s.name() == "SnapshotMetadata").unwrap();
        service.method[0].server_streaming = None;
    });
    assert!(found[0].starts_with("csi.v1 rpc SnapshotMetadata.GetMetadataAllocated: "), "{found:?}");
    // Too little and too much.
    let found = after(|set| file(set, "csi.v1").message_type.retain(|m| m.name() != "ProbeRequest"));
    assert_eq!(found, ["csi.v1 message ProbeRequest: not in proto/"]);
    let found = after(|set| {
        let extra = DescriptorProto { name: Some("Extra".to_owned()), ..DescriptorProto::default() };
        file(set, "pluginregistration").message_type.push(extra);
    });
    assert_eq!(found, ["pluginregistration message Extra: not in the table"]);
}

/// The descriptors are right; this ties the generated types to them, by bytes written down by hand.
#[test]
fn generated_types_encode_as_described() {
    let request = csi::NodePublishVolumeRequest {
        volume_id: "v".to_owned(),
        target_path: "/t".to_owned(),
        readonly: true,
        ..csi::NodePublishVolumeRequest::default()
    };
    let bytes = [0x0a, 1, b'v', 0x22, 2, b'/', b't', 0x30, 1];
    assert_eq!(request.encode_to_vec(), bytes);
    assert_eq!(csi::NodePublishVolumeRequest::decode(&bytes[..]).unwrap(), request);

    let status = registration::RegistrationStatus { plugin_registered: true, error: String::new() };
    assert_eq!(status.encode_to_vec(), [0x08, 1]);

    assert_eq!(csi::node_server::SERVICE_NAME, "csi.v1.Node");
    assert_eq!(csi::identity_server::SERVICE_NAME, "csi.v1.Identity");
    assert_eq!(registration::registration_server::SERVICE_NAME, "pluginregistration.Registration");
}

const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
const CANARY: &str = "eyJhbGciOi-canary";

fn map(key: &str) -> HashMap<String, String> {
    HashMap::from([(key.to_owned(), CANARY.to_owned())])
}

#[test]
fn a_publish_request_shows_neither_secrets_nor_tokens() {
    let mount = csi::volume_capability::MountVolume {
        mount_flags: vec!["ro".to_owned(), format!("password={CANARY}")],
        ..Default::default()
    };
    let request = csi::NodePublishVolumeRequest {
        volume_id: "pv-1".to_owned(),
        target_path: "/var/lib/kubelet/pods/1/mount".to_owned(),
        volume_capability: Some(csi::VolumeCapability {
            access_type: Some(csi::volume_capability::AccessType::Mount(mount)),
            access_mode: None,
        }),
        publish_context: map("device"),
        secrets: map("password"),
        volume_context: map(TOKENS),
        ..csi::NodePublishVolumeRequest::default()
    };
    for shown in [format!("{request:?}"), format!("{request:#?}"), format!("{:?}", tonic::Request::new(request))] {
        assert!(!shown.contains(CANARY), "{shown}");
        for useful in ["NodePublishVolumeRequest {", "pv-1", "pods/1/mount", TOKENS, "secrets: <1 redacted>", "\"ro\""]
        {
            assert!(shown.contains(useful), "{useful} not in {shown}");
        }
    }
}

#[test]
fn a_stage_request_shows_neither_secrets_nor_tokens() {
    let request = csi::NodeStageVolumeRequest {
        publish_context: map("device"),
        secrets: map("password"),
        volume_context: map(TOKENS),
        ..csi::NodeStageVolumeRequest::default()
    };
    let shown = format!("{request:?} {request:#?}");
    assert!(!shown.contains(CANARY), "{shown}");
    assert!(shown.contains(TOKENS), "{shown}");
}

/// Sets the field named in the table, by its number, from the wire: so no message with such a field is forgotten here.
#[test]
fn no_message_shows_its_credentials() {
    /// The bytes of a map field with the one entry `"key": CANARY`.
    fn encoded(number: u32) -> Vec<u8> {
        // A map is a repeated message of key = 1 and value = 2; all are length-delimited (wire type 2).
        fn delimited(number: u32, content: &[u8]) -> Vec<u8> {
            let mut bytes = vec![u8::try_from(number << 3 | 2).unwrap(), u8::try_from(content.len()).unwrap()];
            bytes.extend_from_slice(content);
            bytes
        }
        delimited(number, &[delimited(1, b"key"), delimited(2, CANARY.as_bytes())].concat())
    }
    fn shown<M: Message + Default + std::fmt::Debug>(bytes: &[u8]) -> String {
        let message = M::decode(bytes).unwrap();
        assert_eq!(message.encode_to_vec(), bytes, "the field was not understood");
        format!("{message:?} {message:#?}")
    }
    type Show = fn(&[u8]) -> String;
    macro_rules! messages {
        ($($name:ident),+ $(,)?) => { BTreeMap::from([$((stringify!($name), shown::<csi::$name> as Show)),+]) };
    }
    let mut messages = messages![
        ControllerExpandVolumeRequest,
        ControllerGetVolumeHealthRequest,
        ControllerListVolumeHealthRequest,
        ControllerModifyVolumeRequest,
        ControllerPublishVolumeRequest,
        ControllerPublishVolumeResponse,
        ControllerUnpublishVolumeRequest,
        CreateSnapshotRequest,
        CreateVolumeGroupSnapshotRequest,
        CreateVolumeRequest,
        DeleteSnapshotRequest,
        DeleteVolumeGroupSnapshotRequest,
        DeleteVolumeRequest,
        GetMetadataAllocatedRequest,
        GetMetadataDeltaRequest,
        GetSnapshotRequest,
        GetVolumeGroupSnapshotRequest,
        ListSnapshotsRequest,
        NodeExpandVolumeRequest,
        NodeGetStorageHealthRequest,
        NodePublishVolumeRequest,
        NodeStageVolumeRequest,
        ValidateVolumeCapabilitiesRequest,
        Volume,
    ];
    messages.insert(
        "ValidateVolumeCapabilitiesResponse.Confirmed",
        shown::<csi::validate_volume_capabilities_response::Confirmed>,
    );

    let mut seen = BTreeSet::new();
    for line in TABLE.lines() {
        let columns: Vec<_> = line.split('\t').collect();
        if columns[1] != "field" || !["secrets", "volume_context", "publish_context"].contains(&columns[3]) {
            continue;
        }
        let show = messages.get(columns[2]).unwrap_or_else(|| panic!("{} is missing in this test", columns[2]));
        let text = show(&encoded(columns[4].parse().unwrap()));
        assert!(text.contains("redacted") && !text.contains(CANARY), "{text}");
        seen.insert(columns[2]);
    }
    assert_eq!(seen.len(), messages.len(), "only {seen:?}");
}
