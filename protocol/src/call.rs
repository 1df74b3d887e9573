//! Calls: what caller and callee say to each other, and how each end decides.
//!
//! The parties are one device of the caller and every device of the callee. In order:
//!
//! 1. The caller seals one [`Invite`] to each device ([`SealedInvite`]) and sends the same bytes on every way it has: an open
//!    stream ([`CallInvite`]), the callee's relay ([`InviteHandOver`]), a gateway.
//! 2. The first copy to arrive rings the device, later ones are duplicates ([`RecentCalls`]). An invite on a stream is answered at once
//!    ([`InviteAnswer`]); one that came another way is answered by a [`SignalBody::Ringing`] straight to the
//!    caller, or, where the caller isn't to learn where the device is, by way of whoever brought it ([`SignalPass`]).
//!    To a contact the device also says with what media can be connected while it rings ([`Signal::early_answer`]); nothing is heard yet.
//! 3. A person answers: [`SignalBody::Accept`] with the answer to the offer. The first accept wins; the acknowledgement tells the device
//!    whether it is the one. The others hear [`SignalBody::Replaced`].
//! 4. Candidates trickle both ways ([`SignalBody::Candidate`]), media runs beside, and either end hangs up.
//!
//! Every signal is signed by the device that says it, numbered, and repeated until acknowledged. The machines are [`CallerCall`] and
//! [`CalleeCall`]; both end by themselves whatever is lost: every state has a deadline, save a call whose media run.
//!
//! A call becomes a conference when somebody is added: [`conference`].
//!
//! Two users who dial each other at the same moment make two calls here. Which of them goes on is decided by [`receive`], with everything else
//! that becomes of an invite; joining them is for whoever owns both machines. This module never reads a clock, holds no keys and opens no
//! socket.

mod callee;
mod caller;
pub mod conference;
mod hand_over;
pub(crate) mod hpke_key;
mod invite;
mod phone;
mod recent;
mod reception;
mod sender;
mod signal;
mod telephone;
#[cfg(test)]
mod tests;
mod trace;

use std::fmt;
use std::time::Duration;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

pub use crate::id::CallId;
pub use callee::{CalleeAction, CalleeCall, CalleeParams, CalleeState, CalleeTimer};
pub use caller::{CallerAction, CallerCall, CallerParams, CallerState, CallerTimer, EARLY_LEGS_MAX, LegState};
pub use hand_over::{
    HandOverAnswer, HandOverRates, HandOverReason, HandOverRefusal, HandOverRules, HandOverStatus, HandedOverAnswer,
    InviteHandOver, InviteHandedOver, PassStatus, SignalPass, SignalPassed, WORD_BYTES_MAX, decide_hand_over, may_pass,
    open_word, word_of,
};
pub use hpke_key::{HPKE_ROTATION_SECS, HpkeKeyPair, HpkeKeyRing};
pub use invite::{
    AvatarLink, CallInvite, DISPLAY_NAME_BYTES_MAX, INVITE_SECS_MAX, INVITE_SIZE_CLASSES, Invite, InviteAnswer, InviteError,
    InviteStatus, InviteWay, Origin, SEALED_INVITE_BYTES_MAX, SealInviteError, SealedInvite, VerifiedInvite,
};
pub use phone::{PHONE_EXTENSION, PhonePart};
pub use recent::{RECENT_CALLS_MAX, RecentCalls, WithdrawnCalls};
pub use reception::{PlacedCall, Reception, Situation, receive};
pub use signal::{
    CANDIDATE_BYTES_MAX, CallSignal, CallSignalAck, SDP_BYTES_MAX, Signal, SignalBody, SignalError, SignalStatus, VerifiedSignal,
};
pub use telephone::{TELEPHONE_EXTENSION, TelephonePart};
pub use trace::{Begun, CallTraceAsk, CallTraced, TRACE_DETAIL_BYTES_MAX, TRACE_STAGES_MAX, Trace, TraceKind, TraceStage};

/// How a call ended, for people and programs. Prints as the interface names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// They talked and somebody hung up.
    Completed,
    /// The callee said no.
    Declined,
    /// Every device that could be reached was in a call.
    Busy,
    /// It rang until the time was over. At the callee: a missed call.
    NoAnswer,
    /// No device could be reached.
    Unreachable,
    /// The caller gave up before an answer. At the callee: a missed call.
    Cancelled,
    /// Answered, but it broke.
    Failed,
    /// At the callee's other devices: one of its own answered.
    AnsweredElsewhere,
}

