//! Goal: whoever lies is refused, by name, and nobody else notices. Method: a peer that speaks the protocol and holds a
//! really enrolled identity sends one wrong thing at a time to a daemon; an honest user asks that daemon afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use halloo_protocol::directory::{DeviceEntry, EntryParts, Place, RECORD_BYTES_MAX};
use halloo_protocol::identity::{Tombstone, UserChain};
use halloo_protocol::kademlia::{FindNode, FindRecord, Nodes, RecordAnswer, Store, StoreAnswer, StoreOutcome, StoreRefusal};
use halloo_protocol::key::IdentityKey;
use halloo_protocol::node::Roles;
use halloo_protocol::wire::{self, Extensions, FRAME_BYTES_MAX, Frame, FrameKind, Message, Signed};
use halloo_tests::attacker::{
    Attacker, Forger, deny_everything, key, now, record_key, server_descriptor, stranger_hello, unknown_authority_chain,
};
use halloo_tests::raw_stream::send_raw;
use halloo_tests::{Network, User, eventually, seed};
use rand::Rng;

/// Kinds of requests a node of this version doesn't know.
const UNKNOWN_REQUEST: FrameKind = FrameKind(0x3ffe);
const UNKNOWN_NOTICE: FrameKind = FrameKind(FrameKind::NOTICE | 0x3ffe);

/// What a false place needs to show: that it is nowhere, also not a moment later.
const GOSSIP_TIME: Duration = Duration::from_secs(3);

fn network() -> Network {
    Network::of(["alice", "bob", "mallory"])
}

/// The network's honest users still find each other, through the daemon that was attacked.
#[track_caller]
fn others_are_served(network: &Network) {
    let [alice, bob, ..] = network.users.as_slice() else { panic!("alice and bob are there") };
    for (from, to) in [(alice, bob), (bob, alice)] {
        let found = from.cli(["resolve", &to.username, "--fresh"]).ok();
        assert_eq!(found["identity"], to.identity.as_str());
    }
    assert!(network.authority.api().get("/v1/status").is_ok(), "the attacked daemon lives");
}

/// Mallory's daemon is killed, and an attacker goes on under her identity.
fn mallory(network: &mut Network) -> Forger {
    let forger = Forger::of_user(network, &network.users[2], 1);
    network.users[2].kill();
    forger
}

#[track_caller]
fn refused(outcome: Result<(), (StoreRefusal, String)>, expected: StoreRefusal) {
    match outcome {
        Err((reason, detail)) => assert_eq!(reason, expected, "{detail}"),
        Ok(()) => panic!("the record was accepted, {expected:?} was due"),
    }
}

#[test]
fn records_that_are_not_in_order_are_refused_by_name() {
    let mut network = network();
    let forger = mallory(&mut network);
    let alice_record = record_key(&network, &network.users[0]);
    let mut attacker = Attacker::connect(&network.bootstrap(), &forger.device, &forger.hello(None));
    attacker.store(&forger.record(forger.parts(forger.entry(10)))).expect("in order in all parts");

    let other = key(0xbad);
    refused(attacker.store(&forger.record(forger.parts_signed_by(forger.entry(11), &other))), StoreRefusal::Invalid);
    let mut stolen = forger.record(forger.parts(forger.entry(12)));
    stolen.user = attacker.find_record(alice_record).expect("alice's record").user;
    refused(attacker.store(&stolen), StoreRefusal::Invalid);

    let expired = DeviceEntry { issued_at: now().minus_secs(7_200), expires_at: now().minus_secs(3_600), ..forger.entry(13) };
    refused(attacker.store(&forger.record(without_lease(forger.parts(expired)))), StoreRefusal::Expired);
    let future = DeviceEntry { issued_at: now().plus_secs(3_600), expires_at: now().plus_secs(7_200), ..forger.entry(14) };
    refused(attacker.store(&forger.record(without_lease(forger.parts(future)))), StoreRefusal::Future);
    let older = forger.record(forger.parts(forger.entry(9)));
    refused(attacker.store(&older), StoreRefusal::Stale);
    an_unknown_authoritys_users_are_nobody(&network, &mut attacker);

    let held = attacker.find_record(record_key(&network, &network.users[2])).expect("mallory's record");
    let sequence = held.entries.iter().find(|parts| parts.device() == forger.device_key()).map(|parts| parts.entry().sequence);
    assert_eq!(sequence, Some(10), "what was in order is what is held");
    others_are_served(&network);
}

fn without_lease(parts: EntryParts) -> EntryParts {
    EntryParts { lease: None, ..parts }
}

