//! A relay with a sink that remembers, and clients that sign.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::auth::{Credentials, Key, PasswordAlgorithm, Users};
use crate::metrics::{DropReason, Snapshot};
use crate::packet::{
    ClientPath, HEADROOM_BYTES, HeldPort, ListenerId, Packet, ParkedId, Payload, RelayedId, Sink, StreamId, Transport,
};
use crate::quota::{Limits, RateLimit, ServiceClass};
use crate::relay::{Relay, RelayedIp, Settings, Shared};
use crate::stun::attribute::AttributeType;
use crate::stun::integrity::Check;
use crate::stun::{Class, EncodeError, Message, MessageBuilder, Method, TransactionId, channel_data};
use crate::time::UnixTime;

pub(super) const REALM: &str = "halloo";
pub(super) const SECRET: &[u8] = b"shared secret";
pub(super) const UNIX_START: UnixTime = UnixTime(1_000_000);

/// Where relayed sockets are, for the machine and for peers.
pub(super) const LOCAL_V4: &str = "10.9.9.9";
pub(super) const EXTERNAL_V4: &str = "198.41.0.4";
pub(super) const RELAYED_V6: &str = "2606:4700::9";

/// Peers on the public internet.
pub(super) const PEER: &str = "8.8.8.8:5000";
pub(super) const PEER_V6: &str = "[2606:4700:4700::1111]:5000";

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().expect("a literal address")
}

/// UDP from that address.
pub(super) fn udp(text: &str) -> ClientPath {
    ClientPath { address: address(text), transport: Transport::Datagram(ListenerId(0)) }
}

pub(super) fn stream(text: &str, number: u32) -> ClientPath {
    ClientPath { address: address(text), transport: Transport::Stream(StreamId(number)) }
}

pub(super) fn settings() -> Settings {
    let ip = |text: &str| text.parse().expect("a literal address");
    let relayed = vec![
        RelayedIp { local: ip(LOCAL_V4), external: ip(EXTERNAL_V4) },
        RelayedIp { local: ip(RELAYED_V6), external: ip(RELAYED_V6) },
    ];
    Settings {
        ports: (50_000, 50_999),
        can_set_dont_fragment: true,
        limits: Limits { user_bytes_per_sec: 0, user_packets_per_sec: 0, ..Limits::default() },
        rate_limit: RateLimit { per_sec: 1_000_000, burst: 1_000_000 },
        sources_max: 64,
        ..Settings::new(REALM, relayed)
    }
}

/// What the relay wanted sent and opened.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) to_clients: Vec<(ClientPath, Vec<u8>)>,
    pub(super) to_peers: Vec<(RelayedId, SocketAddr, Vec<u8>, bool)>,
    pub(super) open: HashMap<RelayedId, SocketAddr>,
    /// What is held for allocations to come.
    pub(super) held: Arc<Mutex<HashSet<SocketAddr>>>,
    /// Sockets that wait for their user.
    pub(super) parked: HashMap<ParkedId, SocketAddr>,
    parked_ever: u64,
    /// The next sockets fail to open, with these errors.
    pub(super) failures: Vec<io::ErrorKind>,
    /// The next ports fail to be held, with these errors.
    pub(super) hold_failures: Vec<io::ErrorKind>,
    /// How many payloads came in one piece.
    pub(super) in_place: usize,
}

/// Holds a port while it lives.
struct Holder(SocketAddr, Arc<Mutex<HashSet<SocketAddr>>>);

impl Drop for Holder {
    fn drop(&mut self) {
        assert!(self.1.lock().unwrap().remove(&self.0));
    }
}

impl<'b> Sink<'b> for Recorder {
    fn to_client(&mut self, to: ClientPath, payload: Payload<'_, 'b>) {
        let mut bytes = Vec::new();
        payload.append_to(&mut bytes);
        assert_eq!(bytes.len(), payload.len());
        self.in_place += usize::from(payload.head.is_empty());
        self.to_clients.push((to, bytes));
    }

    fn to_peer(&mut self, from: RelayedId, to: SocketAddr, data: &'b [u8], dont_fragment: bool) {
        assert!(self.open.contains_key(&from), "sent from a socket that isn't open");
        self.to_peers.push((from, to, data.to_vec(), dont_fragment));
    }

    fn respond(&mut self, to: ClientPath, message: &[u8]) {
        self.to_clients.push((to, message.to_vec()));
    }

