//! Authenticates what a replica reads from the database, with a secret outside the database.
//!
//! Each event has an HMAC over its whole row. A party with write access to the database, but
//! without the secret, can therefore invent or change no event. That does not protect the rows that
//! follow from the events: an old row with its event is as authentic as the current one. So `head`
//! contains a hash over the multiset of all rows that decide access.
//!
//! The hash is MSet-Add-Hash by Clarke, Devadas, van Dijk, Gassend and Suh ("Incremental Multiset
//! Hash Functions and Their Application to Memory Integrity Checking", ASIACRYPT 2003). With a
//! pseudorandom function `H` under a key `K`, and a new random nonce `r` for each hash:
//!
//! ```text
//! paper:  H_K(0, r) + Σ H_K(1, row)  mod 2^n,  r
//! here:   HMAC(mask key, epoch, revision, r) + Σ HMAC(row key, row)  mod 2^256,  r
//! ```
//!
//! - The hash is incremental: a change subtracts the old row and adds the new one.
//! - Two keys separate the mask from the rows, as the prefixes 0 and 1 do in the paper. Both derive
//!   from the secret by HMAC. Each row starts with the number of its kind, and each text with its
//!   length, so that different rows have different bytes.
//! - As in the paper, the hash contains no number of rows. Only MSet-XOR-Hash needs the number,
//!   because equal rows cancel each other there. With addition, `d` more copies of a row are hidden
//!   with probability `gcd(d, 2^256) / 2^256`: at most 2^-192, as no table has 2^64 copies.
//! - The mask hides the sum. The difference of two bare sums would be the difference of two rows.
//!   An attacker that has seen one change could then undo that change.
//! - The paper keeps hash and nonce in trusted memory. Here, an attacker can write both. So the
//!   mask also covers epoch and revision: an old hash is valid with its old revision only. A nonce
//!   that repeats at another revision is therefore harmless. A replay of head, rows and events
//!   together is a restore, which running replicas detect by other means.
//! - An attacker can add any number to the stored hash, and so to the sum. To hide a forged row,
//!   the number must be a difference of row hashes. Only the key reveals one.
//!
//! Each event also has an HMAC of its owner, over revision and tenant only. If the row of an event
//! is forged, this HMAC shows whose history contains the event. Otherwise, an attacker could move
//! an event to another tenant, and only that tenant would be denied.
//!
//! All keys are derived from the secret and the name of the log, so that two logs may share a
//! secret.

use std::fmt;

use aws_lc_rs::{hmac, rand};

use crate::domain::{
    chain::{HexError, from_hex, to_hex},
    grant::GrantTerms,
    ids::TenantId,
    lock::LockTerms,
    revision::{Epoch, LogName, Revision, Sequence},
};

mod fields;

use fields::Fields;

/// The length of an HMAC, a sum and a secret, in bytes.
const LENGTH: usize = 32;

/// The secret that authenticates events and rows.
#[derive(Clone, PartialEq, Eq)]
pub struct EventKey([u8; LENGTH]);

/// The cryptographic library could not generate random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system has no random bytes")]
pub struct NotRandom;

/// The keys of one log.
#[derive(Clone)]
pub struct LogKeys {
    log: LogName,
    id: [u8; 8],
    events: hmac::Key,
    owners: hmac::Key,
    rows: hmac::Key,
    masks: hmac::Key,
}

/// All columns of an event, as stored.
#[derive(Debug, Clone, Copy)]
pub struct EventColumns<'a> {
    /// The position in the log.
    pub revision: Revision,
    /// The tenant. Empty: the vendor's own history.
    pub tenant_id: &'a str,
    /// The position in the history.
    pub sequence: Sequence,
    /// The hash of the chain.
    pub hash: &'a [u8],
    /// When the event was committed, in microseconds since 1970.
    pub time: i64,
    /// The caller that made the change.
    pub actor: &'a str,
    /// The service through which the actor called.
    pub via: Option<&'a str>,
    /// 1: that service only named the actor, without proof.
    pub actor_asserted: i64,
    /// The caller's reason.
    pub reason: &'a str,
    /// The kind of change.
    pub kind: &'a str,
    /// The grant that the event is about.
    pub grant_id: Option<&'a str>,
    /// The lock that the event is about.
    pub lock_id: Option<&'a str>,
    /// The change, as JSON.
    pub body: &'a str,
}

