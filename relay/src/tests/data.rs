//! Data through the relay: to peers and back, and between two clients.

use std::net::SocketAddr;
use std::time::Duration;

use super::harness::*;
use crate::metrics::{Direction, DropReason};
use crate::packet::{HEADROOM_BYTES, ListenerId, Transport};
use crate::quota::Limits;
use crate::stun::attribute::AttributeType;

/// Ann with an allocation, a permission and a channel for [`PEER`].
fn ann_and_peer(lab: &mut Lab) -> (Client, SocketAddr) {
    let mut ann = Client::ann("192.0.2.1:1");
    let relayed = ann.allocate(lab);
    assert_eq!(ann.bind(lab, 0x4000, address(PEER)).code(), 0);
    (ann, relayed)
}

#[test]
fn channel_data_reaches_the_peer_and_its_answer_the_client() {
    let mut lab = Lab::new();
    let (ann, relayed) = ann_and_peer(&mut lab);
    for data in [&b""[..], b"x", &[7; 160], &[7; 60_000]] {
        // Padding after the data is no part of it.
        lab.client_sends(ann.path, &[&channel_data(0x4000, data)[..], &[0xEE; 3]].concat());
        assert_eq!(lab.taken_by_peer(), (address(PEER), data.to_vec(), false));
        for headroom in [0, 3, 4, 64] {
            lab.peer_sends(PEER, relayed, data, headroom);
            assert_eq!(lab.taken(), (ann.path, channel_data(0x4000, data)));
        }
    }
    assert_eq!(lab.sink.in_place, 4 * 2, "in place where four bytes of headroom were given");
    let snapshot = lab.snapshot();
    assert_eq!((snapshot.relayed(Direction::ToPeer), snapshot.relayed(Direction::ToClient)), (4, 16));
    assert_eq!(snapshot.relayed_bytes(Direction::ToPeer), 60_161);
}

#[test]
fn indications_reach_the_peer_and_its_answer_the_client() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    let response = ann.ask(&mut lab, crate::stun::Method::ALLOCATE, &|m| {
        with_udp(m)?.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])
    });
    let relayed = response.addresses(AttributeType::XOR_RELAYED_ADDRESS);
    ann.permit(&mut lab, &[address(PEER), address(PEER_V6)]);
    for (peer, relayed) in [PEER, PEER_V6].into_iter().zip(relayed) {
        for data in [&b""[..], b"x", b"xyz", &[7; 1_200]] {
            lab.client_sends(ann.path, &send_indication(address(peer), data, NOTHING));
            assert_eq!(lab.taken_by_peer(), (address(peer), data.to_vec(), false));
            for headroom in [0, 4, HEADROOM_BYTES] {
                lab.peer_sends(peer, relayed, data, headroom);
                let (to, bytes) = lab.taken();
                assert_eq!((to, bytes.len() % 4), (ann.path, 0));
                assert_eq!(read_data(&bytes), (address(peer), data.to_vec()));
            }
        }
    }
    lab.client_sends(ann.path, &send_indication(address(PEER), b"x", &|m| m.attribute(AttributeType::DONT_FRAGMENT, b"")));
    assert_eq!(lab.taken_by_peer(), (address(PEER), b"x".to_vec(), true));
}

#[test]
fn what_may_not_pass_is_dropped_with_its_reason() {
    let mut lab = Lab::with(|settings| settings.can_set_dont_fragment = false);
    let (ann, relayed) = ann_and_peer(&mut lab);
    let stranger = udp("192.0.2.1:2");
    let peer = address(PEER);
    let no_data = &send_indication(peer, b"", NOTHING)[..32];
    let mut no_data = no_data.to_vec();
    no_data[3] = 12;
    let cases = [
        (stranger, channel_data(0x4000, b"x"), DropReason::NoAllocation),
        (stranger, send_indication(peer, b"x", NOTHING), DropReason::NoAllocation),
        (ann.path, channel_data(0x4001, b"x"), DropReason::UnknownChannel),
        (ann.path, b"\x40\x00\x00\x05data".to_vec(), DropReason::Malformed),
        (ann.path, b"\x40\x00\x00".to_vec(), DropReason::Malformed),
        (ann.path, send_indication(address("8.8.4.4:1"), b"x", NOTHING), DropReason::NoPermission),
        (ann.path, send_indication(address(PEER_V6), b"x", NOTHING), DropReason::WrongFamily),
        (ann.path, send_indication(address("8.8.8.8:0"), b"x", NOTHING), DropReason::ForbiddenPeer),
        (ann.path, no_data, DropReason::Malformed),
        (ann.path, send_indication(peer, b"x", &|m| m.attribute(AttributeType(0x7777), b"")), DropReason::Malformed),
        (ann.path, send_indication(peer, b"x", &|m| m.attribute(AttributeType::DONT_FRAGMENT, b"")), DropReason::Malformed),
    ];
    for (path, packet, reason) in cases {
        let before = lab.dropped(reason);
        lab.client_sends(path, &packet);
        lab.assert_silent();
        assert_eq!(lab.dropped(reason), before + 1, "{reason:?}");
    }
    lab.peer_sends("8.8.4.4:5000", relayed, b"x", 64);
    assert_eq!(lab.dropped(DropReason::PeerNotPermitted), 1);
    lab.assert_silent();
    // Another port of a permitted address is let in, without a channel.
    lab.peer_sends("8.8.8.8:6000", relayed, b"x", 64);
    assert_eq!(read_data(&lab.taken().1).0, address("8.8.8.8:6000"));
}

