//! The one sealed invite: what rings a device, whatever carries it.
//!
//! Plain: `length u16 big endian || Signed<Invite> || zeros`, padded so that the sealed whole has one of [`INVITE_SIZE_CLASSES`].
//! Sealed: `version (1) || encapsulated key (32) || ciphertext || tag (16)`, HPKE with info `halloo invite 1` and the recipient's device key
//! as associated data. Whoever carries it sees version, size and time. A device tries its current and its former key.

use std::fmt;

use bincode::{Decode, Encode};

use super::hpke_key::{self, HpkeKeyRing, SealPaddedError};
use super::{Reason, signal::SDP_BYTES_MAX};
use crate::directory::{DeviceKind, Helper};
use crate::event::EventKind;
use crate::id::{CallId, ConversationId};
use crate::identity::{Chain, ChainError, TrustStore, UserId, VerifiedChain};
use crate::key::{DeviceKey, SecretKey, SignatureError, hash};
use crate::node::Address;
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions, FrameKind, Message, Signed};

/// Largest sealed invite: FCM and APNs carry it as base64 within 4 KB.
pub const SEALED_INVITE_BYTES_MAX: usize = 2_800;

/// Sizes a sealed invite can have, so that its size says little.
pub const INVITE_SIZE_CLASSES: [usize; 3] = [1_024, 1_800, SEALED_INVITE_BYTES_MAX];

/// Longest validity of an invite: a ring and what a push may take.
pub const INVITE_SECS_MAX: u64 = 180;

/// Longest display name, in bytes.
pub const DISPLAY_NAME_BYTES_MAX: usize = 128;

/// Longest link to an avatar, in bytes.
const AVATAR_LINK_BYTES_MAX: usize = 200;

/// Most addresses and relays of the origin.
const ORIGIN_ADDRESSES_MAX: usize = 4;
const ORIGIN_RELAYS_MAX: usize = 2;

const SEAL_INFO: &[u8] = b"halloo invite 1";

/// A picture of the caller, to fetch or to find in the callee's own cache.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AvatarLink {
    /// SHA-256 of the picture.
    pub hash: [u8; 32],
    /// Where to get it; may be empty where the callee is likely to have it.
    pub link: String,
}

/// Where a call comes from: enough to answer without a look-up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Origin {
    /// What machine it is.
    pub kind: DeviceKind,
    /// Where it listens, best first, at most 4; empty if the callee isn't to learn that yet.
    pub addresses: Vec<Address>,
    /// Its relays, at most 2.
    pub relays: Vec<Helper>,
}

impl Origin {
    fn check(&self) -> Result<(), DecodeError> {
        if self.addresses.len() > ORIGIN_ADDRESSES_MAX || self.relays.len() > ORIGIN_RELAYS_MAX {
            return Err(DecodeError::invalid("origin", "too many addresses or relays"));
        }
        let of_relays = self.relays.iter().flat_map(|relay| relay.addresses.iter().take(ORIGIN_ADDRESSES_MAX));
        self.addresses.iter().chain(of_relays).try_for_each(Address::check)
    }
}

