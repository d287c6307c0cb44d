//! The JSON mapping of protobuf, from the descriptors of the messages.
//!
//! `prost-reflect` accepts a key twice and keeps the last value. So [`scan`] reads a text first: it
//! rejects what two readers could understand differently, and bounds the memory of the message.

use std::{borrow::Cow, fmt::Write};

use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, Kind, MessageDescriptor, SerializeOptions,
};
use serde_path_to_error::{Path, Segment, Track};

use crate::{
    api::{
        grpc::{Failure, Unread, excess, unwritten},
        limit::CallPermit,
        wire::{Field, Fields},
    },
    domain::{ViolationReason, violation::Violations},
};

mod scan;

/// Estimated memory of a message, in bytes: a tree with a node for up to 11 fields.
const MESSAGE_SIZE: usize = 1_024;
/// Estimated memory of the growing text for each byte of a message.
const TEXT_PER_BYTE: usize = 4;
/// Estimated memory of any other value, without the bytes of its text.
const VALUE_SIZE: usize = 96;

/// The messages of an RPC.
#[derive(Debug)]
pub struct Method {
    /// The message of the request.
    pub input: MessageDescriptor,
    /// The message of the response, or each message of a stream.
    pub output: MessageDescriptor,
    /// Whether the response is a stream. Its messages are lines.
    pub is_streaming: bool,
}

/// Appends the encoded message of the JSON `text` to `encoded`. Counts the memory that the
/// conversion takes.
pub(super) fn parse(
    text: &[u8],
    descriptor: &MessageDescriptor,
    permit: &CallPermit,
    encoded: &mut Vec<u8>,
) -> Result<(), Unread> {
    let size = scan::scan(text, descriptor)?;
    let _share = permit.try_convert(size).ok_or(Unread::Excess)?;
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut track = Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let options = DeserializeOptions::new();
    let message = DynamicMessage::deserialize_with_options(descriptor.clone(), tracked, &options)
        .map_err(|error| invalid(&field_at(&track.path(), descriptor), &error))?;
    // Fails only if the buffer is full, and a vector grows.
    message.encode(encoded).map_err(|_| Unread::Malformed)
}

/// Appends the JSON of the encoded `message` to `text`. Counts the memory that the conversion
/// takes.
pub(super) fn write(
    message: &[u8],
    descriptor: &MessageDescriptor,
    permit: &CallPermit,
    text: &mut Vec<u8>,
) -> Result<(), Failure> {
    let size = decoded_size(message, descriptor) + TEXT_PER_BYTE * message.len();
    let _share = permit.try_convert(size).ok_or_else(excess)?;
    let message =
        DynamicMessage::decode(descriptor.clone(), message).map_err(|error| unwritten(&error))?;
    let mut json = serde_json::Serializer::new(text);
    message
        .serialize_with_options(&mut json, &SerializeOptions::new())
        .map_err(|error| unwritten(&error))
}

/// The unary methods, and those with a stream of responses, of the services in `package`: their
/// paths and messages.
pub(super) fn methods(
    pool: &DescriptorPool,
    package: &str,
) -> impl Iterator<Item = (String, Method)> {
    let services = pool.services().filter(move |service| service.package_name() == package);
    services.flat_map(|service| {
        let methods: Vec<_> =
            service.methods().filter(|method| !method.is_client_streaming()).collect();
        methods.into_iter().map(move |method| {
            let path = format!("/{}/{}", service.full_name(), method.name());
            let (input, output) = (method.input(), method.output());
            (path, Method { input, output, is_streaming: method.is_server_streaming() })
        })
    })
}

/// An estimate of the memory of the decoded message, in bytes.
fn decoded_size(message: &[u8], descriptor: &MessageDescriptor) -> usize {
    let size = |field: Field<'_>| match descriptor.get_field(field.tag).map(|field| field.kind()) {
        Some(Kind::Message(inner)) => decoded_size(field.bytes, &inner),
        Some(Kind::String | Kind::Bytes) => VALUE_SIZE + field.bytes.len(),
        // Numbers in one field take a byte or more each.
        _ => VALUE_SIZE * field.bytes.len().max(1),
    };
    MESSAGE_SIZE + Fields(message).map(size).sum::<usize>()
}

fn invalid(field: &str, error: &serde_json::Error) -> Unread {
    let description = format!("must follow the JSON mapping of protobuf: {error}");
    violation(field, ViolationReason::Malformed, &description)
}

fn violation(field: &str, reason: ViolationReason, description: &str) -> Unread {
    Unread::Invalid(Box::new(Violations::of(field, reason, description)))
}

