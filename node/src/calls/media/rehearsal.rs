//! The jitter buffer over a path that is made up, in virtual time: for tests and measurements. Ten minutes of a call take a moment.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    MediaError,
    audio::{FRAME_SAMPLES, FrameEncoder, SAMPLE_RATE},
    playout::Playout,
    tone,
};

const FRAME: u64 = FRAME_SAMPLES as u64;
const FRAME_US: u64 = 20_000;
const FRAMES_PER_MINUTE: u64 = 60 * 50;
/// A stream's first timestamp is random.
const BASE: u64 = 123_456;
/// When within a frame's time a frame is played.
const PLAYED_AFTER_US: u64 = 7_000;
const TONE_HZ: f64 = 440.0;

/// A path, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Rehearsal {
    /// Minutes of media.
    pub minutes: u64,
    /// Packets take up to so many milliseconds longer than the fastest, each as likely.
    pub spread_ms: u64,
    /// Packets lost, of a hundred.
    pub loss_percent: u64,
    /// By how many millionths the other end's clock is faster.
    pub drift_ppm: i64,
}

/// What it came to.
#[derive(Clone, Debug)]
pub struct Rehearsed {
    /// Frames of 20 ms that were played.
    pub frames: u64,
    /// Of these, rebuilt or invented.
    pub concealed: u64,
    /// Packets that were lost on the way.
    pub lost: u64,
    /// By how much later than the fastest packet allows frames were played, in milliseconds: the mean of each minute.
    pub delays_ms: Vec<f64>,
}

/// Pseudo-random numbers, the same each time.
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A second of a tone, encoded.
fn packets() -> Result<Vec<Arc<[u8]>>, MediaError> {
    let samples: Vec<i16> = tone::tone(TONE_HZ, Duration::from_secs(1), SAMPLE_RATE).collect();
    let mut encoder = FrameEncoder::new()?;
    samples.chunks_exact(FRAME_SAMPLES).map(|frame| Ok(encoder.encode(frame)?.into())).collect()
}

impl Rehearsal {
    /// Plays it.
    ///
    /// # Errors
    /// [`MediaError::Codec`].
    pub fn run(self) -> Result<Rehearsed, MediaError> {
        let packets = packets()?;
        let mut playout = Playout::new()?;
        let mut dice = Dice(1);
        let start = Instant::now();
        let mut on_the_way: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        let mut run = Rehearsed { frames: self.minutes * FRAMES_PER_MINUTE, concealed: 0, lost: 0, delays_ms: Vec::new() };
        let mut sum = 0;
        let mut sent = 0_u64;
        for tick in 0..run.frames {
            let tick_us = tick * FRAME_US + PLAYED_AFTER_US;
            while self.sent_us(sent) <= tick_us {
                if dice.up_to(100) >= self.loss_percent {
                    on_the_way.insert((self.sent_us(sent) + dice.up_to(self.spread_ms * 1_000 + 1), sent), sent);
                } else {
                    run.lost += 1;
                }
                sent += 1;
            }
            while let Some(((arrives_us, n), _)) =
                on_the_way.first_key_value().map(|(key, n)| (*key, *n)).filter(|((at, _), _)| *at <= tick_us)
            {
                on_the_way.pop_first();
                let packet = Arc::clone(&packets[n as usize % packets.len()]);
                playout.insert(BASE + n * FRAME, packet, start + Duration::from_micros(arrives_us));
            }
            let at = start + Duration::from_micros(tick_us);
            playout.next_frame(at);
            // After the frame was taken: what waits is a frame less.
            sum += playout.delay(at).unwrap_or_default() + FRAME as i64;
            if (tick + 1).is_multiple_of(FRAMES_PER_MINUTE) {
                run.delays_ms.push(sum as f64 / FRAMES_PER_MINUTE as f64 / 48.0);
                sum = 0;
            }
        }
        run.concealed = playout.concealed_frames();
        Ok(run)
    }

    fn sent_us(&self, n: u64) -> u64 {
        (n * FRAME_US).saturating_add_signed(-(n as i64 * FRAME_US as i64 * self.drift_ppm / 1_000_000))
    }
}

/// Encodes and decodes so many frames of a tone; how long each took altogether.
///
/// # Errors
/// [`MediaError::Codec`].
pub fn codec_time(frames: u32) -> Result<(Duration, Duration), MediaError> {
    let samples: Vec<i16> = tone::tone(TONE_HZ, Duration::from_millis(20) * frames, SAMPLE_RATE).collect();
    let mut encoder = FrameEncoder::new()?;
    let began = Instant::now();
    let encoded: Result<Vec<Arc<[u8]>>, MediaError> =
        samples.chunks_exact(FRAME_SAMPLES).map(|frame| Ok(encoder.encode(frame)?.into())).collect();
    let encoding = began.elapsed();
    let mut playout = Playout::new()?;
    let start = Instant::now();
    for (n, packet) in (0_u32..).zip(encoded?) {
        let at = start + Duration::from_millis(20) * n;
        playout.insert(BASE + u64::from(n) * FRAME, packet, at);
        playout.next_frame(at + Duration::from_millis(15));
    }
    Ok((encoding, start.elapsed()))
}
