//! The verifier reads an exported history line by line, and reports the first line that does not
//! match.
//!
//! Only the last link is kept, so that a history of any length can be verified.

use std::str;

use serde_json::{Map, Value};

use crate::domain::chain::{
    Hash, Link, RECORD_FORMAT,
    canonical::to_canonical,
    checkpoint::{CHECKPOINT_FORMAT, Checkpoint, Proof},
    key::PublicKey,
};
use crate::domain::revision::Sequence;

/// Maximum length of a line in bytes, without the line break. The largest event has about 200,000
/// bytes.
pub const LINE_LENGTH_MAX: usize = 4 << 20;

/// The first line that does not match.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {mismatch}")]
pub struct VerifyError {
    /// The number of the line, from 1. For missing records, the line after the last record.
    pub line: u64,
    /// The mismatch.
    pub mismatch: ChainError,
}

/// Why a line does not match.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The export has no lines.
    #[error("the file is empty: even the export of an empty history has a checkpoint")]
    Empty,
    /// Longer than [`LINE_LENGTH_MAX`].
    #[error("it is longer than {LINE_LENGTH_MAX} bytes, the maximum of a record")]
    TooLong,
    /// Not JSON in UTF-8.
    #[error("it is not JSON")]
    NotJson,
    /// The line is not canonical JSON. A reader might show other content than was hashed.
    #[error("it is not canonical JSON (RFC 8785): a reader may show other content than was hashed")]
    NotCanonical,
    /// Neither a record nor a checkpoint of a known format.
    #[error("it is neither a record nor a checkpoint in a supported format")]
    Unknown,
    /// The line follows a checkpoint.
    #[error("it follows the checkpoint, which ends an export")]
    AfterCheckpoint,
    /// The hash is not that of the record.
    #[error("it was changed: the content does not match the hash")]
    Changed,
    /// The line is from another log.
    #[error("it belongs to another log than the kept checkpoint or the earlier lines")]
    OtherLog,
    /// The line is from another history.
    #[error("it belongs to another history: tenant {found:?}, not {expected:?}")]
    OtherTenant {
        /// The tenant of the kept checkpoint or the earlier lines. Empty: the vendor.
        expected: String,
        /// The tenant of this line. Empty: the vendor.
        found: String,
    },
    /// The sequence is not the next one.
    #[error(
        "it is event {found}, but event {expected} is the next: a line was removed, inserted, \
         duplicated or moved"
    )]
    NotNext {
        /// The next sequence.
        expected: Sequence,
        /// The sequence of the line.
        found: Sequence,
    },
    /// The previous hash is that of another record.
    #[error("it does not follow the line before: one of the two was replaced")]
    NotFollowing,
    /// The checkpoint has another hash at this sequence.
    #[error("it does not match the checkpoint: the history was rewritten")]
    CheckpointMismatch,
    /// The history ends before the checkpoint.
    #[error(
        "the history was cut short: the checkpoint covers {expected} events, the export {found}"
    )]
    CutShort {
        /// The number of events at the checkpoint.
        expected: Sequence,
        /// The number of events in the export.
        found: Sequence,
    },
    /// A public key was given, and no checkpoint.
    #[error("there is no checkpoint to verify with the public key; add a signed checkpoint")]
    NoCheckpoint,
    /// A public key was given, and the checkpoint is not signed.
    #[error("the checkpoint is not signed")]
    NotSigned,
    /// A public key was given, and the checkpoint is signed by another key.
    #[error("the checkpoint is signed by the key {found}, not by {expected}")]
    OtherKey {
        /// The id of the given key.
        expected: String,
        /// The id of the key that signed the checkpoint.
        found: String,
    },
    /// The signature is wrong.
    #[error("the signature of the checkpoint is wrong")]
    WrongSignature,
}

