//! The documented errors. After a change of the tables in the code, run
//! `UPDATE_DOCS=1 cargo nextest run the_reasons_of_errors_are_documented`.

use std::fs;

use prost::Message;
use prost_types::{EnumValueDescriptorProto, FileDescriptorSet};
use support_access::api::{
    grpc::errors,
    proto::{DESCRIPTORS, v1::ErrorReason},
};

const DOCUMENT: &str = "docs/errors.md";

/// The document with both tables replaced by those of the code.
fn expected(document: &str) -> String {
    let reasons = ErrorReason::all().map(|reason| {
        let description = reason.description();
        let retry = if description.retry_delay.is_some() { "yes" } else { "" };
        format!(
            "| `{}` | `{}` | {retry} | {} | {} |",
            reason.name(),
            errors::code_name(description.code),
            description.meaning,
            description.action
        )
    });
    let violations = errors::violations().map(|violation| {
        let policy = if violation.is_policy { "yes" } else { "" };
        format!("| `{}` | {policy} | {} |", violation.name, violation.meaning)
    });
    let tables = [reasons.collect::<Vec<_>>(), violations.collect()];
    let mut tables = tables.into_iter();
    let mut lines: Vec<String> = Vec::new();
    for line in document.lines() {
        let is_row = line.starts_with("| `");
        if !is_row {
            lines.push(line.to_owned());
        }
        if line.starts_with("|---") {
            lines.extend(tables.next().unwrap());
        }
    }
    assert!(tables.next().is_none(), "the document must have both tables");
    lines.join("\n") + "\n"
}

#[test]
fn the_reasons_of_errors_are_documented() {
    let path = format!("{}/{DOCUMENT}", env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(&path).unwrap();
    let expected = expected(&document);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, expected).unwrap();
    } else {
        assert_eq!(document, expected, "{DOCUMENT} must agree with the code");
    }
}

#[test]
fn every_reason_of_the_api_is_in_the_table() {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let mut enums = set.file.iter().flat_map(|file| &file.enum_type);
    let reasons = enums.find(|found| found.name() == "ErrorReason").unwrap();
    let named: Vec<&str> = reasons.value[1..].iter().map(EnumValueDescriptorProto::name).collect();
    let table: Vec<&str> = ErrorReason::all().map(|reason| reason.as_str_name()).collect();
    assert_eq!(table, named);
}
