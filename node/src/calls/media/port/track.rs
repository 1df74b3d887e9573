//! Encoded audio in a call's session: from the port to the transport and back.

use std::sync::Arc;
use std::time::Instant;

use halloo_protocol::phone::continuity::Continuity;
use halloo_protocol::phone::keys::KeyPacket;
use str0m::rtp::RtpPacket;
use tokio::sync::mpsc;

use super::super::{MediaError, codecs::AudioLine, transport::Transport};
use super::{AudioAgreed, AudioEvent, AudioFormat, AudioLink, AudioPacket, PAYLOAD_BYTES_MAX};

/// The audio of one session.
pub(in super::super) struct AudioTrack {
    link: AudioLink,
    line: AudioLine,
    /// Once started, or heard early.
    to_send: Option<mpsc::Receiver<AudioPacket>>,
    has_agreed: bool,
    has_started: bool,
    is_heard_early: bool,
    outbound: Continuity,
    inbound: Continuity,
    /// Packets of the other end's that the port didn't take.
    dropped: u64,
    /// The newest packet that was sent: its number among the port's own, its number and time as sent, and when.
    sent: Sent,
    /// Packets that were put in between, of keys pressed here.
    put_in: u64,
    /// The port's packets up to this number are too late: another was put in after them.
    late_until: Option<u64>,
    /// The time of the key that is down.
    key_at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    own: u64,
    sequence: u64,
    timestamp: u64,
    at: Option<Instant>,
}

impl AudioTrack {
    pub(in super::super) fn new(link: AudioLink, line: AudioLine) -> Self {
        let clock = line.codec.clock_hz();
        Self {
            link,
            line,
            to_send: None,
            has_agreed: false,
            has_started: false,
            is_heard_early: false,
            outbound: Continuity::new(clock),
            inbound: Continuity::new(clock),
            dropped: 0,
            sent: Sent { own: 0, sequence: 0, timestamp: 0, at: None },
            put_in: 0,
            late_until: None,
            key_at: 0,
        }
    }

    /// The call is answered, with this session.
    pub(in super::super) fn agree(&mut self) {
        if !self.has_agreed {
            self.has_agreed = true;
            self.link.tell(AudioEvent::Agreed(self.agreed()));
        }
    }

    /// The other end is heard while it rings.
    pub(in super::super) fn agree_early(&mut self) {
        if !self.has_agreed && !std::mem::replace(&mut self.is_heard_early, true) {
            self.link.tell(AudioEvent::Early(self.agreed()));
        }
    }

    const fn agreed(&self) -> AudioAgreed {
        AudioAgreed { codec: self.line.codec, has_events: self.line.has_events() }
    }

    /// What the port sends goes out, though nobody has answered. What was to be sent before then is of the past.
    pub(in super::super) fn speak(&mut self) {
        if self.to_send.is_none() {
            self.to_send = self.link.take();
            if let Some(receiver) = &mut self.to_send {
                while receiver.try_recv().is_ok() {}
            }
        }
    }

    /// It is connected too.
    pub(in super::super) fn start(&mut self) {
        if self.has_started {
            return;
        }
        self.agree();
        self.has_started = true;
        self.speak();
        self.link.tell(AudioEvent::Connected);
    }

    /// The next packet to send; never, before the start. Safe to drop.
    pub(in super::super) async fn next(track: &mut Option<Self>) -> AudioPacket {
        let Some(receiver) = track.as_mut().and_then(|track| track.to_send.as_mut()) else { return std::future::pending().await };
        match receiver.recv().await {
            Some(packet) => packet,
            None => {
                // Nobody sends any more.
                if let Some(track) = track {
                    track.to_send = None;
                }
                std::future::pending().await
            }
        }
    }

    pub(in super::super) fn send(
        &mut self,
        packet: AudioPacket,
        transport: &mut Transport,
        now: Instant,
    ) -> Result<(), MediaError> {
        if self.line.type_of(packet.format).is_none() {
            // The other end takes no keys; their numbers aren't missed there.
            self.outbound.close_gap();
            return Ok(());
        }
        // Numbers that large are nobody's; what is made of them is another stream.
        let (sequence, timestamp) = (packet.sequence.min(1 << 44).cast_signed(), packet.timestamp.min(1 << 44).cast_signed());
        let place = self.outbound.place_extended(0, sequence, timestamp, now);
        if self.late_until.is_some_and(|until| place.sequence <= until) {
            return Ok(());
        }
        let marker = packet.marker || place.is_new && packet.format == AudioFormat::Audio;
        let arrived = packet.arrived;
        let number = place.sequence + self.put_in;
        if self.sent.at.is_none() || number > self.sent.sequence {
            self.sent = Sent { own: place.sequence, sequence: number, timestamp: place.timestamp, at: Some(now) };
        }
        // RTP's clock runs over, and is meant to.
        transport.pass_audio(AudioPacket { marker, ..packet }, (number, place.timestamp as u32), now)?;
        self.link.delays().count(arrived.elapsed());
        Ok(())
    }

    /// Puts a packet of a key that is pressed here between those of the port. Before the port has sent any there is no stream to put it in.
    pub(in super::super) fn press(
        &mut self,
        packet: KeyPacket,
        transport: &mut Transport,
        now: Instant,
    ) -> Result<(), MediaError> {
        let Sent { own, sequence, timestamp, at: Some(at) } = self.sent else { return Ok(()) };
        let clock_hz = u64::from(self.line.codec.clock_hz());
        if packet.is_first {
            let elapsed = u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or_default();
            self.key_at = timestamp + elapsed * clock_hz / 1_000;
        }
        self.put_in += 1;
        self.late_until = Some(own);
        self.sent.sequence = sequence + 1;
        let passed = AudioPacket {
            format: AudioFormat::TelephoneEvent,
            sequence: sequence + 1,
            timestamp: self.key_at,
            marker: packet.is_first,
            payload: Arc::from(packet.payload),
            arrived: now,
        };
        transport.pass_audio(passed, (sequence + 1, self.key_at as u32), now)
    }

    /// A packet of the other end's, once the call is answered.
    pub(in super::super) fn take(&mut self, format: AudioFormat, packet: &RtpPacket) {
        if packet.payload.is_empty() || packet.payload.len() > PAYLOAD_BYTES_MAX {
            return;
        }
        let header = &packet.header;
        let place = self.inbound.place(*header.ssrc, header.sequence_number, header.timestamp, packet.timestamp);
        let passed = AudioPacket {
            format,
            sequence: place.sequence,
            timestamp: place.timestamp,
            marker: header.marker || place.is_new && format == AudioFormat::Audio,
            payload: Arc::clone(&packet.payload),
            arrived: packet.timestamp,
        };
        if !self.link.tell(AudioEvent::Packet(passed)) {
            self.dropped += 1;
            tracing::trace!(dropped = self.dropped, "nobody takes audio");
        }
    }

    pub(in super::super) async fn finish(&self) {
        // One that was never answered is perhaps not the call's.
        if self.has_agreed {
            self.link.finish().await;
        }
    }
}

impl Drop for AudioTrack {
    fn drop(&mut self) {
        // It was heard while it rang, and another session becomes the call's.
        if let Some(receiver) = self.to_send.take().filter(|_| !self.has_agreed) {
            self.link.put_back(receiver);
        }
    }
}
