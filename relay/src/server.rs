//! Sockets and tasks around [`Handler`]: one task for each socket, each with its own handler, nothing shared but counters.
//!
//! [`Server::bind`] takes the addresses, [`Server::run`] serves until told to stop. A socket's task reads what is there, up to
//! [`DATAGRAMS_PER_WAKE_MAX`] datagrams, answers each at once and never waits for room to send: a response that doesn't
//! fit the socket's buffer is dropped and counted, as the client will ask again.
//!
//! Each IPv6 socket serves IPv6 only, so that both families can have the same port.

use std::future::Future;
use std::hash::RandomState;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, trace, warn};

use crate::config::Config;
use crate::defaults;
use crate::handler::{Decision, Handler, RESPONSE_BYTES_MAX};
use crate::metrics::{Metrics, exporter};
use crate::quota::SourceRates;

/// Datagrams one socket handles before others have their turn.
pub const DATAGRAMS_PER_WAKE_MAX: usize = 64;

/// Longer datagrams are cut, and refused as their length is wrong. No STUN request comes near one Ethernet frame.
const DATAGRAM_BYTES_MAX: usize = 2_048;

/// Failures of receiving in a row after which a socket is taken for broken: 10 s of them. Single ones happen, as when
/// memory runs short; some systems report a client's closed port here.
const RECEIVE_FAILURES_MAX: u32 = 1_000;

/// Pause after a failure of receiving: trying at once would burn the time that may be needed to get well.
const RECEIVE_RETRY: Duration = Duration::from_millis(10);

/// Connections waiting to be taken at the metrics address.
const METRICS_BACKLOG: i32 = 16;

/// Why a server can't start.
#[derive(Debug, Error)]
pub enum BindError {
    /// An address can't be had: taken, not this machine's, or not allowed.
    #[error("cannot listen on {address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a server ended although it wasn't told to.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A socket doesn't receive any more.
    #[error("cannot receive on {address}")]
    Receive {
        /// The socket's address.
        address: SocketAddr,
        /// What the system said last.
        source: io::Error,
    },
    /// A task of the server panicked: a mistake of ours.
    #[error("a task of the server panicked")]
    Task(#[source] tokio::task::JoinError),
}

/// A relay whose addresses are taken. Datagrams that come before [`run`](Self::run) wait in the sockets.
#[derive(Debug)]
#[must_use]
pub struct Server {
    sockets: Vec<(SocketAddr, UdpSocket)>,
    exporter: Option<(SocketAddr, TcpListener)>,
    metrics: Arc<Metrics>,
    config: Config,
}

impl Server {
    /// Takes all addresses of the configuration.
    ///
    /// # Errors
    /// [`BindError`] names the first address that can't be had; those taken before are given back.
    ///
    /// # Panics
    /// Outside a tokio runtime that has I/O and time enabled.
    pub fn bind(config: Config) -> Result<Self, BindError> {
        let sockets = if config.listen.is_empty() { bind_defaults()? } else { bind_all(&config.listen)? };
        let exporter =
            config.metrics.map(|address| bind_metrics(address).map_err(|source| BindError::Address { address, source }));
        Ok(Self { sockets, exporter: exporter.transpose()?, metrics: Arc::default(), config })
    }

    /// UDP addresses served, with the ports the system gave.
    pub fn local_addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.sockets.iter().map(|(address, _)| *address)
    }

    /// Address of the counters over HTTP, if they are served.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.exporter.as_ref().map(|(address, _)| *address)
    }

    /// The counters, to read also while and after the server runs.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Serves until `shutdown` is done. Dropping the future ends the server at once.
    ///
    /// # Errors
    /// [`ServeError`] if a socket breaks; the others are closed then.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (address, socket) in self.sockets {
            let now = Instant::now();
            let rates = SourceRates::new(self.config.rate_limit, self.config.sources_max, RandomState::new(), now);
            let service = Service { address, socket, handler: Handler::new(rates), metrics: Arc::clone(&self.metrics) };
            tasks.spawn(service.run(stopped.clone()));
        }
        if let Some((_, listener)) = self.exporter {
            tasks.spawn(exporter::serve(listener, Arc::clone(&self.metrics), stopped));
        }
        let result = tokio::select! {
            biased;
            () = shutdown => Ok(()),
            Some(ended) = tasks.join_next() => ended.map_err(ServeError::Task).flatten(),
        };
        // 1. No task takes another datagram. Nothing is kept for clients, so there is nothing to take leave of.
        stop.send_replace(true);
        // 2. Each finishes those it has read.
        while tasks.join_next().await.is_some() {}
        result
    }
}

