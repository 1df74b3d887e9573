//! Packets of media (RFC 3550 section 5) and the reports on them (section 6): layout, and what is counted.

use std::ops::Range;
use std::time::{Duration, Instant};

/// Longest packet that is taken, in bytes: what an Ethernet carries.
pub const PACKET_BYTES_MAX: usize = 1_500;
/// Bytes of a header without lists and extensions.
pub const HEADER_BYTES: usize = 12;
/// Reports in one packet that are looked at.
const REPORTS_MAX: usize = 32;
/// Seconds from 1900, with which NTP begins, to 1970.
const NTP_OFFSET_SECS: u64 = 2_208_988_800;

/// The header of a packet, and where its payload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub payload_type: u8,
    /// The first of a spurt of speech, or of an event.
    pub marker: bool,
    /// Its number.
    pub sequence: u16,
    /// Its time in ticks of the codec's clock.
    pub timestamp: u32,
    /// Its stream.
    pub ssrc: u32,
    /// Where the payload begins.
    pub payload_at: usize,
    /// The payload ends with padding, whose last byte says how much.
    pub is_padded: bool,
}

impl Header {
    /// Reads a header; `None` if it isn't one of RTP, or longer than the packet.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let fixed = packet.first_chunk::<HEADER_BYTES>()?;
        let (first, second) = (fixed[0], fixed[1]);
        if first >> 6 != 2 || packet.len() > PACKET_BYTES_MAX {
            return None;
        }
        let mut payload_at = HEADER_BYTES + usize::from(first & 0x0F) * 4;
        if first & 0x10 != 0 {
            let extension = packet.get(payload_at..payload_at + 4)?;
            payload_at += 4 + usize::from(u16::from_be_bytes([extension[2], extension[3]])) * 4;
        }
        (payload_at <= packet.len()).then_some(Self {
            payload_type: second & 0x7F,
            marker: second & 0x80 != 0,
            sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
            timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            payload_at,
            is_padded: first & 0x20 != 0,
        })
    }

    /// Where the payload of a packet is that isn't encrypted any more; `None` if its padding is longer than it.
    #[must_use]
    pub fn payload(&self, packet: &[u8]) -> Option<Range<usize>> {
        let padding = if self.is_padded { usize::from(*packet.last().filter(|length| **length > 0)?) } else { 0 };
        let end = packet.len().checked_sub(padding)?;
        (self.payload_at <= end).then_some(self.payload_at..end)
    }

    /// Writes a packet with this header, without lists, extensions and padding, in place of what `packet` holds.
    pub fn write(&self, payload: &[u8], packet: &mut Vec<u8>) {
        packet.clear();
        packet.extend_from_slice(&[0x80, self.payload_type & 0x7F | u8::from(self.marker) << 7]);
        packet.extend_from_slice(&self.sequence.to_be_bytes());
        packet.extend_from_slice(&self.timestamp.to_be_bytes());
        packet.extend_from_slice(&self.ssrc.to_be_bytes());
        packet.extend_from_slice(payload);
    }
}

/// What a datagram on a port of media is, by its first bytes (RFC 7983, RFC 5761 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Media.
    Rtp,
    /// Reports.
    Rtcp,
    /// A connectivity check, which phones with ICE send to whoever has none as well.
    Stun,
    /// Noise.
    Other,
}

/// Tells media, reports and checks apart.
#[must_use]
pub fn kind(datagram: &[u8]) -> Kind {
    match datagram.first_chunk::<2>() {
        Some([0..=3, _]) => Kind::Stun,
        Some([128..=191, second]) if (192..=223).contains(second) => Kind::Rtcp,
        Some([128..=191, _]) => Kind::Rtp,
        _ => Kind::Other,
    }
}

/// What one report says of a stream of ours (RFC 3550 section 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Of which stream it speaks.
    pub ssrc: u32,
    /// Share of the packets that were lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost in all.
    pub lost: i32,
    /// The highest number, extended.
    pub highest: u32,
    /// Variation of the travelling time in ticks.
    pub jitter: u32,
    /// The middle of the time of our last report, 0 if there was none.
    pub last_report: u32,
    /// How long ago that came, in 1/65536 s.
    pub since_last_report: u32,
}

