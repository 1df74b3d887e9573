//! The callee's end, on one device: it rings, somebody answers or not.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::invite::{INVITE_SECS_MAX, InviteWay, VerifiedInvite};
use super::sender::{Seen, SeenSequences, SignalSender};
use super::signal::{Signal, SignalBody, SignalStatus, VerifiedSignal};
use super::{CallTimers, Outcome, Reason};
use crate::choice::with_held;
use crate::id::CallId;
use crate::key::DeviceKey;
use crate::time::UnixTime;
use crate::wire::Extensions;

/// What a ringing starts from.
#[derive(Clone, Copy, Debug)]
pub struct CalleeParams {
    /// The call.
    pub call: CallId,
    /// The calling device.
    pub caller: DeviceKey,
    /// This device.
    pub me: DeviceKey,
    /// How long the invite is still good for.
    pub ring_for: Duration,
    /// How the invite came: unless on a stream, the caller is told by a signal that it rings.
    pub way: InviteWay,
    /// How long things may take.
    pub timers: CallTimers,
}

impl CalleeParams {
    /// What follows from an invite at the corrected time `now`.
    #[must_use]
    pub fn from_invite(invite: &VerifiedInvite, way: InviteWay, now: UnixTime, timers: CallTimers) -> Self {
        let content = invite.invite();
        // The validity bounds it from above whatever the caller's clock says.
        let secs = content.expires_at.secs_since(now).min(INVITE_SECS_MAX);
        let ring_for = Duration::from_secs(secs);
        Self { call: content.call, caller: invite.caller_device(), me: content.recipient, ring_for, way, timers }
    }
}

/// Where the call stands on this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalleeState {
    /// It rings.
    Ringing,
    /// Somebody answered here; the caller hasn't said yet that this device is the one. Media may start.
    Answering,
    /// The caller has taken the answer.
    Answered,
    /// Over.
    Ended(Outcome, Reason),
}

/// The timers of a callee's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalleeTimer {
    /// Until then it rings.
    Ring(Instant),
    /// Until then media must run.
    Connect(Instant),
    /// A signal is due again, or is given up.
    Retry(Instant),
}

impl CalleeTimer {
    const fn at(self) -> Instant {
        match self {
            Self::Ring(at) | Self::Connect(at) | Self::Retry(at) => at,
        }
    }
}

/// What the owner is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CalleeAction {
    /// Let the person hear it. Stop on [`CalleeAction::Finished`] or when the person answers.
    StartRinging,
    /// Sign this and send it to its `to`; bring the acknowledgement to [`CalleeCall::handle_ack`]. It comes again by itself.
    Send(Signal),
    /// The caller has taken the answer: this device is the one.
    Confirmed,
    /// A candidate of the caller's.
    AddCandidate {
        /// The candidate.
        candidate: String,
    },
    /// The call is over here: stop ringing and media. Signals may still follow until [`CalleeCall::is_done`].
    Finished {
        /// How.
        outcome: Outcome,
        /// Why.
        reason: Reason,
    },
}

/// One call, on one device of the callee. For each invite that [`super::RecentCalls`] calls new.
///
/// Contract as for [`super::CallerCall`]. A [`SignalBody::Cancel`] for a call not known yet is noted with [`super::RecentCalls::insert`], so that
/// the invite it overtook doesn't ring.
#[derive(Clone, Debug)]
pub struct CalleeCall {
    caller: DeviceKey,
    timers: CallTimers,
    state: CalleeState,
    ring_at: Instant,
    connect_at: Option<Instant>,
    seen: SeenSequences,
    sender: SignalSender,
    actions: VecDeque<CalleeAction>,
}

impl CalleeCall {
    /// Rings.
    #[must_use]
    pub fn new(params: CalleeParams, now: Instant) -> Self {
        let mut call = Self::silent(params, now);
        call.actions.push_back(CalleeAction::StartRinging);
        if params.way != InviteWay::Stream {
            call.sender.queue(call.caller, SignalBody::Ringing, now);
        }
        call.pump(now);
        call
    }

    /// Has the invite, and is silent until [`CalleeCall::ring`]: the user's policy has other devices ring first. The caller is told so, `held_secs`
    /// being how long; where it came on a stream, by the answer to it.
    #[must_use]
    pub fn hold(params: CalleeParams, held_secs: u16, now: Instant) -> Self {
        let mut call = Self::silent(params, now);
        if params.way != InviteWay::Stream {
            call.sender.queue_with(call.caller, SignalBody::Ringing, with_held(Extensions::none(), held_secs), now);
        }
        call.pump(now);
        call
    }

    /// Rings now, after it was held. False if the call is over or answered.
    pub fn ring(&mut self, now: Instant) -> bool {
        if self.state != CalleeState::Ringing || now >= self.ring_at {
            return false;
        }
        self.actions.push_back(CalleeAction::StartRinging);
        self.sender.queue(self.caller, SignalBody::Ringing, now);
        self.pump(now);
        true
    }

