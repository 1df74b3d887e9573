//! Datagrams over real sockets, floods among them, and the counters.

use std::net::SocketAddr;

use halloo_relay::stun::attribute::AttributeType;
use halloo_relay::stun::{Class, Message, MessageBuilder, Method, TransactionId};

use crate::harness::{DEADLINE, Relay, allocate, client, exchange, fetch, turn_request, with_udp};

fn binding_request(id: u8) -> Vec<u8> {
    let mut buffer = [0; 64];
    let message = MessageBuilder::begin(&mut buffer, Class::Request, Method::BINDING, TransactionId([id; 12]));
    let length = message.expect("64 bytes hold a header").finish();
    buffer[..length].to_vec()
}

fn mapped_address(response: &[u8], id: u8) -> SocketAddr {
    let message = Message::parse(response).expect("a stun message");
    assert_eq!((message.class(), message.transaction_id()), (Class::Success, TransactionId([id; 12])));
    let attribute = message.attribute(AttributeType::XOR_MAPPED_ADDRESS).expect("an address");
    attribute.xor_address(message.transaction_id()).expect("a right address")
}

/// Value of one counter.
fn counter(relay: &Relay, sample: &str) -> u64 {
    let response = fetch(relay.metrics_address(), "GET /metrics HTTP/1.1\r\nhost: relay\r\n\r\n");
    let line = response.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {sample} in {response}"))
}

#[test]
fn each_client_learns_its_address_over_both_families() {
    let relay = Relay::start(&["--listen", "127.0.0.1:0", "--listen", "[::1]:0"]);
    for address in relay.addresses() {
        for id in 0..3 {
            let client = client(address);
            let response = exchange(&client, &binding_request(id));
            assert_eq!(mapped_address(&response, id), client.local_addr().expect("bound"));
        }
    }
}

