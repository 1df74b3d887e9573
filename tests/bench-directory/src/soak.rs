//! Many real nodes under churn: look-ups stay right and memory stays flat. Minutes long, so it runs with `scripts/test --long` only.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use halloo::handle::directory::ResolveOptions;
use halloo::handle::power::SuspendOptions;
use halloo_bench_directory::authority::Authority;
use halloo_protocol::kademlia::REPLICAS;
use libp2p::Multiaddr;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::allocator::{self, Sizes};
use crate::meter::Moment;
use crate::overlay::Carrier;
use crate::product::{Member, address_of, start_node, wait_ready};

/// How a soak goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Nodes that run at any time.
    pub(crate) nodes: usize,
    /// How long, when all have joined.
    pub(crate) time: Duration,
    /// Time between two deaths; each is followed by the birth of another node.
    pub(crate) churn: Duration,
    /// Time between two look-ups.
    pub(crate) lookups: Duration,
    pub(crate) seed: u64,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) asked: u32,
    pub(crate) right: u32,
    /// Answers that name somebody else.
    pub(crate) wrong: u32,
    /// What was said instead of an answer.
    pub(crate) failures: Vec<String>,
    pub(crate) deaths: u32,
    /// Look-up times, milliseconds: median, 99% and longest.
    pub(crate) elapsed_ms: (f64, f64, f64),
    /// Live bytes a node, minute by minute.
    pub(crate) live: Vec<f64>,
}

/// Nodes that join at the same time.
const JOIN_AT_ONCE: usize = 8;

/// How long a name is known before it is looked for: its owner was ready, and the first repairs of its neighbourhood are over.
const AGE_MIN: Duration = Duration::from_secs(10);

struct Alive {
    member: Member,
    since: Instant,
}

async fn join(authority: &Authority, number: usize, bootstrap: Multiaddr) -> Result<Alive> {
    let member = start_node(authority, number, &Carrier::Quic, Some(bootstrap)).await?;
    wait_ready(&member).await?;
    Ok(Alive { member, since: Instant::now() })
}

/// What nodes have and do, means of all that live.
#[derive(Clone, Debug, Default)]
struct Means {
    connections: f64,
    table: f64,
    records: f64,
    /// Requests sent, by frame kind.
    requests: BTreeMap<u16, f64>,
    failed: f64,
    /// Of the nodes that are nearest to it those that it is connected to, of [`REPLICAS`]; by a few nodes.
    neighbours: f64,
}

/// Nodes of which the neighbours are looked at.
const LOOKED_AT: usize = 50;

/// Of the [`REPLICAS`] nodes nearest to `node` those that it is connected to.
async fn neighbours(node: &Alive, alive: &[Alive]) -> Result<usize> {
    let mut nearest: Vec<&Member> = alive.iter().map(|one| &one.member).collect();
    nearest.sort_by_key(|other| node.member.place.distance(&other.place));
    let connected: HashSet<String> = node.member.node.peers().await?.peers.into_iter().map(|peer| peer.peer_id).collect();
    Ok(nearest.iter().skip(1).take(REPLICAS).filter(|other| connected.contains(&other.peer_id)).count())
}

async fn means(alive: &[Alive]) -> Result<Means> {
    let mut means = Means::default();
    for one in alive {
        let totals = one.member.node.totals().await?;
        means.connections += f64::from(totals.connections) / alive.len() as f64;
        means.table += f64::from(totals.table) / alive.len() as f64;
        means.records += totals.records as f64 / alive.len() as f64;
        for (kind, count) in totals.requests {
            *means.requests.entry(kind).or_default() += count as f64 / alive.len() as f64;
        }
        means.failed += totals.failed as f64 / alive.len() as f64;
    }
    let few = alive.len().min(LOOKED_AT);
    for one in alive.iter().step_by(alive.len() / few).take(few) {
        means.neighbours += neighbours(one, alive).await? as f64 / few as f64;
    }
    Ok(means)
}

/// Live memory by size of its pieces, kB a node: `now` and what it has grown by since `before`.
fn by_size(now: &Sizes, before: &Sizes, nodes: usize) -> String {
    let kilobytes = |bytes: i64| bytes as f64 / nodes as f64 / 1e3;
    let classes = now.iter().zip(before).enumerate().filter(|(_, (now, _))| kilobytes(**now) >= 1.0);
    let told = classes
        .map(|(class, (now, before))| format!("<{} {:.0} ({:+.0})", 1_u64 << class, kilobytes(*now), kilobytes(now - before)));
    told.collect::<Vec<_>>().join(", ")
}

