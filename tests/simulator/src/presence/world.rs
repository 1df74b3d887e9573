//! People with a device each, some of them carriers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use halloo_protocol::directory::{DeviceKind, Reachability};
use halloo_protocol::identity::{DeviceCertificate, DeviceCertificateParams};
use halloo_protocol::kademlia::DisconnectReason;
use halloo_protocol::key::{DeviceKey, IdentityKey, SecretKey, hash};
use halloo_protocol::presence::{
    Action, Config, Contact, ContactDevice, Counters, GossipConfig, LocalDevice, Memo, Peer, Presence, PresenceGossip,
    PresenceKey, PresenceSecret, Shown, State, Status,
};
use halloo_protocol::time::Now;
use halloo_protocol::wire::{self, Signed};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::graph::Graph;
use super::rows::Churned;
use crate::{Closed, Input, Kind, Latency, Machine, Network, NodeId, Outbox, START, Settings, State as NodeState};

/// Frames written for presence.
pub const MESSAGE: Kind = Kind(0x4070);

/// Heartbeats: frames that go because nothing else has, and say nothing.
pub const HEARTBEAT: Kind = Kind(0);

/// Heartbeats that take something along.
pub(super) const RIDDEN_HEARTBEAT: Kind = Kind(1);

/// How often a run of minutes tells how far it is, in virtual time.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(60);

/// What an encoded body gets in front: length, kind, number, length of the body.
const FRAME_HEADER_BYTES: usize = 2 + 3 + 1 + 3;

/// A person, before they have a machine.
#[derive(Debug)]
struct Person {
    identity: SecretKey,
    device: SecretKey,
    secret: PresenceSecret,
    /// Of that secret: what contacts hold.
    key: PresenceKey,
    certificate: Signed<DeviceCertificate>,
    carriers: Vec<usize>,
    is_carrier: bool,
}

/// What all share: keys, and where devices are.
#[derive(Debug, Default)]
pub struct World {
    people: Vec<Person>,
    devices: HashMap<DeviceKey, NodeId>,
    identities: HashMap<IdentityKey, usize>,
    memo: Arc<Memo>,
}

impl World {
    /// Whose identity key it is.
    #[must_use]
    pub fn person(&self, identity: &IdentityKey) -> Option<usize> {
        self.identities.get(identity).copied()
    }

    /// Somebody's identity key.
    #[must_use]
    pub fn identity(&self, person: usize) -> IdentityKey {
        IdentityKey(self.people[person].identity.public())
    }

    /// Somebody's device.
    #[must_use]
    pub fn device(&self, person: usize) -> DeviceKey {
        DeviceKey(self.people[person].device.public())
    }
}

/// What somebody sees of somebody else has changed.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Of whom.
    pub contact: IdentityKey,
    /// What they see.
    pub shown: Shown,
    /// When.
    pub at: Instant,
}

/// One person's device.
#[derive(Debug)]
pub struct PresenceNode {
    /// The production machine.
    pub presence: Presence,
    /// Whom it connects to, and reconnects to.
    pub keeps: Vec<NodeId>,
    /// Whom it turns to when one of those falls silent.
    pub spare: Vec<NodeId>,
    /// How often it tells each neighbour something.
    pub heartbeat: Duration,
}

impl PresenceNode {
    fn act(&mut self, world: &World, now: Now, out: &mut Outbox<Self>) {
        self.presence.plan_beats();
        while let Some(action) = self.presence.poll_action() {
            match action {
                Action::Send { to, frame, is_heartbeat } => {
                    let bytes = wire::encoded_len(&frame) + FRAME_HEADER_BYTES;
                    let kind = match is_heartbeat {
                        true if frame.parts.is_empty() => HEARTBEAT,
                        true => RIDDEN_HEARTBEAT,
                        false => MESSAGE,
                    };
                    if let Some(node) = world.devices.get(&to) {
                        out.send(*node, kind, bytes, frame);
                    }
                }
                Action::Connect(device) => {
                    if let Some(node) = world.devices.get(&device) {
                        out.dial(*node);
                    }
                }
                Action::Silent(device) => {
                    if let Some(node) = world.devices.get(&device) {
                        out.close(*node);
                        // As a node does that wants some contacts connected.
                        self.keeps.retain(|kept| kept != node);
                        if let Some(next) = self.spare.pop() {
                            self.keeps.push(next);
                            out.dial(next);
                        }
                    }
                }
                Action::Changed { contact, shown } => out.event(Seen { contact, shown, at: now.instant }),
                _ => {}
            }
        }
    }
}

impl Machine for PresenceNode {
    type Message = PresenceGossip;
    type Event = Seen;
    type World = World;