fn an_unknown_authoritys_users_are_nobody(network: &Network, attacker: &mut Attacker) {
    let identity = key(0xeee);
    let user = unknown_authority_chain("alice", &identity);
    let impostor = Forger { identity, user, device: key(2) };
    refused(attacker.store(&impostor.record(impostor.parts(impostor.entry(1)))), StoreRefusal::UnknownAuthority);
    let mut other = Attacker::connect(&network.bootstrap(), &impostor.device, &impostor.hello(None));
    other.idle(Duration::from_millis(500));
    let peers = network.authority.api().get("/v1/peers").expect("peers");
    let peer = halloo::address::peer_id(&impostor.device_key()).expect("a key").to_string();
    let known = peers["peers"].as_array().into_iter().flatten().find(|entry| entry["peer_id"] == peer.as_str());
    let known = known.unwrap_or_else(|| panic!("the impostor is connected: {peers}"));
    assert!(known["username"].is_null(), "an unknown authority's word names nobody: {known}");
}

#[test]
fn a_device_that_its_user_removed_stays_removed() {
    let mut network = network();
    let forger = mallory(&mut network);
    let second = Forger::new(&network.users[2].phrase, forger.user.clone(), 2);
    let mut attacker = Attacker::connect(&network.bootstrap(), &forger.device, &forger.hello(None));
    attacker.store(&forger.record(forger.parts(forger.entry(1)))).expect("in order");
    let until = forger.certificate().unverified().not_after;
    let tombstone = Tombstone { device: forger.device_key(), removed_at: now(), until, extensions: Extensions::none() };
    let mut removal = second.record(second.parts(second.entry(1)));
    removal.tombstones.push(Signed::sign(tombstone.clone(), &forger.identity));
    attacker.store(&removal).expect("a removal is in order");

    let again = attacker.store(&forger.record(forger.parts(forger.entry(2))));
    assert!(again.is_err(), "the removed device came back");
    let mut both = forger.record(forger.parts(forger.entry(3)));
    both.tombstones.push(Signed::sign(tombstone.clone(), &forger.identity));
    refused(attacker.store(&both), StoreRefusal::Revoked);
    let mut forged = forger.record(forger.parts(forger.entry(4)));
    forged.tombstones.push(Signed::sign(Tombstone { device: second.device_key(), ..tombstone }, &key(0xbad)));
    refused(attacker.store(&forged), StoreRefusal::Invalid);

    let held = attacker.find_record(record_key(&network, &network.users[2])).expect("mallory's record");
    let devices: Vec<_> = held.entries.iter().map(EntryParts::device).collect();
    assert!(devices.contains(&second.device_key()) && !devices.contains(&forger.device_key()), "{devices:?}");
    others_are_served(&network);
}

#[test]
fn what_is_too_large_is_refused_whole() {
    let mut network = network();
    let forger = mallory(&mut network);
    let mut attacker = Attacker::connect(&network.bootstrap(), &forger.device, &forger.hello(None));
    let record = forger.record(forger.parts(forger.entry(1)));

    let mut large = record.clone();
    large.extensions = Extensions::none().with(1, vec![7; RECORD_BYTES_MAX]);
    refused(attacker.store(&large), StoreRefusal::TooLarge);
    let swollen = DeviceEntry { extensions: Extensions::none().with(1, vec![7; 20 * 1024]), ..forger.entry(2) };
    refused(attacker.store(&forger.record(forger.parts(swollen))), StoreRefusal::TooLarge);
    let mut many = record.clone();
    many.entries = (0..17).map(|_| forger.parts(forger.entry(3))).collect();
    let refusal = attacker.store(&many).expect_err("17 devices are refused");
    assert!([StoreRefusal::Invalid, StoreRefusal::TooLarge].contains(&refusal.0), "{refusal:?}");
    // As large as frames get: four times a record.
    let filled = FRAME_BYTES_MAX - 64;
    refused(attacker.store_bytes(vec![0xff; filled]), StoreRefusal::TooLarge);
    refused(attacker.store_bytes(Vec::new()), StoreRefusal::Invalid);
    attacker.store(&record).expect("the same connection still stores what is in order");
    others_are_served(&network);
}

