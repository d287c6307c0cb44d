//! The JSON of a request. Rejects what two readers could understand differently, and bounds the
//! memory, before memory is allocated.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::{
    api::{grpc::Unread, limit::CallPermit},
    domain::{ViolationReason, violation::Violations},
};

/// Maximum nesting of arrays and objects.
const DEPTH_MAX: usize = 16;
/// Maximum number of fields of an object.
const FIELDS_MAX: usize = 100;
/// Estimated memory of a value or a key, in bytes, without the bytes of its text.
const VALUE_SIZE: usize = 96;
/// Maximum estimated memory of a request, in bytes.
const SIZE_MAX: usize = 24 * 1_024 * 1_024;

/// The fields of an object.
pub(super) type Object = Map<String, Value>;

/// The result of `use_object` for the object in `text`. Counts the memory of the object meanwhile.
pub(super) fn with_object<T>(
    text: &[u8],
    permit: &CallPermit,
    use_object: impl FnOnce(&Object) -> Result<T, Unread>,
) -> Result<T, Unread> {
    let _share = permit.try_convert(scan(text)?).ok_or(Unread::Excess)?;
    match serde_json::from_slice(text) {
        Ok(Value::Object(object)) => use_object(&object),
        Ok(_) => Err(invalid(ViolationReason::Malformed, "must be a JSON object")),
        Err(error) => Err(malformed(&error)),
    }
}

/// The estimated memory of the value in `text`, in bytes.
fn scan(text: &[u8]) -> Result<usize, Unread> {
    let mut scan = Scan { depth: 0, size: text.len(), problem: None };
    let mut json = serde_json::Deserializer::from_slice(text);
    match Scanned(&mut scan).deserialize(&mut json).and_then(|()| json.end()) {
        Ok(()) => Ok(scan.size),
        Err(error) => Err(scan.problem.take().unwrap_or_else(|| malformed(&error))),
    }
}

fn malformed(error: &serde_json::Error) -> Unread {
    invalid(ViolationReason::Malformed, &format!("must be JSON: {error}"))
}

fn invalid(reason: ViolationReason, description: &str) -> Unread {
    Unread::Invalid(Box::new(Violations::of("message", reason, description)))
}

struct Scan {
    /// The number of containers around the current value.
    depth: usize,
    size: usize,
    /// Why the scan has ended, unless the text is not JSON.
    problem: Option<Unread>,
}

struct Scanned<'a>(&'a mut Scan);

// === impl Scan ===

impl Scan {
    fn add<E: Error>(&mut self) -> Result<(), E> {
        self.size += VALUE_SIZE;
        if self.size <= SIZE_MAX {
            return Ok(());
        }
        self.problem = Some(Unread::TooManyFields);
        Err(E::custom("too many values"))
    }

    fn enter<E: Error>(&mut self) -> Result<(), E> {
        self.add()?;
        self.depth += 1;
        if self.depth <= DEPTH_MAX {
            return Ok(());
        }
        let description = format!("must be nested at most {DEPTH_MAX} levels deep");
        Err(self.reject(ViolationReason::OutOfRange, &description))
    }

    fn reject<E: Error>(&mut self, reason: ViolationReason, description: &str) -> E {
        self.problem = Some(invalid(reason, description));
        E::custom(description)
    }
}

// === impl Scanned ===

impl<'de> DeserializeSeed<'de> for Scanned<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scanned<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.0.add()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.0.add()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.0.add()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.0.add()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.0.add()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.add()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self(scan) = self;
        scan.enter()?;
        while seq.next_element_seed(Scanned(scan))?.is_some() {}
        scan.depth -= 1;
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(scan) = self;
        scan.enter()?;
        let mut seen: Vec<String> = Vec::new();
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            scan.add()?;
            if seen.len() == FIELDS_MAX {
                let description = format!("must have at most {FIELDS_MAX} fields in an object");
                return Err(scan.reject(ViolationReason::OutOfRange, &description));
            }
            if seen.iter().any(|seen| *seen == key) {
                let description = "must not have a field of an object twice";
                return Err(scan.reject(ViolationReason::Conflict, description));
            }
            seen.push(key.into_owned());
            map.next_value_seed(Scanned(scan))?;
        }
        scan.depth -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::limit::permit_of as permit;

    fn problem(text: &str) -> String {
        match with_object(text.as_bytes(), &permit(SIZE_MAX), |_| Ok(())) {
            Err(Unread::Invalid(violations)) => violations.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_text_with_two_meanings_is_rejected() {
        let twice = "message: must not have a field of an object twice";
        assert_eq!(problem(r#"{"subject": {}, "subject": {}}"#), twice);
        assert_eq!(problem(r#"{"a": [{"b": 1, "\u0062": 2}]}"#), twice);
        for text in ["", "{", "{}{}", "{'a': 1}", "{\"a\": NaN}", "{\"a\": 1,}"] {
            assert!(problem(text).starts_with("message: must be JSON: "), "{text}");
        }
        for text in ["[]", "1", "null", "\"text\""] {
            assert_eq!(problem(text), "message: must be a JSON object", "{text}");
        }
    }

    #[test]
    fn size_and_nesting_are_limited() {
        let nested = |levels| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        let is_read = |text: &str, quota| {
            with_object(text.as_bytes(), &permit(quota), |object| Ok(object.len()))
        };
        assert_eq!(is_read(&nested(DEPTH_MAX - 1), 0), Ok(1));
        for levels in [DEPTH_MAX, 100, 100_000] {
            assert_eq!(problem(&nested(levels)), "message: must be nested at most 16 levels deep");
        }
        let fields = |count| {
            let fields: Vec<_> = (0..count).map(|field| format!("\"{field}\":0")).collect();
            format!("{{{}}}", fields.join(","))
        };
        assert_eq!(is_read(&fields(FIELDS_MAX), SIZE_MAX), Ok(FIELDS_MAX));
        assert_eq!(
            problem(&fields(FIELDS_MAX + 1)),
            "message: must have at most 100 fields in an object"
        );
        let numbers = format!("{{\"a\":[{}0]}}", "0,".repeat(SIZE_MAX / VALUE_SIZE));
        assert_eq!(is_read(&numbers, 2 * SIZE_MAX), Err(Unread::TooManyFields));
        let few = format!("{{\"a\":[{}0]}}", "0,".repeat(1_000));
        assert_eq!(is_read(&few, 10_000), Err(Unread::Excess));
        assert_eq!(is_read(&few, 1_000_000), Ok(1));
    }
}
