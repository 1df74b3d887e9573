//! The measurements of `scripts/bench presence`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use halloo_protocol::presence::Counters;
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::world::{HEARTBEAT, MESSAGE, Town, number_of};
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
        Self {
            traffic: town.network.traffic(),
            counters: town.counters(),
            open: BTreeMap::new(),
            measured: Measured::default(),
        }
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
            for (_, said_at) in waiting.drain(..=position) {
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
        measured.heartbeats = traffic.messages(HEARTBEAT);
        measured.bytes = traffic.by_kind.get(&MESSAGE).map_or(0, |count| count.bytes);
        measured.heartbeat_bytes = traffic.by_kind.get(&HEARTBEAT).map_or(0, |count| count.bytes);
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
