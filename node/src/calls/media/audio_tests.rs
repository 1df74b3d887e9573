use std::time::Duration;

use super::{
    super::tone::{dominant_frequency, tone},
    *,
};

const FRAME: u64 = FRAME_SAMPLES as u64;
/// A stream's first timestamp is random.
const BASE: u64 = 123_456;

fn packets(count: u64) -> Vec<Arc<[u8]>> {
    let duration = Duration::from_millis(20 * count);
    let samples: Vec<i16> = tone(440.0, duration, SAMPLE_RATE).collect();
    let mut encoder = FrameEncoder::new().unwrap();
    samples.chunks_exact(FRAME_SAMPLES).map(|frame| encoder.encode(frame).unwrap().into()).collect()
}

/// Plays a stream whose packet `n` arrives just before tick `arrival(n)`, or never.
fn play(count: u64, ticks: u64, arrival: impl Fn(u64) -> Option<u64>) -> (Vec<i16>, Playout) {
    let mut playout = Playout::new().unwrap();
    let packets = packets(count);
    let mut played = Vec::new();
    for tick in 0..ticks {
        for (n, packet) in (0..).zip(&packets).filter(|(n, _)| arrival(*n) == Some(tick)) {
            playout.insert(BASE + n * FRAME, Arc::clone(packet));
        }
        played.extend_from_slice(&playout.next_frame());
    }
    (played, playout)
}

fn silent_frames(played: &[i16]) -> usize {
    played.chunks_exact(FRAME_SAMPLES).filter(|frame| frame.iter().all(|&sample| sample == 0)).count()
}

#[test]
fn steady_packets_play_after_the_target_delay() {
    let (played, playout) = play(50, 53, Some);
    assert_eq!(silent_frames(&played[..3 * FRAME_SAMPLES]), 3);
    assert_eq!(silent_frames(&played[3 * FRAME_SAMPLES..]), 0);
    assert!((dominant_frequency(&played, SAMPLE_RATE).unwrap() - 440.0).abs() < 1.0);
    assert_eq!((playout.concealed_frames(), playout.late_packets()), (0, 0));
}

#[test]
fn reordering_within_the_target_is_not_heard() {
    // Each pair swapped: 1 0 3 2 5 4 ...
    let (_, playout) = play(50, 53, |n| Some(if n % 2 == 0 { n + 1 } else { n }));
    assert_eq!((playout.concealed_frames(), playout.late_packets()), (0, 0));
}

#[test]
fn a_lost_packet_is_concealed_and_the_timeline_kept() {
    let (played, playout) = play(50, 53, |n| (n != 20).then_some(n));
    assert_eq!(playout.concealed_frames(), 1);
    assert_eq!(played.len(), 53 * FRAME_SAMPLES);
    assert_eq!(silent_frames(&played[3 * FRAME_SAMPLES..]), 0);
}

#[test]
fn a_pause_fades_to_silence_and_is_not_counted_as_loss() {
    let (played, playout) = play(80, 83, |n| (!(20..60).contains(&n)).then_some(n));
    // Those that fade, and the one just before the pause's end: the next packet may restore it.
    assert_eq!(playout.concealed_frames(), u64::from(CONCEALED_IN_A_ROW_MAX) + 1);
    assert!(silent_frames(&played) >= 30);
    assert!((dominant_frequency(&played[65 * FRAME_SAMPLES..], SAMPLE_RATE).unwrap() - 440.0).abs() < 2.0);
}

#[test]
fn a_stream_that_became_later_plays_on_after_waiting_again() {
    let (played, playout) = play(100, 120, |n| Some(if n < 50 { n } else { n + 8 }));
    assert!(playout.late_packets() <= 1, "{} late", playout.late_packets());
    assert_eq!(silent_frames(&played[65 * FRAME_SAMPLES..100 * FRAME_SAMPLES]), 0);
}

#[test]
fn a_burst_is_skipped_to_the_target_delay() {
    // A second of audio at once, then in time again.
    let (_, playout) = play(100, 60, |n| Some(n.saturating_sub(50)));
    assert!(playout.buffered_samples() <= JITTER_MAX_SAMPLES);
}

#[test]
fn hostile_timestamps_and_payloads_are_bounded() {
    let mut playout = Playout::new().unwrap();
    let noise: Vec<u8> = (0..200u8).map(|n| n.wrapping_mul(37)).collect();
    for n in 0..2_000u64 {
        let timestamp = match n % 5 {
            0 => n,
            1 => u64::MAX - n,
            2 => 0,
            3 => n.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            _ => u64::MAX,
        };
        playout.insert(timestamp, noise[..(n % 200) as usize].into());
        assert!(playout.packets.len() <= JITTER_PACKETS_MAX);
        assert_eq!(playout.next_frame().len(), FRAME_SAMPLES);
        assert!(playout.decoded.len() <= PACKET_SAMPLES_MAX);
    }
}

#[test]
fn losses_are_counted_by_sequence_number_across_streams() {
    let mut reception = Reception::default();
    let start = Instant::now();
    assert_eq!((reception.lost(), reception.loss()), (0, 0.0));
    for n in (0..100).filter(|n| n % 10 != 5) {
        reception.count(1, 1_000 + n, n * FRAME, start + Duration::from_millis(20 * n));
    }
    assert_eq!((reception.received(), reception.lost()), (90, 10));
    assert!((reception.loss() - 0.1).abs() < 1e-9);
    assert!(reception.jitter_ms() < 0.1);
    // The other end restarts: another stream, other numbers.
    for n in 0..10 {
        reception.count(2, n, n * FRAME, start + Duration::from_millis(20 * n + 5 * (n % 2)));
    }
    assert_eq!((reception.received(), reception.lost()), (100, 10));
    assert!(reception.jitter_ms() > 1.0);
}
