//! Calls that come in.

mod look;

use std::time::{Duration, Instant};

use halloo_protocol::call::conference::{ConferencePart, Participant};
use halloo_protocol::call::{
    CallId, CallInvite, CallTimers, CalleeAction, CalleeCall, CalleeParams, CalleeState, InviteAnswer, InviteError, InviteStatus,
    InviteWay, Outcome, PhonePart, Reason, Reception, SealedInvite, Signal, TelephonePart, VerifiedInvite, may_pass,
    outcome_of_cancel, word_of,
};
use halloo_protocol::choice::with_held;
use halloo_protocol::contact::privacy::Relation;
use halloo_protocol::event::EventKind;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::message::CallFate;
use halloo_protocol::wire::{Extensions, Signed};
use tracing::{debug, info};

use super::conference::Link;
use super::crossing::Dialled;
use super::driver::MediaDriver;
use super::early::{CANDIDATES_MAX, EarlyMedia};
use super::media::{MediaSession, Room};
use super::own_audio::AudioEnds;
use super::own_engine::{self, OwnEngine, VideoEnds};
use super::telephone::{Telephone, words};
use super::trace::Ends;
use super::{CALLS_MAX, CallsState, Progress, SUMMARY_WAIT, reason_of_fate};
use crate::address;
use crate::choice::Turn;
use crate::event_loop::EventLoop;
use crate::handle::calls::{AnswerOptions, CallError, CallStageKind, CallState, CallWay};
use crate::handle::linked::LinkedPeer;
use crate::handle::problem::NodeError;
use crate::handle::{Event, Reply};
use crate::network::Target;
use crate::timestamp::Timestamp;
use crate::wording::{Sentence, ShownOn};

/// A call that came in.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) machine: CalleeCall,
    pub(super) progress: Progress,
    pub(super) media: Option<MediaDriver>,
    /// Media connected while it rings.
    pub(super) early: Option<EarlyMedia>,
    /// Whether its caller is a contact, and may learn where this device is before somebody answers.
    pub(super) is_from_contact: bool,
    caller: DeviceKey,
    /// Who calls.
    pub(super) other: Participant,
    /// The conference that it belongs to, if it does.
    pub(super) link: Option<Link>,
    /// The call that rings for the same conference: nobody hears this one.
    pub(super) twin_of: Option<CallId>,
    /// When it rings, if the user's policy has other devices ring before.
    held_until: Option<Instant>,
    /// Which device of this user shows it, if this one can't.
    shown_on: Option<ShownOn>,
    /// What is said and heard, once it is being answered.
    pub(super) room: Option<Room>,
    /// What is shown and seen, in a video call.
    pub(super) video: Option<VideoEnds>,
    /// Encoded audio, once answered, where that is the embedder's.
    pub(super) audio: Option<AudioEnds>,
    /// Where media are the embedder's.
    pub(super) own: Option<OwnEngine>,
    /// What the caller has trickled before there was a session to give it to.
    pub(super) candidates: Vec<String>,
    pub(super) target: Target,
    /// Where signals go until the call is answered: for a caller who isn't to learn our address before.
    hidden: Option<Hidden>,
    pub(super) offer: String,
    way: InviteWay,
    /// The call of ours that goes on instead, as long as it does: both have dialled. Nobody hears this one then.
    pub(super) held_for: Option<CallId>,
    /// What is left of our own dial, if this one goes on instead.
    pub(super) dialled: Option<Dialled>,
    /// Answered, and the answer is being made.
    pub(super) answering: bool,
    archived: bool,
    /// For an invite that a relay handed over: our first signal, signed, once there is one; the relay's answer carries it to the caller.
    pub(super) word: Option<Vec<u8>>,
}

/// The ways to a caller who isn't to learn where we are.
#[derive(Clone, Debug)]
struct Hidden {
    /// The caller's device: by a connection that stands, or through relays at hand.
    target: Target,
    /// Who brought the invite, relay or gateway of ours: it passes signals on.
    bearer: Option<Target>,
}

/// How an invite came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// The way.
    pub(crate) way: InviteWay,
    /// Who brought it, if not the caller's device itself.
    pub(crate) bearer: Option<DeviceKey>,
    /// For how long a gateway had it, by that gateway's word and this device's clock, in seconds; 0 on other ways.
    pub(crate) carried_secs: u64,
}

impl Arrival {
    /// From the caller's device.
    const STREAM: Self = Self { way: InviteWay::Stream, bearer: None, carried_secs: 0 };
}

