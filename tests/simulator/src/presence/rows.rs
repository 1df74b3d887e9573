//! The measurements of `scripts/bench presence`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use halloo_protocol::presence::{Counters, State as ShownState};
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::views::Views;
use super::world::{HEARTBEAT, MESSAGE, RIDDEN_HEARTBEAT, TELL_EVERY, Town, TownPlan, number_of};
use crate::{NodeId, State, Traffic};

/// What a stretch of time cost.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Updates published.
    pub updates: u64,
    /// Deliveries owed: updates times living contacts.
    pub owed: u64,
    /// Deliveries made, or overtaken by a newer one of the same person.
    pub delivered: u64,
    /// Frames, heartbeats not counted.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Bytes of those.
    pub heartbeat_bytes: u64,
    /// Documents that came twice.
    pub duplicates: u64,
    /// Times a tree was mended.
    pub grafts: u64,
    /// Deliveries by number of hops, 1 to 7 and more.
    pub hops: [u64; 8],
    /// The longest any delivery took.
    pub slowest: Duration,
    /// All of them.
    pub delays: Vec<Duration>,
    /// Deliveries that hadn't come at the end.
    pub lacking: Vec<(NodeId, NodeId)>,
}

impl Measured {
    /// Messages for each delivery.
    #[must_use]
    pub fn messages_per_delivery(&self) -> f64 {
        self.messages as f64 / self.delivered.max(1) as f64
    }

    /// Bytes of messages for each delivery.
    #[must_use]
    pub fn bytes_per_delivery(&self) -> f64 {
        self.bytes as f64 / self.delivered.max(1) as f64
    }

    /// Mean and most hops.
    #[must_use]
    pub fn hops(&self) -> (f64, usize) {
        let count: u64 = self.hops.iter().sum();
        let sum: u64 = self.hops.iter().zip(1..).map(|(count, hops)| count * hops).sum();
        let most = self.hops.iter().rposition(|count| *count > 0).map_or(0, |index| index + 1);
        (sum as f64 / count.max(1) as f64, most)
    }
}

/// Counts while updates are made.
#[derive(Debug)]
pub struct Meter {
    traffic: Traffic,
    counters: Counters,
    /// Who said what when, to be heard by whom.
    open: BTreeMap<(NodeId, NodeId), VecDeque<(u32, Duration)>>,
    measured: Measured,
}

impl Meter {
    /// Starts to count.
    pub fn new(town: &mut Town) -> Self {
        town.network.take_events().for_each(drop);
        Self { traffic: town.network.traffic(), counters: town.counters(), open: BTreeMap::new(), measured: Measured::default() }
    }

    /// Has somebody say something, and waits for it to be heard by all living contacts.
    pub fn say(&mut self, town: &mut Town, node: NodeId) {
        let number = town.say(node) % 4_096;
        self.measured.updates += 1;
        let at = town.network.elapsed();
        let contacts: Vec<_> = town.graph.contacts(node.index()).collect();
        for contact in contacts {
            let viewer = NodeId(u32::try_from(contact).unwrap_or(u32::MAX));
            if town.network.state(viewer) == State::Up {
                self.measured.owed += 1;
                self.open.entry((viewer, node)).or_default().push_back((number, at));
            }
        }
    }

    /// Takes note of what was heard.
    pub fn collect(&mut self, town: &mut Town) {
        let (now, elapsed) = (town.network.now().instant, town.network.elapsed());
        let events: Vec<_> = town.network.take_events().collect();
        for (viewer, seen) in events {
            let Some(person) = town.network.world.person(&seen.contact) else { continue };
            let key = (viewer, NodeId(u32::try_from(person).unwrap_or(u32::MAX)));
            let Some(waiting) = self.open.get_mut(&key) else { continue };
            let heard = number_of(&seen.shown.mood);
            let heard_at = elapsed.saturating_sub(now.saturating_duration_since(seen.at));
            let Some(position) = waiting.iter().position(|(number, _)| *number == heard) else { continue };
            // Who hears the newer one needs none of those before.
            let heard: Vec<_> = waiting.drain(..=position).collect();
            if waiting.is_empty() {
                self.open.remove(&key);
            }
            for (_, said_at) in heard {
                let delay = heard_at.saturating_sub(said_at);
                self.measured.delivered += 1;
                self.measured.slowest = self.measured.slowest.max(delay);
                self.measured.delays.push(delay);
            }
        }
    }

