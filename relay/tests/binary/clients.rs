//! STUN clients by others. They are part of what `scripts/setup` installs; without them these tests fail and say so.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::{Relay, certificate, finish};

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
    assert!(printed.contains("error 403"), "{printed}");
    assert!(!is_success);
}

/// A relay for tests: all addresses are loopback, so peers there have to be allowed.
fn lab(ip: &str) -> (Relay, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let (certificate, key) = certificate(directory.path());
    let address = SocketAddr::new(ip.parse().expect("a literal address"), 0).to_string();
    let arguments =
        ["--listen", &address, "--listen-tcp", &address, "--listen-tls", &address, "--tls-cert", &certificate, "--tls-key", &key];
    let relay = Relay::start(
        &[
            &arguments[..],
            &["--user", "user:password", "--lab", "--ports", "61000-65535", "--metrics", "127.0.0.1:0", "--drain", "0"],
        ]
        .concat(),
    );
    (relay, directory)
}

/// Runs coturn's client against the lab and wants all packets back.
fn relays_without_loss(ip: &str, scheme: &str, arguments: &[&str]) {
    let (relay, _directory) = lab(ip);
    let server = relay.address(scheme);
    let (port, ip) = (server.port().to_string(), server.ip().to_string());
    let (printed, is_success) = output_of(
        TURN_CLIENT,
        &[&["-u", "user", "-w", "password", "-n", "30", "-m", "2", "-p", &port], arguments, &[&ip]].concat(),
    );
    assert!(is_success, "{printed}");
    assert!(printed.contains("Total lost packets 0 (0.000000%), total send dropped 0 (0.000000%)"), "{printed}");
    let relayed = relay.counters("halloo_relay_relayed_packets_total");
    let responses = relay.counters("halloo_relay_responses_total{kind=\"allocate\"}");
    eprintln!("{scheme} {arguments:?} at {ip}: {relayed} packets relayed for {responses} allocations, none lost");
    assert!(relayed >= 60, "{relayed}");
}

/// The runs of one test, at the same time: the client spends most of its seconds waiting.
fn all_relay_without_loss(runs: &[(&str, &str, &[&str])]) {
    std::thread::scope(|scope| {
        for (ip, scheme, arguments) in runs {
            scope.spawn(|| relays_without_loss(ip, scheme, arguments));
        }
    });
}

// Arguments: -y both ends are clients, -x IPv6 relayed addresses, -s Send indications instead of channels, -c no second flow to the next
// port, -t TCP, -S TLS, -D padded ChannelData, -e and -r a peer.

#[test]
fn coturns_turn_client_loses_nothing_over_udp() {
    all_relay_without_loss(&[
        ("127.0.0.1", "turn", &["-y"]),
        ("127.0.0.1", "turn", &["-y", "-s", "-c"]),
        ("::1", "turn", &["-y", "-x"]),
    ]);
}

#[test]
fn coturns_turn_client_loses_nothing_over_tcp_and_tls() {
    all_relay_without_loss(&[
        ("127.0.0.1", "turn-tcp", &["-y", "-t"]),
        ("::1", "turn-tcp", &["-y", "-t", "-x", "-s", "-c"]),
        ("127.0.0.1", "turns", &["-y", "-t", "-S"]),
        ("::1", "turns", &["-y", "-t", "-S", "-x", "-c"]),
    ]);
}

/// A host that knows no TURN answers at the other end.
#[test]
fn coturns_turn_client_reaches_a_peer_beyond_the_relay() {
    let echoes = [Echo::start("127.0.0.1"), Echo::start("::1")];
    let [v4, v6] = echoes.each_ref().map(|echo| echo.port.to_string());
    all_relay_without_loss(&[
        ("127.0.0.1", "turn", &["-c", "-D", "-e", "127.0.0.1", "-r", &v4]),
        ("127.0.0.1", "turn", &["-c", "-s", "-e", "127.0.0.1", "-r", &v4]),
        ("127.0.0.1", "turn-tcp", &["-c", "-t", "-e", "127.0.0.1", "-r", &v4]),
        ("::1", "turn", &["-c", "-x", "-e", "::1", "-r", &v6]),
    ]);
}

/// A socket at the relay's own address that can't be taken for a relayed one: what the system gives for port 0 may be in that range.
fn outside_relayed_ports(ip: &str) -> UdpSocket {
    let mut tried = Vec::new();
    for socket in std::iter::repeat_with(|| UdpSocket::bind((ip, 0)).expect("a free port")).take(1_000) {
        if socket.local_addr().expect("bound").port() < 49_152 {
            return socket;
        }
        // Kept, so that the system doesn't give the same again.
        tried.push(socket);
    }
    panic!("no free port below 49152")
}

/// Sends every datagram back, until dropped.
struct Echo {
    port: u16,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(ip: &str) -> Self {
        let socket = outside_relayed_ports(ip);
        let port = socket.local_addr().expect("bound").port();
        // How long dropping it may take.
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
        let done = Arc::<AtomicBool>::default();
        let is_done = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2_048];
            while !is_done.load(Ordering::Relaxed) {
                if let Ok((bytes, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..bytes], from).expect("sent back");
                }
            }
        });
        Self { port, done, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn coturns_turn_client_uses_a_time_limited_credential() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secrets");
    std::fs::write(&path, "retired\nnorth\n").expect("written");
    let path = path.to_str().expect("a path in UTF-8");
    let relay = Relay::start(&["--listen", "127.0.0.1:0", "--auth-secret-file", path, "--lab", "--drain", "0"]);
    let port = relay.addresses()[0].port().to_string();
    // The client makes the credential from the secret itself.
    let (printed, is_success) =
        output_of(TURN_CLIENT, &["-u", "somebody", "-W", "north", "-y", "-n", "5", "-p", &port, "127.0.0.1"]);
    assert!(is_success && printed.contains("Total lost packets 0 (0.000000%)"), "{printed}");
    let (printed, is_success) =
        output_of(TURN_CLIENT, &["-u", "somebody", "-W", "south", "-y", "-n", "5", "-p", &port, "127.0.0.1"]);
    assert!(!is_success && printed.contains("Cannot complete Allocation"), "{printed}");
}

/// Without the lab switch loopback is no peer, whoever asks.
#[test]
fn coturns_turn_client_is_refused_a_peer_on_loopback() {
    let relay = Relay::start(&["--listen", "127.0.0.1:0", "--user", "user:password"]);
    let port = relay.addresses()[0].port().to_string();
    let (printed, _) =
        output_of(TURN_CLIENT, &["-u", "user", "-w", "password", "-n", "1", "-e", "127.0.0.1", "-p", &port, "127.0.0.1"]);
    assert!(printed.contains("error 403 (Forbidden peer address)"), "{printed}");
}
