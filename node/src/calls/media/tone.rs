//! Sine tones as test material: one end plays a tone, the other end's recording is asked which
//! tone it holds. Proves that audio passed, and whose.

use std::{f64::consts::TAU, path::Path, time::Duration};

use super::wav::WavError;

/// Points of the Fourier transform at most: 0.34 s at 48 kHz, bins 2.9 Hz apart.
const TRANSFORM_POINTS_MAX: usize = 16_384;
/// Fewer samples tell no frequency worth naming.
const TRANSFORM_POINTS_MIN: usize = 512;
/// Root mean square below which a signal counts as silence (about -60 dB of full scale).
const SILENCE_RMS: f64 = 32.0;
/// Half of full scale leaves room for what the codec adds.
const AMPLITUDE: f64 = 16_000.0;

/// The samples of a sine tone, 16-bit, half of full scale.
pub fn tone(frequency_hz: f64, duration: Duration, sample_rate: u32) -> impl Iterator<Item = i16> {
    let samples = (duration.as_secs_f64() * f64::from(sample_rate)) as u64;
    (0..samples).map(move |n| {
        let phase = TAU * frequency_hz * n as f64 / f64::from(sample_rate);
        (AMPLITUDE * phase.sin()) as i16
    })
}

/// Writes a tone as a mono 16-bit WAV file, replacing what is there.
///
/// # Errors
/// [`WavError`] if the file cannot be written.
pub fn write_tone(path: impl AsRef<Path>, frequency_hz: f64, duration: Duration, sample_rate: u32) -> Result<(), WavError> {
    let spec = hound::WavSpec { channels: 1, sample_rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(path, spec)?;
    for sample in tone(frequency_hz, duration, sample_rate) {
        writer.write_sample(sample)?;
    }
    Ok(writer.finalize()?)
}

/// The strongest frequency in hertz in the loudest third of a second, to about one hertz.
///
/// `None` for silence and for fewer than 512 samples.
pub fn dominant_frequency(samples: &[i16], sample_rate: u32) -> Option<f64> {
    let points = transform_points(samples.len())?;
    let window = loudest_window(samples, points);
    if rms(window) < SILENCE_RMS {
        return None;
    }
    let power = power_spectrum(window);
    let (peak, _) = power.iter().enumerate().skip(1).max_by(|a, b| a.1.total_cmp(b.1))?;
    let hertz_per_bin = f64::from(sample_rate) / points as f64;
    Some((peak as f64 + peak_offset(&power, peak)) * hertz_per_bin)
}

/// The level of one frequency over all samples, in decibels of full scale (Goertzel's algorithm).
///
/// Shows that a tone is *not* there. No samples: negative infinity.
pub fn level_db(samples: &[i16], sample_rate: u32, frequency_hz: f64) -> f64 {
    if samples.is_empty() {
        return f64::NEG_INFINITY;
    }
    let coefficient = 2.0 * (TAU * frequency_hz / f64::from(sample_rate)).cos();
    let (mut newer, mut older) = (0.0, 0.0);
    for &sample in samples {
        let next = f64::from(sample) / f64::from(i16::MAX) + coefficient * newer - older;
        older = newer;
        newer = next;
    }
    let power = newer * newer + older * older - coefficient * newer * older;
    let amplitude = 2.0 * power.max(0.0).sqrt() / samples.len() as f64;
    20.0 * amplitude.log10()
}

fn transform_points(samples: usize) -> Option<usize> {
    let largest = samples.min(TRANSFORM_POINTS_MAX).checked_ilog2().map(|bits| 1 << bits)?;
    (largest >= TRANSFORM_POINTS_MIN).then_some(largest)
}

fn rms(samples: &[i16]) -> f64 {
    let sum: f64 = samples.iter().map(|&s| f64::from(s).powi(2)).sum();
    (sum / samples.len() as f64).sqrt()
}

fn loudest_window(samples: &[i16], points: usize) -> &[i16] {
    let windows = samples.windows(points).step_by(points / 2);
    windows.max_by(|a, b| rms(a).total_cmp(&rms(b))).unwrap_or(samples)
}

/// Where between the bins the peak lies, by a parabola through its neighbours' logarithms.
fn peak_offset(power: &[f64], peak: usize) -> f64 {
    let log = |bin: usize| power.get(bin).copied().unwrap_or(0.0).max(f64::MIN_POSITIVE).ln();
    let (left, middle, right) = (log(peak - 1), log(peak), log(peak + 1));
    let curvature = left - 2.0 * middle + right;
    if curvature == 0.0 { 0.0 } else { 0.5 * (left - right) / curvature }
}

/// Power of each bin below half the sample rate, under a Hann window.
fn power_spectrum(samples: &[i16]) -> Vec<f64> {
    let points = samples.len();
    let mut values: Vec<(f64, f64)> = samples
        .iter()
        .enumerate()
        .map(|(n, &s)| (f64::from(s) * (0.5 - 0.5 * (TAU * n as f64 / points as f64).cos()), 0.0))
        .collect();
    transform(&mut values);
    values[..points / 2].iter().map(|(re, im)| re * re + im * im).collect()
}

/// In-place radix-2 Fourier transform; the length is a power of two.
fn transform(values: &mut [(f64, f64)]) {
    let points = values.len();
    let unused_bits = usize::BITS - points.ilog2();
    for n in 0..points {
        let mirrored = n.reverse_bits() >> unused_bits;
        if n < mirrored {
            values.swap(n, mirrored);
        }
    }
    let mut half = 1;
    while half < points {
        for block in values.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (n, (a, b)) in low.iter_mut().zip(high).enumerate() {
                let (sin, cos) = (-TAU * n as f64 / (2 * half) as f64).sin_cos();
                let turned = (b.0 * cos - b.1 * sin, b.0 * sin + b.1 * cos);
                *b = (a.0 - turned.0, a.1 - turned.1);
                *a = (a.0 + turned.0, a.1 + turned.1);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_frequency_of_tones() {
        for (frequency, rate) in [(440.0, 48_000), (660.0, 48_000), (1_000.0, 8_000), (97.5, 16_000)] {
            let samples: Vec<i16> = tone(frequency, Duration::from_millis(500), rate).collect();
            let found = dominant_frequency(&samples, rate).unwrap();
            assert!((found - frequency).abs() < 1.0, "{frequency} Hz found as {found}");
        }
    }

    #[test]
    fn finds_a_tone_in_surrounding_silence() {
        let mut samples = vec![0; 48_000];
        samples.extend(tone(440.0, Duration::from_millis(500), 48_000));
        samples.extend([0; 48_000]);
        assert!((dominant_frequency(&samples, 48_000).unwrap() - 440.0).abs() < 1.0);
    }

    #[test]
    fn silence_and_scraps_have_no_frequency() {
        assert_eq!(dominant_frequency(&[], 48_000), None);
        assert_eq!(dominant_frequency(&[1_000; 100], 48_000), None);
        assert_eq!(dominant_frequency(&[3; 48_000], 48_000), None);
    }

    #[test]
    fn levels_tell_present_from_absent() {
        let samples: Vec<i16> = tone(440.0, Duration::from_secs(1), 48_000).collect();
        assert!((level_db(&samples, 48_000, 440.0) + 6.2).abs() < 0.3);
        assert!(level_db(&samples, 48_000, 660.0) < -60.0);
        assert_eq!(level_db(&[], 48_000, 440.0), f64::NEG_INFINITY);
    }
}
