//! The stock protocols with lazy negotiation, over real sockets.

use libp2p::{identify, swarm::SwarmEvent};

use super::*;
use crate::{
    behaviour::BehaviourEvent,
    streams::Keeper,
    test_swarm::{TestPeer, lab, until},
};

const TRANSPORTS: [&str; 2] = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"];

fn serving() -> SwarmOptions {
    SwarmOptions { relay_server: true, autonat_server: true, ..lab() }
}

fn seen(peer: &TestPeer, matches: impl Fn(&BehaviourEvent) -> bool) -> bool {
    peer.events.iter().any(|event| matches!(event, SwarmEvent::Behaviour(event) if matches(event)))
}

#[tokio::test]
async fn identify_ping_and_autonat_work_both_ways() {
    for address in TRANSPORTS {
        let mut server = TestPeer::listening_with(address, serving()).await;
        let mut client = TestPeer::listening(address).await;
        server.swarm.behaviour_mut().streams.keep(client.id, Keeper::Directory, true);
        client.swarm.behaviour_mut().streams.keep(server.id, Keeper::Directory, true);
        client.swarm.behaviour_mut().autonat_client = Some(autonat::v2::client::Behaviour::new(
            rand::make_rng(),
            autonat::v2::client::Config::default().with_probe_interval(Duration::from_millis(100)),
        ))
        .into();
        client.dial(&server);
        until(
            &mut [&mut server, &mut client],
            "identify, ping, and a dial-back to the address identify has observed",
            |[server, client]| {
                let both = [&**server, &**client];
                both.iter().all(|peer| {
                    seen(peer, |event| {
                        matches!(
                            event,
                            BehaviourEvent::Identify(identify::Event::Received { info, .. })
                                if info.protocol_version == PROTOCOL_VERSION && info.agent_version == AGENT
                        )
                    }) && seen(peer, |event| matches!(event, BehaviourEvent::Ping(ping) if ping.result.is_ok()))
                }) && seen(client, |event| matches!(event, BehaviourEvent::AutonatClient(test) if test.result.is_ok()))
            },
        )
        .await;
    }
}

#[tokio::test]
async fn a_relayed_connection_becomes_direct_by_hole_punching() {
    use libp2p::multiaddr::Protocol;
    for address in TRANSPORTS {
        let mut relay = TestPeer::listening_with(address, serving()).await;
        let public = relay.addresses().swap_remove(0);
        relay.swarm.add_external_address(public.clone());
        let mut alice = TestPeer::listening(address).await;
        let mut bob = TestPeer::listening(address).await;
        let listen = circuit_address(relay.id, &public, None);
        bob.swarm.listen_on(listen).expect("the relay transport");
        alice.dial(&relay);
        until(&mut [&mut relay, &mut alice, &mut bob], "reserved, and both know how the relay sees them", |[_, alice, bob]| {
            let identified =
                |peer: &TestPeer| seen(peer, |event| matches!(event, BehaviourEvent::Identify(identify::Event::Received { .. })));
            let reserved = bob.addresses().iter().any(|address| address.iter().any(|p| p == Protocol::P2pCircuit));
            identified(alice) && identified(bob) && reserved
        })
        .await;
        let circuit = circuit_address(relay.id, &public, Some(bob.id));
        alice.swarm.dial(circuit).expect("a free dial slot");
        until(&mut [&mut relay, &mut alice, &mut bob], "punched", |[_, alice, bob]| {
            let direct = |peer: &TestPeer, other| peer.swarm.behaviour().streams.is_direct(&other);
            // Whose dial wins is chance; only the winner says so.
            let punched =
                |peer: &TestPeer| seen(peer, |event| matches!(event, BehaviourEvent::Dcutr(event) if event.result.is_ok()));
            direct(alice, bob.id) && direct(bob, alice.id) && (punched(alice) || punched(bob))
        })
        .await;
    }
}

#[tokio::test]
async fn a_relayed_connection_shows_no_address_until_it_is_opened() {
    use libp2p::multiaddr::Protocol;
    let home = || SwarmOptions { lab: false, hide_listen: true, ..lab() };
    for address in TRANSPORTS {
        let mut relay = TestPeer::listening_with(address, serving()).await;
        let public = relay.addresses().swap_remove(0);
        relay.swarm.add_external_address(public.clone());
        let mut alice = TestPeer::listening_with(address, home()).await;
        let mut bob = TestPeer::listening_with(address, home()).await;
        bob.swarm.listen_on(circuit_address(relay.id, &public, None)).expect("the relay transport");
        alice.dial(&relay);
        let told = |peer: &TestPeer, by| {
            seen(
                peer,
                |event| matches!(event, BehaviourEvent::Identify(identify::Event::Received { peer_id, .. }) if *peer_id == by),
            )
        };
        let relay_id = relay.id;
        until(&mut [&mut relay, &mut alice, &mut bob], "reserved, and both know how the relay sees them", |[_, alice, bob]| {
            let reserved = bob.addresses().iter().any(|address| address.iter().any(|p| p == Protocol::P2pCircuit));
            told(alice, relay_id) && told(bob, relay_id) && reserved
        })
        .await;
        let (alice_id, bob_id) = (alice.id, bob.id);
        alice.swarm.dial(circuit_address(relay.id, &public, Some(bob.id))).expect("a free dial slot");
        until(&mut [&mut relay, &mut alice, &mut bob], "connected, and a ping's time over", |[_, alice, bob]| {
            let pinged =
                |peer: &TestPeer, other| seen(peer, |event| matches!(event, BehaviourEvent::Ping(ping) if ping.peer == other));
            pinged(alice, bob_id) && pinged(bob, alice_id)
        })
        .await;
        // DCUtR of one side alone finds nobody to talk to.
        assert!(bob.swarm.behaviour_mut().dcutr.open_taken(&alice_id), "bob believes it is somebody he knows");
        until(&mut [&mut relay, &mut alice, &mut bob], "refused", |[_, _, bob]| {
            seen(bob, |event| matches!(event, BehaviourEvent::Dcutr(event) if event.result.is_err()))
        })
        .await;
        assert!(!told(&alice, bob_id) && !told(&bob, alice_id), "identify has spoken");
        assert!(!alice.swarm.behaviour().streams.is_direct(&bob_id));

        alice
            .swarm
            .dial(
                libp2p::swarm::dial_opts::DialOpts::peer_id(bob_id)
                    .condition(libp2p::swarm::dial_opts::PeerCondition::Always)
                    .addresses(vec![circuit_address(relay.id, &public, Some(bob_id))])
                    .build(),
            )
            .expect("a free dial slot");
        until(&mut [&mut relay, &mut alice, &mut bob], "connected again", |[_, alice, bob]| {
            alice.swarm.behaviour().dcutr.is_shut_to(&bob_id)
                && bob.swarm.network_info().connection_counters().num_established() > 2
        })
        .await;
        assert!(alice.swarm.behaviour_mut().dcutr.open_dialled(&bob_id));
        assert!(!alice.swarm.behaviour().dcutr.is_shut_to(&bob_id));
        bob.swarm.behaviour_mut().dcutr.open_taken(&alice_id);
        until(&mut [&mut relay, &mut alice, &mut bob], "punched", |[_, alice, bob]| {
            alice.swarm.behaviour().streams.is_direct(&bob_id) && bob.swarm.behaviour().streams.is_direct(&alice_id)
        })
        .await;
    }
}

