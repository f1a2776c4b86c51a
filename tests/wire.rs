//! The numbers on the wire: what is compiled from `proto/` is compared with the table of CSI 1.13.0, both ways.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet, MessageOptions};

const TABLE: &str = include_str!("wire/csi-1.13.0.tsv");

/// One line a fact, in the table's columns: package, kind, owner, name, number, type, label, oneof.
fn facts_of_table() -> BTreeSet<String> {
    TABLE
        .lines()
        .skip(1)
        .map(|line| {
            let mut columns: Vec<&str> = line.split('\t').map(str::trim).collect();
            columns.resize(8, "");
            // "oneof type" and "type" are the same thing.
            columns[7] = columns[7].trim_start_matches("oneof ");
            columns.join("\t")
        })
        .collect()
}

fn facts_of(descriptors: &FileDescriptorSet) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for file in &descriptors.file {
        let package = file.package();
        if package.starts_with("google.") {
            continue;
        }
        for message in &file.message_type {
            message_facts(package, "", message, &mut facts);
        }
        for r#enum in &file.enum_type {
            enum_facts(package, "", r#enum, &mut facts);
        }
        for service in &file.service {
            for method in &service.method {
                let local = |name: &str| name.trim_start_matches(&format!(".{package}.")).to_owned();
                let stream = if method.server_streaming() { "stream " } else { "" };
                assert!(!method.client_streaming());
                facts.insert(format!(
                    "{package}\trpc\t{}\t{}\t\t{} -> {stream}{}\t\t",
                    service.name(),
                    method.name(),
                    local(method.input_type()),
                    local(method.output_type())
                ));
            }
        }
    }
    facts
}

fn enum_facts(package: &str, prefix: &str, r#enum: &EnumDescriptorProto, facts: &mut BTreeSet<String>) {
    for value in &r#enum.value {
        facts.insert(format!("{package}\tenum\t{prefix}{}\t{}\t{}\t\t\t", r#enum.name(), value.name(), value.number()));
    }
}

fn message_facts(package: &str, prefix: &str, message: &DescriptorProto, facts: &mut BTreeSet<String>) {
    let owner = format!("{prefix}{}", message.name());
    let inner = format!("{owner}.");
    if message.field.is_empty() && message.nested_type.is_empty() && message.enum_type.is_empty() {
        facts.insert(format!("{package}\tmessage\t{owner}\t\t\t\t\t"));
    }
    for field in &message.field {
        let entry = message.nested_type.iter().find(|n| {
            n.options.as_ref().is_some_and(MessageOptions::map_entry) && field.type_name().ends_with(n.name())
        });
        let kind = |f: &prost_types::FieldDescriptorProto| match f.r#type() {
            Type::String => "string".to_owned(),
            Type::Bool => "bool".to_owned(),
            Type::Int32 => "int32".to_owned(),
            Type::Int64 => "int64".to_owned(),
            Type::Message | Type::Enum => {
                let name = f.type_name().trim_start_matches('.');
                name.strip_prefix(&format!("{package}.")).unwrap_or(name).to_owned()
            }
            other => panic!("{owner}.{} has the unexpected type {other:?}", f.name()),
        };
        let (kind, label) = match entry {
            Some(entry) => (format!("map<{},{}>", kind(&entry.field[0]), kind(&entry.field[1])), ""),
            None => (kind(field), if field.label() == Label::Repeated { "repeated" } else { "" }),
        };
        let oneof = field.oneof_index.map_or("", |n| message.oneof_decl[usize::try_from(n).unwrap()].name());
        facts.insert(format!(
            "{package}\tfield\t{owner}\t{}\t{}\t{kind}\t{label}\t{oneof}",
            field.name(),
            field.number()
        ));
    }
    for nested in &message.nested_type {
        if !nested.options.as_ref().is_some_and(MessageOptions::map_entry) {
            message_facts(package, &inner, nested, facts);
        }
    }
    for r#enum in &message.enum_type {
        enum_facts(package, &inner, r#enum, facts);
    }
}

fn compiled() -> FileDescriptorSet {
    FileDescriptorSet::decode(hostmount::wire::DESCRIPTORS).unwrap()
}

/// What is only in the table and what is only compiled.
fn differences(descriptors: &FileDescriptorSet) -> (Vec<String>, Vec<String>) {
    let (table, ours) = (facts_of_table(), facts_of(descriptors));
    (table.difference(&ours).cloned().collect(), ours.difference(&table).cloned().collect())
}

#[test]
fn every_number_is_that_of_the_specification() {
    let (missing, extra) = differences(&compiled());
    assert!(missing.is_empty() && extra.is_empty(), "only in the table: {missing:#?}\nonly compiled: {extra:#?}");
    assert!(facts_of_table().len() > 290);
}

#[test]
fn a_wrong_tag_is_found() {
    let mut descriptors = compiled();
    let csi = descriptors.file.iter_mut().find(|f| f.package() == "csi.v1").unwrap();
    let message = csi.message_type.iter_mut().find(|m| m.name() == "NodePublishVolumeRequest").unwrap();
    let field = message.field.iter_mut().find(|f| f.name() == "target_path").unwrap();
    field.number = Some(9);
    let fact = |n| format!("csi.v1\tfield\tNodePublishVolumeRequest\ttarget_path\t{n}\tstring\t\t");
    assert_eq!(differences(&descriptors), (vec![fact(4)], vec![fact(9)]));
}
