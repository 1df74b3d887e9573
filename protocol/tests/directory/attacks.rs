//! What a directory node refuses, one attack a test: a replica alone, and the attacker's own words.

use std::time::{Duration, Instant};

use crate::fixture::{self, Authority, EntrySpec, START, User};
use halloo_protocol::directory::{Place, RECORD_BYTES_MAX, RecordKey};
use halloo_protocol::identity::{Tombstone, TrustStore, UserChain};
use halloo_protocol::kademlia::{
    Action, Answer, Config, Connected, Directory, Event, FindOptions, FindOutcome, FindRecord, LeaseAnswer, LeaseOutcome,
    LocalNode, NetworkGroup, Nodes, RecordAnswer, RecordOutcome, RenewLease, Reply, Request, RequestSource, Store, StoreAnswer,
    StoreOutcome, StoreRefusal,
};
use halloo_protocol::key::{DeviceKey, IdentityKey, PublicKey, hash};
use halloo_protocol::node::{Descriptor, Roles};
use halloo_protocol::time::Now;
use halloo_protocol::wire::{self, DecodeError, Extensions, Frame, Signed};

/// A replica, and the time.
struct Bench {
    authority: Authority,
    trust: TrustStore,
    replica: Directory,
    now: Now,
}

impl Bench {
    fn new() -> Self {
        Self::with_config(Config::default())
    }

    fn with_config(config: Config) -> Self {
        let authority = Authority::new(1);
        let trust = authority.trust();
        let now = Now { instant: Instant::now(), unix: START };
        let local = LocalNode {
            device: DeviceKey(PublicKey([1; 32])),
            place: Some(Place(hash("place of the replica", &[]))),
            is_serving: true,
        };
        Self { authority, trust, replica: Directory::new(config, local, [1; 32], now.instant), now }
    }

    fn pass(&mut self, secs: u64) {
        self.now = Now { instant: self.now.instant + Duration::from_secs(secs), unix: self.now.unix.plus_secs(secs) };
        self.replica.handle_timeout(self.now);
    }

    fn ask_as(&mut self, device: u8, request: Request) -> Reply {
        let source =
            RequestSource { device: DeviceKey(PublicKey([device; 32])), network_group: Some(NetworkGroup(u64::from(device))) };
        self.replica.handle_request(self.now, &self.trust, source, request)
    }

