//! Tones in WAV files: what one end plays, the other end's recording must hold.

use std::path::Path;
use std::time::Duration;

use halloo::calls::media::tone;

/// Samples per second of the files made here.
const SAMPLE_RATE: u32 = 48_000;

/// How far a heard tone may be off; codecs keep frequencies, the measurement is good to a hertz.
const TOLERANCE_HZ: f64 = 5.0;

/// How far below full scale a tone must be to count as absent.
const ABSENT_DB: f64 = -50.0;

/// Writes a tone.
///
/// # Panics
/// If the file can't be written.
pub fn write_tone(path: &Path, frequency_hz: f64, duration: Duration) {
    tone::write_tone(path, frequency_hz, duration, SAMPLE_RATE).expect("the folder is ours");
}

/// Below this a frame counts as silent, of 32,767: tones are far above, and what a decoder invents for lost packets fades below it.
const SILENT_PEAK: i16 = 300;

/// How long nothing is heard in a recording at most, between its first sound and its last.
///
/// # Panics
/// If it can't be read.
#[must_use]
pub fn longest_silence(path: &Path) -> Duration {
    let mut reader = hound::WavReader::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let samples: Vec<i16> = reader.samples::<i16>().map(|sample| sample.expect("a whole file")).collect();
    let is_silent = |frame: &[i16]| frame.iter().all(|sample| sample.abs() < SILENT_PEAK);
    let frames: Vec<bool> = samples.chunks_exact(SAMPLE_RATE as usize / 100).map(is_silent).collect();
    let runs = frames.chunk_by(|one, other| one == other).collect::<Vec<_>>();
    // Before and after the sound it may be silent.
    let inner = if runs.len() > 2 { &runs[1..runs.len() - 1] } else { &runs[..0] };
    let longest = inner.iter().filter(|run| run[0]).map(|run| run.len()).max().unwrap_or(0);
    Duration::from_millis(longest as u64 * 10)
}

/// Asserts that a recording holds one tone, for at least `length`, and not the other.
///
/// # Panics
/// If it doesn't.
#[track_caller]
pub fn assert_heard(path: &Path, heard_hz: f64, unheard_hz: f64, length: Duration) {
    let mut reader = hound::WavReader::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let spec = reader.spec();
    let step = usize::from(spec.channels);
    let samples: Vec<i16> = reader.samples::<i16>().step_by(step).map(|sample| sample.expect("a whole file")).collect();
    let seconds = samples.len() as f64 / f64::from(spec.sample_rate);
    assert!(seconds >= length.as_secs_f64(), "{}: {seconds:.2} s recorded, {length:?} wanted", path.display());
    let dominant = tone::dominant_frequency(&samples, spec.sample_rate);
    let is_heard = dominant.is_some_and(|frequency| (frequency - heard_hz).abs() < TOLERANCE_HZ);
    assert!(is_heard, "{}: {heard_hz} Hz expected, {dominant:?} found", path.display());
    let echo = tone::level_db(&samples, spec.sample_rate, unheard_hz);
    assert!(echo < ABSENT_DB, "{}: {unheard_hz} Hz was heard too, at {echo:.0} dB", path.display());
}

/// How far below full scale each of several tones that are heard at once must be at most. Alone they are at half of full scale, 6 dB below it.
const PRESENT_DB: f64 = -24.0;

/// Asserts that a recording holds all of these tones, each at least for a moment, and never the other.
///
/// # Panics
/// If it doesn't.
#[track_caller]
pub fn assert_heard_all(path: &Path, heard_hz: &[f64], unheard_hz: f64) {
    for hertz in heard_hz {
        assert_heard_together(path, &[*hertz], unheard_hz);
    }
}

/// Asserts that a recording holds all of these tones at the same time for a moment, and never the other.
///
/// # Panics
/// If it doesn't.
#[track_caller]
pub fn assert_heard_together(path: &Path, heard_hz: &[f64], unheard_hz: f64) {
    let mut reader = hound::WavReader::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let samples: Vec<i16> = reader.samples::<i16>().map(|sample| sample.expect("a whole file")).collect();
    let levels =
        |window: &[i16]| -> Vec<f64> { heard_hz.iter().map(|hertz| tone::level_db(window, SAMPLE_RATE, *hertz)).collect() };
    let lowest = |window: &[i16]| levels(window).into_iter().fold(f64::INFINITY, f64::min);
    let windows = samples.chunks_exact(SAMPLE_RATE as usize / 2);
    let best = windows.max_by(|one, other| lowest(one).total_cmp(&lowest(other)));
    let best = best.unwrap_or_else(|| panic!("{}: {} samples recorded", path.display(), samples.len()));
    let found = levels(best);
    assert!(lowest(best) > PRESENT_DB, "{}: {heard_hz:?} Hz expected together, best heard at {found:.0?} dB", path.display());
    let echo = tone::level_db(&samples, SAMPLE_RATE, unheard_hz);
    assert!(echo < ABSENT_DB, "{}: {unheard_hz} Hz was heard too, at {echo:.0} dB", path.display());
}
