//! Users who dial each other at the same moment, from one device or several: one call comes of it. Each device here does with [`receive`] what a
//! node does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::network::{Conditions, device};
use crate::call::*;
use crate::key::DeviceKey;

const ALICE: u8 = 10;
const BOB: u8 = 20;

#[derive(Clone, Debug)]
enum Packet {
    Invite,
    InviteAnswer(InviteStatus),
    Signal(Signal),
    Ack(u32, SignalStatus),
}

#[derive(Clone, Debug)]
struct Parcel {
    call: CallId,
    from: DeviceKey,
    to: DeviceKey,
    packet: Packet,
}

struct Incoming {
    machine: CalleeCall,
    held_for: Option<CallId>,
}

/// One device: its own dials and what came in.
#[derive(Default)]
struct Desk {
    dials: BTreeMap<CallId, CallerCall>,
    incoming: BTreeMap<CallId, Incoming>,
    seen: BTreeSet<CallId>,
    rang: Vec<CallId>,
    talks: Vec<(CallId, DeviceKey)>,
}

impl Desk {
    fn is_engaged(&self) -> bool {
        let is_in_call = |call: &Incoming| !call.machine.is_ended();
        self.dials.values().any(|dial| !dial.is_ended()) || self.incoming.values().any(is_in_call)
    }
}

struct World {
    start: Instant,
    now: Instant,
    desks: BTreeMap<DeviceKey, Desk>,
    in_flight: Vec<(Instant, Parcel)>,
    dials: Vec<(Instant, u8)>,
    conditions: Conditions,
    rng: ChaCha8Rng,
    next_call: u8,
    flip: bool,
}

/// The user whose device it is: the tens of its number.
fn user(device: DeviceKey) -> u8 {
    device.0.0[0] / 10
}

