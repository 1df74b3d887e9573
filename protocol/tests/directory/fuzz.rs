//! Arbitrary bytes and arbitrary sequences of inputs: nothing panics, nothing grows beyond its bound, every query ends exactly once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::fixture::{self, Authority, START};
use halloo_protocol::directory::{DirectoryRecord, Place, RecordKey};
use halloo_protocol::identity::{TrustStore, VerifiedChain};
use halloo_protocol::kademlia::{
    Action, Answer, Config, Connected, Directory, DisconnectReason, EXTENSION_HEARSAY, EXTENSION_KNOWN, EXTENSION_NEWS, Event,
    Failure, FindListings, FindNode, FindOptions, FindRecord, LeaseAnswer, LeaseOutcome, ListingStored, ListingsFound, LocalNode,
    Mode, NetworkGroup, Nodes, QueryId, RecordAnswer, RecordOutcome, RenewLease, Request, RequestId, RequestSource, Store,
    StoreAnswer, StoreLimits, StoreListing, StoreOutcome, StoreRefusal, SyncItem, SyncOffer, SyncWant,
};
use halloo_protocol::key::{DeviceKey, PublicKey, hash};
use halloo_protocol::linked::PlacedListing;
use halloo_protocol::node::{Descriptor, Roles};
use halloo_protocol::time::Now;
use halloo_protocol::wire::{Extensions, Frame, FrameKind, Signed};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Users and servers made once.
struct World {
    authority: Authority,
    trust: TrustStore,
    records: Vec<DirectoryRecord>,
    leases: Vec<halloo_protocol::wire::Signed<halloo_protocol::directory::Lease>>,
    servers: Vec<(VerifiedChain, Descriptor)>,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let authority = Authority::new(1);
        let trust = authority.trust();
        let (mut records, mut leases) = (Vec::new(), Vec::new());
        for number in 0..12 {
            let user = authority.user(number);
            for sequence in 1..4 {
                let record = user.record(sequence, &trust);
                leases.push(user.lease(&user.device(0), &record, sequence, START));
                records.push(record);
            }
        }
        let server = |number: u64| {
            let user = authority.user(1_000 + number);
            let chain = user.chain_of(&user.device(0), &trust);
            let descriptor = fixture::descriptor(&chain, usize::try_from(number).expect("small"), Roles::DIRECTORY);
            (chain, descriptor)
        };
        let servers = (0..40).map(server).collect();
        World { authority, trust, records, leases, servers }
    })
}

const TABLE_MAX: usize = 24;
const HINTS_MAX: usize = 16;
const RECORDS_MAX: usize = 6;

