//! A thread of the relay: drains its sockets in batches, has its [`Relay`] handle each packet, sends all that comes of it in few calls.
//!
//! ```text
//! wait ──► receive until the sockets are empty or the ring is full ──► handle ──► send, grouped by destination ──► nap, or wait
//! ```
//!
//! **Threads share next to nothing.** Each has a socket of its own at each of the relay's addresses (SO_REUSEPORT: the kernel gives a client's
//! packets to always the same), and the relayed sockets of the allocations made over it. A packet for a client of another thread leaves from
//! here, since both threads' sockets have one address; what a thread has to know for that is in the directory all share.
//!
//! **Naps.** A thread that waits for each packet is woken for each packet, and that costs more than relaying it. Under load it therefore
//! sleeps [`NAP`] after a round that left nothing over, and then takes what has gathered. It doesn't where the last second had less than
//! [`load::NAP_PACKETS_PER_SEC_MIN`] packets to relay: then no packet waits for anything. [`Metrics`] counts naps and the packets that
//! waited for one to end.
//!
//! Nothing is allocated per packet. Memory is bounded by the ring ([`RING_SLOTS`]), the batch ([`BATCH_PACKETS`]) and what
//! the [`Relay`] keeps.

mod load;
mod sockets;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Waker};
use tracing::debug;

use crate::io::{Message, RING_HEADROOM_BYTES, ReceiveRing, SendBatch, SendTotals};
use crate::metrics::{DropReason, Metrics};
use crate::packet::{ClientPath, HeldPort, ListenerId, Packet, ParkedId, Payload, RelayedId, Sink, Transport};
use crate::relay::Relay;
use crate::server::udp;
use load::LoadMeter;
use sockets::{Place, Sockets};

/// Messages of one round. The more, the longer the trains that leave under load, and the longer the round: at 3 µs a packet 3 ms.
const RING_SLOTS: usize = 1_024;

/// Packets that leave in one round: every message may be a train.
const BATCH_PACKETS: usize = 2_048;

/// Messages asked for in the first call for a socket while there is little load: to prepare for each costs 10 ns.
const FIRST_CALL_MESSAGES: usize = 4;

/// Messages taken from a relayed socket before others have their turn.
const RELAYED_MESSAGES_MAX: usize = 16;

/// Messages that listeners leave to relayed sockets which have something.
const RELAYED_SLOTS: usize = RING_SLOTS / 2;

/// How long a thread sleeps under load. With the 50 µs by which Linux may lengthen a sleep, and the time of a round, no packet's delay
/// reaches 1 ms because of it.
pub(crate) const NAP: Duration = Duration::from_micros(500);

/// Longest wait, so that a thread looks up now and then.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A ring gives its memory back when no round of [`RELEASE_AFTER`] has filled it further than this.
const RELEASE_MESSAGES_MIN: usize = 64;
const RELEASE_AFTER: Duration = Duration::from_secs(10);

/// Readiness events taken at once. More are taken the next time.
const EVENTS_MAX: usize = 1_024;

/// Failures of receiving in a row after which a listener is taken for broken: 10 s of them. Single ones happen, as when memory
/// runs short.
const RECEIVE_FAILURES_MAX: u32 = 1_000;

/// Pause after a failure of receiving: trying at once would burn the time that may be needed to get well.
const RECEIVE_RETRY: Duration = Duration::from_millis(10);

/// Ends a worker from another thread.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    is_told: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl Stop {
    pub(crate) fn stop(&self) {
        self.is_told.store(true, Ordering::Release);
        // A worker that can't be woken looks up by itself before long.
        let _ = self.waker.wake();
    }
}

/// A thread's sockets and its relay.
#[derive(Debug)]
pub(crate) struct Worker {
    relay: Relay,
    metrics: Arc<Metrics>,
    sockets: Sockets,
    ring: ReceiveRing,
    /// Where each message of the ring came in.
    places: Vec<Place>,
    batch: SendBatch,
    load: LoadMeter,
    stop: Stop,
    failures: u32,
    has_napped: bool,
    /// When the ring gives its memory back, if it has any worth that.
    release_at: Option<Instant>,
}

impl Worker {
    /// A worker that serves these sockets, which are bound and whose indices are the relay's [`ListenerId`]s.
    pub(crate) fn new(relay: Relay, listeners: Vec<UdpSocket>, now: Instant) -> io::Result<Self> {
        let sockets = Sockets::new(listeners)?;
        let stop = Stop { is_told: Arc::default(), waker: Arc::new(sockets.waker()?) };
        Ok(Self {
            metrics: Arc::clone(relay.metrics()),
            relay,
            sockets,
            ring: ReceiveRing::new(RING_SLOTS),
            places: Vec::with_capacity(RING_SLOTS),
            batch: SendBatch::new(BATCH_PACKETS),
            load: LoadMeter::new(now),
            stop,
            failures: 0,
            has_napped: false,
            release_at: None,
        })
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub(crate) fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// Serves until told to stop. Allocations end with it.
    pub(crate) fn run(mut self) -> Result<(), (SocketAddr, io::Error)> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        while !self.stop.is_told.load(Ordering::Acquire) {
            self.sockets.wait(&mut events, self.wait())?;
            let now = Instant::now();
            self.receive()?;
            let relayed_before = self.metrics.relayed_packets();
            let packets = self.handle(now);
            self.end_due(now);
            self.flush();
            self.rest(packets, self.metrics.relayed_packets() - relayed_before, now);
        }
        self.with_sink(|relay, out| relay.close(out));
        self.flush();
        Ok(())
    }