#[test]
fn one_peer_does_not_fill_the_store() {
    const KEYS: u64 = 10_000;
    const BATCH: u64 = 250;
    let network = network();
    let before = held_records(&network);
    let mut attacker = Attacker::connect(&network.bootstrap(), &key(1), &stranger_hello());
    let (mut accepted, mut full, mut busy) = (0, 0, 0);
    for first in (0..KEYS).step_by(BATCH as usize) {
        let ids: Vec<u32> = (first..first + BATCH)
            .map(|number| {
                let record = nobodys_record(0x1_0000 + number);
                attacker.send_request(Store::KIND, wire::encode(&Store { record, extensions: Extensions::none() }))
            })
            .collect();
        for id in ids {
            let answer = attacker.wait_answer(id);
            match answer.parse::<StoreAnswer>().map(|answer| answer.outcome) {
                Ok(StoreOutcome::Accepted) => accepted += 1,
                Ok(StoreOutcome::Refused { reason: StoreRefusal::QuotaPeer, .. }) => full += 1,
                Ok(StoreOutcome::Refused { reason, detail }) => panic!("refused for {reason:?}: {detail}"),
                Err(_) => {
                    assert_eq!(answer.kind, FrameKind::BUSY, "{answer:?}");
                    busy += 1;
                }
            }
        }
    }
    let held = held_records(&network) - before;
    eprintln!("{KEYS} keys from one peer: {accepted} accepted, {full} beyond its share, {busy} too fast; {held} held");
    assert!(accepted <= 256, "one client's share is 256 keys");
    assert!(held <= 256, "{held}");
    assert_eq!(accepted + full + busy, KEYS);
    others_are_served(&network);
}

fn held_records(network: &Network) -> u64 {
    let status = network.authority.api().get("/v1/status").expect("status");
    status["directory"]["records"].as_u64().expect("a number")
}

/// A record in order, of an identity without a name: such names cost nothing.
fn nobodys_record(number: u64) -> Vec<u8> {
    let identity = key(number);
    let user = UserChain::Key(IdentityKey(identity.public()));
    let forger = Forger { identity, user, device: key(number + 0x1000_0000) };
    wire::encode(&forger.record(forger.parts(forger.entry(1))))
}

#[test]
fn a_place_that_the_certificate_does_not_give_is_nobodys() {
    let mut network = network();
    let forger = mallory(&mut network);
    let victim = record_key(&network, &network.users[0]);
    // Right on top of alice's record: where a Sybil would like to be.
    let false_place = Place(victim.0);
    let liar = forger.hello(Some(server_descriptor(forger.device_key(), false_place)));
    let mut attacker = Attacker::connect(&network.bootstrap(), &forger.device, &liar);
    let mut witness = Attacker::connect(&network.bootstrap(), &key(77), &stranger_hello());
    for _ in 0..3 {
        attacker.idle(GOSSIP_TIME / 3);
        let named = nodes_near(&mut witness, victim.0);
        assert!(named.closer.iter().all(|node| node.device != forger.device_key()), "the liar is named to others: {named:?}");
        assert!(named.closer.iter().all(|node| node.place != false_place), "the false place is: {named:?}");
    }
    others_are_served(&network);

    // The same node with its true place is taken: what was refused was the lie.
    let honest = Forger::new(&network.users[2].phrase, forger.user.clone(), 3);
    let true_place = honest.place();
    let hello = honest.hello(Some(server_descriptor(honest.device_key(), true_place)));
    let mut server = Attacker::connect(&network.bootstrap(), &honest.device, &hello);
    eventually(Duration::from_secs(10), "the honest node is named", || {
        server.serve_for(Duration::from_millis(100));
        let named = nodes_near(&mut witness, true_place.0);
        let found = named.closer.iter().any(|node| node.device == honest.device_key() && node.place == true_place);
        if found { Ok(()) } else { Err(format!("{named:?}")) }
    });
}

fn nodes_near(witness: &mut Attacker, target: [u8; 32]) -> Nodes {
    let question = FindNode { target, want: 16, extensions: Extensions::none() };
    witness.ask(&question).unwrap_or_else(|frame| panic!("no nodes but {frame:?}"))
}

#[test]
fn a_false_no_such_record_is_not_believed() {
    let mut network = network();
    let forger = mallory(&mut network);
    let hello = forger.hello(Some(server_descriptor(forger.device_key(), forger.place())));
    let [alice, bob, ..] = network.users.as_slice() else { panic!("alice and bob are there") };
    // A certified server that says "absent" to everything, and knows nobody.
    let mut liar = Attacker::connect(&alice.addresses()[0], &forger.device, &hello);
    let is_over = AtomicBool::new(false);
    let lies = std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..10 {
                look_up(alice, bob);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        liar.serve(|| is_over.load(Ordering::Relaxed), deny_everything)
    });
    eprintln!("the liar was asked {lies} times");
    assert!(lies > 0, "the liar was never asked, so nothing is shown");
    let unknown = alice.cli(["resolve", "nobody@example", "--fresh"]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
}

