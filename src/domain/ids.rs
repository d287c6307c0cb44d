//! Ids and free texts from callers. Each is validated once, when received, and trusted afterwards.

use std::{fmt, sync::Arc};

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::{
    CodePointMapData, CodePointMapDataBorrowed, CodePointSetData, CodePointSetDataBorrowed,
    props::{BidiControl, DefaultIgnorableCodePoint, GeneralCategory, NoncharacterCodePoint},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The maximum length of an id, in characters.
pub const ID_LENGTH_MAX: usize = 128;
/// The maximum length of a free text, in characters.
pub const FREE_TEXT_LENGTH_MAX: usize = 1_000;
/// The Braille pattern without dots, which is invisible. No Unicode property marks such a symbol.
const BRAILLE_BLANK: char = '\u{2800}';

/// Why a text was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// The text is too long.
    #[error("must be at most {limit} characters long, but has {length}")]
    TooLong {
        /// The maximum number of characters.
        limit: usize,
        /// The number of characters.
        length: usize,
    },
    /// The text contains a control character (Unicode category Cc).
    #[error("must not contain control characters")]
    ControlCharacter,
    /// The text contains a character that is not shown, or that reorders its neighbours. With such
    /// characters, different ids would look the same.
    #[error("must not contain invisible characters")]
    InvisibleCharacter,
    /// No character of the text is visible.
    #[error("must contain a visible character")]
    NothingVisible,
    /// The text is not in Unicode Normalization Form C. In that form, each word has one spelling.
    #[error("must be in Unicode Normalization Form C (NFC)")]
    NotNormalized,
    /// The text starts or ends with white space, which is invisible in a log.
    #[error("must not start or end with white space")]
    SurroundingSpace,
    /// The name is reserved for the service itself.
    #[error("must not be a name that is reserved for the service; choose another name")]
    Reserved,
}

fn check_length(text: &str, limit: usize) -> Result<(), TextError> {
    let length = text.chars().count();
    if length > limit { Err(TextError::TooLong { limit, length }) } else { Ok(()) }
}

/// Checks a text for one line: at most `limit` characters, no control characters. May be empty.
pub fn check_line(text: &str, limit: usize) -> Result<(), TextError> {
    check_length(text, limit)?;
    if text.chars().any(char::is_control) { Err(TextError::ControlCharacter) } else { Ok(()) }
}

/// Checks an id: 1 to [`ID_LENGTH_MAX`] characters in NFC, at least one of them visible, without
/// surrounding white space and without characters that [`is_unsafe`] rejects.
pub fn check_id(text: &str) -> Result<(), TextError> {
    if is_plain_id(text.as_bytes()) {
        return Ok(());
    }
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    check_line(text, ID_LENGTH_MAX)?;
    if text.trim().len() != text.len() {
        return Err(TextError::SurroundingSpace);
    }
    if text.contains(is_unsafe) {
        return Err(TextError::InvisibleCharacter);
    }
    if !text.contains(is_visible) {
        return Err(TextError::NothingVisible);
    }
    if !ComposingNormalizerBorrowed::new_nfc().is_normalized(text) {
        return Err(TextError::NotNormalized);
    }
    Ok(())
}

/// Whether `text` is an id of visible ASCII characters, as most ids are.
fn is_plain_id(text: &[u8]) -> bool {
    (1..=ID_LENGTH_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

/// The id that a text shows: in NFC, without control, default-ignorable and bidirectional
/// characters. `None`: the remaining text is not an id.
pub fn shown_id<T>(text: &str, new: impl FnOnce(&str) -> Result<T, TextError>) -> Option<T> {
    let is_shown = |c: &char| !(c.is_control() || is_ignorable(*c));
    let shown: String = text.chars().filter(is_shown).collect();
    new(&ComposingNormalizerBorrowed::new_nfc().normalize(&shown)).ok()
}

/// Whether `c` must not be part of an id, or be sent to a terminal. Control characters, line and
/// paragraph separators, noncharacters and default-ignorable characters are unsafe. Bidirectional
/// controls are unsafe because they reorder other characters.
pub fn is_unsafe(c: char) -> bool {
    const NONCHARACTERS: CodePointSetDataBorrowed<'static> =
        CodePointSetData::new::<NoncharacterCodePoint>();
    if c.is_ascii() {
        return c.is_control();
    }
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}')
        || is_ignorable(c)
        || NONCHARACTERS.contains(c)
}

/// Whether `c` is default-ignorable or a bidirectional formatting character.
fn is_ignorable(c: char) -> bool {
    const DEFAULT_IGNORABLE: CodePointSetDataBorrowed<'static> =
        CodePointSetData::new::<DefaultIgnorableCodePoint>();
    const BIDI_CONTROL: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<BidiControl>();
    DEFAULT_IGNORABLE.contains(c) || BIDI_CONTROL.contains(c)
}

/// Whether `c` leaves a mark on the screen.
fn is_visible(c: char) -> bool {
    const CATEGORIES: CodePointMapDataBorrowed<'static, GeneralCategory> =
        CodePointMapData::<GeneralCategory>::new();
    let is_blank = c.is_whitespace() || c == BRAILLE_BLANK;
    !is_blank && CATEGORIES.get(c) != GeneralCategory::Format
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks an id with [`check_id`].
            pub fn new(text: &str) -> Result<Self, TextError> {
                check_id(text)?;
                Ok(Self(text.into()))
            }

            /// The id's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// An id from the source code.
            #[allow(dead_code, reason = "the source contains constants of some types only")]
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
    /// A set of support agents.
    GroupId
}
id! {
    /// A person or program that wants to enter a tenant.
    AgentId
}
id! {
    /// Chosen by a caller to make a retry idempotent.
    RequestId
}
id! {
    /// The caller that made a change, as named in the history.
    Actor
}

impl RequestId {
    /// An id that no caller has chosen.
    pub fn random() -> Self {
        Self(Uuid::new_v4().to_string().into())
    }
}

/// A grant's id: a UUID version 7 (RFC 9562). Newer grants sort after older ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrantId(pub Uuid);

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A free text such as a reason. May be empty. Line breaks and tabs are allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FreeText(String);

impl FreeText {
    /// Checks a text: at most [`FREE_TEXT_LENGTH_MAX`] characters, and no control characters except
    /// line breaks and tabs.
    pub fn new(text: impl Into<String>) -> Result<Self, TextError> {
        let text = text.into();
        check_length(&text, FREE_TEXT_LENGTH_MAX)?;
        if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            return Err(TextError::ControlCharacter);
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the text is empty or white space.
    pub fn is_blank(&self) -> bool {
        self.0.trim().is_empty()
    }
}

/// The support ticket of a grant. Empty: none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ticket(String);

impl Ticket {
    /// Checks a ticket: empty, or valid by [`check_id`].
    pub fn new(text: &str) -> Result<Self, TextError> {
        if !text.is_empty() {
            check_id(text)?;
        }
        Ok(Self(text.into()))
    }

    /// The ticket's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is no ticket.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
