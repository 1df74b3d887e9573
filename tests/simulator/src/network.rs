//! The network: an event queue in virtual time, connections as nodes see them, latency, loss, freezing.
//!
//! - **Connections.** The first message to a node dials it: a round trip of handshake, then the message. Both sides hear
//!   [`Input::Connected`]. An open connection carries messages in order, one way each. It closes when neither side keeps it and nothing was
//!   sent for [`Settings::idle`].
//! - **Loss** delays a message by a retransmission; connections are reliable.
//! - **Freezing** ([`Network::freeze`]) is silent: nothing arrives, nothing is sent, no timer fires. Who is connected learns of it when the
//!   heartbeat has been missing for one to two intervals. A frozen process and a dead one look the same.
//! - **Blocked** nodes (behind NAT) dial and can't be dialled.
//!
//! The same seed and inputs give the same run; [`Network::digest`] names it. Nothing here reads a clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use halloo_protocol::time::{Now, UnixTime};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::latency::{Latency, Position};
use crate::machine::{Closed, Command, Input, Kind, Machine, NodeId, Outbox};
use crate::traffic::{
    DIAL_FAILED_BYTES, HANDSHAKE_DIALLER_BYTES, HANDSHAKE_LISTENER_BYTES, HEARTBEAT_EVERY, Traffic, heartbeat_bytes,
    message_bytes,
};

/// When every simulation starts.
pub const START: UnixTime = UnixTime(1_800_000_000);

/// How much longer a late handshake takes: longer than anybody waits before asking another.
const LATE: Duration = Duration::from_millis(500);

/// How the network behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How long packets take.
    pub latency: Latency,
    /// Share of messages that are delayed by a retransmission, 0 to 1.
    pub loss: f64,
    /// Share of handshakes that take [`LATE`] longer, 0 to 1: where many nodes share a machine, they wait for it.
    pub late_handshakes: f64,
    /// How long a connection stays open that nobody uses or keeps.
    pub idle: Duration,
    /// How long a dial waits for an answer.
    pub dial_timeout: Duration,
    /// Whether the transport notices silence, within one to two of its heartbeats; if not, machines have to.
    pub notices_silence: bool,
    /// Most connections a node takes from others; a dial beyond fails.
    pub inbound_max: usize,
    /// Heartbeats of machines that can do so are arithmetic: between two nodes that are up, and know of each other, nothing is sent that says nothing.
    pub is_tacit: bool,
    /// What a message's way takes beyond the shortest depends on ends and time alone, and not on what else was sent.
    pub has_own_jitter: bool,
}

impl Default for Settings {
    /// As the daemon: idle connections close after 60 + 10 s, handshakes may take 10 s, 2,048 inbound connections.
    fn default() -> Self {
        Self {
            latency: Latency::Map,
            loss: 0.0,
            late_handshakes: 0.0,
            idle: Duration::from_secs(70),
            dial_timeout: Duration::from_secs(10),
            notices_silence: true,
            inbound_max: 2_048,
            is_tacit: false,
            has_own_jitter: false,
        }
    }
}

/// Whether a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Up,
    /// Stopped without a word; it may thaw.
    Frozen,
    /// Gone, or not there yet.
    Down,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    /// From when on messages can leave on this side.
    ready_at: u64,
    /// The arrival of the last message sent from this side: order is kept.
    last_arrival: u64,
    used_at: u64,
    opened_at: u64,
    one_way: u32,
    is_kept: bool,
    is_inbound: bool,
    /// When idleness was to be looked at while an end kept it: looked at again, in the same rhythm, when none does.
    parked_at: Option<u64>,
    /// Neither end had a connection to the other before.
    is_fresh: bool,
    is_tacit: bool,
}

#[derive(Debug)]
struct Slot<M> {
    machine: M,
    state: State,
    /// Counts restarts and freezes: what was meant for the former self is void.
    epoch: u32,
    is_blocked: bool,
    position: Position,
    links: BTreeMap<NodeId, Link>,
    dialling: BTreeSet<NodeId>,
    wake_at: Option<u64>,
    bytes: u64,
}

