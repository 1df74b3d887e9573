//! Goal: a device in a network that lets nothing but HTTP out is registered with its gateway, and gets its pushes, over a WebSocket. Method: between the device
//! and the gateway stands a wall that reads what comes first and lets only requests for a WebSocket through, and the gateway listens nowhere else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::daemon::Launch;
use halloo_tests::network::{AUTHORITY, enrol_user, infrastructure_roles, invite};
use halloo_tests::{Daemon, eventually};

const PATIENCE: Duration = Duration::from_secs(30);

/// A request's head is no longer.
const HEAD_MAX: usize = 8 * 1024;

/// What lets HTTP through that asks for a WebSocket, and ends everything else.
struct Wall {
    port: u16,
    passed: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Wall {
    fn before(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (passed, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&passed), Arc::clone(&refused));
        // Its threads end with the test process; they hold nothing but ports.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (passed, refused) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
                std::thread::spawn(move || {
                    let count = if pass(client, server_port).is_some() { passed } else { refused };
                    count.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, passed, refused }
    }
}

/// `None` if it isn't let through.
fn pass(mut client: TcpStream, server_port: u16) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        let is_request = b"GET /".starts_with(&head[..head.len().min(5)]);
        if !is_request || head.len() > HEAD_MAX || client.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8(head.clone()).ok()?.to_ascii_lowercase();
    if !text.contains("\r\nupgrade: websocket\r\n") || !text.contains("\r\nsec-websocket-key: ") {
        return None;
    }
    let mut server = TcpStream::connect(("127.0.0.1", server_port)).ok()?;
    server.write_all(&head).ok()?;
    let (mut back, mut to_client) = (server.try_clone().ok()?, client.try_clone().ok()?);
    std::thread::spawn(move || {
        let _ended = std::io::copy(&mut back, &mut to_client);
        to_client.shutdown(Shutdown::Both)
    });
    std::thread::spawn(move || {
        let _ended = std::io::copy(&mut client, &mut server);
        server.shutdown(Shutdown::Both)
    });
    Some(())
}

#[test]
fn a_device_that_can_only_do_web_sockets_gets_its_pushes() {
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let config = format!("lab = true\n[authority]\nname = \"{AUTHORITY}\"\nenrolment = \"invite\"\n");
    let mut gateway = Daemon::init(folder.path(), AUTHORITY, &config);
    let launch = Launch::default().args(["--lab", "--listen", "/ip4/127.0.0.1/tcp/0/ws"]).args(infrastructure_roles());
    gateway.start(launch);
    let listens = gateway.addresses();
    assert!(listens.iter().all(|address| address.contains("/ws/p2p/")), "{listens:?}");
    let port: u16 = listens[0].split('/').nth(4).expect("a port").parse().expect("a number");
    let wall = Wall::before(port);

    // Plain libp2p doesn't get through.
    let mut stranger = TcpStream::connect(("127.0.0.1", wall.port)).expect("it listens");
    stranger.write_all(b"\x13/multistream/1.0.0\n").expect("sent");
    eventually(PATIENCE, "it is refused", || match wall.refused.load(Ordering::SeqCst) {
        0 => Err("not yet".to_owned()),
        _ => Ok(()),
    });

    let mut bob = enrol_user(folder.path(), "bob", "lab = true\n", &invite(&gateway));
    let peer = gateway.peer_id();
    bob.start(Launch::lab().arg("--bootstrap").arg(format!("/ip4/127.0.0.1/tcp/{}/ws/p2p/{peer}", wall.port)));
    assert!(wall.passed.load(Ordering::SeqCst) > 0, "it came through the wall");
    let registered = bob.cli(["push", "register", "stream"]).ok();
    assert_eq!((&registered["kind"], &registered["gateway"]), (&"stream".into(), &peer.as_str().into()), "{registered}");
    let test = Invocation::new(bob.home()).args(["push", "test"]).limit(PATIENCE).run().ok();
    assert_eq!(test["ok"], true, "{test}");
    let stages = test["gateways"][0]["stages"].as_array().cloned().unwrap_or_default();
    assert!(stages.iter().any(|stage| stage["step"] == "stream" && stage["ok"] == true), "{test}");
    // Renewing goes the same way.
    let renewed = bob.cli(["push", "register", "stream"]).ok();
    assert_eq!(renewed["id"], registered["id"], "{renewed}");
    let peers = bob.cli(["peers"]).ok();
    let known =
        peers["peers"].as_array().into_iter().flatten().find(|known| known["peer_id"] == peer.as_str()).expect("connected");
    assert!(known["addresses"][0].as_str().is_some_and(|address| address.contains("/ws")), "{known}");
}

