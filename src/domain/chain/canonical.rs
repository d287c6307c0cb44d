//! Canonical JSON (RFC 8785, JCS): equal values have the same text, byte for byte.
//!
//! Numbers must be integers that every JSON parser reads alike, so that a verifier needs no rules
//! for floating-point numbers.

use std::fmt::Write;

use serde_json::Value;

/// The greatest integer that a parser with only floating-point numbers reads exactly.
const WHOLE_MAX: i64 = (1 << 53) - 1;

/// The value has no canonical text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it contains a number that is not an integer between -2^53 + 1 and 2^53 - 1")]
pub struct NotCanonical;

/// The canonical text of `value`.
pub fn to_canonical(value: &Value) -> Result<String, NotCanonical> {
    let mut text = String::new();
    write(&mut text, value)?;
    Ok(text)
}

fn write(out: &mut String, value: &Value) -> Result<(), NotCanonical> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => {
            let whole = number.as_i64().filter(|number| number.abs() <= WHOLE_MAX);
            // Writing to a String cannot fail.
            let _ = write!(out, "{}", whole.ok_or(NotCanonical)?);
        }
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            write_list(out, ('[', ']'), items, write)?;
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            write_list(out, ('{', '}'), members, |out, (name, value)| {
                write_text(out, name);
                out.push(':');
                write(out, value)
            })?;
        }
    }
    Ok(())
}

fn write_list<T>(
    out: &mut String,
    (open, close): (char, char),
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut String, T) -> Result<(), NotCanonical>,
) -> Result<(), NotCanonical> {
    out.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(out, item)?;
    }
    out.push(close);
    Ok(())
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
