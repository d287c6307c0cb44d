//! A checkpoint: how far a chain goes, said at a time, by the service. Kept somewhere else, it proves of a history that is
//! shown later that nothing up to there was changed or cut off.

use serde_json::{Map, Value};

use crate::domain::{
    chain::{
        ChainHead, Hash, Link,
        canonical::to_canonical,
        from_hex,
        key::{CheckpointKey, NotSigned, PublicKey},
        time_text, to_hex,
    },
    ids::TenantId,
    time::Time,
};

/// What a checkpoint says of its format. It is signed with the rest, so that no signature of a checkpoint can ever pass for one
/// of something else.
pub const CHECKPOINT_FORMAT: &str = "support-access.history.checkpoint.v1";

const SIGNATURE: &str = "signature";

/// How far a chain goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The name of its log.
    pub log: String,
    /// Whose history; empty: the vendor's own.
    pub tenant_id: String,
    /// The last link then.
    pub link: Link,
    /// When.
    pub time: String,
    /// Who vouches for it, if anybody does.
    pub signature: Option<Signature>,
}

/// Who vouches for a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// [`PublicKey::id`] of the key.
    pub key_id: String,
    /// Over the canonical text without it.
    pub signature: [u8; 64],
}

/// What a checkpoint proves under a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// It is signed by that key.
    Signed,
    /// It is not signed.
    Unsigned,
    /// It is signed by another, it says.
    OtherKey,
    /// The signature is wrong.
    Wrong,
}

impl Checkpoint {
    /// That a chain goes as far as `head` at `time`, signed if there is a key.
    pub fn new(
        tenant_id: Option<&TenantId>,
        head: ChainHead,
        time: Time,
        key: Option<&CheckpointKey>,
    ) -> Result<Self, NotSigned> {
        let mut checkpoint = Self {
            log: head.log.to_string(),
            tenant_id: tenant_id.map_or_else(String::new, ToString::to_string),
            link: head.link,
            time: time_text(time),
            signature: None,
        };
        if let Some(key) = key {
            let key_id = key.public().id();
            let signature = key.sign(&checkpoint.text(Some(&key_id), None))?;
            checkpoint.signature = Some(Signature { key_id, signature });
        }
        Ok(checkpoint)
    }

    /// It as canonical JSON: one line, without the line's end.
    pub fn line(&self) -> String {
        let signature = self.signature.as_ref();
        let key_id = signature.map(|signature| signature.key_id.as_str());
        self.text(key_id, signature.map(|signature| &signature.signature))
    }

    /// Reads the members of a line.
    pub(super) fn read(members: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| members.get(name)?.as_str();
        let signature = if members.contains_key("key_id") || members.contains_key(SIGNATURE) {
            let key_id = text("key_id")?;
            from_hex::<8>(key_id).ok()?;
            Some(Signature {
                key_id: key_id.to_owned(),
                signature: from_hex(text(SIGNATURE)?).ok()?,
            })
        } else {
            None
        };
        let checkpoint = Self {
            log: text("log")?.to_owned(),
            tenant_id: text("tenant_id")?.to_owned(),
            link: Link {
                sequence: members.get("sequence")?.as_i64().filter(|sequence| *sequence >= 0)?,
                hash: text("hash")?.parse().ok()?,
            },
            time: text("time")?.to_owned(),
            signature,
        };
        let count = 6 + 2 * usize::from(checkpoint.signature.is_some());
        let is_start = checkpoint.link.sequence > 0 || checkpoint.link.hash == Hash::ZERO;
        let is_known = text("format") == Some(CHECKPOINT_FORMAT) && members.len() == count;
        (is_start && is_known).then_some(checkpoint)
    }

    pub(super) fn proof(&self, key: &PublicKey) -> Proof {
        let Some(Signature { key_id, signature }) = &self.signature else {
            return Proof::Unsigned;
        };
        if *key_id != key.id() {
            return Proof::OtherKey;
        }
        let is_signed = key.has_signed(&self.text(Some(key_id), None), signature);
        if is_signed { Proof::Signed } else { Proof::Wrong }
    }

    fn text(&self, key_id: Option<&str>, signature: Option<&[u8; 64]>) -> String {
        let mut members = Map::new();
        let mut add = |name: &str, value: Value| members.insert(name.into(), value);
        add("format", CHECKPOINT_FORMAT.into());
        add("log", self.log.as_str().into());
        add("tenant_id", self.tenant_id.as_str().into());
        add("sequence", self.link.sequence.into());
        add("hash", self.link.hash.to_string().into());
        add("time", self.time.as_str().into());
        if let Some(key_id) = key_id {
            add("key_id", key_id.into());
        }
        if let Some(signature) = signature {
            add(SIGNATURE, to_hex(signature).into());
        }
        // Only a number can fail to be canonical, and a sequence is a count of events.
        to_canonical(&Value::Object(members)).unwrap_or_default()
    }
}
