//! The push gateway: how a device registers, how others wake it, and what wakes it.
//!
//! 1. A device registers its channels ([`PushRegister`]) over a connection whose hello shows who it is, and gets an opaque handle and the
//!    gateway's signed time. Registering again renews; channels are tried side by side.
//! 2. It publishes handle and capability for those who may see them ([`crate::directory::PushAddress`]).
//! 3. A caller sends [`PushSend`]: handle, capability, proof, what the gateway needs to know, and the sealed part, which it can't read.
//! 4. The gateway decides ([`registration`]), writes the outer part, and delivers [`PushPayload`]: as [`PushDeliver`] on the device's stream, as
//!    the plain text of a Web Push message, or in what another service carries ([`PushChannel`]). A channel that a service says has ended is told to
//!    the device ([`PushChannelGone`]) when it is there again.
//! 5. The device rings from the payload alone and answers straight to the caller; to a stranger, until somebody has answered, by way of the gateway
//!    ([`crate::call::SignalPass`]). [`PushDelivered`], [`PushArrived`] and [`PushReceipt`] show a gateway that drops or delays.

mod channel;
pub mod group;
pub mod hand_on;
mod notice;
mod payload;
pub mod phone;
mod receipt;
pub mod registration;
pub mod session;
#[cfg(test)]
mod tests;

use std::fmt;

use bincode::{Decode, Encode};

use crate::capability::{Capability, CapabilityProof};
use crate::event::EventKind;
use crate::id::CapabilityId;
use crate::key::{DeviceKey, hash};
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions, FrameKind, Message, Signed};
pub use channel::{
    APNS_TOKEN_BYTES_MAX, ChannelEnd, ENDPOINT_BYTES_MAX, FCM_TOKEN_BYTES_MAX, PUSH_CONTENT_TYPE, PushChannel, PushChannelGone,
    PushChannelGoneNoted, PushWay, SIP_ADDRESS_BYTES_MAX, TOPIC_BYTES_MAX, is_phone_number, sip_account,
};
pub use notice::{EventNotice, NOTICE_BYTES, SealedNotice};
pub use payload::{
    OuterPayload, PUSH_PAYLOAD_BYTES_MAX, PUSH_SEALED_BYTES_MAX, PayloadError, PushPayload, TEMPLATE_BYTES_MAX, sealed_hash,
};
pub use receipt::{ACCEPTED_MAX, DeliveryWatch, MISSED_MAX, PushArrived, PushArrivedNoted};

/// Most channels of one registration.
pub const CHANNELS_MAX: usize = 4;

/// Most languages, applications and identifiers of a registration.
pub const LANGUAGES_MAX: usize = 8;
/// See [`LANGUAGES_MAX`].
pub const APPLICATIONS_MAX: usize = 16;
/// See [`LANGUAGES_MAX`].
pub const IDENTIFIERS_MAX: usize = 8;

/// Longest language tag (RFC 5646 recommends room for 35).
const LANGUAGE_BYTES_MAX: usize = 35;

/// Longest name of an application, or of an identifier's kind or value.
const NAME_BYTES_MAX: usize = 128;

/// Extension of a [`PushSend`]: the caller's languages, a list of strings.
const EXTENSION_LANGUAGES: u16 = 0x0001;

/// All of them, encoded.
const LANGUAGES_BYTES_MAX: usize = LANGUAGES_MAX * (LANGUAGE_BYTES_MAX + 3) + 3;

/// Longest life of a push: four weeks, what push services keep at most.
pub const TTL_SECS_MAX: u32 = 28 * 86_400;

/// What a gateway knows a registration by. Random; says nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PushHandle(pub [u8; 32]);

impl PushHandle {
    /// A fresh handle.
    #[must_use]
    pub fn random(rng: &mut impl rand::CryptoRng) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// The handle in a device's entry, if it is one.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// Handles wake people: logs show a few characters.
impl fmt::Debug for PushHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PushHandle({}..)", data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

/// An identifier under which a device can be found by those who push: its kind and value.
#[derive(Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Identifier {
    /// Such as `msisdn`, `imei`, `sip`.
    pub kind: String,
    /// The identifier.
    pub value: String,
}

