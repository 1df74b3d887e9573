//! Real swarms over memory, TCP and QUIC.

use std::time::Duration;

use libp2p::{
    Multiaddr, Swarm, Transport,
    core::{
        OutboundUpgrade, UpgradeInfo,
        transport::MemoryTransport,
        upgrade::{DeniedUpgrade, Version},
    },
    futures::{AsyncReadExt, AsyncWriteExt, future::BoxFuture},
    identity::Keypair,
    noise, ping,
    swarm::{
        self, OneShotHandler, Stream, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    yamux,
};

use super::*;
use crate::{
    behaviour::BehaviourEvent,
    swarm::{SwarmOptions, circuit_address},
    test_swarm::{Drive, TestPeer, lab, until, until_with},
};

const TRANSPORTS: [&str; 5] =
    ["/memory/0", "/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip6/::1/udp/0/quic-v1"];

async fn pair(address: &str) -> (TestPeer, TestPeer) {
    let mut alice = TestPeer::listening(address).await;
    let mut bob = TestPeer::listening(address).await;
    alice.dial(&bob);
    until(&mut [&mut alice, &mut bob], "connected", |[alice, bob]| alice.is_connected(bob.id) && bob.is_connected(alice.id))
        .await;
    (alice, bob)
}

/// Frame `number`, of a length that differs from its neighbours'.
fn numbered(number: u32) -> Vec<u8> {
    let mut frame = number.to_be_bytes().to_vec();
    frame.resize(4 + (number as usize * 37) % 700, 0xa5);
    frame
}

fn number_of(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[..4].try_into().expect("four bytes"))
}

