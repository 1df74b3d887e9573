//! Listings: found while their writer is away, through churn, and not hidden, crowded out or forged by others.

use std::time::{Duration, Instant};

use crate::fixture::{Authority, START, User, secret};
use crate::network::Network;
use halloo_protocol::directory::{Place, RecordKey};
use halloo_protocol::identity::{Chain, TrustStore, UserChain};
use halloo_protocol::kademlia::{
    Answer, Config, Directory, Event, FindListings, LISTINGS_NAMED_MAX, LISTINGS_UNNAMED_MAX, ListingReport, ListingSearch,
    LocalNode, NetworkGroup, Reply, Request, RequestSource, StoreListing, StoreOutcome, StoreRefusal,
};
use halloo_protocol::key::{DeviceKey, IdentityKey, PublicKey, hash};
use halloo_protocol::linked::PlacedListing;
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions, Signed};

const PLACE: RecordKey = RecordKey([0x77; 32]);
const DAY: u64 = 86_400;

/// A listing of a user; what is sealed is nobody's business here.
pub(crate) fn listing(user: &User, place: RecordKey, at: UnixTime, seal: u8) -> Signed<PlacedListing> {
    let device = user.device(0);
    let writer = Chain { user: user.chain.clone(), device: device.certificate.clone() };
    let sealed = if seal == 0 { Vec::new() } else { vec![seal; 1_024] };
    let (serial, until) = (at.0, at.plus_secs(DAY));
    Signed::sign(PlacedListing { place, writer, serial, until, sealed, extensions: Extensions::none() }, &device.secret)
}

/// A user without an authority.
fn unnamed(number: u64) -> User {
    let identity = secret("unnamed", number);
    let chain = UserChain::Key(IdentityKey(identity.public()));
    User { number, serial: 0, identity, chain }
}

impl Network {
    fn store_listing(&mut self, node: usize, listing: &Signed<PlacedListing>) -> ListingReport {
        let now = self.now();
        let trust = self.trust.clone();
        let query = self.nodes[node].directory.store_listing(now, &trust, listing);
        self.drain(node);
        let stored = |network: &Self| {
            network.nodes[node].events.iter().rev().find_map(|event| match event {
                Event::ListingStored { query: ended, report } if *ended == query => Some(report.clone()),
                _ => None,
            })
        };
        self.run_until(|network| stored(network).is_some());
        stored(self).expect("just seen")
    }

    fn find_listings(&mut self, node: usize, place: RecordKey) -> ListingSearch {
        let now = self.now();
        let query = self.nodes[node].directory.find_listings(now, place);
        self.drain(node);
        let found = |network: &Self| {
            network.nodes[node].events.iter().rev().find_map(|event| match event {
                Event::ListingsFound { query: ended, search } if *ended == query => Some(search.clone()),
                _ => None,
            })
        };
        self.run_until(|network| found(network).is_some());
        found(self).expect("just seen")
    }
}

#[test]
fn a_listing_is_found_from_everywhere_and_replaced_by_its_writer_alone() {
    let mut network = Network::grown(31, 30);
    let (bob, mallory) = (network.authority.user(1), network.authority.user(2));
    let first = listing(&bob, PLACE, network.now().unix, 1);
    let report = network.store_listing(3, &first);
    assert!(report.accepted >= 8 && report.refused.is_empty() && report.failed == 0, "{report:?}");
    // She knows the place too, and lists herself there: his stays.
    let hers = listing(&mallory, PLACE, network.now().unix, 2);
    assert!(network.store_listing(9, &hers).accepted >= 8);
    for node in 0..30 {
        let found = network.find_listings(node, PLACE);
        assert!(found.answered >= 8, "{found:?}");
        assert!(found.listings.contains(&wire::encode(&first)) && found.listings.contains(&wire::encode(&hers)));
        assert_eq!(network.find_listings(node, RecordKey([0x12; 32])).listings, Vec::<Vec<u8>>::new(), "another guess");
    }
    // A newer one of his own takes the place of the first; an older one doesn't come again.
    network.run_for(Duration::from_secs(60));
    let second = listing(&bob, PLACE, network.now().unix, 3);
    assert!(network.store_listing(3, &second).accepted >= 8);
    let stale = network.store_listing(3, &first);
    // One that was just too far away to be brought the newer one takes it; whoever reads both takes the newer.
    assert!(stale.accepted <= 1 && stale.refused.iter().all(|(_, reason)| *reason == StoreRefusal::Stale), "{stale:?}");
    assert!(network.find_listings(20, PLACE).listings.contains(&wire::encode(&second)));
}

