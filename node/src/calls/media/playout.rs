//! From packets that arrive whenever they like to a frame every 20 ms, no later than need be.
//!
//! Each packet is early or late against the fastest of the last seconds. How late all but a few are is how long playing has to wait, and that is measured
//! all the time ([`Lateness`]): on a clean path it is next to nothing, on a bad one 60 ms or more. A missing frame is rebuilt from the next
//! packet's error correction or invented by the decoder. If playing runs ahead of what the path needs, the missing packet is waited for, one
//! invented frame at a time; if it lags behind for a while, two frames are blended into one. So delay follows the path in both directions, and
//! the other end's clock, and grows with neither.
//!
//! Never reads the clock.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use halloo_protocol::phone::AudioCodec;

use super::{
    MediaError,
    audio::{FRAME_SAMPLES, Frame, FrameDecoder, SAMPLE_RATE},
};

/// Packets buffered at most, whatever their timestamps say: 300 ms of the shortest frames (2.5 ms), rounded up.
const PACKETS_MAX: usize = 128;
/// A gap longer than this is another stream, not a loss.
const GAP_MAX_SAMPLES: u64 = 2 * SAMPLE_RATE as u64;
/// Frames the decoder invents in a row. After 100 ms its invention has faded out anyway; what
/// follows is a pause and is not counted as concealed.
const CONCEALED_IN_A_ROW_MAX: u32 = 5;
/// The longest Opus packet: 120 ms.
const PACKET_SAMPLES_MAX: usize = 5_760;

/// The least playing waits: half a frame, so that a packet isn't missed that comes a moment after its turn.
const TARGET_MIN: i64 = SAMPLE_RATE as i64 / 100; // 10 ms
/// The most: a conversation suffers more from delay than from gaps.
const TARGET_MAX: i64 = SAMPLE_RATE as i64 * 300 / 1_000; // 300 ms
/// How far playing may lag behind: a frame, in which it can't be helped, and an eighth of one more, so that it doesn't go to and fro.
const LAG_MAX: i64 = FRAME_SAMPLES as i64 * 9 / 8; // 22.5 ms
/// Frames for which it must have lagged before two are blended: half a second. At more than [`HURRY_LAG`] they are blended at once.
const LAG_FRAMES: u32 = 25;
const HURRY_LAG: i64 = FRAME_SAMPLES as i64 * 5; // 100 ms
/// At more than this they are left out.
const SKIP_LAG: i64 = FRAME_SAMPLES as i64 * 15; // 300 ms

/// Turns received packets into one frame every 20 ms of our own clock.
pub(super) struct Playout {
    decoder: FrameDecoder,
    /// Ticks of Opus's clock for each of the codec's.
    stretch: u64,
    /// By RTP timestamp at Opus's clock, extended to 64 bits.
    packets: BTreeMap<u64, Arc<[u8]>>,
    /// Decoded and not yet played; less than a frame between calls.
    decoded: Vec<i16>,
    /// Timestamp of the next sample to decode; `None` before the first, and after a break.
    cursor: Option<u64>,
    lateness: Lateness,
    lagging_frames: u32,
    concealed_in_a_row: u32,
    concealed_frames: u64,
    late_packets: u64,
    scratch: Box<[i16]>,
}

impl Playout {
    /// Of packets of Opus.
    pub(super) fn new() -> Result<Self, MediaError> {
        Self::of(AudioCodec::Opus)
    }