/// Identifiers name people and machines: logs show the kind.
impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identifier({}, ..)", self.kind)
    }
}

/// "Wake me through these channels." Who asks is known from the hello.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushRegister {
    /// Ways to the device, preferred first, 1 to [`CHANNELS_MAX`].
    pub channels: Vec<PushChannel>,
    /// Languages, preferred first.
    pub languages: Vec<String>,
    /// Applications that are there to take events.
    pub applications: Vec<String>,
    /// Further names of the device.
    pub identifiers: Vec<Identifier>,
    /// Version of the user's policy the device holds; 0 without one.
    pub policy_version: u32,
    /// Oldest epoch of capabilities that counts.
    pub epoch: u32,
    /// Single capabilities taken back.
    pub revoked: Vec<CapabilityId>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl PushRegister {
    /// A registration of `channels` alone.
    #[must_use]
    pub const fn new(channels: Vec<PushChannel>) -> Self {
        Self {
            channels,
            languages: Vec::new(),
            applications: Vec::new(),
            identifiers: Vec::new(),
            policy_version: 0,
            epoch: 0,
            revoked: Vec::new(),
            extensions: Extensions::none(),
        }
    }

    /// Checks counts and lengths after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        let too_many = |field, count: usize, max: usize| DecodeError::invalid(field, format!("{count}, at most {max}"));
        for (field, count, max) in [
            ("channels", self.channels.len(), CHANNELS_MAX),
            ("languages", self.languages.len(), LANGUAGES_MAX),
            ("applications", self.applications.len(), APPLICATIONS_MAX),
            ("identifiers", self.identifiers.len(), IDENTIFIERS_MAX),
            ("revoked", self.revoked.len(), crate::capability::REVOKED_MAX),
        ] {
            if count > max {
                return Err(too_many(field, count, max));
            }
        }
        if self.channels.is_empty() {
            return Err(DecodeError::invalid("channels", "none"));
        }
        let names = self.identifiers.iter().flat_map(|id| [&id.kind, &id.value]).chain(&self.applications);
        if names.into_iter().any(|name| name.len() > NAME_BYTES_MAX)
            || self.languages.iter().any(|language| language.len() > LANGUAGE_BYTES_MAX)
        {
            return Err(DecodeError::invalid("names", "a language, application or identifier is too long"));
        }
        self.channels.iter().try_for_each(PushChannel::check)
    }
}

impl Message for PushRegister {
    const KIND: FrameKind = FrameKind(0x0040);
    const LIMIT: usize = 12 * 1024;

    fn check(&self) -> Result<(), DecodeError> {
        Self::check(self)
    }
}

/// A gateway's word for what time it is. Signed by the gateway's device; counts most in a device's estimate of its clock.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GatewayTime {
    /// The gateway.
    pub gateway: DeviceKey,
    /// Its clock.
    pub at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for GatewayTime {
    const KIND: u16 = 0x0501;
    const LIMIT: usize = 128;
}

/// What became of a registration.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RegisterStatus {
    /// Registered, or renewed.
    Registered {
        /// What to publish.
        handle: PushHandle,
        /// When it ends unless renewed.
        expires_at: UnixTime,
        /// The gateway's clock.
        time: Box<Signed<GatewayTime>>,
        /// The key to subscribe with at a push service (RFC 8292), P-256 uncompressed; `None` if the gateway has no Web Push.
        vapid_key: Option<[u8; 65]>,
    },
    /// Not registered.
    Refused(PushReason),
}

/// Answer to [`PushRegister`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushRegistered {
    /// What happened.
    pub status: RegisterStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushRegistered {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | PushRegister::KIND.0);
    const LIMIT: usize = 1_024;
}

