//! Whole conferences: told stories, and many drawn at random, with signals lost, doubled and reordered.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::network::Network;
use super::*;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn everybody(network: &Network, who: impl IntoIterator<Item = usize>, what: &str) {
    let who: BTreeSet<usize> = who.into_iter().collect();
    for here in &who {
        assert_eq!(network.seen_by(*here), who, "{what}: as {here} sees it");
    }
    network.assert_whole(what);
}

#[test]
fn somebody_added_gets_a_leg_to_everybody() {
    for seed in 0..8 {
        let mut network = Network::new(3, 0.2, seed);
        assert!(network.add(0, 2));
        network.run(secs(60));
        everybody(&network, 0..3, &format!("seed {seed}"));
    }
}

#[test]
fn where_nothing_is_lost_only_the_newcomer_dials() {
    let mut network = Network::new(4, 0.0, 1);
    network.add(0, 2);
    network.run(secs(30));
    let before: Vec<usize> = network.devices.iter().map(|device| device.dials).collect();
    network.add(0, 3);
    network.run(secs(60));
    everybody(&network, 0..4, "added");
    let dials: Vec<usize> = network.devices.iter().zip(before).map(|(device, before)| device.dials - before).collect();
    assert_eq!(dials, [1, 0, 0, 2]);
}

#[test]
fn two_who_add_the_same_person_at_once_have_one_leg_each_with_them() {
    for seed in 0..8 {
        let mut network = Network::new(3, 0.2, seed);
        assert!(network.add(0, 2) && network.add(1, 2));
        network.run(secs(90));
        everybody(&network, 0..3, &format!("seed {seed}"));
    }
}

#[test]
fn two_added_at_once_who_do_not_know_each_other_find_each_other() {
    for seed in 0..8 {
        let mut network = Network::new(4, 0.2, seed);
        assert!(network.add(0, 2) && network.add(1, 3));
        network.run(secs(90));
        everybody(&network, 0..4, &format!("seed {seed}"));
    }
}

#[test]
fn whoever_leaves_comes_back_by_dialling_and_whoever_added_them_may_be_gone() {
    for seed in 0..8 {
        let mut network = Network::new(4, 0.1, seed);
        network.add(0, 2);
        network.run(secs(40));
        network.leave(2);
        network.run(secs(30));
        everybody(&network, 0..2, &format!("seed {seed}, left"));
        assert!(network.seen_by(2).is_empty());
        network.add(1, 3);
        network.run(secs(40));
        network.leave(0);
        network.run(secs(30));
        network.rejoin(2);
        network.run(secs(60));
        everybody(&network, 1..4, &format!("seed {seed}, back"));
    }
}

#[test]
fn the_others_talk_on_when_one_vanishes_and_it_can_be_added_again() {
    for seed in 0..8 {
        let mut network = Network::new(3, 0.1, seed);
        network.add(0, 2);
        network.run(secs(40));
        network.kill(0);
        network.run(secs(90));
        everybody(&network, 1..3, &format!("seed {seed}, gone"));
        network.start_again(0);
        assert!(network.add(2, 0));
        network.run(secs(60));
        everybody(&network, 0..3, &format!("seed {seed}, back"));
    }
}

#[test]
fn eight_take_part_and_a_ninth_does_not() {
    for seed in 0..2 {
        let mut network = Network::new(10, 0.1, seed);
        for other in 2..7 {
            assert!(network.add(other - 2, other));
            network.run(secs(30));
        }
        everybody(&network, 0..7, &format!("seed {seed}, seven"));
        assert!(network.add(0, 7) && network.add(1, 8), "each end has room for one");
        network.run(secs(120));
        network.loss = 0.0;
        network.run(secs(400));
        let present = network.seen_by(0);
        assert_eq!(present.len(), PARTICIPANTS_MAX, "seed {seed}: {present:?}");
        everybody(&network, present, &format!("seed {seed}, eight"));
        assert!(!network.add(0, 9), "seed {seed}: full");
    }
}

/// A minute of people who come, go, come back and vanish; then the network recovers.
fn story(seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let count = rng.random_range(3..=7);
    let mut network = Network::new(count, rng.random_range(0.0..0.35), seed);
    network.delay_ms_max = rng.random_range(50..2_000);
    network.add(0, 2);
    for _ in 0..rng.random_range(2..14) {
        network.run(Duration::from_millis(rng.random_range(0..9_000)));
        let (one, other) = (rng.random_range(0..usize::from(count)), rng.random_range(0..usize::from(count)));
        match rng.random_range(0..10) {
            0..=4 => drop(network.add(one, other)),
            5 | 6 => network.leave(one),
            7 | 8 => network.rejoin(one),
            _ => {
                network.kill(one);
                network.start_again(one);
            }
        }
    }
    network.run(secs(60));
    (network.loss, network.duplicates) = (0.0, 0.0);
    network.run(secs(700));
    network.assert_whole(&format!("seed {seed}"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn all_who_are_present_see_the_same_and_have_one_leg_a_pair(seed in any::<u64>()) {
        story(seed);
    }
}