impl Incoming {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        // As for calls we place: no deadline once it is listed.
        let summary = self.progress.ended.filter(|_| !self.archived).map(|(_, _, at)| at + SUMMARY_WAIT);
        [self.machine.poll_timeout(), summary, self.hang_up_at(), self.held_until].into_iter().flatten().min()
    }

    /// Whether somebody hears it and can still answer.
    pub(super) fn rings(&self) -> bool {
        self.machine.state() == CalleeState::Ringing && !self.is_silent() && !self.answering
    }

    /// Whether it is over and stands among the ended calls, or nowhere.
    pub(super) const fn is_put_away(&self) -> bool {
        self.archived && self.progress.ended.is_some()
    }

    /// Whether it is kept from the person, because of another call that stands for it.
    pub(super) const fn is_silent(&self) -> bool {
        self.held_for.is_some() || self.twin_of.is_some()
    }

    /// Whether it waits for other devices to ring first. A person who finds it can answer it all the same.
    pub(super) const fn is_held(&self) -> bool {
        self.held_until.is_some()
    }

    pub(super) const fn is_being_answered(&self) -> bool {
        self.answering
    }

    pub(super) const fn state(&self) -> CallState {
        match self.machine.state() {
            CalleeState::Ringing => CallState::Ringing,
            CalleeState::Answering => CallState::Connecting,
            CalleeState::Answered if self.progress.connected_at.is_some() => CallState::Active,
            CalleeState::Answered => CallState::Connecting,
            CalleeState::Ended(..) => CallState::Ended,
        }
    }

    pub(super) fn media_ended(&mut self, failure: Option<String>, now: Instant) {
        match failure {
            Some(failure) => {
                self.progress.failure = Some(failure);
                self.machine.handle_media_failed(now);
            }
            None => self.machine.hang_up(now),
        }
    }
}

/// What came of an invite.
#[derive(Debug)]
pub(crate) struct Rung {
    /// What the sender is told.
    pub(crate) status: InviteStatus,
    /// The call, if the invite could be opened.
    pub(crate) call: Option<CallId>,
    /// Who calls, `name@authority`.
    pub(crate) from: Option<String>,
    /// Why it doesn't ring.
    pub(crate) refusal: Option<String>,
    /// In how many seconds it rings, if the user's policy has other devices ring before.
    pub(crate) held_secs: Option<u16>,
}

impl CallsState {
    /// The device that a call to us comes from.
    pub(crate) fn caller_of(&self, call: &CallId) -> Option<DeviceKey> {
        self.incoming.get(call).map(|incoming| incoming.caller)
    }
}

impl EventLoop {
    /// An invite on a stream.
    pub(crate) fn handle_invite(&mut self, message: &CallInvite) -> InviteAnswer {
        let rung = self.ring(&message.sealed, Arrival::STREAM);
        let none = Extensions::none();
        let extensions = rung.held_secs.map_or(none.clone(), |secs| with_held(none, secs));
        InviteAnswer { status: rung.status, extensions }
    }

    /// An invite in a push past its time: if it is good it is listed as a missed call.
    pub(crate) fn ring_too_late(&mut self, sealed: &SealedInvite) {
        let now = self.now();
        match sealed.open(&self.hpke, &self.identity.device(), now.unix, &self.trust) {
            Ok(invite) => self.missed_call(&invite),
            Err(InviteError::Expired(invite)) => self.missed_call(&invite),
            Err(error) => debug!(%error, "invite refused"),
        }
    }