impl Outcome {
    /// The name in JSON and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Declined => "declined",
            Self::Busy => "busy",
            Self::NoAnswer => "no-answer",
            Self::Unreachable => "unreachable",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::AnsweredElsewhere => "answered-elsewhere",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why something ended or was refused: a number on the wire, so that a reader who doesn't know it still knows that it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Reason(pub u16);

impl Reason {
    /// Somebody hung up; nothing wrong.
    pub const HANGUP: Self = Self(0);
    /// A person said no.
    pub const DECLINED: Self = Self(1);
    /// In another call.
    pub const BUSY: Self = Self(2);
    /// Doesn't want to be disturbed now.
    pub const DO_NOT_DISTURB: Self = Self(3);
    /// The caller gave up.
    pub const CANCELLED: Self = Self(4);
    /// It rang until the time was over.
    pub const NO_ANSWER: Self = Self(5);
    /// Another device answered.
    pub const ANSWERED_ELSEWHERE: Self = Self(6);
    /// Another device declined.
    pub const DECLINED_ELSEWHERE: Self = Self(7);
    /// Nothing of the device was heard in time, or every way to it failed.
    pub const UNREACHABLE: Self = Self(8);
    /// Media never connected, or broke.
    pub const MEDIA_FAILED: Self = Self(9);
    /// Signals weren't acknowledged any more.
    pub const SIGNALLING_LOST: Self = Self(10);
    /// The callee takes no calls from this caller.
    pub const NOT_ALLOWED: Self = Self(11);
    /// The invite was past its expiry.
    pub const EXPIRED: Self = Self(12);
    /// The invite couldn't be opened or believed.
    pub const INVALID: Self = Self(13);
    /// Neither side knows the call any more.
    pub const UNKNOWN_CALL: Self = Self(14);
    /// The device asks too much.
    pub const TOO_MANY: Self = Self(15);
    /// There is no leg for whoever asks: the device isn't in the conference, or they aren't any more.
    pub const NOT_IN_CONFERENCE: Self = Self(17);
    /// As many people as a conference holds are there already.
    pub const CONFERENCE_FULL: Self = Self(18);
    /// Another call between the two took this one's place.
    pub const REPLACED: Self = Self(19);
    /// A message that the device couldn't decrypt, however often it was encrypted anew.
    pub const UNDECRYPTABLE: Self = Self(20);
    /// No room for another recording of this caller's.
    pub const VOICEMAIL_FULL: Self = Self(21);
    /// The name has another identity key by now than the one that was meant. Nobody says it to others.
    pub const OTHER_IDENTITY: Self = Self(22);
    /// A telephone number was dialled, and the device is no gateway to the telephone network.
    pub const TELEPHONE_NO_GATEWAY: Self = Self(0xd0);
    /// The gateway's owner hasn't named whoever calls.
    pub const TELEPHONE_NOT_NAMED: Self = Self(0xd1);
    /// What was dialled is no telephone number there.
    pub const TELEPHONE_NUMBER: Self = Self(0xd2);
    /// An emergency number, and the gateway isn't set up for those.
    pub const TELEPHONE_EMERGENCY: Self = Self(0xd3);
    /// No trunk that the caller may use leads there.
    pub const TELEPHONE_NO_TRUNK: Self = Self(0xd4);
    /// What the owner allows to be spent in a day is spent.
    pub const TELEPHONE_LIMIT: Self = Self(0xd5);
    /// No trunk could carry the call.
    pub const TELEPHONE_FAILED: Self = Self(0xd6);
    /// The telephone network doesn't know the number.
    pub const TELEPHONE_UNKNOWN: Self = Self(0xd7);
    /// Nobody has answered the telephone.
    pub const TELEPHONE_NO_ANSWER: Self = Self(0xd8);
    /// Whoever has the telephone said no.
    pub const TELEPHONE_DECLINED: Self = Self(0xd9);
    /// One phone of the user's was called, and it isn't registered at this device.
    pub const PHONE_NOT_HERE: Self = Self(0xda);
}

/// For people; numbers of later versions print as `reason N`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::HANGUP => "hung up",
            Self::DECLINED => "declined",
            Self::BUSY => "in another call",
            Self::DO_NOT_DISTURB => "doesn't want to be disturbed",
            Self::CANCELLED => "cancelled by the caller",
            Self::NO_ANSWER => "nobody answered",
            Self::ANSWERED_ELSEWHERE => "answered on another device",
            Self::DECLINED_ELSEWHERE => "declined on another device",
            Self::UNREACHABLE => "no device could be reached",
            Self::MEDIA_FAILED => "no connection for audio",
            Self::SIGNALLING_LOST => "the other side stopped answering",
            Self::NOT_ALLOWED => "not a contact of the callee, who takes no calls from others",
            Self::EXPIRED => "the invite came too late",
            Self::INVALID => "the invite couldn't be read",
            Self::UNKNOWN_CALL => "the call is over",
            Self::TOO_MANY => "too many calls",
            Self::NOT_IN_CONFERENCE => "not in the conference",
            Self::CONFERENCE_FULL => "the conference is full",
            Self::REPLACED => "another call took its place",
            Self::UNDECRYPTABLE => "the device couldn't decrypt it",
            Self::VOICEMAIL_FULL => "no room for another recording",
            Self::OTHER_IDENTITY => "the name is another's by now",
            Self::TELEPHONE_NO_GATEWAY => "not a gateway to the telephone network",
            Self::TELEPHONE_NOT_NAMED => "the owner of the telephone gateway hasn't named you",
            Self::TELEPHONE_NUMBER => "not a telephone number that can be dialled there",
            Self::TELEPHONE_EMERGENCY => "an emergency number, and the gateway isn't set up for those: use another telephone",
            Self::TELEPHONE_NO_TRUNK => "the gateway has no trunk to this number for you",
            Self::TELEPHONE_LIMIT => "the gateway's spending limit is reached for today",
            Self::TELEPHONE_FAILED => "no trunk of the gateway could carry the call",
            Self::TELEPHONE_UNKNOWN => "the telephone network doesn't know the number",
            Self::TELEPHONE_NO_ANSWER => "nobody has answered the telephone",
            Self::TELEPHONE_DECLINED => "declined at the telephone",
            Self::PHONE_NOT_HERE => "the phone isn't registered",
            Self(other) => return write!(f, "reason {other}"),
        })
    }
}

