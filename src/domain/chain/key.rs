//! Ed25519 keys (RFC 8032) for checkpoints, in the encodings that OpenSSL writes. The caller reads
//! the PEM files.

use std::{fmt, sync::Arc};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use crate::domain::chain::to_hex;

/// The bytes before the key in a `SubjectPublicKeyInfo` of Ed25519 (RFC 8410). No other encoding
/// exists.
const PUBLIC_KEY_HEAD: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why a key cannot be used. The text follows the name of the file in an error, and contains
/// nothing of the file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a private key.
    #[error(
        "must hold an Ed25519 key in PKCS#8 PEM without a password, as \
         `openssl genpkey -algorithm ed25519` writes it"
    )]
    NotPrivate,
    /// Not a public key.
    #[error("must hold an Ed25519 public key in PEM, as `openssl pkey -pubout` writes it")]
    NotPublic,
}

/// The key that checkpoints are signed with.
#[derive(Clone)]
pub struct CheckpointKey {
    pair: Arc<Ed25519KeyPair>,
    public: PublicKey,
}

/// The key that checkpoints are verified with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// The cryptographic library could not sign, for example for lack of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the checkpoint cannot be signed")]
pub struct NotSigned;

// === impl CheckpointKey ===

impl CheckpointKey {
    /// Decodes a private key: PKCS#8 in DER.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| KeyError::NotPrivate)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::NotPrivate)?;
        Ok(Self { pair: Arc::new(pair), public: PublicKey(public) })
    }

    /// The public key of the pair.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub(super) fn sign(&self, text: &str) -> Result<[u8; 64], NotSigned> {
        let signature = self.pair.try_sign(text.as_bytes()).map_err(|_| NotSigned)?;
        signature.as_ref().try_into().map_err(|_| NotSigned)
    }
}

/// Shows only the id of the public key.
impl fmt::Debug for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CheckpointKey").field(&self.public.id()).finish()
    }
}

impl PartialEq for CheckpointKey {
    fn eq(&self, other: &Self) -> bool {
        self.public == other.public
    }
}

impl Eq for CheckpointKey {}

// === impl PublicKey ===

impl PublicKey {
    /// Decodes a public key: `SubjectPublicKeyInfo` in DER.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let key = der.strip_prefix(&PUBLIC_KEY_HEAD).ok_or(KeyError::NotPublic)?;
        key.try_into().map(Self).map_err(|_| KeyError::NotPublic)
    }

    /// The name of the key in checkpoints: the first 8 bytes of the SHA-256 of its 32 bytes, in
    /// hex.
    pub fn id(&self) -> String {
        let digest: [u8; 32] = Sha256::digest(self.0).into();
        to_hex(&digest[..8])
    }

    pub(super) fn has_signed(&self, text: &str, signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(text.as_bytes(), signature).is_ok()
    }
}
