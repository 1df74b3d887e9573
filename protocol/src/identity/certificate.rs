//! The statements a chain is made of.

use bincode::{Decode, Encode};

use super::username::Username;
use crate::key::{AuthorityKey, DeviceKey, IdentityKey, PublicKey, SecretKey, Signature, SignatureError, hash};
use crate::linked::Indicator;
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions};

/// How long a user certificate is valid: long enough that an authority may be down for two months unnoticed.
pub const USER_CERTIFICATE_SECS: u64 = 90 * 86_400;

/// Age from which a device asks its authority for a new user certificate.
pub const USER_RENEWAL_AFTER_SECS: u64 = 30 * 86_400;

/// Longest validity of a device certificate. A tombstone has to be kept as long, so it is bounded.
pub const DEVICE_CERTIFICATE_SECS_MAX: u64 = 366 * 86_400;

/// Directory places one user certificate gives: slots 0 to 3.
pub const SLOTS: u8 = 4;

/// Tag of a user certificate's extension with [`Indicator`]s: the user has asked for it.
pub const INDICATORS_EXTENSION: u16 = 0x0001;

/// Most indicators in a user certificate. Certificates travel in many frames: more would crowd what those are for.
pub const INDICATORS_MAX: usize = 4;

/// Most linked identities in a user certificate.
const LINKED_IDS_MAX: usize = 8;

/// Longest name of a linked system or of an id in it, in bytes.
const LINKED_ID_BYTES_MAX: usize = 256;

/// An authority's root key says that `key` signs for it. Signed by the root key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SigningCertificate {
    /// The signing key.
    pub key: PublicKey,
    /// Number of this certificate, unique under the root; how a revocation names it.
    pub serial: u64,
    /// Valid from.
    pub not_before: UnixTime,
    /// Valid until, inclusive.
    pub not_after: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for SigningCertificate {
    const KIND: u16 = 0x0101;
    const LIMIT: usize = 512;

    fn check(&self) -> Result<(), DecodeError> {
        check_validity(self.not_before, self.not_after, u64::MAX)
    }
}

/// An identity in another system that the authority has checked (an indicator, not a proof by itself).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkedIndicator {
    /// Which system: `xmpp`, `mailto`, an issuer's URL.
    pub system: String,
    /// The id there.
    pub id: String,
}

/// An authority says that `name` is the user whose identity key is `identity`. Signed by a signing key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UserCertificate {
    /// The name.
    pub name: Username,
    /// The user's identity key.
    pub identity: IdentityKey,
    /// 32 bytes the authority drew at random: decide where the user's nodes stand in the directory, so that nobody chooses a place.
    pub placement: [u8; 32],
    /// Number of this certificate, unique and growing under the authority: the higher one is newer.
    pub serial: u64,
    /// Valid from.
    pub not_before: UnixTime,
    /// Valid until, inclusive; at most [`USER_CERTIFICATE_SECS`] after `not_before`.
    pub not_after: UnixTime,
    /// Identities elsewhere.
    pub linked: Vec<LinkedIndicator>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for UserCertificate {
    const KIND: u16 = 0x0102;
    const LIMIT: usize = 2_048;

    fn check(&self) -> Result<(), DecodeError> {
        if self.linked.len() > LINKED_IDS_MAX {
            return Err(DecodeError::invalid("linked", format!("{} ids, at most {LINKED_IDS_MAX}", self.linked.len())));
        }
        if self.linked.iter().any(|link| link.system.len() > LINKED_ID_BYTES_MAX || link.id.len() > LINKED_ID_BYTES_MAX) {
            return Err(DecodeError::invalid("linked", format!("an id longer than {LINKED_ID_BYTES_MAX} bytes")));
        }
        check_validity(self.not_before, self.not_after, USER_CERTIFICATE_SECS)
    }
}

impl UserCertificate {
    /// Hints at identities in other systems that the authority has seen proved; none if there are more than [`INDICATORS_MAX`], or they can't be read.
    #[must_use]
    pub fn indicators(&self) -> Vec<Indicator> {
        let read = |bytes: &[u8]| wire::decode::<Vec<Indicator>>(bytes, 16 * INDICATORS_MAX + 1).ok();
        let found = self.extensions.find(INDICATORS_EXTENSION).and_then(read);
        found.filter(|indicators| indicators.len() <= INDICATORS_MAX).unwrap_or_default()
    }

    /// A certificate's extensions with these among them; no more than [`INDICATORS_MAX`] are taken.
    #[must_use]
    pub fn with_indicators(extensions: Extensions, indicators: &[Indicator]) -> Extensions {
        let indicators: Vec<Indicator> = indicators.iter().copied().take(INDICATORS_MAX).collect();
        if indicators.is_empty() { extensions } else { extensions.with(INDICATORS_EXTENSION, wire::encode(&indicators)) }
    }
}

