//! Recordings to leave for others: a WAV file as Opus in Ogg, and back.
//!
//! Both take a while for minutes of audio, so they belong on a thread that may block.

use std::io::Cursor;
use std::path::Path;

use halloo_protocol::voicemail::{OggError, Recording, VOICEMAIL_MS_MAX, WAVEFORM_POINTS_MAX, ogg};
use hound::{SampleFormat, WavSpec, WavWriter};
use ropus::{Application, Bitrate, Channels, DecodeMode, Decoder, Encoder, Signal};

use super::audio::{FRAME_SAMPLES, PACKET_BYTES_MAX, SAMPLE_RATE, silence};
use super::wav::{WavError, WavSource};

/// Speech at full bandwidth; nothing is lost on the way, so nothing is spent on correction as in a call.
const BITRATE_BPS: u32 = 24_000;

/// As in calls: whoever leaves three minutes waits for the end of their recording.
const COMPLEXITY: u8 = 5;

/// Frames of the longest recording.
const FRAMES_MAX: usize = VOICEMAIL_MS_MAX as usize / 20;

/// The longest packet, 120 ms (RFC 6716 section 3.2.5).
const PACKET_SAMPLES_MAX: usize = 5_760;

/// Why a recording can't be made, or not be heard.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// The WAV file can't be used.
    #[error(transparent)]
    Wav(#[from] WavError),
    /// It is longer than recordings may be.
    #[error("it is longer than {} s", VOICEMAIL_MS_MAX / 1_000)]
    TooLong,
    /// There is nothing in it.
    #[error("there is nothing in it")]
    Empty,
    /// The file isn't what it should be.
    #[error(transparent)]
    Ogg(#[from] OggError),
    /// The codec refused.
    #[error("Opus: {detail}")]
    Codec {
        /// What it said.
        detail: String,
    },
}

/// A recording, ready to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The Ogg file.
    pub(crate) ogg: Vec<u8>,
    pub(crate) duration_ms: u32,
    /// Peaks over time.
    pub(crate) waveform: Vec<u8>,
}

/// Makes a recording of a WAV file.
///
/// # Errors
/// [`RecordingError`].
pub(crate) fn record(path: &Path) -> Result<Recorded, RecordingError> {
    let mut source = WavSource::open(path)?;
    let mut encoder = encoder()?;
    let mut packets: Vec<Vec<u8>> = Vec::new();
    let mut peaks = Vec::new();
    while let Some(frame) = source.next_frame()? {
        if peaks.len() >= FRAMES_MAX {
            return Err(RecordingError::TooLong);
        }
        peaks.push(peak(&frame));
        packets.push(encode(&mut encoder, &frame)?);
    }
    if peaks.is_empty() {
        return Err(RecordingError::Empty);
    }
    // What the encoder still holds back comes out with one frame more.
    packets.push(encode(&mut encoder, &silence())?);
    let pre_skip = u16::try_from(encoder.lookahead()).unwrap_or_default();
    let samples = peaks.len() as u64 * FRAME_SAMPLES as u64;
    let recording = Recording::new(packets.iter().map(Vec::as_slice), pre_skip, samples)?;
    let ogg = ogg::write(&recording, concat!("halloo ", env!("CARGO_PKG_VERSION")))?;
    Ok(Recorded { ogg, duration_ms: recording.duration_ms(), waveform: waveform(&peaks) })
}

/// Checks that a file is likely to make a recording: its headers. So that a caller learns it before the call, not after.
///
/// # Errors
/// [`RecordingError`].
pub(crate) fn check(path: &Path) -> Result<(), RecordingError> {
    WavSource::open(path)?;
    let reader = hound::WavReader::open(path).map_err(WavError::from)?;
    let ms = u64::from(reader.duration()) * 1_000 / u64::from(reader.spec().sample_rate.max(1));
    match ms {
        0 => Err(RecordingError::Empty),
        ms if ms > u64::from(VOICEMAIL_MS_MAX) => Err(RecordingError::TooLong),
        _ => Ok(()),
    }
}

/// A WAV file (48 kHz, mono, 16 bit) of a recording.
///
/// # Errors
/// [`RecordingError::Ogg`] or [`RecordingError::Codec`] if it is none.
pub(crate) fn to_wav(file: &[u8]) -> Result<Vec<u8>, RecordingError> {
    let recording = ogg::read(file)?;
    let mut decoder = Decoder::new(SAMPLE_RATE, Channels::Mono).map_err(codec)?;
    let mut samples = Vec::new();
    let mut scratch = vec![0; PACKET_SAMPLES_MAX];
    for packet in recording.packets() {
        let decoded = decoder.decode(packet, &mut scratch, DecodeMode::Normal).map_err(codec)?;
        samples.extend_from_slice(scratch.get(..decoded).unwrap_or_default());
    }
    let heard = samples.into_iter().skip(recording.pre_skip().into());
    let length = usize::try_from(recording.samples()).unwrap_or(usize::MAX);
    let spec = WavSpec { channels: 1, sample_rate: SAMPLE_RATE, bits_per_sample: 16, sample_format: SampleFormat::Int };
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = WavWriter::new(&mut bytes, spec).map_err(WavError::from)?;
    for sample in heard.take(length) {
        writer.write_sample(sample).map_err(WavError::from)?;
    }
    writer.finalize().map_err(WavError::from)?;
    Ok(bytes.into_inner())
}

