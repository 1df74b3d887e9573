//! Tests of the routing table.

use super::first_contacts::CONTACTS;
use super::*;
use crate::key::{PublicKey, hash};
use crate::node::{LoadClass, Transport};

fn descriptor(number: u32, subnet: u8) -> Descriptor {
    let bytes = number.to_be_bytes();
    Descriptor {
        device: DeviceKey(PublicKey(hash("device", &[&bytes]))),
        place: Place(hash("place", &[&bytes])),
        roles: Roles::DIRECTORY,
        load: LoadClass(0),
        addresses: vec![Address::V4 { ip: [10, bytes[2], subnet, bytes[3]], port: 1, transport: Transport::Quic }],
    }
}

fn proof() -> Proof {
    Proof { authority: AuthorityKey(PublicKey([1; 32])), serial: 1, not_after: UnixTime(u64::MAX) }
}

fn table(capacity: usize, lab: bool) -> RoutingTable {
    let limits = TableLimits { proved: capacity, hints: 64, is_lab: lab };
    RoutingTable::new(DeviceKey(PublicKey([7; 32])), Some(Place(hash("place", &[b"own"]))), limits, Instant::now())
}

#[test]
fn a_span_shares_as_many_bits_as_it_says() {
    let point = Place(hash("place", &[b"any"]));
    for bits in [0, 1, 7, 8, 127, 128, 129, 200, 255] {
        let (low, high) = span(&point, bits);
        assert!(low <= point && point <= high, "{bits}");
        assert_eq!(low.distance(&high).leading_zeros(), bits, "the ends differ first behind the shared bits");
        assert!(high.0.iter().zip(low.0).all(|(high, low)| (high ^ low).count_ones() == (high ^ low).trailing_ones()), "{bits}");
    }
    assert_eq!(span(&point, 256), (point, point));
}

#[test]
fn distances_compare_as_numbers() {
    let mut bytes = [[0; 32]; 5];
    (bytes[1][31], bytes[2][16], bytes[3][15], bytes[4][0]) = (1, 1, 1, 1);
    for (a, smaller) in bytes.iter().enumerate() {
        for (b, larger) in bytes.iter().enumerate() {
            assert_eq!(Distance(*smaller).cmp(&Distance(*larger)), a.cmp(&b), "{a} and {b}");
        }
    }
}

#[test]
fn the_closest_are_those_a_full_sort_finds() {
    let now = Instant::now();
    let mut table = table(1_000, true);
    let all: Vec<_> = (0..300).map(|number| descriptor(number, 0)).collect();
    for descriptor in &all {
        assert_eq!(table.prove(now, descriptor.clone(), proof()), Admission::New);
    }
    for round in 0..50_u32 {
        let target = Place(hash("target", &[&round.to_be_bytes()]));
        let mut sorted = all.clone();
        sorted.sort_by_key(|descriptor| target.distance(&descriptor.place));
        let found: Vec<_> = table.closest(&target, 20).iter().map(|d| d.device).collect();
        assert_eq!(found, sorted[..20].iter().map(|d| d.device).collect::<Vec<_>>());
        for (closer, descriptor) in sorted.iter().enumerate() {
            for max in [1, 8, 16, 299, 300, 1_000] {
                assert_eq!(table.closer_than(&target, &descriptor.place, max), closer.min(max), "of {closer}, at most {max}");
            }
        }
        assert_eq!(table.closer_than(&target, &target, 8), 0, "nobody is closer than the target itself");
        let opposite = Place(target.0.map(|byte| !byte));
        assert_eq!(table.closer_than(&target, &opposite, 1_000), 300, "and all are closer than what is farthest");
    }
    assert_eq!(table.closest(&Place([0; 32]), 1_000).len(), 300);
}

