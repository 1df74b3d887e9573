//! A gateway hands a push to another gateway of the same device, which decides on it by itself.
//!
//! The device names its other gateways in its registration with each ([`other_gateways`]). The gateway that a caller chose and that has no working channel
//! passes the caller's request on as it came: capability, proof, sealed part. The second checks all of it as if it had been asked, with two
//! differences: the proof is for the first gateway, and the handle is the first's; so it takes both from the first's signed word, and only from a gateway
//! that the device's registration names. A push is handed on once: nothing that came this way goes on.

use bincode::{Decode, Encode};

use super::registration::{PushRates, PushRefusal, Registration, decide_push};
use super::{PUSH_SEALED_BYTES_MAX, PushReason, PushRegister, PushSend, PushWay};
use crate::capability::Grant;
use crate::directory::Helper;
use crate::identity::{Chain, VerifiedChain};
use crate::key::DeviceKey;
use crate::time::{CLOCK_TOLERANCE_SECS, Now, UnixTime};
use crate::wire::{self, Body, DecodeError, Extensions, FrameKind, Message, Signed};

/// Most other gateways that a registration names.
pub const OTHER_GATEWAYS_MAX: usize = 3;

/// Extension of [`PushRegister`]: an encoded list of [`Helper`]s.
const OTHER_GATEWAYS_EXTENSION: u16 = 0x004c;

/// Largest encoded list.
const OTHER_GATEWAYS_BYTES_MAX: usize = 2 * 1024;

/// Puts a device's other gateways into its registration; at most [`OTHER_GATEWAYS_MAX`] are taken.
#[must_use]
pub fn put_other_gateways(extensions: Extensions, gateways: &[Helper]) -> Extensions {
    let gateways: Vec<Helper> = gateways.iter().take(OTHER_GATEWAYS_MAX).cloned().collect();
    if gateways.is_empty() { extensions } else { extensions.with(OTHER_GATEWAYS_EXTENSION, wire::encode(&gateways)) }
}

/// The other gateways that a registration names; none if it names none that can be read.
#[must_use]
pub fn other_gateways(registration: &PushRegister) -> Vec<Helper> {
    let Some(bytes) = registration.extensions.find(OTHER_GATEWAYS_EXTENSION) else { return Vec::new() };
    let gateways: Vec<Helper> = wire::decode(bytes, OTHER_GATEWAYS_BYTES_MAX).unwrap_or_default();
    let is_good = gateways.len() <= OTHER_GATEWAYS_MAX && gateways.iter().all(|gateway| gateway.check().is_ok());
    if is_good { gateways } else { Vec::new() }
}

/// The first gateway's word on a push. Signed by it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HandOn {
    /// The first gateway.
    pub from: DeviceKey,
    /// The second one: the word can't be carried to a third.
    pub to: DeviceKey,
    /// The device to wake.
    pub device: DeviceKey,
    /// [`PushSend::request_hash`] of the push.
    pub request_hash: [u8; 32],
    /// When.
    pub at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for HandOn {
    const KIND: u16 = 0x0511;
    const LIMIT: usize = 512;
}

/// "Wake this device in my place."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushHandOn {
    /// The first gateway's word.
    pub word: Signed<HandOn>,
    /// The caller's request as it came.
    pub push: PushSend,
    /// Who the caller has shown to be, if its capability is for anybody who does.
    pub caller: Option<Chain>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushHandOn {
    const KIND: FrameKind = FrameKind(0x004c);
    const LIMIT: usize = PUSH_SEALED_BYTES_MAX + 6 * 1024;
}

/// Answer to [`PushHandOn`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushHandedOn {
    /// By which ways it goes; `Err` if it doesn't.
    pub result: Result<Vec<PushWay>, PushReason>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushHandedOn {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | PushHandOn::KIND.0);
    const LIMIT: usize = 256;

    fn check(&self) -> Result<(), DecodeError> {
        match &self.result {
            Ok(ways) if ways.len() > super::CHANNELS_MAX => Err(DecodeError::invalid("ways", "too many")),
            _ => Ok(()),
        }
    }
}

/// Decides on a push that another gateway hands on, as `gateway`. `registration` is that of the device the word names, `sender` the device at the other
/// end of the connection, `caller` what the caller's chain shows.
///
/// # Errors
/// [`PushRefusal`].
pub fn decide_hand_on(
    request: &PushHandOn,
    registration: Option<&Registration>,
    sender: &DeviceKey,
    caller: Option<&VerifiedChain>,
    gateway: &DeviceKey,
    rates: &mut PushRates,
    now: Now,
) -> Result<Grant, PushRefusal> {
    let word = request.word.unverified();
    let registration = registration.filter(|known| known.device() == word.device).ok_or(PushRefusal::UnknownHandle)?;
    let is_named = other_gateways(&registration.request).iter().any(|other| other.device == word.from);
    let is_sender = *sender == word.from;
    let fits = word.to == *gateway && word.request_hash == request.push.request_hash();
    let age = now.unix.secs_since(word.at);
    let is_fresh = !word.at.is_from_the_future(now.unix) && age <= CLOCK_TOLERANCE_SECS;
    if !is_named || !is_sender || !fits || !is_fresh || request.word.verify(&word.from.0).is_err() {
        return Err(PushRefusal::Invalid(DecodeError::invalid("hand-on", "not a gateway's word that counts here")));
    }
    // The same registration under the first gateway's handle, and the first gateway as the helper that the caller has asked.
    let as_first = Registration { handle: request.push.handle, ..registration.clone() };
    let grant = decide_push(&request.push, Some(&as_first), caller, &word.from, rates, now)?;
    // Under the handle here too: a gateway could make up handles as it likes.
    rates.take(&registration.handle, &grant, now.instant)?;
    Ok(grant)
}
