//! Opus in both directions (RFC 6716), and the buffer that turns packets arriving whenever they
//! like into a frame every 20 ms.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use ropus::{Application, Bitrate, Channels, DecodeMode, Decoder, Encoder, InbandFec};

use super::MediaError;

/// Opus's own clock, and RTP's for Opus whatever the audio's rate (RFC 7587 section 4.1).
pub(super) const SAMPLE_RATE: u32 = 48_000;
/// 20 ms: the length every implementation of Opus is tuned for.
pub(super) const FRAME_SAMPLES: usize = 960;
/// Delay the buffer aims for: packets up to this much later than the first one still play.
pub(super) const JITTER_TARGET_FRAMES: u32 = 3; // 60 ms
/// Beyond this much buffered audio the oldest is skipped down to the target: a conversation
/// suffers more from delay than from a skip.
const JITTER_MAX_SAMPLES: u64 = 10 * FRAME_SAMPLES as u64; // 200 ms
/// Packets buffered at most, whatever their timestamps say.
const JITTER_PACKETS_MAX: usize = 128; // 200 ms of the shortest frames (2.5 ms), rounded up
/// A gap longer than this is another stream, not a loss.
const GAP_MAX_SAMPLES: u64 = 2 * SAMPLE_RATE as u64;
/// Frames the decoder invents in a row. After 100 ms its invention has faded out anyway; what
/// follows is a pause and is not counted as concealed.
const CONCEALED_IN_A_ROW_MAX: u32 = 5;
/// Speech at full bandwidth with room for forward error correction.
const BITRATE_BPS: u32 = 32_000;
/// Half of the scale: 0.2 ms of one core per frame where the full scale takes 0.4.
const COMPLEXITY: u8 = 5;
/// What the encoder prepares for with forward error correction.
const EXPECTED_LOSS_PERCENT: u8 = 10;
/// The longest Opus frame (RFC 6716 section 3.2.1) plus its header.
const PACKET_BYTES_MAX: usize = 1_276;
/// The longest Opus packet: 120 ms.
const PACKET_SAMPLES_MAX: usize = 5_760;

/// 20 ms of mono audio at 48 kHz: [`FRAME_SAMPLES`] samples.
pub(super) type Frame = Box<[i16]>;

pub(super) fn silence() -> Frame {
    vec![0; FRAME_SAMPLES].into_boxed_slice()
}

/// Encodes frames for sending.
pub(super) struct FrameEncoder {
    encoder: Encoder,
    packet: [u8; PACKET_BYTES_MAX],
}

impl FrameEncoder {
    pub(super) fn new() -> Result<Self, MediaError> {
        let encoder = Encoder::builder(SAMPLE_RATE, Channels::Mono, Application::Voip)
            .bitrate(Bitrate::Bits(BITRATE_BPS))
            .complexity(COMPLEXITY)
            .inband_fec(InbandFec::Enabled)
            .packet_loss_perc(EXPECTED_LOSS_PERCENT)
            .build()
            .map_err(|error| MediaError::Codec { detail: error.to_string() })?;
        Ok(Self { encoder, packet: [0; PACKET_BYTES_MAX] })
    }

    pub(super) fn encode(&mut self, frame: &[i16]) -> Result<&[u8], MediaError> {
        let length =
            self.encoder.encode(frame, &mut self.packet).map_err(|error| MediaError::Codec { detail: error.to_string() })?;
        Ok(&self.packet[..length])
    }
}

/// Turns received packets into one frame every 20 ms of our own clock.
///
/// Playing starts [`JITTER_TARGET_FRAMES`] after the first packet. A missing packet is rebuilt from
/// the next one's error correction or invented by the decoder; a packet that comes after its
/// turn is dropped, unless nothing else is buffered: then the stream has become later, and
/// waiting for the target starts over.
pub(super) struct Playout {
    decoder: Decoder,
    /// By RTP timestamp, extended to 64 bits.
    packets: BTreeMap<u64, Arc<[u8]>>,
    /// Decoded and not yet played; less than a frame between calls.
    decoded: Vec<i16>,
    /// Timestamp of the next sample to decode; `None` while waiting for the target.
    cursor: Option<u64>,
    waited_frames: u32,
    concealed_in_a_row: u32,
    concealed_frames: u64,
    late_packets: u64,
    scratch: Box<[i16]>,
}

