//! A phone that lies frozen for three weeks: nothing but its keeper's word keeps it findable. Production state machines, real signatures, virtual time.

use std::time::Duration;

use halloo_protocol::directory::{
    DirectoryRecord, Helper, KEEPER_LEASE_SECS_MAX, KEEPER_RENEW_AFTER_SECS, Lease, Reachability, RecordKey,
};
use halloo_protocol::kademlia::{FindOptions, Mode};
use halloo_protocol::key::{DeviceKey, SecretKey};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Signed};

use crate::fixture::{EntrySpec, User};
use crate::network::Network;

const SETTLED: FindOptions = FindOptions { mode: Mode::Settled, is_remote_only: true };
const DAY: Duration = Duration::from_secs(86_400);
const SERVERS: usize = 12;

const RENEW_EVERY: Duration = Duration::from_secs(KEEPER_RENEW_AFTER_SECS);

/// A record whose only device names a keeper, and has said nothing of its own for longer than a device may.
fn kept_record(network: &Network, user: &User, keeper: DeviceKey) -> DirectoryRecord {
    let device = user.device(0);
    let now = network.now().unix;
    let spec = EntrySpec { sequence: 1, issued_at: now, expires_at: now.plus_secs(30 * 86_400) };
    let mut parts = user.entry(&device, spec);
    let mut entry = parts.entry().clone();
    entry.keepers = vec![Helper { device: keeper, addresses: Vec::new() }];
    parts.entry = Signed::sign(entry, &device.secret);
    user.unverified(vec![parts]).verify(now, &network.trust).expect("a good record")
}

/// The keeper's word, as it brings it to the replicas.
fn vouch(network: &mut Network, keeper: usize, key: RecordKey, record: &DirectoryRecord, secret: &SecretKey) {
    let entry = record.entries().next().expect("one device");
    let now = network.now();
    let lease = Lease {
        device: entry.device(),
        entry_hash: entry.entry.body_hash(),
        number: now.unix.0,
        reachability: Reachability::Push,
        issued_at: now.unix,
        until: now.unix.plus_secs(KEEPER_LEASE_SECS_MAX),
        extensions: Extensions::none(),
    };
    let me = DeviceKey(secret.public());
    network.nodes[keeper].directory.renew_lease(now, key, Some(me), Signed::sign(lease, secret));
    network.drain(keeper);
}

fn reachability(network: &mut Network, asker: usize, user: &User) -> Option<Reachability> {
    let found = network.find(asker, user.key(), SETTLED);
    let now: UnixTime = network.now().unix;
    found.record().and_then(|record| record.entry(&user.device(0).key())).map(|parts| parts.reachability(now))
}

#[test]
fn a_phone_frozen_for_four_days_is_found_by_its_keepers_word_alone() {
    frozen_for(4);
}

#[test]
#[ignore = "long: scripts/test --long"]
fn a_phone_frozen_for_three_weeks_is_found_by_its_keepers_word_alone() {
    frozen_for(21);
}

fn frozen_for(days: u32) {
    let mut network = Network::grown(21, SERVERS);
    let (bob, forgotten) = (network.authority.user(1), network.authority.user(2));
    let keeper = SERVERS - 1;
    let secret = network.authority.user(100_000 + keeper as u64).device(0).secret;
    // Two phones, each with a node of its own, which is no server; both name the keeper, who goes on to vouch for the first alone.
    let records = [&bob, &forgotten].map(|user| kept_record(&network, user, DeviceKey(secret.public())));
    for record in &records {
        let phone = network.join_as(false);
        assert!(network.publish(phone, record.clone()).is_accepted);
        network.freeze(phone);
    }
    vouch(&mut network, keeper, bob.key(), &records[0], &secret);
    vouch(&mut network, keeper, forgotten.key(), &records[1], &secret);
    network.run_for(Duration::from_secs(60));
    for user in [&bob, &forgotten] {
        assert_eq!(reachability(&mut network, 3, user), Some(Reachability::Push));
    }

    network.upkeep_every = Duration::from_secs(1_800);
    let (begin, mut renew_at, mut renewals) = (network.elapsed, network.elapsed + RENEW_EVERY, 0);
    // Replicas go meanwhile: one of the nearest after each third of the time.
    for third in 1..=3 {
        let until = begin + days * DAY * third / 3;
        while renew_at <= until {
            network.run_for(renew_at.saturating_sub(network.elapsed));
            vouch(&mut network, keeper, bob.key(), &records[0], &secret);
            renewals += 1;
            renew_at += RENEW_EVERY;
        }
        network.run_for(until.saturating_sub(network.elapsed));
        let gone = network.closest(&bob.key(), 8).into_iter().find(|node| ![0, 3, keeper].contains(node)).expect("eight");
        network.freeze(gone);
    }
    network.run_for(Duration::from_secs(3_600));
    println!("{renewals} renewals");
    let askers: Vec<usize> = network.closest(&bob.key(), SERVERS);
    for asker in askers {
        assert_eq!(reachability(&mut network, asker, &bob), Some(Reachability::Push), "as node {asker} sees it");
    }
    // Without a keeper's word nobody claims that the phone could be woken.
    assert_ne!(reachability(&mut network, 3, &forgotten), Some(Reachability::Push));
}
