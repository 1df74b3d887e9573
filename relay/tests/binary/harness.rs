//! A relay process, and waiting for things under a deadline.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use halloo_relay::auth::{Key, PasswordAlgorithm};
use halloo_relay::stun::attribute::AttributeType;
use halloo_relay::stun::{Class, Message, MessageBuilder, Method, TransactionId};

/// Long enough for a process to start on a machine that builds at the same time.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// How often a process is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halloo-relay"));
    command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs to the end, which has to come by itself.
pub(crate) fn run(arguments: &[&str]) -> Output {
    finish(command().args(arguments).spawn().expect("halloo-relay starts"))
}

/// Waits for the end of a process that writes less than a pipe holds.
pub(crate) fn finish(mut child: Child) -> Output {
    let status = wait(&mut child);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut stdout).expect("stdout is readable");
    }
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_end(&mut stderr).expect("stderr is readable");
    }
    Output { status, stdout, stderr }
}

fn wait(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().expect("the process can be waited for") {
            return status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            panic!("process {} did not end within {DEADLINE:?}", child.id());
        }
        thread::sleep(POLL);
    }
}

/// A running relay. Killed when dropped.
pub(crate) struct Relay {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    uris: Vec<String>,
}

impl Relay {
    /// Starts one and waits until it says that it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = command().args(arguments).stderr(Stdio::inherit()).spawn().expect("halloo-relay starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let (sender, receiver) = mpsc::sync_channel(1);
        thread::spawn(move || {
            let mut line = String::new();
            let read = stdout.read_line(&mut line);
            let _ = sender.send((read.map(|_| line), stdout));
        });
        let Ok((Ok(line), stdout)) = receiver.recv_timeout(DEADLINE) else {
            let _ = child.kill();
            panic!("halloo-relay said nothing within {DEADLINE:?}");
        };
        let uris = line.trim_end().strip_prefix("ready ").unwrap_or_else(|| panic!("first line is {line:?}"));
        let uris = uris.split(' ').map(str::to_owned).collect();
        Self { child, _stdout: stdout, uris }
    }

    /// Addresses it says it serves STUN at.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.uris.iter().filter_map(|uri| uri.strip_prefix("stun:")?.parse().ok()).collect()
    }

    /// The first address served in that way: `turn`, `turn-tcp` or `turns`.
    pub(crate) fn address(&self, way: &str) -> SocketAddr {
        let (scheme, transport) = match way {
            "turn-tcp" => ("turn:", "?transport=tcp"),
            "turns" => ("turns:", "?transport=tcp"),
            _ => ("turn:", ""),
        };
        let found = self.uris.iter().find_map(|uri| uri.strip_prefix(scheme)?.strip_suffix(transport)?.parse().ok());
        found.unwrap_or_else(|| panic!("no {way} among {:?}", self.uris))
    }

    /// Sum of the counters whose names begin like this.
    pub(crate) fn counters(&self, name: &str) -> u64 {
        let text = fetch(self.metrics_address(), "GET /metrics HTTP/1.1\r\nhost: relay\r\n\r\n");
        let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next()?.parse().ok());
        values.map(|value: u64| value).sum()
    }

    /// Address it says it serves counters at.
    pub(crate) fn metrics_address(&self) -> SocketAddr {
        let found = self.uris.iter().find_map(|uri| uri.strip_prefix("http://")?.strip_suffix("/metrics")?.parse().ok());
        found.unwrap_or_else(|| panic!("no metrics among {:?}", self.uris))
    }

    /// Resident memory in KiB.
    #[cfg(target_os = "linux")]
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process is there");
        let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB")?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no resident memory in {status}"))
    }

    /// Sends a signal by name.
    pub(crate) fn send_signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "signal {name} was not sent");
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the process can be waited for").is_none()
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Sends a signal by name and waits for the end.
    pub(crate) fn signal(self, name: &str) -> ExitStatus {
        self.send_signal(name);
        self.wait()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client's socket on the same family's loopback.
pub(crate) fn client(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).expect("loopback is there");
    socket.connect(server).expect("loopback is routed");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
    socket
}

/// Sends one packet and waits for one in return.
pub(crate) fn exchange(client: &UdpSocket, packet: &[u8]) -> Vec<u8> {
    client.send(packet).expect("sent");
    let mut buffer = [0; 2_048];
    let bytes = client.recv(&mut buffer).expect("a response");
    buffer[..bytes].to_vec()
}

/// One exchange over TCP, to its end.
pub(crate) fn fetch(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
    stream.write_all(request.as_bytes()).expect("written");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response to its end");
    response
}

/// Certificate and key for localhost, as files.
pub(crate) fn certificate(directory: &Path) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("a path in UTF-8").to_owned()
    };
    (write("certificate.pem", made.cert.pem()), write("key.pem", made.signing_key.serialize_pem()))
}

/// A request of `ann`'s, whose password is `secret`, with these attributes. Transactions are told apart by one byte.
pub(crate) fn turn_request(
    method: Method,
    credential: Option<(&Key, &[u8])>,
    transaction: u8,
    attributes: &[(AttributeType, Vec<u8>)],
) -> Vec<u8> {
    let mut buffer = [0; 512];
    let id = TransactionId([transaction; 12]);
    let message = MessageBuilder::begin(&mut buffer, Class::Request, method, id)
        .and_then(|message| attributes.iter().try_fold(message, |message, (kind, value)| message.attribute(*kind, value)));
    let message = message.and_then(|message| match credential {
        None => Ok(message),
        Some((key, nonce)) => message
            .attribute(AttributeType::USERNAME, b"ann")?
            .attribute(AttributeType::REALM, b"halloo")?
            .attribute(AttributeType::NONCE, nonce)?
            .message_integrity_sha1(key.as_bytes()),
    });
    let length = message.expect("512 bytes hold a request").finish();
    buffer[..length].to_vec()
}

/// What every Allocate has.
pub(crate) fn with_udp() -> [(AttributeType, Vec<u8>); 1] {
    [(AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])]
}

/// An allocation of `ann`'s, made with the two requests it takes: key, nonce, and XOR-RELAYED-ADDRESS of an IPv4 address as it came.
pub(crate) fn allocate(client: &UdpSocket) -> (Key, Vec<u8>, Vec<u8>) {
    let key = Key::new(PasswordAlgorithm::Md5, "ann", "halloo", "secret");
    let challenge = exchange(client, &turn_request(Method::ALLOCATE, None, 1, &with_udp()));
    let challenge = Message::parse(&challenge).expect("a stun message");
    let nonce = challenge.attribute(AttributeType::NONCE).expect("a nonce").value.to_vec();
    let response = exchange(client, &turn_request(Method::ALLOCATE, Some((&key, &nonce)), 2, &with_udp()));
    let response = Message::parse(&response).expect("a stun message");
    assert_eq!(response.class(), Class::Success);
    let relayed = response.attribute(AttributeType::XOR_RELAYED_ADDRESS).expect("a relayed address").value.to_vec();
    (key, nonce, relayed)
}