#[test]
fn a_full_table_keeps_its_neighbours_and_those_known_longest() {
    let start = Instant::now();
    let mut table = table(64, true);
    for number in 0..2_000 {
        table.prove(start + Duration::from_secs(number.into()), descriptor(number, 0), proof());
        assert!(table.live_count() <= 64);
    }
    let origin = table.origin;
    let mut sorted: Vec<_> = (0..2_000).map(|number| descriptor(number, 0)).collect();
    sorted.sort_by_key(|descriptor| origin.distance(&descriptor.place));
    let found: BTreeSet<_> = table.closest(&origin, 8).iter().map(|d| d.device).collect();
    assert!(sorted[..8].iter().all(|d| found.contains(&d.device)), "near neighbours find room");
    assert!((0..16).filter(|number| table.is_live(&descriptor(*number, 0).device)).count() >= 12, "old ones stay");
}

#[test]
fn who_finds_no_room_is_still_known_and_believed_while_connected() {
    let start = Instant::now();
    let mut table = RoutingTable { start, ..table(64, true) };
    for number in 0..64 {
        table.prove(start, descriptor(number, 0), proof());
    }
    let refused = |table: &mut RoutingTable, now| {
        let mut others = (64..1_000).map(|number| descriptor(number, 0));
        others.find(|node| {
            table.connected(now, node.device, None, false);
            table.prove(now, node.clone(), proof()) == Admission::Full
        })
    };
    let full = refused(&mut table, start).expect("the table is full");
    assert_eq!((table.live_count(), table.is_live(&full.device)), (64, false));
    assert_eq!(table.closest_known(&full.place, 1)[0].device, full.device, "as hearsay");
    assert_eq!(table.proved_place(&full.device), Some(full.place), "so that what it denies counts");
    table.disconnected(&full.device);
    assert_eq!(table.proved_place(&full.device), None);

    let later = start + Duration::from_secs(u64::from(STALE_SECS) + 1);
    let gone = descriptor(2_000, 0);
    assert_eq!(table.prove(later, gone, proof()), Admission::New, "somebody hasn't shown life for a day");
    assert_eq!(table.live_count(), 64);
}

#[test]
fn one_network_gets_two_replicas_and_four_places_in_a_bucket() {
    let now = Instant::now();
    let mut table = table(1_000, false);
    for number in 0..200 {
        let mut one = descriptor(number, 0);
        one.addresses = vec![Address::V4 { ip: [10, 0, 0, 1], port: 1, transport: Transport::Quic }];
        table.prove(now, one, proof());
    }
    assert!(table.bucket(0).count() <= GROUP_BUCKET_MAX);
    for number in 1_000..1_100 {
        table.prove(now, descriptor(number, u8::try_from(number % 250).unwrap_or(0)), proof());
    }
    let set = table.replica_set(&Place([3; 32]));
    assert_eq!(set.len(), REPLICAS);
    let crowded = NetworkGroup::of(&Address::V4 { ip: [10, 0, 0, 9], port: 9, transport: Transport::Tcp });
    assert!(set.iter().filter(|d| NetworkGroup::of_descriptor(d) == crowded).count() <= GROUP_REPLICAS_MAX);
}

#[test]
fn one_user_keeps_a_record_once() {
    let now = Instant::now();
    let mut table = table(1_000, false);
    for number in 0..20_u8 {
        for slot in 0..4 {
            let mut one = descriptor(u32::from(number) * 4 + u32::from(slot), number);
            one.place = Place::assigned(&[number; 32], slot);
            table.prove(now, one, proof());
        }
    }
    let target = Place::assigned(&[3; 32], 2);
    let set = table.replica_set(&target);
    let owners: BTreeSet<_> = set.iter().map(|node| node.place.owner()).collect();
    assert_eq!((set.len(), owners.len()), (REPLICAS, REPLICAS));
    assert_eq!(set[0].place, target, "the nearest of them");
}

#[test]
fn what_is_heard_stays_a_hint_until_proved() {
    let now = Instant::now();
    let mut table = table(100, true);
    let node = descriptor(1, 0);
    table.hear(now, node.clone(), None);
    assert!(table.closest(&node.place, 8).is_empty(), "a hint isn't passed on");
    assert_eq!(table.worth_asking(&node.place, 8, now).len(), 1, "but it is asked");
    assert_eq!(table.prove(now, node.clone(), proof()), Admission::New);
    assert_eq!(table.closest(&node.place, 8).len(), 1);
    assert!(!table.failed(now, &node.device, false));
    assert!(table.failed(now, &node.device, false), "twice silent is dead");
    assert!(table.closest(&node.place, 8).is_empty());
    table.succeeded(now, &node.device, None);
    assert!(table.is_live(&node.device), "and back at the first sign of life");
}

