//! One phone's stream, both ways: whence packets may come and where they go, how they are numbered, what is counted, and the reports on them.
//!
//! **Whence.** Until a packet has come, one may come from the address in the description or from where the phone's signalling comes, from any port:
//! behind an address translator neither is exact. The first that is a packet of the call settles it; from then on nothing counts but what comes from
//! there, and packets to the phone go there, until the phone describes another address. Where media are encrypted it is the key that decides, and a
//! phone may move at any time.
//!
//! **Where to.** A description can name anybody's address. One that isn't where the phone's signalling comes from gets packets for [`UNPROVEN_MAX`], and then
//! none until something of the call has come from it: nobody is sent a stream that they didn't ask for.
//!
//! **Numbers.** The phone sees one stream from the beginning to the end of the call, and so does the other end ([`Continuity`]). A lost packet leaves its gap.
//!
//! Never reads the clock.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::continuity::Continuity;
use super::negotiation::Agreed;
use super::rtp::{self, Header, Kind, NtpTime, Reception, Reports, Sent};
use super::srtp::{OpenError, Opener, Protector};

/// Between two reports (RFC 3550 section 6.2: 5 s at least), and till the first, which is due after half of it.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// How long packets go to an address that the phone has only described: until its own have opened a way, and not as long as would harm somebody else.
pub const UNPROVEN_MAX: Duration = Duration::from_secs(5);
/// How often in a call the phone may describe an address that gets them so.
const UNPROVEN_TIMES_MAX: u8 = 8;
/// The type of comfort noise (RFC 3389), which decoders of the other end make by themselves.
const COMFORT_NOISE: u8 = 13;
/// Numbers and times beyond this are nobody's: eleven years of Opus.
const NUMBER_MAX: u64 = 1 << 44;
/// Bytes of a telephone event (RFC 4733 section 2.3).
const EVENT_BYTES: usize = 4;

/// A packet of the phone's that is to be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// It is a telephone event; [`Passed::event`] has its payload.
    pub is_event: bool,
    /// Its number without end.
    pub sequence: u64,
    /// Its time in ticks of the codec's clock, without end.
    pub timestamp: u64,
    /// The first of a spurt of speech, of an event, or of a stream.
    pub marker: bool,
    /// Where in the datagram the payload is.
    pub payload: Range<usize>,
    /// The event, at the codec's clock.
    pub event: [u8; EVENT_BYTES],
}

/// Why a datagram is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dropped {
    /// It comes from somewhere else.
    Source,
    /// It isn't what the phone sent, or came before.
    NotAuthentic,
    /// Its type of payload isn't agreed on, or it is empty.
    Format,
    /// It is comfort noise.
    ComfortNoise,
    /// It is a connectivity check.
    Check,
    /// It is neither media nor a report.
    Noise,
    /// Nothing is agreed on yet, or the phone said that it sends nothing.
    NotSending,
}

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Media.
    Media(Passed),
    /// Reports, which are dealt with.
    Reports,
    /// Nothing that counts.
    Dropped(Dropped),
}

/// Datagrams that weren't passed on, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCounts {
    /// [`Dropped::Source`].
    pub source: u64,
    /// [`Dropped::NotAuthentic`].
    pub not_authentic: u64,
    /// [`Dropped::Format`].
    pub format: u64,
    /// [`Dropped::NotSending`].
    pub not_sending: u64,
    /// Comfort noise, checks and noise: no loss of anything.
    pub ignored: u64,
}

impl DropCounts {
    fn count(&mut self, dropped: Dropped) {
        *match dropped {
            Dropped::Source => &mut self.source,
            Dropped::NotAuthentic => &mut self.not_authentic,
            Dropped::Format => &mut self.format,
            Dropped::NotSending => &mut self.not_sending,
            Dropped::ComfortNoise | Dropped::Check | Dropped::Noise => &mut self.ignored,
        } += 1;
    }

    /// All that would have been passed on otherwise.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.source + self.not_authentic + self.format + self.not_sending
    }
}

