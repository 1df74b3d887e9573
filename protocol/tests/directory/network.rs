//! A small deterministic network: an event queue, one latency, nodes that may die silently or lie.
//!
//! What the owner of a [`Directory`] does in the daemon is done here: connections are opened by the first request (one round trip of
//! handshake, the hello riding with the first message), neighbours are kept connected, others closed when idle, and a neighbour's
//! death is noticed by its missing heartbeat.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use halloo_protocol::directory::{DirectoryRecord, Place, RecordKey};
use halloo_protocol::identity::{TrustStore, VerifiedChain};
use halloo_protocol::kademlia::{
    Action, Answer, Config, Connected, Directory, DisconnectReason, Event, Failure, FindOptions, FindResult, LocalNode,
    NetworkGroup, Nodes, PublishReport, QueryId, RecordAnswer, RecordOutcome, Request, RequestId, RequestSource,
};
use halloo_protocol::key::{DeviceKey, PublicKey, hash};
use halloo_protocol::node::{Descriptor, LoadClass, Roles};
use halloo_protocol::time::Now;
use halloo_protocol::wire::Extensions;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::fixture::{self, Authority, START};

/// One way; jitter of a tenth on top.
const LATENCY: Duration = Duration::from_millis(50);

/// How often owners look after their connections.
const UPKEEP: Duration = Duration::from_secs(5);

/// Silence after which a neighbour counts as lost.
const HEARTBEAT: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Default)]
pub(crate) enum Behaviour {
    #[default]
    Honest,
    /// Takes everything and answers nothing.
    Silent,
    /// Says "absent" whatever it holds.
    Denies,
    /// Says "absent", and names 16 nodes beside the key that don't exist.
    Invents,
    /// Answers look-ups with these bytes where it has some; acknowledges stores and drops them.
    Serves(Arc<BTreeMap<RecordKey, Vec<u8>>>),
}

pub(crate) struct Node {
    pub(crate) directory: Directory,
    pub(crate) chain: VerifiedChain,
    pub(crate) descriptor: Descriptor,
    pub(crate) behaviour: Behaviour,
    pub(crate) events: Vec<Event>,
    pub(crate) disk: BTreeMap<RecordKey, Vec<u8>>,
    silent_since: Option<Duration>,
    connections: BTreeSet<usize>,
    timer: Option<Duration>,
}

enum Delivery {
    Connected { at: usize, with: usize },
    Request { to: usize, from: usize, id: RequestId, request: Request, is_first: bool },
    Answer { to: usize, from: usize, id: RequestId, answer: Result<Answer, Failure>, is_first: bool },
    Timer { node: usize },
    Upkeep,
}

pub(crate) struct Network {
    pub(crate) nodes: Vec<Node>,
    pub(crate) trust: TrustStore,
    pub(crate) authority: Authority,
    by_device: BTreeMap<DeviceKey, usize>,
    queue: BTreeMap<(Duration, u64), Delivery>,
    order: u64,
    base: Instant,
    pub(crate) elapsed: Duration,
    /// How often owners look after their connections: rarely where weeks pass.
    pub(crate) upkeep_every: Duration,
    rng: ChaCha8Rng,
    config: Config,
    /// Requests that reached the wire.
    pub(crate) requests: u64,
    /// A digest of everything that was sent, and when.
    pub(crate) trace: [u8; 32],
}

