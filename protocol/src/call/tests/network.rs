//! A caller and the callee's devices on an unreliable network, in virtual time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::call::*;
use crate::key::{DeviceKey, PublicKey};

pub(super) const CALLER: DeviceKey = DeviceKey(PublicKey([200; 32]));
pub(super) const CALL: CallId = CallId([7; 16]);

pub(super) fn device(number: u8) -> DeviceKey {
    DeviceKey(PublicKey([number; 32]))
}

#[derive(Clone, Debug)]
pub(super) enum Packet {
    Invite { to: DeviceKey },
    InviteAnswer { from: DeviceKey, status: InviteStatus },
    Signal(Signal),
    Ack { from: DeviceKey, to: DeviceKey, sequence: u32, status: SignalStatus },
}

/// What people and media do, by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Answer(u8),
    AnswerEarly(u8),
    SpeakEarly(u8),
    Decline(u8),
    DeviceHangUp(u8),
    CallerHangUp,
    CallerMedia(bool),
    DeviceMedia(u8, bool),
    Unreachable(u8),
}

#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) call: Option<CalleeCall>,
    pub(super) way: InviteWay,
    pub(super) is_busy: bool,
    pub(super) was_cancelled: bool,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) rang: u32,
    pub(super) confirmed: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Conditions {
    pub(super) loss: f64,
    pub(super) duplicates: f64,
    pub(super) delay_ms_max: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) expires_at: Instant,
    pub(super) caller: CallerCall,
    pub(super) devices: BTreeMap<DeviceKey, Device>,
    pub(super) in_flight: Vec<(Instant, Packet)>,
    pub(super) inputs: Vec<(Instant, Input)>,
    pub(super) caller_outcomes: Vec<Outcome>,
    pub(super) media_started: Vec<DeviceKey>,
    pub(super) connected_early: Vec<DeviceKey>,
    pub(super) heard_early: Vec<DeviceKey>,
    pub(super) conditions: Conditions,
    pub(super) rng: ChaCha8Rng,
    /// Media come up by themselves once both ends agree.
    pub(super) auto_media: bool,
}

impl Network {
    pub(super) fn new(count: u8, conditions: Conditions, seed: u64) -> Self {
        let start = Instant::now();
        let devices: Vec<DeviceKey> = (1..=count).map(device).collect();
        let timers = CallTimers::default();
        let params = CallerParams { call: CALL, me: CALLER, devices: devices.clone(), is_lookup_pending: false, timers };
        let fresh = Device {
            call: None,
            way: InviteWay::Stream,
            is_busy: false,
            was_cancelled: false,
            outcomes: Vec::new(),
            rang: 0,
            confirmed: false,
        };
        let mut network = Self {
            start,
            now: start,
            expires_at: start + timers.ring,
            caller: CallerCall::new(params, start),
            devices: devices.into_iter().map(|key| (key, fresh.clone())).collect(),
            in_flight: Vec::new(),
            inputs: Vec::new(),
            caller_outcomes: Vec::new(),
            media_started: Vec::new(),
            connected_early: Vec::new(),
            heard_early: Vec::new(),
            conditions,
            rng: ChaCha8Rng::seed_from_u64(seed),
            auto_media: true,
        };
        network.drain();
        network
    }

    pub(super) fn device(&self, number: u8) -> &Device {
        &self.devices[&device(number)]
    }

    pub(super) fn at(&mut self, secs: f64, input: Input) {
        self.inputs.push((self.start + Duration::from_secs_f64(secs), input));
    }

    fn send(&mut self, packet: Packet) {
        let copies = if self.rng.random_bool(self.conditions.duplicates) { 2 } else { 1 };
        for _ in 0..copies {
            if self.rng.random_bool(self.conditions.loss) {
                continue;
            }
            let delay = Duration::from_millis(self.rng.random_range(0..=self.conditions.delay_ms_max));
            self.in_flight.push((self.now + delay, packet.clone()));
        }
    }

