//! Sockets, threads and tasks around [`Relay`].
//!
//! [`Server::bind`] takes the addresses, [`Server::run`] serves until told to stop, and then for as long as there are allocations or
//! [`Config::drain`] allows. On Linux UDP is served by [`Config::threads`] threads of their own, each with a relay and a socket at each address
//! (`worker`). Connections, and UDP where there are no such threads, are the runtime's, with one relay for all of them; there sockets are
//! read up to [`DATAGRAMS_PER_WAKE_MAX`] datagrams at a time. Nobody waits long for room to send: what doesn't fit a socket's buffer is
//! dropped and counted.
//!
//! Each IPv6 socket serves IPv6 only, so that both families can have the same port.

pub(crate) mod accept;
mod core;
mod setup;
mod stream;
#[cfg(target_os = "linux")]
mod threads;
pub(crate) mod udp;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::info;

use self::core::SharedCore;
use crate::auth::Authenticator;
use crate::config::Config;
use crate::metrics::{AllMetrics, exporter};
use crate::packet::ListenerId;
use crate::quota::Usage;
use crate::relay::{Relay, Shared};
use crate::time::UnixTime;
#[cfg(target_os = "linux")]
use crate::worker::Worker;

pub use setup::BindError;
pub use udp::DATAGRAMS_PER_WAKE_MAX;

/// How often allocations that have run out are looked for. Packets of one that has are refused at once, whatever this is.
const TICK: Duration = Duration::from_secs(1);

/// How often it is looked whether the last allocation has ended while the relay drains.
const DRAIN_POLL: Duration = Duration::from_millis(50);

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
    /// A thread can't be started, or panicked.
    #[error("a thread of the server has failed")]
    Thread(#[source] io::Error),
    /// A task of the server panicked: a mistake of ours.
    #[error("a task of the server panicked")]
    Task(#[source] tokio::task::JoinError),
}

/// How an address is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
}

/// A relay whose addresses are taken. Datagrams that come before [`run`](Self::run) wait in the sockets.
#[must_use]
pub struct Server {
    listeners: Vec<SocketAddr>,
    /// Sockets that this runtime reads, in the order of the listeners; none where threads do.
    sockets: Vec<Arc<UdpSocket>>,
    #[cfg(target_os = "linux")]
    workers: Vec<Worker>,
    streams: Vec<(SocketAddr, TcpListener, Option<TlsAcceptor>)>,
    exporter: Option<(SocketAddr, TcpListener)>,
    core: SharedCore,
    shared: Arc<Shared>,
    metrics: AllMetrics,
    drain: Duration,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Server {
    /// Takes all addresses of the configuration; users are those of the configuration.
    ///
    /// # Errors
    /// [`BindError`] names what can't be had; addresses taken before are given back.
    ///
    /// # Panics
    /// Outside a tokio runtime that has I/O and time enabled.
    pub fn bind(config: Config) -> Result<Self, BindError> {
        let authenticator = config.credentials();
        let serves_turn = config.has_credentials();
        Self::bind_with(config, Box::new(authenticator), serves_turn)
    }

    /// The same with users of the caller's. Without `serves_turn` it is a STUN server.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    ///
    /// # Panics
    /// As [`bind`](Self::bind).
    pub fn bind_with(config: Config, authenticator: Box<dyn Authenticator>, serves_turn: bool) -> Result<Self, BindError> {
        let is_batched = cfg!(target_os = "linux") && config.is_batched;
        let threads = if is_batched { config.threads.get() } else { 1 };
        let listeners =
            if config.listen.is_empty() { setup::bind_defaults(threads)? } else { setup::bind_all(&config.listen, threads)? };
        listeners.iter().flat_map(|listener| &listener.sockets).for_each(udp::enlarge_buffers);
        let mut streams = Vec::new();
        for address in &config.listen_tcp {
            let (address, listener) = setup::bind_tcp(*address)?;
            streams.push((address, listener, None));
        }
        if !config.listen_tls.is_empty() {
            let acceptor = setup::tls(&config)?;
            for address in &config.listen_tls {
                let (address, listener) = setup::bind_tcp(*address)?;
                streams.push((address, listener, Some(acceptor.clone())));
            }
        }
        let exporter = config.metrics.map(setup::bind_tcp).transpose()?;
        let own_ports = listeners.iter().map(|listener| listener.address).chain(streams.iter().map(|(address, ..)| *address));
        let settings = setup::settings(&config, own_ports.collect(), serves_turn)?;
        info!(relayed = ?settings.relayed, serves_turn, "relay set up");
        let now = Instant::now();
        let shared = Shared::new(settings, authenticator, setup::random()?, now, UnixTime::now());
        // The last of the relays is the runtime's, for connections, and for UDP where there are no threads for it.
        let relay = Relay::new(Arc::clone(&shared), threads as u16, setup::random()?);
        let mut metrics = vec![Arc::clone(relay.metrics())];
        let addresses: Vec<SocketAddr> = listeners.iter().map(|listener| listener.address).collect();
        let senders = listeners.iter().map(setup::duplicate).collect::<Result<_, _>>()?;
        let connections = stream::Streams::new(config.streams_max, config.streams_per_address_max);
        let core = SharedCore::new(relay, senders, connections);
        let mut server = Self {
            listeners: addresses,
            sockets: Vec::new(),
            #[cfg(target_os = "linux")]
            workers: Vec::new(),
            streams,
            exporter,
            core,
            metrics: AllMetrics::new(Vec::new()),
            drain: config.drain,
            shared,
        };
        if is_batched {
            #[cfg(target_os = "linux")]
            {
                server.workers = setup::workers(&server.shared, listeners)?;
                metrics.extend(server.workers.iter().map(|worker| Arc::clone(worker.metrics())));
            }
        } else {
            server.sockets = setup::into_tokio(listeners)?;
        }
        server.metrics = AllMetrics::new(metrics);
        Ok(server)
    }

    /// UDP addresses served, with the ports the system gave.
    pub fn local_addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.listeners.iter().copied()
    }

