//! Consistency tokens: opaque values that identify an event to callers.
//!
//! A token is one AES-128 block of the revision, the event's time and zero bits, encrypted with the
//! key of the epoch. A token alone reveals neither the revision nor the number of events between
//! two tokens. Equal tokens reveal that they identify the same event. Every check node of the epoch
//! can decrypt the token. A forged token passes the zero bits with a probability of 2⁻²⁴.
//!
//! `WaitEnforced` compares the revision and the time with the event in the log. A check node keeps
//! no old events: it rejects a token only if the token contradicts the position of the node. A
//! forged token that passes both can only delay a check, which is then denied.

use std::fmt;

use aws_lc_rs::{
    cipher::{AES_128, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey},
    error::Unspecified,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::domain::{
    revision::{Revision, TokenKey},
    time::Time,
};

/// The length of a token, in characters.
const LENGTH: usize = 22;
/// The bytes of the revision in the block: enough for 10¹⁴ events.
const REVISION_BYTES: usize = 6;
/// The bytes of the time in the block, in microseconds since 1970: until the year 4253.
const TIME_BYTES: usize = 7;
const TIME_MASK: u64 = (1 << (8 * TIME_BYTES)) - 1;

/// A consistency token: 22 characters of base64url.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyToken(String);

/// The event that a token identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenEvent {
    /// The revision. 0: the beginning of the log.
    pub revision: Revision,
    time_us: u64,
}

/// The token is forged, or belongs to another epoch or log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "consistency_token is not one of this log, or is older than a restore of the database; \
     drop the token"
)]
pub struct TokenInvalid;

/// The cryptographic library failed, for example for lack of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a consistency token cannot be encrypted")]
pub struct NotEncrypted;

// === impl TokenEvent ===

impl TokenEvent {
    /// The event of this revision and time. `None`: the beginning of the log.
    pub fn new(revision: Revision, time: Option<Time>) -> Self {
        let micros = time.map_or(0, |time| time.timestamp_micros());
        Self { revision, time_us: micros.cast_unsigned() & TIME_MASK }
    }

    /// Whether no log that contains the event `head` can also contain this event. In a log, times
    /// never decrease.
    pub fn contradicts(self, head: Self) -> bool {
        match self.revision.cmp(&head.revision) {
            std::cmp::Ordering::Less => self.time_us > head.time_us,
            std::cmp::Ordering::Equal => self.time_us != head.time_us,
            std::cmp::Ordering::Greater => self.time_us < head.time_us,
        }
    }
}

// === impl TokenKey ===

impl TokenKey {
    /// The token of an event.
    pub fn encrypt(&self, event: TokenEvent) -> Result<ConsistencyToken, NotEncrypted> {
        let mut block = [0; AES_BLOCK];
        let (revision, rest) = block.split_at_mut(REVISION_BYTES);
        revision.copy_from_slice(&event.revision.to_be_bytes()[8 - REVISION_BYTES..]);
        rest[..TIME_BYTES].copy_from_slice(&event.time_us.to_be_bytes()[8 - TIME_BYTES..]);
        let encrypt = |block: &mut [u8]| -> Result<(), Unspecified> {
            let key = UnboundCipherKey::new(&AES_128, &self.0)?;
            EncryptingKey::ecb(key)?.encrypt(block).map(drop)
        };
        encrypt(&mut block).map_err(|_| NotEncrypted)?;
        Ok(ConsistencyToken(URL_SAFE_NO_PAD.encode(block)))
    }

    /// The event of a token.
    pub fn decrypt(&self, token: &str) -> Result<TokenEvent, TokenInvalid> {
        if token.len() != LENGTH {
            return Err(TokenInvalid);
        }
        let mut block = URL_SAFE_NO_PAD.decode(token).map_err(|_| TokenInvalid)?;
        let decrypt = |block: &mut [u8]| -> Result<(), Unspecified> {
            let key = UnboundCipherKey::new(&AES_128, &self.0)?;
            DecryptingKey::ecb(key)?.decrypt(block, DecryptionContext::None).map(drop)
        };
        decrypt(&mut block).map_err(|_| TokenInvalid)?;
        let (revision, rest) = block.split_at(REVISION_BYTES);
        let (time, zeros) = rest.split_at(TIME_BYTES);
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(TokenInvalid);
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Ok(TokenEvent { revision: number(revision).cast_signed(), time_us: number(time) })
    }
}

/// The length of an AES block, in bytes.
const AES_BLOCK: usize = 16;

// === impl ConsistencyToken ===

impl fmt::Display for ConsistencyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
