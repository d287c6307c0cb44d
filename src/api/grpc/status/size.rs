//! The size of a status, which is sent in two headers. One header is the percent-encoded message.
//! The other header has the details and the message again, in base64. Proxies limit the size of all
//! headers, often to 8 KiB.

use tonic_types::FieldViolation;

use crate::{api::grpc::errors::violation_name, domain::violation::Violations};

/// The maximum length of an encoded message, in bytes.
const MESSAGE_LENGTH_MAX: usize = 1_536;
/// The maximum length of all violations, in bytes before their encoding.
const VIOLATIONS_LENGTH_MAX: usize = 2_048;
/// The maximum length of a text in the details, in bytes before its encoding.
const TEXT_LENGTH_MAX: usize = 384;
/// The maximum encoded length of the end of a message that was cut, in bytes.
const END_LENGTH_MAX: usize = 48;
const ELLIPSIS: char = '…';

/// The message, cut so that its encoding fits.
pub(super) fn fitting_message(message: &str) -> String {
    cut(message, MESSAGE_LENGTH_MAX, encoded_length)
}

/// A text of the details, cut so that it fits.
pub(super) fn fitting_text(text: &str) -> String {
    cut(text, TEXT_LENGTH_MAX, char::len_utf8)
}

/// A message that lists the first violations.
pub(super) fn listed(violations: &Violations) -> String {
    let all = violations.as_slice();
    let mut message = String::new();
    let mut length = 0;
    for (index, violation) in all.iter().enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        let text = format!("{separator}{}: {}", violation.field, violation.description);
        length += text.chars().map(encoded_length).sum::<usize>();
        let is_fitting = length <= MESSAGE_LENGTH_MAX - END_LENGTH_MAX;
        if !is_fitting && index > 0 {
            return format!("{message}; and {} more", all.len() - index + violations.omitted());
        }
        message += &text;
    }
    match violations.omitted() {
        0 => message,
        omitted => format!("{message}; and {omitted} more"),
    }
}

/// The first violations, as many as fit.
pub(super) fn fitting_violations(violations: &Violations) -> Vec<FieldViolation> {
    let mut length = 0;
    let shown = violations.as_slice().iter().map(|violation| {
        let field = fitting_text(&violation.field);
        let mut shown = FieldViolation::new(field, fitting_text(&violation.description));
        shown.reason = violation_name(violation.reason).into();
        shown
    });
    let is_fitting = |shown: &FieldViolation| {
        length += shown.field.len() + shown.description.len() + shown.reason.len();
        length <= VIOLATIONS_LENGTH_MAX
    };
    shown.take_while(is_fitting).collect()
}

fn cut(text: &str, length_max: usize, length_of: impl Fn(char) -> usize) -> String {
    if text.chars().map(&length_of).sum::<usize>() <= length_max {
        return text.to_owned();
    }
    let mut rest = length_max - length_of(ELLIPSIS);
    let fits = |c: &char| {
        let length = length_of(*c);
        let fits = length <= rest;
        rest = rest.saturating_sub(length);
        fits
    };
    text.chars().take_while(fits).chain([ELLIPSIS]).collect()
}

/// An upper bound of the length of a character in a header. Tonic encodes each byte of spaces, of
/// some punctuation and of characters outside ASCII with three bytes.
fn encoded_length(c: char) -> usize {
    let is_plain = c.is_ascii_alphanumeric() || "!$&'()*+,-./:;=@[\\]^_|~".contains(c);
    if is_plain { 1 } else { 3 * c.len_utf8() }
}
