//! Devices of several people on an unreliable network, in virtual time. Calls are played as the node makes them: invites, answers and hang-ups are
//! repeated, of two that cross one goes on, and media tell when the other end is gone.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// How long an invite or an answer is repeated.
const GIVE_UP: Duration = Duration::from_secs(12);
const REPEAT: Duration = Duration::from_millis(700);
/// How long media may be silent.
const SILENCE: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_millis(100);

pub(super) const FIRST_CALL: CallId = CallId([0; 16]);

#[derive(Clone, Debug)]
enum Packet {
    Invite { call: CallId, from: usize, part: Box<ConferencePart> },
    Accept { call: CallId },
    Confirm { call: CallId },
    Refuse { call: CallId, reason: Reason },
    HangUp { call: CallId, reason: Reason },
    HangUpTaken { call: CallId },
    Attendance(Box<Signed<Attendance>>),
    Status { from: usize, call: CallId, number: u32, status: AttendanceStatus },
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Dialling,
    /// Both have dialled, and ours goes on.
    Held,
    Answering,
    Up,
    /// What is said of it, as long as it is.
    Ended(Option<Reason>),
    Refused(Reason),
}

#[derive(Clone, Debug)]
struct Call {
    other: usize,
    part: Option<ConferencePart>,
    introduced_by: Option<Participant>,
    is_ours: bool,
    state: State,
    repeat_at: Instant,
    give_up_at: Instant,
    silent_since: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) person: Person,
    pub(super) conference: Option<Conference>,
    calls: BTreeMap<CallId, Call>,
    last_since: UnixTime,
    /// Whom to come back to.
    others: Vec<(Participant, Option<Participant>)>,
    pub(super) is_alive: bool,
    pub(super) dials: usize,
}

#[derive(Debug)]
pub(super) struct Network {
    start: Instant,
    pub(super) now: Instant,
    pub(super) devices: Vec<Device>,
    in_flight: Vec<(Instant, usize, Packet)>,
    pub(super) loss: f64,
    pub(super) duplicates: f64,
    pub(super) delay_ms_max: u64,
    rng: ChaCha8Rng,
    last_call: u64,
    id: ConferenceId,
}

impl Network {
    /// The first two talk; the others are at home.
    pub(super) fn new(count: u8, loss: f64, seed: u64) -> Self {
        let start = Instant::now();
        let device = |number: u8| Device {
            person: person(number + 1),
            conference: None,
            calls: BTreeMap::new(),
            last_since: UnixTime(0),
            others: Vec::new(),
            is_alive: true,
            dials: 0,
        };
        let mut devices: Vec<Device> = (0..count).map(device).collect();
        for (here, is_ours) in [(0, true), (1, false)] {
            let call = Call {
                other: 1 - here,
                part: None,
                introduced_by: None,
                is_ours,
                state: State::Up,
                repeat_at: start,
                give_up_at: start,
                silent_since: None,
            };
            devices[here].calls.insert(FIRST_CALL, call);
        }
        let [one, other] = [&devices[0], &devices[1]].map(|device| device.person.participant.device);
        Self {
            start,
            now: start,
            id: ConferenceId::of_call(&FIRST_CALL, &one, &other),
            devices,
            in_flight: Vec::new(),
            loss,
            duplicates: 0.1,
            delay_ms_max: 400,
            rng: ChaCha8Rng::seed_from_u64(seed),
            last_call: 0,
        }
    }

    fn clock(&self) -> Now {
        let elapsed = self.now.saturating_duration_since(self.start);
        Now { instant: self.now, unix: START.plus_secs(elapsed.as_secs()) }
    }

    fn index(&self, device: &DeviceKey) -> usize {
        self.devices.iter().position(|here| here.person.participant.device == *device).expect("a device of the story")
    }

    fn send(&mut self, to: usize, packet: &Packet) {
        for _ in 0..if self.rng.random_bool(self.duplicates) { 2 } else { 1 } {
            if !self.rng.random_bool(self.loss) {
                let delay = Duration::from_millis(self.rng.random_range(0..=self.delay_ms_max));
                self.in_flight.push((self.now + delay, to, packet.clone()));
            }
        }
    }

