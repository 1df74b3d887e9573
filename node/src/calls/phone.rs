//! Calls to one phone of a user's, by its own SIP address (GRUU, RFC 5627): what is dialled becomes a part of the invite, and a device judges whether it may have that
//! phone. Which phones are registered knows the edge alone.

use halloo_protocol::call::{InviteStatus, PhonePart, Reason, VerifiedInvite};
use halloo_protocol::sip::gruu::PhoneMark;

use super::incoming::Rung;
use crate::event_loop::EventLoop;
use crate::handle::problem::NodeError;

/// Longest instance of a phone.
const INSTANCE_BYTES_MAX: usize = 256;

/// What the invite says of a phone that is dialled by its instance.
///
/// # Errors
/// [`NodeError::Unsupported`] if that can't be one.
pub(super) fn part_of(instance: Option<&str>) -> Result<Option<PhonePart>, NodeError> {
    let Some(instance) = instance else { return Ok(None) };
    if instance.is_empty() || instance.len() > INSTANCE_BYTES_MAX {
        return Err(NodeError::Unsupported { what: "a phone's instance that is empty or longer than 256 bytes" });
    }
    Ok(Some(PhonePart(PhoneMark::of(instance))))
}

impl EventLoop {
    /// The phone that an invite is for, if it is for one alone; or why it doesn't ring: this device has no phones.
    pub(super) fn judge_phone(&mut self, invite: &VerifiedInvite) -> Result<Option<PhonePart>, Rung> {
        match PhonePart::of(invite.invite()) {
            Ok(Some(_)) if !self.settings.has_phones => Err(refused(Reason::PHONE_NOT_HERE, Reason::PHONE_NOT_HERE.to_string())),
            Ok(part) => Ok(part),
            Err(_) => {
                self.counters.malformed += 1;
                Err(refused(Reason::INVALID, "which phone it is for can't be read".to_owned()))
            }
        }
    }
}

fn refused(reason: Reason, words: String) -> Rung {
    Rung { status: InviteStatus::Refused(reason), call: None, from: None, refusal: Some(words), held_secs: None }
}