    /// Opens an invite, whichever way it came, and rings if it is new and good.
    pub(crate) fn ring(&mut self, sealed: &SealedInvite, arrival: Arrival) -> Rung {
        let now = self.now();
        let opened = sealed.open(&self.hpke, &self.identity.device(), now.unix, &self.trust);
        let invite = match opened {
            Ok(invite) => invite,
            Err(error) => return self.invite_refused(&error),
        };
        let Ok(part) = ConferencePart::of(invite.invite()) else {
            self.counters.malformed += 1;
            let status = InviteStatus::Refused(Reason::INVALID);
            let refusal = Some("its part on a conference can't be read".to_owned());
            return Rung { status, call: None, from: None, refusal, held_secs: None };
        };
        let leg = match part.as_ref().and_then(|part| self.judge_leg(&invite, part)) {
            Some(Ok(link)) => Some(link),
            Some(Err(reason)) => return self.refuse_leg(&invite, arrival, reason),
            None => None,
        };
        let telephone = match self.judge_telephone(&invite) {
            Ok(telephone) => telephone,
            Err(refused) => return refused,
        };
        let is_dialled = telephone == Some(Telephone::Dialled);
        if leg.is_none() && !is_dialled {
            if let Some(held) = self.hold_for_look(sealed, arrival, &invite) {
                return held;
            }
            if let Some(refused) = self.refuse_caller(&invite) {
                return refused;
            }
        }
        let phone = match self.judge_phone(&invite) {
            Ok(phone) => phone,
            Err(refused) => return refused,
        };
        let call = invite.invite().call;
        let from = self.labels.display(invite.caller_id());
        let rung = |status| Rung { status, call: Some(call), from: Some(from.clone()), refusal: None, held_secs: None };
        if self.calls.recent.contains(invite.caller_device(), call) {
            return Rung { held_secs: self.held_secs(call), ..rung(InviteStatus::Duplicate) };
        }
        if self.calls.outgoing.contains_key(&call) || self.calls.incoming.contains_key(&call) {
            // The id of another call, by chance or ill will.
            return rung(InviteStatus::Refused(Reason::INVALID));
        }
        if let Some(reason) = self.settled_before(&invite) {
            self.list_unrung(&invite, outcome_of_cancel(reason), reason);
            return rung(InviteStatus::Duplicate);
        }
        if !self.admit_caller(&invite.caller().user.identity.0) {
            self.counters.rate_limited += 1;
            return rung(InviteStatus::Refused(Reason::TOO_MANY));
        }
        self.note_call(invite.caller_device(), call, now.unix);
        if self.calls.incoming.len() >= CALLS_MAX {
            return rung(InviteStatus::Refused(Reason::TOO_MANY));
        }
        if let Some(link) = leg {
            self.take_in_leg(&invite, arrival, link);
            return rung(InviteStatus::Ringing);
        }
        if is_dialled {
            self.take_in(&invite, arrival, None, None);
            self.ring_aloud(call);
            return rung(InviteStatus::Ringing);
        }
        let link = part.as_ref().map(|part| self.link_of_invite(&invite, part));
        if let Some(first) = link.as_ref().and_then(|link| self.first_of_twins(link.id)) {
            self.take_in(&invite, arrival, None, link);
            if let Some(incoming) = self.calls.incoming.get_mut(&call) {
                incoming.twin_of = Some(first);
            }
            return rung(InviteStatus::Ringing);
        }
        match self.reception(&invite) {
            Reception::Ring => {
                // A conference is asked into everywhere at once: its calls stand for each other as it is. A certain phone has nobody before it.
                let turn =
                    if link.is_none() && phone.is_none() { self.choose_for_call(&invite, arrival.carried_secs) } else { None };
                match turn {
                    Some(turn) if turn.after_secs > 0 => {
                        self.take_in_held(&invite, arrival, &turn);
                        return Rung { held_secs: Some(turn.after_secs), ..rung(InviteStatus::Ringing) };
                    }
                    turn => {
                        self.take_in(&invite, arrival, None, link);
                        if let Some(turn) = turn {
                            self.note_shown_on(call, turn.shown_on);
                            self.note_stage(call, CallStageKind::Choice, None, turn.words);
                        }
                        self.ring_aloud(call);
                    }
                }
            }
            Reception::Hold(own) => {
                debug!(call = %call.short(), own = %own.short(), "both have dialled: ours goes on");
                self.take_in(&invite, arrival, Some(own), link);
                self.note_stage(own, CallStageKind::Crossed, Some(&invite.caller_device()), "both have dialled: ours goes on");
            }
            Reception::Join(own) => {
                self.take_in(&invite, arrival, None, link);
                self.join_call(own, call);
            }
            Reception::Refuse(reason) => {
                self.refuse(&invite, arrival, reason);
                let status = if reason == Reason::BUSY { InviteStatus::Busy } else { InviteStatus::Refused(reason) };
                return rung(status);
            }
        }
        rung(InviteStatus::Ringing)
    }

    /// Takes in a leg of a conference: it is answered by itself, unless both have dialled and ours goes on.
    fn take_in_leg(&mut self, invite: &VerifiedInvite, arrival: Arrival, link: Link) {
        let call = invite.invite().call;
        match self.reception_of_leg(invite) {
            Reception::Hold(own) => self.take_in(invite, arrival, Some(own), Some(link)),
            Reception::Join(own) => {
                self.take_in(invite, arrival, None, Some(link));
                self.join_call(own, call);
            }
            Reception::Ring | Reception::Refuse(_) => {
                self.take_in(invite, arrival, None, Some(link));
                self.answer_leg(call);
            }
        }
    }

    /// Refuses a leg of a conference. It is listed nowhere, and judged anew when it is tried again.
    fn refuse_leg(&mut self, invite: &VerifiedInvite, arrival: Arrival, reason: Reason) -> Rung {
        let call = invite.invite().call;
        debug!(call = %call.short(), %reason, "leg refused");
        let has_room = self.calls.incoming.len() < CALLS_MAX && !self.calls.incoming.contains_key(&call);
        // Who may not ring here by themselves takes up no room, and gets no signed word.
        if arrival.way != InviteWay::Stream && has_room && self.refuse_caller(invite).is_none() {
            let (params, target) = self.callee(invite, arrival.way);
            let machine = CalleeCall::refuse(params, reason, Instant::now());
            let mut incoming = self.new_incoming(invite, machine, target, arrival);
            incoming.archived = true;
            self.calls.incoming.insert(call, incoming);
            self.drive_incoming(call);
        }
        let refusal = Some(reason.to_string());
        Rung { status: InviteStatus::Refused(reason), call: None, from: None, refusal, held_secs: None }
    }