/// A packet for the phone.
#[derive(Clone, Copy, Debug)]
pub struct ToPhone<'a> {
    /// It is a telephone event, at the codec's clock.
    pub is_event: bool,
    /// Its number without end.
    pub sequence: u64,
    /// Its time without end.
    pub timestamp: u64,
    /// The first of a spurt of speech, or of an event.
    pub marker: bool,
    /// The payload.
    pub payload: &'a [u8],
}

/// Why a packet isn't sent to the phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// Nothing is agreed on, or it isn't known where the phone is.
    Nowhere,
    /// The phone holds, or takes no such packets.
    NotWanted,
    /// It comes too late: its number has been used, and a key stream is used once.
    Repeated,
}

/// What is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StreamStats {
    /// Packets of the phone's that were passed on, and their bytes.
    pub received: u64,
    /// See [`StreamStats::received`].
    pub received_bytes: u64,
    /// Packets of the phone's that never came.
    pub lost: u64,
    /// Variation of their travelling time in milliseconds.
    pub jitter_ms: f64,
    /// What came and was not passed on.
    pub dropped: DropCounts,
    /// Packets sent to the phone, and their bytes.
    pub sent: u64,
    /// See [`StreamStats::sent`].
    pub sent_bytes: u64,
    /// Share of them that the phone says it lost, by its last report.
    pub phone_loss: Option<f64>,
    /// Variation of their travelling time in milliseconds, as the phone says.
    pub phone_jitter_ms: Option<f64>,
    /// The round trip to the phone.
    pub round_trip: Option<Duration>,
}

/// The stream.
#[derive(Debug)]
pub struct PhoneStream {
    ssrc: u32,
    /// Where numbers and times to the phone begin.
    sequence_from: u64,
    timestamp_from: u32,
    agreed: Option<Agreed>,
    /// Where the phone's signalling comes from.
    signalling: Option<IpAddr>,
    media_from: Option<SocketAddr>,
    reports_from: Option<SocketAddr>,
    /// Until when packets go where nothing has come from.
    unproven_until: Option<Instant>,
    unproven_times: u8,
    opener: Option<Opener>,
    protector: Option<Protector>,
    inbound: Continuity,
    reception: Reception,
    /// The phone's stream, and its highest number.
    remote: Option<(u32, u64)>,
    /// The newest packet of audio: its time as it came.
    newest_audio: Option<(u32, Instant)>,
    /// The event that goes on: its time as it came, and what became of it.
    event: Option<(u32, u32)>,
    outbound: Continuity,
    sent_timestamp: u32,
    sent_at: Option<Instant>,
    has_sent_since_report: bool,
    /// The phone's last report that says when it was made.
    sender_report: Option<(Instant, u32)>,
    report_at: Option<Instant>,
    stats: StreamStats,
}

impl PhoneStream {
    /// A stream that nothing is agreed on yet.
    #[must_use]
    pub fn new(rng: &mut impl rand::Rng) -> Self {
        Self {
            ssrc: rng.next_u32(),
            // The first round of 65,536 has to be begun by the first packet, and not to end soon after it.
            sequence_from: u64::from(rng.next_u32() & 0x3FFF),
            timestamp_from: rng.next_u32(),
            agreed: None,
            signalling: None,
            media_from: None,
            reports_from: None,
            unproven_until: None,
            unproven_times: 0,
            opener: None,
            protector: None,
            inbound: Continuity::new(8_000),
            reception: Reception::default(),
            remote: None,
            newest_audio: None,
            event: None,
            outbound: Continuity::new(8_000),
            sent_timestamp: 0,
            sent_at: None,
            has_sent_since_report: false,
            sender_report: None,
            report_at: None,
            stats: StreamStats::default(),
        }
    }

    /// The phone's signalling comes from here: its media may as well.
    pub const fn expect_from(&mut self, address: IpAddr) {
        self.signalling = Some(address);
    }

