//! Audio on its way out, and the count of what comes in. What is heard of it: [`super::playout`].

use std::time::Instant;

use halloo_protocol::phone::AudioCodec;
use ropus::{Application, Bitrate, Channels, DecodeMode, Decoder, Encoder, InbandFec};

use super::{MediaError, g711};

/// Opus's own clock, and RTP's for Opus whatever the audio's rate (RFC 7587 section 4.1).
pub(super) const SAMPLE_RATE: u32 = 48_000;
/// 20 ms: the length every implementation of Opus is tuned for.
pub(super) const FRAME_SAMPLES: usize = 960;
/// Speech at full bandwidth with room for forward error correction.
const BITRATE_BPS: u32 = 32_000;
/// Half of the scale: 0.2 ms of one core per frame where the full scale takes 0.4.
const COMPLEXITY: u8 = 5;
/// What the encoder prepares for with forward error correction.
const EXPECTED_LOSS_PERCENT: u8 = 10;
/// The longest Opus frame (RFC 6716 section 3.2.1) plus its header.
pub(super) const PACKET_BYTES_MAX: usize = 1_276;

/// 20 ms of mono audio at 48 kHz: [`FRAME_SAMPLES`] samples.
pub(super) type Frame = Box<[i16]>;

pub(super) fn silence() -> Frame {
    vec![0; FRAME_SAMPLES].into_boxed_slice()
}

enum CodecEncoder {
    Opus(Box<Encoder>),
    G711(g711::Encoder),
}

/// Encodes frames for sending.
pub(super) struct FrameEncoder {
    encoder: CodecEncoder,
    packet: [u8; PACKET_BYTES_MAX],
}

impl FrameEncoder {
    /// Of Opus.
    pub(super) fn new() -> Result<Self, MediaError> {
        let encoder = Encoder::builder(SAMPLE_RATE, Channels::Mono, Application::Voip)
            .bitrate(Bitrate::Bits(BITRATE_BPS))
            .complexity(COMPLEXITY)
            .inband_fec(InbandFec::Enabled)
            .packet_loss_perc(EXPECTED_LOSS_PERCENT)
            .build()
            .map_err(|error| MediaError::Codec { detail: error.to_string() })?;
        Ok(Self { encoder: CodecEncoder::Opus(Box::new(encoder)), packet: [0; PACKET_BYTES_MAX] })
    }

    /// Of this codec.
    pub(super) fn of(codec: AudioCodec) -> Result<Self, MediaError> {
        let Some(law) = law_of(codec) else { return Self::new() };
        Ok(Self { encoder: CodecEncoder::G711(g711::Encoder::new(law)), packet: [0; PACKET_BYTES_MAX] })
    }

    pub(super) fn encode(&mut self, frame: &[i16]) -> Result<&[u8], MediaError> {
        let length = match &mut self.encoder {
            CodecEncoder::Opus(encoder) => {
                encoder.encode(frame, &mut self.packet).map_err(|error| MediaError::Codec { detail: error.to_string() })?
            }
            CodecEncoder::G711(encoder) => encoder.encode(frame, &mut self.packet),
        };
        Ok(&self.packet[..length])
    }
}

/// The curve of a codec that is G.711.
const fn law_of(codec: AudioCodec) -> Option<g711::Law> {
    match codec {
        AudioCodec::Pcmu => Some(g711::Law::Mu),
        AudioCodec::Pcma => Some(g711::Law::A),
        _ => None,
    }
}

/// Decodes packets to audio of 48 kHz.
pub(super) enum FrameDecoder {
    Opus(Box<Decoder>),
    G711(g711::Decoder),
}

impl FrameDecoder {
    pub(super) fn of(codec: AudioCodec) -> Result<Self, MediaError> {
        if let Some(law) = law_of(codec) {
            return Ok(Self::G711(g711::Decoder::new(law)));
        }
        let decoder = Decoder::new(SAMPLE_RATE, Channels::Mono);
        Ok(Self::Opus(Box::new(decoder.map_err(|error| MediaError::Codec { detail: error.to_string() })?)))
    }

    /// The audio of a packet: how many samples.
    pub(super) fn decode(&mut self, payload: &[u8], output: &mut [i16]) -> Option<usize> {
        match self {
            Self::Opus(decoder) => decoder.decode(payload, output, DecodeMode::Normal).ok(),
            Self::G711(decoder) => decoder.decode(payload, output),
        }
    }

    /// The audio before a packet, of what the packet has of it; whether it has any. Only Opus's may.
    pub(super) fn rebuild(&mut self, next: &[u8], output: &mut [i16]) -> bool {
        match self {
            Self::Opus(decoder) => {
                matches!(decoder.decode(next, output, DecodeMode::Fec), Ok(decoded) if decoded == output.len())
            }
            Self::G711(_) => false,
        }
    }

    /// Audio for a packet that is missing; whether it could be invented.
    pub(super) fn invent(&mut self, output: &mut [i16]) -> bool {
        match self {
            Self::Opus(decoder) => {
                matches!(decoder.decode(&[], output, DecodeMode::Normal), Ok(decoded) if decoded == output.len())
            }
            Self::G711(decoder) => {
                decoder.invent(output);
                true
            }
        }
    }
}

/// Counts what came and what did not (RFC 3550 sections 6.4.1 and A.8).
#[derive(Debug)]
pub(super) struct Reception {
    clock_hz: u32,
    stream: Option<Stream>,
    /// Packets expected of earlier streams, should the other end restart its stream.
    expected_before: u64,
    received: u64,
    jitter_ticks: f64,
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
    /// Of a stream with this clock.
    pub(super) const fn of(clock_hz: u32) -> Self {
        Self { clock_hz, stream: None, expected_before: 0, received: 0, jitter_ticks: 0.0 }
    }

    /// Counts a packet whose time says nothing of how long it took.
    pub(super) fn count_other(&mut self, ssrc: u32, sequence: u64) {
        if let Some(stream) = self.stream.as_mut().filter(|stream| stream.ssrc == ssrc) {
            self.received += 1;
            stream.first = stream.first.min(sequence);
            stream.highest = stream.highest.max(sequence);
        }
    }

    /// Counts one packet; sequence number and timestamp are extended to 64 bits.
    pub(super) fn count(&mut self, ssrc: u32, sequence: u64, timestamp: u64, arrival: Instant) {
        self.received += 1;
        match &mut self.stream {
            Some(stream) if stream.ssrc == ssrc => {
                let elapsed = arrival.saturating_duration_since(stream.arrival).as_secs_f64();
                let difference = elapsed * f64::from(self.clock_hz) - (timestamp as f64 - stream.timestamp as f64);
                self.jitter_ticks += (difference.abs() - self.jitter_ticks) / 16.0;
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
        self.jitter_ticks * 1_000.0 / f64::from(self.clock_hz)
    }
}

#[cfg(test)]
#[path = "audio_tests.rs"]
mod tests;
