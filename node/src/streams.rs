//! Long-lived overlay streams: one ordered, bidirectional flow of frames per connection.
//!
//! Everything peers say to each other, media apart, travels in frames on one libp2p stream per
//! connection. Frames are opaque here; this module knows nothing of their content, never dials,
//! never reads the wall clock and holds no lock.
//!
//! - **Opening is lazy.** A stream is opened when the first frame is to be sent, or taken over when
//!   the peer opened one first. With lazy negotiation ([`build_swarm`](crate::swarm::build_swarm))
//!   the protocol's name, our hello and the first frame leave together, so nothing waits for a
//!   round trip. That a peer does not know the protocol shows at the first read:
//!   [`StreamError::Unsupported`].
//! - **Hello first.** Both sides send what [`Streams::set_hello`] gives as the first frame of
//!   every stream; the peer's arrives as [`Event::Hello`]. If both sides open at the same moment a
//!   connection has two streams, and two hellos are seen.
//! - **Choosing the connection.** See [`Streams::send`].
//! - **Order and loss.** Frames to one peer over one connection arrive in order, once, or not at all.
//!   A frame is lost when its connection dies before the frame is across, and nobody tells: what must
//!   arrive is acknowledged above this layer. Frames that never left are counted in
//!   [`Event::Closed`] and [`Event::Failed`].
//! - **Moving off a relay.** As soon as a direct connection exists beside a relayed one, frames go
//!   over the direct one. The relayed stream sends what was queued, then each side closes its half
//!   and reads the other's to the end, and the connection is closed. Frames queued after the move are neither lost nor doubled by it, nor are earlier ones unless the relay cuts the circuit or
//!   the peer takes longer than [`DRAIN_TIMEOUT`]. Earlier frames may arrive *after* later ones.
//!   If the direct connection dies before the relayed one is gone, or is [doubted](Streams::doubt), frames can go through the relay again.
//! - **Keep-alive.** A connection stays while frames flow and for [`Config::idle`] after; longer only
//!   while it is [kept](Streams::keep) here, or at the other end if that is [heeded](Streams::heed). An end that needs a connection no longer says so
//!   with an empty frame; the next frame takes it back. When both have said it the connection closes, and both know why ([`CloseReason::Idle`]).
//! - **Backpressure.** Outgoing queues are bounded ([`MAX_QUEUED_FRAMES`], [`MAX_QUEUED_BYTES`]) and
//!   refuse when full. If the owner does not poll the swarm, streams are not read, and the peer's
//!   queue fills.

mod channel;
mod frame;
mod handler;
mod rest;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionError, ConnectionId, DialFailure, FromSwarm,
        ListenFailure, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
    },
};

use self::handler::{Command, FromHandler, Handler};

/// Name of the overlay's stream protocol. The number changes when framing does.
pub const PROTOCOL: &str = "/halloo/overlay/1";

/// Largest frame in bytes, its length prefix not counted. A peer that announces more loses the
/// stream; [`Streams::send`] refuses more.
pub const MAX_FRAME_LEN: usize = 64 * 1024;

/// Frames that may wait for one connection. Reached means the peer or the path is slower than we
/// talk: [`Streams::send`] refuses the newest. Lookups keep tens of requests in flight, not hundreds.
pub const MAX_QUEUED_FRAMES: usize = 512;

/// Bytes that may wait for one connection; the newest frame is refused when full. Holds sixteen of the
/// largest frames, and keeps a node with 200 stuck peers below 200 MiB.
pub const MAX_QUEUED_BYTES: usize = 1024 * 1024;

/// Streams a peer may have open towards us on one connection. One is normal, two happen while one
/// replaces the other; any more are dropped as they come.
pub const MAX_INBOUND_STREAMS: usize = 2;

/// How long a stream may refuse to take bytes that wait for it before it is given up
/// ([`StreamError::Stalled`]). Longer than any sane path change, shorter than a user's patience.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a relayed stream may take to come to its end after a move to a direct connection.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a drained connection stays open for a stream the peer may have opened meanwhile, not
/// yet knowing of the move.
pub const DRAIN_LINGER: Duration = Duration::from_secs(2);

/// How long [`Streams::close`] waits for what is queued to get across, and for the peer's last frames.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Default of [`Config::idle`]. Long enough for a conversation's pauses, short enough not to hold
/// hundreds of look-up contacts.
pub const DEFAULT_IDLE: Duration = Duration::from_secs(60);

