//! The measurements, the same for both networks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use crate::empty;
use crate::meter::{Moment, Used};
use crate::overlay::{Carrier, Lookup, Overlay, Requests, Size, Totals, requests_since};

/// How long tables and traffic are watched to see whether joining is over.
const SETTLE_STEP: Duration = Duration::from_secs(2);
const SETTLE_LIMIT: Duration = Duration::from_secs(90);

/// How long until a connection that nobody uses is surely closed, by either network: half a minute until owners have read back what they published,
/// a minute after the last frame, ten seconds of the swarm's, and the look that notices.
pub(crate) const QUIET: Duration = Duration::from_secs(135);

/// How long idle traffic is watched.
const IDLE_WATCH: Duration = Duration::from_secs(20);

/// How long what follows the opening of a connection takes: hellos, what peers tell of themselves, what replicas tell each other of a new record. It is
/// waited for between opening connections and counting what goes over them, and well below the minute after which they close.
const OPENING: Duration = Duration::from_secs(15);

/// Tries to find a look-up of the kind wanted before the kind is given up.
const TRIES_MAX: usize = 20_000;

/// What is measured and how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    /// See [`Size::joins_at_once`].
    pub(crate) joins_at_once: usize,
    pub(crate) lookups: usize,
    pub(crate) publications: usize,
    pub(crate) seed: u64,
}

impl Plan {
    const fn size(&self, record_bytes: usize) -> Size {
        Size { nodes: self.nodes, joins_at_once: self.joins_at_once, record_bytes }
    }
}

/// A mean and percentiles.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Spread {
    pub(crate) count: usize,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at =
            |share: f64| values.get(((values.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied().unwrap_or(0.0);
        let mean = values.iter().sum::<f64>() / (values.len() as f64).max(1.0);
        Self { count: values.len(), mean, p50: at(0.50), p95: at(0.95) }
    }
}

/// Look-ups of one kind.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Lookups {
    pub(crate) requests: Spread,
    /// Milliseconds.
    pub(crate) elapsed: Spread,
    pub(crate) found: usize,
    /// Bytes that all nodes wrote for one look-up, idle traffic subtracted, the record's own bytes not.
    pub(crate) bytes: Option<f64>,
}

impl Lookups {
    fn of(samples: &[Lookup], bytes: Option<f64>) -> Self {
        Self {
            requests: Spread::of(samples.iter().map(|sample| f64::from(sample.requests)).collect()),
            elapsed: Spread::of(samples.iter().map(|sample| sample.elapsed.as_secs_f64() * 1_000.0).collect()),
            found: samples.iter().filter(|sample| sample.found).count(),
            bytes,
        }
    }
}

/// Everything counted over the memory transport.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Counts {
    pub(crate) nodes: usize,
    pub(crate) joins_at_once: usize,
    pub(crate) record_bytes: u32,
    /// Joining, a node: bytes written, CPU milliseconds, seconds for all: until the last was ready, and until tables grew no more.
    pub(crate) join_bytes: f64,
    pub(crate) join_cpu_ms: f64,
    pub(crate) ready_secs: f64,
    pub(crate) join_secs: f64,
    /// Servers that were asked while joining and no connection was open to them, all nodes together: they showed life, and didn't in time. On a busy machine some are late, and among both.
    pub(crate) first_contacts: u64,
    pub(crate) silent_contacts: u64,
    /// Servers in a node's table, mean.
    pub(crate) table: f64,
    /// A node's memory above an empty swarm's, in bytes: live allocations, and resident pages.
    pub(crate) memory_live: f64,
    pub(crate) memory_resident: f64,
    /// Open connections a node, both directions: right after joining, at rest, and after the look-ups.
    pub(crate) connections_joined: f64,
    pub(crate) connections_rest: f64,
    pub(crate) connections_busy: f64,
    /// Bytes that all nodes together write a second at rest.
    pub(crate) idle_bytes_per_sec: f64,
    /// The same while the connections of publications are open.
    pub(crate) busy_bytes_per_sec: f64,
    pub(crate) connected: Lookups,
    pub(crate) connected_whole: Option<Lookups>,
    pub(crate) unconnected: Lookups,
    pub(crate) publish_requests: Spread,
    pub(crate) publish_replicas: f64,
    pub(crate) publish_bytes: f64,
    pub(crate) refresh_bytes_per_replica: f64,
    /// Requests by kind (frame kinds of the overlay) in each stage, all nodes together.
    pub(crate) stages: BTreeMap<String, BTreeMap<String, u64>>,
}

fn say<O: Overlay>(began: Instant, what: &str) {
    eprintln!("[{:>4} s] {}: {what}", began.elapsed().as_secs(), O::NAME);
}

