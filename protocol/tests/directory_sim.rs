//! The directory in a simulated network: production state machines, real signatures, virtual time.
//!
//! Goal: look-ups are right and few, records survive deaths and liars, publications are acknowledged only when kept, and the same seed
//! gives the same run.

#[path = "sim/fixture.rs"]
mod fixture;
#[path = "sim/network.rs"]
mod network;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fixture::{EntrySpec, START, User};
use halloo_protocol::directory::DirectoryRecord;
use halloo_protocol::kademlia::{Event, FindOptions, FindOutcome, Mode};
use network::{Behaviour, Network};

const FIRST: FindOptions = FindOptions { mode: Mode::First, is_remote_only: true };
const SETTLED: FindOptions = FindOptions { mode: Mode::Settled, is_remote_only: true };

/// Publishes the records of `count` users from random nodes.
fn populate(network: &mut Network, count: u64) -> Vec<(User, DirectoryRecord)> {
    let mut users = Vec::new();
    let mut requests = 0;
    for number in 0..count {
        let user = network.authority.user(number);
        let record = user.record(2, &network.trust);
        let node = network.random(network.nodes.len());
        let report = network.publish(node, record.clone());
        assert!(report.is_accepted, "{report:?}");
        requests += report.requests;
        users.push((user, record));
    }
    println!("publish: {:.2} requests each", f64::from(requests) / count as f64);
    users
}

#[test]
fn every_look_up_is_right_and_takes_few_requests() {
    let mut network = Network::grown(1, 100);
    let users = populate(&mut network, 50);
    for is_cold in [false, true] {
        let mut requests = Vec::new();
        let mut elapsed = Vec::new();
        for round in 0..200 {
            if is_cold {
                network.disconnect_all();
            }
            let (user, record) = &users[round % users.len()];
            let node = network.random(100);
            let result = network.find(node, user.key(), FIRST);
            assert_eq!(result.record(), Some(record), "{:?}", result.outcome);
            requests.push(result.requests);
            elapsed.push(result.elapsed);
        }
        requests.sort_unstable();
        elapsed.sort_unstable();
        let mean = f64::from(requests.iter().sum::<u32>()) / 200.0;
        println!(
            "cold {is_cold}: requests mean {mean:.2} p95 {}; time p50 {:?} p99 {:?}",
            requests[190], elapsed[100], elapsed[198]
        );
        assert!(mean < 3.0);
    }
}