impl World {
    fn new(counts: [u8; 2], conditions: Conditions, seed: u64) -> Self {
        let of = |first: u8, count: u8| (first..first + count).map(device);
        let start = Instant::now();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            start,
            now: start,
            desks: of(ALICE, counts[0]).chain(of(BOB, counts[1])).map(|key| (key, Desk::default())).collect(),
            in_flight: Vec::new(),
            dials: Vec::new(),
            conditions,
            next_call: 0,
            flip: rng.random_bool(0.5),
            rng,
        }
    }

    fn send(&mut self, parcel: Parcel) {
        for _ in 0..if self.rng.random_bool(self.conditions.duplicates) { 2 } else { 1 } {
            if !self.rng.random_bool(self.conditions.loss) {
                let delay = Duration::from_millis(self.rng.random_range(0..=self.conditions.delay_ms_max));
                self.in_flight.push((self.now + delay, parcel.clone()));
            }
        }
    }

    fn dial(&mut self, number: u8) {
        let me = device(number);
        let theirs: Vec<DeviceKey> = self.desks.keys().copied().filter(|key| user(*key) != user(me)).collect();
        // Whoever dials somebody who rings here answers.
        let desk = self.desks.get_mut(&me).expect("a device");
        let ringing =
            desk.incoming.iter_mut().find(|(_, call)| call.machine.state() == CalleeState::Ringing && call.held_for.is_none());
        if let Some((_, call)) = ringing {
            call.machine.answer("answer".into(), self.now);
        } else if !desk.is_engaged() {
            self.next_call += 1;
            let call = CallId([if self.flip { 100 - self.next_call } else { self.next_call }; 16]);
            let timers = CallTimers::default();
            let params = CallerParams { call, me, devices: theirs, is_lookup_pending: false, timers };
            desk.dials.insert(call, CallerCall::new(params, self.now));
        }
        self.drain();
    }

    fn drain(&mut self) {
        let keys: Vec<DeviceKey> = self.desks.keys().copied().collect();
        for me in keys {
            while self.drain_one(me) {}
        }
    }

    /// Carries out one action of a device's machines; false if there is none.
    fn drain_one(&mut self, me: DeviceKey) -> bool {
        let now = self.now;
        let desk = self.desks.get_mut(&me).expect("a device");
        let dialled = desk.dials.iter_mut().find_map(|(call, machine)| Some((*call, machine.poll_action()?)));
        if let Some((call, action)) = dialled {
            match action {
                CallerAction::Invite { device } => self.send(Parcel { call, from: me, to: device, packet: Packet::Invite }),
                CallerAction::Send(signal) => self.send(Parcel { call, from: me, to: signal.to, packet: Packet::Signal(signal) }),
                CallerAction::StartMedia { device, .. } => {
                    desk.talks.push((call, device));
                    desk.dials.get_mut(&call).expect("it has spoken").handle_media_connected(now);
                    for held in desk.incoming.values_mut().filter(|held| held.held_for == Some(call)) {
                        held.machine.decline(Reason::ANSWERED_ELSEWHERE, now);
                    }
                }
                CallerAction::Finished { outcome, reason } => {
                    if !matches!(outcome, Outcome::Completed | Outcome::AnsweredElsewhere) {
                        self.release(me, call, reason == Reason::CANCELLED);
                    }
                }
                CallerAction::Ringing { .. } | CallerAction::ConnectEarly { .. } | CallerAction::AddCandidate { .. } => {}
            }
            return true;
        }
        let came = desk.incoming.iter_mut().find_map(|(call, incoming)| Some((*call, incoming.machine.poll_action()?)));
        let Some((call, action)) = came else { return false };
        match action {
            CalleeAction::Send(signal) => self.send(Parcel { call, from: me, to: signal.to, packet: Packet::Signal(signal) }),
            CalleeAction::Confirmed => {
                let incoming = desk.incoming.get_mut(&call).expect("it has spoken");
                incoming.machine.handle_media_connected(now);
                desk.talks.push((call, incoming.machine.caller()));
            }
            CalleeAction::StartRinging | CalleeAction::AddCandidate { .. } | CalleeAction::Finished { .. } => {}
        }
        true
    }

    /// A device's own call has come to nothing: those it has held back have their turn.
    fn release(&mut self, me: DeviceKey, own: CallId, by_person: bool) {
        let now = self.now;
        let desk = self.desks.get_mut(&me).expect("a device");
        let mut is_first = !by_person;
        for (call, held) in desk.incoming.iter_mut().filter(|(_, held)| held.held_for == Some(own)) {
            held.held_for = None;
            if held.machine.state() != CalleeState::Ringing {
                continue;
            }
            if by_person {
                desk.rang.push(*call);
            } else if is_first {
                held.machine.answer("answer".into(), now);
            } else {
                held.machine.decline(Reason::BUSY, now);
            }
            is_first = false;
        }
    }

    fn invite(&mut self, call: CallId, from: DeviceKey, me: DeviceKey) {
        let now = self.now;
        let desk = self.desks.get_mut(&me).expect("a device");
        if !desk.seen.insert(call) {
            return self.send(Parcel { call, from: me, to: from, packet: Packet::InviteAnswer(InviteStatus::Duplicate) });
        }
        let own_dial = desk.dials.iter().filter(|(_, dial)| dial.is_waiting()).map(|(call, _)| (*call, me)).min();
        let is_engaged =
            desk.dials.values().any(|dial| !dial.is_ended()) || desk.incoming.values().any(|call| !call.machine.is_ended());
        let reception = receive((call, from), &Situation { own_dial, is_engaged, ..Situation::default() });
        let params = CalleeParams {
            call,
            caller: from,
            me,
            ring_for: Duration::from_secs(60),
            way: InviteWay::Stream,
            timers: CallTimers::default(),
        };
        let mut machine = CalleeCall::new(params, now);
        let mut held_for = None;
        let status = match reception {
            Reception::Ring => {
                desk.rang.push(call);
                InviteStatus::Ringing
            }
            Reception::Join(own) => {
                desk.dials.get_mut(&own).expect("it waits").withdraw(now);
                machine.answer("answer".into(), now);
                InviteStatus::Ringing
            }
            Reception::Hold(own) => {
                held_for = Some(own);
                InviteStatus::Ringing
            }
            Reception::Refuse(_) => {
                return self.send(Parcel { call, from: me, to: from, packet: Packet::InviteAnswer(InviteStatus::Busy) });
            }
        };
        desk.incoming.insert(call, Incoming { machine, held_for });
        self.send(Parcel { call, from: me, to: from, packet: Packet::InviteAnswer(status) });
    }

    fn deliver(&mut self, Parcel { call, from, to, packet }: Parcel) {
        let now = self.now;
        let desk = self.desks.get_mut(&to).expect("a device");
        match packet {
            Packet::Invite => self.invite(call, from, to),
            Packet::InviteAnswer(status) => {
                if let Some(dial) = desk.dials.get_mut(&call) {
                    dial.handle_invite_status(from, status, now);
                }
            }
            Packet::Signal(signal) => {
                let sequence = signal.sequence;
                let verified = VerifiedSignal::unchecked(signal);
                let status = match (desk.dials.get_mut(&call), desk.incoming.get_mut(&call)) {
                    (Some(dial), _) => dial.handle_signal(&verified, now),
                    (None, Some(incoming)) => incoming.machine.handle_signal(&verified, now),
                    (None, None) => {
                        desk.seen.insert(call);
                        SignalStatus::UnknownCall
                    }
                };
                self.send(Parcel { call, from: to, to: from, packet: Packet::Ack(sequence, status) });
            }
            Packet::Ack(sequence, status) => {
                if let Some(dial) = desk.dials.get_mut(&call) {
                    dial.handle_ack(from, sequence, status, now);
                } else if let Some(incoming) = desk.incoming.get_mut(&call) {
                    incoming.machine.handle_ack(from, sequence, status, now);
                }
            }
        }
        self.drain();
    }

    fn timeouts(&self) -> impl Iterator<Item = Instant> {
        self.desks.values().flat_map(|desk| {
            let dials = desk.dials.values().filter_map(CallerCall::poll_timeout);
            dials.chain(desk.incoming.values().filter_map(|call| call.machine.poll_timeout()))
        })
    }

    fn run_until(&mut self, ms: u64) {
        let until = self.start + Duration::from_millis(ms);
        for _ in 0..100_000 {
            let parcels = self.in_flight.iter().map(|(at, _)| *at);
            let next = parcels.chain(self.dials.iter().map(|(at, _)| *at)).chain(self.timeouts()).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            let now = self.now;
            if let Some(index) = self.in_flight.iter().position(|(at, _)| *at <= now) {
                let (_, parcel) = self.in_flight.swap_remove(index);
                self.deliver(parcel);
            } else if let Some(index) = self.dials.iter().position(|(at, _)| *at <= now) {
                let (_, number) = self.dials.remove(index);
                self.dial(number);
            } else {
                for desk in self.desks.values_mut() {
                    desk.dials.values_mut().for_each(|dial| dial.handle_timeout(now));
                    desk.incoming.values_mut().for_each(|call| call.machine.handle_timeout(now));
                }
                self.drain();
            }
            self.check();
        }
        panic!("the machines don't come to rest");
    }

    /// Calls in which a device is, answered and not over.
    fn active(&self, number: u8) -> Vec<CallId> {
        let desk = &self.desks[&device(number)];
        let is_on = |state| matches!(state, CallerState::Answered(_) | CallerState::Connected(_));
        let dials = desk.dials.iter().filter(|(_, dial)| is_on(dial.state())).map(|(call, _)| *call);
        let came = desk.incoming.iter().filter(|(_, call)| call.machine.state() == CalleeState::Answered).map(|(call, _)| *call);
        dials.chain(came).collect()
    }

    fn check(&self) {
        for (key, desk) in &self.desks {
            let number = key.0.0[0];
            assert!(self.active(number).len() <= 1, "{number} is in two calls");
            let unique: BTreeSet<&CallId> = desk.rang.iter().collect();
            assert_eq!(unique.len(), desk.rang.len(), "{number} rang twice by one call");
        }
    }

    fn is_anything_ringing(&self) -> bool {
        let rings = |call: &Incoming| call.machine.state() == CalleeState::Ringing;
        self.desks.values().any(|desk| desk.incoming.values().any(rings) || desk.dials.values().any(CallerCall::is_waiting))
    }

    /// Everybody who talks hangs up, and then nothing is left.
    fn finish(&mut self) {
        self.run_until(130_000);
        assert!(!self.is_anything_ringing(), "rings for ever");
        let now = self.now;
        for desk in self.desks.values_mut() {
            desk.dials.values_mut().for_each(|dial| dial.hang_up(now));
            desk.incoming.values_mut().for_each(|call| call.machine.hang_up(now));
        }
        self.drain();
        self.run_until(300_000);
        for desk in self.desks.values() {
            assert!(desk.dials.values().all(CallerCall::is_done) && desk.incoming.values().all(|call| call.machine.is_done()));
        }
    }
}