    /// Doesn't ring and tells the caller why: busy, do not disturb, not allowed. For invites that came with no stream to answer on.
    #[must_use]
    pub fn refuse(params: CalleeParams, reason: Reason, now: Instant) -> Self {
        let mut call = Self::silent(params, now);
        call.decline(reason, now);
        call
    }

    fn silent(params: CalleeParams, now: Instant) -> Self {
        Self {
            caller: params.caller,
            timers: params.timers,
            state: CalleeState::Ringing,
            ring_at: now + params.ring_for,
            connect_at: None,
            seen: SeenSequences::default(),
            sender: SignalSender::new(params.call, params.me, params.timers.retry, params.timers.give_up),
            actions: VecDeque::new(),
        }
    }

    /// The person answers, with `answer` (SDP) to the invite's offer. False if it no longer rings.
    pub fn answer(&mut self, answer: String, now: Instant) -> bool {
        if self.state != CalleeState::Ringing || now >= self.ring_at {
            return false;
        }
        self.state = CalleeState::Answering;
        self.connect_at = Some(now + self.timers.connect);
        self.sender.queue(self.caller, SignalBody::Accept { answer }, now);
        self.pump(now);
        true
    }

    /// Media can be connected while it rings: `answer` (SDP) to the invite's offer, which [`CalleeCall::answer`] is to repeat if it still stands. The
    /// caller is told with a ringing, and hears this device already if it `is_heard`. False if it no longer rings.
    pub fn answer_early(&mut self, answer: String, is_heard: bool, now: Instant) -> bool {
        if self.state != CalleeState::Ringing || now >= self.ring_at {
            return false;
        }
        self.sender.queue_with(self.caller, SignalBody::Ringing, Signal::with_early_answer(answer, is_heard), now);
        self.pump(now);
        true
    }

    /// The person, or a rule, says no. False if it no longer rings.
    pub fn decline(&mut self, reason: Reason, now: Instant) -> bool {
        if self.state != CalleeState::Ringing {
            return false;
        }
        let outcome = match reason {
            Reason::BUSY => Outcome::Busy,
            Reason::MEDIA_FAILED => Outcome::Failed,
            Reason::PHONE_NOT_HERE => Outcome::NoAnswer,
            _ => Outcome::Declined,
        };
        self.end(outcome, reason, Some(SignalBody::Decline { reason }), now);
        self.pump(now);
        true
    }

    /// Another device of the same user has said what became of the call: it stops ringing here, whatever the caller does. That it was declined is
    /// told to the caller as well, who may have missed it; an answer is for the device that gave it to tell.
    pub fn handle_own_device(&mut self, reason: Reason, now: Instant) {
        if self.state == CalleeState::Ringing {
            let tell = (reason == Reason::DECLINED_ELSEWHERE).then_some(SignalBody::Decline { reason });
            self.end(super::outcome_of_cancel(reason), reason, tell, now);
        }
        self.pump(now);
    }

    /// The person hangs up; while it rings this declines.
    pub fn hang_up(&mut self, now: Instant) {
        self.hang_up_for(Reason::HANGUP, now);
    }

    /// The same for a reason that concerns an answered call: the legs of a conference have such.
    pub fn hang_up_for(&mut self, reason: Reason, now: Instant) {
        match self.state {
            CalleeState::Ringing => {
                self.decline(Reason::DECLINED, now);
            }
            CalleeState::Answering | CalleeState::Answered => self.leave(reason, now),
            CalleeState::Ended(..) => {}
        }
        self.pump(now);
    }

    /// Media run.
    pub fn handle_media_connected(&mut self, now: Instant) {
        self.connect_at = None;
        self.pump(now);
    }

    /// Media are beyond repair.
    pub fn handle_media_failed(&mut self, now: Instant) {
        if matches!(self.state, CalleeState::Answering | CalleeState::Answered) {
            self.leave(Reason::MEDIA_FAILED, now);
        }
        self.pump(now);
    }

    /// A candidate of ours.
    pub fn add_local_candidate(&mut self, candidate: String, now: Instant) {
        if !self.is_ended() {
            self.sender.queue(self.caller, SignalBody::Candidate { candidate }, now);
        }
        self.pump(now);
    }

    /// A signal came; the result is the acknowledgement.
    pub fn handle_signal(&mut self, signal: &VerifiedSignal, now: Instant) -> SignalStatus {
        let Signal { from, sequence, body, .. } = signal.signal();
        if *from != self.caller {
            return SignalStatus::UnknownCall;
        }
        match self.seen.note(*sequence) {
            Seen::Again => return SignalStatus::Taken,
            Seen::TooMany => return SignalStatus::Refused(Reason::TOO_MANY),
            Seen::New => {}
        }
        let status = self.take_signal(body.clone(), now);
        self.pump(now);
        status
    }

