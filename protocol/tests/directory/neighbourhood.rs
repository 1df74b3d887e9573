//! A node knows its own neighbourhood, and others hardly: what is far it leaves to others, though it knows but few of those; and it keeps knowing its neighbourhood.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use halloo_protocol::directory::{DirectoryRecord, Place, RecordKey};
use halloo_protocol::identity::{TrustStore, VerifiedChain};
use halloo_protocol::kademlia::{
    Action, Answer, Config, Connected, Directory, DisconnectReason, EXTENSION_PASSED, FindOptions, LocalNode, Mode, Nodes,
    REPLICAS, Reply, Request, RequestSource, Store, StoreOutcome, StoreRefusal, SyncItem, SyncOffer,
};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::node::Roles;
use halloo_protocol::time::Now;
use halloo_protocol::wire::Extensions;

use crate::fixture::{self, Authority, START, User};

/// Nodes of the network, one a user.
pub(crate) const NODES: u64 = 400;

pub(crate) struct Lone {
    pub(crate) directory: Directory,
    pub(crate) now: Now,
    pub(crate) trust: TrustStore,
    /// One of those it knows.
    pub(crate) from: RequestSource,
    device: DeviceKey,
    pub(crate) place: Place,
    pub(crate) neighbours: Vec<VerifiedChain>,
    /// All others of the network, the nearest first.
    pub(crate) others: Vec<VerifiedChain>,
    /// Of those it knows, and of all.
    known: Vec<Place>,
    places: Vec<Place>,
    users: Vec<User>,
}

/// A node that has met its eight neighbours of 400, and nobody else.
pub(crate) fn lone(config: Config) -> Lone {
    let (authority, now) = (Authority::new(1), Now { instant: Instant::now(), unix: START });
    let trust = authority.trust();
    let users: Vec<User> = (0..NODES).map(|number| authority.user(number)).collect();
    let mut chains: Vec<_> = users.iter().map(|user| user.chain_of(&user.device(0), &trust)).collect();
    let places = chains.iter().map(|chain| chain.place.expect("enrolled")).collect();
    let own = chains[0].clone();
    let place = own.place.expect("enrolled");
    chains.sort_by_key(|chain| place.distance(&chain.place.expect("enrolled")));
    let local = LocalNode { device: own.device, place: Some(place), is_serving: true };
    let others = chains.split_off(1);
    let neighbours = others[..REPLICAS].to_vec();
    let known = neighbours.iter().map(|chain| chain.place.expect("enrolled")).collect();
    let from = RequestSource { device: neighbours[0].device, network_group: None };
    let directory = Directory::new(config, local, [1; 32], now.instant);
    let mut lone = Lone { directory, now, trust, from, device: own.device, place, neighbours, others, known, places, users };
    (0..REPLICAS).for_each(|neighbour| lone.greet(neighbour));
    lone
}

impl Lone {
    fn greet(&mut self, neighbour: usize) {
        self.meet(&self.neighbours[neighbour].clone(), neighbour);
    }

    pub(crate) fn meet(&mut self, chain: &VerifiedChain, number: usize) {
        let descriptor = fixture::descriptor(chain, number, Roles::DIRECTORY);
        self.directory.handle_hello(self.now, chain, descriptor).expect("a true place");
    }

    /// Lets time pass; whom it asks meanwhile who is near itself, each of whom says that there is nobody else.
    fn asked_around(&mut self, time: Duration) -> BTreeSet<DeviceKey> {
        let (end, mut asked) = (self.now.instant + time, BTreeSet::new());
        while self.now.instant < end {
            self.now.instant += Duration::from_millis(100);
            self.directory.handle_timeout(self.now);
            while let Some(action) = self.directory.poll_action() {
                let Action::Send { to, id, request: Request::FindNode(question) } = action else { continue };
                if Place(question.target) == self.place {
                    asked.insert(to.device);
                }
                let answer = Nodes { closer: Vec::new(), extensions: Extensions::none() };
                self.directory.handle_answer(self.now, &self.trust, id, Ok(Answer::Nodes(answer)));
            }
        }
        asked
    }