/// A user says that `device` is theirs. Signed by the identity key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceCertificate {
    /// The device's key.
    pub device: DeviceKey,
    /// Which of the user's places in the directory this device takes, below [`SLOTS`].
    pub slot: u8,
    /// Number of this certificate, growing per user.
    pub serial: u64,
    /// Valid from.
    pub not_before: UnixTime,
    /// Valid until, inclusive; at most [`DEVICE_CERTIFICATE_SECS_MAX`] after `not_before`.
    pub not_after: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for DeviceCertificate {
    const KIND: u16 = 0x0103;
    const LIMIT: usize = 512;

    fn check(&self) -> Result<(), DecodeError> {
        if self.slot >= SLOTS {
            return Err(DecodeError::invalid("slot", format!("{} where slots end at {}", self.slot, SLOTS - 1)));
        }
        check_validity(self.not_before, self.not_after, DEVICE_CERTIFICATE_SECS_MAX)
    }
}

/// What [`DeviceCertificate::new`] needs.
#[derive(Clone, Copy, Debug)]
pub struct DeviceCertificateParams {
    /// The device.
    pub device: DeviceKey,
    /// Its slot.
    pub slot: u8,
    /// Its number.
    pub serial: u64,
    /// Now.
    pub now: UnixTime,
}

impl DeviceCertificate {
    /// A certificate of the longest validity, starting an hour ago so that a peer whose clock is behind accepts it.
    #[must_use]
    pub fn new(params: DeviceCertificateParams) -> Self {
        let not_before = params.now.minus_secs(3_600);
        Self {
            device: params.device,
            slot: params.slot,
            serial: params.serial,
            not_before,
            not_after: not_before.plus_secs(DEVICE_CERTIFICATE_SECS_MAX),
            extensions: Extensions::none(),
        }
    }
}

/// A user says that `device` is theirs no longer. Signed by the identity key; kept in the directory record until `until`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Tombstone {
    /// The removed device.
    pub device: DeviceKey,
    /// When it was removed.
    pub removed_at: UnixTime,
    /// When the device's certificate ends, and with it the need for this statement.
    pub until: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for Tombstone {
    const KIND: u16 = 0x0104;
    const LIMIT: usize = 256;

    fn check(&self) -> Result<(), DecodeError> {
        check_validity(self.removed_at, self.until, DEVICE_CERTIFICATE_SECS_MAX)
    }
}

/// The holder of `old` says that `new` is the same person's identity key from now on. Signed by `old`, and accepted by `new`.
///
/// Without the acceptance anybody could name somebody else as their successor and crowd the true ones out of a record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeySuccession {
    /// Under which authority.
    pub authority: AuthorityKey,
    /// Whose.
    pub name: Username,
    /// The key so far, which signs this.
    pub old: IdentityKey,
    /// The key from now on.
    pub new: IdentityKey,
    /// When.
    pub at: UnixTime,
    /// The new key's signature over the fields above; [`KeySuccession::new`] makes it.
    pub accepted: Signature,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for KeySuccession {
    const KIND: u16 = 0x0105;
    const LIMIT: usize = 768;
}

/// What [`KeySuccession::new`] needs.
#[derive(Clone, Debug)]
pub struct KeySuccessionParams {
    /// Under which authority.
    pub authority: AuthorityKey,
    /// Whose.
    pub name: Username,
    /// The key so far.
    pub old: IdentityKey,
    /// When.
    pub at: UnixTime,
}

impl KeySuccession {
    /// A succession that `new` accepts; the old key still has to sign it.
    #[must_use]
    pub fn new(params: KeySuccessionParams, new: &SecretKey) -> Self {
        let mut succession = Self {
            authority: params.authority,
            name: params.name,
            old: params.old,
            new: IdentityKey(new.public()),
            at: params.at,
            accepted: Signature([0; 64]),
            extensions: Extensions::none(),
        };
        succession.accepted = new.sign(&succession.accepted_bytes());
        succession
    }

    /// Checks that the new key accepts the succession.
    ///
    /// # Errors
    /// [`SignatureError`] if it didn't sign these fields.
    pub fn verify_accepted(&self) -> Result<(), SignatureError> {
        self.new.0.verify(&self.accepted_bytes(), &self.accepted)
    }

    fn accepted_bytes(&self) -> Vec<u8> {
        let name = self.name.as_str().as_bytes();
        let at = self.at.0.to_be_bytes();
        let parts = [self.authority.as_bytes(), name, self.old.as_bytes(), self.new.as_bytes(), at.as_slice()];
        let mut bytes = b"halloo key succession\0".to_vec();
        bytes.extend_from_slice(&hash("halloo key succession", &parts));
        bytes
    }
}

fn check_validity(from: UnixTime, until: UnixTime, secs_max: u64) -> Result<(), DecodeError> {
    if until < from {
        return Err(DecodeError::invalid("validity", "ends before it starts"));
    }
    if until.secs_since(from) > secs_max {
        return Err(DecodeError::invalid("validity", format!("{} s long, at most {secs_max}", until.secs_since(from))));
    }
    Ok(())
}
