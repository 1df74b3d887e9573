//! Presence under virtual time: delivery, cost, loss of neighbours, carriers. The figures of `scripts/bench presence`, small.

use std::time::Duration;

use halloo_simulator::presence::rows::{self, Measured};
use halloo_simulator::presence::{Graph, Town, TownPlan};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const SEED: u64 = 7;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// 12 contacts each, at most 8 connections.
fn town(seed: u64, people: usize) -> Town {
    let mut town = Town::new(TownPlan::contacts_only(seed, people, 12, 8));
    town.start(secs(3));
    town.network.run_for(secs(20));
    rows::steady(&mut town, secs(1), secs(3), secs(2));
    town
}

fn delivered(measured: &Measured) {
    assert_eq!(measured.lacking, Vec::new(), "seed {SEED}");
    assert_eq!(measured.delivered, measured.owed, "seed {SEED}");
}

#[test]
fn updates_reach_every_contact_and_cost_little_more_than_a_message_each() {
    let mut town = town(SEED, 24);
    assert!((rows::reachable(&town) - 1.0).abs() < f64::EPSILON, "the graph has a way to everybody");
    let busy = rows::steady(&mut town, secs(1), secs(6), secs(3));
    delivered(&busy);
    assert!(busy.messages_per_delivery() <= 1.2, "{}", busy.messages_per_delivery());
    assert!(busy.bytes_per_delivery() <= 350.0, "{}", busy.bytes_per_delivery());
    assert!(busy.hops().0 <= 2.0, "{:?}", busy.hops());
    let quiet = rows::steady(&mut town, secs(600), secs(600), secs(15));
    delivered(&quiet);
    assert!(quiet.messages_per_delivery() <= 2.2, "{}", quiet.messages_per_delivery());
    let links = town.network.running().iter().map(|node| town.network.connections(*node)).sum::<usize>() / 2;
    assert!(rows::exchanges_per_12_s(&quiet, links, secs(615)) <= 1.0);
}

#[test]
fn the_living_are_reached_when_a_fifth_falls_silent_and_silence_is_shown() {
    let mut town = town(SEED, 24);
    let frozen = rows::freeze(&mut town, 0.2, SEED);
    let reachable = rows::reachable(&town);
    let measured = rows::steady(&mut town, secs(1), secs(4), secs(3));
    let reached = (measured.owed - measured.lacking.len() as u64 * 4) as f64 / measured.owed as f64;
    assert!(reached >= reachable - 0.001, "{reached} of {reachable}, seed {SEED}");
    assert!(measured.slowest <= secs(2), "{:?}, seed {SEED}", measured.slowest);
    town.network.run_for(secs(30));
    let (shown, all) = rows::silence_shown(&town, &frozen);
    assert!(shown as f64 >= 0.9 * all as f64, "{shown} of {all}, seed {SEED}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut town = town(seed, 14);
        rows::steady(&mut town, secs(2), secs(4), secs(2));
        (town.network.digest(), town.network.steps())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn carriers_bring_everything_to_phones_that_pass_nothing_on() {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let graph = Graph::random(40, 14, &mut rng);
    let measured = rows::carried(TownPlan::carried(SEED, graph, 4), 39);
    delivered(&measured.all);
    assert!(measured.all.messages_per_delivery() <= 2.3, "{}", measured.all.messages_per_delivery());
    assert!(measured.phone_connections <= 5);
    assert!(measured.phone_messages <= 1.1, "{}", measured.phone_messages);
    assert!(measured.phone_fetch.starts_with("14 of 14"), "{}", measured.phone_fetch);
}

#[test]
fn who_comes_and_goes_is_shown_so() {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let graph = Graph::random(24, 8, &mut rng);
    let churn = rows::Churn { stays: secs(1_200), away: secs(600), silent: 0.5 };
    let seen = rows::churn(TownPlan::carried(SEED, graph, 3), churn, secs(2 * 3_600));
    assert!(seen.changes > 50 && seen.looks > 10_000, "{seen:?}");
    assert!(seen.wrong as f64 <= 0.002 * seen.looks as f64, "{seen:?}, seed {SEED}");
}

#[test]
#[ignore = "half a minute: for `scripts/test --long`; 10,000 people by `scripts/bench presence --only churn --long`"]
fn a_day_of_coming_and_going_is_shown() {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let graph = Graph::random(50, 20, &mut rng);
    let churn = rows::Churn { stays: secs(7_200), away: secs(3_600), silent: 0.5 };
    let plan = TownPlan { is_tacit: true, has_own_jitter: true, ..TownPlan::carried(SEED, graph, 4) };
    let seen = rows::churn(plan, churn, secs(86_400));
    assert!(seen.wrong as f64 <= 0.001 * seen.looks as f64, "{seen:?}, seed {SEED}");
}

#[test]
fn heartbeats_that_are_counted_make_no_difference() {
    let run = |is_tacit| {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let graph = Graph::random(20, 8, &mut rng);
        let churn = rows::Churn { stays: secs(600), away: secs(200), silent: 0.5 };
        let plan = TownPlan { is_tacit, has_own_jitter: true, ..TownPlan::carried(SEED, graph, 4) };
        rows::churn(plan, churn, secs(3_600))
    };
    let (sent, counted) = (run(false), run(true));
    assert!(counted.steps * 2 < sent.steps, "{} and {} events", counted.steps, sent.steps);
    assert_eq!(rows::Churned { steps: 0, ..counted }, rows::Churned { steps: 0, ..sent }, "seed {SEED}");
}