/// An invitation of one device to one call. Signed by the caller's device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Invite {
    /// Who calls.
    pub chain: Chain,
    /// Which device is meant: an invite can't be sealed on to another.
    pub recipient: DeviceKey,
    /// The call.
    pub call: CallId,
    /// The conversation it belongs to.
    pub conversation: ConversationId,
    /// Voice, video.
    pub kind: EventKind,
    /// How the caller wants to be shown, beside the verified name; at most 128 bytes.
    pub display_name: String,
    /// The caller's picture.
    pub avatar: Option<AvatarLink>,
    /// Where it comes from.
    pub origin: Origin,
    /// When it was made.
    pub issued_at: UnixTime,
    /// From then on it is a missed call; at most [`INVITE_SECS_MAX`] after `issued_at`.
    pub expires_at: UnixTime,
    /// The offer (SDP).
    pub offer: String,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for Invite {
    const KIND: u16 = 0x0301;
    const LIMIT: usize = SEALED_INVITE_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        if self.expires_at < self.issued_at || self.expires_at.secs_since(self.issued_at) > INVITE_SECS_MAX {
            return Err(DecodeError::invalid("expires_at", format!("more than {INVITE_SECS_MAX} s after issue, or before it")));
        }
        if self.display_name.len() > DISPLAY_NAME_BYTES_MAX {
            return Err(DecodeError::invalid("display_name", format!("{} bytes", self.display_name.len())));
        }
        if self.avatar.as_ref().is_some_and(|avatar| avatar.link.len() > AVATAR_LINK_BYTES_MAX) {
            return Err(DecodeError::invalid("avatar", format!("a link of more than {AVATAR_LINK_BYTES_MAX} bytes")));
        }
        if self.offer.len() > SDP_BYTES_MAX {
            return Err(DecodeError::invalid("offer", format!("{} bytes, at most {SDP_BYTES_MAX}", self.offer.len())));
        }
        self.origin.check()
    }
}

/// Why an invite can't be sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealInviteError {
    /// It doesn't fit: leave out the avatar, addresses, candidates.
    #[error("the invite is {0} bytes too long to be sealed")]
    TooLong(usize),
    /// The recipient's entry holds something that isn't an X25519 key.
    #[error("the recipient's key isn't usable")]
    RecipientKey,
    /// A field is out of range.
    #[error(transparent)]
    Field(#[from] DecodeError),
}

impl From<SealPaddedError> for SealInviteError {
    fn from(error: SealPaddedError) -> Self {
        match error {
            SealPaddedError::TooLong(bytes) => Self::TooLong(bytes),
            SealPaddedError::RecipientKey => Self::RecipientKey,
        }
    }
}

/// Why a sealed invite isn't believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteError {
    /// Sealed in a way this version doesn't know, or cut short.
    #[error("not an invite this version can read")]
    Version,
    /// Sealed to another device or to a key already destroyed, or changed on the way.
    #[error("the invite doesn't open with this device's keys")]
    NotForMe,
    /// It opened, and what is inside isn't well formed.
    #[error("invite: {0}")]
    Decode(#[from] DecodeError),
    /// Signed for another device, and sealed again to this one.
    #[error("the invite is for {0}")]
    WrongRecipient(DeviceKey),
    /// The caller's chain doesn't hold.
    #[error("caller: {0}")]
    Chain(#[from] ChainError),
    /// The caller's device didn't sign it.
    #[error("invite: {0}")]
    Signature(#[from] SignatureError),
    /// Dated further ahead than clocks differ.
    #[error("the invite is dated {0}, which hasn't come")]
    FromTheFuture(UnixTime),
    /// Genuine, and too late: a missed call.
    #[error("the invite expired at {}", .0.invite().expires_at)]
    Expired(Box<VerifiedInvite>),
}

impl InviteError {
    /// The reason to answer with.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Expired(_) => Reason::EXPIRED,
            _ => Reason::INVALID,
        }
    }
}

/// An invite whose seal, signature, chain, recipient and time were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedInvite {
    invite: Invite,
    caller: VerifiedChain,
}

impl VerifiedInvite {
    /// What it says.
    #[must_use]
    pub const fn invite(&self) -> &Invite {
        &self.invite
    }

    /// Who calls, from which device.
    #[must_use]
    pub const fn caller(&self) -> &VerifiedChain {
        &self.caller
    }

    /// The caller's name.
    #[must_use]
    pub const fn caller_id(&self) -> &UserId {
        &self.caller.user.id
    }

    /// The caller's device, which signs the call's signals.
    #[must_use]
    pub const fn caller_device(&self) -> DeviceKey {
        self.caller.device
    }
}

/// An [`Invite`], sealed to one device. Byte-identical on every way it goes.
#[derive(Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub struct SealedInvite(Vec<u8>);

impl fmt::Debug for SealedInvite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedInvite({} bytes)", self.0.len())
    }
}