    /// Ends counting.
    pub fn end(mut self, town: &mut Town) -> Measured {
        self.collect(town);
        let traffic = town.network.traffic().since(&self.traffic);
        let counters = town.counters();
        let mut measured = self.measured;
        measured.lacking = self.open.into_iter().filter(|(_, waiting)| !waiting.is_empty()).map(|(key, _)| key).collect();
        measured.delays.sort_unstable();
        measured.messages = traffic.messages(MESSAGE);
        measured.heartbeats = counters.heartbeats - self.counters.heartbeats;
        measured.bytes = traffic.by_kind.get(&MESSAGE).map_or(0, |count| count.bytes);
        let bytes = |kind| traffic.by_kind.get(&kind).map_or(0, |count| count.bytes);
        measured.heartbeat_bytes = bytes(HEARTBEAT) + bytes(RIDDEN_HEARTBEAT);
        measured.duplicates = counters.duplicates - self.counters.duplicates;
        measured.grafts = counters.grafts - self.counters.grafts;
        for (index, hops) in measured.hops.iter_mut().enumerate() {
            *hops = counters.hops[index] - self.counters.hops[index];
        }
        measured
    }
}

/// One update per node and `every`, each at its own moment, for a time; then `rest` for the last ones to arrive.
pub fn steady(town: &mut Town, every: Duration, time: Duration, rest: Duration) -> Measured {
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(town.said(NodeId(0))) + 17);
    let start = town.network.elapsed();
    let nodes = town.network.running();
    let mut plan = Vec::new();
    for node in &nodes {
        let mut at = every.mul_f64(rng.random_range(0.0..1.0));
        while at < time {
            plan.push((at, *node));
            at += every;
        }
    }
    plan.sort_unstable();
    let mut meter = Meter::new(town);
    for (at, node) in plan {
        town.network.run_until(start + at);
        if town.network.state(node) == State::Up {
            meter.collect(town);
            meter.say(town, node);
        }
        town.tell("updates", TELL_EVERY, None);
    }
    town.network.run_until(start + time + rest);
    meter.end(town)
}

/// Freezes a share of the nodes, without a word.
pub fn freeze(town: &mut Town, share: f64, seed: u64) -> Vec<NodeId> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut running = town.network.running();
    let count = (running.len() as f64 * share) as usize;
    let mut frozen = Vec::new();
    for _ in 0..count {
        let node = running.swap_remove(rng.random_range(0..running.len()));
        town.network.freeze(node);
        frozen.push(node);
    }
    frozen
}

/// A frame with one document of the smallest size and nothing else.
pub const DOCUMENT_FRAME_BYTES: usize = 303;

/// Of all pairs of living contacts, the share that living contacts of the speaker connect: no way of passing on can reach more.
#[must_use]
pub fn reachable(town: &Town) -> f64 {
    let (mut owed, mut reached) = (0_u64, 0_u64);
    for speaker in town.network.running() {
        let contacts: Vec<_> = town.graph.contacts(speaker.index()).map(node).collect();
        let living: Vec<_> = contacts.into_iter().filter(|contact| town.network.state(*contact) == State::Up).collect();
        let mut known = vec![speaker];
        let mut open = vec![speaker];
        while let Some(one) = open.pop() {
            for other in &living {
                if !known.contains(other) && town.network.is_connected(one, *other) {
                    known.push(*other);
                    open.push(*other);
                }
            }
        }
        owed += living.len() as u64;
        reached += known.len() as u64 - 1;
    }
    reached as f64 / owed.max(1) as f64
}

