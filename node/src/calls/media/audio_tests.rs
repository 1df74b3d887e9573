use std::time::Duration;

use super::*;

const FRAME: u64 = FRAME_SAMPLES as u64;

#[test]
fn losses_are_counted_by_sequence_number_across_streams() {
    let mut reception = Reception::of(SAMPLE_RATE);
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