#[test]
fn noise_gets_nothing_and_does_not_disturb() {
    let relay = Relay::start(&["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    let client = client(relay.addresses()[0]);
    let noise: [&[u8]; 5] = [b"", b"x", &[0; 1_400], &[0xFF; 60_000], b"\x40\x00\x00\x04data"];
    for packet in noise {
        client.send(packet).expect("sent");
    }
    // The only packet that comes back answers the request: datagrams of one socket keep their order on loopback.
    let response = exchange(&client, &binding_request(7));
    assert_eq!(mapped_address(&response, 7), client.local_addr().expect("bound"));
    // What begins like ChannelData counts as that.
    assert_eq!(counter(&relay, "halloo_relay_dropped_total{reason=\"not_stun\"}"), 3);
    assert_eq!(counter(&relay, "halloo_relay_dropped_total{reason=\"malformed\"}"), 1);
    assert_eq!(counter(&relay, "halloo_relay_dropped_total{reason=\"no_allocation\"}"), 1);
    assert_eq!(counter(&relay, "halloo_relay_responses_total{kind=\"binding\"}"), 1);
    assert_eq!(counter(&relay, "halloo_relay_packets_received_total"), 6);
}

#[test]
fn a_greedy_source_is_cut_off_and_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("relay.toml");
    let settings = "listen = ['127.0.0.1:0']\nmetrics = '127.0.0.1:0'\n[limits]\nresponses_per_source_per_sec = 1\nresponse_burst_per_source = 5\n";
    std::fs::write(&path, settings).expect("written");
    let relay = Relay::start(&["--config", path.to_str().expect("a path in UTF-8")]);
    let client = client(relay.addresses()[0]);
    // In one go, well within the second that would earn another response, and few enough for the socket's buffer.
    for id in 0..50 {
        client.send(&binding_request(id)).expect("sent");
    }
    for id in 0..5 {
        let mut buffer = [0; 64];
        let bytes = client.recv(&mut buffer).expect("a response");
        mapped_address(&buffer[..bytes], id);
    }
    // An answer to the metrics request doesn't mean that all datagrams were handled: wait for the last.
    let started = std::time::Instant::now();
    while counter(&relay, "halloo_relay_packets_received_total") < 50 {
        assert!(started.elapsed() < DEADLINE, "not all datagrams arrived");
    }
    let limited = counter(&relay, "halloo_relay_dropped_total{reason=\"rate_limited\"}");
    let answered = counter(&relay, "halloo_relay_responses_total{kind=\"binding\"}");
    assert_eq!(limited + answered, 50);
    assert!((5..=5 + started.elapsed().as_secs() + 2).contains(&answered), "{answered} answered");
}

/// More sources than the table has places for. Linux lets a client send from all of 127.0.0.0/8.
#[cfg(target_os = "linux")]
#[test]
fn a_flood_from_many_sources_takes_no_memory_and_leaves_others_served() {
    /// In rounds that a socket's default buffer holds, each ended by a request of somebody honest: nothing is lost.
    const ROUNDS: u32 = 150;
    /// The first ones may bring a thread's first touch of memory it has had from the start.
    const ROUNDS_BEFORE: u32 = 10;
    const SOURCES_PER_ROUND: u32 = 200;
    /// The table is there from the start. Remembering the sources beside it would take 30,000 x 32 bytes = 938 KiB. What a round brings has slots
    /// of 2 KiB in a thread's ring, 402 KiB at most if all of it is there at once; 200 KiB are left for the rest.
    const GROWTH_KIB_MAX: u64 = 600;

    let relay = Relay::start(&["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--threads", "1"]);
    let server = relay.addresses()[0];
    assert_eq!(counter(&relay, "halloo_relay_packets_received_total"), 0);
    let mut before = 0;
    let (forged, client) = (binding_request(1), client(server));
    for round in 0..ROUNDS_BEFORE + ROUNDS {
        if round == ROUNDS_BEFORE {
            before = relay.resident_kib();
        }
        for source in 0..SOURCES_PER_ROUND {
            let ip = std::net::Ipv4Addr::from(0x7F01_0000 + round * SOURCES_PER_ROUND + source);
            let forger = std::net::UdpSocket::bind((ip, 0)).expect("loopback is a whole network");
            forger.send_to(&forged, server).expect("sent");
        }
        assert_eq!(mapped_address(&exchange(&client, &binding_request(9)), 9), client.local_addr().expect("bound"));
    }
    let grown = relay.resident_kib().saturating_sub(before);
    assert!(grown <= GROWTH_KIB_MAX, "{grown} KiB more");
    let received = counter(&relay, "halloo_relay_packets_received_total");
    assert_eq!(received, u64::from((ROUNDS_BEFORE + ROUNDS) * (SOURCES_PER_ROUND + 1)), "all went through the table");
    eprintln!("{received} datagrams, {before} KiB resident before, {grown} KiB more after");
}

#[test]
fn metrics_answer_only_what_they_are_for() {
    let relay = Relay::start(&["--listen", "127.0.0.1:0", "--metrics", "[::1]:0"]);
    let status = |request: &str| fetch(relay.metrics_address(), request)[..12].to_owned();
    assert_eq!(status("GET /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 200");
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404");
    assert_eq!(status("POST /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 405");
    assert_eq!(status(&"x".repeat(4_096)), "HTTP/1.1 400");
}

const WITH_ANN: &[&str] = &["--listen", "127.0.0.1:0", "--user", "ann:secret", "--lab"];

#[test]
fn it_drains_until_the_last_allocation_has_ended() {
    let mut relay = Relay::start(WITH_ANN);
    let (ann, bob) = (client(relay.addresses()[0]), client(relay.addresses()[0]));
    let (key, nonce, _) = allocate(&ann);
    let ended = [(AttributeType::LIFETIME, vec![0; 4])];
    relay.send_signal("TERM");
    // Told that it is shutting down, which also shows that the signal has arrived.
    let challenge = exchange(&bob, &turn_request(Method::ALLOCATE, None, 1, &with_udp()));
    let challenge = Message::parse(&challenge).expect("a stun message");
    let bobs_nonce = challenge.attribute(AttributeType::NONCE).expect("a nonce").value;
    let started = std::time::Instant::now();
    loop {
        let response = exchange(&bob, &turn_request(Method::ALLOCATE, Some((&key, bobs_nonce)), 2, &with_udp()));
        let response = Message::parse(&response).expect("a stun message");
        if let Some(code) = response.attribute(AttributeType::ERROR_CODE) {
            assert_eq!(code.error_code().expect("a right code").code, 508);
            break;
        }
        // Before the signal: made, and given back.
        exchange(&bob, &turn_request(Method::REFRESH, Some((&key, bobs_nonce)), 3, &ended));
        assert!(started.elapsed() < DEADLINE);
    }
    assert!(relay.is_running(), "ann is still there");
    exchange(&ann, &turn_request(Method::REFRESH, Some((&key, &nonce)), 4, &ended));
    assert_eq!(relay.wait().code(), Some(0));
}

#[test]
fn draining_ends_at_its_deadline_or_with_a_second_signal() {
    let relay = Relay::start(&[WITH_ANN, &["--drain", "0"]].concat());
    allocate(&client(relay.addresses()[0]));
    assert_eq!(relay.signal("TERM").code(), Some(0));
    let relay = Relay::start(&[WITH_ANN, &["--drain", "3600"]].concat());
    allocate(&client(relay.addresses()[0]));
    relay.send_signal("TERM");
    // Signals of one kind that come together may arrive as one.
    assert_eq!(relay.signal("INT").code(), Some(0));
}
