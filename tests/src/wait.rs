//! Waiting for something to become true.

use std::time::{Duration, Instant};

/// Pause between two looks: short against every deadline, long enough to leave the processor to the daemons.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks again and again until `check` gives a value.
///
/// # Panics
/// When `limit` is over, with `what` and the last reason `check` gave.
#[track_caller]
pub fn eventually<T>(limit: Duration, what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        let reason = match check() {
            Ok(value) => return value,
            Err(reason) => reason,
        };
        assert!(started.elapsed() < limit, "{what}: not within {} s: {reason}", limit.as_secs_f32());
        std::thread::sleep(PAUSE);
    }
}
