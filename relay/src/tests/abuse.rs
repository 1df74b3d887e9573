//! Abuse: forbidden destinations, forged requests, amplification.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::harness::*;
use crate::handler::AMPLIFICATION_MAX;
use crate::metrics::DropReason;
use crate::peer_filter::FORBIDDEN;
use crate::quota::RateLimit;
use crate::stun::attribute::AttributeType;
use crate::stun::{Class, Message, MessageBuilder, Method, TransactionId};

#[test]
fn no_forbidden_destination_is_reached_in_any_way() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    let both: Fill<'_> = &|m| with_udp(m)?.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    assert_eq!(ann.ask(&mut lab, Method::ALLOCATE, both).code(), 0);
    let mut refused = 0;
    for text in FORBIDDEN {
        let peer = SocketAddr::new(text.parse().unwrap(), 53);
        assert_eq!(ann.permit(&mut lab, &[peer]).code(), 403, "{text}");
        assert_eq!(ann.bind(&mut lab, 0x4000, peer).code(), 403, "{text}");
        lab.client_sends(ann.path, &send_indication(peer, b"x", NOTHING));
        lab.assert_silent();
        refused += 1;
    }
    assert_eq!(lab.dropped(DropReason::NoPermission), refused);
    eprintln!("{refused} addresses refused by CreatePermission, ChannelBind and Send");
}

/// The relayed addresses are the only ones of the machine that may be named, and only as what they are.
#[test]
fn the_machines_other_ports_are_out_of_reach_behind_a_permission_for_a_relayed_address() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    let relayed = ann.allocate(&mut lab);
    assert_eq!(ann.permit(&mut lab, &[relayed]).code(), 0, "for a pair");
    for port in [22, 3_478, 49_999, 51_000] {
        let peer = SocketAddr::new(relayed.ip(), port);
        lab.client_sends(ann.path, &send_indication(peer, b"x", NOTHING));
        assert_eq!(ann.bind(&mut lab, 0x4000, peer).code(), 403, "{port}");
    }
    assert_eq!(lab.dropped(DropReason::ForbiddenPeer), 4);
    let unused = SocketAddr::new(relayed.ip(), if relayed.port() == 50_000 { 50_001 } else { 50_000 });
    lab.client_sends(ann.path, &send_indication(unused, b"x", NOTHING));
    assert_eq!(lab.dropped(DropReason::NoSuchRelayedAddress), 1);
    assert_eq!(ann.permit(&mut lab, &[address(&format!("{LOCAL_V4}:1"))]).code(), 403, "its address inside the NAT");
    lab.assert_silent();
}

fn unsigned(method: Method, count: u32) -> Vec<u8> {
    let mut id = [0; 12];
    id[..4].copy_from_slice(&count.to_be_bytes());
    let mut buffer = [0; 64];
    let message = MessageBuilder::begin(&mut buffer, Class::Request, method, TransactionId(id)).unwrap();
    let length = with_udp(message).unwrap().finish();
    buffer[..length].to_vec()
}

/// The requirement's case. Everything the relay keeps is counted: there is nothing in it for a sender that wasn't authenticated.
#[test]
fn a_hundred_thousand_forged_requests_leave_no_trace_and_disturb_nobody() {
    const FORGED: u32 = 100_000;
    let mut lab = Lab::with(|settings| {
        settings.rate_limit = RateLimit { per_sec: 50, burst: 200 };
        settings.sources_max = 1_024;
    });
    let mut ann = Client::ann("192.0.2.1:1");
    let relayed = ann.allocate(&mut lab);
    ann.bind(&mut lab, 0x4000, address(PEER));
    let mut forger = Client::new(udp("192.0.2.9:9"), "ann", "guessed");
    forger.nonce = vec![b'x'; 29];
    let (mut answered, mut relayed_packets) = (0, 0);
    for count in 0..FORGED {
        let source = SocketAddr::new(std::net::Ipv4Addr::from(0x0B00_0000 + count).into(), 1_024 + (count % 60_000) as u16);
        let path = crate::packet::ClientPath { address: source, ..forger.path };
        let packet = match count % 4 {
            0 => unsigned(Method::ALLOCATE, count),
            1 => forger.request(Method::ALLOCATE, &with_udp),
            2 => forger.request(Method::CREATE_PERMISSION, NOTHING),
            _ => channel_data(0x4000, b"forged"),
        };
        lab.client_sends(path, &packet);
        answered += lab.sink.to_clients.drain(..).count();
        if count % 100 == 0 {
            lab.client_sends(ann.path, &channel_data(0x4000, b"voice"));
            lab.peer_sends(PEER, relayed, b"voice", 64);
            relayed_packets += lab.sink.to_peers.drain(..).count() + lab.sink.to_clients.drain(..).count();
        }
    }
    assert_eq!(relayed_packets, 2 * (FORGED / 100) as usize, "the call lost nothing");
    assert_eq!((lab.relay.allocation_count(), lab.relay.by_client.len()), (1, 1));
    assert_eq!((lab.relay.timers.len(), lab.sink.open.len()), (1, 1));
    assert_eq!(lab.relay.shared().shares.usage().len(), 1);
    assert_eq!(lab.relay.rates.capacity(), 1_024, "sources remembered, from the start");
    assert_eq!(ann.refresh(&mut lab, 600).code(), 0);
    eprintln!(
        "{FORGED} forged: {answered} answered, 1 allocation, 1 path, 1 timer, 1 user kept, 2000 of 2000 packets of a call relayed"
    );
}

