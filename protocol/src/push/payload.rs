//! What a push carries: an outer part by the gateway, an inner part sealed by the caller.
//!
//! `Signed<OuterPayload> || sealed (length, bytes) || extensions`, at most 3,000 bytes: as plain text of a Web Push message it grows by 103 bytes and
//! stays below the 4,096 that every push service takes, and as base64 in FCM and APNs below their 4 KB.

use bincode::{Decode, Encode};

use crate::call::SEALED_INVITE_BYTES_MAX;
use crate::event::EventKind;
use crate::key::{DeviceKey, SecretKey, SignatureError, hash};
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions, Signed};

/// Largest sealed part.
pub const PUSH_SEALED_BYTES_MAX: usize = SEALED_INVITE_BYTES_MAX;

/// Largest payload.
pub const PUSH_PAYLOAD_BYTES_MAX: usize = 3_000;

/// Longest template id, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 24;

/// Extension of an [`OuterPayload`]: the language to tell of the event in (BCP 47), a string of at most 35 bytes.
const EXTENSION_LANGUAGE: u16 = 0x0001;
const LANGUAGE_BYTES_MAX: usize = 35;

/// Why a payload can't be made or isn't believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// It isn't one, or a field is out of range.
    #[error("push payload: {0}")]
    Decode(#[from] DecodeError),
    /// Written by a node that isn't one of the device's gateways.
    #[error("{0} isn't a gateway of this device")]
    UnknownGateway(DeviceKey),
    /// The gateway didn't sign the outer part.
    #[error("push payload: {0}")]
    Signature(#[from] SignatureError),
    /// The outer part belongs to another sealed part.
    #[error("outer and sealed part don't belong together")]
    Mismatch,
    /// Outer and sealed part together are too large.
    #[error("{0} bytes, a push carries at most {PUSH_PAYLOAD_BYTES_MAX}")]
    TooLarge(usize),
}

/// What the gateway writes. Signed by the gateway's device. Fields of later push sessions are extensions.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OuterPayload {
    /// The gateway.
    pub gateway: DeviceKey,
    /// What kind of event it is.
    pub event: EventKind,
    /// Id of the text to show while the sealed part isn't open yet; at most [`TEMPLATE_BYTES_MAX`].
    pub template: String,
    /// When the gateway wrote it.
    pub created_at: UnixTime,
    /// From then on it is history.
    pub expires_at: UnixTime,
    /// First half of the sealed part's hash: an outer part can't be put on another.
    pub sealed_hash: [u8; 16],
    /// Room to grow.
    pub extensions: Extensions,
}

impl OuterPayload {
    /// The outer part for `sealed`.
    #[must_use]
    pub fn new(gateway: DeviceKey, event: EventKind, created_at: UnixTime, ttl_secs: u32, sealed: &[u8]) -> Self {
        Self {
            gateway,
            event,
            template: event.to_string(),
            created_at,
            expires_at: created_at.plus_secs(u64::from(ttl_secs)),
            sealed_hash: sealed_hash(sealed),
            extensions: Extensions::none(),
        }
    }

    /// The same, with the language to tell of the event in.
    #[must_use]
    pub fn in_language(mut self, language: &str) -> Self {
        if (1..=LANGUAGE_BYTES_MAX).contains(&language.len()) {
            self.extensions = self.extensions.with(EXTENSION_LANGUAGE, wire::encode(&language));
        }
        self
    }

    /// The language that the gateway has decided on.
    #[must_use]
    pub fn language(&self) -> Option<String> {
        wire::decode::<String>(self.extensions.find(EXTENSION_LANGUAGE)?, LANGUAGE_BYTES_MAX + 3).ok()
    }
}

impl Body for OuterPayload {
    const KIND: u16 = 0x0502;
    const LIMIT: usize = 1_024;

    fn check(&self) -> Result<(), DecodeError> {
        if self.template.len() > TEMPLATE_BYTES_MAX {
            return Err(DecodeError::invalid("template", format!("{} bytes, at most {TEMPLATE_BYTES_MAX}", self.template.len())));
        }
        Ok(())
    }
}

/// First half of the hash of a sealed part: names it, to those who have it.
#[must_use]
pub fn sealed_hash(sealed: &[u8]) -> [u8; 16] {
    let digest = hash("halloo push sealed part", &[sealed]);
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

/// A whole push.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushPayload {
    outer: Signed<OuterPayload>,
    sealed: Vec<u8>,
    extensions: Extensions,
}

impl PushPayload {
    /// Puts the parts together, as the gateway with `key`.
    ///
    /// # Errors
    /// [`PayloadError::TooLarge`] if the whole is, [`PayloadError::Decode`] if a field is out of range.
    pub fn new(outer: OuterPayload, sealed: Vec<u8>, key: &SecretKey) -> Result<Self, PayloadError> {
        outer.check()?;
        let payload = Self { outer: Signed::sign(outer, key), sealed, extensions: Extensions::none() };
        let length = payload.to_bytes().len();
        if payload.sealed.len() > PUSH_SEALED_BYTES_MAX || length > PUSH_PAYLOAD_BYTES_MAX {
            return Err(PayloadError::TooLarge(length));
        }
        Ok(payload)
    }

    /// The bytes as they travel.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Reads a payload. The outer part isn't believed yet.
    ///
    /// # Errors
    /// [`PayloadError::Decode`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PayloadError> {
        Ok(wire::decode(bytes, PUSH_PAYLOAD_BYTES_MAX)?)
    }

    /// What kind of event the outer part names, believed or not.
    #[must_use]
    pub const fn event(&self) -> EventKind {
        self.outer.unverified().event
    }

    /// The outer part, if one of the device's `gateways` wrote it for this sealed part.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn verify(&self, gateways: &[DeviceKey]) -> Result<&OuterPayload, PayloadError> {
        let gateway = self.outer.unverified().gateway;
        if !gateways.contains(&gateway) {
            return Err(PayloadError::UnknownGateway(gateway));
        }
        let outer = self.outer.verify(&gateway.0)?;
        if outer.sealed_hash != sealed_hash(&self.sealed) {
            return Err(PayloadError::Mismatch);
        }
        Ok(outer)
    }

    /// The sealed part: the bytes of a [`crate::call::SealedInvite`] for calls, else of a [`crate::mailbox::SealedLetter`] where it fits, or of a
    /// [`super::SealedNotice`].
    #[must_use]
    pub fn sealed(&self) -> &[u8] {
        &self.sealed
    }
}
