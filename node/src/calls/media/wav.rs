//! WAV files: what a call plays and what it records.
//!
//! Both run on a blocking thread of their own, joined to the session by a short bounded channel, so
//! that a slow disk never holds up connectivity checks. Nothing is held in memory but the channel.

use std::{
    fs::File,
    io::{self, BufReader, Seek},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use hound::{SampleFormat, WavReader, WavSpec, WavWriter};
use tokio::{sync::mpsc, task::JoinHandle};

use super::audio::{FRAME_SAMPLES, Frame, SAMPLE_RATE, silence};

/// Frames read ahead of playing: half a second. Full: the reader waits.
const PLAY_AHEAD_FRAMES: usize = 25;
/// Frames waiting to be written: one second. Full: the frame is dropped and its place filled with
/// silence later, so the recording keeps its timeline.
const RECORD_BACKLOG_FRAMES: usize = 50;
/// How often the header is brought up to date: a killed process leaves a file that lacks at most
/// this much of its end.
const HEADER_INTERVAL_FRAMES: u64 = 50; // 1 s
/// A WAV file's sizes are 32 bits: recording stops short of them, after about 12 hours.
const RECORDING_FRAMES_MAX: u64 = (u32::MAX as u64 - 4_096) / (FRAME_SAMPLES as u64 * 2);
/// Sample rates played.
const PLAY_RATES: std::ops::RangeInclusive<u32> = 8_000..=48_000;

/// What is wrong with a WAV file.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WavError {
    /// Reading or writing failed.
    #[error("input or output failed")]
    Io(#[source] Arc<io::Error>),
    /// Not a WAV file, or a damaged one.
    #[error("not a readable WAV file: {detail}")]
    Malformed {
        /// What the parser said.
        detail: String,
    },
    /// The header promises more than the file holds.
    #[error("file ends early: {expected_bytes} bytes promised, {actual_bytes} present")]
    Truncated {
        /// Length of a complete file.
        expected_bytes: u64,
        /// Length found.
        actual_bytes: u64,
    },
    /// A WAV file of a kind that is not played.
    #[error("{channels} channels, {sample_rate} Hz, {bits_per_sample} bits are not supported")]
    Unsupported {
        /// Channels found; 1 and 2 are played.
        channels: u16,
        /// Rate found in hertz; 8,000 to 48,000 are played.
        sample_rate: u32,
        /// Sample size found; integers of 8 to 32 bits and 32-bit floats are played.
        bits_per_sample: u16,
    },
}

impl From<io::Error> for WavError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<hound::Error> for WavError {
    fn from(error: hound::Error) -> Self {
        match error {
            hound::Error::IoError(error) => error.into(),
            other => Self::Malformed { detail: other.to_string() },
        }
    }
}

/// A WAV file as frames of 20 ms at 48 kHz mono, whatever it is made of.
///
/// Stereo is averaged. Other rates are brought to 48 kHz by drawing straight lines between
/// samples: good enough for speech and tones, audible as slight dullness and hiss in music.
pub(super) struct WavSource {
    reader: WavReader<BufReader<File>>,
    spec: WavSpec,
    /// Neighbouring input samples, and how far between them the next output sample lies,
    /// in units of 1/48,000 of an input sample.
    earlier: Option<f32>,
    later: Option<f32>,
    position: u32,
}

impl WavSource {
    /// Opens the file and checks that it can be played to its end.
    pub(super) fn open(path: &Path) -> Result<Self, WavError> {
        check_complete(path)?;
        let mut reader = WavReader::open(path)?;
        let spec = reader.spec();
        if !is_supported(&spec) {
            return Err(WavError::Unsupported {
                channels: spec.channels,
                sample_rate: spec.sample_rate,
                bits_per_sample: spec.bits_per_sample,
            });
        }
        let earlier = read_mono(&mut reader, &spec)?;
        let later = read_mono(&mut reader, &spec)?;
        Ok(Self { reader, spec, earlier, later, position: 0 })
    }

    /// The next frame, the last one padded with silence; `None` at the end.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, WavError> {
        let mut frame = silence();
        let mut filled = 0;
        while filled < FRAME_SAMPLES {
            let Some(sample) = self.next_sample()? else {
                break;
            };
            frame[filled] = (sample * 32_767.0).clamp(-32_768.0, 32_767.0) as i16;
            filled += 1;
        }
        Ok((filled > 0).then_some(frame))
    }

    fn next_sample(&mut self) -> Result<Option<f32>, WavError> {
        let Some(earlier) = self.earlier else {
            return Ok(None);
        };
        let later = self.later.unwrap_or(earlier);
        let sample = earlier + (later - earlier) * (self.position as f32 / SAMPLE_RATE as f32);
        self.position += self.spec.sample_rate;
        while self.position >= SAMPLE_RATE {
            self.position -= SAMPLE_RATE;
            self.earlier = self.later;
            self.later = if self.later.is_some() { read_mono(&mut self.reader, &self.spec)? } else { None };
        }
        Ok(Some(sample))
    }
}

fn is_supported(spec: &WavSpec) -> bool {
    let samples = match spec.sample_format {
        SampleFormat::Int => matches!(spec.bits_per_sample, 8 | 16 | 24 | 32),
        SampleFormat::Float => spec.bits_per_sample == 32,
    };
    samples && matches!(spec.channels, 1 | 2) && PLAY_RATES.contains(&spec.sample_rate)
}

