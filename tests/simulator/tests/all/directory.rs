//! The production directory in the simulator.

#![allow(clippy::print_stdout, reason = "seeds and figures of a run, for whoever repeats it")]

use std::time::Duration;

use halloo_protocol::kademlia::{FindOptions, Mode};
use halloo_simulator::directory::soak::{Soak, soak};
use halloo_simulator::directory::swarm::{Churn, Plan, Swarm};
use halloo_simulator::{Kind, NodeId};

/// Hashes of records, offered to another replica.
const OFFER: Kind = Kind(0x14);

const FIRST: FindOptions = FindOptions { mode: Mode::First, is_remote_only: true };

fn digest_of(seed: u64) -> ([u64; 2], u64) {
    let mut swarm = Swarm::grown(Plan {
        settings: halloo_simulator::Settings { loss: 0.01, ..Default::default() },
        joins_over: Duration::from_secs(30),
        ..Plan::blocked(seed, 24, 0.3)
    });
    swarm.begin_churn(Churn { median: Duration::from_secs(60), ..Churn::default() });
    swarm.run_for(Duration::from_secs(60));
    for _ in 0..20 {
        let (by, owner) = (swarm.random_node(None), swarm.random_node(None));
        swarm.find(by, owner, FIRST);
    }
    (swarm.network.digest(), swarm.network.steps())
}

#[test]
fn the_same_seed_gives_the_same_run_bit_for_bit() {
    println!("seeds 1 and 2");
    halloo_simulator::prepare();
    assert_eq!(digest_of(1), digest_of(1));
    assert_ne!(digest_of(1).0, digest_of(2).0);
}

#[test]
fn a_publication_is_not_followed_by_questions_among_its_replicas() {
    println!("seed 6");
    halloo_simulator::prepare();
    let mut swarm = Swarm::grown(Plan::servers(6, 40));
    swarm.run_for(Duration::from_secs(120));
    let before = swarm.network.traffic();
    for number in 0..8 {
        let report = swarm.publish(NodeId(5 * number));
        assert!(report.accepted >= 8, "{report:?}");
    }
    swarm.run_for(Duration::from_secs(60));
    let offers = swarm.network.traffic().since(&before).messages(OFFER);
    // Each of eight replicas asking seven others would be 448, and more for those that stood in for replicas while the network formed: each replica tells these.
    println!("{offers} offers");
    assert!(offers <= 300, "{offers} offers after 8 publications");
}

#[test]
fn nodes_join_and_find_each_other() {
    join_and_find(3, 60, 0.3);
}

/// Only in optimised builds, as the next: `cargo nextest run --release -p halloo-simulator --run-ignored only`.
#[cfg(not(debug_assertions))]
#[test]
#[ignore = "long: a thousand nodes"]
fn a_thousand_nodes_join_and_find_each_other_though_most_cannot_be_dialled() {
    join_and_find(4, 1_000, 0.9);
}

#[cfg(not(debug_assertions))]
#[test]
#[ignore = "long: ten thousand nodes"]
fn ten_thousand_nodes_join_and_find_each_other() {
    join_and_find(5, 10_000, 0.3);
}

fn join_and_find(seed: u64, nodes: usize, blocked: f64) {
    println!("seed {seed}");
    halloo_simulator::prepare();
    let mut swarm = Swarm::grown(Plan::blocked(seed, nodes, blocked));
    let mut requests = 0;
    for _ in 0..200 {
        let (by, owner) = (swarm.random_node(None), swarm.random_node(None));
        let result = swarm.find(by, owner, FIRST);
        assert!(result.record().is_some(), "{result:?}");
        requests += result.requests;
    }
    println!("requests per look-up: {:.2}; {} events", f64::from(requests) / 200.0, swarm.network.steps());
}

/// Lives of three minutes and a half in the median: neighbourhoods are known by their dead, and publications that stop at the first who answer leave records
/// where nobody looks.
#[test]
fn the_living_are_found_among_short_lives() {
    println!("seed 2");
    halloo_simulator::prepare();
    let second = Duration::from_secs(1);
    let outcome = soak(2, Soak { nodes: 300, time: second * 200, churn: second, lookups: second / 10 });
    println!("{} look-ups, {} deaths, {:?}", outcome.asked, outcome.deaths, outcome.placed);
    assert!(outcome.asked > 1_500 && outcome.placed.names > 1_500, "{outcome:?}");
    assert!(outcome.misses.is_empty(), "{:?}", outcome.misses);
    assert_eq!(outcome.placed.astray, 0, "{:?}", outcome.placed);
}