    fn handle(&mut self, world: &mut World, now: Now, input: Input<PresenceGossip>, out: &mut Outbox<Self>) {
        self.presence.set_clock(now);
        match input {
            Input::Start => self.keeps.iter().for_each(|peer| out.dial(*peer)),
            Input::Timeout => self.presence.handle_timeout(now),
            Input::Connected { peer, .. } => {
                out.keep(peer, true);
                let (device, identity) = (world.device(peer.index()), world.identity(peer.index()));
                let is_carrier = world.people[peer.index()].is_carrier;
                self.presence.handle_connected(now, Peer { device, identity, is_carrier });
            }
            Input::Disconnected { peer, reason } => {
                let reason = match reason {
                    Closed::Idle => DisconnectReason::Idle,
                    Closed::Lost => DisconnectReason::Lost,
                    Closed::Left => DisconnectReason::Left,
                };
                self.presence.handle_disconnected(now, &world.device(peer.index()), reason);
            }
            Input::DialFailed { .. } => {}
            Input::Message { from, message } => self.presence.handle_frame(now, &world.device(from.index()), message),
        }
        self.act(world, now, out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.presence.poll_timeout()
    }

    const BARE: Option<Kind> = Some(HEARTBEAT);

    fn begin_tacit(&mut self, world: &World, now: Now, peer: NodeId) -> bool {
        self.presence.set_clock(now);
        self.presence.begin_tacit(&world.device(peer.index()));
        true
    }

    fn last_bare(&mut self, world: &World, now: Now, peer: NodeId) -> Option<Instant> {
        self.presence.set_clock(now);
        self.presence.last_beat(&world.device(peer.index()))
    }

    fn end_tacit(&mut self, world: &World, now: Now, peer: NodeId, heard_at: Option<Instant>) {
        self.presence.set_clock(now);
        self.presence.end_tacit(&world.device(peer.index()), heard_at);
        self.presence.plan_beats();
    }

    fn bare(&self) -> Option<(PresenceGossip, Duration)> {
        Some((PresenceGossip::default(), self.heartbeat))
    }
}

/// How a town is made up.
#[derive(Clone, Debug)]
pub struct TownPlan {
    /// Feeds all randomness.
    pub seed: u64,
    /// Who knows whom.
    pub graph: Graph,
    /// Most connections to contacts that each has.
    pub contact_links: usize,
    /// How many of the people are carriers, for all.
    pub carriers: usize,
    /// How many carriers each uses.
    pub homes: usize,
    /// Whether people connect to another contact in place of one that fell silent.
    pub has_spare: bool,
    /// Whether people who are no carriers pass on.
    pub passes_on: bool,
    /// How far apart they are.
    pub latency: Latency,
    /// How presence behaves.
    pub config: Config,
    /// Whether heartbeats that say nothing are counted instead of sent; the rest is the same.
    pub is_tacit: bool,
    /// How long a message takes depends on who sends it when, and not on what others have sent: needed where heartbeats aren't sent.
    pub has_own_jitter: bool,
    /// Is told now and then how far a long run is.
    pub tell: Option<fn(&Progress)>,
}

/// How far a run is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What is being done.
    pub phase: &'static str,
    /// Virtual time since the start.
    pub elapsed: Duration,
    /// Messages so far, heartbeats not counted.
    pub messages: u64,
    /// Events handled so far.
    pub steps: u64,
    /// What has been seen so far, while people come and go.
    pub seen: Option<Churned>,
}

impl TownPlan {
    /// Phones that pass nothing on, with few connections to contacts; some of the people are carriers, and everybody uses two.
    #[must_use]
    pub fn carried(seed: u64, graph: Graph, carriers: usize) -> Self {
        let config = Config::default();
        let latency = Latency::Map;
        Self {
            seed,
            graph,
            contact_links: 3,
            carriers,
            homes: 2,
            has_spare: false,
            passes_on: false,
            latency,
            config,
            is_tacit: false,
            has_own_jitter: false,
            tell: None,
        }
    }

    /// Contacts pass on to each other, nobody carries.
    #[must_use]
    pub fn contacts_only(seed: u64, people: usize, contacts: usize, links: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            seed,
            graph: Graph::random(people, contacts, &mut rng),
            contact_links: links,
            carriers: 0,
            homes: 0,
            has_spare: true,
            passes_on: true,
            latency: Latency::Map,
            config: Config::default(),
            is_tacit: false,
            has_own_jitter: false,
            tell: None,
        }
    }
}

