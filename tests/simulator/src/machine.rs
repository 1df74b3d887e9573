//! What the simulator drives: any state machine that takes an input and the time, and says what to send.

use std::time::{Duration, Instant};

use halloo_protocol::time::Now;

/// A node of the simulated network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The node at a position.
    ///
    /// # Panics
    /// If there can be no such node: there are fewer than four billion.
    #[must_use]
    pub fn from_index(index: usize) -> Self {
        Self(u32::try_from(index).expect("fewer than four billion nodes fit in memory"))
    }

    /// Its position in the network's list.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Numbers a kind of message, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u16);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Nobody used it, or a side closed it.
    Idle,
    /// The heartbeat stopped.
    Lost,
    /// The other node said goodbye.
    Left,
}

/// What happens to a node.
#[derive(Debug)]
pub enum Input<M> {
    /// It has started.
    Start,
    /// The time that [`Machine::poll_timeout`] asked for has come.
    Timeout,
    /// A connection is open.
    Connected {
        /// To whom.
        peer: NodeId,
        /// Whether this side dialled.
        is_dialler: bool,
        /// Its round trip, as the handshake showed it.
        rtt: Duration,
    },
    /// A connection has ended.
    Disconnected {
        /// To whom.
        peer: NodeId,
        /// How.
        reason: Closed,
    },
    /// Nobody answered a dial.
    DialFailed {
        /// Who was dialled.
        peer: NodeId,
    },
    /// A message has arrived.
    Message {
        /// From whom; the transport vouches for it.
        from: NodeId,
        /// What.
        message: M,
    },
}

/// A node's behaviour, without I/O. The same code may run in production behind another driver.
pub trait Machine: Sized {
    /// What nodes send each other.
    type Message;
    /// What a node reports to whoever runs the simulation.
    type Event;
    /// What all nodes share: identities, name to address, signing keys. Nothing that real nodes would have to learn.
    type World;

    /// Takes an input; what it wants done goes to `out`.
    fn handle(&mut self, world: &mut Self::World, now: Now, input: Input<Self::Message>, out: &mut Outbox<Self>);

    /// When it wants [`Input::Timeout`] at the latest.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Messages of this kind say nothing but that the sender is there: they aren't part of what [`Network::digest`](crate::Network::digest) names.
    const BARE: Option<Kind> = None;

    /// With [`Settings::is_tacit`](crate::Settings::is_tacit): bare messages to a peer aren't sent from now on, and the peer's aren't waited for. Both ends
    /// are told at once. Returns whether the machine can do so.
    fn begin_tacit(&mut self, _world: &Self::World, _now: Now, _peer: NodeId) -> bool {
        false
    }

    /// When the last bare message left for a peer that wasn't sent.
    fn last_bare(&mut self, _world: &Self::World, _now: Now, _peer: NodeId) -> Option<Instant> {
        None
    }

    /// Bare messages are sent and waited for again, because the peer's end is gone. `heard_at`: when its last one would have come.
    fn end_tacit(&mut self, _world: &Self::World, _now: Now, _peer: NodeId, _heard_at: Option<Instant>) {}

    /// A bare message, and how far they are apart.
    fn bare(&self) -> Option<(Self::Message, Duration)> {
        None
    }
}

/// What a machine wants done.
#[derive(Debug)]
pub(crate) enum Command<M> {
    Send { to: NodeId, message: M, kind: Kind, bytes: usize },
    Dial(NodeId),
    DialNobody,
    Keep(NodeId, bool),
    Close(NodeId),
}

/// Collects what a machine wants done.
#[derive(Debug)]
pub struct Outbox<M: Machine> {
    pub(crate) commands: Vec<Command<M::Message>>,
    pub(crate) events: Vec<M::Event>,
}

impl<M: Machine> Outbox<M> {
    pub(crate) const fn new() -> Self {
        Self { commands: Vec::new(), events: Vec::new() }
    }

    /// Sends a message, dialling if need be. `bytes` is its encoded length; what transports add is estimated by the network.
    pub fn send(&mut self, to: NodeId, kind: Kind, bytes: usize, message: M::Message) {
        self.commands.push(Command::Send { to, message, kind, bytes });
    }

    /// Opens a connection if none is open.
    pub fn dial(&mut self, peer: NodeId) {
        self.commands.push(Command::Dial(peer));
    }

    /// Dials an address where nobody is: costs the packets.
    pub fn dial_nobody(&mut self) {
        self.commands.push(Command::DialNobody);
    }

    /// Whether an open connection stays open while it is idle. One that neither side keeps is closed after a while.
    pub fn keep(&mut self, peer: NodeId, is_kept: bool) {
        self.commands.push(Command::Keep(peer, is_kept));
    }

    /// Closes a connection; the other side hears that it was lost, if it hears at all.
    pub fn close(&mut self, peer: NodeId) {
        self.commands.push(Command::Close(peer));
    }

    /// Reports something.
    pub fn event(&mut self, event: M::Event) {
        self.events.push(event);
    }
}
