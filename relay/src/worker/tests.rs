//! Real threads with real sockets on loopback. Nothing is timed: what has to arrive is waited for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::thread::JoinHandle;

use super::*;
use crate::auth::{Credentials, Key, PasswordAlgorithm, Users};
use crate::config::{Config, Secret, StaticUser};
use crate::io::bind_shared;
use crate::metrics::{AllMetrics, Direction, Snapshot};
use crate::peer_filter::PeerFilter;
use crate::quota::{Limits, RateLimit, ServiceClass};
use crate::relay::{RelayedIp, Settings, Shared};
use crate::server::{Protocol, Server};
use crate::stun::attribute::AttributeType;
use crate::stun::{Class, Message as StunMessage, MessageBuilder, Method, TransactionId, channel_data};
use crate::time::UnixTime;

const PATIENCE: Duration = Duration::from_secs(20);
const REALM: &str = "lab";
const CHANNEL: u16 = 0x4001;
/// Clients and peers are elsewhere than the relay, whose ports are its own.
const RELAY_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const PEER_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Running threads, which end with the test.
struct Lab {
    address: SocketAddr,
    metrics: AllMetrics,
    by_thread: Vec<Arc<Metrics>>,
    stops: Vec<Stop>,
    threads: Vec<JoinHandle<Result<(), (SocketAddr, io::Error)>>>,
}

