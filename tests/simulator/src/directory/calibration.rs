//! The simulator held against real nodes: what `scripts/bench directory-nodes --alone --json FILE` counted, done again in virtual time.
//!
//! Compared are the requests that each stage is about. What else real nodes ask in a stage's time (refreshes of tables, repair) follows from how long
//! the machine took for it, which isn't in the file.

use std::collections::BTreeMap;
use std::time::Duration;

use halloo_protocol::kademlia::{FindOptions, Mode, REPLICAS};

use super::Starting;
use super::rows::{Row, pairs};
use super::swarm::{Plan, Swarm};
use crate::latency::Latency;
use crate::machine::{Kind, NodeId};
use crate::network::Settings;
use crate::traffic::Traffic;

/// How far counts may be apart.
const TOLERANCE: f64 = 0.1;

/// Round trip over the memory transport, processing included.
const RTT: Duration = Duration::from_millis(2);

/// Seeds from one on whose runs are averaged: counts of one differ by some percent, those of repair by more.
const RUNS: u64 = 4;

/// When a node of the bench does what a start brings: it serves once its addresses have been the same for a while, publishes when it looks the second time whether it has joined, and
/// each time it looks a quarter of a second later.
const STARTING: Starting = Starting {
    serves_after: Duration::from_millis(250),
    publishes_after: Duration::from_millis(500),
    reads_back_after: Duration::from_millis(250),
};

/// How long the bench waits after everybody has published, until connections that nobody uses are closed and idle traffic is counted.
const REST: Duration = Duration::from_secs(155);

/// How long the bench waits between opening connections and counting what goes over them.
const OPENING: Duration = Duration::from_secs(15);

/// Pairs drawn for a look-up of the kind wanted: the rarest is one in eight.
const TRIES: usize = 24;

/// How long it watches what is written in between, before publications and refreshes.
const WATCHED: Duration = Duration::from_secs(20);

/// How long the bench waits for what publications or refreshes began.
const TAIL: Duration = Duration::from_millis(200);

/// Stage, kind, and what the stage's requests of that kind are.
const COMPARED: [(&str, u16, &str); 7] = [
    ("join", 0x10, "records read back"),
    ("join", 0x11, "nodes asked for nodes"),
    ("join", 0x12, "records stored"),
    ("lookups", 0x10, "records asked for"),
    ("publications", 0x11, "replicas looked for"),
    ("publications", 0x12, "records stored"),
    ("refreshes", 0x13, "leases renewed"),
];

/// What real nodes counted.
#[derive(Clone, Debug)]
pub struct Real {
    /// How many they were.
    pub nodes: usize,
    /// How many joined at a time.
    pub joins_at_once: usize,
    /// How long joining took, until the last was ready.
    pub joins_over: Duration,
    /// How long after that it was waited until tables grew no more.
    pub lingers: Duration,
    /// Share of the nodes asked while joining that didn't show life in time, though all live: the machine was late.
    pub late: f64,
    /// Look-ups of random names.
    pub lookups: usize,
    /// Publications, and refreshes.
    pub publications: usize,
    /// Requests by stage and kind, all nodes together.
    pub stages: BTreeMap<String, BTreeMap<u16, u64>>,
}

impl Real {
    /// Reads what `scripts/bench directory-nodes --json FILE` wrote.
    ///
    /// # Errors
    /// What isn't such a file.
    pub fn read(json: &[u8]) -> Result<Self, Box<dyn std::error::Error>> {
        let whole: serde_json::Value = serde_json::from_slice(json)?;
        let counts = whole.get("ours").ok_or("no `ours` in this file")?;
        let number = |at| counts.pointer(at).and_then(serde_json::Value::as_f64).ok_or(format!("no number at {at}"));
        let mut stages = BTreeMap::new();
        for (stage, kinds) in counts.get("stages").and_then(serde_json::Value::as_object).ok_or("no stages")? {
            let mut by_kind = BTreeMap::new();
            for (kind, requests) in kinds.as_object().ok_or("no kinds")? {
                by_kind.insert(u16::from_str_radix(kind.trim_start_matches("0x"), 16)?, requests.as_u64().unwrap_or(0));
            }
            stages.insert(stage.clone(), by_kind);
        }
        Ok(Self {
            nodes: number("/nodes")? as usize,
            joins_at_once: number("/joins_at_once")? as usize,
            joins_over: Duration::try_from_secs_f64(number("/ready_secs")?)?,
            // All live, so who was late is mostly among those who showed life.
            late: (number("/silent_contacts")? / number("/first_contacts")?.max(1.0)).min(1.0),
            lingers: Duration::try_from_secs_f64(number("/join_secs")? - number("/ready_secs")?)?,
            // A quarter of them is measured with a holder connected.
            lookups: 4 * number("/connected/requests/count")? as usize,
            publications: number("/publish_requests/count")? as usize,
            stages,
        })
    }
}