#[derive(Debug)]
enum Delivery<M> {
    Connected {
        at: NodeId,
        with: NodeId,
        is_dialler: bool,
        rtt: Duration,
    },
    /// Boxed: most of what is to come are timers.
    Message {
        to: NodeId,
        from: NodeId,
        message: Box<M>,
    },
    Closed {
        at: NodeId,
        with: NodeId,
        reason: Closed,
    },
    Lost {
        at: NodeId,
        with: NodeId,
        epoch: u32,
    },
    DialFailed {
        at: NodeId,
        to: NodeId,
        epoch: u32,
    },
    IdleCheck {
        a: NodeId,
        b: NodeId,
        opened_at: u64,
    },
    Timer {
        node: NodeId,
        at: u64,
    },
}

/// A simulated network of machines.
#[derive(Debug)]
pub struct Network<M: Machine> {
    /// What all nodes share.
    pub world: M::World,
    settings: Settings,
    slots: Vec<Slot<M>>,
    queue: BinaryHeap<Reverse<(u64, u64, u32)>>,
    deliveries: Vec<Option<Delivery<M::Message>>>,
    free: Vec<u32>,
    order: u64,
    base: Instant,
    nanos: u64,
    rng: ChaCha8Rng,
    traffic: Traffic,
    events: VecDeque<(NodeId, M::Event)>,
    digest: [u64; 2],
    steps: u64,
    seed: u64,
}

impl<M: Machine> Network<M> {
    /// An empty network. Whoever runs it prints the seed.
    pub fn new(world: M::World, settings: Settings, seed: u64) -> Self {
        Self {
            world,
            settings,
            slots: Vec::new(),
            queue: BinaryHeap::new(),
            deliveries: Vec::new(),
            free: Vec::new(),
            order: 0,
            base: Instant::now(),
            nanos: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            traffic: Traffic::default(),
            events: VecDeque::new(),
            digest: [0; 2],
            steps: 0,
            seed,
        }
    }

    /// Adds a node that isn't running yet.
    pub fn add(&mut self, machine: M, is_blocked: bool) -> NodeId {
        let node = NodeId(u32::try_from(self.slots.len()).expect("fewer than four billion nodes fit in memory"));
        let position = Position::random(&mut self.rng);
        self.slots.push(Slot {
            machine,
            state: State::Down,
            epoch: 0,
            is_blocked,
            position,
            links: BTreeMap::new(),
            dialling: BTreeSet::new(),
            wake_at: None,
            bytes: 0,
        });
        node
    }

    /// Starts a node that is down.
    pub fn start(&mut self, node: NodeId) {
        let slot = &mut self.slots[node.index()];
        if slot.state == State::Down {
            slot.state = State::Up;
            slot.wake_at = None;
            self.handle(node, Input::Start);
        }
    }

    /// Gives a node that is down another machine: a restart with an empty memory.
    ///
    /// # Panics
    /// If the node is running.
    pub fn replace(&mut self, node: NodeId, machine: M) -> M {
        let slot = &mut self.slots[node.index()];
        assert!(slot.state == State::Down, "only a node that is down is replaced");
        std::mem::replace(&mut slot.machine, machine)
    }

    /// Stops a node without a word.
    pub fn freeze(&mut self, node: NodeId) {
        self.silence(node, State::Frozen);
    }

    /// A frozen node goes on; its connections are gone.
    pub fn thaw(&mut self, node: NodeId) {
        if self.slots[node.index()].state != State::Frozen {
            return;
        }
        self.slots[node.index()].state = State::Up;
        let peers: Vec<_> = self.slots[node.index()].links.keys().copied().collect();
        for peer in peers {
            self.disconnect(node, peer, Closed::Lost);
            self.push_at(self.nanos, Delivery::Closed { at: peer, with: node, reason: Closed::Lost });
        }
        self.handle(node, Input::Timeout);
    }

