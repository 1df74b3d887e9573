//! Ed25519 keys by role, and signatures that mean one thing only.
//!
//! All keys are Ed25519, but a device key in the place of an identity key is always a mistake, so each role has its own type.
//! Signatures are verified strictly (RFC 8032 with the checks that keep small-order keys and malleable signatures out), so that all
//! nodes agree on what is valid.

mod memo;

pub use memo::remember_verified;

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What every textual key starts with.
const TEXT_PREFIX: &str = "ed25519:";

/// A signature didn't verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signature by {0} doesn't verify")]
pub struct SignatureError(pub PublicKey);

/// A textual key wasn't one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a key: expected `ed25519:` and 43 characters of base64url, got {0:?}")]
pub struct ParseKeyError(pub String);

/// SHA-256 under a domain tag: `SHA-256(len(domain) || domain || len(part) || part ...)`, lengths as 8 bytes big endian.
#[must_use]
pub fn hash(domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update((domain.len() as u64).to_be_bytes());
    hasher.update(domain.as_bytes());
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// An Ed25519 public key, 32 bytes. Not known to be a valid point until something verifies with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Verifies `signature` over `message`, strictly.
    ///
    /// # Errors
    /// [`SignatureError`] if the key isn't a point of large order or the signature isn't this key's over `message`.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        if memo::is_known(self, message, signature) {
            return Ok(());
        }
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| SignatureError(*self))?;
        let raw = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify_strict(message, &raw).map_err(|_| SignatureError(*self))?;
        memo::note(self, message, signature);
        Ok(())
    }

    /// First characters, for logs.
    #[must_use]
    pub fn short(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0[..6])
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TEXT_PREFIX}{}", BASE64URL_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseKeyError(text.chars().take(64).collect());
        let encoded = text.strip_prefix(TEXT_PREFIX).ok_or_else(refuse)?;
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| refuse())?;
        Ok(Self(bytes.try_into().map_err(|_| refuse())?))
    }
}

/// An Ed25519 signature, 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({}..)", BASE64URL_NOPAD.encode(&self.0[..6]))
    }
}

/// An Ed25519 secret key. Wiped from memory when dropped; never printed.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key whose seed is `seed` (RFC 8032, 32 random bytes).
    #[must_use]
    pub fn from_bytes(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        Self(SigningKey::from_bytes(&seed))
    }

    /// The seed, for storage.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`. Callers sign objects through [`crate::wire::Signed::sign`], which separates domains.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

macro_rules! key_role {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub PublicKey);

        impl $name {
            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseKeyError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

key_role!(
    /// Root key of an authority: *is* the authority. May stay offline.
    AuthorityKey
);
key_role!(
    /// A user's identity key. Contacts pin it.
    IdentityKey
);
key_role!(
    /// A device's key: its libp2p key pair; the peer id is made from it.
    DeviceKey
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_as_text() {
        let key = SecretKey::from_bytes([1; 32]).public();
        let text = key.to_string();
        assert!(text.starts_with("ed25519:"));
        assert_eq!(text.parse(), Ok(key));
        for bad in ["", "ed25519:", "rsa:AAAA", "ed25519:AAAA", "ed25519:!!!!", &text[..text.len() - 1]] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad} must be refused");
        }
    }

    #[test]
    fn small_order_keys_verify_nothing() {
        // The identity point as public key would accept a constant signature under cofactored rules.
        let mut point = [0; 32];
        point[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(PublicKey(point).verify(b"anything", &Signature(signature)).is_err());
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", SecretKey::from_bytes([1; 32])), "SecretKey(..)");
    }

    #[test]
    fn hash_separates_parts_and_domains() {
        assert_ne!(hash("a", &[b"bc", b"d"]), hash("a", &[b"b", b"cd"]));
        assert_ne!(hash("a", &[b"b"]), hash("ab", &[b""]));
    }
}
