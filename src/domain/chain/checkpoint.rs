//! A checkpoint: the end of a chain at a time, as stated by the service. A checkpoint that is kept
//! elsewhere proves that a later export has the same records up to that end.

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

/// The format of a checkpoint. Part of the signed text, so that the signature is valid for no other
/// kind of object.
pub const CHECKPOINT_FORMAT: &str = "support-access.history.checkpoint.v1";

const SIGNATURE: &str = "signature";

/// The end of a chain at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The name of the log.
    pub log: String,
    /// The tenant. Empty: the vendor's own history.
    pub tenant_id: String,
    /// The last link at that time.
    pub link: Link,
    /// The time, as in records.
    pub time: String,
    /// The signature of the service, if the service has a key.
    pub signature: Option<Signature>,
}

/// The signature of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// [`PublicKey::id`] of the key.
    pub key_id: String,
    /// The signature of the canonical text without this member.
    pub signature: [u8; 64],
}

/// The result of the verification of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// The given key signed the checkpoint.
    Signed,
    /// The checkpoint has no signature.
    Unsigned,
    /// The checkpoint names another key.
    OtherKey,
    /// The signature is wrong.
    Wrong,
}

impl Checkpoint {
    /// The checkpoint of a chain that ends at `head`, signed if a key is given.
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

    /// The checkpoint as one line of canonical JSON, without the line break.
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
        // An empty history has the hash zero.
        let is_consistent = checkpoint.link.sequence > 0 || checkpoint.link.hash == Hash::ZERO;
        let is_known = text("format") == Some(CHECKPOINT_FORMAT) && members.len() == count;
        (is_consistent && is_known).then_some(checkpoint)
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
        // Only a number can have no canonical form, and every sequence has one.
        to_canonical(&Value::Object(members)).unwrap_or_default()
    }
}