#[test]
fn it_outlives_replicas_that_leave_while_its_writer_is_away_and_ends_after_a_day() {
    let mut network = Network::grown(32, 40);
    let bob = network.authority.user(1);
    let client = network.join_as(false);
    let placed = listing(&bob, PLACE, network.now().unix, 1);
    assert!(network.store_listing(client, &placed).accepted >= 8);
    network.freeze(client);
    network.upkeep_every = Duration::from_secs(60);
    // Twice, six of the eight that have it stop; the others have brought it to those that are closest then.
    for _ in 0..2 {
        let gone: Vec<usize> = network.closest(&PLACE, 8).into_iter().filter(|node| *node != 0).take(6).collect();
        gone.iter().for_each(|node| network.freeze(*node));
        network.run_for(Duration::from_secs(2 * 3_600));
        let asker = network.closest(&PLACE, 40)[20];
        let found = network.find_listings(asker, PLACE);
        assert_eq!(found.listings, [wire::encode(&placed)], "{found:?}");
    }
    let holders = network.nodes.iter().filter(|node| node.directory.listing_counts().0 > 0).count();
    assert!(holders >= 12, "{holders} have kept it");
    network.run_for(Duration::from_secs(DAY));
    let asker = network.closest(&PLACE, 40)[20];
    assert_eq!(network.find_listings(asker, PLACE).listings, Vec::<Vec<u8>>::new());
    let living = network.closest(&PLACE, 40);
    assert!(living.iter().all(|node| network.nodes[*node].directory.listing_counts() == (0, 0)));
}

#[test]
fn what_was_taken_away_does_not_come_again() {
    let mut network = Network::grown(33, 30);
    network.upkeep_every = Duration::from_secs(60);
    let bob = network.authority.user(1);
    let placed = listing(&bob, PLACE, network.now().unix, 1);
    assert!(network.store_listing(3, &placed).accepted >= 8);
    // One of the replicas doesn't hear of it, and comes back with what it has.
    let away = network.closest(&PLACE, 8).into_iter().find(|node| *node != 0).expect("eight");
    network.freeze(away);
    network.run_for(Duration::from_secs(120));
    let gone = listing(&bob, PLACE, network.now().unix, 0);
    assert!(network.store_listing(3, &gone).accepted >= 7);
    network.thaw(away);
    network.run_for(Duration::from_secs(2 * 3_600));
    for node in [0, 15, away] {
        let found = network.find_listings(node, PLACE).listings;
        assert!(found.contains(&wire::encode(&gone)), "all say that it was taken away");
    }
    let report = network.store_listing(3, &placed);
    assert!(report.accepted <= 1, "{report:?}");
}

/// A replica alone.
struct Bench {
    authority: Authority,
    trust: TrustStore,
    replica: Directory,
    now: Now,
}

impl Bench {
    fn new() -> Self {
        let authority = Authority::new(1);
        let trust = authority.trust();
        let now = Now { instant: Instant::now(), unix: START };
        let place = Some(Place(hash("place of the replica", &[])));
        let local = LocalNode { device: DeviceKey(PublicKey([1; 32])), place, is_serving: true };
        let replica = Directory::new(Config::default(), local, [1; 32], now.instant);
        Self { authority, trust, replica, now }
    }