    fn open_relayed(&mut self, id: RelayedId, address: SocketAddr) -> io::Result<()> {
        if let Some(kind) = self.failures.pop() {
            return Err(kind.into());
        }
        assert!(self.open.values().chain(self.parked.values()).all(|open| *open != address), "{address} is open");
        assert!(self.open.insert(id, address).is_none(), "{id:?} is open");
        Ok(())
    }

    fn hold_port(&mut self, address: SocketAddr) -> io::Result<HeldPort> {
        if let Some(kind) = self.hold_failures.pop() {
            return Err(kind.into());
        }
        assert!(self.open.values().all(|open| *open != address), "{address} is open");
        assert!(self.held.lock().unwrap().insert(address), "{address} is held");
        Ok(HeldPort::new(Holder(address, Arc::clone(&self.held))))
    }

    fn open_held(&mut self, id: RelayedId, address: SocketAddr, held: HeldPort) -> io::Result<()> {
        let holder: Holder = held.into_inner().expect("what this sink made");
        assert_eq!(holder.0, address);
        self.open_relayed(id, address)
    }

    fn close_relayed(&mut self, id: RelayedId) {
        self.open.remove(&id).expect("only what is open is closed");
    }

    fn park_relayed(&mut self, id: RelayedId) -> Option<ParkedId> {
        let address = self.open.remove(&id).expect("only what is open is parked");
        self.parked_ever += 1;
        self.parked.insert(ParkedId(self.parked_ever), address);
        Some(ParkedId(self.parked_ever))
    }

    fn unpark_relayed(&mut self, parked: ParkedId, id: RelayedId) -> bool {
        let Some(address) = self.parked.remove(&parked) else { return false };
        assert!(self.open.insert(id, address).is_none(), "{id:?} is open");
        true
    }

    fn close_parked(&mut self, parked: ParkedId) {
        self.parked.remove(&parked);
    }
}

/// A relay and its time.
pub(super) struct Lab {
    pub(super) relay: Relay,
    pub(super) now: Instant,
    pub(super) sink: Recorder,
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(super) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let mut users = Users::new(REALM);
        for name in ["ann", "bob"] {
            users.insert(name, "secret", ServiceClass::Normal);
        }
        Self::with_credentials(settings, Credentials::new(users, [SECRET.to_vec()]))
    }

    pub(super) fn with_credentials(settings: Settings, credentials: Credentials) -> Self {
        let now = Instant::now();
        let shared = Shared::new(settings, Box::new(credentials), [3; 32], now, UNIX_START);
        Self { relay: Relay::new(shared, 0, [5; 32]), now, sink: Recorder::default() }
    }

    /// A second thread of the same server.
    pub(super) fn second(&self, worker: u16) -> Self {
        let relay = Relay::new(Arc::clone(self.relay.shared()), worker, [6; 32]);
        Self { relay, now: self.now, sink: Recorder::default() }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    pub(super) fn client_sends(&mut self, path: ClientPath, packet: &[u8]) {
        let mut buffer = [&[0xEE; HEADROOM_BYTES], packet].concat();
        self.relay.handle_client(Packet::new(&mut buffer, HEADROOM_BYTES), path, self.now, &mut self.sink);
    }

    pub(super) fn client_sends_without_headroom(&mut self, path: ClientPath, packet: &[u8]) {
        let mut buffer = packet.to_vec();
        self.relay.handle_client(Packet::without_headroom(&mut buffer), path, self.now, &mut self.sink);
    }

    /// A packet on the socket that is open at this relayed address, as the machine knows it.
    pub(super) fn peer_sends(&mut self, peer: &str, relayed: SocketAddr, data: &[u8], headroom: usize) {
        let local = self.relay.shared().local(relayed);
        let (id, _) = self.sink.open.iter().find(|(_, open)| **open == local).expect("an open relayed socket");
        let id = *id;
        let mut buffer = [&vec![0xEE; headroom], data].concat();
        self.relay.handle_peer(Packet::new(&mut buffer, headroom), id, address(peer), self.now, &mut self.sink);
    }

    /// The one packet a client was sent since the last look.
    pub(super) fn taken(&mut self) -> (ClientPath, Vec<u8>) {
        assert_eq!(self.sink.to_clients.len(), 1, "{:?}", self.sink.to_clients);
        self.sink.to_clients.remove(0)
    }

    pub(super) fn taken_by_peer(&mut self) -> (SocketAddr, Vec<u8>, bool) {
        assert_eq!(self.sink.to_peers.len(), 1);
        let (_, to, data, dont_fragment) = self.sink.to_peers.remove(0);
        (to, data, dont_fragment)
    }

    pub(super) fn assert_silent(&self) {
        assert!(self.sink.to_clients.is_empty() && self.sink.to_peers.is_empty(), "{:?}", self.sink);
    }

    pub(super) fn exchange(&mut self, path: ClientPath, packet: &[u8]) -> Vec<u8> {
        self.client_sends(path, packet);
        let (to, bytes) = self.taken();
        assert_eq!(to, path);
        bytes
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.relay.metrics().snapshot()
    }

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.snapshot().dropped(reason)
    }

    pub(super) fn tick(&mut self) {
        self.relay.handle_timeout(self.now, &mut self.sink);
    }
}

