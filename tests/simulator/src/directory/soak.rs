//! Much shorter lives than the table's: a silent death and a birth every second among a thousand nodes, and look-ups of the living all the while.
//!
//! Its like with real nodes is a test of the benchmark; here every look-up that fails can be looked into.

use std::collections::BTreeSet;
use std::time::Duration;

use halloo_protocol::kademlia::{FindOptions, FindOutcome, FindResult, Mode, QueryId, REPLICAS, Store, SyncOffer};
use halloo_protocol::wire::Message;

use super::Behaviour;
use super::rows::Row;
use super::swarm::{Plan, Swarm};
use crate::machine::{Kind, NodeId};
use crate::network::State;

/// How a soak goes.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// Servers that run at any time.
    pub nodes: usize,
    /// How long, when all have joined.
    pub time: Duration,
    /// Time between two deaths without a word; each is followed by the birth of another node.
    pub churn: Duration,
    /// Time between two look-ups.
    pub lookups: Duration,
}

/// How long a name is known before it is looked for: its owner has published, and the first repairs of its neighbourhood are over.
const AGE_MIN: Duration = Duration::from_secs(10);

/// A look-up of somebody who lives, without the answer that was right.
#[derive(Clone, Debug)]
pub struct Miss {
    /// When it ended.
    pub at: Duration,
    /// Whose record, and how long the owner had been there.
    pub owner: (NodeId, Duration),
    /// Who asked, and how long they had been there.
    pub by: (NodeId, Duration),
    /// What came.
    pub result: FindResult,
    /// The living nodes closest to the record, and whether each holds it: first the closest.
    pub closest: Vec<(NodeId, bool)>,
    /// All living nodes that hold it.
    pub holders: usize,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Look-ups that ended while both lived.
    pub asked: usize,
    /// Those without a right answer.
    pub misses: Vec<Miss>,
    /// Nodes that died.
    pub deaths: usize,
    /// Looked at every half a minute: of all the living names, those of which none and those of which fewer than half of the eight closest nodes hold the record.
    pub placed: Placed,
    /// Of the eight nodes nearest to it those that a node knows at the end, mean.
    pub neighbours: f64,
    /// Records that a node holds at the end, mean.
    pub held: f64,
    /// Offers that all nodes sent for a death and the birth that follows it.
    pub offers: f64,
    /// Stores likewise, the newborn's own among them.
    pub stores: f64,
}

/// Where records are, summed up over looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Names looked at.
    pub names: usize,
    /// Fewer than half of the eight closest hold it.
    pub thin: usize,
    /// None of the eight closest holds it.
    pub astray: usize,
}

impl Placed {
    fn look(&mut self, swarm: &Swarm, owners: &[NodeId]) {
        for owner in owners {
            let key = swarm.network.world.identity(*owner).key;
            let holds = |node: &NodeId| swarm.network.machine(*node).directory.held(&key).is_some();
            let holding = swarm.closest(*owner, 8).iter().filter(|node| holds(node)).count();
            self.names += 1;
            self.thin += usize::from(holding < 4);
            self.astray += usize::from(holding == 0);
        }
    }
}

/// How often all living names are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Nodes beside a record that are looked at after a miss.
const LOOKED_AT: usize = 16;

/// Of the eight nearest of `running` those that `node` knows to live.
fn neighbours(swarm: &Swarm, node: NodeId, running: &[NodeId]) -> usize {
    let own = swarm.network.world.identity(node).descriptor.place;
    let known: BTreeSet<_> = swarm.network.machine(node).directory.table().map(|descriptor| descriptor.device).collect();
    let others = running.iter().filter(|other| **other != node).map(|other| &swarm.network.world.identity(*other).descriptor);
    let mut others: Vec<_> = others.collect();
    others.sort_by_key(|other| own.distance(&other.place));
    others.iter().take(REPLICAS).filter(|other| known.contains(&other.device)).count()
}

/// A look-up under way.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    by: NodeId,
    owner: NodeId,
    query: QueryId,
}

struct Run {
    swarm: Swarm,
    /// When each node was started; zero for those of the beginning.
    born: Vec<Duration>,
    waiting: Vec<Waiting>,
    outcome: Outcome,
}

