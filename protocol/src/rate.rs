//! How often somebody may ask: a token bucket per key, in a bounded table.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Why a request is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateError {
    /// This key has asked too often.
    #[error("too many requests; the next one in {} s", .retry_after.as_secs())]
    Exceeded {
        /// When it may ask again.
        retry_after: Duration,
    },
    /// Every place in the table is taken by a key that asks.
    #[error("too many askers")]
    TableFull,
}

/// How fast a bucket refills and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests per hour; 0 allows none.
    pub per_hour: u32,
    /// Requests at once after a pause.
    pub burst: u32,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When the bucket will be full again: the whole state of a bucket in one number.
    full_at: Instant,
}

/// Counts requests by key. Keys whose bucket has refilled are forgotten, which loses nothing; when all places are in use, new keys are refused rather than
/// old ones forgiven.
#[derive(Clone, Debug)]
pub struct RateLimiter<K> {
    buckets: BTreeMap<K, Bucket>,
    keys_max: usize,
    swept_at: Option<Instant>,
}

/// How often a full table is swept at most: the sweep looks at every key, and a crowd of new ones mustn't make that the main work.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

impl<K: Ord + Clone> RateLimiter<K> {
    /// A table for at most `keys_max` keys.
    #[must_use]
    pub const fn new(keys_max: usize) -> Self {
        Self { buckets: BTreeMap::new(), keys_max, swept_at: None }
    }

    /// Counts one request of `key`.
    ///
    /// # Errors
    /// [`RateError`] if it is one too many; then it isn't counted.
    pub fn take(&mut self, key: &K, rate: Rate, now: Instant) -> Result<(), RateError> {
        if rate.per_hour == 0 || rate.burst == 0 {
            return Err(RateError::Exceeded { retry_after: Duration::from_secs(3_600) });
        }
        let per_token = Duration::from_secs(3_600) / rate.per_hour;
        let known = self.buckets.get(key).map(|bucket| bucket.full_at);
        if known.is_none() && self.buckets.len() >= self.keys_max && !self.forget_idle(now) {
            return Err(RateError::TableFull);
        }
        let full_at = known.map_or(now, |full_at| full_at.max(now));
        // A bucket `burst` deep that is full at `full_at` lacks `(full_at - now) / per_token` tokens.
        let allowed = now + per_token * (rate.burst - 1);
        if full_at > allowed {
            return Err(RateError::Exceeded { retry_after: full_at - allowed });
        }
        self.buckets.insert(key.clone(), Bucket { full_at: full_at + per_token });
        Ok(())
    }

    /// How many keys are counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// True if none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    fn forget_idle(&mut self, now: Instant) -> bool {
        if self.swept_at.is_some_and(|at| now < at + SWEEP_PAUSE) {
            return false;
        }
        self.swept_at = Some(now);
        self.buckets.retain(|_, bucket| bucket.full_at > now);
        self.buckets.len() < self.keys_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_hour: 60, burst: 3 };

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let mut limiter = RateLimiter::new(10);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(limiter.take(&1, RATE, start), Ok(()));
        }
        let refused = limiter.take(&1, RATE, start);
        assert_eq!(refused, Err(RateError::Exceeded { retry_after: Duration::from_secs(60) }));
        assert_eq!(limiter.take(&2, RATE, start), Ok(()), "another key has its own bucket");
        assert!(limiter.take(&1, RATE, start + Duration::from_secs(59)).is_err());
        assert_eq!(limiter.take(&1, RATE, start + Duration::from_secs(60)), Ok(()));
        assert!(limiter.take(&1, RATE, start + Duration::from_secs(60)).is_err());
        let hours = (0..3_600u64).filter(|second| limiter.take(&1, RATE, start + Duration::from_secs(60 + second)).is_ok());
        assert!(hours.count() <= 60);
    }

    #[test]
    fn the_table_is_bounded_and_forgives_nobody() {
        let mut limiter = RateLimiter::new(2);
        let start = Instant::now();
        assert_eq!(limiter.take(&1, RATE, start), Ok(()));
        assert_eq!(limiter.take(&2, RATE, start), Ok(()));
        assert_eq!(limiter.take(&3, RATE, start), Err(RateError::TableFull));
        assert_eq!(limiter.take(&3, RATE, start + Duration::from_secs(61)), Ok(()));
        assert_eq!(limiter.len(), 1);
        assert!(limiter.take(&1, Rate { per_hour: 0, burst: 1 }, start).is_err());
    }
}