/// Two clients of one relay, each with the other's relayed address.
fn pair(lab: &mut Lab) -> [(Client, SocketAddr); 2] {
    let (mut ann, mut bob) = (Client::ann("192.0.2.1:1"), Client::bob("192.0.2.2:2"));
    let (at_ann, at_bob) = (ann.allocate(lab), bob.allocate(lab));
    [(ann, at_ann), (bob, at_bob)]
}

#[test]
fn a_pair_with_channels_is_served_in_place_and_at_once() {
    let mut lab = Lab::new();
    let [(mut ann, at_ann), (mut bob, at_bob)] = pair(&mut lab);
    assert_eq!(ann.bind(&mut lab, 0x4005, at_bob).code(), 0);
    assert_eq!(bob.bind(&mut lab, 0x4777, at_ann).code(), 0);
    for data in [&b""[..], b"x", &[7; 1_200]] {
        lab.sink.in_place = 0;
        lab.client_sends_without_headroom(ann.path, &channel_data(0x4005, data));
        assert_eq!(lab.taken(), (bob.path, channel_data(0x4777, data)));
        lab.client_sends_without_headroom(bob.path, &channel_data(0x4777, data));
        assert_eq!(lab.taken(), (ann.path, channel_data(0x4005, data)));
        assert_eq!(lab.sink.in_place, 2);
    }
    assert_eq!((lab.snapshot().relayed(Direction::Pair), lab.sink.to_peers.len()), (6, 0), "no relayed socket was used");
}

#[test]
fn a_pair_works_with_every_mixture_of_channels_and_indications() {
    let mut lab = Lab::new();
    let [(mut ann, at_ann), (mut bob, at_bob)] = pair(&mut lab);
    ann.permit(&mut lab, &[at_bob]);
    bob.permit(&mut lab, &[at_ann]);
    let data = b"some data";
    lab.client_sends(ann.path, &send_indication(at_bob, data, NOTHING));
    let (to, bytes) = lab.taken();
    assert_eq!((to, read_data(&bytes)), (bob.path, (at_ann, data.to_vec())));
    // A channel at the sender only.
    ann.bind(&mut lab, 0x4000, at_bob);
    for headroom in [true, false] {
        let packet = channel_data(0x4000, data);
        if headroom {
            lab.client_sends(ann.path, &packet)
        } else {
            lab.client_sends_without_headroom(ann.path, &packet)
        }
        assert_eq!(read_data(&lab.taken().1), (at_ann, data.to_vec()));
    }
    // At both; the sender learns of the other's without asking.
    bob.bind(&mut lab, 0x4001, at_ann);
    lab.client_sends(ann.path, &channel_data(0x4000, data));
    assert_eq!(lab.taken(), (bob.path, channel_data(0x4001, data)));
    // At the receiver only.
    lab.client_sends(bob.path, &send_indication(at_ann, data, NOTHING));
    assert_eq!(lab.taken(), (ann.path, channel_data(0x4000, data)));
}

#[test]
fn a_pair_needs_both_permissions_as_long_as_they_last() {
    let mut lab = Lab::new();
    let [(mut ann, at_ann), (mut bob, at_bob)] = pair(&mut lab);
    ann.refresh(&mut lab, 3_600);
    bob.refresh(&mut lab, 3_600);
    ann.bind(&mut lab, 0x4000, at_bob);
    let send = |lab: &mut Lab| {
        lab.client_sends(udp("192.0.2.1:1"), &channel_data(0x4000, b"x"));
        !std::mem::take(&mut lab.sink.to_clients).is_empty()
    };
    assert!(!send(&mut lab), "bob hasn't permitted ann");
    assert_eq!(lab.dropped(DropReason::PairNotPermitted), 1);
    bob.permit(&mut lab, &[at_ann]);
    assert!(send(&mut lab));
    lab.pass(Duration::from_secs(299));
    assert!(send(&mut lab));
    lab.pass(Duration::from_secs(1));
    assert!(!send(&mut lab), "bob's permission has run out");
    bob.permit(&mut lab, &[at_ann]);
    assert!(send(&mut lab));
    bob.refresh(&mut lab, 0);
    assert!(!send(&mut lab), "bob is gone");
    assert_eq!(lab.dropped(DropReason::NoSuchRelayedAddress), 1);
}

