//! The measurements of `scripts/bench directory` that run in virtual time: one function a row.

use std::collections::BTreeMap;
use std::time::Duration;

use halloo_protocol::directory::DirectoryRecord;
use halloo_protocol::kademlia::{FindOptions, FindOutcome, Mode};
use rand::RngExt;

use super::swarm::{Asked, Churn, Plan, Swarm};
use super::{Behaviour, Lie};
use crate::latency::Latency;
use crate::machine::{Kind, NodeId};
use crate::network::{Settings, State};
use crate::traffic::{Count, Traffic};

/// Round trip of the rows that count round trips.
pub const RTT: Duration = Duration::from_millis(100);

const FIRST: FindOptions = FindOptions { mode: Mode::First, is_remote_only: true };
const SETTLED: FindOptions = FindOptions { mode: Mode::Settled, is_remote_only: true };

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What was to be reached.
    pub reach: String,
    /// What was seen.
    pub seen: String,
    /// Whether that is within.
    pub is_met: bool,
}

/// What look-ups took, sorted for percentiles.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    times: Vec<Duration>,
    requests: Vec<u32>,
    /// Look-ups that brought a record.
    pub found: usize,
}

impl Sample {
    /// Adds up.
    #[must_use]
    pub fn of(asked: &[Asked]) -> Self {
        let mut sample = Self {
            times: asked.iter().map(|asked| asked.result.elapsed).collect(),
            requests: asked.iter().map(|asked| asked.result.requests).collect(),
            found: asked.iter().filter(|asked| asked.result.record().is_some()).count(),
        };
        sample.times.sort_unstable();
        sample.requests.sort_unstable();
        sample
    }

    /// The time below which a share of them ended.
    #[must_use]
    pub fn time(&self, share: f64) -> Duration {
        at(&self.times, share).unwrap_or_default()
    }

    /// The same in round trips.
    #[must_use]
    pub fn round_trips(&self, share: f64) -> f64 {
        self.time(share).as_secs_f64() / RTT.as_secs_f64()
    }

    /// The share of the look-ups that took no more than so many round trips, to a twentieth of one.
    #[must_use]
    pub fn share_within(&self, round_trips: f64) -> f64 {
        let limit = RTT.mul_f64(round_trips + 0.05);
        self.times.partition_point(|time| *time <= limit) as f64 / self.times.len().max(1) as f64
    }

    /// Mean of the round trips.
    #[must_use]
    pub fn round_trips_mean(&self) -> f64 {
        let sum: Duration = self.times.iter().sum();
        sum.as_secs_f64() / RTT.as_secs_f64() / self.times.len().max(1) as f64
    }

    /// Requests of which a share of the look-ups needed no more.
    #[must_use]
    pub fn requests(&self, share: f64) -> u32 {
        at(&self.requests, share).unwrap_or_default()
    }

    /// Mean of the requests.
    #[must_use]
    pub fn requests_mean(&self) -> f64 {
        f64::from(self.requests.iter().sum::<u32>()) / self.requests.len().max(1) as f64
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.times.len()
    }

    /// True if there were none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.times.is_empty()
    }
}

fn at<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get(((sorted.len() as f64 * share) as usize).min(last)).copied()
}

fn fixed(plan: Plan) -> Plan {
    Plan { settings: Settings { latency: Latency::Fixed(RTT), ..plan.settings }, ..plan }
}

pub(crate) fn pairs(swarm: &mut Swarm, count: usize, owners: &[NodeId]) -> Vec<(NodeId, NodeId)> {
    let mut pairs = Vec::new();
    while pairs.len() < count {
        let by = swarm.random_node(None);
        let owner = owners[swarm.rng().random_range(0..owners.len())];
        if by != owner {
            pairs.push((by, owner));
        }
    }
    pairs
}

/// What one phase of the counts sent.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Which.
    pub name: &'static str,
    /// How often it was done.
    pub times: usize,
    /// Messages and encoded bytes by kind, all of them.
    pub by_kind: BTreeMap<Kind, Count>,
    /// Bytes with headers and handshakes, idle traffic of the same time subtracted.
    pub bytes: u64,
    /// The look-ups' sample, if it is about look-ups.
    pub sample: Option<Sample>,
    /// Requests the nodes reported, mean.
    pub requests: f64,
}