#[tokio::test]
async fn a_name_is_resolved_also_when_it_is_the_relays() {
    let mut relay = TestPeer::listening_with("/ip4/127.0.0.1/tcp/0", serving()).await;
    let public = relay.addresses().swap_remove(0);
    let named: Multiaddr = public.to_string().replace("/ip4/127.0.0.1", "/dns4/localhost").parse().expect("an address");
    relay.swarm.add_external_address(public);
    let mut alice = TestPeer::listening("/ip4/127.0.0.1/tcp/0").await;
    let mut bob = TestPeer::listening("/ip4/127.0.0.1/tcp/0").await;
    let listen = circuit_address(relay.id, &named, None);
    bob.swarm.listen_on(listen).expect("the relay transport");
    until(&mut [&mut relay, &mut bob], "reserved", |[_, bob]| bob.addresses().len() > 1).await;
    let circuit = circuit_address(relay.id, &named, Some(bob.id));
    alice.swarm.dial(circuit).expect("a free dial slot");
    until(&mut [&mut relay, &mut alice, &mut bob], "connected", |[_, alice, bob]| alice.is_connected(bob.id)).await;
}

#[tokio::test]
async fn a_blocked_peer_is_refused() {
    let mut alice = TestPeer::listening("/memory/0").await;
    let mut bob = TestPeer::listening("/memory/0").await;
    bob.swarm.behaviour_mut().blocked.block_peer(alice.id);
    alice.dial(&bob);
    until(&mut [&mut alice, &mut bob], "refused", |[_, bob]| {
        bob.events.iter().any(|event| matches!(event, SwarmEvent::IncomingConnectionError { .. }))
    })
    .await;
    assert!(!bob.is_connected(alice.id));
}

#[tokio::test]
async fn more_than_so_many_connections_of_one_peer_are_refused() {
    use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
    let mut alice = TestPeer::listening("/memory/0").await;
    let mut bob = TestPeer::listening("/memory/0").await;
    alice.swarm.behaviour_mut().limits = connection_limits::Behaviour::new(ConnectionLimits::default());
    for _ in 0..=MAX_CONNECTIONS_PER_PEER {
        let opts = DialOpts::peer_id(bob.id).condition(PeerCondition::Always).addresses(bob.addresses()).build();
        alice.swarm.dial(opts).expect("a free dial slot");
    }
    until(&mut [&mut alice, &mut bob], "one refused", |[_, bob]| {
        bob.events.iter().any(|event| matches!(event, SwarmEvent::IncomingConnectionError { .. }))
    })
    .await;
    assert!(bob.is_connected(alice.id));
}

#[tokio::test]
async fn a_connection_that_is_never_made_is_given_up_on_both_ends() {
    // Takes connections and says nothing: what a packet filter or a hostile peer looks like from here.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let port = silent.local_addr().expect("it is bound").port();
    let options = SwarmOptions { handshake_timeout: Duration::from_millis(200), ..lab() };
    let mut node = TestPeer::listening_with(TRANSPORTS[0], options).await;
    node.swarm.dial(format!("/ip4/127.0.0.1/tcp/{port}").parse::<Multiaddr>().expect("an address")).expect("a free dial slot");
    let own = node.addresses().swap_remove(0);
    let port = own.iter().find_map(|part| match part {
        libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let _inbound = tokio::net::TcpStream::connect(("127.0.0.1", port.expect("it listens on TCP"))).await.expect("it listens");
    until(&mut [&mut node], "both are given up", |[node]| {
        let has = |matches: fn(&SwarmEvent<BehaviourEvent>) -> bool| node.events.iter().any(matches);
        has(|event| matches!(event, SwarmEvent::OutgoingConnectionError { .. }))
            && has(|event| matches!(event, SwarmEvent::IncomingConnectionError { .. }))
    })
    .await;
    assert_eq!(node.swarm.network_info().connection_counters().num_pending(), 0);
}