    /// This is agreed on now. False if its keys can't be used.
    pub fn configure(&mut self, agreed: &Agreed, now: Instant) -> bool {
        let before = self.agreed.replace(agreed.clone());
        let codec = agreed.codec;
        if before.as_ref().is_none_or(|before| before.codec != codec) {
            self.inbound = Continuity::new(codec.clock_hz());
            self.outbound = Continuity::new(codec.clock_hz());
        }
        if before.as_ref().is_none_or(|before| before.media_to != agreed.media_to) {
            self.media_from = None;
            self.reports_from = None;
            self.unproven_until = (self.unproven_times < UNPROVEN_TIMES_MAX).then(|| now + UNPROVEN_MAX);
            self.unproven_times = self.unproven_times.saturating_add(1);
        }
        if !agreed.direction.sends() {
            self.reception.pause();
        }
        self.report_at.get_or_insert(now + REPORT_EVERY / 2);
        self.use_keys(before.as_ref())
    }

    /// Keys that are the same go on, with what is known of packets that came.
    fn use_keys(&mut self, before: Option<&Agreed>) -> bool {
        let keys = self.agreed.as_ref().and_then(|agreed| agreed.keys.as_ref());
        let known = before.and_then(|before| before.keys.as_ref());
        let Some(keys) = keys else {
            (self.opener, self.protector) = (None, None);
            return true;
        };
        let is_same_suite = known.is_some_and(|known| known.suite == keys.suite);
        if !is_same_suite || known.is_some_and(|known| known.from_phone != keys.from_phone) {
            self.opener = Opener::new(keys.suite, &keys.from_phone);
        }
        if !is_same_suite || known.is_some_and(|known| known.to_phone != keys.to_phone) {
            self.protector = Protector::new(keys.suite, &keys.to_phone);
            // Another key begins in its first round of numbers, so it gets another stream.
            self.ssrc = self.ssrc.wrapping_add(1);
            self.outbound = Continuity::new(self.clock_hz());
        }
        self.opener.is_some() && self.protector.is_some()
    }

    fn clock_hz(&self) -> u32 {
        self.agreed.as_ref().map_or(8_000, |agreed| agreed.codec.clock_hz())
    }

    /// Takes a datagram from the port of media; it is decrypted in place.
    pub fn handle_media(&mut self, datagram: &mut [u8], source: SocketAddr, now: Instant, clock: NtpTime) -> Incoming {
        let incoming = match rtp::kind(datagram) {
            Kind::Rtp => self.take_media(datagram, source, now).map(Incoming::Media),
            Kind::Rtcp => return self.handle_reports(datagram, source, now, clock),
            Kind::Stun => Err(Dropped::Check),
            Kind::Other => Err(Dropped::Noise),
        };
        incoming.unwrap_or_else(|dropped| self.drop_it(dropped))
    }

    fn drop_it(&mut self, dropped: Dropped) -> Incoming {
        self.stats.dropped.count(dropped);
        Incoming::Dropped(dropped)
    }

    fn take_media(&mut self, datagram: &mut [u8], source: SocketAddr, now: Instant) -> Result<Passed, Dropped> {
        let agreed = self.agreed.as_ref().ok_or(Dropped::NotSending)?;
        let (types, events, codec) = (agreed.types, agreed.events, agreed.codec);
        if !self.may_come_from(source) {
            return Err(Dropped::Source);
        }
        let length = match &mut self.opener {
            Some(opener) => opener.open(datagram).map_err(of_opening)?,
            None => datagram.len(),
        };
        let packet = datagram.get(..length).ok_or(Dropped::Noise)?;
        let header = Header::parse(packet).ok_or(Dropped::Noise)?;
        let payload = header.payload(packet).ok_or(Dropped::Format)?;
        let number = header.payload_type;
        let event = events.filter(|events| events.types.from_phone == number);
        let is_audio = types.from_phone == number;
        if !is_audio && event.is_none() {
            return Err(if number == COMFORT_NOISE { Dropped::ComfortNoise } else { Dropped::Format });
        }
        // What is a packet of the call settles where the phone is.
        self.media_from = Some(source);
        if payload.is_empty() {
            // Phones open the way through an address translator with these.
            return Err(Dropped::Noise);
        }
        if !agreed_sends(self.agreed.as_ref()) {
            return Err(Dropped::NotSending);
        }
        match event.filter(|_| !is_audio) {
            None => Ok(self.audio(&header, payload, now)),
            Some(events) => {
                let bytes =
                    packet.get(payload.clone()).and_then(|bytes| bytes.first_chunk::<EVENT_BYTES>()).ok_or(Dropped::Format)?;
                let event = scale_event(*bytes, events.clock_hz, codec.clock_hz());
                Ok(self.event(&header, payload, event, events.clock_hz, now))
            }
        }
    }