    /// Carries out what the machines want.
    pub(super) fn drain(&mut self) {
        while let Some(action) = self.caller.poll_action() {
            match action {
                CallerAction::Invite { device } => self.send(Packet::Invite { to: device }),
                CallerAction::Send(signal) => self.send(Packet::Signal(signal)),
                CallerAction::StartMedia { device, .. } => {
                    self.media_started.push(device);
                    if self.auto_media {
                        self.inputs.push((self.now + Duration::from_millis(300), Input::CallerMedia(true)));
                    }
                }
                CallerAction::Finished { outcome, .. } => self.caller_outcomes.push(outcome),
                CallerAction::ConnectEarly { device, is_heard, .. } => {
                    self.connected_early.push(device);
                    self.heard_early.extend(is_heard.then_some(device));
                }
                CallerAction::Ringing { .. } | CallerAction::AddCandidate { .. } => {}
            }
        }
        let keys: Vec<DeviceKey> = self.devices.keys().copied().collect();
        for key in keys {
            while let Some(action) = self.devices.get_mut(&key).and_then(|d| d.call.as_mut()?.poll_action()) {
                self.carry_out(key, action);
            }
        }
    }

    fn carry_out(&mut self, key: DeviceKey, action: CalleeAction) {
        let after = self.now + Duration::from_millis(300);
        let auto_media = self.auto_media;
        let here = self.devices.get_mut(&key).expect("known device");
        match action {
            CalleeAction::StartRinging => here.rang += 1,
            CalleeAction::Send(signal) => self.send(Packet::Signal(signal)),
            CalleeAction::Confirmed => {
                here.confirmed = true;
                if auto_media {
                    self.inputs.push((after, Input::DeviceMedia(key.0.0[0], true)));
                }
            }
            CalleeAction::Finished { outcome, .. } => here.outcomes.push(outcome),
            CalleeAction::AddCandidate { .. } => {}
        }
    }

    pub(super) fn deliver(&mut self, packet: Packet) {
        let now = self.now;
        match packet {
            Packet::Invite { to } => self.invite_arrives(to),
            Packet::InviteAnswer { from, status } => self.caller.handle_invite_status(from, status, now),
            Packet::Signal(signal) if signal.to == CALLER => {
                let status = self.caller.handle_signal(&VerifiedSignal::unchecked(signal.clone()), now);
                self.send(Packet::Ack { from: CALLER, to: signal.from, sequence: signal.sequence, status });
            }
            Packet::Signal(signal) => {
                let here = self.devices.get_mut(&signal.to).expect("known device");
                let status = match &mut here.call {
                    Some(call) => call.handle_signal(&VerifiedSignal::unchecked(signal.clone()), now),
                    None => {
                        let ends = matches!(signal.body, SignalBody::Cancel { .. } | SignalBody::Replaced { .. });
                        here.was_cancelled |= ends;
                        SignalStatus::UnknownCall
                    }
                };
                self.send(Packet::Ack { from: signal.to, to: CALLER, sequence: signal.sequence, status });
            }
            Packet::Ack { from, to, sequence, status } if to == CALLER => {
                self.caller.handle_ack(from, sequence, status, now);
            }
            Packet::Ack { from, to, sequence, status } => {
                let call = self.devices.get_mut(&to).and_then(|here| here.call.as_mut());
                call.expect("it has sent something").handle_ack(from, sequence, status, now);
            }
        }
        self.drain();
    }