/// One socket's task.
struct Service {
    address: SocketAddr,
    socket: UdpSocket,
    handler: Handler,
    metrics: Arc<Metrics>,
}

impl Service {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) -> Result<(), ServeError> {
        let mut failures = 0;
        loop {
            let readable = tokio::select! {
                biased;
                () = told_to_stop(&mut stopped) => return Ok(()),
                readable = self.socket.readable() => readable,
            };
            match readable.and_then(|()| self.handle_waiting()) {
                Ok(()) => failures = 0,
                Err(source) => {
                    self.metrics.count_receive_failure();
                    failures += 1;
                    if failures >= RECEIVE_FAILURES_MAX {
                        return Err(ServeError::Receive { address: self.address, source });
                    }
                    tokio::time::sleep(RECEIVE_RETRY).await;
                }
            }
            // Also after less than a full round: a socket that is readable all the time must not keep the thread.
            tokio::task::yield_now().await;
        }
    }

    /// Handles the datagrams that are there, up to a round's worth.
    fn handle_waiting(&mut self) -> io::Result<()> {
        let mut packet = [0; DATAGRAM_BYTES_MAX];
        let now = Instant::now();
        for _ in 0..DATAGRAMS_PER_WAKE_MAX {
            match self.socket.try_recv_from(&mut packet) {
                Ok((bytes, source)) => self.handle_datagram(&packet[..bytes], source, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn handle_datagram(&mut self, packet: &[u8], source: SocketAddr, now: Instant) {
        self.metrics.count_received(packet.len());
        let mut buffer = [0; RESPONSE_BYTES_MAX];
        let decision = self.handler.handle_datagram(packet, source, now, &mut buffer);
        trace!(bytes = packet.len(), ?decision, "datagram");
        match decision {
            Decision::Ignore(reason) => self.metrics.count_ignored(reason),
            Decision::Respond { bytes, response } => match self.socket.try_send_to(&buffer[..bytes], source) {
                Ok(sent) => self.metrics.count_sent(response, sent),
                Err(error) => self.metrics.count_dropped(&error),
            },
        }
    }
}

/// Done when the server is told to stop, or is gone.
pub(crate) async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // An error means that the sender was dropped with the server's future: the same to a task.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Takes the default addresses. A machine without IPv6 (or without IPv4) is served at what it has.
fn bind_defaults() -> Result<Vec<(SocketAddr, UdpSocket)>, BindError> {
    let mut sockets = Vec::new();
    let mut missing = None;
    for address in defaults::LISTEN {
        match bind_udp(address) {
            Ok(socket) => sockets.push(socket),
            Err(source) if is_family_missing(&source) => {
                warn!(%address, error = %source, "address family is not available");
                missing = Some(BindError::Address { address, source });
            }
            Err(source) => return Err(BindError::Address { address, source }),
        }
    }
    match missing {
        Some(error) if sockets.is_empty() => Err(error),
        _ => Ok(sockets),
    }
}

fn is_family_missing(error: &io::Error) -> bool {
    // `Uncategorized` can't be named; EAFNOSUPPORT arrives as that from `socket`, EADDRNOTAVAIL from `bind`.
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// "Address family not supported by protocol".
#[cfg(target_os = "linux")]
const EAFNOSUPPORT: i32 = 97;
/// "Address family not supported by protocol", on the BSDs and macOS.
#[cfg(not(target_os = "linux"))]
const EAFNOSUPPORT: i32 = 47;

fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<(SocketAddr, UdpSocket)>, BindError> {
    addresses.iter().map(|&address| bind_udp(address).map_err(|source| BindError::Address { address, source })).collect()
}

fn bind_udp(address: SocketAddr) -> io::Result<(SocketAddr, UdpSocket)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    prepare(&socket, address)?;
    let socket = UdpSocket::from_std(socket.into())?;
    let address = socket.local_addr()?;
    info!(%address, "serving stun over udp");
    Ok((address, socket))
}

fn bind_metrics(address: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of the last run that linger must not keep the address.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    prepare(&socket, address)?;
    socket.listen(METRICS_BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let address = listener.local_addr()?;
    info!(%address, "serving metrics over http");
    Ok((address, listener))
}

fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())
}