fn look_up(from: &User, to: &User) {
    let found = from.api().get(&format!("/v1/users/{}?fresh=true&settled=true", to.username));
    let found = found.unwrap_or_else(|error| panic!("{} is there and was not found: {error}", to.username));
    assert_eq!(found["identity"], to.identity.as_str());
}

#[test]
fn what_is_not_understood_costs_one_frame_and_not_the_stream() {
    let mut rng = seed::rng();
    let network = network();
    let mut attacker = Attacker::connect(&network.bootstrap(), &key(5), &stranger_hello());
    let answer = attacker.ask_raw(UNKNOWN_REQUEST, vec![1, 2, 3]);
    assert_eq!(answer.kind, FrameKind::UNSUPPORTED);
    attacker.send_bytes(wire::encode(&Frame { kind: UNKNOWN_NOTICE, id: 0, body: vec![1; 100] }));
    let answer = attacker.ask_raw(FindRecord::KIND, vec![0xff; 500]);
    assert_eq!(answer.kind, FrameKind::UNSUPPORTED, "a body that can't be read is answered, not ignored");
    // An answer nobody asked for.
    attacker.send_bytes(wire::encode(&Frame { kind: RecordAnswer::KIND, id: 12_345, body: vec![] }));
    for length in [1, 2, 7, 64, 1_000, FRAME_BYTES_MAX] {
        let mut garbage = vec![0; length];
        rng.fill_bytes(&mut garbage);
        attacker.send_bytes(garbage);
    }
    let key = record_key(&network, &network.users[0]);
    assert!(attacker.find_record(key).is_some(), "the same stream still answers");
    others_are_served(&network);
}

#[test]
fn a_flood_of_requests_makes_the_flooder_wait_and_nobody_else() {
    const REQUESTS: usize = 5_000;
    let network = network();
    let key = record_key(&network, &network.users[0]);
    let mut attacker = Attacker::connect(&network.bootstrap(), &halloo_tests::attacker::key(6), &stranger_hello());
    let question = wire::encode(&FindRecord { key, have_hash: None, want: 0, extensions: Extensions::none() });
    let mut busy = 0;
    for _ in 0..REQUESTS / 250 {
        let ids: Vec<u32> = (0..250).map(|_| attacker.send_request(FindRecord::KIND, question.clone())).collect();
        busy += ids.into_iter().map(|id| attacker.wait_answer(id)).filter(|answer| answer.kind == FrameKind::BUSY).count();
    }
    eprintln!("{busy} of {REQUESTS} requests of one peer were told to come back later");
    assert!(busy > 0, "one peer may not ask without end");
    others_are_served(&network);
}

#[test]
fn roles_claimed_without_a_certificate_are_not_believed() {
    let network = network();
    let device = key(8);
    let device_key = halloo_protocol::key::DeviceKey(device.public());
    let mut descriptor = server_descriptor(device_key, Place([0; 32]));
    descriptor.roles = Roles::DIRECTORY.union(Roles::GATEWAY).union(Roles::RELAY);
    let mut hello = stranger_hello();
    hello.descriptor = Some(descriptor);
    let mut attacker = Attacker::connect(&network.bootstrap(), &device, &hello);
    attacker.idle(GOSSIP_TIME / 3);
    let named = nodes_near(&mut attacker, [0; 32]);
    assert!(!named.closer.is_empty(), "the honest nodes are named");
    let mut witness = Attacker::connect(&network.bootstrap(), &key(9), &stranger_hello());
    let named = nodes_near(&mut witness, [0; 32]);
    assert!(named.closer.iter().all(|node| node.device != device_key), "{named:?}");
    others_are_served(&network);
}

#[test]
fn lies_about_a_frames_length_cost_the_liar_the_stream() {
    const PATIENCE: Duration = Duration::from_secs(5);
    let network = network();
    let address = network.bootstrap();
    // Ten times a record, announced and sent: nothing so long is ever collected.
    let ten_times = 10 * RECORD_BYTES_MAX;
    let mut oversized = varint(ten_times as u64);
    oversized.resize(oversized.len() + ten_times, 7);
    let huge = varint(u64::MAX);
    let malformed = vec![0x80; 16];
    for (name, bytes) in [("ten times a record", oversized), ("2^64 - 1 bytes", huge), ("no number at all", malformed)] {
        let ended = send_raw(&address, &bytes, PATIENCE);
        assert!(ended.is_some(), "{name}: the stream was kept");
    }
    // A frame that never comes to its end keeps its stream, and costs what has come.
    let unfinished = [varint(1_000), vec![1; 10]].concat();
    assert!(send_raw(&address, &unfinished, Duration::from_secs(1)).is_none());
    others_are_served(&network);
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