/// Sends numbered frames while there is room, up to `count`.
fn pump(from: &mut TestPeer, to: PeerId, next: &mut u32, count: u32) {
    while *next < count {
        match from.swarm.behaviour_mut().streams.send(to, None, numbered(*next)) {
            Ok(()) => *next += 1,
            Err(SendError::QueueFull) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn assert_hello_first(peer: &TestPeer, from: &TestPeer) {
    let first = peer.stream_events().find(|event| !matches!(event, Event::Connected { .. }));
    assert!(matches!(first, Some(Event::Hello { bytes, .. }) if *bytes == from.id.to_bytes()), "{first:?}");
}

#[tokio::test]
async fn frames_go_both_ways_in_order_after_the_hello() {
    const COUNT: u32 = 2_000;
    for address in TRANSPORTS {
        let (mut alice, mut bob) = pair(address).await;
        let (mut sent_a, mut sent_b) = (0, 0);
        until(&mut [&mut alice, &mut bob], address, |[alice, bob]| {
            pump(alice, bob.id, &mut sent_a, COUNT);
            pump(bob, alice.id, &mut sent_b, COUNT);
            alice.events.len() > COUNT as usize
                && alice.frames_from(bob.id).len() == COUNT as usize
                && bob.frames_from(alice.id).len() == COUNT as usize
        })
        .await;
        for (peer, other) in [(&alice, &bob), (&bob, &alice)] {
            let frames = peer.frames_from(other.id);
            assert!(frames.iter().zip(0..).all(|(f, n)| **f == numbered(n)));
            assert_hello_first(peer, other);
        }
    }
}

#[tokio::test]
async fn nothing_is_lost_when_both_dial_at_once() {
    const COUNT: u32 = 1_000;
    for address in TRANSPORTS {
        let mut alice = TestPeer::listening(address).await;
        let mut bob = TestPeer::listening(address).await;
        alice.dial(&bob);
        bob.dial(&alice);
        let (mut sent_a, mut sent_b) = (0, 0);
        until(&mut [&mut alice, &mut bob], address, |[alice, bob]| {
            if alice.is_connected(bob.id) {
                pump(alice, bob.id, &mut sent_a, COUNT);
            }
            if bob.is_connected(alice.id) {
                pump(bob, alice.id, &mut sent_b, COUNT);
            }
            let received = |peer: &TestPeer, from| peer.frames_from(from).len() == COUNT as usize;
            sent_a == COUNT && received(alice, bob.id) && received(bob, alice.id)
        })
        .await;
        assert_complete(&alice, bob.id, COUNT);
        assert_complete(&bob, alice.id, COUNT);
    }
}

#[tokio::test]
async fn an_answer_comes_back_on_the_stream_that_asked() {
    for address in TRANSPORTS {
        let (mut alice, mut bob) = pair(address).await;
        alice.send(bob.id, b"question");
        until(&mut [&mut alice, &mut bob], "question", |[alice, bob]| !bob.frames_from(alice.id).is_empty()).await;
        let via = bob.stream_events().find_map(|event| match event {
            Event::Frame { connection, .. } => Some(*connection),
            _ => None,
        });
        let answer = b"answer".to_vec();
        let streams = &mut bob.swarm.behaviour_mut().streams;
        streams.send(alice.id, via, answer).expect("room");
        until(&mut [&mut alice, &mut bob], "answer", |[alice, bob]| !alice.frames_from(bob.id).is_empty()).await;
        assert_hello_first(&alice, &bob);
        // One hello and one frame each way: there was one stream.
        for peer in [&alice, &bob] {
            let counters = peer.swarm.behaviour().streams.counters();
            assert_eq!((counters.frames_in, counters.frames_out), (2, 2));
        }
    }
}

#[tokio::test]
async fn the_largest_frame_passes_and_a_larger_one_is_not_queued() {
    let (mut alice, mut bob) = pair("/memory/0").await;
    alice.send(bob.id, &vec![1; MAX_FRAME_LEN]);
    let streams = &mut alice.swarm.behaviour_mut().streams;
    assert_eq!(streams.send(bob.id, None, vec![1; MAX_FRAME_LEN + 1]), Err(SendError::TooLarge(MAX_FRAME_LEN + 1)));
    until(&mut [&mut alice, &mut bob], "large frame", |[alice, bob]| {
        bob.frames_from(alice.id).iter().any(|f| f.len() == MAX_FRAME_LEN)
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_loses_nothing() {
    let (mut alice, mut bob) = pair("/ip4/127.0.0.1/tcp/0").await;
    let mut next = 0;
    pump(&mut alice, bob.id, &mut next, u32::MAX);
    assert_eq!(next as usize, MAX_QUEUED_FRAMES);
    let total = next + 100;
    until(&mut [&mut alice, &mut bob], "all", |[alice, bob]| {
        pump(alice, bob.id, &mut next, total);
        bob.frames_from(alice.id).len() == total as usize
    })
    .await;
    let big = vec![0; MAX_FRAME_LEN];
    let streams = &mut alice.swarm.behaviour_mut().streams;
    for _ in 0..MAX_QUEUED_BYTES / MAX_FRAME_LEN {
        streams.send(bob.id, None, big.clone()).expect("room");
    }
    assert_eq!(streams.send(bob.id, None, vec![0]), Err(SendError::QueueFull));
}

#[tokio::test]
async fn an_owner_that_does_not_poll_stops_the_sender() {
    let (mut alice, mut bob) = pair("/ip4/127.0.0.1/tcp/0").await;
    let mut next = 0;
    // Only alice is driven: an absence is shown by time passing.
    let mut alone = [&mut alice];
    let alone = until(&mut alone, "never", |[alice]| {
        pump(alice, bob.id, &mut next, u32::MAX);
        false
    });
    let _ = tokio::time::timeout(Duration::from_millis(500), alone).await;
    let stuck = next;
    let taken = bob.swarm.behaviour().streams.counters().frames_in;
    assert!(taken < 64, "{taken} frames read that nobody asked for");
    until(&mut [&mut alice, &mut bob], "the rest", |[alice, bob]| bob.frames_from(alice.id).len() == stuck as usize).await;
}

#[tokio::test]
async fn nothing_can_be_sent_to_a_stranger() {
    let mut alice = TestPeer::listening("/memory/0").await;
    let stranger = PeerId::random();
    let streams = &mut alice.swarm.behaviour_mut().streams;
    assert_eq!(streams.send(stranger, None, vec![1]), Err(SendError::NotConnected));
}

#[tokio::test]
async fn close_delivers_what_is_queued_and_is_told_to_both() {
    for address in TRANSPORTS {
        let (mut alice, mut bob) = pair(address).await;
        alice.send(bob.id, b"before");
        until(&mut [&mut alice, &mut bob], "before", |[alice, bob]| !bob.frames_from(alice.id).is_empty()).await;
        alice.send(bob.id, b"last words");
        alice.swarm.behaviour_mut().streams.close(bob.id);
        until(&mut [&mut alice, &mut bob], "closed", |[alice, bob]| {
            [alice, bob].iter().all(|peer| {
                let mut events = peer.stream_events();
                events.any(|event| matches!(event, Event::Closed { .. }))
            })
        })
        .await;
        assert_eq!(bob.frames_from(alice.id), [&b"before"[..], b"last words"], "{address}");
        let closed = alice.stream_events().find(|event| matches!(event, Event::Closed { .. }));
        assert!(
            matches!(closed, Some(Event::Closed { last: true, reason: CloseReason::Local, undelivered: 0, .. })),
            "{address}: {closed:?}"
        );
    }
}

#[tokio::test]
async fn a_peer_that_vanishes_is_reported_with_what_was_not_sent() {
    let (mut alice, mut bob) = pair("/ip4/127.0.0.1/tcp/0").await;
    let id = bob.id;
    // One certainly arrives, however slow the machine is.
    let mut next = 0;
    pump(&mut alice, id, &mut next, 1);
    let from = alice.id;
    until(&mut [&mut alice, &mut bob], "the first", |[_, bob]| !bob.frames_from(from).is_empty()).await;
    // Fills the path: bob is not driven, and takes only so much.
    let mut alone = [&mut alice];
    let alone = until(&mut alone, "never", |[alice]| {
        pump(alice, id, &mut next, u32::MAX);
        false
    });
    let _ = tokio::time::timeout(Duration::from_millis(300), alone).await;
    drop(bob);
    let closed = |event: &&Event| matches!(event, Event::Closed { .. });
    until(&mut [&mut alice], "closed", |[alice]| alice.stream_events().any(|event| closed(&event))).await;
    let lost: usize = alice
        .stream_events()
        .map(|event| match event {
            Event::Closed { undelivered, .. } | Event::Failed { undelivered, .. } => *undelivered,
            _ => 0,
        })
        .sum();
    assert!(lost > 0 && lost < next as usize, "{lost} of {next}");
    assert!(matches!(
        alice.stream_events().find(closed),
        Some(Event::Closed { last: true, reason: CloseReason::Transport(_), .. })
    ));
    let streams = &mut alice.swarm.behaviour_mut().streams;
    assert_eq!(streams.send(id, None, vec![]), Err(SendError::NotConnected));
}

/// A peer whose connections are idle soon.
async fn impatient() -> TestPeer {
    let options = SwarmOptions { idle_timeout: Duration::from_millis(200), ..lab() };
    let mut peer = TestPeer::listening_with("/ip4/127.0.0.1/tcp/0", options).await;
    peer.swarm.behaviour_mut().streams = Streams::new(Config { idle: Duration::from_millis(300), ..Config::default() });
    peer
}

/// Drives peers for a while.
async fn pass(peers: &mut [&mut TestPeer; 2], time: Duration) {
    let _over = tokio::time::timeout(time, until(peers, "never", |_| false)).await;
}

/// Each heeds what the others want.
fn heed_each_other<const N: usize>(peers: &mut [&mut TestPeer; N]) {
    let ids: Vec<PeerId> = peers.iter().map(|peer| peer.id).collect();
    for peer in peers {
        for id in &ids {
            peer.swarm.behaviour_mut().streams.heed(*id, true);
        }
    }
}

/// Says hi as soon as it can, and not again.
fn greet_once(greeted: &mut bool, peer: &mut TestPeer, to: PeerId) {
    if !*greeted && peer.is_connected(to) {
        *greeted = true;
        peer.send(to, b"hi");
    }
}

fn is_closed_as_idle(peer: &TestPeer, with: PeerId) -> bool {
    peer.stream_events()
        .any(|event| matches!(event, Event::Closed { peer, reason: CloseReason::Idle, last: true, .. } if *peer == with))
}

#[tokio::test]
async fn an_idle_connection_goes_and_one_that_either_end_keeps_stays() {
    let (mut alice, mut idle, mut kept) = (impatient().await, impatient().await, impatient().await);
    // What one keeper wants another doesn't let go, and that one end doesn't keep it is of no account.
    alice.swarm.behaviour_mut().streams.keep(kept.id, Keeper::Directory, true);
    alice.swarm.behaviour_mut().streams.keep(kept.id, Keeper::Calls, true);
    alice.swarm.behaviour_mut().streams.keep(kept.id, Keeper::Calls, false);
    for peer in [&idle, &kept] {
        alice.dial(peer);
    }
    let mut greeted = false;
    until(&mut [&mut alice, &mut idle, &mut kept], "the idle one goes", |[alice, idle, kept]| {
        if !greeted && alice.is_connected(idle.id) && alice.is_connected(kept.id) {
            greeted = true;
            alice.send(idle.id, b"hi");
            alice.send(kept.id, b"hi");
        }
        heed_each_other(&mut [alice, idle, kept]);
        greeted && is_closed_as_idle(alice, idle.id) && is_closed_as_idle(idle, alice.id)
    })
    .await;
    assert_eq!(idle.frames_from(alice.id).len(), 1);
    // Idle for much longer than that takes, asked by the end that doesn't keep it.
    pass(&mut [&mut alice, &mut kept], Duration::from_secs(2)).await;
    assert!(alice.is_connected(kept.id) && kept.is_connected(alice.id));
    let from = alice.id;
    kept.send(from, b"are you there?");
    until(&mut [&mut alice, &mut kept], "heard", |[alice, kept]| alice.frames_from(kept.id).len() == 1).await;
    alice.swarm.behaviour_mut().streams.keep(kept.id, Keeper::Directory, false);
    until(&mut [&mut alice, &mut kept], "no longer kept", |[alice, kept]| {
        is_closed_as_idle(alice, kept.id) && is_closed_as_idle(kept, alice.id)
    })
    .await;
    assert_eq!(kept.frames_from(alice.id).len(), 1, "that it isn't needed is no frame for the owner");
}

#[tokio::test]
async fn a_connection_is_kept_by_who_wants_it_only_after_a_while() {
    let (mut alice, mut bob) = (impatient().await, impatient().await);
    bob.swarm.behaviour_mut().streams.keep(alice.id, Keeper::Directory, true);
    alice.dial(&bob);
    let (from, to) = (alice.id, bob.id);
    let mut greeted = false;
    until(&mut [&mut alice, &mut bob], "heard", |[alice, bob]| {
        greet_once(&mut greeted, alice, to);
        heed_each_other(&mut [alice, bob]);
        !bob.frames_from(from).is_empty()
    })
    .await;
    // Alice has said meanwhile that she doesn't need it; now she does, and bob no longer.
    pass(&mut [&mut alice, &mut bob], Duration::from_secs(1)).await;
    alice.swarm.behaviour_mut().streams.keep(to, Keeper::Directory, true);
    pass(&mut [&mut alice, &mut bob], Duration::from_millis(500)).await;
    bob.swarm.behaviour_mut().streams.keep(from, Keeper::Directory, false);
    pass(&mut [&mut alice, &mut bob], Duration::from_secs(2)).await;
    assert!(alice.is_connected(to) && bob.is_connected(from));
}

#[tokio::test]
async fn a_connection_is_not_kept_by_who_is_not_heeded() {
    let (mut alice, mut stranger) = (impatient().await, impatient().await);
    stranger.swarm.behaviour_mut().streams.keep(alice.id, Keeper::Directory, true);
    stranger.dial(&alice);
    let (to, from) = (alice.id, stranger.id);
    let mut greeted = false;
    until(&mut [&mut alice, &mut stranger], "the stranger's goes", |[alice, stranger]| {
        greet_once(&mut greeted, stranger, to);
        is_closed_as_idle(alice, from)
    })
    .await;
    assert_eq!(alice.frames_from(from), [b"hi"]);
}

/// A swarm with one behaviour over the memory transport.
fn memory_swarm<B: NetworkBehaviour>(behaviour: B) -> TestPeer<B> {
    let key = Keypair::generate_ed25519();
    let transport = MemoryTransport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&key).expect("a key"))
        .multiplex(yamux::Config::default())
        .boxed();
    let config = swarm::Config::with_tokio_executor()
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_idle_connection_timeout(Duration::from_secs(60));
    let id = key.public().to_peer_id();
    TestPeer::wrap(Swarm::new(transport, behaviour, id, config))
}

async fn listen<B: NetworkBehaviour>(peer: &mut TestPeer<B>)
where
    B::ToSwarm: std::fmt::Debug,
{
    let address = "/memory/0".parse().expect("an address");
    peer.swarm.listen_on(address).expect("memory");
    until(&mut [peer], "listening", |[peer]| !peer.addresses().is_empty()).await;
}

#[tokio::test]
async fn a_peer_without_the_protocol_is_reported() {
    let mut alice = TestPeer::listening("/memory/0").await;
    let mut other = memory_swarm(ping::Behaviour::default());
    listen(&mut other).await;
    alice.dial(&other);
    let id = other.id;
    let others: &mut [&mut dyn Drive] = &mut [&mut other];
    until_with(&mut [&mut alice], others, "connected", |[alice]| alice.is_connected(id)).await;
    alice.send(id, b"anybody?");
    until_with(&mut [&mut alice], others, "failed", |[alice]| {
        alice.stream_events().any(
            |event| matches!(event, Event::Failed { peer, error: StreamError::Unsupported, undelivered: 1, .. } if *peer == id),
        )
    })
    .await;
    assert!(alice.is_connected(id));
}

/// Opens a stream of our protocol, writes these bytes and reads to the end.
#[derive(Debug, Clone)]
struct Raw(Vec<u8>);

impl UpgradeInfo for Raw {
    type Info = StreamProtocol;
    type InfoIter = std::iter::Once<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(StreamProtocol::new(PROTOCOL))
    }
}

impl OutboundUpgrade<Stream> for Raw {
    type Output = Ended;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Ended, Self::Error>>;

    fn upgrade_outbound(self, mut stream: Stream, _: Self::Info) -> Self::Future {
        Box::pin(async move {
            let _ = stream.write_all(&self.0).await;
            let _ = stream.flush().await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            Ok(Ended)
        })
    }
}

/// The other side has ended a raw stream.
#[derive(Debug)]
struct Ended;

impl From<std::convert::Infallible> for Ended {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// Speaks raw bytes on streams of our protocol.
#[derive(Default)]
struct Hostile {
    to_open: VecDeque<Vec<u8>>,
    peer: Option<PeerId>,
    ended: Arc<AtomicUsize>,
}

impl NetworkBehaviour for Hostile {
    type ConnectionHandler = OneShotHandler<DeniedUpgrade, Raw, Ended>;
    type ToSwarm = ();

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.peer = Some(peer);
        Ok(OneShotHandler::new(swarm::SubstreamProtocol::new(DeniedUpgrade, ()), Default::default()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        unreachable!("only listens")
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, _: THandlerOutEvent<Self>) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<(), THandlerInEvent<Self>>> {
        match (self.peer, self.to_open.pop_front()) {
            (Some(peer_id), Some(bytes)) => {
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event: Raw(bytes) })
            }
            (_, bytes) => {
                self.to_open.extend(bytes);
                Poll::Pending
            }
        }
    }
}

/// A victim, an honest friend of it, and a hostile peer that opens one stream per entry.
async fn attacked(streams: &[&[u8]]) -> (TestPeer, TestPeer, TestPeer<Hostile>) {
    let (mut victim, mut friend) = pair("/memory/0").await;
    let mut hostile =
        memory_swarm(Hostile { to_open: streams.iter().map(|bytes| bytes.to_vec()).collect(), ..Hostile::default() });
    listen(&mut hostile).await;
    friend.send(victim.id, b"before");
    victim.dial(&hostile);
    let id = hostile.id;
    until_with(&mut [&mut victim, &mut friend], &mut [&mut hostile], "attacker connected", |[victim, _]| victim.is_connected(id))
        .await;
    (victim, friend, hostile)
}

async fn assert_friend_unaffected(victim: &mut TestPeer, friend: &mut TestPeer) {
    friend.send(victim.id, b"after");
    until(&mut [victim, friend], "friend heard", |[victim, friend]| victim.frames_from(friend.id) == [&b"before"[..], b"after"])
        .await;
}

/// A hostile peer that opens one stream with these bytes loses it for `reason`, and nobody else anything. What the victim has heard of it before.
async fn assert_stream_lost(bytes: &[u8], reason: fn(&StreamError) -> bool) -> usize {
    let (mut victim, mut friend, mut hostile) = attacked(&[bytes]).await;
    let id = hostile.id;
    until_with(&mut [&mut victim, &mut friend], &mut [&mut hostile], "refused", |[victim, _]| {
        victim.stream_events().any(|event| matches!(event, Event::Failed { peer, error, .. } if *peer == id && reason(error)))
    })
    .await;
    assert_friend_unaffected(&mut victim, &mut friend).await;
    victim.frames_from(id).len()
}

#[tokio::test]
async fn an_oversized_frame_ends_its_stream_and_nobody_elses() {
    // A hello of one byte, then a length of 65,537.
    assert_stream_lost(&[1, 0, 0x81, 0x80, 0x04], |error| matches!(error, StreamError::Oversized(65_537))).await;
}

#[tokio::test]
async fn a_malformed_length_ends_its_stream_and_nobody_elses() {
    assert_stream_lost(&[0xff; 20], |error| matches!(error, StreamError::Malformed)).await;
}

#[tokio::test]
async fn who_says_again_and_again_that_nothing_is_needed_loses_the_stream() {
    let mut bytes = vec![1, 7];
    bytes.extend([0; 100]);
    assert_eq!(assert_stream_lost(&bytes, |error| matches!(error, StreamError::Restless)).await, 0);
}

#[tokio::test]
async fn excess_inbound_streams_are_dropped() {
    let (mut victim, mut friend, mut hostile) = attacked(&[&[1, 7][..]; 5]).await;
    let id = hostile.id;
    let ended = Arc::clone(&hostile.swarm.behaviour().ended);
    until_with(&mut [&mut victim, &mut friend], &mut [&mut hostile], "three streams end, two greet", |[victim, _]| {
        let hellos = victim.stream_events().filter(|event| matches!(event, Event::Hello { peer, .. } if *peer == id)).count();
        ended.load(Ordering::Relaxed) == 3 && hellos == MAX_INBOUND_STREAMS
    })
    .await;
    assert_friend_unaffected(&mut victim, &mut friend).await;
}

/// A relay with a confirmed address, and `bob` with a reservation at it.
async fn relayed_pair(address: &str, options: SwarmOptions) -> (TestPeer, TestPeer, TestPeer) {
    let serving = SwarmOptions { relay_server: true, ..options };
    let mut relay = TestPeer::listening_with(address, serving).await;
    let public = relay.addresses().swap_remove(0);
    relay.swarm.add_external_address(public.clone());
    let mut alice = TestPeer::listening_with(address, options).await;
    let mut bob = TestPeer::listening_with(address, options).await;
    let circuit = circuit_address(relay.id, &public, None);
    bob.swarm.listen_on(circuit).expect("the relay transport");
    until(&mut [&mut relay, &mut bob], "reserved", |[_, bob]| {
        bob.events.iter().any(|event| matches!(event, SwarmEvent::Behaviour(BehaviourEvent::RelayClient(_))))
    })
    .await;
    let circuit = circuit_address(relay.id, &public, Some(bob.id));
    alice.swarm.dial(circuit).expect("a free dial slot");
    until(&mut [&mut relay, &mut alice, &mut bob], "connected through the relay", |[_, alice, bob]| {
        alice.is_connected(bob.id) && bob.is_connected(alice.id)
    })
    .await;
    (relay, alice, bob)
}

/// Every frame once; those of each connection in order.
fn assert_complete(peer: &TestPeer, from: PeerId, count: u32) {
    let mut by_connection: HashMap<ConnectionId, Vec<u32>> = HashMap::new();
    for event in peer.stream_events() {
        if let Event::Frame { peer, connection, bytes } = event
            && *peer == from
        {
            by_connection.entry(*connection).or_default().push(number_of(bytes));
        }
    }
    assert!(by_connection.values().all(|numbers| numbers.is_sorted()));
    let mut all: Vec<u32> = by_connection.into_values().flatten().collect();
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..count), "{} of {count}", all.len());
}

async fn moves_to_direct(address: &str) {
    const BEFORE: u32 = 300;
    const COUNT: u32 = 3_000;
    let options = SwarmOptions { idle_timeout: Duration::from_millis(500), ..lab() };
    let (mut relay, mut alice, mut bob) = relayed_pair(address, options).await;
    let (mut sent_a, mut sent_b) = (0, 0);
    let mut dialled = false;
    until(&mut [&mut relay, &mut alice, &mut bob], "all frames", |[_, alice, bob]| {
        pump(alice, bob.id, &mut sent_a, COUNT);
        pump(bob, alice.id, &mut sent_b, COUNT);
        if !dialled && bob.events.len() > BEFORE as usize {
            dialled = true;
            let direct = bob.addresses().into_iter().find(|a| !a.to_string().contains("circuit"));
            let opts = DialOpts::peer_id(bob.id).condition(PeerCondition::Always).addresses(direct.into_iter().collect()).build();
            alice.swarm.dial(opts).expect("a free dial slot");
        }
        alice.swarm.behaviour().streams.counters().frames_in >= u64::from(COUNT)
            && bob.frames_from(alice.id).len() >= COUNT as usize
            && alice.frames_from(bob.id).len() >= COUNT as usize
    })
    .await;
    assert_complete(&bob, alice.id, COUNT);
    assert_complete(&alice, bob.id, COUNT);
    until(&mut [&mut relay, &mut alice, &mut bob], "the relayed connection goes", |[_, alice, bob]| {
        let streams = &alice.swarm.behaviour().streams;
        streams.is_direct(&bob.id) && streams.peers[&bob.id].iter().all(|link| !link.relayed)
    })
    .await;
    assert!(
        !alice.stream_events().any(|e| matches!(e, Event::Failed { .. })),
        "{:?}",
        alice.stream_events().find(|e| matches!(e, Event::Failed { .. }))
    );
}

#[tokio::test]
async fn traffic_moves_from_the_relay_to_tcp_without_loss() {
    moves_to_direct("/ip4/127.0.0.1/tcp/0").await;
}

#[tokio::test]
async fn traffic_moves_from_the_relay_to_quic_without_loss() {
    moves_to_direct("/ip4/127.0.0.1/udp/0/quic-v1").await;
}

#[tokio::test]
async fn the_relay_serves_again_if_the_direct_connection_dies_early() {
    const COUNT: u32 = 500;
    let (mut relay, mut alice, mut bob) = relayed_pair("/ip4/127.0.0.1/tcp/0", lab()).await;
    alice.send(bob.id, &numbered(0));
    let mut sent = 1;
    let direct =
        DialOpts::peer_id(bob.id).condition(PeerCondition::Always).addresses(vec![bob.addresses().swap_remove(0)]).build();
    alice.swarm.dial(direct).expect("a free dial slot");
    let mut cut = false;
    until(&mut [&mut relay, &mut alice, &mut bob], "all frames", |[_, alice, bob]| {
        if !cut && alice.swarm.behaviour().streams.is_direct(&bob.id) {
            // Nothing has been queued on it yet.
            cut = true;
            let links = &alice.swarm.behaviour().streams.peers[&bob.id];
            let direct: Vec<_> = links.iter().filter(|l| !l.relayed).map(|l| l.id).collect();
            for id in direct {
                alice.swarm.close_connection(id);
            }
        }
        if cut && !alice.swarm.behaviour().streams.is_direct(&bob.id) {
            pump(alice, bob.id, &mut sent, COUNT);
        }
        bob.frames_from(alice.id).len() == COUNT as usize
    })
    .await;
    assert_complete(&bob, alice.id, COUNT);
}

/// A peer that was killed and is back, behind a relay now: the direct connection to where it was looks open for half a minute.
#[test]
fn a_direct_connection_that_is_doubted_ends_no_relayed_one_until_it_is_heard_again() {
    let mut streams = Streams::new(Config::default());
    let peer = PeerId::random();
    let [direct, earlier, relayed] = [1, 2, 3].map(ConnectionId::new_unchecked);
    let is_left = |streams: &Streams, id| streams.peers[&peer].iter().any(|link| link.id == id && link.draining);
    streams.handle_established(peer, direct, false);
    streams.handle_heard(peer, direct);
    streams.handle_established(peer, earlier, true);
    assert!(is_left(&streams, earlier), "the direct one is better");
    streams.doubt(peer);
    assert!(!is_left(&streams, earlier), "it may be all there is");
    streams.handle_established(peer, relayed, true);
    assert!(!is_left(&streams, relayed));
    streams.actions.clear();
    streams.send(peer, Some(relayed), numbered(1)).expect("room");
    assert!(
        matches!(streams.actions.front(), Some(ToSwarm::NotifyHandler { handler: NotifyHandler::One(id), .. }) if *id == relayed),
        "{:?}",
        streams.actions
    );
    streams.handle_heard(peer, relayed);
    assert_eq!(streams.best_connection(&peer), Some(relayed), "somebody is there");
    assert!(!is_left(&streams, relayed));
    streams.handle_heard(peer, direct);
    assert_eq!(streams.best_connection(&peer), Some(direct), "it lives after all");
    assert!(is_left(&streams, relayed) && is_left(&streams, earlier));
}
