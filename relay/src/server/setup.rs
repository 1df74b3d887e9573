//! From a configuration to sockets and settings.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto::ring};
use tracing::{info, warn};

use super::{prepare, udp};
use crate::config::{Config, ConfigError};
use crate::defaults;
use crate::peer_filter::{PeerFilter, is_public};
#[cfg(target_os = "linux")]
use crate::relay::{Relay, Shared};
use crate::relay::{RelayedIp, Settings};
#[cfg(target_os = "linux")]
use crate::worker::Worker;

/// Connections waiting to be taken.
const BACKLOG: i32 = 128;

/// Addresses that answer to nobody; a UDP socket "connected" there sends nothing and shows the address the machine would send from.
const ELSEWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 1)), 9),
];

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
    /// The configuration can't work.
    #[error("configuration")]
    Config(#[from] ConfigError),
    /// TLS is to be served, and there is no certificate or no key.
    #[error("tls needs a certificate and a key: set both")]
    TlsIncomplete,
    /// A certificate or key can't be used.
    #[error("cannot use {} for tls", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An address given for relaying isn't one that relayed sockets can have.
    #[error("cannot relay at {address}")]
    RelayedAddress {
        /// The address.
        address: IpAddr,
        /// What the system said.
        source: io::Error,
    },
    /// TURN is to be served, and no address of this machine was found to relay at.
    #[error("no address to relay at was found: name one of this machine's")]
    NoRelayedAddress,
    /// A thread's means of waiting can't be had.
    #[error("cannot set up a thread")]
    Threads(#[source] io::Error),
    /// The system gives no randomness.
    #[error("the system gives no random numbers")]
    Random(#[source] io::Error),
}

/// Takes the default addresses. A machine without IPv6 (or without IPv4) is served at what it has.
pub(super) fn bind_defaults(threads: usize) -> Result<Vec<Listener>, BindError> {
    let mut sockets = Vec::new();
    let mut missing = None;
    for address in defaults::LISTEN {
        match bind_udp(address, threads) {
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

pub(super) fn bind_all(addresses: &[SocketAddr], threads: usize) -> Result<Vec<Listener>, BindError> {
    let bind = |&address: &SocketAddr| bind_udp(address, threads).map_err(|source| BindError::Address { address, source });
    addresses.iter().map(bind).collect()
}

/// One of the relay's own UDP addresses.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    /// One socket for each thread.
    pub(super) sockets: Vec<UdpSocket>,
}

fn bind_udp(address: SocketAddr, threads: usize) -> io::Result<Listener> {
    let alone = udp::bind(address)?;
    let address = alone.local_addr()?;
    let sockets = if threads == 1 {
        vec![alone]
    } else {
        // A shared address can be had by several servers of one user, each of which then gets a part of the packets. The first bind
        // has shown that there is no other one.
        drop(alone);
        (0..threads).map(|_| udp::bind_shared(address)).collect::<io::Result<_>>()?
    };
    info!(%address, threads, "serving over udp");
    Ok(Listener { address, sockets })
}

/// A socket to send from at a listener's address.
pub(super) fn duplicate(listener: &Listener) -> Result<UdpSocket, BindError> {
    let address = listener.address;
    let missing = || io::Error::from(io::ErrorKind::AddrNotAvailable);
    let socket = listener.sockets.first().ok_or_else(missing).and_then(UdpSocket::try_clone);
    socket.map_err(|source| BindError::Address { address, source })
}

/// The sockets for the runtime to read.
pub(super) fn into_tokio(listeners: Vec<Listener>) -> Result<Vec<Arc<tokio::net::UdpSocket>>, BindError> {
    let mut sockets = Vec::new();
    for Listener { address, sockets: one } in listeners {
        for socket in one {
            let socket = tokio::net::UdpSocket::from_std(socket).map_err(|source| BindError::Address { address, source })?;
            sockets.push(Arc::new(socket));
        }
    }
    Ok(sockets)
}

/// Threads' relays with their sockets: the first of each listener for the first thread, and so on.
#[cfg(target_os = "linux")]
pub(super) fn workers(shared: &Arc<Shared>, listeners: Vec<Listener>) -> Result<Vec<Worker>, BindError> {
    let threads = listeners.first().map_or(0, |listener| listener.sockets.len());
    let mut by_thread: Vec<Vec<UdpSocket>> = Vec::new();
    by_thread.resize_with(threads, Vec::new);
    for listener in listeners {
        by_thread.iter_mut().zip(listener.sockets).for_each(|(sockets, socket)| sockets.push(socket));
    }
    let mut workers = Vec::new();
    for (number, sockets) in by_thread.into_iter().enumerate() {
        let relay = Relay::new(Arc::clone(shared), number as u16, random()?);
        workers.push(Worker::new(relay, sockets, std::time::Instant::now()).map_err(BindError::Threads)?);
    }
    Ok(workers)
}

pub(super) fn bind_tcp(address: SocketAddr) -> Result<(SocketAddr, TcpListener), BindError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of the last run that linger must not keep the address.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        prepare(&socket, address)?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        Ok((listener.local_addr()?, listener))
    };
    let bound: io::Result<_> = bind();
    let (address, listener) = bound.map_err(|source| BindError::Address { address, source })?;
    info!(%address, "serving over tcp");
    Ok((address, listener))
}

pub(super) fn tls(config: &Config) -> Result<TlsAcceptor, BindError> {
    if let Some(identity) = &config.tls_identity {
        let chain = vec![CertificateDer::from(identity.certificate.clone())];
        let key = PrivateKeyDer::Pkcs8(identity.key.clone().into());
        return acceptor(chain, key, Path::new("the certificate at hand"));
    }
    let (Some(certificate), Some(key)) = (&config.tls_certificate, &config.tls_key) else {
        return Err(BindError::TlsIncomplete);
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|error| unusable(certificate, error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error))?;
    acceptor(chain, private, certificate)
}

fn acceptor(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>, named: &Path) -> Result<TlsAcceptor, BindError> {
    let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| unusable(named, error))?;
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn unusable(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> BindError {
    BindError::Tls { path: path.to_owned(), source: Box::new(error) }
}

pub(super) fn settings(config: &Config, own_ports: Vec<SocketAddr>, serves_turn: bool) -> Result<Settings, BindError> {
    // Embedders' configurations have been through no file.
    config.check()?;
    let relayed = if serves_turn { relayed_ips(config, &own_ports)? } else { Vec::new() };
    let mut own: Vec<IpAddr> = own_ports.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect();
    own.extend(relayed.iter().flat_map(|ip| [ip.local, ip.external]));
    own.extend(machine_addresses());
    Ok(Settings {
        serves_turn,
        realm: config.realm.as_str().into(),
        relayed,
        ports: config.ports,
        can_set_dont_fragment: cfg!(target_os = "linux"),
        limits: config.limits,
        rate_limit: config.rate_limit,
        sources_max: config.sources_max,
        lifetime_max: config.lifetime_max,
        nonce_lifetime: config.nonce_lifetime,
        peer_filter: PeerFilter {
            is_lab: config.is_lab,
            allowed: config.allowed_peers.clone(),
            refused: config.refused_peers.clone(),
            own,
            own_ports,
        },
        alternate: config.alternate,
    })
}

fn machine_addresses() -> Vec<IpAddr> {
    if_addrs::get_if_addrs().map(|found| found.iter().map(if_addrs::Interface::ip).collect()).unwrap_or_else(|error| {
        warn!(%error, "cannot list the machine's addresses: those not named in the configuration aren't protected from relaying");
        Vec::new()
    })
}

/// Addresses for relayed sockets, one of each family at most: those named, else those listened on, else those the machine
/// sends from.
fn relayed_ips(config: &Config, listeners: &[SocketAddr]) -> Result<Vec<RelayedIp>, BindError> {
    let mut relayed = Vec::new();
    for (elsewhere, is_ipv4) in ELSEWHERE.into_iter().zip([true, false]) {
        let of_family = |ip: &IpAddr| ip.is_ipv4() == is_ipv4;
        let named = config.relay_ips.iter().copied().find(of_family);
        let listening = listeners.iter().map(SocketAddr::ip).find(|ip| of_family(ip) && !ip.is_unspecified());
        let serves_family = listeners.iter().any(|address| of_family(&address.ip()));
        let found = named.or(listening).or_else(|| serves_family.then(|| outgoing_ip(elsewhere)).flatten());
        let Some(local) = found else { continue };
        // Tried now, so that what can't work isn't found out by the first caller.
        udp::bind(SocketAddr::new(local, 0)).map_err(|source| BindError::RelayedAddress { address: local, source })?;
        let external = config.external_ips.iter().copied().find(of_family).unwrap_or(local);
        if !is_public(external) && !config.is_lab {
            warn!(%external, "relayed addresses are not public: peers elsewhere can't reach them; set the external address");
        }
        relayed.push(RelayedIp { local, external });
    }
    if relayed.is_empty() { Err(BindError::NoRelayedAddress) } else { Ok(relayed) }
}

fn outgoing_ip(elsewhere: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if elsewhere.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(elsewhere).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

pub(super) fn random() -> Result<[u8; 32], BindError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| BindError::Random(io::Error::other(error)))?;
    Ok(bytes)
}
