//! Sending in batches.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::CALL_MESSAGES_MAX;
use super::raw_address::RawAddress;
use super::sys::{Headers, Outgoing, Piece, Place};

/// Datagrams of one train: what every kernel with UDP_SEGMENT takes (`UDP_MAX_SEGMENTS`).
const TRAIN_DATAGRAMS_MAX: usize = 64;

/// Bytes of one train: what fits a datagram's 16 bits of length with any header before it.
const TRAIN_BYTES_MAX: usize = 65_000;

/// Pause when a socket's buffer is full, and how many of them one flush has. A network card takes a millisecond for some
/// hundred kilobytes; what doesn't fit after that is dropped, as nobody may hold up everybody.
const FULL_PAUSE: Duration = Duration::from_micros(250);
const FULL_PAUSES_MAX: u32 = 4;

/// What was learnt about trains that can't be sent is forgotten after so many flushes: it may have been one way among many, or have been told
/// by somebody who lied about the way. Each time costs one refused call.
const RELEARN_AFTER: u32 = 10_000;

/// End of a list.
const NONE: u32 = u32::MAX;

/// What became of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SendTotals {
    /// Datagrams the system took.
    pub datagrams: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// System calls.
    pub calls: u64,
    /// Datagrams that had no room.
    pub full: u64,
    /// Datagrams the system refused.
    pub refused: u64,
}

/// Datagrams to send, by socket and destination.
#[derive(Debug)]
pub struct SendBatch {
    packets: Vec<Packet>,
    groups: Vec<Group>,
    /// First and last group of each socket that has any.
    queues: Vec<Queue>,
    /// By socket: its queue, or [`NONE`].
    queue_of: Vec<u32>,
    /// Open addressing by socket and destination: number of the group plus one, or 0.
    table: Vec<u32>,
    secret: u64,
    heads: Vec<u8>,
    headers: Headers,
    outgoing: Vec<Outgoing>,
    /// First packet of each message in `outgoing`, and how many it has.
    runs: Vec<(u32, u32)>,
    pieces: Vec<Piece>,
    /// Longest datagram that trains are made of; it learns.
    segment_bytes_max: usize,
    /// What it is before anything was learnt.
    segment_bytes_most: usize,
    /// Flushes until it is that again.
    relearn_in: u32,
}

#[derive(Debug, Clone, Copy)]
struct Packet {
    head_start: u32,
    body_start: u32,
    head_bytes: u16,
    body_bytes: u16,
    next: u32,
}

impl Packet {
    fn bytes(&self) -> usize {
        usize::from(self.head_bytes) + usize::from(self.body_bytes)
    }
}

#[derive(Debug, Clone, Copy)]
struct Group {
    destination: SocketAddr,
    via: u32,
    first: u32,
    last: u32,
    /// The next of the same socket.
    next: u32,
    /// Where the table knows it.
    slot: u32,
}

#[derive(Debug, Clone, Copy)]
struct Queue {
    via: u32,
    first: u32,
    last: u32,
}

impl SendBatch {
    /// For up to `packets_max` datagrams at once, half of them to different destinations with no loss of speed.
    #[must_use]
    pub fn new(packets_max: usize) -> Self {
        Self {
            packets: Vec::with_capacity(packets_max),
            groups: Vec::with_capacity(packets_max),
            queues: Vec::new(),
            queue_of: Vec::new(),
            table: vec![0; (2 * packets_max.max(8)).next_power_of_two()],
            secret: RandomState::new().hash_one(0) | 1,
            heads: Vec::new(),
            headers: Headers::new(),
            outgoing: Vec::with_capacity(CALL_MESSAGES_MAX),
            runs: Vec::with_capacity(CALL_MESSAGES_MAX),
            pieces: Vec::new(),
            segment_bytes_max: TRAIN_BYTES_MAX,
            segment_bytes_most: TRAIN_BYTES_MAX,
            relearn_in: 0,
        }
    }

    /// The same, that never makes trains: for systems that can't, and for comparison.
    #[must_use]
    pub fn without_trains(packets_max: usize) -> Self {
        Self { segment_bytes_max: 0, segment_bytes_most: 0, ..Self::new(packets_max) }
    }

    /// Datagrams waiting for [`flush`](Self::flush).
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Datagrams that can still be added before the next [`flush`](Self::flush).
    #[must_use]
    pub fn free(&self) -> usize {
        self.table.len() / 2 - self.packets.len()
    }