/// Compares the length the header promises with the file's: found before the call, not in it.
fn check_complete(path: &Path) -> Result<(), WavError> {
    let file = File::open(path)?;
    let actual_bytes = file.metadata()?.len();
    let reader = WavReader::new(BufReader::new(file))?;
    let sample_bytes = u64::from(reader.spec().bits_per_sample.div_ceil(8));
    let data_bytes = u64::from(reader.len()) * sample_bytes;
    let expected_bytes = reader.into_inner().stream_position()? + data_bytes;
    if expected_bytes > actual_bytes {
        return Err(WavError::Truncated { expected_bytes, actual_bytes });
    }
    Ok(())
}

/// One sample averaged over the channels, full scale at one; `None` at the end.
fn read_mono(reader: &mut WavReader<BufReader<File>>, spec: &WavSpec) -> Result<Option<f32>, WavError> {
    let mut sum = 0.0;
    for _ in 0..spec.channels {
        let Some(sample) = read_sample(reader, spec)? else {
            return Ok(None);
        };
        sum += sample;
    }
    Ok(Some(sum / f32::from(spec.channels)))
}

fn read_sample(reader: &mut WavReader<BufReader<File>>, spec: &WavSpec) -> Result<Option<f32>, WavError> {
    let sample = match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().next().transpose()?,
        SampleFormat::Int => {
            let full_scale = 2f32.powi(i32::from(spec.bits_per_sample) - 1);
            reader.samples::<i32>().next().transpose()?.map(|sample| sample as f32 / full_scale)
        }
    };
    // Floats may hold anything; not-a-number must not reach the encoder.
    Ok(sample.map(|sample| if sample.is_finite() { sample } else { 0.0 }))
}

/// What the player thread says.
pub(super) enum Played {
    Frame(Frame),
    End,
    Failed(WavError),
}

/// Reads a file on its own thread. Dropping it ends the thread.
pub(super) struct Player {
    frames: mpsc::Receiver<Played>,
}

impl Player {
    /// Must run within a tokio runtime.
    pub(super) fn spawn(path: PathBuf) -> Self {
        let (sender, frames) = mpsc::channel(PLAY_AHEAD_FRAMES);
        tokio::task::spawn_blocking(move || play(&path, &sender));
        Self { frames }
    }

    /// The next frame if the thread has read it; `None` if the disk is slower than the voice.
    pub(super) fn next(&mut self) -> Option<Played> {
        match self.frames.try_recv() {
            Ok(played) => Some(played),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => Some(Played::End),
        }
    }
}

fn play(path: &Path, sender: &mpsc::Sender<Played>) {
    let last = match play_frames(path, sender) {
        Ok(()) => Played::End,
        Err(error) => Played::Failed(error),
    };
    // A session that is gone needs no last word.
    let _ = sender.blocking_send(last);
}

fn play_frames(path: &Path, sender: &mpsc::Sender<Played>) -> Result<(), WavError> {
    let mut source = WavSource::open(path)?;
    while let Some(frame) = source.next_frame()? {
        if sender.blocking_send(Played::Frame(frame)).is_err() {
            break;
        }
    }
    Ok(())
}

struct Recorded {
    /// Frames lost to a full channel before this one.
    missing: u64,
    frame: Frame,
}

/// Writes 48 kHz mono 16-bit frames to a file on its own thread. Dropping it finalises the file.
pub(super) struct Recorder {
    frames: mpsc::Sender<Recorded>,
    thread: JoinHandle<Result<u64, WavError>>,
    missing: u64,
}

impl Recorder {
    /// Must run within a tokio runtime. Replaces a file that is there, or goes on with it if it `resumes`; not before `file` is free, which it holds
    /// until the file is complete.
    pub(super) fn spawn(path: PathBuf, resumes: bool, file: Arc<Mutex<()>>) -> Self {
        let (frames, receiver) = mpsc::channel(RECORD_BACKLOG_FRAMES);
        let thread = tokio::task::spawn_blocking(move || {
            let _alone = file.lock().unwrap_or_else(PoisonError::into_inner);
            record(&path, resumes, receiver)
        });
        Self { frames, thread, missing: 0 }
    }

    /// Hands over a frame. One the disk is too slow for becomes silence later.
    pub(super) fn push(&mut self, frame: Frame) {
        match self.frames.try_send(Recorded { missing: self.missing, frame }) {
            Ok(()) => self.missing = 0,
            Err(_) => self.missing += 1,
        }
    }

    /// Whether writing has failed; [`Recorder::finish`] tells why.
    pub(super) fn has_failed(&self) -> bool {
        self.frames.is_closed()
    }

    /// Waits until everything is on disk; the number of samples written.
    pub(super) async fn finish(self) -> Result<u64, WavError> {
        drop(self.frames);
        match self.thread.await {
            Ok(written) => written,
            Err(error) => Err(io::Error::other(error).into()),
        }
    }
}

fn record(path: &Path, resumes: bool, mut frames: mpsc::Receiver<Recorded>) -> Result<u64, WavError> {
    let spec = WavSpec { channels: 1, sample_rate: SAMPLE_RATE, bits_per_sample: 16, sample_format: SampleFormat::Int };
    let mut writer = if resumes { WavWriter::append(path)? } else { WavWriter::create(path, spec)? };
    writer.flush()?;
    let mut written = 0;
    while let Some(Recorded { missing, frame }) = frames.blocking_recv() {
        for frame in (0..missing).map(|_| silence()).chain([frame]) {
            if written >= RECORDING_FRAMES_MAX {
                tracing::debug!("recording is full");
                break;
            }
            for &sample in frame.iter() {
                writer.write_sample(sample)?;
            }
            written += 1;
            if written.is_multiple_of(HEADER_INTERVAL_FRAMES) {
                writer.flush()?;
            }
        }
    }
    writer.finalize()?;
    Ok(written * FRAME_SAMPLES as u64)
}

#[cfg(test)]
#[path = "wav_tests.rs"]
mod tests;
