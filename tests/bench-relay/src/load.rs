//! The load: sends by a row's pattern, receives, counts, and takes the time each packet needed.
//!
//! One thread that never sleeps, so that no relay pays for waking it. A packet carries its flow and the time it was sent:
//!
//! ```text
//! ChannelData header (clients of a TURN server only)  4 bytes
//! flow                                                 4 bytes
//! nanoseconds since the generator began                8 bytes
//! zeros
//! ```

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use halloo_relay::io::{ReceiveRing, prepare};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::delays::Delays;

/// Packets under way at once when a row saturates, over all flows. What the relay's socket can't hold is lost once and then is
/// no longer under way, so each relay gets the queue it can keep.
const UNDER_WAY_MAX: u64 = 2_000;
/// A flow that has got nothing back for so long has lost what was under way.
const LOST_AFTER: Duration = Duration::from_millis(100);
/// Sends between two looks at what has come.
const SENDS_PER_LOOK: usize = 32;
/// Messages taken from a socket in one call.
const RECEIVE_MAX: usize = 16;
/// Not measured: caches, adaptation.
const WARM_UP: Duration = Duration::from_millis(200);
/// What is still under way at the end has this long to arrive.
const DRAIN: Duration = Duration::from_millis(50);

const FLOW_BYTES: usize = 4;
const TIME_BYTES: usize = 8;

/// How packets are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pattern {
    /// As fast as they come back, so many of a flow at once.
    Saturated(u64),
    /// So many packets a second over all flows, evenly.
    Paced(u32),
    /// So many bursts of ten packets a second over all flows.
    Bursts(u32),
}

/// Packets of a burst.
pub(crate) const BURST_PACKETS: usize = 10;

/// One socket of the generator. It is connected.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) socket: UdpSocket,
    /// The channel to send to, if it talks to a TURN server.
    pub(crate) channel: Option<u16>,
}

/// What was seen in one round.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) seconds: f64,
    /// Packets that arrived in that time.
    pub(crate) packets: u64,
    /// Packets sent in the whole round, and those of them that never arrived.
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) delays: Delays,
}

#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    from: usize,
    under_way: u64,
    received: u64,
    /// `received` at the last look for losses.
    seen: u64,
}

/// A generator over endpoints that are set up.
#[derive(Debug)]
pub(crate) struct Generator {
    endpoints: Vec<Endpoint>,
    flows: Vec<Flow>,
    poll: Poll,
    events: Events,
    ring: ReceiveRing,
    packet: Vec<u8>,
    payload_bytes: usize,
    began: Instant,
    sent: u64,
    received: u64,
    delays: Delays,
    is_measured: bool,
}

