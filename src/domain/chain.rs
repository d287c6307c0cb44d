//! The chain: what makes a history one that nobody can change unnoticed.
//!
//! Each tenant's history is a chain of its own, and so is the vendor's. Every event has its `sequence` in it, 1, 2, 3 and so
//! on, and a hash over all that the event says and over the hash before it. `docs/history.md` is the manual of the format,
//! from which anybody can write a verifier; what is here must do what it says, for ever.

use std::{
    fmt::{self, Write},
    str::FromStr,
};

use chrono::SecondsFormat;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::domain::{
    event::{Epoch, Revision},
    time::Time,
};

pub mod canonical;
pub mod checkpoint;
pub mod key;
#[cfg(test)]
mod tests;
pub mod verifier;

pub use canonical::{NotCanonical, to_canonical};
pub use checkpoint::Checkpoint;
pub use key::{CheckpointKey, KeyError, PublicKey};
pub use verifier::{ChainError, Verifier, VerifyError, VerifyReport};

/// The place of an event in its chain: 1, 2, 3 and so on. 0 is before the first.
pub type Sequence = i64;

/// What a record of an event says of its format.
pub const RECORD_FORMAT: &str = "support-access.history.record.v1";

const HASH: &str = "hash";

/// A SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

/// A place in a chain, and the hash there, which stands for all that came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// How many events there are up to here.
    pub sequence: Sequence,
    /// The hash of the last of them.
    pub hash: Hash,
}

/// How far a chain goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainHead {
    /// The log that it is in.
    pub log: Epoch,
    /// Its last link; [`Link::START`] if nothing has happened.
    pub link: Link,
}

/// An event in its chain, as it is exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where.
    pub link: Link,
    /// Its place in the log.
    pub revision: Revision,
    /// The record as canonical JSON, its hash included. One line, without the line's end.
    pub line: String,
}

/// All of an event that goes into its hash, as the database keeps it. Nothing is read into it: a later version, which may know
/// other words, still makes the same record of it.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// Whose history; empty: the vendor's own.
    pub tenant_id: &'a str,
    /// Its place in the log.
    pub revision: Revision,
    /// When it was committed.
    pub time: Time,
    /// Who did it.
    pub actor: &'a str,
    /// Through which service.
    pub via: Option<&'a str>,
    /// Whether that service has only named the actor.
    pub is_asserted: bool,
    /// Why.
    pub reason: &'a str,
    /// What happened: JSON.
    pub body: &'a str,
}

/// Why there is no record of an event.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// What happened is not written as JSON.
    #[error("the event's body is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// It cannot be made canonical.
    #[error("the event's body cannot be made canonical: {0}")]
    NotCanonical(#[from] NotCanonical),
}

/// A time as records and checkpoints write it: RFC 3339, UTC, with microseconds.
pub fn time_text(time: Time) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

// === impl Hash ===

impl Hash {
    /// What stands before the first event.
    pub const ZERO: Self = Self([0; 32]);

    /// Of a text.
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

/// A text that is not so many bytes in lower-case hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not lower-case hex of the right length")]
pub struct HexError;

fn to_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a text cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
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
    /// Before the first event.
    pub const START: Self = Self { sequence: 0, hash: Hash::ZERO };
}

// === impl Content ===

impl Content<'_> {
    /// The link that follows `previous` with this event, in the log of this name.
    pub fn link(&self, log: Epoch, previous: Link) -> Result<Link, EncodeError> {
        let sequence = previous.sequence + 1;
        let unhashed = Value::Object(self.members(log, sequence, previous.hash)?);
        Ok(Link { sequence, hash: Hash::of(&to_canonical(&unhashed)?) })
    }

    /// The record of this event, at a place in its chain that was given to it before. Nothing is proven by that: whoever reads
    /// the record finds out whether the hash is right.
    pub fn record(&self, log: Epoch, previous: Hash, link: Link) -> Result<Record, EncodeError> {
        let mut members = self.members(log, link.sequence, previous)?;
        members.insert(HASH.into(), link.hash.to_string().into());
        Ok(Record { link, revision: self.revision, line: to_canonical(&Value::Object(members))? })
    }

    fn members(
        &self,
        log: Epoch,
        sequence: Sequence,
        previous: Hash,
    ) -> Result<Map<String, Value>, EncodeError> {
        let mut members = Map::new();
        let mut add = |name: &str, value: Value| members.insert(name.into(), value);
        add("format", RECORD_FORMAT.into());
        add("log", log.to_string().into());
        add("tenant_id", self.tenant_id.into());
        add("sequence", sequence.into());
        add("revision", self.revision.into());
        add("time", time_text(self.time).into());
        add("actor", self.actor.into());
        if let Some(via) = self.via {
            add("via", via.into());
        }
        if self.is_asserted {
            add("is_asserted", true.into());
        }
        add("reason", self.reason.into());
        add("event", serde_json::from_str(self.body)?);
        add("previous_hash", previous.to_string().into());
        Ok(members)
    }
}