    fn new_conference(&mut self, here: usize) {
        let now = self.clock();
        let device = &mut self.devices[here];
        let since = now.unix.max(device.last_since.plus_secs(1));
        device.last_since = since;
        device.conference = Some(Conference::new(self.id, device.person.participant.clone(), since, now.instant));
    }

    /// The pair's call becomes a conference at this end, if it stands.
    fn convert(&mut self, here: usize) -> bool {
        if self.devices[here].conference.as_ref().is_some_and(|conference| !conference.is_over()) {
            return true;
        }
        let Some(call) = self.devices[here].calls.get(&FIRST_CALL).filter(|call| call.state == State::Up) else { return false };
        let other = self.devices[call.other].person.participant.clone();
        self.new_conference(here);
        let now = self.clock();
        self.devices[here].conference.as_mut().expect("just made").leg_up(&other, FIRST_CALL, now);
        true
    }

    /// Somebody asks somebody in. True if they can.
    pub(super) fn add(&mut self, by: usize, whom: usize) -> bool {
        if by == whom || !self.devices[by].is_alive || !self.convert(by) {
            return false;
        }
        let device = self.devices[whom].person.participant.device;
        let conference = self.devices[by].conference.as_mut().expect("converted");
        self.last_call += 1;
        let call = call_id(self.last_call);
        if conference.peer(&device).is_some() || !conference.add(call) {
            return false;
        }
        let part = conference.part(None);
        self.dial(by, whom, call, part);
        true
    }

    fn dial(&mut self, here: usize, other: usize, call: CallId, part: ConferencePart) {
        let (repeat_at, give_up_at) = (self.now, self.now + GIVE_UP);
        let state = State::Dialling;
        let part = Some(part);
        let placed = Call { other, part, introduced_by: None, is_ours: true, state, repeat_at, give_up_at, silent_since: None };
        self.devices[here].calls.insert(call, placed);
        self.devices[here].dials += 1;
    }

    pub(super) fn leave(&mut self, here: usize) {
        let device = &mut self.devices[here];
        if let Some(conference) = device.conference.as_mut().filter(|conference| !conference.is_over()) {
            device.others = conference.present().map(|(participant, _)| (participant.clone(), None)).collect();
            conference.leave(Reason::HANGUP);
        }
    }

    pub(super) fn rejoin(&mut self, here: usize) {
        let now = self.clock();
        let device = &mut self.devices[here];
        if !device.is_alive
            || device.others.is_empty()
            || device.conference.as_ref().is_some_and(|conference| !conference.is_over())
        {
            return;
        }
        let since = now.unix.max(device.last_since.plus_secs(1));
        device.last_since = since;
        let me = device.person.participant.clone();
        device.conference = Some(Conference::rejoin(self.id, me, since, &device.others, now.instant));
    }

    /// Its process is gone, and what it knew.
    pub(super) fn kill(&mut self, here: usize) {
        let device = &mut self.devices[here];
        (device.conference, device.is_alive) = (None, false);
        device.calls.clear();
        device.others.clear();
    }

    pub(super) fn start_again(&mut self, here: usize) {
        self.devices[here].is_alive = true;
    }

