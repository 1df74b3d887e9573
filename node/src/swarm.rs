//! Builds the node's swarm: transports, behaviour, limits. Does not listen and does not dial.

mod aside;
mod gate;
mod traffic;

pub use aside::Aside;
pub use gate::{Gate, GateRule};
pub use traffic::{Counted, Traffic};

use std::{sync::Arc, time::Duration};

use libp2p::{
    Multiaddr, PeerId, Swarm, Transport, allow_block_list, autonat,
    connection_limits::{self, ConnectionLimits},
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, MemoryTransport, OptionalTransport, timeout::TransportTimeout},
        upgrade::Version,
    },
    dcutr, dns, identify,
    identity::Keypair,
    mdns, noise, ping, quic, relay, swarm, tcp, upnp, websocket, yamux,
};

use crate::{
    behaviour::Behaviour,
    circuits::{CIRCUITS_CEILING, Circuits, RelayLimits},
    streams::{self, Streams},
};

/// Identify's protocol version: peers with another one are no Halloo nodes.
pub const PROTOCOL_VERSION: &str = "/halloo/1";

/// Identify's agent, for people who look at their peers.
pub const AGENT: &str = concat!("halloo/", env!("CARGO_PKG_VERSION"));

/// How long a connection nobody uses stays open. [`Streams`] adds its own time after the last
/// frame; this only bridges what comes before the first.
pub const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections per peer. Two when both dial at once, another through a relay and one in the course of a
/// hole punch, and spare room for a reconnect before the dead one is noticed.
pub const MAX_CONNECTIONS_PER_PEER: u32 = 8;

/// Inbound connections in all. An idle one costs some tens of kilobytes, so a full node stays
/// below 100 MiB.
pub const MAX_INBOUND_CONNECTIONS: u32 = 2_048;

/// Outbound connections in all: routing table, contacts, relays and look-ups in flight.
pub const MAX_OUTBOUND_CONNECTIONS: u32 = 1_024;

/// Inbound connections that have not finished their handshake: a flood costs us this many
/// handshakes at once, no more.
pub const MAX_PENDING_INBOUND: u32 = 512;

/// Dials in flight.
pub const MAX_PENDING_OUTBOUND: u32 = 128;

/// Streams a peer may be opening at once on one connection; our own and the stock protocols need
/// about a dozen.
pub const MAX_NEGOTIATING_STREAMS: usize = 32;

/// QUIC flow control: what a peer may have in flight to us per stream and per connection. libp2p's
/// defaults (10 and 15 MB) let one peer hold more memory than a whole node should.
const QUIC_MAX_STREAM_DATA: u32 = 256 * 1024;
const QUIC_MAX_CONNECTION_DATA: u32 = 1024 * 1024;

/// After how much silence a QUIC connection is asked for a sign of life: well below the half minute for which home routers remember a UDP flow. libp2p's
/// 5 s would be most of what an idle node sends, and keep a phone's radio awake.
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// After how much silence a QUIC connection is lost: two keep-alives, the second of which is sent again several times. Who waits for an answer has
/// shorter limits of its own.
const QUIC_SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often round trips are measured, after the first time: often enough for web servers before a WebSocket, which close what is silent for a minute.
const PING_EVERY: Duration = Duration::from_secs(45);

/// Streams open at once on a connection. A client that is called by many has one stream per circuit on
/// the connection to its relay, and Yamux closes a connection that runs out.
const MAX_STREAMS: usize = CIRCUITS_CEILING + 256;

/// The same over QUIC, for streams that the other end opens. Whoever wants one more waits for another to end: a client that is called by more than this at
/// once through one relay; more than all strangers together may have circuits by default. Every connection makes room for all of them when it opens, in two maps of 512 slots
/// that take 448 streams: with the few that we open ourselves there must be no more, or both maps are twice as large.
const QUIC_MAX_STREAMS: u32 = 432;

/// Largest WebSocket message taken: a few of Noise's, which are 64 KiB. The library's limit of 256 MiB would let one peer hold that much.
const WEB_SOCKET_MESSAGE_MAX: usize = 1024 * 1024;

/// How long a connection may take to be made, encryption and multiplexing included: a way through NATs that lets nothing pass would
/// be tried for minutes, and somebody who connects and says nothing would hold one of [`MAX_PENDING_INBOUND`] places for ever.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Addresses of peers identify remembers for dialling: one per peer we are likely to return to.
const IDENTIFY_CACHE: usize = 256;

/// How often a connected peer is asked anew what libp2p wants to know of it. What changes it tells by itself, so that libp2p's five minutes would be traffic for nothing.
const IDENTIFY_EVERY: Duration = Duration::from_secs(6 * 3_600);

