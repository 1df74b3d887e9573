//! Handing one sealed invite over to a device through its relay, without a circuit.
//!
//! 1. The caller finds, in the callee's entry, the callee's relays and, in the sealed part, a capability for
//!    [`Service::InviteHandOver`]. It sends a relay [`InviteHandOver`]: whom for, the capability, a proof of holding it made for this relay and
//!    this request, and the sealed invite, byte for byte as it goes on every other way.
//! 2. The relay decides offline ([`decide_hand_over`]) and passes the invite on, as [`InviteHandedOver`], on the connection that holds the
//!    device's reservation. It can't open it.
//! 3. The device rings, and answers with its status and a *word*: a signed [`Signal`](super::Signal) for the caller. The relay gives both back
//!    in [`HandOverAnswer`].
//!
//! The status is the relay's to say, and proves nothing; what the device really did stands in the word. So a relay that lies can keep an invite
//! back, and can't make a caller give up its other ways.
//!
//! What follows goes between the two ends, save where a device mustn't show its caller where it is before the answer, or has no way to the
//! other end yet: whoever has brought an invite, relay or gateway, passes short signals on between the two for as long as the invite rings
//! ([`SignalPass`]). Signals with session descriptions or candidates don't go that way: they carry addresses and aren't sealed.
//!
//! How long a capability counts is the device's to say: its relay hears [`HandOverRules`] with the reservation.

use std::fmt;
use std::time::Instant;

use bincode::{Decode, Encode};

use super::invite::{INVITE_SIZE_CLASSES, InviteStatus, SEALED_INVITE_BYTES_MAX, SealedInvite};
use super::signal::{Signal, SignalBody, SignalStatus, VerifiedSignal};
use crate::capability::{
    self, Capability, CapabilityError, CapabilityId, CapabilityProof, CapabilityRequest, CapabilityRules, Grant, REVOKED_MAX,
    Service,
};
use crate::identity::VerifiedChain;
use crate::key::{DeviceKey, PublicKey, hash};
use crate::rate::{Rate, RateError, RateLimiter};
use crate::time::Now;
use crate::wire::{self, DecodeError, Extensions, FrameKind, Message, Signed};

/// Largest word of a device, in bytes: a signal without session description has about 170.
pub const WORD_BYTES_MAX: usize = 512;

/// Hand-overs to one device by one certified stranger: more redials than anybody makes, whatever the capability says.
const STRANGER_RATE: Rate = Rate { per_hour: 20, burst: 5 };

/// Most at once of a holder of a capability of its own.
const HOLDER_BURST: u32 = 10;

/// Hand-overs to one device whoever asks: a device takes 60 rings an hour of one user, and a few users may ring at once.
const TARGET_RATE: Rate = Rate { per_hour: 240, burst: 20 };

/// Hand-overs of a relay altogether: ten a second, and a burst of all its devices' callers.
const TOTAL_RATE: Rate = Rate { per_hour: 36_000, burst: 500 };

/// "Give this to the device whose reservation you hold."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InviteHandOver {
    /// The device.
    pub target: DeviceKey,
    /// Leave to have invites handed over.
    pub capability: Signed<Capability>,
    /// Proof that the sender holds it, over [`InviteHandOver::request_hash`].
    pub proof: Signed<CapabilityProof>,
    /// The invite.
    pub sealed: SealedInvite,
    /// Room to grow.
    pub extensions: Extensions,
}

impl InviteHandOver {
    /// What the proof is about: device and invite.
    #[must_use]
    pub fn hash_of(target: &DeviceKey, sealed: &SealedInvite) -> [u8; 32] {
        hash("halloo invite hand-over", &[target.as_bytes(), sealed.as_bytes()])
    }

    /// [`InviteHandOver::hash_of`] this request.
    #[must_use]
    pub fn request_hash(&self) -> [u8; 32] {
        Self::hash_of(&self.target, &self.sealed)
    }
}

impl Message for InviteHandOver {
    const KIND: FrameKind = FrameKind(0x0031);
    const LIMIT: usize = SEALED_INVITE_BYTES_MAX + 1_536;

    fn check(&self) -> Result<(), DecodeError> {
        check_size(&self.sealed)
    }
}

/// What goes on to a device is of a size that invites have: the hand-over is no channel for anything else.
fn check_size(sealed: &SealedInvite) -> Result<(), DecodeError> {
    let length = sealed.as_bytes().len();
    if INVITE_SIZE_CLASSES.contains(&length) {
        return Ok(());
    }
    Err(DecodeError::invalid("sealed", format!("{length} bytes, which no invite has")))
}

