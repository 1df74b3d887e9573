use std::time::Duration;

use super::{
    super::tone::{dominant_frequency, tone, write_tone},
    *,
};

fn write(path: &Path, spec: WavSpec) {
    let mut writer = WavWriter::create(path, spec).unwrap();
    for sample in tone(440.0, Duration::from_millis(500), spec.sample_rate) {
        for _ in 0..spec.channels {
            match (spec.sample_format, spec.bits_per_sample) {
                (SampleFormat::Float, _) => writer.write_sample(f32::from(sample) / 32_768.0).unwrap(),
                (SampleFormat::Int, 8) => writer.write_sample(i32::from(sample) >> 8).unwrap(),
                (SampleFormat::Int, bits) => writer.write_sample(i32::from(sample) << (bits - 16)).unwrap(),
            }
        }
    }
    writer.finalize().unwrap();
}

fn read_all(path: &Path) -> Result<Vec<i16>, WavError> {
    let mut source = WavSource::open(path)?;
    let mut samples = Vec::new();
    while let Some(frame) = source.next_frame()? {
        samples.extend_from_slice(&frame);
    }
    Ok(samples)
}

#[test]
fn every_supported_format_plays_at_its_pitch_level_and_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tone.wav");
    let formats = [
        (SampleFormat::Int, 8),
        (SampleFormat::Int, 16),
        (SampleFormat::Int, 24),
        (SampleFormat::Int, 32),
        (SampleFormat::Float, 32),
    ];
    for sample_rate in [8_000, 11_025, 16_000, 22_050, 44_100, 48_000] {
        for channels in [1, 2] {
            for (sample_format, bits_per_sample) in formats {
                let spec = WavSpec { channels, sample_rate, bits_per_sample, sample_format };
                write(&path, spec);
                let samples = read_all(&path).unwrap();
                let found = dominant_frequency(&samples, SAMPLE_RATE).unwrap();
                assert!((found - 440.0).abs() < 1.0, "{spec:?}: {found} Hz");
                let loudest = samples.iter().copied().max().unwrap();
                assert!((15_000..=17_000).contains(&loudest), "{spec:?}: {loudest}");
                // 500 ms in whole frames of 20 ms.
                assert!((24_000..=24_960).contains(&samples.len()), "{spec:?}: {}", samples.len());
            }
        }
    }
}

#[test]
fn files_at_our_own_rate_come_through_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tone.wav");
    write_tone(&path, 440.0, Duration::from_millis(100), SAMPLE_RATE).unwrap();
    let expected: Vec<i16> = tone(440.0, Duration::from_millis(100), SAMPLE_RATE).collect();
    let samples = read_all(&path).unwrap();
    let off_by = samples.iter().zip(&expected).map(|(a, b)| (a - b).abs()).max();
    assert!(off_by <= Some(1), "{off_by:?}");
}

#[test]
fn other_formats_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tone.wav");
    let plain = WavSpec { channels: 1, sample_rate: 48_000, bits_per_sample: 16, sample_format: SampleFormat::Int };
    for spec in
        [WavSpec { channels: 3, ..plain }, WavSpec { sample_rate: 4_000, ..plain }, WavSpec { sample_rate: 96_000, ..plain }]
    {
        write(&path, spec);
        assert!(matches!(read_all(&path), Err(WavError::Unsupported { .. })), "{spec:?}");
    }
}

#[test]
fn damaged_files_are_refused_at_every_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tone.wav");
    write_tone(&path, 440.0, Duration::from_millis(5), 48_000).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = WavSource::open(&path).err().unwrap_or_else(|| panic!("{length} bytes accepted"));
        let header_is_whole = length >= 44;
        assert_eq!(matches!(error, WavError::Truncated { .. }), header_is_whole, "{length} bytes: {error}");
    }
    std::fs::write(&path, [0x55; 4_096]).unwrap();
    assert!(matches!(WavSource::open(&path), Err(WavError::Malformed { .. })));
}

#[test]
fn an_empty_file_of_sound_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.wav");
    write_tone(&path, 440.0, Duration::ZERO, 48_000).unwrap();
    assert!(read_all(&path).unwrap().is_empty());
}

#[tokio::test]
async fn a_recording_holds_every_frame_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recording.wav");
    let mut recorder = Recorder::spawn(path.clone(), false, Default::default());
    for n in 0..10 {
        recorder.push(vec![n; FRAME_SAMPLES].into_boxed_slice());
    }
    assert_eq!(recorder.finish().await.unwrap(), 10 * FRAME_SAMPLES as u64);
    let samples: Vec<i16> = WavReader::open(&path).unwrap().samples().map(Result::unwrap).collect();
    let firsts: Vec<i16> = samples.chunks(FRAME_SAMPLES).map(|frame| frame[0]).collect();
    assert_eq!(firsts, (0..10).collect::<Vec<_>>());
}
