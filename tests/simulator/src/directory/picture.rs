//! A run as a picture: percentiles over time of look-ups under churn, with a mass death in the middle.

use std::time::Duration;

use halloo_protocol::kademlia::{FindOptions, Mode};

use super::rows::Sample;
use super::swarm::{Churn, Plan, Swarm};
use crate::machine::NodeId;
use crate::svg::{Panel, Series, draw};

/// Share of the nodes that freeze in the middle of the run.
const FREEZE: f64 = 0.2;

/// How a pictured run goes.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Feeds all randomness.
    pub seed: u64,
    /// Nodes that are there at any time.
    pub nodes: usize,
    /// Share of them that can't be dialled.
    pub blocked: f64,
    /// How long, after everybody has joined.
    pub minutes: u32,
    /// Look-ups a minute.
    pub lookups: usize,
}

/// Runs and draws: look-up times, look-ups without a result, what nodes write, how many nodes run.
#[must_use]
pub fn picture(run: Run) -> String {
    let mut swarm = Swarm::grown(Plan::blocked(run.seed, run.nodes, run.blocked));
    swarm.begin_churn(Churn::default());
    let names = ["p50", "p95", "p99"].map(String::from);
    let mut times = names.clone().map(|name| Series { name, points: Vec::new() });
    let single = |name: &str| Series { name: name.into(), points: Vec::new() };
    let (mut missed, mut bytes, mut running) = (single("not found"), single("a node"), single("running"));
    let middle = run.minutes / 2;
    for minute in 0..run.minutes {
        if minute == middle {
            freeze_some(&mut swarm, run.nodes);
        }
        let owners: Vec<NodeId> = swarm.network.nodes().filter(|node| swarm.network.world.newest_sequence(*node) > 0).collect();
        let pairs = super::rows::pairs(&mut swarm, run.lookups, &owners);
        let before = swarm.network.traffic();
        let from = swarm.network.elapsed();
        let pause = Duration::from_secs(60) / u32::try_from(run.lookups.max(1)).unwrap_or(u32::MAX);
        let asked = swarm.find_each(&pairs, pause, FindOptions { mode: Mode::First, is_remote_only: true });
        let sample = Sample::of(&asked);
        let at = f64::from(minute + 1);
        for (series, share) in times.iter_mut().zip([0.5, 0.95, 0.99]) {
            series.points.push((at, sample.time(share).as_secs_f64() * 1_000.0));
        }
        missed.points.push((at, 100.0 - 100.0 * sample.found as f64 / sample.len().max(1) as f64));
        let written = swarm.network.traffic().since(&before).bytes as f64;
        let seconds = (swarm.network.elapsed() - from).as_secs_f64();
        bytes.points.push((at, written / seconds / run.nodes as f64));
        running.points.push((at, swarm.network.running().len() as f64));
    }
    let panels = [
        Panel { title: "look-ups, milliseconds".into(), series: times.into() },
        Panel { title: "look-ups without a record, percent".into(), series: vec![missed] },
        Panel { title: "written by a node, look-ups included, bytes a second".into(), series: vec![bytes] },
        Panel { title: "nodes".into(), series: vec![running] },
    ];
    let title = format!("{} nodes, {:.0}% behind NAT, one-hour sessions, seed {}", run.nodes, run.blocked * 100.0, run.seed);
    draw(&title, &panels, &[(f64::from(middle), "20% freeze")])
}

fn freeze_some(swarm: &mut Swarm, nodes: usize) {
    for _ in 0..(nodes as f64 * FREEZE) as usize {
        let node = swarm.random_node(None);
        swarm.network.freeze(node);
    }
}