impl Generator {
    /// `flows` says which endpoints send.
    pub(crate) fn new(endpoints: Vec<Endpoint>, flows: &[usize], payload_bytes: usize) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        for (index, endpoint) in endpoints.iter().enumerate() {
            prepare(&endpoint.socket).context("prepare")?;
            poll.registry().register(&mut SourceFd(&endpoint.socket.as_raw_fd()), Token(index), Interest::READABLE)?;
        }
        Ok(Self {
            flows: flows.iter().map(|from| Flow { from: *from, ..Flow::default() }).collect(),
            endpoints,
            poll,
            events: Events::with_capacity(1_024),
            ring: ReceiveRing::new(RECEIVE_MAX),
            packet: vec![0; 4 + payload_bytes],
            payload_bytes,
            began: Instant::now(),
            sent: 0,
            received: 0,
            delays: Delays::default(),
            is_measured: false,
        })
    }

    /// One round. `at_mark` is called when the time that counts begins and when it ends, and gives what is to be measured.
    pub(crate) fn run<T>(
        &mut self,
        pattern: Pattern,
        duration: Duration,
        mut at_mark: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<(Seen, T, T)> {
        (self.sent, self.received, self.is_measured) = (0, 0, false);
        self.delays = Delays::default();
        self.flows.iter_mut().for_each(|flow| flow.under_way = 0);
        let mut pace = Pace { pattern, next: 0, due: Instant::now(), looked: Instant::now() };
        self.run_for(&mut pace, WARM_UP)?;
        let (before, at, packets) = (at_mark()?, Instant::now(), self.received);
        self.is_measured = true;
        self.run_for(&mut pace, duration)?;
        let seconds = at.elapsed().as_secs_f64();
        let packets = self.received - packets;
        let after = at_mark()?;
        self.is_measured = false;
        let end = Instant::now() + DRAIN;
        while Instant::now() < end && self.received < self.sent {
            self.look()?;
        }
        let delays = std::mem::take(&mut self.delays);
        let lost = self.sent.saturating_sub(self.received);
        Ok((Seen { seconds, packets, sent: self.sent, lost, delays }, before, after))
    }

    fn run_for(&mut self, pace: &mut Pace, duration: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + duration;
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            match pace.pattern {
                Pattern::Saturated(at_once) => self.send_what_is_allowed(pace, now, at_once)?,
                Pattern::Paced(per_sec) => self.send_due(pace, now, per_sec, 1)?,
                Pattern::Bursts(per_sec) => self.send_due(pace, now, per_sec, BURST_PACKETS)?,
            }
            self.look()?;
        }
    }

    fn send_what_is_allowed(&mut self, pace: &mut Pace, now: Instant, at_once: u64) -> anyhow::Result<()> {
        let window = (UNDER_WAY_MAX / self.flows.len() as u64).max(at_once);
        if now.duration_since(pace.looked) >= LOST_AFTER {
            pace.looked = now;
            for flow in &mut self.flows {
                if flow.received == flow.seen {
                    flow.under_way = 0;
                }
                flow.seen = flow.received;
            }
        }
        let (mut sent, mut full) = (0, 0);
        while sent < SENDS_PER_LOOK && full < self.flows.len() {
            if self.flows[pace.next].under_way + at_once <= window {
                self.send(pace.next, at_once as usize)?;
                (sent, full) = (sent + at_once as usize, 0);
            } else {
                full += 1;
            }
            pace.next = (pace.next + 1) % self.flows.len();
        }
        Ok(())
    }

    fn send_due(&mut self, pace: &mut Pace, now: Instant, per_sec: u32, packets: usize) -> anyhow::Result<()> {
        // Held up for longer than that, by other work of the machine, the generator doesn't catch up.
        pace.due = pace.due.max(now.checked_sub(Duration::from_millis(5)).unwrap_or(now));
        let mut sent = 0;
        while pace.due <= now && sent < SENDS_PER_LOOK {
            self.send(pace.next, packets)?;
            pace.next = (pace.next + 1) % self.flows.len();
            pace.due += Duration::from_secs(1) / per_sec;
            sent += 1;
        }
        Ok(())
    }

    /// Packets of a burst leave one by one, as a camera's do: whether the relay takes them as one is its business.
    fn send(&mut self, flow: usize, packets: usize) -> anyhow::Result<()> {
        let endpoint = &self.endpoints[self.flows[flow].from];
        let start = match endpoint.channel {
            Some(channel) => {
                self.packet[..2].copy_from_slice(&channel.to_be_bytes());
                self.packet[2..4].copy_from_slice(&(self.payload_bytes as u16).to_be_bytes());
                0
            }
            None => 4,
        };
        self.packet[4..4 + FLOW_BYTES].copy_from_slice(&(flow as u32).to_be_bytes());
        let time = self.began.elapsed().as_nanos() as u64;
        self.packet[4 + FLOW_BYTES..][..TIME_BYTES].copy_from_slice(&time.to_be_bytes());
        for _ in 0..packets {
            match endpoint.socket.send(&self.packet[start..]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("the relay has gone"),
            }
        }
        self.sent += packets as u64;
        self.flows[flow].under_way += packets as u64;
        Ok(())
    }

    /// Takes all that has come.
    fn look(&mut self) -> anyhow::Result<()> {
        self.poll.poll(&mut self.events, Some(Duration::ZERO))?;
        for event in &self.events {
            let endpoint = &self.endpoints[event.token().0];
            loop {
                self.ring.clear();
                let received = match self.ring.receive(&endpoint.socket, RECEIVE_MAX) {
                    Ok(received) => received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("the relay has gone"),
                };
                let now = self.began.elapsed().as_nanos() as u64;
                for message in self.ring.messages() {
                    for range in message.datagrams() {
                        let bytes = &self.ring.bytes()[range];
                        let payload = if endpoint.channel.is_some() { bytes.get(4..) } else { Some(bytes) };
                        let Some((flow, time)) = payload.and_then(parse) else { continue };
                        let Some(flow) = self.flows.get_mut(flow as usize) else { continue };
                        flow.under_way = flow.under_way.saturating_sub(1);
                        flow.received += 1;
                        self.received += 1;
                        if self.is_measured {
                            self.delays.add(now.saturating_sub(time));
                        }
                    }
                }
                if received < RECEIVE_MAX {
                    break;
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Pace {
    pattern: Pattern,
    next: usize,
    due: Instant,
    looked: Instant,
}

fn parse(payload: &[u8]) -> Option<(u32, u64)> {
    let (flow, rest) = payload.split_first_chunk::<FLOW_BYTES>()?;
    let time = rest.first_chunk::<TIME_BYTES>()?;
    Some((u32::from_be_bytes(*flow), u64::from_be_bytes(*time)))
}
