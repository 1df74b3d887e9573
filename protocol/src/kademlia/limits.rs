//! Token buckets per peer: how much one peer may ask of us.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::key::DeviceKey;

/// Most peers with a bucket. When full, buckets that have refilled go first; if none has, strangers share one.
const PEERS_MAX: usize = 8_192;

/// Tokens a bucket holds and gains per second.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: f64,
    per_sec: f64,
}

/// Cheap questions: look-ups, leases, offers. A phone opening a contact list asks a few hundred at once.
const READS: Rate = Rate { burst: 1_000.0, per_sec: 200.0 };

/// Stores, which cost signature checks: a client publishes one record.
const CLIENT_STORES: Rate = Rate { burst: 32.0, per_sec: 4.0 };

/// Stores by directory nodes, which repair in bursts.
const SERVER_STORES: Rate = Rate { burst: 512.0, per_sec: 64.0 };

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.tokens = (self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * rate.per_sec).min(rate.burst);
        self.at = now.max(self.at);
        let is_granted = self.tokens >= 1.0;
        if is_granted {
            self.tokens -= 1.0;
        }
        is_granted
    }
}

/// What a request draws on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Draw {
    Read,
    ClientStore,
    ServerStore,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RateLimits {
    buckets: BTreeMap<(DeviceKey, Draw), Bucket>,
    strangers: BTreeMap<Draw, Bucket>,
}

impl RateLimits {
    /// True if the peer may.
    pub(super) fn take(&mut self, device: DeviceKey, draw: Draw, now: Instant) -> bool {
        let rate = match draw {
            Draw::Read => READS,
            Draw::ClientStore => CLIENT_STORES,
            Draw::ServerStore => SERVER_STORES,
        };
        let full = Bucket { tokens: rate.burst, at: now };
        if self.buckets.len() >= PEERS_MAX && !self.buckets.contains_key(&(device, draw)) {
            return self.strangers.entry(draw).or_insert(full).take(rate, now);
        }
        self.buckets.entry((device, draw)).or_insert(full).take(rate, now)
    }

    /// Forgets buckets that have surely refilled.
    pub(super) fn sweep(&mut self, now: Instant) {
        // The slowest bucket, 32 tokens at 4 a second, refills in 8 s.
        let refilled = Duration::from_secs(10);
        self.buckets.retain(|_, bucket| now.saturating_duration_since(bucket.at) < refilled);
    }
}
