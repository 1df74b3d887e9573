//! What a device does with a new invite: ring, or one of the other things. One pure decision, so that two ends that know the same decide the same.
//!
//! Two users who dial each other at the same moment make two calls that mean one. Of the two the one with the lower id goes on: its caller
//! waits, and the other's device takes it as if the person had answered, for that person has dialled and is listening. Both ends see the same two
//! ids, so no message is needed to agree. A device that holds the other's invite back lets it have its turn if its own call comes to nothing.

use super::Reason;
use crate::id::CallId;
use crate::key::DeviceKey;

/// A call and the device that placed it. Ordered: of two that cross, the lesser goes on.
pub type PlacedCall = (CallId, DeviceKey);

/// What a device knows when an invite has been opened, is new, and comes from somebody who may call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// A call of this device to the very user who calls, which nobody has answered yet. The least of several.
    pub own_dial: Option<PlacedCall>,
    /// Whether this device is in a call, rings, or dials somebody.
    pub is_engaged: bool,
    /// Whether it rings all the same while it is.
    pub rings_when_engaged: bool,
    /// Whether the user doesn't want to be disturbed.
    pub is_dnd: bool,
    /// Whether this caller may ring all the same.
    pub may_disturb: bool,
}

/// What to do with the invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reception {
    /// Ring.
    Ring,
    /// Both have dialled, and the other's call goes on: answer it, and withdraw this one of ours ([`super::CallerCall::withdraw`]).
    Join(CallId),
    /// Both have dialled, and this one of ours goes on: say that it rings, and be silent. If ours ends without an answer, it is the other's turn.
    Hold(CallId),
    /// Don't ring, and say why.
    Refuse(Reason),
}

/// Decides what becomes of the call `invited`.
#[must_use]
pub fn receive(invited: PlacedCall, here: &Situation) -> Reception {
    if let Some(own) = here.own_dial {
        return if invited < own { Reception::Join(own.0) } else { Reception::Hold(own.0) };
    }
    if here.is_dnd && !here.may_disturb {
        return Reception::Refuse(Reason::DO_NOT_DISTURB);
    }
    if here.is_engaged && !here.rings_when_engaged {
        return Reception::Refuse(Reason::BUSY);
    }
    Reception::Ring
}