    /// Every request comes from another peer, so that what is refused isn't refused for asking too much.
    fn ask(&mut self, request: Request) -> Answer {
        let mut device = [0; 32];
        let requests: u64 = self.replica.counters().received.values().sum();
        device[..8].copy_from_slice(&requests.to_be_bytes());
        let source = RequestSource { device: DeviceKey(PublicKey(device)), network_group: Some(NetworkGroup(1)) };
        match self.replica.handle_request(self.now, &self.trust, source, request) {
            Reply::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn store_bytes(&mut self, listing: Vec<u8>) -> Result<(), StoreRefusal> {
        match self.ask(Request::StoreListing(StoreListing { listing, extensions: Extensions::none() })) {
            Answer::ListingStored(answer) => match answer.outcome {
                StoreOutcome::Accepted => Ok(()),
                StoreOutcome::Refused { reason, .. } => Err(reason),
            },
            other => panic!("{other:?}"),
        }
    }

    fn store(&mut self, listing: &Signed<PlacedListing>) -> Result<(), StoreRefusal> {
        self.store_bytes(wire::encode(listing))
    }

    fn find(&mut self, place: RecordKey) -> Vec<Vec<u8>> {
        match self.ask(Request::FindListings(FindListings { place, extensions: Extensions::none() })) {
            Answer::Listings(answer) => answer.listings,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn forged_and_untimely_listings_are_refused() {
    let mut bench = Bench::new();
    let (bob, mallory) = (bench.authority.user(1), bench.authority.user(2));
    let good = listing(&bob, PLACE, START, 1);
    let said = good.unverified().clone();
    let forged = Signed::sign(said.clone(), &mallory.device(0).secret);
    assert_eq!(bench.store(&forged), Err(StoreRefusal::Invalid));
    let stranger = Authority::new(2).user(1);
    assert_eq!(bench.store(&listing(&stranger, PLACE, START, 1)), Err(StoreRefusal::UnknownAuthority));
    assert_eq!(bench.store(&listing(&bob, PLACE, START.plus_secs(DAY), 1)), Err(StoreRefusal::Future));
    assert_eq!(bench.store(&listing(&bob, PLACE, START.minus_secs(DAY + 1), 1)), Err(StoreRefusal::Expired));
    let long = PlacedListing { until: START.plus_secs(DAY + 1), ..said };
    assert_eq!(bench.store(&Signed::sign(long, &bob.device(0).secret)), Err(StoreRefusal::Invalid));
    assert_eq!(bench.store_bytes(vec![0; 9_000]), Err(StoreRefusal::TooLarge));
    assert_eq!(bench.store_bytes(vec![1; 100]), Err(StoreRefusal::Invalid));
    assert_eq!((bench.find(PLACE), bench.replica.listing_counts()), (Vec::new(), (0, 0)));
    assert_eq!(bench.store(&good), Ok(()));
    assert_eq!(bench.store(&good), Ok(()), "brought again");
    assert_eq!(bench.find(PLACE), [wire::encode(&good)]);
    // The authority takes him back.
    let list = bench.authority.revoke(&bob);
    bench.trust.apply_revocations(&list).expect("its list");
    bench.replica.handle_trust_changed(bench.now, &bench.trust);
    assert_eq!((bench.find(PLACE), bench.replica.listing_counts()), (Vec::new(), (0, 0)));
    assert_eq!(bench.store(&good), Err(StoreRefusal::Revoked));
}

#[test]
fn a_place_has_room_for_a_few_and_who_is_there_stays() {
    let mut bench = Bench::new();
    let bob = bench.authority.user(0);
    assert_eq!(bench.store(&listing(&bob, PLACE, START, 1)), Ok(()));
    for number in 1..10 {
        let user = bench.authority.user(number);
        let stored = bench.store(&listing(&user, PLACE, START, 2));
        let is_room = usize::try_from(number).expect("small") < LISTINGS_NAMED_MAX;
        assert_eq!(stored, if is_room { Ok(()) } else { Err(StoreRefusal::QuotaTotal) }, "{number}");
        // Those without a name have room of their own, and take nobody's.
        let stored = bench.store(&listing(&unnamed(number), PLACE, START, 3));
        let is_room = usize::try_from(number).expect("small") <= LISTINGS_UNNAMED_MAX;
        assert_eq!(stored, if is_room { Ok(()) } else { Err(StoreRefusal::QuotaTotal) }, "{number}");
    }
    assert_eq!(bench.store(&listing(&bob, PLACE, START.plus_secs(1), 4)), Ok(()), "he is there");
    let found = bench.find(PLACE);
    assert_eq!(found.len(), LISTINGS_NAMED_MAX + LISTINGS_UNNAMED_MAX);
    assert!(found.contains(&wire::encode(&listing(&bob, PLACE, START.plus_secs(1), 4))));
}

#[test]
fn a_flood_of_listings_is_bounded() {
    let mut bench = Bench::new();
    let place = |number: u64| RecordKey(hash("place", &[&number.to_be_bytes()]));
    let mallory = bench.authority.user(1);
    let stored = (0..40).filter(|number| bench.store(&listing(&mallory, place(*number), START, 1)).is_ok()).count();
    assert_eq!(stored, 16, "places of one user");
    assert_eq!(bench.store(&listing(&mallory, place(99), START, 1)), Err(StoreRefusal::QuotaPeer));
    let stored =
        (0..1_100).filter(|number| bench.store(&listing(&unnamed(*number), place(1_000 + *number), START, 1)).is_ok()).count();
    assert_eq!(stored, 1_024, "of users without a name");
    // Others are served all the same.
    let bob = bench.authority.user(2);
    assert_eq!(bench.store(&listing(&bob, PLACE, START, 1)), Ok(()));
    let (count, bytes) = bench.replica.listing_counts();
    assert!(count == 16 + 1_024 + 1 && bytes < 4 * 1_024 * 1_024, "{count}, {bytes}");
    bench.now = Now { instant: bench.now.instant + Duration::from_secs(DAY + 100), unix: START.plus_secs(DAY + 100) };
    bench.replica.handle_timeout(bench.now);
    assert_eq!(bench.replica.listing_counts(), (0, 0));
}