/// Waits until tables grow no more, at most [`SETTLE_LIMIT`].
async fn settle<O: Overlay>(network: &O) -> Result<()> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    let mut last = 0;
    while Instant::now() < deadline {
        let table = network.totals().await?.table;
        if table == last {
            break;
        }
        last = table;
        tokio::time::sleep(SETTLE_STEP).await;
    }
    Ok(())
}

/// Traffic of `work`, idle traffic of its time subtracted.
struct Stage {
    before: Totals,
    began: Instant,
    idle: f64,
}

impl Stage {
    async fn begin<O: Overlay>(network: &O, idle: f64) -> Result<Self> {
        Ok(Self { before: network.totals().await?, began: Instant::now(), idle })
    }

    async fn end<O: Overlay>(self, network: &O) -> Result<(f64, BTreeMap<String, u64>)> {
        let time = self.began.elapsed().as_secs_f64();
        // What was begun comes to its end.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let after = network.totals().await?;
        let bytes = (after.written - self.before.written) as f64 - self.idle * (time + 0.2);
        Ok((bytes, requests_since(&after.requests, &self.before.requests)))
    }
}

/// Bytes a second that all nodes write while nobody asks for anything.
async fn idle_rate<O: Overlay>(network: &O) -> Result<f64> {
    let stage = Stage::begin(network, 0.0).await?;
    tokio::time::sleep(IDLE_WATCH).await;
    Ok(stage.end(network).await?.0 / (IDLE_WATCH.as_secs_f64() + 0.2))
}

/// Look-ups of one kind: `connected` says whether a holder is to be connected.
async fn look_up<O: Overlay>(
    network: &O,
    rng: &mut StdRng,
    count: usize,
    connected: Option<bool>,
    is_cut_short: bool,
    idle: f64,
) -> Result<(Lookups, BTreeMap<String, u64>)> {
    tokio::time::sleep(OPENING).await;
    let stage = Stage::begin(network, idle).await?;
    let mut samples = Vec::new();
    for _ in 0..TRIES_MAX {
        if samples.len() >= count {
            break;
        }
        let (asker, owner) = (rng.random_range(0..network.len()), rng.random_range(0..network.len()));
        let Some(is_connected) = network.is_holder_connected(asker, owner).await? else { continue };
        if asker != owner && connected.is_none_or(|wanted| wanted == is_connected) {
            samples.push(network.look_up(asker, owner, is_cut_short).await?);
        }
    }
    let (bytes, requests) = stage.end(network).await?;
    Ok((Lookups::of(&samples, Some(bytes / samples.len().max(1) as f64)), requests))
}

