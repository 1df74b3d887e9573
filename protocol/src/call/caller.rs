//! The caller's end: many devices ring, one answers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::invite::InviteStatus;
use super::sender::{Seen, SeenSequences, SignalSender};
use super::signal::{Signal, SignalBody, SignalStatus, VerifiedSignal};
use super::{CallTimers, Outcome, Reason};
use crate::choice::held_for;
use crate::directory::DEVICES_MAX;
use crate::id::CallId;
use crate::key::DeviceKey;

/// Most devices with which media are connected while they ring. Each costs sockets and an address at a relay; the others' wait for the accept.
pub const EARLY_LEGS_MAX: usize = 8;

/// What a call starts from.
#[derive(Clone, Debug)]
pub struct CallerParams {
    /// The call's id.
    pub call: CallId,
    /// The calling device.
    pub me: DeviceKey,
    /// The callee's devices known so far, at most [`DEVICES_MAX`]; more may come with [`CallerCall::add_device`].
    pub devices: Vec<DeviceKey>,
    /// True while a look-up may still find devices; end it with [`CallerCall::finish_lookup`].
    pub is_lookup_pending: bool,
    /// How long things may take.
    pub timers: CallTimers,
}

/// Where the call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerState {
    /// Nothing rings yet.
    Dialling,
    /// At least one device rings or rang.
    Ringing,
    /// A device has answered; media are being connected.
    Answered(DeviceKey),
    /// Media run.
    Connected(DeviceKey),
    /// Over.
    Ended(Outcome, Reason),
}

/// Where one of the callee's devices stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegState {
    /// Its invite is on the way.
    Inviting,
    /// It rings.
    Ringing,
    /// It is the one.
    Answered,
    /// It is in another call.
    Busy,
    /// It won't ring, or its owner said no.
    Declined(Reason),
    /// It can't be reached, or rang in vain.
    Failed(Reason),
    /// It was told to stop.
    Stopped(Reason),
    /// It, or its gateway, has the invite, and lets it ring later: the callee's policy has others ring first.
    Held,
}

impl LegState {
    const fn is_live(self) -> bool {
        matches!(self, Self::Inviting | Self::Ringing | Self::Held)
    }

    /// Live, or given up as unreachable: such a device can still get the invite through a push.
    #[must_use]
    pub fn may_ring(self) -> bool {
        self.is_live() || self == Self::Failed(Reason::UNREACHABLE)
    }
}

/// The timers of a caller's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerTimer {
    /// Until then some device must have given a sign.
    Reach(Instant),
    /// Until then somebody must have answered.
    Ring(Instant),
    /// Until then media must run.
    Connect(Instant),
    /// A signal is due again, or is given up.
    Retry(Instant),
}

impl CallerTimer {
    const fn at(self) -> Instant {
        match self {
            Self::Reach(at) | Self::Ring(at) | Self::Connect(at) | Self::Retry(at) => at,
        }
    }
}

/// What the owner is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallerAction {
    /// Send this device its invite, on every way there is.
    Invite {
        /// The device.
        device: DeviceKey,
    },
    /// Sign this and send it to its `to`; bring the acknowledgement to [`CallerCall::handle_ack`]. It comes again by itself.
    Send(Signal),
    /// This device rings: the other ways to it can be left. The first one is news for the person.
    Ringing {
        /// The device.
        device: DeviceKey,
    },
    /// Media can be connected with this device while it rings; nothing of it is heard before [`CallerAction::StartMedia`] unless it `is_heard`.
    /// Once per device, and for [`EARLY_LEGS_MAX`] of them. What it took is given back when the device's leg is over ([`CallerCall::leg_state`]).
    ConnectEarly {
        /// The device.
        device: DeviceKey,
        /// Its answer (SDP), which its accept repeats if it still stands.
        answer: String,
        /// The person hears it while it rings. One device of a call at most: the first that wants it.
        is_heard: bool,
    },
    /// This device has answered: connect media, stop inviting others.
    StartMedia {
        /// The device.
        device: DeviceKey,
        /// Its answer (SDP).
        answer: String,
    },
    /// A candidate of a device that rings or has answered.
    AddCandidate {
        /// The device.
        device: DeviceKey,
        /// The candidate.
        candidate: String,
    },
    /// The call is over: stop media and invites. Signals may still follow until [`CallerCall::is_done`].
    Finished {
        /// How.
        outcome: Outcome,
        /// Why.
        reason: Reason,
    },
}