    /// Why a call doesn't ring whose invite comes now: it was taken back, or settled on another of the user's devices.
    fn settled_before(&self, invite: &VerifiedInvite) -> Option<Reason> {
        let call = invite.invite().call;
        let withdrawn = self.calls.withdrawn.reason(invite.caller_device(), call);
        withdrawn.or_else(|| self.call_fate(&call).and_then(reason_of_fate))
    }

    /// The refusal of a caller who may not ring here. Nobody is told, and nothing is listed; a stranger and somebody blocked hear the same.
    fn refuse_caller(&mut self, invite: &VerifiedInvite) -> Option<Rung> {
        let decision = self.decide_on_caller(invite, self.sighting_secs_for(invite));
        if decision.decision.is_allowed {
            return None;
        }
        debug!(why = %decision, "a caller is refused");
        let status = InviteStatus::Refused(Reason::NOT_ALLOWED);
        Some(Rung { status, call: None, from: None, refusal: Some(decision.to_string()), held_secs: None })
    }

    fn invite_refused(&mut self, error: &InviteError) -> Rung {
        debug!(%error, "invite refused");
        if let InviteError::Expired(invite) = error {
            if let Some(refused) = self.refuse_caller(invite) {
                return refused;
            }
            self.missed_call(invite);
            return Rung {
                status: InviteStatus::Refused(Reason::EXPIRED),
                call: Some(invite.invite().call),
                from: Some(self.labels.display(invite.caller_id())),
                refusal: Some(error.to_string()),
                held_secs: None,
            };
        }
        self.counters.malformed += 1;
        let status = match error {
            InviteError::NotForMe | InviteError::WrongRecipient(_) => InviteStatus::NotForMe,
            other => InviteStatus::Refused(other.reason()),
        };
        Rung { status, call: None, from: None, refusal: Some(error.to_string()), held_secs: None }
    }

    /// An invite past its time: listed as a missed call, never rung.
    pub(crate) fn missed_call(&mut self, invite: &VerifiedInvite) {
        if self.refuse_caller(invite).is_some() {
            return;
        }
        match self.settled_before(invite) {
            Some(reason) => self.list_unrung(invite, outcome_of_cancel(reason), reason),
            None => self.list_unrung(invite, Outcome::NoAnswer, Reason::EXPIRED),
        }
    }

    /// Lists a call that comes too late to ring; each once.
    fn list_unrung(&mut self, invite: &VerifiedInvite, outcome: Outcome, reason: Reason) {
        let now = self.now();
        let call = invite.invite().call;
        if self.calls.recent.contains(invite.caller_device(), call)
            || !self.admit_caller(&invite.caller().user.identity.0)
            || !self.note_call(invite.caller_device(), call, now.unix)
        {
            return;
        }
        self.list_ended(invite, outcome, reason);
        if matches!(outcome, Outcome::NoAnswer | Outcome::Cancelled) {
            self.events.send(Event::CallMissed {
                call_id: call.to_string(),
                from: self.labels.display(invite.caller_id()),
                video: invite.invite().kind == EventKind::VIDEO_CALL,
                called_at: Timestamp::from_unix_secs(invite.invite().issued_at.0),
                notice: self.notice(Sentence::Event(EventKind::MISSED_CALL), invite.caller_id()),
            });
        }
    }

    /// Lists a call that never rang here.
    fn list_ended(&mut self, invite: &VerifiedInvite, outcome: Outcome, reason: Reason) {
        let now = self.now();
        let mut progress = Progress::new(invite.caller_id().clone(), now);
        progress.started_at = invite.invite().issued_at;
        progress.is_video = invite.invite().kind == EventKind::VIDEO_CALL;
        progress.ended = Some((outcome, reason, now.instant));
        progress.note(CallStageKind::End, Some(&invite.caller_device()), format!("{outcome}: {reason}; it didn't ring here"));
        let call = invite.invite().call;
        let entry = self.traced_entry(call, &progress, true, CallState::Ended);
        let ends = Ends::of_unrung(progress.user, progress.started, vec![invite.caller_device()]);
        self.archive_call(call, entry, Some(ends));
    }

    fn callee(&self, invite: &VerifiedInvite, way: InviteWay) -> (CalleeParams, Target) {
        let now = self.now();
        let params = CalleeParams::from_invite(invite, way, now.unix, CallTimers::default());
        (params, self.origin_target(invite))
    }

