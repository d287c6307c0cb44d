//! Rejects texts that are no strict JSON of a message, before memory is allocated for the message.

use std::{borrow::Cow, fmt};

use prost_reflect::{FieldDescriptor, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{FieldPath, MESSAGE_SIZE, VALUE_SIZE, invalid, message_of, violation};
use crate::{api::grpc::Unread, domain::ViolationReason};

/// Maximum nesting of arrays and objects. No request needs more than 6 levels.
const DEPTH_MAX: usize = 16;
/// Maximum estimated memory of a message, in bytes.
const SIZE_MAX: usize = 24 * 1_024 * 1_024;

/// The estimated memory of the message in `text`, in bytes. Rejects unknown and repeated fields,
/// deep nesting, and too many values. Two names of one field are a repetition.
pub(super) fn scan(text: &[u8], descriptor: &MessageDescriptor) -> Result<usize, Unread> {
    let mut scan = Scan { path: Vec::new(), size: text.len(), problem: None };
    let mut json = serde_json::Deserializer::from_slice(text);
    let message = Expected { scan: &mut scan, message: Some(descriptor.clone()) };
    match message.deserialize(&mut json).and_then(|()| json.end()) {
        Ok(()) => Ok(scan.size),
        Err(error) => Err(scan.problem.take().unwrap_or_else(|| invalid(&scan.field(), &error))),
    }
}

struct Scan {
    /// The containers around the current value.
    path: Vec<Step>,
    size: usize,
    /// Why the scan has ended, unless the text is not JSON.
    problem: Option<Unread>,
}

enum Step {
    Field(FieldDescriptor),
    Index(usize),
}

/// A value that is expected to be a message, or an array of messages. `None`: neither.
struct Expected<'a> {
    scan: &'a mut Scan,
    message: Option<MessageDescriptor>,
}

// === impl Scan ===

impl Scan {
    fn add<E: Error>(&mut self, size: usize) -> Result<(), E> {
        self.size += size;
        if self.size <= SIZE_MAX {
            return Ok(());
        }
        self.problem = Some(Unread::TooManyFields);
        Err(E::custom("too many values"))
    }

    fn enter<E: Error>(&mut self, step: Step) -> Result<(), E> {
        self.path.push(step);
        if self.path.len() <= DEPTH_MAX {
            return Ok(());
        }
        let description = format!("must be nested at most {DEPTH_MAX} levels deep");
        Err(self.reject(ViolationReason::OutOfRange, &description))
    }

    fn reject<E: Error>(&mut self, reason: ViolationReason, description: &str) -> E {
        self.problem = Some(violation(&self.field(), reason, description));
        E::custom(description)
    }

    /// The name of the current field.
    fn field(&self) -> String {
        let mut field = FieldPath::default();
        for step in &self.path {
            match step {
                Step::Field(descriptor) => field.push(descriptor.name()),
                Step::Index(index) => field.push_index(*index),
            }
        }
        field.into_text()
    }

    fn reject_unknown<E: Error>(&mut self, message: &MessageDescriptor, key: &str) -> E {
        let description = format!(
            "has the unknown field {key:?}; remove the field, or use a name of {}",
            message.name()
        );
        self.reject(ViolationReason::Malformed, &description)
    }
}

// === impl Expected ===

impl<'de> DeserializeSeed<'de> for Expected<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Expected<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.scan.add(VALUE_SIZE)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scan.add(VALUE_SIZE)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.scan.add(VALUE_SIZE)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scan.add(VALUE_SIZE)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.scan.add(VALUE_SIZE)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scan.add(VALUE_SIZE)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { scan, message } = self;
        scan.add(VALUE_SIZE)?;
        for index in 0.. {
            scan.enter(Step::Index(index))?;
            let element = Expected { scan, message: message.clone() };
            if seq.next_element_seed(element)?.is_none() {
                break;
            }
            scan.path.pop();
        }
        scan.path.pop();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { scan, message } = self;
        scan.add(MESSAGE_SIZE)?;
        let Some(message) = message else {
            return Err(scan.reject(ViolationReason::Malformed, "must not be an object"));
        };
        let mut seen = Vec::new();
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            let field = message
                .get_field_by_json_name(&key)
                .or_else(|| message.get_field_by_name(&key))
                .ok_or_else(|| scan.reject_unknown(&message, &key))?;
            let is_repeated = seen.contains(&field.number());
            seen.push(field.number());
            let value = message_of(&field.kind());
            scan.enter(Step::Field(field))?;
            if is_repeated {
                let description = "must occur once, under one of its names";
                return Err(scan.reject(ViolationReason::Conflict, description));
            }
            map.next_value_seed(Expected { scan, message: value })?;
            scan.path.pop();
        }
        Ok(())
    }
}