/// Runs it, telling what happens minute by minute.
pub(crate) async fn run(plan: Plan) -> Result<Report> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let authority = Authority::new();
    let empty = Moment::now();
    let first = start_node(&authority, 0, &Carrier::Quic, None).await?;
    let bootstrap = address_of(&first.node, &Carrier::Quic).await?;
    let mut alive = vec![Alive { member: first, since: Instant::now() }];
    let mut joining =
        stream::iter(1..plan.nodes).map(|number| join(&authority, number, bootstrap.clone())).buffer_unordered(JOIN_AT_ONCE);
    while let Some(joined) = joining.next().await {
        alive.push(joined?);
        if alive.len() % 100 == 0 {
            eprintln!("{} nodes after {} s", alive.len(), empty.used().time.as_secs());
        }
    }
    drop(joining);
    let (mut report, mut times) = (Report::default(), Vec::new());
    let began = Instant::now();
    let (mut next_death, mut next_minute, mut number) = (began + plan.churn, began, plan.nodes);
    let mut births = stream::FuturesUnordered::new();
    let mut asking = tokio::time::interval(plan.lookups);
    let mut early = None;
    while began.elapsed() < plan.time {
        tokio::select! {
            _ = asking.tick() => {}
            Some(born) = births.next(), if !births.is_empty() => alive.push(Result::<Alive>::context(born, "a birth")?),
        }
        if next_minute <= Instant::now() {
            next_minute += Duration::from_secs(60);
            let used = empty.used();
            let live = used.live as f64 / alive.len() as f64;
            let (means, sizes) = (means(&alive).await?, allocator::live_by_size());
            eprintln!(
                "{:>4} s: {} nodes with {:.1} connections, to {:.1} of the 8 nearest, {:.0} servers known, {:.1} records, requests {}, of which {:.1} failed; {} deaths; {} of {} look-ups right, {} wrong; {:.2} MB live, {:.2} MB resident, {:.0} ms CPU a node",
                began.elapsed().as_secs(),
                alive.len(),
                means.connections,
                means.neighbours,
                means.table,
                means.records,
                means.requests.iter().map(|(kind, count)| format!("{kind:#04x} {count:.0}")).collect::<Vec<_>>().join(" "),
                means.failed,
                report.deaths,
                report.right,
                report.asked,
                report.wrong,
                live / 1e6,
                used.resident as f64 / alive.len() as f64 / 1e6,
                used.cpu.as_secs_f64() * 1e3 / alive.len() as f64,
            );
            eprintln!(
                "       kB a node by size of pieces, and grown by since the third minute: {}",
                by_size(&sizes, early.get_or_insert(sizes), alive.len())
            );
            if report.live.len() <= 3 {
                early = Some(sizes);
            }
            report.live.push(live);
        }
        if next_death <= Instant::now() && alive.len() > 2 {
            next_death = Instant::now() + plan.churn;
            // The first stays: it is everybody's way in.
            let dead = alive.swap_remove(rng.random_range(1..alive.len())).member.node;
            // A suspended node does nothing but take commands: told to end now, it ends without a word to its peers.
            let _frozen = dead.suspend(SuspendOptions::default()).await;
            let _gone = dead.shutdown().await;
            report.deaths += 1;
            births.push(join(&authority, number, bootstrap.clone()));
            number += 1;
        }
        let (asker, owner) = (&alive[rng.random_range(0..alive.len())], &alive[rng.random_range(0..alive.len())]);
        if asker.member.username == owner.member.username || asker.since.elapsed() < AGE_MIN || owner.since.elapsed() < AGE_MIN {
            continue;
        }
        let asked = Instant::now();
        let options = ResolveOptions { fresh: true, settled: false };
        let found = asker.member.node.directory().resolve(&owner.member.username, options).await;
        times.push(asked.elapsed().as_secs_f64() * 1_000.0);
        report.asked += 1;
        match found {
            Ok(found) if found.devices.iter().any(|device| device.peer_id == owner.member.peer_id) => report.right += 1,
            Ok(_) => report.wrong += 1,
            Err(error) => report.failures.push(error.to_string()),
        }
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1))).copied().unwrap_or(0.0)
    };
    report.elapsed_ms = (at(0.5), at(0.99), at(1.0));
    drop(births);
    let ends = alive.iter().map(|one| one.member.node.shutdown());
    let _already_gone = futures::future::join_all(ends).await;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Look-ups that may fail of all: those that meet a node in the moment of its death.
    const FAILURES_SHARE_MAX: f64 = 0.001;

    fn check(plan: Plan) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let report = runtime.block_on(run(plan)).expect("the network runs");
        eprintln!("seed {}: {report:?}", plan.seed);
        assert_eq!(report.wrong, 0, "an answer named somebody else");
        let failed = f64::from(report.asked - report.right);
        assert!(failed <= f64::from(report.asked) * FAILURES_SHARE_MAX + 1.0, "look-ups fail: {:?}", report.failures);
        // The first minutes fill caches and address books; from then on nothing may grow.
        let (early, late) = (report.live[report.live.len() / 3], report.live[report.live.len() - 1]);
        assert!(late <= early * 1.25, "memory grows: {early:.0} bytes a node, later {late:.0}");
    }

    #[test]
    #[ignore = "ten minutes and more; run by scripts/test --long"]
    fn a_thousand_nodes_under_churn() {
        let (second, time) = (Duration::from_secs(1), Duration::from_secs(600));
        check(Plan { nodes: 1_000, time, churn: second, lookups: second / 10, seed: 1 });
    }

    #[test]
    #[ignore = "minutes; run by scripts/test --long"]
    fn two_hundred_nodes_under_churn() {
        let (second, time) = (Duration::from_secs(1), Duration::from_secs(180));
        check(Plan { nodes: 200, time, churn: second * 2, lookups: second / 10, seed: 2 });
    }
}
