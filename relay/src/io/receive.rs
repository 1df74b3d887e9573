//! Receiving in batches.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;

use super::CALL_MESSAGES_MAX;
use super::sys::Headers;

/// Unused bytes before each message, for longer headers than it came with.
pub const RING_HEADROOM_BYTES: usize = 64;

/// Bytes of a slot: headroom, and the longest train of datagrams that the kernel keeps together. A multiple of a page, so that a short
/// datagram touches one page of its slot and the rest costs no memory.
const SLOT_BYTES: usize = (1 << 16) + PAGE_BYTES;

/// Alignment of the slots.
const PAGE_BYTES: usize = 4_096;

/// One message: a datagram, or several of one sender that the kernel kept together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Who sent it.
    pub source: SocketAddr,
    start: u32,
    bytes: u32,
    /// Length of each datagram but the last.
    segment_bytes: u32,
}

impl Message {
    /// Where its datagrams lie in [`ReceiveRing::bytes`], in the order they came. An empty datagram is one too.
    pub fn datagrams(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (start, end) = (self.start as usize, self.start as usize + self.bytes as usize);
        let step = (self.segment_bytes as usize).max(1);
        (start..end.max(start + 1)).step_by(step).map(move |at| at..(at + step).min(end))
    }

    /// Number of datagrams in it. Only the first has [`RING_HEADROOM_BYTES`] before it: the others have the one that came before.
    #[must_use]
    pub fn datagrams_len(&self) -> usize {
        (self.bytes as usize).div_ceil((self.segment_bytes as usize).max(1)).max(1)
    }
}

/// Memory for the datagrams of one round, used again in the next.
#[derive(Debug)]
pub struct ReceiveRing {
    memory: Vec<u8>,
    /// First byte of the first slot: the first that lies at the start of a page.
    first: usize,
    slots: usize,
    messages: Vec<Message>,
    headers: Headers,
    cut: u64,
}

impl ReceiveRing {
    /// Room for `slots` messages: so many datagrams at least, and up to 68 KiB of memory each if all of them are long trains.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        // Zeroed memory of this size comes from the system untouched.
        let memory = vec![0; slots * SLOT_BYTES + PAGE_BYTES];
        let first = memory.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        Self { memory, first, slots, messages: Vec::with_capacity(slots), headers: Headers::new(), cut: 0 }
    }

    /// Frees all slots.
    pub fn clear(&mut self) {
        self.messages.clear();
    }

    /// Takes what waits in a socket, in one call: as many messages as slots are free, and [`CALL_MESSAGES_MAX`] or `messages_max` at most. Says how many. If
    /// they are fewer than could have been taken, the socket is empty.
    ///
    /// # Errors
    /// `WouldBlock` if nothing waits. Others are passed on from the system.
    pub fn receive(&mut self, socket: &impl AsFd, messages_max: usize) -> io::Result<usize> {
        let used = self.messages.len();
        let free = (self.slots - used).min(CALL_MESSAGES_MAX).min(messages_max);
        let start = self.first + used * SLOT_BYTES;
        let memory = &mut self.memory[start..start + free * SLOT_BYTES];
        let received = self.headers.receive(socket.as_fd(), memory, SLOT_BYTES, RING_HEADROOM_BYTES)?;
        for index in 0..received {
            let about = self.headers.received(index);
            // A cut train has lost its end only. Slots are long enough for all there can be, so this is about the unforeseen.
            self.cut += u64::from(about.is_cut);
            let bytes = about.bytes.min(SLOT_BYTES - RING_HEADROOM_BYTES);
            self.messages.push(Message {
                source: about.source.to_socket_addr(),
                start: (start + index * SLOT_BYTES + RING_HEADROOM_BYTES) as u32,
                bytes: bytes as u32,
                segment_bytes: if about.segment_bytes == 0 { bytes } else { about.segment_bytes } as u32,
            });
        }
        Ok(received)
    }

    /// Messages taken since [`clear`](Self::clear).
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Slots that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.slots - self.messages.len()
    }

    /// The memory that ranges of datagrams are about.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory
    }

    /// The same, to change headers in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// Messages that were longer than a slot, ever.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut
    }
}
