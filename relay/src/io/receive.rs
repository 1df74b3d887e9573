//! Receiving in batches.
//!
//! A message is mostly one datagram of some hundred bytes, and now and then a train of up to 64 KiB. So that a round of a thousand messages
//! doesn't claim 64 MiB, each has a *near* slot of 2 KiB of its own, and only what doesn't fit goes on in one of a few *far* slots:
//!
//! ```text
//! near slot   | headroom | datagram 1 | datagram 2 | dat|
//! far slot                                     | .. copy|agram 3 | datagram 4 | datagram 5 |
//! ```
//!
//! The datagram that lies in both is made whole by copying its beginning to before the rest: less than one datagram for a whole train.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;

use super::CALL_MESSAGES_MAX;
use super::sys::{Headers, release};

/// Unused bytes before each message, for longer headers than it came with.
pub const RING_HEADROOM_BYTES: usize = 64;

/// Two to a page; more than any datagram that isn't fragmented has.
const NEAR_SLOT_BYTES: usize = 2_048;
/// Bytes of a message that its near slot takes.
const NEAR_BYTES: usize = NEAR_SLOT_BYTES - RING_HEADROOM_BYTES;

/// Messages of one call and, of a round, those that may be longer than their near slot: a round with more ends early.
const FAR_SLOTS: usize = CALL_MESSAGES_MAX;
/// The longest message, and room for the beginning of a datagram with its headroom before it.
const FAR_SLOT_BYTES: usize = NEAR_SLOT_BYTES + FAR_BYTES;
const FAR_BYTES: usize = 1 << 16;

/// One message: a datagram, or several of one sender that the kernel kept together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Who sent it.
    pub source: SocketAddr,
    near_start: u32,
    /// Where the first datagram that isn't near starts.
    far_start: u32,
    bytes: u32,
    /// Length of each datagram but the last.
    segment_bytes: u32,
    near_datagrams: u32,
}

impl Message {
    /// Where its datagrams lie in [`ReceiveRing::bytes`], in the order they came. An empty datagram is one too.
    pub fn datagrams(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Self { near_start, far_start, bytes, segment_bytes, near_datagrams, .. } = *self;
        (0..self.datagrams_len() as u32).map(move |number| {
            let start = match number.checked_sub(near_datagrams) {
                Some(far) => far_start + far * segment_bytes,
                None => near_start + number * segment_bytes,
            };
            let length = segment_bytes.min(bytes - number * segment_bytes);
            start as usize..(start + length) as usize
        })
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
    /// All near slots, then all far slots.
    memory: Vec<u8>,
    slots: usize,
    messages: Vec<Message>,
    /// Starts of far slots that no message of this round uses.
    far_free: Vec<usize>,
    headers: Headers,
    cut: u64,
}

impl ReceiveRing {
    /// Room for `slots` messages of a round: 2 KiB for each, and up to 4.2 MiB if there are trains.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        // Zeroed memory of this size comes from the system untouched, and costs nothing where it stays so.
        let memory = vec![0; slots * NEAR_SLOT_BYTES + FAR_SLOTS * FAR_SLOT_BYTES];
        let mut ring = Self {
            memory,
            slots,
            messages: Vec::with_capacity(slots),
            far_free: Vec::with_capacity(FAR_SLOTS),
            headers: Headers::new(),
            cut: 0,
        };
        ring.clear();
        ring
    }

    /// Frees all slots.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.far_free.clear();
        let first = self.slots * NEAR_SLOT_BYTES;
        // The first ones are used first, so that the others stay untouched.
        self.far_free.extend((0..FAR_SLOTS).rev().map(|slot| first + slot * FAR_SLOT_BYTES));
    }

    /// Gives the memory that messages have touched back to the system, and frees all slots.
    pub fn release(&mut self) {
        self.clear();
        release(&mut self.memory);
    }

    /// Takes what waits in a socket, in one call: [`free`](Self::free) messages or `messages_max` at most. Says how many. If
    /// they are fewer than could have been taken, the socket is empty.
    ///
    /// # Errors
    /// `WouldBlock` if nothing waits. Others are passed on from the system.
    pub fn receive(&mut self, socket: &impl AsFd, messages_max: usize) -> io::Result<usize> {
        let wanted = self.free().min(messages_max);
        let first = self.messages.len() * NEAR_SLOT_BYTES;
        let (near, far) = self.memory.split_at_mut(self.slots * NEAR_SLOT_BYTES);
        let far_base = near.len();
        let near = near[first..].chunks_exact_mut(NEAR_SLOT_BYTES).map(|slot| &mut slot[RING_HEADROOM_BYTES..]);
        let far_starts = self.far_free.iter().rev().map(|start| start - far_base + NEAR_SLOT_BYTES);
        let received = self.headers.receive(socket.as_fd(), near.take(wanted), far, far_starts, FAR_BYTES)?;
        for index in 0..received {
            self.note(index, first + index * NEAR_SLOT_BYTES + RING_HEADROOM_BYTES, received);
        }
        // Those of short messages are free again, those of long ones were taken out of the middle.
        self.far_free.retain(|start| *start != TAKEN);
        Ok(received)
    }

    /// Notes message `index` of the `received` ones of a call, which begins at `near_start`.
    fn note(&mut self, index: usize, near_start: usize, received: usize) {
        debug_assert!(index < received);
        let about = self.headers.received(index);
        // A cut train has lost its end only. Slots are long enough for all there can be, so this is about the unforeseen.
        self.cut += u64::from(about.is_cut);
        let bytes = about.bytes.min(NEAR_BYTES + FAR_BYTES);
        let segment_bytes = if about.segment_bytes == 0 { bytes } else { about.segment_bytes };
        let mut message = Message {
            source: about.source.to_socket_addr(),
            near_start: near_start as u32,
            far_start: 0,
            bytes: bytes as u32,
            segment_bytes: segment_bytes as u32,
            near_datagrams: u32::MAX,
        };
        if bytes > NEAR_BYTES {
            let place = self.far_free.len() - 1 - index;
            let far = std::mem::replace(&mut self.far_free[place], TAKEN) + NEAR_SLOT_BYTES;
            let near_datagrams = NEAR_BYTES / segment_bytes;
            let begun = near_start + near_datagrams * segment_bytes..near_start + NEAR_BYTES;
            let far_start = far - begun.len();
            self.memory.copy_within(begun, far_start);
            message.far_start = far_start as u32;
            message.near_datagrams = near_datagrams as u32;
        }
        self.messages.push(message);
    }

    /// Messages taken since [`clear`](Self::clear).
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Messages that one more call may take.
    #[must_use]
    pub fn free(&self) -> usize {
        (self.slots - self.messages.len()).min(self.far_free.len()).min(CALL_MESSAGES_MAX)
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

/// Marks the place of a far slot that was taken.
const TAKEN: usize = usize::MAX;
