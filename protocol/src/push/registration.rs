//! What a gateway keeps about a device, and its decisions: pure functions, each with its reason.

use std::time::Instant;

use bincode::{Decode, Encode};

use super::{PUSH_SEALED_BYTES_MAX, PushChannel, PushHandle, PushReason, PushRegister, PushSend, PushWay, TTL_SECS_MAX};
use crate::capability::{self, CapabilityError, CapabilityRequest, CapabilityRules, Grant, Service};
use crate::identity::VerifiedChain;
use crate::key::{DeviceKey, PublicKey};
use crate::rate::{Rate, RateError, RateLimiter};
use crate::time::{Now, UnixTime};
use crate::wire::DecodeError;

/// How long a registration lasts unrenewed: a phone in a drawer is still found, as long as its directory entry.
pub const REGISTRATION_SECS: u64 = 30 * 86_400;

/// Pushes per hour the gateway passes to one device whoever sends them.
const DEVICE_RATE: Rate = Rate { per_hour: 600, burst: 60 };

/// Most pushes at once of one holder.
const HOLDER_BURST: u32 = 10;

/// Most at once of a stranger, and per hour, whatever the capability says.
const STRANGER_RATE: Rate = Rate { per_hour: 6, burst: 3 };

/// A device at its gateway.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Registration {
    /// Its handle.
    pub handle: PushHandle,
    /// The device; its user and whose capabilities count.
    pub rules: CapabilityRules,
    /// What it said about itself.
    pub request: PushRegister,
    /// When it ends unless renewed.
    pub expires_at: UnixTime,
}

impl Registration {
    /// The device.
    #[must_use]
    pub const fn device(&self) -> DeviceKey {
        self.rules.device
    }

    /// Takes a channel away that the push service says is gone. True if none is left: tell those who push [`PushReason::GONE`].
    pub fn remove_channel(&mut self, channel: &PushChannel) -> bool {
        self.request.channels.retain(|known| known != channel);
        self.request.channels.is_empty()
    }
}

/// Whom a gateway registers and with what.
#[derive(Clone, Copy, Debug)]
pub struct GatewayPolicy {
    /// Most registrations.
    pub registrations_max: usize,
    /// By which ways it can deliver.
    pub ways: PushWays,
}

/// Some of the ways to deliver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushWays(u32);

impl PushWays {
    /// What needs nobody else: the stream, Web Push and webhooks.
    pub const OWN: Self = Self::NONE.with(PushWay::Stream).with(PushWay::WebPush).with(PushWay::Webhook);
    /// None.
    pub const NONE: Self = Self(0);

    /// These and `way`.
    #[must_use]
    pub const fn with(self, way: PushWay) -> Self {
        Self(self.0 | 1 << way as u32)
    }

    /// True if `way` is one of them.
    #[must_use]
    pub const fn contains(self, way: PushWay) -> bool {
        self.0 & 1 << way as u32 != 0
    }
}

/// Why a device isn't registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterRefusal {
    /// The device's user has no name.
    #[error("only certified devices are registered")]
    NotCertified,
    /// A field is out of range.
    #[error(transparent)]
    Invalid(#[from] DecodeError),
    /// The gateway can't use one of the channels.
    #[error("channel {0:?} isn't available here")]
    Channel(PushWay),
    /// The table is full.
    #[error("the gateway has no room for another device")]
    Full,
}

impl RegisterRefusal {
    /// The number to answer with.
    #[must_use]
    pub const fn reason(&self) -> PushReason {
        match self {
            Self::NotCertified => PushReason::NOT_CERTIFIED,
            Self::Invalid(_) => PushReason::INVALID,
            Self::Channel(_) => PushReason::CHANNEL,
            Self::Full => PushReason::FULL,
        }
    }
}

/// Devices whose users have no name are taken while no more than one in so many places is.
const UNNAMED_PART: usize = 16;

/// Decides on a registration. `known` is the device's present one, whose handle, epoch and revocations stay; `fresh_handle` must be random.
///
/// # Errors
/// [`RegisterRefusal`].
pub fn decide_register(
    request: PushRegister,
    device: &VerifiedChain,
    known: Option<&Registration>,
    registered: usize,
    fresh_handle: PushHandle,
    policy: &GatewayPolicy,
    now: UnixTime,
) -> Result<Registration, RegisterRefusal> {
    // Identities without a name cost nothing: all of them together get a small part, and take none from others.
    let is_unnamed = device.user.name().is_none();
    if is_unnamed && known.is_none() && registered >= policy.registrations_max / UNNAMED_PART {
        return Err(RegisterRefusal::NotCertified);
    }
    request.check()?;
    if let Some(channel) = request.channels.iter().find(|channel| !policy.ways.contains(channel.way())) {
        return Err(RegisterRefusal::Channel(channel.way()));
    }
    if known.is_none() && registered >= policy.registrations_max {
        return Err(RegisterRefusal::Full);
    }
    let kept = known.filter(|known| known.device() == device.device && known.rules.identity == device.user.identity);
    let mut rules = kept
        .map_or_else(|| CapabilityRules::new(device.device, device.user.identity, request.epoch), |known| known.rules.clone());
    rules.raise_epoch(request.epoch);
    for id in &request.revoked {
        if !rules.revoke(*id) {
            return Err(DecodeError::invalid("revoked", "more than the gateway keeps: raise the epoch").into());
        }
    }
    let handle = kept.map_or(fresh_handle, |known| known.handle);
    Ok(Registration { handle, rules, request, expires_at: now.plus_secs(REGISTRATION_SECS) })
}

