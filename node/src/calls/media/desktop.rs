//! Sound by the operating system (cpal: ALSA, Core Audio, WASAPI).
//!
//! ```text
//! microphone -> callback -> ring (200 ms) -> resampler -> 20 ms at 48 kHz -> room
//! loudspeakers <- callback <- ring (200 ms) <- resampler <- 20 ms at 48 kHz <- room
//! ```
//!
//! The devices' clocks and ours go apart by some samples a second. Each resampler therefore runs a little faster or slower, by up to half a percent,
//! as its ring holds more or less than it is meant to (40 ms); what doesn't fit in a ring is dropped. Nothing takes the loudspeakers' sound out of what the
//! microphone hears: headphones do.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use cpal::{
    BufferSize, FromSample, Sample, SampleFormat, SizedSample, Stream, StreamConfig, SupportedBufferSize, SupportedStreamConfig,
};
use rubato::audioadapter_buffers::direct::SequentialSliceOfVecs;
use rubato::{Async, FixedAsync, PolynomialDegree, Resampler};

use super::audio::{FRAME_SAMPLES, Frame, SAMPLE_RATE, silence};
use super::sound::Sound;

/// What a ring holds at most and is meant to hold, in parts of a second: a fifth, and a twenty-fifth.
const RING_SHARE: u32 = 5;
const BEHIND_SHARE: u32 = 25;
/// How often a device is meant to ask for more: every 20 ms.
const PIECES_PER_SECOND: u32 = 50;
/// Complaints of one device that are written down in a call.
const COMPLAINTS_MAX: u32 = 4;
/// How much a resampler may run faster or slower: 0.5 %, which nobody hears.
const DRIFT_MAX: f64 = 1.005;

/// Samples of one channel between a device and the call.
#[derive(Clone)]
struct Ring {
    samples: Arc<Mutex<VecDeque<f32>>>,
    max: usize,
}

impl Ring {
    fn new(rate: u32) -> Self {
        Self { samples: Arc::default(), max: (rate / RING_SHARE) as usize }
    }

    fn with<T>(&self, act: impl FnOnce(&mut VecDeque<f32>) -> T) -> T {
        act(&mut self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, new: impl Iterator<Item = f32>) {
        self.with(|samples| {
            samples.extend(new);
            // The oldest go: what is said now counts more.
            let excess = samples.len().saturating_sub(self.max);
            samples.drain(..excess);
        });
    }
}

/// A resampler that keeps its ring near the level it is meant to have.
struct Pace {
    resampler: Async<f32>,
    behind: f64,
}

impl Pace {
    fn new(ratio: f64, fixed: FixedAsync, rate: u32) -> Result<Self, String> {
        let resampler = Async::new_poly(ratio, DRIFT_MAX, PolynomialDegree::Septic, FRAME_SAMPLES, 1, fixed);
        let resampler = resampler.map_err(|error| error.to_string())?;
        Ok(Self { resampler, behind: f64::from(rate / BEHIND_SHARE) })
    }

    /// Fewer samples come out of as many if more are waiting than are meant to.
    fn adjust(&mut self, waiting: usize) {
        let excess = ((waiting as f64 - self.behind) / self.behind).clamp(-1.0, 1.0);
        let ratio = 1.0 - excess * (DRIFT_MAX - 1.0) * 0.9;
        if let Some(adjustable) = self.resampler.as_adjustable() {
            // Within the bounds it was made with.
            let _ = adjustable.set_resample_ratio_relative(ratio, true);
        }
    }