#[test]
fn the_more_first_contacts_are_silent_the_more_are_asked_at_once() {
    let now = Instant::now();
    let mut table = table(100, true);
    let nodes: Vec<_> = (0..40).map(|number| descriptor(number, 0)).collect();
    for node in &nodes {
        assert_eq!(table.prove(now, node.clone(), proof()), Admission::New);
    }
    let contact = |table: &mut RoutingTable, silent_of_ten: usize| {
        (0..CONTACTS).for_each(|turn| table.contacted(turn % 10 >= silent_of_ten));
        table.first_width()
    };
    assert_eq!(table.first_width(), 4, "nothing is known yet");
    assert_eq!([0, 1, 2, 3, 4, 9].map(|silent| contact(&mut table, silent)), [1, 3, 4, 4, 4, 4]);
    table.suspect(&nodes[0].device);
    assert!(table.is_suspect(&nodes[0].device) && !table.is_suspect(&nodes[39].device));
    assert!(table.is_live(&nodes[0].device), "late isn't dead");
    table.succeeded(now, &nodes[0].device, None);
    assert!(!table.is_suspect(&nodes[0].device));
}

#[test]
fn who_was_seen_lately_is_asked_before_who_wasn_t() {
    let start = Instant::now();
    let mut table = RoutingTable { start, ..table(100, true) };
    let [old, new, told] = [1, 2, 3].map(|number| descriptor(number, 0));
    table.prove(start, old.clone(), proof());
    let order = |table: &RoutingTable, now| {
        let mut all = [&old, &new, &told].map(|node| (table.preference(now, &node.device), node.device));
        all.sort_unstable();
        all.map(|(_, device)| device)
    };
    let later = start + Duration::from_secs(FRESH_SECS.into());
    table.prove(later, new.clone(), proof());
    table.hear(later, told.clone(), None);
    assert_eq!(order(&table, later), [new.device, old.device, told.device], "hearsay is as old as what was seen a while ago");
    let much_later = start + 4 * Duration::from_secs(FRESH_SECS.into());
    table.hear(much_later, told.clone(), Some(&new.device));
    assert_eq!(order(&table, much_later), [told.device, new.device, old.device], "and newer than what was seen long ago");
    table.succeeded(much_later, &old.device, None);
    assert_eq!(order(&table, much_later), [old.device, told.device, new.device], "it has shown life since");
}

#[test]
fn news_is_who_came_or_came_back_to_life() {
    let start = Instant::now();
    let mut table = RoutingTable { start, ..table(100, true) };
    let [old, gone, new] = [1, 2, 3].map(|number| descriptor(number, 0));
    for node in [&old, &gone] {
        table.prove(start, node.clone(), proof());
    }
    let later = start + Duration::from_secs(100);
    let news = |table: &RoutingTable, within| {
        let news = table.closest_news(later, Duration::from_secs(within), &Place([0; 32]), 8);
        news.into_iter().map(|node| node.device).collect::<BTreeSet<_>>()
    };
    table.prove(later, new.clone(), proof());
    table.hear(later, descriptor(4, 0), None);
    table.succeeded(later, &old.device, None);
    assert_eq!(news(&table, 50), BTreeSet::from([new.device]), "a sign of life of the living isn't news, nor is hearsay");
    assert_eq!(news(&table, 100).len(), 3);
    table.failed(later, &gone.device, true);
    assert_eq!(news(&table, 100).len(), 2, "the dead are none");
    table.connected(later, gone.device, None, false);
    table.prove(later, gone.clone(), proof());
    assert_eq!(news(&table, 50), BTreeSet::from([gone.device, new.device]));
}