/// What a response says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) bytes: Vec<u8>,
}

impl Response {
    pub(super) fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).expect("a stun message")
    }

    /// Error code, 0 for a success.
    pub(super) fn code(&self) -> u16 {
        let message = self.message();
        match message.class() {
            Class::Success => 0,
            Class::Error => {
                let attribute = message.attribute(AttributeType::ERROR_CODE).expect("errors have a code");
                attribute.error_code().expect("a right code").code
            }
            class => panic!("{class:?} is no response"),
        }
    }

    pub(super) fn phrase(&self) -> String {
        let message = self.message();
        let attribute = message.attribute(AttributeType::ERROR_CODE).expect("errors have a code");
        attribute.error_code().expect("a right code").reason.to_owned()
    }

    pub(super) fn addresses(&self, kind: AttributeType) -> Vec<SocketAddr> {
        let message = self.message();
        let of_kind = message.attributes().filter(|attribute| attribute.kind == kind);
        of_kind.map(|attribute| attribute.xor_address(message.transaction_id()).expect("an address")).collect()
    }

    pub(super) fn value(&self, kind: AttributeType) -> Option<Vec<u8>> {
        self.message().attribute(kind).map(|attribute| attribute.value.to_vec())
    }

    pub(super) fn lifetime(&self) -> u32 {
        u32::from_be_bytes(self.value(AttributeType::LIFETIME).expect("a lifetime").try_into().expect("four bytes"))
    }
}

/// How a client signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As before RFC 8489.
    Old,
    /// PASSWORD-ALGORITHM SHA-256, MESSAGE-INTEGRITY-SHA256, the user's name.
    New,
    /// The same with USERHASH.
    Hidden,
}

pub(super) type Fill<'f> = &'f dyn for<'m> Fn(MessageBuilder<'m>) -> Result<MessageBuilder<'m>, EncodeError>;

/// A client with a credential.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) path: ClientPath,
    pub(super) username: String,
    pub(super) password: String,
    pub(super) nonce: Vec<u8>,
    pub(super) style: Style,
    pub(super) count: u32,
}

pub(super) const NOTHING: Fill<'static> = &|message| Ok(message);

