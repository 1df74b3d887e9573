//! The directory in a simulated network: production state machines, real signatures, virtual time.
//!
//! Goal: look-ups are right and few, records survive deaths and liars, publications are acknowledged only when kept, and the same seed
//! gives the same run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::fixture::{self, EntrySpec, START, User};
use crate::network::{Behaviour, Network};
use halloo_protocol::directory::DirectoryRecord;
use halloo_protocol::kademlia::{Event, FindOptions, FindOutcome, Mode, StoreRefusal};

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

#[test]
fn networks_of_one_and_two_and_their_clients_work() {
    let mut network = Network::grown(13, 1);
    let (alice, bob) = (network.authority.user(1), network.authority.user(2));
    let record = alice.record(1, &network.trust);
    let report = network.publish(0, record.clone());
    assert!(report.is_accepted, "the only node is the only replica: {report:?}");
    let client = network.join_as(false);
    assert_eq!(network.find(client, alice.key(), FIRST).record(), Some(&record));
    assert_eq!(network.find(client, bob.key(), FIRST).outcome, FindOutcome::Absent);
    let second = bob.record(1, &network.trust);
    let report = network.publish(client, second.clone());
    assert!(report.is_accepted && report.accepted == 1, "{report:?}");
    // A second server takes its share of what is there, and carries on alone.
    network.join();
    network.run_for(Duration::from_secs(120));
    network.freeze(0);
    for node in [1, 2] {
        let mode = if node == 1 { FIRST } else { FindOptions::default() };
        assert_eq!(network.find(node, alice.key(), mode).record(), Some(&record), "node {node}");
        assert_eq!(network.find(node, bob.key(), mode).record(), Some(&second), "node {node}");
    }
}

#[test]
fn a_node_that_comes_back_is_a_neighbour_again() {
    let mut network = Network::grown(14, 20);
    let users = populate(&mut network, 10);
    for node in 1..9 {
        network.freeze(node);
    }
    network.run_for(Duration::from_secs(90));
    for (user, record) in &users {
        assert_eq!(network.find(15, user.key(), FIRST).record(), Some(record));
    }
    for node in 1..9 {
        network.thaw(node);
    }
    network.run_for(Duration::from_secs(120));
    // Near enough to its neighbours that these have brought records back to it.
    assert!(placement(&network, &users) >= 95, "{}%", placement(&network, &users));
}

#[test]
fn what_a_node_kept_while_it_was_away_is_believed_only_if_nobody_has_newer() {
    let mut network = Network::grown(15, 30);
    let (alice, bob) = (network.authority.user(1), network.authority.user(2));
    let (old, bobs) = (alice.record(1, &network.trust), bob.record(1, &network.trust));
    assert!(network.publish(0, old.clone()).is_accepted && network.publish(0, bobs.clone()).is_accepted);
    let away: Vec<usize> = network.closest(&alice.key(), 9).into_iter().filter(|node| *node != 0).take(5).collect();
    away.iter().for_each(|node| network.freeze(*node));
    network.run_for(Duration::from_secs(60));
    let new = alice.record(2, &network.trust);
    assert!(network.publish(0, new.clone()).is_accepted);
    for node in &away {
        network.restart(*node, 0);
        assert_eq!(network.nodes[*node].directory.held(&alice.key()), Some(&old), "it has what was on its disk");
        // Others may have brought it what is newer before it has joined.
        network.joined(*node);
        for asker in (0..30).filter(|asker| !away.contains(asker)) {
            assert_eq!(network.find(asker, alice.key(), FIRST).record(), Some(&new), "node {asker}, while {node} is just back");
        }
        assert_eq!(network.find(*node, alice.key(), FindOptions::default()).record(), Some(&new), "its own copy is no better");
    }
    network.run_for(Duration::from_secs(60));
    for node in &away {
        assert_eq!(network.nodes[*node].directory.held(&alice.key()), Some(&new), "compared by now");
    }
    let stale = StoreRefusal::Stale.code();
    let refused = network.nodes.iter().map(|node| node.directory.counters().refused.get(&stale).copied().unwrap_or(0));
    let shown: u64 = refused.sum();
    assert!(
        shown <= away.len() as u64,
        "what is old was shown {shown} times: once each is enough, seven others hold what is newer"
    );
    // All who hold bob's record were away: it is what there is.
    let holders = network.holders(&bob.key(), bobs.content_hash());
    holders.iter().for_each(|node| network.freeze(*node));
    let through = (0..30).find(|node| !holders.contains(node)).expect("22 others");
    holders.iter().for_each(|node| network.restart(*node, through));
    holders.iter().for_each(|node| network.joined(*node));
    assert_eq!(network.find(through, bob.key(), FIRST).record(), Some(&bobs));
}

