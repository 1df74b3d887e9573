//! Wall-clock time as it travels on the wire.

use std::fmt;
use std::time::Instant;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// How far ahead of our own (corrected) clock a signed time may be, in seconds.
///
/// Phones' clocks are minutes off; a stricter bound would refuse honest devices, a wider one lets a device
/// hold back others' updates with entries from the future.
pub const CLOCK_TOLERANCE_SECS: u64 = 5 * 60;

/// Seconds since 1970-01-01T00:00:00Z, without leap seconds. On the wire: an unsigned varint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The time `secs` seconds later, saturating at the end of time.
    #[must_use]
    pub const fn plus_secs(self, secs: u64) -> Self {
        Self(self.0.saturating_add(secs))
    }

    /// The time `secs` seconds earlier, saturating at 1970.
    #[must_use]
    pub const fn minus_secs(self, secs: u64) -> Self {
        Self(self.0.saturating_sub(secs))
    }

    /// Seconds from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub const fn secs_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// True if `self` lies further ahead of `now` than [`CLOCK_TOLERANCE_SECS`].
    #[must_use]
    pub const fn is_from_the_future(self, now: Self) -> bool {
        self.0 > now.0.saturating_add(CLOCK_TOLERANCE_SECS)
    }
}

/// The two clocks a state machine is told with every input: one that never jumps, for delays, and the (corrected) wall clock, for
/// what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub instant: Instant,
    /// The wall clock, corrected by the node's estimate of its offset.
    pub unix: UnixTime,
}

/// RFC 3339 in UTC, as the JSON interface prints instants.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Days to civil date: the usual era arithmetic on a calendar that starts on 1 March of year 0.
        let days = (self.0 / 86_400).min(3_650_000_000);
        let secs = self.0 % 86_400;
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
        let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (secs / 3_600, secs % 3_600 / 60, secs % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_rfc_3339() {
        assert_eq!(UnixTime(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(UnixTime(951_782_400).to_string(), "2000-02-29T00:00:00Z");
        assert_eq!(UnixTime(1_795_635_661).to_string(), "2026-11-25T19:41:01Z");
        assert!(!UnixTime(u64::MAX).to_string().is_empty());
    }

    #[test]
    fn future_starts_after_the_tolerance() {
        let now = UnixTime(1_000);
        assert!(!now.plus_secs(CLOCK_TOLERANCE_SECS).is_from_the_future(now));
        assert!(now.plus_secs(CLOCK_TOLERANCE_SECS + 1).is_from_the_future(now));
    }
}
