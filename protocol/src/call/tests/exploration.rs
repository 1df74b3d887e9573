//! Many orders of events: at random with loss, duplicates and delays; and every order of a small story.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::network::{Conditions, Input, Network, Packet, device};
use crate::call::*;

/// A story drawn from `seed`: people answer, decline, give up, hang up at any time.
fn draw(seed: u64, conditions: Conditions) -> Network {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let count = rng.random_range(1..=3);
    let mut network = Network::new(count, conditions, seed);
    network.auto_media = rng.random_bool(0.8);
    for number in 1..=count {
        let here = network.devices.get_mut(&device(number)).expect("device");
        here.way = [InviteWay::Stream, InviteWay::Relay, InviteWay::Push][rng.random_range(0..3)];
        here.is_busy = rng.random_bool(0.1);
        if rng.random_bool(0.5) {
            network.at(rng.random_range(0.0..3.0), Input::AnswerEarly(number));
        }
        for (input, chance) in [(Input::Answer(number), 0.6), (Input::Decline(number), 0.2), (Input::Unreachable(number), 0.1)] {
            if rng.random_bool(chance) {
                network.at(rng.random_range(0.0..70.0), input);
            }
        }
    }
    if rng.random_bool(0.3) {
        network.at(rng.random_range(0.0..70.0), Input::CallerHangUp);
    }
    if rng.random_bool(0.5) {
        network.at(rng.random_range(90.0..100.0), Input::CallerHangUp);
    }
    network
}

/// After the story: whoever still talks hangs up, and media die where the other end is gone.
fn finish(network: &mut Network, seed: u64) {
    network.run_until(62);
    assert!(!network.is_any_ringing(), "seed {seed}: rings after expiry");
    network.run_until(120);
    for number in 1..=3 {
        network.at(121.0, Input::DeviceHangUp(number));
        network.at(150.0, Input::DeviceMedia(number, false));
    }
    network.at(150.0, Input::CallerMedia(false));
    network.run_until(300);
    assert!(network.is_done(), "seed {seed}: {:?} {:?}", network.caller, network.devices);
    assert!(network.caller_outcomes.len() == 1, "seed {seed}");
}

fn has_talked(outcome: Option<Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Completed | Outcome::Failed))
}

/// What must agree when messages get through.
fn agree(network: &Network, seed: u64) {
    let outcome = network.outcome();
    let answered_by = network.caller.answered_by();
    assert_eq!(has_talked(outcome), answered_by.is_some(), "seed {seed}");
    for (key, here) in &network.devices {
        let there = here.outcomes.first().copied();
        if answered_by == Some(*key) {
            // Where media never run, one end may hang up while the other gives up: each keeps the reason it had first.
            let crossing = !network.auto_media && has_talked(there) && has_talked(outcome);
            assert!(there == outcome || crossing, "seed {seed}: {outcome:?} and {there:?} at the two who talked");
            continue;
        }
        assert!(!has_talked(there), "seed {seed}: {there:?} at a device that isn't the one");
        let fits = match (outcome, there) {
            (_, None | Some(Outcome::Busy | Outcome::NoAnswer)) => true,
            (Some(Outcome::Completed | Outcome::Failed), Some(there)) => {
                matches!(there, Outcome::AnsweredElsewhere | Outcome::Declined)
            }
            (Some(Outcome::Declined), Some(there)) => there == Outcome::Declined,
            (Some(Outcome::Cancelled), Some(there)) => matches!(there, Outcome::Cancelled | Outcome::Declined),
            (Some(Outcome::NoAnswer), Some(there)) => matches!(there, Outcome::Declined | Outcome::Cancelled),
            (_, Some(_)) => true,
        };
        assert!(fits, "seed {seed}: {outcome:?} at the caller, {there:?} at a device");
    }
}

#[test]
fn without_loss_both_ends_tell_the_same_story() {
    let mut told = BTreeSet::new();
    for seed in 0..2_000 {
        let mut network = draw(seed, Conditions { loss: 0.0, duplicates: 0.2, delay_ms_max: 400 });
        finish(&mut network, seed);
        agree(&network, seed);
        told.extend(network.outcome());
    }
    assert!(told.len() >= 6, "every outcome comes up, but that unreachable is rare where everything arrives: {told:?}");
}

#[test]
fn with_heavy_loss_everything_still_ends() {
    for seed in 0..2_000 {
        let mut network = draw(seed, Conditions { loss: 0.4, duplicates: 0.2, delay_ms_max: 3_000 });
        finish(&mut network, seed);
    }
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Deliver(usize),
    Drop(usize),
    Person(usize),
}

const PEOPLE: [Input; 6] =
    [Input::Answer(1), Input::Answer(2), Input::Decline(1), Input::CallerHangUp, Input::DeviceHangUp(1), Input::DeviceHangUp(2)];