/// Counts over the memory transport.
pub(crate) async fn counts<O: Overlay>(plan: Plan, record_bytes: usize) -> Result<Counts> {
    let began = Instant::now();
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let nodes = plan.nodes as f64;
    let mut counts = Counts { nodes: plan.nodes, joins_at_once: plan.joins_at_once, ..Counts::default() };
    let bare = {
        let start = Moment::now();
        let _swarms = empty::swarms(plan.nodes, &Carrier::Memory).await?;
        start.used()
    };
    say::<O>(began, "joining");
    let start = Moment::now();
    let step = (plan.nodes / 10).max(1);
    let progress = move |joined: usize| {
        if joined.is_multiple_of(step) {
            say::<O>(began, &format!("{joined} nodes have joined"));
        }
    };
    let network = O::start(plan.size(record_bytes), &Carrier::Memory, &progress).await?;
    counts.ready_secs = start.used().time.as_secs_f64();
    settle(&network).await?;
    let joined: Used = start.used();
    let totals = network.totals().await?;
    counts.join_bytes = totals.written as f64 / nodes;
    counts.join_cpu_ms = joined.cpu.as_secs_f64() * 1_000.0 / nodes;
    counts.join_secs = joined.time.as_secs_f64();
    counts.first_contacts = totals.first_contacts;
    counts.silent_contacts = totals.silent_contacts;
    counts.table = totals.table as f64 / nodes;
    counts.connections_joined = totals.connections as f64 / nodes;
    counts.stages.insert("join".into(), totals.requests.clone());

    say::<O>(began, "publishing");
    for owner in 0..network.len() {
        network.publish(owner).await?;
    }
    say::<O>(began, "waiting for connections nobody uses to close");
    tokio::time::sleep(QUIET).await;
    counts.idle_bytes_per_sec = idle_rate(&network).await?;
    let idle = counts.idle_bytes_per_sec;
    let rest = start.used();
    counts.memory_live = (rest.live - bare.live) as f64 / nodes;
    counts.memory_resident = (rest.resident - bare.resident) as f64 / nodes;
    counts.connections_rest = network.totals().await?.connections as f64 / nodes;

    say::<O>(began, "look-ups of random names");
    let (unconnected, _) = look_up(&network, &mut rng, plan.lookups / 10, Some(false), true, idle).await?;
    counts.unconnected = unconnected;
    let (connected, _) = look_up(&network, &mut rng, plan.lookups / 4, Some(true), true, idle).await?;
    counts.connected = connected;
    if O::IS_CUT_SHORT {
        let (whole, _) = look_up(&network, &mut rng, plan.lookups / 10, Some(true), false, idle).await?;
        counts.connected_whole = Some(whole);
    }
    let (_, requests) = look_up(&network, &mut rng, plan.lookups, None, true, idle).await?;
    counts.stages.insert("lookups".into(), requests);
    counts.connections_busy = network.totals().await?.connections as f64 / nodes;

    say::<O>(began, "publications over open connections");
    let owners: Vec<usize> = (0..plan.publications).map(|_| rng.random_range(0..network.len())).collect();
    let mut publications = Vec::new();
    // Once to open the connections, once to count.
    for owner in &owners {
        network.publish(*owner).await?;
    }
    tokio::time::sleep(OPENING).await;
    // One after the other without a pause, and with what keeps so many connections alive subtracted: that would be most of what is written.
    counts.busy_bytes_per_sec = idle_rate(&network).await?;
    let stage = Stage::begin(&network, counts.busy_bytes_per_sec).await?;
    let mut requests = Requests::new();
    for owner in &owners {
        let before = network.requests_of(*owner).await?;
        publications.push(network.publish(*owner).await?);
        // The publisher's alone: a single node that looks around meanwhile asks for nodes 36 times, a hundred publishers 200 times.
        for (kind, count) in requests_since(&network.requests_of(*owner).await?, &before) {
            *requests.entry(kind).or_default() += count;
        }
    }
    let (bytes, _) = stage.end(&network).await?;
    ensure!(!publications.is_empty(), "nothing was published");
    let published = publications.len() as f64;
    counts.stages.insert("publications".into(), requests);
    counts.publish_requests = Spread::of(publications.iter().map(|publication| f64::from(publication.requests)).collect());
    counts.publish_replicas = publications.iter().map(|publication| f64::from(publication.replicas)).sum::<f64>() / published;
    counts.record_bytes = publications.iter().map(|publication| publication.record_bytes).max().unwrap_or(0);
    let replicas: f64 = publications.iter().map(|one| f64::from(one.replicas) * f64::from(one.record_bytes)).sum();
    counts.publish_bytes = (bytes - replicas) / published;

    say::<O>(began, "refreshes");
    let mut told = 0;
    for owner in &owners {
        network.refresh(*owner).await?;
    }
    tokio::time::sleep(OPENING).await;
    let idle = idle_rate(&network).await?;
    let stage = Stage::begin(&network, idle).await?;
    for owner in &owners {
        told += network.refresh(*owner).await?;
    }
    let (bytes, requests) = stage.end(&network).await?;
    counts.stages.insert("refreshes".into(), requests);
    counts.refresh_bytes_per_replica = bytes / f64::from(told.max(1));
    network.stop().await;
    Ok(counts)
}

/// Round trips over delayed QUIC.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct RoundTrips {
    pub(crate) nodes: usize,
    pub(crate) connected: Lookups,
    pub(crate) unconnected: Lookups,
    pub(crate) random: Lookups,
    pub(crate) connections: f64,
}

/// Times over delayed QUIC.
pub(crate) async fn round_trips<O: Overlay>(plan: Plan, carrier: &Carrier, record_bytes: usize) -> Result<RoundTrips> {
    let began = Instant::now();
    let mut rng = StdRng::seed_from_u64(plan.seed);
    say::<O>(began, "joining over delayed QUIC");
    let network = O::start(plan.size(record_bytes), carrier, &|_| ()).await?;
    settle(&network).await?;
    for owner in 0..network.len() {
        network.publish(owner).await?;
    }
    say::<O>(began, "waiting for connections nobody uses to close");
    tokio::time::sleep(QUIET).await;
    let connections = network.totals().await?.connections as f64 / plan.nodes as f64;
    let few = (plan.lookups / 20).max(10);
    say::<O>(began, "look-ups");
    let (random, _) = look_up(&network, &mut rng, few, None, true, 0.0).await?;
    let (unconnected, _) = look_up(&network, &mut rng, few, Some(false), true, 0.0).await?;
    let (connected, _) = look_up(&network, &mut rng, few, Some(true), true, 0.0).await?;
    network.stop().await;
    Ok(RoundTrips { nodes: plan.nodes, connected, unconnected, random, connections })
}