    /// How long the next wait may last.
    fn wait(&self) -> Duration {
        if self.has_napped || self.sockets.has_ready() {
            return Duration::ZERO;
        }
        let timers = [self.relay.poll_timeout(), self.release_at];
        let next = timers.into_iter().flatten().min();
        next.map_or(WAIT_MAX, |at| at.saturating_duration_since(Instant::now()).min(WAIT_MAX))
    }

    /// Fills the ring from all sockets that have something.
    fn receive(&mut self) -> Result<(), (SocketAddr, io::Error)> {
        self.ring.clear();
        self.places.clear();
        let listeners_max = if self.sockets.has_ready_relayed() { RING_SLOTS - RELAYED_SLOTS } else { RING_SLOTS };
        for listener in 0..self.sockets.listener_count() {
            let left = listeners_max.saturating_sub(self.places.len());
            self.receive_from(Place::Listener(listener as u16), left)?;
        }
        for _ in 0..self.sockets.ready_relayed_count() {
            if self.ring.free() == 0 {
                break;
            }
            let Some(slot) = self.sockets.next_ready_relayed() else { break };
            self.receive_from(Place::Relayed(slot), RELAYED_MESSAGES_MAX)?;
        }
        Ok(())
    }

    /// Takes from one socket until it is empty, has given `messages_max`, or the ring is full.
    fn receive_from(&mut self, place: Place, messages_max: usize) -> Result<(), (SocketAddr, io::Error)> {
        let mut left = messages_max;
        let mut call_max = if self.has_napped { usize::MAX } else { FIRST_CALL_MESSAGES };
        while self.sockets.is_ready(place) && left > 0 && self.ring.free() > 0 {
            let wanted = left.min(self.ring.free()).min(call_max);
            call_max = usize::MAX;
            let Some(socket) = self.sockets.get(place) else { return Ok(()) };
            match self.ring.receive(socket, wanted) {
                Ok(received) => {
                    self.places.resize(self.places.len() + received, place);
                    left -= received;
                    if received < wanted {
                        self.sockets.set_empty(place);
                    }
                    self.failures = 0;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.sockets.set_empty(place),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.handle_failure(place, error),
            }
        }
        if self.sockets.is_ready(place) {
            self.sockets.keep_ready(place);
        }
        Ok(())
    }

    fn handle_failure(&mut self, place: Place, error: io::Error) -> Result<(), (SocketAddr, io::Error)> {
        self.metrics.count_receive_failure();
        let Place::Listener(listener) = place else {
            // Whatever it is, it is about one client's socket; the next packet makes it ready again.
            debug!(%error, "cannot receive on a relayed socket");
            self.sockets.set_empty(place);
            return Ok(());
        };
        self.failures += 1;
        if self.failures >= RECEIVE_FAILURES_MAX {
            return Err((self.sockets.listener_address(listener), error));
        }
        std::thread::sleep(RECEIVE_RETRY);
        Ok(())
    }

    /// Has the relay handle what is in the ring. Says how many packets it was.
    fn handle(&mut self, now: Instant) -> usize {
        let mut packets = 0;
        for index in 0..self.places.len() {
            let message = self.ring.messages()[index];
            let place = self.places[index];
            packets += message.datagrams_len();
            if self.batch.free() < message.datagrams_len() {
                self.flush();
            }
            self.handle_message(message, place, now);
        }
        packets
    }

    fn handle_message(&mut self, message: Message, place: Place, now: Instant) {
        let base = self.ring.bytes().as_ptr().addr();
        let mut out = Outbox { base, batch: &mut self.batch, sockets: &mut self.sockets, metrics: &self.metrics };
        let mut headroom = RING_HEADROOM_BYTES;
        for Range { start, end } in message.datagrams() {
            let packet = Packet::new(&mut self.ring.bytes_mut()[start - headroom..end], headroom);
            match place {
                Place::Listener(listener) => {
                    let from = ClientPath { address: message.source, transport: Transport::Datagram(ListenerId(listener)) };
                    self.relay.handle_client(packet, from, now, &mut out);
                }
                Place::Relayed(slot) => {
                    // The allocation may have ended with an earlier packet of this round.
                    if let Some(id) = out.sockets.relayed_id(slot) {
                        self.relay.handle_peer(packet, id, message.source, now, &mut out);
                    }
                }
            }
            // Before the others of a train is the one that came earlier.
            headroom = 0;
        }
    }

    fn end_due(&mut self, now: Instant) {
        if self.relay.poll_timeout().is_some_and(|at| at <= now) {
            self.with_sink(|relay, out| relay.handle_timeout(now, out));
        }
    }

    fn with_sink(&mut self, work: impl FnOnce(&mut Relay, &mut Outbox<'_>)) {
        let base = self.ring.bytes().as_ptr().addr();
        let mut out = Outbox { base, batch: &mut self.batch, sockets: &mut self.sockets, metrics: &self.metrics };
        work(&mut self.relay, &mut out);
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            let mut totals = SendTotals::default();
            let sockets = &self.sockets;
            self.batch.flush(self.ring.bytes(), |via| sockets.by_via(via), &mut totals);
            self.metrics.count_flush(&totals);
        }
        // Only now: what was handed over before may still have had to leave.
        self.sockets.drop_closed();
    }

    /// Naps, if that makes the next round a fuller one.
    ///
    /// Requests don't count: a client sends its next when it has the response, so there is nothing to gather.
    fn rest(&mut self, packets: usize, relayed: u64, now: Instant) {
        self.metrics.count_round(packets, self.has_napped);
        self.load.count(relayed, now);
        self.release_memory(packets, now);
        self.has_napped = relayed > 0 && !self.sockets.has_ready() && self.load.is_napping_worthwhile(now);
        if self.has_napped {
            std::thread::sleep(NAP);
        }
    }
}

impl Worker {
    /// What one busy minute has taken isn't kept for ever.
    fn release_memory(&mut self, packets: usize, now: Instant) {
        if packets >= RELEASE_MESSAGES_MIN {
            self.release_at = Some(now + RELEASE_AFTER);
        } else if self.release_at.is_some_and(|at| at <= now) {
            self.release_at = None;
            self.ring.release();
        }
    }
}

/// What the relay says is to be done, into the batch and the table of sockets.
#[derive(Debug)]
struct Outbox<'w> {
    /// Where the ring's memory begins.
    base: usize,
    batch: &'w mut SendBatch,
    sockets: &'w mut Sockets,
    metrics: &'w Metrics,
}

