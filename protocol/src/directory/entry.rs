//! One device's entry: what anybody may read, and the sealed rest.

use bincode::{Decode, Encode};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::capability::Capability;
use crate::identity::UserId;
use crate::key::{DeviceKey, hash};
use crate::node::Address;
use crate::session::PreKeys;
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions, Signed};

/// Longest validity of an entry: a phone in a drawer stays findable for a month.
pub const ENTRY_SECS_MAX: u64 = 30 * 86_400;

/// Longest lease a device signs for itself.
pub const DEVICE_LEASE_SECS_MAX: u64 = 3_600;

/// Longest lease a keeper signs for a device. What it vouches for, that the device is registered with it, changes rarely, and each
/// renewal costs every replica some hundred bytes. Who finds the keeper gone asks the device's other one.
pub const KEEPER_LEASE_SECS_MAX: u64 = 3 * 86_400;

/// When a keeper renews its lease after it was signed. A renewal that fails is tried again within an hour or two, so a day is enough.
pub const KEEPER_RENEW_AFTER_SECS: u64 = 2 * 86_400;

/// Most open addresses of a device.
const ADDRESSES_MAX: usize = 8;

/// Most relays, mailboxes and keepers each that an entry names.
const HELPERS_MAX: usize = 3;

/// Most addresses of one helper: enough to reach it, small enough for every record.
const HELPER_ADDRESSES_MAX: usize = 2;

/// Largest sealed part, in bytes.
const SEALED_BYTES_MAX: usize = 768;

/// What sealing adds.
const SEAL_TAG_BYTES: usize = 16;

/// Longest device name, in bytes.
pub const DEVICE_NAME_BYTES_MAX: usize = 64;

/// Longest opaque push handle and longest capability, in bytes.
const PUSH_HANDLE_BYTES_MAX: usize = 64;

/// Extension of the private part: an encoded capability for the hand-over of invites.
const HAND_OVER_EXTENSION: u16 = 0x0001;

/// What a device can be reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reachability {
    /// Nothing.
    None,
    /// A push gateway only.
    Push,
    /// A relay.
    Relayed,
    /// A direct connection.
    Direct,
}

/// What kind of machine a device is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// Telephone.
    Phone,
    /// Tablet.
    Tablet,
    /// Portable computer.
    Laptop,
    /// Desktop computer.
    #[default]
    Desktop,
    /// Machine without a person in front of it.
    Server,
}

/// Another node that helps a device: its relay, mailbox or keeper.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Helper {
    /// The helper's device key.
    pub device: DeviceKey,
    /// Where it listens, at most 2; may be empty if the directory's tables know.
    pub addresses: Vec<Address>,
}

impl Helper {
    /// Checks counts and lengths after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.addresses.len() > HELPER_ADDRESSES_MAX {
            return Err(DecodeError::invalid(
                "helper",
                format!("{} addresses, at most {HELPER_ADDRESSES_MAX}", self.addresses.len()),
            ));
        }
        self.addresses.iter().try_for_each(Address::check)
    }
}

