//! The SIP edge: ordinary phones in the overlay.
//!
//! A phone registers to an account of the edge. The account is a device of its user, with a device key and a directory entry of its own: an embedded
//! [`Node`], whose public handle is all that is used here. Calls of the phone are calls of that device, and calls of others ring at its phones.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `transport` | sockets, keep-alives |
//! | `edge` | the task that owns all state; which request is for whom |
//! | `wire` | what calls and other handlers can ask of it |
//! | `accounts` | accounts, their nodes, what is kept of passwords |
//! | `dialog`, `call`, `ring`, `session` | calls: of phones, to phones, and once answered |
//! | `trunk` | the telephone network: providers, what goes out, what it may cost, whom calls ring at |
//! | `simple` | presence, messages and the INFO profile: a desk for each account |
//! | [`media`] | RTP and SRTP on one side, a call's audio on the other |
//!
//! What is decided by text alone is in [`halloo_protocol::sip`]. `docs/sip.md` says how a phone is set up and what is supported.

mod accounts;
pub(crate) mod agent;
mod call;
mod dialog;
mod edge;
pub mod media;
mod ring;
mod session;
mod simple;
mod sleeping;
mod transport;
mod trunk;
mod wire;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use accounts::AccountNetwork;

use crate::config::SipConfig;
use crate::handle::Node;
use crate::handle::sip::SipError;
use media::{PhoneMedia, PhoneMediaConfig};

/// Commands of the handle that wait.
const COMMANDS_MAX: usize = 16;

/// Why an edge can't start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SipStartError {
    /// An address can't be listened on.
    #[error("can't listen for SIP on {address}: {source}")]
    Listen {
        /// It.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate or its key can't be used.
    #[error("[sip] {what}: {reason}")]
    Certificate {
        /// Which setting.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The media's ports make no range.
    #[error("[sip] media_port: {media_port} and {media_ports} ports more are none, or beyond 65535")]
    Ports {
        /// The first.
        media_port: u16,
        /// How many.
        media_ports: u16,
    },
    /// The accounts can't be read.
    #[error(transparent)]
    Accounts(#[from] SipError),
    /// A trunk can't be used as it is set up.
    #[error("[sip] {reason}")]
    Trunk {
        /// Which setting, and what is wrong with it.
        reason: String,
    },
    /// One edge for a node.
    #[error("this node has a SIP edge already")]
    Twice,
}

/// A running edge.
#[derive(Debug)]
pub struct SipEdge {
    /// Where it listens, as `sip:IP:PORT;transport=udp`.
    pub servers: Vec<String>,
    task: JoinHandle<()>,
}

impl SipEdge {
    /// Starts an edge for this node, with accounts in `root`, and attaches it to the handle: [`Node::sip`] talks to it. Ends when `stop` is cancelled.
    ///
    /// # Errors
    /// See [`SipStartError`].
    pub async fn start(
        node: &Node,
        config: SipConfig,
        root: PathBuf,
        mut network: AccountNetwork,
        stop: CancellationToken,
    ) -> Result<Self, SipStartError> {
        let (mut transports, incoming) = transport::Transports::new();
        for address in &config.listen {
            transports.listen(*address).await.map_err(|source| SipStartError::Listen { address: *address, source })?;
        }
        if !config.listen_tls.is_empty() {
            let acceptor = acceptor(&config)?;
            for address in &config.listen_tls {
                let listening = transports.listen_tls(*address, acceptor.clone()).await;
                listening.map_err(|source| SipStartError::Listen { address: *address, source })?;
            }
        }
        let servers = transports.listeners().iter();
        let servers = servers.map(|listener| format!("{}:{}", listener.transport.name().to_ascii_lowercase(), listener.address));
        let servers = servers.collect();
        let trunks = trunk::Trunks::open(&config, &mut transports).await.map_err(|reason| SipStartError::Trunk { reason })?;
        network.telephone = trunks.plan();
        let media = PhoneMedia::new(media_config(&config)?);
        let (asks, asked) = mpsc::channel(wire::ASKED_MAX);
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let parts = edge::Parts {
            transports,
            dials_numbers: network.calls.telephone.is_some(),
            accounts: accounts::Accounts::open(root, network)?,
            own: node.clone(),
            media,
            external: config.external,
            wire: wire::Wire(asks),
            trunks,
            push_gateway: config.push_gateway,
        };
        let (pushes, pushed) = mpsc::channel(COMMANDS_MAX);
        let (edge, inputs) = edge::Edge::open(parts, incoming, asked, commands, pushed).await?;
        node.take_sip_pushes(pushes).await;
        if !node.attach_sip(sender) {
            return Err(SipStartError::Twice);
        }
        Ok(Self { servers, task: tokio::spawn(edge.run(inputs, stop)) })
    }

    /// Waits until it has ended: phones' registrations are kept, accounts' nodes have said goodbye.
    pub async fn ended(self) {
        // A panic in it is a bug that was told where it happened.
        let _ = self.task.await;
    }
}

fn media_config(config: &SipConfig) -> Result<PhoneMediaConfig, SipStartError> {
    let default = PhoneMediaConfig::default();
    let media_port = config.media_port.unwrap_or(*default.ports.start());
    let media_ports = config.media_ports.unwrap_or(200);
    let wrong = SipStartError::Ports { media_port, media_ports };
    if media_port == 0 || media_ports < 2 {
        return Err(wrong);
    }
    let end = media_port.checked_add(media_ports - 1).ok_or(wrong)?;
    Ok(PhoneMediaConfig { ports: media_port..=end, advertised: config.external })
}

fn acceptor(config: &SipConfig) -> Result<TlsAcceptor, SipStartError> {
    let wrong = |what: &'static str, reason: String| SipStartError::Certificate { what, reason };
    let file = |what: &'static str, file: &Option<PathBuf>| {
        file.clone().ok_or_else(|| wrong(what, "listen_tls needs a certificate and its key".to_owned()))
    };
    let certificate = file("certificate", &config.certificate)?;
    let key = file("key", &config.key)?;
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(&certificate).map_err(|error| wrong("certificate", error.to_string()))?.collect();
    let chain = chain.map_err(|error| wrong("certificate", error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| wrong("key", error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("certificate", error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| wrong("certificate", error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(server)))
}

/// This machine's address on the way to another, without sending anything.
fn route_to(peer: IpAddr) -> Option<IpAddr> {
    let any: SocketAddr = if peer.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((peer, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Whether a phone is on this machine or in its own network, where an address from outside leads nowhere.
fn is_near(peer: IpAddr) -> bool {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
    }
}