/// Requests by kind of 200 servers: what a run of real nodes is compared with.
///
/// Phases: joining; look-ups of which a holder is connected; look-ups of which none is; publishing over open connections; refreshing leases.
#[must_use]
pub fn counts(seed: u64, nodes: usize) -> Vec<Phase> {
    let mut plan = fixed(Plan::servers(seed, nodes));
    plan.config.is_lab = true;
    let mut swarm = Swarm::new(plan);
    let start = swarm.network.traffic();
    swarm.grow();
    let mut phases = vec![phase("join and publish", nodes, &start, &swarm.network.traffic(), 0, None)];
    // Until nodes have measured the grown network several times over.
    swarm.run_for(Duration::from_secs(40 * 60));
    // Idle traffic of a minute.
    let before = swarm.network.traffic();
    swarm.run_for(Duration::from_secs(60));
    let idle = swarm.network.traffic().since(&before);
    phases.push(phase("a minute of nothing", 1, &before, &swarm.network.traffic(), 0, None));

    let owners: Vec<_> = swarm.network.running();
    for (name, wants_holder) in [("look-up, a holder connected", true), ("look-up, no holder connected", false)] {
        let mut chosen = Vec::new();
        for (by, owner) in pairs(&mut swarm, 40 * nodes, &owners) {
            let holders = swarm.closest(owner, 8);
            let is_connected = holders.iter().any(|holder| swarm.network.is_connected(by, *holder));
            if is_connected == wants_holder && !holders.contains(&by) && chosen.len() < 2 * nodes {
                chosen.push((by, owner));
            }
        }
        let before = swarm.network.traffic();
        let from = swarm.network.elapsed();
        // One at a time, and idle connections have closed before the next that asks the same node.
        let asked = swarm.find_each(&chosen, Duration::from_millis(500), FIRST);
        let sample = Sample::of(&asked);
        let after = swarm.network.traffic();
        phases.push(phase(name, asked.len(), &before, &after, idle_of(&idle, swarm.network.elapsed() - from), Some(sample)));
        swarm.run_for(Duration::from_secs(120));
    }

    let publishers: Vec<_> = owners.iter().take(nodes / 4).copied().collect();
    let mut requests = 0;
    let mut sum: Option<(Traffic, Traffic)> = None;
    for node in &publishers {
        swarm.publish(*node);
        let before = swarm.network.traffic();
        requests += swarm.publish(*node).requests;
        let after = swarm.network.traffic();
        sum = Some(match sum {
            None => (before, after),
            Some((sum_before, sum_after)) => (sum_before.plus(&before), sum_after.plus(&after)),
        });
    }
    if let Some((before, after)) = sum {
        let mut phase = phase("publish, connections open", publishers.len(), &before, &after, 0, None);
        phase.requests = f64::from(requests) / publishers.len() as f64;
        phases.push(phase);
    }
    let before = swarm.network.traffic();
    for node in &publishers {
        swarm.network.with(*node, |machine, world, now, out| machine.refresh(world, now, out));
    }
    swarm.run_for(Duration::from_secs(2));
    phases.push(phase("refresh of a lease at every replica", publishers.len(), &before, &swarm.network.traffic(), 0, None));
    phases
}

fn idle_of(idle_minute: &Traffic, time: Duration) -> u64 {
    (idle_minute.bytes as f64 * time.as_secs_f64() / 60.0) as u64
}

fn phase(name: &'static str, times: usize, before: &Traffic, after: &Traffic, idle: u64, sample: Option<Sample>) -> Phase {
    let traffic = after.since(before);
    let requests = sample.as_ref().map_or(0.0, Sample::requests_mean);
    Phase { name, times, by_kind: traffic.by_kind, bytes: traffic.bytes.saturating_sub(idle), sample, requests }
}

