//! Conferences: calls that others were added to. Each leg is a call like any other; who is to have one with whom decides the machine of
//! `halloo_protocol::call::conference`, which this module drives.
//!
//! A call knows by its [`Link`] that it belongs to a conference. What is said and heard on all legs is one [`Room`].

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use halloo_protocol::call::conference::{
    AttendanceStatus, Conference, ConferenceAction, ConferenceId, ConferenceNotice, ConferenceNoticed, ConferencePart, LegEnd,
    PARTICIPANTS_MAX, Participant, VerifiedAttendance, VerifiedIntroduction,
};
use halloo_protocol::call::{CallId, CalleeState, CallerState, Outcome, Reason, VerifiedInvite};
use halloo_protocol::contact::privacy::Relation;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::phone::AudioCodec;
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{Extensions, Frame};
use tracing::{debug, info};

use super::media::{MediaConfig, Room};
use super::{SIGNAL_TIMEOUT, result_of};
use crate::event_loop::EventLoop;
use crate::handle::calls::{AddOptions, AnswerOptions, CallAdded, CallEntry, CallError, CallRejoined, CallResult, DialOptions};
use crate::handle::problem::NodeError;
use crate::handle::{Event, Reply};
use crate::network::{Purpose, Target};

/// Conferences that this device was in lately and can come back to; the one that was left first makes room.
const LEFT_MAX: usize = 16;

/// For how long it can.
const LEFT_KEPT: Duration = Duration::from_secs(3_600);

/// How long two others may take to have each other once this device has connected them: a look-up, a connection and an answer.
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// What a call has to do with a conference.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) id: ConferenceId,
    /// A leg between two who are in the conference: it never rings. Otherwise a person was asked in, or the conference began with this call.
    pub(super) is_leg: bool,
    /// The other end. Of somebody who was asked in it shows with the answer.
    pub(super) other: Option<Participant>,
    /// When the caller came, of a call that came in.
    since: Option<UnixTime>,
    /// Who vouches for the caller, as far as they showed.
    word: Option<VerifiedIntroduction>,
    introduced_by: Option<Participant>,
}

/// An attendance on its way to a participant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoticeTarget {
    conference: ConferenceId,
    device: DeviceKey,
    call: CallId,
    number: u32,
}

/// Somebody is being asked in.
#[derive(Debug)]
struct Asked {
    call: CallId,
    user: UserId,
    reply: Reply<CallAdded, CallError>,
}

/// Two others who are to have each other.
#[derive(Debug)]
struct Connect {
    ends: [DeviceKey; 2],
    until: Instant,
    reply: Reply<bool, CallError>,
}

/// A conference this device is in.
#[derive(Debug)]
pub(super) struct Running {
    machine: Conference,
    room: Room,
    relayed_only: bool,
    asked: Vec<Asked>,
    /// Who waits for somebody to let this device in again.
    rejoins: Option<Reply<CallRejoined, CallError>>,
    /// Which others this device connects with each other.
    connects: Vec<Connect>,
    /// In what encoded audio passes on legs, where the embedder has that of the call it began as.
    passes: Vec<AudioCodec>,
    /// Everybody with whom there was a leg, and who had introduced them.
    known: BTreeMap<DeviceKey, (Participant, Option<Participant>)>,
    /// Calls that were legs: the conference can be named by any.
    calls: Vec<CallId>,
}

/// Legs remembered by which a conference can be named.
const LEGS_REMEMBERED_MAX: usize = 64;

/// A conference this device was in.
#[derive(Debug)]
pub(super) struct Former {
    id: ConferenceId,
    since: UnixTime,
    left_at: Instant,
    others: Vec<(Participant, Option<Participant>)>,
    calls: Vec<CallId>,
    relayed_only: bool,
}

/// All conferences of this run.
#[derive(Debug, Default)]
pub(super) struct ConferencesState {
    running: BTreeMap<ConferenceId, Running>,
    former: VecDeque<Former>,
}

impl ConferencesState {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let connects = self.running.values().flat_map(|running| running.connects.iter().map(|connect| connect.until));
        self.running.values().filter_map(|running| running.machine.poll_timeout()).chain(connects).min()
    }

    /// A machine that isn't over.
    fn machine(&mut self, id: &ConferenceId) -> Option<&mut Conference> {
        self.running.get_mut(id).map(|running| &mut running.machine).filter(|machine| !machine.is_over())
    }

    fn is_running(&self, id: &ConferenceId) -> bool {
        self.running.get(id).is_some_and(|running| !running.machine.is_over())
    }
}