/// Explores every order of deliveries, losses and people's acts to `depth`, then lets the network recover.
fn explore(network: &Network, used: u32, depth: u32, leaves: &mut u64, path: &mut Vec<Choice>) {
    if depth == 0 {
        *leaves += 1;
        let mut end = network.clone();
        for (at, _) in &mut end.in_flight {
            *at = end.now;
        }
        finish(&mut end, *leaves);
        return;
    }
    let packets = network.in_flight.len();
    let mut choices: Vec<Choice> = (0..packets).flat_map(|index| [Choice::Deliver(index), Choice::Drop(index)]).collect();
    choices.extend((0..PEOPLE.len()).filter(|index| used & (1 << index) == 0).map(Choice::Person));
    for choice in choices {
        let (mut next, mut next_used) = (network.clone(), used);
        path.push(choice);
        match choice {
            Choice::Deliver(index) => {
                let (_, packet): (_, Packet) = next.in_flight.remove(index);
                next.deliver(packet);
            }
            Choice::Drop(index) => {
                next.in_flight.remove(index);
            }
            Choice::Person(index) => {
                next_used |= 1 << index;
                next.input(PEOPLE[index]);
            }
        }
        explore(&next, next_used, depth - 1, leaves, path);
        path.pop();
    }
}

#[test]
fn every_order_of_a_small_story_ends() {
    for (count, depth, at_least) in [(2, 5, 5_000), (3, 4, 1_000)] {
        let mut network = Network::new(count, Conditions { loss: 0.0, duplicates: 0.0, delay_ms_max: 0 }, 1);
        while let Some((_, packet)) = network.in_flight.pop() {
            network.deliver(packet);
        }
        assert_eq!(network.caller.state(), CallerState::Ringing);
        let mut leaves = 0;
        explore(&network, 0, depth, &mut leaves, &mut Vec::new());
        eprintln!("{count} devices: {leaves} orders of {depth} events");
        assert!(leaves > at_least, "{leaves} orders");
    }
}

/// What can happen next, besides deliveries: people at the caller and at each of three devices.
const ACTS: [Input; 13] = [
    Input::Answer(1),
    Input::Answer(2),
    Input::Answer(3),
    Input::Decline(1),
    Input::Decline(2),
    Input::Decline(3),
    Input::DeviceHangUp(1),
    Input::DeviceHangUp(2),
    Input::DeviceHangUp(3),
    Input::CallerHangUp,
    Input::Unreachable(1),
    Input::Unreachable(2),
    Input::Unreachable(3),
];

/// One step of a schedule: a message arrives, is lost, or arrives and comes once more later; a person acts; or time passes.
#[derive(Clone, Copy, Debug)]
enum Step {
    Deliver(usize),
    Drop(usize),
    Repeat(usize),
    Act(usize),
    Time,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<usize>().prop_map(Step::Deliver),
        2 => any::<usize>().prop_map(Step::Drop),
        2 => any::<usize>().prop_map(Step::Repeat),
        2 => (0..ACTS.len()).prop_map(Step::Act),
        2 => Just(Step::Time),
    ]
}

fn take_step(network: &mut Network, step: Step) {
    let count = network.in_flight.len();
    match step {
        Step::Deliver(index) if count > 0 => {
            let (_, packet) = network.in_flight.remove(index % count);
            network.deliver(packet);
        }
        Step::Drop(index) if count > 0 => {
            network.in_flight.remove(index % count);
        }
        Step::Repeat(index) if count > 0 => {
            let packet = network.in_flight[index % count].1.clone();
            network.deliver(packet);
        }
        Step::Act(index) => network.input(ACTS[index]),
        Step::Time => {
            if let Some(next) = network.next_timeout() {
                network.now = network.now.max(next);
                network.time_passes();
            }
        }
        Step::Deliver(_) | Step::Drop(_) | Step::Repeat(_) => {}
    }
    network.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    /// One caller, three devices, any order: `check` holds at each step (each device rings and ends at most once, at most one is taken, and the
    /// caller says the same one), and afterwards everything comes to an end, whatever was lost.
    #[test]
    fn whatever_the_order_no_device_rings_for_ever_and_one_at_most_is_taken(
        steps in prop::collection::vec(any_step(), 0..60),
        ways in [0usize..3, 0usize..3, 0usize..3],
        busy in 0u8..8,
    ) {
        let mut network = Network::new(3, Conditions { loss: 0.0, duplicates: 0.0, delay_ms_max: 0 }, 1);
        for (number, way) in (1..=3).zip(ways) {
            let here = network.devices.get_mut(&device(number)).expect("device");
            here.way = [InviteWay::Stream, InviteWay::Relay, InviteWay::Push][way];
            here.is_busy = busy & (1 << (number - 1)) != 0 && busy != 7;
        }
        for step in steps {
            take_step(&mut network, step);
        }
        for (at, _) in &mut network.in_flight {
            *at = network.now;
        }
        // The story may have lasted as long as a call rings.
        let rest = network.now - network.start + std::time::Duration::from_secs(62);
        network.run_until(rest.as_secs());
        prop_assert!(!network.is_any_ringing(), "rings after expiry");
        for number in 1..=3 {
            network.input(Input::DeviceHangUp(number));
        }
        network.input(Input::CallerHangUp);
        network.run_until(rest.as_secs() + 120);
        for number in 1..=3 {
            network.input(Input::DeviceMedia(number, false));
        }
        network.input(Input::CallerMedia(false));
        network.run_until(rest.as_secs() + 240);
        prop_assert!(network.is_done(), "{:?} {:?}", network.caller, network.devices);
        prop_assert_eq!(network.caller_outcomes.len(), 1);
    }
}