    /// The acknowledgement of a signal came.
    pub fn handle_ack(&mut self, device: DeviceKey, sequence: u32, status: SignalStatus, now: Instant) {
        if let Some(acked) = self.sender.handle_ack(device, sequence) {
            match (&acked, status) {
                (SignalBody::Accept { .. }, SignalStatus::Taken) if self.state == CalleeState::Answering => {
                    self.state = CalleeState::Answered;
                    self.actions.push_back(CalleeAction::Confirmed);
                }
                (SignalBody::Accept { .. } | SignalBody::Ringing, SignalStatus::Refused(reason)) => {
                    self.end(super::outcome_of_cancel(reason), reason, None, now);
                }
                (_, SignalStatus::UnknownCall) => self.lose(now),
                _ => {}
            }
        }
        self.pump(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.state == CalleeState::Ringing && now >= self.ring_at {
            let body = SignalBody::Decline { reason: Reason::NO_ANSWER };
            self.end(Outcome::NoAnswer, Reason::NO_ANSWER, Some(body), now);
        }
        if self.connect_at.is_some_and(|at| now >= at) {
            self.leave(Reason::MEDIA_FAILED, now);
        }
        self.pump(now);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<CalleeAction> {
        self.actions.pop_front()
    }

    /// When [`CalleeCall::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers().map(CalleeTimer::at).min()
    }

    /// The timers that run.
    pub fn timers(&self) -> impl Iterator<Item = CalleeTimer> {
        let ring = (self.state == CalleeState::Ringing).then_some(CalleeTimer::Ring(self.ring_at));
        let connect = self.connect_at.map(CalleeTimer::Connect);
        [ring, connect, self.sender.poll_timeout().map(CalleeTimer::Retry)].into_iter().flatten()
    }

    /// Where the call stands.
    #[must_use]
    pub const fn state(&self) -> CalleeState {
        self.state
    }

    /// The calling device.
    #[must_use]
    pub const fn caller(&self) -> DeviceKey {
        self.caller
    }

    /// True once the call is over.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        matches!(self.state, CalleeState::Ended(..))
    }

    /// True once the call is over and nothing is left to send.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_ended() && self.sender.is_settled() && self.actions.is_empty()
    }

    fn take_signal(&mut self, body: SignalBody, now: Instant) -> SignalStatus {
        match body {
            SignalBody::Cancel { reason } => self.end(super::outcome_of_cancel(reason), reason, None, now),
            SignalBody::Replaced { .. } => self.end(Outcome::AnsweredElsewhere, Reason::ANSWERED_ELSEWHERE, None, now),
            SignalBody::HangUp { reason } => {
                let outcome = match self.state {
                    CalleeState::Ringing => Outcome::Cancelled,
                    _ => super::outcome_of_hang_up(reason),
                };
                self.end(outcome, reason, None, now);
            }
            SignalBody::Candidate { .. } if self.is_ended() => return SignalStatus::UnknownCall,
            SignalBody::Candidate { candidate } => self.actions.push_back(CalleeAction::AddCandidate { candidate }),
            SignalBody::Ringing | SignalBody::Accept { .. } | SignalBody::Decline { .. } => {
                return SignalStatus::Refused(Reason::INVALID);
            }
        }
        SignalStatus::Taken
    }

    /// The caller has no such call any more.
    fn lose(&mut self, now: Instant) {
        let outcome = if self.state == CalleeState::Answered { Outcome::Failed } else { Outcome::Cancelled };
        self.end(outcome, Reason::UNKNOWN_CALL, None, now);
    }

    /// Ends an answered call from here.
    fn leave(&mut self, reason: Reason, now: Instant) {
        self.end(super::outcome_of_hang_up(reason), reason, Some(SignalBody::HangUp { reason }), now);
    }

    fn end(&mut self, outcome: Outcome, reason: Reason, tell: Option<SignalBody>, now: Instant) {
        if self.is_ended() {
            return;
        }
        match tell {
            Some(body) => self.sender.queue(self.caller, body, now),
            // The caller knows: whatever still waits for it has no use.
            None => self.sender.clear(),
        }
        self.state = CalleeState::Ended(outcome, reason);
        self.connect_at = None;
        self.actions.push_back(CalleeAction::Finished { outcome, reason });
    }

    fn pump(&mut self, now: Instant) {
        let mut due = self.sender.take_due(now);
        let is_accept_lost = due.lost.iter().any(|signal| matches!(signal.body, SignalBody::Accept { .. }));
        if is_accept_lost && self.state == CalleeState::Answering {
            self.leave(Reason::SIGNALLING_LOST, now);
            due.send.extend(self.sender.take_due(now).send);
        }
        self.actions.extend(due.send.into_iter().map(CalleeAction::Send));
    }
}
