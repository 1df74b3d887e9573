//! Counts what is sent, by kind, in messages and estimated bytes.
//!
//! Bytes are what the sender writes: the encoded message, and an estimate of what QUIC, UDP and IP add. The estimates are constants here, in one
//! place, so that they can be set right by a measurement of real nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::machine::Kind;

/// Frame header (length, kind, number) and QUIC stream frame.
const FRAME_BYTES: usize = 8 + 5;

/// Per packet: IPv4 and UDP (28), QUIC short header (1 + 8 + 2) and its seal (16).
const PACKET_BYTES: usize = 28 + 11 + 16;

/// Most payload of a packet.
const PACKET_PAYLOAD: usize = 1_200 - 27;

/// What the receiver of a message writes to acknowledge it: a packet with an ACK frame, for every second packet.
const ACK_BYTES: usize = PACKET_BYTES + 6;

/// A QUIC handshake, dialler's side: a full first packet (1,200), a full second one with the certificate (1,200) and the first stream's
/// negotiation. An estimate, as the next two.
pub const HANDSHAKE_DIALLER_BYTES: u64 = 2 * 1_228 + 200;

/// A QUIC handshake, listener's side: a full packet, the certificate's flight, acknowledgements.
pub const HANDSHAKE_LISTENER_BYTES: u64 = 1_228 + 900 + 200;

/// A dial that nobody answers: the first packet, four times.
pub const DIAL_FAILED_BYTES: u64 = 4 * 1_228;

/// How often a connection's heartbeat goes, each way one packet.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

/// A heartbeat, or its acknowledgement.
const HEARTBEAT_BYTES: u64 = PACKET_BYTES as u64 + 8;

/// What an open connection costs each side.
#[must_use]
pub fn heartbeat_bytes(open: Duration) -> u64 {
    open.as_secs() / HEARTBEAT_EVERY.as_secs() * HEARTBEAT_BYTES
}

/// What a message of this encoded length costs its sender, and its receiver for acknowledging.
#[must_use]
pub fn message_bytes(encoded: usize) -> (u64, u64) {
    let payload = encoded + FRAME_BYTES;
    let packets = payload.div_ceil(PACKET_PAYLOAD);
    ((payload + packets * PACKET_BYTES) as u64, (packets.div_ceil(2) * ACK_BYTES) as u64)
}

/// Messages and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Messages.
    pub messages: u64,
    /// Their encoded bytes, without headers.
    pub bytes: u64,
}

/// What was sent in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// By kind of message.
    pub by_kind: BTreeMap<Kind, Count>,
    /// Handshakes that succeeded.
    pub handshakes: u64,
    /// Dials that nobody answered.
    pub failed_dials: u64,
    /// Bytes of all nodes, headers, handshakes and heartbeats included.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) fn count(&mut self, kind: Kind, encoded: usize) {
        let count = self.by_kind.entry(kind).or_default();
        count.messages += 1;
        count.bytes += encoded as u64;
    }

    /// What came after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let difference = |kind: &Kind, count: &Count| {
            let before = earlier.by_kind.get(kind).copied().unwrap_or_default();
            (*kind, Count { messages: count.messages - before.messages, bytes: count.bytes - before.bytes })
        };
        Self {
            by_kind: self.by_kind.iter().map(|(kind, count)| difference(kind, count)).collect(),
            handshakes: self.handshakes - earlier.handshakes,
            failed_dials: self.failed_dials - earlier.failed_dials,
            bytes: self.bytes - earlier.bytes,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        for (kind, count) in &other.by_kind {
            let known = sum.by_kind.entry(*kind).or_default();
            known.messages += count.messages;
            known.bytes += count.bytes;
        }
        sum.handshakes += other.handshakes;
        sum.failed_dials += other.failed_dials;
        sum.bytes += other.bytes;
        sum
    }

    /// Messages of one kind.
    #[must_use]
    pub fn messages(&self, kind: Kind) -> u64 {
        self.by_kind.get(&kind).map_or(0, |count| count.messages)
    }
}
