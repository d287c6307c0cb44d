//! The verifier: takes an exported history line by line, and says which is the first that does not fit, and how.
//!
//! It needs nothing but the lines, and keeps nothing of them but the last link: a history of any length can be verified.

use std::str;

use serde_json::{Map, Value};

use crate::domain::chain::{
    Hash, Link, RECORD_FORMAT,
    canonical::to_canonical,
    checkpoint::{CHECKPOINT_FORMAT, Checkpoint, Proof},
    key::PublicKey,
};
use crate::domain::revision::Sequence;

/// No line is longer: an event of the largest policy has some 200,000 bytes. In bytes, without the line's end.
pub const LINE_LENGTH_MAX: usize = 4 << 20;

/// A line that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {misfit}")]
pub struct VerifyError {
    /// Which: 1, 2, 3 and so on. What is missing at the end would be on the line after the last record.
    pub line: u64,
    /// How.
    pub misfit: ChainError,
}

/// How something does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// There is no line at all.
    #[error("there is nothing: even an empty history has a checkpoint")]
    Empty,
    /// Longer than [`LINE_LENGTH_MAX`].
    #[error("it is longer than {LINE_LENGTH_MAX} bytes, as no record is")]
    TooLong,
    /// Not JSON in UTF-8.
    #[error("it is not JSON")]
    NotJson,
    /// Not the one way to write what it says: a reader might be shown something else than what was hashed.
    #[error("it is not canonical JSON (RFC 8785): what it shows may not be what was hashed")]
    NotCanonical,
    /// Canonical JSON of something else, or of a later format.
    #[error("it is neither a record nor a checkpoint of a format that is known here")]
    Unknown,
    /// After a checkpoint.
    #[error("it comes after the checkpoint, which is the end of an export")]
    AfterCheckpoint,
    /// The hash is not that of the record.
    #[error("it was changed: its hash is not that of what it says")]
    Changed,
    /// Of another log.
    #[error("it is of another log than the others")]
    OtherLog,
    /// Of another history.
    #[error("it is of another history: tenant {found:?}, and not {expected:?}")]
    OtherTenant {
        /// Whose the others are.
        expected: String,
        /// Whose this is.
        found: String,
    },
    /// Not the next.
    #[error(
        "it is event {found} of the history where event {expected} should stand: a line was removed, inserted, doubled or moved"
    )]
    NotNext {
        /// What should stand here.
        expected: Sequence,
        /// What does.
        found: Sequence,
    },
    /// It was made to follow another record.
    #[error("it does not follow the line before: one of the two was replaced")]
    NotFollowing,
    /// The checkpoint has another hash there.
    #[error("it is not what the checkpoint vouches for: the history was rewritten")]
    NotVouchedFor,
    /// The checkpoint has seen more.
    #[error(
        "the history was cut short: the checkpoint has seen {expected} events, and here are {found}"
    )]
    CutShort {
        /// How many the checkpoint has seen.
        expected: Sequence,
        /// How many there are.
        found: Sequence,
    },
    /// A public key was given, and no checkpoint.
    #[error("there is no checkpoint, so that the public key can prove nothing")]
    NoCheckpoint,
    /// A public key was given, and the checkpoint is not signed.
    #[error("the checkpoint is not signed")]
    NotSigned,
    /// A public key was given, and the checkpoint is signed by another.
    #[error("the checkpoint is signed by the key {found}, and not by {expected}")]
    OtherKey {
        /// The key that was given.
        expected: String,
        /// The key that it names.
        found: String,
    },
    /// The signature is wrong.
    #[error("the signature of the checkpoint is wrong")]
    WrongSignature,
}

/// What was found of a history that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// The name of its log.
    pub log: String,
    /// Whose history; empty: the vendor's own.
    pub tenant_id: String,
    /// The end of it.
    pub last: Link,
    /// When the last event was committed, if there is one.
    pub last_time: Option<String>,
    /// The checkpoint in the export, if there is one.
    pub own: Option<Checkpoint>,
    /// The checkpoint that was kept elsewhere, if one was given.
    pub kept: Option<Checkpoint>,
    /// Whether the checkpoints were found to be signed by the public key that was given.
    pub is_signed: bool,
}

/// Verifies one history.
#[derive(Debug)]
pub struct Verifier {
    key: Option<PublicKey>,
    kept: Option<Checkpoint>,
    /// The log and the tenant, once they are known.
    subject: Option<(String, String)>,
    last: Link,
    last_time: Option<String>,
    lines: u64,
    own: Option<Checkpoint>,
}

/// A line, taken apart.
enum Line {
    Record { link: Link, previous: Hash, subject: (String, String), time: String, is_right: bool },
    Checkpoint(Checkpoint),
}

/// Reads a checkpoint that was kept in a file of its own.
pub fn read_checkpoint(line: &[u8]) -> Result<Checkpoint, ChainError> {
    match read(line)? {
        Line::Checkpoint(checkpoint) => Ok(checkpoint),
        Line::Record { .. } => Err(ChainError::Unknown),
    }
}

// === impl Verifier ===

impl Verifier {
    /// Verifies a history against a public key, and against a checkpoint that was kept elsewhere, as far as they are given. If the
    /// key has not signed that checkpoint, this says so.
    pub fn new(key: Option<PublicKey>, kept: Option<Checkpoint>) -> Result<Self, ChainError> {
        if let Some(kept) = &kept {
            check_signature(kept, key.as_ref())?;
        }
        let subject = kept.as_ref().map(|kept| (kept.log.clone(), kept.tenant_id.clone()));
        Ok(Self { key, kept, subject, last: Link::START, last_time: None, lines: 0, own: None })
    }

    /// Takes the next line, without its end.
    pub fn line(&mut self, line: &[u8]) -> Result<(), VerifyError> {
        self.lines += 1;
        self.take(line).map_err(|misfit| VerifyError { line: self.lines, misfit })
    }

    /// There are no more lines.
    pub fn finish(self) -> Result<VerifyReport, VerifyError> {
        self.check_end().map_err(|misfit| {
            let records = self.lines - u64::from(self.own.is_some());
            VerifyError { line: records + 1, misfit }
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
                    return Err(ChainError::NotVouchedFor);
                }
                self.own = Some(checkpoint);
                Ok(())
            }
        }
    }

    /// The first line says which history it is, unless a checkpoint has.
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
            Some(kept) if kept.hash != link.hash => Err(ChainError::NotVouchedFor),
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
    // It was canonical with the hash, and so it is without.
    let unhashed = to_canonical(&Value::Object(members)).ok()?;
    let link = Link { sequence, hash };
    let is_right = Hash::of(&unhashed) == hash;
    Some(Line::Record { link, previous, subject, time, is_right })
}
