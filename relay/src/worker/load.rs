//! Whether there is enough to do for naps to pay.

use std::time::{Duration, Instant};

/// Relayed packets of the last second from which on a worker naps: with fewer, a nap gathers no two.
pub(crate) const NAP_PACKETS_PER_SEC_MIN: u32 = 2_000;

/// The second is counted in so many parts.
const PARTS: usize = 8;
const PART: Duration = Duration::from_millis(1_000 / PARTS as u64);

/// Packets of the last second, never of more: what it says was there has been there within a second.
#[derive(Debug)]
pub(super) struct LoadMeter {
    parts: [u32; PARTS],
    current: usize,
    current_until: Instant,
    sum: u32,
}

impl LoadMeter {
    pub(super) fn new(now: Instant) -> Self {
        Self { parts: [0; PARTS], current: 0, current_until: now + PART, sum: 0 }
    }

    pub(super) fn count(&mut self, packets: u64, now: Instant) {
        self.move_on(now);
        let packets = u32::try_from(packets).unwrap_or(u32::MAX);
        self.parts[self.current] = self.parts[self.current].saturating_add(packets);
        self.sum = self.sum.saturating_add(packets);
    }

    pub(super) fn is_napping_worthwhile(&mut self, now: Instant) -> bool {
        self.move_on(now);
        self.sum >= NAP_PACKETS_PER_SEC_MIN
    }

    fn move_on(&mut self, now: Instant) {
        if now < self.current_until {
            return;
        }
        let passed = now.duration_since(self.current_until).as_nanos() / PART.as_nanos() + 1;
        for _ in 0..passed.min(PARTS as u128) {
            self.current = (self.current + 1) % PARTS;
            self.parts[self.current] = 0;
        }
        self.sum = self.parts.iter().fold(0, |sum, part| sum.saturating_add(*part));
        let parts_passed = u32::try_from(passed).unwrap_or(u32::MAX);
        // After a pause of years it begins anew.
        self.current_until = PART.checked_mul(parts_passed).map_or(now + PART, |time| self.current_until + time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets evenly at this rate; whether a nap was ever worthwhile.
    fn naps_at(per_sec: u32, seconds: u32) -> bool {
        let begun = Instant::now();
        let mut meter = LoadMeter::new(begun);
        (0..per_sec * seconds).any(|n| {
            let now = begun + Duration::from_secs(1) * n / per_sec;
            meter.count(1, now);
            meter.is_napping_worthwhile(now)
        })
    }

    #[test]
    fn below_a_thousand_packets_a_second_nobody_naps() {
        assert!(!naps_at(50, 20));
        assert!(!naps_at(999, 5));
        assert!(naps_at(3_000, 2));
        assert!(naps_at(20_000, 1));
    }

    #[test]
    fn bursts_count_as_what_they_are_in_a_second() {
        let begun = Instant::now();
        let mut meter = LoadMeter::new(begun);
        for second in 0..10 {
            let now = begun + Duration::from_secs(second);
            meter.count(999, now);
            assert!(!meter.is_napping_worthwhile(now));
        }
    }

    #[test]
    fn a_load_that_has_ended_is_forgotten_after_a_second() {
        let begun = Instant::now();
        let mut meter = LoadMeter::new(begun);
        meter.count(100_000, begun);
        assert!(meter.is_napping_worthwhile(begun + Duration::from_millis(500)));
        assert!(!meter.is_napping_worthwhile(begun + Duration::from_millis(1_001)));
        meter.count(1, begun + Duration::from_secs(1_000_000));
        assert!(!meter.is_napping_worthwhile(begun + Duration::from_secs(1_000_000)));
    }
}
