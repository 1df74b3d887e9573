//! What forgers, floods and nonsense achieve.

use std::time::Duration;

use halloo_protocol::directory::DeviceKind;
use halloo_protocol::key::{DeviceKey, PublicKey, SecretKey, hash};
use halloo_protocol::presence::*;
use halloo_protocol::wire::{self, Extensions, Message, Signed};
use proptest::prelude::*;

use crate::net::{Net, Person, carried};
use crate::support::NOW;

#[test]
fn a_carrier_can_neither_forge_nor_be_fooled() {
    let mut net = carried();
    net.say(0, State::Online, "");
    net.secs(2);
    let topic = net.people[0].topic(NOW);
    // Whoever knows the topic, a contact even, brings a higher one that it can't sign.
    let forged = net.people[1].document(NOW.0 + 100, NOW);
    let place = TopicPlace::Topic(topic);
    for _ in 0..20 {
        net.inject(3, 2, vec![Part::Documents(vec![PassedDocument { place, hops: 0, document: forged.clone() }])]);
    }
    assert!(net.machines[2].counters().forged >= 8);
    assert!(net.actions.iter().any(|(who, action)| *who == 2 && matches!(action, Action::Misbehaved { .. })));
    // The carrier itself makes one up, and replays an old one.
    let old = net.people[0].document(NOW.0, NOW);
    for document in [forged, old] {
        let passed = PassedDocument { place: TopicPlace::Slot(TopicSlot(0)), hops: 1, document };
        net.inject(3, 1, vec![Part::Documents(vec![passed])]);
    }
    assert_eq!(net.sees(1, 0).state, State::Online);
    net.say(0, State::Away, "");
    net.secs(1);
    assert_eq!(net.sees(1, 0).state, State::Away, "what is genuine goes on");
}

#[test]
fn who_names_topics_that_do_not_exist_crowds_nobody_out_of_a_carrier() {
    const TOPICS_MAX: usize = 64;
    let mut net = Net::new(5, &[2]);
    let local = LocalDevice { identity: net.people[2].identity(), key: net.people[2].device.clone(), kind: DeviceKind::Desktop };
    let gossip = GossipConfig { topics_max: TOPICS_MAX, ..GossipConfig::carrier() };
    let config = Config { gossip, ..Config::default() };
    net.machines[2] = Presence::new(config, local, net.people[2].secret.clone(), 0, [9; 32], net.now());
    let (now, carrier) = (net.now(), net.people[2].key());
    for flooder in [3, 4] {
        net.puppets.push(flooder);
        net.connect(flooder, 2);
        let name = |slot: u16| {
            let topic = Topic(PublicKey(hash("test topic", &[&slot.to_be_bytes(), &flooder.to_be_bytes()])));
            NamedTopic { slot: TopicSlot(slot), name: TopicName::Topic { topic, carriers: Vec::new() } }
        };
        net.inject(flooder, 2, vec![Part::Names((0..1_000).map(name).collect())]);
    }
    assert!(net.machines[2].size().0 < TOPICS_MAX - 8, "{:?}", net.machines[2].size());
    assert!(net.machines[2].counters().excess > 0);
    // Two who came later use it all the same.
    net.befriend_with(1, 0, &[2], true);
    net.befriend_with(0, 1, &[2], true);
    for who in [0, 1] {
        net.machines[who].set_carriers(now, vec![carrier]);
        net.act(who);
    }
    net.say(0, State::Online, "hello");
    net.secs(5);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Online, Source::Carrier));
}

#[test]
fn what_a_neighbour_floods_with_is_bounded() {
    let mut net = Net::new(3, &[2]);
    net.befriend(0, 1);
    net.connect(0, 1);
    net.connect(2, 1);
    net.puppets.push(1);
    let name = |slot: u16, byte: u8| NamedTopic {
        slot: TopicSlot(slot),
        name: TopicName::Topic { topic: Topic(PublicKey([byte; 32])), carriers: vec![DeviceKey(PublicKey([byte; 32]))] },
    };
    for round in 0..64_u16 {
        let names = (0..1_024).map(|index| name(round.wrapping_mul(1_024).wrapping_add(index), (index % 251) as u8)).collect();
        net.inject(1, 2, vec![Part::Names(names)]);
        let tags = (0..1_024_u16).map(|index| {
            let tag = LinkTag(u64::from(round * 1_024 + index).to_be_bytes());
            NamedTopic { slot: TopicSlot(round.wrapping_mul(1_024).wrapping_add(index)), name: TopicName::Tag(tag) }
        });
        net.inject(1, 0, vec![Part::Names(tags.collect())]);
        let digests = (0..1_024).map(|slot| Digest { slot: TopicSlot(slot), sequence: u64::MAX, hops: 0 }).collect();
        net.inject(1, 0, vec![Part::Digests(digests)]);
    }
    assert!(net.machines[2].size().0 <= 4_200, "{:?}", net.machines[2].size());
    assert!(net.machines[2].counters().excess > 0);
    assert!(net.machines[0].counters().excess > 0);
    // Documents for topics nobody knows.
    let stranger = Person::new(9);
    for day in 0..30 {
        let at = NOW.plus_secs(day * 2_000);
        let topic = stranger.secret.key().topic(&stranger.key(), Day(day)).expect("a key");
        let passed = PassedDocument { place: TopicPlace::Topic(topic), hops: 0, document: stranger.document(at.0, at) };
        net.inject(1, 2, vec![Part::Documents(vec![passed])]);
    }
    net.say(0, State::Online, "");
    net.secs(120);
    assert!(net.machines[0].size().0 < 10);
}