/// What a hang-up with this reason makes of an answered call.
const fn outcome_of_hang_up(reason: Reason) -> Outcome {
    match reason {
        Reason::MEDIA_FAILED | Reason::SIGNALLING_LOST | Reason::UNKNOWN_CALL => Outcome::Failed,
        _ => Outcome::Completed,
    }
}

/// What a cancel with this reason makes of a call that rang here, or was to ring.
#[must_use]
pub const fn outcome_of_cancel(reason: Reason) -> Outcome {
    match reason {
        Reason::ANSWERED_ELSEWHERE => Outcome::AnsweredElsewhere,
        Reason::DECLINED | Reason::DECLINED_ELSEWHERE | Reason::NOT_ALLOWED => Outcome::Declined,
        Reason::NO_ANSWER | Reason::UNREACHABLE => Outcome::NoAnswer,
        Reason::BUSY => Outcome::Busy,
        Reason::MEDIA_FAILED | Reason::SIGNALLING_LOST => Outcome::Failed,
        Reason::HANGUP => Outcome::Completed,
        _ => Outcome::Cancelled,
    }
}

/// The durations of a call. Every state but running media has one, so no call hangs for ever.
#[derive(Clone, Copy, Debug)]
pub struct CallTimers {
    /// From the dial until the first sign of any device; then the call is unreachable. Covers a push (three one-way trips and a cold
    /// start), not a person's patience.
    pub reach: Duration,
    /// From the dial until nobody is taken to answer.
    pub ring: Duration,
    /// From the answer until media must run.
    pub connect: Duration,
    /// First repetition of a signal; doubled each time up to eight times this.
    pub retry: Duration,
    /// When a signal is given up.
    pub give_up: Duration,
}

impl Default for CallTimers {
    /// 12 s to the first sign, 60 s of ringing (what telephone networks use), 20 s for media (ICE gives up after about 15), signals
    /// every 0.5 to 4 s for 15 s.
    fn default() -> Self {
        Self {
            reach: Duration::from_secs(12),
            ring: Duration::from_secs(60),
            connect: Duration::from_secs(20),
            retry: Duration::from_millis(500),
            give_up: Duration::from_secs(15),
        }
    }
}