#[test]
fn allocating_and_giving_back_all_the_time_fills_nothing() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    for _ in 0..1_000 {
        ann.allocate(&mut lab);
        assert_eq!(ann.refresh(&mut lab, 0).code(), 0);
    }
    assert!(lab.relay.timers.len() <= 64, "{} timers", lab.relay.timers.len());
    assert_eq!((lab.sink.open.len(), lab.relay.by_client.len(), lab.relay.shared().shares.usage().len()), (0, 0, 1));
}

#[test]
fn a_source_has_its_share_of_challenges_and_no_more() {
    let mut lab = Lab::with(|settings| settings.rate_limit = RateLimit { per_sec: 10, burst: 3 });
    let mut answered = 0;
    for count in 0..100 {
        lab.client_sends(udp("192.0.2.1:1"), &unsigned(Method::ALLOCATE, count));
        answered += lab.sink.to_clients.drain(..).count();
    }
    assert_eq!((answered, lab.dropped(DropReason::RateLimited)), (3, 97));
    // Who is known has no part in that share: a call behind the same address goes on.
    let mut lab = Lab::with(|settings| settings.rate_limit = RateLimit { per_sec: 1, burst: 1 });
    let mut ann = Client::ann("192.0.2.1:1");
    ann.allocate(&mut lab);
    for _ in 0..50 {
        assert_eq!(ann.refresh(&mut lab, 600).code(), 0);
    }
}

#[test]
fn own_responses_sent_back_start_no_loop() {
    let mut lab = Lab::new();
    let response = lab.exchange(udp("192.0.2.1:9"), &unsigned(Method::ALLOCATE, 1));
    lab.client_sends(udp("192.0.2.1:9"), &response);
    lab.assert_silent();
}

/// Attributes of arbitrary types and lengths, with and without fingerprint.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let attributes = proptest::collection::vec((any::<u16>(), 0_usize..40), 0..60);
    let method = prop_oneof![
        Just(Method::BINDING),
        Just(Method::ALLOCATE),
        Just(Method::REFRESH),
        Just(Method::CREATE_PERMISSION),
        Just(Method::CHANNEL_BIND)
    ];
    (attributes, method, any::<bool>()).prop_map(|(attributes, method, has_fingerprint)| {
        let mut buffer = vec![0; 8_192];
        let mut message = MessageBuilder::begin(&mut buffer, Class::Request, method, TransactionId([1; 12])).unwrap();
        for (kind, bytes) in attributes {
            message = message.attribute(AttributeType(kind), &[0; 40][..bytes]).unwrap();
        }
        let message = if has_fingerprint { message.fingerprint().unwrap() } else { message };
        let length = message.finish();
        buffer.truncate(length);
        buffer
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_response_amplifies_beyond_the_promise(packets in proptest::collection::vec(requests(), 1..8), over_ipv6 in any::<bool>()) {
        let mut lab = Lab::new();
        let source = if over_ipv6 { "[2001:db8::1]:9" } else { "192.0.2.1:9" };
        for packet in packets.iter().chain([&packets[0][..20].to_vec()]) {
            lab.client_sends(udp(source), packet);
            for (_, response) in lab.sink.to_clients.drain(..) {
                prop_assert!(response.len() as f64 <= AMPLIFICATION_MAX * packet.len() as f64, "{} to {}", response.len(), packet.len());
                prop_assert!(Message::parse(&response).is_ok());
            }
        }
    }
}

#[test]
fn the_worst_amplification_is_the_one_stated() {
    let mut lab = Lab::with(|settings| settings.realm = "sixteen bytes...".into());
    let bare = {
        let mut buffer = [0; 20];
        let _ = MessageBuilder::begin(&mut buffer, Class::Request, Method::REFRESH, TransactionId([1; 12])).unwrap().finish();
        buffer
    };
    let response = lab.exchange(udp("192.0.2.1:9"), &bare);
    assert_eq!(response.len() as f64 / 20.0, AMPLIFICATION_MAX);
}