impl Outbox<'_> {
    fn push(&mut self, via: u32, to: SocketAddr, head: &[u8], body: &[u8]) {
        // All bodies are pieces of the ring.
        let start = body.as_ptr().addr().wrapping_sub(self.base);
        if !self.batch.push(via, to, head, start..start + body.len()) {
            self.metrics.count_dropped(DropReason::SocketFull);
        }
    }
}

impl<'b> Sink<'b> for Outbox<'_> {
    fn to_client(&mut self, to: ClientPath, payload: Payload<'_, 'b>) {
        let Transport::Datagram(ListenerId(listener)) = to.transport else {
            // Connections are another thread's, which gets its packets through its relayed sockets.
            self.metrics.count_dropped(DropReason::SendFailed);
            return;
        };
        let via = Sockets::via_listener(listener);
        if payload.padding == 0 {
            self.push(via, to.address, payload.head, payload.body);
        } else {
            // A Data indication, which a client with a channel doesn't get: a copy does.
            let mut whole = Vec::with_capacity(payload.len());
            payload.append_to(&mut whole);
            self.push_copy(via, to.address, &whole);
        }
    }

    fn to_peer(&mut self, from: RelayedId, to: SocketAddr, data: &'b [u8], dont_fragment: bool) {
        if dont_fragment {
            // Path discovery, seldom: at once, and before what was handed over earlier.
            if let Err(error) = self.sockets.send_whole(from, to, data) {
                self.metrics.count_unsent(&error);
            }
            return;
        }
        match self.sockets.via_relayed(from) {
            Some(via) => self.push(via, to, &[], data),
            None => self.metrics.count_dropped(DropReason::SendFailed),
        }
    }

    fn respond(&mut self, to: ClientPath, message: &[u8]) {
        if let Transport::Datagram(ListenerId(listener)) = to.transport {
            self.push_copy(Sockets::via_listener(listener), to.address, message);
        }
    }

    fn open_relayed(&mut self, id: RelayedId, address: SocketAddr) -> io::Result<()> {
        self.sockets.open_relayed(id, address)
    }

    fn hold_port(&mut self, address: SocketAddr) -> io::Result<HeldPort> {
        udp::hold(address)
    }

    fn open_held(&mut self, id: RelayedId, address: SocketAddr, held: HeldPort) -> io::Result<()> {
        self.sockets.open_held(id, address, held)
    }

    fn close_relayed(&mut self, id: RelayedId) {
        self.sockets.close_relayed(id);
    }

    fn park_relayed(&mut self, id: RelayedId) -> Option<ParkedId> {
        self.sockets.park(id)
    }

    fn unpark_relayed(&mut self, parked: ParkedId, id: RelayedId) -> bool {
        self.sockets.unpark(parked, id)
    }

    fn close_parked(&mut self, parked: ParkedId) {
        self.sockets.close_parked(parked);
    }
}

impl Outbox<'_> {
    fn push_copy(&mut self, via: u32, to: SocketAddr, message: &[u8]) {
        if !self.batch.push(via, to, message, 0..0) {
            self.metrics.count_dropped(DropReason::SocketFull);
        }
    }
}

#[cfg(test)]
mod tests;
