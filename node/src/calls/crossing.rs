//! Two users who have dialled each other: their two calls become one. Which of them goes on decides [`receive`].
//!
//! The device whose call goes on holds the other's back, and lets it have its turn if its own comes to nothing. The other device withdraws its
//! own and answers; whoever waits for the outcome of the dial gets that of the call that went on.

use std::time::{Duration, Instant};

use halloo_protocol::call::{
    CallId, CalleeState, Invite, PHONE_EXTENSION, PhonePart, PlacedCall, Reason, Reception, Situation, TELEPHONE_EXTENSION,
    TelephonePart, VerifiedInvite, receive,
};
use halloo_protocol::identity::UserId;
use tracing::info;

use super::incoming::Incoming;
use super::outgoing::Outgoing;
use crate::event_loop::EventLoop;
use crate::handle::calls::{CallError, CallOutcome, CallStageKind, DialOptions};
use crate::handle::{Event, Reply};

/// What is left of a dial whose call was withdrawn for one that came in.
#[derive(Debug)]
pub(super) struct Dialled {
    /// Who waits for the outcome. A closed reply means: hang up.
    pub(super) reply: Option<Reply<CallOutcome, CallError>>,
    duration: Option<Duration>,
}

impl Dialled {
    fn new(reply: Option<Reply<CallOutcome, CallError>>, options: &DialOptions) -> Self {
        Self { reply, duration: options.duration_ms.map(Duration::from_millis) }
    }
}

impl Incoming {
    /// Whether the person who dialled has left, or has talked for as long as was said.
    pub(super) fn is_dial_over(&self, now: Instant) -> bool {
        let Some(dialled) = &self.dialled else { return false };
        dialled.reply.as_ref().is_some_and(Reply::is_closed) || self.hang_up_at().is_some_and(|at| at <= now)
    }

    pub(super) fn hang_up_at(&self) -> Option<Instant> {
        if self.progress.ended.is_some() {
            return None;
        }
        Some(self.progress.connected_at? + self.dialled.as_ref()?.duration?)
    }
}

/// Not of the telephone network, nor for a certain phone: neither is what the user has dialled who dials the other.
fn is_between_users(invite: &Invite) -> bool {
    [TELEPHONE_EXTENSION, PHONE_EXTENSION].iter().all(|tag| invite.extensions.find(*tag).is_none())
}

impl EventLoop {
    /// What this device does with a new invite of somebody who may call.
    pub(super) fn reception(&self, invite: &VerifiedInvite) -> Reception {
        let caller = invite.caller_id();
        let here = Situation {
            own_dial: self.waiting_dial(caller, None, None).filter(|_| is_between_users(invite.invite())),
            is_engaged: self.calls.is_engaged(),
            rings_when_engaged: self.settings.calls.ring_when_busy,
            is_dnd: self.is_dnd(),
            may_disturb: self.may_disturb(caller),
        };
        receive((invite.invite().call, invite.caller_device()), &here)
    }

    /// What it does with a leg of a conference: only a dial of ours to the same user stands in its way.
    pub(super) fn reception_of_leg(&self, invite: &VerifiedInvite) -> Reception {
        let here = Situation { own_dial: self.waiting_dial(invite.caller_id(), None, None), ..Situation::default() };
        receive((invite.invite().call, invite.caller_device()), &here)
    }

    /// Our call to a user, to the same number through the same gateway, or to the same phone of the user's, that nobody has answered yet.
    pub(super) fn waiting_dial(
        &self,
        user: &UserId,
        telephone: Option<&TelephonePart>,
        phone: Option<PhonePart>,
    ) -> Option<PlacedCall> {
        let me = self.identity.device();
        let is_same = |call: &Outgoing| {
            let progress = &call.progress;
            progress.user == *user && progress.telephone.as_ref() == telephone && progress.phone == phone
        };
        let waiting = self.calls.outgoing.iter().filter(|(_, call)| call.machine.is_waiting() && is_same(call));
        waiting.map(|(call, _)| (*call, me)).min()
    }

    fn may_disturb(&self, user: &UserId) -> bool {
        self.settings.calls.may_disturb.iter().any(|name| self.labels.parse(name).is_ok_and(|named| named == *user))
    }