impl Playout {
    pub(super) fn new() -> Result<Self, MediaError> {
        let decoder =
            Decoder::new(SAMPLE_RATE, Channels::Mono).map_err(|error| MediaError::Codec { detail: error.to_string() })?;
        Ok(Self {
            decoder,
            packets: BTreeMap::new(),
            decoded: Vec::with_capacity(PACKET_SAMPLES_MAX + FRAME_SAMPLES),
            cursor: None,
            waited_frames: 0,
            concealed_in_a_row: 0,
            concealed_frames: 0,
            late_packets: 0,
            scratch: vec![0; PACKET_SAMPLES_MAX].into_boxed_slice(),
        })
    }

    pub(super) fn concealed_frames(&self) -> u64 {
        self.concealed_frames
    }

    pub(super) fn late_packets(&self) -> u64 {
        self.late_packets
    }

    /// Takes in a packet; `timestamp` is RTP's, extended.
    pub(super) fn insert(&mut self, timestamp: u64, payload: Arc<[u8]>) {
        if self.cursor.is_some_and(|cursor| timestamp < cursor) {
            if !self.packets.is_empty() {
                self.late_packets += 1;
                return;
            }
            self.cursor = None;
            self.waited_frames = 0;
        }
        self.packets.insert(timestamp, payload);
        if self.buffered_samples() > JITTER_MAX_SAMPLES || self.packets.len() > JITTER_PACKETS_MAX {
            self.skip_to_target();
        }
    }

    /// Whether received audio is still waiting to be played.
    pub(super) fn has_audio(&self) -> bool {
        !self.packets.is_empty()
    }

    /// The next frame to play; silence where nothing came.
    pub(super) fn next_frame(&mut self) -> Frame {
        if self.cursor.is_none() {
            self.wait_for_target();
        }
        while self.decoded.len() < FRAME_SAMPLES {
            match self.cursor {
                Some(cursor) => self.decode_at(cursor),
                None => self.decoded.resize(FRAME_SAMPLES, 0),
            }
        }
        self.decoded.drain(..FRAME_SAMPLES).collect()
    }

    fn buffered_samples(&self) -> u64 {
        match (self.packets.first_key_value(), self.packets.last_key_value()) {
            (Some((first, _)), Some((last, _))) => last - first,
            _ => 0,
        }
    }

    fn skip_to_target(&mut self) {
        let target = u64::from(JITTER_TARGET_FRAMES) * FRAME_SAMPLES as u64;
        while self.buffered_samples() > target || self.packets.len() > JITTER_PACKETS_MAX {
            self.packets.pop_first();
        }
        if self.cursor.is_some() {
            self.cursor = self.packets.first_key_value().map(|(timestamp, _)| *timestamp);
        }
    }

    fn wait_for_target(&mut self) {
        if self.packets.is_empty() {
            return;
        }
        self.waited_frames += 1;
        if self.waited_frames > JITTER_TARGET_FRAMES {
            self.waited_frames = 0;
            self.skip_to_target();
            self.cursor = self.packets.first_key_value().map(|(timestamp, _)| *timestamp);
        }
    }

    /// Decodes, rebuilds or invents what belongs at `cursor`, and moves it on.
    fn decode_at(&mut self, cursor: u64) {
        let Some((&timestamp, payload)) = self.packets.first_key_value() else {
            return self.conceal(cursor, FRAME_SAMPLES);
        };
        if timestamp < cursor {
            self.packets.pop_first();
            self.late_packets += 1;
            return;
        }
        let gap = timestamp - cursor;
        if gap > GAP_MAX_SAMPLES {
            self.cursor = Some(timestamp);
        } else if gap > FRAME_SAMPLES as u64 {
            self.conceal(cursor, FRAME_SAMPLES);
        } else if gap > 0 {
            let payload = Arc::clone(payload);
            self.rebuild(cursor, gap as usize, &payload);
        } else {
            let payload = Arc::clone(payload);
            self.packets.pop_first();
            self.decode(cursor, &payload);
        }
    }