/// Runs it.
#[must_use]
pub fn soak(seed: u64, soak: Soak) -> Outcome {
    let plan = Plan { is_invited_by_first: true, ..Plan::servers(seed, soak.nodes) };
    let swarm = Swarm::grown(plan);
    let start = swarm.network.elapsed();
    let mut run = Run { swarm, born: vec![Duration::ZERO; soak.nodes], waiting: Vec::new(), outcome: Outcome::default() };
    let before = run.swarm.network.traffic();
    let (mut now, mut next_death, mut next_look) = (start, start + soak.churn, start);
    while now < start + soak.time {
        now += soak.lookups;
        run.swarm.run_until(now);
        run.hear();
        if next_look <= now {
            next_look += LOOK_EVERY;
            run.look(now);
        }
        if next_death <= now {
            next_death += soak.churn;
            run.renew(now);
        }
        run.ask(now);
    }
    let running = run.swarm.network.running();
    let held: usize = running.iter().map(|node| run.swarm.network.machine(*node).directory.store_counts().0).sum();
    let traffic = run.swarm.network.traffic().since(&before);
    let each = |kind| traffic.messages(Kind(kind)) as f64 / run.outcome.deaths.max(1) as f64;
    run.outcome.neighbours =
        running.iter().map(|node| neighbours(&run.swarm, *node, &running)).sum::<usize>() as f64 / running.len().max(1) as f64;
    run.outcome.held = held as f64 / running.len().max(1) as f64;
    (run.outcome.offers, run.outcome.stores) = (each(SyncOffer::KIND.0), each(Store::KIND.0));
    run.outcome
}

impl Run {
    fn is_old(&self, node: NodeId, now: Duration) -> bool {
        now - self.born[node.index()] >= AGE_MIN
    }

    /// One dies, another is born. The first stays: it is everybody's way in.
    fn renew(&mut self, now: Duration) {
        let dead = loop {
            let node = self.swarm.random_node(None);
            if node != NodeId(0) {
                break node;
            }
        };
        self.swarm.network.stop(dead, false);
        self.outcome.deaths += 1;
        self.swarm.join(true, Behaviour::Honest, None);
        self.born.push(now);
    }

    fn look(&mut self, now: Duration) {
        let running = self.swarm.network.running();
        let owners: Vec<_> = running.into_iter().filter(|node| self.is_old(*node, now)).collect();
        self.outcome.placed.look(&self.swarm, &owners);
    }

    fn ask(&mut self, now: Duration) {
        let (by, owner) = (self.swarm.random_node(None), self.swarm.random_node(None));
        if by == owner || !self.is_old(by, now) || !self.is_old(owner, now) {
            return;
        }
        let key = self.swarm.network.world.identity(owner).key;
        let options = FindOptions { mode: Mode::First, is_remote_only: true };
        let query = self.swarm.network.with(by, |node, world, now, out| node.find(world, now, key, options, out));
        self.waiting.push(Waiting { by, owner, query });
    }

    /// Hears which look-ups have ended.
    fn hear(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            match self.swarm.take_found(waiting.by, waiting.query) {
                Some(result) => judge(&self.swarm, &self.born, waiting, result, &mut self.outcome),
                None => self.waiting.push(waiting),
            }
        }
    }
}

fn judge(swarm: &Swarm, born: &[Duration], asked: Waiting, result: FindResult, outcome: &mut Outcome) {
    let Waiting { by, owner, .. } = asked;
    let lives = |node: NodeId| swarm.network.state(node) == State::Up;
    if !lives(by) || !lives(owner) {
        return;
    }
    outcome.asked += 1;
    if matches!(result.outcome, FindOutcome::Found(_)) {
        return;
    }
    let at = swarm.network.elapsed();
    let holders = swarm.holders(owner, 1);
    let closest = swarm.closest(owner, LOOKED_AT).into_iter().map(|node| (node, holders.contains(&node))).collect();
    let age = |node: NodeId| at - born[node.index()];
    outcome.misses.push(Miss { at, owner: (owner, age(owner)), by: (by, age(by)), result, closest, holders: holders.len() });
}

/// The soak as a line of the table.
#[must_use]
#[allow(clippy::print_stdout, reason = "what the row doesn't say goes beside it")]
pub fn row(seed: u64, plan: Soak) -> Row {
    let outcome = soak(seed, plan);
    for miss in &outcome.misses {
        let holds: String = miss.closest.iter().map(|(_, holds)| if *holds { '#' } else { '.' }).collect();
        println!(
            "  not found at {} s: {:?} ({} s old) asked by {:?} ({} s old): {:?}, {} requests, {} answers, {} replicas; {} hold it, of the closest: {holds}",
            miss.at.as_secs(),
            miss.owner.0,
            miss.owner.1.as_secs(),
            miss.by.0,
            miss.by.1.as_secs(),
            miss.result.outcome,
            miss.result.requests,
            miss.result.answers,
            miss.result.replicas,
            miss.holders
        );
    }
    let share = 1.0 - outcome.misses.len() as f64 / outcome.asked.max(1) as f64;
    Row {
        name: format!("{} nodes, a silent death and a birth every {:?}: living names found", plan.nodes, plan.churn),
        reach: ">= 99.9%".into(),
        seen: format!(
            "{:.2}% of {}; {} deaths; of {} records looked at {} are held by fewer than half of the closest, {} by none; {:.1} of its 8 neighbours and {:.1} records a node, {:.0} offers and {:.0} stores a death",
            share * 100.0,
            outcome.asked,
            outcome.deaths,
            outcome.placed.names,
            outcome.placed.thin,
            outcome.placed.astray,
            outcome.neighbours,
            outcome.held,
            outcome.offers,
            outcome.stores
        ),
        is_met: share >= 0.999,
    }
}