struct Machine {
    directory: Directory,
    now: Now,
    rng: ChaCha8Rng,
    sent: VecDeque<(RequestId, Request)>,
    started: BTreeMap<QueryId, usize>,
    ended: BTreeMap<QueryId, usize>,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let now = Now { instant: Instant::now(), unix: START };
        let config = Config {
            is_lab: rng.random_bool(0.5),
            table_max: TABLE_MAX,
            hints_max: HINTS_MAX,
            store: StoreLimits { records: RECORDS_MAX, ..StoreLimits::default() },
            ..Config::default()
        };
        let local =
            LocalNode { device: DeviceKey(PublicKey([1; 32])), place: Some(Place([0x5a; 32])), is_serving: rng.random_bool(0.8) };
        let directory = Directory::new(config, local, rng.random(), now.instant);
        Self { directory, now, rng, sent: VecDeque::new(), started: BTreeMap::new(), ended: BTreeMap::new() }
    }

    fn below(&mut self, count: usize) -> usize {
        self.rng.random_range(0..count)
    }

    fn server(&mut self) -> (VerifiedChain, Descriptor) {
        let index = self.below(world().servers.len());
        world().servers[index].clone()
    }

    fn record(&mut self) -> DirectoryRecord {
        let index = self.below(world().records.len());
        world().records[index].clone()
    }

    fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = self.record().to_bytes();
        if self.rng.random_bool(0.3) {
            let position = self.below(bytes.len());
            bytes[position] ^= 1 << self.below(8);
        }
        bytes
    }

    fn descriptors(&mut self) -> Vec<Descriptor> {
        (0..self.below(5))
            .map(|_| {
                let (_, mut descriptor) = self.server();
                if self.rng.random_bool(0.3) {
                    descriptor.place = Place(self.rng.random());
                }
                if self.rng.random_bool(0.2) {
                    descriptor.device = DeviceKey(PublicKey(self.rng.random()));
                }
                descriptor
            })
            .collect()
    }

    fn key(&mut self) -> RecordKey {
        if self.rng.random_bool(0.9) { self.record().key() } else { RecordKey(self.rng.random()) }
    }

    fn request(&mut self) -> Request {
        let extensions = match self.below(4) {
            0 => Extensions::none().with(EXTENSION_NEWS, (0..self.below(4)).map(|_| self.rng.random()).collect()),
            1 => Extensions::none().with(EXTENSION_KNOWN, (0..self.below(80)).map(|_| self.rng.random()).collect()),
            _ => Extensions::none(),
        };
        let have_hash = self.rng.random_bool(0.5).then(|| self.record().state_hash());
        match self.below(7) {
            0 => Request::FindRecord(FindRecord { key: self.key(), have_hash, want: self.rng.random(), extensions }),
            1 => Request::FindNode(FindNode { target: self.rng.random(), want: self.rng.random(), extensions }),
            2 => Request::Store(Store { record: self.bytes(), extensions }),
            3 => {
                let lease = self.below(world().leases.len());
                Request::RenewLease(Box::new(RenewLease::new(self.key(), None, &world().leases[lease])))
            }
            4 => Request::StoreListing(StoreListing { listing: self.listing_bytes(), extensions }),
            5 => Request::FindListings(FindListings { place: self.key(), extensions }),
            _ => {
                let items =
                    (0..self.below(4)).map(|_| SyncItem { key: self.key(), hash: self.record().content_hash() }).collect();
                Request::SyncOffer(SyncOffer { items, extensions })
            }
        }
    }

    fn listing(&mut self) -> Signed<PlacedListing> {
        let user = world().authority.user(self.rng.random_range(0..8));
        let (place, seal) = (RecordKey([self.rng.random_range(0..4); 32]), self.rng.random_range(0..3));
        crate::listings::listing(&user, place, self.now.unix, seal)
    }

    fn listing_bytes(&mut self) -> Vec<u8> {
        let mut bytes = halloo_protocol::wire::encode(&self.listing());
        if self.rng.random_bool(0.3) {
            let at = self.below(bytes.len());
            bytes[at] ^= 1;
        }
        bytes
    }

    fn answer(&mut self, request: &Request) -> Result<Answer, Failure> {
        let failures = [Failure::Timeout, Failure::Disconnected, Failure::Unreachable, Failure::Unsupported, Failure::Busy];
        if self.rng.random_bool(0.2) {
            return Err(failures[self.below(failures.len())]);
        }
        let extensions = Extensions::none();
        let closer = self.descriptors().into_iter().map(std::sync::Arc::new).collect();
        let kind = match request {
            _ if self.rng.random_bool(0.1) => self.below(7),
            Request::FindRecord(_) => 0,
            Request::FindNode(_) => 1,
            Request::Store(_) => 2,
            Request::RenewLease(_) => 3,
            Request::SyncOffer(_) => 4,
            Request::StoreListing(_) => 5,
            Request::FindListings(_) => 6,
        };
        Ok(match kind {
            0 => {
                let outcome = match self.below(4) {
                    0 => RecordOutcome::Found(self.bytes()),
                    1 => RecordOutcome::Same,
                    _ => RecordOutcome::Absent,
                };
                let hearsay = match self.below(3) {
                    0 => halloo_protocol::wire::encode(&self.descriptors()),
                    1 => (0..self.below(40)).map(|_| self.rng.random()).collect(),
                    _ => return Ok(Answer::Record(RecordAnswer { outcome, closer, extensions })),
                };
                Answer::Record(RecordAnswer { outcome, closer, extensions: extensions.with(EXTENSION_HEARSAY, hearsay) })
            }
            1 => Answer::Nodes(Nodes { closer, extensions }),
            2 => {
                let reason = StoreRefusal::from_code(self.rng.random_range(0..14));
                let outcome = match self.below(2) {
                    0 => StoreOutcome::Accepted,
                    _ => StoreOutcome::Refused { reason, detail: "no".into() },
                };
                let holds = self.rng.random_bool(0.7).then(|| self.record().content_hash());
                let record = self.rng.random_bool(0.3).then(|| self.bytes());
                Answer::Store(StoreAnswer { outcome, holds, record, closer, extensions })
            }
            3 => {
                let outcome = [LeaseOutcome::Renewed, LeaseOutcome::NeedRecord, LeaseOutcome::Refused][self.below(3)];
                Answer::Lease(LeaseAnswer { outcome, extensions })
            }
            5 => Answer::ListingStored(ListingStored { outcome: StoreOutcome::Accepted, extensions }),
            6 => {
                let listings = (0..self.below(4)).map(|_| self.listing_bytes()).collect();
                Answer::Listings(ListingsFound { listings, extensions })
            }
            _ => {
                let keys = (0..self.below(3)).map(|_| self.key()).collect();
                Answer::SyncWant(SyncWant { keys, extensions })
            }
        })
    }

    fn start(&mut self, query: QueryId) {
        *self.started.entry(query).or_default() += 1;
    }

    fn pass(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.unix = self.now.unix.plus_secs(time.as_secs());
        self.directory.handle_timeout(self.now);
        let next = self.directory.poll_timeout().expect("sweeping never ends");
        assert!(next > self.now.instant, "a timer that fires must not fire again at once");
    }

    fn input(&mut self) {
        let trust = &world().trust;
        let now = self.now;
        let (chain, descriptor) = self.server();
        match self.below(15) {
            0 => {
                let rtt = self.rng.random_bool(0.5).then(|| Duration::from_millis(self.rng.random_range(0..400)));
                self.directory.handle_connected(now, Connected { device: chain.device, rtt, is_relayed: false });
            }
            1 | 2 => {
                let _ = self.directory.handle_hello(now, &chain, descriptor);
            }
            3 if self.rng.random_bool(0.3) => {
                let lie = Descriptor { place: Place(self.rng.random()), ..descriptor };
                self.directory.handle_hello(now, &chain, lie).expect_err("a false place");
            }
            3 | 4 => {
                let reasons = [DisconnectReason::Idle, DisconnectReason::Lost, DisconnectReason::Left];
                let reason = reasons[self.below(3)];
                self.directory.handle_disconnected(now, &chain.device, reason);
            }
            5 => {
                let mode = if self.rng.random_bool(0.5) { Mode::First } else { Mode::Settled };
                let options = FindOptions { mode, is_remote_only: self.rng.random_bool(0.5) };
                let key = self.key();
                let query = self.directory.find_record(now, key, options);
                self.start(query);
            }
            6 => {
                let record = self.record();
                let query = self.directory.publish(now, record);
                self.start(query);
            }
            7 => {
                let index = self.below(world().leases.len());
                let query = self.directory.renew_lease(now, world().records[index].key(), None, world().leases[index].clone());
                self.start(query);
            }
            8 => {
                let query = self.directory.bootstrap(now);
                self.start(query);
            }
            9 => {
                let request = self.request();
                let network_group = self.rng.random_bool(0.5).then(|| NetworkGroup(self.rng.random_range(0..3)));
                let source = RequestSource { device: chain.device, network_group };
                let _ = self.directory.handle_request(now, trust, source, request);
            }
            10 => {
                let descriptors = self.descriptors();
                self.directory.add_hearsay(now, descriptors);
            }
            11 => {
                let millis = self.rng.random_range(0..3_000);
                self.pass(Duration::from_millis(millis));
            }
            12 => {
                let listing = self.listing();
                let query = match self.rng.random_bool(0.5) {
                    true => self.directory.store_listing(now, trust, &listing),
                    false => self.directory.find_listings(now, listing.unverified().place),
                };
                self.start(query);
            }
            _ => {
                if let Some((id, request)) = self.sent.pop_front() {
                    let answer = self.answer(&request);
                    self.directory.handle_answer(now, trust, id, answer);
                }
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.directory.poll_action() {
            match action {
                Action::Send { id, request, .. } => {
                    let frame = request.to_frame(7);
                    assert_eq!(Request::from_frame(&frame).as_ref(), Ok(&request), "what is sent can be read");
                    self.sent.push_back((id, request));
                }
                Action::Event(
                    Event::Found { query, .. }
                    | Event::Published { query, .. }
                    | Event::LeaseRenewed { query, .. }
                    | Event::ListingStored { query, .. }
                    | Event::ListingsFound { query, .. }
                    | Event::Bootstrapped { query, .. },
                ) => *self.ended.entry(query).or_default() += 1,
                _ => {}
            }
        }
        let (proved, hints) = self.directory.table_counts();
        assert!(proved <= TABLE_MAX && hints <= HINTS_MAX, "{proved} proved, {hints} hints");
        assert!(self.directory.store_counts().0 <= RECORDS_MAX);
        // Eight users, four places.
        assert!(self.directory.listing_counts().0 <= 8 * 4);
    }
}

fn run(seed: u64, inputs: usize) {
    let mut machine = Machine::new(seed);
    for _ in 0..inputs {
        machine.input();
    }
    // Nobody answers any more: everything that was started ends by its own clock.
    for key in world().records.iter().map(DirectoryRecord::key) {
        machine.directory.unpublish(&key);
    }
    for _ in 0..60 {
        machine.pass(Duration::from_secs(1));
        machine.drain();
    }
    for query in machine.started.keys() {
        assert_eq!(machine.ended.get(query), Some(&1), "seed {seed}: {query:?} must end exactly once");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_inputs_is_survived(seed in any::<u64>()) {
        run(seed, 250);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(low in 0_u16..8, is_answer in any::<bool>(), body in prop::collection::vec(any::<u8>(), 0..600)) {
        let kind = FrameKind((0x0010 + low) | if is_answer { FrameKind::ANSWER } else { 0 });
        let frame = Frame { kind, id: 1, body };
        if let Ok(request) = Request::from_frame(&frame) {
            prop_assert!(Request::is_kind(kind));
            prop_assert_eq!(Request::from_frame(&request.to_frame(1)), Ok(request));
        }
        if let Ok(answer) = Answer::from_frame(&frame) {
            prop_assert!(Answer::is_kind(kind));
            prop_assert_eq!(Answer::from_frame(&answer.to_frame(1)), Ok(answer));
        }
    }

    #[test]
    fn damaged_messages_never_panic(seed in any::<u64>(), position in any::<usize>(), value in any::<u8>()) {
        let mut machine = Machine::new(seed);
        let request = machine.request();
        prop_assert_eq!(Request::from_frame(&request.to_frame(1)), Ok(request.clone()));
        let answer = machine.answer(&request);
        let mut frames = vec![request.to_frame(1)];
        if let Ok(answer) = answer {
            prop_assert_eq!(Answer::from_frame(&answer.to_frame(1)), Ok(answer.clone()));
            frames.push(answer.to_frame(1));
        }
        for mut frame in frames {
            let position = position % frame.body.len();
            frame.body[position] = value;
            let _ = (Request::from_frame(&frame), Answer::from_frame(&frame));
            frame.body.truncate(position);
            let _ = (Request::from_frame(&frame), Answer::from_frame(&frame));
        }
    }
}

#[test]
fn lists_longer_than_allowed_are_refused() {
    let descriptor = world().servers[0].1.clone();
    let nodes = Nodes { closer: vec![descriptor.into(); 17], extensions: Extensions::none() };
    assert!(Answer::from_frame(&Frame::new(1, &nodes)).is_err());
    let item = SyncItem { key: RecordKey(hash("any", &[])), hash: [0; 32] };
    let offer = SyncOffer { items: vec![item; 65], extensions: Extensions::none() };
    assert!(Request::from_frame(&Frame::new(1, &offer)).is_err());
}