/// A row that decides access, with all its columns that do.
#[derive(Debug, Clone, Copy)]
pub enum StateRow<'a> {
    /// A grant that no event has ended.
    LiveGrant(&'a TenantId, &'a GrantTerms),
    /// The latest ended grant of a tenant and group.
    EndedGrant(&'a TenantId, &'a GrantTerms),
    /// A lock that no event has ended.
    Lock(&'a LockTerms),
    /// The last policy event of a tenant, which contains the overrides.
    Policy(&'a str, Sequence, &'a [u8]),
    /// An event with which an operator accepted the clock. All such events decide which ends move.
    AcceptedClock(Revision, &'a [u8]),
}

/// The sum over a multiset of rows, modulo 2^256. Secret: see the module.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StateSum([u64; 4]);

/// A sum as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskedSum {
    /// Chosen at random for each change.
    pub nonce: [u8; 16],
    /// The sum plus the mask.
    pub sum: [u8; LENGTH],
}

// === impl EventKey ===

impl EventKey {
    /// A new secret.
    pub fn generate() -> Result<Self, NotRandom> {
        let mut secret = [0; LENGTH];
        rand::fill(&mut secret).map_err(|_| NotRandom)?;
        Ok(Self(secret))
    }

    /// Reads the text of a key: 64 hexadecimal digits in lower case.
    pub fn from_text(text: &str) -> Result<Self, HexError> {
        from_hex(text.trim()).map(Self)
    }

    /// The text of the key.
    pub fn to_text(&self) -> String {
        to_hex(&self.0)
    }

    /// The keys of a log.
    pub fn of_log(&self, log: LogName) -> LogKeys {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let derive = |purpose: &str| {
            let mut fields = Fields::new();
            fields.text(purpose);
            fields.bytes(log.0.as_bytes());
            hmac::sign(&secret, &fields.0)
        };
        let key = |purpose: &str| hmac::Key::new(hmac::HMAC_SHA256, derive(purpose).as_ref());
        let mut id = [0; 8];
        id.copy_from_slice(&derive("id").as_ref()[..8]);
        let (events, owners) = (key("events"), key("owners"));
        LogKeys { log, id, events, owners, rows: key("rows"), masks: key("masks") }
    }
}

impl fmt::Debug for EventKey {
    /// Hides the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventKey(..)")
    }
}

// === impl LogKeys ===

impl LogKeys {
    /// The log.
    pub fn log(&self) -> LogName {
        self.log
    }

    /// Identifies the key, and reveals nothing about it.
    pub fn id(&self) -> [u8; 8] {
        self.id
    }

    /// The HMAC of an event.
    pub fn mac(&self, event: &EventColumns<'_>) -> [u8; LENGTH] {
        array(hmac::sign(&self.events, &event.encode()))
    }

    /// The HMAC of the owner of an event.
    pub fn owner_mac(&self, event: &EventColumns<'_>) -> [u8; LENGTH] {
        array(hmac::sign(&self.owners, &event.encode_owner()))
    }

    /// Whether a holder of the key wrote the event.
    pub fn is_authentic(&self, event: &EventColumns<'_>, mac: &[u8]) -> bool {
        hmac::verify(&self.events, &event.encode(), mac).is_ok()
    }

    /// Whether a holder of the key wrote an event of this revision for this tenant.
    pub fn is_owner_authentic(&self, event: &EventColumns<'_>, owner_mac: &[u8]) -> bool {
        hmac::verify(&self.owners, &event.encode_owner(), owner_mac).is_ok()
    }

    /// The hash of a row, which is the sum over this row alone.
    pub fn hash(&self, row: StateRow<'_>) -> StateSum {
        StateSum::from_bytes(array(hmac::sign(&self.rows, &row.encode())))
    }

    /// Masks a sum with a new nonce.
    pub fn mask(
        &self,
        sum: StateSum,
        epoch: Epoch,
        revision: Revision,
    ) -> Result<MaskedSum, NotRandom> {
        let mut nonce = [0; 16];
        rand::fill(&mut nonce).map_err(|_| NotRandom)?;
        let sum = sum.plus(self.mask_of(epoch, revision, &nonce)).to_bytes();
        Ok(MaskedSum { nonce, sum })
    }