    pub(super) fn of(codec: AudioCodec) -> Result<Self, MediaError> {
        Ok(Self {
            decoder: FrameDecoder::of(codec)?,
            stretch: u64::from(SAMPLE_RATE / codec.clock_hz()),
            packets: BTreeMap::new(),
            decoded: Vec::with_capacity(PACKET_SAMPLES_MAX + FRAME_SAMPLES),
            cursor: None,
            lateness: Lateness::default(),
            lagging_frames: 0,
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

    /// How long playing waits for packets at present.
    pub(super) fn target(&self) -> Duration {
        Duration::from_micros(self.lateness.target().unsigned_abs() * 1_000_000 / u64::from(SAMPLE_RATE))
    }

    /// Takes in a packet; `timestamp` is RTP's, extended.
    pub(super) fn insert(&mut self, timestamp: u64, payload: Arc<[u8]>, arrival: Instant) {
        let timestamp = timestamp.saturating_mul(self.stretch);
        if self.lateness.note(timestamp, arrival) == Noted::AnotherStream {
            self.packets.clear();
            self.cursor = None;
        }
        if self.cursor.is_some_and(|cursor| timestamp < cursor) {
            self.late_packets += 1;
            return;
        }
        self.packets.insert(timestamp, payload);
        if self.packets.len() > PACKETS_MAX {
            self.packets.pop_first();
        }
    }

    /// Whether received audio is still waiting to be played.
    pub(super) fn has_audio(&self) -> bool {
        !self.packets.is_empty()
    }

    /// The frame to play at this time; silence where nothing came.
    pub(super) fn next_frame(&mut self, at: Instant) -> Frame {
        if self.cursor.is_none() {
            self.begin(at);
        }
        self.skip_stale(at);
        let frame = self.decode_frame(at);
        if !self.is_to_hurry(at) {
            return frame;
        }
        let next = self.decode_frame(at);
        blend(&frame, &next)
    }

    fn decode_frame(&mut self, at: Instant) -> Frame {
        while self.decoded.len() < FRAME_SAMPLES {
            match self.cursor {
                Some(cursor) => self.decode_at(cursor, at),
                None => self.decoded.resize(FRAME_SAMPLES, 0),
            }
        }
        self.decoded.drain(..FRAME_SAMPLES).collect()
    }

    /// Begins to play once the first packet has waited long enough.
    fn begin(&mut self, at: Instant) {
        let Some((&first, _)) = self.packets.first_key_value() else { return };
        if self.lateness.delay_at(first, at) >= self.lateness.target() {
            self.cursor = Some(first);
            self.lagging_frames = 0;
        }
    }

    /// What lags behind so far that blending would take long is left out.
    fn skip_stale(&mut self, at: Instant) {
        let lag = self.delay(at).map_or(0, |delay| delay.saturating_sub(self.lateness.target()));
        let (true, Some(cursor)) = (lag > SKIP_LAG && self.has_audio(), self.cursor) else { return };
        let frames = lag.unsigned_abs() / FRAME_SAMPLES as u64;
        let cursor = cursor.saturating_add(frames * FRAME_SAMPLES as u64);
        self.packets = self.packets.split_off(&cursor);
        self.cursor = Some(cursor);
    }

    /// By how much later than the fastest packet allows the next sample is played; `None` if nothing is.
    pub(super) fn delay(&self, at: Instant) -> Option<i64> {
        // What is decoded already goes first.
        let next = self.cursor?.saturating_sub(self.decoded.len() as u64);
        Some(self.lateness.delay_at(next, at))
    }

    /// Whether playing lags behind what the path needs, and there is enough to do something about it.
    fn is_to_hurry(&mut self, at: Instant) -> bool {
        // Without the frame that was just taken.
        let lag =
            self.delay(at).map_or(0, |delay| delay.saturating_add(FRAME_SAMPLES as i64).saturating_sub(self.lateness.target()));
        let is_lagging = lag > LAG_MAX && !self.packets.is_empty();
        self.lagging_frames = if is_lagging { self.lagging_frames + 1 } else { 0 };
        let is_due = self.lagging_frames > LAG_FRAMES || is_lagging && lag > HURRY_LAG;
        if is_due {
            self.lagging_frames = 0;
        }
        is_due
    }

    /// Decodes, rebuilds or invents what belongs at `cursor`, and moves it on.
    fn decode_at(&mut self, cursor: u64, at: Instant) {
        let Some((&timestamp, payload)) = self.packets.first_key_value() else {
            return self.conceal(cursor, FRAME_SAMPLES, at);
        };
        let gap = timestamp.saturating_sub(cursor);
        if timestamp < cursor {
            self.packets.pop_first();
            self.late_packets += 1;
        } else if gap > GAP_MAX_SAMPLES {
            self.cursor = Some(timestamp);
        } else if gap > FRAME_SAMPLES as u64 {
            self.conceal(cursor, FRAME_SAMPLES, at);
        } else if gap > 0 {
            let payload = Arc::clone(payload);
            self.rebuild(cursor, gap as usize, &payload, at);
        } else {
            let payload = Arc::clone(payload);
            self.packets.pop_first();
            self.decode(cursor, &payload);
        }
    }

    fn decode(&mut self, cursor: u64, payload: &[u8]) {
        match self.decoder.decode(payload, &mut self.scratch) {
            // An empty payload would ask the decoder to invent a whole scratch buffer.
            Some(samples) if samples > 0 && !payload.is_empty() => {
                self.concealed_in_a_row = 0;
                self.advance(cursor, samples);
            }
            _ => self.invent(cursor, FRAME_SAMPLES),
        }
    }

    /// The missing samples just before a packet: they are waited for if there is time, else that packet's error correction may have them.
    fn rebuild(&mut self, cursor: u64, samples: usize, next: &[u8], at: Instant) {
        if self.may_wait(at) {
            return self.conceal(cursor, samples, at);
        }
        if self.decoder.rebuild(next, &mut self.scratch[..samples]) {
            self.concealed_frames += 1;
            self.advance(cursor, samples);
        } else {
            self.invent(cursor, samples);
        }
    }

    /// Whether the next packet, if it is late and not lost, still comes in time when playing waits for it.
    fn may_wait(&self, at: Instant) -> bool {
        self.delay(at).is_some_and(|delay| delay < self.lateness.target())
    }

    fn conceal(&mut self, cursor: u64, samples: usize, at: Instant) {
        let is_waiting = self.may_wait(at);
        self.invent(cursor, samples);
        if is_waiting {
            self.cursor = Some(cursor);
        }
    }

    fn invent(&mut self, cursor: u64, samples: usize) {
        let is_to_invent = self.concealed_in_a_row < CONCEALED_IN_A_ROW_MAX;
        let invented = is_to_invent && self.decoder.invent(&mut self.scratch[..samples]);
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

/// One frame in place of two: the first fades into the second.
fn blend(first: &[i16], second: &[i16]) -> Frame {
    let length = first.len().max(1) as i32;
    let mix = |(place, (one, other)): (usize, (&i16, &i16))| {
        let weight = place as i32;
        ((i32::from(*one) * (length - weight) + i32::from(*other) * weight) / length) as i16
    };
    first.iter().zip(second).enumerate().map(mix).collect()
}

/// Classes of lateness: of 5 ms each, up to [`TARGET_MAX`].
const CLASS_SAMPLES: i64 = SAMPLE_RATE as i64 / 200;
const CLASSES: usize = (TARGET_MAX / CLASS_SAMPLES) as usize;
/// What remains of a packet's weight with each further one: half after 7 s of 20 ms packets.
const KEPT_WEIGHT: f32 = 0.998;
/// Share of the packets that may come too late: half of the one percent beyond the loss that is aimed at, as the path changes while it is measured.
const TOO_LATE_SHARE: f32 = 0.004;
/// How long the fastest packet counts, at least; twice as long at most.
const FASTEST_FOR: Duration = Duration::from_secs(5);

/// How late packets are against the fastest.
struct Lateness {
    /// When a sample with timestamp 0 would have been there, had it been as fast as the fastest, in samples since [`Lateness::origin`]: of this
    /// period and of the one before.
    fastest: Option<[i64; 2]>,
    origin: Option<Instant>,
    period_began: Option<Instant>,
    weights: [f32; CLASSES],
}

impl Default for Lateness {
    fn default() -> Self {
        Self { fastest: None, origin: None, period_began: None, weights: [0.0; CLASSES] }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Noted {
    SameStream,
    AnotherStream,
}

impl Lateness {
    fn note(&mut self, timestamp: u64, arrival: Instant) -> Noted {
        let transit = self.transit(timestamp, arrival);
        let known = self.fastest.map(|fastest| transit.saturating_sub(fastest[0].min(fastest[1])));
        let Some(late) = known.filter(|late| late.unsigned_abs() <= GAP_MAX_SAMPLES) else {
            let is_first = self.fastest.is_none();
            self.fastest = Some([transit, transit]);
            self.period_began = Some(arrival);
            self.weights = [0.0; CLASSES];
            return if is_first { Noted::SameStream } else { Noted::AnotherStream };
        };
        self.weights.iter_mut().for_each(|weight| *weight *= KEPT_WEIGHT);
        // What is later than playing ever waits is as good as lost.
        if let Some(weight) = self.weights.get_mut((late.max(0) / CLASS_SAMPLES) as usize) {
            *weight += 1.0;
        }
        if let Some(fastest) = &mut self.fastest {
            fastest[0] = fastest[0].min(transit);
            if self.period_began.is_some_and(|began| arrival.saturating_duration_since(began) >= FASTEST_FOR) {
                *fastest = [transit, fastest[0]];
                self.period_began = Some(arrival);
            }
        }
        Noted::SameStream
    }

    /// When the packet came, less when it was made, in samples; the zero is any, but always the same.
    fn transit(&mut self, timestamp: u64, arrival: Instant) -> i64 {
        let origin = *self.origin.get_or_insert(arrival);
        samples_between(origin, arrival).saturating_sub(i64::try_from(timestamp).unwrap_or(i64::MAX))
    }

    /// How much later than the fastest packet would allow a sample is played at this time.
    fn delay_at(&self, timestamp: u64, at: Instant) -> i64 {
        let (Some(origin), Some(fastest)) = (self.origin, self.fastest) else { return 0 };
        let transit = samples_between(origin, at).saturating_sub(i64::try_from(timestamp).unwrap_or(i64::MAX));
        transit.saturating_sub(fastest[0].min(fastest[1]))
    }

    /// How long playing waits so that few packets come too late.
    fn target(&self) -> i64 {
        let total: f32 = self.weights.iter().sum();
        let mut beyond = 0.0;
        let above = self.weights.iter().rposition(|weight| {
            beyond += weight;
            beyond > total * TOO_LATE_SHARE
        });
        let upper = above.map_or(0, |class| (class as i64 + 1) * CLASS_SAMPLES);
        upper.clamp(TARGET_MIN, TARGET_MAX)
    }
}

/// From `earlier` to `later` in samples, negative if it is the other way round.
fn samples_between(earlier: Instant, later: Instant) -> i64 {
    let samples =
        |duration: Duration| i64::try_from(duration.as_micros() * u128::from(SAMPLE_RATE) / 1_000_000).unwrap_or(i64::MAX);
    match later.checked_duration_since(earlier) {
        Some(duration) => samples(duration),
        None => -samples(earlier.duration_since(later)),
    }
}

#[cfg(test)]
#[path = "playout_tests.rs"]
mod tests;