impl Lab {
    fn start(threads: usize) -> Self {
        let settings = Settings {
            serves_turn: true,
            realm: REALM.into(),
            relayed: vec![RelayedIp { local: RELAY_IP.into(), external: RELAY_IP.into() }],
            ports: (49_152, 65_535),
            can_set_dont_fragment: true,
            limits: Limits {
                user_bytes_per_sec: 0,
                user_packets_per_sec: 0,
                total_bytes_per_sec: 0,
                total_packets_per_sec: 0,
                allocations_per_user_max: 100,
                ..Limits::default()
            },
            rate_limit: RateLimit { per_sec: 1_000_000, burst: 1_000_000 },
            sources_max: 64,
            lifetime_max: Duration::from_secs(600),
            nonce_lifetime: Duration::from_secs(600),
            peer_filter: PeerFilter { is_lab: true, ..PeerFilter::default() },
            alternate: None,
        };
        let mut users = Users::new(REALM);
        users.insert("ann", "secret", ServiceClass::Normal);
        let now = Instant::now();
        let shared = Shared::new(settings, Box::new(Credentials::new(users, [])), [3; 32], now, UnixTime::now());
        let first = bind_shared((RELAY_IP, 0).into()).unwrap();
        let address = first.local_addr().unwrap();
        let mut sockets = vec![first];
        sockets.extend((1..threads).map(|_| bind_shared(address).unwrap()));
        let worker = |(number, socket)| {
            // Relayed ports come from it, and other tests run at the same time.
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).unwrap();
            let relay = Relay::new(Arc::clone(&shared), number as u16, seed);
            Worker::new(relay, vec![socket], now).unwrap()
        };
        let workers: Vec<Worker> = sockets.into_iter().enumerate().map(worker).collect();
        let by_thread: Vec<_> = workers.iter().map(|worker| Arc::clone(worker.metrics())).collect();
        Self {
            address,
            metrics: AllMetrics::new(by_thread.clone()),
            by_thread,
            stops: workers.iter().map(Worker::stopper).collect(),
            threads: workers.into_iter().map(|worker| std::thread::spawn(|| worker.run())).collect(),
        }
    }

    fn pair(&self) -> [Client; 2] {
        let mut pair = [Client::new(self.address), Client::new(self.address)];
        let relayed = pair.each_ref().map(|client| client.relayed);
        pair[0].bind(relayed[1]);
        pair[1].bind(relayed[0]);
        pair
    }

    fn snapshot(&self) -> Snapshot {
        self.metrics.snapshot()
    }

    /// Counters once everything sent was handled, since a thread counts a round at its end.
    fn wait_for(&self, is_there: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let begun = Instant::now();
        loop {
            let snapshot = self.snapshot();
            if is_there(&snapshot) {
                return snapshot;
            }
            assert!(begun.elapsed() < PATIENCE, "{snapshot:?}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stops.iter().for_each(Stop::stop);
        for thread in self.threads.drain(..) {
            assert!(matches!(thread.join(), Ok(Ok(()))) || std::thread::panicking());
        }
    }
}

/// How a client reaches the relay.
enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Link {
    fn send(&self, message: &[u8]) {
        match self {
            Self::Udp(socket) => assert_eq!(socket.send(message).unwrap(), message.len()),
            Self::Tcp(stream) => {
                let padded = [message, &[0; 3][..message.len().next_multiple_of(4) - message.len()]].concat();
                (&*stream).write_all(&padded).unwrap();
            }
        }
    }

    fn receive(&self) -> Vec<u8> {
        match self {
            Self::Udp(socket) => receive(socket),
            Self::Tcp(stream) => {
                let mut header = [0; 4];
                (&*stream).read_exact(&mut header).expect("it arrives");
                let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
                // A STUN header's length counts what is behind its 20 bytes, that of ChannelData what is behind its 4.
                let whole = if header[0] < 0x40 { 20 + length } else { 4 + length };
                let mut rest = vec![0; whole.next_multiple_of(4) - 4];
                (&*stream).read_exact(&mut rest).expect("it arrives");
                let mut message = [&header[..], &rest].concat();
                message.truncate(whole);
                message
            }
        }
    }
}

/// A client with an allocation.
struct Client {
    link: Link,
    relayed: SocketAddr,
    nonce: Vec<u8>,
    requests: u8,
}

impl Client {
    fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((CLIENT_IP, 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::over(Link::Udp(socket), server)
    }

    fn over_tcp(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::over(Link::Tcp(stream), server)
    }

    fn over(link: Link, server: SocketAddr) -> Self {
        let mut client = Self { link, relayed: server, nonce: Vec::new(), requests: 0 };
        let transport = (AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]);
        client.ask(Method::ALLOCATE, std::slice::from_ref(&transport), &[]);
        client.ask(Method::ALLOCATE, &[transport], &[]);
        assert_ne!(client.relayed, server, "no allocation");
        client
    }

    fn permit(&mut self, peer: SocketAddr) {
        self.ask(Method::CREATE_PERMISSION, &[], &[peer]);
    }

    fn bind(&mut self, peer: SocketAddr) {
        let [high, low] = CHANNEL.to_be_bytes();
        self.ask(Method::CHANNEL_BIND, &[(AttributeType::CHANNEL_NUMBER, vec![high, low, 0, 0])], &[peer]);
    }

    fn release(&mut self) {
        self.ask(Method::REFRESH, &[(AttributeType::LIFETIME, vec![0; 4])], &[]);
    }

    /// Signs as soon as there is a nonce.
    fn ask(&mut self, method: Method, attributes: &[(AttributeType, Vec<u8>)], peers: &[SocketAddr]) {
        self.requests += 1;
        let mut buffer = [0; 512];
        let mut message = MessageBuilder::begin(&mut buffer, Class::Request, method, TransactionId([self.requests; 12])).unwrap();
        for (kind, value) in attributes {
            message = message.attribute(*kind, value).unwrap();
        }
        for peer in peers {
            message = message.xor_address(AttributeType::XOR_PEER_ADDRESS, *peer).unwrap();
        }
        let is_signed = !self.nonce.is_empty();
        if is_signed {
            let named = message.attribute(AttributeType::USERNAME, b"ann").unwrap();
            let scoped = named.attribute(AttributeType::REALM, REALM.as_bytes()).unwrap();
            let key = Key::new(PasswordAlgorithm::Md5, "ann", REALM, "secret");
            message = scoped.attribute(AttributeType::NONCE, &self.nonce).unwrap();
            message = message.message_integrity_sha1(key.as_bytes()).unwrap();
        }
        let bytes = message.finish();
        self.link.send(&buffer[..bytes]);
        let response = self.link.receive();
        let response = StunMessage::parse(&response).unwrap();
        assert_eq!(response.class(), if is_signed { Class::Success } else { Class::Error }, "{method:?}");
        if let Some(nonce) = response.attribute(AttributeType::NONCE) {
            self.nonce = nonce.value.to_vec();
        }
        if let Some(relayed) = response.attribute(AttributeType::XOR_RELAYED_ADDRESS) {
            self.relayed = relayed.xor_address(response.transaction_id()).unwrap();
        }
    }

    fn send(&self, data: &[u8]) {
        self.link.send(&in_channel(data));
    }

    fn receive(&self) -> Vec<u8> {
        self.link.receive()
    }

    fn socket(&self) -> &UdpSocket {
        match &self.link {
            Link::Udp(socket) => socket,
            Link::Tcp(_) => panic!("a client over tcp has none"),
        }
    }
}

fn in_channel(data: &[u8]) -> Vec<u8> {
    [&channel_data::header(CHANNEL, data.len() as u16)[..], data].concat()
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2_048];
    let bytes = socket.recv(&mut buffer).expect("it arrives");
    buffer[..bytes].to_vec()
}