/// Settings of [`Streams`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Protocol name negotiated for each stream, versioned. Default: [`PROTOCOL`].
    pub protocol: &'static str,
    /// How long a connection to a peer that is not kept stays open after its last frame.
    /// The swarm's idle time-out is added to it.
    pub idle: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { protocol: PROTOCOL, idle: DEFAULT_IDLE }
    }
}

/// Why a frame was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no connection to the peer. Dial it, and send on [`Event::Connected`].
    #[error("not connected")]
    NotConnected,
    /// [`MAX_QUEUED_FRAMES`] or [`MAX_QUEUED_BYTES`] already wait for this connection.
    #[error("too much is already waiting for this connection")]
    QueueFull,
    /// The frame is longer than [`MAX_FRAME_LEN`].
    #[error("frame of {0} bytes, at most {MAX_FRAME_LEN} allowed")]
    TooLarge(usize),
    /// The frame is so short that it has a meaning of its own here.
    #[error("a frame of this layer's own")]
    TooShort,
}

/// Why a stream ended before its time. The connection itself lives on.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer does not speak our protocol.
    #[error("the peer does not support the overlay protocol")]
    Unsupported,
    /// The peer announced a frame of this many bytes, more than [`MAX_FRAME_LEN`].
    #[error("the peer announced a frame of {0} bytes, at most {MAX_FRAME_LEN} allowed")]
    Oversized(u64),
    /// The peer said again and again that it doesn't need the connection and that it does, and nothing else.
    #[error("the peer said too often whether it needs the connection")]
    Restless,
    /// The peer sent something that is not a length prefix.
    #[error("the peer sent a malformed length prefix")]
    Malformed,
    /// The peer took no bytes for [`STALL_TIMEOUT`].
    #[error("the peer stopped reading")]
    Stalled,
    /// The peer did not accept the stream in time.
    #[error("opening the stream timed out")]
    Timeout,
    /// The stream broke.
    #[error("stream: {0}")]
    Io(#[source] io::Error),
}

/// Why a connection closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// This node closed it.
    #[error("closed here")]
    Local,
    /// Nothing kept it open, at either end.
    #[error("idle")]
    Idle,
    /// The peer closed it, or the path broke: the transport's words.
    #[error("{0}")]
    Transport(String),
}

/// What [`Streams`] reports.
#[derive(Debug)]
pub enum Event {
    /// A connection to a peer is up. No stream is open on it yet.
    Connected {
        /// The peer.
        peer: PeerId,
        /// The connection, for [`Streams::send`]'s `via`.
        connection: ConnectionId,
        /// Whether it runs through a relay.
        relayed: bool,
        /// Whether there was no connection to this peer before.
        first: bool,
    },
    /// The first frame of a stream the peer or we opened. Seen once per stream, so more than once per
    /// peer; the last one counts.
    Hello {
        /// The peer.
        peer: PeerId,
        /// The connection it came over.
        connection: ConnectionId,
        /// What the peer's [`Streams::set_hello`] gave.
        bytes: Vec<u8>,
    },
    /// A frame.
    Frame {
        /// The peer.
        peer: PeerId,
        /// The connection it came over; answer with it as `via`.
        connection: ConnectionId,
        /// Its content, at most [`MAX_FRAME_LEN`] bytes.
        bytes: Vec<u8>,
    },
    /// A stream failed; the connection lives on, and the next frame opens a new stream.
    Failed {
        /// The peer.
        peer: PeerId,
        /// The connection the stream was on.
        connection: ConnectionId,
        /// What happened.
        error: StreamError,
        /// Frames given to [`Streams::send`] that are known not to have reached the peer.
        undelivered: usize,
    },
    /// A connection is gone.
    Closed {
        /// The peer.
        peer: PeerId,
        /// The connection.
        connection: ConnectionId,
        /// Whether it was the last one to this peer.
        last: bool,
        /// Why it closed.
        reason: CloseReason,
        /// Frames given to [`Streams::send`] that never left.
        undelivered: usize,
    },
}

/// What has passed through a [`Streams`], all peers together. Bytes are frame contents, without
/// length prefixes and whatever the transport adds. Hellos count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames read.
    pub frames_in: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Frames handed to the transport.
    pub frames_out: u64,
    /// Bytes handed to the transport.
    pub bytes_out: u64,
}

/// Totals shared between a behaviour and its handlers, which run in tasks of their own.
#[derive(Debug, Default)]
struct Traffic {
    frames_in: AtomicU64,
    bytes_in: AtomicU64,
    frames_out: AtomicU64,
    bytes_out: AtomicU64,
}