/// The report on a history that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// The name of the log.
    pub log: String,
    /// The tenant. Empty: the vendor's own history.
    pub tenant_id: String,
    /// The last record.
    pub last: Link,
    /// The time of the last event, if there is one.
    pub last_time: Option<String>,
    /// The checkpoint in the export, if there is one.
    pub own: Option<Checkpoint>,
    /// The given checkpoint, which was kept elsewhere.
    pub kept: Option<Checkpoint>,
    /// Whether a public key was given. The checkpoints are then signed by that key.
    pub is_signed: bool,
}

/// Verifies one history.
#[derive(Debug)]
pub struct Verifier {
    key: Option<PublicKey>,
    kept: Option<Checkpoint>,
    /// The log and the tenant, once known.
    subject: Option<(String, String)>,
    last: Link,
    last_time: Option<String>,
    lines: u64,
    own: Option<Checkpoint>,
}

/// A parsed line.
enum Line {
    Record { link: Link, previous: Hash, subject: (String, String), time: String, is_right: bool },
    Checkpoint(Checkpoint),
}

/// Reads a checkpoint that was kept in a separate file.
pub fn read_checkpoint(line: &[u8]) -> Result<Checkpoint, ChainError> {
    match read(line)? {
        Line::Checkpoint(checkpoint) => Ok(checkpoint),
        Line::Record { .. } => Err(ChainError::Unknown),
    }
}

// === impl Verifier ===

impl Verifier {
    /// A verifier that uses the given public key, and the given checkpoint that was kept elsewhere.
    /// Fails if the key has not signed that checkpoint.
    pub fn new(key: Option<PublicKey>, kept: Option<Checkpoint>) -> Result<Self, ChainError> {
        if let Some(kept) = &kept {
            check_signature(kept, key.as_ref())?;
        }
        let subject = kept.as_ref().map(|kept| (kept.log.clone(), kept.tenant_id.clone()));
        Ok(Self { key, kept, subject, last: Link::START, last_time: None, lines: 0, own: None })
    }

    /// Verifies the next line, without its line break.
    pub fn line(&mut self, line: &[u8]) -> Result<(), VerifyError> {
        self.lines += 1;
        self.take(line).map_err(|mismatch| VerifyError { line: self.lines, mismatch })
    }

    /// Ends the verification after the last line.
    pub fn finish(self) -> Result<VerifyReport, VerifyError> {
        self.check_end().map_err(|mismatch| {
            let records = self.lines - u64::from(self.own.is_some());
            VerifyError { line: records + 1, mismatch }
        })?;
        let Self { key, kept, subject, last, last_time, own, .. } = self;
        let (log, tenant_id) = subject.unwrap_or_default();
        Ok(VerifyReport { log, tenant_id, last, last_time, own, kept, is_signed: key.is_some() })
    }

    fn check_end(&self) -> Result<(), ChainError> {
        let seen = self.kept.as_ref().map_or(0, |kept| kept.link.sequence);
        if self.lines == 0 {
            return Err(ChainError::Empty);
        }
        if self.last.sequence < seen {
            return Err(ChainError::CutShort { expected: seen, found: self.last.sequence });
        }
        if self.key.is_some() && self.kept.is_none() && self.own.is_none() {
            return Err(ChainError::NoCheckpoint);
        }
        Ok(())
    }

    fn take(&mut self, line: &[u8]) -> Result<(), ChainError> {
        let read = read(line)?;
        if self.own.is_some() {
            return Err(ChainError::AfterCheckpoint);
        }
        match read {
            Line::Record { is_right: false, .. } => Err(ChainError::Changed),
            Line::Record { link, previous, subject, time, is_right: true } => {
                self.check_subject(subject)?;
                self.check_next(link, previous)?;
                self.last = link;
                self.last_time = Some(time);
                Ok(())
            }
            Line::Checkpoint(checkpoint) => {
                check_signature(&checkpoint, self.key.as_ref())?;
                self.check_subject((checkpoint.log.clone(), checkpoint.tenant_id.clone()))?;
                let (expected, found) = (checkpoint.link.sequence, self.last.sequence);
                if expected > found {
                    return Err(ChainError::CutShort { expected, found });
                }
                if checkpoint.link != self.last {
                    return Err(ChainError::CheckpointMismatch);
                }
                self.own = Some(checkpoint);
                Ok(())
            }
        }
    }

