//! What this process uses, by the system's word.

use std::time::{Duration, Instant};

use halloo_bench_directory::usage::{cpu, resident_bytes};

use crate::allocator;

/// Use at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    at: Instant,
    cpu: Duration,
    live: i64,
    resident: i64,
}

/// Use between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) time: Duration,
    pub(crate) cpu: Duration,
    pub(crate) live: i64,
    pub(crate) resident: i64,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), cpu: cpu(), live: allocator::live_bytes(), resident: resident_bytes() }
    }

    pub(crate) fn used(&self) -> Used {
        let now = Self::now();
        Used {
            time: now.at - self.at,
            cpu: now.cpu.saturating_sub(self.cpu),
            live: now.live - self.live,
            resident: now.resident - self.resident,
        }
    }
}
