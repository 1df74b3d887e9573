//! The directory measured with real nodes, side by side with libp2p's own Kademlia. `scripts/bench directory-nodes` runs it.

mod allocator;
mod anatomy;
mod delay;
mod empty;
mod measure;
mod meter;
mod overlay;
mod plain;
mod product;
mod soak;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use crate::delay::Delay;
use crate::measure::{Plan, counts, round_trips};
use crate::overlay::Carrier;
use crate::plain::Plain;
use crate::product::Product;

/// Length of the opponent's records when the product isn't measured beside it.
const RECORD_BYTES: usize = 700;

/// Measures the directory with real nodes in this process, beside libp2p's Kademlia in its default configuration.
#[derive(Debug, Parser)]
struct Arguments {
    /// Nodes of each network.
    #[arg(long, default_value_t = 200)]
    nodes: usize,
    /// Look-ups of random names; other kinds are a fixed share of it.
    #[arg(long, default_value_t = 2_000)]
    lookups: usize,
    /// Publications and refreshes measured.
    #[arg(long, default_value_t = 100)]
    publications: usize,
    /// Nodes of the product that join at a time.
    #[arg(long, default_value_t = 8, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    joins_at_once: usize,
    /// Also writes everything measured to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Measures the product only.
    #[arg(long)]
    alone: bool,
    /// Leaves out what is measured over delayed QUIC.
    #[arg(long)]
    no_round_trips: bool,
    /// Lets the nodes live under churn for so many seconds instead, over QUIC on loopback: one dies a second.
    #[arg(long)]
    soak: Option<u64>,
    /// Shows where a node's memory goes instead.
    #[arg(long)]
    anatomy: bool,
    /// That over QUIC on loopback, not over the memory transport.
    #[arg(long, requires = "anatomy")]
    quic: bool,
    /// Chooses who asks for what.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // Silent unless RUST_LOG asks: hundreds of nodes would say a lot.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if arguments.anatomy {
        let carrier = if arguments.quic { Carrier::Quic } else { Carrier::Memory };
        return anatomy::print(arguments.nodes, carrier).await;
    }
    if let Some(secs) = arguments.soak {
        let (second, time) = (Duration::from_secs(1), Duration::from_secs(secs));
        let plan = soak::Plan { nodes: arguments.nodes, time, churn: second, lookups: second / 10, seed: arguments.seed };
        eprintln!("{:?}", soak::run(plan).await?);
        return Ok(());
    }
    let plan = Plan {
        nodes: arguments.nodes,
        joins_at_once: arguments.joins_at_once,
        lookups: arguments.lookups,
        publications: arguments.publications,
        seed: arguments.seed,
    };
    let ours = counts::<Product>(plan, RECORD_BYTES).await?;
    let record_bytes = ours.record_bytes as usize;
    let theirs = if arguments.alone { None } else { Some(counts::<Plain>(plan, record_bytes).await?) };
    let carrier = Carrier::DelayedQuic(Delay(Duration::from_millis(50)));
    let (mut our_times, mut their_times) = (None, None);
    if !arguments.no_round_trips {
        our_times = Some(round_trips::<Product>(plan, &carrier, record_bytes).await?);
        if !arguments.alone {
            their_times = Some(round_trips::<Plain>(plan, &carrier, record_bytes).await?);
        }
    }
    let result = table::Result { seed: plan.seed, ours, theirs, our_times, their_times };
    result.print();
    if let Some(path) = arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&result)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use halloo_simulator::directory::calibration::{Real, compare};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "minutes; run by scripts/test --long"]
    async fn two_hundred_real_nodes_ask_as_often_as_simulated_ones() {
        // As many at a time as two cores bear: all are to have joined within a minute. Then those look around again that knew fewer than eight nodes when they began to serve, and those are more
        // of real nodes, whose handshakes take time.
        let plan = Plan { nodes: 200, joins_at_once: 8, lookups: 2_000, publications: 100, seed: 1 };
        let ours = counts::<Product>(plan, RECORD_BYTES).await.expect("the network runs");
        let result = table::Result { seed: plan.seed, ours, theirs: None, our_times: None, their_times: None };
        let real = Real::read(&serde_json::to_vec(&result).expect("JSON")).expect("what the bench writes");
        halloo_simulator::prepare();
        let rows = compare(1, &real);
        assert!(rows.len() > 5, "{rows:?}");
        rows.iter().for_each(|row| eprintln!("{}: {}, {}", row.name, row.reach, row.seen));
        assert!(rows.iter().all(|row| row.is_met), "{rows:#?}");
    }
}