impl SealedInvite {
    /// Signs `invite` with the caller's device key and seals it to `hpke_key`, the key in the recipient's entry.
    ///
    /// # Errors
    /// [`SealInviteError`] if it doesn't fit or the key is none.
    pub fn seal(
        invite: Invite,
        device: &SecretKey,
        hpke_key: &[u8; 32],
        rng: &mut impl rand::CryptoRng,
    ) -> Result<Self, SealInviteError> {
        invite.check()?;
        let recipient = invite.recipient;
        let signed = wire::encode(&Signed::sign(invite, device));
        let sealed = hpke_key::seal_padded(hpke_key, &signed, &INVITE_SIZE_CLASSES, SEAL_INFO, recipient.as_bytes(), rng);
        Ok(Self(sealed?))
    }

    /// Takes bytes that arrived; what they are shows on opening.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] beyond [`SEALED_INVITE_BYTES_MAX`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        if bytes.len() > SEALED_INVITE_BYTES_MAX {
            return Err(DecodeError::TooLarge { length: bytes.len(), limit: SEALED_INVITE_BYTES_MAX });
        }
        Ok(Self(bytes))
    }

    /// The bytes as they travel.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Names these very bytes: drops a copy before any cryptography.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        hash("halloo sealed invite", &[&self.0])
    }

    /// Opens and checks: seal, form, recipient, chain, signature, time. `now` is the corrected time.
    ///
    /// # Errors
    /// [`InviteError`]. Of these, [`InviteError::Expired`] carries a genuine invite that came too late.
    pub fn open(
        &self,
        keys: &HpkeKeyRing,
        me: &DeviceKey,
        now: UnixTime,
        trust: &TrustStore,
    ) -> Result<VerifiedInvite, InviteError> {
        let sealed = hpke_key::sealed_part(&self.0, SEALED_INVITE_BYTES_MAX).ok_or(InviteError::Version)?;
        let plain = keys.open(sealed, SEAL_INFO, me.as_bytes()).ok_or(InviteError::NotForMe)?;
        let signed: Signed<Invite> = wire::decode(hpke_key::unpad(&plain)?, SEALED_INVITE_BYTES_MAX)?;
        let claimed = signed.unverified();
        if claimed.recipient != *me {
            return Err(InviteError::WrongRecipient(claimed.recipient));
        }
        let caller = claimed.chain.verify(now, trust)?;
        let invite = signed.verify(&caller.device.0)?.clone();
        if invite.issued_at.is_from_the_future(now) {
            return Err(InviteError::FromTheFuture(invite.issued_at));
        }
        let is_expired = now >= invite.expires_at;
        let verified = VerifiedInvite { invite, caller };
        if is_expired { Err(InviteError::Expired(Box::new(verified))) } else { Ok(verified) }
    }
}

/// An invite on an open stream to the device it is for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CallInvite {
    /// The invite.
    pub sealed: SealedInvite,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for CallInvite {
    const KIND: FrameKind = FrameKind(0x0030);
    const LIMIT: usize = SEALED_INVITE_BYTES_MAX + 512;
}

/// What a device did with an invite that came on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum InviteStatus {
    /// It rings, from this copy on.
    Ringing,
    /// This call is known already: it rings, or it is over and a signal says how.
    Duplicate,
    /// In another call.
    Busy,
    /// It won't ring.
    Refused(Reason),
    /// Not sealed to a key of this device: the sender's copy of the record is old.
    NotForMe,
}

/// Answer to [`CallInvite`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InviteAnswer {
    /// What happened.
    pub status: InviteStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for InviteAnswer {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | CallInvite::KIND.0);
    const LIMIT: usize = 256;
}

/// How an invite came to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InviteWay {
    /// On a stream from the caller: the answer to the frame says that it rings.
    Stream,
    /// Handed over by the device's relay.
    Relay,
    /// On the gateway's stream.
    Gateway,
    /// By the operating system's push.
    Push,
}
