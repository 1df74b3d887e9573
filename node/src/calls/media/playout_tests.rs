use super::{
    super::{
        audio::FrameEncoder,
        rehearsal::{Rehearsal, Rehearsed},
        tone::{dominant_frequency, tone},
    },
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

/// Plays a stream whose packet `n` arrives half a frame before tick `arrival(n)`, or never.
fn play(count: u64, ticks: u64, arrival: impl Fn(u64) -> Option<u64>) -> (Vec<i16>, Playout) {
    let mut playout = Playout::new().unwrap();
    let packets = packets(count);
    let mut played = Vec::new();
    let start = Instant::now();
    for tick in 0..ticks {
        let at = start + Duration::from_millis(10 + 20 * tick);
        for (n, packet) in (0..).zip(&packets).filter(|(n, _)| arrival(*n) == Some(tick)) {
            playout.insert(BASE + n * FRAME, Arc::clone(packet), at - Duration::from_millis(10));
        }
        played.extend_from_slice(&playout.next_frame(at));
    }
    (played, playout)
}

fn silent_frames(played: &[i16]) -> usize {
    played.chunks_exact(FRAME_SAMPLES).filter(|frame| frame.iter().all(|&sample| sample == 0)).count()
}

#[test]
fn steady_packets_play_at_once() {
    let (played, playout) = play(50, 50, Some);
    assert_eq!(silent_frames(&played[..FRAME_SAMPLES]), 0, "a clean path adds less than a frame");
    assert!((dominant_frequency(&played, SAMPLE_RATE).unwrap() - 440.0).abs() < 1.0);
    assert_eq!((playout.concealed_frames(), playout.late_packets()), (0, 0));
}

#[test]
fn reordering_is_heard_once_at_most() {
    // Each pair swapped: 1 0 3 2 5 4 ...
    let (_, playout) = play(500, 500, |n| Some(if n % 2 == 0 { n + 1 } else { n }));
    assert!(
        playout.concealed_frames() <= 2 && playout.late_packets() <= 1,
        "{} {}",
        playout.concealed_frames(),
        playout.late_packets()
    );
}

#[test]
fn a_lost_packet_is_concealed_and_the_timeline_kept() {
    let (played, playout) = play(50, 50, |n| (n != 20).then_some(n));
    assert_eq!(playout.concealed_frames(), 1);
    assert_eq!(silent_frames(&played), 0);
}

#[test]
fn a_pause_fades_to_silence_and_is_not_counted_as_loss() {
    let (played, playout) = play(80, 80, |n| (!(20..60).contains(&n)).then_some(n));
    // Those that fade, and the one just before the pause's end: the next packet may restore it.
    assert!(playout.concealed_frames() <= u64::from(CONCEALED_IN_A_ROW_MAX) + 1);
    assert!(silent_frames(&played) >= 30);
    assert!((dominant_frequency(&played[65 * FRAME_SAMPLES..], SAMPLE_RATE).unwrap() - 440.0).abs() < 2.0);
}

#[test]
fn a_stream_that_became_later_is_waited_for() {
    let (played, playout) = play(100, 120, |n| Some(if n < 50 { n } else { n + 8 }));
    assert!(playout.late_packets() <= 12, "{} late", playout.late_packets());
    assert_eq!(silent_frames(&played[72 * FRAME_SAMPLES..105 * FRAME_SAMPLES]), 0);
}

#[test]
fn a_burst_is_skipped() {
    // A second of audio at once, then in time again.
    let (_, playout) = play(100, 60, |n| Some(n.saturating_sub(50)));
    assert!(playout.packets.len() <= 20, "{}", playout.packets.len());
}

/// Minutes in virtual time: packets are delayed by up to `spread_ms`, `loss_percent` of them are lost, and the other end's clock is faster by
/// `drift_ppm`.
fn minutes(minutes: u64, spread_ms: u64, loss_percent: u64, drift_ppm: i64) -> Rehearsed {
    Rehearsal { minutes, spread_ms, loss_percent, drift_ppm }.run().unwrap()
}

/// "5% loss and 30 ms jitter: frames concealed at most loss and 1%, no growth of delay over 10 minutes". 30 ms jitter is read as 30 ms
/// to either side of the mean.
#[test]
fn loss_and_jitter_conceal_little_more_than_is_lost_and_delay_does_not_grow() {
    for drift_ppm in [0, 100, -100] {
        let run = minutes(10, 60, 5, drift_ppm);
        let concealed = run.concealed as f64 / run.frames as f64;
        eprintln!("drift {drift_ppm} ppm: {:.2}% concealed, delay by minute {:.0?} ms", concealed * 100.0, run.delays_ms);
        assert!(concealed <= 0.06, "{:.2}% concealed", concealed * 100.0);
        let later = run.delays_ms[1..].iter().copied().fold(0.0, f64::max);
        // It goes up and down by the frame that can't be divided.
        assert!(later <= run.delays_ms[0] + 20.0, "{:.0?}", run.delays_ms);
        assert!(later <= 100.0, "{:.0?}", run.delays_ms);
    }
}

/// A frame of 20 ms, Opus's own 6.5 ms and what the buffer adds: at most 60 ms on a clean path.
#[test]
fn a_clean_path_adds_little() {
    for drift_ppm in [0, 100, -100] {
        let run = minutes(3, 2, 0, drift_ppm);
        eprintln!("drift {drift_ppm} ppm: {} concealed, delay by minute {:.0?} ms", run.concealed, run.delays_ms);
        assert!(run.delays_ms.iter().all(|delay| delay + 20.0 + 6.5 <= 60.0), "{:.0?}", run.delays_ms);
        assert!(run.concealed <= 10, "{}", run.concealed);
    }
}

#[test]
fn hostile_timestamps_and_payloads_are_bounded() {
    let mut playout = Playout::new().unwrap();
    let start = Instant::now();
    let noise: Vec<u8> = (0..200u8).map(|n| n.wrapping_mul(37)).collect();
    for n in 0..2_000u64 {
        let timestamp = match n % 5 {
            0 => n,
            1 => u64::MAX - n,
            2 => 0,
            3 => n.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            _ => u64::MAX,
        };
        let at = start + Duration::from_millis(20 * n);
        playout.insert(timestamp, noise[..(n % 200) as usize].into(), at);
        assert!(playout.packets.len() <= PACKETS_MAX);
        assert_eq!(playout.next_frame(at).len(), FRAME_SAMPLES);
        assert!(playout.decoded.len() <= PACKET_SAMPLES_MAX + FRAME_SAMPLES);
    }
}
