//! Ids and texts that callers give us: checked once, where they come in, and trusted from then on.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest id, in characters.
pub const ID_LENGTH_MAX: usize = 128;
/// The longest reason, in characters.
pub const NOTE_LENGTH_MAX: usize = 1_000;

/// Why a text was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More characters than the limit.
    #[error("must be at most {limit} characters long, but has {length}")]
    TooLong {
        /// The most characters allowed.
        limit: usize,
        /// How many there were.
        length: usize,
    },
    /// A control character (Unicode category Cc).
    #[error("must not contain control characters")]
    ControlCharacter,
    /// A character that does not show, or turns around what stands beside it: two ids would look alike.
    #[error("must not contain characters that do not show")]
    HiddenCharacter,
    /// An id that begins or ends with white space: most likely a mistake, and invisible in a log.
    #[error("must not begin or end with space")]
    SurroundingSpace,
    /// A name that the service keeps for itself.
    #[error("must not be a name the service keeps for itself")]
    Reserved,
}

fn check_length(text: &str, limit: usize) -> Result<(), TextError> {
    let length = text.chars().count();
    if length > limit { Err(TextError::TooLong { limit, length }) } else { Ok(()) }
}

/// Checks that a text, possibly empty, can be shown in one line: at most `limit` characters, no control characters.
pub fn check_line(text: &str, limit: usize) -> Result<(), TextError> {
    check_length(text, limit)?;
    if text.chars().any(char::is_control) { Err(TextError::ControlCharacter) } else { Ok(()) }
}

/// Checks that a text can be an id: 1 to [`ID_LENGTH_MAX`] characters, no control or hidden characters, no
/// surrounding space.
pub fn check_id(text: &str) -> Result<(), TextError> {
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    check_line(text, ID_LENGTH_MAX)?;
    if text.trim().len() != text.len() {
        return Err(TextError::SurroundingSpace);
    }
    if text.contains(is_hidden) {
        return Err(TextError::HiddenCharacter);
    }
    Ok(())
}

/// Whether `c` does not show, or turns around what stands beside it: line and paragraph separators, and Unicode's format
/// characters (Cf) of that kind.
pub const fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks an id: see [`check_id`].
            pub fn new(text: &str) -> Result<Self, TextError> {
                check_id(text)?;
                Ok(Self(text.into()))
            }

            /// The id as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// An id that is written in the source, and so needs no check.
            #[allow(dead_code, reason = "only some ids are written in the source")]
            pub(crate) fn fixed(text: &'static str) -> Self {
                debug_assert_eq!(check_id(text), Ok(()));
                Self(text.into())
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = TextError;
            fn try_from(text: String) -> Result<Self, TextError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// A customer of the vendor.
    TenantId
}
id! {
    /// A group of the vendor's support agents.
    GroupId
}
id! {
    /// A person on the vendor's side.
    AgentId
}
id! {
    /// Chosen by a caller to make a retry safe.
    RequestId
}
id! {
    /// Who did something, as the history names them.
    Actor
}

/// A grant's id: a UUID version 7 (RFC 9562), so that newer grants sort after older ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrantId(pub Uuid);

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Free text, possibly empty: a reason, in somebody's own words. Line breaks and tabs are allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FreeText(String);

impl FreeText {
    /// Checks a text: at most [`NOTE_LENGTH_MAX`] characters, no control characters but line breaks and tabs.
    pub fn new(text: impl Into<String>) -> Result<Self, TextError> {
        let text = text.into();
        check_length(&text, NOTE_LENGTH_MAX)?;
        if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            return Err(TextError::ControlCharacter);
        }
        Ok(Self(text))
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to read in it.
    pub fn is_blank(&self) -> bool {
        self.0.trim().is_empty()
    }
}

/// The support ticket a grant belongs to; empty if none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ticket(String);

impl Ticket {
    /// Checks a ticket: empty, or as an id.
    pub fn new(text: &str) -> Result<Self, TextError> {
        if !text.is_empty() {
            check_id(text)?;
        }
        Ok(Self(text.into()))
    }

    /// The ticket as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether no ticket was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        let too_long = "x".repeat(129);
        let cases = [
            ("acme", Ok(())),
            ("Ünïcode id", Ok(())),
            ("", Err(TextError::Empty)),
            (" acme", Err(TextError::SurroundingSpace)),
            ("acme\u{a0}", Err(TextError::SurroundingSpace)),
            ("ac\u{0}me", Err(TextError::ControlCharacter)),
            ("acme\n", Err(TextError::ControlCharacter)),
            ("ac\u{200b}me", Err(TextError::HiddenCharacter)),
            ("acme\u{202e}", Err(TextError::HiddenCharacter)),
            (&too_long, Err(TextError::TooLong { limit: 128, length: 129 })),
        ];
        for (text, expected) in cases {
            assert_eq!(TenantId::new(text).map(drop), expected, "{text:?}");
        }
        assert!(TenantId::new(&"é".repeat(128)).is_ok(), "characters are counted, not bytes");
    }

    #[test]
    fn notes_may_have_lines_but_no_other_control_characters() {
        assert!(FreeText::new("first\r\n\tsecond").is_ok());
        assert!(FreeText::new("").is_ok());
        assert_eq!(FreeText::new("a\u{1b}[31m"), Err(TextError::ControlCharacter));
        assert_eq!(
            FreeText::new("x".repeat(1_001)),
            Err(TextError::TooLong { limit: 1_000, length: 1_001 })
        );
    }
}