fn any_place() -> impl Strategy<Value = TopicPlace> {
    prop_oneof![
        any::<u8>().prop_map(|slot| TopicPlace::Slot(TopicSlot(u16::from(slot % 8)))),
        any::<u8>().prop_map(|byte| TopicPlace::Topic(Topic(PublicKey([byte; 32])))),
        (0usize..5).prop_map(|person| TopicPlace::Topic(Person::new(person).topic(NOW))),
    ]
}

fn any_part() -> impl Strategy<Value = Part> {
    let slot = || (0u16..12).prop_map(TopicSlot);
    let mode = prop::sample::select(vec![Mode::Ride, Mode::Soon, Mode::Push]);
    let tag = (0usize..5, 0usize..5, 0usize..5)
        .prop_map(|(owner, one, other)| Person::new(owner).topic(NOW).tag(&Person::new(one).key(), &Person::new(other).key()));
    let name = prop_oneof![
        tag.prop_map(TopicName::Tag),
        (0usize..6)
            .prop_map(|person| TopicName::Topic { topic: Person::new(person).topic(NOW), carriers: vec![Person::new(2).key()] }),
    ];
    // Old ones, and those of another run of the same device that is ahead. (That two runs take one number in one second isn't noticed by
    // neighbours; the next document settles it.)
    let sequence = prop_oneof![Just(NOW.0 - 50), NOW.0 + 100..NOW.0 + 200];
    let document = (0usize..6, sequence, any::<u8>(), any_place()).prop_map(|(person, sequence, hops, place)| PassedDocument {
        place,
        hops,
        document: Person::new(person).document(sequence, NOW),
    });
    let hint = (any_place(), 0u64..90_000, any::<u16>()).prop_map(|(place, sequence, number)| {
        let key = SecretKey::from_bytes([3; 32]);
        let witness = PresenceWitness { witness: key.public(), number, extensions: Extensions::none() };
        let hint = PresenceHint { sequence, at: NOW, extensions: Extensions::none() };
        PassedHint { place, witness: Signed::sign(witness, &key), hint: Signed::sign(hint, &key) }
    });
    let few = 0..4usize;
    prop_oneof![
        prop::collection::vec((slot(), name).prop_map(|(slot, name)| NamedTopic { slot, name }), few.clone())
            .prop_map(Part::Names),
        prop::collection::vec(slot(), few.clone()).prop_map(Part::Drops),
        prop::collection::vec(
            (slot(), mode, any::<u64>()).prop_map(|(slot, mode, have)| TopicWant { slot, mode, have }),
            few.clone()
        )
        .prop_map(Part::Wants),
        prop::collection::vec(document, few.clone()).prop_map(Part::Documents),
        prop::collection::vec(
            (slot(), 0u64..100_000, any::<u8>()).prop_map(|(slot, sequence, hops)| Digest { slot, sequence, hops }),
            few.clone()
        )
        .prop_map(Part::Digests),
        prop::collection::vec(hint, few).prop_map(Part::Hints),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever a neighbour says, in whatever role: nothing panics, nothing grows, and the others' presence arrives.
    #[test]
    fn whatever_a_neighbour_says_the_others_are_heard(
        frames in prop::collection::vec((prop::collection::vec(any_part(), 0..4), 0usize..5), 1..24),
        is_carrier in any::<bool>(),
    ) {
        let carriers: &[usize] = if is_carrier { &[2, 5] } else { &[] };
        let mut net = Net::new(6, carriers);
        for one in 0..5 {
            for other in one + 1..5 {
                net.befriend(one, other);
            }
        }
        for (one, other) in [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (3, 4), (0, 3), (5, 0), (5, 1), (4, 1)] {
            net.connect(one, other);
        }
        net.puppets.push(4);
        net.puppets.push(5);
        for (round, (parts, to)) in frames.into_iter().enumerate() {
            let from = if round % 2 == 0 { 4 } else { 5 };
            if net.are_linked(from, to) {
                net.inject(from, to, parts);
            }
            net.run(Duration::from_millis(300));
        }
        net.say(0, State::Away, "through");
        net.secs(40);
        for viewer in 1..4 {
            prop_assert_eq!(net.sees(viewer, 0).mood, "through", "{}", viewer);
        }
        prop_assert!(net.machines.iter().all(|machine| machine.size().0 <= 40 && machine.size().1 <= 5));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = wire::decode::<PresenceGossip>(&bytes, PresenceGossip::LIMIT);
        let _ = wire::decode::<SealedDocument>(&bytes, 1_000);
        let _ = wire::decode::<PresenceKey>(&bytes, 1_000).map(|key| key.topic(&DeviceKey(PublicKey([1; 32])), Day(1)));
    }
}