/// Many people in one network.
#[derive(Debug)]
pub struct Town {
    /// The network.
    pub network: Network<PresenceNode>,
    /// Who knows whom.
    pub graph: Graph,
    /// What each person says: a number, which becomes the mood.
    said: Vec<u32>,
    plan: TownPlan,
    rng: ChaCha8Rng,
    told_at: Duration,
    /// What machines counted that are no more.
    retired: Counters,
}

fn secret(seed: u64, person: usize, what: &str) -> [u8; 32] {
    hash("halloo simulated person", &[&seed.to_be_bytes(), &(person as u64).to_be_bytes(), what.as_bytes()])
}

fn person(seed: u64, number: usize) -> Person {
    let identity = SecretKey::from_bytes(secret(seed, number, "identity"));
    let device = SecretKey::from_bytes(secret(seed, number, "device"));
    let params =
        DeviceCertificateParams { device: DeviceKey(device.public()), slot: 0, serial: 1, now: START.minus_secs(86_400) };
    let certificate = Signed::sign(DeviceCertificate::new(params), &identity);
    let secret = PresenceSecret::new(1, secret(seed, number, "presence"));
    let key = secret.key();
    Person { identity, device, secret, key, certificate, carriers: Vec::new(), is_carrier: false }
}

impl Town {
    /// Builds a town: everybody exists, nobody runs.
    #[must_use]
    pub fn new(plan: TownPlan) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ 0x7077);
        let people = plan.graph.len();
        let mut world = World::default();
        for number in 0..people {
            let mut person = person(plan.seed, number);
            person.is_carrier = number < plan.carriers;
            if person.is_carrier {
                // A carrier publishes at itself.
                person.carriers = vec![number];
            } else {
                while person.carriers.len() < plan.homes.min(plan.carriers) {
                    let carrier = rng.random_range(0..plan.carriers);
                    if !person.carriers.contains(&carrier) {
                        person.carriers.push(carrier);
                    }
                }
            }
            world.devices.insert(DeviceKey(person.device.public()), NodeId(u32::try_from(number).unwrap_or(u32::MAX)));
            world.identities.insert(IdentityKey(person.identity.public()), number);
            world.people.push(person);
        }
        let most = vec![plan.contact_links; people];
        let mut keeps: Vec<Vec<NodeId>> = vec![Vec::new(); people];
        for (one, other) in plan.graph.connections(&most, &mut rng) {
            // Who starts later dials.
            keeps[other].push(NodeId(u32::try_from(one).unwrap_or(u32::MAX)));
        }
        let settings = Settings {
            latency: plan.latency,
            notices_silence: false,
            is_tacit: plan.is_tacit,
            has_own_jitter: plan.has_own_jitter,
            ..Settings::default()
        };
        let mut network = Network::new(world, settings, plan.seed);
        for (number, keeps) in keeps.into_iter().enumerate() {
            let node = Self::machine(&network, &plan, number, keeps, &mut rng);
            network.add(node, false);
        }
        Self {
            network,
            graph: plan.graph.clone(),
            said: vec![0; people],
            plan,
            rng,
            told_at: Duration::ZERO,
            retired: Counters::default(),
        }
    }

    fn machine(
        network: &Network<PresenceNode>,
        plan: &TownPlan,
        number: usize,
        keeps: Vec<NodeId>,
        rng: &mut ChaCha8Rng,
    ) -> PresenceNode {
        let (world, now) = (&network.world, network.now());
        let person = &world.people[number];
        let gossip = if person.is_carrier {
            GossipConfig { passes_on: plan.passes_on, ..GossipConfig::carrier() }
        } else {
            GossipConfig { passes_on: plan.passes_on, ..plan.config.gossip.clone() }
        };
        let local = LocalDevice { identity: world.identity(number), key: person.device.clone(), kind: DeviceKind::Phone };
        let config = Config { gossip, ..plan.config.clone() };
        let mut presence = Presence::new(config, local, person.secret.clone(), 0, rng.random(), now);
        presence.set_memo(world.memo.clone());
        for contact in plan.graph.contacts(number) {
            let other = &world.people[contact];
            let carriers = other.carriers.iter().map(|carrier| world.device(*carrier)).collect();
            let device = ContactDevice { certificate: other.certificate.clone(), carriers };
            presence.set_contact(
                now,
                Contact { identity: world.identity(contact), key: other.key.clone(), devices: vec![device], may_pass_on: true },
            );
        }
        let homes = person.carriers.iter().map(|carrier| world.device(*carrier)).collect();
        presence.set_carriers(now, homes);
        let mut spare: Vec<_> = plan
            .graph
            .contacts(number)
            .map(|contact| NodeId(u32::try_from(contact).unwrap_or(u32::MAX)))
            .filter(|contact| plan.has_spare && !keeps.contains(contact))
            .collect();
        spare.shuffle(rng);
        PresenceNode { presence, keeps, spare, heartbeat: plan.config.gossip.heartbeat }
    }

    /// Starts everybody, spread over a time, and has them say something.
    pub fn start(&mut self, over: Duration) {
        let nodes: Vec<_> = self.network.nodes().collect();
        let begin = self.network.elapsed();
        for (number, node) in nodes.iter().enumerate() {
            self.network.run_until(begin + over.mul_f64(number as f64 / nodes.len() as f64));
            self.network.start(*node);
            self.say(*node);
            self.tell("starting", TELL_EVERY, None);
        }
        self.network.run_until(begin + over);
    }

    /// Tells how far it is, if `every` has passed since it was told last.
    pub(super) fn tell(&mut self, phase: &'static str, every: Duration, seen: Option<Churned>) {
        let elapsed = self.network.elapsed();
        let Some(tell) = self.plan.tell.filter(|_| elapsed >= self.told_at + every) else { return };
        self.told_at = elapsed;
        let messages = self.network.traffic().messages(MESSAGE);
        tell(&Progress { phase, elapsed, messages, steps: self.network.steps(), seen });
    }

    /// Ends a device's process, with a goodbye or without.
    pub fn stop(&mut self, node: NodeId, says_goodbye: bool) {
        self.network.stop(node, says_goodbye);
    }

    /// Starts a device that is down, with an empty memory.
    pub fn restart(&mut self, node: NodeId) {
        let keeps = self.network.machine(node).keeps.clone();
        let machine = Self::machine(&self.network, &self.plan, node.index(), keeps, &mut self.rng);
        let former = self.network.replace(node, machine);
        add(&mut self.retired, &former.presence.counters());
        self.network.start(node);
    }

    /// Has somebody say that they leave.
    pub fn say_offline(&mut self, node: NodeId) {
        self.network.with(node, |machine, world, now, out| {
            machine.presence.set_clock(now);
            let status = Status { state: State::Offline, mood: String::new(), reachability: Reachability::None, devices: 1 };
            machine.presence.set_status(now, status);
            machine.act(world, now, out);
        });
    }

    /// Has somebody say something new. Returns what.
    pub fn say(&mut self, node: NodeId) -> u32 {
        let said = &mut self.said[node.index()];
        *said += 1;
        let number = *said;
        self.network.with(node, |machine, world, now, out| {
            machine.presence.set_clock(now);
            machine.presence.set_status(now, status(number));
            machine.act(world, now, out);
        });
        number
    }

    /// What somebody said last.
    #[must_use]
    pub fn said(&self, node: NodeId) -> u32 {
        self.said[node.index()]
    }

    /// What one sees of another: the number, and whether they are there.
    #[must_use]
    pub fn sees(&self, viewer: NodeId, contact: NodeId) -> (u32, State) {
        let identity = self.network.world.identity(contact.index());
        let shown = self.network.machine(viewer).presence.shown(self.network.now(), &identity);
        (number_of(&shown.mood), shown.state)
    }

    /// What all machines have done, those that are no more included.
    pub fn counters(&mut self) -> Counters {
        let mut sum = self.retired;
        for node in self.network.nodes() {
            if self.network.state(node) == NodeState::Up {
                self.network.with(node, |machine, _, now, _| {
                    machine.presence.set_clock(now);
                    machine.presence.count_beats();
                    machine.presence.plan_beats();
                });
            }
            add(&mut sum, &self.network.machine(node).presence.counters());
        }
        sum
    }
}

fn add(sum: &mut Counters, one: &Counters) {
    sum.frames += one.frames;
    sum.heartbeats += one.heartbeats;
    sum.documents += one.documents;
    sum.digests += one.digests;
    sum.received += one.received;
    sum.duplicates += one.duplicates;
    sum.grafts += one.grafts;
    sum.forged += one.forged;
    sum.excess += one.excess;
    for (total, count) in sum.hops.iter_mut().zip(one.hops) {
        *total += count;
    }
}

/// Two characters, so that documents stay in the smallest size class.
fn status(number: u32) -> Status {
    let digit = |value: u32| char::from(b'0' + u8::try_from(value % 64).unwrap_or(0));
    let mood = [digit(number / 64), digit(number)].iter().collect();
    Status { state: State::Online, mood, reachability: Reachability::Direct, devices: 1 }
}

/// The number that a mood stands for, modulo 4,096; 0 for none.
#[must_use]
pub(super) fn number_of(mood: &str) -> u32 {
    mood.bytes().fold(0, |sum, byte| sum * 64 + u32::from(byte.wrapping_sub(b'0')))
}