    /// The sum that was masked. Random if epoch, revision or nonce are not those of the mask.
    pub fn unmask(&self, masked: &MaskedSum, epoch: Epoch, revision: Revision) -> StateSum {
        let mask = self.mask_of(epoch, revision, &masked.nonce);
        StateSum::from_bytes(masked.sum).minus(mask)
    }

    fn mask_of(&self, epoch: Epoch, revision: Revision, nonce: &[u8; 16]) -> StateSum {
        let mut fields = Fields::new();
        fields.bytes(epoch.0.as_bytes());
        fields.number(revision);
        fields.bytes(nonce);
        StateSum::from_bytes(array(hmac::sign(&self.masks, &fields.0)))
    }
}

impl fmt::Debug for LogKeys {
    /// Hides the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogKeys").field(&to_hex(&self.id)).finish()
    }
}

fn array(tag: hmac::Tag) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

// === impl StateSum ===

impl StateSum {
    /// The sum over no rows.
    pub const ZERO: Self = Self([0; 4]);

    /// The sum with the rows of `other`.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let mut carry = false;
        let mut sum = [0; 4];
        for (digit, (a, b)) in sum.iter_mut().zip(self.0.into_iter().zip(other.0)) {
            let (partial, first) = a.overflowing_add(b);
            let (total, second) = partial.overflowing_add(u64::from(carry));
            (*digit, carry) = (total, first || second);
        }
        Self(sum)
    }

    /// The sum without the rows of `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        let complement = Self(other.0.map(|digit| !digit));
        self.plus(complement).plus(Self([1, 0, 0, 0]))
    }

    fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        let mut sum = [0; 4];
        for (digit, chunk) in sum.iter_mut().zip(bytes.chunks_exact(8)) {
            *digit = chunk.iter().rev().fold(0, |digit, byte| digit << 8 | u64::from(*byte));
        }
        Self(sum)
    }

    fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        for (chunk, digit) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&digit.to_le_bytes());
        }
        bytes
    }
}

impl fmt::Debug for StateSum {
    /// Hides the sum.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateSum(..)")
    }
}

// === impl EventColumns, StateRow ===

impl EventColumns<'_> {
    fn encode(&self) -> Vec<u8> {
        let mut fields = Fields::new();
        fields.number(self.revision);
        fields.text(self.tenant_id);
        fields.number(self.sequence);
        fields.bytes(self.hash);
        fields.number(self.time);
        fields.text(self.actor);
        fields.maybe_text(self.via);
        fields.number(self.actor_asserted);
        fields.text(self.reason);
        fields.text(self.kind);
        fields.maybe_text(self.grant_id);
        fields.maybe_text(self.lock_id);
        fields.text(self.body);
        fields.0
    }

    fn encode_owner(&self) -> Vec<u8> {
        let mut fields = Fields::new();
        fields.number(self.revision);
        fields.text(self.tenant_id);
        fields.0
    }
}