/// At how many living contacts those who fell silent are shown as offline, and how many there are.
#[must_use]
pub fn silence_shown(town: &Town, frozen: &[NodeId]) -> (usize, usize) {
    let (mut shown, mut all) = (0, 0);
    for gone in frozen {
        for viewer in town.graph.contacts(gone.index()).map(node) {
            if town.network.state(viewer) == State::Up {
                all += 1;
                shown += usize::from(town.sees(viewer, *gone).1 == ShownState::Offline);
            }
        }
    }
    (shown, all)
}

fn node(person: usize) -> NodeId {
    NodeId(u32::try_from(person).unwrap_or(u32::MAX))
}

/// Heartbeats both ways, for each connection and 12 s.
#[must_use]
pub fn exchanges_per_12_s(measured: &Measured, connections: usize, time: Duration) -> f64 {
    measured.heartbeats as f64 / 2.0 / connections.max(1) as f64 / (time.as_secs_f64() / 12.0)
}

/// A network with carriers, measured.
#[derive(Clone, Debug)]
pub struct Carried {
    /// One update of each person.
    pub all: Measured,
    /// Connections of the phone to contacts and carriers.
    pub phone_connections: usize,
    /// Messages the phone wrote, for each update it received.
    pub phone_messages: f64,
    /// From the first connection to the last of its contacts' documents, in round trips.
    pub phone_fetch: String,
}

/// One update per person and ten minutes in a network with carriers; `phone` is the person looked at.
#[must_use]
pub fn carried(plan: TownPlan, phone: usize) -> Carried {
    let mut town = Town::new(plan);
    town.start(Duration::from_secs(300));
    town.network.run_for(Duration::from_secs(120));
    town.network.take_events().for_each(drop);
    let phone = node(phone);
    let before = town.network.machine(phone).presence.counters();
    let all = steady(&mut town, Duration::from_secs(600), Duration::from_secs(600), Duration::from_secs(15));
    let after = town.network.machine(phone).presence.counters();
    let phone_messages = (after.frames - before.frames) as f64 / (after.received - before.received).max(1) as f64;
    let phone_connections = town.network.connections(phone);
    let phone_fetch = fetch(&mut town, phone);
    Carried { all, phone_connections, phone_messages, phone_fetch }
}

/// A device comes online in a network that is up: from the open connection to its carrier until its last contact is shown.
#[must_use]
pub fn coming_online(plan: TownPlan, phone: usize) -> String {
    let mut town = Town::new(plan);
    town.start(Duration::from_secs(60));
    town.network.run_for(Duration::from_secs(60));
    let (times, contacts) = fetch_times(&mut town, node(phone));
    // One round trip of handshake; the simulator's are all alike here.
    let (last, trip) = (times.last().copied().unwrap_or_default(), Duration::from_millis(100));
    let trips = last.saturating_sub(trip).as_secs_f64() / trip.as_secs_f64();
    format!("{trips:.2} round trips; {} of {contacts} seen", times.len())
}

/// A device comes online: how long until it sees all its contacts.
fn fetch(town: &mut Town, phone: NodeId) -> String {
    let (seen, contacts) = fetch_times(town, phone);
    let last = seen.last().copied().unwrap_or_default();
    let median = seen.get(seen.len() / 2).copied().unwrap_or_default();
    format!("{} of {contacts} seen; median {} ms, last {} ms after the dial", seen.len(), median.as_millis(), last.as_millis())
}

fn fetch_times(town: &mut Town, phone: NodeId) -> (Vec<Duration>, usize) {
    town.say_offline(phone);
    town.network.run_for(Duration::from_secs(1));
    town.stop(phone, true);
    town.network.run_for(Duration::from_secs(60));
    town.network.take_events().for_each(drop);
    let contacts = town.graph.contacts(phone.index()).count();
    town.restart(phone);
    let start = town.network.now().instant;
    town.network.run_for(Duration::from_secs(20));
    let mut seen: Vec<_> = town
        .network
        .take_events()
        .filter(|(viewer, seen)| *viewer == phone && seen.shown.state != ShownState::Offline)
        .map(|(_, seen)| seen.at.saturating_duration_since(start))
        .collect();
    seen.sort_unstable();
    (seen, contacts)
}