/// Counts the same in virtual time, in the mean of [`RUNS`] runs: a row for each kind and stage.
#[must_use]
pub fn compare(seed: u64, real: &Real) -> Vec<Row> {
    let runs: Vec<_> = (seed..seed + RUNS).map(|seed| simulate(seed, real)).collect();
    let row = |(stage, kind, what): &(&str, u16, &str)| {
        let theirs = real.stages.get(*stage).and_then(|kinds| kinds.get(kind)).copied().unwrap_or(0) as f64;
        let count = |run: &BTreeMap<_, Traffic>| run.get(stage).map_or(0, |traffic| traffic.messages(Kind(*kind)));
        let ours = runs.iter().map(count).sum::<u64>() as f64 / RUNS as f64;
        Row {
            name: format!("{stage}, {what} ({kind:#06x})"),
            reach: format!("{theirs:.0} within 10%"),
            seen: format!("{ours:.0} ({:+.1}%)", 100.0 * (ours - theirs) / theirs.max(1.0)),
            is_met: theirs > 0.0 && (ours - theirs).abs() <= TOLERANCE * theirs,
        }
    };
    COMPARED.iter().map(row).collect()
}

fn simulate(seed: u64, real: &Real) -> BTreeMap<&'static str, Traffic> {
    let settings = Settings { latency: Latency::Fixed(RTT), late_handshakes: real.late, ..Settings::default() };
    let mut plan = Plan {
        settings,
        joins_over: real.joins_over,
        at_once: real.joins_at_once,
        lingers: real.lingers,
        is_invited_by_first: true,
        starting: STARTING,
        ..Plan::servers(seed, real.nodes)
    };
    plan.config.is_lab = true;
    let mut swarm = Swarm::new(plan);
    swarm.grow();
    // Afterwards the machine has little to do.
    swarm.network.settings_mut().late_handshakes = 0.0;
    let mut stages = BTreeMap::from([("join", swarm.network.traffic())]);
    let all = swarm.network.running();
    all.iter().for_each(|owner| publish(&mut swarm, *owner));
    swarm.run_for(REST);
    // A tenth as many without a holder connected come first, then a quarter as many with: how they went decides how many are asked at once later.
    for (count, connected) in [(real.lookups / 10, Some(false)), (real.lookups / 4, Some(true))] {
        swarm.run_for(OPENING);
        look_up(&mut swarm, count, &all, connected);
    }
    swarm.run_for(OPENING);
    stages.insert("lookups", look_up(&mut swarm, real.lookups, &all, None));
    let owners: Vec<_> = (0..real.publications).map(|_| swarm.random_node(None)).collect();
    stages.insert("publications", twice(&mut swarm, &owners, publish));
    stages.insert("refreshes", twice(&mut swarm, &owners, refresh));
    stages
}

fn publish(swarm: &mut Swarm, node: NodeId) {
    swarm.published.clear();
    swarm.network.with(node, |machine, world, now, out| machine.publish(world, now, out));
    let end = swarm.network.elapsed() + Duration::from_secs(10);
    while swarm.network.elapsed() < end && !swarm.published.iter().any(|(by, _)| *by == node) {
        swarm.run_for(RTT);
    }
}

/// Look-ups as the bench asks them: of random names, by those that aren't replicas themselves, and if `connected` says so with or without a holder connected when they begin.
fn look_up(swarm: &mut Swarm, count: usize, owners: &[NodeId], connected: Option<bool>) -> Traffic {
    let mut asked = pairs(swarm, TRIES * count, owners);
    asked.retain(|(by, owner)| {
        let holders = swarm.closest(*owner, REPLICAS);
        let is_connected = || holders.iter().any(|holder| swarm.network.is_connected(*by, *holder));
        !holders.contains(by) && connected.is_none_or(|wanted| wanted == is_connected())
    });
    asked.truncate(count);
    let before = swarm.network.traffic();
    swarm.find_each(&asked, Duration::from_millis(5), FindOptions { mode: Mode::First, is_remote_only: true });
    swarm.network.traffic().since(&before)
}

/// Until the replicas have answered.
fn refresh(swarm: &mut Swarm, node: NodeId) {
    swarm.network.with(node, |machine, world, now, out| machine.refresh(world, now, out));
    swarm.run_for(2 * RTT);
}

/// What all owners do, one after the other as each is done: once to open connections, and once, a while later, to count.
fn twice(swarm: &mut Swarm, owners: &[NodeId], act: fn(&mut Swarm, NodeId)) -> Traffic {
    owners.iter().for_each(|owner| act(swarm, *owner));
    swarm.run_for(OPENING + WATCHED);
    let before = swarm.network.traffic();
    owners.iter().for_each(|owner| act(swarm, *owner));
    swarm.run_for(TAIL);
    swarm.network.traffic().since(&before)
}