fn peer() -> UdpSocket {
    let socket = UdpSocket::bind((PEER_IP, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// So many datagrams of one length as one train, so that the relay gets them as one message.
fn send_train(socket: &UdpSocket, to: SocketAddr, datagrams: &[Vec<u8>]) {
    let mut batch = SendBatch::new(datagrams.len());
    for datagram in datagrams {
        assert!(batch.push(0, to, datagram, 0..0));
    }
    let mut totals = SendTotals::default();
    batch.flush(&[], |_| Some(socket.as_fd()), &mut totals);
    assert_eq!(totals.datagrams, datagrams.len() as u64, "{totals:?}");
}

#[test]
fn pairs_hear_each_other_whichever_threads_they_are_at() {
    let lab = Lab::start(2);
    // So many that with 2 to the power of -39 all of them are at one thread.
    let pairs: Vec<_> = (0..20).map(|_| lab.pair()).collect();
    for round in 0..5_u8 {
        for (n, [one, other]) in pairs.iter().enumerate() {
            one.send(&[round, n as u8]);
            other.send(&[round, n as u8, 1]);
        }
        for (n, [one, other]) in pairs.iter().enumerate() {
            assert_eq!(other.receive(), in_channel(&[round, n as u8]));
            assert_eq!(one.receive(), in_channel(&[round, n as u8, 1]));
        }
    }
    let totals = lab.wait_for(|totals| totals.relayed(Direction::Pair) == 200);
    assert_eq!(
        (totals.relayed(Direction::ToPeer), totals.relayed(Direction::ToClient)),
        (0, 0),
        "no detour over relayed sockets"
    );
    assert_eq!(totals.allocations(), 40);
    assert!(lab.by_thread.iter().all(|thread| thread.snapshot().allocations_made > 0), "a thread has nothing to do");
}

#[test]
fn a_peer_is_reached_and_heard_through_the_relayed_socket() {
    let lab = Lab::start(1);
    let (mut client, peer) = (Client::new(lab.address), peer());
    client.bind(peer.local_addr().unwrap());
    for round in 0..50_u8 {
        client.send(&[round; 160]);
        let mut buffer = [0; 256];
        let (bytes, source) = peer.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..bytes], source), (&[round; 160][..], client.relayed));
        peer.send_to(&[round; 100], client.relayed).unwrap();
        assert_eq!(client.receive(), in_channel(&[round; 100]));
    }
    let totals = lab.wait_for(|totals| totals.relayed(Direction::ToClient) == 50);
    assert_eq!(totals.relayed(Direction::ToPeer), 50);
}

#[test]
fn trains_arrive_whole_with_and_without_channels() {
    let lab = Lab::start(1);
    let data: Vec<Vec<u8>> = (0..20).map(|n| vec![n; 1_200]).collect();
    // From client to client, in place.
    let [one, other] = lab.pair();
    let framed: Vec<Vec<u8>> = data.iter().map(|data| in_channel(data)).collect();
    send_train(one.socket(), lab.address, &framed);
    framed.iter().for_each(|expected| assert_eq!(other.receive(), *expected));
    // From a peer to a client with a channel: each gets a header of its own before it.
    let (mut client, peer) = (Client::new(lab.address), peer());
    client.bind(peer.local_addr().unwrap());
    send_train(&peer, client.relayed, &data);
    framed.iter().for_each(|expected| assert_eq!(client.receive(), *expected));
    // And without one: Data indications, of a length that wants padding.
    let mut client = Client::new(lab.address);
    client.permit(peer.local_addr().unwrap());
    let odd: Vec<Vec<u8>> = (0..20).map(|n| vec![n; 333]).collect();
    send_train(&peer, client.relayed, &odd);
    for expected in &odd {
        let bytes = client.receive();
        let message = StunMessage::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
        assert_eq!(message.attribute(AttributeType::DATA).unwrap().value, *expected);
    }
    let totals = lab.wait_for(|totals| totals.relayed(Direction::ToClient) == 40);
    assert!(totals.send_calls < 80, "trains were taken apart: {totals:?}");
}

/// However fast they come: with fewer than a thousand packets in all, no second has more.
#[test]
fn below_a_thousand_packets_a_second_no_packet_waits_for_a_nap() {
    let lab = Lab::start(1);
    let [one, other] = lab.pair();
    for n in 0..499_u32 {
        one.send(&n.to_be_bytes());
        assert_eq!(other.receive(), in_channel(&n.to_be_bytes()));
        other.send(&n.to_be_bytes());
        assert_eq!(one.receive(), in_channel(&n.to_be_bytes()));
    }
    let totals = lab.wait_for(|totals| totals.relayed(Direction::Pair) == 998);
    assert_eq!((totals.naps, totals.napped_packets), (0, 0));
}

