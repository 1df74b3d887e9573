//! What own devices, gateways and callers say about the choice of a device.

use bincode::{Decode, Encode};

use super::decide::Presence;
use super::policy::{POLICY_TEXT_BYTES_MAX, Policy};
use super::report::{DeviceReport, REPORTS_MAX};
use crate::key::DeviceKey;
use crate::push::{PushHandle, PushReason};
use crate::wire::{self, DecodeError, Extensions, FrameKind, Message};

/// Extension of an answer to an invite, of a ringing, and of a gateway's answer to a push: the policy of the callee lets this device ring only
/// later. Its value is how many seconds later, `u16`. A caller who doesn't know it takes the device for ringing.
pub const EXTENSION_HELD: u16 = 0x0040;

/// Longest time that a device or a gateway holds a call back, in seconds.
pub const HELD_SECS_MAX: u16 = super::LAST_STAGE_SECS;

/// How long a call is held back, by these extensions. Longer than [`HELD_SECS_MAX`] is that.
#[must_use]
pub fn held_for(extensions: &Extensions) -> Option<u16> {
    let bytes = extensions.find(EXTENSION_HELD)?;
    wire::decode::<u16>(bytes, 8).ok().map(|secs| secs.min(HELD_SECS_MAX))
}

/// Extensions that say that a call is held back.
#[must_use]
pub fn with_held(extensions: Extensions, secs: u16) -> Extensions {
    extensions.with(EXTENSION_HELD, wire::encode(&secs))
}

/// A report of a device, its own or passed on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OwnReport {
    /// The device.
    pub device: DeviceKey,
    /// What it said.
    pub report: DeviceReport,
}

fn check_reports(reports: &[OwnReport]) -> Result<(), DecodeError> {
    if reports.len() > REPORTS_MAX {
        return Err(DecodeError::invalid("reports", format!("{}, at most {REPORTS_MAX}", reports.len())));
    }
    reports.iter().try_for_each(|known| known.report.check())
}

/// "This is how my user's devices are", to every own device that is met, and when something changes. Refused from anybody else.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceReports {
    /// The newest that the sender knows, its own among them.
    pub reports: Vec<OwnReport>,
    /// Whether it asks for those the reader knows.
    pub wants_answer: bool,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for DeviceReports {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0096);
    const LIMIT: usize = 24 * 1024;

    fn check(&self) -> Result<(), DecodeError> {
        check_reports(&self.reports)
    }
}

/// The user's policy as text, to own devices that are met and when it changes. Refused from anybody else.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PolicyText {
    /// Grows with every change; the higher one counts, of equal ones the greater text.
    pub version: u64,
    /// The text; empty: there is none any more.
    pub text: String,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PolicyText {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0097);
    const LIMIT: usize = POLICY_TEXT_BYTES_MAX + 512;

    fn check(&self) -> Result<(), DecodeError> {
        if self.text.len() > POLICY_TEXT_BYTES_MAX {
            return Err(DecodeError::invalid("text", format!("{} bytes, at most {POLICY_TEXT_BYTES_MAX}", self.text.len())));
        }
        Ok(())
    }
}

/// "Decide for my user's devices by this": from a registered device to its gateway. It is about devices of the sender's user alone, and holds no
/// names: callers are the keys the gateway sees anyway.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushChoice {
    /// Version of the policy.
    pub version: u64,
    /// The policy; `None`: there is none, all devices are woken at once.
    pub policy: Option<Policy>,
    /// The newest report of each device, as far as the sender knows them.
    pub reports: Vec<OwnReport>,
    /// Devices of the user, also those without a report.
    pub devices: Vec<DeviceKey>,
    /// The user's presence.
    pub presence: Option<Presence>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl PushChoice {
    /// Checks counts, lengths and ranges.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`].
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.devices.len() > REPORTS_MAX {
            return Err(DecodeError::invalid("devices", format!("{}, at most {REPORTS_MAX}", self.devices.len())));
        }
        check_reports(&self.reports)?;
        self.policy.as_ref().map_or(Ok(()), Policy::check)
    }
}

impl Message for PushChoice {
    const KIND: FrameKind = FrameKind(0x0048);
    const LIMIT: usize = 48 * 1024;

    fn check(&self) -> Result<(), DecodeError> {
        Self::check(self)
    }
}

/// What became of [`PushChoice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ChoiceStatus {
    /// It is kept, and what the gateway decides from now on follows it.
    Kept {
        /// The version of the policy that counts: newer than the one sent if another device was first.
        version: u64,
    },
    /// Not here, or not from this device.
    Refused(PushReason),
}

/// Answer to [`PushChoice`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushChosen {
    /// What happened.
    pub status: ChoiceStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushChosen {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | PushChoice::KIND.0);
    const LIMIT: usize = 256;
}

/// "It is over": whoever handed over a push takes it back while the gateway holds it. Counts from the same connection alone.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushWithdraw {
    /// The registration the push is for.
    pub handle: PushHandle,
    /// What the push's proof was over ([`crate::push::PushSend::request_hash`]).
    pub request_hash: [u8; 32],
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushWithdraw {
    const KIND: FrameKind = FrameKind(0x0049);
    const LIMIT: usize = 256;
}

/// Answer to [`PushWithdraw`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushWithdrawn {
    /// True if it was held and isn't sent any more.
    pub was_held: bool,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushWithdrawn {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | PushWithdraw::KIND.0);
    const LIMIT: usize = 256;
}
