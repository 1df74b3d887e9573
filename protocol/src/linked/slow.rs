//! The slow hash of an identity in another system: where its listing lies in the directory, what seals it, and how a certificate hints at it.
//!
//! Whoever knows the identity computes all three; whoever doesn't pays [Argon2id](https://www.rfc-editor.org/rfc/rfc9106) for each guess. The salt is the same for everybody, since both sides
//! have to come to the same place: a table of guesses serves for all users, and costs its full price once.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use bincode::{Decode, Encode};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::id::LinkedId;
use crate::directory::RecordKey;
use crate::wire;

/// Memory of the hash, in KiB: 64 MiB, which a phone has and a chip with thousands of cores hasn't for each of them.
pub const SLOW_MEMORY_KIB: u32 = 64 * 1_024;

/// Passes over that memory: with it, about half a second on one core of 2020s hardware.
pub const SLOW_PASSES: u32 = 10;

/// One lane: a listing is looked up on one core, and a guesser has one identity for each of theirs anyway.
const SLOW_LANES: u32 = 1;

/// The salt: of this version of the protocol, and nobody's own.
const SLOW_SALT: &[u8; 32] = b"halloo slow hash of linked id v1";

/// A certificate's hint at an identity in another system that its authority has seen proved: 16 bytes that follow from the slow hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Indicator(pub [u8; 16]);

impl fmt::Debug for Indicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Indicator({})", data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

/// The hash couldn't be computed: there isn't the memory for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the slow hash of an address can't be computed: {0}")]
pub struct SlowHashError(String);

/// What follows from the slow hash of an identity in another system.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct SlowId {
    /// Where its listing lies in the directory.
    pub place: RecordKey,
    /// What hints at it in a certificate. Says nothing of the place, nor the place of it.
    pub indicator: Indicator,
    key: [u8; 32],
}

impl Drop for SlowId {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for SlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlowId({:?}, ..)", self.place)
    }
}

impl SlowId {
    /// Computes it: [`SLOW_PASSES`] passes over [`SLOW_MEMORY_KIB`] of memory, which is not for a thread that others wait for.
    ///
    /// # Errors
    /// [`SlowHashError`].
    pub fn of(linked: &LinkedId) -> Result<Self, SlowHashError> {
        let refuse = |error: argon2::Error| SlowHashError(error.to_string());
        let params = Params::new(SLOW_MEMORY_KIB, SLOW_PASSES, SLOW_LANES, Some(32)).map_err(refuse)?;
        let mut root = Zeroizing::new([0; 32]);
        let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        hash.hash_password_into(&wire::encode(linked), SLOW_SALT, root.as_mut_slice()).map_err(refuse)?;
        Self::of_root(&root).ok_or_else(|| SlowHashError("its result can't be expanded".to_owned()))
    }

    fn of_root(root: &[u8; 32]) -> Option<Self> {
        let expand = Hkdf::<Sha256>::new(None, root);
        let (mut place, mut key, mut indicator) = ([0; 32], [0; 32], [0; 16]);
        expand.expand(b"halloo listing place", &mut place).ok()?;
        expand.expand(b"halloo listing key", &mut key).ok()?;
        expand.expand(b"halloo listing indicator", &mut indicator).ok()?;
        Some(Self { place: RecordKey(place), indicator: Indicator(indicator), key })
    }

    /// One that is quick to make, and nobody's.
    #[cfg(test)]
    pub(crate) fn for_tests(seed: u8) -> Self {
        Self::of_root(&[seed; 32]).expect("short outputs")
    }

    /// What seals listings at the place.
    pub(super) const fn key(&self) -> &[u8; 32] {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_one_place_however_it_is_written() {
        let of = |text: &str| SlowId::of(&text.parse().expect("an address")).expect("computed");
        let bob = of("mailto:Bob@There.Example");
        assert_eq!(bob, of("mailto:bob@there.example"));
        let place = data_encoding::HEXLOWER.encode(&bob.place.0);
        // Others have to come to the same: a change of this is another version of the protocol.
        assert_eq!(place, "0cff61fad9319ac8c029a36c0f04617631e77fd5a046f151c8db10e5d89c88c7");
        assert_ne!(bob.key, bob.place.0);
        assert_ne!(bob.indicator.0, bob.place.0[..16]);
        let other = of("xmpp:bob@there.example");
        assert!(other.place != bob.place && other.key != bob.key && other.indicator != bob.indicator);
    }
}