#[test]
fn a_node_that_is_no_replica_any_longer_is_believed_only_if_nobody_has_newer() {
    let mut network = Network::grown(16, 24);
    for number in 1..=8 {
        let user = network.authority.user(number);
        let (old, new) = (user.record(1, &network.trust), user.record(2, &network.trust));
        let away: Vec<usize> = network.closest(&user.key(), 8).into_iter().filter(|node| *node != 0).take(4).collect();
        away.iter().for_each(|node| network.freeze(*node));
        network.run_for(Duration::from_secs(60));
        assert!(network.publish(0, old.clone()).is_accepted);
        away.iter().for_each(|node| network.thaw(*node));
        network.run_for(Duration::from_secs(120));
        // Four that stood in for those that were away aren't asked to hold this.
        assert!(network.publish(0, new.clone()).is_accepted);
        network.nodes[0].directory.unpublish(&user.key());
        assert!(!network.holders(&user.key(), old.content_hash()).is_empty(), "user {number}: some hold the old one");
        // Whoever knows that it is none says so at once; whoever doesn't is told by those with whom it held the old one.
        for asker in 0..24 {
            let found = network.find(asker, user.key(), FIRST);
            assert!(found.record() == Some(&new), "user {number}, node {asker}: the old one");
        }
        network.run_for(Duration::from_secs(5));
        for asker in 0..24 {
            let found = network.find(asker, user.key(), FindOptions::default());
            assert!(found.record() == Some(&new), "user {number}, node {asker}: the old one, after 5 s");
        }
    }
}

/// Not by those that stood in for replicas that were away either, nor by the publisher, if it was one of them.
#[test]
fn what_a_publication_replaced_is_held_by_nobody_that_its_publisher_knows() {
    let mut network = Network::grown(18, 24);
    network.run_for(Duration::from_secs(700));
    let mut has_stood_in = false;
    for number in 1..=4 {
        let user = network.authority.user(number);
        let [first, old, new] = [1, 2, 3].map(|sequence| user.record(sequence, &network.trust));
        assert!(network.publish(0, first).is_accepted);
        let away: Vec<usize> = network.closest(&user.key(), 3).into_iter().filter(|node| *node != 0).take(2).collect();
        away.iter().for_each(|node| network.freeze(*node));
        network.run_for(Duration::from_secs(60));
        assert!(network.publish(0, old.clone()).is_accepted);
        away.iter().for_each(|node| network.restart(*node, 0));
        away.iter().for_each(|node| network.joined(*node));
        network.run_for(Duration::from_secs(30));
        let holders = network.holders(&user.key(), old.content_hash());
        assert!(holders.len() > 8 && away.iter().all(|node| holders.contains(node)), "user {number}: {away:?}, {holders:?}");
        has_stood_in |= holders.contains(&0) && !network.closest(&user.key(), 8).contains(&0);
        assert!(network.publish(0, new.clone()).is_accepted);
        network.nodes[0].directory.unpublish(&user.key());
        network.run_for(Duration::from_secs(60));
        let behind = network.holders(&user.key(), old.content_hash());
        assert!(behind.is_empty(), "user {number}: {behind:?} weren't told, {away:?} had come back");
    }
    assert!(has_stood_in, "the publisher was one of them at least once");
}

/// A device joins those of its user, and meanwhile people look for the user: whoever holds no more than the newcomer's entry must not pass it off
/// as the whole.
#[test]
fn a_device_that_joins_hides_no_other_of_its_user() {
    for publisher_serves in [true, false] {
        let mut network = Network::grown(17, 6);
        let users: Vec<User> = (1..=40).map(|number| network.authority.user(number)).collect();
        for user in &users {
            assert!(network.publish(0, user.record(1, &network.trust)).is_accepted);
        }
        let newcomer = network.join_as(publisher_serves);
        if !publisher_serves {
            // It is a replica too, and hasn't been given the records yet.
            network.join();
        }
        for (number, user) in users.iter().enumerate() {
            let more = user.record_of(&user.device(1), EntrySpec::sequence(1), &network.trust);
            let query = network.start_publish(newcomer, more);
            network.run_for(Duration::from_millis(4 * number as u64));
            let asker = 1 + number % 5;
            let found = network.find(asker, user.key(), FIRST);
            let record = found.record().expect("it was published long ago");
            assert!(record.entry(&user.device(0).key()).is_some(), "user {number}, node {asker}: the first device is hidden");
            network.run_until(|network| network.published(newcomer, query).is_some());
        }
    }
}