    fn invite_arrives(&mut self, to: DeviceKey) {
        let (now, expires_at) = (self.now, self.expires_at);
        let here = self.devices.get_mut(&to).expect("known device");
        let is_known = here.call.is_some() || here.was_cancelled;
        let status = if now >= expires_at {
            InviteStatus::Refused(Reason::EXPIRED)
        } else if is_known {
            InviteStatus::Duplicate
        } else {
            let params = CalleeParams {
                call: CALL,
                caller: CALLER,
                me: to,
                ring_for: expires_at - now,
                way: here.way,
                timers: CallTimers::default(),
            };
            if here.is_busy && here.way != InviteWay::Stream {
                here.call = Some(CalleeCall::refuse(params, Reason::BUSY, now));
                InviteStatus::Busy
            } else if here.is_busy {
                InviteStatus::Busy
            } else {
                here.call = Some(CalleeCall::new(params, now));
                InviteStatus::Ringing
            }
        };
        if here.way == InviteWay::Stream {
            self.send(Packet::InviteAnswer { from: to, status });
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        let now = self.now;
        match input {
            Input::CallerHangUp => self.caller.hang_up(now),
            Input::CallerMedia(true) => self.caller.handle_media_connected(now),
            Input::CallerMedia(false) => self.caller.handle_media_failed(now),
            Input::Unreachable(number) => self.caller.handle_unreachable(device(number), Reason::UNREACHABLE, now),
            Input::Answer(number)
            | Input::AnswerEarly(number)
            | Input::SpeakEarly(number)
            | Input::Decline(number)
            | Input::DeviceHangUp(number)
            | Input::DeviceMedia(number, _) => {
                let Some(call) = self.devices.get_mut(&device(number)).and_then(|here| here.call.as_mut()) else { return };
                match input {
                    Input::Answer(_) => {
                        call.answer("answer".into(), now);
                    }
                    Input::AnswerEarly(_) | Input::SpeakEarly(_) => {
                        call.answer_early("early answer".into(), matches!(input, Input::SpeakEarly(_)), now);
                    }
                    Input::Decline(_) => {
                        call.decline(Reason::DECLINED, now);
                    }
                    Input::DeviceHangUp(_) => call.hang_up(now),
                    Input::DeviceMedia(_, true) => call.handle_media_connected(now),
                    _ => call.handle_media_failed(now),
                }
            }
        }
        self.drain();
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let of_devices = self.devices.values().filter_map(|here| here.call.as_ref()?.poll_timeout());
        of_devices.chain(self.caller.poll_timeout()).min()
    }

    /// Goes on by one event. False if nothing is left.
    pub(super) fn step(&mut self) -> bool {
        let packets = self.in_flight.iter().map(|(at, _)| *at).min();
        let inputs = self.inputs.iter().map(|(at, _)| *at).min();
        let Some(next) = [packets, inputs, self.next_timeout()].into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        let now = self.now;
        if let Some(index) = self.in_flight.iter().position(|(at, _)| *at <= now) {
            let (_, packet) = self.in_flight.remove(index);
            self.deliver(packet);
        } else if let Some(index) = self.inputs.iter().position(|(at, _)| *at <= now) {
            let (_, input) = self.inputs.remove(index);
            self.input(input);
        } else {
            self.time_passes();
        }
        self.check();
        true
    }

    pub(super) fn time_passes(&mut self) {
        let now = self.now;
        self.caller.handle_timeout(now);
        for call in self.devices.values_mut().filter_map(|here| here.call.as_mut()) {
            call.handle_timeout(now);
        }
        self.drain();
    }

    /// What must hold at every moment.
    pub(super) fn check(&self) {
        let confirmed: Vec<&DeviceKey> = self.devices.iter().filter(|(_, d)| d.confirmed).map(|(key, _)| key).collect();
        assert!(confirmed.len() <= 1, "two devices are the one: {confirmed:?}");
        if let Some(key) = confirmed.first() {
            assert_eq!(self.caller.answered_by(), Some(**key));
        }
        assert!(self.media_started.len() <= 1);
        assert!(self.connected_early.len() <= EARLY_LEGS_MAX, "bounded");
        assert!(self.caller_outcomes.len() <= 1);
        for here in self.devices.values() {
            assert!(here.rang <= 1 && here.outcomes.len() <= 1, "rings once, ends once");
        }
    }

    /// Runs until `secs` after the start.
    pub(super) fn run_until(&mut self, secs: u64) {
        let until = self.start + Duration::from_secs(secs);
        let later = |network: &Self| {
            let packets = network.in_flight.iter().map(|(at, _)| *at).min();
            let inputs = network.inputs.iter().map(|(at, _)| *at).min();
            [packets, inputs, network.next_timeout()].into_iter().flatten().min().is_none_or(|next| next > until)
        };
        let mut steps = 0;
        while !later(self) && self.step() {
            steps += 1;
            assert!(steps < 100_000, "the machines don't come to rest");
        }
        self.now = self.now.max(until);
    }

    /// True if everybody is through.
    pub(super) fn is_done(&self) -> bool {
        self.caller.is_done() && self.devices.values().all(|here| here.call.as_ref().is_none_or(CalleeCall::is_done))
    }

    pub(super) fn is_any_ringing(&self) -> bool {
        let is_ringing = |call: &CalleeCall| call.state() == CalleeState::Ringing;
        self.devices.values().any(|here| here.call.as_ref().is_some_and(is_ringing))
    }

    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.caller_outcomes.first().copied()
    }

    pub(super) fn outcome_at(&self, number: u8) -> Option<Outcome> {
        self.device(number).outcomes.first().copied()
    }
}