    /// Where the caller's device is, as its invite says.
    fn origin_target(&self, invite: &VerifiedInvite) -> Target {
        let device = invite.caller_device();
        // The signature was verified with this key, so it is a point on the curve.
        let peer = address::peer_id(&device).unwrap_or_else(libp2p::PeerId::random);
        let origin = &invite.invite().origin;
        let mut addresses = self.dialable(&origin.addresses);
        addresses.extend(self.circuit_addresses(&origin.relays, peer));
        addresses.extend(self.nearby_addresses(&peer));
        Target { peer, addresses, no_others: false }
    }

    /// The same until the user has answered, for a caller who is no contact.
    fn hidden_origin(&self, invite: &VerifiedInvite, bearer: Option<DeviceKey>) -> Option<Hidden> {
        if self.settings.lab || self.is_near(invite.caller()) {
            return None;
        }
        let peer = address::peer_id(&invite.caller_device())?;
        let target = self.hidden_target(peer, &invite.invite().origin.relays);
        Some(Hidden { target, bearer: bearer.and_then(|bearer| self.bearer_target(&bearer)) })
    }

    /// A relay or gateway of ours.
    fn bearer_target(&self, bearer: &DeviceKey) -> Option<Target> {
        let gateway = self.push_addresses().into_iter().map(|address| address.gateway).find(|gateway| gateway.device == *bearer);
        match gateway {
            Some(gateway) => self.helper_target(&gateway),
            None => address::peer_id(bearer).map(Target::connected),
        }
    }

    /// What a caller who isn't to learn where we are is told: on the connection there is, else by way of whoever brought the invite, and through relays at
    /// hand.
    fn send_hidden(&mut self, signal: Signal, hidden: &Hidden) {
        let is_connected = self.swarm.behaviour().streams.is_connected(&hidden.target.peer);
        if let (Some(bearer), false, true) = (&hidden.bearer, is_connected, may_pass(&signal.body)) {
            self.pass_signal(signal.clone(), bearer);
        }
        if is_connected || !hidden.target.addresses.is_empty() {
            self.send_signal(signal, &hidden.target);
        }
    }

    fn new_incoming(&self, invite: &VerifiedInvite, machine: CalleeCall, target: Target, arrival: Arrival) -> Incoming {
        let Arrival { way, bearer, .. } = arrival;
        let mut progress = Progress::new(invite.caller_id().clone(), self.now());
        progress.via_push = is_push(way);
        progress.is_video = invite.invite().kind == EventKind::VIDEO_CALL;
        // It was judged before: what can't be read rings nowhere.
        progress.telephone = TelephonePart::of(invite.invite()).ok().flatten();
        progress.phone = PhonePart::of(invite.invite()).ok().flatten();
        Incoming {
            machine,
            video: progress.is_video.then(VideoEnds::new),
            audio: None,
            own: None,
            candidates: Vec::new(),
            progress,
            media: None,
            early: None,
            is_from_contact: false,
            caller: invite.caller_device(),
            other: Participant::from(invite.caller()),
            link: None,
            twin_of: None,
            held_until: None,
            shown_on: None,
            room: None,
            target,
            hidden: self.hidden_origin(invite, bearer),
            offer: invite.invite().offer.clone(),
            way,
            held_for: None,
            dialled: None,
            answering: false,
            archived: false,
            word: (way == InviteWay::Relay).then(Vec::new),
        }
    }

    /// Doesn't ring, tells the caller why, and lists the call.
    fn refuse(&mut self, invite: &VerifiedInvite, arrival: Arrival, reason: Reason) {
        if arrival.way == InviteWay::Stream {
            let outcome = if reason == Reason::BUSY { Outcome::Busy } else { Outcome::Declined };
            return self.list_ended(invite, outcome, reason);
        }
        let (params, target) = self.callee(invite, arrival.way);
        let machine = CalleeCall::refuse(params, reason, Instant::now());
        let call = invite.invite().call;
        let incoming = self.new_incoming(invite, machine, target, arrival);
        self.calls.incoming.insert(call, incoming);
        self.drive_incoming(call);
    }

    /// Takes a call in, and tells its caller that it rings. Whether anybody hears it is another matter.
    fn take_in(&mut self, invite: &VerifiedInvite, arrival: Arrival, held_for: Option<CallId>, link: Option<Link>) {
        let call = invite.invite().call;
        let (params, target) = self.callee(invite, arrival.way);
        let machine = CalleeCall::new(params, Instant::now());
        let mut incoming = self.new_incoming(invite, machine, target, arrival);
        incoming.held_for = held_for;
        incoming.link = link;
        incoming.is_from_contact = self.relation(&invite.caller().user) == Relation::Contact;
        incoming.progress.linked = self.linked_peer(invite);
        incoming.progress.rang_at = Some(Instant::now());
        incoming.progress.note(CallStageKind::Invite, Some(&invite.caller_device()), way_words(arrival.way));
        self.calls.incoming.insert(call, incoming);
        self.drive_incoming(call);
    }