    fn run(&mut self, input: Vec<f32>) -> Vec<f32> {
        let (frames, room) = (input.len(), self.resampler.output_frames_max());
        let input = [input];
        let mut output = [vec![0.0; room]];
        let Ok(source) = SequentialSliceOfVecs::new(&input, 1, frames) else { return Vec::new() };
        let Ok(mut sink) = SequentialSliceOfVecs::new_mut(&mut output, 1, room) else { return Vec::new() };
        let written = self.resampler.process_into_buffer(&source, &mut sink, None).map_or(0, |(_, written)| written);
        let [mut output] = output;
        output.truncate(written);
        output
    }
}

/// The devices of one call.
pub(super) struct Desktop {
    said: Ring,
    heard: Ring,
    microphone: Pace,
    loudspeakers: Pace,
    /// Dropping it ends the thread that has the devices.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Desktop {
    /// Opens the devices that the system names first.
    pub(super) fn open() -> Result<Self, String> {
        let (stop, stopped) = mpsc::channel::<()>();
        let (opened, open) = mpsc::channel();
        // Devices can't change threads on every system.
        let thread = std::thread::Builder::new().name("sound".to_owned()).spawn(move || match Devices::open() {
            Ok((devices, rings)) => {
                let _ = opened.send(Ok(rings));
                // Ends when the other side is dropped.
                let _ = stopped.recv();
                drop(devices);
            }
            Err(error) => drop(opened.send(Err(error))),
        });
        let thread = thread.map_err(|error| error.to_string())?;
        let Rings { said, said_rate, heard, heard_rate } = open.recv().map_err(|error| error.to_string())??;
        let ours = f64::from(SAMPLE_RATE);
        Ok(Self {
            said,
            heard,
            microphone: Pace::new(ours / f64::from(said_rate), FixedAsync::Output, said_rate)?,
            loudspeakers: Pace::new(f64::from(heard_rate) / ours, FixedAsync::Input, heard_rate)?,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        self.stop = None;
        // The thread ends by itself; whoever hangs up doesn't wait for a device.
        self.thread = None;
    }
}

impl Sound for Desktop {
    fn next_frame(&mut self) -> Frame {
        let waiting = self.said.with(|samples| samples.len());
        self.microphone.adjust(waiting);
        let needed = self.microphone.resampler.input_frames_next();
        let taken = self.said.with(|samples| (samples.len() >= needed).then(|| samples.drain(..needed).collect::<Vec<f32>>()));
        let Some(taken) = taken else { return silence() };
        let mut frame = silence();
        for (sample, said) in frame.iter_mut().zip(self.microphone.run(taken)) {
            *sample = (said * f32::from(i16::MAX)).clamp(f32::from(i16::MIN), f32::from(i16::MAX)) as i16;
        }
        frame
    }

    fn play(&mut self, heard: &[i16]) {
        let waiting = self.heard.with(|samples| samples.len());
        self.loudspeakers.adjust(waiting);
        let input = heard.iter().map(|sample| f32::from(*sample) / f32::from(i16::MAX)).collect();
        let output = self.loudspeakers.run(input);
        self.heard.push(output.into_iter());
    }
}

struct Rings {
    said: Ring,
    said_rate: u32,
    heard: Ring,
    heard_rate: u32,
}

/// The streams; sound runs as long as they live.
struct Devices {
    _microphone: Stream,
    _loudspeakers: Stream,
}

impl Devices {
    fn open() -> Result<(Self, Rings), String> {
        let host = cpal::default_host();
        let microphone = host.default_input_device().ok_or("no microphone")?;
        let loudspeakers = host.default_output_device().ok_or("no loudspeakers")?;
        let input = microphone.default_input_config().map_err(|error| format!("microphone: {error}"))?;
        let output = loudspeakers.default_output_config().map_err(|error| format!("loudspeakers: {error}"))?;
        let (said, heard) = (Ring::new(input.sample_rate()), Ring::new(output.sample_rate()));
        let rings =
            Rings { said: said.clone(), said_rate: input.sample_rate(), heard: heard.clone(), heard_rate: output.sample_rate() };
        let microphone = listen(&microphone, &input, said).map_err(|error| format!("microphone: {error}"))?;
        let loudspeakers = speak(&loudspeakers, &output, heard).map_err(|error| format!("loudspeakers: {error}"))?;
        for stream in [&microphone, &loudspeakers] {
            stream.play().map_err(|error| error.to_string())?;
        }
        Ok((Self { _microphone: microphone, _loudspeakers: loudspeakers }, rings))
    }
}

fn listen(device: &cpal::Device, config: &SupportedStreamConfig, ring: Ring) -> Result<Stream, String> {
    match config.sample_format() {
        SampleFormat::F32 => listen_as::<f32>(device, config, ring),
        SampleFormat::I16 => listen_as::<i16>(device, config, ring),
        SampleFormat::U16 => listen_as::<u16>(device, config, ring),
        SampleFormat::I32 => listen_as::<i32>(device, config, ring),
        SampleFormat::U8 => listen_as::<u8>(device, config, ring),
        other => Err(format!("samples of {other}")),
    }
}

fn listen_as<T: SizedSample>(device: &cpal::Device, config: &SupportedStreamConfig, ring: Ring) -> Result<Stream, String>
where
    f32: FromSample<T>,
{
    let channels = usize::from(config.channels()).max(1);
    let share = 1.0 / channels as f32;
    in_short_pieces(config, |config| {
        let ring = ring.clone();
        let take = move |samples: &[T], _: &cpal::InputCallbackInfo| {
            let of_all = samples.chunks_exact(channels);
            ring.push(of_all.map(|samples| samples.iter().map(|sample| f32::from_sample(*sample)).sum::<f32>() * share));
        };
        device.build_input_stream(config, take, complaints(), None)
    })
}

fn speak(device: &cpal::Device, config: &SupportedStreamConfig, ring: Ring) -> Result<Stream, String> {
    match config.sample_format() {
        SampleFormat::F32 => speak_as::<f32>(device, config, ring),
        SampleFormat::I16 => speak_as::<i16>(device, config, ring),
        SampleFormat::U16 => speak_as::<u16>(device, config, ring),
        SampleFormat::I32 => speak_as::<i32>(device, config, ring),
        SampleFormat::U8 => speak_as::<u8>(device, config, ring),
        other => Err(format!("samples of {other}")),
    }
}

fn speak_as<T>(device: &cpal::Device, config: &SupportedStreamConfig, ring: Ring) -> Result<Stream, String>
where
    T: SizedSample + FromSample<f32>,
{
    let channels = usize::from(config.channels()).max(1);
    in_short_pieces(config, |config| {
        let ring = ring.clone();
        let give = move |samples: &mut [T], _: &cpal::OutputCallbackInfo| {
            ring.with(|heard| {
                for of_all in samples.chunks_mut(channels) {
                    of_all.fill(T::from_sample(heard.pop_front().unwrap_or(0.0)));
                }
            });
        };
        device.build_output_stream(config, give, complaints(), None)
    })
}

/// Opens a stream that asks for 20 ms at a time, if the device can: some would otherwise ask for a second, which is a second of delay.
fn in_short_pieces(
    config: &SupportedStreamConfig,
    open: impl Fn(StreamConfig) -> Result<Stream, cpal::Error>,
) -> Result<Stream, String> {
    let frames = config.sample_rate() / PIECES_PER_SECOND;
    let frames = match *config.buffer_size() {
        SupportedBufferSize::Range { min, max } => frames.clamp(min, max.max(min)),
        SupportedBufferSize::Unknown => frames,
    };
    let short = StreamConfig { buffer_size: BufferSize::Fixed(frames), ..config.config() };
    open(short).or_else(|_| open(config.config())).map_err(|error| error.to_string())
}

/// Takes what a device complains of, and writes down the first of it: a broken one complains without end.
fn complaints() -> impl FnMut(cpal::Error) + Send + 'static {
    let mut left = COMPLAINTS_MAX;
    move |error| {
        if left > 0 {
            left -= 1;
            tracing::warn!(%error, "sound");
        }
    }
}
