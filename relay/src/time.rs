//! Times inside the relay: nanoseconds since it began, so that a deadline is one number and a comparison one instruction.

use std::time::{Duration, Instant};

/// A point in time, in nanoseconds since the relay's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Never reached: 584 years after the beginning.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// Times before the beginning count as the beginning.
    #[inline]
    pub(crate) fn new(epoch: Instant, now: Instant) -> Self {
        let elapsed = now.saturating_duration_since(epoch);
        Self(elapsed.as_secs() * 1_000_000_000 + u64::from(elapsed.subsec_nanos()))
    }

    #[inline]
    pub(crate) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    #[inline]
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(crate) const fn nanos(self) -> u64 {
        self.0
    }

    pub(crate) fn instant(self, epoch: Instant) -> Option<Instant> {
        epoch.checked_add(Duration::from_nanos(self.0))
    }
}

/// Wall-clock time in whole seconds since 1970, for what is written into user names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The machine's clock. A clock before 1970 counts as 1970.
    #[must_use]
    pub fn now() -> Self {
        Self(std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs()))
    }
}
