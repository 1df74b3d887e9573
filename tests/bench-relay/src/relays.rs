//! The relays that are compared, each with the settings that suit the load: one user, loopback peers allowed, no limits reached.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::forward::{self, Way};
use crate::load::Endpoint;
use crate::process::Process;
use crate::turn::{self, CREDENTIAL, Client};

/// First channel number (RFC 8656 section 12).
const CHANNEL: u16 = 0x4000;
/// A relay that doesn't answer within that time won't.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours, with so many threads.
    Halloo(usize),
    Coturn,
    TurnServer,
    Forward(Way),
}

impl Kind {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Halloo(1) => "halloo-relay".into(),
            Self::Halloo(threads) => format!("halloo-relay, {threads} threads"),
            Self::Coturn => "coturn".into(),
            Self::TurnServer => "turn-server".into(),
            Self::Forward(Way::Plain) => "bare: recvfrom, sendto".into(),
            Self::Forward(Way::Batch) => "bare: recvmmsg, sendmmsg".into(),
            Self::Forward(Way::Wait) => "bare: epoll_wait, recvmmsg, sendmsg".into(),
            Self::Forward(Way::Trains) => "bare: the same with GRO, GSO, naps".into(),
        }
    }
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) halloo: PathBuf,
    pub(crate) coturn: PathBuf,
    pub(crate) turn_server: PathBuf,
    pub(crate) cores: String,
    /// For configuration and logs.
    pub(crate) folder: PathBuf,
}

/// A relay that runs, and its clients.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) kind: Kind,
    pub(crate) process: Process,
    address: SocketAddr,
    clients: Vec<Client>,
    /// Sockets of clients that are through: a relay may remember their ports for a while, so nobody else shall get them.
    retired: Vec<UdpSocket>,
}

/// What setting up cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SetUp {
    /// Of the relay's processor time, for one allocation with its permission and channel.
    pub(crate) cpu_us: f64,
    /// Of resident memory for one allocation.
    pub(crate) kib: f64,
}

impl Relay {
    pub(crate) fn start(kind: Kind, programs: &Programs) -> anyhow::Result<Self> {
        let address = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let (program, arguments) = command(kind, address, programs)?;
        let log = programs.folder.join(format!("{}.log", address.port()));
        let process = Process::start(&programs.cores, &program, &arguments, &log)?;
        let mut relay = Self { kind, process, address, clients: Vec::new(), retired: Vec::new() };
        relay.wait().with_context(|| format!("{}, see {}", kind.name(), log.display()))?;
        Ok(relay)
    }