    /// Takes a call in that rings later, unless somebody answers elsewhere before.
    fn take_in_held(&mut self, invite: &VerifiedInvite, arrival: Arrival, turn: &Turn) {
        let call = invite.invite().call;
        let now = Instant::now();
        let (params, target) = self.callee(invite, arrival.way);
        let machine = CalleeCall::hold(params, turn.after_secs, now);
        let mut incoming = self.new_incoming(invite, machine, target, arrival);
        incoming.is_from_contact = self.relation(&invite.caller().user) == Relation::Contact;
        incoming.progress.linked = self.linked_peer(invite);
        incoming.held_until = Some(now + Duration::from_secs(u64::from(turn.after_secs)));
        incoming.progress.note(CallStageKind::Invite, Some(&invite.caller_device()), way_words(arrival.way));
        incoming.progress.note(CallStageKind::Choice, None, turn.words.clone());
        incoming.shown_on.clone_from(&turn.shown_on);
        self.calls.incoming.insert(call, incoming);
        let from = self.labels.display(invite.caller_id());
        let (call_id, detail) = (call.to_string(), turn.words.clone());
        self.events.send(Event::CallHeld { call_id, from, after_secs: turn.after_secs, detail });
        self.drive_incoming(call);
    }

    /// Another device shows what this one can't.
    fn note_shown_on(&mut self, call: CallId, shown_on: Option<ShownOn>) {
        if let Some(incoming) = self.calls.incoming.get_mut(&call) {
            incoming.shown_on = shown_on;
        }
    }

    /// In how many seconds a call rings that is held.
    fn held_secs(&self, call: CallId) -> Option<u16> {
        let until = self.calls.incoming.get(&call)?.held_until?;
        u16::try_from(until.saturating_duration_since(Instant::now()).as_secs()).ok()
    }