/// 40% of the nodes frozen, nobody knows which, nothing connected: what becomes of look-ups? Everybody asks once, all at the same time, in as many networks as it takes: whoever asks again knows some of the
/// dead, and is connected to some of the living.
#[must_use]
pub fn frozen(seed: u64, nodes: usize, lookups: usize) -> Row {
    // Whether there is a living replica, for each.
    let mut all: Vec<(bool, Asked)> = Vec::new();
    for network in 0.. {
        if all.len() >= lookups {
            break;
        }
        let (swarm, asked) = half_frozen(seed + network, nodes);
        all.extend(asked.into_iter().map(|asked| (!swarm.holders(asked.owner, 1).is_empty(), asked)));
    }
    let asked: Vec<Asked> = all.iter().filter(|(lives, _)| *lives).map(|(_, asked)| asked.clone()).collect();
    let sample = Sample::of(&asked);
    let is_met = sample.found == sample.len()
        && sample.time(0.99) <= Duration::from_millis(400)
        && sample.time(1.0) <= Duration::from_secs(1);
    Row {
        name: format!("40% of {nodes} nodes silently frozen, none connected: found; p99; max"),
        reach: "all with a living replica; 400 ms; 1 s".into(),
        seen: format!(
            "{} of {} (and {} without one); p50 {:?} p95 {:?} p99 {:?}; max {:?}; requests mean {:.2}",
            sample.found,
            sample.len(),
            all.len() - sample.len(),
            sample.time(0.5),
            sample.time(0.95),
            sample.time(0.99),
            sample.time(1.0),
            sample.requests_mean()
        ),
        is_met,
    }
}

/// A network of which 40% freeze after all its connections were closed, and what everybody else asks for then.
fn half_frozen(seed: u64, nodes: usize) -> (Swarm, Vec<Asked>) {
    let mut swarm = Swarm::grown(fixed(Plan::servers(seed, nodes)));
    swarm.run_for(Duration::from_secs(120));
    swarm.network.disconnect_all();
    let all = swarm.network.running();
    for _ in 0..nodes * 2 / 5 {
        let node = swarm.random_node(None);
        swarm.network.freeze(node);
    }
    let mut pairs = Vec::new();
    for by in swarm.network.running() {
        let owner = all[swarm.rng().random_range(0..all.len())];
        if by != owner {
            pairs.push((by, owner));
        }
    }
    let asked = swarm.find_each(&pairs, Duration::ZERO, FIRST);
    (swarm, asked)
}

/// What was wrong with the answers of look-ups among liars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrongs {
    /// Records accepted that aren't valid, or another's.
    pub invalid: usize,
    /// Settled answers older than what an honest living replica holds.
    pub superseded: usize,
    /// Nothing found though an honest replica lives.
    pub missed: usize,
}

/// Judges answers: by the owner's newest sequence number and by checking the record anew.
#[must_use]
pub fn judge(swarm: &Swarm, asked: &[Asked]) -> Wrongs {
    let mut wrongs = Wrongs::default();
    let now = swarm.network.now().unix;
    for asked in asked {
        let newest = swarm.network.world.newest_sequence(asked.owner);
        let honest = swarm.holders(asked.owner, newest);
        let honest = honest.iter().any(|node| matches!(swarm.network.machine(*node).behaviour(), Behaviour::Honest));
        match &asked.result.outcome {
            FindOutcome::Found(record) => {
                let is_valid = record.to_unverified().verify(now, &swarm.network.world.trust).is_ok();
                let is_theirs = record.key() == swarm.network.world.identity(asked.owner).key;
                wrongs.invalid += usize::from(!is_valid || !is_theirs || sequence(record) > newest);
                wrongs.superseded += usize::from(honest && sequence(record) < newest);
            }
            _ => wrongs.missed += usize::from(honest),
        }
    }
    wrongs
}

fn sequence(record: &DirectoryRecord) -> u64 {
    record.entries().map(|parts| parts.entry().sequence).max().unwrap_or(0)
}

