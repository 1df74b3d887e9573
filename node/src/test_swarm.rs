//! Real swarms in one test task: built, connected and driven until something holds.

use std::{future::poll_fn, task::Poll, time::Duration};

use libp2p::{
    Multiaddr, PeerId, Swarm,
    futures::StreamExt,
    identity::Keypair,
    swarm::{NetworkBehaviour, SwarmEvent},
};

use crate::{
    behaviour::{Behaviour, BehaviourEvent},
    streams::Event,
    swarm::{Aside, SwarmOptions, build_swarm},
};

/// Longer than anything here takes, even on a machine that does other things.
const DEADLINE: Duration = Duration::from_secs(60);

/// One in-process node: its swarm and what it has reported.
pub(crate) struct TestPeer<B: NetworkBehaviour = Aside<Behaviour>> {
    pub(crate) swarm: Swarm<B>,
    pub(crate) id: PeerId,
    pub(crate) events: Vec<SwarmEvent<B::ToSwarm>>,
}

/// Anything [`until`] can drive.
pub(crate) trait Drive {
    /// Takes one event if there is one; registers for waking otherwise.
    fn drive(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()>;
    fn summary(&self) -> String;
}

impl<B: NetworkBehaviour> Drive for TestPeer<B>
where
    B::ToSwarm: std::fmt::Debug,
{
    fn drive(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        self.swarm.poll_next_unpin(cx).map(|event| {
            self.events.push(event.expect("swarms never end"));
        })
    }

    fn summary(&self) -> String {
        let last: Vec<_> = self.events.iter().rev().take(12).collect();
        let mut text = format!("{last:?}");
        text.truncate(6_000);
        format!("{} {text}", self.id)
    }
}

impl<B: NetworkBehaviour> TestPeer<B> {
    pub(crate) fn wrap(swarm: Swarm<B>) -> Self {
        Self { id: *swarm.local_peer_id(), swarm, events: Vec::new() }
    }

    /// The addresses listened on so far.
    pub(crate) fn addresses(&self) -> Vec<Multiaddr> {
        self.swarm.listeners().cloned().collect()
    }
}

impl TestPeer {
    pub(crate) fn new(options: SwarmOptions) -> Self {
        let swarm = build_swarm(Keypair::generate_ed25519(), options).expect("a swarm");
        Self::wrap(swarm)
    }

    /// A node of the lab with the memory transport, listening on `address`.
    pub(crate) async fn listening(address: &str) -> Self {
        Self::listening_with(address, lab()).await
    }

    pub(crate) async fn listening_with(address: &str, options: SwarmOptions) -> Self {
        let mut peer = Self::new(options);
        let id = peer.id.to_bytes();
        peer.swarm.behaviour_mut().streams.set_hello(std::sync::Arc::new(move || id.clone()));
        peer.swarm.listen_on(address.parse().expect("an address")).expect("a transport for it");
        until(&mut [&mut peer], "listening", |[peer]| !peer.addresses().is_empty()).await;
        peer
    }

    pub(crate) fn dial<B: NetworkBehaviour>(&mut self, other: &TestPeer<B>) {
        let address = other.addresses().swap_remove(0);
        self.swarm.dial(address).expect("a free dial slot");
    }

    pub(crate) fn send(&mut self, to: PeerId, frame: &[u8]) {
        self.swarm.behaviour_mut().streams.send(to, None, frame.to_vec()).expect("a connection with room");
    }

    /// What the streams have reported so far.
    pub(crate) fn stream_events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().filter_map(|event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => Some(event),
            _ => None,
        })
    }

    /// Contents of the frames that came from `from`, in order.
    pub(crate) fn frames_from(&self, from: PeerId) -> Vec<&[u8]> {
        self.stream_events()
            .filter_map(|event| match event {
                Event::Frame { peer, bytes, .. } if *peer == from => Some(bytes.as_slice()),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn is_connected(&self, to: PeerId) -> bool {
        self.swarm.behaviour().streams.is_connected(&to)
    }
}

/// Options of a lab node with the memory transport.
pub(crate) fn lab() -> SwarmOptions {
    SwarmOptions { memory: true, ..SwarmOptions::lab() }
}

/// Drives peers of one kind until `done` says so. Panics with what they did last when the deadline passes.
pub(crate) async fn until<const N: usize, P: Drive>(
    peers: &mut [&mut P; N],
    what: &str,
    mut done: impl FnMut(&mut [&mut P; N]) -> bool,
) {
    until_with(peers, &mut [], what, |peers| done(peers)).await;
}

/// [`until`] with others of any kind along for the ride.
pub(crate) async fn until_with<const N: usize, P: Drive>(
    peers: &mut [&mut P; N],
    others: &mut [&mut dyn Drive],
    what: &str,
    mut done: impl FnMut(&mut [&mut P; N]) -> bool,
) {
    let driven = poll_fn(|cx| {
        loop {
            if done(peers) {
                return Poll::Ready(());
            }
            let mut progress = false;
            for peer in peers.iter_mut() {
                progress |= peer.drive(cx).is_ready();
            }
            for other in others.iter_mut() {
                progress |= other.drive(cx).is_ready();
            }
            if !progress {
                return Poll::Pending;
            }
        }
    });
    if tokio::time::timeout(DEADLINE, driven).await.is_err() {
        let all: Vec<_> = peers.iter().map(|peer| peer.summary()).collect();
        panic!("not in time: {what}\n{}", all.join("\n"));
    }
}
