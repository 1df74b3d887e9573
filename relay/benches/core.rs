//! Time the state machine itself takes, without sockets: packets in memory, one core.
//!
//! ```text
//! cargo bench -p halloo-relay --bench core
//! ```
//!
//! Fifty or 500 pairs of clients take turns, so that tables don't fit the smallest cache in the second case. The system calls around a packet
//! take some ten times as long; `scripts/bench relay` measures the whole.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops when something is wrong")]

use std::hint::black_box;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use halloo_relay::UnixTime;
use halloo_relay::auth::{Credentials, Key, PasswordAlgorithm};
use halloo_relay::packet::{ClientPath, HEADROOM_BYTES, HeldPort, ListenerId, Packet, Payload, RelayedId, Sink, Transport};
use halloo_relay::relay::{Relay, RelayedIp, Settings, Shared};
use halloo_relay::stun::attribute::AttributeType;
use halloo_relay::stun::{Class, Message, MessageBuilder, Method, TransactionId};

const SECRET: &[u8] = b"secret";
const REALM: &str = "halloo";
const UNIX_NOW: UnixTime = UnixTime(1_000);

/// Counts, and keeps the last response.
#[derive(Default)]
struct Null {
    packets: u64,
    bytes: u64,
    response: Vec<u8>,
    sockets: Vec<(RelayedId, SocketAddr)>,
}

impl<'b> Sink<'b> for Null {
    fn to_client(&mut self, to: ClientPath, payload: Payload<'_, 'b>) {
        self.packets += 1;
        self.bytes += black_box(payload).len() as u64 + u64::from(to.address.port() & 1);
    }

    fn to_peer(&mut self, from: RelayedId, to: SocketAddr, data: &'b [u8], _dont_fragment: bool) {
        self.packets += 1;
        self.bytes += black_box(data).len() as u64 + u64::from(to.port() & 1) + u64::from(from.0 & 1);
    }

    fn respond(&mut self, _to: ClientPath, message: &[u8]) {
        self.response.clear();
        self.response.extend_from_slice(message);
    }

    fn open_relayed(&mut self, id: RelayedId, address: SocketAddr) -> io::Result<()> {
        self.sockets.push((id, address));
        Ok(())
    }

    fn hold_port(&mut self, _address: SocketAddr) -> io::Result<HeldPort> {
        Ok(HeldPort::new(()))
    }

    fn open_held(&mut self, id: RelayedId, address: SocketAddr, _held: HeldPort) -> io::Result<()> {
        self.open_relayed(id, address)
    }

    fn close_relayed(&mut self, _id: RelayedId) {}
}

struct Client {
    path: ClientPath,
    username: String,
    key: Key,
    nonce: Vec<u8>,
    count: u32,
}

struct World {
    relay: Relay,
    sink: Null,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let ip: IpAddr = "198.41.0.4".parse().unwrap();
        let mut settings = Settings::new(REALM, vec![RelayedIp { local: ip, external: ip }]);
        settings.limits.user_bytes_per_sec = 0;
        settings.limits.user_packets_per_sec = 0;
        settings.limits.total_bytes_per_sec = 0;
        settings.limits.total_packets_per_sec = 0;
        settings.limits.allocations_per_user_max = 10_000;
        settings.limits.allocations_per_address_max = 10_000;
        settings.rate_limit.per_sec = 1_000_000_000;
        settings.rate_limit.burst = 1_000_000;
        let credentials = Credentials::new(Default::default(), [SECRET.to_vec()]);
        let shared = Shared::new(settings, Box::new(credentials), [7; 32], now, UNIX_NOW);
        Self { relay: Relay::new(shared, 0, [8; 32]), sink: Null::default(), now }
    }

    fn client(&self, number: usize) -> Client {
        let address = SocketAddr::from(([9, 9, (number / 250) as u8, (number % 250) as u8], 20_000 + number as u16));
        let (username, password) = Credentials::issue(SECRET, &format!("user{}", number % 50), UnixTime(1_000_000));
        let key = Key::new(PasswordAlgorithm::Md5, &username, REALM, &password);
        Client {
            path: ClientPath { address, transport: Transport::Datagram(ListenerId(0)) },
            username,
            key,
            nonce: Vec::new(),
            count: 0,
        }
    }

    /// Sends a request of the client's; true if it succeeded.
    fn ask(&mut self, client: &mut Client, method: Method, peer: Option<SocketAddr>) -> bool {
        client.count += 1;
        let mut id = [0; 12];
        id[..4].copy_from_slice(&client.count.to_be_bytes());
        let mut buffer = [0; 512];
        let mut message = MessageBuilder::begin(&mut buffer, Class::Request, method, TransactionId(id)).unwrap();
        message = match (method, peer) {
            (Method::ALLOCATE, _) => message.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).unwrap(),
            (Method::CHANNEL_BIND, Some(peer)) => {
                let message = message.attribute(AttributeType::CHANNEL_NUMBER, &[0x40, 0, 0, 0]).unwrap();
                message.xor_address(AttributeType::XOR_PEER_ADDRESS, peer).unwrap()
            }
            (_, Some(peer)) => message.xor_address(AttributeType::XOR_PEER_ADDRESS, peer).unwrap(),
            (_, None) => message.attribute(AttributeType::LIFETIME, &[0; 4]).unwrap(),
        };
        if !client.nonce.is_empty() {
            message = message
                .attribute(AttributeType::USERNAME, client.username.as_bytes())
                .and_then(|message| message.attribute(AttributeType::REALM, REALM.as_bytes()))
                .and_then(|message| message.attribute(AttributeType::NONCE, &client.nonce))
                .and_then(|message| message.message_integrity_sha1(client.key.as_bytes()))
                .unwrap();
        }
        let bytes = message.finish();
        self.relay.handle_client(Packet::without_headroom(&mut buffer[..bytes]), client.path, self.now, &mut self.sink);
        let response = Message::parse(&self.sink.response).unwrap();
        if let Some(nonce) = response.attribute(AttributeType::NONCE) {
            client.nonce = nonce.value.to_vec();
        }
        response.class() == Class::Success
    }

    fn allocate(&mut self, client: &mut Client) -> SocketAddr {
        assert!(!self.ask(client, Method::ALLOCATE, None) && self.ask(client, Method::ALLOCATE, None));
        self.sink.sockets.last().unwrap().1
    }
}

