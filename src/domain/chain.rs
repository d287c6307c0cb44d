//! Hash chains: each event is hashed together with the previous hash, so that a later change of a
//! history is detected.
//!
//! The history of each tenant is a chain, and so is the vendor's. Every event has a sequence in the
//! chain, 1, 2, 3 and so on, and a hash over the content and the previous hash. `docs/history.md`
//! specifies the format, so that anyone can write a verifier. This module must always implement
//! that specification.

use std::{
    fmt::{self, Write},
    str::FromStr,
};

use chrono::SecondsFormat;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::domain::{
    revision::{LogName, Revision, Sequence},
    time::Time,
};

pub mod canonical;
pub mod checkpoint;
pub mod key;
pub mod verifier;

pub use canonical::{NotCanonical, to_canonical};
pub use checkpoint::Checkpoint;
pub use key::{CheckpointKey, KeyError, PublicKey};
pub use verifier::{ChainError, Verifier, VerifyError, VerifyReport};

/// The format of a record.
pub const RECORD_FORMAT: &str = "support-access.history.record.v1";

const HASH: &str = "hash";

/// A SHA-256 hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

/// The position of an event in the chain, and the hash, which covers this event and all earlier
/// events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The event's sequence.
    pub sequence: Sequence,
    /// The event's hash.
    pub hash: Hash,
}

/// The end of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainHead {
    /// The log that contains the chain.
    pub log: LogName,
    /// The last link. [`Link::START`] if the history is empty.
    pub link: Link,
}

/// An event of a chain in the exported form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The event's position in the chain.
    pub link: Link,
    /// The event's position in the log. Not part of the exported line.
    pub revision: Revision,
    /// The record as one line of canonical JSON, including the hash, without the line break.
    pub line: String,
    /// False if the store knows that no replica wrote the event as it is. The record must not be
    /// exported then.
    pub is_authentic: bool,
}

/// The hashed content of an event, as stored. A record depends on these texts only. A later version
/// that renames a field in Rust therefore produces the same record.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// The tenant. Empty: the vendor's own history.
    pub tenant_id: &'a str,
    /// When the event was committed.
    pub time: Time,
    /// The caller that made the change.
    pub actor: &'a str,
    /// The service through which the actor called.
    pub via: Option<&'a str>,
    /// Whether that service only named the actor, without proof.
    pub actor_asserted: bool,
    /// The caller's reason.
    pub reason: &'a str,
    /// The change, as JSON.
    pub body: &'a str,
}

/// Why an event cannot be encoded as a record.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The body is not JSON.
    #[error("the event's body is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// The body has no canonical form.
    #[error("the event's body has no canonical form: {0}")]
    NotCanonical(#[from] NotCanonical),
}

/// The form of times in records and checkpoints: RFC 3339, UTC, with microseconds.
pub fn time_text(time: Time) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

// === impl Hash ===

impl Hash {
    /// The previous hash of the first event.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of a text.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl FromStr for Hash {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        from_hex(text).map(Self)
    }
}

/// The text is not lower-case hex of the expected length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not lower-case hex of the expected length")]
pub struct HexError;

pub(super) fn to_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

pub(super) fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        _ => Err(HexError),
    };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(HexError);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

// === impl Link ===

impl Link {
    /// The position before the first event.
    pub const START: Self = Self { sequence: 0, hash: Hash::ZERO };
}

// === impl Content ===

impl Content<'_> {
    /// The link of this event after `previous`.
    pub fn link(&self, log: LogName, previous: Link) -> Result<Link, EncodeError> {
        let sequence = previous.sequence + 1;
        let unhashed = Value::Object(self.members(log, sequence, previous.hash)?);
        Ok(Link { sequence, hash: Hash::of(&to_canonical(&unhashed)?) })
    }

    /// The record of this event with a link that was computed earlier. This function does not check
    /// the link: the reader of the record verifies the hash.
    pub fn record(
        &self,
        log: LogName,
        revision: Revision,
        previous: Hash,
        link: Link,
    ) -> Result<Record, EncodeError> {
        let mut members = self.members(log, link.sequence, previous)?;
        members.insert(HASH.into(), link.hash.to_string().into());
        let members = Value::Object(members);
        Ok(Record { link, revision, line: to_canonical(&members)?, is_authentic: true })
    }

    fn members(
        &self,
        log: LogName,
        sequence: Sequence,
        previous: Hash,
    ) -> Result<Map<String, Value>, EncodeError> {
        let mut members = Map::new();
        let mut add = |name: &str, value: Value| members.insert(name.into(), value);
        add("format", RECORD_FORMAT.into());
        add("log", log.to_string().into());
        add("tenant_id", self.tenant_id.into());
        add("sequence", sequence.into());
        add("time", time_text(self.time).into());
        add("actor", self.actor.into());
        if let Some(via) = self.via {
            add("via", via.into());
        }
        if self.actor_asserted {
            add("actor_asserted", true.into());
        }
        add("reason", self.reason.into());
        add("event", serde_json::from_str(self.body)?);
        add("previous_hash", previous.to_string().into());
        Ok(members)
    }
}