impl Network {
    pub(crate) fn new(seed: u64, config: Config) -> Self {
        // Other seeds on demand: HALLOO_SEED is added to each test's own.
        let more: u64 = std::env::var("HALLOO_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let seed = seed + more;
        println!("seed {seed}");
        let authority = Authority::new(1);
        let trust = authority.trust();
        let mut network = Self {
            nodes: Vec::new(),
            trust,
            authority,
            by_device: BTreeMap::new(),
            queue: BTreeMap::new(),
            order: 0,
            base: Instant::now(),
            elapsed: Duration::ZERO,
            upkeep_every: UPKEEP,
            rng: ChaCha8Rng::seed_from_u64(seed),
            config,
            requests: 0,
            trace: [0; 32],
        };
        network.push(UPKEEP, Delivery::Upkeep);
        network
    }

    /// A network of `count` servers that joined one by one through the first.
    pub(crate) fn grown(seed: u64, count: usize) -> Self {
        let mut network = Self::new(seed, Config::default());
        for _ in 0..count {
            network.join();
        }
        network.run_for(Duration::from_secs(20));
        network
    }

    pub(crate) fn now(&self) -> Now {
        Now { instant: self.base + self.elapsed, unix: START.plus_secs(self.elapsed.as_secs()) }
    }

    pub(crate) fn random(&mut self, below: usize) -> usize {
        self.rng.random_range(0..below)
    }

    /// Adds a server with its own user (number 100,000 and up) that bootstraps through node 0.
    pub(crate) fn join(&mut self) -> usize {
        self.join_as(true)
    }

    /// Adds a server or a client.
    pub(crate) fn join_as(&mut self, is_serving: bool) -> usize {
        let index = self.nodes.len();
        let user = self.authority.user(100_000 + index as u64);
        let chain = user.chain_of(&user.device(0), &self.trust);
        let roles = if is_serving { Roles::DIRECTORY } else { Roles::default() };
        let descriptor = fixture::descriptor(&chain, index, roles);
        let local = LocalNode { device: chain.device, place: chain.place, is_serving };
        let seed = self.rng.random();
        let directory = Directory::new(self.config.clone(), local, seed, self.now().instant);
        self.by_device.insert(chain.device, index);
        self.nodes.push(Node {
            directory,
            chain,
            descriptor,
            behaviour: Behaviour::Honest,
            events: Vec::new(),
            disk: BTreeMap::new(),
            silent_since: None,
            connections: BTreeSet::new(),
            timer: None,
        });
        let now = self.now();
        if index > 0 {
            let first = self.nodes[0].descriptor.clone();
            self.nodes[index].directory.add_hearsay(now, [first]);
        }
        let query = self.nodes[index].directory.bootstrap(now);
        self.drain(index);
        self.run_until(|network| {
            let is_done = |event: &Event| matches!(event, Event::Bootstrapped { query: ended, .. } if *ended == query);
            network.nodes[index].events.iter().any(is_done)
        });
        index
    }

    fn push(&mut self, after: Duration, delivery: Delivery) {
        self.order += 1;
        self.queue.insert((self.elapsed + after, self.order), delivery);
    }

    fn latency(&mut self) -> Duration {
        LATENCY + Duration::from_micros(self.rng.random_range(0..5_000))
    }

    /// Does what a node's directory asks for.
    pub(crate) fn drain(&mut self, node: usize) {
        while let Some(action) = self.nodes[node].directory.poll_action() {
            match action {
                Action::Send { to, id, request } => self.send(node, &to, id, request),
                Action::Persist { key, bytes } => {
                    self.nodes[node].disk.insert(key, bytes);
                }
                Action::Forget { key } => {
                    self.nodes[node].disk.remove(&key);
                }
                Action::Event(event) => self.nodes[node].events.push(event),
            }
        }
        let wake = self.nodes[node].directory.poll_timeout().map(|at| at.saturating_duration_since(self.base));
        if let Some(wake) = wake
            && self.nodes[node].timer.is_none_or(|timer| wake < timer || timer <= self.elapsed)
        {
            self.nodes[node].timer = Some(wake);
            self.push(wake.saturating_sub(self.elapsed), Delivery::Timer { node });
        }
    }

    fn send(&mut self, from: usize, to: &Descriptor, id: RequestId, request: Request) {
        self.requests += 1;
        let (at, from_bytes) = (self.elapsed.as_nanos().to_be_bytes(), from.to_be_bytes());
        self.trace = hash("trace", &[&self.trace, &at, &from_bytes, to.device.as_bytes(), &request.to_frame(0).body]);
        let Some(&to) = self.by_device.get(&to.device) else { return };
        if matches!(self.nodes[to].behaviour, Behaviour::Silent) || matches!(self.nodes[from].behaviour, Behaviour::Silent) {
            return;
        }
        let is_first = self.nodes[from].connections.insert(to);
        let mut after = self.latency();
        if is_first {
            self.nodes[to].connections.insert(from);
            self.push(after, Delivery::Connected { at: to, with: from });
            after += self.latency();
            self.push(after, Delivery::Connected { at: from, with: to });
            after += self.latency();
        }
        self.push(after, Delivery::Request { to, from, id, request, is_first });
    }

    fn is_silent(&self, node: usize) -> bool {
        matches!(self.nodes[node].behaviour, Behaviour::Silent)
    }

    fn deliver(&mut self, delivery: Delivery) {
        let now = self.now();
        match delivery {
            Delivery::Connected { at, with } if !self.is_silent(at) => {
                let device = self.nodes[with].chain.device;
                self.nodes[at].directory.handle_connected(now, Connected { device, rtt: None, is_relayed: false });
                self.drain(at);
            }
            Delivery::Request { to, from, id, request, is_first } if !self.is_silent(to) => {
                if is_first {
                    self.hello(to, from);
                }
                let answer = self.answer(to, from, &request);
                let after = self.latency();
                self.drain(to);
                if let Some(answer) = answer {
                    self.push(after, Delivery::Answer { to: from, from: to, id, answer, is_first });
                }
            }
            Delivery::Answer { to, from, id, answer, is_first } if !self.is_silent(to) => {
                if is_first {
                    self.hello(to, from);
                }
                self.nodes[to].directory.handle_answer(now, &self.trust, id, answer);
                self.drain(to);
            }
            Delivery::Timer { node } => {
                let is_due = self.nodes[node].timer.is_some_and(|timer| timer <= self.elapsed);
                if is_due && !self.is_silent(node) {
                    self.nodes[node].timer = None;
                    self.nodes[node].directory.handle_timeout(now);
                    let next = self.nodes[node].directory.poll_timeout();
                    assert!(next.is_none_or(|at| at > now.instant), "a timer must not fire twice at once");
                    self.drain(node);
                }
            }
            Delivery::Upkeep => {
                self.upkeep();
                self.push(self.upkeep_every, Delivery::Upkeep);
            }
            _ => {}
        }
    }

    /// Node `to` reads the hello of `from`.
    fn hello(&mut self, to: usize, from: usize) {
        let now = self.now();
        let (chain, descriptor) = (self.nodes[from].chain.clone(), self.nodes[from].descriptor.clone());
        self.nodes[to].directory.handle_hello(now, &chain, descriptor).expect("nodes here tell their true places");
        self.drain(to);
    }

    fn answer(&mut self, to: usize, from: usize, request: &Request) -> Option<Result<Answer, Failure>> {
        let now = self.now();
        let device = self.nodes[from].chain.device;
        let network_group = NetworkGroup::of_descriptor(&self.nodes[from].descriptor);
        let source = RequestSource { device, network_group };
        let honest = self.nodes[to].directory.handle_request(now, &self.trust, source, request.clone());
        let lie = match (&self.nodes[to].behaviour, request) {
            (Behaviour::Denies, Request::FindRecord(_)) => Some(record_answer(RecordOutcome::Absent, Vec::new())),
            (Behaviour::Invents, Request::FindRecord(find)) => {
                Some(record_answer(RecordOutcome::Absent, invented(&Place(find.key.0))))
            }
            (Behaviour::Invents, Request::FindNode(find)) => {
                let closer = invented(&Place(find.target));
                Some(Answer::Nodes(Nodes { closer, extensions: Extensions::none() }))
            }
            (Behaviour::Serves(records), Request::FindRecord(find)) => {
                let lie = records.get(&find.key);
                lie.map(|bytes| record_answer(RecordOutcome::Found(bytes.clone()), Vec::new()))
            }
            _ => None,
        };
        match (lie, honest) {
            (Some(lie), _) => Some(Ok(lie)),
            (None, reply) => Some(Failure::or_answer(&reply.to_frame(1))),
        }
    }

    /// Owners' upkeep: notice the dead, dial neighbours, close what nobody needs.
    fn upkeep(&mut self) {
        let wanted: Vec<BTreeSet<usize>> = (0..self.nodes.len()).map(|node| self.neighbours(node)).collect();
        for node in (0..self.nodes.len()).filter(|node| !wanted[*node].is_empty()) {
            for other in self.nodes[node].connections.clone() {
                let is_lost = self.nodes[other].silent_since.is_some_and(|since| self.elapsed >= since + HEARTBEAT);
                if is_lost {
                    self.close(node, other, DisconnectReason::Lost);
                } else if !wanted[node].contains(&other) && !wanted[other].contains(&node) {
                    self.close(node, other, DisconnectReason::Idle);
                }
            }
            for other in wanted[node].iter().copied() {
                match (self.is_silent(other), self.nodes[node].connections.contains(&other)) {
                    (false, false) => self.connect(node, other),
                    // The dial fails.
                    (true, false) => self.close(node, other, DisconnectReason::Lost),
                    _ => {}
                }
            }
        }
    }

    fn neighbours(&self, node: usize) -> BTreeSet<usize> {
        if self.is_silent(node) {
            return BTreeSet::new();
        }
        let neighbours = self.nodes[node].directory.neighbours();
        neighbours.iter().filter_map(|near| self.by_device.get(&near.device).copied()).collect()
    }

    fn close(&mut self, a: usize, b: usize, reason: DisconnectReason) {
        let now = self.now();
        for (at, with) in [(a, b), (b, a)] {
            self.nodes[at].connections.remove(&with);
            let device = self.nodes[with].chain.device;
            if !self.is_silent(at) {
                self.nodes[at].directory.handle_disconnected(now, &device, reason);
                self.drain(at);
            }
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        let now = self.now();
        for (at, with) in [(a, b), (b, a)] {
            self.nodes[at].connections.insert(with);
            let device = self.nodes[with].chain.device;
            self.nodes[at].directory.handle_connected(now, Connected { device, rtt: None, is_relayed: false });
            self.hello(at, with);
        }
    }

    /// Closes every connection without a word about deaths.
    pub(crate) fn disconnect_all(&mut self) {
        let now = self.now();
        for node in 0..self.nodes.len() {
            for other in std::mem::take(&mut self.nodes[node].connections) {
                let device = self.nodes[other].chain.device;
                self.nodes[node].directory.handle_disconnected(now, &device, DisconnectReason::Idle);
            }
            self.drain(node);
        }
    }

    /// The node stops without a word.
    pub(crate) fn freeze(&mut self, node: usize) {
        self.nodes[node].behaviour = Behaviour::Silent;
        self.nodes[node].silent_since = Some(self.elapsed);
    }

    /// A frozen node goes on, and dials its neighbours.
    pub(crate) fn thaw(&mut self, node: usize) {
        self.nodes[node].behaviour = Behaviour::Honest;
        self.nodes[node].silent_since = None;
        for other in std::mem::take(&mut self.nodes[node].connections) {
            self.nodes[other].connections.remove(&node);
            self.close(node, other, DisconnectReason::Idle);
        }
        self.nodes[node].timer = None;
        self.drain(node);
    }

    /// A node that was killed starts again with what is on its disk, and joins through the first node it knew.
    pub(crate) fn restart(&mut self, node: usize, through: usize) {
        let now = self.now();
        for other in std::mem::take(&mut self.nodes[node].connections) {
            self.nodes[other].connections.remove(&node);
            self.close(node, other, DisconnectReason::Lost);
        }
        let chain = self.nodes[node].chain.clone();
        let local = LocalNode { device: chain.device, place: chain.place, is_serving: true };
        let seed = self.rng.random();
        let mut directory = Directory::new(self.config.clone(), local, seed, now.instant);
        directory.restore(now, &self.trust, self.nodes[node].disk.clone());
        directory.add_hearsay(now, [self.nodes[through].descriptor.clone()]);
        directory.bootstrap(now);
        let restarted = &mut self.nodes[node];
        (restarted.directory, restarted.behaviour, restarted.silent_since) = (directory, Behaviour::Honest, None);
        restarted.timer = None;
        restarted.events.clear();
        self.drain(node);
    }

    pub(crate) fn joined(&mut self, node: usize) {
        self.run_until(|network| network.nodes[node].events.iter().any(|event| matches!(event, Event::Bootstrapped { .. })));
    }

    fn step(&mut self) {
        let Some(((at, _), delivery)) = self.queue.pop_first() else { panic!("upkeep never ends") };
        self.elapsed = self.elapsed.max(at);
        self.deliver(delivery);
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.elapsed + time;
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            self.step();
        }
        self.elapsed = end;
    }

    /// Runs until `is_done`; panics after ten virtual minutes.
    pub(crate) fn run_until(&mut self, is_done: impl Fn(&Self) -> bool) {
        let end = self.elapsed + Duration::from_secs(600);
        while !is_done(self) {
            assert!(self.elapsed < end, "not done after ten virtual minutes");
            self.step();
        }
    }

    pub(crate) fn find(&mut self, node: usize, key: RecordKey, options: FindOptions) -> FindResult {
        let now = self.now();
        let query = self.nodes[node].directory.find_record(now, key, options);
        self.drain(node);
        self.run_until(|network| network.found(node, query).is_some());
        self.found(node, query).expect("just seen")
    }

    fn found(&self, node: usize, query: QueryId) -> Option<FindResult> {
        self.nodes[node].events.iter().rev().find_map(|event| match event {
            Event::Found { query: ended, result } if *ended == query => Some(result.clone()),
            _ => None,
        })
    }

    pub(crate) fn start_publish(&mut self, node: usize, record: DirectoryRecord) -> QueryId {
        let now = self.now();
        let query = self.nodes[node].directory.publish(now, record);
        self.drain(node);
        query
    }

    pub(crate) fn published(&self, node: usize, query: QueryId) -> Option<PublishReport> {
        self.nodes[node].events.iter().rev().find_map(|event| match event {
            Event::Published { query: ended, report } if *ended == query => Some(report.clone()),
            _ => None,
        })
    }

    pub(crate) fn publish(&mut self, node: usize, record: DirectoryRecord) -> PublishReport {
        let query = self.start_publish(node, record);
        self.run_until(|network| network.published(node, query).is_some());
        self.published(node, query).expect("just seen")
    }

    /// Living nodes that hold a record with exactly this content.
    pub(crate) fn holders(&self, key: &RecordKey, hash: [u8; 32]) -> Vec<usize> {
        let holds = |node: &Node| node.directory.held(key).is_some_and(|record| record.content_hash() == hash);
        (0..self.nodes.len()).filter(|index| !self.is_silent(*index) && holds(&self.nodes[*index])).collect()
    }

    /// Living nodes in the order of their distance to a key.
    pub(crate) fn closest(&self, key: &RecordKey, count: usize) -> Vec<usize> {
        let mut all: Vec<_> = (0..self.nodes.len()).filter(|index| !self.is_silent(*index)).collect();
        all.sort_by_key(|index| key.distance(&self.nodes[*index].descriptor.place));
        all.truncate(count);
        all
    }
}

fn record_answer(outcome: RecordOutcome, closer: Vec<Arc<Descriptor>>) -> Answer {
    Answer::Record(RecordAnswer { outcome, closer, extensions: Extensions::none() })
}

/// Sixteen nodes beside a point that nobody has enrolled.
pub(crate) fn invented(target: &Place) -> Vec<Arc<Descriptor>> {
    let near = |number: u8| {
        let mut place = target.0;
        place[31] ^= number;
        Descriptor {
            device: DeviceKey(PublicKey(hash("invented", &[&target.0, &[number]]))),
            place: Place(place),
            roles: Roles::DIRECTORY,
            load: LoadClass(0),
            addresses: vec![halloo_protocol::node::Address::V4 {
                ip: [200, number, 1, 1],
                port: 1,
                transport: halloo_protocol::node::Transport::Quic,
            }],
        }
    };
    (1..=16).map(near).map(Arc::new).collect()
}
