//! How far this node's clock is from everybody else's.
//!
//! Every hello carries the sender's own uncorrected clock. The offset is the median over the peers heard lately; a gateway's clock
//! counts [`GATEWAY_WEIGHT`] times. Uncorrected clocks go out, so estimates can't chase each other; a median, so a minority can't move it.

use std::collections::BTreeMap;

use crate::key::DeviceKey;
use crate::time::UnixTime;

/// Most peers whose clocks are remembered; the one heard longest ago makes room.
const SAMPLES_MAX: usize = 128;

/// Fewest weighted samples before a correction is applied: one peer's word alone must not move our clock.
const WEIGHT_MIN: usize = 3;

/// How many ordinary peers a gateway's clock weighs.
const GATEWAY_WEIGHT: usize = 5;

/// Offsets up to this many seconds are noise: what a round trip and whole seconds on the wire can make.
const NOISE_SECS: u64 = 3;

/// From this offset on a person should be told.
pub const CLOCK_WARN_SECS: i64 = 60;

#[derive(Clone, Copy, Debug)]
struct Sample {
    offset_secs: i64,
    weight: usize,
    order: u64,
}

/// Collects peers' clocks and estimates our offset.
#[derive(Clone, Debug, Default)]
pub struct ClockEstimator {
    samples: BTreeMap<DeviceKey, Sample>,
    order: u64,
    /// Of these samples: asked for at every turn, changed with every hello.
    offset_secs: i64,
}

impl ClockEstimator {
    /// Knows nothing yet: the offset is zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what `peer` says the time is, at our uncorrected time `ours`. A later word of the same peer replaces the earlier.
    ///
    /// Keys cost nothing, so only peers whose chain has been verified should be heard. `is_gateway` is for gateways this node has
    /// chosen itself, never for a peer that says it is one: a gateway's word alone is enough to move the clock.
    pub fn observe(&mut self, peer: DeviceKey, theirs: UnixTime, ours: UnixTime, is_gateway: bool) {
        self.order += 1;
        let difference = i128::from(theirs.0) - i128::from(ours.0);
        let offset_secs = i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX });
        let weight = if is_gateway { GATEWAY_WEIGHT } else { 1 };
        self.samples.insert(peer, Sample { offset_secs, weight, order: self.order });
        if self.samples.len() > SAMPLES_MAX
            && let Some(oldest) = self.samples.iter().min_by_key(|(_, sample)| sample.order).map(|(peer, _)| *peer)
        {
            self.samples.remove(&oldest);
        }
        self.offset_secs = self.median();
    }

    /// Seconds to add to our clock; zero while too few were heard or the difference is noise.
    #[must_use]
    pub const fn offset_secs(&self) -> i64 {
        self.offset_secs
    }

    fn median(&self) -> i64 {
        let mut weighted: Vec<(i64, usize)> = self.samples.values().map(|s| (s.offset_secs, s.weight)).collect();
        let total: usize = weighted.iter().map(|(_, weight)| weight).sum();
        if total < WEIGHT_MIN {
            return 0;
        }
        weighted.sort_unstable();
        let mut passed = 0;
        for (offset, weight) in weighted {
            passed += weight;
            if passed * 2 > total {
                return if offset.unsigned_abs() <= NOISE_SECS { 0 } else { offset };
            }
        }
        0
    }

    /// How many peers' clocks the estimate rests on.
    #[must_use]
    pub fn sample_count(&self) -> usize {
        self.samples.len()
    }

    /// Our corrected time when the uncorrected one is `ours`.
    #[must_use]
    pub fn correct(&self, ours: UnixTime) -> UnixTime {
        UnixTime(ours.0.saturating_add_signed(self.offset_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PublicKey;

    fn peer(number: u8) -> DeviceKey {
        DeviceKey(PublicKey([number; 32]))
    }

    #[test]
    fn a_slow_clock_is_corrected_once_enough_peers_agree() {
        let mut clock = ClockEstimator::new();
        let ours = UnixTime(1_000_000);
        for number in 0..2 {
            clock.observe(peer(number), ours.plus_secs(600), ours, false);
            assert_eq!(clock.offset_secs(), 0, "two words aren't enough");
        }
        clock.observe(peer(2), ours.plus_secs(601), ours, false);
        assert_eq!(clock.offset_secs(), 600);
        assert_eq!(clock.correct(ours), ours.plus_secs(600));
    }

    #[test]
    fn a_minority_cannot_move_the_clock() {
        let mut clock = ClockEstimator::new();
        let ours = UnixTime(1_000_000);
        for number in 0..5 {
            clock.observe(peer(number), ours, ours, false);
        }
        for number in 10..14 {
            clock.observe(peer(number), UnixTime(u64::MAX), ours, false);
        }
        assert_eq!(clock.offset_secs(), 0);
        for _ in 0..100 {
            clock.observe(peer(20), UnixTime(0), ours, false);
        }
        assert_eq!(clock.offset_secs(), 0, "one peer speaking often is still one peer");
    }

    #[test]
    fn absurd_clocks_do_not_overflow() {
        for (theirs, ours) in [(0, u64::MAX), (u64::MAX, 0), (0, 1 << 63), (u64::MAX, u64::MAX)] {
            let mut clock = ClockEstimator::new();
            clock.observe(peer(1), UnixTime(theirs), UnixTime(ours), true);
            assert_eq!(clock.offset_secs().signum(), (i128::from(theirs) - i128::from(ours)).signum() as i64);
            let _ = clock.correct(UnixTime(ours));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut clock = ClockEstimator::new();
        for number in 0..=u8::MAX {
            clock.observe(peer(number), UnixTime(5), UnixTime(5), false);
        }
        assert_eq!(clock.sample_count(), SAMPLES_MAX);
    }
}