/// What an ended call means for the conference it was a leg of.
const fn end_of(reason: Reason) -> LegEnd {
    match reason {
        Reason::HANGUP | Reason::CONFERENCE_FULL => LegEnd::Left,
        Reason::NOT_IN_CONFERENCE => LegEnd::NotThere,
        _ => LegEnd::Lost,
    }
}

const fn end_words(end: LegEnd) -> &'static str {
    match end {
        LegEnd::Left => "left",
        LegEnd::Lost => "connection lost",
        LegEnd::NotThere => "not in the conference",
    }
}

fn unknown_call(call_id: &str) -> CallError {
    CallError::UnknownCall { call_id: call_id.chars().take(64).collect() }
}

// What the person wants.
impl EventLoop {
    pub(crate) fn handle_call_add(&mut self, call_id: &str, options: &AddOptions, reply: Reply<CallAdded, CallError>) {
        match self.check_add(call_id, options) {
            Ok((call, user)) => self.add_to_call(call, user, options, reply),
            Err(error) => reply.send(Err(error)),
        }
    }

    fn check_add(&mut self, call_id: &str, options: &AddOptions) -> Result<(CallId, UserId), CallError> {
        let call = call_id.parse::<CallId>().map_err(|_| unknown_call(call_id))?;
        let user = self.parse_user_or_linked(&options.user)?;
        super::phone::part_of(options.phone.as_deref())?;
        if user == self.identity.user_id() {
            return Err(CallError::CallsSelf);
        }
        self.refuse_changed(&user)?;
        if let Some((waiting, _)) = self.waiting_dial(&user, None, None) {
            return Err(CallError::AlreadyCalling { username: self.labels.display(&user), call_id: waiting.to_string() });
        }
        if self.pair_of(call).is_none() {
            let is_known = self.calls.outgoing.contains_key(&call) || self.calls.incoming.contains_key(&call);
            return Err(if is_known {
                CallError::WrongState { call_id: call.to_string(), state: "not answered, or over", action: "added to" }
            } else {
                unknown_call(call_id)
            });
        }
        let takes_part = |calls: &mut Self| {
            let (other, ..) = calls.pair_of(call)?;
            let link = calls.link(call).map(|link| link.id);
            let running = link.and_then(|id| calls.calls.conferences.running.get(&id));
            let is_there = running.is_some_and(|running| running.machine.present().any(|(present, _)| present.user == user));
            (other.user == user || is_there).then_some(())
        };
        if takes_part(self).is_some() {
            return Err(CallError::TakesPart { username: self.labels.display(&user) });
        }
        Ok((call, user))
    }

    fn add_to_call(&mut self, call: CallId, user: UserId, add: &AddOptions, reply: Reply<CallAdded, CallError>) {
        let linked = match self.linked_addition(&add.user) {
            Ok(linked) => linked.map(Box::new),
            Err(error) => return reply.send(Err(error)),
        };
        let phone = add.phone.clone();
        let Some(id) = self.conference_of(call) else { return reply.send(Err(unknown_call(&call.to_string()))) };
        let added = CallId::random(&mut self.rng);
        let Some(running) = self.calls.conferences.running.get_mut(&id) else { return };
        if !running.machine.add(added) {
            let full = NodeError::LimitReached { what: "people in a conference", max: PARTICIPANTS_MAX };
            return reply.send(Err(CallError::Node(full)));
        }
        running.asked.push(Asked { call: added, user: user.clone(), reply });
        // Who is to hear a phone, and be heard by it, speaks its codec from the beginning.
        let (relayed_only, passthrough) = (running.relayed_only, running.passes.clone());
        let options = DialOptions { relayed_only, passthrough, phone, linked, ..DialOptions::default() };
        let link = Link { id, is_leg: false, other: None, since: None, word: None, introduced_by: None };
        info!(conference = %id.short(), call = %added.short(), "somebody is asked in");
        self.drive_conference(id);
        self.place_call(added, user, options, Some(link), None);
    }