/// The shortest of several runs: what else the machine does only adds.
fn best(rounds: usize, mut run: impl FnMut() -> Duration) -> Duration {
    (0..rounds).map(|_| run()).min().unwrap()
}

fn report(name: &str, time: Duration, count: usize) {
    println!("{name:<58} {:>8.1} ns", time.as_nanos() as f64 / count as f64);
}

fn pairs(count: usize) {
    const PACKETS: usize = 200_000;
    let mut world = World::new();
    let mut clients: Vec<_> = (0..2 * count).map(|number| world.client(number)).collect();
    let relayed: Vec<_> = clients.iter_mut().map(|client| world.allocate(client)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert!(world.ask(client, Method::CHANNEL_BIND, Some(relayed[number ^ 1])));
    }
    let mut buffer = vec![7; HEADROOM_BYTES + 4 + 160];
    let packet = [&[0x40, 0, 0, 160][..], &[7; 160]].concat();
    for burst in [1, 10] {
        let time = best(9, || {
            let started = Instant::now();
            for number in 0..PACKETS {
                let client = &clients[number / burst % clients.len()];
                buffer[HEADROOM_BYTES..HEADROOM_BYTES + 4].copy_from_slice(&packet[..4]);
                world.relay.handle_client(Packet::new(&mut buffer, HEADROOM_BYTES), client.path, world.now, &mut world.sink);
            }
            started.elapsed()
        });
        report(&format!("pair, {} allocations, bursts of {burst}", 2 * count), time, PACKETS);
    }
}

fn peers(count: usize) {
    const PACKETS: usize = 200_000;
    let mut world = World::new();
    let mut clients: Vec<_> = (0..count).map(|number| world.client(number)).collect();
    let peer: SocketAddr = "8.8.8.8:5000".parse().unwrap();
    for client in &mut clients {
        world.allocate(client);
        assert!(world.ask(client, Method::CHANNEL_BIND, Some(peer)));
    }
    let mut buffer = vec![7; HEADROOM_BYTES + 4 + 160];
    buffer[HEADROOM_BYTES..HEADROOM_BYTES + 4].copy_from_slice(&[0x40, 0, 0, 160]);
    let time = best(9, || {
        let started = Instant::now();
        for number in 0..PACKETS {
            let path = clients[number % clients.len()].path;
            world.relay.handle_client(Packet::new(&mut buffer, HEADROOM_BYTES), path, world.now, &mut world.sink);
        }
        started.elapsed()
    });
    report(&format!("client to peer, {count} allocations"), time, PACKETS);
    let ids: Vec<_> = world.sink.sockets.iter().map(|(id, _)| *id).collect();
    let time = best(9, || {
        let started = Instant::now();
        for number in 0..PACKETS {
            let packet = Packet::new(&mut buffer[..HEADROOM_BYTES + 160], HEADROOM_BYTES);
            world.relay.handle_peer(packet, ids[number % ids.len()], peer, world.now, &mut world.sink);
        }
        started.elapsed()
    });
    report(&format!("peer to client, {count} allocations"), time, PACKETS);
}

/// Allocate twice, CreatePermission, ChannelBind, with the client's own work of signing taken off; the end of the allocation by a
/// Refresh isn't counted.
fn set_up() {
    const CLIENTS: usize = 1_000;
    let peer: SocketAddr = "8.8.8.8:5000".parse().unwrap();
    let mut world = World::new();
    let time = best(9, || {
        let mut clients: Vec<_> = (0..CLIENTS).map(|number| world.client(number)).collect();
        let started = Instant::now();
        for client in &mut clients {
            world.allocate(client);
            assert!(world.ask(client, Method::CREATE_PERMISSION, Some(peer)));
            assert!(world.ask(client, Method::CHANNEL_BIND, Some(peer)));
        }
        let elapsed = started.elapsed();
        for client in &mut clients {
            assert!(world.ask(client, Method::REFRESH, None));
        }
        elapsed
    });
    report("set-up of an allocation, four requests, signing included", time, CLIENTS);
}

fn main() {
    pairs(25);
    pairs(250);
    peers(50);
    peers(500);
    set_up();
}