    /// Until it answers.
    fn wait(&mut self) -> anyhow::Result<()> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(self.address)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let binding = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
        let probe = if matches!(self.kind, Kind::Forward(_)) { [&b"JOIN"[..], &[255; 5]].concat() } else { binding };
        let begun = Instant::now();
        while begun.elapsed() < START_PATIENCE {
            let _ = socket.send(&probe);
            match socket.recv(&mut [0; 512]) {
                Ok(_) => return Ok(()),
                // Nobody listens yet: the system says so at once.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    std::thread::sleep(Duration::from_millis(20))
                }
                Err(_) => {}
            }
        }
        bail!("it doesn't answer")
    }

    /// Sets up `allocations` that talk to each other in pairs.
    pub(crate) fn set_up_pairs(&mut self, allocations: usize, at_once: usize) -> anyhow::Result<(Vec<Endpoint>, Option<SetUp>)> {
        if let Kind::Forward(_) = self.kind {
            let join = |n: usize| forward::join(self.address, (n / 2) as u32, (n % 2) as u8);
            let endpoints =
                (0..allocations).map(|n| Ok(Endpoint { socket: join(n)?, channel: None })).collect::<anyhow::Result<_>>()?;
            return Ok((endpoints, None));
        }
        let (cpu, kib) = (self.process.cpu()?, self.process.resident_kib()?);
        self.allocate(allocations, at_once)?;
        let others: Vec<SocketAddr> = (0..allocations).map(|n| self.clients[n ^ 1].relayed).collect();
        self.bind(&others, at_once)?;
        let set_up = self.set_up(cpu, kib)?;
        Ok((self.client_endpoints()?, Some(set_up)))
    }

    /// Sets up `allocations` that talk to a plain UDP socket each. The second half of the endpoints are those.
    pub(crate) fn set_up_peers(&mut self, allocations: usize) -> anyhow::Result<(Vec<Endpoint>, Option<SetUp>)> {
        let (cpu, kib) = (self.process.cpu()?, self.process.resident_kib()?);
        self.allocate(allocations, 1)?;
        let (mut peers, mut addresses) = (Vec::new(), Vec::new());
        for client in &self.clients {
            // Another address than the relay's own, which it doesn't relay to but for relayed ports.
            let socket = UdpSocket::bind("127.0.0.2:0")?;
            socket.connect(client.relayed)?;
            addresses.push(socket.local_addr()?);
            peers.push(Endpoint { socket, channel: None });
        }
        self.bind(&addresses, 1)?;
        let set_up = self.set_up(cpu, kib)?;
        let mut endpoints = self.client_endpoints()?;
        endpoints.extend(peers);
        Ok((endpoints, Some(set_up)))
    }

    /// Has a bare forwarder answer as many requests as setting up takes: what waiting, receiving and sending cost alone.
    pub(crate) fn answer(&mut self, allocations: usize, at_once: usize) -> anyhow::Result<SetUp> {
        let client = |_| -> anyhow::Result<UdpSocket> {
            let socket = UdpSocket::bind("127.0.0.3:0")?;
            socket.connect(self.address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let clients = (0..allocations).map(client).collect::<anyhow::Result<Vec<_>>>()?;
        // Numbers that nobody has had: a second socket with the same number would be joined to the first.
        let first = self.retired.len() as u32;
        let (cpu, kib) = (self.process.cpu()?, self.process.resident_kib()?);
        // Both Allocates of all, then permission and channel, as for relays.
        for _ in 0..2 {
            for (index, some) in clients.chunks(at_once).enumerate() {
                (0..2).try_for_each(|_| forward::answer(some, first + (index * at_once) as u32))?;
            }
        }
        let cpu_us = (self.process.cpu()? - cpu) as f64 / 1e3 / allocations as f64;
        let kib = self.process.resident_kib()?.saturating_sub(kib) as f64 / allocations as f64;
        self.retired.extend(clients);
        Ok(SetUp { cpu_us, kib })
    }

    /// Ends the allocations.
    pub(crate) fn release(&mut self) {
        // The relay ends before long: what is left over ends with it.
        let _ = turn::release(&mut self.clients);
        self.retired.extend(self.clients.drain(..).map(|client| client.socket));
    }

    fn allocate(&mut self, allocations: usize, at_once: usize) -> anyhow::Result<()> {
        self.clients = (0..allocations).map(|_| Client::new(self.address)).collect::<anyhow::Result<_>>()?;
        self.clients.chunks_mut(at_once).try_for_each(turn::allocate)
    }

    /// A permission and a channel for each client.
    fn bind(&mut self, peers: &[SocketAddr], at_once: usize) -> anyhow::Result<()> {
        for (clients, peers) in self.clients.chunks_mut(at_once).zip(peers.chunks(at_once)) {
            turn::create_permissions(clients, peers)?;
            turn::bind_channels(clients, CHANNEL, peers)?;
        }
        Ok(())
    }

    fn set_up(&self, cpu: u64, kib: u64) -> anyhow::Result<SetUp> {
        let allocations = self.clients.len() as f64;
        Ok(SetUp {
            cpu_us: (self.process.cpu()? - cpu) as f64 / 1e3 / allocations,
            kib: (self.process.resident_kib()?.saturating_sub(kib)) as f64 / allocations,
        })
    }

    fn client_endpoints(&self) -> anyhow::Result<Vec<Endpoint>> {
        self.clients.iter().map(|client| Ok(Endpoint { socket: client.socket.try_clone()?, channel: Some(CHANNEL) })).collect()
    }
}

fn command(kind: Kind, address: SocketAddr, programs: &Programs) -> anyhow::Result<(PathBuf, Vec<String>)> {
    let file = |text: String| -> anyhow::Result<String> {
        let path = programs.folder.join(format!("{}.toml", address.port()));
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    };
    Ok(match kind {
        Kind::Halloo(threads) => {
            let path = file(halloo_config(address, threads))?;
            (programs.halloo.clone(), vec!["--config".into(), path])
        }
        Kind::TurnServer => (programs.turn_server.clone(), vec!["--config".into(), file(turn_server_config(address))?]),
        Kind::Coturn => (programs.coturn.clone(), coturn_arguments(address, &programs.folder)),
        Kind::Forward(way) => {
            let way = clap::ValueEnum::to_possible_value(&way).context("hidden value")?;
            let arguments = ["forward", "--way", way.get_name(), "--listen", &address.to_string()].map(String::from);
            (std::env::current_exe()?, arguments.into())
        }
    })
}

fn halloo_config(address: SocketAddr, threads: usize) -> String {
    format!(
        r#"listen = ["{address}"]
threads = {threads}
[turn]
users = [{{ name = "{CREDENTIAL}", password = "{CREDENTIAL}" }}]
realm = "{CREDENTIAL}"
[peers]
lab = true
[limits]
user_bytes_per_sec = 0
user_packets_per_sec = 0
total_bytes_per_sec = 0
total_packets_per_sec = 0
allocations_per_user_max = 4000
allocations_per_address_max = 4000
responses_per_source_per_sec = 100000
response_burst_per_source = 100000
"#
    )
}

fn turn_server_config(address: SocketAddr) -> String {
    format!(
        r#"[server]
realm = "{CREDENTIAL}"
max-threads = 1
[[server.interfaces]]
transport = "udp"
listen = "{address}"
external = "{address}"
idle-timeout = 600
[log]
level = "error"
[auth.static-credentials]
{CREDENTIAL} = "{CREDENTIAL}"
"#
    )
}

fn coturn_arguments(address: SocketAddr, folder: &Path) -> Vec<String> {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let port = address.port();
    let mut arguments: Vec<String> = [
        "-n",
        "--lt-cred-mech",
        "--allow-loopback-peers",
        "--no-cli",
        "--no-tls",
        "--no-dtls",
        "--no-tcp",
        "--no-tcp-relay",
        "--no-rfc5780",
        "--no-stdout-log",
        "--relay-threads=1",
        "--listening-ip=127.0.0.1",
        "--relay-ip=127.0.0.1",
    ]
    .map(String::from)
    .into();
    arguments.extend([
        format!("--listening-port={port}"),
        format!("--realm={CREDENTIAL}"),
        format!("--user={CREDENTIAL}:{CREDENTIAL}"),
        format!("--log-file={}", path(&format!("{port}.coturn.log"))),
        format!("--pidfile={}", path(&format!("{port}.pid"))),
        format!("--db={}", path(&format!("{port}.db"))),
    ]);
    arguments
}