    /// The given checkpoint determines the expected history. Without one, the first line does.
    fn check_subject(&mut self, found: (String, String)) -> Result<(), ChainError> {
        let expected = self.subject.get_or_insert_with(|| found.clone());
        if expected.0 != found.0 {
            return Err(ChainError::OtherLog);
        }
        if expected.1 != found.1 {
            return Err(ChainError::OtherTenant { expected: expected.1.clone(), found: found.1 });
        }
        Ok(())
    }

    fn check_next(&self, link: Link, previous: Hash) -> Result<(), ChainError> {
        let (expected, found) = (self.last.sequence + 1, link.sequence);
        if found != expected {
            return Err(ChainError::NotNext { expected, found });
        }
        if previous != self.last.hash {
            return Err(ChainError::NotFollowing);
        }
        let kept = self.kept.as_ref().map(|kept| kept.link);
        match kept.filter(|kept| kept.sequence == link.sequence) {
            Some(kept) if kept.hash != link.hash => Err(ChainError::CheckpointMismatch),
            _ => Ok(()),
        }
    }
}

fn check_signature(checkpoint: &Checkpoint, key: Option<&PublicKey>) -> Result<(), ChainError> {
    let Some(key) = key else { return Ok(()) };
    match checkpoint.proof(key) {
        Proof::Signed => Ok(()),
        Proof::Unsigned => Err(ChainError::NotSigned),
        Proof::Wrong => Err(ChainError::WrongSignature),
        Proof::OtherKey => {
            let found = checkpoint.signature.as_ref().map(|signature| signature.key_id.clone());
            Err(ChainError::OtherKey { expected: key.id(), found: found.unwrap_or_default() })
        }
    }
}

fn read(line: &[u8]) -> Result<Line, ChainError> {
    if line.len() > LINE_LENGTH_MAX {
        return Err(ChainError::TooLong);
    }
    let text = str::from_utf8(line).map_err(|_| ChainError::NotJson)?;
    let value: Value = serde_json::from_str(text).map_err(|_| ChainError::NotJson)?;
    if to_canonical(&value).ok().as_deref() != Some(text) {
        return Err(ChainError::NotCanonical);
    }
    let Value::Object(members) = value else { return Err(ChainError::Unknown) };
    let read = match members.get("format").and_then(Value::as_str) {
        Some(RECORD_FORMAT) => read_record(members),
        Some(CHECKPOINT_FORMAT) => Checkpoint::read(&members).map(Line::Checkpoint),
        _ => None,
    };
    read.ok_or(ChainError::Unknown)
}

fn read_record(mut members: Map<String, Value>) -> Option<Line> {
    let hash: Hash = members.remove("hash")?.as_str()?.parse().ok()?;
    let number = |name: &str| members.get(name)?.as_i64().filter(|number| *number > 0);
    let text = |name: &str| members.get(name)?.as_str();
    let is_text = |name: &str| text(name).is_some();
    let given = |name: &str| usize::from(members.contains_key(name));
    let optional = given("via") + given("actor_asserted");
    let is_known = is_text("actor")
        && is_text("reason")
        && members.get("event").is_some_and(Value::is_object)
        && members.get("via").is_none_or(Value::is_string)
        && members.get("actor_asserted").is_none_or(|asserted| *asserted == Value::Bool(true))
        && members.len() == 9 + optional;
    let sequence = number("sequence").filter(|_| is_known)?;
    let previous = text("previous_hash")?.parse().ok()?;
    let subject = (text("log")?.to_owned(), text("tenant_id")?.to_owned());
    let time = text("time")?.to_owned();
    // The record with the hash was canonical, so the record without the hash is canonical, too.
    let unhashed = to_canonical(&Value::Object(members)).ok()?;
    let link = Link { sequence, hash };
    let is_right = Hash::of(&unhashed) == hash;
    Some(Line::Record { link, previous, subject, time, is_right })
}