#[test]
#[ignore = "long: scripts/test --long"]
fn two_hundred_nodes_and_names() {
    let mut network = Network::grown(200, 200);
    let users = populate(&mut network, 200);
    for is_cold in [false, true] {
        let (mut requests, mut elapsed) = (Vec::new(), Vec::new());
        for (user, record) in &users {
            if is_cold {
                network.disconnect_all();
            }
            let node = network.random(200);
            let result = network.find(node, user.key(), FIRST);
            assert_eq!(result.record(), Some(record), "{:?}", result.outcome);
            requests.push(result.requests);
            elapsed.push(result.elapsed);
        }
        summary(if is_cold { "200 nodes, nothing connected" } else { "200 nodes, neighbours connected" }, requests, elapsed);
    }
    let tables: usize = network.nodes.iter().map(|node| node.directory.table_counts().0).sum();
    println!("proved nodes per table: {}; placed right: {}%", tables / 200, placement(&network, &users));
}

/// Adds up what look-ups cost, for printing.
fn summary(label: &str, mut requests: Vec<u32>, mut elapsed: Vec<Duration>) {
    requests.sort_unstable();
    elapsed.sort_unstable();
    let count = requests.len();
    let mean = f64::from(requests.iter().sum::<u32>()) / count as f64;
    let at = |share: usize| (count * share / 100).min(count - 1);
    println!(
        "{label}: {count} look-ups; requests mean {mean:.2} p95 {}; time p50 {:?} p99 {:?} max {:?}",
        requests[at(95)],
        elapsed[at(50)],
        elapsed[at(99)],
        elapsed[count - 1]
    );
}

#[test]
fn a_name_that_nobody_has_is_absent_and_only_then() {
    let mut network = Network::grown(2, 60);
    populate(&mut network, 5);
    let mut requests = Vec::new();
    let mut elapsed = Vec::new();
    for number in 0..20 {
        let stranger = network.authority.user(5_000 + number);
        let node = network.random(60);
        let result = network.find(node, stranger.key(), FIRST);
        assert_eq!(result.outcome, FindOutcome::Absent);
        assert!(result.is_settled);
        requests.push(result.requests);
        elapsed.push(result.elapsed);
    }
    summary("absent", requests, elapsed);
    // With every other node silent nothing can be known, and isn't claimed.
    for node in 1..60 {
        network.freeze(node);
    }
    let stranger = network.authority.user(5_100);
    let result = network.find(0, stranger.key(), FIRST);
    assert_eq!(result.outcome, FindOutcome::Inconclusive);
}

#[test]
fn records_with_a_living_replica_are_found_when_40_percent_are_dead() {
    let mut network = Network::grown(3, 100);
    let users = populate(&mut network, 60);
    network.disconnect_all();
    let mut frozen = 0;
    while frozen < 40 {
        let node = network.random(100);
        if !matches!(network.nodes[node].behaviour, Behaviour::Silent) {
            network.freeze(node);
            frozen += 1;
        }
    }
    let (mut requests, mut elapsed) = (Vec::new(), Vec::new());
    for (user, record) in &users {
        let mut node = network.random(100);
        while matches!(network.nodes[node].behaviour, Behaviour::Silent) {
            node = network.random(100);
        }
        let is_held = !network.holders(&user.key(), record.content_hash()).is_empty();
        let result = network.find(node, user.key(), FIRST);
        if is_held {
            assert_eq!(result.record(), Some(record), "a living replica has it");
        }
        requests.push(result.requests);
        elapsed.push(result.elapsed);
    }
    summary("40% dead", requests, elapsed);
}

