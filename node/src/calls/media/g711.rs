//! G.711, which every telephone has (ITU-T G.711; RFC 3551 section 4.5.14): 8 bits for each of 8,000 samples a second, and the way from and to 48 kHz.

use std::collections::VecDeque;
use std::f32::consts::PI;

use super::audio::SAMPLE_RATE;

/// Samples at 48 kHz for each at 8 kHz.
pub(super) const RATIO: usize = SAMPLE_RATE as usize / 8_000;
/// Length of the filter that keeps what 8 kHz can't carry out of it: 3 ms.
const TAPS: usize = 24 * RATIO;
/// Where it cuts, in Hz: as telephones do.
const CUTOFF_HZ: f32 = 3_600.0;

/// Which of the two curves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Law {
    /// µ-law: PCMU.
    Mu,
    /// A-law: PCMA.
    A,
}

impl Law {
    const fn encode(self, sample: i16) -> u8 {
        match self {
            Self::Mu => encode_mu(sample),
            Self::A => encode_a(sample),
        }
    }

    const fn decode(self, byte: u8) -> i16 {
        match self {
            Self::Mu => decode_mu(byte),
            Self::A => decode_a(byte),
        }
    }
}

const fn encode_mu(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = sample.unsigned_abs();
    // 14 bits count; the bias makes every segment begin at a power of two.
    let magnitude = if magnitude > 32_635 { 32_635 } else { magnitude } + 0x84;
    let segment = 8 - magnitude.leading_zeros() as u16;
    let mantissa = magnitude >> (segment + 3) & 0x0F;
    !(sign | (segment << 4 | mantissa) as u8)
}

const fn decode_mu(byte: u8) -> i16 {
    let byte = !byte;
    let magnitude = (((((byte & 0x0F) as i16) << 3) + 0x84) << (byte >> 4 & 7)) - 0x84;
    if byte & 0x80 != 0 { -magnitude } else { magnitude }
}

const fn encode_a(sample: i16) -> u8 {
    let mask = if sample < 0 { 0x55 } else { 0xD5 };
    // 13 bits count; what is below zero is mirrored without one.
    let magnitude = (if sample < 0 { !sample } else { sample }) as u16 >> 3;
    let segment = if magnitude < 0x20 { 0 } else { 11 - magnitude.leading_zeros() as u16 };
    let shift = if segment < 2 { 1 } else { segment };
    (segment << 4 | magnitude >> shift & 0x0F) as u8 ^ mask
}

const fn decode_a(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let mantissa = ((byte & 0x0F) as i16) << 4;
    let magnitude = match byte >> 4 & 7 {
        0 => mantissa + 8,
        segment => (mantissa + 0x108) << (segment - 1),
    };
    if byte & 0x80 != 0 { magnitude } else { -magnitude }
}

/// The filter for both ways: a sinc under a Hann window, whose taps add up to one.
fn filter() -> Box<[f32]> {
    let middle = (TAPS - 1) as f32 / 2.0;
    let cutoff = CUTOFF_HZ / SAMPLE_RATE as f32;
    let tap = |index: usize| {
        let x = index as f32 - middle;
        let sinc = if x.abs() < 1e-6 { 2.0 * cutoff } else { (2.0 * PI * cutoff * x).sin() / (PI * x) };
        sinc * (0.5 - 0.5 * (2.0 * PI * index as f32 / (TAPS - 1) as f32).cos())
    };
    let taps: Box<[f32]> = (0..TAPS).map(tap).collect();
    let sum: f32 = taps.iter().sum();
    taps.iter().map(|tap| tap / sum).collect()
}

fn to_sample(value: f32) -> i16 {
    value.round().clamp(f32::from(i16::MIN), f32::from(i16::MAX)) as i16
}

/// Encodes audio of 48 kHz.
pub(super) struct Encoder {
    law: Law,
    filter: Box<[f32]>,
    /// The last [`TAPS`] samples, the newest last.
    past: VecDeque<f32>,
}

impl Encoder {
    pub(super) fn new(law: Law) -> Self {
        Self { law, filter: filter(), past: VecDeque::from(vec![0.0; TAPS]) }
    }

    /// A byte for every sixth sample.
    pub(super) fn encode(&mut self, frame: &[i16], packet: &mut [u8]) -> usize {
        let bytes = (frame.len() / RATIO).min(packet.len());
        for (byte, samples) in packet.iter_mut().zip(frame.chunks_exact(RATIO)) {
            for sample in samples {
                self.past.pop_front();
                self.past.push_back(f32::from(*sample));
            }
            let sum: f32 = self.past.iter().zip(&self.filter).map(|(sample, tap)| sample * tap).sum();
            *byte = self.law.encode(to_sample(sum));
        }
        bytes
    }
}

/// Decodes to audio of 48 kHz.
pub(super) struct Decoder {
    law: Law,
    filter: Box<[f32]>,
    /// The last samples at 8 kHz, the newest last.
    past: VecDeque<f32>,
    /// What was decoded last, for what is missing after it.
    last: Vec<i16>,
}