#[test]
fn of_two_calls_that_cross_the_lesser_goes_on_at_both_ends() {
    let (low, high) = ((CallId([1; 16]), device(2)), (CallId([2; 16]), device(1)));
    let dialling = |own| Situation { own_dial: Some(own), is_engaged: true, is_dnd: true, ..Situation::default() };
    assert_eq!(receive(low, &dialling(high)), Reception::Join(high.0));
    assert_eq!(receive(high, &dialling(low)), Reception::Hold(low.0));
    // Whoever makes up the other's id gains nothing by it: the device decides.
    let (one, other) = ((CallId([1; 16]), device(1)), (CallId([1; 16]), device(2)));
    assert_eq!(
        (receive(one, &dialling(other)), receive(other, &dialling(one))),
        (Reception::Join(other.0), Reception::Hold(one.0))
    );
}

#[test]
fn who_is_busy_or_does_not_want_to_be_disturbed_says_so() {
    let call = (CallId([1; 16]), device(1));
    let free = Situation::default();
    let dnd = Situation { is_dnd: true, ..free };
    let engaged = Situation { is_engaged: true, ..free };
    assert_eq!(receive(call, &free), Reception::Ring);
    assert_eq!(receive(call, &dnd), Reception::Refuse(Reason::DO_NOT_DISTURB));
    assert_eq!(receive(call, &Situation { may_disturb: true, ..dnd }), Reception::Ring);
    assert_eq!(receive(call, &engaged), Reception::Refuse(Reason::BUSY));
    assert_eq!(receive(call, &Situation { rings_when_engaged: true, ..engaged }), Reception::Ring);
    assert_eq!(receive(call, &Situation { is_dnd: true, ..engaged }), Reception::Refuse(Reason::DO_NOT_DISTURB));
    assert_eq!(receive(call, &Situation { is_dnd: true, may_disturb: true, ..engaged }), Reception::Refuse(Reason::BUSY));
}