    /// Nobody has answered elsewhere: it rings here too.
    fn release_turn(&mut self, call: CallId, now: Instant) {
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return };
        if incoming.held_until.is_none_or(|until| until > now) {
            return;
        }
        incoming.held_until = None;
        if incoming.machine.ring(now) && !incoming.answering {
            incoming.progress.rang_at = Some(now);
            self.ring_aloud(call);
        }
    }

    /// Lets the person hear a call that was taken in.
    pub(super) fn ring_aloud(&mut self, call: CallId) {
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return };
        let way = incoming.way;
        incoming.progress.note(CallStageKind::Ring, None, "it rings here");
        info!(call = %call.short(), ?way, "ringing");
        let user = incoming.progress.user.clone();
        let from = self.labels.display(&user);
        let (via_push, via, shown_on) = (is_push(way), via_of(way), incoming.shown_on.clone());
        let conference_id = incoming.link.as_ref().map(|link| link.id.to_string());
        let (video, kind) =
            if incoming.progress.is_video { (true, EventKind::VIDEO_CALL) } else { (false, EventKind::VOICE_CALL) };
        let linked = self.calls.incoming.get(&call).and_then(|incoming| incoming.progress.linked.clone());
        let is_contact = self.contacts.roster().standing(&user) == halloo_protocol::contact::Standing::Contact;
        let notice = match linked.as_ref().filter(|_| !is_contact) {
            Some(peer) => self.notice_named(Sentence::Event(kind), peer.name.as_deref().unwrap_or(&peer.id), shown_on),
            None => self.notice_shown(Sentence::Event(kind), &user, shown_on),
        };
        let call_id = call.to_string();
        let progress = self.calls.incoming.get(&call).map(|incoming| &incoming.progress);
        let phone = progress.and_then(|progress| progress.phone).map(|part| part.0.to_string());
        let part = progress.and_then(|progress| progress.telephone.as_ref());
        let (telephone, dialled) = match part {
            Some(part @ TelephonePart::From(_)) => (Some(words(part)), None),
            Some(part @ TelephonePart::Dial(_)) => (None, Some(words(part))),
            None => (None, None),
        };
        let event =
            Event::CallIncoming { call_id, from, video, via_push, via, conference_id, telephone, dialled, phone, linked, notice };
        self.events.send(event);
        match self.settings.answer.clone() {
            Some(answer) => {
                let config = self.media_config(answer.play.as_deref(), answer.record.as_deref());
                self.begin_answer(call, config.video_files(answer.video_files()));
            }
            None => self.begin_early(call),
        }
    }

    pub(crate) fn handle_call_answer(&mut self, call_id: &str, options: AnswerOptions, reply: Reply<(), CallError>) {
        let unknown = || CallError::UnknownCall { call_id: call_id.chars().take(64).collect() };
        let Some((call, incoming)) =
            call_id.parse::<CallId>().ok().and_then(|call| Some((call, self.calls.incoming.get(&call)?)))
        else {
            return reply.send(Err(unknown()));
        };
        if !incoming.rings() {
            return reply.send(Err(wrong_state(call, incoming, "answered")));
        }
        if incoming.video.is_none() && !options.video_files().is_empty() {
            return reply.send(Err(CallError::NoVideo { call_id: call.to_string() }));
        }
        if let Some(answer) = options.answer {
            let allowed = self.allow_own_answer(call, &answer);
            if allowed.is_ok() {
                self.answer_own(call, answer);
            }
            return reply.send(allowed);
        }
        let config = self.media_config(options.play.as_deref(), options.record.as_deref());
        let config = self.with_passthrough(call, config, &options.passthrough);
        self.begin_answer(call, config.video_files(options.video_files()).microphone(options.microphone));
        reply.send(Ok(()));
    }

    pub(crate) fn handle_call_decline(&mut self, call_id: &str, reason: Reason, reply: Reply<(), CallError>) {
        let unknown = || CallError::UnknownCall { call_id: call_id.chars().take(64).collect() };
        let Some(call) = call_id.parse::<CallId>().ok() else { return reply.send(Err(unknown())) };
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return reply.send(Err(unknown())) };
        if !incoming.machine.decline(reason, Instant::now()) {
            let error = wrong_state(call, incoming, "declined");
            return reply.send(Err(error));
        }
        self.drive_incoming(call);
        // That a phone isn't here is nobody's word: another device may have it.
        if reason != Reason::PHONE_NOT_HERE {
            self.note_call_fate(call, CallFate::Declined);
        }
        reply.send(Ok(()));
    }

    fn allow_own_answer(&self, call: CallId, answer: &str) -> Result<(), CallError> {
        let is_conference = self.calls.incoming.get(&call).is_some_and(|incoming| incoming.link.is_some());
        if is_conference {
            return Err(CallError::Node(NodeError::Unsupported { what: "a media engine of one's own in a conference" }));
        }
        own_engine::check_description(answer, self.settings.relayed_calls)
    }

    pub(super) fn answer_made(&mut self, call: CallId, made: Result<(Box<MediaSession>, String), String>) {
        let now = Instant::now();
        let (session_id, news) = (self.calls.next_session(), self.internal_sender.clone());
        let me = self.identity.device();
        let is_relayed_only = self.settings.relayed_calls;
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return };
        incoming.answering = false;
        match made {
            Ok((session, sdp)) => {
                // A call that was cancelled meanwhile refuses the answer; the session is dropped with it.
                if incoming.machine.answer(sdp, now) {
                    incoming.progress.answered_at = Some(now);
                    incoming.progress.answered_by = Some(me);
                    let driver = MediaDriver::spawn(call, session_id, *session, news);
                    incoming.candidates.drain(..).for_each(|candidate| driver.add_candidate(candidate));
                    incoming.media = Some(driver);
                    incoming.progress.note(CallStageKind::Answer, None, "answered here");
                    if is_relayed_only {
                        incoming.progress.note(CallStageKind::Media, None, super::trace::RELAYED_BY_CHOICE);
                    }
                }
            }
            Err(error) => {
                debug!(call = %call.short(), error, "can't answer");
                incoming.progress.failure = Some(error);
                incoming.machine.decline(Reason::MEDIA_FAILED, now);
            }
        }
        self.drive_incoming(call);
    }

    /// Carries out what the machine of a call wants.
    pub(super) fn drive_incoming(&mut self, call: CallId) {
        while let Some(action) = self.calls.incoming.get_mut(&call).and_then(|incoming| incoming.machine.poll_action()) {
            match action {
                CalleeAction::StartRinging => {}
                CalleeAction::Send(signal) => {
                    let Some(incoming) = self.calls.incoming.get_mut(&call) else { continue };
                    if let Some(word) = incoming.word.as_mut().filter(|word| word.is_empty()) {
                        *word = word_of(&Signed::sign(signal.clone(), self.identity.device_key()));
                    }
                    let hidden = incoming.hidden.clone().filter(|_| incoming.progress.answered_at.is_none());
                    let target = incoming.target.clone();
                    match hidden {
                        Some(hidden) => self.send_hidden(signal, &hidden),
                        None => self.send_signal(signal, &target),
                    }
                }
                CalleeAction::Confirmed => self.answer_confirmed(call),
                CalleeAction::AddCandidate { candidate } => {
                    if self.own_candidate(call, &candidate) {
                        continue;
                    }
                    let Some(incoming) = self.calls.incoming.get_mut(&call) else { continue };
                    let early = incoming.early.as_ref().map(|early| &early.driver);
                    if let Some(media) = incoming.media.as_ref().or(early) {
                        media.add_candidate(candidate.clone());
                    }
                    if incoming.media.is_none() && incoming.candidates.len() < CANDIDATES_MAX {
                        incoming.candidates.push(candidate);
                    }
                }
                CalleeAction::Finished { outcome, reason } => self.incoming_finished(call, outcome, reason),
            }
        }
        self.settle_incoming(call);
    }

    fn answer_confirmed(&mut self, call: CallId) {
        if let Some(media) = self.calls.incoming.get(&call).and_then(|incoming| incoming.media.as_ref()) {
            media.start();
        }
        self.note_stage(call, CallStageKind::Answer, None, "the caller has taken the answer");
        self.note_call_fate(call, CallFate::Answered);
        let answered_by = self.swarm.local_peer_id().to_string();
        self.events.send(Event::CallAnswered { call_id: call.to_string(), answered_by });
        self.incoming_leg_up(call);
    }

    fn incoming_finished(&mut self, call: CallId, outcome: Outcome, reason: Reason) {
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return };
        info!(call = %call.short(), %outcome, %reason, caller = ?incoming.caller, "call over");
        incoming.progress.ended = Some((outcome, reason, Instant::now()));
        incoming.progress.note(CallStageKind::End, None, format!("{outcome}: {reason}"));
        // Nobody has heard it, and the other of the two calls is listed.
        incoming.archived |= incoming.is_silent();
        incoming.archived |= incoming.link.as_ref().is_some_and(|link| link.is_leg) && incoming.progress.answered_at.is_none();
        incoming.early = None;
        incoming.held_until = None;
        incoming.video = None;
        incoming.audio = None;
        if let Some(media) = &incoming.media {
            media.close();
        }
        self.conference_call_over(call, outcome, reason, false);
        self.release_twins(call, reason == Reason::DECLINED);
    }

    fn settle_incoming(&mut self, call: CallId) {
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return };
        let Some((_, _, ended_at)) = incoming.progress.ended else { return };
        let has_figures = incoming.media.is_none() || ended_at.elapsed() >= SUMMARY_WAIT;
        if has_figures && !incoming.archived {
            incoming.archived = true;
            incoming.media = None;
            let reply = incoming.dialled.as_mut().and_then(|dialled| dialled.reply.take());
            let entry = self
                .calls
                .incoming
                .get(&call)
                .map(|incoming| self.traced_entry(call, &incoming.progress, true, CallState::Ended));
            let ends = self.ends_of_incoming(call);
            if let (Some(outcome), Some(reply)) = (entry.and_then(|entry| self.archive_call(call, entry, ends)), reply) {
                reply.send(Ok(outcome));
            }
        }
        if self.calls.incoming.get(&call).is_some_and(|incoming| incoming.archived && incoming.machine.is_done()) {
            self.calls.incoming.remove(&call);
        }
    }

    pub(super) fn incoming_tick(&mut self, call: CallId, now: Instant) {
        self.release_turn(call, now);
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return };
        if incoming.machine.poll_timeout().is_some_and(|at| at <= now) {
            incoming.machine.handle_timeout(now);
        }
        let is_over = incoming.is_dial_over(now);
        if is_over
            && !self.leave_conference_of(call)
            && let Some(incoming) = self.calls.incoming.get_mut(&call)
        {
            incoming.machine.hang_up(now);
        }
        self.drive_incoming(call);
    }
}

const fn way_words(way: InviteWay) -> &'static str {
    match way {
        InviteWay::Stream => "came on a connection with the caller",
        InviteWay::Relay => "handed over by a relay of this device",
        InviteWay::Gateway => "came on the stream of a gateway",
        InviteWay::Push => "came in a push message",
    }
}

/// Whether a gateway brought the invite.
const fn is_push(way: InviteWay) -> bool {
    matches!(way, InviteWay::Gateway | InviteWay::Push)
}

const fn via_of(way: InviteWay) -> CallWay {
    match way {
        InviteWay::Stream => CallWay::Stream,
        InviteWay::Relay => CallWay::Relay,
        InviteWay::Gateway => CallWay::Gateway,
        InviteWay::Push => CallWay::Push,
    }
}

fn wrong_state(call: CallId, incoming: &Incoming, action: &'static str) -> CallError {
    let state = match incoming.state() {
        CallState::Dialing | CallState::Ringing => "being answered",
        CallState::Connecting => "answered",
        CallState::Active => "answered",
        CallState::Ended => "over",
    };
    CallError::WrongState { call_id: call.to_string(), state, action }
}