    pub(super) fn run(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.now += STEP;
            let (due, later) = std::mem::take(&mut self.in_flight).into_iter().partition(|(at, ..)| *at <= self.now);
            self.in_flight = later;
            for (_, to, packet) in due as Vec<(Instant, usize, Packet)> {
                if self.devices[to].is_alive {
                    self.take(to, packet);
                    self.drain(to);
                }
            }
            for here in 0..self.devices.len() {
                self.tick_calls(here);
                let now = self.clock();
                if let Some(conference) = &mut self.devices[here].conference
                    && conference.poll_timeout().is_some_and(|at| at <= self.now)
                {
                    conference.handle_timeout(now);
                }
                self.drain(here);
            }
        }
    }

    fn drain(&mut self, here: usize) {
        let now = self.clock();
        while let Some(action) = self.devices[here].conference.as_mut().and_then(Conference::poll_action) {
            match action {
                ConferenceAction::Dial(participant) => {
                    self.last_call += 1;
                    let call = call_id(self.last_call);
                    let other = self.index(&participant.device);
                    let conference = self.devices[here].conference.as_mut().expect("it acts");
                    let part = conference.part(Some(&participant.device));
                    conference.connecting(&participant, None, call, None, now);
                    self.dial(here, other, call, part);
                }
                ConferenceAction::HangUp { call, reason } => self.end(here, call, Some(reason)),
                ConferenceAction::Tell(draft) => {
                    let to = self.index(&draft.to());
                    let signed = draft.sign(&self.devices[here].person.device);
                    self.send(to, &Packet::Attendance(Box::new(signed)));
                }
                ConferenceAction::Joined { .. } | ConferenceAction::Left { .. } | ConferenceAction::Ended => {}
            }
        }
    }

    /// Ends a call at this end; with a reason the other end is told.
    fn end(&mut self, here: usize, call: CallId, reason: Option<Reason>) {
        let (now, give_up_at) = (self.now, self.now + GIVE_UP);
        if let Some(call) = self.devices[here].calls.get_mut(&call)
            && !matches!(call.state, State::Ended(_))
        {
            (call.state, call.repeat_at, call.give_up_at) = (State::Ended(reason), now, give_up_at);
        }
    }

    fn tick_calls(&mut self, here: usize) {
        let calls: Vec<CallId> = self.devices[here].calls.keys().copied().collect();
        for id in calls {
            let now = self.now;
            let (other, silent) = self.watch(here, id);
            let Some(call) = self.devices[here].calls.get_mut(&id) else { continue };
            if silent {
                self.fail(here, id, LegEnd::Lost, Some(Reason::MEDIA_FAILED));
                continue;
            }
            let is_due = call.repeat_at <= now;
            let is_late = call.give_up_at <= now;
            if is_due {
                call.repeat_at = now + REPEAT;
            }
            let packet = match &call.state {
                State::Dialling | State::Answering if is_late => {
                    self.fail(here, id, LegEnd::Lost, Some(Reason::CANCELLED));
                    continue;
                }
                State::Dialling => Packet::Invite { call: id, from: here, part: Box::new(call.part.clone().expect("we dial")) },
                State::Answering => Packet::Accept { call: id },
                State::Ended(Some(reason)) if !is_late => Packet::HangUp { call: id, reason: *reason },
                _ => continue,
            };
            if is_due {
                self.send(other, &packet);
            }
        }
    }

    /// Who is at the other end, and whether nothing was heard of them for too long.
    fn watch(&mut self, here: usize, id: CallId) -> (usize, bool) {
        let now = self.now;
        let other = self.devices[here].calls[&id].other;
        let there = self.devices[other].calls.get(&id);
        let is_there = there.is_some_and(|there| matches!(there.state, State::Up | State::Answering));
        let call = self.devices[here].calls.get_mut(&id).expect("looked at");
        if call.state != State::Up || is_there {
            call.silent_since = None;
            return (other, false);
        }
        let since = *call.silent_since.get_or_insert(now);
        (other, now.saturating_duration_since(since) >= SILENCE)
    }

    fn fail(&mut self, here: usize, id: CallId, end: LegEnd, tell: Option<Reason>) {
        let now = self.clock();
        let Some(call) = self.devices[here].calls.get(&id) else { return };
        if matches!(call.state, State::Ended(_) | State::Refused(_)) {
            return;
        }
        let (other, is_ours) = (call.other, call.is_ours);
        self.end(here, id, tell);
        let device = self.devices[other].person.participant.device;
        let held = self.held(here, other).filter(|_| is_ours);
        if let Some(conference) = &mut self.devices[here].conference {
            conference.add_failed(id, now);
            match held {
                Some(_) => {}
                None => conference.leg_failed(&device, Some(id), end, now),
            }
        }
        if let Some(held) = held {
            self.answer(here, held);
        }
    }

    fn held(&self, here: usize, other: usize) -> Option<CallId> {
        let held = self.devices[here].calls.iter().filter(|(_, call)| call.state == State::Held && call.other == other);
        held.map(|(id, _)| *id).min()
    }

    fn answer(&mut self, here: usize, id: CallId) {
        let (now, give_up_at) = (self.clock(), self.now + GIVE_UP);
        let Some(call) = self.devices[here].calls.get_mut(&id) else { return };
        (call.state, call.repeat_at, call.give_up_at) = (State::Answering, now.instant, give_up_at);
        let (other, since, introduced_by) = (call.other, call.part.as_ref().map(|part| part.since), call.introduced_by.clone());
        let participant = self.devices[other].person.participant.clone();
        if let Some(conference) = &mut self.devices[here].conference {
            conference.connecting(&participant, since, id, introduced_by, now);
        }
    }

    fn take(&mut self, here: usize, packet: Packet) {
        let now = self.clock();
        match packet {
            Packet::Invite { call, from, part } => self.take_invite(here, call, from, *part),
            Packet::Accept { call: id } => {
                let Some(call) = self.devices[here].calls.get_mut(&id) else { return };
                let other = call.other;
                match call.state {
                    State::Dialling => {
                        call.state = State::Up;
                        self.up(here, id);
                        self.send(other, &Packet::Confirm { call: id });
                    }
                    State::Up => self.send(other, &Packet::Confirm { call: id }),
                    State::Ended(_) => self.send(other, &Packet::HangUp { call: id, reason: Reason::UNKNOWN_CALL }),
                    _ => {}
                }
            }
            Packet::Confirm { call: id } => {
                if let Some(call) = self.devices[here].calls.get_mut(&id)
                    && call.state == State::Answering
                {
                    call.state = State::Up;
                    self.up(here, id);
                }
            }
            Packet::Refuse { call, reason } => {
                let end = if reason == Reason::NOT_IN_CONFERENCE { LegEnd::NotThere } else { LegEnd::Lost };
                if self.devices[here].calls.get(&call).is_some_and(|call| call.state == State::Dialling) {
                    self.fail(here, call, end, None);
                }
            }
            Packet::HangUp { call: id, reason } => {
                let Some(call) = self.devices[here].calls.get_mut(&id) else { return };
                let other = call.other;
                self.send(other, &Packet::HangUpTaken { call: id });
                let end = match reason {
                    Reason::HANGUP | Reason::CONFERENCE_FULL => LegEnd::Left,
                    Reason::NOT_IN_CONFERENCE => LegEnd::NotThere,
                    _ => LegEnd::Lost,
                };
                self.fail(here, id, end, None);
            }
            Packet::HangUpTaken { call } => {
                if let Some(call) = self.devices[here].calls.get_mut(&call) {
                    call.state = State::Ended(None);
                }
            }
            Packet::Attendance(signed) => self.take_attendance(here, &signed),
            Packet::Status { from, call, number, status } => {
                let device = self.devices[from].person.participant.device;
                if let Some(conference) = &mut self.devices[here].conference {
                    conference.handle_status(&device, call, number, status, now);
                }
            }
        }
    }

    fn up(&mut self, here: usize, id: CallId) {
        let now = self.clock();
        let call = &self.devices[here].calls[&id];
        let other = self.devices[call.other].person.participant.clone();
        let is_asked_in = !call.is_ours && call.part.as_ref().is_some_and(|part| !part.is_leg);
        let since = call.part.as_ref().map(|part| part.since).filter(|_| !call.is_ours);
        if is_asked_in && self.devices[here].conference.as_ref().is_none_or(Conference::is_over) {
            self.new_conference(here);
            let conference = self.devices[here].conference.as_mut().expect("just made");
            conference.connecting(&other, since, id, None, now);
        }
        if let Some(conference) = &mut self.devices[here].conference {
            conference.leg_up(&other, id, now);
        }
    }

    fn take_invite(&mut self, here: usize, id: CallId, from: usize, part: ConferencePart) {
        let now = self.clock();
        if let Some(call) = self.devices[here].calls.get(&id) {
            match call.state {
                State::Answering => self.send(from, &Packet::Accept { call: id }),
                State::Refused(reason) => self.send(from, &Packet::Refuse { call: id, reason }),
                _ => {}
            }
            return;
        }
        let caller = self.devices[from].person.participant.clone();
        let (mut state, mut introduced_by) = (State::Held, None);
        match self.devices[here].conference.as_ref().filter(|conference| !conference.is_over()) {
            Some(conference) => {
                let word = part.word.as_ref().and_then(|word| VerifiedIntroduction::verify(word, now.unix).ok());
                let word = word.filter(|word| word.introduction().participant == caller);
                match conference.admit(&caller, part.since, word.as_ref()) {
                    Ok(by) => introduced_by = by,
                    Err(reason) => state = State::Refused(reason),
                }
            }
            None if part.is_leg => state = State::Refused(Reason::NOT_IN_CONFERENCE),
            None => {
                // It rings for somebody else's call already: one person hears one ring.
                let rings = self.devices[here].calls.values().any(|call| matches!(call.state, State::Answering | State::Up));
                if rings {
                    state = State::Refused(Reason::BUSY);
                }
            }
        }
        let me = self.devices[here].person.participant.device;
        let is_refused = matches!(state, State::Refused(_));
        let call = Call {
            other: from,
            part: Some(part),
            introduced_by,
            is_ours: false,
            state,
            repeat_at: self.now,
            give_up_at: self.now + GIVE_UP,
            silent_since: None,
        };
        self.devices[here].calls.insert(id, call);
        if is_refused {
            return self.take_invite_again(here, id, from);
        }
        let own = self.devices[here].calls.iter().filter(|(_, call)| call.other == from && call.state == State::Dialling);
        let own: Vec<CallId> = own.map(|(id, _)| *id).collect();
        if own.iter().any(|own| (*own, me) < (id, caller.device)) {
            return;
        }
        for own in own {
            self.end(here, own, Some(Reason::ANSWERED_ELSEWHERE));
            if let Some(conference) = &mut self.devices[here].conference {
                conference.connecting(&caller, None, id, None, now);
                conference.add_failed(own, now);
            }
        }
        self.answer(here, id);
    }

    fn take_invite_again(&mut self, here: usize, id: CallId, from: usize) {
        if let State::Refused(reason) = self.devices[here].calls[&id].state {
            self.send(from, &Packet::Refuse { call: id, reason });
        }
    }

    fn take_attendance(&mut self, here: usize, signed: &Signed<Attendance>) {
        let now = self.clock();
        let me = self.devices[here].person.participant.device;
        let verified = VerifiedAttendance::verify(signed, &me).expect("nobody lies here");
        let said = verified.attendance();
        if said.call == FIRST_CALL {
            self.convert(here);
        }
        let status = match &mut self.devices[here].conference {
            Some(conference) => conference.handle_attendance(&verified, now),
            None => AttendanceStatus::NoSuchLeg,
        };
        let to = self.index(&said.from);
        self.send(to, &Packet::Status { from: here, call: said.call, number: said.number, status });
    }

    /// Who is in the conference, as this device sees it.
    pub(super) fn seen_by(&self, here: usize) -> BTreeSet<usize> {
        let Some(conference) = self.devices[here].conference.as_ref().filter(|conference| !conference.is_over()) else {
            return BTreeSet::new();
        };
        conference.present().map(|(participant, _)| self.index(&participant.device)).chain([here]).collect()
    }

    /// That everybody who is present sees the same ones, and has one call with each, which is the other's as well.
    pub(super) fn assert_whole(&self, what: &str) {
        for here in 0..self.devices.len() {
            let seen = self.seen_by(here);
            for &other in seen.iter().filter(|other| **other != here) {
                assert_eq!(self.seen_by(other), seen, "{what}: {here} and {other} see the same");
                assert_eq!(self.calls_between(here, other), self.calls_between(other, here), "{what}: {here}, {other}");
                assert_eq!(self.calls_between(here, other).len(), 1, "{what}: one leg between {here} and {other}");
            }
            let calls = self.devices[here].calls.values();
            let up = calls.filter(|call| call.state == State::Up && call.part.is_some()).count();
            assert!(up <= seen.len(), "{what}: {here} has legs to nobody");
        }
    }

    fn calls_between(&self, here: usize, other: usize) -> Vec<CallId> {
        let calls = self.devices[here].calls.iter().filter(|(_, call)| call.other == other && call.state == State::Up);
        calls.map(|(id, _)| *id).collect()
    }
}

fn call_id(number: u64) -> CallId {
    // Ids are drawn at random: which of two is less has nothing to do with which came first.
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) | 1;
    let mut id = [0; 16];
    id[..8].copy_from_slice(&mixed.to_be_bytes());
    CallId(id)
}