/// Why a push isn't passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushRefusal {
    /// No such handle, or its time is over.
    #[error("no device is registered under this handle")]
    UnknownHandle,
    /// All its channels are gone.
    #[error("the device has no channel left")]
    Gone,
    /// The sealed part is too large.
    #[error("{0} bytes, at most {PUSH_SEALED_BYTES_MAX}")]
    TooLarge(usize),
    /// A hint is out of range.
    #[error(transparent)]
    Invalid(#[from] DecodeError),
    /// No leave.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// Too many, of this holder or for this device.
    #[error(transparent)]
    Rate(#[from] RateError),
}

impl PushRefusal {
    /// The number to answer with.
    #[must_use]
    pub const fn reason(&self) -> PushReason {
        match self {
            Self::UnknownHandle => PushReason::UNKNOWN_HANDLE,
            Self::Gone => PushReason::GONE,
            Self::TooLarge(_) => PushReason::TOO_LARGE,
            Self::Invalid(_) => PushReason::INVALID,
            Self::Capability(_) => PushReason::CAPABILITY,
            Self::Rate(_) => PushReason::RATE,
        }
    }
}

/// Counts pushes: by holder at one device, and by device.
#[derive(Clone, Debug)]
pub struct PushRates {
    holders: RateLimiter<(PushHandle, PublicKey)>,
    devices: RateLimiter<PushHandle>,
}

impl PushRates {
    /// Tables for at most `keys_max` holders and devices each.
    #[must_use]
    pub const fn new(keys_max: usize) -> Self {
        Self { holders: RateLimiter::new(keys_max), devices: RateLimiter::new(keys_max) }
    }

    pub(super) fn take(&mut self, handle: &PushHandle, grant: &Grant, now: Instant) -> Result<(), RateError> {
        let rate = if grant.is_stranger {
            Rate { per_hour: grant.per_hour.min(STRANGER_RATE.per_hour), burst: STRANGER_RATE.burst }
        } else {
            Rate { per_hour: grant.per_hour, burst: HOLDER_BURST.min(grant.per_hour) }
        };
        // The device first: whoever issues leaves without end for their own device fills the table of holders no faster than that.
        self.devices.take(handle, DEVICE_RATE, now)?;
        self.holders.take(&(*handle, grant.holder), rate, now)
    }
}

/// Decides on a push, as `gateway`. `presenter` is who the sender's hello has shown.
///
/// # Errors
/// [`PushRefusal`]; only what has passed every other check is counted.
pub fn decide_push(
    request: &PushSend,
    registration: Option<&Registration>,
    presenter: Option<&VerifiedChain>,
    gateway: &DeviceKey,
    rates: &mut PushRates,
    now: Now,
) -> Result<Grant, PushRefusal> {
    let known = registration.filter(|known| known.handle == request.handle && now.unix <= known.expires_at);
    let registration = known.ok_or(PushRefusal::UnknownHandle)?;
    if request.sealed.len() > PUSH_SEALED_BYTES_MAX {
        return Err(PushRefusal::TooLarge(request.sealed.len()));
    }
    if request.hints.ttl_secs > TTL_SECS_MAX {
        return Err(DecodeError::invalid("ttl_secs", format!("{}, at most {TTL_SECS_MAX}", request.hints.ttl_secs)).into());
    }
    if registration.request.channels.is_empty() {
        return Err(PushRefusal::Gone);
    }
    let asked = CapabilityRequest {
        capability: &request.capability,
        proof: &request.proof,
        service: Service::Push,
        request_hash: request.request_hash(),
        payload_bytes: request.sealed.len(),
        presenter,
    };
    let mut grant = capability::verify(&asked, &registration.rules, gateway, now.unix)?;
    // A device that tests its gateway is no stranger, though it has no leave under a pairwise key.
    grant.is_stranger &= presenter.is_none_or(|chain| chain.device != registration.device());
    rates.take(&request.handle, &grant, now.instant)?;
    Ok(grant)
}
