//! The production directory in the simulator.

#![allow(clippy::print_stdout, reason = "seeds and figures of a run, for whoever repeats it")]

use std::time::Duration;

use halloo_protocol::kademlia::{FindOptions, Mode};
use halloo_simulator::swarm::{Churn, Plan, Swarm};

const FIRST: FindOptions = FindOptions { mode: Mode::First, is_remote_only: true };

fn digest_of(seed: u64) -> ([u64; 2], u64) {
    let mut swarm = Swarm::grown(Plan {
        settings: halloo_simulator::Settings { loss: 0.01, ..Default::default() },
        ..Plan::blocked(seed, 60, 0.3)
    });
    swarm.begin_churn(Churn { median: Duration::from_secs(300), ..Churn::default() });
    swarm.run_for(Duration::from_secs(300));
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
    assert_ne!(digest_of(1), digest_of(2));
}

/// In an optimised build: `cargo test --release -p halloo-simulator -- --ignored`, or `scripts/test --long`.
#[test]
#[ignore = "long: scripts/test --long"]
fn ten_thousand_nodes_join_and_find_each_other() {
    join_and_find(4, 10_000);
}

#[test]
fn four_hundred_nodes_join_and_find_each_other() {
    join_and_find(3, 400);
}

fn join_and_find(seed: u64, nodes: usize) {
    println!("seed {seed}");
    halloo_simulator::prepare();
    let mut swarm = Swarm::grown(Plan::blocked(seed, nodes, 0.3));
    let mut requests = 0;
    for _ in 0..200 {
        let (by, owner) = (swarm.random_node(None), swarm.random_node(None));
        let result = swarm.find(by, owner, FIRST);
        assert!(result.record().is_some(), "{result:?}");
        requests += result.requests;
    }
    println!("requests per look-up: {:.2}; {} events", f64::from(requests) / 200.0, swarm.network.steps());
}
