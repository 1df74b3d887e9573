//! Many calls for a long time: nothing leaks, and the relay loses nothing that reaches it.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use halloo_relay::auth::Key;
use halloo_relay::stun::attribute::AttributeType;
use halloo_relay::stun::{Class, Message, Method};

use crate::harness::{Relay, allocate, client, exchange, turn_request};

/// Allocations; two and two talk with each other.
const ALLOCATIONS: usize = 500;

/// Length of the soak, unless HALLOO_RELAY_SOAK_SECS says otherwise.
const SOAK: Duration = Duration::from_secs(600);

/// Each client sends one packet in this time: 5,000 packets a second in all.
const INTERVAL: Duration = Duration::from_millis(100);

/// How often allocations and channels are refreshed.
const REFRESH: Duration = Duration::from_secs(60);

/// Resident memory may move by this much between the first tenth of the soak and its end: a leak of four bytes a packet would take 10 MiB.
const GROWTH_KIB_MAX: u64 = 3 << 10;

struct Caller {
    socket: UdpSocket,
    key: Key,
    nonce: Vec<u8>,
    relayed: Vec<u8>,
    sent: u32,
    received: u64,
}

impl Caller {
    fn new(relay: &Relay) -> Self {
        let socket = client(relay.addresses()[0]);
        let (key, nonce, relayed) = allocate(&socket);
        Self { socket, key, nonce, relayed, sent: 0, received: 0 }
    }

    /// A request while data arrives: what comes first may be data.
    fn ask(&mut self, method: Method, attributes: &[(AttributeType, Vec<u8>)]) {
        let request = turn_request(method, Some((&self.key, &self.nonce)), method.number() as u8, attributes);
        let mut packet = exchange(&self.socket, &request);
        while packet[0] == 0x40 {
            self.received += 1;
            let mut buffer = [0; 2_048];
            let bytes = self.socket.recv(&mut buffer).expect("a response");
            packet = buffer[..bytes].to_vec();
        }
        assert_eq!(Message::parse(&packet).expect("a stun message").class(), Class::Success);
    }

    /// The peer's address is masked with the magic cookie only, as it is IPv4, and can be repeated as it came.
    fn bind(&mut self, peer: Vec<u8>) {
        self.ask(
            Method::CHANNEL_BIND,
            &[(AttributeType::CHANNEL_NUMBER, vec![0x40, 0, 0, 0]), (AttributeType::XOR_PEER_ADDRESS, peer)],
        );
    }

    fn send(&mut self) {
        let mut packet = [7; 4 + 160];
        packet[..8].copy_from_slice(&[0x40, 0, 0, 160, 0, 0, 0, 0]);
        packet[4..8].copy_from_slice(&self.sent.to_be_bytes());
        self.socket.send(&packet).expect("sent");
        self.sent += 1;
    }

    fn receive(&mut self) {
        self.socket.set_nonblocking(true).expect("a mode can be set");
        let mut buffer = [0; 256];
        while let Ok(bytes) = self.socket.recv(&mut buffer) {
            assert_eq!((bytes, &buffer[..4]), (164, &[0x40, 0, 0, 160][..]));
            self.received += 1;
        }
        self.socket.set_nonblocking(false).expect("a mode can be set");
    }
}

fn refresh(callers: &mut [Caller]) {
    for index in 0..callers.len() {
        let peer = callers[index ^ 1].relayed.clone();
        callers[index].ask(Method::REFRESH, &[]);
        callers[index].bind(peer);
    }
}

#[test]
#[ignore = "long: ten minutes"]
fn five_hundred_allocations_leak_nothing_and_lose_nothing() {
    let soak = std::env::var("HALLOO_RELAY_SOAK_SECS").ok().and_then(|secs| secs.parse().ok()).map_or(SOAK, Duration::from_secs);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("relay.toml");
    let settings = "listen = ['127.0.0.1:0']\nmetrics = '127.0.0.1:0'\n[peers]\nlab = true\n\
        [turn]\nusers = [{ name = 'ann', password = 'secret' }]\ndrain_secs = 0\n\
        [limits]\nallocations_per_user_max = 1000\nallocations_per_address_max = 1000\nuser_bytes_per_sec = 0\n\
        user_packets_per_sec = 0\nresponses_per_source_per_sec = 10000\nresponse_burst_per_source = 10000\n";
    std::fs::write(&path, settings).expect("written");
    let relay = Relay::start(&["--config", path.to_str().expect("a path in UTF-8")]);
    let mut callers: Vec<_> = (0..ALLOCATIONS).map(|_| Caller::new(&relay)).collect();
    refresh(&mut callers);

    let started = Instant::now();
    let (mut refreshed, mut early) = (started, None);
    while started.elapsed() < soak {
        let round = Instant::now();
        for (number, caller) in callers.iter_mut().enumerate() {
            // Spread over the interval: what comes at once has to fit a socket's default buffer.
            if number % 50 == 0 {
                std::thread::sleep(
                    (round + INTERVAL * number as u32 / ALLOCATIONS as u32).saturating_duration_since(Instant::now()),
                );
            }
            caller.send();
        }
        if refreshed.elapsed() >= REFRESH {
            refresh(&mut callers);
            refreshed = Instant::now();
        }
        std::thread::sleep(INTERVAL.saturating_sub(round.elapsed()));
        callers.iter_mut().for_each(Caller::receive);
        if started.elapsed() >= soak / 10 && early.is_none() {
            early = Some(relay.resident_kib());
        }
    }
    std::thread::sleep(INTERVAL);
    callers.iter_mut().for_each(Caller::receive);

    let sent: u64 = callers.iter().map(|caller| u64::from(caller.sent)).sum();
    let received: u64 = callers.iter().map(|caller| caller.received).sum();
    let (early, late) = (early.expect("a tenth has passed"), relay.resident_kib());
    let dropped = relay.counters("halloo_relay_dropped_total");
    let relayed = relay.counters("halloo_relay_relayed_packets_total{direction=\"pair\"}");
    let reached = relay.counters("halloo_relay_packets_received_total") - relay.counters("halloo_relay_responses_total");
    eprintln!(
        "{ALLOCATIONS} allocations, {soak:?}: {sent} packets sent, {reached} reached the relay, {relayed} relayed, {dropped} dropped by it, \
         {received} received, {early} KiB resident after a tenth, {late} KiB at the end"
    );
    assert_eq!(relay.counters("halloo_relay_allocations "), ALLOCATIONS as u64);
    // What is missing at either end found a socket's buffer full, which happens when the machine has other things to do.
    assert_eq!((dropped, relayed), (0, reached));
    assert!(late <= early + GROWTH_KIB_MAX, "{early} KiB grew to {late} KiB");
}