/// How people come and go.
#[derive(Clone, Copy, Debug)]
pub struct Churn {
    /// How long somebody stays, in the median; exponential.
    pub stays: Duration,
    /// How long somebody is away.
    pub away: Duration,
    /// The share that vanishes without a word.
    pub silent: f64,
}

/// What viewers saw while people came and went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Churned {
    /// Pairs of viewer and contact looked at, each look counted.
    pub looks: u64,
    /// Those in which a state was shown that hadn't been true for over 60 s.
    pub wrong: u64,
    /// Of these, shown as there though they were gone.
    pub wrong_there: u64,
    /// Messages per person and hour, heartbeats not counted.
    pub messages: f64,
    /// Heartbeats per person and hour.
    pub heartbeats: f64,
    /// Comings and goings.
    pub changes: u64,
    /// Names everything that was sent but heartbeats that say nothing: equal for equal seeds.
    pub digest: [u64; 2],
    /// Events that the simulator handled.
    pub steps: u64,
}

/// How often everybody's view is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What is wrong for so long counts.
const WRONG_AFTER: Duration = Duration::from_secs(60);

/// Lets people who are no carriers come and go for a time.
///
/// # Panics
/// If what machines reported isn't what they show in the end.
#[must_use]
pub fn churn(plan: TownPlan, churn: Churn, time: Duration) -> Churned {
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ 0xc0de);
    let carriers = plan.carriers;
    let mut town = Town::new(plan);
    town.start(Duration::from_secs(120));
    town.network.run_for(Duration::from_secs(60));
    let (start, traffic, counters) = (town.network.elapsed(), town.network.traffic(), town.counters());
    let people = town.graph.len();
    let mut until = |median: Duration| median.mul_f64(-rng.random_range(f64::MIN_POSITIVE..1.0).ln() / std::f64::consts::LN_2);
    let mut views = Views::new(&mut town);
    let mut due: BTreeMap<(Duration, usize), ()> =
        (carriers..people).map(|person| ((start + until(churn.stays), person), ())).collect();
    let mut luck = ChaCha8Rng::seed_from_u64(town.graph.len() as u64);
    let mut result = Churned::default();
    let (mut look_at, end) = (start + LOOK_EVERY, start + time);
    while look_at < end {
        while let Some(((at, person), ())) =
            due.first_key_value().map(|(key, ())| (*key, ())).filter(|((at, _), ())| *at <= look_at)
        {
            due.remove(&(at, person));
            town.network.run_until(at);
            town.tell("coming and going", TELL_EVERY * 10, Some(result));
            let node = node(person);
            views.collect(&mut town);
            let stays = if town.network.state(node) == State::Up {
                let is_silent = luck.random_bool(churn.silent);
                if !is_silent {
                    town.say_offline(node);
                    town.network.run_for(Duration::from_millis(200));
                }
                town.stop(node, !is_silent);
                churn.away
            } else {
                town.restart(node);
                town.say(node);
                churn.stays
            };
            result.changes += 1;
            views.changed(&town, node);
            due.insert((at + until(stays), person), ());
        }
        town.network.run_until(look_at);
        views.collect(&mut town);
        views.look(&town, WRONG_AFTER, &mut result);
        look_at += LOOK_EVERY;
    }
    // What ends by the clock is reported within the second.
    let different = views.wrong().symmetric_difference(Views::new(&mut town).wrong()).count();
    assert!(different * 10_000 <= views.pairs(), "{different} pairs are shown otherwise than was reported");
    let traffic = town.network.traffic().since(&traffic);
    let person_hours = people as f64 * time.as_secs_f64() / 3_600.0;
    result.messages = traffic.messages(MESSAGE) as f64 / person_hours;
    result.heartbeats = (town.counters().heartbeats - counters.heartbeats) as f64 / person_hours;
    (result.digest, result.steps) = (town.network.digest(), town.network.steps());
    result
}