fn encoder() -> Result<Encoder, RecordingError> {
    Encoder::builder(SAMPLE_RATE, Channels::Mono, Application::Voip)
        .bitrate(Bitrate::Bits(BITRATE_BPS))
        .complexity(COMPLEXITY)
        .signal(Signal::Voice)
        .vbr(true)
        // On average no more than the bit rate: the longest recording has to fit.
        .vbr_constraint(true)
        .build()
        .map_err(codec)
}

fn encode(encoder: &mut Encoder, frame: &[i16]) -> Result<Vec<u8>, RecordingError> {
    let mut packet = [0; PACKET_BYTES_MAX];
    let length = encoder.encode(frame, &mut packet).map_err(codec)?;
    Ok(packet.get(..length).unwrap_or_default().to_vec())
}

fn codec(error: impl ToString) -> RecordingError {
    RecordingError::Codec { detail: error.to_string() }
}

/// The loudest sample of a frame, 255 the loudest there can be.
fn peak(frame: &[i16]) -> u8 {
    let loudest = frame.iter().map(|sample| sample.unsigned_abs()).max().unwrap_or(0);
    u8::try_from(loudest >> 7).unwrap_or(u8::MAX)
}

fn waveform(peaks: &[u8]) -> Vec<u8> {
    let points = peaks.len().min(WAVEFORM_POINTS_MAX);
    let slice = |point: usize| {
        let (from, to) = (point * peaks.len() / points, (point + 1) * peaks.len() / points);
        peaks.get(from..to).into_iter().flatten().copied().max().unwrap_or(0)
    };
    (0..points).map(slice).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use halloo_protocol::voicemail::VOICEMAIL_BYTES_MAX;

    use super::super::tone;
    use super::*;

    fn tone_file(folder: &tempfile::TempDir, hz: f64, length: Duration, rate: u32) -> std::path::PathBuf {
        let path = folder.path().join(format!("{hz}-{rate}.wav"));
        tone::write_tone(&path, hz, length, rate).expect("the folder is ours");
        path
    }

    #[test]
    fn a_tone_is_the_same_tone_afterwards() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for (hz, rate) in [(440.0, 48_000), (660.0, 16_000)] {
            let path = tone_file(&folder, hz, Duration::from_secs(2), rate);
            check(&path).expect("it can be recorded");
            let recorded = record(&path).expect("a recording");
            assert_eq!(recorded.duration_ms, 2_000);
            assert_eq!(recorded.waveform.len(), WAVEFORM_POINTS_MAX);
            assert!(recorded.waveform.iter().all(|peak| (120..=130).contains(peak)), "{:?}", recorded.waveform);
            let wav = to_wav(&recorded.ogg).expect("it can be heard");
            let mut reader = hound::WavReader::new(Cursor::new(wav)).expect("a WAV file");
            let samples: Vec<i16> = reader.samples::<i16>().map(|sample| sample.expect("whole")).collect();
            assert_eq!(samples.len(), 96_000);
            let heard = tone::dominant_frequency(&samples, SAMPLE_RATE).expect("a tone");
            assert!((heard - hz).abs() < 3.0, "{hz} became {heard}");
        }
    }

    #[test]
    fn what_is_too_long_or_empty_or_no_audio_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let long = tone_file(&folder, 100.0, Duration::from_millis(u64::from(VOICEMAIL_MS_MAX) + 1_000), 8_000);
        assert!(matches!(check(&long), Err(RecordingError::TooLong)));
        let empty = tone_file(&folder, 200.0, Duration::ZERO, 8_000);
        assert!(matches!(check(&empty), Err(RecordingError::Empty)));
        assert!(matches!(record(&empty), Err(RecordingError::Empty)));
        let text = folder.path().join("text.wav");
        std::fs::write(&text, "no audio").expect("the folder is ours");
        assert!(matches!(record(&text), Err(RecordingError::Wav(_))));
        assert!(matches!(to_wav(b"OggS and nothing else"), Err(RecordingError::Ogg(OggError::Truncated { .. }))));
    }

    /// Noise is the worst there is for a codec.
    #[test]
    fn a_minute_of_noise_takes_no_more_than_its_share() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("noise.wav");
        let spec = WavSpec { channels: 1, sample_rate: 48_000, bits_per_sample: 16, sample_format: SampleFormat::Int };
        let mut writer = WavWriter::create(&path, spec).expect("the folder is ours");
        let mut state = 1_u32;
        for _ in 0..48_000 * 60 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            writer.write_sample((state >> 16) as u16 as i16).expect("there is room");
        }
        writer.finalize().expect("there is room");
        let recorded = record(&path).expect("a recording");
        eprintln!("a minute of noise: {} bytes", recorded.ogg.len());
        assert!(recorded.ogg.len() * 3 <= VOICEMAIL_BYTES_MAX, "{}", recorded.ogg.len());
    }
}
