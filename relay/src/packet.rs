//! What goes in and out of the state machine: packets in the driver's own buffers, and the driver's side as a trait.
//!
//! The relay copies no payload. A packet enters as a [`Packet`], a piece of the driver's receive buffer with some unused bytes
//! (*headroom*) before it. What leaves is a [`Payload`] that points into the same buffer: its header was written over the old one or
//! into the headroom, so that in the common cases it is one continuous slice ([`Payload::body`] alone). Only where
//! the header does not fit is it handed over beside the body ([`Payload::head`]), for an `iovec` of two or a copy.
//!
//! | from | to | header |
//! | --- | --- | --- |
//! | client, ChannelData | client with a channel (pair) | channel number overwritten in place |
//! | client, ChannelData or Send | peer | none: the body is the data |
//! | client, Send | client | written over the Send indication's, which is never shorter |
//! | client, ChannelData | client without a channel | Data indication: wants headroom of [`HEADROOM_BYTES`] |
//! | peer | client with a channel | wants headroom of 4 bytes |
//! | peer | client without a channel | wants headroom of [`HEADROOM_BYTES`] |
//!
//! Packets that follow each other in one buffer, as those the kernel has joined (GRO), have no headroom of their own: what stands before one
//! is the packet before it, which may still be waiting to be sent. Give them headroom 0. Those of the pair path still leave in place, one
//! after the other without gaps, and can be sent as one (GSO).

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;

/// Headroom that suits every case: header of a Data indication 20, XOR-PEER-ADDRESS of an IPv6 peer 24, header of DATA 4.
pub const HEADROOM_BYTES: usize = 20 + 24 + 4;

/// A client's path to the relay: one half of its five-tuple, the other being what `transport` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientPath {
    /// The client's address as the relay sees it. IPv4 as IPv4, never mapped into IPv6.
    pub address: SocketAddr,
    /// How it reaches the relay.
    pub transport: Transport,
}

/// The relay's half of a client's five-tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP, on this listener: its index in [`crate::relay::Settings::listeners`].
    Datagram(ListenerId),
    /// A TCP or TLS connection. The number is the driver's; it may use it again after [`crate::relay::Relay::handle_stream_closed`].
    Stream(StreamId),
}

impl Transport {
    /// Whether messages follow each other in a stream, so that ChannelData has to be padded.
    #[must_use]
    #[inline]
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Stream(_))
    }
}

/// Which of the relay's UDP addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u16);

/// Which of the driver's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId(pub u32);

/// Which relayed socket. Small numbers, used again after [`Sink::close_relayed`]: a driver may index a table with them.
///
/// An allocation of both families has two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelayedId(pub u32);

impl RelayedId {
    /// The number as an index.
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which relayed socket that has no allocation for now. The driver's number, never used for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ParkedId(pub u64);

/// A received packet in the driver's buffer.
#[derive(Debug)]
pub struct Packet<'b> {
    buffer: &'b mut [u8],
    start: usize,
}

impl<'b> Packet<'b> {
    /// A packet that begins `headroom` bytes into the buffer and ends with it. What stands in the headroom may be overwritten. A headroom
    /// beyond the buffer makes an empty packet.
    #[must_use]
    #[inline]
    pub fn new(buffer: &'b mut [u8], headroom: usize) -> Self {
        let start = headroom.min(buffer.len());
        Self { buffer, start }
    }

    /// A packet that fills the buffer.
    #[must_use]
    #[inline]
    pub fn without_headroom(buffer: &'b mut [u8]) -> Self {
        Self { buffer, start: 0 }
    }

    /// The packet.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Cuts off what stands behind the first `bytes` of the packet.
    #[inline]
    pub(crate) fn truncate(&mut self, bytes: usize) {
        let end = (self.start + bytes).min(self.buffer.len());
        let buffer = std::mem::take(&mut self.buffer);
        self.buffer = &mut buffer[..end];
    }

    /// The rest of the packet behind its first `bytes`, which become headroom.
    #[inline]
    pub(crate) fn skip(self, bytes: usize) -> Self {
        let start = (self.start + bytes).min(self.buffer.len());
        Self { buffer: self.buffer, start }
    }