/// What kind of swarm to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwarmOptions {
    /// Relay for others.
    pub relay_server: bool,
    /// How much, if it does.
    pub relay_limits: RelayLimits,
    /// Dial others back for AutoNAT.
    pub autonat_server: bool,
    /// Find peers on the local network.
    pub mdns: bool,
    /// Ask the home router for a port.
    pub upnp: bool,
    /// A network on one machine: all peers share an IP address, so nothing is limited by address.
    pub lab: bool,
    /// Add libp2p's memory transport (`/memory/N`), for tests.
    pub memory: bool,
    /// Tell peers our external addresses only, not those we listen on, which are those of the home network too.
    pub hide_listen: bool,
    /// How long a connection nobody uses stays open: [`IDLE_CONNECTION_TIMEOUT`] but in tests.
    pub idle_timeout: Duration,
    /// How long a connection may take to be made: [`HANDSHAKE_TIMEOUT`] but in tests.
    pub handshake_timeout: Duration,
}

impl Default for SwarmOptions {
    /// An ordinary node: a client of relays and AutoNAT, mDNS and UPnP on.
    fn default() -> Self {
        Self {
            relay_server: false,
            relay_limits: RelayLimits::default(),
            autonat_server: false,
            mdns: true,
            upnp: true,
            lab: false,
            memory: false,
            hide_listen: false,
            idle_timeout: IDLE_CONNECTION_TIMEOUT,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }
}

impl SwarmOptions {
    /// For networks on one machine: nothing that reaches out of it, no limits by address.
    pub fn lab() -> Self {
        Self { mdns: false, upnp: false, lab: true, ..Self::default() }
    }
}

/// Why a swarm could not be built.
#[derive(Debug, thiserror::Error)]
pub enum SwarmError {
    /// The device key cannot be used with Noise.
    #[error("noise: {0}")]
    Noise(#[from] noise::Error),
    /// A certificate that is to be trusted can't be.
    #[error("roots: {0}")]
    Roots(#[from] websocket::tls::Error),
}

/// A node's swarm.
pub type NodeSwarm = Swarm<Aside<Behaviour>>;

/// A swarm that listens nowhere yet. Call within a Tokio runtime.
pub fn build_swarm(keypair: Keypair, options: SwarmOptions) -> Result<NodeSwarm, SwarmError> {
    build_counted_swarm(keypair, options, &Arc::default(), &[])
}

/// [`build_swarm`], with its traffic counted in `traffic`. Certificates in `web_roots` (DER) are trusted besides Mozilla's list by servers of WebSockets.
pub fn build_counted_swarm(
    keypair: Keypair,
    options: SwarmOptions,
    traffic: &Arc<Traffic>,
    web_roots: &[Vec<u8>],
) -> Result<NodeSwarm, SwarmError> {
    let local = keypair.public().to_peer_id();
    let (relay_transport, relay_client) = relay::client::new(local);
    let transport = build_transport(&keypair, relay_transport, options, traffic, web_roots)?;
    let behaviour = build_behaviour(&keypair, relay_client, options);
    let config = swarm::Config::with_tokio_executor()
        // The first frame leaves with the stream's opening. Safe because each protocol offers a single
        // name per stream, and none of ours can be mistaken for a negotiation message.
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_max_negotiating_inbound_streams(MAX_NEGOTIATING_STREAMS)
        .with_idle_connection_timeout(options.idle_timeout);
    Ok(Swarm::new(transport, Aside::new(behaviour), local, config))
}

fn build_transport(
    keypair: &Keypair,
    relay_transport: relay::client::Transport,
    options: SwarmOptions,
    traffic: &Arc<Traffic>,
    web_roots: &[Vec<u8>],
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, SwarmError> {
    let noise = noise::Config::new(keypair)?;
    let circuits = relay_transport
        .upgrade(Version::V1Lazy)
        .authenticate(noise.clone())
        .multiplex(yamux_config())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let direct = with_names(|| direct_transport(keypair, noise.clone(), options, Arc::clone(traffic)));
    // Circuits come first: a name in a relay's address is resolved when the relay itself is dialled. WebSockets before the rest: TLS needs the name.
    let web = web_socket_transport(noise.clone(), Arc::clone(traffic), web_roots)?;
    let all = circuits.or_transport(web).map(|either, _| either.into_inner());
    let all = all.or_transport(direct).map(|either, _| either.into_inner());
    Ok(TransportTimeout::new(all, options.handshake_timeout).boxed())
}

/// Resolves names before dialling.
fn with_names<T: Transport>(inner: impl Fn() -> T) -> dns::tokio::Transport<T> {
    dns::tokio::Transport::system(inner()).unwrap_or_else(|error| {
        tracing::warn!(%error, "no name servers: only addresses without names can be dialled");
        let nothing = dns::ResolverConfig::default();
        dns::tokio::Transport::custom(inner(), nothing, dns::ResolverOpts::default())
    })
}

/// WebSockets, for networks that let nothing but HTTP out: the same streams in its messages. `/ws` without TLS, which Noise makes good for, and `/tls/ws` to
/// a proxy that has a certificate for its name.
fn web_socket_transport(
    noise: noise::Config,
    traffic: Arc<Traffic>,
    roots: &[Vec<u8>],
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, SwarmError> {
    let mut sockets = websocket::Config::new(with_names(|| tcp::tokio::Transport::new(tcp::Config::default())));
    sockets.set_max_data_size(WEB_SOCKET_MESSAGE_MAX);
    let mut tls = websocket::tls::Config::builder();
    for root in roots {
        tls.add_trust(&websocket::tls::Certificate::new(root.clone()))?;
    }
    sockets.set_tls_config(tls.finish());
    let transport = sockets
        .map(move |stream, _| Counted::new(stream, Arc::clone(&traffic)))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux_config())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    Ok(transport)
}

/// TCP, QUIC and, in tests, memory.
fn direct_transport(
    keypair: &Keypair,
    noise: noise::Config,
    options: SwarmOptions,
    traffic: Arc<Traffic>,
) -> Boxed<(PeerId, StreamMuxerBox)> {
    let memory = if options.memory { OptionalTransport::some(MemoryTransport::default()) } else { OptionalTransport::none() };
    let streams = tcp::tokio::Transport::new(tcp::Config::default())
        .or_transport(memory)
        .map(move |stream, _| Counted::new(stream, Arc::clone(&traffic)))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux_config())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let quic = quic::tokio::Transport::new(quic_config(keypair)).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    streams.or_transport(quic).map(|either, _| either.into_inner()).boxed()
}

fn yamux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    config
}

fn quic_config(keypair: &Keypair) -> quic::Config {
    let mut config = quic::Config::new(keypair);
    config.max_stream_data = QUIC_MAX_STREAM_DATA;
    config.max_connection_data = QUIC_MAX_CONNECTION_DATA;
    config.max_concurrent_stream_limit = QUIC_MAX_STREAMS;
    config.keep_alive_interval = QUIC_KEEP_ALIVE;
    config.max_idle_timeout = u32::try_from(QUIC_SILENCE_MAX.as_millis()).unwrap_or(u32::MAX);
    config
}

fn build_behaviour(keypair: &Keypair, relay_client: relay::client::Behaviour, options: SwarmOptions) -> Behaviour {
    // In a lab addresses are no secret: they stand in the directory.
    let rule = if options.lab { GateRule::Open } else { GateRule::Relayed };
    let local = keypair.public().to_peer_id();
    Behaviour {
        limits: connection_limits::Behaviour::new(limits()),
        blocked: allow_block_list::Behaviour::default(),
        streams: Streams::new(streams::Config::default()),
        identify: Gate::new(identify_behaviour(keypair, options), rule),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_EVERY)),
        relay_client,
        relay_server: options.relay_server.then(|| Circuits::new(local, options.relay_limits, options.lab)).into(),
        // In a lab every address works by agreement. Asking for it would cost: a server that sees us at another IP address than the one to
        // be tried, or at none, wants up to 100 kB first, so that nobody has others dialled for nothing.
        autonat_client: (!options.lab).then(autonat::v2::client::Behaviour::default).into(),
        autonat_server: options.autonat_server.then(autonat::v2::server::Behaviour::default).into(),
        dcutr: Gate::new(dcutr::Behaviour::new(local), rule),
        upnp: options.upnp.then(upnp::tokio::Behaviour::default).into(),
        mdns: options.mdns.then(|| mdns_behaviour(local)).flatten().into(),
    }
}