    fn decode(&mut self, cursor: u64, payload: &[u8]) {
        match self.decoder.decode(payload, &mut self.scratch, DecodeMode::Normal) {
            // An empty payload would ask the decoder to invent a whole scratch buffer.
            Ok(samples) if samples > 0 && !payload.is_empty() => {
                self.concealed_in_a_row = 0;
                self.advance(cursor, samples);
            }
            _ => self.conceal(cursor, FRAME_SAMPLES),
        }
    }

    /// The lost samples just before a packet, from that packet's error correction if it has any.
    fn rebuild(&mut self, cursor: u64, samples: usize, next: &[u8]) {
        let output = &mut self.scratch[..samples];
        match self.decoder.decode(next, output, DecodeMode::Fec) {
            Ok(decoded) if decoded == samples => {
                self.concealed_frames += 1;
                self.advance(cursor, samples);
            }
            _ => self.conceal(cursor, samples),
        }
    }

    fn conceal(&mut self, cursor: u64, samples: usize) {
        let output = &mut self.scratch[..samples];
        let invented = self.concealed_in_a_row < CONCEALED_IN_A_ROW_MAX
            && matches!(self.decoder.decode(&[], output, DecodeMode::Normal), Ok(decoded) if decoded == samples);
        if !invented {
            self.scratch[..samples].fill(0);
        }
        if self.concealed_in_a_row < CONCEALED_IN_A_ROW_MAX {
            self.concealed_frames += 1;
        }
        self.concealed_in_a_row = self.concealed_in_a_row.saturating_add(1);
        self.advance(cursor, samples);
    }

    fn advance(&mut self, cursor: u64, samples: usize) {
        self.decoded.extend_from_slice(&self.scratch[..samples]);
        self.cursor = Some(cursor.saturating_add(samples as u64));
    }
}

/// Counts what came and what did not (RFC 3550 sections 6.4.1 and A.8).
#[derive(Debug, Default)]
pub(super) struct Reception {
    stream: Option<Stream>,
    /// Packets expected of earlier streams, should the other end restart its stream.
    expected_before: u64,
    received: u64,
    jitter_samples: f64,
}

#[derive(Debug)]
struct Stream {
    ssrc: u32,
    first: u64,
    highest: u64,
    arrival: Instant,
    timestamp: u64,
}

impl Reception {
    /// Counts one packet; sequence number and timestamp are extended to 64 bits.
    pub(super) fn count(&mut self, ssrc: u32, sequence: u64, timestamp: u64, arrival: Instant) {
        self.received += 1;
        match &mut self.stream {
            Some(stream) if stream.ssrc == ssrc => {
                let elapsed = arrival.saturating_duration_since(stream.arrival).as_secs_f64();
                let difference = elapsed * f64::from(SAMPLE_RATE) - (timestamp as f64 - stream.timestamp as f64);
                self.jitter_samples += (difference.abs() - self.jitter_samples) / 16.0;
                stream.first = stream.first.min(sequence);
                stream.highest = stream.highest.max(sequence);
                (stream.arrival, stream.timestamp) = (arrival, timestamp);
            }
            _ => {
                self.expected_before = self.expected();
                self.stream = Some(Stream { ssrc, first: sequence, highest: sequence, arrival, timestamp });
            }
        }
    }

    fn expected(&self) -> u64 {
        let current = self.stream.as_ref().map_or(0, |stream| stream.highest - stream.first + 1);
        self.expected_before + current
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn lost(&self) -> u64 {
        self.expected().saturating_sub(self.received)
    }

    /// Share of the expected packets that never came, 0 to 1.
    pub(super) fn loss(&self) -> f64 {
        if self.expected() == 0 { 0.0 } else { self.lost() as f64 / self.expected() as f64 }
    }

    pub(super) fn jitter_ms(&self) -> f64 {
        self.jitter_samples * 1_000.0 / f64::from(SAMPLE_RATE)
    }
}

#[cfg(test)]
#[path = "audio_tests.rs"]
mod tests;