#[derive(Clone, Debug)]
struct Leg {
    state: LegState,
    has_rung: bool,
    /// Media are connected while it rings.
    is_early: bool,
    /// It is heard meanwhile.
    is_heard: bool,
    /// A gateway has its invite, and brings it later.
    is_kept: bool,
    /// The device itself has said no: it would say so again, or, where it knows the call, take another invite for a duplicate of which no signal would come.
    has_refused: bool,
    seen: SeenSequences,
}

impl Leg {
    fn new() -> Self {
        let state = LegState::Failed(Reason::UNREACHABLE);
        Self {
            state,
            has_rung: false,
            is_early: false,
            is_heard: false,
            is_kept: false,
            has_refused: false,
            seen: SeenSequences::default(),
        }
    }
}

/// One call, at the caller.
///
/// Contract: after every `handle_*` or local input, take actions with [`CallerCall::poll_action`] until `None`, then sleep until
/// [`CallerCall::poll_timeout`] and call [`CallerCall::handle_timeout`]. When [`CallerCall::is_done`], drop it; answer signals for a call
/// you don't have with [`SignalStatus::UnknownCall`].
///
/// Policy: the first accept wins. One device's decline by a person ends the call everywhere; a busy, muted or unreachable device doesn't
/// while others may ring, nor one that doesn't take calls of the caller: it may not know yet whom its user knows.
#[derive(Clone, Debug)]
pub struct CallerCall {
    timers: CallTimers,
    state: CallerState,
    legs: BTreeMap<DeviceKey, Leg>,
    is_lookup_pending: bool,
    reach_at: Option<Instant>,
    ring_at: Instant,
    connect_at: Option<Instant>,
    answered_by: Option<DeviceKey>,
    sender: SignalSender,
    actions: VecDeque<CallerAction>,
}

impl CallerCall {
    /// Dials.
    #[must_use]
    pub fn new(params: CallerParams, now: Instant) -> Self {
        let timers = params.timers;
        let mut call = Self {
            timers,
            state: CallerState::Dialling,
            legs: BTreeMap::new(),
            is_lookup_pending: true,
            reach_at: Some(now + timers.reach),
            ring_at: now + timers.ring,
            connect_at: None,
            answered_by: None,
            sender: SignalSender::new(params.call, params.me, timers.retry, timers.give_up),
            actions: VecDeque::new(),
        };
        for device in params.devices {
            call.add_device(device, now);
        }
        if !params.is_lookup_pending {
            call.finish_lookup(now);
        }
        call
    }

    /// One more device to ring; or one that failed to be invited once more (a newer record was found), unless it has refused. True if it is invited.
    pub fn add_device(&mut self, device: DeviceKey, now: Instant) -> bool {
        if !self.is_waiting() || (!self.legs.contains_key(&device) && self.legs.len() >= DEVICES_MAX) {
            return false;
        }
        let leg = self.legs.entry(device).or_insert_with(Leg::new);
        if !matches!(leg.state, LegState::Failed(_)) || leg.has_refused {
            return false;
        }
        leg.state = LegState::Inviting;
        self.actions.push_back(CallerAction::Invite { device });
        self.pump(now);
        true
    }

    /// The look-up is over; no further devices will come.
    pub fn finish_lookup(&mut self, now: Instant) {
        self.is_lookup_pending = false;
        self.settle(now);
    }

    /// A device answered its invite on the stream.
    pub fn handle_invite_status(&mut self, device: DeviceKey, status: InviteStatus, now: Instant) {
        if !self.is_waiting() {
            // The invite outlived its call.
            return self.stop_late(device, status, now);
        }
        match status {
            // A duplicate is known there already: it rings, or a signal will say what became of it.
            InviteStatus::Ringing | InviteStatus::Duplicate => self.leg_rings(device),
            InviteStatus::Busy => self.leg_declines(device, Reason::BUSY, now),
            InviteStatus::Refused(reason) => self.leg_declines(device, reason, now),
            InviteStatus::NotForMe => self.leg_ends(device, LegState::Failed(Reason::INVALID), now),
        }
        self.pump(now);
    }