impl StateRow<'_> {
    fn encode(&self) -> Vec<u8> {
        let mut fields = Fields::new();
        match self {
            Self::LiveGrant(tenant_id, terms) => fields.grant(1, tenant_id, terms),
            Self::EndedGrant(tenant_id, terms) => fields.grant(2, tenant_id, terms),
            Self::Lock(terms) => {
                fields.number(3);
                fields.bytes(terms.lock_id.0.as_bytes());
                fields.maybe_text(terms.tenant_id.as_ref().map(TenantId::as_str));
                fields.text(terms.target.field());
                fields.text(terms.target.id());
                fields.text(terms.party.as_str());
                fields.maybe_number(terms.expire_time.map(|time| time.timestamp_micros()));
            }
            Self::Policy(tenant_id, sequence, hash) => {
                fields.number(4);
                fields.text(tenant_id);
                fields.number(*sequence);
                fields.bytes(hash);
            }
            Self::AcceptedClock(revision, hash) => {
                fields.number(5);
                fields.number(*revision);
                fields.bytes(hash);
            }
        }
        fields.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn keys() -> LogKeys {
        EventKey([0; LENGTH]).of_log(LogName(Uuid::from_u128(1)))
    }

    fn row(keys: &LogKeys, sequence: i64) -> StateSum {
        keys.hash(StateRow::Policy("acme", sequence, &[1; 32]))
    }

    #[test]
    fn the_sum_depends_on_the_multiset_only() {
        let keys = keys();
        let (a, b) = (row(&keys, 1), row(&keys, 2));
        assert_eq!(a.plus(b), b.plus(a));
        assert_eq!(a.plus(b).minus(a), b);
        assert_eq!(a.minus(a), StateSum::ZERO);
        assert_ne!(a.plus(a), StateSum::ZERO, "equal rows do not cancel each other");
        assert_ne!(a, b);
        let max = StateSum([u64::MAX; 4]);
        assert_eq!(max.plus(StateSum([1, 0, 0, 0])), StateSum::ZERO, "carries");
        assert_eq!(StateSum::from_bytes(a.to_bytes()), a);
    }

    /// Otherwise the difference of two stored sums would be the difference of two rows, and an old
    /// sum would be valid for an old state.
    #[test]
    fn a_sum_is_masked_by_nonce_epoch_and_revision() {
        let keys = keys();
        let (epoch, other) = (Epoch(Uuid::from_u128(2)), Epoch(Uuid::from_u128(3)));
        let sum = row(&keys, 1);
        let masked = keys.mask(sum, epoch, 7).unwrap();
        assert_eq!(keys.unmask(&masked, epoch, 7), sum);
        assert_ne!(keys.unmask(&masked, epoch, 8), sum);
        assert_ne!(keys.unmask(&masked, other, 7), sum);
        let again = keys.mask(sum, epoch, 7).unwrap();
        assert_ne!((again.nonce, again.sum), (masked.nonce, masked.sum), "a new nonce each time");
        let mixed = MaskedSum { nonce: again.nonce, ..masked };
        assert_ne!(keys.unmask(&mixed, epoch, 7), sum);
    }

    #[test]
    fn every_column_of_an_event_is_authenticated() {
        let keys = keys();
        let event = EventColumns {
            revision: 1,
            tenant_id: "acme",
            sequence: 1,
            hash: &[7; 32],
            time: 5,
            actor: "admin",
            via: None,
            actor_asserted: 0,
            reason: "",
            kind: "granted",
            grant_id: Some("g"),
            lock_id: None,
            body: "{}",
        };
        let (mac, owner_mac) = (keys.mac(&event), keys.owner_mac(&event));
        assert!(keys.is_authentic(&event, &mac));
        assert!(keys.is_owner_authentic(&event, &owner_mac));
        let changed = [
            EventColumns { revision: 2, ..event },
            EventColumns { tenant_id: "acm", ..event },
            EventColumns { sequence: 2, ..event },
            EventColumns { hash: &[8; 32], ..event },
            EventColumns { time: 6, ..event },
            EventColumns { actor: "eadmin", ..event },
            EventColumns { via: Some(""), ..event },
            EventColumns { actor_asserted: 1, ..event },
            EventColumns { reason: "granted", kind: "", ..event },
            EventColumns { grant_id: None, ..event },
            EventColumns { lock_id: Some("g"), ..event },
            EventColumns { body: "{ }", ..event },
        ];
        for changed in changed {
            assert!(!keys.is_authentic(&changed, &mac), "{changed:?}");
            let has_owner = changed.revision == 1 && changed.tenant_id == "acme";
            assert_eq!(keys.is_owner_authentic(&changed, &owner_mac), has_owner, "{changed:?}");
        }
        assert!(!keys.is_owner_authentic(&event, &mac), "another key");
        assert!(!keys.is_authentic(&event, &mac[..31]));
        let other = EventKey([0; LENGTH]).of_log(LogName(Uuid::from_u128(9)));
        assert!(!other.is_authentic(&event, &mac), "the key of another log");
    }

    #[test]
    fn a_key_is_read_as_written() {
        let key = EventKey::generate().unwrap();
        assert_eq!(EventKey::from_text(&format!("{}\n", key.to_text())), Ok(key.clone()));
        assert_ne!(key, EventKey::generate().unwrap());
        assert_eq!(EventKey::from_text("0f"), Err(HexError));
    }
}