    /// Whether a plain packet may come from there; an encrypted one shows for itself.
    fn may_come_from(&self, source: SocketAddr) -> bool {
        if self.opener.is_some() {
            return true;
        }
        match self.media_from {
            Some(known) => known == source,
            None => self.is_expected(source.ip()),
        }
    }

    fn is_expected(&self, address: IpAddr) -> bool {
        let described = self.agreed.as_ref().and_then(|agreed| agreed.media_to).map(|to| to.ip());
        described == Some(address) || self.signalling == Some(address)
    }

    fn audio(&mut self, header: &Header, payload: Range<usize>, now: Instant) -> Passed {
        let place = self.inbound.place(header.ssrc, header.sequence, header.timestamp, now);
        self.newest_audio = Some((header.timestamp, now));
        if place.is_new {
            self.reception.pause();
        }
        self.reception.count(place.sequence, place.timestamp, self.clock_hz(), now);
        self.note_received(header, place.sequence, payload.len());
        let marker = header.marker || place.is_new;
        Passed { is_event: false, sequence: place.sequence, timestamp: place.timestamp, marker, payload, event: [0; EVENT_BYTES] }
    }

    fn event(&mut self, header: &Header, payload: Range<usize>, event: [u8; EVENT_BYTES], clock_hz: u32, now: Instant) -> Passed {
        let timestamp = self.event_time(header, clock_hz, now);
        let place = self.inbound.place(header.ssrc, header.sequence, timestamp, now);
        self.reception.pause();
        self.reception.count(place.sequence, place.timestamp, self.clock_hz(), now);
        self.reception.pause();
        self.note_received(header, place.sequence, EVENT_BYTES);
        Passed { is_event: true, sequence: place.sequence, timestamp: place.timestamp, marker: header.marker, payload, event }
    }

    /// When an event began, by the audio's clock. All packets of an event have its beginning's time.
    fn event_time(&mut self, header: &Header, clock_hz: u32, now: Instant) -> u32 {
        if clock_hz == self.clock_hz() {
            return header.timestamp;
        }
        if let Some((_, became)) = self.event.filter(|(came, _)| *came == header.timestamp) {
            return became;
        }
        let became = self.newest_audio.map_or(header.timestamp, |(timestamp, at)| {
            let elapsed = now.saturating_duration_since(at).as_millis() as u32;
            timestamp.wrapping_add(elapsed.wrapping_mul(self.clock_hz() / 1_000))
        });
        self.event = Some((header.timestamp, became));
        became
    }

    fn note_received(&mut self, header: &Header, sequence: u64, bytes: usize) {
        let highest = self.remote.filter(|(ssrc, _)| *ssrc == header.ssrc).map_or(sequence, |(_, highest)| highest.max(sequence));
        self.remote = Some((header.ssrc, highest));
        self.stats.received += 1;
        self.stats.received_bytes += bytes as u64;
    }

    /// Takes a datagram from the port of reports, or one of media that is a report; it is decrypted in place.
    pub fn handle_reports(&mut self, datagram: &mut [u8], source: SocketAddr, now: Instant, clock: NtpTime) -> Incoming {
        match self.take_reports(datagram, source, now, clock) {
            Ok(()) => Incoming::Reports,
            Err(dropped) => self.drop_it(dropped),
        }
    }

