//! Who a client is: long-term credentials (RFC 8489 section 9.2).
//!
//! - [`nonce`]: the server's challenge, made and checked without remembering any.
//! - [`credentials`]: static users and time-limited ones made with a shared secret.
//!
//! Embedders bring their own [`Authenticator`].

pub mod credentials;
pub(crate) mod nonce;

use std::fmt;

use md5::Md5;
use sha2::{Digest, Sha256};

pub use credentials::{Credentials, Users};

use crate::quota::ServiceClass;
use crate::time::UnixTime;

/// Hash a password's key is made with (RFC 8489 section 18.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PasswordAlgorithm {
    /// The one clients before RFC 8489 know.
    Md5,
    /// The one of RFC 8489.
    Sha256,
}

impl PasswordAlgorithm {
    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 2,
        }
    }

    /// The algorithm of that number.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Md5),
            2 => Some(Self::Sha256),
            _ => None,
        }
    }
}

/// Key for message integrity, made of user name, realm and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    algorithm: PasswordAlgorithm,
    bytes: [u8; 32],
}

impl Key {
    /// Hash of `username:realm:password` (RFC 8489 section 9.2.2). The password must have been prepared (RFC 8265) by the caller
    /// if it isn't ASCII.
    #[must_use]
    pub fn new(algorithm: PasswordAlgorithm, username: &str, realm: &str, password: &str) -> Self {
        let parts: [&[u8]; 5] = [username.as_bytes(), b":", realm.as_bytes(), b":", password.as_bytes()];
        let mut bytes = [0; 32];
        match algorithm {
            PasswordAlgorithm::Md5 => bytes[..16].copy_from_slice(&digest::<Md5>(&parts)),
            PasswordAlgorithm::Sha256 => bytes.copy_from_slice(&digest::<Sha256>(&parts)),
        }
        Self { algorithm, bytes }
    }

    /// The algorithm it was made with.
    #[must_use]
    pub fn algorithm(&self) -> PasswordAlgorithm {
        self.algorithm
    }

    /// The key: 16 bytes for MD5, 32 for SHA-256.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self.algorithm {
            PasswordAlgorithm::Md5 => &self.bytes[..16],
            PasswordAlgorithm::Sha256 => &self.bytes,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

fn digest<D: Digest>(parts: &[&[u8]]) -> sha2::digest::Output<D> {
    let mut hash = D::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize()
}

/// How a request says who it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity<'a> {
    /// USERNAME.
    Name(&'a str),
    /// USERHASH: SHA-256 of `username:realm` (RFC 8489 section 14.4).
    Hash(&'a [u8; 32]),
}

/// A user that may use the relay.
#[derive(Debug, Clone)]
pub struct Grant {
    /// What goes for USERNAME in the relay's checks: later requests of an allocation must come with the same.
    pub username: Box<str>,
    /// Who pays: the name quotas and usage are counted under.
    pub account: Box<str>,
    /// Key to check the request with, and to sign the response.
    pub key: Key,
    /// When it gets tight.
    pub class: ServiceClass,
}

/// Why nobody is known by that identity. On the wire all of these look the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthRefusal {
    /// No such user.
    Unknown,
    /// A time-limited credential that has run out. Existing allocations aren't affected.
    Expired,
    /// The request isn't signed with the user's key.
    WrongPassword,
}

/// Knows users and their keys. Asked for every request that makes an allocation; those on an existing one are checked with
/// the key that made it.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// The user with this identity, if the request is signed with its key, which `is_signed` tells: several keys may be tried, as while a
    /// secret is being replaced. `unix_now` is wall-clock time. Must not block.
    ///
    /// # Errors
    /// [`AuthRefusal`] if there is none, or no longer, or the key is another one.
    fn grant(
        &self,
        identity: Identity<'_>,
        realm: &str,
        algorithm: PasswordAlgorithm,
        unix_now: UnixTime,
        is_signed: &dyn Fn(&Key) -> bool,
    ) -> Result<Grant, AuthRefusal>;

    /// Whether [`Identity::Hash`] can be answered: clients are told and may then hide the user name.
    fn knows_hashes(&self) -> bool {
        false
    }
}