#[test]
fn liars_never_get_a_wrong_answer_accepted() {
    let mut network = Network::grown(4, 80);
    let users = populate(&mut network, 30);
    // The newest record replaces the one that liars keep serving.
    let mut newest = BTreeMap::new();
    let (mut forged, mut expired, mut superseded) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (user, old) in &users {
        let new = user.record(3, &network.trust);
        let node = network.random(80);
        assert!(network.publish(node, new.clone()).is_accepted);
        let device = user.device(0);
        let past = EntrySpec { sequence: 9, issued_at: START.minus_secs(9_000), expires_at: START.minus_secs(1) };
        expired.insert(user.key(), halloo_protocol::wire::encode(&user.unverified(vec![user.entry(&device, past)])));
        // Signed by a key that isn't the device's.
        let mut thief = user.device(0);
        thief.secret = fixture::secret("thief", user.number);
        let mut entry = user.entry(&thief, EntrySpec::sequence(99));
        entry.certificate = device.certificate.clone();
        forged.insert(user.key(), halloo_protocol::wire::encode(&user.unverified(vec![entry])));
        superseded.insert(user.key(), old.to_bytes());
        newest.insert(user.key(), new);
    }
    let foreign = users[0].1.to_bytes();
    let foreign = users[1..].iter().map(|(user, _)| (user.key(), foreign.clone())).collect();
    let lies: Vec<Behaviour> = [forged, expired, superseded, foreign]
        .into_iter()
        .map(|records| Behaviour::Serves(Arc::new(records)))
        .chain([Behaviour::Denies, Behaviour::Invents])
        .collect();
    for liar in 0..24 {
        network.nodes[10 + 2 * liar].behaviour = lies[liar % lies.len()].clone();
    }
    for options in [FIRST, SETTLED] {
        let (mut requests, mut elapsed) = (Vec::new(), Vec::new());
        for (user, old) in &users {
            let node = [0, 1, 3, 5, 7, 9, 70, 75][network.random(8)];
            let result = network.find(node, user.key(), options);
            let honest_lives = network
                .holders(&user.key(), newest[&user.key()].content_hash())
                .iter()
                .any(|holder| matches!(network.nodes[*holder].behaviour, Behaviour::Honest));
            assert!(honest_lives, "the scenario keeps an honest replica");
            match (result.record(), options.mode) {
                (Some(record), Mode::Settled) => assert_eq!(record, &newest[&user.key()]),
                (Some(record), Mode::First) => assert!(record == old || record == &newest[&user.key()]),
                (None, _) => panic!("{:?} though an honest replica lives", result.outcome),
            }
            requests.push(result.requests);
            elapsed.push(result.elapsed);
        }
        summary(&format!("30% liars, {:?}", options.mode), requests, elapsed);
    }
    let refuted: u64 = network.nodes.iter().map(|node| node.directory.counters().invalid_answers).sum();
    println!("answers refuted: {refuted}");
    assert!(refuted > 0);
}

#[test]
fn three_devices_publish_at_once_and_none_is_lost() {
    let mut network = Network::grown(5, 40);
    let user = network.authority.user(7);
    let devices: Vec<_> = (0..3).map(|number| user.device(number)).collect();
    let queries: Vec<_> = devices
        .iter()
        .enumerate()
        .map(|(index, device)| {
            let record = user.record_of(device, EntrySpec::sequence(1), &network.trust);
            (10 * index, network.start_publish(10 * index, record))
        })
        .collect();
    network.run_until(|network| queries.iter().all(|(node, query)| network.published(*node, *query).is_some()));
    for (node, query) in &queries {
        assert!(network.published(*node, *query).expect("ended").is_accepted);
    }
    network.run_for(Duration::from_secs(60));
    let result = network.find(35, user.key(), SETTLED);
    let record = result.record().expect("found");
    assert_eq!(record.entries().count(), 3, "one record, three entries");
    assert!(result.is_settled);
    let holders = network.holders(&user.key(), record.content_hash()).len();
    let any = network.nodes.iter().filter(|node| node.directory.held(&user.key()).is_some()).count();
    assert!(holders >= 8 && holders == any, "the replicas have converged: {holders} of {any}");
    assert_eq!(result.agreeing, result.replicas);
    assert!(
        network.nodes[0].events.iter().any(|event| matches!(event, Event::OwnRecordMerged { .. }))
            || network.nodes[10].events.iter().any(|event| matches!(event, Event::OwnRecordMerged { .. })),
        "publishers learn of each other"
    );
}

/// Seconds until all records have eight living replicas.
fn repair_time(network: &mut Network, users: &[(User, DirectoryRecord)]) -> u64 {
    let start = network.elapsed;
    let is_whole = |network: &Network, (user, record): &(User, DirectoryRecord)| {
        network.holders(&user.key(), record.content_hash()).len() >= 8
    };
    while !users.iter().all(|user| is_whole(network, user)) {
        network.run_for(Duration::from_secs(1));
        assert!((network.elapsed - start).as_secs() < 600, "not whole after ten minutes");
    }
    (network.elapsed - start).as_secs()
}