    /// Adds a datagram for `destination`, sent by socket number `via` (numbers should be small: there is a table of them): `head`, then the bytes
    /// `body` of the ring that will be given to [`flush`](Self::flush). It says no if the batch is full or the datagram longer than UDP allows.
    #[must_use]
    pub fn push(&mut self, via: u32, destination: SocketAddr, head: &[u8], body: Range<usize>) -> bool {
        if self.free() == 0 || head.len() + body.len() > TRAIN_BYTES_MAX {
            return false;
        }
        let number = self.packets.len() as u32;
        self.packets.push(Packet {
            head_start: self.heads.len() as u32,
            body_start: body.start as u32,
            head_bytes: head.len() as u16,
            body_bytes: body.len() as u16,
            next: NONE,
        });
        self.heads.extend_from_slice(head);
        let group = self.group(via, destination);
        let group = &mut self.groups[group];
        match group.last {
            NONE => group.first = number,
            last => self.packets[last as usize].next = number,
        }
        group.last = number;
        true
    }

    /// Sends everything and empties the batch. `socket` gives the socket of a number, or nothing if it has gone meanwhile.
    pub fn flush<'s>(&mut self, ring: &[u8], mut socket: impl FnMut(u32) -> Option<BorrowedFd<'s>>, totals: &mut SendTotals) {
        let mut pauses = FULL_PAUSES_MAX;
        self.relearn_in = self.relearn_in.saturating_sub(1);
        if self.relearn_in == 0 {
            self.segment_bytes_max = self.segment_bytes_most;
        }
        for queue in 0..self.queues.len() {
            let Queue { via, first, .. } = self.queues[queue];
            self.queue_of[via as usize] = NONE;
            let Some(socket) = socket(via) else {
                totals.refused += self.packets_of_queue(first);
                continue;
            };
            self.send_queue(socket, first, ring, totals, &mut pauses);
        }
        for group in &self.groups {
            self.table[group.slot as usize] = 0;
        }
        self.queues.clear();
        self.groups.clear();
        self.packets.clear();
        self.heads.clear();
    }

    /// The group of that socket and destination, made if there is none.
    fn group(&mut self, via: u32, destination: SocketAddr) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = self.hash(via, destination) as usize & mask;
        loop {
            match self.table[slot] {
                0 => break,
                group => {
                    let group = group as usize - 1;
                    if self.groups[group].via == via && self.groups[group].destination == destination {
                        return group;
                    }
                }
            }
            slot = (slot + 1) & mask;
        }
        let group = self.groups.len();
        self.table[slot] = group as u32 + 1;
        self.groups.push(Group { destination, via, first: NONE, last: NONE, next: NONE, slot: slot as u32 });
        self.enqueue(via, group as u32);
        group
    }

    fn enqueue(&mut self, via: u32, group: u32) {
        if self.queue_of.len() <= via as usize {
            self.queue_of.resize(via as usize + 1, NONE);
        }
        match self.queue_of[via as usize] {
            NONE => {
                self.queue_of[via as usize] = self.queues.len() as u32;
                self.queues.push(Queue { via, first: group, last: group });
            }
            queue => {
                let queue = &mut self.queues[queue as usize];
                self.groups[queue.last as usize].next = group;
                queue.last = group;
            }
        }
    }

    /// Keyed, as strangers choose the destinations.
    fn hash(&self, via: u32, destination: SocketAddr) -> u64 {
        let (high, low) = match destination.ip() {
            IpAddr::V4(ip) => (0, u64::from(ip.to_bits())),
            IpAddr::V6(ip) => ((ip.to_bits() >> 64) as u64, ip.to_bits() as u64),
        };
        let rest = u64::from(via) << 16 | u64::from(destination.port());
        fold(fold(low ^ self.secret, high ^ 0x9E37_79B9_7F4A_7C15) ^ rest, self.secret)
    }

    fn packets_of_queue(&self, mut group: u32) -> u64 {
        let mut packets = 0;
        while group != NONE {
            let mut packet = self.groups[group as usize].first;
            while packet != NONE {
                packets += 1;
                packet = self.packets[packet as usize].next;
            }
            group = self.groups[group as usize].next;
        }
        packets
    }

    fn send_queue(&mut self, socket: BorrowedFd<'_>, first: u32, ring: &[u8], totals: &mut SendTotals, pauses: &mut u32) {
        let mut group = first;
        while group != NONE {
            let Group { destination, first, next, .. } = self.groups[group as usize];
            let raw = RawAddress::new(destination);
            let mut packet = first;
            while packet != NONE {
                packet = self.add_train(packet, raw, usize::MAX);
                if self.outgoing.len() == CALL_MESSAGES_MAX {
                    self.send_outgoing(socket, ring, totals, pauses);
                }
            }
            group = next;
        }
        self.send_outgoing(socket, ring, totals, pauses);
    }

    /// Makes one message of the longest train that begins with `first`, of `datagrams_max` at most; gives the packet after it.
    fn add_train(&mut self, first: u32, (destination, destination_bytes): (RawAddress, u32), datagrams_max: usize) -> u32 {
        let segment_bytes = self.packets[first as usize].bytes();
        let pieces_before = self.pieces.len();
        let mut packet = first;
        let (mut datagrams, mut bytes) = (0, 0);
        let longest = if segment_bytes == 0 || segment_bytes > self.segment_bytes_max { 1 } else { TRAIN_DATAGRAMS_MAX };
        while packet != NONE && datagrams < longest.min(datagrams_max) {
            let next = self.packets[packet as usize];
            if next.bytes() > segment_bytes || bytes + next.bytes() > TRAIN_BYTES_MAX || (next.bytes() == 0 && datagrams > 0) {
                break;
            }
            self.add_pieces(next, pieces_before);
            datagrams += 1;
            bytes += next.bytes();
            packet = next.next;
            if next.bytes() < segment_bytes {
                // Only the last one of a train may be shorter.
                break;
            }
        }
        self.outgoing.push(Outgoing {
            destination,
            destination_bytes,
            pieces: self.pieces.len() - pieces_before,
            segment_bytes: if datagrams > 1 { segment_bytes as u16 } else { 0 },
        });
        self.runs.push((first, datagrams as u32));
        packet
    }

    fn add_pieces(&mut self, packet: Packet, own_from: usize) {
        if packet.head_bytes > 0 {
            self.pieces.push(Piece { place: Place::Head, start: packet.head_start, bytes: u32::from(packet.head_bytes) });
        }
        if packet.body_bytes == 0 {
            return;
        }
        let body = Piece { place: Place::Ring, start: packet.body_start, bytes: u32::from(packet.body_bytes) };
        match self.pieces[own_from..].last_mut() {
            // Datagrams that came as a train mostly leave as one: then they are one piece.
            Some(last) if last.place == Place::Ring && last.start + last.bytes == body.start => last.bytes += body.bytes,
            _ => self.pieces.push(body),
        }
    }

    /// Gives all messages made so far to the system.
    fn send_outgoing(&mut self, socket: BorrowedFd<'_>, ring: &[u8], totals: &mut SendTotals, pauses: &mut u32) {
        let (mut sent, mut piece) = (0, 0);
        while sent < self.outgoing.len() {
            totals.calls += 1;
            match self.headers.send(socket, (ring, &self.heads), &self.outgoing[sent..], &self.pieces[piece..]) {
                Ok(taken) => {
                    for index in sent..sent + taken {
                        self.count(index, totals);
                        piece += self.outgoing[index].pieces;
                    }
                    sent += taken;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_full(&error) && *pauses > 0 => {
                    *pauses -= 1;
                    std::thread::sleep(FULL_PAUSE);
                }
                Err(error) => {
                    self.handle_refusal(socket, sent, &error, ring, totals);
                    piece += self.outgoing[sent].pieces;
                    sent += 1;
                }
            }
        }
        self.outgoing.clear();
        self.runs.clear();
        self.pieces.clear();
    }

    fn count(&self, index: usize, totals: &mut SendTotals) {
        let (mut packet, datagrams) = self.runs[index];
        for _ in 0..datagrams {
            totals.bytes += self.packets[packet as usize].bytes() as u64;
            packet = self.packets[packet as usize].next;
        }
        totals.datagrams += u64::from(datagrams);
    }

    /// A refused train may be good as single datagrams: the system, or the way to this destination, can't cut it.
    fn handle_refusal(&mut self, socket: BorrowedFd<'_>, index: usize, error: &io::Error, ring: &[u8], totals: &mut SendTotals) {
        let Outgoing { destination, destination_bytes, segment_bytes, .. } = self.outgoing[index];
        let (mut packet, datagrams) = self.runs[index];
        if segment_bytes == 0 || !is_about_train(error) {
            *(if is_full(error) { &mut totals.full } else { &mut totals.refused }) += u64::from(datagrams);
            return;
        }
        // EIO says that the network card can't do it at all, the others that these datagrams were too long for the way.
        let is_useless = error.raw_os_error() == Some(libc::EIO);
        self.relearn_in = RELEARN_AFTER;
        self.segment_bytes_max = if is_useless { 0 } else { self.segment_bytes_max.min(usize::from(segment_bytes) - 1) };
        for _ in 0..datagrams {
            let next = self.packets[packet as usize].next;
            let kept = (self.outgoing.len(), self.pieces.len());
            self.add_train(packet, (destination, destination_bytes), 1);
            let result = self.headers.send(socket, (ring, &self.heads), &self.outgoing[kept.0..], &self.pieces[kept.1..]);
            totals.calls += 1;
            match result {
                Ok(_) => self.count(kept.0, totals),
                Err(error) if is_full(&error) => totals.full += 1,
                Err(_) => totals.refused += 1,
            }
            self.outgoing.truncate(kept.0);
            self.runs.truncate(kept.0);
            self.pieces.truncate(kept.1);
            packet = next;
        }
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

fn is_about_train(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP))
}