/// 30% of the nodes lie, in six ways.
#[must_use]
pub fn liars(seed: u64, nodes: usize, names: usize, lookups: usize) -> Row {
    let mut swarm = Swarm::grown(fixed(Plan::servers(seed, nodes)));
    let owners: Vec<_> = swarm.network.running().into_iter().take(names).collect();
    // Everybody has published; now once more, so that there is something superseded.
    for owner in &owners {
        swarm.network.with(*owner, |machine, world, now, out| machine.publish(world, now, out));
    }
    swarm.run_for(Duration::from_secs(60));
    let mut lying = 0;
    while lying < nodes * 3 / 10 {
        let node = swarm.random_node(None);
        let lie = Lie::ALL[lying % Lie::ALL.len()];
        swarm.network.with(node, |machine, _, _, _| {
            if matches!(machine.behaviour(), Behaviour::Honest) {
                *machine.behaviour_mut() = Behaviour::Liar(lie);
                lying += 1;
            }
        });
    }
    let mut honest_pairs = Vec::new();
    while honest_pairs.len() < lookups {
        let owner = owners[honest_pairs.len() % owners.len()];
        let by = swarm.random_node(None);
        if by != owner && matches!(swarm.network.machine(by).behaviour(), Behaviour::Honest) {
            honest_pairs.push((by, owner));
        }
    }
    let (first_half, second_half) = honest_pairs.split_at(lookups / 2);
    let first = swarm.find_each(first_half, Duration::from_millis(20), FIRST);
    let settled = swarm.find_each(second_half, Duration::from_millis(20), SETTLED);
    let (first_wrongs, settled_wrongs) = (judge(&swarm, &first), judge(&swarm, &settled));
    let (first, settled) = (Sample::of(&first), Sample::of(&settled));
    Row {
        name: format!("30% of {nodes} nodes lie, {lookups} look-ups of {names} names: invalid accepted; settled superseded"),
        reach: "0; 0".into(),
        seen: format!(
            "{}; {} (missed {} and {}; first answer {:.2} requests, p99 {:?}, superseded {}; settled {:.2}, p99 {:?})",
            first_wrongs.invalid + settled_wrongs.invalid,
            settled_wrongs.superseded,
            first_wrongs.missed,
            settled_wrongs.missed,
            first.requests_mean(),
            first.time(0.99),
            first_wrongs.superseded,
            settled.requests_mean(),
            settled.time(0.99),
        ),
        is_met: first_wrongs.invalid + settled_wrongs.invalid + settled_wrongs.superseded == 0,
    }
}

/// 20% freeze at once: how long until every record is on eight living replicas?
#[must_use]
pub fn repair(seed: u64, nodes: usize) -> Row {
    let mut swarm = Swarm::grown(fixed(Plan::servers(seed, nodes)));
    swarm.run_for(Duration::from_secs(180));
    let owners = swarm.network.running();
    let before = swarm.network.traffic();
    for _ in 0..nodes / 5 {
        let node = swarm.random_node(None);
        swarm.network.freeze(node);
    }
    let start = swarm.network.elapsed();
    let mut broken = owners.clone();
    let mut steps = Vec::new();
    while !broken.is_empty() && (swarm.network.elapsed() - start).as_secs() < 600 {
        swarm.run_for(Duration::from_secs(1));
        broken.retain(|owner| swarm.holders(*owner, 1).len() < 8);
        steps.push(broken.len());
    }
    let took = swarm.network.elapsed() - start;
    let traffic = swarm.network.traffic().since(&before);
    let deaths = (nodes / 5) as f64;
    let per_death = |kind: u16| traffic.messages(Kind(kind)) as f64 / deaths;
    let half = steps.iter().position(|left| *left * 20 < owners.len()).map_or(0, |second| second + 1);
    Row {
        name: format!("20% of {nodes} nodes freeze at once: every record back on 8 living replicas"),
        reach: "60 s".into(),
        seen: format!(
            "{} s (95% of the records after {half} s); per death {:.1} offers, {:.1} stores, {:.1} questions",
            took.as_secs(),
            per_death(0x14),
            per_death(0x12),
            per_death(0x11)
        ),
        is_met: took.as_secs() <= 60 && broken.is_empty(),
    }
}

/// How the network at scale is measured.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Nodes that are there at any time.
    pub nodes: usize,
    /// Share of them that can't be dialled.
    pub blocked: f64,
    /// Most nodes that a table knows by hearsay, if not as many as the product's.
    pub hints: Option<usize>,
    /// Churn before anything is measured.
    pub settle: Duration,
    /// Time over which upkeep is counted.
    pub measure: Duration,
    /// Look-ups.
    pub lookups: usize,
}