/// Share of the eight closest living nodes that hold what they should, in percent.
fn placement(network: &Network, users: &[(User, DirectoryRecord)]) -> usize {
    let held = |(user, record): &(User, DirectoryRecord)| {
        let holders = network.holders(&user.key(), record.content_hash());
        network.closest(&user.key(), 8).iter().filter(|node| holders.contains(node)).count()
    };
    users.iter().map(held).sum::<usize>() * 100 / (users.len() * 8)
}

#[test]
fn repair_brings_records_back_to_eight_replicas() {
    let mut network = Network::grown(6, 80);
    let users = populate(&mut network, 60);
    let mut frozen = 0;
    while frozen < 16 {
        // All but the first, over which others will join.
        let node = 1 + network.random(79);
        if !matches!(network.nodes[node].behaviour, Behaviour::Silent) {
            network.freeze(node);
            frozen += 1;
        }
    }
    let requests = network.requests;
    let time = repair_time(&mut network, &users);
    println!("20% dead: whole again after {time} s, {} requests meanwhile", network.requests - requests);
    assert!(time <= 90, "{time} s");
    network.run_for(Duration::from_secs(120));
    println!("placed right: {}%", placement(&network, &users));
    assert!(placement(&network, &users) >= 95);
    // Who joins is given what it should hold.
    for _ in 0..8 {
        network.join();
    }
    network.run_for(Duration::from_secs(120));
    println!("placed right two minutes after 8 joined: {}%", placement(&network, &users));
    assert!(placement(&network, &users) >= 95);
}

#[test]
fn a_publication_counts_only_when_replicas_acknowledge() {
    let mut network = Network::grown(7, 30);
    let user = network.authority.user(1);
    let record = user.record(1, &network.trust);
    assert!(network.publish(3, record.clone()).is_accepted);
    // A revoked user is refused by everybody at once, and what was held is dropped.
    let list = network.authority.revoke(&user);
    network.trust.apply_revocations(&list).expect("a good list");
    let now = network.now();
    let trust = network.trust.clone();
    for node in 0..30 {
        network.nodes[node].directory.handle_trust_changed(now, &trust);
        network.drain(node);
    }
    assert!(network.holders(&user.key(), record.content_hash()).is_empty());
    let report = network.publish(3, record.clone());
    assert!(!report.is_accepted);
    assert!(report.refused.len() <= 9, "asking everybody else is pointless: {report:?}");
    // And with nobody there it isn't accepted either.
    for node in 0..30 {
        if node != 3 {
            network.freeze(node);
        }
    }
    let other = network.authority.user(2).record(1, &network.trust);
    let report = network.publish(3, other);
    assert!(!report.is_accepted, "{report:?}");
}

#[test]
fn a_device_restored_from_a_backup_learns_its_newer_sequence() {
    let mut network = Network::grown(8, 30);
    let user = network.authority.user(1);
    assert!(network.publish(3, user.record(50, &network.trust)).is_accepted);
    network.nodes[3].directory.unpublish(&user.key());
    network.publish(4, user.record(20, &network.trust));
    let merged = network.nodes[4].events.iter().find_map(|event| match event {
        Event::OwnRecordMerged { record } => record.entries().next().map(|parts| parts.entry().sequence),
        _ => None,
    });
    assert_eq!(merged, Some(50));
    let found = network.find(20, user.key(), SETTLED);
    let sequences: Vec<_> = found.record().expect("found").entries().map(|parts| parts.entry().sequence).collect();
    assert_eq!(sequences, [50], "the older one displaced nothing");
}

#[test]
fn a_lease_reaches_every_replica_in_one_small_request_each() {
    let mut network = Network::grown(9, 30);
    let user = network.authority.user(1);
    let device = user.device(0);
    let record = user.record(1, &network.trust);
    assert!(network.publish(3, record.clone()).is_accepted);
    let now = network.now();
    let lease = user.lease(&device, &record, 1, now.unix);
    let sent = network.requests;
    network.nodes[3].directory.renew_lease(now, user.key(), None, lease);
    network.drain(3);
    network.run_for(Duration::from_secs(1));
    let report = network.nodes[3].events.iter().find_map(|event| match event {
        Event::LeaseRenewed { report, .. } => Some(*report),
        _ => None,
    });
    let report = report.expect("renewed");
    assert_eq!((report.renewed, report.stored, report.failed), (report.asked, 0, 0));
    assert!(network.requests - sent <= 8);
    let found = network.find(20, user.key(), FIRST);
    let parts = found.record().expect("found").entry(&device.key()).expect("the device");
    assert_eq!(parts.reachability(now.unix), halloo_protocol::directory::Reachability::Direct);
}