/// Why a relay hands nothing over: a number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct HandOverReason(pub u16);

impl HandOverReason {
    /// The node isn't a relay.
    pub const NOT_SERVED: Self = Self(1);
    /// The device holds no reservation here.
    pub const NO_RESERVATION: Self = Self(2);
    /// The capability or its proof doesn't hold.
    pub const CAPABILITY: Self = Self(3);
    /// Too many requests.
    pub const RATE: Self = Self(4);
    /// The device didn't answer in time, or its connection went away.
    pub const SILENT: Self = Self(5);
    /// Too many are under way here.
    pub const FULL: Self = Self(6);
    /// No invite was brought between the two devices a moment ago.
    pub const NO_INVITE: Self = Self(7);
}

/// For logs; numbers of later versions print as `reason N`.
impl fmt::Display for HandOverReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NOT_SERVED => "the node isn't a relay",
            Self::NO_RESERVATION => "the device holds no reservation there",
            Self::CAPABILITY => "no leave to have invites handed over",
            Self::RATE => "too many invites",
            Self::SILENT => "the device doesn't answer its relay",
            Self::FULL => "the relay is busy",
            Self::NO_INVITE => "it has brought no invite between the two",
            Self(other) => return write!(f, "reason {other}"),
        })
    }
}

/// What became of a hand-over.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum HandOverStatus {
    /// The device has it.
    HandedOver {
        /// What it did, as the relay says.
        status: InviteStatus,
        /// What it says itself: see [`open_word`]; empty if it says nothing. At most [`WORD_BYTES_MAX`].
        word: Vec<u8>,
    },
    /// The device hasn't got it from here.
    Refused(HandOverReason),
}

/// Answer to [`InviteHandOver`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HandOverAnswer {
    /// What happened.
    pub status: HandOverStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for HandOverAnswer {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | InviteHandOver::KIND.0);
    const LIMIT: usize = WORD_BYTES_MAX + 256;

    fn check(&self) -> Result<(), DecodeError> {
        match &self.status {
            HandOverStatus::HandedOver { word, .. } => check_word(word),
            HandOverStatus::Refused(_) => Ok(()),
        }
    }
}

fn check_word(word: &[u8]) -> Result<(), DecodeError> {
    if word.len() > WORD_BYTES_MAX {
        return Err(DecodeError::invalid("word", format!("{} bytes, at most {WORD_BYTES_MAX}", word.len())));
    }
    Ok(())
}

/// An invite that a relay hands over to a device that holds a reservation there. Whom it is from says the invite.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InviteHandedOver {
    /// The invite.
    pub sealed: SealedInvite,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for InviteHandedOver {
    const KIND: FrameKind = FrameKind(0x0033);
    const LIMIT: usize = SEALED_INVITE_BYTES_MAX + 512;

    fn check(&self) -> Result<(), DecodeError> {
        check_size(&self.sealed)
    }
}

/// Answer to [`InviteHandedOver`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HandedOverAnswer {
    /// What the device did.
    pub status: InviteStatus,
    /// Its word for the caller, at most [`WORD_BYTES_MAX`]; may be empty.
    pub word: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for HandedOverAnswer {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | InviteHandedOver::KIND.0);
    const LIMIT: usize = WORD_BYTES_MAX + 256;

    fn check(&self) -> Result<(), DecodeError> {
        check_word(&self.word)
    }
}

/// A device's word for a caller: the signal it sends by itself as well, under the same number, so that the later copy is known as such. Empty
/// if it doesn't fit.
#[must_use]
pub fn word_of(signal: &Signed<Signal>) -> Vec<u8> {
    let word = wire::encode(signal);
    if word.len() <= WORD_BYTES_MAX { word } else { Vec::new() }
}

/// What a device's word says, if `device` has signed it for `me`.
#[must_use]
pub fn open_word(word: &[u8], device: &DeviceKey, me: &DeviceKey) -> Option<VerifiedSignal> {
    let signed: Signed<Signal> = wire::decode(word, WORD_BYTES_MAX).ok()?;
    VerifiedSignal::verify(&signed, me).ok().filter(|signal| signal.signal().from == *device)
}

/// "Pass this signal on to the device it is for": asked of the relay or gateway that has just brought an invite from one of the two devices to the
/// other.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SignalPass {
    /// The signal: [`may_pass`].
    pub signal: Signed<Signal>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for SignalPass {
    const KIND: FrameKind = FrameKind(0x0035);
    const LIMIT: usize = WORD_BYTES_MAX + 256;

    fn check(&self) -> Result<(), DecodeError> {
        if may_pass(&self.signal.unverified().body) {
            return Ok(());
        }
        Err(DecodeError::invalid("signal", "says what goes between the two ends alone"))
    }
}