/// What a packet of reports holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// The stream of whoever reports, and the middle of their time, if they send.
    pub sender: Option<(u32, u32)>,
    /// What they say of streams.
    pub blocks: Vec<Block>,
    /// They take leave.
    pub is_bye: bool,
}

impl Reports {
    /// Reads a packet of reports, one or several in a row; `None` if it isn't one.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let mut reports = Self::default();
        let mut rest = packet;
        let mut count = 0;
        while !rest.is_empty() {
            let head = rest.first_chunk::<4>()?;
            let length = 4 + usize::from(u16::from_be_bytes([head[2], head[3]])) * 4;
            if head[0] >> 6 != 2 || count == REPORTS_MAX {
                return None;
            }
            let one = rest.get(..length)?;
            reports.take(one, head[1], usize::from(head[0] & 0x1F))?;
            rest = rest.get(length..)?;
            count += 1;
        }
        (count > 0).then_some(reports)
    }

    fn take(&mut self, packet: &[u8], kind: u8, count: usize) -> Option<()> {
        let blocks_at = match kind {
            200 => {
                let (ssrc, seconds, fraction) = (word(packet, 4)?, word(packet, 8)?, word(packet, 12)?);
                self.sender = Some((ssrc, seconds << 16 | fraction >> 16));
                28
            }
            201 => 8,
            203 => {
                self.is_bye = true;
                return Some(());
            }
            _ => return Some(()),
        };
        for index in 0..count {
            let block = packet.get(blocks_at + index * 24..blocks_at + (index + 1) * 24)?;
            if self.blocks.len() < REPORTS_MAX {
                self.blocks.push(Block::parse(block)?);
            }
        }
        Some(())
    }
}

impl Block {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let lost = word(bytes, 4)?;
        Some(Self {
            ssrc: word(bytes, 0)?,
            fraction_lost: (lost >> 24) as u8,
            // 24 bits with a sign.
            lost: ((lost << 8) as i32) >> 8,
            highest: word(bytes, 8)?,
            jitter: word(bytes, 12)?,
            last_report: word(bytes, 16)?,
            since_last_report: word(bytes, 20)?,
        })
    }

    fn write(&self, packet: &mut Vec<u8>) {
        let lost = u32::from(self.fraction_lost) << 24 | self.lost.clamp(-0x80_0000, 0x7F_FFFF) as u32 & 0xFF_FFFF;
        for word in [self.ssrc, lost, self.highest, self.jitter, self.last_report, self.since_last_report] {
            packet.extend_from_slice(&word.to_be_bytes());
        }
    }

    /// The round trip that it tells, if it came at this time (RFC 3550 section 6.4.1).
    #[must_use]
    pub fn round_trip(&self, now: NtpTime) -> Option<Duration> {
        if self.last_report == 0 {
            return None;
        }
        let units = now.middle().wrapping_sub(self.last_report).wrapping_sub(self.since_last_report);
        // More than half of the range is a clock that went back.
        (units < 1 << 31).then(|| Duration::from_nanos(u64::from(units) * 1_000_000_000 / 65_536))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
}

/// A time of day as NTP has it: seconds since 1900 and their fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NtpTime(pub u64);

impl NtpTime {
    /// From the time since 1970.
    #[must_use]
    pub fn from_unix(since: Duration) -> Self {
        let seconds = since.as_secs().wrapping_add(NTP_OFFSET_SECS) << 32;
        Self(seconds | ((u64::from(since.subsec_nanos()) << 32) / 1_000_000_000))
    }

    const fn middle(self) -> u32 {
        (self.0 >> 16) as u32
    }
}

/// What is told of our own stream.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Packets and bytes of their payloads.
    pub packets: u32,
    /// See [`Sent::packets`].
    pub bytes: u32,
    /// The time in ticks of what is sent now.
    pub timestamp: u32,
}

