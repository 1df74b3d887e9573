//! Arbitrary sequences of operations, right ones and garbage mixed: nothing panics, what is open belongs to an allocation, nothing is sent
//! to a peer without permission, and everything ends.

use std::time::Duration;

use proptest::prelude::*;

use super::harness::*;
use crate::stun::attribute::AttributeType;
use crate::stun::{Class, Message, Method};

#[derive(Debug, Clone)]
enum Step {
    Allocate { client: usize, both: bool, even: Option<u8> },
    Refresh { client: usize, seconds: u32 },
    Permit { client: usize, peer: usize },
    Bind { client: usize, number: u16, peer: usize },
    Send { client: usize, peer: usize, bytes: usize },
    Channel { client: usize, number: u16, bytes: usize },
    FromPeer { peer: usize, bytes: usize, headroom: usize },
    Garbage { client: usize, bytes: Vec<u8> },
    Mangled { client: usize, at: usize, bit: u8 },
    Pass { seconds: u64 },
    Tick,
}

const PEERS: [&str; 4] = [PEER, "8.8.4.4:6000", PEER_V6, "127.0.0.1:1"];

/// Peers, then the relayed addresses of clients.
fn peer(lab: &Lab, index: usize) -> std::net::SocketAddr {
    if let Some(text) = PEERS.get(index) {
        return address(text);
    }
    let mut open: Vec<_> = lab.sink.open.values().copied().collect();
    open.sort();
    open.get(index - PEERS.len()).map_or(address(PEER), |local| lab.relay.shared().external(*local))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (client, peer) = (0_usize..4, 0_usize..8);
    let number = 0x4000_u16..0x4004;
    let step = prop_oneof![
        3 => (client.clone(), any::<bool>(), proptest::option::of(any::<u8>()))
            .prop_map(|(client, both, even)| Step::Allocate { client, both, even }),
        1 => (client.clone(), prop_oneof![Just(0_u32), 1_u32..5_000]).prop_map(|(client, seconds)| Step::Refresh { client, seconds }),
        3 => (client.clone(), peer.clone()).prop_map(|(client, peer)| Step::Permit { client, peer }),
        3 => (client.clone(), number.clone(), peer.clone()).prop_map(|(client, number, peer)| Step::Bind { client, number, peer }),
        3 => (client.clone(), peer.clone(), 0_usize..50).prop_map(|(client, peer, bytes)| Step::Send { client, peer, bytes }),
        5 => (client.clone(), number, 0_usize..50).prop_map(|(client, number, bytes)| Step::Channel { client, number, bytes }),
        3 => (peer, 0_usize..50, 0_usize..70).prop_map(|(peer, bytes, headroom)| Step::FromPeer { peer, bytes, headroom }),
        2 => (client.clone(), proptest::collection::vec(any::<u8>(), 0..80)).prop_map(|(client, bytes)| Step::Garbage { client, bytes }),
        2 => (client, any::<usize>(), 0_u8..8).prop_map(|(client, at, bit)| Step::Mangled { client, at, bit }),
        2 => (0_u64..400).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Tick),
    ];
    proptest::collection::vec(step, 1..120)
}

fn perform(lab: &mut Lab, clients: &mut [Client], step: &Step) {
    match step {
        Step::Allocate { client, both, even } => {
            clients[*client].nonce.clear();
            clients[*client].ask(lab, Method::ALLOCATE, &|m| {
                let m = with_udp(m)?;
                let m = if *both { m.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])? } else { m };
                match even {
                    Some(flags) => m.attribute(AttributeType::EVEN_PORT, &[*flags]),
                    None => Ok(m),
                }
            });
        }
        Step::Refresh { client, seconds } => drop(clients[*client].refresh(lab, *seconds)),
        Step::Permit { client, peer: index } => {
            let peer = peer(lab, *index);
            clients[*client].permit(lab, &[peer]);
        }
        Step::Bind { client, number, peer: index } => {
            let peer = peer(lab, *index);
            clients[*client].bind(lab, *number, peer);
        }
        Step::Send { client, peer: index, bytes } => {
            let packet = send_indication(peer(lab, *index), &vec![7; *bytes], NOTHING);
            lab.client_sends(clients[*client].path, &packet);
        }
        Step::Channel { client, number, bytes } => {
            lab.client_sends_without_headroom(clients[*client].path, &channel_data(*number, &vec![7; *bytes]));
        }
        Step::FromPeer { peer: index, bytes, headroom } => {
            let from = peer(lab, *index).to_string();
            let open = lab.sink.open.values().next().copied();
            if let Some(local) = open {
                let relayed = lab.relay.shared().external(local);
                lab.peer_sends(&from, relayed, &vec![7; *bytes], *headroom);
            }
        }
        Step::Garbage { client, bytes } => lab.client_sends(clients[*client].path, bytes),
        Step::Mangled { client, at, bit } => {
            let mut packet = clients[*client].request(Method::ALLOCATE, &with_udp);
            let index = at % packet.len();
            packet[index] ^= 1 << bit;
            lab.client_sends(clients[*client].path, &packet);
        }
        Step::Pass { seconds } => lab.pass(Duration::from_secs(*seconds)),
        Step::Tick => lab.tick(),
    }
}

fn check(lab: &mut Lab) {
    for (to, bytes) in lab.sink.to_clients.drain(..) {
        assert!(!bytes.is_empty());
        if bytes[0] < 0x40 {
            let message = Message::parse(&bytes).expect("what looks like stun is");
            assert_ne!(message.class(), Class::Request);
        }
        assert!(to.address.port() != 0);
    }
    for (_, to, ..) in lab.sink.to_peers.drain(..) {
        assert!(!to.ip().is_loopback(), "a forbidden peer was reached");
        assert!(!lab.relay.shared().settings.peer_filter.own.contains(&to.ip()), "the relay reached itself");
    }
    let open = lab.sink.open.len();
    assert!((lab.relay.allocation_count()..=2 * lab.relay.allocation_count()).contains(&open));
    assert_eq!(lab.relay.by_client.len(), lab.relay.allocation_count());
    assert!(lab.relay.timers.len() >= lab.relay.allocation_count());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_operations_keeps_the_tables_right(steps in steps()) {
        let mut lab = Lab::new();
        let mut clients: Vec<_> = (0..4).map(|number| {
            let path = if number == 3 { stream("192.0.2.4:4", 3) } else { udp(&format!("192.0.2.{number}:{}", number + 1)) };
            Client::new(path, if number % 2 == 0 { "ann" } else { "bob" }, "secret")
        }).collect();
        for step in &steps {
            perform(&mut lab, &mut clients, step);
            check(&mut lab);
        }
        lab.pass(Duration::from_secs(4_000));
        lab.tick();
        prop_assert_eq!((lab.relay.allocation_count(), lab.sink.open.len(), lab.relay.timers.len()), (0, 0, 0));
        let snapshot = lab.snapshot();
        prop_assert_eq!(snapshot.allocations_made, snapshot.allocations_ended);
        // Every port is free again, once reservations have run out.
        lab.pass(Duration::from_secs(60));
        lab.tick();
        prop_assert!(lab.sink.held.lock().unwrap().is_empty() && lab.sink.parked.is_empty());
        prop_assert!(lab.relay.shared().shares.usage().iter().all(|(_, usage)| usage.allocations == 0));
    }
}