/// A device's own word about itself. Signed by the device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceEntry {
    /// The device, which signs.
    pub device: DeviceKey,
    /// Grows with every change; the higher one wins. Never taken from a clock alone.
    pub sequence: u64,
    /// When it was made.
    pub issued_at: UnixTime,
    /// Valid until; at most [`ENTRY_SECS_MAX`] after `issued_at`.
    pub expires_at: UnixTime,
    /// Addresses the device publishes to everybody: servers, lab nodes, and whoever wants to.
    pub addresses: Vec<Address>,
    /// Relays that hold a reservation of the device.
    pub relays: Vec<Helper>,
    /// Nodes that take messages for the device.
    pub mailboxes: Vec<Helper>,
    /// Nodes that may sign a lease `push` for the device: its gateways.
    pub keepers: Vec<Helper>,
    /// Bits of optional features.
    pub features: u64,
    /// X25519 key to which invites are sealed (HPKE).
    pub hpke_key: [u8; 32],
    /// Keys to start encrypted conversations with. Whoever publishes them takes conversations encrypted only.
    pub pre_keys: Option<PreKeys>,
    /// The part for contacts.
    pub sealed: Option<SealedPart>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for DeviceEntry {
    const KIND: u16 = 0x0201;
    const LIMIT: usize = 2_048;

    fn check(&self) -> Result<(), DecodeError> {
        if self.expires_at < self.issued_at || self.expires_at.secs_since(self.issued_at) > ENTRY_SECS_MAX {
            return Err(DecodeError::invalid("expires_at", format!("more than {ENTRY_SECS_MAX} s after issue, or before it")));
        }
        if self.addresses.len() > ADDRESSES_MAX {
            return Err(DecodeError::invalid("addresses", format!("{}, at most {ADDRESSES_MAX}", self.addresses.len())));
        }
        self.addresses.iter().try_for_each(Address::check)?;
        for (field, helpers) in [("relays", &self.relays), ("mailboxes", &self.mailboxes), ("keepers", &self.keepers)] {
            if helpers.len() > HELPERS_MAX {
                return Err(DecodeError::invalid(field, format!("{}, at most {HELPERS_MAX}", helpers.len())));
            }
            helpers.iter().try_for_each(Helper::check)?;
        }
        match &self.sealed {
            Some(sealed) if sealed.ciphertext.len() > SEALED_BYTES_MAX => {
                Err(DecodeError::invalid("sealed", format!("{} bytes, at most {SEALED_BYTES_MAX}", sealed.ciphertext.len())))
            }
            _ => Ok(()),
        }
    }
}

/// Somebody's word that an entry is alive until `until`. Signed by the device, or by one of the entry's keepers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Lease {
    /// The device vouched for.
    pub device: DeviceKey,
    /// Hash of the entry's body ([`crate::wire::Signed::body_hash`]): a lease for an older entry says nothing.
    pub entry_hash: [u8; 32],
    /// Grows with every lease of one signer for one entry.
    pub number: u64,
    /// How the device can be reached meanwhile; a keeper may say `Push` and nothing else.
    pub reachability: Reachability,
    /// When it was signed.
    pub issued_at: UnixTime,
    /// Until when.
    pub until: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for Lease {
    const KIND: u16 = 0x0202;
    const LIMIT: usize = 256;

    fn check(&self) -> Result<(), DecodeError> {
        if self.until < self.issued_at || self.until.secs_since(self.issued_at) > KEEPER_LEASE_SECS_MAX {
            return Err(DecodeError::invalid("until", format!("more than {KEEPER_LEASE_SECS_MAX} s after issue, or before it")));
        }
        Ok(())
    }
}

/// How a device is woken: which gateway, and the opaque handle it gave.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushAddress {
    /// The gateway.
    pub gateway: Helper,
    /// What the gateway knows the device by.
    pub handle: Vec<u8>,
    /// An encoded capability that lets the reader push.
    pub capability: Vec<u8>,
}