/// Writes reports: on what was sent, on what came, who says so, and leave if it is taken.
pub fn write_reports(ssrc: u32, now: NtpTime, sent: Option<Sent>, block: Option<Block>, is_bye: bool, packet: &mut Vec<u8>) {
    packet.clear();
    let count = u8::from(block.is_some());
    let kind = if sent.is_some() { 200 } else { 201 };
    let words = if sent.is_some() { 6 } else { 1 } + u16::from(count) * 6;
    packet.extend_from_slice(&[0x80 | count, kind]);
    packet.extend_from_slice(&words.to_be_bytes());
    packet.extend_from_slice(&ssrc.to_be_bytes());
    if let Some(sent) = sent {
        packet.extend_from_slice(&now.0.to_be_bytes());
        for word in [sent.timestamp, sent.packets, sent.bytes] {
            packet.extend_from_slice(&word.to_be_bytes());
        }
    }
    if let Some(block) = block {
        block.write(packet);
    }
    // Who it is, by a name that says nothing (RFC 7022): source description, one item, the end.
    let name = format!("{ssrc:08x}");
    packet.extend_from_slice(&[0x81, 202, 0, 4]);
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend_from_slice(&[1, 8]);
    packet.extend_from_slice(name.as_bytes());
    packet.extend_from_slice(&[0, 0]);
    if is_bye {
        packet.extend_from_slice(&[0x81, 203, 0, 1]);
        packet.extend_from_slice(&ssrc.to_be_bytes());
    }
}

/// Counts what came and what did not (RFC 3550 sections 6.4.1 and A.8), of packets numbered without end.
#[derive(Debug, Default)]
pub struct Reception {
    first: Option<u64>,
    highest: u64,
    received: u64,
    last: Option<(Instant, u64)>,
    jitter_ticks: f64,
    /// Packets expected and received at the last report.
    reported: (u64, u64),
}

impl Reception {
    /// Counts a packet.
    pub fn count(&mut self, sequence: u64, timestamp: u64, clock_hz: u32, arrival: Instant) {
        self.received += 1;
        let first = self.first.get_or_insert(sequence);
        *first = sequence.min(*first);
        self.highest = self.highest.max(sequence);
        if let Some((last, before)) = self.last {
            let elapsed = arrival.saturating_duration_since(last).as_secs_f64() * f64::from(clock_hz);
            let difference = elapsed - (timestamp as f64 - before as f64);
            self.jitter_ticks += (difference.abs() - self.jitter_ticks) / 16.0;
        }
        self.last = Some((arrival, timestamp));
    }

    /// The next packet's time has no relation to the last one's: after a pause, or in another stream.
    pub fn pause(&mut self) {
        self.last = None;
    }

    fn expected(&self) -> u64 {
        self.first.map_or(0, |first| self.highest - first + 1)
    }

    /// Packets that came.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Packets that never came.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.expected().saturating_sub(self.received)
    }

    /// Variation of the travelling time in milliseconds.
    #[must_use]
    pub fn jitter_ms(&self, clock_hz: u32) -> f64 {
        self.jitter_ticks * 1_000.0 / f64::from(clock_hz.max(1))
    }

    /// What is reported of the stream, and begins to be counted for the next report. `last`: when the other end's last report came, and the middle of
    /// its time.
    pub fn report(&mut self, ssrc: u32, highest: u32, last: Option<(Instant, u32)>, now: Instant) -> Block {
        let (expected, received) = (self.expected() - self.reported.0, self.received - self.reported.1);
        self.reported = (self.expected(), self.received);
        let lost = expected.saturating_sub(received);
        let since = last.map(|(at, _)| now.saturating_duration_since(at).as_nanos() * 65_536 / 1_000_000_000);
        Block {
            ssrc,
            fraction_lost: u8::try_from((lost * 256).checked_div(expected).unwrap_or(0)).unwrap_or(u8::MAX),
            lost: i32::try_from(self.lost()).unwrap_or(i32::MAX),
            highest,
            jitter: self.jitter_ticks as u32,
            last_report: last.map_or(0, |(_, middle)| middle),
            since_last_report: since.map_or(0, |since| u32::try_from(since).unwrap_or(u32::MAX)),
        }
    }
}

#[cfg(test)]
#[path = "rtp_tests.rs"]
mod tests;