    /// A call of this user's that rings here: to dial them is to answer it.
    pub(super) fn ringing_call_of(&self, user: &UserId) -> Option<CallId> {
        let is_theirs = |call: &Incoming| call.rings() && call.progress.user == *user && call.progress.telephone.is_none();
        let ringing = self.calls.incoming.iter().filter(|(_, call)| is_theirs(call));
        ringing.map(|(call, _)| *call).min()
    }

    /// Answers a call that rings, for somebody who has dialled its caller.
    pub(super) fn answer_by_dial(&mut self, call: CallId, options: &DialOptions, reply: Reply<CallOutcome, CallError>) {
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return };
        incoming.dialled = Some(Dialled::new(Some(reply), options));
        incoming.progress.note(CallStageKind::Crossed, None, "this user was dialled while it rang");
        let user = incoming.progress.user.clone();
        self.begin_dial_answer(call, options);
        let to = self.labels.display(&user);
        self.events.send(Event::CallDialing { call_id: call.to_string(), to, presence: None, telephone: None, phone: None });
    }

    /// Withdraws a call of ours for one that came in, and answers that.
    pub(super) fn join_call(&mut self, own: CallId, call: CallId) {
        let Some(outgoing) = self.calls.outgoing.get_mut(&own) else { return };
        let (reply, options, audio) = (outgoing.take_reply(), outgoing.options.clone(), outgoing.audio.take());
        outgoing.joined = Some(call);
        outgoing.machine.withdraw(Instant::now());
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return };
        incoming.held_for = None;
        incoming.audio = audio;
        incoming.dialled = Some(Dialled::new(reply, &options));
        incoming.progress.note(CallStageKind::Crossed, None, format!("both had dialled: it goes on instead of our call {own}"));
        info!(call = %call.short(), own = %own.short(), "both had dialled: ours is withdrawn");
        self.events.send(Event::CallJoined { call_id: call.to_string(), instead_of: own.to_string() });
        self.drive_outgoing(own);
        self.begin_dial_answer(call, &options);
    }

    fn begin_dial_answer(&mut self, call: CallId, options: &DialOptions) {
        if options.offer.is_some() {
            // The embedder's engine has made an offer, and this one wants an answer.
            return self.ring_aloud(call);
        }
        let config = self.media_config(options.play.as_deref(), options.record.as_deref());
        let config = self.with_passthrough(call, config, &options.passthrough);
        let config = config.video_files(options.video_files()).microphone(options.microphone);
        self.begin_answer(call, config.relayed_only(options.relayed_only || self.settings.relayed_calls));
    }

    /// A call of ours is answered: those held back for it have no meaning any more.
    pub(super) fn drop_held(&mut self, own: CallId) {
        for call in self.held_for(own) {
            if let Some(incoming) = self.calls.incoming.get_mut(&call) {
                incoming.machine.decline(Reason::ANSWERED_ELSEWHERE, Instant::now());
            }
            self.drive_incoming(call);
        }
    }

    /// A call of ours has come to nothing: what was held back for it has its turn. It rings if the person had given up; else the person still
    /// waits to talk, and it is answered.
    pub(super) fn release_held(&mut self, own: CallId, by_person: bool) {
        for (index, call) in self.held_for(own).into_iter().enumerate() {
            let Some(incoming) = self.calls.incoming.get_mut(&call) else { continue };
            incoming.held_for = None;
            let is_leg = incoming.link.as_ref().is_some_and(|link| link.is_leg);
            if by_person && is_leg {
                self.answer_leg(call);
            } else if by_person {
                self.ring_aloud(call);
            } else if index == 0 {
                self.join_call(own, call);
            } else {
                incoming.machine.decline(Reason::BUSY, Instant::now());
                self.drive_incoming(call);
            }
        }
    }

    /// Calls held back for one of ours that may still be answered, the one that counts first.
    fn held_for(&self, own: CallId) -> Vec<CallId> {
        let is_held = |call: &Incoming| call.held_for == Some(own) && call.machine.state() == CalleeState::Ringing;
        let mut held: Vec<CallId> = self.calls.incoming.iter().filter(|(_, call)| is_held(call)).map(|(call, _)| *call).collect();
        held.sort_unstable();
        held
    }
}