    /// All addresses served.
    pub fn endpoints(&self) -> impl Iterator<Item = (Protocol, SocketAddr)> + '_ {
        let streams = self.streams.iter().map(|(address, _, tls)| {
            let protocol = if tls.is_some() { Protocol::Tls } else { Protocol::Tcp };
            (protocol, *address)
        });
        self.local_addresses().map(|address| (Protocol::Udp, address)).chain(streams)
    }

    /// Address of the counters over HTTP, if they are served.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.exporter.as_ref().map(|(address, _)| *address)
    }

    /// The counters, to read also while and after the server runs.
    #[must_use]
    pub fn metrics(&self) -> AllMetrics {
        self.metrics.clone()
    }

    /// Whether TURN is served, beside STUN.
    #[must_use]
    pub fn serves_turn(&self) -> bool {
        self.shared.settings.serves_turn
    }

    /// Who has used how much; usable while the server runs.
    #[must_use]
    pub fn usage(&self) -> UsageReader {
        UsageReader(Arc::clone(&self.shared))
    }

    /// Serves until `shutdown` is done; then makes no new allocations, and ends with the last one, or after [`Config::drain`].
    /// Dropping the future ends the server at once.
    ///
    /// # Errors
    /// [`ServeError`] if a socket breaks; the others are closed then.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (number, (address, socket)) in self.listeners.iter().copied().zip(self.sockets).enumerate() {
            // No machine has so many addresses.
            let id = ListenerId(u16::try_from(number).unwrap_or(u16::MAX));
            tasks.spawn(udp::serve_listener(self.core.clone(), socket, address, id, stopped.clone()));
        }
        #[cfg(target_os = "linux")]
        let workers = threads::Threads::start(self.workers, &mut tasks);
        for (_, listener, tls) in self.streams {
            tasks.spawn(stream::serve(self.core.clone(), listener, tls, stopped.clone()));
        }
        if let Some((_, listener)) = self.exporter {
            tasks.spawn(exporter::serve(listener, self.metrics.clone(), stopped.clone()));
        }
        tasks.spawn(tick(self.core.clone(), stopped));
        let drained = async {
            shutdown.await;
            // 1. No new allocations; those there are go on.
            self.shared.drain();
            let _ = tokio::time::timeout(self.drain, drained(&self.metrics)).await;
        };
        let result = tokio::select! {
            biased;
            () = drained => Ok(()),
            Some(ended) = tasks.join_next() => ended.map_err(ServeError::Task).flatten(),
        };
        // 2. What allocations are left end, their sockets close.
        {
            let mut core = self.core.lock();
            let core = &mut *core;
            core.relay.close(&mut core.net);
        }
        // 3. No task takes another packet; each finishes those it has read.
        stop.send_replace(true);
        #[cfg(target_os = "linux")]
        workers.stop();
        while tasks.join_next().await.is_some() {}
        result
    }
}

/// Reads the accounts of a running server.
#[derive(Debug, Clone)]
pub struct UsageReader(Arc<Shared>);

impl UsageReader {
    /// Users and what they have used since the server began, as far as they are remembered.
    #[must_use]
    pub fn read(&self) -> Vec<(Box<str>, Usage)> {
        self.0.shares.usage()
    }
}

/// Done when there is no allocation.
async fn drained(metrics: &AllMetrics) {
    while metrics.snapshot().allocations() > 0 {
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

/// The relay's timer, and its clock.
async fn tick(core: SharedCore, mut stopped: watch::Receiver<bool>) -> Result<(), ServeError> {
    loop {
        tokio::select! {
            biased;
            () = told_to_stop(&mut stopped) => return Ok(()),
            () = tokio::time::sleep(TICK) => {}
        }
        let now = Instant::now();
        let mut core = core.lock();
        let core = &mut *core;
        core.relay.shared().set_unix_time(now, UnixTime::now());
        core.relay.handle_timeout(now, &mut core.net);
    }
}

/// Done when the server is told to stop, or is gone.
pub(crate) async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // An error means that the sender was dropped with the server's future: the same to a task.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Nonblocking, one family, bound.
fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())
}