/// What only those who hold the seal's key read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PrivatePart {
    /// The device's name, such as "kitchen tablet".
    pub name: String,
    /// What machine it is.
    pub kind: DeviceKind,
    /// Direct addresses.
    pub addresses: Vec<Address>,
    /// Gateways where the device is registered.
    pub push: Vec<PushAddress>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl PrivatePart {
    /// Adds the capability that lets the reader have invites handed over by the device's relays.
    #[must_use]
    pub fn with_hand_over(mut self, capability: &Signed<Capability>) -> Self {
        self.extensions = self.extensions.with(HAND_OVER_EXTENSION, wire::encode(capability));
        self
    }

    /// The capability to have invites handed over, if there is one that can be read.
    #[must_use]
    pub fn hand_over(&self) -> Option<Signed<Capability>> {
        wire::decode(self.extensions.find(HAND_OVER_EXTENSION)?, SEALED_BYTES_MAX).ok()
    }

    /// True if it can be sealed into an entry that others take.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.check().is_ok() && wire::encode(self).len() + SEAL_TAG_BYTES <= SEALED_BYTES_MAX
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.name.len() > DEVICE_NAME_BYTES_MAX {
            return Err(DecodeError::invalid("name", format!("{} bytes, at most {DEVICE_NAME_BYTES_MAX}", self.name.len())));
        }
        if self.addresses.len() > ADDRESSES_MAX || self.push.len() > HELPERS_MAX {
            return Err(DecodeError::invalid("private part", "too many addresses or gateways"));
        }
        self.addresses.iter().try_for_each(Address::check)?;
        for push in &self.push {
            if push.handle.len() > PUSH_HANDLE_BYTES_MAX || push.capability.len() > SEALED_BYTES_MAX {
                return Err(DecodeError::invalid("push", "handle or capability too long"));
            }
            push.gateway.check()?;
        }
        Ok(())
    }
}

/// A [`PrivatePart`], sealed (XChaCha20-Poly1305; the device key is authenticated with it, so it can't be moved to another's entry).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SealedPart {
    /// Which of the user's seal keys; 0 is the key that follows from the name.
    pub epoch: u32,
    /// Random, never repeated under one key.
    pub nonce: [u8; 24],
    /// The sealed bytes, with the 16-byte tag.
    pub ciphertext: Vec<u8>,
}

/// A sealed part couldn't be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Wrong key, wrong device, or changed bytes.
    #[error("the sealed part doesn't open with this key")]
    Seal,
    /// It opened, and what is inside isn't well formed.
    #[error("sealed part: {0}")]
    Content(#[from] DecodeError),
}

/// The key that seals the private part of a user's entries.
#[derive(Clone, Zeroize)]
#[zeroize(drop)]
pub struct SealKey([u8; 32]);

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(..)")
    }
}

impl SealKey {
    /// A key from 32 secret random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key of epoch 0: whoever knows the complete name has it, the replicas of the record included, since the certificate in it says the
    /// name. It fixes the form of the sealed part; keys that only contacts hold are later epochs.
    #[must_use]
    pub fn of_name(user: &UserId) -> Self {
        Self(hash("halloo seal key of name", &[&wire::encode(user)]))
    }

    /// Seals `part` for `device`'s entry. `nonce` must be random.
    #[must_use]
    pub fn seal(&self, epoch: u32, device: &DeviceKey, part: &PrivatePart, nonce: [u8; 24]) -> SealedPart {
        let cipher = XChaCha20Poly1305::new((&self.0).into());
        let plain = wire::encode(part);
        let aad = associated(epoch, device);
        let ciphertext = cipher.encrypt(&XNonce::from(nonce), Payload { msg: &plain, aad: &aad }).unwrap_or_default();
        SealedPart { epoch, nonce, ciphertext }
    }

    /// Opens the sealed part of `device`'s entry.
    ///
    /// # Errors
    /// [`SealError`] if the key is another or the bytes were changed.
    pub fn open(&self, device: &DeviceKey, sealed: &SealedPart) -> Result<PrivatePart, SealError> {
        let cipher = XChaCha20Poly1305::new((&self.0).into());
        let aad = associated(sealed.epoch, device);
        let plain = cipher
            .decrypt(&XNonce::from(sealed.nonce), Payload { msg: &sealed.ciphertext, aad: &aad })
            .map_err(|_| SealError::Seal)?;
        let part: PrivatePart = wire::decode(&plain, SEALED_BYTES_MAX)?;
        part.check()?;
        Ok(part)
    }
}

fn associated(epoch: u32, device: &DeviceKey) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[..4].copy_from_slice(&epoch.to_be_bytes());
    bytes[4..].copy_from_slice(device.as_bytes());
    bytes
}