/// "Forget me." Only the device that registered may.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushUnregister {
    /// The registration.
    pub handle: PushHandle,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushUnregister {
    const KIND: FrameKind = FrameKind(0x0041);
    const LIMIT: usize = 512;
}

/// Answer to [`PushUnregister`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushUnregistered {
    /// True if there was such a registration of this device.
    pub was_known: bool,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushUnregistered {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | PushUnregister::KIND.0);
    const LIMIT: usize = 256;
}

/// "Vouch for me": a device that registered asks its gateway to say, for as long as the registration stands, that it can be woken. It does so after every
/// publication of its entry; from then on it needs to do nothing, however and for how long it sleeps.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushKeep {
    /// The registration.
    pub handle: PushHandle,
    /// Hash of the published entry's body ([`crate::wire::Signed::body_hash`]), which names the gateway as keeper.
    pub entry_hash: [u8; 32],
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushKeep {
    const KIND: FrameKind = FrameKind(0x0045);
    const LIMIT: usize = 512;
}

/// What became of [`PushKeep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum KeepStatus {
    /// The lease is on its way to the directory, and will be renewed.
    Kept {
        /// Until when the first one holds.
        until: UnixTime,
    },
    /// Not here.
    Refused(PushReason),
}

/// Answer to [`PushKeep`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushKept {
    /// What happened.
    pub status: KeepStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushKept {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | PushKeep::KIND.0);
    const LIMIT: usize = 256;
}

/// How soon a push is wanted (RFC 8030 section 5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Urgency {
    /// On power and Wi-Fi.
    VeryLow,
    /// On either.
    Low,
    /// When the device is up anyway.
    #[default]
    Normal,
    /// Wake the device.
    High,
}

impl Urgency {
    /// The header's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VeryLow => "very-low",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// What the gateway is told in the open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct PushHints {
    /// What kind of event it is.
    pub event: EventKind,
    /// How long the push is worth delivering, in seconds; at most [`TTL_SECS_MAX`].
    pub ttl_secs: u32,
    /// How soon it is wanted.
    pub urgency: Urgency,
}

/// "Wake this device with this."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushSend {
    /// The registration.
    pub handle: PushHandle,
    /// Leave to push.
    pub capability: Signed<Capability>,
    /// Proof that the sender holds it, over [`PushSend::request_hash`].
    pub proof: Signed<CapabilityProof>,
    /// What the gateway needs to know.
    pub hints: PushHints,
    /// What only the device reads; at most [`PUSH_SEALED_BYTES_MAX`].
    pub sealed: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl PushSend {
    /// What the proof is about: handle, hints and sealed part.
    #[must_use]
    pub fn hash_of(handle: &PushHandle, hints: &PushHints, sealed: &[u8]) -> [u8; 32] {
        hash("halloo push request", &[&handle.0, &wire::encode(hints), sealed])
    }

    /// Languages the caller reads, best first, as the gateway is told them: what is longer or more than allowed is left out.
    #[must_use]
    pub fn languages(&self) -> Vec<String> {
        let told = self
            .extensions
            .find(EXTENSION_LANGUAGES)
            .and_then(|bytes| wire::decode::<Vec<String>>(bytes, LANGUAGES_BYTES_MAX).ok());
        let fits = |language: &String| (1..=LANGUAGE_BYTES_MAX).contains(&language.len());
        told.unwrap_or_default().into_iter().filter(fits).take(LANGUAGES_MAX).collect()
    }

    /// Extensions that tell the caller's languages.
    #[must_use]
    pub fn with_languages(extensions: Extensions, languages: &[String]) -> Extensions {
        let fits = |language: &&String| (1..=LANGUAGE_BYTES_MAX).contains(&language.len());
        let told: Vec<&String> = languages.iter().filter(fits).take(LANGUAGES_MAX).collect();
        if told.is_empty() { extensions } else { extensions.with(EXTENSION_LANGUAGES, wire::encode(&told)) }
    }

    /// [`PushSend::hash_of`] this request.
    #[must_use]
    pub fn request_hash(&self) -> [u8; 32] {
        Self::hash_of(&self.handle, &self.hints, &self.sealed)
    }
}