    /// A device, or its gateway, has the invite and lets it ring later. It is waited for as long as the call rings at all.
    pub fn handle_held(&mut self, device: DeviceKey, now: Instant) {
        if !self.is_waiting() {
            return self.stop_late(device, InviteStatus::Ringing, now);
        }
        self.leg_holds(device);
        self.pump(now);
    }

    /// A gateway of a device has its invite and brings it later. Other ways go on; where they fail, the device is waited for all the same.
    pub fn handle_kept(&mut self, device: DeviceKey) {
        if let Some(leg) = self.legs.get_mut(&device) {
            leg.is_kept = true;
        }
    }

    /// Every way to a device has failed.
    pub fn handle_unreachable(&mut self, device: DeviceKey, reason: Reason, now: Instant) {
        if self.leg_state(&device) == Some(LegState::Inviting) {
            let is_kept = self.legs.get(&device).is_some_and(|leg| leg.is_kept);
            self.leg_ends(device, if is_kept { LegState::Held } else { LegState::Failed(reason) }, now);
        }
        self.pump(now);
    }

    /// A signal came; the result is the acknowledgement.
    pub fn handle_signal(&mut self, signal: &VerifiedSignal, now: Instant) -> SignalStatus {
        let Signal { from, sequence, body, .. } = signal.signal();
        let status = match self.legs.get_mut(from).map(|leg| leg.seen.note(*sequence)) {
            None => return SignalStatus::UnknownCall,
            Some(Seen::TooMany) => return SignalStatus::Refused(Reason::TOO_MANY),
            Some(Seen::Again) => SignalStatus::Taken,
            Some(Seen::New) if *body == SignalBody::Ringing && held_for(&signal.signal().extensions).is_some() => {
                self.leg_holds(*from);
                SignalStatus::Taken
            }
            Some(Seen::New) => self.take_signal(*from, body.clone(), now),
        };
        if let Some(answer) = signal.signal().early_answer() {
            self.connect_early(*from, answer, signal.signal().has_early_audio());
        }
        self.pump(now);
        match body {
            // Judged anew each time, since the first acknowledgement may have been lost.
            SignalBody::Accept { .. } | SignalBody::Ringing => self.standing(*from),
            _ => status,
        }
    }

    /// The acknowledgement of a signal came.
    pub fn handle_ack(&mut self, device: DeviceKey, sequence: u32, status: SignalStatus, now: Instant) {
        let acked = self.sender.handle_ack(device, sequence);
        let is_peer = matches!(self.state, CallerState::Answered(peer) | CallerState::Connected(peer) if peer == device);
        if is_peer && acked.is_some() && status == SignalStatus::UnknownCall {
            self.end(Outcome::Failed, Reason::UNKNOWN_CALL, now);
        }
        self.pump(now);
    }

    /// A candidate of ours, for `device`.
    pub fn add_local_candidate(&mut self, device: DeviceKey, candidate: String, now: Instant) {
        let wants = self.leg_state(&device).is_some_and(|state| state.is_live() || state == LegState::Answered);
        if wants && !self.is_ended() {
            self.sender.queue(device, SignalBody::Candidate { candidate }, now);
        }
        self.pump(now);
    }

    /// Media run.
    pub fn handle_media_connected(&mut self, now: Instant) {
        if let CallerState::Answered(device) = self.state {
            self.state = CallerState::Connected(device);
            self.connect_at = None;
        }
        self.pump(now);
    }

    /// Media are beyond repair.
    pub fn handle_media_failed(&mut self, now: Instant) {
        if matches!(self.state, CallerState::Answered(_) | CallerState::Connected(_)) {
            self.end(Outcome::Failed, Reason::MEDIA_FAILED, now);
        }
        self.pump(now);
    }

    /// The person gives up or hangs up.
    pub fn hang_up(&mut self, now: Instant) {
        self.hang_up_for(Reason::HANGUP, now);
    }

    /// The same for a reason that concerns an answered call: the legs of a conference have such.
    pub fn hang_up_for(&mut self, reason: Reason, now: Instant) {
        match self.state {
            CallerState::Dialling | CallerState::Ringing => self.end(Outcome::Cancelled, Reason::CANCELLED, now),
            CallerState::Answered(_) | CallerState::Connected(_) => self.end(Outcome::Completed, reason, now),
            CallerState::Ended(..) => {}
        }
        self.pump(now);
    }