/// The field at `path`, as the API names it.
fn field_at(path: &Path, root: &MessageDescriptor) -> String {
    let mut field = FieldPath::default();
    let mut message = Some(root.clone());
    for segment in path {
        match segment {
            Segment::Map { key } => {
                let found = message.as_ref().and_then(|message| {
                    message.get_field_by_json_name(key).or_else(|| message.get_field_by_name(key))
                });
                let name = found.as_ref().map_or(Cow::from(key), |found| found.name().into());
                field.push(&name);
                message = found.and_then(|found| message_of(&found.kind()));
            }
            Segment::Seq { index } => field.push_index(*index),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    field.into_text()
}

fn message_of(kind: &Kind) -> Option<MessageDescriptor> {
    kind.as_message().cloned()
}

/// The path of a field, such as `checks[3].agent_id`.
#[derive(Debug, Default)]
struct FieldPath(String);

impl FieldPath {
    fn push(&mut self, name: &str) {
        if !self.0.is_empty() {
            self.0.push('.');
        }
        self.0.push_str(name);
    }

    fn push_index(&mut self, index: usize) {
        // A write to a String cannot fail.
        let _ = write!(self.0, "[{index}]");
    }

    /// The path, or the name of the whole message.
    fn into_text(self) -> String {
        if self.0.is_empty() { "message".to_owned() } else { self.0 }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;
    use crate::api::{
        limit::permit_of as permit,
        proto::{
            DESCRIPTORS,
            v1::{AccessCheck, BatchCheckAccessRequest, GrantAccessRequest},
        },
    };

    fn descriptor<M: prost::Name>() -> MessageDescriptor {
        DescriptorPool::decode(DESCRIPTORS).unwrap().get_message_by_name(&M::full_name()).unwrap()
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let request = GrantAccessRequest {
            tenant_id: "größe \"\\\n".into(),
            access_level: 2,
            start_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 7_000 }),
            duration: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            until_revoked: true,
            ..Default::default()
        };
        let (descriptor, permit) = (descriptor::<GrantAccessRequest>(), permit(1_000_000));
        let (mut text, mut encoded) = (Vec::new(), Vec::new());
        write(&request.encode_to_vec(), &descriptor, &permit, &mut text).unwrap();
        parse(&text, &descriptor, &permit, &mut encoded).unwrap();
        assert_eq!(GrantAccessRequest::decode(&*encoded).unwrap(), request);
    }

    #[test]
    fn the_memory_of_a_conversion_counts() {
        let checks = vec![AccessCheck::default(); 1_000];
        let request = BatchCheckAccessRequest { checks, ..Default::default() };
        let descriptor = descriptor::<BatchCheckAccessRequest>();
        let text = format!("{{\"checks\":[{}{{}}]}}", "{},".repeat(999));
        let parse = |quota| parse(text.as_bytes(), &descriptor, &permit(quota), &mut Vec::new());
        assert_eq!(parse(1_000_000), Err(Unread::Excess));
        assert_eq!(parse(1_100_000), Ok(()));
        let message = request.encode_to_vec();
        let write = |quota| write(&message, &descriptor, &permit(quota), &mut Vec::new());
        assert!(write(1_000_000).is_err());
        assert!(write(1_100_000).is_ok());
        let shared = permit(1_100_000);
        let counted = super::parse(text.as_bytes(), &descriptor, &shared, &mut Vec::new());
        assert!(counted.is_ok() && shared.try_count(1_100_000), "the memory is released");
    }

    const BATCH: &[u8] = br#"{
        "checks": [{"tenantId": "acme", "group_ids": ["a", "b"], "requiredLevel": 1}],
        "consistencyToken": "t"
    }"#;

    proptest! {
        #[test]
        fn a_changed_text_is_rejected_or_read_as_by_others(
            changes in vec((any::<Index>(), any::<u8>()), 1..8),
        ) {
            static DESCRIPTOR: LazyLock<MessageDescriptor> =
                LazyLock::new(descriptor::<BatchCheckAccessRequest>);
            let mut text = BATCH.to_vec();
            for (index, byte) in changes {
                let index = index.index(text.len());
                text[index] = byte;
            }
            let mut encoded = Vec::new();
            if parse(&text, &DESCRIPTOR, &permit(0), &mut encoded).is_ok() {
                let mut json = serde_json::Deserializer::from_slice(&text);
                let read = DynamicMessage::deserialize(DESCRIPTOR.clone(), &mut json).unwrap();
                prop_assert_eq!(read.encode_to_vec(), encoded);
            }
        }
    }
}
