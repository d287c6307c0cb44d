//! JSON output, for scripts.

use std::{collections::BTreeMap, fmt::Write};

use prost::Name;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde::{Serialize, Serializer};

use super::error::{CliError, Violation};
use crate::{
    api::{grpc::errors::code_name, proto::DESCRIPTORS},
    domain::ids::is_unsafe,
};

/// A message in the JSON mapping of protobuf, with the field names of the .proto files. Fields with
/// default values are included. Absent optional fields are not.
#[derive(Debug)]
pub(crate) struct JsonMessage(DynamicMessage);

impl JsonMessage {
    pub(crate) fn new<M: Name>(message: &M) -> Result<Self, CliError> {
        let pool =
            DescriptorPool::decode(DESCRIPTORS).map_err(|error| CliError::because(&error))?;
        let descriptor = pool
            .get_message_by_name(&M::full_name())
            .ok_or_else(|| CliError::new(format!("{} has no descriptor", M::full_name())))?;
        DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
            .map(Self)
            .map_err(|error| CliError::because(&error))
    }
}

impl Serialize for JsonMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let options = SerializeOptions::new().skip_default_fields(false).use_proto_field_name(true);
        self.0.serialize_with_options(serializer, &options)
    }
}

/// An object on several lines, for stdout.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String, CliError> {
    let json = serde_json::to_string_pretty(value).map_err(|error| CliError::because(&error))?;
    Ok(escape(&json) + "\n")
}

/// An error as one line, for stderr.
pub(crate) fn error_json(error: &CliError) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        error: Content<'a>,
    }
    #[derive(Serialize)]
    struct Content<'a> {
        code: &'a str,
        reason: &'a str,
        message: &'a str,
        violations: &'a [Violation],
        metadata: &'a BTreeMap<String, String>,
        hint: Option<&'a str>,
    }
    let CliError { reason, message, violations, metadata, hint, .. } = error;
    let (code, hint) = (code_name(error.code), hint.as_deref());
    to_line(&Line { error: Content { code, reason, message, violations, metadata, hint } })
}

/// A warning as one line, for stderr.
pub(crate) fn warning_json(message: &str) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        warning: Content<'a>,
    }
    #[derive(Serialize)]
    struct Content<'a> {
        message: &'a str,
    }
    to_line(&Line { warning: Content { message } })
}

fn to_line(value: &impl Serialize) -> String {
    // Maps with string keys can always be written.
    escape(&serde_json::to_string(value).unwrap_or_default()) + "\n"
}

/// Escapes characters that are valid in JSON, but could control a terminal. Such characters occur
/// in strings only, where the escape has the same meaning.
fn escape(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // A write to a String cannot fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::proto::v1;

    #[test]
    fn messages_have_default_values_but_no_absent_fields_and_no_terminal_controls() {
        let response = v1::CheckAccessResponse {
            decision: v1::Decision::Denied.into(),
            reason: v1::DecisionReason::NoGrant.into(),
            valid_for: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            message: "a\u{1b}b\u{9b}c\u{202e}\"\n".into(),
            remedy: v1::Remedy::RequestGrant.into(),
            ..v1::CheckAccessResponse::default()
        };
        let expected = r#"{
  "decision": "DECISION_DENIED",
  "reason": "DECISION_REASON_NO_GRANT",
  "grant_id": "",
  "access_level": "ACCESS_LEVEL_UNSPECIFIED",
  "valid_for": "1.500s",
  "message": "a\u001bb\u009bc\u202e\"\n",
  "remedy": "REMEDY_REQUEST_GRANT",
  "lock_id": "",
  "ignored_group_count": 0
}
"#;
        let message = JsonMessage::new(&response).unwrap();
        assert_eq!(to_json(&message).unwrap(), expected);
    }

    #[test]
    fn an_error_is_one_line_with_every_key() {
        let error = CliError::usage("not a\u{1b} time").with_hint("see --help");
        let expected = "{\"error\":{\"code\":\"INVALID_ARGUMENT\",\"reason\":\"\",\
                        \"message\":\"not a\\u001b time\",\"violations\":[],\"metadata\":{},\
                        \"hint\":\"see --help\"}}\n";
        assert_eq!(error_json(&error), expected);
        assert_eq!(warning_json("late"), "{\"warning\":{\"message\":\"late\"}}\n");
    }
}