#[test]
fn a_relayed_address_that_goes_to_somebody_else_is_not_mistaken() {
    let mut lab = Lab::with(|settings| settings.ports = (50_000, 50_001));
    let [(mut ann, at_ann), (mut bob, at_bob)] = pair(&mut lab);
    ann.bind(&mut lab, 0x4000, at_bob);
    bob.bind(&mut lab, 0x4000, at_ann);
    lab.client_sends(ann.path, &channel_data(0x4000, b"x"));
    assert_eq!(lab.taken().0, bob.path);
    bob.refresh(&mut lab, 0);
    let mut cid = Client::bob("192.0.2.3:3");
    assert_eq!(cid.allocate(&mut lab), at_bob, "the only port left");
    lab.client_sends(ann.path, &channel_data(0x4000, b"x"));
    lab.assert_silent();
    assert_eq!(lab.dropped(DropReason::PairNotPermitted), 1);
    cid.permit(&mut lab, &[at_ann]);
    lab.client_sends(ann.path, &channel_data(0x4000, b"x"));
    let (to, bytes) = lab.taken();
    assert_eq!((to, read_data(&bytes).0), (cid.path, at_ann));
}

#[test]
fn a_pair_on_two_threads_is_served_at_once_too() {
    let mut one = Lab::new();
    let mut other = one.second(1);
    let (mut ann, mut bob) = (Client::ann("192.0.2.1:1"), Client::bob("192.0.2.2:2"));
    let (at_ann, at_bob) = (ann.allocate(&mut one), bob.allocate(&mut other));
    ann.bind(&mut one, 0x4000, at_bob);
    bob.bind(&mut other, 0x4001, at_ann);
    one.client_sends(ann.path, &channel_data(0x4000, b"x"));
    assert_eq!(one.taken(), (bob.path, channel_data(0x4001, b"x")));
    other.client_sends(bob.path, &channel_data(0x4001, b"y"));
    assert_eq!(other.taken(), (ann.path, channel_data(0x4000, b"y")));
}

#[test]
fn a_stream_of_another_thread_is_reached_through_the_sockets() {
    let mut one = Lab::new();
    let mut other = one.second(1);
    let (mut ann, mut bob) = (Client::ann("192.0.2.1:1"), Client::new(stream("192.0.2.2:2", 4), "bob", "secret"));
    let (at_ann, at_bob) = (ann.allocate(&mut one), bob.allocate(&mut other));
    ann.bind(&mut one, 0x4000, at_bob);
    bob.bind(&mut other, 0x4001, at_ann);
    one.client_sends(ann.path, &channel_data(0x4000, b"x"));
    let (to, data, _) = one.taken_by_peer();
    assert_eq!(to.to_string(), format!("{LOCAL_V4}:{}", at_bob.port()), "where this machine knows it");
    other.peer_sends(&format!("{LOCAL_V4}:{}", at_ann.port()), at_bob, &data, 64);
    assert_eq!(other.taken(), (bob.path, channel_data(0x4001, b"x")));
    // Towards UDP there is no detour.
    other.client_sends(bob.path, &channel_data(0x4001, b"y"));
    assert_eq!(other.taken(), (ann.path, channel_data(0x4000, b"y")));
}

#[test]
fn a_client_may_talk_to_itself() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    let relayed = ann.allocate(&mut lab);
    ann.bind(&mut lab, 0x4000, relayed);
    lab.client_sends(ann.path, &channel_data(0x4000, b"x"));
    assert_eq!(lab.taken(), (ann.path, channel_data(0x4000, b"x")));
}

#[test]
fn the_same_address_on_two_listeners_is_two_clients() {
    let mut lab = Lab::new();
    let (mut ann, _) = ann_and_peer(&mut lab);
    let mut twin = ann.clone();
    twin.path.transport = Transport::Datagram(ListenerId(1));
    lab.client_sends(twin.path, &channel_data(0x4000, b"x"));
    assert_eq!(lab.dropped(DropReason::NoAllocation), 1);
    twin.allocate(&mut lab);
    assert_eq!(lab.relay.allocation_count(), 2);
    ann.refresh(&mut lab, 0);
    assert!(lab.relay.has_allocation(&twin.path));
}

#[test]
fn rates_drop_and_name_themselves() {
    for (change, reason) in [
        ((|limits| limits.user_bytes_per_sec = 10_000) as fn(&mut Limits), DropReason::UserBandwidth),
        (|limits| limits.user_packets_per_sec = 10, DropReason::UserPackets),
        (|limits| limits.address_bytes_per_sec = 10_000, DropReason::AddressBandwidth),
        (|limits| limits.total_bytes_per_sec = 10_000, DropReason::TotalBandwidth),
        (|limits| limits.total_packets_per_sec = 10, DropReason::TotalPackets),
    ] {
        let mut lab = Lab::with(|settings| change(&mut settings.limits));
        let (ann, relayed) = ann_and_peer(&mut lab);
        for _ in 0..100 {
            lab.client_sends(ann.path, &channel_data(0x4000, &[7; 1_000]));
            lab.peer_sends(PEER, relayed, &[7; 1_000], 64);
        }
        let passed = lab.sink.to_peers.len() + lab.sink.to_clients.len();
        assert!((1..=12).contains(&passed), "{reason:?}: {passed} of 200 passed");
        assert_eq!(lab.dropped(reason), 200 - passed as u64);
    }
}