    fn take_reports(&mut self, datagram: &mut [u8], source: SocketAddr, now: Instant, clock: NtpTime) -> Result<(), Dropped> {
        let is_muxed = self.agreed.as_ref().ok_or(Dropped::NotSending)?.is_rtcp_muxed;
        let is_known = match (self.media_from, self.reports_from) {
            (_, Some(known)) => known == source,
            (Some(media), None) => media.ip() == source.ip(),
            (None, None) => self.is_expected(source.ip()),
        };
        let length = match &mut self.opener {
            Some(opener) => opener.open_reports(datagram).map_err(of_opening)?,
            None if is_known => datagram.len(),
            None => return Err(Dropped::Source),
        };
        let reports = datagram.get(..length).and_then(Reports::parse).ok_or(Dropped::Noise)?;
        if !is_muxed {
            self.reports_from = Some(source);
        }
        if let Some((_, middle)) = reports.sender {
            self.sender_report = Some((now, middle));
        }
        if let Some(block) = reports.blocks.iter().find(|block| block.ssrc == self.ssrc) {
            self.stats.phone_loss = Some(f64::from(block.fraction_lost) / 256.0);
            self.stats.phone_jitter_ms = Some(f64::from(block.jitter) * 1_000.0 / f64::from(self.clock_hz()));
            self.stats.round_trip = block.round_trip(clock).or(self.stats.round_trip);
        }
        Ok(())
    }

    /// Writes a packet for the phone into `packet`: where it goes.
    ///
    /// # Errors
    /// See [`NotSent`].
    pub fn send(&mut self, what: ToPhone<'_>, now: Instant, packet: &mut Vec<u8>) -> Result<SocketAddr, NotSent> {
        let agreed = self.agreed.as_ref().ok_or(NotSent::Nowhere)?;
        if !agreed.direction.receives() {
            // What it misses while it holds is no loss.
            self.outbound.close_gap();
            return Err(NotSent::NotWanted);
        }
        let codec_hz = agreed.codec.clock_hz();
        let events = agreed.events.filter(|_| what.is_event);
        if what.is_event && events.is_none() {
            self.outbound.close_gap();
            return Err(NotSent::NotWanted);
        }
        let payload_type = events.map_or(agreed.types.to_phone, |events| events.types.to_phone);
        let to = self.media_to(now).ok_or(NotSent::Nowhere)?;
        let clamp = |number: u64| number.min(NUMBER_MAX).cast_signed();
        let place = self.outbound.place_extended(0, clamp(what.sequence), clamp(what.timestamp), now);
        let event_hz = events.map_or(codec_hz, |events| events.clock_hz);
        let timestamp = (u128::from(place.timestamp) * u128::from(event_hz) / u128::from(codec_hz)) as u32;
        let index = place.sequence + self.sequence_from;
        let header = Header {
            payload_type,
            marker: what.marker || place.is_new && !what.is_event,
            sequence: index as u16,
            timestamp: timestamp.wrapping_add(self.timestamp_from),
            ssrc: self.ssrc,
            payload_at: rtp::HEADER_BYTES,
            is_padded: false,
        };
        match what.payload.first_chunk::<EVENT_BYTES>().filter(|_| what.is_event) {
            Some(event) => header.write(&scale_event(*event, codec_hz, event_hz), packet),
            None => header.write(what.payload, packet),
        }
        if let Some(protector) = &mut self.protector
            && !protector.protect(index, packet)
        {
            return Err(NotSent::Repeated);
        }
        if !what.is_event {
            (self.sent_timestamp, self.sent_at) = (header.timestamp, Some(now));
        }
        self.has_sent_since_report = true;
        self.stats.sent += 1;
        self.stats.sent_bytes += what.payload.len() as u64;
        Ok(to)
    }

    /// When [`PhoneStream::report`] is due.
    #[must_use]
    pub const fn report_at(&self) -> Option<Instant> {
        self.report_at
    }

