//! Where a node's memory goes: what its parts take each by themselves, and how large the pieces are.

use anyhow::Result;
use halloo::store::Store;
use halloo::swarm::{SwarmOptions, build_swarm};
use halloo_bench_directory::authority::Authority;
use libp2p::identity::Keypair;

use crate::allocator;
use crate::empty;
use crate::measure::QUIET;
use crate::meter::Moment;
use crate::overlay::{Carrier, Overlay, Size};
use crate::product::{Product, start_node};

/// Pieces whose askers are told, how many frames of the way to them, and how many ways.
const TRACED_MIN: usize = 1_024;
const WAY_FRAMES: usize = 5;
const WAYS_SHOWN: usize = 30;

fn show(what: &str, count: usize, start: Moment) {
    let used = start.used();
    let each = |bytes: i64| bytes / count as i64 / 1_000;
    println!("{what:<40} {:>8} kB live {:>8} kB resident, each of {count}", each(used.live), each(used.resident));
}

/// Prints it.
#[allow(clippy::print_stdout, reason = "what it is for")]
pub(crate) async fn print(count: usize, carrier: Carrier) -> Result<()> {
    let start = Moment::now();
    let swarms = empty::swarms(count, &carrier).await?;
    show("empty swarm", count, start);
    drop(swarms);
    let start = Moment::now();
    let stores: Vec<Store> = (0..count).map(|_| Store::in_memory()).collect::<Result<_, _>>()?;
    show("database in memory", count, start);
    drop(stores);
    let start = Moment::now();
    let options = SwarmOptions { memory: true, ..SwarmOptions::lab() };
    let swarms: Vec<_> = (0..count).map(|_| build_swarm(Keypair::generate_ed25519(), options)).collect::<Result<_, _>>()?;
    show("a node's swarm", count, start);
    drop(swarms);
    let start = Moment::now();
    let authority = Authority::new();
    let mut nodes = Vec::new();
    for number in 0..count {
        nodes.push(start_node(&authority, number, &carrier, None).await?);
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    show("a node alone", count, start);
    for member in nodes.drain(..) {
        member.node.shutdown().await?;
    }
    let before = allocator::live_by_size();
    let start = Moment::now();
    allocator::trace(TRACED_MIN);
    let network = Product::start(Size { nodes: count, joins_at_once: 8, record_bytes: 0 }, &carrier, &|_| ()).await?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    show("a node in a network", count, start);
    show_sizes(&network, count, &before).await?;
    tokio::time::sleep(QUIET).await;
    show("the same at rest", count, start);
    show_sizes(&network, count, &before).await?;
    show_ways(count);
    network.stop().await;
    Ok(())
}

/// How many connections the nodes have now, and in pieces of which size what they have taken since `before`.
#[allow(clippy::print_stdout, reason = "what it is for")]
async fn show_sizes(network: &Product, count: usize, before: &[i64]) -> Result<()> {
    let connections = network.totals().await?.connections as f64 / count as f64;
    println!("with {connections:.1} connections; by size of allocations, kB a node:");
    for (class, (now, before)) in allocator::live_by_size().iter().zip(before).enumerate() {
        let each = (now - before) / count as i64;
        if each > 2_000 {
            println!("  below {:>10} B: {:>8} kB", 1_u64 << class, each / 1_000);
        }
    }
    Ok(())
}

/// Who has asked for the larger pieces.
#[allow(clippy::print_stdout, reason = "what it is for")]
fn show_ways(count: usize) {
    println!("pieces of at least {TRACED_MIN} bytes, by who asked for them:");
    for (way, bytes, pieces) in allocator::traced(WAY_FRAMES).into_iter().take(WAYS_SHOWN) {
        println!(
            "  {:>6.1} kB in {:.1} pieces a node  {way}",
            bytes as f64 / count as f64 / 1_000.0,
            pieces as f64 / count as f64
        );
    }
}
