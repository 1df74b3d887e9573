//! Encoded audio in a call's session: from the port to the transport and back.

use std::sync::Arc;
use std::time::Instant;

use halloo_protocol::phone::continuity::Continuity;
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
        let marker = packet.marker || place.is_new && packet.format == AudioFormat::Audio;
        // RTP's clock runs over, and is meant to.
        let arrived = packet.arrived;
        transport.pass_audio(AudioPacket { marker, ..packet }, (place.sequence, place.timestamp as u32), now)?;
        self.link.delays().count(arrived.elapsed());
        Ok(())
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
