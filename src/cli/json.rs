//! Answers as protobuf JSON, for scripts.

use std::fmt::Write;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Serializer;

use super::failure::Failure;
use crate::{api::proto::DESCRIPTORS, domain::ids::is_unsafe};

/// `message`, which is the `supportaccess.v1` message `name`, in the canonical JSON of protobuf, under the field names of
/// the .proto files. Fields that have their default value are there too; absent optional ones are not.
pub(crate) fn to_json(name: &str, message: &impl Message) -> Result<String, Failure> {
    let options = SerializeOptions::new().skip_default_fields(false).use_proto_field_name(true);
    let pool = DescriptorPool::decode(DESCRIPTORS).map_err(|error| Failure::because(&error))?;
    let descriptor = pool
        .get_message_by_name(&format!("supportaccess.v1.{name}"))
        .ok_or_else(|| Failure::new(format!("the message {name} is not described")))?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| Failure::because(&error))?;
    let mut json = Vec::new();
    message
        .serialize_with_options(&mut Serializer::pretty(&mut json), &options)
        .map_err(|error| Failure::because(&error))?;
    let mut text = escape(&String::from_utf8_lossy(&json));
    text.push('\n');
    Ok(text)
}

/// JSON lets some characters stand that a terminal may obey. They can only be in strings, where an escape means the same.
fn escape(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a text cannot fail.
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
    fn json_has_defaults_but_no_absent_fields_and_nothing_a_terminal_obeys() {
        let answer = v1::CheckAccessResponse {
            decision: v1::Decision::Denied.into(),
            reason: v1::DecisionReason::NoGrant.into(),
            valid_for: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            ignored_group_count: 7,
            message: "a\u{1b}b\u{9b}c\u{202e}\"\n".into(),
            ..v1::CheckAccessResponse::default()
        };
        let expected = r#"{
  "decision": "DECISION_DENIED",
  "reason": "DECISION_REASON_NO_GRANT",
  "grant_id": "",
  "access_level": "ACCESS_LEVEL_UNSPECIFIED",
  "valid_for": "1.500s",
  "message": "a\u001bb\u009bc\u202e\"\n",
  "remedy": "REMEDY_UNSPECIFIED",
  "lock_id": "",
  "ignored_group_count": 7
}
"#;
        assert_eq!(to_json("CheckAccessResponse", &answer).unwrap(), expected);
    }
}