    /// A process ends: with a goodbye to whom it is connected, or without.
    pub fn stop(&mut self, node: NodeId, says_goodbye: bool) {
        if !says_goodbye || self.slots[node.index()].state != State::Up {
            return self.silence(node, State::Down);
        }
        let peers: Vec<_> = self.slots[node.index()].links.iter().map(|(peer, link)| (*peer, link.one_way)).collect();
        for (peer, one_way) in peers {
            self.unlink(node, peer);
            let at = self.nanos + u64::from(one_way);
            self.push_at(at, Delivery::Closed { at: peer, with: node, reason: Closed::Left });
        }
        self.silence(node, State::Down);
    }

    fn silence(&mut self, node: NodeId, state: State) {
        let slot = &mut self.slots[node.index()];
        if slot.state == State::Down {
            return;
        }
        slot.state = state;
        slot.epoch += 1;
        slot.wake_at = None;
        slot.dialling.clear();
        let epoch = slot.epoch;
        let peers: Vec<_> = slot.links.keys().copied().collect();
        let interval = nanos(HEARTBEAT_EVERY);
        for peer in peers {
            if state == State::Frozen {
                self.end_tacit(peer, node);
                self.end_tacit(node, peer);
            }
            if !self.settings.notices_silence && state == State::Frozen {
                continue;
            }
            let noticed = self.nanos + interval + self.rng.random_range(0..interval);
            self.push_at(noticed, Delivery::Lost { at: peer, with: node, epoch });
            if state == State::Down {
                self.unlink(node, peer);
            }
        }
    }

    /// Calls into a running node from outside: the user's wish. What it wants done is done.
    pub fn with<T>(&mut self, node: NodeId, call: impl FnOnce(&mut M, &mut M::World, Now, &mut Outbox<M>) -> T) -> T {
        let now = self.now();
        let mut out = Outbox::new();
        let result = call(&mut self.slots[node.index()].machine, &mut self.world, now, &mut out);
        self.carry_out(node, out);
        result
    }

    /// A node's machine.
    #[must_use]
    pub fn machine(&self, node: NodeId) -> &M {
        &self.slots[node.index()].machine
    }

    /// Whether a node runs.
    #[must_use]
    pub fn state(&self, node: NodeId) -> State {
        self.slots[node.index()].state
    }