    /// The other ends of two answered calls are to have each other: both calls become one conference.
    pub(crate) fn handle_call_connect(&mut self, call_id: &str, with: &str, reply: Reply<bool, CallError>) {
        match self.connect_calls(call_id, with) {
            Ok((id, ends)) => {
                let until = Instant::now() + CONNECT_MAX;
                if let Some(running) = self.calls.conferences.running.get_mut(&id) {
                    running.connects.push(Connect { ends, until, reply });
                }
                self.drive_conference(id);
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    fn connect_calls(&mut self, call_id: &str, with: &str) -> Result<(ConferenceId, [DeviceKey; 2]), CallError> {
        let named = |calls: &Self, call_id: &str| {
            let call = call_id.parse::<CallId>().map_err(|_| unknown_call(call_id))?;
            calls.pair_of(call).map(|(other, ..)| (call, other)).ok_or_else(|| unknown_call(call_id))
        };
        let ((call, one), (added, other)) = (named(self, call_id)?, named(self, with)?);
        if one.user == other.user {
            return Err(CallError::TakesPart { username: self.labels.display(&one.user) });
        }
        let is_linked = |calls: &Self, call| calls.link(call).is_some_and(|link| calls.calls.conferences.is_running(&link.id));
        // One that is a conference already takes the other in.
        let (call, added) = if is_linked(self, added) && !is_linked(self, call) { (added, call) } else { (call, added) };
        let id = self.conference_of(call).ok_or_else(|| unknown_call(call_id))?;
        if !self.take_in_call(added, id) {
            return Err(CallError::WrongState { call_id: with.to_owned(), state: "in another conference", action: "connected" });
        }
        Ok((id, [one.device, other.device]))
    }

    /// Tells who connects others what has come of it.
    fn review_connects(&mut self, id: ConferenceId) {
        let Some(running) = self.calls.conferences.running.get_mut(&id) else { return };
        let now = Instant::now();
        let (machine, connects) = (&running.machine, &mut running.connects);
        let done = connects.extract_if(.., |connect| {
            let [one, other] = &connect.ends;
            connect.until <= now || connect.reply.is_closed() || machine.have_each_other(one, other)
        });
        for Connect { ends: [one, other], reply, .. } in done {
            reply.send(Ok(machine.have_each_other(&one, &other)));
        }
    }

    pub(crate) fn handle_call_rejoin(&mut self, call_id: &str, options: &AnswerOptions, reply: Reply<CallRejoined, CallError>) {
        let now = self.now();
        let named =
            |former: &Former| former.id.to_string() == call_id || former.calls.iter().any(|call| call.to_string() == call_id);
        let former = &mut self.calls.conferences.former;
        former.retain(|former| now.instant.saturating_duration_since(former.left_at) < LEFT_KEPT);
        let Some(index) = former.iter().position(named) else {
            return reply.send(Err(CallError::NotLeft { call_id: call_id.chars().take(64).collect() }));
        };
        let Some(former) = former.remove(index) else { return };
        if self.calls.conferences.is_running(&former.id) {
            return reply.send(Err(CallError::WrongState { call_id: call_id.to_owned(), state: "going on", action: "rejoined" }));
        }
        let since = now.unix.max(former.since.plus_secs(1));
        let machine = Conference::rejoin(former.id, self.own_participation(), since, &former.others, now.instant);
        let running = Running {
            machine,
            room: Room::new(options.play.clone(), options.record.clone()),
            relayed_only: former.relayed_only,
            asked: Vec::new(),
            rejoins: Some(reply),
            connects: Vec::new(),
            passes: Vec::new(),
            known: former.others.into_iter().map(|other| (other.0.device, other)).collect(),
            calls: former.calls,
        };
        self.calls.conferences.running.insert(former.id, running);
        self.drive_conference(former.id);
    }

    /// Leaves the conference that an answered call is a leg of. False if it is none.
    pub(super) fn leave_conference_of(&mut self, call: CallId) -> bool {
        let Some(id) = self.link(call).map(|link| link.id) else { return false };
        let is_leg = self.pair_of(call).is_some();
        let Some(machine) = self.calls.conferences.machine(&id).filter(|_| is_leg) else { return false };
        machine.leave(Reason::HANGUP);
        self.drive_conference(id);
        true
    }

    /// The same for a call that was a leg of it, and whose other end has left in the meantime: whoever hangs up wants to leave.
    pub(super) fn leave_conference_named(&mut self, call: CallId) -> bool {
        let running = &self.calls.conferences.running;
        let was_leg = |running: &Running| running.calls.contains(&call) && !running.machine.is_over();
        let Some(id) = running.iter().find(|(_, running)| was_leg(running)).map(|(id, _)| *id) else { return false };
        let Some(machine) = self.calls.conferences.machine(&id) else { return false };
        machine.leave(Reason::HANGUP);
        self.drive_conference(id);
        true
    }
}

// Calls and conferences.
impl EventLoop {
    pub(super) fn link(&self, call: CallId) -> Option<&Link> {
        let outgoing = self.calls.outgoing.get(&call).map(|call| call.link.as_ref());
        outgoing.or_else(|| self.calls.incoming.get(&call).map(|call| call.link.as_ref()))?
    }

    fn link_mut(&mut self, call: CallId) -> Option<&mut Option<Link>> {
        let outgoing = self.calls.outgoing.get_mut(&call).map(|call| &mut call.link);
        outgoing.or_else(|| self.calls.incoming.get_mut(&call).map(|call| &mut call.link))
    }

    fn own_participation(&self) -> Participant {
        let identity = self.identity.identity();
        Participant { user: self.identity.user_id(), identity, device: self.identity.device() }
    }

    /// The other end of an answered call, its caller's device and its callee's, and its room.
    fn pair_of(&self, call: CallId) -> Option<(Participant, DeviceKey, DeviceKey, Room, bool)> {
        let me = self.identity.device();
        if let Some(outgoing) = self.calls.outgoing.get(&call) {
            let (CallerState::Answered(device) | CallerState::Connected(device)) = outgoing.machine.state() else { return None };
            let other = Participant { user: outgoing.progress.user.clone(), identity: outgoing.identity?, device };
            return Some((other, me, device, outgoing.room.clone(), outgoing.options.relayed_only));
        }
        let incoming = self.calls.incoming.get(&call).filter(|call| call.machine.state() == CalleeState::Answered)?;
        let other = incoming.other.clone();
        let caller = other.device;
        Some((other, caller, me, incoming.room.clone()?, false))
    }

    /// The conference that a call is a leg of; one that isn't becomes a conference.
    fn conference_of(&mut self, call: CallId) -> Option<ConferenceId> {
        if let Some(link) = self.link(call)
            && self.calls.conferences.is_running(&link.id)
        {
            return Some(link.id);
        }
        let (_, caller, callee, ..) = self.pair_of(call)?;
        let id = ConferenceId::of_call(&call, &caller, &callee);
        self.take_in_call(call, id).then_some(id)
    }

    /// An answered call becomes a leg of this conference, which begins with it if there is none yet. False if it is in another.
    fn take_in_call(&mut self, call: CallId, id: ConferenceId) -> bool {
        if let Some(link) = self.link(call).filter(|link| self.calls.conferences.is_running(&link.id)) {
            return link.id == id;
        }
        let Some((other, _, _, room, relayed_only)) = self.pair_of(call) else { return false };
        match self.calls.conferences.running.get_mut(&id) {
            Some(running) => running.relayed_only |= relayed_only,
            None => self.begin_conference(id, call, room, relayed_only),
        }
        let link = Link { id, is_leg: false, other: Some(other.clone()), since: None, word: None, introduced_by: None };
        let Some(place) = self.link_mut(call) else { return false };
        *place = Some(link);
        let now = self.now();
        if let Some(machine) = self.calls.conferences.machine(&id) {
            machine.leg_up(&other, call, now);
        }
        self.drive_conference(id);
        true
    }

    fn begin_conference(&mut self, id: ConferenceId, call: CallId, room: Room, relayed_only: bool) {
        let now = self.now();
        let former = &mut self.calls.conferences.former;
        let before = former.iter().position(|former| former.id == id).and_then(|index| former.remove(index));
        let since = before.map_or(now.unix, |before| now.unix.max(before.since.plus_secs(1)));
        let machine = Conference::new(id, self.own_participation(), since, now.instant);
        let (asked, connects, known, calls) = (Vec::new(), Vec::new(), BTreeMap::new(), Vec::new());
        let passes = self.passes(call);
        let running = Running { machine, room, relayed_only, asked, rejoins: None, connects, passes, known, calls };
        self.calls.conferences.running.insert(id, running);
    }

    /// The room of the conference that a call belongs to, while it goes on.
    pub(super) fn conference_room(&self, link: Option<&Link>) -> Option<Room> {
        let running = self.calls.conferences.running.get(&link?.id)?;
        (!running.machine.is_over()).then(|| running.room.clone())
    }

    /// What the invite of a call says of the conference.
    pub(super) fn conference_part(&self, link: Option<&Link>) -> Option<ConferencePart> {
        let link = link?;
        let running = self.calls.conferences.running.get(&link.id)?;
        let to = link.other.as_ref().filter(|_| link.is_leg).map(|other| &other.device);
        Some(running.machine.part(to))
    }

    /// A call of ours is answered.
    pub(super) fn outgoing_leg_up(&mut self, call: CallId) {
        let Some((other, ..)) = self.pair_of(call) else { return };
        let now = self.now();
        let Some(link) = self.calls.outgoing.get_mut(&call).and_then(|outgoing| outgoing.link.as_mut()) else { return };
        link.other = Some(other.clone());
        let id = link.id;
        match self.calls.conferences.machine(&id) {
            Some(machine) => machine.leg_up(&other, call, now),
            None => return self.hang_up_leg(call, Reason::NOT_IN_CONFERENCE),
        }
        self.drive_conference(id);
    }

    /// A call that came in is being answered here.
    pub(super) fn incoming_connecting(&mut self, call: CallId) {
        let now = self.now();
        let Some(incoming) = self.calls.incoming.get(&call) else { return };
        let (Some(link), other) = (incoming.link.clone(), incoming.other.clone()) else { return };
        if let Some(machine) = self.calls.conferences.machine(&link.id) {
            machine.connecting(&other, link.since, call, link.introduced_by, now);
            self.drive_conference(link.id);
        }
    }

    /// A call that came in is answered, and its caller says that this device is the one.
    pub(super) fn incoming_leg_up(&mut self, call: CallId) {
        let Some(incoming) = self.calls.incoming.get(&call) else { return };
        let (Some(link), other, room) = (incoming.link.clone(), incoming.other.clone(), incoming.room.clone()) else { return };
        if !self.calls.conferences.is_running(&link.id) {
            let Some(room) = room.filter(|_| !link.is_leg) else { return self.hang_up_leg(call, Reason::NOT_IN_CONFERENCE) };
            self.begin_conference(link.id, call, room, false);
            self.incoming_connecting(call);
        }
        let now = self.now();
        if let Some(machine) = self.calls.conferences.machine(&link.id) {
            machine.leg_up(&other, call, now);
        }
        self.drive_conference(link.id);
    }

    /// A call of a conference is over, or came to nothing. `joined`: another call between the two goes on in its place.
    pub(super) fn conference_call_over(&mut self, call: CallId, outcome: Outcome, reason: Reason, joined: bool) {
        let Some(link) = self.link(call).cloned() else { return };
        let now = self.now();
        if let Some(machine) = self.calls.conferences.machine(&link.id) {
            match link.other.filter(|_| !joined) {
                Some(other) => machine.leg_failed(&other.device, Some(call), end_of(reason), now),
                None => machine.add_failed(call, now),
            }
        }
        if !joined {
            self.answer_asked(link.id, call, Some(result_of(outcome)), &reason.to_string());
        }
        self.drive_conference(link.id);
    }

    /// Tells who waits for somebody who was asked in that they don't come.
    fn answer_asked(&mut self, id: ConferenceId, call: CallId, outcome: Option<CallResult>, reason: &str) {
        let Some(running) = self.calls.conferences.running.get_mut(&id) else { return };
        let Some(index) = running.asked.iter().position(|asked| asked.call == call) else { return };
        let Asked { user, reply, .. } = running.asked.swap_remove(index);
        reply.send(Ok(CallAdded {
            call_id: call.to_string(),
            conference_id: id.to_string(),
            username: self.labels.display(&user),
            joined: false,
            outcome,
            reason: Some(reason.to_owned()),
        }));
    }

    /// The look-up for a call of a conference found nobody: who waits for it hears why.
    pub(super) fn asked_not_found(&mut self, link: &Link, call: CallId, error: &CallError) {
        let now = self.now();
        if let Some(machine) = self.calls.conferences.machine(&link.id) {
            match &link.other {
                Some(other) => machine.leg_failed(&other.device, Some(call), LegEnd::Lost, now),
                None => machine.add_failed(call, now),
            }
        }
        if let Some(running) = self.calls.conferences.running.get_mut(&link.id)
            && let Some(index) = running.asked.iter().position(|asked| asked.call == call)
        {
            running.asked.swap_remove(index).reply.send(Err(error.clone()));
        }
        self.drive_conference(link.id);
    }

    fn hang_up_leg(&mut self, call: CallId, reason: Reason) {
        let now = Instant::now();
        if let Some(outgoing) = self.calls.outgoing.get_mut(&call) {
            outgoing.machine.hang_up_for(reason, now);
            self.drive_outgoing(call);
        } else if let Some(incoming) = self.calls.incoming.get_mut(&call) {
            incoming.machine.hang_up_for(reason, now);
            self.drive_incoming(call);
        }
    }

    pub(super) fn conferences_tick(&mut self, now: Now) {
        let ids: Vec<ConferenceId> = self.calls.conferences.running.keys().copied().collect();
        for id in ids {
            let Some(running) = self.calls.conferences.running.get_mut(&id) else { continue };
            if running.machine.poll_timeout().is_some_and(|at| at <= now.instant) {
                running.machine.handle_timeout(now);
            }
            // Whoever asked somebody in and doesn't wait any more has given up.
            let given_up = running.asked.iter().filter(|asked| asked.reply.is_closed()).map(|asked| asked.call);
            for call in given_up.collect::<Vec<_>>() {
                self.hang_up_leg(call, Reason::CANCELLED);
                self.answer_asked(id, call, Some(CallResult::Cancelled), "given up");
            }
            self.drive_conference(id);
        }
    }
}

// The machine's wishes, and what the others say.
impl EventLoop {
    /// Carries out what the machine of a conference wants.
    fn drive_conference(&mut self, id: ConferenceId) {
        while let Some(action) = self.calls.conferences.running.get_mut(&id).and_then(|running| running.machine.poll_action()) {
            match action {
                ConferenceAction::Dial(participant) => self.dial_leg(id, participant),
                ConferenceAction::HangUp { call, reason } => self.hang_up_leg(call, reason),
                ConferenceAction::Tell(draft) => {
                    let target = NoticeTarget { conference: id, device: draft.to(), call: draft.call(), number: draft.number() };
                    let Some(to) = self.leg_target(target.call, &target.device) else { continue };
                    let attendance = draft.sign(self.identity.device_key());
                    let message = ConferenceNotice { attendance, extensions: Extensions::none() };
                    self.request(&to, &message, Purpose::Conference(target), SIGNAL_TIMEOUT);
                }
                ConferenceAction::Joined { participant, introduced_by, call } => {
                    self.somebody_joined(id, &participant, introduced_by.as_ref(), call);
                }
                ConferenceAction::Left { participant, call, end } => {
                    info!(conference = %id.short(), call = %call.short(), ?end, "somebody left the conference");
                    self.events.send(Event::ConferenceLeft {
                        conference_id: id.to_string(),
                        call_id: call.to_string(),
                        username: self.labels.display(&participant.user),
                        reason: end_words(end).to_owned(),
                    });
                }
                ConferenceAction::Ended => self.conference_ended(id),
            }
        }
        self.review_twins(id);
        self.review_connects(id);
    }

    fn leg_target(&self, call: CallId, device: &DeviceKey) -> Option<Target> {
        match self.calls.outgoing.get(&call) {
            Some(outgoing) => outgoing.legs.get(device).map(|leg| leg.target.clone()),
            None => self.calls.incoming.get(&call).map(|incoming| incoming.target.clone()),
        }
    }

    fn dial_leg(&mut self, id: ConferenceId, participant: Participant) {
        // Somebody who has asked this device in beside another is waiting for it already.
        if let Some(twin) = self.twin_of_caller(id, &participant.device) {
            return self.answer_twin(twin);
        }
        let now = self.now();
        let call = CallId::random(&mut self.rng);
        let Some(running) = self.calls.conferences.running.get_mut(&id) else { return };
        running.machine.connecting(&participant, None, call, None, now);
        let introduced_by = running.machine.peer(&participant.device).and_then(|(_, by)| by.cloned());
        let options =
            DialOptions { relayed_only: running.relayed_only, passthrough: running.passes.clone(), ..DialOptions::default() };
        let user = participant.user.clone();
        let is_refused = self.is_blocked(&user) || self.refuse_changed(&user).is_err();
        if is_refused {
            if let Some(machine) = self.calls.conferences.machine(&id) {
                machine.leg_failed(&participant.device, Some(call), LegEnd::NotThere, now);
            }
            return;
        }
        let link = Link { id, is_leg: true, other: Some(participant), since: None, word: None, introduced_by };
        debug!(conference = %id.short(), call = %call.short(), "a leg is dialled");
        self.place_call(call, user, options, Some(link), None);
    }

    fn somebody_joined(&mut self, id: ConferenceId, who: &Participant, by: Option<&Participant>, call: CallId) {
        let Some(running) = self.calls.conferences.running.get_mut(&id) else { return };
        running.known.insert(who.device, (who.clone(), by.cloned()));
        if running.calls.len() < LEGS_REMEMBERED_MAX {
            running.calls.push(call);
        }
        if let Some(reply) = running.rejoins.take() {
            reply.send(Ok(CallRejoined { conference_id: id.to_string(), joined: true }));
        }
        let username = self.labels.display(&who.user);
        let mut withdrawn = None;
        if let Some(index) = running.asked.iter().position(|asked| asked.user == who.user) {
            let asked = running.asked.swap_remove(index);
            // They have come by another's call, or by their own: ours needn't ring any more.
            withdrawn = (asked.call != call).then_some(asked.call);
            asked.reply.send(Ok(CallAdded {
                call_id: call.to_string(),
                conference_id: id.to_string(),
                username: username.clone(),
                joined: true,
                outcome: None,
                reason: None,
            }));
        }
        info!(conference = %id.short(), call = %call.short(), "somebody is in the conference");
        self.events.send(Event::ConferenceJoined {
            conference_id: id.to_string(),
            call_id: call.to_string(),
            username,
            is_contact: self.is_contact_of(who),
            introduced_by: by.map(|by| self.labels.display(&by.user)),
        });
        if let Some(call) = withdrawn {
            self.hang_up_leg(call, Reason::CANCELLED);
        }
    }

    fn is_contact_of(&self, who: &Participant) -> bool {
        self.is_acquainted(&who.user) && self.contact_identity(&who.user) == Some(who.identity)
    }

    fn conference_ended(&mut self, id: ConferenceId) {
        let Some(running) = self.calls.conferences.running.remove(&id) else { return };
        info!(conference = %id.short(), "conference over");
        for asked in running.asked {
            self.hang_up_leg(asked.call, Reason::CANCELLED);
            asked.reply.send(Ok(CallAdded {
                call_id: asked.call.to_string(),
                conference_id: id.to_string(),
                username: self.labels.display(&asked.user),
                joined: false,
                outcome: Some(CallResult::Cancelled),
                reason: Some("the conference is over".to_owned()),
            }));
        }
        if let Some(reply) = running.rejoins {
            reply.send(Ok(CallRejoined { conference_id: id.to_string(), joined: false }));
        }
        running.connects.into_iter().for_each(|connect| connect.reply.send(Ok(false)));
        let former = Former {
            id,
            since: running.machine.since(),
            left_at: Instant::now(),
            others: running.known.into_values().collect(),
            calls: running.calls,
            relayed_only: running.relayed_only,
        };
        if self.calls.conferences.former.len() >= LEFT_MAX {
            self.calls.conferences.former.pop_front();
        }
        self.calls.conferences.former.push_back(former);
    }

    /// Somebody says who is in a conference.
    pub(crate) fn handle_conference_notice(&mut self, notice: &ConferenceNotice) -> ConferenceNoticed {
        let noticed = |status| ConferenceNoticed { status, extensions: Extensions::none() };
        let Some(verified) = VerifiedAttendance::verify(&notice.attendance, &self.identity.device()) else {
            self.counters.malformed += 1;
            return noticed(AttendanceStatus::Refused(Reason::INVALID));
        };
        let said = verified.attendance();
        let id = said.conference;
        if !self.calls.conferences.is_running(&id) && !self.becomes_conference(said.call, &said.from, id) {
            return noticed(AttendanceStatus::NoSuchLeg);
        }
        let now = self.now();
        let machine = self.calls.conferences.machine(&id);
        let status = machine.map_or(AttendanceStatus::NoSuchLeg, |machine| machine.handle_attendance(&verified, now));
        self.drive_conference(id);
        noticed(status)
    }

    /// The other end of a call has made a conference of it, or connects it with another of its calls. Either way this user hears of somebody whom the other
    /// has brought, as if they had been added. A conference that this user has left isn't entered again so: that is for the person.
    fn becomes_conference(&mut self, call: CallId, from: &DeviceKey, id: ConferenceId) -> bool {
        let Some((other, caller, callee, ..)) = self.pair_of(call) else { return false };
        let is_of_call = ConferenceId::of_call(&call, &caller, &callee) == id;
        let was_left = self.calls.conferences.former.iter().any(|former| former.id == id);
        other.device == *from && (is_of_call || !was_left) && self.take_in_call(call, id)
    }

    pub(crate) fn conference_answer(&mut self, target: NoticeTarget, frame: &Frame) {
        let Ok(answer) = frame.parse::<ConferenceNoticed>() else {
            self.counters.malformed += 1;
            return;
        };
        let now = self.now();
        if let Some(machine) = self.calls.conferences.machine(&target.conference) {
            machine.handle_status(&target.device, target.call, target.number, answer.status, now);
        }
        self.drive_conference(target.conference);
    }
}

// Invites.
impl EventLoop {
    /// Whether an invite is for a leg of a conference that this device is in, and is let in. `None`: an invite as any other.
    pub(super) fn judge_leg(&mut self, invite: &VerifiedInvite, part: &ConferencePart) -> Option<Result<Link, Reason>> {
        let link = self.link_of_invite(invite, part);
        if !self.calls.conferences.is_running(&part.conference) {
            return part.is_leg.then_some(Err(Reason::NOT_IN_CONFERENCE));
        }
        // A word lets nobody in whom the user has blocked, or whose key has changed.
        if matches!(self.relation(&invite.caller().user), Relation::Blocked | Relation::Changed) {
            return Some(Err(Reason::NOT_ALLOWED));
        }
        match self.admitted(&link) {
            Ok(link) => Some(Ok(link)),
            Err(reason) => part.is_leg.then_some(Err(reason)),
        }
    }

    pub(super) fn link_of_invite(&self, invite: &VerifiedInvite, part: &ConferencePart) -> Link {
        let word = part.verified_word(invite, self.now().unix).unwrap_or_else(|error| {
            debug!(%error, "a word that isn't good");
            None
        });
        let other = Some(Participant::from(invite.caller()));
        Link { id: part.conference, is_leg: part.is_leg, other, since: Some(part.since), word, introduced_by: None }
    }

    fn admitted(&mut self, link: &Link) -> Result<Link, Reason> {
        let (Some(other), Some(since)) = (&link.other, link.since) else { return Err(Reason::INVALID) };
        let machine = self.calls.conferences.machine(&link.id).ok_or(Reason::NOT_IN_CONFERENCE)?;
        let introduced_by = machine.admit(other, since, link.word.as_ref())?;
        Ok(Link { is_leg: true, introduced_by, ..link.clone() })
    }

    /// A call that rings here already for the conference that another one asks into, or a leg of it: the person hears one ring, and who else asks is
    /// answered once somebody who is there vouches for them.
    pub(super) fn first_of_twins(&self, id: ConferenceId) -> Option<CallId> {
        let is_first = |call: &super::Incoming| {
            call.link.as_ref().is_some_and(|link| link.id == id)
                && call.twin_of.is_none()
                && matches!(call.machine.state(), CalleeState::Ringing | CalleeState::Answering)
        };
        let ringing = self.calls.incoming.iter().filter(|(_, call)| is_first(call)).map(|(id, _)| *id).min();
        ringing.or_else(|| self.calls.conferences.running.get(&id)?.machine.present().next().map(|(_, call)| call))
    }

    fn twins(&self, is_wanted: impl Fn(&super::Incoming) -> bool) -> Vec<CallId> {
        let is_twin = |call: &super::Incoming| {
            call.twin_of.is_some() && call.machine.state() == CalleeState::Ringing && !call.is_being_answered() && is_wanted(call)
        };
        let mut twins: Vec<CallId> = self.calls.incoming.iter().filter(|(_, call)| is_twin(call)).map(|(id, _)| *id).collect();
        twins.sort_unstable();
        twins
    }

    fn twin_of_caller(&self, id: ConferenceId, device: &DeviceKey) -> Option<CallId> {
        let is_theirs =
            |call: &super::Incoming| call.other.device == *device && call.link.as_ref().is_some_and(|link| link.id == id);
        self.twins(is_theirs).first().copied()
    }

    /// Others who asked this device in are answered as soon as somebody who is there vouches for them.
    fn review_twins(&mut self, id: ConferenceId) {
        if !self.calls.conferences.is_running(&id) {
            return;
        }
        for twin in self.twins(|call| call.link.as_ref().is_some_and(|link| link.id == id)) {
            let Some(link) = self.link(twin).cloned() else { continue };
            if let Ok(link) = self.admitted(&link) {
                if let Some(place) = self.link_mut(twin) {
                    *place = Some(link);
                }
                self.answer_twin(twin);
            }
        }
    }

    /// How a leg that comes in is answered: over relays only if this device is in the conference that way, or always.
    fn leg_config(&self, call: CallId) -> MediaConfig {
        let running = self.link(call).and_then(|link| self.calls.conferences.running.get(&link.id));
        let relayed_only = self.settings.relayed_calls || running.is_some_and(|running| running.relayed_only);
        self.media_config(None, None).relayed_only(relayed_only)
    }

    fn answer_twin(&mut self, twin: CallId) {
        self.answer_leg(twin);
    }

    /// Answers a leg: nobody has to.
    pub(super) fn answer_leg(&mut self, call: CallId) {
        let running = self.link(call).and_then(|link| self.calls.conferences.running.get(&link.id));
        let passes = running.map(|running| running.passes.clone()).unwrap_or_default();
        let config = self.leg_config(call);
        let config = self.with_passthrough(call, config, &passes);
        self.begin_answer(call, config);
    }

    /// A call that rang for a conference is over. If the person didn't want it, they don't want its twins; else the next one rings.
    pub(super) fn release_twins(&mut self, first: CallId, is_declined: bool) {
        let twins = self.twins(|call| call.twin_of == Some(first));
        let mut next = None;
        for twin in twins {
            let Some(incoming) = self.calls.incoming.get_mut(&twin) else { continue };
            if is_declined {
                incoming.machine.decline(Reason::DECLINED, Instant::now());
                self.drive_incoming(twin);
            } else if let Some(next) = next {
                incoming.twin_of = Some(next);
            } else if incoming.link.as_ref().is_none_or(|link| !self.calls.conferences.is_running(&link.id)) {
                incoming.twin_of = None;
                next = Some(twin);
                self.ring_aloud(twin);
            }
        }
    }

    /// What the list shows of a call's conference.
    pub(super) fn with_conference(&self, call: CallId, entry: CallEntry) -> CallEntry {
        let Some(link) = self.link(call) else { return entry };
        let is_contact = link.other.as_ref().is_some_and(|other| self.is_contact_of(other));
        let introduced_by = link.introduced_by.as_ref().filter(|_| !is_contact).map(|by| self.labels.display(&by.user));
        CallEntry { conference_id: Some(link.id.to_string()), introduced_by, ..entry }
    }
}