    /// Both have dialled, and it is the other's call that goes on: the devices that ring for this one stop. An accept that is on the way is
    /// refused. Nothing happens once a device has answered; true if the call is withdrawn.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        let is_waiting = self.is_waiting();
        if is_waiting {
            self.end(Outcome::AnsweredElsewhere, Reason::ANSWERED_ELSEWHERE, now);
        }
        self.pump(now);
        is_waiting
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.reach_at.is_some_and(|at| now >= at) {
            self.reach_at = None;
            if self.state == CallerState::Dialling {
                self.is_lookup_pending = false;
                self.fail_unreached(now);
            }
        }
        if self.is_waiting() && now >= self.ring_at {
            let is_there = self.has_rung() || self.legs.values().any(|leg| leg.state == LegState::Held);
            let outcome = if is_there { Outcome::NoAnswer } else { Outcome::Unreachable };
            let reason = if is_there { Reason::NO_ANSWER } else { Reason::UNREACHABLE };
            self.end(outcome, reason, now);
        }
        if self.connect_at.is_some_and(|at| now >= at) {
            self.connect_at = None;
            self.end(Outcome::Failed, Reason::MEDIA_FAILED, now);
        }
        self.pump(now);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<CallerAction> {
        self.actions.pop_front()
    }

    /// When [`CallerCall::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers().map(CallerTimer::at).min()
    }

    /// The timers that run.
    pub fn timers(&self) -> impl Iterator<Item = CallerTimer> {
        let reach = self.reach_at.filter(|_| self.state == CallerState::Dialling).map(CallerTimer::Reach);
        let ring = self.is_waiting().then_some(CallerTimer::Ring(self.ring_at));
        let connect = self.connect_at.map(CallerTimer::Connect);
        [reach, ring, connect, self.sender.poll_timeout().map(CallerTimer::Retry)].into_iter().flatten()
    }

    /// Where the call stands.
    #[must_use]
    pub const fn state(&self) -> CallerState {
        self.state
    }

    /// Where a device stands.
    #[must_use]
    pub fn leg_state(&self, device: &DeviceKey) -> Option<LegState> {
        self.legs.get(device).map(|leg| leg.state)
    }

    /// All devices and where they stand.
    pub fn legs(&self) -> impl Iterator<Item = (DeviceKey, LegState)> {
        self.legs.iter().map(|(device, leg)| (*device, leg.state))
    }

    /// The device that answered, also after the end.
    #[must_use]
    pub const fn answered_by(&self) -> Option<DeviceKey> {
        self.answered_by
    }

    /// True once the call is over.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        matches!(self.state, CallerState::Ended(..))
    }

    /// True once the call is over and nothing is left to send.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_ended() && self.sender.is_settled() && self.actions.is_empty()
    }

    /// True while no device has answered and the call isn't over.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        matches!(self.state, CallerState::Dialling | CallerState::Ringing)
    }

    fn has_rung(&self) -> bool {
        self.legs.values().any(|leg| leg.has_rung)
    }

    fn take_signal(&mut self, from: DeviceKey, body: SignalBody, now: Instant) -> SignalStatus {
        match body {
            SignalBody::Ringing => self.leg_rings(from),
            SignalBody::Accept { answer } => self.take_accept(from, answer, now),
            SignalBody::Decline { reason } => self.leg_declines(from, reason, now),
            SignalBody::Candidate { candidate } => {
                if self.is_ended() {
                    return SignalStatus::UnknownCall;
                }
                if self.leg_state(&from).is_some_and(|state| state.is_live() || state == LegState::Answered) {
                    self.actions.push_back(CallerAction::AddCandidate { device: from, candidate });
                }
            }
            SignalBody::HangUp { reason } => self.take_hang_up(from, reason, now),
            SignalBody::Cancel { .. } | SignalBody::Replaced { .. } => return SignalStatus::Refused(Reason::INVALID),
        }
        SignalStatus::Taken
    }

    /// Whether a device that rings or accepts may go on.
    fn standing(&self, device: DeviceKey) -> SignalStatus {
        match self.state {
            _ if self.answered_by == Some(device) => SignalStatus::Taken,
            CallerState::Dialling | CallerState::Ringing => SignalStatus::Taken,
            CallerState::Ended(outcome, reason) if self.answered_by.is_none() => {
                SignalStatus::Refused(told_reason(outcome, reason))
            }
            _ => SignalStatus::Refused(Reason::ANSWERED_ELSEWHERE),
        }
    }

    fn take_accept(&mut self, from: DeviceKey, answer: String, now: Instant) {
        if !self.is_waiting() {
            return;
        }
        self.answered_by = Some(from);
        self.state = CallerState::Answered(from);
        self.connect_at = Some(now + self.timers.connect);
        if let Some(leg) = self.legs.get_mut(&from) {
            leg.state = LegState::Answered;
        }
        self.actions.push_back(CallerAction::StartMedia { device: from, answer });
        self.stop_live_legs(&SignalBody::Replaced { by: from }, Reason::ANSWERED_ELSEWHERE, now);
    }

    fn take_hang_up(&mut self, from: DeviceKey, reason: Reason, now: Instant) {
        let is_peer = match self.state {
            CallerState::Answered(peer) | CallerState::Connected(peer) => peer == from,
            // Its accept was lost or is late: somebody there had answered and has left again.
            CallerState::Dialling | CallerState::Ringing => {
                self.answered_by = Some(from);
                true
            }
            CallerState::Ended(..) => false,
        };
        if is_peer {
            if let Some(leg) = self.legs.get_mut(&from) {
                leg.state = LegState::Stopped(reason);
            }
            self.end(super::outcome_of_hang_up(reason), reason, now);
        }
    }

    fn leg_rings(&mut self, device: DeviceKey) {
        let is_waiting = self.is_waiting();
        let Some(leg) = self.legs.get_mut(&device) else { return };
        if !is_waiting || !matches!(leg.state, LegState::Inviting | LegState::Held | LegState::Failed(Reason::UNREACHABLE)) {
            return;
        }
        leg.state = LegState::Ringing;
        leg.has_rung = true;
        self.state = CallerState::Ringing;
        self.actions.push_back(CallerAction::Ringing { device });
    }

    fn leg_holds(&mut self, device: DeviceKey) {
        let Some(leg) = self.legs.get_mut(&device) else { return };
        if matches!(leg.state, LegState::Inviting | LegState::Failed(Reason::UNREACHABLE)) {
            leg.state = LegState::Held;
        }
    }

    /// A device that rings is ready for media.
    fn connect_early(&mut self, device: DeviceKey, answer: &str, wants_to_be_heard: bool) {
        let has_room = self.legs.values().filter(|leg| leg.is_early).count() < EARLY_LEGS_MAX;
        let is_heard = wants_to_be_heard && !self.legs.values().any(|leg| leg.is_heard && leg.state.is_live());
        let rings = |leg: &&mut Leg| leg.state == LegState::Ringing && !leg.is_early;
        let is_waiting = self.is_waiting();
        let Some(leg) = self.legs.get_mut(&device).filter(rings).filter(|_| is_waiting && has_room) else { return };
        (leg.is_early, leg.is_heard) = (true, is_heard);
        self.actions.push_back(CallerAction::ConnectEarly { device, answer: answer.to_owned(), is_heard });
    }

    fn leg_declines(&mut self, device: DeviceKey, reason: Reason, now: Instant) {
        let state = match reason {
            Reason::BUSY => LegState::Busy,
            Reason::NO_ANSWER
            | Reason::EXPIRED
            | Reason::INVALID
            | Reason::TOO_MANY
            | Reason::UNKNOWN_CALL
            | Reason::PHONE_NOT_HERE => LegState::Failed(reason),
            _ => LegState::Declined(reason),
        };
        let may_ring = self.leg_state(&device).is_some_and(LegState::may_ring);
        if let Some(leg) = self.legs.get_mut(&device) {
            leg.has_refused = true;
            // Of a device that was given up this is why, and what it says out of order doesn't count any more.
            leg.state = if may_ring { state } else { leg.state };
        }
        let is_for_all = matches!(reason, Reason::DECLINED | Reason::DECLINED_ELSEWHERE);
        if may_ring && is_for_all && self.is_waiting() {
            self.end(Outcome::Declined, reason, now);
        } else {
            self.settle(now);
        }
    }

    fn leg_ends(&mut self, device: DeviceKey, state: LegState, now: Instant) {
        if let Some(leg) = self.legs.get_mut(&device)
            && leg.state.is_live()
        {
            leg.state = state;
        }
        self.settle(now);
    }

    fn fail_unreached(&mut self, now: Instant) {
        for leg in self.legs.values_mut().filter(|leg| leg.state == LegState::Inviting) {
            leg.state = if leg.is_kept { LegState::Held } else { LegState::Failed(Reason::UNREACHABLE) };
        }
        self.settle(now);
    }

    /// Ends the call when no device is left that could answer.
    fn settle(&mut self, now: Instant) {
        if !self.is_waiting() || self.is_lookup_pending || self.legs.values().any(|leg| leg.state.is_live()) {
            return;
        }
        let states = || self.legs.values().map(|leg| leg.state);
        let declined = states().find_map(|state| match state {
            LegState::Declined(reason) => Some(reason),
            _ => None,
        });
        let failed = states().find_map(|state| match state {
            LegState::Failed(reason) => Some(reason),
            _ => None,
        });
        let (outcome, reason) = if states().any(|state| state == LegState::Busy) {
            (Outcome::Busy, Reason::BUSY)
        } else if let Some(reason) = declined {
            (Outcome::Declined, reason)
        } else if states().any(|state| state == LegState::Failed(Reason::PHONE_NOT_HERE)) {
            // An edge says that it rings before it has asked its phones.
            (Outcome::Unreachable, Reason::PHONE_NOT_HERE)
        } else if self.has_rung() {
            (Outcome::NoAnswer, Reason::NO_ANSWER)
        } else {
            (Outcome::Unreachable, failed.unwrap_or(Reason::UNREACHABLE))
        };
        self.end(outcome, reason, now);
    }

    fn end(&mut self, outcome: Outcome, reason: Reason, now: Instant) {
        if self.is_ended() {
            return;
        }
        let peer = match self.state {
            CallerState::Answered(peer) | CallerState::Connected(peer) => Some(peer),
            _ => None,
        };
        if let Some(peer) = peer.filter(|peer| self.leg_state(peer) == Some(LegState::Answered)) {
            self.stop_leg(peer, SignalBody::HangUp { reason }, reason, now);
        }
        let told = told_reason(outcome, reason);
        self.stop_live_legs(&SignalBody::Cancel { reason: told }, told, now);
        self.state = CallerState::Ended(outcome, reason);
        self.connect_at = None;
        self.actions.push_back(CallerAction::Finished { outcome, reason });
    }

    /// Stops all devices that ring or may yet ring.
    fn stop_live_legs(&mut self, body: &SignalBody, reason: Reason, now: Instant) {
        let live: Vec<DeviceKey> = self.legs.iter().filter(|(_, leg)| leg.state.may_ring()).map(|(device, _)| *device).collect();
        for device in live {
            self.stop_leg(device, body.clone(), reason, now);
        }
    }

    /// A device answers its invite when nothing is to ring any more: it is told, once more if it was.
    fn stop_late(&mut self, device: DeviceKey, status: InviteStatus, now: Instant) {
        let rings = matches!(status, InviteStatus::Ringing | InviteStatus::Duplicate);
        if let (true, SignalStatus::Refused(reason)) = (rings && self.legs.contains_key(&device), self.standing(device)) {
            self.stop_leg(device, SignalBody::Cancel { reason }, reason, now);
        }
        self.pump(now);
    }

    fn stop_leg(&mut self, device: DeviceKey, body: SignalBody, reason: Reason, now: Instant) {
        if let Some(leg) = self.legs.get_mut(&device) {
            leg.state = LegState::Stopped(reason);
            self.sender.queue(device, body, now);
        }
    }

    fn pump(&mut self, now: Instant) {
        // What is given up concerns devices that can't be reached any more: media or a deadline settle the call.
        let due = self.sender.take_due(now);
        self.actions.extend(due.send.into_iter().map(CallerAction::Send));
    }
}

/// What devices that ring in vain are told.
const fn told_reason(outcome: Outcome, reason: Reason) -> Reason {
    match outcome {
        Outcome::Declined => Reason::DECLINED_ELSEWHERE,
        Outcome::Completed | Outcome::Failed => Reason::ANSWERED_ELSEWHERE,
        _ => reason,
    }
}