/// REQUESTED-TRANSPORT for UDP, which every Allocate has.
pub(super) fn with_udp(message: MessageBuilder<'_>) -> Result<MessageBuilder<'_>, EncodeError> {
    message.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
}

impl Client {
    pub(super) fn new(path: ClientPath, username: &str, password: &str) -> Self {
        Self { path, username: username.into(), password: password.into(), nonce: Vec::new(), style: Style::Old, count: 0 }
    }

    pub(super) fn ann(path: &str) -> Self {
        Self::new(udp(path), "ann", "secret")
    }

    pub(super) fn bob(path: &str) -> Self {
        Self::new(udp(path), "bob", "secret")
    }

    pub(super) fn key(&self) -> Key {
        let algorithm = if self.style == Style::Old { PasswordAlgorithm::Md5 } else { PasswordAlgorithm::Sha256 };
        Key::new(algorithm, &self.username, REALM, &self.password)
    }

    fn next_id(&mut self) -> TransactionId {
        self.count += 1;
        let mut id = [0; 12];
        id[..4].copy_from_slice(&self.count.to_be_bytes());
        id[4..6].copy_from_slice(&self.path.address.port().to_be_bytes());
        TransactionId(id)
    }

    /// A signed request.
    pub(super) fn request(&mut self, method: Method, fill: Fill<'_>) -> Vec<u8> {
        let id = self.next_id();
        let mut buffer = vec![0; 16_384];
        let message = MessageBuilder::begin(&mut buffer, Class::Request, method, id).expect("room");
        let message = self.sign(fill(message).expect("room"));
        let length = message.finish();
        buffer.truncate(length);
        buffer
    }

    fn sign<'m>(&self, mut message: MessageBuilder<'m>) -> MessageBuilder<'m> {
        let hash = crate::auth::credentials::userhash(&self.username, REALM);
        message = match self.style {
            Style::Hidden => message.attribute(AttributeType::USERHASH, &hash),
            _ => message.attribute(AttributeType::USERNAME, self.username.as_bytes()),
        }
        .and_then(|message| message.attribute(AttributeType::REALM, REALM.as_bytes()))
        .and_then(|message| message.attribute(AttributeType::NONCE, &self.nonce))
        .expect("room");
        if self.style == Style::Old {
            return message.message_integrity_sha1(self.key().as_bytes()).expect("room");
        }
        message
            .attribute(AttributeType::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0])
            .and_then(|message| message.attribute(AttributeType::PASSWORD_ALGORITHM, &[0, 2, 0, 0]))
            .and_then(|message| message.message_integrity_sha256(self.key().as_bytes()))
            .expect("room")
    }

    /// Asks, with a new nonce if there is none or it has run out, as clients do.
    pub(super) fn ask(&mut self, lab: &mut Lab, method: Method, fill: Fill<'_>) -> Response {
        if self.nonce.is_empty() {
            self.nonce = self.challenge(lab);
        }
        let packet = self.request(method, fill);
        let response = Response { bytes: lab.exchange(self.path, &packet) };
        if response.code() != 438 && response.code() != 401 {
            let check = if self.style == Style::Old {
                response.message().check_integrity_sha1(self.key().as_bytes())
            } else {
                response.message().check_integrity_sha256(self.key().as_bytes())
            };
            assert!(check == Check::Valid || response.code() == 441 || response.code() == 400, "{check:?} {response:?}");
        }
        response
    }

    /// The nonce of a 401.
    pub(super) fn challenge(&mut self, lab: &mut Lab) -> Vec<u8> {
        let id = self.next_id();
        let mut buffer = [0; 64];
        let message = MessageBuilder::begin(&mut buffer, Class::Request, Method::ALLOCATE, id).expect("room");
        let length = with_udp(message).expect("room").finish();
        let response = Response { bytes: lab.exchange(self.path, &buffer[..length]) };
        assert_eq!(response.code(), 401);
        assert_eq!(response.value(AttributeType::REALM).as_deref(), Some(REALM.as_bytes()));
        response.value(AttributeType::NONCE).expect("a nonce")
    }

    /// Allocates; gives the relayed address.
    pub(super) fn allocate(&mut self, lab: &mut Lab) -> SocketAddr {
        let response = self.ask(lab, Method::ALLOCATE, &with_udp);
        assert_eq!(response.code(), 0, "{}", response.phrase());
        response.addresses(AttributeType::XOR_RELAYED_ADDRESS)[0]
    }

    pub(super) fn permit(&mut self, lab: &mut Lab, peers: &[SocketAddr]) -> Response {
        self.ask(lab, Method::CREATE_PERMISSION, &|message| {
            peers.iter().try_fold(message, |message, peer| message.xor_address(AttributeType::XOR_PEER_ADDRESS, *peer))
        })
    }

    pub(super) fn bind(&mut self, lab: &mut Lab, number: u16, peer: SocketAddr) -> Response {
        self.ask(lab, Method::CHANNEL_BIND, &|message| {
            let [high, low] = number.to_be_bytes();
            message
                .attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0])?
                .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
        })
    }

    pub(super) fn refresh(&mut self, lab: &mut Lab, seconds: u32) -> Response {
        self.ask(lab, Method::REFRESH, &|message| message.attribute(AttributeType::LIFETIME, &seconds.to_be_bytes()))
    }
}

pub(super) fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    [&channel_data::header(number, data.len() as u16)[..], data].concat()
}

pub(super) fn send_indication(peer: SocketAddr, data: &[u8], fill: Fill<'_>) -> Vec<u8> {
    let mut buffer = vec![0; data.len() + 256];
    let message = MessageBuilder::begin(&mut buffer, Class::Indication, Method::SEND, TransactionId([9; 12])).expect("room");
    let message = message.xor_address(AttributeType::XOR_PEER_ADDRESS, peer).expect("room");
    let message = fill(message.attribute(AttributeType::DATA, data).expect("room")).expect("room");
    let length = message.finish();
    buffer.truncate(length);
    buffer
}

/// Peer and data of a Data indication.
pub(super) fn read_data(bytes: &[u8]) -> (SocketAddr, Vec<u8>) {
    let message = Message::parse(bytes).expect("a whole message");
    assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
    let peer = message.attribute(AttributeType::XOR_PEER_ADDRESS).expect("a peer");
    let data = message.attribute(AttributeType::DATA).expect("data").value.to_vec();
    (peer.xor_address(message.transaction_id()).expect("an address"), data)
}
