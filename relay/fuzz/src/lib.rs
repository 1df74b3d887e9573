//! What the fuzz targets do with their bytes: packets to a relay, and sequences of operations of clients it knows.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use halloo_relay::UnixTime;
use halloo_relay::auth::{Credentials, Key, PasswordAlgorithm, Users};
use halloo_relay::packet::{ClientPath, HEADROOM_BYTES, HeldPort, ListenerId, Packet, Payload, RelayedId, Sink, StreamId, Transport};
use halloo_relay::relay::{Relay, RelayedIp, Settings, Shared};
use halloo_relay::stun::attribute::AttributeType;
use halloo_relay::stun::{Class, Message, MessageBuilder, Method, TransactionId};

const REALM: &str = "halloo";
const EXTERNAL: &str = "198.41.0.4";

/// Public peers of both families, and what must never be reached.
const PEERS: [&str; 4] = ["8.8.8.8:5000", "8.8.4.4:6000", "[2606:4700:4700::1111]:5000", "127.0.0.1:22"];

/// Checks what the relay wants sent.
#[derive(Default)]
struct Checks {
    open: HashMap<RelayedId, SocketAddr>,
    response: Vec<u8>,
    bytes: Vec<u8>,
}

impl<'b> Sink<'b> for Checks {
    fn to_client(&mut self, _to: ClientPath, payload: Payload<'_, 'b>) {
        self.bytes.clear();
        payload.append_to(&mut self.bytes);
        if self.bytes.first().is_some_and(|first| *first < 0x40) {
            let message = Message::parse(&self.bytes).expect("what looks like stun is");
            assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
        }
    }

    fn to_peer(&mut self, from: RelayedId, to: SocketAddr, _data: &'b [u8], _dont_fragment: bool) {
        assert!(self.open.contains_key(&from), "sent from a socket that isn't open");
        assert!(!to.ip().is_loopback() && to.ip().to_string() != EXTERNAL, "a forbidden peer was reached");
    }

    fn respond(&mut self, _to: ClientPath, message: &[u8]) {
        Message::parse(message).expect("responses are right");
        self.response.clear();
        self.response.extend_from_slice(message);
    }

    fn open_relayed(&mut self, id: RelayedId, address: SocketAddr) -> io::Result<()> {
        assert!(self.open.insert(id, address).is_none());
        Ok(())
    }

    fn hold_port(&mut self, _address: SocketAddr) -> io::Result<HeldPort> {
        Ok(HeldPort::new(()))
    }

    fn open_held(&mut self, id: RelayedId, address: SocketAddr, _held: HeldPort) -> io::Result<()> {
        self.open_relayed(id, address)
    }

    fn close_relayed(&mut self, id: RelayedId) {
        self.open.remove(&id).expect("only what is open is closed");
    }
}

struct World {
    relay: Relay,
    checks: Checks,
    now: Instant,
    clients: [Client; 3],
}

struct Client {
    path: ClientPath,
    nonce: Vec<u8>,
    count: u32,
}

impl World {
    fn new() -> Self {
        let ip = |text: &str| -> IpAddr { text.parse().expect("a literal address") };
        let relayed = [EXTERNAL, "2606:4700::9"].map(|text| RelayedIp { local: ip(text), external: ip(text) });
        let mut settings = Settings::new(REALM, relayed.to_vec());
        settings.can_set_dont_fragment = true;
        settings.ports = (50_000, 50_007);
        settings.rate_limit.per_sec = 1_000_000;
        settings.rate_limit.burst = 1_000_000;
        // A table for few sources is made faster, and each input has a relay of its own.
        settings.sources_max = 64;
        let mut users = Users::new(REALM);
        users.insert("ann", "secret", Default::default());
        let now = Instant::now();
        let shared = Shared::new(settings, Box::new(Credentials::new(users, [])), [3; 32], now, UnixTime(1_000));
        let client = |address: &str, transport| Client {
            path: ClientPath { address: address.parse().expect("a literal address"), transport },
            nonce: Vec::new(),
            count: 0,
        };
        let clients = [
            client("192.0.2.1:1", Transport::Datagram(ListenerId(0))),
            client("[2001:db8::1]:2", Transport::Datagram(ListenerId(1))),
            client("192.0.2.3:3", Transport::Stream(StreamId(3))),
        ];
        Self { relay: Relay::new(shared, 0, [4; 32]), checks: Checks::default(), now, clients }
    }

    fn send(&mut self, client: usize, packet: &[u8], headroom: usize) {
        let mut buffer = [&vec![0; headroom], packet].concat();
        let packet = Packet::new(&mut buffer, headroom);
        self.relay.handle_client(packet, self.clients[client].path, self.now, &mut self.checks);
    }