/// Thousands of nodes with one-hour sessions: look-ups, and what upkeep costs.
#[must_use]
#[allow(clippy::print_stdout, reason = "what the rows don't say goes beside them")]
pub fn scale(seed: u64, scale: Scale) -> Vec<Row> {
    let Scale { nodes, blocked, .. } = scale;
    let mut plan = fixed(Plan::blocked(seed, nodes, blocked));
    plan.config.hints_max = scale.hints.unwrap_or(plan.config.hints_max);
    let mut swarm = Swarm::grown(plan);
    swarm.begin_churn(Churn::default());
    swarm.run_for(scale.settle);
    let online = swarm.network.running();
    let start: Vec<u64> = swarm.network.nodes().map(|node| swarm.network.bytes(node)).collect();
    let before = swarm.network.traffic();
    let from = swarm.network.elapsed();
    swarm.run_for(scale.measure);
    let traffic = swarm.network.traffic().since(&before);
    let hours = (swarm.network.elapsed() - from).as_secs_f64() / 3_600.0;
    let mut sums = [(0_u64, 0_usize), (0, 0)];
    for node in swarm.network.nodes() {
        let side = &mut sums[usize::from(!swarm.network.world.is_serving(node))];
        side.0 += swarm.network.bytes(node) - start.get(node.index()).copied().unwrap_or(0);
    }
    for node in &online {
        sums[usize::from(!swarm.network.world.is_serving(*node))].1 += 1;
    }
    let upkeep = |side: usize| sums[side].0 as f64 / sums[side].1.max(1) as f64 / hours / 1_000.0;
    let mut tables = [0_usize; 6];
    let servers: Vec<_> = swarm.network.running().into_iter().filter(|node| swarm.network.world.is_serving(*node)).collect();
    for node in &servers {
        let (live, hints) = swarm.network.machine(*node).directory.table_counts();
        tables[0] += live;
        tables[1] += hints;
        tables[2] += swarm.network.connections(*node);
        tables[3] += swarm.network.machine(*node).directory.store_counts().0;
    }
    let clients: Vec<_> = swarm.network.running().into_iter().filter(|node| !swarm.network.world.is_serving(*node)).collect();
    for node in &clients {
        let (live, hints) = swarm.network.machine(*node).directory.table_counts();
        tables[4] += live;
        tables[5] += hints;
    }
    let owners: Vec<_> = swarm.network.nodes().filter(|node| swarm.network.world.newest_sequence(*node) > 0).collect();
    let asked = {
        let pairs = pairs(&mut swarm, scale.lookups, &owners);
        let pause = Duration::from_secs(300) / u32::try_from(scale.lookups.max(1)).unwrap_or(u32::MAX);
        swarm.find_each(&pairs, pause, FIRST)
    };
    for is_server in [true, false] {
        let part: Vec<_> = asked.iter().filter(|asked| swarm.network.world.is_serving(asked.by) == is_server).cloned().collect();
        let sample = Sample::of(&part);
        println!(
            "  asked by {}: round trips p50 {:.1} p90 {:.1} p95 {:.1} p99 {:.1}, no more than 3 {:.1}%, requests {:.2}",
            if is_server { "servers" } else { "clients" },
            sample.round_trips(0.5),
            sample.round_trips(0.9),
            sample.round_trips(0.95),
            sample.round_trips(0.99),
            sample.share_within(3.0) * 100.0,
            sample.requests_mean()
        );
    }
    println!("  not found: {}", misses(&swarm, &asked));
    let sample = Sample::of(&asked);
    let share = sample.found as f64 / sample.len().max(1) as f64;
    let (reach, limits) = if nodes > 10_000 { ("<= 3, 6; >= 99.9%", (3.0, 6.0)) } else { ("<= 2, 4; >= 99.9%", (2.0, 4.0)) };
    let (median, tail) = (sample.round_trips(0.5), sample.round_trips(0.95));
    let is_met = median <= limits.0 + 0.01 && tail <= limits.1 + 0.01 && share >= 0.999;
    let kinds = traffic.by_kind.iter().map(|(kind, count)| {
        format!(
            "{:#06x}: {:.1} x {:.0} B",
            kind.0,
            count.messages as f64 / hours / nodes as f64,
            count.bytes as f64 / count.messages.max(1) as f64
        )
    });
    println!("  each node an hour: {}", kinds.collect::<Vec<_>>().join(", "));
    println!(
        "  handshakes {:.1}, failed dials {:.1}; servers: {} proved, {} hints, {} connections, {} records; clients: {} proved, {} hints",
        traffic.handshakes as f64 / hours / nodes as f64,
        traffic.failed_dials as f64 / hours / nodes as f64,
        tables[0] / servers.len(),
        tables[1] / servers.len(),
        tables[2] / servers.len(),
        tables[3] / servers.len(),
        tables[4] / clients.len().max(1),
        tables[5] / clients.len().max(1)
    );
    let percent = blocked * 100.0;
    vec![
        Row {
            name: format!("{nodes} nodes, {percent}% behind NAT, one-hour sessions: round trips p50, p95; found"),
            reach: reach.into(),
            seen: format!(
                "{median:.1}, {tail:.1} (p99 {:.1}, mean {:.2}); {:.2}% of {}; requests mean {:.2}",
                sample.round_trips(0.99),
                sample.round_trips_mean(),
                share * 100.0,
                sample.len(),
                sample.requests_mean()
            ),
            is_met,
        },
        Row {
            name: "the same: upkeep an hour, headers estimated, per server; per client".into(),
            reach: "2 MB; 250 KB".into(),
            seen: format!("{:.0} KB; {:.0} KB", upkeep(0), upkeep(1)),
            is_met: upkeep(0) <= 2_000.0 && upkeep(1) <= 250.0,
        },
    ]
}