impl Decoder {
    pub(super) fn new(law: Law) -> Self {
        Self { law, filter: filter(), past: VecDeque::from(vec![0.0; TAPS / RATIO]), last: Vec::new() }
    }

    /// Six samples for every byte; how many, or `None` if they are more than there is room for.
    pub(super) fn decode(&mut self, payload: &[u8], output: &mut [i16]) -> Option<usize> {
        let samples = payload.len() * RATIO;
        let output = output.get_mut(..samples)?;
        for (byte, samples) in payload.iter().zip(output.chunks_exact_mut(RATIO)) {
            self.past.pop_front();
            self.past.push_back(f32::from(self.law.decode(*byte)));
            for (phase, sample) in samples.iter_mut().enumerate() {
                let taps = self.filter.iter().skip(phase).step_by(RATIO);
                let sum: f32 = self.past.iter().rev().zip(taps).map(|(sample, tap)| sample * tap).sum();
                *sample = to_sample(sum * RATIO as f32);
            }
        }
        self.last.clear();
        self.last.extend_from_slice(output);
        Some(samples)
    }

    /// What is heard where nothing came: the last that did, half as loud each time.
    pub(super) fn invent(&mut self, output: &mut [i16]) {
        output.fill(0);
        self.last.iter_mut().for_each(|sample| *sample /= 2);
        if !self.last.is_empty() {
            output.iter_mut().zip(self.last.iter().cycle()).for_each(|(place, sample)| *place = *sample);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_mean_what_the_specification_says() {
        // The ends of the curves and around zero (ITU-T G.711 tables 1 and 2, scaled to 16 bits).
        let mu = [(0xFF, 0), (0x7F, 0), (0x80, 32_124), (0x00, -32_124), (0xFE, 8), (0x7E, -8), (0xF0, 120), (0xEF, 132)];
        for (byte, sample) in mu {
            assert_eq!(decode_mu(byte), sample, "{byte:#x}");
        }
        let a = [(0xD5, 8), (0x55, -8), (0xAA, 32_256), (0x2A, -32_256), (0xD4, 24), (0xC5, 264)];
        for (byte, sample) in a {
            assert_eq!(decode_a(byte), sample, "{byte:#x}");
        }
    }

    #[test]
    fn every_byte_survives_and_every_sample_finds_the_nearest() {
        for law in [Law::Mu, Law::A] {
            let all: Vec<i16> = (0..=255).map(|byte| law.decode(byte)).collect();
            for byte in 0..=255u8 {
                assert_eq!(law.decode(law.encode(law.decode(byte))), law.decode(byte), "{law:?} {byte:#x}");
            }
            for sample in (i16::MIN..=i16::MAX).step_by(7) {
                let found = law.decode(law.encode(sample));
                let error = found.abs_diff(sample);
                let best = all.iter().map(|known| known.abs_diff(sample)).min().unwrap();
                // The curves decide by ranges, which are off by a step at their ends.
                assert!(error <= best + 16 || error <= 2 * best, "{law:?} {sample}: {found}");
            }
        }
    }

    #[test]
    fn a_tone_goes_through_and_what_8_khz_cant_carry_does_not() {
        let level = |frequency: f32| {
            let sample = |index: usize| (10_000.0 * (2.0 * PI * frequency * index as f32 / SAMPLE_RATE as f32).sin()) as i16;
            let audio: Vec<i16> = (0..9_600).map(sample).collect();
            let (mut encoder, mut decoder) = (Encoder::new(Law::A), Decoder::new(Law::A));
            let mut energy = 0.0;
            for (number, frame) in audio.chunks(960).enumerate() {
                let (mut packet, mut output) = ([0; 160], [0; 960]);
                assert_eq!(encoder.encode(frame, &mut packet), 160);
                assert_eq!(decoder.decode(&packet, &mut output), Some(960));
                if number > 1 {
                    energy += output.iter().map(|sample| f32::from(*sample).powi(2)).sum::<f32>();
                }
            }
            (energy / 7_680.0).sqrt() * 2.0_f32.sqrt()
        };
        assert!((level(440.0) - 10_000.0).abs() < 300.0, "{}", level(440.0));
        assert!((level(3_000.0) - 10_000.0).abs() < 1_000.0, "{}", level(3_000.0));
        assert!(level(6_000.0) < 200.0, "{}", level(6_000.0));
    }

    #[test]
    fn what_is_missing_fades() {
        let mut decoder = Decoder::new(Law::Mu);
        let mut output = [0; 960];
        decoder.invent(&mut output);
        assert_eq!(output, [0; 960]);
        decoder.decode(&[0x80; 160], &mut output).unwrap();
        let loud = output[900];
        decoder.invent(&mut output);
        assert_eq!(output[900], loud / 2);
        assert_eq!(decoder.decode(&[0x80; 161], &mut output), None);
    }
}