#[test]
fn under_load_it_naps_and_order_is_kept() {
    let lab = Lab::start(1);
    let [one, other] = lab.pair();
    let begun = Instant::now();
    let mut next = 0_u32;
    while lab.snapshot().napped_packets < 1_000 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", lab.snapshot());
        // What a socket's buffer holds at the least.
        (next..next + 100).for_each(|n| one.send(&n.to_be_bytes()));
        (next..next + 100).for_each(|n| assert_eq!(other.receive(), in_channel(&n.to_be_bytes())));
        next += 100;
    }
    let totals = lab.snapshot();
    assert!(totals.naps > 0 && totals.rounds < u64::from(next), "{totals:?}");
    assert_eq!((totals.dropped(DropReason::SocketFull), totals.dropped(DropReason::SendFailed)), (0, 0));
}

#[test]
fn a_relayed_address_is_free_again_when_its_allocation_has_ended() {
    let lab = Lab::start(1);
    let mut client = Client::new(lab.address);
    let relayed = client.relayed;
    assert!(UdpSocket::bind(relayed).is_err());
    client.release();
    // It waits for its user, until somebody sends to it.
    assert!(UdpSocket::bind(relayed).is_err());
    let stranger = UdpSocket::bind((PEER_IP, 0)).unwrap();
    lab.wait_for(|_| {
        // Once it is closed, the system says so.
        let _ = stranger.send_to(b"is anybody there?", relayed);
        UdpSocket::bind(relayed).is_ok()
    });
    assert_eq!(lab.snapshot().allocations(), 0);
    // Slots are used again.
    let again = Client::new(lab.address);
    assert!(UdpSocket::bind(again.relayed).is_err());
}

#[test]
fn a_socket_used_again_serves_its_new_allocation() {
    let lab = Lab::start(1);
    let mut client = Client::new(lab.address);
    let relayed = client.relayed;
    client.release();
    let mut again = Client::new(lab.address);
    assert_eq!(again.relayed, relayed);
    let peer = peer();
    again.bind(peer.local_addr().unwrap());
    again.send(b"out");
    let mut buffer = [0; 64];
    let (bytes, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..bytes], from), (&b"out"[..], relayed));
    peer.send_to(b"in", relayed).unwrap();
    assert_eq!(again.receive(), in_channel(b"in"));
}

#[test]
fn noise_and_floods_leave_a_thread_serving() {
    let lab = Lab::start(1);
    let [one, other] = lab.pair();
    let stranger = UdpSocket::bind((CLIENT_IP, 0)).unwrap();
    for n in 0..3_000_u32 {
        stranger.send_to(&n.to_be_bytes().repeat(n as usize % 400), lab.address).unwrap();
        stranger.send_to(&n.to_be_bytes(), one.relayed).unwrap();
    }
    // The kernel may have dropped it with the noise.
    other.socket().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let begun = Instant::now();
    while other.socket().recv(&mut [0; 64]).is_err() {
        assert!(begun.elapsed() < PATIENCE);
        one.send(b"still here");
    }
    assert!(lab.snapshot().dropped(DropReason::NotStun) > 0);
}

/// Over TCP a client is the runtime's, over UDP a thread's: what goes from one to the other crosses.
#[test]
fn clients_over_udp_and_tcp_hear_each_other() {
    let mut config = Config { listen: vec![(RELAY_IP, 0).into()], listen_tcp: vec![(RELAY_IP, 0).into()], ..Config::default() };
    config.realm = REALM.into();
    config.is_lab = true;
    config.drain = Duration::ZERO;
    config.users = vec![StaticUser { name: "ann".into(), password: Secret("secret".into()), class: ServiceClass::Normal }];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (server, stop) = runtime.block_on(async {
        let server = Server::bind(config).unwrap();
        (server, tokio::sync::oneshot::channel::<()>())
    });
    let addresses: Vec<(Protocol, SocketAddr)> = server.endpoints().collect();
    let address = |wanted| addresses.iter().find(|(protocol, _)| *protocol == wanted).unwrap().1;
    let (metrics, (stop, stopped)) = (server.metrics(), stop);
    let running = runtime.spawn(server.run(async move { drop(stopped.await) }));
    let mut pair = [Client::new(address(Protocol::Udp)), Client::over_tcp(address(Protocol::Tcp))];
    let relayed = pair.each_ref().map(|client| client.relayed);
    pair[0].bind(relayed[1]);
    pair[1].bind(relayed[0]);
    for n in 0..100_u8 {
        pair[0].send(&[n; 161]);
        assert_eq!(pair[1].receive(), in_channel(&[n; 161]));
        pair[1].send(&[n; 33]);
        assert_eq!(pair[0].receive(), in_channel(&[n; 33]));
    }
    stop.send(()).unwrap();
    runtime.block_on(running).unwrap().unwrap();
    assert_eq!(metrics.snapshot().dropped(DropReason::SendFailed), 0);
    assert_eq!(metrics.snapshot().allocations(), 0, "all ended with the server");
}