    /// The key of a user's record.
    pub(crate) fn key_of(&self, user: usize) -> RecordKey {
        self.users[user].key()
    }

    /// A user's record.
    pub(crate) fn record_of(&self, user: usize) -> DirectoryRecord {
        self.users[user].record(1, &self.trust)
    }

    fn far_user(&self) -> &User {
        self.users.iter().max_by_key(|user| user.key().distance(&self.place)).expect("users")
    }

    /// The key farthest off.
    pub(crate) fn far_key(&self) -> RecordKey {
        self.far_user().key()
    }

    /// The record under it.
    pub(crate) fn far_record(&self) -> Vec<u8> {
        self.far_user().record(1, &self.trust).to_bytes()
    }

    /// How many of `places` are nearer.
    fn rank(&self, key: &RecordKey, places: &[Place]) -> usize {
        places.iter().filter(|place| key.distance(place) < key.distance(&self.place)).count()
    }

    pub(crate) fn ask(&mut self, request: Request) -> Answer {
        match self.directory.handle_request(self.now, &self.trust, self.from, request) {
            Reply::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// Whether it wants what it is offered; if not, it says that it doesn't hold it either.
    fn wants(&mut self, key: RecordKey) -> bool {
        let items = vec![SyncItem { key: RecordKey([0; 32]), hash: [0; 32] }, SyncItem { key, hash: [1; 32] }];
        let Answer::SyncWant(want) = self.ask(Request::SyncOffer(SyncOffer { items, extensions: Extensions::none() })) else {
            panic!("another answer")
        };
        let passed = want.extensions.find(EXTENSION_PASSED).map_or(0, |bytes| bytes[0]) & 2 != 0;
        assert_ne!(want.keys.contains(&key), passed, "held, wanted, or passed");
        !passed
    }

    fn stores(&mut self, user: usize) -> Result<(), StoreRefusal> {
        let record = self.users[user].record(1, &self.trust).to_bytes();
        match self.ask(Request::Store(Store { record, extensions: Extensions::none() })) {
            Answer::Store(answer) => match answer.outcome {
                StoreOutcome::Accepted => Ok(()),
                StoreOutcome::Refused { reason, .. } => Err(reason),
            },
            other => panic!("{other:?}"),
        }
    }
}

fn check(config: Config) {
    let mut lone = lone(config);
    let keys: Vec<_> = lone.users.iter().map(User::key).collect();
    let (mut near, mut far, mut refused, mut taken) = (0, 0, 0, 0);
    for (user, key) in keys.into_iter().enumerate() {
        let (rank, known) = (lone.rank(&key, &lone.places), lone.rank(&key, &lone.known));
        // Those offered something count half as many more, in case some have died unseen.
        if rank < REPLICAS || known < REPLICAS / 2 + 2 {
            near += usize::from(rank < REPLICAS);
            assert!(lone.wants(key), "it is number {rank} of all, and number {known} of those it knows");
            if rank < REPLICAS {
                assert_eq!(lone.stores(user), Ok(()));
            }
        } else if rank >= 8 * REPLICAS {
            far += 1;
            assert!(!lone.wants(key), "{rank} nodes are nearer");
            // A publisher that asks for a store knows it better than one who offers: only if all that are known are nearer.
            let stored = if known < REPLICAS { Ok(()) } else { Err(StoreRefusal::NotResponsible) };
            refused += usize::from(stored.is_err());
            taken += usize::from(stored.is_ok());
            // It takes some of one peer's, and not all.
            if stored.is_err() || taken <= 8 {
                assert_eq!(lone.stores(user), stored, "{rank} nodes are nearer, {known} of those it knows");
            }
        }
    }
    println!("{near} near, {far} far records, {refused} refused");
    assert!(near >= 4 && far >= 100 && refused > 0, "{near} near and {far} far records, {refused} refused show little");
}

#[test]
fn what_is_far_is_neither_wanted_nor_taken() {
    check(Config::default());
    check(Config { is_lab: true, ..Config::default() });
}

/// What a node whose neighbours are unknown can't judge it takes: nobody else may.
#[test]
fn who_knows_few_takes_what_it_is_offered() {
    let mut lone = lone(Config::default());
    let local = LocalNode { device: lone.from.device, place: Some(lone.place), is_serving: true };
    lone.directory = Directory::new(Config::default(), local, [1; 32], lone.now.instant);
    for user in 0..16 {
        let key = lone.users[user].key();
        assert!(lone.wants(key));
        assert_eq!(lone.stores(user), Ok(()));
    }
}

#[test]
fn who_begins_to_serve_meets_its_neighbours_and_meets_them_again_when_one_dies() {
    let mut lone = lone(Config::default());
    let all: BTreeSet<DeviceKey> = lone.neighbours.iter().map(|chain| chain.device).collect();
    let serving = LocalNode { device: lone.device, place: Some(lone.place), is_serving: true };
    lone.directory.set_local(lone.now, LocalNode { is_serving: false, ..serving });
    assert!(lone.asked_around(Duration::from_secs(10)).is_empty(), "who doesn't serve has no neighbourhood");
    lone.directory.set_local(lone.now, serving);
    assert_eq!(lone.asked_around(Duration::from_secs(10)), all);
    let dead = lone.neighbours[3].device;
    lone.directory.handle_disconnected(lone.now, &dead, DisconnectReason::Lost);
    let living: BTreeSet<_> = all.iter().copied().filter(|device| *device != dead).collect();
    assert!(lone.asked_around(Duration::from_secs(40)).is_superset(&living));
    // Who comes and goes makes it look no more often.
    for _ in 0..5 {
        lone.greet(3);
        lone.directory.handle_disconnected(lone.now, &dead, DisconnectReason::Left);
        assert!(lone.asked_around(Duration::from_secs(40)).is_empty());
    }
}

/// How many are asked within half a second of a look-up's start while nobody answers, after `rounds` timers each of which was looked at a second too late.
fn asked_by_who_is_late(rounds: usize) -> usize {
    let mut lone = lone(Config::default());
    for neighbour in &lone.neighbours {
        let connected = Connected { device: neighbour.device, rtt: Some(Duration::from_millis(10)), is_relayed: false };
        lone.directory.handle_connected(lone.now, connected);
    }
    // Who knows nobody near asks several at once.
    for user in 0..2 {
        let near = lone.strangers(&lone.key_of(user))[..2].to_vec();
        lone.directory.add_hearsay(lone.now, near);
    }
    let key = lone.users[0].key();
    let options = FindOptions { mode: Mode::First, is_remote_only: true };
    lone.directory.find_record(lone.now, key, options);
    for _ in 0..rounds {
        let due = lone.directory.poll_timeout().expect("a look-up waits");
        lone.now.instant = due + Duration::from_secs(1);
        lone.directory.handle_timeout(lone.now);
    }
    while lone.directory.poll_action().is_some() {}
    lone.directory.find_record(lone.now, lone.users[1].key(), options);
    let (end, mut asked) = (lone.now.instant + Duration::from_millis(500), 0);
    while lone.now.instant < end {
        let sent = std::iter::from_fn(|| lone.directory.poll_action());
        asked += sent.filter(|action| matches!(action, Action::Send { request: Request::FindRecord(find), .. } if find.key == lone.users[1].key())).count();
        lone.now.instant += Duration::from_millis(10);
        if lone.directory.poll_timeout().is_some_and(|due| due <= lone.now.instant) {
            lone.directory.handle_timeout(lone.now);
        }
    }
    asked
}

#[test]
fn who_is_late_itself_does_not_take_that_for_the_silence_of_others() {
    let (usual, once, late) = (asked_by_who_is_late(0), asked_by_who_is_late(1), asked_by_who_is_late(4));
    assert_eq!(late, 1, "it asks one and waits");
    assert!(usual > 1 && once > 1, "{usual} and {once} asked where one is silent");
}