#[test]
fn both_dial_at_once_and_one_call_comes_of_it_however_many_devices_there_are() {
    for seed in 0..1_500 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let counts = [rng.random_range(1..=3), rng.random_range(1..=3)];
        let mut world = World::new(counts, Conditions { loss: 0.0, duplicates: 0.2, delay_ms_max: 400 }, seed);
        for number in [ALICE, BOB] {
            world.dials.push((world.start + Duration::from_millis(rng.random_range(0..600)), number));
        }
        world.run_until(3_000);
        let (at_alice, at_bob) = (world.active(ALICE), world.active(BOB));
        assert_eq!(at_alice.len(), 1, "seed {seed}: alice talks");
        assert_eq!(at_alice, at_bob, "seed {seed}: it is the same call");
        assert!(!world.is_anything_ringing(), "seed {seed}: nothing rings any more");
        let talks: usize = world.desks.values().map(|desk| desk.talks.len()).sum();
        assert_eq!(talks, 2, "seed {seed}: nobody else has talked");
        world.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Any devices of both dial, at any time, and messages get lost, doubled and late.
    #[test]
    fn whoever_dials_whenever_no_device_is_in_two_calls_and_all_of_it_ends(
        seed in any::<u64>(),
        counts in [1u8..=3, 1u8..=3],
        dials in prop::collection::vec((0u64..3_000, 0u8..6), 2..5),
        loss in 0.0..0.5,
        delay_ms_max in 0u64..3_000,
    ) {
        let mut world = World::new(counts, Conditions { loss, duplicates: 0.2, delay_ms_max }, seed);
        for (at, number) in dials {
            let of = if number < 3 { ALICE + number.min(counts[0] - 1) } else { BOB + (number - 3).min(counts[1] - 1) };
            world.dials.push((world.start + Duration::from_millis(at), of));
        }
        world.finish();
    }
}