fn identify_behaviour(keypair: &Keypair, options: SwarmOptions) -> identify::Behaviour {
    identify::Behaviour::new(
        identify::Config::new(PROTOCOL_VERSION.to_owned(), keypair.public())
            .with_agent_version(AGENT.to_owned())
            .with_push_listen_addr_updates(true)
            .with_hide_listen_addrs(options.hide_listen)
            .with_cache_size(IDENTIFY_CACHE)
            .with_interval(IDENTIFY_EVERY),
    )
}

/// A node that cannot watch its interfaces does without the local network.
fn mdns_behaviour(local: PeerId) -> Option<mdns::tokio::Behaviour> {
    mdns::tokio::Behaviour::new(mdns::Config::default(), local).inspect_err(|error| tracing::warn!(%error, "no mDNS")).ok()
}

fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING_INBOUND))
        .with_max_pending_outgoing(Some(MAX_PENDING_OUTBOUND))
        .with_max_established_incoming(Some(MAX_INBOUND_CONNECTIONS))
        .with_max_established_outgoing(Some(MAX_OUTBOUND_CONNECTIONS))
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER))
}

/// The address of a peer as reached through a relay, or of a relay to listen on when `peer` is `None`.
pub fn circuit_address(relay: PeerId, address: &Multiaddr, peer: Option<PeerId>) -> Multiaddr {
    use libp2p::multiaddr::Protocol;
    let base = address.clone().with_p2p(relay).unwrap_or_else(|address| address);
    let circuit = base.with(Protocol::P2pCircuit);
    match peer {
        Some(peer) => circuit.with(Protocol::P2p(peer)),
        None => circuit,
    }
}

#[cfg(test)]
mod tests;