/// Look-ups without a record, by what they said and by whether somebody held it.
fn misses(swarm: &Swarm, asked: &[Asked]) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for asked in asked.iter().filter(|asked| asked.result.record().is_none()) {
        let said = if matches!(asked.result.outcome, FindOutcome::Absent) { "absent" } else { "inconclusive" };
        let held = if swarm.holders(asked.owner, 1).is_empty() { "nobody holds it" } else { "held" };
        let owner = if swarm.network.state(asked.owner) == State::Up { "owner there" } else { "owner away" };
        *counts.entry(format!("{said}, {held}, {owner}")).or_default() += 1;
    }
    format!("{counts:?}")
}

/// A tenth of the nodes collude against one name, each as near to it as 1,000 device keys and 4 enrolments bring it.
#[must_use]
pub fn eclipse(seed: u64, nodes: usize, hints: Option<usize>, ages: bool, lookups: usize) -> Row {
    let mut plan = Plan { publishes: false, ..fixed(Plan::servers(seed, nodes - nodes / 10)) };
    plan.config.hints_max = hints.unwrap_or(plan.config.hints_max);
    let mut swarm = Swarm::grown(Plan { joins_over: Duration::from_secs(300), ..plan });
    let victim = swarm.random_node(None);
    let key = swarm.network.world.identity(victim).key;
    if ages {
        swarm.publish(victim);
    }
    // Device keys change nothing: the place follows from the enrolment. So the thousand are tried in vain, and not simulated.
    let members: Vec<_> = (0..nodes / 10)
        .map(|_| {
            swarm.run_for(Duration::from_millis(200));
            swarm.join(true, Behaviour::Honest, Some((key, 4)))
        })
        .collect();
    let near = swarm.closest(victim, 8).iter().filter(|node| members.contains(node)).count();
    swarm.collude(members.clone(), Some(key), ages);
    swarm.run_for(Duration::from_secs(60));
    let report = swarm.publish(victim);
    swarm.run_for(Duration::from_secs(120));
    let newest = swarm.network.world.newest_sequence(victim);
    let honest_replicas = swarm.holders(victim, newest).iter().filter(|node| !members.contains(node)).count();
    let mut askers = Vec::new();
    while askers.len() < lookups {
        let by = swarm.random_node(None);
        if !members.contains(&by) && by != victim {
            askers.push((by, victim));
        }
    }
    let asked = swarm.find_each(&askers, Duration::from_millis(100), SETTLED);
    let right = asked.iter().filter(|asked| asked.result.record().is_some_and(|record| sequence(record) == newest)).count();
    let share = right as f64 / asked.len().max(1) as f64;
    let sample = Sample::of(&asked);
    let what = if ages { "age records" } else { "deny" };
    Row {
        name: format!("eclipse of one name, {} of {nodes} collude and {what}: newest record found", nodes / 10),
        reach: ">= 99%".into(),
        seen: format!(
            "{:.1}% of {} ({near} colluders among the 8 nearest; {} acknowledged, {honest_replicas} honest hold it; requests {:.1}, p50 {:?}, p99 {:?})",
            share * 100.0,
            asked.len(),
            report.accepted,
            sample.requests_mean(),
            sample.time(0.5),
            sample.time(0.99)
        ),
        is_met: share >= 0.99,
    }
}