    fn store(&mut self, record: Vec<u8>) -> StoreAnswer {
        match self.ask_as(9, Request::Store(Store { record, extensions: Extensions::none() })) {
            Reply::Answer(Answer::Store(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(&mut self, record: Vec<u8>) -> StoreRefusal {
        let answer = self.store(record);
        match answer.outcome {
            StoreOutcome::Refused { reason, .. } => reason,
            StoreOutcome::Accepted => panic!("accepted"),
        }
    }

    fn find(&mut self, key: RecordKey) -> RecordOutcome {
        let request = Request::FindRecord(FindRecord { key, have_hash: None, want: 8, extensions: Extensions::none() });
        match self.ask_as(8, request) {
            Reply::Answer(Answer::Record(answer)) => answer.outcome,
            other => panic!("{other:?}"),
        }
    }

    /// Another server with a certificate, and its descriptor.
    fn server(&self, number: u64) -> (halloo_protocol::identity::VerifiedChain, Descriptor) {
        let user = self.authority.user(50_000 + number);
        let chain = user.chain_of(&user.device(0), &self.trust);
        let descriptor = fixture::descriptor(&chain, usize::try_from(number).expect("small"), Roles::DIRECTORY);
        (chain, descriptor)
    }

    fn meet(&mut self, number: u64) -> Descriptor {
        let (chain, descriptor) = self.server(number);
        self.replica.handle_hello(self.now, &chain, descriptor.clone()).expect("a true place");
        descriptor
    }
}

fn bytes_with(user: &User, spec: EntrySpec) -> Vec<u8> {
    wire::encode(&user.unverified(vec![user.entry(&user.device(0), spec)]))
}

#[test]
fn a_good_record_is_kept_and_served_as_sent() {
    let mut bench = Bench::new();
    bench.replica.bootstrap(bench.now);
    bench.pass(60);
    let user = bench.authority.user(1);
    let record = user.record(1, &bench.trust);
    let answer = bench.store(record.to_bytes());
    assert_eq!(answer.outcome, StoreOutcome::Accepted);
    assert_eq!((answer.holds, answer.record), (Some(record.content_hash()), None));
    assert_eq!(bench.find(user.key()), RecordOutcome::Found(record.to_bytes()));
    let same = FindRecord { key: user.key(), have_hash: Some(record.state_hash()), want: 8, extensions: Extensions::none() };
    let reply = bench.ask_as(8, Request::FindRecord(same));
    let expected = RecordAnswer { outcome: RecordOutcome::Same, closer: Vec::new(), extensions: Extensions::none() };
    assert_eq!(reply, Reply::Answer(Answer::Record(expected)));
}

#[test]
fn a_record_signed_by_another_key_is_refused() {
    let mut bench = Bench::new();
    let user = bench.authority.user(1);
    let device = user.device(0);
    let mut thief = user.device(0);
    thief.secret = fixture::secret("thief", 1);
    let mut entry = user.entry(&thief, EntrySpec::sequence(9));
    // Its own device under the victim's certificate.
    entry.certificate = device.certificate.clone();
    assert_eq!(bench.refusal(wire::encode(&user.unverified(vec![entry]))), StoreRefusal::Invalid);
    // A certificate signed by another identity.
    let other = bench.authority.user(2);
    let entry = other.entry(&other.device(0), EntrySpec::sequence(9));
    assert_eq!(bench.refusal(wire::encode(&user.unverified(vec![entry]))), StoreRefusal::Invalid);
    // A bit flipped anywhere must not be accepted as something new.
    let good = bytes_with(&user, EntrySpec::sequence(1));
    for position in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[position] ^= 1;
        bench.pass(1);
        assert!(matches!(bench.store(bad).outcome, StoreOutcome::Refused { .. }), "byte {position}");
    }
    assert_eq!(bench.find(user.key()), RecordOutcome::Absent);
}

#[test]
fn a_stranger_to_our_authorities_is_refused() {
    let mut bench = Bench::new();
    let user = Authority::new(2).user(1);
    assert_eq!(bench.refusal(bytes_with(&user, EntrySpec::sequence(1))), StoreRefusal::UnknownAuthority);
}

#[test]
fn a_revoked_user_is_dropped_and_refused() {
    let mut bench = Bench::new();
    let user = bench.authority.user(1);
    bench.store(bytes_with(&user, EntrySpec::sequence(1)));
    let list = bench.authority.revoke(&user);
    bench.trust.apply_revocations(&list).expect("a good list");
    bench.replica.handle_trust_changed(bench.now, &bench.trust);
    assert_eq!(bench.find(user.key()), RecordOutcome::Absent);
    assert_eq!(bench.refusal(bytes_with(&user, EntrySpec::sequence(2))), StoreRefusal::Revoked);
}

#[test]
fn a_removed_device_cannot_come_back() {
    let mut bench = Bench::new();
    let user = bench.authority.user(1);
    let (kept, removed) = (user.device(0), user.device(1));
    let tombstone = Tombstone {
        device: removed.key(),
        removed_at: START,
        until: START.plus_secs(300 * 86_400),
        extensions: Extensions::none(),
    };
    let mut record = user.unverified(vec![user.entry(&kept, EntrySpec::sequence(1))]);
    record.tombstones.push(Signed::sign(tombstone, &user.identity));
    assert_eq!(bench.store(wire::encode(&record)).outcome, StoreOutcome::Accepted);
    let revenant = user.unverified(vec![user.entry(&removed, EntrySpec::sequence(99))]);
    assert_eq!(bench.refusal(wire::encode(&revenant)), StoreRefusal::Stale, "answered with what is held");
    record.entries = revenant.entries;
    assert_eq!(bench.refusal(wire::encode(&record)), StoreRefusal::Revoked);
    let held = bench.replica.held(&user.key()).expect("still there");
    assert_eq!(held.entries().map(|parts| parts.device()).collect::<Vec<_>>(), [kept.key()]);
}

#[test]
fn expired_and_future_records_are_refused_and_held_ones_end() {
    let mut bench = Bench::new();
    let user = bench.authority.user(1);
    let past = EntrySpec { sequence: 1, issued_at: START.minus_secs(900), expires_at: START.minus_secs(1) };
    assert_eq!(bench.refusal(bytes_with(&user, past)), StoreRefusal::Expired);
    let ahead = START.plus_secs(1_000);
    let future = EntrySpec { sequence: 1, issued_at: ahead, expires_at: ahead.plus_secs(60) };
    assert_eq!(bench.refusal(bytes_with(&user, future)), StoreRefusal::Future);
    let short = EntrySpec { sequence: 1, issued_at: START, expires_at: START.plus_secs(300) };
    assert_eq!(bench.store(bytes_with(&user, short)).outcome, StoreOutcome::Accepted);
    bench.pass(400);
    assert_eq!(bench.find(user.key()), RecordOutcome::Absent);
    assert_eq!(bench.replica.store_counts(), (0, 0));
    let mut actions = std::iter::from_fn(|| bench.replica.poll_action());
    assert!(actions.any(|action| action == Action::Forget { key: user.key() }), "gone from disk too");
}

#[test]
fn a_rolled_back_sequence_is_answered_with_what_is_held() {
    let mut bench = Bench::new();
    let user = bench.authority.user(1);
    let newer = user.record(5, &bench.trust);
    bench.store(newer.to_bytes());
    let answer = bench.store(bytes_with(&user, EntrySpec::sequence(4)));
    assert!(matches!(answer.outcome, StoreOutcome::Refused { reason: StoreRefusal::Stale, .. }));
    assert_eq!(answer.record, Some(newer.to_bytes()));
    assert_eq!(bench.find(user.key()), RecordOutcome::Found(newer.to_bytes()));
}

#[test]
fn an_older_holder_of_a_name_does_not_displace_the_newer() {
    let mut bench = Bench::new();
    let (old, new) = (bench.authority.user_with_serial(1, 10), bench.authority.user_with_serial(1, 20));
    assert_eq!(old.key(), new.key());
    let record = new.record(1, &bench.trust);
    bench.store(record.to_bytes());
    assert_eq!(bench.refusal(bytes_with(&old, EntrySpec::sequence(900))), StoreRefusal::Stale);
    assert_eq!(bench.find(new.key()), RecordOutcome::Found(record.to_bytes()));
}

#[test]
fn oversized_records_are_refused_unparsed() {
    let mut bench = Bench::new();
    assert_eq!(bench.refusal(vec![1; RECORD_BYTES_MAX + 1]), StoreRefusal::TooLarge);
    assert_eq!(bench.refusal(vec![1; 3 * RECORD_BYTES_MAX]), StoreRefusal::TooLarge);
    // Ten times the limit doesn't even fit a frame.
    let huge = Store { record: vec![1; 10 * RECORD_BYTES_MAX], extensions: Extensions::none() };
    assert!(matches!(Request::from_frame(&Frame::new(1, &huge)), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn ten_thousand_keys_of_one_peer_find_a_quota() {
    let mut bench = Bench::new();
    let mut refused = 0;
    let mut user = bench.authority.user(1);
    for number in 0..10_000_u64 {
        // One a second: patient enough not to be called busy. Users by key, since those cost an attacker nothing.
        if number % 4 == 0 {
            bench.pass(1);
        }
        user.number = number;
        user.identity = fixture::secret("free identity", number);
        user.chain = UserChain::Key(IdentityKey(user.identity.public()));
        match bench.store(bytes_with(&user, EntrySpec::sequence(1))).outcome {
            StoreOutcome::Accepted => {}
            StoreOutcome::Refused { reason, .. } => {
                assert_eq!(reason, StoreRefusal::QuotaPeer);
                refused += 1;
            }
        }
    }
    assert_eq!((refused, bench.replica.store_counts().0), (10_000 - 256, 256));
    assert_eq!(bench.replica.counters().refused.get(&StoreRefusal::QuotaPeer.code()), Some(&(10_000 - 256)), "counted by reason");
    // Others are still served, the peer's own record among what it keeps is still updated.
    let other = bench.authority.user(7);
    let store = Request::Store(Store { record: bytes_with(&other, EntrySpec::sequence(1)), extensions: Extensions::none() });
    let reply = bench.ask_as(77, store);
    assert!(matches!(reply, Reply::Answer(Answer::Store(StoreAnswer { outcome: StoreOutcome::Accepted, .. }))), "{reply:?}");
}

#[test]
fn a_flood_of_requests_finds_busy_and_others_do_not() {
    let mut bench = Bench::new();
    let request =
        || Request::FindRecord(FindRecord { key: RecordKey([3; 32]), have_hash: None, want: 0, extensions: Extensions::none() });
    let busy = (0..10_000).filter(|_| bench.ask_as(5, request()) == Reply::Busy).count();
    assert!(busy >= 9_000, "{busy}");
    assert_ne!(bench.ask_as(6, request()), Reply::Busy);
    bench.pass(5);
    assert_ne!(bench.ask_as(5, request()), Reply::Busy, "later it is heard again");
}

#[test]
fn a_full_store_keeps_what_is_near() {
    let mut config = Config::default();
    config.store.records = 20;
    let mut bench = Bench::with_config(config);
    let place = bench.replica.local().place.expect("a server");
    for number in 0..100 {
        bench.pass(1);
        let user = bench.authority.user(number);
        bench.store(bytes_with(&user, EntrySpec::sequence(1)));
        assert!(bench.replica.store_counts().0 <= 20);
    }
    let mut keys: Vec<_> = (0..100).map(|number| bench.authority.user(number).key()).collect();
    keys.sort_by_key(|key| key.distance(&place));
    let near = keys[..20].iter().filter(|key| bench.replica.held(key).is_some()).count();
    assert_eq!(near, 20);
    assert!(bench.replica.counters().refused.contains_key(&StoreRefusal::QuotaTotal.code()));
}

#[test]
fn a_record_that_belongs_elsewhere_is_refused_with_closer_nodes() {
    let mut bench = Bench::new();
    for number in 0..60 {
        bench.meet(number);
    }
    let place = bench.replica.local().place.expect("a server");
    let far = (0..1_000).map(|number| bench.authority.user(number)).find(|user| user.key().distance(&place).leading_zeros() == 0);
    let answer = bench.store(bytes_with(&far.expect("half of them"), EntrySpec::sequence(1)));
    assert!(matches!(answer.outcome, StoreOutcome::Refused { reason: StoreRefusal::NotResponsible, .. }), "{:?}", answer.outcome);
    assert_eq!(answer.closer.len(), 16);
}

#[test]
fn a_false_place_is_refused_and_its_teller_known() {
    let mut bench = Bench::new();
    let teller = bench.meet(1);
    let (chain, mut liar) = bench.server(2);
    liar.place = Place([0; 32]);
    let error = bench.replica.handle_hello(bench.now, &chain, liar.clone()).expect_err("the certificate says otherwise");
    assert_eq!((error.device, error.claimed, error.proved), (chain.device, liar.place, chain.place));
    assert!(bench.replica.table().all(|known| known.device == teller.device));
    // Even the truth isn't heard for an hour.
    let (chain, truth) = bench.server(2);
    bench.replica.handle_hello(bench.now, &chain, truth.clone()).expect("not false");
    assert_eq!(bench.replica.table_counts().0, 1);
    bench.pass(3_601);
    bench.replica.handle_hello(bench.now, &chain, truth).expect("not false");
    assert_eq!(bench.replica.table_counts().0, 2);
    // Another's descriptor under one's own chain is no better.
    let (chain, _) = bench.server(3);
    let (_, other) = bench.server(4);
    assert!(bench.replica.handle_hello(bench.now, &chain, other).is_err());
    assert_eq!(bench.replica.counters().false_places, 2);
}

#[test]
fn a_false_absent_of_few_or_of_nobody_known_is_not_believed() {
    let mut bench = Bench::new();
    let deny = |bench: &mut Bench| {
        let key = bench.authority.user(1).key();
        let query = bench.replica.find_record(bench.now, key, FindOptions::default());
        loop {
            match bench.replica.poll_action() {
                Some(Action::Send { id, .. }) => {
                    let absent =
                        RecordAnswer { outcome: RecordOutcome::Absent, closer: Vec::new(), extensions: Extensions::none() };
                    bench.replica.handle_answer(bench.now, &bench.trust, id, Ok(Answer::Record(absent)));
                }
                Some(Action::Event(Event::Found { query: ended, result })) if ended == query => return result.outcome,
                Some(_) => {}
                None => panic!("the query must go on or end"),
            }
        }
    };
    // Nodes whose places nobody has proved: their denial is worth nothing.
    for number in 0..8 {
        let (_, descriptor) = bench.server(number);
        bench.replica.add_hearsay(bench.now, [descriptor]);
    }
    assert_eq!(deny(&mut bench), FindOutcome::Inconclusive);
    for number in 0..8 {
        bench.meet(number);
    }
    assert_eq!(deny(&mut bench), FindOutcome::Absent);
}

#[test]
fn whom_others_know_is_asked_over_open_connections_and_is_hearsay() {
    let mut bench = Bench::new();
    let local = LocalNode {
        device: DeviceKey(PublicKey([1; 32])),
        place: Some(Place(hash("place of the client", &[]))),
        is_serving: false,
    };
    bench.replica.set_local(bench.now, local);
    let teller = bench.meet(1);
    bench.replica.handle_connected(bench.now, Connected { device: teller.device, rtt: None, is_relayed: false });
    bench.pass(3_600);
    let mut asked = Vec::new();
    while let Some(action) = bench.replica.poll_action() {
        if let Action::Send { to, id, request: Request::FindNode(request) } = action {
            assert_eq!(to.device, teller.device, "nobody is dialled for it");
            asked.push((id, request.target));
        }
    }
    let targets: std::collections::BTreeSet<_> = asked.iter().map(|(_, target)| *target).collect();
    // Who has one server to ask walks too: the last question.
    assert_eq!((asked.len(), targets.len()), (6, 6), "a few questions, about other points each");
    let mut answer = |question: usize, numbers: std::ops::Range<u64>| {
        let closer = numbers.map(|number| std::sync::Arc::new(bench.server(number).1)).collect();
        let nodes = Nodes { closer, extensions: Extensions::none() };
        bench.replica.handle_answer(bench.now, &bench.trust, asked[question].0, Ok(Answer::Nodes(nodes)));
        (bench.replica.table_counts(), bench.replica.counters().invalid_answers)
    };
    assert_eq!(answer(0, 10..15), ((1, 5), 0));
    assert_eq!(answer(1, 12..18), ((1, 8), 0), "nobody twice");
    assert_eq!(answer(2, 100..130), ((1, 8), 1), "more than was asked for is no answer");
    assert_eq!(answer(2, 20..22), ((1, 8), 1), "nor is a second one");
}

#[test]
fn extensions_nobody_knows_pass_through_unharmed() {
    let mut bench = Bench::new();
    let user = bench.authority.user(1);
    let mut record = user.unverified(vec![user.entry(&user.device(0), EntrySpec::sequence(1))]);
    record.extensions = Extensions::none().with(0x0777, b"from the future".to_vec());
    let bytes = wire::encode(&record);
    let store = Store { record: bytes.clone(), extensions: Extensions::none().with(0x0123, vec![1]) };
    let received = Request::from_frame(&Frame::new(1, &store)).expect("readable");
    assert!(matches!(
        bench.ask_as(9, received),
        Reply::Answer(Answer::Store(StoreAnswer { outcome: StoreOutcome::Accepted, .. }))
    ));
    assert_eq!(bench.find(user.key()), RecordOutcome::Found(bytes));
}

#[test]
fn a_lease_is_small_taken_and_asks_for_the_record_it_misses() {
    let mut bench = Bench::new();
    let user = bench.authority.user(1);
    let device = user.device(0);
    let record = user.record(1, &bench.trust);
    let lease = user.lease(&device, &record, 1, START);
    let renew = |lease: &_| RenewLease::new(user.key(), None, lease);
    let ask = |bench: &mut Bench, lease| match bench.ask_as(9, Request::RenewLease(Box::new(renew(&lease)))) {
        Reply::Answer(Answer::Lease(answer)) => answer.outcome,
        other => panic!("{other:?}"),
    };
    assert_eq!(ask(&mut bench, lease.clone()), LeaseOutcome::NeedRecord);
    bench.store(record.to_bytes());
    assert_eq!(ask(&mut bench, lease.clone()), LeaseOutcome::Renewed);
    let mut thief = user.device(0);
    thief.secret = fixture::secret("thief", 1);
    let mut forged = lease.unverified().clone();
    forged.number = 9;
    assert_eq!(ask(&mut bench, Signed::sign(forged, &thief.secret)), LeaseOutcome::Refused);
    let mut endless = renew(&lease);
    endless.lease.until = endless.lease.until.plus_secs(100 * 86_400);
    let Reply::Answer(Answer::Lease(answer)) = bench.ask_as(9, Request::RenewLease(Box::new(endless))) else { panic!() };
    assert_eq!(answer.outcome, LeaseOutcome::Refused);
    let there = wire::encode(&Frame::new(1_000, &renew(&lease))).len();
    let back =
        wire::encode(&Frame::new(1_000, &LeaseAnswer { outcome: LeaseOutcome::Renewed, extensions: Extensions::none() })).len();
    println!("lease: {there} bytes there, {back} back; record {} bytes", record.to_bytes().len());
    // What carries it adds some eighty: the frame's, the multiplexer's and the cipher's headers, both ways.
    assert!(there + back <= 112, "{there} + {back}");
    bench.store(user.record(2, &bench.trust).to_bytes());
    assert_eq!(ask(&mut bench, lease), LeaseOutcome::NeedRecord, "a lease for an older entry says nothing");
}

#[test]
fn a_client_serves_nothing() {
    let mut bench = Bench::new();
    let local = LocalNode { is_serving: false, ..*bench.replica.local() };
    bench.replica.set_local(bench.now, local);
    let request =
        Request::FindRecord(FindRecord { key: RecordKey([3; 32]), have_hash: None, want: 0, extensions: Extensions::none() });
    assert_eq!(bench.ask_as(5, request), Reply::Unsupported);
}
