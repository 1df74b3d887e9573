//! STUN clients by others. They are part of what `scripts/setup` installs; without them these tests fail and say so.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::harness::{Relay, finish};

/// coturn's STUN client (Debian package `coturn`).
const STUN_CLIENT: &str = "turnutils_stunclient";

/// coturn's TURN client, of the same package.
const TURN_CLIENT: &str = "turnutils_uclient";

/// What a client prints, and whether it calls that a success.
fn output_of(program: &str, arguments: &[&str]) -> (String, bool) {
    let mut command = Command::new(program);
    let child = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child =
        child.unwrap_or_else(|error| panic!("cannot run {program} of coturn ({error}): run scripts/setup, which installs it"));
    let output = finish(child);
    let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (printed, output.status.success())
}

/// What coturn's STUN client prints about one server, asking from that local address.
fn stun_client(server: SocketAddr, local: &str) -> String {
    let (port, ip) = (server.port().to_string(), server.ip().to_string());
    let (printed, is_success) = output_of(STUN_CLIENT, &["-p", &port, "-L", local, &ip]);
    assert!(is_success, "{STUN_CLIENT} failed: {printed}");
    printed
}

#[test]
fn coturns_client_learns_its_address_over_ipv4() {
    let relay = Relay::start(&["--listen", "127.0.0.1:0"]);
    let printed = stun_client(relay.addresses()[0], "127.0.0.1");
    assert!(printed.contains("IPv4. UDP reflexive addr: 127.0.0.1:"), "{printed}");
}

#[test]
fn coturns_client_learns_its_address_over_ipv6() {
    let relay = Relay::start(&["--listen", "[::1]:0"]);
    let printed = stun_client(relay.addresses()[0], "::1");
    assert!(printed.contains("IPv6. UDP reflexive addr: ::1:"), "{printed}");
}

/// From 127.0.0.2, so that an answer that only names the server's own address would show.
#[test]
fn coturns_client_learns_the_address_it_has_and_not_the_servers() {
    let relay = Relay::start(&["--listen", "127.0.0.1:0"]);
    let printed = stun_client(relay.addresses()[0], "127.0.0.2");
    assert!(printed.contains("UDP reflexive addr: 127.0.0.2:"), "{printed}");
}

#[test]
fn coturns_turn_client_is_told_at_once_that_there_is_no_turn() {
    let relay = Relay::start(&["--listen", "127.0.0.1:0"]);
    let server = relay.addresses()[0];
    let port = server.port().to_string();
    let ip = server.ip().to_string();
    let (printed, is_success) = output_of(TURN_CLIENT, &["-u", "user", "-w", "password", "-y", "-p", &port, &ip]);
    assert!(printed.contains("error 400 (Bad Request)"), "{printed}");
    assert!(!is_success);
}
