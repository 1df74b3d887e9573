//! Real swarms: what the ledger counts is what the relay does.

use std::time::Duration;

use halloo_protocol::key::PublicKey;
use libp2p::core::transport::MemoryTransport;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::{Config, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, Transport, noise, relay, yamux};

use super::RelayLimits;
use crate::swarm::{SwarmOptions, circuit_address};
use crate::test_swarm::{Drive, TestPeer, lab, until_with};

/// A node that uses relays and does nothing else: no hole is punched, and no circuit ends by itself.
#[derive(NetworkBehaviour)]
struct Client {
    relay: relay::client::Behaviour,
}

fn client() -> TestPeer<Client> {
    let keypair = Keypair::generate_ed25519();
    let id = keypair.public().to_peer_id();
    let (circuits, relay) = relay::client::new(id);
    let transport = circuits
        .or_transport(MemoryTransport::default())
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&keypair).expect("an Ed25519 key"))
        .multiplex(yamux::Config::default())
        .boxed();
    let config = Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(3_600));
    TestPeer::wrap(Swarm::new(transport, Client { relay }, id, config))
}

async fn serving(circuits: usize) -> (TestPeer, Multiaddr) {
    let relay_limits = RelayLimits { circuits, ..RelayLimits::default() };
    let options = SwarmOptions { relay_server: true, relay_limits, ..lab() };
    let mut relay = TestPeer::listening_with("/memory/0", options).await;
    let address = relay.addresses().swap_remove(0);
    relay.swarm.add_external_address(address.clone());
    (relay, address)
}

fn role(relay: &mut TestPeer) -> &mut super::Circuits {
    relay.swarm.behaviour_mut().relay_server.as_mut().expect("it relays")
}

fn is_connected(peer: &TestPeer<Client>, to: PeerId) -> bool {
    peer.swarm.is_connected(&to)
}

fn has_failed(peer: &TestPeer<Client>, to: PeerId) -> bool {
    let failed = |event: &SwarmEvent<ClientEvent>| matches!(event, SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), .. } if *peer == to);
    peer.events.iter().any(failed)
}

/// `caller`, whose user the relay knows, dials `bob` through it; true if it gets a circuit.
async fn dials(
    relay: &mut TestPeer,
    at: &Multiaddr,
    caller: &mut TestPeer<Client>,
    user: u8,
    bob: &mut TestPeer<Client>,
) -> bool {
    let id = relay.id;
    caller.swarm.dial(at.clone().with_p2p(id).expect("an address without peer")).expect("a free dial slot");
    until_with(&mut [&mut *caller], &mut [relay, bob], "connected to the relay", |[caller]| is_connected(caller, id)).await;
    role(relay).set_user(caller.id, Some(PublicKey([user; 32])));
    caller.swarm.dial(circuit_address(id, at, Some(bob.id))).expect("a free dial slot");
    let to = bob.id;
    let others: &mut [&mut dyn Drive] = &mut [relay, bob];
    until_with(&mut [&mut *caller], others, "served or refused", |[caller]| is_connected(caller, to) || has_failed(caller, to))
        .await;
    is_connected(caller, to)
}

#[tokio::test]
async fn a_users_devices_share_what_one_user_may_have() {
    // A fourth of eight: two.
    let (mut relay, at) = serving(8).await;
    let mut bob = client();
    bob.swarm.listen_on(circuit_address(relay.id, &at, None)).expect("the relay transport");
    until_with(&mut [&mut bob], &mut [&mut relay], "reserved", |[bob]| !bob.addresses().is_empty()).await;
    let reserved = role(&mut relay).reservation_of(&bob.id);
    assert!(reserved.is_some(), "the connection is known");
    assert_eq!(role(&mut relay).reservation_of(&PeerId::random()), None);

    let mut alices = [client(), client(), client()];
    let mut served = Vec::new();
    for alice in &mut alices {
        served.push(dials(&mut relay, &at, alice, 1, &mut bob).await);
    }
    assert_eq!(served, [true, true, false], "the third device of the same user is one too many");
    let mut carol = client();
    assert!(dials(&mut relay, &at, &mut carol, 2, &mut bob).await, "another user isn't touched");
    let usage = role(&mut relay).usage();
    assert_eq!((usage.circuits, usage.circuits_made, usage.circuits_refused), (3, 3, 1));

    let [first, mut second, _third] = alices;
    drop(first);
    until_with(&mut [&mut relay], &mut [&mut second, &mut carol, &mut bob], "its circuit is gone", |[relay]| {
        role(relay).usage().circuits == 2
    })
    .await;
    let mut fourth = client();
    assert!(dials(&mut relay, &at, &mut fourth, 1, &mut bob).await, "what has ended makes room");

    drop(bob);
    until_with(&mut [&mut relay], &mut [&mut second, &mut carol, &mut fourth], "all end with the callee", |[relay]| {
        role(relay).usage().circuits == 0
    })
    .await;
    let usage = role(&mut relay).usage();
    assert_eq!((usage.reservations, usage.circuits_made), (0, 4));
}

#[tokio::test]
async fn a_relay_without_circuits_still_holds_reservations() {
    let (mut relay, at) = serving(0).await;
    let mut bob = client();
    bob.swarm.listen_on(circuit_address(relay.id, &at, None)).expect("the relay transport");
    until_with(&mut [&mut bob], &mut [&mut relay], "reserved", |[bob]| !bob.addresses().is_empty()).await;
    let mut alice = client();
    assert!(!dials(&mut relay, &at, &mut alice, 1, &mut bob).await);
    assert!(role(&mut relay).reservation_of(&bob.id).is_some());
}