/// Whether a signal may go by way of whoever brought the invite: what is said before the answer, without addresses.
#[must_use]
pub const fn may_pass(body: &SignalBody) -> bool {
    match body {
        SignalBody::Ringing | SignalBody::Decline { .. } | SignalBody::Cancel { .. } | SignalBody::Replaced { .. } => true,
        SignalBody::Accept { .. } | SignalBody::Candidate { .. } | SignalBody::HangUp { .. } => false,
    }
}

/// What became of a signal to be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PassStatus {
    /// The device has it, and said this.
    Passed(SignalStatus),
    /// The device hasn't got it from here: no invite was brought between the two, too many signals, or the device isn't connected or silent.
    Refused(HandOverReason),
}

/// Answer to [`SignalPass`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SignalPassed {
    /// What happened.
    pub status: PassStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for SignalPassed {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | SignalPass::KIND.0);
    const LIMIT: usize = 256;
}

/// Which capabilities of a device still count, told by it to its relay with every reservation. Says nothing where it isn't certified.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HandOverRules {
    /// Oldest epoch that counts.
    pub epoch: u32,
    /// Single capabilities taken back, at most [`REVOKED_MAX`].
    pub revoked: Vec<CapabilityId>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for HandOverRules {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0034);
    const LIMIT: usize = 2_048;

    fn check(&self) -> Result<(), DecodeError> {
        if self.revoked.len() > REVOKED_MAX {
            return Err(DecodeError::invalid("revoked", format!("{}, at most {REVOKED_MAX}", self.revoked.len())));
        }
        Ok(())
    }
}

/// Why an invite isn't handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandOverRefusal {
    /// The device has no reservation here.
    #[error("the device holds no reservation here")]
    NoReservation,
    /// No leave.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// Too many, of this holder, for this device, or altogether.
    #[error(transparent)]
    Rate(#[from] RateError),
}

impl HandOverRefusal {
    /// The number to answer with.
    #[must_use]
    pub const fn reason(&self) -> HandOverReason {
        match self {
            Self::NoReservation => HandOverReason::NO_RESERVATION,
            Self::Capability(_) => HandOverReason::CAPABILITY,
            Self::Rate(_) => HandOverReason::RATE,
        }
    }
}

/// Counts hand-overs: by holder at one device, by device, and altogether.
#[derive(Clone, Debug)]
pub struct HandOverRates {
    holders: RateLimiter<(DeviceKey, PublicKey)>,
    targets: RateLimiter<DeviceKey>,
    total: RateLimiter<()>,
}

impl HandOverRates {
    /// Tables for at most `keys_max` holders and devices each.
    #[must_use]
    pub const fn new(keys_max: usize) -> Self {
        Self { holders: RateLimiter::new(keys_max), targets: RateLimiter::new(keys_max), total: RateLimiter::new(1) }
    }

    fn take(&mut self, target: &DeviceKey, grant: &Grant, now: Instant) -> Result<(), RateError> {
        let rate = if grant.is_stranger {
            Rate { per_hour: grant.per_hour.min(STRANGER_RATE.per_hour), burst: STRANGER_RATE.burst }
        } else {
            Rate { per_hour: grant.per_hour, burst: HOLDER_BURST.min(grant.per_hour) }
        };
        self.holders.take(&(*target, grant.holder), rate, now)?;
        self.targets.take(target, TARGET_RATE, now)?;
        self.total.take(&(), TOTAL_RATE, now)
    }
}

/// Decides on a hand-over, as `relay`. `rules` are those of the device asked for, if it holds a reservation here; `presenter` is who the sender's
/// hello has shown.
///
/// # Errors
/// [`HandOverRefusal`]; only what has passed every other check is counted.
pub fn decide_hand_over(
    request: &InviteHandOver,
    rules: Option<&CapabilityRules>,
    presenter: Option<&VerifiedChain>,
    relay: &DeviceKey,
    rates: &mut HandOverRates,
    now: Now,
) -> Result<Grant, HandOverRefusal> {
    let rules = rules.filter(|rules| rules.device == request.target).ok_or(HandOverRefusal::NoReservation)?;
    let asked = CapabilityRequest {
        capability: &request.capability,
        proof: &request.proof,
        service: Service::InviteHandOver,
        request_hash: request.request_hash(),
        payload_bytes: request.sealed.as_bytes().len(),
        presenter,
    };
    let grant = capability::verify(&asked, rules, relay, now.unix)?;
    rates.take(&request.target, &grant, now.instant)?;
    Ok(grant)
}
