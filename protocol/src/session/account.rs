//! A device's own keys for sessions.

use std::fmt;

use bincode::{Decode, Encode};
use vodozemac::Curve25519PublicKey;
use vodozemac::olm;
use zeroize::Zeroizing;

use super::keys::OneTimeKey;
use crate::key::{DeviceKey, SecretKey};
use crate::time::UnixTime;
use crate::wire::{self, DecodeError, Extensions, Signed};

/// How often the fallback key changes; the former one opens for as long again, and is then destroyed.
pub const FALLBACK_KEY_SECS: u64 = 7 * 86_400;

/// How long a one-time key that was handed out is kept: as long as a letter waits in a mailbox.
pub const ONE_TIME_KEY_SECS: u64 = crate::mailbox::LETTER_SECS_MAX;

/// One-time keys handed out and not used yet, at most; the oldest are destroyed for new ones.
pub const ONE_TIME_KEYS_KEPT_MAX: usize = 200;

/// Largest stored account.
const ACCOUNT_BYTES_MAX: usize = 60 * 1_024;

/// What others need to start a session with a device; stands in its directory entry, signed with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct PreKeys {
    /// The device's X25519 identity key for sessions.
    pub identity: [u8; 32],
    /// The X25519 key for first messages where no one-time key is to be had. Changes weekly.
    pub fallback: [u8; 32],
}

/// A device's keys for sessions. Secrets are wiped when dropped and never printed.
///
/// What changes it must be stored before what came of it leaves: a one-time key that is handed out, a fallback key that is published.
pub struct Account {
    pub(super) olm: olm::Account,
    keys: PreKeys,
    since: UnixTime,
    former_until: Option<UnixTime>,
    issued: Vec<([u8; 32], UnixTime)>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("keys", &self.keys).field("issued", &self.issued.len()).finish_non_exhaustive()
    }
}

#[derive(Encode, Decode)]
struct Stored {
    pickle: Vec<u8>,
    fallback: [u8; 32],
    since: UnixTime,
    former_until: Option<UnixTime>,
    issued: Vec<([u8; 32], UnixTime)>,
}

impl Account {
    /// New keys.
    #[must_use]
    pub fn new(now: UnixTime) -> Self {
        let olm = olm::Account::new();
        let identity = olm.curve25519_key().to_bytes();
        let keys = PreKeys { identity, fallback: [0; 32] };
        let mut account = Self { olm, keys, since: now, former_until: None, issued: Vec::new() };
        account.make_fallback();
        account
    }

    fn make_fallback(&mut self) {
        self.olm.generate_fallback_key();
        if let Some(key) = self.olm.fallback_key().values().next() {
            self.keys.fallback = key.to_bytes();
        }
        self.olm.mark_keys_as_published();
    }

    /// The keys to publish.
    #[must_use]
    pub const fn keys(&self) -> PreKeys {
        self.keys
    }

    /// When the former fallback key is destroyed, if there is one.
    #[must_use]
    pub const fn former_until(&self) -> Option<UnixTime> {
        self.former_until
    }

    /// How many one-time keys were handed out and not used yet.
    #[must_use]
    pub const fn issued_count(&self) -> usize {
        self.issued.len()
    }

    /// Changes the fallback key if it is due, destroys the former one and old one-time keys once their time is over. True if the account
    /// changed; the keys to publish may be others then.
    pub fn maintain(&mut self, now: UnixTime) -> bool {
        let mut has_changed = false;
        if self.former_until.is_some_and(|until| now > until) {
            self.olm.forget_fallback_key();
            self.former_until = None;
            has_changed = true;
        }
        if now.secs_since(self.since) >= FALLBACK_KEY_SECS {
            self.make_fallback();
            self.former_until = Some(now.plus_secs(FALLBACK_KEY_SECS));
            self.since = now;
            has_changed = true;
        }
        let before = self.issued.len();
        let old = |at: &UnixTime| now.secs_since(*at) > ONE_TIME_KEY_SECS;
        for (key, _) in self.issued.extract_if(.., |(_, at)| old(at)) {
            self.olm.remove_one_time_key(Curve25519PublicKey::from_bytes(key));
        }
        has_changed || before != self.issued.len()
    }

    /// Makes `count` one-time keys (at most [`ONE_TIME_KEYS_KEPT_MAX`]), signed by the device.
    pub fn issue(&mut self, count: usize, device: &SecretKey, now: UnixTime) -> Vec<Signed<OneTimeKey>> {
        let count = count.min(ONE_TIME_KEYS_KEPT_MAX);
        let excess = (self.issued.len() + count).saturating_sub(ONE_TIME_KEYS_KEPT_MAX);
        for (key, _) in self.issued.drain(..excess) {
            self.olm.remove_one_time_key(Curve25519PublicKey::from_bytes(key));
        }
        let made = self.olm.generate_one_time_keys(count).created;
        self.olm.mark_keys_as_published();
        let signer = DeviceKey(device.public());
        let sign = |key: Curve25519PublicKey| {
            let key = key.to_bytes();
            self.issued.push((key, now));
            Signed::sign(OneTimeKey { device: signer, key, issued_at: now, extensions: Extensions::none() }, device)
        };
        made.into_iter().map(sign).collect()
    }

    /// A one-time key has started a session: there is no secret of it any more.
    pub(super) fn used(&mut self, key: &[u8; 32]) {
        self.issued.retain(|(issued, _)| issued != key);
    }

    /// True if the key is one of the fallback keys, which start any number of sessions.
    pub(super) fn is_one_time(&self, key: &[u8; 32]) -> bool {
        self.issued.iter().any(|(issued, _)| issued == key)
    }

    /// All of it, secrets included, for storage.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let stored = Stored {
            pickle: serde_json::to_vec(&self.olm.pickle()).unwrap_or_default(),
            fallback: self.keys.fallback,
            since: self.since,
            former_until: self.former_until,
            issued: self.issued.clone(),
        };
        Zeroizing::new(wire::encode(&stored))
    }

    /// An account from [`Account::to_bytes`].
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let stored: Stored = wire::decode(bytes, ACCOUNT_BYTES_MAX)?;
        let pickle = Zeroizing::new(stored.pickle);
        let pickle: olm::AccountPickle =
            serde_json::from_slice(&pickle).map_err(|error| DecodeError::invalid("account", error.to_string()))?;
        let olm = olm::Account::from_pickle(pickle);
        let keys = PreKeys { identity: olm.curve25519_key().to_bytes(), fallback: stored.fallback };
        Ok(Self { olm, keys, since: stored.since, former_until: stored.former_until, issued: stored.issued })
    }
}