    /// A signed request with these attributes, each a type, a length and a value.
    fn ask(&mut self, client: usize, method: Method, attributes: &[(AttributeType, Vec<u8>)], peers: &[SocketAddr]) {
        let key = Key::new(PasswordAlgorithm::Md5, "ann", REALM, "secret");
        for _ in 0..2 {
            let asking = &mut self.clients[client];
            asking.count += 1;
            let mut id = [0; 12];
            id[..4].copy_from_slice(&asking.count.to_be_bytes());
            let mut buffer = vec![0; 2_048];
            let built = MessageBuilder::begin(&mut buffer, Class::Request, method, TransactionId(id)).and_then(|message| {
                let message = attributes.iter().try_fold(message, |message, (kind, value)| message.attribute(*kind, value))?;
                let message =
                    peers.iter().try_fold(message, |message, peer| message.xor_address(AttributeType::XOR_PEER_ADDRESS, *peer))?;
                if asking.nonce.is_empty() {
                    return Ok(message);
                }
                message
                    .attribute(AttributeType::USERNAME, b"ann")?
                    .attribute(AttributeType::REALM, REALM.as_bytes())?
                    .attribute(AttributeType::NONCE, &asking.nonce)?
                    .message_integrity_sha1(key.as_bytes())
            });
            let Ok(message) = built else { return };
            let length = message.finish();
            self.checks.response.clear();
            self.send(client, &buffer[..length], 0);
            let Ok(response) = Message::parse(&self.checks.response) else { return };
            match response.attribute(AttributeType::NONCE) {
                Some(nonce) => self.clients[client].nonce = nonce.value.to_vec(),
                None => return,
            }
        }
    }

    fn peer(&self, number: u8) -> SocketAddr {
        if let Some(text) = PEERS.get(usize::from(number % 8)) {
            return text.parse().expect("a literal address");
        }
        let port = 50_000 + u16::from(number % 8);
        SocketAddr::new(EXTERNAL.parse().expect("a literal address"), port)
    }

    fn check(&self) {
        let allocations = self.relay.allocation_count();
        assert!((allocations..=2 * allocations).contains(&self.checks.open.len()));
    }

    fn end(mut self) {
        self.now += Duration::from_secs(10_000);
        self.relay.handle_timeout(self.now, &mut self.checks);
        assert_eq!((self.relay.allocation_count(), self.checks.open.len()), (0, 0));
        assert_eq!(self.relay.poll_timeout(), None);
    }
}

/// Packets, each with its length before it in two bytes, to a relay where the first client has an allocation with a channel.
pub fn packets(mut bytes: &[u8]) {
    let mut world = World::new();
    let peer = world.peer(0);
    world.ask(0, Method::ALLOCATE, &[(AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])], &[]);
    world.ask(0, Method::CHANNEL_BIND, &[(AttributeType::CHANNEL_NUMBER, vec![0x40, 0, 0, 0])], &[peer]);
    while let Some((&[client, length], rest)) = bytes.split_first_chunk() {
        let (packet, rest) = rest.split_at(usize::from(length).min(rest.len()));
        world.send(usize::from(client % 3), packet, usize::from(client / 3 % 64));
        world.check();
        bytes = rest;
    }
    world.end();
}

/// Operations of four bytes and more: who, what, two numbers; then what the operation takes.
pub fn operations(mut bytes: &[u8]) {
    let mut world = World::new();
    while let Some((&[who, what, one, other], rest)) = bytes.split_first_chunk() {
        bytes = rest;
        let client = usize::from(who % 3);
        match what % 9 {
            0 => {
                let mut attributes = vec![(AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])];
                if one & 1 != 0 {
                    attributes.push((AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0]));
                }
                if one & 2 != 0 {
                    attributes.push((AttributeType::EVEN_PORT, vec![one & 0x80]));
                }
                if one & 4 != 0 {
                    attributes.push((AttributeType::REQUESTED_ADDRESS_FAMILY, vec![other % 3, 0, 0, 0]));
                }
                world.ask(client, Method::ALLOCATE, &attributes, &[]);
            }
            1 => {
                let lifetime = (u32::from(one) * u32::from(other)).to_be_bytes().to_vec();
                world.ask(client, Method::REFRESH, &[(AttributeType::LIFETIME, lifetime)], &[]);
            }
            2 => {
                let peers = [world.peer(one), world.peer(other)];
                world.ask(client, Method::CREATE_PERMISSION, &[], &peers);
            }
            3 => {
                let peer = world.peer(other);
                world.ask(client, Method::CHANNEL_BIND, &[(AttributeType::CHANNEL_NUMBER, vec![0x40, one % 8, 0, 0])], &[peer]);
            }
            4 => world.send(client, &[&[0x40, one % 8, 0, other][..], &vec![7; usize::from(other)]].concat(), usize::from(one)),
            5 => {
                let mut buffer = vec![0; 512];
                let built = MessageBuilder::begin(&mut buffer, Class::Indication, Method::SEND, TransactionId([1; 12]))
                    .and_then(|message| message.xor_address(AttributeType::XOR_PEER_ADDRESS, world.peer(one)))
                    .and_then(|message| message.attribute(AttributeType::DATA, &vec![7; usize::from(other)]));
                if let Ok(message) = built {
                    let length = message.finish();
                    world.send(client, &buffer[..length], usize::from(who));
                }
            }
            6 => {
                let from = world.peer(one);
                if let Some(id) = world.checks.open.keys().nth(usize::from(other) % world.checks.open.len().max(1)).copied() {
                    let headroom = usize::from(who) % (2 * HEADROOM_BYTES);
                    let mut buffer = vec![7; headroom + usize::from(other)];
                    let packet = Packet::new(&mut buffer, headroom);
                    world.relay.handle_peer(packet, id, from, world.now, &mut world.checks);
                }
            }
            7 => world.now += Duration::from_secs(u64::from(one) * 4),
            _ if client == 2 => {
                let address = world.clients[2].path.address;
                world.relay.handle_stream_closed(StreamId(3), address, &mut world.checks);
            }
            _ => world.relay.handle_timeout(world.now, &mut world.checks),
        }
        world.check();
    }
    world.end();
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_run() {
        let bytes: Vec<u8> = (0..4_096_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        super::packets(&bytes);
        super::operations(&bytes);
    }
}