    /// Writes the reports that are due into `packet`, or the last ones, with leave: where they go. Over the port of reports, unless they share that of
    /// media.
    pub fn report(&mut self, now: Instant, clock: NtpTime, is_bye: bool, packet: &mut Vec<u8>) -> Option<SocketAddr> {
        if !is_bye && self.report_at.is_none_or(|at| at > now) {
            return None;
        }
        self.report_at = Some(now + REPORT_EVERY);
        let to = self.reports_to(now)?;
        let sent = self.sent_at.filter(|_| std::mem::take(&mut self.has_sent_since_report)).map(|at| {
            let elapsed = now.saturating_duration_since(at).as_millis() as u32;
            Sent {
                packets: self.stats.sent as u32,
                bytes: self.stats.sent_bytes as u32,
                timestamp: self.sent_timestamp.wrapping_add(elapsed.wrapping_mul(self.clock_hz() / 1_000)),
            }
        });
        let remote = self.remote;
        let block = remote.map(|(ssrc, highest)| self.reception.report(ssrc, highest as u32, self.sender_report, now));
        rtp::write_reports(self.ssrc, clock, sent, block, is_bye, packet);
        if let Some(protector) = &mut self.protector
            && !protector.protect_reports(packet)
        {
            return None;
        }
        Some(to)
    }

    /// Where packets go: where the phone's come from, else where it says, as far as that may be.
    fn media_to(&self, now: Instant) -> Option<SocketAddr> {
        self.media_from.or_else(|| self.agreed.as_ref()?.media_to.filter(|to| self.may_be_sent_to(to.ip(), now)))
    }

    /// Whether packets may go to an address from which none has come as yet: the phone's own, or any other for a moment. This machine's own services are no
    /// phone that is elsewhere.
    fn may_be_sent_to(&self, address: IpAddr, now: Instant) -> bool {
        let is_heard = self.reports_from.is_some_and(|from| from.ip() == address);
        if self.signalling == Some(address) || is_heard {
            return true;
        }
        let is_local = address.is_loopback() || address.is_unspecified();
        let is_elsewhere = self.signalling.is_some_and(|from| !from.is_loopback());
        !(is_local && is_elsewhere) && self.unproven_until.is_some_and(|until| now < until)
    }

    fn reports_to(&self, now: Instant) -> Option<SocketAddr> {
        let agreed = self.agreed.as_ref()?;
        if agreed.is_rtcp_muxed {
            return self.media_to(now);
        }
        if self.reports_from.is_some() {
            return self.reports_from;
        }
        // Behind an address translator the described port is nobody's.
        let described = agreed.reports_to?;
        match self.media_from {
            Some(from) => {
                (agreed.media_to.is_some_and(|to| to.ip() == from.ip()) && described.ip() == from.ip()).then_some(described)
            }
            None => self.may_be_sent_to(described.ip(), now).then_some(described),
        }
    }

    /// Whether reports go over the port of media.
    #[must_use]
    pub fn is_rtcp_muxed(&self) -> bool {
        self.agreed.as_ref().is_some_and(|agreed| agreed.is_rtcp_muxed)
    }

    /// Whether the phone said that it sends.
    #[must_use]
    pub fn is_phone_sending(&self) -> bool {
        agreed_sends(self.agreed.as_ref())
    }

    /// What was agreed on.
    #[must_use]
    pub const fn agreed(&self) -> Option<&Agreed> {
        self.agreed.as_ref()
    }

    /// What has been measured.
    #[must_use]
    pub fn stats(&self) -> StreamStats {
        StreamStats { lost: self.reception.lost(), jitter_ms: self.reception.jitter_ms(self.clock_hz()), ..self.stats }
    }
}

fn agreed_sends(agreed: Option<&Agreed>) -> bool {
    agreed.is_some_and(|agreed| agreed.direction.sends())
}

const fn of_opening(error: OpenError) -> Dropped {
    match error {
        OpenError::Form => Dropped::Noise,
        _ => Dropped::NotAuthentic,
    }
}

/// An event whose length is told at another clock. One that is too long for it is told as the longest.
fn scale_event(event: [u8; EVENT_BYTES], from_hz: u32, to_hz: u32) -> [u8; EVENT_BYTES] {
    let duration = u32::from(u16::from_be_bytes([event[2], event[3]]));
    let scaled = u64::from(duration) * u64::from(to_hz) / u64::from(from_hz.max(1));
    let [high, low] = u16::try_from(scaled).unwrap_or(u16::MAX).to_be_bytes();
    [event[0], event[1], high, low]
}

#[cfg(test)]
#[path = "leg_tests.rs"]
mod tests;