/// What an operator puts before a gateway: TLS by Python's `ssl`, with a certificate for `localhost` that nobody knows; `roots.pem` in its folder is to be
/// trusted for it.
struct TlsProxy {
    port: u16,
    process: Child,
    said: Arc<Mutex<String>>,
}

const PROXY: &str = "
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.create_server(('127.0.0.1', 0))
print('port', listener.getsockname()[1], flush=True)
def copy(one, other):
    try:
        while data := one.recv(65536):
            other.sendall(data)
    except OSError:
        pass
    for end in (one, other):
        try: end.shutdown(socket.SHUT_RDWR)
        except OSError: pass
def serve(client):
    try:
        client = context.wrap_socket(client, server_side=True)
    except (ssl.SSLError, OSError) as error:
        return print('refused', error, flush=True)
    print('passed', client.version(), flush=True)
    server = socket.create_connection(('127.0.0.1', int(sys.argv[3])))
    threading.Thread(target=copy, args=(server, client), daemon=True).start()
    copy(client, server)
while True:
    client, _ = listener.accept()
    threading.Thread(target=serve, args=(client,), daemon=True).start()
";

impl TlsProxy {
    fn before(server_port: u16, folder: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let (certificate, key) = (folder.join("roots.pem"), folder.join("proxy.key"));
        std::fs::write(&certificate, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        let mut command = Command::new("python3");
        command.args(["-c", PROXY]).arg(&certificate).arg(&key).arg(server_port.to_string());
        let mut process = command.stdout(Stdio::piped()).spawn().expect("python3 runs");
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let first = lines.next().expect("a line").expect("text");
        let port = first.strip_prefix("port ").and_then(|port| port.parse().ok()).expect("a port");
        let said = Arc::new(Mutex::new(String::new()));
        let all = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                all.lock().expect("no panic").push_str(&format!("{line}\n"));
            }
        });
        Self { port, process, said }
    }

    fn count(&self, word: &str) -> usize {
        self.said.lock().expect("no panic").lines().filter(|line| line.starts_with(word)).count()
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}

#[test]
#[ignore = "long: TLS"]
fn a_web_socket_under_tls_goes_to_a_server_that_is_trusted_alone() {
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let config = format!("lab = true\n[authority]\nname = \"{AUTHORITY}\"\nenrolment = \"invite\"\n");
    let mut gateway = Daemon::init(folder.path(), AUTHORITY, &config);
    gateway.start(Launch::default().args(["--lab", "--listen", "/ip4/127.0.0.1/tcp/0/ws"]).args(infrastructure_roles()));
    let port: u16 = gateway.addresses()[0].split('/').nth(4).expect("a port").parse().expect("a number");
    let proxy = TlsProxy::before(port, folder.path());
    let peer = gateway.peer_id();
    let address = format!("/dns4/localhost/tcp/{}/tls/ws/p2p/{peer}", proxy.port);

    // Nobody vouches for the certificate: no connection, and the device says that it finds nobody.
    let mut alice = enrol_user(folder.path(), "alice", "lab = true\n", &invite(&gateway));
    alice.spawn(Launch::lab().arg("--bootstrap").arg(&address));
    eventually(PATIENCE, "the certificate is refused", || match proxy.count("refused") {
        0 => Err("not yet".to_owned()),
        _ => Ok(()),
    });
    alice.kill();
    assert_eq!(proxy.count("passed"), 0, "{}", proxy.said.lock().expect("no panic"));

    let roots = folder.path().join("roots.pem");
    let config = format!("lab = true\nroots = \"{}\"\n", roots.display());
    let mut bob = enrol_user(folder.path(), "bob", &config, &invite(&gateway));
    bob.start(Launch::lab().arg("--bootstrap").arg(&address));
    assert!(proxy.count("passed TLSv1.3") > 0, "{}", proxy.said.lock().expect("no panic"));
    bob.cli(["push", "register", "stream"]).ok();
    let test = Invocation::new(bob.home()).args(["push", "test"]).limit(PATIENCE).run().ok();
    let stages = test["gateways"][0]["stages"].as_array().cloned().unwrap_or_default();
    assert!(stages.iter().any(|stage| stage["step"] == "stream" && stage["ok"] == true), "{test}");
    let peers = bob.cli(["peers"]).ok();
    let known =
        peers["peers"].as_array().into_iter().flatten().find(|known| known["peer_id"] == peer.as_str()).expect("connected");
    assert!(known["addresses"].to_string().contains("/tls/ws"), "{known}");
}