impl Message for PushSend {
    const KIND: FrameKind = FrameKind(0x0042);
    const LIMIT: usize = 8 * 1024;
}

/// Why a gateway doesn't do what was asked: a number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PushReason(pub u16);

impl PushReason {
    /// The node isn't a gateway, or is one for other people only.
    pub const NOT_SERVED: Self = Self(1);
    /// No such handle.
    pub const UNKNOWN_HANDLE: Self = Self(2);
    /// The capability or its proof doesn't hold.
    pub const CAPABILITY: Self = Self(3);
    /// Too many requests.
    pub const RATE: Self = Self(4);
    /// The device was registered and can't be reached on any channel any more.
    pub const GONE: Self = Self(5);
    /// Larger than can be delivered.
    pub const TOO_LARGE: Self = Self(6);
    /// A field is out of range.
    pub const INVALID: Self = Self(7);
    /// The gateway has no room.
    pub const FULL: Self = Self(8);
    /// The gateway can't use this channel.
    pub const CHANNEL: Self = Self(9);
    /// The asker isn't certified.
    pub const NOT_CERTIFIED: Self = Self(10);
    /// The push service doesn't answer now.
    pub const TEMPORARY: Self = Self(11);
}

impl fmt::Display for PushReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NOT_SERVED => "the gateway doesn't serve this",
            Self::UNKNOWN_HANDLE => "the gateway doesn't know the device",
            Self::CAPABILITY => "no leave to push",
            Self::RATE => "too many pushes",
            Self::GONE => "the device's registration has ended",
            Self::TOO_LARGE => "too large to push",
            Self::INVALID => "malformed",
            Self::FULL => "the gateway is full",
            Self::CHANNEL => "the gateway can't use this channel",
            Self::NOT_CERTIFIED => "not certified",
            Self::TEMPORARY => "the push service doesn't answer",
            Self(other) => return write!(f, "reason {other}"),
        })
    }
}

/// What became of a push at the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PushStatus {
    /// On its way, by these channels.
    Accepted {
        /// The channels.
        ways: Vec<PushWay>,
    },
    /// Not sent.
    Refused(PushReason),
}

/// Answer to [`PushSend`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushSent {
    /// What happened.
    pub status: PushStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushSent {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | PushSend::KIND.0);
    const LIMIT: usize = 256;
}

/// A push on the device's stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushDeliver {
    /// An encoded [`PushPayload`], the same bytes that a push service would carry.
    pub payload: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushDeliver {
    const KIND: FrameKind = FrameKind(0x0043);
    const LIMIT: usize = PUSH_PAYLOAD_BYTES_MAX + 512;
}

/// What a device did with a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum DeliveredStatus {
    /// It rings.
    Ringing,
    /// Taken; nothing rings for it.
    Taken,
    /// It came another way before.
    Duplicate,
    /// Too late: a missed call.
    Expired,
    /// It couldn't be opened or believed.
    Invalid,
}

impl DeliveredStatus {
    /// A word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ringing => "ringing",
            Self::Taken => "taken",
            Self::Duplicate => "duplicate",
            Self::Expired => "expired",
            Self::Invalid => "invalid",
        }
    }
}

/// Answer to [`PushDeliver`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushDelivered {
    /// What happened.
    pub status: DeliveredStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushDelivered {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | PushDeliver::KIND.0);
    const LIMIT: usize = 256;
}

/// What became of a push after the gateway had accepted it, to the one who sent it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushReceipt {
    /// [`PushSend::request_hash`] of the push.
    pub request_hash: [u8; 32],
    /// By which channel.
    pub way: PushWay,
    /// What the device said; `Err` if the channel failed.
    pub result: Result<DeliveredStatus, PushReason>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushReceipt {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0044);
    const LIMIT: usize = 512;
}