#[test]
fn a_replica_that_is_gone_at_a_renewal_is_replaced_and_the_others_are_left_alone() {
    let mut network = Network::grown(9, 30);
    let user = network.authority.user(1);
    let record = user.record(1, &network.trust);
    assert!(network.publish(3, record.clone()).is_accepted);
    let gone = network.closest(&user.key(), 8).into_iter().find(|node| *node != 3).expect("eight");
    network.freeze(gone);
    let stores = |network: &Network| network.nodes[3].directory.counters().sent.get(&0x0012).copied().unwrap_or(0);
    let before = stores(&network);
    let now = network.now();
    let lease = user.lease(&user.device(0), &record, 1, now.unix);
    network.nodes[3].directory.renew_lease(now, user.key(), None, lease);
    network.drain(3);
    network.run_for(Duration::from_secs(60));
    let published = network.nodes[3].events.iter().rev().find_map(|event| match event {
        Event::Published { report, .. } => Some(report.clone()),
        _ => None,
    });
    let report = published.expect("published again");
    assert!(report.is_accepted && report.accepted == 8, "{report:?}");
    assert!((1..=2).contains(&(stores(&network) - before)), "{} stores", stores(&network) - before);
    let living = network.closest(&user.key(), 9).into_iter().filter(|node| *node != gone);
    for replica in living.filter(|node| *node != 3) {
        assert!(network.nodes[replica].directory.held(&user.key()).is_some(), "node {replica} holds it");
    }
}

#[test]
fn a_settled_answer_brings_the_newest_lease() {
    let mut network = Network::grown(15, 20);
    let user = network.authority.user(1);
    let device = user.device(0);
    let record = user.record(1, &network.trust);
    assert!(network.publish(3, record.clone()).is_accepted);
    // A lease that reached one replica only.
    let key = user.key();
    let lucky = network.closest(&key, 1)[0];
    let now = network.now();
    let lease = user.lease(&device, &record, 1, now.unix);
    let renewal = halloo_protocol::kademlia::RenewLease::new(key, None, &lease);
    let source = halloo_protocol::kademlia::RequestSource { device: network.nodes[3].chain.device, network_group: None };
    let request = halloo_protocol::kademlia::Request::RenewLease(Box::new(renewal));
    let trust = network.trust.clone();
    network.nodes[lucky].directory.handle_request(now, &trust, source, request);
    let asker = (0..20).find(|node| network.nodes[*node].directory.held(&key).is_none()).expect("eight hold it");
    let result = network.find(asker, key, SETTLED);
    let parts = result.record().expect("found").entry(&device.key()).expect("the device");
    assert_eq!(parts.reachability(now.unix), halloo_protocol::directory::Reachability::Direct);
    assert_eq!(result.agreeing, result.replicas, "leases apart they agree");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut network = Network::grown(seed, 25);
        populate(&mut network, 5);
        network.freeze(7);
        network.run_for(Duration::from_secs(120));
        (network.trace, network.requests)
    };
    assert_eq!(run(10), run(10));
    assert_ne!(run(10).0, run(11).0);
}

#[test]
fn what_was_held_survives_a_restart_if_it_still_holds() {
    use halloo_protocol::kademlia::{Config, Directory, LocalNode};
    let mut network = Network::grown(12, 12);
    let users = populate(&mut network, 6);
    let list = network.authority.revoke(&users[0].0);
    network.trust.apply_revocations(&list).expect("a good list");
    let node = &network.nodes[2];
    let local = LocalNode { device: node.chain.device, place: node.chain.place, is_serving: true };
    let mut restarted = Directory::new(Config::default(), local, [1; 32], network.now().instant);
    let mut disk = node.disk.clone();
    let damaged = halloo_protocol::directory::RecordKey([9; 32]);
    disk.insert(damaged, vec![1, 2, 3]);
    restarted.restore(network.now(), &network.trust, disk.clone());
    for (user, record) in &users {
        let was_kept = disk.contains_key(&user.key());
        let is_good = user.number != users[0].0.number;
        assert_eq!(restarted.held(&user.key()) == Some(record), was_kept && is_good);
    }
    let mut forgotten = Vec::new();
    while let Some(action) = restarted.poll_action() {
        if let halloo_protocol::kademlia::Action::Forget { key } = action {
            forgotten.push(key);
        }
    }
    assert!(forgotten.contains(&damaged));
}