#[test]
fn hints_are_bounded_and_liars_lose_their_say() {
    let now = Instant::now();
    let mut table = table(100, true);
    for number in 0..1_000 {
        table.hear(now, descriptor(number, 0), None);
    }
    assert_eq!(table.hint_count(), 64);
    let liar = descriptor(5_000, 0).device;
    for number in 2_000..2_003 {
        table.hear(now, descriptor(number, 0), Some(&liar));
        let mut real = descriptor(number, 0);
        real.place = Place([9; 32]);
        table.prove(now, real, proof());
    }
    table.hear(now, descriptor(2_010, 0), Some(&liar));
    assert!(table.peers.get(&descriptor(2_010, 0).device).is_none());
}

#[test]
fn who_told_is_known_of_each_however_many_tell_and_go() {
    let now = Instant::now();
    let mut table = RoutingTable { hints_capacity: 1_000, ..table(100, true) };
    let teller = |number: u32| descriptor(100_000 + number, 0).device;
    let mut told = BTreeMap::new();
    for number in 0..3_000 {
        let node = descriptor(number, 0).device;
        table.hear(now, descriptor(number, 0), Some(&teller(number)));
        told.insert(node, teller(number));
        // Two of three are gone soon: by a hello of their own, or for good.
        match number % 3 {
            0 => assert_ne!(table.prove(now, descriptor(number, 0), proof()), Admission::Banned),
            1 => assert!(!table.ban(now, node), "it wasn't among the living"),
            _ => continue,
        }
        told.remove(&node);
    }
    assert!(table.hint_count() <= 1_000);
    let known: Vec<_> = told.iter().filter(|(node, _)| table.is_known(node)).collect();
    assert!(known.len() > 500, "{}", known.len());
    for (node, teller) in known {
        assert_eq!(table.told_by(node), Some(*teller));
    }
}

#[test]
fn what_was_measured_of_one_is_never_anothers() {
    let now = Instant::now();
    let mut table = RoutingTable { hints_capacity: 40, ..table(100, true) };
    let rtt = |number: u32| Duration::from_millis(u64::from(number) + 1);
    for number in 0..1_000 {
        let node = descriptor(number, 0);
        table.connected(now, node.device, Some(rtt(number)), false);
        table.prove(now, node.clone(), proof());
        table.disconnected(&node.device);
        // Of those before, one dies and stays a hint, one is forgotten.
        if let Some(before) = number.checked_sub(50) {
            table.failed(now, &descriptor(before, 0).device, true);
        }
        if let Some(long_before) = number.checked_sub(80) {
            for _ in 0..FAILURES_FORGET {
                table.failed(now, &descriptor(long_before, 0).device, true);
            }
        }
    }
    let known: Vec<u32> = (0..1_000).filter(|number| table.proved_place(&descriptor(*number, 0).device).is_some()).collect();
    assert!(known.len() >= 70, "{known:?}");
    for number in known {
        assert_eq!(table.rtt(&descriptor(number, 0).device), rtt(number));
    }
}

#[test]
fn places_and_keys_alike_in_their_first_bits_are_told_apart() {
    let now = Instant::now();
    let mut table = table(100, true);
    let alike = |number: u8| {
        let mut descriptor = descriptor(number.into(), 0);
        descriptor.place = Place([&[9; 8][..], &[number; 24]].concat().try_into().expect("32 bytes"));
        descriptor.device = DeviceKey(PublicKey([&[9; 4][..], &[number; 28]].concat().try_into().expect("32 bytes")));
        descriptor
    };
    for number in 0..20 {
        assert_eq!(table.prove(now, alike(number), proof()), Admission::New);
    }
    let closest: Vec<_> = table.closest(&alike(5).place, 3).iter().map(|node| node.device).collect();
    assert_eq!(closest, [5, 4, 7].map(|number| alike(number).device));
    assert_eq!(table.live_marked(Mark::of(&alike(6).device)).map(|node| node.device), Some(alike(6).device));
    table.failed(now, &alike(5).device, true);
    assert_eq!(table.closest(&alike(5).place, 1)[0].device, alike(4).device);
    assert_eq!((table.live_count(), table.hint_count()), (19, 1));
}