impl Traffic {
    fn count_in(&self, bytes: usize) {
        self.frames_in.fetch_add(1, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count_out(&self, frames: usize, bytes: usize) {
        self.frames_out.fetch_add(frames as u64, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// What waits for one connection: raised by the behaviour, lowered by the handler.
#[derive(Debug, Default)]
struct Gauge {
    frames: AtomicUsize,
    bytes: AtomicUsize,
}

impl Gauge {
    /// Only the behaviour raises, so there is no race between the check and the addition.
    fn reserve(&self, bytes: usize) -> Result<(), SendError> {
        if self.frames.load(Ordering::Acquire) >= MAX_QUEUED_FRAMES
            || self.bytes.load(Ordering::Acquire) + bytes > MAX_QUEUED_BYTES
        {
            return Err(SendError::QueueFull);
        }
        self.frames.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        Ok(())
    }

    fn release(&self, frames: usize, bytes: usize) {
        self.frames.fetch_sub(frames, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// A live connection.
#[derive(Debug)]
struct Link {
    id: ConnectionId,
    relayed: bool,
    /// A stream is open on it.
    open: bool,
    /// The other end has said something on it, since it was last [doubted](Streams::doubt). Until then it may be a path in one direction only, as a hole punch can leave behind.
    proved: bool,
    /// A direct connection has taken over, or the owner wants it closed; nothing new is queued here.
    draining: bool,
    /// The owner wants it closed.
    closing: bool,
    /// What the handler was last told.
    kept: bool,
    /// What the handler was last told of the peer's wishes.
    heeded: bool,
    /// Both ends have said that they need it no longer.
    resting: bool,
    gauge: Arc<Gauge>,
}

impl Link {
    /// Higher is better: proved, direct, a stream already open, newest.
    fn rank(&self) -> (bool, bool, bool, ConnectionId) {
        (self.proved, !self.relayed, self.open, self.id)
    }
}

/// Who in a node wants connections kept: each for itself, so that none lets go what another needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Keeper {
    /// The directory, its neighbours.
    Directory,
    /// Relays for calls to come.
    RelaysAtHand,
    /// Relays through which this node is reached.
    Reservations,
    /// Mailboxes, which tell of letters.
    Mailboxes,
    /// Presence, its carriers.
    Presence,
    /// Gateways, which tell of pushes.
    Push,
    /// Calls under way.
    Calls,
    /// A device that joins its user's others.
    Joining,
}

type Action = ToSwarm<Event, Command>;

/// Makes the first frame of a stream.
#[derive(Clone)]
pub struct Greeting(Arc<dyn Fn() -> Vec<u8> + Send + Sync>);

impl Greeting {
    fn bytes(&self) -> Vec<u8> {
        let bytes = (self.0)();
        if bytes.len() > MAX_FRAME_LEN {
            tracing::error!(bytes = bytes.len(), "hello is larger than a frame");
            return Vec::new();
        }
        bytes
    }
}

impl std::fmt::Debug for Greeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Greeting(..)")
    }
}

/// The network behaviour: see the [module's documentation](self).
///
/// Calls take effect when the swarm is polled next.
#[derive(Debug)]
pub struct Streams {
    protocol: StreamProtocol,
    idle: Duration,
    hello: Greeting,
    /// Connected peers. Bounded by the swarm's connection limits.
    peers: HashMap<PeerId, Vec<Link>>,
    /// Peers whose connections stay open, and for whom: a bit for each [`Keeper`]. Bounded by the owner.
    kept: HashMap<PeerId, u8>,
    /// Gauges of connections that other behaviours may still refuse.
    fresh: HashMap<ConnectionId, Arc<Gauge>>,
    traffic: Arc<Traffic>,
    /// What the swarm is to do. Frames are bounded by the gauges; the rest is a few per connection.
    actions: VecDeque<Action>,
    waker: Option<Waker>,
}

impl Streams {
    /// A behaviour with an empty hello.
    pub fn new(config: Config) -> Self {
        Self {
            protocol: StreamProtocol::new(config.protocol),
            idle: config.idle,
            hello: Greeting(Arc::new(Vec::new)),
            peers: HashMap::new(),
            kept: HashMap::new(),
            fresh: HashMap::new(),
            traffic: Arc::default(),
            actions: VecDeque::new(),
            waker: None,
        }
    }

    /// Sets what is sent first on every stream from now on: `hello` is asked when a stream opens, so what it says of the present, such as
    /// the time, is true then. It runs in the connections' tasks: it must be quick, and give at most [`MAX_FRAME_LEN`] bytes (more are
    /// replaced by an empty hello). Streams already open are not told.
    pub fn set_hello(&mut self, hello: Arc<dyn Fn() -> Vec<u8> + Send + Sync>) {
        self.hello = Greeting(hello);
        for (peer, links) in &self.peers {
            for link in links {
                let command = Command::Hello(self.hello.clone());
                self.actions.push_back(notify(*peer, link.id, command));
            }
        }
        self.wake();
    }

    /// Queues a frame for a peer.
    ///
    /// The connection is `via` if that is alive and not being left for a direct one; else the best there
    /// is: one on which the other end was heard, then direct before relayed, then one with an open stream, then the newest. `Ok` means queued, not
    /// received.
    pub fn send(&mut self, peer: PeerId, via: Option<ConnectionId>, frame: Vec<u8>) -> Result<(), SendError> {
        if frame.len() > MAX_FRAME_LEN {
            return Err(SendError::TooLarge(frame.len()));
        }
        let links = self.peers.get(&peer).ok_or(SendError::NotConnected)?;
        let link = via
            .and_then(|via| links.iter().find(|link| link.id == via && !link.draining))
            .or_else(|| best(links))
            .ok_or(SendError::NotConnected)?;
        if rest::Word::of(&frame).is_some() {
            return Err(SendError::TooShort);
        }
        link.gauge.reserve(frame.len())?;
        let action = notify(peer, link.id, Command::Send(frame));
        self.actions.push_back(action);
        self.wake();
        Ok(())
    }

    /// Whether connections to this peer stay open without frames, as far as `keeper` is concerned. Holds for later connections too, until
    /// called with `false`. Does not dial. Of several connections those without a stream still go.
    pub fn keep(&mut self, peer: PeerId, keeper: Keeper, keep: bool) {
        let bit = 1_u8 << keeper as u8;
        if keep {
            *self.kept.entry(peer).or_default() |= bit;
        } else if let Some(keepers) = self.kept.get_mut(&peer) {
            *keepers &= !bit;
            if *keepers == 0 {
                self.kept.remove(&peer);
            }
        }
        self.refresh_kept(peer);
    }

    /// Whether connections stay because this peer wants them, until called with `false` or until the last is gone. Without it a peer can't hold a
    /// connection that nobody here needs for longer than [`Config::idle`] after the last frame.
    pub fn heed(&mut self, peer: PeerId, heed: bool) {
        for link in self.peers.get_mut(&peer).into_iter().flatten().filter(|link| link.heeded != heed) {
            link.heeded = heed;
            self.actions.push_back(notify(peer, link.id, Command::Heed(heed)));
        }
        self.wake();
    }

    /// Nobody wants connections to this peer kept any more.
    pub fn keep_no_longer(&mut self, peer: PeerId) {
        self.kept.remove(&peer);
        self.refresh_kept(peer);
    }

    /// Closes all connections to a peer, whoever else uses them, once what is queued has left and the
    /// peer has ended its streams in turn, or after [`CLOSE_TIMEOUT`]. Until [`Event::Closed`], frames
    /// still come, and none can be sent.
    pub fn close(&mut self, peer: PeerId) {
        for link in self.peers.get_mut(&peer).into_iter().flatten() {
            link.draining = true;
            link.closing = true;
            link.kept = false;
            self.actions.push_back(notify(peer, link.id, Command::Finish));
        }
        self.wake();
    }

    /// The owner waits for this peer in vain: each of its connections has to prove itself anew, by the next that is heard on it. Until one has, relayed ones
    /// aren't left for a direct one on which perhaps nobody is any more.
    pub fn doubt(&mut self, peer: PeerId) {
        for link in self.peers.get_mut(&peer).into_iter().flatten() {
            link.proved = false;
        }
        self.return_to_relays(peer);
        self.refresh_kept(peer);
    }

    /// What has passed so far.
    pub fn counters(&self) -> Counters {
        Counters {
            frames_in: self.traffic.frames_in.load(Ordering::Relaxed),
            bytes_in: self.traffic.bytes_in.load(Ordering::Relaxed),
            frames_out: self.traffic.frames_out.load(Ordering::Relaxed),
            bytes_out: self.traffic.bytes_out.load(Ordering::Relaxed),
        }
    }

    /// The peers there is a connection to.
    pub fn peers(&self) -> impl ExactSizeIterator<Item = &PeerId> {
        self.peers.keys()
    }

    /// Whether there is a connection to this peer.
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// How many connections there are to this peer.
    pub fn connections(&self, peer: &PeerId) -> usize {
        self.peers.get(peer).map_or(0, Vec::len)
    }

    /// Whether there is a connection to this peer that runs through no relay.
    pub fn is_direct(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|links| links.iter().any(|link| !link.relayed))
    }

    /// Whether the connection [`Streams::send`] would take now runs through a relay; `None` without one.
    pub fn is_relayed(&self, peer: &PeerId) -> Option<bool> {
        Some(best(self.peers.get(peer)?)?.relayed)
    }

    /// Bytes that wait for the connection [`Streams::send`] would take now; 0 without one.
    pub fn queued_bytes(&self, peer: &PeerId) -> usize {
        let link = self.peers.get(peer).and_then(|links| best(links));
        link.map_or(0, |link| link.gauge.bytes.load(Ordering::Acquire))
    }

    /// The connection [`Streams::send`] would take now.
    pub fn best_connection(&self, peer: &PeerId) -> Option<ConnectionId> {
        let links = self.peers.get(peer)?;
        Some(best(links)?.id)
    }

    fn handler(&mut self, connection: ConnectionId) -> Handler {
        let gauge = Arc::<Gauge>::default();
        self.fresh.insert(connection, Arc::clone(&gauge));
        Handler::new(self.protocol.clone(), self.idle, self.hello.clone(), gauge, Arc::clone(&self.traffic))
    }

    fn handle_established(&mut self, peer: PeerId, connection: ConnectionId, relayed: bool) {
        let gauge = self.fresh.remove(&connection).unwrap_or_default();
        let links = self.peers.entry(peer).or_default();
        let first = links.is_empty();
        links.push(Link {
            id: connection,
            relayed,
            open: false,
            proved: false,
            draining: false,
            closing: false,
            kept: false,
            heeded: false,
            resting: false,
            gauge,
        });
        // A further connection of one who is heeded.
        if self.peers.get(&peer).is_some_and(|links| links.iter().any(|link| link.heeded)) {
            self.heed(peer, true);
        }
        self.actions.push_back(ToSwarm::GenerateEvent(Event::Connected { peer, connection, relayed, first }));
        self.try_direct(peer);
        self.leave_relays(peer);
        self.refresh_kept(peer);
    }

    /// Opens a stream on a direct connection beside a relayed one in use: once the other end is heard on it, it takes over. Without a stream
    /// of its own it would be idle, and close.
    fn try_direct(&mut self, peer: PeerId) {
        let Some(links) = self.peers.get(&peer) else {
            return;
        };
        let direct = links.iter().filter(|link| !link.relayed && !link.proved).map(|link| link.id).max();
        let in_use = links.iter().any(|link| link.relayed && link.open && !link.draining);
        if let Some(direct) = direct.filter(|_| in_use) {
            self.actions.push_back(notify(peer, direct, Command::Open));
        }
        self.wake();
    }

    /// Moves a peer that has a proved direct connection off its relayed ones.
    fn leave_relays(&mut self, peer: PeerId) {
        let Some(links) = self.peers.get_mut(&peer) else {
            return;
        };
        if !links.iter().any(|link| !link.relayed && link.proved) {
            return;
        }
        for link in links.iter_mut().filter(|l| l.relayed && !l.draining) {
            link.draining = true;
            link.kept = false;
            self.actions.push_back(notify(peer, link.id, Command::Drain));
        }
        self.wake();
    }

    /// The other end was heard on this connection.
    fn handle_heard(&mut self, peer: PeerId, connection: ConnectionId) {
        let links = self.peers.get_mut(&peer).into_iter().flatten();
        if let Some(link) = links.into_iter().find(|link| link.id == connection && !link.proved) {
            link.proved = true;
            self.leave_relays(peer);
            self.refresh_kept(peer);
        }
    }

    /// Takes relayed connections back into use when the last proved direct one is gone.
    fn return_to_relays(&mut self, peer: PeerId) {
        let Some(links) = self.peers.get_mut(&peer) else {
            return;
        };
        if links.iter().any(|link| !link.relayed && link.proved) {
            return;
        }
        for link in links.iter_mut().filter(|l| l.draining && !l.closing) {
            link.draining = false;
            self.actions.push_back(notify(peer, link.id, Command::Resume));
        }
    }

    /// Tells the handlers which connections the owner wants.
    fn refresh_kept(&mut self, peer: PeerId) {
        let wanted = self.kept.contains_key(&peer);
        let best = self.best_connection(&peer);
        let Some(links) = self.peers.get_mut(&peer) else {
            return;
        };
        for link in links.iter_mut() {
            let keep = wanted && !link.draining && (link.open || Some(link.id) == best);
            if link.kept != keep {
                link.kept = keep;
                self.actions.push_back(notify(peer, link.id, Command::Keep(keep)));
            }
        }
        self.wake();
    }

    fn handle_closed(&mut self, closed: &ConnectionClosed<'_>) {
        let (peer, connection) = (closed.peer_id, closed.connection_id);
        let Some(links) = self.peers.get_mut(&peer) else {
            return;
        };
        let (mut undelivered, mut resting) = (0, false);
        links.retain(|link| {
            let gone = link.id == connection;
            if gone {
                undelivered = link.gauge.frames.load(Ordering::Acquire);
                resting = link.resting;
            }
            !gone
        });
        let last = links.is_empty();
        if last {
            self.peers.remove(&peer);
        }
        self.actions.push_back(ToSwarm::GenerateEvent(Event::Closed {
            peer,
            connection,
            last,
            reason: close_reason(closed.cause, resting),
            undelivered,
        }));
        self.return_to_relays(peer);
        self.refresh_kept(peer);
    }

    fn handle_open(&mut self, peer: PeerId, connection: ConnectionId, open: bool) {
        if let Some(links) = self.peers.get_mut(&peer)
            && let Some(link) = links.iter_mut().find(|link| link.id == connection)
        {
            link.open = open;
            self.refresh_kept(peer);
        }
    }

    fn handle_resting(&mut self, peer: PeerId, connection: ConnectionId, resting: bool) {
        let mut links = self.peers.get_mut(&peer).into_iter().flatten();
        if let Some(link) = links.find(|link| link.id == connection) {
            link.resting = resting;
        }
    }

    fn handle_drained(&mut self, peer: PeerId, connection: ConnectionId) {
        let links = self.peers.get(&peer).into_iter().flatten();
        // It may have been taken back into use meanwhile.
        if links.filter(|link| link.id == connection).any(|link| link.draining) {
            self.actions.push_back(ToSwarm::CloseConnection { peer_id: peer, connection: CloseConnection::One(connection) });
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The connection new frames go to.
fn best(links: &[Link]) -> Option<&Link> {
    links.iter().filter(|link| !link.draining).max_by_key(|link| link.rank())
}

fn notify(peer: PeerId, connection: ConnectionId, command: Command) -> Action {
    ToSwarm::NotifyHandler { peer_id: peer, handler: NotifyHandler::One(connection), event: command }
}

/// `resting`: both ends had said that they need it no longer, so whichever of them was quicker to close it, nothing is lost.
fn close_reason(cause: Option<&ConnectionError>, resting: bool) -> CloseReason {
    match cause {
        None => CloseReason::Local,
        Some(ConnectionError::KeepAliveTimeout) => CloseReason::Idle,
        Some(ConnectionError::IO(_)) if resting => CloseReason::Idle,
        Some(ConnectionError::IO(error)) => CloseReason::Transport(error.to_string()),
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. }) => {
                self.handle_established(peer_id, connection_id, endpoint.is_relayed())
            }
            FromSwarm::ConnectionClosed(closed) => self.handle_closed(&closed),
            FromSwarm::DialFailure(DialFailure { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.fresh.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        let event = match event {
            FromHandler::Open(open) => return self.handle_open(peer, connection, open),
            FromHandler::Resting(resting) => return self.handle_resting(peer, connection, resting),
            FromHandler::Drained => return self.handle_drained(peer, connection),
            FromHandler::Hello(bytes) => {
                self.handle_heard(peer, connection);
                Event::Hello { peer, connection, bytes }
            }
            FromHandler::Frame(bytes) => {
                self.handle_heard(peer, connection);
                Event::Frame { peer, connection, bytes }
            }
            FromHandler::Failed { error, undelivered } => Event::Failed { peer, connection, error, undelivered },
        };
        self.actions.push_back(ToSwarm::GenerateEvent(event));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        if let Some(action) = self.actions.pop_front() {
            return Poll::Ready(action);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