    /// All nodes, running or not.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<M> {
        (0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX)).map(NodeId)
    }

    /// Nodes that run.
    #[must_use]
    pub fn running(&self) -> Vec<NodeId> {
        self.nodes().filter(|node| self.state(*node) == State::Up).collect()
    }

    /// A node's open connections.
    #[must_use]
    pub fn connections(&self, node: NodeId) -> usize {
        self.slots[node.index()].links.len()
    }

    /// Whether two nodes have a connection.
    #[must_use]
    pub fn is_connected(&self, a: NodeId, b: NodeId) -> bool {
        self.slots[a.index()].links.contains_key(&b)
    }

    /// The time for machines.
    #[must_use]
    pub fn now(&self) -> Now {
        let elapsed = self.elapsed();
        Now { instant: self.base + elapsed, unix: START.plus_secs(elapsed.as_secs()) }
    }

    /// Virtual time since the start.
    #[must_use]
    pub const fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// How it behaves from now on.
    pub const fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// What was sent so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let mut traffic = self.traffic.clone();
        traffic.bytes = self.nodes().map(|node| self.bytes(node)).sum();
        traffic
    }

    /// What one node has written so far, heartbeats of open connections included.
    #[must_use]
    pub fn bytes(&self, node: NodeId) -> u64 {
        let slot = &self.slots[node.index()];
        let open =
            slot.links.values().map(|link| heartbeat_bytes(Duration::from_nanos(self.nanos.saturating_sub(link.opened_at))));
        slot.bytes + open.sum::<u64>()
    }

    /// Names the run so far, by what was sent when: equal for equal seeds and inputs.
    #[must_use]
    pub const fn digest(&self) -> [u64; 2] {
        self.digest
    }

    /// Events handled so far.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// What nodes reported and nobody has taken yet, oldest first.
    pub fn take_events(&mut self) -> impl Iterator<Item = (NodeId, M::Event)> + use<'_, M> {
        self.events.drain(..)
    }

    /// Closes every connection without a word about deaths.
    pub fn disconnect_all(&mut self) {
        for node in self.nodes().collect::<Vec<_>>() {
            let peers: Vec<_> = self.slots[node.index()].links.keys().copied().collect();
            for peer in peers {
                self.unlink(node, peer);
                if self.state(node) == State::Up {
                    self.handle(node, Input::Disconnected { peer, reason: Closed::Idle });
                }
            }
        }
    }

    /// Lets virtual time pass until `end`.
    pub fn run_until(&mut self, end: Duration) {
        let end = nanos(end);
        while let Some(Reverse((at, _, _))) = self.queue.peek() {
            if *at > end {
                break;
            }
            self.step();
        }
        self.nanos = self.nanos.max(end);
    }

    /// Lets virtual time pass.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.elapsed() + time);
    }

    /// Runs until a node reports something that `is_it` picks, or the time is over.
    pub fn run_until_event<T>(&mut self, patience: Duration, mut is_it: impl FnMut(NodeId, &M::Event) -> Option<T>) -> Option<T> {
        let end = self.nanos + nanos(patience);
        loop {
            while let Some((node, event)) = self.events.pop_front() {
                if let Some(found) = is_it(node, &event) {
                    return Some(found);
                }
            }
            match self.queue.peek() {
                Some(Reverse((at, _, _))) if *at <= end => self.step(),
                _ => {
                    self.nanos = end;
                    return None;
                }
            }
        }
    }

    fn step(&mut self) {
        let Some(Reverse((at, _, index))) = self.queue.pop() else { return };
        self.nanos = self.nanos.max(at);
        self.steps += 1;
        let Some(delivery) = self.deliveries[index as usize].take() else { return };
        self.free.push(index);
        self.deliver(delivery);
    }

    fn push_at(&mut self, at: u64, delivery: Delivery<M::Message>) {
        let index = match self.free.pop() {
            Some(index) => {
                self.deliveries[index as usize] = Some(delivery);
                index
            }
            None => {
                self.deliveries.push(Some(delivery));
                u32::try_from(self.deliveries.len() - 1).expect("fewer than four billion events fit in memory")
            }
        };
        self.order += 1;
        self.queue.push(Reverse((at, self.order, index)));
    }

    fn deliver(&mut self, delivery: Delivery<M::Message>) {
        match delivery {
            Delivery::Message { to, from, message } => {
                let now = self.nanos;
                let Some(link) = self.slots[to.index()].links.get_mut(&from) else { return };
                // Nobody hears from a peer before the handshake is done on this side.
                let ready_at = link.ready_at;
                if now < ready_at {
                    return self.push_at(ready_at, Delivery::Message { to, from, message });
                }
                link.used_at = now;
                self.handle(to, Input::Message { from, message: *message });
            }
            Delivery::Connected { at, with, is_dialler, rtt } => {
                if self.slots[at.index()].links.contains_key(&with) {
                    self.handle(at, Input::Connected { peer: with, is_dialler, rtt });
                    if is_dialler && self.settings.is_tacit {
                        self.begin_tacit(at, with);
                    }
                }
            }
            Delivery::Closed { at, with, reason } => self.disconnect(at, with, reason),
            Delivery::Lost { at, with, epoch } => {
                let other = &self.slots[with.index()];
                let is_still_silent = other.epoch == epoch && other.state != State::Up;
                // Who restarted meanwhile knows nothing of the old connection, unless it has opened a new one.
                if is_still_silent || !other.links.contains_key(&at) {
                    self.disconnect(at, with, Closed::Lost);
                    self.unlink(with, at);
                }
            }
            Delivery::DialFailed { at, to, epoch } => {
                let slot = &mut self.slots[at.index()];
                if slot.epoch == epoch && slot.dialling.remove(&to) {
                    self.handle(at, Input::DialFailed { peer: to });
                }
            }
            Delivery::IdleCheck { a, b, opened_at } => self.check_idle(a, b, opened_at),
            Delivery::Timer { node, at } => {
                if self.slots[node.index()].wake_at == Some(at) {
                    self.slots[node.index()].wake_at = None;
                    self.handle(node, Input::Timeout);
                }
            }
        }
    }

    fn check_idle(&mut self, a: NodeId, b: NodeId, opened_at: u64) {
        let link = |at: NodeId, with: NodeId| self.slots[at.index()].links.get(&with).filter(|link| link.opened_at == opened_at);
        let (Some(one), Some(other)) = (link(a, b), link(b, a)) else { return };
        let idle = nanos(self.settings.idle);
        let closes_at = one.used_at.max(other.used_at) + idle;
        if one.is_kept || other.is_kept {
            for (at, with) in [(a, b), (b, a)] {
                if let Some(link) = self.slots[at.index()].links.get_mut(&with) {
                    link.parked_at = Some(self.nanos);
                }
            }
        } else if closes_at > self.nanos {
            self.push_at(closes_at, Delivery::IdleCheck { a, b, opened_at });
        } else {
            self.disconnect(a, b, Closed::Idle);
            self.disconnect(b, a, Closed::Idle);
        }
    }

    fn resume_idle_check(&mut self, a: NodeId, b: NodeId, parked_at: u64, opened_at: u64) {
        for (at, with) in [(a, b), (b, a)] {
            if let Some(link) = self.slots[at.index()].links.get_mut(&with).filter(|link| link.opened_at == opened_at) {
                link.parked_at = None;
            }
        }
        let idle = nanos(self.settings.idle).max(1);
        let rounds = (self.nanos - parked_at) / idle + 1;
        self.push_at(parked_at + rounds * idle, Delivery::IdleCheck { a, b, opened_at });
    }

    fn unlink(&mut self, at: NodeId, with: NodeId) -> bool {
        self.end_tacit(with, at);
        let slot = &mut self.slots[at.index()];
        let Some(link) = slot.links.remove(&with) else { return false };
        slot.bytes += heartbeat_bytes(Duration::from_nanos(self.nanos.saturating_sub(link.opened_at)));
        true
    }

    /// Both ends of a new connection know of each other.
    fn begin_tacit(&mut self, dialler: NodeId, listener: NodeId) {
        let link = |at: NodeId, with: NodeId| self.slots[at.index()].links.get(&with);
        let (Some(one), Some(other)) = (link(dialler, listener), link(listener, dialler)) else { return };
        if !one.is_fresh || one.opened_at != other.opened_at {
            return;
        }
        let now = self.now();
        for (at, with) in [(dialler, listener), (listener, dialler)] {
            let slot = &mut self.slots[at.index()];
            let begins = slot.machine.begin_tacit(&self.world, now, with);
            if let Some(link) = slot.links.get_mut(&with) {
                link.is_tacit = begins;
            }
        }
    }

    /// The end `gone` of a connection is no more: what `at` would have heard from it is told to `at`, or is on its way.
    fn end_tacit(&mut self, at: NodeId, gone: NodeId) {
        let now = self.now();
        let Some(link) = self.slots[at.index()].links.get_mut(&gone).filter(|link| link.is_tacit) else { return };
        link.is_tacit = false;
        let one_way = Duration::from_nanos(u64::from(link.one_way));
        let mut heard_at = None;
        let last = self.slots[gone.index()].machine.last_bare(&self.world, now, at);
        if let (Some(last), Some((message, interval))) = (last, self.slots[gone.index()].machine.bare()) {
            let arrival = |left: Instant| left + self.own_jitter(gone, at, left, one_way);
            heard_at = Some(arrival(last));
            if arrival(last) > now.instant {
                let there = nanos(arrival(last).saturating_duration_since(self.base));
                heard_at = last.checked_sub(interval).map(arrival);
                self.push_at(there, Delivery::Message { to: at, from: gone, message: Box::new(message) });
            }
        }
        self.slots[at.index()].machine.end_tacit(&self.world, now, gone, heard_at);
        self.arm(at);
    }

    /// What a way takes, if nothing but ends and time decide.
    fn own_jitter(&self, from: NodeId, to: NodeId, at: Instant, one_way: Duration) -> Duration {
        let mut mixed = self.seed ^ nanos(at.saturating_duration_since(self.base));
        for word in [u64::from(from.0) << 32 | u64::from(to.0), 0x9e37_79b9_7f4a_7c15] {
            mixed = (mixed ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed ^= mixed >> 29;
        }
        self.settings.latency.with_share_of_jitter(one_way, (mixed >> 40) as f32 / (1_u32 << 24) as f32)
    }

    fn disconnect(&mut self, at: NodeId, with: NodeId, reason: Closed) {
        if self.unlink(at, with) {
            self.handle(at, Input::Disconnected { peer: with, reason });
        }
    }

    fn handle(&mut self, node: NodeId, input: Input<M::Message>) {
        if self.slots[node.index()].state != State::Up {
            return;
        }
        let now = self.now();
        let mut out = Outbox::new();
        self.slots[node.index()].machine.handle(&mut self.world, now, input, &mut out);
        self.carry_out(node, out);
    }

    fn carry_out(&mut self, node: NodeId, out: Outbox<M>) {
        for command in out.commands {
            match command {
                Command::Send { to, message, kind, bytes } => self.send(node, to, kind, bytes, message),
                Command::Dial(peer) => {
                    self.connect(node, peer);
                }
                Command::DialNobody => {
                    self.traffic.failed_dials += 1;
                    self.slots[node.index()].bytes += DIAL_FAILED_BYTES;
                }
                Command::Close(peer) => {
                    let one_way = self.slots[node.index()].links.get(&peer).map(|link| u64::from(link.one_way));
                    if let Some(one_way) = one_way {
                        self.unlink(node, peer);
                        self.push_at(self.nanos + one_way, Delivery::Closed { at: peer, with: node, reason: Closed::Lost });
                    }
                }
                Command::Keep(peer, is_kept) => {
                    let parked_at = self.slots[node.index()].links.get_mut(&peer).and_then(|link| {
                        link.is_kept = is_kept;
                        link.parked_at.filter(|_| !is_kept).map(|parked_at| (parked_at, link.opened_at))
                    });
                    if let Some((parked_at, opened_at)) = parked_at {
                        self.resume_idle_check(node, peer, parked_at, opened_at);
                    }
                }
            }
        }
        self.events.extend(out.events.into_iter().map(|event| (node, event)));
        self.arm(node);
    }

    fn arm(&mut self, node: NodeId) {
        let slot = &mut self.slots[node.index()];
        if slot.state != State::Up {
            return;
        }
        let Some(wake) = slot.machine.poll_timeout() else { return };
        let wake = nanos(wake.saturating_duration_since(self.base)).max(self.nanos);
        if slot.wake_at.is_none_or(|planned| wake < planned) {
            slot.wake_at = Some(wake);
            self.push_at(wake, Delivery::Timer { node, at: wake });
        }
    }

    /// Takes note of something sent. In which order several things are sent at one moment isn't in it.
    fn note(&mut self, words: [u64; 3]) {
        let mut mixed = [0x243f_6a88_85a3_08d3_u64, 0x1319_8a2e_0370_7344];
        for word in words.into_iter().chain([self.nanos]) {
            mixed[0] = (mixed[0] ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            mixed[1] = mixed[1].wrapping_add(mixed[0]).wrapping_mul(0xd1b5_4a32_d192_ed03).rotate_left(31);
        }
        for (digest, mixed) in self.digest.iter_mut().zip(mixed) {
            *digest = digest.wrapping_add(mixed);
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, kind: Kind, encoded: usize, message: M::Message) {
        self.traffic.count(kind, encoded);
        if M::BARE != Some(kind) {
            self.note([u64::from(from.0) << 32 | u64::from(to.0), u64::from(kind.0), encoded as u64]);
        }
        if !self.connect(from, to) {
            return;
        }
        let (bytes, ack) = message_bytes(encoded);
        self.slots[from.index()].bytes += bytes;
        self.slots[to.index()].bytes += ack;
        let now = self.nanos;
        let Some(one_way) = self.slots[from.index()].links.get(&to).map(|link| Duration::from_nanos(u64::from(link.one_way)))
        else {
            return;
        };
        let mut takes = if self.settings.has_own_jitter {
            self.own_jitter(from, to, self.now().instant, one_way)
        } else {
            self.settings.latency.with_jitter(one_way, &mut self.rng)
        };
        if self.settings.loss > 0.0 && self.rng.random_bool(self.settings.loss) {
            // Noticed after about a round trip and a half, and sent again.
            takes += (one_way * 3).max(Duration::from_millis(50));
        }
        self.follow_bare(from, to, one_way);
        let Some(link) = self.slots[from.index()].links.get_mut(&to) else { return };
        link.used_at = now;
        let arrival = (now.max(link.ready_at) + nanos(takes)).max(link.last_arrival + 1);
        link.last_arrival = arrival;
        self.push_at(arrival, Delivery::Message { to, from, message: Box::new(message) });
    }

    /// Messages stay behind bare ones that weren't sent, as behind others.
    fn follow_bare(&mut self, from: NodeId, to: NodeId, one_way: Duration) {
        let now = self.now();
        let slot = &mut self.slots[from.index()];
        if !slot.links.get(&to).is_some_and(|link| link.is_tacit) {
            return;
        }
        let Some(left) = slot.machine.last_bare(&self.world, now, to) else { return };
        let arrival = left + self.own_jitter(from, to, left, one_way);
        let arrival = nanos(arrival.saturating_duration_since(self.base));
        if let Some(link) = self.slots[from.index()].links.get_mut(&to) {
            link.last_arrival = link.last_arrival.max(arrival);
        }
    }

    /// Opens a connection unless one is open. False if there is none and won't be soon.
    fn connect(&mut self, from: NodeId, to: NodeId) -> bool {
        if self.slots[from.index()].links.contains_key(&to) {
            return true;
        }
        if self.slots[from.index()].dialling.contains(&to) || from == to {
            return false;
        }
        let target = &self.slots[to.index()];
        let inbound = target.links.values().filter(|link| link.is_inbound).count();
        if target.state != State::Up || target.is_blocked || inbound >= self.settings.inbound_max {
            self.traffic.failed_dials += 1;
            let slot = &mut self.slots[from.index()];
            slot.bytes += DIAL_FAILED_BYTES;
            slot.dialling.insert(to);
            let epoch = slot.epoch;
            let at = self.nanos + nanos(self.settings.dial_timeout);
            self.push_at(at, Delivery::DialFailed { at: from, to, epoch });
            return false;
        }
        let one_way = self.settings.latency.one_way(&self.slots[from.index()].position, &target.position);
        let mut there = nanos(self.settings.latency.with_jitter(one_way, &mut self.rng));
        if self.settings.late_handshakes > 0.0 && self.rng.random_bool(self.settings.late_handshakes) {
            there += nanos(LATE);
        }
        let rtt = there + nanos(self.settings.latency.with_jitter(one_way, &mut self.rng));
        let now = self.nanos;
        let link = Link {
            ready_at: now + rtt,
            last_arrival: 0,
            used_at: now,
            opened_at: now,
            one_way: u32::try_from(one_way.as_nanos()).unwrap_or(u32::MAX),
            is_kept: false,
            is_inbound: false,
            parked_at: None,
            is_fresh: !self.slots[to.index()].links.contains_key(&from),
            is_tacit: false,
        };
        self.slots[from.index()].links.insert(to, link);
        self.slots[to.index()].links.insert(from, Link { ready_at: now + there, is_inbound: true, ..link });
        self.traffic.handshakes += 1;
        self.slots[from.index()].bytes += HANDSHAKE_DIALLER_BYTES;
        self.slots[to.index()].bytes += HANDSHAKE_LISTENER_BYTES;
        let rtt_measured = Duration::from_nanos(rtt);
        self.push_at(now + there, Delivery::Connected { at: to, with: from, is_dialler: false, rtt: rtt_measured });
        self.push_at(now + rtt, Delivery::Connected { at: from, with: to, is_dialler: true, rtt: rtt_measured });
        self.push_at(now + nanos(self.settings.idle), Delivery::IdleCheck { a: from, b: to, opened_at: now });
        true
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