    /// The packet with this header before it: in place where the headroom allows.
    #[inline]
    pub(crate) fn with_head<'h>(self, head: &'h [u8], padding: usize) -> Payload<'h, 'b> {
        let Self { buffer, start } = self;
        match start.checked_sub(head.len()) {
            Some(first) => {
                buffer[first..start].copy_from_slice(head);
                Payload { head: &[], body: &buffer[first..], padding }
            }
            None => Payload { head, body: &buffer[start..], padding },
        }
    }

    /// The packet as it is.
    #[inline]
    pub(crate) fn into_bytes(self) -> &'b [u8] {
        &self.buffer[self.start..]
    }

    /// The packet with its first four bytes overwritten. The caller has seen that there are four.
    #[inline]
    pub(crate) fn overwrite_first(self, first: [u8; 4]) -> Payload<'static, 'b> {
        let bytes = &mut self.buffer[self.start..];
        bytes[..4].copy_from_slice(&first);
        Payload { head: &[], body: bytes, padding: 0 }
    }
}

/// A packet to send: `head`, then `body`, then `padding` zero bytes.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'h, 'b> {
    /// Header that didn't fit before the body; mostly empty, at most [`HEADROOM_BYTES`]. Valid during the call only.
    pub head: &'h [u8],
    /// A piece of the buffer the packet came in; valid as long as that buffer is borrowed.
    pub body: &'b [u8],
    /// Zero bytes to add: 0 to 3.
    pub padding: usize,
}

impl Payload<'_, '_> {
    /// Bytes of the whole.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len() + self.padding
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the whole behind what `buffer` has.
    pub fn append_to(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(self.head);
        buffer.extend_from_slice(self.body);
        buffer.resize(buffer.len() + self.padding, 0);
    }
}

/// A port that a driver holds for an allocation to come, by whatever it does that with: a bound socket. Dropping it gives the port
/// back to the system.
pub struct HeldPort(Box<dyn Any + Send>);

impl HeldPort {
    /// The port is held for as long as this value lives.
    #[must_use]
    pub fn new(by: impl Any + Send) -> Self {
        Self(Box::new(by))
    }

    /// What it is held by, if it is that.
    #[must_use]
    pub fn into_inner<T: Any>(self) -> Option<T> {
        self.0.downcast().ok().map(|by| *by)
    }
}

impl fmt::Debug for HeldPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldPort(..)")
    }
}

/// The driver, as the state machine sees it: where packets go, and who opens sockets.
///
/// Calls must not block. What can't be sent is dropped and counted by the driver. `'b` is the life of the receive buffers:
/// a driver may keep the slices and send many at once.
///
/// The order of packets to one destination has to be kept; nothing else has to.
pub trait Sink<'b> {
    /// Sends relayed data to a client. On a stream the driver pads ChannelData to a multiple of four bytes; all else has such a length.
    fn to_client(&mut self, to: ClientPath, payload: Payload<'_, 'b>);

    /// Sends data from a relayed socket to a peer, which passed all checks. `dont_fragment` wants DF set in the IP header.
    fn to_peer(&mut self, from: RelayedId, to: SocketAddr, data: &'b [u8], dont_fragment: bool);

    /// Sends a response to a client. The message is in the relay's own buffer and has to be copied. Rare beside data.
    fn respond(&mut self, to: ClientPath, message: &[u8]);

    /// Opens a UDP socket bound to this address, to be known by this number until [`close_relayed`](Self::close_relayed).
    ///
    /// # Errors
    /// What the system said. The relay tries another port if this one is in use and refuses the request otherwise.
    fn open_relayed(&mut self, id: RelayedId, address: SocketAddr) -> io::Result<()>;

    /// Makes sure that nobody else gets this address, without receiving there: the second port of two in a row, for the bearer of
    /// a token who comes later. It may come to another driver of the same server.
    ///
    /// # Errors
    /// As [`open_relayed`](Self::open_relayed).
    fn hold_port(&mut self, address: SocketAddr) -> io::Result<HeldPort>;

    /// The same as [`open_relayed`](Self::open_relayed) for an address that was held. What came there meanwhile isn't handed in.
    ///
    /// # Errors
    /// What the system said; the address is given up then.
    fn open_held(&mut self, id: RelayedId, address: SocketAddr, held: HeldPort) -> io::Result<()>;

    /// Closes a relayed socket. Packets handed over before may still be sent, none that arrive later may be handed in.
    fn close_relayed(&mut self, id: RelayedId);

    /// The same, but the socket may stay open, so that another allocation of the same user can have it without the work of making one. `None`:
    /// it is closed. Whatever arrives at it while it is parked closes it, as who still sends there would be heard by the next owner.
    fn park_relayed(&mut self, id: RelayedId) -> Option<ParkedId> {
        self.close_relayed(id);
        None
    }

    /// Makes a parked socket the one known by this number. Says whether it was still there.
    fn unpark_relayed(&mut self, parked: ParkedId, id: RelayedId) -> bool {
        let _ = (parked, id);
        false
    }

    /// Closes a parked socket, if it is still there.
    fn close_parked(&mut self, parked: ParkedId) {
        let _ = parked;
    }
}
